/* SPDX-License-Identifier: MIT */
/* The JIT: against the interpreter on random programs, edge cases by table,
 * and what it reports about its code. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "tests/support/suite.h"
#include "tests/vm/gen_prog.h"
#include "tests/vm/jit_run.h"
#include "vm/interp.h"
#include "vm/program.h"

#define R0 BPF_REG_0
#define R1 BPF_REG_1
#define R2 BPF_REG_2
#define R3 BPF_REG_3
#define R6 BPF_REG_6
#define R7 BPF_REG_7
#define FP BPF_REG_10
#define ALU64_IMM(op, d, i) { .code = BPF_ALU64 | (op) | BPF_K, .dst_reg = d, .imm = i }
#define ALU64_REG(op, d, s) { .code = BPF_ALU64 | (op) | BPF_X, .dst_reg = d, .src_reg = s }
#define ALU32_IMM(op, d, i) { .code = BPF_ALU | (op) | BPF_K, .dst_reg = d, .imm = i }
#define ALU32_REG(op, d, s) { .code = BPF_ALU | (op) | BPF_X, .dst_reg = d, .src_reg = s }
#define MOV_IMM(d, i) ALU64_IMM(BPF_MOV, d, i)
#define MOV_REG(d, s) ALU64_REG(BPF_MOV, d, s)
#define IF_IMM(op, d, i, o) { .code = BPF_JMP | (op) | BPF_K, .dst_reg = d, .off = o, .imm = i }
#define EXIT { .code = BPF_JMP | BPF_EXIT }
#define CALL(id) { .code = BPF_JMP | BPF_CALL, .imm = id }
#define LD_MAP(d, m) { .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = d, .src_reg = 5, .imm = m }, { 0 }
#define LD_VALUE(d, m, o) { .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = d, .src_reg = 6, .imm = m }, { .imm = o }
#define ST_W(d, o, i) { .code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = d, .off = o, .imm = i }
#define LDX_DW(d, s, o) { .code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = d, .src_reg = s, .off = o }
#define STX_DW(d, o, s) { .code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = d, .src_reg = s, .off = o }

static struct vm_prog program(const struct bpf_insn *insns, u32 n)
{
	return (struct vm_prog){ .name = "t", .insns = (struct bpf_insn *)insns, .ninsns = n };
}

/* Where glibc keeps the thread's id, as the daemon finds it in a target. */
static s64 offsetof_tid(void)
{
	const u32 *self = (const u32 *)pthread_self();

	for (s64 k = 0; k < 512; k++)
		if (self[k] == (u32)gettid())
			return k * 4;
	return 0;
}

static void self_site(struct site_data *site, struct hook_frame *frame)
{
	*site = *runtime_self_site();
	site->cookie = 0x1122334455667788;
	site->func_ip = 0x8877665544332211;
	runtime_self_frame(frame);
	frame->site = (addr_t)site;
}

/* A frame of this process whose site has per-CPU claims, of two CPUs. */
struct claimed {
	struct umap_claims *claims;
	int fd;
	struct site_data site;
	struct hook_frame frame;
};

static void claimed_start(struct claimed *c)
{
	ck_assert_ptr_null(umap_claims_create(2, &c->claims, &c->fd));
	self_site(&c->site, &c->frame);
	c->site.claims = (addr_t)c->claims;
	c->site.nclaims = 2 + UMAP_SPARE_SLOTS;
}

static void claimed_end(struct claimed *c)
{
	munmap(c->claims, UMAP_CLAIMS_SIZE(2));
	close(c->fd);
}

/* R0 of P by the interpreter and by the JIT, which must be the same. */
static u64 run_both(const struct vm_prog *p, u64 r1, u64 r2, u32 flags)
{
	struct site_data site;
	struct hook_frame frame;
	struct jit_code code;
	struct uerr *err;
	u64 want, got;

	self_site(&site, &frame);
	ck_assert_int_eq(interp_run(p, NULL, 0, r1, r2, &frame, 0, &want), 0);
	err = jit_code_create(p, NULL, 0, flags, &code);
	ck_assert_msg(!err, "%s", err ? err->message : "");
	got = code.fn(r1, r2, &frame);
	ck_assert_msg(got == want, "%s: interpreter %#lx, jit %#lx", p->name, (unsigned long)want, (unsigned long)got);
	jit_code_destroy(&code);
	return got;
}

START_TEST(random_programs)
{
	static struct gen g;

	for (u32 seed = 0; seed < 6000; seed++) {
		struct vm_prog p;

		g.next = gen_random;
		g.state = seed * 2654435761u + 1;
		gen_program(&g);
		ck_assert_uint_lt(g.n, GEN_MAX);
		p = program(g.insns, g.n);
		snprintf(p.name, sizeof(p.name), "seed %u", seed);
		run_both(&p, 0, 0, seed & 1 ? JIT_NO_BMI2 : 0);
	}
}
END_TEST

/* Every binary operation on every pair of edge values, by register and, where
 * it fits, by immediate; in different registers, as the code differs. */
START_TEST(edge_values)
{
	static const u64 values[] = { 0, 1, 2, 31, 32, 63, 64, 255, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
				      0x7fffffffffffffff, 0x8000000000000000, 0xffffffff80000000, ~0ull };
	static const u8 ops[] = { BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD, BPF_XOR,
				  BPF_ARSH };
	static const u8 pairs[][2] = { { 0, 1 }, { 1, 0 }, { 3, 0 }, { 0, 3 }, { 3, 3 }, { 4, 1 }, { 1, 4 }, { 4, 4 },
				       { 6, 7 }, { 3, 4 }, { 4, 3 }, { 0, 0 }, { 9, 5 } };
	struct bpf_insn insns[8];
	u32 which = 0;

	for (size_t o = 0; o < ARRAY_SIZE(ops) * 4; o++)
		for (size_t v = 0; v < ARRAY_SIZE(values) * ARRAY_SIZE(values); v++) {
			u8 op = ops[o / 4], class = o & 1 ? BPF_ALU64 : BPF_ALU, by_imm = which % 3 == 2;
			const u8 *pair = pairs[which++ % ARRAY_SIZE(pairs)];
			u64 a = values[v / ARRAY_SIZE(values)], b = values[v % ARRAY_SIZE(values)];
			s16 off = (o & 2) && (op == BPF_DIV || op == BPF_MOD);
			struct vm_prog p = program(insns, 7);

			memset(insns, 0, sizeof(insns));
			insns[0] = (struct bpf_insn){ .code = 0x18, .dst_reg = pair[1], .imm = (s32)b };
			insns[1].imm = (s32)(b >> 32);
			insns[2] = (struct bpf_insn){ .code = 0x18, .dst_reg = pair[0], .imm = (s32)a };
			insns[3].imm = (s32)(a >> 32);
			insns[4] = (struct bpf_insn){ .code = class | op | (by_imm ? BPF_K : BPF_X), .dst_reg = pair[0],
						      .src_reg = by_imm ? 0 : pair[1], .off = off,
						      .imm = by_imm ? (s32)b : 0 };
			insns[5] = (struct bpf_insn)MOV_REG(R0, pair[0]);
			insns[6] = (struct bpf_insn)EXIT;
			snprintf(p.name, sizeof(p.name), "op %#x", insns[4].code);
			run_both(&p, 0, 0, which & 4 ? JIT_NO_BMI2 : 0);
		}
}
END_TEST

/* Operands of a division must survive in the registers that the CPU wants. */
START_TEST(division_keeps_other_registers)
{
	for (u32 dst = 0; dst < 10; dst++)
		for (u32 src = 0; src < 10; src++)
			for (u32 mod = 0; mod < 4; mod++) {
				struct bpf_insn insns[40] = { 0 };
				u32 n = 0;
				struct vm_prog p;

				for (u32 r = 0; r < 10; r++)
					insns[n++] = (struct bpf_insn)MOV_IMM(r, 1000 - 90 * (s32)r);
				insns[n++] = (struct bpf_insn){ .code = BPF_ALU64 | BPF_X | (mod & 1 ? BPF_MOD : BPF_DIV),
								.dst_reg = dst, .src_reg = src, .off = mod >> 1 };
				for (u32 r = 1; r < 10; r++) {
					insns[n++] = (struct bpf_insn)ALU64_IMM(BPF_MUL, R0, 1021);
					insns[n++] = (struct bpf_insn)ALU64_REG(BPF_ADD, R0, r);
				}
				insns[n++] = (struct bpf_insn)EXIT;
				p = program(insns, n);
				run_both(&p, 0, 0, 0);
			}
}
END_TEST

/* Distances around the limits of rel8, forward and back. */
START_TEST(jump_distances)
{
	for (u32 gap = 0; gap < 90; gap++) {
		struct bpf_insn insns[256];
		u32 n = 0;
		struct vm_prog p;

		insns[n++] = (struct bpf_insn)MOV_IMM(R0, 0);
		insns[n++] = (struct bpf_insn)MOV_IMM(R1, 3);
		insns[n++] = (struct bpf_insn){ .code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = R1, .off = (s16)gap, .imm = 5 };
		for (u32 i = 0; i < gap; i++) /* three bytes each */
			insns[n++] = (struct bpf_insn)ALU32_IMM(BPF_ADD, R0, 1);
		insns[n++] = (struct bpf_insn)ALU64_IMM(BPF_SUB, R1, 1);
		insns[n++] = (struct bpf_insn){ .code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = R1, .off = (s16)(-3 - (s32)gap) };
		insns[n++] = (struct bpf_insn)EXIT;
		insns[n - 2].off = (s16)(-(s32)gap - 3);
		p = program(insns, n);
		ck_assert_uint_eq(run_both(&p, 0, 0, 0), 3 * gap);
	}
}
END_TEST

static u32 code_size(const struct bpf_insn *insns, u32 n, u32 *clobbers)
{
	struct vm_prog p = program(insns, n);
	struct jit_input in = { .prog = &p };
	struct jit_output out;
	struct uerr *err = jit_compile(&in, &out);
	u32 size = (u32)out.size;

	ck_assert_msg(!err, "%s", err ? err->message : "");
	*clobbers = out.clobbers;
	jit_output_deinit(&out);
	return size;
}

/* What is small must stay small: a program pays for nothing that it does not use. */
START_TEST(code_is_tight)
{
	static const struct bpf_insn empty[] = { MOV_IMM(R0, 0), EXIT };
	static const struct bpf_insn arg[] = { LDX_DW(R1, R1, 112), MOV_REG(R0, R1), EXIT };
	static const struct bpf_insn rotate[] = {
		MOV_REG(R2, R1), ALU64_IMM(BPF_RSH, R2, 51), ALU64_IMM(BPF_LSH, R1, 13), ALU64_REG(BPF_OR, R1, R2),
		MOV_REG(R0, R1), EXIT,
	};
	static const struct bpf_insn index[] = {
		MOV_REG(R6, R2), ALU64_IMM(BPF_LSH, R6, 3), MOV_REG(R3, R1), ALU64_REG(BPF_ADD, R3, R6), LDX_DW(R0, R3, 8), EXIT,
	};
	static const struct bpf_insn select[] = {
		MOV_REG(R0, R1), { .code = BPF_JMP | BPF_JGT | BPF_X, .dst_reg = R1, .src_reg = R2, .off = 1 }, MOV_REG(R0, R2),
		EXIT,
	};
	static const struct bpf_insn truth[] = {
		MOV_IMM(R0, 1), IF_IMM(BPF_JGT, R1, 3, 1), MOV_IMM(R0, 0), EXIT,
	};
	static const struct bpf_insn memory[] = { LDX_DW(R3, R1, 8), ALU64_REG(BPF_ADD, R2, R3), MOV_REG(R0, R2), EXIT };
	static const struct bpf_insn zext[] = { ALU64_IMM(BPF_LSH, R1, 32), ALU64_IMM(BPF_RSH, R1, 32), EXIT };
	u32 clobbers;

	ck_assert_uint_eq(code_size(empty, 2, &clobbers), 3); /* xor eax, eax; ret */
	ck_assert_uint_eq(clobbers, TARGET_REG_BIT(ax));
	ck_assert_uint_eq(code_size(arg, 3, &clobbers), 4 + 3 + 1);
	ck_assert_uint_eq(clobbers, TARGET_REG_BIT(ax) | TARGET_REG_BIT(di));
	ck_assert_uint_eq(code_size(zext, 3, &clobbers), 2 + 1);
	if (__builtin_cpu_supports("bmi2"))
		ck_assert_uint_eq(code_size(rotate, 6, &clobbers), 4 + 3 + 1); /* ror rdi, 51 */
	ck_assert_uint_eq(code_size(index, 6, &clobbers), 1 + 5 + 1 + 1); /* rbx saved; mov rax, [rdi + rsi * 8 + 8] */
	ck_assert_uint_eq(code_size(select, 4, &clobbers), 3 + 3 + 4 + 1); /* cmovbe */
	ck_assert_uint_eq(code_size(truth, 4, &clobbers), 2 + 4 + 3 + 1); /* seta */
	ck_assert_uint_eq(code_size(memory, 4, &clobbers), 4 + 3 + 1); /* add rsi, [rdi + 8] */
}
END_TEST

/* Groups where one instruction too many could be dropped: R0 by interpreter and
 * JIT, and what it must be. */
START_TEST(groups_keep_what_is_needed)
{
	/* r3 goes into the address and is no longer needed, says liveness, after r0 += r3 */
	static const struct bpf_insn part_lives_on[] = {
		ST_W(FP, -8, 8), ST_W(FP, -4, 0), ST_W(FP, -56, 100), MOV_IMM(R0, 0), MOV_REG(R2, FP),
		ALU64_IMM(BPF_ADD, R2, -64), LDX_DW(R3, FP, -8), ALU64_REG(BPF_ADD, R2, R3), ALU64_REG(BPF_ADD, R0, R3),
		{ .code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = R1, .src_reg = R2 }, ALU64_REG(BPF_ADD, R0, R1), EXIT,
	};
	/* the scaled index is the base as well */
	static const struct bpf_insn scaled_twice[] = {
		ST_W(FP, -8, 77), ST_W(FP, -4, 0), MOV_REG(R2, FP), ALU64_IMM(BPF_RSH, R2, 2), ALU64_IMM(BPF_LSH, R2, 1),
		MOV_REG(R3, R2), ALU64_REG(BPF_ADD, R3, R2), LDX_DW(R0, R3, -8), EXIT,
	};
	/* a zero put into a register may not cost the flags of the subtraction */
	static const struct bpf_insn flags_and_zero[] = {
		MOV_IMM(R0, 5), MOV_IMM(R1, 2), ALU64_IMM(BPF_SUB, R1, 1), IF_IMM(BPF_JEQ, R1, 0, 1), MOV_IMM(R0, 0), EXIT,
	};
	static const struct bpf_insn flags_and_truth[] = {
		MOV_IMM(R1, 2), ALU64_IMM(BPF_SUB, R1, 1), MOV_IMM(R0, 1), IF_IMM(BPF_JEQ, R1, 0, 1), MOV_IMM(R0, 0), EXIT,
	};
	/* the second move only happens sometimes: the address lives on */
	static const struct bpf_insn maybe_moved[] = {
		ST_W(FP, -8, 3), ST_W(FP, -4, 0), ST_W(FP, -16, 4), ST_W(FP, -12, 0), MOV_IMM(R1, 8), MOV_REG(R2, FP),
		ALU64_IMM(BPF_ADD, R2, -16), ALU64_REG(BPF_ADD, R2, R1), LDX_DW(R3, R2, 0), IF_IMM(BPF_JEQ, R1, 8, 1),
		MOV_REG(R2, FP), LDX_DW(R0, R2, 0), ALU64_REG(BPF_ADD, R0, R3), EXIT,
	};
	/* only the truth of the sum is needed, but the upper half counts */
	static const struct bpf_insn upper_half[] = {
		{ .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = R1 }, { .imm = 1 }, MOV_REG(R2, R1), ALU64_IMM(BPF_AND, R2, -1),
		MOV_IMM(R0, 1), IF_IMM(BPF_JEQ, R2, 0, 1), MOV_IMM(R0, 9), EXIT,
	};
	/* a count of 69 is one of 5: the upper half is not zero */
	static const struct bpf_insn large_count[] = {
		MOV_IMM(R0, 0), MOV_IMM(R1, -1), ALU64_IMM(BPF_RSH, R1, 69), MOV_REG(R2, R1), IF_IMM(BPF_JEQ, R1, 1, 1),
		ALU32_REG(BPF_MOV, R1, R1), MOV_REG(R0, R1), EXIT,
	};
	static const struct {
		const char *name;
		const struct bpf_insn *insns;
		u32 n;
		u64 want;
	} rows[] = {
		{ "part lives on", part_lives_on, ARRAY_SIZE(part_lives_on), 108 },
		{ "scaled twice", scaled_twice, ARRAY_SIZE(scaled_twice), 77 },
		{ "flags and zero", flags_and_zero, ARRAY_SIZE(flags_and_zero), 0 },
		{ "flags and truth", flags_and_truth, ARRAY_SIZE(flags_and_truth), 0 },
		{ "maybe moved", maybe_moved, ARRAY_SIZE(maybe_moved), 6 },
		{ "large count", large_count, ARRAY_SIZE(large_count), 0xffffffff },
		{ "upper half", upper_half, ARRAY_SIZE(upper_half), 9 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct vm_prog p = program(rows[i].insns, rows[i].n);

		snprintf(p.name, sizeof(p.name), "%s", rows[i].name);
		ck_assert_uint_eq(run_both(&p, 0, 0, 0), rows[i].want);
		ck_assert_uint_eq(run_both(&p, 0, 0, JIT_NO_BMI2), rows[i].want);
	}
}
END_TEST

/* Where the verifier says that a program may read stack that it never wrote, that
 * is zero, in each call anew. */
START_TEST(unset_stack_is_zero)
{
	static const s16 depths[] = { 8, 64, 72, 512 };

	for (size_t d = 0; d < ARRAY_SIZE(depths); d++) {
		/* main calls f(5), f(7); r0 of f = r1 + what lies in its stack, where it then puts r1 */
		struct bpf_insn insns[] = {
			MOV_IMM(R1, 5), { .code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_CALL, .imm = 7 }, MOV_REG(R6, R0),
			MOV_IMM(R1, 7), { .code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_CALL, .imm = 4 },
			ALU64_REG(BPF_ADD, R0, R6), LDX_DW(R1, FP, -depths[d]), ALU64_REG(BPF_ADD, R0, R1), EXIT,
			LDX_DW(R0, FP, -depths[d]), LDX_DW(R3, FP, -8), ALU64_REG(BPF_ADD, R0, R1), ALU64_REG(BPF_ADD, R0, R3),
			STX_DW(FP, -depths[d], R1), STX_DW(FP, -8, R1), EXIT,
		};
		struct vm_prog p = program(insns, ARRAY_SIZE(insns));

		p.info.reads_unset_stack = true;
		for (u32 again = 0; again < 2; again++)
			ck_assert_uint_eq(run_both(&p, 0, 0, 0), 12);
	}
}
END_TEST

/* Every divisor that the multiplication has a case for, on values around its
 * multiples. */
START_TEST(division_by_constants)
{
	static const s32 divisors[] = { 1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 14, 25, 28, 60, 100, 125, 641, 1000, 1024, 10000, 65535,
					65536, 65537, 1000000, 0x7fffffff, -1, -2, -7, INT32_MIN };
	static const u64 values[] = { 0, 1, 2, 1000, 0x7fffffff, 0xffffffff, 0x100000000, 0x7fffffffffffffff,
				      0x8000000000000000, ~0ull };
	struct bpf_insn insns[5] = { { .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = R3 }, { 0 }, { 0 }, MOV_REG(R0, R3), EXIT };
	struct vm_prog p = program(insns, 5);

	for (size_t d = 0; d < ARRAY_SIZE(divisors) + 128; d++)
		for (size_t v = 0; v < ARRAY_SIZE(values) * 3; v++)
			for (u32 op = 0; op < 4; op++)
				for (u32 r = R0; r <= (d < ARRAY_SIZE(divisors) ? R6 : R0); r += 3) { /* rax, rdx, rbx */
					s32 divisor = d < ARRAY_SIZE(divisors) ? divisors[d] : (s32)(d - ARRAY_SIZE(divisors) + 2);
					u64 unit = op & 1 ? (u64)(s64)divisor : (u32)divisor;
					u64 value = values[v / 3] / unit * unit + v % 3 - 1;

					insns[0].dst_reg = r;
					insns[0].imm = (s32)value;
					insns[1].imm = (s32)(value >> 32);
					insns[2] = (struct bpf_insn){ .code = (op & 1 ? BPF_ALU64 : BPF_ALU) |
									      (op & 2 ? BPF_MOD : BPF_DIV) | BPF_K,
								      .dst_reg = r, .imm = divisor };
					insns[3].src_reg = r;
					run_both(&p, 0, 0, 0);
				}
}
END_TEST

START_TEST(calls_clobber_all)
{
	static const struct bpf_insn insns[] = { CALL(BPF_FUNC_ktime_get_ns), EXIT };
	struct vm_prog p = program(insns, 2);
	struct jit_code code;
	struct uerr *err = jit_code_create(&p, NULL, 0, 0, &code);

	ck_assert_ptr_null(err);
	ck_assert_uint_eq(__builtin_popcount(code.out.clobbers), 9);
	ck_assert(code.out.uses_frame);
	jit_code_destroy(&code);
}
END_TEST

/* Callee-saved registers of the caller come back, whatever the program did. */
START_TEST(callee_saved_registers_survive)
{
	static const struct bpf_insn insns[] = {
		MOV_IMM(6, 1), MOV_IMM(7, 2), MOV_IMM(8, 3), MOV_IMM(9, 4), ST_W(FP, -512, 7),
		CALL(BPF_FUNC_get_attach_cookie), EXIT,
	};
	struct vm_prog p = program(insns, ARRAY_SIZE(insns));
	struct site_data site;
	struct hook_frame frame;
	struct jit_code code;
	struct uerr *err = jit_code_create(&p, NULL, 0, 0, &code);
	u64 in[6], out[6], r0;

	ck_assert_ptr_null(err);
	self_site(&site, &frame);
	for (u32 i = 0; i < 6; i++)
		in[i] = 0x0101010101010101ull * (i + 1);
	__asm__ volatile("pushq %%rbx\n\tpushq %%rbp\n\tpushq %%r12\n\tpushq %%r13\n\tpushq %%r14\n\tpushq %%r15\n\t"
			 "pushq %[out]\n\tpushq %[fn]\n\t"
			 "movq (%[in]), %%rbx\n\tmovq 8(%[in]), %%rbp\n\tmovq 16(%[in]), %%r12\n\t"
			 "movq 24(%[in]), %%r13\n\tmovq 32(%[in]), %%r14\n\tmovq 40(%[in]), %%r15\n\t"
			 "call *(%%rsp)\n\t"
			 "movq 8(%%rsp), %%rcx\n\t"
			 "movq %%rbx, (%%rcx)\n\tmovq %%rbp, 8(%%rcx)\n\tmovq %%r12, 16(%%rcx)\n\t"
			 "movq %%r13, 24(%%rcx)\n\tmovq %%r14, 32(%%rcx)\n\tmovq %%r15, 40(%%rcx)\n\t"
			 "addq $16, %%rsp\n\t"
			 "popq %%r15\n\tpopq %%r14\n\tpopq %%r13\n\tpopq %%r12\n\tpopq %%rbp\n\tpopq %%rbx"
			 : "=a"(r0)
			 : [in] "c"(in), [out] "r"(out), [fn] "r"(code.fn), "D"(0), "S"(0), "d"(&frame)
			 : "r8", "r9", "r10", "r11", "memory", "cc");
	ck_assert_uint_eq(r0, site.cookie);
	ck_assert_int_eq(memcmp(in, out, sizeof(in)), 0);
	jit_code_destroy(&code);
}
END_TEST

START_TEST(hostile_programs_are_refused)
{
	static const struct bpf_insn nomap[] = { LD_MAP(R1, 0), EXIT };
	static const struct bpf_insn wild[] = { { .code = BPF_JMP | BPF_JA, .off = 100 }, EXIT };
	static const struct bpf_insn half[] = { { .code = BPF_JMP | BPF_JA, .off = 1 }, { .code = 0x18 }, { 0 }, EXIT };
	static const struct bpf_insn open_end[] = { MOV_IMM(R0, 0) };
	static const struct bpf_insn cut[] = { { .code = 0x18 } };
	static const struct bpf_insn unknown[] = { { .code = 0xff }, EXIT };
	static const struct bpf_insn fp[] = { MOV_IMM(FP, 0), EXIT };
	static const struct bpf_insn nohelper[] = { CALL(9999), EXIT };
	static const struct {
		const struct bpf_insn *insns;
		u32 n;
	} rows[] = { { nomap, 3 }, { wild, 2 }, { half, 4 }, { open_end, 1 }, { cut, 1 }, { unknown, 2 }, { fp, 2 },
		     { nohelper, 2 }, { wild, 0 } };

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct vm_prog p = program(rows[i].insns, rows[i].n);
		struct jit_code code;
		struct uerr *err = jit_code_create(&p, NULL, 0, 0, &code);

		ck_assert_msg(err && err->code == UERR_REJECTED, "row %zu was compiled", i);
		uerr_free(err);
	}
}
END_TEST

/* Array lookups and deletes are inlined; everything else goes through the
 * helpers. The same program must see the same in both executions. */
START_TEST(maps)
{
	static const struct bpf_insn lookup[] = {
		MOV_REG(R6, R1), { .code = BPF_STX | BPF_MEM | BPF_W, .dst_reg = FP, .src_reg = R6, .off = -4 },
		MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -4), LD_MAP(R1, 0), CALL(BPF_FUNC_map_lookup_elem),
		{ .code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = R0, .off = 3 },
		ALU64_REG(BPF_ADD, R6, R6), LDX_DW(R0, R0, 0), EXIT, MOV_IMM(R0, -1), EXIT,
	};
	static const struct bpf_insn delete[] = {
		MOV_REG(R6, R1), { .code = BPF_STX | BPF_MEM | BPF_W, .dst_reg = FP, .src_reg = R6, .off = -4 },
		MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -4), LD_MAP(R1, 0), CALL(BPF_FUNC_map_delete_elem), EXIT,
	};
	static const struct bpf_insn value[] = { LD_VALUE(R1, 0, 8), LDX_DW(R0, R1, 0), EXIT };
	static const u32 types[] = { UMAP_ARRAY, UMAP_PERCPU_ARRAY, UMAP_HASH };
	static const u32 sizes[] = { 8, 16, 24, 64 };

	for (size_t t = 0; t < ARRAY_SIZE(types) * ARRAY_SIZE(sizes); t++) {
		u32 type = types[t % 3], size = sizes[t / 3], ncpus = 2;
		struct vm_prog p = program(lookup, ARRAY_SIZE(lookup));
		struct umap m;
		struct vm_map vm = { &m };
		struct jit_map jm = { &m, (addr_t)&m };
		struct claimed c;
		struct jit_code code;
		int fd;

		ck_assert_ptr_null(umap_create("m", type, 4, size, 10, 0, ncpus, 7, &m, &fd));
		claimed_start(&c);
		p.info.uses_percpu = type == UMAP_PERCPU_ARRAY;
		for (u32 k = 0; k < 10; k++) {
			struct umap_ctx cx = { .rec = (struct thread_rec *)c.frame.rec };
			u64 v[2 * 8] = { 0 };

			for (u32 cpu = 0; cpu < 2; cpu++)
				v[cpu * size / 8] = 100 + k;
			ck_assert_int_eq(umap_write(&m, &k, v, 0, &cx), 0);
		}
		ck_assert_ptr_null(jit_code_create(&p, &jm, 1, 0, &code));
		for (u64 k = 0; k < 12; k++) {
			u64 want, got = code.fn(k, 0, &c.frame);

			ck_assert_int_eq(interp_run(&p, &vm, 1, k, 0, &c.frame, 0, &want), 0);
			ck_assert_uint_eq(got, k < 10 ? 100 + k : ~0ull);
			ck_assert_uint_eq(want, got);
		}
		for (u32 s = 0; s < c.site.nclaims; s++)
			ck_assert_uint_eq(c.claims->slot[s].owner, 0);
		jit_code_destroy(&code);
		for (u32 frozen = 0; frozen < 2; frozen++) {
			u64 want = (u64)(s64)(frozen ? -EPERM : type == UMAP_HASH ? -ENOENT : -EINVAL), got;

			m.frozen = frozen;
			p = program(delete, ARRAY_SIZE(delete));
			p.info.uses_percpu = type == UMAP_PERCPU_ARRAY;
			ck_assert_ptr_null(jit_code_create(&p, &jm, 1, 0, &code));
			ck_assert_uint_eq(code.fn(11, 0, &c.frame), want);
			ck_assert_int_eq(interp_run(&p, &vm, 1, 11, 0, &c.frame, 0, &got), 0);
			ck_assert_uint_eq(got, want);
			jit_code_destroy(&code);
		}
		m.frozen = 0;
		if (type == UMAP_ARRAY && size >= 16) {
			p = program(value, ARRAY_SIZE(value));
			((u64 *)(m.base + m.data_off))[1] = 0x77;
			ck_assert_ptr_null(jit_code_create(&p, &jm, 1, 0, &code));
			ck_assert_uint_eq(code.fn(0, 0, &c.frame), 0x77);
			jit_code_destroy(&code);
		}
		umap_destroy(&m, fd);
		claimed_end(&c);
	}
}
END_TEST

/* Helpers that are not called in the common case: what they give is what the
 * helper gives, in that case and in the others. */
START_TEST(helpers_done_in_place)
{
	static const struct bpf_insn pid_tgid[] = { CALL(BPF_FUNC_get_current_pid_tgid), EXIT };
	static const struct bpf_insn cpu[] = { CALL(BPF_FUNC_get_smp_processor_id), EXIT };
	struct target_env env, odd;
	struct target_private private_ = { 0 };
	struct site_data site;
	struct hook_frame frame;
	struct jit_code code;
	cpu_set_t one, all;

	self_site(&site, &frame);
	env = *(const struct target_env *)site.env;
	site.env = (addr_t)&odd;
	for (u32 missing = 0; missing < 4; missing++) { /* what the env does not offer is asked of the kernel */
		struct vm_prog p = program(pid_tgid, 2);

		odd = env;
		odd.private_ = missing & 1 ? 0 : (addr_t)&private_;
		odd.tid_off = missing & 2 ? 0 : (s64)(offsetof_tid());
		ck_assert_ptr_null(jit_code_create(&p, NULL, 0, 0, &code));
		for (u32 again = 0; again < 2; again++)
			ck_assert_uint_eq(code.fn(0, 0, &frame), (u64)getpid() << 32 | (u32)gettid());
		jit_code_destroy(&code);
	}
	ck_assert_uint_eq(private_.tgid, getpid());
	sched_getaffinity(0, sizeof(all), &all);
	CPU_ZERO(&one);
	for (int c = 0; c < CPU_SETSIZE; c++)
		if (CPU_ISSET(c, &all)) { /* the last that there is */
			CPU_ZERO(&one);
			CPU_SET(c, &one);
		}
	sched_setaffinity(0, sizeof(one), &one);
	for (u32 missing = 0; missing < 2; missing++) {
		struct vm_prog p = program(cpu, 2);

		odd = env;
		if (missing)
			odd.rseq_off = 0;
		ck_assert_ptr_null(jit_code_create(&p, NULL, 0, 0, &code));
		ck_assert_uint_eq(code.fn(0, 0, &frame), sched_getcpu());
		jit_code_destroy(&code);
	}
	sched_setaffinity(0, sizeof(all), &all);
}
END_TEST

/* Helpers in compiled code whose calls are counted, by where they lead. */
static u32 helper_calls[4];
static u64 (*counted_fn[4])(u64, u64, u64, u64, u64, struct hook_frame *);
static u32 counted_id[4];

#define COUNTED(n)                                                                                        \
	static u64 counted_##n(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct hook_frame *frame)          \
	{                                                                                                 \
		helper_calls[n]++;                                                                        \
		return counted_fn[n](r1, r2, r3, r4, r5, frame);                                          \
	}
COUNTED(0)
COUNTED(1)
COUNTED(2)
COUNTED(3)

/* The first four helpers that the compiler asks for are counted. */
static addr_t counted_helper(u32 id, void *arg)
{
	static helper_fn const fns[] = { counted_0, counted_1, counted_2, counted_3 };

	for (u32 i = 0; i < ARRAY_SIZE(fns); i++)
		if (!counted_id[i] || counted_id[i] == id) {
			counted_id[i] = id;
			counted_fn[i] = runtime_helper(id);
			return (addr_t)fns[i];
		}
	return (addr_t)runtime_helper(id);
}

static u32 calls_of(u32 id)
{
	for (u32 i = 0; i < ARRAY_SIZE(counted_id); i++)
		if (counted_id[i] == id)
			return helper_calls[i];
	return 0;
}

static u32 calls_of_all(void)
{
	return helper_calls[0] + helper_calls[1] + helper_calls[2] + helper_calls[3];
}

static void count_calls(const struct vm_prog *p, const struct jit_map *map, struct jit_code *ret)
{
	memset(helper_calls, 0, sizeof(helper_calls));
	memset(counted_id, 0, sizeof(counted_id));
	ck_assert_ptr_null(jit_code_create_with(p, map, !!map, 0, counted_helper, ret));
}

static __attribute__((noinline)) u64 call_further_down(const struct jit_code *code, struct hook_frame *frame)
{
	volatile u8 room[1024] = { 0 };
	u64 ret = code->fn(77, 0, frame);

	return ret + room[7]; /* so it is there until here */
}

/* The common case calls nothing, and gives what the interpreter gives. */
START_TEST(common_cases_call_nothing)
{
	static const struct bpf_insn pid_tgid[] = { CALL(BPF_FUNC_get_current_pid_tgid), EXIT };
	static const struct bpf_insn cpu[] = { CALL(BPF_FUNC_get_smp_processor_id), EXIT };
	static const struct bpf_insn cookie[] = { CALL(BPF_FUNC_get_attach_cookie), EXIT };
	static const struct bpf_insn func_ip[] = { CALL(BPF_FUNC_get_func_ip), EXIT };
	static const struct bpf_insn read[] = {
		MOV_REG(R3, FP), ALU64_IMM(BPF_ADD, R3, -8), STX_DW(FP, -8, R1), MOV_REG(R1, FP), ALU64_IMM(BPF_ADD, R1, -16),
		MOV_IMM(R2, 8), CALL(BPF_FUNC_probe_read_user), LDX_DW(R0, FP, -16), EXIT,
	};
	static const struct {
		const struct bpf_insn *insns;
		u32 n;
	} rows[] = { { pid_tgid, 2 }, { cpu, 2 }, { cookie, 2 }, { func_ip, 2 }, { read, ARRAY_SIZE(read) } };
	struct target_env env;
	struct site_data site;
	struct hook_frame frame;
	cpu_set_t one, all;

	sched_getaffinity(0, sizeof(all), &all);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	self_site(&site, &frame);
	env = *(const struct target_env *)site.env;
	env.tid_off = offsetof_tid();
	site.env = (addr_t)&env;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct vm_prog p = program(rows[i].insns, rows[i].n);
		struct jit_code code;
		u64 want;

		ck_assert_int_eq(interp_run(&p, NULL, 0, 77, 0, &frame, 0, &want), 0);
		count_calls(&p, NULL, &code);
		ck_assert_uint_eq(code.fn(77, 0, &frame), want);
		if (calls_of_all()) /* a read from the stack over the end of its page: not so a little further down */
			ck_assert_uint_eq(call_further_down(&code, &frame), want);
		ck_assert_msg(calls_of_all() < 2, "row %zu calls its helper", i);
		jit_code_destroy(&code);
	}
	sched_setaffinity(0, sizeof(all), &all);
}
END_TEST

/* Lookups: nothing is called in arrays, in hashes with keys of 4 and 8 bytes the
 * function for those, and in others the helper. */
START_TEST(lookups_call_what_they_should)
{
	static const struct bpf_insn insns[] = {
		STX_DW(FP, -16, R1), STX_DW(FP, -8, R1), MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -16), LD_MAP(R1, 0),
		CALL(BPF_FUNC_map_lookup_elem), IF_IMM(BPF_JEQ, R0, 0, 1), LDX_DW(R0, R0, 0), EXIT,
	};
	static const struct {
		u32 type, key_size, calls;
	} rows[] = { { UMAP_ARRAY, 4, 0 }, { UMAP_PERCPU_ARRAY, 4, 0 }, { UMAP_HASH, 4, VM_RT_HASH_LOOKUP_4 },
		     { UMAP_HASH, 8, VM_RT_HASH_LOOKUP_8 }, { UMAP_HASH, 16, BPF_FUNC_map_lookup_elem },
		     { UMAP_PERCPU_HASH, 4, VM_RT_PERCPU_LOOKUP_4 }, { UMAP_PERCPU_HASH, 8, VM_RT_PERCPU_LOOKUP_8 },
		     { UMAP_PERCPU_HASH, 16, BPF_FUNC_map_lookup_elem } };

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct vm_prog p = program(insns, ARRAY_SIZE(insns));
		bool percpu = rows[i].type == UMAP_PERCPU_ARRAY || rows[i].type == UMAP_PERCPU_HASH;
		struct umap m;
		struct vm_map vm = { &m };
		struct jit_map jm = { &m, (addr_t)&m };
		struct claimed c;
		struct jit_code code;
		u64 key[2] = { 3, 3 }, value[2] = { 42, 42 };
		int fd;

		ck_assert_ptr_null(umap_create("m", rows[i].type, rows[i].key_size, 8, 10, 0, 2, 7, &m, &fd));
		claimed_start(&c);
		p.info.uses_percpu = percpu;
		ck_assert_int_eq(umap_write(&m, key, value, 0, &(struct umap_ctx){ .rec = (struct thread_rec *)c.frame.rec }), 0);
		count_calls(&p, &jm, &code);
		for (u64 k = 2; k < 5; k++) {
			u64 want, got = code.fn(k, 0, &c.frame);

			ck_assert_int_eq(interp_run(&p, &vm, 1, k, 0, &c.frame, 0, &want), 0);
			ck_assert_uint_eq(got, want);
			if (!percpu)
				ck_assert_uint_eq(got, k == 3 ? 42 : 0);
		}
		ck_assert_uint_eq(calls_of_all() - calls_of(VM_RT_CLAIM), rows[i].calls ? 3 : 0);
		ck_assert_uint_eq(calls_of(VM_RT_CLAIM), percpu ? 3 : 0);
		if (rows[i].calls)
			ck_assert_uint_eq(calls_of(rows[i].calls), 3);
		jit_code_destroy(&code);
		umap_destroy(&m, fd);
		claimed_end(&c);
	}
}
END_TEST

static u64 monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

/* The time in place: the helper is called now and then, to set the clock, each
 * time where that cannot be, and the result is the kernel's to a microsecond. */
START_TEST(time_in_place)
{
	static const struct bpf_insn insns[] = { CALL(BPF_FUNC_ktime_get_ns), EXIT };
	static const u32 rounds = 200000;
	struct vm_prog p = program(insns, 2);
	struct target_private private_ = { 0 };
	struct target_env env;
	struct site_data site;
	struct hook_frame frame;
	struct jit_code code;

	self_site(&site, &frame);
	env = *(const struct target_env *)site.env;
	site.env = (addr_t)&env;
	count_calls(&p, NULL, &code);
	for (u32 missing = 0; missing < 3; missing++) {
		env.private_ = missing == 1 ? 0 : (addr_t)&private_;
		private_.clock.seq |= missing == 2;
		helper_calls[0] = 0;
		for (u32 i = 0; i < rounds; i++) {
			u64 before = monotonic_ns(), now = code.fn(0, 0, &frame);

			ck_assert_uint_le(before, now + 1000);
			ck_assert_uint_le(now, monotonic_ns() + 1000);
		}
		if (!missing && env.tsc_clock)
			ck_assert_uint_lt(calls_of(BPF_FUNC_ktime_get_ns), rounds / 10);
		else
			ck_assert_uint_eq(calls_of(BPF_FUNC_ktime_get_ns), rounds);
	}
	jit_code_destroy(&code);
}
END_TEST

/* Any two instructions in a row, reached from above and by a jump to the second:
 * the interpreter has handlers for pairs, the JIT groups. */
START_TEST(any_two_instructions)
{
	static const u8 ops[] = { BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_XOR, BPF_LSH, BPF_RSH, BPF_ARSH, BPF_MOV };
	static const u8 jumps[] = { BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JLT, BPF_JSGE };
	struct bpf_insn choice[4 * ARRAY_SIZE(ops) * 3 + 4 * ARRAY_SIZE(jumps) + 8];
	static const struct bpf_insn begin[] = {
		STX_DW(FP, -8, R1), STX_DW(FP, -16, R2), MOV_REG(R6, R2), ALU64_IMM(BPF_AND, R6, 1), MOV_IMM(R7, 0),
	};
	static const struct bpf_insn each[] = {
		LDX_DW(R1, FP, -8), LDX_DW(R2, FP, -16), MOV_REG(R0, R1), IF_IMM(BPF_JNE, R6, 0, 1), { 0 }, { 0 },
		ALU64_IMM(BPF_ADD, R0, 77), ALU64_IMM(BPF_MUL, R7, 31), ALU64_REG(BPF_XOR, R7, R0), ALU64_IMM(BPF_MUL, R7, 31),
		ALU64_REG(BPF_XOR, R7, R1),
	};
	static const struct bpf_insn end[] = { MOV_REG(R0, R7), EXIT };
	static struct bpf_insn insns[ARRAY_SIZE(begin) + ARRAY_SIZE(choice) * ARRAY_SIZE(each) + ARRAY_SIZE(end)];
	u32 n = 0;

	for (u32 class = 0; class < 4; class++)
		for (u32 i = 0; i < ARRAY_SIZE(ops); i++)
			for (u32 regs = 0; regs < 3; regs++)
				choice[n++] = (struct bpf_insn){
					.code = (class & 1 ? BPF_ALU64 : BPF_ALU) | ops[i] | (class & 2 ? BPF_X : BPF_K),
					.dst_reg = regs ? R0 : R1, .src_reg = !(class & 2) ? 0 : regs == 2 ? R0 : R2,
					.imm = class & 2 ? 0 : 7,
				};
	for (u32 class = 0; class < 4; class++)
		for (u32 i = 0; i < ARRAY_SIZE(jumps); i++)
			choice[n++] = (struct bpf_insn){
				.code = (class & 1 ? BPF_JMP : BPF_JMP32) | jumps[i] | (class & 2 ? BPF_X : BPF_K), .dst_reg = R0,
				.src_reg = class & 2 ? R2 : 0, .off = 1, .imm = class & 2 ? 0 : 14,
			};
	choice[n++] = (struct bpf_insn){ .code = BPF_JMP | BPF_JA, .off = 1 };
	for (u32 size = 0; size < 4; size++)
		choice[n++] = (struct bpf_insn){ .code = BPF_LDX | BPF_MEM | (size << 3), .dst_reg = R0, .src_reg = FP, .off = -16 };
	memcpy(insns, begin, sizeof(begin));
	for (u32 a = 0; a < n; a++) {
		struct bpf_insn *at = insns + ARRAY_SIZE(begin);
		struct vm_prog p;

		for (u32 b = 0; b < n; b++, at += ARRAY_SIZE(each)) {
			memcpy(at, each, sizeof(each));
			at[4] = choice[a];
			at[5] = choice[b];
		}
		memcpy(at, end, sizeof(end));
		p = program(insns, (u32)(at - insns) + ARRAY_SIZE(end));
		snprintf(p.name, sizeof(p.name), "first %#x", choice[a].code);
		run_both(&p, 0xfedcba98fffffffb, 0x8000000012345678, 0);
		run_both(&p, 0x100000007, 0x8000000012345678, 0);
		run_both(&p, 0xfedcba98fffffffb, 0x8000000012345679, 0); /* jumps to the second */
	}
}
END_TEST

#define LD_FUNC(d, o) { .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = d, .src_reg = BPF_PSEUDO_FUNC, .imm = o }, { 0 }
#define CALL_LOCAL(o) { .code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_CALL, .imm = o }
#define R4 BPF_REG_4
#define R8 BPF_REG_8
#define R9 BPF_REG_9

/* bpf_loop(r1, callback, fp - 8, r2): the callback adds its pass, and what it
 * is told by r6 to r9 must survive; it stops when its sum is above 100. */
START_TEST(loops_call_back)
{
	static const struct bpf_insn insns[] = {
		MOV_IMM(R6, 6), MOV_IMM(R7, 7), MOV_IMM(R8, 8), MOV_IMM(R9, 9), MOV_REG(R4, R2), ST_W(FP, -8, 0), ST_W(FP, -4, 0),
		LD_FUNC(R2, 13), MOV_REG(R3, FP), ALU64_IMM(BPF_ADD, R3, -8), CALL(BPF_FUNC_loop),
		/* r0 * 1000 + sum, if the others are as they were */
		ALU64_IMM(BPF_MUL, R0, 1000), LDX_DW(R1, FP, -8), ALU64_REG(BPF_ADD, R0, R1), ALU64_REG(BPF_ADD, R6, R7),
		ALU64_REG(BPF_ADD, R6, R8), ALU64_REG(BPF_ADD, R6, R9), IF_IMM(BPF_JEQ, R6, 30, 1), MOV_IMM(R0, -99), EXIT,
		/* at 21 */
		MOV_REG(R6, R2), STX_DW(FP, -16, R1), MOV_IMM(R7, -1), MOV_IMM(R8, -2), MOV_IMM(R9, -3), LDX_DW(R3, FP, -16),
		LDX_DW(R0, R6, 0), ALU64_REG(BPF_ADD, R0, R3), STX_DW(R6, 0, R0), IF_IMM(BPF_JGT, R0, 100, 2), MOV_IMM(R0, 0),
		EXIT, MOV_IMM(R0, 1), EXIT,
	};
	static const struct {
		u64 n, flags, want;
	} rows[] = { { 0, 0, 0 }, { 1, 0, 1000 }, { 5, 0, 5010 }, { 100, 0, 15105 }, { 1ull << 32, 0, 0 },
		     { 1 << 23, 0, 15105 }, { (1 << 23) + 1, 0, -7000ull }, { 5, 1, -22000ull } };
	struct vm_prog p = program(insns, ARRAY_SIZE(insns));

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		ck_assert_uint_eq(run_both(&p, rows[i].n, rows[i].flags, 0), rows[i].want);
}
END_TEST

/* A loop in a loop's callback; that calls a helper, which wants the frame, and is
 * called by the program itself, too. Also with a stack to be cleared on entry. */
START_TEST(loops_nest)
{
	struct bpf_insn insns[] = {
		MOV_IMM(R1, 3), LD_FUNC(R2, 12), MOV_REG(R3, FP), ALU64_IMM(BPF_ADD, R3, -8), MOV_IMM(R4, 0), ST_W(FP, -8, 0),
		ST_W(FP, -4, 0), CALL(BPF_FUNC_loop), MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -8), CALL_LOCAL(2),
		LDX_DW(R0, FP, -8), EXIT,
		/* at 14, the outer: 4 times the inner */
		MOV_IMM(R1, 4), MOV_REG(R3, R2), LD_FUNC(R2, 5), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), MOV_IMM(R0, 0), EXIT,
		/* at 22, the inner: the sum grows by the cookie's low byte */
		MOV_REG(R6, R2), MOV_IMM(R1, 0), CALL(BPF_FUNC_get_attach_cookie), ALU64_IMM(BPF_AND, R0, 0xff),
		LDX_DW(R1, R6, 0), ALU64_REG(BPF_ADD, R1, R0), STX_DW(R6, 0, R1), CALL(BPF_FUNC_get_current_pid_tgid),
		MOV_IMM(R0, 0), EXIT,
	};
	struct vm_prog p = program(insns, ARRAY_SIZE(insns));

	ck_assert_uint_eq(run_both(&p, 0, 0, 0), 16 * 0x88);
	insns[23] = (struct bpf_insn)ST_W(FP, -200, 0);
	p = program(insns, ARRAY_SIZE(insns));
	p.info.reads_unset_stack = true;
	ck_assert_uint_eq(run_both(&p, 0, 0, 0), 16 * 0x88);
}
END_TEST

/* Which function it is shows only when it runs. */
START_TEST(loops_choose)
{
	static const struct bpf_insn insns[] = {
		MOV_REG(R6, R1), MOV_IMM(R1, 5), LD_FUNC(R2, 8), IF_IMM(BPF_JEQ, R6, 0, 2), LD_FUNC(R2, 7), MOV_IMM(R3, 0),
		MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), EXIT,
		MOV_IMM(R0, 0), EXIT, MOV_IMM(R0, 1), EXIT,
	};
	struct vm_prog p = program(insns, ARRAY_SIZE(insns));

	ck_assert_uint_eq(run_both(&p, 0, 0, 0), 5);
	ck_assert_uint_eq(run_both(&p, 1, 0, 0), 1);
}
END_TEST

/* An interpreter with a bound stops inside of a callback, too. */
START_TEST(loops_are_bounded)
{
	static const struct bpf_insn insns[] = {
		MOV_IMM(R1, 1 << 20), LD_FUNC(R2, 5), MOV_IMM(R3, 0), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), EXIT,
		MOV_IMM(R0, 0), EXIT,
	};
	struct vm_prog p = program(insns, ARRAY_SIZE(insns));
	u64 r0;

	ck_assert_int_eq(interp_run(&p, NULL, 0, 0, 0, NULL, 1000, &r0), -ELOOP);
	ck_assert_int_eq(interp_run(&p, NULL, 0, 0, 0, NULL, (2 << 20) + 100, &r0), 0);
	ck_assert_uint_eq(r0, 1 << 20);
}
END_TEST

/* for_each_map_elem(map, callback, fp - 8, r2): the callback folds keys and values,
 * doubles the value, and stops after the third when r1 says so. */
START_TEST(maps_call_back)
{
	static const struct bpf_insn insns[] = {
		MOV_REG(R4, R2), STX_DW(FP, -8, R1), ST_W(FP, -16, 0), ST_W(FP, -12, 0), LD_MAP(R1, 0), LD_FUNC(R2, 8),
		MOV_REG(R3, FP), ALU64_IMM(BPF_ADD, R3, -16), CALL(BPF_FUNC_for_each_map_elem), ALU64_IMM(BPF_MUL, R0, 1000000),
		LDX_DW(R1, FP, -16), ALU64_REG(BPF_ADD, R0, R1), EXIT,
		/* at 15; r4 = { sum, how many until it stops } */
		{ .code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = R1, .src_reg = R2 }, ALU64_IMM(BPF_MUL, R1, 100),
		LDX_DW(R2, R3, 0), ALU64_REG(BPF_ADD, R1, R2), ALU64_REG(BPF_ADD, R2, R2), STX_DW(R3, 0, R2), LDX_DW(R2, R4, 0),
		ALU64_REG(BPF_ADD, R2, R1), STX_DW(R4, 0, R2), LDX_DW(R1, R4, 8), ALU64_IMM(BPF_ADD, R1, -1), STX_DW(R4, 8, R1),
		MOV_IMM(R0, 0), IF_IMM(BPF_JNE, R1, 0, 1), MOV_IMM(R0, 1), EXIT,
	};
	static const u32 types[] = { UMAP_ARRAY, UMAP_PERCPU_ARRAY, UMAP_HASH, UMAP_PERCPU_HASH };

	for (size_t t = 0; t < 2 * ARRAY_SIZE(types); t++) {
		u32 type = types[t / 2], key_size = type == UMAP_ARRAY || type == UMAP_PERCPU_ARRAY || t & 1 ? 4 : 24;
		bool percpu = type == UMAP_PERCPU_ARRAY || type == UMAP_PERCPU_HASH;
		bool array = type == UMAP_ARRAY || type == UMAP_PERCPU_ARRAY;
		struct vm_prog p = program(insns, ARRAY_SIZE(insns));
		struct umap m;
		struct vm_map vm = { &m };
		struct jit_map jm = { &m, (addr_t)&m };
		struct claimed c;
		struct umap_ctx cx = { .rec = NULL };
		struct jit_code code;
		u64 sum = 0, got[2], stop[2], bad;
		int fd;

		ck_assert_ptr_null(umap_create("m", type, key_size, t & 1 ? 8 : 40, 10, 0, 2, 7, &m, &fd));
		claimed_start(&c);
		p.info.uses_percpu = percpu;
		cx.rec = (struct thread_rec *)c.frame.rec;
		ck_assert_ptr_null(jit_code_create(&p, &jm, 1, 0, &code));
		for (u32 way = 0; way < 2; way++) {
			for (u32 k = 0; k < 5; k++) {
				u8 key[24] = { (u8)k };

				for (cx.slot = 0; cx.slot < m.nslots; cx.slot++) {
					u64 value[5] = { 7 + k };

					ck_assert_int_eq(umap_update(&m, key, value, 0, &cx), 0);
				}
				sum += way ? 0 : k * 100 + 7 + k;
			}
			if (way) {
				ck_assert_int_eq(interp_run(&p, &vm, 1, 3, 0, &c.frame, 0, &stop[way]), 0);
				ck_assert_int_eq(interp_run(&p, &vm, 1, 0, 0, &c.frame, 0, &got[way]), 0);
				ck_assert_int_eq(interp_run(&p, &vm, 1, 0, 1, &c.frame, 0, &bad), 0);
			} else {
				stop[way] = code.fn(3, 0, &c.frame);
				got[way] = code.fn(0, 0, &c.frame);
				bad = code.fn(0, 1, &c.frame);
			}
			ck_assert_uint_eq(bad, -22000000ull);
			ck_assert_uint_eq(stop[way] / 1000000, 3);
			ck_assert_uint_eq(got[way] / 1000000, array ? 10 : 5);
		}
		ck_assert_uint_eq(stop[0], stop[1]);
		ck_assert_uint_eq(got[0], got[1]);
		if (array) { /* keys in order; the first three values had been doubled; empty elements count by their keys */
			ck_assert_uint_eq(stop[0] % 1000000, 0 + 7 + 100 + 8 + 200 + 9);
			ck_assert_uint_eq(got[0] % 1000000, sum + 7 + 8 + 9 + (5 + 6 + 7 + 8 + 9) * 100);
		}
		jit_code_destroy(&code);
		umap_destroy(&m, fd);
		claimed_end(&c);
	}
}
END_TEST

/* A callback that takes out of the map what it is at, and puts others in: each
 * that stays is seen once, and the walk ends. */
START_TEST(walks_survive_changes)
{
	static const struct bpf_insn insns[] = {
		MOV_IMM(R3, 0), MOV_IMM(R4, 0), LD_MAP(R1, 0), LD_FUNC(R2, 3), CALL(BPF_FUNC_for_each_map_elem), EXIT,
		/* at 8 */
		MOV_REG(R6, R2), CALL(BPF_FUNC_map_delete_elem), { .code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = R1, .src_reg = R6 },
		ALU64_IMM(BPF_ADD, R1, 1000), STX_DW(FP, -8, R1), MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -8), MOV_REG(R3, R2),
		MOV_IMM(R4, 0), LD_MAP(R1, 0), CALL(BPF_FUNC_map_update_elem), MOV_IMM(R0, 0), EXIT,
	};
	struct vm_prog p = program(insns, ARRAY_SIZE(insns));

	for (u32 way = 0; way < 2; way++) {
		struct umap m;
		struct vm_map vm = { &m };
		struct jit_map jm = { &m, (addr_t)&m };
		struct site_data site;
		struct hook_frame frame;
		struct jit_code code;
		u64 seen, value = 1;
		u32 n = 0;
		int fd;

		ck_assert_ptr_null(umap_create("m", UMAP_HASH, 4, 8, 64, 0, 2, 7, &m, &fd));
		self_site(&site, &frame);
		for (u32 k = 0; k < 20; k++)
			ck_assert_int_eq(umap_write(&m, &k, &value, 0, &(struct umap_ctx){ .rec = (struct thread_rec *)frame.rec }), 0);
		ck_assert_ptr_null(jit_code_create(&p, &jm, 1, 0, &code));
		if (way)
			ck_assert_int_eq(interp_run(&p, &vm, 1, 0, 0, &frame, 0, &seen), 0);
		else
			seen = code.fn(0, 0, &frame);
		ck_assert_uint_ge(seen, 20);
		ck_assert_uint_le(seen, 64);
		for (u32 key = 0; key < 20; key++)
			ck_assert_ptr_null(umap_lookup(&m, &key, &(struct umap_ctx){ .rec = (struct thread_rec *)frame.rec }));
		for (u32 next, *key = NULL; !umap_next_key(&m, key, &next); key = &n, n = next)
			ck_assert_uint_ge(next, 1000);
		jit_code_destroy(&code);
		umap_destroy(&m, fd);
	}
}
END_TEST

/* r1 = where from: 1 to 9 bytes of it into the stack, folded. */
static u64 read_both(u32 size, u64 from)
{
	struct bpf_insn insns[] = {
		MOV_REG(R3, R1), ST_W(FP, -16, 0x55), ST_W(FP, -12, 0x66), ST_W(FP, -8, 0x77), ST_W(FP, -4, 0), MOV_REG(R1, FP),
		ALU64_IMM(BPF_ADD, R1, -16), MOV_IMM(R2, (s32)size), CALL(BPF_FUNC_probe_read_user), LDX_DW(R1, FP, -16),
		LDX_DW(R2, FP, -8), ALU64_IMM(BPF_MUL, R0, 31), ALU64_REG(BPF_ADD, R0, R1), ALU64_IMM(BPF_MUL, R0, 31),
		ALU64_REG(BPF_ADD, R0, R2), EXIT,
	};
	struct vm_prog p = program(insns, ARRAY_SIZE(insns));

	return run_both(&p, from, 0, 0);
}

static u64 stack_edge; /* end of the page that the stack begins in; what lies around it does not change */
static ucontext_t test_context, edge_context;

/* Up to and over the end of the stack pointer's page, and of those above. */
static void reads_at_the_edge(void)
{
	for (u32 size = 1; size <= 9; size++)
		for (u32 k = 0; k < 16; k++) {
			read_both(size, stack_edge - k);
			read_both(size, stack_edge + PAGE - k);
		}
}

/* On a stack of its own, that begins a little below the end of a page: frames
 * above a stack pointer hold times and such, which each engine finds different. */
static void run_at_an_edge(void (*fn)(void))
{
	const size_t below = 64 * PAGE, above = 3 * PAGE;
	u8 *stack = mmap(NULL, below + above, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(stack, MAP_FAILED);
	for (size_t i = 0; i < below + above; i++)
		stack[i] = (u8)(i * 7 + 1);
	stack_edge = (u64)stack + below;
	getcontext(&edge_context);
	edge_context.uc_stack = (stack_t){ .ss_sp = stack, .ss_size = below - 64 };
	edge_context.uc_link = &test_context;
	makecontext(&edge_context, fn, 0);
	swapcontext(&test_context, &edge_context);
	munmap(stack, below + above);
}

/* Near the stack pointer reads are made in place, elsewhere by the helper; where
 * nothing is, both say so and clear the destination. */
START_TEST(reads_of_scalars)
{
	u8 near[64];
	u8 *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(pages, MAP_FAILED);
	/* Unmapped, the next code to be run would come to lie there. */
	mprotect(pages + PAGE, PAGE, PROT_NONE);
	for (u32 i = 0; i < sizeof(near); i++)
		near[i] = (u8)(0x81 + i);
	memset(pages, 0x3c, PAGE);
	for (u32 size = 1; size <= 9; size++) {
		ck_assert_uint_ne(read_both(size, (u64)near), read_both(size, 8));
		read_both(size, (u64)pages);
		for (u32 k = 0; k < 10; k++)
			read_both(size, (u64)pages + PAGE - k);
		read_both(size, 0);
		read_both(size, ~0ull);
		read_both(size, ~0ull - 3);
	}
	munmap(pages, 2 * PAGE);
	run_at_an_edge(reads_at_the_edge);
}
END_TEST

/* r1 = where to: SIZE bytes of r2 there; r0 is what that gives. */
static s64 write_by_jit(u32 size, u64 to, u64 value, struct hook_frame *frame)
{
	struct bpf_insn insns[] = {
		STX_DW(FP, -8, R2), MOV_REG(R2, FP), ALU64_IMM(BPF_ADD, R2, -8), MOV_IMM(R3, (s32)size),
		CALL(BPF_FUNC_probe_write_user), EXIT,
	};
	struct vm_prog p = program(insns, ARRAY_SIZE(insns));
	struct jit_code code;
	s64 ret;

	ck_assert_ptr_null(jit_code_create(&p, NULL, 0, 0, &code));
	ret = (s64)code.fn(to, value, frame);
	jit_code_destroy(&code);
	return ret;
}

/* To the recorded stack writes are made in place, elsewhere by the helper: the
 * same bytes arrive, no others, and where nothing is, it says so. */
START_TEST(writes_of_scalars)
{
	struct site_data site;
	struct hook_frame frame;
	struct thread_rec rec = { 0 };
	struct target_private *priv;
	u8 near[32], *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u8 *const places[] = { near, pages, pages + PAGE - 10 };

	ck_assert_ptr_ne(pages, MAP_FAILED);
	mprotect(pages + PAGE, PAGE, PROT_NONE);
	self_site(&site, &frame);
	priv = (struct target_private *)((struct target_env *)site.env)->private_;
	for (u32 size = 1; size <= 8; size++) {
		for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
			u64 value = 0x8877665544332211 + i;

			memset(places[i], 0xee, 10);
			ck_assert_int_eq(write_by_jit(size, (u64)places[i] + 1, value, &frame), 0);
			ck_assert_int_eq(memcmp(places[i] + 1, &value, size), 0);
			ck_assert_uint_eq(places[i][0], 0xee);
			ck_assert_uint_eq(places[i][size + 1], 0xee);
		}
		ck_assert_int_eq(write_by_jit(size, (u64)pages + PAGE - size + 1, 0, &frame), -EFAULT);
		ck_assert_int_eq(write_by_jit(size, 0, 0, &frame), -EFAULT);
		ck_assert_int_eq(write_by_jit(size, ~0ull, 0, &frame), -EFAULT);
	}
	/* A tgid of nobody's: what is not made in place fails. */
	priv->tgid = 0x7fffffff;
	rec.stack_lo = (u64)near - 64 * PAGE;
	rec.stack_hi = (u64)near + 8;
	frame.rec = (addr_t)&rec;
	for (u32 size = 1; size <= 8; size *= 2) {
		ck_assert_int_eq(write_by_jit(size, (u64)near + 8 - size, 0, &frame), 0);
		ck_assert_int_eq(write_by_jit(size, (u64)near + PAGE - size + 1, 0, &frame), -EFAULT);
		ck_assert_int_eq(write_by_jit(size, (u64)near - 32 * PAGE, 0, &frame), -EFAULT);
	}
	rec.stack_lo = (u64)near; /* we are below: on another stack */
	ck_assert_int_eq(write_by_jit(8, (u64)near + PAGE, 0, &frame), -EFAULT);
	priv->tgid = 0;
	munmap(pages, 2 * PAGE);
}
END_TEST

/* Without a slot the program does not run, and that is counted. */
START_TEST(no_slot_means_missed)
{
	static const struct bpf_insn insns[] = { MOV_IMM(R0, 77), EXIT };
	struct vm_prog p = program(insns, 2);
	struct thread_rec *rec;
	struct claimed c;
	struct jit_code code;
	u64 missed;

	p.info.uses_percpu = true;
	claimed_start(&c);
	rec = (struct thread_rec *)c.frame.rec;
	missed = rec->missed;
	ck_assert_ptr_null(jit_code_create(&p, NULL, 0, 0, &code));
	ck_assert_uint_eq(code.fn(0, 0, &c.frame), 77);
	for (u32 s = 0; s < c.site.nclaims; s++)
		c.claims->slot[s].owner = 12345;
	ck_assert_uint_eq(code.fn(0, 0, &c.frame), 0);
	ck_assert_uint_eq(rec->missed, missed + 1);
	for (u32 s = 0; s < c.site.nclaims; s++)
		ck_assert_uint_eq(c.claims->slot[s].owner, 12345);
	jit_code_destroy(&code);
	claimed_end(&c);
}
END_TEST

/* Programs 0 … 3 that go on in each other through a map, by both engines: what they
 * add up in the value of another map, what they return, and that no slot stays
 * claimed though some use per-CPU maps. */
#define NTAILS 4

START_TEST(tail_calls)
{
#define TAIL(index) MOV_REG(R1, R6), LD_MAP(R2, 0), MOV_IMM(R3, index), CALL(BPF_FUNC_tail_call)
#define NOTE(n) LD_VALUE(R1, 1, 0), LDX_DW(R2, R1, 0), ALU64_IMM(BPF_MUL, R2, 3), ALU64_IMM(BPF_ADD, R2, n), STX_DW(R1, 0, R2)
	static const struct bpf_insn insns[NTAILS][36] = {
		{ MOV_REG(R6, R1), NOTE(1), TAIL(1), NOTE(2), TAIL(7), TAIL(-1), NOTE(3), MOV_IMM(R0, 100), EXIT },
		{ MOV_REG(R6, R1), NOTE(4), LDX_DW(R3, R6, 0), MOV_REG(R1, R6), LD_MAP(R2, 0), CALL(BPF_FUNC_tail_call),
		  MOV_IMM(R0, 101), EXIT },
		{ MOV_REG(R6, R1), NOTE(5), TAIL(2), MOV_IMM(R0, 102), EXIT },
		{ LDX_DW(R0, R1, 8), EXIT },
	};
	static const u32 lengths[NTAILS] = { 36, 14, 14, 2 };
	struct umap m[2];
	struct vm_map vm[2] = { { &m[0] }, { &m[1] } };
	struct jit_map jm[2] = { { &m[0], (addr_t)&m[0] }, { &m[1], (addr_t)&m[1] } };
	struct vm_prog p[NTAILS];
	struct interp_code *interp[NTAILS];
	struct jit_code jit[NTAILS];
	u64 interp_table[NTAILS], jit_table[NTAILS];
	struct thread_rec rec = { 0 };
	struct umap_ctx cx = { .rec = &rec };
	struct claimed c;
	int fd[2];

	ck_assert_ptr_null(umap_create("next", UMAP_PROG_ARRAY, 4, 4, 8, 0, 2, 7, &m[0], &fd[0]));
	ck_assert_ptr_null(umap_create("sum", UMAP_ARRAY, 4, 8, 1, 0, 2, 8, &m[1], &fd[1]));
	claimed_start(&c);
	m[0].nprogs = NTAILS;
	for (u32 i = 0; i < NTAILS; i++) {
		p[i] = program(insns[i], lengths[i]);
		ck_assert_ptr_null(check_program(&p[i], vm, 2));
		p[i].info.uses_percpu = _i >> i & 1;
		interp[i] = interp_code_create(&p[i], vm, 2);
		interp_table[i] = (u64)interp[i];
		ck_assert_ptr_null(jit_code_create(&p[i], jm, 2, 0, &jit[i]));
		jit_table[i] = jit[i].out.tail_entry;
	}
	/* sets of elements: element e is program (set >> 3 * e & 7) - 1 */
	for (u32 set = 0; set < 1u << 9; set++) {
		for (u64 go = 0; go < 3; go++) {
			u64 ctx[2] = { go, 77 }, want, got, sum, *value = (u64 *)(m[1].base + m[1].data_off);

			for (u32 e = 0; e < 3; e++) {
				u32 prog = set >> 3 * e & 7;

				umap_delete(&m[0], &e, &cx);
				if (prog)
					ck_assert_int_eq(umap_write(&m[0], &e, &prog, 0, &cx), 0);
			}
			m[0].progs = (u64)interp_table;
			*value = 0;
			ck_assert_int_eq(interp_code_run(interp[0], (u64)ctx, 0, &c.frame, 0, &want), 0);
			sum = *value;
			m[0].progs = (u64)jit_table;
			*value = 0;
			got = jit[0].fn((u64)ctx, 0, &c.frame);
			ck_assert_msg(got == want && *value == sum, "set %o, go %u: %ld and %lu, not %ld and %lu", set, (u32)go,
				      (long)got, (long)*value, (long)want, (long)sum);
			if (set == 04 << 3) /* program 3 after program 0 */
				ck_assert_uint_eq(got, 77);
			if (set == (02 << 3 | 03 << 6) && go == 2) { /* program 1, and 32 times program 2 */
				u64 all = 1 * 3 + 4;

				for (u32 n = 0; n < 32; n++)
					all = all * 3 + 5;
				ck_assert_uint_eq(got, 102);
				ck_assert_uint_eq(*value, all);
			}
			for (u32 s = 0; s < c.site.nclaims; s++)
				ck_assert_uint_eq(c.claims->slot[s].owner, 0);
		}
	}
	for (u32 i = 0; i < NTAILS; i++) {
		interp_code_destroy(interp[i]);
		jit_code_destroy(&jit[i]);
	}
	umap_destroy(&m[0], fd[0]);
	umap_destroy(&m[1], fd[1]);
	claimed_end(&c);
}
END_TEST

/* Same size wherever it runs, as long as helpers are near or far alike. */
static addr_t near_helper(u32 id, void *arg)
{
	return *(addr_t *)arg + 64;
}

static u32 signals_seen, signal_seen;

static u64 note_signal(u64 r1, u64 r2, u64 r3, u64 r4, u64 r5, struct hook_frame *frame)
{
	signals_seen++;
	signal_seen = frame->signal;
	frame->signal = 0;
	return 0;
}

static addr_t helper_noting_signals(u32 id, void *arg)
{
	return id == VM_RT_SIGNAL ? (addr_t)note_signal : jit_host_helper(id, arg);
}

/* The frame of a hit is stack: whatever was there. Program 0 sends nothing and goes
 * on in program 1, which sends a signal or does not. */
START_TEST(signals_behind_a_tail_call)
{
	static const struct bpf_insn first[] = { LD_MAP(R2, 0), MOV_IMM(R3, 1), CALL(BPF_FUNC_tail_call), MOV_IMM(R0, 1),
						 EXIT };
	static const struct bpf_insn second[] = { LDX_DW(R1, R1, 0), IF_IMM(BPF_JEQ, R1, 0, 1),
						  CALL(BPF_FUNC_send_signal), MOV_IMM(R0, 77), EXIT };
	struct vm_prog p[2] = { program(first, ARRAY_SIZE(first)), program(second, ARRAY_SIZE(second)) };
	struct umap m;
	struct vm_map vm = { &m };
	struct jit_map jm = { &m, (addr_t)&m };
	struct thread_rec rec = { 0 };
	struct umap_ctx cx = { .rec = &rec };
	struct jit_code jit[2];
	u32 second_at = 1, prog = 2;
	u64 table[2];
	struct claimed c;
	int fd;

	ck_assert_ptr_null(umap_create("next", UMAP_PROG_ARRAY, 4, 4, 8, 0, 2, 7, &m, &fd));
	m.nprogs = 2;
	m.progs = (u64)table;
	ck_assert_int_eq(umap_write(&m, &second_at, &prog, 0, &cx), 0);
	claimed_start(&c);
	for (u32 i = 0; i < 2; i++) {
		ck_assert_ptr_null(check_program(&p[i], &vm, 1));
		ck_assert_ptr_null(jit_code_create_with(&p[i], &jm, 1, 0, helper_noting_signals, &jit[i]));
		table[i] = jit[i].out.tail_entry;
	}
	for (u32 from = 0; from < 2; from++) {
		for (u64 sig = 0; sig < 16; sig += 15) {
			struct hook_frame frame;

			memset(&frame, 0xff, sizeof(frame));
			frame.site = c.frame.site;
			frame.rec = c.frame.rec;
			signals_seen = 0;
			ck_assert_uint_eq(jit[from].fn((u64)&sig, 0, &frame), 77);
			ck_assert_uint_eq(signals_seen, sig != 0);
			ck_assert(!sig || signal_seen == sig);
		}
	}
	for (u32 i = 0; i < 2; i++)
		jit_code_destroy(&jit[i]);
	umap_destroy(&m, fd);
	claimed_end(&c);
}
END_TEST

START_TEST(size_does_not_depend_on_place)
{
	static struct gen g;
	static const addr_t places[] = { 0, 0x10000, 0x7f0000001000, 0x555500000123 };

	for (u32 seed = 0; seed < 50; seed++) {
		struct vm_prog p;
		size_t first = 0;

		g.next = gen_random;
		g.state = seed;
		gen_program(&g);
		p = program(g.insns, g.n);
		for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
			addr_t base = places[i];
			struct jit_input in = { .prog = &p, .code_addr = base, .helper_addr = near_helper, .arg = &base };
			struct jit_output out;

			ck_assert_ptr_null(jit_compile(&in, &out));
			ck_assert_uint_le(out.size, jit_size_bound(&p));
			if (i)
				ck_assert_uint_eq(out.size, first);
			first = out.size;
			jit_output_deinit(&out);
		}
	}
}
END_TEST

START_TEST(listing)
{
	static const struct bpf_insn insns[] = { LDX_DW(R1, R1, 112), MOV_REG(R0, R1), EXIT };
	struct vm_prog p = program(insns, 3);
	struct jit_input in = { .prog = &p, .code_addr = 0x1000 };
	struct jit_output out;
	char *text;

	ck_assert_ptr_null(jit_compile(&in, &out));
	text = disasm_jited(&p, &out, 0x1000);
	ck_assert_ptr_nonnull(text);
	ck_assert_ptr_nonnull(strstr(text, "0x1000:"));
	ck_assert_ptr_nonnull(strstr(text, "48 8b 7f 70"));
	ck_assert_ptr_nonnull(strstr(text, "ret"));
	ck_assert_ptr_nonnull(strstr(text, "; "));
	ck_assert_ptr_nonnull(strstr(text, "r0 = r1"));
	free(text);
	jit_output_deinit(&out);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("jit");
	TCase *tc = tcase_create("jit");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, random_programs);
	tcase_add_test(tc, edge_values);
	tcase_add_test(tc, division_keeps_other_registers);
	tcase_add_test(tc, jump_distances);
	tcase_add_test(tc, code_is_tight);
	tcase_add_test(tc, groups_keep_what_is_needed);
	tcase_add_test(tc, division_by_constants);
	tcase_add_test(tc, unset_stack_is_zero);
	tcase_add_test(tc, helpers_done_in_place);
	tcase_add_test(tc, common_cases_call_nothing);
	tcase_add_test(tc, lookups_call_what_they_should);
	tcase_add_test(tc, time_in_place);
	tcase_add_test(tc, any_two_instructions);
	tcase_add_test(tc, loops_call_back);
	tcase_add_test(tc, loops_nest);
	tcase_add_test(tc, loops_choose);
	tcase_add_test(tc, loops_are_bounded);
	tcase_add_test(tc, maps_call_back);
	tcase_add_test(tc, walks_survive_changes);
	tcase_add_test(tc, reads_of_scalars);
	tcase_add_test(tc, writes_of_scalars);
	tcase_add_test(tc, calls_clobber_all);
	tcase_add_test(tc, callee_saved_registers_survive);
	tcase_add_test(tc, hostile_programs_are_refused);
	tcase_add_test(tc, maps);
	tcase_add_test(tc, no_slot_means_missed);
	tcase_add_loop_test(tc, tail_calls, 0, 1 << NTAILS);
	tcase_add_test(tc, signals_behind_a_tail_call);
	tcase_add_test(tc, size_does_not_depend_on_place);
	tcase_add_test(tc, listing);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
