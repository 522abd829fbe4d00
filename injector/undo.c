/* SPDX-License-Identifier: MIT */
/*
 * Undoing what a journal says about a process, whoever wrote it. The journal
 * is a hint of what to look at; what is done is decided by what the process
 * has: a site with the old bytes needs nothing, one with the new bytes gets the
 * old ones, anything else is left and reported; a range is unmapped only if
 * what lies there is of the kind, the size and the inode of ours.
 */
#include "inject_priv.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/cells.h"
#include "base/cleanup.h"
#include "base/process.h"
#include "base/target_abi.h"
#include "base/trap.h"
#include "injector/remote_mem.h"

/* Sites whose bytes are neither old nor new. */
struct leftovers {
	size_t n;
	addr_t first;
};

static struct uerr *same_life(const struct inject_opts *opts, const struct journal *j)
{
	char boot[40];
	u64 start;

	boot_id_read(boot);
	if (strcmp(boot, j->boot_id))
		return uerr_new(UERR_NO_TARGET, "the journal of process %d is from before the last boot", j->pid);
	if (!proc_starttime(opts->pid, &start, NULL))
		return uerr_new(UERR_NO_TARGET, "no process %d", opts->pid);
	/* A fork child is younger; another process of the same number is not it. */
	if (opts->pid == j->pid && start != j->starttime)
		return uerr_new(UERR_NO_TARGET, "process %d is another one now", opts->pid);
	return NULL;
}

/* ---------------------------------------------------------------- sites */

/* What a tracer that died between two pages leaves: on each page either the
 * old bytes or the new. */
static bool is_mixture(const struct journal_site *s, const u8 *have)
{
	size_t head = PAGE - (s->addr & (PAGE - 1));

	if (head >= s->len)
		return false;
	return (!memcmp(have, s->old_bytes, head) || !memcmp(have, s->new_bytes, head)) &&
	       (!memcmp(have + head, s->old_bytes + head, s->len - head) ||
		!memcmp(have + head, s->new_bytes + head, s->len - head));
}

static struct uerr *undo_site(struct injection *in, const struct journal_site *s, struct leftovers *left)
{
	struct patch p = { .addr = s->addr, .len = s->len, .file_dev = s->file_dev, .file_ino = s->file_ino,
			   .file_off = s->file_off, .link = s->link, .restore = true };
	u8 have[64];

	if (remote_read(&in->t, s->addr, have, s->len)) {
		journal_site_gone(&in->journal, s->addr); /* unmapped with its module */
		return NULL;
	}
	if (!memcmp(have, s->old_bytes, s->len)) {
		journal_site_gone(&in->journal, s->addr);
		return NULL;
	}
	if (memcmp(have, s->new_bytes, s->len) && memcmp(have, s->prev_bytes, s->len) && !is_mixture(s, have)) {
		if (!left->n++)
			left->first = s->addr;
		return NULL;
	}
	memcpy(p.old_bytes, have, s->len);
	memcpy(p.new_bytes, s->old_bytes, s->len);
	return inject_patch(in, &p);
}

/* --------------------------------------------------------------- ranges */

static bool map_is_kind(const struct target_map *m, const struct journal_range *r)
{
	switch (r->kind) {
	case RANGE_CODE:
		return m->shared && m->x && !m->w && (r->inode ? m->ino == r->inode : m->dead || m->ours);
	case RANGE_SHARED:
		return m->shared && m->w && !m->x && (r->inode ? m->ino == r->inode : m->dead || m->ours);
	case RANGE_STUBS:
	case RANGE_TRAP:
		return !m->shared && !m->ino && m->r && m->x && !m->w && !m->vdso && !m->special;
	case RANGE_CELLS:
		return !m->shared && !m->ino && m->r && m->w && !m->x && !m->heap && !m->stack;
	case RANGE_PRIVATE:
		if (!m->r && !m->w) /* reserved */
			return !m->shared && !m->ino && !m->x;
		return !m->shared && !m->ino && m->w && !m->x && !m->heap && !m->stack;
	case RANGE_MEMFD:
		if (r->inode && m->shared && m->ino == r->inode)
			return true;
		return !m->shared && !m->ino && !m->r && !m->w && !m->x;
	}
	return false;
}

/* Is [addr, addr+size) ours, all of it? */
static bool range_is_there(struct injection *in, const struct journal_range *r)
{
	addr_t at = r->addr;

	if (!r->size || (r->addr | r->size) % PAGE || r->addr + r->size < r->addr)
		return false;
	while (at < r->addr + r->size) {
		const struct target_map *m = target_maps_find(&in->maps, at);

		if (!m || !map_is_kind(m, r))
			return false;
		at = m->hi;
	}
	return true;
}

/* Who counts in a code range, and the caller's own test. */
struct census {
	struct injection *in;
	struct arena_trailer trailer;
	bool (*entered)(void *);
	void *arg;
};

static bool census_entered(void *arg)
{
	const struct census *c = arg;
	u64 entries = 0, leaves = 0;

	if (c->entered && c->entered(c->arg))
		return true;
	for (u64 i = 0, n; i <= c->trailer.nrecs; i += n) {
		struct thread_rec recs[64];
		u64 left = c->trailer.nrecs + 1 - i;

		n = left < ARRAY_SIZE(recs) ? left : ARRAY_SIZE(recs);
		if (remote_read(&c->in->t, c->trailer.threads + THREAD_RECS_OFF + i * sizeof(*recs), recs,
				n * sizeof(*recs)))
			return true;
		for (u64 k = 0; k < n; k++) {
			entries += recs[k].entries;
			leaves += recs[k].leaves;
		}
	}
	return entries != leaves;
}

/* Whether range R says who counts in it, and that table is there. What the target
 * could have forged of it does harm to nobody else. */
static bool census_find(struct injection *in, const struct journal_range *r, struct census *ret)
{
	struct arena_trailer *t = &ret->trailer;
	struct thread_table table;

	if (r->size < sizeof(*t) || remote_read(&in->t, r->addr + r->size - sizeof(*t), t, sizeof(*t)))
		return false;
	return t->magic == ARENA_TRAILER_MAGIC && t->version == TARGET_ABI_VERSION && t->nrecs &&
	       t->nrecs <= ARENA_NRECS_MAX && t->code <= t->top && t->top <= r->size &&
	       !remote_read(&in->t, t->threads, &table, sizeof(table)) && table.magic == THREAD_TABLE_MAGIC &&
	       table.version == TARGET_ABI_VERSION;
}

/* A word on a stack that leads to a program or a constant is a stale one if nobody
 * is counted inside. *C goes with the commit. */
static struct uerr *undo_code(struct injection *in, const struct journal_range *r, struct census *c)
{
	if (!census_find(in, r, c))
		return inject_unmap(in, r->addr, r->size, true, c->entered, c->arg);
	return inject_unmap_counted(in, r->addr, r->size, r->addr + c->trailer.code, r->addr + c->trailer.top,
				    census_entered, c);
}

static struct uerr *undo_ranges(struct injection *in, const struct journal *j, const struct leftovers *left,
				struct census *census)
{
	struct uerr *err = NULL;

	for (size_t i = 0; i < j->nranges && !err; i++) {
		const struct journal_range *r = &j->ranges[i];

		if (!range_is_there(in, r)) {
			journal_range_gone(&in->journal, r->addr);
			continue;
		}
		if (r->kind == RANGE_CELLS && r->size == CELL_AREA_SIZE && !left->n)
			inject_cells(in, r->addr, true);
		if (r->kind == RANGE_TRAP && r->size == TRAP_AREA_SIZE && !left->n)
			inject_traps(in, r->addr, TRAPS_GO, 0, 0);
		/* A jump that could not be taken away may lead anywhere here. */
		if (left->n)
			journal_range_retired(&in->journal, r->addr);
		else if (r->kind == RANGE_STUBS)
			err = inject_unmap_stubs(in, r->addr, r->size);
		else if (r->kind == RANGE_CODE)
			err = undo_code(in, r, &census[i]);
		else if (r->kind == RANGE_TRAP)
			err = inject_unmap(in, r->addr, r->size, true, NULL, NULL);
		else
			err = inject_unmap(in, r->addr, r->size, false, NULL, NULL);
	}
	return err;
}

/* ---------------------------------------------------------- descriptors */

/* Does descriptor ENTRY of the target refer to memory or a socket of ours? A
 * worker that died in its window leaves such behind. */
static bool fd_is_ours(int dir, const char *entry, const struct journal *j)
{
	char link[64];
	struct stat st;
	u64 inode = 0;
	ssize_t n = readlinkat(dir, entry, link, sizeof(link) - 1);

	if (n < 0)
		return false;
	link[n] = 0;
	if (!strcmp(link, "/memfd:" MEMFD_NAME " (deleted)"))
		return true;
	if (sscanf(link, "socket:[%lu]", &inode) == 1)
		return inode && (inode == j->sockets[0] || inode == j->sockets[1]);
	if (strncmp(link, "/memfd:", 7) || fstatat(dir, entry, &st, 0))
		return false;
	for (size_t i = 0; i < j->nranges; i++)
		if (j->ranges[i].kind == RANGE_MEMFD && j->ranges[i].inode == st.st_ino)
			return true;
	return false;
}

static bool list_our_fds(struct injection *in, const struct journal *j, int *fds, size_t max, size_t *n)
{
	char path[64];
	DIR *dir;

	*n = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/fd", in->t.pid, tracee_live_tid(&in->t));
	dir = opendir(path);
	if (!dir)
		return false;
	for (struct dirent *d = readdir(dir); d && *n < max; d = readdir(dir))
		if (isdigit(d->d_name[0]) && fd_is_ours(dirfd(dir), d->d_name, j))
			fds[(*n)++] = atoi(d->d_name);
	closedir(dir);
	return *n > 0;
}

/* A thread in our code may be in the routine that closes them itself. */
static bool anyone_in_code(struct injection *in, const struct journal *j)
{
	vec_foreach(th, &in->t.threads)
		for (size_t i = 0; i < j->nranges; i++)
			if (th->stopped && j->ranges[i].kind == RANGE_CODE &&
			    th->regs.rip - j->ranges[i].addr < j->ranges[i].size)
				return true;
	return false;
}

static struct uerr *close_all(struct injection *in, const int *fds, size_t n)
{
	struct thread *th;
	struct remote r;
	struct uerr *err = inject_pick_stopped(in, &th);
	s64 got;

	if (err)
		return err;
	err = remote_begin(&r, &in->t, th, &in->gadgets);
	for (size_t i = 0; i < n && !err; i++)
		err = REMOTE_CALL(&r, &got, SYS_close, (u64)fds[i]);
	remote_end(&r);
	return err;
}

/* All threads stand still from before they are listed until they are closed, so
 * that no number becomes that of another. *busy: not now. */
static struct uerr *close_our_fds(struct injection *in, const struct journal *j, bool *busy)
{
	struct uerr *err;
	int fds[256];
	size_t n;

	*busy = false;
	if (!list_our_fds(in, j, fds, ARRAY_SIZE(fds), &n))
		return NULL;
	err = inject_stop_all(in);
	if (!err)
		*busy = anyone_in_code(in, j);
	if (!err && !*busy && list_our_fds(in, j, fds, ARRAY_SIZE(fds), &n))
		err = close_all(in, fds, n);
	tracee_release(&in->t);
	return err;
}

/* ------------------------------------------------------------- together */

static struct uerr *undo(struct injection *in, const struct journal *j, bool (*entered)(void *), void *arg,
			 struct inject_stats *ret)
{
	cleanup_free struct census *census = calloc(j->nranges + 1, sizeof(*census));
	struct leftovers left = {};
	struct uerr *err;
	bool busy;

	if (!census)
		return uerr_nomem();
	for (size_t i = 0; i < j->nranges; i++)
		census[i] = (struct census){ .in = in, .entered = entered, .arg = arg };
	err = close_our_fds(in, j, &busy);
	if (!err && !busy && j->sockets[0])
		journal_sockets(&in->journal, (const u64[2]){});
	for (size_t i = 0; i < j->nsites && !err; i++)
		err = undo_site(in, &j->sites[i], &left);
	if (!err)
		err = semas_undo(in, j);
	if (!err)
		err = undo_ranges(in, j, &left, census);
	if (!err)
		err = journal_flush(&in->journal);
	if (!err && (in->set.patches.n || in->unmaps.n || in->semas.n))
		err = inject_commit(in, ret);
	if (!err && left.n)
		err = uerr_new(UERR_FAILED,
			       "process %d (%s): %zu places in its code (the first at 0x%lx) hold neither our bytes nor "
			       "the original ones; they were left as they are, and what they may lead to stays mapped",
			       in->t.pid, in->t.comm, left.n, left.first);
	return err;
}

struct uerr *inject_undo(const struct inject_opts *opts, const struct journal *j, bool (*entered)(void *), void *arg,
			 struct inject_stats *ret)
{
	struct inject_opts own = *opts;
	struct inject_stats stats = {};
	struct injection *in;
	struct uerr *err;

	if (ret)
		*ret = stats;
	if (!j->nranges && !j->nsites && !j->nsemas && !j->sockets[0])
		return NULL;
	err = same_life(opts, j);
	if (err)
		return err;
	/* A fork child's end is no news for its parent's journal. */
	if (opts->pid != j->pid)
		own.journal = NULL;
	err = inject_begin(&own, &in);
	if (err)
		return err;
	err = undo(in, j, entered, arg, &stats);
	inject_end(in);
	if (ret)
		*ret = stats;
	return err;
}

/* ---------------------------------------------------------- descendants */

static bool maps_inode(pid_t pid, u64 inode)
{
	cleanup_uerr struct uerr *err = NULL;
	struct target_maps maps = {};
	bool found = false;

	err = target_maps_read(pid, process_live_tid(pid), &maps);
	if (err)
		return false;
	vec_foreach(m, &maps.v)
		found |= m->ino == inode && (m->dead || m->ours) && m->shared;
	target_maps_deinit(&maps);
	return found;
}

/* A child that has not called exec runs its parent's program: one stat tells
 * most processes apart. When the parent is gone, all are looked at. */
static bool same_program(pid_t a, const struct stat *exe)
{
	char path[32];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/exe", process_live_tid(a));
	if (stat(path, &st))
		return false; /* a kernel thread, or dead */
	return !exe->st_ino || (st.st_ino == exe->st_ino && st.st_dev == exe->st_dev);
}

struct uerr *inject_descendants(pid_t pid, u64 inode, pid_t **ret, size_t *nret)
{
	VEC(pid_t) found = {};
	struct stat exe = {};
	char path[32];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/exe", process_live_tid(pid));
	if (stat(path, &exe))
		exe.st_ino = 0;
	dir = opendir("/proc");
	if (!dir)
		return uerr_errno(errno, "/proc");
	for (struct dirent *d = readdir(dir); d; d = readdir(dir)) {
		pid_t other = atoi(d->d_name);

		/* One that shares the memory is PID itself under another number. */
		if (other <= 0 || other == pid || other == getpid() || !same_program(other, &exe) ||
		    !maps_inode(other, inode) || process_same_memory(pid, other))
			continue;
		if (!vec_push(&found, other)) {
			closedir(dir);
			vec_free(&found);
			return uerr_nomem();
		}
	}
	closedir(dir);
	*ret = found.data;
	*nret = found.n;
	return NULL;
}
