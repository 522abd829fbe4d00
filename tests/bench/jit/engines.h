/* SPDX-License-Identifier: MIT */
/*
 * The micro-programs of programs.bpf.c in three engines: interpreted, compiled
 * by our JIT, and compiled by the kernel's. One instance serves all programs of
 * the object; every engine has its own copy of the input.
 */
#pragma once
#include <stddef.h>

#include "base/types.h"
#include "base/uerr.h"
#include "input.h"

enum engine { ENGINE_INTERP, ENGINE_JIT, ENGINE_KERNEL, N_ENGINES };

struct engines;

/* Opens the object, compiles all. When only the kernel refuses, everything else
 * works and engines_kernel_reason() tells why. */
struct uerr *engines_open(const char *object_path, struct engines **ret) UERR_MUST_CHECK;
void engines_close(struct engines *e); /* NULL is fine */

size_t engines_nprogs(const struct engines *e);
const char *engines_prog_name(const struct engines *e, size_t prog);
u32 engines_prog_insns(const struct engines *e, size_t prog);
/* Bytes of our code; of the kernel's, 0 when it does not say. */
u32 engines_code_size(const struct engines *e, size_t prog);
u32 engines_kernel_code_size(const struct engines *e, size_t prog);
/* Why the kernel does not take part, or NULL. */
const char *engines_kernel_reason(const struct engines *e);

/* One run from fresh input: the low half of the result, and how the input looks
 * afterwards. */
struct uerr *engines_run_once(struct engines *e, size_t prog, enum engine engine, u32 *result,
			      struct bench_input *after) UERR_MUST_CHECK;
/* Nanoseconds that TIMES runs take. */
struct uerr *engines_run(struct engines *e, size_t prog, enum engine engine, u32 times, u64 *ns) UERR_MUST_CHECK;
/* Nanoseconds of one compilation, the fastest of TIMES. */
struct uerr *engines_compile(struct engines *e, size_t prog, u32 times, u64 *ns) UERR_MUST_CHECK;
/* The listing of our code; malloc'd. */
char *engines_listing(struct engines *e, size_t prog);
