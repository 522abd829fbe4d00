/* SPDX-License-Identifier: MIT */
/*
 * Maps that JIT compilers write for perf(1): a line "START SIZE NAME" for each piece of
 * code, in hexadecimal. Code moves and addresses are used again: the last line that an
 * address is in counts. What a map says may be anything.
 */
#pragma once
#include "base/types.h"

struct jitted {
	addr_t lo, hi;
	const char *name; /* in the map's text */
};

struct perf_map;
/* Of TEXT (malloc'd; the map's from now on, also on failure). NULL: out of memory. */
struct perf_map *perf_map_create(char *text);
void perf_map_destroy(struct perf_map *m); /* NULL is fine */

/* The line that counts at ADDR, or NULL. */
const struct jitted *perf_map_find(const struct perf_map *m, addr_t addr);
