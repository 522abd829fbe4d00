/* SPDX-License-Identifier: MIT */
/*
 * From .eh_frame to a compact table. Each FDE's rows are turned into rules that
 * know rsp and rbp alone; where the frame is described by another register, or
 * by an expression of a kind that is not listed here, the row says that nothing is
 * known, and a walk ends there or goes by frame pointers:
 *
 *	rsp + n, rbp + n                      nearly all
 *	*(rbp + n), *(rsp + n) + m            realigned stacks; OpenSSL's assembly
 *	rsp + f(rip)                          PLTs: a row for each value of f
 *	the registers of a ucontext           returns from signal handlers
 *
 * Work and memory are bounded by the size of .eh_frame, whatever it claims.
 */
#include "elfsym/unwind.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "elfsym/cfi.h"
#include "elfsym/ehframe.h"
#include "elfsym/image_int.h"

#define SPAN_MAX (1ull << 31)   /* from the first function to the end of the last */
#define EXPANDED_MAX (1u << 20) /* addresses whose rule is computed one by one */
#define RULE_SLOTS 131072u      /* of the hash table: twice the rules, a power of two */
#define STEPS_PER_BYTE 8u

enum { REG_RBP = 6, REG_RSP = 7, REG_RIP = 16 };

/* DW_OP_* that compilers and assemblers use in these places. */
enum {
	OP_DEREF = 0x06, OP_CONST1U = 0x08, OP_CONST1S = 0x09, OP_CONST2U = 0x0a, OP_CONST2S = 0x0b,
	OP_AND = 0x1a, OP_MINUS = 0x1c, OP_MUL = 0x1e, OP_PLUS = 0x22, OP_PLUS_UCONST = 0x23, OP_SHL = 0x24,
	OP_SHR = 0x25, OP_EQ = 0x29, OP_GE = 0x2a, OP_GT = 0x2b, OP_LE = 0x2c, OP_LT = 0x2d, OP_NE = 0x2e,
	OP_LIT0 = 0x30, OP_LIT31 = 0x4f, OP_BREG0 = 0x70, OP_BREG31 = 0x8f,
};

typedef VEC(struct fde) fde_vec;
typedef VEC(struct unwind_rule) rule_vec;

struct making {
	const struct unwind_input *in;
	u64 budget;
	fde_vec fdes;
	addr_t base, end;
	addr_t covered;  /* rows so far go up to here */
	VEC(u32) pcs;
	VEC(u16) refs;
	rule_vec rules;
	u32 *slots;      /* 1 + rule, by hash */
	u64 expanded;
	bool signal;     /* of the FDE at hand */
	bool nomem;
};

static void making_deinit(struct making *mk)
{
	free(mk->slots);
	vec_free(&mk->fdes);
	vec_free(&mk->pcs);
	vec_free(&mk->refs);
	vec_free(&mk->rules);
}

/* ---- expressions ---- */

#define STACK_MAX 8

struct eval {
	s64 stack[STACK_MAX];
	unsigned n;
	bool bad;
};

static void push(struct eval *e, s64 v)
{
	if (e->n == STACK_MAX)
		e->bad = true;
	else
		e->stack[e->n++] = v;
}

static s64 pop(struct eval *e)
{
	if (!e->n)
		e->bad = true;
	return e->bad ? 0 : e->stack[--e->n];
}

static void eval_binary(struct eval *e, u8 op)
{
	s64 b = pop(e), a = pop(e);

	switch (op) {
	case OP_AND:
		push(e, a & b);
		return;
	case OP_PLUS:
		push(e, (s64)((u64)a + (u64)b));
		return;
	case OP_MINUS:
		push(e, (s64)((u64)a - (u64)b));
		return;
	case OP_MUL:
		push(e, (s64)((u64)a * (u64)b));
		return;
	case OP_SHL:
		push(e, (u64)b < 64 ? (s64)((u64)a << b) : 0);
		return;
	case OP_SHR:
		push(e, (u64)b < 64 ? (s64)((u64)a >> b) : 0);
		return;
	case OP_EQ:
		push(e, a == b);
		return;
	case OP_NE:
		push(e, a != b);
		return;
	case OP_GE:
		push(e, a >= b);
		return;
	case OP_GT:
		push(e, a > b);
		return;
	case OP_LE:
		push(e, a <= b);
		return;
	case OP_LT:
		push(e, a < b);
		return;
	default:
		e->bad = true;
	}
}

/* An expression of rsp and rip alone. */
static bool eval_expr(struct cfi_expr x, u64 sp, u64 ip, s64 *ret)
{
	struct reader r = reader_at(x.bytes, x.size, 0);
	struct eval e = {};

	while (reader_left(&r) && !e.bad) {
		u8 op = reader_u8(&r);

		if (op >= OP_LIT0 && op <= OP_LIT31)
			push(&e, op - OP_LIT0);
		else if (op == OP_BREG0 + REG_RSP)
			push(&e, (s64)(sp + (u64)reader_sleb(&r)));
		else if (op == OP_BREG0 + REG_RIP)
			push(&e, (s64)(ip + (u64)reader_sleb(&r)));
		else if (op == OP_CONST1U)
			push(&e, reader_u8(&r));
		else if (op == OP_CONST1S)
			push(&e, (s8)reader_u8(&r));
		else if (op == OP_PLUS_UCONST)
			push(&e, (s64)((u64)pop(&e) + reader_uleb(&r)));
		else
			eval_binary(&e, op);
	}
	if (e.bad || r.bad || e.n != 1)
		return false;
	*ret = e.stack[0];
	return true;
}

/* "*(REG + off) + add", or with DEREF false "REG + off". */
static bool expr_is(struct cfi_expr x, u8 reg, bool deref, s64 *off, s64 *add)
{
	struct reader r = reader_at(x.bytes, x.size, 0);

	*add = 0;
	if (reader_u8(&r) != OP_BREG0 + reg)
		return false;
	*off = reader_sleb(&r);
	if (deref && reader_u8(&r) != OP_DEREF)
		return false;
	if (deref && reader_left(&r)) {
		if (reader_u8(&r) != OP_PLUS_UCONST)
			return false;
		*add = (s64)reader_uleb(&r);
	}
	return !r.bad && !reader_left(&r);
}

/* ---- rules ---- */

static const struct unwind_rule unknown;

static u32 rule_hash(const struct unwind_rule *rule)
{
	u64 words[2] = {};

	memcpy(words, rule, sizeof(*rule));
	return (u32)(((words[0] ^ words[1] << 7) * 0x9e3779b97f4a7c15ull) >> 40);
}

/* The number of RULE; 0, which is `unknown`, when there are too many. */
static u16 rule_no(struct making *mk, const struct unwind_rule *rule)
{
	u32 at = rule_hash(rule) % RULE_SLOTS;

	for (; mk->slots[at]; at = (at + 1) % RULE_SLOTS)
		if (!memcmp(&mk->rules.data[mk->slots[at] - 1], rule, sizeof(*rule)))
			return (u16)(mk->slots[at] - 1);
	if (mk->rules.n == UNWIND_RULES_MAX)
		return 0;
	if (!vec_push(&mk->rules, *rule)) {
		mk->nomem = true;
		return 0;
	}
	mk->slots[at] = (u32)mk->rules.n;
	return (u16)(mk->rules.n - 1);
}

static void set_bp(const struct cfi_row *row, struct unwind_rule *rule)
{
	s64 off = row->bp.off, add;

	rule->bp = UNWIND_BP_LOST;
	if (row->bp.how == CFI_SAME) {
		rule->bp = UNWIND_BP_SAME;
	} else if (row->bp.how == CFI_AT_CFA && off == (s16)off) {
		rule->bp = UNWIND_BP_AT_CFA;
		rule->bp_off = (s16)off;
	} else if (row->bp.how == CFI_AT_EXPR && expr_is(row->bp.expr, REG_RBP, false, &off, &add) && off == (s16)off) {
		rule->bp = UNWIND_BP_AT_BP;
		rule->bp_off = (s16)off;
	}
}

static bool at_uc(const struct cfi_reg *reg, s64 want)
{
	s64 off, add;

	return reg->how == CFI_AT_EXPR && expr_is(reg->expr, REG_RSP, false, &off, &add) && off == want;
}

/* As libcs describe the code that handlers return to. */
static bool is_signal(const struct cfi_row *row)
{
	s64 off, add;

	return at_uc(&row->ra, UNWIND_UC_IP) && at_uc(&row->bp, UNWIND_UC_BP) &&
	       (at_uc(&row->sp, UNWIND_UC_SP) ||
		(row->reg == CODE_CFA_OTHER && expr_is(row->expr, REG_RSP, true, &off, &add) && off == UNWIND_UC_SP &&
		 !add));
}

/* The rule of ROW; where it depends on the address, that at PC. */
static struct unwind_rule make_rule(const struct making *mk, const struct cfi_row *row, addr_t pc)
{
	struct unwind_rule rule = {};
	s64 off = row->off, other, add = 0;

	if (row->ra.how == CFI_UNDEFINED)
		return (struct unwind_rule){ .cfa = UNWIND_END };
	if (mk->signal)
		return is_signal(row) ? (struct unwind_rule){ .cfa = UNWIND_SIGNAL } : unknown;
	if (row->ra.how != CFI_AT_CFA || row->ra.off != -8 || row->sp.how != CFI_SAME)
		return unknown;
	if (row->reg == REG_RSP)
		rule.cfa = UNWIND_RSP;
	else if (row->reg == REG_RBP)
		rule.cfa = UNWIND_RBP;
	else if (row->reg != CODE_CFA_OTHER)
		return unknown;
	else if (expr_is(row->expr, REG_RSP, true, &off, &add))
		rule.cfa = UNWIND_AT_RSP;
	else if (expr_is(row->expr, REG_RBP, true, &off, &add))
		rule.cfa = UNWIND_AT_RBP;
	else if (eval_expr(row->expr, 0, pc, &off) && eval_expr(row->expr, 1 << 20, pc, &other) &&
		 other == off + (1 << 20))
		rule.cfa = UNWIND_RSP;
	else
		return unknown;
	if (off != (s32)off || add != (s16)add)
		return unknown;
	rule.cfa_off = (s32)off;
	rule.cfa_add = (s16)add;
	set_bp(row, &rule);
	return rule;
}

/* ---- rows ---- */

/* From PC on it is RULE. */
static void add_row(struct making *mk, addr_t pc, const struct unwind_rule *rule)
{
	u16 ref = rule_no(mk, rule);

	if (mk->refs.n && mk->refs.data[mk->refs.n - 1] == ref)
		return;
	if (mk->pcs.n == UNWIND_ROWS_MAX || !vec_push(&mk->pcs, (u32)(pc - mk->base)) || !vec_push(&mk->refs, ref))
		mk->nomem = true;
}

/* What is computed may depend on the address. Beyond the maximum nothing is known. */
static void add_rows_one_by_one(struct making *mk, const struct cfi_row *row)
{
	for (addr_t pc = row->lo; pc < row->hi && !mk->nomem; pc++) {
		bool more = mk->expanded++ < EXPANDED_MAX;
		struct unwind_rule rule = more ? make_rule(mk, row, pc) : unknown;

		add_row(mk, pc, &rule);
		if (!more)
			return;
	}
}

static bool take_row(void *ctx, const struct cfi_row *row)
{
	struct making *mk = ctx;
	struct unwind_rule rule;
	s64 off, add;

	mk->covered = row->hi;
	if (row->reg == CODE_CFA_OTHER && !mk->signal && !expr_is(row->expr, REG_RSP, true, &off, &add) &&
	    !expr_is(row->expr, REG_RBP, true, &off, &add) && row->hi - row->lo < EXPANDED_MAX) {
		add_rows_one_by_one(mk, row);
		return !mk->nomem;
	}
	rule = make_rule(mk, row, row->lo);
	add_row(mk, row->lo, &rule);
	return !mk->nomem;
}

static bool in_text(const struct unwind_input *in, addr_t addr)
{
	size_t lo = 0, hi = in->ntext;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (in->text[mid].lo <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && addr < in->text[lo - 1].hi;
}

static bool take_fde(void *ctx, const struct fde *fde)
{
	struct making *mk = ctx;

	if (!in_text(mk->in, fde->start))
		return true;
	mk->nomem = !vec_push(&mk->fdes, *fde);
	return !mk->nomem;
}

static int fde_cmp(const void *a, const void *b)
{
	const struct fde *x = a, *y = b;

	return x->start != y->start ? (x->start < y->start ? -1 : 1) : x->off < y->off ? -1 : x->off > y->off;
}

/* Of functions that overlap, which no compiler makes, the first one counts. */
static bool keep_apart(struct making *mk)
{
	size_t n = 0;
	addr_t end = 0;

	if (mk->fdes.n)
		qsort(mk->fdes.data, mk->fdes.n, sizeof(*mk->fdes.data), fde_cmp);
	vec_foreach(f, &mk->fdes) {
		if (f->start < end)
			continue;
		end = f->start + f->size;
		mk->fdes.data[n++] = *f;
	}
	mk->fdes.n = n;
	if (!n)
		return false;
	mk->base = ALIGN_DOWN(mk->fdes.data[0].start, (addr_t)UNWIND_BLOCK);
	mk->end = end;
	return end - mk->base <= SPAN_MAX;
}

/* Where the program makes no sense any more, nothing is known. */
static void add_function(struct making *mk, const struct fde *f)
{
	struct cfi_program p;

	mk->covered = f->start;
	if (ehframe_program(mk->in->bytes, mk->in->size, mk->in->addr, f->off, &p)) {
		mk->signal = p.signal;
		cfi_rows(&p, &mk->budget, take_row, mk);
	}
	if (mk->covered < f->start + f->size)
		add_row(mk, mk->covered, &unknown);
}

static void add_functions(struct making *mk)
{
	rule_no(mk, &unknown); /* number 0 */
	for (size_t i = 0; i < mk->fdes.n && !mk->nomem; i++) {
		const struct fde *f = &mk->fdes.data[i];

		add_function(mk, f);
		if (i + 1 == mk->fdes.n || f[1].start > f->start + f->size)
			add_row(mk, f->start + f->size, &unknown);
	}
}

/* ---- putting it together ---- */

static bool find_frames(const struct image *im, addr_t *ret, struct span *span)
{
	for (size_t i = 0; i < im->nareas; i++) {
		if (strcmp(im->areas[i].name, ".eh_frame"))
			continue;
		*ret = im->areas[i].addr;
		*span = im->areas[i].span;
		return true;
	}
	for (size_t i = 0; i < im->nphdrs; i++) {
		const Elf64_Phdr *ph = &im->phdrs[i];
		cleanup_uerr struct uerr *err = NULL;
		const struct area *area;
		u8 head[8];
		s32 rel;

		/* version, encodings of {pointer, count, table}, the pointer */
		if (ph->p_type != PT_GNU_EH_FRAME)
			continue;
		err = image_read(im, ph->p_vaddr, head, sizeof(head));
		if (err || head[0] != 1 || head[1] != 0x1b)
			return false;
		memcpy(&rel, head + 4, sizeof(rel));
		*ret = ph->p_vaddr + 4 + rel;
		area = image_area(im, *ret);
		if (!area)
			return false;
		span->off = area->span.off + (*ret - area->addr);
		span->size = area->span.size - (*ret - area->addr);
		return true;
	}
	return false;
}

static struct unwind_table *put_together(const struct making *mk)
{
	struct unwind_table head = {
		.magic = UNWIND_TABLE_MAGIC,
		.base = mk->base,
		.nblocks = (u32)((mk->end - mk->base) / UNWIND_BLOCK + 1),
		.nrows = (u32)mk->pcs.n,
		.nrules = (u32)mk->rules.n,
	};
	struct unwind_table *t;
	u32 *blocks, row = 0;

	head.size = unwind_table_size(&head);
	t = calloc(1, head.size);
	if (!t)
		return NULL;
	*t = head;
	blocks = (u32 *)(void *)((u8 *)t + unwind_blocks_off());
	for (u32 b = 0; b <= head.nblocks; b++) {
		while (row < head.nrows && mk->pcs.data[row] < (u64)b * UNWIND_BLOCK)
			row++;
		blocks[b] = row;
	}
	memcpy((u8 *)t + unwind_pcs_off(t), mk->pcs.data, mk->pcs.n * sizeof(u32));
	memcpy((u8 *)t + unwind_refs_off(t), mk->refs.data, mk->refs.n * sizeof(u16));
	memcpy((u8 *)t + unwind_rules_off(t), mk->rules.data, mk->rules.n * sizeof(struct unwind_rule));
	return t;
}

static struct uerr *find_text(const struct image *im, struct unwind_input *ret)
{
	ret->text = calloc(im->nareas + 1, sizeof(*ret->text));
	if (!ret->text)
		return uerr_nomem();
	for (size_t i = 0; i < im->nareas; i++) {
		const struct area *a = &im->areas[i];

		if (a->exec)
			ret->text[ret->ntext++] = (struct unwind_text){ a->addr, a->addr + a->span.size };
	}
	return NULL;
}

struct uerr *image_unwind_input(struct image *im, struct unwind_input *ret)
{
	struct span span;
	struct uerr *err;

	*ret = (struct unwind_input){};
	if (!find_frames(im, &ret->addr, &span))
		return NULL;
	ret->size = span.size;
	err = find_text(im, ret);
	return err ? err : image_load(im, span, &ret->bytes);
}

void unwind_input_deinit(struct unwind_input *in)
{
	free(in->bytes);
	free(in->text);
	*in = (struct unwind_input){};
}

struct uerr *unwind_table_make(const struct unwind_input *in, struct unwind_table **ret)
{
	cleanup(making_deinit) struct making mk = { .in = in, .budget = in->size * STEPS_PER_BYTE };

	*ret = NULL;
	if (!in->bytes)
		return NULL;
	mk.slots = calloc(RULE_SLOTS, sizeof(*mk.slots));
	if (!mk.slots)
		return uerr_nomem();
	ehframe_walk(in->bytes, in->size, in->addr, take_fde, &mk);
	if (!mk.nomem && keep_apart(&mk))
		add_functions(&mk);
	if (mk.nomem)
		return uerr_nomem();
	if (!mk.pcs.n)
		return NULL;
	*ret = put_together(&mk);
	return *ret ? NULL : uerr_nomem();
}

bool unwind_table_valid(const struct unwind_table *t, u64 size)
{
	const u32 *blocks, *pcs;

	if (size < sizeof(*t) || t->magic != UNWIND_TABLE_MAGIC || t->size != size || !t->nblocks || !t->nrows ||
	    t->nrows > UNWIND_ROWS_MAX || t->nrules > UNWIND_RULES_MAX || t->nblocks > SPAN_MAX / UNWIND_BLOCK + 1 ||
	    unwind_table_size(t) != size)
		return false;
	blocks = (const u32 *)(const void *)((const u8 *)t + unwind_blocks_off());
	pcs = (const u32 *)(const void *)((const u8 *)t + unwind_pcs_off(t));
	for (u32 b = 0; b < t->nblocks; b++)
		if (blocks[b] > blocks[b + 1] || blocks[b + 1] > t->nrows)
			return false;
	for (u32 i = 1; i < t->nrows; i++)
		if (pcs[i] <= pcs[i - 1])
			return false;
	return true;
}
