/* SPDX-License-Identifier: MIT */
/*
 * Compiles a program into this process and runs it, for tests that compare the
 * JIT with something.
 */
#pragma once
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "vm/jit.h"
#include "vm/runtime.h"

struct jit_code {
	u64 (*fn)(u64 r1, u64 r2, struct hook_frame *frame);
	void *mem;
	size_t mem_size;
	struct jit_output out;
};

static inline addr_t jit_host_helper(u32 id, void *arg)
{
	return (addr_t)runtime_helper(id);
}

static inline struct uerr *jit_code_create_with(const struct vm_prog *p, const struct jit_map *maps, size_t nmaps,
						u32 flags, addr_t (*helper_addr)(u32 id, void *arg),
						struct jit_code *ret)
{
	struct jit_input in = {
		.prog = p, .maps = maps, .nmaps = nmaps, .helper_addr = helper_addr, .flags = flags,
	};
	struct uerr *err;

	ret->mem_size = ALIGN_UP(jit_size_bound(p), PAGE);
	ret->mem = mmap(NULL, ret->mem_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ret->mem == MAP_FAILED)
		return uerr_nomem();
	in.code_addr = (addr_t)ret->mem;
	err = jit_compile(&in, &ret->out);
	if (err) {
		munmap(ret->mem, ret->mem_size);
		return err;
	}
	memcpy(ret->mem, ret->out.code, ret->out.size);
	mprotect(ret->mem, ret->mem_size, PROT_READ | PROT_EXEC);
	ret->fn = (u64(*)(u64, u64, struct hook_frame *))ret->out.entry;
	return NULL;
}

static inline struct uerr *jit_code_create(const struct vm_prog *p, const struct jit_map *maps, size_t nmaps, u32 flags,
					   struct jit_code *ret)
{
	return jit_code_create_with(p, maps, nmaps, flags, jit_host_helper, ret);
}

static inline void jit_code_destroy(struct jit_code *c)
{
	munmap(c->mem, c->mem_size);
	jit_output_deinit(&c->out);
}
