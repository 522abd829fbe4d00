/* SPDX-License-Identifier: MIT */
/*
 * How a QUEUE or STACK lies in its memory, and the steps that queue.c (programs)
 * and queue_host.c (the daemon) share. queue.c explains them. Freestanding.
 *
 *   ctl_off     struct hash_ctl: hints of the pool
 *   elems_off   struct queue_node, node_stride apart, nnodes of them
 *   bitmap_off  u64 bits, one for each node: probably free
 *   cells_off   struct queue_ctl, then u64 cell[max_entries]
 *   values_off  values of nodes, elem_stride apart
 *
 * A cell:   63     32  31        0
 *           tag      | node
 */
#pragma once
#include "hash_core.h"

struct queue_node {
	u64 state; /* as of a hash element */
};

/* One 16-byte word, changed as a whole: what is in the queue. */
struct queue_ctl {
	u32 pending; /* 1 + node of the last push, which may not be in its cell yet; 0 none */
	u32 tag;     /* grows at every change */
	u32 head;    /* cell of the oldest element */
	u32 count;
	u64 pad[6];
};
_Static_assert(sizeof(struct queue_ctl) == 64, "layout");

/* A queue_ctl as it was at one moment. */
struct queue_view {
	u64 lo; /* pending, tag */
	u64 hi; /* head, count */
};

#define VIEW(pending, tag, head, count) \
	((struct queue_view){(u64)(tag) << 32 | (u32)(pending), (u64)(count) << 32 | (u32)(head)})
#define VIEW_PENDING(v) ((u32)(v).lo)
#define VIEW_TAG(v) ((u32)((v).lo >> 32))
#define VIEW_HEAD(v) ((u32)(v).hi)
#define VIEW_COUNT(v) ((u32)((v).hi >> 32))

static force_inline struct queue_ctl *queue_ctl(const struct umap *m)
{
	return (struct queue_ctl *)(m->base + m->cells_off);
}

static force_inline u64 *queue_cell(const struct umap *m, u32 i)
{
	return (u64 *)(void *)(queue_ctl(m) + 1) + i;
}

static force_inline u64 *queue_state(const struct umap *m, u32 node)
{
	return (u64 *)(m->base + m->elems_off + (u64)node * m->node_stride);
}

static force_inline void *queue_value(const struct umap *m, u32 node)
{
	return (void *)(m->base + m->values_off + (u64)node * m->elem_stride);
}

static force_inline struct hash_pool queue_pool(const struct umap *m)
{
	return (struct hash_pool){
		m, m->base + m->bitmap_off, m->base + m->elems_off, m->node_stride, m->nnodes, POOL_ELEMS,
	};
}

/* The N-th cell after cell FROM. */
static force_inline u32 cell_after(const struct umap *m, u32 from, u32 n)
{
	u64 at = (u64)from + n;

	return at >= m->max_entries ? at - m->max_entries : at;
}

/* Whether nothing has changed since V was read. */
static force_inline bool view_holds(const struct umap *m, struct queue_view v)
{
	return load((u64 *)(void *)queue_ctl(m)) == v.lo;
}

/* What is in the queue, all of it in its cells. -EBUSY when the memory makes no
 * sense, or changes too often. */
static force_inline long queue_view(const struct umap *m, u64 *budget, struct queue_view *ret)
{
	u64 *words = (u64 *)(void *)queue_ctl(m);

	for (; *budget; --*budget) {
		struct queue_view v = {.lo = load(words), .hi = load(words + 1)};
		u64 *cell, old;
		u64 want = (u64)VIEW_TAG(v) << 32 | (VIEW_PENDING(v) - 1);

		if (!view_holds(m, v))
			continue;
		if (unlikely(VIEW_COUNT(v) > m->max_entries || VIEW_HEAD(v) >= m->max_entries ||
			     VIEW_PENDING(v) > m->nnodes || (VIEW_PENDING(v) && !VIEW_COUNT(v))))
			return -EBUSY;
		*ret = v;
		if (!VIEW_PENDING(v))
			return 0;
		cell = queue_cell(m, cell_after(m, VIEW_HEAD(v), VIEW_COUNT(v) - 1));
		old = load(cell);
		if (likely(old == want))
			return 0;
		/* while V holds nobody has finished this push, so OLD is older */
		if (view_holds(m, v) && swap(cell, old, want))
			return 0;
	}
	return -EBUSY;
}

/* From V to NEW, as one step. */
static force_inline bool view_swap(const struct umap *m, struct queue_view v, struct queue_view new)
{
	unsigned __int128 *pair = (unsigned __int128 *)(void *)queue_ctl(m);

	return __sync_bool_compare_and_swap(pair, (unsigned __int128)v.hi << 64 | v.lo,
					    (unsigned __int128)new.hi << 64 | new.lo);
}

/* The node in cell CELL; nnodes or more when there is none. */
static force_inline u32 cell_node(const struct umap *m, u32 cell)
{
	return (u32)load(queue_cell(m, cell));
}
