/* SPDX-License-Identifier: MIT */
/* What the verifier accepts and refuses, in which words, and what it finds out. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"
#include "tests/vm/verify_rules.h"
#include "vm/core_relo.h"
#include "vm/opcodes.h"
#include "vm/verify.h"

#define MAX 64
#define DI TARGET_REG_BIT(di)
#define ALL TARGET_REGS_ALL

/* Maps that all programs may use. */
enum { HASH, ARRAY, PERCPU, RODATA, PROGS, QUEUE, NMAPS };

static const struct umap umaps[NMAPS] = {
	[HASH] = { .type = UMAP_HASH, .key_size = 8, .value_size = 16, .max_entries = 10, .id = 1 },
	[ARRAY] = { .type = UMAP_ARRAY, .key_size = 4, .value_size = 64, .max_entries = 1, .id = 2 },
	[PERCPU] = { .type = UMAP_PERCPU_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 4, .id = 3 },
	[RODATA] = { .type = UMAP_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1, .id = 4, .frozen = 1 },
	[PROGS] = { .type = UMAP_PROG_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 4, .id = 5 },
	[QUEUE] = { .type = UMAP_QUEUE, .value_size = 8, .max_entries = 4, .id = 6 },
};
static const struct vm_map maps[NMAPS] = { { &umaps[0] }, { &umaps[1] }, { &umaps[2] }, { &umaps[3] },
					 { &umaps[4] }, { &umaps[5] } };

struct row {
	const char *name;
	const char *refusal; /* a part of the message, or NULL: accepted */
	u32 ctx_fields, stack;
	struct bpf_insn insns[MAX];
};

/* r2 = r10 - 8, with zeros there */
#define KEY STORE_IMM(DW, FP, -8, 0), MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -8)
#define LOOKUP(map) KEY, LD_MAP(R1, map), CALL(BPF_FUNC_map_lookup_elem)
#define RETURN MOV_IMM(R0, 0), EXIT

static const struct row rows[] = {
	/* registers */
	{ "result not set", "R0 is used before it has a value", 0, 0, { EXIT } },
	{ "register not set", "R6 is used before it has a value", 0, 0, { MOV_REG(R0, R6), EXIT } },
	{ "argument after a call", "R1 is used before it has a value", 0, 0,
	  { CALL(BPF_FUNC_ktime_get_ns), MOV_REG(R0, R1), EXIT } },
	{ "frame pointer written", "R10 is written", 0, 0, { ALU64_IMM(BPF_ADD, FP, 8), RETURN } },

	/* ctx */
	{ "ctx field", NULL, DI, 0, { LOAD(DW, R0, R1, 112), EXIT } },
	{ "ctx half a field", NULL, DI, 0, { LOAD(W, R0, R1, 116), EXIT } },
	{ "ctx by copy", NULL, DI | TARGET_REG_BIT(ax), 0,
	  { MOV_REG(R6, R1), LOAD(DW, R0, R6, 112), LOAD(DW, R0, R6, 80), EXIT } },
	{ "ctx by a moved pointer", NULL, DI, 0,
	  { MOV_REG(R6, R1), ALU64_IMM(BPF_ADD, R6, 80), LOAD(DW, R0, R6, 32), EXIT } },
	{ "ctx over a call", NULL, DI, 0,
	  { MOV_REG(R6, R1), CALL(BPF_FUNC_ktime_get_ns), LOAD(DW, R0, R6, 112), EXIT } },
	{ "ctx spilled", NULL, DI, 16,
	  { STORE(DW, FP, -16, R1), MOV_IMM(R1, 0), LOAD(DW, R2, FP, -16), LOAD(DW, R0, R2, 112), EXIT } },
	{ "ctx to a function", NULL, DI, 0, { CALL_LOCAL(1), EXIT, LOAD(DW, R0, R1, 112), EXIT } },
	{ "ctx on one of two ways", NULL, DI | TARGET_REG_BIT(ax), 0,
	  { MOV_REG(R6, R1), LOAD(DW, R2, R6, 112), JUMP_IMM(BPF_JEQ, R2, 0, 1), LOAD(DW, R2, R6, 80), RETURN } },
	{ "ctx + variable", "not constant", 0, 0,
	  { LOAD(DW, R2, R1, 112), ALU64_IMM(BPF_AND, R2, 8), ALU64_REG(BPF_ADD, R1, R2), LOAD(DW, R0, R1, 0), EXIT } },
	{ "ctx less an address, read as a number", NULL, ALL, 0,
	  { LD_VALUE(R2, ARRAY, 0), ALU64_REG(BPF_SUB, R1, R2), RETURN } },
	{ "ctx into a map", NULL, ALL, 0, { LD_VALUE(R2, ARRAY, 0), STORE(DW, R2, 0, R1), RETURN } },
	{ "ctx to get_func_ip", NULL, 0, 0, { CALL(BPF_FUNC_get_func_ip), EXIT } },
	{ "other than ctx to get_func_ip", "R1 is not ctx", 0, 0, { MOV_REG(R1, FP), CALL(BPF_FUNC_get_func_ip), EXIT } },
	{ "ctx read by probe_read", NULL, DI, 8,
	  { MOV_REG(R3, R1), ALU64_IMM(BPF_ADD, R3, 112), MOV_REG(R1, FP), ALU64_IMM(BPF_ADD, R1, -8), MOV_IMM(R2, 8),
	    CALL(BPF_FUNC_probe_read_kernel), RETURN } },
	{ "ctx as a key", "R2 is ctx where memory is needed", 0, 0,
	  { MOV_REG(R2, R1), LD_MAP(R1, HASH), CALL(BPF_FUNC_map_lookup_elem), RETURN } },
	{ "ctx spilled, read by a function that got the stack", NULL, DI, 16,
	  { STORE(DW, FP, -16, R1), MOV_REG(R1, FP), ALU64_IMM(BPF_ADD, R1, -16), CALL_LOCAL(1), EXIT,
	    LOAD(DW, R1, R1, 0), LOAD(DW, R0, R1, 112), EXIT } },
	{ "ctx outside", "outside of struct pt_regs (offset 168)", 0, 0, { LOAD(DW, R0, R1, 168), EXIT } },
	{ "ctx below", "outside of struct pt_regs (offset -8)", 0, 0, { LOAD(DW, R0, R1, -8), EXIT } },
	{ "ctx written", "ctx is written", 0, 0, { STORE_IMM(DW, R1, 0, 1), RETURN } },
	{ "ctx written by a helper", "R1 is ctx where memory is needed", 0, 0,
	  { MOV_IMM(R2, 8), MOV_IMM(R3, 0), CALL(BPF_FUNC_probe_read_user), RETURN } },

	/* memory */
	{ "number as address", "R1 is no address", 0, 0, { MOV_IMM(R1, 64), LOAD(DW, R0, R1, 0), EXIT } },
	{ "argument as address", "R1 is no address", 0, 0, { LOAD(DW, R1, R1, 112), LOAD(DW, R0, R1, 0), EXIT } },
	{ "map as memory", "R1 is no address", 0, 0, { LD_MAP(R1, HASH), LOAD(DW, R0, R1, 0), EXIT } },
	{ "stack", NULL, 0, 512, { STORE_IMM(DW, FP, -512, 0), LOAD(DW, R0, FP, -512), EXIT } },
	{ "stack too far", "outside of the 512 bytes of stack (offset -520", 0, 0, { STORE_IMM(DW, FP, -520, 0), RETURN } },
	{ "stack above", "outside of the 512 bytes of stack (offset 0", 0, 0, { STORE_IMM(DW, FP, 0, 0), RETURN } },
	{ "stack by a bounded index", NULL, DI, 16,
	  { LOAD(DW, R2, R1, 112), ALU64_IMM(BPF_AND, R2, 7), MOV_REG(R1, FP), ALU64_IMM(BPF_ADD, R1, -16),
	    ALU64_REG(BPF_ADD, R1, R2), STORE_IMM(B, R1, 0, 1), RETURN } },
	{ "stack by a wide index", "outside of the 512 bytes of stack", 0, 0,
	  { LOAD(DW, R2, R1, 112), ALU64_IMM(BPF_AND, R2, 31), MOV_REG(R1, FP), ALU64_IMM(BPF_ADD, R1, -16),
	    ALU64_REG(BPF_ADD, R1, R2), STORE_IMM(B, R1, 0, 1), RETURN } },
	{ "stack by any index", "an offset without a bound", 0, 0,
	  { LOAD(DW, R2, R1, 112), MOV_REG(R1, FP), ALU64_REG(BPF_ADD, R1, R2), STORE_IMM(B, R1, 0, 1), RETURN } },
	{ "value", NULL, 0, 8, { LOOKUP(HASH), JUMP_IMM(BPF_JEQ, R0, 0, 1), LOAD(DW, R1, R0, 8), RETURN } },
	{ "value by a copy", NULL, 0, 8,
	  { LOOKUP(HASH), MOV_REG(R6, R0), JUMP_IMM(BPF_JEQ, R0, 0, 1), LOAD(DW, R1, R6, 8), RETURN } },
	{ "value, spilled", NULL, 0, 16,
	  { LOOKUP(HASH), STORE(DW, FP, -16, R0), JUMP_IMM(BPF_JEQ, R0, 0, 2), LOAD(DW, R1, FP, -16), LOAD(DW, R1, R1, 8),
	    RETURN } },
	{ "value or NULL", "R0 may be NULL", 0, 0, { LOOKUP(HASH), LOAD(DW, R0, R0, 0), EXIT } },
	{ "value or NULL, other branch", "R0 is no address", 0, 0,
	  { LOOKUP(HASH), JUMP_IMM(BPF_JNE, R0, 0, 1), LOAD(DW, R0, R0, 0), RETURN } },
	{ "value or NULL, added to", "R0 may be NULL", 0, 0, { LOOKUP(HASH), ALU64_IMM(BPF_ADD, R0, 8), EXIT } },
	{ "value or NULL to a helper", "R2 may be NULL", 0, 0,
	  { LOOKUP(HASH), MOV_REG(R2, R0), LD_MAP(R1, HASH), CALL(BPF_FUNC_map_delete_elem), EXIT } },
	{ "outside of the value", "outside of the map's value of 16 bytes", 0, 0,
	  { LOOKUP(HASH), JUMP_IMM(BPF_JEQ, R0, 0, 1), LOAD(DW, R1, R0, 12), RETURN } },
	{ "value by a checked index", NULL, DI, 0,
	  { LOAD(DW, R2, R1, 112), LD_VALUE(R1, ARRAY, 0), JUMP_IMM(BPF_JGT, R2, 63, 2), ALU64_REG(BPF_ADD, R1, R2),
	    STORE_IMM(B, R1, 0, 1), RETURN } },
	{ "value by a wrongly checked index", "outside of the map's value of 64 bytes", 0, 0,
	  { LOAD(DW, R2, R1, 112), LD_VALUE(R1, ARRAY, 0), JUMP_IMM(BPF_JGT, R2, 64, 2), ALU64_REG(BPF_ADD, R1, R2),
	    STORE_IMM(B, R1, 0, 1), RETURN } },
	{ "index checked in a copy", NULL, DI, 0,
	  { LOAD(DW, R2, R1, 112), LD_VALUE(R1, ARRAY, 0), MOV_REG(R3, R2), JUMP_IMM(BPF_JGE, R3, 64, 2),
	    ALU64_REG(BPF_ADD, R1, R2), STORE_IMM(B, R1, 0, 1), RETURN } },
	{ "read-only data", "read-only data is written", 0, 0, { LD_VALUE(R1, RODATA, 0), STORE_IMM(DW, R1, 0, 1), RETURN } },
	{ "read-only map", "read-only map is written", 0, 0,
	  { KEY, MOV_REG(R3, R2), MOV_IMM(R4, 0), LD_MAP(R1, RODATA), CALL(BPF_FUNC_map_update_elem), RETURN } },

	{ "tail call", NULL, 0, 0, { LD_MAP(R2, PROGS), MOV_IMM(R3, 1), CALL(BPF_FUNC_tail_call), RETURN } },
	{ "result of a tail call", "R0 is used before it has a value", 0, 0,
	  { LD_MAP(R2, PROGS), MOV_IMM(R3, 1), CALL(BPF_FUNC_tail_call), EXIT } },
	{ "tail call in a function", "a tail call in a function", 0, 0,
	  { CALL_LOCAL(1), EXIT, LD_MAP(R2, PROGS), MOV_IMM(R3, 1), CALL(BPF_FUNC_tail_call), RETURN } },
	{ "tail call through a hash", "tail_call cannot work on a map of this type (1)", 0, 0,
	  { LD_MAP(R2, HASH), MOV_IMM(R3, 1), CALL(BPF_FUNC_tail_call), RETURN } },
	{ "tail call without ctx", "R1 is not ctx", 0, 0,
	  { MOV_REG(R1, FP), LD_MAP(R2, PROGS), MOV_IMM(R3, 1), CALL(BPF_FUNC_tail_call), RETURN } },
	{ "lookup in a prog array", "cannot work on a map of this type (3)", 0, 0, { LOOKUP(PROGS), RETURN } },
	{ "push", NULL, 0, 8, { KEY, MOV_IMM(R3, 0), LD_MAP(R1, QUEUE), CALL(BPF_FUNC_map_push_elem), EXIT } },
	{ "pop into unset stack", NULL, 0, 8,
	  { MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -8), LD_MAP(R1, QUEUE), CALL(BPF_FUNC_map_pop_elem), LOAD(DW, R0, FP, -8),
	    EXIT } },
	{ "push of too little", "outside of the 512 bytes of stack", 0, 0,
	  { STORE_IMM(W, FP, -4, 0), MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -4), MOV_IMM(R3, 0), LD_MAP(R1, QUEUE),
	    CALL(BPF_FUNC_map_push_elem), EXIT } },
	{ "lookup in a queue", "cannot work on a map of this type (22)", 0, 0, { LOOKUP(QUEUE), RETURN } },
	{ "pop from a hash", "cannot work on a map of this type (1)", 0, 0,
	  { KEY, LD_MAP(R1, HASH), CALL(BPF_FUNC_map_pop_elem), EXIT } },

	/* helpers */
	{ "key half on the stack", "outside of the 512 bytes of stack", 0, 0,
	  { STORE_IMM(W, FP, -4, 0), MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -4), LD_MAP(R1, HASH),
	    CALL(BPF_FUNC_map_lookup_elem), RETURN } },
	{ "not a map", "R1 is not one certain map", 0, 0, { KEY, MOV_REG(R1, FP), CALL(BPF_FUNC_map_lookup_elem), RETURN } },
	{ "argument missing", "R2 is used before it has a value", 0, 0,
	  { CALL(BPF_FUNC_ktime_get_ns), LD_MAP(R1, HASH), CALL(BPF_FUNC_map_lookup_elem), RETURN } },
	{ "buffer too small", "outside of the 512 bytes of stack (offset -8, size 16)", 0, 0,
	  { MOV_REG(R1, FP), ALU64_IMM(BPF_ADD, R1, -8), MOV_IMM(R2, 16), MOV_IMM(R3, 0), CALL(BPF_FUNC_probe_read_user),
	    RETURN } },
	{ "size without a bound", "the size in R2 has no bound", 0, 0,
	  { LOAD(DW, R2, R1, 112), MOV_REG(R1, FP), ALU64_IMM(BPF_ADD, R1, -8), MOV_IMM(R3, 0),
	    CALL(BPF_FUNC_probe_read_user), RETURN } },
	{ "size with a bound", NULL, DI, 16,
	  { LOAD(DW, R2, R1, 112), ALU64_IMM(BPF_AND, R2, 15), MOV_REG(R1, FP), ALU64_IMM(BPF_ADD, R1, -16),
	    MOV_IMM(R3, 0), CALL(BPF_FUNC_probe_read_user), RETURN } },

	/* functions */
	{ "stack of a chain", NULL, 0, 512,
	  { STORE_IMM(DW, FP, -256, 0), CALL_LOCAL(1), EXIT, STORE_IMM(DW, FP, -256, 0), RETURN } },
	{ "too much stack in a chain", "528 bytes of stack", 0, 0,
	  { STORE_IMM(DW, FP, -264, 0), CALL_LOCAL(1), EXIT, STORE_IMM(DW, FP, -256, 0), RETURN } },
	{ "recursion", "calls itself", 0, 0,
	  { CALL_LOCAL(1), EXIT, MOV_IMM(R0, 0), JUMP_IMM(BPF_JEQ, R1, 0, 1), CALL_LOCAL(-3), EXIT } },
	{ "fault in a function", "R1 is no address", 0, 0,
	  { MOV_IMM(R1, 1), CALL_LOCAL(1), EXIT, LOAD(DW, R0, R1, 0), EXIT } },
	{ "one load from ctx or from the stack", "one instruction loads from the context on one path", 0, 0,
	  { STORE_IMM(DW, FP, -120, 0), MOV_REG(R6, R1), CALL(BPF_FUNC_ktime_get_ns), JUMP_IMM(BPF_JEQ, R0, 0, 2),
	    MOV_REG(R6, FP), ALU64_IMM(BPF_ADD, R6, -232), LOAD(DW, R0, R6, 112), EXIT } },
	{ "two loads, from ctx and from the stack", NULL, DI, 120,
	  { STORE_IMM(DW, FP, -120, 0), MOV_REG(R6, R1), CALL(BPF_FUNC_ktime_get_ns), JUMP_IMM(BPF_JEQ, R0, 0, 2),
	    LOAD(DW, R0, FP, -120), EXIT, LOAD(DW, R0, R6, 112), EXIT } },

	/* CO-RE */
	{ "what is not there, used", "a type or field that is not there is used", 0, 0, { CALL(CORE_POISON), RETURN } },
	{ "what is not there, left out", NULL, 0, 0,
	  { MOV_IMM(R1, 0), MOV_IMM(R0, 0), JUMP_IMM(BPF_JEQ, R1, 0, 1), CALL(CORE_POISON), EXIT } },
};

START_TEST(table)
{
	const struct row *r = &rows[_i];
	struct bpf_insn insns[MAX];
	struct vm_prog p = { .name = "t", .insns = insns, .ninsns = insns_length(r->insns, MAX) };
	struct uerr *err;

	memcpy(insns, r->insns, sizeof(insns));
	err = verify_program(&p, maps, NMAPS, NULL, NULL);
	if (!r->refusal) {
		ck_assert_msg(!err, "%s: %s", r->name, err ? err->message : "");
		ck_assert(p.checked);
		ck_assert_msg(p.info.ctx_fields == r->ctx_fields, "%s: ctx fields %#x", r->name, p.info.ctx_fields);
		ck_assert_msg(p.info.stack_depth == ALIGN_UP(r->stack, 16u), "%s: stack %u", r->name, p.info.stack_depth);
		verify_forget(&p);
		return;
	}
	ck_assert_msg(err, "%s: accepted", r->name);
	ck_assert(!p.checked);
	ck_assert_int_eq(err->code, UERR_REJECTED);
	ck_assert_msg(strstr(err->message, r->refusal), "%s: %s", r->name, err->message);
	ck_assert_msg(!strncmp(err->message, "program t is not safe: ", 23), "%s: %s", r->name, err->message);
	ck_assert_msg(strstr(err->message, " at instruction "), "%s: %s", r->name, err->message);
	ck_assert_msg(err->log && strstr(err->log, "insn "), "%s: no log", r->name);
	ck_assert_msg(strstr(err->log, "\n  try:    "), "%s: nothing to try: %s", r->name, err->log);
	uerr_free(err);
}
END_TEST

START_TEST(poison_is_buried)
{
	struct bpf_insn insns[] = { MOV_IMM(R1, 0), MOV_IMM(R0, 0), JUMP_IMM(BPF_JEQ, R1, 0, 1), CALL(CORE_POISON), EXIT };
	struct vm_prog p = { .name = "t", .insns = insns, .ninsns = ARRAY_SIZE(insns) };
	struct uerr *err = verify_program(&p, NULL, 0, NULL, NULL);

	ck_assert(!err);
	ck_assert_int_eq(insns[3].code, BPF_JMP | BPF_JA);
	ck_assert_uint_eq(p.facts[3].flags, FACT_UNREACHED);
	verify_forget(&p);
}
END_TEST

START_TEST(facts)
{
	struct bpf_insn insns[] = { KEY, LD_MAP(R1, PERCPU), CALL(BPF_FUNC_map_lookup_elem), CALL_LOCAL(1), EXIT,
				    MOV_IMM(R0, 0), EXIT };
	struct vm_prog p = { .name = "t", .insns = insns, .ninsns = ARRAY_SIZE(insns) };
	struct uerr *err = verify_program(&p, maps, NMAPS, NULL, NULL);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	ck_assert(p.info.uses_percpu);
	ck_assert(!p.info.uses_helpers); /* a lookup in an array is in line */
	ck_assert(p.info.leaf_pure);
	ck_assert_uint_eq(p.info.nsubprogs, 2);
	ck_assert_uint_eq(p.info.helpers[0], 1u << BPF_FUNC_map_lookup_elem);
	ck_assert_uint_eq(p.facts[5].map, PERCPU + 1);
	ck_assert_uint_eq(p.facts[5].flags, FACT_KEY_ON_STACK);
	ck_assert_int_eq(p.facts[5].key_off, -8);
	verify_forget(&p);
}
END_TEST

START_TEST(facts_of_a_writer)
{
	struct bpf_insn insns[] = { KEY, LD_MAP(R1, HASH), CALL(BPF_FUNC_map_delete_elem), EXIT };
	struct vm_prog p = { .name = "t", .insns = insns, .ninsns = ARRAY_SIZE(insns) };
	struct uerr *err = verify_program(&p, maps, NMAPS, NULL, NULL);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	ck_assert(!p.info.uses_percpu);
	ck_assert(p.info.uses_helpers);
	ck_assert(!p.info.leaf_pure);
	ck_assert(!p.info.writes_memory);
	verify_forget(&p);
}
END_TEST

START_TEST(refusal_names_the_source)
{
	struct bpf_insn insns[] = { LOOKUP(HASH), LOAD(DW, R0, R0, 0), EXIT };
	u32 lines[ARRAY_SIZE(insns)] = { 30, 30, 30, 31, 31, 31, 32, 33 };
	const char *texts[ARRAY_SIZE(insns)] = { 0 };
	struct vm_prog p = { .name = "on_malloc", .insns = insns, .ninsns = ARRAY_SIZE(insns), .lines = lines,
			     .file = "leak.bpf.c", .texts = texts };
	struct uerr *err;

	texts[3] = texts[4] = texts[5] = "__u64 *n = bpf_map_lookup_elem(&sizes, &key);";
	texts[6] = "*n += 1;";
	err = verify_program(&p, maps, NMAPS, NULL, NULL);
	ck_assert(err);
	ck_assert_str_eq(err->message, "program on_malloc is not safe: R0 may be NULL at leak.bpf.c:32");
	ck_assert_str_eq(err->log, "      31   __u64 *n = bpf_map_lookup_elem(&sizes, &key);\n"
				   "  >   32   *n += 1;\n"
				   "          insn 6: r0 = *(u64 *)(r0 +0): R0 invalid mem access 'map_value_or_null'\n"
				   "  try:    compare it with NULL first: if (!p) return 0;\n"
				   "\n"
				   "0: R1=ctx() R10=fp0\n"
				   "0: (7a) *(u64 *)(r10 -8) = 0\t\t; fp-8=0\n"
				   "1: (bf) r2 = r10\t\t; R2=fp0\n"
				   "2: (07) r2 += -8\t\t; R2=fp-8\n"
				   "; __u64 *n = bpf_map_lookup_elem(&sizes, &key); @ leak.bpf.c:31\n"
				   "3: (18) r1 = map[id:1]\t\t; R1=map_ptr(map=1,ks=8,vs=16)\n"
				   "5: (85) call bpf_map_lookup_elem#1\t\t; R0=map_value_or_null(id=1,map=1,ks=8,vs=16)\n"
				   "; *n += 1; @ leak.bpf.c:32\n"
				   "6: (79) r0 = *(u64 *)(r0 +0)\n"
				   "R0 invalid mem access 'map_value_or_null'\n"
				   "processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1\n");
	uerr_free(err);
}
END_TEST

/* --- rules that verdict/ has no pair for --- */

static const struct rule_world world = { maps, NMAPS, NULL, NULL };

/* r2: any number of 32 bits */
#define WORD LOAD(W, R2, R1, 112)

static const struct rule rules[] = {
	PAIR("a stack address of any distance", 4, "R1 points into the stack at an offset without a bound",
	     "invalid unbounded variable-offset access to stack R1", ALU64_IMM(BPF_AND, R2, 0), ALU64_IMM(BPF_OR, R2, 0), WORD,
	     MOV_REG(R1, FP), X, ALU64_REG(BPF_ADD, R1, R2), STORE_IMM(B, R1, -8, 0), RETURN),
	PAIR("an address less an address, 32 bits", 6, "R6 is no address that the program may use",
	     "R6 invalid mem access 'scalar'", MOV_REG(R6, R7), ALU32_REG(BPF_SUB, R6, R7), STORE_IMM(DW, FP, -8, 0),
	     MOV_REG(R6, FP), MOV_REG(R7, FP), ALU64_IMM(BPF_ADD, R6, -8), ALU64_IMM(BPF_ADD, R7, -8), X,
	     LOAD(DW, R0, R6, 0), EXIT),
	PAIR("equal to one that is not NULL", 10, "R6 may be NULL", "R6 invalid mem access 'map_value_or_null'",
	     JUMP_REG(BPF_JNE, R6, R7, 1), JUMP_REG(BPF_JEQ, R6, R7, 1), LOOKUP(HASH), MOV_REG(R6, R0),
	     LD_VALUE(R7, ARRAY, 0), X, LOAD(DW, R0, R6, 0), RETURN),
	PAIR("zero or not, at one of several places", 12,
	     "R3 goes outside of the map's value of 64 bytes (offset 66, size 1)",
	     "invalid access to the map's value, value_size=64 off=63 size=1; R3 max value is outside of the allowed memory range",
	     STORE_IMM(B, R4, 0, 0), STORE_IMM(B, R4, 0, 3), LOAD(DW, R2, R1, 112), ALU64_IMM(BPF_AND, R2, 3),
	     STORE_IMM(W, FP, -4, 0), MOV_REG(R4, FP), ALU64_IMM(BPF_ADD, R4, -4), ALU64_REG(BPF_ADD, R4, R2), X,
	     LOAD(B, R5, FP, -4), ALU64_IMM(BPF_AND, R5, 3), LD_VALUE(R3, ARRAY, 0), ALU64_REG(BPF_ADD, R3, R5),
	     LOAD(B, R0, R3, 63), EXIT),
	/* the way back to where a number came from cannot be told: everything must be exact */
	PAIR("a number that was the distance of addresses", 10,
	     "R3 goes outside of the map's value of 64 bytes (offset 64, size 1)",
	     "invalid access to the map's value, value_size=64 off=0 size=1; R3 max value is outside of the allowed memory range",
	     ALU64_IMM(BPF_AND, R6, 63), ALU64_IMM(BPF_AND, R6, 64), MOV_REG(R6, FP), MOV_REG(R7, FP),
	     JUMP_IMM(BPF_JEQ, R1, 0, 0), STORE_IMM(DW, R6, -8, 0), ALU64_IMM(BPF_ADD, R7, -8), ALU64_REG(BPF_SUB, R6,
	     R7), X,
	     LD_VALUE(R3, ARRAY, 0), ALU64_REG(BPF_ADD, R3, R6), LOAD(B, R0, R3, 0), EXIT),
};

START_TEST(rule_table)
{
	rule_check(&rules[_i], &world);
}
END_TEST

/* --- the log --- */

/* One way ends well, the other does not. */
static const struct rule two_ways = REFUSED("two ways", 4, "", "", LOAD(DW, R0, R1, 112), JUMP_IMM(BPF_JEQ, R0, 0, 2),
					    MOV_IMM(R0, 0), EXIT, MOV_REG(R0, R6), EXIT);
static const char listing[] = "          insn 4: r0 = r6: R6 !read_ok\n"
			      "  try:    give it a value on every path\n\n";

static void log_is(u32 level, const char *want)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	struct uerr *err = rule_verify(&two_ways, true, level, f, &world);

	fclose(f);
	ck_assert(err);
	ck_assert(!strncmp(err->log, listing, strlen(listing)));
	ck_assert_str_eq(err->log + strlen(listing), want);
	ck_assert_str_eq(text, want); /* and so it is given out */
	free(text);
	uerr_free(err);
}

START_TEST(log_level_0)
{
	log_is(0, "");
}
END_TEST

START_TEST(log_level_1_has_the_path_that_failed)
{
	log_is(1, "0: R1=ctx() R10=fp0\n"
		  "0: (79) r0 = *(u64 *)(r1 +112)\t\t; R0=scalar()\n"
		  "1: (15) if r0 == 0x0 goto pc+2\n"
		  "from 1 to 4: R0=0 R1=ctx() R10=fp0\n"
		  "4: (bf) r0 = r6\n"
		  "R6 !read_ok\n"
		  "processed 5 insns (limit 1000000) max_states_per_insn 0 total_states 2 peak_states 2\n");
}
END_TEST

START_TEST(log_level_2_has_everything)
{
	log_is(2, "0: R1=ctx() R10=fp0\n"
		  "0: (79) r0 = *(u64 *)(r1 +112)\t\t; R0=scalar()\n"
		  "1: (15) if r0 == 0x0 goto pc+2\t\t; R0=scalar(umin=1)\n"
		  "2: (b7) r0 = 0\t\t; R0=0\n"
		  "3: (95) exit\n"
		  "\n"
		  "from 1 to 4: R0=0 R1=ctx() R10=fp0\n"
		  "4: (bf) r0 = r6\n"
		  "R6 !read_ok\n"
		  "processed 5 insns (limit 1000000) max_states_per_insn 0 total_states 2 peak_states 2\n");
}
END_TEST

START_TEST(log_of_what_is_accepted)
{
	static const struct rule fine = PAIR("fine", 0, "", "", MOV_IMM(R0, 0), EXIT, LOAD(W, R2, R1, 112),
					     JUMP_IMM(BPF_JGT, R2, 7, 2), STORE(W, FP, -4, R2), CALL_LOCAL(2), X, EXIT,
					     MOV_IMM(R0, 1), EXIT);

	static const char everything[] =
		"0: R1=ctx() R10=fp0\n"
		"0: (61) r2 = *(u32 *)(r1 +112)\t\t; R2=scalar(smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff))\n"
		"1: (25) if r2 > 0x7 goto pc+2\t\t; R2=scalar(smin=smin32=0,smax=umax=smax32=umax32=7,var_off=(0x0; 0x7))\n"
		"2: (63) *(u32 *)(r10 -4) = r2\t\t; fp-8=mmmm????\n"
		"3: (85) call pc+2\n"
		"caller:\n"
		" R10=fp0 fp-8=mmmm????\n"
		"callee:\n"
		" frame1: R1=ctx() R2=scalar(smin=smin32=0,smax=umax=smax32=umax32=7,var_off=(0x0; 0x7)) R10=fp0\n"
		"6: (b7) r0 = 1\t\t; R0=1\n"
		"7: (95) exit\n"
		"returning from callee:\n"
		" frame1: R0=1 R1=ctx() R2=scalar(smin=smin32=0,smax=umax=smax32=umax32=7,var_off=(0x0; 0x7)) R10=fp0\n"
		"to caller at 4:\n"
		" R0=1 R10=fp0 fp-8=mmmm????\n"
		"4: (b7) r0 = 0\t\t; R0=0\n"
		"5: (95) exit\n"
		"\n"
		"from 1 to 4: R1=ctx() R2=scalar(smin=umin=umin32=8,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff)) R10=fp0\n"
		"4: (b7) r0 = 0\t\t; R0=0\n"
		"5: (95) exit\n"
		"processed 10 insns (limit 1000000) max_states_per_insn 1 total_states 3 peak_states 2\n";

	for (u32 level = 0; level <= 2; level++) {
		char *text = NULL;
		size_t size;
		FILE *f = open_memstream(&text, &size);
		struct uerr *err = rule_verify(&fine, false, level, f, &world);

		fclose(f);
		ck_assert_msg(!err, "%s", err ? err->message : "");
		ck_assert_str_eq(text, level < 2 ? "" : everything);
		free(text);
	}
}
END_TEST

/* --- code that takes many passes --- */

/* Each block jumps back to the one before it, so what is read in the end is known
 * to the first only after as many passes backwards over the code. */
START_TEST(blocks_in_reverse)
{
	enum { BLOCKS = 100 };
	struct bpf_insn insns[3 + 2 + 2 * BLOCKS];
	struct vm_prog p = { .name = "t", .insns = insns, .ninsns = ARRAY_SIZE(insns) };
	struct uerr *err;
	u32 n = 0;

	insns[n++] = (struct bpf_insn)STORE_IMM(DW, FP, -8, 7);
	insns[n++] = (struct bpf_insn)MOV_IMM(R6, 5);
	insns[n++] = (struct bpf_insn)JUMP(2 * BLOCKS);
	insns[n++] = (struct bpf_insn)LOAD(DW, R0, FP, -8);
	insns[n++] = (struct bpf_insn)EXIT;
	for (u32 i = 0; i < BLOCKS; i++) {
		insns[n++] = (struct bpf_insn)MOV_REG(R7, R6);
		insns[n++] = (struct bpf_insn)JUMP(-4);
	}
	err = verify_program(&p, maps, NMAPS, NULL, NULL);
	ck_assert_msg(!err, "%s\n%s", err ? err->message : "", err ? err->log : "");
	ck_assert(!(p.facts[0].flags & FACT_DEAD_STORE));
	verify_forget(&p);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("verify");
	TCase *tc = tcase_create("verify");

	tcase_add_loop_test(tc, table, 0, ARRAY_SIZE(rows));
	tcase_add_test(tc, poison_is_buried);
	tcase_add_test(tc, facts);
	tcase_add_test(tc, facts_of_a_writer);
	tcase_add_test(tc, refusal_names_the_source);
	tcase_add_loop_test(tc, rule_table, 0, ARRAY_SIZE(rules));
	tcase_add_test(tc, log_level_0);
	tcase_add_test(tc, log_level_1_has_the_path_that_failed);
	tcase_add_test(tc, log_level_2_has_everything);
	tcase_add_test(tc, log_of_what_is_accepted);
	tcase_add_test(tc, blocks_in_reverse);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
