/* SPDX-License-Identifier: MIT */
/* What a worker hands back; see outcome.h. */
#include "daemon/outcome.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/job.h"
#include "daemon/recover.h"
#include "daemon/spaces.h"

bool outcome_add(struct outcome *o, struct target *t)
{
	vec_foreach(known, &o->targets)
		if (*known == t)
			return true;
	return vec_push(&o->targets, t);
}

void outcome_add_new(struct outcome *o, const struct daemon *d, size_t known)
{
	for (size_t i = known; i < d->state->targets.n; i++)
		if (!outcome_add(o, d->state->targets.data[i]) && !o->err)
			o->err = uerr_nomem();
}

void outcome_deinit(struct outcome *o, bool owns_targets)
{
	uerr_free(o->err);
	vec_free(&o->stops);
	refused_deinit(&o->refused);
	if (owns_targets)
		vec_foreach(t, &o->targets)
			target_destroy(*t);
	vec_free(&o->targets);
	*o = (struct outcome){};
}

void outcome_pack(const struct outcome *o, struct packer *p)
{
	pack_u8(p, o->err != NULL);
	if (o->err)
		pack_err(p, o->err);
	pack_u32(p, o->stops.n);
	pack_bytes(p, o->stops.data, o->stops.n * sizeof(*o->stops.data));
	pack_u32(p, o->refused.n);
	vec_foreach(r, &o->refused) {
		pack_u32(p, r->pid);
		pack_str(p, r->symbol);
		pack_str(p, r->reason);
	}
	pack_u32(p, o->targets.n);
	vec_foreach(t, &o->targets)
		target_pack(*t, p);
}

static void unpack_stops(struct unpacker *u, struct outcome *o)
{
	for (size_t i = 0, n = unpack_count(u, sizeof(struct stop)); i < n && !u->failed; i++) {
		struct stop s;

		unpack_bytes(u, &s, sizeof(s));
		s.comm[sizeof(s.comm) - 1] = 0;
		if (!vec_push(&o->stops, s))
			u->failed = true;
	}
}

static void unpack_refused(struct unpacker *u, struct outcome *o)
{
	for (size_t i = 0, n = unpack_count(u, 12); i < n && !u->failed; i++) {
		struct refused r = { .pid = unpack_u32(u) };

		r.symbol = unpack_str(u);
		r.reason = unpack_str(u);
		if (!r.symbol || !r.reason || !vec_push(&o->refused, r)) {
			free(r.symbol);
			free(r.reason);
			u->failed = true;
		}
	}
}

struct uerr *outcome_unpack(struct unpacker *u, struct outcome *ret)
{
	*ret = (struct outcome){};
	if (unpack_u8(u))
		ret->err = unpack_err(u);
	unpack_stops(u, ret);
	unpack_refused(u, ret);
	for (size_t i = 0, n = unpack_count(u, 64); i < n && !u->failed; i++) {
		struct target *t;
		struct uerr *err = target_unpack(u, &t);

		if (err)
			return err;
		if (!vec_push(&ret->targets, t)) {
			target_destroy(t);
			return uerr_nomem();
		}
	}
	return u->failed ? uerr_new(UERR_FAILED, "the worker's answer makes no sense") : NULL;
}

/* The exit of a target is noticed at once. */
static void watch(struct daemon *d, struct target *t)
{
	struct source *src = calloc(1, sizeof(*src));
	struct uerr *err;

	t->pidfd = syscall(SYS_pidfd_open, t->pid, 0);
	if (t->pidfd < 0 || !src) {
		free(src);
		return; /* housekeeping will notice */
	}
	*src = (struct source){ .kind = SOURCE_TARGET, .fd = t->pidfd, .owner = t };
	t->source = src;
	err = source_add(d, src, EPOLLIN);
	uerr_free(err);
}

/* Links that are in T and do not know, or know and are not. */
static void sync_links(struct state *s, const struct target *t)
{
	vec_foreach(l, &s->links) {
		if (target_has_link(t, (*l)->id))
			link_add_target(*l, t);
		else if (link_has_pid(*l, t->pid))
			link_remove_target(*l, t);
	}
}

/* A fork child brings its parent's number: its records are the parent's. */
static struct threads *find_threads(const struct state *s, u32 no)
{
	vec_foreach(t, &s->targets)
		if ((*t)->threads->no == no)
			return (*t)->threads;
	return NULL;
}

static struct target *apply_one(struct daemon *d, struct target *t)
{
	struct target *known = state_target(d->state, t->pid);
	struct threads *threads = find_threads(d->state, t->no);

	if (!threads) {
		log_warning("process %d: a fork child whose parent is not known any more", t->pid);
		target_destroy(t);
		return NULL;
	}
	if (known) {
		if (target_is_clean(t))
			recover_dead_threads(d, known);
		threads_ref(threads);
		target_replace(known, t);
		threads_unref(known->threads);
		known->threads = threads;
		return known;
	}
	t->threads = threads_ref(threads);
	if (!vec_push(&d->state->targets, t)) {
		target_destroy(t);
		return NULL;
	}
	return t;
}

void outcome_apply(struct daemon *d, struct outcome *o)
{
	vec_foreach(s, &o->stops)
		if (s->traps_lost)
			daemon_warn(d, "process %d (%s) has installed a handler of SIGTRAP that is not ours: the %u breakpoints in "
				       "it were taken out", s->pid, s->comm, s->traps_lost);
	/* Parents stay until their children have found them. */
	vec_foreach(it, &o->targets)
		*it = apply_one(d, *it);
	vec_foreach(it, &o->targets) {
		struct target *t = *it;

		if (!t)
			continue;
		sync_links(d->state, t);
		spaces_note(d->state, t);
		/* Whoever waits for its turn with this process has counted on it. */
		if (target_is_clean(t) && !job_busy(d, t->pid)) {
			if (t->source)
				source_remove(d, t->source);
			state_remove_target(d->state, t);
		} else if (t->pidfd < 0) {
			watch(d, t);
		}
	}
	o->targets.n = 0;
}
