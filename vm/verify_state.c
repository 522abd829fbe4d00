/* SPDX-License-Identifier: MIT */
/*
 * States of the verifier: making, copying, waiting to be followed, and the
 * comparison that ends a path early (verify_internal.h says when one contains
 * another).
 *
 * A state in which a path may end by being equal to one of its own ancestors (a
 * callback that changes nothing more) leaves marks incomplete: what is followed
 * from the ancestor is not known to those in between. So that whole chain, and
 * every chain that ends at one of it, is marked `exact` and contains only what
 * it contains in full.
 */
#include <stdlib.h>
#include <string.h>

#include "vm/verify_internal.h"

/* --- frames --- */

struct frame *frame_new(u32 callsite, u32 subprog)
{
	struct frame *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->refs = 1;
	f->callsite = callsite;
	f->subprog = subprog;
	return f;
}

static void frame_put(struct frame *f)
{
	if (!f || --f->refs)
		return;
	free(f->slots);
	free(f);
}

static struct frame *frame_copy(const struct frame *f)
{
	struct frame *new = malloc(sizeof(*new));

	if (!new)
		return NULL;
	memcpy(new, f, sizeof(*new));
	new->refs = 1;
	new->cap = f->nslots;
	new->slots = NULL;
	if (!f->nslots)
		return new;
	new->slots = malloc(f->nslots * sizeof(*new->slots));
	if (!new->slots) {
		free(new);
		return NULL;
	}
	memcpy(new->slots, f->slots, f->nslots * sizeof(*new->slots));
	return new;
}

bool frame_grow(struct frame *f, u32 nslots)
{
	if (nslots <= f->nslots)
		return true;
	if (nslots > f->cap) {
		u32 cap = ALIGN_UP(nslots, 4u);
		struct slot *slots = realloc(f->slots, cap * sizeof(*slots));

		if (!slots)
			return false;
		f->slots = slots;
		f->cap = cap;
	}
	memset(&f->slots[f->nslots], 0, (nslots - f->nslots) * sizeof(*f->slots));
	f->nslots = nslots;
	return true;
}

struct frame *state_frame(struct verifier *v, struct state *st, u32 i)
{
	struct frame *f = st->frames[i], *own;

	if (f->refs > 1) {
		own = frame_copy(f);
		if (!own) {
			v->err = uerr_nomem();
			return NULL;
		}
		frame_put(f);
		st->frames[i] = f = own;
	}
	return f;
}

void state_drop_frame(struct verifier *v, struct state *st)
{
	(void)v;
	frame_put(st->frames[st->curframe]);
	st->frames[st->curframe--] = NULL;
}

/* --- states --- */

static void count_state(struct verifier *v)
{
	v->total_states++;
	if (++v->nstates > v->peak_states)
		v->peak_states = v->nstates;
}

struct state *state_new(struct verifier *v)
{
	struct state *st = calloc(1, sizeof(*st));

	if (st)
		count_state(v);
	return st;
}

struct state *state_copy(struct verifier *v, const struct state *st)
{
	struct state *new = malloc(sizeof(*new));

	if (!new)
		return NULL;
	memcpy(new, st, sizeof(*new));
	for (u32 i = 0; i <= st->curframe; i++)
		new->frames[i]->refs++;
	count_state(v);
	return new;
}

void state_free(struct verifier *v, struct state *st)
{
	if (!st)
		return;
	for (u32 i = 0; i <= st->curframe; i++)
		frame_put(st->frames[i]);
	free(st);
	v->nstates--;
}

struct state *state_push(struct verifier *v, u32 pc)
{
	struct state *st;

	if (v->npending == v->pending_cap) {
		u32 cap = v->pending_cap ? v->pending_cap * 2 : 64;
		struct pending *p = reallocarray(v->pending, cap, sizeof(*p));

		if (!p) {
			v->err = uerr_nomem();
			return NULL;
		}
		v->pending = p;
		v->pending_cap = cap;
	}
	if (v->npending == MAX_BRANCHES) {
		v->err = v_refuse(v, v_text(v, "The sequence of %u jumps is too complex.", MAX_BRANCHES),
				  "make the program smaller, or its loops simpler", "more branches than can be followed");
		return NULL;
	}
	st = state_copy(v, v->cur);
	if (!st) {
		v->err = uerr_nomem();
		return NULL;
	}
	if (st->parent)
		st->parent->branches++;
	v->pending[v->npending++] = (struct pending){ st, pc, v->pc, log_pos(v) };
	return st;
}

struct state *state_push_as(struct verifier *v, u32 pc, u16 what)
{
	struct state *st = state_push(v, pc);
	u32 entry = v->cur->history;

	if (!st)
		return NULL;
	v->cur->history = v->hist[entry].prev;
	if (!history_add(v, v->pc)) {
		v->err = uerr_nomem();
		return NULL;
	}
	history_note(v, what);
	st->history = v->cur->history;
	v->cur->history = entry;
	return st;
}

static void kept_remove(struct verifier *v, struct state *st)
{
	struct state **pp = &v->kept;

	while (*pp && *pp != st)
		pp = &(*pp)->next;
	if (*pp)
		*pp = st->next;
}

void state_end(struct verifier *v)
{
	struct state *st = v->cur->parent;

	state_free(v, v->cur);
	v->cur = NULL;
	while (st && !--st->branches) {
		struct state *parent = st->parent;

		if (st->detached) {
			kept_remove(v, st);
			state_free(v, st);
		}
		st = parent;
	}
}

bool state_pop(struct verifier *v)
{
	struct pending *p;

	if (!v->npending)
		return false;
	p = &v->pending[--v->npending];
	v->cur = p->st;
	v->pc = p->pc;
	v->prev_pc = p->from;
	if (v->log.level == 1)
		log_reset(v, p->log_pos);
	if (v->log.level)
		log_from(v, p->from, p->pc);
	return true;
}

/* --- marks --- */

void slot_read_mark(struct state *st, u32 frame, u32 slot)
{
	u64 bit = 1ull << slot;

	while (st->parent && !(st->written[frame] & bit)) {
		if (st->parent->read[frame] & bit)
			return;
		st->parent->read[frame] |= bit;
		st = st->parent;
	}
}

static void mark_exact(struct state *st)
{
	for (; st; st = st->parent)
		st->exact = true;
}

/* --- comparison --- */

enum compare {
	CMP_LOOSE, /* what does not matter may differ */
	CMP_WITHIN, /* everything is compared; numbers may be within */
	CMP_EQUAL,
};

#define MAX_IDS (INSN_MAX_FRAMES * (NREGS + MAX_SLOTS))

/* Which id of the one state is which of the other. */
struct idmap {
	u32 n;
	u32 fresh; /* for those without an id */
	bool unset; /* stack that was never written stands for stack that was */
	struct {
		u32 old, cur;
	} pair[MAX_IDS];
};

static bool ids_match(struct idmap *m, u32 old, u32 cur)
{
	if (!old != !cur)
		return false;
	if (!old)
		return true;
	for (u32 i = 0; i < m->n; i++) {
		if (m->pair[i].old == old)
			return m->pair[i].cur == cur;
		if (m->pair[i].cur == cur)
			return false;
	}
	if (m->n == MAX_IDS)
		return false;
	m->pair[m->n].old = old;
	m->pair[m->n++].cur = cur;
	return true;
}

/* An old number that is a copy of another one: so must the new be, of the same. */
static bool scalar_ids_match(struct idmap *m, u32 old, u32 cur)
{
	if (!old)
		return true;
	return ids_match(m, old, cur ? cur : ++m->fresh);
}

static bool vars_equal(const struct scalar *a, const struct scalar *b)
{
	return a->bits.value == b->bits.value && a->bits.mask == b->bits.mask && a->umin == b->umin &&
	       a->umax == b->umax && a->smin == b->smin && a->smax == b->smax && a->umin32 == b->umin32 &&
	       a->umax32 == b->umax32 && a->smin32 == b->smin32 && a->smax32 == b->smax32;
}

static bool shape_equal(const struct reg *old, const struct reg *cur)
{
	return old->type == cur->type && old->flags == cur->flags && old->frame == cur->frame &&
	       old->dynptr == cur->dynptr && old->map == cur->map && old->off == cur->off &&
	       old->mem_size == cur->mem_size;
}

static bool reg_contains(const struct reg *old, const struct reg *cur, struct idmap *ids, enum compare how, bool precise)
{
	if (old->type == NOT_INIT && (how != CMP_EQUAL || cur->type == NOT_INIT))
		return true;
	if (old->type != cur->type)
		return false;
	if (old->type == SCALAR) {
		if (how == CMP_EQUAL)
			return vars_equal(&old->var, &cur->var) && ids_match(ids, old->id, cur->id);
		if (how == CMP_LOOSE && !precise)
			return true;
		return scalar_contains(&old->var, &cur->var) && scalar_ids_match(ids, old->id, cur->id);
	}
	if (!shape_equal(old, cur) || !ids_match(ids, old->id, cur->id) || !ids_match(ids, old->ref, cur->ref) ||
	    !ids_match(ids, old->parent, cur->parent))
		return false;
	if (how == CMP_EQUAL || old->type == PTR_STACK)
		return vars_equal(&old->var, &cur->var);
	return scalar_contains(&old->var, &cur->var);
}

/* SPILL, MISC or ZERO: whether the byte of CUR is at least as certain. */
static bool byte_contains(u8 old, u8 cur, struct idmap *ids)
{
	ids->unset |= old == SLOT_MISC && cur == SLOT_INVALID;
	return old == cur || old == SLOT_INVALID || (old == SLOT_MISC && (cur == SLOT_ZERO || cur == SLOT_INVALID));
}

static bool all_misc(const struct slot *s)
{
	for (u32 i = 0; i < 8; i++)
		if (s->byte[i] != SLOT_MISC && s->byte[i] != SLOT_ZERO)
			return false;
	return true;
}

static bool whole_scalar(const struct slot *s)
{
	return slot_is_scalar(s) && s->byte[7] == SLOT_SPILL;
}

static bool slot_empty(const struct slot *s)
{
	static const u8 none[8];

	return !memcmp(s->byte, none, 8);
}

static bool slot_contains(const struct slot *old, const struct slot *cur, struct idmap *ids, enum compare how,
			  bool precise)
{
	const struct reg unknown = { .type = SCALAR, .var = scalar_unknown };

	if (how == CMP_EQUAL && memcmp(old->byte, cur->byte, 8))
		return false;
	if (how != CMP_EQUAL) {
		if (slot_empty(old)) /* what was read there was a number */
			return !slot_is_spill(cur) || cur->reg.type == SCALAR;
		/* eight bytes of something are a number */
		if (whole_scalar(old) && all_misc(cur))
			return reg_contains(&old->reg, &unknown, ids, how, precise);
		if (whole_scalar(cur) && all_misc(old) && !memchr(old->byte, SLOT_ZERO, 8))
			return true;
		for (u32 i = 0; i < 8; i++)
			if (!byte_contains(old->byte[i], cur->byte[i], ids))
				return false;
	}
	if (slot_is_spill(old))
		return reg_contains(&old->reg, &cur->reg, ids, how, precise);
	if (old->byte[0] == SLOT_DYNPTR)
		return old->reg.dynptr == cur->reg.dynptr && ids_match(ids, old->reg.id, cur->reg.id) &&
		       ids_match(ids, old->reg.ref, cur->reg.ref);
	return true;
}

static bool frame_contains(const struct verifier *v, const struct state *old, const struct state *cur, u32 i,
			   struct idmap *ids, enum compare how)
{
	static const struct slot nothing;
	const struct frame *of = old->frames[i], *cf = cur->frames[i];
	u32 at = i == old->curframe ? v->pc : old->frames[i + 1]->callsite;
	u32 n = cf->nslots > of->nslots ? cf->nslots : of->nslots; /* unset slots may have been read, too */

	if (of->callsite != cf->callsite || of->subprog != cf->subprog || of->callback != cf->callback ||
	    of->nrefs_at_entry != cf->nrefs_at_entry || of->callbacks_run > cf->callbacks_run)
		return false;
	/* a helper does not call back for ever: the next time is not the same again */
	if (how == CMP_EQUAL && of->callbacks_run != cf->callbacks_run)
		return false;
	for (u32 r = 0; r < NREGS; r++)
		if ((how == CMP_EQUAL || v->live[at] & 1u << r) &&
		    !reg_contains(&of->regs[r], &cf->regs[r], ids, how, old->precise_regs[i] & 1u << r))
			return false;
	for (u32 s = 0; s < n; s++) {
		if (how == CMP_LOOSE && !(old->read[i] & 1ull << s))
			continue;
		if (!slot_contains(s < of->nslots ? &of->slots[s] : &nothing, s < cf->nslots ? &cf->slots[s] : &nothing, ids,
				   how, old->precise_slots[i] & 1ull << s))
			return false;
	}
	return true;
}

static bool state_contains(struct verifier *v, const struct state *old, const struct state *cur, enum compare how)
{
	struct idmap ids;

	if (old->curframe != cur->curframe || old->nrefs != cur->nrefs || old->lock.held != cur->lock.held)
		return false;
	ids.n = 0;
	ids.unset = false;
	ids.fresh = v->last_id;
	if (old->lock.held && (old->lock.map != cur->lock.map || !ids_match(&ids, old->lock.id, cur->lock.id)))
		return false;
	for (u32 i = 0; i < old->nrefs; i++)
		if (!ids_match(&ids, old->refs[i].id, cur->refs[i].id))
			return false;
	/* the newest frame first: it differs most often */
	for (u32 i = old->curframe + 1; i-- > 0;)
		if (!frame_contains(v, old, cur, i, &ids, how))
			return false;
	v->info.reads_unset_stack |= ids.unset;
	return true;
}

static const struct frame *top(const struct state *st)
{
	return st->frames[st->curframe];
}

/* A quick look before the full comparison. */
static bool maybe_looping(const struct state *old, const struct state *cur)
{
	return old->curframe == cur->curframe && !memcmp(top(old)->regs, top(cur)->regs, sizeof(top(old)->regs));
}

/* --- checkpoints --- */

static void propagate(struct verifier *v, const struct state *old)
{
	for (u32 i = 0; i <= old->curframe; i++)
		for (u64 bits = old->read[i]; bits; bits &= bits - 1)
			slot_read_mark(v->cur, i, (u32)__builtin_ctzll(bits));
	if (old->exact)
		mark_exact(v->cur->parent);
	precision_propagate(v, old);
}

static struct uerr *refuse_loop(struct verifier *v)
{
	return v_refuse(v, v_text(v, "infinite loop detected at insn %u", v->pc),
			"let something change with every round: for (i = 0; i < N; i++)",
			"a loop comes round without any change, so it may never end,");
}

/* Takes *PP out of its list; it is kept while there are paths below it. */
static void drop_checkpoint(struct verifier *v, struct state **pp)
{
	struct state *st = *pp;

	*pp = st->next;
	if (!st->branches) {
		state_free(v, st);
		return;
	}
	st->detached = true;
	st->next = v->kept;
	v->kept = st;
}

#define STATES_MAX 100000 /* at a time; at worst some 9 KiB each */

static struct uerr *add_checkpoint(struct verifier *v)
{
	struct state *st, *cur = v->cur;

	if (v->nstates >= STATES_MAX)
		return v_refuse(v, "The program is too complex: too many states are remembered.",
				"make the program smaller, or its loops simpler", "more paths than can be remembered");
	st = state_copy(v, cur);
	if (!st)
		return uerr_nomem();
	memset(st->read, 0, sizeof(st->read));
	memset(st->precise_slots, 0, sizeof(st->precise_slots));
	memset(st->precise_regs, 0, sizeof(st->precise_regs));
	st->stored = true;
	st->detached = false;
	st->exact = false;
	st->pc = v->pc;
	st->branches = 1;
	st->hits = st->misses = 0;
	st->next = v->explored[v->pc];
	v->explored[v->pc] = st;
	cur->parent = st;
	cur->since = 0;
	memset(cur->written, 0, sizeof(cur->written));
	v->prev_jumps = v->jumps;
	v->prev_processed = v->processed;
	return NULL;
}

/* At the call of a helper that calls back. From a callback the path comes to it as
 * often as the helper wants, which has an end: where nothing changes any more, one
 * round stands for all that follow. That holds for one call only; the program may
 * come to it in an endless loop of its own. */
static bool same_call(const struct state *old, const struct state *cur)
{
	return old->curframe == cur->curframe && top(old)->call_id == top(cur)->call_id;
}

struct uerr *state_visit(struct verifier *v, bool *pruned)
{
	bool force = v->point[v->pc] & POINT_FORCE;
	/* a long way back to the newest checkpoint is gone for every number that must be precise */
	bool far = state_is_far(v->cur);
	bool add = far || (v->jumps - v->prev_jumps >= 2 && v->processed - v->prev_processed >= 8);
	struct state **pp = &v->explored[v->pc], *old;
	u32 here = 0;

	*pruned = false;
	if (force && !top(v->cur)->callbacks_run) {
		if (!v_own_frame(v))
			return v->err;
		v->f->call_id = ++v->last_call_id;
	}
	while ((old = *pp)) {
		if (old->branches) { /* an ancestor */
			if (force && same_call(old, v->cur)) {
				if (state_contains(v, old, v->cur, CMP_WITHIN)) {
					mark_exact(v->cur->parent);
					old->hits++;
					*pruned = true;
					return NULL;
				}
			} else if (maybe_looping(old, v->cur) && state_contains(v, old, v->cur, CMP_EQUAL)) {
				return refuse_loop(v);
			}
			/* rounds of a loop differ: not every one is worth remembering */
			if (!force && !far && v->jumps - v->prev_jumps < 20 && v->processed - v->prev_processed < 100)
				add = false;
		} else if (state_contains(v, old, v->cur, old->exact ? CMP_WITHIN : CMP_LOOSE)) {
			old->hits++;
			propagate(v, old);
			*pruned = true;
			return v->err;
		}
		if (add)
			old->misses++;
		if (old->misses > old->hits * (force ? 64 : 3) + (force ? 64 : 3)) {
			drop_checkpoint(v, pp);
			continue;
		}
		pp = &old->next;
		here++;
	}
	if (!add && !force)
		return NULL;
	if (here + 1 > v->max_states_at)
		v->max_states_at = here + 1;
	return add_checkpoint(v);
}

/* --- widening --- */

static void widen(const struct reg *old, struct reg *cur, bool precise)
{
	if (old->type != SCALAR || cur->type != SCALAR || precise || vars_equal(&old->var, &cur->var))
		return;
	reg_unknown(cur);
}

void state_widen(struct verifier *v, u32 callsite)
{
	struct state *old = v->cur->parent, *cur = v->cur;

	while (old && (old->pc != callsite || old->curframe != cur->curframe))
		old = old->parent;
	for (u32 i = 0; old && i <= cur->curframe; i++) {
		const struct frame *of = old->frames[i];
		struct frame *cf;

		if (of == cur->frames[i])
			continue;
		cf = state_frame(v, cur, i);
		if (!cf)
			return;
		for (u32 r = 0; r < NREGS; r++)
			widen(&of->regs[r], &cf->regs[r], old->precise_regs[i] & 1u << r);
		for (u32 s = 0; s < of->nslots && s < cf->nslots; s++)
			if (slot_is_spill(&of->slots[s]) && slot_is_spill(&cf->slots[s]))
				widen(&of->slots[s].reg, &cf->slots[s].reg, old->precise_slots[i] & 1ull << s);
	}
}
