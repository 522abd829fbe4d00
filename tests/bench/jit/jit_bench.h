/* SPDX-License-Identifier: MIT */
/*
 * Measures every micro-program in every engine. Rounds: in each one every
 * program runs once in each engine, one after the other, so that a machine
 * whose speed drifts drifts for all alike. A figure is the median over the
 * rounds, less that of an empty program in the same engine: the cost of calling,
 * of the kernel's loop and of ours. There are several empty programs, and the one
 * with the smallest median counts: where one is placed badly its calls take four
 * times as long, which would spoil every row. Two engines are compared within each
 * round, and the median of that is their ratio. Minima would not do: a loop whose
 * few odd passes the CPU has learnt by heart in one lucky slice of time is a third
 * faster there, and which engine meets that is chance.
 */
#pragma once
#include <stdio.h>

#include "base/types.h"
#include "base/uerr.h"
#include "engines.h"

#define JIT_BENCH_MAX_ROUNDS 64

struct jit_bench_row {
	char name[64];
	double ns[N_ENGINES];     /* one run; 0: not measured */
	double spread[N_ENGINES]; /* half of what lies between the quartiles / ns */
	double ratio[3];          /* ours / the kernel's: lower quartile, median, upper quartile; 0: no kernel */
	double interp;            /* the interpreter / ours */
	double compile_ns;        /* by our JIT */
	u32 insns;                /* BPF instructions, subprograms included */
	u32 code_size, kernel_code_size;
};

struct jit_bench {
	struct jit_bench_row *rows;
	size_t nrows;
	double empty_ns[N_ENGINES];
	double ratio;  /* geometric mean of ours / the kernel's; 0: no kernel */
	double interp; /* geometric mean of the interpreter / ours */
	double worst;  /* largest of the rows' medians */
	u32 rounds;
	char reason[512]; /* why the kernel was not measured, "" it was */
};

/* ONLY: programs whose name contains it, NULL all. SLICE_NS: how long one
 * engine runs one program in a round. */
struct uerr *jit_bench_run(const char *object_path, const char *only, u32 rounds, u64 slice_ns,
			   struct jit_bench *ret) UERR_MUST_CHECK;
void jit_bench_deinit(struct jit_bench *b);

/* The table as Markdown. */
void jit_bench_markdown(const struct jit_bench *b, FILE *f);
