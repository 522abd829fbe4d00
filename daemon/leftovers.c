/* SPDX-License-Identifier: MIT */
/*
 * What a worker or a daemon left in processes when it died: known to journals
 * alone, undone by jobs, and tried again for as long as something stays (code that
 * an old word on a stack may lead to, a process that could not be stopped).
 * adopt.c and housekeep.c say when; see housekeep.h.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/cells.h"
#include "base/cleanup.h"
#include "base/trap.h"
#include "base/log.h"
#include "daemon/housekeep.h"
#include "daemon/job.h"
#include "daemon/target.h"
#include "injector/inject.h"

#define RETRY_NS 1000000000ull
#define RETRY_SHIFT_MAX 6u /* about a minute */

/* A process to look at again. */
static struct leftover *find(struct daemon *d, pid_t pid)
{
	vec_foreach(l, &d->leftovers)
		if (l->pid == pid)
			return l;
	return NULL;
}

static void forget(struct daemon *d, pid_t pid)
{
	struct leftover *l = find(d, pid);

	if (l)
		*l = d->leftovers.data[--d->leftovers.n];
}

/* Longer and longer, so that a process is not stopped every second for nothing. */
static void remember(struct daemon *d, pid_t pid)
{
	struct leftover *l = find(d, pid);

	if (!l && vec_push(&d->leftovers, (struct leftover){ .pid = pid }))
		l = &d->leftovers.data[d->leftovers.n - 1];
	if (!l)
		return;
	l->next_ns = monotonic_ns() + (RETRY_NS << l->tries);
	if (l->tries < RETRY_SHIFT_MAX)
		l->tries++;
}

struct undo_job {
	pid_t pid;
	bool again; /* not the first try */
};

static bool is_current(const struct journal *j)
{
	struct procinfo pi;
	struct uerr *err = procinfo_read(j->pid, &pi);
	bool same = !err && pi.starttime == j->starttime && !pi.zombie;

	uerr_free(err);
	return same;
}

static bool is_in_use(const struct target *t, addr_t addr)
{
	if (t->installed && (addr == t->threads_addr || addr == t->private_addr))
		return true;
	if (t->cells_addr && (addr == t->cells_addr || addr == t->cells_addr - CELL_STUBS_SIZE))
		return true;
	if (t->trap_addr && (addr == t->trap_addr || addr == t->trap_addr + TRAP_AREA_SIZE))
		return true;
	if (t->side_addr && addr == t->side_addr)
		return true;
	vec_foreach(a, &t->arenas)
		if (a->addr == addr)
			return true;
	vec_foreach(m, &t->mappings)
		if (m->addr == addr)
			return true;
	vec_foreach(p, &t->stub_pages)
		if (p->addr == addr)
			return true;
	return false;
}

/* Attached to again meanwhile, by T: its part of the journal is none of ours. */
static void keep_retired(struct journal *j, const struct target *t)
{
	size_t n = 0;

	for (size_t i = 0; i < j->nranges; i++)
		if (j->ranges[i].retired && !is_in_use(t, j->ranges[i].addr))
			j->ranges[n++] = j->ranges[i];
	j->nranges = n;
	j->nsites = j->nsemas = 0;
	j->sockets[0] = j->sockets[1] = 0;
}

/* Undoes what the journal at PATH says, if it is about the process that has the
 * number now. T: that process, where something of it is to stay. */
static struct uerr *undo_journal(const char *path, const struct target *t, struct inject_stats *stats)
{
	cleanup(journal_deinit) struct journal j = {};
	struct inject_opts opts = { .journal = path, .uid = (uid_t)-1, .gid = (gid_t)-1 };
	pid_t *children = NULL;
	size_t nchildren = 0;
	struct uerr *err;

	if (access(path, F_OK) != 0) /* the worker died when it had taken away all */
		return NULL;
	err = journal_read(path, &j);
	if (err)
		return err;
	if (!is_current(&j)) {
		unlink(path);
		return NULL;
	}
	opts.pid = j.pid;
	if (t)
		keep_retired(&j, t);
	for (size_t i = 0; i < j.nranges && !nchildren; i++)
		if (j.ranges[i].kind == RANGE_CODE)
			uerr_free(inject_descendants(j.pid, j.ranges[i].inode, &children, &nchildren));
	if (j.nranges || j.nsites || j.nsemas || j.sockets[0])
		err = inject_undo(&opts, &j, NULL, NULL, stats);
	for (size_t i = 0; i < nchildren; i++) {
		struct inject_opts co = { .pid = children[i], .uid = (uid_t)-1, .gid = (gid_t)-1 };
		struct inject_stats child_stats;

		uerr_free(inject_undo(&co, &j, NULL, NULL, &child_stats));
	}
	free(children);
	if (!err && !stats->retired && !t)
		unlink(path);
	return err;
}

static struct uerr *undo_work(struct job *job, struct packer *result)
{
	const struct undo_job *uj = job->arg;
	cleanup_free char *path = target_journal(job->d->cfg.state_dir, uj->pid);
	const struct target *t = state_target(job->d->state, uj->pid);
	struct inject_stats stats = {};
	struct uerr *err = path ? undo_journal(path, t && !t->leftover ? t : NULL, &stats) : uerr_nomem();

	pack_u32(result, stats.retired);
	return err;
}

/* Said once: what follows is our affair. */
static void report(struct job *job, const struct uerr *err, u32 retired)
{
	const struct undo_job *uj = job->arg;

	if (err && !uj->again)
		daemon_warn(job->d, "process %d: what an earlier worker or daemon left there could not be undone: %s",
			    uj->pid, err->message);
	else if (err)
		log_debug("process %d: %s", uj->pid, err->message);
	else if (retired && !uj->again)
		daemon_warn(job->d, "process %d: undone; some mappings stay (retired) until nothing can lead to them",
			    uj->pid);
	else if (!retired)
		log_info("process %d: what was left there is undone", uj->pid);
}

static void undo_done(struct job *job, struct uerr *err, struct unpacker *result)
{
	const struct undo_job *uj = job->arg;
	struct target *t = state_target(job->d->state, uj->pid);
	u32 retired = err ? 0 : unpack_u32(result);

	report(job, err, retired);
	if (err || retired)
		remember(job->d, uj->pid);
	else
		forget(job->d, uj->pid);
	uerr_free(err);
	if (!t || !t->leftover)
		return;
	leave_links(job->d, t);
	if (t->source)
		source_remove(job->d, t->source);
	state_remove_target(job->d->state, t);
}

static void undo_start(struct daemon *d, pid_t pid)
{
	struct undo_job *uj = calloc(1, sizeof(*uj));
	struct job *job = uj ? job_create(d, NULL, "undoing what was left", undo_work, undo_done, uj, free) : NULL;

	if (!job || !job_lock(job, pid)) {
		free(uj);
		free(job);
		log_err("process %d: out of memory, nothing is undone", pid);
		return;
	}
	*uj = (struct undo_job){ .pid = pid, .again = find(d, pid) };
	job->stops = true;
	job->urgent = !uj->again;
	job_submit_first(job); /* or it would undo what the others do */
}

/* What the worker had changed is known to the journal alone: all of it goes,
 * earlier links of these processes too. */
void cleanup_after_worker(struct daemon *d, const pid_vec *pids)
{
	vec_foreach(pid, pids) {
		cleanup_free char *path = target_journal(d->cfg.state_dir, *pid);
		struct target *t = state_target(d->state, *pid);

		if (!path || (access(path, F_OK) != 0 && !(t && t->windows.n)))
			continue;
		if (t) {
			t->leftover = true;
			vec_foreach(s, &t->sites)
				free(s->symbol);
			t->sites.n = 0;
			t->calls.n = 0;
		}
		undo_start(d, *pid);
	}
}

void leftovers_retry(struct daemon *d)
{
	u64 now = monotonic_ns();

	for (size_t i = d->leftovers.n; i-- > 0;) {
		pid_t pid = d->leftovers.data[i].pid;
		cleanup_free char *path = target_journal(d->cfg.state_dir, pid);

		if (now < d->leftovers.data[i].next_ns || job_busy(d, pid))
			continue;
		if (path && access(path, F_OK) == 0)
			undo_start(d, pid);
		else
			forget(d, pid);
	}
}
