/* SPDX-License-Identifier: MIT */
/* What resolve.c asks of its neighbours, and nobody else. */
#pragma once
#include "base/vec.h"
#include "elfsym/resolve.h"

typedef VEC(struct resolved) place_vec;

struct resolver {
	const struct spec *spec;
	const struct modules *m;
	const char *const *not_globs;
	size_t nnot;
	struct ifuncs *ifuncs; /* of the module looked at last, or NULL */
	place_vec places;
};

/* A module in a SPEC: "" for the program. */
const char *module_prefix(const struct module *mod);

/* Is NAME one of those that --not leaves out? */
bool resolve_excludes(const struct resolver *r, const char *name);

/* The USDT probes that R's SPEC means in MODS, into r->places. None is an error. */
struct uerr *resolve_usdt(struct resolver *r, const struct module *const *mods, size_t n, bool *glob) UERR_MUST_CHECK;

/* What to call a module in a sentence: "libc", or the program's name. */
const char *module_label(const struct modules *m, const struct module *mod);

/* How well BINARY of a SPEC names MOD: 0 not at all, higher is better. */
int module_match(const struct modules *m, const struct module *mod, const char *binary);

/* Shell patterns: * ? [a-z] [!a-z] and backslash. In time linear in the
 * lengths' product whatever the pattern is, since patterns come from clients. */
bool glob_match(const char *pattern, const char *name);
bool glob_is_pattern(const char *s);

/*
 * The pointers of a process by which it calls the IFUNCs of one module, found
 * from the relocations of all its modules.
 */
struct ifuncs;
struct uerr *ifuncs_create(const struct modules *m, const struct module *def, struct ifuncs **ret) UERR_MUST_CHECK;
void ifuncs_destroy(struct ifuncs *fs);
const struct module *ifuncs_module(const struct ifuncs *fs);
/* The link address that the resolver at RESOLVER chose; false when no pointer
 * tells. */
bool ifuncs_selected(const struct ifuncs *fs, addr_t resolver, addr_t *ret);
