/* SPDX-License-Identifier: MIT */
/*
 * Rules of the verifier as pairs of programs that differ in one instruction: one
 * is accepted, the other refused, at a known instruction, in these words and no
 * others. For the unit tests of vm/verify*.c; the pairs that Linux judges, too,
 * are in verdict/.
 */
#pragma once
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/vm/insns.h"
#include "vm/opcodes.h"
#include "vm/verify.h"

#define RULE_MAX 64
/* The place of the instruction in which the two differ. */
#define X { .code = 0xf7 }

struct rule {
	const char *name;
	u32 at;              /* refused there, … */
	const char *refusal; /* … for a person, whole */
	const char *rule;    /* … as the log says it, whole */
	struct bpf_insn good[2], bad[2]; /* no GOOD: only refused */
	struct bpf_insn insns[RULE_MAX];
	u32 func_type;       /* of the functions behind the main one,
	     which are then global: an index into world's types */
};

#define PAIR(name_, at_, refusal_, rule_, good_, bad_, ...) \
	{ .name = name_, .at = at_, .refusal = refusal_, .rule = rule_, .good = { good_ }, .bad = { bad_ }, \
	  .insns = { __VA_ARGS__ } }
#define REFUSED(name_, at_, refusal_, rule_, ...) \
	{ .name = name_, .at = at_, .refusal = refusal_, .rule = rule_, .insns = { __VA_ARGS__ } }
#define GLOBAL_REFUSED(type_, name_, at_, refusal_, rule_, ...) \
	{ .name = name_, .at = at_, .refusal = refusal_, .rule = rule_, .insns = { __VA_ARGS__ }, .func_type = type_ }
#define GLOBAL_PAIR(type_, name_, at_, refusal_, rule_, good_, bad_, ...) \
	{ .name = name_, .at = at_, .refusal = refusal_, .rule = rule_, .good = { good_ }, .bad = { bad_ }, \
	  .insns = { __VA_ARGS__ }, .func_type = type_ }

struct rule_world {
	const struct vm_map *maps;
	size_t nmaps;
	struct btf_index *btf;
	const u32 *types;
};

static inline u32 rule_expand(const struct rule *r, bool bad, struct bpf_insn *ret)
{
	u32 len = insns_length(r->insns, RULE_MAX), n = 0;

	for (u32 i = 0; i < len; i++) {
		const struct bpf_insn *x = bad ? r->bad : r->good;

		if (r->insns[i].code != 0xf7) {
			ret[n++] = r->insns[i];
			continue;
		}
		ret[n++] = x[0];
		if (x[0].code == (BPF_LD | BPF_IMM | BPF_DW))
			ret[n++] = x[1];
	}
	return n;
}

/* The functions that are called; the first is the main one. */
static inline u32 rule_functions(const struct rule *r, const struct bpf_insn *insns, u32 n, const u32 *types,
				 struct vm_subprog *ret)
{
	u32 nsubs = 1;

	ret[0] = (struct vm_subprog){ .name = "main" };
	for (u32 i = 0; r->func_type && i < n; i++)
		if (insns[i].code == (BPF_JMP | BPF_CALL) && insns[i].src_reg == BPF_PSEUDO_CALL)
			ret[nsubs++] = (struct vm_subprog){ .name = "func", .start = i + 1 + (u32)insns[i].imm,
							    
							    .type_id = types[r->func_type], .global = true };
	return nsubs;
}

static inline struct uerr *rule_verify(const struct rule *r, bool bad, u32 level, FILE *log, const struct rule_world *w)
{
	struct verify_opts opts = { .flags = VERIFY_ABSENT_HELPERS, .log_level = level, .log = log };
	struct bpf_insn insns[RULE_MAX + 2];
	struct vm_subprog *subs = calloc(8, sizeof(*subs));
	struct vm_prog p = { .name = "t", .insns = insns, .ninsns = rule_expand(r, bad, insns), .btf = w->btf,
			     .subprogs = subs };
	struct uerr *err;

	p.nsubprogs = rule_functions(r, insns, p.ninsns, w->types, subs);
	err = verify_program(&p, w->maps, w->nmaps, &opts, NULL);
	ck_assert(p.checked == !err);
	verify_forget(&p); /* subs are P's, or gone */
	return err;
}

static inline void rule_check(const struct rule *r, const struct rule_world *w)
{
	struct uerr *err;
	char want[600];
	size_t len;

	if (r->good[0].code) {
		err = rule_verify(r, false, 1, NULL, w);
		ck_assert_msg(!err, "%s, the good one: %s\n%s", r->name, err ? err->message : "", err ? err->log : "");
	}
	err = rule_verify(r, true, 1, NULL, w);
	ck_assert_msg(err, "%s: accepted", r->name);
	ck_assert_int_eq(err->code, UERR_REJECTED);
	snprintf(want, sizeof(want), "program t is not safe: %s at instruction %u", r->refusal, r->at);
	ck_assert_msg(!strcmp(err->message, want), "%s: %s", r->name, err->message);
	snprintf(want, sizeof(want), "          insn %u: ", r->at);
	ck_assert_msg(!strncmp(err->log, want, strlen(want)), "%s: %s", r->name, err->log);
	len = strcspn(err->log, "\n");
	snprintf(want, sizeof(want), ": %s", r->rule);
	ck_assert_msg(len > strlen(want) && !strncmp(err->log + len - strlen(want), want, strlen(want)), "%s: %.*s",
		      r->name, (int)len, err->log);
	ck_assert_msg(!strncmp(err->log + len, "\n  try:    ", 11), "%s: %s", r->name, err->log);
	uerr_free(err);
}
