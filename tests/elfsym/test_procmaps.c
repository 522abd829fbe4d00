/* SPDX-License-Identifier: MIT */
/* /proc/PID/maps: every shape of line, every way to be no maps, and a real one. */
#include <sys/sysmacros.h>

#include "tests/elfsym/support.h"

static const char sample[] =
	"00400000-00401000 r--p 00000000 fe:01 77                                 /opt/a b/prog\n"
	"00401000-00402000 r-xs 00001000 fe:01 77                                 /opt/a b/prog (deleted)\n"
	"00500000-00521000 rw-p 00000000 00:00 0                                  [heap]\n"
	"7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n"
	"7f0000002000-7f0000003000 rw-p 123456789000 103:0a 18446744073709551615  /new\\012line\n"
	"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

START_TEST(every_field)
{
	struct procmaps pm;

	ck_ok(procmaps_parse(sample, &pm));
	ck_assert_uint_eq(pm.n, 6);
	ck_assert_uint_eq(pm.maps[0].start, 0x400000);
	ck_assert_uint_eq(pm.maps[0].end, 0x401000);
	ck_assert_int_eq(pm.maps[0].prot, PROT_READ);
	ck_assert(!pm.maps[0].shared && !pm.maps[0].deleted);
	ck_assert_uint_eq(pm.maps[0].dev, makedev(0xfe, 1));
	ck_assert_uint_eq(pm.maps[0].ino, 77);
	ck_assert_str_eq(pm.maps[0].path, "/opt/a b/prog");
	ck_assert_int_eq(pm.maps[1].prot, PROT_READ | PROT_EXEC);
	ck_assert(pm.maps[1].shared && pm.maps[1].deleted);
	ck_assert_uint_eq(pm.maps[1].file_off, 0x1000);
	ck_assert_str_eq(pm.maps[1].path, "/opt/a b/prog");
	ck_assert_str_eq(pm.maps[2].path, "[heap]");
	ck_assert_str_eq(pm.maps[3].path, "");
	ck_assert_int_eq(pm.maps[3].prot, PROT_NONE);
	ck_assert_uint_eq(pm.maps[4].file_off, 0x123456789000);
	ck_assert_uint_eq(pm.maps[4].ino, ~0ull);
	ck_assert_uint_eq(pm.maps[4].dev, makedev(0x103, 10));
	ck_assert_str_eq(pm.maps[4].path, "/new\nline");
	procmaps_deinit(&pm);
}
END_TEST

START_TEST(finding)
{
	struct procmaps pm;

	ck_ok(procmaps_parse(sample, &pm));
	ck_assert_ptr_null(procmaps_find(&pm, 0x3fffff));
	ck_assert_ptr_eq(procmaps_find(&pm, 0x400000), &pm.maps[0]);
	ck_assert_ptr_eq(procmaps_find(&pm, 0x401000), &pm.maps[1]);
	ck_assert_ptr_eq(procmaps_find(&pm, 0x401fff), &pm.maps[1]);
	ck_assert_ptr_null(procmaps_find(&pm, 0x402000));
	ck_assert_ptr_eq(procmaps_find(&pm, 0xffffffffff600fff), &pm.maps[5]);
	ck_assert_ptr_null(procmaps_find(&pm, ~0ull));
	procmaps_deinit(&pm);
}
END_TEST

START_TEST(no_end_of_line_and_nothing)
{
	struct procmaps pm;

	ck_ok(procmaps_parse("1000-2000 rwxp 0 0:0 0", &pm));
	ck_assert_uint_eq(pm.n, 1);
	ck_assert_str_eq(pm.maps[0].path, "");
	procmaps_deinit(&pm);
	ck_ok(procmaps_parse("", &pm));
	ck_assert_uint_eq(pm.n, 0);
	ck_assert_ptr_null(procmaps_find(&pm, 0));
	procmaps_deinit(&pm);
}
END_TEST

static const struct {
	const char *text, *message;
} bad[] = {
	{ "x", "line 1 is not a mapping" },
	{ "\n", "line 1 is not a mapping" },
	{ "1000-2000", "line 1 is not" },
	{ "1000-2000 r-xp", "line 1 is not" },
	{ "1000-2000 r-x", "line 1 is not" },
	{ "1000-2000 r-xp 0 0:0", "line 1 is not" },
	{ "1000-2000 r-xp 0 0:0 x", "line 1 is not" },
	{ "2000-1000 r-xp 0 0:0 0", "line 1 is not" },
	{ "1000-1000 r-xp 0 0:0 0", "line 1 is not" },
	{ "-1000-2000 r-xp 0 0:0 0", "line 1 is not" },
	{ "0x1000-2000 r-xp 0 0:0 0", "line 1 is not" },
	{ " 1000-2000 r-xp 0 0:0 0", "line 1 is not" },
	{ "10000000000000000-2000 r-xp 0 0:0 0", "line 1 is not" },
	{ "1000-2000 r-xp 0 100000000:0 0", "line 1 is not" },
	{ "1000-3000 r-xp 0 0:0 0\n2000-4000 r-xp 0 0:0 0\n", "line 2 is out of order" },
	{ "2000-3000 r-xp 0 0:0 0\n1000-2000 r-xp 0 0:0 0\n", "line 2 is out of order" },
};

START_TEST(what_is_no_maps)
{
	struct procmaps pm;

	ck_fails(procmaps_parse(bad[_i].text, &pm), UERR_FAILED, bad[_i].message);
}
END_TEST

int main(void);

START_TEST(our_own)
{
	struct procmaps pm;
	const struct procmap *map;
	static int data;

	ck_ok(procmaps_read(getpid(), &pm));
	map = procmaps_find(&pm, (addr_t)main);
	ck_assert_ptr_nonnull(map);
	ck_assert(map->prot & PROT_EXEC);
	map = procmaps_find(&pm, (addr_t)&data);
	ck_assert_ptr_nonnull(map);
	ck_assert(map->prot & PROT_WRITE);
	procmaps_deinit(&pm);
}
END_TEST

START_TEST(many_mappings)
{
	static char *pages[3000];
	struct procmaps pm;

	for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
		pages[i] = mmap(NULL, PAGE, i % 2 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_ok(procmaps_read(getpid(), &pm));
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
		ck_assert_ptr_nonnull(procmaps_find(&pm, (addr_t)pages[i]));
	procmaps_deinit(&pm);
}
END_TEST

START_TEST(no_such_process)
{
	struct procmaps pm;
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	siginfo_t info;

	/* A zombie has no memory; once reaped there is nobody. */
	ck_assert_int_eq(waitid(P_PID, pid, &info, WEXITED | WNOWAIT), 0);
	ck_fails(procmaps_read(pid, &pm), UERR_NO_TARGET, "has no memory");
	waitpid(pid, NULL, 0);
	ck_fails(procmaps_read(pid, &pm), UERR_NO_TARGET, "there is no process");
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("procmaps");

	tcase_add_test(tc, every_field);
	tcase_add_test(tc, finding);
	tcase_add_test(tc, no_end_of_line_and_nothing);
	tcase_add_loop_test(tc, what_is_no_maps, 0, ARRAY_SIZE(bad));
	tcase_add_test(tc, our_own);
	tcase_add_test(tc, many_mappings);
	tcase_add_test(tc, no_such_process);
	return run_case("procmaps", tc);
}
