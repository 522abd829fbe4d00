/* SPDX-License-Identifier: MIT */
/*
 * Programs that nobody wrote, for both judges. Half come from the generator of
 * tests/vm/random; the others are made from those of the tables, by a few changes
 * each: a number, an offset, a register, a size, a comparison, an instruction
 * less, or one from another program. So they are near the line between what is
 * accepted and what is not, and use all that there is.
 * What names a thing outside of the program (a file descriptor, a helper that no
 * table uses) is left alone: there the two judges do not have the same world.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/vm/random/gen.h"
#include "tests/vm/verdict/verdict.h"

struct rng {
	u64 state;
};

/* splitmix64 */
static u64 rng_next(struct rng *r)
{
	u64 z = r->state += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static u32 below(struct rng *r, u32 n)
{
	return (u32)(rng_next(r) % n);
}

static bool is_wide(const struct bpf_insn *in)
{
	return in->code == (BPF_LD | BPF_IMM | BPF_DW);
}

static bool is_jump(const struct bpf_insn *in)
{
	u8 class = BPF_CLASS(in->code);

	return class == BPF_JMP || class == BPF_JMP32;
}

static bool is_call(const struct bpf_insn *in)
{
	return in->code == (BPF_JMP | BPF_CALL);
}

/* A program of the tables, but none on which we differ on purpose */
static void pick_program(struct rng *r, struct program *ret)
{
	const struct theme *t;
	const struct row *row;

	do {
		t = &themes[below(r, (u32)nthemes - 1)]; /* locks, the last, are not for tracing programs */
		row = &t->rows[below(r, (u32)t->nrows)];
	} while (row->strict || row->verdict == VERDICT_POLICY);
	program_expand(row, row->verdict ? 0 : !below(r, 4), ret);
	ret->theme = t->name;
}

/* Where instructions begin: a wide one's second half is none. */
static u32 pick_insn(struct rng *r, const struct program *p)
{
	u32 i = below(r, p->n);

	return i && is_wide(&p->insns[i - 1]) ? i - 1 : i;
}

static s32 near_number(struct rng *r, s32 v)
{
	static const s32 edges[] = { 0, 1, -1, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, INT32_MAX, INT32_MIN };

	switch (below(r, 6)) {
	case 0: return (s32)((u32)v + 1);
	case 1: return (s32)((u32)v - 1);
	case 2: return (s32)((u32)v + 8);
	case 3: return (s32)((u32)v - 8);
	case 4: return (s32)(0u - (u32)v);
	default: return edges[below(r, ARRAY_SIZE(edges))];
	}
}

/* Jumps mostly stay inside. */
static s16 near_offset(struct rng *r, const struct program *p, u32 at, s16 off)
{
	if (below(r, 8))
		return (s16)((s32)below(r, p->n) - (s32)at - 1);
	return (s16)near_number(r, off);
}

/* Only what means something in this instruction; now and then anything. */
static void change_numbers(struct rng *r, const struct program *p, u32 at)
{
	struct bpf_insn *in = &p->insns[at];
	u8 class = BPF_CLASS(in->code);
	bool memory = class == BPF_LDX || class == BPF_STX || class == BPF_ST;

	if (is_wide(in) && in->src_reg)
		in[1].imm = in->src_reg == BPF_PSEUDO_MAP_IDX_VALUE ? near_number(r, in[1].imm) : 0;
	else if (is_call(in) || (class == BPF_JMP && BPF_OP(in->code) == BPF_EXIT))
		return;
	else if (!below(r, 40))
		in->imm = near_number(r, in->imm);
	else if (is_jump(in) && (BPF_OP(in->code) == BPF_JA || BPF_SRC(in->code) == BPF_X || !below(r, 3)))
		in->off = near_offset(r, p, at, in->off);
	else if (memory && (class != BPF_ST || below(r, 2)))
		in->off = (s16)near_number(r, in->off);
	else if (is_wide(in) || class == BPF_ST || BPF_SRC(in->code) == BPF_K)
		in->imm = near_number(r, in->imm);
}

/* To one that some other instruction uses */
static void change_register(struct rng *r, const struct program *p, struct bpf_insn *in)
{
	const struct bpf_insn *model = &p->insns[pick_insn(r, p)];
	u32 reg = below(r, 10) ? (below(r, 2) && !is_wide(model) ? model->src_reg : model->dst_reg) : below(r, 11);
	u8 class = BPF_CLASS(in->code);
	bool has_source = class == BPF_LDX || class == BPF_STX || (class != BPF_ST && BPF_SRC(in->code) == BPF_X);

	if (is_call(in) || (is_jump(in) && (BPF_OP(in->code) == BPF_JA || BPF_OP(in->code) == BPF_EXIT)))
		return;
	if (!has_source || is_wide(in) || below(r, 2))
		in->dst_reg = reg & 15;
	else
		in->src_reg = reg & 15;
}

static void change_code(struct rng *r, struct bpf_insn *in)
{
	static const u8 alu[] = { BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD,
				  BPF_XOR, BPF_MOV, BPF_ARSH };
	static const u8 jumps[] = { BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET, BPF_JNE, BPF_JSGT, BPF_JSGE, BPF_JLT, BPF_JLE,
				    BPF_JSLT, BPF_JSLE };
	u8 class = BPF_CLASS(in->code);

	if (is_wide(in) || is_call(in) || (is_jump(in) && (BPF_OP(in->code) == BPF_JA || BPF_OP(in->code) == BPF_EXIT)))
		return;
	if (class == BPF_LDX || class == BPF_ST || class == BPF_STX)
		in->code = (u8)((in->code & ~0x18) | below(r, 4) << 3);
	else if (below(r, 3))
		in->code = (u8)((in->code & 0x0f) |
				(is_jump(in) ? jumps[below(r, ARRAY_SIZE(jumps))] : alu[below(r, ARRAY_SIZE(alu))]));
	else /* 32 bits instead of 64, or the other way round */
		in->code ^= is_jump(in) ? BPF_JMP ^ BPF_JMP32 : BPF_ALU ^ BPF_ALU64;
}

/* The same length: what cannot be left out becomes a jump to the next. */
static void leave_out(struct bpf_insn *in)
{
	bool wide = is_wide(in);

	if (in->code == (BPF_JMP | BPF_EXIT))
		return;
	for (u32 i = 0; i <= wide; i++)
		in[i] = (struct bpf_insn){ .code = BPF_JMP | BPF_JA };
}

static void take_from_another(struct rng *r, struct program *p, u32 at)
{
	struct bpf_insn insns[ROW_MAX + 2];
	struct program other = { .insns = insns };
	u32 from;

	pick_program(r, &other);
	from = pick_insn(r, &other);
	if (is_wide(&p->insns[at]) == is_wide(&insns[from]) &&
	    !(is_wide(&insns[from]) && insns[from].src_reg == BPF_PSEUDO_FUNC))
		memcpy(&p->insns[at], &insns[from], sizeof(insns[0]) * (1 + is_wide(&insns[from])));
}

static void exchange(struct program *p, u32 at)
{
	struct bpf_insn *in = &p->insns[at], tmp;

	if (at + 1 >= p->n || is_wide(in) || is_wide(in + 1) || is_jump(in) || is_jump(in + 1))
		return;
	tmp = in[0];
	in[0] = in[1];
	in[1] = tmp;
}

static void mutate(struct rng *r, struct program *p)
{
	u32 at = pick_insn(r, p);
	struct bpf_insn *in = &p->insns[at];

	switch (below(r, 8)) {
	case 0:
	case 1:
	case 2: change_numbers(r, p, at); break;
	case 3: change_register(r, p, in); break;
	case 4: change_code(r, in); break;
	case 5: leave_out(in); break;
	case 6: take_from_another(r, p, at); break;
	case 7: exchange(p, at); break;
	}
}

/* Twice the program, one behind the other: the first's ends lead to the second */
static void append_another(struct rng *r, struct program *p)
{
	struct bpf_insn insns[ROW_MAX + 2];
	struct program other = { .insns = insns };

	pick_program(r, &other);
	if (p->funcs || other.funcs)
		return;
	for (u32 i = 0; i < p->n; i++) {
		if (is_call(&p->insns[i]) && p->insns[i].src_reg)
			return;
		if (is_wide(&p->insns[i]) && p->insns[i++].src_reg == BPF_PSEUDO_FUNC)
			return;
	}
	for (u32 i = 0; i < p->n; i++)
		if (p->insns[i].code == (BPF_JMP | BPF_EXIT))
			p->insns[i] = (struct bpf_insn)JUMP((s16)(p->n - i - 1));
	/* r1 is the context again, as far as somebody kept it in r9 */
	memmove(p->insns + 1, p->insns, p->n * sizeof(insns[0]));
	p->insns[0] = (struct bpf_insn)MOV_REG(R9, R1);
	p->n++;
	p->insns[p->n++] = (struct bpf_insn)MOV_REG(R1, R9);
	memcpy(p->insns + p->n, insns, other.n * sizeof(insns[0]));
	p->n += other.n;
}

static void from_tables(u64 seed, u32 level, struct tally *t)
{
	struct bpf_insn insns[2 * (ROW_MAX + 2) + 4] = {};
	struct rng r = { seed * 0x2545f4914f6cdd1dull };
	struct program p = { .insns = insns };
	char name[64];

	pick_program(&r, &p);
	snprintf(name, sizeof(name), "%.30s, seed %llu", p.name, (unsigned long long)seed);
	p.name = name;
	if (!below(&r, 4))
		append_another(&r, &p);
	for (u32 k = 1 + !below(&r, 2) + !below(&r, 6); k; k--)
		mutate(&r, &p);
	compare(&p, level, t);
}

static void from_generator(u64 seed, u32 level, struct tally *t)
{
	static struct random_prog made;
	struct random_opts opts = { .maps = ours_maps(), .nmaps = M_LOCKED /* tracing programs may not have the others */, .flags = RANDOM_CLOCKS | RANDOM_ABSENT };
	struct program p = { .theme = "generated", .insns = made.insns };
	char name[64];

	random_program(seed, &opts, &made);
	snprintf(name, sizeof(name), "seed %llu", (unsigned long long)seed);
	p.name = name;
	p.n = made.n;
	compare(&p, level, t);
}

void random_compare(enum random_kind kind, u32 n, u64 seed, u32 level, struct tally *t)
{
	/* each has its own seed, so that one can be looked at alone */
	for (u32 i = 0; i < n; i++) {
		if (kind == RANDOM_CHANGED)
			from_tables(seed + i, level, t);
		else
			from_generator(seed + i, level, t);
	}
}
