/* SPDX-License-Identifier: MIT */
/*
 * Punned jumps: where the stub of one can lie. A window shorter than a jump holds
 * the jump's first bytes; the upper bytes of its distance are the bytes that
 * stand behind it and are run as what they are by whoever arrives there:
 *
 *	before   48 89 f8 │ 48 83 fa 10      mov %rdi,%rax  cmp $16,%rdx
 *	after    e9 xx yy │ 48 83 fa 10      jmp 0x8348yyxx(%rip): a stub, and
 *	                    ▲                cmp $16,%rdx for those who jump here
 *
 * So the stub lies in one of 256 to the power of the free bytes places in a row,
 * somewhere within 2 GiB: a page is mapped there that holds nothing but stubs,
 * which jump on to trampolines in arenas. Pure: a picture of the address space
 * in, addresses out.
 */
#pragma once
#include "base/uerr.h"
#include "base/vec.h"
#include "injector/near_alloc.h"
#include "injector/plan.h"

#define STUB_MAX 14 /* bytes, all of which a stub is given */

/* The first and the last address at which the stub of the punned window W, whose
 * module lies at BIAS, can begin. */
void pun_reach(const struct window *w, addr_t bias, addr_t *lo, addr_t *hi);

/* The bytes of a stub at STUB that jumps to TRAMP; how many. */
unsigned stub_bytes(addr_t stub, addr_t tramp, u8 ret[STUB_MAX]);

/* What an address space offers to stubs. */
struct pun_space {
	struct near_zones zones;     /* where no page can be */
	VEC(addr_t) pages;           /* of stubs: those that are there, then new ones */
	VEC(struct near_zone) slots; /* taken on these pages */
};

struct pun_site {
	addr_t lo, hi; /* as pun_reach() says */
	addr_t stub;   /* chosen, or 0: there is no place */
};

/* Chooses places for SITES[n] and takes them; pages that are needed for it are
 * added to SPACE->pages. False when out of memory. */
bool pun_place(struct pun_space *space, struct pun_site *sites, size_t n);
void pun_space_deinit(struct pun_space *space);

/* The space of process PID as it is now; the caller adds the pages that it has
 * there already, and what is taken of them. */
struct uerr *pun_space_read(pid_t pid, struct pun_space *ret) UERR_MUST_CHECK;
