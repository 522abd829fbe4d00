/* SPDX-License-Identifier: MIT */
/*
 * Trampolines as pure bytes: what a patched window jumps to. No I/O and no
 * target: everything is computed for given addresses. The code follows
 * base/target_abi.h.
 */
#pragma once
#include "base/target_abi.h"
#include "injector/plan.h"

/* One call that a hook makes. */
struct hook_call {
	addr_t fn;        /* compiled program in the target */
	addr_t site;      /* struct site_data in the target */
	u32 reads;        /* TARGET_REG_BIT mask of ctx fields to store */
	u32 clobbers;     /* TARGET_REG_BIT mask of registers that fn changes */
	bool overrides;   /* fn may set frame->override: at an entry only */
	bool answers;     /* for a system call, the probed instruction: fn leaves 0 in its ctx->cx
			   * where the call is not to be made, since ctx->ax has the result; else 1 */
};

/* The calls of one hook point, in order. */
struct hook {
	struct hook_point point;
	const struct hook_call *calls;
	size_t ncalls;
};

struct tramp_env {
	addr_t env;          /* struct target_env in the target */
	s64 tid_off;         /* as in target_env */
	addr_t threads;      /* thread table */
	u32 nrecs;
	addr_t rec_slow;     /* thread_rec_slow() in the target */
	addr_t cells;        /* struct cell_area in the target; 0: no hook may take a return over */
	addr_t cell_take;    /* rt_cell_take() in the target */
	/* For code of Go: the threads' side stacks (of side_stacks_size(), zero at
	 * first), and where side_find_code() lies; 0: hooks use the stack as it is. */
	addr_t side, side_find;
};

u64 side_stacks_size(u32 nrecs);
const u8 *side_find_code(size_t *size);

/* Instruction at window offset → its copy, for moving threads. */
struct tramp_move {
	u8 off;
	u32 tramp_off;
};

struct trampoline {
	u8 *code;          /* malloc'd */
	size_t size;
	struct tramp_move moves[WINDOW_INSNS];
	u8 nmoves;
};

/* A hook at an entry one of whose calls overrides goes back to the function's caller
 * with the result in frame->regs.ax when the programs want that.
 *
 * Emits the trampoline of window W, whose module lies at BIAS, to run at
 * TRAMP_ADDR (within ±2 GiB of the window). HOOKS are ordered by offset.
 * UERR_CANNOT_PROBE names the instruction that cannot be moved. */
struct uerr *trampoline_emit(const struct window *w, addr_t bias, const struct hook *hooks, size_t nhooks,
			     const struct tramp_env *env, addr_t tramp_addr, struct trampoline *ret) UERR_MUST_CHECK;
void trampoline_deinit(struct trampoline *t);

/* Upper bound of a trampoline's size for placing it before emitting. */
size_t trampoline_size_bound(const struct window *w, size_t ncalls);

/* What stands at the window afterwards: jmp rel32 to TO (the trampoline, or the
 * stub of a punned window), the rest int3 (no one arrives there); or an int3, the
 * rest as it is. w->len bytes into ret. */
void window_patch_bytes(const struct window *w, addr_t bias, addr_t to, u8 *ret);
