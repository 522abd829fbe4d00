/* SPDX-License-Identifier: MIT */
/*
 * Calls of helpers: each argument against the prototype (helpers.def), which
 * maps a helper takes, what it takes hold of and must be given back, and what it
 * returns.
 */
#include <stdlib.h>
#include <string.h>

#include "vm/core_relo.h"
#include "vm/verify_internal.h"

/* A call being checked. */
struct call {
	u32 id;
	const struct helper_info *info;
	const char *name;
	bool own;        /* an embedder's */
	bool has_map;
	u16 map;
	u32 mem_size;    /* of what it returns */
	u64 size_max;    /* of the last memory argument */
	u32 released;    /* reference that it gives back */
	u32 dynptr_reg;  /* that it makes */
	u8 dynptr_kind;
	u32 dynptr_id;   /* that it works on */
	bool has_func;
	bool has_size;   /* the facts about memory and its size are found */
	struct insn_fact fact;
};

static u32 reg_of_arg(u32 arg)
{
	return arg + 1;
}

static struct uerr *refuse_type(struct verifier *v, u32 reg, const char *expected, const char *try)
{
	return v_refuse(v, v_text(v, "R%u type=%s expected=%s", reg, reg_type_name(&v->regs[reg]), expected), try,
			"R%u is %s where %s is needed", reg, reg_type_name(&v->regs[reg]), expected);
}

/* --- references --- */

u32 ref_acquire(struct verifier *v)
{
	struct state *st = v->cur;

	if (st->nrefs == MAX_REFS)
		return 0;
	st->refs[st->nrefs].id = ++v->last_id;
	st->refs[st->nrefs++].at = v->pc;
	return v->last_id;
}

bool ref_release(struct state *st, u32 id)
{
	for (u32 i = 0; i < st->nrefs; i++) {
		if (st->refs[i].id != id)
			continue;
		memmove(&st->refs[i], &st->refs[i + 1], (st->nrefs - i - 1) * sizeof(st->refs[0]));
		st->nrefs--;
		return true;
	}
	return false;
}

struct uerr *check_refs(struct verifier *v)
{
	const struct state *st = v->cur;

	if (!st->nrefs)
		return NULL;
	return v_refuse(v, v_text(v, "Unreleased reference id=%u alloc_insn=%u", st->refs[st->nrefs - 1].id,
				  st->refs[st->nrefs - 1].at),
			"call bpf_ringbuf_submit() or bpf_ringbuf_discard() on every path",
			"what instruction %u reserved is not given back", st->refs[st->nrefs - 1].at);
}

/* Addresses that depend on reference REF or dynptr ID are only numbers now. */
static bool invalidate(struct verifier *v, u32 ref, u32 id)
{
	for (u32 i = 0; i <= v->cur->curframe; i++) {
		struct frame *f = state_frame(v, v->cur, i);

		if (!f)
			return false;
		for_each_reg(r, f) {
			if ((ref && r->ref == ref) || (id && r->parent == id)) {
				address_escapes(v, r);
				reg_unknown(r);
			}
		}
	}
	return v_own_frame(v);
}

/* --- dynptrs --- */

static void dynptr_clear(struct frame *f, u32 slot)
{
	f->slots[slot] = (struct slot){ 0 };
}

struct uerr *dynptr_destroy(struct verifier *v, u32 frame, u32 slot)
{
	struct frame *f = state_frame(v, v->cur, frame);
	struct reg r;
	u32 other;

	if (!f)
		return v->err;
	r = f->slots[slot].reg;
	if (r.ref)
		return v_refuse(v, "cannot overwrite referenced dynptr", "submit or discard it first",
				"a dynptr is overwritten that is not given back");
	other = r.dynptr & DYNPTR_FIRST ? slot - 1 : slot + 1;
	dynptr_clear(f, slot);
	dynptr_clear(f, other);
	return invalidate(v, 0, r.id) ? NULL : v->err;
}

static struct uerr *refuse_dynptr(struct verifier *v, u32 reg, const char *detail)
{
	return v_refuse(v, v_text(v, "%s", detail),
			"make it by bpf_dynptr_from_mem() or bpf_ringbuf_reserve_dynptr() first",
			"R%u is no dynptr as it is needed here", reg);
}

/* The slot at which the dynptr in REG begins. */
static struct uerr *dynptr_slot(struct verifier *v, u32 reg, u32 *ret)
{
	const struct reg *r = &v->regs[reg];
	s64 off = r->off + r->var.smin;

	if (r->type != PTR_STACK)
		return refuse_type(v, reg, "a dynptr on the stack", "keep the struct bpf_dynptr in a local variable");
	if (!scalar_is_const(&r->var) || off % 8 || off > -16 || off < -(s64)INSN_STACK_SIZE)
		return refuse_dynptr(v, reg, "dynptr has to be at a constant offset");
	*ret = slot_of(off);
	return NULL;
}

static struct uerr *dynptr_want(struct verifier *v, struct call *c, u32 reg, bool ringbuf)
{
	const struct frame *f;
	const struct slot *s;
	struct uerr *err;
	u32 slot = 0;

	if (v->regs[reg].type == PTR_DYNPTR) { /* over memory that stays there */
		if (ringbuf)
			return refuse_dynptr(v, reg, "Expected a dynptr of type ringbuf");
		c->dynptr_id = v->regs[reg].id;
		return NULL;
	}
	err = dynptr_slot(v, reg, &slot);
	if (err)
		return err;
	f = v->cur->frames[v->regs[reg].frame];
	s = slot < f->nslots ? &f->slots[slot] : NULL;
	if (!s || s->byte[0] != SLOT_DYNPTR || !(s->reg.dynptr & DYNPTR_FIRST))
		return refuse_dynptr(v, reg, "Expected an initialized dynptr");
	if (ringbuf && (s->reg.dynptr & DYNPTR_KIND) != DYNPTR_RINGBUF)
		return refuse_dynptr(v, reg, "Expected a dynptr of type ringbuf");
	note_stack_read(v, v->regs[reg].frame, slot);
	note_stack_read(v, v->regs[reg].frame, slot - 1);
	c->dynptr_id = s->reg.id;
	if (c->info->flags & HELPER_RELEASE)
		c->released = s->reg.ref;
	return NULL;
}

static struct uerr *dynptr_make(struct verifier *v, struct call *c, u32 reg, u8 kind)
{
	struct uerr *err;
	struct frame *f;
	u32 slot = 0;

	err = dynptr_slot(v, reg, &slot);
	if (err)
		return err;
	f = state_frame(v, v->cur, v->regs[reg].frame);
	if (!f)
		return v->err;
	if (!frame_grow(f, slot + 1))
		return uerr_nomem();
	for (u32 i = slot - 1; !err && i <= slot; i++)
		if (f->slots[i].byte[0] == SLOT_DYNPTR)
			err = dynptr_destroy(v, v->regs[reg].frame, i);
	if (err)
		return err;
	note_stack_use(v, v->regs[reg].frame, -8 * (s32)(slot + 1));
	c->dynptr_reg = reg;
	c->dynptr_kind = kind;
	return NULL;
}

/* After the call, which made it. */
static struct uerr *dynptr_made(struct verifier *v, const struct call *c, const struct reg *where)
{
	u32 slot = slot_of(where->off + where->var.smin);
	struct frame *f = state_frame(v, v->cur, where->frame);
	struct reg r = { .type = NOT_INIT, .dynptr = c->dynptr_kind };

	if (!f)
		return v->err;
	r.id = ++v->last_id;
	if (c->dynptr_kind == DYNPTR_RINGBUF) {
		r.ref = ref_acquire(v);
		if (!r.ref)
			return v_refuse(v, "too many references", "submit or discard some first",
					"more than %u things are reserved at once", MAX_REFS);
	}
	for (u32 i = 0; i < 2; i++) {
		memset(f->slots[slot - i].byte, SLOT_DYNPTR, 8);
		f->slots[slot - i].reg = r;
		if (!i)
			f->slots[slot].reg.dynptr |= DYNPTR_FIRST;
	}
	return v_own_frame(v) ? NULL : v->err;
}

static bool dynptr_unmake(struct verifier *v, u32 id)
{
	for (u32 i = 0; i <= v->cur->curframe; i++) {
		struct frame *f = state_frame(v, v->cur, i);

		if (!f)
			return false;
		for (u32 s = 0; s < f->nslots; s++)
			if (f->slots[s].byte[0] == SLOT_DYNPTR && f->slots[s].reg.id == id)
				dynptr_clear(f, s);
	}
	return invalidate(v, 0, id);
}

/* --- maps --- */

static struct uerr *refuse_no_map(struct verifier *v, u32 reg)
{
	return refuse_type(v, reg, "a value of a known map", "name the map in the call");
}

#define T(type) (1ull << BPF_MAP_TYPE_##type)
#define PLAIN (T(HASH) | T(ARRAY) | T(PERCPU_HASH) | T(PERCPU_ARRAY) | T(LRU_HASH) | T(LRU_PERCPU_HASH) | T(LPM_TRIE))
#define QUEUES (T(QUEUE) | T(STACK))

/* Which types of map a helper takes; those not listed take any. */
static const struct {
	u32 id;
	u64 types;
} map_types[] = {
	{ BPF_FUNC_map_lookup_elem, PLAIN },
	{ BPF_FUNC_map_update_elem, PLAIN },
	{ BPF_FUNC_map_delete_elem, PLAIN },
	{ BPF_FUNC_map_push_elem, QUEUES | T(BLOOM_FILTER) },
	{ BPF_FUNC_map_pop_elem, QUEUES },
	{ BPF_FUNC_map_peek_elem, QUEUES | T(BLOOM_FILTER) },
	{ BPF_FUNC_map_lookup_percpu_elem, T(PERCPU_ARRAY) | T(PERCPU_HASH) | T(LRU_PERCPU_HASH) },
	{ BPF_FUNC_for_each_map_elem, T(HASH) | T(ARRAY) | T(PERCPU_HASH) | T(PERCPU_ARRAY) | T(LRU_HASH) | T(LRU_PERCPU_HASH) },
	{ BPF_FUNC_tail_call, T(PROG_ARRAY) },
	{ BPF_FUNC_perf_event_read, T(PERF_EVENT_ARRAY) },
	{ BPF_FUNC_perf_event_read_value, T(PERF_EVENT_ARRAY) },
	{ BPF_FUNC_perf_event_output, T(PERF_EVENT_ARRAY) },
	{ BPF_FUNC_get_stackid, T(STACK_TRACE) },
	{ BPF_FUNC_current_task_under_cgroup, T(CGROUP_ARRAY) },
	{ BPF_FUNC_ringbuf_output, T(RINGBUF) },
	{ BPF_FUNC_ringbuf_reserve, T(RINGBUF) },
	{ BPF_FUNC_ringbuf_query, T(RINGBUF) },
	{ BPF_FUNC_ringbuf_reserve_dynptr, T(RINGBUF) },
	{ BPF_FUNC_user_ringbuf_drain, T(USER_RINGBUF) },
	{ BPF_FUNC_task_storage_get, T(TASK_STORAGE) },
	{ BPF_FUNC_task_storage_delete, T(TASK_STORAGE) },
	{ 210, 1ull << 32 }, /* cgrp_storage */
	{ 211, 1ull << 32 },
};

static bool writes_map(u32 id)
{
	return id == BPF_FUNC_map_update_elem || id == BPF_FUNC_map_delete_elem || id == BPF_FUNC_map_push_elem ||
	       id == BPF_FUNC_map_pop_elem;
}

static struct uerr *arg_map(struct verifier *v, struct call *c, u32 reg)
{
	const struct reg *r = &v->regs[reg];
	const struct umap *map;

	if (r->type != PTR_MAP)
		return v_refuse(v, v_text(v, "R%u type=%s expected=map_ptr", reg, reg_type_name(r)), "name the map in each call",
				"R%u is not one certain map", reg);
	map = map_of(v, r);
	for (u32 i = 0; i < ARRAY_SIZE(map_types); i++)
		if (map_types[i].id == c->id && !(map->type < 64 && map_types[i].types >> map->type & 1))
			return v_refuse(v, v_text(v, "cannot pass map_type %u into func %s#%u", map->type, c->name, c->id),
					"use another type of map", "%s cannot work on a map of this type (%u)", c->name, map->type);
	if (writes_map(c->id) && (map->frozen || map->map_flags & BPF_F_RDONLY_PROG))
		return v_refuse(v, "write into map forbidden",
				"write another map, or load it without BPF_F_RDONLY_PROG", "a read-only map is written");
	c->has_map = true;
	c->map = r->map;
	if (reg == 1)
		c->fact.map = r->map + 1;
	return NULL;
}

/* Memory of fixed size: a key, a value. */
static struct uerr *arg_fixed(struct verifier *v, u32 reg, u64 size, bool read, bool write)
{
	struct mem_access a = { .reg = reg, .min = size, .max = size, .read = read, .write = write, .zero_ok = false };
	const struct reg *r = &v->regs[reg];

	if (r->type == SCALAR)
		return refuse_type(v, reg, "fp", "pass the address of a variable");
	return check_helper_mem(v, &a);
}

static bool on_own_stack(const struct verifier *v, const struct reg *r)
{
	return r->type == PTR_STACK && r->frame == v->cur->curframe && scalar_is_const(&r->var);
}

static struct uerr *arg_key(struct verifier *v, struct call *c, u32 reg)
{
	const struct reg *r = &v->regs[reg];

	if (!c->has_map)
		return refuse_type(v, reg, "a key of a known map", "name the map in the call");
	if (on_own_stack(v, r)) {
		c->fact.flags |= FACT_KEY_ON_STACK;
		c->fact.key_off = (s16)(r->off + (s64)r->var.bits.value);
	}
	return arg_fixed(v, reg, v->c->maps[c->map].map->key_size, true, false);
}

/* --- memory and its size --- */

/* Of the first memory and its size alone. */
static void size_facts(struct verifier *v, struct call *c, const struct reg *m, const struct reg *s)
{
	if (scalar_is_const(&s->var)) {
		c->fact.flags |= FACT_SIZE;
		c->fact.size = (u32)s->var.umax;
	}
	if (on_own_stack(v, m)) {
		c->fact.flags |= FACT_ON_STACK;
		c->fact.mem_off = (s16)(m->off + (s64)m->var.bits.value);
	}
}

static struct uerr *arg_size(struct verifier *v, struct call *c, u32 reg, u8 mem_kind, bool zero_ok)
{
	const struct reg *s = &v->regs[reg], *m = &v->regs[reg - 1];
	struct mem_access a = { .reg = reg - 1, .min = s->var.umin, .max = s->var.umax, .zero_ok = zero_ok };
	struct uerr *err;

	if (s->type != SCALAR)
		return refuse_type(v, reg, "scalar", "pass a number");
	if (s->var.smin < 0)
		return v_refuse(v, v_text(v, "R%u min value is negative, either use unsigned or 'var &= const'", reg),
				"make the size unsigned, and compare it with the buffer's first",
				"the size in R%u has no bound, it may be negative", reg);
	if (!s->var.umin && !zero_ok)
		return v_refuse(v, v_text(v, "R%u invalid zero-sized read: u64=[%llu,%llu]", reg, (unsigned long long)s->var.umin,
					  (unsigned long long)s->var.umax),
				"compare it with 0 first", "the size in R%u may be 0", reg);
	if (s->var.umax >= MAX_VAR_OFF)
		return v_refuse(v, v_text(v, "R%u unbounded memory access, use 'var &= const' or 'if (var < const)'", reg),
				"compare the size with the buffer's first", "the size in R%u has no bound", reg);
	c->size_max = s->var.umax;
	if (!c->has_size)
		size_facts(v, c, m, s);
	c->has_size = true;
	a.read = mem_kind != ARG_MEM_UNINIT;
	a.write = mem_kind == ARG_MEM_UNINIT || mem_kind == ARG_MEM_RW || mem_kind == ARG_MEM_RW_OR_NULL;
	if (reg_is_null(m) && zero_ok && !s->var.umax)
		err = mark_precise(v, reg - 1);
	else if (m->type == SCALAR)
		err = refuse_type(v, reg - 1, "fp", "pass the address of a buffer");
	else
		err = check_helper_mem(v, &a);
	return err ? err : mark_precise(v, reg);
}

static struct uerr *arg_mem(struct verifier *v, struct call *c, u32 arg)
{
	const struct reg *r = &v->regs[reg_of_arg(arg)];
	u8 kind = c->info->args[arg];
	bool null_ok = kind == ARG_MEM_OR_NULL || kind == ARG_MEM_RW_OR_NULL;

	(void)c;
	if (r->type == SCALAR && !(null_ok && reg_is_null(r)))
		return refuse_type(v, reg_of_arg(arg), "fp", "pass the address of a buffer");
	if (arg + 1 >= HELPER_NARGS || (c->info->args[arg + 1] != ARG_SIZE && c->info->args[arg + 1] != ARG_SIZE0))
		return arg_fixed(v, reg_of_arg(arg), 1, true, true); /* no prototype is like that */
	return NULL; /* the size's turn comes next */
}

static struct uerr *arg_const_str(struct verifier *v, u32 reg)
{
	const struct reg *r = &v->regs[reg];
	const struct vm_map *map;
	s64 off;

	if (r->type != PTR_MAP_VALUE || r->flags & REG_MAYBE_NULL)
		return refuse_type(v, reg, "a constant string", "make it a static const array");
	map = &v->c->maps[r->map];
	if (!map->map->frozen && !(map->map->map_flags & BPF_F_RDONLY_PROG))
		return v_refuse(v, v_text(v, "R%u does not point to a readonly map", reg), "make it a static const array",
				"the text in R%u may change", reg);
	if (!scalar_is_const(&r->var))
		return v_refuse(v, v_text(v, "R%u is not a constant address", reg), "name one string in each call",
				"the text in R%u is not one certain text", reg);
	off = r->off + (s64)r->var.bits.value;
	if (off < 0 || off >= map->map->value_size || !map->frozen ||
	    !memchr((const u8 *)map->frozen + off, 0, map->map->value_size - (u64)off))
		return v_refuse(v, "string is not zero-terminated", "end it with a zero byte",
				"the text in R%u does not end", reg);
	return NULL;
}

/* --- what is taken and given back --- */

static struct uerr *arg_ringbuf_mem(struct verifier *v, struct call *c, u32 reg)
{
	const struct reg *r = &v->regs[reg];

	if (r->type != PTR_MEM || !(r->flags & REG_RINGBUF))
		return refuse_type(v, reg, "ringbuf_mem", "pass what bpf_ringbuf_reserve() returned");
	if (r->flags & REG_MAYBE_NULL)
		return v_refuse(v, v_text(v, "R%u type=%s expected=ringbuf_mem", reg, reg_type_name(r)),
				"compare it with NULL first: if (!p) return 0;", "R%u may be NULL", reg);
	if (r->off || !scalar_is_const(&r->var) || r->var.bits.value)
		return v_refuse(v, v_text(v, "R%u must have zero offset when passed to release func", reg),
				"pass what bpf_ringbuf_reserve() returned", "R%u does not point to the beginning of what was reserved",
				reg);
	c->released = r->ref;
	return NULL;
}

/* Whether no helper that calls us back has anything to tidy up afterwards. */
static bool may_end_here(const struct verifier *v)
{
	for (u32 i = 1; i <= v->cur->curframe; i++) {
		const struct frame *f = v->cur->frames[i];
		s32 helper = v->insns[f->callsite].imm;

		if (f->callback && helper != BPF_FUNC_loop && helper != BPF_FUNC_for_each_map_elem)
			return false;
	}
	return true;
}

struct uerr *check_may_lock(struct verifier *v)
{
	const struct state *st = v->cur;

	if (st->nrefs)
		return v_refuse(v, "bpf_spin_lock with references held is not supported",
				"submit or discard it first, or reserve it after the unlock",
				"a lock is taken while what instruction %u reserved is not given back",
				st->refs[st->nrefs - 1].at);
	if (!may_end_here(v))
		return v_refuse(v, "bpf_spin_lock in this callback is not supported", "take the lock around the call",
				"a lock is taken in a function that another helper than bpf_loop() or "
				"bpf_for_each_map_elem() calls back");
	return NULL;
}

static struct uerr *arg_lock(struct verifier *v, const struct call *c, u32 reg)
{
	const struct reg *r = &v->regs[reg];
	struct state *st = v->cur;
	struct uerr *err;
	s32 lock;

	if (r->type != PTR_MAP_VALUE || r->flags & REG_MAYBE_NULL)
		return refuse_type(v, reg, "map_value", "pass the address of the lock in a map's value");
	lock = v->traits[r->map].lock_off;
	if (lock < 0 || !scalar_is_const(&r->var) || r->off + (s64)r->var.bits.value != lock)
		return v_refuse(v, v_text(v, "off %d doesn't point to 'struct bpf_spin_lock'", r->off),
				"pass the address of the struct bpf_spin_lock in a map's value",
				"R%u is no lock of a map's value", reg);
	if (c->id == BPF_FUNC_spin_lock) {
		if (st->lock.held)
			return v_refuse(v, "Locking two bpf_spin_locks are not allowed", "unlock the one first",
					"a lock is taken while another is held");
		err = check_may_lock(v);
		if (err)
			return err;
		st->lock.held = true;
		st->lock.map = r->map;
		st->lock.id = r->id;
		return NULL;
	}
	if (!st->lock.held)
		return v_refuse(v, "bpf_spin_unlock without taking a lock", "lock it first",
				"a lock is given back that is not held");
	if (st->lock.map != r->map || st->lock.id != r->id)
		return v_refuse(v, "bpf_spin_unlock of different lock", "unlock the same value that was locked",
				"another lock is given back than is held");
	memset(&st->lock, 0, sizeof(st->lock));
	return NULL;
}

/* --- one argument --- */

static bool reads_ctx_by_address(u32 id)
{
	return id == BPF_FUNC_probe_read || id == BPF_FUNC_probe_read_str || id == BPF_FUNC_probe_read_user ||
	       id == BPF_FUNC_probe_read_kernel || id == BPF_FUNC_probe_read_user_str ||
	       id == BPF_FUNC_probe_read_kernel_str || id == BPF_FUNC_copy_from_user;
}

/* An address that the helper may do anything with. */
static void arg_any(struct verifier *v, const struct call *c, u32 reg)
{
	const struct reg *r = &v->regs[reg];
	s64 off = r->off;

	if (r->type == PTR_CTX && reg == 3 && reads_ctx_by_address(c->id) && scalar_is_const(&r->var)) {
		off += (s64)r->var.bits.value;
		if (off >= 0 && (u64)off + c->size_max <= vm_prog_ctx_size(v->c->p)) {
			ctx_read(v, off, c->size_max);
			return;
		}
	}
	address_escapes(v, r);
}

static void stack_walked(struct verifier *v)
{
	static const u8 fields[] = { offsetof(struct target_regs, ip), offsetof(struct target_regs, sp),
				     offsetof(struct target_regs, bp) };

	for (u32 i = 0; i < ARRAY_SIZE(fields); i++)
		if (vm_prog_ctx_size(v->c->p) == sizeof(struct target_regs))
			ctx_read(v, fields[i], 8);
}

static struct uerr *arg_ctx(struct verifier *v, const struct call *c, u32 reg)
{
	const struct reg *r = &v->regs[reg];

	if (r->type != PTR_CTX)
		return v_refuse(v, v_text(v, "R%u type=%s expected=ctx", reg, reg_type_name(r)), "pass the program's own argument",
				"R%u is not ctx", reg);
	if (r->off || !scalar_is_const(&r->var) || r->var.bits.value)
		return v_refuse(v, v_text(v, "dereference of modified ctx ptr R%u off=%d disallowed", reg, r->off),
				"pass the program's own argument", "R%u is not ctx, but an address within it", reg);
	/* a walk begins at these, wherever ctx is */
	if (!c->own && (c->id == BPF_FUNC_get_stackid || c->id == BPF_FUNC_get_stack)) {
		stack_walked(v);
		return NULL;
	}
	/* some look at the frame of the hit, or at nothing, not at ctx; what the program that a tail call leads to
	 * reads is known from itself, and for the loader to add */
	if (c->own || (c->id != BPF_FUNC_get_func_ip && c->id != BPF_FUNC_get_attach_cookie &&
		       c->id != BPF_FUNC_override_return && c->id != BPF_FUNC_perf_event_output &&
		       c->id != BPF_FUNC_tail_call))
		address_escapes(v, r);
	return NULL;
}

static struct uerr *check_arg(struct verifier *v, struct call *c, u32 arg)
{
	u32 reg = reg_of_arg(arg);
	const struct reg *r = &v->regs[reg];
	u8 kind = c->info->args[arg];
	const struct umap *map = c->has_map ? v->c->maps[c->map].map : NULL;
	bool bloom;

	if (kind == ARG_NONE)
		return NULL;
	if (kind == ARG_UNCHECKED) {
		address_escapes(v, r);
		return NULL;
	}
	if (r->type == NOT_INIT)
		return v_refuse(v, v_text(v, "R%u !read_ok", reg), "pass all arguments of the helper",
				"R%u is used before it has a value", reg);
	switch (kind) {
	case ARG_ANY:
		arg_any(v, c, reg);
		return NULL;
	case ARG_CTX:
		return arg_ctx(v, c, reg);
	case ARG_MAP:
		return arg_map(v, c, reg);
	case ARG_MAP_KEY:
		return arg_key(v, c, reg);
	case ARG_MAP_VALUE_OR_NULL:
		if (reg_is_null(r))
			return mark_precise(v, reg);
		__attribute__((fallthrough));
	case ARG_MAP_VALUE:
		return map ? arg_fixed(v, reg, map->value_size, true, false) : refuse_no_map(v, reg);
	case ARG_MAP_VALUE_UNINIT:
		if (!map)
			return refuse_no_map(v, reg);
		bloom = map->type == UMAP_BLOOM_FILTER; /* which is asked about a value */
		return arg_fixed(v, reg, map->value_size, bloom, !bloom);
	case ARG_MEM:
	case ARG_MEM_OR_NULL:
	case ARG_MEM_RW:
	case ARG_MEM_RW_OR_NULL:
	case ARG_MEM_UNINIT:
		return arg_mem(v, c, arg);
	case ARG_SIZE:
	case ARG_SIZE0:
		return arg_size(v, c, reg, arg ? c->info->args[arg - 1] : ARG_NONE, kind == ARG_SIZE0);
	case ARG_ALLOC_SIZE:
		if (!reg_is_const(r))
			return v_refuse(v, v_text(v, "R%u is not a known constant", reg), "reserve a constant size",
					"the size in R%u is not constant", reg);
		if (r->var.umax >= MAX_VAR_OFF)
			return v_refuse(v, v_text(v, "R%u unbounded memory access", reg), "reserve less",
					"the size in R%u is too large", reg);
		c->mem_size = (u32)r->var.umax;
		c->fact.flags |= FACT_SIZE;
		c->fact.size = c->mem_size;
		return mark_precise(v, reg);
	case ARG_RINGBUF_MEM:
		return arg_ringbuf_mem(v, c, reg);
	case ARG_FUNC:
		if (r->type != PTR_FUNC)
			return refuse_type(v, reg, "a function", "pass the name of a static function");
		c->has_func = true;
		return NULL;
	case ARG_STACK_OR_NULL:
		if (r->type == PTR_STACK)
			return NULL;
		if (reg_is_null(r))
			return mark_precise(v, reg);
		return refuse_type(v, reg, "fp", "pass the address of a variable, or NULL");
	case ARG_CONST_STR:
		return arg_const_str(v, reg);
	case ARG_SPIN_LOCK:
		return arg_lock(v, c, reg);
	case ARG_LONG_PTR:
		return arg_fixed(v, reg, 8, false, true);
	case ARG_INT_PTR:
		return arg_fixed(v, reg, 4, false, true);
	case ARG_DYNPTR_UNINIT:
		return dynptr_make(v, c, reg, DYNPTR_LOCAL);
	case ARG_DYNPTR_RINGBUF_UNINIT:
		return dynptr_make(v, c, reg, DYNPTR_RINGBUF);
	case ARG_DYNPTR:
		return dynptr_want(v, c, reg, false);
	case ARG_DYNPTR_RINGBUF:
		return dynptr_want(v, c, reg, true);
	case ARG_BTF_OR_NULL:
		if (reg_is_null(r))
			return mark_precise(v, reg);
		__attribute__((fallthrough));
	case ARG_BTF:
		if (r->type == PTR_OPAQUE && !(r->flags & REG_MAYBE_NULL))
			return NULL;
		break;
	}
	return refuse_type(v, reg, "an object of the kernel", "pass what bpf_get_current_task_btf() returned");
}

/* --- result --- */

/* A lookup in an array by a key that is known and inside finds something. */
static bool key_is_inside(struct verifier *v, const struct call *c)
{
	const struct umap *map = v->c->maps[c->map].map;
	const struct reg *r = &v->regs[2];
	const struct frame *f;
	const struct slot *s;
	s64 off = r->off + (s64)r->var.bits.value;
	u64 key = 0;

	if (c->id != BPF_FUNC_map_lookup_elem || (map->type != UMAP_ARRAY && map->type != UMAP_PERCPU_ARRAY) ||
	    r->type != PTR_STACK || !scalar_is_const(&r->var) || map->key_size != 4 || off % 4)
		return false;
	f = v->cur->frames[r->frame];
	s = &f->slots[slot_of(off)];
	/* stored as it is read, which is what the kernel recognises */
	if (off % 8 == 0 && slot_is_scalar(s) && s->byte[3] == SLOT_SPILL && s->byte[4] != SLOT_SPILL &&
	    scalar_is_const(&s->reg.var) && !(s->reg.flags & REG_CUT)) {
		key = (u32)s->reg.var.bits.value;
		if (key < map->max_entries)
			mark_slot_precise(v, r->frame, slot_of(off));
		return key < map->max_entries;
	}
	for (u32 i = 0; i < 4; i++)
		if (s->byte[((u64)off + INSN_STACK_SIZE + i) % 8] != SLOT_ZERO)
			return false;
	return map->max_entries > 0;
}

static struct uerr *result(struct verifier *v, const struct call *c, bool inside)
{
	struct reg *r0 = &v->regs[0];

	switch (c->info->ret) {
	case RET_VOID:
		return NULL;
	case RET_SCALAR:
		reg_unknown(r0);
		/* a length, or -errno */
		if (c->id == BPF_FUNC_probe_read_str || c->id == BPF_FUNC_probe_read_user_str ||
		    c->id == BPF_FUNC_probe_read_kernel_str || c->id == BPF_FUNC_get_stack || c->id == BPF_FUNC_get_task_stack)
			r0->var = scalar_srange(-4095, (s64)c->size_max);
		return NULL;
	case RET_MAP_VALUE_OR_NULL:
		if (!c->has_map)
			return v_refuse(v, "kernel subsystem misconfigured verifier", "name the map in the call",
					"a value of no known map");
		*r0 = reg_pointer(PTR_MAP_VALUE);
		r0->map = c->map;
		if (!inside)
			r0->flags = REG_MAYBE_NULL;
		if (!inside || v->traits[c->map].lock_off >= 0)
			r0->id = ++v->last_id;
		return NULL;
	case RET_RINGBUF_MEM_OR_NULL:
		*r0 = reg_pointer(PTR_MEM);
		r0->flags = REG_MAYBE_NULL | REG_RINGBUF;
		r0->mem_size = c->mem_size;
		r0->ref = r0->id = ref_acquire(v);
		if (!r0->ref)
			return v_refuse(v, "too many references", "submit or discard some first",
					"more than %u things are reserved at once", MAX_REFS);
		return NULL;
	case RET_DYNPTR_MEM_OR_NULL:
		*r0 = reg_pointer(PTR_MEM);
		r0->flags = REG_MAYBE_NULL;
		r0->mem_size = c->mem_size;
		r0->id = ++v->last_id;
		r0->parent = c->dynptr_id;
		return NULL;
	}
	*r0 = reg_pointer(PTR_OPAQUE);
	if (c->info->ret == RET_KPTR_OR_NULL || c->info->ret == RET_PERCPU_OR_NULL) {
		r0->flags = REG_MAYBE_NULL;
		r0->id = ++v->last_id;
	}
	return NULL;
}

/* --- what is told about calls --- */

static void note_helper(struct verifier *v, const struct call *c)
{
	u32 type = c->has_map ? v->c->maps[c->map].map->type : 0;
	struct gathered *g = &v->gathered[v->pc];
	struct insn_fact *f = &v->facts[v->pc];

	if (c->id < 256)
		v->info.helpers[c->id / 64] |= 1ull << c->id % 64;
	v->info.uses_percpu |= umap_is_percpu(type);
	/* the JIT has lookups in arrays in line */
	v->info.uses_helpers |= c->id != BPF_FUNC_map_lookup_elem || (type != UMAP_ARRAY && type != UMAP_PERCPU_ARRAY);
	v->info.writes_memory |= !(c->info->flags & HELPER_PURE);
	v->info.can_sleep |= c->info->flags & HELPER_SLEEPABLE;
	v->impure |= c->id == BPF_FUNC_spin_lock || !(c->info->flags & HELPER_PURE) || c->id == BPF_FUNC_trace_printk ||
		     (c->has_map && c->id != BPF_FUNC_map_lookup_elem) || c->info->flags & (HELPER_ACQUIRE | HELPER_RELEASE);
	if (!g->call_seen) {
		*f = c->fact;
	} else {
		if (f->map != c->fact.map)
			f->map = 0;
		f->flags &= c->fact.flags;
		if (f->size != c->fact.size)
			f->flags &= ~FACT_SIZE;
		if (f->mem_off != c->fact.mem_off)
			f->flags &= ~FACT_ON_STACK;
		if (f->key_off != c->fact.key_off)
			f->flags &= ~FACT_KEY_ON_STACK;
	}
	g->call_seen = true;
}

static struct uerr *check_usable(struct verifier *v, const struct call *c)
{
	if (c->id == CORE_POISON)
		return v_refuse(v, "unresolved CO-RE relocation", "ask with bpf_core_field_exists() before",
				"a type or field that is not there is used");
	if (!c->info->present && !c->own && !(v->flags & VERIFY_ABSENT_HELPERS && c->info->known))
		return v_refuse(v, v_text(v, "unknown func %s#%u", c->name, c->id),
				c->info->instead ? c->info->instead : "leave it out", "helper %s#%u is not there",
				c->name, c->id);
	if (c->id == BPF_FUNC_override_return && !(v->flags & (VERIFY_OVERRIDE | VERIFY_ABSENT_HELPERS)))
		return v_refuse(v, v_text(v, "program of this type cannot use helper %s#%u", c->name, c->id),
				"say that it may when loading it: bpfctl load --allow-override",
				"%s changes what the process does", c->name);
	if (v->cur->lock.held && c->id != BPF_FUNC_spin_unlock && c->id != BPF_FUNC_spin_lock)
		return v_refuse(v, "function calls are not allowed while holding a lock", "unlock it first",
				"a helper is called while a lock is held");
	return NULL;
}

static struct uerr *check_before(struct verifier *v, struct call *c)
{
	struct uerr *err;

	if (c->id == BPF_FUNC_tail_call) {
		/* the functions above would go on with a claimed slot that the other program gave back */
		if (v->f->subprog && !(v->flags & VERIFY_ABSENT_HELPERS))
			return v_refuse(v, "tail_call is only allowed in the program itself", "make the function __always_inline",
					"a tail call in a function");
		err = check_refs(v);
		if (err)
			return err;
	}
	if (c->id == BPF_FUNC_dynptr_from_mem && v->regs[1].type != PTR_MAP_VALUE)
		return v_refuse(v, v_text(v, "Unsupported reg type %s for bpf_dynptr_from_mem data",
				reg_type_name(&v->regs[1])), "pass the address of a map's value",
				"a dynptr can only be made of a map's value");
	/* The kernel takes an address: its own are above the limit of passes. */
	if (c->id == BPF_FUNC_loop && v->regs[1].type != SCALAR)
		return v_refuse(v, v_text(v, "R1 type=%s expected=scalar", reg_type_name(&v->regs[1])),
				"pass a number", "bpf_loop() gets an address for the number of its passes");
	if (c->has_func && c->id != BPF_FUNC_loop && c->id != BPF_FUNC_for_each_map_elem &&
	    c->id != BPF_FUNC_user_ringbuf_drain)
		return v_refuse(v, "callback is not supported", "use bpf_loop() or bpf_for_each_map_elem()",
				"%s cannot call back", c->name);
	return NULL;
}

static struct uerr *release(struct verifier *v, const struct call *c)
{
	if (!ref_release(v->cur, c->released))
		return v_refuse(v, "release of unowned reference", "give it back once",
				"something is given back that is not held");
	if (c->dynptr_id && !dynptr_unmake(v, c->dynptr_id))
		return v->err;
	return invalidate(v, c->released, 0) ? NULL : v->err;
}

struct uerr *do_helper(struct verifier *v, const struct bpf_insn *insn)
{
	struct call c = { .id = (u32)insn->imm, .info = vm_prog_helper(v->c->p, (u32)insn->imm) };
	struct reg where;
	struct uerr *err;
	bool inside;

	c.name = vm_prog_helper_name(v->c->p, c.id);
	if (!c.name)
		c.name = c.info->name ? c.info->name : "unknown";
	c.own = c.id >= ENV_HELPER_FIRST && c.id <= ENV_HELPER_LAST && c.info->known;
	err = check_usable(v, &c);
	for (u32 i = 0; !err && i < HELPER_NARGS; i++)
		err = check_arg(v, &c, i);
	if (!err)
		err = check_before(v, &c);
	if (!err && c.released)
		err = release(v, &c);
	if (!err && c.has_func)
		err = enter_callback(v, c.id);
	if (!err && c.id == BPF_FUNC_tail_call)
		err = leave_by_tail_call(v);
	if (err)
		return err;
	note_helper(v, &c);
	inside = c.has_map && key_is_inside(v, &c);
	where = v->regs[c.dynptr_reg];
	for (u32 i = 0; i <= 5; i++)
		v->regs[i] = (struct reg){ 0 };
	v->touched_regs |= 1;
	err = result(v, &c, inside);
	return err || !c.dynptr_reg ? err : dynptr_made(v, &c, &where);
}
