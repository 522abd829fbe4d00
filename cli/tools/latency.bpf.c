// SPDX-License-Identifier: MIT
/*
 * bpfctl latency: the time from a function's entry to its return, as a
 * histogram for each place (the attach cookie numbers them; entry and return of
 * a function have the same).
 *
 * Pairing. At the entry the stack pointer points at the return address; at the
 * `ret` it does so again. So {thread, stack pointer, place} names the frame, and
 * recursion, nesting and coroutines pair exactly, in any order.
 *
 * Open frames wait in sets of 4, two sets for each key, found by a hash. An
 * entry is taken by compare-and-swap of its owner word {tid, place + 1} from 0.
 * From then on only that thread touches it, and signal handlers on top of it:
 * `sp` stays 0 until the owner wrote it and is 0 again before the entry is free,
 * so a handler never mistakes a half-made entry for its own. A frame that was
 * left by longjmp or an exception keeps its entry until the same frame opens
 * again; a set that is full is counted, never silently skipped.
 *
 * The clock is read last at the entry and first at the return.
 */
#include <linux/bpf.h>
#define __x86_64__
#include <asm/ptrace.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "latency.h"

#define WAYS 4
#define NSETS 8192 /* a power of two */
#define RAISE_TRIES 16

struct frame {
	volatile __u64 owner; /* tid << 32 | place + 1; 0: free */
	volatile __u64 sp;
	volatile __u64 start;
	__u64 pad;
};

struct frame_set {
	struct frame way[WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NSETS);
	__type(key, __u32);
	__type(value, struct frame_set);
} frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* the cli sets it to the number of places */
	__type(key, __u32);
	__type(value, struct latency_sums);
} sums SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* likewise */
	__type(key, __u32);
	__type(value, struct latency_extremes);
} extremes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LATENCY_NEVENTS);
	__type(key, __u32);
	__type(value, __u64);
} events SEC(".maps");

static __always_inline void event(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&events, &which);

	if (n)
		(*n)++;
}

/* The first of a key's two sets; the second is its neighbour. */
static __always_inline __u32 frame_set_of(__u64 owner, __u64 sp)
{
	__u64 h = (owner ^ (sp >> 3)) * 0x9e3779b97f4a7c15ull;

	return h >> 51; /* 13 bits: NSETS */
}

static __always_inline struct frame *frame_find(struct frame_set *set, __u64 owner, __u64 sp)
{
	struct frame *f = set->way;

#pragma unroll
	for (int i = 0; i < WAYS; i++, f++)
		if (f->owner == owner && f->sp == sp)
			return f;
	return NULL;
}

static __always_inline struct frame *frame_claim(struct frame_set *set, __u64 owner)
{
	struct frame *f = set->way;

#pragma unroll
	for (int i = 0; i < WAYS; i++, f++)
		if (!f->owner && __sync_val_compare_and_swap(&f->owner, 0, owner) == 0)
			return f;
	return NULL;
}

static __always_inline struct frame *frame_open(__u32 key, __u64 owner, __u64 sp)
{
	struct frame_set *set = bpf_map_lookup_elem(&frames, &key);
	struct frame *f;

	if (!set)
		return NULL;
	f = frame_find(set, owner, sp);
	return f ? f : frame_claim(set, owner);
}

SEC("uprobe")
int latency_entry(struct pt_regs *ctx)
{
	__u32 place = bpf_get_attach_cookie(ctx);
	__u64 owner = (__u64)(__u32)bpf_get_current_pid_tgid() << 32 | (place + 1);
	__u64 sp = ctx->rsp;
	__u32 key = frame_set_of(owner, sp);
	struct frame *f = frame_open(key, owner, sp);

	if (!f)
		f = frame_open(key ^ 1, owner, sp);
	if (!f) {
		event(LATENCY_NO_ROOM);
		return 0;
	}
	f->sp = sp;
	f->start = bpf_ktime_get_ns();
	return 0;
}

static __always_inline struct frame *frame_lookup(__u32 key, __u64 owner, __u64 sp)
{
	struct frame_set *set = bpf_map_lookup_elem(&frames, &key);

	return set ? frame_find(set, owner, sp) : NULL;
}

/* floor(log2(v)), v > 0 */
static __always_inline __u32 log2_floor(__u64 v)
{
	__u32 r = 0;

	if (v >> 32) {
		v >>= 32;
		r += 32;
	}
	if (v >> 16) {
		v >>= 16;
		r += 16;
	}
	if (v >> 8) {
		v >>= 8;
		r += 8;
	}
	if (v >> 4) {
		v >>= 4;
		r += 4;
	}
	if (v >> 2) {
		v >>= 2;
		r += 2;
	}
	return r + (v >> 1);
}

static __always_inline __u32 hist_index(__u64 ns)
{
	__u32 power;

	if (ns < HIST_SUB)
		return ns;
	power = log2_floor(ns);
	if (power >= HIST_POWERS)
		return HIST_BUCKETS - 1;
	return (power - HIST_SUB_BITS + 1) * HIST_SUB + ((ns >> (power - HIST_SUB_BITS)) & (HIST_SUB - 1));
}

static __always_inline void raise_to(__u64 *word, __u64 v)
{
	__u64 seen = *(volatile __u64 *)word;

	for (int i = 0; i < RAISE_TRIES && seen < v; i++) {
		__u64 was = __sync_val_compare_and_swap(word, seen, v);

		if (was == seen)
			return;
		seen = was;
	}
}

static __always_inline void record(__u32 place, __u64 ns)
{
	struct latency_sums *s = bpf_map_lookup_elem(&sums, &place);
	struct latency_extremes *e = bpf_map_lookup_elem(&extremes, &place);
	__u32 i = hist_index(ns);

	if (!s || !e || i >= HIST_BUCKETS)
		return;
	s->bucket[i]++;
	s->total += ns;
	raise_to(&e->max, ns);
	raise_to(&e->not_min, ~ns);
}

SEC("uretprobe")
int latency_exit(struct pt_regs *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 place = bpf_get_attach_cookie(ctx);
	__u64 owner = (__u64)(__u32)bpf_get_current_pid_tgid() << 32 | (place + 1);
	__u64 sp = ctx->rsp;
	__u32 key = frame_set_of(owner, sp);
	struct frame *f = frame_lookup(key, owner, sp);
	__u64 start;

	if (!f)
		f = frame_lookup(key ^ 1, owner, sp);
	if (!f) {
		event(LATENCY_UNPAIRED);
		return 0;
	}
	start = f->start;
	f->sp = 0;
	f->owner = 0;
	record(place, now > start ? now - start : 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
