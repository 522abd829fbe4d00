/* SPDX-License-Identifier: MIT */
/*
 * The handler of breakpoints (base/trap.h) comes and goes. All threads stand still,
 * and one of them makes the system calls. Installing, in this order, so that whoever
 * undoes it after our death finds the truth:
 *
 *	what is installed now    into the data: the application believes in it
 *	our handler              from here on undoing means to give that back
 *	the other handlers       that are to block SIGTRAP: they do not any more
 *	threads that block it    into the data; they do not any more
 *	text                     (commit.c)
 *
 * and the reverse: text, then the application's own, then the memory. In between a
 * SIGTRAP may be on its way to a thread that has run a breakpoint and stands behind
 * it: as long as there is one the handler stays.
 */
#include "inject_priv.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/trap.h"
#include "injector/remote_mem.h"

#define LOOKS 4 /* stops in which somebody inside of our code is waited for */

_Static_assert(TRAP_SIG == SIGTRAP && TRAP_SA_NODEFER == SA_NODEFER && TRAP_SA_RESETHAND == (u32)SA_RESETHAND &&
	       TRAP_SA_ONSTACK == SA_ONSTACK && TRAP_SA_RESTART == SA_RESTART && TRAP_SA_SIGINFO == SA_SIGINFO,
	       "the kernel's numbers");

void inject_traps(struct injection *in, addr_t area, enum inject_traps_change change, u32 enter, u32 leave)
{
	memset(&in->traps, 0, sizeof(in->traps));
	in->traps.area = area;
	in->traps.change = change;
	in->traps.enter = enter;
	in->traps.leave = leave;
}

bool inject_traps_lost(const struct injection *in)
{
	return in->traps.lost;
}

bool traps_is_area(const struct injection *in, const struct unmap_req *u)
{
	return in->traps.area && u->addr == in->traps.area;
}

static addr_t data_at(const struct injection *in, size_t off)
{
	return in->traps.area + TRAP_AREA_SIZE + off;
}

static addr_t scratch_at(const struct injection *in, unsigned sig)
{
	return data_at(in, offsetof(struct trap_data, scratch) + (sig - 1) * sizeof(struct trap_action));
}

static struct uerr *no_data(struct injection *in)
{
	return uerr_new(UERR_FAILED, "process %d (%s): the data of breakpoints at 0x%lx is not there", in->t.pid,
			in->t.comm, in->traps.area);
}

static bool is_ours(const struct injection *in, const struct trap_action *act)
{
	return act->handler - in->traps.area < TRAP_CODE_SIZE;
}

/* ------------------------------------------------------------ the calls */

/* The actions of all signals, into the scratch area and RET. */
static struct uerr *read_actions(struct injection *in, struct remote *r, struct trap_action ret[TRAP_SIGNALS])
{
	struct remote_op ops[TRAP_SIGNALS];
	struct uerr *err;

	for (unsigned sig = 1; sig <= TRAP_SIGNALS; sig++)
		ops[sig - 1] = REMOTE_OP(SYS_rt_sigaction, sig, 0, scratch_at(in, sig), 8);
	err = remote_batch(r, in->batch_code, ops, TRAP_SIGNALS, -1);
	if (err)
		return err;
	if (remote_read(&in->t, scratch_at(in, 1), ret, TRAP_SIGNALS * sizeof(*ret)))
		return no_data(in);
	for (unsigned i = 0; i < TRAP_SIGNALS; i++)
		if (ops[i].ret)
			ret[i] = (struct trap_action){};
	return NULL;
}

static struct uerr *read_action(struct injection *in, struct remote *r, unsigned sig, struct trap_action *ret)
{
	s64 got;
	struct uerr *err = REMOTE_CALL(r, &got, SYS_rt_sigaction, sig, 0, scratch_at(in, sig), 8);

	if (!err && (got || remote_read(&in->t, scratch_at(in, sig), ret, sizeof(*ret))))
		err = no_data(in);
	return err;
}

static struct uerr *write_action(struct injection *in, struct remote *r, unsigned sig, const struct trap_action *act)
{
	struct uerr *err;
	s64 got;

	if (remote_write(&in->t, scratch_at(in, sig), act, sizeof(*act)))
		return no_data(in);
	err = REMOTE_CALL(r, &got, SYS_rt_sigaction, sig, scratch_at(in, sig), 0, 8);
	if (!err && got)
		err = uerr_errno((int)-got, "process %d (%s): the handler of signal %u cannot be set", in->t.pid,
				 in->t.comm, sig);
	return err;
}

/* ----------------------------------------------------------- installing */

static bool blocks_trap(const struct thread *th)
{
	u64 mask;

	return ptrace(PTRACE_GETSIGMASK, th->tid, sizeof(mask), &mask) || mask & TRAP_SIG_BIT;
}

/* What must be so before there can be a breakpoint. A thread that blocks SIGTRAP can
 * be made not to; where all do, somebody waits for one to be sent. */
struct uerr *traps_prepare(struct injection *in)
{
	size_t blocked = 0, n = 0;

	if (!in->traps.area || in->traps.change != TRAPS_INSTALL)
		return NULL;
	vec_foreach(th, &in->t.threads) {
		if (th->gone || !th->stopped)
			continue;
		if (th->tgid != in->t.pid)
			return uerr_new(UERR_CANNOT_PROBE,
					"process %d (%s) shares its memory with process %d, whose SIGTRAP is its own: there "
					"can be no breakpoints", in->t.pid, in->t.comm, th->tgid);
		n++;
		blocked += blocks_trap(th);
	}
	if (blocked < n && blocked <= TRAP_BLOCKERS)
		return NULL;
	return uerr_new(UERR_CANNOT_PROBE,
			"process %d (%s): %s of its threads block SIGTRAP, so that a breakpoint would kill it", in->t.pid,
			in->t.comm, blocked < n ? "too many" : "all");
}

/* The signal mask of TH; of the thread that makes our calls, the one that it will have. */
static bool get_mask(const struct remote *r, const struct thread *th, u64 *ret)
{
	if (th->gone || !th->stopped)
		return false;
	*ret = r->saved_mask;
	return th == r->th || !ptrace(PTRACE_GETSIGMASK, th->tid, sizeof(*ret), ret);
}

static void set_mask(struct remote *r, const struct thread *th, u64 mask)
{
	if (th == r->th)
		r->saved_mask = mask;
	else
		ptrace(PTRACE_SETSIGMASK, th->tid, sizeof(mask), &mask); /* fails for one that is killed */
}

/* Threads that block SIGTRAP, into the data, so that it is known whatever becomes of
 * us; then they do not any more. */
static struct uerr *unblock_threads(struct injection *in, struct remote *r)
{
	cleanup_free u32 *tids = calloc(TRAP_BLOCKERS, sizeof(*tids));
	u32 n = 0;
	u64 mask;

	if (!tids)
		return uerr_nomem();
	vec_foreach(th, &in->t.threads) {
		struct task_status st;

		if (n < TRAP_BLOCKERS && get_mask(r, th, &mask) && mask & TRAP_SIG_BIT &&
		    task_status_read(in->t.pid, th->tid, &st))
			tids[n++] = (u32)st.ns_tid;
	}
	if (remote_write(&in->t, data_at(in, offsetof(struct trap_data, blockers)), tids, TRAP_BLOCKERS * sizeof(*tids)) ||
	    remote_write(&in->t, data_at(in, offsetof(struct trap_data, nblockers)), &n, sizeof(n)))
		return no_data(in);
	vec_foreach(th, &in->t.threads)
		if (get_mask(r, th, &mask) && mask & TRAP_SIG_BIT)
			set_mask(r, th, mask & ~TRAP_SIG_BIT);
	return NULL;
}

/* Those that DATA says believe that they block it. */
static void block_threads(struct injection *in, struct remote *r, const struct trap_data *data)
{
	struct task_status st;
	bool any = false;
	u64 mask;

	for (u32 i = 0; i < TRAP_BLOCKERS; i++)
		any = any || data->blockers[i];
	vec_foreach(th, &in->t.threads) {
		if (!any || !get_mask(r, th, &mask) || !task_status_read(in->t.pid, th->tid, &st))
			continue;
		for (u32 i = 0; i < TRAP_BLOCKERS; i++)
			if (data->blockers[i] == (u32)st.ns_tid) {
				set_mask(r, th, mask | TRAP_SIG_BIT);
				break;
			}
	}
}

static struct uerr *remember(struct injection *in, const struct trap_action *now, u64 masked)
{
	struct trap_data data = { .next = 1, .masked = masked };

	data.actions[0] = *now;
	if (remote_write(&in->t, data_at(in, 0), &data, offsetof(struct trap_data, scratch)))
		return no_data(in);
	return NULL;
}

static struct uerr *unmask_handlers(struct injection *in, struct remote *r, const struct trap_action *acts, u64 which)
{
	struct uerr *err = NULL;

	for (unsigned sig = 1; !err && sig <= TRAP_SIGNALS; sig++) {
		struct trap_action act = acts[sig - 1];

		act.mask &= ~TRAP_SIG_BIT;
		if (which >> (sig - 1) & 1)
			err = write_action(in, r, sig, &act);
	}
	return err;
}

static struct uerr *verify(struct injection *in, struct remote *r)
{
	struct trap_action act;
	struct uerr *err = read_action(in, r, SIGTRAP, &act);

	if (err)
		return err;
	in->traps.lost = !is_ours(in, &act);
	if (in->traps.lost)
		return uerr_new(UERR_CANNOT_PROBE,
				"process %d (%s) has a handler of SIGTRAP that is not ours, though breakpoints of ours are in "
				"it", in->t.pid, in->t.comm);
	return NULL;
}

struct uerr *traps_install(struct injection *in, struct remote *r)
{
	struct trap_action acts[TRAP_SIGNALS], ours = { .handler = in->traps.area + in->traps.enter,
							.restorer = in->traps.area + in->traps.leave, .mask = ~0ull };
	struct uerr *err;
	u64 masked = 0;

	if (in->traps.change == TRAPS_CHECK)
		return verify(in, r);
	err = read_actions(in, r, acts);
	if (err)
		return err;
	/* An area that was about to go: what the application believes in is in it. */
	if (is_ours(in, &acts[SIGTRAP - 1]))
		return NULL;
	for (unsigned i = 0; i < TRAP_SIGNALS; i++)
		if (i != SIGTRAP - 1 && acts[i].handler > 1 && acts[i].mask & TRAP_SIG_BIT)
			masked |= 1ull << i;
	ours.flags = trap_flags(&acts[SIGTRAP - 1]);
	in->traps.gone = false;
	err = remember(in, &acts[SIGTRAP - 1], masked);
	if (!err)
		err = write_action(in, r, SIGTRAP, &ours);
	in->traps.installed = !err;
	if (!err)
		err = unmask_handlers(in, r, acts, masked);
	if (!err)
		err = unblock_threads(in, r);
	return err ? err : verify(in, r);
}

/* ---------------------------------------------------------------- going */

/* A thread in a hook may be about to change what the application believes in. One that
 * has left it by a jump is inside for ever: it is not waited for in the end. */
static bool is_entered(struct injection *in)
{
	vec_foreach(u, &in->unmaps)
		if (!u->done && u->entered && u->entered(u->arg))
			return in->traps.looks++ < LOOKS;
	return false;
}

void traps_look(struct injection *in)
{
	bool due = in->traps.area && in->traps.change == TRAPS_GO && !in->traps.gone;

	in->traps.quiet = true;
	vec_foreach(th, &in->t.threads) {
		if (!in->traps.area || th->gone || !th->stopped)
			continue;
		if (th->regs.rip - in->traps.area < TRAP_CODE_SIZE)
			in->traps.quiet = false;
		due = due && !thread_has_trap(th);
	}
	in->traps.due = due && in->traps.quiet && !is_entered(in);
}

/* Handlers that believe to block SIGTRAP, and are still there, do so again. */
static struct uerr *mask_handlers(struct injection *in, struct remote *r, u64 which)
{
	struct uerr *err = NULL;

	for (unsigned sig = 1; !err && sig <= TRAP_SIGNALS; sig++) {
		struct trap_action act;

		if (!(which >> (sig - 1) & 1) || sig == SIGTRAP)
			continue;
		err = read_action(in, r, sig, &act);
		if (err || act.handler <= 1 || act.mask & TRAP_SIG_BIT)
			continue;
		act.mask |= TRAP_SIG_BIT;
		err = write_action(in, r, sig, &act);
	}
	return err;
}

struct uerr *traps_uninstall(struct injection *in, struct remote *r)
{
	struct trap_action act;
	struct trap_data data;
	struct uerr *err;

	/* data goes behind the handler: who did that before us was killed in between */
	if (remote_read(&in->t, data_at(in, 0), &data, sizeof(data))) {
		in->traps.gone = true;
		return NULL;
	}
	err = read_action(in, r, SIGTRAP, &act);
	/* What the application has put in our place by itself is what it wants, and before
	 * we were there nothing has been changed. */
	if (!err && is_ours(in, &act)) {
		err = mask_handlers(in, r, data.masked);
		if (!err)
			err = write_action(in, r, SIGTRAP, &data.actions[data.now % TRAP_ACTIONS]);
	}
	if (!err)
		block_threads(in, r, &data);
	in->traps.gone = !err;
	return err;
}
