/* SPDX-License-Identifier: MIT */
/*
 * Machine code of arithmetic. Two principles: the latency of a chain of
 * operations is what a program waits for (so a multiplication by a constant is
 * two shifts and additions where that is shorter, and a division by one a
 * multiplication), and what the CPU renames for free (a move) is not worth a
 * detour.
 */
#include "vm/jit_internal.h"

void jit_zf_tells(struct jit *j, enum x86_reg reg, bool w)
{
	j->flags_at = j->i;
	j->zf_reg = reg;
	j->zf_w = w;
	j->cmp = NO_INSN;
}

void jit_alu_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	enum x86_reg dst = dst_of(insn);
	bool w = is_64(insn);

	if (op == X86_AND && (insn->imm == 0xff || insn->imm == 0xffff)) {
		emit_extend_rr(&j->e, false, false, insn->imm == 0xff ? X86_8 : X86_16, dst, dst);
		return;
	}
	/* A mask without sign clears the upper half, as a 32-bit operation does. */
	emit_alu_ri(&j->e, w && !(op == X86_AND && insn->imm >= 0), op, dst, insn->imm);
	jit_zf_tells(j, dst, w);
}

void jit_alu_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_alu_rr(&j->e, is_64(insn), op, dst_of(insn), src_of(insn));
	jit_zf_tells(j, dst_of(insn), is_64(insn));
}

void jit_neg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_unary(&j->e, is_64(insn), X86_NEG, dst_of(insn));
}

/*
 * Multiplication: imul takes three cycles
 */

/* dst *= 3, 5 or 9 */
static void times_lea(struct emit *e, bool w, enum x86_reg dst, u32 factor)
{
	emit_lea(e, w, dst, (struct x86_mem){ dst, dst, (u8)__builtin_ctz(factor - 1), 0 });
}

/* dst *= n in two cycles or less; false: n is not of that kind. */
static bool multiply_short(struct jit *j, bool w, enum x86_reg dst, u32 n)
{
	struct emit *e = &j->e;
	u32 twos = n ? (u32)__builtin_ctz(n) : 0, odd = n >> twos;

	if (n < 2)
		return false;
	if (odd == 1) {
		emit_shift_i(e, w, X86_SHL, dst, (u8)twos);
	} else if (odd == 3 || odd == 5 || odd == 9) {
		times_lea(e, w, dst, odd);
		if (twos == 1)
			emit_alu_rr(e, w, X86_ADD, dst, dst);
		else if (twos)
			emit_shift_i(e, w, X86_SHL, dst, (u8)twos);
	} else if (!twos && !(n & (n + 1))) { /* 2^k - 1 */
		emit_mov_rr(e, w, scratch(j, R11), dst);
		emit_shift_i(e, w, X86_SHL, dst, (u8)__builtin_ctz(n + 1));
		emit_alu_rr(e, w, X86_SUB, dst, R11);
	} else if (!twos && !((n - 1) & (n - 2))) { /* 2^k + 1 */
		emit_mov_rr(e, w, scratch(j, R11), dst);
		emit_shift_i(e, w, X86_SHL, dst, (u8)__builtin_ctz(n - 1));
		emit_alu_rr(e, w, X86_ADD, dst, R11);
	} else {
		return false;
	}
	return true;
}

void jit_mul_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	bool w = is_64(insn);

	if (insn->imm <= 0 || !multiply_short(j, w, dst_of(insn), (u32)insn->imm))
		emit_imul_rri(&j->e, w, dst_of(insn), dst_of(insn), insn->imm);
}

void jit_mul_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_imul_rr(&j->e, is_64(insn), dst_of(insn), src_of(insn));
}

/*
 * Division
 */

/* rax and rdx are the operands of div and belong to r0 and r3: what is not the
 * destination is put aside in r9 and r10. */
static void divide_by(struct jit *j, bool w, u32 kind, enum x86_reg dst, enum x86_reg by)
{
	struct emit *e = &j->e;
	enum x86_reg result = kind & DIV_MOD ? RDX : RAX;

	if (dst != RDX)
		emit_mov_rr(e, true, scratch(j, R10), RDX);
	if (dst != RAX) {
		emit_mov_rr(e, true, scratch(j, R9), RAX);
		emit_mov_rr(e, w, RAX, dst);
	}
	if (kind & DIV_SIGNED)
		emit_sign_rax(e, w);
	else
		emit_alu_rr(e, false, X86_XOR, RDX, RDX);
	emit_unary(e, w, kind & DIV_SIGNED ? X86_IDIV : X86_DIV, by);
	if (dst != result)
		emit_mov_rr(e, w, dst, result);
	if (dst != RAX)
		emit_mov_rr(e, true, RAX, R9);
	if (dst != RDX)
		emit_mov_rr(e, true, RDX, R10);
}

/* x / 0 = 0, x % 0 = x, both in the width of the operation. */
static void divide_by_zero(struct jit *j, bool w, u32 kind, enum x86_reg dst)
{
	if (!(kind & DIV_MOD))
		emit_mov_ri(&j->e, dst, 0);
	else if (!w)
		emit_mov_rr(&j->e, false, dst, dst);
}

/* x / -1 = -x and x % -1 = 0: INT_MIN / -1 would trap. */
static void divide_by_minus_one(struct jit *j, bool w, u32 kind, enum x86_reg dst)
{
	if (kind & DIV_MOD)
		emit_mov_ri(&j->e, dst, 0);
	else
		emit_unary(&j->e, w, X86_NEG, dst);
}

/* r11 = upper half of (dst * M), with rdx, the operand that mulx wants, put
 * aside in r10. */
static void multiply_high(struct jit *j, enum x86_reg dst, u64 m)
{
	struct emit *e = &j->e;

	emit_mov_ri(e, scratch(j, R11), m);
	if (dst != RDX) {
		emit_mov_rr(e, true, scratch(j, R10), RDX);
		emit_mov_rr(e, true, RDX, dst);
	}
	emit_mulx(e, true, R11, scratch(j, R9), R11);
	if (dst != RDX)
		emit_mov_rr(e, true, RDX, R10);
}

/*
 * r11 = dst / D for D > 2, no power of two. 32 bits: dst * (2^64 / D + 1) >> 64 is
 * exact for every dst below 2^32 (the error is below 1 / D). 64 bits: the
 * multiplier needs 65 bits for some D; then, as in "Division by Invariant
 * Integers using Multiplication" (Granlund, Montgomery), q = ((dst - q) >> 1) + q.
 */
static void quotient_32(struct jit *j, enum x86_reg dst, u32 d)
{
	emit_mov_rr(&j->e, false, dst, dst);
	multiply_high(j, dst, ~0ull / d + 1);
}

static void quotient_64(struct jit *j, enum x86_reg dst, u64 d)
{
	struct emit *e = &j->e;
	u32 log = 63 - (u32)__builtin_clzll(d);
	unsigned __int128 power = (unsigned __int128)1 << (64 + log);
	u64 m = (u64)(power / d), rest = (u64)(power % d);
	bool add = d - rest >= 1ull << log;

	if (add) {
		bool carry = rest + rest >= d || rest + rest < rest;

		m = 2 * m + carry;
	}
	multiply_high(j, dst, m + 1);
	if (add) {
		emit_mov_rr(e, true, R9, dst);
		emit_alu_rr(e, true, X86_SUB, R9, R11);
		emit_shift_i(e, true, X86_SHR, R9, 1);
		emit_alu_rr(e, true, X86_ADD, R11, R9);
	}
	if (log)
		emit_shift_i(e, true, X86_SHR, R11, (u8)log);
}

static void divide_by_constant(struct jit *j, bool w, u32 kind, enum x86_reg dst, u64 d)
{
	struct emit *e = &j->e;

	if (w)
		quotient_64(j, dst, d);
	else
		quotient_32(j, dst, (u32)d);
	if (kind & DIV_MOD) {
		if (d <= INT32_MAX) {
			emit_imul_rri(e, w, R11, R11, (s32)d);
		} else {
			emit_mov_ri(e, R9, d);
			emit_imul_rr(e, w, R11, R9);
		}
		emit_alu_rr(e, w, X86_SUB, dst, R11);
	} else {
		emit_mov_rr(e, w, dst, R11);
	}
}

void jit_divide_imm(struct jit *j, const struct bpf_insn *insn, u32 kind)
{
	bool w = is_64(insn);
	enum x86_reg dst = dst_of(insn);
	u64 d = w ? (u64)(s64)insn->imm : (u32)insn->imm;

	if (!d) {
		divide_by_zero(j, w, kind, dst);
	} else if (insn->imm == -1 && (kind & DIV_SIGNED)) {
		divide_by_minus_one(j, w, kind, dst);
	} else if (!(kind & DIV_SIGNED) && !(d & (d - 1)) && d <= INT32_MAX) {
		if (kind & DIV_MOD)
			emit_alu_ri(&j->e, false, X86_AND, dst, (s32)(d - 1));
		else if (d > 1)
			emit_shift_i(&j->e, w, X86_SHR, dst, (u8)__builtin_ctzll(d));
		else if (!w)
			emit_mov_rr(&j->e, false, dst, dst);
	} else if (!(kind & DIV_SIGNED) && (d & (d - 1)) && j->bmi2) {
		divide_by_constant(j, w, kind, dst, d);
	} else {
		emit_mov_ri(&j->e, scratch(j, R11), d);
		divide_by(j, w, kind, dst, R11);
	}
}

void jit_divide_reg(struct jit *j, const struct bpf_insn *insn, u32 kind)
{
	struct emit *e = &j->e;
	bool w = is_64(insn);
	enum x86_reg dst = dst_of(insn), by = src_of(insn);
	size_t zero, minus = 0, end[2], nend = 0;

	if (by == RAX || by == RDX) {
		emit_mov_rr(e, w, scratch(j, R11), by);
		by = R11;
	}
	emit_test_rr(e, w, by, by);
	zero = emit_jcc_fwd(e, CC_E);
	if (kind & DIV_SIGNED) {
		emit_alu_ri(e, w, X86_CMP, by, -1);
		minus = emit_jcc_fwd(e, CC_E);
	}
	divide_by(j, w, kind, dst, by);
	end[nend++] = emit_jmp_fwd(e);
	if (kind & DIV_SIGNED) {
		emit_land(e, minus);
		divide_by_minus_one(j, w, kind, dst);
		end[nend++] = emit_jmp_fwd(e);
	}
	emit_land(e, zero);
	divide_by_zero(j, w, kind, dst);
	while (nend)
		emit_land(e, end[--nend]);
}

/*
 * Shifts
 */

void jit_shift_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	bool w = is_64(insn);
	enum x86_reg dst = dst_of(insn);
	u8 count = insn->imm & (w ? 63 : 31);

	if (count == 1 && op == X86_SHL)
		emit_alu_rr(&j->e, w, X86_ADD, dst, dst);
	else if (count)
		emit_shift_i(&j->e, w, op, dst, count);
	else if (!w)
		emit_mov_rr(&j->e, false, dst, dst);
}

/* Without BMI2 the count must be in cl, which is r4's. */
static void shift_by_cl(struct jit *j, bool w, u32 op, enum x86_reg dst, enum x86_reg count)
{
	struct emit *e = &j->e;

	if (count == RCX && dst != RCX) {
		emit_shift_cl(e, w, op, dst);
		return;
	}
	emit_mov_rr(e, true, scratch(j, R11), RCX);
	if (count != RCX)
		emit_mov_rr(e, false, RCX, count);
	emit_shift_cl(e, w, op, dst == RCX ? R11 : dst);
	emit_mov_rr(e, true, RCX, R11);
}

void jit_shift_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	bool w = is_64(insn);

	if (j->bmi2)
		emit_shiftx(&j->e, w, op, dst_of(insn), dst_of(insn), src_of(insn));
	else
		shift_by_cl(j, w, op, dst_of(insn), src_of(insn));
}

/*
 * Moves
 */

void jit_mov_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_mov_ri(&j->e, dst_of(insn), is_64(insn) ? (u64)(s64)insn->imm : (u32)insn->imm);
}

void jit_mov_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	bool same = insn->dst_reg == insn->src_reg;

	if (!same || (!is_64(insn) && !upper_zero(j, j->i, insn->src_reg)))
		emit_mov_rr(&j->e, is_64(insn), dst_of(insn), src_of(insn));
}

void jit_movsx(struct jit *j, const struct bpf_insn *insn, u32 size)
{
	emit_extend_rr(&j->e, is_64(insn), true, size, dst_of(insn), src_of(insn));
}

void jit_to_le(struct jit *j, const struct bpf_insn *insn, u32 size)
{
	if (size != X86_64)
		emit_extend_rr(&j->e, false, false, size, dst_of(insn), dst_of(insn));
}

void jit_swap(struct jit *j, const struct bpf_insn *insn, u32 size)
{
	enum x86_reg dst = dst_of(insn);

	if (size == X86_16) {
		emit_ror16_8(&j->e, dst);
		emit_extend_rr(&j->e, false, false, X86_16, dst, dst);
	} else {
		emit_bswap(&j->e, size == X86_64, dst);
	}
}

/*
 * Groups (jit_plan.c)
 */

/* The group's last instruction. */
static const struct bpf_insn *partner(const struct jit *j)
{
	return &j->insns[j->steps[j->i].with];
}

void jit_fused_extend(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	const struct bpf_insn *last = partner(j);
	bool move = BPF_OP(insn->code) == BPF_MOV;
	enum x86_reg dst = dst_of(insn), src = move ? src_of(insn) : dst;

	if (BPF_OP(last->code) == BPF_ARSH)
		emit_extend_rr(&j->e, true, true, X86_32, dst, src);
	else if (dst != src || !upper_zero(j, j->i, insn->dst_reg))
		emit_mov_rr(&j->e, false, dst, src);
}

void jit_fused_rotate(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	const struct bpf_insn *first = &j->insns[j->steps[j->i].load];
	enum x86_reg dst = scratch(j, dst_of(partner(j))), src = src_of(insn);
	bool w = is_64(first);
	u8 width = w ? 64 : 32;
	u8 right = (u8)(BPF_OP(first->code) == BPF_RSH ? first->imm : width - first->imm);

	if (j->bmi2 && dst != src) {
		emit_rorx(&j->e, w, dst, src, right);
		return;
	}
	if (dst != src)
		emit_mov_rr(&j->e, w, dst, src);
	emit_shift_i(&j->e, w, X86_ROR, dst, right);
}

static const u8 shift_of[16] = { [BPF_LSH >> 4] = X86_SHL, [BPF_RSH >> 4] = X86_SHR, [BPF_ARSH >> 4] = X86_SAR };

void jit_fused_mov_op(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	const struct bpf_insn *op = partner(j);
	enum x86_reg dst = dst_of(insn), src = src_of(insn);
	bool w = is_64(insn);

	switch (BPF_OP(op->code)) {
	case BPF_ADD:
		if (BPF_SRC(op->code) == BPF_K)
			emit_lea(&j->e, w, dst, x86_at(src, op->imm));
		else
			emit_lea(&j->e, w, dst,
				 (struct x86_mem){ src, op->src_reg == op->dst_reg ? src : src_of(op), 0, 0 });
		break;
	case BPF_AND:
		emit_extend_rr(&j->e, false, false, op->imm == 0xff ? X86_8 : X86_16, dst, src);
		break;
	default:
		emit_shiftx(&j->e, w, shift_of[BPF_OP(op->code) >> 4], dst, src, src_of(op));
	}
}

/* The bits that a rotate brings in from below are masked away. */
void jit_fused_field(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	const struct bpf_insn *mask = partner(j);
	const struct bpf_insn *shift = &j->insns[j->steps[j->i].load];
	enum x86_reg dst = dst_of(insn);

	emit_rorx(&j->e, is_64(shift), dst, src_of(insn), (u8)shift->imm);
	if (mask->imm == 0xff || mask->imm == 0xffff) {
		emit_extend_rr(&j->e, false, false, mask->imm == 0xff ? X86_8 : X86_16, dst, dst);
	} else {
		emit_alu_ri(&j->e, false, X86_AND, dst, mask->imm);
		jit_zf_tells(j, dst, true);
	}
}

void jit_fused_shift_add(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	emit_lea(&j->e, is_64(insn), dst_of(insn),
		 (struct x86_mem){ src_of(partner(j)), dst_of(insn), (u8)insn->imm, 0 });
}

static const u8 alu_of[16] = { [BPF_ADD >> 4] = X86_ADD, [BPF_SUB >> 4] = X86_SUB, [BPF_OR >> 4] = X86_OR,
			       [BPF_AND >> 4] = X86_AND, [BPF_XOR >> 4] = X86_XOR };

void jit_fused_load_op(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	const struct bpf_insn *op = partner(j);
	enum x86_reg dst = scratch(j, dst_of(op));

	if (BPF_OP(op->code) == BPF_MUL) {
		emit_imul_rm(&j->e, is_64(op), dst, jit_mem(j, j->i));
	} else {
		emit_alu_rm(&j->e, is_64(op), alu_of[BPF_OP(op->code) >> 4], dst, jit_mem(j, j->i));
		jit_zf_tells(j, dst, is_64(op));
	}
}

void jit_fused_load_swap(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	enum x86_size size = size_of(insn);
	enum x86_reg dst = dst_of(insn);

	if (j->movbe && size != X86_16) {
		emit_movbe(&j->e, size, dst, jit_mem(j, j->i));
		return;
	}
	emit_load(&j->e, size, false, dst, jit_mem(j, j->i));
	if (size == X86_16) /* the bits above are zero and stay so */
		emit_ror16_8(&j->e, dst);
	else
		emit_bswap(&j->e, size == X86_64, dst);
}

void jit_fused_clear_low(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	const struct bpf_insn *and = partner(j);

	emit_blsr(&j->e, is_64(and), scratch(j, dst_of(and)), dst_of(and));
	jit_zf_tells(j, dst_of(and), is_64(and));
}
