// SPDX-License-Identifier: MIT
/* A type of map that is not served. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

SEC("uprobe")
int on_call(void *ctx)
{
	__u32 zero = 0;

	return bpf_map_delete_elem(&sockets, &zero);
}

char LICENSE[] SEC("license") = "MIT";
