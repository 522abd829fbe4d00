/* SPDX-License-Identifier: MIT */
/* Counts entries and exits, for test_daemon.c. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static __always_inline int count(__u32 key)
{
	__u64 *v = bpf_map_lookup_elem(&counts, &key);

	if (v)
		__sync_fetch_and_add(v, 1);
	return 0;
}

SEC("uprobe") int on_entry(void *ctx)
{
	return count(0);
}

SEC("uretprobe") int on_exit(void *ctx)
{
	return count(1);
}

char _license[] SEC("license") = "GPL";
