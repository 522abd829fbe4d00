/* SPDX-License-Identifier: MIT */
/* libbpfvm as an embedder sees it: a clang-made object, its programs by JIT and
 * interpreter, its maps. */
#include <bpf/libbpf.h>
#include <check.h>
#include <errno.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "vm/bpfvm.h"

struct input {
	uint32_t key, pad;
	uint64_t value;
};

static struct bpfvm *vm;

static void *read_file(const char *env, size_t *ret_size)
{
	const char *path = getenv(env);
	FILE *f = path ? fopen(path, "r") : NULL;
	void *bytes = malloc(1 << 20);

	ck_assert_msg(f != NULL, "%s does not name a file", env);
	*ret_size = fread(bytes, 1, 1 << 20, f);
	fclose(f);
	return bytes;
}

static struct bpfvm *open_env(const char *env)
{
	struct bpfvm_error *error = NULL;
	struct bpfvm *ret = bpfvm_open_file(getenv(env), &error);

	ck_assert_msg(ret != NULL, "%s", error ? bpfvm_error_message(error) : "no reason");
	return ret;
}

static void load(struct bpfvm *v, unsigned flags)
{
	struct bpfvm_error *error = NULL;
	int ret = bpfvm_load(v, flags, &error);

	ck_assert_msg(!ret, "%s\n%s", error ? bpfvm_error_message(error) : "no reason", error ? bpfvm_error_log(error) : "");
}

/* Loading V fails with CODE, and WORDS are in message or log. */
static void load_fails(struct bpfvm *v, int code, const char *words)
{
	struct bpfvm_error *error = NULL;

	ck_assert_int_lt(bpfvm_load(v, 0, &error), 0);
	ck_assert_ptr_nonnull(error);
	ck_assert_int_eq(bpfvm_error_code(error), code);
	ck_assert_msg(strstr(bpfvm_error_message(error), words) || strstr(bpfvm_error_log(error), words), "%s\n%s",
		      bpfvm_error_message(error), bpfvm_error_log(error));
	bpfvm_error_free(error);
}

static struct bpfvm_prog *prog_of(struct bpfvm *v, const char *name)
{
	struct bpfvm_prog *p = bpfvm_prog_find(v, name);

	ck_assert_msg(p != NULL, "no program %s", name);
	return p;
}

static struct bpfvm_prog *prog(const char *name)
{
	return prog_of(vm, name);
}

static uint64_t run(const struct bpfvm_prog *p, void *ctx, size_t size)
{
	uint64_t ret = 0xbad;

	ck_assert_int_eq(bpfvm_run(p, ctx, size, &ret), 0);
	return ret;
}

static uint64_t interpret(const struct bpfvm_prog *p, void *ctx, size_t size)
{
	uint64_t ret = 0xbad;

	ck_assert_int_eq(bpfvm_interpret(p, ctx, size, 0, &ret), 0);
	return ret;
}

static void setup(void)
{
	vm = open_env("BPFVM_OBJECT");
	load(vm, 0);
}

static void teardown(void)
{
	bpfvm_close(vm);
}

START_TEST(runs)
{
	struct input in = { 1000, 0, 14 };

	ck_assert_uint_eq(run(prog("empty"), NULL, 0), 0);
	ck_assert_uint_eq(bpfvm_call(prog("empty"), NULL, 0), 0);
	ck_assert_uint_eq((uint32_t)bpfvm_call(prog("sum"), &in, sizeof(in)), 1000 + 14 * 3 + 1);
	ck_assert_uint_eq((uint32_t)bpfvm_call(prog("who"), NULL, 0), getpid());
	ck_assert_uint_eq((uint32_t)run(prog("sum"), &in, sizeof(in)), 1000 + 14 * 3 + 1);
	ck_assert_uint_eq((uint32_t)interpret(prog("sum"), &in, sizeof(in)), 1000 + 14 * 3 + 1);
	ck_assert_uint_eq((uint32_t)run(prog("who"), NULL, 0), getpid());
	ck_assert_ptr_null(bpfvm_prog_find(vm, "nothing"));
	ck_assert_ptr_null(bpfvm_map_find(vm, "nothing"));
}
END_TEST

START_TEST(reads_memory)
{
	uint64_t there = 0x12345;
	struct input in = { .value = (uint64_t)&there };

	ck_assert_uint_eq((uint32_t)run(prog("read_arg"), &in, sizeof(in)), 0x12345);
	ck_assert_uint_eq((uint32_t)interpret(prog("read_arg"), &in, sizeof(in)), 0x12345);
	in.value = 8;
	ck_assert_int_eq((int)run(prog("read_arg"), &in, sizeof(in)), -1);
	ck_assert_int_eq((int)interpret(prog("read_arg"), &in, sizeof(in)), -1);
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
		ck_assert_uint_eq(i & 1 ? run(prog("count"), &in, sizeof(in)) :
					  interpret(prog("count"), &in, sizeof(in)), 7);
	ck_assert_int_eq(bpfvm_map_lookup(counts, &in.key, &v), 0);
	ck_assert_uint_eq(v, 10);
	v = 99;
	ck_assert_int_eq(bpfvm_map_update(counts, &key, &v, 1), 0);
	ck_assert_int_eq(bpfvm_map_update(counts, &key, &v, 1), -EEXIST);
	ck_assert_int_eq(bpfvm_map_next_key(counts, NULL, &next), 0);
	ck_assert_int_eq(bpfvm_map_delete(counts, &key), 0);
	ck_assert_int_eq(bpfvm_map_delete(counts, &key), -ENOENT);
	ck_assert_int_eq(bpfvm_map_lookup_and_delete(counts, &in.key, &v), 0);
	ck_assert_uint_eq(v, 10);
	ck_assert_int_eq(bpfvm_map_lookup_and_delete(counts, &in.key, &v), -ENOENT);
}
END_TEST

START_TEST(batches)
{
	struct bpfvm_map *counts = bpfvm_map_find(vm, "counts");
	uint32_t keys[4] = { 1, 2, 3, 4 }, all[4], from, count = 4, n = 0, sum = 0;
	uint64_t values[4] = { 10, 20, 30, 40 }, got[4];
	int status = 0;

	ck_assert_int_eq(bpfvm_map_update_batch(counts, keys, values, &count, 0), 0);
	ck_assert_uint_eq(count, 4);
	for (int i = 0; !status; i++) {
		count = 3;
		status = bpfvm_map_lookup_batch(counts, i ? &from : NULL, &from, all, got, &count);
		for (uint32_t k = 0; k < count; k++)
			sum += (uint32_t)got[k] * all[k];
		n += count;
	}
	ck_assert_int_eq(status, -ENOENT);
	ck_assert_uint_eq(n, 4);
	ck_assert_uint_eq(sum, 10 + 40 + 90 + 160);
	count = 1;
	ck_assert_int_eq(bpfvm_map_delete_batch(counts, keys, &count), 0);
	count = 4;
	ck_assert_int_eq(bpfvm_map_lookup_and_delete_batch(counts, NULL, &from, all, got, &count), -ENOENT);
	ck_assert_uint_eq(count, 3);
	ck_assert_int_eq(bpfvm_map_freeze(counts), 0);
	count = 4;
	ck_assert_int_eq(bpfvm_map_update_batch(counts, keys, values, &count, 0), -EPERM);
	ck_assert_int_eq(bpfvm_map_update(counts, keys, values, 0), -EPERM);
}
END_TEST

START_TEST(array)
{
	struct bpfvm_map *table = bpfvm_map_find(vm, "table");
	struct input in = { 3, 0, 21 };
	uint64_t v = 0;

	ck_assert_uint_eq((uint32_t)run(prog("add_at"), &in, sizeof(in)), 21);
	ck_assert_uint_eq((uint32_t)interpret(prog("add_at"), &in, sizeof(in)), 42);
	ck_assert_int_eq(bpfvm_map_lookup(table, &in.key, &v), 0);
	ck_assert_uint_eq(v, 42);
	in.key = 4;
	ck_assert_int_eq((int)run(prog("add_at"), &in, sizeof(in)), -1);
	ck_assert_int_eq((int)interpret(prog("add_at"), &in, sizeof(in)), -1);
}
END_TEST

START_TEST(global_data)
{
	struct bpfvm_map *data = bpfvm_map_find(vm, ".data"), *bss = bpfvm_map_find(vm, ".bss");
	struct bpfvm_map *rodata = bpfvm_map_find(vm, ".rodata");
	struct input in = { 5, 0, 11 };
	uint64_t v[4];
	uint32_t zero = 0;
	size_t size = 0;

	ck_assert(data && bss && rodata);
	run(prog("count"), &in, sizeof(in));
	run(prog("count"), &in, sizeof(in));
	ck_assert_int_eq(bpfvm_map_lookup(data, &zero, v), 0);
	ck_assert_uint_eq(v[0], 102);
	ck_assert_int_eq(bpfvm_map_lookup(bss, &zero, v), 0);
	ck_assert_uint_eq(v[0], 22);
	ck_assert_int_eq(bpfvm_map_lookup(rodata, &zero, v), 0);
	ck_assert_uint_eq(v[0], 3);
	ck_assert_int_eq(bpfvm_map_update(rodata, &zero, v, 0), -EPERM);
	ck_assert_ptr_null(bpfvm_map_memory(rodata, NULL));
	ck_assert_uint_eq(*(uint64_t *)bpfvm_map_memory(bss, &size), 22);
	ck_assert_uint_eq(size, 8);
}
END_TEST

#define THREADS 4
#define ROUNDS 20000

static void *run_each_cpu(void *arg)
{
	const struct bpfvm_prog *p = prog_of(arg, "each_cpu");
	struct input in = { 1, 0, 0 };

	for (int i = 0; i < ROUNDS; i++)
		bpfvm_run(p, &in, sizeof(in), NULL);
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

	run(prog("each_cpu"), &in, sizeof(in)); /* the hash element is there */
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, run_each_cpu, vm), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_uint_eq(sum_over_cpus("percpu"), THREADS * ROUNDS + 1);
	ck_assert_uint_eq(sum_over_cpus("percpu_hash"), THREADS * ROUNDS + 1);
}
END_TEST

START_TEST(garbage_is_refused)
{
	struct bpfvm_error *error = NULL;
	size_t size;
	void *object = read_file("BPFVM_OBJECT", &size);

	ck_assert_ptr_null(bpfvm_open("no ELF", 6, "bad", &error));
	ck_assert_ptr_nonnull(error);
	ck_assert_int_eq(bpfvm_error_code(error), BPFVM_FAILED);
	ck_assert_ptr_nonnull(strstr(bpfvm_error_message(error), "bad: "));
	bpfvm_error_free(error);
	ck_assert_ptr_null(bpfvm_open(object, size / 2, "cut", NULL));
	ck_assert_ptr_null(bpfvm_open_file("/nowhere", &error));
	ck_assert_ptr_nonnull(strstr(bpfvm_error_message(error), "/nowhere: No such file"));
	bpfvm_error_free(error);
	bpfvm_error_free(NULL);
	bpfvm_close(NULL);
	free(object);
}
END_TEST

/* Everything but bpfvm_open() is a matter of a loaded VM or of one that is not. */
START_TEST(before_and_after_loading)
{
	struct bpfvm *v = open_env("BPFVM_OBJECT");
	struct bpfvm_map *m = bpfvm_map_find(v, "counts");
	struct bpfvm_error *error = NULL;
	uint64_t value = 0;
	uint32_t key = 0;

	ck_assert_int_eq(bpfvm_run(prog_of(v, "empty"), NULL, 0, NULL), -EINVAL);
	ck_assert_int_eq(bpfvm_interpret(prog_of(v, "empty"), NULL, 0, 0, NULL), -EINVAL);
	ck_assert_uint_eq(bpfvm_call(prog_of(v, "empty"), NULL, 0), 0);
	ck_assert_int_eq(bpfvm_map_lookup(m, &key, &value), -EINVAL);
	ck_assert_int_eq(bpfvm_map_update(m, &key, &value, 0), -EINVAL);
	ck_assert_int_eq(bpfvm_map_delete(m, &key), -EINVAL);
	ck_assert_int_eq(bpfvm_map_next_key(m, NULL, &key), -EINVAL);
	load(v, 0);
	ck_assert_int_eq(bpfvm_load(v, 0, &error), -EINVAL);
	ck_assert_int_eq(bpfvm_error_code(error), BPFVM_USAGE);
	bpfvm_error_free(error);
	ck_assert_int_eq(bpfvm_prog_set_autoload(prog_of(v, "empty"), 0), -EBUSY);
	ck_assert_int_eq(bpfvm_map_set_max_entries(m, 5), -EBUSY);
	ck_assert_int_eq(bpfvm_set_ctx(v, 0, NULL, 0), -EBUSY);
	ck_assert_ptr_null(bpfvm_map_initial(bpfvm_map_find(v, ".data"), NULL));
	ck_assert_ptr_null(bpfvm_add_map(v, "m", 1, 4, 4, 1, 0, NULL));
	ck_assert_ptr_null(bpfvm_add_prog(v, "p", "01234567", 1, NULL));
	bpfvm_close(v);
}
END_TEST

START_TEST(settings)
{
	struct bpfvm *v = open_env("BPFVM_OBJECT");
	struct bpfvm_map *counts = bpfvm_map_find(v, "counts");
	struct input in = { 1000, 0, 14 };
	uint64_t *factor, value = 1;
	size_t size = 0;
	uint32_t key;

	factor = bpfvm_map_initial(bpfvm_map_find(v, ".rodata"), &size);
	ck_assert(factor && size == 8 && *factor == 3);
	*factor = 10;
	ck_assert_ptr_null(bpfvm_map_initial(counts, &size));
	ck_assert_int_eq(bpfvm_map_set_max_entries(counts, 0), -EINVAL);
	ck_assert_int_eq(bpfvm_map_set_max_entries(counts, 2), 0);
	ck_assert_int_eq(bpfvm_prog_set_autoload(prog_of(v, "who"), 0), 0);
	load(v, 0);
	ck_assert_uint_eq((uint32_t)run(prog_of(v, "sum"), &in, sizeof(in)), 1000 + 14 * 10 + 1);
	ck_assert_uint_eq((uint32_t)interpret(prog_of(v, "sum"), &in, sizeof(in)), 1000 + 14 * 10 + 1);
	ck_assert_uint_eq(bpfvm_map_max_entries(counts), 2);
	for (key = 0; key < 2; key++)
		ck_assert_int_eq(bpfvm_map_update(counts, &key, &value, 0), 0);
	ck_assert_int_eq(bpfvm_map_update(counts, &key, &value, 0), -E2BIG);
	ck_assert_int_eq(bpfvm_run(prog_of(v, "who"), NULL, 0, NULL), -EINVAL);
	bpfvm_close(v);
}
END_TEST

START_TEST(enumeration)
{
	struct bpfvm_map *m = NULL;
	struct bpfvm_prog *p = NULL;
	unsigned maps = 0, progs = 0;

	while ((m = bpfvm_map_next(vm, m)) != NULL) {
		ck_assert_ptr_eq(bpfvm_map_find(vm, bpfvm_map_name(m)), m);
		maps++;
	}
	while ((p = bpfvm_prog_next(vm, p)) != NULL) {
		ck_assert_ptr_eq(bpfvm_prog_find(vm, bpfvm_prog_name(p)), p);
		ck_assert_str_eq(bpfvm_prog_section(p), "uprobe");
		progs++;
	}
	ck_assert_uint_eq(maps, 7);
	ck_assert_uint_eq(progs, 7);
	m = bpfvm_map_find(vm, "percpu_hash");
	ck_assert_uint_eq(bpfvm_map_type(m), 5);
	ck_assert_uint_eq(bpfvm_map_key_size(m), 4);
	ck_assert_uint_eq(bpfvm_map_value_size(m), 8 * sysconf(_SC_NPROCESSORS_CONF));
}
END_TEST

START_TEST(without_jit)
{
	struct bpfvm *v = open_env("BPFVM_OBJECT");
	struct input in = { 1000, 0, 14 };
	struct bpfvm_prog_info info;

	load(v, BPFVM_NO_JIT);
	ck_assert_uint_eq((uint32_t)run(prog_of(v, "sum"), &in, sizeof(in)), 1000 + 14 * 3 + 1);
	ck_assert_uint_eq((uint32_t)bpfvm_call(prog_of(v, "who"), NULL, 0), getpid());
	bpfvm_prog_get_info(prog_of(v, "sum"), &info);
	ck_assert(!info.jited && !info.jited_size);
	ck_assert_ptr_null(bpfvm_prog_listing(prog_of(v, "sum"), 1));
	bpfvm_close(v);
}
END_TEST

START_TEST(information)
{
	struct bpfvm *v = open_env("BPFVM_OBJECT");
	struct bpfvm_prog_info info;
	struct input in = { 0, 0, 0 };
	char *text;

	bpfvm_set_log_level(v, 2);
	load(v, 0);
	bpfvm_prog_get_info(prog_of(v, "sum"), &info);
	ck_assert_uint_gt(info.insns, 5);
	ck_assert_uint_gt(info.insns_processed, 5);
	ck_assert_uint_eq(info.ctx_end, 16);
	ck_assert(info.jited && info.jited_size);
	ck_assert_ptr_nonnull(strstr(bpfvm_prog_log(prog_of(v, "sum")), "r0"));
	ck_assert_int_eq(bpfvm_run(prog_of(v, "sum"), &in, 15, NULL), -EINVAL);
	bpfvm_prog_get_info(prog_of(v, "empty"), &info);
	ck_assert_uint_eq(info.ctx_end, 0);
	text = bpfvm_prog_listing(prog_of(v, "empty"), 0);
	ck_assert_ptr_nonnull(strstr(text, "exit"));
	free(text);
	text = bpfvm_prog_listing(prog_of(v, "empty"), 1);
	ck_assert_ptr_nonnull(strstr(text, "ret"));
	free(text);
	bpfvm_close(v);
}
END_TEST

/* --- maps that two VMs share --- */

START_TEST(shared_maps)
{
	struct bpfvm *other = open_env("BPFVM_OBJECT");
	struct input in = { 5, 0, 1 };
	uint64_t value = 0;
	uint32_t key = 5;

	ck_assert_int_eq(bpfvm_map_share(bpfvm_map_find(other, "counts"), bpfvm_map_find(vm, "table")), -EINVAL);
	ck_assert_int_eq(bpfvm_map_share(bpfvm_map_find(other, "counts"), bpfvm_map_find(vm, "counts")), 0);
	ck_assert_int_eq(bpfvm_map_share(bpfvm_map_find(other, ".rodata"), bpfvm_map_find(vm, ".rodata")), 0);
	ck_assert_int_eq(bpfvm_map_set_max_entries(bpfvm_map_find(other, "counts"), 2), -EINVAL);
	load(other, 0);
	ck_assert_int_eq(bpfvm_map_share(bpfvm_map_find(other, "counts"), bpfvm_map_find(vm, "counts")), -EBUSY);
	run(prog("count"), &in, sizeof(in));
	run(prog_of(other, "count"), &in, sizeof(in));
	ck_assert_int_eq(bpfvm_map_lookup(bpfvm_map_find(vm, "counts"), &key, &value), 0);
	ck_assert_uint_eq(value, 2);
	/* the one that made them goes first */
	bpfvm_close(vm);
	vm = other;
	run(prog("count"), &in, sizeof(in));
	ck_assert_int_eq(bpfvm_map_lookup(bpfvm_map_find(vm, "counts"), &key, &value), 0);
	ck_assert_uint_eq(value, 3);
	/* … and what is not shared is each one's own */
	key = 0;
	ck_assert_int_eq(bpfvm_map_lookup(bpfvm_map_find(vm, ".bss"), &key, &value), 0);
	ck_assert_uint_eq(value, 2);
}
END_TEST

/* Programs of two VMs that share a per-CPU map: increments do not get lost
 * between them, either. */
START_TEST(shared_per_cpu)
{
	struct bpfvm *other = open_env("BPFVM_OBJECT"), *third = open_env("BPFVM_OBJECT");
	struct input in = { 1, 0, 0 };
	pthread_t t[THREADS];

	ck_assert_int_eq(bpfvm_map_share(bpfvm_map_find(other, "percpu"), bpfvm_map_find(vm, "percpu")), 0);
	ck_assert_int_eq(bpfvm_map_share(bpfvm_map_find(other, "percpu_hash"), bpfvm_map_find(vm, "percpu_hash")), 0);
	load(other, 0);
	load(third, 0);
	run(prog("each_cpu"), &in, sizeof(in));
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, run_each_cpu, i & 1 ? vm : other), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_uint_eq(sum_over_cpus("percpu"), THREADS * ROUNDS + 1);
	ck_assert_uint_eq(sum_over_cpus("percpu_hash"), THREADS * ROUNDS + 1);
	bpfvm_close(other);
	/* per-CPU maps of two VMs with claims of their own cannot meet in a third */
	other = open_env("BPFVM_OBJECT");
	ck_assert_int_eq(bpfvm_map_share(bpfvm_map_find(other, "percpu"), bpfvm_map_find(vm, "percpu")), 0);
	ck_assert_int_eq(bpfvm_map_share(bpfvm_map_find(other, "percpu_hash"), bpfvm_map_find(third, "percpu_hash")),
			 -EBUSY);
	bpfvm_close(other);
	bpfvm_close(third);
}
END_TEST

/* --- instructions by hand --- */

START_TEST(raw_programs)
{
	static const struct bpf_insn add[] = {
		{ .code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = 0, .src_reg = 1, .off = 8 },
		{ .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 0, .imm = 5 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	/* r0 = value of key 1 of map 0 */
	static const struct bpf_insn look[] = {
		{ .code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = 10, .off = -4, .imm = 1 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 2, .src_reg = 10 },
		{ .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 2, .imm = -4 },
		{ .code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 1, .src_reg = 5, .imm = 0 },
		{ 0 },
		{ .code = BPF_JMP | BPF_CALL, .imm = 1 },
		{ .code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = 0, .off = 1 },
		{ .code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = 0, .src_reg = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	static const struct bpf_insn endless[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0 },
		{ .code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = 0, .off = -1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	uint64_t ctx[2] = { 1, 2 }, value = 77, ret;
	uint32_t key = 1;
	struct bpfvm *v = bpfvm_new("raw", NULL);
	struct bpfvm_map *m = bpfvm_add_map(v, "m", BPF_MAP_TYPE_HASH, 4, 8, 10, 0, NULL);

	ck_assert_ptr_nonnull(m);
	ck_assert_ptr_nonnull(bpfvm_add_prog(v, "add", add, 3, NULL));
	ck_assert_ptr_nonnull(bpfvm_add_prog(v, "look", look, 9, NULL));
	ck_assert_ptr_null(bpfvm_add_prog(v, "none", add, 0, NULL));
	load(v, 0);
	ck_assert_uint_eq(run(prog_of(v, "add"), ctx, sizeof(ctx)), 7);
	ck_assert_uint_eq(run(prog_of(v, "look"), NULL, 0), 0);
	ck_assert_int_eq(bpfvm_map_update(m, &key, &value, 0), 0);
	ck_assert_uint_eq(run(prog_of(v, "look"), NULL, 0), 77);
	ck_assert_uint_eq(interpret(prog_of(v, "look"), NULL, 0), 77);
	bpfvm_close(v);

	/* what the verifier refuses, may be taken on trust, and bounded */
	v = bpfvm_new("raw", NULL);
	bpfvm_add_prog(v, "endless", endless, 3, NULL);
	load_fails(v, BPFVM_REJECTED, "endless");
	load(v, BPFVM_UNVERIFIED);
	ck_assert_int_eq(bpfvm_interpret(prog_of(v, "endless"), NULL, 0, 1000, &ret), -ELOOP);
	bpfvm_close(v);
}
END_TEST

/* As long as the kernel allows root: it loads, and runs the same in both ways. */
START_TEST(a_million_instructions)
{
	const size_t n = 1000000;
	struct bpf_insn *insns = calloc(n + 1, sizeof(*insns));
	struct bpfvm *v = bpfvm_new("raw", NULL);
	uint64_t start = 5;

	insns[0] = (struct bpf_insn){ .code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = 0, .src_reg = 1 };
	for (size_t i = 1; i < n; i++)
		insns[i] = (struct bpf_insn){ .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 0, .imm = 3 };
	insns[n - 1] = insns[n] = (struct bpf_insn){ .code = BPF_JMP | BPF_EXIT };
	ck_assert_ptr_null(bpfvm_add_prog(v, "more", insns, n + 1, NULL));
	ck_assert_ptr_nonnull(bpfvm_add_prog(v, "million", insns, n, NULL));
	free(insns);
	load(v, 0);
	ck_assert_uint_eq(run(prog_of(v, "million"), &start, sizeof(start)), 5 + 3 * (n - 2));
	ck_assert_uint_eq(interpret(prog_of(v, "million"), &start, sizeof(start)), 5 + 3 * (n - 2));
	bpfvm_close(v);
}
END_TEST

/* --- a ctx and helpers of one's own --- */

struct packet {
	uint32_t len, mark;
	uint64_t hidden;
	uint8_t bytes[16];
};

static const struct bpfvm_ctx_field packet_fields[] = {
	{ offsetof(struct packet, len), 4, BPFVM_READ },
	{ offsetof(struct packet, mark), 4, BPFVM_READ | BPFVM_WRITE },
	{ offsetof(struct packet, bytes), 16, BPFVM_READ },
};

static uint64_t checksum(uint64_t mem, uint64_t size, uint64_t a3, uint64_t a4, uint64_t a5, struct bpfvm_call *call)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < size; i++)
		sum += ((uint8_t *)mem)[i];
	return sum;
}

static uint64_t fill(uint64_t mem, uint64_t size, uint64_t byte, uint64_t a4, uint64_t a5, struct bpfvm_call *call)
{
	memset((void *)mem, (int)byte, size);
	return 0;
}

/* Makes the element that is not there: helpers may use the library. */
static uint64_t slot_of(uint64_t map, uint64_t key, uint64_t a3, uint64_t a4, uint64_t a5, struct bpfvm_call *call)
{
	struct bpfvm_map *m = bpfvm_call_map(call, map);
	uint64_t start = *(uint32_t *)key * 100;

	if (strcmp(bpfvm_map_name(m), "hits") || *(uint32_t *)key > 100)
		return 0;
	bpfvm_map_update(m, (void *)key, &start, BPF_NOEXIST);
	*(uint64_t *)bpfvm_data(bpfvm_call_vm(call)) += 1;
	return (uint64_t)bpfvm_map_element(m, (void *)key);
}

static char said[16];

static uint64_t say(uint64_t text, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, struct bpfvm_call *call)
{
	snprintf(said, sizeof(said), "%s", (char *)text);
	return 0;
}

static const struct bpfvm_helper own_helpers[] = {
	{ 0x1000, "checksum", checksum, BPFVM_RET_NUMBER, { BPFVM_ARG_MEM, BPFVM_ARG_SIZE } },
	{ 0x1001, "fill", fill, BPFVM_RET_NUMBER, { BPFVM_ARG_MEM_UNINIT, BPFVM_ARG_SIZE, BPFVM_ARG_ANY } },
	{ 0x1002, "slot_of", slot_of, BPFVM_RET_MAP_VALUE_OR_NULL, { BPFVM_ARG_MAP, BPFVM_ARG_MAP_KEY } },
	{ 0x1003, "say", say, BPFVM_RET_NOTHING, { BPFVM_ARG_CONST_STR } },
};

/* The object with all that its programs want; those in section wrong/… are off. */
static struct bpfvm *open_own(void)
{
	struct bpfvm *v = open_env("BPFVM_OWN");
	struct bpfvm_prog *p = NULL;

	ck_assert_int_eq(bpfvm_set_ctx(v, sizeof(struct packet), packet_fields, 3), 0);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(bpfvm_add_helper(v, &own_helpers[i], NULL), 0);
	while ((p = bpfvm_prog_next(v, p)) != NULL)
		bpfvm_prog_set_autoload(p, !!strncmp(bpfvm_prog_section(p), "wrong/", 6));
	return v;
}

START_TEST(own_ctx)
{
	struct bpfvm *v = open_own();
	struct packet pkt = { .len = 21, .bytes = { 1, 2, 3, 4 } };

	load(v, 0);
	ck_assert_uint_eq(run(prog_of(v, "mark"), &pkt, sizeof(pkt)), 4);
	ck_assert_uint_eq(pkt.mark, 42);
	pkt.mark = 0;
	ck_assert_uint_eq(interpret(prog_of(v, "mark"), &pkt, sizeof(pkt)), 4);
	ck_assert_uint_eq(pkt.mark, 42);
	ck_assert_int_eq(bpfvm_run(prog_of(v, "mark"), &pkt, 19, NULL), -EINVAL);
	ck_assert_int_eq(bpfvm_run(prog_of(v, "mark"), &pkt, 20, NULL), 0);
	bpfvm_close(v);
}
END_TEST

START_TEST(own_ctx_is_guarded)
{
	static const char *const wrong[] = { "reads_hidden", "writes_len", "reads_beyond" };
	struct bpfvm_ctx_field bad = { 8, 8, BPFVM_READ };
	struct bpfvm *v = open_own();

	for (int i = 0; i < 3; i++) {
		bpfvm_prog_set_autoload(prog_of(v, wrong[i]), 1);
		load_fails(v, BPFVM_REJECTED, wrong[i]);
		bpfvm_prog_set_autoload(prog_of(v, wrong[i]), 0);
	}
	ck_assert_int_eq(bpfvm_set_ctx(v, 15, &bad, 1), -EINVAL);
	ck_assert_int_eq(bpfvm_set_ctx(v, 65537, NULL, 0), -EINVAL);
	bad.access = 8;
	ck_assert_int_eq(bpfvm_set_ctx(v, 16, &bad, 1), -EINVAL);
	/* other settings, and it can be loaded after all */
	bad = (struct bpfvm_ctx_field){ 0, 32, BPFVM_READ };
	ck_assert_int_eq(bpfvm_prog_set_ctx(prog_of(v, "reads_hidden"), 32, &bad, 1), 0);
	bpfvm_prog_set_autoload(prog_of(v, "reads_hidden"), 1);
	load(v, 0);
	bpfvm_close(v);
}
END_TEST

START_TEST(own_helpers_are_called)
{
	struct bpfvm *v = open_own();
	struct packet pkt = { .len = 7 };
	uint64_t calls = 0, value;
	uint32_t key = 7;

	bpfvm_set_data(v, &calls);
	load(v, 0);
	ck_assert_uint_eq(run(prog_of(v, "helpers"), &pkt, sizeof(pkt)), 56);
	ck_assert_uint_eq(interpret(prog_of(v, "helpers"), &pkt, sizeof(pkt)), 56);
	ck_assert_uint_eq(run(prog_of(v, "slot"), &pkt, sizeof(pkt)), 701);
	ck_assert_uint_eq(interpret(prog_of(v, "slot"), &pkt, sizeof(pkt)), 702);
	ck_assert_uint_eq(calls, 2);
	ck_assert_int_eq(bpfvm_map_lookup(bpfvm_map_find(v, "hits"), &key, &value), 0);
	ck_assert_uint_eq(value, 702);
	pkt.len = 101;
	ck_assert_int_eq((int)run(prog_of(v, "slot"), &pkt, sizeof(pkt)), -1);
	run(prog_of(v, "says"), &pkt, sizeof(pkt));
	ck_assert_str_eq(said, "hello");
	bpfvm_close(v);
}
END_TEST

START_TEST(own_helpers_are_guarded)
{
	static const char *const wrong[] = { "too_large", "no_memory", "no_null_check", "unknown_helper" };
	struct bpfvm *v = open_own();

	for (int i = 0; i < 4; i++) {
		bpfvm_prog_set_autoload(prog_of(v, wrong[i]), 1);
		load_fails(v, BPFVM_REJECTED, wrong[i]);
		bpfvm_prog_set_autoload(prog_of(v, wrong[i]), 0);
	}
	load(v, 0);
	bpfvm_close(v);
	/* without them */
	v = open_env("BPFVM_OWN");
	ck_assert_int_eq(bpfvm_set_ctx(v, sizeof(struct packet), packet_fields, 3), 0);
	load_fails(v, BPFVM_REJECTED, "4097");
	bpfvm_close(v);
}
END_TEST

START_TEST(prototypes_are_checked)
{
	static const struct {
		struct bpfvm_helper h;
		const char *words;
	} rows[] = {
		{ { 0xfff, "x", say, BPFVM_RET_NUMBER, { 0 } }, "not within" },
		{ { 0x2000, "x", say, BPFVM_RET_NUMBER, { 0 } }, "not within" },
		{ { 0x1000, "x", say, BPFVM_RET_NUMBER, { 0 } }, "checksum already" },
		{ { 0x1010, NULL, say, BPFVM_RET_NUMBER, { 0 } }, "no name" },
		{ { 0x1010, "x", NULL, BPFVM_RET_NUMBER, { 0 } }, "no function" },
		{ { 0x1010, "x", say, BPFVM_RET_NUMBER, { BPFVM_ARG_MEM } }, "not followed by its size" },
		{ { 0x1010, "x", say, BPFVM_RET_NUMBER, { BPFVM_ARG_SIZE } }, "does not follow memory" },
		{ { 0x1010, "x", say, BPFVM_RET_NUMBER, { BPFVM_ARG_MAP_KEY } }, "before its map" },
		{ { 0x1010, "x", say, BPFVM_RET_NUMBER, { BPFVM_ARG_MAP, BPFVM_ARG_MAP } }, "two maps" },
		{ { 0x1010, "x", say, BPFVM_RET_NUMBER, { BPFVM_ARG_NONE, BPFVM_ARG_ANY } }, "not there" },
		{ { 0x1010, "x", say, BPFVM_RET_NUMBER, { (enum bpfvm_arg)99 } }, "no kind" },
		{ { 0x1010, "x", say, (enum bpfvm_ret)99, { 0 } }, "no kind" },
		{ { 0x1010, "x", say, BPFVM_RET_MAP_VALUE_OR_NULL, { BPFVM_ARG_ANY } }, "is no map" },
	};
	struct bpfvm *v = open_own();

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct bpfvm_error *error = NULL;

		ck_assert_int_eq(bpfvm_add_helper(v, &rows[i].h, &error), -EINVAL);
		ck_assert_ptr_nonnull(error);
		ck_assert_int_eq(bpfvm_error_code(error), BPFVM_USAGE);
		ck_assert_msg(strstr(bpfvm_error_message(error), rows[i].words) != NULL, "%s", bpfvm_error_message(error));
		bpfvm_error_free(error);
	}
	bpfvm_close(v);
}
END_TEST

/* --- manners --- */

static int printed;

static int count_prints(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	printed++;
	return 0;
}

/* A host that uses libbpf itself notices nothing. */
START_TEST(libbpf_prints_as_before)
{
	libbpf_print_fn_t before = libbpf_set_print(count_prints);

	ck_assert_ptr_null(bpfvm_open("no ELF", 6, "bad", NULL));
	ck_assert_int_eq(printed, 0);
	ck_assert(libbpf_set_print(before) == count_prints);
}
END_TEST

static void *open_and_run(void *arg)
{
	static char wrong[] = "wrong";
	struct input in = { 1000, 0, 14 };
	uint64_t ret = 0;

	for (int i = 0; i < 20; i++) {
		struct bpfvm *v = bpfvm_open_file(getenv("BPFVM_OBJECT"), NULL);

		if (!v || bpfvm_load(v, 0, NULL) || bpfvm_run(bpfvm_prog_find(v, "sum"), &in, sizeof(in), &ret) ||
		    (uint32_t)ret != 1043)
			return wrong;
		bpfvm_close(v);
	}
	return NULL;
}

START_TEST(vms_are_independent)
{
	pthread_t t[THREADS];
	void *wrong;

	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, open_and_run, NULL), 0);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(t[i], &wrong);
		ck_assert_ptr_null(wrong);
	}
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

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, runs);
	tcase_add_test(tc, reads_memory);
	tcase_add_test(tc, hash);
	tcase_add_test(tc, batches);
	tcase_add_test(tc, array);
	tcase_add_test(tc, global_data);
	tcase_add_test(tc, per_cpu);
	tcase_add_test(tc, garbage_is_refused);
	tcase_add_test(tc, before_and_after_loading);
	tcase_add_test(tc, settings);
	tcase_add_test(tc, enumeration);
	tcase_add_test(tc, without_jit);
	tcase_add_test(tc, information);
	tcase_add_test(tc, shared_maps);
	tcase_add_test(tc, shared_per_cpu);
	tcase_add_test(tc, raw_programs);
	tcase_add_test(tc, a_million_instructions);
	tcase_add_test(tc, own_ctx);
	tcase_add_test(tc, own_ctx_is_guarded);
	tcase_add_test(tc, own_helpers_are_called);
	tcase_add_test(tc, own_helpers_are_guarded);
	tcase_add_test(tc, prototypes_are_checked);
	tcase_add_test(tc, libbpf_prints_as_before);
	tcase_add_test(tc, vms_are_independent);
	tcase_add_test(tc, write_xor_execute);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
