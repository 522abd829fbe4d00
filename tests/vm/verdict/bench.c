/* SPDX-License-Identifier: MIT */
/*
 * Programs whose verification takes long: each explores close to the limit of
 * 1,000,000 instructions, or is as long as a real large program. Both verifiers
 * in one run, on one machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/vm/verdict/verdict.h"

#define SIZE 1000100

struct builder {
	struct bpf_insn insns[SIZE];
	u32 n;
};

#define EMIT(b, ...)                                                          \
	do {                                                                  \
		static const struct bpf_insn part[] = { __VA_ARGS__ };        \
		memcpy(&(b)->insns[(b)->n], part, sizeof(part));              \
		(b)->n += sizeof(part) / sizeof(part[0]);                     \
	} while (0)

#define ADD(d, i) ALU64_IMM(BPF_ADD, d, i)
#define ADDR(d, o) MOV_REG(d, FP), ADD(d, o)

/* One loop of 110,000 passes, each an access by a masked index: 9 instructions */
static void build_loop(struct builder *b)
{
	EMIT(b, MOV_IMM(R6, 0),
	     MOV_REG(R7, R6), ALU64_IMM(BPF_AND, R7, 255), LD_VALUE(R8, M_BSS, 0), ALU64_REG(BPF_ADD, R8, R7),
	     LOAD(B, R9, R8, 0), ADD(R9, 1), STORE(B, R8, 0, R9), ADD(R6, 1),
	     JUMP_IMM(BPF_JLT, R6, 110000, -10), MOV_IMM(R0, 0), EXIT);
}

/* The same, the counter kept on the stack, as clang -O0 would */
static void build_stack_loop(struct builder *b)
{
	EMIT(b, STORE_IMM(DW, FP, -8, 0),
	     LOAD(DW, R6, FP, -8), ALU64_IMM(BPF_AND, R6, 255), LD_VALUE(R8, M_BSS, 0), ALU64_REG(BPF_ADD, R8, R6),
	     STORE_IMM(B, R8, 0, 1), LOAD(DW, R6, FP, -8), ADD(R6, 1), STORE(DW, FP, -8, R6),
	     JUMP_IMM(BPF_JLT, R6, 110000, -10), MOV_IMM(R0, 0), EXIT);
}

/* 16 decisions, each of which matters in the end: 2^16 paths, none like another */
static void build_paths(struct builder *b)
{
	EMIT(b, CALL(BPF_FUNC_get_prandom_u32), MOV_REG(R6, R0), MOV_IMM(R7, 0));
	for (u32 i = 0; i < 16; i++) {
		EMIT(b, JUMP_IMM(BPF_JSET, R6, 1, 1), ADD(R7, 1), ALU64_IMM(BPF_RSH, R6, 1));
		b->insns[b->n - 2].imm = 1 << i;
		b->insns[b->n - 3].imm = 1 << i;
		b->insns[b->n - 1] = (struct bpf_insn)MOV_REG(R8, R7);
	}
	EMIT(b, ALU64_IMM(BPF_RSH, R7, 8), LD_VALUE(R8, M_BSS, 0), ALU64_REG(BPF_ADD, R8, R7), LOAD(B, R0, R8, 0),
	     EXIT);
}

/* 2,700 passes with a lookup that may fail in each, as a tool walks a list */
static void build_lookups(struct builder *b)
{
	EMIT(b, MOV_IMM(R6, 0), MOV_IMM(R7, 0),
	     STORE(DW, FP, -8, R6), ADDR(R2, -8), LD_MAP(R1, M_HASH), CALL(BPF_FUNC_map_lookup_elem),
	     JUMP_IMM(BPF_JEQ, R0, 0, 3), LOAD(DW, R1, R0, 0), ADD(R1, 1), STORE(DW, R0, 0, R1));
	for (u32 i = 0; i < 55; i++)
		EMIT(b, MOV_REG(R1, R6), ALU64_IMM(BPF_XOR, R1, 0x55));
	EMIT(b, ADD(R6, 1), JUMP_IMM(BPF_JLT, R6, 2700, 0), MOV_IMM(R0, 0), EXIT);
	b->insns[b->n - 3].off = (s16)(2 - (s32)(b->n - 2));
}

/* 1,000 passes of 100 passes */
static void build_nested(struct builder *b)
{
	EMIT(b, MOV_IMM(R6, 0), MOV_IMM(R8, 0),
	     MOV_IMM(R7, 0), MOV_REG(R1, R7), ALU64_IMM(BPF_LSH, R1, 3), ALU64_IMM(BPF_XOR, R8, 1), ADD(R8, 1),
	     MOV_REG(R2, R8), STORE(DW, FP, -8, R1), ADD(R7, 1), JUMP_IMM(BPF_JLT, R7, 100, -8),
	     ADD(R6, 1), JUMP_IMM(BPF_JLT, R6, 1100, -11), MOV_IMM(R0, 0), EXIT);
}

/* 60,000 instructions in a row */
static void build_straight(struct builder *b)
{
	EMIT(b, MOV_IMM(R6, 1), MOV_IMM(R7, 3));
	for (u32 i = 0; i < 15000; i++)
		EMIT(b, ALU64_REG(BPF_ADD, R6, R7), ALU64_IMM(BPF_XOR, R7, 0x1234), STORE(DW, FP, -8, R6),
		     LOAD(DW, R7, FP, -8));
	EMIT(b, MOV_IMM(R0, 0), EXIT);
}

/* As many as there may be, each fifth an access by a number from the first: the
 * way back to where it came from is gone each time */
static void build_indices(struct builder *b, u32 n)
{
	EMIT(b, LOAD(DW, R6, R1, 112), ALU64_IMM(BPF_AND, R6, 63));
	while (n--)
		EMIT(b, MOV_REG(R7, R6), LD_VALUE(R8, M_BSS, 0), ALU64_REG(BPF_ADD, R8, R7), STORE_IMM(B, R8, 0, 1));
	EMIT(b, MOV_IMM(R0, 0), EXIT);
}

static void build_some_indices(struct builder *b)
{
	build_indices(b, 12000);
}

static void build_many_indices(struct builder *b)
{
	build_indices(b, 199900);
}

/* A large parser: 3,000 fields that are there or not, then all the same */
static void build_joins(struct builder *b)
{
	EMIT(b, MOV_REG(R9, R1), CALL(BPF_FUNC_ktime_get_ns), MOV_REG(R6, R0), MOV_IMM(R7, 0));
	for (u32 i = 0; i < 3000; i++) {
		EMIT(b, LOAD(DW, R6, R9, 112), MOV_REG(R1, R6), ALU64_IMM(BPF_AND, R1, 7), JUMP_IMM(BPF_JGT, R1, 3, 3),
		     LD_VALUE(R2, M_BSS, 0), ALU64_REG(BPF_ADD, R2, R1), LOAD(B, R7, R2, 0), STORE(DW, FP, -8, R7));
		b->insns[b->n - 6].off = 4;
	}
	EMIT(b, MOV_IMM(R0, 0), EXIT);
}

/* Functions two deep in a loop of 55,000 passes */
static void build_calls(struct builder *b)
{
	EMIT(b, MOV_IMM(R6, 0), MOV_REG(R1, R6), CALL_LOCAL(4), ADD(R6, 1), JUMP_IMM(BPF_JLT, R6, 55000, -4),
	     MOV_IMM(R0, 0), EXIT,
	     ADD(R1, 1), STORE(DW, FP, -8, R1), ADDR(R2, -8), CALL_LOCAL(2), LOAD(DW, R0, FP, -8), EXIT,
	     LOAD(DW, R1, R2, 0), ADD(R1, 1), STORE(DW, R2, 0, R1), MOV_IMM(R0, 0), EXIT);
}

static const struct {
	const char *name;
	void (*build)(struct builder *b);
	bool ours_only; /* the kernel needs time by the square of the length */
} long_programs[] = {
	{ "a loop of 110,000 passes", build_loop },
	{ "its counter on the stack", build_stack_loop },
	{ "65,536 paths", build_paths },
	{ "2,700 lookups", build_lookups },
	{ "nested loops", build_nested },
	{ "55,000 calls, two deep", build_calls },
	{ "3,000 joins", build_joins },
	{ "60,000 in a row", build_straight },
	{ "60,000 in a row, with indices", build_some_indices },
	{ "1,000,000 in a row, with indices", build_many_indices, true },
};

bool bench(bool kernel)
{
	struct builder *b = malloc(sizeof(*b));
	bool ok = true;

	printf("# %-34s %10s %10s %10s %10s\n", "", "ours ms", "followed", "kernel ms", "followed");
	for (size_t i = 0; i < ARRAY_SIZE(long_programs); i++) {
		struct program p = { .theme = "long", .name = long_programs[i].name };
		struct judgement k = { .accepted = true, .reason = "" }, o;

		b->n = 0;
		long_programs[i].build(b);
		p.insns = b->insns;
		p.n = b->n;
		if (kernel && !long_programs[i].ours_only)
			kernel_judge(&p, 0, &k);
		ours_judge(&p, 0, &o);
		printf("# %-34s %10.1f %10u %10.1f %10u\n", p.name, (double)o.ns / 1e6, o.insns, (double)k.ns / 1e6,
		       k.insns);
		if (!o.accepted)
			printf("#   ours: %s\n", o.reason);
		if (!k.accepted)
			printf("#   the kernel refuses: %d\n", k.error);
		ok &= o.accepted && k.accepted;
		judgement_deinit(&k);
		judgement_deinit(&o);
	}
	free(b);
	return ok;
}
