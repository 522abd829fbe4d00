/* SPDX-License-Identifier: MIT */
/*
 * Fork children, in the worker. A child inherits patches and mappings; it is a
 * target of its own from the moment that it is found. It is found before
 * anything changes in its parent, so that it starts as a copy of what the
 * daemon knows of the parent.
 */
#pragma once
#include "daemon/daemon.h"
#include "daemon/target.h"

/* Fork children of T that nobody knows yet become targets, added to the state
 * (this worker's copy of it), with journals of their own. SNAPSHOT is the
 * parent as it was when they were forked. */
struct uerr *family_find_children(struct daemon *d, const struct target *t, const struct target *snapshot,
				  u32 *nfound) UERR_MUST_CHECK;

/* Is PID an unknown fork child of a target? Then it becomes one as above, and
 * *RET is it; else NULL. */
struct uerr *family_find(struct daemon *d, pid_t pid, struct target **ret) UERR_MUST_CHECK;
