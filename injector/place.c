/* SPDX-License-Identifier: MIT */
/*
 * Reserving ranges in a running target: addresses are chosen and journalled
 * while it runs, then one thread stops for all the mmaps.
 *
 * Ranges that get their memory in the window (commit.c) are only reserved here;
 * those that follow one another in the request lie side by side and are reserved
 * by one call: a run.
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
#include "base/process.h"
#include "injector/pun.h"

#define PLACE_TRIES 16
#define STRAY_TRIES 40

static addr_t start_of_heap(pid_t pid)
{
	u64 at;

	return proc_stat_field(pid, 47, &at) ? at : 0;
}

static u64 stack_limit(pid_t pid)
{
	struct rlimit lim;

	if (prlimit(pid, RLIMIT_STACK, NULL, &lim))
		return 0;
	return lim.rlim_cur;
}

struct uerr *pun_space_read(pid_t pid, struct pun_space *ret)
{
	cleanup(target_maps_deinit) struct target_maps maps = {};
	struct near_request rq = { .maps = &maps, .brk = start_of_heap(pid), .stack_limit = stack_limit(pid) };
	struct uerr *err = target_maps_read(pid, pid, &maps);

	*ret = (struct pun_space){};
	if (err)
		return err;
	return near_zones_init(&rq, &ret->zones) ? NULL : uerr_nomem();
}

static bool is_reserved(enum range_kind kind)
{
	return kind == RANGE_MEMFD || kind == RANGE_PRIVATE;
}

/* How many ranges from I on make one run. */
static size_t run_length(const struct inject_range *ranges, size_t n, size_t i)
{
	size_t k = i + 1;

	if (is_reserved(ranges[i].kind))
		while (k < n && is_reserved(ranges[k].kind) && ranges[k].near == ranges[i].near &&
		       ranges[k].near_end == ranges[i].near_end)
			k++;
	return k - i;
}

static u64 run_size(const struct inject_range *ranges, size_t n)
{
	u64 size = 0;

	for (size_t i = 0; i < n; i++)
		size += ranges[i].size;
	return size;
}

/* Finds addresses for the run of N at I in RANGES; the earlier ones are taken. A
 * range that wants exactly one address is a run of its own. */
static struct uerr *choose(struct injection *in, struct inject_range *ranges, size_t nranges, size_t i, size_t n)
{
	cleanup_free struct near_zone *taken = calloc(in->placed.n + in->exact.n + i + 1, sizeof(*taken));
	struct near_request rq = { .maps = &in->maps, .taken = taken, .brk = start_of_heap(in->t.pid),
				   .stack_limit = stack_limit(in->t.pid), .size = run_size(ranges + i, n),
				   .near = ranges[i].near, .near_end = ranges[i].near_end };
	addr_t at;

	if (!taken)
		return uerr_nomem();
	if (ranges[i].exact) {
		ranges[i].addr = ranges[i].exact;
		return NULL;
	}
	for (size_t k = i + n; k < nranges && ranges[k].behind; k++)
		rq.size += ranges[k].size;
	vec_foreach(p, &in->placed)
		taken[rq.ntaken++] = (struct near_zone){ p->addr, p->addr + p->size };
	vec_foreach(e, &in->exact)
		taken[rq.ntaken++] = *e;
	for (size_t k = 0; k < i; k++)
		taken[rq.ntaken++] = (struct near_zone){ ranges[k].addr, ranges[k].addr + ranges[k].size };
	if (getrandom(&rq.random, sizeof(rq.random), 0) != sizeof(rq.random))
		rq.random = now_ns();
	if (!near_alloc(&rq, &at))
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) has no %lu KiB free within reach of 0x%lx",
				in->t.pid, in->t.comm, rq.size / 1024, ranges[i].near);
	for (size_t k = i; k < i + n; at += ranges[k++].size)
		ranges[k].addr = at;
	for (size_t k = i + n; k < nranges && ranges[k].behind; at += ranges[k++].size)
		ranges[k].exact = at;
	return NULL;
}

static void journal_plan(struct injection *in, const struct inject_range *r, u64 inode)
{
	struct journal_range jr = { .kind = r->kind, .addr = r->addr, .size = r->size, .inode = inode };

	journal_range(&in->journal, &jr);
}

static struct uerr *choose_and_plan(struct injection *in, struct inject_range *ranges, size_t nranges, size_t i,
				    size_t n)
{
	struct uerr *err = choose(in, ranges, nranges, i, n);

	for (size_t k = i; k < i + n && !err; k++)
		journal_plan(in, &ranges[k], 0);
	return err;
}

static struct uerr *check_ranges(const struct injection *in, const struct inject_range *ranges, size_t n)
{
	size_t privates = 0;

	for (size_t i = 0; i < n; i++)
		if (ranges[i].exact % PAGE || ((ranges[i].exact || ranges[i].behind) && is_reserved(ranges[i].kind)) ||
		    (ranges[i].behind && !i))
			return uerr_new(UERR_USAGE, "no range can be at 0x%lx", ranges[i].exact);
	for (size_t i = 0; i < n; i++)
		if (!ranges[i].size || ranges[i].size % PAGE || ranges[i].size > (1ull << 40) ||
		    ranges[i].near_end < ranges[i].near || ranges[i].kind < RANGE_CODE ||
		    ranges[i].kind > RANGE_TRAP)
			return uerr_new(UERR_USAGE, "bad range of %lu bytes", ranges[i].size);
	for (size_t i = 0; i < n; i++)
		privates += ranges[i].kind == RANGE_PRIVATE;
	vec_foreach(p, &in->placed)
		privates += p->kind == RANGE_PRIVATE && !p->committed;
	if (privates > PRIVATE_RANGES)
		return uerr_new(UERR_USAGE, "%zu private ranges in one injection, %d can be", privates, PRIVATE_RANGES);
	return NULL;
}

/* ------------------------------------------------------- in the target */

static int range_prot(enum range_kind kind)
{
	if (kind == RANGE_CODE || kind == RANGE_STUBS || kind == RANGE_TRAP)
		return PROT_READ | PROT_EXEC;
	return is_reserved(kind) ? PROT_NONE : PROT_READ | PROT_WRITE;
}

static struct uerr *map_at(struct remote *r, const struct inject_range *run, size_t n, s64 fd, s64 *ret)
{
	u64 flags = MAP_FIXED_NOREPLACE | (is_reserved(run->kind) ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED);

	if (run->kind == RANGE_STUBS || run->kind == RANGE_CELLS || run->kind == RANGE_TRAP)
		flags = MAP_FIXED_NOREPLACE | MAP_PRIVATE;
	if (fd < 0)
		flags |= MAP_ANONYMOUS;
	return REMOTE_CALL(r, ret, SYS_mmap, run->addr, run_size(run, n), range_prot(run->kind), flags, (u64)fd, 0);
}

/* Remembers that the run is there. */
static struct uerr *note_placed(struct injection *in, const struct inject_range *run, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct placed p = { .kind = run[i].kind, .addr = run[i].addr, .size = run[i].size,
				    .inode = run[i].inode, .mapped = true };

		if (!vec_push(&in->placed, p))
			return uerr_nomem();
	}
	return NULL;
}

struct uerr *cannot_map(const struct injection *in, s64 code, u64 size)
{
	/* EAGAIN: all that it maps is locked (mlockall), and that is too much. */
	if (code == ENOMEM || code == EAGAIN)
		return uerr_new(UERR_CANNOT_PROBE,
				"process %d (%s): cannot map %lu KiB there: its limit of address space or of locked "
				"memory is reached (prlimit --pid %d)",
				in->t.pid, in->t.comm, size / 1024, in->t.pid);
	return uerr_errno((int)code, "process %d (%s): cannot map %lu KiB", in->t.pid, in->t.comm, size / 1024);
}

/* The run of N at I; when its place was taken meanwhile, what must lie behind it moves
 * with it. */
static struct uerr *map_run(struct injection *in, struct remote *r, struct inject_range *ranges, size_t nranges,
			    size_t i, size_t n, s64 remote_fd)
{
	struct uerr *err = NULL;
	size_t end = i + n;
	s64 got = 0;

	while (end < nranges && ranges[end].behind)
		end++;
	for (int try = 0; try < PLACE_TRIES; try++) {
		err = map_at(r, &ranges[i], n, remote_fd, &got);
		if (err || got != -EEXIST)
			break;
		/* Taken since we looked. */
		for (size_t k = i; k < end; k++)
			journal_range_gone(&in->journal, ranges[k].addr);
		if (ranges[i].exact)
			return uerr_new(UERR_CANNOT_PROBE,
					"process %d (%s): the page at 0x%lx, which alone would do, was taken just now: "
					"try again", in->t.pid, in->t.comm, ranges[i].exact);
		err = inject_refresh_maps(in);
		if (!err)
			err = choose_and_plan(in, ranges, nranges, i, n);
		for (size_t k = i + n; k < end && !err; k++)
			err = choose_and_plan(in, ranges, nranges, k, 1);
		if (!err)
			err = journal_flush(&in->journal);
		if (err)
			return err;
	}
	if (!err && remote_failed(got))
		err = cannot_map(in, -got, run_size(&ranges[i], n));
	return err ? err : note_placed(in, &ranges[i], n);
}

/* Without map_files: a memfd made there, fetched by pidfd_getfd, gone from the
 * target's table before its threads run again. */
static struct uerr *map_memfd(struct injection *in, struct remote *r, struct inject_range *ranges, size_t n, size_t i,
			      int *fd)
{
	struct uerr *err, *err2;
	s64 remote_fd, got;

	err = share_make_memfd(in, r, ranges[i].size, &remote_fd, fd);
	if (err)
		return err;
	err = map_run(in, r, ranges, n, i, 1, remote_fd);
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
	for (size_t i = 0, len; i < n && !err; i += len) {
		len = run_length(ranges, n, i);
		if (!in->map_files && is_shared_kind(ranges[i].kind))
			err = map_memfd(in, &r, ranges, n, i, &fds[i]);
		else
			err = map_run(in, &r, ranges, n, i, len, -1);
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

	snprintf(path, sizeof(path), "/proc/%d/map_files", process_live_tid(pid));
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
	struct uerr *err;

	for (size_t i = 0; i < n; i++)
		need_fds |= !in->map_files && is_shared_kind(ranges[i].kind);
	if (!need_fds)
		return inject_stop_worker(in, th);
	/* Descriptors of ours are in the target only while nobody there runs. */
	err = inject_stop_all(in);
	return err ? err : inject_pick_stopped(in, th);
}

/* Those that may lie anywhere keep clear of these. */
static struct uerr *note_exact(struct injection *in, const struct inject_range *ranges, size_t n)
{
	in->exact.n = 0;
	for (size_t i = 0; i < n; i++) {
		struct near_zone z = { ranges[i].exact, ranges[i].exact + ranges[i].size };

		if (ranges[i].exact && !vec_push(&in->exact, z))
			return uerr_nomem();
	}
	return NULL;
}

struct uerr *inject_place(struct injection *in, struct inject_range *ranges, size_t n)
{
	cleanup_free int *fds = malloc((n + 1) * sizeof(*fds));
	struct thread *th = NULL;
	struct uerr *err;
	size_t nthreads;

	if (!fds)
		return uerr_nomem();
	for (size_t i = 0; i < n; i++) {
		fds[i] = -1;
		ranges[i].local = NULL;
		ranges[i].addr = ranges[i].inode = 0;
		if (ranges[i].behind)
			ranges[i].exact = 0;
	}
	err = check_ranges(in, ranges, n);
	if (!err)
		err = note_exact(in, ranges, n);
	if (!err)
		err = tracee_check_alive(&in->t);
	if (!err)
		err = inject_refresh_maps(in);
	for (size_t i = 0; i < n && !err; i += run_length(ranges, n, i))
		err = choose_and_plan(in, ranges, n, i, run_length(ranges, n, i));
	if (!err)
		err = journal_flush(&in->journal);
	tracee_hurry(&in->t);
	if (!err)
		err = stop_for_place(in, ranges, n, &th);
	if (!err)
		err = map_ranges(in, th, ranges, n, fds);
	nthreads = in->t.threads.n;
	tracee_release(&in->t);
	if (!err && nthreads == 1)
		in->alone_ns = now_ns() - in->t.stop_ns;
	tracee_hurry_end(&in->t);
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

static bool code_is_empty(struct injection *in)
{
	bool empty = quiesce_routine_empty(in);

	vec_foreach(p, &in->placed) {
		struct unmap_req u = { .addr = p->addr, .size = p->size, .lo = p->addr, .hi = p->addr + p->size };

		if (p->kind == RANGE_CODE && p->mapped && !p->committed)
			empty = empty && quiesce_is_empty(in, &u);
	}
	return empty;
}

/* A thread that got away from us in the routine for many calls comes back from
 * there by itself, but needs it until then. Leaves all threads stopped. */
static struct uerr *stop_after_stray(struct injection *in, struct thread **th)
{
	struct timespec nap = { 0, 25000000 };
	struct uerr *err = NULL;

	for (int i = 0; i < STRAY_TRIES; i++) {
		uerr_free(err);
		err = inject_stop_all(in);
		if (err)
			return err;
		err = code_is_empty(in) ? inject_pick_stopped(in, th) :
					  uerr_new(UERR_FAILED, "process %d (%s): a thread does not leave our code",
						   in->t.pid, in->t.comm);
		if (!err)
			return NULL;
		tracee_release(&in->t);
		nanosleep(&nap, NULL);
	}
	return err;
}

void place_undo(struct injection *in)
{
	cleanup_uerr struct uerr *err = NULL;
	struct thread *th;
	bool any = false;

	vec_foreach(p, &in->placed)
		any |= p->mapped && !p->committed;
	if (!any || in->torn)
		return;
	/* No text leads to it: who is in there was moved there, and made it stray. */
	err = tracee_check_alive(&in->t);
	if (!err)
		err = inject_refresh_maps(in);
	if (!err)
		err = in->stray ? stop_after_stray(in, &th) : inject_stop_worker(in, &th);
	if (!err)
		unmap_placed(in, th);
	tracee_release(&in->t);
}
