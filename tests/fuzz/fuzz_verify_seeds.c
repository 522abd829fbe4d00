/* SPDX-License-Identifier: MIT */
/*
 * Inputs for fuzz_verify without a fuzzer: the small programs of the verdict
 * comparison and generated ones, as they are and with a few bytes changed, always
 * the same.
 *
 *	fuzz_verify_seeds [-n CHANGES]   runs them
 *	fuzz_verify_seeds -d DIR         writes the unchanged ones there: a corpus
 *	fuzz_verify_seeds FILE…          runs these: a crash again
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/vm/random/arena.h"
#include "tests/vm/verdict/verdict.h"

#define GENERATED 500
#define MAX_INPUT (1 + RANDOM_MAX_INSNS * sizeof(struct bpf_insn))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seed {
	u8 data[MAX_INPUT];
	size_t size;
};

static u64 rng = 88172645463325252ull;

static u32 below(u32 n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (u32)((rng * 0x2545f4914f6cdd1dull) >> 32) % n;
}

static void make(struct seed *s, const struct bpf_insn *insns, u32 n)
{
	s->data[0] = (u8)(below(128) << 1 | 1);
	memcpy(s->data + 1, insns, n * sizeof(*insns));
	s->size = 1 + n * sizeof(*insns);
}

static void run_changed(const struct seed *s, u32 times)
{
	static struct seed t;

	LLVMFuzzerTestOneInput(s->data, s->size);
	while (times--) {
		t = *s;
		for (u32 n = 1 + below(3); n && t.size > 1; n--) {
			u8 *at = &t.data[1 + below((u32)t.size - 1)];

			*at = below(3) ? *at ^ 1u << below(8) : below(256);
		}
		LLVMFuzzerTestOneInput(t.data, t.size);
	}
}

static void write_seed(const struct seed *s, const char *dir, const char *kind, u32 n)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s-%u", dir, kind, n);
	f = fopen(path, "w");
	if (!f || fwrite(s->data, 1, s->size, f) != s->size || fclose(f)) {
		perror(path);
		exit(1);
	}
}

static void run_file(const char *path)
{
	static u8 data[1 << 20];
	FILE *f = fopen(path, "r");
	size_t n;

	if (!f) {
		perror(path);
		exit(1);
	}
	n = fread(data, 1, sizeof(data), f);
	fclose(f);
	LLVMFuzzerTestOneInput(data, n);
}

static u32 by_hand(const char *dir, u32 times)
{
	static struct bpf_insn insns[ROW_MAX + 2];
	static struct seed s;
	u32 n = 0;

	for (size_t t = 0; t < nthemes; t++) {
		for (size_t i = 0; i < themes[t].nrows; i++) {
			for (u32 bad = 0; bad < 1u + !themes[t].rows[i].verdict; bad++) {
				struct program p = { .insns = insns };

				program_expand(&themes[t].rows[i], bad, &p);
				make(&s, p.insns, p.n);
				if (dir)
					write_seed(&s, dir, "hand", n);
				else
					run_changed(&s, times);
				n++;
			}
		}
	}
	return n;
}

static u32 generated(const char *dir, u32 times)
{
	static struct random_prog r;
	struct random_opts opts = { 0 };
	struct arena *a = arena_create();
	static struct seed s;

	opts.maps = arena_geometry(a, &opts.nmaps);
	for (u32 i = 0; i < GENERATED; i++) {
		random_program(7000000 + i, &opts, &r);
		make(&s, r.insns, r.n);
		if (dir)
			write_seed(&s, dir, "generated", i);
		else
			run_changed(&s, times);
	}
	arena_destroy(a);
	return GENERATED;
}

int main(int argc, char **argv)
{
	const char *dir = NULL;
	u32 times = 20, n;
	int c;

	while ((c = getopt(argc, argv, "d:n:")) != -1) {
		if (c == 'd')
			dir = optarg;
		else if (c == 'n')
			times = (u32)strtoul(optarg, NULL, 0);
		else
			return 2;
	}
	if (optind < argc) {
		for (; optind < argc; optind++)
			run_file(argv[optind]);
		return 0;
	}
	n = by_hand(dir, times);
	n += generated(dir, times);
	printf(dir ? "%u programs written\n" : "%u programs, each %u times changed\n", n, times);
	return 0;
}
