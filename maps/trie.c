/* SPDX-License-Identifier: MIT */
/*
 * LPM_TRIE as programs use it. Called by map.c. Freestanding.
 *
 * A tree whose branches are made and removed by many threads, any of which may die
 * between two stores, would need somebody to wait. So there is none: prefixes are the
 * keys of a hash (hash.c), {length, bits, zeros}, and a lookup asks for the longest
 * length first, then for the next shorter one that prefixes have. There are few of
 * these, as a rule (at most 33 of IPv4). All that the hash promises holds here: updates
 * are one instruction, the dead are tidied up after, hostile memory costs values.
 *
 * Which lengths there are is a bit map that only grows: a bit is set before the first
 * prefix of its length goes in, and a bit too many costs a step. A lookup passes several
 * lengths, one after the other; so that what it gives was the longest prefix at one
 * moment, it starts again when prefixes came or went meanwhile, a few times.
 *
 * A prefix is shown as it was given, with the bits behind it (as the kernel does): they
 * lie behind its value.
 */
#include <linux/bpf.h>

#include "trie.h"

/* What the kernel accepts (kernel/bpf/lpm_trie.c). */
#define TRIE_FLAGS \
	(BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG)
#define TRIE_VALUE_MAX ((4u << 20) - TRIE_DATA_MAX - 24)
#define TRIE_RETRIES 4u

long trie_geometry(struct umap *m)
{
	if (!(m->map_flags & BPF_F_NO_PREALLOC) || m->map_flags & ~TRIE_FLAGS)
		return -EINVAL;
	if (m->key_size < 5 || m->key_size > 4 + TRIE_DATA_MAX || m->value_size > TRIE_VALUE_MAX)
		return -EINVAL;
	m->cells_off = map_carve(m, sizeof(struct trie_ctl));
	return hash_geometry(m);
}

long trie_find(const struct umap *m, struct trie_key *k, struct hash_op *o, u64 *budget, const struct umap_ctx *cx)
{
	long err = -ENOENT;

	for (s32 len = trie_length(m, (s32)k->len); len >= 0; len = trie_length(m, len - 1)) {
		trie_cut(m, k, (u32)len);
		op_init(o, m, k, cx);
		o->budget = *budget;
		err = op_find(o, key_is_wide(m));
		*budget = o->budget;
		if (err != -ENOENT)
			return err;
		intent_end(o);
	}
	return err;
}

/* The value that O has found; NULL: it has changed meanwhile. */
static void *found_value(const struct hash_op *o)
{
	struct hash_elem *e = hash_elem(o->m, o->index);
	u64 val = load(&e->val);
	u32 block = val_block(o->index, val);

	return load(&e->state) == o->state && block < o->m->nblocks ? hash_block_value(o->m, block) : NULL;
}

void *trie_lookup(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	u64 budget = m->nelems + HASH_RETRIES;
	void *value = NULL;

	for (u32 tries = 0; tries < TRIE_RETRIES; tries++) {
		u64 changes = load(&trie_ctl(m)->changes);
		struct trie_key k;
		struct hash_op o = { .intent = NULL };
		long err;

		if (!trie_plain(m, key, &k))
			return NULL;
		err = trie_find(m, &k, &o, &budget, cx);
		value = err ? NULL : found_value(&o);
		intent_end(&o);
		if (load(&trie_ctl(m)->changes) == changes && (err || value))
			break;
	}
	return value;
}

static void note_length(const struct umap *m, u32 len)
{
	u64 *word = &trie_ctl(m)->lengths[len / 64], bit = 1ull << len % 64;

	if (!(load(word) & bit))
		__sync_fetch_and_or(word, bit);
}

static void note_change(const struct umap *m)
{
	__atomic_fetch_add(&trie_ctl(m)->changes, 1, __ATOMIC_SEQ_CST);
}

long trie_update(const struct umap *m, const void *key, const void *value, u64 flags, const struct umap_ctx *cx)
{
	struct trie_key k;
	long err;

	if (flags > UMAP_EXIST || !trie_plain(m, key, &k))
		return -EINVAL;
	note_length(m, k.len);
	note_change(m);
	err = hash_update_raw(m, &k, (const u8 *)key + 4, value, flags, cx);
	note_change(m);
	return err == -E2BIG ? -ENOSPC : err;
}

long trie_delete(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	struct trie_key k;
	long err;

	if (!trie_plain(m, key, &k))
		return -EINVAL;
	note_change(m);
	err = hash_delete(m, &k, cx);
	note_change(m);
	return err;
}
