// SPDX-License-Identifier: MIT
/* A type of map that is not served. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

SEC("uprobe")
int on_call(void *ctx)
{
	void *e = bpf_ringbuf_reserve(&events, 8, 0);

	if (e)
		bpf_ringbuf_discard(e, 0);
	return 0;
}

char LICENSE[] SEC("license") = "MIT";
