/* SPDX-License-Identifier: MIT */
/*
 * QUEUE and STACK, as programs use them. Called by map.c. Freestanding.
 *
 * As in hash maps nobody may wait for anybody, and nothing read is trusted. A
 * lock would have made both trivial; here is what takes its place.
 *
 * One word. Values lie in nodes; `max_entries` cells, a ring, name the nodes of
 * what is in the queue; and one 16-byte word {pending, tag, head, count} says
 * which cells count. Every push, pop and drop is one cmpxchg16b of that word. It
 * is the only thing that happens: before, the operation has not taken place;
 * afterwards it has. So results are those of one operation after the other,
 * max_entries is exact, and a push that drops the oldest element (BPF_EXIST)
 * does both at once.
 *
 *	cells   │ · │ · │ n7│ n2│ n9│ · │          head 2, count 3
 *	                  ▲       ▲
 *	queue: pop here ──┘       └── push behind; stack: pop here
 *
 * Pending. A push changes the word and must also write a cell, and may be
 * stopped in between. So the word names the node of the last push, and whoever
 * comes next writes it into its cell, if that has not been done, before doing
 * anything else. Cells carry the tag of their push: a helper that comes too late
 * (it was stopped before its compare-and-swap) expects what the cell held before
 * that push, and fails.
 *
 * Reading. Pop and peek copy the value, then look whether the word is still the
 * same: pop by swapping it, peek by its tag. If so, the node was in the queue all
 * the time, and the value is whole. If not, they start again.
 *
 * Nodes come from the pool of hash_core.h: state {generation, owner, use}, bits
 * as hints, intents for the case of death. There are 64 more than max_entries,
 * for pushes and pops under way; when all are held by threads that are stopped
 * inside one, a push gives -EBUSY. What a dead thread's intents name is in a cell
 * that counts, or is freed (queue_host.c).
 *
 * Retries are bounded: -EBUSY then, which the kernel's queues give too when their
 * lock cannot be had.
 */
#include <linux/bpf.h>

#include "queue_layout.h"

/* What the kernel accepts (kernel/bpf/queue_stack_maps.c). */
#define QUEUE_FLAGS (BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG)
#define QUEUE_VALUE_MAX (4u << 20)
#define QUEUE_ENTRIES_MAX (1u << 27)
#define QUEUE_SPARES 64u

long queue_geometry(struct umap *m)
{
	if (m->key_size || m->map_flags & ~QUEUE_FLAGS)
		return -EINVAL;
	if (m->value_size > QUEUE_VALUE_MAX || m->max_entries > QUEUE_ENTRIES_MAX)
		return -E2BIG;
	m->nnodes = m->max_entries + QUEUE_SPARES;
	m->node_stride = sizeof(struct queue_node);
	m->elem_stride = ALIGN_UP(m->value_size, 8u);
	m->ctl_off = map_carve(m, sizeof(struct hash_ctl));
	m->cells_off = map_carve(m, sizeof(struct queue_ctl) + m->max_entries * 8ul);
	m->elems_off = map_carve(m, (u64)m->nnodes * m->node_stride);
	m->bitmap_off = map_carve(m, (m->nnodes + 63ul) / 64 * 8);
	m->values_off = map_carve(m, (u64)m->nnodes * m->elem_stride);
	return 0;
}

/* Zeros are right for everything else. */
void queue_format(const struct umap *m)
{
	struct hash_ctl *ctl = hash_ctl(m);
	u64 *bits = (u64 *)(m->base + m->bitmap_off);

	for (u32 i = 0; i < m->nnodes; i++)
		bits[i >> 6] |= 1ull << (i & 63);
	for (u32 i = 0; i < HASH_CURSORS; i++)
		ctl->cursor[i].word[POOL_ELEMS] = (m->nnodes + 63ul) / 64 * i / HASH_CURSORS;
}

static force_inline void queue_op(struct hash_op *o, const struct umap *m, const struct umap_ctx *cx)
{
	o->m = m;
	o->owner = cx->owner;
	o->rec = cx->rec;
	o->intent = NULL;
	o->budget = HASH_RETRIES;
}

/* A filled node that nobody else has yet. */
static long push_prepare(struct hash_op *o, const void *value, u32 *node)
{
	struct hash_pool pool = queue_pool(o->m);
	long i;

	if (!intent_begin(o))
		return -EBUSY;
	i = pool_alloc(&pool, o);
	if (i < 0)
		return -EBUSY;
	copy_in(queue_value(o->m, i), value, o->m->value_size);
	*node = i;
	return 0;
}

/* Writes down that NODE is about to leave. */
static force_inline long leave_prepare(struct hash_op *o, u32 node, u64 *state)
{
	if (unlikely(node >= o->m->nnodes) || !intent_begin(o))
		return -EBUSY;
	*state = load(queue_state(o->m, node));
	intent_unlink(o, node, *state);
	return 0;
}

/* 0, -EAGAIN when others were faster, or why it cannot be. */
static force_inline long push_once(struct hash_op *o, u32 node, bool replace)
{
	const struct umap *m = o->m;
	struct hash_pool pool = queue_pool(m);
	struct queue_view v;
	u32 count, oldest = 0;
	u64 state = 0;
	long err = queue_view(m, &o->budget, &v);

	if (err)
		return err;
	count = VIEW_COUNT(v);
	if (count < m->max_entries)
		return view_swap(m, v, VIEW(node + 1, VIEW_TAG(v) + 1, VIEW_HEAD(v), count + 1)) ? 0 : -EAGAIN;
	if (!replace)
		return -E2BIG;
	oldest = cell_node(m, VIEW_HEAD(v));
	err = view_holds(m, v) ? leave_prepare(o, oldest, &state) : -EAGAIN;
	if (err)
		return err;
	if (!view_swap(m, v, VIEW(node + 1, VIEW_TAG(v) + 1, cell_after(m, VIEW_HEAD(v), 1), count)))
		return -EAGAIN;
	pool_free(&pool, oldest, state, o->owner);
	return 0;
}

long queue_push(const struct umap *m, const void *value, u64 flags, const struct umap_ctx *cx)
{
	struct hash_pool pool = queue_pool(m);
	struct queue_view v;
	struct hash_op o;
	u32 node;
	long err;

	if (unlikely(flags & UMAP_NOEXIST || flags > UMAP_EXIST))
		return -EINVAL;
	queue_op(&o, m, cx);
	err = queue_view(m, &o.budget, &v);
	if (!err && VIEW_COUNT(v) == m->max_entries && !(flags & UMAP_EXIST))
		err = -E2BIG;
	if (!err)
		err = push_prepare(&o, value, &node);
	if (!err) {
		u64 state = load(queue_state(m, node));

		do {
			err = push_once(&o, node, flags & UMAP_EXIST);
		} while (unlikely(err == -EAGAIN) && o.budget && o.budget--);
		if (unlikely(err))
			pool_free(&pool, node, state, o.owner);
		else
			queue_view(m, &o.budget, &v); /* into its cell; others would do it too */
	}
	intent_end(&o);
	return err == -EAGAIN ? -EBUSY : err;
}

/* The cell that a pop empties. */
static force_inline u32 pop_cell(const struct umap *m, struct queue_view v)
{
	return m->type == UMAP_QUEUE ? VIEW_HEAD(v) : cell_after(m, VIEW_HEAD(v), VIEW_COUNT(v) - 1);
}

static force_inline long pop_once(struct hash_op *o, void *value)
{
	const struct umap *m = o->m;
	struct hash_pool pool = queue_pool(m);
	struct queue_view v;
	u64 state = 0;
	u32 node, head;
	long err = queue_view(m, &o->budget, &v);

	if (err)
		return err;
	if (!VIEW_COUNT(v))
		return -ENOENT;
	node = cell_node(m, pop_cell(m, v));
	err = view_holds(m, v) ? leave_prepare(o, node, &state) : -EAGAIN;
	if (err)
		return err;
	copy_out(value, queue_value(m, node), m->value_size);
	head = m->type == UMAP_QUEUE ? cell_after(m, VIEW_HEAD(v), 1) : VIEW_HEAD(v);
	if (!view_swap(m, v, VIEW(0, VIEW_TAG(v) + 1, head, VIEW_COUNT(v) - 1)))
		return -EAGAIN;
	pool_free(&pool, node, state, o->owner);
	return 0;
}

static void zero_value(const struct umap *m, u8 *value)
{
	for (u32 i = 0; i < m->value_size; i++)
		__atomic_store_n(value + i, 0, __ATOMIC_RELAXED); /* no call of memset */
}

long queue_pop(const struct umap *m, void *value, const struct umap_ctx *cx)
{
	struct hash_op o;
	long err;

	queue_op(&o, m, cx);
	do {
		err = pop_once(&o, value);
	} while (unlikely(err == -EAGAIN) && o.budget && o.budget--);
	intent_end(&o);
	if (unlikely(err))
		zero_value(m, value);
	return err == -EAGAIN ? -EBUSY : err;
}

long queue_peek(const struct umap *m, void *value)
{
	u64 budget = HASH_RETRIES;
	struct queue_view v;
	u32 node;
	long err;

	do {
		err = queue_view(m, &budget, &v);
		if (!err && !VIEW_COUNT(v))
			err = -ENOENT;
		if (err)
			break;
		err = -EAGAIN;
		node = cell_node(m, pop_cell(m, v));
		if (node < m->nnodes) {
			copy_out(value, queue_value(m, node), m->value_size);
			err = view_holds(m, v) ? 0 : -EAGAIN;
		} else if (view_holds(m, v)) {
			err = -EBUSY;
		}
	} while (unlikely(err == -EAGAIN) && budget && budget--);
	if (unlikely(err))
		zero_value(m, value);
	return err == -EAGAIN ? -EBUSY : err;
}
