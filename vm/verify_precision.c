/* SPDX-License-Identifier: MIT */
/*
 * Which numbers must be exact: found out only when one decides something (where
 * a jump goes, where an address points, how long memory is), by walking back
 * over the executed instructions to where it came from, marking it in each
 * checkpoint on the way. Numbers without a mark need not be compared when a path
 * comes to a checkpoint again.
 *
 * History is a tree in one array: an entry for each executed instruction, with
 * the number of the one before it; paths that part share what lies before.
 *
 * `linked` of an entry (of a conditional jump) names copies of one number that
 * the jump told something about, six of ten bits each: frame (3), register or
 * slot (6), which of them (1); the count in the top bits. Where one of them is
 * wanted, all are, for otherwise a state without the link would be taken for one
 * with it.
 */
#include <stdlib.h>
#include <string.h>

#include "vm/verify_internal.h"

#define LINKED_MAX 6

/* What is still wanted, by frame. */
struct wanted {
	u32 frame; /* in which the walk is */
	u16 regs[INSN_MAX_FRAMES];
	u64 slots[INSN_MAX_FRAMES];
};

/* --- history --- */

bool history_add(struct verifier *v, u32 pc)
{
	if (v->nhist == v->hist_cap) {
		u32 cap = v->hist_cap ? v->hist_cap * 2 : 1024;
		struct history *h = reallocarray(v->hist, cap, sizeof(*h));

		if (!h)
			return false;
		v->hist = h;
		v->hist_cap = cap;
		if (!v->nhist)
			memset(&v->hist[v->nhist++], 0, sizeof(*h)); /* 0: the beginning */
	}
	v->hist[v->nhist] = (struct history){ .prev = v->cur->history, .pc = pc };
	v->cur->history = v->nhist++;
	v->cur->since++;
	return true;
}

void history_note(struct verifier *v, u16 what)
{
	v->hist[v->cur->history].what = what;
}

static void link_add(u64 *linked, u32 frame, bool is_reg, u32 at)
{
	u64 n = *linked >> 60;

	*linked |= (u64)(frame | at << 3 | (u32)is_reg << 9) << (n * 10);
	*linked = (*linked & ~(15ull << 60)) | (n + 1) << 60;
}

/* Names the copies of number ID but for the registers NAMED of the frame in
 * hand, which are there already. Those beyond what can be named are copies no
 * more. */
static void link_collect(struct verifier *v, u32 id, u32 named, u64 *linked)
{
	for (u32 i = v->cur->curframe + 1; id && i-- > 0;) {
		struct frame *f = v->cur->frames[i];

		for (u32 k = 0; k < NREGS + f->nslots; k++) {
			bool is_reg = k < NREGS;

			if (is_reg && i == v->cur->curframe && named & 1u << k)
				continue;
			if (!is_reg && !slot_is_scalar(&f->slots[k - NREGS]))
				continue;
			if ((is_reg ? &f->regs[k] : &f->slots[k - NREGS].reg)->type != SCALAR ||
			    (is_reg ? &f->regs[k] : &f->slots[k - NREGS].reg)->id != id)
				continue;
			if (*linked >> 60 < LINKED_MAX) {
				link_add(linked, i, is_reg, is_reg ? k : k - NREGS);
				continue;
			}
			f = state_frame(v, v->cur, i);
			if (!f)
				return;
			(is_reg ? &f->regs[k] : &f->slots[k - NREGS].reg)->id = 0;
		}
	}
}

/* The compared registers come first: they keep their id, whatever else has to
 * go, since they and their copies are what the jump tells something about. */
void history_linked(struct verifier *v, const struct bpf_insn *insn)
{
	u32 regs[2] = { insn->dst_reg, insn->src_reg }, ids[2] = {}, named = 0;
	u32 n = BPF_SRC(insn->code) == BPF_X && regs[0] != regs[1] ? 2 : 1;
	u64 linked = 0;

	for (u32 i = 0; i < n; i++) {
		const struct reg *r = &v->regs[regs[i]];

		if (r->type != SCALAR || !r->id)
			continue;
		ids[i] = r->id;
		named |= 1u << regs[i];
		link_add(&linked, v->cur->curframe, true, regs[i]);
	}
	link_collect(v, ids[0], named, &linked);
	if (ids[1] != ids[0])
		link_collect(v, ids[1], named, &linked);
	v->hist[v->cur->history].linked = linked >> 60 > 1 ? linked : 0;
}

/* --- the walk --- */

static bool nothing_wanted(const struct wanted *w)
{
	for (u32 i = 0; i < INSN_MAX_FRAMES; i++)
		if (w->regs[i] || w->slots[i])
			return false;
	return true;
}

static void want_linked(struct wanted *w, u64 linked)
{
	bool any = false;

	for (u32 pass = 0; pass < 2; pass++) {
		for (u32 i = 0; i < linked >> 60; i++) {
			u32 e = linked >> (i * 10) & 0x3ff, frame = e & 7, at = e >> 3 & 63;

			if (!pass)
				any |= e & 0x200 ? w->regs[frame] >> at & 1 : w->slots[frame] >> at & 1;
			else if (e & 0x200)
				w->regs[frame] |= 1u << at;
			else
				w->slots[frame] |= 1ull << at;
		}
		if (!any)
			return;
	}
}

static void want_reg(struct wanted *w, u32 reg)
{
	if (reg != BPF_REG_10)
		w->regs[w->frame] |= 1u << reg;
}

static void back_alu(struct wanted *w, const struct bpf_insn *insn)
{
	u16 dst = 1u << insn->dst_reg;

	if (!(w->regs[w->frame] & dst) || BPF_OP(insn->code) == BPF_END || BPF_OP(insn->code) == BPF_NEG)
		return;
	if (BPF_OP(insn->code) == BPF_MOV)
		w->regs[w->frame] &= ~dst;
	if (BPF_SRC(insn->code) == BPF_X)
		want_reg(w, insn->src_reg);
}

#define ARGS 0x3e /* r1 … r5 */

/* False: cannot be told, everything must be exact. */
static bool back_call(struct wanted *w, const struct history *h)
{
	if (h->what & HIST_ENTER) { /* leaving the callee through its beginning */
		u16 regs = w->regs[w->frame];

		if (!w->frame || regs & ~ARGS || w->slots[w->frame])
			return false;
		w->regs[w->frame--] = 0;
		/* a callback's are made, not passed */
		if (!(h->what & HIST_CALLBACK))
			w->regs[w->frame] |= regs;
		return true;
	}
	w->regs[w->frame] &= ~1;
	return !(w->regs[w->frame] & ARGS);
}

static bool is_tail_call(const struct history *h)
{
	return (h->what & HIST_LEAVE) == HIST_LEAVE;
}

static bool back_exit(struct wanted *w, const struct history *h)
{
	u16 result = w->regs[w->frame] & 1;

	if (w->frame + 1 == INSN_MAX_FRAMES)
		return false;
	if (!(h->what & HIST_CALLBACK)) {
		w->regs[w->frame] &= ~1;
		if (w->regs[w->frame] & ARGS)
			return false;
	}
	w->frame++;
	w->slots[w->frame] = 0;
	w->regs[w->frame] = h->what & HIST_CALLBACK || is_tail_call(h) ? 0 : result;
	return true;
}

static bool back_store(struct wanted *w, const struct bpf_insn *insn, const struct history *h)
{
	u32 frame = h->what >> 6 & 7, slot = h->what & 63;

	if (w->regs[w->frame] & 1u << insn->dst_reg)
		return false; /* a difference of pointers */
	if (!(h->what & HIST_STACK) || !(w->slots[frame] & 1ull << slot))
		return true;
	w->slots[frame] &= ~(1ull << slot);
	if (BPF_CLASS(insn->code) == BPF_STX)
		want_reg(w, insn->src_reg);
	return true;
}

static bool back_insn(const struct verifier *v, struct wanted *w, const struct history *h)
{
	const struct bpf_insn *insn = &v->insns[h->pc];
	u16 dst = 1u << insn->dst_reg;

	switch (BPF_CLASS(insn->code)) {
	case BPF_ALU:
	case BPF_ALU64:
		back_alu(w, insn);
		return true;
	case BPF_LD:
		w->regs[w->frame] &= ~dst;
		return true;
	case BPF_LDX:
		if (!(w->regs[w->frame] & dst))
			return true;
		w->regs[w->frame] &= ~dst;
		if (h->what & HIST_STACK)
			w->slots[h->what >> 6 & 7] |= 1ull << (h->what & 63);
		return true;
	case BPF_ST:
	case BPF_STX:
		return back_store(w, insn, h);
	}
	switch (BPF_OP(insn->code)) {
	case BPF_CALL:
		return is_tail_call(h) ? back_exit(w, h) : back_call(w, h);
	case BPF_EXIT:
		return back_exit(w, h);
	case BPF_JA:
		return true;
	}
	if (BPF_SRC(insn->code) == BPF_X && w->regs[w->frame] & (dst | 1u << insn->src_reg)) {
		want_reg(w, insn->dst_reg);
		want_reg(w, insn->src_reg);
	}
	return true;
}

/* Marks in checkpoint ST what is wanted; what is marked already has been followed
 * before. */
static void mark_checkpoint(struct state *st, struct wanted *w)
{
	for (u32 i = 0; i < INSN_MAX_FRAMES; i++) {
		const struct frame *f = i <= st->curframe ? st->frames[i] : NULL;

		for (u16 bits = w->regs[i]; bits; bits &= bits - 1) {
			u32 r = (u32)__builtin_ctz(bits);
			u16 bit = 1u << r;

			if (!f || f->regs[r].type != SCALAR || st->precise_regs[i] & bit)
				w->regs[i] &= ~bit;
			else
				st->precise_regs[i] |= bit;
		}
		for (u64 bits = w->slots[i]; bits; bits &= bits - 1) {
			u32 s = (u32)__builtin_ctzll(bits);
			u64 bit = 1ull << s;

			if (!f || s >= f->nslots || !slot_is_scalar(&f->slots[s]) || st->precise_slots[i] & bit)
				w->slots[i] &= ~bit;
			else
				st->precise_slots[i] |= bit;
		}
	}
}

static void mark_all(struct state *st)
{
	for (; st; st = st->parent) {
		memset(st->precise_regs, 0xff, sizeof(st->precise_regs));
		memset(st->precise_slots, 0xff, sizeof(st->precise_slots));
	}
}

/* From history entry AT, in the stretch before the state in hand, back. */
static void walk_back(struct verifier *v, struct wanted *w, u32 at)
{
	for (struct state *st = v->cur->parent;; st = st->parent) {
		u32 until = st ? st->history : 0;

		while (at != until) {
			const struct history *h = &v->hist[at];
			bool known;

			if (h->linked)
				want_linked(w, h->linked);
			known = back_insn(v, w, h);
			if (h->linked)
				want_linked(w, h->linked);
			if (!known) {
				mark_all(st);
				return;
			}
			if (nothing_wanted(w))
				return;
			at = h->prev;
		}
		if (!st)
			return;
		mark_checkpoint(st, w);
		if (nothing_wanted(w))
			return;
		w->frame = st->curframe;
	}
}

struct uerr *mark_precise(struct verifier *v, u32 reg)
{
	struct wanted w = { .frame = v->cur->curframe };

	if (v->regs[reg].type != SCALAR || reg == BPF_REG_10)
		return NULL;
	w.regs[w.frame] = 1u << reg;
	walk_back(v, &w, v->hist[v->cur->history].prev);
	return NULL;
}

void mark_slot_precise(struct verifier *v, u32 frame, u32 slot)
{
	struct wanted w = { .frame = v->cur->curframe };

	w.slots[frame] = 1ull << slot;
	walk_back(v, &w, v->hist[v->cur->history].prev);
}

void precision_propagate(struct verifier *v, const struct state *old)
{
	struct wanted w = { .frame = old->curframe };

	for (u32 i = 0; i <= old->curframe; i++) {
		const struct frame *f = v->cur->frames[i];

		for (u32 r = 0; r < NREGS - 1; r++)
			if (old->precise_regs[i] & 1u << r && f->regs[r].type == SCALAR)
				w.regs[i] |= 1u << r;
		for (u32 s = 0; s < f->nslots; s++)
			if (old->precise_slots[i] & 1ull << s && slot_is_scalar(&f->slots[s]))
				w.slots[i] |= 1ull << s;
	}
	if (!nothing_wanted(&w))
		walk_back(v, &w, v->cur->history);
}
