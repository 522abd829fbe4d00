// SPDX-License-Identifier: MIT
/*
 * The micro-programs alone, without the rest of the benchmark:
 *
 *	jit-bench [--rounds N] [--slice-us N] [--list PROGRAM] [NAME]
 *
 * NAME picks the programs whose name contains it; --list prints our code.
 */
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "jit_bench.h"

static struct uerr *list(const char *object, const char *name)
{
	struct engines *e;
	struct uerr *err = engines_open(object, &e);

	if (err)
		return err;
	for (size_t i = 0; i < engines_nprogs(e); i++)
		if (!strcmp(engines_prog_name(e, i), name)) {
			cleanup_free char *text = engines_listing(e, i);

			puts(text ? text : "");
		}
	engines_close(e);
	return NULL;
}

/* Not where most interrupts go; and all engines on the same CPU. */
static void pin(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rounds", required_argument, NULL, 'r' },
		{ "slice-us", required_argument, NULL, 's' },
		{ "list", required_argument, NULL, 'l' },
		{ 0 },
	};
	char self[PATH_MAX] = { 0 }, object[PATH_MAX + 32];
	const char *listed = NULL;
	u64 slice_us = 100;
	struct jit_bench b;
	struct uerr *err;
	u32 rounds = 64;
	int c;

	while ((c = getopt_long(argc, argv, "r:s:l:", options, NULL)) != -1) {
		if (c == 'r') {
			rounds = (u32)atoi(optarg);
		} else if (c == 's') {
			slice_us = (u64)atoi(optarg);
		} else if (c == 'l') {
			listed = optarg;
		} else {
			fprintf(stderr, "usage: jit-bench [--rounds N] [--slice-us N] [--list PROGRAM] [NAME]\n");
			return 2;
		}
	}
	if (!rounds || rounds > JIT_BENCH_MAX_ROUNDS) {
		fprintf(stderr, "jit-bench: --rounds takes 1 to %d\n", JIT_BENCH_MAX_ROUNDS);
		return 2;
	}
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	snprintf(object, sizeof(object), "%s/programs.bpf.o", dirname(self));
	if (listed) {
		err = list(object, listed);
	} else {
		pin();
		err = jit_bench_run(object, argv[optind], rounds, slice_us * 1000, &b);
		if (!err) {
			jit_bench_markdown(&b, stdout);
			jit_bench_deinit(&b);
		}
	}
	if (err) {
		fprintf(stderr, "jit-bench: %s\n", err->message);
		uerr_free(err);
		return 1;
	}
	return 0;
}
