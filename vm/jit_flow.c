/* SPDX-License-Identifier: MIT */
/*
 * Machine code of jumps, and the beginning and end of functions.
 *
 * Jumps are short where that is certain whatever the padding before loops comes
 * to (jit.c aligns these last); a jump to a jump goes where that one leads.
 */
#include "vm/jit_internal.h"

#define MAX_HOPS 8

static const u8 cc_of[16] = {
	[BPF_JEQ >> 4] = CC_E,	 [BPF_JNE >> 4] = CC_NE,  [BPF_JGT >> 4] = CC_A,  [BPF_JGE >> 4] = CC_AE,
	[BPF_JLT >> 4] = CC_B,	 [BPF_JLE >> 4] = CC_BE,  [BPF_JSGT >> 4] = CC_G, [BPF_JSGE >> 4] = CC_GE,
	[BPF_JSLT >> 4] = CC_L,	 [BPF_JSLE >> 4] = CC_LE, [BPF_JSET >> 4] = CC_NE,
};

static enum x86_cond cc_of_jump(const struct bpf_insn *insn)
{
	return cc_of[BPF_OP(insn->code) >> 4];
}

static enum x86_cond inverse(enum x86_cond cc)
{
	return cc ^ 1;
}

static bool fits8(s64 v)
{
	return v == (s8)v;
}

/* Emits a jump to code offset TARGET, known from this pass or the last, of
 * instruction TO (j->n: the end); CC < 0: always. */
static void jump_to(struct jit *j, int cc, size_t target, bool known, u32 to)
{
	s64 rel = (s64)target - (s64)(j->e.len + 2);
	u32 heads = j->loops[to] > j->loops[j->i] ? j->loops[to] - j->loops[j->i] : j->loops[j->i] - j->loops[to];
	s64 margin = (s64)heads * (JIT_LOOP_ALIGN - 1);
	u8 *at = &j->at[j->i];

	if (!j->aligning && known && fits8(rel + margin) && fits8(rel - margin) && !(*at & AT_SHORT)) {
		*at |= AT_SHORT;
		j->changed = true;
	}
	if (!(*at & AT_SHORT))
		rel = (s64)target - (s64)(j->e.len + (cc < 0 ? 5 : 6));
	if (cc < 0)
		emit_jmp(&j->e, *at & AT_SHORT, (s32)rel);
	else
		emit_jcc(&j->e, (enum x86_cond)cc, *at & AT_SHORT, (s32)rel);
}

void jit_jump(struct jit *j, int cc, u32 from)
{
	u32 target = (u32)insn_jump_target(&j->insns[from], from);

	for (u32 hops = 0; hops < MAX_HOPS && (j->ids[target] == OP_JA || j->ids[target] == OP_JA32); hops++)
		target = (u32)insn_jump_target(&j->insns[target], target);
	jump_to(j, cc, j->off[target], !j->first_pass || target <= j->i, target);
}

static bool jumps_to_next(const struct jit *j, const struct bpf_insn *insn)
{
	return insn_jump_target(insn, j->i) == (s64)j->i + 1;
}

void jit_jump_always(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	if (!jumps_to_next(j, insn))
		jit_jump(j, -1, j->i);
}

/*
 * Comparisons
 */

static bool flags_valid(const struct jit *j)
{
	return j->flags_at == j->last && !(j->at[j->i] & (AT_TARGET | AT_FUNC));
}

static bool zf_known(const struct jit *j, enum x86_reg reg, bool w)
{
	return flags_valid(j) && j->cmp == NO_INSN && j->zf_reg == reg && j->zf_w == w;
}

/* The last jump compared the same; flags are as it left them. */
static bool compared_already(const struct jit *j, const struct bpf_insn *insn)
{
	const struct bpf_insn *last;

	if (!flags_valid(j) || j->cmp == NO_INSN)
		return false;
	last = &j->insns[j->cmp];
	return BPF_CLASS(last->code) == BPF_CLASS(insn->code) && BPF_SRC(last->code) == BPF_SRC(insn->code) &&
	       last->dst_reg == insn->dst_reg && last->src_reg == insn->src_reg && last->imm == insn->imm;
}

static void compare_memory(struct jit *j, const struct bpf_insn *insn, u32 load)
{
	const struct bpf_insn *l = &j->insns[load];
	bool w = is_64(insn) && BPF_SIZE(l->code) == BPF_DW;
	struct x86_mem m = jit_mem(j, load);

	if (BPF_SRC(insn->code) == BPF_X) {
		if (insn->src_reg == l->dst_reg)
			emit_alu_rm(&j->e, w, X86_CMP, dst_of(insn), m);
		else
			emit_cmp_mr(&j->e, w, m, src_of(insn));
	} else {
		emit_cmp_mi(&j->e, BPF_SIZE(l->code) == BPF_DW && !w ? X86_32 : size_of(l), m, insn->imm);
	}
}

static void test_masked(struct jit *j, const struct bpf_insn *insn, u32 and)
{
	const struct bpf_insn *a = &j->insns[and];
	enum x86_reg reg = j->steps[j->i].index;
	bool w = is_64(a) && is_64(insn);

	if (BPF_SRC(a->code) == BPF_K)
		emit_test_ri(&j->e, w, reg, a->imm);
	else
		emit_test_rr(&j->e, w, reg, src_of(a));
}

/* The flags that the condition of the jump at j->i wants. */
static void compare(struct jit *j, const struct bpf_insn *insn)
{
	enum x86_reg dst = dst_of(insn);
	bool w = is_64(insn), imm = BPF_SRC(insn->code) == BPF_K;
	enum x86_cond cc = cc_of_jump(insn);
	u32 load = j->steps[j->i].load;

	if (load != NO_INSN && opcodes[j->ids[load]].form == FORM_LOAD) {
		compare_memory(j, insn, load);
	} else if (load != NO_INSN) {
		test_masked(j, insn, load);
	} else if (BPF_OP(insn->code) == BPF_JSET) {
		if (imm)
			emit_test_ri(&j->e, w, dst, insn->imm);
		else
			emit_test_rr(&j->e, w, dst, src_of(insn));
	} else if (compared_already(j, insn)) {
		j->flags_at = j->i;
	} else if (imm && !insn->imm && (cc == CC_E || cc == CC_NE) && zf_known(j, dst, w)) {
		j->flags_at = j->i;
	} else {
		if (!imm)
			emit_alu_rr(&j->e, w, X86_CMP, dst, src_of(insn));
		else if (insn->imm)
			emit_alu_ri(&j->e, w, X86_CMP, dst, insn->imm);
		else
			emit_test_rr(&j->e, w, dst, dst);
		j->flags_at = j->i;
		j->cmp = j->i;
	}
}

void jit_jump_cond(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	if (jumps_to_next(j, insn))
		return;
	compare(j, insn);
	jit_jump(j, (int)cc_of_jump(insn), j->i);
}

/* if c: goto +1; goto x: that is, if not c: goto x */
void jit_fused_invert(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	compare(j, insn);
	jit_jump(j, (int)inverse(cc_of_jump(insn)), j->steps[j->i].with);
}

/*
 * if c: goto +1; d = s. A 32-bit cmov clears the upper half of its destination
 * in any case, so it serves only where that is zero already; and a number must
 * be in a register first (before the comparison: clearing one changes flags).
 */
void jit_fused_select(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	const struct bpf_insn *mov = &j->insns[j->steps[j->i].with];
	enum x86_cond cc = inverse(cc_of_jump(insn));
	enum x86_reg dst = scratch(j, dst_of(mov)), src;
	bool w = true;

	if (BPF_SRC(mov->code) == BPF_K) {
		src = scratch(j, R11);
		emit_mov_ri(&j->e, src, is_64(mov) ? (u64)(s64)mov->imm : (u32)mov->imm);
		w = (is_64(mov) && mov->imm < 0) || !upper_zero(j, j->i, mov->dst_reg);
		j->last = NO_INSN; /* flags may be gone */
	} else {
		src = src_of(mov);
		if (upper_zero(j, j->i, mov->src_reg)) {
			w = !upper_zero(j, j->i, mov->dst_reg);
		} else if (!is_64(mov)) {
			w = !upper_zero(j, j->i, mov->dst_reg);
			if (w) {
				emit_mov_rr(&j->e, false, scratch(j, R11), src);
				src = R11;
			}
		}
	}
	compare(j, insn);
	emit_cmov(&j->e, w, cc, dst, src);
	j->flags_at = NO_INSN - 1;
}

/* d = 1; if c: goto +1; d = 0 (or 0 and 1) */
void jit_fused_set(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	const struct step *s = &j->steps[j->i];
	enum x86_reg dst = scratch(j, dst_of(&j->insns[s->with]));
	enum x86_cond cc = cc_of_jump(insn);

	emit_alu_rr(&j->e, false, X86_XOR, dst, dst);
	j->last = NO_INSN;
	compare(j, insn);
	emit_setcc(&j->e, s->base == 1 ? cc : inverse(cc), dst);
	j->flags_at = NO_INSN - 1;
}

/*
 * Functions
 */

static const u8 push_order[] = { RBX, R12, R13, R14, R15 };

#define CLEAR_BY_STORES 64 /* bytes; more by rep stos */

/* Zeros all of the BPF stack. r10, r11 and rax are free here; a callback gets its
 * frame in r9. */
static void clear_stack(struct jit *j, const struct func *f)
{
	struct emit *e = &j->e;

	if (f->depth <= CLEAR_BY_STORES) {
		for (u32 at = 8; at <= f->depth; at += 8)
			emit_store_i(e, X86_64, x86_at(RBP, -(s32)at), 0);
		return;
	}
	emit_mov_rr(e, true, scratch(j, R11), RDI);
	emit_mov_rr(e, true, scratch(j, R10), RCX);
	emit_lea(e, true, RDI, x86_at(RBP, -(s32)f->depth));
	emit_mov_ri(e, RCX, f->depth / 8);
	emit_mov_ri(e, scratch(j, RAX), 0);
	emit_rep_stosq(e);
	emit_mov_rr(e, true, RDI, R11);
	emit_mov_rr(e, true, RCX, R10);
}

void jit_prologue(struct jit *j, const struct func *f)
{
	struct emit *e = &j->e;
	u32 room = f->depth + f->pad;

	if (f->uses_fp) {
		emit_push(e, RBP);
		emit_mov_rr(e, true, RBP, RSP);
	}
	if (room)
		emit_alu_ri(e, true, X86_SUB, RSP, (s32)room);
	if (j->in->prog->info.reads_unset_stack && f->uses_fp)
		clear_stack(j, f);
	for (size_t i = 0; i < ARRAY_SIZE(push_order); i++)
		if (f->saved & 1u << push_order[i])
			emit_push(e, push_order[i]);
}

void jit_unwind(struct jit *j, const struct func *f)
{
	struct emit *e = &j->e;

	for (size_t i = ARRAY_SIZE(push_order); i--;)
		if (f->saved & 1u << push_order[i])
			emit_pop(e, push_order[i]);
	if (f->uses_fp)
		emit_leave(e);
	else if (f->pad)
		emit_alu_ri(e, true, X86_ADD, RSP, (s32)f->pad);
}

static void epilogue(struct jit *j, const struct func *f)
{
	jit_unwind(j, f);
	emit_ret(&j->e);
}

void jit_exit(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	if (!jit_has_end(j) || j->func != &j->funcs[0])
		epilogue(j, j->func);
	else if (j->i + 1 < j->func->end)
		jump_to(j, -1, j->exit_off, !j->first_pass, j->func->end);
}

/* umap_release(), with rax kept. */
void jit_release_slot(struct jit *j)
{
	struct emit *e = &j->e;

	emit_load(e, X86_64, false, R9, x86_at(R12, offsetof(struct hook_frame, site)));
	emit_load(e, X86_64, false, R10, x86_at(R12, offsetof(struct hook_frame, slot)));
	emit_shift_i(e, true, X86_SHL, R10, 6);
	_Static_assert(sizeof(((struct umap_claims *)0)->slot[0]) == 64, "a slot is 64 bytes");
	emit_load(e, X86_64, false, R9, x86_at(R9, offsetof(struct site_data, claims)));
	emit_alu_rr(e, true, X86_ADD, R9, R10);
	emit_store_i(e, X86_64, x86_at(R9, 0), 0);
}

void jit_main_end(struct jit *j)
{
	j->exit_off = j->e.len;
	if (jit_claims(j))
		jit_release_slot(j);
	if (jit_signals(j))
		jit_send_signals(j, RDI);
	j->out_off = j->e.len;
	epilogue(j, j->func);
}

/* frame->end_stack = frame - rsp: the frame is on this stack, above us */
void jit_keep_stack(struct jit *j)
{
	struct emit *e = &j->e;

	emit_mov_rr(e, true, scratch(j, RAX), R12);
	emit_alu_rr(e, true, X86_SUB, RAX, RSP);
	emit_store_r(e, X86_32, x86_at(R12, offsetof(struct hook_frame, end_stack)), RAX);
}

/* The functions in between are left as by longjmp: the main one has saved all that
 * they have. (rsp is a stack at every instruction: signals may come.) */
void jit_end_early(struct jit *j)
{
	struct emit *e = &j->e;

	emit_load(e, X86_32, false, scratch(j, RAX), x86_at(R12, offsetof(struct hook_frame, end_stack)));
	emit_mov_rr(e, true, scratch(j, R11), R12);
	emit_alu_rr(e, true, X86_SUB, R11, RAX);
	emit_mov_rr(e, true, RSP, R11);
	emit_jmp(e, false, (s32)((s64)j->end_off - (s64)(e->len + 5)));
}

void jit_early_end(struct jit *j)
{
	struct emit *e = &j->e;
	const struct func *f = j->func;

	j->end_off = e->len;
	emit_lea(e, true, RBP, x86_at(RSP, (s32)(f->depth + f->pad + 8 * (u32)__builtin_popcount(f->saved))));
	emit_alu_rr(e, false, X86_XOR, scratch(j, RAX), RAX);
	if (jit_has_end(j))
		emit_jmp(e, false, (s32)((s64)j->exit_off - (s64)(e->len + 5)));
	else
		epilogue(j, f);
}
