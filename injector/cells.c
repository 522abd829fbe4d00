/* SPDX-License-Identifier: MIT */
/*
 * Cells (base/cells.h) when code goes. All threads stand still. A cell that is in
 * use is needed by a frame that is still to return; so
 *
 *	its code goes    the return shall run nothing: its hook becomes the plain exit
 *	the cells go     its slot gets the address back that stood there
 *
 * Threads in the few instructions of a stub are taken out of it where that can be
 * done, else whatever it leads to stays until the next stop. A cell whose slot
 * does not lead to it is one that a longjmp or an exception has left behind; it is
 * counted as a return that was missed.
 */
#include "inject_priv.h"

#include <stdlib.h>
#include <string.h>

#include "base/cells.h"
#include "base/cleanup.h"
#include "injector/remote_mem.h"

/* What was read of the area. */
struct cells_view {
	struct injection *in;
	addr_t area;
	bool leaving;
	struct cell *cell;
	u32 n;
};

static addr_t addr_of(const struct cells_view *v, u32 i)
{
	return v->area + i * sizeof(struct cell);
}

/* The cell that WORD is the way back into, or NULL. */
static struct cell *cell_at(const struct cells_view *v, u64 word)
{
	u64 i;

	if (!cell_is_back(v->area, word))
		return NULL;
	i = (cell_of_back(word) - v->area) / sizeof(struct cell);
	return i < v->n ? &v->cell[i] : NULL;
}

/* Where WORD leads in the end; 0: nowhere that makes sense. */
static u64 real_address(const struct cells_view *v, u64 word)
{
	for (u32 i = 0; i <= v->n; i++) {
		const struct cell *c = cell_at(v, word);

		if (!c)
			return cell_is_back(v->area, word) ? 0 : word;
		word = c->ra;
	}
	return 0;
}

static bool leads_through(const struct cells_view *v, u64 word, u32 cell)
{
	for (u32 i = 0; i <= v->n; i++) {
		const struct cell *c = cell_at(v, word);

		if (!c || c == &v->cell[cell])
			return c;
		word = c->ra;
	}
	return false;
}

static struct uerr *cells_read(struct cells_view *v)
{
	struct injection *in = v->in;
	u32 used = 0;

	if (remote_read(&in->t, v->area + offsetof(struct cell_area, used), &used, sizeof(used)))
		return uerr_new(UERR_FAILED, "process %d (%s): the cells at 0x%lx cannot be read", in->t.pid, in->t.comm,
				v->area);
	v->n = (used < CELL_BLOCKS ? used : CELL_BLOCKS) * CELL_BLOCK;
	v->cell = calloc(v->n + 1, sizeof(*v->cell));
	if (!v->cell)
		return uerr_nomem();
	if (v->n && remote_read(&in->t, v->area, v->cell, v->n * sizeof(*v->cell)))
		return uerr_new(UERR_FAILED, "process %d (%s): the cells at 0x%lx cannot be read", in->t.pid, in->t.comm,
				v->area);
	return NULL;
}

static bool write_word(struct injection *in, addr_t at, u64 word)
{
	return !remote_write(&in->t, at, &word, sizeof(word));
}

static bool code_goes(const struct injection *in, addr_t addr)
{
	vec_foreach(u, &in->unmaps)
		if (u->is_code && !u->done && addr - u->addr < u->size)
			return true;
	return false;
}

/* False when it could not be done. */
static bool settle_cell(struct cells_view *v, u32 i, u32 *lost)
{
	struct injection *in = v->in;
	struct cell *c = &v->cell[i];
	u64 slot = c->slot, word, real;

	if (!c->ra)
		return true;
	if (v->leaving || code_goes(in, c->hook)) {
		c->hook = CELL_PLAIN_EXIT(v->area);
		if (!write_word(in, addr_of(v, i) + offsetof(struct cell, hook), c->hook))
			return false;
	}
	if (!v->leaving)
		return true;
	if (slot & CELL_RESTORED || slot % 8 || remote_read(&in->t, slot, &word, sizeof(word))) {
		++*lost;
		return true;
	}
	if (!leads_through(v, word, i)) {
		/* Else it was given back, by another of its chain or by its stub. */
		*lost += word != real_address(v, c->ra);
		return true;
	}
	/* Of several in a chain the outermost does it for all. */
	if (word != cell_back(addr_of(v, i)))
		return true;
	real = real_address(v, word);
	return real && write_word(in, slot, real);
}

/* A thread in a stub of cell C, OFF bytes in: where it would have gone on without.
 * False: it has to go on by itself first. */
static bool leave_stub(const struct cells_view *v, const struct cell *c, u64 off, struct user_regs_struct *regs)
{
	switch (off) {
	case 0: /* the return address stands where the call would have pushed another */
		regs->rip = c->target;
		regs->rsp -= 8;
		return true;
	case CELL_BACK_OFF:
		regs->rip = real_address(v, c->ra);
		return v->leaving && regs->rip;
	case CELL_BACK_OFF + 6: /* it has been pushed */
		regs->rip = real_address(v, c->ra);
		regs->rsp += 8;
		return v->leaving && regs->rip;
	default:
		return false;
	}
}

/* False: somebody stands in a stub whose code must not go yet. */
static bool settle_threads(struct cells_view *v)
{
	addr_t stubs = v->area - CELL_STUBS_SIZE;
	bool all = true;

	vec_foreach(th, &v->in->t.threads) {
		u64 at = th->regs.rip - stubs, i = at / sizeof(struct cell);
		struct user_regs_struct regs = th->regs;

		if (th->gone || !th->stopped || at >= CELL_STUBS_SIZE || i < CELL_BLOCK)
			continue;
		if (i >= v->n || !v->cell[i].ra || !leave_stub(v, &v->cell[i], at % sizeof(struct cell), &regs)) {
			all = false;
			continue;
		}
		if (!thread_set_regs(th, &regs))
			continue; /* killed */
		v->cell[i].ra = 0;
		all = write_word(v->in, addr_of(v, (u32)i), 0) && all;
	}
	return all;
}

static struct uerr *settle(struct cells_view *v, u32 *lost, bool *ready)
{
	struct uerr *err = cells_read(v);

	if (err)
		return err;
	*ready = settle_threads(v);
	for (u32 i = 0; i < v->n; i++)
		*ready = settle_cell(v, i, lost) && *ready;
	/* A signal may have come where a stub was about to call. */
	if (*ready && v->n)
		*ready = !quiesce_stubs_entered(v->in, v->area - CELL_STUBS_SIZE,
						v->area - CELL_STUBS_SIZE + v->n * sizeof(struct cell), sizeof(struct cell));
	return NULL;
}

bool cells_settle(struct injection *in)
{
	struct cells_view v = { .in = in, .area = in->cells, .leaving = in->cells_leave };
	cleanup_uerr struct uerr *err = NULL;
	bool ready = false;
	u32 lost = 0;

	if (!in->cells)
		return true;
	err = settle(&v, &lost, &ready);
	free(v.cell);
	/* In a later stop, what the first gave back is no loss. */
	if (!err && !in->cells_counted)
		in->cells_lost = lost;
	in->cells_counted = in->cells_counted || !err;
	return !err && ready;
}

void inject_cells(struct injection *in, addr_t area, bool leave)
{
	in->cells = area;
	in->cells_leave = leave;
	in->cells_counted = false;
	in->cells_lost = 0;
}
