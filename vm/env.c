/* SPDX-License-Identifier: MIT */
/* Lookups in what an embedder added; tables are short, so linear ones. */
#include "vm/env.h"

u32 vm_prog_ctx_size(const struct vm_prog *p)
{
	return p->env && p->env->ctx ? p->env->ctx_size : sizeof(struct target_regs);
}

bool vm_prog_ctx_allows(const struct vm_prog *p, s64 off, u32 size, unsigned what)
{
	u32 end = vm_prog_ctx_size(p);

	if (off < 0 || off > end || size > end - off || !size || off % size)
		return false;
	if (!p->env || !p->env->ctx)
		return what == ENV_CTX_READ;
	for (u32 i = 0; i < size; i++)
		if ((p->env->ctx[off + i] & what) != what)
			return false;
	return true;
}

static const struct env_helper *own_helper(const struct vm_prog *p, u32 id)
{
	for (size_t i = 0; p->env && i < p->env->nhelpers; i++)
		if (p->env->helpers[i].id == id)
			return &p->env->helpers[i];
	return NULL;
}

const struct helper_info *vm_prog_helper(const struct vm_prog *p, u32 id)
{
	const struct env_helper *own = own_helper(p, id);

	return own ? &own->info : vm_helper_info(id);
}

const char *vm_prog_helper_name(const struct vm_prog *p, u32 id)
{
	const struct env_helper *own = own_helper(p, id);

	return own ? own->info.name : vm_helper_name(id);
}

helper_fn vm_prog_helper_fn(const struct vm_prog *p, u32 id)
{
	const struct env_helper *own = own_helper(p, id);

	return own ? own->fn : runtime_helper(id);
}
