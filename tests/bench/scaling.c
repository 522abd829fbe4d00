/* SPDX-License-Identifier: MIT */
/*
 * Whether threads that hit the same site hold each other up, and whether a count
 * is lost: the time of one thread alone beside that of each of several, and what
 * the map says beside the calls that were made.
 */
#include <stdio.h>

#include "bench.h"

static const struct bench_row counted = { .name = "__bench_count", .entry = "count", .exit = "" };
static const struct bench_row shared = { .name = "__bench_count", .entry = "shared_update", .exit = "",
					 .object = OBJECT_MORE };

static unsigned threads_of(int i)
{
	return i ? BENCH_THREADS : 1;
}

/* One thread, then several; *calls of them in all. */
static struct uerr *both(const struct bench_row *row, struct bench_result ret[2], uint64_t *calls, struct victim *v,
			 uint64_t slice_ns)
{
	struct uerr *err = env_userspace.attach(row, v);

	if (err)
		return err;
	for (int i = 0; i < 2; i++) {
		struct runner r = { .run = run_victim, .victim = v, .name = "count", .threads = threads_of(i) };
		uint64_t each = 0;

		bench_measure(&r, slice_ns, &ret[i], &each);
		*calls += each * threads_of(i);
	}
	env_userspace.detach();
	return NULL;
}

static struct uerr *counted_round(struct bench_scaling *s, struct victim *v, uint64_t slice_ns)
{
	uint64_t before = 0, after = 0;
	struct uerr *err = env_userspace_count("pc_count", &before);

	if (!err)
		err = both(&counted, s->counted, &s->calls, v, slice_ns);
	if (!err)
		err = env_userspace_count("pc_count", &after);
	if (!err)
		s->seen += after - before;
	return err;
}

static struct uerr *shared_round(struct bench_scaling *s, struct victim *v, uint64_t slice_ns)
{
	uint64_t calls = 0;

	return both(&shared, s->shared, &calls, v, slice_ns);
}

void scaling_round(struct bench_scaling *s, struct victim *v, uint64_t slice_ns)
{
	struct uerr *err;

	for (int i = 0; i < 2; i++) {
		struct runner r = { .run = run_victim, .victim = v, .name = "plain", .threads = threads_of(i) };

		bench_measure(&r, slice_ns, &s->plain[i], NULL);
	}
	if (s->counted[0].reason[0])
		return;
	err = counted_round(s, v, slice_ns);
	if (!err)
		err = shared_round(s, v, slice_ns);
	if (err)
		bench_set_reason(&s->counted[0], err);
}
