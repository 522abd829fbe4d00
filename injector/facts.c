/* SPDX-License-Identifier: MIT */
/*
 * What the trampolines need to know about a process. Each thread is stopped by
 * itself, for the time of two ptrace calls; the others run. Where its id stands
 * in thread-local memory is found by looking for it: an offset from fs_base at
 * which every thread has its own id (glibc 0x2d0, musl 0x30, Go -72).
 */
#include "inject_priv.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "injector/remote_mem.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#define SCAN_LO (-2048)
#define SCAN_HI 4096
#define SCAN_WORDS ((SCAN_HI - SCAN_LO) / 4)
#define RSEQ_SIG 0x53053053u
#define STACK_MAX (1ull << 30)

struct seen {
	pid_t ns_tid;
	bool leader;
	addr_t fs_base, rsp, rseq;
	u32 rseq_sig;
};

struct survey {
	VEC(struct seen) threads;
	u32 denied; /* by a filter of any of them */
};

static void look_at(struct injection *in, struct thread *th, struct survey *s)
{
	struct {
		u64 ptr;
		u32 size, sig, flags, pad;
	} conf = {};
	struct seen seen = { .fs_base = th->regs.fs_base, .rsp = th->regs.rsp, .leader = th->tid == in->t.pid };
	struct task_status st;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, th->tid, sizeof(conf), &conf) > 0) {
		seen.rseq = conf.ptr;
		seen.rseq_sig = conf.sig;
	}
	if (in->t.seccomp)
		s->denied |= seccomp_denied(in, th);
	tracee_detach(&in->t, th);
	if (!task_status_read(in->t.pid, th->tid, &st))
		return; /* it has ended meanwhile */
	seen.ns_tid = st.ns_tid;
	(void)vec_push(&s->threads, seen);
}

static struct uerr *survey_threads(struct injection *in, struct survey *s)
{
	struct tracee *t = &in->t;
	struct uerr *err = tracee_list(t);

	for (size_t i = 0; i < t->threads.n && !err; i++) {
		err = tracee_stop_one(t, &t->threads.data[i]);
		if (!err && t->threads.data[i].stopped)
			look_at(in, &t->threads.data[i], s);
	}
	tracee_release(t);
	if (!err && !s->threads.n)
		err = uerr_new(UERR_NO_TARGET, "process %d (%s) is gone", t->pid, t->comm);
	return err;
}

/* Reads as much of the scanned area as is mapped around fs_base. */
static void read_area(struct tracee *t, addr_t fs_base, u32 *words)
{
	memset(words, 0, SCAN_WORDS * sizeof(*words));
	remote_read_some(t, fs_base, words + -SCAN_LO / 4, SCAN_HI);
	if (remote_read(t, fs_base + SCAN_LO, words, -SCAN_LO)) {
		addr_t page = ALIGN_DOWN(fs_base, PAGE);
		u64 below = fs_base - page; /* the part on the same page */

		if (below < (u64)-SCAN_LO)
			remote_read_some(t, page, (char *)words + -SCAN_LO - below, below);
	}
}

static s64 best_offset(const bool *ok)
{
	static const s64 known[] = { 0x2d0, 0x30, -72 };
	s64 best = 0;

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (ok[(known[i] - SCAN_LO) / 4])
			return known[i];
	for (int i = 0; i < SCAN_WORDS; i++) {
		s64 off = SCAN_LO + i * 4;

		if (ok[i] && off && (!best || llabs(off) < llabs(best)))
			best = off;
	}
	return best;
}

static s64 find_tid_off(struct injection *in, const struct survey *s)
{
	static u32 words[SCAN_WORDS];
	bool ok[SCAN_WORDS];
	size_t used = 0;

	memset(ok, 1, sizeof(ok));
	vec_foreach(th, &s->threads) {
		if (!th->fs_base || th->fs_base & 3)
			return 0;
		read_area(&in->t, th->fs_base, words);
		for (int i = 0; i < SCAN_WORDS; i++)
			ok[i] &= words[i] == (u32)th->ns_tid;
		used++;
	}
	return used ? best_offset(ok) : 0;
}

static s64 find_rseq_off(const struct survey *s)
{
	s64 off = 0;

	vec_foreach(th, &s->threads) {
		s64 here = (s64)(th->rseq - th->fs_base);

		if (!th->rseq || th->rseq_sig != RSEQ_SIG || (off && here != off) || here != (s32)here)
			return 0;
		off = here;
	}
	return off;
}

static void find_main_stack(struct injection *in, struct inject_facts *f)
{
	struct rlimit lim = { .rlim_cur = 8 << 20 };
	addr_t prev = 0;

	prlimit(in->t.pid, RLIMIT_STACK, NULL, &lim);
	vec_foreach(m, &in->maps.v) {
		if (m->vdso)
			f->vdso = m->lo;
		if (m->stack) {
			u64 size = lim.rlim_cur > STACK_MAX ? STACK_MAX : lim.rlim_cur;

			size = ALIGN_DOWN(size, PAGE);
			f->main_stack_hi = m->hi;
			f->main_stack_lo = m->hi - prev > size ? m->hi - size : prev;
			if (f->main_stack_lo > m->lo)
				f->main_stack_lo = m->lo;
		}
		prev = m->hi;
	}
}

/* A thread's own stack: where both its descriptor and its stack pointer are.
 * On another stack (a coroutine, a handler's) nothing is recorded. */
static void own_stack(struct injection *in, const struct seen *s, struct inject_thread *ret)
{
	const struct inject_facts *f = &in->facts;
	const struct target_map *m = target_maps_find(&in->maps, s->fs_base);

	*ret = (struct inject_thread){ .tid = s->ns_tid };
	if (s->leader) {
		ret->stack_lo = f->main_stack_lo;
		ret->stack_hi = f->main_stack_hi;
	} else if (!in->t.is_go && m && m->w && !m->shared && !m->ino && s->rsp >= m->lo && s->rsp < s->fs_base) {
		/* Not further up than the descriptor: another mapping of the
		 * application may have been merged with this one. */
		ret->stack_lo = m->lo;
		ret->stack_hi = ALIGN_UP(s->fs_base + 1, PAGE) < m->hi ? ALIGN_UP(s->fs_base + 1, PAGE) : m->hi;
	}
}

static struct uerr *note_threads(struct injection *in, const struct survey *s)
{
	in->threads = calloc(s->threads.n, sizeof(*in->threads));
	if (!in->threads)
		return uerr_nomem();
	vec_foreach(th, &s->threads)
		own_stack(in, th, &in->threads[in->nthreads++]);
	return NULL;
}

struct uerr *facts_collect(struct injection *in)
{
	struct inject_facts *f = &in->facts;
	struct survey s = {};
	struct task_status st;
	struct uerr *err;

	f->ns_tgid = task_status_read(in->t.pid, in->t.pid, &st) ? st.ns_tgid : in->t.pid;
	err = survey_threads(in, &s);
	if (!err)
		err = inject_refresh_maps(in);
	if (!err) {
		f->starttime = in->t.starttime;
		f->seccomp = in->t.seccomp;
		f->denied = s.denied;
		f->nthreads = (u32)s.threads.n;
		f->tid_off = find_tid_off(in, &s);
		f->rseq_off = find_rseq_off(&s);
		find_main_stack(in, f);
		err = note_threads(in, &s);
	}
	vec_free(&s.threads);
	in->have_facts = !err;
	return err;
}
