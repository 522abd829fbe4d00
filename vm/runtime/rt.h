/* SPDX-License-Identifier: MIT */
/*
 * Inside of the runtime: what its files share. They are compiled twice, into
 * the blob that goes into targets (UMAP_FREESTANDING) and into the host library
 * for the interpreter and libbpfvm. In a target nothing here may fault, wait,
 * allocate, write anything but what a helper is for, or use a vector register;
 * a system call is made only where no other way exists.
 */
#pragma once
#include <asm/errno.h>

#include "base/target_abi.h"
#include "maps/umap.h"
#include "vm/runtime/tracering.h"

/* A helper: five arguments of the program, then the frame. */
#define RT_HELPER(name) u64 rt_##name(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct hook_frame *frame)

/* What a helper calls back: a function of the program. */
typedef u64 rt_callback(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct hook_frame *frame);

#define X(id, name, ...) RT_HELPER(name);
#include "vm/helpers.def"
#undef X

#define RT_TAIL_CALLS 33 /* in one run, as in the kernel (MAX_TAIL_CALL_CNT) */

/* What compiled programs call around a run that uses per-CPU maps: claims a
 * slot into frame->slot and returns it; HOOK_NO_SLOT (counted as missed) when
 * the program must not run. */
RT_HELPER(prog_claim);
RT_HELPER(prog_release);
/* What they call at the end of a run that may send signals. */
RT_HELPER(prog_signal);
/* map_lookup_elem() where the map is known to be a HASH with keys of 4 or 8 bytes */
RT_HELPER(hash_lookup_4);
RT_HELPER(hash_lookup_8);
RT_HELPER(percpu_lookup_4);
RT_HELPER(percpu_lookup_8);

/* See vm/runtime.h. */
struct thread_rec *thread_rec_slow(const struct target_env *env);

/* thread.c: takes REC, which is free or whose thread has ended with nothing half
 * done, out of use: false when it is not. Nobody finds it until it is given to TID
 * (0: free), which fails when somebody else has taken it meanwhile. */
bool rt_rec_seal(const struct target_env *env, struct thread_rec *rec);
bool rt_rec_unseal(struct thread_rec *rec, u32 tid);

/* cells.c. For trampolines: a cell for the return address RA at SLOT, or 0. */
u64 rt_cell_take(const struct target_env *env, u64 slot, u64 ra);
/* The extent of the stack that SP is on, into REC, if that has none yet and it can
 * be told. */
void rt_learn_stack(const struct target_env *env, struct thread_rec *rec, u64 sp);
u64 rt_guard_unwind(u64 *ctx, u64 zero, struct hook_frame *frame);
u64 rt_guard_rearm(u64 *ctx, u64 zero, struct hook_frame *frame);
u64 rt_guard_top(u64 *ctx, u64 zero, struct hook_frame *frame);
/* trap_calls.c */
u64 rt_guard_signals(u64 *ctx, u64 zero, struct hook_frame *frame);

/* memory.c: copies between the program's memory and memory that may not be
 * there. 0 or -EFAULT; a failed read zeroes DST. */
long rt_read(void *dst, u64 addr, u64 size, const struct hook_frame *frame);
/* The same, but never without asking the kernel: for what may go at any time. */
long rt_read_asking(void *dst, u64 addr, u64 size, const struct hook_frame *frame);
long rt_write(u64 addr, const void *src, u64 size, const struct hook_frame *frame);
/* At most SIZE bytes with the NUL that it always ends in: bytes stored, or
 * -EFAULT (then all of DST is zero). */
long rt_read_str(char *dst, u64 addr, u64 size, const struct hook_frame *frame);

static inline const struct site_data *rt_site(const struct hook_frame *frame)
{
	return (const struct site_data *)frame->site;
}

static inline const struct target_env *rt_env(const struct hook_frame *frame)
{
	return (const struct target_env *)rt_site(frame)->env;
}

static inline long rt_syscall(long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

/* CALL where the target's filters let us, else -EPERM. */
static inline long rt_call(const struct target_env *env, enum target_call call, long nr, u64 a, u64 b, u64 c, u64 d,
			   u64 e, u64 f)
{
	return env->denied & call ? -EPERM : rt_syscall(nr, a, b, c, d, e, f);
}

static inline u32 rt_fs_u32(s64 off)
{
	u32 v;

	__asm__ volatile("movl %%fs:(%1), %0" : "=r"(v) : "r"(off));
	return v;
}

/* Where %fs:0 is: every libc that registers rseq keeps a pointer to itself
 * there (System V TLS ABI). */
static inline u64 rt_thread_pointer(void)
{
	u64 v;

	__asm__ volatile("movq %%fs:0, %0" : "=r"(v));
	return v;
}

/* 0 where it cannot be found out. */
u32 rt_tid(const struct target_env *env);
u32 rt_tgid(const struct target_env *env);
u32 rt_cpu(const struct target_env *env);
u64 rt_clock_ns(const struct target_env *env, int clock);
/* clock.c: CLOCK_MONOTONIC, by the TSC where that is as good. */
u64 rt_monotonic_ns(const struct target_env *env);
/* COMM is aligned to 8. */
void rt_comm(const struct hook_frame *frame, char comm[16]);
u64 rt_uid_gid(const struct hook_frame *frame); /* gid << 32 | uid */
/* A hook at what changes a thread's name or ids. */
u64 rt_guard_identity(u64 *ctx, u64 zero, struct hook_frame *frame);

/* rings.c: a record of M, NULL when there is no room; submitted or discarded. */
void *rt_ring_reserve(const struct hook_frame *frame, const struct umap *m, u64 size, u64 flags);
void rt_ring_commit(const struct hook_frame *frame, u64 record, u64 flags, bool discard);

/* text.c: FMT with NARGS arguments into T, which is not ended by a NUL. The length
 * that it would have with room enough, or -EINVAL. */
struct rt_text {
	char *buf;
	u32 len, cap; /* cap without the final NUL; len may be above it */
};
long rt_format(struct rt_text *t, const char *fmt, const u64 *args, u32 nargs, const struct hook_frame *frame);
/* Arguments that are an array of u64 of SIZE bytes; false: they cannot be. */
#define RT_FORMAT_ARGS 12u /* MAX_BPRINTF_VARARGS of the kernel */
bool rt_format_args(u64 data, u32 size, u32 *nargs);

static inline struct thread_rec *rt_rec(const struct hook_frame *frame)
{
	struct thread_rec *rec = (struct thread_rec *)frame->rec;

	return __builtin_expect(rec != NULL, 1) ? rec : thread_rec_slow(rt_env(frame));
}

/* The overflow record has no number of its own: it shares that of the last
 * record, which is never given away in a full-sized table (thread.c). */
static inline u32 rt_owner(const struct target_env *env, const struct thread_rec *rec)
{
	u64 i = ((u64)rec - env->threads - THREAD_RECS_OFF) / sizeof(*rec);
	u64 max = (1u << OWNER_REC_BITS) - 1;

	return OWNER_ID(env->target_no, i < max ? i : max);
}

/* Copying without a libc. Sanitizers are told to look away: a host build
 * copies from its own stack what the range checks in memory.c allow. */
#define RT_NO_SANITIZE __attribute__((no_sanitize("address", "undefined")))

RT_NO_SANITIZE static inline void rt_copy(void *dst, const void *src, u64 n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

RT_NO_SANITIZE static inline void rt_zero(void *dst, u64 n)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(0) : "memory");
}
