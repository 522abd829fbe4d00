/* SPDX-License-Identifier: MIT */
/* Gaps between stops; see pace.h. */
#include "daemon/pace.h"

#define MS 1000000ull
#define GAPS_MAX 30 /* times its length: how long a gap may be owed */

static const struct {
	u64 gap_ns;
	u32 count;
} steps[PACE_LEVELS] = {
	{ 100 * MS, 64 },
	{ 1000 * MS, 512 },
	{ 10000 * MS, 4096 },
};

static struct pace *find(const pace_vec *v, pid_t pid)
{
	vec_foreach(p, v)
		if (p->pid == pid)
			return p;
	return NULL;
}

u64 pace_earliest(const pace_vec *v, pid_t pid, u64 now)
{
	const struct pace *p = find(v, pid);
	u64 ret = now;

	for (int i = 0; p && i < PACE_LEVELS; i++) {
		u64 end_ns = p->last_end_ns + steps[i].gap_ns;

		if (p->levels[i].count < steps[i].count && now - p->levels[i].since_ns < GAPS_MAX * steps[i].gap_ns)
			continue;
		if (end_ns > ret)
			ret = end_ns;
	}
	return ret;
}

/* Processes that have been left alone for so long that nothing is owed. */
static void forget_old(pace_vec *v, u64 now)
{
	for (size_t i = v->n; i-- > 0;)
		if (!v->data[i].running && now - v->data[i].last_end_ns >= steps[PACE_LEVELS - 1].gap_ns)
			v->data[i] = v->data[--v->n];
}

void pace_begin(pace_vec *v, pid_t pid, u64 now)
{
	struct pace *p;

	forget_old(v, now);
	p = find(v, pid);
	if (!p) {
		if (!vec_push(v, (struct pace){ .pid = pid, .last_end_ns = now }))
			return; /* out of memory: not paced */
		p = &v->data[v->n - 1];
		for (int i = 0; i < PACE_LEVELS; i++)
			p->levels[i].since_ns = now;
	}
	for (int i = 0; i < PACE_LEVELS && !p->running; i++)
		if (now - p->last_end_ns >= steps[i].gap_ns) {
			p->levels[i].since_ns = now;
			p->levels[i].count = 0;
		}
	for (int i = 0; i < PACE_LEVELS; i++)
		p->levels[i].count++;
	p->running++;
}

void pace_end(pace_vec *v, pid_t pid, u64 now)
{
	struct pace *p = find(v, pid);

	if (!p)
		return;
	p->running--;
	p->last_end_ns = now;
}
