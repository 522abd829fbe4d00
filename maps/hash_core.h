/* SPDX-License-Identifier: MIT */
/*
 * The walk, the pools and the intents of hash maps: what hash.c (programs) and
 * hash_host.c (the daemon) both do. hash.c explains why. Freestanding.
 */
#pragma once
#include <errno.h>

#include "hash_layout.h"
#include "internal.h"

/* Retries that an operation has beside one walk over everything: more than any
 * honest contention needs, and an end when somebody scribbles. */
#define HASH_RETRIES 100000u

/* One operation: the key that it is about, who does it, and where find()
 * stopped. */
struct hash_op {
	const struct umap *m;
	const u8 *key;
	u64 word; /* as in hash_elem.key */
	u32 bucket;
	u32 owner;
	u64 budget;
	struct thread_rec *rec;
	struct map_intent *intent; /* NULL until one is needed */

	u64 head;  /* the bucket's link at the start of the walk */
	u64 *prev; /* the link that holds the element … */
	u64 cur;   /* … and its value */
	u64 next, state;
	u32 index;
};

static force_inline bool key_is_wide(const struct umap *m)
{
	return m->key_size > 8;
}

#define HASH_MULTIPLIER 0x9e3779b97f4a7c15ull

static force_inline u64 mix(u64 a, u64 b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (u64)product ^ (u64)(product >> 64);
}

static inline u64 key_hash(const u8 *key, u32 size)
{
	u64 h = size, word = 0;
	u32 at = 0;

	for (; at + 16 <= size; at += 16)
		h = mix(*(const u64_any *)(key + at) ^ h ^ HASH_MULTIPLIER,
			*(const u64_any *)(key + at + 8) ^ 0xd1b54a32d192ed03ull);
	if (at + 8 <= size) {
		h = mix(*(const u64_any *)(key + at) ^ h, HASH_MULTIPLIER);
		at += 8;
	}
	for (u32 shift = 0; at < size; at++, shift += 8)
		word |= (u64)key[at] << shift;
	return mix(h ^ word, HASH_MULTIPLIER);
}

static force_inline u64 key_word(const struct umap *m, const void *key)
{
	u64 word = 0;

	if (likely(m->key_size == 4))
		return *(const u32_any *)key;
	if (likely(m->key_size == 8))
		return *(const u64_any *)key;
	if (key_is_wide(m))
		return key_hash(key, m->key_size);
	for (u32 i = 0; i < m->key_size; i++)
		word |= (u64)((const u8 *)key)[i] << 8 * i;
	return word;
}

static force_inline u32 key_bucket(const struct umap *m, u64 word)
{
	return word * HASH_MULTIPLIER >> m->hash_shift;
}

static force_inline u8 *elem_key(struct hash_elem *e)
{
	return (u8 *)(e + 1);
}

static inline bool key_equal(struct hash_elem *e, const u8 *key, u32 size)
{
	const u8 *mine = elem_key(e);
	u32 at = 0;

	for (; at + 8 <= size; at += 8)
		if (__atomic_load_n((const u64 *)(mine + at), __ATOMIC_RELAXED) != *(const u64_any *)(key + at))
			return false;
	for (; at < size; at++)
		if (__atomic_load_n(mine + at, __ATOMIC_RELAXED) != key[at])
			return false;
	return true;
}

static force_inline void op_init(struct hash_op *o, const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	o->m = m;
	o->key = key;
	o->word = key_word(m, key);
	o->bucket = key_bucket(m, o->word);
	o->owner = cx->owner;
	o->budget = (u64)m->nelems + HASH_RETRIES;
	o->rec = cx->rec;
	o->intent = NULL;
}

/* Takes the next free intent of the thread; false when signal handlers nest
 * deeper than there are intents. */
static inline bool intent_begin(struct hash_op *o)
{
	u32 depth;

	if (o->intent)
		return true;
	depth = __atomic_load_n(&o->rec->depth, __ATOMIC_RELAXED);
	if (depth >= MAP_INTENTS)
		return false;
	__atomic_store_n(&o->rec->depth, depth + 1, __ATOMIC_RELAXED);
	compiler_barrier();
	o->intent = &o->rec->intents[depth];
	return true;
}

static force_inline void intent_end(struct hash_op *o)
{
	if (!o->intent)
		return;
	compiler_barrier();
	o->intent->alloc = 0;
	o->intent->unlink = 0;
	compiler_barrier();
	__atomic_store_n(&o->rec->depth, o->intent - o->rec->intents, __ATOMIC_RELAXED);
	o->intent = NULL;
}

static force_inline void intent_alloc(struct hash_op *o, u64 what)
{
	__atomic_store_n(&o->intent->alloc, (u64)o->m->id << 32 | (what + 1), __ATOMIC_RELAXED);
	compiler_barrier();
}

/* Never shows a new state beside an old index. */
static force_inline void intent_unlink(struct hash_op *o, u64 what, u64 state)
{
	__atomic_store_n(&o->intent->unlink, 0, __ATOMIC_RELAXED);
	compiler_barrier();
	__atomic_store_n(&o->intent->unlink_state, state, __ATOMIC_RELAXED);
	compiler_barrier();
	__atomic_store_n(&o->intent->unlink, (u64)o->m->id << 32 | (what + 1), __ATOMIC_RELAXED);
	compiler_barrier();
}

/* Elements and value blocks are handed out alike. In an intent, element i is i
 * and block j is nelems + j. */
struct hash_pool {
	const struct umap *m;
	u64 bits;   /* address of the bitmap */
	u64 states; /* address of the first state … */
	u64 stride; /* … and bytes to the next */
	u32 count;
	u32 which; /* POOL_ELEMS, POOL_BLOCKS */
};

static force_inline struct hash_pool pool_elems(const struct umap *m)
{
	return (struct hash_pool){
		m, m->base + m->bitmap_off, m->base + m->elems_off + offsetof(struct hash_elem, state),
		m->node_stride, m->nelems, POOL_ELEMS,
	};
}

static force_inline struct hash_pool pool_blocks(const struct umap *m)
{
	return (struct hash_pool){
		m, m->base + m->block_bitmap_off, m->base + m->blocks_off, sizeof(struct hash_block), m->nblocks,
		POOL_BLOCKS,
	};
}

static force_inline u64 *pool_state(const struct hash_pool *p, u32 i)
{
	return (u64 *)(p->states + i * p->stride);
}

static force_inline u64 *pool_word(const struct hash_pool *p, u32 i)
{
	return (u64 *)p->bits + (i >> 6);
}

static force_inline u32 *pool_cursor(const struct hash_pool *p, u32 owner)
{
	return &hash_ctl(p->m)->cursor[owner % HASH_CURSORS].word[p->which];
}

/* Whether STATE of entry I says that it is free. */
static force_inline bool pool_is_free(const struct hash_pool *p, u32 i, u64 state)
{
	if (STATE_USE(state) != STATE_FREE)
		return false;
	return p->which != POOL_BLOCKS || STATE_GEN(state) || i >= p->m->nelems;
}

/* Says that entry I is free: its bit, and that the pool is not full. The locked
 * instruction before this (the state's swap) orders it against pool_rescan(). */
static force_inline void pool_show_free(const struct hash_pool *p, u32 i)
{
	u64 bit = 1ull << (i & 63);
	u64 *full = &hash_ctl(p->m)->pool[p->which].full;

	if (!(load(pool_word(p, i)) & bit))
		__sync_fetch_and_or(pool_word(p, i), bit);
	if (unlikely(load(full)))
		store(full, 0);
}

/* Frees entry I if it is still in the life that STATE shows. */
static force_inline void pool_free(const struct hash_pool *p, u32 i, u64 state, u32 owner)
{
	if (!swap(pool_state(p, i), state, STATE(STATE_GEN(state) + 1, 0, STATE_FREE)))
		return;
	pool_show_free(p, i);
	__atomic_store_n(pool_cursor(p, owner), i >> 6, __ATOMIC_RELAXED);
}

static force_inline bool pool_take(const struct hash_pool *p, u32 i, struct hash_op *o)
{
	u64 state = load(pool_state(p, i));

	if (!pool_is_free(p, i, state))
		return false;
	intent_alloc(o, p->which == POOL_BLOCKS ? (u64)p->m->nelems + i : i);
	if (!swap(pool_state(p, i), state, STATE(STATE_GEN(state), o->owner, STATE_USED)))
		return false;
	__sync_fetch_and_and(pool_word(p, i), ~(1ull << (i & 63)));
	return true;
}

/* Looks at every state, because a bit may be missing: its owner was stopped
 * between freeing and setting it, or somebody scribbled. What was learnt is
 * kept in `full`, so that a full map fails fast; whoever frees resets it. */
static inline long pool_rescan(const struct hash_pool *p, struct hash_op *o)
{
	u64 *full = &hash_ctl(p->m)->pool[p->which].full;
	u64 token = (u64)o->owner << 32 | 2;

	__atomic_store_n(full, token, __ATOMIC_SEQ_CST);
	for (u32 i = 0; i < p->count; i++) {
		if (pool_take(p, i, o)) {
			store(full, 0);
			return i;
		}
	}
	swap(full, token, FULL_KNOWN);
	return -1;
}

/* A free entry that has its bit, now ours and in the intent; -1 when there is
 * none. */
static inline long pool_search(const struct hash_pool *p, struct hash_op *o)
{
	u32 words = (p->count + 63) / 64;
	u32 *cursor = pool_cursor(p, o->owner);
	u32 w = __atomic_load_n(cursor, __ATOMIC_RELAXED);

	for (u32 n = 0; n < words; n++, w++) {
		if (w >= words)
			w = 0;
		for (u64 bits = load((u64 *)p->bits + w); bits; bits &= bits - 1) {
			u32 i = w * 64 + __builtin_ctzll(bits);

			if (i >= p->count || !pool_take(p, i, o))
				continue;
			if (n)
				__atomic_store_n(cursor, w, __ATOMIC_RELAXED);
			return i;
		}
	}
	return -1;
}

static inline bool pool_is_full(const struct hash_pool *p)
{
	return load(&hash_ctl(p->m)->pool[p->which].full) == FULL_KNOWN;
}

/* A free entry, now ours and in the intent; -1 when there is none. */
static inline long pool_alloc(const struct hash_pool *p, struct hash_op *o)
{
	long i;

	if (pool_is_full(p))
		return -1;
	i = pool_search(p, o);
	return i >= 0 ? i : pool_rescan(p, o);
}

/* Takes the marked element INDEX out of its chain, if nobody else does; whoever
 * succeeds frees it, unless its value is being taken out as well. */
static inline bool op_unlink(struct hash_op *o, u64 *prev, u64 cur, u32 index, u64 next, u64 state)
{
	struct hash_pool elems = pool_elems(o->m);
	bool won;

	if (unlikely(next & LINK_TAKE)) {
		swap(prev, cur, link_next(next, cur));
		return true;
	}
	if (!intent_begin(o))
		return false;
	intent_unlink(o, index, state);
	won = swap(prev, cur, link_next(next, cur));
	if (won)
		pool_free(&elems, index, state, o->owner);
	compiler_barrier();
	__atomic_store_n(&o->intent->unlink, 0, __ATOMIC_RELAXED);
	return true;
}

/* Whether CUR, read at PREV, is that of a bucket which has never had anything. */
static force_inline bool link_is_unused(const struct umap *m, u32 bucket, const u64 *prev, u64 cur)
{
	return !(u32)cur && prev == hash_bucket(m, bucket);
}

/*
 * Walks the bucket of the operation's key. 0 and prev/cur/next/state/index of
 * the element, which was in the chain, unmarked, with that key, at one moment;
 * -ENOENT when there was a moment without such an element, and then `head` is
 * what the bucket was at the start of the walk; -EBUSY when the budget is spent.
 * Marked elements on the way are unlinked.
 */
static force_inline long op_find(struct hash_op *o, const bool wide)
{
	const struct umap *m = o->m;

	for (;;) {
		u64 *prev = hash_bucket(m, o->bucket);
		u64 cur = load(prev);

		o->head = cur;
		for (;;) {
			u32 i = link_elem(cur);
			struct hash_elem *e;
			u64 state, next;
			bool match;

			if (unlikely(!o->budget))
				return -EBUSY;
			o->budget--;
			if ((u32)cur & LINK_END) {
				if ((u32)cur != (LINK_END | o->bucket))
					break;
				return -ENOENT;
			}
			if (unlikely(i >= m->nelems))
				return link_is_unused(m, o->bucket, prev, cur) ? -ENOENT : -EBUSY;
			e = hash_elem(m, i);
			state = load(&e->state);
			next = load(&e->next);
			match = load(&e->key) == o->word && (!wide || key_equal(e, o->key, m->key_size));
			if (unlikely(load(prev) != cur || load(&e->state) != state))
				break;
			if (unlikely(next & LINK_MARK)) {
				if (!op_unlink(o, prev, cur, i, next, state))
					return -EBUSY;
				break;
			}
			if (match) {
				o->prev = prev;
				o->cur = cur;
				o->next = next;
				o->state = state;
				o->index = i;
				return 0;
			}
			prev = &e->next;
			cur = next;
		}
	}
}

/* The block of element I. */
static force_inline u32 val_block(u32 i, u64 val)
{
	return (u32)val + i;
}

/* What `val` is to be when block BLOCK takes the place of that in VAL. */
static force_inline u64 val_next(u32 i, u64 val, u32 block)
{
	return ((val >> 32) + 1) << 32 | (u32)(block - i);
}

static force_inline u64 block_elem(const struct umap *m, u32 block)
{
	u64 elem = load(&hash_block(m, block)->elem);

	return elem ? elem - 1 : block;
}

/* How the daemon recovers what dead threads' intents name: the pools, numbered
 * through by intents in this order (count 0: none), and whether entry I of pool P,
 * which is in use, is part of the map. hash_host.c; host only. */
struct recovery {
	struct hash_pool pools[NPOOLS];
	bool (*is_part)(const struct umap *m, const struct hash_pool *p, u32 i);
};
void pools_recover(const struct umap *m, const struct recovery *r, const struct thread_rec *rec, u32 owner);
