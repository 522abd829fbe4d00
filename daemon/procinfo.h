/* SPDX-License-Identifier: MIT */
/* Facts about processes from /proc that need no tracing. */
#pragma once
#include <sys/types.h>

#include "base/types.h"
#include "base/uerr.h"
#include "base/vec.h"

typedef VEC(pid_t) pid_vec;

struct procinfo {
	pid_t pid, ppid;
	uid_t uid;     /* effective */
	u64 starttime; /* field 22 of /proc/PID/stat */
	u32 nthreads;
	bool zombie;   /* nothing of it runs any more */
	char comm[16];
	char exe[256]; /* "" when it cannot be read; " (deleted)" cut off */
};

/* UERR_NO_TARGET "process N does not exist". */
struct uerr *procinfo_read(pid_t pid, struct procinfo *ret) UERR_MUST_CHECK;

/* All processes. */
struct uerr *procinfo_list(pid_vec *ret) UERR_MUST_CHECK;

/* Appends the children of PID and theirs. */
void procinfo_children(pid_t pid, pid_vec *ret);

/* Does PID map the file at PATH (any mapping)? */
bool procinfo_maps_path(pid_t pid, const char *path);

/* Is TID, as its own pid namespace numbers it and as this one does, a thread of PID? */
bool procinfo_has_thread(pid_t pid, pid_t tid);

/* Appends the numbers, each in its own pid namespace, of the threads of PID and of
 * all processes that run the same program: PID's fork children are among them. */
struct uerr *procinfo_family_tids(pid_t pid, pid_vec *ret) UERR_MUST_CHECK;

bool pid_vec_has(const pid_vec *v, pid_t pid);
const char *pathname_base(const char *path);
