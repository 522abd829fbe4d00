/* SPDX-License-Identifier: MIT */
/*
 * TASK_STORAGE: a value for each thread, made when the thread asks for it first, gone
 * with the thread. Called by the runtime's helpers. Freestanding.
 *
 * A hash (hash.c) whose keys are the numbers of thread records {target, record}, so that
 * threads of processes in other pid namespaces never meet. Behind each value is the
 * thread's id: where that is another's, the record has changed hands before the daemon
 * could tidy up, and the value goes. Only the thread itself makes, finds and deletes its
 * value here; the daemon reads all of them and deletes those of the dead.
 *
 * Values are in blocks, never in the element: what a thread has the address of stays
 * where it is until it is deleted.
 */
#include <errno.h>
#include <linux/bpf.h>

#include "hash_core.h"

/* What the kernel accepts (kernel/bpf/bpf_local_storage.c). */
#define TASK_VALUE_MAX (65535u - 104)

#define TASKS_MAX 65536u
#define TASKS_MIN 1024u
#define TASKS_BYTES (256ull << 20)

long task_geometry(struct umap *m)
{
	u64 fit;

	if (m->map_flags != BPF_F_NO_PREALLOC || m->max_entries || m->key_size != 4 || !m->value_size)
		return -EINVAL;
	if (m->value_size > TASK_VALUE_MAX)
		return -E2BIG;
	fit = TASKS_BYTES / (m->value_size + 128ull);
	m->max_entries = fit > TASKS_MAX ? TASKS_MAX : fit < TASKS_MIN ? TASKS_MIN : (u32)fit;
	m->key_size = 8;
	return hash_geometry(m);
}

u64 task_key(u32 owner)
{
	return (owner & 0xffffffu) + 1ull;
}

/* Those that have no record of their own share the last number. */
static bool is_nobody(u32 owner)
{
	return (owner & ((1u << OWNER_REC_BITS) - 1)) == (1u << OWNER_REC_BITS) - 1;
}

static u32 *task_tid(const struct umap *m, void *value)
{
	return (u32 *)(void *)((u8 *)value + ALIGN_UP(m->value_size, 8u));
}

void *umap_task_get(const struct umap *m, u32 tid, const void *value, bool create, const struct umap_ctx *cx)
{
	u64 key = task_key(cx->owner);
	void *found;

	if (is_nobody(cx->owner) || !tid)
		return NULL;
	found = hash_lookup(m, &key, cx);
	if (unlikely(found && __atomic_load_n(task_tid(m, found), __ATOMIC_RELAXED) != tid)) {
		hash_delete(m, &key, cx);
		found = NULL;
	}
	if (likely(found) || !create || hash_update_raw(m, &key, &tid, value, UMAP_NOEXIST, cx))
		return found;
	return hash_lookup(m, &key, cx);
}

long umap_task_delete(const struct umap *m, u32 tid, const struct umap_ctx *cx)
{
	u64 key = task_key(cx->owner);

	if (is_nobody(cx->owner) || !umap_task_get(m, tid, NULL, false, cx))
		return -ENOENT;
	return hash_delete(m, &key, cx);
}
