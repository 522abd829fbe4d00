/* SPDX-License-Identifier: MIT */
/*
 * RINGBUF, as programs write it. Freestanding.
 *
 * The kernel's writers hold a lock while they reserve; here it would die with its
 * owner. A reservation is one compare-and-swap instead, that of a blank word at
 * the producer's position for the record's header. Only then does the position move
 * on, by whoever comes first: the header says how far.
 *
 *	producer ─▶ blank          1. blank ─▶ header {BUSY, len, owner}: reserved
 *	                           2. producer += len, by its owner or by the next
 *	                           3. the record is written, BUSY is cleared
 *
 * So every record between the two positions has a header, which names its owner:
 * when that is dead, the daemon retires the record (ringbuf_host.c). There is
 * nothing to log before, and a thread that is stopped anywhere in here holds up
 * nobody but the reader.
 *
 * The reader blanks what it has read before it gives it back, with other blanks
 * than in the lap before. A word at the producer's position that is no header is
 * taken for a blank whatever it is, so that a ring that somebody scribbled over
 * goes on.
 */
#include <linux/bpf.h>

#include "ringbuf_layout.h"

#define RING_TRIES 1000u
#define RING_RECORD_MAX (RING_LEN_MASK - RING_HDR)
#define RING_MAX (1u << 30) /* so that the rest of a lap has a length that a header can say */

long ringbuf_geometry(struct umap *m)
{
	if (m->map_flags & ~BPF_F_NUMA_NODE || m->key_size || m->value_size)
		return -EINVAL;
	if (m->max_entries & (m->max_entries - 1) || m->max_entries % PAGE)
		return -EINVAL;
	if (m->max_entries > RING_MAX)
		return -E2BIG;
	m->data_off = sizeof(struct ring_ctl);
	m->ring_mask = m->max_entries - 1;
	m->size = m->data_off + m->max_entries;
	return 0;
}

void ringbuf_format(const struct umap *m)
{
	ring_blank_range(m, 0, m->ring_mask + 1);
}

u32 *umap_ring_waiters(const struct umap *m)
{
	return &ring_ctl(m)->waiters;
}

/* Where a record of STEP bytes can go, and what stands there; -EAGAIN: look again. */
static inline long ring_look(const struct umap *m, u64 *pos, u64 *word)
{
	struct ring_ctl *ctl = ring_ctl(m);
	u64 at = __atomic_load_n(&ctl->producer, __ATOMIC_ACQUIRE), w, step;

	if (at % 8)
		return -EBUSY; /* scribbled */
	w = __atomic_load_n(ring_word(m, at), __ATOMIC_ACQUIRE);
	if (__atomic_load_n(&ctl->producer, __ATOMIC_RELAXED) != at)
		return -EAGAIN;
	if (w & RING_OWNED) { /* reserved, and its owner has got no further */
		step = ring_step(w);
		if (!ring_step_fits(m, at, step))
			return -EBUSY;
		ring_advance(m, at, step);
		return -EAGAIN;
	}
	*pos = at;
	*word = w;
	return 0;
}

static inline bool ring_claim(const struct umap *m, u64 pos, u64 word, u64 header)
{
	if (!__atomic_compare_exchange_n(ring_word(m, pos), &word, header, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return false;
	ring_advance(m, pos, ring_step(header));
	return true;
}

/* The rest up to the end becomes a record that nobody sees, when the one of STEP
 * bytes fits behind it, or nothing is in the ring: it will fit later then. */
static inline long ring_skip_tail(const struct umap *m, u64 pos, u64 word, u64 used, u64 step, u32 owner)
{
	u64 tail = m->ring_mask + 1 - (pos & m->ring_mask);

	if (used + tail > m->ring_mask || (used && used + tail + step > m->ring_mask))
		return -ENOSPC;
	ring_claim(m, pos, word, RING_HEADER((u32)(tail - RING_HDR) | RING_DISCARD, owner));
	return -EAGAIN;
}

/* 0 and *REC, -EAGAIN when others were faster, -ENOSPC, or -EBUSY for what cannot be. */
static inline long reserve_once(const struct umap *m, u32 size, u32 owner, void **rec)
{
	u64 step = ALIGN_UP((u64)size + RING_HDR, 8ul), pos, word, used;
	long err = ring_look(m, &pos, &word);

	if (err)
		return err;
	used = pos - __atomic_load_n(&ring_ctl(m)->consumer, __ATOMIC_ACQUIRE);
	if (used > m->ring_mask)
		return used > m->ring_mask + 1 ? -EBUSY : -ENOSPC;
	if (!ring_step_fits(m, pos, step))
		return ring_skip_tail(m, pos, word, used, step, owner);
	if (used + step > m->ring_mask)
		return -ENOSPC;
	if (!ring_claim(m, pos, word, RING_HEADER(size | RING_BUSY, owner)))
		return -EAGAIN;
	*rec = ring_word(m, pos) + 1;
	return 0;
}

void *umap_ring_reserve(const struct umap *m, u64 size, u64 flags, u32 owner)
{
	void *rec = NULL;
	long err = -EAGAIN;

	if (flags || size > RING_RECORD_MAX || ALIGN_UP(size + RING_HDR, 8ul) > m->ring_mask + 1)
		return NULL;
	for (u32 i = 0; i < RING_TRIES && err == -EAGAIN; i++)
		err = reserve_once(m, (u32)size, owner, &rec);
	if (err)
		__atomic_fetch_add(&ring_ctl(m)->dropped, 1, __ATOMIC_RELAXED);
	return rec;
}

/* A sleeper is woken by one writer only. */
bool umap_ring_must_wake(const struct umap *m, u64 flags)
{
	u32 *waiters = umap_ring_waiters(m), one = 1;

	if (flags & UMAP_RB_NO_WAKEUP || !__atomic_load_n(waiters, __ATOMIC_RELAXED))
		return false;
	return __atomic_compare_exchange_n(waiters, &one, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

bool umap_ring_commit(const struct umap *m, void *record, u64 flags, bool discard)
{
	u32 *len = (u32 *)record - 2;
	u32 was = __atomic_load_n(len, __ATOMIC_RELAXED);

	/* An exchange is a fence too: the reader says that it sleeps and looks at the
	 * header, we write the header and look whether it sleeps. */
	__atomic_exchange_n(len, (was & ~RING_BUSY) | (discard ? RING_DISCARD : 0), __ATOMIC_SEQ_CST);
	return umap_ring_must_wake(m, flags);
}

long umap_ring_output(const struct umap *m, const void *data, u64 size, u64 flags, u32 owner, bool *wake)
{
	void *rec;

	*wake = false;
	if (flags & ~(u64)(UMAP_RB_NO_WAKEUP | UMAP_RB_FORCE_WAKEUP))
		return -EINVAL;
	rec = umap_ring_reserve(m, size, 0, owner);
	if (!rec) {
		*wake = umap_ring_must_wake(m, 0);
		return -EAGAIN;
	}
	copy_in(rec, data, (u32)size);
	*wake = umap_ring_commit(m, rec, flags, false);
	return 0;
}

u64 umap_ring_query(const struct umap *m, u64 what)
{
	struct ring_ctl *ctl = ring_ctl(m);
	u64 consumer = __atomic_load_n(&ctl->consumer, __ATOMIC_ACQUIRE);
	u64 producer = __atomic_load_n(&ctl->producer, __ATOMIC_ACQUIRE);

	if (what == BPF_RB_AVAIL_DATA)
		return producer - consumer;
	if (what == BPF_RB_RING_SIZE)
		return m->ring_mask + 1;
	if (what == BPF_RB_CONS_POS)
		return consumer;
	return what == BPF_RB_PROD_POS ? producer : 0;
}
