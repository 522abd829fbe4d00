/* SPDX-License-Identifier: MIT */
/* What the figures are held against. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "bench.h"

struct goal {
	const char *what;
	const char *unit;
	double most;  /* the figure may be this, or at least this where LEAST is set */
	bool least;
	/* The figure; false when something that it needs was not measured. */
	bool (*figure)(const struct bench_report *rep, double *ret);
};
extern const struct goal bench_goals[];
extern const size_t bench_ngoals;

bool goal_holds(const struct goal *g, double figure);
