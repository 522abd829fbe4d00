/* SPDX-License-Identifier: MIT */
/*
 * Work on targets, each piece in a process of its own: ptrace belongs to a
 * thread, a target may hang, a file may be hostile, and none of that may stop
 * the daemon. A worker is forked with the daemon's whole state, does its work,
 * and sends the outcome through a pipe.
 *
 * Jobs on one process run one after the other; jobs on different processes run
 * side by side. A job has a deadline, after which its worker is killed.
 */
#pragma once
#include "daemon/daemon.h"
#include "daemon/pack.h"
#include "daemon/procinfo.h"
#include "daemon/server.h"

struct job;
typedef struct uerr *job_work(struct job *job, struct packer *result);
typedef void job_done(struct job *job, struct uerr *err, struct unpacker *result);

struct job {
	struct source src;
	struct daemon *d;
	struct request *req;   /* that it works for; NULL: nobody, or gone */
	const char *what;      /* "attaching", for messages */
	pid_vec pids;          /* the processes that it may touch */
	pid_t worker;          /* 0: waiting */
	bool stops;            /* it makes the processes stand still: paced (pace.h) … */
	bool urgent;           /* … counted, but made at once */
	bool canceled;         /* nobody wants the outcome */
	bool touching;         /* the worker has begun to change targets */
	bool died;             /* the worker said nothing to the end: it crashed, or was given up */
	u64 deadline_ns;
	u32 timeout_ms;
	u8 *buf;
	size_t n, cap;
	size_t result_off, result_len;
	bool have_result;
	struct uerr *err;
	int out;               /* the worker's end of the pipe */

	/* In the daemon, when its turn has come, or NULL: what the job was made for
	 * may have changed while it waited. An error ends it. */
	struct uerr *(*before)(struct job *job);
	/* In the worker. The error, or what it packed, goes to done(). */
	job_work *work;
	/* In the daemon: news before the end (job_progress), or NULL. */
	void (*progress)(struct job *job, struct unpacker *u);
	/* In the daemon, once, at the end; ERR is the callee's. RESULT is NULL
	 * with an error. */
	job_done *done;
	void *arg;
	void (*free_arg)(void *arg);
};

#define JOB_TIMEOUT_MS 60000u

/* NULL: out of memory, and ARG stays the caller's; else it is freed by FREE_ARG, unless
 * that is NULL. */
struct job *job_create(struct daemon *d, struct request *req, const char *what, job_work *work, job_done *done,
		       void *arg, void (*free_arg)(void *arg));
bool job_lock(struct job *job, pid_t pid); /* false: out of memory */
void job_submit(struct job *job);          /* JOB is the queue's from now on */
void job_submit_first(struct job *job);    /* before those that wait for the same processes; no request's */
void job_cancel(struct job *job);          /* its client is gone */
void job_forget_request(struct job *job);
void job_event(struct job *job);
/* Starts what can start; kills what is late. */
void jobs_housekeep(struct daemon *d);
/* Milliseconds until a job may start that only has to wait for that; -1: none. */
int jobs_wait_ms(const struct daemon *d);
/* Kills all workers, at the end. */
void jobs_kill(struct daemon *d);
/* Is a job running or waiting that may touch PID? */
bool job_busy(const struct daemon *d, pid_t pid);

/* In the worker: from here on targets may be changed, so that a death of this
 * worker needs cleaning up. */
void job_touching(struct job *job);
/* In the worker: news for progress(). */
void job_progress(struct job *job, const struct packer *p);
