/* SPDX-License-Identifier: MIT */
/*
 * Many elements in one call, as the BPF_MAP_*_BATCH commands of bpf(2) have it
 * (kernel/bpf/syscall.c, generic_map_*_batch(); kernel/bpf/hashtab.c). Host only.
 * Each element is read, written or taken out as by itself: nothing holds between
 * two of them.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>

#include "base/cleanup.h"
#include "internal.h"

static bool has_batches(const struct umap *m)
{
	return type_is_hash(m->type) || m->type == UMAP_LPM_TRIE || m->type == UMAP_ARRAY || m->type == UMAP_PERCPU_ARRAY;
}

static bool has_delete_batches(const struct umap *m)
{
	return type_is_hash(m->type) || m->type == UMAP_LPM_TRIE;
}

u32 umap_cursor_size(const struct umap *m)
{
	return type_is_hash(m->type) || m->key_size < 4 ? 4 : m->key_size;
}

/* The values of the N keys; those that have gone meanwhile close up. */
static long fill_values(const struct umap *m, struct umap_batch *b, u32 n, bool take, const struct umap_ctx *cx)
{
	u64 stride = umap_user_value_size(m);
	u32 kept = 0;

	for (u32 i = 0; i < n; i++) {
		const u8 *key = (const u8 *)b->keys + (u64)i * m->key_size;
		u8 *value = (u8 *)b->values + kept * stride;
		long err = take ? umap_take(m, key, value, cx) : umap_read_flags(m, key, value, b->flags, cx);

		if (err == -ENOENT)
			continue;
		if (err) {
			b->count = kept;
			return err;
		}
		if (kept != i)
			memmove((u8 *)b->keys + (u64)kept * m->key_size, key, m->key_size);
		kept++;
	}
	b->count = kept;
	return 0;
}

/* A hash's cursor is the bucket where it goes on. */
static long hash_batch(const struct umap *m, const void *from, void *next, struct umap_batch *b, bool take,
		       const struct umap_ctx *cx)
{
	u32 bucket = from ? *(const u32_any *)from : 0, n = 0;
	u64 patience = hash_patience(m);
	long err, rc;

	if (bucket >= m->nbuckets) {
		b->count = 0;
		return -ENOENT;
	}
	err = hash_next_keys(m, &bucket, b->keys, b->count, &n, &patience);
	rc = fill_values(m, b, n, take, cx);
	*(u32_any *)next = bucket;
	return rc ? rc : err;
}

/* Another map's is the last key. */
static long key_batch(const struct umap *m, const void *from, void *next, struct umap_batch *b,
		      const struct umap_ctx *cx)
{
	u32 n = 0;
	long err = umap_next_keys(m, from, b->keys, b->count, &n), rc;

	if (n)
		memcpy(next, (u8 *)b->keys + (n - 1ul) * m->key_size, m->key_size);
	rc = fill_values(m, b, n, false, cx);
	return rc ? rc : err;
}

static long batch_flags(const struct umap *m, const struct umap_batch *b)
{
	return b->flags && (b->flags != UMAP_LOCK || !m->lock) ? -EINVAL : 0;
}

static long read_batch(const struct umap *m, const void *from, void *next, struct umap_batch *b, bool take,
		       const struct umap_ctx *cx)
{
	long err = batch_flags(m, b);

	if (err || !b->count)
		return err;
	return type_is_hash(m->type) ? hash_batch(m, from, next, b, take, cx) : key_batch(m, from, next, b, cx);
}

long umap_read_batch(const struct umap *m, const void *from, void *next, struct umap_batch *b, const struct umap_ctx *cx)
{
	if (m->map_flags & BPF_F_WRONLY)
		return -EPERM;
	return has_batches(m) ? read_batch(m, from, next, b, false, cx) : -UMAP_ENOTSUPP;
}

long umap_take_batch(const struct umap *m, const void *from, void *next, struct umap_batch *b, const struct umap_ctx *cx)
{
	long err = umap_host_access(m, true, true);

	if (err)
		return err;
	return type_is_hash(m->type) ? read_batch(m, from, next, b, true, cx) : -UMAP_ENOTSUPP;
}

long umap_write_batch(const struct umap *m, struct umap_batch *b, const struct umap_ctx *cx)
{
	u64 stride = umap_user_value_size(m);
	u32 count = b->count;
	long err = umap_host_access(m, false, true);

	if (err)
		return err;
	if (!has_batches(m))
		return -UMAP_ENOTSUPP;
	err = batch_flags(m, b);
	for (b->count = 0; !err && b->count < count; b->count += !err)
		err = umap_write(m, (const u8 *)b->keys + (u64)b->count * m->key_size,
				 (const u8 *)b->values + b->count * stride, b->flags, cx);
	return err;
}

long umap_delete_batch(const struct umap *m, struct umap_batch *b, const struct umap_ctx *cx)
{
	u32 count = b->count;
	long err = umap_host_access(m, false, true);

	if (err)
		return err;
	if (!has_delete_batches(m))
		return -UMAP_ENOTSUPP;
	err = batch_flags(m, b);
	for (b->count = 0; !err && b->count < count; b->count += !err)
		err = umap_erase(m, (const u8 *)b->keys + (u64)b->count * m->key_size, cx);
	return err;
}
