/* SPDX-License-Identifier: MIT */
/*
 * CLOCK_MONOTONIC without asking for it: what the clock showed a moment ago, and
 * the TSC's ticks since then. Called by helpers.c; the JIT emits the common case
 * itself (quick_ktime() in jit_call.c), from the same struct target_clock. It must
 * stay within 1 us of the kernel's clock.
 *
 * The kernel steers its clock (NTP), so a line through two of its answers holds
 * for a while only: TARGET_CLOCK_NS, in which the rate may change by 0.5 % before
 * a microsecond is lost (NTP steers by 0.05 %). Then somebody asks again:
 *
 *	ns  |                    . x   the kernel's answer, now
 *	    |              . - o       where the line had got to: the new one begins
 *	    |        . - '             here, and meets the kernel's when it ends
 *	    |  o - '
 *	    +------------------- tsc
 *
 * So the clock has no steps, neither back nor forth, while it is asked often
 * enough to be used at all; after a pause it begins anew at what the kernel says.
 *
 * Nobody waits for long: a reader that meets a writer, or a writer that meets another,
 * asks the kernel. An answer that took long (we were interrupted) is returned and
 * not built upon. A line is drawn only where its rate is that of the one before.
 * Where a line is a microsecond or more away from the answer, the TSC is not what
 * it was taken for (out of step between CPUs, say); when that has happened a few
 * times it is not used any more.
 *
 * A writer may never end: a signal handler interrupts it and leaves by longjmp, or
 * ends the thread. Nobody can tell it from one that was stopped and will go on, so
 * its clock is not taken over but left to it, and the next spare one is used. What
 * it writes there one day is a line that has ended long ago.
 */
#include "vm/runtime/rt.h"

#define CLOCK_MONOTONIC_NR 1
#define MAX_DOUBTS 8u
#define MAX_ERROR_NS 1000
#define ABANDONED_TICKS (1ull << 32)       /* a second or two */
#define MEET_TRIES 100                    /* pauses that a reader waits for a writer */
#define ASK_TICKS_MAX 1024u               /* that an answer may take; half of it may be the error */
#define BASE_NS_MIN (TARGET_CLOCK_NS / 2) /* between two answers, to tell the rate from them */
#define BASE_NS_MAX (1u << 31)            /* that ns << 32 fits */
#define TICKS_MAX (1u << 30)              /* in TARGET_CLOCK_NS; no CPU comes near */
#define RATE_TOLERANCE 128                /* above what steering and meeting the kernel's line take */

static inline u64 ticks_now(void)
{
	u32 lo, hi;

	__asm__ volatile("lfence\n\trdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

#define LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

static inline bool clock_read(const struct target_clock *c, u64 *ret)
{
	u32 seq = LOAD(&c->seq);
	u64 ticks = ticks_now() - LOAD(&c->tsc);

	if (seq & 1 || ticks >= LOAD(&c->ticks))
		return false;
	*ret = LOAD(&c->ns) + (ticks * LOAD(&c->mult) >> 32);
	return LOAD(&c->seq) == seq;
}

static inline bool same_rate(u64 a, u64 b)
{
	return a + a / RATE_TOLERANCE >= b && b + b / RATE_TOLERANCE >= a;
}

/* Makes the next line from the kernel's answer NS at TSC, and returns what the
 * clock is there. C is ours. */
static u64 clock_set(struct target_clock *c, u64 tsc, u64 ns)
{
	u64 base_ns = ns - c->asked_ns, base_tsc = tsc - c->asked_tsc, since = tsc - c->tsc, mult, ticks;
	s64 ahead = 0;

	if (c->asked_tsc && base_ns < BASE_NS_MIN)
		return ns; /* too early to tell the rate */
	STORE(&c->asked_tsc, tsc);
	STORE(&c->asked_ns, ns);
	mult = base_ns <= BASE_NS_MAX && base_tsc ? (base_ns << 32) / base_tsc : 0;
	ticks = mult ? ((u64)TARGET_CLOCK_NS << 32) / mult : 0;
	if (c->ticks && since < 2 * c->ticks) {
		ahead = (s64)(c->ns + (since * c->mult >> 32) - ns);
		if (ahead >= MAX_ERROR_NS || ahead <= -MAX_ERROR_NS) {
			STORE(&c->doubts, c->doubts + 1);
			mult = 0;
		}
	}
	if (!mult || !ticks || ticks > TICKS_MAX || !same_rate(mult, c->mult) || c->doubts >= MAX_DOUBTS) {
		STORE(&c->mult, mult);
		STORE(&c->ticks, 0);
		return ahead > 0 && ahead < MAX_ERROR_NS ? ns + (u64)ahead : ns;
	}
	STORE(&c->tsc, tsc);
	STORE(&c->ns, ns + (u64)ahead);
	STORE(&c->mult, mult - (u64)(ahead * ((s64)1 << 32) / (s64)ticks));
	STORE(&c->ticks, ticks);
	return c->ns;
}

/* The answer NS at TSC, or what the line that others go by says there, if that is
 * a little ahead: who has read it already must not see the clock go back. */
static u64 not_before(const struct target_clock *c, u64 tsc, u64 ns)
{
	u32 seq = LOAD(&c->seq);
	s64 since, reach;
	u64 line;

	for (u32 i = 0; seq & 1 && i < MEET_TRIES; i++) {
		__builtin_ia32_pause();
		seq = LOAD(&c->seq);
	}
	since = (s64)(tsc - LOAD(&c->tsc));
	reach = 2 * (s64)(LOAD(&c->ticks) & (2 * TICKS_MAX - 1));
	line = LOAD(&c->ns) + (u64)((s64)((u64)since * LOAD(&c->mult)) >> 32);
	if (seq & 1 || since >= reach || since <= -reach || LOAD(&c->seq) != seq)
		return ns;
	return line > ns && line - ns < MAX_ERROR_NS ? line : ns;
}

/* The clock in use; NULL when all are used up. */
static struct target_clock *clock_of(struct target_private *p)
{
	u32 no = LOAD(&p->clock_no);

	if (!no)
		return &p->clock;
	return no <= TARGET_CLOCK_SPARES ? &p->spares[no - 1] : NULL;
}

/* C is being written; for so long that nobody will end it? */
static void leave_if_abandoned(struct target_private *p, const struct target_clock *c, u64 now)
{
	u32 no = LOAD(&p->clock_no);

	if (clock_of(p) == c && (s64)(now - LOAD(&c->began)) > (s64)ABANDONED_TICKS)
		__atomic_compare_exchange_n(&p->clock_no, &no, no + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static u64 clock_ask(const struct target_env *env, struct target_private *p, struct target_clock *c)
{
	u64 before = ticks_now(), ns = rt_clock_ns(env, CLOCK_MONOTONIC_NR), took = ticks_now() - before;
	u32 seq = LOAD(&c->seq);

	if (seq & 1)
		leave_if_abandoned(p, c, before);
	else
		STORE(&c->began, before); /* first: who sees it odd must see when */
	if (took > ASK_TICKS_MAX || seq & 1 ||
	    !__atomic_compare_exchange_n(&c->seq, &seq, seq + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return not_before(c, before + took / 2, ns);
	ns = clock_set(c, before + took / 2, ns);
	__atomic_store_n(&c->seq, seq + 2, __ATOMIC_RELEASE);
	return not_before(c, before + took / 2, ns);
}

u64 rt_monotonic_ns(const struct target_env *env)
{
	struct target_private *p = (struct target_private *)env->private_;
	struct target_clock *c = p && env->tsc_clock ? clock_of(p) : NULL;
	u64 ns;

	if (!c || LOAD(&c->doubts) >= MAX_DOUBTS)
		return rt_clock_ns(env, CLOCK_MONOTONIC_NR);
	return clock_read(c, &ns) ? ns : clock_ask(env, p, c);
}
