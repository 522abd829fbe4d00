/* SPDX-License-Identifier: MIT */
/* Stacks with names, as StackNames gives them, and the ways in which they are shown. */
#pragma once
#include <cjson/cJSON.h>
#include <stdio.h>

#include "base/types.h"
#include "base/uerr.h"
#include "base/vec.h"

struct stacks {
	cJSON *reply;
	VEC(const cJSON *) by_id; /* type Stack */
	VEC(const cJSON *) frames;
};

/* REPLY is taken over, also on failure. Deinit in any case. */
struct uerr *stacks_init(struct stacks *s, cJSON *reply) UERR_MUST_CHECK;
void stacks_deinit(struct stacks *s);

/* The stack ID, or NULL. */
const cJSON *stacks_find(const struct stacks *s, u32 id);

/* A line for each function of the stack, inlined ones too, behind INDENT: from the
 * frame FIRST on, innermost first. With ADDRESSES these are in front. */
void stack_print(FILE *out, const struct stacks *s, const cJSON *stack, int first, const char *indent, bool addresses);
/* NAME without what parts frames and counts there, in place. */
char *stack_folded_name(char *name);
/* "main;run;compare", outermost first, as flame graphs want it. */
void stack_print_folded(FILE *out, const struct stacks *s, const cJSON *stack);
/* An object for each function. */
cJSON *stack_json(const struct stacks *s, const cJSON *stack);
