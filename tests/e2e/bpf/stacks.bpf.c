// SPDX-License-Identifier: MIT
/* Stacks by both helpers, of entries and returns, and how often each was seen. */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>

#define DEPTH 127

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 4096);
	__uint(key_size, 4);
	__uint(value_size, DEPTH * 8);
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct last {
	__u64 hits;
	long id, length;
	__u64 ips[DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct last);
} last SEC(".maps");

/* What the flags are answered by. */
struct answers {
	long kernel, unknown_flag, skip_all, skip_2, fast, kernel_stack, odd_size, none;
	__u64 first, third;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answers);
} answers SEC(".maps");

static __always_inline int take(void *ctx)
{
	__u32 zero = 0, key;
	struct last *l = bpf_map_lookup_elem(&last, &zero);
	__u64 one = 1, *n;
	long id;

	if (!l)
		return 0;
	id = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	l->hits++;
	l->id = id;
	l->length = bpf_get_stack(ctx, l->ips, sizeof(l->ips), BPF_F_USER_STACK);
	if (id < 0)
		return 0;
	key = id;
	n = bpf_map_lookup_elem(&seen, &key);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&seen, &key, &one, BPF_NOEXIST);
	return 0;
}

SEC("uprobe")
int on_entry(void *ctx)
{
	return take(ctx);
}

SEC("uretprobe")
int on_exit(void *ctx)
{
	return take(ctx);
}

SEC("uprobe")
int on_flags(void *ctx)
{
	__u32 zero = 0;
	struct answers *a = bpf_map_lookup_elem(&answers, &zero);
	__u64 ips[3] = {};

	if (!a)
		return 0;
	a->kernel = bpf_get_stackid(ctx, &stacks, 0);
	a->unknown_flag = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK | 1 << 13);
	a->skip_all = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK | 255);
	a->fast = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK | BPF_F_FAST_STACK_CMP | BPF_F_REUSE_STACKID);
	a->kernel_stack = bpf_get_stack(ctx, ips, sizeof(ips), 0);
	a->odd_size = bpf_get_stack(ctx, ips, 12, BPF_F_USER_STACK);
	a->none = bpf_get_stack(ctx, ips, 0, BPF_F_USER_STACK);
	bpf_get_stack(ctx, ips, sizeof(ips), BPF_F_USER_STACK);
	a->first = ips[2];
	a->skip_2 = bpf_get_stack(ctx, ips, sizeof(ips), BPF_F_USER_STACK | 2);
	a->third = ips[0];
	return 0;
}

/* Nothing else, for what must be cheap. */
SEC("uprobe")
int on_busy(void *ctx)
{
	__u32 key = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
	__u64 one = 1, *n = bpf_map_lookup_elem(&seen, &key);

	if (n)
		__sync_fetch_and_add(n, 1);
	else if ((int)key >= 0)
		bpf_map_update_elem(&seen, &key, &one, BPF_NOEXIST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
