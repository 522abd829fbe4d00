/* SPDX-License-Identifier: MIT */
/*
 * What helpers.def says of each helper, by id: the prototype for those that are
 * there and those that are known, a name for all others, so that a refusal can
 * name them.
 */
#include "vm/helpers.h"
#include "vm/program.h"

static const struct helper_info infos[HELPER_MAX_ID + 1] = {
#define X(id, n, f, r, ...) \
	[id] = { .ret = r, .args = { __VA_ARGS__ }, .flags = f, .known = true, .present = true, .name = "bpf_" #n },
#define ABSENT(id, n, f, r, a1, a2, a3, a4, a5, tip) \
	[id] = { .ret = r, .args = { a1, a2, a3, a4, a5 }, .flags = f, .known = true, .name = "bpf_" #n, .instead = tip },
#define OTHER(id, n) [id] = { .name = "bpf_" #n },
#include "vm/helpers.def"
#undef X
#undef ABSENT
#undef OTHER
};

#define X(id, name, ...) _Static_assert(BPF_FUNC_##name == id, #name);
#define OTHER(id, name) _Static_assert(BPF_FUNC_##name == id, #name);
#include "vm/helpers.def"
#undef X
#undef OTHER

const struct helper_info *vm_helper_info(u32 id)
{
	static const struct helper_info none;

	return id <= HELPER_MAX_ID ? &infos[id] : &none;
}

const char *vm_helper_name(u32 id)
{
	return vm_helper_info(id)->name;
}

bool vm_helper_known(u32 id)
{
	return vm_helper_info(id)->present;
}
