/* SPDX-License-Identifier: MIT */
/*
 * What the files of this folder share: the operations of each kind of map, and
 * copying between callers' buffers and shared memory. Shared words are read and
 * written whole (8 bytes at a time, then the odd bytes), so that an aligned u64
 * in a value is never torn. Freestanding: loops, because a call of memcpy would
 * have nobody to answer it in a target.
 */
#pragma once
#include "umap.h"

typedef u64 __attribute__((aligned(1), may_alias)) u64_any;
typedef u32 __attribute__((aligned(1), may_alias)) u32_any;

/* To shared memory. */
static inline void copy_in(void *shared, const void *from, u32 size)
{
	u32 at = 0;

	for (; at + 8 <= size; at += 8)
		__atomic_store_n((u64 *)((u8 *)shared + at), *(const u64_any *)((const u8 *)from + at),
				 __ATOMIC_RELAXED);
	for (; at < size; at++)
		__atomic_store_n((u8 *)shared + at, ((const u8 *)from)[at], __ATOMIC_RELAXED);
}

/* From shared memory. */
static inline void copy_out(void *to, const void *shared, u32 size)
{
	u32 at = 0;

	for (; at + 8 <= size; at += 8)
		*(u64_any *)((u8 *)to + at) = __atomic_load_n((const u64 *)((const u8 *)shared + at), __ATOMIC_RELAXED);
	for (; at < size; at++)
		((u8 *)to)[at] = __atomic_load_n((const u8 *)shared + at, __ATOMIC_RELAXED);
}

/* SIZE is a multiple of 8. */
static inline void copy_zero(void *shared, u32 size)
{
	for (u32 at = 0; at < size; at += 8)
		__atomic_store_n((u64 *)((u8 *)shared + at), 0, __ATOMIC_RELAXED);
}

/* Another BYTES at the end of the memory that M will have; returns where. */
static inline u64 map_carve(struct umap *m, u64 bytes)
{
	u64 at = m->size;

	m->size += ALIGN_UP(bytes, 64ul);
	return at;
}

static inline bool type_is_hash(u32 type)
{
	return type == UMAP_HASH || type == UMAP_PERCPU_HASH || type == UMAP_LRU_HASH || type == UMAP_LRU_PERCPU_HASH;
}

/* … or built on one: elements, blocks and intents are alike. */
static inline bool type_has_elems(u32 type)
{
	return type_is_hash(type) || type == UMAP_LPM_TRIE || type == UMAP_TASK_STORAGE;
}

static inline bool type_is_lru(u32 type)
{
	return type == UMAP_LRU_HASH || type == UMAP_LRU_PERCPU_HASH;
}

/* Addressed by nothing: no key. */
static inline bool type_is_keyless(u32 type)
{
	return umap_is_queue(type) || type == UMAP_BLOOM_FILTER || umap_is_ring(type);
}

static inline bool type_has_locks(u32 type)
{
	return type == UMAP_HASH || type == UMAP_ARRAY || type == UMAP_TASK_STORAGE;
}

/* lock.c. A value into shared memory: one that nobody has yet; in place, its lock as it
 * is; and in place under its lock (0 or -EBUSY). */
void value_in(const struct umap *m, void *shared, const void *value);
void value_in_place(const struct umap *m, void *shared, const void *value);
long value_in_locked(const struct umap *m, void *shared, const void *value, const struct umap_ctx *cx);
/* Host only: locks of the dead OWNER in memory of SIZE that is THERE in its process, and HERE. */
void lock_recover(u64 there, u64 here, u64 size, const struct thread_rec *rec, u32 owner);

/* What a value shows in place of its lock. */
static inline void value_hide_lock(const struct umap *m, void *value)
{
	if (m->lock)
		*(u32_any *)((u8 *)value + m->lock - 1) = 0;
}

/* array.c */
long array_geometry(struct umap *m);
void *array_lookup(const struct umap *m, const void *key, const struct umap_ctx *cx);
long array_update(const struct umap *m, const void *key, const void *value, u64 flags, const struct umap_ctx *cx);
long array_for_each(const struct umap *m, umap_visit *visit, void *arg, const struct umap_ctx *cx);

/* PROG_ARRAY, as bpf(2) has it */
long prog_array_write(const struct umap *m, u32 index, const void *value, u64 flags);
long prog_array_read(const struct umap *m, u32 index, void *value);
long prog_array_delete(const struct umap *m, u32 index);

/* hash.c. ALL: the value is that of every CPU, as umap_write() has it. */
long hash_flags_check(u32 type, u32 flags);
long hash_geometry(struct umap *m);
void hash_format(const struct umap *m);
void *hash_lookup(const struct umap *m, const void *key, const struct umap_ctx *cx);
long hash_update(const struct umap *m, const void *key, const void *value, u64 flags, bool all,
		 const struct umap_ctx *cx);
/* The same of a map that keeps something behind values (RAW, key_size - 4 bytes); VALUE NULL: zeros. */
long hash_update_raw(const struct umap *m, const void *key, const void *raw, const void *value, u64 flags,
		     const struct umap_ctx *cx);
long hash_for_each(const struct umap *m, umap_visit *visit, void *arg, const struct umap_ctx *cx);
long hash_delete(const struct umap *m, const void *key, const struct umap_ctx *cx);

/* trie.c */
long trie_geometry(struct umap *m);
void *trie_lookup(const struct umap *m, const void *key, const struct umap_ctx *cx);
long trie_update(const struct umap *m, const void *key, const void *value, u64 flags, const struct umap_ctx *cx);
long trie_delete(const struct umap *m, const void *key, const struct umap_ctx *cx);

/* trie_host.c: host only. */
long trie_read(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx);
long trie_next_key(const struct umap *m, const void *key, void *next_key);
long trie_next_keys(const struct umap *m, const void *key, u8 *keys, u32 room, u32 *ret);

/* task.c */
long task_geometry(struct umap *m);
u64 task_key(u32 owner);

/* queue.c */
long queue_geometry(struct umap *m);
void queue_format(const struct umap *m);
long queue_push(const struct umap *m, const void *value, u64 flags, const struct umap_ctx *cx);
long queue_pop(const struct umap *m, void *value, const struct umap_ctx *cx);
long queue_peek(const struct umap *m, void *value);

/* bloom.c */
long bloom_geometry(struct umap *m);
long bloom_push(const struct umap *m, const void *value, u64 flags);
long bloom_peek(const struct umap *m, const void *value);

/* stackmap.c */
long stackmap_geometry(struct umap *m);
long stackmap_read(const struct umap *m, u32 id, void *value);
long stackmap_take(const struct umap *m, u32 id, void *value);
long stackmap_delete(const struct umap *m, u32 id);
long stackmap_next(const struct umap *m, const u32_any *id, u32_any *next);
void stackmap_recover(const struct umap *m, const struct thread_rec *rec, u32 owner);

/* ringbuf.c */
long ringbuf_geometry(struct umap *m);
void ringbuf_format(const struct umap *m);

/* perf.c */
long perf_geometry(struct umap *m);
void perf_format(const struct umap *m);

/* events_host.c: host only. */
void perf_recover(const struct umap *m, const struct thread_rec *rec, u32 owner);

/* user_ring.c */
long user_ring_geometry(struct umap *m);

/* user_ring_host.c: host only. */
void user_ring_recover(const struct umap *m, u32 owner);

/* ringbuf_host.c: host only. */
void ringbuf_recover(const struct umap *m, const struct thread_rec *rec, u32 owner);

/* umap_host.c: host only. Whether the host may do that: 0 or -EPERM. */
long umap_host_access(const struct umap *m, bool read, bool write);

/* queue_host.c: host only. */
long queue_peek_at(const struct umap *m, u32 n, void *value);
void queue_recover(const struct umap *m, const struct thread_rec *rec, u32 owner);

/* hash_host.c: host only. */
long hash_read(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx);
long hash_read_locked(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx);
long hash_take(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx);
long hash_next_key(const struct umap *m, const void *key, void *next_key);
/* Up to ROOM keys behind KEY, as umap_next_keys(). */
long hash_keys_behind(const struct umap *m, const void *key, u8 *keys, u32 room, u32 *ret);
/* The next keys of bucket *BUCKET and those behind it, whole buckets, at most ROOM of them; *BUCKET
 * is where to go on. 0, -ENOENT after the last, -ENOSPC when one bucket has more than ROOM. *PATIENCE,
 * at first hash_patience(), is for all calls of a pass: when somebody scribbles, it ends. */
u64 hash_patience(const struct umap *m);
long hash_next_keys(const struct umap *m, u32 *bucket, u8 *keys, u32 room, u32 *ret, u64 *patience);
long hash_read_raw(const struct umap *m, const void *key, void *raw); /* what is behind the value */
void hash_recover(const struct umap *m, const struct thread_rec *rec, u32 owner);
