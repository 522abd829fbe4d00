/* SPDX-License-Identifier: MIT */
/*
 * The smallest keys of many: those that a sort of all would give, in memory for those
 * that are wanted; and what dumps make of it, page by page.
 */
#include <errno.h>
#include <linux/bpf.h>

#include "maps/smallest.h"
#include "support.h"

static struct thread_rec rec;
static const struct umap_ctx cx = {.rec = &rec, .owner = OWNER_ID(1, 1)};

static int order(const void *a, const void *b, void *size)
{
	return memcmp(a, b, *(u32 *)size);
}

static int order_of_u64(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(u64));
}

static const struct {
	u32 room, keys, different, after; /* AFTER: behind which of the sorted keys, + 1 */
} rows[] = {
	{1, 1000, 1000, 0}, {1, 1000, 1, 0}, {7, 6, 6, 0}, {7, 7, 7, 0}, {7, 5000, 5000, 0}, {100, 100000, 100000, 0},
	{100, 100000, 60, 0}, {100, 100000, 150, 0}, {100, 100000, 100, 0}, {100, 100000, 100000, 50000}, {8, 0, 1, 0},
	{100, 100000, 150, 60},
};

START_TEST(as_a_sort_of_all)
{
	struct smallest s = {.size = sizeof(u64), .room = rows[_i].room, .order = order};
	u64 *all = calloc(rows[_i].keys + 1, sizeof(*all)), seed = _i + 1, after;
	u32 n = 0, from = rows[_i].after, want;

	for (u32 i = 0; i < rows[_i].keys; i++) /* each at least once, in no order */
		all[i] = (i * 7919ull + 1) % rows[_i].different * 0x9e3779b97f4a7c15ull;
	for (u32 i = rows[_i].keys; i > 1; i--) {
		u32 k = rnd(&seed) % i;
		u64 swapped = all[k];

		all[k] = all[i - 1];
		all[i - 1] = swapped;
	}
	for (u32 round = 0; round < 2; round++) { /* the first one finds what AFTER is */
		smallest_reset(&s);
		for (u32 i = 0; i < rows[_i].keys; i++) {
			u8 *slot = smallest_slot(&s);

			ck_assert_ptr_nonnull(slot);
			memcpy(slot, &all[i], sizeof(*all));
			smallest_keep(&s);
		}
		smallest_finish(&s);
		ck_assert_uint_le(s.cap, 2ul * rows[_i].room > 16 ? 2ul * rows[_i].room : 16);
		if (!round) {
			qsort(all, rows[_i].keys, sizeof(*all), order_of_u64);
			for (u32 i = 0; i < rows[_i].keys; i++)
				if (!n || all[n - 1] != all[i])
					all[n++] = all[i];
			from = from < n ? from : n;
			after = from ? all[from - 1] : 0;
			s.after = from ? (u8 *)&after : NULL;
			if (from)
				continue;
		}
		want = n - from < rows[_i].room ? n - from : rows[_i].room;
		ck_assert_uint_eq(s.n, want);
		ck_assert_uint_eq(s.more, n - from > rows[_i].room);
		if (want)
			ck_assert_mem_eq(s.keys, all + from, want * sizeof(*all));
		break;
	}
	smallest_deinit(&s);
	free(all);
}
END_TEST

static const struct {
	u32 type, key_size;
} pages[] = {{UMAP_HASH, 8}, {UMAP_HASH, 12}, {UMAP_LPM_TRIE, 8}, {UMAP_LPM_TRIE, 20}, {UMAP_PERCPU_HASH, 4}};

/* The same keys in the same order, whatever is the size of a page. */
START_TEST(page_by_page)
{
	enum { KEYS = 700, MAX = 20 };
	static u8 one[KEYS * MAX], many[KEYS * MAX];
	static const u32 rooms[] = {1, 2, 7, 100, KEYS - 1, KEYS};
	u32 size = pages[_i].key_size, n, rest;
	bool trie = pages[_i].type == UMAP_LPM_TRIE;
	u64 value[8] = {1}, seed = 9;
	struct umap m;
	int fd;

	ck_ok(umap_create("test", pages[_i].type, size, 8, KEYS, trie ? BPF_F_NO_PREALLOC : 0, 2, 1, &m, &fd));
	for (u32 made = 0; made < KEYS;) {
		u8 key[MAX] = {0};

		for (u32 i = 0; i < 4; i++)
			key[trie ? 4 + i : i] = (u8)rnd(&seed);
		if (trie)
			*(u32 *)(void *)key = (u32)(rnd(&seed) % ((size - 4) * 8 + 1));
		made += !umap_write(&m, key, value, UMAP_NOEXIST, &cx);
	}
	ck_assert_int_eq(umap_next_keys(&m, NULL, one, KEYS, &n), 0);
	ck_assert_uint_eq(n, KEYS);
	for (u32 r = 0; r < ARRAY_SIZE(rooms); r++) {
		u32 at = 0;
		long rc = 0;

		memset(many, 0, sizeof(many));
		for (; !rc && at < KEYS; at += n) {
			u32 room = rooms[r] < KEYS - at ? rooms[r] : KEYS - at;

			rc = umap_next_keys(&m, at ? many + (at - 1) * size : NULL, many + at * size, room, &n);
			ck_assert_uint_eq(n, room);
		}
		ck_assert_int_eq(rc, 0);
		ck_assert_mem_eq(many, one, KEYS * size);
	}
	ck_assert_int_eq(umap_next_keys(&m, one + (KEYS - 3) * size, many, 3, &rest), -ENOENT);
	ck_assert_uint_eq(rest, 2);
	umap_destroy(&m, fd);
}
END_TEST

static void add(TCase *tc)
{
	tcase_add_loop_test(tc, as_a_sort_of_all, 0, ARRAY_SIZE(rows));
	tcase_add_loop_test(tc, page_by_page, 0, ARRAY_SIZE(pages));
}

int main(void)
{
	return run_tests("smallest", add, 60);
}
