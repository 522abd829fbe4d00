/* SPDX-License-Identifier: MIT */
/*
 * The program behind `bpfctl latency`, run in this process through libbpfvm:
 * entries and returns must pair exactly, whatever the order.
 */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/target_abi.h"
#include "cli/hist.h"
#include "cli/tools.h"
#include "tests/support/suite.h"
#include "vm/bpfvm.h"

static struct bpfvm *vm;
static struct bpfvm_prog *entry, *exit_;

static void setup(void)
{
	struct bpfvm_error *error = NULL;

	vm = bpfvm_open(tool_latency, tool_latency_end - tool_latency, "latency", &error);
	ck_assert_msg(vm && !bpfvm_load(vm, 0, &error), "%s", error ? bpfvm_error_message(error) : "");
	entry = bpfvm_prog_find(vm, "latency_entry");
	exit_ = bpfvm_prog_find(vm, "latency_exit");
	ck_assert(entry && exit_);
}

static void teardown(void)
{
	bpfvm_close(vm);
}

static void hit(struct bpfvm_prog *p, u64 sp)
{
	struct target_regs regs = { .sp = sp };

	ck_assert_int_eq(bpfvm_run(p, &regs, sizeof(regs), NULL), 0);
}

/* Sum of the copies of all CPUs of element KEY, word by word. */
static void read_element(const char *name, u32 key, u64 *ret, size_t words)
{
	struct bpfvm_map *m = bpfvm_map_find(vm, name);
	u32 size = bpfvm_map_value_size(m);
	u64 *all = calloc(1, size);

	ck_assert_int_eq(bpfvm_map_lookup(m, &key, all), 0);
	memset(ret, 0, words * 8);
	for (size_t i = 0; i < size / 8; i++)
		ret[i % words] += all[i];
	free(all);
}

static u64 event_count(enum latency_event which)
{
	u64 n;

	read_element("events", which, &n, 1);
	return n;
}

static u64 samples(void)
{
	static struct latency_sums sums;
	struct hist h = {};

	read_element("sums", 0, (u64 *)&sums, sizeof(sums) / 8);
	for (unsigned b = 0; b < HIST_BUCKETS; b++)
		h.bucket[b] = sums.bucket[b];
	hist_finish(&h);
	return h.count;
}

START_TEST(recursion)
{
	struct latency_extremes e;

	for (int depth = 0; depth < 100; depth++)
		hit(entry, 0x7fff0000 - depth * 64);
	for (int depth = 99; depth >= 0; depth--)
		hit(exit_, 0x7fff0000 - depth * 64);
	ck_assert_uint_eq(samples(), 100);
	ck_assert_uint_eq(event_count(LATENCY_UNPAIRED), 0);
	ck_assert_uint_eq(event_count(LATENCY_NO_ROOM), 0);
	read_element("extremes", 0, (u64 *)&e, 2);
	ck_assert_uint_ge(e.max, ~e.not_min);
}
END_TEST

START_TEST(any_order)
{
	/* as coroutines return: first in, first out */
	for (int i = 0; i < 100; i++)
		hit(entry, 0x10000 + i * 4096);
	for (int i = 0; i < 100; i++)
		hit(exit_, 0x10000 + i * 4096);
	ck_assert_uint_eq(samples(), 100);
}
END_TEST

START_TEST(left_and_unknown_frames)
{
	hit(exit_, 0x1000); /* had begun before the attach */
	ck_assert_uint_eq(samples(), 0);
	ck_assert_uint_eq(event_count(LATENCY_UNPAIRED), 1);
	hit(entry, 0x1000); /* left by longjmp … */
	hit(entry, 0x1000); /* … and entered again: one frame */
	hit(exit_, 0x1000);
	ck_assert_uint_eq(samples(), 1);
	hit(exit_, 0x1000);
	ck_assert_uint_eq(event_count(LATENCY_UNPAIRED), 2);
}
END_TEST

START_TEST(nothing_is_lost_silently)
{
	const u64 n = 40000; /* more than there is room for */
	u64 no_room;

	for (u64 i = 0; i < n; i++)
		hit(entry, 0x10000 + i * 48);
	no_room = event_count(LATENCY_NO_ROOM);
	ck_assert_uint_gt(no_room, 0);
	for (u64 i = 0; i < n; i++)
		hit(exit_, 0x10000 + i * 48);
	ck_assert_uint_eq(samples(), n - no_room);
	ck_assert_uint_eq(event_count(LATENCY_UNPAIRED), no_room);
	/* and all room is free again */
	for (u64 i = 0; i < 1000; i++) {
		hit(entry, 0x10000 + i * 48);
		hit(exit_, 0x10000 + i * 48);
	}
	ck_assert_uint_eq(samples(), n - no_room + 1000);
}
END_TEST

#define THREAD_CALLS 20000

static void *nested_calls(void *arg)
{
	for (int i = 0; i < THREAD_CALLS / 4; i++) {
		for (int depth = 0; depth < 4; depth++)
			hit(entry, 0x5000 - depth * 32); /* the same addresses in all threads */
		for (int depth = 3; depth >= 0; depth--)
			hit(exit_, 0x5000 - depth * 32);
	}
	return NULL;
}

START_TEST(threads)
{
	pthread_t t[4];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, nested_calls, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i], NULL);
	ck_assert_uint_eq(samples(), ARRAY_SIZE(t) * THREAD_CALLS);
	ck_assert_uint_eq(event_count(LATENCY_UNPAIRED), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("latency_bpf");
	TCase *tc = tcase_create("latency_bpf");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, recursion);
	tcase_add_test(tc, any_order);
	tcase_add_test(tc, left_and_unknown_frames);
	tcase_add_test(tc, nothing_is_lost_silently);
	tcase_add_test(tc, threads);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
