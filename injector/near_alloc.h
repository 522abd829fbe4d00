/* SPDX-License-Identifier: MIT */
/* Where in a target's address space a range of ours can lie. Pure: a snapshot
 * of its mappings in, an address out. */
#pragma once
#include "injector/target_maps.h"

struct near_zone {
	addr_t lo, hi;
};

struct near_request {
	const struct target_maps *maps;
	addr_t brk;            /* start of the heap, 0 not known */
	u64 stack_limit;       /* RLIMIT_STACK of the target */
	const struct near_zone *taken; /* chosen, but not in the snapshot */
	size_t ntaken;
	u64 size;
	addr_t near, near_end; /* reachable by rel32 both ways from all of it; 0: anywhere */
	u64 random;
};

/* False when there is no room. */
bool near_alloc(const struct near_request *rq, addr_t *ret);
