/* SPDX-License-Identifier: MIT */
/* The daemon's half of attach and detach; see attach_job.h. */
#include "daemon/attach_job.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/housekeep.h"
#include "daemon/usdt_specs.h"

/*
 * Attach.
 */

struct attach_job {
	struct wanted *w;
	u32 object;       /* loaded by the same request, 0: none */
	uid_t uid;
	u64 client;
	VEC(u64) starttimes; /* of the processes, when they were asked for */
};

static void free_attach_job(void *arg)
{
	struct attach_job *aj = arg;

	vec_free(&aj->starttimes);

	wanted_destroy(aj->w);
	free(aj);
}

void wanted_set_peer(struct wanted *w, const struct peer *p)
{
	if (peer_is_master(p) || geteuid() != 0)
		return;
	w->uid = p->uid;
	w->gid = p->gid;
}

static void touch(void *arg)
{
	job_touching(arg);
}

static struct uerr *attach_work(struct job *job, struct packer *result)
{
	const struct attach_job *aj = job->arg;
	struct outcome o = {};

	attach_run(job->d, aj->w, touch, job, &o);
	outcome_pack(&o, result);
	return NULL;
}

static struct uerr *make_links(struct daemon *d, const struct attach_job *aj)
{
	vec_foreach(g, &aj->w->groups) {
		vec_foreach(p, &g->programs) {
			struct program *prog = state_program(d->state, p->program);
			bool exit = (p->side ? p->side : p->section) == SIDE_EXIT;
			struct link *l;

			if (!prog)
				return uerr_new(UERR_FAILED, "the program was unloaded meanwhile");
			l = link_create(p->link, prog, exit, (const char *const *)g->specs.data, g->specs.n);
			if (!l || !vec_push(&d->state->links, l)) {
				link_destroy(l);
				return uerr_nomem();
			}
			l->uid = aj->uid;
			l->client = aj->client;
		}
	}
	return NULL;
}

static bool is_new_link(const struct attach_job *aj, u32 link)
{
	vec_foreach(g, &aj->w->groups)
		vec_foreach(p, &g->programs)
			if (p->link == link)
				return true;
	return false;
}

static void add_sites(cJSON *array, const struct attach_job *aj, const struct target *t)
{
	vec_foreach(s, &t->sites)
		if (is_new_link(aj, s->link))
			cJSON_AddItemToArray(array, view_site(t, s));
}

/* The sites in the order of the processes, then as they were planned: the order
 * of cookies. */
static cJSON *reply_sites(const struct daemon *d, const struct attach_job *aj, const struct outcome *o)
{
	cJSON *array = cJSON_CreateArray();

	vec_foreach(pid, &aj->w->pids) {
		const struct target *t = aj->w->dry_run ? NULL : state_target(d->state, *pid);

		if (t)
			add_sites(array, aj, t);
		else if (aj->w->dry_run)
			vec_foreach(dry, &o->targets)
				if ((*dry)->pid == *pid)
					add_sites(array, aj, *dry);
	}
	return array;
}

/* A link with entry and exit places is called by what it has first. */
static void settle_link(const struct daemon *d, struct link *l)
{
	vec_foreach(t, &d->state->targets)
		vec_foreach(s, &(*t)->sites)
			if (s->link == l->id) {
				l->exit = s->exit;
				return;
			}
}

static cJSON *reply_links(const struct daemon *d, const struct attach_job *aj)
{
	cJSON *array = cJSON_CreateArray();

	vec_foreach(l, &d->state->links)
		if (is_new_link(aj, (*l)->id)) {
			settle_link(d, *l);
			cJSON_AddItemToArray(array, view_link(d, *l));
		}
	return array;
}

static cJSON *reply_refused(const struct outcome *o)
{
	cJSON *array = cJSON_CreateArray();

	vec_foreach(r, &o->refused) {
		cJSON *item = cJSON_CreateObject();

		cJSON_AddNumberToObject(item, "pid", r->pid);
		cJSON_AddStringToObject(item, "symbol", r->symbol);
		cJSON_AddStringToObject(item, "reason", r->reason);
		cJSON_AddItemToArray(array, item);
	}
	return array;
}

static cJSON *reply_stops(const struct outcome *o)
{
	cJSON *array = cJSON_CreateArray();

	vec_foreach(s, &o->stops)
		cJSON_AddItemToArray(array, view_stop(s));
	return array;
}

static void reply_attach(struct job *job, const struct attach_job *aj, const struct outcome *o)
{
	const struct loaded *object = aj->object ? state_object(job->d->state, aj->object) : NULL;
	cJSON *r = cJSON_CreateObject();

	if (object) {
		cJSON_AddItemToObject(r, "object", view_object(job->d, object));
		cJSON_AddItemToObject(r, "programs", view_programs(job->d, object));
		cJSON_AddItemToObject(r, "maps", view_maps(object));
	}
	cJSON_AddItemToObject(r, "links", reply_links(job->d, aj));
	cJSON_AddItemToObject(r, "sites", reply_sites(job->d, aj, o));
	cJSON_AddItemToObject(r, "refused", reply_refused(o));
	cJSON_AddItemToObject(r, "stops", reply_stops(o));
	if (aj->object)
		cJSON_AddArrayToObject(r, "warnings");
	request_reply(job->req, r);
}

/* Processes that were made targets for this request and got nothing. */
static void drop_clean_targets(struct daemon *d, const struct attach_job *aj)
{
	vec_foreach(pid, &aj->w->pids) {
		struct target *t = state_target(d->state, *pid);

		if (!t || !target_is_clean(t) || job_busy(d, *pid))
			continue;
		if (t->source)
			source_remove(d, t->source);
		state_remove_target(d->state, t);
	}
}

static void drop_links(struct daemon *d, const struct attach_job *aj)
{
	vec_foreach(g, &aj->w->groups)
		vec_foreach(p, &g->programs) {
			const struct program *prog = state_program(d->state, p->program);

			if (prog)
				usdt_specs_free(prog->owner, p->link);
		}
	for (size_t i = d->state->links.n; i-- > 0;)
		if (is_new_link(aj, d->state->links.data[i]->id))
			state_remove_link(d->state, d->state->links.data[i]);
}

static void unload_after(struct daemon *d, struct request *req, const struct outcome *o, void *arg)
{
	struct loaded *object = state_object(d->state, (u32)(uintptr_t)arg);

	(void)req;
	(void)o;
	if (object)
		state_remove_object(d->state, object);
}

/* Nobody is there any more to tell, or what was attached cannot be kept: it is
 * taken away again. */
static void undo_attach(struct daemon *d, const struct attach_job *aj)
{
	VEC(u32) ids = {};

	vec_foreach(g, &aj->w->groups)
		vec_foreach(p, &g->programs)
			if (!vec_push(&ids, p->link))
				log_err("out of memory: link %u stays attached", p->link);
	detach_job_start(d, NULL, ids.data, ids.n, unload_after, (void *)(uintptr_t)aj->object);
	vec_free(&ids);
}

static void attach_failed(struct job *job, struct attach_job *aj, struct uerr *err)
{
	struct loaded *object = aj->object ? state_object(job->d->state, aj->object) : NULL;

	drop_links(job->d, aj);
	if (object) {
		state_remove_object(job->d->state, object);
		err = uerr_prefix(err, "nothing was loaded");
	}
	if (job->req)
		request_fail(job->req, err);
	else
		uerr_free(err);
}

static void attach_succeeded(struct job *job, struct attach_job *aj, struct outcome *o)
{
	struct uerr *err = aj->w->dry_run ? NULL : make_links(job->d, aj);

	if (!aj->w->dry_run)
		outcome_apply(job->d, o);
	if (!err && job->req && job->req->client) {
		reply_attach(job, aj, o);
		if (aj->w->dry_run) /* what it took for its arguments' description */
			drop_links(job->d, aj);
		return;
	}
	undo_attach(job->d, aj);
	if (!err)
		err = uerr_new(UERR_FAILED, "the client is gone");
	drop_links(job->d, aj);
	if (job->req)
		request_fail(job->req, err);
	else
		uerr_free(err);
}

static void attach_done(struct job *job, struct uerr *err, struct unpacker *result)
{
	struct attach_job *aj = job->arg;
	struct outcome o = {};

	if (!err)
		err = outcome_unpack(result, &o);
	if (!err)
		err = steal_ptr(o.err);
	if (err) {
		if (!aj->w->dry_run)
			outcome_apply(job->d, &o);
		attach_failed(job, aj, err);
	} else {
		attach_succeeded(job, aj, &o);
	}
	drop_clean_targets(job->d, aj);
	outcome_deinit(&o, true);
}

/* The process as a target; a number that another process had before is another
 * target. */
static struct uerr *need_target(struct daemon *d, pid_t pid)
{
	struct target *t = state_target(d->state, pid), *fresh;
	struct procinfo pi;
	struct uerr *err = procinfo_read(pid, &pi);
	u32 no;

	if (err)
		return err;
	if (t && t->starttime != pi.starttime)
		cleanup_after_target(d, t);
	else if (t)
		return NULL;
	no = state_new_target_no(d->state);
	if (!no)
		return uerr_new(UERR_FAILED, "too many targets at once");
	err = target_create(no, pid, &fresh);
	if (err)
		return err;
	if (!vec_push(&d->state->targets, fresh)) {
		target_destroy(fresh);
		return uerr_nomem();
	}
	return NULL;
}

/* While the job waited, the target may have ended, or been taken out of the state
 * by whoever undid what a dead worker had left there. */
static struct uerr *attach_before(struct job *job)
{
	const struct attach_job *aj = job->arg;

	for (size_t i = 0; i < aj->w->pids.n; i++) {
		pid_t pid = aj->w->pids.data[i];
		struct uerr *err = need_target(job->d, pid);

		if (!err && state_target(job->d->state, pid)->starttime != aj->starttimes.data[i])
			err = uerr_new(UERR_NO_TARGET, "process %d has ended", pid);
		if (err)
			return err;
	}
	return NULL;
}

static struct uerr *start(struct request *req, struct attach_job *aj)
{
	struct daemon *d = req->d;
	struct uerr *err = NULL;
	struct job *job;

	if (d->stopping)
		return uerr_new(UERR_FAILED, "the daemon is stopping");
	vec_foreach(g, &aj->w->groups)
		vec_foreach(p, &g->programs)
			p->link = ++d->state->last_link;
	vec_foreach(pid, &aj->w->pids) {
		err = need_target(d, *pid);
		if (!err && !vec_push(&aj->starttimes, state_target(d->state, *pid)->starttime))
			err = uerr_nomem();
		if (err)
			return err;
	}
	job = job_create(d, req, "attaching", attach_work, attach_done, aj, free_attach_job);
	if (!job)
		return uerr_nomem();
	vec_foreach(pid, &aj->w->pids)
		(void)!job_lock(job, *pid);
	job->before = attach_before;
	job->stops = !aj->w->dry_run;
	job_submit(job);
	return NULL;
}

void attach_job_start(struct request *req, struct wanted *w, struct loaded *object, u64 client)
{
	struct attach_job *aj = calloc(1, sizeof(*aj));
	struct daemon *d = req->d;
	struct uerr *err;

	if (!aj) {
		wanted_destroy(w);
		request_fail(req, uerr_nomem());
		return;
	}
	wanted_set_peer(w, &req->peer);
	*aj = (struct attach_job){ .w = w, .object = object ? object->id : 0, .uid = req->peer.uid, .client = client };
	err = start(req, aj);
	if (!err)
		return;
	drop_clean_targets(d, aj);
	if (object)
		state_remove_object(d->state, object);
	free_attach_job(aj);
	request_fail(req, err);
}

/*
 * Detach.
 */

struct detach_job {
	VEC(u32) links;
	pid_vec pids;
	uid_t uid;
	gid_t gid;
	detach_then *then;
	void *arg;
};

static void free_detach_job(void *arg)
{
	struct detach_job *dj = arg;

	vec_free(&dj->links);
	vec_free(&dj->pids);
	free(dj);
}

static struct uerr *detach_work(struct job *job, struct packer *result)
{
	const struct detach_job *dj = job->arg;
	struct outcome o = {};

	job_touching(job);
	detach_run(job->d, &dj->pids, dj->links.data, dj->links.n, dj->uid, dj->gid, &o);
	outcome_pack(&o, result);
	return NULL;
}

/* A link that is in no process any more ends. */
static void end_links(struct daemon *d, const struct detach_job *dj)
{
	vec_foreach(id, &dj->links) {
		struct link *l = state_link(d->state, *id);
		bool somewhere = false;

		vec_foreach(t, &d->state->targets)
			somewhere = somewhere || target_has_link(*t, *id);
		if (l && !somewhere)
			state_remove_link(d->state, l);
	}
}

static void detach_done(struct job *job, struct uerr *err, struct unpacker *result)
{
	struct detach_job *dj = job->arg;
	struct outcome o = {};

	if (err)
		o.err = err;
	else
		err = outcome_unpack(result, &o);
	if (err && !o.err)
		o.err = err;
	else if (err && err != o.err)
		uerr_free(err);
	outcome_apply(job->d, &o);
	end_links(job->d, dj);
	if (o.err && !job->req)
		log_warning("detaching: %s", o.err->message);
	if (dj->then)
		dj->then(job->d, job->req, &o, dj->arg);
	outcome_deinit(&o, true);
}

static bool add_link_pids(struct daemon *d, struct detach_job *dj, u32 link)
{
	vec_foreach(t, &d->state->targets)
		if (target_has_link(*t, link) && !pid_vec_has(&dj->pids, (*t)->pid) &&
		    !vec_push(&dj->pids, (*t)->pid))
			return false;
	return vec_push(&dj->links, link);
}

void detach_job_start(struct daemon *d, struct request *req, const u32 *links, size_t nlinks, detach_then *then,
		      void *arg)
{
	struct detach_job *dj = calloc(1, sizeof(*dj));
	struct job *job = dj ? job_create(d, req, "detaching", detach_work, detach_done, dj, free_detach_job) : NULL;
	bool ok = job;

	for (size_t i = 0; ok && i < nlinks; i++)
		ok = add_link_pids(d, dj, links[i]);
	if (!ok) {
		struct outcome o = { .err = uerr_nomem() };

		if (then)
			then(d, req, &o, arg);
		return;
	}
	dj->uid = (uid_t)-1;
	dj->gid = (gid_t)-1;
	if (req && !peer_is_master(&req->peer) && geteuid() == 0) {
		dj->uid = req->peer.uid;
		dj->gid = req->peer.gid;
	}
	dj->then = then;
	dj->arg = arg;
	vec_foreach(pid, &dj->pids)
		ok = ok && job_lock(job, *pid);
	job->stops = true;
	job_submit(job);
}
