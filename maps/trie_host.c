/* SPDX-License-Identifier: MIT */
/*
 * LPM_TRIE as the daemon sees it: lookups that copy, and the order of keys. Host only.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "smallest.h"
#include "trie.h"

long trie_read(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx)
{
	long err = -EBUSY;

	for (u32 tries = 0; err == -EBUSY && tries < 8; tries++) {
		u64 budget = m->nelems + HASH_RETRIES, changes = load(&trie_ctl(m)->changes);
		struct hash_op o = { .intent = NULL };
		struct trie_key k;

		if (!trie_plain(m, key, &k))
			return -ENOENT;
		err = trie_find(m, &k, &o, &budget, cx);
		if (!err)
			err = hash_read(m, &k, value, cx);
		intent_end(&o);
		if (load(&trie_ctl(m)->changes) != changes && tries < 4)
			err = -EBUSY;
	}
	return err;
}

/* Whether the first LEN bits of A and B are the same; else *DIFF is the first that is not. */
static bool same_bits(const u8 *a, const u8 *b, u32 len, u32 *diff)
{
	for (u32 at = 0; at < len; at += 8) {
		u8 d = a[at / 8] ^ b[at / 8];

		if (!d)
			continue;
		*diff = at + (u32)__builtin_clz(d) - 24;
		if (*diff < len)
			return false;
	}
	return true;
}

/* Keys in plain form. The kernel's order is that in which one leaves the nodes of a tree: what is
 * behind a prefix before the prefix itself, 0 before 1. */
static int compare(const void *a, const void *b, void *size)
{
	u32 alen = *(const u32_any *)a, blen = *(const u32_any *)b, diff = 0;
	const u8 *data = (const u8 *)a + 4;

	(void)size;
	if (!same_bits(data, (const u8 *)b + 4, alen < blen ? alen : blen, &diff))
		return data[diff / 8] >> (7 - diff % 8) & 1 ? 1 : -1;
	return alen == blen ? 0 : alen > blen ? -1 : 1;
}

#define KEYS_AT_ONCE 4096u

/* All keys into S; those of a bucket that is being scribbled over are left out. */
static long gather(const struct umap *m, struct smallest *s)
{
	cleanup_free u8 *keys = malloc((size_t)KEYS_AT_ONCE * m->key_size);
	u64 patience = hash_patience(m);
	u32 bucket = 0;

	if (!keys)
		return -ENOMEM;
	for (;;) {
		u32 n = 0;
		long rc = hash_next_keys(m, &bucket, keys, KEYS_AT_ONCE, &n, &patience);

		for (u32 i = 0; i < n; i++) {
			struct trie_key k = {0};
			u8 *slot = smallest_slot(s);

			if (!slot)
				return -ENOMEM;
			/* hostile bytes may be a key that cannot be */
			if (!trie_plain(m, keys + (size_t)i * m->key_size, &k))
				continue;
			memcpy(slot, &k, m->key_size);
			smallest_keep(s);
		}
		if (rc == -ENOSPC)
			bucket++;
		else if (rc)
			return rc == -ENOENT ? 0 : rc;
	}
}

/* The key as it was given. PLAIN has key_size bytes. */
static void raw_key(const struct umap *m, const u8 *plain, u8 *ret)
{
	memcpy(ret, plain, m->key_size); /* if it goes at this moment */
	hash_read_raw(m, plain, ret + 4);
}

/* One pass over everything and a sort of what is wanted, not a pass for each key. */
long trie_next_keys(const struct umap *m, const void *key, u8 *keys, u32 room, u32 *ret)
{
	cleanup(smallest_deinit) struct smallest s = { .size = m->key_size, .room = room, .order = compare };
	struct trie_key after = {0};
	long err;

	if (key && trie_plain(m, key, &after))
		s.after = (const u8 *)&after;
	err = room ? gather(m, &s) : 0;
	if (err)
		return err;
	if (room)
		smallest_finish(&s);
	for (*ret = 0; *ret < s.n; ++*ret)
		raw_key(m, s.keys + (size_t)*ret * m->key_size, keys + (size_t)*ret * m->key_size);
	return *ret < room ? -ENOENT : 0;
}

long trie_next_key(const struct umap *m, const void *key, void *next_key)
{
	u32 n = 0;

	return trie_next_keys(m, key, next_key, 1, &n);
}
