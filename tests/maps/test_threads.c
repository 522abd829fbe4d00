/* SPDX-License-Identifier: MIT */
/*
 * Many threads on one map, and signal handlers on top of their operations: no
 * add is lost, no key or value is torn, keys are unique, nothing leaks.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "support.h"

#define THREADS 6
#ifdef __SANITIZE_THREAD__
#define STEPS 5000
#else
#define STEPS 150000
#endif

/* Keys and values that prove themselves: all their words are made of one
 * number, so that a mixture of two of them is seen. */
#define KEY_MAX 40
#define VALUE_MAX 200

static const struct {
	u32 type, key_size, value_size, max_entries, keys;
} shapes[] = {
	{UMAP_HASH, 4, 8, 64, 100},   {UMAP_HASH, 8, 8, 8, 8},      {UMAP_HASH, 24, 8, 64, 80},
	{UMAP_HASH, 8, 200, 64, 100}, {UMAP_HASH, 40, 120, 16, 12}, {UMAP_PERCPU_HASH, 8, 8, 64, 100},
	{UMAP_LRU_HASH, 8, 8, 32, 100}, {UMAP_LRU_HASH, 24, 120, 16, 30}, {UMAP_LRU_PERCPU_HASH, 8, 8, 32, 100},
};

static struct umap map;
static u32 nkeys;
static u64 adds[THREADS + 1], bad, busy;

static void make_key(u8 *key, u64 k)
{
	for (u32 i = 0; i < map.key_size; i++)
		key[i] = (u8)(i % 8 < 4 ? k >> 8 * (i % 8) : 0);
}

static bool is_key(const u8 *key)
{
	u8 want[KEY_MAX];
	u32 k = 0;

	memcpy(&k, key, map.key_size < 4 ? map.key_size : 4);
	make_key(want, k);
	return k < 2 * nkeys && !memcmp(key, want, map.key_size);
}

/* The low half of every word names the key, the high half the writer. */
static void make_value(u64 *value, u64 k, u64 writer)
{
	for (u32 i = 0; i < (map.value_size + 7) / 8; i++)
		value[i] = writer << 32 | k;
}

static void count(u64 *what, bool yes)
{
	if (yes)
		__atomic_fetch_add(what, 1, __ATOMIC_RELAXED);
}

static void check_value(const u8 *key, struct umap_ctx *cx)
{
	u64 value[VALUE_MAX / 8 + 8];
	u32 k;

	memcpy(&k, key, sizeof(k));
	if (umap_read(&map, key, value, cx) || umap_is_percpu(map.type))
		return;
	count(&bad, (u32)value[0] != k);
	for (u32 i = 1; i < map.value_size / 8; i++)
		count(&bad, value[i] != value[0]);
}

/* KINDS: 8 all; 7 those that a signal handler can do (iterating allocates). */
static void one_step(u64 *seed, struct umap_ctx *cx, u32 kinds)
{
	u64 k = rnd(seed) % nkeys, value[VALUE_MAX / 8];
	u8 key[KEY_MAX + 8] = {0}, next[KEY_MAX + 8];
	long rc = 0;

	make_key(key, k);
	switch (rnd(seed) % kinds) {
	case 0:
	case 1:
	case 2:
		make_value(value, k, cx->owner);
		rc = umap_update(&map, key, value, rnd(seed) % 3, cx);
		break;
	case 3:
	case 4:
		rc = umap_delete(&map, key, cx);
		break;
	case 5:
		umap_lookup(&map, key, cx);
		break;
	case 6:
		check_value(key, cx);
		break;
	default:
		if (!umap_next_key(&map, key, next))
			count(&bad, !is_key(next));
	}
	count(&busy, rc == -EBUSY || rc == -ENOMEM);
}

static void *hammer(void *arg)
{
	u64 me = (u64)arg, seed = me * 7919 + 1;
	struct thread_rec rec = {0};
	struct umap_ctx cx = {&rec, OWNER_ID(1, me), me};

	for (int n = 0; n < STEPS; n++)
		one_step(&seed, &cx, 8);
	count(&bad, rec.depth != 0);
	return NULL;
}

static void create(u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 keys, int *fd)
{
	ck_ok(umap_create("test", type, key_size, value_size, max_entries, 0, 2, 9, &map, fd));
	nkeys = keys;
	bad = busy = 0;
}

static void run_threads(void *(*fn)(void *))
{
	pthread_t threads[THREADS];

	for (u64 i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, fn, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static u32 count_keys(void)
{
	u8 key[KEY_MAX];
	u32 n = 0;

	for (long rc = umap_next_key(&map, NULL, key); !rc; rc = umap_next_key(&map, key, key)) {
		ck_assert(is_key(key));
		n++;
	}
	return n;
}

START_TEST(hammered)
{
	int fd;

	create(shapes[_i].type, shapes[_i].key_size, shapes[_i].value_size, shapes[_i].max_entries, shapes[_i].keys, &fd);
	run_threads(hammer);
	ck_assert_uint_eq(bad, 0);
	ck_assert_uint_eq(busy, 0);
	ck_assert_uint_eq(check_hash(&map), count_keys());
	umap_destroy(&map, fd);
}
END_TEST

/* Adds to keys that stay, beside inserts and deletes of others in their chains. */
static void *adder(void *arg)
{
	u64 me = (u64)arg, seed = me * 104729 + 1;
	struct thread_rec rec = {0};
	struct umap_ctx cx = {&rec, OWNER_ID(1, me), 0};

	for (int n = 0; n < STEPS; n++) {
		u32 key = rnd(&seed) % 8, other = 8 + rnd(&seed) % nkeys;
		u64 value = 1, *p = umap_lookup(&map, &key, &cx);

		if (!p) {
			count(&bad, true);
			continue;
		}
		__sync_fetch_and_add(p, 1);
		adds[me]++;
		if (rnd(&seed) & 1)
			umap_update(&map, &other, &value, UMAP_ANY, &cx);
		else
			umap_delete(&map, &other, &cx);
		/* a no-op that does hit the element */
		count(&bad, umap_update(&map, &key, &value, UMAP_NOEXIST, &cx) != -EEXIST);
	}
	return NULL;
}

START_TEST(no_add_is_lost)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec};
	u64 zero = 0, sum = 0, want = 0;
	int fd;

	create(UMAP_HASH, 4, 8, 40, 24, &fd);
	for (u32 k = 0; k < 8; k++)
		ck_assert_int_eq(umap_update(&map, &k, &zero, UMAP_ANY, &cx), 0);
	memset(adds, 0, sizeof(adds));
	run_threads(adder);
	for (u32 k = 0; k < 8; k++)
		sum += *(u64 *)umap_lookup(&map, &k, &cx);
	for (int i = 0; i <= THREADS; i++)
		want += adds[i];
	ck_assert_uint_eq(bad, 0);
	ck_assert_uint_eq(sum, want);
	check_hash(&map);
	umap_destroy(&map, fd);
}
END_TEST

/* Two writers race to insert the same keys; exactly one wins each. */
static void *inserter(void *arg)
{
	u64 me = (u64)arg;
	struct thread_rec rec = {0};
	struct umap_ctx cx = {&rec, OWNER_ID(1, me), 0};

	adds[me] = 0;
	for (u32 k = 0; k < nkeys; k++) {
		u64 value[VALUE_MAX / 8];
		u8 key[KEY_MAX];

		make_key(key, k);
		make_value(value, k, me);
		adds[me] += !umap_update(&map, key, value, UMAP_NOEXIST, &cx);
	}
	return NULL;
}

START_TEST(insert_has_one_winner)
{
	u64 won = 0;
	int fd;

	create(UMAP_HASH, 8, _i ? 64 : 8, 5000, 5000, &fd);
	run_threads(inserter);
	for (int i = 1; i <= THREADS; i++)
		won += adds[i];
	ck_assert_uint_eq(won, 5000);
	ck_assert_uint_eq(check_hash(&map), 5000);
	umap_destroy(&map, fd);
}
END_TEST

/* Operations in a signal handler, on top of operations of the same thread with
 * the same record. */
static struct thread_rec nested_rec;
static u64 nested_seed = 99, nested_runs, nested_deep;

static void on_alarm(int sig)
{
	struct umap_ctx cx = {&nested_rec, OWNER_ID(1, 1), UMAP_SPARE_SLOTS};

	nested_deep += nested_rec.depth > 0;
	nested_runs++;
	for (int i = 0; i < 3; i++)
		one_step(&nested_seed, &cx, 7);
}

START_TEST(handler_on_top)
{
	struct itimerval every = {{0, 50}, {0, 50}}, off = {0};
	struct umap_ctx cx = {&nested_rec, OWNER_ID(1, 1), 1};
	u64 seed = 4711;
	int fd;

	create(shapes[_i].type, shapes[_i].key_size, shapes[_i].value_size, shapes[_i].max_entries, shapes[_i].keys, &fd);
	nested_runs = nested_deep = 0;
	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &every, NULL);
	for (u64 n = 0; n < 20000000 && (nested_runs < 500 || nested_deep < 20); n++)
		one_step(&seed, &cx, 8);
	setitimer(ITIMER_REAL, &off, NULL);
	ck_assert_uint_ge(nested_runs, 500);
	ck_assert_uint_eq(bad, 0);
	ck_assert_uint_eq(nested_rec.depth, 0);
	check_hash(&map);
	umap_destroy(&map, fd);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, hammered, 0, ARRAY_SIZE(shapes));
	tcase_add_test(tc, no_add_is_lost);
	tcase_add_loop_test(tc, insert_has_one_winner, 0, 2);
	tcase_add_loop_test(tc, handler_on_top, 0, ARRAY_SIZE(shapes));
}

int main(void)
{
	return run_tests("threads", add, 60);
}
