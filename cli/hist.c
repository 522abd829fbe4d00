// SPDX-License-Identifier: MIT
/* Buckets and percentiles; see hist.h. */
#include "cli/hist.h"

unsigned hist_bucket(u64 v)
{
	unsigned power;

	if (v < HIST_SUB)
		return v;
	power = 63 - __builtin_clzll(v);
	if (power >= HIST_POWERS)
		return HIST_BUCKETS - 1;
	return (power - HIST_SUB_BITS + 1) * HIST_SUB + ((v >> (power - HIST_SUB_BITS)) & (HIST_SUB - 1));
}

u64 hist_lower(unsigned bucket)
{
	unsigned group = bucket / HIST_SUB, sub = bucket % HIST_SUB;

	return group ? (u64)(HIST_SUB + sub) << (group - 1) : sub;
}

u64 hist_upper(unsigned bucket)
{
	return bucket + 1 < HIST_BUCKETS ? hist_lower(bucket + 1) : UINT64_MAX;
}

static u64 clamp(u64 v, u64 lo, u64 hi)
{
	return v < lo ? lo : v > hi ? hi : v;
}

void hist_finish(struct hist *h)
{
	unsigned first = HIST_BUCKETS, last = 0;

	h->count = 0;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		if (!h->bucket[i])
			continue;
		h->count += h->bucket[i];
		first = first == HIST_BUCKETS ? i : first;
		last = i;
	}
	if (!h->count) {
		h->min = h->max = 0;
		return;
	}
	h->min = clamp(h->min, hist_lower(first), hist_upper(first) - 1);
	h->max = clamp(h->max, hist_lower(last), hist_upper(last) - 1);
}

u64 hist_percentile(const struct hist *h, unsigned per_mille)
{
	u64 rank = ((unsigned __int128)h->count * per_mille + 999) / 1000, seen = 0;

	if (!h->count)
		return 0;
	if (!rank)
		rank = 1;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen < rank)
			continue;
		/* the last bucket has no middle: the largest sample stands for it */
		if (i + 1 == HIST_BUCKETS)
			return h->max;
		return clamp(hist_lower(i) + (hist_upper(i) - hist_lower(i)) / 2, h->min, h->max);
	}
	return h->max;
}

u64 hist_power(const struct hist *h, unsigned power)
{
	u64 lo = power ? (u64)1 << power : 0, n = 0;

	for (unsigned i = hist_bucket(lo); i < HIST_BUCKETS; i++) {
		if (power + 1 < HIST_POWERS && hist_lower(i) >= (u64)2 << power)
			break;
		n += h->bucket[i];
	}
	return n;
}
