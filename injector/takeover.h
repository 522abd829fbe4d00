/* SPDX-License-Identifier: MIT */
/*
 * Code that takes a return over (base/cells.h), as trampolines contain it, and
 * the stubs. Pure bytes.
 */
#pragma once
#include "base/cells.h"
#include "injector/emit.h"
#include "injector/trampoline.h"

/* A take-over being emitted, and what its out-of-line part needs. */
struct takeover_code {
	size_t slow[4]; /* jumps to the slow path */
	unsigned nslow;
	size_t go;      /* where it comes back to with a cell … */
	size_t without; /* … and without */
	size_t hook;    /* fix-up: the code that runs at the return */
};

/* Emits what takes over the return whose address rsp points at, with every
 * register and the flags as they were, and goes on at TARGET; TARGET 0: at what is emitted next. */
void takeover_emit(struct emit *e, const struct tramp_env *env, addr_t target, struct takeover_code *ret);

/* The slow path, somewhere else. */
void takeover_emit_slow(struct emit *e, const struct tramp_env *env, const struct takeover_code *t);

/* What runs at a return has emit_here() as its address from now on. Where it
 * begins, rsp is 8 below the return address. */
static inline void takeover_bind_hook(struct emit *e, const struct takeover_code *t)
{
	emit_fix_here(e, t->hook);
}

/* The stubs of an area's first BLOCKS blocks, at RET. */
void takeover_stubs(void *ret, u32 blocks);

#define TAKEOVER_MAX 420 /* bytes of both parts */
