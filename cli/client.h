/* SPDX-License-Identifier: MIT */
/*
 * A connection to the daemon. Without one, and without a socket named by the
 * user, a private daemon is started at the place where the next bpfctl looks
 * for it; it goes when nothing is left for it to do.
 */
#pragma once
#include <cjson/cJSON.h>

#include "base/cleanup.h"
#include "base/types.h"
#include "base/uerr.h"
#include "cli/opts.h"
#include "daemon/protocol.h"

struct client {
	int fd; /* -1: closed */
	struct protocol_buf buf;
	bool streaming; /* replies are still to come */
	bool lost;      /* the daemon went away */
	pid_t daemon_pid;
};

/* Connects. UERR_NO_DAEMON when a socket was named and nobody answers there. */
struct uerr *client_open(const struct opts *o, struct client *ret) UERR_MUST_CHECK;

void client_close(struct client *c);

#define CLIENT_CLOSED { .fd = -1 }
#define cleanup_client cleanup(client_close)

/* Calls io.uprobed.METHOD (a name with a dot is taken whole) with PARAMS, which
 * is taken and may be NULL. *RET: the reply's parameters; the caller deletes. */
struct uerr *client_call(struct client *c, const char *method, cJSON *params, cJSON **ret) UERR_MUST_CHECK;

/* The same with a stream of replies: client_next() takes each; *RET is NULL
 * after the last one. */
struct uerr *client_stream(struct client *c, const char *method, cJSON *params) UERR_MUST_CHECK;
struct uerr *client_next(struct client *c, cJSON **ret) UERR_MUST_CHECK;
