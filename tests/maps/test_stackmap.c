/* SPDX-License-Identifier: MIT */
/*
 * STACK_TRACE: what each flag gives, one id for one stack among threads, whole
 * stacks whoever replaces them meanwhile, a death at every instruction, and memory
 * that others scribble over.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "support.h"

#define OWNER OWNER_ID(3, 7)

static struct thread_rec rec;
static const struct umap_ctx cx = { .rec = &rec, .owner = OWNER };
static struct umap map;

static void prepare(u32 depth, u32 entries)
{
	ck_assert_int_eq(umap_geometry(UMAP_STACK_TRACE, 4, depth * 8, entries, 0, 2, 5, &map), 0);
	map.base = (u64)mmap(NULL, map.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert(map.base != (u64)MAP_FAILED);
	umap_format(&map);
	memset(&rec, 0, sizeof(rec));
}

/* A stack that tells by its first word what all others are. */
static u32 make_stack(u64 *ips, u64 seed, u32 n)
{
	for (u32 i = 0; i < n; i++)
		ips[i] = seed * 1000003 + i;
	return n;
}

static bool is_whole(const u64 *ips, u32 depth)
{
	u32 n = 0;

	while (n < depth && ips[n])
		n++;
	for (u32 i = 1; i < n; i++)
		if (ips[i] != ips[0] + i)
			return false;
	return n && ips[0] % 1000003 == 0;
}

static long put(u64 seed, u32 n, u32 hash, u64 flags)
{
	u64 ips[UMAP_STACK_DEPTH];

	return umap_stack_id(&map, ips, make_stack(ips, seed, n), hash, flags, &cx);
}

START_TEST(as_the_kernel_says)
{
	u64 value[8], key_a;
	u32 key, next;

	prepare(8, 5); /* which makes eight buckets */
	ck_assert_int_eq(umap_next_key(&map, NULL, &next), -ENOENT);
	ck_assert_int_eq(put(1, 4, 0x10, 0), 0);
	ck_assert_int_eq(put(1, 4, 0x10, 0), 0);
	ck_assert_int_eq(put(2, 8, 0x1d, 0), 5);
	/* another stack, the same bucket */
	ck_assert_int_eq(put(3, 4, 0x18, 0), -EEXIST);
	ck_assert_int_eq(put(3, 4, 0x18, UMAP_STACK_FAST_CMP), -EEXIST);
	/* another stack, the same hash: the same for those who are in a hurry */
	ck_assert_int_eq(put(3, 4, 0x10, UMAP_STACK_FAST_CMP), 0);
	ck_assert_int_eq(put(3, 4, 0x10, 0), -EEXIST);
	ck_assert_int_eq(put(1, 3, 0x10, 0), -EEXIST);
	key = 0;
	ck_assert_int_eq(umap_read(&map, &key, value, &cx), 0);
	ck_assert_uint_eq(value[0], 1000003);
	ck_assert_uint_eq(value[3], 1000006);
	ck_assert_uint_eq(value[4] | value[7], 0);
	/* replaced, many times */
	for (u32 i = 0; i < 20; i++) {
		ck_assert_int_eq(put(10 + i, 4, 0x20 + 8 * i, UMAP_STACK_REUSE), 0);
		ck_assert_int_eq(umap_read(&map, &key, value, &cx), 0);
		key_a = (10 + i) * 1000003ull;
		ck_assert_uint_eq(value[0], key_a);
	}
	ck_assert_int_eq(umap_next_key(&map, NULL, &next), 0);
	ck_assert_uint_eq(next, 0);
	ck_assert_int_eq(umap_next_key(&map, &next, &next), 0);
	ck_assert_uint_eq(next, 5);
	ck_assert_int_eq(umap_next_key(&map, &next, &next), -ENOENT);
	ck_assert_int_eq(umap_delete(&map, &key, &cx), 0);
	ck_assert_int_eq(umap_delete(&map, &key, &cx), -ENOENT);
	ck_assert_int_eq(umap_read(&map, &key, value, &cx), -ENOENT);
	key = 5;
	ck_assert_int_eq(umap_take(&map, &key, value, &cx), 0);
	ck_assert_uint_eq(value[7], 2 * 1000003 + 7);
	ck_assert_int_eq(umap_take(&map, &key, value, &cx), -ENOENT);
	key = 8;
	ck_assert_int_eq(umap_delete(&map, &key, &cx), -E2BIG);
	ck_assert_int_eq(umap_read(&map, &key, value, &cx), -ENOENT);
	ck_assert_int_eq(umap_write(&map, &key, value, 0, &cx), -EINVAL);
	ck_assert_int_eq(put(1, 0, 0, 0), -EFAULT);
	ck_assert_int_eq(put(1, 9, 0, 0), -EFAULT);
	ck_assert_uint_eq(rec.depth, 0);
	munmap((void *)map.base, map.size);
}
END_TEST

/* Threads replace stacks in a few buckets, others read and delete: what is read is
 * always one stack, and what an id was given for is there or was replaced. */
#define THREADS 4
#ifdef __SANITIZE_THREAD__
#define ROUNDS 20000
#else
#define ROUNDS 400000
#endif

static void *hammer(void *arg)
{
	struct thread_rec mine = {};
	struct umap_ctx my = { .rec = &mine, .owner = OWNER_ID(4, (u64)arg) };
	u64 seed = 99 + (u64)arg, ips[UMAP_STACK_DEPTH], value[16], bad = 0;

	for (u32 i = 0; i < ROUNDS; i++) {
		u64 r = rnd(&seed);
		u32 which = r % 40, n = 1 + which % 16, key = r >> 8 & 3;
		long id;

		make_stack(ips, which + 1, n);
		id = umap_stack_id(&map, ips, n, which * 7, r & 64 ? UMAP_STACK_REUSE : 0, &my);
		bad += id != (which * 7 & 3) && id != -EEXIST && id != -EBUSY;
		id = umap_read(&map, &key, value, &my);
		bad += id ? id != -ENOENT && id != -EBUSY : !is_whole(value, 16);
		if (r % 64 == 0)
			umap_delete(&map, &key, &my);
	}
	return (void *)(bad + mine.depth);
}

START_TEST(stacks_are_whole)
{
	pthread_t t[THREADS];

	prepare(16, 4);
	for (u64 i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, hammer, (void *)i);
	for (u32 i = 0; i < THREADS; i++) {
		void *bad;

		pthread_join(t[i], &bad);
		ck_assert_ptr_eq(bad, NULL);
	}
	munmap((void *)map.base, map.size);
}
END_TEST

/* Killed after each instruction of a first stack, and of a replacement: another
 * thread can work at once, and once the daemon has recovered all is as before. */
static sigjmp_buf death;
static volatile u64 steps_left;

static void trap(int sig, siginfo_t *si, void *uc_)
{
	ucontext_t *uc = uc_;

	(void)sig;
	(void)si;
	if (--steps_left)
		return;
	uc->uc_mcontext.gregs[REG_EFL] &= ~0x100ll;
	siglongjmp(death, 1);
}

static void step_flag(bool on)
{
	u64 flags;

	__asm__ volatile("pushfq; popq %0" : "=r"(flags));
	flags = on ? flags | 0x100 : flags & ~0x100ull;
	__asm__ volatile("pushq %0; popfq" : : "r"(flags) : "cc");
}

START_TEST(killed_anywhere)
{
	struct sigaction sa = { .sa_sigaction = trap, .sa_flags = SA_SIGINFO | SA_NODEFER };
	static struct thread_rec other;
	struct umap_ctx others = { .rec = &other, .owner = OWNER_ID(5, 1) };
	u64 ips[UMAP_STACK_DEPTH], value[8];
	u32 key = 2;

	sigaction(SIGTRAP, &sa, NULL);
	prepare(8, 4);
	for (volatile u32 replace = 0; replace < 2; replace++) {
		for (volatile u64 n = 1;; n++) {
			volatile bool ended = false;
			long r;

			memset((void *)map.base, 0, map.size);
			memset(&rec, 0, sizeof(rec));
			if (replace)
				ck_assert_int_eq(put(1, 6, 2, 0), 2);
			make_stack(ips, 9, 8);
			if (!sigsetjmp(death, 1)) {
				steps_left = n;
				step_flag(true);
				r = umap_stack_id(&map, ips, 8, 6, replace ? UMAP_STACK_REUSE : 0, &cx);
				step_flag(false);
				ck_assert_int_eq(r, 2);
				ended = true;
			}
			if (ended)
				break;
			/* somebody else, before and after the recovery */
			for (u32 i = 0; i < 2; i++) {
				make_stack(ips, 20 + i, 5);
				ck_assert_int_eq(umap_stack_id(&map, ips, 5, 10 + 4 * i, UMAP_STACK_REUSE, &others), 2);
				ck_assert_int_eq(umap_read(&map, &key, value, &cx), 0);
				ck_assert_uint_eq(value[0], (20 + i) * 1000003ull);
				ck_assert(is_whole(value, 8));
				if (!i)
					umap_recover(&map, &rec, OWNER);
			}
			/* no claim is left */
			for (u64 c = 0; c < UMAP_STACK_PLACES * map.nbuckets; c++)
				ck_assert_uint_eq(((u64 *)(map.base + map.bitmap_off))[c], 0);
			ck_assert_uint_eq(other.depth, 0);
		}
	}
	munmap((void *)map.base, map.size);
}
END_TEST

START_TEST(scribbled)
{
	u64 seed = 4711, value[8];

	prepare(8, 16);
	/* (what lies behind would be noticed) */
	for (u32 round = 0; round < 200000; round++) {
		u64 r = rnd(&seed), at = r % (map.size / 8);
		u32 key = r >> 32 & 31, next;
		long id;

		((u64 *)map.base)[at] = r & 1 ? rnd(&seed) : rnd(&seed) & 7;
		id = put(r >> 8 & 63, 1 + r % 8, (u32)(r >> 16), r & 2 ? UMAP_STACK_REUSE : 0);
		ck_assert(id == (long)(r >> 16 & 15) || id == -EEXIST || id == -EBUSY);
		umap_read(&map, &key, value, &cx);
		umap_next_key(&map, &key, &next);
		umap_delete(&map, &key, &cx);
		umap_recover(&map, &(struct thread_rec){ .intents = { { .alloc = rnd(&seed) } } }, OWNER);
		ck_assert_uint_eq(rec.depth, 0);
	}
	munmap((void *)map.base, map.size);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, as_the_kernel_says);
	tcase_add_test(tc, stacks_are_whole);
	tcase_add_test(tc, killed_anywhere);
	tcase_add_test(tc, scribbled);
}

int main(void)
{
	return run_tests("stackmap", add, 120);
}
