// SPDX-License-Identifier: MIT
/* Sections under a lock, taken in all the places where a program may take one. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct locked {
	__u32 before;
	struct bpf_spin_lock lock;
	__u64 a, b; /* equal outside of sections */
};

struct small {
	struct bpf_spin_lock lock;
	__u32 n;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct locked);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct locked);
} entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct small);
} tiny SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} runs SEC(".maps");

struct bpf_spin_lock global_lock SEC(".data.locks");
__u64 guarded SEC(".data.locks");

struct ctx {
	__u32 key, unused;
	__u64 n;
};

struct bpf_map;

static __always_inline void add(struct locked *v, __u64 n)
{
	bpf_spin_lock(&v->lock);
	v->a += n;
	v->b += n;
	bpf_spin_unlock(&v->lock);
}

SEC("t/plain")
int plain(struct ctx *ctx)
{
	__u32 key = ctx->key;
	struct locked *v = bpf_map_lookup_elem(&table, &key);

	if (!v)
		return 1;
	add(v, ctx->n);
	return 2;
}

SEC("t/hash")
int hash(struct ctx *ctx)
{
	__u32 key = ctx->key;
	struct locked *v = bpf_map_lookup_elem(&entries, &key);

	if (!v)
		return 1;
	add(v, ctx->n);
	return 2;
}

static __noinline int deeper(struct locked *v, __u64 n, __u64 x)
{
	if (!v)
		return 0;
	add(v, n);
	return (int)(x * 7);
}

SEC("t/function")
int function(struct ctx *ctx)
{
	__u64 x = ctx->n, y = x + 1, z = x + 2;
	__u32 key = ctx->key;

	int r = deeper(bpf_map_lookup_elem(&table, &key), ctx->n, x);

	return r == x * 7 && y == x + 1 && z == x + 2 ? 2 : 3;
}

struct pass {
	struct ctx *ctx;
	__u64 n;
	__u32 key;
};

static long each_pass(__u32 i, struct pass *p)
{
	struct locked *v = bpf_map_lookup_elem(&table, &p->key);

	if (!v)
		return 1;
	add(v, p->n);
	return 0;
}

SEC("t/loop")
int loop(struct ctx *ctx)
{
	struct pass p = { .n = ctx->n, .key = ctx->key };

	bpf_loop(3, each_pass, &p, 0);
	return 2;
}

static long each_entry(struct bpf_map *map, __u32 *key, struct locked *v, struct pass *p)
{
	add(v, p->n);
	return 0;
}

SEC("t/each")
int each(struct ctx *ctx)
{
	struct pass p = { .n = ctx->n };

	bpf_for_each_map_elem(&entries, each_entry, &p, 0);
	return 2;
}

/* Has a per-CPU slot in hand. */
SEC("t/slot")
int slot(struct ctx *ctx)
{
	__u32 key = ctx->key, zero = 0;
	__u64 *n = bpf_map_lookup_elem(&runs, &zero);
	struct locked *v = bpf_map_lookup_elem(&table, &key);

	if (!v || !n)
		return 1;
	*n += 1;
	add(v, ctx->n);
	*n += 1000;
	return 2;
}

SEC("t/global")
int global(struct ctx *ctx)
{
	bpf_spin_lock(&global_lock);
	guarded += ctx->n;
	bpf_spin_unlock(&global_lock);
	return 2;
}

SEC("t/small")
int small(struct ctx *ctx)
{
	__u32 key = ctx->key;
	struct small *v = bpf_map_lookup_elem(&tiny, &key);

	if (!v)
		return 1;
	bpf_spin_lock(&v->lock);
	v->n++;
	bpf_spin_unlock(&v->lock);
	return 2;
}

SEC("t/update")
int update(struct ctx *ctx)
{
	struct locked v = { .before = 9, .a = ctx->n, .b = ctx->n };
	__u32 key = ctx->key;
	long in_table = bpf_map_update_elem(&table, &key, &v, BPF_F_LOCK);
	long in_hash = bpf_map_update_elem(&entries, &key, &v, BPF_F_LOCK);

	return (int)(in_table * 1000 + in_hash);
}

char _license[] SEC("license") = "GPL";
