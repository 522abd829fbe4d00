/* SPDX-License-Identifier: MIT */
/*
 * Chance finds few of the interleavings that matter, so this test goes through
 * them: one operation is single-stepped (trap flag), and after its n-th
 * instruction, for n = 1, 2, 3 … until it ends,
 *  - other operations run to completion (as a signal handler's, or as those of
 *    another thread while this one is preempted): the results of all and what
 *    the map then holds must be those of some order of the operations; or
 *  - the operation never goes on (its thread is killed): after umap_recover() the
 *    map is whole, and holds what it held before or after the operation.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

#include "maps/internal.h"
#include "support.h"

/* Of an operation, that are tried with each other one; the points differ from one
 * to the next. Trapping takes microseconds: -DPOINTS=10000 tries all of them. */
#ifndef POINTS
#define POINTS 3
#endif
#define KEYS 5
#define ABSENT (-1)
#define OWNER OWNER_ID(6, 1)

enum kind { UPDATE, NOEXIST, EXIST, DELETE, LOOKUP, READ, TAKE };

struct step {
	enum kind kind;
	u32 key;
};

static const struct {
	u32 type, key_size, value_size;
} shapes[] = {
	{UMAP_HASH, 4, 8},
	{UMAP_HASH, 24, 4},
	{UMAP_HASH, 8, 48},
	{UMAP_PERCPU_HASH, 4, 8},
	{UMAP_LRU_HASH, 4, 8},
	{UMAP_LRU_HASH, 24, 48},
	{UMAP_LRU_PERCPU_HASH, 4, 8},
};

static const struct step firsts[] = {
	{UPDATE, 1}, {UPDATE, 2}, {NOEXIST, 2}, {EXIST, 1}, {DELETE, 0}, {DELETE, 1}, {LOOKUP, 0}, {READ, 1}, {READ, 2},
	{TAKE, 0}, {TAKE, 1}, {TAKE, 2},
};

/* Run inside the first. Several delete and insert, so that an element is reused
 * under somebody who has it in hand. */
static const struct {
	struct step steps[4];
	u32 n;
} seconds[] = {
	{{{UPDATE, 1}}, 1},
	{{{NOEXIST, 2}}, 1},
	{{{DELETE, 1}}, 1},
	{{{DELETE, 0}, {DELETE, 1}}, 2},
	{{{DELETE, 1}, {UPDATE, 1}}, 2},
	{{{DELETE, 1}, {UPDATE, 3}}, 2},
	{{{DELETE, 0}, {UPDATE, 2}, {DELETE, 1}, {UPDATE, 4}}, 4},
	{{{DELETE, 1}, {UPDATE, 4}, {DELETE, 4}, {UPDATE, 1}}, 4},
	{{{UPDATE, 1}, {UPDATE, 1}, {UPDATE, 1}}, 3},
	{{{DELETE, 1}, {DELETE, 0}, {UPDATE, 0}, {UPDATE, 1}}, 4},
	{{{TAKE, 1}}, 1},
	{{{TAKE, 0}, {UPDATE, 0}, {TAKE, 1}}, 3},
	{{{UPDATE, 1}, {TAKE, 1}, {UPDATE, 4}, {TAKE, 4}}, 4},
};

static struct umap map;
static struct thread_rec rec;

/* The per-CPU slot of who operates: the second has claimed another one. */
static u32 slot;

/* What a map should do. A per-CPU value is that of slot 0 and, times SECOND, that
 * of slot 1. */
struct model {
	s64 value[KEYS];
};
#define SECOND 1000

static s64 model_value(s64 old, s64 value, u32 by)
{
	if (!umap_is_percpu(map.type))
		return value;
	if (old == ABSENT)
		old = 0;
	return by ? old % SECOND + value * SECOND : old / SECOND * SECOND + value;
}

static s64 model_step(struct model *m, struct step s, s64 value, u32 by)
{
	s64 *at = &m->value[s.key], old = *at;
	bool there = old != ABSENT;

	switch (s.kind) {
	case UPDATE:
		*at = model_value(old, value, by);
		return 0;
	case NOEXIST:
		if (!there)
			*at = model_value(old, value, by);
		return there ? -EEXIST : 0;
	case EXIST:
		if (there)
			*at = model_value(old, value, by);
		return there ? 0 : -ENOENT;
	case DELETE:
		*at = ABSENT;
		return there ? 0 : -ENOENT;
	case TAKE:
		*at = ABSENT;
		return there ? old : -ENOENT;
	case LOOKUP:
		return there;
	case READ:
		return there ? old : -ENOENT;
	}
	return 0;
}

static void make_key(u8 *key, u32 k)
{
	for (u32 i = 0; i < map.key_size; i++)
		key[i] = i % 4 ? 0 : k;
}

static void make_value(u32 *words, s64 value)
{
	for (u32 i = 0; i < 16; i++)
		words[i] = umap_is_percpu(map.type) && i ? 0 : value;
}

/* The value, or an impossible one when it is a mixture. */
static s64 value_of(const u32 *words)
{
	u32 again[16];

	make_value(again, words[0]);
	if (umap_is_percpu(map.type))
		return words[0] + SECOND * words[2];
	return memcmp(words, again, map.value_size) ? 0xbadbad : words[0];
}

/* Single-stepping. */
static u64 stepped, fire_at;
static void (*fire)(void);

static __attribute__((noinline)) void trap_flag(bool on)
{
	u64 flags;

	__asm__ volatile("lea -128(%%rsp), %%rsp\n pushfq\n pop %0\n lea 128(%%rsp), %%rsp" : "=r"(flags) : : "memory");
	flags = on ? flags | 0x100 : flags & ~0x100ull;
	__asm__ volatile("lea -128(%%rsp), %%rsp\n push %0\n popfq\n lea 128(%%rsp), %%rsp" : : "r"(flags) : "memory", "cc");
}

static s64 map_call(enum kind kind, const u8 *key, u32 *words)
{
	struct umap_ctx cx = {&rec, OWNER, slot};

	switch (kind) {
	case UPDATE:
		return umap_update(&map, key, words, UMAP_ANY, &cx);
	case NOEXIST:
		return umap_update(&map, key, words, UMAP_NOEXIST, &cx);
	case EXIST:
		return umap_update(&map, key, words, UMAP_EXIST, &cx);
	case DELETE:
		return umap_delete(&map, key, &cx);
	case LOOKUP:
		return !!umap_lookup(&map, key, &cx);
	case READ:
		return umap_read(&map, key, words, &cx);
	case TAKE:
		return umap_take(&map, key, words, &cx);
	}
	return 0;
}

static s64 map_step_traced(struct step s, s64 value, bool traced)
{
	u32 words[64];
	u8 key[32];
	s64 result;

	make_key(key, s.key);
	make_value(words, value);
	if (traced)
		trap_flag(true);
	result = map_call(s.kind, key, words);
	if (traced)
		trap_flag(false);
	return (s.kind == READ || s.kind == TAKE) && !result ? value_of(words) : result;
}

static s64 map_step(struct step s, s64 value)
{
	return map_step_traced(s, value, false);
}

static void on_trap(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	if (++stepped < fire_at)
		return;
	uc->uc_mcontext.gregs[REG_EFL] &= ~0x100ll;
	fire();
}

/* Runs the step, firing after instruction N; false if it ended before. */
static bool run_stepped(u64 n, struct step s, s64 value, s64 *result)
{
	stepped = 0;
	fire_at = n;
	*result = map_step_traced(s, value, true);
	return stepped >= n;
}

static void fire_nothing(void)
{
}

static void prepare(int shape, u32 max_entries, struct model *model)
{
	struct sigaction sa = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigaction(SIGTRAP, &sa, NULL);
	ck_assert(!umap_geometry(shapes[shape].type, shapes[shape].key_size, shapes[shape].value_size, max_entries, 0, 2,
				 5, &map));
	map.base = (u64)aligned_alloc(64, map.size);
	ck_assert(map.base);
	memset(model, 0xff, sizeof(*model));
}

/* Keys 0 and 1 are there. */
static void reset(struct model *model)
{
	memset((void *)map.base, 0, map.size);
	umap_format(&map);
	memset(model, 0xff, sizeof(*model));
	memset(&rec, 0, sizeof(rec));
	for (u32 k = 0; k < 2; k++) {
		ck_assert_int_eq(map_step((struct step){UPDATE, k}, 10 + k), 0);
		model->value[k] = 10 + k;
	}
}

static bool holds(const struct model *model)
{
	u32 n = 0;

	for (u32 k = 0; k < KEYS; k++) {
		s64 want = model->value[k] == ABSENT ? -ENOENT : model->value[k];

		n += model->value[k] != ABSENT;
		if (map_step((struct step){READ, k}, 0) != want)
			return false;
	}
	return check_hash(&map) == n;
}

static u64 count_instructions(struct step s, struct model *model)
{
	s64 result;

	reset(model);
	fire = fire_nothing;
	run_stepped(~0ull, s, 20, &result);
	return stepped;
}

static u32 second;
static s64 second_results[4];

static void fire_second(void)
{
	slot = 1;
	for (u32 i = 0; i < seconds[second].n; i++)
		second_results[i] = map_step(seconds[second].steps[i], 30 + i);
	slot = 0;
}

/* Whether the outcome is that of the first step done after AT of the second's. */
static bool explained(struct step first, s64 result, u32 at, struct model model)
{
	for (u32 i = 0; i <= seconds[second].n; i++) {
		if (i == at && model_step(&model, first, 20, 0) != result)
			return false;
		if (i < seconds[second].n && model_step(&model, seconds[second].steps[i], 30 + i, 1) != second_results[i])
			return false;
	}
	return holds(&model);
}

static bool seconds_take(void)
{
	for (u32 i = 0; i < seconds[second].n; i++)
		if (seconds[second].steps[i].kind == TAKE)
			return true;
	return false;
}

static bool writes(enum kind kind)
{
	return kind == UPDATE || kind == NOEXIST || kind == EXIST;
}

START_TEST(interrupted_anywhere)
{
	struct model model;

	prepare(_i, 8, &model);
	for (u32 f = 0; f < ARRAY_SIZE(firsts); f++) {
		u64 length = count_instructions(firsts[f], &model), stride = 1 + length / POINTS;

		for (second = 0; second < ARRAY_SIZE(seconds); second++) {
			/* a copy of a per-CPU value may be written while the element is taken out */
			if (umap_is_percpu(map.type) && seconds_take() && writes(firsts[f].kind))
				continue;
			/* each takes two intents, of which there are three: it is refused */
			if (seconds_take() && firsts[f].kind == TAKE)
				continue;
			for (u64 n = 1 + second * 7 % stride; n <= length; n += stride) {
				bool fine = false;
				s64 result;

				reset(&model);
				fire = fire_second;
				if (!run_stepped(n, firsts[f], 20, &result))
					break;
				for (u32 at = 0; at <= seconds[second].n && !fine; at++)
					fine = explained(firsts[f], result, at, model);
				ck_assert_msg(fine, "first %u, second %u after %lu of %lu: result %ld (%ld), no order gives that",
					      f, second, (long)n, (long)length, (long)result, (long)second_results[0]);
				ck_assert_uint_eq(rec.depth, 0);
			}
		}
	}
	free((void *)map.base);
}
END_TEST

static sigjmp_buf death;

static void fire_death(void)
{
	siglongjmp(death, 1);
}

START_TEST(killed_anywhere)
{
	struct model before, after;

	prepare(_i, 8, &before);
	for (u32 f = 0; f < ARRAY_SIZE(firsts); f++) {
		u64 length = count_instructions(firsts[f], &before), stride = 1 + length / (10 * POINTS);

		for (volatile u64 n = 1 + f % stride; n <= length; n += stride) {
			s64 result;

			reset(&before);
			after = before;
			model_step(&after, firsts[f], 20, 0);
			fire = fire_death;
			if (!sigsetjmp(death, 1))
				run_stepped(n, firsts[f], 20, &result);
			umap_recover(&map, &rec, OWNER);
			memset(&rec, 0, sizeof(rec));
			ck_assert_msg(holds(&before) || holds(&after), "first %u, killed after %lu", f, (long)n);
		}
	}
	free((void *)map.base);
}
END_TEST

/* A full LRU map: an update takes an element over. What is held then need not be
 * what a model says, since whoever is stopped holds one. But each element has its
 * own key's value, none is lost, and the new key is there. */
static void check_full(u32 max_entries, const char *what, u64 n)
{
	u32 found = 0;

	for (u32 k = 0; k < KEYS; k++) {
		s64 v = map_step((struct step){READ, k}, 0), low = v % SECOND, high = v / SECOND;

		if (v == -ENOENT)
			continue;
		found++;
		ck_assert_msg((!low && high) || low == 10 + k || low == 20 || low / 10 == 3, "%s at %lu: key %u has %ld", what,
			      (long)n, k, (long)v);
		ck_assert_msg(!high || (umap_is_percpu(map.type) && high / 10 == 3), "%s at %lu: key %u has %ld", what, (long)n,
			      k, (long)v);
	}
	ck_assert_msg(check_hash(&map) == found, "%s at %lu: elements are lost", what, (long)n);
	for (u32 k = 0; k < KEYS; k++)
		ck_assert_int_eq(map_step((struct step){UPDATE, k}, 10 + k), 0);
	ck_assert_msg(check_hash(&map) == max_entries, "%s at %lu: a slot is gone", what, (long)n);
	ck_assert_int_eq(map_step((struct step){READ, KEYS - 1}, 0) % SECOND, 10 + KEYS - 1);
}

static const u32 lru_shapes[] = {4, 5, 6};

START_TEST(evicting_is_killed_anywhere)
{
	static const struct step s = {UPDATE, 3};
	u32 shape = lru_shapes[_i / 2], max_entries = 1 + _i % 2;
	struct model model;
	u64 length, stride;

	prepare(shape, max_entries, &model);
	ck_assert(type_is_lru(map.type));
	length = count_instructions(s, &model);
	stride = 1 + length / (20 * POINTS);
	for (volatile u64 n = 1 + _i % stride; n <= length; n += stride) {
		s64 result;

		reset(&model);
		fire = fire_death;
		if (!sigsetjmp(death, 1))
			run_stepped(n, s, 20, &result);
		umap_recover(&map, &rec, OWNER);
		memset(&rec, 0, sizeof(rec));
		check_full(max_entries, "killed", n);
	}
	free((void *)map.base);
}
END_TEST

START_TEST(evicting_is_interrupted_anywhere)
{
	static const struct step s = {UPDATE, 3};
	u32 shape = lru_shapes[_i / 2], max_entries = 1 + _i % 2;
	struct model model;
	u64 length, stride;

	prepare(shape, max_entries, &model);
	length = count_instructions(s, &model);
	stride = 1 + length / (2 * POINTS);
	for (second = 0; second < ARRAY_SIZE(seconds); second++) {
		for (u64 n = 1 + (second * 7 + _i) % stride; n <= length; n += stride) {
			s64 result;

			reset(&model);
			fire = fire_second;
			if (!run_stepped(n, s, 20, &result))
				break;
			/* with one element the second may find it in the first's hands */
			ck_assert_msg(!result || (max_entries == 1 && result == -ENOMEM), "second %u at %lu: %ld", second, (long)n,
				      (long)result);
			for (u32 i = 0; i < seconds[second].n; i++)
				if (seconds[second].steps[i].kind == UPDATE)
					ck_assert_msg(!second_results[i] || (max_entries == 1 && second_results[i] == -ENOMEM),
						      "second %u at %lu: %ld", second, (long)n, (long)second_results[i]);
			ck_assert_uint_eq(rec.depth, 0);
			check_full(max_entries, "interrupted", n);
		}
	}
	free((void *)map.base);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, evicting_is_killed_anywhere, 0, 2 * ARRAY_SIZE(lru_shapes));
	tcase_add_loop_test(tc, evicting_is_interrupted_anywhere, 0, 2 * ARRAY_SIZE(lru_shapes));
	tcase_add_loop_test(tc, interrupted_anywhere, 0, ARRAY_SIZE(shapes));
	tcase_add_loop_test(tc, killed_anywhere, 0, ARRAY_SIZE(shapes));
}

int main(void)
{
	return run_tests("steps", add, 100);
}
