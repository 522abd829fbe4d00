/* SPDX-License-Identifier: MIT */
/*
 * Maps of JIT compilers; see perf_map.h. The ends of all rows cut addresses into
 * pieces; from the last row to the first, each takes the pieces in it that none has
 * yet, stepping over the others as union-find does. A lookup is a bisection.
 */
#include "daemon/perf_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"

struct perf_map {
	char *text;
	VEC(struct jitted) rows; /* as they were written */
	VEC(addr_t) cuts;        /* by address, each once; a piece goes up to the next one */
	VEC(u32) owners;         /* of each piece: 1 + its row; 0: none */
};

void perf_map_destroy(struct perf_map *m)
{
	if (!m)
		return;
	free(m->text);
	vec_free(&m->rows);
	vec_free(&m->cuts);
	vec_free(&m->owners);
	free(m);
}

static bool read_rows(struct perf_map *m)
{
	char *line, *save = NULL;

	for (line = strtok_r(m->text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long lo, size;
		int at = 0;

		if (sscanf(line, "%lx %lx %n", &lo, &size, &at) == 2 && at && lo + size > lo &&
		    !vec_push(&m->rows, (struct jitted){ lo, lo + size, line + at }))
			return false;
	}
	return true;
}

static int cut_cmp(const void *a, const void *b)
{
	const addr_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static bool make_cuts(struct perf_map *m)
{
	size_t n = 0;

	vec_foreach(r, &m->rows)
		if (!vec_push(&m->cuts, r->lo) || !vec_push(&m->cuts, r->hi))
			return false;
	if (m->cuts.n)
		qsort(m->cuts.data, m->cuts.n, sizeof(*m->cuts.data), cut_cmp);
	vec_foreach(c, &m->cuts)
		if (!n || m->cuts.data[n - 1] != *c)
			m->cuts.data[n++] = *c;
	m->cuts.n = n;
	return true;
}

/* The number of cuts up to ADDR, that one included. */
static size_t cuts_up_to(const struct perf_map *m, addr_t addr)
{
	size_t lo = 0, hi = m->cuts.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (m->cuts.data[mid] <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The first piece from I on that nobody has; what was stepped over leads there. */
static u32 next_free(u32 *next, u32 i)
{
	u32 end = i;

	while (next[end] != end)
		end = next[end];
	while (next[i] != end) {
		u32 then = next[i];

		next[i] = end;
		i = then;
	}
	return end;
}

static bool find_owners(struct perf_map *m)
{
	u32 *next = calloc(m->cuts.n + 1, sizeof(*next));

	if (!next)
		return false;
	for (u32 i = 0; i <= m->cuts.n; i++)
		next[i] = i;
	for (size_t i = 0; i < m->cuts.n; i++) {
		if (!vec_push(&m->owners, 0)) {
			free(next);
			return false;
		}
	}
	for (size_t r = m->rows.n; r-- > 0;) {
		size_t end = cuts_up_to(m, m->rows.data[r].hi) - 1;
		u32 i = (u32)cuts_up_to(m, m->rows.data[r].lo) - 1;

		for (i = next_free(next, i); i < end; i = next_free(next, i)) {
			m->owners.data[i] = (u32)r + 1;
			next[i] = i + 1;
		}
	}
	free(next);
	return true;
}

struct perf_map *perf_map_create(char *text)
{
	struct perf_map *m = calloc(1, sizeof(*m));

	if (!m) {
		free(text);
		return NULL;
	}
	m->text = text;
	if (read_rows(m) && make_cuts(m) && find_owners(m))
		return m;
	perf_map_destroy(m);
	return NULL;
}

const struct jitted *perf_map_find(const struct perf_map *m, addr_t addr)
{
	size_t n = cuts_up_to(m, addr);
	u32 owner = n ? m->owners.data[n - 1] : 0;

	return owner ? &m->rows.data[owner - 1] : NULL;
}
