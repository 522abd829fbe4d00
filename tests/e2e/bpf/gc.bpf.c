// SPDX-License-Identifier: MIT
/*
 * A tracer of a JVM's garbage collections, as one would write it for libbpf: how
 * many, how many of them full, and how long the world stood still.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/usdt.bpf.h>

struct gc {
	__u64 begins, full, ends, total_ns, longest_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gc);
} collections SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} since SEC(".maps");

SEC("usdt/" LIBJVM ":hotspot:gc__begin") int BPF_USDT(gc_begin, bool full)
{
	__u32 zero = 0, tid = bpf_get_current_pid_tgid();
	struct gc *gc = bpf_map_lookup_elem(&collections, &zero);
	__u64 now = bpf_ktime_get_ns();

	if (!gc)
		return 0;
	gc->begins++;
	gc->full += full;
	bpf_map_update_elem(&since, &tid, &now, BPF_ANY);
	return 0;
}

SEC("usdt/" LIBJVM ":hotspot:gc__end") int gc_end(struct pt_regs *ctx)
{
	__u32 zero = 0, tid = bpf_get_current_pid_tgid();
	struct gc *gc = bpf_map_lookup_elem(&collections, &zero);
	__u64 *began = bpf_map_lookup_elem(&since, &tid), ns;

	if (!gc || !began)
		return 0;
	ns = bpf_ktime_get_ns() - *began;
	gc->ends++;
	gc->total_ns += ns;
	if (ns > gc->longest_ns)
		gc->longest_ns = ns;
	bpf_map_delete_elem(&since, &tid);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
