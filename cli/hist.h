/* SPDX-License-Identifier: MIT */
/* Log-linear histograms as latency.bpf.c fills them: 16 buckets a power of two. */
#pragma once
#include "base/types.h"
#include "cli/tools/latency.h"

struct hist {
	u64 bucket[HIST_BUCKETS];
	u64 count, sum, min, max;
};

/* The bucket of V, and what a bucket holds: lower ≤ v < upper. The last one has
 * no upper end (UINT64_MAX). */
unsigned hist_bucket(u64 v);
u64 hist_lower(unsigned bucket);
u64 hist_upper(unsigned bucket);

/* Sets `count` from the buckets, and bounds min and max by them. */
void hist_finish(struct hist *h);

/* The value that PER_MILLE of all samples do not exceed (nearest rank): the
 * middle of its bucket, within min and max. 0 when there are none. */
u64 hist_percentile(const struct hist *h, unsigned per_mille);

/* Samples v with 2^power ≤ v < 2^(power+1); 0 and 1 count to power 0. */
u64 hist_power(const struct hist *h, unsigned power);
