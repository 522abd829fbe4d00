/* SPDX-License-Identifier: MIT */
/* Numbers, durations, sizes, bars and tables as people see them. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"
#include "tests/support/suite.h"

START_TEST(numbers)
{
	static const struct {
		u64 v;
		const char *text;
	} rows[] = {
		{ 0, "0" }, { 999, "999" }, { 1000, "1,000" }, { 61204, "61,204" }, { 9184110, "9,184,110" },
		{ UINT64_MAX, "18,446,744,073,709,551,615" },
	};
	number_buf buf;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		ck_assert_str_eq(number_format(rows[i].v, buf), rows[i].text);
}
END_TEST

START_TEST(durations)
{
	static const struct {
		u64 ns;
		const char *utf8, *ascii;
	} rows[] = {
		{ 0, "0 ns", "0 ns" },
		{ 880, "880 ns", "880 ns" },
		{ 999, "999 ns", "999 ns" },
		{ 1000, "1 µs", "1 us" },
		{ 3400, "3.4 µs", "3.4 us" },
		{ 38100, "38.1 µs", "38.1 us" },
		{ 99960, "100 µs", "100 us" },
		{ 412000, "412 µs", "412 us" },
		{ 999499, "999 µs", "999 us" },
		{ 999500, "1 ms", "1 ms" },
		{ 4100000, "4.1 ms", "4.1 ms" },
		{ 4212000000, "4.2 s", "4.2 s" },
		{ 10000000000, "10 s", "10 s" },
		{ 119000000000, "119 s", "119 s" },
		{ 200000000000, "3 min 20 s", "3 min 20 s" },
		{ 7500000000000, "2 h 5 min", "2 h 5 min" },
	};
	number_buf buf;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		output_style.utf8 = true;
		ck_assert_str_eq(duration_format(rows[i].ns, buf), rows[i].utf8);
		output_style.utf8 = false;
		ck_assert_str_eq(duration_format(rows[i].ns, buf), rows[i].ascii);
	}
	ck_assert_str_eq(stop_format(600000, buf), "0.6 ms");
	ck_assert_str_eq(stop_format(4100000, buf), "4.1 ms");
	ck_assert_str_eq(stop_format(41000, buf), "0.04 ms");
}
END_TEST

START_TEST(powers)
{
	number_buf buf;

	output_style.utf8 = true;
	ck_assert_str_eq(power_format(0, buf), "1 ns");
	ck_assert_str_eq(power_format(9, buf), "512 ns");
	ck_assert_str_eq(power_format(10, buf), "1 µs");
	ck_assert_str_eq(power_format(19, buf), "512 µs");
	ck_assert_str_eq(power_format(20, buf), "1 ms");
	ck_assert_str_eq(power_format(30, buf), "1 s");
	ck_assert_str_eq(power_format(40, buf), "1024 s");
}
END_TEST

START_TEST(sizes)
{
	number_buf buf;

	ck_assert_str_eq(bytes_format(312, buf), "312 bytes");
	ck_assert_str_eq(bytes_format(4096, buf), "4 KiB");
	ck_assert_str_eq(bytes_format(6396313, buf), "6.1 MiB");
	ck_assert_str_eq(bytes_format((u64)3 << 40, buf), "3072 GiB");
	ck_assert_str_eq(count_format(1, "call", "calls", buf), "1 call");
	ck_assert_str_eq(count_format(3251, "function", "functions", buf), "3,251 functions");
}
END_TEST

START_TEST(times)
{
	struct timespec t = { .tv_sec = 1795529702, .tv_nsec = 114380999 };
	number_buf buf;

	ck_assert_str_eq(time_format(&t, buf), "2026-11-24T14:15:02.114380Z");
}
END_TEST

static char *bar(u64 value, u64 max)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	bar_print(f, value, max);
	fclose(f);
	return text;
}

START_TEST(bars)
{
	static const struct {
		bool utf8;
		u64 value, max;
		const char *text;
	} rows[] = {
		{ true, 388311, 388311, "████████████████████████████████████████" },
		{ true, 201877, 388311, "████████████████████▊" },
		{ true, 19946, 388311, "██" },
		{ true, 1, 388311, "▏" },
		{ true, 0, 388311, "" },
		{ true, UINT64_MAX, UINT64_MAX, "████████████████████████████████████████" },
		{ false, 388311, 388311, "|@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|" },
		{ false, 201877, 388311, "|@@@@@@@@@@@@@@@@@@@@@                   |" },
		{ false, 1, 388311, "|@                                       |" },
		{ false, 0, 388311, "|                                        |" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char *text;

		output_style.utf8 = rows[i].utf8;
		text = bar(rows[i].value, rows[i].max);
		ck_assert_str_eq(text, rows[i].text);
		free(text);
	}
}
END_TEST

START_TEST(tables)
{
	struct table t = { .align = "rl" };
	char *text = NULL;
	size_t size;
	FILE *f = tmpfile();

	output_style.utf8 = true;
	table_cell(&t, "N");
	table_cell(&t, "TEXT");
	table_number(&t, 12345);
	table_cell(&t, "µs");
	table_number(&t, 1);
	table_cell(&t, "bad\033[31m");
	table_print(&t, f);
	rewind(f);
	text = calloc(1, 200);
	size = fread(text, 1, 199, f);
	ck_assert_uint_gt(size, 0);
	ck_assert_str_eq(text, "     N  TEXT\n12,345  µs\n     1  bad?[31m\n");
	fclose(f);
	free(text);
}
END_TEST

START_TEST(json_keeps_integers)
{
	cJSON *obj = cJSON_CreateObject();
	char *text;

	json_add_u64(obj, "a", 5000000000000001);
	json_add_u64(obj, "b", UINT64_MAX);
	text = cJSON_PrintUnformatted(obj);
	ck_assert_str_eq(text, "{\"a\":5000000000000001,\"b\":18446744073709551615}");
	free(text);
	cJSON_Delete(obj);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("output");
	TCase *tc = tcase_create("output");

	tcase_add_test(tc, numbers);
	tcase_add_test(tc, durations);
	tcase_add_test(tc, powers);
	tcase_add_test(tc, sizes);
	tcase_add_test(tc, times);
	tcase_add_test(tc, bars);
	tcase_add_test(tc, tables);
	tcase_add_test(tc, json_keeps_integers);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
