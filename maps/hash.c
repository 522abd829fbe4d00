/* SPDX-License-Identifier: MIT */
/*
 * HASH, PERCPU_HASH and their LRU kinds, as programs use them. Called by map.c.
 * Freestanding.
 *
 * Many processes share a map, and any of them may be stopped or killed between
 * two instructions, so nobody may ever wait for anybody: no lock. And each of
 * them may scribble over the memory, so nothing read from it is trusted: an
 * index is bounded before use, a walk has a budget.
 *
 * Chains. A bucket is a singly linked list without a lock (Harris, Michael),
 * made of links {tag, mark, index}. The tag grows at every store, so that a
 * link that reads the same twice was the same in between.
 *  - A walk goes hand over hand: from a link that was in the list it reads the
 *    element, then the link again. If it is unchanged, and not marked, the
 *    element was in the list in between, with the key, state and next link just
 *    read. Hence an element that is being reused elsewhere is never believed,
 *    and no key is seen torn. A chain ends in its bucket's number: who got
 *    elsewhere starts again.
 *  - Insert only swaps the bucket's first link, from the value it had before a
 *    walk that did not find the key. Nothing is ever inserted anywhere else, so
 *    the swap fails if anybody inserted meanwhile, and keys are unique.
 *  - Delete swaps the mark into the element's own link: that is the deletion.
 *    Then it is swapped out of the chain, by whoever comes by; the winner of
 *    that swap frees it.
 *
 * Allocation. The state {generation, owner, FREE|USED} of an element is the
 * only truth. Freeing is a swap to the next generation, so that it happens once
 * and everything that still holds the old state fails. The bitmap, the cursors
 * and `full` only say where to look. The taker clears the bit before it
 * publishes the element, the one who frees sets it afterwards: bits are wrong
 * only while somebody is between the two, and before -E2BIG all states are
 * looked at. max_entries is exact.
 *
 * Values. Up to 8 bytes lie in `val`, in place, beside the state: an update is
 * one cmpxchg16b of {val, state}, which cannot hit an element that was reused,
 * and a program's atomic add on a looked-up pointer is never lost to it: the
 * update fails and starts again with the sum. (It then overwrites the sum, as
 * it must: it is an assignment.) The element stays at its place, so an add
 * counts as long as the key lives.
 *
 * Longer values lie in value blocks; `val` is {version, block}. Each element
 * owns a block at all times, free or used, so that insert and delete need no
 * second allocation. An update writes a spare block and swaps it in by the same
 * cmpxchg16b; the old block becomes spare. As with the kernel's hash:
 *  - a lookup gives the old or the new value whole, never a mixture;
 *  - a pointer from a lookup stays readable for ever but is the key's value only
 *    until the next update or delete of that key. Its block may then serve
 *    another value (as elements of the kernel's preallocated maps do), and what
 *    is written through the old pointer is lost.
 * When all spare blocks are held by updates that are under way (64 threads
 * stopped inside one), an update of an existing key gives -EBUSY.
 *
 * Per-CPU values: a copy a slot, away from the element. Only the claimant of a
 * slot touches its copies (and the host's write), so they are plain memory. An
 * insert does not clear all copies: a copy counts only while its stamp is the
 * element's generation, and is cleared by its claimant at first use.
 *
 * LRU types. An update of a full map takes an element over instead of failing: a
 * clock. One hand, shared, goes round the elements. An element that was used
 * (looked up by a program, or updated) since the hand last passed has its byte in
 * `refs` set and is spared once; the first other one is unlinked as by a delete,
 * and its state goes from {generation, its owner, USED} to {next generation, we,
 * USED} at once, so it never shows as free. Both intents name it before that: the
 * one for unlinking counts until the state changes, the one for allocating from
 * then on. The bytes are plain stores: who loses a race over one has misjudged how
 * recently something was used. An element that is not in a chain yet is passed by.
 *
 * Lookup-and-delete (the host's, hash_host.c) marks as a delete does, with TAKE
 * beside the mark: then nobody frees the element but the taker, who first swaps
 * {val, state} from the value that it returns to a free state. An update that had
 * found the element before the mark has either got into that value or fails there.
 *
 * Death. Before an allocation and before an unlink the thread writes an intent
 * into its record. What a dead thread left is then one of a few things, and the
 * daemon finishes it (hash_host.c). Intents nest, since a signal handler with a
 * probe can interrupt an operation.
 *
 * x86-64 orders loads with loads and stores with stores; the acquire and
 * release below are for the compiler.
 */
#include <linux/bpf.h>

#include "hash_core.h"

/* What the kernel accepts (kernel/bpf/hashtab.c). */
#define HASH_FLAGS                                                                                                   \
	(BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG | \
	 BPF_F_ZERO_SEED | BPF_F_NO_COMMON_LRU)
#define KEY_AND_VALUE_MAX ((4u << 20) - 48)
#define PERCPU_VALUE_MAX (32u << 10)
#define ENTRIES_MAX (1u << 27)

/* What one eviction may pass over: a bound on what an update costs when all has
 * been used. The kernel's is the same (kernel/bpf/bpf_lru_list.c). */
#define LRU_SPARED 128u

/* A power of two, at least 2, so that hash_shift is below 64. */
static u32 bucket_bits(u32 max_entries)
{
	u32 bits = 1;

	while (1u << bits < max_entries)
		bits++;
	return bits;
}

long hash_flags_check(u32 type, u32 flags)
{
	bool own_lists = flags & BPF_F_NO_COMMON_LRU;

	if (flags & ~HASH_FLAGS || (own_lists && !type_is_lru(type)))
		return -EINVAL;
	if (type_is_lru(type) && flags & BPF_F_NO_PREALLOC)
		return -UMAP_ENOTSUPP;
	return flags & BPF_F_NUMA_NODE && (umap_is_percpu(type) || own_lists) ? -EINVAL : 0;
}

long hash_geometry(struct umap *m)
{
	bool percpu = umap_is_percpu(m->type);
	u32 bits;

	if ((u64)m->key_size + m->value_size >= KEY_AND_VALUE_MAX || m->max_entries > ENTRIES_MAX)
		return -E2BIG;
	if (percpu && m->value_size > PERCPU_VALUE_MAX)
		return -E2BIG;
	if (m->map_flags & BPF_F_NO_COMMON_LRU) /* as if each CPU had a list of its own */
		m->max_entries = (m->max_entries + m->ncpus - 1) / m->ncpus * m->ncpus;
	bits = bucket_bits(m->max_entries);
	m->nbuckets = 1u << bits;
	m->hash_shift = 64 - bits;
	m->nelems = m->max_entries;
	m->node_stride = sizeof(struct hash_elem) + (key_is_wide(m) ? ALIGN_UP(m->key_size, 16u) : 0);
	m->ctl_off = map_carve(m, sizeof(struct hash_ctl));
	m->buckets_off = map_carve(m, m->nbuckets * 8ul);
	m->elems_off = map_carve(m, (u64)m->nelems * m->node_stride);
	if (type_is_lru(m->type))
		m->refs_off = map_carve(m, m->nelems);
	m->bitmap_off = map_carve(m, (m->nelems + 63ul) / 64 * 8);
	m->elem_stride = ALIGN_UP(m->value_size, 8u);
	if (percpu) {
		m->elem_stride += sizeof(struct hash_copy);
		m->slot_stride = ALIGN_UP((u64)m->nelems * m->elem_stride, 64ul);
		m->values_off = map_carve(m, m->slot_stride * m->nslots);
	} else if (m->value_size > 8 || m->lock || !type_is_hash(m->type)) {
		if (!type_is_hash(m->type)) /* trie.c, task.c keep something behind values */
			m->elem_stride += ALIGN_UP(m->key_size - 4, 8u);
		m->nblocks = m->nelems + HASH_SPARE_BLOCKS;
		m->blocks_off = map_carve(m, m->nblocks * sizeof(struct hash_block));
		m->block_bitmap_off = map_carve(m, (m->nblocks + 63ul) / 64 * 8);
		m->values_off = map_carve(m, (u64)m->nblocks * m->elem_stride);
	}
	return 0;
}

static void format_bits(u64 *words, u32 first, u32 count)
{
	for (u32 i = first; i < count; i++)
		words[i >> 6] |= 1ull << (i & 63);
}

/* Zeros are right for everything else. */
void hash_format(const struct umap *m)
{
	struct hash_ctl *ctl = hash_ctl(m);

	format_bits((u64 *)(m->base + m->bitmap_off), 0, m->nelems);
	for (u32 i = 0; i < HASH_CURSORS; i++) {
		ctl->cursor[i].word[POOL_ELEMS] = (u64)(m->nelems + 63) / 64 * i / HASH_CURSORS;
		ctl->cursor[i].word[POOL_BLOCKS] = m->nelems / 64;
	}
	if (!m->nblocks)
		return;
	format_bits((u64 *)(m->base + m->block_bitmap_off), m->nelems, m->nblocks);
}

static force_inline u8 *lru_ref(const struct umap *m, u32 i)
{
	return (u8 *)(m->base + m->refs_off) + i;
}

/* Element I has been used. Most have been already, and then nothing is written. */
static force_inline void lru_touch(const struct umap *m, u32 i)
{
	if (!__atomic_load_n(lru_ref(m, i), __ATOMIC_RELAXED))
		__atomic_store_n(lru_ref(m, i), 1, __ATOMIC_RELAXED);
}

/* The claimed slot's copy of an element in the life that STATE shows. */
static force_inline struct hash_copy *copy_open(const struct umap *m, u32 i, u64 state, u32 slot)
{
	struct hash_copy *copy = hash_copy(m, i, slot);

	if (unlikely(load(&copy->stamp) != COPY_STAMP(state))) {
		copy_zero(copy->value, m->elem_stride - sizeof(*copy));
		store(&copy->stamp, COPY_STAMP(state));
	}
	return copy;
}

/* Where the value of element I is, whose val was VAL, in a map that is not per CPU. */
static force_inline void *shared_value_at(const struct umap *m, u32 i, u64 val)
{
	if (!m->nblocks)
		return &hash_elem(m, i)->val;
	return likely(val_block(i, val) < m->nblocks) ? hash_block_value(m, val_block(i, val)) : NULL;
}

/* The same in any map; its state was STATE. */
static force_inline void *value_at(const struct umap *m, u32 i, u64 val, u64 state, const struct umap_ctx *cx)
{
	if (unlikely(m->refs_off))
		lru_touch(m, i);
	if (umap_is_percpu(m->type))
		return likely(cx->slot < m->nslots) ? copy_open(m, i, state, cx->slot)->value : NULL;
	return shared_value_at(m, i, val);
}

static __attribute__((noinline)) void *lookup_slow(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	struct hash_op o;
	void *ret = NULL;

	op_init(&o, m, key, cx);
	while (!op_find(&o, key_is_wide(m))) {
		struct hash_elem *e = hash_elem(m, o.index);
		u64 val = load(&e->val);

		if (load(&e->state) != o.state)
			continue;
		ret = value_at(m, o.index, val, o.state, cx);
		break;
	}
	intent_end(&o);
	return ret;
}

/* What a walk met. */
struct seen {
	u32 elem;
	u64 val, state;
};
enum walked { WALK_ABSENT, WALK_FOUND, WALK_ODD };

/* The same walk as op_find(), but whatever is out of the ordinary is left to the
 * slow lookup. The state is read for those whom it concerns. */
static force_inline enum walked walk_fast(const struct umap *m, const u8 *key, u64 word, const bool wide,
					  const bool with_state, struct seen *ret)
{
	u32 bucket = key_bucket(m, word);
	u64 *prev = hash_bucket(m, bucket);
	u64 cur = load(prev);

	for (u32 n = 0; n <= m->nelems; n++) {
		struct seen seen = { .elem = link_elem(cur) };
		struct hash_elem *e;
		bool match;
		u64 next;

		if (seen.elem >= m->nelems)
			return likely((u32)cur == (LINK_END | bucket) || link_is_unused(m, bucket, prev, cur)) ?
				       WALK_ABSENT : WALK_ODD;
		e = hash_elem(m, seen.elem);
		if (with_state)
			seen.state = load(&e->state);
		next = load(&e->next);
		match = load(&e->key) == word && (!wide || key_equal(e, key, m->key_size));
		seen.val = load(&e->val);
		if (unlikely(load(prev) != cur || next & LINK_MARK))
			return WALK_ODD;
		if (match) {
			*ret = seen;
			return WALK_FOUND;
		}
		prev = &e->next;
		cur = next;
	}
	return WALK_ODD;
}

static force_inline void *lookup_fast(const struct umap *m, const u8 *key, const bool wide, const struct umap_ctx *cx)
{
	struct seen seen;

	switch (walk_fast(m, key, key_word(m, key), wide, true, &seen)) {
	case WALK_FOUND:
		return value_at(m, seen.elem, seen.val, seen.state, cx);
	case WALK_ABSENT:
		return NULL;
	case WALK_ODD:
		break;
	}
	return lookup_slow(m, key, cx);
}

/* For keys of one word: the value in the element or in a block, or the copy of SLOT. */
static force_inline void *lookup_word(const struct umap *m, const void *key, u64 word, const bool percpu, u32 slot,
				      void *arg, umap_slow_lookup *slow)
{
	struct seen seen;

	switch (walk_fast(m, key, word, false, percpu, &seen)) {
	case WALK_FOUND:
		if (percpu)
			return copy_open(m, seen.elem, seen.state, slot)->value;
		return shared_value_at(m, seen.elem, seen.val);
	case WALK_ABSENT:
		return NULL;
	case WALK_ODD:
		break;
	}
	return slow(m, key, arg);
}

void *umap_hash_lookup_4(const struct umap *m, const void *key, void *arg, umap_slow_lookup *slow)
{
	return lookup_word(m, key, *(const u32_any *)key, false, 0, arg, slow);
}

void *umap_hash_lookup_8(const struct umap *m, const void *key, void *arg, umap_slow_lookup *slow)
{
	return lookup_word(m, key, *(const u64_any *)key, false, 0, arg, slow);
}

void *umap_percpu_lookup_4(const struct umap *m, const void *key, u32 slot, void *arg, umap_slow_lookup *slow)
{
	return lookup_word(m, key, *(const u32_any *)key, true, slot, arg, slow);
}

void *umap_percpu_lookup_8(const struct umap *m, const void *key, u32 slot, void *arg, umap_slow_lookup *slow)
{
	return lookup_word(m, key, *(const u64_any *)key, true, slot, arg, slow);
}

void *hash_lookup(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	if (likely(!key_is_wide(m)))
		return lookup_fast(m, key, false, cx);
	return lookup_fast(m, key, true, cx);
}

/* What an update writes, and how. */
struct hash_put {
	const void *value;
	const void *raw; /* what is to be behind the value, key_size - 4 bytes */
	u64 flags;
	const struct umap_ctx *locked; /* what is there is changed in place, under its lock; or NULL */
	bool all;
	u32 slot;
	long elem; /* allocated for an insert, not yet published; -1 none */
	u64 elem_state;
	long block; /* allocated for a replacement, not yet published; -1 none */
	u64 block_state;
};

static force_inline u64 small_value(const struct umap *m, const void *value)
{
	u64 word = 0;

	if (likely(m->value_size == 8))
		return *(const u64_any *)value;
	if (m->value_size == 4)
		return *(const u32_any *)value;
	for (u32 i = 0; i < m->value_size; i++)
		word |= (u64)((const u8 *)value)[i] << 8 * i;
	return word;
}

static force_inline void fill_block(const struct umap *m, const struct hash_put *put, u32 block)
{
	u8 *value = hash_block_value(m, block);

	if (likely(put->value))
		value_in(m, value, put->value);
	else
		copy_zero(value, ALIGN_UP(m->value_size, 8u));
	if (unlikely(put->raw))
		copy_in(value + ALIGN_UP(m->value_size, 8u), put->raw, m->key_size - 4);
}

/* Writes the copies of an element in the life that STATE shows. */
static void put_copies(const struct umap *m, const struct hash_put *put, u32 i, u64 state)
{
	u32 user_stride = ALIGN_UP(m->value_size, 8u);

	if (!put->all) {
		struct hash_copy *copy = hash_copy(m, i, put->slot);

		copy_in(copy->value, put->value, m->value_size);
		store(&copy->stamp, COPY_STAMP(state));
		return;
	}
	for (u32 slot = 0; slot < m->nslots; slot++) {
		struct hash_copy *copy = hash_copy(m, i, slot);

		if (slot < m->ncpus) {
			copy_in(copy->value, (const u8 *)put->value + (u64)slot * user_stride, m->value_size);
			store(&copy->stamp, COPY_STAMP(state));
		} else if (load(&copy->stamp)) {
			store(&copy->stamp, 0);
		}
	}
}

/* Takes element I, which was in use as STATE says, out of its chain, and over:
 * from the unlinking on it is ours. False when it is not in a chain (its inserter
 * is not that far) or others were faster. */
static bool lru_evict(struct hash_op *o, u32 i, u64 state)
{
	struct hash_pool elems = pool_elems(o->m);
	struct hash_elem *e = hash_elem(o->m, i);
	struct hash_op v = {
		.m = o->m, .word = load(&e->key), .owner = o->owner, .budget = o->budget,
		.rec = o->rec, .intent = o->intent,
	};
	bool ours = false;

	v.bucket = key_bucket(v.m, v.word);
	/* of a long key the hash does: it only has to lead to the element, whose key may be
	 * changing until then */
	if (!op_find(&v, false) && v.index == i && v.state == state) {
		intent_alloc(o, i);
		intent_unlink(o, i, state);
		if (swap(&e->next, v.next, (v.next + LINK_TAG) | LINK_MARK)) {
			if (swap(v.prev, v.cur, link_next(v.next, v.cur)))
				ours = swap(pool_state(&elems, i), state, STATE(STATE_GEN(state) + 1, o->owner, STATE_USED));
			else
				op_find(&v, false); /* somebody is about to unlink and free it, or did */
		}
		__atomic_store_n(&o->intent->unlink, 0, __ATOMIC_RELAXED);
	}
	o->budget = v.budget;
	return ours;
}

/* An element of a map that is full. The hand passes over the elements; those that
 * were used since it came by last are spared, but not more than LRU_SPARED of
 * them. */
static long lru_turn(struct hash_op *o)
{
	const struct umap *m = o->m;
	struct hash_pool elems = pool_elems(m);
	u32 spared = 0;

	for (u64 n = 0; n < 2ul * m->nelems + HASH_RETRIES && o->budget; n++) {
		u32 i = __atomic_fetch_add(&hash_ctl(m)->hand.at, 1, __ATOMIC_RELAXED) % m->nelems;
		u64 state = load(pool_state(&elems, i));

		if (STATE_USE(state) != STATE_USED) {
			if (pool_take(&elems, i, o))
				return i;
			continue;
		}
		if (__atomic_load_n(lru_ref(m, i), __ATOMIC_RELAXED) && spared < LRU_SPARED) {
			__atomic_store_n(lru_ref(m, i), 0, __ATOMIC_RELAXED);
			spared++;
			continue;
		}
		if (lru_evict(o, i, state))
			return i;
	}
	return -1;
}

/* Free elements first: those that have their bit, since what a bit is missing for
 * is found by the hand. `full` is as in pool_rescan(). */
static long lru_alloc(struct hash_op *o)
{
	struct hash_pool elems = pool_elems(o->m);
	u64 *full = &hash_ctl(o->m)->pool[POOL_ELEMS].full;
	u64 token = (u64)o->owner << 32 | 2;

	if (!pool_is_full(&elems)) {
		long i = pool_search(&elems, o);

		if (i >= 0)
			return i;
		__atomic_store_n(full, token, __ATOMIC_SEQ_CST);
		i = pool_search(&elems, o);
		if (i >= 0) {
			store(full, 0);
			return i;
		}
		swap(full, token, FULL_KNOWN);
	}
	return lru_turn(o);
}

/* An element that nobody else has yet, filled. */
static long put_prepare(struct hash_op *o, struct hash_put *put)
{
	const struct umap *m = o->m;
	struct hash_pool elems = pool_elems(m);
	struct hash_elem *e;

	if (!intent_begin(o))
		return -EBUSY;
	put->elem = m->refs_off ? lru_alloc(o) : pool_alloc(&elems, o);
	if (put->elem < 0)
		return m->refs_off ? -ENOMEM : -E2BIG;
	if (m->refs_off)
		__atomic_store_n(lru_ref(m, put->elem), 0, __ATOMIC_RELAXED);
	e = hash_elem(m, put->elem);
	put->elem_state = load(&e->state);
	store(&e->key, o->word);
	if (key_is_wide(m))
		copy_in(elem_key(e), o->key, m->key_size);
	if (umap_is_percpu(m->type)) {
		put_copies(m, put, put->elem, put->elem_state);
	} else if (!m->nblocks) {
		store(&e->val, small_value(m, put->value));
	} else {
		u32 block = val_block(put->elem, load(&e->val));

		if (block >= m->nblocks)
			return -EBUSY;
		fill_block(m, put, block);
	}
	return 0;
}

static void put_abandon(struct hash_op *o, struct hash_put *put)
{
	struct hash_pool elems = pool_elems(o->m), blocks = pool_blocks(o->m);

	if (put->elem >= 0)
		pool_free(&elems, put->elem, put->elem_state, o->owner);
	put->elem = -1;
	if (put->block >= 0)
		pool_free(&blocks, put->block, put->block_state, o->owner);
	put->block = -1;
}

/* 0, or -EAGAIN: walk again. */
static force_inline long put_insert(struct hash_op *o, struct hash_put *put)
{
	struct hash_elem *e;
	long err;

	if (put->elem < 0) {
		put_abandon(o, put);
		err = put_prepare(o, put);
		if (err)
			return err;
	}
	e = hash_elem(o->m, put->elem);
	store(&e->next, link_next((u32)o->head ? o->head : LINK_END | o->bucket, load(&e->next)));
	if (!swap(hash_bucket(o->m, o->bucket), o->head, link_next(put->elem + 1, o->head)))
		return -EAGAIN;
	put->elem = -1;
	return 0;
}

static force_inline long put_replace_small(struct hash_op *o, struct hash_put *put)
{
	struct hash_elem *e = hash_elem(o->m, o->index);
	u64 val, new_val = small_value(o->m, put->value);

	do {
		val = load(&e->val);
		if (likely(pair_swap(e, val, o->state, new_val)))
			return 0;
	} while (load(&e->state) == o->state && o->budget && o->budget--);
	return -EAGAIN;
}

static long put_prepare_block(struct hash_op *o, struct hash_put *put)
{
	struct hash_pool blocks = pool_blocks(o->m);

	if (!intent_begin(o))
		return -EBUSY;
	put->block = pool_alloc(&blocks, o);
	if (put->block < 0)
		return -EBUSY;
	put->block_state = load(pool_state(&blocks, put->block));
	fill_block(o->m, put, put->block);
	return 0;
}

/* Swings the element to a fresh block. The element's version in `val` makes
 * sure that the old block is still in the life that we noted before. */
static long put_replace_block(struct hash_op *o, struct hash_put *put)
{
	const struct umap *m = o->m;
	struct hash_elem *e = hash_elem(m, o->index);
	struct hash_pool blocks = pool_blocks(m);
	u64 val, old_state;
	u32 old;
	long err;

	if (put->elem >= 0)
		put_abandon(o, put);
	if (put->block < 0) {
		err = put_prepare_block(o, put);
		if (err)
			return err;
	}
	store(&hash_block(m, put->block)->elem, o->index + 1ull);
	val = load(&e->val);
	old = val_block(o->index, val);
	if (old >= m->nblocks)
		return -EBUSY;
	old_state = load(pool_state(&blocks, old));
	intent_unlink(o, (u64)m->nelems + old, old_state);
	if (!pair_swap(e, val, o->state, val_next(o->index, val, put->block)))
		return -EAGAIN;
	put->block = -1;
	pool_free(&blocks, old, old_state, o->owner);
	return 0;
}

/* In place, under the lock of the value that is the element's then. */
static __attribute__((noinline)) long put_replace_locked(struct hash_op *o, const struct hash_put *put,
							   const struct umap_ctx *cx)
{
	const struct umap *m = o->m;
	struct hash_elem *e = hash_elem(m, o->index);
	u64 val = load(&e->val);
	u32 block = val_block(o->index, val);
	u8 *value = hash_block_value(m, block);
	long err = -EAGAIN;

	if (block >= m->nblocks || !umap_spin_lock(value + m->lock - 1, cx))
		return -EBUSY;
	if (load(&e->val) == val && load(&e->state) == o->state && !(load(&e->next) & LINK_MARK)) {
		value_in_place(m, value, put->value);
		err = 0;
	}
	umap_spin_unlock(value + m->lock - 1, cx);
	return err;
}

static force_inline long put_replace(struct hash_op *o, struct hash_put *put)
{
	if (unlikely(o->m->refs_off))
		lru_touch(o->m, o->index);
	if (umap_is_percpu(o->m->type)) {
		put_copies(o->m, put, o->index, o->state);
		return 0;
	}
	if (likely(!o->m->nblocks))
		return put_replace_small(o, put);
	return put_replace_block(o, put);
}

static force_inline long put_run(struct hash_op *o, struct hash_put *put, const bool wide)
{
	long err;

	do {
		err = op_find(o, wide);
		if (!err)
			err = put->flags == UMAP_NOEXIST ? -EEXIST :
			      unlikely(put->locked) ? put_replace_locked(o, put, put->locked) : put_replace(o, put);
		else if (err == -ENOENT && put->flags != UMAP_EXIST)
			err = put_insert(o, put);
	} while (unlikely(err == -EAGAIN));
	if (unlikely(put->elem >= 0 || put->block >= 0))
		put_abandon(o, put);
	intent_end(o);
	return err;
}

long hash_update(const struct umap *m, const void *key, const void *value, u64 flags, bool all,
		 const struct umap_ctx *cx)
{
	struct hash_put put = {.value = value, .flags = flags, .all = all, .slot = cx->slot, .elem = -1, .block = -1};
	struct hash_op o;

	if (unlikely(flags > UMAP_EXIST)) {
		put.flags = flags & ~(u64)UMAP_LOCK;
		if (put.flags > UMAP_EXIST || !m->lock)
			return -EINVAL;
		put.locked = cx;
	}
	if (unlikely(umap_is_percpu(m->type) && !all && cx->slot >= m->nslots))
		return -EINVAL;
	op_init(&o, m, key, cx);
	if (likely(!key_is_wide(m)))
		return put_run(&o, &put, false);
	return put_run(&o, &put, true);
}

long hash_update_raw(const struct umap *m, const void *key, const void *raw, const void *value, u64 flags,
		     const struct umap_ctx *cx)
{
	struct hash_put put = {.value = value, .raw = raw, .flags = flags, .elem = -1, .block = -1};
	struct hash_op o;

	op_init(&o, m, key, cx);
	return put_run(&o, &put, key_is_wide(m));
}

/* The mark is the deletion. The intent comes first: should we die right after
 * the mark, the daemon then takes the element out. */
static force_inline long delete_run(struct hash_op *o, const bool wide)
{
	struct hash_elem *e;
	long err;

	for (;;) {
		err = op_find(o, wide);
		if (err)
			break;
		err = -EBUSY;
		if (!intent_begin(o))
			break;
		intent_unlink(o, o->index, o->state);
		e = hash_elem(o->m, o->index);
		if (unlikely(!swap(&e->next, o->next, (o->next + LINK_TAG) | LINK_MARK)))
			continue;
		if (likely(swap(o->prev, o->cur, link_next(o->next, o->cur)))) {
			struct hash_pool elems = pool_elems(o->m);

			pool_free(&elems, o->index, o->state, o->owner);
		} else {
			op_find(o, wide);
		}
		err = 0;
		break;
	}
	intent_end(o);
	return err;
}

long hash_delete(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	struct hash_op o;

	op_init(&o, m, key, cx);
	if (likely(!key_is_wide(m)))
		return delete_run(&o, false);
	return delete_run(&o, true);
}

/* The value of element I if that is the one which KEY finds, else NULL. All such
 * walks together have one *BUDGET. */
static void *elem_value(const struct umap *m, u32 i, const void *key, u64 *budget, const struct umap_ctx *cx)
{
	struct hash_elem *e = hash_elem(m, i);
	void *ret = NULL;
	struct hash_op o;
	u64 val;

	op_init(&o, m, key, cx);
	o.budget = *budget;
	if (!op_find(&o, key_is_wide(m)) && o.index == i) {
		val = load(&e->val);
		if (load(&e->state) == o.state)
			ret = value_at(m, i, val, o.state, cx);
	}
	*budget = o.budget;
	intent_end(&o);
	return ret;
}

/* Over the elements, not the chains: these change under a visitor that deletes
 * and inserts, while an element keeps its number for as long as it is in. */
long hash_for_each(const struct umap *m, umap_visit *visit, void *arg, const struct umap_ctx *cx)
{
	u64 budget = 16ul * m->nelems + HASH_RETRIES;
	long n = 0;

	for (u32 i = 0; i < m->nelems && budget; i++) {
		struct hash_elem *e = hash_elem(m, i);
		u64 word = load(&e->key);
		const void *key = key_is_wide(m) ? (const void *)elem_key(e) : &word;
		void *value;

		if (STATE_USE(load(&e->state)) != STATE_USED)
			continue;
		value = elem_value(m, i, key, &budget, cx);
		if (!value)
			continue;
		n++;
		if (visit(arg, key, value))
			break;
	}
	return n;
}
