/* SPDX-License-Identifier: MIT */
/*
 * The smallest keys of many, in memory for those that are wanted, however many there are.
 * What is kept twice as often as wanted is sorted and cut: so much as a sort of all. Host only.
 */
#pragma once
#include <stdlib.h>

#include "internal.h"

typedef int key_order(const void *a, const void *b, void *size); /* of *(u32 *)size bytes each */

struct smallest {
	u32 size, room; /* room: at least 1; it may change where smallest_reset() is called */
	key_order *order;
	const u8 *after; /* only keys above it; or NULL */
	u8 *keys;
	size_t n, cap;
	bool more; /* there were more than ROOM */
	bool bounded; /* the first ROOM keys are sorted, and no larger one is wanted */
};

static inline void smallest_deinit(struct smallest *s)
{
	free(s->keys);
}

/* Begins anew. */
static inline void smallest_reset(struct smallest *s)
{
	s->n = 0;
	s->more = s->bounded = false;
}

/* The bytes of a key that smallest_keep() keeps; NULL: no memory. */
u8 *smallest_slot(struct smallest *s);
void smallest_keep(struct smallest *s);
/* From now on keys[n] are what was wanted, in order, each once. */
void smallest_finish(struct smallest *s);
