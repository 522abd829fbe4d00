/* SPDX-License-Identifier: MIT */
/*
 * A cursor over bytes that may be anything. The first read past the end sets
 * `bad`; from then on everything reads as zero and the cursor stands still, so
 * that a parser can read straight through and look at `bad` once.
 */
#pragma once
#include <string.h>

#include "base/types.h"

struct reader {
	const u8 *p, *end;
	addr_t addr; /* link address of `p` */
	bool bad;
};

static inline struct reader reader_at(const u8 *bytes, u64 size, addr_t addr)
{
	return (struct reader){ .p = bytes, .end = bytes + size, .addr = addr };
}

static inline u64 reader_left(const struct reader *r)
{
	return r->bad ? 0 : r->end - r->p;
}

static inline void reader_skip(struct reader *r, u64 n)
{
	if (n > reader_left(r)) {
		r->bad = true;
		r->p = r->end;
		return;
	}
	r->p += n;
	r->addr += n;
}

static inline void reader_take(struct reader *r, void *buf, size_t n)
{
	if (n > reader_left(r))
		memset(buf, 0, n);
	else
		memcpy(buf, r->p, n);
	reader_skip(r, n);
}

static inline u8 reader_u8(struct reader *r)
{
	u8 v;

	reader_take(r, &v, sizeof(v));
	return v;
}

static inline u32 reader_u32(struct reader *r)
{
	u32 v;

	reader_take(r, &v, sizeof(v));
	return v;
}

static inline u64 reader_u64(struct reader *r)
{
	u64 v;

	reader_take(r, &v, sizeof(v));
	return v;
}

/* Bits past the 64th are dropped, whatever the length. */
static inline u64 reader_uleb(struct reader *r)
{
	u64 v = 0;
	unsigned shift = 0;
	u8 byte;

	do {
		byte = reader_u8(r);
		if (shift < 64)
			v |= (u64)(byte & 0x7f) << shift;
		shift += shift < 64 ? 7 : 0;
	} while (byte & 0x80);
	return v;
}

static inline s64 reader_sleb(struct reader *r)
{
	u64 v = 0;
	unsigned shift = 0;
	u8 byte;

	do {
		byte = reader_u8(r);
		if (shift < 64)
			v |= (u64)(byte & 0x7f) << shift;
		shift += shift < 64 ? 7 : 0;
	} while (byte & 0x80);
	if (shift < 64 && byte & 0x40)
		v |= ~0ull << shift;
	return v;
}
