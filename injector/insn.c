/* SPDX-License-Identifier: MIT */
/* Decoding of single instructions; see insn.h. */
#include "injector/insn.h"

#include <Zydis/Zydis.h>

/* Zydis' defaults (ZydisDecoderInit) written out, so that the decoders are
 * constants which threads can share. */
#define DECODER(minimal)                                                      \
	{                                                                     \
		.machine_mode = ZYDIS_MACHINE_MODE_LONG_64,                   \
		.stack_width = ZYDIS_STACK_WIDTH_64,                          \
		.decoder_mode = {                                             \
			[ZYDIS_DECODER_MODE_MINIMAL] = (minimal),             \
			[ZYDIS_DECODER_MODE_MPX] = ZYAN_TRUE,                 \
			[ZYDIS_DECODER_MODE_CET] = ZYAN_TRUE,                 \
			[ZYDIS_DECODER_MODE_LZCNT] = ZYAN_TRUE,               \
			[ZYDIS_DECODER_MODE_TZCNT] = ZYAN_TRUE,               \
			[ZYDIS_DECODER_MODE_CLDEMOTE] = ZYAN_TRUE,            \
		},                                                            \
	}

static const ZydisDecoder fast_decoder = DECODER(ZYAN_TRUE);
static const ZydisDecoder full_decoder = DECODER(ZYAN_FALSE);

static enum insn_kind kind_of(const ZydisDecodedInstruction *zi, bool rel)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_NOP:
		return INSN_NOP;
	case ZYDIS_MNEMONIC_INT3:
		return INSN_INT3;
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_HLT:
	case ZYDIS_MNEMONIC_INT1:
		return INSN_TRAP;
	case ZYDIS_MNEMONIC_CALL:
		if (rel)
			return INSN_CALL;
		return zi->raw.modrm.reg == 2 ? INSN_CALL_IND : INSN_FAR;
	case ZYDIS_MNEMONIC_JMP:
		if (rel)
			return INSN_JMP;
		return zi->raw.modrm.reg == 4 ? INSN_JMP_IND : INSN_FAR;
	case ZYDIS_MNEMONIC_RET:
		return zi->opcode == 0xc3 || zi->opcode == 0xc2 ? INSN_RET : INSN_FAR;
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_SYSEXIT:
		return INSN_FAR;
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_INT:
		return INSN_SYSCALL;
	case ZYDIS_MNEMONIC_XBEGIN:
		return INSN_XBEGIN;
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE:
	case ZYDIS_MNEMONIC_JRCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JCXZ:
		return INSN_LOOP;
	default:
		return rel ? INSN_JCC : INSN_PLAIN;
	}
}

static void read_prefixes(const ZydisDecodedInstruction *zi, struct insn *in)
{
	bool p66 = false;

	for (int i = 0; i < zi->raw.prefix_count; i++) {
		if (zi->raw.prefixes[i].value == 0x67)
			in->addr32 = true;
		else if (zi->raw.prefixes[i].value == 0x66)
			p66 = true;
	}
	in->data16 = p66 && !zi->raw.rex.W;
}

static void read_operands(const ZydisDecodedInstruction *zi, struct insn *in)
{
	bool has_modrm = zi->raw.modrm.offset != 0;

	in->at.modrm = zi->raw.modrm.offset;
	in->at.opcode = has_modrm ? zi->raw.modrm.offset - 1 : 0;
	in->at.sib = zi->raw.sib.offset;
	in->at.disp = zi->raw.disp.offset;
	in->at.disp_size = zi->raw.disp.size / 8;
	if (zi->raw.imm[0].size && !zi->raw.imm[0].is_relative) {
		in->at.imm = zi->raw.imm[0].offset;
		in->at.imm_size = zi->raw.imm[0].size / 8;
		in->imm = zi->raw.imm[0].value.u;
		in->imm_pointer = in->at.imm_size >= 4 &&
				  (zi->mnemonic == ZYDIS_MNEMONIC_MOV || zi->mnemonic == ZYDIS_MNEMONIC_PUSH);
	}
	if (!has_modrm || zi->raw.modrm.mod != 0 || zi->raw.disp.size != 32)
		return;
	if (zi->raw.modrm.rm == 5) {
		in->rip = true;
		in->ref = in->addr + in->len + (u64)zi->raw.disp.value;
		in->lea = zi->mnemonic == ZYDIS_MNEMONIC_LEA;
	} else if (zi->raw.modrm.rm == 4 && zi->raw.sib.base == 5 && zi->raw.sib.scale == 3) {
		in->table = true;
		in->ref = (u64)zi->raw.disp.value;
	}
}

bool insn_decode(const u8 *bytes, size_t avail, addr_t addr, struct insn *ret)
{
	ZydisDecodedInstruction zi;
	bool rel;

	if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(&fast_decoder, NULL, bytes, avail, &zi)))
		return false;
	*ret = (struct insn){ .addr = addr, .len = zi.length };
	rel = zi.raw.imm[0].size && zi.raw.imm[0].is_relative;
	ret->kind = kind_of(&zi, rel);
	if (rel) {
		ret->target = addr + zi.length + (u64)zi.raw.imm[0].value.s;
		ret->at.imm = zi.raw.imm[0].offset;
		ret->at.imm_size = zi.raw.imm[0].size / 8;
	}
	read_prefixes(&zi, ret);
	read_operands(&zi, ret);
	if (rel)
		ret->at.imm_size = zi.raw.imm[0].size / 8;
	return true;
}

static bool decode_full(const u8 *text, addr_t text_addr, size_t text_size, const struct insn *in,
			ZydisDecodedInstruction *zi, ZydisDecodedOperand *ops)
{
	size_t off = in->addr - text_addr;

	if (in->addr < text_addr || off >= text_size)
		return false;
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&full_decoder, text + off, text_size - off, zi, ops));
}

static ZydisRegister whole(ZydisRegister r)
{
	return ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r);
}

/* What a jump through the value that ZI leaves in its first operand is. A
 * *source receives the register that it came from when the search goes on. */
static enum jump_kind jump_by_definition(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
					 ZydisRegister *source)
{
	if (zi->mnemonic == ZYDIS_MNEMONIC_ADD || zi->mnemonic == ZYDIS_MNEMONIC_MOVSXD)
		return JUMP_TABLE32;
	if (zi->operand_count_visible < 2)
		return JUMP_AWAY;
	if (ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY)
		return ops[1].mem.index != ZYDIS_REGISTER_NONE ? JUMP_TABLE64 : JUMP_AWAY;
	if (zi->mnemonic == ZYDIS_MNEMONIC_MOV && ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
		*source = whole(ops[1].reg.value);
		return JUMP_UNKNOWN;
	}
	return JUMP_AWAY;
}

#define JUMP_LOOKBACK 24

/*
 * gcc and clang load a switch's target as `movslq (table,i,4), r; add table, r;
 * jmp *r` or `jmp *table(,i,8)`; a call through a pointer in tail position loads
 * r plainly. Beyond the start of the block (a jump or call in between) nothing
 * is known.
 */
enum jump_kind insn_jump_kind(const u8 *text, addr_t text_addr, size_t text_size, const struct insn *insns,
			      size_t n)
{
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisRegister reg;
	enum jump_kind kind;

	if (!n || !decode_full(text, text_addr, text_size, &insns[n - 1], &zi, ops))
		return JUMP_UNKNOWN;
	if (ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		return ops[0].mem.index != ZYDIS_REGISTER_NONE ? JUMP_TABLE64 : JUMP_AWAY;
	reg = whole(ops[0].reg.value);
	for (size_t i = n - 1, seen = 0; i-- > 0 && seen < JUMP_LOOKBACK; seen++) {
		if (insns[i].addr + insns[i].len != insns[i + 1].addr || insn_ends_block(&insns[i]))
			return JUMP_UNKNOWN;
		if (!decode_full(text, text_addr, text_size, &insns[i], &zi, ops))
			return JUMP_UNKNOWN;
		if (insns[i].kind == INSN_CALL || insns[i].kind == INSN_CALL_IND)
			if (reg == ZYDIS_REGISTER_RAX)
				return JUMP_AWAY; /* what a function returned */
		if (!zi.operand_count_visible || ops[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(ops[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) || whole(ops[0].reg.value) != reg)
			continue;
		kind = jump_by_definition(&zi, ops, &reg);
		if (kind != JUMP_UNKNOWN)
			return kind;
	}
	return JUMP_UNKNOWN;
}
