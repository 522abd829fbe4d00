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

/* Does thread TID of process PID (numbers of the target's own pid namespace,
 * when that is another) still live? */
bool procinfo_thread_alive(pid_t pid, pid_t ns_tid);

bool pid_vec_has(const pid_vec *v, pid_t pid);
const char *pathname_base(const char *path);
