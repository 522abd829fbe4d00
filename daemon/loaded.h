/* SPDX-License-Identifier: MIT */
/* A loaded object: check every program, make the maps. Parsing is a worker's. */
#pragma once
#include "daemon/state.h"

struct load_opts {
	const char *name;
	uid_t uid;
	u64 client;
	bool allow_override; /* programs may call bpf_override_return() */
};

/* Checks the programs of OBJ and makes its maps. OBJ (vm/object.h) is taken over.
 * On failure nothing is loaded. */
struct uerr *loaded_create(struct state *s, struct object *obj, const struct load_opts *opts,
			   struct loaded **ret) UERR_MUST_CHECK;
void loaded_destroy(struct loaded *l); /* NULL is fine */

/* Whether a run that begins in P may want the function skipped. */
bool program_overrides(const struct program *p);
/* Whether it may walk the stack. */
bool program_walks_stacks(const struct program *p);
/* … may ask for the thread's name or ids; does any in T, but for those of LINKS? */
bool program_asks_identity(const struct program *p);
bool target_asks_identity(const struct state *s, const struct target *t, const u32 *links, size_t nlinks);
/* Bytes of machine code. */
struct uerr *program_jited_size(struct program *p, u32 *ret) UERR_MUST_CHECK;
