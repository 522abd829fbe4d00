/* SPDX-License-Identifier: MIT */
/*
 * Accesses to memory: what an address may be, whether all it can be lies inside,
 * and what stack slots hold.
 *
 * A stack slot remembers a register that was stored at its beginning; all other
 * bytes are only "something", zero, or never written. Never-written bytes may
 * be read, as a number that is not known (as the kernel lets privileged programs
 * since 6.3); that is told to whoever executes the program, so that nothing of
 * the target's own stack is seen through them.
 */
#include <string.h>

#include "vm/verify_internal.h"

/* --- refusing --- */

static struct uerr *refuse_null(struct verifier *v, u32 reg)
{
	return v_refuse(v, v_text(v, "R%u invalid mem access '%s'", reg, reg_type_name(&v->regs[reg])),
			"compare it with NULL first: if (!p) return 0;", "R%u may be NULL", reg);
}

static struct uerr *refuse_address(struct verifier *v, u32 reg)
{
	return v_refuse(v, v_text(v, "R%u invalid mem access '%s'", reg, reg_type_name(&v->regs[reg])),
			v->regs[reg].type == SCALAR ?
				"memory of the process is read by bpf_probe_read_user(), its variables by their map" :
				"use what it points to by a helper",
			"R%u is no address that the program may use", reg);
}

/* --- ctx --- */

void ctx_read(struct verifier *v, s64 off, u64 size)
{
	if (!size)
		return;
	if ((u64)off + size > v->info.ctx_end)
		v->info.ctx_end = (u32)(off + size);
	for (u64 word = (u64)off / 8; word <= (off + size - 1) / 8 && word < sizeof(struct target_regs) / 8; word++)
		v->info.ctx_fields |= 1u << word;
}

void address_escapes(struct verifier *v, const struct reg *r)
{
	if (r->type == PTR_CTX)
		ctx_read(v, 0, vm_prog_ctx_size(v->c->p));
	v->stack_escaped |= r->type == PTR_STACK;
	/* what a global function was given may lie in its caller's stack */
	v->stack_escaped |= v->in_global && r->type == PTR_MEM && !r->parent && !(r->flags & (REG_RINGBUF | REG_KEY));
}

static struct uerr *check_ctx(struct verifier *v, u32 reg, s64 off, u32 size, bool write)
{
	const struct reg *r = &v->regs[reg];
	bool own = v->c->p->env && v->c->p->env->ctx;

	if (!scalar_is_const(&r->var) || r->var.bits.value)
		return v_refuse(v, "variable ctx access", "use constant offsets into ctx",
				"R%u points into ctx at an offset that is not constant", reg);
	/* (The kernel, which rewrites accesses to ctx, has none through a moved pointer; clang makes some.) */
	if (r->off < 0)
		return v_refuse(v, v_text(v, "negative offset ctx ptr R%u off=%d disallowed", reg, r->off),
				"use the fields of struct pt_regs",
				"R%u points below ctx", reg);
	off += r->off;
	if (write && !vm_prog_ctx_allows(v->c->p, off, size, ENV_CTX_WRITE))
		return v_refuse(v, v_text(v, "invalid bpf_context access off=%lld size=%u", (long long)off, size),
				own ? "it is read only" : "registers cannot be changed", "ctx is written");
	if (!write && !vm_prog_ctx_allows(v->c->p, off, size, ENV_CTX_READ))
		return v_refuse(v, v_text(v, "invalid bpf_context access off=%lld size=%u", (long long)off, size),
				own ? "use what the host lets programs read" : "use the fields of struct pt_regs",
				"a read outside of %s (offset %lld)", own ? "ctx, or of a part that may not be read" : "struct pt_regs",
				(long long)off);
	ctx_read(v, off, size);
	return NULL;
}

/* --- bounded memory --- */

struct uerr *check_mem_region(struct verifier *v, u32 reg, s64 off, u64 size, u64 mem_size, const char *what)
{
	const struct reg *r = &v->regs[reg];
	s64 at = off + r->off;

	if (r->var.smin == INT64_MIN || at + r->var.smin < 0 || r->var.smin < -MAX_VAR_OFF)
		return v_refuse(v,
				r->var.smin < 0 ? v_text(v, "R%u min value is negative, either use unsigned index or do a if (index "
							    ">=0) check.", reg) :
						  v_text(v, "R%u min value is outside of the allowed memory range", reg),
				r->var.smin < 0 ? "make the index unsigned, or compare it with 0 as well" : "check the index before it is used",
				"R%u goes outside of %s of %llu bytes (offset %lld, size %llu)", reg, what,
				(unsigned long long)mem_size, (long long)(r->var.smin == INT64_MIN ? at : at + r->var.smin),
				(unsigned long long)size);
	if (r->var.umax >= MAX_VAR_OFF)
		return v_refuse(v, v_text(v, "R%u unbounded memory access, make sure to bounds check any such access", reg),
				"check the index before it is used: if (i >= sizeof(buf)) return 0;",
				"R%u points into %s of %llu bytes at an offset without a bound", reg, what,
				(unsigned long long)mem_size);
	if ((u64)at + r->var.umax + size > mem_size)
		return v_refuse(v, v_text(v, "invalid access to %s, value_size=%llu off=%lld size=%llu; R%u max value is outside "
					  "of the allowed memory range", what, (unsigned long long)mem_size, (long long)at,
				       (unsigned long long)size, reg),
				"check the index before it is used", "R%u goes outside of %s of %llu bytes (offset %lld, size %llu)",
				reg, what, (unsigned long long)mem_size, (long long)(at + (s64)r->var.umax),
				(unsigned long long)size);
	return NULL;
}

static struct uerr *check_map_access(struct verifier *v, u32 reg, s64 off, u64 size, bool read, bool write)
{
	const struct reg *r = &v->regs[reg];
	const struct umap *map = map_of(v, r);
	s32 lock = v->traits[r->map].lock_off;
	struct uerr *err;
	s64 at;

	if (write && (map->frozen || map->map_flags & BPF_F_RDONLY_PROG))
		return v_refuse(v, v_text(v, "write into map forbidden, value_size=%u off=%lld size=%llu", map->value_size,
					  (long long)off, (unsigned long long)size),
				"make the variable non-const", "read-only data is written");
	if (read && map->map_flags & BPF_F_WRONLY_PROG)
		return v_refuse(v, v_text(v, "read from map forbidden, value_size=%u off=%lld size=%llu", map->value_size,
					  (long long)off, (unsigned long long)size),
				"read another map", "a write-only map is read");
	err = check_mem_region(v, reg, off, size, map->value_size, "the map's value");
	if (err || lock < 0)
		return err;
	at = off + r->off;
	if (at + r->var.smin < lock + 4 && lock < at + (s64)(r->var.umax + size))
		return v_refuse(v, "bpf_spin_lock cannot be accessed directly by load/store",
				"use bpf_spin_lock() and bpf_spin_unlock()",
				"the lock in a map's value is accessed as memory");
	return NULL;
}

/* --- stack --- */

static const struct frame *frame_at(const struct verifier *v, u32 i)
{
	return v->cur->frames[i];
}

/* The instruction of frame FRAME's function on whose behalf the one in hand acts. */
static u32 acting_for(const struct verifier *v, u32 frame)
{
	return frame == v->cur->curframe ? v->pc : v->cur->frames[frame + 1]->callsite;
}

void note_stack_use(struct verifier *v, u32 frame, s32 off)
{
	struct vm_subprog *s = &v->subs[v->cur->frames[frame]->subprog];

	if (off < 0 && (u32)-off > s->stack)
		s->stack = (u32)-off;
}

void note_stack_read(struct verifier *v, u32 frame, u32 slot)
{
	slot_read_mark(v->cur, frame, slot);
	v->gathered[acting_for(v, frame)].slots_read |= 1ull << slot;
}

/* What instruction in hand wrote on this path, for dead stores. */
static void note_written(struct verifier *v, u32 frame, u64 slots, bool whole)
{
	struct gathered *g = &v->gathered[v->pc];

	if (frame != v->cur->curframe) {
		g->elsewhere = true;
		return;
	}
	g->slots_replaced = (g->own || g->elsewhere ? g->slots_replaced : ~0ull) & (whole ? slots : 0);
	g->own = true;
	g->slots_written |= slots;
}

void slot_scrub(struct verifier *v, struct slot *s)
{
	if (slot_is_spill(s))
		address_escapes(v, &s->reg);
	for (u32 i = 0; i < 8; i++)
		if (s->byte[i] == SLOT_SPILL)
			s->byte[i] = SLOT_MISC;
	s->reg = (struct reg){ 0 };
}

static void touch_slot(struct verifier *v, u32 frame, u32 slot)
{
	if (frame == v->cur->curframe)
		v->touched_slots |= 1ull << slot;
}

/* Where an access begins, at least and at most. */
struct stack_range {
	u32 frame;
	s32 min, max;
};

static struct uerr *refuse_stack(struct verifier *v, u32 reg, s64 off, u64 size)
{
	return v_refuse(v, v_text(v, "invalid access to stack R%u off=%lld size=%llu", reg, (long long)off,
				  (unsigned long long)size),
			"check index and size against the variable's", "R%u goes outside of the %u bytes of stack (offset %lld, size %llu)", reg, INSN_STACK_SIZE,
			(long long)off, (unsigned long long)size);
}

static struct uerr *stack_range(struct verifier *v, u32 reg, s64 off, u64 size, struct stack_range *ret)
{
	const struct reg *r = &v->regs[reg];
	s64 min, max;

	if (!scalar_is_const(&r->var) && (r->var.smax >= MAX_VAR_OFF || r->var.smin <= -MAX_VAR_OFF))
		return v_refuse(v, v_text(v, "invalid unbounded variable-offset access to stack R%u", reg),
				"check the index first, or keep the buffer in a per-CPU array",
				"R%u points into the stack at an offset without a bound", reg);
	min = off + r->off + r->var.smin;
	max = off + r->off + r->var.smax;
	if (min < -(s64)INSN_STACK_SIZE || min >= 0)
		return refuse_stack(v, reg, min, size);
	if (max + (s64)size > 0 || max >= 0)
		return refuse_stack(v, reg, max, size);
	*ret = (struct stack_range){ r->frame, (s32)min, (s32)max };
	note_stack_use(v, r->frame, ret->min);
	return NULL;
}

/* Accesses to the stack are aligned, wherever they lead. */
static struct uerr *check_stack_align(struct verifier *v, u32 reg, s64 off, u32 size)
{
	const struct reg *r = &v->regs[reg];

	if (size == 1 || scalar_aligned(&r->var, off + r->off, size))
		return NULL;
	return v_refuse(v, v_text(v, "misaligned stack access off %lld size %u", (long long)(off + r->off), size),
			"store and load at multiples of the size", "R%u points into the stack, but not to a multiple of %u", reg,
			size);
}

static struct uerr *refuse_dynptr_read(struct verifier *v, u32 reg, s64 off, s64 at, u64 size)
{
	return v_refuse(v, v_text(v, "invalid read from stack R%u off %lld+%lld size %llu", reg, (long long)off,
				  (long long)(at - off), (unsigned long long)size),
			"use bpf_dynptr_read() or bpf_dynptr_data()", "a dynptr is read as memory");
}

static u8 byte_at(const struct frame *f, s32 off)
{
	u32 slot = slot_of(off);

	return slot < f->nslots ? f->slots[slot].byte[(u32)(off + INSN_STACK_SIZE) % 8] : SLOT_INVALID;
}

/* A load of bytes that are no register: REG becomes something, or zero. */
static struct uerr *load_bytes(struct verifier *v, u32 reg, const struct stack_range *at, u32 size, u32 dst)
{
	const struct frame *f = frame_at(v, at->frame);
	bool zero = true;

	for (s32 off = at->min; off < at->max + (s32)size; off++) {
		u8 byte = byte_at(f, off);
		const struct slot *s = slot_of(off) < f->nslots ? &f->slots[slot_of(off)] : NULL;

		if (byte == SLOT_DYNPTR)
			return refuse_dynptr_read(v, reg, at->min, off, size);
		v->info.reads_unset_stack |= byte == SLOT_INVALID;
		if (byte == SLOT_SPILL)
			address_escapes(v, &s->reg);
		zero &= byte == SLOT_ZERO || (byte == SLOT_SPILL && at->min == at->max && reg_is_null(&s->reg));
		if (byte == SLOT_SPILL && at->min == at->max && reg_is_null(&s->reg))
			history_note(v, HIST_STACK | at->frame << 6 | slot_of(off));
		note_stack_read(v, at->frame, slot_of(off));
	}
	if (zero)
		reg_const(&v->regs[dst], 0);
	else
		reg_unknown(&v->regs[dst]);
	return NULL;
}

/* Bits of a number that are not certainly zero. */
static u32 width(const struct scalar *s)
{
	return s->umax ? 64 - (u32)__builtin_clzll(s->umax) : 0;
}

static struct uerr *load_stack(struct verifier *v, u32 reg, s64 off, u32 size, u32 dst)
{
	const struct frame *f;
	struct stack_range at;
	const struct slot *s;
	struct uerr *err = check_stack_align(v, reg, off, size);
	u32 slot, spilled = 0;

	if (!err)
		err = stack_range(v, reg, off, size, &at);
	if (err)
		return err;
	f = frame_at(v, at.frame);
	slot = slot_of(at.min);
	if (at.min != at.max || slot >= f->nslots || !slot_is_spill(&f->slots[slot]))
		return load_bytes(v, reg, &at, size, dst);
	s = &f->slots[slot];
	while (spilled < 8 && s->byte[spilled] == SLOT_SPILL)
		spilled++;
	if ((size != 8 || spilled != 8) && s->reg.type != SCALAR)
		return v_refuse(v, "invalid size of register fill", "load it as it was stored: all 8 bytes",
				"a part of an address is loaded from the stack");
	if (at.min % 8 || size > spilled)
		return load_bytes(v, reg, &at, size, dst);
	v->regs[dst] = s->reg;
	v->regs[dst].flags &= ~REG_CUT;
	if (s->reg.type == SCALAR && width(&s->reg.var) > size * 8)
		v->regs[dst].id = 0;
	history_note(v, (u16)(HIST_STACK | at.frame << 6 | slot));
	note_stack_read(v, at.frame, slot);
	return NULL;
}

/* The slots of [MIN, MIN + SIZE) of FRAME for writing; NULL with v->err. */
static struct frame *writable(struct verifier *v, u32 frame, s32 min)
{
	struct frame *f = frame == v->cur->curframe ? v->f : state_frame(v, v->cur, frame);

	if (f && !frame_grow(f, slot_of(min) + 1)) {
		v->err = uerr_nomem();
		return NULL;
	}
	return f;
}

static struct uerr *destroy_dynptrs(struct verifier *v, u32 frame, s32 min, s32 end)
{
	struct uerr *err = NULL;
	const struct frame *f = frame_at(v, frame);

	for (u32 slot = slot_of(end - 1); !err && slot <= slot_of(min) && slot < f->nslots; slot++)
		if (f->slots[slot].byte[0] == SLOT_DYNPTR)
			err = dynptr_destroy(v, frame, slot);
	return err;
}

static void spill(struct verifier *v, struct slot *s, const struct reg *r, u32 size)
{
	(void)v;
	s->reg = *r;
	for (u32 i = 0; i < 8; i++) {
		if (i < size)
			s->byte[i] = SLOT_SPILL;
		else if (s->byte[i] == SLOT_SPILL)
			s->byte[i] = SLOT_MISC;
	}
}

/* What a helper made for the time of a callback; its caller, whose stack is FRAME, would
 * have it longer. As in the kernel it finds a number there. */
static bool outlived(const struct verifier *v, const struct reg *r, u32 frame)
{
	return r->type == PTR_DYNPTR && frame != v->cur->curframe;
}

/* A store to a known place. SRC NULL: of the constant IMM. */
static struct uerr *store_fixed(struct verifier *v, const struct stack_range *at, u32 size, const struct reg *src,
				u32 src_reg, s32 imm)
{
	u32 slot = slot_of(at->min), byte = (u32)(at->min + INSN_STACK_SIZE) % 8;
	struct reg constant, value;
	struct uerr *err = destroy_dynptrs(v, at->frame, at->min, at->min + (s32)size);
	struct frame *f;
	struct slot *s;

	if (err)
		return err;
	f = writable(v, at->frame, at->min);
	if (!f)
		return v->err;
	s = &f->slots[slot];
	touch_slot(v, at->frame, slot);
	if (slot_is_spill(s) && size < 8)
		address_escapes(v, &s->reg);
	if (!src) {
		reg_const(&constant, (u64)(s64)imm);
		src = &constant;
	} else if (is_pointer(src)) {
		if (size != 8)
			return v_refuse(v, "invalid size of register spill", "store all 8 bytes of an address",
					"a part of an address is stored on the stack");
		if (src->type == PTR_STACK && at->frame != v->cur->curframe)
			return v_refuse(v, "cannot spill pointers to stack into stack frame of the caller",
					"pass it as an argument",
					"an address of the stack is stored in the caller's stack");
	}
	if (size == 8)
		v->cur->written[at->frame] |= 1ull << slot;
	note_written(v, at->frame, 1ull << slot, size == 8);
	if (!byte && !outlived(v, src, at->frame)) {
		value = *src;
		if (src != &constant && src->type == SCALAR) {
			bool fits = width(&src->var) <= size * 8;

			if (fits && !src->id && !scalar_is_const(&src->var))
				v->regs[src_reg].id = value.id = ++v->last_id;
			if (!fits) {
				value.id = 0;
				value.flags = REG_CUT;
			}
		}
		if (size < 8 && value.type == SCALAR && width(&value.var) > size * 8)
			scalar_extend(&value.var, size * 8, false, true);
		spill(v, s, &value, size);
		history_note(v, (u16)(HIST_STACK | at->frame << 6 | slot));
		return NULL;
	}
	slot_scrub(v, s);
	memset(&s->byte[byte], reg_is_null(src) ? SLOT_ZERO : SLOT_MISC, size);
	return reg_is_null(src) && src != &constant ? mark_precise(v, src_reg) : NULL;
}

/* A store to one of several places: each of them may have changed. */
static struct uerr *store_variable(struct verifier *v, const struct stack_range *at, u32 size, const struct reg *src,
				   u32 src_reg, s32 imm)
{
	bool zero = src ? reg_is_null(src) : !imm, kept = false;
	struct uerr *err = destroy_dynptrs(v, at->frame, at->min, at->max + (s32)size);
	struct frame *f;
	u64 slots = 0;

	if (err)
		return err;
	f = writable(v, at->frame, at->min);
	if (!f)
		return v->err;
	if (src)
		address_escapes(v, src);
	for (s32 off = at->min; off < at->max + (s32)size; off++) {
		struct slot *s = &f->slots[slot_of(off)];
		u8 *byte = &s->byte[(u32)(off + INSN_STACK_SIZE) % 8];

		slots |= 1ull << slot_of(off);
		touch_slot(v, at->frame, slot_of(off));
		if (zero && *byte == SLOT_ZERO) {
			kept = true;
			continue;
		}
		if (*byte == SLOT_SPILL)
			slot_scrub(v, s);
		if (*byte != SLOT_INVALID)
			*byte = SLOT_MISC;
	}
	note_written(v, at->frame, slots, false);
	return kept && src ? mark_precise(v, src_reg) : NULL;
}

static struct uerr *store_stack(struct verifier *v, u32 reg, s64 off, u32 size, const struct reg *src, u32 src_reg,
				s32 imm)
{
	struct stack_range at;
	struct uerr *err = check_stack_align(v, reg, off, size);

	if (!err)
		err = stack_range(v, reg, off, size, &at);
	if (err)
		return err;
	return at.min == at.max ? store_fixed(v, &at, size, src, src_reg, imm) :
				  store_variable(v, &at, size, src, src_reg, imm);
}

/* --- instructions --- */

/* What is known of SIZE bytes of .rodata. */
static bool fold_frozen(const struct verifier *v, const struct reg *r, s64 off, u32 size, u64 *ret)
{
	const struct vm_map *map = &v->c->maps[r->map];

	if (!map->frozen || map->map->type != UMAP_ARRAY || map->map->max_entries != 1 || !scalar_is_const(&r->var))
		return false;
	*ret = 0;
	memcpy(ret, (const u8 *)map->frozen + off + r->off + (s64)r->var.bits.value, size);
	return true;
}

static struct uerr *check_rw(struct verifier *v, u32 reg, s64 off, u32 size, bool read, bool write)
{
	const struct reg *r = &v->regs[reg];

	if (is_pointer(r) && r->flags & REG_MAYBE_NULL)
		return refuse_null(v, reg);
	switch (r->type) {
	case PTR_CTX:
		return check_ctx(v, reg, off, size, write);
	case PTR_MAP_VALUE:
		return check_map_access(v, reg, off, size, read, write);
	case PTR_MEM:
		if (write && r->flags & REG_RDONLY)
			return v_refuse(v, v_text(v, "R%u cannot write into %s", reg, reg_type_name(r)),
					"copy it to the stack, and change that",
					"R%u points to memory that may only be read", reg);
		return check_mem_region(v, reg, off, size, r->mem_size, "memory");
	}
	return refuse_address(v, reg);
}

/* The kernel rewrites loads from ctx, so one instruction is either that or none.
 * Here it could be both; but programs are to pass in both places. */
static struct uerr *check_one_kind(struct verifier *v, u8 type)
{
	u8 now = type == PTR_CTX ? LOAD_CTX : LOAD_MEMORY, *before = &v->gathered[v->pc].loads_from;

	if (*before && *before != now)
		return v_refuse(v, "same insn cannot be used with different pointers",
				"load in each branch by itself; make the function __always_inline",
				"one instruction loads from the context on one path and from other memory on another,");
	*before = now;
	return NULL;
}

struct uerr *do_load(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op)
{
	u32 size = insn_access_size(insn), dst = insn->dst_reg, reg = insn->src_reg;
	bool sext = BPF_MODE(insn->code) == BPF_MEMSX;
	struct reg r = v->regs[reg];
	struct uerr *err;
	u64 known;

	(void)op;
	v->touched_regs |= 1u << dst;
	if (r.type == PTR_STACK) {
		err = load_stack(v, reg, insn->off, size, dst);
	} else {
		err = check_rw(v, reg, insn->off, size, true, false);
		if (!err && r.type == PTR_MAP_VALUE && fold_frozen(v, &r, insn->off, size, &known))
			reg_const(&v->regs[dst], known);
		else
			reg_unknown(&v->regs[dst]);
	}
	if (!err)
		err = check_one_kind(v, r.type);
	if (err || v->regs[dst].type != SCALAR || (size == 8 && !sext))
		return err;
	if (sext && v->regs[dst].id && v->regs[dst].var.umax >= 1ull << (size * 8 - 1))
		v->regs[dst].id = 0;
	scalar_extend(&v->regs[dst].var, size * 8, sext, true);
	return NULL;
}

struct uerr *do_store(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op)
{
	const struct reg *src = BPF_CLASS(insn->code) == BPF_STX ? &v->regs[insn->src_reg] : NULL;
	u32 size = insn_access_size(insn), reg = insn->dst_reg;
	struct uerr *err;

	(void)op;
	if (v->regs[reg].type == PTR_STACK)
		return store_stack(v, reg, insn->off, size, src, insn->src_reg, insn->imm);
	err = check_rw(v, reg, insn->off, size, false, true);
	if (err)
		return err;
	if (src)
		address_escapes(v, src);
	v->gathered[v->pc].elsewhere = true;
	v->impure = true;
	return NULL;
}

/* On the stack the old bytes are read, and what is there afterwards is something. */
static struct uerr *atomic_stack(struct verifier *v, u32 reg, s64 off, u32 size)
{
	struct stack_range at;
	struct uerr *err = check_stack_align(v, reg, off, size);
	struct frame *f;

	if (!err)
		err = stack_range(v, reg, off, size, &at);
	if (!err)
		err = destroy_dynptrs(v, at.frame, at.min, at.max + (s32)size);
	if (err)
		return err;
	f = writable(v, at.frame, at.min);
	if (!f)
		return v->err;
	v->gathered[v->pc].elsewhere = true; /* never a dead store */
	for (s32 i = at.min; i < at.max + (s32)size; i++) {
		struct slot *s = &f->slots[slot_of(i)];

		v->info.reads_unset_stack |= byte_at(f, i) == SLOT_INVALID;
		note_stack_read(v, at.frame, slot_of(i));
		if (slot_is_spill(s) && is_pointer(&s->reg))
			return v_refuse(v, "invalid size of register fill",
					"keep numbers and addresses in variables of their own", "an address on the stack is changed atomically");
		slot_scrub(v, s);
		s->byte[(u32)(i + INSN_STACK_SIZE) % 8] = SLOT_MISC;
		touch_slot(v, at.frame, slot_of(i));
	}
	return NULL;
}

struct uerr *do_atomic(struct verifier *v, const struct bpf_insn *insn, const struct opcode *op)
{
	u32 size = insn_access_size(insn), reg = insn->dst_reg, old = BPF_REG_10;
	const struct reg *r = &v->regs[reg];
	struct uerr *err;

	if (is_pointer(&v->regs[insn->src_reg]))
		return v_refuse(v, v_text(v, "R%u leaks addr into mem", insn->src_reg), "use a number",
				"an address is an operand of an atomic operation");
	if (op->form == FORM_CMPXCHG && is_pointer(&v->regs[0]))
		return v_refuse(v, "R0 leaks addr into mem", "use a number",
				"an address is an operand of an atomic operation");
	if (r->type == PTR_CTX)
		return v_refuse(v, v_text(v, "BPF_ATOMIC stores into R%u ctx is not allowed", reg),
				"registers cannot be changed", "ctx is written");
	if (r->type == PTR_STACK) {
		err = atomic_stack(v, reg, insn->off, size);
	} else if (is_pointer(r) && !scalar_aligned(&r->var, insn->off + r->off, size)) {
		return v_refuse(v, v_text(v, "misaligned value access off %d size %u", insn->off + r->off, size),
				"align the variable",
				"an atomic operation at an address that is no multiple of %u", size);
	} else {
		err = check_rw(v, reg, insn->off, size, true, true);
		v->impure = true;
		v->gathered[v->pc].elsewhere = true;
	}
	if (err)
		return err;
	if (op->form == FORM_CMPXCHG)
		old = BPF_REG_0;
	else if (op->form == FORM_FETCH || op->form == FORM_XCHG)
		old = insn->src_reg;
	if (old == BPF_REG_10)
		return NULL;
	reg_unknown(&v->regs[old]);
	if (size < 8)
		scalar_extend(&v->regs[old].var, size * 8, false, true);
	v->touched_regs |= 1u << old;
	return NULL;
}

/* --- for helpers --- */

/* A program may overwrite a dynptr, which ends it; a helper may not. */
static struct uerr *no_dynptrs(struct verifier *v, u32 frame, s32 min, s32 end)
{
	const struct frame *f = frame_at(v, frame);

	for (u32 slot = slot_of(end - 1); slot <= slot_of(min) && slot < f->nslots; slot++)
		if (f->slots[slot].byte[0] == SLOT_DYNPTR)
			return v_refuse(v, v_text(v, "potential write to dynptr at off=%d disallowed", -8 * (s32)(slot + 1)),
					"give the helper a buffer of its own", "a helper would write over a dynptr");
	return NULL;
}

static struct uerr *helper_stack(struct verifier *v, const struct mem_access *a)
{
	struct stack_range at;
	struct uerr *err = stack_range(v, a->reg, 0, a->max, &at);
	struct frame *f;
	bool certain;

	if (!err && a->write)
		err = no_dynptrs(v, at.frame, at.min, at.max + (s32)a->max);
	if (err)
		return err;
	f = writable(v, at.frame, at.min);
	if (!f)
		return v->err;
	certain = at.min == at.max;
	for (s32 i = at.min; i < at.max + (s32)a->max; i++) {
		struct slot *s = &f->slots[slot_of(i)];
		u8 *byte = &s->byte[(u32)(i + INSN_STACK_SIZE) % 8];

		if (a->read) {
			if (*byte == SLOT_DYNPTR)
				return refuse_dynptr_read(v, a->reg, at.min, i, a->max);
			v->info.reads_unset_stack |= *byte == SLOT_INVALID;
			if (*byte == SLOT_SPILL)
				address_escapes(v, &s->reg);
			note_stack_read(v, at.frame, slot_of(i));
		}
		if (!a->write)
			continue;
		touch_slot(v, at.frame, slot_of(i));
		if (*byte == SLOT_SPILL)
			slot_scrub(v, s);
		if (*byte != SLOT_INVALID || (certain && (u64)(i - at.min) < a->min))
			*byte = SLOT_MISC;
	}
	return NULL;
}

struct uerr *check_helper_mem(struct verifier *v, const struct mem_access *a)
{
	const struct reg *r = &v->regs[a->reg];
	struct stack_range at;
	struct uerr *err;

	if (!a->max && !a->zero_ok)
		return v_refuse(v, v_text(v, "R%u invalid zero-sized read", a->reg), "pass a size above 0",
				"R%u is memory of no size", a->reg);
	if (is_pointer(r) && r->flags & REG_MAYBE_NULL)
		return refuse_null(v, a->reg);
	if (!a->max && r->type == PTR_STACK)
		return stack_range(v, a->reg, 0, 0, &at);
	switch (r->type) {
	case PTR_STACK:
		return helper_stack(v, a);
	case PTR_CTX:
		if (!(v->c->p->env && v->c->p->env->ctx))
			return v_refuse(v, v_text(v, "R%u type=ctx expected=fp, map_value", a->reg), "copy what is needed to the stack first",
					"R%u is ctx where memory is needed", a->reg);
		for (u64 i = 0; i < a->max; i++) {
			err = check_ctx(v, a->reg, (s64)i, 1, false);
			if (!err && a->write)
				err = check_ctx(v, a->reg, (s64)i, 1, true);
			if (err)
				return err;
		}
		return NULL;
	case PTR_MAP_VALUE:
		v->impure |= a->write;
		return check_map_access(v, a->reg, 0, a->max, a->read || !a->write, a->write);
	case PTR_MEM:
		v->impure |= a->write;
		if (a->write && r->flags & REG_RDONLY)
			return v_refuse(v, v_text(v, "R%u cannot write into %s", a->reg, reg_type_name(r)),
					"copy it to the stack, and change that",
					"R%u points to memory that may only be read", a->reg);
		return check_mem_region(v, a->reg, 0, a->max, r->mem_size, "memory");
	}
	return refuse_address(v, a->reg);
}
