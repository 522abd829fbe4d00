/* SPDX-License-Identifier: MIT */
/* The daemon's half of attach and detach: the job around the worker's work. */
#pragma once
#include "daemon/attach.h"
#include "daemon/job.h"

/* Starts the attach of W for REQ, which it will answer. W is taken over.
 * OBJECT: the answer is that of Load, and the object goes when the attach
 * fails; NULL: that of Attach. CLIENT: the links die with it, 0: they stay. */
void attach_job_start(struct request *req, struct wanted *w, struct loaded *object, u64 client);

/* Detaches LINKS and forgets them. THEN (may be NULL) is called at the end,
 * with what happened; it owns nothing. REQ may be NULL. */
typedef void detach_then(struct daemon *d, struct request *req, const struct outcome *o, void *arg);
void detach_job_start(struct daemon *d, struct request *req, const u32 *links, size_t nlinks, detach_then *then,
		      void *arg);

/* Fills in whose rights the worker takes for the peer. */
void wanted_set_peer(struct wanted *w, const struct peer *p);
