/* SPDX-License-Identifier: MIT */
/*
 * A BPF program as the parts of vm hand it to each other: made by object.c,
 * judged by check.c, run by interp.c, compiled by jit.c, printed by disasm.c.
 */
#pragma once
#include <linux/bpf.h>

#include "base/target_abi.h"
#include "base/types.h"
#include "base/uerr.h"
#include "maps/umap.h"

struct btf_index;

/* linux/bpf.h of Debian 12 lacks what came with v4 */
#ifndef BPF_MEMSX
#define BPF_MEMSX 0x80
#endif

/* A map as a program refers to it. Map references in instructions are
 * BPF_PSEUDO_MAP_IDX (src_reg 5, imm = index here) and BPF_PSEUDO_MAP_IDX_VALUE
 * (src_reg 6, next imm = offset into the value of entry 0). */
struct vm_map {
	const struct umap *map;      /* geometry and id; base is where this process sees it */
	/* for the verifier; all may be missing */
	const struct btf_index *btf; /* in which the types are: where a value has its bpf_spin_lock */
	u32 key_type, value_type;
	const void *frozen;          /* contents of .rodata, value_size bytes: what they say is known */
};

/* What verify_program() found out, for the trampoline and the JIT. After
 * check_program() alone it is the worst that can be. */
struct vm_prog_info {
	u32 ctx_fields;     /* TARGET_REG_BIT mask of ctx fields that it may read, itself: not by tail calls */
	u32 ctx_end;        /* one past the highest byte of ctx that it may access; 0: none */
	u32 stack_depth;    /* bytes, over the deepest call chain */
	u32 nsubprogs;      /* including the main one */
	bool uses_percpu;   /* needs a claimed slot */
	bool uses_helpers;  /* calls any helper that is not inlined */
	bool leaf_pure;     /* cannot write any memory but its stack */
	bool writes_memory; /* may write the target's own memory (not: stack, maps) */
	bool can_sleep;     /* calls a helper that may sleep */
	bool reads_unset_stack; /* may read stack that its function never wrote: that must be zeros */
	u64 helpers[4];     /* bit set of helper ids */
};

/* One function of a program. */
struct vm_subprog {
	u32 start;    /* its first instruction */
	u32 stack;    /* bytes of stack that it uses at most: all accesses lie in [fp - stack, fp) */
	u32 type_id;  /* BTF_KIND_FUNC in the object's BTF, 0 unknown */
	bool global;  /* not static: verified on its own, from its prototype */
	char name[64];
};

enum insn_fact_flags {
	FACT_UNREACHED = 1,    /* no path leads here */
	FACT_DEAD_STORE = 2,   /* the stack bytes it writes are never read */
	FACT_SIZE = 4,         /* size holds */
	FACT_ON_STACK = 8,     /* mem_off holds */
	FACT_KEY_ON_STACK = 16 /* key_off holds */
};

/* What the verifier proved about one instruction, on every path. */
struct insn_fact {
	u8 flags;    /* enum insn_fact_flags */
	u16 map;     /* helper call: 1 + index of the map in r1, or 0 */
	u32 size;    /* helper call: its (first) size argument, constant */
	s16 mem_off; /* helper call: where its (first) memory argument (probe_read's destination …) lies, from fp */
	s16 key_off; /* helper call: where a map key lies, from fp */
};

struct vm_env; /* vm/env.h */

struct vm_prog {
	char name[64];          /* as BPF names it: function name */
	char section[128];      /* "uprobe/libc:malloc" */
	struct bpf_insn *insns; /* relocated; subprograms appended */
	u32 ninsns;
	u32 *lines;             /* source line of each instruction, 0 unknown; or NULL */
	const char *file;       /* source file of `lines`, or NULL */
	const char **texts;     /* source text of each instruction's line, NULL unknown; or NULL. The strings
	                         * belong to the object's BTF. */
	struct vm_prog_info info;
	const struct btf_index *btf; /* that subprogs' type_id are of, or NULL; belongs to the object */
	struct vm_subprog *subprogs; /* in order; from the loader as far as the object names them, from
	                              * verify_program() all; or NULL */
	u32 nsubprogs;
	struct insn_fact *facts; /* for each instruction, by verify_program(); or NULL */
	bool checked;           /* check_program() or verify_program() accepted it */
	const struct vm_env *env; /* an embedder's ctx and helpers, or NULL: struct pt_regs and helpers.def */
};

/* Whether P calls helper ID, as far as check_program() or verify_program() saw. */
static inline bool vm_prog_calls(const struct vm_prog *p, u32 id)
{
	return id < 256 && p->info.helpers[id / 64] >> id % 64 & 1;
}

/* Whether a run of P may leave a signal to be sent at its end. */
static inline bool vm_prog_signals(const struct vm_prog *p)
{
	return vm_prog_calls(p, BPF_FUNC_send_signal) || vm_prog_calls(p, BPF_FUNC_send_signal_thread);
}

/* Helpers: vm/helpers.def lists them once, with their prototypes. */
const char *vm_helper_name(u32 id); /* "bpf_ktime_get_ns", or NULL: not there */
bool vm_helper_known(u32 id);       /* implemented in the runtime, may be called */

/* Judges a program by its shape alone: known opcodes, reserved fields zero, jumps
 * inside, no run past an end, known helpers, no recursion. What it accepts can be
 * compiled, but may not run on anybody's memory: that takes verify_program()
 * (vm/verify.h), which begins with this. Fills P->info with the worst case, and
 * P->checked. UERR_REJECTED names instruction, source line, rule, and what to
 * try. */
struct uerr *check_program(struct vm_prog *p, const struct vm_map *maps, size_t nmaps) UERR_MUST_CHECK;

/* Runs P in this process with r1, r2 as given. MEM may be NULL. FRAME may be
 * NULL when the program calls no helper that needs one (then it gets a private
 * one). Bounded by MAX_INSNS executed instructions (0: no bound). Accesses are
 * not checked here: only checked programs, or trusted tests, may run.
 * 0, or -ELOOP (bound), -EINVAL (an instruction that cannot be executed), -ENOMEM. */
long interp_run(const struct vm_prog *p, const struct vm_map *maps, size_t nmaps, u64 r1, u64 r2,
		struct hook_frame *frame, u64 max_insns, u64 *r0);

/* The xlated listing, one instruction a line as bpftool prints it
 * ("   0: (b7) r0 = 0"). malloc'd; NULL when out of memory. */
char *disasm_xlated(const struct vm_prog *p, const struct vm_map *maps, size_t nmaps);
