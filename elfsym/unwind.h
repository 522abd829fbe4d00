/* SPDX-License-Identifier: MIT */
/* Compact unwind tables (base/unwind.h) of a file's .eh_frame. */
#pragma once
#include "base/unwind.h"
#include "elfsym/image.h"

/* A file's .eh_frame; BYTES is malloc'd, NULL where it has none. */
struct unwind_input {
	void *bytes;
	u64 size;
	addr_t addr; /* link address */
};
struct uerr *image_unwind_input(struct image *im, struct unwind_input *ret) UERR_MUST_CHECK;

/* The table of IM's code, of which IN is the .eh_frame, malloc'd; *ret is NULL when
 * there is nothing to say. What cannot be said by a rule is UNWIND_UNKNOWN there,
 * never wrong. */
struct uerr *image_unwind(struct image *im, const struct unwind_input *in, struct unwind_table **ret) UERR_MUST_CHECK;

/* Whether SIZE bytes that were read from somewhere are a table that can be followed
 * without looking further than they go. */
bool unwind_table_valid(const struct unwind_table *t, u64 size);
