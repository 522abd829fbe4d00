/* SPDX-License-Identifier: MIT */
/* Cleaning up after whatever ended; see housekeep.h. */
#include "daemon/housekeep.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/attach_job.h"
#include "daemon/job.h"
#include "daemon/target.h"
#include "injector/inject.h"

#define RETRY_NS 1000000000ull        /* of retired ranges */
#define IDLE_NS 3000000000ull         /* --private */
#define FIRST_IDLE_NS 15000000000ull  /* … before the first client */

/*
 * After a client.
 */

static void unload_ephemeral(struct daemon *d, u64 client)
{
	for (size_t i = d->state->objects.n; i-- > 0;)
		if (d->state->objects.data[i]->client == client)
			state_remove_object(d->state, d->state->objects.data[i]);
}

/* The client's number, as long as pointers hold it. */
static void links_gone(struct daemon *d, struct request *req, const struct outcome *o, void *arg)
{
	(void)req;
	(void)o;
	unload_ephemeral(d, (u64)(uintptr_t)arg);
}

void cleanup_after_client(struct daemon *d, u64 client)
{
	VEC(u32) links = {};

	vec_foreach(l, &d->state->links)
		if ((*l)->client == client && !vec_push(&links, (*l)->id))
			log_err("out of memory: link %u stays", (*l)->id);
	if (links.n)
		detach_job_start(d, NULL, links.data, links.n, links_gone, (void *)(uintptr_t)client);
	else
		unload_ephemeral(d, client);
	vec_free(&links);
	d->idle_since_ns = monotonic_ns();
}

/*
 * After a target.
 */

static void recover_thread(struct daemon *d, const struct target *t, u32 i)
{
	struct thread_rec *rec = threads_rec(t->threads, i);
	u32 owner = OWNER_ID(t->threads->no, i);

	vec_foreach(o, &d->state->objects) {
		for (size_t m = 0; m < (*o)->obj->nmaps; m++)
			umap_recover(&(*o)->maps[m].umap, rec, owner);
		if ((*o)->claims)
			umap_claims_recover((*o)->claims, d->state->ncpus, owner);
	}
	memset(rec->intents, 0, sizeof(rec->intents));
	rec->depth = 0;
	rec->stack_lo = rec->stack_hi = 0;
	__atomic_store_n(&rec->tid, 0, __ATOMIC_RELEASE);
}

/* Threads that ended: what they left half done in maps is finished, and their
 * records are free again. ALL: the whole process is gone. */
static void recover_threads(struct daemon *d, const struct target *t, bool all)
{
	for (u32 i = 0; i < THREAD_RECS_DEFAULT; i++) {
		u32 tid = __atomic_load_n(&threads_rec(t->threads, i)->tid, __ATOMIC_ACQUIRE);

		if (tid && (all || !procinfo_thread_alive(t->pid, tid)))
			recover_thread(d, t, i);
	}
}

static void leave_links(struct daemon *d, struct target *t)
{
	for (size_t i = d->state->links.n; i-- > 0;) {
		struct link *l = d->state->links.data[i];

		if (!link_has_pid(l, t->pid))
			continue;
		link_remove_target(l, t);
		/* one that a client holds answers GetMissed until that goes */
		if (!l->targets.n && !l->client)
			state_remove_link(d->state, l);
	}
}

void cleanup_after_target(struct daemon *d, struct target *t)
{
	cleanup_free char *journal = target_journal(d->cfg.state_dir, t->pid);

	log_debug("process %d (%s) has ended", t->pid, t->comm);
	if (t->threads->refs == 1)
		recover_threads(d, t, true);
	leave_links(d, t);
	if (journal)
		unlink(journal);
	if (t->source)
		source_remove(d, t->source);
	state_remove_target(d->state, t);
}

/*
 * After a worker.
 */

struct undo_job {
	pid_t pid;
	u64 starttime;
};

static bool is_current(const struct journal *j)
{
	struct procinfo pi;
	struct uerr *err = procinfo_read(j->pid, &pi);
	bool same = !err && pi.starttime == j->starttime && !pi.zombie;

	uerr_free(err);
	return same;
}

/* Undoes what the journal at PATH says, if it is about the process that has the
 * number now. */
static struct uerr *undo_journal(const char *path, struct inject_stats *stats)
{
	cleanup(journal_deinit) struct journal j = {};
	struct inject_opts opts = { .journal = path, .uid = (uid_t)-1, .gid = (gid_t)-1 };
	pid_t *children = NULL;
	size_t nchildren = 0;
	struct uerr *err = journal_read(path, &j);

	if (err)
		return err;
	if (!is_current(&j)) {
		unlink(path);
		return NULL;
	}
	opts.pid = j.pid;
	for (size_t i = 0; i < j.nranges && !nchildren; i++)
		if (j.ranges[i].kind == RANGE_CODE)
			uerr_free(inject_descendants(j.pid, j.ranges[i].inode, &children, &nchildren));
	if (j.nranges || j.nsites)
		err = inject_undo(&opts, &j, NULL, NULL, stats);
	for (size_t i = 0; i < nchildren; i++) {
		struct inject_opts co = { .pid = children[i], .uid = (uid_t)-1, .gid = (gid_t)-1 };
		struct inject_stats child_stats;

		uerr_free(inject_undo(&co, &j, NULL, NULL, &child_stats));
	}
	free(children);
	if (!err && !stats->retired)
		unlink(path);
	return err;
}

static struct uerr *undo_work(struct job *job, struct packer *result)
{
	const struct undo_job *uj = job->arg;
	cleanup_free char *path = target_journal(job->d->cfg.state_dir, uj->pid);
	struct inject_stats stats = {};
	struct uerr *err = path ? undo_journal(path, &stats) : uerr_nomem();

	pack_u32(result, stats.retired);
	return err;
}

static void undo_done(struct job *job, struct uerr *err, struct unpacker *result)
{
	const struct undo_job *uj = job->arg;
	struct target *t = state_target(job->d->state, uj->pid);

	if (err)
		daemon_warn(job->d, "process %d: what an earlier worker or daemon left there could not be undone: %s",
			    uj->pid, err->message);
	else if (unpack_u32(result))
		daemon_warn(job->d, "process %d: undone; some mappings stay (retired)", uj->pid);
	else
		log_info("process %d: what was left there is undone", uj->pid);
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
	struct job *job = uj ? job_create(d, NULL, "undoing what was left") : NULL;

	if (!job || !job_lock(job, pid)) {
		free(uj);
		free(job);
		log_err("process %d: out of memory, nothing is undone", pid);
		return;
	}
	uj->pid = pid;
	job->work = undo_work;
	job->done = undo_done;
	job->arg = uj;
	job->free_arg = free;
	job_submit(job);
}

/* What the worker had changed is known to the journal alone: all of it goes,
 * earlier links of these processes too. */
void cleanup_after_worker(struct daemon *d, const pid_vec *pids)
{
	vec_foreach(pid, pids) {
		cleanup_free char *path = target_journal(d->cfg.state_dir, *pid);
		struct target *t = state_target(d->state, *pid);

		if (!path || access(path, F_OK) != 0)
			continue;
		if (t) {
			t->leftover = true;
			t->sites.n = 0;
			t->calls.n = 0;
		}
		undo_start(d, *pid);
	}
}

/*
 * Once a second.
 */

static struct uerr *retry_work(struct job *job, struct packer *result)
{
	struct outcome o = {};

	job_touching(job);
	detach_run(job->d, &job->pids, NULL, 0, (uid_t)-1, (gid_t)-1, &o);
	outcome_pack(&o, result);
	return NULL;
}

static void retry_done(struct job *job, struct uerr *err, struct unpacker *result)
{
	struct outcome o = {};

	if (!err)
		err = outcome_unpack(result, &o);
	if (err || o.err)
		log_debug("retired ranges: %s", err ? err->message : o.err->message);
	uerr_free(err);
	outcome_apply(job->d, &o);
	outcome_deinit(&o, true);
}

/* Longer and longer, so that a process which is always inside is not stopped
 * every second for nothing. */
static void retry_retired(struct daemon *d, struct target *t)
{
	u64 now = monotonic_ns();
	struct job *job;

	if (!target_retired(t) && (t->sites.n || !t->installed))
		return;
	if (now < t->next_retry_ns || t->leftover || job_busy(d, t->pid))
		return;
	job = job_create(d, NULL, "unmapping retired ranges");
	if (!job || !job_lock(job, t->pid)) {
		free(job);
		return;
	}
	t->retries = t->retries < 6 ? t->retries + 1 : 6;
	t->next_retry_ns = now + (RETRY_NS << t->retries);
	job->work = retry_work;
	job->done = retry_done;
	job_submit(job);
}

static bool is_gone(const struct target *t)
{
	struct procinfo pi;
	struct uerr *err = procinfo_read(t->pid, &pi);
	bool gone = err || pi.starttime != t->starttime || pi.zombie;

	uerr_free(err);
	return gone;
}

static void stop_everything(struct daemon *d)
{
	VEC(u32) links = {};

	vec_foreach(l, &d->state->links)
		if (!vec_push(&links, (*l)->id))
			break;
	if (links.n && !d->jobs.n && !d->cfg.keep)
		detach_job_start(d, NULL, links.data, links.n, NULL, NULL);
	vec_free(&links);
}

static void end_when_idle(struct daemon *d)
{
	u64 limit = d->last_client ? IDLE_NS : FIRST_IDLE_NS;

	if (d->clients.n || d->jobs.n || d->state->objects.n || d->state->links.n)
		d->idle_since_ns = monotonic_ns();
	else if (monotonic_ns() - d->idle_since_ns > limit)
		daemon_stop(d);
}

void housekeep(struct daemon *d)
{
	bool following = false;

	vec_foreach(c, &d->clients)
		following = following || client_follows(*c);
	if (!following)
		daemon_set_timer(d, false);
	jobs_housekeep(d);
	for (size_t i = d->state->targets.n; i-- > 0;) {
		struct target *t = d->state->targets.data[i];

		if (is_gone(t) && !job_busy(d, t->pid)) {
			cleanup_after_target(d, t);
			continue;
		}
		if (t->installed)
			recover_threads(d, t, false);
		retry_retired(d, t);
	}
	if (d->stopping)
		stop_everything(d);
	else if (d->cfg.private_)
		end_when_idle(d);
}

bool all_detached(const struct daemon *d)
{
	if (d->cfg.keep)
		return !d->jobs.n;
	return !d->jobs.n && (!d->state->links.n || monotonic_ns() > d->stop_deadline_ns);
}
