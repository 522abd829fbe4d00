/* SPDX-License-Identifier: MIT */
/*
 * What has to be cleaned up when something ends: a client, a worker, a target,
 * the daemon. And what is looked at once a second.
 */
#pragma once
#include "daemon/daemon.h"
#include "daemon/procinfo.h"

/* Connection CLIENT has ended: its ephemeral links and objects go. */
void cleanup_after_client(struct daemon *d, u64 client);
/* A worker died while it was changing PIDS: journals are undone. */
void cleanup_after_worker(struct daemon *d, const pid_vec *pids);
/* What of that could not be undone yet, when its time has come. */
void leftovers_retry(struct daemon *d);
/* The process of T has ended: what its threads left in maps is recovered, and
 * links that are nowhere any more end. T is gone afterwards. */
void cleanup_after_target(struct daemon *d, struct target *t);

/* Takes T out of its links; those that are nowhere any more end. */
void leave_links(struct daemon *d, struct target *t);

/* Once a second. */
void housekeep(struct daemon *d);

/* Journals that an earlier daemon left in the state folder: undone where the
 * process still lives. */
void adopt_leftovers(struct daemon *d);

/* Is there nothing left that keeps a stopping daemon from ending? */
bool all_detached(const struct daemon *d);
