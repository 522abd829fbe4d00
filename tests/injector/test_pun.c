/* SPDX-License-Identifier: MIT */
/* Where the stubs of punned jumps go: within reach, free, shared where possible. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "injector/pun.h"
#include "injector/trampoline.h"
#include "tests/support/suite.h"

static struct window punned(addr_t addr, u8 len, const u8 *behind)
{
	struct window w = { .addr = addr, .len = len, .keep = 5 - len, .ninsns = 1 };

	memcpy(w.bytes + len, behind, w.keep);
	return w;
}

/* Whatever address is taken, the bytes that stay complete the jump to it. */
START_TEST(reach_is_what_the_bytes_allow)
{
	static const u8 behind[][4] = { { 0x48, 0x83, 0xfa, 0x10 }, { 0x01, 0x02, 0x03, 0x84 }, { 0xff, 0xff, 0xff, 0xff } };

	for (unsigned k = 0; k < 3 * ARRAY_SIZE(behind) + 3; k++) {
		u8 len = 1 + k % 4, code[5];
		struct window w = punned(0x1000, len, behind[k % ARRAY_SIZE(behind)]);
		const addr_t bias = 0x7f0000000000;
		addr_t lo, hi;
		s32 rel;

		pun_reach(&w, bias, &lo, &hi);
		ck_assert_uint_eq(hi - lo + 1, 1ull << (8 * (len - 1)));
		for (int end = 0; end < 2; end++) {
			window_patch_bytes(&w, bias, end ? hi : lo, code);
			memcpy(code + len, w.bytes + len, w.keep);
			memcpy(&rel, code + 1, 4);
			ck_assert_uint_eq(code[0], 0xe9);
			ck_assert_uint_eq(bias + 0x1005 + (u64)(s64)rel, end ? hi : lo);
		}
	}
}
END_TEST

START_TEST(stubs_reach_anything)
{
	u8 b[STUB_MAX];
	u64 to;
	s32 rel;

	ck_assert_uint_eq(stub_bytes(0x10000, 0x20000, b), 5);
	memcpy(&rel, b + 1, 4);
	ck_assert(b[0] == 0xe9 && rel == 0x10000 - 5);
	ck_assert_uint_eq(stub_bytes(0x10000, 0x7f0000000000, b), STUB_MAX);
	memcpy(&to, b + 6, 8);
	ck_assert(b[0] == 0xff && b[1] == 0x25 && to == 0x7f0000000000);
}
END_TEST

static struct pun_space space_of(struct target_map *m, size_t n)
{
	struct target_maps maps = { .v = { .data = m, .n = n } };
	struct near_request rq = { .maps = &maps, .brk = 0x600000, .stack_limit = 8 << 20 };
	struct pun_space s = {};

	ck_assert(near_zones_init(&rq, &s.zones));
	return s;
}

START_TEST(places)
{
	struct target_map m[] = {
		{ .lo = 0x400000, .hi = 0x500000, .x = true },
		{ .lo = 0x600000, .hi = 0x700000, .heap = true },
		{ .lo = 0x100000000, .hi = 0x100010000 },
		{ .lo = 0x7ffffffde000, .hi = 0x7ffffffff000, .stack = true },
	};
	struct pun_space s = space_of(m, ARRAY_SIZE(m));
	struct pun_site sites[] = {
		{ 0x450000, 0x450000 },                 /* mapped */
		{ 0x10000000, 0x1000ffff },             /* the heap grows there */
		{ 0x7ffff8000000, 0x7ffff800ffff },     /* the stack does */
		{ 0x1000, 0x10ff },                     /* too low */
		{ 0xfffffffffff00000, 0xfffffffffff0ffff }, /* not canonical for a program */
		{ 0x200000ff0, 0x200000ff9 },           /* near the end of a page */
		{ 0x300000123, 0x300000123 },           /* one address */
		{ 0x300000000, 0x30000ffff },           /* any page of 16: that one */
		{ 0x300000120, 0x30000021f },
		{ 0xfffff800, 0x10000f800 },            /* below what is mapped */
	};

	ck_assert(pun_place(&s, sites, ARRAY_SIZE(sites)));
	for (int i = 0; i < 5; i++)
		ck_assert_uint_eq(sites[i].stub, 0);
	ck_assert(sites[5].stub >= 0x200000ff0 && sites[5].stub % PAGE + STUB_MAX <= PAGE);
	ck_assert_uint_eq(sites[6].stub, 0x300000123);
	ck_assert(sites[7].stub / PAGE == 0x300000 && sites[8].stub / PAGE == 0x300000);
	ck_assert(sites[9].stub >= 0xfffff800 && sites[9].stub + STUB_MAX <= 0x100000000);
	for (size_t i = 5; i < ARRAY_SIZE(sites); i++)
		for (size_t k = 5; k < i; k++)
			ck_assert(sites[i].stub >= sites[k].stub + STUB_MAX || sites[k].stub >= sites[i].stub + STUB_MAX);
	ck_assert_uint_eq(s.pages.n, 3);
	pun_space_deinit(&s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pun");
	TCase *tc = tcase_create("pun");

	tcase_add_test(tc, reach_is_what_the_bytes_allow);
	tcase_add_test(tc, stubs_reach_anything);
	tcase_add_test(tc, places);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
