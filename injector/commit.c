/* SPDX-License-Identifier: MIT */
/*
 * The window: all threads stand still, and between their stop and their release
 * nothing is computed that could have been computed before. What needs memory
 * gets it in a stop of its own, ahead of the change: two short ones are felt
 * less than a long one.
 *
 *	running   maps, pages, old bytes; journal: what is about to be written
 *	stopped   map what is shared                  fails: let go, refuse
 *	running   fill private pages
 *	stopped   every thread off the windows?       no: let go, try again
 *	          old bytes still there?              no: let go, refuse
 *	          move threads, then write pages (in this order: a thread that was
 *	          moved is right with either text, one left inside is not)
 *	          give pages back, unmap what is empty
 *	running   journal: what is now true
 *	          what could not be unmapped: again, a few times
 */
#include "inject_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/cells.h"
#include "base/cleanup.h"
#include "injector/remote_mem.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define CLEAR_TRIES 20  /* for threads to leave the windows and to be able to make calls */
#define UNMAP_TRIES 6  /* for code to become empty: 1+2+4+… ms between */

struct window_state {
	struct inject_stats stats;
	struct user_regs_struct *moved;
	bool *is_moved;
	size_t nmoved;
	bool patched; /* text is as it shall be */
	const char *why;
};

static void nap_ms(unsigned ms)
{
	struct timespec ts = { 0, ms * 1000000l };

	nanosleep(&ts, NULL);
}

/* ------------------------------------------------------------- journal */

static struct uerr *journal_intent(struct injection *in)
{
	struct uerr *err;

	vec_foreach(s, &in->shares) {
		struct journal_range r = { .kind = RANGE_MEMFD, .addr = s->addr, .size = s->size,
					   .inode = s->inode };

		journal_range(&in->journal, &r);
	}
	vec_foreach(p, &in->set.patches) {
		struct journal_site s = { .addr = p->addr, .len = p->len, .file_dev = p->file_dev,
					  .file_ino = p->file_ino, .file_off = p->file_off, .link = p->link };

		/* A site that is about to be restored is in the journal already. */
		if (p->restore)
			continue;
		memcpy(s.old_bytes, p->old_bytes, p->len);
		memcpy(s.new_bytes, p->new_bytes, p->len);
		journal_site(&in->journal, &s);
	}
	err = semas_prepare(in);
	return err ? err : journal_flush(&in->journal);
}

static void journal_sites_done(struct injection *in, bool patched)
{
	vec_foreach(p, &in->set.patches) {
		if (patched && !p->restore)
			journal_site_active(&in->journal, p->addr);
		else if (patched)
			journal_site_gone(&in->journal, p->addr);
		else if (!p->restore)
			journal_site_reverted(&in->journal, p->addr);
	}
	semas_journal(in, patched);
}

/* -------------------------------------------------------- in the window */

static struct uerr *do_pokes(struct injection *in)
{
	vec_foreach(p, &in->pokes) {
		int err = remote_write(&in->t, p->addr, p->bytes, p->len);

		if (err)
			return uerr_errno(err, "process %d (%s): cannot write to a page of ours", in->t.pid,
					  in->t.comm);
	}
	return NULL;
}

static int by_stub_addr(const void *a, const void *b)
{
	const struct stub_write *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static struct uerr *cannot_write_page(struct injection *in, int err)
{
	return uerr_errno(err, "process %d (%s): cannot write to a page of ours", in->t.pid, in->t.comm);
}

static struct uerr *add_stub_page(struct injection *in, addr_t addr)
{
	struct stub_page_write *page;
	int err;

	if (!vec_push(&in->stub_pages, (struct stub_page_write){ .addr = addr }))
		return uerr_nomem();
	page = &in->stub_pages.data[in->stub_pages.n - 1];
	err = remote_read(&in->t, addr, page->old, PAGE);
	memcpy(page->new, page->old, PAGE);
	return err ? cannot_write_page(in, err) : NULL;
}

/* While it runs: nobody but us writes to these pages. */
static struct uerr *prepare_stubs(struct injection *in)
{
	struct uerr *err = NULL;

	in->stub_pages.n = 0;
	if (in->stubs.n)
		qsort(in->stubs.data, in->stubs.n, sizeof(*in->stubs.data), by_stub_addr);
	vec_foreach(s, &in->stubs) {
		addr_t page = ALIGN_DOWN(s->addr, PAGE);

		if (!in->stub_pages.n || in->stub_pages.data[in->stub_pages.n - 1].addr != page)
			err = add_stub_page(in, page);
		if (err)
			return err;
		memcpy(in->stub_pages.data[in->stub_pages.n - 1].new + (s->addr - page), s->bytes, s->len);
	}
	return NULL;
}

/* Before any text leads there: a jump to a stub that is not there yet would be the
 * end, and this process may be killed at any point. */
static struct uerr *write_stubs(struct injection *in, const struct thread *th)
{
	vec_foreach(p, &in->stub_pages) {
		int err;

		p->written = true;
		err = remote_write_text(&in->t, th, p->addr, p->new, p->old, PAGE);
		if (err)
			return cannot_write_page(in, err);
	}
	return NULL;
}

static void unwrite_stubs(struct injection *in, const struct thread *th)
{
	for (size_t i = in->stub_pages.n; i-- > 0;) {
		struct stub_page_write *p = &in->stub_pages.data[i];

		if (p->written)
			(void)remote_write_text(&in->t, th, p->addr, p->old, p->new, PAGE);
		p->written = false;
	}
}

/* *again: no thread can make calls just now. */
static struct uerr *with_calls(struct injection *in, struct uerr *(*fn)(struct injection *in, struct remote *r),
			       bool *again)
{
	struct thread *th;
	struct remote r;
	struct uerr *err = inject_pick_stopped(in, &th);

	*again = !th;
	if (err)
		return err;
	err = remote_begin(&r, &in->t, th, &in->gadgets);
	if (!err) {
		err = fn(in, &r);
		in->stray = in->stray || !r.active;
	}
	remote_end(&r);
	return err;
}

static void move_threads(struct injection *in, struct window_state *w)
{
	for (size_t i = 0; i < in->t.threads.n; i++) {
		if (!w->is_moved[i])
			continue;
		if (!thread_set_regs(&in->t.threads.data[i], &w->moved[i]))
			continue; /* killed: it goes nowhere */
		w->stats.moved++;
	}
}

static struct thread *any_stopped(struct injection *in)
{
	vec_foreach(th, &in->t.threads)
		if (th->stopped && !th->gone && th->tgid == in->t.pid)
			return th;
	return NULL;
}

/* Is somebody on a stub that no text leads to? He enters a trampoline next. */
static bool mark_stubs(struct injection *in, bool *empty)
{
	bool left = false;

	for (size_t i = 0; i < in->unmaps.n; i++) {
		struct unmap_req *u = &in->unmaps.data[i];

		if (u->done || !u->is_stubs)
			continue;
		empty[i] = quiesce_is_empty(in, u);
		left |= !empty[i];
	}
	vec_foreach(g, &in->gates)
		left = left || !quiesce_gate_empty(in, g);
	return left || (in->traps.area && !in->traps.quiet);
}

static bool is_cell_stubs(const struct injection *in, const struct unmap_req *u)
{
	return in->cells && u->addr == in->cells - CELL_STUBS_SIZE;
}

/* Is everything that is still mapped free of threads? Decided for all ranges
 * before the first is unmapped. Data goes only when all code has gone, and code
 * when nobody is on his way into it. */
static void mark_empty(struct injection *in, bool *empty)
{
	bool on_stub = !in->cells_ready, code_left;

	on_stub = mark_stubs(in, empty) || on_stub;
	code_left = on_stub;
	for (size_t i = 0; i < in->unmaps.n; i++) {
		struct unmap_req *u = &in->unmaps.data[i];

		if (u->done || !u->is_code || u->is_stubs || is_cell_stubs(in, u) || traps_is_area(in, u))
			continue;
		empty[i] = !on_stub && !(u->entered && u->entered(u->arg)) && quiesce_is_empty(in, u);
		code_left |= !empty[i];
	}
	/* Other code leads to the stubs of cells, and to what the hooks of breakpoints call. */
	for (size_t i = 0; i < in->unmaps.n; i++) {
		struct unmap_req *u = &in->unmaps.data[i];

		if (u->done || (!is_cell_stubs(in, u) && !traps_is_area(in, u)))
			continue;
		if (is_cell_stubs(in, u))
			empty[i] = !code_left && quiesce_cell_stubs_empty(in, u);
		else
			empty[i] = !code_left && in->traps.gone && !(u->entered && u->entered(u->arg));
		code_left |= !empty[i];
	}
	for (size_t i = 0; i < in->unmaps.n; i++) {
		struct unmap_req *u = &in->unmaps.data[i];

		if (u->done || u->is_code || code_left || (u->entered && u->entered(u->arg)))
			continue;
		empty[i] = true;
	}
}

static void note_unmapped(struct injection *in, const struct remote_op *op)
{
	vec_foreach(u, &in->unmaps)
		if (!op->ret && u->addr - op->args[0] < op->args[1])
			u->done = true;
}

/* What is empty and of this kind, neighbours in one: each munmap has to be told
 * to every CPU that the process has run on. */
static size_t collect_unmaps(struct injection *in, const bool *empty, bool code, struct remote_op *ops)
{
	size_t n = 0;

	for (size_t i = 0; i < in->unmaps.n; i++) {
		const struct unmap_req *u = &in->unmaps.data[i];

		if (!empty[i] || u->is_code != code)
			continue;
		if (n && ops[n - 1].args[0] + ops[n - 1].args[1] == u->addr)
			ops[n - 1].args[1] += u->size;
		else
			ops[n++] = REMOTE_OP(SYS_munmap, u->addr, u->size);
	}
	return n;
}

/* Pages locked in memory are dropped by another name; a failure costs 4 KiB a
 * page, nothing else. */
static struct uerr *drop_locked(struct injection *in, struct remote *r, struct remote_op *ops, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n; i++)
		if (ops[i].ret == -EINVAL)
			ops[k++] = REMOTE_OP(SYS_madvise, ops[i].args[0], ops[i].args[1], MADV_DONTNEED_LOCKED);
	return remote_batch(r, in->batch_code, ops, k, -1);
}

/* What was ours for good: pages of text that equal the file again, and data, in
 * one go; then code, where the routine for that lies, one by one. */
static struct uerr *give_back(struct injection *in, struct remote *r, const bool *empty)
{
	size_t npages = in->set.pages.n, n;
	cleanup_free struct remote_op *ops = calloc(npages + in->unmaps.n + 1, sizeof(*ops));
	struct uerr *err;

	if (!ops)
		return uerr_nomem();
	npages = patch_give_back(in, ops);
	n = npages + collect_unmaps(in, empty, false, ops + npages);
	err = remote_batch(r, in->batch_code, ops, n, -1);
	for (size_t i = 0; i < n && !err; i++)
		if (i >= npages)
			note_unmapped(in, &ops[i]);
	if (!err)
		err = drop_locked(in, r, ops, npages);
	if (err)
		return err;
	n = collect_unmaps(in, empty, true, ops);
	err = remote_batch(r, 0, ops, n, -1);
	for (size_t i = 0; i < n && !err; i++)
		note_unmapped(in, &ops[i]);
	return err;
}

static struct uerr *clean_up(struct injection *in, struct remote *r)
{
	cleanup_free bool *empty = calloc(in->unmaps.n + 1, sizeof(*empty));
	struct uerr *err;

	if (!empty)
		return uerr_nomem();
	if (in->traps.due) {
		err = traps_uninstall(in, r);
		if (err)
			return err;
	}
	/* While threads[x] makes calls, its own registers are in r->saved; its
	 * th->regs still hold them, which is what counts here. */
	mark_empty(in, empty);
	return give_back(in, r, empty);
}

static bool unmaps_left(const struct injection *in)
{
	for (size_t i = 0; i < in->unmaps.n; i++)
		if (!in->unmaps.data[i].done)
			return true;
	return false;
}

static bool wants_memory(const struct injection *in)
{
	bool private = false;

	vec_foreach(p, &in->placed)
		private |= p->kind == RANGE_PRIVATE && !p->committed;
	return private || in->shares.n;
}

/* All that is done in a stop. *again: it may work after a while. */
typedef struct uerr *stop_fn(struct injection *in, struct window_state *w, bool *again);

static struct uerr *hand_over(struct injection *in, struct window_state *w, bool *again)
{
	return with_calls(in, share_map_all, again);
}

static struct uerr *change_text(struct injection *in, struct window_state *w, bool *again)
{
	struct thread *th;
	struct uerr *err;
	bool later;

	*again = false;
	if (!patch_threads_clear(in, w->moved, w->is_moved, &w->why)) {
		*again = true;
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s): %s", in->t.pid, in->t.comm, w->why);
	}
	err = traps_prepare(in);
	*again = err;
	if (!err && in->traps.area && in->traps.change == TRAPS_CHECK)
		err = with_calls(in, traps_install, again);
	if (!err && in->set.patches.n)
		err = patch_verify(in);
	if (err)
		return err;
	th = any_stopped(in);
	if (!th)
		return uerr_new(UERR_NO_TARGET, "process %d (%s) is gone", in->t.pid, in->t.comm);
	err = write_stubs(in, th);
	if (!err && in->traps.area && in->traps.change == TRAPS_INSTALL)
		err = with_calls(in, traps_install, again);
	if (!err)
		err = semas_raise(in);
	if (!err) {
		move_threads(in, w);
		err = patch_write(in, th);
		/* what was moved is right where it is, and may be there for a while */
		in->stray = in->stray || (err && w->stats.moved);
	}
	if (!err) {
		semas_lower(in);
		return NULL;
	}
	if (in->torn)
		return err; /* text may lead anywhere of ours: all of that stays, and the journal says so */
	semas_unraise(in);
	if (in->traps.installed) {
		uerr_free(with_calls(in, traps_uninstall, &later));
		in->torn = !in->traps.gone;
	}
	if (!in->torn) /* else the handler has to stay, and what it leads to */
		unwrite_stubs(in, th);
	return err;
}

static struct uerr *room_for_threads(struct injection *in, struct window_state *w)
{
	size_t n = in->t.threads.n;

	if (n <= w->nmoved)
		return NULL;
	free(w->moved);
	free(w->is_moved);
	w->moved = calloc(n, sizeof(*w->moved));
	w->is_moved = calloc(n, sizeof(*w->is_moved));
	w->nmoved = n;
	return w->moved && w->is_moved ? NULL : uerr_nomem();
}

static void count_stop(struct injection *in, struct window_state *w)
{
	u64 ns = now_ns() - in->t.stop_ns;
	u32 n = 0;

	w->stats.stops++;
	/* The worst stop counts, not the sum: they are apart. */
	if (ns > w->stats.stopped_ns)
		w->stats.stopped_ns = ns;
	vec_foreach(th, &in->t.threads)
		n += !th->gone;
	if (n > w->stats.nthreads)
		w->stats.nthreads = n;
}

/* Text first, unless an earlier stop has changed it; then what can go. */
static struct uerr *change(struct injection *in, struct window_state *w, bool *again)
{
	cleanup_uerr struct uerr *ignored = NULL;
	struct uerr *err = in->unmaps.n ? inject_refresh_maps(in) : NULL;
	bool later;

	if (!err)
		err = room_for_threads(in, w);
	if (!err && !w->patched) {
		err = change_text(in, w, again);
		w->patched = !err;
	}
	if (!err && unmaps_left(in))
		in->cells_ready = cells_settle(in); /* before a thread makes calls: it may move it */
	if (!err && (unmaps_left(in) || patch_wants_give_back(in)) && quiesce_routine_empty(in)) {
		traps_look(in);
		ignored = with_calls(in, clean_up, &later);
	}
	return err;
}

/* One stop of all threads. */
static struct uerr *one_stop(struct injection *in, struct window_state *w, stop_fn *fn, bool *again)
{
	struct uerr *err;

	*again = false;
	err = tracee_check_alive(&in->t);
	if (!err)
		err = tracee_seize_all(&in->t);
	if (err) {
		tracee_release(&in->t);
		return err;
	}
	tracee_hurry(&in->t);
	err = tracee_stop_all(&in->t);
	if (!err)
		err = fn(in, w, again);
	count_stop(in, w);
	tracee_release(&in->t);
	tracee_hurry_end(&in->t);
	return err;
}

/* ----------------------------------------------------------- the commit */

/* As often as threads are in the way. */
static struct uerr *stop_until_done(struct injection *in, struct window_state *w, stop_fn *fn)
{
	struct uerr *err = NULL;
	bool again = true;

	for (int i = 0; i < CLEAR_TRIES && again; i++) {
		uerr_free(err);
		if (i)
			nap_ms(i < 5 ? 1u << (i - 1) : 16);
		err = one_stop(in, w, fn, &again);
	}
	return err;
}

static struct uerr *give_back_copies(struct injection *in, struct remote *r)
{
	cleanup_free struct remote_op *ops = calloc(in->set.pages.n, sizeof(*ops));
	struct uerr *err = ops ? patch_uncopy_verify(in) : uerr_nomem();
	size_t n = err ? 0 : patch_give_back(in, ops);

	if (!err)
		err = remote_batch(r, in->batch_code, ops, n, -1);
	return err ? err : drop_locked(in, r, ops, n);
}

static struct uerr *drop_copies(struct injection *in, struct window_state *w, bool *again)
{
	return with_calls(in, give_back_copies, again);
}

/* Nothing was changed: what was made ready for it goes, too. A failure costs 4 KiB a page. */
static void uncopy_pages(struct injection *in, struct window_state *w)
{
	cleanup_uerr struct uerr *ignored = NULL;

	patch_uncopy_prepare(in);
	ignored = stop_until_done(in, w, drop_copies);
}

/* After an error nothing has changed but ranges that nobody knows of yet. */
static struct uerr *run_change(struct injection *in, struct window_state *w)
{
	struct uerr *err = NULL;

	if (wants_memory(in))
		err = stop_until_done(in, w, hand_over);
	if (!err)
		err = do_pokes(in);
	if (err)
		return err;
	patch_copy_pages(in);
	err = stop_until_done(in, w, change);
	if (err && in->set.copied && !in->torn)
		uncopy_pages(in, w);
	return err;
}

/* Then what could not be unmapped in the first stop. */
static void run_unmaps(struct injection *in, struct window_state *w)
{
	bool again;

	for (int i = 0; i < UNMAP_TRIES && unmaps_left(in); i++) {
		cleanup_uerr struct uerr *err = NULL;

		nap_ms(1u << i);
		err = one_stop(in, w, change, &again);
		if (err)
			return;
	}
}

static void journal_unmaps(struct injection *in, struct window_state *w)
{
	vec_foreach(u, &in->unmaps) {
		if (u->done) {
			journal_range_gone(&in->journal, u->addr);
			vec_foreach(p, &in->placed)
				if (p->addr == u->addr)
					p->mapped = false;
		} else {
			journal_range_retired(&in->journal, u->addr);
			w->stats.retired++;
		}
	}
}

static struct uerr *commit(struct injection *in, struct window_state *w)
{
	cleanup_uerr struct uerr *late = NULL;
	struct uerr *err;

	err = inject_refresh_maps(in);
	if (!err)
		err = patch_prepare(in);
	if (!err)
		err = prepare_stubs(in);
	if (!err)
		err = journal_intent(in);
	if (err)
		return err;
	err = run_change(in, w);
	if (!in->torn)
		journal_sites_done(in, w->patched);
	if (err) {
		late = journal_flush(&in->journal);
		return err;
	}
	vec_foreach(p, &in->placed)
		p->committed = true;
	/* Said before the waiting begins. */
	late = journal_flush(&in->journal);
	run_unmaps(in, w);
	journal_unmaps(in, w);
	w->stats.lost = in->cells_lost;
	if (!late)
		late = journal_flush(&in->journal);
	if (late)
		return uerr_new(UERR_FAILED, "process %d (%s) is changed as asked, but %s", in->t.pid, in->t.comm,
				late->message);
	return NULL;
}

struct uerr *inject_commit(struct injection *in, struct inject_stats *ret)
{
	struct window_state w = {};
	struct uerr *err = commit(in, &w);

	free(w.moved);
	free(w.is_moved);
	inject_clear_work(in);
	if (in->alone_ns > w.stats.stopped_ns)
		w.stats.stopped_ns = in->alone_ns;
	if (!err && ret)
		*ret = w.stats;
	return err;
}
