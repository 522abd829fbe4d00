/* SPDX-License-Identifier: MIT */
/*
 * Where the stubs of punned windows go in one process: beside those that are
 * there already, on new pages where there is no room. Chosen once to tell what
 * cannot be probed there, and again, from the address space as it is then, when
 * it is done.
 */
#pragma once
#include "daemon/target.h"
#include "injector/pun.h"

struct stub_want {
	const struct window *win;
	addr_t bias;
	addr_t stub; /* chosen, or 0: every address that the jump could lead to is in use */
};

/* The space of process PID, which is T's if it is a target already (else T is
 * NULL). */
struct uerr *stubs_space(const struct target *t, pid_t pid, struct pun_space *ret) UERR_MUST_CHECK;

/* Chooses for WANTS[n]; a window that has a stub keeps it. SPACE->pages may
 * grow. False when out of memory. */
bool stubs_choose(const struct target *t, struct pun_space *space, struct stub_want *wants, size_t n);

extern const char stubs_refusal[], stubs_refusal_trap[]; /* the reason when there is none; and a breakpoint would do */
