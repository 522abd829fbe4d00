/* SPDX-License-Identifier: MIT */
/*
 * The mappings of a target as /proc/PID/maps lists them, for the injector's own
 * needs: what is executable, what a stack pointer points into, what is free.
 * A snapshot: the target runs on while it is read, so whoever acts on it must
 * cope with its being stale (MAP_FIXED_NOREPLACE, a failed write).
 */
#pragma once
#include <sys/types.h>

#include "base/types.h"
#include "base/uerr.h"
#include "base/vec.h"

struct target_map {
	addr_t lo, hi;
	u64 off, ino;
	u32 dev_major, dev_minor;
	bool r, w, x, shared;
	bool heap, stack, vdso, special; /* [heap], [stack], [vdso], any other [name] */
	bool dead;  /* "//anon"-like or "/dev/zero (deleted)": shared memory without a file */
	bool libc;  /* by its name: where system call stubs are looked for first */
	bool ours;  /* a memfd that this program made */
};

struct target_maps {
	VEC(struct target_map) v;
};

/* TID is a live thread of PID, most often PID itself. */
struct uerr *target_maps_read(pid_t pid, pid_t tid, struct target_maps *ret) UERR_MUST_CHECK;
void target_maps_deinit(struct target_maps *m);
const struct target_map *target_maps_find(const struct target_maps *m, addr_t addr);

/* Name that remotely made memfds carry. */
#define MEMFD_NAME "uprobed"
