/* SPDX-License-Identifier: MIT */
/* The constants of a target (struct target_env) from facts, in the worker. */
#pragma once
#include "daemon/target.h"
#include "injector/inject.h"

/* Takes the facts that stay into T, at the first change of a process. */
void env_take_facts(struct target *t, const struct inject_facts *f);

/* Fills RET for T; reads its mappings. */
struct uerr *env_fill(const struct target *t, u32 ncpus, struct target_env *ret) UERR_MUST_CHECK;

/* Puts the threads that live now, with their stacks, into T's table. */
void env_fill_threads(const struct target *t, const struct inject_thread *threads, size_t n);

/* Offset of __vdso_clock_gettime in the vDSO, 0 when there is none. The same
 * kernel gives every process the same image. */
u64 vdso_clock_off(void);
