/* SPDX-License-Identifier: MIT */
/*
 * Semaphores of USDT probes: u16 counters in a target's data that say how many
 * look on; the program prepares a probe's arguments only while one is not zero.
 *
 * Others count there too, so ours is one increment and one decrement, and the
 * journal says which of the two has been made: a semaphore is lowered only if we
 * have raised it, by as much, and never below zero. Both happen while all threads
 * stand still. Tracers that use ptrace are then not there; one that does not (the
 * kernel's uprobes) adds without a lock prefix and without asking anybody, so no
 * way of adding is safe against it. Reading and writing through /proc/PID/mem
 * leaves it a microsecond, and cannot fault in the target, as an instruction there
 * could.
 *
 *	raise   journal: about to, the value was V │ stop: V+1, then text │ journal: raised
 *	lower   journal: about to, the value was V │ stop: text, then V-1 │ journal: gone
 *
 * Whoever finds "about to" takes it that the step was made if the value is no
 * longer V. When others have counted meanwhile that may be wrong; then the
 * semaphore stays one too high, which costs the target a little time.
 */
#include <errno.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "inject_priv.h"
#include "injector/remote_mem.h"

struct uerr *inject_sema(struct injection *in, const struct inject_sema *s)
{
	struct sema_change c = { .s = *s };

	if (s->addr % sizeof(u16))
		return uerr_new(UERR_USAGE, "semaphore at 0x%lx", s->addr);
	return vec_push(&in->semas, c) ? NULL : uerr_nomem();
}

/* Does the file's private data lie at ADDR? */
static bool is_there(struct injection *in, const struct inject_sema *s)
{
	const struct target_map *m = target_maps_find(&in->maps, s->addr);

	return m && m->w && !m->x && !m->shared && m->ino == s->file_ino &&
	       makedev(m->dev_major, m->dev_minor) == s->file_dev;
}

static struct uerr *no_semaphore(struct injection *in, addr_t addr, const char *why)
{
	return uerr_new(UERR_CANNOT_PROBE, "process %d (%s): the semaphore at 0x%lx %s", in->t.pid, in->t.comm, addr, why);
}

/* Before the stop; maps are fresh. */
struct uerr *semas_prepare(struct injection *in)
{
	vec_foreach(c, &in->semas) {
		struct journal_sema j = { .addr = c->s.addr, .file_dev = c->s.file_dev, .file_ino = c->s.file_ino,
					  .state = c->s.raise ? SEMA_RAISING : SEMA_LOWERING };

		c->gone = !is_there(in, &c->s) || remote_read(&in->t, c->s.addr, &c->before, sizeof(c->before));
		if (c->gone && c->s.raise)
			return no_semaphore(in, c->s.addr, "is not in its data");
		if (c->gone)
			continue;
		j.before = c->before;
		journal_sema(&in->journal, &j);
	}
	return NULL;
}

/* The value that the journal has is what is there. */
static struct uerr *settle(struct injection *in, struct sema_change *c)
{
	struct journal_sema j = { .addr = c->s.addr, .file_dev = c->s.file_dev, .file_ino = c->s.file_ino,
				  .state = c->s.raise ? SEMA_RAISING : SEMA_LOWERING };
	u16 now;

	if (remote_read(&in->t, c->s.addr, &now, sizeof(now)))
		return no_semaphore(in, c->s.addr, "cannot be read");
	if (now == c->before)
		return NULL;
	c->before = j.before = now;
	journal_sema(&in->journal, &j);
	return journal_flush(&in->journal);
}

static struct uerr *change(struct injection *in, struct sema_change *c, bool raise)
{
	struct uerr *err = settle(in, c);
	u16 value = raise ? c->before + 1 : c->before - 1;

	if (err)
		return err;
	if (raise && c->before == UINT16_MAX)
		return no_semaphore(in, c->s.addr, "is at its end");
	if (!raise && !c->before) /* somebody has taken ours */
		return NULL;
	if (remote_write(&in->t, c->s.addr, &value, sizeof(value)))
		return no_semaphore(in, c->s.addr, "cannot be written");
	return NULL;
}

struct uerr *semas_raise(struct injection *in)
{
	vec_foreach(c, &in->semas) {
		struct uerr *err = c->s.raise ? change(in, c, true) : NULL;

		if (err)
			return err;
		c->done = c->s.raise;
	}
	return NULL;
}

void semas_unraise(struct injection *in)
{
	vec_foreach(c, &in->semas) {
		if (c->s.raise && c->done)
			uerr_free(change(in, c, false));
		c->done = false;
	}
}

void semas_lower(struct injection *in)
{
	vec_foreach(c, &in->semas) {
		if (!c->s.raise && !c->gone)
			uerr_free(change(in, c, false));
	}
}

/* DONE: text is as it shall be, and semaphores with it. */
void semas_journal(struct injection *in, bool done)
{
	vec_foreach(c, &in->semas) {
		struct journal_sema j = { .addr = c->s.addr, .file_dev = c->s.file_dev, .file_ino = c->s.file_ino,
					  .state = SEMA_RAISED };

		if (c->s.raise == done)
			journal_sema(&in->journal, &j);
		else
			journal_sema_gone(&in->journal, c->s.addr);
	}
}

/* ------------------------------------------------------- after a crash */

static bool is_raised(const struct journal_sema *s, u16 now)
{
	switch (s->state) {
	case SEMA_RAISED:
		return true;
	case SEMA_RAISING:
		return now == (u16)(s->before + 1);
	case SEMA_LOWERING:
		return now == s->before;
	}
	return false;
}

struct uerr *semas_undo(struct injection *in, const struct journal *j)
{
	for (size_t i = 0; i < j->nsemas; i++) {
		const struct journal_sema *s = &j->semas[i];
		struct inject_sema lower = { .addr = s->addr, .file_dev = s->file_dev, .file_ino = s->file_ino };
		struct uerr *err = NULL;
		u16 now;

		if (s->addr % sizeof(now) || !is_there(in, &lower) || remote_read(&in->t, s->addr, &now, sizeof(now)) ||
		    !is_raised(s, now))
			journal_sema_gone(&in->journal, s->addr);
		else
			err = inject_sema(in, &lower);
		if (err)
			return err;
	}
	return NULL;
}
