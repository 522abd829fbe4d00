// SPDX-License-Identifier: MIT
/* Calls a helper that does not exist for such programs: must be refused. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

SEC("uprobe")
int unsafe(void *ctx)
{
	return bpf_skb_load_bytes(ctx, 0, ctx, 4);
}

char LICENSE[] SEC("license") = "GPL";
