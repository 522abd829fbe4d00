/* SPDX-License-Identifier: MIT */
/*
 * The daemon as its parts see it: configuration, state, and what the event
 * loop (main.c) waits for. One thread; whatever may take long happens in a
 * worker process (job.h).
 */
#pragma once
#include <sys/types.h>

#include "base/vec.h"
#include "daemon/config.h"
#include "daemon/pace.h"
#include "daemon/state.h"

struct client;
struct job;

/* What a descriptor in the epoll set is for. */
enum source_kind { SOURCE_SIGNAL, SOURCE_LISTEN, SOURCE_TIMER, SOURCE_CLIENT, SOURCE_WORKER, SOURCE_TARGET, SOURCE_TAIL };

struct source {
	enum source_kind kind;
	int fd;
	void *owner; /* client, job, target or tail */
};

/* A process whose journal could not be undone as a whole (leftovers.c). */
struct leftover {
	pid_t pid;
	u32 tries;
	u64 next_ns;
};

struct daemon {
	struct config cfg;
	struct state *state;
	int epoll;
	struct source signals, listener, timer;
	VEC(struct client *) clients;
	VEC(struct job *) jobs;     /* running and waiting, oldest first */
	pace_vec paces;             /* of the processes that were made to stand still lately */
	u64 wake_ns;                /* when one may be again for which a job waits; 0: none */
	VEC(struct leftover) leftovers;
	VEC(char *) warnings;       /* for GetStatus */
	u64 last_client;
	u64 idle_since_ns;          /* --private: since when nobody needs us */
	bool fast_timer;            /* somebody follows trace lines */
	bool heap_used;             /* something was answered since memory was last given back */
	bool stopping;              /* detach everything, then end */
	u64 stop_deadline_ns;       /* then it ends with probes in place, rather than never */
	bool stopped;               /* end the loop */
	bool activated;             /* the socket belongs to systemd */
	bool made_socket;
	char started[32];
};

/* Adds SRC to the epoll set for EVENTS, or changes the events. */
struct uerr *source_add(struct daemon *d, struct source *src, u32 events) UERR_MUST_CHECK;
void source_set_events(struct daemon *d, struct source *src, u32 events);
void source_remove(struct daemon *d, struct source *src); /* does not close */

void daemon_warn(struct daemon *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Detaches everything and ends the loop when that is done. */
void daemon_stop(struct daemon *d);

/* Sets the housekeeping timer: 1 s, or 50 ms while somebody follows. */
void daemon_set_timer(struct daemon *d, bool fast);

u64 monotonic_ns(void);
