/* SPDX-License-Identifier: MIT */
/*
 * QUEUE and STACK under everything that can happen to an operation: after each
 * of its instructions others run to completion, or its thread is dead; many
 * threads push and pop; processes are killed; somebody scribbles. Results are
 * always those of some order of the operations, no element is lost or doubled,
 * and no node leaks. What an operation gives when it is alone is compared with
 * the kernel in test_kernel_maps.c.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "maps/queue_layout.h"
#include "support.h"

/* Of an operation, that are tried with each other one; they differ from one to the
 * next. -DPOINTS=10000 tries all of them. Sanitized, an operation has many times
 * the instructions, and each is a trap. */
#ifndef POINTS
#ifdef __SANITIZE_ADDRESS__
#define POINTS 2
#else
#define POINTS 5
#endif
#endif
#define STEP (POINTS > 1000 ? 1 : POINTS > 2 ? 7 : 49)
#define OWNER OWNER_ID(6, 1)
#define MAX 3

static const u32 types[] = {UMAP_QUEUE, UMAP_STACK};

static struct umap map;

/* Every node is free with its bit, or in a cell that counts, once. Returns the
 * number of elements. */
static u32 check_queue(void)
{
	struct hash_pool pool = queue_pool(&map);
	u32 *seen = calloc(map.nnodes, sizeof(*seen)), used = 0;
	struct queue_view v;
	u64 budget = 10;

	ck_assert_int_eq(queue_view(&map, &budget, &v), 0);
	for (u32 n = 0; n < VIEW_COUNT(v); n++) {
		u32 node = cell_node(&map, cell_after(&map, VIEW_HEAD(v), n));

		ck_assert_uint_lt(node, map.nnodes);
		seen[node]++;
	}
	for (u32 i = 0; i < map.nnodes; i++) {
		bool use = STATE_USE(*pool_state(&pool, i)) == STATE_USED;

		used += use;
		ck_assert_msg(seen[i] == use, "node %u: used %d, queued %u times", i, use, seen[i]);
		ck_assert_msg((*pool_word(&pool, i) >> (i & 63) & 1) == !use, "node %u: used %d, bit wrong", i, use);
	}
	free(seen);
	ck_assert_uint_eq(used, VIEW_COUNT(v));
	return used;
}

/* Values are made of one number. */
static void make_value(u32 *words, u32 value)
{
	for (u32 i = 0; i < map.value_size / 4; i++)
		words[i] = value;
}

static s64 value_of(const u32 *words)
{
	for (u32 i = 1; i < map.value_size / 4; i++)
		if (words[i] != words[0])
			return 0xbadbad;
	return words[0];
}

/* One step after the other: a model. */
enum kind { PUSH, REPLACE, POP, PEEK };

struct model {
	u32 value[MAX], n; /* oldest first */
};

static void model_drop(struct model *m, bool oldest)
{
	m->n--;
	for (u32 i = 0; oldest && i < m->n; i++)
		m->value[i] = m->value[i + 1];
}

static s64 model_step(struct model *m, enum kind kind, u32 value)
{
	bool fifo = map.type == UMAP_QUEUE;
	s64 ret;

	switch (kind) {
	case PUSH:
	case REPLACE:
		if (m->n == MAX && kind == PUSH)
			return -E2BIG;
		if (m->n == MAX)
			model_drop(m, true);
		m->value[m->n++] = value;
		return 0;
	case POP:
	case PEEK:
		if (!m->n)
			return -ENOENT;
		ret = m->value[fifo ? 0 : m->n - 1];
		if (kind == POP)
			model_drop(m, fifo);
		return ret;
	}
	return 0;
}

static struct thread_rec rec;

static __attribute__((noinline)) void trap_flag(bool on)
{
	u64 flags;

	__asm__ volatile("lea -128(%%rsp), %%rsp\n pushfq\n pop %0\n lea 128(%%rsp), %%rsp" : "=r"(flags) : : "memory");
	flags = on ? flags | 0x100 : flags & ~0x100ull;
	__asm__ volatile("lea -128(%%rsp), %%rsp\n push %0\n popfq\n lea 128(%%rsp), %%rsp" : : "r"(flags) : "memory", "cc");
}

static s64 map_step_traced(enum kind kind, u32 value, bool traced)
{
	struct umap_ctx cx = {&rec, OWNER, 0};
	u32 words[16];
	s64 r = 0;

	make_value(words, value);
	if (traced)
		trap_flag(true);
	switch (kind) {
	case PUSH:
		r = umap_push(&map, words, UMAP_ANY, &cx);
		break;
	case REPLACE:
		r = umap_push(&map, words, UMAP_EXIST, &cx);
		break;
	case POP:
		r = umap_pop(&map, words, &cx);
		break;
	case PEEK:
		r = umap_peek(&map, words, &cx);
		break;
	}
	if (traced)
		trap_flag(false);
	return r || kind < POP ? r : value_of(words);
}

static s64 map_step(enum kind kind, u32 value)
{
	return map_step_traced(kind, value, false);
}

static u64 stepped, fire_at;
static void (*fire)(void);

static void on_trap(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	if (++stepped < fire_at)
		return;
	uc->uc_mcontext.gregs[REG_EFL] &= ~0x100ll;
	fire();
}

static bool run_stepped(u64 n, enum kind kind, s64 *result)
{
	stepped = 0;
	fire_at = n;
	*result = map_step_traced(kind, 20, true);
	return stepped >= n;
}

static void prepare(u32 type)
{
	struct sigaction sa = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigaction(SIGTRAP, &sa, NULL);
	ck_assert(!umap_geometry(type, 0, 16, MAX, 0, 2, 5, &map));
	map.base = (u64)aligned_alloc(64, map.size);
	ck_assert(map.base);
}

/* FILL elements, not beginning at cell 0. */
static void reset(struct model *model, u32 fill)
{
	memset((void *)map.base, 0, map.size);
	umap_format(&map);
	memset(model, 0, sizeof(*model));
	memset(&rec, 0, sizeof(rec));
	for (u32 i = 0; i < 2; i++) {
		ck_assert_int_eq(map_step(PUSH, 5), 0);
		ck_assert_int_eq(map_step(POP, 0), 5);
	}
	for (u32 i = 0; i < fill; i++) {
		ck_assert_int_eq(map_step(PUSH, 10 + i), 0);
		model_step(model, PUSH, 10 + i);
	}
}

/* What peeking and then popping everything gives is what the model has. */
static bool holds(struct model model)
{
	bool fine = check_queue() == model.n;

	for (u32 i = 0; i < model.n; i++) {
		u32 words[16];

		fine = fine && !umap_peek_at(&map, i, words) &&
		       value_of(words) == model.value[map.type == UMAP_QUEUE ? i : model.n - 1 - i];
	}
	while (fine && model.n)
		fine = map_step(POP, 0) == model_step(&model, POP, 0);
	return fine && map_step(POP, 0) == -ENOENT && check_queue() == 0;
}

static const struct {
	enum kind kinds[5];
	u32 n;
} seconds[] = {
	{{PUSH}, 1},
	{{POP}, 1},
	{{PUSH, PEEK}, 2},
	{{REPLACE, REPLACE}, 2},
	{{POP, PUSH, PEEK}, 3},
	{{POP, POP, POP, PUSH, PUSH}, 5},
	{{REPLACE, POP, REPLACE, PUSH, PEEK}, 5},
};

static void fire_nothing(void)
{
}

static u64 count_instructions(enum kind kind, u32 fill)
{
	struct model model;
	s64 result;

	reset(&model, fill);
	fire = fire_nothing;
	run_stepped(~0ull, kind, &result);
	return stepped;
}

static u32 second;
static s64 second_results[5];

static void fire_second(void)
{
	for (u32 i = 0; i < seconds[second].n; i++)
		second_results[i] = map_step(seconds[second].kinds[i], 30 + i);
}

static bool explained(enum kind first, s64 result, u32 at, struct model model)
{
	for (u32 i = 0; i <= seconds[second].n; i++) {
		if (i == at && model_step(&model, first, 20) != result)
			return false;
		if (i < seconds[second].n && model_step(&model, seconds[second].kinds[i], 30 + i) != second_results[i])
			return false;
	}
	return holds(model);
}

/* The map after the run, so that each order can be tried on it. */
static u8 *copy;

static bool some_order_explains(enum kind first, s64 result, const struct model *model)
{
	memcpy(copy, (void *)map.base, map.size);
	for (u32 at = 0; at <= seconds[second].n; at++) {
		memcpy((void *)map.base, copy, map.size);
		if (explained(first, result, at, *model))
			return true;
	}
	return false;
}

START_TEST(interrupted_anywhere)
{
	struct model model;
	u64 runs = 0;

	prepare(types[_i]);
	copy = malloc(map.size);
	for (enum kind first = PUSH; first <= PEEK; first++) {
		for (u32 fill = 0; fill <= MAX; fill++) {
			for (second = 0; second < ARRAY_SIZE(seconds); second++) {
				u64 stride = 1 + count_instructions(first, fill) / POINTS;

				for (u64 n = 1 + (second * 7 + fill) % stride;; n += stride) {
					s64 result;

					reset(&model, fill);
					fire = fire_second;
					if (!run_stepped(n, first, &result))
						break;
					runs++;
					ck_assert_msg(some_order_explains(first, result, &model),
						      "operation %u on %u, second %u after %lu: result %ld, no order gives that",
						      first, fill, second, (long)n, (long)result);
					ck_assert_uint_eq(rec.depth, 0);
				}
			}
		}
	}
	ck_assert_uint_gt(runs, 100 * (POINTS < 5 ? POINTS : 5));
	free(copy);
	free((void *)map.base);
}
END_TEST

static sigjmp_buf death;

static void fire_death(void)
{
	siglongjmp(death, 1);
}

/* Killed after each instruction; then others come by, or nobody, before the
 * daemon recovers. */
START_TEST(killed_anywhere)
{
	static struct model before, after;

	prepare(types[_i]);
	copy = malloc(map.size);
	for (volatile u32 round = 0; round < 8 * (MAX + 1); round++) {
		enum kind first = round % 4;
		bool visitors = round / 4 % 2;

		for (volatile u64 n = 1 + round % 7;; n += STEP) {
			bool ended = false;
			s64 result;

			reset(&before, round / 8);
			after = before;
			model_step(&after, first, 20);
			fire = fire_death;
			if (!sigsetjmp(death, 1))
				ended = !run_stepped(n, first, &result);
			if (ended)
				break;
			if (visitors) {
				struct thread_rec dead = rec;

				memset(&rec, 0, sizeof(rec));
				map_step(REPLACE, 40);
				model_step(&before, REPLACE, 40);
				model_step(&after, REPLACE, 40);
				rec = dead;
			}
			umap_recover(&map, &rec, OWNER);
			memset(&rec, 0, sizeof(rec));
			memcpy(copy, (void *)map.base, map.size);
			if (!holds(before)) {
				memcpy((void *)map.base, copy, map.size);
				ck_assert_msg(holds(after), "operation %u on %u, killed after %lu", first, round / 8, (long)n);
			}
		}
	}
	free(copy);
	free((void *)map.base);
}
END_TEST

/* Producers push numbers of their own, in order; consumers pop them. */
#define PRODUCERS 3
#define CONSUMERS 3
#ifdef __SANITIZE_THREAD__
#define NUMBERS 5000u
#else
#define NUMBERS 100000u
#endif

static u8 popped[PRODUCERS][NUMBERS];
static u64 bad, producing;

static void *produce(void *arg)
{
	u32 who = (u32)(u64)arg, words[16];
	struct thread_rec own = {0};
	struct umap_ctx cx = {&own, OWNER_ID(1, who), 0};

	for (u32 n = 0; n < NUMBERS; n++) {
		long r;

		make_value(words, who << 24 | n);
		while ((r = umap_push(&map, words, UMAP_ANY, &cx)) == -E2BIG)
			sched_yield();
		if (r)
			__atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED);
	}
	__atomic_fetch_sub(&producing, 1, __ATOMIC_RELEASE);
	return NULL;
}

static void *consume(void *arg)
{
	struct thread_rec own = {0};
	struct umap_ctx cx = {&own, OWNER_ID(2, (u64)arg), 0};
	s64 last[PRODUCERS] = {-1, -1, -1};
	u32 words[16];

	for (;;) {
		bool more = __atomic_load_n(&producing, __ATOMIC_ACQUIRE);
		u32 who, n;

		umap_peek(&map, words, &cx);
		if (value_of(words) == 0xbadbad)
			__atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED);
		if (umap_pop(&map, words, &cx)) {
			if (!more)
				return NULL;
			sched_yield();
			continue;
		}
		who = words[0] >> 24;
		n = words[0] & 0xffffff;
		if (value_of(words) == 0xbadbad || who >= PRODUCERS || n >= NUMBERS ||
		    (map.type == UMAP_QUEUE && n <= last[who])) {
			__atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED);
			continue;
		}
		last[who] = n;
		__atomic_fetch_add(&popped[who][n], 1, __ATOMIC_RELAXED);
	}
}

START_TEST(threads_lose_nothing)
{
	pthread_t t[PRODUCERS + CONSUMERS];
	int fd;

	ck_ok(umap_create("test", types[_i], 0, 40, 50, 0, 2, 9, &map, &fd));
	producing = PRODUCERS;
	for (u64 i = 0; i < PRODUCERS + CONSUMERS; i++)
		ck_assert(!pthread_create(&t[i], NULL, i < PRODUCERS ? produce : consume, (void *)(i % PRODUCERS)));
	for (u32 i = 0; i < PRODUCERS + CONSUMERS; i++)
		pthread_join(t[i], NULL);
	ck_assert_uint_eq(bad, 0);
	for (u32 p = 0; p < PRODUCERS; p++)
		for (u32 n = 0; n < NUMBERS; n++)
			ck_assert_msg(popped[p][n] == 1, "number %u of producer %u came %u times", n, p, popped[p][n]);
	ck_assert_uint_eq(check_queue(), 0);
	umap_destroy(&map, fd);
}
END_TEST

/* Processes. */
#define WORKERS 3
#define KILLS 200

struct worker {
	struct thread_rec rec;
	u64 steps, bad;
	pid_t pid;
	u32 owner;
} __attribute__((aligned(64)));

static void work(struct worker *w)
{
	struct umap_ctx cx = {&w->rec, w->owner, 0};
	u64 seed = w->owner * 77777ul + 1;
	u32 words[16];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;; __atomic_store_n(&w->steps, w->steps + 1, __ATOMIC_RELAXED)) {
		long r;

		make_value(words, rnd(&seed));
		switch (rnd(&seed) % 4) {
		case 0:
			r = umap_push(&map, words, UMAP_ANY, &cx);
			w->bad += r && r != -E2BIG;
			break;
		case 1:
			w->bad += umap_push(&map, words, UMAP_EXIST, &cx) != 0;
			break;
		case 2:
			r = umap_pop(&map, words, &cx);
			w->bad += (r && r != -ENOENT) || (!r && value_of(words) == 0xbadbad);
			break;
		default:
			r = umap_peek(&map, words, &cx);
			w->bad += (r && r != -ENOENT) || (!r && value_of(words) == 0xbadbad);
		}
	}
}

static void start_worker(struct worker *w)
{
	static u32 next_owner = 1;
	pid_t pid;

	memset(w, 0, sizeof(*w));
	w->owner = next_owner++;
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid)
		work(w);
	w->pid = pid;
}

static void end_worker(struct worker *w)
{
	ck_assert(!kill(w->pid, SIGKILL));
	ck_assert_int_eq(waitpid(w->pid, NULL, 0), w->pid);
	ck_assert_uint_eq(w->bad, 0);
	umap_recover(&map, &w->rec, w->owner);
}

static void wait_steps(const struct worker *w, u64 n)
{
	while (__atomic_load_n(&w->steps, __ATOMIC_RELAXED) < n)
		usleep(100);
}

START_TEST(processes_are_killed)
{
	struct worker *workers = mmap(NULL, sizeof(*workers) * WORKERS, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	u64 seed = 99 + _i;
	int fd;

	ck_assert_ptr_ne(workers, MAP_FAILED);
	ck_ok(umap_create("test", types[_i], 0, 40, 10, 0, 2, 9, &map, &fd));
	for (int i = 0; i < WORKERS; i++)
		start_worker(&workers[i]);
	for (int n = 0; n < KILLS; n++) {
		struct worker *w = &workers[rnd(&seed) % WORKERS];

		wait_steps(w, rnd(&seed) % 300);
		if (n % 20 == 0) { /* a stopped one holds up nobody */
			struct worker *other = w == workers ? w + 1 : workers;

			ck_assert(!kill(w->pid, SIGSTOP));
			wait_steps(other, __atomic_load_n(&other->steps, __ATOMIC_RELAXED) + 100);
		}
		end_worker(w);
		start_worker(w);
	}
	for (int i = 0; i < WORKERS; i++)
		end_worker(&workers[i]);
	check_queue();
	munmap(workers, sizeof(*workers) * WORKERS);
	umap_destroy(&map, fd);
}
END_TEST

/* Scribbling, between pages that nobody may touch. */
#define GUARD (1ul << 20)

static int stop;

static void *scribble(void *arg)
{
	u64 seed = 4242, words = map.size / 8, ctl = map.cells_off / 8;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		u64 r = rnd(&seed), at = r % 3 ? rnd(&seed) % words : ctl + r / 3 % 2;
		u64 small = rnd(&seed) % 12 << 32 | rnd(&seed) % 12;

		__atomic_store_n((u64 *)map.base + at, r % 5 ? small : r << 20 ^ rnd(&seed), __ATOMIC_RELAXED);
	}
	return NULL;
}

START_TEST(scribbled)
{
	struct thread_rec own = {0};
	struct umap_ctx cx = {&own, 1, 0};
	u64 seed = 31337 + _i;
	pthread_t other;
	u32 words[16];
	u8 *area;

	ck_assert(!umap_geometry(types[_i], 0, 40, 10, 0, 2, 3, &map));
	area = mmap(NULL, 2 * GUARD + map.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert_ptr_ne(area, MAP_FAILED);
	map.base = (u64)area + GUARD;
	ck_assert(!mprotect((void *)map.base, map.size, PROT_READ | PROT_WRITE));
	umap_format(&map);
	stop = 0;
	ck_assert(!pthread_create(&other, NULL, scribble, NULL));
	for (int n = 0; n < 20000; n++) {
		struct thread_rec dead = {0};

		make_value(words, n);
		umap_push(&map, words, rnd(&seed) & 1 ? UMAP_ANY : UMAP_EXIST, &cx);
		umap_pop(&map, words, &cx);
		umap_peek(&map, words, &cx);
		umap_peek_at(&map, rnd(&seed) % 12, words);
		dead.intents[0].alloc = 3ull << 32 | rnd(&seed) % 90;
		dead.intents[1].unlink = 3ull << 32 | rnd(&seed) % 90;
		umap_recover(&map, &dead, 1);
		if (n % 50 == 49) {
			memset((void *)map.base, 0, map.size);
			umap_format(&map);
		}
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	pthread_join(other, NULL);
	ck_assert_uint_eq(own.depth, 0);
	munmap(area, 2 * GUARD + map.size);
}
END_TEST

START_TEST(bloom_filter_forgets_nothing)
{
	struct umap_ctx cx = {&rec, OWNER, 0};
	u32 wrong = 0;
	int fd;

	ck_ok(umap_create("test", UMAP_BLOOM_FILTER, 0, 12, 1000, 0, 2, 9, &map, &fd));
	for (u32 n = 0; n < 1000; n++) {
		u32 value[3] = {n, ~n, 7};

		ck_assert_int_eq(umap_push(&map, value, UMAP_ANY, &cx), 0);
	}
	for (u32 n = 0; n < 2000; n++) {
		u32 value[3] = {n, ~n, 7};
		long r = umap_peek(&map, value, &cx);

		if (n < 1000)
			ck_assert_int_eq(r, 0);
		else
			wrong += r != -ENOENT;
	}
	ck_assert_uint_lt(wrong, 60); /* 5 hashes, 8.2 bits an entry: 2 % */
	ck_assert_int_eq(umap_push(&map, "twelve bytes", UMAP_EXIST, &cx), -EINVAL);
	umap_destroy(&map, fd);
}
END_TEST

START_TEST(frozen_takes_nothing)
{
	struct umap_ctx cx = {&rec, OWNER, 0};
	u32 words[16] = {0};
	int fd;

	ck_ok(umap_create("test", types[_i], 0, 40, 10, 0, 2, 9, &map, &fd));
	ck_assert_int_eq(umap_push(&map, words, UMAP_ANY, &cx), 0);
	map.frozen = 1;
	ck_assert_int_eq(umap_push(&map, words, UMAP_ANY, &cx), -EPERM);
	ck_assert_int_eq(umap_pop(&map, words, &cx), -EPERM);
	ck_assert_int_eq(umap_peek(&map, words, &cx), 0);
	ck_assert_ptr_null(umap_lookup(&map, words, &cx));
	ck_assert_int_eq(umap_update(&map, words, words, 0, &cx), -EPERM);
	umap_destroy(&map, fd);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, interrupted_anywhere, 0, 2);
	tcase_add_loop_test(tc, killed_anywhere, 0, 2);
	tcase_add_loop_test(tc, threads_lose_nothing, 0, 2);
	tcase_add_loop_test(tc, processes_are_killed, 0, 2);
	tcase_add_loop_test(tc, scribbled, 0, 2);
	tcase_add_test(tc, bloom_filter_forgets_nothing);
	tcase_add_loop_test(tc, frozen_takes_nothing, 0, 2);
}

int main(void)
{
	return run_tests("queue", add, 120);
}
