/* SPDX-License-Identifier: MIT */
/*
 * The interpreter for programs that run more than once: decoded once, run often.
 * interp_run() (vm/program.h) does both, each time.
 */
#pragma once
#include "vm/program.h"

struct interp_code;

/* Decodes P; it, its maps and their array must live as long. NULL: no memory. */
struct interp_code *interp_code_create(const struct vm_prog *p, const struct vm_map *maps, size_t nmaps);
void interp_code_destroy(struct interp_code *code); /* NULL is fine */

/* As interp_run(). Any number of threads may run the same code. */
long interp_code_run(const struct interp_code *code, u64 r1, u64 r2, struct hook_frame *frame, u64 max_insns, u64 *r0);
