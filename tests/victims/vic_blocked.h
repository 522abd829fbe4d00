/* SPDX-License-Identifier: MIT */
/* Threads that wait in system calls of all kinds, for vic_inject's mode "blocked". */
#pragma once
#include "tests/support/victim.h"

/* Of thread I: calls[I] is 1 once its call has come back; calls[BLOCKED_TIDS + I] its
 * number, calls[BLOCKED_NRS + I] that of the system call. */
#define BLOCKED_TIDS 128
#define BLOCKED_NRS 256

/* Starts a thread for each call; shared->state is their number. When shared->go is set each call is ended as its kind is; shared->wrong counts those that gave
 * something else than they must. */
int blocked_run(struct victim_shared *shared, void (*ready)(void));
