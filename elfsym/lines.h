/* SPDX-License-Identifier: MIT */
/*
 * Source lines and inlined functions of an image, by its DWARF (its own or that of
 * its separate debug file), through libdw. libdw maps files and believes much of what
 * they say: only for workers, which may die of it.
 */
#pragma once
#include "elfsym/image.h"

struct lines;

/* NULL in *ret: there is no DWARF. The caller owns it. */
struct uerr *lines_open(struct image *im, struct lines **ret) UERR_MUST_CHECK;
void lines_close(struct lines *l); /* NULL is fine */

struct line_frame {
	char *function;   /* malloc'd; NULL: not known */
	const char *file; /* base name, or NULL; lives as long as the struct lines */
	int line;
	bool inlined;     /* into the next one */
};

/* The functions whose code link address ADDR is, from the innermost inlined one to
 * the one that was not inlined, into ret[MAX]; how many. The caller frees names. */
size_t lines_find(struct lines *l, addr_t addr, struct line_frame *ret, size_t max);
