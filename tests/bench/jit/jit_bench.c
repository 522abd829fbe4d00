// SPDX-License-Identifier: MIT
/* Rounds, medians and means of the micro-programs (jit_bench.h). */
#include "jit_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

struct samples {
	double ns[N_ENGINES][JIT_BENCH_MAX_ROUNDS];
	u32 times[N_ENGINES];
};

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* How often the program runs in a slice. */
static struct uerr *calibrate(struct engines *e, size_t prog, enum engine engine, u64 slice_ns, u32 *ret)
{
	u32 times = 64;
	u64 ns = 0;

	for (;;) {
		struct uerr *err = engines_run(e, prog, engine, times, &ns);

		if (err)
			return err;
		if (ns >= slice_ns / 4 || times >= 1u << 28)
			break;
		times *= ns < slice_ns / 32 ? 8 : 2;
	}
	*ret = (u32)((double)times * (double)slice_ns / (double)(ns + 1)) + 1;
	return NULL;
}

static struct uerr *one_round(struct engines *e, const size_t *progs, size_t n, struct samples *s, u32 round,
			      u64 slice_ns)
{
	struct uerr *err = NULL;

	for (size_t i = 0; i < n; i++)
		for (u32 g = 0; g < N_ENGINES; g++) {
			u64 ns = 0;

			if (g == ENGINE_KERNEL && engines_kernel_reason(e))
				continue;
			if (!s[i].times[g])
				err = calibrate(e, progs[i], g, slice_ns, &s[i].times[g]);
			if (!err)
				err = engines_run(e, progs[i], g, s[i].times[g], &ns);
			if (err)
				return err;
			s[i].ns[g][round] = (double)ns / s[i].times[g];
		}
	return NULL;
}

static double median(const double *sorted, u32 n)
{
	return n & 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

/* Over the rounds, what A takes of B, less EMPTY of each: the quartiles. */
static void compare(const struct samples *s, enum engine a, enum engine b, const double *empty, u32 rounds,
		    double ret[3])
{
	double ratio[JIT_BENCH_MAX_ROUNDS];

	for (u32 r = 0; r < rounds; r++)
		ratio[r] = fmax(0, s->ns[a][r] - empty[a]) / fmax(0.1, s->ns[b][r] - empty[b]);
	qsort(ratio, rounds, sizeof(double), compare_double);
	ret[0] = ratio[rounds / 4];
	ret[1] = median(ratio, rounds);
	ret[2] = ratio[rounds * 3 / 4];
}

static void summarize(struct engines *e, size_t prog, struct samples *s, const double *empty, u32 rounds,
		      struct jit_bench_row *row)
{
	double interp[3];

	compare(s, ENGINE_INTERP, ENGINE_JIT, empty, rounds, interp);
	row->interp = interp[1];
	if (!engines_kernel_reason(e))
		compare(s, ENGINE_JIT, ENGINE_KERNEL, empty, rounds, row->ratio);
	snprintf(row->name, sizeof(row->name), "%s", engines_prog_name(e, prog));
	for (u32 g = 0; g < N_ENGINES; g++) {
		qsort(s->ns[g], rounds, sizeof(double), compare_double);
		row->ns[g] = median(s->ns[g], rounds);
		if (row->ns[g] > 0)
			row->spread[g] = (s->ns[g][rounds * 3 / 4] - s->ns[g][rounds / 4]) / 2 / row->ns[g];
	}
	row->insns = engines_prog_insns(e, prog);
	row->code_size = engines_code_size(e, prog);
	row->kernel_code_size = engines_kernel_code_size(e, prog);
}

/* One of the programs that do nothing. */
static bool is_empty(const char *name)
{
	return !strncmp(name, "empty", strlen("empty"));
}

/* What an empty program takes: in each engine the copy that is placed best. */
static void find_empty(struct engines *e, const size_t *progs, size_t n, const struct samples *s, u32 rounds,
		       double ret[N_ENGINES])
{
	bool found = false;

	for (size_t i = 0; i < n; i++) {
		if (!is_empty(engines_prog_name(e, progs[i])))
			continue;
		for (u32 g = 0; g < N_ENGINES; g++) {
			double sorted[JIT_BENCH_MAX_ROUNDS], ns;

			memcpy(sorted, s[i].ns[g], rounds * sizeof(double));
			qsort(sorted, rounds, sizeof(double), compare_double);
			ns = median(sorted, rounds);
			ret[g] = found ? fmin(ret[g], ns) : ns;
		}
		found = true;
	}
}

/* Takes the empty programs out of the rows, and their time off the others. */
static void subtract_empty(struct jit_bench *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->nrows; i++) {
		if (is_empty(b->rows[i].name))
			continue;
		for (u32 g = 0; g < N_ENGINES; g++)
			b->rows[i].ns[g] = fmax(0, b->rows[i].ns[g] - b->empty_ns[g]);
		b->rows[n++] = b->rows[i];
	}
	b->nrows = n;
}

static void means(struct jit_bench *b)
{
	double ratio = 0, interp = 0;

	for (size_t i = 0; i < b->nrows; i++) {
		interp += log(b->rows[i].interp);
		if (*b->reason)
			continue;
		ratio += log(b->rows[i].ratio[1]);
		b->worst = fmax(b->worst, b->rows[i].ratio[1]);
	}
	if (b->nrows)
		b->interp = exp(interp / (double)b->nrows);
	if (b->nrows && !*b->reason)
		b->ratio = exp(ratio / (double)b->nrows);
}

static void engines_closep(struct engines **e)
{
	engines_close(*e);
}

struct uerr *jit_bench_run(const char *object_path, const char *only, u32 rounds, u64 slice_ns, struct jit_bench *ret)
{
	struct engines *e cleanup(engines_closep) = NULL;
	cleanup_free struct samples *s = NULL;
	cleanup_free size_t *progs = NULL;
	struct uerr *err = engines_open(object_path, &e);
	size_t n = 0;

	*ret = (struct jit_bench){ .rounds = rounds };
	if (err)
		return err;
	progs = calloc(engines_nprogs(e), sizeof(*progs));
	s = calloc(engines_nprogs(e), sizeof(*s));
	ret->rows = calloc(engines_nprogs(e), sizeof(*ret->rows));
	if (!progs || !s || !ret->rows)
		return uerr_nomem();
	for (size_t i = 0; i < engines_nprogs(e); i++)
		if (!only || strstr(engines_prog_name(e, i), only) || is_empty(engines_prog_name(e, i)))
			progs[n++] = i;
	for (u32 r = 0; !err && r < rounds; r++)
		err = one_round(e, progs, n, s, r, slice_ns);
	find_empty(e, progs, n, s, rounds, ret->empty_ns);
	for (size_t i = 0; !err && i < n; i++) {
		u64 ns = 0;

		summarize(e, progs[i], &s[i], ret->empty_ns, rounds, &ret->rows[i]);
		err = engines_compile(e, progs[i], 50, &ns);
		ret->rows[i].compile_ns = (double)ns;
	}
	ret->nrows = n;
	if (engines_kernel_reason(e))
		snprintf(ret->reason, sizeof(ret->reason), "%s", engines_kernel_reason(e));
	subtract_empty(ret);
	means(ret);
	return err;
}

void jit_bench_deinit(struct jit_bench *b)
{
	free(b->rows);
	b->rows = NULL;
}

static void markdown_row(const struct jit_bench *b, const struct jit_bench_row *r, FILE *f)
{
	const double *ns = r->ns;

	fprintf(f, "| %s | %u | %.1f | %.1f (±%.0f %%) |", r->name, r->insns, ns[ENGINE_INTERP], ns[ENGINE_JIT],
		100 * r->spread[ENGINE_JIT]);
	if (*b->reason)
		fprintf(f, " – | – |");
	else
		fprintf(f, " %.1f (±%.0f %%) | %.2f (%.2f–%.2f) |", ns[ENGINE_KERNEL], 100 * r->spread[ENGINE_KERNEL],
			r->ratio[1], r->ratio[0], r->ratio[2]);
	fprintf(f, " %.1f | %u | %u | %.2f |\n", r->interp, r->code_size, r->kernel_code_size,
		r->compile_ns / r->insns);
}

void jit_bench_markdown(const struct jit_bench *b, FILE *f)
{
	fprintf(f,
		"Nanoseconds a run, the median of %u rounds, in brackets half of what lies between the quartiles. An "
		"empty program's time (the best placed of its copies: interpreter %.1f, JIT %.1f, kernel %.1f ns) is "
		"taken off each engine's figures. "
		"Ratio: JIT / kernel's JIT within a round, the median and the quartiles; below 1 ours is faster.\n\n",
		b->rounds, b->empty_ns[ENGINE_INTERP], b->empty_ns[ENGINE_JIT], b->empty_ns[ENGINE_KERNEL]);
	fprintf(f, "| Program | Insns | Interpreter | JIT | Kernel's JIT | Ratio | Interpreter/JIT | Bytes | Kernel's | "
		   "Compile ns/insn |\n|-|-|-|-|-|-|-|-|-|-|\n");
	for (size_t i = 0; i < b->nrows; i++)
		markdown_row(b, &b->rows[i], f);
	if (*b->reason)
		fprintf(f, "\nThe kernel's JIT was not measured: %s.\n", b->reason);
	else
		fprintf(f, "\nGeometric mean of the ratio: **%.3f**, largest %.2f.", b->ratio, b->worst);
	fprintf(f, " Interpreter/JIT, geometric mean: %.1f.\n\n", b->interp);
}
