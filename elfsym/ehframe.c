/* SPDX-License-Identifier: MIT */
/*
 * .eh_frame and .gcc_except_table (LSB 10.6, and the Itanium C++ ABI's exception
 * handling). An FDE tells where a function lies even if nobody kept its name; an
 * LSDA tells where an exception may arrive inside it.
 */
#include "elfsym/ehframe.h"

#include "elfsym/cfi.h"

/* Pointer encodings, DW_EH_PE_*: a format in the low nibble, a base above. */
enum {
	PE_ABSPTR = 0x00, PE_ULEB = 0x01, PE_UDATA2 = 0x02, PE_UDATA4 = 0x03, PE_UDATA8 = 0x04,
	PE_SLEB = 0x09, PE_SDATA2 = 0x0a, PE_SDATA4 = 0x0b, PE_SDATA8 = 0x0c,
	PE_FORMAT = 0x0f, PE_PCREL = 0x10, PE_BASE = 0x70, PE_INDIRECT = 0x80, PE_OMIT = 0xff,
};

enum { REG_RSP = 7 };

#define AUGMENTATION_MAX 8

struct cie {
	u8 pointer, lsda; /* encodings */
	bool sized;       /* 'z': FDEs have augmentation data */
	bool signal;      /* 'S': of the return from signal handlers */
	u64 ra;           /* the return address's column */
	u64 code_align;
	s64 data_align;
	struct reader insns; /* that each of its FDEs begins with */
};

/* A pointer in encoding ENC; *NULL_PTR when the field itself is zero. */
addr_t ehframe_pointer(struct reader *r, u8 enc, bool *null_ptr)
{
	addr_t base = (enc & PE_BASE) == PE_PCREL ? r->addr : 0;
	u64 v = 0;
	s16 s2;

	switch (enc & PE_FORMAT) {
	case PE_ABSPTR:
	case PE_UDATA8:
	case PE_SDATA8:
		v = reader_u64(r);
		break;
	case PE_ULEB:
		v = reader_uleb(r);
		break;
	case PE_SLEB:
		v = reader_sleb(r);
		break;
	case PE_UDATA2:
	case PE_SDATA2:
		reader_take(r, &s2, sizeof(s2));
		v = (enc & PE_FORMAT) == PE_SDATA2 ? (u64)(s64)s2 : (u16)s2;
		break;
	case PE_UDATA4:
		v = reader_u32(r);
		break;
	case PE_SDATA4:
		v = (s64)(s32)reader_u32(r);
		break;
	default:
		r->bad = true;
	}
	if (null_ptr)
		*null_ptr = !v;
	return base + v;
}

static bool take_augmentation(struct reader *r, struct cie *ret)
{
	char aug[AUGMENTATION_MAX];
	size_t n = 0;
	u64 len;

	do {
		aug[n] = reader_u8(r);
	} while (aug[n] && ++n < sizeof(aug));
	if (n == sizeof(aug) || r->bad)
		return false;
	ret->code_align = reader_uleb(r);
	ret->data_align = reader_sleb(r);
	ret->ra = reader_uleb(r);
	ret->insns = *r;
	if (aug[0] != 'z')
		return !aug[0];
	ret->sized = true;
	len = reader_uleb(r);
	ret->insns = *r;
	reader_skip(&ret->insns, len);
	for (const char *a = aug + 1; *a; a++) {
		if (*a == 'R')
			ret->pointer = reader_u8(r);
		else if (*a == 'L')
			ret->lsda = reader_u8(r);
		else if (*a == 'P')
			ehframe_pointer(r, reader_u8(r) & PE_FORMAT, NULL);
		else if (*a == 'S')
			ret->signal = true;
		else if (*a != 'B')
			return false;
	}
	return !r->bad;
}

/* R stands behind a record's length and CIE offset. */
static bool parse_cie(struct reader r, struct cie *ret)
{
	u8 version = reader_u8(&r);

	*ret = (struct cie){ .lsda = PE_OMIT };
	return (version == 1 || version == 3) && take_augmentation(&r, ret);
}

/*
 * A function begins with the CFA at rsp + 8 and nothing saved. Code that the
 * compiler moved out of one (.cold) begins with the frame as it was there, which
 * its FDE says before the first advance.
 */
static bool is_fragment(struct reader *r)
{
	for (int i = 0; i < 8 && reader_left(r); i++) {
		u8 op = reader_u8(r);

		if (op == CFA_DEF_OFFSET)
			return reader_uleb(r) > 8;
		if (op == CFA_DEF) {
			u64 reg = reader_uleb(r);

			return reg != REG_RSP || reader_uleb(r) > 8;
		}
		if ((op & CFA_HIGH_MASK) == CFA_OFFSET || op == CFA_DEF_EXPRESSION || op == CFA_EXPRESSION)
			return true;
		if (op == CFA_NOP || (op >= CFA_SET_LOC && op <= CFA_ADVANCE4) ||
		    (op & CFA_HIGH_MASK) == CFA_ADVANCE)
			return false;
	}
	return false;
}

static bool parse_fde(struct reader r, const struct cie *cie, struct fde *ret)
{
	struct fde fde = {};

	fde.start = ehframe_pointer(&r, cie->pointer, NULL);
	fde.size = ehframe_pointer(&r, cie->pointer & PE_FORMAT, NULL);
	if (cie->sized) {
		u64 len = reader_uleb(&r);
		struct reader aug = r;
		bool null_ptr;

		reader_skip(&r, len);
		if (cie->lsda != PE_OMIT && len) {
			fde.lsda = ehframe_pointer(&aug, cie->lsda, &null_ptr);
			if (null_ptr || aug.bad || cie->lsda & PE_INDIRECT)
				fde.lsda = 0;
		}
	}
	if (r.bad || cie->pointer & PE_INDIRECT || !fde.size || fde.start + fde.size < fde.start)
		return false;
	fde.fragment = is_fragment(&r);
	*ret = fde;
	return true;
}

/* The record at OFF of the section: its bytes behind the CIE pointer, and its CIE. */
static bool find_cie(const u8 *bytes, u64 size, addr_t addr, u64 off, struct reader *fde, struct cie *ret)
{
	struct reader r = reader_at(bytes, size, addr), at;
	u32 len, id;

	reader_skip(&r, off);
	len = reader_u32(&r);
	if (r.bad || len > reader_left(&r))
		return false;
	r.end = r.p + len;
	at = r;
	id = reader_u32(&r);
	if (r.bad || !id || id > (u64)(at.p - bytes))
		return false;
	*fde = r;
	r = reader_at(at.p - id, size - (u64)(at.p - id - bytes), at.addr - id);
	len = reader_u32(&r);
	if (r.bad || len > reader_left(&r))
		return false;
	r.end = r.p + len;
	return !reader_u32(&r) && parse_cie(r, ret);
}

bool ehframe_program(const u8 *bytes, u64 size, addr_t addr, u32 off, struct cfi_program *ret)
{
	struct reader r;
	struct cie cie;
	struct fde fde;

	if (!find_cie(bytes, size, addr, off, &r, &cie) || !parse_fde(r, &cie, &fde))
		return false;
	ehframe_pointer(&r, cie.pointer, NULL);
	ehframe_pointer(&r, cie.pointer & PE_FORMAT, NULL);
	if (cie.sized)
		reader_skip(&r, reader_uleb(&r));
	*ret = (struct cfi_program){
		.start = fde.start, .size = fde.size, .first = cie.insns, .insns = r,
		.code_align = cie.code_align, .data_align = cie.data_align, .ra = cie.ra,
		.pointer = cie.pointer, .signal = cie.signal,
	};
	return !r.bad;
}

bool ehframe_walk(const u8 *bytes, u64 size, addr_t addr, bool (*fn)(void *ctx, const struct fde *fde), void *ctx)
{
	struct reader r = reader_at(bytes, size, addr);

	while (reader_left(&r) >= 4) {
		u32 off = (u32)(r.p - bytes), len = reader_u32(&r), id;
		struct reader rec = r, of_cie;
		struct cie cie;
		struct fde fde;

		if (len == ~0u)
			break; /* 64-bit records: nobody writes them on x86-64 */
		if (!len)
			continue; /* a terminator; crtend.o's need not be the last */
		if (len > reader_left(&r))
			break;
		reader_skip(&r, len);
		rec.end = rec.p + len;
		of_cie = rec;
		id = reader_u32(&rec);
		if (!id || id > (u64)(of_cie.p - bytes))
			continue;
		/* The CIE lies `id` bytes before this field. */
		of_cie = reader_at(of_cie.p - id, r.end - (of_cie.p - id), 0);
		reader_skip(&of_cie, 4);
		if (reader_u32(&of_cie) || !parse_cie(of_cie, &cie) || !parse_fde(rec, &cie, &fde))
			continue;
		fde.off = off;
		if (!fn(ctx, &fde))
			return false;
	}
	return true;
}

bool lsda_walk(const u8 *bytes, u64 size, addr_t addr, addr_t func, u64 *budget,
	       bool (*fn)(void *ctx, addr_t pad), void *ctx)
{
	struct reader r = reader_at(bytes, size, addr);
	addr_t start = func;
	u64 len;
	u8 enc;

	enc = reader_u8(&r);
	if (enc != PE_OMIT)
		start = ehframe_pointer(&r, enc, NULL);
	enc = reader_u8(&r);
	if (enc != PE_OMIT)
		reader_uleb(&r); /* types */
	enc = reader_u8(&r);
	len = reader_uleb(&r);
	if (r.bad || len > reader_left(&r))
		return true;
	r.end = r.p + len;
	while (reader_left(&r) && *budget) {
		u64 pad;

		--*budget;
		ehframe_pointer(&r, enc & PE_FORMAT, NULL); /* call site */
		ehframe_pointer(&r, enc & PE_FORMAT, NULL); /* its length */
		pad = ehframe_pointer(&r, enc & PE_FORMAT, NULL);
		reader_uleb(&r); /* action */
		if (!r.bad && pad && !fn(ctx, start + pad))
			return false;
	}
	return true;
}
