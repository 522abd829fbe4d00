/* SPDX-License-Identifier: MIT */
/*
 * Conditional jumps: which ways are possible, and what each of them tells about
 * the compared registers and their copies.
 */
#include "vm/verify_internal.h"

void sync_linked(struct verifier *v, struct state *st, const struct reg *known)
{
	struct reg value = *known;

	if (!value.id)
		return;
	for (u32 i = 0; i <= st->curframe; i++) {
		const struct frame *shared = st->frames[i];
		struct frame *f = NULL;

		for (u32 k = 0; k < NREGS + shared->nslots; k++) {
			const struct slot *s = k < NREGS ? NULL : &shared->slots[k - NREGS];
			const struct reg *r = s ? &s->reg : &shared->regs[k];

			if (r->type != SCALAR || r->id != value.id || (s && !slot_is_spill(s)))
				continue;
			if (!f) {
				f = state_frame(v, st, i);
				if (!f)
					return;
				shared = f;
			}
			*(s ? &f->slots[k - NREGS].reg : &f->regs[k]) = value;
		}
	}
}

/* Every copy of the pointer ID in ST is NULL, or not. */
static void learn_null(struct verifier *v, struct state *st, u32 id, u32 ref, bool null)
{
	for (u32 i = 0; i <= st->curframe; i++) {
		struct frame *f = state_frame(v, st, i);

		if (!f)
			return;
		for_each_reg(r, f) {
			if (r->id != id || !(r->flags & REG_MAYBE_NULL))
				continue;
			if (null) {
				reg_const(r, 0);
				continue;
			}
			r->flags &= ~REG_MAYBE_NULL;
			if (r->type != PTR_MAP_VALUE || v->traits[r->map].lock_off < 0)
				r->id = 0;
		}
	}
	if (null && ref)
		ref_release(st, ref);
}

static bool maybe_null(const struct reg *r)
{
	return is_pointer(r) && r->flags & REG_MAYBE_NULL;
}

/* Pointers that are certainly not NULL. */
static bool never_null(const struct reg *r)
{
	return (r->type == PTR_MAP_VALUE || r->type == PTR_MEM || r->type == PTR_MAP) && !(r->flags & REG_MAYBE_NULL);
}

static int decide(u8 op, bool w64, const struct reg *a, const struct reg *b)
{
	if (a->type == SCALAR && b->type == SCALAR)
		return scalar_branch(op, w64, &a->var, &b->var);
	if (is_pointer(b)) {
		const struct reg *t = a;

		a = b;
		b = t;
	}
	if (!w64 || !never_null(a) || !reg_is_null(b))
		return -1;
	return op == BPF_JEQ ? 0 : op == BPF_JNE ? 1 : -1;
}

static u64 operand(const struct bpf_insn *insn, bool w64)
{
	return w64 ? (u64)(s64)insn->imm : (u32)insn->imm;
}

/* In ST the compared registers, and their copies, are A and B. */
static void refine(struct verifier *v, struct state *st, const struct bpf_insn *insn, struct reg a, struct reg b)
{
	struct frame *f = state_frame(v, st, st->curframe);

	if (!f)
		return;
	if (a.id)
		sync_linked(v, st, &a);
	f = st->frames[st->curframe];
	f->regs[insn->dst_reg] = a;
	if (BPF_SRC(insn->code) != BPF_X)
		return;
	if (b.id && b.id != a.id)
		sync_linked(v, st, &b);
	f = st->frames[st->curframe];
	if (insn->src_reg != insn->dst_reg)
		f->regs[insn->src_reg] = b;
}

static struct uerr *pin(struct verifier *v, const struct bpf_insn *insn)
{
	struct uerr *err = mark_precise(v, insn->dst_reg);

	return err || BPF_SRC(insn->code) != BPF_X ? err : mark_precise(v, insn->src_reg);
}

/* Goes one way. */
static void go(struct verifier *v, const struct bpf_insn *insn, bool taken)
{
	if (taken)
		v->next = (u32)insn_jump_target(insn, v->pc);
}

static struct uerr *both_numbers(struct verifier *v, const struct bpf_insn *insn, struct reg a, struct reg b)
{
	bool w64 = BPF_CLASS(insn->code) == BPF_JMP;
	u8 op = BPF_OP(insn->code);
	struct reg ta = a, tb = b, fa = a, fb = b;
	struct state *other;

	/* Where bits and bounds together leave no number for one way, but neither alone, Linux (6.18) follows it;
	 * so what it refuses there is refused here, too. */
	if (!scalar_refine(op, w64, true, &ta.var, &tb.var)) {
		ta = a;
		tb = b;
	}
	if (!scalar_refine(op, w64, false, &fa.var, &fb.var)) {
		fa = a;
		fb = b;
	}
	history_linked(v, insn);
	other = v->err ? NULL : state_push(v, (u32)insn_jump_target(insn, v->pc));
	if (!other)
		return v->err;
	refine(v, other, insn, ta, tb);
	refine(v, v->cur, insn, fa, fb);
	return v->err;
}

static struct uerr *both_pointers(struct verifier *v, const struct bpf_insn *insn, const struct reg *a, const struct reg *b)
{
	bool w64 = BPF_CLASS(insn->code) == BPF_JMP, by_reg = BPF_SRC(insn->code) == BPF_X;
	u8 op = BPF_OP(insn->code);
	struct reg p = *a, q = *b;
	struct state *other, *equal, *differ;

	other = state_push(v, (u32)insn_jump_target(insn, v->pc));
	if (!other)
		return v->err;
	if (!w64 || (op != BPF_JEQ && op != BPF_JNE))
		return NULL;
	equal = op == BPF_JEQ ? other : v->cur;
	differ = op == BPF_JEQ ? v->cur : other;
	if (!by_reg && !insn->imm && maybe_null(&p)) {
		learn_null(v, equal, p.id, p.ref, true);
		learn_null(v, differ, p.id, p.ref, false);
	} else if (by_reg && is_pointer(&p) && is_pointer(&q) && maybe_null(&p) != maybe_null(&q) && p.type != PTR_OPAQUE &&
		   q.type != PTR_OPAQUE) {
		/* equal to one that is not NULL */
		learn_null(v, equal, maybe_null(&p) ? p.id : q.id, 0, false);
	}
	return v->err;
}

struct uerr *do_jump(struct verifier *v, const struct bpf_insn *insn)
{
	bool w64 = BPF_CLASS(insn->code) == BPF_JMP;
	const struct reg *a = &v->regs[insn->dst_reg], *b = &v->regs[insn->src_reg];
	struct reg imm;
	struct uerr *err;
	int certain;

	v->touched_regs |= 1u << insn->dst_reg;
	if (BPF_SRC(insn->code) == BPF_K) {
		reg_const(&imm, operand(insn, w64));
		b = &imm;
	} else {
		v->touched_regs |= 1u << insn->src_reg;
	}
	certain = decide(BPF_OP(insn->code), w64, a, b);
	if (certain >= 0) {
		err = pin(v, insn);
		if (err)
			return err;
		go(v, insn, certain);
		return NULL;
	}
	if (a->type == SCALAR && b->type == SCALAR)
		return both_numbers(v, insn, *a, *b);
	return both_pointers(v, insn, a, b);
}
