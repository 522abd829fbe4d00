/* SPDX-License-Identifier: MIT */
/*
 * Ring buffers: what fits, in which order records come, what is counted; many
 * writers at once in threads and in processes that are killed at any point; a
 * reader that sleeps; and memory that somebody scribbled over.
 */
#include <check.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "maps/ringbuf_layout.h"
#include "tests/maps/support.h"

#define OWNER OWNER_ID(1, 1)

/* What a thread leaves that died in a program. */
static const struct thread_rec inside = { .entries = 1 };
static struct umap ring;
static int ring_fd;
static struct umap_ring_reader reader;

static void setup(u32 size)
{
	ck_ok(umap_create("ring", UMAP_RINGBUF, 0, 0, size, 0, 1, 1, &ring, &ring_fd));
	ck_ok(umap_ring_reader_init(&reader, &ring));
}

static void teardown(void)
{
	umap_ring_reader_deinit(&reader);
	umap_destroy(&ring, ring_fd);
}

static long put(const void *data, u64 size)
{
	bool wake;

	return umap_ring_output(&ring, data, size, 0, OWNER, &wake);
}

/* The size of the next record, or -1. */
static long take(const void **data)
{
	u32 size;

	return umap_ring_next(&reader, data, &size) ? (long)size : -1;
}

/* ---- one writer ---- */

static const struct {
	u32 key, value, entries, flags;
	long want;
} geometries[] = {
	{ 0, 0, 4096, 0, 0 },
	{ 0, 0, 1u << 20, BPF_F_NUMA_NODE, 0 },
	{ 4, 0, 4096, 0, -EINVAL },
	{ 0, 4, 4096, 0, -EINVAL },
	{ 0, 0, 0, 0, -EINVAL },
	{ 0, 0, 2048, 0, -EINVAL },
	{ 0, 0, 12288, 0, -EINVAL },
	{ 0, 0, 4096, BPF_F_NO_PREALLOC, -EINVAL },
	{ 0, 0, 4096, BPF_F_RDONLY_PROG, -EINVAL },
};

START_TEST(geometry)
{
	struct umap m;

	ck_assert_int_eq(umap_geometry(UMAP_RINGBUF, geometries[_i].key, geometries[_i].value, geometries[_i].entries,
				       geometries[_i].flags, 2, 1, &m), geometries[_i].want);
}
END_TEST

/* What the kernel itself says of the same. */
START_TEST(geometry_kernel)
{
	union bpf_attr attr = {
		.map_type = BPF_MAP_TYPE_RINGBUF,
		.key_size = geometries[_i].key,
		.value_size = geometries[_i].value,
		.max_entries = geometries[_i].entries,
		.map_flags = geometries[_i].flags,
	};
	long fd = syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)), err = fd < 0 ? -errno : 0;

	if (fd >= 0)
		close((int)fd);
	if (err == -EPERM || err == -ENOSYS)
		return;
	ck_assert_int_eq(err, geometries[_i].want);
}
END_TEST

START_TEST(in_order)
{
	const void *data;

	setup(4096);
	ck_assert_int_eq(take(&data), -1);
	for (u32 round = 0; round < 5000; round++) {
		u8 bytes[300];
		u32 n = round * 7 % sizeof(bytes);

		memset(bytes, (u8)round, sizeof(bytes));
		ck_assert_int_eq(put(bytes, n), 0);
		ck_assert_int_eq(take(&data), n);
		ck_assert(!memcmp(data, bytes, n));
		ck_assert_int_eq(take(&data), -1);
	}
	ck_assert_uint_eq(umap_ring_dropped(&ring), 0);
	ck_assert_uint_eq(reader.spoilt, 0);
	teardown();
}
END_TEST

/* As many as the kernel takes: all but the last 8 bytes can be in use. */
START_TEST(full)
{
	u64 v = 0;
	const void *data;

	setup(4096);
	for (; !put(&v, sizeof(v)); v++)
		;
	ck_assert_uint_eq(v, 4096 / 16 - 1);
	ck_assert_int_eq(put(&v, sizeof(v)), -EAGAIN);
	ck_assert_uint_eq(umap_ring_dropped(&ring), 2);
	ck_assert_uint_eq(umap_ring_query(&ring, BPF_RB_AVAIL_DATA), v * 16);
	ck_assert_uint_eq(umap_ring_query(&ring, BPF_RB_RING_SIZE), 4096);
	for (u64 i = 0; i < v; i++) {
		ck_assert_int_eq(take(&data), 8);
		ck_assert_uint_eq(*(const u64 *)data, i);
	}
	ck_assert_int_eq(take(&data), -1);
	ck_assert_uint_eq(umap_ring_query(&ring, BPF_RB_AVAIL_DATA), 0);
	ck_assert_uint_eq(umap_ring_query(&ring, BPF_RB_CONS_POS), v * 16);
	ck_assert_uint_eq(umap_ring_query(&ring, BPF_RB_PROD_POS), v * 16);
	ck_assert_uint_eq(umap_ring_query(&ring, 99), 0);
	teardown();
}
END_TEST

START_TEST(reserve_refuses)
{
	u64 v = 0;

	setup(4096);
	ck_assert_ptr_null(umap_ring_reserve(&ring, 8, 1, OWNER));
	ck_assert_ptr_null(umap_ring_reserve(&ring, 4089, 0, OWNER));
	ck_assert_ptr_null(umap_ring_reserve(&ring, 1ull << 40, 0, OWNER));
	ck_assert_ptr_null(umap_ring_reserve(&ring, ~0ull, 0, OWNER));
	ck_assert_int_eq(umap_ring_output(&ring, &v, 8, 4, OWNER, &(bool){ false }), -EINVAL);
	teardown();
}
END_TEST

/* A record of more than half the ring, from wherever the ring stands. */
START_TEST(long_records)
{
	static u8 bytes[3000];
	const void *data;

	setup(4096);
	for (u32 round = 0; round < 600; round++) {
		u64 v = round;

		ck_assert_int_eq(put(&v, sizeof(v)), 0);
		ck_assert_int_eq(take(&data), 8);
		memset(bytes, (u8)round, sizeof(bytes));
		if (put(bytes, sizeof(bytes))) { /* the tail had to go first */
			ck_assert_int_eq(take(&data), -1);
			ck_assert_int_eq(put(bytes, sizeof(bytes)), 0);
		}
		ck_assert_int_eq(take(&data), sizeof(bytes));
		ck_assert(!memcmp(data, bytes, sizeof(bytes)));
	}
	teardown();
}
END_TEST

/* Records come in the order of their reservations; a discarded one never comes. */
START_TEST(busy_and_discarded)
{
	const void *data;
	u32 owner, size;
	u64 *a, *b, *c;

	setup(4096);
	a = umap_ring_reserve(&ring, 8, 0, OWNER);
	b = umap_ring_reserve(&ring, 16, 0, OWNER);
	c = umap_ring_reserve(&ring, 8, 0, OWNER);
	ck_assert(a && b && c);
	*a = 1, *b = 2, *c = 3;
	umap_ring_commit(&ring, c, 0, false);
	ck_assert_int_eq(take(&data), -1);
	ck_assert(umap_ring_busy(&reader, &owner, &size));
	ck_assert_uint_eq(owner, OWNER);
	ck_assert_uint_eq(size, 8);
	umap_ring_commit(&ring, b, 0, true);
	umap_ring_commit(&ring, a, 0, false);
	ck_assert_int_eq(take(&data), 8);
	ck_assert_uint_eq(*(const u64 *)data, 1);
	ck_assert_int_eq(take(&data), 8);
	ck_assert_uint_eq(*(const u64 *)data, 3);
	ck_assert_int_eq(take(&data), -1);
	ck_assert(!umap_ring_busy(&reader, &owner, &size));
	teardown();
}
END_TEST

/* ---- death ---- */

/* Every point at which a writer can stop, and what is left for the others. */
START_TEST(death_at_each_step)
{
	const void *data;
	u64 v = 7;

	setup(4096);
	ck_assert_int_eq(put(&v, 8), 0);
	/* the header stands, the producer has not moved; then it has */
	*ring_word(&ring, 16) = RING_HEADER(8 | RING_BUSY, OWNER_ID(2, 5));
	if (_i)
		ring_advance(&ring, 16, 16);
	ck_assert_int_eq(put(&v, 8), 0);
	ck_assert_int_eq(take(&data), 8);
	ck_assert_int_eq(take(&data), -1);
	umap_recover(&ring, &inside, OWNER_ID(2, 6)); /* somebody else */
	umap_recover(&ring, &(struct thread_rec){ .entries = 3, .leaves = 3 }, OWNER_ID(2, 5)); /* in no program */
	ck_assert_int_eq(take(&data), -1);
	umap_recover(&ring, &inside, OWNER_ID(2, 5));
	ck_assert_uint_eq(umap_ring_retired(&ring), 1);
	ck_assert_int_eq(take(&data), 8);
	ck_assert_int_eq(take(&data), -1);
	ck_assert_uint_eq(reader.spoilt, 0);
	teardown();
}
END_TEST

struct event {
	u32 writer, size;
	u64 seq, sum;
	u8 fill[];
};

static u64 event_sum(const struct event *e)
{
	u64 sum = e->writer * 31ull + e->seq;

	for (u32 i = 0; i < e->size - sizeof(*e); i++)
		sum = sum * 131 + e->fill[i];
	return sum;
}

static void write_event(u32 writer, u64 seq, u64 *seed)
{
	u32 n = sizeof(struct event) + rnd(seed) % 100;
	struct event *e = umap_ring_reserve(&ring, n, 0, OWNER_ID(1, writer));

	if (!e)
		return;
	e->writer = writer;
	e->size = n;
	e->seq = seq;
	for (u32 i = 0; i < n - sizeof(*e); i++)
		e->fill[i] = (u8)(seq + i);
	e->sum = event_sum(e);
	umap_ring_commit(&ring, e, 0, rnd(seed) % 16 == 0);
}

/* A whole event of a writer, later than the one before it. */
static void check_event(const void *data, u32 size, u64 *last, u32 nwriters)
{
	const struct event *e = data;

	ck_assert_uint_ge(size, sizeof(*e));
	ck_assert_uint_eq(e->size, size);
	ck_assert_uint_lt(e->writer, nwriters);
	ck_assert_uint_eq(e->sum, event_sum(e));
	ck_assert_uint_gt(e->seq, last[e->writer]);
	last[e->writer] = e->seq;
}

static void killed_writer(u32 writer, u64 seq)
{
	u64 seed = (u64)getpid() * 0x9e3779b97f4a7c15ull;

	for (;;)
		write_event(writer, ++seq, &seed);
}

/* Three processes write; one after the other is killed and replaced. */
START_TEST(killed_at_random)
{
	enum { WRITERS = 3, KILLS = 150 };
	u64 last[WRITERS + 1] = {}, read = 0, seed = 99;
	pid_t pids[WRITERS + 1];
	const void *data;
	u32 size;

	setup(8192);
	for (u32 w = 1; w <= WRITERS; w++) {
		pids[w] = fork();
		if (!pids[w])
			killed_writer(w, 0);
	}
	for (u32 kills = 0; kills < KILLS; kills++) {
		u32 w = 1 + rnd(&seed) % WRITERS;

		for (u64 until = read + 1 + rnd(&seed) % 200; read < until;)
			if (umap_ring_next(&reader, &data, &size)) {
				check_event(data, size, last, WRITERS + 1);
				read++;
			} else {
				sched_yield();
			}
		kill(pids[w], SIGKILL);
		waitpid(pids[w], NULL, 0);
		umap_recover(&ring, &inside, OWNER_ID(1, w));
		pids[w] = fork();
		if (!pids[w])
			killed_writer(w, 1ull << 32 | (u64)kills << 33);
	}
	for (u32 w = 1; w <= WRITERS; w++) {
		kill(pids[w], SIGKILL);
		waitpid(pids[w], NULL, 0);
		umap_recover(&ring, &inside, OWNER_ID(1, w));
	}
	while (umap_ring_next(&reader, &data, &size))
		check_event(data, size, last, WRITERS + 1);
	ck_assert_uint_eq(umap_ring_query(&ring, BPF_RB_AVAIL_DATA), 0);
	ck_assert_uint_eq(reader.spoilt, 0);
	teardown();
}
END_TEST

/* ---- many writers ---- */

enum { THREADS = 4, EACH = 200000 };

static void *writer_thread(void *arg)
{
	u64 made = 0, seed = (u64)(size_t)arg + 5;

	for (u64 seq = 1; seq <= EACH; seq++) {
		u64 pair[2] = { (u64)(size_t)arg, seq };
		bool wake;

		if (rnd(&seed) % 64 == 0)
			sched_yield();
		made += !umap_ring_output(&ring, pair, sizeof(pair), 0, OWNER_ID(1, (u32)(size_t)arg), &wake);
		if (wake)
			syscall(SYS_futex, umap_ring_waiters(&ring), FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	return (void *)made;
}

/* Every record is read once, in the order of its writer, and what found no room is
 * counted. The reader sleeps whenever there is nothing. */
START_TEST(threads)
{
	pthread_t t[THREADS];
	u64 last[THREADS] = {}, read = 0, made = 0, naps = 0;
	void *ret;
	bool done = false;

	setup(4096);
	for (size_t i = 0; i < THREADS; i++)
		ck_assert(!pthread_create(&t[i], NULL, writer_thread, (void *)i));
	while (!done) {
		const void *data;
		u32 size;

		if (umap_ring_next(&reader, &data, &size)) {
			const u64 *pair = data;

			ck_assert_uint_eq(size, 16);
			ck_assert_uint_lt(pair[0], THREADS);
			ck_assert_uint_gt(pair[1], last[pair[0]]);
			last[pair[0]] = pair[1];
			read++;
			continue;
		}
		done = last[0] == EACH && last[1] == EACH && last[2] == EACH && last[3] == EACH;
		if (!done && !umap_ring_sleep(&reader)) {
			struct timespec limit = { 0, 50000000 }; /* the last ones may have found no room */

			naps++;
			if (syscall(SYS_futex, umap_ring_waiters(&ring), FUTEX_WAIT, 1, &limit, NULL, 0) &&
			    errno == ETIMEDOUT)
				done = true;
		}
	}
	for (size_t i = 0; i < THREADS; i++) {
		pthread_join(t[i], &ret);
		made += (u64)ret;
	}
	for (const void *data; take(&data) >= 0;)
		read++;
	ck_assert_uint_eq(read, made);
	ck_assert_uint_eq(made + umap_ring_dropped(&ring), (u64)THREADS * EACH);
	ck_assert_uint_eq(reader.spoilt, 0);
	teardown();
}
END_TEST

/* ---- sleeping ---- */

START_TEST(wakes)
{
	u64 v = 1;
	bool wake;
	const void *data;

	setup(4096);
	ck_assert_int_eq(umap_ring_output(&ring, &v, 8, 0, OWNER, &wake), 0);
	ck_assert(!wake); /* nobody sleeps */
	ck_assert(umap_ring_sleep(&reader)); /* there is one already */
	ck_assert_int_eq(take(&data), 8);
	ck_assert(!umap_ring_sleep(&reader));
	ck_assert_int_eq(umap_ring_output(&ring, &v, 8, UMAP_RB_NO_WAKEUP, OWNER, &wake), 0);
	ck_assert(!wake);
	ck_assert_int_eq(umap_ring_output(&ring, &v, 8, 0, OWNER, &wake), 0);
	ck_assert(wake);
	ck_assert_int_eq(umap_ring_output(&ring, &v, 8, 0, OWNER, &wake), 0);
	ck_assert(!wake); /* one is enough */
	/* where there is no room, the reader alone can make it */
	while (!umap_ring_output(&ring, &v, 8, UMAP_RB_NO_WAKEUP, OWNER, &wake))
		;
	while (take(&data) >= 0)
		;
	ck_assert(!umap_ring_sleep(&reader));
	while (!umap_ring_output(&ring, &v, 8, UMAP_RB_NO_WAKEUP, OWNER, &wake))
		ck_assert(!wake);
	ck_assert(wake);
	teardown();
}
END_TEST

/* ---- scribbled memory ---- */

START_TEST(scribbled)
{
	u64 seed = 12345 + (u64)_i;

	setup(4096);
	for (u32 round = 0; round < 2000; round++) {
		const void *data;
		u64 v = round;
		u32 size, n = 0;

		for (u32 i = 0; i < 1 + round % 4; i++) {
			u64 r = rnd(&seed), at = r % 3 ? ring.data_off + r / 8 % 512 * 8 : (r % 2 ? 0 : PAGE) + r / 8 % 16 * 8;

			*(u64 *)(ring.base + at) = rnd(&seed) << (r % 60) | (r % 5 ? 0 : RING_OWNED);
		}
		for (u32 i = 0; i < 20; i++)
			put(&v, rnd(&seed) % 9);
		umap_recover(&ring, &inside, OWNER);
		while (umap_ring_next(&reader, &data, &size) && n++ < 4096)
			ck_assert_uint_le(size, 4096 - 8);
		ck_assert_uint_le(n, 4096);
	}
	teardown();
}
END_TEST

/* Afterwards it works again. */
START_TEST(scribbled_heals)
{
	const void *data;
	u64 v = 5;

	setup(4096);
	memset((void *)ring.base, 0xff, ring.size);
	for (u32 i = 0; i < 3; i++)
		while (take(&data) >= 0)
			;
	ck_assert_uint_gt(reader.spoilt, 0);
	ck_assert_int_eq(put(&v, 8), 0);
	ck_assert_int_eq(take(&data), 8);
	ck_assert_uint_eq(*(const u64 *)data, 5);
	teardown();
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, geometry, 0, ARRAY_SIZE(geometries));
	tcase_add_loop_test(tc, geometry_kernel, 0, ARRAY_SIZE(geometries));
	tcase_add_test(tc, in_order);
	tcase_add_test(tc, full);
	tcase_add_test(tc, reserve_refuses);
	tcase_add_test(tc, long_records);
	tcase_add_test(tc, busy_and_discarded);
	tcase_add_loop_test(tc, death_at_each_step, 0, 2);
	tcase_add_test(tc, killed_at_random);
	tcase_add_test(tc, threads);
	tcase_add_test(tc, wakes);
	tcase_add_loop_test(tc, scribbled, 0, 8);
	tcase_add_test(tc, scribbled_heals);
}

int main(void)
{
	return run_tests("ringbuf", add, 120);
}
