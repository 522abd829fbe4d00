/* SPDX-License-Identifier: MIT */
/*
 * BPF to x86-64 machine code for a given address, in one go, no LLVM. The code
 * obeys the calling convention of a hook (base/target_abi.h):
 *
 *	u64 fn(u64 r1, u64 r2, struct hook_frame *frame);
 *
 * Register mapping: r0 rax, r1 rdi, r2 rsi, r3 rdx, r4 rcx, r5 r8, r6 rbx,
 * r7 r13, r8 r14, r9 r15, fp rbp; r12 holds frame where the program needs it;
 * r9, r10, r11 are scratch. Helpers are called as C functions of six arguments,
 * the last (r9) being the frame.
 */
#pragma once
#include "vm/program.h"

/* Numbers beside those of helpers, for functions that compiled code calls on its
 * own behalf (runtime_helper, runtime_helper_off, jit_input.helper_addr). */
#define VM_RT_FIRST 0x10000u
#define VM_RT_CLAIM 0x10000u   /* u64 slot(…, frame): claim a per-CPU slot into frame->slot */
#define VM_RT_RELEASE 0x10001u /* give frame->slot back */
#define VM_RT_HASH_LOOKUP_4 0x10002u /* map_lookup_elem in a HASH with keys of 4 bytes; need not be there */
#define VM_RT_HASH_LOOKUP_8 0x10003u /* … of 8 bytes */
#define VM_RT_PERCPU_LOOKUP_4 0x10004u /* the same in a PERCPU_HASH */
#define VM_RT_PERCPU_LOOKUP_8 0x10005u
#define VM_RT_SIGNAL 0x10006u /* sends frame->signal: at the end of a run that may have set it */

struct jit_map {
	const struct umap *map; /* geometry, with base as the *target* has it */
	addr_t desc_addr;       /* where a copy of *map lies in the target: what ld_imm64 of the map yields */
};

struct jit_input {
	const struct vm_prog *prog; /* checked */
	const struct jit_map *maps;
	size_t nmaps;
	addr_t code_addr;           /* where the code will run */
	/* Address of helper ID in the target; 0 is not called (check refused it). */
	addr_t (*helper_addr)(u32 id, void *arg);
	void *arg;
	u32 flags;                  /* enum jit_flags */
};

enum jit_flags {
	JIT_NO_BMI2 = 1, /* as on a CPU without it; for tests */
};

struct jit_output {
	u8 *code;          /* malloc'd */
	size_t size;
	addr_t entry;      /* = code_addr */
	addr_t tail_entry; /* where a tail call enters */
	bool uses_frame;   /* else the third argument may be anything */
	u32 clobbers;      /* TARGET_REG_BIT mask of caller-saved registers that it changes (ax … r11) */
	u32 *insn_off;     /* offset of each BPF instruction's code; for dump jited and profilers; malloc'd */
};

/* Compiles. The size does not depend on code_addr as long as helpers stay
 * within ±2 GiB or stay without: compile once at 0 to learn it. */
struct uerr *jit_compile(const struct jit_input *in, struct jit_output *ret) UERR_MUST_CHECK;
void jit_output_deinit(struct jit_output *out);

/* The upper bound of the code's size in bytes, without compiling. */
size_t jit_size_bound(const struct vm_prog *prog);

/* The listing of CODE at ADDR, with BPF instructions as comments; malloc'd. */
char *disasm_jited(const struct vm_prog *prog, const struct jit_output *out, addr_t addr);
