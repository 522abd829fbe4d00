/* SPDX-License-Identifier: MIT */
/*
 * Runs a program and believes nobody: every access is held against the objects
 * that are really there, every argument of a helper against its prototype, every
 * fact that the verifier claims (struct insn_fact, vm_prog_info) against what
 * happens. It shares no code with the interpreter and the verifier, only the
 * table of helpers, whose functions it calls once their arguments are found good.
 *
 * A register or stack word that holds an address also says of which object, so
 * that an address that happens to lie in some other object is found out.
 */
#pragma once
#include "vm/program.h"

struct checked_result {
	char violation[200]; /* what was wrong, and where; "" nothing */
	u32 pc;              /* of the violation, or the last instruction */
	u64 r0;
	u64 insns;           /* executed */
	bool unfinished;     /* MAX_INSNS were not enough */
	bool varies;         /* the result may hang on addresses, clocks, or leftovers of memory: another
	                      * execution may differ and still be right */
};

/* FRAME is as for a run in this process (its regs are the ctx; a per-CPU slot is
 * claimed). KNOWN…KNOWN+KNOWN_SIZE is memory whose contents do not vary. */
struct checked_opts {
	struct hook_frame *frame;
	const void *known;
	size_t known_size;
	u64 max_insns;
};

void checked_run(const struct vm_prog *p, const struct vm_map *maps, size_t nmaps, const struct checked_opts *opts,
		 struct checked_result *ret);
