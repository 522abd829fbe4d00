/* SPDX-License-Identifier: MIT */
/* State as the JSON types of io.uprobed.varlink. */
#pragma once
#include <cjson/cJSON.h>

#include "daemon/server.h"
#include "daemon/target.h"

cJSON *view_object(const struct daemon *d, const struct loaded *o);
cJSON *view_program(const struct daemon *d, const struct program *p);
cJSON *view_map(const struct map *m);
const char *view_map_type(u32 type); /* "percpu_hash" */
cJSON *view_link(const struct daemon *d, const struct link *l);
cJSON *view_site(const struct target *t, const struct site *s);
cJSON *view_target(const struct daemon *d, const struct target *t);

/* Programs and maps of one object, as arrays. */
cJSON *view_programs(const struct daemon *d, const struct loaded *o);
cJSON *view_maps(const struct loaded *o);

/* One process's part of an attach or detach. */
struct stop {
	pid_t pid;
	char comm[16];
	u32 threads;
	u64 stopped_ns;
	u32 moved, retired;
	u32 traps_lost; /* breakpoints that had to go, since SIGTRAP was not ours any more */
};
/* S, which a target or a file chose, as a JSON string: up to 511 bytes of it, with '?' for
 * control characters and for bytes that are no UTF-8. */
void view_text(cJSON *obj, const char *name, const char *s);
cJSON *view_stop(const struct stop *s);
cJSON *view_strings(char *const *s, size_t n);

/* Adds a value of map M, or a key, of BTF type TYPE_ID (0: none) to OBJ, as bytes
 * in hex (NAME) and as JSON text ("" when it has no type; NAME_json). */
struct uerr *view_add_typed(cJSON *obj, const char *name, const struct map *m, u32 type_id, const u8 *p,
			    size_t size) UERR_MUST_CHECK;
