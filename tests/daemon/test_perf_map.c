/* SPDX-License-Identifier: MIT */
/* Maps of JIT compilers: lines that are none, and which one counts where they overlap. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "daemon/perf_map.h"
#include "tests/support/suite.h"

/* Names at 0x100, 0x110, …: a '.' for none. */
static const struct {
	const char *text, *want;
} maps[] = {
	{ "", "........" },
	{ "100 10 a\n110 10 b\n130 20 c\n", "ab.cc..." },
	{ "130 20 c\n110 10 b\n100 10 a", "ab.cc..." },
	/* the later one counts: inside, around, across, the same */
	{ "100 80 a\n120 20 b\n", "aabbaaaa" },
	{ "120 20 b\n100 80 a\n", "aaaaaaaa" },
	{ "100 40 a\n120 40 b\n", "aabbbb.." },
	{ "120 40 b\n100 40 a\n", "aaaabb.." },
	{ "100 20 a\n100 20 b\n100 20 c\n", "cc......" },
	{ "100 80 a\n110 60 b\n120 40 c\n130 20 d\n", "abcddcba" },
	{ "130 20 d\n100 10 a\n120 40 c\n170 10 e\n", "a.cccc.e" },
	/* no lines */
	{ "100 10 a\nrubbish\n\n110 zz b\n120 0 c\nfffffffffffffff0 20 d\n0x130 10 e\n", "a..e...." },
	{ "0 ffffffffffffffff a\n", "aaaaaaaa" },
};

START_TEST(last_line_counts)
{
	struct perf_map *m = perf_map_create(strdup(maps[_i].text));
	char got[9] = "";

	ck_assert_ptr_nonnull(m);
	for (u32 k = 0; k < 8; k++) {
		const struct jitted *first = perf_map_find(m, 0x100 + k * 0x10);
		const struct jitted *last = perf_map_find(m, 0x10f + k * 0x10);

		ck_assert_ptr_eq(first, last);
		got[k] = first ? first->name[0] : '.';
	}
	ck_assert_str_eq(got, maps[_i].want);
	ck_assert(!!perf_map_find(m, 0xff) == (maps[_i].text[0] == '0') && !perf_map_find(m, ~0ull));
	perf_map_destroy(m);
}
END_TEST

#define ROWS 3000

/* Against a search from the end. */
START_TEST(same_as_a_search)
{
	static struct { addr_t lo, hi; } rows[ROWS];
	char *text = malloc(ROWS * 32), *at = text;
	u64 seed = 1;
	struct perf_map *m;

	for (u32 i = 0; i < ROWS; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		rows[i].lo = 0x1000 + (seed >> 33) % 50000;
		rows[i].hi = rows[i].lo + 1 + (seed >> 50) % (i % 10 ? 30 : 3000);
		at += sprintf(at, "%lx %lx %u\n", (long)rows[i].lo, (long)(rows[i].hi - rows[i].lo), i);
	}
	m = perf_map_create(text);
	ck_assert_ptr_nonnull(m);
	for (addr_t a = 0xff0; a < 0x1000 + 54000; a++) {
		const struct jitted *j = perf_map_find(m, a);
		u32 want = ROWS;

		while (want-- > 0 && !(a >= rows[want].lo && a < rows[want].hi))
			;
		ck_assert(want < ROWS ? j && (u32)atoi(j->name) == want && j->lo == rows[want].lo : !j);
	}
	perf_map_destroy(m);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("perf_map");

	tcase_add_loop_test(tc, last_line_counts, 0, ARRAY_SIZE(maps));
	tcase_add_test(tc, same_as_a_search);
	return run_case("perf_map", tc);
}
