/* SPDX-License-Identifier: MIT */
/*
 * The code of one ELF file as plain data: elfsym makes it, the injector reads
 * it. Addresses are link-time addresses. Everything belongs to the image it was
 * made from and lives as long as that.
 */
#pragma once
#include "types.h"

struct code_range {
	addr_t addr;
	u64 size;
	const u8 *bytes;
};

enum code_func_flags {
	CODE_FUNC_FRAGMENT = 1,   /* .cold/.part: not an entry point */
	CODE_FUNC_IFUNC = 2,      /* a resolver */
	CODE_FUNC_FROM_FDE = 4,   /* known from .eh_frame alone, without a name */
};

struct code_func {
	addr_t addr;
	u64 size;         /* 0: unknown (then up to the next function) */
	const char *name; /* one of its names, or NULL */
	u32 flags;
};

/* Why an address can be arrived at without a direct branch to it. */
enum code_mark_kind {
	CODE_MARK_SYMBOL = 1,      /* any symbol's value in text */
	CODE_MARK_RELOC = 2,       /* a relocation, or a pointer in data, names it */
	CODE_MARK_LANDING_PAD = 4, /* .gcc_except_table */
	CODE_MARK_FDE = 8,         /* an FDE starts here */
	CODE_MARK_ENTRY = 16,      /* e_entry, DT_INIT and the like */
};

struct code_mark {
	addr_t addr;
	u32 kinds; /* code_mark_kind bits */
};

/* A restartable sequence (rseq(2)): a thread that is interrupted in [lo, hi) goes
 * on at `abort`. The kernel compares addresses, so none of it can run elsewhere. */
struct code_rseq {
	addr_t lo, hi, abort;
};
/* The canonical frame address, which is rsp behind the return, by the unwind tables:
 * register `reg` (as DWARF numbers it: 6 is rbp, 7 rsp) + `off` at all addresses of
 * [lo, hi). The return address lies 8 below it. */
struct code_cfa {
	addr_t lo, hi;
	u8 reg;      /* CODE_CFA_OTHER: computed in some other way */
	s32 off;
};
#define CODE_CFA_RBP 6
#define CODE_CFA_RSP 7
#define CODE_CFA_OTHER 255

struct code_image {
	const struct code_range *text;   /* executable sections, by address */
	size_t ntext;
	const struct code_range *rodata; /* allocated sections that may hold jump tables */
	size_t nrodata;
	const struct code_func *funcs;   /* by address, one per address */
	size_t nfuncs;
	const struct code_mark *marks;   /* by address, one per address */
	size_t nmarks;
	const struct code_rseq *rseqs; /* in no order */
	size_t nrseqs;
	const char *build_id;            /* hex, or NULL */
	/* What the unwind tables say about ADDR; false: nothing. NULL: there are none. */
	bool (*cfa)(const struct code_image *code, addr_t addr, struct code_cfa *ret);
};
