/* SPDX-License-Identifier: MIT */
/*
 * The compiler: BPF instructions to x86-64. jit_analyse.c finds out what must be
 * known, jit_plan.c groups what has a shorter form together; here the groups are
 * emitted, in passes.
 *
 * The machine as a program sees it:
 *
 *	r0   r1   r2   r3   r4   r5   r6   r7   r8   r9   fp
 *	rax  rdi  rsi  rdx  rcx  r8   rbx  r13  r14  r15  rbp
 *
 * r1-r5 are where the System V convention wants the arguments of a helper, and
 * the sixth, r9, gets the frame; so a helper call is `mov r9, r12; call`. r9,
 * r10 and r11 are ours. A function that helpers call back gets the frame the same
 * way, and so does not rely on r12, which is theirs. Everything is done with general registers, and the
 * direction flag is left alone.
 *
 * A function (the program, or a subprogram) has the stack
 *
 *	return address
 *	rbp              only if it uses fp; rbp points here: [rbp-1, rbp-depth] are the
 *	BPF stack        program's
 *	padding          so that rsp is a multiple of 16 at calls, if there are any
 *	rbx r12 r13 …    only those that it writes
 *
 * A program that uses per-CPU maps claims a slot at its start and gives it back
 * at its only way out:
 *
 *	main:  … mov r9, r12; call claim; inc rax; jz out      (no slot: rax = 0)
 *	       …
 *	exit:  claims[frame->slot].owner = 0
 *	out:   pop …; ret
 *
 * Jumps are compiled in passes: the first takes every forward jump as long, the
 * following ones shorten what fits, until nothing moves. Only then are the heads
 * of loops aligned: a jump over such heads counts as short only if it is so with
 * whatever padding, so a jump that was short stays short.
 */
#include "vm/jit.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/jit_internal.h"

/* Bytes of code for one instruction, at most */
#define JIT_INSN_BOUND 40
#define JIT_LONG_BOUND 144 /* a call, a division, an atomic operation */
#define JIT_FUNC_BOUND 208 /* a beginning, or an end */
#define JIT_MAX_PASSES 64

const u8 jit_reg_of[] = { RAX, RDI, RSI, RDX, RCX, R8, RBX, R13, R14, R15, RBP };

/*
 * Memory
 */

struct x86_mem jit_mem(const struct jit *j, u32 i)
{
	const struct bpf_insn *insn = &j->insns[i];
	const struct step *s = &j->steps[i];

	if (s->base != NO_REG && s->index != NO_REG && BPF_MODE(insn->code) != BPF_ATOMIC)
		return (struct x86_mem){ s->base, s->index, s->shift, insn->off };
	return x86_at(opcodes[j->ids[i]].form == FORM_LOAD ? src_of(insn) : dst_of(insn), insn->off);
}

static void load(struct jit *j, const struct bpf_insn *insn, u32 sign)
{
	emit_load(&j->e, size_of(insn), sign, dst_of(insn), jit_mem(j, j->i));
}

static void store_imm(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_store_i(&j->e, size_of(insn), jit_mem(j, j->i), insn->imm);
}

static void store_reg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_store_r(&j->e, size_of(insn), jit_mem(j, j->i), src_of(insn));
}

static bool atomic_w(const struct bpf_insn *insn)
{
	return BPF_SIZE(insn->code) == BPF_DW;
}

static void atomic(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_lock_alu(&j->e, atomic_w(insn), op, dst_of(insn), insn->off, src_of(insn));
}

static void atomic_fetch_add(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_lock_xadd(&j->e, atomic_w(insn), dst_of(insn), insn->off, scratch(j, src_of(insn)));
}

static void atomic_xchg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_xchg(&j->e, atomic_w(insn), dst_of(insn), insn->off, scratch(j, src_of(insn)));
}

static void atomic_cmpxchg(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_lock_cmpxchg(&j->e, atomic_w(insn), dst_of(insn), insn->off, src_of(insn));
	scratch(j, RAX);
	if (!atomic_w(insn)) /* on success eax, and so the upper half, is left as it was */
		emit_mov_rr(&j->e, false, RAX, RAX);
}

/* There is no fetching and, or, xor: compute and compare-and-swap until it
 * succeeds. r9 keeps r0, which cmpxchg needs. */
static void atomic_fetch_loop(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	struct emit *e = &j->e;
	bool w = atomic_w(insn);
	enum x86_reg base = dst_of(insn), src = src_of(insn), value = src;
	size_t again;

	emit_mov_rr(e, true, scratch(j, R9), RAX);
	if (base == RAX)
		base = R9;
	if (value == RAX)
		value = R9;
	emit_load(e, w ? X86_64 : X86_32, false, RAX, x86_at(base, insn->off));
	again = e->len;
	emit_mov_rr(e, w, scratch(j, R11), RAX);
	emit_alu_rr(e, w, op, R11, value);
	emit_lock_cmpxchg(e, w, base, insn->off, R11);
	emit_jcc(e, CC_NE, true, (s32)(again - (e->len + 2)));
	if (src != RAX) {
		emit_mov_rr(e, w, scratch(j, src), RAX);
		emit_mov_rr(e, true, RAX, R9);
	} else {
		scratch(j, RAX);
	}
}

/*
 * Constants
 */

static void imm64(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_mov_ri(&j->e, dst_of(insn), insn_imm64(insn));
}

/* Addresses take ten bytes always: the size of a program may not depend on
 * where its maps will be. */
static void map_addr(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	emit_movabs(&j->e, dst_of(insn), j->in->maps[insn->imm].desc_addr);
}

static void map_value_addr(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	const struct umap *m = j->in->maps[insn->imm].map;

	emit_movabs(&j->e, dst_of(insn), m->base + m->data_off + (u32)insn[1].imm);
}

static void map_value_plus(struct jit *j, const struct bpf_insn *insn, u32 op)
{
	const struct umap *m = j->in->maps[insn->imm].map;

	emit_movabs(&j->e, dst_of(insn),
		    m->base + m->data_off + (u32)insn[1].imm + (u64)(s64)j->insns[j->steps[j->i].with].imm);
}

/*
 * What becomes of each instruction
 */

struct emitter {
	jit_emitter *fn;
	u32 arg;
};

#define ALU(name, by_imm, by_reg, arg)                                                         \
	[OP_##name##64_IMM] = { by_imm, arg }, [OP_##name##64_REG] = { by_reg, arg },          \
	[OP_##name##32_IMM] = { by_imm, arg }, [OP_##name##32_REG] = { by_reg, arg }
#define ATOMIC(width, name, op)                                                                \
	[OP_ATOMIC##width##_##name] = { atomic, op },                                          \
	[OP_ATOMIC##width##_FETCH_##name] = { op == X86_ADD ? atomic_fetch_add : atomic_fetch_loop, op }
#define ATOMICS(width)                                                                         \
	ATOMIC(width, ADD, X86_ADD), ATOMIC(width, OR, X86_OR), ATOMIC(width, AND, X86_AND),   \
	ATOMIC(width, XOR, X86_XOR), [OP_ATOMIC##width##_XCHG] = { atomic_xchg, 0 },           \
	[OP_ATOMIC##width##_CMPXCHG] = { atomic_cmpxchg, 0 }

static const struct emitter emitters[OP_COUNT] = {
	ALU(ADD, jit_alu_imm, jit_alu_reg, X86_ADD),
	ALU(SUB, jit_alu_imm, jit_alu_reg, X86_SUB),
	ALU(OR, jit_alu_imm, jit_alu_reg, X86_OR),
	ALU(AND, jit_alu_imm, jit_alu_reg, X86_AND),
	ALU(XOR, jit_alu_imm, jit_alu_reg, X86_XOR),
	ALU(MUL, jit_mul_imm, jit_mul_reg, 0),
	ALU(DIV, jit_divide_imm, jit_divide_reg, 0),
	ALU(SDIV, jit_divide_imm, jit_divide_reg, DIV_SIGNED),
	ALU(MOD, jit_divide_imm, jit_divide_reg, DIV_MOD),
	ALU(SMOD, jit_divide_imm, jit_divide_reg, DIV_MOD | DIV_SIGNED),
	ALU(LSH, jit_shift_imm, jit_shift_reg, X86_SHL),
	ALU(RSH, jit_shift_imm, jit_shift_reg, X86_SHR),
	ALU(ARSH, jit_shift_imm, jit_shift_reg, X86_SAR),
	[OP_NEG64] = { jit_neg, 0 },
	[OP_NEG32] = { jit_neg, 0 },
	[OP_MOV64_IMM] = { jit_mov_imm, 0 },
	[OP_MOV32_IMM] = { jit_mov_imm, 0 },
	[OP_MOV64_REG] = { jit_mov_reg, 0 },
	[OP_MOV32_REG] = { jit_mov_reg, 0 },
	[OP_MOVSX64_8] = { jit_movsx, X86_8 },
	[OP_MOVSX64_16] = { jit_movsx, X86_16 },
	[OP_MOVSX64_32] = { jit_movsx, X86_32 },
	[OP_MOVSX32_8] = { jit_movsx, X86_8 },
	[OP_MOVSX32_16] = { jit_movsx, X86_16 },
	[OP_LE16] = { jit_to_le, X86_16 },
	[OP_LE32] = { jit_to_le, X86_32 },
	[OP_LE64] = { jit_to_le, X86_64 },
	[OP_BE16] = { jit_swap, X86_16 },
	[OP_BE32] = { jit_swap, X86_32 },
	[OP_BE64] = { jit_swap, X86_64 },
	[OP_BSWAP16] = { jit_swap, X86_16 },
	[OP_BSWAP32] = { jit_swap, X86_32 },
	[OP_BSWAP64] = { jit_swap, X86_64 },
	[OP_JA] = { jit_jump_always, 0 },
	[OP_JA32] = { jit_jump_always, 0 },
#define JUMP(name)                                                                             \
	[OP_##name##64_IMM] = { jit_jump_cond, 0 }, [OP_##name##64_REG] = { jit_jump_cond, 0 }, \
	[OP_##name##32_IMM] = { jit_jump_cond, 0 }, [OP_##name##32_REG] = { jit_jump_cond, 0 }
	JUMP(JEQ),
	JUMP(JNE),
	JUMP(JGT),
	JUMP(JGE),
	JUMP(JLT),
	JUMP(JLE),
	JUMP(JSGT),
	JUMP(JSGE),
	JUMP(JSLT),
	JUMP(JSLE),
	JUMP(JSET),
	[OP_CALL_HELPER] = { jit_call_helper, 0 },
	[OP_CALL_LOCAL] = { jit_call_local, 0 },
	[OP_EXIT] = { jit_exit, 0 },
	[OP_LD_IMM64] = { imm64, 0 },
	[OP_LD_FUNC] = { jit_func_addr, 0 },
	[OP_LD_MAP] = { map_addr, 0 },
	[OP_LD_MAP_VALUE] = { map_value_addr, 0 },
	[OP_LDX_B] = { load, false },
	[OP_LDX_H] = { load, false },
	[OP_LDX_W] = { load, false },
	[OP_LDX_DW] = { load, false },
	[OP_LDSX_B] = { load, true },
	[OP_LDSX_H] = { load, true },
	[OP_LDSX_W] = { load, true },
	[OP_ST_B] = { store_imm, 0 },
	[OP_ST_H] = { store_imm, 0 },
	[OP_ST_W] = { store_imm, 0 },
	[OP_ST_DW] = { store_imm, 0 },
	[OP_STX_B] = { store_reg, 0 },
	[OP_STX_H] = { store_reg, 0 },
	[OP_STX_W] = { store_reg, 0 },
	[OP_STX_DW] = { store_reg, 0 },
	ATOMICS(32),
	ATOMICS(64),
};

static jit_emitter *const group_emitters[] = {
	[FUSE_EXTEND] = jit_fused_extend,
	[FUSE_ROTATE] = jit_fused_rotate,
	[FUSE_MOV_OP] = jit_fused_mov_op,
	[FUSE_FIELD] = jit_fused_field,
	[FUSE_SHIFT_ADD] = jit_fused_shift_add,
	[FUSE_LOAD_OP] = jit_fused_load_op,
	[FUSE_LOAD_SWAP] = jit_fused_load_swap,
	[FUSE_CLEAR_LOW] = jit_fused_clear_low,
	[FUSE_SELECT] = jit_fused_select,
	[FUSE_SET] = jit_fused_set,
	[FUSE_INVERT] = jit_fused_invert,
	[FUSE_VALUE] = map_value_plus,
};

/*
 * Compiling
 */

static void set_off(struct jit *j, u32 i, size_t off)
{
	j->changed |= j->off[i] != off;
	j->off[i] = (u32)off;
}

static void note_written(struct jit *j, const struct bpf_insn *insn)
{
	if (opcode_writes_dst(&opcodes[j->ids[j->i]]))
		scratch(j, dst_of(insn));
}

static void align(struct jit *j, u32 to)
{
	if (j->aligning)
		emit_nop(&j->e, (u32)(-j->e.len & (to - 1)));
}

static void compile_insn(struct jit *j)
{
	const struct bpf_insn *insn = &j->insns[j->i];
	const struct emitter *em = &emitters[j->ids[j->i]];

	if (j->at[j->i] & AT_LOOP)
		align(j, JIT_LOOP_ALIGN);
	set_off(j, j->i, j->e.len);
	if (j->at[j->i] & (AT_SECOND | AT_SKIP))
		return;
	note_written(j, insn);
	if (j->steps[j->i].fuse)
		group_emitters[j->steps[j->i].fuse](j, insn, 0);
	else
		em->fn(j, insn, em->arg);
	j->last = j->i;
}

static void compile_func(struct jit *j, struct func *f)
{
	bool main = f == &j->funcs[0];

	j->func = f;
	j->last = NO_INSN;
	f->entry_off = j->e.len;
	if (main)
		jit_tail_entry(j);
	jit_prologue(j, f);
	if (main && j->frame)
		emit_mov_rr(&j->e, true, R12, RDX);
	else if (f->callback)
		emit_mov_rr(&j->e, true, R12, R9);
	if (main && jit_locks(j))
		jit_keep_stack(j);
	if (main && jit_claims(j))
		jit_claim_slot(j);
	for (j->i = f->start; j->i < f->end; j->i++)
		compile_insn(j);
	if (main && jit_has_end(j))
		jit_main_end(j);
	if (main && jit_locks(j))
		jit_early_end(j);
}

static void compile_pass(struct jit *j)
{
	j->changed = false;
	j->e.len = 0;
	j->flags_at = NO_INSN - 1;
	for (u32 f = 0; f < j->nfuncs; f++)
		compile_func(j, &j->funcs[f]);
	set_off(j, j->n, j->e.len);
	j->first_pass = false;
}

/* Compiles until two passes agree on every offset; first without padding, to
 * find out which jumps are short. */
static bool compile(struct jit *j)
{
	j->first_pass = true;
	for (u32 pass = 0; pass < JIT_MAX_PASSES && !j->e.failed; pass++) {
		compile_pass(j);
		if (!pass || j->changed)
			continue;
		if (j->aligning || !j->loops[j->n])
			return !j->e.failed;
		j->aligning = true;
	}
	return false;
}

static u32 clobbers_of(u32 written)
{
	static const struct {
		u8 reg;
		u32 bit;
	} map[] = {
		{ RAX, TARGET_REG_BIT(ax) }, { RCX, TARGET_REG_BIT(cx) }, { RDX, TARGET_REG_BIT(dx) },
		{ RSI, TARGET_REG_BIT(si) }, { RDI, TARGET_REG_BIT(di) }, { R8, TARGET_REG_BIT(r8) },
		{ R9, TARGET_REG_BIT(r9) },  { R10, TARGET_REG_BIT(r10) }, { R11, TARGET_REG_BIT(r11) },
	};
	u32 mask = 0;

	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		if (written & 1u << map[i].reg)
			mask |= map[i].bit;
	return mask;
}

static void jit_deinit(struct jit *j)
{
	free(j->e.buf);
	free(j->off);
	free(j->at);
	free(j->ids);
	free(j->array);
	free(j->funcs);
	free(j->refs);
	free(j->live);
	free(j->zero);
	free(j->loops);
	free(j->steps);
}

/* Asked once: cpuid takes longer than a small program's compilation where it
 * traps into a hypervisor. */
static bool cpu_has_movbe(void)
{
	static int answer;
	int has = __atomic_load_n(&answer, __ATOMIC_RELAXED);
	u32 a, b, c, d;

	if (!has) {
		has = __get_cpuid(1, &a, &b, &c, &d) && c & bit_MOVBE ? 1 : -1;
		__atomic_store_n(&answer, has, __ATOMIC_RELAXED);
	}
	return has > 0;
}

static struct uerr *jit_init(struct jit *j, const struct jit_input *in)
{
	*j = (struct jit){ .in = in, .insns = in->prog->insns, .n = in->prog->ninsns };
	if (!j->n || j->n > INSN_MAX)
		return uerr_new(UERR_REJECTED, "program '%s' has %u instructions; 1 to %u can be compiled", in->prog->name,
				j->n, INSN_MAX);
	j->bmi1 = !(in->flags & JIT_NO_BMI2) && __builtin_cpu_supports("bmi");
	j->bmi2 = !(in->flags & JIT_NO_BMI2) && __builtin_cpu_supports("bmi2");
	j->movbe = !(in->flags & JIT_NO_BMI2) && cpu_has_movbe();
	j->e.cap = jit_size_bound(in->prog);
	j->e.buf = malloc(j->e.cap);
	j->off = calloc(j->n + 1, sizeof(*j->off));
	j->at = calloc(j->n, 1);
	j->ids = calloc(j->n, 1);
	j->array = calloc(j->n, sizeof(*j->array));
	j->refs = calloc(j->n, sizeof(*j->refs));
	j->live = calloc(j->n + 1, sizeof(*j->live));
	j->zero = calloc(j->n, sizeof(*j->zero));
	j->loops = calloc(j->n + 1, sizeof(*j->loops));
	j->steps = calloc(j->n, sizeof(*j->steps));
	if (!j->e.buf || !j->off || !j->at || !j->ids || !j->array || !j->refs || !j->live || !j->zero || !j->loops ||
	    !j->steps)
		return uerr_nomem();
	return NULL;
}

static bool is_any_jump(const struct bpf_insn *insn)
{
	return BPF_CLASS(insn->code) == BPF_JMP || BPF_CLASS(insn->code) == BPF_JMP32;
}

static bool is_long(const struct bpf_insn *insn)
{
	u8 class = BPF_CLASS(insn->code), op = BPF_OP(insn->code);

	if (class == BPF_ALU || class == BPF_ALU64)
		return op == BPF_DIV || op == BPF_MOD;
	if (class == BPF_STX)
		return BPF_MODE(insn->code) == BPF_ATOMIC;
	return insn->code == (BPF_JMP | BPF_CALL);
}

size_t jit_size_bound(const struct vm_prog *prog)
{
	size_t size = JIT_FUNC_BOUND;

	for (u32 i = 0; i < prog->ninsns; i++) {
		const struct bpf_insn *insn = &prog->insns[i];

		size += is_long(insn) ? JIT_LONG_BOUND : JIT_INSN_BOUND;
		if ((insn->code == (BPF_JMP | BPF_CALL) && insn->src_reg == BPF_PSEUDO_CALL) ||
		    (insn->code == (BPF_LD | BPF_IMM | BPF_DW) && insn->src_reg == INSN_PSEUDO_FUNC))
			size += JIT_FUNC_BOUND; /* maybe another function */
		else if (is_any_jump(insn) && insn_jump_target(insn, i) <= i)
			size += JIT_LOOP_ALIGN;
		else if (insn->code == (BPF_JMP | BPF_EXIT))
			size += JIT_FUNC_BOUND;
	}
	return size;
}

struct uerr *jit_compile(const struct jit_input *in, struct jit_output *ret)
{
	struct jit j cleanup(jit_deinit);
	struct uerr *err = jit_init(&j, in);

	if (!err)
		err = jit_analyse(&j);
	if (err)
		return err;
	jit_plan(&j);
	if (!compile(&j))
		return uerr_new(UERR_FAILED, "program '%s' could not be compiled: its code does not come to rest",
				in->prog->name);
	*ret = (struct jit_output){
		.code = steal_ptr(j.e.buf),
		.size = j.e.len,
		.entry = in->code_addr,
		.tail_entry = in->code_addr + j.tail_off,
		.uses_frame = j.frame,
		.clobbers = clobbers_of(j.written),
		.insn_off = steal_ptr(j.off),
	};
	return NULL;
}

void jit_output_deinit(struct jit_output *out)
{
	free(out->code);
	free(out->insn_off);
	*out = (struct jit_output){ 0 };
}
