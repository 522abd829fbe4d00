/* SPDX-License-Identifier: MIT */
/*
 * USER_RINGBUF, as programs read it: records from outside for a program that asks.
 * The other way round than RINGBUF: one writer, the daemon (user_ring_host.c), and any
 * number of threads in targets that read, one after another. Freestanding.
 *
 *	page 0   consumer position │ drainer        written by whoever reads
 *	page 1   producer position                  written by the daemon
 *	data     │hdr│ record │hdr│ record │ …      hdr: {DISCARD │ length, 0}
 *
 * Who reads says so in `drainer`; others are told that it is busy, and nobody waits. A
 * record is given back once the program has seen it: when the reader dies before
 * that, the daemon frees `drainer`, and the next reader gets the record again.
 */
#include <linux/bpf.h>

#include "ringbuf_layout.h"

long user_ring_geometry(struct umap *m)
{
	return ringbuf_geometry(m);
}

bool umap_user_begin(const struct umap *m, u32 owner)
{
	u64 none = 0;

	return __atomic_compare_exchange_n(&ring_ctl(m)->drainer, &none, (u64)owner + 1, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

void umap_user_end(const struct umap *m)
{
	__atomic_store_n(&ring_ctl(m)->drainer, 0, __ATOMIC_RELEASE);
}

/* Everything here may be scribbled: what is bounded is used, read once. */
long umap_user_peek(const struct umap *m, struct umap_user_record *ret)
{
	struct ring_ctl *ctl = ring_ctl(m);
	u64 pos = __atomic_load_n(&ctl->consumer, __ATOMIC_RELAXED);
	u64 there = __atomic_load_n(&ctl->producer, __ATOMIC_ACQUIRE) - pos, header, step;

	if (pos % 8 || there % 8 || there > m->ring_mask + 1)
		return -EINVAL;
	if (!there)
		return -ENODATA;
	header = __atomic_load_n(ring_word(m, pos), __ATOMIC_ACQUIRE);
	step = ring_step(header);
	if (step > there || !ring_step_fits(m, pos, step))
		return -EINVAL;
	if ((u32)header & RING_BUSY)
		return -ENODATA;
	ret->data = ring_word(m, pos) + 1;
	ret->size = HEADER_LEN(header);
	ret->next = pos + step;
	if (!((u32)header & RING_DISCARD))
		return 0;
	umap_user_release(m, ret);
	return -EAGAIN;
}

void umap_user_release(const struct umap *m, const struct umap_user_record *r)
{
	__atomic_store_n(&ring_ctl(m)->consumer, r->next, __ATOMIC_RELEASE);
}
