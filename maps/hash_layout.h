/* SPDX-License-Identifier: MIT */
/*
 * How a hash map lies in its memory, and the words from which it is built:
 * links, states, and the moves between them. hash.c explains the algorithm;
 * this file has the layout and the instructions. Freestanding.
 *
 *   ctl_off           struct hash_ctl: hints only
 *   buckets_off       u64 link[nbuckets]
 *   elems_off         struct hash_elem, node_stride apart, nelems of them
 *   refs_off          u8, one for each element: used of late  (LRU types)
 *   bitmap_off        u64 bits, one for each element: probably free
 *   blocks_off        struct hash_block[nblocks]          (values above 8 bytes)
 *   block_bitmap_off  u64 bits, one for each block        (values above 8 bytes)
 *   values_off        values of blocks, elem_stride apart; per CPU:
 *                     struct hash_copy, elem_stride apart, slot_stride a slot
 *
 * A link:   63         34   33     32    31   30 …               0
 *           tag           | take | mark | end | 1 + index of element, or bucket at the end
 *           all zero: a bucket that has never had anything, which is an end
 * A state:  63        32  31       8  7      0
 *           generation  | owner     | FREE/USED
 *
 * Fresh memory is zeros and means an empty map but for the bitmaps, so that a large
 * map costs memory only as it fills: the block of generation 0 with the number of an
 * element belongs to that element.
 */
#pragma once
#include "umap.h"

#define LINK_END 0x80000000u
#define LINK_MARK (1ull << 32)
#define LINK_TAKE (1ull << 33) /* with the mark: whoever set it frees the element, not whoever unlinks it */
#define LINK_TAG (1ull << 34)

#define STATE_FREE 0u
#define STATE_USED 1u
#define STATE(gen, owner, use) ((u64)(gen) << 32 | (u64)((owner) & 0xffffffu) << 8 | (use))
#define STATE_GEN(st) ((u32)((st) >> 32))
#define STATE_OWNER(st) ((u32)(st) >> 8)
#define STATE_USE(st) ((u32)(st) & 0xff)

/* val and state are one 16-byte word: see pair_swap(). Keys above 8 bytes
 * follow the element; `key` is then their hash. */
struct hash_elem {
	u64 next;
	u64 key;   /* the key itself, zero-extended, up to 8 bytes */
	u64 val;   /* the value up to 8 bytes, else version << 32 | block - index of this element (u32) */
	u64 state;
};
_Static_assert(sizeof(struct hash_elem) == 32, "layout");

struct hash_block {
	u64 state;
	u64 elem; /* 1 + the one to which it belongs or is about to belong; 0: that of its number */
};

/* A per-CPU copy. It counts only while `stamp` names the element's generation;
 * otherwise it reads as zeros, so that an insert need not touch all copies. */
struct hash_copy {
	u64 stamp;
	u8 value[];
};
#define COPY_STAMP(st) ((st) >> 32 | 1ull << 32)

#define HASH_CURSORS 64u
#define HASH_SPARE_BLOCKS 64u
enum { POOL_ELEMS, POOL_BLOCKS, NPOOLS };
#define FULL_KNOWN 1u

struct hash_ctl {
	struct {
		u64 full; /* 0 unknown, FULL_KNOWN, or who is finding out */
		u64 pad[7];
	} pool[NPOOLS];
	struct {
		u32 word[NPOOLS]; /* of the bitmap, where to look first */
		u32 pad[14];
	} cursor[HASH_CURSORS];
	struct {
		u64 at; /* LRU types: elements that the hand of the clock has passed */
		u64 pad[7];
	} hand;
};

#define load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define swap(p, old, new) __sync_bool_compare_and_swap((p), (old), (new))
#define compiler_barrier() __asm__ volatile("" ::: "memory")
#define force_inline inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* The element that LINK leads to; beyond all of them if it leads to none. */
static force_inline u32 link_elem(u64 link)
{
	return (u32)link - 1;
}

/* The way that TO goes, to be stored where OLD is, so that its tag is new. */
static force_inline u64 link_next(u64 to, u64 old)
{
	return (u32)to | ((old & ~(LINK_TAKE | LINK_MARK | 0xffffffffull)) + LINK_TAG);
}

/* {val, state} of E from {VAL, ST} to {NEW_VAL, NEW_ST}, as one step. */
static force_inline bool pair_swap_both(struct hash_elem *e, u64 val, u64 st, u64 new_val, u64 new_st)
{
	unsigned __int128 *pair = (unsigned __int128 *)(void *)&e->val;

	return __sync_bool_compare_and_swap(pair, (unsigned __int128)st << 64 | val,
					    (unsigned __int128)new_st << 64 | new_val);
}

static force_inline bool pair_swap(struct hash_elem *e, u64 val, u64 st, u64 new_val)
{
	return pair_swap_both(e, val, st, new_val, st);
}

static force_inline u64 *hash_bucket(const struct umap *m, u32 b)
{
	return (u64 *)(m->base + m->buckets_off) + b;
}

static force_inline struct hash_elem *hash_elem(const struct umap *m, u32 i)
{
	return (struct hash_elem *)(m->base + m->elems_off + (u64)i * m->node_stride);
}

static force_inline struct hash_block *hash_block(const struct umap *m, u32 i)
{
	return (struct hash_block *)(m->base + m->blocks_off) + i;
}

static force_inline void *hash_block_value(const struct umap *m, u32 i)
{
	return (void *)(m->base + m->values_off + (u64)i * m->elem_stride);
}

static force_inline struct hash_copy *hash_copy(const struct umap *m, u32 i, u32 slot)
{
	return (struct hash_copy *)(m->base + m->values_off + slot * m->slot_stride + (u64)i * m->elem_stride);
}

static force_inline struct hash_ctl *hash_ctl(const struct umap *m)
{
	return (struct hash_ctl *)(m->base + m->ctl_off);
}
