/* SPDX-License-Identifier: MIT */
/*
 * Unwind tables for a process (base/unwind.h), in the worker: those of all files
 * that it has mapped to run, as one image that programs walk stacks by. An image
 * never changes; who attaches after the process has loaded more gets a new one.
 */
#pragma once
#include <sys/types.h>

#include "base/types.h"
#include "base/uerr.h"
#include "elfsym/resolve.h"

struct unwind_plan {
	u64 key; /* of what is mapped where; never 0 */
	struct modules mods;
};

/* Looks at PID. */
struct uerr *unwind_plan(pid_t pid, struct unwind_plan *ret) UERR_MUST_CHECK;
/* The vDSO, which is the same in every process; NULL in *ret: there is none. */
struct uerr *unwind_vdso(struct image **ret) UERR_MUST_CHECK;
void unwind_plan_deinit(struct unwind_plan *p);

/* The image, as a sealed memfd that the caller owns, and its size, a multiple of the
 * page size. Tables are kept in CACHE_DIR (NULL: nowhere). */
struct uerr *unwind_make(const struct unwind_plan *p, const char *cache_dir, int *ret_fd, u64 *ret_size) UERR_MUST_CHECK;
