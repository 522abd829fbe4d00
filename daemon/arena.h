/* SPDX-License-Identifier: MIT */
/*
 * Filling code arenas, in the worker. An arena is complete in itself:
 *
 *	addr ┌ runtime blob (vm/runtime)
 *	     ├ the injector's routine for many system calls at once
 *	     ├ struct target_env
 *	     ├ for each map used: struct umap, base as the target has it
 *	     ├ for each PROG_ARRAY used: where its object's programs are
 *	     ├ for each program used: its machine code
 *	code ├ trampolines, upwards
 *	 top └ site constants, downwards, until they meet
 *
 * A stack word that points between `code` and `used` is somebody's way back
 * into a trampoline; elsewhere it counts only while the thread records say that
 * somebody is inside.
 *
 * so that nothing in it points into another arena, and it can go when no window
 * jumps to its trampolines any more.
 */
#pragma once
#include "daemon/state.h"
#include "daemon/target.h"
#include "vm/jit.h"

#define ARENA_MIN (64u << 10)

/* Bytes that any arena takes before the first program. */
u64 arena_base_size(void);
/* Bytes for PROGS[n], the programs that they may go on in, and the descriptors of
 * their objects' maps. */
u64 arena_programs_size(const struct program *const *progs, size_t n);
u64 arena_window_size(const struct window *w, size_t ncalls);
#define ARENA_SITE_SIZE ALIGN_UP(sizeof(struct site_data), 16ul)

/* Starts arena A, whose memory is LOCAL here. */
void arena_start(struct arena *a, void *local, const struct target_env *env);
/* Says in LOCAL where its trampolines are and who counts in them: before each
 * commit that makes use of it. */
void arena_seal(const struct arena *a, void *local, addr_t threads);

/* SIZE bytes at a multiple of 16; 0 when it is full. The second is for data
 * that no program refers to. */
addr_t arena_alloc(struct arena *a, u64 size);
addr_t arena_alloc_constants(struct arena *a, u64 size);
static inline void *arena_local(const struct arena *a, void *local, addr_t addr)
{
	return (char *)local + (addr - a->addr);
}

bool arena_has_program(const struct arena *a, u32 program);
/* Compiles P into A, and what it may go on in, as far as it is not there. T must
 * have its maps already. */
struct uerr *arena_program(struct arena *a, void *local, const struct target *t, const struct program *p,
			   struct arena_prog *ret) UERR_MUST_CHECK;

/* The first RINGBUF of O, whose programs A has; 0 none. */
addr_t arena_rings(const struct arena *a, const struct loaded *o);

/* Compiles P as it lies in arena A at ENTRY, for listings. */
struct uerr *arena_jit(const struct arena *a, const struct target *t, const struct program *p, addr_t entry,
		       struct jit_output *ret) UERR_MUST_CHECK;
