/* SPDX-License-Identifier: MIT */
/*
 * The scan as plan.c and window.c use it: its text and functions by address.
 * Inside the injector only; everyone else includes plan.h.
 */
#pragma once
#include "injector/insn.h"
#include "injector/plan.h"

const struct code_image *textscan_code(const struct textscan *scan);

/* The file's bytes at ADDR up to the end of its section, *avail of them; NULL
 * when ADDR lies in no text. */
const u8 *textscan_bytes(const struct textscan *scan, addr_t addr, size_t *avail);

/* Decodes the instruction at ADDR; false when there is none. */
bool textscan_insn(const struct textscan *scan, addr_t addr, struct insn *ret);

/* The function that contains ADDR, or NULL. */
const struct code_func *textscan_func(const struct textscan *scan, addr_t addr);

/* The function that starts at ADDR, or NULL. */
const struct code_func *textscan_func_at(const struct textscan *scan, addr_t addr);

/* Does a restartable sequence run through [LO, HI)? */
bool textscan_in_rseq(const struct textscan *scan, addr_t lo, addr_t hi);

/* Where FUNC ends; an unknown size reaches to the next function. */
addr_t textscan_func_end(const struct textscan *scan, const struct code_func *func);

/* Where the function after ADDR starts, or the section of ADDR ends. */
addr_t textscan_next(const struct textscan *scan, addr_t addr);

/* Entry N of the jump table at TABLE, which may be none; false behind the end of
 * what holds it. */
bool textscan_table_entry(const struct textscan *scan, addr_t table, unsigned width, size_t n, addr_t *ret);

/* Does the jump table at TABLE have its first entry in [lo, hi)? WIDTH 4: offsets
 * from the table itself; 8: addresses. */
bool textscan_is_table(const struct textscan *scan, addr_t table, unsigned width, addr_t lo, addr_t hi);
