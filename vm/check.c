/* SPDX-License-Identifier: MIT */
/*
 * Judges the shape of a program.
 *
 * In this order, each step resting on those before it:
 *	1. every instruction is one of opcodes.def, with its fields as they must be
 *	2. the program falls into subprograms, and no jump leaves its own
 *	3. every instruction can be reached, and can reach an exit
 *	4. the call chain has at most 8 frames, and no function calls itself
 *
 * Nothing is said about what registers hold: that is the verifier's (verify.c),
 * which begins with this. What is refused here, the kernel refuses too, except
 * for what this version does not serve.
 *
 * A refusal is one sentence for a person; its log shows source, instruction,
 * rule and remedy, then, after an empty line, the instructions around (or the
 * verifier's log).
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/check_internal.h"
#include "vm/core_relo.h"
#include "vm/disasm.h"
#include "vm/env.h"

/* --- refusing --- */

#define LISTED_AROUND 6

static void log_source(FILE *log, const struct vm_prog *p, u32 at)
{
	u32 line = p->lines ? p->lines[at] : 0;
	u32 before = 0;

	if (!line || !p->texts || !p->texts[at])
		return;
	/* the line above it, if the program has code there */
	for (u32 i = 0; i < p->ninsns; i++)
		if (p->texts[i] && p->lines[i] < line && p->lines[i] + 3 >= line &&
		    (!before || p->lines[i] > p->lines[before - 1]))
			before = i + 1;
	if (before)
		fprintf(log, "   %5u   %s\n", p->lines[before - 1], p->texts[before - 1]);
	fprintf(log, "  >%5u   %s\n", line, p->texts[at]);
}

/* The instructions around AT. */
static void log_around(FILE *log, const struct checker *c, u32 at)
{
	u32 first = at > LISTED_AROUND ? at - LISTED_AROUND : 0;
	char line[DISASM_LINE];

	for (u32 i = first; i < c->p->ninsns && i <= at + LISTED_AROUND;) {
		u32 slots = disasm_insn(c->p, i, c->maps, c->nmaps, line);

		fprintf(log, "%c%5u: %s\n", i == at ? '>' : ' ', i, line);
		i += slots;
	}
}

static char *refusal_log(const struct checker *c, u32 at, const char *detail, const char *try, const char *rest)
{
	char line[DISASM_LINE];
	char *text = NULL;
	size_t size;
	FILE *log = open_memstream(&text, &size);

	if (!log)
		return NULL;
	log_source(log, c->p, at);
	disasm_insn(c->p, at, c->maps, c->nmaps, line);
	/* without "(79) " */
	fprintf(log, "          insn %u: %s: %s\n", at, line + (line[0] == '(' ? 5 : 0), detail);
	if (try)
		fprintf(log, "  try:    %s\n", try);
	fputc('\n', log);
	if (rest)
		fputs(rest, log);
	else
		log_around(log, c, at);
	fclose(log);
	return text;
}

struct uerr *check_refuse_with(const struct checker *c, u32 at, const char *detail, const char *try, const char *rest,
			       const char *what, va_list ap)
{
	const struct vm_prog *p = c->p;
	cleanup_free char *rule = NULL;
	cleanup_free char *log = NULL;
	struct uerr *err;

	if (vasprintf(&rule, what, ap) < 0)
		return uerr_nomem();
	if (p->lines && p->lines[at] && p->file)
		err = uerr_new(UERR_REJECTED, "program %s is not safe: %s at %s:%u", p->name, rule, p->file, p->lines[at]);
	else
		err = uerr_new(UERR_REJECTED, "program %s is not safe: %s at instruction %u", p->name, rule, at);
	log = refusal_log(c, at, detail ? detail : rule, try, rest);
	uerr_set_log(err, log);
	return err;
}

struct uerr *check_refuse(const struct checker *c, u32 at, const char *detail, const char *try, const char *what, ...)
{
	struct uerr *err;
	va_list ap;

	va_start(ap, what);
	err = check_refuse_with(c, at, detail, try, NULL, what, ap);
	va_end(ap);
	return err;
}

/* --- 1: instructions --- */

/* what clang does not make */
#define BROKEN "compile the object anew, its instructions are damaged"

static const char *bad_field_name(unsigned bad)
{
	return bad & BAD_DST ? "destination register" : bad & BAD_SRC ? "source register" :
	       bad & BAD_OFF ? "offset" : "immediate";
}

static struct uerr *refuse_field(const struct checker *c, u32 at, const struct opcode *op, unsigned bad)
{
	const struct bpf_insn *insn = &c->p->insns[at];

	if (insn->dst_reg > BPF_REG_10 || insn->src_reg > BPF_REG_10)
		return check_refuse(c, at, NULL, BROKEN, "register R%u does not exist",
				    insn->dst_reg > BPF_REG_10 ? insn->dst_reg : insn->src_reg);
	if (bad & BAD_DST && opcode_writes_dst(op) && insn->dst_reg == BPF_REG_10)
		return check_refuse(c, at, "frame pointer is read only", BROKEN, "R10 is written");
	if (bad & BAD_IMM && op->imm == FIELD_NZ)
		return check_refuse(c, at, "div by zero", "divide by another number", "division by zero");
	if (bad & BAD_IMM && (op->imm == FIELD_SH32 || op->imm == FIELD_SH64))
		return check_refuse(c, at, "invalid shift", "shift by less than the width of the number",
				    "a shift by %d", insn->imm);
	return check_refuse(c, at, "uses reserved fields", BROKEN, "the reserved %s of an instruction is used",
			    bad_field_name(bad));
}

/* A function's address, for a helper that calls back. */
static struct uerr *check_callback(struct checker *c, u32 at)
{
	s64 target = (s64)at + 1 + c->p->insns[at].imm;

	if (target <= 0 || target >= c->p->ninsns)
		return check_refuse(c, at, NULL, BROKEN, "a callback outside of the program");
	c->marks[target] |= MARK_SUBPROG;
	return NULL;
}

static struct uerr *check_imm64(struct checker *c, u32 at)
{
	const struct bpf_insn *insn = &c->p->insns[at];
	const struct umap *map;

	if (at + 1 >= c->p->ninsns || insn[1].code || insn[1].dst_reg || insn[1].src_reg || insn[1].off)
		return check_refuse(c, at, "invalid bpf_ld_imm64 insn", BROKEN, "half of a 64-bit constant");
	c->marks[at + 1] |= MARK_SECOND;
	if (c->op[at] == OP_LD_FUNC)
		return check_callback(c, at);
	if (c->op[at] == OP_LD_IMM64)
		return NULL;
	if ((u32)insn->imm >= c->nmaps || (u32)insn->imm > UINT16_MAX) /* struct reg */
		return check_refuse(c, at, NULL, BROKEN, "map %u does not exist", (u32)insn->imm);
	map = c->maps[insn->imm].map;
	if (c->op[at] == OP_LD_MAP)
		return insn[1].imm ? check_refuse(c, at, NULL, BROKEN, "an offset into a map itself") : NULL;
	if (map->type != UMAP_ARRAY || map->max_entries != 1 || (u32)insn[1].imm >= map->value_size)
		return check_refuse(c, at, "invalid access to map value", BROKEN, "a variable outside of its map");
	return NULL;
}

static struct uerr *check_call(struct checker *c, u32 at)
{
	const struct bpf_insn *insn = &c->p->insns[at];
	const struct helper_info *helper = vm_prog_helper(c->p, (u32)insn->imm);
	bool own = (u32)insn->imm >= ENV_HELPER_FIRST && (u32)insn->imm <= ENV_HELPER_LAST;
	s64 target = (s64)at + 1 + insn->imm;

	if (c->op[at] == OP_CALL_HELPER) {
		if (helper->present || insn->imm == CORE_POISON || (helper->known && (own || c->absent_helpers)))
			return NULL;
		if (helper->name && !helper->known)
			return check_refuse(c, at, NULL, "leave it out", "helper %s#%d is not for uprobe programs",
					    helper->name,
					    insn->imm);
		return check_refuse(c, at, NULL, helper->instead ? helper->instead : "leave it out",
				    "helper %s#%d is not there",
				    helper->name ? helper->name : "unknown", insn->imm);
	}
	if (target < 0 || target >= c->p->ninsns)
		return check_refuse(c, at, NULL, BROKEN, "a call outside of the program");
	c->marks[target] |= MARK_SUBPROG;
	return NULL;
}

static struct uerr *check_insn(struct checker *c, u32 at)
{
	const struct bpf_insn *insn = &c->p->insns[at];
	const struct opcode *op;
	unsigned bad;
	bool selected;

	c->op[at] = opcode_decode(insn, &selected);
	op = &opcodes[c->op[at]];
	if (c->op[at] == OP_NONE)
		return check_refuse(c, at, NULL, "compile with -mcpu=v4 or less", "unknown instruction 0x%02x",
				    insn->code);
	bad = opcode_bad_fields(insn, op);
	if (!selected && op->form == FORM_CALL && insn->src_reg == BPF_PSEUDO_KFUNC_CALL)
		return check_refuse(c, at, "calling kernel function is not allowed",
				    "write a loop with a constant bound",
				    "a function of the kernel is called (bpf_iter_num_new() of bpf_for() or bpf_repeat(), or another "
				    "kfunc), which is not there in a process,");
	/* constants of the kernel, its functions in another form */
	if (!selected && bad & BAD_SRC && (op->form == FORM_CALL || op->form == FORM_IMM64))
		return check_refuse(c, at, NULL, "the kernel's variables and functions are out of reach",
				    "a reference to the kernel (source %u)", insn->src_reg);
	if (!selected || bad)
		return refuse_field(c, at, op, bad);
	if (op->form == FORM_IMM64)
		return check_imm64(c, at);
	if (op->form == FORM_CALL)
		return check_call(c, at);
	return NULL;
}

static struct uerr *check_insns(struct checker *c)
{
	for (u32 at = 0; at < c->p->ninsns; at++) {
		struct uerr *err = c->marks[at] & MARK_SECOND ? NULL : check_insn(c, at);

		if (err)
			return err;
	}
	return NULL;
}

/* --- 2: subprograms --- */

static bool is_jump(const struct checker *c, u32 at)
{
	u8 form = opcodes[c->op[at]].form;

	return form == FORM_JUMP || form == FORM_GOTO;
}

static struct uerr *check_jump(struct checker *c, u32 at)
{
	s64 target = insn_jump_target(&c->p->insns[at], at);

	if (target < 0 || target >= c->p->ninsns)
		return check_refuse(c, at, "jump out of range", BROKEN, "a jump outside of the program");
	if (c->marks[target] & MARK_SECOND)
		return check_refuse(c, at, NULL, BROKEN, "a jump into the middle of an instruction");
	if (c->sub_of[target] != c->sub_of[at])
		return check_refuse(c, at, "jump out of range", BROKEN, "a jump into another function");
	c->marks[target] |= MARK_TARGET;
	return NULL;
}

static struct uerr *subprogs_find(struct checker *c)
{
	u32 n = 0;

	c->marks[0] |= MARK_SUBPROG;
	for (u32 at = 0; at < c->p->ninsns; at++) {
		if (c->marks[at] & MARK_SUBPROG && c->marks[at] & MARK_SECOND)
			return check_refuse(c, at - 1, NULL, BROKEN, "a call into the middle of an instruction");
		n += !!(c->marks[at] & MARK_SUBPROG);
	}
	if (n > INSN_MAX_SUBPROGS)
		return check_refuse(c, 0, "too many subprograms", "inline some of the functions", "a program of %u functions, the limit is %u,", n,
				    INSN_MAX_SUBPROGS);
	c->subs = calloc(n, sizeof(*c->subs));
	if (!c->subs)
		return uerr_nomem();
	for (u32 at = 0; at < c->p->ninsns; at++) {
		if (c->marks[at] & MARK_SUBPROG)
			c->subs[c->nsubs++].start = at;
		c->subs[c->nsubs - 1].end = at + 1;
		c->sub_of[at] = c->nsubs - 1;
	}
	return NULL;
}

static struct uerr *check_subprogs(struct checker *c)
{
	struct uerr *err = subprogs_find(c);

	if (err)
		return err;
	for (u32 at = 0; at < c->p->ninsns; at++) {
		err = is_jump(c, at) ? check_jump(c, at) : NULL;
		if (err)
			return err;
	}
	for (u32 i = 0; i < c->nsubs; i++) {
		u32 last = c->subs[i].end - 1;
		u8 form = opcodes[c->op[last]].form;

		if (c->marks[last] & MARK_SECOND || (form != FORM_EXIT && form != FORM_GOTO))
			return check_refuse(c, last, "last insn is not an exit or jmp", "end it with return",
					    "a function runs past its end");
	}
	return NULL;
}

/* --- 3: every instruction is reached and ends --- */

u32 checker_successors(const struct checker *c, u32 at, u32 ret[static 2])
{
	const struct bpf_insn *insn = &c->p->insns[at];
	u32 n = 0;

	switch (opcodes[c->op[at]].form) {
	case FORM_EXIT:
		return 0;
	case FORM_GOTO:
		ret[n++] = insn_jump_target(insn, at);
		return n;
	case FORM_JUMP:
		ret[n++] = insn_jump_target(insn, at);
		ret[n++] = at + 1;
		return n;
	case FORM_IMM64:
		ret[n++] = at + 2;
		return n;
	}
	ret[n++] = at + 1;
	return n;
}

static void reach_mark(struct checker *c, u32 at, u32 *work, u32 *nwork)
{
	if (c->marks[at] & MARK_REACHED)
		return;
	c->marks[at] |= MARK_REACHED;
	work[(*nwork)++] = at;
}

static struct uerr *check_reached(struct checker *c, u32 *work)
{
	u32 nwork = 0, next[2];

	reach_mark(c, 0, work, &nwork);
	while (nwork) {
		u32 at = work[--nwork];
		u32 n = checker_successors(c, at, next);

		for (u32 i = 0; i < n; i++)
			reach_mark(c, next[i], work, &nwork);
		if (c->op[at] == OP_CALL_LOCAL || c->op[at] == OP_LD_FUNC)
			reach_mark(c, at + 1 + c->p->insns[at].imm, work, &nwork);
	}
	for (u32 at = 0; at < c->p->ninsns; at++)
		if (!(c->marks[at] & (MARK_REACHED | MARK_SECOND)))
			return check_refuse(c, at, "unreachable insn", "leave it out", "code that is never reached");
	return NULL;
}

/* Predecessors by instruction, as one array: those of AT are from[first[AT]] …
 * from[first[AT + 1] - 1]. */
static void predecessors(const struct checker *c, u32 *first, u32 *from)
{
	u32 n = c->p->ninsns, next[2];

	for (u32 at = 0; at < n; at++) {
		u32 k = c->marks[at] & MARK_SECOND ? 0 : checker_successors(c, at, next);

		while (k--)
			first[next[k] + 1]++;
	}
	for (u32 at = 0; at < n; at++)
		first[at + 1] += first[at];
	first[n + 1] = first[n];
	for (u32 at = n; at-- > 0;) {
		u32 k = c->marks[at] & MARK_SECOND ? 0 : checker_successors(c, at, next);

		while (k--)
			from[--first[next[k] + 1]] = at;
	}
}

static struct uerr *check_ends(struct checker *c, u32 *work)
{
	u32 n = c->p->ninsns, nwork = 0;
	cleanup_free u32 *first = calloc(n + 2, sizeof(*first));
	cleanup_free u32 *from = calloc(2 * (size_t)n, sizeof(*from));

	if (!first || !from)
		return uerr_nomem();
	predecessors(c, first, from);
	for (u32 at = 0; at < n; at++) {
		if (!(c->marks[at] & MARK_SECOND) && opcodes[c->op[at]].form == FORM_EXIT) {
			c->marks[at] |= MARK_ENDS;
			work[nwork++] = at;
		}
	}
	while (nwork) {
		u32 at = work[--nwork];

		/* after predecessors(), first[at + 1] is where those of AT begin */
		for (u32 i = first[at + 1]; i < first[at + 2]; i++) {
			if (c->marks[from[i]] & MARK_ENDS)
				continue;
			c->marks[from[i]] |= MARK_ENDS;
			work[nwork++] = from[i];
		}
	}
	for (u32 at = 0; at < n; at++)
		if (!(c->marks[at] & (MARK_ENDS | MARK_SECOND)))
			return check_refuse(c, at, "infinite loop detected", "give the loop a bound", "a loop without end");
	return NULL;
}

static struct uerr *check_paths(struct checker *c)
{
	cleanup_free u32 *work = calloc(c->p->ninsns, sizeof(*work));
	struct uerr *err;

	if (!work)
		return uerr_nomem();
	err = check_reached(c, work);
	return err ? err : check_ends(c, work);
}

/* --- 4: the call chain --- */

static struct uerr *measure(struct checker *c, u32 sub, u32 call, u32 depth);

static struct uerr *measure_calls(struct checker *c, struct subprog *s, u32 depth)
{
	for (u32 at = s->start; at < s->end; at++) {
		const struct subprog *callee;
		struct uerr *err;
		u32 sub;

		if (c->marks[at] & MARK_SECOND || (c->op[at] != OP_CALL_LOCAL && c->op[at] != OP_LD_FUNC))
			continue;
		sub = c->sub_of[at + 1 + c->p->insns[at].imm];
		err = measure(c, sub, at, depth + 1);
		if (err)
			return err;
		callee = &c->subs[sub];
		if (callee->height + 1 > s->height)
			s->height = callee->height + 1;
		if (callee->chain > s->chain)
			s->chain = callee->chain;
	}
	return NULL;
}

/* Height and stack of the chains that begin at SUB, reached by the instruction
 * CALL with DEPTH frames above it. */
static struct uerr *measure(struct checker *c, u32 sub, u32 call, u32 depth)
{
	struct subprog *s = &c->subs[sub];
	struct uerr *err;

	if (s->open)
		return check_refuse(c, call, "recursive call", "use a loop", "a function calls itself");
	if (depth + (s->height ? s->height : 1) > INSN_MAX_FRAMES)
		return check_refuse(c, call, "the call stack is too deep", "inline some of the functions",
				    "more than %u functions deep", INSN_MAX_FRAMES);
	if (s->height)
		return NULL;
	s->open = true;
	s->height = 1;
	err = measure_calls(c, s, depth);
	s->open = false;
	if (err)
		return err;
	s->chain += ALIGN_UP(s->stack, 16u);
	if (s->chain > INSN_STACK_SIZE)
		return check_refuse(c, s->start, "combined stack size is too large",
				    "keep large buffers in a per-CPU array", "%u bytes of stack, the limit is %u,", s->chain,
				    INSN_STACK_SIZE);
	return NULL;
}

struct uerr *checker_measure(struct checker *c)
{
	for (u32 i = 0; i < c->nsubs; i++) {
		c->subs[i].height = 0;
		c->subs[i].chain = 0;
	}
	return measure(c, 0, 0, 0);
}

/* --- all of it --- */

static struct uerr *check_all(struct checker *c)
{
	struct uerr *err = check_insns(c);

	if (!err)
		err = check_subprogs(c);
	if (!err)
		err = check_paths(c);
	return err ? err : measure(c, 0, 0, 0);
}

struct uerr *checker_init(struct checker *c, struct vm_prog *p, const struct vm_map *maps, size_t nmaps,
			  bool absent_helpers)
{
	*c = (struct checker){ .p = p, .maps = maps, .nmaps = nmaps, .absent_helpers = absent_helpers };
	if (!p->ninsns || p->ninsns > INSN_MAX)
		return uerr_new(UERR_REJECTED, "program %s has %u instructions: at least 1 and at most %u are possible", p->name,
				p->ninsns, INSN_MAX);
	c->marks = calloc(p->ninsns, sizeof(*c->marks));
	c->op = calloc(p->ninsns, sizeof(*c->op));
	c->sub_of = calloc(p->ninsns, sizeof(*c->sub_of));
	if (!c->marks || !c->op || !c->sub_of)
		return uerr_nomem();
	return check_all(c);
}

void checker_deinit(struct checker *c)
{
	free(c->marks);
	free(c->op);
	free(c->sub_of);
	free(c->subs);
}

/* The worst that a program of this shape can do. */
static void worst_case(const struct checker *c, struct vm_prog_info *info)
{
	*info = (struct vm_prog_info){
		.ctx_fields = TARGET_REGS_ALL, .ctx_end = vm_prog_ctx_size(c->p), .stack_depth = INSN_STACK_SIZE,
		.nsubprogs = c->nsubs, .writes_memory = true, .can_sleep = true,
	};
	for (u32 at = 0; at < c->p->ninsns; at++) {
		u32 id = (u32)c->p->insns[at].imm, type;

		if (c->marks[at] & MARK_SECOND)
			continue;
		if (c->op[at] == OP_LD_MAP) {
			type = c->maps[id].map->type;
			info->uses_percpu |= umap_is_percpu(type);
		} else if (c->op[at] == OP_CALL_HELPER) {
			info->uses_helpers = true;
			if (id < 256)
				info->helpers[id / 64] |= 1ull << id % 64;
		}
	}
}

/* What CO-RE could not resolve traps if it is ever reached; here nobody knows. */
static struct uerr *refuse_poison(const struct checker *c)
{
	for (u32 at = 0; at < c->p->ninsns; at++)
		if (!(c->marks[at] & MARK_SECOND) && c->op[at] == OP_CALL_HELPER && c->p->insns[at].imm == CORE_POISON)
			return check_refuse(c, at, "unresolved CO-RE relocation",
					    "ask with bpf_core_field_exists() before",
					    "a type or field that is not there is used");
	return NULL;
}

struct uerr *check_program(struct vm_prog *p, const struct vm_map *maps, size_t nmaps)
{
	struct checker c;
	struct uerr *err = checker_init(&c, p, maps, nmaps, false);

	p->checked = false;
	if (!err)
		err = refuse_poison(&c);
	if (!err) {
		worst_case(&c, &p->info);
		p->checked = true;
	}
	checker_deinit(&c);
	return err;
}
