/* SPDX-License-Identifier: MIT */
/*
 * The xlated listing, in the format of the kernel's kernel/bpf/disasm.c as
 * bpftool prints it, so that people and scripts that know the one can read the
 * other. Driven by the forms of opcodes.def.
 */
#include "vm/disasm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/opcodes.h"

/* Where a line is being printed to. */
struct line {
	const struct bpf_insn *insn;
	const struct opcode *op;
	char *buf;
};

#define PRINT(l, ...) snprintf((l)->buf, DISASM_LINE, __VA_ARGS__)

/* The 32-bit view of a register is w, as in the kernel's listing. */
static char reg_letter(const struct bpf_insn *insn)
{
	u8 class = BPF_CLASS(insn->code);

	return class == BPF_ALU || class == BPF_JMP32 ? 'w' : 'r';
}

static const char *access_type(const struct bpf_insn *insn)
{
	switch (BPF_SIZE(insn->code)) {
	case BPF_B:
		return "u8";
	case BPF_H:
		return "u16";
	case BPF_W:
		return "u32";
	}
	return "u64";
}

static void print_alu(const struct line *l)
{
	const struct bpf_insn *i = l->insn;
	char c = reg_letter(i);

	if (BPF_SRC(i->code) == BPF_X)
		PRINT(l, "(%02x) %c%d %s %c%d", i->code, c, i->dst_reg, l->op->text, c, i->src_reg);
	else
		PRINT(l, "(%02x) %c%d %s %d", i->code, c, i->dst_reg, l->op->text, i->imm);
}

static void print_jump(const struct line *l)
{
	const struct bpf_insn *i = l->insn;
	char c = reg_letter(i);

	if (BPF_SRC(i->code) == BPF_X)
		PRINT(l, "(%02x) if %c%d %s %c%d goto pc%+d", i->code, c, i->dst_reg, l->op->text, c, i->src_reg,
		      i->off);
	else
		PRINT(l, "(%02x) if %c%d %s 0x%x goto pc%+d", i->code, c, i->dst_reg, l->op->text, i->imm, i->off);
}

static void print_call(const struct line *l)
{
	const struct bpf_insn *i = l->insn;
	const char *name;

	if (i->src_reg == BPF_PSEUDO_CALL) {
		PRINT(l, "(%02x) call pc%+d", i->code, i->imm);
		return;
	}
	name = vm_helper_name(i->imm);
	PRINT(l, "(%02x) call %s#%d", i->code, name ? name : "unknown", i->imm);
}

static void print_imm64(const struct line *l, bool whole, const struct vm_map *maps, size_t nmaps)
{
	const struct bpf_insn *i = l->insn;
	char map[32];

	if (!whole) {
		PRINT(l, "(%02x) r%d = ?", i->code, i->dst_reg);
		return;
	}
	if (maps && (u32)i->imm < nmaps)
		snprintf(map, sizeof(map), "map[id:%u]", maps[i->imm].map->id);
	else
		snprintf(map, sizeof(map), "map[idx:%u]", i->imm);
	switch (i->src_reg) {
	case INSN_PSEUDO_MAP_IDX:
		PRINT(l, "(%02x) r%d = %s", i->code, i->dst_reg, map);
		break;
	case INSN_PSEUDO_MAP_IDX_VALUE:
		PRINT(l, "(%02x) r%d = %s[0]+%u", i->code, i->dst_reg, map, (u32)i[1].imm);
		break;
	case INSN_PSEUDO_FUNC:
		PRINT(l, "(%02x) r%d = subprog[%+d]", i->code, i->dst_reg, i->imm);
		break;
	default:
		PRINT(l, "(%02x) r%d = 0x%llx", i->code, i->dst_reg, (unsigned long long)insn_imm64(i));
	}
}

static void print_atomic(const struct line *l)
{
	const struct bpf_insn *i = l->insn;
	const char *width = BPF_SIZE(i->code) == BPF_DW ? "64" : "", *type = access_type(i);
	const char *sign = !strcmp(l->op->text, "add") ? "+" : !strcmp(l->op->text, "or") ? "|" :
			   !strcmp(l->op->text, "and") ? "&" : "^";

	switch (l->op->form) {
	case FORM_ATOMIC:
		PRINT(l, "(%02x) lock *(%s *)(r%d %+d) %s= r%d", i->code, type, i->dst_reg, i->off, sign, i->src_reg);
		break;
	case FORM_FETCH:
		PRINT(l, "(%02x) r%d = atomic%s_fetch_%s((%s *)(r%d %+d), r%d)", i->code, i->src_reg, width,
		      l->op->text, type, i->dst_reg, i->off, i->src_reg);
		break;
	case FORM_XCHG:
		PRINT(l, "(%02x) r%d = atomic%s_xchg((%s *)(r%d %+d), r%d)", i->code, i->src_reg, width, type,
		      i->dst_reg, i->off, i->src_reg);
		break;
	default:
		PRINT(l, "(%02x) r0 = atomic%s_cmpxchg((%s *)(r%d %+d), r0, r%d)", i->code, width, type, i->dst_reg,
		      i->off, i->src_reg);
	}
}

static void print_memory(const struct line *l)
{
	const struct bpf_insn *i = l->insn;

	if (l->op->form == FORM_LOAD)
		PRINT(l, "(%02x) r%d = *(%s *)(r%d %+d)", i->code, i->dst_reg, l->op->text, i->src_reg, i->off);
	else if (BPF_CLASS(i->code) == BPF_STX)
		PRINT(l, "(%02x) *(%s *)(r%d %+d) = r%d", i->code, l->op->text, i->dst_reg, i->off, i->src_reg);
	else
		PRINT(l, "(%02x) *(%s *)(r%d %+d) = %d", i->code, l->op->text, i->dst_reg, i->off, i->imm);
}

u32 disasm_insn(const struct vm_prog *p, u32 at, const struct vm_map *maps, size_t nmaps,
		char ret[static DISASM_LINE])
{
	const struct bpf_insn *i = &p->insns[at];
	bool selected;
	enum opcode_id id = opcode_decode(i, &selected);
	struct line l = { i, &opcodes[id], ret };

	if (!selected || id == OP_NONE) {
		PRINT(&l, "(%02x) unknown: dst %d src %d off %d imm %d", i->code, i->dst_reg, i->src_reg, i->off, i->imm);
		return 1;
	}
	switch (l.op->form) {
	case FORM_ALU:
		print_alu(&l);
		break;
	case FORM_NEG:
		PRINT(&l, "(%02x) %c%d = -%c%d", i->code, reg_letter(i), i->dst_reg, reg_letter(i), i->dst_reg);
		break;
	case FORM_MOVSX:
		PRINT(&l, "(%02x) %c%d = %s%c%d", i->code, reg_letter(i), i->dst_reg, l.op->text, reg_letter(i),
		      i->src_reg);
		break;
	case FORM_END:
		PRINT(&l, "(%02x) r%d = %s r%d", i->code, i->dst_reg, l.op->text, i->dst_reg);
		break;
	case FORM_GOTO:
		PRINT(&l, "(%02x) %s pc%+d", i->code, l.op->text, i->code == 0x06 ? i->imm : i->off);
		break;
	case FORM_JUMP:
		print_jump(&l);
		break;
	case FORM_CALL:
		print_call(&l);
		break;
	case FORM_EXIT:
		PRINT(&l, "(%02x) exit", i->code);
		break;
	case FORM_IMM64:
		print_imm64(&l, at + 1 < p->ninsns, maps, nmaps);
		return 2;
	case FORM_LOAD:
	case FORM_STORE:
		print_memory(&l);
		break;
	default:
		print_atomic(&l);
	}
	return 1;
}

char *disasm_xlated(const struct vm_prog *p, const struct vm_map *maps, size_t nmaps)
{
	char line[DISASM_LINE];
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	bool failed;

	if (!out)
		return NULL;
	for (u32 at = 0; at < p->ninsns;) {
		u32 slots = disasm_insn(p, at, maps, nmaps, line);

		fprintf(out, "%4u: %s\n", at, line);
		at += slots;
	}
	failed = ferror(out);
	if (fclose(out) || failed) {
		free(text);
		return NULL;
	}
	return text;
}
