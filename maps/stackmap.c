/* SPDX-License-Identifier: MIT */
/*
 * STACK_TRACE: stacks, each once, by an id that is a part of their hash. Called
 * by map.c, umap_host.c and the helpers. Freestanding.
 *
 *	buckets   │ head 0 │ head 1 │ …                 {tag, which}: 0 empty, else a place
 *	claims    │ 0a │ 1a │ … │ 0b │ 1b │ … │ …       who is writing there, 0 nobody
 *	stacks    │ 0a │ 1a │ … │ 0b │ 1b │ … │ …       {hash, n}, n addresses
 *
 * Each bucket has four places, so that a stack is never written where one can be
 * seen: a writer claims the place that the head does not name, fills it, and swaps
 * the head, which is the one moment at which anything happens. What the head named
 * before is free from then on, because it is not named.
 *
 * A claim is a compare-and-swap from 0; after it the head is looked at again, for
 * the place may have been filled and named meanwhile. So nobody writes a place that
 * is named, and two never write the same one. The claim goes after the swap; one
 * that a dead thread has left (its intent names it) is taken away by the daemon,
 * whether the swap had come or not: what is named is whole, and what is not is free.
 *
 * A reader copies, or compares, and then looks whether the head is the same, tag
 * included: then what it has read was named all the time. Else it starts again; it
 * gives up after some tries, which only a hostile process can use up.
 *
 * The first place serves as long as nobody is stopped in the middle of a write or a
 * stack is replaced; memory of the others is not touched until then. Where all are
 * taken and in one is about to be what we have, its id is the answer; the claims say
 * so by their hash.
 */
#include <linux/bpf.h>

#include "hash_core.h"

/* What the kernel accepts (kernel/bpf/stackmap.c), but for build-ids in the place of
 * addresses. */
#define STACKMAP_FLAGS (BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY)
#define STACKMAP_ENTRIES_MAX (1u << 29)
#define STACKMAP_TRIES 64u
#define STACKMAP_PLACES UMAP_STACK_PLACES

struct stack {
	u32 hash, n;
	u64 ips[];
};

/* A head. Its tag grows at each change. */
#define HEAD_WHICH(head) ((u32)(head) & 7)
#define HEAD_AFTER(head, which) ((((head) >> 3) + 1) << 3 | (which))

/* A claim: who, and the hash of what he writes. */
#define CLAIM(owner, hash) ((u64)(hash) << 32 | ((owner) & 0xffffffu) | 1u << 31)
#define CLAIM_OWNER(claim) ((u32)(claim) & 0xffffffu)
#define CLAIM_HASH(claim) ((u32)((claim) >> 32))

long stackmap_geometry(struct umap *m)
{
	if (m->map_flags & ~STACKMAP_FLAGS || m->key_size != 4 || m->value_size < 8 || m->value_size % 8 ||
	    m->value_size / 8 > UMAP_STACK_DEPTH)
		return -EINVAL;
	if (m->max_entries > STACKMAP_ENTRIES_MAX)
		return -E2BIG;
	m->nbuckets = 1;
	while (m->nbuckets < m->max_entries)
		m->nbuckets <<= 1;
	m->elem_stride = sizeof(struct stack) + m->value_size;
	m->buckets_off = map_carve(m, m->nbuckets * 8ul);
	m->bitmap_off = map_carve(m, m->nbuckets * 8ul * STACKMAP_PLACES);
	m->data_off = map_carve(m, m->nbuckets * 1ul * STACKMAP_PLACES * m->elem_stride);
	return 0;
}

static force_inline u64 *stack_head(const struct umap *m, u32 id)
{
	return (u64 *)(m->base + m->buckets_off) + id;
}

/* Places are numbered from 1, as heads have them. */
static force_inline u64 stack_place(const struct umap *m, u32 id, u32 which)
{
	return (u64)(which - 1) * m->nbuckets + id;
}

static force_inline u64 *stack_claim(const struct umap *m, u64 place)
{
	return (u64 *)(m->base + m->bitmap_off) + place;
}

static force_inline struct stack *stack_at(const struct umap *m, u32 id, u32 which)
{
	return (struct stack *)(m->base + m->data_off + stack_place(m, id, which) * m->elem_stride);
}

static force_inline bool head_names(u64 head)
{
	return HEAD_WHICH(head) && HEAD_WHICH(head) <= STACKMAP_PLACES;
}

/* Is S, which may be changing, IPS[n]? (Each word is loaded before the head is looked
 * at again, and stored after a head that does not name it was seen.) */
static bool stack_equals(const struct stack *s, const u64 *ips, u32 n)
{
	if (load(&s->n) != n)
		return false;
	for (u32 i = 0; i < n; i++)
		if (load(&s->ips[i]) != ips[i])
			return false;
	return true;
}

/* 1: it is what the bucket has; 0: it is not; -EAGAIN: that was changing. */
static long stack_compare(const struct umap *m, u32 id, u64 head, const u64 *ips, u32 n, u32 hash, bool fast)
{
	const struct stack *s = stack_at(m, id, HEAD_WHICH(head));
	bool same = load(&s->hash) == hash && (fast || stack_equals(s, ips, n));

	return load(stack_head(m, id)) == head ? same : -EAGAIN;
}

/* Who sees any of this sees that the head names it no more. */
static void stack_fill(struct stack *s, const u64 *ips, u32 n, u32 hash)
{
	store(&s->hash, hash);
	store(&s->n, n);
	for (u32 i = 0; i < n; i++)
		store(&s->ips[i], ips[i]);
}

/* A place of bucket ID that HEAD does not name, ours from now on; 0: none. *SOON:
 * somebody is writing a stack of the same hash there. */
static u32 stack_take(struct hash_op *o, u32 id, u64 head, u32 hash, bool *soon)
{
	const struct umap *m = o->m;

	for (u32 which = 1; which <= STACKMAP_PLACES; which++) {
		u64 place = stack_place(m, id, which), *claim = stack_claim(m, place), was = 0;

		if (which == HEAD_WHICH(head))
			continue;
		intent_alloc(o, place);
		if (__atomic_compare_exchange_n(claim, &was, CLAIM(o->owner, hash), false, __ATOMIC_ACQ_REL,
						__ATOMIC_ACQUIRE)) {
			if (load(stack_head(m, id)) == head)
				return which;
			store(claim, 0);
		} else if (CLAIM_HASH(was) == hash) {
			*soon = true;
		}
	}
	return 0;
}

/* The id, -EEXIST, or -EAGAIN when the bucket has changed meanwhile. */
static long stack_try(struct hash_op *o, u32 id, const u64 *ips, u32 n, u32 hash, u64 flags)
{
	const struct umap *m = o->m;
	u64 head = load(stack_head(m, id));
	bool soon = false, done;
	u32 which;

	if (head_names(head)) {
		long same = stack_compare(m, id, head, ips, n, hash, flags & UMAP_STACK_FAST_CMP);

		if (same)
			return same > 0 ? (long)id : same;
		if (!(flags & UMAP_STACK_REUSE))
			return -EEXIST;
	}
	if (!intent_begin(o))
		return -EBUSY;
	which = stack_take(o, id, head, hash, &soon);
	if (!which)
		return soon ? (long)id : -EAGAIN;
	stack_fill(stack_at(m, id, which), ips, n, hash);
	done = __atomic_compare_exchange_n(stack_head(m, id), &head, HEAD_AFTER(head, which), false, __ATOMIC_ACQ_REL,
					   __ATOMIC_RELAXED);
	store(stack_claim(m, stack_place(m, id, which)), 0);
	return done ? (long)id : -EAGAIN;
}

long umap_stack_id(const struct umap *m, const u64 *ips, u32 n, u32 hash, u64 flags, const struct umap_ctx *cx)
{
	struct hash_op o = { .m = m, .owner = cx->owner, .rec = cx->rec };
	u32 id = hash & (m->nbuckets - 1);
	long r = -EAGAIN;

	if (!n || n > m->value_size / 8)
		return -EFAULT;
	for (u32 i = 0; r == -EAGAIN && i < STACKMAP_TRIES; i++)
		r = stack_try(&o, id, ips, n, hash, flags);
	intent_end(&o);
	return r == -EAGAIN ? -EBUSY : r;
}

/* Zeros behind the last address, as the kernel has it. With TAKE it is deleted. */
static long stack_read(const struct umap *m, u32 id, void *value, bool take)
{
	u32 depth = m->value_size / 8;

	if (id >= m->nbuckets)
		return -ENOENT;
	for (u32 i = 0; i < STACKMAP_TRIES; i++) {
		u64 head = load(stack_head(m, id));
		const struct stack *s;
		u32 n;

		if (!head_names(head))
			return -ENOENT;
		s = stack_at(m, id, HEAD_WHICH(head));
		n = load(&s->n);
		for (u32 k = 0; k < depth; k++)
			((u64_any *)value)[k] = k < n ? load(&s->ips[k]) : 0;
		if (take ? swap(stack_head(m, id), head, HEAD_AFTER(head, 0)) : load(stack_head(m, id)) == head)
			return 0;
	}
	return -EBUSY;
}

long stackmap_read(const struct umap *m, u32 id, void *value)
{
	return stack_read(m, id, value, false);
}

long stackmap_take(const struct umap *m, u32 id, void *value)
{
	return stack_read(m, id, value, true);
}

long stackmap_delete(const struct umap *m, u32 id)
{
	if (id >= m->nbuckets)
		return -E2BIG;
	for (u32 i = 0; i < STACKMAP_TRIES; i++) {
		u64 head = load(stack_head(m, id));

		if (!head_names(head))
			return -ENOENT;
		if (swap(stack_head(m, id), head, HEAD_AFTER(head, 0)))
			return 0;
	}
	return -EBUSY;
}

/* A key that is not there, or none: from the beginning. */
long stackmap_next(const struct umap *m, const u32_any *id, u32_any *next)
{
	u32 at = 0;

	if (id && *id < m->nbuckets && head_names(load(stack_head(m, *id))))
		at = *id + 1;
	for (; at < m->nbuckets; at++) {
		if (head_names(load(stack_head(m, at)))) {
			*next = at;
			return 0;
		}
	}
	return -ENOENT;
}

void stackmap_recover(const struct umap *m, const struct thread_rec *rec, u32 owner)
{
	for (u32 n = 0; n < MAP_INTENTS; n++) {
		u64 intent = load(&rec->intents[n].alloc), i = (u32)intent - 1, *claim, was;

		if (intent >> 32 != m->id || !(u32)intent || i >= (u64)STACKMAP_PLACES * m->nbuckets)
			continue;
		claim = stack_claim(m, i);
		was = load(claim);
		if (was && CLAIM_OWNER(was) == (owner & 0xffffffu))
			swap(claim, was, 0);
	}
}
