/* SPDX-License-Identifier: MIT */
/*
 * The compiler: BPF instructions to x86-64, one at a time, with a look at the
 * next one or two where a pair has a shorter form.
 *
 * The machine as a program sees it:
 *
 *	r0   r1   r2   r3   r4   r5   r6   r7   r8   r9   fp
 *	rax  rdi  rsi  rdx  rcx  r8   rbx  r13  r14  r15  rbp
 *
 * r1-r5 are where the System V convention wants the arguments of a helper, and
 * the sixth, r9, gets the frame; so a helper call is `mov r9, r12; call`. r9,
 * r10 and r11 are ours. Everything is done with general registers, and the
 * direction flag is left alone.
 *
 * A function (the program, or a subprogram) has the stack
 *
 *	return address
 *	rbp              only if it uses fp; rbp points here: [rbp-1, rbp-depth] are the
 *	BPF stack        program's
 *	padding          so that rsp is a multiple of 16 at calls, if there are any
 *	rbx r12 r13 …    only those that it writes
 *
 * A program that uses per-CPU maps claims a slot at its start and gives it back
 * at its only way out:
 *
 *	main:  … mov r9, r12; call claim; inc rax; jz out      (no slot: rax = 0)
 *	       …
 *	exit:  claims[frame->slot].owner = 0
 *	out:   pop …; ret
 *
 * Jumps are compiled in passes: the first takes every forward jump as long, the
 * following ones shorten what fits, until nothing moves. Code only ever shrinks
 * from pass to pass, so a jump that was short stays short.
 */
#include "vm/jit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/emit_x86_64.h"
#include "vm/opcodes.h"

#define JIT_INSN_BOUND 96 /* bytes of code for one instruction, at most */
#define JIT_FUNC_BOUND 128
#define JIT_MAX_PASSES 64
#define NO_MAP (-1)

enum {
	AT_TARGET = 1, /* a jump leads here */
	AT_FUNC = 2,   /* a function starts here */
	AT_SHORT = 4,  /* a jump, known to fit in two bytes */
	AT_SKIP = 8,   /* needs no code */
	AT_SECOND = 16, /* second half of an ld_imm64 */
};

struct func {
	u32 start, end;   /* instructions */
	u32 depth;        /* bytes of BPF stack, a multiple of 8 */
	u32 pad;
	bool uses_fp, calls;
	u32 saved;        /* mask of x86 registers to push */
	size_t entry_off; /* of its prologue */
};

struct jit {
	const struct jit_input *in;
	const struct bpf_insn *insns;
	u32 n;
	struct emit e;
	u32 *off;       /* n + 1, from the last pass; the program's insn_off */
	u8 *at;         /* AT_ bits of each instruction */
	u8 *ids;        /* enum opcode_id of each instruction */
	s32 *array;     /* of each call: the array map to look up inline, or NO_MAP */
	struct func *funcs;
	u32 nfuncs;
	const struct func *func; /* being compiled */
	u32 i;          /* instruction being compiled */
	u32 taken;      /* further instructions that went into it */
	bool first_pass, changed;
	bool bmi2, frame;
	u32 written;    /* mask of x86 registers */
	size_t exit_off, out_off; /* of the main program's shared end */
	/* ZF tells whether this register is zero, as of instruction zf_at */
	u32 zf_at;
	enum x86_reg zf_reg;
	bool zf_w;
};

static const u8 reg_of[] = { RAX, RDI, RSI, RDX, RCX, R8, RBX, R13, R14, R15, RBP };

static enum x86_reg dst_of(const struct bpf_insn *insn)
{
	return reg_of[insn->dst_reg];
}

static enum x86_reg src_of(const struct bpf_insn *insn)
{
	return reg_of[insn->src_reg];
}

/* Marks R as changed. */
static enum x86_reg scratch(struct jit *j, enum x86_reg r)
{
	j->written |= 1u << r;
	return r;
}

static bool is_64(const struct bpf_insn *insn)
{
	u8 class = BPF_CLASS(insn->code);

	return class == BPF_ALU64 || class == BPF_JMP;
}

static enum x86_size size_of(const struct bpf_insn *insn)
{
	switch (BPF_SIZE(insn->code)) {
	case BPF_B:
		return X86_8;
	case BPF_H:
		return X86_16;
	case BPF_W:
		return X86_32;
	}
	return X86_64;
}

/* The instruction K places further on, if control can only come to it from the
 * one before; else NULL. */
static const struct bpf_insn *following(const struct jit *j, u32 k)
{
	for (u32 i = j->i + 1; i <= j->i + k; i++)
		if (i >= j->func->end || (j->at[i] & (AT_TARGET | AT_FUNC)))
			return NULL;
	return &j->insns[j->i + k];
}

static bool follows(const struct jit *j, u32 k, enum opcode_id id, u32 dst)
{
	const struct bpf_insn *insn = following(j, k);

	return insn && j->ids[j->i + k] == id && insn->dst_reg == dst;
}

static void zf_tells(struct jit *j, enum x86_reg reg, bool w)
{
	j->zf_at = j->i;
	j->zf_reg = reg;
	j->zf_w = w;
}

/*
 * Arithmetic
 */

static void alu_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	enum x86_reg dst = dst_of(insn);
	bool w = is_64(insn);

	if (op == X86_AND && (insn->imm == 0xff || insn->imm == 0xffff)) {
		emit_extend_rr(&j->e, false, false, insn->imm == 0xff ? X86_8 : X86_16, dst, dst);
		return;
	}
	/* A mask without sign clears the upper half, as a 32-bit operation does. */
	emit_alu_ri(&j->e, w && !(op == X86_AND && insn->imm >= 0), op, dst, insn->imm);
	zf_tells(j, dst, w);
}

static void alu_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_alu_rr(&j->e, is_64(insn), op, dst_of(insn), src_of(insn));
	zf_tells(j, dst_of(insn), is_64(insn));
}

static void mul_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_imul_rri(&j->e, is_64(insn), dst_of(insn), dst_of(insn), insn->imm);
}

static void mul_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_imul_rr(&j->e, is_64(insn), dst_of(insn), src_of(insn));
}

static void neg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_unary(&j->e, is_64(insn), X86_NEG, dst_of(insn));
}

enum { DIV_SIGNED = 1, DIV_MOD = 2 };

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

static void divide_imm(struct jit *j, const struct bpf_insn *insn, u32 kind)
{
	bool w = is_64(insn);
	enum x86_reg dst = dst_of(insn);

	if (!insn->imm) {
		divide_by_zero(j, w, kind, dst);
	} else if (insn->imm == -1 && (kind & DIV_SIGNED)) {
		divide_by_minus_one(j, w, kind, dst);
	} else {
		emit_mov_ri(&j->e, scratch(j, R11), w ? (u64)(s64)insn->imm : (u32)insn->imm);
		divide_by(j, w, kind, dst, R11);
	}
}

static void divide_reg(struct jit *j, const struct bpf_insn *insn, u32 kind)
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

/* Zero or sign extension by a pair of shifts (before v3 there are no moves of 32
 * bits): << 32 then >> 32 of D, whose value is in FROM. */
static bool extend_by_shifts(struct jit *j, u32 k, u32 d, enum x86_reg from)
{
	const struct bpf_insn *l = k ? following(j, k) : &j->insns[j->i];
	const struct bpf_insn *r;

	if (!l || j->ids[j->i + k] != OP_LSH64_IMM || l->dst_reg != d || l->imm != 32)
		return false;
	r = following(j, k + 1);
	if (!r || r->dst_reg != d || r->imm != 32)
		return false;
	if (j->ids[j->i + k + 1] == OP_RSH64_IMM)
		emit_mov_rr(&j->e, false, reg_of[d], from);
	else if (j->ids[j->i + k + 1] == OP_ARSH64_IMM)
		emit_extend_rr(&j->e, true, true, X86_32, reg_of[d], from);
	else
		return false;
	j->taken = k + 1;
	return true;
}

static void shift_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	bool w = is_64(insn);
	enum x86_reg dst = dst_of(insn);
	u8 count = insn->imm & (w ? 63 : 31);

	if (extend_by_shifts(j, 0, insn->dst_reg, dst))
		return;
	if (op == X86_SHL && w && count >= 1 && count <= 3 && follows(j, 1, OP_ADD64_REG, insn->dst_reg) &&
	    insn[1].src_reg != insn->dst_reg) {
		emit_lea_sib(&j->e, dst, src_of(&insn[1]), dst, count);
		j->taken = 1;
		return;
	}
	if (count)
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

static void shift_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	bool w = is_64(insn);

	if (j->bmi2)
		emit_shiftx(&j->e, w, op, dst_of(insn), dst_of(insn), src_of(insn));
	else
		shift_by_cl(j, w, op, dst_of(insn), src_of(insn));
}

static void mov_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_mov_ri(&j->e, dst_of(insn), is_64(insn) ? (u64)(s64)insn->imm : (u32)insn->imm);
}

/* d = s; d += x is one lea; d = (u32)s by shifts is one mov. */
static void mov64_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	enum x86_reg dst = dst_of(insn), src = src_of(insn);

	if (extend_by_shifts(j, 1, insn->dst_reg, src))
		return;
	if (follows(j, 1, OP_ADD64_IMM, insn->dst_reg) && dst != src) {
		emit_lea(&j->e, dst, src, insn[1].imm);
		j->taken = 1;
	} else if (follows(j, 1, OP_ADD64_REG, insn->dst_reg) && insn[1].src_reg != insn->dst_reg && dst != src) {
		emit_lea_sib(&j->e, dst, src, src_of(&insn[1]), 0);
		j->taken = 1;
	} else if (dst != src) {
		emit_mov_rr(&j->e, true, dst, src);
	}
}

static void mov32_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_mov_rr(&j->e, false, dst_of(insn), src_of(insn));
}

static void movsx(struct jit *j, const struct bpf_insn *insn, u32 size)
{
	emit_extend_rr(&j->e, is_64(insn), true, size, dst_of(insn), src_of(insn));
}

static void to_le(struct jit *j, const struct bpf_insn *insn, u32 size)
{
	if (size != X86_64)
		emit_extend_rr(&j->e, false, false, size, dst_of(insn), dst_of(insn));
}

static void swap(struct jit *j, const struct bpf_insn *insn, u32 size)
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
 * Memory
 */

static void load(struct jit *j, const struct bpf_insn *insn, u32 sign)
{
	emit_load(&j->e, size_of(insn), sign, dst_of(insn), src_of(insn), insn->off);
}

static void store_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_store_i(&j->e, size_of(insn), dst_of(insn), insn->off, insn->imm);
}

static void store_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_store_r(&j->e, size_of(insn), dst_of(insn), insn->off, src_of(insn));
}

static bool atomic_w(const struct bpf_insn *insn)
{
	return BPF_SIZE(insn->code) == BPF_DW;
}

static void atomic(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_lock_alu(&j->e, atomic_w(insn), op, dst_of(insn), insn->off, src_of(insn));
}

static void atomic_fetch_add(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_lock_xadd(&j->e, atomic_w(insn), dst_of(insn), insn->off, scratch(j, src_of(insn)));
}

static void atomic_xchg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_xchg(&j->e, atomic_w(insn), dst_of(insn), insn->off, scratch(j, src_of(insn)));
}

static void atomic_cmpxchg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_lock_cmpxchg(&j->e, atomic_w(insn), dst_of(insn), insn->off, src_of(insn));
	scratch(j, RAX);
	if (!atomic_w(insn)) /* on success eax, and so the upper half, is left as it was */
		emit_mov_rr(&j->e, false, RAX, RAX);
}

/* There is no fetching and, or, xor: compute and compare-and-swap until it
 * succeeds. r9 keeps r0, which cmpxchg needs. */
static void atomic_fetch_loop(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	struct emit *e = &j->e;
	bool w = atomic_w(insn);
	enum x86_reg base = dst_of(insn), src = src_of(insn), value = src;
	size_t again;

	emit_mov_rr(e, true, scratch(j, R9), RAX);
	if (base == RAX)
		base = R9;
	if (value == RAX)
		value = R9;
	emit_load(e, w ? X86_64 : X86_32, false, RAX, base, insn->off);
	again = e->len;
	emit_mov_rr(e, w, scratch(j, R11), RAX);
	emit_alu_rr(e, w, op, R11, value);
	emit_lock_cmpxchg(e, w, base, insn->off, R11);
	emit_jcc(e, CC_NE, true, (s32)(again - (e->len + 2)));
	if (src != RAX) {
		emit_mov_rr(e, w, scratch(j, src), RAX);
		emit_mov_rr(e, true, RAX, R9);
	} else {
		scratch(j, RAX);
	}
}

/*
 * Constants
 */

static void imm64(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_mov_ri(&j->e, dst_of(insn), insn_imm64(insn));
}

/* Addresses take ten bytes always: the size of a program may not depend on
 * where its maps will be. */
static void map_addr(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_movabs(&j->e, dst_of(insn), j->in->maps[insn->imm].desc_addr);
}

static void map_value_addr(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	const struct umap *m = j->in->maps[insn->imm].map;

	emit_movabs(&j->e, dst_of(insn), m->base + m->data_off + (u32)insn[1].imm);
}

/*
 * Jumps
 */

static bool fits8(s64 v)
{
	return v == (s8)v;
}

/* Emits a jump to code offset TARGET, known from this pass or the last; CC < 0:
 * always. MARK is the instruction whose AT_SHORT bit is used. */
static void jump_to(struct jit *j, int cc, size_t target, bool known, u32 mark)
{
	s64 rel = (s64)target - (s64)(j->e.len + 2);

	if (known && fits8(rel) && !(j->at[mark] & AT_SHORT)) {
		j->at[mark] |= AT_SHORT;
		j->changed = true;
	}
	if (!(j->at[mark] & AT_SHORT))
		rel = (s64)target - (s64)(j->e.len + (cc < 0 ? 5 : 6));
	if (cc < 0)
		emit_jmp(&j->e, j->at[mark] & AT_SHORT, (s32)rel);
	else
		emit_jcc(&j->e, (enum x86_cond)cc, j->at[mark] & AT_SHORT, (s32)rel);
}

/* The jump of instruction AT (this one, or one folded into it). */
static void jump(struct jit *j, int cc, u32 at)
{
	u32 target = (u32)insn_jump_target(&j->insns[at], at);

	jump_to(j, cc, j->off[target], !j->first_pass || target <= j->i, at);
}

static bool jumps_to_next(const struct jit *j, const struct bpf_insn *insn)
{
	return insn_jump_target(insn, j->i) == (s64)j->i + 1;
}

static void jump_always(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	if (!jumps_to_next(j, insn))
		jump(j, -1, j->i);
}

static bool zf_known(const struct jit *j, enum x86_reg reg, bool w)
{
	return j->i && j->zf_at == j->i - 1 && j->zf_reg == reg && j->zf_w == w && !(j->at[j->i] & (AT_TARGET | AT_FUNC));
}

static void jump_imm(struct jit *j, const struct bpf_insn *insn, u32 cc)
{
	enum x86_reg dst = dst_of(insn);
	bool w = is_64(insn);

	if (jumps_to_next(j, insn))
		return;
	if (insn->imm)
		emit_alu_ri(&j->e, w, X86_CMP, dst, insn->imm);
	else if (!(cc == CC_E || cc == CC_NE) || !zf_known(j, dst, w))
		emit_test_rr(&j->e, w, dst, dst);
	jump(j, (int)cc, j->i);
}

static void jump_reg(struct jit *j, const struct bpf_insn *insn, u32 cc)
{
	if (jumps_to_next(j, insn))
		return;
	emit_alu_rr(&j->e, is_64(insn), X86_CMP, dst_of(insn), src_of(insn));
	jump(j, (int)cc, j->i);
}

static void jump_set_imm(struct jit *j, const struct bpf_insn *insn, u32 cc)
{
	if (jumps_to_next(j, insn))
		return;
	emit_test_ri(&j->e, is_64(insn), dst_of(insn), insn->imm);
	jump(j, (int)cc, j->i);
}

static void jump_set_reg(struct jit *j, const struct bpf_insn *insn, u32 cc)
{
	if (jumps_to_next(j, insn))
		return;
	emit_test_rr(&j->e, is_64(insn), dst_of(insn), src_of(insn));
	jump(j, (int)cc, j->i);
}

/*
 * Calls
 */

#define CALLER_SAVED                                                                                  \
	(1u << RAX | 1u << RCX | 1u << RDX | 1u << RSI | 1u << RDI | 1u << R8 | 1u << R9 | 1u << R10 | \
	 1u << R11)

static bool fits32(s64 v)
{
	return v == (s32)v;
}

/* Near if it is from anywhere in the code, so that no pass changes its mind. */
static void call_addr(struct jit *j, addr_t fn)
{
	s64 rel = (s64)(fn - j->in->code_addr);

	j->written |= CALLER_SAVED;
	emit_mov_rr(&j->e, true, R9, R12);
	if (fits32(rel) && fits32(rel - (s64)j->e.cap)) {
		emit_call_rel(&j->e, (s32)(rel - (s64)(j->e.len + 5)));
	} else {
		emit_movabs(&j->e, RAX, fn);
		emit_call_r(&j->e, RAX);
	}
}

/* reg *= n */
static void scale(struct emit *e, enum x86_reg reg, u32 n)
{
	if (n & (n - 1))
		emit_imul_rri(e, true, reg, reg, (s32)n);
	else if (n > 1)
		emit_shift_i(e, true, X86_SHL, reg, (u8)__builtin_ctz(n));
}

/*
 * Array lookup: rax = *(u32 *)rsi < max_entries ? base + index * stride : 0 (per
 * CPU: + slot * slot_stride). With a test for NULL behind it, the bounds check
 * jumps where that would.
 *
 *	mov r9d, [rsi]; xor eax, eax; cmp r9d, max; jae 1f
 *	movabs rax, base; lea rax, [rax + r9 * 8]; 1:
 */
static void lookup_array(struct jit *j, const struct bpf_insn *insn, const struct umap *m)
{
	struct emit *e = &j->e;
	bool fused = follows(j, 1, OP_JEQ64_IMM, BPF_REG_0) && !insn[1].imm &&
		     insn_jump_target(&insn[1], j->i + 1) != (s64)j->i + 2;
	bool percpu = m->type == UMAP_PERCPU_ARRAY;
	bool sib = !percpu && m->elem_stride == 8; /* strides are multiples of 8 */
	size_t out = 0;

	emit_load(e, X86_32, false, scratch(j, R9), RSI, 0);
	emit_alu_rr(e, false, X86_XOR, scratch(j, RAX), RAX);
	emit_alu_ri(e, false, X86_CMP, R9, (s32)m->max_entries);
	if (fused) {
		jump(j, CC_AE, j->i + 1);
		j->taken = 1;
	} else {
		out = emit_jcc_fwd(e, CC_AE);
	}
	if (!sib)
		scale(e, R9, m->elem_stride);
	if (percpu) {
		emit_load(e, X86_64, false, scratch(j, R11), R12, offsetof(struct hook_frame, slot));
		scale(e, R11, (u32)m->slot_stride);
		emit_alu_rr(e, true, X86_ADD, R9, R11);
	}
	emit_movabs(e, RAX, m->base + m->data_off);
	emit_lea_sib(e, RAX, RAX, R9, sib ? 3 : 0);
	if (!fused)
		emit_land(e, out);
}

/* What deleting from an array always gives (umap_delete). */
static s64 array_delete_result(const struct umap *m)
{
	return m->frozen ? -EPERM : -EINVAL;
}

/* Inlined: two loads from the frame. */
static bool reads_site(u32 id)
{
	return id == BPF_FUNC_get_attach_cookie || id == BPF_FUNC_get_func_ip;
}

static addr_t helper_addr(const struct jit *j, u32 id)
{
	return j->in->helper_addr ? j->in->helper_addr(id, j->in->arg) : 0;
}

static void call_helper(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	u32 id = (u32)insn->imm;

	if (j->array[j->i] != NO_MAP) {
		const struct umap *m = j->in->maps[j->array[j->i]].map;

		if (id == BPF_FUNC_map_delete_elem)
			emit_mov_ri(&j->e, scratch(j, RAX), (u64)array_delete_result(m));
		else
			lookup_array(j, insn, m);
	} else if (reads_site(id)) {
		emit_load(&j->e, X86_64, false, scratch(j, RAX), R12, offsetof(struct hook_frame, site));
		emit_load(&j->e, X86_64, false, RAX, RAX,
			  id == BPF_FUNC_get_func_ip ? offsetof(struct site_data, func_ip) :
						       offsetof(struct site_data, cookie));
	} else {
		call_addr(j, helper_addr(j, id));
	}
}

static const struct func *func_at(const struct jit *j, s64 insn)
{
	for (u32 f = 0; f < j->nfuncs; f++)
		if (j->funcs[f].start == insn)
			return &j->funcs[f];
	return NULL;
}

static void call_local(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	const struct func *callee = func_at(j, (s64)j->i + 1 + insn->imm);

	j->written |= CALLER_SAVED;
	emit_call_rel(&j->e, (s32)((s64)callee->entry_off - (s64)(j->e.len + 5)));
}

/*
 * Functions
 */

static const u8 push_order[] = { RBX, R12, R13, R14, R15 };

static void prologue(struct jit *j, const struct func *f)
{
	struct emit *e = &j->e;
	u32 room = f->depth + f->pad;

	if (f->uses_fp) {
		emit_push(e, RBP);
		emit_mov_rr(e, true, RBP, RSP);
	}
	if (room)
		emit_alu_ri(e, true, X86_SUB, RSP, (s32)room);
	for (size_t i = 0; i < ARRAY_SIZE(push_order); i++)
		if (f->saved & 1u << push_order[i])
			emit_push(e, push_order[i]);
}

static void epilogue(struct jit *j, const struct func *f)
{
	struct emit *e = &j->e;

	for (size_t i = ARRAY_SIZE(push_order); i--;)
		if (f->saved & 1u << push_order[i])
			emit_pop(e, push_order[i]);
	if (f->uses_fp)
		emit_leave(e);
	else if (f->pad)
		emit_alu_ri(e, true, X86_ADD, RSP, (s32)f->pad);
	emit_ret(e);
}

static bool claims(const struct jit *j)
{
	return j->in->prog->info.uses_percpu;
}

/* Claims a slot; without one the program ends here, its result 0. */
static void claim_slot(struct jit *j)
{
	struct emit *e = &j->e;

	emit_push(e, RDI);
	emit_push(e, RSI);
	call_addr(j, helper_addr(j, VM_RT_CLAIM));
	emit_pop(e, RSI);
	emit_pop(e, RDI);
	emit_alu_ri(e, true, X86_ADD, RAX, 1); /* HOOK_NO_SLOT is -1 */
	emit_jcc(e, CC_E, false, (s32)((s64)j->out_off - (s64)(e->len + 6)));
}

/* umap_release(), with rax kept. */
static void release_slot(struct jit *j)
{
	struct emit *e = &j->e;

	emit_load(e, X86_64, false, R9, R12, offsetof(struct hook_frame, site));
	emit_load(e, X86_64, false, R10, R12, offsetof(struct hook_frame, slot));
	emit_shift_i(e, true, X86_SHL, R10, 6);
	_Static_assert(sizeof(((struct umap_claims *)0)->slot[0]) == 64, "a slot is 64 bytes");
	emit_load(e, X86_64, false, R9, R9, offsetof(struct site_data, claims));
	emit_alu_rr(e, true, X86_ADD, R9, R10);
	emit_store_i(e, X86_64, R9, 0, 0);
}

static void exit_func(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	if (!claims(j) || j->func != &j->funcs[0])
		epilogue(j, j->func);
	else if (j->i + 1 < j->func->end)
		jump_to(j, -1, j->exit_off, !j->first_pass, j->i);
}

/*
 * What becomes of each instruction
 */

struct emitter {
	void (*fn)(struct jit *j, const struct bpf_insn *insn, u32 arg);
	u32 arg;
};

#define ALU(name, by_imm, by_reg, arg)                                                         \
	[OP_##name##64_IMM] = { by_imm, arg }, [OP_##name##64_REG] = { by_reg, arg },          \
	[OP_##name##32_IMM] = { by_imm, arg }, [OP_##name##32_REG] = { by_reg, arg }
#define ATOMIC(width, name, op)                                                                \
	[OP_ATOMIC##width##_##name] = { atomic, op },                                          \
	[OP_ATOMIC##width##_FETCH_##name] = { op == X86_ADD ? atomic_fetch_add : atomic_fetch_loop, op }
#define ATOMICS(width)                                                                         \
	ATOMIC(width, ADD, X86_ADD), ATOMIC(width, OR, X86_OR), ATOMIC(width, AND, X86_AND),   \
	ATOMIC(width, XOR, X86_XOR), [OP_ATOMIC##width##_XCHG] = { atomic_xchg, 0 },           \
	[OP_ATOMIC##width##_CMPXCHG] = { atomic_cmpxchg, 0 }

static const struct emitter emitters[OP_COUNT] = {
	ALU(ADD, alu_imm, alu_reg, X86_ADD),
	ALU(SUB, alu_imm, alu_reg, X86_SUB),
	ALU(OR, alu_imm, alu_reg, X86_OR),
	ALU(AND, alu_imm, alu_reg, X86_AND),
	ALU(XOR, alu_imm, alu_reg, X86_XOR),
	ALU(MUL, mul_imm, mul_reg, 0),
	ALU(DIV, divide_imm, divide_reg, 0),
	ALU(SDIV, divide_imm, divide_reg, DIV_SIGNED),
	ALU(MOD, divide_imm, divide_reg, DIV_MOD),
	ALU(SMOD, divide_imm, divide_reg, DIV_MOD | DIV_SIGNED),
	ALU(LSH, shift_imm, shift_reg, X86_SHL),
	ALU(RSH, shift_imm, shift_reg, X86_SHR),
	ALU(ARSH, shift_imm, shift_reg, X86_SAR),
	[OP_NEG64] = { neg, 0 },
	[OP_NEG32] = { neg, 0 },
	[OP_MOV64_IMM] = { mov_imm, 0 },
	[OP_MOV32_IMM] = { mov_imm, 0 },
	[OP_MOV64_REG] = { mov64_reg, 0 },
	[OP_MOV32_REG] = { mov32_reg, 0 },
	[OP_MOVSX64_8] = { movsx, X86_8 },
	[OP_MOVSX64_16] = { movsx, X86_16 },
	[OP_MOVSX64_32] = { movsx, X86_32 },
	[OP_MOVSX32_8] = { movsx, X86_8 },
	[OP_MOVSX32_16] = { movsx, X86_16 },
	[OP_LE16] = { to_le, X86_16 },
	[OP_LE32] = { to_le, X86_32 },
	[OP_LE64] = { to_le, X86_64 },
	[OP_BE16] = { swap, X86_16 },
	[OP_BE32] = { swap, X86_32 },
	[OP_BE64] = { swap, X86_64 },
	[OP_BSWAP16] = { swap, X86_16 },
	[OP_BSWAP32] = { swap, X86_32 },
	[OP_BSWAP64] = { swap, X86_64 },
	[OP_JA] = { jump_always, 0 },
	[OP_JA32] = { jump_always, 0 },
	ALU(JEQ, jump_imm, jump_reg, CC_E),
	ALU(JNE, jump_imm, jump_reg, CC_NE),
	ALU(JGT, jump_imm, jump_reg, CC_A),
	ALU(JGE, jump_imm, jump_reg, CC_AE),
	ALU(JLT, jump_imm, jump_reg, CC_B),
	ALU(JLE, jump_imm, jump_reg, CC_BE),
	ALU(JSGT, jump_imm, jump_reg, CC_G),
	ALU(JSGE, jump_imm, jump_reg, CC_GE),
	ALU(JSLT, jump_imm, jump_reg, CC_L),
	ALU(JSLE, jump_imm, jump_reg, CC_LE),
	ALU(JSET, jump_set_imm, jump_set_reg, CC_NE),
	[OP_CALL_HELPER] = { call_helper, 0 },
	[OP_CALL_LOCAL] = { call_local, 0 },
	[OP_EXIT] = { exit_func, 0 },
	[OP_LD_IMM64] = { imm64, 0 },
	[OP_LD_MAP] = { map_addr, 0 },
	[OP_LD_MAP_VALUE] = { map_value_addr, 0 },
	[OP_LDX_B] = { load, false },
	[OP_LDX_H] = { load, false },
	[OP_LDX_W] = { load, false },
	[OP_LDX_DW] = { load, false },
	[OP_LDSX_B] = { load, true },
	[OP_LDSX_H] = { load, true },
	[OP_LDSX_W] = { load, true },
	[OP_ST_B] = { store_imm, 0 },
	[OP_ST_H] = { store_imm, 0 },
	[OP_ST_W] = { store_imm, 0 },
	[OP_ST_DW] = { store_imm, 0 },
	[OP_STX_B] = { store_reg, 0 },
	[OP_STX_H] = { store_reg, 0 },
	[OP_STX_W] = { store_reg, 0 },
	[OP_STX_DW] = { store_reg, 0 },
	ATOMICS(32),
	ATOMICS(64),
};

/*
 * Before compiling: where jumps lead, which functions there are, what they use
 */

static struct uerr *bad_insn(const struct jit *j, u32 i, const char *what)
{
	return uerr_new(UERR_REJECTED, "program '%s', instruction %u: %s", j->in->prog->name, i, what);
}

static struct uerr *analyse_map(const struct jit *j, u32 i)
{
	const struct bpf_insn *insn = &j->insns[i];
	const struct umap *m;

	if (insn->imm < 0 || (size_t)insn->imm >= j->in->nmaps)
		return bad_insn(j, i, "there is no such map");
	m = j->in->maps[insn->imm].map;
	if (j->ids[i] == OP_LD_MAP_VALUE && (m->type != UMAP_ARRAY || (u32)insn[1].imm >= m->value_size))
		return bad_insn(j, i, "no address inside the value of an array map");
	return NULL;
}

/* Marks the target of a jump or local call. */
static struct uerr *analyse_target(struct jit *j, u32 i, s64 target, u8 mark)
{
	if (target < 0 || target >= j->n || (j->at[target] & AT_SECOND))
		return bad_insn(j, i, "jumps out of the program");
	j->at[target] |= mark;
	return NULL;
}

static struct uerr *decode(struct jit *j)
{
	for (u32 i = 0; i < j->n; i++) {
		bool selected;

		j->array[i] = NO_MAP;
		if (i && (j->ids[i - 1] == OP_LD_IMM64 || j->ids[i - 1] == OP_LD_MAP || j->ids[i - 1] == OP_LD_MAP_VALUE)) {
			j->ids[i] = OP_NONE;
			j->at[i] = AT_SECOND;
			continue;
		}
		j->ids[i] = (u8)opcode_decode(&j->insns[i], &selected);
		if (!selected || !emitters[j->ids[i]].fn ||
		    (opcode_bad_fields(&j->insns[i], &opcodes[j->ids[i]]) & (BAD_DST | BAD_SRC)))
			return bad_insn(j, i, "cannot be compiled");
		if (j->ids[i] == OP_LD_IMM64 || j->ids[i] == OP_LD_MAP || j->ids[i] == OP_LD_MAP_VALUE)
			if (i + 1 == j->n)
				return bad_insn(j, i, "the second half of the constant is missing");
	}
	return NULL;
}

static struct uerr *analyse(struct jit *j)
{
	struct uerr *err = decode(j);

	j->at[0] |= AT_FUNC;
	for (u32 i = 0; !err && i < j->n; i++) {
		const struct bpf_insn *insn = &j->insns[i];
		u8 form = opcodes[j->ids[i]].form;

		if (j->at[i] & AT_SECOND)
			continue;
		if (form == FORM_JUMP || form == FORM_GOTO)
			err = analyse_target(j, i, insn_jump_target(insn, i), AT_TARGET);
		else if (j->ids[i] == OP_CALL_LOCAL)
			err = analyse_target(j, i, (s64)i + 1 + insn->imm, AT_FUNC);
		else if (j->ids[i] == OP_LD_MAP || j->ids[i] == OP_LD_MAP_VALUE)
			err = analyse_map(j, i);
	}
	return err;
}

/* Functions may not jump into one another, nor run off their end. */
static struct uerr *check_bounds(const struct jit *j, const struct func *f)
{
	u8 last = j->ids[f->end - 1];

	for (u32 i = f->start; i < f->end; i++) {
		u8 form = opcodes[j->ids[i]].form;
		s64 target = insn_jump_target(&j->insns[i], i);

		if ((j->at[i] & AT_SECOND) || (form != FORM_JUMP && form != FORM_GOTO))
			continue;
		if (target < f->start || target >= f->end)
			return bad_insn(j, i, "jumps into another function");
	}
	if (last != OP_EXIT && last != OP_JA && last != OP_JA32)
		return bad_insn(j, f->end - 1, "runs off the end of its function");
	return NULL;
}

/* Bytes of stack that F touches. Exact when fp is only the base of accesses;
 * an address taken may reach as far as the whole program does, says check.c. */
static u32 stack_depth(const struct jit *j, const struct func *f)
{
	u32 depth = 8, whole = j->in->prog->info.stack_depth;
	bool escapes = false;

	for (u32 i = f->start; i < f->end; i++) {
		const struct bpf_insn *insn = &j->insns[i];
		const struct opcode *op = &opcodes[j->ids[i]];
		bool base = (op->src == FIELD_M && insn->src_reg == BPF_REG_10) ||
			    (op->dst == FIELD_M && insn->dst_reg == BPF_REG_10);

		if (base && insn->off < 0 && -insn->off > (s32)depth)
			depth = (u32)-insn->off;
		if (opcode_uses_src(op) && op->src != FIELD_M && insn->src_reg == BPF_REG_10)
			escapes = true;
	}
	if (escapes && !whole)
		whole = INSN_STACK_SIZE;
	if (escapes && whole > depth)
		depth = whole;
	if (depth > INSN_STACK_SIZE)
		depth = INSN_STACK_SIZE;
	return ALIGN_UP(depth, 8u);
}

static void scan_func(const struct jit *j, struct func *f)
{
	bool main = f == &j->funcs[0];
	u32 bytes;

	for (u32 i = f->start; i < f->end; i++) {
		const struct bpf_insn *insn = &j->insns[i];
		const struct opcode *op = &opcodes[j->ids[i]];

		if (j->at[i] & AT_SECOND)
			continue;
		if (insn->dst_reg == BPF_REG_10 || (opcode_uses_src(op) && insn->src_reg == BPF_REG_10))
			f->uses_fp = true;
		if (opcode_writes_dst(op) && insn->dst_reg >= BPF_REG_6 && insn->dst_reg <= BPF_REG_9)
			f->saved |= 1u << reg_of[insn->dst_reg];
		if (op->src == FIELD_RW && insn->src_reg >= BPF_REG_6 && insn->src_reg <= BPF_REG_9)
			f->saved |= 1u << reg_of[insn->src_reg];
		if (op->form == FORM_CALL && j->array[i] == NO_MAP)
			f->calls = true;
	}
	if (main && claims(j))
		f->calls = true;
	if (main && j->frame)
		f->saved |= 1u << R12;
	if (f->uses_fp)
		f->depth = stack_depth(j, f);
	bytes = 8 + (f->uses_fp ? 8 : 0) + f->depth + 8 * (u32)__builtin_popcount(f->saved);
	if (f->calls && bytes % 16)
		f->pad = 8;
}

static struct uerr *split_funcs(struct jit *j)
{
	struct uerr *err = NULL;
	struct func *f = NULL;

	for (u32 i = 0; i < j->n; i++)
		j->nfuncs += !!(j->at[i] & AT_FUNC);
	j->funcs = calloc(j->nfuncs, sizeof(*j->funcs));
	if (!j->funcs)
		return uerr_nomem();
	for (u32 i = 0; i < j->n; i++) {
		if (j->at[i] & AT_FUNC) {
			f = f ? f + 1 : j->funcs;
			f->start = i;
		}
		f->end = i + 1;
	}
	for (u32 i = 0; !err && i < j->nfuncs; i++)
		err = check_bounds(j, &j->funcs[i]);
	return err;
}

/* Arrays whose lookup is a few instructions; a delete is one. */
static bool inlinable(u32 id, const struct umap *m)
{
	if (id == BPF_FUNC_map_delete_elem)
		return m->type == UMAP_ARRAY || m->type == UMAP_PERCPU_ARRAY;
	if (id != BPF_FUNC_map_lookup_elem || m->key_size != 4 || !m->max_entries || !m->elem_stride || m->elem_stride > INT32_MAX)
		return false;
	if (m->type == UMAP_ARRAY)
		return true;
	return m->type == UMAP_PERCPU_ARRAY && m->slot_stride && m->slot_stride <= INT32_MAX;
}

/* Follows map addresses through the registers of straight code, to find lookups
 * in and deletes from a known array; an address loaded for such a call alone is
 * not loaded. */
static void find_array_calls(struct jit *j)
{
	s32 map[MAX_BPF_REG];
	u32 from[MAX_BPF_REG]; /* the ld_imm64 behind it, while nobody has read it */

	for (u32 i = 0; i < j->n; i++) {
		const struct bpf_insn *insn = &j->insns[i];
		const struct opcode *op = &opcodes[j->ids[i]];
		bool call = j->ids[i] == OP_CALL_HELPER;

		if (j->at[i] & AT_SECOND)
			continue;
		if (!i || (j->at[i] & (AT_TARGET | AT_FUNC)))
			for (u32 r = 0; r < MAX_BPF_REG; r++)
				map[r] = NO_MAP;
		if (call && map[BPF_REG_1] != NO_MAP &&
		    inlinable((u32)insn->imm, j->in->maps[map[BPF_REG_1]].map)) {
			j->array[i] = map[BPF_REG_1];
			if (from[BPF_REG_1] != UINT32_MAX)
				j->at[from[BPF_REG_1]] |= AT_SKIP;
		}
		if (op->form == FORM_CALL) { /* r1 - r5 are gone */
			for (u32 r = BPF_REG_0; r <= BPF_REG_5; r++)
				map[r] = NO_MAP;
			continue;
		}
		if (op->form == FORM_JUMP || op->form == FORM_GOTO) { /* somebody there may read it */
			for (u32 r = 0; r < MAX_BPF_REG; r++)
				from[r] = UINT32_MAX;
		}
		if (opcode_uses_src(op))
			from[insn->src_reg] = UINT32_MAX;
		if (opcode_reads_dst(op))
			from[insn->dst_reg] = UINT32_MAX;
		if (opcode_writes_dst(op)) {
			map[insn->dst_reg] = j->ids[i] == OP_MOV64_REG ? map[insn->src_reg] :
					     j->ids[i] == OP_LD_MAP	   ? insn->imm :
									     NO_MAP;
			from[insn->dst_reg] = j->ids[i] == OP_LD_MAP ? i : UINT32_MAX;
		}
		if (op->src == FIELD_RW)
			map[insn->src_reg] = NO_MAP;
	}
}

static struct uerr *check_helpers(const struct jit *j)
{
	if (claims(j) && !helper_addr(j, VM_RT_CLAIM))
		return bad_insn(j, 0, "there is no way to claim a per-CPU slot");
	for (u32 i = 0; i < j->n; i++)
		if (j->ids[i] == OP_CALL_HELPER && j->array[i] == NO_MAP && !reads_site((u32)j->insns[i].imm) &&
		    !helper_addr(j, (u32)j->insns[i].imm))
			return bad_insn(j, i, "the helper that it calls is not there");
	return NULL;
}

static bool needs_frame(const struct jit *j)
{
	if (claims(j))
		return true;
	for (u32 i = 0; i < j->n; i++)
		if (j->ids[i] == OP_CALL_HELPER &&
		    (j->array[i] == NO_MAP || j->in->maps[j->array[i]].map->type == UMAP_PERCPU_ARRAY))
			return true;
	return false;
}

/*
 * Compiling
 */

static void set_off(struct jit *j, u32 i, size_t off)
{
	j->changed |= j->off[i] != off;
	j->off[i] = (u32)off;
}

static void note_written(struct jit *j, const struct bpf_insn *insn)
{
	if (opcode_writes_dst(&opcodes[j->ids[j->i]]))
		scratch(j, dst_of(insn));
}

static void compile_insn(struct jit *j)
{
	const struct bpf_insn *insn = &j->insns[j->i];
	const struct emitter *em = &emitters[j->ids[j->i]];

	j->taken = 0;
	set_off(j, j->i, j->e.len);
	if (j->at[j->i] & (AT_SECOND | AT_SKIP))
		return;
	note_written(j, insn);
	em->fn(j, insn, em->arg);
	for (u32 k = 1; k <= j->taken; k++)
		set_off(j, j->i + k, j->e.len);
	j->i += j->taken;
}

static void compile_main_end(struct jit *j)
{
	j->exit_off = j->e.len;
	release_slot(j);
	j->out_off = j->e.len;
	epilogue(j, j->func);
}

static void compile_func(struct jit *j, struct func *f)
{
	bool main = f == &j->funcs[0];

	j->func = f;
	f->entry_off = j->e.len;
	prologue(j, f);
	if (main && j->frame)
		emit_mov_rr(&j->e, true, R12, RDX);
	if (main && claims(j))
		claim_slot(j);
	for (j->i = f->start; j->i < f->end; j->i++)
		compile_insn(j);
	if (main && claims(j))
		compile_main_end(j);
}

/* Compiles until two passes agree on every offset. */
static bool compile(struct jit *j)
{
	size_t size = 0;

	j->first_pass = true;
	for (u32 pass = 0; pass < JIT_MAX_PASSES; pass++) {
		j->changed = false;
		j->e.len = 0;
		j->zf_at = UINT32_MAX - 1;
		for (u32 f = 0; f < j->nfuncs; f++)
			compile_func(j, &j->funcs[f]);
		set_off(j, j->n, j->e.len);
		if (j->e.failed)
			return false;
		if (!j->first_pass && !j->changed && size == j->e.len)
			return true;
		size = j->e.len;
		j->first_pass = false;
	}
	return false;
}

static u32 clobbers_of(u32 written)
{
	static const struct {
		u8 reg;
		u32 bit;
	} map[] = {
		{ RAX, TARGET_REG_BIT(ax) }, { RCX, TARGET_REG_BIT(cx) }, { RDX, TARGET_REG_BIT(dx) },
		{ RSI, TARGET_REG_BIT(si) }, { RDI, TARGET_REG_BIT(di) }, { R8, TARGET_REG_BIT(r8) },
		{ R9, TARGET_REG_BIT(r9) },  { R10, TARGET_REG_BIT(r10) }, { R11, TARGET_REG_BIT(r11) },
	};
	u32 mask = 0;

	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		if (written & 1u << map[i].reg)
			mask |= map[i].bit;
	return mask;
}

static void jit_deinit(struct jit *j)
{
	free(j->e.buf);
	free(j->off);
	free(j->at);
	free(j->ids);
	free(j->array);
	free(j->funcs);
}

static struct uerr *jit_init(struct jit *j, const struct jit_input *in)
{
	*j = (struct jit){ .in = in, .insns = in->prog->insns, .n = in->prog->ninsns };
	if (!j->n || j->n > INSN_MAX)
		return uerr_new(UERR_REJECTED, "program '%s' has %u instructions; 1 to %u can be compiled", in->prog->name,
				j->n, INSN_MAX);
	j->bmi2 = !(in->flags & JIT_NO_BMI2) && __builtin_cpu_supports("bmi2");
	j->e.cap = jit_size_bound(in->prog);
	j->e.buf = malloc(j->e.cap);
	j->off = calloc(j->n + 1, sizeof(*j->off));
	j->at = calloc(j->n, 1);
	j->ids = calloc(j->n, 1);
	j->array = calloc(j->n, sizeof(*j->array));
	return j->e.buf && j->off && j->at && j->ids && j->array ? NULL : uerr_nomem();
}

size_t jit_size_bound(const struct vm_prog *prog)
{
	size_t funcs = 1;

	for (u32 i = 0; i < prog->ninsns; i++)
		funcs += prog->insns[i].code == (BPF_JMP | BPF_CALL) && prog->insns[i].src_reg == BPF_PSEUDO_CALL;
	return prog->ninsns * (size_t)JIT_INSN_BOUND + funcs * JIT_FUNC_BOUND;
}

struct uerr *jit_compile(const struct jit_input *in, struct jit_output *ret)
{
	struct jit j cleanup(jit_deinit);
	struct uerr *err = jit_init(&j, in);

	if (!err)
		err = analyse(&j);
	if (!err)
		err = split_funcs(&j);
	if (err)
		return err;
	find_array_calls(&j);
	err = check_helpers(&j);
	if (err)
		return err;
	j.frame = needs_frame(&j);
	for (u32 f = 0; f < j.nfuncs; f++)
		scan_func(&j, &j.funcs[f]);
	if (!compile(&j))
		return uerr_new(UERR_FAILED, "program '%s' could not be compiled: its code does not come to rest",
				in->prog->name);
	*ret = (struct jit_output){
		.code = steal_ptr(j.e.buf),
		.size = j.e.len,
		.entry = in->code_addr,
		.uses_frame = j.frame,
		.clobbers = clobbers_of(j.written),
		.insn_off = steal_ptr(j.off),
	};
	return NULL;
}

void jit_output_deinit(struct jit_output *out)
{
	free(out->code);
	free(out->insn_off);
	*out = (struct jit_output){ 0 };
}
