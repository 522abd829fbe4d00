/* SPDX-License-Identifier: MIT */
/*
 * PERF_EVENT_ARRAY: a ring for each CPU, read as one stream; what found no room is
 * told in its place; writers in threads and processes that are killed; a reader that
 * sleeps; memory that somebody scribbled over. (What a ring does by itself is
 * test_ringbuf.c's.)
 */
#include <check.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "maps/perf_layout.h"
#include "tests/maps/support.h"

#define NCPUS 3
#define OWNER OWNER_ID(1, 1)
#define RING_SIZE (64u << 10)

static const struct thread_rec inside = { .entries = 1 };
static struct umap map;
static int map_fd;
static struct umap_events events;

static void setup(void)
{
	ck_ok(umap_create("events", UMAP_PERF_EVENT_ARRAY, 4, 4, 0, 0, NCPUS, 1, &map, &map_fd));
	ck_ok(umap_events_init(&events, &map));
}

static void teardown(void)
{
	umap_events_deinit(&events);
	umap_destroy(&map, map_fd);
}

static long put(u32 cpu, const void *data, u64 size)
{
	bool wake;

	return umap_perf_output(&map, cpu, data, size, OWNER, &wake);
}

static const struct {
	u32 key, value, entries, flags;
	long want;
} geometries[] = {
	{ 4, 4, 2, 0, 0 },
	{ 4, 4, 200, BPF_F_NUMA_NODE, 0 },
	{ 4, 4, 2, BPF_F_RDONLY, 0 },
	{ 4, 4, 2, 1u << 11 /* BPF_F_PRESERVE_ELEMS */, 0 },
	{ 4, 4, 0, 0, -EINVAL },
	{ 8, 4, 2, 0, -EINVAL },
	{ 4, 8, 2, 0, -EINVAL },
	{ 0, 0, 2, 0, -EINVAL },
	{ 4, 4, 2, BPF_F_RDONLY_PROG, -EINVAL },
	{ 4, 4, 2, BPF_F_MMAPABLE, -EINVAL },
	{ 4, 4, 2, BPF_F_INNER_MAP, -EINVAL },
	{ 4, 4, 2, BPF_F_NO_PREALLOC, -EINVAL },
};

/* As the kernel has it, where it may be asked. */
START_TEST(geometry)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_PERF_EVENT_ARRAY,
		.key_size = geometries[_i].key,
		.value_size = geometries[_i].value,
		.max_entries = geometries[_i].entries,
		.map_flags = geometries[_i].flags,
	};
	long fd = syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)), err = fd < 0 ? -errno : 0;
	struct umap m;

	if (fd >= 0)
		close((int)fd);
	ck_assert_int_eq(umap_geometry(UMAP_PERF_EVENT_ARRAY, geometries[_i].key, geometries[_i].value,
				       geometries[_i].entries, geometries[_i].flags, 2, 1, &m), geometries[_i].want);
	if (err != -EPERM && err != -ENOSYS)
		ck_assert_int_eq(err, geometries[_i].want);
}
END_TEST

START_TEST(in_order_of_each_cpu)
{
	u64 next[NCPUS] = {}, n = 0, seed = 3;
	struct umap_event ev;

	setup();
	for (u64 i = 0; i < 3000; i++) {
		u32 cpu = rnd(&seed) % NCPUS;
		u64 pair[2] = { cpu, next[cpu]++ };

		ck_assert_int_eq(put(cpu, pair, sizeof(pair)), 0);
	}
	memset(next, 0, sizeof(next));
	for (; umap_events_next(&events, &ev); n++) {
		const u64 *pair = ev.data;

		ck_assert_ptr_nonnull(ev.data);
		ck_assert_uint_eq(ev.size, 16);
		ck_assert_uint_eq(pair[0], ev.cpu);
		ck_assert_uint_eq(pair[1], next[ev.cpu]++);
	}
	ck_assert_uint_eq(n, 3000);
	ck_assert_uint_eq(umap_events_dropped(&events) + umap_events_retired(&events) + umap_events_spoilt(&events), 0);
	ck_assert_int_eq(umap_read(&map, &(u32){ 0 }, &n, NULL), -UMAP_ENOTSUPP);
	ck_assert_int_eq(umap_write(&map, &(u32){ 0 }, &n, 0, NULL), -UMAP_ENOTSUPP);
	ck_assert_int_eq(umap_next_key(&map, NULL, &n), -UMAP_ENOTSUPP);
	teardown();
}
END_TEST

START_TEST(sizes)
{
	static u8 bytes[RING_SIZE + 1];
	struct umap_event ev;

	setup();
	ck_assert_int_eq(put(0, bytes, RING_SIZE), -E2BIG);
	ck_assert_int_eq(put(0, bytes, RING_SIZE - 15), -E2BIG);
	ck_assert_int_eq(put(0, bytes, ~0ull), -E2BIG);
	ck_assert_int_eq(put(1, bytes, 0), 0);
	ck_assert_int_eq(put(0, bytes, RING_SIZE - 16), 0);
	ck_assert_uint_eq(umap_events_dropped(&events), 0);
	ck_assert(umap_events_next(&events, &ev) && ev.size == RING_SIZE - 16 && ev.cpu == 0);
	ck_assert(umap_events_next(&events, &ev) && ev.size == 0 && ev.cpu == 1);
	ck_assert(!umap_events_next(&events, &ev));
	teardown();
}
END_TEST

/* Losses are told once, behind what was there before them, and before what comes
 * after; also to a reader that comes later. */
START_TEST(losses)
{
	u64 v = 0, got = 0, lost = 0;
	struct umap_event ev;

	setup();
	while (!put(1, &v, sizeof(v)))
		v++;
	ck_assert_uint_eq(v, RING_SIZE / 16 - 1);
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq(put(1, &v, sizeof(v)), -ENOSPC);
	ck_assert_int_eq(put(2, &v, sizeof(v)), 0);
	for (; got < v; got++) {
		ck_assert(umap_events_next(&events, &ev) && ev.data);
		if (ev.cpu == 2)
			got--;
		else
			ck_assert_uint_eq(*(const u64 *)ev.data, got);
		if (got == 100) { /* there is room again */
			u64 later = 1ull << 32;

			ck_assert_int_eq(put(1, &later, sizeof(later)), 0);
		}
	}
	for (int i = 0; i < 3 && umap_events_next(&events, &ev); i++) {
		if (ev.cpu == 2)
			continue;
		if (!lost) {
			ck_assert(!ev.data);
			ck_assert_uint_eq(ev.lost, 7);
			lost = ev.lost;
			umap_events_deinit(&events);
			ck_ok(umap_events_init(&events, &map));
			continue;
		}
		ck_assert(ev.data && *(const u64 *)ev.data == 1ull << 32);
		lost++;
	}
	ck_assert_uint_eq(lost, 8);
	ck_assert(!umap_events_next(&events, &ev));
	ck_assert_uint_eq(umap_events_dropped(&events), 7);
	teardown();
}
END_TEST

/* ---- death ---- */

START_TEST(dead_writer)
{
	struct umap_event ev;
	struct umap ring;
	u64 v = 7, where;
	u32 owner, size;

	setup();
	perf_ring(&map, 1, &ring);
	ck_assert_ptr_nonnull(umap_ring_reserve(&ring, 24, 0, OWNER_ID(2, 5)));
	ck_assert_int_eq(put(1, &v, 8), 0);
	ck_assert_int_eq(put(0, &v, 8), 0);
	ck_assert(umap_events_next(&events, &ev) && ev.cpu == 0);
	ck_assert(!umap_events_next(&events, &ev)); /* a stopped writer holds up its CPU's alone */
	ck_assert(umap_events_busy(&events, &owner, &size, &where));
	ck_assert(owner == OWNER_ID(2, 5) && size == 24 && where % NCPUS == 1);
	umap_recover(&map, &inside, OWNER_ID(2, 6));
	ck_assert(!umap_events_next(&events, &ev));
	umap_recover(&map, &inside, OWNER_ID(2, 5));
	ck_assert_uint_eq(umap_events_retired(&events), 1);
	ck_assert(umap_events_next(&events, &ev) && ev.cpu == 1 && *(const u64 *)ev.data == 7);
	ck_assert(!umap_events_next(&events, &ev) && !umap_events_busy(&events, &owner, &size, &where));
	teardown();
}
END_TEST

/* ---- many writers ---- */

enum { THREADS = 4, EACH = 100000 };

static void *writer_thread(void *arg)
{
	u64 made = 0, seed = (u64)(size_t)arg + 5;

	for (u64 seq = 1; seq <= EACH; seq++) {
		u64 pair[2] = { (u64)(size_t)arg, seq };
		u32 cpu = rnd(&seed) % NCPUS; /* as if we were moved all the time */
		bool wake;

		made += !umap_perf_output(&map, cpu, pair, sizeof(pair), OWNER_ID(1, (u32)(size_t)arg), &wake);
		if (wake)
			syscall(SYS_futex, umap_ring_waiters(&map), FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	return (void *)made;
}

/* Every record is read once, in the order of its writer and CPU; records and losses
 * make up what was written. The reader sleeps whenever there is nothing. */
START_TEST(threads)
{
	u64 last[THREADS][NCPUS] = {}, read = 0, lost = 0, made = 0;
	pthread_t t[THREADS];
	struct umap_event ev;
	void *ret;

	setup();
	for (size_t i = 0; i < THREADS; i++)
		ck_assert(!pthread_create(&t[i], NULL, writer_thread, (void *)i));
	while (read + lost < (u64)THREADS * EACH) {
		const u64 *pair;

		if (!umap_events_next(&events, &ev)) {
			struct timespec limit = { 0, 50000000 }; /* the last ones may have found no room */

			if (!umap_events_sleep(&events))
				syscall(SYS_futex, umap_ring_waiters(&map), FUTEX_WAIT, 1, &limit, NULL, 0);
			continue;
		}
		lost += ev.lost;
		pair = ev.data;
		if (!pair)
			continue;
		ck_assert_uint_eq(ev.size, 16);
		ck_assert_uint_lt(pair[0], THREADS);
		ck_assert_uint_gt(pair[1], last[pair[0]][ev.cpu]);
		last[pair[0]][ev.cpu] = pair[1];
		read++;
	}
	for (size_t i = 0; i < THREADS; i++) {
		pthread_join(t[i], &ret);
		made += (u64)ret;
	}
	ck_assert_uint_eq(read, made);
	ck_assert_uint_eq(lost, umap_events_dropped(&events));
	ck_assert(!umap_events_next(&events, &ev));
	ck_assert_uint_eq(umap_events_spoilt(&events), 0);
	teardown();
}
END_TEST

static void killed_writer(u32 writer, u64 seq)
{
	u64 seed = (u64)getpid() * 0x9e3779b97f4a7c15ull;

	for (;;) {
		u64 pair[2] = { writer, ++seq };
		bool wake;

		umap_perf_output(&map, rnd(&seed) % NCPUS, pair, sizeof(pair), OWNER_ID(1, writer), &wake);
	}
}

START_TEST(killed_at_random)
{
	enum { WRITERS = 2, KILLS = 100 };
	u64 last[WRITERS][NCPUS] = {}, seed = 17;
	struct umap_event ev;
	pid_t pids[WRITERS];

	setup();
	for (u32 kills = 0; kills < KILLS; kills++) {
		for (u32 w = 0; w < WRITERS; w++) {
			pids[w] = fork();
			if (!pids[w])
				killed_writer(w, (u64)kills << 32);
		}
		for (u64 n = 1 + rnd(&seed) % 300; n;) {
			const u64 *pair;

			if (!umap_events_next(&events, &ev)) {
				sched_yield();
				continue;
			}
			pair = ev.data;
			if (!pair)
				continue;
			ck_assert_uint_lt(pair[0], WRITERS);
			ck_assert_uint_gt(pair[1], last[pair[0]][ev.cpu]);
			last[pair[0]][ev.cpu] = pair[1];
			n--;
		}
		for (u32 w = 0; w < WRITERS; w++) {
			kill(pids[w], SIGKILL);
			waitpid(pids[w], NULL, 0);
			umap_recover(&map, &inside, OWNER_ID(1, w));
		}
	}
	while (umap_events_next(&events, &ev))
		;
	for (u32 cpu = 0; cpu < NCPUS; cpu++) {
		struct umap ring;

		perf_ring(&map, cpu, &ring);
		ck_assert_uint_eq(umap_ring_query(&ring, BPF_RB_AVAIL_DATA), 0);
	}
	ck_assert_uint_eq(umap_events_spoilt(&events), 0);
	teardown();
}
END_TEST

/* ---- somebody writes over it ---- */

/* Values are spoilt; nobody loops, or reads outside of the map. */
START_TEST(scribbled)
{
	u64 seed = (u64)_i + 1, words;
	struct umap_event ev;

	setup();
	words = map.size / 8;
	for (u32 round = 0; round < 300; round++) {
		for (u32 i = 0; i < 40; i++) {
			u64 at = i % 4 ? rnd(&seed) % words : (rnd(&seed) % NCPUS) * (map.slot_stride / 8) +
							   (const u64[]){ 0, 8, 9, PAGE / 8, PAGE / 8 + 8 }[rnd(&seed) % 5];

			((u64 *)map.base)[at] = rnd(&seed) % 3 ? rnd(&seed) << rnd(&seed) % 64 : rnd(&seed) % 4096;
		}
		for (u32 i = 0; i < 40; i++)
			put(rnd(&seed) % NCPUS, &seed, rnd(&seed) % 8);
		for (u32 i = 0; i < 10000 && umap_events_next(&events, &ev); i++)
			ck_assert_uint_le(ev.size, RING_SIZE);
		umap_events_sleep(&events);
		umap_recover(&map, &inside, OWNER);
	}
	teardown();
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("perf");

	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, geometry, 0, ARRAY_SIZE(geometries));
	tcase_add_test(tc, in_order_of_each_cpu);
	tcase_add_test(tc, sizes);
	tcase_add_test(tc, losses);
	tcase_add_test(tc, dead_writer);
	tcase_add_test(tc, threads);
	tcase_add_test(tc, killed_at_random);
	tcase_add_loop_test(tc, scribbled, 0, 5);
	return run_case("perf", tc);
}
