/* SPDX-License-Identifier: MIT */
/*
 * What processes had mapped to run, kept from the attach of a program that walks
 * stacks on until its object is unloaded, so that their stacks can be named after they
 * have gone. Files are held by descriptors (O_PATH: nothing of them is read here),
 * each once for all processes, if it can be had.
 */
#pragma once
#include <limits.h>
#include <sys/types.h>

#include "base/target_abi.h"
#include "base/vec.h"
#include "daemon/state.h"
#include "daemon/target.h"

struct space_file {
	u64 dev, ino;
	int fd;      /* O_PATH; negative: it could not be had, which is so for one process alone */
	char *path;  /* as in maps */
	u32 refs;
};

struct space_map {
	addr_t lo, hi;
	u64 file_off;
	struct space_file *file;
};

struct space {
	pid_t pid;
	u64 starttime;
	char comm[16];
	uid_t uid;
	char exe[256];              /* its main program, as in maps */
	VEC(struct space_map) maps; /* apart from each other, as they were found */
	addr_t vdso_lo, vdso_hi;
	int perf_fd;                /* O_PATH of /tmp/perf-PID.map in its mount namespace, -1 none */
};

/* Takes down what T has mapped by now, for each object of which a program that walks
 * stacks is in it, or was. Nothing can go wrong that would matter. */
void spaces_note(struct state *s, const struct target *t);
/* The same for one that is there, if its process lives. */
void space_refresh(struct space *sp);
void spaces_free(struct loaded *o);
/* In the worker, while it has the daemon's rights: O's files, and no others, can be read
 * from now on; what is no regular file has no descriptor any more. */
void spaces_open(struct loaded *o);

const struct space_map *space_find(const struct space *sp, addr_t addr); /* or NULL */
