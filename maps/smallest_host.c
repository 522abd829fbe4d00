/* SPDX-License-Identifier: MIT */
/* The smallest keys of many; see smallest.h. */
#include "smallest.h"

#include <string.h>

static u8 *key_at(const struct smallest *s, size_t i)
{
	return s->keys + i * s->size;
}

void smallest_finish(struct smallest *s)
{
	size_t kept = 0;

	if (s->n)
		qsort_r(s->keys, s->n, s->size, s->order, &s->size);
	for (size_t i = 0; i < s->n; i++) {
		if (kept && !s->order(key_at(s, i), key_at(s, kept - 1), &s->size))
			continue;
		if (kept != i)
			memcpy(key_at(s, kept), key_at(s, i), s->size);
		kept++;
	}
	s->more = s->more || kept > s->room;
	s->bounded = kept >= s->room;
	s->n = s->bounded ? s->room : kept;
}

u8 *smallest_slot(struct smallest *s)
{
	size_t limit = 2ul * s->room, cap = s->cap ? 2 * s->cap : 16;
	u8 *keys;

	if (s->n >= limit)
		smallest_finish(s);
	if (s->n == s->cap) {
		cap = cap < limit ? cap : limit;
		keys = realloc(s->keys, cap * s->size);
		if (!keys)
			return NULL;
		s->keys = keys;
		s->cap = cap;
	}
	return key_at(s, s->n);
}

void smallest_keep(struct smallest *s)
{
	const u8 *key = key_at(s, s->n);

	if (s->after && s->order(key, s->after, &s->size) <= 0)
		return;
	if (s->bounded) {
		int order = s->order(key, key_at(s, s->room - 1ul), &s->size);

		s->more = s->more || order > 0;
		if (order >= 0)
			return;
	}
	s->n++;
}
