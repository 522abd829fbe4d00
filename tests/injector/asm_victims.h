/* SPDX-License-Identifier: MIT */
/* Functions of every shape, with what a plan must say about them. */
#pragma once
#include "base/code_image.h"
#include "injector/plan.h"

struct asm_victim {
	const char *name;
	const u8 *code;
	const u8 *end;
	u32 flags;                 /* code_func_flags */
	enum site_tactic entry;
	const char *entry_reason;
	enum site_tactic exit;
	const char *exit_reason;
	const char *exit_note;
	u32 nrets;
	u8 punned;                 /* bytes of its first instructions that a punned jump replaces */
	u32 entries;               /* hits of the entry for one call; 0: is not called by tests */
	u32 exits;
	u32 inside;                /* at least so many instructions behind the first can be probed */
	bool syscalls;             /* rcx tells where the syscall instruction stood */
};

extern const struct asm_victim asm_victims[];
extern const size_t nasm_victims;

const struct asm_victim *asm_victim_find(const char *name);

/* The victims' text as it was linked (a copy, so that patching does not change
 * it), their addresses being those of this process. */
const struct code_image *asm_victims_image(void);
