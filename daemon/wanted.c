/* SPDX-License-Identifier: MIT */
/* What an attach is asked to do; see wanted.h. */
#include "daemon/wanted.h"

#include <stdlib.h>

struct wanted *wanted_create(void)
{
	struct wanted *w = calloc(1, sizeof(*w));

	if (w) {
		w->uid = (uid_t)-1;
		w->gid = (gid_t)-1;
	}
	return w;
}

void wanted_destroy(struct wanted *w)
{
	if (!w)
		return;
	vec_foreach(g, &w->groups) {
		vec_foreach(s, &g->specs)
			free(*s);
		vec_free(&g->programs);
		vec_free(&g->specs);
		vec_free(&g->pids);
	}
	vec_foreach(n, &w->nots)
		free(*n);
	vec_free(&w->groups);
	vec_free(&w->nots);
	vec_free(&w->pids);
	free(w);
}
