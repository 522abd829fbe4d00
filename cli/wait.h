/* SPDX-License-Identifier: MIT */
/*
 * What a one-shot command waits for: Ctrl-C, its limit, the end of an interval,
 * the exit of all its targets, the loss of the daemon; whichever is first.
 */
#pragma once
#include <signal.h>

#include "base/types.h"
#include "base/uerr.h"
#include "base/vec.h"
#include "cli/run.h"

enum wait_event { WAIT_INTERVAL, WAIT_LIMIT, WAIT_SIGNAL, WAIT_EXITED, WAIT_LOST };

struct watched {
	pid_t pid;
	int fd; /* pidfd; -1 once it exited */
};

struct wait {
	int signal_fd;
	int daemon_fd;
	struct child *child;  /* signals are passed on to it; its exit is WAIT_EXITED; or NULL */
	u64 limit, tick;      /* CLOCK_MONOTONIC, ns; 0: none */
	u64 interval;
	sigset_t saved_signals;
	VEC(struct watched) pids;
};

u64 now_ns(void);

/* Takes over SIGINT, SIGTERM, SIGHUP. CHILD with pid 0 counts as none. */
struct uerr *wait_init(struct wait *w, int daemon_fd, struct child *child, u64 for_ns, u64 interval_ns)
	UERR_MUST_CHECK;

/* Gives the signals back, so that the next Ctrl-C ends us at once. */
void wait_deinit(struct wait *w);

/* Watches PID; false if it was watched already or is gone. */
bool wait_add(struct wait *w, pid_t pid);

struct uerr *wait_next(struct wait *w, enum wait_event *ret) UERR_MUST_CHECK;

/* Waits for CHILD's end, passing signals on; its exit status. W is that of the
 * command, with CHILD in it. */
int wait_child(struct wait *w);
