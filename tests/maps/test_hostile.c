/* SPDX-License-Identifier: MIT */
/*
 * Somebody scribbles over the whole memory of a map while it is used: results
 * are worth nothing, but nobody crashes, hangs, or touches what is outside. The
 * memory lies between guards that are wider than any index can reach.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <sys/mman.h>

#include "support.h"

#define GUARD (256ull << 30)
#define STEPS 8000

static const struct {
	u32 type, key_size, value_size, max_entries;
} shapes[] = {
	{UMAP_LPM_TRIE, 8, 8, 16},
	{UMAP_HASH, 4, 8, 64},         {UMAP_HASH, 24, 8, 64},         {UMAP_HASH, 8, 100, 16},
	{UMAP_PERCPU_HASH, 4, 8, 64},  {UMAP_PERCPU_HASH, 16, 20, 8},  {UMAP_ARRAY, 4, 8, 64},
	{UMAP_PERCPU_ARRAY, 4, 12, 8}, {UMAP_LRU_HASH, 4, 8, 8},       {UMAP_LRU_HASH, 24, 40, 8},
	{UMAP_LRU_PERCPU_HASH, 4, 8, 8},
};

static struct umap map;
static int stop;

/* Wild words, and words that look right: small indices, links to buckets, marks,
 * states of use, so that chains cross and loop. */
static u64 hostile_word(u64 *seed)
{
	u64 r = rnd(seed), small = r % 80;

	switch (rnd(seed) % 6) {
	case 0:
		return r << 20 ^ rnd(seed);
	case 1:
		return LINK_END | small;
	case 2:
		return small | LINK_MARK | (r >> 9 & 1 ? LINK_TAKE : 0);
	case 3:
		return STATE(small, small, r >> 8 & 1);
	case 4:
		return ~0ull;
	default:
		return small;
	}
}

static void *scribble(void *arg)
{
	u64 seed = 4242, words = map.size / 8;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
		__atomic_store_n((u64 *)map.base + rnd(&seed) % words, hostile_word(&seed), __ATOMIC_RELAXED);
	return NULL;
}

static void inside(const void *p, u64 size)
{
	ck_assert(!p || ((u64)p >= map.base && (u64)p + size <= map.base + map.size));
}

static long visit(void *arg, const void *key, void *value)
{
	inside(value, map.value_size);
	return --*(u32 *)arg == 0;
}

static void one_step(u64 *seed, struct umap_ctx *cx)
{
	u32 visits = 1000;
	u8 key[32], value[256], big[4096];
	struct thread_rec dead;

	memset(key, 0, sizeof(key));
	key[0] = rnd(seed) % 20;
	memset(value, 1, sizeof(value));
	memset(big, 1, sizeof(big));
	cx->slot = rnd(seed) % (map.nslots + 2);
	switch (rnd(seed) % 10) {
	case 0:
		umap_update(&map, key, value, UMAP_ANY, cx);
		break;
	case 1:
		umap_delete(&map, key, cx);
		break;
	case 2:
		inside(umap_lookup(&map, key, cx), map.value_size);
		break;
	case 3:
		umap_read(&map, key, big, cx);
		break;
	case 8:
		umap_take(&map, key, big, cx);
		break;
	case 4:
		umap_write(&map, key, big, UMAP_ANY, cx);
		break;
	case 7:
		umap_for_each(&map, visit, &visits, cx);
		break;
	case 5:
	case 6:
		for (u32 n = 0; n < 8 && !umap_next_key(&map, n ? key : NULL, key); n++)
			;
		break;
	default:
		for (u32 i = 0; i < MAP_INTENTS; i++) {
			dead.intents[i].alloc = (u64)map.id << 32 | hostile_word(seed);
			dead.intents[i].unlink = (u64)map.id << 32 | hostile_word(seed);
			dead.intents[i].unlink_state = hostile_word(seed);
		}
		umap_recover(&map, &dead, 1);
	}
}

START_TEST(scribbled)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec, .owner = 1};
	u64 seed = 31337 + _i;
	pthread_t other;
	u8 *area;

	ck_assert_int_eq(umap_geometry(shapes[_i].type, shapes[_i].key_size, shapes[_i].value_size,
				       shapes[_i].max_entries, shapes[_i].type == UMAP_LPM_TRIE ? BPF_F_NO_PREALLOC : 0, 2, 3, &map), 0);
	area = mmap(NULL, 2 * GUARD + map.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert_ptr_ne(area, MAP_FAILED);
	map.base = (u64)area + GUARD;
	ck_assert_int_eq(mprotect((void *)map.base, map.size, PROT_READ | PROT_WRITE), 0);
	umap_format(&map);
	stop = 0;
	ck_assert_int_eq(pthread_create(&other, NULL, scribble, NULL), 0);
	for (int n = 0; n < STEPS; n++) {
		one_step(&seed, &cx);
		if (n % 50 == 49)
			umap_format(&map);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	pthread_join(other, NULL);
	ck_assert_uint_eq(rec.depth, 0);
	munmap(area, 2 * GUARD + map.size);
}
END_TEST

/* A chain that bites its tail, and nobody who straightens it. */
START_TEST(endless_chain_ends)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec, .owner = 1};
	u64 value = 1;
	u32 key = 1, other = 2, next;
	int fd;

	ck_ok(umap_create("test", UMAP_HASH, 4, 8, 2, 0, 2, 1, &map, &fd));
	ck_assert_int_eq(umap_update(&map, &key, &value, UMAP_ANY, &cx), 0);
	for (u32 b = 0; b < map.nbuckets; b++)
		*hash_bucket(&map, b) = 1;
	for (u32 i = 0; i < map.nelems; i++)
		hash_elem(&map, i)->next = 1;
	ck_assert_ptr_null(umap_lookup(&map, &other, &cx));
	ck_assert_int_eq(umap_update(&map, &other, &value, UMAP_ANY, &cx), -EBUSY);
	ck_assert_int_eq(umap_delete(&map, &other, &cx), -EBUSY);
	ck_assert_int_eq(umap_read(&map, &other, &value, &cx), -EBUSY);
	ck_assert_int_eq(umap_next_key(&map, &other, &next), -ENOENT);
	/* every element is marked, and unlinking one brings it back */
	for (u32 i = 0; i < map.nelems; i++)
		hash_elem(&map, i)->next = LINK_MARK | (1 + !i);
	ck_assert_int_eq(umap_update(&map, &other, &value, UMAP_ANY, &cx), -EBUSY);
	for (u32 i = 0; i < map.nelems; i++)
		hash_elem(&map, i)->next = LINK_MARK | LINK_TAKE | (1 + !i);
	ck_assert_int_eq(umap_update(&map, &other, &value, UMAP_ANY, &cx), -EBUSY);
	ck_assert_int_eq(umap_take(&map, &other, &value, &cx), -EBUSY);
	ck_assert_uint_eq(rec.depth, 0);
	umap_destroy(&map, fd);
}
END_TEST

/* Every bucket leads into one endless chain: a pass over all keys has one patience, not
 * one for each bucket, and the keys of one bucket are had by one walk. */
START_TEST(endless_buckets_end)
{
	enum { ENTRIES = 1 << 19, ROOM = 4096 };
	static const u32 types[] = {UMAP_HASH, UMAP_LPM_TRIE};
	bool trie = types[_i] == UMAP_LPM_TRIE;
	static u64 keys[ROOM], values[ROOM], cursor;
	struct umap_batch batch = {.keys = keys, .values = values, .count = ROOM};
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec, .owner = 1};
	u64 key = trie ? 32 : 0, value = 1;
	u32 n;
	int fd;

	ck_ok(umap_create("test", types[_i], 8, 8, ENTRIES, trie ? BPF_F_NO_PREALLOC : 0, 2, 1, &map, &fd));
	ck_assert_int_eq(umap_update(&map, &key, &value, UMAP_ANY, &cx), 0);
	for (u32 b = 0; b < map.nbuckets; b++)
		*hash_bucket(&map, b) = 1;
	for (u32 i = 0; i < map.nelems; i++)
		hash_elem(&map, i)->next = 2 + i < map.nelems ? 2 + i : 1;
	ck_assert_int_eq(umap_next_keys(&map, NULL, keys, ROOM, &n), -ENOENT);
	ck_assert_int_le(umap_read_batch(&map, NULL, &cursor, &batch, &cx), 0);
	umap_destroy(&map, fd);
}
END_TEST

/* The target chooses its keys: all of them in one bucket. */
START_TEST(one_bucket_is_walked_once)
{
	enum { ENTRIES = 1 << 19, KEYS = 40000 };
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec, .owner = 1};
	u64 *keys = malloc(KEYS * sizeof(*keys)), *values = malloc(KEYS * sizeof(*values));
	struct umap_batch batch = {.keys = keys, .values = values, .count = KEYS};
	u64 inverse = HASH_MULTIPLIER, *link;
	u32 n, cursor;
	int fd;

	for (u32 i = 0; i < 6; i++)
		inverse *= 2 - HASH_MULTIPLIER * inverse;
	ck_ok(umap_create("test", UMAP_HASH, 8, 8, ENTRIES, 0, 2, 1, &map, &fd));
	link = hash_bucket(&map, 0);
	for (u32 i = 0; i < KEYS; *link = ++i) {
		u64 key = i * inverse;

		ck_assert_uint_eq(key_bucket(&map, key), 0);
		*hash_elem(&map, i) = (struct hash_elem){ i ? *link : LINK_END, key, i, STATE(1, 1, STATE_USED) };
	}
	ck_assert_int_eq(umap_read_batch(&map, NULL, &cursor, &batch, &cx), 0);
	ck_assert_uint_eq(batch.count, KEYS);
	ck_assert_int_eq(umap_next_keys(&map, NULL, keys, KEYS, &n), 0);
	ck_assert_uint_eq(n, KEYS);
	for (u32 i = 1; i < n; i++)
		ck_assert(memcmp(&keys[i - 1], &keys[i], sizeof(*keys)) < 0);
	ck_assert_int_eq(umap_next_keys(&map, &keys[KEYS - 1], values, KEYS, &n), -ENOENT);
	ck_assert_uint_eq(n, 0);
	ck_assert_int_eq(umap_next_keys(&map, &keys[99], values, 100, &n), 0);
	ck_assert_mem_eq(values, keys + 100, 100 * sizeof(*keys));
	free(keys);
	free(values);
	umap_destroy(&map, fd);
}
END_TEST

START_TEST(wild_block_is_not_followed)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec, .owner = 1};
	u8 value[100] = {1};
	u32 key = 1;
	int fd;

	ck_ok(umap_create("test", UMAP_HASH, 4, sizeof(value), 2, 0, 2, 1, &map, &fd));
	ck_assert_int_eq(umap_update(&map, &key, value, UMAP_ANY, &cx), 0);
	for (u32 i = 0; i < map.nelems; i++)
		hash_elem(&map, i)->val = map.nblocks;
	ck_assert_ptr_null(umap_lookup(&map, &key, &cx));
	ck_assert_int_eq(umap_update(&map, &key, value, UMAP_ANY, &cx), -EBUSY);
	ck_assert_int_eq(umap_read(&map, &key, value, &cx), 0);
	key = 2;
	ck_assert_int_eq(umap_update(&map, &key, value, UMAP_ANY, &cx), -EBUSY);
	umap_destroy(&map, fd);
}
END_TEST

/* The thread's record is the target's memory as well. */
START_TEST(record_is_hostile)
{
	struct thread_rec rec = {.depth = 0xfff0};
	struct umap_ctx cx = {.rec = &rec, .owner = ~0u};
	u64 value = 1;
	u32 key = 1;
	int fd;

	ck_ok(umap_create("test", UMAP_HASH, 4, 8, 4, 0, 2, 1, &map, &fd));
	ck_assert_int_eq(umap_update(&map, &key, &value, UMAP_ANY, &cx), -EBUSY);
	rec.depth = 0;
	ck_assert_int_eq(umap_update(&map, &key, &value, UMAP_ANY, &cx), 0);
	rec.depth = MAP_INTENTS;
	ck_assert_int_eq(umap_delete(&map, &key, &cx), -EBUSY);
	ck_assert_ptr_nonnull(umap_lookup(&map, &key, &cx));
	ck_assert_uint_eq(rec.depth, MAP_INTENTS);
	umap_destroy(&map, fd);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, scribbled, 0, ARRAY_SIZE(shapes));
	tcase_add_test(tc, endless_chain_ends);
	tcase_add_loop_test(tc, endless_buckets_end, 0, 2);
	tcase_add_test(tc, one_bucket_is_walked_once);
	tcase_add_test(tc, wild_block_is_not_followed);
	tcase_add_test(tc, record_is_hostile);
}

int main(void)
{
	return run_tests("hostile", add, 60);
}
