/* SPDX-License-Identifier: MIT */
/*
 * The door to all kinds of maps: geometry, formatting, and the three operations
 * that programs have, each passed on by type. No table of functions: its
 * pointers would need relocating where the runtime is placed in a target.
 * Freestanding.
 */
#include <errno.h>
#include <linux/bpf.h>

#include "internal.h"

#define MAP_SIZE_MAX (1ull << 40)
#define NCPUS_MAX 8192u

long umap_geometry(u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 map_flags, u32 ncpus, u32 id,
		   struct umap *ret)
{
	return umap_geometry_locked(type, key_size, value_size, max_entries, map_flags, ncpus, id, 0, ret);
}

long umap_geometry_locked(u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 map_flags, u32 ncpus, u32 id,
			  u32 lock, struct umap *ret)
{
	struct umap m;
	u32 user = map_flags & (BPF_F_RDONLY | BPF_F_WRONLY);
	u32 prog = map_flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG);
	long err = -EINVAL;

	if (type_is_hash(type) && hash_flags_check(type, map_flags)) /* the kernel looks at these first */
		return hash_flags_check(type, map_flags);
	if ((!max_entries && type != UMAP_TASK_STORAGE) || !ncpus || ncpus > NCPUS_MAX)
		return -EINVAL;
	if ((!value_size && !umap_is_ring(type)) || (!key_size && !type_is_keyless(type)))
		return -EINVAL;
	if (user == (BPF_F_RDONLY | BPF_F_WRONLY) || prog == (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG))
		return -EINVAL;
	if (lock && !type_has_locks(type))
		return -EOPNOTSUPP;
	if (lock && ((lock - 1) % 4 || (u64)lock + 3 > value_size))
		return -EINVAL;
	copy_zero(&m, sizeof(m));
	m.lock = lock;
	m.type = type;
	m.key_size = key_size;
	m.value_size = value_size;
	m.max_entries = max_entries;
	m.map_flags = map_flags;
	m.id = id;
	m.ncpus = ncpus;
	m.nslots = umap_is_percpu(type) ? ncpus + UMAP_SPARE_SLOTS : 1;
	switch (type) {
	case UMAP_ARRAY:
	case UMAP_PERCPU_ARRAY:
	case UMAP_PROG_ARRAY:
		err = array_geometry(&m);
		break;
	case UMAP_HASH:
	case UMAP_PERCPU_HASH:
	case UMAP_LRU_HASH:
	case UMAP_LRU_PERCPU_HASH:
		err = hash_geometry(&m);
		break;
	case UMAP_TASK_STORAGE:
		err = task_geometry(&m);
		break;
	case UMAP_LPM_TRIE:
		err = trie_geometry(&m);
		break;
	case UMAP_QUEUE:
	case UMAP_STACK:
		err = queue_geometry(&m);
		break;
	case UMAP_BLOOM_FILTER:
		err = bloom_geometry(&m);
		break;
	case UMAP_RINGBUF:
		err = ringbuf_geometry(&m);
		break;
	case UMAP_STACK_TRACE:
		err = stackmap_geometry(&m);
		break;
	case UMAP_USER_RINGBUF:
		err = user_ring_geometry(&m);
		break;
	case UMAP_PERF_EVENT_ARRAY:
		err = perf_geometry(&m);
		break;
	}
	if (err)
		return err;
	m.size = ALIGN_UP(m.size, PAGE);
	if (m.size > MAP_SIZE_MAX)
		return -E2BIG;
	copy_in(ret, &m, sizeof(m)); /* an assignment may become a call of memcpy */
	return 0;
}

void umap_format(const struct umap *m)
{
	if (type_has_elems(m->type))
		hash_format(m);
	else if (umap_is_queue(m->type))
		queue_format(m);
	else if (m->type == UMAP_RINGBUF)
		ringbuf_format(m);
	else if (m->type == UMAP_PERF_EVENT_ARRAY)
		perf_format(m);
}

/* The verifier lets no program ask by key where there are none; whoever does
 * gets what the kernel says. */
static long keyless_error(const struct umap *m)
{
	return m->type == UMAP_BLOOM_FILTER ? -EOPNOTSUPP : -EINVAL;
}

void *umap_lookup(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	if (type_is_hash(m->type))
		return hash_lookup(m, key, cx);
	if (m->type == UMAP_LPM_TRIE)
		return trie_lookup(m, key, cx);
	if (type_is_keyless(m->type) || m->type == UMAP_PROG_ARRAY || m->type == UMAP_STACK_TRACE ||
	    m->type == UMAP_TASK_STORAGE)
		return NULL;
	return array_lookup(m, key, cx);
}

long umap_update(const struct umap *m, const void *key, const void *value, u64 flags, const struct umap_ctx *cx)
{
	if (m->frozen)
		return -EPERM;
	if (type_is_hash(m->type))
		return hash_update(m, key, value, flags, false, cx);
	if (m->type == UMAP_LPM_TRIE)
		return trie_update(m, key, value, flags, cx);
	if (type_is_keyless(m->type) || m->type == UMAP_PROG_ARRAY || m->type == UMAP_TASK_STORAGE ||
	    m->type == UMAP_STACK_TRACE) /* programs cannot write these */
		return -EINVAL;
	return array_update(m, key, value, flags, cx);
}

long umap_delete(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	if (m->frozen)
		return -EPERM;
	if (type_is_hash(m->type) || m->type == UMAP_TASK_STORAGE)
		return hash_delete(m, key, cx);
	if (m->type == UMAP_LPM_TRIE)
		return trie_delete(m, key, cx);
	if (m->type == UMAP_PROG_ARRAY)
		return prog_array_delete(m, *(const u32_any *)key);
	if (m->type == UMAP_STACK_TRACE)
		return stackmap_delete(m, *(const u32_any *)key);
	return keyless_error(m);
}

long umap_push(const struct umap *m, const void *value, u64 flags, const struct umap_ctx *cx)
{
	if (m->frozen)
		return -EPERM;
	if (umap_is_queue(m->type))
		return queue_push(m, value, flags, cx);
	if (m->type == UMAP_BLOOM_FILTER)
		return bloom_push(m, value, flags);
	return -EINVAL;
}

long umap_pop(const struct umap *m, void *value, const struct umap_ctx *cx)
{
	if (m->frozen)
		return -EPERM;
	if (umap_is_queue(m->type))
		return queue_pop(m, value, cx);
	return keyless_error(m);
}

long umap_peek(const struct umap *m, void *value, const struct umap_ctx *cx)
{
	if (umap_is_queue(m->type))
		return queue_peek(m, value);
	if (m->type == UMAP_BLOOM_FILTER)
		return bloom_peek(m, value);
	return -EINVAL;
}

long umap_for_each(const struct umap *m, umap_visit *visit, void *arg, const struct umap_ctx *cx)
{
	if (type_is_hash(m->type))
		return hash_for_each(m, visit, arg, cx);
	return array_for_each(m, visit, arg, cx);
}
