/* SPDX-License-Identifier: MIT */
/*
 * Random programs that a verifier has something to say about: arithmetic on
 * numbers of many kinds, the stack, ctx, maps by helper and directly, bounds and
 * null checks, branches, bounded loops, atomics, calls. They are made so that
 * most are right; then, often, one instruction is made wrong.
 *
 * The same seed and options give the same program everywhere.
 */
#pragma once
#include <linux/bpf.h>

#include "base/types.h"
#include "maps/umap.h"

#define RANDOM_MAX_INSNS 1024
#define RANDOM_MAX_FUNCS 4

enum random_flags {
	RANDOM_CLOCKS = 1, /* calls helpers whose results differ from run to run */
	RANDOM_ABSENT = 2, /* calls helpers that the runtime does not have yet: ring buffers */
	RANDOM_RIGHT = 4,  /* leaves all instructions as they should be */
};

struct random_opts {
	const struct umap *maps; /* geometry of the maps that programs may use, by index */
	u32 nmaps;
	u32 flags;
};

struct random_prog {
	struct bpf_insn insns[RANDOM_MAX_INSNS];
	u32 n;
	u32 funcs[RANDOM_MAX_FUNCS], nfuncs; /* first instructions; funcs[0] = 0 */
	u32 mutated;                         /* the instruction that was changed, or UINT32_MAX */
};

/* Where choices come from: SEED alone, or first the N bytes of DATA. */
void random_program(u64 seed, const struct random_opts *opts, struct random_prog *ret);
void random_program_from(const u8 *data, size_t n, const struct random_opts *opts, struct random_prog *ret);
