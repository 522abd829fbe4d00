/* SPDX-License-Identifier: MIT */
/* Building one window from the scan; inside the injector only. */
#pragma once
#include "injector/textscan.h"

#define JUMP_LEN 5

enum window_fault {
	WINDOW_OK,
	WINDOW_ARRIVAL,   /* something may arrive inside */
	WINDOW_SHORT,     /* the function ends and no padding follows */
	WINDOW_UNDECODED, /* bytes that are no instruction */
	WINDOW_IMMOVABLE, /* *detail says what it holds */
	WINDOW_RSEQ,      /* part of a restartable sequence */
	WINDOW_LIMIT,     /* more instructions or points than a window can have */
	WINDOW_TAKEN,     /* a punned jump needs the byte */
};

/* Fills RET with the whole instructions from ADDR that cover at least MIN_LEN
 * bytes. Behind FUNC_END, and behind an instruction that ends its block, only
 * padding is taken. DETAIL is set for WINDOW_IMMOVABLE. */
enum window_fault window_make(const struct textscan *scan, addr_t addr, unsigned min_len, addr_t func_end,
			      struct window *ret, const char **detail);

/* The same up to the end of a system call at END that is never waited in and never
 * made again, so that nobody has to be led behind a copy of it. */
enum window_fault window_make_syscall(const struct textscan *scan, addr_t addr, addr_t end, struct window *ret);

/* The same for a punned jump at ADDR: as many whole instructions as lie in front
 * of the first arrival, at most JUMP_LEN - 1 bytes, and the bytes behind them
 * that complete the jump. What is wrong with the first instruction otherwise. */
enum window_fault window_make_punned(const struct textscan *scan, addr_t addr, addr_t func_end, struct window *ret,
				     const char **detail);

/* The same for a breakpoint at ADDR: the instruction there, whoever jumps into it. */
enum window_fault window_make_trap(const struct textscan *scan, addr_t addr, addr_t func_end, struct window *ret,
				   const char **detail);

/* False when there is no room for another point. A place has one point on each
 * side, of the kind that takes less for granted. */
bool window_add_point(struct window *w, addr_t addr, enum hook_kind kind);
