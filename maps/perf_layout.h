/* SPDX-License-Identifier: MIT */
/* Where the rings of a PERF_EVENT_ARRAY are, for its writers (perf.c) and its reader
 * (events_host.c). */
#pragma once
#include "ringbuf_layout.h"

/* The ring of CPU, which is below m->ncpus, as the functions of RINGBUF want it. */
static inline void perf_ring(const struct umap *m, u32 cpu, struct umap *ret)
{
	ret->base = m->base + cpu * m->slot_stride;
	ret->data_off = m->data_off;
	ret->ring_mask = m->ring_mask;
}
