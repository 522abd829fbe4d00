/* SPDX-License-Identifier: MIT */
/*
 * Machine code of calls: of the program's own functions, and of helpers, some of
 * which are not called at all: lookups in arrays and deletes from them, and what
 * only reads a few constants; others only in uncommon cases.
 */
#include <errno.h>

#include "vm/jit_internal.h"

#define CALLER_SAVED                                                                                  \
	(1u << RAX | 1u << RCX | 1u << RDX | 1u << RSI | 1u << RDI | 1u << R8 | 1u << R9 | 1u << R10 | \
	 1u << R11)

static bool fits32(s64 v)
{
	return v == (s32)v;
}

/* Near if it is from anywhere in the code, so that no pass changes its mind. */
static bool is_near(const struct jit *j, addr_t fn)
{
	s64 rel = (s64)(fn - j->in->code_addr);

	return fits32(rel) && fits32(rel - (s64)j->e.cap);
}

static void call_addr(struct jit *j, addr_t fn)
{
	s64 rel = (s64)(fn - j->in->code_addr);

	j->written |= CALLER_SAVED;
	emit_mov_rr(&j->e, true, R9, R12);
	if (is_near(j, fn)) {
		emit_call_rel(&j->e, (s32)(rel - (s64)(j->e.len + 5)));
	} else {
		emit_movabs(&j->e, RAX, fn);
		emit_call_r(&j->e, RAX);
	}
}

/* The helper returns for us: nothing of our stack may be its argument. */
static void tail_call_addr(struct jit *j, addr_t fn)
{
	s64 rel = (s64)(fn - j->in->code_addr);

	j->written |= CALLER_SAVED;
	emit_mov_rr(&j->e, true, R9, R12);
	jit_unwind(j, j->func);
	emit_jmp(&j->e, false, (s32)(rel - (s64)(j->e.len + 5)));
}

static bool is_tail_call(const struct jit *j, addr_t fn)
{
	u32 k = j->i + 1;

	return k < j->func->end && j->ids[k] == OP_EXIT && !j->func->uses_fp && !jit_has_end(j) && is_near(j, fn);
}

/* A program that makes tail calls counts them from 0. What it goes on in enters behind
 * this, and may look for a signal that only this run can have left. */
void jit_tail_entry(struct jit *j)
{
	bool tail_calls = vm_prog_calls(j->in->prog, BPF_FUNC_tail_call);

	if (tail_calls)
		emit_store_i(&j->e, X86_8, x86_at(RDX, offsetof(struct hook_frame, tail_calls)), 0);
	if (jit_signals(j) || tail_calls)
		emit_store_i(&j->e, X86_16, x86_at(RDX, offsetof(struct hook_frame, signal)), 0);
	j->tail_off = j->e.len;
}

/* The helper says where to go on, which is as if we had been entered there: with
 * our ctx, nothing of ours on the stack, and no slot. */
static void tail_call(struct jit *j, addr_t fn)
{
	struct emit *e = &j->e;
	size_t none;

	emit_push(e, RDI);
	emit_push(e, RDI); /* or the stack is not aligned */
	call_addr(j, fn);
	emit_pop(e, RDI);
	emit_pop(e, RDI);
	emit_test_rr(e, true, RAX, RAX);
	none = emit_jcc_fwd(e, CC_E);
	if (jit_claims(j))
		jit_release_slot(j);
	if (jit_signals(j))
		jit_send_signals(j, RDI);
	emit_alu_rr(e, false, X86_XOR, RSI, RSI);
	emit_mov_rr(e, true, RDX, R12);
	jit_unwind(j, j->func);
	emit_jmp_r(e, RAX);
	emit_land(e, none);
}

/* Sends what the run wants sent; rax and KEEP stay. */
void jit_send_signals(struct jit *j, enum x86_reg keep)
{
	struct emit *e = &j->e;
	size_t none;

	emit_cmp_mi(e, X86_16, x86_at(R12, offsetof(struct hook_frame, signal)), 0);
	none = emit_jcc_fwd(e, CC_E);
	emit_push(e, RAX);
	emit_push(e, keep);
	call_addr(j, jit_helper_addr(j, VM_RT_SIGNAL));
	emit_pop(e, keep);
	emit_pop(e, RAX);
	emit_land(e, none);
}

/* The helper says whether we have it; if not, the program ends. */
static void take_lock(struct jit *j, addr_t fn)
{
	size_t had;

	call_addr(j, fn);
	emit_test_rr(&j->e, false, RAX, RAX);
	had = emit_jcc_fwd(&j->e, CC_E);
	jit_end_early(j);
	emit_land(&j->e, had);
}

/* Claims a slot; without one the program ends here, its result 0. */
void jit_claim_slot(struct jit *j)
{
	struct emit *e = &j->e;

	emit_push(e, RDI);
	emit_push(e, RSI);
	call_addr(j, jit_helper_addr(j, VM_RT_CLAIM));
	emit_pop(e, RSI);
	emit_pop(e, RDI);
	emit_alu_ri(e, true, X86_ADD, RAX, 1); /* HOOK_NO_SLOT is -1 */
	emit_jcc(e, CC_E, false, (s32)((s64)j->out_off - (s64)(e->len + 6)));
}

/* reg *= n */
static void scale(struct emit *e, enum x86_reg reg, u32 n)
{
	if (n & (n - 1))
		emit_imul_rri(e, true, reg, reg, (s32)n);
	else if (n > 1)
		emit_shift_i(e, true, X86_SHL, reg, (u8)__builtin_ctz(n));
}

/*
 * Array lookup: rax = *(u32 *)rsi < max_entries ? base + index * stride : 0 (per
 * CPU: + slot * slot_stride). With a test for NULL behind it, the bounds check
 * jumps where that would.
 *
 *	mov r9d, [rsi]; xor eax, eax; cmp r9d, max; jae 1f
 *	movabs rax, base; lea rax, [rax + r9 * 8]; 1:
 */
static void lookup_array(struct jit *j, const struct umap *m)
{
	struct emit *e = &j->e;
	u32 null_test = j->steps[j->i].with;
	bool percpu = m->type == UMAP_PERCPU_ARRAY;
	bool sib = m->elem_stride == 8; /* strides are multiples of 8 */
	size_t out = 0;

	emit_load(e, X86_32, false, scratch(j, R9), x86_at(RSI, 0));
	emit_alu_rr(e, false, X86_XOR, scratch(j, RAX), RAX);
	emit_alu_ri(e, false, X86_CMP, R9, (s32)m->max_entries);
	if (null_test != NO_INSN)
		jit_jump(j, CC_AE, null_test);
	else
		out = emit_jcc_fwd(e, CC_AE);
	if (!sib)
		scale(e, R9, m->elem_stride);
	if (percpu) {
		emit_load(e, X86_64, false, scratch(j, R11), x86_at(R12, offsetof(struct hook_frame, slot)));
		scale(e, R11, (u32)m->slot_stride);
	}
	emit_movabs(e, RAX, m->base + m->data_off);
	if (percpu)
		emit_alu_rr(e, true, X86_ADD, RAX, R11);
	emit_lea(e, true, RAX, (struct x86_mem){ RAX, R9, sib ? 3 : 0, 0 });
	if (null_test == NO_INSN)
		emit_land(e, out);
}

/* What deleting from an array always gives (umap_delete). */
static s64 array_delete_result(const struct umap *m)
{
	return m->frozen ? -EPERM : -EINVAL;
}

/*
 * Helpers whose common case is a few loads. What is out of the ordinary jumps to
 * the call, which the others jump over.
 */

#define MAX_ODD 6

struct quick {
	size_t odd[MAX_ODD];
	u32 nodd;
};

static void quick_unless(struct jit *j, struct quick *q, enum x86_cond cc)
{
	q->odd[q->nodd++] = emit_jcc_fwd(&j->e, cc);
}

static void quick_end(struct jit *j, const struct quick *q, addr_t fn)
{
	size_t done = emit_jmp_fwd(&j->e);

	for (u32 i = 0; i < q->nodd; i++)
		emit_land(&j->e, q->odd[i]);
	call_addr(j, fn);
	emit_land(&j->e, done);
}

/* r9 = the target's struct target_env */
static void load_env(struct jit *j)
{
	emit_load(&j->e, X86_64, false, scratch(j, R9), x86_at(R12, offsetof(struct hook_frame, site)));
	emit_load(&j->e, X86_64, false, R9, x86_at(R9, offsetof(struct site_data, env)));
}

/* As rt_cpu(): struct rseq's cpu_id, negative when it is not registered. */
static void quick_cpu(struct jit *j, addr_t fn)
{
	struct emit *e = &j->e;
	struct quick q = { 0 };

	load_env(j);
	emit_load(e, X86_64, false, R9, x86_at(R9, offsetof(struct target_env, rseq_off)));
	emit_test_rr(e, true, R9, R9);
	quick_unless(j, &q, CC_E);
	emit_load_fs32(e, RAX, x86_at(R9, 4));
	emit_test_rr(e, false, RAX, RAX);
	quick_unless(j, &q, CC_S);
	quick_end(j, &q, fn);
}

/* As rt_tgid() << 32 | rt_tid(). */
static void quick_pid_tgid(struct jit *j, addr_t fn)
{
	struct emit *e = &j->e;
	struct quick q = { 0 };

	load_env(j);
	emit_load(e, X86_64, false, scratch(j, R10), x86_at(R9, offsetof(struct target_env, private_)));
	emit_load(e, X86_64, false, scratch(j, R11), x86_at(R9, offsetof(struct target_env, tid_off)));
	emit_test_rr(e, true, R10, R10);
	quick_unless(j, &q, CC_E);
	emit_test_rr(e, true, R11, R11);
	quick_unless(j, &q, CC_E);
	emit_load(e, X86_32, false, RAX, x86_at(R10, offsetof(struct target_private, tgid)));
	emit_load_fs32(e, R11, x86_at(R11, 0));
	emit_test_rr(e, false, RAX, RAX);
	quick_unless(j, &q, CC_E);
	emit_test_rr(e, false, R11, R11);
	quick_unless(j, &q, CC_E);
	emit_shift_i(e, true, X86_SHL, RAX, 32);
	emit_alu_rr(e, true, X86_OR, RAX, R11);
	quick_end(j, &q, fn);
}

/*
 * As clock_read() of the runtime: the line from the last time that the kernel was
 * asked, while it holds; r1 to r5 are nobody's after a call.
 *
 *	r9 = clock; r10 = seq; odd?
 *	rax = tsc - r9->tsc; rax >= r9->ticks: call
 *	rax = rax * r9->mult >> 32 + r9->ns; r9->seq != r10: call
 */
static void quick_ktime(struct jit *j, addr_t fn)
{
#define CLOCK(field) x86_at(R9, offsetof(struct target_private, clock.field))
	struct emit *e = &j->e;
	struct quick q = { 0 };

	load_env(j);
	emit_load(e, X86_64, false, R9, x86_at(R9, offsetof(struct target_env, private_)));
	emit_test_rr(e, true, R9, R9);
	quick_unless(j, &q, CC_E);
	emit_load(e, X86_32, false, scratch(j, R10), CLOCK(seq));
	emit_test_ri(e, false, R10, 1);
	quick_unless(j, &q, CC_NE);
	emit_load(e, X86_64, false, scratch(j, R11), CLOCK(ticks));
	emit_test_rr(e, true, R11, R11);
	quick_unless(j, &q, CC_E); /* no clock to be read: the instruction may be forbidden */
	emit_rdtsc(e);
	emit_shift_i(e, true, X86_SHL, scratch(j, RDX), 32);
	emit_alu_rr(e, true, X86_OR, scratch(j, RAX), RDX);
	emit_alu_rm(e, true, X86_SUB, RAX, CLOCK(tsc));
	emit_alu_rr(e, true, X86_CMP, RAX, R11);
	quick_unless(j, &q, CC_AE);
	emit_imul_rm(e, true, RAX, CLOCK(mult));
	emit_shift_i(e, true, X86_SHR, RAX, 32);
	emit_alu_rm(e, true, X86_ADD, RAX, CLOCK(ns));
	emit_alu_rm(e, false, X86_CMP, R10, CLOCK(seq));
	quick_unless(j, &q, CC_NE);
	quick_end(j, &q, fn);
#undef CLOCK
}

/*
 * Jumps to the call unless SIZE bytes at ADDR lie between our stack pointer and
 * the end of the stack that the thread's record names, as on_stack() of the
 * runtime has it.
 *
 *	r10 = frame->rec;  rsp < r10->stack_lo: call;  addr < rsp: call
 *	r11 = r10->stack_hi - addr;  r11 < 0 or r11 < size: call
 */
static void quick_on_stack(struct jit *j, struct quick *q, enum x86_reg addr, enum x86_size size)
{
#define REC(field) x86_at(R10, offsetof(struct thread_rec, field))
	struct emit *e = &j->e;

	emit_load(e, X86_64, false, scratch(j, R10), x86_at(R12, offsetof(struct hook_frame, rec)));
	emit_alu_rm(e, true, X86_CMP, RSP, REC(stack_lo));
	quick_unless(j, q, CC_B);
	emit_alu_rr(e, true, X86_CMP, addr, RSP);
	quick_unless(j, q, CC_B);
	emit_load(e, X86_64, false, scratch(j, R11), REC(stack_hi));
	emit_alu_rr(e, true, X86_SUB, R11, addr);
	quick_unless(j, q, CC_B);
	emit_alu_ri(e, true, X86_CMP, R11, 1 << size);
	quick_unless(j, q, CC_B);
#undef REC
}

/* probe_read of 1, 2, 4 or 8 bytes of the stack */
static void quick_read(struct jit *j, enum x86_size size, addr_t fn)
{
	struct emit *e = &j->e;
	struct quick q = { 0 };

	quick_on_stack(j, &q, RDX, size);
	emit_load(e, size, false, R11, x86_at(RDX, 0));
	emit_alu_rr(e, false, X86_XOR, RAX, RAX);
	emit_store_r(e, size, x86_at(RDI, 0), R11);
	quick_end(j, &q, fn);
}

/* probe_write_user of 1, 2, 4 or 8 bytes to the stack */
static void quick_write(struct jit *j, enum x86_size size, addr_t fn)
{
	struct emit *e = &j->e;
	struct quick q = { 0 };

	quick_on_stack(j, &q, RDI, size);
	emit_load(e, size, false, R11, x86_at(RSI, 0));
	emit_alu_rr(e, false, X86_XOR, RAX, RAX);
	emit_store_r(e, size, x86_at(RDI, 0), R11);
	quick_end(j, &q, fn);
}

/* The size of the read or write at j->i, if it is known and that of a scalar;
 * else negative. Without facts: a constant put into register ARG on the way here. */
static int access_size(const struct jit *j, u32 arg)
{
	const struct insn_fact *facts = j->in->prog->facts;
	s64 size = -1;

	if (facts && facts[j->i].flags & FACT_SIZE)
		size = facts[j->i].size;
	for (u32 k = j->i; size < 0 && k-- > j->func->start && !(j->at[k + 1] & (AT_TARGET | AT_FUNC));) {
		if (j->at[k] & AT_SECOND || !(jit_defs(j, k) & 1u << arg))
			continue;
		if (j->ids[k] != OP_MOV64_IMM && j->ids[k] != OP_MOV32_IMM)
			return -1;
		size = (u32)j->insns[k].imm;
	}
	return size == 1 ? X86_8 : size == 2 ? X86_16 : size == 4 ? X86_32 : size == 8 ? X86_64 : -1;
}

static void lookup_site(struct jit *j, u32 id)
{
	emit_load(&j->e, X86_64, false, scratch(j, RAX), x86_at(R12, offsetof(struct hook_frame, site)));
	emit_load(&j->e, X86_64, false, RAX,
		  x86_at(RAX, id == BPF_FUNC_get_func_ip ? offsetof(struct site_data, func_ip) :
							   offsetof(struct site_data, cookie)));
}

static bool call_quick(struct jit *j, u32 id, addr_t fn)
{
	switch (id) {
	case BPF_FUNC_get_smp_processor_id:
		quick_cpu(j, fn);
		return true;
	case BPF_FUNC_ktime_get_ns:
		quick_ktime(j, fn);
		return true;
	case BPF_FUNC_get_current_pid_tgid:
		quick_pid_tgid(j, fn);
		return true;
	case BPF_FUNC_probe_read:
	case BPF_FUNC_probe_read_user:
	case BPF_FUNC_probe_read_kernel:
	case BPF_FUNC_copy_from_user:
		if (access_size(j, BPF_REG_2) < 0)
			return false;
		quick_read(j, (enum x86_size)access_size(j, BPF_REG_2), fn);
		return true;
	case BPF_FUNC_probe_write_user:
		if (access_size(j, BPF_REG_3) < 0)
			return false;
		quick_write(j, (enum x86_size)access_size(j, BPF_REG_3), fn);
		return true;
	}
	return false;
}

static const struct func *func_at(const struct jit *j, s64 insn)
{
	u32 lo = 0, hi = j->nfuncs;

	while (hi - lo > 1) {
		u32 mid = lo + (hi - lo) / 2;

		if (j->funcs[mid].start <= insn)
			lo = mid;
		else
			hi = mid;
	}
	return &j->funcs[lo];
}

#define LOOPS_MAX (1u << 23)
#define LOOP_REGS 4

/*
 * bpf_loop, as rt_loop() of the runtime; the four registers are the program's.
 *
 *	flags, or too many: rax = error, out
 *	push …; r13 = n, r14 = fn, r15 = arg; rbx = 0; jmp 2f
 *	1: rdi = rbx, rsi = r15, r9 = frame; call r14 (or fn, if known); inc rbx; test rax; jnz 3f
 *	2: cmp rbx, r13; jb 1b
 *	3: rax = rbx; pop …
 */
static void call_loop(struct jit *j)
{
	static const u8 regs[LOOP_REGS] = { RBX, R13, R14, R15 };
	struct emit *e = &j->e;
	u32 func = j->steps[j->i].with;
	size_t out[2], entry, stop, again;

	j->written |= CALLER_SAVED;
	emit_mov_ri(e, RAX, (u64)-EINVAL);
	emit_test_rr(e, true, RCX, RCX);
	out[0] = emit_jcc_fwd(e, CC_NE);
	emit_mov_ri(e, RAX, (u64)-E2BIG);
	emit_alu_ri(e, false, X86_CMP, RDI, (s32)LOOPS_MAX);
	out[1] = emit_jcc_fwd(e, CC_A);
	for (u32 i = 0; i < LOOP_REGS; i++)
		emit_push(e, regs[i]);
	emit_mov_rr(e, false, R13, RDI);
	emit_mov_rr(e, true, R14, RSI);
	emit_mov_rr(e, true, R15, RDX);
	emit_alu_rr(e, false, X86_XOR, RBX, RBX);
	entry = emit_jmp_fwd(e);
	again = e->len;
	emit_mov_rr(e, false, RDI, RBX);
	emit_mov_rr(e, true, RSI, R15);
	emit_mov_rr(e, true, R9, R12);
	if (func != NO_INSN)
		emit_call_rel(e, (s32)((s64)func_at(j, func)->entry_off - (s64)(e->len + 5)));
	else
		emit_call_r(e, R14);
	emit_alu_ri(e, false, X86_ADD, RBX, 1);
	emit_test_rr(e, true, RAX, RAX);
	stop = emit_jcc_fwd(e, CC_NE);
	emit_land(e, entry);
	emit_alu_rr(e, false, X86_CMP, RBX, R13);
	emit_jcc(e, CC_B, true, (s32)(again - (e->len + 2)));
	emit_land(e, stop);
	emit_mov_rr(e, false, RAX, RBX);
	for (u32 i = LOOP_REGS; i--;)
		emit_pop(e, regs[i]);
	emit_land(e, out[0]);
	emit_land(e, out[1]);
}

static void call_array(struct jit *j, u32 id)
{
	const struct umap *m = j->in->maps[j->array[j->i]].map;

	if (id == BPF_FUNC_map_delete_elem)
		emit_mov_ri(&j->e, scratch(j, RAX), (u64)array_delete_result(m));
	else
		lookup_array(j, m);
}

void jit_call_helper(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	u32 id = (u32)insn->imm, special = j->steps[j->i].load;
	addr_t fn;

	if (j->array[j->i] != NO_MAP)
		return call_array(j, id);
	if (jit_reads_site(id))
		return lookup_site(j, id);
	if (id == BPF_FUNC_loop)
		return call_loop(j);
	fn = jit_helper_addr(j, special != NO_INSN ? special : id);
	if (id == BPF_FUNC_tail_call)
		tail_call(j, fn);
	else if (id == BPF_FUNC_spin_lock)
		take_lock(j, fn);
	else if (is_tail_call(j, fn))
		tail_call_addr(j, fn);
	else if (!call_quick(j, id, fn))
		call_addr(j, fn);
}

void jit_call_local(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	const struct func *callee = func_at(j, (s64)j->i + 1 + insn->imm);

	j->written |= CALLER_SAVED;
	if (callee->callback)
		emit_mov_rr(&j->e, true, R9, R12);
	emit_call_rel(&j->e, (s32)((s64)callee->entry_off - (s64)(j->e.len + 5)));
}

/* A function of the program, for a helper that calls it. */
void jit_func_addr(struct jit *j, const struct bpf_insn *insn, u32 arg)
{
	emit_movabs(&j->e, dst_of(insn), j->in->code_addr + func_at(j, (s64)j->i + 1 + insn->imm)->entry_off);
}
