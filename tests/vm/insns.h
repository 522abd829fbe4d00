/* SPDX-License-Identifier: MIT */
/* Instructions by name, for programs in tests. */
#pragma once
#include <linux/bpf.h>
#include <string.h>

/* How many of INSNS[max] there are before zeros fill the array up. */
static inline unsigned insns_length(const struct bpf_insn *insns, unsigned max)
{
	static const struct bpf_insn none;

	while (max && !memcmp(&insns[max - 1], &none, sizeof(none)))
		max--;
	return max;
}

#define ALU64_IMM(op, d, i) { .code = BPF_ALU64 | (op) | BPF_K, .dst_reg = d, .imm = i }
#define ALU64_REG(op, d, s) { .code = BPF_ALU64 | (op) | BPF_X, .dst_reg = d, .src_reg = s }
#define ALU32_IMM(op, d, i) { .code = BPF_ALU | (op) | BPF_K, .dst_reg = d, .imm = i }
#define ALU32_REG(op, d, s) { .code = BPF_ALU | (op) | BPF_X, .dst_reg = d, .src_reg = s }
#define NEG(d) { .code = BPF_ALU64 | BPF_NEG, .dst_reg = d }
#define NEG32(d) { .code = BPF_ALU | BPF_NEG, .dst_reg = d }
#define ENDIAN(to, d, bits) { .code = BPF_ALU | BPF_END | (to), .dst_reg = d, .imm = bits }
#define BSWAP(d, bits) { .code = BPF_ALU64 | BPF_END, .dst_reg = d, .imm = bits }
#define MOV_IMM(d, i) ALU64_IMM(BPF_MOV, d, i)
#define MOV_REG(d, s) ALU64_REG(BPF_MOV, d, s)
#define MOV32_REG(d, s) { .code = BPF_ALU | BPF_MOV | BPF_X, .dst_reg = d, .src_reg = s }
#define MOV32_IMM(d, i) { .code = BPF_ALU | BPF_MOV | BPF_K, .dst_reg = d, .imm = i }
#define MOVSX(d, s, bits) { .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = d, .src_reg = s, .off = bits }
#define MOVSX32(d, s, bits) { .code = BPF_ALU | BPF_MOV | BPF_X, .dst_reg = d, .src_reg = s, .off = bits }
/* BPF_DIV or BPF_MOD */
#define SDIV_IMM(op, d, i) { .code = BPF_ALU64 | (op) | BPF_K, .dst_reg = d, .off = 1, .imm = i }
#define SDIV_REG(op, d, s) { .code = BPF_ALU64 | (op) | BPF_X, .dst_reg = d, .src_reg = s, .off = 1 }
#define LD_IMM64(d, v) \
	{ .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = d, .imm = (__s32)(v) }, { .imm = (__s32)((__u64)(v) >> 32) }
#define LD_MAP(d, m) { .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = d, .src_reg = 5, .imm = m }, { 0 }
#define LD_VALUE(d, m, o) { .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = d, .src_reg = 6, .imm = m }, { .imm = o }
/* The address of the function O instructions behind this one's first half. */
#define LD_FUNC(d, o) \
	{ .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = d, .src_reg = BPF_PSEUDO_FUNC, .imm = o }, { 0 }
#define LOAD(size, d, s, o) { .code = BPF_LDX | BPF_MEM | (size), .dst_reg = d, .src_reg = s, .off = o }
#define LOADSX(size, d, s, o) { .code = BPF_LDX | 0x80 | (size), .dst_reg = d, .src_reg = s, .off = o }
#define STORE(size, d, o, s) { .code = BPF_STX | BPF_MEM | (size), .dst_reg = d, .src_reg = s, .off = o }
#define STORE_IMM(size, d, o, i) { .code = BPF_ST | BPF_MEM | (size), .dst_reg = d, .off = o, .imm = i }
#define ATOMIC(size, op, d, o, s) \
	{ .code = BPF_STX | BPF_ATOMIC | (size), .dst_reg = d, .src_reg = s, .off = o, .imm = op }
#define JUMP(o) { .code = BPF_JMP | BPF_JA, .off = o }
#define JUMP_IMM(op, d, i, o) { .code = BPF_JMP | (op) | BPF_K, .dst_reg = d, .off = o, .imm = i }
#define JUMP_REG(op, d, s, o) { .code = BPF_JMP | (op) | BPF_X, .dst_reg = d, .src_reg = s, .off = o }
#define JUMP32_IMM(op, d, i, o) { .code = BPF_JMP32 | (op) | BPF_K, .dst_reg = d, .off = o, .imm = i }
#define JUMP32_REG(op, d, s, o) { .code = BPF_JMP32 | (op) | BPF_X, .dst_reg = d, .src_reg = s, .off = o }
#define JUMP_LONG(o) { .code = BPF_JMP32 | BPF_JA, .imm = o }
#define CALL(id) { .code = BPF_JMP | BPF_CALL, .imm = id }
#define CALL_LOCAL(o) { .code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_CALL, .imm = o }
#define EXIT { .code = BPF_JMP | BPF_EXIT }
#define R0 BPF_REG_0
#define R1 BPF_REG_1
#define R2 BPF_REG_2
#define R3 BPF_REG_3
#define R4 BPF_REG_4
#define R5 BPF_REG_5
#define R6 BPF_REG_6
#define R7 BPF_REG_7
#define R8 BPF_REG_8
#define R9 BPF_REG_9
#define FP BPF_REG_10
#define B BPF_B
#define H BPF_H
#define W BPF_W
#define DW BPF_DW
