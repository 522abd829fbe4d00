/* SPDX-License-Identifier: MIT */
/*
 * What a worker hands back about targets, and how the daemon takes it in. An
 * outcome with an error still has targets: those that were changed before it
 * failed, and are as the outcome says.
 */
#pragma once
#include "daemon/daemon.h"
#include "daemon/pack.h"
#include "daemon/places.h"
#include "daemon/target.h"
#include "daemon/view.h"

struct outcome {
	struct uerr *err;
	VEC(struct stop) stops;
	refused_vec refused;
	VEC(struct target *) targets; /* in the worker borrowed, in the daemon owned */
};

/* In the worker: adds T, once; false when out of memory. */
bool outcome_add(struct outcome *o, struct target *t);
/* In the worker: adds the targets from the KNOWN-th on: fork children that it
 * found. */
void outcome_add_new(struct outcome *o, const struct daemon *d, size_t known);
void outcome_deinit(struct outcome *o, bool owns_targets);
void outcome_pack(const struct outcome *o, struct packer *p);
/* Sets RET up in any case; the error is for what makes no sense. */
struct uerr *outcome_unpack(struct unpacker *u, struct outcome *ret) UERR_MUST_CHECK;

/* The targets of O become the daemon's: known ones are replaced, new ones are
 * watched, clean ones are forgotten, and links follow. */
void outcome_apply(struct daemon *d, struct outcome *o);
