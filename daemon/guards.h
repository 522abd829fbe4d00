/* SPDX-License-Identifier: MIT */
/*
 * Whether returns may be taken over in a process (base/cells.h), and the guards
 * that have to be in it then: hooks at functions that look at return addresses,
 * which call the runtime's rt_guard_*() as others call programs. In the worker.
 */
#pragma once
#include "daemon/target.h"
#include "elfsym/resolve.h"
#include "vm/runtime.h"

struct guard {
	struct resolved at;
	struct func_plan plan;
	enum runtime_guard guard;
	bool exit;
};

struct guards {
	bool known, identity_known;
	char refusal[160]; /* why no return may be taken over; empty: it may */
	VEC(struct guard) list;
};

/* Finds what changes a thread's name or ids, and adds it to the list; nothing, where
 * one of these cannot be probed, or is not known. */
struct uerr *guards_find_identity(struct guards *g, const struct modules *mods, const char *cache_dir) UERR_MUST_CHECK;
/* Finds them for the process of MODS; once. */
struct uerr *guards_find(struct guards *g, const struct modules *mods, const char *cache_dir) UERR_MUST_CHECK;
void guards_deinit(struct guards *g);

/* Is there a seccomp filter on process PID? */
bool guards_has_filter(pid_t pid);

/* Why the return of the function of MOD that PLAN would take over may not be, or
 * NULL; known are G. TEXT[size] is for the words. */
const char *guards_takeover_refusal(const struct guards *g, const struct module *mod, const struct func_plan *plan,
				    char *text, size_t size);
