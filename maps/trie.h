/* SPDX-License-Identifier: MIT */
/*
 * LPM_TRIE: what trie.c (programs) and trie_host.c (the daemon) share; trie.c
 * explains it. Freestanding.
 *
 *   as a hash with values in blocks (hash_layout.h), keys in their plain form; behind
 *   each value, rounded up to 8 bytes, the data of the key as it was given
 *   cells_off   struct trie_ctl
 */
#pragma once
#include <errno.h>

#include "hash_core.h"

#define TRIE_DATA_MAX 256u
#define TRIE_LENGTHS (TRIE_DATA_MAX * 8 + 1)

struct trie_ctl {
	u64 changes;                          /* grows before and after each */
	u64 pad[7];
	u64 lengths[(TRIE_LENGTHS + 63) / 64]; /* of prefixes that have ever been there */
};

/* A key in plain form: what lies behind its prefix is zero. */
struct trie_key {
	u32 len;
	u8 data[TRIE_DATA_MAX];
} __attribute__((aligned(8)));

static inline struct trie_ctl *trie_ctl(const struct umap *m)
{
	return (struct trie_ctl *)(m->base + m->cells_off);
}

static inline u32 trie_data_size(const struct umap *m)
{
	return m->key_size - 4;
}

/* Clears what is behind the first LEN bits, of which there are fewer than now. */
static inline void trie_cut(const struct umap *m, struct trie_key *k, u32 len)
{
	u32 at = len / 8, end = k->len / 8 + 1;

	if (end > trie_data_size(m))
		end = trie_data_size(m);
	if (at < end && len % 8)
		k->data[at++] &= (u8)(0xff00u >> len % 8);
	for (; at < end; at++)
		__atomic_store_n(&k->data[at], 0, __ATOMIC_RELAXED); /* no call of memset */
	k->len = len;
}

/* False: the prefix is longer than the data. */
static inline bool trie_plain(const struct umap *m, const void *key, struct trie_key *ret)
{
	u32 len = *(const u32_any *)key, size = trie_data_size(m);

	if (len > size * 8)
		return false;
	copy_in(ret->data, (const u8 *)key + 4, size);
	ret->len = size * 8;
	trie_cut(m, ret, len);
	return true;
}

/* The longest length up to LEN that prefixes may have; -1: none. */
static inline s32 trie_length(const struct umap *m, s32 len)
{
	for (; len >= 0; len = len / 64 * 64 - 1) {
		u64 bits = load(&trie_ctl(m)->lengths[len / 64]) & ~0ull >> (63 - len % 64);

		if (bits)
			return len / 64 * 64 + 63 - __builtin_clzll(bits);
	}
	return -1;
}

/* Finds the element with the longest prefix of K, which becomes that prefix, for O. 0,
 * -ENOENT, or -EBUSY when *BUDGET is spent. */
long trie_find(const struct umap *m, struct trie_key *k, struct hash_op *o, u64 *budget, const struct umap_ctx *cx);
