/* SPDX-License-Identifier: MIT */
/*
 * x86-64 machine code, byte by byte. An emitter that meets a full buffer or an
 * impossible operand remembers it and does nothing from then on, so that code
 * generators read straight through and check `failed` once at the end.
 *
 * Naming: emit_OPERATION_OPERANDS, operands in Intel order (destination first):
 * r register, m memory [base + disp], i immediate. W is the width: true 64 bits,
 * false 32 (which zeroes the upper half of a register).
 */
#pragma once
#include "base/types.h"

enum x86_reg {
	RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15,
};

/* Condition codes as in jcc, setcc */
enum x86_cond {
	CC_B = 2, CC_AE = 3, CC_E = 4, CC_NE = 5, CC_BE = 6, CC_A = 7, CC_S = 8, CC_L = 12, CC_GE = 13, CC_LE = 14, CC_G = 15,
};

/* The eight classic operations: /digit of 81 and 83, opcode digit * 8 + 1. */
enum x86_alu {
	X86_ADD, X86_OR, X86_ADC, X86_SBB, X86_AND, X86_SUB, X86_XOR, X86_CMP,
};

/* Digits of c1 and d3 */
enum x86_shift {
	X86_ROL, X86_ROR, X86_SHL = 4, X86_SHR = 5, X86_SAR = 7,
};

/* Digits of f7 */
enum x86_unary {
	X86_NEG = 3, X86_MUL = 4, X86_DIV = 6, X86_IDIV = 7,
};

enum x86_size {
	X86_8, X86_16, X86_32, X86_64,
};

/* [base + index << shift + disp]; index NO_INDEX: none (it cannot be RSP). */
struct x86_mem {
	u8 base, index, shift;
	s32 disp;
};
#define NO_INDEX RSP

static inline struct x86_mem x86_at(enum x86_reg base, s32 disp)
{
	return (struct x86_mem){ (u8)base, NO_INDEX, 0, disp };
}

struct emit {
	u8 *buf;
	size_t cap, len;
	bool failed;
};

void emit_u8(struct emit *e, u8 b);
void emit_u32(struct emit *e, u32 v);
void emit_u64(struct emit *e, u64 v);

void emit_mov_rr(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src);
/* The shortest way to the 64-bit value V; changes flags only for V = 0. */
void emit_mov_ri(struct emit *e, enum x86_reg dst, u64 v);
/* Always ten bytes, whatever V is. */
void emit_movabs(struct emit *e, enum x86_reg dst, u64 v);
/* Extends the low SIZE bits of SRC to W bits. */
void emit_extend_rr(struct emit *e, bool w, bool sign, enum x86_size size, enum x86_reg dst, enum x86_reg src);

/* Loads SIZE, zero-extended to 64 bits or sign-extended to 64. */
void emit_load(struct emit *e, enum x86_size size, bool sign, enum x86_reg dst, struct x86_mem m);
/* dst = the u32 at %fs:[m] */
void emit_load_fs32(struct emit *e, enum x86_reg dst, struct x86_mem m);
void emit_store_r(struct emit *e, enum x86_size size, struct x86_mem m, enum x86_reg src);
void emit_store_i(struct emit *e, enum x86_size size, struct x86_mem m, s32 imm);
void emit_lea(struct emit *e, bool w, enum x86_reg dst, struct x86_mem m);
/* MOVBE: loads 16 (into the low half alone), 32 or 64 bits, bytes swapped. */
void emit_movbe(struct emit *e, enum x86_size size, enum x86_reg dst, struct x86_mem m);

void emit_alu_rr(struct emit *e, bool w, enum x86_alu op, enum x86_reg dst, enum x86_reg src);
/* IMM is sign-extended to the width. */
void emit_alu_ri(struct emit *e, bool w, enum x86_alu op, enum x86_reg dst, s32 imm);
/* dst op= [m] */
void emit_alu_rm(struct emit *e, bool w, enum x86_alu op, enum x86_reg dst, struct x86_mem m);
/* Compares memory of SIZE with a register of 32 or 64 bits, or a number; CMP
 * [m], reg compares the memory with the register. */
void emit_cmp_mr(struct emit *e, bool w, struct x86_mem m, enum x86_reg src);
void emit_cmp_mi(struct emit *e, enum x86_size size, struct x86_mem m, s32 imm);
void emit_imul_rm(struct emit *e, bool w, enum x86_reg dst, struct x86_mem m);
void emit_cmov(struct emit *e, bool w, enum x86_cond cc, enum x86_reg dst, enum x86_reg src);
/* The low byte of REG alone. */
void emit_setcc(struct emit *e, enum x86_cond cc, enum x86_reg reg);
void emit_test_rr(struct emit *e, bool w, enum x86_reg a, enum x86_reg b);
void emit_test_ri(struct emit *e, bool w, enum x86_reg a, s32 imm);
void emit_imul_rr(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src);
void emit_imul_rri(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src, s32 imm);
void emit_unary(struct emit *e, bool w, enum x86_unary op, enum x86_reg reg);
/* Sign of rax (eax) into rdx (edx): cqo, cdq. */
void emit_sign_rax(struct emit *e, bool w);
void emit_shift_i(struct emit *e, bool w, enum x86_shift op, enum x86_reg reg, u8 count);
void emit_shift_cl(struct emit *e, bool w, enum x86_shift op, enum x86_reg reg);
/* BMI2: shlx, shrx, sarx */
void emit_shiftx(struct emit *e, bool w, enum x86_shift op, enum x86_reg dst, enum x86_reg src, enum x86_reg count);
/* BMI2: dst = src rotated right; no flags. */
void emit_rorx(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src, u8 count);
/* BMI2: hi:lo = rdx * src; no flags. */
void emit_mulx(struct emit *e, bool w, enum x86_reg hi, enum x86_reg lo, enum x86_reg src);
/* BMI1: dst = src & (src - 1) */
void emit_blsr(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src);
void emit_bswap(struct emit *e, bool w, enum x86_reg reg);
void emit_ror16_8(struct emit *e, enum x86_reg reg);

/* Atomics; SIZE is X86_32 or X86_64. */
void emit_lock_alu(struct emit *e, bool w, enum x86_alu op, enum x86_reg base, s32 disp, enum x86_reg src);
void emit_lock_xadd(struct emit *e, bool w, enum x86_reg base, s32 disp, enum x86_reg reg);
void emit_xchg(struct emit *e, bool w, enum x86_reg base, s32 disp, enum x86_reg reg);
void emit_lock_cmpxchg(struct emit *e, bool w, enum x86_reg base, s32 disp, enum x86_reg reg);

/* edx:eax = the time stamp counter, after all that came before. */
void emit_rdtsc(struct emit *e);
/* rcx words of rax at [rdi] */
void emit_rep_stosq(struct emit *e);
void emit_push(struct emit *e, enum x86_reg reg);
void emit_pop(struct emit *e, enum x86_reg reg);
void emit_leave(struct emit *e);
void emit_ret(struct emit *e);

/* SIZE bytes of no operation, in as few instructions as go. */
void emit_nop(struct emit *e, u32 size);

/* Jumps: REL counts from the end of the instruction; SHORT is rel8. */
void emit_jcc(struct emit *e, enum x86_cond cc, bool is_short, s32 rel);
void emit_jmp(struct emit *e, bool is_short, s32 rel);
void emit_call_rel(struct emit *e, s32 rel);
void emit_call_r(struct emit *e, enum x86_reg reg);
void emit_jmp_r(struct emit *e, enum x86_reg reg);

/* A short forward jump whose target is not known yet: returns where to patch
 * once it is. */
size_t emit_jcc_fwd(struct emit *e, enum x86_cond cc);
size_t emit_jmp_fwd(struct emit *e);
void emit_land(struct emit *e, size_t fwd);
