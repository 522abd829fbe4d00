/* SPDX-License-Identifier: MIT */
/*
 * The interpreter: the reference for what each instruction does (RFC 9669, and
 * the kernel where the RFC leaves room), against which the JIT is tested. Used
 * by tests, by libbpfvm's bpfvm_interpret(), never in a target. It trusts the
 * program's memory accesses, nothing else: unknown instructions, jumps outside,
 * map indexes and call depth are checked as they come.
 *
 * A program is decoded first: for each instruction the place of its handler, its
 * registers, and its number in full width. Dispatch is threaded: each handler
 * jumps straight to that of the next instruction; some do two. Instructions are counted by the
 * block, at the jumps that lead into them. What cannot be executed (an
 * unknown instruction, a jump that leads outside, the end) decodes to a handler
 * that says so when it is reached.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vm/env.h"
#include "vm/interp.h"
#include "vm/jit.h"
#include "vm/opcodes.h"
#include "vm/program.h"
#include "vm/runtime.h"

/* An instruction, decoded */
struct op {
	const void *handler;
	u64 imm;     /* sign-extended; map or helper: its address; ja32, local call: as off */
	u8 dst, src;
	s16 off;     /* memory: displacement; jump: from the next instruction */
	/* What ends a block (a jump, local call, exit): instructions in the block that
	 * it leads to, and in the one behind it. Others: 0, and what is left of theirs. */
	u16 taken, next;
};

struct interp_code {
	const struct vm_prog *prog;
	u32 n;
	struct op ops[]; /* n, and one behind the end */
};

/* Instructions from OP on to the end of its block. */
static u32 span(const struct op *op)
{
	return op->taken ? 1 : op->next;
}

/* Programs up to this size are decoded on the stack by interp_run(). */
#define SMALL 256

struct call_frame {
	u64 saved[4];          /* r6 … r9 of the caller */
	const struct op *back; /* where the caller goes on */
};

struct machine {
	u64 r[11];
	u32 depth; /* frames below the current one */
	u64 left;  /* of run(), from one to the next */
	long failed; /* of a run() inside of a helper */
	bool clear_stack;
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

/*
 * Two instructions by one handler, where they often stand together (in the
 * programs of tests/bench/jit) and the second goes on with what the first made,
 * which then need not go through memory. The second keeps its own handler, for
 * those who jump to it. What must hold beside the opcodes:
 *
 *	DST   the second's destination is the first's, and its source another
 *	BASE  the second's source, an address, is the first's destination
 *	ANY   nothing
 */
#define PAIRS(PAIR)                                                                                       \
	PAIR(MOV64_REG, ADD64_IMM, DST) PAIR(MOV64_REG, ADD64_REG, DST) PAIR(MOV64_REG, XOR64_REG, DST)   \
	PAIR(MOV64_REG, AND64_IMM, DST) PAIR(MOV64_REG, LSH64_IMM, DST) PAIR(MOV64_REG, RSH64_IMM, DST)   \
	PAIR(MOV32_REG, ADD32_IMM, DST) PAIR(MOV32_REG, AND32_IMM, DST) PAIR(MOV32_REG, XOR32_REG, DST)   \
	PAIR(MOV32_REG, SUB32_REG, DST) PAIR(MOV32_REG, RSH32_IMM, DST) PAIR(LDX_B, LSH64_IMM, DST)       \
	PAIR(LSH64_IMM, OR64_REG, DST) PAIR(LSH64_IMM, XOR64_REG, DST) PAIR(LSH64_IMM, ADD64_REG, DST)    \
	PAIR(RSH64_IMM, XOR64_REG, DST) PAIR(RSH64_IMM, ADD64_REG, DST) PAIR(RSH64_IMM, AND64_IMM, DST)   \
	PAIR(XOR64_REG, MUL64_IMM, DST) PAIR(MUL64_IMM, ADD64_IMM, DST) PAIR(LD_MAP_VALUE, ADD64_REG, DST) \
	PAIR(ADD64_REG, LDX_B, BASE) PAIR(ADD64_REG, LDX_W, BASE) PAIR(ADD64_REG, LDX_DW, BASE)           \
	PAIR(ADD64_IMM, JEQ64_IMM, DST) PAIR(ADD64_IMM, JNE64_IMM, DST) PAIR(ADD32_IMM, JEQ32_IMM, DST)   \
	PAIR(RSH32_IMM, JEQ32_IMM, DST) PAIR(JEQ64_IMM, JA, ANY) PAIR(JEQ32_IMM, JA, ANY)                 \
	PAIR(JLT32_REG, MOV32_REG, ANY) PAIR(JGT32_REG, MOV32_REG, ANY) PAIR(JGT32_IMM, MOV32_REG, ANY)   \
	PAIR(MOV32_REG, JLT32_REG, ANY) PAIR(MOV64_REG, JEQ64_IMM, ANY) PAIR(MOV64_REG, MOV64_REG, ANY)

/* Handlers that are no instruction's own */
enum {
	HANDLER_CALL_BACK = OP_COUNT,
	HANDLER_TAIL_CALL,
	HANDLER_LOCK,
#define PAIR(first, second, if) PAIR_##first##_##second,
	PAIRS(PAIR)
#undef PAIR
	HANDLERS
};

static u64 call_back(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct hook_frame *frame);

/* Of the helper that calls back and runs now, on this thread. */
struct callback {
	struct machine *m;
	const struct op *op; /* the function */
};
static __thread const struct callback *calling_back __attribute__((tls_model("initial-exec")));

/* What run() gives when the program goes on in that of r0, a struct interp_code. */
#define RAN_ON 1
/* … and when it ends early, wherever in it that is: a lock was not to be had. */
#define RAN_OUT 2

/* Runs from OP on until the function that it is in returns, m->left instructions
 * at most; with M NULL only tells where the handlers are. */
static long run(struct machine *m, const struct op *op, struct hook_frame *frame, const void *const **handlers)
{
	static const void *const labels[HANDLERS] = {
		[HANDLER_TAIL_CALL] = &&op_tail_call,
		[HANDLER_LOCK] = &&op_lock,
		[OP_NONE] = &&bad,
		[HANDLER_CALL_BACK] = &&op_call_back,
#define PAIR(first, second, if) [PAIR_##first##_##second] = &&pair_##first##_##second,
		PAIRS(PAIR)
#undef PAIR
#define OP(id, ...) [OP_##id] = &&op_##id,
#include "vm/opcodes.def"
	};
	u64 *r, left;
	u32 bottom;

#define DST r[op->dst]
#define SRC r[op->src]
#define IMM op->imm
#define DISPATCH goto *op->handler
/* N more instructions are about to be executed */
#define COUNT(n)                                      \
	do {                                          \
		if (__builtin_expect(left < (n), 0))  \
			return -ELOOP;                \
		left -= (n);                          \
	} while (0)
#define NEXT              \
	do {              \
		op++;     \
		DISPATCH; \
	} while (0)

	if (!m) {
		*handlers = labels;
		return 0;
	}
	r = m->r;
	left = m->left;
	bottom = m->depth;
	COUNT(span(op));
	DISPATCH;

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

#define GO_IF(cond)                  \
	if (cond) {                  \
		COUNT(op->taken);    \
		op += op->off;       \
	} else {                     \
		COUNT(op->next);     \
	}                            \
	NEXT
#define JUMP_FORM(label, type, source, cond) \
	label:                               \
	{                                    \
		type D = DST, S = source;    \
		GO_IF(cond);                 \
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
	COUNT(op->taken);
	op += op->off;
	NEXT;

op_JA32:
	COUNT(op->taken);
	op += (s32)op->imm;
	NEXT;

op_CALL_HELPER:
	r[0] = ((helper_fn)op->imm)(r[1], r[2], r[3], r[4], r[5], frame);
	NEXT;

op_call_back:
{
	struct callback back = { .m = m, .op = (const struct op *)(uintptr_t)r[2] };
	const struct callback *outer = calling_back;

	calling_back = &back;
	m->left = left;
	r[0] = ((helper_fn)op->imm)(r[1], (uintptr_t)call_back, r[3], r[4], r[5], frame);
	left = m->left;
	calling_back = outer;
	if (m->failed)
		return m->failed;
	NEXT;
}

op_lock:
	r[0] = ((helper_fn)op->imm)(r[1], r[2], r[3], r[4], r[5], frame);
	if (r[0])
		return RAN_OUT;
	NEXT;

op_tail_call:
	r[0] = ((helper_fn)op->imm)(r[1], r[2], r[3], r[4], r[5], frame);
	if (!r[0])
		NEXT;
	if (m->depth) /* the verifier lets none through */
		goto bad;
	return RAN_ON;

op_CALL_LOCAL:
	if (m->depth == INSN_MAX_FRAMES - 1)
		goto bad;
	COUNT(op->taken);
	m->frames[m->depth].back = op + 1;
	memcpy(m->frames[m->depth].saved, &r[6], sizeof(m->frames[0].saved));
	m->depth++;
	r[10] -= INSN_STACK_SIZE;
	if (m->clear_stack)
		memset((void *)(r[10] - INSN_STACK_SIZE), 0, INSN_STACK_SIZE);
	op += (s32)op->imm;
	NEXT;

op_EXIT:
	if (m->depth == bottom) {
		m->left = left;
		return 0;
	}
	m->depth--;
	memcpy(&r[6], m->frames[m->depth].saved, sizeof(m->frames[0].saved));
	r[10] += INSN_STACK_SIZE;
	op = m->frames[m->depth].back;
	COUNT(op[-1].next);
	DISPATCH;

op_LD_IMM64:
op_LD_MAP:
op_LD_MAP_VALUE:
op_LD_FUNC:
	DST = IMM;
	op += 2;
	DISPATCH;

#define LOAD(name, type)                                 \
	op_##name:                                       \
	DST = (s64)MEM(type, SRC + (s64)op->off);      \
	NEXT;
#define STORE(size, type)                                \
	op_ST_##size:                                    \
	MEM(type, DST + (s64)op->off) = IMM;           \
	NEXT;                                            \
	op_STX_##size:                                   \
	MEM(type, DST + (s64)op->off) = SRC;           \
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

#define CELL(type) ((type *)(uintptr_t)(DST + (s64)op->off))
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

	/* Pairs. V is what the first makes; S the operand of the second. */
#define SRC2 r[op[1].src]
#define IMM2 op[1].imm
#define DST_PAIR(first, second, type, value, type2, operand, expr) \
	pair_##first##_##second:                                   \
	{                                                          \
		type2 S = operand, V = (type)(value);              \
		DST = (type2)(expr);                               \
		op += 2;                                           \
		DISPATCH;                                          \
	}

	DST_PAIR(MOV64_REG, ADD64_IMM, u64, SRC, u64, IMM2, V + S)
	DST_PAIR(MOV64_REG, ADD64_REG, u64, SRC, u64, SRC2, V + S)
	DST_PAIR(MOV64_REG, XOR64_REG, u64, SRC, u64, SRC2, V ^ S)
	DST_PAIR(MOV64_REG, AND64_IMM, u64, SRC, u64, IMM2, V & S)
	DST_PAIR(MOV64_REG, LSH64_IMM, u64, SRC, u64, IMM2, V << (S & 63))
	DST_PAIR(MOV64_REG, RSH64_IMM, u64, SRC, u64, IMM2, V >> (S & 63))
	DST_PAIR(MOV32_REG, ADD32_IMM, u32, SRC, u32, IMM2, V + S)
	DST_PAIR(MOV32_REG, AND32_IMM, u32, SRC, u32, IMM2, V & S)
	DST_PAIR(MOV32_REG, XOR32_REG, u32, SRC, u32, SRC2, V ^ S)
	DST_PAIR(MOV32_REG, SUB32_REG, u32, SRC, u32, SRC2, V - S)
	DST_PAIR(MOV32_REG, RSH32_IMM, u32, SRC, u32, IMM2, V >> (S & 31))
	DST_PAIR(LDX_B, LSH64_IMM, u8, MEM(u8, SRC + (s64)op->off), u64, IMM2, V << (S & 63))
	DST_PAIR(LSH64_IMM, OR64_REG, u64, DST << (IMM & 63), u64, SRC2, V | S)
	DST_PAIR(LSH64_IMM, XOR64_REG, u64, DST << (IMM & 63), u64, SRC2, V ^ S)
	DST_PAIR(LSH64_IMM, ADD64_REG, u64, DST << (IMM & 63), u64, SRC2, V + S)
	DST_PAIR(RSH64_IMM, XOR64_REG, u64, DST >> (IMM & 63), u64, SRC2, V ^ S)
	DST_PAIR(RSH64_IMM, ADD64_REG, u64, DST >> (IMM & 63), u64, SRC2, V + S)
	DST_PAIR(RSH64_IMM, AND64_IMM, u64, DST >> (IMM & 63), u64, IMM2, V & S)
	DST_PAIR(XOR64_REG, MUL64_IMM, u64, DST ^ SRC, u64, IMM2, V * S)
	DST_PAIR(MUL64_IMM, ADD64_IMM, u64, DST * IMM, u64, IMM2, V + S)

pair_LD_MAP_VALUE_ADD64_REG: /* the second is two further on */
	DST = IMM + r[op[2].src];
	op += 3;
	DISPATCH;

#define LOAD_PAIR(load, type)                              \
	pair_ADD64_REG_##load:                             \
	{                                                  \
		u64 V = DST + SRC;                         \
		DST = V;                                   \
		r[op[1].dst] = MEM(type, V + (s64)op[1].off); \
		op += 2;                                   \
		DISPATCH;                                  \
	}

	LOAD_PAIR(LDX_B, u8)
	LOAD_PAIR(LDX_W, u32)
	LOAD_PAIR(LDX_DW, u64)

#define JUMP_PAIR(first, second, type, value, cond) \
	pair_##first##_##second:                    \
	{                                           \
		type S = IMM2, V = (value);         \
		DST = V;                            \
		op++;                               \
		GO_IF(cond);                        \
	}

	JUMP_PAIR(ADD64_IMM, JEQ64_IMM, u64, DST + IMM, V == S)
	JUMP_PAIR(ADD64_IMM, JNE64_IMM, u64, DST + IMM, V != S)
	JUMP_PAIR(ADD32_IMM, JEQ32_IMM, u32, DST + IMM, V == S)
	JUMP_PAIR(RSH32_IMM, JEQ32_IMM, u32, (u32)DST >> (IMM & 31), V == S)

	/* if …: goto x; goto y */
#define JUMP_JUMP(first, type)                       \
	pair_##first##_JA:                           \
	if ((type)DST == (type)IMM) {                \
		COUNT(op->taken);                    \
		op += op->off;                       \
	} else {                                     \
		op++;                                \
		COUNT(1u + op->taken);               \
		op += op->off;                       \
	}                                            \
	NEXT;

	JUMP_JUMP(JEQ64_IMM, u64)
	JUMP_JUMP(JEQ32_IMM, u32)

	/* if …: goto x; d = s */
#define JUMP_MOV(first, operand, cond)               \
	pair_##first##_MOV32_REG:                    \
	{                                            \
		u32 D = DST, S = operand;            \
		if (cond) {                          \
			COUNT(op->taken);            \
			op += op->off;               \
		} else {                             \
			COUNT(op->next);             \
			op++;                        \
			DST = (u32)SRC;              \
		}                                    \
		NEXT;                                \
	}

	JUMP_MOV(JLT32_REG, SRC, D < S)
	JUMP_MOV(JGT32_REG, SRC, D > S)
	JUMP_MOV(JGT32_IMM, IMM, D > S)

pair_MOV32_REG_JLT32_REG:
	DST = (u32)SRC;
	op++;
	goto op_JLT32_REG_again;

pair_MOV64_REG_JEQ64_IMM:
	DST = SRC;
	op++;
	goto op_JEQ64_IMM_again;

pair_MOV64_REG_MOV64_REG:
	DST = SRC;
	op++;
	DST = SRC;
	NEXT;

#define AGAIN(name, type, source, cond) JUMP_FORM(op_##name##_again, type, source, cond)
	AGAIN(JLT32_REG, u32, SRC, D < S)
	AGAIN(JEQ64_IMM, u64, IMM, D == S)
}

/* The function that a helper calls: the program's, in a frame of its own. */
static u64 call_back(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct hook_frame *frame)
{
	const struct callback *back = calling_back;
	const u64 args[] = { r1, r2, r3, r4, r5 };
	struct machine *m = back->m;
	u64 saved[ARRAY_SIZE(m->r)], r0;

	if (m->depth == INSN_MAX_FRAMES - 1)
		m->failed = -EINVAL;
	if (m->failed)
		return 1;
	memcpy(saved, m->r, sizeof(saved));
	memcpy(&m->r[1], args, sizeof(args));
	m->r[10] -= INSN_STACK_SIZE;
	if (m->clear_stack)
		memset((void *)(m->r[10] - INSN_STACK_SIZE), 0, INSN_STACK_SIZE);
	m->depth++;
	m->failed = run(m, back->op, frame, NULL);
	m->depth--;
	r0 = m->r[0];
	memcpy(m->r, saved, sizeof(saved));
	return m->failed ? 1 : r0;
}

/*
 * Decoding
 */

static bool inside(s64 target, u32 n)
{
	return target >= 0 && target < n;
}

/* What stands for the number in an instruction's decoded form; false: it cannot
 * be executed. */
static bool decode_imm(const struct interp_code *c, u32 i, enum opcode_id id, const struct vm_map *maps, size_t nmaps,
		       u64 *ret)
{
	const struct bpf_insn *insn = &c->prog->insns[i];
	const struct umap *m;

	switch (opcodes[id].form) {
	case FORM_JUMP:
	case FORM_GOTO:
		return inside(insn_jump_target(insn, i), c->n);
	case FORM_CALL:
		if (id == OP_CALL_LOCAL)
			return inside((s64)i + 1 + insn->imm, c->n);
		*ret = (uintptr_t)vm_prog_helper_fn(c->prog, (u32)insn->imm);
		return *ret;
	case FORM_IMM64:
		if (i + 1 >= c->n)
			return false;
		if (id == OP_LD_FUNC) {
			*ret = (uintptr_t)&c->ops[(s64)i + 1 + insn->imm];
			return inside((s64)i + 1 + insn->imm, c->n);
		}
		if (id == OP_LD_IMM64) {
			*ret = insn_imm64(insn);
			return true;
		}
		if ((u32)insn->imm >= nmaps)
			return false;
		m = maps[insn->imm].map;
		*ret = id == OP_LD_MAP ? (uintptr_t)m : m->base + m->data_off + (u32)insn[1].imm;
		return true;
	}
	return true;
}

static bool calls_back(const struct vm_prog *p, const struct bpf_insn *insn, enum opcode_id id)
{
	return id == OP_CALL_HELPER && vm_prog_helper(p, (u32)insn->imm)->args[1] == ARG_FUNC;
}

enum pair_if { IF_DST, IF_BASE, IF_ANY };

/* The handler of the instruction at I and the next together, or 0. */
static u32 pair_of(const struct interp_code *c, u32 i, enum opcode_id id)
{
	static const struct {
		u8 first, second, when;
		u16 handler;
	} pairs[] = {
#define PAIR(first, second, when) { OP_##first, OP_##second, IF_##when, PAIR_##first##_##second },
		PAIRS(PAIR)
#undef PAIR
	};
	u32 k = i + (opcodes[id].form == FORM_IMM64 ? 2 : 1);
	const struct op *a = &c->ops[i], *b = &c->ops[k];
	enum opcode_id second;
	bool selected;

	if (k >= c->n)
		return 0;
	second = opcode_decode(&c->prog->insns[k], &selected);
	for (u32 p = 0; selected && p < ARRAY_SIZE(pairs); p++) {
		if (pairs[p].first != id || pairs[p].second != second)
			continue;
		if (pairs[p].when == IF_ANY || (pairs[p].when == IF_BASE && b->src == a->dst) ||
		    (pairs[p].when == IF_DST && b->dst == a->dst &&
		     (!opcode_uses_src(&opcodes[second]) || b->src != a->dst)))
			return pairs[p].handler;
	}
	return 0;
}

static s64 target_of(const struct bpf_insn *insn, u32 i, enum opcode_id id)
{
	return id == OP_CALL_LOCAL ? (s64)i + 1 + insn->imm : insn_jump_target(insn, i);
}

static bool ends_block(enum opcode_id id)
{
	u8 form = opcodes[id].form;

	return id == OP_CALL_LOCAL || form == FORM_JUMP || form == FORM_GOTO || form == FORM_EXIT;
}

/* Counts what run() takes off at the end of each block. */
static void decode_blocks(struct interp_code *c)
{
	bool selected;

	for (u32 i = c->n; i--;) {
		enum opcode_id id = opcode_decode(&c->prog->insns[i], &selected);
		u32 size = opcodes[id].form == FORM_IMM64 ? 2 : 1;

		if (i + size > c->n || ends_block(id))
			c->ops[i].next = 1;
		else
			c->ops[i].next = (u16)(c->ops[i + size].next < UINT16_MAX ? c->ops[i + size].next + 1 : UINT16_MAX);
	}
	for (u32 i = 0; i < c->n; i++) {
		const struct bpf_insn *insn = &c->prog->insns[i];
		enum opcode_id id = opcode_decode(insn, &selected);
		s64 target = target_of(insn, i, id);

		if (!ends_block(id))
			continue;
		c->ops[i].taken = opcodes[id].form != FORM_EXIT && inside(target, c->n) ? (u16)span(&c->ops[target]) : 1;
		c->ops[i].next = (u16)span(&c->ops[i + 1]);
	}
}

/* Pairs of which both can be executed */
static void decode_pairs(struct interp_code *c, const void *const *handlers)
{
	bool selected;

	for (u32 i = 0; i + 1 < c->n; i++) {
		enum opcode_id id = opcode_decode(&c->prog->insns[i], &selected);
		u32 k = i + (opcodes[id].form == FORM_IMM64 ? 2 : 1), pair = pair_of(c, i, id);

		if (pair && c->ops[i].handler == handlers[id] && c->ops[k].handler != handlers[OP_NONE])
			c->ops[i].handler = handlers[pair];
	}
}

static void decode(struct interp_code *c, const struct vm_prog *p, const struct vm_map *maps, size_t nmaps)
{
	const void *const *handlers;

	run(NULL, NULL, NULL, &handlers);
	c->prog = p;
	c->n = p->ninsns;
	for (u32 i = 0; i < c->n; i++) {
		const struct bpf_insn *insn = &p->insns[i];
		struct op *op = &c->ops[i];
		bool selected;
		enum opcode_id id = opcode_decode(insn, &selected);

		*op = (struct op){ .handler = handlers[OP_NONE], .dst = insn->dst_reg, .src = insn->src_reg, .off = insn->off, .imm = (u64)(s64)insn->imm };
		if (selected && insn->dst_reg <= BPF_REG_10 && insn->src_reg <= BPF_REG_10 &&
		    decode_imm(c, i, id, maps, nmaps, &op->imm))
			op->handler = handlers[calls_back(p, insn, id) ? HANDLER_CALL_BACK :
					       id == OP_CALL_HELPER && insn->imm == BPF_FUNC_tail_call ? HANDLER_TAIL_CALL :
					       id == OP_CALL_HELPER && insn->imm == BPF_FUNC_spin_lock ? HANDLER_LOCK : id];
	}
	c->ops[c->n] = (struct op){ .handler = handlers[OP_NONE], .next = 1 };
	decode_blocks(c);
	decode_pairs(c, handlers);
}

static size_t code_size(u32 n)
{
	return sizeof(struct interp_code) + ((size_t)n + 1) * sizeof(struct op);
}

struct interp_code *interp_code_create(const struct vm_prog *p, const struct vm_map *maps, size_t nmaps)
{
	struct interp_code *c = malloc(code_size(p->ninsns));

	if (c)
		decode(c, p, maps, nmaps);
	return c;
}

void interp_code_destroy(struct interp_code *code)
{
	free(code);
}

/* One program: as interp_code_run(), but RAN_ON when it goes on in that of *r0. */
static long run_one(const struct interp_code *code, u64 r1, u64 r2, struct hook_frame *frame, u64 max_insns, u64 *r0)
{
	struct machine m;
	long ret;

	if (code->prog->info.uses_percpu) {
		/* as compiled code does: without a free copy the run is skipped and counted */
		if (runtime_helper(VM_RT_CLAIM)(0, 0, 0, 0, 0, frame) == HOOK_NO_SLOT) {
			*r0 = 0;
			return 0;
		}
	}
	memset(m.r, 0, sizeof(m.r));
	m.depth = 0;
	m.failed = 0;
	m.left = max_insns ? max_insns : UINT64_MAX;
	m.clear_stack = code->prog->info.reads_unset_stack;
	if (m.clear_stack)
		memset(m.stack, 0, sizeof(m.stack));
	m.r[1] = r1;
	m.r[2] = r2;
	m.r[10] = (uintptr_t)(m.stack + sizeof(m.stack));
	ret = run(&m, code->ops, frame, NULL);
	if (code->prog->info.uses_percpu)
		runtime_helper(VM_RT_RELEASE)(0, 0, 0, 0, 0, frame);
	if (vm_prog_signals(code->prog))
		runtime_helper(VM_RT_SIGNAL)(0, 0, 0, 0, 0, frame);
	if (ret == RAN_OUT) {
		*r0 = 0;
		return 0;
	}
	if (ret >= 0)
		*r0 = m.r[0];
	return ret;
}

long interp_code_run(const struct interp_code *code, u64 r1, u64 r2, struct hook_frame *frame, u64 max_insns, u64 *r0)
{
	struct hook_frame own;
	u64 got;
	long ret;

	if (!frame) {
		frame = &own;
		runtime_self_frame(frame);
	}
	frame->tail_calls = 0;
	frame->signal = 0;
	while ((ret = run_one(code, r1, r2, frame, max_insns, &got)) == RAN_ON) {
		code = (const struct interp_code *)got;
		r2 = 0;
	}
	if (!ret)
		*r0 = got;
	return ret;
}

long interp_run(const struct vm_prog *p, const struct vm_map *maps, size_t nmaps, u64 r1, u64 r2,
		struct hook_frame *frame, u64 max_insns, u64 *r0)
{
	u8 small[sizeof(struct interp_code) + (SMALL + 1) * sizeof(struct op)] __attribute__((aligned(16)));
	struct interp_code *code = p->ninsns <= SMALL ? (struct interp_code *)small : malloc(code_size(p->ninsns));
	long ret;

	if (!code)
		return -ENOMEM;
	decode(code, p, maps, nmaps);
	ret = interp_code_run(code, r1, r2, frame, max_insns, r0);
	if ((u8 *)code != small)
		free(code);
	return ret;
}
