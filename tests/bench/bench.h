/* SPDX-License-Identifier: MIT */
/*
 * The benchmark's parts: bench.c runs, victim.c is probed, env_*.c puts the
 * programs on it in three ways, report.c writes what came out.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/uerr.h"

#define BENCH_MAX_RUNS 32

/* bench.bpf.o, more.bpf.o */
enum bench_object { OBJECT_BENCH, OBJECT_MORE, N_OBJECTS };
extern const char *const bench_objects[N_OBJECTS];

struct bench_row {
	const char *name;
	const char *entry, *exit; /* programs, "" none */
	unsigned ops;             /* map or memory operations a call, 0: a plain probe */
	double published_kernel, published_bpftime; /* ns a call, another machine; 0: nothing was */
	enum bench_object object; /* that holds the programs */
	uint64_t warm;            /* calls until the maps hold what they shall, at least */
};

/* The rows of rows.h. */
extern const struct bench_row bench_rows[];
extern const size_t bench_nrows;

struct bench_result {
	double ns[BENCH_MAX_RUNS]; /* per call of the function */
	unsigned runs;
	uint64_t calls; /* in a run */
	char reason[512]; /* why it was not measured; "" when it was */
};

enum bench_env { ENV_KERNEL, ENV_USERSPACE, ENV_EMBEDDED, N_ENVS };
extern const char *const bench_env_names[N_ENVS];

/* The probed process. */
struct victim {
	pid_t pid;
	int in, out; /* its stdin, its stdout */
	const char *path;
};
struct uerr *victim_start(const char *path, unsigned threads, struct victim *ret) UERR_MUST_CHECK;
void victim_stop(struct victim *v);
/* Nanoseconds that CALLS calls of row ROW took; with THREADS the mean CPU time of
 * one of so many threads, each of which makes the calls. */
struct uerr *victim_run(struct victim *v, const char *row, uint64_t calls, unsigned threads,
			uint64_t *ret) UERR_MUST_CHECK;
/* A line of what it writes. */
struct uerr *victim_line(struct victim *v, char *line, size_t size) UERR_MUST_CHECK;
/* Starts PATH ARG with pipes as its stdin and stdout, reads nothing. */
struct uerr *victim_spawn(const char *path, const char *arg, struct victim *ret) UERR_MUST_CHECK;

/* One way of running something CALLS times. */
struct runner {
	struct uerr *(*run)(const struct runner *r, uint64_t calls, uint64_t *ns);
	struct victim *victim;
	const char *name;
	const struct bench_row *row;
	unsigned threads; /* 0: the victim's main thread */
};
struct uerr *run_victim(const struct runner *r, uint64_t calls, uint64_t *ns) UERR_MUST_CHECK;

/* One more run of RET, whose first finds out how long a run is. *total: calls of
 * one thread in all, warm-up included; may be NULL. */
void bench_measure(const struct runner *r, uint64_t slice_ns, struct bench_result *ret, uint64_t *total);
void bench_set_reason(struct bench_result *ret, struct uerr *err);

/* An environment puts a row's programs on the victim and takes them off. */
struct bench_env_ops {
	struct uerr *(*attach)(const struct bench_row *row, struct victim *v);
	void (*detach)(void);
	struct uerr *(*read_ring)(void); /* starts reading what the row of that name writes */
};

/* rings.c: a reader of a ring, one at a time. Stopped, it has read to the end; how many
 * records. */
struct uerr *ring_read_kernel(int map_fd) UERR_MUST_CHECK;
struct uerr *ring_read_userspace(pid_t daemon, const char *map, uint32_t bytes) UERR_MUST_CHECK;
uint64_t ring_stop(void);
/* Records that were written into a ring, and that came out of it. */
struct bench_ring {
	uint64_t written, read;
};

/* Real uprobes of this kernel, through libbpf. */
extern const struct bench_env_ops env_kernel;
void env_kernel_init(const char *dir); /* of the objects */

/* A uprobed of its own on a private socket. */
extern const struct bench_env_ops env_userspace;
struct uerr *env_userspace_start(const char *uprobed, const char *dir) UERR_MUST_CHECK;
void env_userspace_stop(void);
/* The sum of a per-CPU array's first element over the CPUs. */
struct uerr *env_userspace_count(const char *map, uint64_t *ret) UERR_MUST_CHECK;

/* How long targets stand still, and what it costs in memory. */
struct bench_attach {
	double stop_us_1[BENCH_MAX_RUNS], stop_us_100[BENCH_MAX_RUNS]; /* attach, one probe */
	unsigned runs;
	uint64_t daemon_rss_bytes;
	uint64_t mapped_bytes; /* in a target with ten probes, beside its maps */
	char reason[512];
};
void env_userspace_measure_attach(const char *victim_path, unsigned runs, struct bench_attach *ret);

/* libbpfvm in this process: ns for CALLS runs of a row's programs, or of the
 * program "embed" for the row of that name. */
struct uerr *env_embedded_open(const char *dir) UERR_MUST_CHECK;
void env_embedded_close(void);
struct uerr *env_embedded_run(const struct bench_row *row, uint64_t calls, uint64_t *ret) UERR_MUST_CHECK;

#define BENCH_THREADS 2

/* A per-CPU counting program on one function that several threads call. Times are
 * CPU time a thread: with one thread, with BENCH_THREADS. */
struct bench_scaling {
	struct bench_result plain[2], counted[2];
	struct bench_result shared[2]; /* a thousand updates of one hash map */
	uint64_t calls, seen; /* of the counted function: made, and what the map says */
};
void scaling_round(struct bench_scaling *s, struct victim *v, uint64_t slice_ns);

/* Tracers that put something into the process, too, with less work a hit than we
 * do: each in a process of its own, with the uninstrumented call there. */
struct rival {
	const char *name, *what; /* `what` a hit does */
	const char *script, *victim, *row;
};
struct bench_rival {
	struct bench_result plain, one, more; /* `more`: BENCH_THREADS threads, CPU time */
	struct victim process;
};
extern const struct rival bench_rivals[];
extern const size_t bench_nrivals;
/* A rival that is not here gets the reason. DIR: where the victims were built. */
void rivals_start(struct bench_rival *rivals, const char *dir);
void rivals_round(struct bench_rival *rivals, uint64_t slice_ns);
void rivals_stop(struct bench_rival *rivals);

struct jit_bench; /* jit/jit_bench.h */

struct bench_report {
	struct bench_result plain, pad; /* the uninstrumented call, and the lower bound */
	struct bench_result bare;       /* a jump away and back */
	struct bench_scaling scaling;
	struct bench_ring rings[N_ENVS];
	struct bench_rival *rivals;     /* [bench_nrivals] */
	struct bench_result (*results)[N_ENVS]; /* [bench_nrows] */
	struct bench_result embed;
	struct bench_attach attach;
	const struct jit_bench *jit; /* the micro-programs of the JIT */
	unsigned runs;
	double seconds; /* in all */
};

/* Writes DIR/bench.md and DIR/bench.json, and prints the Markdown on stdout. */
struct uerr *report_write(const struct bench_report *r, const char *dir) UERR_MUST_CHECK;

/* The file at PATH as a whole; *ret is malloc'd. */
struct uerr *bench_read_file(const char *path, void **ret, size_t *size) UERR_MUST_CHECK;

uint64_t bench_now_ns(void);
double bench_avg(const struct bench_result *r);
double bench_median(const struct bench_result *r);
