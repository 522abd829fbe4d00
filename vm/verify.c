/* SPDX-License-Identifier: MIT */
/*
 * The verifier's driver: prepares what is known from the code alone, follows all
 * paths instruction by instruction, and puts together what was found for the
 * trampoline and the JIT. verify_internal.h explains the whole.
 *
 * A program is first followed without a log. Only when it is refused, it is
 * followed again, by the same way, to write one: most programs are not refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "vm/btf_index.h"
#include "vm/verify_internal.h"

#define TEXTS 4
#define TEXT_SIZE 240

/* --- refusing --- */

const char *v_text(struct verifier *v, const char *fmt, ...)
{
	static _Thread_local char texts[TEXTS][TEXT_SIZE];
	static _Thread_local u32 next;
	char *text = texts[next++ % TEXTS];
	va_list ap;

	(void)v;
	va_start(ap, fmt);
	vsnprintf(text, TEXT_SIZE, fmt, ap);
	va_end(ap);
	return text;
}

static void log_totals(struct verifier *v)
{
	log_printf(v, "processed %u insns (limit %u) max_states_per_insn %u total_states %u peak_states %u\n",
		   v->processed,
		   v->max_insns, v->max_states_at, v->total_states, v->peak_states);
}

struct uerr *v_refuse(struct verifier *v, const char *detail, const char *try, const char *what, ...)
{
	struct uerr *err;
	va_list ap;

	log_printf(v, "\n%s\n", detail);
	log_totals(v);
	va_start(ap, what);
	err = check_refuse_with(v->c, v->pc, detail, try, v->log.level && v->log.data ? v->log.data : "", what, ap);
	va_end(ap);
	return err;
}

bool v_own_frame(struct verifier *v)
{
	v->f = state_frame(v, v->cur, v->cur->curframe);
	if (!v->f)
		return false;
	v->regs = v->f->regs;
	return true;
}

/* --- known beforehand --- */

/* Where paths are compared: where they part, where they meet, where functions
 * begin and end. */
static void find_points(struct verifier *v)
{
	const struct checker *c = v->c;

	for (u32 at = 0; at < v->n; at++) {
		u32 op = c->op[at];

		if (c->marks[at] & MARK_SECOND)
			continue;
		if (c->marks[at] & (MARK_TARGET | MARK_SUBPROG) || opcodes[op].form == FORM_JUMP)
			v->point[at] |= POINT_PRUNE;
		if (op == OP_CALL_LOCAL && at + 1 < v->n)
			v->point[at + 1] |= POINT_PRUNE;
		if (op == OP_CALL_HELPER) {
			const struct helper_info *info = vm_prog_helper(c->p, (u32)v->insns[at].imm);

			if (v->insns[at].imm == BPF_FUNC_tail_call)
				v->tail_call[c->sub_of[at]] = at;
			for (u32 i = 0; i < HELPER_NARGS; i++)
				if (info->args[i] == ARG_FUNC)
					v->point[at] |= POINT_PRUNE | POINT_FORCE;
		}
	}
}

/* Registers that instruction AT reads, and those that it sets or spoils. */
static void uses(const struct verifier *v, u32 at, u16 *read, u16 *set)
{
	const struct bpf_insn *insn = &v->insns[at];
	u32 id = v->c->op[at];
	const struct opcode *op = &opcodes[id];

	*read = *set = 0;
	if (op->form == FORM_EXIT) {
		*read = 1;
	} else if (id == OP_CALL_LOCAL) {
		u32 sub = v->c->sub_of[at + 1 + (u32)insn->imm];

		*read = v->subs[sub].global ? 0x3e : v->live[at + 1 + (u32)insn->imm] & 0x3e;
		*set = 0x3f;
	} else if (id == OP_CALL_HELPER) {
		*read = (u16)(((1u << helper_nargs(vm_prog_helper(v->c->p, (u32)insn->imm))) - 1) << 1);
		*set = 0x3f;
	} else {
		if (opcode_reads_dst(op))
			*read |= 1u << insn->dst_reg;
		if (opcode_uses_src(op))
			*read |= 1u << insn->src_reg;
		if (op->form == FORM_CMPXCHG) {
			*read |= 1;
			*set |= 0; /* and r0 is set, but read before */
		}
		if (opcode_writes_dst(op) && !opcode_reads_dst(op))
			*set |= 1u << insn->dst_reg;
	}
}

#define PASSES_MAX 64 /* over all the code; as many as loops are nested, and one or two, would do */

/* Which registers may still be read, backwards through the code. Jumps can be
 * laid so that it takes as many passes as there are instructions: then all may. */
static void find_live(struct verifier *v)
{
	bool changed = true;

	for (u32 pass = 0; changed; pass++) {
		if (pass == PASSES_MAX) {
			for (u32 at = 0; at < v->n; at++)
				v->live[at] = 0x7ff;
			return;
		}
		changed = false;
		for (u32 at = v->n; at-- > 0;) {
			u16 read, set, live = 0;
			u32 next[2], n;

			if (v->c->marks[at] & MARK_SECOND)
				continue;
			n = checker_successors(v->c, at, next);
			while (n--)
				live |= v->live[next[n]];
			uses(v, at, &read, &set);
			live = (live & ~set) | read;
			changed |= live != v->live[at];
			v->live[at] = live;
		}
	}
}

static void name_subprogs(struct verifier *v)
{
	const struct vm_prog *p = v->c->p;

	for (u32 i = 0; i < v->c->nsubs; i++) {
		v->subs[i].start = v->c->subs[i].start;
		for (u32 k = 0; p->subprogs && k < p->nsubprogs; k++) {
			if (p->subprogs[k].start != v->subs[i].start)
				continue;
			v->subs[i] = p->subprogs[k];
			v->subs[i].stack = 0;
		}
		if (!v->subs[i].type_id || !i)
			v->subs[i].global = false;
	}
}

/* (No function calls itself, and chains of calls are short.) */
static void find_locks(struct verifier *v)
{
	const struct checker *c = v->c;

	for (bool changed = true; changed;) {
		changed = false;
		for (u32 at = 0; at < v->n; at++) {
			bool *locks = &v->locks[c->sub_of[at]];
			bool now = *locks;

			if (c->marks[at] & MARK_SECOND)
				continue;
			if (c->op[at] == OP_CALL_HELPER)
				now |= v->insns[at].imm == BPF_FUNC_spin_lock;
			else if (c->op[at] == OP_CALL_LOCAL || c->op[at] == OP_LD_FUNC)
				now |= v->locks[c->sub_of[at + 1 + (u32)v->insns[at].imm]];
			changed |= now != *locks;
			*locks = now;
		}
	}
}

static bool verifier_init(struct verifier *v, const struct verify_opts *opts, u32 log_level)
{
	u32 n = v->c->p->ninsns, nsubs = v->c->nsubs;

	v->n = n;
	v->insns = v->c->p->insns;
	v->flags = opts ? opts->flags : 0;
	v->max_insns = opts && opts->max_insns ? opts->max_insns : VERIFY_MAX_INSNS;
	log_init(&v->log, log_level);
	v->explored = calloc(n, sizeof(*v->explored));
	v->point = calloc(n, 1);
	v->live = calloc(n, sizeof(*v->live));
	v->gathered = calloc(n, sizeof(*v->gathered));
	v->facts = calloc(n, sizeof(*v->facts));
	v->subs = calloc(nsubs, sizeof(*v->subs));
	v->tail_call = calloc(nsubs, sizeof(*v->tail_call));
	v->called = calloc(nsubs, sizeof(bool));
	v->done = calloc(nsubs, sizeof(bool));
	v->locks = calloc(nsubs, sizeof(bool));
	v->traits = calloc(v->c->nmaps + 1, sizeof(*v->traits));
	if (!v->explored || !v->point || !v->live || !v->gathered || !v->facts || !v->subs || !v->tail_call ||
	    !v->called || !v->done || !v->locks || !v->traits)
		return false;
	for (size_t i = 0; i < v->c->nmaps; i++)
		v->traits[i].lock_off = btf_index_lock(v->c->maps[i].btf, v->c->maps[i].value_type, v->c->maps[i].map->value_size);
	name_subprogs(v);
	find_points(v);
	find_locks(v);
	find_live(v);
	return true;
}

static void free_list(struct verifier *v, struct state *st)
{
	while (st) {
		struct state *next = st->next;

		state_free(v, st);
		st = next;
	}
}

/* What belongs to the following of one function from its beginning. */
static void forget_paths(struct verifier *v)
{
	state_free(v, v->cur);
	v->cur = NULL;
	while (v->npending)
		state_free(v, v->pending[--v->npending].st);
	for (u32 i = 0; v->explored && i < v->n; i++) {
		free_list(v, v->explored[i]);
		v->explored[i] = NULL;
	}
	free_list(v, v->kept);
	v->kept = NULL;
	v->nhist = 0;
}

static void verifier_deinit(struct verifier *v)
{
	forget_paths(v);
	free(v->pending);
	free(v->hist);
	free(v->explored);
	free(v->point);
	free(v->live);
	free(v->gathered);
	free(v->facts);
	free(v->subs);
	free(v->tail_call);
	free(v->called);
	free(v->done);
	free(v->locks);
	free(v->traits);
	log_deinit(&v->log);
}

/* --- following --- */

static struct uerr *check_read(struct verifier *v, u32 reg)
{
	if (v->regs[reg].type != NOT_INIT)
		return NULL;
	return v_refuse(v, v_text(v, "R%u !read_ok", reg), "give it a value on every path",
			"R%u is used before it has a value", reg);
}

static struct uerr *check_reads(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op)
{
	struct uerr *err = NULL;

	if (opcode_uses_src(op))
		err = check_read(v, insn->src_reg);
	if (!err && opcode_reads_dst(op))
		err = check_read(v, insn->dst_reg);
	if (!err && op->form == FORM_CMPXCHG)
		err = check_read(v, 0);
	return err;
}

static void do_imm64(struct verifier *v, const struct bpf_insn *insn, u32 id)
{
	struct reg *r = &v->regs[insn->dst_reg];

	v->touched_regs |= 1u << insn->dst_reg;
	v->next = v->pc + 2;
	v->gathered[v->pc + 1].seen = true;
	switch (id) {
	case OP_LD_MAP:
		*r = reg_pointer(PTR_MAP);
		r->map = (u16)insn->imm;
		break;
	case OP_LD_MAP_VALUE:
		*r = reg_pointer(PTR_MAP_VALUE);
		r->map = (u16)insn->imm;
		r->off = insn[1].imm; /* of the one value there is: the same lock each time, hence no id */
		break;
	case OP_LD_FUNC:
		*r = reg_pointer(PTR_FUNC);
		r->off = (s32)v->pc + 1 + insn->imm;
		break;
	default:
		reg_const(r, insn_imm64(insn));
	}
}

static struct uerr *execute(struct verifier *v)
{
	const struct bpf_insn *insn = &v->insns[v->pc];
	u32 id = v->c->op[v->pc];
	const struct opcode *op = &opcodes[id];
	struct uerr *err = check_reads(v, insn, op);

	if (err)
		return err;
	switch (op->form) {
	case FORM_ALU:
	case FORM_NEG:
	case FORM_MOVSX:
	case FORM_END:
		return do_alu(v, insn, id, op);
	case FORM_GOTO:
		v->jumps++;
		v->next = (u32)insn_jump_target(insn, v->pc);
		return NULL;
	case FORM_JUMP:
		v->jumps++;
		return do_jump(v, insn);
	case FORM_CALL:
		v->jumps++;
		return id == OP_CALL_LOCAL ? do_call(v, insn) : do_helper(v, insn);
	case FORM_EXIT:
		v->jumps++;
		return do_exit(v);
	case FORM_IMM64:
		do_imm64(v, insn, id);
		return NULL;
	case FORM_LOAD:
		return do_load(v, insn, op);
	case FORM_STORE:
		return do_store(v, insn, op);
	}
	return do_atomic(v, insn, op);
}

static struct uerr *step(struct verifier *v)
{
	struct uerr *err;

	if (!v_own_frame(v))
		return v->err;
	if (!history_add(v, v->pc))
		return uerr_nomem();
	v->gathered[v->pc].seen = true;
	v->next = v->pc + 1;
	v->touched_regs = 0;
	v->touched_slots = 0;
	if (v->log.level)
		log_insn(v);
	err = execute(v);
	if (!err)
		err = v->err;
	if (v->log.level && !err) {
		if (v->touched_regs || v->touched_slots) {
			log_printf(v, "\t\t;");
			log_state(v, v->cur, false);
		}
		log_printf(v, "\n");
	}
	return err;
}

static struct uerr *refuse_length(struct verifier *v)
{
	return v_refuse(v, v_text(v, "BPF program is too large. Processed %u insn", v->processed),
			"give loops a smaller bound, or simplify them",
			"more than %u instructions had to be followed: a loop is too long, or has no end,", v->max_insns);
}

static struct uerr *follow_all(struct verifier *v)
{
	struct uerr *err;
	bool pruned;

	for (;;) {
		if (v->ended) {
			state_end(v);
			v->ended = false;
			if (!state_pop(v))
				return NULL;
		}
		if (++v->processed > v->max_insns)
			return refuse_length(v);
		if (v->point[v->pc] || state_is_far(v->cur)) {
			err = state_visit(v, &pruned);
			if (err)
				return err;
			if (pruned) {
				log_printf(v, "%u: safe\n", v->pc);
				v->ended = true;
				continue;
			}
		}
		err = step(v);
		if (err)
			return err;
		v->prev_pc = v->pc;
		v->pc = v->next;
	}
}

/* Follows function SUB from its beginning. */
static struct uerr *follow_from(struct verifier *v, u32 sub)
{
	struct vm_prog *p = v->c->p;
	struct uerr *err = NULL;
	struct frame *f;

	forget_paths(v);
	v->pc = v->prev_pc = v->c->subs[sub].start;
	v->ended = false;
	v->in_global = sub;
	v->cur = state_new(v);
	f = frame_new(0, sub);
	if (!v->cur || !f) {
		free(f);
		free(v->cur);
		v->cur = NULL;
		return uerr_nomem();
	}
	v->cur->frames[0] = f;
	f->regs[BPF_REG_10] = reg_pointer(PTR_STACK);
	if (!v_own_frame(v))
		return v->err;
	if (sub) {
		log_printf(v, "Validating %s() func#%u...\n", v->subs[sub].name, sub);
		err = global_entry(v, sub);
	} else {
		v->regs[1] = reg_pointer(PTR_CTX);
		if (p->env && p->env->ctx) /* an embedder's programs get the size, too */
			reg_unknown(&v->regs[2]);
	}
	if (err)
		return err;
	log_printf(v, "%u:", v->pc);
	if (v->log.level)
		log_state(v, v->cur, true);
	log_printf(v, "\n");
	return follow_all(v);
}

static struct uerr *follow_program(struct verifier *v)
{
	struct uerr *err = follow_from(v, 0);
	bool more = true;

	while (!err && more) {
		more = false;
		for (u32 i = 1; !err && i < v->c->nsubs; i++) {
			if (!v->called[i] || v->done[i])
				continue;
			v->done[i] = more = true;
			err = follow_from(v, i);
		}
	}
	return err;
}

/* --- stack --- */

/* Before a tail call the frames above must leave room for what follows, and they
 * get a number from it. */
static struct uerr *check_tail_calls(struct verifier *v)
{
	const struct checker *c = v->c;
	cleanup_free u32 *above = calloc(c->nsubs, sizeof(*above));

	if (!above)
		return uerr_nomem();
	for (u32 round = 0; round < INSN_MAX_FRAMES; round++) {
		for (u32 at = 0; at < v->n; at++) {
			u32 from = c->sub_of[at], to, depth;

			if (c->marks[at] & MARK_SECOND || (c->op[at] != OP_CALL_LOCAL && c->op[at] != OP_LD_FUNC))
				continue;
			to = c->sub_of[at + 1 + (u32)v->insns[at].imm];
			depth = above[from] + ALIGN_UP(c->subs[from].stack, 16u);
			if (depth > above[to])
				above[to] = depth;
		}
	}
	for (u32 i = 1; i < c->nsubs; i++) {
		if (!v->tail_call[i])
			continue;
		v->pc = v->tail_call[i];
		if (!returns_number(v, i))
			return v_refuse(v, "tail_call is only allowed in functions that return 'int'",
					"let the function return int",
					"a tail call in a function that returns no number: what is called returns one,");
		if (above[i] < 256)
			continue;
		return v_refuse(v, v_text(v, "tail_calls are not allowed when call stack of previous frames is %u bytes. Too large",
					  above[i]),
				"use less stack in the functions above", "a tail call with %u bytes of stack in use", above[i]);
	}
	return NULL;
}

static struct uerr *check_stack(struct verifier *v)
{
	struct uerr *err;

	for (u32 i = 0; i < v->c->nsubs; i++)
		v->c->subs[i].stack = v->subs[i].stack;
	err = checker_measure(v->c);
	return err ? err : check_tail_calls(v);
}

/* --- what is told --- */

/* Stores whose slots nobody reads on any way from there; none, where that is not
 * clear after some passes. */
static bool find_dead_stores(struct verifier *v)
{
	cleanup_free u64 *live = calloc(v->n, sizeof(*live));
	bool changed = true;

	if (!live)
		return false;
	for (u32 pass = 0; changed; pass++) {
		if (pass == PASSES_MAX) {
			for (u32 at = 0; at < v->n; at++)
				v->facts[at].flags &= ~FACT_DEAD_STORE;
			return true;
		}
		changed = false;
		for (u32 at = v->n; at-- > 0;) {
			const struct gathered *g = &v->gathered[at];
			u32 next[2], n;
			u64 after = 0, before;

			if (v->c->marks[at] & MARK_SECOND || !g->seen)
				continue;
			n = checker_successors(v->c, at, next);
			while (n--)
				after |= live[next[n]];
			before = (after & ~(g->own && !g->elsewhere ? g->slots_replaced : 0)) | g->slots_read;
			changed |= before != live[at];
			live[at] = before;
			if (g->own && !g->elsewhere && opcodes[v->c->op[at]].form == FORM_STORE && !(after & g->slots_written))
				v->facts[at].flags |= FACT_DEAD_STORE;
			else
				v->facts[at].flags &= ~FACT_DEAD_STORE;
		}
	}
	return true;
}

/* What no path reaches becomes an instruction that can be compiled and does
 * nothing. The end of a function stays what it is. */
static void bury(struct verifier *v, struct vm_prog *p)
{
	for (u32 at = 0; at < v->n; at++) {
		u8 form = opcodes[v->c->op[at]].form;

		if (v->gathered[at].seen)
			continue;
		v->facts[at].flags = FACT_UNREACHED;
		if (v->c->marks[at] & MARK_SECOND || (form != FORM_EXIT && form != FORM_GOTO))
			p->insns[at] = (struct bpf_insn){ .code = BPF_JMP | BPF_JA };
	}
}

static struct uerr *accept(struct verifier *v, struct vm_prog *p)
{
	if (!v->stack_escaped && !find_dead_stores(v))
		return uerr_nomem();
	bury(v, p);
	v->info.nsubprogs = v->c->nsubs;
	v->info.stack_depth = v->c->subs[0].chain;
	v->info.leaf_pure = !v->impure;
	p->info = v->info;
	verify_forget(p);
	p->facts = steal_ptr(v->facts);
	p->subprogs = steal_ptr(v->subs);
	p->nsubprogs = v->c->nsubs;
	p->checked = true;
	return NULL;
}

void verify_forget(struct vm_prog *p)
{
	free(p->facts);
	free(p->subprogs);
	p->facts = NULL;
	p->subprogs = NULL;
	p->nsubprogs = 0;
}

/* --- all of it --- */

static void log_out(struct verifier *v, const struct verify_opts *opts)
{
	if (opts && opts->log && v->log.data)
		fputs(v->log.data, opts->log);
}

static struct uerr *verify_once(struct checker *c, const struct verify_opts *opts, u32 log_level,
				struct verify_stats *stats)
{
	struct verifier v = { .c = c };
	struct uerr *err = NULL;

	if (!verifier_init(&v, opts, log_level))
		err = uerr_nomem();
	if (!err)
		err = follow_program(&v);
	if (!err)
		err = check_stack(&v);
	if (!err) {
		log_totals(&v);
		err = accept(&v, c->p);
	}
	if (stats) {
		stats->insns_processed = v.processed;
		stats->states = v.total_states;
		stats->peak_states = v.peak_states;
	}
	log_out(&v, opts);
	verifier_deinit(&v);
	return err;
}

static u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000ull + (u64)ts.tv_nsec;
}

struct uerr *verify_program(struct vm_prog *p, const struct vm_map *maps, size_t nmaps, const struct verify_opts *opts,
			    struct verify_stats *stats)
{
	u32 level = opts ? opts->log_level : 1;
	u64 begin = now();
	struct checker c;
	struct uerr *err;

	p->checked = false;
	if (stats)
		*stats = (struct verify_stats){ 0 };
	err = checker_init(&c, p, maps, nmaps, opts && opts->flags & VERIFY_ABSENT_HELPERS);
	if (!err) {
		err = verify_once(&c, opts, level == 2 ? 2 : 0, stats);
		if (stats)
			stats->ns = now() - begin;
		if (err && err->code == UERR_REJECTED && level == 1) {
			uerr_free(err);
			err = verify_once(&c, opts, 1, NULL);
		}
	}
	checker_deinit(&c);
	return err;
}
