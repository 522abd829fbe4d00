/* SPDX-License-Identifier: MIT */
/* One user of a map: what each operation answers, on every kind and size. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <linux/bpf.h>
#include <sys/mman.h>

#include "support.h"

static struct thread_rec rec;
static const struct umap_ctx cx = {.rec = &rec, .owner = OWNER_ID(1, 1)};

struct shape {
	u32 type, key_size, value_size, max_entries;
};

static const struct shape hashes[] = {
	{UMAP_HASH, 4, 8, 64},         {UMAP_HASH, 8, 8, 100},        {UMAP_HASH, 1, 1, 200},
	{UMAP_HASH, 3, 5, 64},         {UMAP_HASH, 16, 8, 64},        {UMAP_HASH, 37, 3, 65},
	{UMAP_HASH, 4, 9, 64},         {UMAP_HASH, 8, 64, 1},         {UMAP_HASH, 24, 1000, 63},
	{UMAP_HASH, 512, 4096, 10},    {UMAP_PERCPU_HASH, 4, 8, 64},  {UMAP_PERCPU_HASH, 12, 3, 2},
	{UMAP_PERCPU_HASH, 8, 40, 70},
};

static void make(const struct shape *s, struct umap *m, int *fd)
{
	ck_ok(umap_create("test", s->type, s->key_size, s->value_size, s->max_entries, 0, 3, 5, m, fd));
}

static void set_key(u8 *key, u32 size, u32 k)
{
	memset(key, 0, size);
	for (u32 i = 0; i < size; i++)
		key[i] = (u8)(i < 4 ? k >> 8 * i : k * 7 + i);
}

START_TEST(hash_answers)
{
	const struct shape *s = &hashes[_i];
	u8 key[512], value[4096], buf[3 * 4096];
	struct umap m;
	int fd;

	make(s, &m, &fd);
	for (u32 k = 0; k < s->max_entries; k++) {
		set_key(key, s->key_size, k);
		memset(value, k + 1, sizeof(value));
		ck_assert_ptr_null(umap_lookup(&m, key, &cx));
		ck_assert_int_eq(umap_delete(&m, key, &cx), -ENOENT);
		ck_assert_int_eq(umap_update(&m, key, value, UMAP_EXIST, &cx), -ENOENT);
		ck_assert_int_eq(umap_update(&m, key, value, 3, &cx), -EINVAL);
		ck_assert_int_eq(umap_update(&m, key, value, UMAP_NOEXIST, &cx), 0);
		ck_assert_int_eq(umap_update(&m, key, value, UMAP_NOEXIST, &cx), -EEXIST);
		ck_assert_int_eq(umap_update(&m, key, value, k & 1 ? UMAP_EXIST : UMAP_ANY, &cx), 0);
	}
	ck_assert_uint_eq(check_hash(&m), s->max_entries);
	set_key(key, s->key_size, s->max_entries);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(umap_update(&m, key, value, UMAP_ANY, &cx), -E2BIG);
		ck_assert_int_eq(umap_update(&m, key, value, UMAP_NOEXIST, &cx), -E2BIG);
		ck_assert_int_eq(umap_update(&m, key, value, UMAP_EXIST, &cx), -ENOENT);
	}
	for (u32 k = 0; k < s->max_entries; k++) {
		void *p;

		set_key(key, s->key_size, k);
		memset(value, k + 1, sizeof(value));
		p = umap_lookup(&m, key, &cx);
		ck_assert_ptr_nonnull(p);
		ck_assert_uint_eq((u64)p % 8, 0);
		ck_assert_mem_eq(p, value, s->value_size);
		ck_assert_int_eq(umap_read(&m, key, buf, &cx), 0);
		ck_assert_mem_eq(buf, value, s->value_size);
		if (k & 1)
			continue;
		ck_assert_int_eq(umap_delete(&m, key, &cx), 0);
		ck_assert_ptr_null(umap_lookup(&m, key, &cx));
		ck_assert_int_eq(umap_read(&m, key, buf, &cx), -ENOENT);
	}
	ck_assert_uint_eq(check_hash(&m), s->max_entries / 2);
	set_key(key, s->key_size, s->max_entries);
	ck_assert_int_eq(umap_update(&m, key, value, UMAP_ANY, &cx), 0);
	ck_assert_uint_eq(rec.depth, 0);
	for (int i = 0; i < MAP_INTENTS; i++)
		ck_assert(!rec.intents[i].alloc && !rec.intents[i].unlink);
	umap_destroy(&m, fd);
}
END_TEST

static long lru_put(struct umap *m, u32 key)
{
	u64 value[3] = {key, key, key};

	return umap_update(m, &key, value, UMAP_ANY, &cx);
}

static bool lru_has(struct umap *m, u32 key)
{
	u64 value[16];

	return !umap_read(m, &key, value, &cx); /* which is no use */
}

/* What goes is the oldest that has not been used since; programs use elements by
 * looking them up or updating them. */
START_TEST(lru_evicts_what_is_unused)
{
	static const struct shape lrus[] = {
		{UMAP_LRU_HASH, 4, 8, 4}, {UMAP_LRU_HASH, 4, 24, 4}, {UMAP_LRU_PERCPU_HASH, 4, 8, 4},
	};
	struct umap m;
	u32 key;
	int fd;

	make(&lrus[_i], &m, &fd);
	for (key = 0; key < 4; key++)
		ck_assert_int_eq(lru_put(&m, key), 0);
	key = 0;
	ck_assert_ptr_nonnull(umap_lookup(&m, &key, &cx));
	ck_assert_int_eq(lru_put(&m, 2), 0);
	ck_assert_int_eq(lru_put(&m, 10), 0);
	ck_assert_int_eq(lru_put(&m, 11), 0);
	ck_assert_uint_eq(check_hash(&m), 4);
	ck_assert(lru_has(&m, 0) && !lru_has(&m, 1) && lru_has(&m, 2) && !lru_has(&m, 3) && lru_has(&m, 10) && lru_has(&m, 11));
	/* spared once: the hand comes by 0, 10, 2 */
	for (key = 12; key < 15; key++)
		ck_assert_int_eq(lru_put(&m, key), 0);
	ck_assert(lru_has(&m, 11) && lru_has(&m, 12) && lru_has(&m, 13) && lru_has(&m, 14));
	/* nothing goes while there is room */
	key = 12;
	ck_assert_int_eq(umap_delete(&m, &key, &cx), 0);
	ck_assert_int_eq(lru_put(&m, 15), 0);
	ck_assert(lru_has(&m, 11) && lru_has(&m, 13) && lru_has(&m, 14) && lru_has(&m, 15));
	for (key = 100; key < 1100; key++) {
		ck_assert_int_eq(lru_put(&m, key), 0);
		ck_assert_uint_eq(check_hash(&m), 4);
	}
	key = 5000;
	ck_assert_int_eq(umap_update(&m, &key, (u64[3]){0}, UMAP_EXIST, &cx), -ENOENT);
	ck_assert_uint_eq(rec.depth, 0);
	umap_destroy(&m, fd);
}
END_TEST

/* A value that is replaced is the old or the new one whole for who looked it up. */
START_TEST(long_value_is_replaced_not_overwritten)
{
	struct umap m;
	int fd;
	u32 key = 7;
	u64 value[8], *p, *q;

	make(&(struct shape){UMAP_HASH, 4, sizeof(value), 4}, &m, &fd);
	memset(value, 1, sizeof(value));
	ck_assert_int_eq(umap_update(&m, &key, value, UMAP_ANY, &cx), 0);
	p = umap_lookup(&m, &key, &cx);
	memset(value, 2, sizeof(value));
	ck_assert_int_eq(umap_update(&m, &key, value, UMAP_ANY, &cx), 0);
	q = umap_lookup(&m, &key, &cx);
	ck_assert_ptr_ne(p, q);
	ck_assert_uint_eq(p[0], 0x0101010101010101ull);
	ck_assert_uint_eq(q[7], 0x0202020202020202ull);
	umap_destroy(&m, fd);
}
END_TEST

/* Short ones stay where they are, so that adds through old pointers count. */
START_TEST(short_value_stays_in_place)
{
	struct umap m;
	int fd;
	u32 key = 7;
	u64 value = 5, *p;

	make(&(struct shape){UMAP_HASH, 4, 8, 4}, &m, &fd);
	ck_assert_int_eq(umap_update(&m, &key, &value, UMAP_ANY, &cx), 0);
	p = umap_lookup(&m, &key, &cx);
	value = 10;
	ck_assert_int_eq(umap_update(&m, &key, &value, UMAP_EXIST, &cx), 0);
	__sync_fetch_and_add(p, 3);
	ck_assert_ptr_eq(umap_lookup(&m, &key, &cx), p);
	ck_assert_uint_eq(*p, 13);
	umap_destroy(&m, fd);
}
END_TEST

static const struct shape arrays[] = {
	{UMAP_ARRAY, 4, 8, 16}, {UMAP_ARRAY, 4, 3, 5}, {UMAP_ARRAY, 4, 4097, 1}, {UMAP_PERCPU_ARRAY, 4, 8, 16},
	{UMAP_PERCPU_ARRAY, 4, 13, 3},
};

START_TEST(array_answers)
{
	const struct shape *s = &arrays[_i];
	u8 value[4097], buf[3 * 4104];
	struct umap m;
	u32 next;
	int fd;

	make(s, &m, &fd);
	for (u32 k = 0; k < s->max_entries; k++) {
		u8 *p = umap_lookup(&m, &k, &cx);

		ck_assert_ptr_nonnull(p);
		ck_assert_uint_eq(p[s->value_size - 1], 0);
		memset(value, k + 1, sizeof(value));
		ck_assert_int_eq(umap_update(&m, &k, value, UMAP_ANY, &cx), 0);
		ck_assert_int_eq(umap_update(&m, &k, value, UMAP_EXIST, &cx), 0);
		ck_assert_int_eq(umap_update(&m, &k, value, UMAP_NOEXIST, &cx), -EEXIST);
		ck_assert_int_eq(umap_update(&m, &k, value, 4, &cx), -EINVAL);
		ck_assert_int_eq(umap_delete(&m, &k, &cx), -EINVAL);
		ck_assert_ptr_eq(umap_lookup(&m, &k, &cx), p);
		ck_assert_mem_eq(p, value, s->value_size);
	}
	for (u32 k = 0; k < s->max_entries; k++) {
		memset(value, k + 1, sizeof(value));
		ck_assert_int_eq(umap_read(&m, &k, buf, &cx), 0);
		ck_assert_mem_eq(buf, value, s->value_size);
		ck_assert_int_eq(umap_next_key(&m, k ? &(u32){k - 1} : NULL, &next), 0);
		ck_assert_uint_eq(next, k);
	}
	next = s->max_entries;
	ck_assert_ptr_null(umap_lookup(&m, &next, &cx));
	ck_assert_int_eq(umap_read(&m, &next, buf, &cx), -ENOENT);
	ck_assert_int_eq(umap_update(&m, &next, value, UMAP_ANY, &cx), -E2BIG);
	ck_assert_int_eq(umap_write(&m, &next, buf, UMAP_NOEXIST, &cx), -E2BIG);
	ck_assert_int_eq(umap_next_key(&m, &(u32){s->max_entries - 1}, &next), -ENOENT);
	ck_assert_int_eq(umap_next_key(&m, &(u32){~0u}, &next), 0);
	ck_assert_uint_eq(next, 0);
	umap_destroy(&m, fd);
}
END_TEST

/* Copies are each claimant's own, readers see them folded, and a key that comes
 * back starts from zero in all of them. */
START_TEST(percpu_copies_fold)
{
	u32 type = _i ? UMAP_PERCPU_HASH : UMAP_PERCPU_ARRAY, key = 2;
	u64 seen[3], one = 1;
	struct umap m;
	int fd;

	make(&(struct shape){type, 4, 8, 4}, &m, &fd);
	ck_assert_uint_eq(m.nslots, 3 + UMAP_SPARE_SLOTS);
	ck_assert_uint_eq(umap_user_value_size(&m), sizeof(seen));
	for (int life = 0; life < 3; life++) {
		for (u32 slot = 0; slot < m.nslots; slot++) {
			struct umap_ctx mine = {&rec, 9, slot};
			u64 *p;

			if (!slot)
				ck_assert_int_eq(umap_update(&m, &key, &one, UMAP_ANY, &mine), 0);
			p = umap_lookup(&m, &key, &mine);
			ck_assert_uint_eq(*p, !slot);
			*p += slot;
		}
		ck_assert_int_eq(umap_read(&m, &key, seen, &cx), 0);
		for (u64 cpu = 0, sum; cpu < 3; cpu++) {
			sum = cpu == 0;
			for (u32 slot = cpu; slot < m.nslots; slot += 3)
				sum += slot;
			ck_assert_uint_eq(seen[cpu], sum);
		}
		seen[0] = 100, seen[1] = 200, seen[2] = 300;
		ck_assert_int_eq(umap_write(&m, &key, seen, UMAP_EXIST, &cx), 0);
		ck_assert_int_eq(umap_read(&m, &key, seen, &cx), 0);
		ck_assert_uint_eq(seen[0] + 10 * seen[1] + 100 * seen[2], 100 + 2000 + 30000);
		memset(seen, 0, sizeof(seen));
		if (type == UMAP_PERCPU_HASH)
			ck_assert_int_eq(umap_delete(&m, &key, &cx), 0);
		else
			ck_assert_int_eq(umap_write(&m, &key, seen, UMAP_ANY, &cx), 0);
	}
	ck_assert_ptr_null(umap_lookup(&m, &key, &(struct umap_ctx){&rec, 9, m.nslots}));
	umap_destroy(&m, fd);
}
END_TEST

/* All keys once, in an order that goes on when the key at hand is deleted. */
START_TEST(iteration_survives_deletes)
{
	const struct shape *s = &hashes[_i];
	u8 key[512], value[3 * 4096] = {0};
	struct umap m;
	u32 n = 0;
	int fd;

	make(s, &m, &fd);
	ck_assert_int_eq(umap_next_key(&m, NULL, key), -ENOENT);
	for (u32 k = 0; k < s->max_entries; k++) {
		set_key(key, s->key_size, k);
		ck_assert_int_eq(umap_write(&m, key, value, UMAP_ANY, &cx), 0);
	}
	for (long rc = umap_next_key(&m, NULL, key); !rc; rc = umap_next_key(&m, key, key)) {
		ck_assert_int_eq(umap_delete(&m, key, &cx), 0);
		n++;
	}
	ck_assert_uint_eq(n, s->max_entries);
	ck_assert_uint_eq(check_hash(&m), 0);
	umap_destroy(&m, fd);
}
END_TEST

START_TEST(frozen_is_read_only)
{
	struct umap m;
	u32 key = 0;
	u64 value = 1;
	int fd;

	make(&(struct shape){_i ? UMAP_HASH : UMAP_ARRAY, 4, 8, 1}, &m, &fd);
	m.frozen = 1;
	ck_assert_int_eq(umap_update(&m, &key, &value, UMAP_ANY, &cx), -EPERM);
	ck_assert_int_eq(umap_write(&m, &key, &value, UMAP_ANY, &cx), -EPERM);
	ck_assert_int_eq(umap_delete(&m, &key, &cx), -EPERM);
	umap_destroy(&m, fd);
}
END_TEST

static const struct {
	long want;
	u32 type, key_size, value_size, max_entries, flags;
} geometries[] = {
	{0, UMAP_HASH, 4, 8, 1, BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED | BPF_F_RDONLY_PROG},
	{-EINVAL, UMAP_HASH, 0, 8, 1, 0},
	{-EINVAL, UMAP_HASH, 4, 0, 1, 0},
	{-EINVAL, UMAP_HASH, 4, 8, 0, 0},
	{-EINVAL, UMAP_HASH, 4, 8, 1, BPF_F_MMAPABLE},
	{-EINVAL, UMAP_HASH, 4, 8, 1, BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG},
	{-EINVAL, UMAP_HASH, 4, 8, 1, BPF_F_RDONLY | BPF_F_WRONLY},
	{-EINVAL, 99, 4, 8, 1, 0},
	{-E2BIG, UMAP_HASH, 4, 4 << 20, 1, 0},
	{-E2BIG, UMAP_HASH, ~0u, ~0u, 1, 0},
	{-E2BIG, UMAP_HASH, 4, 8, ~0u, 0},
	{-E2BIG, UMAP_HASH, 4, 1 << 20, 1 << 26, 0},
	{-E2BIG, UMAP_PERCPU_HASH, 4, (32 << 10) + 1, 1, 0},
	{0, UMAP_PERCPU_HASH, 4, 32 << 10, 1, 0},
	{0, UMAP_ARRAY, 4, 8, 1, BPF_F_MMAPABLE | BPF_F_RDONLY_PROG},
	{-EINVAL, UMAP_ARRAY, 8, 8, 1, 0},
	{-EINVAL, UMAP_ARRAY, 4, 8, 1, BPF_F_NO_PREALLOC},
	{-EINVAL, UMAP_PERCPU_ARRAY, 4, 8, 1, BPF_F_MMAPABLE},
	{-E2BIG, UMAP_ARRAY, 4, 0x80000000u, 1, 0},
	{-E2BIG, UMAP_ARRAY, 4, 0x7fffffffu, ~0u, 0},
	{-E2BIG, UMAP_PERCPU_ARRAY, 4, (32 << 10) + 1, 1, 0},
};

START_TEST(geometry_refuses)
{
	struct umap m;

	ck_assert_int_eq(umap_geometry(geometries[_i].type, geometries[_i].key_size, geometries[_i].value_size,
				       geometries[_i].max_entries, geometries[_i].flags, 2, 1, &m),
			 geometries[_i].want);
}
END_TEST

START_TEST(memory_is_sealed)
{
	struct umap m;
	int fd;

	make(&hashes[0], &m, &fd);
	ck_assert_int_eq(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	umap_destroy(&m, fd);
	ck_assert_uint_eq(m.base, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
}
END_TEST

START_TEST(too_large_says_how_large)
{
	struct umap m;
	struct uerr *err;
	int fd = -1;

	err = umap_create("huge", UMAP_ARRAY, 4, 1 << 20, 1 << 19, 0, 2, 1, &m, &fd);
	ck_assert_ptr_nonnull(err);
	ck_assert_int_eq(err->code, UERR_FAILED);
	ck_assert_ptr_nonnull(strstr(err->message, "'huge'"));
	ck_assert_ptr_nonnull(strstr(err->message, "524288 MiB"));
	ck_assert_int_eq(fd, -1);
	uerr_free(err);
}
END_TEST

/* A lock that its dead owner held is free again, whoever waited for it meanwhile; what
 * others hold is not touched. The owner's process had the map elsewhere. */
START_TEST(locks_of_the_dead)
{
	struct thread_rec dead = {0}, other = {0};
	struct umap_ctx he = {.rec = &dead, .owner = OWNER_ID(3, 7)}, she = {.rec = &other, .owner = OWNER_ID(3, 8)};
	u64 there = 0x7f0000000000;
	u32 key = 1, *lock, *second;
	struct umap m;
	int fd;

	ck_ok(umap_create_locked("test", UMAP_ARRAY, 4, 16, 4, 0, 2, 1, 1 + 8, &m, &fd));
	lock = (u32 *)(void *)((u8 *)umap_lookup(&m, &key, &cx) + 8);
	second = lock + 4;
	ck_assert(umap_spin_lock(lock, &he));
	ck_assert(!umap_spin_lock(lock, &he)); /* a signal handler's */
	ck_assert(!umap_spin_lock(lock, &she));
	ck_assert(umap_spin_lock(second, &she));
	ck_assert_uint_eq(dead.depth, 1);
	ck_assert_uint_eq(other.depth, 1);
	for (u32 i = 0; i < MAP_INTENTS; i++)
		if (dead.intents[i].unlink_state)
			dead.intents[i].unlink_state += there - m.base;
	umap_recover_locks(&m, there, &other, OWNER_ID(3, 7)); /* not his record */
	umap_recover_locks(&m, there + 64, &dead, OWNER_ID(3, 7)); /* not this map */
	ck_assert_uint_ne(*lock, 0);
	umap_recover_locks(&m, there, &dead, OWNER_ID(3, 7));
	ck_assert_uint_eq(*lock, 0);
	ck_assert_uint_ne(*second, 0);
	ck_assert(umap_spin_lock(lock, &she));
	umap_spin_unlock(lock, &she);
	umap_spin_unlock(second, &she);
	ck_assert_uint_eq(*lock | *second, 0);
	ck_assert_uint_eq(other.depth, 0);
	umap_destroy(&m, fd);
	ck_assert_int_eq(umap_geometry_locked(UMAP_LRU_HASH, 4, 16, 4, 0, 2, 1, 1, &m), -EOPNOTSUPP);
	ck_assert_int_eq(umap_geometry_locked(UMAP_HASH, 4, 16, 4, 0, 2, 1, 1 + 13, &m), -EINVAL);
}
END_TEST

/* A thread has what it asked for, until it or the daemon gives it up; who takes over its record does not. */
START_TEST(storage_of_threads)
{
	static const struct umap_ctx he = {.rec = &rec, .owner = OWNER_ID(2, 5)}, she = {.rec = &rec, .owner = OWNER_ID(2, 6)},
				     nobody = {.rec = &rec, .owner = OWNER_ID(2, (1 << OWNER_REC_BITS) - 1)};
	static const u32 first[3] = {1, 2, 3};
	u32 *his, *hers, owner, tid, got[3];
	struct thread_rec dead = {0};
	struct umap m;
	u64 key, next;
	int fd;

	ck_ok(umap_create("tasks", UMAP_TASK_STORAGE, 4, 12, 0, BPF_F_NO_PREALLOC, 2, 1, &m, &fd));
	ck_assert_ptr_null(umap_task_get(&m, 100, NULL, false, &he));
	his = umap_task_get(&m, 100, first, true, &he);
	hers = umap_task_get(&m, 101, NULL, true, &she);
	ck_assert_ptr_nonnull(his);
	ck_assert_ptr_nonnull(hers);
	ck_assert_mem_eq(his, first, sizeof(first));
	ck_assert_uint_eq(hers[0] | hers[1] | hers[2], 0);
	ck_assert_ptr_null(umap_task_get(&m, 102, first, true, &nobody));
	his[2] = 77;
	ck_assert_ptr_eq(umap_task_get(&m, 100, first, true, &he), his);
	ck_assert_uint_eq(his[2], 77);
	ck_assert_int_eq(umap_next_key(&m, NULL, &key), 0);
	ck_assert_int_eq(umap_next_key(&m, &key, &next), 0);
	ck_assert_int_eq(umap_next_key(&m, &next, &next), -ENOENT);
	ck_assert_int_eq(umap_task_of(&m, &key, &owner, &tid), 0);
	ck_assert_uint_eq(owner - OWNER_ID(2, 0), tid - 95);
	ck_assert_int_eq(umap_read(&m, &key, got, &cx), 0);
	ck_assert_mem_eq(got, tid == 100 ? his : hers, sizeof(got));
	ck_assert_int_eq(umap_write(&m, &key, got, UMAP_ANY, &cx), -EINVAL);
	/* the record's next thread begins with zeros */
	ck_assert_ptr_null(umap_task_get(&m, 200, NULL, false, &he));
	ck_assert_int_eq(umap_task_delete(&m, 200, &he), -ENOENT);
	ck_assert_int_eq(umap_task_delete(&m, 101, &she), 0);
	ck_assert_int_eq(umap_next_key(&m, NULL, &key), -ENOENT);
	ck_assert_ptr_nonnull(umap_task_get(&m, 300, first, true, &he));
	umap_recover(&m, &dead, OWNER_ID(2, 7));
	ck_assert_ptr_nonnull(umap_task_get(&m, 300, NULL, false, &he));
	umap_recover(&m, &dead, OWNER_ID(2, 5));
	ck_assert_ptr_null(umap_task_get(&m, 300, NULL, false, &he));
	ck_assert_uint_eq(check_hash(&m), 0);
	umap_destroy(&m, fd);
}
END_TEST

/* Ten million elements cost what is in them, not what could be. */
START_TEST(memory_comes_as_it_is_used)
{
	static const struct {
		u32 type, value_size;
	} kinds[] = {{UMAP_HASH, 8}, {UMAP_HASH, 64}, {UMAP_LRU_HASH, 8}, {UMAP_PERCPU_HASH, 8}, {UMAP_ARRAY, 64}, {UMAP_QUEUE, 16}};
	u64 one[128] = {7};
	struct stat st;
	struct umap m;
	u32 key = 9999999;
	int fd;

	ck_ok(umap_create("big", kinds[_i].type, kinds[_i].type == UMAP_QUEUE ? 0 : 4, kinds[_i].value_size, 10000000, 0, 2, 1,
			  &m, &fd));
	ck_assert_int_eq(umap_write(&m, &key, one, UMAP_ANY, &cx), 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_gt(m.size, 100000000);
	ck_assert_msg(st.st_blocks * 512ul < 3000000, "%lu of %lu bytes are there", (long)st.st_blocks * 512, (long)m.size);
	memset(one, 0, sizeof(one));
	ck_assert_int_eq(umap_read(&m, &key, one, &cx), 0);
	ck_assert_uint_eq(one[0], 7);
	umap_destroy(&m, fd);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, locks_of_the_dead);
	tcase_add_test(tc, storage_of_threads);
	tcase_add_loop_test(tc, memory_comes_as_it_is_used, 0, 6);
	tcase_add_loop_test(tc, hash_answers, 0, ARRAY_SIZE(hashes));
	tcase_add_loop_test(tc, lru_evicts_what_is_unused, 0, 3);
	tcase_add_test(tc, long_value_is_replaced_not_overwritten);
	tcase_add_test(tc, short_value_stays_in_place);
	tcase_add_loop_test(tc, array_answers, 0, ARRAY_SIZE(arrays));
	tcase_add_loop_test(tc, percpu_copies_fold, 0, 2);
	tcase_add_loop_test(tc, iteration_survives_deletes, 0, ARRAY_SIZE(hashes));
	tcase_add_loop_test(tc, frozen_is_read_only, 0, 2);
	tcase_add_loop_test(tc, geometry_refuses, 0, ARRAY_SIZE(geometries));
	tcase_add_test(tc, memory_is_sealed);
	tcase_add_test(tc, too_large_says_how_large);
}

int main(void)
{
	return run_tests("semantics", add, 30);
}
