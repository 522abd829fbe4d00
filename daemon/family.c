/* SPDX-License-Identifier: MIT */
/* Fork children; see family.h. */
#include "daemon/family.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "daemon/procinfo.h"
#include "elfsym/procmaps.h"
#include "injector/inject.h"
#include "injector/journal.h"

/* The child's journal says what its parent's says. */
static struct uerr *copy_journal(const struct daemon *d, pid_t from, const struct target *child)
{
	cleanup_free char *old = target_journal(d->cfg.state_dir, from);
	cleanup_free char *new = target_journal(d->cfg.state_dir, child->pid);
	cleanup(journal_deinit) struct journal j = {};
	struct journal_writer w = { .fd = -1 };
	struct uerr *err;

	if (!old || !new)
		return uerr_nomem();
	err = journal_read(old, &j);
	if (!err)
		err = journal_open(&w, new, child->pid, child->starttime);
	if (err)
		return err;
	for (size_t i = 0; i < j.nranges; i++)
		journal_range(&w, &j.ranges[i]);
	for (size_t i = 0; i < j.nsites; i++) {
		journal_site(&w, &j.sites[i]);
		if (j.sites[i].active)
			journal_site_active(&w, j.sites[i].addr);
	}
	for (size_t i = 0; i < j.nsemas; i++)
		journal_sema(&w, &j.semas[i]);
	err = journal_flush(&w);
	journal_close(&w);
	return err;
}

static struct uerr *adopt(struct daemon *d, const struct target *parent, const struct target *snapshot, pid_t pid,
			  struct target **ret)
{
	struct target *child;
	struct uerr *err = target_clone(snapshot, pid, &child);

	if (err)
		return err;
	if (!child->threads)
		child->threads = threads_ref(parent->threads);
	err = copy_journal(d, parent->pid, child);
	if (!err && !vec_push(&d->state->targets, child))
		err = uerr_nomem();
	if (err) {
		target_destroy(child);
		return err;
	}
	*ret = child;
	return NULL;
}

struct uerr *family_find_children(struct daemon *d, const struct target *t, const struct target *snapshot, u32 *nfound)
{
	cleanup_free pid_t *pids = NULL;
	size_t n = 0;
	struct uerr *err;

	*nfound = 0;
	if (!snapshot->arenas.n)
		return NULL;
	err = inject_descendants(t->pid, snapshot->arenas.data[0].inode, &pids, &n);
	for (size_t i = 0; !err && i < n; i++) {
		struct target *child;

		if (state_target(d->state, pids[i]))
			continue;
		err = adopt(d, t, snapshot, pids[i], &child);
		if (err && err->code == UERR_NO_TARGET) { /* gone already */
			uerr_free(err);
			err = NULL;
			continue;
		}
		++*nfound;
	}
	return err;
}

static bool maps_arena_of(const struct procmaps *pm, const struct target *t)
{
	for (size_t i = 0; i < pm->n; i++)
		vec_foreach(a, &t->arenas)
			if (pm->maps[i].start == a->addr && pm->maps[i].ino == a->inode)
				return true;
	return false;
}

struct uerr *family_find(struct daemon *d, pid_t pid, struct target **ret)
{
	cleanup(procmaps_deinit) struct procmaps pm = {};
	struct uerr *err = procmaps_read(pid, &pm);

	*ret = NULL;
	if (err)
		return err;
	vec_foreach(t, &d->state->targets) {
		if ((*t)->pid == pid || !maps_arena_of(&pm, *t))
			continue;
		if (process_same_memory((*t)->pid, pid))
			return uerr_new(UERR_CANNOT_PROBE,
					"process %d shares its memory with process %d (%s), which is probed already: use -p %d",
					pid, (*t)->pid, (*t)->comm, (*t)->pid);
		return adopt(d, *t, *t, pid, ret);
	}
	return NULL;
}
