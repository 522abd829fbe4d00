/* SPDX-License-Identifier: MIT */
/*
 * What registers and stack slots hold, followed through each function.
 *
 * An abstract value says what is certain: a number within bounds, ctx plus a
 * constant, an address in this frame or in a map's value within bounds, a map,
 * the result of a lookup that may be NULL. Where paths with different values
 * meet, the result is the bounds of both or, when they have nothing in common,
 * V_ANY. V_ANY may be used as an address: only what is wrong on *every* path is
 * refused, because without following paths one by one a program that is right
 * could not be told from one that is wrong. (A verifier follows them.)
 *
 * Values of one id are copies of one another: a NULL check or a comparison of
 * one holds for all.
 *
 * The one thing that must not be missed is a read of ctx, since the trampoline
 * saves only the registers that are read. So V_ANY remembers whether it may be
 * ctx; wherever ctx goes out of sight, all its fields count as read.
 *
 * Each function is followed once, from the join of what its callers pass. A
 * value of a caller's frame is V_ANY in the callee.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/check_internal.h"
#include "vm/core_relo.h"
#include "vm/helpers.h"

enum kind {
	V_NONE,          /* never written */
	V_SCALAR,        /* x … x + span, unsigned; x = 0 unless span = 0 */
	V_CTX,           /* ctx + x */
	V_STACK,         /* r10 of this frame + x … + span */
	V_MAP,           /* the map itself */
	V_VALUE,         /* a value of map, + x … + span */
	V_VALUE_OR_NULL, /* not yet compared with 0 */
	V_ANY,
};

struct val {
	u8 kind;
	u8 maybe_ctx; /* V_ANY */
	u16 map;
	u32 id;       /* copies have the same; 0 none */
	s64 x;
	u64 span;
};

#define UNBOUND (~0ull)
#define SLOTS (INSN_STACK_SIZE / 8)
#define JOINED_ID 0x80000000u /* | instruction: made where paths met */
#define MAX_OFFSET (1 << 29)  /* of a pointer, as in the kernel */
#define WIDEN_AFTER 16        /* joins at one instruction, then bounds go */
#define MAX_STEPS 4000000u
#define MAX_STATES 16384u     /* 40 MB */

struct state {
	struct val reg[11];
	struct val slot[SLOTS]; /* slot[0] is the lowest, r10 - 512 */
};

struct flow {
	struct checker *c;
	struct state **at;  /* of instructions where paths meet; NULL: not yet reached */
	u16 *joins;         /* how often at[i] grew */
	u32 *work;
	u8 *queued;
	u32 nwork;
	struct state cur;   /* before, then after the instruction in hand */
	u32 pc;
	u32 steps, nstates;
	bool ctx_spilled;   /* ctx lies in some stack slot … */
	bool any_load;      /* … and something was loaded from an unknown place */
	bool impure;
};

static const struct val scalar_any = { .kind = V_SCALAR, .span = UNBOUND };

static const char *const kind_names[] = {
	[V_NONE] = "uninitialised", [V_SCALAR] = "scalar", [V_CTX] = "ctx", [V_STACK] = "fp", [V_MAP] = "map_ptr",
	[V_VALUE] = "map_value", [V_VALUE_OR_NULL] = "map_value_or_null", [V_ANY] = "unknown",
};

/* --- values --- */

static struct val scalar(u64 x, u64 span)
{
	return (struct val){ .kind = V_SCALAR, .x = span ? 0 : (s64)x, .span = span };
}

/* A number of BITS bits that is defined here: copies of it get to know what
 * comparisons tell about it. */
static struct val fresh(const struct flow *f, u32 bits)
{
	struct val v = scalar(0, bits < 64 ? (1ull << bits) - 1 : UNBOUND);

	v.id = f->pc + 1;
	return v;
}

static bool is_const(const struct val *v)
{
	return v->kind == V_SCALAR && !v->span;
}

/* The largest number it can be. */
static u64 umax(const struct val *v)
{
	return v->kind == V_SCALAR ? (v->span ? v->span : (u64)v->x) : UNBOUND;
}

static bool maybe_ctx(const struct val *v)
{
	return v->kind == V_CTX || (v->kind == V_ANY && v->maybe_ctx);
}

static bool is_pointer(const struct val *v)
{
	return v->kind == V_CTX || v->kind == V_STACK || v->kind == V_VALUE;
}

static struct val any(bool ctx)
{
	return (struct val){ .kind = V_ANY, .maybe_ctx = ctx };
}

static bool same(const struct val *a, const struct val *b)
{
	return a->kind == b->kind && a->maybe_ctx == b->maybe_ctx && a->map == b->map && a->id == b->id &&
	       a->x == b->x && a->span == b->span;
}

static void unbind(struct val *v)
{
	v->x = 0;
	v->span = UNBOUND;
}

/* Bounds of both OLD and NEW, pointers of one kind and one map. */
static struct val join_span(const struct val *old, const struct val *new, bool widen)
{
	struct val r = *old;
	u64 old_end, new_end;

	r.id = 0;
	r.x = old->x < new->x ? old->x : new->x;
	old_end = (u64)(old->x - r.x) + old->span;
	new_end = (u64)(new->x - r.x) + new->span;
	r.span = old_end > new_end ? old_end : new_end;
	if (old->span == UNBOUND || new->span == UNBOUND ||
	    (widen && (r.x != old->x || r.span != old->span)))
		unbind(&r);
	return r;
}

/* Bounds of both OLD and NEW, numbers. They are copies of something else only
 * where both are copies of the same. */
static struct val join_scalar(const struct val *old, const struct val *new, bool widen)
{
	u64 max = umax(old) > umax(new) ? umax(old) : umax(new);
	struct val r = *old;

	if (old->id != new->id)
		r.id = 0;
	if (old->x == new->x && old->span == new->span)
		return r;
	r.x = 0;
	r.span = widen && max > umax(old) ? UNBOUND : max;
	return r;
}

/* What is certain of a value that is OLD on one path and NEW on another, where
 * they meet at PC. */
static struct val join(const struct val *old, const struct val *new, u32 pc, bool widen)
{
	struct val r = *old;

	if (same(old, new))
		return r;
	if (old->kind != new->kind || old->map != new->map)
		return any(maybe_ctx(old) || maybe_ctx(new));
	switch (old->kind) {
	case V_SCALAR:
		return join_scalar(old, new, widen);
	case V_STACK:
	case V_VALUE:
		return join_span(old, new, widen);
	case V_VALUE_OR_NULL:
		r.id = JOINED_ID | pc;
		return r;
	case V_ANY:
		return any(old->maybe_ctx || new->maybe_ctx);
	case V_CTX:
		return any(true);
	}
	return any(false);
}

/* --- meeting of paths --- */

static void queue(struct flow *f, u32 pc)
{
	if (f->queued[pc])
		return;
	f->queued[pc] = 1;
	f->work[f->nwork++] = pc;
}

/* The state S arrives at PC, where paths may meet. False: out of memory, or
 * more than MAX_STATES places. */
static bool arrive(struct flow *f, u32 pc, const struct state *s)
{
	struct state *old = f->at[pc];
	bool widen, changed = false;
	struct val *a;
	const struct val *b;

	if (!old) {
		f->at[pc] = f->nstates++ < MAX_STATES ? malloc(sizeof(*s)) : NULL;
		if (!f->at[pc])
			return false;
		*f->at[pc] = *s;
		queue(f, pc);
		return true;
	}
	widen = f->joins[pc] >= WIDEN_AFTER;
	a = old->reg;
	b = s->reg;
	for (u32 i = 0; i < 11 + SLOTS; i++, a++, b++) {
		struct val r;

		if (i == 11) {
			a = old->slot;
			b = s->slot;
		}
		r = join(a, b, pc, widen);
		if (same(&r, a))
			continue;
		*a = r;
		changed = true;
	}
	if (changed) {
		if (f->joins[pc] < WIDEN_AFTER)
			f->joins[pc]++;
		queue(f, pc);
	}
	return true;
}

/* --- ids --- */

#define for_each_val(v, s)                                                              \
	for (u32 _i = 0; _i < 11 + SLOTS; _i++)                                         \
		for (struct val *v = _i < 11 ? &(s)->reg[_i] : &(s)->slot[_i - 11]; v; v = NULL)

/* ID is about to be given to something new: older copies stand for themselves. */
static void forget_id(struct state *s, u32 id)
{
	for_each_val(v, s) {
		if (v->id != id)
			continue;
		v->id = 0;
		if (v->kind == V_VALUE_OR_NULL)
			*v = any(false);
	}
}

static void set_reg(struct flow *f, u32 reg, struct val v)
{
	if (v.id == f->pc + 1)
		forget_id(&f->cur, v.id);
	f->cur.reg[reg] = v;
}

/* --- refusals --- */

static struct uerr *refuse_access(const struct flow *f, u32 reg, const char *try)
{
	char detail[64];

	snprintf(detail, sizeof(detail), "R%u invalid mem access '%s'", reg, kind_names[f->cur.reg[reg].kind]);
	return check_refuse(f->c, f->pc, detail, try, "R%u is no address that the program may use", reg);
}

static struct uerr *refuse_null(const struct flow *f, u32 reg)
{
	char detail[64];

	snprintf(detail, sizeof(detail), "R%u invalid mem access 'map_value_or_null'", reg);
	return check_refuse(f->c, f->pc, detail, "compare it with NULL first: if (!p) return 0;", "R%u may be NULL", reg);
}

static struct uerr *refuse_uninit(const struct flow *f, u32 reg)
{
	char detail[32];

	snprintf(detail, sizeof(detail), "R%u !read_ok", reg);
	return check_refuse(f->c, f->pc, detail, NULL, "R%u is used before it has a value", reg);
}

static struct uerr *read_reg(const struct flow *f, u32 reg)
{
	return f->cur.reg[reg].kind == V_NONE ? refuse_uninit(f, reg) : NULL;
}

static struct uerr *refuse_size(const struct flow *f)
{
	return check_refuse(f->c, f->pc, "BPF program is too large", "split the program", "more branches than can be checked");
}

/* --- memory --- */

static bool ctx_has(s64 off, u64 size)
{
	return off >= 0 && off <= (s64)sizeof(struct target_regs) && size <= sizeof(struct target_regs) - off;
}

/* The fields of struct pt_regs that lie in [OFF, OFF + SIZE). */
static struct uerr *ctx_read(struct flow *f, s64 off, u64 size)
{
	if (!ctx_has(off, size))
		return check_refuse(f->c, f->pc, "invalid bpf_context access", NULL,
				    "a read outside of struct pt_regs (offset %lld)", (long long)off);
	for (u64 word = off / 8; size && word <= (off + size - 1) / 8; word++)
		f->c->info.ctx_fields |= 1u << word;
	return NULL;
}

/* ctx goes where it is no longer followed. */
static void ctx_escapes(struct flow *f)
{
	f->c->info.ctx_fields |= TARGET_REGS_ALL;
}

static struct uerr *stack_range(struct flow *f, u32 reg, const struct val *v, s64 off, u64 size)
{
	struct subprog *s = &f->c->subs[f->c->sub_of[f->pc]];

	if (v->span > INSN_STACK_SIZE)
		return check_refuse(f->c, f->pc, "variable stack access",
				    "unroll the loop, or keep the buffer in a per-CPU array",
				    "R%u points into the stack at an offset without a bound", reg);
	if (off < -INSN_STACK_SIZE || size > INSN_STACK_SIZE || off + (s64)(v->span + size) > 0)
		return check_refuse(f->c, f->pc, "invalid access to stack", NULL,
				    "R%u goes outside of the %u bytes of stack (offset %lld, size %llu)", reg, INSN_STACK_SIZE,
				    (long long)off, (unsigned long long)size);
	if (-off > s->stack)
		s->stack = -off;
	return NULL;
}

/* Somebody else may use this frame from V upwards. */
static void stack_lent(struct flow *f, const struct val *v)
{
	struct subprog *s = &f->c->subs[f->c->sub_of[f->pc]];

	if (v->kind == V_STACK && v->span <= INSN_STACK_SIZE && v->x < 0 && -v->x > s->stack)
		s->stack = -v->x;
}

static struct uerr *value_range(const struct flow *f, u32 reg, const struct val *v, s64 off, u64 size)
{
	u32 value_size = f->c->maps[v->map].map->value_size;

	if (v->span == UNBOUND) /* cannot be judged here */
		return NULL;
	if (off < 0 || size > value_size || (u64)off + v->span > value_size - size)
		return check_refuse(f->c, f->pc, "invalid access to map value", "check the index before it is used",
				    "R%u goes outside of the map's value of %u bytes (offset %lld, size %llu)", reg,
				    value_size, (long long)off + (s64)v->span, (unsigned long long)size);
	return NULL;
}

/* Whether SIZE bytes at register REG + OFF may be accessed. */
static struct uerr *access_range(struct flow *f, u32 reg, s64 off, u64 size, bool write)
{
	const struct val *v = &f->cur.reg[reg];

	switch (v->kind) {
	case V_NONE:
		return refuse_uninit(f, reg);
	case V_SCALAR:
		return refuse_access(f, reg, "read the process's memory with bpf_probe_read_user()");
	case V_CTX:
		if (write)
			return check_refuse(f->c, f->pc, "invalid bpf_context access", "registers cannot be changed",
					    "ctx is written");
		return ctx_read(f, v->x + off, size);
	case V_STACK:
		return stack_range(f, reg, v, v->x + off, size);
	case V_MAP:
		return refuse_access(f, reg, "use bpf_map_lookup_elem()");
	case V_VALUE:
		if (write && f->c->maps[v->map].map->frozen)
			return check_refuse(f->c, f->pc, "write into map forbidden", "make the variable non-const",
					    "read-only data is written");
		return value_range(f, reg, v, v->x + off, size);
	case V_VALUE_OR_NULL:
		return refuse_null(f, reg);
	}
	if (v->maybe_ctx)
		ctx_escapes(f);
	return NULL;
}

/* The slots that SIZE bytes at V + OFF, an address in the stack, touch. */
static void slots_of(const struct val *v, s64 off, u64 size, u32 *first, u32 *end)
{
	u64 lo = INSN_STACK_SIZE + v->x + off;

	*first = lo / 8;
	*end = (lo + v->span + size + 7) / 8;
	if (*end > SLOTS)
		*end = SLOTS;
}

/* Numbers, and nothing else, are written to SIZE bytes at V + OFF. Where it is
 * not certain which bytes, a slot keeps what it may still be. */
static void stack_scribble(struct flow *f, const struct val *v, s64 off, u64 size)
{
	u32 first, end;

	slots_of(v, off, size, &first, &end);
	for (u32 i = first; i < end; i++)
		f->cur.slot[i] = v->span ? join(&f->cur.slot[i], &scalar_any, f->pc, true) : scalar_any;
}

static struct val stack_load(const struct flow *f, const struct val *v, s64 off, u32 size)
{
	u32 first, end;
	bool ctx = false;

	slots_of(v, off, size, &first, &end);
	if (!v->span && size == 8 && !((v->x + off) % 8)) {
		if (f->cur.slot[first].kind == V_NONE)
			return scalar_any;
		return f->cur.slot[first];
	}
	for (u32 i = first; i < end; i++)
		ctx |= maybe_ctx(&f->cur.slot[i]);
	return ctx ? any(true) : v->span ? any(false) : scalar_any;
}

static struct uerr *do_load(struct flow *f, const struct bpf_insn *insn, const struct opcode *op)
{
	u32 size = insn_access_size(insn);
	const struct val *base = &f->cur.reg[insn->src_reg];
	struct uerr *err = access_range(f, insn->src_reg, insn->off, size, false);
	struct val v;

	if (err)
		return err;
	/* unsigned loads have a bound */
	v = fresh(f, op->text[0] == 'u' ? size * 8 : 64);
	if (base->kind == V_ANY) {
		f->any_load = true;
		v = any(base->maybe_ctx);
	} else if (base->kind == V_STACK) {
		struct val loaded = stack_load(f, base, insn->off, size);

		if (size == 8 || loaded.kind == V_ANY)
			v = loaded;
	}
	set_reg(f, insn->dst_reg, v);
	return NULL;
}

static struct uerr *do_store(struct flow *f, const struct bpf_insn *insn, const struct val *v)
{
	u32 size = insn_access_size(insn);
	struct val base = f->cur.reg[insn->dst_reg];
	struct uerr *err = access_range(f, insn->dst_reg, insn->off, size, true);
	u32 first, end;

	if (err)
		return err;
	if (base.kind != V_STACK) {
		f->impure = true;
		if (maybe_ctx(v))
			ctx_escapes(f);
		return NULL;
	}
	if (!base.span && size == 8 && !((base.x + insn->off) % 8)) {
		slots_of(&base, insn->off, size, &first, &end);
		f->cur.slot[first] = *v;
		f->ctx_spilled |= maybe_ctx(v);
		return NULL;
	}
	if (maybe_ctx(v))
		ctx_escapes(f);
	if (v->kind == V_SCALAR) {
		stack_scribble(f, &base, insn->off, size);
		return NULL;
	}
	slots_of(&base, insn->off, size, &first, &end);
	for (u32 i = first; i < end; i++)
		f->cur.slot[i] = any(maybe_ctx(&f->cur.slot[i]) || maybe_ctx(v));
	return NULL;
}

static struct uerr *do_atomic(struct flow *f, const struct bpf_insn *insn, const struct opcode *op)
{
	struct val base = f->cur.reg[insn->dst_reg], src = f->cur.reg[insn->src_reg];
	u32 size = insn_access_size(insn);
	struct uerr *err = access_range(f, insn->dst_reg, insn->off, size, true);

	if (err)
		return err;
	if (maybe_ctx(&src) || (op->form == FORM_CMPXCHG && maybe_ctx(&f->cur.reg[0])))
		ctx_escapes(f);
	if (base.kind == V_CTX)
		return refuse_access(f, insn->dst_reg, NULL);
	if (base.kind == V_STACK)
		stack_scribble(f, &base, insn->off, size);
	else
		f->impure = true;
	if (op->form == FORM_CMPXCHG)
		set_reg(f, 0, fresh(f, size * 8));
	else if (op->form != FORM_ATOMIC)
		set_reg(f, insn->src_reg, fresh(f, size * 8));
	return NULL;
}

/* --- arithmetic --- */

static struct val pointer_add(const struct val *ptr, const struct val *n, bool minus)
{
	struct val r = *ptr;

	r.id = 0;
	if (is_const(n) && n->x >= -MAX_OFFSET && n->x <= MAX_OFFSET) {
		r.x += minus ? -n->x : n->x;
	} else if (r.kind == V_CTX || maybe_ctx(n)) {
		return any(true);
	} else if (umax(n) > MAX_OFFSET || r.span > MAX_OFFSET) {
		unbind(&r);
	} else {
		r.x -= minus ? umax(n) : 0;
		r.span += umax(n);
	}
	if (r.x < -MAX_OFFSET || r.x > MAX_OFFSET) {
		if (r.kind == V_CTX)
			return any(true);
		unbind(&r);
	}
	if (r.span == UNBOUND)
		r.x = 0;
	return r;
}

/* Numbers: bounds of the result where they are plain to see. */
static struct val scalar_op(const struct flow *f, const struct bpf_insn *insn, const struct val *a, const struct val *b)
{
	bool wide = BPF_CLASS(insn->code) == BPF_ALU64;
	u64 limit = wide ? UNBOUND : UINT32_MAX, max = limit;
	u64 am = umax(a), bm = umax(b);
	struct val r = fresh(f, 64);

	if (is_const(b) && !wide)
		bm = (u32)b->x;
	switch (BPF_OP(insn->code)) {
	case BPF_ADD:
		if (__builtin_add_overflow(am, bm, &max))
			max = limit;
		if (wide && is_const(a) && is_const(b))
			return scalar((u64)a->x + (u64)b->x, 0);
		break;
	case BPF_MUL:
		if (__builtin_mul_overflow(am, bm, &max))
			max = limit;
		break;
	case BPF_AND:
		max = am < bm ? am : bm;
		break;
	case BPF_LSH:
		if (is_const(b) && am <= limit >> (b->x & (wide ? 63 : 31)))
			max = am << (b->x & (wide ? 63 : 31));
		break;
	case BPF_RSH:
		if (is_const(b))
			max = (am > limit ? limit : am) >> (b->x & (wide ? 63 : 31));
		break;
	case BPF_DIV:
		max = insn->off ? limit : am;
		break;
	case BPF_MOD:
		if (!insn->off && is_const(b) && bm)
			max = bm - 1 < am ? bm - 1 : am;
		break;
	}
	r.span = max > limit ? limit : max;
	if (!r.span) { /* certainly 0 */
		r.id = 0;
		r.x = 0;
	}
	return r;
}

static struct val alu_result(const struct flow *f, const struct bpf_insn *insn, const struct val *a, const struct val *b)
{
	bool wide = BPF_CLASS(insn->code) == BPF_ALU64;
	u8 op = BPF_OP(insn->code);

	if (wide && (op == BPF_ADD || op == BPF_SUB)) {
		if (is_pointer(a) && (b->kind == V_SCALAR || b->kind == V_ANY))
			return pointer_add(a, b, op == BPF_SUB);
		if (op == BPF_ADD && is_pointer(b) && (a->kind == V_SCALAR || a->kind == V_ANY))
			return pointer_add(b, a, false);
	}
	if (a->kind == V_SCALAR && b->kind == V_SCALAR)
		return scalar_op(f, insn, a, b);
	/* parts of addresses are numbers; of what is not known, not known */
	if (a->kind == V_ANY || b->kind == V_ANY)
		return any(maybe_ctx(a) || maybe_ctx(b));
	return fresh(f, wide ? 64 : 32);
}

static struct val mov_result(struct flow *f, const struct bpf_insn *insn, u32 id, struct val *src)
{
	bool wide = BPF_CLASS(insn->code) == BPF_ALU64;

	if (BPF_SRC(insn->code) == BPF_K)
		return scalar(wide ? (u64)(s64)insn->imm : (u32)insn->imm, 0);
	if (id == OP_MOV64_REG) {
		/* from now on a copy: what is learned of one holds for both */
		if (src->kind == V_SCALAR && src->span && !src->id) {
			forget_id(&f->cur, f->pc + 1);
			src->id = f->pc + 1;
		}
		return *src;
	}
	if (id == OP_MOV32_REG && src->kind == V_SCALAR && umax(src) <= UINT32_MAX)
		return *src;
	if (id == OP_MOV32_REG && is_const(src))
		return scalar((u32)src->x, 0);
	if (src->kind == V_ANY)
		return *src;
	return fresh(f, wide ? 64 : 32);
}

static struct uerr *do_alu(struct flow *f, const struct bpf_insn *insn, u32 id, const struct opcode *op)
{
	struct val imm = scalar((u64)(s64)insn->imm, 0);
	struct val *src = BPF_SRC(insn->code) == BPF_X ? &f->cur.reg[insn->src_reg] : &imm;
	const struct val *dst = &f->cur.reg[insn->dst_reg];

	if (BPF_OP(insn->code) == BPF_MOV) {
		struct val v = mov_result(f, insn, id, src);

		if (id == OP_MOV64_REG)
			f->cur.reg[insn->dst_reg] = v;
		else
			set_reg(f, insn->dst_reg, v);
		return NULL;
	}
	if (BPF_CLASS(insn->code) == BPF_ALU64 && (dst->kind == V_VALUE_OR_NULL || src->kind == V_VALUE_OR_NULL))
		return refuse_null(f, dst->kind == V_VALUE_OR_NULL ? insn->dst_reg : insn->src_reg);
	if (op->form == FORM_NEG || op->form == FORM_END)
		set_reg(f, insn->dst_reg, dst->kind == V_ANY ? *dst : fresh(f, op->form == FORM_END ? insn->imm : 64));
	else
		set_reg(f, insn->dst_reg, alu_result(f, insn, dst, src));
	return NULL;
}

static void do_imm64(struct flow *f, const struct bpf_insn *insn, u32 id)
{
	struct val v = scalar(insn_imm64(insn), 0);

	if (id == OP_LD_MAP)
		v = (struct val){ .kind = V_MAP, .map = insn->imm };
	else if (id == OP_LD_MAP_VALUE)
		v = (struct val){ .kind = V_VALUE, .map = insn->imm, .x = (u32)insn[1].imm };
	f->cur.reg[insn->dst_reg] = v;
}

/* --- jumps --- */

/* All copies of V turned out to be W. */
static void learn(struct state *s, const struct val *v, const struct val *w)
{
	struct val was = *v, is = *w;

	for_each_val(other, s)
		if (was.id && other->id == was.id && other->kind == was.kind)
			*other = is;
}

/* What state S learns when `reg OP imm` came out as TAKEN. */
static void learn_bound(struct state *s, u32 reg, u8 op, u64 imm, u64 limit, bool taken)
{
	struct val *v = &s->reg[reg], w = *v;
	u64 max = umax(v);

	/* signed is as unsigned where neither can be negative */
	if (max > limit || ((op == BPF_JSGT || op == BPF_JSGE || op == BPF_JSLT || op == BPF_JSLE) &&
			    (max > limit / 2 || imm > limit / 2)))
		return;
	switch (op) {
	case BPF_JGT:
	case BPF_JSGT:
		max = taken ? max : imm;
		break;
	case BPF_JGE:
	case BPF_JSGE:
		max = taken || !imm ? max : imm - 1;
		break;
	case BPF_JLT:
	case BPF_JSLT:
		max = !taken || !imm ? max : imm - 1;
		break;
	case BPF_JLE:
	case BPF_JSLE:
		max = !taken ? max : imm;
		break;
	case BPF_JEQ:
		max = taken ? imm : max;
		break;
	case BPF_JNE:
		max = taken ? max : imm;
		break;
	}
	if (max >= umax(v))
		return;
	w.span = max;
	if (!max)
		w.x = 0;
	learn(s, v, &w);
	s->reg[reg] = w;
}

static void learn_null(struct state *s, u32 reg, bool is_null)
{
	struct val *v = &s->reg[reg], w = *v;

	if (is_null) {
		w = scalar(0, 0);
	} else {
		w.kind = V_VALUE;
		w.id = 0;
	}
	learn(s, v, &w);
	s->reg[reg] = w;
}

static void learn_from(struct state *s, const struct bpf_insn *insn, bool taken)
{
	bool wide = BPF_CLASS(insn->code) == BPF_JMP;
	u64 limit = wide ? UNBOUND : UINT32_MAX;
	const struct val *v = &s->reg[insn->dst_reg], *src = &s->reg[insn->src_reg];
	u8 op = BPF_OP(insn->code);
	u64 imm = (u64)(s64)insn->imm & limit;

	if (BPF_SRC(insn->code) == BPF_X) {
		if (!is_const(src))
			return;
		imm = (u64)src->x & limit;
	}
	if (v->kind == V_VALUE_OR_NULL && wide && !imm && (op == BPF_JEQ || op == BPF_JNE))
		learn_null(s, insn->dst_reg, taken == (op == BPF_JEQ));
	else if (v->kind == V_SCALAR && v->span)
		learn_bound(s, insn->dst_reg, op, imm, limit, taken);
}

static bool compare(u8 op, u64 a, u64 b, bool wide)
{
	s64 sa = wide ? (s64)a : (s32)a, sb = wide ? (s64)b : (s32)b;

	switch (op) {
	case BPF_JEQ:
		return a == b;
	case BPF_JNE:
		return a != b;
	case BPF_JGT:
		return a > b;
	case BPF_JGE:
		return a >= b;
	case BPF_JLT:
		return a < b;
	case BPF_JLE:
		return a <= b;
	case BPF_JSGT:
		return sa > sb;
	case BPF_JSGE:
		return sa >= sb;
	case BPF_JSLT:
		return sa < sb;
	case BPF_JSLE:
		return sa <= sb;
	}
	return a & b; /* JSET */
}

/* Whether the jump is certain: 1 taken, 0 not taken, -1 either. What CO-RE found
 * not to be there is left out by the program in this way. */
static int decided(const struct state *s, const struct bpf_insn *insn)
{
	bool wide = BPF_CLASS(insn->code) == BPF_JMP;
	u64 mask = wide ? UNBOUND : UINT32_MAX, b = (u64)(s64)insn->imm;
	const struct val *dst = &s->reg[insn->dst_reg], *src = &s->reg[insn->src_reg];

	if (!is_const(dst) || (BPF_SRC(insn->code) == BPF_X && !is_const(src)))
		return -1;
	if (BPF_SRC(insn->code) == BPF_X)
		b = src->x;
	return compare(BPF_OP(insn->code), dst->x & mask, b & mask, wide);
}

/* *NEXT is where it goes on in line, unless the jump is certainly taken. */
static struct uerr *do_jump(struct flow *f, const struct bpf_insn *insn, u32 *next)
{
	struct state taken = f->cur;
	int certain = decided(&f->cur, insn);

	if (!certain)
		return NULL;
	if (certain == 1)
		*next = UINT32_MAX;
	learn_from(&taken, insn, true);
	learn_from(&f->cur, insn, false);
	return arrive(f, insn_jump_target(insn, f->pc), &taken) ? NULL : refuse_size(f);
}

/* --- calls --- */

/*
 * Arguments of helpers, a letter each:
 *	m a map · k, v a key, a value of it · n a number or anything
 *	R, W memory that is read, written; its size is the next argument
 *	a memory that need not be there; its size is the argument before
 *	c ctx
 * A helper that is not listed gets all its arguments as n, and may have
 * written whatever it was pointed to.
 */
static const struct {
	u32 id;
	const char *args;
} helper_args[] = {
	{ BPF_FUNC_map_lookup_elem, "mk" },
	{ BPF_FUNC_map_update_elem, "mkvn" },
	{ BPF_FUNC_map_delete_elem, "mk" },
	{ BPF_FUNC_probe_read, "Wna" },
	{ BPF_FUNC_ktime_get_ns, "" },
	{ BPF_FUNC_trace_printk, "Rn" },
	{ BPF_FUNC_get_prandom_u32, "" },
	{ BPF_FUNC_get_smp_processor_id, "" },
	{ BPF_FUNC_get_current_pid_tgid, "" },
	{ BPF_FUNC_get_current_uid_gid, "" },
	{ BPF_FUNC_get_current_comm, "Wn" },
	{ BPF_FUNC_probe_write_user, "nRn" },
	{ BPF_FUNC_probe_read_str, "Wna" },
	{ BPF_FUNC_probe_read_user, "Wna" },
	{ BPF_FUNC_probe_read_kernel, "Wna" },
	{ BPF_FUNC_probe_read_user_str, "Wna" },
	{ BPF_FUNC_probe_read_kernel_str, "Wna" },
	{ BPF_FUNC_ktime_get_boot_ns, "" },
	{ BPF_FUNC_ktime_get_coarse_ns, "" },
	{ BPF_FUNC_get_func_ip, "c" },
	{ BPF_FUNC_get_attach_cookie, "c" },
};

static const char *helper_args_of(u32 id)
{
	for (size_t i = 0; i < ARRAY_SIZE(helper_args); i++)
		if (helper_args[i].id == id)
			return helper_args[i].args;
	return NULL;
}

/* Memory that a helper reads or writes: SIZE bytes at most at register REG. */
static struct uerr *helper_memory(struct flow *f, u32 reg, u64 size, bool write)
{
	struct val v = f->cur.reg[reg];
	struct uerr *err;

	if (v.kind == V_CTX) { /* a helper can read it as memory */
		ctx_escapes(f);
		if (write)
			return check_refuse(f->c, f->pc, "invalid bpf_context access", NULL, "ctx is written");
		return NULL;
	}
	if (!size)
		return NULL;
	if (size == UNBOUND && (v.kind == V_STACK || v.kind == V_VALUE))
		return check_refuse(f->c, f->pc, "unbounded memory access", "compare the size with the buffer's first",
				    "the size in R%u has no bound", reg + 1);
	err = access_range(f, reg, 0, size, write);
	if (err)
		return err;
	if (v.kind != V_STACK)
		f->impure |= write;
	else if (write) {
		if (f->cur.reg[reg + 1].span && !v.span)
			v.span = 1; /* perhaps less than SIZE */
		stack_scribble(f, &v, 0, size);
	}
	return NULL;
}

static struct uerr *helper_arg(struct flow *f, u32 reg, char kind, const struct umap *map)
{
	const struct val *v = &f->cur.reg[reg];
	struct uerr *err = read_reg(f, reg);

	if (err)
		return err;
	switch (kind) {
	case 'm':
		if (v->kind == V_MAP)
			return NULL;
		return check_refuse(f->c, f->pc, NULL, "name the map in each call", "R%u is not one certain map", reg);
	case 'k':
		return helper_memory(f, reg, map->key_size, false);
	case 'v':
		return helper_memory(f, reg, map->value_size, false);
	case 'R':
	case 'W':
		err = read_reg(f, reg + 1);
		return err ? err : helper_memory(f, reg, umax(&f->cur.reg[reg + 1]), kind == 'W');
	case 'a':
		if (v->kind != V_CTX || !ctx_has(v->x, umax(&f->cur.reg[reg - 1])))
			break;
		return ctx_read(f, v->x, umax(&f->cur.reg[reg - 1]));
	case 'c':
		if (v->kind == V_CTX && !v->x)
			return NULL;
		if (v->kind == V_ANY && v->maybe_ctx)
			return NULL;
		return check_refuse(f->c, f->pc, "expected ctx", "pass the program's own argument", "R%u is not ctx", reg);
	}
	stack_lent(f, v);
	if (maybe_ctx(v))
		ctx_escapes(f);
	return NULL;
}

/* A function whose arguments are not known in detail was called: what the stack
 * holds is no longer certain when it was given a way to it. */
static void forget_stack(struct flow *f, u32 nargs)
{
	bool given = false;

	for (u32 i = 1; i <= nargs; i++)
		given |= f->cur.reg[i].kind == V_STACK || f->cur.reg[i].kind == V_ANY;
	for (u32 i = 0; given && i < SLOTS; i++)
		f->cur.slot[i] = any(maybe_ctx(&f->cur.slot[i]));
}

static bool takes_map(const struct helper_info *info)
{
	return info->args[0] == ARG_MAP;
}

static void note_helper(struct flow *f, u32 id, const struct helper_info *helper)
{
	struct vm_prog_info *info = &f->c->info;
	const struct val *map = &f->cur.reg[1];

	u32 type = takes_map(helper) && map->kind == V_MAP ? f->c->maps[map->map].map->type : 0;

	info->helpers[id / 64] |= 1ull << id % 64;
	info->uses_percpu |= type == UMAP_PERCPU_ARRAY || type == UMAP_PERCPU_HASH;
	/* the JIT has lookups in arrays in line */
	info->uses_helpers |= id != BPF_FUNC_map_lookup_elem || (type != UMAP_ARRAY && type != UMAP_PERCPU_ARRAY);
	f->impure |= !(helper->flags & HELPER_PURE) || id == BPF_FUNC_map_update_elem || id == BPF_FUNC_map_delete_elem ||
		     id == BPF_FUNC_trace_printk;
}

static struct uerr *map_write_allowed(const struct flow *f, u32 id, const struct umap *map)
{
	if (id == BPF_FUNC_map_delete_elem && (map->type == UMAP_ARRAY || map->type == UMAP_PERCPU_ARRAY))
		return NULL; /* the helper says -EINVAL, as the kernel's does */
	if (map->frozen && id != BPF_FUNC_map_lookup_elem)
		return check_refuse(f->c, f->pc, "write into map forbidden", NULL, "a read-only map is written");
	return NULL;
}

static void end_call(struct flow *f, struct val r0)
{
	for (u32 i = 1; i <= 5; i++)
		f->cur.reg[i] = (struct val){ .kind = V_NONE };
	set_reg(f, 0, r0);
}

static struct uerr *do_helper(struct flow *f, const struct bpf_insn *insn)
{
	const struct helper_info *info = vm_helper_info(insn->imm);
	const char *args = helper_args_of(insn->imm);
	u32 nargs = helper_nargs(info);
	const struct umap *map = NULL;
	struct val r0 = fresh(f, 64);
	struct uerr *err = NULL;

	if (insn->imm == CORE_POISON)
		return check_refuse(f->c, f->pc, "unresolved CO-RE relocation",
				    "ask with bpf_core_field_exists() before", "a type or field that is not there is used");
	if (takes_map(info) && f->cur.reg[1].kind == V_MAP)
		map = f->c->maps[f->cur.reg[1].map].map;
	for (u32 i = 0; !err && (args ? !!args[i] : i < nargs); i++)
		err = helper_arg(f, i + 1, args ? args[i] : takes_map(info) && !i ? 'm' : 'n', map);
	if (!err && map)
		err = map_write_allowed(f, insn->imm, map);
	if (err)
		return err;
	if (!args)
		forget_stack(f, nargs);
	for (u32 i = 1; i <= nargs; i++) /* beyond those listed, such as trace_printk's */
		if (args && i > strlen(args) && maybe_ctx(&f->cur.reg[i]))
			ctx_escapes(f);
	note_helper(f, insn->imm, info);
	if (insn->imm == BPF_FUNC_map_lookup_elem)
		r0 = (struct val){ .kind = V_VALUE_OR_NULL, .map = f->cur.reg[1].map, .id = f->pc + 1 };
	end_call(f, r0);
	return NULL;
}

static struct uerr *do_local_call(struct flow *f, const struct bpf_insn *insn)
{
	struct state callee = { 0 };
	bool ctx = false;

	for (u32 i = 1; i <= 5; i++) {
		callee.reg[i] = f->cur.reg[i];
		callee.reg[i].id = 0;
		stack_lent(f, &f->cur.reg[i]);
		if (callee.reg[i].kind == V_STACK || callee.reg[i].kind == V_VALUE_OR_NULL)
			callee.reg[i] = any(false);
	}
	callee.reg[10] = (struct val){ .kind = V_STACK };
	if (!arrive(f, f->pc + 1 + insn->imm, &callee))
		return refuse_size(f);
	forget_stack(f, 5);
	for (u32 i = 1; i <= 5; i++) /* what it returns can be what it was given */
		ctx |= maybe_ctx(&f->cur.reg[i]);
	end_call(f, any(ctx));
	return NULL;
}

/* --- the walk --- */

static struct uerr *check_reads(const struct flow *f, const struct bpf_insn *insn, const struct opcode *op)
{
	struct uerr *err = NULL;

	if (opcode_reads_dst(op))
		err = read_reg(f, insn->dst_reg);
	if (!err && opcode_uses_src(op))
		err = read_reg(f, insn->src_reg);
	if (!err && op->form == FORM_CMPXCHG)
		err = read_reg(f, 0);
	return err;
}

/* Executes the instruction at f->pc on f->cur. *NEXT is where it goes on in
 * line, or none (UINT32_MAX). */
static struct uerr *step(struct flow *f, u32 *next)
{
	const struct bpf_insn *insn = &f->c->p->insns[f->pc];
	u32 id = f->c->op[f->pc];
	const struct opcode *op = &opcodes[id];
	struct val imm = scalar((u64)(s64)insn->imm, 0);
	struct uerr *err = check_reads(f, insn, op);

	if (err)
		return err;
	*next = f->pc + 1;
	switch (op->form) {
	case FORM_ALU:
	case FORM_NEG:
	case FORM_MOVSX:
	case FORM_END:
		return do_alu(f, insn, id, op);
	case FORM_GOTO:
		*next = UINT32_MAX;
		return arrive(f, insn_jump_target(insn, f->pc), &f->cur) ? NULL : refuse_size(f);
	case FORM_JUMP:
		return do_jump(f, insn, next);
	case FORM_CALL:
		return id == OP_CALL_LOCAL ? do_local_call(f, insn) : do_helper(f, insn);
	case FORM_EXIT:
		*next = UINT32_MAX;
		return read_reg(f, 0);
	case FORM_IMM64:
		*next = f->pc + 2;
		do_imm64(f, insn, id);
		return NULL;
	case FORM_LOAD:
		return do_load(f, insn, op);
	case FORM_STORE:
		return do_store(f, insn, BPF_CLASS(insn->code) == BPF_STX ? &f->cur.reg[insn->src_reg] : &imm);
	}
	return do_atomic(f, insn, op);
}

/* Follows code from a meeting point to the next one. */
static struct uerr *follow(struct flow *f, u32 pc)
{
	struct uerr *err;
	u32 next;

	f->cur = *f->at[pc];
	for (f->pc = pc;; f->pc = next) {
		if (f->pc != pc && f->c->marks[f->pc] & MARK_TARGET)
			return arrive(f, f->pc, &f->cur) ? NULL : refuse_size(f);
		if (f->steps++ > MAX_STEPS)
			return refuse_size(f);
		err = step(f, &next);
		if (err || next == UINT32_MAX)
			return err;
	}
}

static struct uerr *follow_all(struct flow *f)
{
	struct state entry = { 0 };

	entry.reg[1] = (struct val){ .kind = V_CTX };
	entry.reg[2] = scalar_any; /* 0 in a target; the size of ctx when embedded */
	entry.reg[10] = (struct val){ .kind = V_STACK };
	if (!arrive(f, 0, &entry))
		return uerr_nomem();
	while (f->nwork) {
		u32 pc = f->work[--f->nwork];
		struct uerr *err;

		f->queued[pc] = 0;
		err = follow(f, pc);
		if (err)
			return err;
	}
	if (f->ctx_spilled && (f->any_load || f->c->nsubs > 1))
		ctx_escapes(f);
	f->c->info.leaf_pure = !f->impure;
	return NULL;
}

struct uerr *check_flow(struct checker *c)
{
	u32 n = c->p->ninsns;
	cleanup_free struct flow *f = calloc(1, sizeof(*f));
	cleanup_free struct state **at = calloc(n, sizeof(*at));
	cleanup_free u16 *joins = calloc(n, sizeof(*joins));
	cleanup_free u32 *work = calloc(n, sizeof(*work));
	cleanup_free u8 *queued = calloc(n, 1);
	struct uerr *err;

	if (!f || !at || !joins || !work || !queued)
		return uerr_nomem();
	f->c = c;
	f->at = at;
	f->joins = joins;
	f->work = work;
	f->queued = queued;
	err = follow_all(f);
	for (u32 i = 0; i < n; i++)
		free(at[i]);
	return err;
}
