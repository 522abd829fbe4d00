/* SPDX-License-Identifier: MIT */
/*
 * What the compiler knows before it emits a byte: opcodes decoded and judged
 * (a program may come without the verifier's blessing, so nothing here trusts a
 * jump or a map index), functions, jump targets; and by data flow over the
 * whole program which registers are still needed where, and which have an upper
 * half of zeros.
 */
#include <errno.h>
#include <stdlib.h>

#include "vm/jit_internal.h"

/* Sweeps of a data flow analysis; real programs need as many as loops nest, and
 * one or two. A program made to need more is taken at its worst. */
#define MAX_SWEEPS 16

#define ARG_REGS (1u << BPF_REG_1 | 1u << BPF_REG_2 | 1u << BPF_REG_3 | 1u << BPF_REG_4 | 1u << BPF_REG_5)
#define CALL_DEFS (ARG_REGS | 1u << BPF_REG_0)
#define ALL_REGS 0x7ffu

static struct uerr *bad_insn(const struct jit *j, u32 i, const char *what)
{
	return uerr_new(UERR_REJECTED, "program '%s', instruction %u: %s", j->in->prog->name, i, what);
}

static struct uerr *analyse_map(const struct jit *j, u32 i)
{
	const struct bpf_insn *insn = &j->insns[i];
	const struct umap *m;

	if (insn->imm < 0 || (size_t)insn->imm >= j->in->nmaps)
		return bad_insn(j, i, "there is no such map");
	m = j->in->maps[insn->imm].map;
	if (j->ids[i] == OP_LD_MAP_VALUE && (m->type != UMAP_ARRAY || (u32)insn[1].imm >= m->value_size))
		return bad_insn(j, i, "no address inside the value of an array map");
	return NULL;
}

/* Marks the target of a jump or local call. */
static struct uerr *analyse_target(struct jit *j, u32 i, s64 target, u8 mark)
{
	if (target < 0 || target >= j->n || (j->at[target] & AT_SECOND))
		return bad_insn(j, i, "jumps out of the program");
	j->at[target] |= mark;
	if (mark == AT_TARGET) {
		if (j->refs[target] < UINT16_MAX)
			j->refs[target]++;
		if (target <= i)
			j->at[target] |= AT_LOOP;
	}
	return NULL;
}

static bool is_wide(u8 id)
{
	return id == OP_LD_IMM64 || id == OP_LD_MAP || id == OP_LD_MAP_VALUE || id == OP_LD_FUNC;
}

static struct uerr *decode(struct jit *j)
{
	for (u32 i = 0; i < j->n; i++) {
		bool selected;

		j->array[i] = NO_MAP;
		j->steps[i] = (struct step){ .base = NO_REG, .index = NO_REG, .with = NO_INSN, .load = NO_INSN };
		if (i && is_wide(j->ids[i - 1])) {
			j->ids[i] = OP_NONE;
			j->at[i] = AT_SECOND;
			continue;
		}
		j->ids[i] = (u8)opcode_decode(&j->insns[i], &selected);
		if (!selected || j->ids[i] == OP_NONE ||
		    (opcode_bad_fields(&j->insns[i], &opcodes[j->ids[i]]) & (BAD_DST | BAD_SRC)))
			return bad_insn(j, i, "cannot be compiled");
		if (is_wide(j->ids[i]) && i + 1 == j->n)
			return bad_insn(j, i, "the second half of the constant is missing");
	}
	return NULL;
}

static struct uerr *find_targets(struct jit *j)
{
	struct uerr *err = NULL;

	j->at[0] |= AT_FUNC;
	for (u32 i = 0; !err && i < j->n; i++) {
		const struct bpf_insn *insn = &j->insns[i];
		u8 form = opcodes[j->ids[i]].form;

		if (j->at[i] & AT_SECOND)
			continue;
		if (form == FORM_JUMP || form == FORM_GOTO)
			err = analyse_target(j, i, insn_jump_target(insn, i), AT_TARGET);
		else if (j->ids[i] == OP_CALL_LOCAL)
			err = analyse_target(j, i, (s64)i + 1 + insn->imm, AT_FUNC);
		else if (j->ids[i] == OP_LD_FUNC)
			err = analyse_target(j, i, (s64)i + 1 + insn->imm, AT_FUNC | AT_CALLBACK);
		else if (j->ids[i] == OP_LD_MAP || j->ids[i] == OP_LD_MAP_VALUE)
			err = analyse_map(j, i);
	}
	return err;
}

/* Functions may not jump into one another, nor run off their end. */
static struct uerr *check_bounds(const struct jit *j, const struct func *f)
{
	u8 last = j->ids[f->end - 1];

	for (u32 i = f->start; i < f->end; i++) {
		u8 form = opcodes[j->ids[i]].form;
		s64 target = insn_jump_target(&j->insns[i], i);

		if ((j->at[i] & AT_SECOND) || (form != FORM_JUMP && form != FORM_GOTO))
			continue;
		if (target < f->start || target >= f->end)
			return bad_insn(j, i, "jumps into another function");
	}
	if (last != OP_EXIT && last != OP_JA && last != OP_JA32)
		return bad_insn(j, f->end - 1, "runs off the end of its function");
	return NULL;
}

static struct uerr *split_funcs(struct jit *j)
{
	struct uerr *err = NULL;
	struct func *f = NULL;

	for (u32 i = 0; i < j->n; i++)
		j->nfuncs += !!(j->at[i] & AT_FUNC);
	j->funcs = calloc(j->nfuncs, sizeof(*j->funcs));
	if (!j->funcs)
		return uerr_nomem();
	for (u32 i = 0; i < j->n; i++) {
		if (j->at[i] & AT_FUNC) {
			f = f ? f + 1 : j->funcs;
			f->start = i;
		}
		f->end = i + 1;
	}
	for (u32 i = 0; !err && i < j->nfuncs; i++)
		err = check_bounds(j, &j->funcs[i]);
	return err;
}

/*
 * Registers
 */

u16 jit_uses(const struct jit *j, u32 i)
{
	const struct bpf_insn *insn = &j->insns[i];
	const struct opcode *op = &opcodes[j->ids[i]];
	u16 uses = 0;

	switch (op->form) {
	case FORM_CALL:
		return ARG_REGS;
	case FORM_EXIT:
		return 1u << BPF_REG_0;
	case FORM_CMPXCHG:
		uses = 1u << BPF_REG_0;
		break;
	}
	if (opcode_uses_src(op))
		uses |= (u16)(1u << insn->src_reg);
	if (opcode_reads_dst(op))
		uses |= (u16)(1u << insn->dst_reg);
	return uses;
}

u16 jit_defs(const struct jit *j, u32 i)
{
	const struct bpf_insn *insn = &j->insns[i];
	const struct opcode *op = &opcodes[j->ids[i]];
	u16 defs = 0;

	if (op->form == FORM_CALL)
		return CALL_DEFS;
	if (op->form == FORM_CMPXCHG)
		defs = 1u << BPF_REG_0;
	if (op->src == FIELD_RW)
		defs |= (u16)(1u << insn->src_reg);
	if (opcode_writes_dst(op))
		defs |= (u16)(1u << insn->dst_reg);
	return defs;
}

static void all_live(struct jit *j)
{
	for (u32 i = 0; i <= j->n; i++)
		j->live[i] = ALL_REGS;
}

/* Backward: needed before = read here, or needed after and not written here. */
static void find_live(struct jit *j)
{
	bool changed = true;

	for (u32 sweep = 0; changed; sweep++) {
		if (sweep == MAX_SWEEPS)
			return all_live(j);
		changed = false;
		for (u32 i = j->n; i--;) {
			u8 form = opcodes[j->ids[i]].form;
			u16 live = form == FORM_EXIT || form == FORM_GOTO ? 0 : j->live[i + 1];

			if (!(j->at[i] & AT_SECOND)) {
				if (form == FORM_JUMP || form == FORM_GOTO)
					live |= j->live[insn_jump_target(&j->insns[i], i)];
				live = (u16)((live & ~jit_defs(j, i)) | jit_uses(j, i));
			}
			changed |= live != j->live[i];
			j->live[i] = live;
		}
	}
}

/* Whether a 64-bit operation leaves the upper half of its destination zero, when
 * ZERO are the registers that have it so. */
static bool alu64_zero(const struct bpf_insn *insn, u16 zero)
{
	bool dst = zero & 1u << insn->dst_reg, src = zero & 1u << insn->src_reg, imm = BPF_SRC(insn->code) == BPF_K;

	switch (BPF_OP(insn->code)) {
	case BPF_MOV:
		return imm ? insn->imm >= 0 : src && !insn->off;
	case BPF_AND:
		return dst || (imm ? insn->imm >= 0 : src);
	case BPF_OR:
	case BPF_XOR:
		return dst && (imm ? insn->imm >= 0 : src);
	case BPF_RSH:
		return dst || (imm && (insn->imm & 63) >= 32); /* a count is taken modulo the width */
	case BPF_ARSH:
		return dst;
	case BPF_DIV:
	case BPF_MOD:
		return dst && !insn->off;
	}
	return false;
}

/* Registers with an upper half of zeros after I. */
static u16 zero_after(const struct jit *j, u32 i, u16 zero)
{
	const struct bpf_insn *insn = &j->insns[i];
	const struct opcode *op = &opcodes[j->ids[i]];
	u16 defs = jit_defs(j, i);
	bool set = false;

	switch (op->form) {
	case FORM_LOAD:
		set = BPF_MODE(insn->code) == BPF_MEM && BPF_SIZE(insn->code) != BPF_DW;
		break;
	case FORM_IMM64:
		set = j->ids[i] == OP_LD_IMM64 && !insn[1].imm;
		break;
	case FORM_FETCH:
	case FORM_XCHG:
	case FORM_CMPXCHG:
		set = BPF_SIZE(insn->code) == BPF_W;
		break;
	case FORM_END:
		set = insn->imm != 64;
		break;
	case FORM_ALU:
	case FORM_NEG:
	case FORM_MOVSX:
		set = BPF_CLASS(insn->code) == BPF_ALU || alu64_zero(insn, zero);
		break;
	}
	return (u16)(set ? zero | defs : zero & ~defs);
}

/* Forward, optimistic: every way to an instruction must agree. */
static void find_zero(struct jit *j)
{
	bool changed = true;

	for (u32 i = 0; i < j->n; i++)
		j->zero[i] = j->at[i] & AT_FUNC ? 0 : ALL_REGS;
	for (u32 sweep = 0; changed; sweep++) {
		changed = false;
		for (u32 i = 0; i < j->n; i++) {
			u8 form = opcodes[j->ids[i]].form;
			u16 after = j->at[i] & AT_SECOND ? j->zero[i] : zero_after(j, i, j->zero[i]);
			s64 target = insn_jump_target(&j->insns[i], i);

			if (form == FORM_JUMP || form == FORM_GOTO) {
				changed |= target <= i && (j->zero[target] & ~after);
				j->zero[target] &= after;
			}
			if (form != FORM_GOTO && form != FORM_EXIT && i + 1 < j->n)
				j->zero[i + 1] &= after;
		}
		if (sweep == MAX_SWEEPS) {
			for (u32 i = 0; i < j->n; i++)
				j->zero[i] = 0;
			return;
		}
	}
}

/*
 * Maps and helpers
 */

/* Arrays whose lookup is a few instructions; a delete is one. */
static bool inlinable(u32 id, const struct umap *m)
{
	if (id == BPF_FUNC_map_delete_elem)
		return m->type == UMAP_ARRAY || m->type == UMAP_PERCPU_ARRAY;
	if (id != BPF_FUNC_map_lookup_elem || m->key_size != 4 || !m->max_entries || !m->elem_stride || m->elem_stride > INT32_MAX)
		return false;
	if (m->type == UMAP_ARRAY)
		return true;
	return m->type == UMAP_PERCPU_ARRAY && m->slot_stride && m->slot_stride <= INT32_MAX;
}

/* The map in r1 at the call I, by the verifier, or as found in straight code. */
static s32 map_of_call(const struct jit *j, u32 i, s32 found)
{
	const struct insn_fact *facts = j->in->prog->facts;

	if (found == NO_MAP && facts && facts[i].map && facts[i].map <= j->in->nmaps)
		return facts[i].map - 1;
	return found;
}

/* A helper that does the same for this very kind of map, or NO_INSN. */
static u32 special_helper(const struct jit *j, u32 id, const struct umap *m)
{
	bool small = m->key_size == 4;
	u32 special = NO_INSN;

	if (id != BPF_FUNC_map_lookup_elem || (m->key_size != 4 && m->key_size != 8))
		return NO_INSN;
	if (m->type == UMAP_HASH)
		special = small ? VM_RT_HASH_LOOKUP_4 : VM_RT_HASH_LOOKUP_8;
	else if (m->type == UMAP_PERCPU_HASH)
		special = small ? VM_RT_PERCPU_LOOKUP_4 : VM_RT_PERCPU_LOOKUP_8;
	return special != NO_INSN && jit_helper_addr(j, special) ? special : NO_INSN;
}

/* Follows addresses of maps and functions through the registers of straight code,
 * to find lookups in and deletes from a known map, and which function bpf_loop
 * calls; a map's address loaded for a call that is inlined is not loaded. */
static void find_map_calls(struct jit *j)
{
	s32 map[MAX_BPF_REG];
	u32 func[MAX_BPF_REG];
	u32 from[MAX_BPF_REG]; /* the ld_imm64 behind it, while nobody has read it */

	for (u32 i = 0; i < j->n; i++) {
		const struct bpf_insn *insn = &j->insns[i];
		const struct opcode *op = &opcodes[j->ids[i]];
		bool call = j->ids[i] == OP_CALL_HELPER;
		s32 known;

		if (j->at[i] & AT_SECOND)
			continue;
		if (!i || (j->at[i] & (AT_TARGET | AT_FUNC)))
			for (u32 r = 0; r < MAX_BPF_REG; r++) {
				map[r] = NO_MAP;
				func[r] = from[r] = UINT32_MAX;
			}
		known = call ? map_of_call(j, i, map[BPF_REG_1]) : NO_MAP;
		if (known != NO_MAP && inlinable((u32)insn->imm, j->in->maps[known].map)) {
			j->array[i] = known;
			if (from[BPF_REG_1] != UINT32_MAX)
				j->at[from[BPF_REG_1]] |= AT_SKIP;
		} else if (known != NO_MAP) {
			j->steps[i].load = special_helper(j, (u32)insn->imm, j->in->maps[known].map);
		} else if (call && insn->imm == BPF_FUNC_loop) {
			j->steps[i].with = func[BPF_REG_2];
		}
		if (op->form == FORM_CALL) { /* r1 - r5 are gone */
			for (u32 r = BPF_REG_0; r <= BPF_REG_5; r++) {
				map[r] = NO_MAP;
				func[r] = UINT32_MAX;
			}
			continue;
		}
		if (op->form == FORM_JUMP || op->form == FORM_GOTO) { /* somebody there may read it */
			for (u32 r = 0; r < MAX_BPF_REG; r++)
				from[r] = UINT32_MAX;
		}
		if (opcode_uses_src(op))
			from[insn->src_reg] = UINT32_MAX;
		if (opcode_reads_dst(op))
			from[insn->dst_reg] = UINT32_MAX;
		if (opcode_writes_dst(op)) {
			map[insn->dst_reg] = j->ids[i] == OP_MOV64_REG ? map[insn->src_reg] :
					     j->ids[i] == OP_LD_MAP	   ? insn->imm :
									     NO_MAP;
			from[insn->dst_reg] = j->ids[i] == OP_LD_MAP ? i : UINT32_MAX;
			func[insn->dst_reg] = j->ids[i] == OP_MOV64_REG ? func[insn->src_reg] :
					      j->ids[i] == OP_LD_FUNC	? i + 1 + (u32)insn->imm :
									  UINT32_MAX;
		}
		if (op->src == FIELD_RW) {
			map[insn->src_reg] = NO_MAP;
			func[insn->src_reg] = UINT32_MAX;
		}
	}
}

bool jit_reads_site(u32 id)
{
	return id == BPF_FUNC_get_attach_cookie || id == BPF_FUNC_get_func_ip;
}

static struct uerr *check_helpers(const struct jit *j)
{
	if (jit_claims(j) && !jit_helper_addr(j, VM_RT_CLAIM))
		return bad_insn(j, 0, "there is no way to claim a per-CPU slot");
	if (jit_signals(j) && !jit_helper_addr(j, VM_RT_SIGNAL))
		return bad_insn(j, 0, "there is no way to send a signal");
	for (u32 i = 0; i < j->n; i++)
		if (j->ids[i] == OP_CALL_HELPER && j->array[i] == NO_MAP && !jit_reads_site((u32)j->insns[i].imm) &&
		    !jit_helper_addr(j, (u32)j->insns[i].imm))
			return bad_insn(j, i, "the helper that it calls is not there");
	return NULL;
}

static bool needs_frame(const struct jit *j)
{
	if (jit_claims(j))
		return true;
	for (u32 i = 0; i < j->n; i++)
		if (j->ids[i] == OP_CALL_HELPER &&
		    (j->array[i] == NO_MAP || j->in->maps[j->array[i]].map->type == UMAP_PERCPU_ARRAY))
			return true;
	return false;
}

/*
 * Functions
 */

/* Bytes of stack that F touches. Exact when fp is only the base of accesses;
 * an address taken may reach as far as the whole program does, says check.c. */
static u32 stack_depth(const struct jit *j, const struct func *f)
{
	u32 depth = 8, whole = j->in->prog->info.stack_depth;
	bool escapes = false;

	for (u32 i = f->start; i < f->end; i++) {
		const struct bpf_insn *insn = &j->insns[i];
		const struct opcode *op = &opcodes[j->ids[i]];
		bool base = (op->src == FIELD_M && insn->src_reg == BPF_REG_10) ||
			    (op->dst == FIELD_M && insn->dst_reg == BPF_REG_10);

		if (base && insn->off < 0 && -insn->off > (s32)depth)
			depth = (u32)-insn->off;
		if (opcode_uses_src(op) && op->src != FIELD_M && insn->src_reg == BPF_REG_10)
			escapes = true;
	}
	if (escapes && !whole)
		whole = INSN_STACK_SIZE;
	if (escapes && whole > depth)
		depth = whole;
	if (depth > INSN_STACK_SIZE)
		depth = INSN_STACK_SIZE;
	return ALIGN_UP(depth, 8u);
}

static void scan_func(const struct jit *j, struct func *f)
{
	bool main = f == &j->funcs[0], any_call = false;
	u32 bytes;

	for (u32 i = f->start; i < f->end; i++) {
		const struct bpf_insn *insn = &j->insns[i];
		const struct opcode *op = &opcodes[j->ids[i]];
		u16 defs = jit_defs(j, i);

		if (j->at[i] & AT_SECOND)
			continue;
		if (insn->dst_reg == BPF_REG_10 || (opcode_uses_src(op) && insn->src_reg == BPF_REG_10))
			f->uses_fp = true;
		for (u32 r = BPF_REG_6; r <= BPF_REG_9; r++)
			if (defs & 1u << r)
				f->saved |= 1u << jit_reg_of[r];
		if (op->form == FORM_CALL && j->array[i] == NO_MAP)
			f->calls = true;
		any_call |= op->form == FORM_CALL;
	}
	if (main && jit_claims(j))
		f->calls = true;
	f->callback = j->frame && any_call && j->at[f->start] & AT_CALLBACK;
	if ((main && j->frame) || f->callback)
		f->saved |= 1u << R12;
	if (main && jit_locks(j)) { /* its end restores whatever functions have saved by then */
		f->uses_fp = true;
		f->saved |= 1u << RBX | 1u << R12 | 1u << R13 | 1u << R14 | 1u << R15;
	}
	if (f->uses_fp)
		f->depth = stack_depth(j, f);
	bytes = 8 + (f->uses_fp ? 8 : 0) + f->depth + 8 * (u32)__builtin_popcount(f->saved);
	if (f->calls && bytes % 16)
		f->pad = 8;
}

struct uerr *jit_analyse(struct jit *j)
{
	struct uerr *err = decode(j);

	if (!err)
		err = find_targets(j);
	if (!err)
		err = split_funcs(j);
	if (err)
		return err;
	find_map_calls(j);
	err = check_helpers(j);
	if (err)
		return err;
	j->frame = needs_frame(j);
	for (u32 f = 0; f < j->nfuncs; f++)
		scan_func(j, &j->funcs[f]);
	find_live(j);
	find_zero(j);
	for (u32 i = 0, heads = 0; i <= j->n; i++) {
		heads += i < j->n && j->at[i] & AT_LOOP;
		j->loops[i] = heads;
	}
	return NULL;
}
