/* SPDX-License-Identifier: MIT */
/*
 * Relocation, by table: bytes at one address in, bytes at another out. Each
 * expected copy was read as a disassembly before it was written down here.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "injector/relocate.h"
#include "tests/support/suite.h"

#define LOW 0x401000ull
#define LOW_TO 0x500000ull
#define HIGH 0x7f0000001000ull
#define HIGH_TO 0x7effffff0000ull

struct row {
	const char *what;
	addr_t from, to;
	const char *in, *out;
};

static const struct row rows[] = {
	{ "push rbp", LOW, LOW_TO, "55", "55" },
	{ "endbr64", LOW, LOW_TO, "f30f1efa", "f30f1efa" },
	{ "mov rax, [rip+0x10]", LOW, LOW_TO, "488b0510000000", "488b051010f0ff" },
	{ "mov rax, [rip+0x10] high", HIGH, HIGH_TO, "488b0510000000", "488b0510100100" },
	{ "cmp dword [rip+0x100], 7 (immediate behind)", LOW, LOW_TO, "833d0001000007", "833d0011f0ff07" },
	{ "mov dword [rip+0x100], 0x11223344", LOW, LOW_TO, "c7050001000044332211", "c7050011f0ff44332211" },
	{ "vmovaps ymm0, [rip+0x20]", LOW, LOW_TO, "c5fc280520000000", "c5fc28052010f0ff" },
	{ "vpblendd ymm4, ymm3, [rip+0x20], 0x55 (3-byte VEX, immediate)", LOW, LOW_TO, "c4e36502252000000055",
	  "c4e36502252010f0ff55" },
	{ "vpaddq ymm2, ymm18, [rip+0x20]{1to4} (EVEX)", LOW, LOW_TO, "62f1ed30d41520000000", "62f1ed30d4152010f0ff" },
	{ "lock add dword [rip+0x20], 0x11223344", LOW, LOW_TO, "f081052000000044332211", "f081052010f0ff44332211" },
	{ "imul ax, [rip+0x20], 0x1234", LOW, LOW_TO, "66690520000000" "3412", "6669052010f0ff3412" },
	{ "movabs rax, imm64 is no address", LOW, LOW_TO, "48b88877665544332211", "48b88877665544332211" },
	{ "lea rdi, [rip-0x1000]", LOW, LOW_TO, "488d3d00f0ffff", "488d3d0000f0ff" },
	{ "jne +0x10", LOW, LOW_TO, "7510", "0f850c10f0ff" },
	{ "jne back to itself", LOW, LOW_TO, "75fe", "0f85fa0ff0ff" },
	{ "jo rel32", LOW, LOW_TO, "0f8000020000", "0f800012f0ff" },
	{ "jmp +0", LOW, LOW_TO, "eb00", "e9fd0ff0ff" },
	{ "jmp rel32", LOW, LOW_TO, "e900010000", "e90011f0ff" },
	{ "bnd jmp rel32", LOW, LOW_TO, "f2e900010000", "e90111f0ff" },
	{ "notrack jmp rax", LOW, LOW_TO, "3effe0", "3effe0" },
	{ "jmp [rip+8]", LOW, LOW_TO, "ff2508000000", "ff250810f0ff" },
	{ "jmp [rax*8+0x404000]", LOW, LOW_TO, "ff24c500404000", "ff24c500404000" },
	{ "call rel32, low", LOW, LOW_TO, "e800010000", "6805104000e9fb10f0ff" },
	{ "call rel32, high", HIGH, HIGH_TO, "e800010000", "6805100000c7442404007f0000e9f3100100" },
	{ "call with rex (TLS)", LOW, LOW_TO, "666648e800010000", "6808104000e9fe10f0ff" },
	{ "call rax", LOW, LOW_TO, "ffd0", "6802104000ffe0" },
	{ "call r12", LOW, LOW_TO, "41ffd4", "680310400041ffe4" },
	{ "call [rip+8]", LOW, LOW_TO, "ff1508000000", "6806104000ff250310f0ff" },
	{ "call [rax]", LOW, LOW_TO, "ff10", "6802104000ff20" },
	{ "call [rax+rcx*8+0x10]", LOW, LOW_TO, "ff54c810", "6804104000ff64c810" },
	{ "call [rsp]", LOW, LOW_TO, "ff1424", "6803104000ffa42408000000" },
	{ "call [rsp+0x7c]", LOW, LOW_TO, "ff54247c", "6804104000ffa42484000000" },
	{ "call [rsp+rcx*8+0x100]", LOW, LOW_TO, "ff94cc00010000", "6807104000ffa4cc08010000" },
	{ "call [r12+0x10] is not the stack", LOW, LOW_TO, "41ff542410", "680510400041ff642410" },
	{ "call [r12+rsp...] none", LOW, LOW_TO, "41ff1424", "680410400041ff2424" },
	{ "loop -2", LOW, LOW_TO, "e2fe", "e202eb05e9f70ff0ff" },
	{ "loopne", LOW, LOW_TO, "e010", "e002eb05e90910f0ff" },
	{ "jrcxz", LOW, LOW_TO, "e310", "e302eb05e90910f0ff" },
	{ "jecxz", LOW, LOW_TO, "67e310", "67e302eb05e90910f0ff" },
	{ "xbegin", LOW, LOW_TO, "c7f800010000", "c7f80011f0ff" },
	{ "ret", LOW, LOW_TO, "c3", "c3" },
	{ "rep ret", LOW, LOW_TO, "f3c3", "f3c3" },
	{ "ret 16", LOW, LOW_TO, "c21000", "c21000" },
	{ "syscall", LOW, LOW_TO, "0f05", "0f05" },
};

static size_t unhex(const char *s, u8 *ret)
{
	size_t n = strlen(s) / 2;

	for (size_t i = 0; i < n; i++) {
		char b[3] = { s[2 * i], s[2 * i + 1], 0 };

		ret[i] = (u8)strtoul(b, NULL, 16);
	}
	return n;
}

static void tohex(const u8 *p, size_t n, char *ret)
{
	for (size_t i = 0; i < n; i++)
		sprintf(ret + 2 * i, "%02x", p[i]);
	ret[2 * n] = 0;
}

START_TEST(copies)
{
	const struct row *r = &rows[_i];
	struct emit e = { .addr = r->to };
	u8 bytes[32];
	char got[128];
	size_t n = unhex(r->in, bytes);
	struct insn in;

	ck_assert_msg(insn_decode(bytes, n, r->from, &in), "%s: not decoded", r->what);
	ck_assert_uint_eq(in.len, n);
	ck_assert_msg(!relocate_refusal(bytes, &in), "%s: %s", r->what, relocate_refusal(bytes, &in));
	relocate_insn(&e, bytes, &in);
	ck_assert_int_eq(e.failed, EMIT_OK);
	ck_assert_uint_le(e.n, RELOCATE_MAX);
	tohex(e.buf, e.n, got);
	ck_assert_msg(!strcmp(got, r->out), "%s: got %s, expected %s", r->what, got, r->out);
	emit_deinit(&e);
}
END_TEST

static const struct {
	const char *in, *why;
} refused[] = {
	{ "cc", "a breakpoint instruction" },
	{ "0f0b", "a trap, whose handler looks at its address" },
	{ "f4", "a trap, whose handler looks at its address" },
	{ "cb", "a far transfer" },
	{ "48cf", "a far transfer" },
	{ "ff18", "a far transfer" },
	{ "67488b0510000000", "an operand relative to eip" },
	{ "ffd4", "a call to the stack" },
	{ "66e900010000", "a branch with a 16-bit prefix, which CPUs disagree about" },
	{ "66e800010000", "a branch with a 16-bit prefix, which CPUs disagree about" },
	{ "667510", "a branch with a 16-bit prefix, which CPUs disagree about" },
	{ "67ff10", "a call through a 32-bit address" },
};

START_TEST(refusals)
{
	u8 bytes[32];
	size_t n = unhex(refused[_i].in, bytes);
	struct insn in;
	const char *why;

	ck_assert_msg(insn_decode(bytes, n, LOW, &in), "%s", refused[_i].in);
	why = relocate_refusal(bytes, &in);
	ck_assert_msg(why && !strcmp(why, refused[_i].why), "%s: %s", refused[_i].in, why ? why : "moved");
}
END_TEST

/* The reach of 32 bits is checked to the byte. */
START_TEST(reach)
{
	static const u8 bytes[] = { 0x48, 0x8b, 0x05, 0, 0, 0, 0 };
	struct insn in;
	static const struct {
		s64 distance;
		enum emit_failure failed;
	} far[] = { { INT32_MAX, EMIT_OK }, { INT32_MAX + 1ll, EMIT_FAR }, { INT32_MIN, EMIT_OK }, { INT32_MIN - 1ll, EMIT_FAR } };

	ck_assert(insn_decode(bytes, sizeof(bytes), HIGH, &in));
	for (size_t i = 0; i < ARRAY_SIZE(far); i++) {
		/* The copy's displacement is in.ref - (to + 7). */
		struct emit e = { .addr = in.ref - 7 - (u64)far[i].distance };

		relocate_insn(&e, bytes, &in);
		ck_assert_int_eq(e.failed, far[i].failed);
		emit_deinit(&e);
	}
}
END_TEST

START_TEST(kinds)
{
	static const struct {
		const char *in;
		enum insn_kind kind;
	} k[] = {
		{ "90", INSN_NOP }, { "660f1f440000", INSN_NOP }, { "0f1f840000000000", INSN_NOP },
		{ "6690", INSN_NOP }, { "662e0f1f840000000000", INSN_NOP }, { "f3c3", INSN_RET },
		{ "c20800", INSN_RET }, { "ff25aa000000", INSN_JMP_IND }, { "ffe0", INSN_JMP_IND },
		{ "3effe0", INSN_JMP_IND }, { "e8aa000000", INSN_CALL }, { "ff15aa000000", INSN_CALL_IND },
		{ "7401", INSN_JCC }, { "e301", INSN_LOOP }, { "ff28", INSN_FAR }, { "f390", INSN_PLAIN },
		{ "0f34", INSN_SYSCALL }, { "cd80", INSN_SYSCALL }, { "31c0", INSN_PLAIN },
	};
	u8 bytes[32];
	struct insn in;

	for (size_t i = 0; i < ARRAY_SIZE(k); i++) {
		size_t n = unhex(k[i].in, bytes);

		ck_assert_msg(insn_decode(bytes, n, LOW, &in), "%s", k[i].in);
		ck_assert_msg(in.kind == k[i].kind, "%s: kind %d", k[i].in, in.kind);
		ck_assert_uint_eq(in.len, n);
	}
	ck_assert(!insn_decode((const u8[]){ 0x06 }, 1, LOW, &in));
	ck_assert(!insn_decode((const u8[]){ 0xe8, 0, 0 }, 3, LOW, &in));
}
END_TEST

/* ---- encoders: what each puts, at LOW ---- */

static void load_sp(struct emit *e) { put_load(e, AX, SP, 8); }
static void load_high(struct emit *e) { put_load(e, R12, R13, 0); }
static void load_r12(struct emit *e) { put_load(e, AX, R12, 127); }
static void load_far(struct emit *e) { put_load(e, DI, SP, 128); }
static void store_far(struct emit *e) { put_store(e, SP, 200, R15); }
static void store_below(struct emit *e) { put_store(e, BP, -128, R8); }
static void store_zero(struct emit *e) { put_store_imm(e, SP, -8, 0); }
static void store_minus(struct emit *e) { put_store_imm(e, R9, 0x1000, -1); }
static void lea_frame(struct emit *e) { put_lea(e, SP, SP, -200); }
static void lea_back(struct emit *e) { put_lea(e, SP, SP, 200); }
static void lea_short(struct emit *e) { put_lea(e, R14, BX, 4); }
static void mov_low(struct emit *e) { put_mov(e, DX, SP); }
static void mov_mixed(struct emit *e) { put_mov(e, R8, DI); }
static void mov_back(struct emit *e) { put_mov(e, DI, R8); }
static void inc_mem(struct emit *e) { put_inc_mem(e, DI, 8); }
static void inc_high(struct emit *e) { put_inc_mem(e, R12, 16); }
static void addr_near(struct emit *e) { put_addr(e, DX, LOW + 0x100); }
static void addr_near_high(struct emit *e) { put_addr(e, R9, LOW - 0x100); }
static void addr_far(struct emit *e) { put_addr(e, SI, HIGH); }
static void addr_far_high(struct emit *e) { put_addr(e, R11, HIGH); }
static void jump(struct emit *e) { put_jmp(e, LOW); }
static void call_near(struct emit *e) { put_call(e, LOW + 0x1005); }
static void call_far(struct emit *e) { put_call(e, HIGH); }
static void forward(struct emit *e)
{
	size_t fix = put_jcc_fwd(e, 5);

	put_u32(e, 0x90909090);
	emit_fix_here(e, fix);
}

static const struct {
	void (*put)(struct emit *e);
	const char *out;
} encoders[] = {
	{ load_sp, "488b442408" }, { load_high, "4d8b6500" }, { load_r12, "498b44247f" },
	{ load_far, "488bbc2480000000" }, { store_far, "4c89bc24c8000000" }, { store_below, "4c894580" },
	{ store_zero, "48c74424f800000000" }, { store_minus, "49c78100100000ffffffff" },
	{ lea_frame, "488da42438ffffff" }, { lea_back, "488da424c8000000" }, { lea_short, "4c8d7304" },
	{ mov_low, "4889e2" }, { mov_mixed, "4989f8" }, { mov_back, "4c89c7" }, { inc_mem, "48ff4708" },
	{ inc_high, "49ff442410" }, { addr_near, "488d15f9000000" }, { addr_near_high, "4c8d0df9feffff" },
	{ addr_far, "48be001000000" "07f0000" }, { addr_far_high, "49bb0010000000" "7f0000" },
	{ jump, "e9fbffffff" }, { call_near, "e800100000" }, { call_far, "48b80010000000" "7f0000ffd0" },
	{ forward, "0f850400000090909090" },
};

START_TEST(encodes)
{
	struct emit e = { .addr = LOW };
	char got[128];

	encoders[_i].put(&e);
	ck_assert_int_eq(e.failed, EMIT_OK);
	tohex(e.buf, e.n, got);
	ck_assert_msg(!strcmp(got, encoders[_i].out), "got %s, expected %s", got, encoders[_i].out);
	emit_deinit(&e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("relocate");
	TCase *tc = tcase_create("relocate");

	tcase_add_loop_test(tc, copies, 0, ARRAY_SIZE(rows));
	tcase_add_loop_test(tc, encodes, 0, ARRAY_SIZE(encoders));
	tcase_add_loop_test(tc, refusals, 0, ARRAY_SIZE(refused));
	tcase_add_test(tc, reach);
	tcase_add_test(tc, kinds);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
