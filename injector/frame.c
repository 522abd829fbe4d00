/* SPDX-License-Identifier: MIT */
/*
 * Frames by the unwind tables. A return may be taken over only where rsp points
 * at its address, and not of a function that looks at that address itself: one
 * that returns twice, changes stacks, or asks who has called it.
 */
#include "injector/frame.h"

#include <string.h>

#include "injector/emit.h"

static bool cfa_at(const struct textscan *scan, addr_t addr, struct code_cfa *ret)
{
	const struct code_image *code = textscan_code(scan);

	return code->cfa && code->cfa(code, addr, ret);
}

bool frame_at_return(const struct textscan *scan, addr_t addr)
{
	struct code_cfa cfa;

	return cfa_at(scan, addr, &cfa) && cfa.reg == CODE_CFA_RSP && cfa.off == 8;
}

/* The low register bits of an operand are extended by rex.b, which stands behind
 * the other prefixes. */
static bool extends_base(const u8 *bytes, const struct insn *in)
{
	static const u8 prefixes[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65 };
	unsigned i = 0;

	while (i < in->at.modrm && memchr(prefixes, bytes[i], sizeof(prefixes)))
		i++;
	return (bytes[i] & 0xf1) == 0x41;
}

/* The memory operand of IN: DWARF's number of its base and the offset; false when it
 * is none of rsp or rbp alone. */
static bool stack_operand(const u8 *bytes, const struct insn *in, u8 *reg, s32 *off)
{
	u8 mod, base;
	s8 off8;

	if (!in->at.modrm)
		return false;
	mod = bytes[in->at.modrm] >> 6;
	base = bytes[in->at.modrm] & 7;
	if (mod == 3 || extends_base(bytes, in))
		return false;
	if (base == SP)
		base = bytes[in->at.sib] & 7;
	if ((base != SP && base != BP) || (base == BP && !mod))
		return false;
	*reg = base == SP ? CODE_CFA_RSP : CODE_CFA_RBP;
	*off = 0;
	if (in->at.disp_size == 1) {
		memcpy(&off8, bytes + in->at.disp, 1);
		*off = off8;
	} else if (in->at.disp_size == 4) {
		memcpy(off, bytes + in->at.disp, 4);
	}
	return true;
}

static bool is_pop(const u8 *bytes, const struct insn *in)
{
	u8 first = in->len > 1 && (bytes[0] & 0xf0) == 0x40 ? bytes[1] : bytes[0];

	return in->kind == INSN_PLAIN && ((first & 0xf8) == 0x58 || first == 0x8f);
}

bool frame_reads_return(const struct textscan *scan, const u8 *bytes, const struct insn *in, struct code_cfa *cache)
{
	s32 off;
	u8 reg;

	if (in->kind == INSN_NOP)
		return false;
	if ((in->addr < cache->lo || in->addr >= cache->hi) && !cfa_at(scan, in->addr, cache))
		return false;
	if (is_pop(bytes, in))
		return cache->reg == CODE_CFA_RSP && cache->off == 8;
	return stack_operand(bytes, in, &reg, &off) && reg == cache->reg && off == cache->off - 8;
}
