/* SPDX-License-Identifier: MIT */
/*
 * Beginning and ending an injection, and what it is told to do at its commit.
 * See inject.h; the window itself is in commit.c.
 */
#include "inject_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/process.h"

#define DEFAULT_TIMEOUT_MS 2000
#define WORKER_TIMEOUT_MS 200 /* for one thread of many to stop */

struct uerr *inject_refresh_maps(struct injection *in)
{
	struct target_maps maps;
	struct uerr *err = target_maps_read(in->t.pid, tracee_live_tid(&in->t), &maps);

	if (err)
		return err;
	target_maps_deinit(&in->maps);
	in->maps = maps;
	return NULL;
}

struct uerr *inject_need_gadgets(struct injection *in)
{
	struct uerr *err;

	if (in->have_gadgets)
		return NULL;
	err = gadgets_find(&in->t, &in->maps, &in->gadgets);
	in->have_gadgets = !err;
	return err;
}

/* Gives up root for the peer's identity, for good. */
static struct uerr *take_ids(const struct inject_opts *opts)
{
	if (opts->uid == (uid_t)-1 || geteuid() || !opts->uid)
		return NULL;
	if (setgroups(0, NULL) || setresgid(opts->gid, opts->gid, opts->gid) ||
	    setresuid(opts->uid, opts->uid, opts->uid))
		return uerr_errno(errno, "cannot become uid %u", opts->uid);
	return NULL;
}

/* May we open what the target has mapped? Needs a capability, in the initial
 * user namespace: trying is the only way to know. */
static bool can_open_map_files(pid_t pid)
{
	char path[32];
	DIR *dir;
	bool ok = false;

	snprintf(path, sizeof(path), "/proc/%d/map_files", process_live_tid(pid));
	dir = opendir(path);
	if (!dir)
		return false;
	for (struct dirent *d = readdir(dir); d; d = readdir(dir)) {
		struct stat st;

		if (d->d_name[0] == '.')
			continue;
		ok = !fstatat(dirfd(dir), d->d_name, &st, 0);
		break;
	}
	closedir(dir);
	return ok;
}

static struct uerr *begin(struct injection *in, const struct inject_opts *opts)
{
	struct tracee *t = &in->t;
	struct uerr *err;
	bool kthread;
	u64 start;

	/* The journal's folder is root's: open it before the ids change. */
	if (!proc_starttime(opts->pid, &start, &kthread))
		return uerr_new(UERR_NO_TARGET, "no process %d", opts->pid);
	err = journal_open(&in->journal, opts->journal, opts->pid, start);
	if (!err)
		err = take_ids(opts);
	if (!err)
		err = tracee_open(t, opts->pid, opts->timeout_ms ? opts->timeout_ms : DEFAULT_TIMEOUT_MS);
	if (err)
		return err;
	if (t->starttime != start)
		return uerr_new(UERR_NO_TARGET, "process %d is gone", opts->pid);
	err = inject_refresh_maps(in);
	if (!err)
		err = inject_need_gadgets(in);
	if (err)
		return err;
	in->map_files = can_open_map_files(t->pid);
	if (t->seccomp) {
		struct thread *th;

		err = inject_stop_worker(in, &th);
		if (!err)
			err = seccomp_check(in, th);
		tracee_release(t);
	}
	return err;
}

struct uerr *inject_begin(const struct inject_opts *opts, struct injection **ret)
{
	struct injection *in = calloc(1, sizeof(*in));
	struct uerr *err;

	if (!in)
		return uerr_nomem();
	in->journal.fd = -1;
	in->t.mem_fd = -1;
	in->t.sched_policy = -1;
	err = begin(in, opts);
	if (err) {
		inject_end(in);
		return err;
	}
	*ret = in;
	return NULL;
}

void inject_clear_work(struct injection *in)
{
	vec_foreach(p, &in->pokes)
		free(p->bytes);
	in->pokes.n = in->shares.n = in->unmaps.n = in->stubs.n = in->stub_pages.n = in->gates.n = in->semas.n = 0;
	in->cells = 0;
	in->traps.area = 0;
	patch_set_deinit(&in->set);
}

void inject_end(struct injection *in)
{
	cleanup_uerr struct uerr *err = NULL;

	if (!in)
		return;
	if (in->t.mem_fd >= 0)
		place_undo(in);
	err = journal_flush(&in->journal);
	journal_close(&in->journal);
	tracee_close(&in->t);
	target_maps_deinit(&in->maps);
	inject_clear_work(in);
	vec_free(&in->pokes);
	vec_free(&in->stubs);
	vec_free(&in->stub_pages);
	vec_free(&in->exact);
	vec_free(&in->gates);
	vec_free(&in->shares);
	vec_free(&in->unmaps);
	vec_free(&in->semas);
	vec_free(&in->placed);
	free(in->threads);
	free(in);
}

/* ------------------------------------------------------- whom to ask */

struct uerr *inject_stop_all(struct injection *in)
{
	struct uerr *err = tracee_seize_all(&in->t);

	return err ? err : tracee_stop_all(&in->t);
}

static struct uerr *nobody_fits(const struct tracee *t, const char *why)
{
	return uerr_new(UERR_CANNOT_PROBE, "process %d (%s): no thread can make system calls for us: each %s", t->pid,
			t->comm, why);
}

struct uerr *inject_pick_stopped(struct injection *in, struct thread **ret)
{
	struct tracee *t = &in->t;
	const char *why = "has no thread";

	*ret = NULL;
	for (int strict = 1; strict >= 0; strict--)
		vec_foreach(th, &t->threads) {
			const char *unfit;

			/* A sibling that shares the memory has its own descriptors. */
			if (th->gone || !th->stopped || th->tgid != t->pid)
				continue;
			unfit = remote_unfit(t, &in->maps, th, strict);
			if (!unfit) {
				*ret = th;
				return NULL;
			}
			why = unfit;
		}
	return nobody_fits(t, why);
}

static void nap_us(unsigned us)
{
	struct timespec ts = { us / 1000000, us % 1000000 * 1000l };

	nanosleep(&ts, NULL);
}

/* One pass over the threads. */
static struct uerr *try_workers(struct injection *in, bool strict, struct thread **ret, const char **why)
{
	struct tracee *t = &in->t;
	cleanup_uerr struct uerr *last = NULL;

	for (size_t i = 0; i < t->threads.n; i++) {
		struct thread *th = &t->threads.data[i];

		uerr_free(last);
		last = tracee_stop_one(t, th);
		th = &t->threads.data[i];
		if (!last && th->stopped) {
			*why = remote_unfit(t, &in->maps, th, strict);
			if (!*why) {
				*ret = th;
				return NULL;
			}
		}
		tracee_detach(t, th);
	}
	return steal_ptr(last);
}

struct uerr *inject_stop_worker(struct injection *in, struct thread **ret)
{
	struct tracee *t = &in->t;
	u32 timeout = t->timeout_ms;
	struct uerr *err = NULL;
	const char *why = "has no thread";

	*ret = NULL;
	/* A thread may be in a handler or a coroutine just now, or wait for a CPU:
	 * a few tries, the last without the wish for a thread on its own stack. */
	for (int i = 0; i < 6 && !*ret && (!err || err->code == UERR_FAILED); i++) {
		if (i)
			nap_us(500 << i);
		tracee_release(t);
		uerr_free(err);
		err = tracee_list(t);
		if (!err && i)
			err = inject_refresh_maps(in);
		if (err)
			return err;
		if (t->timeout_ms > WORKER_TIMEOUT_MS << i && t->threads.n > 1)
			t->timeout_ms = WORKER_TIMEOUT_MS << i;
		err = try_workers(in, i < 5, ret, &why);
		t->timeout_ms = timeout;
	}
	if (err)
		tracee_release(t);
	return err || *ret ? err : nobody_fits(t, why);
}

/* ------------------------------------------------------------ the list */

struct uerr *inject_facts(struct injection *in, struct inject_facts *ret)
{
	struct uerr *err = in->have_facts ? NULL : facts_collect(in);

	if (!err)
		*ret = in->facts;
	return err;
}

struct uerr *inject_threads(struct injection *in, struct inject_thread **ret, size_t *nret)
{
	struct uerr *err = in->have_facts ? NULL : facts_collect(in);
	struct inject_thread *copy;

	if (err)
		return err;
	copy = calloc(in->nthreads + 1, sizeof(*copy));
	if (!copy)
		return uerr_nomem();
	if (in->nthreads)
		memcpy(copy, in->threads, in->nthreads * sizeof(*copy));
	*ret = copy;
	*nret = in->nthreads;
	return NULL;
}

struct uerr *inject_share(struct injection *in, addr_t addr, u64 size, int fd, bool readonly)
{
	struct share s = { .addr = addr, .size = size, .fd = fd, .readonly = readonly };
	bool known = false;
	struct stat st;

	vec_foreach(p, &in->placed)
		known |= p->kind == RANGE_MEMFD && p->addr == addr && size <= p->size;
	if (!known || !size || size % PAGE)
		return uerr_new(UERR_USAGE, "0x%lx is no range reserved for a memfd", addr);
	if (fstat(fd, &st))
		return uerr_errno(errno, "descriptor to be shared");
	s.inode = st.st_ino;
	return vec_push(&in->shares, s) ? NULL : uerr_nomem();
}

void inject_use_batch(struct injection *in, addr_t addr)
{
	in->batch_code = addr;
}

const u8 *inject_batch_code(size_t *size)
{
	*size = remote_batch_code_size();
	return remote_batch_code;
}

struct uerr *inject_poke(struct injection *in, addr_t addr, const void *bytes, size_t len)
{
	struct poke p = { .addr = addr, .len = len };
	bool known = false;

	vec_foreach(r, &in->placed)
		known |= (r->kind == RANGE_PRIVATE || r->kind == RANGE_CELLS) && addr >= r->addr && addr - r->addr <= r->size &&
			 len <= r->size - (addr - r->addr);
	if (!known)
		return uerr_new(UERR_USAGE, "0x%lx is in no private range of ours", addr);
	p.bytes = malloc(len + 1);
	if (!p.bytes)
		return uerr_nomem();
	memcpy(p.bytes, bytes, len);
	if (vec_push(&in->pokes, p))
		return NULL;
	free(p.bytes);
	return uerr_nomem();
}

struct uerr *inject_stub(struct injection *in, addr_t addr, const void *bytes, size_t len)
{
	struct stub_write s = { .addr = addr, .len = (u8)len };

	if (!len || len > sizeof(s.bytes) || addr % PAGE + len > PAGE)
		return uerr_new(UERR_USAGE, "stub of %lu bytes at 0x%lx", len, addr);
	memcpy(s.bytes, bytes, len);
	return vec_push(&in->stubs, s) ? NULL : uerr_nomem();
}

struct uerr *inject_gate(struct injection *in, addr_t addr, u64 size)
{
	return vec_push(&in->gates, (struct gate){ addr, addr + size }) ? NULL : uerr_nomem();
}

struct uerr *inject_patch(struct injection *in, const struct patch *p)
{
	if (!p->len || p->len + p->keep > (int)sizeof(p->old_bytes) || p->nmoves > ARRAY_SIZE(p->moves))
		return uerr_new(UERR_USAGE, "patch of %u bytes at 0x%lx", p->len, p->addr);
	return vec_push(&in->set.patches, *p) ? NULL : uerr_nomem();
}

struct uerr *inject_unmap(struct injection *in, addr_t addr, u64 size, bool is_code, bool (*entered)(void *arg),
			  void *arg)
{
	struct unmap_req u = { .addr = addr, .size = size, .is_code = is_code, .lo = addr, .hi = addr + size,
			       .entered = entered, .arg = arg };

	if (!size || (addr | size) % PAGE)
		return uerr_new(UERR_USAGE, "no range at 0x%lx", addr);
	return vec_push(&in->unmaps, u) ? NULL : uerr_nomem();
}

struct uerr *inject_unmap_counted(struct injection *in, addr_t addr, u64 size, addr_t lo, addr_t hi,
				  bool (*entered)(void *arg), void *arg)
{
	struct uerr *err = inject_unmap(in, addr, size, true, entered, arg);

	if (!err) {
		in->unmaps.data[in->unmaps.n - 1].lo = lo;
		in->unmaps.data[in->unmaps.n - 1].hi = hi;
		in->unmaps.data[in->unmaps.n - 1].is_counted = true;
	}
	return err;
}

struct uerr *inject_unmap_stubs(struct injection *in, addr_t addr, u64 size)
{
	struct uerr *err = inject_unmap(in, addr, size, true, NULL, NULL);

	if (!err)
		in->unmaps.data[in->unmaps.n - 1].is_stubs = true;
	return err;
}
