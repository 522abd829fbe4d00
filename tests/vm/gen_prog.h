/* SPDX-License-Identifier: MIT */
/*
 * Random programs for comparing two executions: every instruction of the ISA,
 * jumps, bounded loops, local calls and memory within the stack, deterministic,
 * without an address ever getting into a result. Every register and a part of
 * the stack goes into r0 at the end.
 */
#pragma once
#include <linux/bpf.h>
#include <string.h>

#include "base/types.h"
#include "vm/opcodes.h"

#define GEN_MAX 8192
#define GEN_SLOTS 16 /* words of stack that a function initialises and uses */

/* Where choices come from: a generator, or a fuzzer's bytes. */
struct gen {
	u32 (*next)(struct gen *g);
	u64 state;
	const u8 *bytes;
	size_t nbytes;
	struct bpf_insn insns[GEN_MAX];
	u32 n;
	u32 calls[16], ncalls; /* call instructions that await their function */
};

static u32 gen_random(struct gen *g)
{
	g->state = g->state * 6364136223846793005ull + 1442695040888963407ull;
	return (u32)(g->state >> 33);
}

static inline u32 gen_below(struct gen *g, u32 n)
{
	return g->next(g) % n;
}

static void gen_insn(struct gen *g, u8 code, u8 dst, u8 src, s16 off, s32 imm)
{
	if (g->n < GEN_MAX)
		g->insns[g->n++] = (struct bpf_insn){ .code = code, .dst_reg = dst, .src_reg = src, .off = off, .imm = imm };
}

static u32 gen_reg(struct gen *g)
{
	return gen_below(g, 10);
}

static s32 gen_imm(struct gen *g)
{
	static const s32 edges[] = { 0, 1, -1, 2, 31, 32, 63, 64, 127, 128, -128, -129, 255, 256, 65535, INT32_MAX,
				     INT32_MIN, INT32_MIN + 1 };

	if (gen_below(g, 3))
		return edges[gen_below(g, ARRAY_SIZE(edges))];
	return (s32)g->next(g);
}

static void gen_const(struct gen *g, u32 reg)
{
	if (gen_below(g, 2)) {
		gen_insn(g, BPF_LD | BPF_IMM | BPF_DW, reg, 0, 0, gen_imm(g));
		gen_insn(g, 0, 0, 0, 0, gen_imm(g));
	} else {
		gen_insn(g, (gen_below(g, 2) ? BPF_ALU64 : BPF_ALU) | BPF_MOV | BPF_K, reg, 0, 0, gen_imm(g));
	}
}

static void gen_alu(struct gen *g)
{
	static const u8 ops[] = { BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD,
				  BPF_XOR, BPF_MOV, BPF_ARSH };
	u8 op = ops[gen_below(g, ARRAY_SIZE(ops))], class = gen_below(g, 2) ? BPF_ALU64 : BPF_ALU;
	s16 off = (op == BPF_DIV || op == BPF_MOD) ? (s16)gen_below(g, 2) : 0;

	if (gen_below(g, 2))
		gen_insn(g, class | op | BPF_K, gen_reg(g), 0, off, gen_imm(g));
	else
		gen_insn(g, class | op | BPF_X, gen_reg(g), gen_reg(g), off, 0);
}

/* The pairs and triples for which the JIT has shorter forms, and others like them */
static void gen_idiom(struct gen *g)
{
	u32 d = gen_reg(g), s = gen_reg(g);

	switch (gen_below(g, 5)) {
	case 0:
		gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0);
		__attribute__((fallthrough));
	case 1:
		gen_insn(g, BPF_ALU64 | BPF_LSH | BPF_K, d, 0, 0, gen_below(g, 4) ? 32 : 31);
		gen_insn(g, BPF_ALU64 | (gen_below(g, 2) ? BPF_RSH : BPF_ARSH) | BPF_K, gen_below(g, 8) ? d : s, 0, 0, 32);
		break;
	case 2:
		gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0);
		gen_insn(g, BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, gen_imm(g));
		break;
	case 3:
		gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0);
		gen_insn(g, BPF_ALU64 | BPF_ADD | BPF_X, d, gen_reg(g), 0, 0);
		break;
	case 4:
		gen_insn(g, BPF_ALU64 | BPF_LSH | BPF_K, d, 0, 0, (s32)gen_below(g, 5));
		gen_insn(g, BPF_ALU64 | BPF_ADD | BPF_X, d, s, 0, 0);
		break;
	}
}

static u32 gen_reg_but(struct gen *g, u32 not)
{
	u32 r = gen_reg(g);

	return r == not ? (r + 1) % 10 : r;
}

/* Mostly nobody needs a temporary afterwards. */
static void gen_done(struct gen *g, u32 t)
{
	if (gen_below(g, 4))
		gen_const(g, t);
}

/* Jumps over ONE instruction that the caller emits next. */
static void gen_skip_one(struct gen *g, u8 class, u32 d)
{
	static const u8 ops[] = { BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JSGT, BPF_JSGE, BPF_JLT, BPF_JLE,
				  BPF_JSLT, BPF_JSLE };
	u8 op = ops[gen_below(g, ARRAY_SIZE(ops))];

	if (gen_below(g, 2))
		gen_insn(g, class | op | BPF_K, d, 0, 1, gen_below(g, 2) ? gen_imm(g) : (s32)gen_below(g, 256));
	else
		gen_insn(g, class | op | BPF_X, d, gen_reg(g), 1, 0);
}

/* A shift right and one left that make a rotate, if N and M are right. */
static void gen_rotate(struct gen *g, u8 class)
{
	u32 s = gen_reg(g), t = gen_reg_but(g, s), d = gen_below(g, 2) ? s : gen_reg_but(g, t);
	s32 width = class == BPF_ALU64 ? 64 : 32, n = 1 + (s32)gen_below(g, width - 1);
	bool left = gen_below(g, 2);
	static const u8 joins[] = { BPF_OR, BPF_XOR, BPF_ADD, BPF_AND };

	gen_insn(g, (gen_below(g, 4) ? class : BPF_ALU64) | BPF_MOV | BPF_X, t, s, 0, 0);
	gen_insn(g, class | (left ? BPF_LSH : BPF_RSH) | BPF_K, t, 0, 0, n);
	if (d != s)
		gen_insn(g, class | BPF_MOV | BPF_X, d, s, 0, 0);
	gen_insn(g, class | (left ? BPF_RSH : BPF_LSH) | BPF_K, d, 0, 0, gen_below(g, 8) ? width - n : n);
	if (gen_below(g, 2)) {
		gen_insn(g, class | joins[gen_below(g, 4)] | BPF_X, d, t, 0, 0);
		gen_done(g, t);
	} else {
		gen_insn(g, class | joins[gen_below(g, 4)] | BPF_X, t, d, 0, 0);
		gen_done(g, d);
	}
}

static void gen_select(struct gen *g, u8 class)
{
	u32 d = gen_reg(g);
	u8 jump = gen_below(g, 2) ? BPF_JMP : BPF_JMP32;

	switch (gen_below(g, 4)) {
	case 0: /* a truth value */
		gen_insn(g, class | BPF_MOV | BPF_K, d, 0, 0, (s32)gen_below(g, 2));
		gen_skip_one(g, jump, gen_reg(g));
		gen_insn(g, class | BPF_MOV | BPF_K, d, 0, 0, (s32)gen_below(g, 2));
		break;
	case 1:
		gen_skip_one(g, jump, gen_reg(g));
		gen_insn(g, class | BPF_MOV | BPF_K, d, 0, 0, gen_imm(g));
		break;
	case 2:
		gen_skip_one(g, jump, gen_reg(g));
		gen_insn(g, class | BPF_MOV | BPF_X, d, gen_reg(g), 0, 0);
		break;
	case 3: /* a jump over a jump */
		gen_skip_one(g, jump, gen_reg(g));
		gen_insn(g, BPF_JMP | BPF_JA, 0, 0, 1, 0);
		gen_insn(g, class | BPF_ADD | BPF_K, d, 0, 0, 3);
		break;
	}
}

static const u8 gen_sizes[] = { BPF_B, BPF_H, BPF_W, BPF_DW };

/* An address of a sum inside the slots, and accesses by it. */
static void gen_indexed(struct gen *g)
{
	u32 x = gen_reg(g), b = gen_reg_but(g, x), d = gen_reg(g), n = 1 + gen_below(g, 3);
	s32 shift = (s32)gen_below(g, 4);
	bool has_base = gen_below(g, 2);

	if (d == x || d == b)
		return;
	gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_K, x, 0, 0, (s32)gen_below(g, 4));
	gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_X, b, BPF_REG_10, 0, 0);
	gen_insn(g, BPF_ALU64 | BPF_ADD | BPF_K, b, 0, 0, -8 * GEN_SLOTS);
	if (gen_below(g, 2)) {
		u32 y = gen_reg(g);

		if (y != x && y != b && y != d) {
			gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_X, y, x, 0, 0);
			x = y;
		}
	}
	if (shift)
		gen_insn(g, BPF_ALU64 | BPF_LSH | BPF_K, x, 0, 0, shift);
	if (has_base)
		gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_X, d, b, 0, 0);
	else
		d = b;
	gen_insn(g, BPF_ALU64 | BPF_ADD | BPF_X, d, x, 0, 0);
	while (n--) {
		u8 size = gen_sizes[gen_below(g, 4)];
		u32 v = gen_reg(g);
		s16 off = (s16)gen_below(g, 8 * GEN_SLOTS - 32);

		if (v == d || v == b)
			continue;
		if (gen_below(g, 2)) {
			gen_insn(g, BPF_LDX | BPF_MEM | size, v, d, off, 0);
			if (gen_below(g, 2))
				gen_insn(g, (gen_below(g, 2) ? BPF_ALU64 : BPF_ALU) | BPF_ADD | BPF_X, v == x ? v : x, v, 0, 0);
		} else if (gen_below(g, 2)) {
			gen_insn(g, BPF_STX | BPF_MEM | size, d, v, off, 0);
		} else {
			gen_insn(g, BPF_ST | BPF_MEM | size, d, 0, off, gen_imm(g));
		}
	}
	if (gen_below(g, 3))
		gen_insn(g, BPF_LDX | BPF_MEM | BPF_W, d, d, 8, 0);
	else
		gen_const(g, d);
	gen_const(g, b);
	gen_done(g, x);
}

/* A load, and what can take it from memory */
static void gen_load_use(struct gen *g)
{
	static const u8 ops[] = { BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_XOR, BPF_MOV };
	static const s32 bits[] = { 16, 32, 64 };
	u8 size = gen_sizes[gen_below(g, 4)];
	s16 off = (s16)(-8 * GEN_SLOTS + (s32)gen_below(g, 8 * GEN_SLOTS - 7));
	u32 v = gen_reg(g), d = gen_reg(g);

	gen_insn(g, BPF_LDX | BPF_MEM | size, v, BPF_REG_10, off, 0);
	switch (gen_below(g, 4)) {
	case 0:
	case 1:
		gen_insn(g, (size == BPF_W ? BPF_ALU : BPF_ALU64) | ops[gen_below(g, ARRAY_SIZE(ops))] | BPF_X, d, v, 0, 0);
		break;
	case 2:
		gen_insn(g, gen_below(g, 2) ? BPF_ALU | BPF_END | BPF_TO_BE : BPF_ALU64 | BPF_END, v, 0, 0,
			 size == BPF_B ? 16 : bits[size == BPF_H ? 0 : size == BPF_W ? 1 : 2]);
		return;
	case 3:
		gen_skip_one(g, gen_below(g, 2) ? BPF_JMP : BPF_JMP32, v);
		gen_insn(g, BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, 5);
		break;
	}
	gen_done(g, v);
}

/* Bits: a field, the lowest bit cleared, a test of some */
static void gen_bits(struct gen *g, u8 class)
{
	u32 s = gen_reg(g), t = gen_reg_but(g, s);

	gen_insn(g, (gen_below(g, 4) ? class : BPF_ALU64) | BPF_MOV | BPF_X, t, s, 0, 0);
	switch (gen_below(g, 4)) {
	case 0:
		gen_insn(g, class | BPF_RSH | BPF_K, t, 0, 0, 1 + (s32)gen_below(g, 31));
		gen_insn(g, class | BPF_AND | BPF_K, t, 0, 0, gen_below(g, 2) ? 255 : gen_imm(g));
		break;
	case 1:
		gen_insn(g, class | BPF_ADD | BPF_K, t, 0, 0, -1);
		gen_insn(g, class | BPF_AND | BPF_X, s, t, 0, 0);
		gen_done(g, t);
		break;
	case 2:
		if (gen_below(g, 2))
			gen_insn(g, class | BPF_AND | BPF_K, t, 0, 0, gen_imm(g));
		else
			gen_insn(g, class | BPF_AND | BPF_X, t, gen_reg(g), 0, 0);
		gen_insn(g, (gen_below(g, 2) ? BPF_JMP : BPF_JMP32) | (gen_below(g, 2) ? BPF_JEQ : BPF_JNE) | BPF_K, t, 0, 1, 0);
		gen_insn(g, class | BPF_MOV | BPF_K, s, 0, 0, 9);
		gen_done(g, t);
		break;
	case 3:
		gen_insn(g, class | (gen_below(g, 2) ? BPF_LSH : BPF_ARSH) | BPF_X, t, gen_reg(g), 0, 0);
		break;
	}
}

/* Multiplications and divisions by numbers that are worth a shorter way */
static void gen_by_constant(struct gen *g, u8 class)
{
	static const u8 ops[] = { BPF_MUL, BPF_DIV, BPF_MOD };
	s32 imm = gen_below(g, 4) ? 1 + (s32)gen_below(g, 130) : gen_imm(g);

	gen_insn(g, class | ops[gen_below(g, 3)] | BPF_K, gen_reg(g), 0, 0, imm ? imm : 7);
}

static void gen_combined(struct gen *g)
{
	u8 class = gen_below(g, 2) ? BPF_ALU64 : BPF_ALU;

	switch (gen_below(g, 6)) {
	case 0:
		gen_rotate(g, class);
		break;
	case 1:
		gen_select(g, class);
		break;
	case 2:
		gen_indexed(g);
		break;
	case 3:
		gen_load_use(g);
		break;
	case 4:
		gen_bits(g, class);
		break;
	case 5:
		gen_by_constant(g, class);
		break;
	}
}

static void gen_unary(struct gen *g)
{
	static const s32 sizes[] = { 16, 32, 64 };
	u32 d = gen_reg(g), s = gen_reg(g);

	switch (gen_below(g, 6)) {
	case 0:
		gen_insn(g, BPF_ALU64 | BPF_NEG, d, 0, 0, 0);
		break;
	case 1:
		gen_insn(g, BPF_ALU | BPF_NEG, d, 0, 0, 0);
		break;
	case 2:
		gen_insn(g, BPF_ALU | BPF_END | (gen_below(g, 2) ? BPF_TO_LE : BPF_TO_BE), d, 0, 0, sizes[gen_below(g, 3)]);
		break;
	case 3:
		gen_insn(g, BPF_ALU64 | BPF_END, d, 0, 0, sizes[gen_below(g, 3)]);
		break;
	case 4:
		gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_X, d, s, (s16)(8 << gen_below(g, 3)), 0);
		break;
	case 5:
		gen_insn(g, BPF_ALU | BPF_MOV | BPF_X, d, s, (s16)(8 << gen_below(g, 2)), 0);
		break;
	}
}

/* An access inside the slots: by fp, or by a register that is fp - k for as long
 * as this unit lasts. */
static void gen_memory(struct gen *g)
{
	u8 size = gen_sizes[gen_below(g, 4)];
	s16 off = (s16)(-8 * GEN_SLOTS + (s32)gen_below(g, 8 * GEN_SLOTS - 7));
	u32 base = BPF_REG_10, value = gen_reg(g);

	if (!gen_below(g, 3)) {
		base = gen_reg(g);
		gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_X, base, BPF_REG_10, 0, 0);
		if (gen_below(g, 2)) {
			gen_insn(g, BPF_ALU64 | BPF_ADD | BPF_K, base, 0, 0, -8);
			off = (s16)(off + 8);
		}
		if (base == value)
			value = (value + 1) % 10;
	}
	switch (gen_below(g, 4)) {
	case 0:
		gen_insn(g, BPF_LDX | BPF_MEM | size, value, base, off, 0);
		break;
	case 1:
		gen_insn(g, BPF_LDX | (size == BPF_DW ? BPF_MEM : BPF_MEMSX) | size, value, base, off, 0);
		break;
	case 2:
		gen_insn(g, BPF_ST | BPF_MEM | size, base, 0, off, gen_imm(g));
		break;
	case 3:
		gen_insn(g, BPF_STX | BPF_MEM | size, base, value, off, 0);
		break;
	}
	if (base != BPF_REG_10)
		gen_const(g, base);
}

static void gen_atomic(struct gen *g)
{
	static const s32 ops[] = { BPF_ADD, BPF_ADD | BPF_FETCH, BPF_OR, BPF_OR | BPF_FETCH, BPF_AND, BPF_AND | BPF_FETCH,
				   BPF_XOR, BPF_XOR | BPF_FETCH, BPF_XCHG, BPF_CMPXCHG };
	u32 base = BPF_REG_10, value = gen_reg(g);

	if (gen_below(g, 2)) {
		base = gen_reg(g);
		if (base == value)
			value = (value + 1) % 10;
		gen_insn(g, BPF_ALU64 | BPF_MOV | BPF_X, base, BPF_REG_10, 0, 0);
	}
	if (base == BPF_REG_0) /* cmpxchg would compare an address */
		gen_insn(g, BPF_STX | BPF_ATOMIC | BPF_DW, base, value, -8 * (s16)(1 + gen_below(g, GEN_SLOTS)),
			 ops[gen_below(g, 9)]);
	else
		gen_insn(g, BPF_STX | BPF_ATOMIC | (gen_below(g, 2) ? BPF_DW : BPF_W), base, value,
			 -8 * (s16)(1 + gen_below(g, GEN_SLOTS)), ops[gen_below(g, 10)]);
	if (base != BPF_REG_10)
		gen_const(g, base);
}

static void gen_after_call(struct gen *g)
{
	for (u32 r = BPF_REG_1; r <= BPF_REG_5; r++)
		gen_const(g, r);
}

static void gen_call(struct gen *g)
{
	if (g->ncalls < ARRAY_SIZE(g->calls) && gen_below(g, 2)) {
		g->calls[g->ncalls++] = g->n;
		gen_insn(g, BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0);
	} else {
		gen_insn(g, BPF_JMP | BPF_CALL, 0, 0, 0,
			 gen_below(g, 2) ? BPF_FUNC_get_attach_cookie : BPF_FUNC_get_func_ip);
	}
	gen_after_call(g);
}

static void gen_unit(struct gen *g, bool calls)
{
	u32 what = gen_below(g, 32);

	if (what < 5)
		gen_alu(g);
	else if (what < 13)
		gen_combined(g);
	else if (what < 16)
		gen_idiom(g);
	else if (what < 20)
		gen_unary(g);
	else if (what < 25)
		gen_memory(g);
	else if (what < 28)
		gen_atomic(g);
	else if (what < 31 || !calls)
		gen_const(g, gen_reg(g));
	else
		gen_call(g);
}

/* A jump over what stands between it and the unit it is pointed at. */
static void gen_jump(struct gen *g)
{
	static const u8 ops[] = { BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JSGT, BPF_JSGE, BPF_JLT, BPF_JLE,
				  BPF_JSLT, BPF_JSLE };
	u8 class = gen_below(g, 2) ? BPF_JMP : BPF_JMP32, op = ops[gen_below(g, ARRAY_SIZE(ops))];

	if (!gen_below(g, 12))
		gen_insn(g, class | BPF_JA, 0, 0, 0, 0);
	else if (gen_below(g, 2))
		gen_insn(g, class | op | BPF_K, gen_reg(g), 0, 0, gen_below(g, 3) ? gen_imm(g) : 0);
	else
		gen_insn(g, class | op | BPF_X, gen_reg(g), gen_reg(g), 0, 0);
}

/* Units with forward jumps among them; jumps land on units or behind the last. */
static void gen_block(struct gen *g, u32 units, bool calls)
{
	u32 starts[256], jumps[256], njumps = 0, nstarts = 0;

	for (u32 u = 0; u < units && u < 255; u++) {
		starts[nstarts++] = g->n;
		if (!gen_below(g, 5)) {
			jumps[njumps++] = u;
			gen_jump(g);
		} else {
			gen_unit(g, calls);
		}
	}
	starts[nstarts] = g->n;
	for (u32 k = 0; k < njumps; k++) {
		struct bpf_insn *insn = &g->insns[starts[jumps[k]]];
		u32 to = jumps[k] + 1 + gen_below(g, nstarts - jumps[k]);
		s32 off = (s32)(starts[to] - starts[jumps[k]] - 1);

		if (insn->code == (BPF_JMP32 | BPF_JA))
			insn->imm = off;
		else
			insn->off = (s16)off;
	}
}

static void gen_start(struct gen *g)
{
	for (u32 s = 1; s <= GEN_SLOTS; s++)
		gen_insn(g, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, (s16)(-8 * (s32)s), gen_imm(g));
}

/* Registers (but the pointer, fp) and slots into r0 */
static void gen_end(struct gen *g, u32 last_reg)
{
	for (u32 r = BPF_REG_1; r <= last_reg; r++) {
		gen_insn(g, BPF_ALU64 | BPF_MUL | BPF_K, BPF_REG_0, 0, 0, 31);
		gen_insn(g, BPF_ALU64 | BPF_ADD | BPF_X, BPF_REG_0, r, 0, 0);
	}
	for (u32 s = 1; s <= GEN_SLOTS; s++) {
		gen_insn(g, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_10, (s16)(-8 * (s32)s), 0);
		gen_insn(g, BPF_ALU64 | BPF_MUL | BPF_K, BPF_REG_0, 0, 0, 31);
		gen_insn(g, BPF_ALU64 | BPF_XOR | BPF_X, BPF_REG_0, BPF_REG_1, 0, 0);
	}
	gen_insn(g, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* The block again, a few times: counter in a slot of its own. */
static void gen_loop(struct gen *g, u32 units)
{
	s16 counter = -8 * (GEN_SLOTS + 1);
	u32 head;

	gen_insn(g, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, counter, 1 + (s32)gen_below(g, 5));
	head = g->n;
	gen_block(g, units, false);
	gen_insn(g, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_4, BPF_REG_10, counter, 0);
	gen_insn(g, BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_4, 0, 0, -1);
	gen_insn(g, BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, BPF_REG_4, counter, 0);
	gen_insn(g, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_4, 0, (s16)((s32)head - (s32)g->n - 1), 0);
}

static void gen_func(struct gen *g, bool main)
{
	u32 blocks = 1 + gen_below(g, 3);

	gen_start(g);
	for (u32 r = 0; r <= BPF_REG_9; r++)
		if (main || r == BPF_REG_0 || gen_below(g, 2))
			gen_const(g, r);
	if (!main) /* what a caller has in r6-r9 is not for a subprogram to read */
		for (u32 r = BPF_REG_6; r <= BPF_REG_9; r++)
			gen_const(g, r);
	if (!main)
		gen_after_call(g);
	for (u32 b = 0; b < blocks; b++) {
		if (gen_below(g, 4))
			gen_block(g, 1 + gen_below(g, gen_below(g, 4) ? 20 : 120), main);
		else
			gen_loop(g, 1 + gen_below(g, 20));
	}
	gen_end(g, BPF_REG_9);
}

/* A program; its subprograms behind it. */
static void gen_program(struct gen *g)
{
	u32 first, nfuncs;

	g->n = g->ncalls = 0;
	gen_func(g, true);
	nfuncs = g->ncalls ? 1 + gen_below(g, 2) : 0;
	for (u32 f = 0; f < nfuncs; f++) {
		first = g->n;
		gen_func(g, false);
		for (u32 c = f; c < g->ncalls; c += nfuncs)
			g->insns[g->calls[c]].imm = (s32)(first - g->calls[c] - 1);
	}
}
