/* SPDX-License-Identifier: MIT */
/*
 * The interpreter: the reference for what each instruction does (RFC 9669, and
 * the kernel where the RFC leaves room), against which the JIT is tested. Used
 * by tests, by libbpfvm's bpfvm_interpret(), never in a target. It trusts the
 * program's memory accesses, nothing else: unknown instructions, jumps outside,
 * map indexes and call depth are checked as they come.
 *
 * Dispatch is threaded: each handler jumps to the next one through the table
 * of labels that opcodes.def generates.
 */
#include <errno.h>
#include <string.h>

#include "vm/env.h"
#include "vm/jit.h"
#include "vm/opcodes.h"
#include "vm/program.h"
#include "vm/runtime.h"

struct call_frame {
	u64 saved[4]; /* r6 … r9 of the caller */
	u32 back;     /* where the caller goes on */
};

struct machine {
	u64 r[11];
	u32 depth; /* frames below the current one */
	struct call_frame frames[INSN_MAX_FRAMES - 1];
	u8 stack[INSN_MAX_FRAMES * INSN_STACK_SIZE] __attribute__((aligned(16)));
};

/* Accesses need not be aligned. */
#define MEM(type, addr) (((struct { type v; } __attribute__((packed, may_alias)) *)(uintptr_t)(addr))->v)

static u64 div64(u64 a, u64 b)
{
	return b ? a / b : 0;
}

static u64 mod64(u64 a, u64 b)
{
	return b ? a % b : a;
}

/* INT_MIN / -1 would trap: negation wraps to the same result. */
static u64 sdiv64(s64 a, s64 b)
{
	if (b == -1)
		return 0 - (u64)a;
	return b ? a / b : 0;
}

static u64 smod64(s64 a, s64 b)
{
	if (b == -1)
		return 0;
	return b ? a % b : a;
}

static u32 sdiv32(s32 a, s32 b)
{
	if (b == -1)
		return 0 - (u32)a;
	return b ? a / b : 0;
}

static u32 smod32(s32 a, s32 b)
{
	if (b == -1)
		return 0;
	return b ? a % b : a;
}

static long run(struct machine *m, const struct vm_prog *p, const struct vm_map *maps, size_t nmaps,
		struct hook_frame *frame, u64 max_insns)
{
	static const void *const labels[OP_COUNT] = {
		[OP_NONE] = &&bad,
#define OP(id, ...) [OP_##id] = &&op_##id,
#include "vm/opcodes.def"
	};
	const struct bpf_insn *insn;
	u64 *r = m->r;
	u64 left = max_insns ? max_insns : ~0ull;
	u32 pc = 0;
	bool selected;
	helper_fn helper;

#define DST r[insn->dst_reg]
#define SRC r[insn->src_reg]
#define IMM ((u64)(s64)insn->imm)
#define NEXT               \
	do {               \
		pc++;      \
		goto next; \
	} while (0)

next:
	if (pc >= p->ninsns)
		goto bad;
	if (!left--)
		return -ELOOP;
	insn = &p->insns[pc];
	enum opcode_id id = opcode_decode(insn, &selected);
	if (!selected || insn->dst_reg > BPF_REG_10 || insn->src_reg > BPF_REG_10)
		goto bad;
	goto *labels[id];

bad:
	return -EINVAL;

	/* D and S are the operands, of the operation's width. */
#define ALU_FORM(label, type, source, expr) \
	label:                              \
	{                                   \
		type D = DST, S = source;   \
		(void)D;                    \
		DST = (type)(expr);         \
		NEXT;                       \
	}
#define ALU(name, expr64, expr32)                 \
	ALU_FORM(op_##name##64_IMM, u64, IMM, expr64) \
	ALU_FORM(op_##name##64_REG, u64, SRC, expr64) \
	ALU_FORM(op_##name##32_IMM, u32, IMM, expr32) \
	ALU_FORM(op_##name##32_REG, u32, SRC, expr32)

	ALU(ADD, D + S, D + S)
	ALU(SUB, D - S, D - S)
	ALU(MUL, D * S, D * S)
	ALU(DIV, div64(D, S), div64(D, S))
	ALU(SDIV, sdiv64(D, S), sdiv32(D, S))
	ALU(MOD, mod64(D, S), mod64(D, S))
	ALU(SMOD, smod64(D, S), smod32(D, S))
	ALU(OR, D | S, D | S)
	ALU(AND, D & S, D & S)
	ALU(XOR, D ^ S, D ^ S)
	ALU(MOV, S, S)
	ALU(LSH, D << (S & 63), D << (S & 31))
	ALU(RSH, D >> (S & 63), D >> (S & 31))
	ALU(ARSH, (s64)D >> (S & 63), (s32)D >> (S & 31))

#define UNARY(name, expr)       \
	op_##name:              \
	{                       \
		u64 D = DST;    \
		DST = (expr);   \
		NEXT;           \
	}
#define SIGN_EXTEND(name, from, to) \
	op_##name:                  \
	DST = (to)(from)SRC;        \
	NEXT;

	UNARY(NEG64, 0 - D)
	UNARY(NEG32, (u32)(0 - D))
	UNARY(LE16, (u16)D)
	UNARY(LE32, (u32)D)
	UNARY(LE64, D)
	UNARY(BE16, __builtin_bswap16(D))
	UNARY(BE32, __builtin_bswap32(D))
	UNARY(BE64, __builtin_bswap64(D))
	UNARY(BSWAP16, __builtin_bswap16(D))
	UNARY(BSWAP32, __builtin_bswap32(D))
	UNARY(BSWAP64, __builtin_bswap64(D))
	SIGN_EXTEND(MOVSX64_8, s8, s64)
	SIGN_EXTEND(MOVSX64_16, s16, s64)
	SIGN_EXTEND(MOVSX64_32, s32, s64)
	SIGN_EXTEND(MOVSX32_8, s8, u32)
	SIGN_EXTEND(MOVSX32_16, s16, u32)

jump:
	{
		s64 target = insn_jump_target(insn, pc);

		if (target < 0 || target >= p->ninsns)
			goto bad;
		pc = target;
		goto next;
	}

#define JUMP_FORM(label, type, source, cond) \
	label:                               \
	{                                    \
		type D = DST, S = source;    \
		if (cond)                    \
			goto jump;           \
		NEXT;                        \
	}
#define JUMP(name, utype, cond)                                                            \
	JUMP_FORM(op_##name##64_IMM, utype##64, IMM, cond)                                 \
	JUMP_FORM(op_##name##64_REG, utype##64, SRC, cond)                                 \
	JUMP_FORM(op_##name##32_IMM, utype##32, IMM, cond)                                 \
	JUMP_FORM(op_##name##32_REG, utype##32, SRC, cond)

	JUMP(JEQ, u, D == S)
	JUMP(JNE, u, D != S)
	JUMP(JSET, u, D & S)
	JUMP(JGT, u, D > S)
	JUMP(JGE, u, D >= S)
	JUMP(JLT, u, D < S)
	JUMP(JLE, u, D <= S)
	JUMP(JSGT, s, D > S)
	JUMP(JSGE, s, D >= S)
	JUMP(JSLT, s, D < S)
	JUMP(JSLE, s, D <= S)

op_JA:
op_JA32:
	goto jump;

op_CALL_HELPER:
	helper = vm_prog_helper_fn(p, insn->imm);
	if (!helper)
		goto bad;
	r[0] = helper(r[1], r[2], r[3], r[4], r[5], frame);
	NEXT;

op_CALL_LOCAL:
	{
		s64 target = (s64)pc + 1 + insn->imm;

		if (m->depth == INSN_MAX_FRAMES - 1 || target < 0 || target >= p->ninsns)
			goto bad;
		m->frames[m->depth].back = pc + 1;
		memcpy(m->frames[m->depth].saved, &r[6], sizeof(m->frames[0].saved));
		m->depth++;
		r[10] -= INSN_STACK_SIZE;
		pc = target;
		goto next;
	}

op_EXIT:
	if (!m->depth)
		return 0;
	m->depth--;
	memcpy(&r[6], m->frames[m->depth].saved, sizeof(m->frames[0].saved));
	r[10] += INSN_STACK_SIZE;
	pc = m->frames[m->depth].back;
	goto next;

op_LD_IMM64:
	if (pc + 1 >= p->ninsns)
		goto bad;
	DST = insn_imm64(insn);
	pc += 2;
	goto next;

op_LD_MAP:
	if (pc + 1 >= p->ninsns || (u32)insn->imm >= nmaps)
		goto bad;
	DST = (uintptr_t)maps[insn->imm].map;
	pc += 2;
	goto next;

op_LD_MAP_VALUE:
	if (pc + 1 >= p->ninsns || (u32)insn->imm >= nmaps)
		goto bad;
	DST = maps[insn->imm].map->base + maps[insn->imm].map->data_off + (u32)insn[1].imm;
	pc += 2;
	goto next;

op_LD_FUNC: /* no helper takes a callback */
	goto bad;

#define LOAD(name, type)                                 \
	op_##name:                                       \
	DST = (s64)MEM(type, SRC + (s64)insn->off);      \
	NEXT;
#define STORE(size, type)                                \
	op_ST_##size:                                    \
	MEM(type, DST + (s64)insn->off) = insn->imm;     \
	NEXT;                                            \
	op_STX_##size:                                   \
	MEM(type, DST + (s64)insn->off) = SRC;           \
	NEXT;

	LOAD(LDX_B, u8)
	LOAD(LDX_H, u16)
	LOAD(LDX_W, u32)
	LOAD(LDX_DW, u64)
	LOAD(LDSX_B, s8)
	LOAD(LDSX_H, s16)
	LOAD(LDSX_W, s32)
	STORE(B, u8)
	STORE(H, u16)
	STORE(W, u32)
	STORE(DW, u64)

#define CELL(type) ((type *)(uintptr_t)(DST + (s64)insn->off))
#define ATOMIC(bits, name, fn)                                                              \
	op_ATOMIC##bits##_##name:                                                           \
	__atomic_fetch_##fn(CELL(u##bits), (u##bits)SRC, __ATOMIC_SEQ_CST);                 \
	NEXT;                                                                               \
	op_ATOMIC##bits##_FETCH_##name:                                                     \
	SRC = __atomic_fetch_##fn(CELL(u##bits), (u##bits)SRC, __ATOMIC_SEQ_CST);           \
	NEXT;
#define ATOMICS(bits)                                                                       \
	ATOMIC(bits, ADD, add)                                                              \
	ATOMIC(bits, OR, or)                                                                \
	ATOMIC(bits, AND, and)                                                              \
	ATOMIC(bits, XOR, xor)                                                              \
	op_ATOMIC##bits##_XCHG:                                                             \
	SRC = __atomic_exchange_n(CELL(u##bits), (u##bits)SRC, __ATOMIC_SEQ_CST);           \
	NEXT;                                                                               \
	op_ATOMIC##bits##_CMPXCHG:                                                          \
	{                                                                                   \
		u##bits old = r[0];                                                         \
                                                                                            \
		__atomic_compare_exchange_n(CELL(u##bits), &old, (u##bits)SRC, false,       \
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);            \
		r[0] = old;                                                                 \
		NEXT;                                                                       \
	}

	ATOMICS(32)
	ATOMICS(64)
}

long interp_run(const struct vm_prog *p, const struct vm_map *maps, size_t nmaps, u64 r1, u64 r2,
		struct hook_frame *frame, u64 max_insns, u64 *r0)
{
	struct hook_frame own;
	struct machine m;
	long ret;

	if (!frame) {
		frame = &own;
		runtime_self_frame(frame);
	}
	if (p->info.uses_percpu) {
		/* as compiled code does: without a free copy the run is skipped and counted */
		if (runtime_helper(VM_RT_CLAIM)(0, 0, 0, 0, 0, frame) == HOOK_NO_SLOT) {
			*r0 = 0;
			return 0;
		}
	}
	memset(m.r, 0, sizeof(m.r));
	m.depth = 0;
	m.r[1] = r1;
	m.r[2] = r2;
	m.r[10] = (uintptr_t)(m.stack + sizeof(m.stack));
	ret = run(&m, p, maps, nmaps, frame, max_insns);
	if (p->info.uses_percpu)
		runtime_helper(VM_RT_RELEASE)(0, 0, 0, 0, 0, frame);
	if (!ret)
		*r0 = m.r[0];
	return ret;
}
