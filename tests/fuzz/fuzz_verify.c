/* SPDX-License-Identifier: MIT */
/*
 * The verifier from bytes, and what it accepts in all three ways of running. Of
 * the first byte the lowest bit says what follows: 8 bytes an instruction, or the
 * choices of the program generator; the rest is the input to run on. A program
 * that passes may do nothing that the checked interpreter objects to, and must
 * give the same result interpreted and compiled.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/vm/random/arena.h"
#include "vm/verify.h"

#define MAX_LENGTH 1024
#define EXPLORED 50000 /* so that no input takes long */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(struct arena *a, struct bpf_insn *insns, u32 n, u64 input)
{
	struct verify_opts opts = { .log_level = (u32)input % 3, .max_insns = EXPLORED };
	struct vm_prog p = { .name = "fuzz", .section = "uprobe", .insns = insns, .ninsns = n };
	struct arena_counts counts = { 0 };
	const struct vm_map *maps;
	struct uerr *err;
	char why[400];
	u32 nmaps;

	maps = arena_maps(a, &nmaps);
	err = verify_program(&p, maps, nmaps, &opts, NULL);
	if (!err && !arena_try(a, &p, input, 2, &counts, why, sizeof(why))) {
		char *listing = disasm_xlated(&p, maps, nmaps);

		fprintf(stderr, "%s\n%s", why, listing ? listing : "");
		abort();
	}
	uerr_free(err);
	verify_forget(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct arena *arena;
	struct random_opts opts = { 0 };
	static struct random_prog r;

	if (!arena)
		arena = arena_create();
	if (!size)
		return 0;
	if (data[0] & 1) {
		u32 n = (u32)((size - 1) / sizeof(struct bpf_insn));
		struct bpf_insn *insns;

		if (n > MAX_LENGTH)
			return 0;
		insns = malloc(n * sizeof(*insns) + 1); /* of its size, so that a sanitizer sees the end */
		memcpy(insns, data + 1, n * sizeof(*insns));
		run(arena, insns, n, data[0] >> 1);
		free(insns);
	} else {
		opts.maps = arena_geometry(arena, &opts.nmaps);
		random_program_from(data + 1, size - 1, &opts, &r);
		run(arena, r.insns, r.n, data[0] >> 1);
	}
	return 0;
}
