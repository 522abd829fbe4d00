/* SPDX-License-Identifier: MIT */
/* The unwind tables as lists of functions and landing pads. */
#pragma once
#include "base/code_image.h"
#include "elfsym/reader.h"

struct fde {
	addr_t start;
	u64 size;
	addr_t lsda;   /* 0: none */
	bool fragment; /* begins with a frame already set up: a piece of a function */
	u32 off;       /* of its record in .eh_frame */
};

/* Calls FN for each FDE of .eh_frame (BYTES at link address ADDR); stops when it
 * returns false, and returns false then. What makes no sense is skipped. */
bool ehframe_walk(const u8 *bytes, u64 size, addr_t addr, bool (*fn)(void *ctx, const struct fde *fde), void *ctx);

/* Calls FN for each landing pad of the LSDA at ADDR, whose section goes on for
 * SIZE bytes; FUNC is its function's start. *BUDGET bounds the call sites that
 * are looked at over all calls. Returns false when FN does. */
bool lsda_walk(const u8 *bytes, u64 size, addr_t addr, addr_t func, u64 *budget,
	       bool (*fn)(void *ctx, addr_t pad), void *ctx);

/* A pointer in encoding ENC (DW_EH_PE_*); *NULL_PTR when the field itself is zero. */
addr_t ehframe_pointer(struct reader *r, u8 enc, bool *null_ptr);

/* The program of the FDE of .eh_frame (BYTES at link address ADDR) whose record is at
 * OFF (cfi.h); false: nothing that makes sense. */
struct cfi_program;
bool ehframe_program(const u8 *bytes, u64 size, addr_t addr, u32 off, struct cfi_program *ret);
