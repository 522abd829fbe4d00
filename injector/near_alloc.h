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

/* What is or will be in use, by address: mappings, and room for the heap and the
 * stack to grow. */
struct near_zones {
	VEC(struct near_zone) v;
};

/* As RQ says, whose size and near are of no matter. False when out of memory. */
bool near_zones_init(const struct near_request *rq, struct near_zones *ret);
void near_zones_deinit(struct near_zones *zs);
bool near_zones_add(struct near_zones *zs, addr_t lo, addr_t hi);

/* The highest page address in [lo, hi] with a free page, and MARGIN bytes free on
 * either side of it; 0: there is none. LO and HI are page addresses. */
addr_t near_highest_free(const struct near_zones *zs, addr_t lo, addr_t hi, u64 margin);

/* False when there is no room. */
bool near_alloc(const struct near_request *rq, addr_t *ret);
