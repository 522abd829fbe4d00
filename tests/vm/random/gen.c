/* SPDX-License-Identifier: MIT */
/*
 * Makes random programs (gen.h). While it emits, it keeps a rough idea of what
 * each register and stack byte holds, so that most instructions have operands
 * that suit them. The idea is never used to judge a program.
 */
#include <string.h>

#include "tests/vm/random/gen.h"
#include "vm/opcodes.h"

#define SLOTS 12 /* eight-byte words of stack that a function uses */
#define NREGS 10
#define NONE UINT32_MAX
#define LOOP_DEPTH 2

enum kind {
	K_NONE, /* unset, or better not touched */
	K_NUM,
	K_SMALL, /* a number in [0, bound] */
	K_CTX,
	K_FP,    /* fp + off */
	K_MEM,   /* at OFF into SIZE bytes that may be read and written */
	K_RDONLY,
};

struct val {
	u8 kind;
	s16 off;
	u16 size;
	u32 bound;
};

struct state {
	struct val reg[NREGS];
	struct val spill[SLOTS]; /* a pointer that the word holds */
	u8 set[8 * SLOTS];       /* bytes that hold numbers; [0] is fp - 8·SLOTS */
	u16 pinned;              /* registers that may not be written */
};

struct func {
	struct val arg[5];
	u32 nargs;
	u32 calls[8], ncalls;
};

struct gen {
	u64 rng;
	const u8 *data;
	size_t ndata;
	const struct random_opts *opts;
	struct random_prog *p;
	struct state s;
	struct func funcs[RANDOM_MAX_FUNCS];
	u32 nfuncs, func; /* made, being made */
	u32 loops;
	s32 budget;
	bool full;
};

/* --- choices --- */

static u64 rnd(struct gen *g)
{
	g->rng ^= g->rng << 13;
	g->rng ^= g->rng >> 7;
	g->rng ^= g->rng << 17;
	return g->rng * 0x2545f4914f6cdd1dull;
}

static u32 below(struct gen *g, u32 n)
{
	if (g->ndata) {
		g->ndata--;
		return *g->data++ % n;
	}
	return (u32)(rnd(g) >> 32) % n;
}

static bool one_in(struct gen *g, u32 n)
{
	return !below(g, n);
}

static s32 some_imm(struct gen *g)
{
	static const s32 edges[] = { 0, 1, -1, 2, 7, 8, 15, 31, 32, 63, 64, 127, 128, 255, 256, 4095, -8, 65535, INT32_MAX,
				     INT32_MIN };

	if (below(g, 3))
		return edges[below(g, ARRAY_SIZE(edges))];
	return (s32)rnd(g) >> below(g, 32);
}

/* --- emitting --- */

static u32 emit(struct gen *g, u8 code, u32 dst, u32 src, s32 off, s32 imm)
{
	if (g->p->n >= RANDOM_MAX_INSNS - 8)
		g->full = true;
	if (g->p->n >= RANDOM_MAX_INSNS)
		return 0;
	g->p->insns[g->p->n] = (struct bpf_insn){ .code = code, .dst_reg = dst, .src_reg = src, .off = (s16)off, .imm = imm };
	return g->p->n++;
}

static void mov_imm(struct gen *g, u32 reg, s32 imm)
{
	emit(g, BPF_ALU64 | BPF_MOV | BPF_K, reg, 0, 0, imm);
	g->s.reg[reg] = imm >= 0 ? (struct val){ .kind = K_SMALL, .bound = (u32)imm } : (struct val){ .kind = K_NUM };
}

static void mov_reg(struct gen *g, u32 dst, u32 src)
{
	if (dst == src)
		return;
	emit(g, BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
	g->s.reg[dst] = g->s.reg[src];
}

/* A conditional or other jump whose target is not known yet. */
static void land(struct gen *g, u32 jump)
{
	g->p->insns[jump].off = (s16)(g->p->n - jump - 1);
}

/* --- what there is --- */

static bool is_num(const struct val *v)
{
	return v->kind == K_NUM || v->kind == K_SMALL;
}

static bool writable(const struct gen *g, u32 reg)
{
	return !(g->s.pinned >> reg & 1);
}

static u32 some_dst(struct gen *g)
{
	u32 reg = below(g, NREGS);

	while (!writable(g, reg))
		reg = (reg + 1) % NREGS;
	return reg;
}

/* A register of one of KINDS (bits), or NONE. */
static u32 find_reg(struct gen *g, u32 kinds)
{
	u32 from = below(g, NREGS);

	for (u32 i = 0; i < NREGS; i++) {
		u32 reg = (from + i) % NREGS;

		if (kinds >> g->s.reg[reg].kind & 1)
			return reg;
	}
	return NONE;
}

#define NUMBERS (1u << K_NUM | 1u << K_SMALL)
#define POINTERS (1u << K_CTX | 1u << K_FP | 1u << K_MEM | 1u << K_RDONLY)

/* A number in a register; makes one if there is none. */
static u32 some_num(struct gen *g)
{
	u32 reg = one_in(g, 6) ? NONE : find_reg(g, NUMBERS);

	if (reg == NONE) {
		reg = some_dst(g);
		mov_imm(g, reg, some_imm(g));
	}
	return reg;
}

static void clobber(struct gen *g, struct val r0)
{
	for (u32 i = 1; i <= 5; i++)
		g->s.reg[i] = (struct val){ 0 };
	g->s.reg[0] = r0;
}

static const struct val number = { .kind = K_NUM };

/* --- stack --- */

static s32 fp_off(u32 byte)
{
	return (s32)byte - 8 * SLOTS;
}

static bool all_set(const struct gen *g, u32 byte, u32 n)
{
	for (u32 i = byte; i < byte + n; i++)
		if (!g->s.set[i])
			return false;
	return true;
}

static void set_bytes(struct gen *g, u32 byte, u32 n)
{
	memset(g->s.set + byte, 1, n);
	for (u32 slot = byte / 8; slot <= (byte + n - 1) / 8; slot++) {
		if (g->s.spill[slot].kind) { /* what was a pointer is not to be read as a number */
			memset(g->s.set + 8 * slot, 0, 8);
			g->s.spill[slot].kind = K_NONE;
			for (u32 i = byte; i < byte + n; i++)
				if (i / 8 == slot)
					g->s.set[i] = 1;
		}
	}
}

static void store_slot(struct gen *g, u32 slot)
{
	u32 reg = one_in(g, 2) ? find_reg(g, NUMBERS) : NONE;

	if (reg != NONE)
		emit(g, BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, reg, fp_off(8 * slot), 0);
	else
		emit(g, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, fp_off(8 * slot), one_in(g, 2) ? (s32)below(g, 8) : some_imm(g));
	set_bytes(g, 8 * slot, 8);
}

static const u8 sizes[] = { BPF_B, BPF_H, BPF_W, BPF_DW };

/* N bytes of stack, 8-aligned, that hold numbers; sets what is not. The first byte. */
static u32 buffer(struct gen *g, u32 n, bool set)
{
	u32 words = (n + 7) / 8, slot = below(g, SLOTS - words + 1);

	for (u32 i = slot; set && i < slot + words; i++)
		if (!all_set(g, 8 * i, 8))
			store_slot(g, i);
	return 8 * slot;
}

static void to_stack(struct gen *g, u32 reg, u32 byte)
{
	emit(g, BPF_ALU64 | BPF_MOV | BPF_X, reg, BPF_REG_10, 0, 0);
	emit(g, BPF_ALU64 | BPF_ADD | BPF_K, reg, 0, 0, fp_off(byte));
	g->s.reg[reg] = (struct val){ .kind = K_FP, .off = (s16)fp_off(byte) };
}

static void gen_stack(struct gen *g)
{
	u32 log = below(g, 4), size = 1u << log, byte = below(g, 8 * SLOTS) & ~(size - 1), reg;
	u32 base = BPF_REG_10, at;

	if (one_in(g, 5)) {
		base = some_dst(g);
		to_stack(g, base, 0);
		at = byte;
	} else {
		at = (u32)fp_off(byte);
	}
	switch (below(g, 3)) {
	case 0:
		emit(g, BPF_ST | BPF_MEM | sizes[log], base, 0, (s32)at, some_imm(g));
		set_bytes(g, byte, size);
		break;
	case 1:
		reg = some_num(g);
		if (g->s.reg[base % NREGS].kind != K_FP && base != BPF_REG_10)
			break;
		emit(g, BPF_STX | BPF_MEM | sizes[log], base, reg, (s32)at, 0);
		set_bytes(g, byte, size);
		break;
	default:
		if (!all_set(g, byte, size))
			break;
		reg = some_dst(g);
		emit(g, BPF_LDX | (one_in(g, 4) && log < 3 ? BPF_MEMSX : BPF_MEM) | sizes[log], reg, base, (s32)at, 0);
		g->s.reg[reg] = number;
	}
}

/* A pointer goes to the stack and comes back. */
static void gen_spill(struct gen *g)
{
	u32 slot = below(g, SLOTS), reg = find_reg(g, POINTERS), dst = some_dst(g);

	if (g->s.spill[slot].kind) {
		emit(g, BPF_LDX | BPF_MEM | BPF_DW, dst, BPF_REG_10, fp_off(8 * slot), 0);
		g->s.reg[dst] = g->s.spill[slot];
	} else if (reg != NONE && !(g->loops && all_set(g, 8 * slot, 1))) {
		emit(g, BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, reg, fp_off(8 * slot), 0);
		set_bytes(g, 8 * slot, 8);
		memset(g->s.set + 8 * slot, 0, 8);
		g->s.spill[slot] = g->s.reg[reg];
	}
}

/* A byte of the stack by a number as index. */
static void gen_stack_index(struct gen *g)
{
	u32 idx = some_num(g), byte = buffer(g, 16, true), ptr;

	ptr = some_dst(g);
	if (ptr == idx || !writable(g, idx))
		return;
	emit(g, BPF_ALU64 | BPF_AND | BPF_K, idx, 0, 0, 15);
	g->s.reg[idx] = (struct val){ .kind = K_SMALL, .bound = 15 };
	to_stack(g, ptr, byte);
	emit(g, BPF_ALU64 | BPF_ADD | BPF_X, ptr, idx, 0, 0);
	g->s.reg[ptr] = (struct val){ 0 };
	if (one_in(g, 2)) {
		emit(g, BPF_ST | BPF_MEM | BPF_B, ptr, 0, 0, some_imm(g));
	} else {
		emit(g, BPF_LDX | BPF_MEM | BPF_B, ptr, ptr, 0, 0);
		g->s.reg[ptr] = number;
	}
}

/* --- arithmetic --- */

static void gen_alu(struct gen *g)
{
	static const u8 ops[] = { BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD,
				  BPF_XOR, BPF_MOV, BPF_ARSH, BPF_ADD, BPF_AND };
	u8 op = ops[below(g, ARRAY_SIZE(ops))], class = one_in(g, 2) ? BPF_ALU : BPF_ALU64;
	bool divides = op == BPF_DIV || op == BPF_MOD, shifts = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;
	s32 off = divides && one_in(g, 3), imm = some_imm(g);
	u32 dst = some_num(g), src;

	if (!writable(g, dst))
		return;
	if (one_in(g, 2)) {
		src = some_num(g);
		if (!is_num(&g->s.reg[dst]))
			return;
		emit(g, class | op | BPF_X, dst, src, off, 0);
		g->s.reg[dst] = op == BPF_MOV ? g->s.reg[src] : number;
		return;
	}
	if (shifts)
		imm = (s32)below(g, class == BPF_ALU64 ? 64 : 32);
	if (divides && !imm)
		imm = 3;
	emit(g, class | op | BPF_K, dst, 0, off, imm);
	if ((op == BPF_AND || op == BPF_MOV) && imm >= 0)
		g->s.reg[dst] = (struct val){ .kind = K_SMALL, .bound = (u32)imm };
	else
		g->s.reg[dst] = number;
}

static void gen_unary(struct gen *g)
{
	static const s32 widths[] = { 16, 32, 64 };
	u32 dst = some_num(g), src;

	if (!writable(g, dst))
		return;
	switch (below(g, 4)) {
	case 0:
		emit(g, (one_in(g, 2) ? BPF_ALU : BPF_ALU64) | BPF_NEG, dst, 0, 0, 0);
		break;
	case 1:
		emit(g, BPF_ALU | BPF_END | (one_in(g, 2) ? BPF_TO_LE : BPF_TO_BE), dst, 0, 0, widths[below(g, 3)]);
		break;
	case 2:
		emit(g, BPF_ALU64 | BPF_END, dst, 0, 0, widths[below(g, 3)]);
		break;
	default:
		src = some_num(g);
		emit(g, BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 8 << (s32)below(g, 3), 0);
	}
	g->s.reg[dst] = number;
}

static void gen_const(struct gen *g)
{
	u32 reg = some_dst(g);

	if (one_in(g, 3)) {
		emit(g, BPF_LD | BPF_IMM | BPF_DW, reg, 0, 0, some_imm(g));
		emit(g, 0, 0, 0, 0, some_imm(g));
		g->s.reg[reg] = number;
	} else {
		mov_imm(g, reg, some_imm(g));
	}
}

static void gen_ctx(struct gen *g)
{
	u32 ctx = find_reg(g, 1u << K_CTX), log = below(g, 4), dst = some_dst(g);

	if (ctx == NONE)
		return;
	if (one_in(g, 2))
		log = 3;
	emit(g, BPF_LDX | BPF_MEM | sizes[log], dst, ctx, (s32)(below(g, 168) & ~((1u << log) - 1)), 0);
	g->s.reg[dst] = number;
}

/* --- memory by pointers --- */

static void atomic(struct gen *g, u32 base, s32 off, u8 size)
{
	static const s32 ops[] = { BPF_ADD, BPF_ADD | BPF_FETCH, BPF_OR, BPF_OR | BPF_FETCH, BPF_AND, BPF_AND | BPF_FETCH,
				   BPF_XOR, BPF_XOR | BPF_FETCH, BPF_XCHG, BPF_CMPXCHG };
	s32 op = ops[below(g, ARRAY_SIZE(ops))];
	u32 src = some_num(g);

	if (base != BPF_REG_10 && g->s.reg[base].kind != K_MEM)
		return; /* the number took its place */
	if (op & BPF_FETCH && op != BPF_CMPXCHG && !writable(g, src))
		return;
	if (op == BPF_CMPXCHG && base != BPF_REG_0 && !is_num(&g->s.reg[0]))
		mov_imm(g, BPF_REG_0, some_imm(g));
	if (op == BPF_CMPXCHG && (base == BPF_REG_0 || !writable(g, BPF_REG_0)))
		return;
	emit(g, BPF_STX | BPF_ATOMIC | size, base, src, off, op);
	if (op == BPF_CMPXCHG)
		g->s.reg[0] = number;
	else if (op & BPF_FETCH)
		g->s.reg[src] = number;
}

/* One access through BASE, at a constant offset into what it points at. */
static void access(struct gen *g, u32 base)
{
	struct val v = g->s.reg[base];
	u32 log = below(g, 4), size = 1u << log, reg;
	s32 off;

	while (size > v.size) {
		log--;
		size /= 2;
	}
	off = (s32)(below(g, v.size - size + 1)) - v.off;
	if (below(g, 4))
		off = (s32)ALIGN_DOWN((u32)(off + v.off), size) - v.off;
	switch (v.kind == K_RDONLY ? 3 : below(g, 5)) {
	case 0:
		emit(g, BPF_ST | BPF_MEM | sizes[log], base, 0, off, some_imm(g));
		break;
	case 1:
		reg = some_num(g);
		if (g->s.reg[base].kind == v.kind)
			emit(g, BPF_STX | BPF_MEM | sizes[log], base, reg, off, 0);
		break;
	case 2:
		if (v.size >= 8)
			atomic(g, base, (s32)ALIGN_DOWN((u32)(off + v.off), 8) + 8 > v.size ? -v.off :
				(s32)ALIGN_DOWN((u32)(off + v.off), 8) - v.off, one_in(g, 3) ? BPF_W : BPF_DW);
		break;
	default:
		reg = some_dst(g);
		emit(g, BPF_LDX | (one_in(g, 4) && log < 3 ? BPF_MEMSX : BPF_MEM) | sizes[log], reg, base, off, 0);
		g->s.reg[reg] = number;
	}
}

static void gen_access(struct gen *g)
{
	u32 base = find_reg(g, 1u << K_MEM | 1u << K_RDONLY);

	if (base != NONE && g->s.reg[base].size)
		access(g, base);
}

/* p += a number that is bounded first, then an access that just fits (or ought to). */
static void gen_index(struct gen *g)
{
	u32 base = find_reg(g, 1u << K_MEM | 1u << K_RDONLY), log = below(g, 4), idx, ptr, jump = NONE, mask;
	struct val v;

	if (base == NONE || g->s.reg[base].off)
		return;
	v = g->s.reg[base];
	idx = some_num(g);
	ptr = some_dst(g);
	if (g->s.reg[base].kind != v.kind || ptr == idx || ptr == base || v.size < 8)
		return;
	mask = v.size - (1u << log);
	switch (below(g, 4)) {
	case 0: /* a power of two less one */
		if (!writable(g, idx))
			return;
		while (mask & (mask + 1))
			mask &= mask - 1;
		for (mask = 1; 2 * mask + (1u << log) <= v.size; mask *= 2)
			;
		emit(g, BPF_ALU64 | BPF_AND | BPF_K, idx, 0, 0, (s32)(mask - 1));
		g->s.reg[idx] = (struct val){ .kind = K_SMALL, .bound = mask - 1 };
		break;
	case 1:
		jump = emit(g, BPF_JMP | BPF_JGT | BPF_K, idx, 0, 0, (s32)mask);
		break;
	case 2: /* in 32 bits, of a number that is extended */
		if (!writable(g, idx))
			return;
		emit(g, BPF_ALU | BPF_MOV | BPF_X, idx, idx, 0, 0);
		jump = emit(g, BPF_JMP32 | BPF_JGE | BPF_K, idx, 0, 0, (s32)mask + 1);
		break;
	default: /* signed, from both sides */
		emit(g, BPF_JMP | BPF_JSLT | BPF_K, idx, 0, 1, 0);
		jump = emit(g, BPF_JMP | BPF_JSLE | BPF_K, idx, 0, 1, (s32)mask);
		jump = emit(g, BPF_JMP | BPF_JA, 0, 0, 0, 0);
	}
	emit(g, BPF_ALU64 | BPF_MOV | BPF_X, ptr, base, 0, 0);
	emit(g, BPF_ALU64 | BPF_ADD | BPF_X, ptr, idx, 0, 0);
	if (v.kind == K_RDONLY || one_in(g, 2))
		emit(g, BPF_LDX | BPF_MEM | sizes[log], ptr, ptr, 0, 0);
	else
		emit(g, BPF_ST | BPF_MEM | sizes[log], ptr, 0, 0, some_imm(g));
	g->s.reg[ptr] = (struct val){ 0 };
	if (jump != NONE)
		land(g, jump);
}

/* --- maps --- */

static bool is_array(const struct umap *m)
{
	return m->type == UMAP_ARRAY || m->type == UMAP_PERCPU_ARRAY;
}

/* A map that can be looked up and changed, or NONE. */
static u32 some_map(struct gen *g)
{
	u32 from = below(g, g->opts->nmaps);

	for (u32 i = 0; i < g->opts->nmaps; i++) {
		u32 m = (from + i) % g->opts->nmaps;
		u32 type = g->opts->maps[m].type;

		if ((is_array(&g->opts->maps[m]) || type == UMAP_HASH || type == UMAP_PERCPU_HASH) &&
		    !(g->opts->maps[m].map_flags & BPF_F_WRONLY_PROG) && g->opts->maps[m].key_size <= 16 &&
		    g->opts->maps[m].value_size <= 8 * SLOTS)
			return m;
	}
	return NONE;
}

static bool read_only(const struct umap *m)
{
	return m->frozen || m->map_flags & BPF_F_RDONLY_PROG;
}

static void load_map(struct gen *g, u32 reg, u32 map)
{
	emit(g, BPF_LD | BPF_IMM | BPF_DW, reg, INSN_PSEUDO_MAP_IDX, 0, (s32)map);
	emit(g, 0, 0, 0, 0, 0);
	g->s.reg[reg] = (struct val){ 0 };
}

/* The map into r1, a key of it into r2: numbers that are there often. */
static void load_key(struct gen *g, u32 map)
{
	const struct umap *m = &g->opts->maps[map];
	u32 byte = buffer(g, m->key_size, !one_in(g, 3)), num = find_reg(g, NUMBERS);
	s32 at = fp_off(byte);

	if (m->key_size == 4 && num != NONE && one_in(g, 3))
		emit(g, BPF_STX | BPF_MEM | BPF_W, BPF_REG_10, num, at, 0);
	else if (m->key_size == 4)
		emit(g, BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, at, (s32)below(g, m->max_entries < 8 ? m->max_entries + 1 : 8));
	else
		for (u32 i = 0; i < (m->key_size + 7) / 8; i++)
			emit(g, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, at + 8 * (s32)i, (s32)below(g, 6));
	set_bytes(g, byte, m->key_size == 4 ? 4 : ALIGN_UP(m->key_size, 8));
	load_map(g, BPF_REG_1, map);
	to_stack(g, BPF_REG_2, byte);
}

static void gen_lookup(struct gen *g)
{
	u32 map = some_map(g), jump, keep;
	const struct umap *m;
	struct state before;

	if (map == NONE)
		return;
	m = &g->opts->maps[map];
	load_key(g, map);
	emit(g, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem);
	clobber(g, (struct val){ 0 });
	if (one_in(g, 2)) /* the other way round */
		jump = emit(g, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 0, 0);
	else {
		emit(g, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_0, 0, 1, 0);
		jump = emit(g, BPF_JMP | BPF_JA, 0, 0, 0, 0);
	}
	before = g->s;
	g->s.reg[0] = (struct val){ .kind = read_only(m) ? K_RDONLY : K_MEM, .size = (u16)m->value_size };
	if (one_in(g, 2)) {
		keep = BPF_REG_6 + below(g, 4);
		if (writable(g, keep))
			mov_reg(g, keep, BPF_REG_0);
	}
	for (u32 n = 1 + below(g, 4); n; n--) {
		if (one_in(g, 3))
			gen_index(g);
		else
			gen_access(g);
	}
	land(g, jump);
	for (u32 i = 0; i < NREGS; i++) /* what both ways have in common */
		if (g->s.reg[i].kind != before.reg[i].kind || g->s.reg[i].size != before.reg[i].size)
			g->s.reg[i] = is_num(&g->s.reg[i]) && is_num(&before.reg[i]) ? number : (struct val){ 0 };
	for (u32 i = 0; i < sizeof(before.set); i++)
		g->s.set[i] &= before.set[i];
	for (u32 i = 0; i < SLOTS; i++)
		if (g->s.spill[i].kind != before.spill[i].kind)
			g->s.spill[i].kind = K_NONE;
}

static void gen_update(struct gen *g)
{
	u32 map = some_map(g), byte;
	const struct umap *m;

	if (map == NONE || read_only(&g->opts->maps[map]))
		return;
	m = &g->opts->maps[map];
	if (one_in(g, 3)) {
		load_key(g, map);
		emit(g, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_delete_elem);
	} else {
		byte = buffer(g, m->value_size, true);
		load_key(g, map);
		to_stack(g, BPF_REG_3, byte);
		if (!all_set(g, byte, m->value_size)) /* the key's way of setting it left a part */
			for (u32 i = 0; i < (m->value_size + 7) / 8; i++)
				store_slot(g, byte / 8 + i);
		mov_imm(g, BPF_REG_4, below(g, 3) ? 0 : (s32)below(g, 3));
		emit(g, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_update_elem);
	}
	clobber(g, number);
}

/* The address of a global variable. */
static void gen_global(struct gen *g)
{
	u32 from = below(g, g->opts->nmaps), reg = some_dst(g), off;

	for (u32 i = 0; i < g->opts->nmaps; i++) {
		u32 map = (from + i) % g->opts->nmaps;
		const struct umap *m = &g->opts->maps[map];

		if (m->type != UMAP_ARRAY || m->map_flags & BPF_F_WRONLY_PROG || m->max_entries != 1)
			continue;
		off = one_in(g, 2) ? 0 : ALIGN_DOWN(below(g, m->value_size), 8);
		emit(g, BPF_LD | BPF_IMM | BPF_DW, reg, INSN_PSEUDO_MAP_IDX_VALUE, 0, (s32)map);
		emit(g, 0, 0, 0, 0, (s32)off);
		g->s.reg[reg] = (struct val){ .kind = read_only(m) ? K_RDONLY : K_MEM, .size = (u16)(m->value_size - off) };
		return;
	}
}

/* A pointer moves within what it points at. */
static void gen_move(struct gen *g)
{
	u32 reg = find_reg(g, 1u << K_MEM | 1u << K_RDONLY);
	s32 to;

	if (reg == NONE || !writable(g, reg) || !g->s.reg[reg].size)
		return;
	to = (s32)below(g, g->s.reg[reg].size);
	emit(g, BPF_ALU64 | BPF_ADD | BPF_K, reg, 0, 0, to - g->s.reg[reg].off);
	g->s.reg[reg].off = (s16)to;
}

/* --- other helpers --- */

static void gen_helper(struct gen *g)
{
	static const u32 steady[] = { BPF_FUNC_get_current_pid_tgid, BPF_FUNC_get_current_uid_gid };
	static const u32 moving[] = { BPF_FUNC_ktime_get_ns, BPF_FUNC_get_prandom_u32, BPF_FUNC_get_smp_processor_id,
				      BPF_FUNC_ktime_get_boot_ns };
	u32 ctx = find_reg(g, 1u << K_CTX), id = steady[below(g, ARRAY_SIZE(steady))];

	if (g->opts->flags & RANDOM_CLOCKS && one_in(g, 2)) {
		id = moving[below(g, ARRAY_SIZE(moving))];
	} else if (ctx != NONE && one_in(g, 2)) {
		mov_reg(g, BPF_REG_1, ctx);
		id = one_in(g, 2) ? BPF_FUNC_get_attach_cookie : BPF_FUNC_get_func_ip;
	}
	emit(g, BPF_JMP | BPF_CALL, 0, 0, 0, (s32)id);
	clobber(g, number);
}

/* probe_read and get_current_comm: a buffer, its size, constant or bounded. */
static void gen_probe_read(struct gen *g)
{
	static const u32 ids[] = { BPF_FUNC_probe_read, BPF_FUNC_probe_read_user, BPF_FUNC_probe_read_kernel,
				   BPF_FUNC_probe_read_user_str, BPF_FUNC_probe_read_str };
	u32 id = ids[below(g, ARRAY_SIZE(ids))], n = 1 + below(g, 24), byte, src, size;
	bool comm = one_in(g, 5), bounded = one_in(g, 3);

	src = find_reg(g, NUMBERS);
	if (src == NONE)
		return;
	byte = buffer(g, n, id >= BPF_FUNC_probe_read_user_str || id == BPF_FUNC_probe_read_str || bounded);
	if (bounded) {
		size = find_reg(g, NUMBERS);
		if (size == NONE || !is_num(&g->s.reg[src]))
			return;
		mov_reg(g, BPF_REG_3, src);
		mov_reg(g, BPF_REG_2, size);
		emit(g, BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 7);
		if (comm)
			emit(g, BPF_ALU64 | BPF_OR | BPF_K, BPF_REG_2, 0, 0, 1);
		n = 8;
	} else {
		mov_reg(g, BPF_REG_3, src);
		mov_imm(g, BPF_REG_2, (s32)n);
	}
	to_stack(g, BPF_REG_1, byte);
	emit(g, BPF_JMP | BPF_CALL, 0, 0, 0, comm ? BPF_FUNC_get_current_comm : (s32)id);
	if (!bounded)
		set_bytes(g, byte, n);
	clobber(g, number);
}

/* A record from reserving to submitting it. */
static void gen_ringbuf(struct gen *g)
{
	u32 map = NONE, jump;

	for (u32 i = 0; i < g->opts->nmaps; i++)
		if (g->opts->maps[i].type == BPF_MAP_TYPE_RINGBUF)
			map = i;
	if (map == NONE)
		return;
	load_map(g, BPF_REG_1, map);
	mov_imm(g, BPF_REG_2, 16);
	mov_imm(g, BPF_REG_3, 0);
	emit(g, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ringbuf_reserve);
	clobber(g, (struct val){ 0 });
	jump = emit(g, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 0, 0);
	emit(g, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_0, 0, 0, some_imm(g));
	emit(g, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_0, 0, 8, some_imm(g));
	emit(g, BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_0, 0, 0);
	mov_imm(g, BPF_REG_2, 0);
	emit(g, BPF_JMP | BPF_CALL, 0, 0, 0, one_in(g, 3) ? BPF_FUNC_ringbuf_discard : BPF_FUNC_ringbuf_submit);
	clobber(g, (struct val){ 0 });
	land(g, jump);
}

/* --- control --- */

static void gen_block(struct gen *g, u32 units);

static u32 cond_jump(struct gen *g)
{
	static const u8 ops[] = { BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JSGT, BPF_JSGE, BPF_JLT, BPF_JLE,
				  BPF_JSLT, BPF_JSLE };
	u8 class = one_in(g, 2) ? BPF_JMP32 : BPF_JMP, op = ops[below(g, ARRAY_SIZE(ops))];
	u32 a = some_num(g), b;

	if (below(g, 3))
		return emit(g, class | op | BPF_K, a, 0, 0, some_imm(g));
	b = some_num(g);
	if (!is_num(&g->s.reg[a]))
		a = b;
	return emit(g, class | op | BPF_X, a, b, 0, 0);
}

static void merge(struct gen *g, const struct state *other)
{
	for (u32 i = 0; i < NREGS; i++) {
		struct val *v = &g->s.reg[i];
		const struct val *w = &other->reg[i];

		if (is_num(v) && is_num(w))
			*v = number;
		else if (v->kind != w->kind || v->off != w->off || v->size != w->size)
			v->kind = K_NONE;
	}
	for (u32 i = 0; i < SLOTS; i++) {
		struct val *v = &g->s.spill[i];
		const struct val *w = &other->spill[i];

		if (v->kind != w->kind || v->off != w->off || v->size != w->size)
			v->kind = K_NONE;
	}
	for (u32 i = 0; i < sizeof(g->s.set); i++)
		g->s.set[i] &= other->set[i];
}

static void leave(struct gen *g)
{
	u32 num = find_reg(g, NUMBERS);

	if (num == NONE)
		mov_imm(g, BPF_REG_0, some_imm(g));
	else
		mov_reg(g, BPF_REG_0, num);
	emit(g, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static void gen_if(struct gen *g)
{
	u32 jump = cond_jump(g), over;
	struct state before = g->s, then;

	gen_block(g, 1 + below(g, 5));
	if (one_in(g, 8)) { /* this way ends here */
		u16 pinned = g->s.pinned;

		g->s.pinned = 0;
		leave(g);
		g->s = before;
		g->s.pinned = pinned;
		land(g, jump);
		return;
	}
	if (one_in(g, 2)) {
		land(g, jump);
		merge(g, &before);
		return;
	}
	over = emit(g, BPF_JMP | BPF_JA, 0, 0, 0, 0);
	land(g, jump);
	then = g->s;
	g->s = before;
	gen_block(g, 1 + below(g, 5));
	land(g, over);
	merge(g, &then);
}

static void gen_loop(struct gen *g)
{
	u32 count = BPF_REG_6 + below(g, 4), turns = 1 + below(g, one_in(g, 4) ? 60 : 8), head;
	u16 pinned = g->s.pinned;

	if (g->loops == LOOP_DEPTH || !writable(g, count))
		return;
	if (g->loops)
		turns = 1 + turns % 5;
	mov_imm(g, count, 0);
	g->s.pinned |= 1u << count;
	for (u32 r = BPF_REG_6; r < NREGS; r++)
		if (one_in(g, 2) && g->s.reg[r].kind)
			g->s.pinned |= 1u << r;
	if ((g->s.pinned & 0x3c0) == 0x3c0) /* leave one to work with */
		g->s.pinned &= ~(1u << (count == BPF_REG_9 ? BPF_REG_8 : BPF_REG_9)) | pinned;
	for (u32 r = 0; r < NREGS; r++)
		if (writable(g, r))
			g->s.reg[r] = (struct val){ 0 };
	for (u32 i = 0; i < SLOTS; i++)
		if (g->s.spill[i].kind)
			g->s.spill[i].kind = K_NONE;
	g->s.reg[count] = number;
	head = g->p->n;
	g->loops++;
	gen_block(g, 1 + below(g, 6));
	g->loops--;
	g->s.pinned = pinned;
	emit(g, BPF_ALU64 | BPF_ADD | BPF_K, count, 0, 0, 1);
	emit(g, (one_in(g, 3) ? BPF_JMP32 : BPF_JMP) | (one_in(g, 4) ? BPF_JNE : BPF_JLT) | BPF_K, count, 0,
	     (s32)head - (s32)g->p->n - 1, (s32)turns);
}

static bool same_args(const struct func *f, const struct func *want)
{
	for (u32 i = 0; i < 5; i++)
		if (f->arg[i].kind != want->arg[i].kind || f->arg[i].size != want->arg[i].size || f->arg[i].off != want->arg[i].off)
			return false;
	return f->ncalls < ARRAY_SIZE(f->calls);
}

/* A call; the function is made afterwards, for these arguments. Functions call
 * only those behind them. */
static void gen_call(struct gen *g)
{
	struct func want = { .nargs = 0 };
	u32 to = NONE, reg, byte;

	for (u32 i = 0; i < 4 && below(g, 4); i++) {
		u32 dst = BPF_REG_1 + i;

		if (one_in(g, 4)) { /* a word of the own stack */
			byte = buffer(g, 8, true);
			to_stack(g, dst, byte);
			want.arg[i] = (struct val){ .kind = K_MEM, .size = 8 };
		} else {
			reg = BPF_REG_6 + below(g, 4);
			if (!g->s.reg[reg].kind || g->s.reg[reg].kind == K_FP) {
				mov_imm(g, dst, some_imm(g));
			} else {
				mov_reg(g, dst, reg);
			}
			want.arg[i] = g->s.reg[dst];
			if (is_num(&want.arg[i]))
				want.arg[i] = number;
		}
		want.nargs++;
	}
	for (u32 i = g->func + 1; i < g->nfuncs; i++)
		if (same_args(&g->funcs[i], &want))
			to = i;
	if (to == NONE) {
		if (g->nfuncs == RANDOM_MAX_FUNCS)
			return;
		to = g->nfuncs++;
		g->funcs[to] = want;
	}
	g->funcs[to].calls[g->funcs[to].ncalls++] = emit(g, BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0);
	clobber(g, number);
}

static void gen_unit(struct gen *g)
{
	static void (*const units[])(struct gen *) = {
		gen_alu, gen_alu, gen_alu, gen_alu, gen_unary, gen_const, gen_const, gen_stack, gen_stack, gen_stack,
		gen_spill, gen_stack_index, gen_ctx, gen_ctx, gen_access, gen_access, gen_index, gen_index, gen_lookup,
		gen_lookup, gen_lookup, gen_update, gen_global, gen_move, gen_helper, gen_probe_read, gen_if, gen_if, gen_if,
		gen_loop, gen_call,
	};

	if (g->opts->flags & RANDOM_ABSENT && one_in(g, 25))
		gen_ringbuf(g);
	else
		units[below(g, ARRAY_SIZE(units))](g);
}

static void gen_block(struct gen *g, u32 n)
{
	while (n-- && g->budget > 0 && !g->full) {
		g->budget--;
		gen_unit(g);
	}
}

static void gen_func(struct gen *g)
{
	const struct func *f = &g->funcs[g->func];

	memset(&g->s, 0, sizeof(g->s));
	for (u32 i = 0; i < 5; i++)
		g->s.reg[BPF_REG_1 + i] = f->arg[i];
	g->p->funcs[g->func] = g->p->n;
	g->loops = 0;
	g->budget = g->func ? 8 : 6 + (s32)below(g, one_in(g, 4) ? 70 : 25);
	if (g->s.reg[1].kind && below(g, 8))
		mov_reg(g, BPF_REG_6, BPF_REG_1);
	gen_block(g, (u32)g->budget);
	if (g->p->n < RANDOM_MAX_INSNS - 40) { /* all numbers make the result */
		u32 sum = BPF_REG_0;

		if (!is_num(&g->s.reg[0]))
			mov_imm(g, BPF_REG_0, 1);
		for (u32 r = 1; r < NREGS; r++) {
			if (!is_num(&g->s.reg[r]))
				continue;
			emit(g, BPF_ALU64 | BPF_MUL | BPF_K, sum, 0, 0, 31);
			emit(g, BPF_ALU64 | BPF_ADD | BPF_X, sum, r, 0, 0);
		}
		for (u32 i = 0; i < SLOTS; i++) {
			if (!all_set(g, 8 * i, 8) || !one_in(g, 2))
				continue;
			emit(g, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_10, fp_off(8 * i), 0);
			emit(g, BPF_ALU64 | BPF_XOR | BPF_X, sum, BPF_REG_1, 0, 0);
		}
	} else {
		mov_imm(g, BPF_REG_0, 0);
	}
	emit(g, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* --- making it wrong --- */

static void mutate_jump(struct gen *g, struct bpf_insn *i)
{
	static const u8 ops[] = { BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JSGT, BPF_JSGE, BPF_JLT, BPF_JLE,
				  BPF_JSLT, BPF_JSLE };

	switch (below(g, 4)) {
	case 0:
		i->code = (i->code & ~0xf0) | ops[below(g, ARRAY_SIZE(ops))];
		break;
	case 1:
		i->code ^= BPF_JMP ^ BPF_JMP32;
		break;
	case 2:
		i->off += (s16)below(g, 5) - 2;
		break;
	default:
		i->imm = (s32)((u32)i->imm + below(g, 17) - 8);
	}
}

static void mutate(struct gen *g)
{
	u32 at = below(g, 256) * g->p->n / 256;
	struct bpf_insn *i;

	if (at && g->p->insns[at - 1].code == (BPF_LD | BPF_IMM | BPF_DW))
		at--;
	i = &g->p->insns[at];
	g->p->mutated = at;
	if (i->code == (BPF_JMP | BPF_EXIT))
		return;
	if (i->code == (BPF_LD | BPF_IMM | BPF_DW)) {
		i->imm = (s32)((u32)i->imm + below(g, 3) - 1);
		return;
	}
	if ((BPF_CLASS(i->code) == BPF_JMP || BPF_CLASS(i->code) == BPF_JMP32) && BPF_OP(i->code) != BPF_CALL &&
	    BPF_OP(i->code) != BPF_JA && one_in(g, 2)) {
		mutate_jump(g, i);
		return;
	}
	switch (below(g, 8)) {
	case 0: /* gone */
		*i = (struct bpf_insn){ .code = BPF_JMP | BPF_JA };
		break;
	case 1:
		i->dst_reg = below(g, 11);
		break;
	case 2:
		i->src_reg = below(g, 11);
		break;
	case 3:
		i->off += (s16)(one_in(g, 2) ? 8 : 1) * (one_in(g, 2) ? 1 : -1);
		break;
	case 4:
		i->imm = (s32)((u32)i->imm + (one_in(g, 2) ? 8u : 1u) * (one_in(g, 2) ? 1u : -1u));
		break;
	case 5:
		i->imm = some_imm(g);
		break;
	case 6:
		if (BPF_CLASS(i->code) == BPF_ALU64 || BPF_CLASS(i->code) == BPF_ALU)
			i->code ^= BPF_ALU64 ^ BPF_ALU;
		else if (BPF_CLASS(i->code) != BPF_JMP && BPF_CLASS(i->code) != BPF_JMP32)
			i->code = (i->code & ~0x18) | sizes[below(g, 4)];
		break;
	default: /* what comes later comes now */
		if (at + 2 < g->p->n && i[1].code != (BPF_LD | BPF_IMM | BPF_DW) && BPF_CLASS(i->code) < BPF_JMP &&
		    BPF_CLASS(i[1].code) < BPF_JMP) {
			struct bpf_insn t = i[0];

			i[0] = i[1];
			i[1] = t;
		}
	}
}

static void make(struct gen *g)
{
	struct random_prog *p = g->p;

	p->n = 0;
	p->mutated = NONE;
	memset(p->funcs, 0, sizeof(p->funcs));
	g->nfuncs = 1;
	g->funcs[0].arg[0] = (struct val){ .kind = K_CTX };
	for (g->func = 0; g->func < g->nfuncs; g->func++)
		gen_func(g);
	p->nfuncs = g->nfuncs;
	for (u32 f = 1; f < g->nfuncs; f++)
		for (u32 i = 0; i < g->funcs[f].ncalls; i++) {
			u32 at = g->funcs[f].calls[i];

			p->insns[at].imm = (s32)(p->funcs[f] - at - 1);
		}
	if (!(g->opts->flags & RANDOM_RIGHT) && one_in(g, 2))
		mutate(g);
}

void random_program(u64 seed, const struct random_opts *opts, struct random_prog *ret)
{
	struct gen g = { .rng = (seed + 1) * 0x9e3779b97f4a7c15ull, .opts = opts, .p = ret };

	for (u32 i = 0; i < 4; i++)
		rnd(&g);
	make(&g);
}

void random_program_from(const u8 *data, size_t n, const struct random_opts *opts, struct random_prog *ret)
{
	struct gen g = { .rng = 0x9e3779b97f4a7c15ull + n, .data = data, .ndata = n, .opts = opts, .p = ret };

	make(&g);
}
