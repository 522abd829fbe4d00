/* SPDX-License-Identifier: MIT */
/*
 * A growing array: `VEC(struct site) sites = {};`. The element type is plain
 * data; vec_free() frees the array, not what its elements point to.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define VEC(type)           \
	struct {            \
		type *data; \
		size_t n;   \
		size_t cap; \
	}

/* Makes room for one more element of SIZE bytes; false when out of memory. */
static inline bool vec_grow(void **data, size_t n, size_t *cap, size_t size)
{
	size_t want;
	void *p;

	if (n < *cap)
		return true;
	want = *cap ? *cap * 2 : 8;
	p = reallocarray(*data, want, size);
	if (!p)
		return false;
	*data = p;
	*cap = want;
	return true;
}

/* Appends VALUE; false when out of memory (the vector is unchanged). */
#define vec_push(v, ...)                                                                       \
	(vec_grow((void **)&(v)->data, (v)->n, &(v)->cap, sizeof(*(v)->data)) ?                \
		 ((v)->data[(v)->n++] = (__VA_ARGS__), true) :                                 \
		 false)

#define vec_free(v)                \
	do {                       \
		free((v)->data);   \
		(v)->data = NULL;  \
		(v)->n = 0;        \
		(v)->cap = 0;      \
	} while (0)

/* (An empty vector has no data, and C forbids NULL + 0.) */
#define vec_foreach(it, v) \
	for (__typeof__((v)->data + 0) it = (v)->data; (v)->n && it < (v)->data + (v)->n; it++)
