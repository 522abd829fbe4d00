/* SPDX-License-Identifier: MIT */
/* What dead threads have left in maps; see recover.h. */
#include "daemon/recover.h"

#include <string.h>

#include "base/cleanup.h"
#include "daemon/procinfo.h"
#include "daemon/target.h"

/* Locks are named by their addresses, and each process that shares the records may have
 * mapped M elsewhere: the owner's number in the lock tells which one it was. */
static void recover_locks(struct daemon *d, const struct threads *threads, const struct map *m,
			  const struct thread_rec *rec, u32 owner)
{
	vec_foreach(t, &d->state->targets) {
		const struct mapping *where = (*t)->threads == threads ? target_mapping(*t, m->id, false) : NULL;

		if (where)
			umap_recover_locks(&m->umap, where->addr, rec, owner);
	}
}

/* TID is what was read from record I, before it turned out to be dead. */
static void recover_thread(struct daemon *d, const struct target *t, u32 i, u32 tid)
{
	struct thread_rec *rec = threads_rec(t->threads, i);
	u32 owner = OWNER_ID(t->threads->no, i);

	/* A thread there may be quicker. */
	if (!__atomic_compare_exchange_n(&rec->tid, &tid, REC_BUSY, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return;
	vec_foreach(o, &d->state->objects) {
		for (size_t m = 0; m < (*o)->obj->nmaps; m++) {
			umap_recover(&(*o)->maps[m].umap, rec, owner);
			recover_locks(d, t->threads, &(*o)->maps[m], rec, owner);
		}
		if ((*o)->claims)
			umap_claims_recover((*o)->claims, d->state->ncpus, owner);
	}
	memset(rec->intents, 0, sizeof(rec->intents));
	rec->depth = 0;
	rec->stack_lo = rec->stack_hi = 0;
	__atomic_store_n(&rec->tid, 0, __ATOMIC_RELEASE);
}

/* The numbers in T's thread records that are none of T's own threads; 0 for the
 * others. How many? */
static u32 foreign_tids(const struct target *t, bool all, u32 tids[THREAD_RECS_DEFAULT])
{
	u32 n = 0;

	for (u32 i = 0; i < THREAD_RECS_DEFAULT; i++) {
		tids[i] = __atomic_load_n(&threads_rec(t->threads, i)->tid, __ATOMIC_ACQUIRE);
		if (tids[i] && !all && procinfo_has_thread(t->pid, (pid_t)tids[i]))
			tids[i] = 0;
		n += tids[i] != 0;
	}
	return n;
}

/* Threads that ended: what they left half done in maps is finished, and their
 * records are free again. ALL: the whole process is gone. Those who live (fork
 * children have the table, too) are looked for after the records were read, so that
 * nobody is missed who came in between. */
static void recover_threads(struct daemon *d, const struct target *t, bool all)
{
	u32 tids[THREAD_RECS_DEFAULT];
	struct uerr *err = NULL;
	pid_vec alive = {};

	if (!foreign_tids(t, all, tids))
		return;
	if (!all)
		err = procinfo_family_tids(t->pid, &alive);
	for (u32 i = 0; !err && i < THREAD_RECS_DEFAULT; i++)
		if (tids[i] && !pid_vec_has(&alive, (pid_t)tids[i]))
			recover_thread(d, t, i, tids[i]);
	uerr_free(err);
	vec_free(&alive);
}

bool target_is_gone(const struct target *t)
{
	struct procinfo pi;
	struct uerr *err = procinfo_read(t->pid, &pi);
	bool gone = err || pi.starttime != t->starttime || pi.zombie;

	uerr_free(err);
	return gone;
}

void recover_dead_threads(struct daemon *d, const struct target *t)
{
	recover_threads(d, t, false);
}

/* Who is left and has its records can be asked who lives. */
void recover_ended(struct daemon *d, const struct target *t)
{
	vec_foreach(other, &d->state->targets) {
		if (*other == t || (*other)->threads != t->threads || target_is_gone(*other))
			continue;
		recover_threads(d, *other, false);
		return;
	}
	recover_threads(d, t, true);
}
