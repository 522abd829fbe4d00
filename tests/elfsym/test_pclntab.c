/* SPDX-License-Identifier: MIT */
/* Go's table of functions in each of its versions, and what is no such table. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "elfsym/pclntab.h"
#include "tests/support/suite.h"

#define TEXT 0x401000ull
#define NAMES "runtime.go\0main.main\0main.(*T).Get\0"

static const u64 starts[] = { 0, 0x40, 0x60, 0x100 }; /* the last: where text ends */
static const char *const names[] = { "runtime.go", "main.main", "main.(*T).Get" };
#define N 3

struct table {
	u8 bytes[1024];
	u64 size;
};

static void put(struct table *t, u64 at, u64 v, size_t n)
{
	memcpy(t->bytes + at, &v, n);
	if (at + n > t->size)
		t->size = at + n;
}

/* As the linkers of Go write it: header, names, functions, records. */
static struct table make(u32 magic, bool in_header)
{
	bool relative = magic == 0xfffffff0 || magic == 0xfffffff1, old = magic == 0xfffffffb;
	u64 field = relative ? 4 : 8, words = old ? 1 : relative ? 8 : 7;
	u64 name_at = 8 + 8 * words, tab, rec;
	struct table t = {};

	put(&t, 0, magic, 4);
	put(&t, 6, 1, 1);
	put(&t, 7, 8, 1);
	put(&t, 8, N, 8);
	if (old) { /* functions first */
		tab = 16;
		rec = tab + (2 * N + 1) * field;
		name_at = rec + N * 16;
	} else {
		tab = (name_at + sizeof(NAMES) + 7) & ~7ull;
		rec = tab + (2 * N + 1) * field;
		if (relative)
			put(&t, 24, in_header ? TEXT : 0, 8);
		put(&t, relative ? 32 : 24, name_at, 8);
		put(&t, relative ? 64 : 56, tab, 8);
	}
	for (u64 i = 0, name = 0; i <= N; i++) {
		u64 addr = (relative ? 0 : TEXT) + starts[i];

		put(&t, tab + 2 * i * field, addr, field);
		if (i == N)
			break;
		put(&t, tab + (2 * i + 1) * field, rec + 16 * i - (old ? 0 : tab), field);
		put(&t, rec + 16 * i, addr, field);
		put(&t, rec + 16 * i + field, name + (old ? name_at : 0), 4);
		name += strlen(names[i]) + 1;
	}
	memcpy(t.bytes + name_at, NAMES, sizeof(NAMES));
	if (t.size < name_at + sizeof(NAMES))
		t.size = name_at + sizeof(NAMES);
	return t;
}

static const u32 magics[] = { 0xfffffffb, 0xfffffffa, 0xfffffff0, 0xfffffff1 };

START_TEST(versions)
{
	struct table bytes = make(magics[_i / 2], _i % 2);
	struct pclntab t;
	struct pclntab_func f;

	ck_assert(pclntab_parse(bytes.bytes, bytes.size, TEXT, &t));
	ck_assert_uint_eq(t.n, N);
	for (u64 i = 0; i < N; i++) {
		ck_assert(pclntab_func(&t, i, &f));
		ck_assert_uint_eq(f.addr, TEXT + starts[i]);
		ck_assert_uint_eq(f.end, TEXT + starts[i + 1]);
		ck_assert_str_eq(f.name, names[i]);
	}
	ck_assert(!pclntab_func(&t, N, &f));
	ck_assert_uint_eq(pclntab_text_offset(bytes.bytes, bytes.size), _i / 2 < 2 ? 0 : 24);
}
END_TEST

/* Cut off anywhere, and with any word replaced: no names from outside of it. */
START_TEST(damaged)
{
	struct table good = make(magics[_i], true);
	static const u64 evil[] = { ~0ull, 1ull << 63, 0xffffffff, 0x7fffffff, 1000, 0 };
	struct pclntab t;
	struct pclntab_func f;

	for (u64 size = 0; size <= good.size; size++) {
		char *copy = malloc(size + 1);

		memcpy(copy, good.bytes, size);
		copy[size] = 0;
		if (pclntab_parse(copy, size, TEXT, &t))
			for (u64 i = 0; i < t.n; i++)
				if (pclntab_func(&t, i, &f))
					ck_assert(f.name >= copy && f.name + strlen(f.name) <= copy + size);
		free(copy);
	}
	for (u64 at = 0; at + 4 <= good.size; at += 4)
		for (size_t e = 0; e < ARRAY_SIZE(evil); e++) {
			char *copy = malloc(good.size + 1);

			memcpy(copy, good.bytes, good.size);
			memcpy(copy + at, &evil[e], at + 8 <= good.size ? 8 : 4);
			copy[good.size] = 0;
			if (pclntab_parse(copy, good.size, TEXT, &t))
				for (u64 i = 0; i < t.n; i++)
					if (pclntab_func(&t, i, &f))
						ck_assert(f.name >= copy && f.name + strlen(f.name) <= copy + good.size);
			free(copy);
		}
	good.bytes[7] = 4; /* 32 bits */
	ck_assert(!pclntab_parse(good.bytes, good.size, TEXT, &t));
	good.bytes[7] = 8;
	good.bytes[0] ^= 0x80;
	ck_assert(!pclntab_parse(good.bytes, good.size, TEXT, &t));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pclntab");
	TCase *tc = tcase_create("pclntab");

	tcase_add_loop_test(tc, versions, 0, 8);
	tcase_add_loop_test(tc, damaged, 0, 4);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
