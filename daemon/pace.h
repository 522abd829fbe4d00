/* SPDX-License-Identifier: MIT */
/*
 * How often a process may be made to stand still. A stop makes some blocking
 * calls begin anew, with the whole of their time-out (docs/limits.md), so that
 * stops in quick succession could keep a time-out from ever coming. Hence the
 * process is left alone now and then, the longer the longer this goes on:
 *
 *	without a gap of 0.1 s for 3 s, or   64 jobs   the next job waits until
 *	                 1 s for 30 s, or   512 jobs   there has been one
 *	                10 s for 300 s, or 4096 jobs
 *
 * so a time-out of up to 10 s is late by at most 30 times itself (and the time that
 * 64, 512, 4096 jobs take is less than that). Who types commands leaves most of
 * these gaps himself.
 */
#pragma once
#include <sys/types.h>

#include "base/types.h"
#include "base/vec.h"

#define PACE_LEVELS 3

struct pace {
	pid_t pid;
	u32 running;     /* jobs at work on it */
	u64 last_end_ns; /* of the last job */
	struct {
		u64 since_ns; /* the end of the last gap of this length */
		u32 count;    /* jobs since then */
	} levels[PACE_LEVELS];
};

typedef VEC(struct pace) pace_vec;

/* When a job on PID may begin: NOW, or later. */
u64 pace_earliest(const pace_vec *v, pid_t pid, u64 now);

/* A job on PID begins, ends. What had the longest gap is forgotten. */
void pace_begin(pace_vec *v, pid_t pid, u64 now);
void pace_end(pace_vec *v, pid_t pid, u64 now);
