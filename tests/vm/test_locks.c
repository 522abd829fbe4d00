/* SPDX-License-Identifier: MIT */
/*
 * struct bpf_spin_lock at work: threads and both ways to run a program; and what
 * becomes of a run that does not get its lock, wherever in the program that is: it
 * ends there with 0, nothing done, its per-CPU slot free, and its caller's registers
 * what they were.
 */
#include <check.h>
#include <errno.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/support/suite.h"
#include "vm/bpfvm.h"

#define SOMEBODY 0x123457u /* a lock word: owner 0x123456 */

struct locked {
	uint32_t before, lock;
	uint64_t a, b;
};

struct ctx {
	uint32_t key, unused;
	uint64_t n;
};

static struct bpfvm *vm;
static struct locked *table;

static void setup(void)
{
	struct bpfvm_error *error = NULL;
	static const struct bpfvm_ctx_field all = {0, sizeof(struct ctx), BPFVM_READ};
	struct locked zero = {0};

	vm = bpfvm_open_file(getenv("LOCKS_OBJECT"), &error);
	ck_assert_msg(vm != NULL, "%s", error ? bpfvm_error_message(error) : "no reason");
	ck_assert_int_eq(bpfvm_set_ctx(vm, sizeof(struct ctx), &all, 1), 0);
	ck_assert_msg(!bpfvm_load(vm, 0, &error), "%s\n%s", error ? bpfvm_error_message(error) : "?",
		      error ? bpfvm_error_log(error) : "");
	table = bpfvm_map_memory(bpfvm_map_find(vm, "table"), NULL);
	ck_assert_ptr_nonnull(table);
	for (uint32_t key = 0; key < 2; key++)
		ck_assert_int_eq(bpfvm_map_update(bpfvm_map_find(vm, "entries"), &key, &zero, BPF_ANY), 0);
}

static void teardown(void)
{
	bpfvm_close(vm);
}

/* Calls FN(a, b, c, d) with marks in the registers that it must keep; counts in
 * broken_regs those that it did not. */
uint64_t broken_regs;
uint64_t watched(int (*fn)(const struct bpfvm_prog *, void *, size_t, uint64_t *), const struct bpfvm_prog *p, void *ctx, size_t size,
		 uint64_t *ret);
__asm__(".text\n.globl watched\nwatched:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n	sub $8, %rsp\n"
	"	mov %rdi, %rax\n	mov %rsi, %rdi\n	mov %rdx, %rsi\n	mov %rcx, %rdx\n	mov %r8, %rcx\n"
	"	mov $0x1111, %ebx\n	mov $0x2222, %ebp\n	mov $0x3333, %r12d\n	mov $0x4444, %r13d\n"
	"	mov $0x5555, %r14d\n	mov $0x6666, %r15d\n"
	"	call *%rax\n"
	"	xor $0x1111, %rbx\n	xor $0x2222, %rbp\n	xor $0x3333, %r12\n	xor $0x4444, %r13\n"
	"	xor $0x5555, %r14\n	xor $0x6666, %r15\n"
	"	or %rbp, %rbx\n	or %r12, %rbx\n	or %r13, %rbx\n	or %r14, %rbx\n	or %r15, %rbx\n"
	"	or %rbx, broken_regs(%rip)\n"
	"	add $8, %rsp\n	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n	ret\n");

static uint64_t run(const char *name, bool jit, uint32_t key, uint64_t n)
{
	struct bpfvm_prog *p = bpfvm_prog_find(vm, name);
	struct ctx ctx = {.key = key, .n = n};
	uint64_t ret = 0xbad;

	ck_assert_msg(p != NULL, "no program %s", name);
	if (jit)
		ck_assert_int_eq((int)watched(bpfvm_run, p, &ctx, sizeof(ctx), &ret), 0);
	else
		ck_assert_int_eq(bpfvm_interpret(p, &ctx, sizeof(ctx), 0, &ret), 0);
	ck_assert_msg(!broken_regs, "%s leaves a register changed", name);
	return ret;
}

static struct locked entry(uint32_t key)
{
	struct locked v;

	ck_assert_int_eq(bpfvm_map_lookup(bpfvm_map_find(vm, "entries"), &key, &v), 0);
	return v;
}

START_TEST(sections_run)
{
	uint32_t tiny[2] = {99, 7}, key = 0;
	bool jit = _i;

	ck_assert_uint_eq(run("plain", jit, 0, 5), 2);
	ck_assert_uint_eq(run("function", jit, 0, 6), 2);
	ck_assert_uint_eq(run("loop", jit, 0, 1), 2);
	ck_assert_uint_eq(run("slot", jit, 0, 7), 2);
	ck_assert_uint_eq(run("hash", jit, 1, 8), 2);
	ck_assert_uint_eq(run("each", jit, 0, 10), 2);
	ck_assert_uint_eq(run("global", jit, 0, 3), 2);
	ck_assert_uint_eq(run("global", jit, 0, 3), 2);
	ck_assert_uint_eq(run("small", jit, 0, 0), 1);
	ck_assert_int_eq(bpfvm_map_update(bpfvm_map_find(vm, "tiny"), &key, tiny, BPF_ANY), 0);
	ck_assert_uint_eq(run("small", jit, 0, 0), 2);
	ck_assert_int_eq(bpfvm_map_lookup(bpfvm_map_find(vm, "tiny"), &key, tiny), 0);
	ck_assert_uint_eq(tiny[0], 0);
	ck_assert_uint_eq(tiny[1], 8);
	ck_assert_uint_eq(table[0].a, 5 + 6 + 3 + 7);
	ck_assert_uint_eq(table[0].b, table[0].a);
	ck_assert_uint_eq(table[0].lock, 0);
	ck_assert_uint_eq(entry(0).a, 10);
	ck_assert_uint_eq(entry(1).b, 18);
}
END_TEST

/* The word that a program is to find taken: in the table or the hash. */
static uint32_t *word_of(const char *name)
{
	uint32_t key = 0;

	if (!strcmp(name, "hash") || !strcmp(name, "each"))
		return &((struct locked *)bpfvm_map_element(bpfvm_map_find(vm, "entries"), &key))->lock;
	return &table[0].lock;
}

static const char *const places[] = {"plain", "function", "loop", "each", "slot", "hash"};

START_TEST(a_run_without_the_lock_ends)
{
	const char *name = places[_i / 2];
	bool jit = _i % 2;
	uint32_t *word = word_of(name), key = 0;
	uint64_t values[1024] = {0}, sum = 0;

	*word = SOMEBODY;
	for (int i = 0; i < 200; i++) /* more than there are slots */
		ck_assert_uint_eq(run(name, jit, 0, 1), 0);
	ck_assert_uint_eq(*word & 0x1ffffff, SOMEBODY);
	ck_assert_uint_eq(table[0].a + table[0].b + entry(0).a + entry(0).b, 0);
	*word = 0;
	ck_assert_uint_eq(run(name, jit, 0, 1), 2);
	ck_assert_uint_ge(table[0].a + entry(0).a, 1);
	ck_assert_int_eq(bpfvm_map_lookup(bpfvm_map_find(vm, "runs"), &key, values), 0);
	for (uint32_t i = 0; i < sizeof(values) / 8; i++)
		sum += values[i];
	ck_assert_uint_eq(sum, !strcmp(name, "slot") ? 200 + 1001 : 0);
}
END_TEST

/* Whoever has found out once that its owner does not go on says so to the others. */
START_TEST(waiting_is_short)
{
	struct timespec a, b;
	uint64_t first, next;

	table[0].lock = SOMEBODY;
	clock_gettime(CLOCK_MONOTONIC, &a);
	run("plain", true, 0, 1);
	clock_gettime(CLOCK_MONOTONIC, &b);
	first = (b.tv_sec - a.tv_sec) * 1000000000ull + b.tv_nsec - a.tv_nsec;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < 100; i++)
		run("plain", true, 0, 1);
	clock_gettime(CLOCK_MONOTONIC, &b);
	next = ((b.tv_sec - a.tv_sec) * 1000000000ull + b.tv_nsec - a.tv_nsec) / 100;
	printf("# a run that waits in vain: %lu ns, then %lu ns\n", (long)first, (long)next);
	ck_assert_uint_ne(table[0].lock & 0x80000000u, 0);
}
END_TEST

#define THREADS 4
#define ROUNDS 20000

static uint64_t done[THREADS];

static void *hammer(void *arg)
{
	uint64_t *mine = arg;
	struct bpfvm_prog *p = bpfvm_prog_find(vm, "plain"), *q = bpfvm_prog_find(vm, "hash");
	struct ctx ctx = {.key = 0, .n = 1};

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t ret = 0, other = 0;

		bpfvm_run(p, &ctx, sizeof(ctx), &ret);
		if (i % 3)
			bpfvm_run(q, &ctx, sizeof(ctx), &other);
		else
			bpfvm_interpret(q, &ctx, sizeof(ctx), 0, &other);
		*mine += (ret == 2) + (uint64_t)(other == 2) * 1000000;
	}
	return NULL;
}

/* Plain additions, and none lost: a run that did not get the lock has said so by 0. */
START_TEST(threads_exclude_each_other)
{
	pthread_t threads[THREADS];
	uint64_t sum = 0;

	memset(done, 0, sizeof(done));
	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, hammer, &done[i]), 0);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		sum += done[i];
	}
	ck_assert_uint_eq(table[0].a, sum % 1000000);
	ck_assert_uint_eq(table[0].b, sum % 1000000);
	ck_assert_uint_eq(entry(0).a, sum / 1000000);
	ck_assert_uint_gt(table[0].a, ROUNDS);
	ck_assert_uint_eq(table[0].lock, 0);
}
END_TEST

START_TEST(update_under_the_lock)
{
	bool jit = _i;
	struct bpfvm_map *entries = bpfvm_map_find(vm, "entries");
	struct locked *in_hash, v;
	uint32_t key = 0;

	in_hash = bpfvm_map_element(entries, &key);
	ck_assert_uint_eq(run("update", jit, 0, 77), 0);
	ck_assert_uint_eq(table[0].a, 77);
	ck_assert_uint_eq(in_hash->b, 77); /* in place */
	ck_assert_uint_eq(in_hash->before, 9);
	table[0].lock = in_hash->lock = SOMEBODY;
	ck_assert_int_eq((int)run("update", jit, 0, 88), -EBUSY * 1000 - EBUSY);
	ck_assert_uint_eq(in_hash->b, 77);
	ck_assert_int_eq(bpfvm_map_lookup(entries, &key, &v), 0);
	ck_assert_uint_eq(v.lock, 0); /* never shown */
	in_hash->lock = 0;
	table[0].lock = 0;
	v.a = 5;
	v.lock = 0x55;
	ck_assert_int_eq(bpfvm_map_update(entries, &key, &v, BPF_F_LOCK), 0);
	ck_assert_uint_eq(in_hash->a, 5);
	ck_assert_uint_eq(in_hash->lock, 0);
	ck_assert_int_eq(bpfvm_map_update(entries, &key, &v, BPF_ANY), 0);
	ck_assert_uint_eq(((struct locked *)bpfvm_map_element(entries, &key))->lock, 0);
	ck_assert_uint_eq(run("hash", jit, 0, 1), 2);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, sections_run, 0, 2);
	tcase_add_loop_test(tc, a_run_without_the_lock_ends, 0, 2 * sizeof(places) / sizeof(places[0]));
	tcase_add_test(tc, waiting_is_short);
	tcase_add_test(tc, threads_exclude_each_other);
	tcase_add_loop_test(tc, update_under_the_lock, 0, 2);
}

int main(void)
{
	TCase *tc = tcase_create("locks");

	add(tc);
	tcase_set_timeout(tc, 60);
	return run_case("locks", tc);
}
