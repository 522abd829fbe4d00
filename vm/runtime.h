/* SPDX-License-Identifier: MIT */
/*
 * The runtime that goes into a target: maps and helpers compiled freestanding
 * and position independent, without writable data and without relocations, as
 * one blob that the daemon copies to the start of a code arena. It finds all it
 * needs from the hook_frame (frame->site → env). The same sources are compiled
 * into this library for the interpreter and for libbpfvm.
 */
#pragma once
#include <sys/types.h>

#include "base/target_abi.h"
#include "base/types.h"

struct runtime_blob {
	const u8 *bytes;
	size_t size;
};

const struct runtime_blob *runtime_blob(void);

/* Offset of helper ID in the blob, 0 when there is none. */
u32 runtime_helper_off(u32 id);

/* Offset of the trampolines' slow path in the blob:
 *   struct thread_rec *thread_rec_slow(const struct target_env *env)
 * System V convention, general registers only; finds or claims the calling
 * thread's record (never NULL: the overflow record at worst). */
u32 runtime_thread_rec_off(void);

/* Offsets of what takes over returns (base/cells.h):
 *   u64 rt_cell_take(const struct target_env *env, u64 slot, u64 ra)
 * for trampolines, System V convention, general registers only: a cell whose `ra`
 * is set, or 0; and of the guards, which hooks call as they call programs. Guards
 * read `sp` alone. */
enum runtime_guard {
	GUARD_UNWIND, /* entry of what walks a stack */
	GUARD_REARM,  /* entry of what ends an unwinding, exit of what has looked only */
	GUARD_TOP,    /* entry of what looks at its own return address */
	GUARD_IDENTITY, /* entry of what changes a thread's name or ids; nothing to do with returns */
	GUARDS,
};
u32 runtime_cell_take_off(void);
u32 runtime_guard_off(enum runtime_guard guard);

/* The handler of breakpoints, for the start of an area (base/trap.h), where it begins
 * and returns; and what hooks call as they call programs, at a system call about signals,
 * which it may answer: its site's cookie is the area, it reads ax, r10, di, si and dx. */
struct runtime_trap {
	struct runtime_blob blob;
	u32 enter, leave;
	u32 signals;
};
const struct runtime_trap *runtime_trap(void);

/* Helper ID as this process calls it (for the interpreter and embedders), or
 * NULL: u64 f(u64, u64, u64, u64, u64, struct hook_frame *). */
typedef u64 (*helper_fn)(u64, u64, u64, u64, u64, struct hook_frame *);
helper_fn runtime_helper(u32 id);

/* Fills ENV, SITE for running programs in *this* process (interpreter,
 * embedded): a thread table of its own, the vDSO clock, owner 0. Static,
 * initialised once. */
const struct site_data *runtime_self_site(void);
/* A frame for one run in this process by the calling thread. */
void runtime_self_frame(struct hook_frame *frame);

/* Whether the kernel keeps CLOCK_MONOTONIC by the TSC, and that ticks evenly on
 * all CPUs: what env.tsc_clock says. */
bool runtime_tsc_is_clock(void);
/* Fills env.tick_ns and env.jiffies. */
void runtime_tick(struct target_env *env);
/* What env.pidns_… says of process PID (0: this one). */
void runtime_pidns(pid_t pid, struct target_env *env);

/* trace_printk: the ring of a target (vm/runtime/tracering.h). */
struct trace_ring;
struct trace_line {
	u64 ts_ns;      /* CLOCK_MONOTONIC */
	u32 pid, tid;   /* of the target's own pid namespace */
	u32 cpu;
	char comm[16];
	char text[200]; /* NUL-terminated, control characters replaced */
};
size_t trace_ring_size(void);
void trace_ring_format(struct trace_ring *ring);
/* Takes the next line after *CURSOR (start: 0). 1: one taken; 0: none yet;
 * MISSED is increased by the lines that were overwritten. The ring is hostile. */
int trace_ring_next(const struct trace_ring *ring, u64 *cursor, struct trace_line *ret, u64 *missed);
