/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic on registers. Numbers are verify_scalar.c's; here is what may be
 * done with addresses: numbers may be added and subtracted as long as the sum
 * stays near, two addresses subtracted, and everything else is refused.
 */
#include "vm/verify_internal.h"

static struct uerr *refuse_arith(struct verifier *v, u32 reg, const char *detail)
{
	return v_refuse(v, detail, "only numbers can be added to an address, and only in 64 bits",
			"R%u is an address, with which this cannot be calculated", reg);
}

/* Whether an offset, or a pointer with it, stays so near that nothing overflows. */
static struct uerr *check_sane(struct verifier *v, const struct reg *r, const char *type)
{
	const struct scalar *s = &r->var;

	if (scalar_is_const(s) && (s->smin >= MAX_VAR_OFF || s->smin <= -MAX_VAR_OFF))
		return v_refuse(v, v_text(v, "math between %s pointer and %lld is not allowed", type,
				(long long)s->smin), "keep offsets below 512 MiB",
				"an address is moved by %lld", (long long)s->smin);
	if (is_pointer(r) && (r->off >= MAX_VAR_OFF || r->off <= -MAX_VAR_OFF))
		return v_refuse(v, v_text(v, "%s pointer offset %d is not allowed", type, r->off),
				"keep offsets below 512 MiB",
				"an address is moved by %d", r->off);
	if (s->smin == INT64_MIN)
		return v_refuse(v, v_text(v, "math between %s pointer and register with unbounded min value is not allowed", type),
				"check the index before it is used: if (i >= sizeof(buf)) return 0;",
				"an offset without a bound is added to an address");
	if (s->smin >= MAX_VAR_OFF || s->smin <= -MAX_VAR_OFF)
		return v_refuse(v, v_text(v, "value %lld makes %s pointer be out of bounds", (long long)s->smin, type),
				"check the index before it is used", "an address is moved too far");
	return NULL;
}

static struct uerr *pointer_allows(struct verifier *v, u32 at, const struct reg *p, const struct reg *off, u8 op)
{
	if (p->flags & REG_MAYBE_NULL)
		return v_refuse(v, v_text(v, "R%u pointer arithmetic on %s prohibited, null-check it first", at,
					  reg_type_name(p)),
				"compare it with NULL first: if (!p) return 0;", "R%u may be NULL", at);
	if (p->type == PTR_MAP && op == BPF_ADD && reg_is_null(off))
		return NULL;
	if (p->type == PTR_MAP || p->type == PTR_OPAQUE || p->type == PTR_DYNPTR || p->type == PTR_FUNC)
		return refuse_arith(v, at, v_text(v, "R%u pointer arithmetic on %s prohibited", at, reg_type_name(p)));
	return NULL;
}

/* DST (at register AT) becomes P op OFF. */
static struct uerr *pointer_add(struct verifier *v, u32 at, struct reg p, struct reg off, u8 op, bool pointer_first)
{
	struct reg *dst = &v->regs[at];
	s64 known = off.var.smin;
	struct reg r = p;
	struct uerr *err = pointer_allows(v, at, &p, &off, op);

	if (err)
		return err;
	err = check_sane(v, &off, reg_type_name(&p));
	if (!err)
		err = check_sane(v, &p, reg_type_name(&p));
	if (err)
		return err;
	switch (op) {
	case BPF_ADD:
		if (scalar_is_const(&off.var) && p.off + known == (s32)(p.off + known))
			r.off += (s32)known;
		else
			scalar_alu(&r.var, BPF_ADD, false, true, &off.var);
		break;
	case BPF_SUB:
		if (!pointer_first)
			return v_refuse(v, v_text(v, "R%u tried to subtract pointer from scalar", at),
					"subtract the number from the address",
					"an address is subtracted from a number");
		if (p.type == PTR_STACK)
			return v_refuse(v, v_text(v, "R%u subtraction from stack pointer prohibited", at), "add a negative number",
					"a number is subtracted from an address of the stack");
		if (scalar_is_const(&off.var) && p.off - known == (s32)(p.off - known))
			r.off -= (s32)known;
		else
			scalar_alu(&r.var, BPF_SUB, false, true, &off.var);
		break;
	case BPF_AND:
	case BPF_OR:
	case BPF_XOR:
		return refuse_arith(v, at, v_text(v, "R%u bitwise operator on pointer prohibited", at));
	default:
		return refuse_arith(v, at, v_text(v, "R%u pointer arithmetic with this operator prohibited", at));
	}
	err = check_sane(v, &r, reg_type_name(&p));
	if (!err)
		*dst = r;
	return err;
}

/* The result is a number that says nothing, but was an address. */
static void address_to_number(struct verifier *v, u32 at, const struct reg *a, const struct reg *b)
{
	address_escapes(v, a);
	if (b)
		address_escapes(v, b);
	reg_unknown(&v->regs[at]);
}

static struct uerr *do_mov(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op)
{
	bool w64 = BPF_CLASS(insn->code) == BPF_ALU64;
	struct reg *dst = &v->regs[insn->dst_reg], *src = &v->regs[insn->src_reg];
	u32 bits = op->form == FORM_MOVSX ? (u32)insn->off : w64 ? 64 : 32;
	bool sext = op->form == FORM_MOVSX, same;

	if (BPF_SRC(insn->code) == BPF_K) {
		reg_const(dst, w64 ? (u64)(s64)insn->imm : (u32)insn->imm);
		return NULL;
	}
	if (is_pointer(src) && bits == 64) {
		*dst = *src;
		return NULL;
	}
	if (is_pointer(src)) {
		address_to_number(v, insn->dst_reg, src, NULL);
		if (!w64)
			scalar_extend(&dst->var, 32, false, true);
		return NULL;
	}
	/* a copy, if nothing is cut off */
	same = bits == 64 || src->var.umax < 1ull << (sext ? bits - 1 : bits);
	if (same && !src->id && !scalar_is_const(&src->var))
		src->id = ++v->last_id;
	*dst = *src;
	if (bits == 64)
		return NULL;
	if (!same)
		dst->id = 0;
	scalar_extend(&dst->var, bits, sext, w64);
	return NULL;
}

static struct uerr *do_unary(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op)
{
	bool w64 = BPF_CLASS(insn->code) == BPF_ALU64;
	struct reg *dst = &v->regs[insn->dst_reg];

	if (is_pointer(dst)) {
		address_to_number(v, insn->dst_reg, dst, NULL);
		return NULL;
	}
	dst->id = 0;
	if (op->form == FORM_NEG)
		scalar_neg(&dst->var, w64);
	else /* little endian here: le only cuts off */
		scalar_bswap(&dst->var, (u32)insn->imm, w64 || BPF_SRC(insn->code) == BPF_TO_BE);
	return NULL;
}

static struct uerr *do_binary(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op)
{
	bool w64 = BPF_CLASS(insn->code) == BPF_ALU64, by_reg = BPF_SRC(insn->code) == BPF_X;
	struct reg *dst = &v->regs[insn->dst_reg], imm, *src = &v->regs[insn->src_reg];
	u8 code = BPF_OP(insn->code);
	struct uerr *err;

	(void)op;
	if (!by_reg) {
		reg_const(&imm, w64 ? (u64)(s64)insn->imm : (u32)insn->imm);
		src = &imm;
	}
	if (dst->type == SCALAR && src->type == SCALAR) {
		scalar_alu(&dst->var, code, insn->off == 1, w64, &src->var);
		dst->id = 0;
		return NULL;
	}
	if (code == BPF_SUB && (!w64 || (is_pointer(dst) && is_pointer(src)))) {
		address_to_number(v, insn->dst_reg, dst, src);
		if (!w64)
			scalar_extend(&dst->var, 32, false, true);
		return NULL;
	}
	if (is_pointer(dst) && is_pointer(src))
		return refuse_arith(v, insn->dst_reg, v_text(v, "R%u pointer %s pointer prohibited", insn->dst_reg, op->text));
	if (!w64)
		return refuse_arith(v, insn->dst_reg, v_text(v, "R%u 32-bit pointer arithmetic prohibited", insn->dst_reg));
	if (is_pointer(dst)) {
		err = by_reg ? mark_precise(v, insn->src_reg) : NULL;
		return err ? err : pointer_add(v, insn->dst_reg, *dst, *src, code, true);
	}
	err = mark_precise(v, insn->dst_reg);
	return err ? err : pointer_add(v, insn->dst_reg, *src, *dst, code, false);
}

struct uerr *do_alu(struct verifier *v, const struct bpf_insn *insn, u32 id, const struct opcode *op)
{
	(void)id;
	v->touched_regs |= 1u << insn->dst_reg;
	if (op->form == FORM_NEG || op->form == FORM_END)
		return do_unary(v, insn, op);
	if (BPF_OP(insn->code) == BPF_MOV)
		return do_mov(v, insn, op);
	return do_binary(v, insn, op);
}
