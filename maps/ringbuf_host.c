/* SPDX-License-Identifier: MIT */
/*
 * RINGBUF as its reader sees it. Host only. Everything in the ring can be wrong:
 * targets write it. The reader's own position is private, lengths are bounded, a
 * record is copied before anybody looks at it, and where something cannot be, the
 * reader starts anew where writers are. ringbuf.c explains the protocol.
 */
#include <stdlib.h>

#include "base/cleanup.h"
#include "ringbuf_layout.h"

struct uerr *umap_ring_reader_init(struct umap_ring_reader *r, const struct umap *m)
{
	u64 pos = __atomic_load_n(&ring_ctl(m)->consumer, __ATOMIC_RELAXED) & ~7ull;

	*r = (struct umap_ring_reader){ .m = m, .pos = pos, .copy = malloc(m->ring_mask + 1) };
	return r->copy ? NULL : uerr_nomem();
}

void umap_ring_reader_deinit(struct umap_ring_reader *r)
{
	free(r->copy);
	*r = (struct umap_ring_reader){};
}

static void give_back(struct umap_ring_reader *r, u64 step)
{
	ring_blank_range(r->m, r->pos + r->m->ring_mask + 1, step);
	r->pos += step;
	__atomic_store_n(&ring_ctl(r->m)->consumer, r->pos, __ATOMIC_RELEASE);
}

static void start_anew(struct umap_ring_reader *r, u64 producer)
{
	struct ring_ctl *ctl = ring_ctl(r->m);
	u64 at = ALIGN_UP(producer, 8ul);

	r->spoilt++;
	ring_blank_range(r->m, at, r->m->ring_mask + 1);
	r->pos = at;
	__atomic_store_n(&ctl->consumer, at, __ATOMIC_RELEASE);
	if (at != producer)
		__atomic_compare_exchange_n(&ctl->producer, &producer, at, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* The header at the reader's position; false: there is none yet. */
static bool header(struct umap_ring_reader *r, u64 *ret)
{
	const struct umap *m = r->m;
	u64 producer = __atomic_load_n(&ring_ctl(m)->producer, __ATOMIC_ACQUIRE), h;

	if (producer - r->pos > m->ring_mask + 1 || producer % 8) {
		start_anew(r, producer);
		return false;
	}
	h = __atomic_load_n(ring_word(m, r->pos), __ATOMIC_ACQUIRE);
	if (!(h & RING_OWNED) && producer == r->pos)
		return false;
	if (!(h & RING_OWNED) || !ring_step_fits(m, r->pos, ring_step(h))) {
		start_anew(r, producer);
		return false;
	}
	if (producer == r->pos) /* its owner has got no further */
		ring_advance(m, r->pos, ring_step(h));
	*ret = h;
	return true;
}

bool umap_ring_next(struct umap_ring_reader *r, const void **record, u32 *size)
{
	u64 h, end = r->pos + r->m->ring_mask + 1;

	/* a lap at most: who discards may be as fast as we are */
	while ((s64)(end - r->pos) > 0 && header(r, &h) && !((u32)h & RING_BUSY)) {
		bool show = !((u32)h & RING_DISCARD);
		u32 len = HEADER_LEN(h);

		if (show)
			copy_out(r->copy, ring_word(r->m, r->pos) + 1, len);
		give_back(r, ring_step(h));
		if (!show)
			continue;
		*record = r->copy;
		*size = len;
		return true;
	}
	return false;
}

bool umap_ring_ready(struct umap_ring_reader *r)
{
	u64 h;

	return header(r, &h) && !((u32)h & RING_BUSY);
}

bool umap_ring_sleep(struct umap_ring_reader *r)
{
	__atomic_store_n(umap_ring_waiters(r->m), 1, __ATOMIC_SEQ_CST);
	return umap_ring_ready(r);
}

bool umap_ring_busy(const struct umap_ring_reader *r, u32 *owner, u32 *size)
{
	u64 h = __atomic_load_n(ring_word(r->m, r->pos), __ATOMIC_ACQUIRE);

	*owner = HEADER_OWNER(h);
	*size = HEADER_LEN(h);
	return h & RING_OWNED && (u32)h & RING_BUSY;
}

u64 umap_ring_dropped(const struct umap *m)
{
	return __atomic_load_n(&ring_ctl(m)->dropped, __ATOMIC_RELAXED);
}

u64 umap_ring_retired(const struct umap *m)
{
	return __atomic_load_n(&ring_ctl(m)->retired, __ATOMIC_RELAXED);
}

/* A dead owner's record at POS, if it is one. */
static void retire(const struct umap *m, u64 pos, u64 h, u32 owner)
{
	if (!((u32)h & RING_BUSY) || HEADER_OWNER(h) != (owner & 0xffffff))
		return;
	if (__atomic_compare_exchange_n(ring_word(m, pos), &h, (h & ~(u64)RING_BUSY) | RING_DISCARD, false,
					__ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		__atomic_fetch_add(&ring_ctl(m)->retired, 1, __ATOMIC_RELAXED);
}

/* From record to record, the one whose owner did not come to move the producer
 * included. Who died outside of programs has left nothing. Runs where the reader
 * runs: nothing is blanked meanwhile. */
void ringbuf_recover(const struct umap *m, const struct thread_rec *rec, u32 owner)
{
	u64 pos = __atomic_load_n(&ring_ctl(m)->consumer, __ATOMIC_ACQUIRE) & ~7ull;

	if (__atomic_load_n(&rec->entries, __ATOMIC_RELAXED) == __atomic_load_n(&rec->leaves, __ATOMIC_RELAXED))
		return;
	for (u64 done = 0; done <= m->ring_mask;) {
		u64 h = __atomic_load_n(ring_word(m, pos), __ATOMIC_ACQUIRE), step = ring_step(h);

		if (!(h & RING_OWNED) || !ring_step_fits(m, pos, step))
			return;
		retire(m, pos, h, owner);
		ring_advance(m, pos, step);
		pos += step;
		done += step;
	}
}
