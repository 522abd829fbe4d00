// SPDX-License-Identifier: MIT
/* A type of map that is not served. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

SEC("uprobe")
int on_call(void *ctx)
{
	int v = 1;

	return bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, &v, sizeof(v));
}

char LICENSE[] SEC("license") = "MIT";
