/* SPDX-License-Identifier: MIT */
/* Where the stubs of punned windows go; see stubs.h. */
#include "daemon/stubs.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "daemon/places.h"

#define REFUSAL "a jump lands inside its first 5 bytes, and what a shorter jump could lead to is in use"
const char stubs_refusal[] = REFUSAL, stubs_refusal_trap[] = REFUSAL PLACE_MAY_TRAP;

struct uerr *stubs_space(const struct target *t, pid_t pid, struct pun_space *ret)
{
	struct pun_space space;
	struct uerr *err = pun_space_read(pid, &space);
	bool ok = true;

	if (err)
		return err;
	for (size_t i = 0; t && i < t->stub_pages.n; i++)
		ok = ok && vec_push(&space.pages, t->stub_pages.data[i].addr);
	for (size_t i = 0; t && i < t->stubs.n; i++) {
		addr_t at = t->stubs.data[i].addr;

		ok = ok && vec_push(&space.slots, (struct near_zone){ at, at + STUB_MAX });
	}
	if (!ok) {
		pun_space_deinit(&space);
		return uerr_nomem();
	}
	*ret = space;
	return NULL;
}

static addr_t site_of(const struct stub_want *w)
{
	return w->bias + w->win->addr;
}

/* The stub that the window has, if any. */
static addr_t known_stub(const struct target *t, const struct stub_want *w)
{
	const struct stub *s = t ? target_stub(t, site_of(w)) : NULL;

	return s ? s->addr : 0;
}

static int by_site(const void *a, const void *b)
{
	addr_t x = site_of(*(const struct stub_want *const *)a), y = site_of(*(const struct stub_want *const *)b);

	return x < y ? -1 : x > y;
}

bool stubs_choose(const struct target *t, struct pun_space *space, struct stub_want *wants, size_t n)
{
	cleanup_free struct stub_want **order = calloc(n + 1, sizeof(struct stub_want *));
	cleanup_free struct pun_site *sites = calloc(n + 1, sizeof(*sites));
	size_t nsites = 0;

	if (!order || !sites)
		return false;
	for (size_t i = 0; i < n; i++)
		order[i] = &wants[i];
	qsort(order, n, sizeof(struct stub_want *), by_site);
	for (size_t i = 0; i < n; i++) {
		order[i]->stub = known_stub(t, order[i]);
		if (!order[i]->stub && (!i || site_of(order[i]) != site_of(order[i - 1]))) {
			pun_reach(order[i]->win, order[i]->bias, &sites[nsites].lo, &sites[nsites].hi);
			nsites++;
		}
	}
	if (!pun_place(space, sites, nsites))
		return false;
	for (size_t i = 0, k = 0; i < n; i++) {
		if (i && site_of(order[i]) == site_of(order[i - 1]))
			order[i]->stub = order[i - 1]->stub;
		else if (!order[i]->stub)
			order[i]->stub = sites[k++].stub;
	}
	return true;
}
