/* SPDX-License-Identifier: MIT */
/*
 * PERF_EVENT_ARRAY, as programs write it: a ring (ringbuf.c) for each CPU, so that
 * CPUs do not meet. The kernel's is an array of descriptors of rings that user space
 * has made and mapped; here they are part of the map, and all of them are there.
 * Freestanding.
 *
 *	slot_stride ──▶ │ ring of CPU 0: positions, data │ ring of CPU 1 … │
 *
 * A thread may be moved to another CPU at any moment, so which ring it writes is only
 * where it was: rings take any number of writers. Where there was no room is counted
 * in the ring; its reader makes the lost-sample record of it (events_host.c).
 */
#include <linux/bpf.h>

#include "perf_layout.h"

#define PERF_RING_SIZE (64u << 10)
#define PERF_PRESERVE_ELEMS (1u << 11) /* BPF_F_PRESERVE_ELEMS: what the kernel keeps when its owner goes */
#define PERF_FLAGS (BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | PERF_PRESERVE_ELEMS)

long perf_geometry(struct umap *m)
{
	if (m->key_size != 4 || m->value_size != 4 || m->map_flags & ~PERF_FLAGS)
		return -EINVAL;
	m->data_off = sizeof(struct ring_ctl);
	m->ring_mask = PERF_RING_SIZE - 1;
	m->slot_stride = m->data_off + PERF_RING_SIZE;
	m->size = m->slot_stride * m->ncpus;
	return 0;
}

void perf_format(const struct umap *m)
{
	for (u32 cpu = 0; cpu < m->ncpus; cpu++) {
		struct umap ring;

		perf_ring(m, cpu, &ring);
		ringbuf_format(&ring);
	}
}

long umap_perf_output(const struct umap *m, u32 cpu, const void *data, u64 size, u32 owner, bool *wake)
{
	struct umap ring;
	bool own_wake;
	long err;

	*wake = false;
	if (size > PERF_RING_SIZE - 16)
		return -E2BIG;
	perf_ring(m, cpu, &ring);
	err = umap_ring_output(&ring, data, size, UMAP_RB_NO_WAKEUP, owner, &own_wake);
	*wake = umap_ring_must_wake(m, 0);
	return err ? -ENOSPC : 0;
}
