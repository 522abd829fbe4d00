/* SPDX-License-Identifier: MIT */
/*
 * What an embedder of the VM (bpfvm.c) adds to what its programs find: a ctx of
 * another shape than struct pt_regs, and helpers of its own. A program carries it
 * as vm_prog.env; NULL, the daemon's case, means pt_regs, to be read only, and
 * the helpers of helpers.def alone.
 *
 * Whoever judges or executes a call of a helper asks here, so that verifier,
 * interpreter and JIT cannot disagree about which helpers there are.
 */
#pragma once
#include "vm/helpers.h"
#include "vm/program.h"
#include "vm/runtime.h"

/* Numbers of own helpers; those of the kernel are far below. */
#define ENV_HELPER_FIRST 0x1000u
#define ENV_HELPER_LAST 0x1fffu
#define ENV_CTX_MAX 65536u

enum { ENV_CTX_READ = 1, ENV_CTX_WRITE = 2 };

struct env_helper {
	u32 id;
	struct helper_info info;
	helper_fn fn;
};

struct vm_env {
	u32 ctx_size;
	const u8 *ctx; /* what may be done with each byte: ENV_CTX_READ | ENV_CTX_WRITE; NULL: struct pt_regs */
	const struct env_helper *helpers;
	size_t nhelpers;
};

/* Bytes of P's ctx. */
u32 vm_prog_ctx_size(const struct vm_prog *p);
/* Whether P may read or write (ENV_CTX_…) SIZE bytes of its ctx at OFF: all of
 * them lie inside, are allowed, and are aligned to SIZE. */
bool vm_prog_ctx_allows(const struct vm_prog *p, s64 off, u32 size, unsigned what);

/* The prototype of helper ID as P may call it: never NULL; known = false when
 * there is no such helper. */
const struct helper_info *vm_prog_helper(const struct vm_prog *p, u32 id);
/* Its name with "bpf_" where it has that, or NULL. */
const char *vm_prog_helper_name(const struct vm_prog *p, u32 id);
/* The function of this process, or NULL: interpreter and libbpfvm. Knows the
 * numbers VM_RT_… too. */
helper_fn vm_prog_helper_fn(const struct vm_prog *p, u32 id);
