/* SPDX-License-Identifier: MIT */
/* The table of opcodes.def as data, and the decoder over it. */
#include "vm/opcodes.h"

enum { Z = FIELD_Z, R = FIELD_R, W = FIELD_W, RW = FIELD_RW, M = FIELD_M, MEM = FIELD_MEM, JMP = FIELD_JMP,
       ANY = FIELD_ANY, NZ = FIELD_NZ, SH32 = FIELD_SH32, SH64 = FIELD_SH64, CALL = FIELD_CALL };

const struct opcode opcodes[OP_COUNT] = {
#define OP(id, code, dst, src, off, imm, form, text) \
	[OP_##id] = { code, dst, src, off, imm, FORM_##form, text },
#include "vm/opcodes.def"
};

static const u8 first_of_code[256] = {
#define OP(id, code, ...) [code] = OP_##id,
#define OP_ALSO(...)
#include "vm/opcodes.def"
};
_Static_assert(OP_COUNT <= 256, "ids fit first_of_code");

/* Whether FIELD is a number that selects, and is not V. A required zero
 * selects as well, but only among instructions that share a code. */
static bool selects_other(s16 field, s32 v)
{
	return field >= 0 && field != v;
}

enum opcode_id opcode_decode(const struct bpf_insn *insn, bool *selected)
{
	u32 first = first_of_code[insn->code];

	*selected = true;
	for (u32 id = first; id != OP_NONE && id < OP_COUNT && opcodes[id].code == insn->code; id++) {
		const struct opcode *op = &opcodes[id];

		if (!selects_other(op->src, insn->src_reg) && !selects_other(op->off, insn->off) &&
		    !selects_other(op->imm, insn->imm))
			return id;
	}
	*selected = false;
	return first;
}

static bool reg_ok(s16 field, u32 v)
{
	if (field >= 0)
		return v == (u32)field;
	return v <= (field == FIELD_W || field == FIELD_RW ? BPF_REG_9 : BPF_REG_10);
}

static bool imm_ok(s16 field, s32 v)
{
	switch (field) {
	case FIELD_NZ:
		return v != 0;
	case FIELD_SH32:
		return v >= 0 && v < 32;
	case FIELD_SH64:
		return v >= 0 && v < 64;
	}
	return field < 0 || v == field;
}

unsigned opcode_bad_fields(const struct bpf_insn *insn, const struct opcode *op)
{
	unsigned bad = 0;

	if (!reg_ok(op->dst, insn->dst_reg))
		bad |= BAD_DST;
	if (!reg_ok(op->src, insn->src_reg))
		bad |= BAD_SRC;
	if (op->off >= 0 && insn->off != op->off)
		bad |= BAD_OFF;
	if (!imm_ok(op->imm, insn->imm))
		bad |= BAD_IMM;
	return bad;
}
