// SPDX-License-Identifier: MIT
/* Counts calls and returns, keeps the arguments and the results. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct regs {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} results SEC(".maps");

struct last_call {
	__u64 args[6];
	__u64 func_ip, cookie;
	__u32 pid, tid;
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct last_call);
} last SEC(".maps");

/* Arguments as Go's ABIInternal passes them. */
struct go_args {
	__u64 args[9];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct go_args);
} go_last SEC(".maps");

__u64 total;
const volatile __u64 big = 18446744073709551615ull;
__u64 exact = 5000000000000001ull;

static void add(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&counts, &which);

	if (n)
		(*n)++;
}

SEC("uprobe")
int on_entry(struct regs *ctx)
{
	add(0);
	__sync_fetch_and_add(&total, 1);
	return 0;
}

SEC("uretprobe")
int on_exit(struct regs *ctx)
{
	__u64 key = ctx->ax, one = 1, *n;

	add(1);
	n = bpf_map_lookup_elem(&results, &key);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&results, &key, &one, BPF_NOEXIST);
	return 0;
}

SEC("uprobe")
int on_args(struct regs *ctx)
{
	__u32 zero = 0;
	struct last_call *c = bpf_map_lookup_elem(&last, &zero);
	__u64 id = bpf_get_current_pid_tgid();

	if (!c)
		return 0;
	c->args[0] = ctx->di;
	c->args[1] = ctx->si;
	c->args[2] = ctx->dx;
	c->args[3] = ctx->cx;
	c->args[4] = ctx->r8;
	c->args[5] = ctx->r9;
	c->func_ip = bpf_get_func_ip(ctx);
	c->cookie = bpf_get_attach_cookie(ctx);
	c->pid = id >> 32;
	c->tid = (__u32)id;
	bpf_get_current_comm(c->comm, sizeof(c->comm));
	bpf_printk("eight(%d, %d)", (int)ctx->di, (int)ctx->si);
	return 0;
}

SEC("uprobe")
int on_go_args(struct regs *ctx)
{
	__u32 zero = 0;
	struct go_args *c = bpf_map_lookup_elem(&go_last, &zero);

	if (c)
		*c = (struct go_args){ { ctx->ax, ctx->bx, ctx->cx, ctx->di, ctx->si, ctx->r8, ctx->r9, ctx->r10,
					 ctx->r11 } };
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
