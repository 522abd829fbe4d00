/* SPDX-License-Identifier: MIT */
/* Loading an object: parse in isolation, check every program, make the maps. */
#pragma once
#include "daemon/state.h"

struct load_opts {
	const char *name;
	const struct object_map_size *sizes;
	size_t nsizes;
	uid_t uid;
	u64 client;
};

/* Loads the object in BYTES into S. On failure nothing is loaded, and the
 * message says so. */
struct uerr *loaded_create(struct state *s, const void *bytes, size_t size, const struct load_opts *opts,
			   struct loaded **ret) UERR_MUST_CHECK;
void loaded_destroy(struct loaded *l); /* NULL is fine */

/* Maps (and the claims table) that PROGRAM needs in a target: all of its object. */
struct uerr *program_jited_size(struct program *p, u32 *ret) UERR_MUST_CHECK;
