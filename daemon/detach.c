/* SPDX-License-Identifier: MIT */
/*
 * Taking links out of processes, in the worker; see attach.h. Fork children
 * count as part of the process: the detach is done when they are clean too.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/attach.h"
#include "daemon/family.h"
#include "daemon/loaded.h"
#include "daemon/rewrite.h"
#include "daemon/traps.h"

#define FORK_RACES 4 /* a child forked while its parent is being changed */

static bool is_in(const u32 *links, size_t n, u32 link)
{
	for (size_t i = 0; i < n; i++)
		if (links[i] == link)
			return true;
	return false;
}

/* The sites and calls of LINKS leave the target. */
static void forget(struct target *t, const u32 *links, size_t nlinks)
{
	size_t n = 0;

	vec_foreach(c, &t->calls)
		if (!is_in(links, nlinks, c->link))
			t->calls.data[n++] = *c;
	t->calls.n = n;
	n = 0;
	vec_foreach(s, &t->sites) {
		if (is_in(links, nlinks, s->link))
			free(s->symbol);
		else
			t->sites.data[n++] = *s;
	}
	t->sites.n = n;
}

static struct uerr *detach_one(const struct rewrite_opts *opts, struct target *t, const u32 *links, size_t nlinks,
			       struct outcome *out)
{
	change_vec changes = {};
	struct stop stop = { .pid = t->pid };
	VEC(u32) all = {};
	struct uerr *err = NULL;

	err = rewrite_check_traps(opts, t, &stop);
	if (err && !stop.traps_lost) { /* nobody could be asked: no reason not to go */
		uerr_free(err);
		err = NULL;
	}
	for (size_t i = 0; !err && i < nlinks; i++)
		err = vec_push(&all, links[i]) ? NULL : uerr_nomem();
	/* Guards, whose link is none, go with the last that needs them. */
	if (!err && (target_has_guards(t) || target_watches_identity(t)) && !target_takes_over(t, links, nlinks) &&
	    !target_asks_identity(opts->d->state, t, links, nlinks) && !vec_push(&all, 0))
		err = uerr_nomem();
	if (!err && traps_guarded(t)) {
		if (!vec_push(&all, TRAP_LINK))
			err = uerr_nomem();
		else if (traps_wanted(t, all.data, all.n))
			all.n--;
	}
	if (!err && !rewrite_windows_of(t, all.data, all.n, &changes))
		err = uerr_nomem();
	if (!err)
		forget(t, all.data, all.n);
	vec_free(&all);
	if (!err)
		err = rewrite_run(opts, t, &changes, &stop);
	if (!err && (!vec_push(&out->stops, stop) || !outcome_add(out, t)))
		err = uerr_nomem();
	vec_free(&changes);
	return err;
}

/* The relatives of T from the state's FIRST target on; they share its records. */
static struct uerr *detach_family(const struct rewrite_opts *opts, struct daemon *d, const struct target *t,
				  size_t first, const u32 *links, size_t nlinks, struct outcome *out)
{
	struct uerr *err = NULL;

	for (size_t i = first; !err && i < d->state->targets.n; i++) {
		struct target *c = d->state->targets.data[i];

		if (c == t || c->threads != t->threads)
			continue;
		err = detach_one(opts, c, links, nlinks, out);
		if (err && err->code == UERR_NO_TARGET) {
			uerr_free(err);
			err = NULL;
		}
	}
	return err;
}

static struct uerr *detach_process(const struct rewrite_opts *opts, struct daemon *d, struct target *t,
				   const u32 *links, size_t nlinks, struct outcome *out)
{
	struct target *snapshot = NULL;
	struct uerr *err = target_clone(t, t->pid, &snapshot);
	u32 found = 0;

	for (u32 i = 0; !err && i < FORK_RACES && (i < 2 || found); i++) {
		size_t first = i ? d->state->targets.n : 0;

		err = family_find_children(d, t, snapshot, &found);
		if (!err && !i)
			err = detach_one(opts, t, links, nlinks, out);
		if (!err)
			err = detach_family(opts, d, t, first, links, nlinks, out);
	}
	target_destroy(snapshot);
	return err;
}

void detach_run(struct daemon *d, const pid_vec *pids, const u32 *links, size_t nlinks, uid_t uid, gid_t gid,
		struct outcome *ret)
{
	struct rewrite_opts opts = { .d = d, .uid = uid, .gid = gid };
	size_t known = d->state->targets.n;

	vec_foreach(pid, pids) {
		struct target *t = state_target(d->state, *pid);
		struct uerr *err = t ? detach_process(&opts, d, t, links, nlinks, ret) : NULL;

		if (err && err->code == UERR_NO_TARGET) { /* it ended: nothing to undo */
			uerr_free(err);
			continue;
		}
		if (err && ret->err)
			uerr_free(err);
		else if (err)
			ret->err = err;
	}
	outcome_add_new(ret, d, known);
}
