/* SPDX-License-Identifier: MIT */
/*
 * Other tracers that work inside the process. Each is a script that runs a victim
 * under it and says "tracing", or "no: " and the reason.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

const struct rival bench_rivals[] = {
	{ "gdbserver", "a fast tracepoint whose condition is false", "rival_gdbserver", "bench-victim-gdb", "gdbserver" },
	{ "LTTng-UST", "an event without a field", "rival_lttng", "bench-victim-lttng", "lttng" },
};
const size_t bench_nrivals = sizeof(bench_rivals) / sizeof(bench_rivals[0]);

/* Both lines, in whichever order: the victim is there, and it is traced. */
static struct uerr *wait_tracing(struct victim *v)
{
	bool ready = false, tracing = false;
	char line[512];

	while (!ready || !tracing) {
		struct uerr *err = victim_line(v, line, sizeof(line));

		if (err)
			return err;
		if (!strncmp(line, "no: ", 4))
			return uerr_new(UERR_FAILED, "%s", line + 4);
		ready |= !strcmp(line, "ready");
		tracing |= !strcmp(line, "tracing");
	}
	return NULL;
}

/* By the end of its input: the script then tidies up. */
static void stop(struct victim *v)
{
	if (v->pid <= 0)
		return;
	close(v->in);
	close(v->out);
	waitpid(v->pid, NULL, 0);
	v->pid = 0;
}

static struct uerr *start(const struct rival *rival, const char *dir, struct victim *ret)
{
	char script[PATH_MAX], victim[PATH_MAX];
	struct uerr *err;

	snprintf(script, sizeof(script), "%s/%s", dir, rival->script);
	snprintf(victim, sizeof(victim), "%s/%s", dir, rival->victim);
	err = victim_spawn(script, victim, ret);
	if (err)
		return err;
	err = wait_tracing(ret);
	if (err)
		stop(ret);
	return err;
}

void rivals_start(struct bench_rival *rivals, const char *dir)
{
	for (size_t i = 0; i < bench_nrivals; i++) {
		struct uerr *err = start(&bench_rivals[i], dir, &rivals[i].process);

		if (!err)
			continue;
		snprintf(rivals[i].plain.reason, sizeof(rivals[i].plain.reason), "%s", err->message);
		rivals[i].one = rivals[i].more = rivals[i].plain;
		uerr_free(err);
	}
}

void rivals_round(struct bench_rival *rivals, uint64_t slice_ns)
{
	for (size_t i = 0; i < bench_nrivals; i++) {
		struct runner r = { .run = run_victim, .victim = &rivals[i].process, .name = "plain" };

		bench_measure(&r, slice_ns, &rivals[i].plain, NULL);
		r.name = bench_rivals[i].row;
		bench_measure(&r, slice_ns, &rivals[i].one, NULL);
		r.threads = BENCH_THREADS;
		bench_measure(&r, slice_ns, &rivals[i].more, NULL);
	}
}

void rivals_stop(struct bench_rival *rivals)
{
	for (size_t i = 0; i < bench_nrivals; i++)
		stop(&rivals[i].process);
}
