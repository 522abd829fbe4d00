/* SPDX-License-Identifier: MIT */
/*
 * What runs before and after those system calls of a target that may take memory
 * away from it: the other side of cache.c. Called like programs, by hooks at the
 * system call instruction and at the one behind it.
 *
 * Which calls a thread is inside of is kept as a stack of bits in its word of
 * `nested`, below a 1: a call that takes memory away is a 1, any other a 0. So a
 * signal handler that makes calls between ours finds its own on top. One that
 * leaves by longjmp() leaves a bit behind: then `taking` stays, and nothing is
 * cached any more, which is safe. A thread that was inside of the call when the
 * hooks came finds no bit.
 */
#include <asm/unistd.h>

#include "base/read_cache.h"
#include "vm/runtime/rt.h"

#define MEMBARRIER_RSEQ 128
#define NESTED_FULL (1ull << 62)

/* of the calls' arguments, as Linux has them on x86-64 */
#define MAP_FIXED_BIT 0x10u
#define MAP_FIXED_NOREPLACE_BIT 0x100000u
#define MREMAP_FIXED_BIT 2u
#define SHM_REMAP_BIT 040000u
#define SHM_EXEC_BIT 0100000u
#define PROT_READ_WRITE (PROT_READ_BIT | PROT_WRITE_BIT)
#define PROT_EXEC_BIT 4u
#define GUARD_INSTALL 102
#define CLONE_VM_BIT 0x100u
#define CLONE_VFORK_BIT 0x4000u
#define CLONE_THREAD_BIT 0x10000u
#define CLONE_SETTLS_BIT 0x80000u
#define BREAK_SLACK (1ull << 30)

/* What a call may do to memory that is in the cache, which is private and
 * anonymous: shmdt() for one cannot touch it. */
struct effect {
	bool takes;   /* memory away, or some of its protection: [lo, lo + size) and [lo2, …) */
	bool all;     /* … from anywhere */
	bool code;    /* it brings in memory that can be executed */
	u32 refuse;   /* enum read_cache_reason: no cache from now on */
	bool unsure;  /* this thread's rseq may not be the one registered */
	u64 lo, size, lo2, size2;
};

static void take(struct effect *e, u64 lo, u64 size)
{
	e->takes = true;
	e->lo = lo;
	e->size = size;
}

/* Argument numbers as in the manual. */
static u64 arg(const struct target_regs *r, int n)
{
	switch (n) {
	case 1:
		return r->di;
	case 2:
		return r->si;
	case 3:
		return r->dx;
	case 4:
		return r->r10;
	}
	return n == 5 ? r->r8 : r->r9;
}

static void on_protect(struct effect *e, const struct target_regs *r)
{
	e->code = arg(r, 3) & PROT_EXEC_BIT;
	if ((arg(r, 3) & PROT_READ_WRITE) != PROT_READ_WRITE)
		take(e, arg(r, 1), arg(r, 2));
}

static void on_map(struct effect *e, const struct target_regs *r)
{
	e->code = arg(r, 3) & PROT_EXEC_BIT;
	if (arg(r, 4) & MAP_FIXED_BIT && !(arg(r, 4) & MAP_FIXED_NOREPLACE_BIT))
		take(e, arg(r, 1), arg(r, 2));
}

static void on_remap(struct effect *e, const struct target_regs *r)
{
	take(e, arg(r, 1), arg(r, 2));
	if (arg(r, 4) & MREMAP_FIXED_BIT) {
		e->lo2 = arg(r, 5);
		e->size2 = arg(r, 3);
	}
}

/* Where the heap ends now is not known here; what was told says it to within
 * what may have grown meanwhile. */
static void on_break(struct effect *e, const struct target_regs *r, const struct read_cache *c)
{
	u64 lo = arg(r, 1), hi = lo + BREAK_SLACK;

	if (!lo)
		return;
	for (u32 i = 0; i < c->nranges && i < READ_CACHE_RANGES; i++)
		if (c->ranges[i].lo <= lo && c->ranges[i].hi > hi)
			hi = c->ranges[i].hi;
	take(e, lo, hi - lo);
}

static void on_clone(struct effect *e, u64 flags)
{
	if (!(flags & CLONE_VM_BIT) || flags & CLONE_THREAD_BIT)
		return;
	if (flags & CLONE_VFORK_BIT && !(flags & CLONE_SETTLS_BIT))
		e->unsure = true;
	else
		e->refuse = READ_CACHE_SHARED_MEMORY;
}

static void on_clone3(struct effect *e, const struct target_regs *r, const struct hook_frame *frame)
{
	u64 flags;

	if (rt_read(&flags, arg(r, 1), sizeof(flags), frame))
		e->refuse = READ_CACHE_SHARED_MEMORY; /* cannot be told */
	else
		on_clone(e, flags);
}

static void look_at(struct effect *e, u64 nr, const struct target_regs *r, const struct hook_frame *frame,
		    const struct read_cache *c)
{
	switch (nr) {
	case __NR_mmap:
		return on_map(e, r);
	case __NR_mprotect:
		return on_protect(e, r);
	case __NR_pkey_mprotect:
		if ((s32)arg(r, 4) > 0)
			e->refuse = READ_CACHE_PROTECTION_KEY;
		return on_protect(e, r);
	case __NR_pkey_alloc:
		e->refuse = READ_CACHE_PROTECTION_KEY;
		return;
	case __NR_munmap:
	case __NR_remap_file_pages:
		return take(e, arg(r, 1), arg(r, 2));
	case __NR_mremap:
		return on_remap(e, r);
	case __NR_brk:
		return on_break(e, r, c);
	case __NR_madvise:
		if (arg(r, 3) == GUARD_INSTALL)
			take(e, arg(r, 1), arg(r, 2));
		return;
	case __NR_process_madvise: /* of this process, or not: its ranges are not looked at */
		e->all = e->takes = arg(r, 4) == GUARD_INSTALL;
		return;
	case __NR_shmat:
		e->all = e->takes = arg(r, 3) & SHM_REMAP_BIT;
		e->code = arg(r, 3) & SHM_EXEC_BIT;
		return;
	case __NR_io_uring_setup:
	case __NR_io_uring_enter:
	case __NR_io_uring_register:
		e->refuse = READ_CACHE_IO_URING;
		return;
	case __NR_userfaultfd:
		e->refuse = READ_CACHE_USERFAULTFD;
		return;
	case __NR_personality: /* it may make all that is readable executable */
		e->refuse = READ_CACHE_PERSONALITY;
		return;
	case __NR_vfork:
		return on_clone(e, CLONE_VM_BIT | CLONE_VFORK_BIT);
	case __NR_clone:
		return on_clone(e, arg(r, 1));
	case __NR_clone3:
		return on_clone3(e, r, frame);
	}
}

static void age(struct read_cache *c, u64 lo, u64 size)
{
	u64 first = lo >> READ_CACHE_REGION_BITS, last = size ? (lo + size - 1) >> READ_CACHE_REGION_BITS : first;
	u64 now = __atomic_add_fetch(&c->ops, 1, __ATOMIC_SEQ_CST);

	if (last < first || last - first >= READ_CACHE_REGIONS) {
		first = 0;
		last = READ_CACHE_REGIONS - 1;
	}
	for (u64 i = first; i <= last; i++)
		__atomic_store_n(&c->epoch[i & (READ_CACHE_REGIONS - 1)], now, __ATOMIC_RELEASE);
}

#define EVERYTHING (~0ull)

/* Breaks off every sequence that is under way. */
static void break_off(struct read_cache *c, const struct target_env *env)
{
	if (__atomic_load_n(&c->registered, __ATOMIC_SEQ_CST))
		rt_call(env, TARGET_CALL_MEMBARRIER, __NR_membarrier, MEMBARRIER_RSEQ, 0, 0, 0, 0, 0);
}

/* REFUSED is for good. */
static void turn_off(struct read_cache *c, u32 state, u32 reason)
{
	u32 was = __atomic_load_n(&c->state, __ATOMIC_SEQ_CST);

	while (was != READ_CACHE_REFUSED && was != state &&
	       !__atomic_compare_exchange_n(&c->state, &was, state, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		;
	if (was != READ_CACHE_REFUSED && was != state)
		c->reason = reason;
	age(c, 0, EVERYTHING);
}

/* The word of this thread; NULL for one that has no record of its own. */
static u64 *nested_of(struct read_cache *c, const struct hook_frame *frame)
{
	const struct target_env *env = rt_env(frame);
	u64 i = ((u64)rt_rec(frame) - env->threads - THREAD_RECS_OFF) / sizeof(struct thread_rec);

	return i < env->nrecs && i < ARRAY_SIZE(c->nested) ? &c->nested[i] : NULL;
}

static void enter(struct read_cache *c, struct effect *e, const struct hook_frame *frame)
{
	u64 *nested = nested_of(c, frame), was;

	if (!nested) {
		if (e->takes || e->code)
			e->refuse = READ_CACHE_THREADS;
		return;
	}
	was = *nested ? *nested : 1;
	if (was >= NESTED_FULL) {
		e->refuse = READ_CACHE_THREADS;
		return;
	}
	if (e->takes || e->code)
		__atomic_fetch_add(&c->taking, 1, __ATOMIC_SEQ_CST);
	*nested = was << 1 | (e->takes || e->code);
}

u64 rt_taking_begin(void *ctx, u64 zero, struct hook_frame *frame)
{
	const struct target_regs *regs = ctx;
	struct read_cache *c = (struct read_cache *)rt_env(frame)->cache;
	u64 nr = rt_site(frame)->cookie == TAKING_ANY_CALL ? regs->ax : rt_site(frame)->cookie;
	struct effect e = { 0 };

	if (!c)
		return 0;
	look_at(&e, nr, regs, frame, c);
	if (e.unsure)
		rt_rec(frame)->rseq = 0;
	enter(c, &e, frame);
	if (e.refuse)
		turn_off(c, READ_CACHE_REFUSED, e.refuse);
	else if (e.code)
		turn_off(c, READ_CACHE_OFF, READ_CACHE_NEW_CODE);
	else if (e.all)
		age(c, 0, EVERYTHING);
	else if (e.takes)
		age(c, e.lo, e.size);
	if (e.size2)
		age(c, e.lo2, e.size2);
	if (e.takes || e.code || e.refuse)
		break_off(c, rt_env(frame));
	return 0;
}

u64 rt_taking_end(void *ctx, u64 zero, struct hook_frame *frame)
{
	struct read_cache *c = (struct read_cache *)rt_env(frame)->cache;
	u64 *nested = c ? nested_of(c, frame) : NULL;
	u64 was = nested ? *nested : 0;

	if (was < 2)
		return 0;
	*nested = was >> 1;
	if (was & 1)
		__atomic_fetch_sub(&c->taking, 1, __ATOMIC_SEQ_CST);
	return 0;
}
