/* SPDX-License-Identifier: MIT */
/*
 * Stacks of their own for hooks in Go code, one a thread. A goroutine may be left
 * with next to no stack, and below it lies somebody else's: so nothing at all may
 * be written below rsp before the switch. Inside the injector only; trampoline.c
 * emits the switch around a hook.
 */
#pragma once
#include "injector/find_rec.h"

/* What a hook has open until its out-of-line part is emitted. */
struct side_switch {
	struct find_rec rec;
	size_t skip[2]; /* there is no stack left */
	size_t end;     /* where the hook ends */
};

#define SIDE_SWITCH_MAX 400 /* bytes of code */

/* From the goroutine's stack to the thread's own; every register and flag but rsp
 * is as before, and rsp is 8 below a multiple of 16. The old one lies at (%rsp). */
void side_enter(struct emit *e, struct side_switch *s, const struct tramp_env *env);

/* And back: rsp must be as side_enter() left it. */
void side_leave(struct emit *e, struct side_switch *s);
void side_out_of_line(struct emit *e, const struct side_switch *s, const struct tramp_env *env);
