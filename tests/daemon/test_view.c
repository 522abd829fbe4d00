/* SPDX-License-Identifier: MIT */
/* Text that targets and files chose, as JSON must have it. */
#include <check.h>
#include <string.h>

#include "daemon/view.h"
#include "tests/support/suite.h"

static void check_text(const char *given, const char *want)
{
	cJSON *o = cJSON_CreateObject();

	view_text(o, "text", given);
	ck_assert_str_eq(cJSON_GetObjectItem(o, "text")->valuestring, want);
	cJSON_Delete(o);
}

static const struct {
	const char *given, *want;
} texts[] = {
	{ "", "" },
	{ "a\tb\x1b[0m\x7f", "a?b?[0m?" },
	{ "µ… \xf0\x9f\x98\x80", "µ… \xf0\x9f\x98\x80" },
	/* the first and the last of each length */
	{ "\xc2\x80 \xdf\xbf", "\xc2\x80 \xdf\xbf" },
	{ "\xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf",
	  "\xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf" },
	{ "\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf" },
	/* overlong, surrogates, beyond Unicode */
	{ "\xc0\xaf \xc1\xbf", "?? ??" },
	{ "\xe0\x9f\xbf \xf0\x8f\xbf\xbf", "??? ????" },
	{ "\xed\xa0\x80", "???" },
	{ "\xf4\x90\x80\x80 \xf5\x80\x80\x80 \xff", "???? ???? ?" },
	/* not whole, in the middle and at the end */
	{ "\x80\xbf", "??" },
	{ "\xc3x \xe2\x80x \xf0\x9f\x98x", "?x ??x ???x" },
	{ "\xc3", "?" },
	{ "\xe2\x80", "??" },
	{ "\xf0\x9f\x98", "???" },
	{ "\xe2\xc3\xa9", "?\xc3\xa9" },
};

START_TEST(is_utf8)
{
	check_text(texts[_i].given, texts[_i].want);
}
END_TEST

#define MAX 511 /* bytes */

/* Cut between two sequences, never in one. */
START_TEST(is_cut_between_sequences)
{
	char given[MAX + 16], want[MAX + 1];

	for (size_t before = MAX - 4; before <= MAX; before++) {
		memset(given, 'x', before);
		strcpy(given + before, "\xf0\x9f\x98\x80yyyyy");
		memcpy(want, given, MAX);
		want[before + 4 <= MAX ? MAX : before] = 0;
		check_text(given, want);
	}
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("view");

	tcase_add_loop_test(tc, is_utf8, 0, ARRAY_SIZE(texts));
	tcase_add_test(tc, is_cut_between_sequences);
	return run_case("view", tc);
}
