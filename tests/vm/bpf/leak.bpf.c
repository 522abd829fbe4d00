// SPDX-License-Identifier: MIT
/* The mistake that everybody makes once: the result of a lookup is not
 * compared with NULL. */
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 100);
	__type(key, __u64);
	__type(value, __u64);
} sizes SEC(".maps");

SEC("uprobe/libc:malloc")
int on_malloc(struct pt_regs *ctx)
{
	__u64 key = PT_REGS_PARM1(ctx);

	__u64 *n = bpf_map_lookup_elem(&sizes, &key);
	*n += 1;
	return 0;
}

char LICENSE[] SEC("license") = "MIT";
