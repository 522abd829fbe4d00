/* SPDX-License-Identifier: MIT */
/*
 * Reserving ranges in a running target: addresses are chosen and journalled
 * while it runs, then one thread stops for all the mmaps.
 */
#include "inject_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/cleanup.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#define PLACE_TRIES 16

static addr_t start_of_heap(pid_t pid)
{
	cleanup_fclose FILE *f = NULL;
	char path[32], buf[2048], *p;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	n = fread(buf, 1, sizeof(buf) - 1, f);
	buf[n] = 0;
	p = strrchr(buf, ')');
	/* Field 47; ')' ends field 2. */
	for (int field = 2; p && field < 47; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p, NULL, 10) : 0;
}

static u64 stack_limit(pid_t pid)
{
	struct rlimit lim;

	if (prlimit(pid, RLIMIT_STACK, NULL, &lim))
		return 0;
	return lim.rlim_cur;
}

/* Finds an address for range I of RANGES; the earlier ones are taken. */
static struct uerr *choose(struct injection *in, struct inject_range *ranges, size_t i)
{
	cleanup_free struct near_zone *taken = calloc(in->placed.n + i + 1, sizeof(*taken));
	struct near_request rq = { .maps = &in->maps, .taken = taken, .brk = start_of_heap(in->t.pid),
				   .stack_limit = stack_limit(in->t.pid), .size = ranges[i].size,
				   .near = ranges[i].near, .near_end = ranges[i].near_end };

	if (!taken)
		return uerr_nomem();
	vec_foreach(p, &in->placed)
		taken[rq.ntaken++] = (struct near_zone){ p->addr, p->addr + p->size };
	for (size_t k = 0; k < i; k++)
		taken[rq.ntaken++] = (struct near_zone){ ranges[k].addr, ranges[k].addr + ranges[k].size };
	if (getrandom(&rq.random, sizeof(rq.random), 0) != sizeof(rq.random))
		rq.random = now_ns();
	if (near_alloc(&rq, &ranges[i].addr))
		return NULL;
	return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) has no %lu KiB free within reach of 0x%lx", in->t.pid,
			in->t.comm, ranges[i].size / 1024, ranges[i].near);
}

static void journal_plan(struct injection *in, const struct inject_range *r, u64 inode)
{
	struct journal_range jr = { .kind = r->kind, .addr = r->addr, .size = r->size, .inode = inode };

	journal_range(&in->journal, &jr);
}

static struct uerr *check_ranges(const struct inject_range *ranges, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!ranges[i].size || ranges[i].size % PAGE || ranges[i].size > (1ull << 40) ||
		    ranges[i].near_end < ranges[i].near || ranges[i].kind < RANGE_CODE ||
		    ranges[i].kind > RANGE_MEMFD)
			return uerr_new(UERR_USAGE, "bad range of %lu bytes", ranges[i].size);
	return NULL;
}

/* ------------------------------------------------------- in the target */

static int range_prot(enum range_kind kind)
{
	return kind == RANGE_CODE ? PROT_READ | PROT_EXEC : kind == RANGE_MEMFD ? PROT_NONE : PROT_READ | PROT_WRITE;
}

/* One remote mmap at R->addr; *ret is 0 or an errno. */
static struct uerr *map_at(struct remote *r, const struct inject_range *range, s64 fd, int *ret)
{
	bool shared = range->kind == RANGE_CODE || range->kind == RANGE_SHARED;
	u64 flags = MAP_FIXED_NOREPLACE | (shared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE);
	struct uerr *err;
	s64 got;

	if (fd < 0)
		flags |= MAP_ANONYMOUS;
	err = REMOTE_CALL(r, &got, SYS_mmap, range->addr, range->size, range_prot(range->kind), flags, (u64)fd, 0);
	if (err)
		return err;
	*ret = got < 0 && got > -4096 ? (int)-got : 0;
	if (!*ret && (u64)got != range->addr) {
		/* A kernel before 4.17 takes the address for a hint. */
		err = REMOTE_CALL(r, &got, SYS_munmap, (u64)got, range->size);
		*ret = EEXIST;
	}
	return err;
}

static struct uerr *wipe_on_fork(struct remote *r, const struct inject_range *range)
{
	struct uerr *err;
	s64 got;

	err = REMOTE_CALL(r, &got, SYS_madvise, range->addr, range->size, MADV_WIPEONFORK);
	if (!err && got)
		err = uerr_errno((int)-got, "process %d: MADV_WIPEONFORK", r->t->pid);
	return err;
}

/* Remembers that range I is there, or may be. */
static struct uerr *note_placed(struct injection *in, const struct inject_range *r)
{
	struct placed p = { .kind = r->kind, .addr = r->addr, .size = r->size, .inode = r->inode, .mapped = true };

	return vec_push(&in->placed, p) ? NULL : uerr_nomem();
}

static struct uerr *map_one(struct injection *in, struct remote *r, struct inject_range *ranges, size_t i,
			    s64 remote_fd)
{
	struct uerr *err;
	int code = 0;

	for (int try = 0; try < PLACE_TRIES; try++) {
		err = map_at(r, &ranges[i], remote_fd, &code);
		if (err || code != EEXIST)
			break;
		/* Taken since we looked. */
		journal_range_gone(&in->journal, ranges[i].addr);
		err = inject_refresh_maps(in);
		if (!err)
			err = choose(in, ranges, i);
		if (err)
			return err;
		journal_plan(in, &ranges[i], 0);
		err = journal_flush(&in->journal);
		if (err)
			return err;
	}
	if (!err && code)
		err = uerr_errno(code, "process %d (%s): cannot map %lu KiB", in->t.pid, in->t.comm,
				 ranges[i].size / 1024);
	if (!err)
		err = note_placed(in, &ranges[i]);
	if (!err && ranges[i].kind == RANGE_PRIVATE)
		err = wipe_on_fork(r, &ranges[i]);
	return err;
}

/* Without map_files: a memfd made there, fetched by pidfd_getfd, gone from the
 * target's table before its threads run again. */
static struct uerr *map_memfd(struct injection *in, struct remote *r, struct inject_range *ranges, size_t i, int *fd)
{
	struct uerr *err, *err2;
	s64 remote_fd, got;

	err = share_make_memfd(in, r, ranges[i].size, &remote_fd, fd);
	if (err)
		return err;
	err = map_one(in, r, ranges, i, remote_fd);
	err2 = REMOTE_CALL(r, &got, SYS_close, (u64)remote_fd);
	if (!err)
		return err2;
	uerr_free(err2);
	return err;
}

static bool is_shared_kind(enum range_kind kind)
{
	return kind == RANGE_CODE || kind == RANGE_SHARED;
}

static struct uerr *map_ranges(struct injection *in, struct thread *th, struct inject_range *ranges, size_t n, int *fds)
{
	struct remote r;
	struct uerr *err;

	err = remote_begin(&r, &in->t, th, &in->gadgets);
	for (size_t i = 0; i < n && !err; i++) {
		if (!in->map_files && is_shared_kind(ranges[i].kind))
			err = map_memfd(in, &r, ranges, i, &fds[i]);
		else
			err = map_one(in, &r, ranges, i, -1);
	}
	remote_end(&r);
	return err;
}

/* --------------------------------------------------------------- and here */

/* The directory is listed: a name made up from our numbers would be right only
 * as long as the kernel keeps such mappings apart. */
static int open_map_file(pid_t pid, addr_t addr, u64 size)
{
	char path[96], want[48];
	DIR *dir;
	int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/map_files", pid);
	snprintf(want, sizeof(want), "%lx-", addr);
	dir = opendir(path);
	if (!dir)
		return -1;
	errno = ENOENT;
	for (struct dirent *d = readdir(dir); d; d = readdir(dir)) {
		addr_t lo, hi;

		if (strncmp(d->d_name, want, strlen(want)) || sscanf(d->d_name, "%lx-%lx", &lo, &hi) != 2 ||
		    hi - lo < size)
			continue;
		fd = openat(dirfd(dir), d->d_name, O_RDWR | O_CLOEXEC);
		break;
	}
	closedir(dir);
	return fd;
}

static struct uerr *map_here(struct injection *in, struct inject_range *r, int memfd)
{
	cleanup_close int fd = memfd >= 0 ? memfd : open_map_file(in->t.pid, r->addr, r->size);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return uerr_errno(errno, "process %d (%s): cannot open the memory that was mapped there", in->t.pid,
				  in->t.comm);
	r->local = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (r->local == MAP_FAILED) {
		r->local = NULL;
		return uerr_errno(errno, "cannot map %lu KiB of process %d", r->size / 1024, in->t.pid);
	}
	r->inode = st.st_ino;
	vec_foreach(p, &in->placed)
		if (p->addr == r->addr)
			p->inode = r->inode;
	journal_plan(in, r, r->inode);
	return NULL;
}

static struct uerr *share_locally(struct injection *in, struct inject_range *ranges, size_t n, int *fds)
{
	struct uerr *err = NULL;

	for (size_t i = 0; i < n && !err; i++)
		if (is_shared_kind(ranges[i].kind)) {
			err = map_here(in, &ranges[i], fds[i]);
			fds[i] = -1;
		}
	return err;
}

static struct uerr *stop_for_place(struct injection *in, const struct inject_range *ranges, size_t n,
				   struct thread **th)
{
	bool need_fds = false;
	const char *why;
	struct uerr *err;

	for (size_t i = 0; i < n; i++)
		need_fds |= !in->map_files && is_shared_kind(ranges[i].kind);
	if (!need_fds)
		return inject_stop_worker(in, th);
	/* Descriptors of ours are in the target only while nobody there runs. */
	err = tracee_seize_all(&in->t);
	if (!err)
		err = tracee_stop_all(&in->t);
	if (err)
		return err;
	*th = inject_pick_stopped(in, &why);
	if (*th)
		return NULL;
	return uerr_new(UERR_CANNOT_PROBE, "process %d (%s): no thread can make system calls for us: each %s",
			in->t.pid, in->t.comm, why);
}

struct uerr *inject_place(struct injection *in, struct inject_range *ranges, size_t n)
{
	cleanup_free int *fds = malloc((n + 1) * sizeof(*fds));
	struct thread *th = NULL;
	struct uerr *err;

	if (!fds)
		return uerr_nomem();
	for (size_t i = 0; i < n; i++) {
		fds[i] = -1;
		ranges[i].local = NULL;
		ranges[i].addr = ranges[i].inode = 0;
	}
	err = check_ranges(ranges, n);
	if (!err)
		err = tracee_check_alive(&in->t);
	if (!err)
		err = inject_refresh_maps(in);
	for (size_t i = 0; i < n && !err; i++) {
		err = choose(in, ranges, i);
		if (!err)
			journal_plan(in, &ranges[i], 0);
	}
	if (!err)
		err = journal_flush(&in->journal);
	if (!err)
		err = stop_for_place(in, ranges, n, &th);
	if (!err)
		err = map_ranges(in, th, ranges, n, fds);
	tracee_release(&in->t);
	if (!err)
		err = share_locally(in, ranges, n, fds);
	if (!err)
		err = journal_flush(&in->journal);
	for (size_t i = 0; i < n; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		if (err && ranges[i].local) {
			munmap(ranges[i].local, ranges[i].size);
			ranges[i].local = NULL;
		}
	}
	return err;
}

/* ----------------------------------------------------------------- undo */

static void unmap_placed(struct injection *in, struct thread *th)
{
	cleanup_uerr struct uerr *err = NULL;
	struct remote r;

	err = remote_begin(&r, &in->t, th, &in->gadgets);
	vec_foreach(p, &in->placed) {
		s64 got;

		if (err || p->committed || !p->mapped)
			continue;
		err = REMOTE_CALL(&r, &got, SYS_munmap, p->addr, p->size);
		if (!err && !got) {
			p->mapped = false;
			journal_range_gone(&in->journal, p->addr);
		}
	}
	remote_end(&r);
}

void place_undo(struct injection *in)
{
	cleanup_uerr struct uerr *err = NULL;
	struct thread *th;
	bool any = false;

	vec_foreach(p, &in->placed)
		any |= p->mapped && !p->committed;
	if (!any)
		return;
	/* Nobody has ever been in there: no text leads to it. */
	err = tracee_check_alive(&in->t);
	if (!err)
		err = inject_refresh_maps(in);
	if (!err)
		err = inject_stop_worker(in, &th);
	if (!err)
		unmap_placed(in, th);
	tracee_release(&in->t);
}
