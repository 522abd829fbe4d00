// SPDX-License-Identifier: MIT
/* Return addresses by frame pointers: a chain of pointers in the target, followed
 * for a bounded number of steps, and a key made of what was found. */
#include "tool.h"

#define DEPTH 16

struct frame {
	__u64 next;
	__u64 ret;
};

struct stack {
	__u32 pid;
	__u32 depth;
	__u64 ips[DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct stack);
	__type(value, __u64);
} stacks SEC(".maps");

SEC("uprobe")
int BPF_KPROBE(walk)
{
	struct stack s = { .pid = bpf_get_current_pid_tgid() >> 32 };
	__u64 fp = PT_REGS_FP(ctx), one = 1, *count;
	struct frame f;
	int i;

	s.ips[0] = PT_REGS_IP(ctx);
	for (i = 1; i < DEPTH; i++) {
		if (!fp || fp & 7 || bpf_probe_read_user(&f, sizeof(f), (void *)fp))
			break;
		s.ips[i] = f.ret;
		if (f.next <= fp)
			break;
		fp = f.next;
	}
	s.depth = i;
	count = bpf_map_lookup_elem(&stacks, &s);
	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&stacks, &s, &one, BPF_ANY);
	return 0;
}
