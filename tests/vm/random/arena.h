/* SPDX-License-Identifier: MIT */
/*
 * Maps and a ctx for random programs, in several fillings, and one program run
 * on them in the three ways: checked, interpreted, compiled. Shared by the
 * differential test and the fuzzer.
 */
#pragma once
#include "tests/vm/random/checked_run.h"
#include "tests/vm/random/gen.h"

struct arena;

struct arena *arena_create(void);
void arena_destroy(struct arena *a);

/* Geometry for the generator; the maps for the verifier. */
const struct umap *arena_geometry(const struct arena *a, u32 *ret_n);
const struct vm_map *arena_maps(const struct arena *a, u32 *ret_n);

struct arena_counts {
	u64 runs;       /* checked */
	u64 varied;     /* of which other executions may differ */
	u64 unfinished;
	u64 compared;   /* interpreter against JIT */
	u64 insns;      /* executed in checked runs */
};

/* Runs P, which the verifier has accepted, on inputs FROM…FROM+N-1, and adds to
 * COUNTS. False: a violation or a disagreement, described in WHY. */
bool arena_try(struct arena *a, const struct vm_prog *p, u64 from, u32 n, struct arena_counts *counts, char *why,
	       size_t why_size);
