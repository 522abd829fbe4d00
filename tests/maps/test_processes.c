/* SPDX-License-Identifier: MIT */
/*
 * Processes that share a map and are killed or stopped at random instructions.
 * After umap_recover() nothing is unreachable, duplicated or leaked; while one
 * is stopped, the others go on.
 *
 * UPROBED_KILLS=N in the environment: so many kills of each kind of map instead of KILLS.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support.h"

#define WORKERS 3
#define KILLS 80
#define STOPS 6

static const struct {
	u32 type, key_size, value_size, max_entries, keys;
} shapes[] = {
	{UMAP_HASH, 4, 8, 64, 80},
	{UMAP_HASH, 24, 40, 32, 40},
	{UMAP_HASH, 8, 100, 8, 6},
	{UMAP_PERCPU_HASH, 4, 8, 64, 80},
	{UMAP_LRU_HASH, 4, 8, 32, 80},
	{UMAP_LRU_HASH, 24, 40, 8, 40},
	{UMAP_LRU_PERCPU_HASH, 8, 8, 8, 12},
	{UMAP_LPM_TRIE, 8, 16, 32, 40},
};

static u32 flags_of(u32 type)
{
	return type == UMAP_LPM_TRIE ? BPF_F_NO_PREALLOC : 0;
}

/* What a worker shares with the parent: its record, as a target's, and how far
 * it is. */
struct worker {
	struct thread_rec rec;
	u64 steps;
	u64 bad;
	pid_t pid;
	u32 owner;
} __attribute__((aligned(64)));

static struct umap map;
static u32 nkeys;
static struct worker *workers;

static void make_key(u8 *key, u32 k)
{
	for (u32 i = 0; i < map.key_size; i++)
		key[i] = (u8)(i % 8 < 4 ? k >> 8 * (i % 8) : 0);
	if (map.type == UMAP_LPM_TRIE) { /* whole addresses: each its own prefix */
		*(u32 *)(void *)(key + 4) = k;
		*(u32 *)(void *)key = 32;
	}
}

static void one_step(struct worker *w, u64 *seed, struct umap_ctx *cx)
{
	u32 k = rnd(seed) % nkeys;
	u64 value[16];
	u8 key[32];
	long rc = 0;

	make_key(key, k);
	for (u32 i = 0; i < ARRAY_SIZE(value); i++)
		value[i] = k * 1000ul + 7;
	switch (rnd(seed) % 8) {
	case 0:
	case 1:
	case 2:
	case 3:
		rc = umap_update(&map, key, value, UMAP_ANY, cx);
		w->bad += rc && (map.refs_off || (rc != -E2BIG && rc != -ENOSPC)); /* an LRU map is never full */
		break;
	case 4:
		if (map.type == UMAP_LPM_TRIE || umap_is_percpu(map.type))
			break;
		rc = umap_take(&map, key, value, cx);
		for (u32 i = 0; !rc && i < map.value_size / 8; i++)
			w->bad += value[i] != k * 1000ul + 7;
		w->bad += rc && rc != -ENOENT && rc != -EBUSY; /* busy: one within another */
		break;
	case 5:
	case 6:
		rc = umap_delete(&map, key, cx);
		w->bad += rc && rc != -ENOENT;
		break;
	default:
		umap_lookup(&map, key, cx);
	}
	__atomic_store_n(&w->steps, w->steps + 1, __ATOMIC_RELAXED);
}

/* A signal handler nests operations upon the interrupted one. */
static struct worker *self;
static u64 handler_seed;

static void on_usr1(int sig)
{
	struct umap_ctx cx = {&self->rec, self->owner, 3};

	one_step(self, &handler_seed, &cx);
}

static void work(struct worker *w)
{
	struct umap_ctx cx = {&w->rec, w->owner, 2};
	u64 seed = w->owner * 77777ul + 1;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		one_step(w, &seed, &cx);
}

static void start_worker(struct worker *w)
{
	static u32 next_owner = 1;
	pid_t pid;

	memset(&w->rec, 0, sizeof(w->rec));
	w->steps = 0;
	w->owner = next_owner++;
	self = w;
	handler_seed = w->owner;
	signal(SIGUSR1, on_usr1);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid)
		work(w);
	w->pid = pid;
}

static void end_worker(struct worker *w)
{
	int status;

	kill(w->pid, SIGKILL);
	ck_assert_int_eq(waitpid(w->pid, &status, 0), w->pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	umap_recover(&map, &w->rec, w->owner);
}

static u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Until W has done STEPS more; false after 20 s. */
static bool progresses(const struct worker *w, u64 steps)
{
	u64 want = __atomic_load_n(&w->steps, __ATOMIC_RELAXED) + steps, end = now_ns() + 20000000000ull;

	while (__atomic_load_n(&w->steps, __ATOMIC_RELAXED) < want) {
		if (now_ns() > end)
			return false;
		usleep(100);
	}
	return true;
}

static void create(int shape, int *fd)
{
	ck_ok(umap_create("test", shapes[shape].type, shapes[shape].key_size, shapes[shape].value_size,
			  shapes[shape].max_entries, flags_of(shapes[shape].type), 2, 77, &map, fd));
	nkeys = shapes[shape].keys;
	workers = mmap(NULL, sizeof(*workers) * WORKERS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(workers, MAP_FAILED);
	for (int i = 0; i < WORKERS; i++)
		start_worker(&workers[i]);
}

static void finish(int fd)
{
	struct thread_rec rec = {0};
	struct umap_ctx cx = {.rec = &rec};
	u32 used = 0;

	for (int i = 0; i < WORKERS; i++) {
		end_worker(&workers[i]);
		ck_assert_uint_eq(workers[i].bad, 0);
	}
	used = check_hash(&map);
	for (u32 k = 0; k < nkeys; k++) {
		u8 key[32];
		u64 value[16];

		make_key(key, k);
		if (umap_read(&map, key, value, &cx))
			continue;
		used--;
		if (!umap_is_percpu(map.type))
			for (u32 i = 0; i < map.value_size / 8; i++)
				ck_assert_uint_eq(value[i], k * 1000ul + 7);
	}
	ck_assert_uint_eq(used, 0);
	if (map.refs_off) { /* no slot has been lost */
		for (u32 k = 0; k < nkeys; k++) {
			u64 value[16] = {0};
			u8 key[32];

			make_key(key, k);
			ck_assert_int_eq(umap_update(&map, key, value, UMAP_ANY, &cx), 0);
		}
		ck_assert_uint_eq(check_hash(&map), map.max_entries);
	}
	munmap(workers, sizeof(*workers) * WORKERS);
	umap_destroy(&map, fd);
}

static int kills(void)
{
	const char *text = getenv("UPROBED_KILLS");

	return text ? atoi(text) : KILLS;
}

START_TEST(killed)
{
	u64 seed = 17 + _i;
	int fd;

	create(_i, &fd);
	for (int n = 0; n < kills(); n++) {
		struct worker *w = &workers[rnd(&seed) % WORKERS];

		if (rnd(&seed) & 1)
			ck_assert(progresses(w, 1 + rnd(&seed) % 1000));
		kill(w->pid, SIGUSR1);
		end_worker(w);
		start_worker(w);
	}
	finish(fd);
}
END_TEST

START_TEST(stopped)
{
	u64 seed = 23 + _i;
	int fd;

	create(_i, &fd);
	for (int n = 0; n < STOPS; n++) {
		struct worker *w = &workers[rnd(&seed) % WORKERS];
		int status;

		kill(w->pid, SIGSTOP);
		ck_assert_int_eq(waitpid(w->pid, &status, WUNTRACED), w->pid);
		ck_assert(WIFSTOPPED(status));
		for (int i = 0; i < WORKERS; i++)
			ck_assert_msg(&workers[i] == w || progresses(&workers[i], 500), "stopped one holds up others");
		kill(w->pid, SIGCONT);
	}
	finish(fd);
}
END_TEST

/* An intent may name what is part of the map after all: its thread died before
 * the swap, or after it and before clearing the intent. That stays. And what an
 * intent of another map, or none, names is nothing. */
START_TEST(recovery_keeps_the_living)
{
	const u32 owner = OWNER_ID(3, 4);
	struct thread_rec rec = {0}, dead;
	struct umap_ctx cx = {.rec = &rec, .owner = owner};
	u8 key[32] = {0}, value[128];
	int fd;

	ck_ok(umap_create("test", shapes[_i].type, shapes[_i].key_size, shapes[_i].value_size, 4,
			  flags_of(shapes[_i].type), 2, 77, &map, &fd));
	for (u32 k = 0; k < 4; k++) {
		make_key(key, k);
		memset(value, k, sizeof(value));
		ck_assert_int_eq(umap_update(&map, key, value, UMAP_ANY, &cx), 0);
		ck_assert_int_eq(umap_update(&map, key, value, UMAP_ANY, &cx), 0);
	}
	for (u64 what = 0; what <= 4ul + map.nblocks + 3; what++) {
		u64 state = 0;

		if (what && what <= map.nelems)
			state = hash_elem(&map, what - 1)->state;
		else if (what && what - map.nelems <= map.nblocks)
			state = hash_block(&map, what - map.nelems - 1)->state;
		memset(&dead, 0, sizeof(dead));
		dead.intents[1] = (struct map_intent){77ull << 32 | what, 77ull << 32 | what, state};
		umap_recover(&map, &dead, owner);
		ck_assert_uint_eq(check_hash(&map), 4);
	}
	make_key(key, 1);
	ck_assert_int_eq(umap_delete(&map, key, &cx), 0);
	dead.intents[1] = (struct map_intent){78ull << 32 | 1, 78ull << 32 | 1, 0};
	umap_recover(&map, &dead, owner);
	ck_assert_uint_eq(check_hash(&map), 3);
	umap_destroy(&map, fd);
}
END_TEST

/* A value with a lock, and two numbers that are equal outside of sections. */
struct guarded {
	u32 lock, pad;
	u64 a, b;
};

static void start_locker(struct worker *w)
{
	static u32 next_owner = 1;
	struct guarded *g = (struct guarded *)map.base;
	struct umap_ctx cx = {&w->rec, next_owner++, 0};
	pid_t pid;

	memset(&w->rec, 0, sizeof(w->rec));
	w->owner = cx.owner;
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid) {
		w->pid = pid;
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		if (!umap_spin_lock(&g->lock, &cx))
			continue;
		g->a++;
		__asm__ volatile("" ::: "memory");
		g->b++;
		umap_spin_unlock(&g->lock, &cx);
		__atomic_store_n(&w->steps, w->steps + 1, __ATOMIC_RELAXED);
	}
}

/* Whoever dies in a section leaves it half done, and the lock to the others. */
START_TEST(killed_in_a_section)
{
	u64 seed = 4711;
	struct guarded *g;
	int fd;

	ck_ok(umap_create_locked("test", UMAP_ARRAY, 4, sizeof(*g), 1, 0, 2, 77, 1, &map, &fd));
	g = (struct guarded *)map.base;
	workers = mmap(NULL, sizeof(*workers) * WORKERS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(workers, MAP_FAILED);
	for (int i = 0; i < WORKERS; i++)
		start_locker(&workers[i]);
	for (int n = 0; n < kills(); n++) {
		struct worker *w = &workers[rnd(&seed) % WORKERS];

		ck_assert(progresses(w, 1 + rnd(&seed) % 200));
		end_worker(w);
		umap_recover_locks(&map, map.base, &w->rec, w->owner);
		ck_assert_uint_ne((g->lock & 0x1ffffff), w->owner + 1);
		start_locker(w);
	}
	for (int i = 0; i < WORKERS; i++) {
		end_worker(&workers[i]);
		umap_recover_locks(&map, map.base, &workers[i].rec, workers[i].owner);
	}
	ck_assert_uint_eq(g->lock, 0);
	ck_assert_uint_ge(g->a, g->b);
	ck_assert_uint_le(g->a - g->b, (u64)kills() + WORKERS);
	munmap(workers, sizeof(*workers) * WORKERS);
	umap_destroy(&map, fd);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_test(tc, killed_in_a_section);
	tcase_add_loop_test(tc, recovery_keeps_the_living, 0, ARRAY_SIZE(shapes));
	tcase_add_loop_test(tc, killed, 0, ARRAY_SIZE(shapes));
	tcase_add_loop_test(tc, stopped, 0, ARRAY_SIZE(shapes));
}

int main(void)
{
	return run_tests("processes", add, 120);
}
