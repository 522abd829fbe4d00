/* SPDX-License-Identifier: MIT */
/*
 * What count and latency have in common: load a built-in program with maps
 * sized to the number of places, attach it, wait, detach, read the maps. All of
 * it dies with the connection.
 */
#pragma once
#include <time.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/run.h"
#include "cli/wait.h"

/* A built-in program (cli/tools). */
struct tool {
	const char *name;
	const u8 *object, *object_end;
	const char *const *maps;  /* that have an element a place; NULL-terminated */
	unsigned places;          /* room at first; more if there are more places */
	const struct {
		const char *program, *probe; /* probe NULL: as the SPEC says */
	} programs[2];
};

/* A place that is probed. Strings belong to the attach reply. */
struct place {
	bool used;
	pid_t pid;
	const char *comm, *module, *symbol, *tactic; /* symbol: the bare name */
	char *spec;                         /* to be pasted back */
};

struct oneshot {
	struct cli *cli;
	const struct tool *tool;
	struct client client;
	struct child child;
	cJSON *loaded, *attached;
	VEC(struct place) places; /* by cookie */
	size_t nplaces;           /* used ones */
	struct wait wait;
	bool waiting;             /* `wait` is set up */
	bool single;              /* one process */
	bool timed_out;           /* --for was reached */
	u64 start_ns, end_ns;     /* CLOCK_MONOTONIC: attached, detaching */
	struct timespec start_wall;
	u64 missed;
};

/* Attaches TOOL as the command line says, and says what it did. With --dry-run
 * it only tells, and OS->attached stays NULL. Deinit in any case. */
struct uerr *oneshot_begin(struct oneshot *os, struct cli *cli, const struct tool *tool) UERR_MUST_CHECK;

/* What a tool does meanwhile; either may be NULL. */
struct oneshot_hooks {
	struct uerr *(*interval)(struct oneshot *os, void *arg);      /* at the end of each --interval */
	struct uerr *(*before_detach)(struct oneshot *os, void *arg);
};

/* Waits until told otherwise, then detaches: results are final. */
struct uerr *oneshot_run(struct oneshot *os, const struct oneshot_hooks *hooks, void *arg) UERR_MUST_CHECK;

/* Waits for CMD to end, once results are printed, and takes its exit status. */
void oneshot_end(struct oneshot *os);
void oneshot_deinit(struct oneshot *os);

/* Every element of map NAME: its index, and its value (SIZE bytes) with the
 * copies of all CPUs added up as u64 words. */
struct uerr *oneshot_map_read(struct oneshot *os, const char *name, size_t size,
			      void (*fn)(u32 index, const u64 *value, void *arg), void *arg) UERR_MUST_CHECK;
/* The same for keys of KEY_SIZE bytes (up to 16), as long as FN gives no error. */
struct uerr *oneshot_map_each(struct oneshot *os, const char *name, size_t key_size, size_t size,
			      struct uerr *(*fn)(const void *key, const u64 *value, void *arg), void *arg) UERR_MUST_CHECK;
/* The id of map NAME, as text. */
const char *oneshot_map_id(const struct oneshot *os, const char *name, char buf[24]);
/* One element of it. */
struct uerr *oneshot_map_read_one(struct oneshot *os, const char *name, u32 index, size_t size, u64 *ret)
	UERR_MUST_CHECK;

/* Asks for what was missed since the attach. */
struct uerr *oneshot_read_missed(struct oneshot *os) UERR_MUST_CHECK;

/* {"schema","start","duration_ns","missed","warnings"} for the time from
 * START_NS to END_NS. */
cJSON *oneshot_document(const struct oneshot *os, const char *schema, u64 start_ns, u64 end_ns, u64 missed);

/* With --interval, the time of day in a line. */
void oneshot_print_time(const struct oneshot *os);

/* ":f was not called in 10 s." */
void oneshot_print_silence(const struct oneshot *os);

/* Rows that --top leaves of N. */
size_t oneshot_top(const struct oneshot *os, size_t n);
