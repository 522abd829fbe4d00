/* SPDX-License-Identifier: MIT */
/*
 * A link: one program attached at what its specs mean. It knows the processes;
 * the places in each process belong to the target (target.h).
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/state.h"
#include "daemon/target.h"

struct link *link_create(u32 id, const struct program *p, bool exit, const char *const *specs, size_t nspecs)
{
	struct link *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->id = id;
	l->program = p->id;
	l->object = p->owner->id;
	l->exit = exit;
	time_text(l->since);
	l->specs = calloc(nspecs + 1, sizeof(*l->specs));
	for (; l->specs && l->nspecs < nspecs; l->nspecs++) {
		l->specs[l->nspecs] = strdup(specs[l->nspecs]);
		if (!l->specs[l->nspecs])
			break;
	}
	if (l->nspecs < nspecs || !l->specs) {
		link_destroy(l);
		return NULL;
	}
	return l;
}

void link_destroy(struct link *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->nspecs; i++)
		free(l->specs[i]);
	free(l->specs);
	vec_free(&l->targets);
	free(l);
}

bool link_has_pid(const struct link *l, pid_t pid)
{
	vec_foreach(t, &l->targets)
		if (t->pid == pid)
			return true;
	return false;
}

bool link_add_target(struct link *l, const struct target *t)
{
	return link_has_pid(l, t->pid) ||
	       vec_push(&l->targets, (struct link_target){ t->pid, threads_missed(t->threads) });
}

/* Fork children share their parent's records: counted once. */
static bool shared_with_earlier(const struct state *s, const struct link *l, size_t i, const struct threads *th)
{
	for (size_t k = 0; k < i; k++) {
		const struct target *o = state_target(s, l->targets.data[k].pid);

		if (o && o->threads == th)
			return true;
	}
	return false;
}

void link_remove_target(struct link *l, const struct target *t)
{
	for (size_t i = 0; i < l->targets.n; i++) {
		struct link_target *lt = &l->targets.data[i];

		if (lt->pid != t->pid)
			continue;
		if (t->threads->refs == 1)
			l->missed += threads_missed(t->threads) - lt->missed_base;
		memmove(lt, lt + 1, (l->targets.n - i - 1) * sizeof(*lt));
		l->targets.n--;
		return;
	}
}

u64 link_missed(const struct state *s, const struct link *l)
{
	u64 sum = l->missed;

	for (size_t i = 0; i < l->targets.n; i++) {
		const struct target *t = state_target(s, l->targets.data[i].pid);

		if (t && !shared_with_earlier(s, l, i, t->threads))
			sum += threads_missed(t->threads) - l->targets.data[i].missed_base;
	}
	return sum;
}
