/* SPDX-License-Identifier: MIT */
/*
 * What the daemon has: loaded objects with their programs and maps, links, and
 * targets. Ids only grow; a name is a convenience, an id is what scripts keep.
 * A worker is forked with all of it and may read it; it hands back changes as
 * packed bytes (target.h), never by sharing.
 */
#pragma once
#include <sys/types.h>

#include "base/vec.h"
#include "maps/umap.h"
#include "vm/object.h"

struct target;
struct space;

struct map {
	u32 id;
	u32 index;       /* in its object */
	char name[64];
	struct umap umap; /* base: where the daemon sees it */
	int fd;          /* memfd */
	bool readonly;   /* frozen: mapped read-only in targets */
	struct tail *tail; /* who reads a ring buffer, or NULL */
	void (*gone)(struct map *m); /* is told that the map goes, or NULL */
	struct loaded *owner;
};

struct program {
	u32 id;
	u32 index;
	u32 jited_bytes;
	struct vm_prog *prog; /* borrowed from the object */
	struct loaded *owner;
};

/* One loaded object. */
struct loaded {
	u32 id;
	char *name;
	struct object *obj;
	struct map *maps;        /* obj->nmaps */
	struct vm_map *vm_maps;  /* the same, as vm wants them */
	struct program *progs;   /* obj->nprogs */
	struct usdt_specs *usdt;    /* of an object built with usdt.bpf.h, else NULL */
	struct umap_claims *claims; /* per-CPU claims, NULL when nothing is per-CPU */
	int claims_fd;
	VEC(struct space *) spaces; /* of processes whose stacks it has (spaces.h) */
	uid_t uid;               /* who loaded it */
	u64 client;              /* ephemeral: dies with this connection; 0 stays */
	char since[32];
};

/* A process that a link is in. */
struct link_target {
	pid_t pid;
	u64 missed_base; /* threads_missed() at the attach */
};

/* One program attached at what its specs mean, in one or more processes. */
struct link {
	u32 id;
	u32 program, object; /* ids */
	bool exit;           /* uretprobe */
	char **specs;
	size_t nspecs;
	VEC(struct link_target) targets; /* that it is in, alive */
	uid_t uid;
	u64 client;          /* ephemeral: dies with this connection; 0 stays */
	u64 missed;          /* of processes that are gone */
	char since[32];
};

struct state {
	VEC(struct loaded *) objects;
	VEC(struct link *) links;
	VEC(struct target *) targets;
	u32 last_object, last_program, last_map, last_link, last_target;
	u32 ncpus;   /* possible CPUs */
	struct thread_rec rec; /* the daemon's own operations on maps */
};

struct state *state_create(void);
void state_destroy(struct state *s);

/* By id; NULL when there is none. */
struct loaded *state_object(const struct state *s, u32 id);
struct program *state_program(const struct state *s, u32 id);
struct map *state_map(const struct state *s, u32 id);
struct link *state_link(const struct state *s, u32 id);
struct target *state_target(const struct state *s, pid_t pid);
struct target *state_target_no(const struct state *s, u32 no);

/* A target number that nobody uses; 0 when all 16383 are taken. */
u32 state_new_target_no(struct state *s);

void state_remove_object(struct state *s, struct loaded *l); /* destroys it */
void state_remove_link(struct state *s, struct link *l);     /* destroys it */
void state_remove_target(struct state *s, struct target *t); /* destroys it */

struct link *link_create(u32 id, const struct program *p, bool exit, const char *const *specs, size_t nspecs);
void link_destroy(struct link *l); /* NULL is fine */
bool link_has_pid(const struct link *l, pid_t pid);
/* T is a target of L from now on; false when out of memory. */
bool link_add_target(struct link *l, const struct target *t);
/* T is none any more; what it missed is added to l->missed. */
void link_remove_target(struct link *l, const struct target *t);
/* Hits that could not run since the attach. */
u64 link_missed(const struct state *s, const struct link *l);

/* "2026-11-24T14:02:11Z" */
void time_text(char ret[32]);
/* CPUs that the kernel may ever bring up: what per-CPU maps are made for. */
u32 possible_cpus(void);
