/* SPDX-License-Identifier: MIT */
/* Compact unwind tables (base/unwind.h) of a file's .eh_frame. */
#pragma once
#include "base/unwind.h"
#include "elfsym/image.h"

/* All of a file that its table is made of: the .eh_frame (BYTES is NULL where there is
 * none), and where its code is. Deinit in any case. */
struct unwind_text {
	addr_t lo, hi;
};
struct unwind_input {
	void *bytes;
	u64 size;
	addr_t addr; /* link address */
	struct unwind_text *text; /* by address, apart from each other */
	u64 ntext;
};
struct uerr *image_unwind_input(struct image *im, struct unwind_input *ret) UERR_MUST_CHECK;
void unwind_input_deinit(struct unwind_input *in);

/* The table of IN, malloc'd; *ret is NULL when there is nothing to say. What cannot be
 * said by a rule is UNWIND_UNKNOWN there, never wrong. */
struct uerr *unwind_table_make(const struct unwind_input *in, struct unwind_table **ret) UERR_MUST_CHECK;

/* Whether SIZE bytes that were read from somewhere are a table that can be followed
 * without looking further than they go. */
bool unwind_table_valid(const struct unwind_table *t, u64 size);
