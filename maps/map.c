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
	struct umap m;
	u32 user = map_flags & (BPF_F_RDONLY | BPF_F_WRONLY);
	u32 prog = map_flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG);
	long err = -EINVAL;

	if (!max_entries || !key_size || !value_size || !ncpus || ncpus > NCPUS_MAX)
		return -EINVAL;
	if (user == (BPF_F_RDONLY | BPF_F_WRONLY) || prog == (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG))
		return -EINVAL;
	copy_zero(&m, sizeof(m));
	m.type = type;
	m.key_size = key_size;
	m.value_size = value_size;
	m.max_entries = max_entries;
	m.map_flags = map_flags;
	m.id = id;
	m.ncpus = ncpus;
	m.nslots = type_is_percpu(type) ? ncpus + UMAP_SPARE_SLOTS : 1;
	switch (type) {
	case UMAP_ARRAY:
	case UMAP_PERCPU_ARRAY:
		err = array_geometry(&m);
		break;
	case UMAP_HASH:
	case UMAP_PERCPU_HASH:
		err = hash_geometry(&m);
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
	if (type_is_hash(m->type))
		hash_format(m);
}

void *umap_lookup(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	if (type_is_hash(m->type))
		return hash_lookup(m, key, cx);
	return array_lookup(m, key, cx);
}

long umap_update(const struct umap *m, const void *key, const void *value, u64 flags, const struct umap_ctx *cx)
{
	if (m->frozen)
		return -EPERM;
	if (type_is_hash(m->type))
		return hash_update(m, key, value, flags, false, cx);
	return array_update(m, key, value, flags, cx);
}

long umap_delete(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	if (m->frozen)
		return -EPERM;
	if (type_is_hash(m->type))
		return hash_delete(m, key, cx);
	return -EINVAL;
}

long umap_for_each(const struct umap *m, umap_visit *visit, void *arg, const struct umap_ctx *cx)
{
	if (type_is_hash(m->type))
		return hash_for_each(m, visit, arg, cx);
	return array_for_each(m, visit, arg, cx);
}
