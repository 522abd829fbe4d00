/* SPDX-License-Identifier: MIT */
/*
 * What an attach is asked to do, in plain data: made by the command handlers,
 * read by the worker.
 */
#pragma once
#include "base/vec.h"
#include "daemon/procinfo.h"

enum probe_side { SIDE_UNKNOWN, SIDE_ENTRY, SIDE_EXIT };

struct wanted_program {
	u32 program; /* id */
	u32 link;    /* id that its link will have */
	enum probe_side side;    /* as the request says */
	enum probe_side section; /* as the program's section says */
};

/* Programs that go to the same places: what SPECS mean in PIDS. */
struct wanted_group {
	VEC(struct wanted_program) programs;
	VEC(char *) specs;
	pid_vec pids;
};

struct wanted {
	VEC(struct wanted_group) groups;
	VEC(char *) nots;
	pid_vec pids;      /* of all groups */
	bool count_cookies; /* cookie of the n-th place is cookie + n */
	u64 cookie;
	bool dry_run;
	bool trap;         /* breakpoints where nothing else does */
	uid_t uid;         /* for inject_opts: whose rights the worker takes */
	gid_t gid;
};

struct wanted *wanted_create(void);
void wanted_destroy(struct wanted *w); /* NULL is fine */
