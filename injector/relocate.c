/* SPDX-License-Identifier: MIT */
/*
 * Relocation of displaced instructions; see relocate.h. One row of `classes`
 * for each kind of instruction: how to copy it, or why not to.
 */
#include "injector/relocate.h"

#include <string.h>

static void copy_plain(struct emit *e, const u8 *bytes, const struct insn *in)
{
	if (!in->rip) {
		put_bytes(e, bytes, in->len);
		return;
	}
	put_bytes(e, bytes, in->at.disp);
	put_rel32(e, in->ref, in->len - in->at.disp - 4);
	put_bytes(e, bytes + in->at.disp + 4, in->len - in->at.disp - 4);
}

static void copy_jmp(struct emit *e, const u8 *bytes, const struct insn *in)
{
	put_jmp(e, in->target);
}

static void copy_jcc(struct emit *e, const u8 *bytes, const struct insn *in)
{
	/* The condition is the low nibble of the byte in front of the offset,
	 * in 7x rel8 and in 0f 8x rel32 alike. */
	put_lit(e, 0x0f, 0x80 | (bytes[in->at.imm - 1] & 15));
	put_rel32(e, in->target, 0);
}

/* loop, jrcxz and their kind have eight bits of reach only:
 *	loop 1f; jmp 2f; 1: jmp target; 2: */
static void copy_loop(struct emit *e, const u8 *bytes, const struct insn *in)
{
	put_bytes(e, bytes, in->len - 1);
	put_lit(e, 2, 0xeb, 5);
	put_jmp(e, in->target);
}

static void copy_xbegin(struct emit *e, const u8 *bytes, const struct insn *in)
{
	put_lit(e, 0xc7, 0xf8);
	put_rel32(e, in->target, 0);
}

/* push imm32 extends the sign, so the upper half is stored where it differs. */
static void push_return(struct emit *e, const struct insn *in)
{
	addr_t back = in->addr + in->len;

	put_lit(e, 0x68);
	put_u32(e, (u32)back);
	if ((u64)(s64)(s32)back != back) {
		put_lit(e, 0xc7, 0x44, 0x24, 0x04);
		put_u32(e, (u32)(back >> 32));
	}
}

static void copy_call(struct emit *e, const u8 *bytes, const struct insn *in)
{
	push_return(e, in);
	put_jmp(e, in->target);
}

static bool has_rex_b(const u8 *bytes, const struct insn *in)
{
	u8 before = in->at.opcode ? bytes[in->at.opcode - 1] : 0;

	return (before & 0xf1) == 0x41;
}

/* A memory operand whose base is rsp; r12 has the same low bits and is told
 * apart by rex.b. */
static bool rsp_based(const u8 *bytes, const struct insn *in)
{
	return in->at.sib && (bytes[in->at.sib] & 7) == SP && !has_rex_b(bytes, in);
}

/* The group 5 instruction with its modrm.reg changed from call (2) to jmp (4).
 * An operand relative to rsp lies 8 bytes further away once the return address
 * has been pushed. */
static void emit_jmp_like(struct emit *e, const u8 *bytes, const struct insn *in)
{
	u8 modrm = (bytes[in->at.modrm] & ~0x38) | 4 << 3;
	s32 disp = 0;
	s8 disp8;

	put_bytes(e, bytes, in->at.modrm);
	if (in->rip) {
		put_bytes(e, &modrm, 1);
		put_rel32(e, in->ref, 0);
		return;
	}
	if (!rsp_based(bytes, in)) {
		put_bytes(e, &modrm, 1);
		put_bytes(e, bytes + in->at.modrm + 1, in->len - in->at.modrm - 1);
		return;
	}
	if (in->at.disp_size == 1) {
		memcpy(&disp8, bytes + in->at.disp, 1);
		disp = disp8;
	} else if (in->at.disp_size == 4) {
		memcpy(&disp, bytes + in->at.disp, 4);
	}
	put_lit(e, (modrm & 0x3f) | 0x80, bytes[in->at.sib]);
	put_u32(e, (u32)disp + 8);
}

static void copy_call_ind(struct emit *e, const u8 *bytes, const struct insn *in)
{
	push_return(e, in);
	emit_jmp_like(e, bytes, in);
}

static const struct {
	void (*copy)(struct emit *e, const u8 *bytes, const struct insn *in);
	const char *refusal;
} classes[] = {
	[INSN_PLAIN] = { .copy = copy_plain },
	[INSN_NOP] = { .copy = copy_plain },
	[INSN_CALL] = { .copy = copy_call },
	[INSN_CALL_IND] = { .copy = copy_call_ind },
	[INSN_JCC] = { .copy = copy_jcc },
	[INSN_LOOP] = { .copy = copy_loop },
	[INSN_XBEGIN] = { .copy = copy_xbegin },
	[INSN_JMP] = { .copy = copy_jmp },
	[INSN_JMP_IND] = { .copy = copy_plain },
	[INSN_RET] = { .copy = copy_plain },
	[INSN_SYSCALL] = { .copy = copy_plain },
	[INSN_INT3] = { .refusal = "a breakpoint instruction" },
	[INSN_TRAP] = { .refusal = "a trap, whose handler looks at its address" },
	[INSN_FAR] = { .refusal = "a far transfer" },
};

const char *relocate_refusal(const u8 *bytes, const struct insn *in)
{
	if (classes[in->kind].refusal)
		return classes[in->kind].refusal;
	if (in->rip && in->addr32)
		return "an operand relative to eip";
	if (insn_is_relative(in) && in->data16)
		return "a branch with a 16-bit prefix, which CPUs disagree about";
	if (in->kind == INSN_CALL_IND && bytes[in->at.modrm] >> 6 == 3 && (bytes[in->at.modrm] & 7) == SP &&
	    !has_rex_b(bytes, in))
		return "a call to the stack";
	if ((in->kind == INSN_CALL_IND || in->kind == INSN_JMP_IND) && in->data16)
		return "a branch with a 16-bit prefix, which CPUs disagree about";
	if (in->kind == INSN_CALL_IND && in->addr32)
		return "a call through a 32-bit address";
	return NULL;
}

void relocate_insn(struct emit *e, const u8 *bytes, const struct insn *in)
{
	classes[in->kind].copy(e, bytes, in);
}
