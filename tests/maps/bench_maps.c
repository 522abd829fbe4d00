/* SPDX-License-Identifier: MIT */
/*
 * What an operation on a map costs, in ns: the median over rounds. Not a test.
 * With keys u32, 1000 of 1024 entries, as in tests/bench, and some other shapes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/rseq.h>
#include <time.h>

#include "maps/umap.h"

#define KEYS 1000u
#define ROUNDS 31
#define REPEAT 50

static struct thread_rec rec;
static struct umap_ctx cx = {.rec = &rec, .owner = 1};
static struct umap map;
static u8 key[64] __attribute__((aligned(8))), value[256];
static u32 absent;

static u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void set_key(u32 k)
{
	u64 words[2] = {k, 0};

	memcpy(key, words, sizeof(words));
}

static void op_lookup(void)
{
	for (u32 k = 0; k < KEYS; k++) {
		void *p;

		set_key(k + absent);
		p = umap_lookup(&map, key, &cx);
		__asm__ volatile("" : : "r"(p) : "memory");
	}
}

static void op_update(void)
{
	for (u32 k = 0; k < KEYS; k++) {
		set_key(k);
		umap_update(&map, key, value, UMAP_ANY, &cx);
	}
}

static void op_delete(void)
{
	for (u32 k = 0; k < KEYS; k++) {
		set_key(k + absent);
		umap_delete(&map, key, &cx);
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Median over rounds of an operation; UNDO runs untimed after each repeat. */
static double measure(void (*op)(void), void (*undo)(void))
{
	double rounds[ROUNDS];

	for (int r = 0; r < ROUNDS; r++) {
		u64 spent = 0;

		for (int i = 0; i < REPEAT; i++) {
			u64 start = now_ns();

			op();
			spent += now_ns() - start;
			if (undo)
				undo();
		}
		rounds[r] = (double)spent / REPEAT / KEYS;
	}
	qsort(rounds, ROUNDS, sizeof(rounds[0]), by_value);
	return rounds[ROUNDS / 2];
}

static void bench_map(const char *name, u32 type, u32 key_size, u32 value_size)
{
	bool hash = type == UMAP_HASH || type == UMAP_PERCPU_HASH;
	struct uerr *err;
	double insert = 0, gone = 0, miss = 0, missing = 0, update, lookup;
	int fd;

	err = umap_create(name, type, key_size, value_size, 1024, 0, 2, 1, &map, &fd);
	if (err) {
		fprintf(stderr, "%s\n", err->message);
		exit(1);
	}
	memset(key, 0, sizeof(key));
	op_update();
	update = measure(op_update, NULL);
	lookup = measure(op_lookup, NULL);
	if (hash) {
		gone = measure(op_delete, op_update);
		op_delete();
		insert = measure(op_update, op_delete);
		op_update();
		absent = 100000;
		miss = measure(op_lookup, NULL);
		missing = measure(op_delete, NULL);
		absent = 0;
	}
	printf("%-24s %8.1f %8.1f %8.1f %8.1f %8.1f %8.1f\n", name, lookup, miss, update, insert, gone, missing);
	umap_destroy(&map, fd);
}

static struct umap_claims *claims;

static void op_claim(void)
{
	void *rseq = (char *)__builtin_thread_pointer() + __rseq_offset;

	for (u32 k = 0; k < KEYS; k++)
		umap_release(claims, umap_claim(claims, 2, 1, rseq));
}

static void op_claim_spare(void)
{
	for (u32 k = 0; k < KEYS; k++)
		umap_release(claims, umap_claim(claims, 2, 1, NULL));
}

int main(void)
{
	struct uerr *err;
	int fd;

	printf("%-24s %8s %8s %8s %8s %8s %8s\n", "ns an operation", "lookup", "absent", "update", "insert", "delete",
	       "absent");
	bench_map("hash u32 u64", UMAP_HASH, 4, 8);
	bench_map("hash u64 u64", UMAP_HASH, 8, 8);
	bench_map("hash 16 u64", UMAP_HASH, 16, 8);
	bench_map("hash 64 u64", UMAP_HASH, 64, 8);
	bench_map("hash u32 64", UMAP_HASH, 4, 64);
	bench_map("hash 16 256", UMAP_HASH, 16, 256);
	bench_map("percpu hash u32 u64", UMAP_PERCPU_HASH, 4, 8);
	bench_map("percpu hash u32 64", UMAP_PERCPU_HASH, 4, 64);
	bench_map("array u64", UMAP_ARRAY, 4, 8);
	bench_map("percpu array u64", UMAP_PERCPU_ARRAY, 4, 8);
	err = umap_claims_create(2, &claims, &fd);
	if (err) {
		fprintf(stderr, "%s\n", err->message);
		return 1;
	}
	printf("claim and release: %.1f ns by rseq, %.1f ns of a spare slot\n", measure(op_claim, NULL),
	       measure(op_claim_spare, NULL));
	return 0;
}
