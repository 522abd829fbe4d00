/* SPDX-License-Identifier: MIT */
/*
 * Following a function; see reach.h. Branches and calls lead on as they say.
 * Where the function has an indirect jump, so do the tables that it reads and
 * the pointers into it that the file holds. Landing pads are code. An address
 * that is merely taken (lea) proves nothing: constants are addressed so too.
 */
#include "injector/reach.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"

#define SEGMENTS_MAX 64
#define BODY_MAX (4u << 20) /* bytes that are followed */

enum { START = 1, INNER = 2, BAD = 4 /* no instruction can begin there */ };

struct reach_segment {
	addr_t lo, hi;
	u8 *map; /* what each byte is */
};

struct table_ref {
	addr_t addr;
	bool scaled; /* operand [ref + reg*8]: entries are addresses */
};

struct reach {
	const struct textscan *scan;
	struct reach_segment segs[SEGMENTS_MAX];
	size_t nsegs;
	u64 total;
	VEC(addr_t) todo;
	VEC(struct table_ref) tables;
	size_t tables_done;
	bool indirect; /* it has jumps through registers or memory */
	bool nomem;
};

static const struct reach_segment *segment_of(const struct reach *r, addr_t addr)
{
	for (size_t i = 0; i < r->nsegs; i++)
		if (addr >= r->segs[i].lo && addr < r->segs[i].hi)
			return &r->segs[i];
	return NULL;
}

static bool add_segment(struct reach *r, addr_t lo, addr_t hi)
{
	struct reach_segment s = { .lo = lo, .hi = hi };

	if (hi <= lo || r->nsegs == SEGMENTS_MAX || hi - lo > BODY_MAX - r->total)
		return false;
	s.map = calloc(1, hi - lo);
	if (!s.map) {
		r->nomem = true;
		return false;
	}
	r->total += hi - lo;
	r->segs[r->nsegs++] = s;
	return true;
}

static void add_fragment(struct reach *r, addr_t addr)
{
	const struct code_func *f = textscan_func(r->scan, addr);

	if (f && f->flags & CODE_FUNC_FRAGMENT)
		add_segment(r, f->addr, textscan_func_end(r->scan, f));
}

static void lead_to(struct reach *r, addr_t addr)
{
	const struct reach_segment *s = segment_of(r, addr);

	if (s && !(s->map[addr - s->lo] & (START | BAD)) && !vec_push(&r->todo, addr))
		r->nomem = true;
}

static void jump_to(struct reach *r, addr_t addr)
{
	if (!segment_of(r, addr))
		add_fragment(r, addr);
	lead_to(r, addr);
}

/* A call into the function itself may be there for the address that it pushes,
 * with data behind it. */
static bool call_returns(const struct reach *r, const struct insn *in)
{
	return in->kind != INSN_CALL || !segment_of(r, in->target) || in->target == r->segs[0].lo;
}

/* What IN refers to and where it leads; does control go on behind it? */
static bool follow(struct reach *r, const struct insn *in)
{
	if ((in->lea || in->table) && !vec_push(&r->tables, (struct table_ref){ in->ref, in->table }))
		r->nomem = true;
	if (insn_is_relative(in))
		jump_to(r, in->target);
	if (in->kind == INSN_JMP_IND)
		r->indirect = true;
	return !insn_ends_block(in) && call_returns(r, in);
}

static void run_from(struct reach *r, addr_t addr)
{
	const struct reach_segment *s;
	struct insn in;

	for (bool on = true; on && !r->nomem; addr += in.len) {
		s = segment_of(r, addr);
		if (!s || s->map[addr - s->lo] & START)
			return;
		if (!textscan_insn(r->scan, addr, &in) || in.len > s->hi - addr) {
			s->map[addr - s->lo] |= BAD;
			return;
		}
		s->map[addr - s->lo] |= START;
		for (unsigned i = 1; i < in.len; i++)
			s->map[addr - s->lo + i] |= INNER;
		on = follow(r, &in);
	}
}

static void drain(struct reach *r)
{
	while (r->todo.n && !r->nomem)
		run_from(r, r->todo.data[--r->todo.n]);
}

#define TABLE_MAX 65536
#define TABLE_STRAYS 8 /* entries of cases that cannot happen, as in the scan */

static bool follow_table(struct reach *r, addr_t table, unsigned width)
{
	size_t strays = 0;
	bool any = false;
	addr_t to;

	for (size_t n = 0; n < TABLE_MAX && textscan_table_entry(r->scan, table, width, n, &to); n++) {
		if (segment_of(r, to) && to != table) {
			lead_to(r, to);
			any = true;
			strays = 0;
		} else if (!any || ++strays > TABLE_STRAYS) {
			break;
		}
	}
	return any;
}

static void follow_tables(struct reach *r)
{
	for (; r->tables_done < r->tables.n; r->tables_done++) {
		struct table_ref t = r->tables.data[r->tables_done];

		if (t.scaled || !follow_table(r, t.addr, 4))
			follow_table(r, t.addr, 8);
	}
}

static size_t first_mark(const struct code_image *code, addr_t addr)
{
	size_t lo = 0, hi = code->nmarks;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (code->marks[mid].addr < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Places in segment I that the file itself names as code. */
static void follow_marks(struct reach *r, size_t i)
{
	const struct code_image *code = textscan_code(r->scan);
	u32 kinds = CODE_MARK_LANDING_PAD | CODE_MARK_ENTRY | (r->indirect ? CODE_MARK_RELOC : 0);

	for (size_t k = first_mark(code, r->segs[i].lo); k < code->nmarks && code->marks[k].addr < r->segs[i].hi; k++)
		if (code->marks[k].kinds & kinds || textscan_func_at(r->scan, code->marks[k].addr))
			lead_to(r, code->marks[k].addr);
}

/* A cold part is entered from anywhere, and holds no data. */
static void follow_arrivals(struct reach *r)
{
	const struct code_func *f = textscan_func_at(r->scan, r->segs[0].lo);

	if (!f || !(f->flags & CODE_FUNC_FRAGMENT))
		return;
	for (addr_t a = r->segs[0].lo; a < r->segs[0].hi; a++)
		if (textscan_is_target(r->scan, a))
			lead_to(r, a);
}

static size_t progress(const struct reach *r)
{
	return r->todo.n + r->nsegs + r->indirect;
}

static void follow_all(struct reach *r)
{
	size_t before;

	lead_to(r, r->segs[0].lo);
	follow_arrivals(r);
	do {
		drain(r);
		before = progress(r);
		for (size_t i = 0; i < r->nsegs; i++)
			follow_marks(r, i);
		if (r->indirect)
			follow_tables(r);
	} while (progress(r) != before && !r->nomem);
}

struct uerr *reach_create(const struct textscan *scan, addr_t lo, addr_t hi, struct reach **ret)
{
	struct reach *r = calloc(1, sizeof(*r));

	if (!r)
		return uerr_nomem();
	r->scan = scan;
	if (add_segment(r, lo, hi))
		follow_all(r);
	if (r->nomem || !r->nsegs) {
		bool nomem = r->nomem;

		reach_destroy(r);
		return nomem ? uerr_nomem() : uerr_new(UERR_CANNOT_PROBE, "the function is too large to be followed");
	}
	*ret = r;
	return NULL;
}

void reach_destroy(struct reach *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->nsegs; i++)
		free(r->segs[i].map);
	vec_free(&r->todo);
	vec_free(&r->tables);
	free(r);
}

void reach_destroyp(struct reach **r)
{
	reach_destroy(*r);
}

static u8 what(const struct reach_segment *s, addr_t addr)
{
	return s->map[addr - s->lo] & (START | INNER);
}

/* Is ADDR in a run of padding that begins behind an instruction? */
static bool in_padding(const struct reach *r, const struct reach_segment *s, addr_t addr)
{
	addr_t at = addr;
	struct insn in;

	while (at > s->lo && !what(s, at - 1))
		at--;
	for (; at < s->hi && !what(s, at); at += in.len) {
		if (!textscan_insn(r->scan, at, &in) || !insn_is_padding(&in))
			return false;
		if (at + in.len > addr)
			return true;
	}
	return false;
}

enum reach_state reach_state(const struct reach *r, addr_t addr)
{
	const struct reach_segment *s = segment_of(r, addr);
	static const enum reach_state states[] = {
		[START] = REACH_INSN, [INNER] = REACH_INSIDE, [START | INNER] = REACH_SHARED,
	};

	if (!s)
		return REACH_UNKNOWN;
	if (what(s, addr))
		return states[what(s, addr)];
	return in_padding(r, s, addr) ? REACH_PADDING : REACH_UNKNOWN;
}

void reach_near(const struct reach *r, addr_t addr, addr_t *below, addr_t *above)
{
	const struct reach_segment *s = segment_of(r, addr);

	*below = *above = 0;
	if (!s)
		return;
	for (addr_t a = addr; a-- > s->lo && !*below;)
		if (what(s, a) == START)
			*below = a;
	for (addr_t a = addr + 1; a < s->hi && !*above; a++)
		if (what(s, a) == START)
			*above = a;
}

addr_t reach_end(const struct reach *r, addr_t addr)
{
	const struct reach_segment *s = segment_of(r, addr);

	return s ? s->hi : addr;
}
