/* SPDX-License-Identifier: MIT */
/*
 * One x86-64 instruction, decoded as far as patching needs it: its length, what
 * it does to control flow, and which addresses it names. A thin layer over
 * Zydis' minimal mode, which tells no operands but is fast enough to walk the
 * whole text of a program.
 */
#pragma once
#include "base/types.h"

#define INSN_MAX 15

enum insn_kind {
	INSN_PLAIN,
	INSN_NOP,
	INSN_CALL,     /* rel32: target */
	INSN_CALL_IND, /* through a register or memory */
	INSN_JCC,      /* rel8, rel32: target */
	INSN_LOOP,     /* loop, loope, loopne, jrcxz, jecxz: target */
	INSN_XBEGIN,   /* target is where an abort goes on */
	INSN_JMP,      /* rel8, rel32: target */
	INSN_JMP_IND,
	INSN_RET,      /* near */
	INSN_SYSCALL,  /* syscall, sysenter: the kernel may step back to it */
	INSN_INT3,
	INSN_TRAP,     /* ud0, ud1, ud2, hlt, int1: never goes on; whoever handles it looks at rip */
	INSN_FAR,      /* far jmp, call, ret, iret, sysret */
};

/* Where things stand in the bytes of an instruction; 0: not there. */
struct insn_layout {
	u8 opcode; /* the modrm's opcode byte for group 5, else unused */
	u8 modrm;
	u8 sib;
	u8 disp;
	u8 disp_size; /* bytes */
	u8 imm;
	u8 imm_size;  /* bytes */
};

struct insn {
	addr_t addr;
	u8 len;
	enum insn_kind kind;
	bool rip;          /* has a rip-relative memory operand: ref is its address */
	bool addr32;       /* 67 prefix */
	bool data16;       /* 66 prefix that a branch would obey on some CPUs */
	bool lea;
	bool table;        /* operand [ref + reg*8] without a base register */
	bool imm_pointer;  /* mov, push: imm may be the address of code */
	addr_t target;     /* of a relative branch */
	addr_t ref;
	u64 imm;
	struct insn_layout at;
};

/* Decodes the instruction at BYTES[avail], which stands at ADDR. False when
 * there is none (nothing is written then). */
bool insn_decode(const u8 *bytes, size_t avail, addr_t addr, struct insn *ret);

/* Execution does not go on to the next instruction. */
static inline bool insn_ends_block(const struct insn *in)
{
	return in->kind == INSN_JMP || in->kind == INSN_JMP_IND || in->kind == INSN_RET ||
	       in->kind == INSN_TRAP || in->kind == INSN_FAR;
}

static inline bool insn_is_padding(const struct insn *in)
{
	return in->kind == INSN_NOP || in->kind == INSN_INT3;
}

static inline bool insn_is_relative(const struct insn *in)
{
	return in->kind == INSN_CALL || in->kind == INSN_JCC || in->kind == INSN_JMP ||
	       in->kind == INSN_LOOP || in->kind == INSN_XBEGIN;
}

enum jump_kind {
	JUMP_AWAY,    /* through a pointer */
	JUMP_TABLE32, /* looks like a switch: offsets from a base */
	JUMP_TABLE64, /* a switch, or an array of function pointers */
	JUMP_UNKNOWN,
};

/* Looks at the instructions before an indirect jmp, INSNS[n] with the jump last,
 * and tells how its target was computed. */
enum jump_kind insn_jump_kind(const u8 *text, addr_t text_addr, size_t text_size, const struct insn *insns,
			      size_t n);
