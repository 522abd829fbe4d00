/* SPDX-License-Identifier: MIT */
/*
 * Where the instructions of one function begin: every address that control is
 * known to reach from the function's first instruction. A jump may be written
 * over nothing else: data between instructions decodes as instructions too.
 * Inside the injector only.
 */
#pragma once
#include "base/uerr.h"
#include "injector/textscan.h"

struct reach;

/* Follows the function at [LO, HI) and the cold parts that it jumps to. */
struct uerr *reach_create(const struct textscan *scan, addr_t lo, addr_t hi, struct reach **ret) UERR_MUST_CHECK;
void reach_destroy(struct reach *r); /* NULL is fine */
void reach_destroyp(struct reach **r);

enum reach_state {
	REACH_INSN,    /* an instruction begins there */
	REACH_INSIDE,  /* inside of one */
	REACH_SHARED,  /* both: a jump skips the prefix of an instruction */
	REACH_PADDING, /* between instructions, and itself nothing but nops or int3 */
	REACH_UNKNOWN, /* nothing is known to lead there */
};
enum reach_state reach_state(const struct reach *r, addr_t addr);

/* The last instruction that begins below ADDR, and the first above; 0: none. */
void reach_near(const struct reach *r, addr_t addr, addr_t *below, addr_t *above);

/* Where the range of the function, or of its cold part, that holds ADDR ends. */
addr_t reach_end(const struct reach *r, addr_t addr);
