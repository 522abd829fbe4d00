// SPDX-License-Identifier: MIT
/*
 * bpfctl stacks: how often each place was reached by each stack. A stack of which the
 * id is taken by another one goes to a second map; where that happens again, and where
 * there is no room, it is counted all the same, without the stack.
 */
#include <errno.h>
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "stacks.h"

#define STACK_TRACE(map_name, entries)               \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_STACK_TRACE); \
		__uint(max_entries, entries);        \
		__uint(key_size, 4);                 \
		__uint(value_size, STACKS_DEPTH * 8); \
	} map_name SEC(".maps")

STACK_TRACE(stacks, STACKS_MAX);
STACK_TRACE(more, STACKS_MORE_MAX);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, STACKS_MAX);
	__type(key, struct stacks_key);
	__type(value, __u64);
} counts SEC(".maps");

/* Calls that are in no element of `counts`. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

static __always_inline int count(struct stacks_key *key)
{
	__u64 *n = bpf_map_lookup_elem(&counts, key), one = 1;

	if (n) {
		(*n)++;
		return 0;
	}
	/* (another CPU's first may come in between: then it is there) */
	if (!bpf_map_update_elem(&counts, key, &one, BPF_NOEXIST))
		return 0;
	n = bpf_map_lookup_elem(&counts, key);
	if (!n)
		return -1;
	(*n)++;
	return 0;
}

SEC("uprobe")
int stacks_hit(void *ctx)
{
	struct stacks_key key = {
		.place = bpf_get_attach_cookie(ctx),
		.id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK),
	};
	__u32 zero = 0;
	__u64 *n;

	if (key.id == -EEXIST) {
		key.id = bpf_get_stackid(ctx, &more, BPF_F_USER_STACK);
		if (key.id >= 0)
			key.id |= STACKS_MORE;
	}
	if (key.id < 0)
		key.id = -1;
	if (!count(&key))
		return 0;
	n = bpf_map_lookup_elem(&lost, &zero);
	if (n)
		(*n)++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
