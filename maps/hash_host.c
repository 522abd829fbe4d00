/* SPDX-License-Identifier: MIT */
/*
 * Hash maps as the daemon sees them: reading a value whole, walking over all
 * keys, and finishing what a dead thread began. Host only. hash.c explains the
 * structure. It runs while targets go on using (or scribbling over) the map.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "hash_core.h"
#include "smallest.h"

/* The sum over the copies of cpu, cpu + ncpus, …, word by word. */
static void read_copies(const struct umap *m, u32 i, u64 state, u8 *value)
{
	u32 words = ALIGN_UP(m->value_size, 8u) / 8;

	memset(value, 0, (size_t)m->ncpus * words * 8);
	for (u32 slot = 0; slot < m->nslots; slot++) {
		struct hash_copy *copy = hash_copy(m, i, slot);
		u8 *to = value + (size_t)(slot % m->ncpus) * words * 8;

		if (load(&copy->stamp) != COPY_STAMP(state))
			continue;
		for (u32 w = 0; w < words; w++)
			((u64_any *)to)[w] += __atomic_load_n((u64 *)(void *)copy->value + w, __ATOMIC_RELAXED);
	}
}

static void read_value(const struct umap *m, u32 i, u64 val, u64 state, void *value)
{
	if (umap_is_percpu(m->type))
		read_copies(m, i, state, value);
	else if (!m->nblocks)
		memcpy(value, &val, m->value_size);
	else if (val_block(i, val) < m->nblocks)
		copy_out(value, hash_block_value(m, val_block(i, val)), m->value_size);
	value_hide_lock(m, value);
}

long hash_read_raw(const struct umap *m, const void *key, void *raw)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec};
	u8 bytes[256];
	struct hash_op o;
	long err;

	op_init(&o, m, key, &cx);
	err = op_find(&o, key_is_wide(m));
	if (!err) {
		struct hash_elem *e = hash_elem(m, o.index);
		u64 val = load(&e->val);
		u32 block = val_block(o.index, val);

		err = -ENOENT;
		if (block < m->nblocks && m->key_size - 4 <= sizeof(bytes)) {
			copy_out(bytes, (u8 *)hash_block_value(m, block) + ALIGN_UP(m->value_size, 8u), m->key_size - 4);
			if (load(&e->state) == o.state && load(&e->val) == val)
				err = 0;
		}
	}
	intent_end(&o);
	if (!err)
		memcpy(raw, bytes, m->key_size - 4);
	return err;
}

/* The value of the element that O has found, under its lock; -EAGAIN: not its value any more. */
static long read_locked(const struct hash_op *o, void *value, const struct umap_ctx *cx)
{
	const struct umap *m = o->m;
	struct hash_elem *e = hash_elem(m, o->index);
	u64 val = load(&e->val);
	u32 block = val_block(o->index, val);
	u8 *lock = (u8 *)hash_block_value(m, block) + m->lock - 1;
	bool same;

	if (block >= m->nblocks || !umap_spin_lock(lock, cx))
		return -EBUSY;
	read_value(m, o->index, val, o->state, value);
	same = load(&e->state) == o->state && load(&e->val) == val;
	umap_spin_unlock(lock, cx);
	return same ? 0 : -EAGAIN;
}

long hash_read_locked(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx)
{
	struct hash_op o;
	long err;

	op_init(&o, m, key, cx);
	do {
		err = op_find(&o, key_is_wide(m));
		if (!err)
			err = read_locked(&o, value, cx);
	} while (err == -EAGAIN);
	intent_end(&o);
	return err;
}

long hash_read(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx)
{
	struct hash_op o;
	long err;

	op_init(&o, m, key, cx);
	for (;;) {
		struct hash_elem *e;
		u64 val;

		err = op_find(&o, key_is_wide(m));
		if (err)
			break;
		e = hash_elem(m, o.index);
		val = load(&e->val);
		if (load(&e->state) != o.state)
			continue;
		read_value(m, o.index, val, o.state, value);
		/* a block is not reused while an element owns it; a small value was read at once */
		if (load(&e->state) == o.state && (!m->nblocks || load(&e->val) == val))
			break;
	}
	intent_end(&o);
	return err;
}

/* Frees the element that O has taken out of its chain, and gives the value that it
 * had at that moment. */
static long take_value(struct hash_op *o, u32 i, u64 state, void *value)
{
	const struct umap *m = o->m;
	struct hash_pool elems = pool_elems(m);
	struct hash_elem *e = hash_elem(m, i);

	while (o->budget--) {
		u64 val = load(&e->val);

		read_value(m, i, val, state, value);
		if (pair_swap_both(e, val, state, val, STATE(STATE_GEN(state) + 1, 0, STATE_FREE))) {
			pool_show_free(&elems, i);
			return 0;
		}
		if (load(&e->state) != state)
			break; /* scribbled */
	}
	return -EBUSY;
}

/* The walk that helps along what is marked needs an intent of its own beside the
 * one that names our element: it is had before anything is done. */
long hash_take(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx)
{
	struct hash_op o, help;
	long err;

	op_init(&o, m, key, cx);
	for (;;) {
		u32 i;

		err = op_find(&o, key_is_wide(m));
		if (err)
			break;
		i = o.index;
		op_init(&help, m, key, cx);
		err = -EBUSY;
		if (!intent_begin(&o) || !intent_begin(&help))
			break;
		intent_unlink(&o, i, o.state);
		if (!swap(&hash_elem(m, i)->next, o.next, (o.next + LINK_TAG) | LINK_TAKE | LINK_MARK)) {
			intent_end(&help);
			continue;
		}
		err = swap(o.prev, o.cur, link_next(o.next, o.cur)) ? 0 : op_find(&help, key_is_wide(m));
		intent_end(&help);
		if (err != -EBUSY) /* it is out of the chain */
			err = take_value(&o, i, o.state, value);
		break;
	}
	intent_end(&o);
	return err;
}

/* What a pass over all keys may cost: more than any honest one needs. */
u64 hash_patience(const struct umap *m)
{
	return 4 * ((u64)m->nelems + HASH_RETRIES);
}

static int compare_bytes(const void *a, const void *b, void *size)
{
	return memcmp(a, b, *(const u32 *)size);
}

/* The keys of BUCKET into S, by one walk, hand over hand, as op_find(): begun anew when
 * the chain has changed. 0, -EBUSY or -ENOMEM. */
static long chain_keys(struct hash_op *o, u32 bucket, struct smallest *s)
{
	const struct umap *m = o->m;

	for (;;) {
		u64 *prev = hash_bucket(m, bucket), cur = load(prev);

		smallest_reset(s);
		for (;;) {
			u32 i = link_elem(cur);
			struct hash_elem *e;
			u64 state, next, word;
			u8 *key;

			if ((u32)cur == (LINK_END | bucket) || link_is_unused(m, bucket, prev, cur))
				return 0;
			if (i >= m->nelems || !o->budget)
				return -EBUSY;
			key = smallest_slot(s);
			if (!key)
				return -ENOMEM;
			o->budget--;
			e = hash_elem(m, i);
			state = load(&e->state);
			next = load(&e->next);
			word = load(&e->key);
			if (key_is_wide(m))
				copy_out(key, elem_key(e), m->key_size);
			else
				memcpy(key, &word, m->key_size);
			if (load(prev) != cur || load(&e->state) != state)
				break;
			if (next & LINK_MARK) {
				if (!op_unlink(o, prev, cur, i, next, state))
					return -EBUSY;
				break;
			}
			if (key_bucket(m, key_word(m, key)) == bucket)
				smallest_keep(s);
			prev = &e->next;
			cur = next;
		}
	}
}

/* The same within *PATIENCE. A bucket that has been scribbled over has nothing. */
static long bucket_keys(struct hash_op *o, u32 bucket, struct smallest *s, u64 *patience)
{
	u64 budget = o->m->nelems + 1000ul;
	long err;

	budget = budget < *patience ? budget : *patience;
	o->budget = budget;
	err = chain_keys(o, bucket, s);
	*patience -= budget - o->budget;
	if (err)
		smallest_reset(s);
	else
		smallest_finish(s);
	return err == -ENOMEM ? err : 0;
}

/* In the order of buckets, and of keys within a bucket. The chain's own order
 * does not last: a key that is deleted and comes back moves to the front. This
 * order goes on where it stopped even when KEY is gone, and ends. A bucket that
 * has been scribbled over is passed by, a few times; a key that does not belong
 * into its bucket is not reported, since it would lead back. */
long hash_keys_behind(const struct umap *m, const void *key, u8 *keys, u32 room, u32 *ret)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec};
	cleanup_free u8 *none = calloc(1, m->key_size);
	cleanup(smallest_deinit) struct smallest s = { .size = m->key_size, .order = compare_bytes, .after = key };
	u64 patience = hash_patience(m);
	struct hash_op o;
	u32 bucket = 0;
	long err = none ? 0 : -ENOMEM;

	*ret = 0;
	if (err)
		return err;
	op_init(&o, m, key ? key : none, &cx);
	if (key)
		bucket = o.bucket;
	for (; !err && *ret < room && bucket < m->nbuckets && patience; bucket++) {
		s.room = room - *ret;
		err = bucket_keys(&o, bucket, &s, &patience);
		if (s.n)
			memcpy(keys + (size_t)*ret * m->key_size, s.keys, s.n * m->key_size);
		*ret += (u32)s.n;
		s.after = NULL;
	}
	intent_end(&o);
	return err ? err : *ret < room ? -ENOENT : 0;
}

long hash_next_key(const struct umap *m, const void *key, void *next_key)
{
	u32 n;

	return hash_keys_behind(m, key, next_key, 1, &n);
}

long hash_next_keys(const struct umap *m, u32 *bucket, u8 *keys, u32 room, u32 *ret, u64 *patience)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec};
	cleanup_free u8 *none = calloc(1, m->key_size);
	cleanup(smallest_deinit) struct smallest s = { .size = m->key_size, .order = compare_bytes };
	struct hash_op o;
	long err = none ? 0 : -ENOMEM;

	*ret = 0;
	if (err)
		return err;
	op_init(&o, m, none, &cx);
	for (; *bucket < m->nbuckets && *ret < room && *patience; ++*bucket) {
		s.room = room - *ret;
		err = bucket_keys(&o, *bucket, &s, patience);
		if (!err && s.more)
			err = *ret ? 1 : -ENOSPC; /* not the whole of this bucket */
		if (err)
			break;
		if (s.n)
			memcpy(keys + (size_t)*ret * m->key_size, s.keys, s.n * m->key_size);
		*ret += (u32)s.n;
	}
	intent_end(&o);
	if (err)
		return err < 0 ? err : 0;
	if (!*patience)
		*bucket = m->nbuckets;
	return *bucket < m->nbuckets ? 0 : -ENOENT;
}

/* Whether element I is in the chain of its key. Its key does not change while
 * its state does not: the only one who could write it is dead. */
static bool elem_is_linked(const struct umap *m, u32 i)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec};
	struct hash_elem *e = hash_elem(m, i);
	u64 word = load(&e->key);
	struct hash_op o = { .index = 0 };
	long err;

	op_init(&o, m, key_is_wide(m) ? elem_key(e) : (u8 *)&word, &cx);
	err = op_find(&o, key_is_wide(m));
	intent_end(&o);
	return err == -EBUSY || (!err && o.index == i);
}

/* Whether the element that block I was meant for has it. */
static bool block_is_owned(const struct umap *m, u32 i)
{
	u64 elem = block_elem(m, i);

	return elem < m->nelems && val_block(elem, load(&hash_elem(m, elem)->val)) == i;
}

/*
 * What an intent names is free (then perhaps nobody has been told), or in use
 * in the life that the dead thread meant: then it is freed unless it is part of
 * the map. That cannot change under us: an element or block that has been taken
 * out comes back in its next life only, and one that was never put in could be
 * put in only by the thread that is dead. If somebody else frees it at the same
 * time, the state decides.
 */
static void recover_one(const struct umap *m, const struct recovery *r, u64 intent, bool by_owner, u32 owner,
			u64 gone_state)
{
	const struct hash_pool *pool = &r->pools[0];
	u64 i = (intent & 0xffffffffu) - 1, state;

	if (intent >> 32 != m->id || !(u32)intent)
		return;
	if (i >= pool->count) {
		i -= pool->count;
		pool = &r->pools[1];
	}
	if (i >= pool->count)
		return;
	state = load(pool_state(pool, i));
	if (pool_is_free(pool, i, state)) {
		pool_show_free(pool, i);
		return;
	}
	if (by_owner ? STATE_OWNER(state) != owner : STATE_GEN(state) != STATE_GEN(gone_state))
		return;
	if (!r->is_part(m, pool, i))
		pool_free(pool, i, state, owner);
}

void pools_recover(const struct umap *m, const struct recovery *r, const struct thread_rec *rec, u32 owner)
{
	for (u32 n = 0; n < MAP_INTENTS; n++) {
		u64 alloc = load(&rec->intents[n].alloc);
		u64 unlink = load(&rec->intents[n].unlink);
		u64 state = load(&rec->intents[n].unlink_state);

		recover_one(m, r, unlink, false, owner, state);
		recover_one(m, r, alloc, true, owner, 0);
	}
}

static bool is_part(const struct umap *m, const struct hash_pool *p, u32 i)
{
	return p->which == POOL_ELEMS ? elem_is_linked(m, i) : block_is_owned(m, i);
}

void hash_recover(const struct umap *m, const struct thread_rec *rec, u32 owner)
{
	struct recovery r = { { pool_elems(m), pool_blocks(m) }, is_part };

	pools_recover(m, &r, rec, owner);
}
