/* SPDX-License-Identifier: MIT */
/*
 * Maps as the daemon (or whoever embeds libbpfvm) owns them: the memfd, and the
 * commands that user space has for a kernel map. Host only. It never trusts
 * what is in the memory: targets write it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "internal.h"

static u32 user_stride(const struct umap *m)
{
	return ALIGN_UP(m->value_size, 8u);
}

u64 umap_user_value_size(const struct umap *m)
{
	return umap_is_percpu(m->type) ? (u64)user_stride(m) * m->ncpus : m->value_size;
}

/* A sealed memfd of SIZE bytes, mapped. */
static struct uerr *memory_create(const char *name, u64 size, void **ret_mem, int *ret_fd)
{
	cleanup_close int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *mem;

	if (fd < 0)
		return uerr_errno(errno, "memory for map '%s'", name);
	if (ftruncate(fd, size) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return uerr_errno(errno, "memory for map '%s' (%llu bytes)", name, (unsigned long long)size);
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		return uerr_errno(errno, "memory for map '%s' (%llu bytes)", name, (unsigned long long)size);
	*ret_mem = mem;
	*ret_fd = steal_fd(&fd);
	return NULL;
}

/* Spare copies of per-CPU maps are touched by few, so are the spare places of
 * STACK_TRACE, and memory that nobody touches costs nothing. */
static u64 memory_needed(const struct umap *m)
{
	if (m->type == UMAP_STACK_TRACE)
		return m->size - (u64)m->nbuckets * m->elem_stride * (UMAP_STACK_PLACES - 1);
	if (!umap_is_percpu(m->type))
		return m->size;
	return m->size - m->slot_stride * (m->nslots - m->ncpus);
}

static struct uerr *check_memory(const char *name, const struct umap *m)
{
	u64 have = (u64)sysconf(_SC_PHYS_PAGES) * PAGE, need = memory_needed(m);

	if (need <= have)
		return NULL;
	return uerr_new(UERR_FAILED, "map '%s' with %u entries needs %llu MiB, but this machine has %llu MiB", name,
			m->max_entries, (unsigned long long)need >> 20, (unsigned long long)have >> 20);
}

struct uerr *umap_create(const char *name, u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 map_flags,
			 u32 ncpus, u32 id, struct umap *ret, int *ret_fd)
{
	return umap_create_locked(name, type, key_size, value_size, max_entries, map_flags, ncpus, id, 0, ret, ret_fd);
}

struct uerr *umap_create_locked(const char *name, u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 map_flags,
				u32 ncpus, u32 id, u32 lock, struct umap *ret, int *ret_fd)
{
	struct umap m;
	struct uerr *err;
	void *mem = NULL;
	long rc;

	if (type == UMAP_PERF_EVENT_ARRAY && !max_entries)
		max_entries = ncpus; /* as libbpf has it */
	rc = umap_geometry_locked(type, key_size, value_size, max_entries, map_flags, ncpus, id, lock, &m);

	if (rc == -EOPNOTSUPP)
		return uerr_new(UERR_REJECTED, "map '%s' has a struct bpf_spin_lock in its values, which only hash, array "
				"and task storage maps can have", name);
	if (rc)
		return uerr_errno(-rc, "map '%s' (type %u, key %u, value %u bytes, %u entries, flags 0x%x)", name, type,
				  key_size, value_size, max_entries, map_flags);
	err = check_memory(name, &m);
	if (!err)
		err = memory_create(name, m.size, &mem, ret_fd);
	if (err)
		return err;
	m.base = (u64)mem;
	umap_format(&m);
	*ret = m;
	return NULL;
}

void umap_destroy(struct umap *m, int fd)
{
	if (m && m->base) {
		munmap((void *)m->base, m->size);
		m->base = 0;
	}
	if (fd >= 0)
		close(fd);
}

struct uerr *umap_claims_create(u32 ncpus, struct umap_claims **ret, int *ret_fd)
{
	struct uerr *err;
	void *mem = NULL;

	err = memory_create("uprobed-claims", ALIGN_UP(UMAP_CLAIMS_SIZE(ncpus), PAGE), &mem, ret_fd);
	if (!err)
		*ret = mem;
	return err;
}

void umap_claims_recover(struct umap_claims *c, u32 ncpus, u32 owner)
{
	for (u32 i = 0; i < ncpus + UMAP_SPARE_SLOTS; i++)
		__sync_bool_compare_and_swap(&c->slot[i].owner, (u64)owner + 1, 0);
}

static u8 *array_copy(const struct umap *m, u32 index, u32 slot)
{
	return (u8 *)(m->base + m->data_off + slot * m->slot_stride + (u64)index * m->elem_stride);
}

static long array_read(const struct umap *m, u32 index, u8 *value)
{
	u32 words = user_stride(m) / 8;

	if (index >= m->max_entries)
		return -ENOENT;
	if (m->type == UMAP_ARRAY) {
		copy_out(value, array_copy(m, index, 0), m->value_size);
		value_hide_lock(m, value);
		return 0;
	}
	memset(value, 0, umap_user_value_size(m));
	for (u32 slot = 0; slot < m->nslots; slot++) {
		u64_any *to = (u64_any *)(value + (u64)(slot % m->ncpus) * words * 8);
		const u64 *from = (const u64 *)(void *)array_copy(m, index, slot);

		for (u32 w = 0; w < words; w++)
			to[w] += __atomic_load_n(from + w, __ATOMIC_RELAXED);
	}
	return 0;
}

static long percpu_array_write(const struct umap *m, u32 index, const u8 *value, u64 flags)
{
	if (flags > UMAP_EXIST)
		return -EINVAL;
	if (index >= m->max_entries)
		return -E2BIG;
	if (flags == UMAP_NOEXIST)
		return -EEXIST;
	for (u32 slot = 0; slot < m->nslots; slot++) {
		if (slot < m->ncpus)
			copy_in(array_copy(m, index, slot), value + (u64)slot * user_stride(m), m->value_size);
		else
			copy_zero(array_copy(m, index, slot), user_stride(m));
	}
	return 0;
}

long umap_host_access(const struct umap *m, bool read, bool write)
{
	if (read && m->map_flags & BPF_F_WRONLY)
		return -EPERM;
	return write && (m->frozen || m->sealed || m->map_flags & BPF_F_RDONLY) ? -EPERM : 0;
}

long umap_freeze(struct umap *m)
{
	long err = umap_host_access(m, false, true);

	if (!err)
		m->sealed = 1;
	return err;
}

long umap_read(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx)
{
	long err = umap_host_access(m, true, false);

	if (err)
		return err;
	if (umap_is_ring(m->type))
		return -UMAP_ENOTSUPP;
	if (type_is_keyless(m->type))
		return umap_peek(m, value, cx);
	if (m->type == UMAP_PROG_ARRAY)
		return prog_array_read(m, *(const u32_any *)key, value);
	if (m->type == UMAP_STACK_TRACE)
		return stackmap_read(m, *(const u32_any *)key, value);
	if (type_is_hash(m->type) || m->type == UMAP_TASK_STORAGE)
		return hash_read(m, key, value, cx);
	if (m->type == UMAP_LPM_TRIE)
		return trie_read(m, key, value, cx);
	return array_read(m, *(const u32_any *)key, value);
}

static long array_read_locked(const struct umap *m, u32 index, void *value, const struct umap_ctx *cx)
{
	void *lock;
	long err;

	if (index >= m->max_entries)
		return -ENOENT;
	lock = array_copy(m, index, 0) + m->lock - 1;
	if (!umap_spin_lock(lock, cx))
		return -EBUSY;
	err = array_read(m, index, value);
	umap_spin_unlock(lock, cx);
	return err;
}

long umap_read_flags(const struct umap *m, const void *key, void *value, u64 flags, const struct umap_ctx *cx)
{
	long err = umap_host_access(m, true, false);

	if (!flags)
		return umap_read(m, key, value, cx);
	if (err)
		return err;
	if (flags != UMAP_LOCK || !m->lock)
		return -EINVAL;
	return m->type != UMAP_ARRAY ? hash_read_locked(m, key, value, cx) :
				       array_read_locked(m, *(const u32_any *)key, value, cx);
}

long umap_write(const struct umap *m, const void *key, const void *value, u64 flags, const struct umap_ctx *cx)
{
	long err = umap_host_access(m, false, true);

	if (err)
		return err;
	if (flags & UMAP_LOCK && !m->lock)
		return -EINVAL;
	if (umap_is_ring(m->type))
		return -UMAP_ENOTSUPP;
	if (type_is_keyless(m->type))
		return umap_push(m, value, flags, cx);
	if (m->type == UMAP_PROG_ARRAY)
		return prog_array_write(m, *(const u32_any *)key, value, flags);
	if (m->type == UMAP_STACK_TRACE || m->type == UMAP_TASK_STORAGE) /* threads make their own */
		return -EINVAL;
	if (type_is_hash(m->type))
		return hash_update(m, key, value, flags, umap_is_percpu(m->type), cx);
	if (m->type == UMAP_LPM_TRIE)
		return trie_update(m, key, value, flags, cx);
	if (m->type == UMAP_PERCPU_ARRAY)
		return percpu_array_write(m, *(const u32_any *)key, value, flags);
	return array_update(m, key, value, flags, cx);
}

long umap_take(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx)
{
	long err = umap_host_access(m, true, true);

	if (err)
		return err;
	if (type_is_hash(m->type))
		return hash_take(m, key, value, cx);
	if (m->type == UMAP_STACK_TRACE)
		return stackmap_take(m, *(const u32_any *)key, value);
	return umap_is_queue(m->type) ? umap_pop(m, value, cx) : -UMAP_ENOTSUPP;
}

long umap_erase(const struct umap *m, const void *key, const struct umap_ctx *cx)
{
	long err = umap_host_access(m, false, true);

	return err ? err : umap_delete(m, key, cx);
}

long umap_peek_at(const struct umap *m, u32 n, void *value)
{
	return umap_is_queue(m->type) ? queue_peek_at(m, n, value) : -EINVAL;
}

long umap_next_key(const struct umap *m, const void *key, void *next_key)
{
	u32 next = 0;
	long err = umap_host_access(m, true, false);

	if (err)
		return err;
	if (umap_is_ring(m->type))
		return -UMAP_ENOTSUPP;
	if (type_is_keyless(m->type))
		return m->type == UMAP_BLOOM_FILTER ? -EOPNOTSUPP : -EINVAL;
	if (type_is_hash(m->type) || m->type == UMAP_TASK_STORAGE)
		return hash_next_key(m, key, next_key);
	if (m->type == UMAP_LPM_TRIE)
		return trie_next_key(m, key, next_key);
	if (m->type == UMAP_STACK_TRACE)
		return stackmap_next(m, key, next_key);
	if (key && *(const u32_any *)key < m->max_entries)
		next = *(const u32_any *)key + 1;
	if (next >= m->max_entries)
		return -ENOENT;
	*(u32_any *)next_key = next;
	return 0;
}

long umap_next_keys(const struct umap *m, const void *key, void *keys, u32 room, u32 *ret)
{
	long err = umap_host_access(m, true, false);

	*ret = 0;
	if (!err && m->type == UMAP_LPM_TRIE)
		return trie_next_keys(m, key, keys, room, ret);
	if (!err && (type_is_hash(m->type) || m->type == UMAP_TASK_STORAGE))
		return hash_keys_behind(m, key, keys, room, ret);
	while (!err && *ret < room) {
		u8 *next = (u8 *)keys + (size_t)*ret * m->key_size;

		err = umap_next_key(m, key, next);
		*ret += !err;
		key = next;
	}
	return err;
}

void umap_recover_locks(const struct umap *m, u64 there, const struct thread_rec *rec, u32 owner)
{
	if (m->lock)
		lock_recover(there, m->base, m->size, rec, owner);
}

long umap_task_of(const struct umap *m, const void *key, u32 *owner, u32 *tid)
{
	u64 k = *(const u64_any *)key;
	u32 raw;

	if (!k || k > 1u << 24 || hash_read_raw(m, key, &raw))
		return -ENOENT;
	*owner = (u32)k - 1;
	*tid = raw;
	return 0;
}

/* What a dead thread has left is nobody's. */
static void forget_task(const struct umap *m, u32 owner)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec};
	u64 key = task_key(owner);

	hash_delete(m, &key, &cx);
}

void umap_recover(const struct umap *m, const struct thread_rec *rec, u32 owner)
{
	if (m->type == UMAP_TASK_STORAGE)
		forget_task(m, owner);
	if (type_has_elems(m->type))
		hash_recover(m, rec, owner);
	else if (umap_is_queue(m->type))
		queue_recover(m, rec, owner);
	else if (m->type == UMAP_RINGBUF)
		ringbuf_recover(m, rec, owner);
	else if (m->type == UMAP_STACK_TRACE)
		stackmap_recover(m, rec, owner);
	else if (m->type == UMAP_USER_RINGBUF)
		user_ring_recover(m, owner);
	else if (m->type == UMAP_PERF_EVENT_ARRAY)
		perf_recover(m, rec, owner);
}
