/* SPDX-License-Identifier: MIT */
/*
 * Breakpoints in a process (base/trap.h), in the worker: whether there can be any,
 * the hooks at its own dealings with signals that come with them, and their area.
 */
#pragma once
#include "daemon/guards.h"
#include "daemon/rewrite.h"
#include "daemon/target.h"
#include "injector/inject.h"

/* Whose links the calls of these hooks belong to. */
#define TRAP_LINK UINT32_MAX

/* Finds the hooks for the process of MODS, once; RET->refusal says why there can be
 * no breakpoints. */
struct uerr *traps_find(struct guards *ret, const struct modules *mods, const char *cache_dir) UERR_MUST_CHECK;

/* Does a breakpoint of T call a program other than those of LINKS? Are the hooks there? */
bool traps_wanted(const struct target *t, const u32 *links, size_t nlinks);
bool traps_guarded(const struct target *t);
/* Is there a breakpoint at ADDR? */
bool traps_has(const struct target *t, addr_t addr);

/* The calls of breakpoints, and the hooks, leave T; the windows that this concerns are
 * added to CHANGES. How many breakpoints; 0: none, or out of memory. */
u32 traps_drop(struct target *t, change_vec *changes);
/* Is there no handler of SIGTRAP in T's process, though breakpoints are? */
bool traps_uncaught(const struct target *t);

/* The area's first contents, at T->trap_addr. */
struct uerr *traps_fill(struct injection *in, const struct target *t) UERR_MUST_CHECK;
/* The breakpoint at SITE leads to TRAMP from the commit on. */
struct uerr *traps_lead(struct injection *in, struct target *t, addr_t site, addr_t tramp) UERR_MUST_CHECK;
/* Tells IN what becomes of them, now that T->windows are what they shall be; ADDED:
 * some are new; FRESH: the area is. */
struct uerr *traps_settle(struct injection *in, struct target *t, bool added, bool fresh) UERR_MUST_CHECK;
