// SPDX-License-Identifier: MIT
/* Latency of a function as a histogram: filters in .rodata, a start per thread. */
#include "tool.h"

const volatile __u32 targ_tgid = 0;
const volatile int units = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, __u64);
} starts SEC(".maps");

__u32 hist[MAX_SLOTS] = {};

SEC("uprobe")
int BPF_KPROBE(function_entry)
{
	__u64 id = bpf_get_current_pid_tgid(), nsec;
	__u32 tgid = id >> 32, pid = id;

	if (targ_tgid && targ_tgid != tgid)
		return 0;
	nsec = bpf_ktime_get_ns();
	bpf_map_update_elem(&starts, &pid, &nsec, BPF_ANY);
	return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(function_return)
{
	__u64 *start, nsec = bpf_ktime_get_ns(), id = bpf_get_current_pid_tgid(), slot, delta;
	__u32 pid = id;

	start = bpf_map_lookup_elem(&starts, &pid);
	if (!start)
		return 0;
	delta = nsec - *start;
	switch (units) {
	case 1:
		delta /= 1000;
		break;
	case 2:
		delta /= 1000000;
		break;
	}
	slot = log2l(delta);
	if (slot >= MAX_SLOTS)
		slot = MAX_SLOTS - 1;
	__sync_fetch_and_add(&hist[slot], 1);
	bpf_map_delete_elem(&starts, &pid);
	return 0;
}
