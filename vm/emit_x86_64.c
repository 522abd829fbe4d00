/* SPDX-License-Identifier: MIT */
/*
 * Encodings of the instructions that the JIT uses (Intel SDM volume 2): an
 * optional prefix, REX (0100WRXB), opcode, ModRM (mod reg rm), SIB, displacement,
 * immediate. Two traps: rm 4 (rsp, r12) means "a SIB byte follows", and mod 0
 * with rm 5 (rbp, r13) means "rip-relative", so that these bases always carry a
 * displacement. Byte operands 4-7 mean spl..dil only with a REX prefix.
 */
#include "vm/emit_x86_64.h"

void emit_u8(struct emit *e, u8 b)
{
	if (e->failed)
		return;
	if (e->len == e->cap) {
		e->failed = true;
		return;
	}
	e->buf[e->len++] = b;
}

static void emit_u16(struct emit *e, u16 v)
{
	emit_u8(e, (u8)v);
	emit_u8(e, (u8)(v >> 8));
}

void emit_u32(struct emit *e, u32 v)
{
	emit_u16(e, (u16)v);
	emit_u16(e, (u16)(v >> 16));
}

void emit_u64(struct emit *e, u64 v)
{
	emit_u32(e, (u32)v);
	emit_u32(e, (u32)(v >> 32));
}

static bool fits8(s64 v)
{
	return v == (s8)v;
}

static void rex(struct emit *e, bool w, unsigned reg, unsigned index, unsigned base, bool force)
{
	u8 b = (u8)(0x40 | w << 3 | reg >> 3 << 2 | index >> 3 << 1 | base >> 3);

	if (b != 0x40 || force)
		emit_u8(e, b);
}

/* One or two bytes: 0x0fXX is the two-byte map. */
static void opcode(struct emit *e, u32 op)
{
	if (op > 0xff)
		emit_u8(e, (u8)(op >> 8));
	emit_u8(e, (u8)op);
}

static void op_rr(struct emit *e, bool w, u32 op, unsigned reg, unsigned rm)
{
	rex(e, w, reg, 0, rm, false);
	opcode(e, op);
	emit_u8(e, (u8)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

static void mem_operand(struct emit *e, unsigned reg, struct x86_mem m)
{
	bool none = !m.disp && (m.base & 7) != RBP;
	u8 mod = none ? 0 : fits8(m.disp) ? 1 : 2;

	if (m.index == NO_INDEX) {
		emit_u8(e, (u8)(mod << 6 | (reg & 7) << 3 | (m.base & 7)));
		if ((m.base & 7) == RSP)
			emit_u8(e, 0x24);
	} else {
		emit_u8(e, (u8)(mod << 6 | (reg & 7) << 3 | 4));
		emit_u8(e, (u8)(m.shift << 6 | (m.index & 7) << 3 | (m.base & 7)));
	}
	if (mod == 1)
		emit_u8(e, (u8)m.disp);
	else if (mod == 2)
		emit_u32(e, (u32)m.disp);
}

static unsigned rex_index(struct x86_mem m)
{
	return m.index == NO_INDEX ? 0 : m.index;
}

static void op_rm(struct emit *e, bool w, u32 op, unsigned reg, struct x86_mem m)
{
	rex(e, w, reg, rex_index(m), m.base, false);
	opcode(e, op);
	mem_operand(e, reg, m);
}

void emit_mov_rr(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src)
{
	op_rr(e, w, 0x89, src, dst);
}

void emit_movabs(struct emit *e, enum x86_reg dst, u64 v)
{
	rex(e, true, 0, 0, dst, false);
	emit_u8(e, (u8)(0xb8 | (dst & 7)));
	emit_u64(e, v);
}

void emit_mov_ri(struct emit *e, enum x86_reg dst, u64 v)
{
	if (!v) {
		emit_alu_rr(e, false, X86_XOR, dst, dst);
	} else if (v <= UINT32_MAX) {
		rex(e, false, 0, 0, dst, false);
		emit_u8(e, (u8)(0xb8 | (dst & 7)));
		emit_u32(e, (u32)v);
	} else if ((s64)v == (s32)v) {
		op_rr(e, true, 0xc7, 0, dst);
		emit_u32(e, (u32)v);
	} else {
		emit_movabs(e, dst, v);
	}
}

void emit_extend_rr(struct emit *e, bool w, bool sign, enum x86_size size, enum x86_reg dst, enum x86_reg src)
{
	if (size == X86_32 && !sign) {
		emit_mov_rr(e, false, dst, src);
		return;
	}
	if (size == X86_32) {
		op_rr(e, w, 0x63, dst, src);
		return;
	}
	if (!sign)
		w = false;
	rex(e, w, dst, 0, src, size == X86_8 && src >= RSP);
	emit_u8(e, 0x0f);
	emit_u8(e, (u8)((sign ? 0xbe : 0xb6) + (size == X86_16)));
	emit_u8(e, (u8)(0xc0 | (dst & 7) << 3 | (src & 7)));
}

void emit_load(struct emit *e, enum x86_size size, bool sign, enum x86_reg dst, struct x86_mem m)
{
	static const u32 ops[2][4] = { { 0x0fb6, 0x0fb7, 0x8b, 0x8b }, { 0x0fbe, 0x0fbf, 0x63, 0x8b } };

	op_rm(e, sign || size == X86_64, ops[sign][size], dst, m);
}

void emit_load_fs32(struct emit *e, enum x86_reg dst, struct x86_mem m)
{
	emit_u8(e, 0x64);
	op_rm(e, false, 0x8b, dst, m);
}

void emit_store_r(struct emit *e, enum x86_size size, struct x86_mem m, enum x86_reg src)
{
	if (size == X86_16)
		emit_u8(e, 0x66);
	rex(e, size == X86_64, src, rex_index(m), m.base, size == X86_8 && src >= RSP);
	emit_u8(e, size == X86_8 ? 0x88 : 0x89);
	mem_operand(e, src, m);
}

void emit_store_i(struct emit *e, enum x86_size size, struct x86_mem m, s32 imm)
{
	if (size == X86_16)
		emit_u8(e, 0x66);
	op_rm(e, size == X86_64, size == X86_8 ? 0xc6 : 0xc7, 0, m);
	if (size == X86_8)
		emit_u8(e, (u8)imm);
	else if (size == X86_16)
		emit_u16(e, (u16)imm);
	else
		emit_u32(e, (u32)imm);
}

void emit_lea(struct emit *e, bool w, enum x86_reg dst, struct x86_mem m)
{
	op_rm(e, w, 0x8d, dst, m);
}

void emit_movbe(struct emit *e, enum x86_size size, enum x86_reg dst, struct x86_mem m)
{
	if (size == X86_16)
		emit_u8(e, 0x66);
	rex(e, size == X86_64, dst, rex_index(m), m.base, false);
	emit_u8(e, 0x0f);
	emit_u8(e, 0x38);
	emit_u8(e, 0xf0);
	mem_operand(e, dst, m);
}

void emit_alu_rr(struct emit *e, bool w, enum x86_alu op, enum x86_reg dst, enum x86_reg src)
{
	op_rr(e, w, (u32)op << 3 | 1, src, dst);
}

void emit_alu_ri(struct emit *e, bool w, enum x86_alu op, enum x86_reg dst, s32 imm)
{
	if (fits8(imm)) {
		op_rr(e, w, 0x83, op, dst);
		emit_u8(e, (u8)imm);
	} else if (dst == RAX) {
		rex(e, w, 0, 0, 0, false);
		emit_u8(e, (u8)(op << 3 | 5));
		emit_u32(e, (u32)imm);
	} else {
		op_rr(e, w, 0x81, op, dst);
		emit_u32(e, (u32)imm);
	}
}

void emit_alu_rm(struct emit *e, bool w, enum x86_alu op, enum x86_reg dst, struct x86_mem m)
{
	op_rm(e, w, (u32)op << 3 | 3, dst, m);
}

void emit_cmp_mr(struct emit *e, bool w, struct x86_mem m, enum x86_reg src)
{
	op_rm(e, w, X86_CMP << 3 | 1, src, m);
}

void emit_cmp_mi(struct emit *e, enum x86_size size, struct x86_mem m, s32 imm)
{
	bool byte = size == X86_8 || fits8(size == X86_16 ? (s16)imm : imm);

	if (size == X86_16)
		emit_u8(e, 0x66);
	op_rm(e, size == X86_64, size == X86_8 ? 0x80 : byte ? 0x83 : 0x81, X86_CMP, m);
	if (byte)
		emit_u8(e, (u8)imm);
	else if (size == X86_16)
		emit_u16(e, (u16)imm);
	else
		emit_u32(e, (u32)imm);
}

void emit_imul_rm(struct emit *e, bool w, enum x86_reg dst, struct x86_mem m)
{
	op_rm(e, w, 0x0faf, dst, m);
}

void emit_cmov(struct emit *e, bool w, enum x86_cond cc, enum x86_reg dst, enum x86_reg src)
{
	op_rr(e, w, 0x0f40u | cc, dst, src);
}

void emit_setcc(struct emit *e, enum x86_cond cc, enum x86_reg reg)
{
	rex(e, false, 0, 0, reg, reg >= RSP);
	emit_u8(e, 0x0f);
	emit_u8(e, (u8)(0x90 | cc));
	emit_u8(e, (u8)(0xc0 | (reg & 7)));
}

void emit_test_rr(struct emit *e, bool w, enum x86_reg a, enum x86_reg b)
{
	op_rr(e, w, 0x85, b, a);
}

void emit_test_ri(struct emit *e, bool w, enum x86_reg a, s32 imm)
{
	if (imm >= 0 && imm <= 0xff) { /* only ZF is looked at */
		rex(e, false, 0, 0, a, a >= RSP);
		emit_u8(e, 0xf6);
		emit_u8(e, (u8)(0xc0 | (a & 7)));
		emit_u8(e, (u8)imm);
		return;
	}
	op_rr(e, w && imm < 0, 0xf7, 0, a);
	emit_u32(e, (u32)imm);
}

void emit_imul_rr(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src)
{
	op_rr(e, w, 0x0faf, dst, src);
}

void emit_imul_rri(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src, s32 imm)
{
	op_rr(e, w, fits8(imm) ? 0x6b : 0x69, dst, src);
	if (fits8(imm))
		emit_u8(e, (u8)imm);
	else
		emit_u32(e, (u32)imm);
}

void emit_unary(struct emit *e, bool w, enum x86_unary op, enum x86_reg reg)
{
	op_rr(e, w, 0xf7, op, reg);
}

void emit_sign_rax(struct emit *e, bool w)
{
	rex(e, w, 0, 0, 0, false);
	emit_u8(e, 0x99);
}

void emit_shift_i(struct emit *e, bool w, enum x86_shift op, enum x86_reg reg, u8 count)
{
	if (count == 1) {
		op_rr(e, w, 0xd1, op, reg);
		return;
	}
	op_rr(e, w, 0xc1, op, reg);
	emit_u8(e, count);
}

void emit_shift_cl(struct emit *e, bool w, enum x86_shift op, enum x86_reg reg)
{
	op_rr(e, w, 0xd3, op, reg);
}

/* Three-byte VEX: map (2: 0f38, 3: 0f3a), W, vvvv, pp, opcode, ModRM of
 * registers. R, X, B and vvvv are inverted. */
static void vex_rr(struct emit *e, u8 map, bool w, u8 pp, unsigned vvvv, u8 op, unsigned reg, unsigned rm)
{
	emit_u8(e, 0xc4);
	emit_u8(e, (u8)((reg < R8) << 7 | 1 << 6 | (rm < R8) << 5 | map));
	emit_u8(e, (u8)(w << 7 | (~vvvv & 15) << 3 | pp));
	emit_u8(e, op);
	emit_u8(e, (u8)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

/* VEX.LZ.{66,F2,F3}.0F38 F7 /r */
void emit_shiftx(struct emit *e, bool w, enum x86_shift op, enum x86_reg dst, enum x86_reg src, enum x86_reg count)
{
	vex_rr(e, 2, w, op == X86_SHL ? 1 : op == X86_SHR ? 3 : 2, count, 0xf7, dst, src);
}

/* VEX.LZ.F2.0F3A F0 /r ib */
void emit_rorx(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src, u8 count)
{
	vex_rr(e, 3, w, 3, 0, 0xf0, dst, src);
	emit_u8(e, count);
}

/* VEX.LZ.F2.0F38 F6 /r */
void emit_mulx(struct emit *e, bool w, enum x86_reg hi, enum x86_reg lo, enum x86_reg src)
{
	vex_rr(e, 2, w, 3, lo, 0xf6, hi, src);
}

/* VEX.LZ.0F38 F3 /1 */
void emit_blsr(struct emit *e, bool w, enum x86_reg dst, enum x86_reg src)
{
	vex_rr(e, 2, w, 0, dst, 0xf3, 1, src);
}

void emit_bswap(struct emit *e, bool w, enum x86_reg reg)
{
	rex(e, w, 0, 0, reg, false);
	emit_u8(e, 0x0f);
	emit_u8(e, (u8)(0xc8 | (reg & 7)));
}

void emit_ror16_8(struct emit *e, enum x86_reg reg)
{
	emit_u8(e, 0x66);
	emit_shift_i(e, false, X86_ROR, reg, 8);
}

void emit_lock_alu(struct emit *e, bool w, enum x86_alu op, enum x86_reg base, s32 disp, enum x86_reg src)
{
	emit_u8(e, 0xf0);
	op_rm(e, w, (u32)op << 3 | 1, src, x86_at(base, disp));
}

void emit_lock_xadd(struct emit *e, bool w, enum x86_reg base, s32 disp, enum x86_reg reg)
{
	emit_u8(e, 0xf0);
	op_rm(e, w, 0x0fc1, reg, x86_at(base, disp));
}

void emit_xchg(struct emit *e, bool w, enum x86_reg base, s32 disp, enum x86_reg reg)
{
	op_rm(e, w, 0x87, reg, x86_at(base, disp));
}

void emit_lock_cmpxchg(struct emit *e, bool w, enum x86_reg base, s32 disp, enum x86_reg reg)
{
	emit_u8(e, 0xf0);
	op_rm(e, w, 0x0fb1, reg, x86_at(base, disp));
}

void emit_rdtsc(struct emit *e)
{
	static const u8 code[] = { 0x0f, 0xae, 0xe8, 0x0f, 0x31 }; /* lfence; rdtsc */

	for (size_t i = 0; i < sizeof(code); i++)
		emit_u8(e, code[i]);
}

void emit_rep_stosq(struct emit *e)
{
	emit_u8(e, 0xf3);
	emit_u8(e, 0x48);
	emit_u8(e, 0xab);
}

void emit_push(struct emit *e, enum x86_reg reg)
{
	rex(e, false, 0, 0, reg, false);
	emit_u8(e, (u8)(0x50 | (reg & 7)));
}

void emit_pop(struct emit *e, enum x86_reg reg)
{
	rex(e, false, 0, 0, reg, false);
	emit_u8(e, (u8)(0x58 | (reg & 7)));
}

void emit_leave(struct emit *e)
{
	emit_u8(e, 0xc9);
}

void emit_ret(struct emit *e)
{
	emit_u8(e, 0xc3);
}

void emit_nop(struct emit *e, u32 size)
{
	/* as Intel and AMD recommend them */
	static const u8 nops[8][8] = {
		{ 0x90 },
		{ 0x66, 0x90 },
		{ 0x0f, 0x1f, 0x00 },
		{ 0x0f, 0x1f, 0x40, 0x00 },
		{ 0x0f, 0x1f, 0x44, 0x00, 0x00 },
		{ 0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00 },
		{ 0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00 },
		{ 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00 },
	};

	while (size) {
		u32 n = size > 8 ? 8 : size;

		for (u32 i = 0; i < n; i++)
			emit_u8(e, nops[n - 1][i]);
		size -= n;
	}
}

void emit_jcc(struct emit *e, enum x86_cond cc, bool is_short, s32 rel)
{
	if (is_short) {
		emit_u8(e, (u8)(0x70 | cc));
		emit_u8(e, (u8)rel);
		return;
	}
	emit_u8(e, 0x0f);
	emit_u8(e, (u8)(0x80 | cc));
	emit_u32(e, (u32)rel);
}

void emit_jmp(struct emit *e, bool is_short, s32 rel)
{
	emit_u8(e, is_short ? 0xeb : 0xe9);
	if (is_short)
		emit_u8(e, (u8)rel);
	else
		emit_u32(e, (u32)rel);
}

void emit_call_rel(struct emit *e, s32 rel)
{
	emit_u8(e, 0xe8);
	emit_u32(e, (u32)rel);
}

void emit_call_r(struct emit *e, enum x86_reg reg)
{
	op_rr(e, false, 0xff, 2, reg);
}

void emit_jmp_r(struct emit *e, enum x86_reg reg)
{
	op_rr(e, false, 0xff, 4, reg);
}

size_t emit_jcc_fwd(struct emit *e, enum x86_cond cc)
{
	emit_jcc(e, cc, true, 0);
	return e->len;
}

size_t emit_jmp_fwd(struct emit *e)
{
	emit_jmp(e, true, 0);
	return e->len;
}

void emit_land(struct emit *e, size_t fwd)
{
	size_t rel = e->len - fwd;

	if (e->failed)
		return;
	if (rel > 127) {
		e->failed = true;
		return;
	}
	e->buf[fwd - 1] = (u8)rel;
}
