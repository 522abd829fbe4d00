// SPDX-License-Identifier: MIT
/*
 * bpfctl count: one counter for each place, which the attach cookie numbers.
 * A per-CPU copy belongs to one run at a time, so a plain increment is exact.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* the cli sets it to the number of places */
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

SEC("uprobe")
int count(void *ctx)
{
	__u32 place = bpf_get_attach_cookie(ctx);
	__u64 *n = bpf_map_lookup_elem(&counts, &place);

	if (n)
		(*n)++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
