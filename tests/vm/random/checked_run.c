/* SPDX-License-Identifier: MIT */
/*
 * The checked interpreter (checked_run.h). A plain switch over the instructions,
 * by RFC 9669; slow and simple on purpose.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/vm/random/checked_run.h"

#include "tests/vm/concrete.h"
#include "vm/helpers.h"
#include "vm/opcodes.h"
#include "vm/runtime.h"

#define STACK INSN_STACK_SIZE
#define GUARD 64
#define MAX_OBJECTS 512
#define NREGS 11

enum type { T_UNSET, T_NUM, T_PTR, T_MAP, T_FUNC };

/* What a register or a stack word holds beside its bits. */
struct tag {
	u8 type;
	u16 obj; /* T_PTR: object; T_MAP: index of the map */
	u32 gen;
};

static const struct tag number = { .type = T_NUM };

enum { BYTE_UNSET, BYTE_SET, BYTE_LEFTOVER, BYTE_DEAD };

struct object {
	bool live, read_only, write_only;
	u32 gen;
	u64 base;
	u32 size;
	struct stack *stack; /* or NULL */
	bool ctx;
};

struct stack {
	u8 mem[STACK + 2 * GUARD] __attribute__((aligned(16)));
	u8 byte[STACK];            /* BYTE_* */
	struct tag word[STACK / 8];
	u32 used;                  /* deepest access below the frame pointer */
	u32 back, sub;
	u64 saved[4];
	struct tag saved_tag[4];
};

struct machine {
	const struct vm_prog *p;
	const struct vm_map *maps;
	size_t nmaps;
	const struct checked_opts *opts;
	struct checked_result *ret;
	u64 r[NREGS];
	struct tag t[NREGS];
	struct object obj[MAX_OBJECTS];
	u32 nobj;
	struct stack stack[INSN_MAX_FRAMES];
	u32 depth;
	u32 pc;
	bool bad;
	bool stop; /* enough */
};

/* Of each frame its stack, and the key that a callback was given. */
enum { OBJ_CTX = 0, OBJ_STACK = 1, OBJ_KEY = OBJ_STACK + INSN_MAX_FRAMES, OBJ_VALUES = OBJ_KEY + INSN_MAX_FRAMES };

__attribute__((format(printf, 2, 3))) static void violation(struct machine *m, const char *fmt, ...)
{
	va_list ap;

	if (m->bad)
		return;
	m->bad = true;
	m->ret->pc = m->pc;
	va_start(ap, fmt);
	vsnprintf(m->ret->violation, sizeof(m->ret->violation), fmt, ap);
	va_end(ap);
}

/* --- objects --- */

static void enter(struct machine *m, u32 depth, u32 sub)
{
	struct object *o = &m->obj[OBJ_STACK + depth];
	struct stack *s = &m->stack[depth];

	memset(s->byte, BYTE_UNSET, sizeof(s->byte));
	if (m->p->info.reads_unset_stack) { /* then it must be zeros, and may be read */
		memset(s->mem, 0, sizeof(s->mem));
		memset(s->byte, BYTE_SET, sizeof(s->byte));
	}
	memset(s->word, 0, sizeof(s->word));
	s->used = 0;
	s->sub = sub;
	*o = (struct object){ .live = true, .gen = o->gen + 1, .base = (u64)(uintptr_t)s->mem + GUARD, .size = STACK, .stack = s };
	m->r[10] = o->base + STACK;
	m->t[10] = (struct tag){ .type = T_PTR, .obj = (u16)(OBJ_STACK + depth), .gen = o->gen };
}

/* The object of a map's value at BASE. */
static struct tag value_object(struct machine *m, u32 map, u64 base)
{
	const struct umap *u = m->maps[map].map;
	struct object *o;

	for (u32 i = OBJ_VALUES; i < m->nobj; i++)
		if (m->obj[i].base == base)
			return (struct tag){ .type = T_PTR, .obj = (u16)i };
	if (m->nobj == MAX_OBJECTS) {
		m->ret->unfinished = true;
		m->nobj = OBJ_VALUES;
	}
	o = &m->obj[m->nobj];
	*o = (struct object){ .live = true, .base = base, .size = u->value_size,
			      .read_only = u->frozen || u->map_flags & BPF_F_RDONLY_PROG,
			      .write_only = u->map_flags & BPF_F_WRONLY_PROG };
	return (struct tag){ .type = T_PTR, .obj = (u16)m->nobj++ };
}

/* The object that [ADDR, ADDR + SIZE) lies in, ADDR being tagged T; NULL: a violation. */
static struct object *object_at(struct machine *m, u64 addr, struct tag t, u64 size, bool write, const char *what)
{
	struct object *o = &m->obj[t.obj];

	if (t.type != T_PTR) {
		violation(m, "%s through %s", what, t.type == T_UNSET ? "a register that was never set" :
			  t.type == T_MAP ? "a map" : addr ? "a number" : "NULL");
		return NULL;
	}
	if (!o->live || o->gen != t.gen) {
		violation(m, "%s of the stack of a function that has returned", what);
		return NULL;
	}
	if (addr < o->base || size > o->size || addr - o->base > o->size - size) {
		violation(m, "%s of %llu bytes at %lld of an object of %u", what, (unsigned long long)size,
			  (long long)(addr - o->base), o->size);
		return NULL;
	}
	if (write ? o->read_only || o->ctx : o->write_only) {
		violation(m, "%s of memory that is %s", what, write ? "read-only" : "write-only");
		return NULL;
	}
	return o;
}

static void note_stack(struct machine *m, const struct object *o, u64 addr)
{
	u32 below = (u32)(o->base + STACK - addr);

	if (below > o->stack->used)
		o->stack->used = below;
	if (m->p->subprogs && o->stack->sub < m->p->nsubprogs && below > m->p->subprogs[o->stack->sub].stack)
		violation(m, "%u bytes of stack, %u were said", below, m->p->subprogs[o->stack->sub].stack);
}

static bool may_read(struct machine *m, u64 addr, struct tag t, u64 size, const char *what)
{
	struct object *o = object_at(m, addr, t, size, false, what);

	if (!o)
		return false;
	if (o->ctx)
		for (u64 w = (addr - o->base) / 8; size && w <= (addr - o->base + size - 1) / 8; w++)
			if (!(m->p->info.ctx_fields >> w & 1))
				violation(m, "ctx field %llu is read, and not in the mask", (unsigned long long)w);
	if (!o->stack || !size)
		return !m->bad;
	note_stack(m, o, addr);
	for (u64 i = addr - o->base; i < addr - o->base + size; i++) {
		if (o->stack->byte[i] == BYTE_UNSET)
			violation(m, "%s of stack that was never written, at %lld", what, (long long)i - STACK);
		if (o->stack->byte[i] == BYTE_DEAD)
			violation(m, "%s of a store that was said to be dead, at %lld", what, (long long)i - STACK);
		if (o->stack->byte[i] == BYTE_LEFTOVER)
			m->ret->varies = true;
		if (o->stack->word[i / 8].type > T_NUM && size != 8)
			m->ret->varies = true;
	}
	return !m->bad;
}

/* Bytes of the stack were written: with WHAT, and no addresses any more. */
static void now_written(struct object *o, u64 addr, u64 size, u8 what)
{
	u64 from = addr - o->base;

	if (!size)
		return;
	for (u64 w = from / 8; w <= (from + size - 1) / 8; w++) {
		if (o->stack->word[w].type <= T_NUM)
			continue;
		for (u64 i = 8 * w; i < 8 * w + 8; i++) /* a part of an address stays */
			o->stack->byte[i] = BYTE_LEFTOVER;
		o->stack->word[w] = number;
	}
	for (u64 i = from; i < from + size; i++)
		o->stack->byte[i] = what;
}

static struct object *may_write(struct machine *m, u64 addr, struct tag t, u64 size, const char *what)
{
	struct object *o = object_at(m, addr, t, size, true, what);

	if (!o)
		return NULL;
	if (o->stack && size)
		note_stack(m, o, addr);
	if (!o->stack && m->p->info.leaf_pure)
		violation(m, "%s of other memory than the stack, in a program said to be pure", what);
	return o;
}

/* --- loads and stores --- */

static u64 get(u64 addr, u32 size)
{
	u64 v = 0;

	memcpy(&v, (const void *)(uintptr_t)addr, size);
	return v;
}

static u64 sign(u64 v, u32 size)
{
	return (u64)((s64)(v << (64 - 8 * size)) >> (64 - 8 * size));
}

static void load(struct machine *m, const struct bpf_insn *i)
{
	u64 addr = m->r[i->src_reg] + (u64)(s64)i->off;
	struct tag t = m->t[i->src_reg], got = number;
	u32 size = insn_access_size(i);
	const struct object *o;

	if (!may_read(m, addr, t, size, "a load"))
		return;
	o = &m->obj[t.obj];
	if (o->stack && size == 8 && (addr - o->base) % 8 == 0) {
		got = o->stack->word[(addr - o->base) / 8];
		if (got.type == T_UNSET)
			got = number;
	} else if (o->stack) {
		for (u64 at = addr - o->base; at < addr - o->base + size; at++)
			m->ret->varies |= o->stack->word[at / 8].type > T_NUM;
	}
	m->r[i->dst_reg] = get(addr, size);
	if (BPF_MODE(i->code) == BPF_MEMSX)
		m->r[i->dst_reg] = sign(m->r[i->dst_reg], size);
	m->t[i->dst_reg] = got;
}

static void put(struct machine *m, u64 addr, struct tag at, u32 size, u64 v, struct tag t, const char *what)
{
	struct object *o = may_write(m, addr, at, size, what);
	bool dead = m->p->facts && m->p->facts[m->pc].flags & FACT_DEAD_STORE;

	if (!o)
		return;
	if (dead && !o->stack)
		violation(m, "a store into other memory than the stack was said to be dead");
	memcpy((void *)(uintptr_t)addr, &v, size);
	if (o->stack) {
		now_written(o, addr, size, dead ? BYTE_DEAD : BYTE_SET);
		if (size == 8 && (addr - o->base) % 8 == 0)
			o->stack->word[(addr - o->base) / 8] = t;
		else if (t.type > T_NUM)
			m->ret->varies = true;
	} else if (t.type > T_NUM) {
		m->ret->varies = true;
	}
}

static void store(struct machine *m, const struct bpf_insn *i)
{
	u64 addr = m->r[i->dst_reg] + (u64)(s64)i->off;
	bool reg = BPF_CLASS(i->code) == BPF_STX;

	if (reg && m->t[i->src_reg].type == T_UNSET)
		violation(m, "r%d is stored, and was never set", i->src_reg);
	else
		put(m, addr, m->t[i->dst_reg], insn_access_size(i), reg ? m->r[i->src_reg] : (u64)(s64)i->imm,
		    reg ? m->t[i->src_reg] : number, "a store");
}

static void atomic(struct machine *m, const struct bpf_insn *i)
{
	u64 addr = m->r[i->dst_reg] + (u64)(s64)i->off, old, new, src = m->r[i->src_reg];
	const struct object *o = &m->obj[m->t[i->dst_reg].obj];
	u32 size = insn_access_size(i);

	if (m->t[i->src_reg].type == T_UNSET || (i->imm == BPF_CMPXCHG && m->t[0].type == T_UNSET))
		violation(m, "an atomic operation with a register that was never set");
	if (m->bad || !may_read(m, addr, m->t[i->dst_reg], size, "an atomic read"))
		return;
	if (addr % size)
		violation(m, "an atomic operation that is not aligned");
	if (m->t[i->src_reg].type > T_NUM || (i->imm == BPF_CMPXCHG && m->t[0].type > T_NUM) ||
	    (o->stack && o->stack->word[(addr - o->base) / 8].type > T_NUM))
		m->ret->varies = true;
	old = get(addr, size);
	if (size == 4)
		src = (u32)src;
	switch (i->imm & ~BPF_FETCH) {
	case BPF_ADD:
		new = old + src;
		break;
	case BPF_OR:
		new = old | src;
		break;
	case BPF_AND:
		new = old & src;
		break;
	case BPF_XOR:
		new = old ^ src;
		break;
	case BPF_XCHG & ~BPF_FETCH:
		new = src;
		break;
	case BPF_CMPXCHG & ~BPF_FETCH:
		new = old == (size == 4 ? (u32)m->r[0] : m->r[0]) ? src : old;
		break;
	default:
		violation(m, "an unknown atomic operation");
		return;
	}
	put(m, addr, m->t[i->dst_reg], size, new, number, "an atomic write");
	if (i->imm == BPF_CMPXCHG) {
		m->r[0] = old;
		m->t[0] = number;
	} else if (i->imm & BPF_FETCH) {
		m->r[i->src_reg] = old;
		m->t[i->src_reg] = number;
	}
}

/* --- arithmetic --- */

static u64 swapped(u64 v, s32 bits)
{
	return __builtin_bswap64(v) >> (64 - bits);
}

static u64 cut(u64 v, s32 bits)
{
	return bits == 64 ? v : v & ((1ull << bits) - 1);
}

static u64 compute(struct machine *m, const struct bpf_insn *i, u64 a, u64 b)
{
	bool w64 = BPF_CLASS(i->code) == BPF_ALU64;
	u64 r = 0;

	switch (BPF_OP(i->code)) {
	case BPF_NEG:
		r = 0 - a;
		break;
	case BPF_MOV:
		r = i->off ? sign(b, (u32)i->off / 8) : b;
		break;
	default:
		if (!concrete_alu(BPF_OP(i->code), i->off == 1, w64, a, b, &r))
			violation(m, "unknown arithmetic");
	}
	return w64 ? r : (u32)r;
}

static void alu(struct machine *m, const struct bpf_insn *i)
{
	bool w64 = BPF_CLASS(i->code) == BPF_ALU64, reg = BPF_SRC(i->code) == BPF_X;
	u8 op = BPF_OP(i->code);
	struct tag *d = &m->t[i->dst_reg], s = number;
	u64 b = (u64)(s64)i->imm;

	if (op == BPF_END) {
		if (d->type == T_UNSET)
			violation(m, "r%d was never set", i->dst_reg);
		m->ret->varies |= d->type > T_NUM;
		if (w64 || reg) /* bswap, to big endian */
			m->r[i->dst_reg] = swapped(m->r[i->dst_reg], i->imm);
		else
			m->r[i->dst_reg] = cut(m->r[i->dst_reg], i->imm);
		*d = number;
		return;
	}
	if (reg && op != BPF_NEG) {
		b = m->r[i->src_reg];
		s = m->t[i->src_reg];
	}
	if ((op != BPF_MOV && d->type == T_UNSET) || s.type == T_UNSET) {
		violation(m, "arithmetic with a register that was never set");
		return;
	}
	m->r[i->dst_reg] = compute(m, i, m->r[i->dst_reg], b);
	if (op == BPF_MOV && w64 && !i->off) {
		*d = s;
	} else if (op == BPF_MOV) {
		m->ret->varies |= s.type > T_NUM;
		*d = number;
	} else if (w64 && op == BPF_ADD && d->type == T_NUM && s.type == T_PTR) {
		*d = s;
	} else if (w64 && op == BPF_ADD && d->type == T_MAP && s.type == T_NUM && !b) {
		return; /* nothing has happened */
	} else if (!(w64 && (op == BPF_ADD || op == BPF_SUB) && d->type == T_PTR && s.type == T_NUM)) {
		m->ret->varies |= d->type > T_NUM || s.type > T_NUM;
		*d = number;
	}
}

static bool jumps(struct machine *m, const struct bpf_insn *i)
{
	bool w64 = BPF_CLASS(i->code) == BPF_JMP, reg = BPF_SRC(i->code) == BPF_X;
	u64 a = m->r[i->dst_reg], b = reg ? m->r[i->src_reg] : (u64)(s64)i->imm;
	bool null_check = !reg && !i->imm && w64 && (BPF_OP(i->code) == BPF_JEQ || BPF_OP(i->code) == BPF_JNE);
	int taken;

	if (m->t[i->dst_reg].type == T_UNSET || (reg && m->t[i->src_reg].type == T_UNSET))
		violation(m, "a jump by a register that was never set");
	if (!null_check && (m->t[i->dst_reg].type > T_NUM || (reg && m->t[i->src_reg].type > T_NUM)))
		m->ret->varies = true;
	taken = concrete_jump(BPF_OP(i->code), w64, a, b);
	if (taken >= 0)
		return taken;
	violation(m, "an unknown jump");
	return false;
}

/* --- calls --- */

/* What a helper reads must be there; addresses among it make its result vary. */
static void arg_read(struct machine *m, u32 reg, u64 size)
{
	const struct object *o;

	if (!may_read(m, m->r[reg], m->t[reg], size, "a helper's read"))
		return;
	o = &m->obj[m->t[reg].obj];
	if (o->stack && size)
		for (u64 w = (m->r[reg] - o->base) / 8; w <= (m->r[reg] - o->base + size - 1) / 8; w++)
			m->ret->varies |= o->stack->word[w].type > T_NUM;
}

static u64 size_for(struct machine *m, const struct helper_info *info, u32 arg)
{
	if (arg + 1 < HELPER_NARGS && (info->args[arg + 1] == ARG_SIZE || info->args[arg + 1] == ARG_SIZE0))
		return m->r[arg + 2];
	violation(m, "the prototype of %s has no size", info->name);
	return 0;
}

/* Text that cannot change, with its NUL. */
static void check_text(struct machine *m, u32 reg, const struct helper_info *info)
{
	const struct object *o = object_at(m, m->r[reg], m->t[reg], 1, false, "a helper's read");

	if (!o)
		return;
	if (!o->read_only || !memchr((const void *)(uintptr_t)m->r[reg], 0, o->base + o->size - m->r[reg]))
		violation(m, "r%u of %s is no constant text", reg, info->name);
}

static void check_arg(struct machine *m, const struct helper_info *info, u32 arg, const struct umap *map)
{
	u32 reg = arg + 1;
	u8 kind = info->args[arg];

	if (kind == ARG_NONE || kind == ARG_UNCHECKED)
		return;
	if (m->t[reg].type == T_UNSET) {
		violation(m, "r%u of %s was never set", reg, info->name);
		return;
	}
	switch (kind) {
	case ARG_ANY:
		m->ret->varies |= m->t[reg].type > T_NUM;
		break;
	case ARG_CTX:
		if (m->t[reg].type != T_PTR || m->t[reg].obj != OBJ_CTX || m->r[reg] != m->obj[OBJ_CTX].base)
			violation(m, "r%u of %s is not ctx", reg, info->name);
		break;
	case ARG_MAP:
		if (m->t[reg].type != T_MAP || m->r[reg] != (u64)(uintptr_t)m->maps[m->t[reg].obj].map)
			violation(m, "r%u of %s is not a map", reg, info->name);
		break;
	case ARG_MAP_KEY:
		arg_read(m, reg, map->key_size);
		break;
	case ARG_MAP_VALUE:
		arg_read(m, reg, map->value_size);
		break;
	case ARG_MEM:
		arg_read(m, reg, size_for(m, info, arg));
		break;
	case ARG_MEM_OR_NULL:
		if (m->r[reg])
			arg_read(m, reg, size_for(m, info, arg));
		break;
	case ARG_MEM_UNINIT:
		may_write(m, m->r[reg], m->t[reg], size_for(m, info, arg), "a helper's write");
		break;
	case ARG_MEM_RW_OR_NULL:
		if (!m->r[reg])
			break;
		arg_read(m, reg, size_for(m, info, arg));
		may_write(m, m->r[reg], m->t[reg], size_for(m, info, arg), "a helper's write");
		break;
	case ARG_LONG_PTR:
		may_write(m, m->r[reg], m->t[reg], 8, "a helper's write");
		break;
	case ARG_CONST_STR:
		check_text(m, reg, info);
		break;
	case ARG_SIZE:
	case ARG_SIZE0:
		if (m->t[reg].type != T_NUM || (kind == ARG_SIZE && !m->r[reg]))
			violation(m, "r%u of %s is no size", reg, info->name);
		break;
	case ARG_FUNC:
		if (m->t[reg].type != T_FUNC || m->r[reg] >= m->p->ninsns)
			violation(m, "r%u of %s is no function", reg, info->name);
		break;
	case ARG_STACK_OR_NULL: /* what the callback does with it is checked there */
		if (m->r[reg] && (m->t[reg].type != T_PTR || m->t[reg].obj < OBJ_STACK || m->t[reg].obj >= OBJ_KEY))
			violation(m, "r%u of %s is not stack", reg, info->name);
		break;
	default:
		violation(m, "%s has an argument that nothing checks", info->name);
	}
}

static bool is_size(u8 kind)
{
	return kind == ARG_SIZE || kind == ARG_SIZE0;
}

/* Of memory and sizes: what is said is of the first. */
static void check_facts(struct machine *m, const struct helper_info *info, u32 id)
{
	u32 sizes = 0;
	const struct insn_fact *f = m->p->facts ? &m->p->facts[m->pc] : NULL;
	u64 fp = m->obj[OBJ_STACK + m->depth].base + STACK;

	if (!(m->p->info.helpers[id / 64] >> id % 64 & 1))
		violation(m, "%s is called, and not among the helpers", info->name);
	for (u32 i = 0; f && i < HELPER_NARGS; i++) {
		u64 r = m->r[i + 1];
		u8 kind = info->args[i];

		if (kind == ARG_MAP && f->map && (m->t[i + 1].type != T_MAP || m->t[i + 1].obj != f->map - 1))
			violation(m, "another map than was said");
		if (is_size(kind) && !sizes++ && f->flags & FACT_SIZE && r != f->size)
			violation(m, "size %llu, %u was said", (unsigned long long)r, f->size);
		if (kind == ARG_MAP_KEY && f->flags & FACT_KEY_ON_STACK && r != fp + (u64)(s64)f->key_off)
			violation(m, "another key than was said");
		if (i + 1 < HELPER_NARGS && is_size(info->args[i + 1]) && !sizes && f->flags & FACT_ON_STACK &&
		    r != fp + (u64)(s64)f->mem_off)
			violation(m, "other memory than was said");
	}
}

static bool reads_memory(u32 id)
{
	return id == BPF_FUNC_probe_read || id == BPF_FUNC_probe_read_user || id == BPF_FUNC_probe_read_kernel ||
	       id == BPF_FUNC_probe_read_str || id == BPF_FUNC_probe_read_user_str ||
	       id == BPF_FUNC_probe_read_kernel_str;
}

static bool reads_string(u32 id)
{
	return id == BPF_FUNC_probe_read_str || id == BPF_FUNC_probe_read_user_str ||
	       id == BPF_FUNC_probe_read_kernel_str;
}

/* Results that another execution need not repeat */
static void note_variable(struct machine *m, u32 id, u64 addr, u64 size)
{
	u64 lo = (u64)(uintptr_t)m->opts->known, hi = lo + m->opts->known_size;

	switch (id) {
	case BPF_FUNC_ktime_get_ns:
	case BPF_FUNC_ktime_get_boot_ns:
	case BPF_FUNC_ktime_get_coarse_ns:
	case BPF_FUNC_ktime_get_tai_ns:
	case BPF_FUNC_jiffies64:
	case BPF_FUNC_get_prandom_u32:
	case BPF_FUNC_get_smp_processor_id:
		m->ret->varies = true;
	}
	if (reads_memory(id) && (s64)m->r[0] >= 0 && size && (addr < lo || addr >= hi || size > hi - addr))
		m->ret->varies = true;
}

/* What a helper was to fill is set now: of a string what there is of it. */
static void note_written(struct machine *m, const struct helper_info *info, u32 id, const u64 *args)
{
	for (u32 i = 0; i + 1 < HELPER_NARGS; i++) {
		struct object *o = &m->obj[m->t[i + 1].obj];
		u64 addr = args[i], size = args[i + 1], part = size;

		if (info->args[i] != ARG_MEM_UNINIT || !o->stack)
			continue;
		if (reads_string(id) && (s64)m->r[0] >= 0 && m->r[0] < size)
			part = m->r[0];
		for (u64 at = addr - o->base + part; at < addr - o->base + size; at++)
			if (o->stack->byte[at] != BYTE_SET || o->stack->word[at / 8].type > T_NUM)
				o->stack->byte[at] = BYTE_LEFTOVER;
		now_written(o, addr, part, BYTE_SET);
		for (u64 at = addr - o->base + part; at < addr - o->base + size; at++)
			if (o->stack->word[at / 8].type > T_NUM)
				o->stack->word[at / 8] = number;
	}
}

/*
 * Callbacks: the real helper calls us, and the program's function is run here.
 */

static u32 subprog_at(const struct machine *m, u32 pc);
static bool step(struct machine *m);
static void go_on(struct machine *m, u32 depth);

/* The call of a helper that calls back, innermost first. */
struct calling {
	struct calling *outer;
	struct machine *m;
	u32 id, pc, map;
	struct tag arg; /* its third */
};
static struct calling *calling;

static u64 called_back(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct hook_frame *frame)
{
	struct calling *c = calling;
	struct machine *m = c->m;
	struct object *key = &m->obj[OBJ_KEY + m->depth];
	struct stack *s = &m->stack[m->depth];
	u64 r[NREGS];
	struct tag t[NREGS];
	u64 ret;

	if (m->depth + 1 == INSN_MAX_FRAMES)
		violation(m, "a callback too deep");
	if (m->bad || m->stop)
		return 1;
	memcpy(r, m->r, sizeof(r));
	memcpy(t, m->t, sizeof(t));
	for (u32 i = 0; i < NREGS; i++)
		m->t[i].type = T_UNSET;
	m->r[1] = r1;
	m->r[2] = r2;
	m->r[3] = r3;
	m->r[4] = r4;
	m->t[1] = number;
	m->t[2] = c->arg;
	if (c->id == BPF_FUNC_for_each_map_elem) {
		const struct umap *u = m->maps[c->map].map;

		*key = (struct object){ .live = true, .gen = key->gen + 1, .base = r2, .size = u->key_size, .read_only = true };
		m->t[1] = (struct tag){ .type = T_MAP, .obj = (u16)c->map };
		m->t[2] = (struct tag){ .type = T_PTR, .obj = (u16)(OBJ_KEY + m->depth), .gen = key->gen };
		m->t[3] = value_object(m, c->map, r3);
		m->t[4] = c->arg;
	}
	s->back = m->pc;
	memset(s->saved, 0, sizeof(s->saved));
	memset(s->saved_tag, 0, sizeof(s->saved_tag));
	m->pc = c->pc;
	enter(m, ++m->depth, subprog_at(m, c->pc));
	go_on(m, m->depth - 1);
	ret = m->r[0];
	if (!m->bad && !m->stop && (m->t[0].type != T_NUM || ret > 1))
		violation(m, "a callback returns other than 0 or 1");
	key->live = false;
	if (m->bad || m->stop)
		return 1;
	memcpy(m->r, r, sizeof(r));
	memcpy(m->t, t, sizeof(t));
	return ret;
}

/* What the others give or do is beyond this interpreter: references, dynptrs, locks,
 * signals to the test. */
static bool is_followed(const struct helper_info *info, u32 id)
{
	static const u32 others[] = { BPF_FUNC_send_signal, BPF_FUNC_send_signal_thread, BPF_FUNC_override_return,
				      BPF_FUNC_get_stackid, BPF_FUNC_get_stack, BPF_FUNC_perf_event_output,
				      BPF_FUNC_user_ringbuf_drain };

	for (u32 i = 0; i < HELPER_NARGS; i++)
		if (info->args[i] == ARG_ALLOC_SIZE || info->args[i] == ARG_RINGBUF_MEM ||
		    (info->args[i] >= ARG_SPIN_LOCK && info->args[i] != ARG_LONG_PTR))
			return false;
	for (u32 i = 0; i < ARRAY_SIZE(others); i++)
		if (id == others[i])
			return false;
	return true;
}

static void call_helper(struct machine *m, u32 id)
{
	const struct helper_info *info = vm_helper_info(id);
	const struct umap *map = NULL;
	u64 args[HELPER_NARGS];
	helper_fn fn = runtime_helper(id);
	u32 index = 0;

	if (!fn || !info->present) {
		violation(m, "helper %u is not there", id);
		return;
	}
	if (!is_followed(info, id)) {
		m->stop = m->ret->unfinished = true;
		return;
	}
	if (info->args[0] == ARG_MAP && m->t[1].type == T_MAP) {
		index = m->t[1].obj;
		map = m->maps[index].map;
	} else if (info->args[0] == ARG_MAP) {
		violation(m, "%s without a map", info->name);
		return;
	}
	/* What these show is as read-only as the map. */
	if (id != BPF_FUNC_map_lookup_elem && id != BPF_FUNC_for_each_map_elem && map &&
	    (map->frozen || map->map_flags & BPF_F_RDONLY_PROG))
		violation(m, "%s on a read-only map", info->name);
	for (u32 i = 0; i < HELPER_NARGS && !m->bad; i++)
		check_arg(m, info, i, map);
	if (!m->bad)
		check_facts(m, info, id);
	if (m->bad)
		return;
	memcpy(args, &m->r[1], sizeof(args));
	if (info->args[1] == ARG_FUNC) {
		struct calling c = { .outer = calling, .m = m, .id = id, .pc = (u32)m->r[2], .map = index, .arg = m->t[3] };

		calling = &c;
		m->r[0] = fn(m->r[1], (u64)(uintptr_t)called_back, m->r[3], m->r[4], m->r[5], m->opts->frame);
		calling = c.outer;
		if (m->bad || m->stop)
			return;
	} else {
		m->r[0] = fn(m->r[1], m->r[2], m->r[3], m->r[4], m->r[5], m->opts->frame);
	}
	note_written(m, info, id, args);
	note_variable(m, id, args[2], args[1]);
	m->t[0] = number;
	if (info->ret == RET_MAP_VALUE_OR_NULL && m->r[0])
		m->t[0] = value_object(m, index, m->r[0]);
	if (info->ret == RET_VOID)
		m->t[0].type = T_UNSET;
	for (u32 i = 1; i <= 5; i++) {
		m->t[i].type = T_UNSET;
		m->r[i] = 0xdead000000000000ull + i;
	}
}

static u32 subprog_at(const struct machine *m, u32 pc)
{
	for (u32 i = 0; m->p->subprogs && i < m->p->nsubprogs; i++)
		if (m->p->subprogs[i].start == pc)
			return i;
	return UINT32_MAX;
}

static void call_local(struct machine *m, const struct bpf_insn *i)
{
	struct stack *s = &m->stack[m->depth];
	s64 target = (s64)m->pc + 1 + i->imm;

	if (m->depth + 1 == INSN_MAX_FRAMES || target < 0 || target >= m->p->ninsns) {
		violation(m, "a call too deep or outside");
		return;
	}
	s->back = m->pc + 1;
	memcpy(s->saved, &m->r[6], sizeof(s->saved));
	memcpy(s->saved_tag, &m->t[6], sizeof(s->saved_tag));
	for (u32 r = 6; r <= 9; r++)
		m->t[r].type = T_UNSET;
	m->t[0].type = T_UNSET;
	enter(m, ++m->depth, subprog_at(m, (u32)target));
	m->pc = (u32)target;
}

/* True: the program has ended. */
static bool leave(struct machine *m)
{
	u32 used = 0;

	if (!m->depth && m->t[0].type == T_UNSET) { /* a function may leave r0 alone if its caller does not look */
		violation(m, "the end, and r0 was never set");
		return true;
	}
	for (u32 d = 0; d <= m->depth; d++)
		used += m->stack[d].used;
	if (used > STACK)
		violation(m, "%u bytes of stack in all", used);
	if (!m->depth) {
		m->ret->varies |= m->t[0].type > T_NUM;
		return true;
	}
	m->obj[OBJ_STACK + m->depth].live = false;
	m->depth--;
	memcpy(&m->r[6], m->stack[m->depth].saved, sizeof(m->stack[0].saved));
	memcpy(&m->t[6], m->stack[m->depth].saved_tag, sizeof(m->stack[0].saved_tag));
	for (u32 r = 1; r <= 5; r++)
		m->t[r].type = T_UNSET;
	m->r[10] = m->obj[OBJ_STACK + m->depth].base + STACK;
	m->t[10] = (struct tag){ .type = T_PTR, .obj = (u16)(OBJ_STACK + m->depth), .gen = m->obj[OBJ_STACK + m->depth].gen };
	m->pc = m->stack[m->depth].back;
	return false;
}

/* --- the run --- */

static void load_imm64(struct machine *m, const struct bpf_insn *i)
{
	u32 index = (u32)i->imm;

	if (m->pc + 1 >= m->p->ninsns || (i->src_reg && i->src_reg != INSN_PSEUDO_FUNC && index >= m->nmaps)) {
		violation(m, "half an instruction, or a map that is not there");
		return;
	}
	m->t[i->dst_reg] = number;
	if (i->src_reg == INSN_PSEUDO_FUNC) {
		m->r[i->dst_reg] = m->pc + 1 + (u32)i->imm;
		m->t[i->dst_reg].type = T_FUNC;
	} else if (!i->src_reg) {
		m->r[i->dst_reg] = (u64)(u32)i[1].imm << 32 | (u32)i->imm;
	} else if (i->src_reg == INSN_PSEUDO_MAP_IDX) {
		m->r[i->dst_reg] = (u64)(uintptr_t)m->maps[index].map;
		m->t[i->dst_reg] = (struct tag){ .type = T_MAP, .obj = (u16)index };
	} else if (i->src_reg == INSN_PSEUDO_MAP_IDX_VALUE && m->maps[index].map->type == UMAP_ARRAY) {
		const struct umap *u = m->maps[index].map;

		m->t[i->dst_reg] = value_object(m, index, u->base + u->data_off);
		m->r[i->dst_reg] = u->base + u->data_off + (u32)i[1].imm;
	} else {
		violation(m, "an unknown constant");
	}
	m->pc += 2;
}

/* One instruction. False: the program has ended, or must. */
static bool step(struct machine *m)
{
	const struct bpf_insn *i = &m->p->insns[m->pc];
	u32 target;

	if (m->p->facts && m->p->facts[m->pc].flags & FACT_UNREACHED)
		violation(m, "an instruction that was said not to be reached");
	switch (BPF_CLASS(i->code)) {
	case BPF_ALU:
	case BPF_ALU64:
		if (i->dst_reg == 10)
			violation(m, "the frame pointer is written");
		else
			alu(m, i);
		break;
	case BPF_LD:
		load_imm64(m, i);
		return !m->bad;
	case BPF_LDX:
		load(m, i);
		break;
	case BPF_ST:
		store(m, i);
		break;
	case BPF_STX:
		if (BPF_MODE(i->code) == BPF_ATOMIC)
			atomic(m, i);
		else
			store(m, i);
		break;
	case BPF_JMP:
	case BPF_JMP32:
		if (i->code == (BPF_JMP | BPF_EXIT))
			return !leave(m);
		if (i->code == (BPF_JMP | BPF_CALL)) {
			if (i->src_reg == BPF_PSEUDO_CALL) {
				call_local(m, i);
				return !m->bad;
			}
			call_helper(m, (u32)i->imm);
			break;
		}
		target = m->pc + 1 + (u32)(i->code == (BPF_JMP32 | BPF_JA) ? i->imm : i->off);
		if (BPF_OP(i->code) == BPF_JA || jumps(m, i)) {
			if (target >= m->p->ninsns)
				violation(m, "a jump outside");
			m->pc = target;
			return !m->bad;
		}
	}
	m->pc++;
	return !m->bad;
}

/* Runs until the program ends, or comes back to DEPTH. */
static void go_on(struct machine *m, u32 depth)
{
	u32 begun = m->depth;

	for (;;) {
		if (!m->stop && m->pc >= m->p->ninsns)
			violation(m, "past the end");
		if (m->bad || m->stop)
			break;
		if (m->ret->insns == m->opts->max_insns) {
			m->stop = m->ret->unfinished = true;
			break;
		}
		m->ret->insns++;
		if (!step(m) || (begun && m->depth == depth))
			break;
	}
}

void checked_run(const struct vm_prog *p, const struct vm_map *maps, size_t nmaps, const struct checked_opts *opts,
		 struct checked_result *ret)
{
	static struct machine m; /* too large for the stack */
	*ret = (struct checked_result){ 0 };
	m.p = p;
	m.maps = maps;
	m.nmaps = nmaps;
	m.opts = opts;
	m.ret = ret;
	m.nobj = OBJ_VALUES;
	m.depth = m.pc = 0;
	m.bad = m.stop = false;
	for (u32 i = 0; i < NREGS; i++) {
		m.r[i] = 0xdead000000000000ull + i;
		m.t[i].type = T_UNSET;
	}
	m.obj[OBJ_CTX] = (struct object){ .live = true, .base = (u64)(uintptr_t)&opts->frame->regs,
					  .size = sizeof(opts->frame->regs), .ctx = true };
	for (u32 d = 0; d < INSN_MAX_FRAMES; d++)
		m.obj[OBJ_STACK + d].live = false;
	m.r[1] = m.obj[OBJ_CTX].base;
	m.t[1] = (struct tag){ .type = T_PTR, .obj = OBJ_CTX };
	for (u32 d = 0; d < INSN_MAX_FRAMES; d++)
		m.obj[OBJ_KEY + d].live = false;
	calling = NULL;
	enter(&m, 0, 0);
	go_on(&m, 0);
	if (!m.bad)
		ret->pc = m.pc;
	ret->r0 = m.r[0];
}
