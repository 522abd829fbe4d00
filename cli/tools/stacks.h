/* SPDX-License-Identifier: MIT */
/* What stacks.bpf.c and the cli must agree on. */
#pragma once

#define STACKS_MAX 65536 /* a power of two: stacks, and places they lead to */
#define STACKS_DEPTH 127

struct stacks_key {
	unsigned int place; /* the attach cookie */
	int id;             /* of the stack; negative: it could not be kept */
};
