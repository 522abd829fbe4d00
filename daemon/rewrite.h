/* SPDX-License-Identifier: MIT */
/*
 * Making a process be what its target says, in the worker: the target's calls
 * are what is wanted, its windows are what is there. Attach adds calls, detach
 * takes calls away; both then rewrite the windows concerned in one transaction.
 *
 *	windows to change ─▶ arenas, maps: sizes ─▶ place ─▶ fill, compile,
 *	emit trampolines ─▶ patches ─▶ commit ─▶ what is empty is unmapped
 */
#pragma once
#include "daemon/daemon.h"
#include "daemon/target.h"
#include "daemon/view.h"
#include "injector/inject.h"

/* One window that is to be changed. */
struct change {
	struct window win;
	u32 module;
	u64 file_off;
	bool installed;  /* a jump stands there now */
	bool restore;    /* nothing is to be called there any more */
	u32 ncalls;
	u32 group;       /* of arenas */
	addr_t stub;     /* of a punned window */
};
typedef VEC(struct change) change_vec;

struct rewrite_opts {
	const struct daemon *d;
	uid_t uid;       /* as in inject_opts */
	gid_t gid;
	struct goroutines go; /* of a Go program whose text is changed; zeros: none are looked at */
};

/* Appends to CHANGES the windows of T that hold a call of one of LINKS; false
 * when out of memory. */
bool rewrite_windows_of(const struct target *t, const u32 *links, size_t nlinks, change_vec *changes);

/* Before anything else is done in T's process: if breakpoints are in it, makes sure
 * that SIGTRAP is still ours; if it is not, takes them out and says so in STOP. */
struct uerr *rewrite_check_traps(const struct rewrite_opts *opts, struct target *t, struct stop *stop) UERR_MUST_CHECK;

/* Brings CHANGES about in T's process, and unmaps what nothing uses (any more,
 * or since an earlier attempt found somebody inside). On success T is up to date and STOP says
 * how it went. On an error the process is as before; T must be thrown away. */
struct uerr *rewrite_run(const struct rewrite_opts *opts, struct target *t, change_vec *changes,
			 struct stop *stop) UERR_MUST_CHECK;
