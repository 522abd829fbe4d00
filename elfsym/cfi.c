/* SPDX-License-Identifier: MIT */
/* Running call frame programs; see cfi.h. */
#include "elfsym/cfi.h"

#include "elfsym/ehframe.h"

#define REMEMBER_MAX 8
#define BUDGET_ONE 100000u /* instructions of one program, where nobody says */

enum { REG_RBP = 6, REG_RSP = 7 };

struct cfi_run {
	const struct cfi_program *p;
	u64 *budget;
	struct cfi_row row;   /* from row.lo on */
	struct cfi_row first; /* as the CIE leaves it */
	struct cfi_row saved[REMEMBER_MAX];
	unsigned nsaved;
};

/* The register's rule, or NULL when nobody asks. */
static struct cfi_reg *rule_of(struct cfi_run *run, struct cfi_row *row, u64 reg)
{
	if (reg == run->p->ra)
		return &row->ra;
	return reg == REG_RBP ? &row->bp : reg == REG_RSP ? &row->sp : NULL;
}

static void set_rule(struct cfi_run *run, u64 reg, struct cfi_reg rule)
{
	struct cfi_reg *to = rule_of(run, &run->row, reg);

	if (to)
		*to = rule;
}

static void set_how(struct cfi_run *run, u64 reg, enum cfi_how how)
{
	set_rule(run, reg, (struct cfi_reg){ .how = how });
}

static void set_offset(struct cfi_run *run, u64 reg, s64 off)
{
	set_rule(run, reg, (struct cfi_reg){ .how = CFI_AT_CFA, .off = off });
}

static void set_first(struct cfi_run *run, u64 reg)
{
	const struct cfi_reg *was = rule_of(run, &run->first, reg);

	if (was)
		set_rule(run, reg, *was);
}

static struct cfi_expr take_expr(struct reader *r)
{
	struct cfi_expr e = { .size = reader_uleb(r) };

	e.bytes = r->p;
	reader_skip(r, e.size);
	return r->bad ? (struct cfi_expr){} : e;
}

static void set_cfa(struct cfi_run *run, u64 reg, s64 off)
{
	run->row.reg = reg < CODE_CFA_OTHER ? reg : CODE_CFA_OTHER;
	run->row.off = off;
	run->row.expr = (struct cfi_expr){};
}

/* The caller's registers; false when the instruction is none about them. */
static bool step_rule(struct cfi_run *run, struct reader *r, u8 op)
{
	s64 align = run->p->data_align;
	u64 reg;

	switch (op) {
	case CFA_NOP:
		return true;
	case CFA_GNU_ARGS_SIZE:
		reader_uleb(r);
		return true;
	case CFA_OFFSET_EXTENDED:
		reg = reader_uleb(r);
		set_offset(run, reg, (s64)(reader_uleb(r) * (u64)align));
		return true;
	case CFA_OFFSET_SF:
		reg = reader_uleb(r);
		set_offset(run, reg, (s64)((u64)reader_sleb(r) * (u64)align));
		return true;
	case CFA_RESTORE_EXTENDED:
		set_first(run, reader_uleb(r));
		return true;
	case CFA_UNDEFINED:
		set_how(run, reader_uleb(r), CFI_UNDEFINED);
		return true;
	case CFA_SAME_VALUE:
		set_how(run, reader_uleb(r), CFI_SAME);
		return true;
	case CFA_REGISTER:
	case CFA_VAL_OFFSET:
	case CFA_VAL_OFFSET_SF:
		set_how(run, reader_uleb(r), CFI_OTHER);
		reader_uleb(r);
		return true;
	case CFA_EXPRESSION:
		reg = reader_uleb(r);
		set_rule(run, reg, (struct cfi_reg){ .how = CFI_AT_EXPR, .expr = take_expr(r) });
		return true;
	case CFA_VAL_EXPRESSION:
		set_how(run, reader_uleb(r), CFI_OTHER);
		take_expr(r);
		return true;
	default:
		return false;
	}
}

/* The CFA, and the stack of rows. */
static bool step_row(struct cfi_run *run, struct reader *r, u8 op)
{
	addr_t lo = run->row.lo;
	u64 reg;

	switch (op) {
	case CFA_REMEMBER:
		if (run->nsaved == REMEMBER_MAX)
			return false;
		run->saved[run->nsaved++] = run->row;
		return true;
	case CFA_RESTORE_STATE:
		if (!run->nsaved)
			return false;
		run->row = run->saved[--run->nsaved];
		run->row.lo = lo;
		return true;
	case CFA_DEF:
		reg = reader_uleb(r);
		set_cfa(run, reg, (s64)reader_uleb(r));
		return true;
	case CFA_DEF_SF:
		reg = reader_uleb(r);
		set_cfa(run, reg, (s64)((u64)reader_sleb(r) * (u64)run->p->data_align));
		return true;
	case CFA_DEF_REGISTER:
		set_cfa(run, reader_uleb(r), run->row.off);
		return true;
	case CFA_DEF_OFFSET:
		run->row.off = (s64)reader_uleb(r);
		return true;
	case CFA_DEF_OFFSET_SF:
		run->row.off = (s64)((u64)reader_sleb(r) * (u64)run->p->data_align);
		return true;
	case CFA_DEF_EXPRESSION:
		set_cfa(run, CODE_CFA_OTHER, 0);
		run->row.expr = take_expr(r);
		return true;
	default:
		return step_rule(run, r, op);
	}
}

/* One instruction; sets *NEXT where a row ends. */
static bool step(struct cfi_run *run, struct reader *r, addr_t *next)
{
	u8 op = reader_u8(r), low = op & ~CFA_HIGH_MASK;
	u64 align = run->p->code_align, n;

	switch (op & CFA_HIGH_MASK) {
	case CFA_ADVANCE:
		*next = run->row.lo + low * align;
		return true;
	case CFA_OFFSET:
		set_offset(run, low, (s64)(reader_uleb(r) * (u64)run->p->data_align));
		return true;
	case CFA_RESTORE:
		set_first(run, low);
		return true;
	}
	switch (op) {
	case CFA_SET_LOC:
		*next = ehframe_pointer(r, run->p->pointer, NULL);
		return true;
	case CFA_ADVANCE1:
		*next = run->row.lo + reader_u8(r) * align;
		return true;
	case CFA_ADVANCE2:
		n = reader_u8(r);
		*next = run->row.lo + (n | (u64)reader_u8(r) << 8) * align;
		return true;
	case CFA_ADVANCE4:
		*next = run->row.lo + reader_u32(r) * align;
		return true;
	default:
		return step_row(run, r, op);
	}
}

/* *MORE: FN has not had enough. */
static bool run_all(struct cfi_run *run, struct reader r, bool (*fn)(void *, const struct cfi_row *), void *ctx,
		    bool *more)
{
	addr_t end = run->p->start + run->p->size;

	while (*more && reader_left(&r)) {
		addr_t next = run->row.lo;

		if (!*run->budget || !step(run, &r, &next) || r.bad || next < run->row.lo)
			return false;
		--*run->budget;
		if (next == run->row.lo || !fn)
			continue;
		run->row.hi = next < end ? next : end;
		if (run->row.hi > run->row.lo)
			*more = fn(ctx, &run->row);
		run->row.lo = next;
	}
	return !r.bad;
}

bool cfi_rows(const struct cfi_program *p, u64 *budget, bool (*fn)(void *ctx, const struct cfi_row *row), void *ctx)
{
	struct cfi_run run = { .p = p, .budget = budget, .row = { .reg = CODE_CFA_OTHER } };
	bool more = true;

	if (!run_all(&run, p->first, NULL, NULL, &more))
		return false;
	run.first = run.row;
	run.row.lo = p->start;
	if (!run_all(&run, p->insns, fn, ctx, &more))
		return false;
	run.row.hi = p->start + p->size;
	if (more && run.row.hi > run.row.lo)
		fn(ctx, &run.row);
	return true;
}

struct cfa_wanted {
	addr_t pc;
	struct code_cfa *ret;
	bool found;
};

static bool want_cfa(void *ctx, const struct cfi_row *row)
{
	struct cfa_wanted *w = ctx;

	if (w->pc >= row->hi)
		return true;
	w->found = row->off == (s32)row->off;
	*w->ret = (struct code_cfa){ .lo = row->lo, .hi = row->hi, .reg = (u8)row->reg, .off = (s32)row->off };
	return false;
}

bool cfi_cfa(const struct cfi_program *p, addr_t pc, struct code_cfa *ret)
{
	struct code_cfa cfa;
	struct cfa_wanted w = { .pc = pc, .ret = &cfa };
	u64 budget = BUDGET_ONE;

	if (pc - p->start >= p->size || !cfi_rows(p, &budget, want_cfa, &w) || !w.found)
		return false;
	*ret = cfa;
	return true;
}
