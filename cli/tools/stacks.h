/* SPDX-License-Identifier: MIT */
/* What stacks.bpf.c and the cli must agree on. */
#pragma once

#define STACKS_MAX 65536 /* a power of two: stacks, and places they lead to */
#define STACKS_MORE_MAX 16384 /* … of those whose id another one had */
#define STACKS_DEPTH 127
#define STACKS_MORE (1 << 30) /* in an id: of the map `more` */

struct stacks_key {
	unsigned int place; /* the attach cookie */
	int id;             /* of the stack; negative: it could not be kept */
};
