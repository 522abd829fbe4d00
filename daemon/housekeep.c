/* SPDX-License-Identifier: MIT */
/* Cleaning up after whatever ended; see housekeep.h. */
#include "daemon/housekeep.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/attach_job.h"
#include "daemon/job.h"
#include "daemon/recover.h"
#include "daemon/target.h"
#include "daemon/traps.h"
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
		/* one that follows a map is told, and may ask for something else at once */
		if (i < d->state->objects.n && d->state->objects.data[i]->client == client)
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

/* Of several that share a table one is enough. */
static bool is_first_with_table(const struct daemon *d, const struct target *t)
{
	vec_foreach(other, &d->state->targets)
		if ((*other)->installed && (*other)->threads == t->threads)
			return *other == t;
	return false;
}

void leave_links(struct daemon *d, struct target *t)
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
	recover_ended(d, t);
	leave_links(d, t);
	if (journal)
		unlink(journal);
	if (t->source)
		source_remove(d, t->source);
	state_remove_target(d->state, t);
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

	if (!target_retired(t) && (t->sites.n || !t->installed) && !traps_uncaught(t))
		return;
	if (now < t->next_retry_ns || t->leftover || job_busy(d, t->pid))
		return;
	job = job_create(d, NULL, "unmapping retired ranges", retry_work, retry_done, NULL, NULL);
	if (!job || !job_lock(job, t->pid)) {
		free(job);
		return;
	}
	t->retries = t->retries < 6 ? t->retries + 1 : 6;
	t->next_retry_ns = now + (RETRY_NS << t->retries);
	job->stops = true;
	job_submit(job);
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

		if (target_is_gone(t) && !job_busy(d, t->pid)) {
			cleanup_after_target(d, t);
			continue;
		}
		if (t->installed && is_first_with_table(d, t))
			recover_dead_threads(d, t);
		retry_retired(d, t);
	}
	leftovers_retry(d);
	if (d->heap_used) {
		/* What a reply of forty thousand sites took lies between what stays. */
		malloc_trim(0);
		d->heap_used = false;
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
