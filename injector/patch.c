/* SPDX-License-Identifier: MIT */
/*
 * Changing text under threads that stand still.
 *
 * While the target runs, patches are sorted, grouped by page and compared with
 * memory. In the window: no thread may have its next instruction inside a
 * window that is about to be overwritten, nor may one come back into it:
 *
 *	addr        ┌──────────────┐
 *	            │ first insn   │ ◀─ rip here is fine: it takes the jump
 *	boundary ─▶ ├──────────────┤
 *	            │ second insn  │ ◀─ rip here goes on in the relocated copy
 *	            ├──────────────┤
 *	            │ syscall      │ ◀─ rip *behind* it, call to be restarted: the
 *	addr + len  └──────────────┘    kernel will step back by 2 bytes
 *
 * A rip saved in a signal frame that equals an inner boundary makes us wait and, if
 * it stays, refuse.
 *
 * Then pages are written whole, one write for a run of neighbouring pages:
 * 78,153 sites took 281 ms one by one and 20.7 ms by page.
 */
#include "inject_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "injector/arch_x86_64.h"
#include "injector/remote_mem.h"

#define RED_ZONE 128
#define STACK_SCAN (64u << 10)
#define PIECE 16       /* pages */
#define MANY_PAGES 16  /* from here on copies are made before the stop */

void patch_set_deinit(struct patch_set *set)
{
	set->patches.n = 0;
	vec_free(&set->patches);
	vec_free(&set->pages);
	vec_free(&set->interior);
	vec_free(&set->outside);
	free(set->old);
	free(set->new);
	free(set->file);
	set->old = set->new = set->file = NULL;
	set->copied = false;
}

/* ------------------------------------------------------------ preparing */

static int by_patch_addr(const void *a, const void *b)
{
	const struct patch *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static int by_value(const void *a, const void *b)
{
	const addr_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static struct uerr *check_mapping(struct injection *in, const struct patch *p)
{
	const struct target_map *m = target_maps_find(&in->maps, p->addr);

	if (!m || !m->x || p->addr + p->len + p->keep > m->hi)
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s): 0x%lx is not in its code", in->t.pid, in->t.comm,
				p->addr);
	if (m->shared)
		return uerr_new(UERR_CANNOT_PROBE,
				"process %d (%s): the code at 0x%lx is mapped shared, a change would reach its file",
				in->t.pid, in->t.comm, p->addr);
	return NULL;
}

static bool add_pages(struct patch_set *set, const struct patch *p)
{
	addr_t last = ALIGN_DOWN(p->addr + p->len + p->keep - 1, PAGE);

	for (addr_t at = ALIGN_DOWN(p->addr, PAGE); at <= last; at += PAGE) {
		struct text_page *page = set->pages.n ? &set->pages.data[set->pages.n - 1] : NULL;

		if (!page || page->addr != at) {
			if (!vec_push(&set->pages, (struct text_page){ .addr = at }))
				return false;
			page = &set->pages.data[set->pages.n - 1];
		}
		page->restore |= p->restore;
	}
	return true;
}

static bool add_interior(struct patch_set *set, const struct patch *p)
{
	for (int i = 0; i < p->nmoves; i++)
		if (p->moves[i].from > p->addr && p->moves[i].from < p->addr + p->len &&
		    !vec_push(&set->interior, p->moves[i].from))
			return false;
	return true;
}

static int by_from(const void *a, const void *b)
{
	const struct patch_move *x = a, *y = b;

	return x->from < y->from ? -1 : x->from > y->from;
}

static bool add_outside(struct patch_set *set, const struct patch *p)
{
	for (int i = 0; i < p->nmoves; i++)
		if ((p->moves[i].from < p->addr || p->moves[i].from >= p->addr + p->len) &&
		    !vec_push(&set->outside, p->moves[i]))
			return false;
	return true;
}

/* The patch's bytes in BUF, which holds the set's pages in order: PUT writes
 * those that change, GET reads those that are kept as well. */
static void each_byte(const struct patch_set *set, const struct patch *p, u8 *buf, u8 *put, u8 *get)
{
	size_t lo = 0, hi = set->pages.n;
	addr_t page = ALIGN_DOWN(p->addr, PAGE);

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (set->pages.data[mid].addr < page)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* A patch across two pages: they are neighbours here as well. */
	buf += lo * PAGE + (p->addr - page);
	if (put)
		memcpy(buf, put, p->len);
	if (get)
		memcpy(get, buf, p->len + p->keep);
}

/* Length in pages of the run of neighbours that starts at page I. */
static size_t run_length(const struct patch_set *set, size_t i)
{
	size_t n = 1;

	while (i + n < set->pages.n && set->pages.data[i + n].addr == set->pages.data[i].addr + n * PAGE)
		n++;
	return n;
}

static struct uerr *read_pages(struct injection *in)
{
	struct patch_set *set = &in->set;

	for (size_t i = 0, n; i < set->pages.n; i += n) {
		n = run_length(set, i);
		if (remote_read(&in->t, set->pages.data[i].addr, set->old + i * PAGE, n * PAGE))
			return uerr_new(UERR_CANNOT_PROBE, "process %d (%s): the code at 0x%lx cannot be read",
					in->t.pid, in->t.comm, set->pages.data[i].addr);
	}
	return NULL;
}

static struct uerr *mismatch(struct injection *in, const struct patch *p, const u8 *have)
{
	bool trap = false;

	for (u8 i = 0; i < p->len + p->keep; i++)
		trap |= have[i] == 0xcc && p->old_bytes[i] != 0xcc;
	return uerr_new(UERR_CANNOT_PROBE, "process %d (%s): at 0x%lx memory is not what %s says: %s", in->t.pid,
			in->t.comm, p->addr, p->restore ? "the journal" : "the file",
			trap ? "a breakpoint or a kernel uprobe stands there" : "somebody has changed it");
}

static struct uerr *compare_old(struct injection *in)
{
	struct patch_set *set = &in->set;
	u8 have[64];

	vec_foreach(p, &set->patches) {
		each_byte(set, p, set->old, NULL, have);
		if (memcmp(have, p->old_bytes, p->len + p->keep))
			return mismatch(in, p, have);
	}
	return NULL;
}

static void build_new(struct patch_set *set)
{
	memcpy(set->new, set->old, set->pages.n * PAGE);
	vec_foreach(p, &set->patches)
		each_byte(set, p, set->new, p->new_bytes, NULL);
}

static struct uerr *read_and_compare(struct injection *in)
{
	struct uerr *err = read_pages(in);

	if (!err)
		err = compare_old(in);
	if (!err)
		build_new(&in->set);
	return err;
}

/* Is memory still as it was read before? Pieces of it, so that they stay in the cache. */
static bool is_unchanged(struct injection *in)
{
	struct patch_set *set = &in->set;
	u8 have[PIECE * PAGE];

	for (size_t i = 0, n; i < set->pages.n; i += n) {
		n = run_length(set, i);
		if (n > PIECE)
			n = PIECE;
		if (remote_read(&in->t, set->pages.data[i].addr, have, n * PAGE) ||
		    memcmp(have, set->old + i * PAGE, n * PAGE))
			return false;
	}
	return true;
}

struct uerr *patch_verify(struct injection *in)
{
	return is_unchanged(in) ? NULL : read_and_compare(in);
}

static void read_file_page(struct injection *in, size_t i);

struct uerr *patch_prepare(struct injection *in)
{
	struct patch_set *set = &in->set;
	struct uerr *err;

	if (!set->patches.n)
		return NULL;
	set->pages.n = set->interior.n = set->outside.n = 0;
	qsort(set->patches.data, set->patches.n, sizeof(*set->patches.data), by_patch_addr);
	for (size_t i = 0; i < set->patches.n; i++) {
		struct patch *p = &set->patches.data[i];

		if (i && p[-1].addr + p[-1].len + p[-1].keep > p->addr)
			return uerr_new(UERR_USAGE, "patches at 0x%lx and 0x%lx overlap", p[-1].addr, p->addr);
		err = check_mapping(in, p);
		if (err)
			return err;
		if (!add_pages(set, p) || !add_interior(set, p) || !add_outside(set, p))
			return uerr_nomem();
	}
	if (set->outside.n)
		qsort(set->outside.data, set->outside.n, sizeof(*set->outside.data), by_from);
	if (set->interior.n)
		qsort(set->interior.data, set->interior.n, sizeof(addr_t), by_value);
	free(set->old);
	free(set->new);
	free(set->file);
	set->old = malloc(set->pages.n * PAGE);
	set->new = malloc(set->pages.n * PAGE);
	set->file = calloc(set->pages.n, PAGE);
	if (!set->old || !set->new || !set->file)
		return uerr_nomem();
	for (size_t i = 0; i < set->pages.n; i++)
		if (set->pages.data[i].restore)
			read_file_page(in, i);
	return read_and_compare(in);
}

/* ---------------------------------------------------------- the threads */

static const struct patch *patch_at(const struct patch_set *set, addr_t addr)
{
	size_t lo = 0, hi = set->patches.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct patch *p = &set->patches.data[mid];

		if (p->addr + p->len <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < set->patches.n && set->patches.data[lo].addr <= addr ? &set->patches.data[lo] : NULL;
}

static addr_t move_of(const struct patch *p, addr_t from)
{
	for (int i = 0; i < p->nmoves; i++)
		if (p->moves[i].from == from)
			return p->moves[i].to;
	return 0;
}

/* A system call in the window that will be made again: the kernel goes back to
 * rip - 2. So rip is set behind the copy of the syscall instruction, which is
 * right whether it is restarted or a handler makes it return. It stands directly
 * before what the next instruction became, hooks included, and a window never
 * ends with it. */
static bool move_restart(struct injection *in, const struct patch *p, struct user_regs_struct *regs)
{
	addr_t to = move_of(p, regs->rip);
	u8 insn[2];

	if (!to || remote_read(&in->t, to - 2, insn, sizeof(insn)) || insn[0] != 0x0f || insn[1] != 0x05)
		return false;
	regs->rip = to;
	return true;
}

/* A thread that waits in the copy of a system call, perhaps for ever, goes back
 * behind the system call itself. */
static void place_outside(const struct patch_set *set, struct user_regs_struct *regs)
{
	struct patch_move key = { .from = regs->rip }, *m = NULL;

	if (set->outside.n)
		m = bsearch(&key, set->outside.data, set->outside.n, sizeof(key), by_from);
	if (m)
		regs->rip = m->to;
}

/* Where shall the thread go on? False: it cannot be moved. */
static bool place_thread(struct injection *in, struct user_regs_struct *regs)
{
	const struct patch *p;
	addr_t to;

	if (arch_will_restart(regs)) {
		p = patch_at(&in->set, regs->rip - 2);
		if (p)
			return move_restart(in, p, regs);
	}
	p = patch_at(&in->set, regs->rip);
	if (!p)
		place_outside(&in->set, regs);
	if (!p || p->addr == regs->rip)
		return true;
	to = move_of(p, regs->rip);
	if (!to)
		return false;
	regs->rip = to;
	return true;
}

bool patch_is_inside(const struct patch_set *set, addr_t addr)
{
	return set->interior.n && addr >= set->interior.data[0] && addr <= set->interior.data[set->interior.n - 1] &&
	       bsearch(&addr, set->interior.data, set->interior.n, sizeof(addr_t), by_value);
}

/* A signal frame that leads inside of a window, or on whose way back lies what Go has
 * preempted there. */
static bool stack_holds_boundary(struct injection *in, const struct thread *th, u64 *buf)
{
	const struct patch_set *set = &in->set;
	const struct target_map *m = target_maps_find(&in->maps, th->regs.rsp);
	addr_t at = ALIGN_DOWN(th->regs.rsp - RED_ZONE, sizeof(u64));
	size_t len = STACK_SCAN, got;

	if (m && at < m->lo)
		at = m->lo;
	if (m && m->hi - at < len)
		len = m->hi - at;
	got = remote_read_some(&in->t, at, buf, len);
	for (size_t i = 1; i < got / sizeof(*buf); i++) {
		bool inside = patch_is_inside(set, buf[i]);

		if ((inside || in->go.list) && arch_is_saved_rip(buf, got / sizeof(*buf), i) &&
		    (inside || goroutines_preempted_inside(in, buf[i - 1], buf[i]))) /* rsp lies before rip */
			return true;
	}
	return goroutines_preempted_inside(in, th->regs.rsp, th->regs.rip);
}

bool patch_threads_clear(struct injection *in, struct user_regs_struct *moved, bool *is_moved, const char **why)
{
	struct patch_set *set = &in->set;
	cleanup_free u64 *buf = malloc(STACK_SCAN);

	*why = "out of memory";
	if (!buf)
		return false;
	for (size_t i = 0; i < in->t.threads.n; i++) {
		const struct thread *th = &in->t.threads.data[i];

		is_moved[i] = false;
		if (!set->patches.n || th->gone || !th->stopped)
			continue;
		moved[i] = th->regs;
		if (!place_thread(in, &moved[i])) {
			*why = "a thread is in the middle of the instructions to be replaced";
			return false;
		}
		is_moved[i] = moved[i].rip != th->regs.rip;
		if (set->interior.n && stack_holds_boundary(in, th, buf)) {
			*why = "a signal handler will return into the instructions to be replaced";
			return false;
		}
	}
	return goroutines_are_clear(in, why);
}

/* -------------------------------------------------------------- writing */

struct uerr *patch_write(struct injection *in, const struct thread *th)
{
	struct patch_set *set = &in->set;
	int code = 0;

	for (size_t i = 0, n; i < set->pages.n; i += n) {
		n = run_length(set, i);
		code = remote_write_text(&in->t, th, set->pages.data[i].addr, set->new + i * PAGE,
					 set->old + i * PAGE, n * PAGE);
		if (!code)
			continue;
		/* Back to what was there, this run included. */
		for (size_t k = 0, m; k <= i; k += m) {
			m = run_length(set, k);
			if (!remote_write_text(&in->t, th, set->pages.data[k].addr, set->old + k * PAGE,
					       set->new + k * PAGE, m * PAGE))
				continue;
			in->torn = true;
			return uerr_errno(code,
					  "process %d (%s): cannot write its code, nor put back what was written: the "
					  "journal has it", in->t.pid, in->t.comm);
		}
		return uerr_errno(code, "process %d (%s): cannot write its code", in->t.pid, in->t.comm);
	}
	return NULL;
}

/* ------------------------------------------------- copies ahead of time */

/* The first write to a page of text makes the process's own copy of it, which is
 * most of what a change of thousands of pages costs. So a byte of each is written
 * over itself while the process runs: one of a window, where no breakpoint was a
 * moment ago. */
void patch_copy_pages(struct injection *in)
{
	struct patch_set *set = &in->set;
	addr_t last = 0;

	if (set->pages.n < MANY_PAGES || !in->t.mem_forced)
		return;
	vec_foreach(p, &set->patches) {
		addr_t at = p->addr + p->len - 1;
		u8 byte;

		if (p->restore || ALIGN_DOWN(at, PAGE) == last)
			continue;
		last = ALIGN_DOWN(at, PAGE);
		if (remote_read(&in->t, at, &byte, 1) || remote_write(&in->t, at, &byte, 1))
			return; /* then it costs what it costs */
		set->copied = true;
	}
}

/* After a change that was not made: what equals its file can be given back. */
void patch_uncopy_prepare(struct injection *in)
{
	struct patch_set *set = &in->set;

	for (size_t i = 0; i < set->pages.n; i++) {
		set->pages.data[i].restore = true;
		read_file_page(in, i);
	}
}

struct uerr *patch_uncopy_verify(struct injection *in)
{
	struct uerr *err = read_pages(in);

	if (!err)
		memcpy(in->set.new, in->set.old, in->set.pages.n * PAGE);
	return err;
}

/* --------------------------------------------------- giving pages back */

static int open_mapped_file(struct injection *in, const struct target_map *m)
{
	char path[80];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", tracee_live_tid(&in->t), m->lo, m->hi);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	/* Without the capability: the program file can be had. */
	snprintf(path, sizeof(path), "/proc/%d/exe", tracee_live_tid(&in->t));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && !fstat(fd, &st) && st.st_ino == m->ino && major(st.st_dev) == m->dev_major &&
	    minor(st.st_dev) == m->dev_minor)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* What the page would be had nobody ever written to it. */
static void read_file_page(struct injection *in, size_t i)
{
	struct text_page *page = &in->set.pages.data[i];
	const struct target_map *m = target_maps_find(&in->maps, page->addr);
	cleanup_close int fd = -1;

	if (!m || m->shared || !m->ino)
		return;
	fd = open_mapped_file(in, m);
	if (fd < 0)
		return;
	page->file_known = pread(fd, in->set.file + i * PAGE, PAGE, (off_t)(m->off + (page->addr - m->lo))) > 0;
}

static bool can_give_back(const struct patch_set *set, size_t i)
{
	return set->pages.data[i].restore && set->pages.data[i].file_known &&
	       !memcmp(set->new + i * PAGE, set->file + i * PAGE, PAGE);
}

bool patch_wants_give_back(const struct injection *in)
{
	for (size_t i = 0; i < in->set.pages.n; i++)
		if (can_give_back(&in->set, i))
			return true;
	return false;
}

/* Our private copies of pages that equal the file again are dropped: the next
 * access brings the file's page. */
size_t patch_give_back(struct injection *in, struct remote_op *ops)
{
	struct patch_set *set = &in->set;
	size_t k = 0;

	for (size_t i = 0, n; i < set->pages.n; i += n) {
		n = 1;
		if (!can_give_back(set, i))
			continue;
		while (i + n < set->pages.n && set->pages.data[i + n].addr == set->pages.data[i].addr + n * PAGE &&
		       can_give_back(set, i + n))
			n++;
		ops[k++] = REMOTE_OP(SYS_madvise, set->pages.data[i].addr, n * PAGE, MADV_DONTNEED);
	}
	return k;
}
