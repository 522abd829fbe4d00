/* SPDX-License-Identifier: MIT */
/* TARGET options and SPEC arguments as the daemon takes them. */
#pragma once
#include <cjson/cJSON.h>

#include "base/uerr.h"
#include "cli/opts.h"

/* The Target of options O and SPECS (n of them: a path in one of them and no
 * TARGET implies -x). With CHILD (not 0): that process. *RET is NULL when
 * nothing was named, and UERR_USAGE then if NEEDED. */
struct uerr *target_json(const struct opts *o, const char *const *specs, size_t n, pid_t child, bool needed,
			 cJSON **ret) UERR_MUST_CHECK;

/* SPECS as a JSON array: relative paths made absolute (the daemon is elsewhere);
 * forms that are not there yet are UERR_USAGE. */
struct uerr *specs_json(const char *const *specs, size_t n, cJSON **ret) UERR_MUST_CHECK;

/* --not as a JSON array, or NULL when none was given. */
cJSON *nots_json(const struct opts *o);

/* True if SPEC means many functions. */
bool spec_is_glob(const char *spec);

/* True if SPEC, as the daemon writes it, is where a function begins: no return, no USDT
 * probe, no offset or address. */
bool spec_is_entry(const char *spec);

/* The function's name alone, behind kind and BINARY. */
const char *spec_symbol(const char *spec);
