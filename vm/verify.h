/* SPDX-License-Identifier: MIT */
/*
 * The verifier: whether a program may run in a target, proven by following all
 * its paths (docs/architecture.md tells how). Everything it accepts accesses only
 * memory that is there and set, calls helpers as they want to be called, gives
 * back what it takes, and ends.
 */
#pragma once
#include <stdio.h>

#include "vm/program.h"

#define VERIFY_MAX_INSNS 1000000u

enum verify_flags {
	VERIFY_ABSENT_HELPERS = 1, /* take helpers whose prototype is known as if they were there, to compare
	                            * verdicts with the kernel's; such a program must never be run */
	VERIFY_OVERRIDE = 2,       /* bpf_override_return() may be called: whoever runs the program acts on it */
};

struct verify_opts {
	u32 flags;     /* enum verify_flags */
	u32 log_level; /* 0 none, 1 the path that led to a refusal, 2 everything and statistics */
	FILE *log;     /* where it goes as well as into the error, or NULL */
	u32 max_insns; /* explored at most; 0: VERIFY_MAX_INSNS */
};

struct verify_stats {
	u32 insns_processed, states, peak_states;
	u64 ns;
};

/* Judges P over MAPS (indexed as its instructions do). Fills P->info, ->facts,
 * ->subprogs and ->checked, and replaces what no path reaches by no-ops.
 * UERR_REJECTED: one sentence for a person; the log has source line, instruction,
 * rule and remedy, an empty line, then the log in the kernel's manner. OPTS NULL:
 * level 1 into the error. STATS may be NULL. */
struct uerr *verify_program(struct vm_prog *p, const struct vm_map *maps, size_t nmaps, const struct verify_opts *opts,
			    struct verify_stats *stats) UERR_MUST_CHECK;

/* Frees what verify_program() allocated in P (object_free() does as well). */
void verify_forget(struct vm_prog *p);
