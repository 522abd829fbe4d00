/* SPDX-License-Identifier: MIT */
/*
 * Names and properties of helpers. Names come from linux/bpf.h, so that a
 * refusal can name a helper that is not implemented; properties from
 * helpers.def.
 */
#include "vm/helpers.h"
#include "vm/program.h"

#define KERNEL_NAME(x) [BPF_FUNC_##x] = "bpf_" #x
static const char *const kernel_names[] = { __BPF_FUNC_MAPPER(KERNEL_NAME) };

static const struct helper_info infos[HELPER_MAX_ID + 1] = {
#define X(id, name, n, f) [id] = { .nargs = n, .flags = f, .known = true },
#include "vm/helpers.def"
#undef X
};

#define X(id, name, n, f) _Static_assert(BPF_FUNC_##name == id, #name);
#include "vm/helpers.def"
#undef X

const struct helper_info *vm_helper_info(u32 id)
{
	static const struct helper_info none;

	return id <= HELPER_MAX_ID ? &infos[id] : &none;
}

const char *vm_helper_name(u32 id)
{
	return id && id < ARRAY_SIZE(kernel_names) ? kernel_names[id] : NULL;
}

bool vm_helper_known(u32 id)
{
	return vm_helper_info(id)->known;
}
