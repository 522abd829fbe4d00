/* SPDX-License-Identifier: MIT */
/*
 * The instruction set as a table (opcodes.def), and names that linux/bpf.h of
 * Debian 12 lacks. Every reader of instructions decodes through here, so that
 * they cannot disagree about what an instruction is.
 */
#pragma once
#include <linux/bpf.h>

#include "base/types.h"

#ifndef BPF_MEMSX
#define BPF_MEMSX 0x80
#endif
#define INSN_PSEUDO_FUNC 4
#define INSN_PSEUDO_MAP_IDX 5
#define INSN_PSEUDO_MAP_IDX_VALUE 6

#define INSN_STACK_SIZE 512 /* bytes a frame, and over a whole call chain */
#define INSN_MAX_FRAMES 8
#define INSN_MAX_SUBPROGS 256
#define INSN_MAX 1000000   /* instructions of one program, as the kernel has it for root */

enum opcode_id {
	OP_NONE, /* no such instruction */
#define OP(id, ...) OP_##id,
#include "vm/opcodes.def"
	OP_COUNT,
};

/* What a field of an instruction must be. Values from 0 up are themselves. */
enum opcode_field {
	FIELD_Z = 0,
	FIELD_R = -1,
	FIELD_W = -2,
	FIELD_RW = -3,
	FIELD_M = -4,
	FIELD_MEM = -5,
	FIELD_JMP = -6,
	FIELD_ANY = -7,
	FIELD_NZ = -8,
	FIELD_SH32 = -9,
	FIELD_SH64 = -10,
	FIELD_CALL = -11,
};

enum opcode_form {
	FORM_NONE, FORM_ALU, FORM_NEG, FORM_MOVSX, FORM_END, FORM_GOTO, FORM_JUMP, FORM_CALL, FORM_EXIT,
	FORM_IMM64, FORM_LOAD, FORM_STORE, FORM_ATOMIC, FORM_FETCH, FORM_XCHG, FORM_CMPXCHG,
};

struct opcode {
	u8 code;
	s16 dst, src, off, imm; /* enum opcode_field, or a number */
	u8 form;                /* enum opcode_form */
	const char *text;
};

extern const struct opcode opcodes[OP_COUNT];

/* The instruction of INSN's code and of those fields that select among several
 * of one code. When the code is known but no selection fits, the first of that
 * code with *selected false; OP_NONE for an unknown code. */
enum opcode_id opcode_decode(const struct bpf_insn *insn, bool *selected);

/* Which fields of INSN are not what the table wants; 0: all right. A register
 * number is judged too. */
enum { BAD_DST = 1, BAD_SRC = 2, BAD_OFF = 4, BAD_IMM = 8 };
unsigned opcode_bad_fields(const struct bpf_insn *insn, const struct opcode *op);

static inline bool opcode_reads_dst(const struct opcode *op)
{
	return op->dst == FIELD_R || op->dst == FIELD_RW || op->dst == FIELD_M;
}

static inline bool opcode_writes_dst(const struct opcode *op)
{
	return op->dst == FIELD_W || op->dst == FIELD_RW;
}

static inline bool opcode_uses_src(const struct opcode *op)
{
	return op->src == FIELD_R || op->src == FIELD_RW || op->src == FIELD_M;
}

/* Bytes of a memory access by its code. */
static inline u32 insn_access_size(const struct bpf_insn *insn)
{
	switch (BPF_SIZE(insn->code)) {
	case BPF_B:
		return 1;
	case BPF_H:
		return 2;
	case BPF_W:
		return 4;
	}
	return 8;
}

/* Where a jump leads (an index that may lie outside the program). */
static inline s64 insn_jump_target(const struct bpf_insn *insn, u32 at)
{
	return (s64)at + 1 + (insn->code == (BPF_JMP32 | BPF_JA) ? insn->imm : insn->off);
}

/* The 64-bit constant of an ld_imm64. */
static inline u64 insn_imm64(const struct bpf_insn *insn)
{
	return (u64)(u32)insn[1].imm << 32 | (u32)insn[0].imm;
}
