/* SPDX-License-Identifier: MIT */
/* Whatever somebody asks of the daemon, and for how long: a process is left alone
 * for a tenth of a second, a second, ten seconds often enough. */
#include <check.h>
#include <stdlib.h>

#include "daemon/pace.h"
#include "tests/support/suite.h"

#define MS 1000000ull
#define PID 7

static const u64 gaps[] = { 100 * MS, 1000 * MS, 10000 * MS };

/* Jobs that come EVERY so long (0: at once) and take TAKES. */
static const struct rhythm {
	u64 every, takes;
} rhythms[] = {
	{ 0, 1 * MS },	      { 0, 20 * MS },	       { 0, 900 * MS },	       { 10 * MS, 5 * MS },
	{ 99 * MS, 1 * MS },  { 300 * MS, 100 * MS },  { 990 * MS, 3 * MS },   { 5000 * MS, 3 * MS },
	{ 9990 * MS, 3 * MS }, { 60000 * MS, 20 * MS },
};

START_TEST(every_gap_comes_in_time)
{
	const struct rhythm *r = &rhythms[_i];
	u64 last_gap[3] = { MS, MS, MS }, worst[3] = { 0 }, now = MS, end = MS, waited = 0;
	pace_vec v = {};

	while (now < 1500 * 1000 * MS) {
		u64 at = pace_earliest(&v, PID, now);

		if (at < now || pace_earliest(&v, PID, at) != at)
			ck_abort_msg("to wait until %lu at %lu makes no sense", (unsigned long)at, (unsigned long)now);
		waited += at - now;
		for (int i = 0; i < 3; i++)
			if (at - end >= gaps[i]) {
				u64 without = end - last_gap[i];

				worst[i] = without > worst[i] ? without : worst[i];
				last_gap[i] = at;
			}
		pace_begin(&v, PID, at);
		end = at + r->takes;
		pace_end(&v, PID, end);
		now = end + r->every;
	}
	for (int i = 0; i < 3; i++) {
		u64 without = end - last_gap[i];

		worst[i] = without > worst[i] ? without : worst[i];
		/* a job may be under way when the gap is due, and a shorter gap be waited for */
		ck_assert_uint_le(worst[i], 30 * gaps[i] + r->takes + r->every + (i ? gaps[i - 1] : 0));
	}
	/* who leaves the gaps himself does not wait */
	if (r->every >= 10000 * MS)
		ck_assert_uint_eq(waited, 0);
	ck_assert_uint_le(v.n, 1);
	vec_free(&v);
}
END_TEST

START_TEST(a_few_commands_do_not_wait)
{
	pace_vec v = {};
	u64 now = MS;

	for (int i = 0; i < 60; i++, now += 20 * MS) {
		ck_assert_uint_eq(pace_earliest(&v, PID, now), now);
		pace_begin(&v, PID, now);
		pace_end(&v, PID, now + 5 * MS);
	}
	vec_free(&v);
}
END_TEST

START_TEST(processes_do_not_wait_for_each_other)
{
	pace_vec v = {};
	u64 now = MS;

	for (int i = 0; i < 64; i++, now += MS) {
		pace_begin(&v, PID, now);
		pace_end(&v, PID, now);
	}
	ck_assert_uint_gt(pace_earliest(&v, PID, now), now);
	ck_assert_uint_eq(pace_earliest(&v, PID + 1, now), now);
	/* … and what has long been left alone is forgotten */
	now += 20000 * MS;
	pace_begin(&v, PID + 1, now);
	ck_assert_uint_eq(v.n, 1);
	vec_free(&v);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("pace");

	tcase_add_loop_test(tc, every_gap_comes_in_time, 0, (int)(sizeof(rhythms) / sizeof(rhythms[0])));
	tcase_add_test(tc, a_few_commands_do_not_wait);
	tcase_add_test(tc, processes_do_not_wait_for_each_other);
	return run_case("pace", tc);
}
