/* SPDX-License-Identifier: MIT */
/*
 * Placement. Three wishes beside "free and within reach": not where the heap or
 * the stack will grow; and not where the kernel would put the application's
 * next mapping (right below the lowest one, or in a small hole), for the
 * journal names an address before it is mapped, and after a kill in between
 * nobody must take the application's memory there for ours. So: a random place
 * inside a large gap, in a small one only when there is nothing else.
 */
#include "near_alloc.h"

#include <stdlib.h>

#include "base/cleanup.h"

#define LOWEST 0x100000ull
#define HIGHEST 0x7fffff000000ull
#define REACH 0x7f000000ull /* rel32, less 16 MiB for whatever lies around */
#define HEAP_ROOM (1ull << 30)
#define STACK_ROOM_MIN (128ull << 20)
#define STACK_ROOM_MAX (1ull << 30)
#define LARGE_GAP (64ull << 20)
#define MARGIN (1ull << 20)

static int by_lo(const void *a, const void *b)
{
	const struct near_zone *x = a, *y = b;

	return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static void sort(struct near_zones *zs)
{
	if (zs->v.n)
		qsort(zs->v.data, zs->v.n, sizeof(*zs->v.data), by_lo);
}

static bool zone_add(struct near_zones *zs, addr_t lo, addr_t hi)
{
	return vec_push(&zs->v, (struct near_zone){ lo, hi });
}

/* Everything that is or will be in use, by address. */
static bool occupied(const struct near_request *rq, u64 heap_room, struct near_zones *zs)
{
	u64 stack_room = rq->stack_limit;
	bool ok = true;

	if (stack_room < STACK_ROOM_MIN)
		stack_room = STACK_ROOM_MIN;
	if (stack_room > STACK_ROOM_MAX)
		stack_room = STACK_ROOM_MAX;
	*zs = (struct near_zones){};
	if (rq->brk)
		ok = zone_add(zs, rq->brk, rq->brk + heap_room);
	for (size_t i = 0; i < rq->maps->v.n; i++) {
		const struct target_map *m = &rq->maps->v.data[i];
		addr_t lo = m->lo, hi = m->hi;

		if (m->heap)
			hi += heap_room;
		if (m->stack)
			lo = hi > stack_room + MARGIN ? hi - stack_room - MARGIN : 0;
		ok = ok && zone_add(zs, lo < m->lo ? lo : m->lo, hi);
	}
	for (size_t i = 0; i < rq->ntaken; i++)
		ok = ok && zone_add(zs, rq->taken[i].lo, rq->taken[i].hi);
	sort(zs);
	if (!ok)
		near_zones_deinit(zs);
	return ok;
}

bool near_zones_init(const struct near_request *rq, struct near_zones *ret)
{
	return occupied(rq, HEAP_ROOM, ret);
}

void near_zones_deinit(struct near_zones *zs)
{
	vec_free(&zs->v);
}

bool near_zones_add(struct near_zones *zs, addr_t lo, addr_t hi)
{
	bool ok = zone_add(zs, lo, hi);

	sort(zs);
	return ok;
}

/* From the top down: what overlaps pushes the page below itself, and then no
 * zone that starts higher can overlap any more. */
addr_t near_highest_free(const struct near_zones *zs, addr_t lo, addr_t hi, u64 margin)
{
	addr_t page = hi;

	if (lo < LOWEST)
		lo = LOWEST;
	if (page > HIGHEST - PAGE)
		page = HIGHEST - PAGE;
	for (size_t i = zs->v.n; i-- > 0 && page >= lo;) {
		const struct near_zone *z = &zs->v.data[i];

		if (z->lo >= page + PAGE + margin || z->hi + margin <= page)
			continue;
		if (z->lo < lo + PAGE + margin)
			return 0;
		page = ALIGN_DOWN(z->lo - PAGE - margin, PAGE);
	}
	return page >= lo ? page : 0;
}

/* Start addresses [lo, hi] that the gap [ga, gb) offers; false: none. */
static bool clip(const struct near_request *rq, addr_t ga, addr_t gb, addr_t *lo, addr_t *hi)
{
	addr_t first = LOWEST, last = HIGHEST - rq->size;

	if (rq->size > HIGHEST || (rq->near && rq->size > REACH))
		return false;
	if (rq->near) {
		if (rq->near_end > REACH && rq->near_end - REACH > first)
			first = rq->near_end - REACH;
		if (rq->near + REACH - rq->size < last)
			last = rq->near + REACH - rq->size;
	}
	if (gb < ga + rq->size)
		return false;
	*lo = ga > first ? ga : first;
	*hi = gb - rq->size < last ? gb - rq->size : last;
	*lo = ALIGN_UP(*lo, PAGE);
	*hi = ALIGN_DOWN(*hi, PAGE);
	return *lo <= *hi;
}

static u64 distance(addr_t lo, addr_t hi, addr_t to)
{
	return to < lo ? lo - to : to > hi ? to - hi : 0;
}

/* A random page of [lo, hi], not far from NEAR and off the ends. */
static addr_t pick(addr_t lo, addr_t hi, addr_t near, u64 random)
{
	u64 room;

	if (hi - lo > 4 * MARGIN) {
		lo += MARGIN;
		hi -= MARGIN;
	}
	room = hi - lo;
	if (near && room > LARGE_GAP) {
		if (near > hi)
			lo = hi - LARGE_GAP;
		room = LARGE_GAP;
	}
	return lo + ALIGN_DOWN(random % (room + 1), PAGE);
}

static bool search(const struct near_request *rq, u64 heap_room, u64 min_gap, addr_t *ret)
{
	cleanup(near_zones_deinit) struct near_zones zs = {};
	addr_t lo, hi, best_lo = 0, best_hi = 0, end = 0;
	u64 best = ~0ull;

	if (!occupied(rq, heap_room, &zs))
		return false;
	for (size_t i = 0; i <= zs.v.n; i++) {
		addr_t gb = i < zs.v.n ? zs.v.data[i].lo : HIGHEST;

		if (gb > end && clip(rq, end, gb, &lo, &hi) && hi - lo >= min_gap) {
			u64 d = rq->near ? distance(lo, hi, rq->near) : ~0ull - 1 - (hi - lo);

			if (d < best) {
				best = d;
				best_lo = lo;
				best_hi = hi;
			}
		}
		if (i < zs.v.n && zs.v.data[i].hi > end)
			end = zs.v.data[i].hi;
	}
	if (best == ~0ull)
		return false;
	*ret = pick(best_lo, best_hi, rq->near, rq->random);
	return true;
}

bool near_alloc(const struct near_request *rq, addr_t *ret)
{
	return search(rq, HEAP_ROOM, LARGE_GAP, ret) || search(rq, HEAP_ROOM, 0, ret) ||
	       search(rq, HEAP_ROOM / 16, 0, ret);
}
