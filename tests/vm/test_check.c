/* SPDX-License-Identifier: MIT */
/* What check.c accepts and refuses by shape, and in which words. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"
#include "tests/vm/insns.h"
#include "vm/core_relo.h"
#include "vm/opcodes.h"
#include "vm/program.h"

#define MAX 64

/* Maps that all programs may use. */
enum { HASH, ARRAY, PERCPU, RODATA, NMAPS };

static const struct umap umaps[NMAPS] = {
	[HASH] = { .type = UMAP_HASH, .key_size = 8, .value_size = 16, .max_entries = 10, .id = 1 },
	[ARRAY] = { .type = UMAP_ARRAY, .key_size = 4, .value_size = 64, .max_entries = 4, .id = 2 },
	[PERCPU] = { .type = UMAP_PERCPU_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 4, .id = 3 },
	[RODATA] = { .type = UMAP_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1, .id = 4, .frozen = 1 },
};
static const struct vm_map maps[NMAPS] = { { &umaps[0] }, { &umaps[1] }, { &umaps[2] }, { &umaps[3] } };

struct row {
	const char *name;
	const char *refusal; /* a part of the message, or NULL: accepted */
	struct bpf_insn insns[MAX];
};

/* r2 = r10 - 8, with zeros there */
#define KEY STORE_IMM(DW, FP, -8, 0), MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -8)
#define LOOKUP(map) KEY, LD_MAP(R1, map), CALL(BPF_FUNC_map_lookup_elem)
#define RETURN MOV_IMM(R0, 0), EXIT

static const struct row rows[] = {
	/* shape */
	{ "smallest", NULL, { RETURN } },
	{ "no end", "past its end", { MOV_IMM(R0, 0) } },
	{ "unreachable", "never reached", { RETURN, EXIT } },
	{ "jump out", "outside of the program", { MOV_IMM(R0, 0), JUMP_IMM(BPF_JEQ, R0, 0, 5), EXIT } },
	{ "jump before", "outside of the program", { MOV_IMM(R0, 0), JUMP_IMM(BPF_JEQ, R0, 0, -9), EXIT } },
	{ "jump into ld_imm64", "middle of an instruction", 
	  { MOV_IMM(R0, 0), JUMP_IMM(BPF_JEQ, R0, 0, 1), LD_IMM64(R0, 5), EXIT } },
	{ "loop without end", "without end", 
	  { MOV_IMM(R0, 0), JUMP_IMM(BPF_JEQ, R0, 1, 2), ALU64_IMM(BPF_ADD, R0, 1), JUMP(-2), EXIT } },
	{ "loop with end", NULL, 
	  { MOV_IMM(R0, 0), ALU64_IMM(BPF_ADD, R0, 1), JUMP_IMM(BPF_JLT, R0, 100, -2), EXIT } },
	{ "unknown instruction", "unknown instruction 0xff", { { .code = 0xff }, RETURN } },
	{ "shift", "a shift by 64", { MOV_IMM(R0, 1), ALU64_IMM(BPF_LSH, R0, 64), EXIT } },
	{ "constant division by zero", "division by zero", { MOV_IMM(R0, 1), ALU64_IMM(BPF_DIV, R0, 0), EXIT } },
	{ "reserved field", "reserved immediate", { { .code = BPF_ALU64 | BPF_MOV | BPF_X, .imm = 1 }, RETURN } },
	{ "register 12", "R12 does not exist", { { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 12 }, RETURN } },
	{ "kernel function",
	     "a function of the kernel is called (bpf_iter_num_new() of bpf_for() or bpf_repeat(), or another "
	  "kfunc), which is not there in a process, at instruction 0",
	  { { .code = BPF_JMP | BPF_CALL, .src_reg = 2, .imm = 5 }, RETURN } },
	{ "kernel function, by another number", "a reference to the kernel (source 3)",
	  { { .code = BPF_JMP | BPF_CALL, .src_reg = 3, .imm = 5 }, RETURN } },
	{ "callback into a constant", "middle of an instruction", 
	  { { .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = R1, .src_reg = 4 }, { 0 }, RETURN } },
	{ "helper not there", "helper bpf_perf_event_read#22 is not there", { CALL(22), EXIT } },
	{ "helper nobody knows", "helper unknown#5000 is not there", { CALL(5000), EXIT } },
	{ "map not there", "map 4 does not exist", { LD_MAP(R1, NMAPS), RETURN } },
	{ "variable outside of map", "outside of its map", { LD_VALUE(R1, RODATA, 8), RETURN } },
	{ "second half of nothing", "half of a 64-bit constant", 
	  { MOV_IMM(R0, 0), { .code = BPF_LD | BPF_IMM | BPF_DW } } },

	/* functions */
	{ "recursion", "calls itself", 
	  { CALL_LOCAL(1), EXIT, MOV_IMM(R0, 0), JUMP_IMM(BPF_JEQ, R1, 0, 1), CALL_LOCAL(-3), EXIT } },

	/* CO-RE */
	{ "what is not there, used", "a type or field that is not there is used", { CALL(CORE_POISON), RETURN } },
};

START_TEST(table)
{
	const struct row *r = &rows[_i];
	struct bpf_insn insns[MAX];
	struct vm_prog p = { .name = "t", .insns = insns, .ninsns = insns_length(r->insns, MAX) };
	struct uerr *err;
	char where[40];
	int read = 0;
	u32 at = 0;

	memcpy(insns, r->insns, sizeof(insns));
	err = check_program(&p, maps, NMAPS);
	if (!r->refusal) {
		ck_assert_msg(!err, "%s: %s", r->name, err ? err->message : "");
		ck_assert(p.checked);
		/* nothing is known: the worst */
		ck_assert_uint_eq(p.info.ctx_fields, TARGET_REGS_ALL);
		ck_assert_uint_eq(p.info.stack_depth, INSN_STACK_SIZE);
		ck_assert(!p.info.leaf_pure);
		return;
	}
	ck_assert_msg(err, "%s: accepted", r->name);
	ck_assert(!p.checked);
	ck_assert_int_eq(err->code, UERR_REJECTED);
	ck_assert_msg(strstr(err->message, r->refusal), "%s: %s", r->name, err->message);
	ck_assert_msg(!strncmp(err->message, "program t is not safe: ", 23), "%s: %s", r->name, err->message);
	ck_assert_msg(strstr(err->message, " at instruction "), "%s: %s", r->name, err->message);
	/* the rule stands behind the instruction, too */
	ck_assert_msg(err->log && sscanf(err->log, " insn %u: %n", &at, &read) == 1 && strcspn(err->log,
	     "\n") > (size_t)read,
		      "%s: no log", r->name);
	snprintf(where, sizeof(where), " at instruction %u", at);
	ck_assert_msg(strstr(err->message, where), "%s: %s", r->name, err->message);
	ck_assert_msg(strstr(err->log, "\n  try:    "), "%s: nothing to try: %s", r->name, err->log);
	uerr_free(err);
}
END_TEST

START_TEST(limits)
{
	struct vm_prog p = { .name = "t" };
	struct uerr *err = check_program(&p, NULL, 0);

	ck_assert(err && strstr(err->message, "0 instructions"));
	uerr_free(err);
	p.ninsns = INSN_MAX + 1;
	p.insns = calloc(p.ninsns, sizeof(*p.insns));
	err = check_program(&p, NULL, 0);
	ck_assert(err && strstr(err->message, "at most 1000000"));
	uerr_free(err);
	/* the largest that may be, all of it branches */
	p.ninsns = INSN_MAX;
	for (u32 i = 0; i + 2 < p.ninsns; i++)
		p.insns[i] = (struct bpf_insn)JUMP_IMM(BPF_JEQ, R2, 1, 0);
	p.insns[p.ninsns - 2] = (struct bpf_insn)MOV_IMM(R0, 0);
	p.insns[p.ninsns - 1] = (struct bpf_insn)EXIT;
	err = check_program(&p, NULL, 0);
	ck_assert(!err);
	free(p.insns);
}
END_TEST

/* One call of a function each. */
static struct uerr *check_functions(u32 n)
{
	struct vm_prog p = { .name = "t", .ninsns = 3 * n + 2 };
	struct uerr *err;

	p.insns = calloc(p.ninsns, sizeof(*p.insns));
	for (u32 i = 0; i < n; i++) {
		p.insns[i] = (struct bpf_insn)CALL_LOCAL((s32)(n + 2 + 2 * i - i - 1));
		p.insns[n + 2 + 2 * i] = (struct bpf_insn)MOV_IMM(R0, 0);
		p.insns[n + 3 + 2 * i] = (struct bpf_insn)EXIT;
	}
	p.insns[n] = (struct bpf_insn)MOV_IMM(R0, 0);
	p.insns[n + 1] = (struct bpf_insn)EXIT;
	err = check_program(&p, NULL, 0);
	free(p.insns);
	return err;
}

START_TEST(how_many_functions)
{
	struct uerr *err = check_functions(INSN_MAX_SUBPROGS - 1);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	err = check_functions(INSN_MAX_SUBPROGS);
	ck_assert(err);
	ck_assert_str_eq(err->message,
	     "program t is not safe: a program of 257 functions, the limit is 256, at instruction 0");
	uerr_free(err);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("check");
	TCase *tc = tcase_create("check");

	tcase_add_loop_test(tc, table, 0, ARRAY_SIZE(rows));
	tcase_add_test(tc, limits);
	tcase_add_test(tc, how_many_functions);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
