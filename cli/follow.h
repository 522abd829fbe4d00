/* SPDX-License-Identifier: MIT */
/* Following what the daemon says until Ctrl-C, the limit (--for), or its end. */
#pragma once
#include "cli/cli.h"

/* Calls METHOD with PARAMS (taken over) and gives each reply to PRINT. *last is the
 * last reply, or NULL; the caller deletes it, after an error too. */
struct uerr *follow(struct cli *cli, const char *method, cJSON *params,
		    struct uerr *(*print)(struct cli *cli, const cJSON *reply), cJSON **last) UERR_MUST_CHECK;
