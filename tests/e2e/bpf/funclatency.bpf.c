// SPDX-License-Identifier: MIT
/* A function's latency by powers of two, attached to whatever one likes; recursion is told apart by depth. */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define SLOTS 64
#define DEPTH 32

struct thread {
	__u32 depth;
	__u64 begun[DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} latency SEC(".maps");

__u64 deeper; /* calls that were not timed */

static __u32 log2_of(__u64 v)
{
	__u32 r = 0;

	for (int shift = 32; shift; shift >>= 1)
		if (v >> shift) {
			v >>= shift;
			r += shift;
		}
	return r;
}

SEC("uprobe")
int BPF_KPROBE(on_entry)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct thread *t = bpf_map_lookup_elem(&threads, &tid);
	static const struct thread none;

	if (!t) {
		bpf_map_update_elem(&threads, &tid, &none, BPF_NOEXIST);
		t = bpf_map_lookup_elem(&threads, &tid);
		if (!t)
			return 0;
	}
	if (t->depth < DEPTH)
		t->begun[t->depth & (DEPTH - 1)] = bpf_ktime_get_ns();
	else
		__sync_fetch_and_add(&deeper, 1);
	t->depth++;
	return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(on_return)
{
	__u32 tid = bpf_get_current_pid_tgid(), slot;
	struct thread *t = bpf_map_lookup_elem(&threads, &tid);
	__u64 *n;

	if (!t || !t->depth) /* it was in there before */
		return 0;
	t->depth--;
	if (t->depth >= DEPTH)
		return 0;
	slot = log2_of(bpf_ktime_get_ns() - t->begun[t->depth & (DEPTH - 1)]);
	n = bpf_map_lookup_elem(&latency, &slot);
	if (n)
		++*n;
	return 0;
}

char LICENSE[] SEC("license") = "MIT";
