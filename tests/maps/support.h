/* SPDX-License-Identifier: MIT */
/*
 * For the tests of maps: a cheap random source, the whole-map consistency check
 * and the runner. The check looks inside (maps/hash_layout.h) and is for maps
 * that nobody is using.
 */
#pragma once
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "maps/hash_core.h"
#include "maps/umap.h"
#include "tests/support/suite.h"

static inline u64 rnd(u64 *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed * 0x2545f4914f6cdd1dull >> 11;
}

#define ck_ok(expr)                                                         \
	do {                                                                \
		struct uerr *_err = (expr);                                 \
		ck_assert_msg(!_err, "%s", _err ? _err->message : "");      \
	} while (0)

/* Every element is free with its bit, or reachable once under a key of its own;
 * every block belongs to one element, or is free with its bit. Returns the
 * number of used elements; fails the test otherwise. */
static inline u32 check_hash(const struct umap *m)
{
	u32 *seen = calloc(m->nelems, sizeof(*seen)), *owned = calloc(m->nblocks + 1, sizeof(*owned));
	const u64 *bits = (const u64 *)(m->base + m->bitmap_off);
	const u64 *block_bits = (const u64 *)(m->base + m->block_bitmap_off);
	u32 used = 0, bad = 0;

	for (u32 b = 0; b < m->nbuckets; b++) {
		u64 cur = *hash_bucket(m, b);
		u32 steps = 0;

		for (; link_elem(cur) < m->nelems && steps <= m->nelems; steps++) {
			struct hash_elem *e = hash_elem(m, link_elem(cur));

			seen[link_elem(cur)]++;
			bad += !!(e->next & LINK_MARK) + (STATE_USE(e->state) != STATE_USED);
			for (u64 o = e->next; link_elem(o) < m->nelems; o = hash_elem(m, link_elem(o))->next)
				bad += hash_elem(m, link_elem(o))->key == e->key && m->key_size <= 8;
			cur = e->next;
		}
		bad += (u32)cur != (LINK_END | b) && (steps || (u32)cur);
	}
	ck_assert_msg(!bad, "%u marked, free or duplicate elements in chains, or wrong ends", bad);
	for (u32 i = 0; i < m->nelems; i++) {
		struct hash_elem *e = hash_elem(m, i);
		bool use = STATE_USE(e->state) == STATE_USED;

		used += use;
		ck_assert_msg(seen[i] == use, "element %u: used %d, reachable %u times", i, use, seen[i]);
		ck_assert_msg((bits[i >> 6] >> (i & 63) & 1) == !use, "element %u: used %d, bit wrong", i, use);
		if (m->nblocks) {
			u32 block = val_block(i, e->val);

			ck_assert_uint_lt(block, m->nblocks);
			owned[block]++;
			ck_assert_uint_eq(block_elem(m, block), i);
		}
	}
	for (u32 i = 0; i < m->nblocks; i++) {
		struct hash_pool blocks = pool_blocks(m);
		bool use = !pool_is_free(&blocks, i, hash_block(m, i)->state);

		ck_assert_msg(owned[i] == use, "block %u: used %d, owned by %u elements", i, use, owned[i]);
		ck_assert_msg((block_bits[i >> 6] >> (i & 63) & 1) == !use, "block %u: used %d, bit wrong", i, use);
	}
	free(seen);
	free(owned);
	return used;
}

static inline int run_tests(const char *name, void (*add)(TCase *tc), double timeout)
{
	TCase *tc = tcase_create(name);

	add(tc);
	tcase_set_timeout(tc, timeout);
	return run_case(name, tc);
}
