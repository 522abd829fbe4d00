// SPDX-License-Identifier: MIT
/* Records into ring buffers, by all ways in which programs write them. */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct event {
	__u32 pid, tid;
	__u64 seq;
	long arg;
	char comm[16];
};

const struct event *unused_event __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} small SEC(".maps");

__u64 seq, lost, avail;

/* Every third is thrown away. */
SEC("uprobe")
int BPF_KPROBE(on_call, long arg)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	__u64 id = bpf_get_current_pid_tgid();

	if (!e) {
		__sync_fetch_and_add(&lost, 1);
		return 0;
	}
	e->pid = id >> 32;
	e->tid = (__u32)id;
	e->seq = __sync_fetch_and_add(&seq, 1);
	e->arg = arg;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	if (e->seq % 3 == 2)
		bpf_ringbuf_discard(e, 0);
	else
		bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Into a ring that is soon full. */
SEC("uprobe")
int BPF_KPROBE(on_small, long arg)
{
	if (bpf_ringbuf_output(&small, &arg, sizeof(arg), 0))
		__sync_fetch_and_add(&lost, 1);
	avail = bpf_ringbuf_query(&small, BPF_RB_AVAIL_DATA);
	return 0;
}

static int pass(__u32 i, void *arg)
{
	return 0;
}

/* Most of its time goes by while its record is unfinished. */
SEC("uprobe")
int on_slow(void *ctx)
{
	__u64 *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return 0;
	bpf_loop(100000, pass, NULL, 0);
	*e = 1;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
