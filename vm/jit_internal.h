/* SPDX-License-Identifier: MIT */
/*
 * Between the parts of the compiler:
 *
 *	jit_analyse.c   what the instructions are: jump targets, functions, which
 *	                registers are still needed, which upper halves are zero
 *	jit_plan.c      what is emitted together, and what not at all
 *	jit_alu.c       machine code of arithmetic
 *	jit_flow.c      … of jumps and functions' ends
 *	jit_call.c      … of calls
 *	jit.c           … of the rest; the driver
 *
 * Analysis and plan are made once, before any byte; emission runs over the plan
 * as often as jumps need to find their sizes.
 */
#pragma once
#include "vm/emit_x86_64.h"
#include "vm/jit.h"
#include "vm/opcodes.h"

#define NO_MAP (-1)
#define NO_INSN UINT32_MAX
#define JIT_LOOP_ALIGN 32 /* bytes, a power of two */

/* Of each instruction */
enum {
	AT_TARGET = 1,  /* a jump leads here */
	AT_FUNC = 2,    /* a function starts here */
	AT_SHORT = 4,   /* a jump, known to fit in two bytes */
	AT_SKIP = 8,    /* needs no code */
	AT_SECOND = 16, /* second half of an ld_imm64 */
	AT_LOOP = 32,   /* a jump leads back here */
	AT_CALLBACK = 64, /* a function that helpers call starts here */
};

/* How an instruction is emitted together with others (jit_plan.c), which are
 * skipped. `with` is the last of them unless said otherwise. */
enum fuse {
	FUSE_NONE,
	FUSE_EXTEND,    /* d = s; d <<= 32; d >>= 32 (with or without the move) */
	FUSE_ROTATE,    /* t = s; t >>= n; s <<= m; s |= t, and its variants; `with` the second shift */
	FUSE_MOV_OP,    /* d = s; d op= x in one instruction of three operands */
	FUSE_FIELD,     /* d = s; d >>= n; d &= mask */
	FUSE_SHIFT_ADD, /* d <<= n; d += s */
	FUSE_LOAD_OP,   /* t = [m]; d op= t */
	FUSE_LOAD_SWAP, /* d = [m]; d = bswap d */
	FUSE_CLEAR_LOW, /* t = s; t -= 1; s &= t */
	FUSE_SELECT,    /* if …: goto +1; d = s */
	FUSE_SET,       /* d = 1; if …: goto +1; d = 0; the jump leads */
	FUSE_INVERT,    /* if …: goto +1; goto x */
	FUSE_VALUE,     /* d = address of a map value; d += imm */
};

#define NO_REG 0xff

struct step {
	u8 fuse;
	u8 base, index, shift; /* a memory access: x86 registers instead of its own; NO_REG */
	u32 with;
	u32 load; /* a jump: the load whose memory it compares, or the `and` that it tests (of `index`); a group
	           * that begins with a move and a shift: the shift; a call: the helper
	           * to call instead (bpf_loop: `with` is the function, if known); else NO_INSN */
};

struct func {
	u32 start, end;   /* instructions */
	u32 depth;        /* bytes of BPF stack, a multiple of 8 */
	u32 pad;
	bool uses_fp, calls;
	bool callback;    /* called by helpers, and needs the frame, which is in r9 */
	u32 saved;        /* mask of x86 registers to push */
	size_t entry_off; /* of its prologue */
};

struct jit {
	const struct jit_input *in;
	const struct bpf_insn *insns;
	u32 n;
	struct emit e;
	u32 *off;       /* n + 1, from the last pass; the program's insn_off */
	u8 *at;         /* AT_ bits of each instruction */
	u8 *ids;        /* enum opcode_id of each instruction */
	u16 *refs;      /* jumps that lead to it, saturating */
	u16 *live;      /* registers whose values are still needed before it */
	u16 *zero;      /* registers whose upper half is zero before it */
	u32 *loops;     /* loop heads up to and including it, for distances */
	struct step *steps;
	s32 *array;     /* of each call: the array map to look up inline, or NO_MAP */
	struct func *funcs;
	u32 nfuncs;
	const struct func *func; /* being compiled */
	u32 i;          /* instruction being compiled */
	u32 last;       /* the one emitted before it */
	bool first_pass, changed, aligning;
	bool bmi1, bmi2, movbe, frame;
	u32 written;    /* mask of x86 registers */
	size_t exit_off, out_off; /* of the main program's shared end */
	size_t end_off; /* of its end from anywhere in it, with the stack pointer that was kept */
	size_t tail_off; /* where tail calls enter */
	/* What the flags tell, as of instruction flags_at: ZF whether a register is zero … */
	u32 flags_at;
	enum x86_reg zf_reg;
	bool zf_w;
	u32 cmp;        /* … or all of them the comparison of this jump; NO_INSN */
};

extern const u8 jit_reg_of[];

static inline enum x86_reg dst_of(const struct bpf_insn *insn)
{
	return jit_reg_of[insn->dst_reg];
}

static inline enum x86_reg src_of(const struct bpf_insn *insn)
{
	return jit_reg_of[insn->src_reg];
}

/* Marks R as changed. */
static inline enum x86_reg scratch(struct jit *j, enum x86_reg r)
{
	j->written |= 1u << r;
	return r;
}

static inline bool is_64(const struct bpf_insn *insn)
{
	u8 class = BPF_CLASS(insn->code);

	return class == BPF_ALU64 || class == BPF_JMP;
}

static inline enum x86_size size_of(const struct bpf_insn *insn)
{
	switch (BPF_SIZE(insn->code)) {
	case BPF_B:
		return X86_8;
	case BPF_H:
		return X86_16;
	case BPF_W:
		return X86_32;
	}
	return X86_64;
}

static inline bool is_alu(const struct bpf_insn *insn)
{
	return BPF_CLASS(insn->code) == BPF_ALU64 || BPF_CLASS(insn->code) == BPF_ALU;
}

/* The operation of an instruction by register or immediate, of its class. */
static inline bool is_op(const struct bpf_insn *insn, u8 class, u8 op, u8 source)
{
	return insn->code == (class | op | source);
}

/* Whether R is still needed after instruction I, which is no jump. */
static inline bool live_after(const struct jit *j, u32 i, u32 r)
{
	return i + 1 < j->n && j->live[i + 1] & 1u << r;
}

static inline bool upper_zero(const struct jit *j, u32 i, u32 r)
{
	return j->zero[i] & 1u << r;
}

static inline addr_t jit_helper_addr(const struct jit *j, u32 id)
{
	return j->in->helper_addr ? j->in->helper_addr(id, j->in->arg) : 0;
}

/* A program that uses per-CPU maps claims a slot. */
static inline bool jit_claims(const struct jit *j)
{
	return j->in->prog->info.uses_percpu;
}

/* … and one that may send signals looks at its end whether it shall. */
static inline bool jit_signals(const struct jit *j)
{
	return vm_prog_signals(j->in->prog);
}

/* Something is to be done at the end of the main program. */
static inline bool jit_has_end(const struct jit *j)
{
	return jit_claims(j) || jit_signals(j);
}

/* One that takes locks may be ended at any of them. */
static inline bool jit_locks(const struct jit *j)
{
	return vm_prog_calls(j->in->prog, BPF_FUNC_spin_lock);
}

/* jit_analyse.c */
struct uerr *jit_analyse(struct jit *j) UERR_MUST_CHECK;
/* Registers (bits) that the instruction reads, and that it changes. */
u16 jit_uses(const struct jit *j, u32 i);
u16 jit_defs(const struct jit *j, u32 i);
/* Helpers that are a few loads instead of a call. */
bool jit_reads_site(u32 id);

/* jit_plan.c */
void jit_plan(struct jit *j);

/* jit.c */
/* The memory operand of the load or store at I. */
struct x86_mem jit_mem(const struct jit *j, u32 i);

/* What becomes of an instruction: ARG is of the emitter's own choosing. */
typedef void jit_emitter(struct jit *j, const struct bpf_insn *insn, u32 arg);

/* jit_alu.c */
jit_emitter jit_alu_imm, jit_alu_reg, jit_mul_imm, jit_mul_reg, jit_neg, jit_divide_imm, jit_divide_reg, jit_shift_imm,
	jit_shift_reg, jit_mov_imm, jit_mov_reg, jit_movsx, jit_to_le, jit_swap;
jit_emitter jit_fused_extend, jit_fused_rotate, jit_fused_mov_op, jit_fused_field, jit_fused_shift_add,
	jit_fused_load_op, jit_fused_load_swap, jit_fused_clear_low;
enum { DIV_SIGNED = 1, DIV_MOD = 2 };
void jit_zf_tells(struct jit *j, enum x86_reg reg, bool w);

/* jit_flow.c */
jit_emitter jit_jump_always, jit_jump_cond, jit_exit;
jit_emitter jit_fused_select, jit_fused_set, jit_fused_invert;
/* The jump of instruction FROM (this one, or one of its group); CC < 0: always. */
void jit_jump(struct jit *j, int cc, u32 from);
void jit_prologue(struct jit *j, const struct func *f);
/* All that the prologue did is undone. */
void jit_unwind(struct jit *j, const struct func *f);
void jit_main_end(struct jit *j);
/* Makes it possible to end the program anywhere; does that; and where that leads. */
void jit_keep_stack(struct jit *j);
void jit_end_early(struct jit *j);
void jit_early_end(struct jit *j);
/* Of the per-CPU slot; r9 and r10 change. */
void jit_release_slot(struct jit *j);
void jit_send_signals(struct jit *j, enum x86_reg keep);

/* jit_call.c */
jit_emitter jit_call_helper, jit_call_local, jit_func_addr;
void jit_claim_slot(struct jit *j);
/* What a run begins with, and a tail call passes by. */
void jit_tail_entry(struct jit *j);
