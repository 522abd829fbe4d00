/* SPDX-License-Identifier: MIT */
/* The journal: every prefix of it can be read and tells a truth. And where
 * ranges are placed. */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "injector/journal.h"
#include "injector/near_alloc.h"
#include "probe.h"
#include "tests/support/suite.h"

static struct journal_site site(addr_t addr, u8 old, u8 new)
{
	struct journal_site s = { .addr = addr, .len = 5, .file_off = 7, .link = 3 };

	memset(s.old_bytes, old, s.len);
	memset(s.new_bytes, new, s.len);
	return s;
}

static void put_range(struct journal_writer *w, addr_t addr, u64 inode)
{
	struct journal_range r = { .kind = RANGE_CODE, .addr = addr, .size = PAGE, .inode = inode };

	journal_range(w, &r);
	ok(journal_flush(w));
}

static void put_site(struct journal_writer *w, addr_t addr, u8 old, u8 new)
{
	struct journal_site s = site(addr, old, new);

	journal_site(w, &s);
	ok(journal_flush(w));
}

static void put_sema(struct journal_writer *w, addr_t addr, enum sema_state state, u16 before)
{
	struct journal_sema s = { .addr = addr, .file_dev = 11, .file_ino = 12, .state = state, .before = before };

	journal_sema(w, &s);
}

START_TEST(every_prefix)
{
	char *path = journal_path(), *cut = NULL;
	struct journal_writer w;
	struct journal j;
	struct stat st;
	u8 *bytes;
	int fd;

	ok(journal_open(&w, path, 77, 5));
	put_range(&w, 0x10000, 0);
	put_range(&w, 0x10000, 9);
	put_site(&w, 0x400000, 1, 2);
	journal_site_active(&w, 0x400000);
	put_range(&w, 0x20000, 0);
	journal_range_gone(&w, 0x20000);
	put_sema(&w, 0x600002, SEMA_RAISING, 4);
	put_sema(&w, 0x600002, SEMA_RAISED, 0);
	put_sema(&w, 0x600004, SEMA_RAISED, 0);
	journal_sema_gone(&w, 0x600004);
	put_sema(&w, 0x600000, SEMA_LOWERING, 65535);
	ok(journal_flush(&w));
	journal_close(&w);
	ok(journal_read(path, &j));
	ck_assert_uint_eq(j.nsemas, 2);
	ck_assert(j.semas[0].addr == 0x600000 && j.semas[0].state == SEMA_LOWERING && j.semas[0].before == 65535);
	ck_assert(j.semas[1].addr == 0x600002 && j.semas[1].state == SEMA_RAISED && j.semas[1].file_ino == 12);
	ck_assert_int_eq(j.pid, 77);
	ck_assert_uint_eq(j.starttime, 5);
	ck_assert_uint_eq(j.nranges, 1);
	ck_assert_uint_eq(j.ranges[0].inode, 9);
	ck_assert_uint_eq(j.nsites, 1);
	ck_assert(j.sites[0].active);
	ck_assert_uint_eq(j.sites[0].old_bytes[4], 1);
	ck_assert_uint_eq(j.sites[0].new_bytes[4], 2);
	journal_deinit(&j);

	ck_assert_int_eq(stat(path, &st), 0);
	bytes = malloc(st.st_size);
	fd = open(path, O_RDONLY);
	ck_assert_int_eq(read(fd, bytes, st.st_size), st.st_size);
	close(fd);
	ck_assert_int_gt(asprintf(&cut, "%s.cut", path), 0);
	for (off_t n = 0; n < st.st_size; n++) {
		fd = open(cut, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		ck_assert_int_eq(write(fd, bytes, n), n);
		close(fd);
		ok(journal_read(cut, &j));
		ck_assert_uint_le(j.nranges, 2);
		ck_assert(!j.nsites || j.nranges);
		journal_deinit(&j);
		/* and written on */
		ok(journal_open(&w, cut, 77, 5));
		put_range(&w, 0x30000, 1);
		journal_close(&w);
		ok(journal_read(cut, &j));
		ck_assert_int_eq(j.pid, 77);
		ck_assert_uint_eq(j.ranges[j.nranges - 1].addr, 0x30000);
		journal_deinit(&j);
	}
	/* a flipped bit ends it there */
	bytes[st.st_size / 4] ^= 4;
	fd = open(cut, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	ck_assert_int_eq(write(fd, bytes, st.st_size), st.st_size);
	close(fd);
	ok(journal_read(cut, &j));
	ck_assert(!j.nsites || !j.sites[0].active);
	journal_deinit(&j);
	unlink(cut);
	free(cut);
	free(bytes);
	journal_drop(path);
}
END_TEST

START_TEST(jump_led_elsewhere)
{
	char *path = journal_path();
	struct journal_writer w;
	struct journal j;

	ok(journal_open(&w, path, 77, 5));
	put_site(&w, 0x400000, 1, 2);
	journal_site_active(&w, 0x400000);
	put_site(&w, 0x400000, 2, 3);
	ok(journal_read(path, &j));
	ck_assert_uint_eq(j.sites[0].old_bytes[0], 1);
	ck_assert_uint_eq(j.sites[0].prev_bytes[0], 2);
	ck_assert_uint_eq(j.sites[0].new_bytes[0], 3);
	journal_deinit(&j);
	/* refused: the first jump still stands */
	journal_site_reverted(&w, 0x400000);
	put_site(&w, 0x500000, 1, 2);
	journal_site_reverted(&w, 0x500000);
	ok(journal_flush(&w));
	ok(journal_read(path, &j));
	ck_assert_uint_eq(j.nsites, 1);
	ck_assert_uint_eq(j.sites[0].new_bytes[0], 2);
	ck_assert(j.sites[0].active);
	journal_deinit(&j);
	journal_close(&w);
	journal_drop(path);
}
END_TEST

START_TEST(long_history_is_compacted)
{
	char *path = journal_path();
	struct journal_writer w;
	struct journal j;
	struct stat st;

	ok(journal_open(&w, path, 77, 5));
	put_range(&w, 0x10000, 9);
	put_site(&w, 0x400000, 1, 2);
	put_site(&w, 0x400000, 2, 3);
	put_sema(&w, 0x600002, SEMA_LOWERING, 3);
	for (int i = 0; i < 20000; i++)
		journal_range_gone(&w, 0x20000);
	ok(journal_flush(&w));
	journal_close(&w);
	ok(journal_open(&w, path, 77, 5));
	put_range(&w, 0x30000, 9);
	journal_close(&w);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_lt(st.st_size, 4096);
	ok(journal_read(path, &j));
	ck_assert_uint_eq(j.nranges, 2);
	ck_assert_uint_eq(j.nsites, 1);
	ck_assert_uint_eq(j.sites[0].old_bytes[0], 1);
	ck_assert_uint_eq(j.sites[0].prev_bytes[0], 2);
	ck_assert_uint_eq(j.sites[0].new_bytes[0], 3);
	ck_assert(j.nsemas == 1 && j.semas[0].state == SEMA_LOWERING && j.semas[0].before == 3);
	journal_deinit(&j);
	/* another process of that number begins anew */
	ok(journal_open(&w, path, 77, 6));
	journal_close(&w);
	ok(journal_read(path, &j));
	ck_assert_uint_eq(j.nranges + j.nsites + j.nsemas, 0);
	journal_deinit(&j);
	journal_drop(path);
}
END_TEST

START_TEST(placed_within_reach)
{
	struct target_map m[] = {
		{ .lo = 0x400000, .hi = 0x500000, .x = true },
		{ .lo = 0x600000, .hi = 0x700000, .heap = true },
		{ .lo = 0x7ffff7000000, .hi = 0x7ffff7200000, .x = true },
		{ .lo = 0x7ffffffde000, .hi = 0x7ffffffff000, .stack = true },
	};
	struct target_maps maps = { .v = { .data = m, .n = ARRAY_SIZE(m) } };
	struct near_request rq = { .maps = &maps, .brk = 0x600000, .stack_limit = 8 << 20, .size = 16 * PAGE };
	addr_t at;

	for (u64 i = 0; i < 2000; i++) {
		rq.random = i * 0x9e3779b97f4a7c15ull;
		rq.near = 0x400000;
		rq.near_end = 0x500000;
		ck_assert(near_alloc(&rq, &at));
		ck_assert_uint_eq(at % PAGE, 0);
		ck_assert_uint_lt(at + rq.size, 0x400000 + (1ull << 31));
		/* below the program, or beyond what the heap will need */
		ck_assert(at + rq.size <= 0x400000 || at >= 0x600000 + (1ull << 30));
		rq.near = 0x7ffff7000000;
		rq.near_end = 0x7ffff7200000;
		ck_assert(near_alloc(&rq, &at));
		ck_assert_uint_gt(at, rq.near_end - (1ull << 31));
		ck_assert(at + rq.size <= rq.near || (at >= rq.near_end && at + rq.size <= 0x7ffff8000000 - PAGE));
		rq.near = rq.near_end = 0;
		ck_assert(near_alloc(&rq, &at));
	}
	rq.size = 1ull << 32;
	rq.near = 0x400000;
	rq.near_end = 0x500000;
	ck_assert(!near_alloc(&rq, &at));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("journal");
	TCase *tc = tcase_create("journal");

	tcase_add_test(tc, every_prefix);
	tcase_add_test(tc, jump_led_elsewhere);
	tcase_add_test(tc, long_history_is_compacted);
	tcase_add_test(tc, placed_within_reach);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
