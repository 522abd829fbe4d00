/* SPDX-License-Identifier: MIT */
/*
 * Claims on per-CPU slots: with more threads than CPUs and signals on top, plain
 * increments of the claimed copy add up exactly; rseq_cs is left as it must be.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#define THREADS 16
#define RUNS 1000000

static struct umap_claims *claims;
static struct umap map;
static u32 ncpus;
static u64 handled, missed;
static bool use_rseq;

static void *my_rseq(void)
{
	return use_rseq && __rseq_size ? (char *)__builtin_thread_pointer() + __rseq_offset : NULL;
}

static u64 *my_rseq_cs(void)
{
	return (u64 *)((char *)my_rseq() + 8);
}

static u64 claim(u32 owner)
{
	return umap_claim(claims, ncpus, owner, my_rseq());
}

/* What a program with a per-CPU map does. */
static void one_run(struct thread_rec *rec, u32 owner)
{
	u32 key = 1;
	u64 slot = claim(owner), *p;
	struct umap_ctx cx = {rec, owner, slot};

	if (slot == HOOK_NO_SLOT) {
		__atomic_fetch_add(&missed, 1, __ATOMIC_RELAXED);
		return;
	}
	p = umap_lookup(&map, &key, &cx);
	*(volatile u64 *)p = *(volatile u64 *)p + 1;
	umap_release(claims, slot);
}

static __thread struct thread_rec my_rec;
static __thread u32 my_owner;

static void on_signal(int sig)
{
	one_run(&my_rec, my_owner);
	__atomic_fetch_add(&handled, 1, __ATOMIC_RELAXED);
}

static void *run(void *arg)
{
	my_owner = OWNER_ID(2, (u64)arg);
	for (int i = 0; i < RUNS; i++)
		one_run(&my_rec, my_owner);
	if (my_rseq())
		ck_assert_uint_eq(*my_rseq_cs(), 0);
	return NULL;
}

static void create(u32 type, int *fd, int *claims_fd)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec};
	u64 zero[1024] = {0};
	u32 key = 1;

	ncpus = sysconf(_SC_NPROCESSORS_CONF);
	ck_ok(umap_create("test", type, 4, 8, 4, 0, ncpus, 1, &map, fd));
	ck_ok(umap_claims_create(ncpus, &claims, claims_fd));
	ck_assert_int_eq(umap_write(&map, &key, zero, UMAP_ANY, &cx), 0);
}

static u64 total(void)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec};
	u64 seen[1024], sum = 0;
	u32 key = 1;

	ck_assert_int_eq(umap_read(&map, &key, seen, &cx), 0);
	for (u32 i = 0; i < ncpus; i++)
		sum += seen[i];
	return sum;
}

static const struct {
	u32 type;
	bool rseq;
} ways[] = {{UMAP_PERCPU_ARRAY, true}, {UMAP_PERCPU_HASH, true}, {UMAP_PERCPU_ARRAY, false}};

START_TEST(nothing_is_lost)
{
	struct itimerval every = {{0, 200}, {0, 200}}, off = {0};
	pthread_t threads[THREADS];
	int fd, claims_fd;

	use_rseq = ways[_i].rseq;
	create(ways[_i].type, &fd, &claims_fd);
	handled = missed = 0;
	my_owner = OWNER_ID(2, 999);
	signal(SIGALRM, on_signal);
	setitimer(ITIMER_REAL, &every, NULL);
	for (u64 i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, run, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	setitimer(ITIMER_REAL, &off, NULL);
	ck_assert_uint_gt(handled, 0);
	ck_assert_uint_eq(total() + missed, (u64)THREADS * RUNS + handled);
	for (u32 i = 0; i < ncpus + UMAP_SPARE_SLOTS; i++)
		ck_assert_uint_eq(claims->slot[i].owner, 0);
	umap_destroy(&map, fd);
	close(claims_fd);
}
END_TEST

static void pin(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(set), &set), 0);
}

/* The CPU's own slot, then every spare, then none; without rseq spares only. */
START_TEST(order_of_slots)
{
	u32 cpu;
	int fd, claims_fd;

	use_rseq = true;
	create(UMAP_PERCPU_ARRAY, &fd, &claims_fd);
	pin();
	cpu = sched_getcpu();
	if (my_rseq()) {
		ck_assert_uint_eq(claim(5), cpu);
		ck_assert_uint_eq(claims->slot[cpu].owner, 6);
	}
	use_rseq = false;
	for (u32 i = 0; i < UMAP_SPARE_SLOTS; i++) {
		u64 slot = claim(5);

		ck_assert(slot >= ncpus && slot < ncpus + UMAP_SPARE_SLOTS);
	}
	ck_assert_uint_eq(claim(5), HOOK_NO_SLOT);
	umap_claims_recover(claims, ncpus, 4);
	ck_assert_uint_eq(claim(5), HOOK_NO_SLOT);
	umap_claims_recover(claims, ncpus, 5);
	for (u32 i = 0; i < ncpus + UMAP_SPARE_SLOTS; i++)
		ck_assert_uint_eq(claims->slot[i].owner, 0);
	umap_destroy(&map, fd);
	close(claims_fd);
}
END_TEST

/* Somebody else's rseq_cs is not ours to touch; an area that the kernel does not
 * know protects nothing. Neither gives a CPU's own slot. */
START_TEST(foreign_rseq_is_respected)
{
	static const struct {
		u32 cpu_id_start, cpu_id;
		u64 rseq_cs;
	} areas[] = {
		{0, 0, 0x1234560},
		{0, ~0u, 0},
		{0, ~0u - 1, 0},
		{0, 1u << 20, 0},
	};
	u8 area[32] __attribute__((aligned(32)));
	int fd, claims_fd;
	u64 slot;

	create(UMAP_PERCPU_ARRAY, &fd, &claims_fd);
	memset(area, 0, sizeof(area));
	memcpy(area, &areas[_i], sizeof(areas[_i]));
	slot = umap_claim(claims, ncpus, 9, area);
	ck_assert(slot >= ncpus && slot < ncpus + UMAP_SPARE_SLOTS);
	ck_assert_mem_eq(area, &areas[_i], sizeof(areas[_i]));
	umap_destroy(&map, fd);
	close(claims_fd);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, nothing_is_lost, 0, ARRAY_SIZE(ways));
	tcase_add_test(tc, order_of_slots);
	tcase_add_loop_test(tc, foreign_rseq_is_respected, 0, 4);
}

int main(void)
{
	return run_tests("claims", add, 60);
}
