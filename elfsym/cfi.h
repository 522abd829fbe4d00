/* SPDX-License-Identifier: MIT */
/*
 * Call frame programs (DWARF 5, 6.4; LSB 10.6): what an FDE says about each
 * address of its function. Only what concerns the CFA, rbp, rsp and the return
 * address; nobody here looks at other registers.
 */
#pragma once
#include "base/code_image.h"
#include "elfsym/reader.h"

/* DW_CFA_*; those of the first three lie in the high bits. */
enum {
	CFA_ADVANCE = 0x40, CFA_OFFSET = 0x80, CFA_RESTORE = 0xc0, CFA_HIGH_MASK = 0xc0,
	CFA_NOP = 0x00, CFA_SET_LOC = 0x01, CFA_ADVANCE1 = 0x02, CFA_ADVANCE2 = 0x03, CFA_ADVANCE4 = 0x04,
	CFA_OFFSET_EXTENDED = 0x05, CFA_RESTORE_EXTENDED = 0x06, CFA_UNDEFINED = 0x07, CFA_SAME_VALUE = 0x08,
	CFA_REGISTER = 0x09, CFA_REMEMBER = 0x0a, CFA_RESTORE_STATE = 0x0b, CFA_DEF = 0x0c, CFA_DEF_REGISTER = 0x0d,
	CFA_DEF_OFFSET = 0x0e, CFA_DEF_EXPRESSION = 0x0f, CFA_EXPRESSION = 0x10, CFA_OFFSET_SF = 0x11,
	CFA_DEF_SF = 0x12, CFA_DEF_OFFSET_SF = 0x13, CFA_VAL_OFFSET = 0x14, CFA_VAL_OFFSET_SF = 0x15,
	CFA_VAL_EXPRESSION = 0x16, CFA_GNU_ARGS_SIZE = 0x2e,
};

/* An FDE with its CIE. */
struct cfi_program {
	addr_t start;
	u64 size;
	struct reader first, insns; /* the CIE's instructions, then its own */
	u64 code_align;
	s64 data_align;
	u64 ra;       /* the column of the return address: 16 */
	u8 pointer;   /* encoding */
	bool signal;
};

struct cfi_expr {
	const u8 *bytes;
	u64 size;
};

/* Where the caller's value of a register is. */
enum cfi_how { CFI_SAME, CFI_AT_CFA, CFI_AT_EXPR, CFI_UNDEFINED, CFI_OTHER };
struct cfi_reg {
	enum cfi_how how;
	s64 off;
	struct cfi_expr expr;
};

/* What holds in [lo, hi). */
struct cfi_row {
	addr_t lo, hi;
	u64 reg;              /* of the CFA, as DWARF numbers it; CODE_CFA_OTHER: by `expr` */
	s64 off;
	struct cfi_expr expr;
	struct cfi_reg bp, sp, ra;
};

/* Calls FN for each row, by address, until it returns false. False where the
 * program makes no sense, from there on, or *BUDGET instructions are used up. */
bool cfi_rows(const struct cfi_program *p, u64 *budget, bool (*fn)(void *ctx, const struct cfi_row *row), void *ctx);

/* The CFA at PC, which P covers; false: nothing that makes sense. */
bool cfi_cfa(const struct cfi_program *p, addr_t pc, struct code_cfa *ret);
