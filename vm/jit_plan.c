/* SPDX-License-Identifier: MIT */
/*
 * What is emitted together. BPF has two operands and bare addresses; x86-64 has
 * three-operand forms, addresses that add and scale, memory operands, rotates
 * and conditional moves. Here straight runs of instructions are matched against
 * such forms: the first of a group (or the jump, if it has one) leads and is
 * emitted for all, the others are marked AT_SKIP. A temporary may be dropped only
 * where find_live() says that nobody needs it afterwards.
 *
 * A group never reaches across a jump target. Selections (a jump over one move)
 * come first: once they are no jumps, what they jumped to is no target.
 */
#include "vm/jit_internal.h"

static const struct bpf_insn *insn_at(const struct jit *j, u32 i)
{
	return &j->insns[i];
}

/* The next instruction to be emitted after I, if control can only come to it
 * from there; else NO_INSN. I is no jump, or one that is not taken. */
static u32 next(const struct jit *j, u32 i)
{
	for (u32 k = i + 1; k < j->n; k++) {
		if (j->at[k] & (AT_TARGET | AT_FUNC))
			return NO_INSN;
		if (!(j->at[k] & (AT_SKIP | AT_SECOND)))
			return k;
	}
	return NO_INSN;
}

static void skip(struct jit *j, u32 i)
{
	j->at[i] |= AT_SKIP;
}

static bool is_free(const struct jit *j, u32 i)
{
	return i != NO_INSN && j->steps[i].fuse == FUSE_NONE && j->steps[i].load == NO_INSN;
}

static bool is_jump(const struct jit *j, u32 i)
{
	return i != NO_INSN && opcodes[j->ids[i]].form == FORM_JUMP;
}

/* Whether nobody needs R after the jump at K, wherever it leads. */
static bool dead_after_jump(const struct jit *j, u32 k, u32 r)
{
	return !((j->live[k + 1] | j->live[insn_jump_target(insn_at(j, k), k)]) & 1u << r);
}

static bool is_mov_reg(const struct jit *j, u32 i)
{
	return i != NO_INSN && (j->ids[i] == OP_MOV64_REG || j->ids[i] == OP_MOV32_REG);
}

static bool is_mov_imm(const struct jit *j, u32 i)
{
	return i != NO_INSN && (j->ids[i] == OP_MOV64_IMM || j->ids[i] == OP_MOV32_IMM);
}

/* An arithmetic instruction OP on D (any width, unless given). */
static bool alu_on(const struct jit *j, u32 i, u8 op, u8 source, u32 d)
{
	const struct bpf_insn *insn;

	if (i == NO_INSN || opcodes[j->ids[i]].form != FORM_ALU)
		return false;
	insn = insn_at(j, i);
	return BPF_OP(insn->code) == op && BPF_SRC(insn->code) == source && insn->dst_reg == d && !insn->off;
}

static bool same_class(const struct bpf_insn *a, const struct bpf_insn *b)
{
	return BPF_CLASS(a->code) == BPF_CLASS(b->code);
}

/*
 * Jumps
 */

static void unref(struct jit *j, u32 target)
{
	if (j->refs[target] != UINT16_MAX && !--j->refs[target])
		j->at[target] &= (u8)~AT_TARGET;
}

/* Whether the same question is asked again soon after I: then the CPU must foresee
 * the answer anyway, and a conditional move would only be waited for. */
#define SOON 4

static bool asked_again(const struct jit *j, u32 i)
{
	const struct bpf_insn *insn = insn_at(j, i);

	for (u32 k = i + 2; k < j->n && k < i + 2 + SOON; k++) {
		const struct bpf_insn *other = insn_at(j, k);

		if (is_jump(j, k))
			return same_class(insn, other) && BPF_SRC(insn->code) == BPF_SRC(other->code) &&
			       insn->dst_reg == other->dst_reg && insn->src_reg == other->src_reg && insn->imm == other->imm;
		if (jit_defs(j, k) & jit_uses(j, i))
			return false;
	}
	return false;
}

/* A jump over one instruction that can be done without jumping. */
static void plan_jump(struct jit *j, u32 i)
{
	u32 k = i + 1;

	if (insn_jump_target(insn_at(j, i), i) != (s64)i + 2 || (j->at[k] & (AT_TARGET | AT_SKIP)))
		return;
	if (j->ids[k] == OP_JA || j->ids[k] == OP_JA32)
		j->steps[i].fuse = FUSE_INVERT;
	else if ((is_mov_reg(j, k) || is_mov_imm(j, k)) && !asked_again(j, i))
		j->steps[i].fuse = FUSE_SELECT;
	else
		return;
	j->steps[i].with = k;
	skip(j, k);
	unref(j, i + 2);
}

/* d = 1; if …: goto +1; d = 0, and the other way round */
static void plan_set(struct jit *j, u32 i)
{
	const struct bpf_insn *one = insn_at(j, i), *two;
	u32 k = next(j, i);

	if (k == NO_INSN || j->steps[k].fuse != FUSE_SELECT || !is_mov_imm(j, j->steps[k].with))
		return;
	two = insn_at(j, j->steps[k].with);
	if (two->dst_reg != one->dst_reg || (one->imm | two->imm) != 1 || (one->imm & two->imm) ||
	    (jit_uses(j, k) & 1u << one->dst_reg))
		return;
	j->steps[k].fuse = FUSE_SET;
	j->steps[k].base = one->imm == 1; /* what the condition gives when true */
	skip(j, i);
}

/*
 * Addresses: d += s, when d serves nothing but accesses until it dies, goes into
 * these accesses as [d + s]; so does d = b before it, and s <<= 1…3.
 */

struct address {
	u32 d;            /* the register that holds it */
	u32 base, index;  /* what it is made from */
	u8 shift;
	u32 uses[16], nuses;
};

/* Adds I to the accesses by A, if that is all that it does with the address. */
static bool note_access(const struct jit *j, u32 i, struct address *a)
{
	const struct bpf_insn *insn = insn_at(j, i);
	u8 form = opcodes[j->ids[i]].form;
	bool load = form == FORM_LOAD && insn->src_reg == a->d;
	bool store = form == FORM_STORE && insn->dst_reg == a->d &&
		     !(opcodes[j->ids[i]].src == FIELD_R && insn->src_reg == a->d);

	if ((!load && !store) || a->nuses == ARRAY_SIZE(a->uses) || j->steps[i].base != NO_REG)
		return false;
	a->uses[a->nuses++] = i;
	return true;
}

/* Whether the jump at I, or what is emitted with it, lets the address live where
 * it leads. */
static bool escapes_by_jump(const struct jit *j, u32 i, u16 self)
{
	u32 with = j->steps[i].with;

	switch (j->steps[i].fuse) {
	case FUSE_SELECT: /* the move may or may not happen */
		return jit_defs(j, with) & self;
	case FUSE_INVERT:
		return j->live[insn_jump_target(insn_at(j, with), with)] & self;
	}
	return j->live[insn_jump_target(insn_at(j, i), i)] & self;
}

static bool ends_run(const struct jit *j, u32 i)
{
	u8 form = opcodes[j->ids[i]].form;

	if (form == FORM_GOTO)
		return !(j->at[i] & AT_SKIP); /* else part of a jump */
	return form == FORM_CALL || form == FORM_EXIT;
}

/* Whether from behind AT on the address is only accessed by, until it dies, with
 * its parts unchanged. */
static bool only_accesses(const struct jit *j, u32 at, struct address *a)
{
	u16 self = (u16)(1u << a->d), parts = (u16)((1u << a->base | 1u << a->index) & ~self);
	bool parts_held = true;

	for (u32 i = at + 1; i < j->n; i++) {
		if (j->at[i] & AT_SECOND)
			continue;
		if (!(j->live[i] & self))
			return a->nuses;
		if ((j->at[i] & (AT_TARGET | AT_FUNC)) || ends_run(j, i))
			return false;
		if (is_jump(j, i) && escapes_by_jump(j, i, self))
			return false;
		if ((jit_uses(j, i) & self) && (!parts_held || !note_access(j, i, a)))
			return false;
		if (jit_defs(j, i) & self)
			return a->nuses; /* a load into it */
		if (jit_defs(j, i) & parts)
			parts_held = false;
	}
	return false;
}

/* s = y; s <<= n, or s <<= n alone, right before BEFORE, s not needed after the
 * addition AT: the index is y, scaled. */
static void scale_index(struct jit *j, u32 before, u32 at, struct address *a, u32 *skips, u32 *nskips)
{
	u32 k = before - 1, s = a->index;

	if (!before || a->base == s || live_after(j, at, s) || (j->at[before] & (AT_TARGET | AT_FUNC)) || (j->at[k] & (AT_SKIP | AT_SECOND)) ||
	    j->ids[k] != OP_LSH64_IMM || insn_at(j, k)->dst_reg != s || insn_at(j, k)->imm < 1 || insn_at(j, k)->imm > 3)
		return;
	a->shift = (u8)insn_at(j, k)->imm;
	skips[(*nskips)++] = k;
	if (!k || (j->at[k] & (AT_TARGET | AT_FUNC)) || (j->at[k - 1] & (AT_SKIP | AT_SECOND)) || j->ids[k - 1] != OP_MOV64_REG ||
	    insn_at(j, k - 1)->dst_reg != s || insn_at(j, k - 1)->src_reg == s)
		return;
	a->index = insn_at(j, k - 1)->src_reg;
	skips[(*nskips)++] = k - 1;
}

static bool apply_address(struct jit *j, struct address *a, u32 at, const u32 *skips, u32 nskips)
{
	u32 first = at;

	a->nuses = 0;
	if (a->index == BPF_REG_10 || !only_accesses(j, at, a))
		return false;
	for (u32 k = 0; k < a->nuses; k++) {
		struct step *s = &j->steps[a->uses[k]];

		s->base = jit_reg_of[a->base];
		s->index = jit_reg_of[a->index];
		s->shift = a->shift;
	}
	skip(j, at);
	for (u32 k = 0; k < nskips; k++) {
		skip(j, skips[k]);
		first = skips[k] < first ? skips[k] : first;
	}
	/* the parts are needed for longer than they were */
	for (u32 k = first; k <= a->uses[a->nuses - 1]; k++)
		j->live[k] |= (u16)(1u << a->base | 1u << a->index);
	return true;
}

static void plan_address(struct jit *j, u32 i)
{
	const struct bpf_insn *insn = insn_at(j, i), *prev = i ? insn - 1 : NULL;
	struct address plain = { .d = insn->dst_reg, .base = insn->dst_reg, .index = insn->src_reg }, a = plain;
	u32 skips[4], nskips = 0, first = i;

	if (insn->dst_reg == insn->src_reg)
		return;
	if (prev && !(j->at[i] & (AT_TARGET | AT_FUNC)) && !(j->at[i - 1] & (AT_SKIP | AT_SECOND)) &&
	    j->ids[i - 1] == OP_MOV64_REG && prev->dst_reg == a.d && prev->src_reg != a.d) {
		a.base = prev->src_reg;
		skips[nskips++] = first = i - 1;
	}
	scale_index(j, first, i, &a, skips, &nskips);
	/* an index that was moved away from the base must not be the address itself */
	if (nskips && a.index != a.d && apply_address(j, &a, i, skips, nskips))
		return;
	apply_address(j, &plain, i, NULL, 0);
}

/*
 * Groups
 */

static void lead(struct jit *j, u32 i, enum fuse fuse, u32 with)
{
	j->steps[i].fuse = (u8)fuse;
	j->steps[i].with = with;
}

/* d <<= 32; d >>= 32 behind a move (I, which leads) or beginning at I. */
static bool match_extend(struct jit *j, u32 i, u32 l, u32 d)
{
	u32 r = l == NO_INSN ? NO_INSN : next(j, l);

	if (r == NO_INSN || j->ids[l] != OP_LSH64_IMM || insn_at(j, l)->dst_reg != d || insn_at(j, l)->imm != 32 ||
	    (j->ids[r] != OP_RSH64_IMM && j->ids[r] != OP_ARSH64_IMM) || insn_at(j, r)->dst_reg != d ||
	    insn_at(j, r)->imm != 32)
		return false;
	skip(j, l);
	skip(j, r);
	j->at[i] &= (u8)~AT_SKIP;
	lead(j, i, FUSE_EXTEND, r);
	return true;
}

static bool is_shift(const struct jit *j, u32 i, u32 d)
{
	return alu_on(j, i, BPF_LSH, BPF_K, d) || alu_on(j, i, BPF_RSH, BPF_K, d);
}

/* Two shifts of the same value whose sum is the width. */
static bool complement(const struct bpf_insn *a, const struct bpf_insn *b)
{
	return same_class(a, b) && BPF_OP(a->code) != BPF_OP(b->code) && a->imm > 0 && b->imm > 0 &&
	       a->imm + b->imm == (is_64(a) ? 64 : 32);
}

/*
 *	t = s; t >>= n; [d = s;] d <<= m; d |= t      (d is s without the second move;
 *	                                                 the result may be t as well)
 */
static bool match_rotate(struct jit *j, u32 i)
{
	u32 t = insn_at(j, i)->dst_reg, s = insn_at(j, i)->src_reg, d = s;
	u32 a = next(j, i), b, or, move = NO_INSN, result, other;

	if (!is_shift(j, a, t))
		return false;
	b = next(j, a);
	if (is_mov_reg(j, b) && insn_at(j, b)->src_reg == s && insn_at(j, b)->dst_reg != t && insn_at(j, b)->dst_reg != s) {
		move = b;
		d = insn_at(j, b)->dst_reg;
		b = next(j, b);
	}
	if (b == NO_INSN || !is_shift(j, b, d) || !complement(insn_at(j, a), insn_at(j, b)))
		return false;
	if (is_64(insn_at(j, a)) && (j->ids[i] != OP_MOV64_REG || (move != NO_INSN && j->ids[move] != OP_MOV64_REG)))
		return false;
	or = next(j, b);
	if (or == NO_INSN || opcodes[j->ids[or]].form != FORM_ALU || !same_class(insn_at(j, or), insn_at(j, a)))
		return false;
	result = insn_at(j, or)->dst_reg;
	other = insn_at(j, or)->src_reg;
	if (!alu_on(j, or, BPF_OR, BPF_X, result) && !alu_on(j, or, BPF_XOR, BPF_X, result) &&
	    !alu_on(j, or, BPF_ADD, BPF_X, result))
		return false;
	if (!((result == d && other == t) || (result == t && other == d)) || live_after(j, or, other))
		return false;
	skip(j, a);
	skip(j, b);
	skip(j, or);
	if (move != NO_INSN)
		skip(j, move);
	lead(j, i, FUSE_ROTATE, or);
	j->steps[i].load = a;
	return true;
}

static bool match_field(struct jit *j, u32 i)
{
	u32 d = insn_at(j, i)->dst_reg, a = next(j, i), b;
	s32 left, mask;

	if (!j->bmi2 || !alu_on(j, a, BPF_RSH, BPF_K, d) || !same_class(insn_at(j, a), insn_at(j, i)))
		return false;
	left = (is_64(insn_at(j, a)) ? 64 : 32) - insn_at(j, a)->imm;
	b = next(j, a);
	if (insn_at(j, a)->imm < 1 || left < 1 || !alu_on(j, b, BPF_AND, BPF_K, d) || insn_at(j, b)->imm <= 0)
		return false;
	mask = 32 - __builtin_clz((u32)insn_at(j, b)->imm);
	if (mask > left)
		return false;
	skip(j, a);
	skip(j, b);
	lead(j, i, FUSE_FIELD, b);
	j->steps[i].load = a;
	return true;
}

static bool match_clear_low(struct jit *j, u32 i)
{
	u32 t = insn_at(j, i)->dst_reg, s = insn_at(j, i)->src_reg, a = next(j, i), b;

	if (!j->bmi1 || !alu_on(j, a, BPF_ADD, BPF_K, t) || insn_at(j, a)->imm != -1 ||
	    (is_64(insn_at(j, a)) && j->ids[i] != OP_MOV64_REG))
		return false;
	b = next(j, a);
	if (!alu_on(j, b, BPF_AND, BPF_X, s) || insn_at(j, b)->src_reg != t || !same_class(insn_at(j, a), insn_at(j, b)) ||
	    live_after(j, b, t))
		return false;
	skip(j, a);
	skip(j, b);
	lead(j, i, FUSE_CLEAR_LOW, b);
	return true;
}

/* Instructions with an x86 form of three operands. */
static bool has_three_operands(const struct jit *j, u32 k)
{
	const struct bpf_insn *insn = insn_at(j, k);
	bool imm = BPF_SRC(insn->code) == BPF_K;

	switch (BPF_OP(insn->code)) {
	case BPF_ADD:
		return true;
	case BPF_AND:
		return imm && (insn->imm == 0xff || insn->imm == 0xffff);
	case BPF_LSH:
	case BPF_RSH:
	case BPF_ARSH:
		return j->bmi2 && !imm && insn->src_reg != insn->dst_reg;
	}
	return false;
}

static bool match_mov_op(struct jit *j, u32 i)
{
	u32 k = next(j, i), d = insn_at(j, i)->dst_reg;

	if (k == NO_INSN || opcodes[j->ids[k]].form != FORM_ALU || insn_at(j, k)->dst_reg != d || insn_at(j, k)->off ||
	    !same_class(insn_at(j, i), insn_at(j, k)) || !has_three_operands(j, k))
		return false;
	skip(j, k);
	lead(j, i, FUSE_MOV_OP, k);
	return true;
}

/* x &= y; if x == 0, and x serves nothing else: S is what x was moved from. */
static bool match_test(struct jit *j, u32 i, u32 and, u32 s)
{
	u32 x, k;

	if (and == NO_INSN || opcodes[j->ids[and]].form != FORM_ALU || BPF_OP(insn_at(j, and)->code) != BPF_AND)
		return false;
	x = insn_at(j, and)->dst_reg;
	k = next(j, and);
	if (!is_jump(j, k) || j->steps[k].load != NO_INSN || BPF_SRC(insn_at(j, k)->code) != BPF_K || insn_at(j, k)->imm ||
	    (BPF_OP(insn_at(j, k)->code) != BPF_JEQ && BPF_OP(insn_at(j, k)->code) != BPF_JNE) ||
	    insn_at(j, k)->dst_reg != x || !dead_after_jump(j, k, x))
		return false;
	if (i != and && (insn_at(j, i)->dst_reg != x ||
			 (is_64(insn_at(j, and)) && BPF_SRC(insn_at(j, and)->code) == BPF_X && j->ids[i] == OP_MOV32_REG) ||
			 (is_64(insn_at(j, and)) && insn_at(j, and)->imm < 0 && j->ids[i] == OP_MOV32_REG) ||
			 (BPF_SRC(insn_at(j, and)->code) == BPF_X && insn_at(j, and)->src_reg == x)))
		return false;
	j->steps[k].load = and;
	j->steps[k].index = jit_reg_of[s];
	skip(j, i);
	skip(j, and);
	return true;
}

static bool is_swap_of(const struct jit *j, u32 k, u32 d, u8 size)
{
	static const s32 bits[] = { [BPF_W >> 3] = 32, [BPF_H >> 3] = 16, [BPF_DW >> 3] = 64 };

	if (k == NO_INSN || opcodes[j->ids[k]].form != FORM_END || insn_at(j, k)->dst_reg != d || size == BPF_B)
		return false;
	if (j->ids[k] == OP_LE16 || j->ids[k] == OP_LE32 || j->ids[k] == OP_LE64)
		return false;
	return insn_at(j, k)->imm == bits[size >> 3];
}

/* t = [m]; d op= t */
static bool match_load_op(struct jit *j, u32 i, u32 k)
{
	const struct bpf_insn *load = insn_at(j, i), *op = insn_at(j, k);
	u32 t = load->dst_reg;

	if (opcodes[j->ids[k]].form != FORM_ALU || BPF_SRC(op->code) != BPF_X || op->off || op->src_reg != t || op->dst_reg == t ||
	    BPF_SIZE(load->code) != (is_64(op) ? BPF_DW : BPF_W) || live_after(j, k, t))
		return false;
	switch (BPF_OP(op->code)) {
	case BPF_ADD:
	case BPF_SUB:
	case BPF_AND:
	case BPF_OR:
	case BPF_XOR:
	case BPF_MUL:
		skip(j, k);
		lead(j, i, FUSE_LOAD_OP, k);
		return true;
	}
	return false;
}

/* Whether a comparison of a zero-extended load with IMM can be made in memory, in
 * the load's own width. */
static bool compares_in_memory(const struct bpf_insn *load, const struct bpf_insn *jump)
{
	u8 size = BPF_SIZE(load->code), op = BPF_OP(jump->code);
	bool is_signed = op == BPF_JSGT || op == BPF_JSGE || op == BPF_JSLT || op == BPF_JSLE;

	if (op == BPF_JSET)
		return false;
	if (size == BPF_DW)
		return true;
	if (size == BPF_W && !is_64(jump))
		return true;
	if (is_signed || jump->imm < 0)
		return false;
	if (size == BPF_W)
		return true;
	/* a 16-bit immediate changes the length of the instruction, which is slow to decode */
	return jump->imm <= (size == BPF_B ? 0xff : 0x7f);
}

static bool match_load_compare(struct jit *j, u32 i, u32 k)
{
	const struct bpf_insn *load = insn_at(j, i), *jump = insn_at(j, k);
	u32 t = load->dst_reg;

	if (!is_jump(j, k) || j->steps[k].load != NO_INSN || !dead_after_jump(j, k, t) ||
	    insn_jump_target(jump, k) == (s64)k + 1)
		return false;
	if (BPF_SRC(jump->code) == BPF_K) {
		if (jump->dst_reg != t || !compares_in_memory(load, jump))
			return false;
	} else {
		bool other = jump->dst_reg != jump->src_reg && (jump->dst_reg == t || jump->src_reg == t);

		if (!other || BPF_OP(jump->code) == BPF_JSET ||
		    !(BPF_SIZE(load->code) == BPF_DW || (BPF_SIZE(load->code) == BPF_W && !is_64(jump))))
			return false;
	}
	j->steps[k].load = i;
	skip(j, i);
	return true;
}

static void plan_load(struct jit *j, u32 i)
{
	u32 k = next(j, i);

	if (k == NO_INSN || BPF_MODE(insn_at(j, i)->code) != BPF_MEM)
		return;
	if (is_swap_of(j, k, insn_at(j, i)->dst_reg, BPF_SIZE(insn_at(j, i)->code))) {
		skip(j, k);
		lead(j, i, FUSE_LOAD_SWAP, k);
	} else if (!match_load_op(j, i, k)) {
		match_load_compare(j, i, k);
	}
}

static void plan_mov(struct jit *j, u32 i)
{
	const struct bpf_insn *insn = insn_at(j, i);

	if (insn->dst_reg == insn->src_reg)
		return;
	if (match_extend(j, i, next(j, i), insn->dst_reg) || match_rotate(j, i) || match_test(j, i, next(j, i), insn->src_reg) ||
	    match_field(j, i) || match_clear_low(j, i))
		return;
	match_mov_op(j, i);
}

static void plan_shift_add(struct jit *j, u32 i)
{
	const struct bpf_insn *insn = insn_at(j, i);
	u32 k = next(j, i);

	if (insn->imm < 1 || insn->imm > 3 || !alu_on(j, k, BPF_ADD, BPF_X, insn->dst_reg) ||
	    !same_class(insn, insn_at(j, k)) || insn_at(j, k)->src_reg == insn->dst_reg)
		return;
	skip(j, k);
	lead(j, i, FUSE_SHIFT_ADD, k);
}

static void plan_value(struct jit *j, u32 i)
{
	u32 k = next(j, i);

	if (!alu_on(j, k, BPF_ADD, BPF_K, insn_at(j, i)->dst_reg) || !is_64(insn_at(j, k)))
		return;
	skip(j, k);
	lead(j, i, FUSE_VALUE, k);
}

/* The bounds check of an inlined lookup jumps in the place of a test for NULL. */
static void plan_lookup(struct jit *j, u32 i)
{
	u32 k = next(j, i);

	if (j->array[i] == NO_MAP || insn_at(j, i)->imm != BPF_FUNC_map_lookup_elem || k != i + 1 || !is_free(j, k) ||
	    j->ids[k] != OP_JEQ64_IMM || insn_at(j, k)->dst_reg != BPF_REG_0 || insn_at(j, k)->imm ||
	    insn_jump_target(insn_at(j, k), k) == (s64)k + 1)
		return;
	j->steps[i].with = k;
	skip(j, k);
}

static void plan_insn(struct jit *j, u32 i)
{
	const struct bpf_insn *insn = insn_at(j, i);

	switch (j->ids[i]) {
	case OP_MOV64_REG:
	case OP_MOV32_REG:
		plan_mov(j, i);
		break;
	case OP_MOV64_IMM:
	case OP_MOV32_IMM:
		plan_set(j, i);
		break;
	case OP_LSH64_IMM:
		if (match_extend(j, i, i, insn->dst_reg))
			break;
		__attribute__((fallthrough));
	case OP_LSH32_IMM:
		plan_shift_add(j, i);
		break;
	case OP_AND64_IMM:
	case OP_AND64_REG:
	case OP_AND32_IMM:
	case OP_AND32_REG:
		match_test(j, i, i, insn->dst_reg);
		break;
	case OP_LD_MAP_VALUE:
		plan_value(j, i);
		break;
	case OP_CALL_HELPER:
		plan_lookup(j, i);
		break;
	default:
		if (opcodes[j->ids[i]].form == FORM_LOAD)
			plan_load(j, i);
	}
}

/* A store to stack that is never read. */
static bool is_dead_store(const struct jit *j, u32 i)
{
	const struct insn_fact *facts = j->in->prog->facts;

	return facts && facts[i].flags & FACT_DEAD_STORE && opcodes[j->ids[i]].form == FORM_STORE;
}

static bool is_planned(const struct jit *j, u32 i)
{
	return j->at[i] & (AT_SECOND | AT_SKIP);
}

void jit_plan(struct jit *j)
{
	for (u32 i = 0; i < j->n; i++) {
		if (is_planned(j, i))
			continue;
		if (is_dead_store(j, i))
			skip(j, i);
		else if (is_jump(j, i) && i + 1 < j->n)
			plan_jump(j, i);
	}
	for (u32 i = 0; i < j->n; i++)
		if (!is_planned(j, i) && j->ids[i] == OP_ADD64_REG)
			plan_address(j, i);
	for (u32 i = 0; i < j->n; i++)
		if (!is_planned(j, i) && is_free(j, i))
			plan_insn(j, i);
}
