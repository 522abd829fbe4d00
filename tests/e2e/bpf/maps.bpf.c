// SPDX-License-Identifier: MIT
/* Every kind of map that is not an array or a hash, fed by a probe: what is put
 * in depends on the argument of the call alone, so that a test can say what is in
 * it afterwards. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct regs {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, __u64);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 4);
	__type(value, __u64);
} stack SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 1000);
	__type(value, __u64);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8);
	__type(key, __u64);
	__type(value, __u64);
} recent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 8);
	__type(key, __u64);
	__type(value, __u64);
} recent_percpu SEC(".maps");

int on_odd(struct regs *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, int(struct regs *));
} next SEC(".maps") = {
	.values = { [2] = on_odd },
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

struct results {
	__s64 full, emptied, peeked, popped, known, failed, last;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct results);
} results SEC(".maps");

/* The queue keeps the last four, the stack the first four. */
SEC("uprobe")
int on_push(struct regs *ctx)
{
	__u64 n = ctx->di;
	__u32 zero = 0;
	struct results *r = bpf_map_lookup_elem(&results, &zero);

	if (!r)
		return 0;
	r->full = bpf_map_push_elem(&stack, &n, BPF_ANY);
	bpf_map_push_elem(&queue, &n, BPF_EXIST);
	if (!bpf_map_peek_elem(&seen, &n))
		r->known++;
	bpf_map_push_elem(&seen, &n, BPF_ANY);
	return 0;
}

SEC("uprobe")
int on_pop(struct regs *ctx)
{
	__u32 zero = 0;
	struct results *r = bpf_map_lookup_elem(&results, &zero);
	__u64 a = 0, b = 0;

	if (!r)
		return 0;
	r->emptied = bpf_map_pop_elem(&queue, &a);
	r->popped = a;
	bpf_map_peek_elem(&stack, &b);
	r->peeked = b;
	return 0;
}

static void count_in(struct results *r, void *map, __u64 key)
{
	__u64 one = 1, *n = bpf_map_lookup_elem(map, &key);

	if (n)
		(*n)++;
	else if (bpf_map_update_elem(map, &key, &one, BPF_NOEXIST))
		r->failed++;
}

/* Key 0 is always in use, the others once. */
SEC("uprobe")
int on_recent(struct regs *ctx)
{
	__u32 zero = 0;
	struct results *r = bpf_map_lookup_elem(&results, &zero);

	if (!r)
		return 0;
	count_in(r, &recent, 0);
	count_in(r, &recent, ctx->di);
	count_in(r, &recent_percpu, 0);
	count_in(r, &recent_percpu, ctx->di);
	return 0;
}

static void count_run(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&runs, &which);

	if (n)
		(*n)++;
}

/* Reads nothing of ctx itself, and does not use per-CPU maps before it goes on. */
SEC("uprobe")
int on_dispatch(struct regs *ctx)
{
	__u32 zero = 0;
	struct results *r = bpf_map_lookup_elem(&results, &zero);

	bpf_tail_call(ctx, &next, 0);
	if (r)
		r->failed++;
	return 0;
}

SEC("uprobe")
int on_odd(struct regs *ctx)
{
	__u32 zero = 0;
	struct results *r = bpf_map_lookup_elem(&results, &zero);

	count_run(0);
	if (!(ctx->di & 1))
		bpf_tail_call(ctx, &next, 1);
	count_run(1);
	if (r)
		r->last = ctx->di;
	return 0;
}

/* Goes on in itself for ever, but for the limit. */
SEC("uprobe")
int on_again(struct regs *ctx)
{
	count_run(2);
	bpf_tail_call(ctx, &next, 1);
	count_run(3);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
