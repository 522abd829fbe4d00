/* SPDX-License-Identifier: MIT */
/*
 * Random programs through the verifier; what it accepts runs in the checked
 * interpreter, without one violation, and then interpreted and compiled, with
 * the same result. A failure prints how to have it again.
 *
 *	differential [-n PROGRAMS] [-i INPUTS] [-s FIRST-SEED] [-v]
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/vm/random/arena.h"
#include "vm/verify.h"

static u64 seed_in_hand;

static void on_fault(int sig)
{
	char text[100];
	int n = snprintf(text, sizeof(text), "signal %d in the program of seed %llu\n", sig,
			 (unsigned long long)seed_in_hand);

	if (write(2, text, (size_t)n) < 0 || true)
		_exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

struct tally {
	u64 programs, right, right_accepted, wrong, wrong_accepted, insns;
	u64 verify_ns, slowest_ns, slowest_seed;
	struct arena_counts runs;
};

static void show(const struct random_prog *r, const struct vm_prog *p, const struct vm_map *maps, u32 nmaps, u64 seed,
		 const char *why)
{
	char *listing = disasm_xlated(p, maps, nmaps);

	printf("seed %llu (%u instructions", (unsigned long long)seed, r->n);
	if (r->mutated != UINT32_MAX)
		printf(", number %u changed", r->mutated);
	printf("): %s\n%s\n", why, listing ? listing : "");
	free(listing);
}

/* False: something is wrong with the verifier or a way of running. */
static bool try_seed(struct arena *a, u64 seed, u32 inputs, bool verbose, struct tally *t)
{
	struct random_opts opts = { 0 };
	static struct random_prog r;
	struct verify_stats stats = { 0 };
	struct verify_opts vopts = { .log_level = verbose };
	const struct vm_map *maps;
	struct vm_prog p;
	struct uerr *err;
	char why[400];
	u64 unfinished = t->runs.unfinished;
	bool good = true;
	u32 nmaps;

	seed_in_hand = seed;
	opts.maps = arena_geometry(a, &opts.nmaps);
	opts.flags = seed % 16 ? 0 : RANDOM_CLOCKS;
	maps = arena_maps(a, &nmaps);
	random_program(seed, &opts, &r);
	p = (struct vm_prog){ .name = "random", .section = "uprobe", .insns = r.insns, .ninsns = r.n };
	err = verify_program(&p, maps, nmaps, &vopts, &stats);
	t->programs++;
	t->insns += r.n;
	t->verify_ns += stats.ns;
	if (stats.ns > t->slowest_ns) {
		t->slowest_ns = stats.ns;
		t->slowest_seed = seed;
	}
	*(r.mutated == UINT32_MAX ? &t->right : &t->wrong) += 1;
	if (err) {
		if (verbose)
			show(&r, &p, maps, nmaps, seed, err->message);
		if (verbose && err->log)
			printf("%s\n", err->log);
		uerr_free(err);
	} else {
		*(r.mutated == UINT32_MAX ? &t->right_accepted : &t->wrong_accepted) += 1;
		good = arena_try(a, &p, seed * 1000, inputs, &t->runs, why, sizeof(why));
		if (t->runs.unfinished != unfinished)
			snprintf(why, sizeof(why), "a run does not end");
		if (!good || t->runs.unfinished != unfinished)
			show(&r, &p, maps, nmaps, seed, why);
	}
	verify_forget(&p);
	return good;
}

static double percent(u64 part, u64 of)
{
	return of ? 100.0 * (double)part / (double)of : 0;
}

int main(int argc, char **argv)
{
	u32 programs = 4000, inputs = 10, failed = 0;
	struct tally t = { 0 };
	double start = now();
	bool verbose = false;
	u64 seed = 0;
	struct arena *a;
	int c;

	while ((c = getopt(argc, argv, "n:i:s:v")) != -1) {
		if (c == 'n')
			programs = (u32)strtoul(optarg, NULL, 0);
		else if (c == 'i')
			inputs = (u32)strtoul(optarg, NULL, 0);
		else if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (c == 'v')
			verbose = true;
		else
			return 2;
	}
	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
	signal(SIGILL, on_fault);
	signal(SIGFPE, on_fault);
	a = arena_create();
	for (u32 i = 0; i < programs && failed < 5; i++)
		failed += !try_seed(a, seed + i, inputs, verbose, &t);
	printf("%llu programs (mean %llu instructions), of %llu right ones %.1f %% accepted, of %llu changed ones %.1f %%\n",
	       (unsigned long long)t.programs, (unsigned long long)(t.insns / (t.programs ? t.programs : 1)),
	       (unsigned long long)t.right, percent(t.right_accepted, t.right), (unsigned long long)t.wrong,
	       percent(t.wrong_accepted, t.wrong));
	printf("%llu checked runs, %llu instructions, %llu unfinished, %u violations and disagreements\n",
	       (unsigned long long)t.runs.runs, (unsigned long long)t.runs.insns, (unsigned long long)t.runs.unfinished,
	       failed);
	printf("%llu compared with interpreter and JIT (the others depend on addresses or clocks)\n",
	       (unsigned long long)t.runs.compared);
	printf("%.1f s, of which %.1f s verifying (the slowest, of seed %llu: %.2f s)\n", now() - start,
	       (double)t.verify_ns / 1e9, (unsigned long long)t.slowest_seed, (double)t.slowest_ns / 1e9);
	arena_destroy(a);
	/* a verifier that accepts too little would make all this worthless */
	return failed || (programs >= 1000 && percent(t.right_accepted, t.right) < 90) || t.runs.unfinished ? EXIT_FAILURE :
		EXIT_SUCCESS;
}
