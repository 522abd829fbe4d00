/* SPDX-License-Identifier: MIT */
/* One row for each goal. All are of medians over the rounds of one run. */
#include "goals.h"

#include <string.h>

#include "rows.h"

/* Row NAME in environment ENV. */
static const struct bench_result *row(const struct bench_report *rep, const char *name, int env)
{
	for (size_t i = 0; i < bench_nrows; i++)
		if (!strcmp(bench_rows[i].name, name))
			return &rep->results[i][env];
	return NULL;
}

/* What row NAME adds to the call. */
static bool added(const struct bench_report *rep, const char *name, double *ret)
{
	const struct bench_result *r = row(rep, name, ENV_USERSPACE);

	*ret = bench_median(r) - bench_median(&rep->plain);
	return r->runs && rep->plain.runs;
}

static bool pad_ratio(const struct bench_report *rep, double *ret)
{
	const struct bench_result *r = row(rep, "__bench_uprobe", ENV_USERSPACE);

	*ret = bench_median(r) / bench_median(&rep->pad);
	return r->runs && rep->pad.runs;
}

static bool entry_adds(const struct bench_report *rep, double *ret)
{
	return added(rep, "__bench_uprobe", ret);
}

static bool exit_adds(const struct bench_report *rep, double *ret)
{
	return added(rep, "__bench_uretprobe", ret);
}

static bool both_add(const struct bench_report *rep, double *ret)
{
	return added(rep, "__bench_uprobe_uretprobe", ret);
}

static bool tail_adds(const struct bench_report *rep, double *ret)
{
	return added(rep, "__bench_uretprobe_tail", ret);
}

static bool taken_adds(const struct bench_report *rep, double *ret)
{
	return added(rep, "__bench_uretprobe_taken", ret);
}

/* An operation of row NAME. */
static bool operation(const struct bench_report *rep, const char *name, double *ret)
{
	const struct bench_result *r = row(rep, name, ENV_USERSPACE), *base = row(rep, "__bench_uprobe", ENV_USERSPACE);

	*ret = (bench_median(r) - bench_median(base)) / 1000;
	return r->runs && base->runs;
}

static bool read_takes(const struct bench_report *rep, double *ret)
{
	return operation(rep, "__bench_read", ret);
}

static bool write_takes(const struct bench_report *rep, double *ret)
{
	return operation(rep, "__bench_write", ret);
}

static bool scaling_ratio(const struct bench_report *rep, double *ret)
{
	const struct bench_result *c = rep->scaling.counted;

	*ret = bench_median(&c[1]) / bench_median(&c[0]);
	return c[0].runs && c[1].runs;
}

/* Updates of a shared hash map that several threads make / that one makes, in the same time. */
static bool shared_throughput(const struct bench_report *rep, double *ret)
{
	const struct bench_result *c = rep->scaling.shared;

	*ret = BENCH_THREADS * bench_median(&c[0]) / bench_median(&c[1]);
	return c[0].runs && c[1].runs;
}

static bool counts_lost(const struct bench_report *rep, double *ret)
{
	*ret = (double)rep->scaling.calls - (double)rep->scaling.seen;
	if (*ret < 0)
		*ret = -*ret;
	return rep->scaling.counted[0].runs;
}

/* Records of 16 bytes that one thread writes into one ring in a second, in millions. */
static bool ring_rate(const struct bench_report *rep, double *ret)
{
	double ns;

	if (!operation(rep, RING_ROW, &ns) || ns <= 0)
		return false;
	*ret = 1000 / ns;
	return true;
}

static bool ring_lost(const struct bench_report *rep, double *ret)
{
	const struct bench_ring *r = &rep->rings[ENV_USERSPACE];

	*ret = (double)r->written - (double)r->read;
	return r->written;
}

/* What rival I adds / what we do. */
static bool rival_ratio(const struct bench_report *rep, size_t i, double *ret)
{
	const struct bench_rival *r = &rep->rivals[i];
	double ours;

	if (!r->one.runs || !entry_adds(rep, &ours) || ours <= 0)
		return false;
	*ret = (bench_median(&r->one) - bench_median(&r->plain)) / ours;
	return true;
}

static bool gdbserver_ratio(const struct bench_report *rep, double *ret)
{
	return rival_ratio(rep, 0, ret);
}

static bool lttng_ratio(const struct bench_report *rep, double *ret)
{
	return rival_ratio(rep, 1, ret);
}

const struct goal bench_goals[] = {
	{ "`__bench_uprobe` / the call through the hand-written pad", "", 1.5, false, pad_ratio },
	{ "`__bench_uprobe` adds to the call", " ns", 5, false, entry_adds },
	{ "`__bench_uretprobe` adds, rets patched", " ns", 5, false, exit_adds },
	{ "`__bench_uretprobe_tail` adds, the return taken over at a jump", " ns", 9, false, tail_adds },
	{ "`__bench_uretprobe_taken` adds, taken over at the entry", " ns", 9, false, taken_adds },
	{ "`__bench_uprobe_uretprobe` adds", " ns", 9, false, both_add },
	{ "a read from the stack", " ns", 3, false, read_takes },
	{ "a write to the stack", " ns", 3, false, write_takes },
	{ "a counted call, one of two threads / one thread alone", "", 1.1, false, scaling_ratio },
	{ "updates of one hash map by two threads / by one", "", 1.7, true, shared_throughput },
	{ "counts lost or too many, one and two threads", "", 0, false, counts_lost },
	{ "records of 16 bytes into one ring by one thread", " million/s", 20, true, ring_rate },
	{ "of these, lost while somebody reads", "", 0, false, ring_lost },
	{ "what gdbserver's fast tracepoint adds / what `__bench_uprobe` adds", "", 4, true, gdbserver_ratio },
	{ "what an event of LTTng-UST adds / what `__bench_uprobe` adds", "", 4, true, lttng_ratio },
};
const size_t bench_ngoals = sizeof(bench_goals) / sizeof(bench_goals[0]);

bool goal_holds(const struct goal *g, double figure)
{
	return g->least ? figure >= g->most : figure <= g->most;
}
