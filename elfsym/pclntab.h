/* SPDX-License-Identifier: MIT */
/*
 * Go's table of functions (.gopclntab), which the runtime itself needs, so that it
 * is there in stripped programs, too. Parses a buffer; what it holds may be
 * anything.
 */
#pragma once
#include "base/types.h"

struct pclntab {
	const u8 *bytes; /* borrowed, with a NUL behind them */
	u64 size;
	u64 n;          /* functions */
	u64 names;      /* offset of the strings */
	u64 functab;    /* of the functions */
	u64 records;    /* what the offsets of their records are relative to */
	u32 field;      /* bytes of a field in there */
	u32 entry_size; /* of the address that a function's record begins with */
	addr_t text;    /* what addresses are relative to, 0 none */
};

/* TEXT is where Go's text begins if the table leaves
 * that to a relocation. False: none that we know (Go 1.2 to 1.15, 1.16, 1.18, 1.20 and
 * later have different ones), or it is damaged. */
bool pclntab_parse(const void *bytes, u64 size, addr_t text, struct pclntab *ret);

struct pclntab_func {
	addr_t addr, end;
	const char *name;
};

/* Function I; false when its record makes no sense. */
bool pclntab_func(const struct pclntab *t, u64 i, struct pclntab_func *ret);

/* Where the header says where text begins, which a relocation may do instead; 0: it
 * does not. */
u64 pclntab_text_offset(const void *bytes, u64 size);
