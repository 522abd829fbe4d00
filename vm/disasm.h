/* SPDX-License-Identifier: MIT */
/* One instruction as text: for listings, for the log of a refusal, and as
 * comments beside machine code. */
#pragma once
#include "vm/program.h"

#define DISASM_LINE 160

/* Writes instruction AT of P as bpftool prints it, "(b7) r0 = 0", without index
 * and newline. MAPS may be NULL: then maps are shown by their index. Returns
 * how many slots the instruction takes (2 for ld_imm64). */
u32 disasm_insn(const struct vm_prog *p, u32 at, const struct vm_map *maps, size_t nmaps,
		char ret[static DISASM_LINE]);
