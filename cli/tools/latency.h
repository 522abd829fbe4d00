/* SPDX-License-Identifier: MIT */
/*
 * What latency.bpf.c and the cli must agree on: the histogram's shape and the
 * maps' values. 16 buckets a power of two; values below 16 have one each.
 */
#pragma once

#define HIST_SUB_BITS 4
#define HIST_SUB (1 << HIST_SUB_BITS)
#define HIST_POWERS 40 /* longer than 2^40 ns (18 minutes) falls into the last bucket */
#define HIST_BUCKETS ((HIST_POWERS - HIST_SUB_BITS + 1) * HIST_SUB)

/* Per site and CPU. Only sums: copies of CPUs are added up word by word. */
struct latency_sums {
	unsigned long long total; /* ns */
	unsigned long long bucket[HIST_BUCKETS];
};

/* Per site, for all CPUs; both only grow, from zero. */
struct latency_extremes {
	unsigned long long max;
	unsigned long long not_min; /* ~min; 0: nothing was measured */
};

/* Elements of the map "events", per CPU. */
enum latency_event {
	LATENCY_NO_ROOM,  /* a call was not timed: its set of frames was full */
	LATENCY_UNPAIRED, /* a return without its entry: it had begun before */
	LATENCY_NEVENTS,
};
