// SPDX-License-Identifier: MIT
/* A program that believes in another layout of struct pt_regs than there is:
 * only CO-RE makes it right. */
#include <linux/bpf.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

struct pt_regs {
	unsigned long di;
	unsigned long ip;
	unsigned long ax;
	unsigned long not_there;
} __attribute__((preserve_access_index));

struct nothing_like_it {
	int x;
} __attribute__((preserve_access_index));

SEC("uprobe")
int direct(struct pt_regs *ctx)
{
	return ctx->di + ctx->ax;
}

SEC("uprobe")
int by_helper(struct pt_regs *ctx)
{
	return BPF_CORE_READ(ctx, ip);
}

SEC("uprobe")
int exists(struct pt_regs *ctx)
{
	return bpf_core_type_exists(struct nothing_like_it) * 2 + bpf_core_field_exists(ctx->di);
}

SEC("uprobe")
int missing(struct pt_regs *ctx)
{
	return ctx->not_there;
}

SEC("uprobe")
int without(struct pt_regs *ctx)
{
	if (bpf_core_field_exists(ctx->not_there))
		return ctx->not_there;
	return ctx->di;
}

char LICENSE[] SEC("license") = "MIT";
