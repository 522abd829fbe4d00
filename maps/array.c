/* SPDX-License-Identifier: MIT */
/*
 * ARRAY, PERCPU_ARRAY, PROG_ARRAY: values side by side, always there, updated in
 * place.
 * Global data is an ARRAY of one entry. Called by map.c; the compiled programs
 * do lookups themselves with the same arithmetic. Freestanding.
 *
 * PERCPU_ARRAY: slot-major, so that what one slot uses shares no cache line
 * with another slot. A program touches the copy of the slot it has claimed and
 * nothing else; no atomic instruction is needed.
 */
#include <errno.h>
#include <linux/bpf.h>

#include "hash_layout.h"
#include "internal.h"

/* What the kernel accepts (kernel/bpf/arraymap.c). */
#define ARRAY_FLAGS                                                                                                \
	(BPF_F_NUMA_NODE | BPF_F_MMAPABLE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG | \
	 BPF_F_INNER_MAP)
#define PERCPU_VALUE_MAX (32u << 10)

long array_geometry(struct umap *m)
{
	bool percpu = m->type == UMAP_PERCPU_ARRAY, progs = m->type == UMAP_PROG_ARRAY;

	if (m->key_size != 4 || m->map_flags & ~ARRAY_FLAGS)
		return -EINVAL;
	if ((percpu || progs) && m->map_flags & (BPF_F_MMAPABLE | BPF_F_INNER_MAP))
		return -EINVAL;
	if (percpu && m->map_flags & BPF_F_NUMA_NODE)
		return -EINVAL;
	if (progs && (m->value_size != 4 || m->map_flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG)))
		return -EINVAL;
	if (m->value_size > INT32_MAX || (percpu && m->value_size > PERCPU_VALUE_MAX))
		return -E2BIG;
	m->elem_stride = ALIGN_UP(m->value_size, 8u);
	m->data_off = 0;
	m->size = (u64)m->elem_stride * m->max_entries;
	if (percpu) {
		m->slot_stride = ALIGN_UP(m->size, 64ul);
		m->size = m->slot_stride * m->nslots;
	}
	return 0;
}

void *array_lookup(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	u32 index = *(const u32_any *)key;
	u64 addr = m->base + m->data_off + (u64)index * m->elem_stride;

	if (index >= m->max_entries)
		return NULL;
	if (m->type == UMAP_PERCPU_ARRAY) {
		if (cx->slot >= m->nslots)
			return NULL;
		addr += cx->slot * m->slot_stride;
	}
	return (void *)addr;
}

long array_update(const struct umap *m, const void *key, const void *value, u64 flags, const struct umap_ctx *cx)
{
	void *to;

	if ((flags & ~(u64)UMAP_LOCK) > UMAP_EXIST)
		return -EINVAL;
	to = array_lookup(m, key, cx);
	if (!to)
		return -E2BIG;
	if (flags & UMAP_NOEXIST)
		return -EEXIST;
	if (unlikely(flags & UMAP_LOCK))
		return m->lock ? value_in_locked(m, to, value, cx) : -EINVAL;
	value_in_place(m, to, value);
	return 0;
}

long array_for_each(const struct umap *m, umap_visit *visit, void *arg, const struct umap_ctx *cx)
{
	for (u32 i = 0; i < m->max_entries; i++) {
		u32 key = i;
		void *value = array_lookup(m, &key, cx);

		if (!value)
			return i;
		if (visit(arg, &key, value))
			return i + 1l;
	}
	return m->max_entries;
}

static u32 *prog_element(const struct umap *m, u32 index)
{
	return (u32 *)(m->base + m->data_off + (u64)index * m->elem_stride);
}

u64 umap_prog(const struct umap *m, u32 index)
{
	u32 prog;

	if (index >= m->max_entries)
		return 0;
	prog = __atomic_load_n(prog_element(m, index), __ATOMIC_RELAXED);
	return prog && prog <= m->nprogs ? ((const u64 *)m->progs)[prog - 1] : 0;
}

/* Results as of kernel/bpf/arraymap.c, bpf_fd_array_map_…(). */
long prog_array_write(const struct umap *m, u32 index, const void *value, u64 flags)
{
	if (flags != UMAP_ANY)
		return -EINVAL;
	if (index >= m->max_entries)
		return -E2BIG;
	__atomic_store_n(prog_element(m, index), *(const u32_any *)value, __ATOMIC_RELAXED);
	return 0;
}

long prog_array_read(const struct umap *m, u32 index, void *value)
{
	u32 prog = index < m->max_entries ? __atomic_load_n(prog_element(m, index), __ATOMIC_RELAXED) : 0;

	*(u32_any *)value = prog;
	return prog ? 0 : -ENOENT;
}

long prog_array_delete(const struct umap *m, u32 index)
{
	if (index >= m->max_entries)
		return -E2BIG;
	return __atomic_exchange_n(prog_element(m, index), 0, __ATOMIC_RELAXED) ? 0 : -ENOENT;
}
