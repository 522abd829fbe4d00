/* SPDX-License-Identifier: MIT */
/* CO-RE: instructions that depend on the layout of a type are adapted to that
 * type as the target BTF has it. */
#pragma once
#include "vm/btf_index.h"
#include "vm/program.h"

/* A record of .BTF.ext */
struct core_relo {
	u32 insn_off, type_id, access_str_off, kind;
};

/* What the relocation of a field or type that is not there leaves behind: a
 * call of this helper, which check.c refuses where it can be reached (and
 * replaces where it cannot). */
#define CORE_POISON 195896080

/* Adapts instruction AT of P. UERR_FAILED when the record makes no sense. */
struct uerr *core_relocate(const struct btf_index *local, const struct btf_index *target,
			   const struct core_relo *relo, struct vm_prog *p, u32 at) UERR_MUST_CHECK;
