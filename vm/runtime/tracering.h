/* SPDX-License-Identifier: MIT */
/*
 * The ring behind trace_printk: many writers in a target, one reader in the
 * daemon, in shared memory that the target can write (so the reader believes
 * nothing). Nobody waits: a writer takes a ticket by an atomic add and owns slot
 * ticket mod TRACE_SLOTS until a writer one lap later takes it over.
 *
 *	head ──▶ ticket of the next line
 *	slot.seq   2 * ticket + 1   being written
 *	           2 * ticket + 2   complete
 *	slot.sum   of all other words: tells a slot that two writers a lap apart
 *	           have mixed
 *
 * A line whose slot holds a greater seq was overwritten. One whose slot holds a
 * smaller or odd seq is unfinished: its writer is between two instructions, or
 * dead. The reader passes over it once a later line has been complete for
 * TRACE_GRACE_NS, or half a lap has gone by.
 */
#pragma once
#include "base/types.h"

#define TRACE_SLOTS 256u
#define TRACE_TEXT 200u
#define TRACE_GRACE_NS 100000000ull

struct trace_slot {
	u64 seq;
	u64 sum;
	u64 ts_ns;
	u32 pid, tid;
	u32 cpu, len; /* bytes of text */
	char comm[16];
	char text[TRACE_TEXT];
};
_Static_assert(sizeof(struct trace_slot) == 256, "shared layout");

struct trace_ring {
	u64 magic; /* TRACE_RING_MAGIC */
	u64 head;
	u64 pad[30];
	struct trace_slot slot[TRACE_SLOTS];
};
_Static_assert(sizeof(struct trace_ring) == 256 * (TRACE_SLOTS + 1), "shared layout");
#define TRACE_RING_MAGIC 0x31676e6972636172ull

/* Over what follows `sum` in the slot. */
static inline u64 trace_slot_sum(const struct trace_slot *s, u64 ticket)
{
	const u64 *w = &s->ts_ns;
	u64 sum = ticket * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < (sizeof(*s) - offsetof(struct trace_slot, ts_ns)) / 8; i++)
		sum = (sum ^ w[i]) * 0x100000001b3ull;
	return sum;
}
