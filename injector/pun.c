/* SPDX-License-Identifier: MIT */
/*
 * Places for the stubs of punned jumps; see pun.h. Those with the fewest places
 * choose first. Among equals a page is put as far up as the one whose places end
 * first allows: that page serves the most of the others (the classic way to stab
 * intervals with few points).
 */
#include "injector/pun.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "injector/window.h"

#define MARGIN (1ull << 20) /* from what is mapped, where there is a choice */

void pun_reach(const struct window *w, addr_t bias, addr_t *lo, addr_t *hi)
{
	unsigned free_bits = 8 * (w->len - 1);
	u32 rel = 0;
	s32 least;

	memcpy((u8 *)&rel + w->len - 1, w->bytes + w->len, w->keep);
	memcpy(&least, &rel, sizeof(least));
	*lo = w->addr + bias + JUMP_LEN + (u64)(s64)least;
	*hi = *lo + (1ull << free_bits) - 1;
}

unsigned stub_bytes(addr_t stub, addr_t tramp, u8 ret[STUB_MAX])
{
	s64 rel = (s64)(tramp - (stub + JUMP_LEN));
	s32 near = (s32)rel;

	memset(ret, 0xcc, STUB_MAX);
	if (near == rel) {
		ret[0] = 0xe9;
		memcpy(ret + 1, &near, sizeof(near));
		return JUMP_LEN;
	}
	memcpy(ret, "\xff\x25\0\0\0", 6); /* jmp *0(%rip), and the address behind it */
	memcpy(ret + 6, &tramp, sizeof(tramp));
	return STUB_MAX;
}

static bool slot_free(const struct pun_space *space, addr_t at)
{
	vec_foreach(s, &space->slots)
		if (at < s->hi && at + STUB_MAX > s->lo)
			return false;
	return true;
}

/* A free slot for SITE on PAGE; at a multiple of 16 if that is possible. */
static addr_t slot_on(const struct pun_space *space, addr_t page, const struct pun_site *site)
{
	addr_t lo = site->lo > page ? site->lo : page, hi = page + PAGE - STUB_MAX;

	if (site->hi < hi)
		hi = site->hi;
	for (addr_t at = ALIGN_UP(lo, 16); at <= hi; at += 16)
		if (slot_free(space, at))
			return at;
	for (addr_t at = lo; at <= hi; at++)
		if (slot_free(space, at))
			return at;
	return 0;
}

/* The highest page that can be had for SITE. Its slots are all free. */
static addr_t page_for(const struct pun_space *space, const struct pun_site *site)
{
	static const u64 margins[] = { MARGIN, 0 };
	/* Pages on which a whole stub can begin within the site's reach. */
	addr_t lo = ALIGN_DOWN(site->lo, PAGE), hi = ALIGN_DOWN(site->hi, PAGE), page;

	if (site->lo > lo + PAGE - STUB_MAX)
		lo += PAGE;
	if (site->hi < site->lo || hi < lo)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(margins); i++) {
		page = near_highest_free(&space->zones, lo, hi, margins[i]);
		if (page)
			return page;
	}
	return 0;
}

static bool take(struct pun_space *space, struct pun_site *site, addr_t at)
{
	site->stub = at;
	return !at || vec_push(&space->slots, (struct near_zone){ at, at + STUB_MAX });
}

static bool place_one(struct pun_space *space, struct pun_site *site)
{
	addr_t page;

	site->stub = 0;
	vec_foreach(p, &space->pages) {
		addr_t at = slot_on(space, *p, site);

		if (at)
			return take(space, site, at);
	}
	page = page_for(space, site);
	if (!page)
		return true;
	if (!vec_push(&space->pages, page) || !near_zones_add(&space->zones, page, page + PAGE))
		return false;
	return take(space, site, slot_on(space, page, site));
}

static int by_width_and_end(const void *a, const void *b)
{
	const struct pun_site *x = *(const struct pun_site *const *)a, *y = *(const struct pun_site *const *)b;
	u64 wx = x->hi - x->lo, wy = y->hi - y->lo;

	if (wx != wy)
		return wx < wy ? -1 : 1;
	return x->hi < y->hi ? -1 : x->hi > y->hi;
}

bool pun_place(struct pun_space *space, struct pun_site *sites, size_t n)
{
	cleanup_free struct pun_site **order = calloc(n + 1, sizeof(struct pun_site *));

	if (!order)
		return false;
	for (size_t i = 0; i < n; i++)
		order[i] = &sites[i];
	qsort(order, n, sizeof(struct pun_site *), by_width_and_end);
	for (size_t i = 0; i < n; i++)
		if (!place_one(space, order[i]))
			return false;
	return true;
}

void pun_space_deinit(struct pun_space *space)
{
	near_zones_deinit(&space->zones);
	vec_free(&space->pages);
	vec_free(&space->slots);
}
