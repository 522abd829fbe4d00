/* SPDX-License-Identifier: MIT */
/*
 * The helpers that write records for a reader outside: shells over maps/ringbuf.c,
 * which wake the reader when it sleeps.
 */
#include <asm/unistd.h>

#include "vm/runtime/rt.h"

#define FUTEX_WAKE_NR 1 /* linux/futex.h; not private: the reader is another process */

/* The record's ring: one of the program's object. */
static const struct umap *ring_of(const struct hook_frame *frame, u64 record)
{
	const struct umap *m = (const struct umap *)rt_site(frame)->rings;

	while (m && !umap_ring_holds(m, record))
		m = (const struct umap *)m->next_ring;
	return m;
}

static void ring_wake(const struct hook_frame *frame, const struct umap *m, bool wake)
{
	if (__builtin_expect(wake, 0))
		rt_call(rt_env(frame), TARGET_CALL_WAKE, __NR_futex, (u64)umap_ring_waiters(m), FUTEX_WAKE_NR, 1, 0, 0, 0);
}

void rt_ring_commit(const struct hook_frame *frame, u64 record, u64 flags, bool discard)
{
	const struct umap *m = ring_of(frame, record);

	if (m)
		ring_wake(frame, m, umap_ring_commit(m, (void *)record, flags, discard));
}

static u32 frame_owner(const struct hook_frame *frame)
{
	return rt_owner(rt_env(frame), rt_rec(frame));
}

void *rt_ring_reserve(const struct hook_frame *frame, const struct umap *m, u64 size, u64 flags)
{
	void *rec = umap_ring_reserve(m, size, flags, frame_owner(frame));

	if (!rec)
		ring_wake(frame, m, umap_ring_must_wake(m, 0));
	return rec;
}

RT_HELPER(ringbuf_reserve)
{
	return (u64)rt_ring_reserve(frame, (const struct umap *)r1, r2, r3);
}

RT_HELPER(ringbuf_submit)
{
	rt_ring_commit(frame, r1, r2, false);
	return 0;
}

RT_HELPER(ringbuf_discard)
{
	rt_ring_commit(frame, r1, r2, true);
	return 0;
}

RT_HELPER(ringbuf_output)
{
	const struct umap *m = (const struct umap *)r1;
	bool wake;
	long err = umap_ring_output(m, (const void *)r2, r3, r4, frame_owner(frame), &wake);

	ring_wake(frame, m, wake);
	return (u64)err;
}

RT_HELPER(ringbuf_query)
{
	return umap_ring_query((const struct umap *)r1, r2);
}

/* The ring of the CPU that we are on. Its index may be said, but it cannot be another's. */
RT_HELPER(perf_event_output)
{
	const struct umap *m = (const struct umap *)r2;
	u32 index = (u32)r3, cpu = rt_cpu(rt_env(frame));
	bool wake;
	long err;

	if (r3 >> 32)
		return (u64)-EINVAL;
	if (index == ~0u) /* BPF_F_CURRENT_CPU */
		index = cpu;
	if (index >= m->max_entries)
		return (u64)-E2BIG;
	if (index >= m->ncpus)
		return (u64)-ENOENT;
	if (index != cpu)
		return (u64)-EOPNOTSUPP;
	err = umap_perf_output(m, cpu, (const void *)r4, r5, frame_owner(frame), &wake);
	ring_wake(frame, m, wake);
	return (u64)err;
}
