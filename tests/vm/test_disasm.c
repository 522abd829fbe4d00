/* SPDX-License-Identifier: MIT */
/* The listing, as bpftool prints it. */
#include <check.h>
#include <stdlib.h>

#include "tests/support/suite.h"
#include "tests/vm/insns.h"
#include "vm/disasm.h"

static const struct umap umaps[] = { { .id = 12 }, { .id = 3 } };
static const struct vm_map maps[] = { { &umaps[0] }, { &umaps[1] } };

static const struct {
	struct bpf_insn insns[2];
	const char *text;
} rows[] = {
	{ { MOV_IMM(R0, 0) }, "(b7) r0 = 0" },
	{ { MOV_IMM(R0, -1) }, "(b7) r0 = -1" },
	{ { MOV_REG(R6, R1) }, "(bf) r6 = r1" },
	{ { MOV32_REG(R6, R1) }, "(bc) w6 = w1" },
	{ { ALU64_IMM(BPF_ADD, R2, -8) }, "(07) r2 += -8" },
	{ { { .code = 0xc4, .dst_reg = 3, .imm = 5 } }, "(c4) w3 s>>= 5" },
	{ { { .code = 0x3f, .dst_reg = 3, .src_reg = 4, .off = 1 } }, "(3f) r3 s/= r4" },
	{ { { .code = 0x94, .dst_reg = 3, .imm = 4, .off = 1 } }, "(94) w3 s%= 4" },
	{ { { .code = 0xbf, .dst_reg = 1, .src_reg = 2, .off = 8 } }, "(bf) r1 = (s8)r2" },
	{ { { .code = 0xbc, .dst_reg = 1, .src_reg = 2, .off = 16 } }, "(bc) w1 = (s16)w2" },
	{ { { .code = 0x87, .dst_reg = 1 } }, "(87) r1 = -r1" },
	{ { { .code = 0xdc, .dst_reg = 1, .imm = 16 } }, "(dc) r1 = be16 r1" },
	{ { { .code = 0xd4, .dst_reg = 1, .imm = 64 } }, "(d4) r1 = le64 r1" },
	{ { { .code = 0xd7, .dst_reg = 1, .imm = 32 } }, "(d7) r1 = bswap32 r1" },
	{ { LOAD(DW, R1, R0, 0) }, "(79) r1 = *(u64 *)(r0 +0)" },
	{ { LOAD(B, R1, FP, -8) }, "(71) r1 = *(u8 *)(r10 -8)" },
	{ { { .code = 0x81, .dst_reg = 1, .src_reg = 2, .off = 4 } }, "(81) r1 = *(s32 *)(r2 +4)" },
	{ { STORE(W, FP, -4, R1) }, "(63) *(u32 *)(r10 -4) = r1" },
	{ { STORE_IMM(H, FP, -4, 7) }, "(6a) *(u16 *)(r10 -4) = 7" },
	{ { ATOMIC(DW, BPF_ADD, R1, 0, R2) }, "(db) lock *(u64 *)(r1 +0) += r2" },
	{ { ATOMIC(W, BPF_XOR, R1, 8, R2) }, "(c3) lock *(u32 *)(r1 +8) ^= r2" },
	{ { ATOMIC(DW, BPF_ADD | BPF_FETCH, R1, 0, R2) }, "(db) r2 = atomic64_fetch_add((u64 *)(r1 +0), r2)" },
	{ { ATOMIC(W, BPF_AND | BPF_FETCH, R1, 0, R2) }, "(c3) r2 = atomic_fetch_and((u32 *)(r1 +0), r2)" },
	{ { ATOMIC(DW, BPF_XCHG, R1, 0, R2) }, "(db) r2 = atomic64_xchg((u64 *)(r1 +0), r2)" },
	{ { ATOMIC(DW, BPF_CMPXCHG, R1, 0, R2) }, "(db) r0 = atomic64_cmpxchg((u64 *)(r1 +0), r0, r2)" },
	{ { JUMP(5) }, "(05) goto pc+5" },
	{ { { .code = 0x06, .imm = -70000 } }, "(06) gotol pc-70000" },
	{ { JUMP_IMM(BPF_JEQ, R0, 0, 3) }, "(15) if r0 == 0x0 goto pc+3" },
	{ { JUMP_IMM(BPF_JSGT, R0, -1, -3) }, "(65) if r0 s> 0xffffffff goto pc-3" },
	{ { JUMP_REG(BPF_JLE, R0, R1, 3) }, "(bd) if r0 <= r1 goto pc+3" },
	{ { { .code = 0x56, .dst_reg = 1, .imm = 2, .off = 1 } }, "(56) if w1 != 0x2 goto pc+1" },
	{ { { .code = 0x45, .dst_reg = 1, .imm = 2, .off = 1 } }, "(45) if r1 & 0x2 goto pc+1" },
	{ { CALL(BPF_FUNC_map_lookup_elem) }, "(85) call bpf_map_lookup_elem#1" },
	{ { CALL(4000) }, "(85) call unknown#4000" },
	{ { CALL_LOCAL(3) }, "(85) call pc+3" },
	{ { EXIT }, "(95) exit" },
	{ { LD_IMM64(R1, 0x123456789abcdef0) }, "(18) r1 = 0x123456789abcdef0" },
	{ { LD_MAP(R1, 0) }, "(18) r1 = map[id:12]" },
	{ { LD_VALUE(R2, 1, 8) }, "(18) r2 = map[id:3][0]+8" },
	{ { LD_MAP(R1, 7) }, "(18) r1 = map[idx:7]" },
	{ { { .code = 0xff } }, "(ff) unknown: dst 0 src 0 off 0 imm 0" },
};

START_TEST(forms)
{
	struct vm_prog p = { .insns = (struct bpf_insn *)rows[_i].insns, .ninsns = 2 };
	char line[DISASM_LINE];
	u32 slots = disasm_insn(&p, 0, maps, ARRAY_SIZE(maps), line);

	ck_assert_str_eq(line, rows[_i].text);
	ck_assert_uint_eq(slots, rows[_i].insns[0].code == 0x18 ? 2 : 1);
}
END_TEST

START_TEST(listing)
{
	struct bpf_insn insns[] = { LD_MAP(R1, 0), MOV_IMM(R0, 0), EXIT, { .code = 0x18, .dst_reg = 1 } };
	struct vm_prog p = { .insns = insns, .ninsns = ARRAY_SIZE(insns) };
	char *text = disasm_xlated(&p, NULL, 0);

	ck_assert_str_eq(text, "   0: (18) r1 = map[idx:0]\n"
			       "   2: (b7) r0 = 0\n"
			       "   3: (95) exit\n"
			       "   4: (18) r1 = ?\n");
	free(text);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("disasm");
	TCase *tc = tcase_create("disasm");

	tcase_add_loop_test(tc, forms, 0, ARRAY_SIZE(rows));
	tcase_add_test(tc, listing);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
