/* SPDX-License-Identifier: MIT */
/*
 * LPM_TRIE as the daemon sees it: lookups that copy, and the order of keys. Host only.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "trie.h"

static void cleanup_bytesp(u8 **p)
{
	free(*p);
}

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
static bool same_bits(const struct trie_key *a, const struct trie_key *b, u32 len, u32 *diff)
{
	for (u32 at = 0; at < len; at += 8) {
		u8 d = a->data[at / 8] ^ b->data[at / 8];

		if (!d)
			continue;
		*diff = at + (u32)__builtin_clz(d) - 24;
		if (*diff < len)
			return false;
	}
	return true;
}

/* The kernel's order is that in which one leaves the nodes of a tree: what is behind a prefix
 * before the prefix itself, 0 before 1. */
static int compare(const void *x, const void *y)
{
	const struct trie_key *a = x, *b = y;
	u32 len = a->len < b->len ? a->len : b->len, diff = 0;

	if (!same_bits(a, b, len, &diff))
		return a->data[diff / 8] >> (7 - diff % 8) & 1 ? 1 : -1;
	return a->len == b->len ? 0 : a->len > b->len ? -1 : 1;
}

#define KEYS_AT_ONCE 4096u

/* Calls VISIT for all keys, in no order; those of a bucket that is being scribbled over are left out. */
static long visit_keys(const struct umap *m, bool (*visit)(void *arg, const struct trie_key *k), void *arg)
{
	cleanup(cleanup_bytesp) u8 *keys = malloc((size_t)KEYS_AT_ONCE * m->key_size);
	u64 patience = hash_patience(m);
	u32 bucket = 0;

	if (!keys)
		return -ENOMEM;
	for (;;) {
		u32 n = 0;
		long rc = hash_next_keys(m, &bucket, keys, KEYS_AT_ONCE, &n, &patience);

		for (u32 i = 0; i < n; i++) {
			struct trie_key k = {0};

			/* hostile bytes may be a key that cannot be */
			if (trie_plain(m, keys + (size_t)i * m->key_size, &k) && !visit(arg, &k))
				return -ENOMEM;
		}
		if (rc == -ENOSPC)
			bucket++;
		else if (rc)
			return rc == -ENOENT ? 0 : rc;
	}
}

/* The key as it was given. */
static void raw_key(const struct umap *m, const struct trie_key *k, u8 *ret)
{
	*(u32_any *)ret = k->len;
	memcpy(ret + 4, k->data, trie_data_size(m)); /* if it goes at this moment */
	hash_read_raw(m, k, ret + 4);
}

struct smallest {
	const struct trie_key *after; /* or NULL */
	struct trie_key key;
	bool found;
};

static bool take_smaller(void *arg, const struct trie_key *k)
{
	struct smallest *s = arg;

	if ((!s->after || compare(k, s->after) > 0) && (!s->found || compare(k, &s->key) < 0)) {
		s->key = *k;
		s->found = true;
	}
	return true;
}

long trie_next_key(const struct umap *m, const void *key, void *next_key)
{
	struct smallest s = {0};
	struct trie_key after = {0};
	long err;

	if (key && trie_plain(m, key, &after))
		s.after = &after;
	err = visit_keys(m, take_smaller, &s);
	if (err)
		return err;
	if (!s.found)
		return -ENOENT;
	raw_key(m, &s.key, next_key);
	return 0;
}

struct sorted {
	struct trie_key *keys;
	size_t n, cap;
	const struct trie_key *after;
};

static void sorted_deinit(struct sorted *s)
{
	free(s->keys);
}

static bool take_behind(void *arg, const struct trie_key *k)
{
	struct sorted *s = arg;

	if (s->after && compare(k, s->after) <= 0)
		return true;
	if (s->n == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 64;
		struct trie_key *keys = realloc(s->keys, cap * sizeof(*keys));

		if (!keys)
			return false;
		s->keys = keys;
		s->cap = cap;
	}
	s->keys[s->n++] = *k;
	return true;
}

/* One pass over everything and a sort, not a pass for each key. */
long trie_next_keys(const struct umap *m, const void *key, u8 *keys, u32 room, u32 *ret)
{
	cleanup(sorted_deinit) struct sorted s = {0};
	struct trie_key after = {0};
	long err;

	if (key && trie_plain(m, key, &after))
		s.after = &after;
	err = visit_keys(m, take_behind, &s);
	if (err)
		return err;
	if (s.n)
		qsort(s.keys, s.n, sizeof(*s.keys), compare);
	for (*ret = 0; *ret < room && *ret < s.n; ++*ret)
		raw_key(m, &s.keys[*ret], keys + (size_t)*ret * m->key_size);
	return *ret < room ? -ENOENT : 0;
}
