/* SPDX-License-Identifier: MIT */
/*
 * The Varlink socket: clients, their messages, and replies. A client has one
 * request under way; further messages wait in its buffer, so a client that asks
 * faster than it reads holds up nobody but itself.
 */
#pragma once
#include <cjson/cJSON.h>

#include "daemon/daemon.h"
#include "daemon/protocol.h"

struct peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

/* One call of a method. It ends with request_reply() or request_fail(). If the
 * client goes away first, `client` becomes NULL, replies are dropped, and
 * whoever works for it should stop. */
struct request {
	struct daemon *d;
	struct client *client;
	u64 client_id;
	struct peer peer;
	cJSON *message;
	const cJSON *params;  /* an object, checked against the command table */
	const char *method;   /* without the interface */
	bool more, oneway;
	struct job *job;      /* that works for it, or NULL */
	bool later;           /* answered outside dispatch() */
	/* called at housekeeping time while the request stays open, or NULL */
	void (*poll)(struct request *req);
	/* called when the request ends in whatever way, or NULL */
	void (*end)(struct request *req);
	u64 data;             /* of whoever polls */
};

struct uerr *server_listen(struct daemon *d) UERR_MUST_CHECK;
void server_close(struct daemon *d);
/* In a worker: closes the sockets that it inherited. */
void server_close_clients(struct daemon *d);
void server_accept(struct daemon *d);
void server_client_event(struct client *c, u32 events);
/* Lets followers look for news. */
void server_poll_requests(struct daemon *d);

bool client_follows(const struct client *c); /* it waits for news */

/* PARAMS and ERR are taken over. */
void request_reply(struct request *req, cJSON *params);
void request_continue(struct request *req, cJSON *params); /* more follows */
void request_fail(struct request *req, struct uerr *err);
void request_standard_error(struct request *req, const char *error, const char *key, const char *value);
/* Bytes that the client has not read yet. */
size_t request_backlog(const struct request *req);

/* May the peer use what belongs to UID? Root and the daemon's own user may all. */
bool peer_may(const struct peer *p, uid_t uid);
/* Root or the daemon's own user. */
bool peer_is_master(const struct peer *p);

/* Parameters that the command table has checked. */
const char *param_str(const struct request *req, const char *name);  /* or NULL */
bool param_bool(const struct request *req, const char *name);        /* absent: false */
const cJSON *param_item(const struct request *req, const char *name); /* or NULL */
