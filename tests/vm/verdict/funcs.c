/* SPDX-License-Identifier: MIT */
/*
 * The functions that a test program consists of: found from what calls them or
 * takes their address, and described by BTF, without which neither judge takes
 * a global function, nor the kernel a callback.
 */
#include <bpf/btf.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/vm/verdict/verdict.h"

static int key_type, locked_type, plain_type;
static int types[FUNC_KINDS]; /* BTF ids; [FUNC_STATIC] also of the main function */

static int add_func(struct btf *b, const char *name, int ret_type, int arg_type, int nargs, enum btf_func_linkage how)
{
	static const char *const names[] = { "a", "b" };
	int proto = btf__add_func_proto(b, ret_type);

	for (int i = 0; i < nargs; i++)
		btf__add_func_param(b, names[i], arg_type);
	return btf__add_func(b, name, how, proto);
}

struct btf *funcs_btf(void)
{
	struct btf *b = btf__new_empty();
	int t_int = btf__add_int(b, "int", 4, BTF_INT_SIGNED), t_long = btf__add_int(b, "long", 8, BTF_INT_SIGNED);
	int lock, t_regs = btf__add_struct(b, "pt_regs", 168);
	int t_mem = btf__add_ptr(b, t_int), t_ctx = btf__add_ptr(b, btf__add_typedef(b, "bpf_user_pt_regs_t", t_regs));

	types[FUNC_STATIC] = add_func(b, "local", t_int, 0, 0, BTF_FUNC_STATIC);
	types[FUNC_STATIC_VOID] = add_func(b, "local_void", 0, 0, 0, BTF_FUNC_STATIC);
	types[FUNC_GLOBAL_INT] = add_func(b, "global_int", t_int, t_int, 1, BTF_FUNC_GLOBAL);
	types[FUNC_GLOBAL_MEM] = add_func(b, "global_mem", t_int, t_mem, 1, BTF_FUNC_GLOBAL);
	types[FUNC_GLOBAL_CTX] = add_func(b, "global_ctx", t_int, t_ctx, 1, BTF_FUNC_GLOBAL);
	types[FUNC_GLOBAL_VOID] = add_func(b, "global_void", 0, 0, 0, BTF_FUNC_GLOBAL);
	types[FUNC_GLOBAL_TWO] = add_func(b, "global_two", t_long, t_long, 2, BTF_FUNC_GLOBAL);
	key_type = t_int;
	lock = btf__add_struct(b, "bpf_spin_lock", 4);
	btf__add_field(b, "val", t_int, 0, 0);
	plain_type = btf__add_struct(b, "plain", 16);
	btf__add_field(b, "a", t_long, 0, 0);
	btf__add_field(b, "b", t_long, 64, 0);
	locked_type = btf__add_struct(b, "locked", 16);
	btf__add_field(b, "lock", lock, 0, 0);
	btf__add_field(b, "n", t_long, 64, 0);
	return b;
}

void funcs_map_types(u32 map, u32 *key, u32 *value)
{
	bool locked = map == M_LOCKED || map == M_LOCKED_HASH;

	*key = locked || map == M_TASKS ? (u32)key_type : 0;
	*value = locked ? (u32)locked_type : map == M_TASKS ? (u32)plain_type : 0;
}

bool funcs_are_global(const struct program *p)
{
	return p->funcs != FUNC_STATIC && p->funcs != FUNC_STATIC_VOID;
}

u32 funcs_find(const struct program *p, struct bpf_func_info *ret)
{
	cleanup_free u8 *starts = calloc(p->n + 1, 1);
	u32 n = 1;

	for (u32 i = 0; i < p->n; i++) {
		const struct bpf_insn *in = &p->insns[i];
		bool wide = in->code == (BPF_LD | BPF_IMM | BPF_DW);
		s64 to = (s64)i + 1 + in->imm;

		if (((in->code == (BPF_JMP | BPF_CALL) && in->src_reg == BPF_PSEUDO_CALL) ||
		     (wide && in->src_reg == BPF_PSEUDO_FUNC)) &&
		    to > 0 && to < p->n)
			starts[to] = 1;
		i += wide;
	}
	ret[0] = (struct bpf_func_info){ 0, (u32)types[FUNC_STATIC] };
	for (u32 i = 1; i < p->n && n < MAX_FUNCS; i++)
		if (starts[i])
			ret[n++] = (struct bpf_func_info){ i, (u32)types[p->funcs] };
	return n;
}
