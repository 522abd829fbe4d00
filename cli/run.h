/* SPDX-License-Identifier: MIT */
/*
 * -- CMD: a child that is held before its first instruction until the probes
 * are in, and whose exit status becomes ours.
 */
#pragma once
#include "cli/cli.h"
#include "cli/client.h"

struct child {
	pid_t pid;   /* 0: there is none */
	int pidfd;
	int go_fd;   /* writing a byte lets it exec */
	int exec_fd; /* its errno, if exec fails */
	const char *name;
	bool held;   /* stopped, exec'd */
};

/* Ignores SIGPIPE, but not for CMD. Call first. */
void run_init(void);

/* Forks the child, which waits. DAEMON may trace it (Yama). */
struct uerr *child_start(char **cmd, pid_t daemon, struct child *ret) UERR_MUST_CHECK;

/* Lets it exec under the daemon's eyes: then it stands at its first
 * instructions, libraries mapped. When exec fails, CLI's fail_status is 126 or
 * 127 as in shells. */
struct uerr *child_hold(struct cli *cli, struct client *c, struct child *child) UERR_MUST_CHECK;

/* Lets it run. */
void child_continue(struct child *child);

/* Passes signal SIG on to it. */
void child_signal(const struct child *child, int sig);

/* Ends a child that never ran (or does nothing when there is none). */
void child_abandon(struct child *child);

/* Waits for its end; its exit status, or 128 + signal. */
int child_wait(struct child *child);

/* Calls METHOD with what MAKE gives for the process that the command line means:
 * with -- CMD a child that is held (left so in CHILD), else none. */
struct uerr *call_with_child(struct cli *cli, const char *method,
			     struct uerr *(*make)(struct cli *cli, pid_t child, cJSON **ret), struct child *child,
			     cJSON **ret) UERR_MUST_CHECK;
