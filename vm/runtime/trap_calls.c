/* SPDX-License-Identifier: MIT */
/*
 * The application's own dealings with SIGTRAP while breakpoints of ours are in it
 * (base/trap.h): hooks at the system calls by which it installs handlers and blocks
 * signals. What it asks for SIGTRAP is remembered, and what it is told is what
 * it asked; SIGTRAP is taken out of every mask that reaches the kernel, and who
 * believes to block it is in a list. The system
 * call is made here then, and the trampoline skips the application's own.
 */
#include <asm/unistd.h>

#include "base/trap.h"
#include "vm/runtime/rt.h"

#define BLOCK 0
#define UNBLOCK 1
#define SA_UNSUPPORTED 0x400ull /* a question about flags, which the kernel answers by clearing it */
#define UNBLOCKABLE (1ull << 8 | 1ull << 18) /* SIGKILL, SIGSTOP */

struct call {
	struct target_regs *regs;
	struct hook_frame *frame;
	struct trap_data *data;
	u64 area;
};

static u64 answer(const struct call *c, long ret)
{
	c->regs->ax = (u64)ret;
	c->regs->cx = 0;
	return 0;
}

static long store(const struct call *c, u64 addr, const void *src, u64 size)
{
	return addr ? rt_write(addr, src, size, c->frame) : 0;
}

/* A child that shares our memory until it execs (vfork, posix_spawn) has handlers
 * of its own in the kernel, but no memory to remember them in. */
static bool is_borrower(const struct call *c)
{
	const struct target_env *env = rt_env(c->frame);
	const struct target_private *private = (const struct target_private *)env->private_;
	u32 tid = (u32)rt_syscall(__NR_gettid, 0, 0, 0, 0, 0, 0);

	if (env->tid_off)
		return rt_fs_u32(env->tid_off) != tid;
	return private->tgid && private->tgid != (u32)rt_syscall(__NR_getpid, 0, 0, 0, 0, 0, 0);
}

static bool same_action(const struct trap_action *a, const struct trap_action *b)
{
	return a->handler == b->handler && a->flags == b->flags && a->restorer == b->restorer && a->mask == b->mask;
}

/* ACT becomes what the application believes in; what it believed before. */
static struct trap_action exchange(const struct call *c, const struct trap_action *act)
{
	struct trap_data *d = c->data;
	u32 now = __atomic_load_n(&d->now, __ATOMIC_ACQUIRE) % TRAP_ACTIONS;
	u32 known = __atomic_load_n(&d->next, __ATOMIC_RELAXED), i;

	/* Programs change between few. */
	for (i = 0; i < known && i < TRAP_ACTIONS; i++)
		if (same_action(&d->actions[i], act))
			break;
	if (i >= known || i >= TRAP_ACTIONS) {
		do
			i = __atomic_fetch_add(&d->next, 1, __ATOMIC_RELAXED) % TRAP_ACTIONS;
		while (i == now);
		d->actions[i] = *act;
	}
	now = __atomic_exchange_n(&d->now, i, __ATOMIC_ACQ_REL) % TRAP_ACTIONS;
	return d->actions[now];
}

/* Our handler, with the flags that go with ACT. */
static void follow(const struct call *c, const struct trap_action *act, const struct trap_action *was)
{
	struct trap_action real;

	if (trap_flags(act) == trap_flags(was) ||
	    rt_syscall(__NR_rt_sigaction, TRAP_SIG, 0, (u64)&real, 8, 0, 0) || real.handler - c->area >= TRAP_AREA_SIZE)
		return;
	real.flags = trap_flags(act);
	rt_syscall(__NR_rt_sigaction, TRAP_SIG, (u64)&real, 0, 8, 0, 0);
}

static u64 sigaction_trap(const struct call *c)
{
	struct trap_action act, was;
	bool borrower = is_borrower(c);

	if (c->regs->si && rt_read(&act, c->regs->si, sizeof(act), c->frame))
		return 0; /* the kernel will say so, too */
	if (c->regs->si && !borrower) {
		act.flags &= ~SA_UNSUPPORTED;
		act.mask &= ~UNBLOCKABLE;
		was = exchange(c, &act);
		follow(c, &act, &was);
	} else {
		was = c->data->actions[__atomic_load_n(&c->data->now, __ATOMIC_ACQUIRE) % TRAP_ACTIONS];
	}
	return answer(c, store(c, c->regs->dx, &was, sizeof(was)));
}

/* Of another signal, whose handler is not to block ours. */
static u64 sigaction_other(const struct call *c, u64 bit)
{
	u64 masked = __atomic_load_n(&c->data->masked, __ATOMIC_RELAXED), old = c->regs->dx;
	struct trap_action act = {}, was;
	bool has = c->regs->si;
	long ret;

	if (has && rt_read(&act, c->regs->si, sizeof(act), c->frame))
		return 0;
	if (!(masked & bit) && !(has && act.mask & TRAP_SIG_BIT))
		return 0;
	if (has && !is_borrower(c)) {
		if (act.mask & TRAP_SIG_BIT)
			__atomic_fetch_or(&c->data->masked, bit, __ATOMIC_RELAXED);
		else
			__atomic_fetch_and(&c->data->masked, ~bit, __ATOMIC_RELAXED);
	}
	act.mask &= ~TRAP_SIG_BIT;
	ret = rt_syscall(__NR_rt_sigaction, c->regs->di, has ? (u64)&act : 0, old ? (u64)&was : 0, 8, 0, 0);
	if (ret)
		return answer(c, ret);
	if (masked & bit)
		was.mask |= TRAP_SIG_BIT;
	return answer(c, store(c, old, &was, sizeof(was)));
}

static u64 on_sigaction(const struct call *c)
{
	u64 sig = c->regs->di;

	if (c->regs->r10 != 8 || sig - 1 >= TRAP_SIGNALS)
		return 0;
	return sig == TRAP_SIG ? sigaction_trap(c) : sigaction_other(c, 1ull << (sig - 1));
}

/* The place of TID in the list of those who believe to block SIGTRAP. */
static u32 *find_blocker(struct trap_data *d, u32 tid)
{
	u32 n = __atomic_load_n(&d->nblockers, __ATOMIC_RELAXED);

	for (u32 i = 0; i < n && i < TRAP_BLOCKERS; i++)
		if (__atomic_load_n(&d->blockers[i], __ATOMIC_RELAXED) == tid)
			return &d->blockers[i];
	return NULL;
}

static bool is_dead(u32 tid)
{
	return tid && rt_syscall(__NR_tkill, tid, 0, 0, 0, 0, 0) == -ESRCH;
}

/* A thread that ends blocks everything and does not come back: places of the dead are
 * free, too. Without a place it is not blocked again in the end, nothing else. */
static void add_blocker(struct trap_data *d, u32 tid)
{
	for (u32 i = 0; i < TRAP_BLOCKERS; i++) {
		u32 n = __atomic_load_n(&d->nblockers, __ATOMIC_RELAXED);
		u32 was = __atomic_load_n(&d->blockers[i], __ATOMIC_RELAXED);

		while (n <= i && !__atomic_compare_exchange_n(&d->nblockers, &n, i + 1, false, __ATOMIC_RELAXED,
							      __ATOMIC_RELAXED))
			;
		if ((!was || is_dead(was)) && __atomic_compare_exchange_n(&d->blockers[i], &was, tid, false,
									  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			return;
	}
}

/* What the thread believes after the call. */
static void believe(const struct call *c, u32 tid, u32 *blocker, u32 how, u64 set)
{
	bool has = set & TRAP_SIG_BIT;

	if (how == BLOCK ? !has : how == UNBLOCK ? !has : has == (blocker != NULL))
		return;
	if (how != UNBLOCK && has && !blocker && !is_borrower(c))
		add_blocker(c->data, tid);
	else if (blocker && how != BLOCK)
		__atomic_store_n(blocker, 0, __ATOMIC_RELAXED);
}

static u64 on_sigprocmask(const struct call *c)
{
	const struct target_regs *r = c->regs;
	u32 how = (u32)r->di, tid, *blocker;
	u64 set = 0, was = 0, real;
	bool blocks;
	long ret;

	if (r->r10 != 8 || (r->si && rt_read(&set, r->si, sizeof(set), c->frame)))
		return 0;
	blocks = set & TRAP_SIG_BIT && how != UNBLOCK;
	if (!blocks && !__atomic_load_n(&c->data->nblockers, __ATOMIC_RELAXED))
		return 0;
	tid = (u32)rt_syscall(__NR_gettid, 0, 0, 0, 0, 0, 0);
	blocker = find_blocker(c->data, tid);
	if (!blocker && !blocks)
		return 0;
	real = set & ~TRAP_SIG_BIT;
	ret = rt_syscall(__NR_rt_sigprocmask, how, r->si ? (u64)&real : 0, r->dx ? (u64)&was : 0, 8, 0, 0);
	if (ret)
		return answer(c, ret);
	if (blocker)
		was |= TRAP_SIG_BIT;
	if (r->si)
		believe(c, tid, blocker, how, set);
	return answer(c, store(c, r->dx, &was, sizeof(was)));
}

u64 rt_guard_signals(u64 *ctx, u64 zero, struct hook_frame *frame)
{
	struct target_regs *regs = (struct target_regs *)ctx;
	u64 area = rt_site(frame)->cookie;
	struct call c = { .regs = regs, .frame = frame, .area = area,
			  .data = (struct trap_data *)(area + TRAP_AREA_SIZE) };

	regs->cx = 1;
	if ((u32)regs->ax == __NR_rt_sigaction)
		return on_sigaction(&c);
	if ((u32)regs->ax == __NR_rt_sigprocmask)
		return on_sigprocmask(&c);
	return 0;
}
