/* SPDX-License-Identifier: MIT */
/*
 * QUEUE and STACK as the daemon sees them: looking at elements without removing
 * them, and finishing what a dead thread began. Host only. queue.c explains the
 * structure.
 */
#include "queue_layout.h"

long queue_peek_at(const struct umap *m, u32 n, void *value)
{
	for (u64 budget = HASH_RETRIES; budget; budget--) {
		struct queue_view v;
		u32 node, at;
		long err = queue_view(m, &budget, &v);

		if (err)
			return err;
		if (n >= VIEW_COUNT(v))
			return -ENOENT;
		at = m->type == UMAP_QUEUE ? n : VIEW_COUNT(v) - 1 - n;
		node = cell_node(m, cell_after(m, VIEW_HEAD(v), at));
		if (node < m->nnodes)
			copy_out(value, queue_value(m, node), m->value_size);
		if (view_holds(m, v))
			return node < m->nnodes ? 0 : -EBUSY;
		if (!budget)
			break;
	}
	return -EBUSY;
}

/* Whether cell I counts in V. */
static bool cell_counts(const struct umap *m, struct queue_view v, u32 i)
{
	u32 after = i >= VIEW_HEAD(v) ? i - VIEW_HEAD(v) : i + m->max_entries - VIEW_HEAD(v);

	return after < VIEW_COUNT(v);
}

/*
 * Whether NODE is in the queue. Elements do not move from cell to cell, so one
 * look at each is enough, though others push and pop meanwhile: a node that is in
 * the queue all the time is found, and one that is not, and cannot come back in
 * the life that the dead thread meant, is only named by cells that do not count.
 * Between reading cell and word another push may have taken the cell over; then
 * the cell has changed.
 */
static bool node_is_queued(const struct umap *m, u32 node)
{
	u64 budget = HASH_RETRIES;
	struct queue_view v;

	if (queue_view(m, &budget, &v)) /* the last push is in its cell from here on */
		return true;
	for (u32 i = 0; i < m->max_entries; i++) {
		for (;;) {
			u64 cell = load(queue_cell(m, i));

			if ((u32)cell != node)
				break;
			if (queue_view(m, &budget, &v))
				return true;
			if (load(queue_cell(m, i)) != cell)
				continue;
			if (cell_counts(m, v, i))
				return true;
			break;
		}
	}
	return false;
}

static bool is_part(const struct umap *m, const struct hash_pool *p, u32 i)
{
	return node_is_queued(m, i);
}

void queue_recover(const struct umap *m, const struct thread_rec *rec, u32 owner)
{
	struct recovery r = { { queue_pool(m) }, is_part };

	pools_recover(m, &r, rec, owner);
}
