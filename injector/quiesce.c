/* SPDX-License-Identifier: MIT */
/*
 * Is anyone inside a range of our code, or will somebody come back to it? All
 * threads stand still while this looks. The instruction pointer alone says
 * little: a signal handler that runs on top of a trampoline has its way back on
 * the stack only, as has a function that a program called. So every word of
 * each thread's stack, from below the red zone to the end of the mapping that
 * holds it, is compared; a stale word that looks like an address of ours makes
 * the range look busy, and it stays mapped a little longer. Where the caller
 * counts who is inside, only words that point to what runs outside of the
 * counters matter (inject_unmap_counted), and of these only what a signal or a
 * call has put there: a thread that sleeps keeps words of earlier code, that lay
 * where this does now, for hours. What swapped to another stack altogether (a
 * coroutine) is counted by the caller's own test.
 */
#include "inject_priv.h"

#include <stdlib.h>
#include <sys/ptrace.h>

#include "base/cleanup.h"
#include "injector/arch_x86_64.h"
#include "injector/remote_call.h"
#include "injector/remote_mem.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#define RED_ZONE 128
#define CHUNK (256u << 10)
#define STACK_MAX (64ull << 20) /* more than this is not looked through: busy */
#define GO_SIGNAL_STACK (32u << 10)

struct range {
	addr_t lo, hi;
	u32 step; /* only every so many bytes; 0: all */
	bool counted;
};

static bool in_range(const struct range *r, u64 word)
{
	return word >= r->lo && word < r->hi && !(r->step && (word - r->lo) % r->step);
}

/* Does a call of ours (emit.c: put_call) end at AT? */
static bool is_behind_call(struct injection *in, addr_t at)
{
	u8 code[5];

	if (remote_read(&in->t, at - sizeof(code), code, sizeof(code)))
		return true; /* cannot be told */
	return code[0] == 0xe8 || (code[3] == 0xff && code[4] == 0xd0);
}

/* BUF[i] of N words of a stack. SIGNALS: only as the rip of a signal frame. */
static bool leads_in(struct injection *in, const struct range *r, bool signals, const u64 *buf, size_t n, size_t i)
{
	if (!in_range(r, buf[i]))
		return false;
	if (arch_is_saved_rip(buf, n, i))
		return true;
	return !signals && (!r->counted || is_behind_call(in, buf[i]));
}

static bool stack_has(struct injection *in, const struct thread *th, const struct range *r, bool signals, u64 *buf)
{
	const struct target_map *m = target_maps_find(&in->maps, th->regs.rsp);
	addr_t at = ALIGN_DOWN(th->regs.rsp - RED_ZONE, sizeof(u64)), hi;
	u64 bounds[2];

	if (!m)
		return true; /* cannot be told */
	if (at < m->lo)
		at = m->lo;
	hi = m->hi;
	/* Many stacks lie in one mapping of Go's: up to the end of the thread's
	 * own, which is that for signals when one has come while it was in our
	 * code. (For some instructions it is on that without Go's knowing.) */
	if (in->t.is_go && remote_go_stack(&in->t, th, bounds))
		hi = bounds[1] < hi ? bounds[1] : hi;
	else if (in->t.is_go && !m->stack && hi - at > GO_SIGNAL_STACK)
		hi = at + GO_SIGNAL_STACK;
	if (hi - at > STACK_MAX)
		return true;
	while (at < hi) {
		size_t want = hi - at < CHUNK ? hi - at : CHUNK;
		size_t got = remote_read_some(&in->t, at, buf, want);

		for (size_t i = 0; i < got / sizeof(*buf); i++)
			if (leads_in(in, r, signals, buf, got / sizeof(*buf), i))
				return true;
		if (got < want)
			return true;
		at += got;
	}
	return false;
}

/* A restartable sequence of ours still announced: the kernel reads it. */
static bool rseq_in(struct injection *in, const struct thread *th, const struct range *r)
{
	struct {
		u64 ptr;
		u32 size, sig, flags, pad;
	} conf = {};
	u64 cs, desc[4];

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, th->tid, sizeof(conf), &conf) <= 0 || !conf.ptr)
		return false;
	if (remote_read(&in->t, conf.ptr + 8, &cs, sizeof(cs)) || !cs)
		return false;
	if (in_range(r, cs))
		return true;
	return !remote_read(&in->t, cs, desc, sizeof(desc)) && (in_range(r, desc[1]) || in_range(r, desc[3]));
}

static bool nobody_in(struct injection *in, struct range r, struct range words, bool signals)
{
	cleanup_free u64 *buf = malloc(CHUNK);

	if (!buf)
		return false;
	vec_foreach(th, &in->t.threads) {
		if (th->gone || !th->stopped)
			continue;
		if (in_range(&r, th->regs.rip) || in_range(&r, th->regs.rsp) || rseq_in(in, th, &r) ||
		    stack_has(in, th, &words, signals, buf))
			return false;
	}
	return true;
}

bool quiesce_is_empty(struct injection *in, const struct unmap_req *u)
{
	struct range words = { .lo = u->lo, .hi = u->hi, .counted = u->is_counted };

	return nobody_in(in, (struct range){ u->addr, u->addr + u->size }, words, false);
}

bool quiesce_routine_empty(struct injection *in)
{
	struct range r = { in->batch_code, in->batch_code + remote_batch_code_size() };

	return !in->stray || nobody_in(in, r, r, false);
}

/* A stub pushes nothing: a stack can only hold its address where a signal came. */
bool quiesce_gate_empty(struct injection *in, const struct gate *g)
{
	return nobody_in(in, (struct range){ g->lo, g->hi }, (struct range){ g->lo, g->hi }, false);
}

/* Slots have got their real addresses back (cells.c), so what else lies on a stack and
 * looks like one of these is stale. */
bool quiesce_cell_stubs_empty(struct injection *in, const struct unmap_req *u)
{
	struct range r = { u->addr, u->addr + u->size };

	return nobody_in(in, r, r, true);
}

bool quiesce_stubs_entered(struct injection *in, addr_t lo, addr_t hi, u32 step)
{
	struct range r = { lo, hi, step };

	return !nobody_in(in, r, r, true);
}
