/* SPDX-License-Identifier: MIT */
/*
 * The memory of a RINGBUF, as its writers (ringbuf.c) and its reader
 * (ringbuf_host.c) see it. Where the kernel shows its own to user space, this is
 * the same (kernel/bpf/ringbuf.c): a page with the consumer's position, one with the
 * producer's, the data; a record is {u32 len, u32} and its bytes, rounded up to 8.
 *
 *	page 0   consumer position │ waiters                written by the reader
 *	page 1   producer position │ dropped │ retired      written by writers
 *	data     │hdr│ record │hdr│ record │ …
 *
 * Unlike the kernel's, records never wrap: one that does not fit before the end
 * leaves a discarded one there.
 *
 * A word of the data where a record may begin is either a header, which has
 * RING_OWNED and so its owner, or a blank. Blanks are different from lap to lap:
 * whoever wants to put a header there, and was stopped for a lap, finds that what
 * he expects is not there any more.
 */
#pragma once
#include <errno.h>

#include "internal.h"

#define RING_BUSY 0x80000000u    /* in len: being written */
#define RING_DISCARD 0x40000000u /* in len: nobody shall see it */
#define RING_LEN_MASK 0x3fffffffu
#define RING_HDR 8u
#define RING_OWNED (1ull << 63)

#define RING_HEADER(len, owner) (RING_OWNED | (u64)(owner) << 32 | (len))
#define HEADER_LEN(h) ((u32)(h) & RING_LEN_MASK)
#define HEADER_OWNER(h) ((u32)((h) >> 32) & 0xffffffu)

struct ring_ctl {
	u64 consumer;
	u64 pad0[7];
	u32 waiters; /* 1: the reader sleeps, or is about to */
	u32 pad4;
	u64 told;    /* of `dropped`, by readers that say it in between records */
	u64 drainer; /* USER_RINGBUF: who reads, OWNER_ID + 1, 0 nobody */
	u32 pad1[PAGE / 4 - 22];
	u64 producer;
	u64 pad2[7];
	u64 dropped, retired;
	u64 pad3[PAGE / 8 - 10];
};
_Static_assert(sizeof(struct ring_ctl) == 2 * PAGE && offsetof(struct ring_ctl, producer) == PAGE, "the kernel's layout");

static inline struct ring_ctl *ring_ctl(const struct umap *m)
{
	return (struct ring_ctl *)m->base;
}

/* The word at position POS. */
static inline u64 *ring_word(const struct umap *m, u64 pos)
{
	return (u64 *)(m->base + m->data_off + (pos & m->ring_mask));
}

/* What stands at POS before anybody writes there: no header, and nothing that data
 * would be by chance. */
static inline u64 ring_blank(u64 pos)
{
	return ((pos | 1) * 0x9e3779b97f4a7c15ull) >> 1;
}

/* [pos, pos + n) becomes blank. */
static inline void ring_blank_range(const struct umap *m, u64 pos, u64 n)
{
	for (u64 at = pos; at < pos + n; at += 8)
		__atomic_store_n(ring_word(m, at), ring_blank(at), __ATOMIC_RELAXED);
}

/* From one record to the next. */
static inline u64 ring_step(u64 header)
{
	return ALIGN_UP((u64)HEADER_LEN(header) + RING_HDR, 8ul);
}

/* Whether a record of STEP bytes can begin at POS. */
static inline bool ring_step_fits(const struct umap *m, u64 pos, u64 step)
{
	return (pos & m->ring_mask) + step <= m->ring_mask + 1;
}

/* Puts the producer behind the record at POS, if nobody has yet. */
static inline void ring_advance(const struct umap *m, u64 pos, u64 step)
{
	__atomic_compare_exchange_n(&ring_ctl(m)->producer, &pos, pos + step, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
