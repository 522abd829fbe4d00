/* SPDX-License-Identifier: MIT */
/*
 * System calls made by a stopped thread of the target on our behalf, so that
 * the thread finds its way back alone if this process dies in the middle.
 */
#pragma once
#include "injector/target_maps.h"
#include "injector/tracee.h"

/* Instructions in the target that remote calls use. */
struct gadgets {
	addr_t syscall;  /* syscall, harmless instructions, ret */
	bool leave;      /* … with a leave before the ret */
	u8 bytes[24];    /* what stands there: checked before each use */
	addr_t sigreturn; /* mov $15, %eax; syscall; or pop %rax; ret */
	bool pops;        /* … the latter */
	u8 ret_bytes[9];
	u8 nret_bytes;
};

#define REMOTE_SCRATCH 8192u

struct remote {
	struct tracee *t;
	struct thread *th;
	struct gadgets g;
	struct user_regs_struct saved;
	u64 saved_mask;
	addr_t frame;        /* stack pointer of a call; the sigframe is here */
	addr_t scratch;      /* REMOTE_SCRATCH bytes for arguments */
	u8 *saved_stack;
	size_t saved_len;    /* from scratch on */
	bool active;
	bool halted;         /* in a stop from which it may go back at once (remote_halt) */
};

/* Looks for them, in the running target. */
struct uerr *gadgets_find(struct tracee *t, const struct target_maps *maps, struct gadgets *ret) UERR_MUST_CHECK;

/* Can TH, stopped, make calls now? NULL, or why not (static words). */
const char *remote_unfit(struct tracee *t, const struct target_maps *maps, const struct thread *th, bool strict);

/* The stack that Go has TH (stopped) on; below it lies what belongs to others.
 * False: it is on none. */
bool remote_go_stack(struct tracee *t, const struct thread *th, u64 bounds[2]);

/* Begins calls in TH (stopped); it must be fit. */
struct uerr *remote_begin(struct remote *r, struct tracee *t, struct thread *th, const struct gadgets *g) UERR_MUST_CHECK;

/* Makes one call; *ret is its result or -errno. An error means that the thread
 * is gone. */
struct uerr *remote_call(struct remote *r, long nr, const u64 args[6], s64 *ret) UERR_MUST_CHECK;
#define REMOTE_CALL(r, ret, nr, ...) remote_call((r), (nr), (const u64[6]){ __VA_ARGS__ }, (ret))

/* For remote_batch.c: sets the thread, which is still stopped, to run CODE with
 * REGS, signals blocked, and the way back as its return address … */
struct uerr *remote_go(struct remote *r, addr_t code, struct user_regs_struct *regs) UERR_MUST_CHECK;
/* … and stops it while it runs there. False: it is gone, or errno is ETIMEDOUT. */
bool remote_halt(struct remote *r);

/* Puts the thread back as it was: stopped, in the same place. NULL-safe when
 * not begun. */
void remote_end(struct remote *r);
