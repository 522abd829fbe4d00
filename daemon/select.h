/* SPDX-License-Identifier: MIT */
/* Which processes a client means, and may have. */
#pragma once
#include "daemon/procinfo.h"
#include "daemon/server.h"

/* Appends the processes of the Target object TARGET (checked here). PATHS are
 * further paths that the SPECs imply. Never the daemon, its workers, or the
 * caller. UERR_NO_TARGET, UERR_NOT_PERMITTED, UERR_USAGE. */
struct uerr *select_targets(const struct request *req, const cJSON *target, char *const *paths, size_t npaths,
			    pid_vec *ret) UERR_MUST_CHECK;

/* May the peer, and can this daemon, probe the process? */
struct uerr *select_permit(const struct request *req, const struct procinfo *pi) UERR_MUST_CHECK;

struct uerr *select_no_target(void) UERR_MUST_CHECK; /* "which process? …" */
