/* SPDX-License-Identifier: MIT */
/*
 * USER_RINGBUF: what is posted is read in order and once, however long the records
 * are; one reader at a time; a reader that dies; memory that somebody scribbled over.
 */
#include <check.h>
#include <errno.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "maps/ringbuf_layout.h"
#include "tests/maps/support.h"

#define OWNER OWNER_ID(3, 4)

static const struct thread_rec inside = { .entries = 1 };
static struct umap ring;
static int ring_fd;

static void setup(u32 size)
{
	ck_ok(umap_create("ring", UMAP_USER_RINGBUF, 0, 0, size, 0, 1, 1, &ring, &ring_fd));
}

static void teardown(void)
{
	umap_destroy(&ring, ring_fd);
}

/* The next record's size and bytes, or an error. */
static long take(u8 *bytes)
{
	struct umap_user_record r;
	long err;

	do
		err = umap_user_peek(&ring, &r);
	while (err == -EAGAIN);
	if (err)
		return err;
	memcpy(bytes, r.data, r.size);
	umap_user_release(&ring, &r);
	return r.size;
}

START_TEST(geometry)
{
	static const struct {
		u32 key, value, entries, flags;
	} rows[] = {
		{ 0, 0, 4096, 0 }, { 4, 0, 4096, 0 }, { 0, 4, 4096, 0 }, { 0, 0, 0, 0 }, { 0, 0, 2048, 0 },
		{ 0, 0, 12288, 0 }, { 0, 0, 4096, BPF_F_NUMA_NODE }, { 0, 0, 4096, BPF_F_RDONLY_PROG },
	};
	struct umap m;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		union bpf_attr attr = { .map_type = BPF_MAP_TYPE_USER_RINGBUF, .key_size = rows[i].key,
					.value_size = rows[i].value, .max_entries = rows[i].entries,
					.map_flags = rows[i].flags };
		long fd = syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)), err = fd < 0 ? -errno : 0;
		long ours = umap_geometry(UMAP_USER_RINGBUF, rows[i].key, rows[i].value, rows[i].entries, rows[i].flags, 2,
					  1, &m);

		if (fd >= 0)
			close((int)fd);
		ck_assert(err == -EPERM || err == -ENOSYS || err == ours);
	}
}
END_TEST

START_TEST(in_order)
{
	u8 out[1200], in[1200];
	u64 seed = 5;

	setup(4096);
	ck_assert_int_eq(take(in), -ENODATA);
	for (u32 round = 0; round < 5000; round++) {
		u64 n = rnd(&seed) % sizeof(out);

		memset(out, (u8)round, n);
		ck_assert_int_eq(umap_user_post(&ring, out, n), 0);
		ck_assert_int_eq(take(in), n);
		ck_assert(!memcmp(in, out, n));
	}
	ck_assert_int_eq(take(in), -ENODATA);
	ck_assert_int_eq(umap_write(&ring, NULL, out, 0, NULL), -UMAP_ENOTSUPP);
	ck_assert_int_eq(umap_read(&ring, NULL, out, NULL), -UMAP_ENOTSUPP);
	teardown();
}
END_TEST

START_TEST(full)
{
	u8 big[4096] = { 0 }, in[4096];
	u64 n = 0;

	setup(4096);
	ck_assert_int_eq(umap_user_post(&ring, big, 4089), -E2BIG);
	ck_assert_int_eq(umap_user_post(&ring, big, ~0ull), -E2BIG);
	ck_assert_int_eq(umap_user_post(&ring, big, 4088), 0);
	ck_assert_int_eq(umap_user_post(&ring, big, 0), -ENOSPC);
	ck_assert_int_eq(take(in), 4088);
	while (!umap_user_post(&ring, &n, sizeof(n)))
		n++;
	ck_assert_uint_eq(n, 4096 / 16);
	for (u64 i = 0; i < n; i++)
		ck_assert(take(in) == 8 && *(u64 *)(void *)in == i);
	ck_assert_int_eq(take(in), -ENODATA);
	/* what does not fit before the end begins at the beginning, once that is free */
	ck_assert_int_eq(umap_user_post(&ring, big, 3000), 0);
	ck_assert_int_eq(umap_user_post(&ring, big, 2000), -ENOSPC);
	ck_assert_int_eq(take(in), 3000);
	ck_assert_int_eq(umap_user_post(&ring, big, 2000), 0);
	ck_assert_int_eq(take(in), 2000);
	teardown();
}
END_TEST

START_TEST(one_reader)
{
	u8 in[64];

	setup(4096);
	ck_assert_int_eq(umap_user_post(&ring, "1234567", 8), 0);
	ck_assert(umap_user_begin(&ring, OWNER));
	ck_assert(!umap_user_begin(&ring, OWNER));
	ck_assert(!umap_user_begin(&ring, OWNER_ID(1, 1)));
	umap_recover(&ring, &inside, OWNER_ID(1, 1)); /* somebody else has died */
	ck_assert(!umap_user_begin(&ring, OWNER_ID(1, 1)));
	umap_recover(&ring, &inside, OWNER); /* before it had given the record back */
	ck_assert(umap_user_begin(&ring, OWNER_ID(1, 1)));
	ck_assert_int_eq(take(in), 8);
	umap_user_end(&ring);
	ck_assert(umap_user_begin(&ring, OWNER_ID(0, 0)));
	umap_user_end(&ring);
	teardown();
}
END_TEST

enum { RECORDS = 100000, THREADS = 3 };
static u64 next_seq;

static void *reader_thread(void *arg)
{
	u64 seen = 0;

	while (__atomic_load_n(&next_seq, __ATOMIC_RELAXED) < RECORDS) {
		struct umap_user_record r;
		long err;

		if (!umap_user_begin(&ring, OWNER_ID(1, (u32)(size_t)arg))) {
			sched_yield();
			continue;
		}
		for (u32 i = 0; i < 50; i++) {
			err = umap_user_peek(&ring, &r);
			if (err == -EAGAIN)
				continue;
			if (err)
				break;
			ck_assert_uint_eq(r.size % 8, 0);
			ck_assert_uint_eq(*(u64 *)r.data, next_seq);
			__atomic_store_n(&next_seq, next_seq + 1, __ATOMIC_RELAXED);
			umap_user_release(&ring, &r);
			seen++;
		}
		umap_user_end(&ring);
		sched_yield();
	}
	return (void *)seen;
}

START_TEST(readers)
{
	pthread_t t[THREADS];
	u64 record[16] = { 0 }, seed = 9, seen = 0;
	void *ret;

	setup(4096);
	next_seq = 0;
	for (size_t i = 0; i < THREADS; i++)
		ck_assert(!pthread_create(&t[i], NULL, reader_thread, (void *)i));
	for (u64 seq = 0; seq < RECORDS; seq++) {
		u64 n = 8 + rnd(&seed) % 16 * 8;
		long err;

		record[0] = seq;
		while ((err = umap_user_post(&ring, record, n < sizeof(record) ? n : sizeof(record))) == -ENOSPC)
			sched_yield();
		ck_assert_int_eq(err, 0);
	}
	for (size_t i = 0; i < THREADS; i++) {
		pthread_join(t[i], &ret);
		seen += (u64)ret;
	}
	ck_assert_uint_eq(seen, RECORDS);
	teardown();
}
END_TEST

/* Readers are killed anywhere: the next one goes on, with the same record at worst. */
START_TEST(killed_readers)
{
	u64 posted = 0, seed = 13;
	u8 in[64];

	setup(4096);
	for (u32 kills = 0; kills < 150; kills++) {
		pid_t pid = fork();

		if (!pid)
			for (;;) {
				if (!umap_user_begin(&ring, OWNER))
					_exit(1);
				take(in);
				umap_user_end(&ring);
			}
		for (u64 n = rnd(&seed) % 2000; n; n--)
			posted += !umap_user_post(&ring, &posted, sizeof(posted));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		umap_recover(&ring, &inside, OWNER);
		ck_assert(umap_user_begin(&ring, OWNER));
		umap_user_end(&ring);
	}
	for (u64 last = 0, n = 0; take(in) == 8; n++) {
		ck_assert(!n || *(u64 *)(void *)in == last + 1);
		last = *(u64 *)(void *)in;
	}
	ck_assert_int_eq(take(in), -ENODATA);
	teardown();
}
END_TEST

/* What a scribbler may say that would lead outside. */
START_TEST(nonsense)
{
	struct ring_ctl *ctl;
	struct umap_user_record r;

	setup(4096);
	ctl = ring_ctl(&ring);
	ctl->consumer = 4096 - 16;
	ctl->producer = 4096 + 48;
	*ring_word(&ring, 4096 - 16) = 40; /* beyond the end */
	ck_assert_int_eq(umap_user_peek(&ring, &r), -EINVAL);
	*ring_word(&ring, 4096 - 16) = 8;
	ck_assert_int_eq(umap_user_peek(&ring, &r), 0);
	ctl->producer = 4096 - 8; /* beyond what was written */
	ck_assert_int_eq(umap_user_peek(&ring, &r), -EINVAL);
	ctl->producer = 4096 - 12;
	ck_assert_int_eq(umap_user_peek(&ring, &r), -EINVAL);
	ctl->producer = 4096 - 24; /* behind */
	ck_assert_int_eq(umap_user_peek(&ring, &r), -EINVAL);
	ctl->consumer = 3;
	ctl->producer = 35;
	ck_assert_int_eq(umap_user_peek(&ring, &r), -EINVAL);
	ck_assert_int_eq(umap_user_post(&ring, &r, 8), 0);
	ctl->consumer = 1ull << 40;
	ck_assert_int_eq(umap_user_post(&ring, &r, 8), -EBUSY);
	teardown();
}
END_TEST

START_TEST(scribbled)
{
	u64 seed = (u64)_i + 21;
	struct umap_user_record r;

	setup(4096);
	for (u32 round = 0; round < 2000; round++) {
		for (u32 i = 0; i < 5; i++) {
			u64 at = (const u64[]){ 0, 8, 9, 10, PAGE / 8, rnd(&seed) % (ring.size / 8) }[rnd(&seed) % 6];

			((u64 *)ring.base)[at] = rnd(&seed) % 3 ? rnd(&seed) << rnd(&seed) % 64 : rnd(&seed) % 4096;
		}
		umap_user_post(&ring, &seed, rnd(&seed) % 8);
		for (u32 i = 0; i < 100; i++) {
			long err = umap_user_peek(&ring, &r);

			if (err == -EAGAIN)
				continue;
			if (err)
				break;
			ck_assert(umap_ring_holds(&ring, (u64)r.data) && (u64)r.data + r.size <= ring.base + ring.size);
			umap_user_release(&ring, &r);
		}
		umap_recover(&ring, &inside, OWNER);
	}
	teardown();
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("user_ring");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, geometry);
	tcase_add_test(tc, in_order);
	tcase_add_test(tc, full);
	tcase_add_test(tc, one_reader);
	tcase_add_test(tc, readers);
	tcase_add_test(tc, killed_readers);
	tcase_add_test(tc, nonsense);
	tcase_add_loop_test(tc, scribbled, 0, 5);
	return run_case("user_ring", tc);
}
