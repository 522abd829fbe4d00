/* SPDX-License-Identifier: MIT */
/*
 * The way of one attach. In the daemon: cmd_attach.c turns the request into
 * `struct wanted`, select.c finds the processes, and a job is made. In its
 * worker, attach_work() here:
 *
 *	for each process   places_plan()   SPECs ─▶ functions ─▶ windows
 *	all of them        cookies are numbered
 *	for each process   sites and calls are added to the target,
 *	                   rewrite_run() brings them about
 *	on a failure       what was attached before is taken away again
 *
 * and back in the daemon outcome_apply() takes the targets in.
 */
#pragma once
#include "daemon/outcome.h"
#include "daemon/wanted.h"

/* In a worker. TOUCH is called before the first process is changed. Fills
 * RET (also its err). */
void attach_run(struct daemon *d, const struct wanted *w, void (*touch)(void *arg), void *arg, struct outcome *ret);

/* In a worker: takes links LINKS[nlinks] out of the processes PIDS and their
 * fork children; with NLINKS 0 only unmaps what is retired. */
void detach_run(struct daemon *d, const pid_vec *pids, const u32 *links, size_t nlinks, uid_t uid, gid_t gid,
		struct outcome *ret);
