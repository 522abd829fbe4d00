/* SPDX-License-Identifier: MIT */
/* Encoders of the few instructions that trampolines are made of; see emit.h. */
#include "injector/emit.h"

#include <stdlib.h>
#include <string.h>

void emit_deinit(struct emit *e)
{
	free(e->buf);
	*e = (struct emit){};
}

void put_bytes(struct emit *e, const void *bytes, size_t n)
{
	if (e->failed)
		return;
	if (n > e->cap - e->n) {
		size_t cap = e->cap * 2 + n + 256;
		u8 *buf = realloc(e->buf, cap);

		if (!buf) {
			e->failed = EMIT_NOMEM;
			return;
		}
		e->buf = buf;
		e->cap = cap;
	}
	memcpy(e->buf + e->n, bytes, n);
	e->n += n;
}

void put_u32(struct emit *e, u32 v)
{
	put_bytes(e, &v, sizeof(v));
}

void put_u64(struct emit *e, u64 v)
{
	put_bytes(e, &v, sizeof(v));
}

void put_rel32(struct emit *e, addr_t target, unsigned tail)
{
	s64 rel = (s64)(target - (emit_here(e) + 4 + tail));

	if (!e->failed && rel != (s32)rel)
		e->failed = EMIT_FAR;
	put_u32(e, (u32)rel);
}

bool emit_reaches(const struct emit *e, addr_t target)
{
	s64 lo = (s64)(target - emit_here(e)), hi = (s64)(target - (emit_here(e) + 16));

	return lo == (s32)lo && hi == (s32)hi;
}

/* One instruction OP with operand [base+off] and REG in modrm.reg, 64 bits. */
static void emit_mem(struct emit *e, u8 op, unsigned reg, enum reg base, s32 off)
{
	bool short_off = off == (s8)off;

	put_lit(e, 0x48 | (reg >> 3) << 2 | (unsigned)base >> 3, op,
		 (short_off ? 0x40 : 0x80) | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == SP)
		put_lit(e, 0x24);
	if (short_off)
		put_lit(e, (u8)off);
	else
		put_u32(e, (u32)off);
}

void put_load(struct emit *e, enum reg dst, enum reg base, s32 off)
{
	emit_mem(e, 0x8b, dst, base, off);
}

void put_store(struct emit *e, enum reg base, s32 off, enum reg src)
{
	emit_mem(e, 0x89, src, base, off);
}

void put_store_imm(struct emit *e, enum reg base, s32 off, s32 imm)
{
	emit_mem(e, 0xc7, 0, base, off);
	put_u32(e, (u32)imm);
}

void put_lea(struct emit *e, enum reg dst, enum reg base, s32 off)
{
	emit_mem(e, 0x8d, dst, base, off);
}

void put_mov(struct emit *e, enum reg dst, enum reg src)
{
	put_lit(e, 0x48 | ((unsigned)src >> 3) << 2 | (unsigned)dst >> 3, 0x89,
		 0xc0 | (src & 7) << 3 | (dst & 7));
}

void put_inc_mem(struct emit *e, enum reg base, s32 off)
{
	emit_mem(e, 0xff, 0, base, off);
}

void put_addr(struct emit *e, enum reg dst, addr_t value)
{
	if (emit_reaches(e, value)) {
		put_lit(e, 0x48 | ((unsigned)dst >> 3) << 2, 0x8d, (dst & 7) << 3 | 5);
		put_rel32(e, value, 0);
	} else {
		put_lit(e, 0x48 | (unsigned)dst >> 3, 0xb8 | (dst & 7));
		put_u64(e, value);
	}
}

void put_jmp(struct emit *e, addr_t target)
{
	put_lit(e, 0xe9);
	put_rel32(e, target, 0);
}

void put_call(struct emit *e, addr_t target)
{
	if (emit_reaches(e, target)) {
		put_lit(e, 0xe8);
		put_rel32(e, target, 0);
	} else {
		put_addr(e, AX, target);
		put_lit(e, 0xff, 0xd0);
	}
}

size_t put_jcc_fwd(struct emit *e, u8 cc)
{
	put_lit(e, 0x0f, 0x80 | cc, 0, 0, 0, 0);
	return e->n;
}

void emit_fix_here(struct emit *e, size_t fixup)
{
	u32 rel = (u32)(e->n - fixup);

	if (!e->failed)
		memcpy(e->buf + fixup - 4, &rel, sizeof(rel));
}
