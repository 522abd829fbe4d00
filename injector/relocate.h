/* SPDX-License-Identifier: MIT */
/*
 * Copies of instructions that do at another address what the original does at
 * its own. A copied call pushes the *original* return address, so that
 * unwinders, signal handlers and the callee see what they would have seen.
 */
#pragma once
#include "injector/emit.h"
#include "injector/insn.h"

/* Why the instruction IN (its bytes at BYTES) cannot be copied elsewhere, as
 * the end of a sentence ("a breakpoint instruction"), or NULL when it can. Says
 * nothing about reach: that depends on where the copy goes. */
const char *relocate_refusal(const u8 *bytes, const struct insn *in);

/* Emits the copy of IN, which was decoded at its run-time address and which
 * relocate_refusal() did not refuse. e->failed is EMIT_FAR when an operand or
 * target is out of reach of the copy. */
void relocate_insn(struct emit *e, const u8 *bytes, const struct insn *in);

#define RELOCATE_MAX 40 /* bytes that one copy may take */
