/* SPDX-License-Identifier: MIT */
/* USER_RINGBUF as its one writer sees it. Host only; user_ring.c explains it. */
#include "ringbuf_layout.h"

static void put_header(const struct umap *m, u64 pos, u32 len)
{
	__atomic_store_n(ring_word(m, pos), len, __ATOMIC_RELAXED);
}

long umap_user_post(const struct umap *m, const void *data, u64 size)
{
	struct ring_ctl *ctl = ring_ctl(m);
	u64 pos = __atomic_load_n(&ctl->producer, __ATOMIC_RELAXED) & ~7ull, ring = m->ring_mask + 1;
	u64 used = pos - __atomic_load_n(&ctl->consumer, __ATOMIC_ACQUIRE), tail = 0;
	u64 step = ALIGN_UP(size + RING_HDR, 8ul);

	if (size > RING_LEN_MASK || step > ring)
		return -E2BIG;
	if (used > ring)
		return -EBUSY; /* scribbled */
	if (!ring_step_fits(m, pos, step))
		tail = ring - (pos & m->ring_mask);
	if (used + tail + step > ring)
		return -ENOSPC;
	if (tail)
		put_header(m, pos, (u32)(tail - RING_HDR) | RING_DISCARD);
	copy_in(ring_word(m, pos + tail) + 1, data, (u32)size);
	put_header(m, pos + tail, (u32)size);
	__atomic_store_n(&ctl->producer, pos + tail + step, __ATOMIC_RELEASE);
	return 0;
}

void user_ring_recover(const struct umap *m, u32 owner)
{
	u64 dead = (u64)owner + 1;

	__atomic_compare_exchange_n(&ring_ctl(m)->drainer, &dead, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
