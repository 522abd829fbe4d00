/* SPDX-License-Identifier: MIT */
/*
 * The rings of a map as one stream of records, for their one reader. Host only.
 *
 * A writer that finds no room only counts. What was lost is told behind the records
 * that were there when we saw the count grow: so much as came before the loss was
 * there then.
 */
#include <stdlib.h>

#include "base/cleanup.h"
#include "perf_layout.h"

#define TURN_MAX 256u /* records of one ring in a row */

struct umap_event_ring {
	struct umap view;
	struct umap_ring_reader reader;
	u64 seen;    /* lost, as far as we know; what other readers have told included */
	u64 pending; /* of these not told yet */
	u64 tell_at; /* when the reader is there */
};

static u32 rings_of(const struct umap *m)
{
	return m->type == UMAP_PERF_EVENT_ARRAY ? m->ncpus : 1;
}

static void view_of(const struct umap *m, u32 i, struct umap *ret)
{
	*ret = *m;
	if (m->type == UMAP_PERF_EVENT_ARRAY)
		perf_ring(m, i, ret);
}

struct uerr *umap_events_init(struct umap_events *e, const struct umap *m)
{
	struct uerr *err = NULL;

	*e = (struct umap_events){ .m = m, .rings = calloc(rings_of(m), sizeof(*e->rings)) };
	if (!e->rings)
		return uerr_nomem();
	for (; !err && e->n < rings_of(m); e->n++) {
		struct umap_event_ring *r = &e->rings[e->n];

		view_of(m, e->n, &r->view);
		r->seen = __atomic_load_n(&ring_ctl(&r->view)->told, __ATOMIC_RELAXED);
		err = umap_ring_reader_init(&r->reader, &r->view);
	}
	if (err)
		umap_events_deinit(e);
	return err;
}

void umap_events_deinit(struct umap_events *e)
{
	for (u32 i = 0; i < e->n; i++)
		umap_ring_reader_deinit(&e->rings[i].reader);
	free(e->rings);
	*e = (struct umap_events){};
}

static void look_for_losses(struct umap_event_ring *r)
{
	u64 dropped = umap_ring_dropped(&r->view);

	if (dropped == r->seen)
		return;
	/* (A count that went back is somebody's scribbling.) */
	r->pending += dropped > r->seen ? dropped - r->seen : 0;
	r->seen = dropped;
	r->tell_at = __atomic_load_n(&ring_ctl(&r->view)->producer, __ATOMIC_ACQUIRE);
}

static bool next_of_ring(struct umap_event_ring *r, bool tells, struct umap_event *ret)
{
	*ret = (struct umap_event){};
	if (tells)
		look_for_losses(r);
	if ((!r->pending || (s64)(r->tell_at - r->reader.pos) > 0) &&
	    umap_ring_next(&r->reader, &ret->data, &ret->size))
		return true;
	ret->data = NULL;
	ret->lost = r->pending;
	r->pending = 0;
	if (ret->lost)
		__atomic_store_n(&ring_ctl(&r->view)->told, r->seen, __ATOMIC_RELAXED);
	return ret->lost;
}

bool umap_events_next(struct umap_events *e, struct umap_event *ret)
{
	bool tells = e->m->type == UMAP_PERF_EVENT_ARRAY;

	for (u32 i = 0; i <= e->n; i++) {
		u32 cpu = e->next;

		if (e->turn < TURN_MAX && next_of_ring(&e->rings[cpu], tells, ret)) {
			e->turn++;
			ret->cpu = cpu;
			return true;
		}
		e->turn = 0;
		e->next = (cpu + 1) % e->n;
	}
	return false;
}

/* Every ring is looked at once the writers know that we sleep. */
bool umap_events_sleep(struct umap_events *e)
{
	bool any = false;

	__atomic_store_n(umap_ring_waiters(e->m), 1, __ATOMIC_SEQ_CST);
	for (u32 i = 0; i < e->n; i++)
		any |= umap_ring_ready(&e->rings[i].reader);
	return any;
}

bool umap_events_busy(const struct umap_events *e, u32 *owner, u32 *size, u64 *where)
{
	for (u32 i = 0; i < e->n; i++) {
		if (!umap_ring_busy(&e->rings[i].reader, owner, size))
			continue;
		*where = e->rings[i].reader.pos * e->n + i;
		return true;
	}
	return false;
}

u64 umap_events_dropped(const struct umap_events *e)
{
	u64 n = 0;

	for (u32 i = 0; i < e->n; i++)
		n += umap_ring_dropped(&e->rings[i].view);
	return n;
}

u64 umap_events_retired(const struct umap_events *e)
{
	u64 n = 0;

	for (u32 i = 0; i < e->n; i++)
		n += umap_ring_retired(&e->rings[i].view);
	return n;
}

u64 umap_events_spoilt(const struct umap_events *e)
{
	u64 n = 0;

	for (u32 i = 0; i < e->n; i++)
		n += e->rings[i].reader.spoilt;
	return n;
}

void perf_recover(const struct umap *m, const struct thread_rec *rec, u32 owner)
{
	for (u32 i = 0; i < m->ncpus; i++) {
		struct umap view;

		view_of(m, i, &view);
		ringbuf_recover(&view, rec, owner);
	}
}
