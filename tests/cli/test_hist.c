/* SPDX-License-Identifier: MIT */
/* Histograms: buckets tile all values; percentiles against a sorted sample. */
#include <check.h>
#include <stdlib.h>

#include "cli/hist.h"
#include "tests/support/suite.h"

START_TEST(buckets_tile)
{
	ck_assert_uint_eq(hist_lower(0), 0);
	for (unsigned b = 0; b + 1 < HIST_BUCKETS; b++) {
		u64 lo = hist_lower(b), hi = hist_upper(b);

		ck_assert_uint_lt(lo, hi);
		ck_assert_uint_eq(hist_bucket(lo), b);
		ck_assert_uint_eq(hist_bucket(hi - 1), b);
		ck_assert_uint_eq(hist_bucket(hi), b + 1);
		/* 16 a power of two: never wider than 1/16 of its lower end */
		ck_assert(hi - lo == 1 || (hi - lo) * 16 <= lo);
	}
	ck_assert_uint_eq(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1);
	ck_assert_uint_eq(hist_bucket((u64)1 << 40), HIST_BUCKETS - 1);
}
END_TEST

static int compare(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

static void fill(struct hist *h, u64 *sample, size_t n, u64 (*next)(void))
{
	*h = (struct hist){ .min = UINT64_MAX };
	for (size_t i = 0; i < n; i++) {
		u64 v = next();

		sample[i] = v;
		h->bucket[hist_bucket(v)]++;
		h->sum += v;
		h->min = v < h->min ? v : h->min;
		h->max = v > h->max ? v : h->max;
	}
	hist_finish(h);
	qsort(sample, n, sizeof(*sample), compare);
}

static u64 seed = 88172645463325252ull;

static u64 xorshift(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	return seed ^= seed << 17;
}

/* many short ones, a long tail */
static u64 log_spread(void)
{
	u64 bits = xorshift() % 34;

	return xorshift() & (((u64)1 << bits) - 1);
}

static u64 narrow(void)
{
	return 870 + xorshift() % 20;
}

static u64 constant(void)
{
	return 1000;
}

START_TEST(percentiles_against_sorted)
{
	static u64 (*const makers[])(void) = { log_spread, narrow, constant };
	static const size_t sizes[] = { 1, 2, 9, 10, 11, 999, 1000, 1001, 20000 };
	static const unsigned per_mille[] = { 1, 500, 900, 990, 999, 1000 };
	static u64 sample[20000];
	struct hist h;

	for (size_t m = 0; m < ARRAY_SIZE(makers); m++) {
		for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
			fill(&h, sample, sizes[s], makers[m]);
			ck_assert_uint_eq(h.count, sizes[s]);
			ck_assert_uint_eq(h.max, sample[sizes[s] - 1]);
			ck_assert_uint_eq(h.min, sample[0]);
			for (size_t p = 0; p < ARRAY_SIZE(per_mille); p++) {
				size_t rank = (sizes[s] * per_mille[p] + 999) / 1000;
				u64 exact = sample[(rank ? rank : 1) - 1], got = hist_percentile(&h, per_mille[p]);
				u64 off = got > exact ? got - exact : exact - got;

				ck_assert_msg(off * 100 <= exact * 6, "%zu samples, %u: %llu for %llu", sizes[s],
					      per_mille[p], (unsigned long long)got, (unsigned long long)exact);
			}
		}
	}
}
END_TEST

START_TEST(powers_add_up)
{
	static u64 sample[5000];
	struct hist h;
	u64 all = 0;

	fill(&h, sample, ARRAY_SIZE(sample), log_spread);
	for (unsigned p = 0; p < HIST_POWERS; p++) {
		u64 want = 0;

		for (size_t i = 0; i < ARRAY_SIZE(sample); i++)
			want += (sample[i] ? 63 - __builtin_clzll(sample[i]) : 0) == p;
		ck_assert_uint_eq(hist_power(&h, p), want);
		all += want;
	}
	ck_assert_uint_eq(all, ARRAY_SIZE(sample));
}
END_TEST

START_TEST(empty)
{
	struct hist h = { .min = UINT64_MAX };

	hist_finish(&h);
	ck_assert_uint_eq(h.count, 0);
	ck_assert_uint_eq(h.min, 0);
	ck_assert_uint_eq(hist_percentile(&h, 500), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hist");
	TCase *tc = tcase_create("hist");

	tcase_add_test(tc, buckets_tile);
	tcase_add_test(tc, percentiles_against_sorted);
	tcase_add_test(tc, powers_add_up);
	tcase_add_test(tc, empty);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
