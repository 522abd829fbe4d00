/* SPDX-License-Identifier: MIT */
/* libbpfvm as an embedder sees it: a clang-made object, its programs by JIT and
 * interpreter, its maps. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vm/bpfvm.h"

struct input {
	uint32_t key, pad;
	uint64_t value;
};

static char *object;
static size_t object_size;

static void read_object(void)
{
	const char *path = getenv("BPFVM_OBJECT");
	FILE *f = path ? fopen(path, "r") : NULL;

	ck_assert_msg(f != NULL, "BPFVM_OBJECT does not name a file");
	object = malloc(1 << 20);
	object_size = fread(object, 1, 1 << 20, f);
	fclose(f);
}

static struct bpfvm *vm;

static struct bpfvm_prog *prog(const char *name)
{
	struct bpfvm_prog *p = bpfvm_prog_find(vm, name);

	ck_assert_msg(p != NULL, "no program %s", name);
	return p;
}

static void setup(void)
{
	char *error = NULL;

	read_object();
	vm = bpfvm_open(object, object_size, "test", &error);
	ck_assert_msg(vm != NULL, "%s", error);
}

static void teardown(void)
{
	bpfvm_close(vm);
	free(object);
}

START_TEST(runs)
{
	struct input in = { 1000, 0, 14 };

	ck_assert_uint_eq(bpfvm_run(prog("empty"), NULL, 0), 0);
	ck_assert_uint_eq((uint32_t)bpfvm_run(prog("sum"), &in, sizeof(in)), 1000 + 14 * 3 + 1);
	ck_assert_uint_eq((uint32_t)bpfvm_interpret(prog("sum"), &in, sizeof(in)), 1000 + 14 * 3 + 1);
	ck_assert_uint_eq((uint32_t)bpfvm_run(prog("who"), NULL, 0), getpid());
	ck_assert_ptr_null(bpfvm_prog_find(vm, "nothing"));
	ck_assert_ptr_null(bpfvm_map_find(vm, "nothing"));
}
END_TEST

START_TEST(reads_memory)
{
	uint64_t there = 0x12345;
	struct input in = { .value = (uint64_t)&there };

	ck_assert_uint_eq((uint32_t)bpfvm_run(prog("read_arg"), &in, sizeof(in)), 0x12345);
	ck_assert_uint_eq((uint32_t)bpfvm_interpret(prog("read_arg"), &in, sizeof(in)), 0x12345);
	in.value = 8;
	ck_assert_int_eq((int)bpfvm_run(prog("read_arg"), &in, sizeof(in)), -1);
	ck_assert_int_eq((int)bpfvm_interpret(prog("read_arg"), &in, sizeof(in)), -1);
}
END_TEST

START_TEST(hash)
{
	struct bpfvm_map *counts = bpfvm_map_find(vm, "counts");
	struct input in = { 5, 0, 10 };
	uint64_t v = 0;
	uint32_t next, key = 6;

	ck_assert_ptr_nonnull(counts);
	ck_assert_uint_eq(bpfvm_map_value_size(counts), 8);
	ck_assert_int_eq(bpfvm_map_lookup(counts, &in.key, &v), -ENOENT);
	for (int i = 0; i < 10; i++)
		ck_assert_uint_eq(i & 1 ? bpfvm_run(prog("count"), &in, sizeof(in)) :
					  bpfvm_interpret(prog("count"), &in, sizeof(in)), 7);
	ck_assert_int_eq(bpfvm_map_lookup(counts, &in.key, &v), 0);
	ck_assert_uint_eq(v, 10);
	v = 99;
	ck_assert_int_eq(bpfvm_map_update(counts, &key, &v, 1), 0);
	ck_assert_int_eq(bpfvm_map_update(counts, &key, &v, 1), -EEXIST);
	ck_assert_int_eq(bpfvm_map_next_key(counts, NULL, &next), 0);
	ck_assert_int_eq(bpfvm_map_delete(counts, &key), 0);
	ck_assert_int_eq(bpfvm_map_delete(counts, &key), -ENOENT);
}
END_TEST

START_TEST(array)
{
	struct bpfvm_map *table = bpfvm_map_find(vm, "table");
	struct input in = { 3, 0, 21 };
	uint64_t v = 0;

	ck_assert_uint_eq((uint32_t)bpfvm_run(prog("add_at"), &in, sizeof(in)), 21);
	ck_assert_uint_eq((uint32_t)bpfvm_interpret(prog("add_at"), &in, sizeof(in)), 42);
	ck_assert_int_eq(bpfvm_map_lookup(table, &in.key, &v), 0);
	ck_assert_uint_eq(v, 42);
	in.key = 4;
	ck_assert_int_eq((int)bpfvm_run(prog("add_at"), &in, sizeof(in)), -1);
	ck_assert_int_eq((int)bpfvm_interpret(prog("add_at"), &in, sizeof(in)), -1);
}
END_TEST

START_TEST(global_data)
{
	struct bpfvm_map *data = bpfvm_map_find(vm, ".data"), *bss = bpfvm_map_find(vm, ".bss");
	struct bpfvm_map *rodata = bpfvm_map_find(vm, ".rodata");
	struct input in = { 5, 0, 11 };
	uint64_t v[4];
	uint32_t zero = 0;

	ck_assert(data && bss && rodata);
	bpfvm_run(prog("count"), &in, sizeof(in));
	bpfvm_run(prog("count"), &in, sizeof(in));
	ck_assert_int_eq(bpfvm_map_lookup(data, &zero, v), 0);
	ck_assert_uint_eq(v[0], 102);
	ck_assert_int_eq(bpfvm_map_lookup(bss, &zero, v), 0);
	ck_assert_uint_eq(v[0], 22);
	ck_assert_int_eq(bpfvm_map_lookup(rodata, &zero, v), 0);
	ck_assert_uint_eq(v[0], 3);
	ck_assert_int_eq(bpfvm_map_update(rodata, &zero, v, 0), -EPERM);
}
END_TEST

#define THREADS 4
#define ROUNDS 20000

static void *run_each_cpu(void *arg)
{
	struct input in = { 1, 0, 0 };

	for (int i = 0; i < ROUNDS; i++)
		bpfvm_run(prog("each_cpu"), &in, sizeof(in));
	return NULL;
}

static uint64_t sum_over_cpus(const char *name)
{
	struct bpfvm_map *m = bpfvm_map_find(vm, name);
	uint32_t key = 1, size = bpfvm_map_value_size(m);
	uint64_t *v = calloc(1, size), sum = 0;

	ck_assert_int_eq(bpfvm_map_lookup(m, &key, v), 0);
	for (uint32_t i = 0; i < size / 8; i++)
		sum += v[i];
	free(v);
	return sum;
}

/* Plain increments by several threads lose nothing. */
START_TEST(per_cpu)
{
	struct input in = { 1, 0, 0 };
	pthread_t t[THREADS];

	bpfvm_run(prog("each_cpu"), &in, sizeof(in)); /* the hash element is there */
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, run_each_cpu, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_uint_eq(sum_over_cpus("percpu"), THREADS * ROUNDS + 1);
	ck_assert_uint_eq(sum_over_cpus("percpu_hash"), THREADS * ROUNDS + 1);
}
END_TEST

START_TEST(garbage_is_refused)
{
	char *error = NULL;

	ck_assert_ptr_null(bpfvm_open("no ELF", 6, "bad", &error));
	ck_assert_ptr_nonnull(error);
	free(error);
	ck_assert_ptr_null(bpfvm_open(object, object_size / 2, "cut", NULL));
	bpfvm_close(NULL);
}
END_TEST

/* No page of this process is ever writable and executable. */
START_TEST(write_xor_execute)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];

	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		ck_assert_msg(!strstr(line, " rwx"), "%s", line);
	fclose(f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("bpfvm");
	TCase *tc = tcase_create("bpfvm");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, runs);
	tcase_add_test(tc, reads_memory);
	tcase_add_test(tc, hash);
	tcase_add_test(tc, array);
	tcase_add_test(tc, global_data);
	tcase_add_test(tc, per_cpu);
	tcase_add_test(tc, garbage_is_refused);
	tcase_add_test(tc, write_xor_execute);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
