/* SPDX-License-Identifier: MIT */
/*
 * The maps that all programs share, and the tables, one file per theme. A row
 * is a pair of programs, one accepted and one rejected, that differ in the one
 * instruction at X; or a program that has no such partner. How to add one: a
 * row in the table of its theme; `verdict -k` says what the kernel thinks of it.
 */
#include <string.h>

#include "tests/vm/verdict/verdict.h"

const struct geometry map_geometry[NMAPS] = {
	[M_HASH] = { "hash", BPF_MAP_TYPE_HASH, 8, 16, 16, 0 },
	[M_ARRAY] = { "array", BPF_MAP_TYPE_ARRAY, 4, 64, 4, 0 },
	[M_COUNT] = { "count", BPF_MAP_TYPE_ARRAY, 4, 8, 1, 0 },
	[M_BSS] = { "bss", BPF_MAP_TYPE_ARRAY, 4, 256, 1, BPF_F_MMAPABLE },
	[M_RODATA] = { "rodata", BPF_MAP_TYPE_ARRAY, 4, 16, 1, BPF_F_RDONLY_PROG },
	[M_WRONLY] = { "wronly", BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_WRONLY_PROG },
	[M_PERCPU] = { "percpu", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 16, 4, 0 },
	[M_PERCPU_HASH] = { "percpu_hash", BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 16, 0 },
	[M_LRU] = { "lru", BPF_MAP_TYPE_LRU_HASH, 4, 8, 16, 0 },
	[M_RINGBUF] = { "ringbuf", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0 },
	[M_PROGS] = { "progs", BPF_MAP_TYPE_PROG_ARRAY, 4, 4, 4, 0 },
	[M_PERF] = { "perf", BPF_MAP_TYPE_PERF_EVENT_ARRAY, 4, 4, 4, 0 },
	[M_STACKS] = { "stacks", BPF_MAP_TYPE_STACK_TRACE, 4, 127 * 8, 16, 0 },
	[M_QUEUE] = { "queue", BPF_MAP_TYPE_QUEUE, 0, 8, 16, 0 },
	[M_OUTER] = { "outer", BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4, 2, 0 },
	[M_ODD] = { "odd", BPF_MAP_TYPE_ARRAY, 4, 13, 1, 0 },
	[M_RDONLY] = { "rdonly", BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_RDONLY_PROG },
	[M_FORMAT] = { "format", BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_RDONLY_PROG },
	[M_TASKS] = { "tasks", BPF_MAP_TYPE_TASK_STORAGE, 4, 16, 0, BPF_F_NO_PREALLOC },
	[M_LOCKED] = { "locked", BPF_MAP_TYPE_ARRAY, 4, 16, 1, 0 },
	[M_USER] = { "user", BPF_MAP_TYPE_USER_RINGBUF, 0, 0, 4096, 0 },
	[M_LOCKED_HASH] = { "locked_hash", BPF_MAP_TYPE_HASH, 4, 16, 4, 0 },
};

const u8 *map_contents(u32 map)
{
	static const u8 rodata_bytes[16] = { 5, 0, 0, 0, 0, 0, 0, 0, 100 }, format[8] = "n %d";

	return map == M_RODATA ? rodata_bytes : map == M_FORMAT ? format : NULL;
}

#define PAIR(name_, words_, good_, bad_, ...) \
	{ .name = name_, .words = words_, .good = { good_ }, .bad = { bad_ }, .insns = { __VA_ARGS__ } }
#define ACCEPT(name_, words_, ...) \
	{ .name = name_, .words = words_, .verdict = VERDICT_ACCEPT, .insns = { __VA_ARGS__ } }
#define REJECT(name_, words_, ...) \
	{ .name = name_, .words = words_, .verdict = VERDICT_REJECT, .insns = { __VA_ARGS__ } }
#define POLICY(name_, words_, ...) \
	{ .name = name_, .words = words_, .verdict = VERDICT_POLICY, .insns = { __VA_ARGS__ } }

/* What has no name of its own */
#define INSN(...) { __VA_ARGS__ }/* The kernel accepts, we do not */
#define STRICT(name_, why_, ...) \
	{ .name = name_, .words = "", .verdict = VERDICT_ACCEPT, .strict = why_, .insns = { __VA_ARGS__ } }
/* A pair whose accepted program we refuse as well */
#define STRICT_PAIR(name_, why_, words_, good_, bad_, ...) \
	{ .name = name_, .words = words_, .good = { good_ }, .bad = { bad_ }, .strict = why_, .insns = { __VA_ARGS__ } }
#define CHAIN "a chain of calls has 512 bytes of stack: no function has a private one"
#define AT_A_DISTANCE "what is found out about a copy plus a constant is not carried over"
#define FETCHED "what an atomic operation fetches is not known"
#define NO_SUCH_MAP "maps of maps are not there"
#define ENDS_HERE "a program that does not get a lock ends there, and nobody would give that back"
#define NO_SUCH_INSN "newer than -mcpu=v4"
#define ADDRESS_OPERAND "an address is no operand of an atomic operation"

/* What many programs consist of */
#define RETURN MOV_IMM(R0, 0), EXIT
#define ADD(d, i) ALU64_IMM(BPF_ADD, d, i)
#define ADDR(d, o) MOV_REG(d, FP), ADD(d, o)
#define KEY8 STORE_IMM(DW, FP, -8, 0), ADDR(R2, -8)
#define KEY4 STORE_IMM(W, FP, -4, 0), ADDR(R2, -4)
/* r0 = the value or NULL */
#define LOOKUP8(m) KEY8, LD_MAP(R1, m), CALL(BPF_FUNC_map_lookup_elem)
#define LOOKUP4(m) KEY4, LD_MAP(R1, m), CALL(BPF_FUNC_map_lookup_elem)
/* r0 = the value; leaves with 0 when there is none */
#define VALUE8(m) LOOKUP8(m), JUMP_IMM(BPF_JNE, R0, 0, 1), EXIT
#define VALUE4(m) LOOKUP4(m), JUMP_IMM(BPF_JNE, R0, 0, 1), EXIT
/* D = a number nobody knows */
#define UNKNOWN(d) CALL(BPF_FUNC_get_prandom_u32), MOV_REG(d, R0)
#define UNKNOWN64(d) CALL(BPF_FUNC_ktime_get_ns), MOV_REG(d, R0)

#include "tests/vm/verdict/alu.h"
#include "tests/vm/verdict/attacks.h"
#include "tests/vm/verdict/branches.h"
#include "tests/vm/verdict/callbacks.h"
#include "tests/vm/verdict/ctx.h"
#include "tests/vm/verdict/helpers.h"
#include "tests/vm/verdict/locks.h"
#include "tests/vm/verdict/map_value.h"
#include "tests/vm/verdict/maps.h"
#include "tests/vm/verdict/refs.h"
#include "tests/vm/verdict/scalars.h"
#include "tests/vm/verdict/tasks.h"
#include "tests/vm/verdict/stack.h"
#include "tests/vm/verdict/subprogs.h"
#include "tests/vm/verdict/flow.h" /* MAYBE of maps.h */

#define THEME(name) { #name, name, ARRAY_SIZE(name) }
const struct theme themes[] = {
	THEME(scalars),
	THEME(branches), THEME(branches32), THEME(stack), THEME(spill), THEME(var_off), THEME(ctx),
	THEME(map_value), THEME(rodata), THEME(maps), THEME(null), THEME(helpers), THEME(alu), THEME(v4),
	THEME(pointer_arith), THEME(atomics), THEME(flow), THEME(loops), THEME(pruning), THEME(subprogs),
	THEME(depth), THEME(globals), THEME(callbacks), THEME(drain), THEME(ringbuf), THEME(dynptr), THEME(attacks), THEME(tasks), THEME(locks),
};
const size_t nthemes = ARRAY_SIZE(themes);

static bool insn_is_zero(const struct bpf_insn *in)
{
	return !memcmp(in, &(struct bpf_insn){ 0 }, sizeof(*in));
}

static u32 put(struct bpf_insn *to, u32 n, const struct bpf_insn *in)
{
	to[n++] = in[0];
	if (in[0].code == (BPF_LD | BPF_IMM | BPF_DW))
		to[n++] = in[1];
	return n;
}

void program_expand(const struct row *r, bool bad, struct program *ret)
{
	u32 len = ROW_MAX, n = 0;

	while (len && insn_is_zero(&r->insns[len - 1]))
		len--;
	for (u32 i = 0; i < len; i++) {
		if (r->insns[i].code == 0xf7 && !r->verdict)
			n = put(ret->insns, n, bad ? r->bad : r->good);
		else
			ret->insns[n++] = r->insns[i];
	}
	ret->n = n;
	ret->name = r->name;
	ret->words = r->words;
	ret->bad = bad;
	ret->funcs = r->funcs;
	ret->verdict = r->verdict ? r->verdict : bad ? VERDICT_REJECT : VERDICT_ACCEPT;
	ret->strict = bad ? NULL : r->strict;
}
