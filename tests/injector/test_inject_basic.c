/* SPDX-License-Identifier: MIT */
/* Placing, patching, taking back: bytes, mappings, descriptors, facts. */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "probe.h"
#include "tests/support/suite.h"

static void remove_fully(const struct victim *v, struct probe *p, const char *journal)
{
	const u64 addrs[] = { p->code.addr, p->data.addr };
	struct inject_stats stats = {};

	ok(probe_remove(v, p, journal, &stats));
	ck_assert_uint_eq(stats.retired, 0);
	ck_assert_int_eq(victim_count_ours(v->pid, addrs, 2), 0);
	probe_unmap_here(p);
}

START_TEST(counts_and_leaves_no_trace)
{
	struct victim v = victim_start("hammer", 1);
	char *journal = journal_path();
	int fds = victim_count_fds(v.pid), dirty = victim_private_text_kib(v.pid);
	struct text before = text_read(v.pid, v.shared->site), during, after;
	struct inject_stats stats = {};
	struct probe p = probe_install(&v, journal, &stats);
	struct journal j;

	ck_assert_uint_ge(stats.nthreads, 2);
	ck_assert_uint_gt(stats.stopped_ns, 0);
	during = text_read(v.pid, v.shared->site);
	ck_assert(!text_equal(&before, &during));
	ck_assert_int_gt(victim_private_text_kib(v.pid), dirty);
	victim_await(*p.counter > 1000);
	ok(journal_read(journal, &j));
	ck_assert_int_eq(j.pid, v.pid);
	ck_assert_uint_eq(j.nranges, 2);
	ck_assert_uint_eq(j.nsites, 1);
	ck_assert(j.sites[0].active);
	ck_assert_uint_eq(j.sites[0].addr, p.patch.addr);
	journal_deinit(&j);

	remove_fully(&v, &p, journal);
	after = text_read(v.pid, v.shared->site);
	ck_assert(text_equal(&before, &after));
	ck_assert_int_eq(victim_private_text_kib(v.pid), dirty);
	ck_assert_int_eq(victim_count_fds(v.pid), fds);
	ok(journal_read(journal, &j));
	ck_assert_uint_eq(j.nranges, 0);
	ck_assert_uint_eq(j.nsites, 0);
	journal_deinit(&j);
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	ck_assert(victim_alive(&v));
	text_free(&before);
	text_free(&during);
	text_free(&after);
	journal_drop(journal);
	victim_kill(&v);
}
END_TEST

START_TEST(what_is_not_committed_is_undone)
{
	struct victim v = victim_start("hammer", 2);
	struct text before = text_read(v.pid, v.shared->site), after;
	struct injection *in = probe_begin(v.pid, NULL);
	struct probe p;
	u64 addrs[2];

	ok(probe_place(in, &v, &p));
	addrs[0] = p.code.addr;
	addrs[1] = p.data.addr;
	ck_assert_int_eq(victim_count_ours(v.pid, addrs, 2), 2);
	inject_end(in);
	ck_assert_int_eq(victim_count_ours(v.pid, addrs, 2), 0);
	after = text_read(v.pid, v.shared->site);
	ck_assert(text_equal(&before, &after));
	probe_unmap_here(&p);
	text_free(&before);
	text_free(&after);
	victim_kill(&v);
}
END_TEST

START_TEST(changed_text_is_refused)
{
	struct victim v = victim_start("hammer", 1);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_stats stats;
	struct probe p;
	u64 addrs[2];

	ok(probe_place(in, &v, &p));
	inject_end(in);
	probe_unmap_here(&p);
	in = probe_begin(v.pid, NULL);
	ok(probe_place(in, &v, &p));
	addrs[0] = p.code.addr;
	addrs[1] = p.data.addr;
	p.patch.old_bytes[0] ^= 1;
	/* a second patch further on, whose old bytes are not there */
	p.patch.addr += 64;
	ok(inject_patch(in, &p.patch));
	refused(inject_commit(in, &stats), UERR_CANNOT_PROBE, "somebody has changed it");
	inject_end(in);
	ck_assert_int_eq(victim_count_ours(v.pid, addrs, 2), 0);
	ck_assert(victim_alive(&v));
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

/* Names of what a mapping looks like in the target. */
static void perms_at(pid_t pid, addr_t addr, char perms[5])
{
	char path[32], line[512], got[5];
	unsigned long lo, hi;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	ck_assert_ptr_nonnull(f);
	strcpy(perms, "none");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %4s", &lo, &hi, got) == 3 && addr >= lo && addr < hi)
			strcpy(perms, got);
	fclose(f);
}

/* A large range among many pages that can lie nowhere else: chosen first, it
 * must not take their places. */
START_TEST(exact_ranges_keep_their_places)
{
	struct victim v = victim_start("sleep", 1);
	addr_t site = ALIGN_DOWN((addr_t)v.shared->site, PAGE);

	for (int round = 0; round < 8; round++) {
		struct injection *in = probe_begin(v.pid, NULL);
		struct inject_range r[8] = { { .kind = RANGE_CODE, .size = 90ul << 20,
					       .near = site - (1ul << 30), .near_end = site } };

		for (int i = 1; i < 8; i++)
			r[i] = (struct inject_range){ .kind = RANGE_STUBS, .size = PAGE,
						      .exact = site - 0x7f000000 + i * (30ul << 20) };
		ok(inject_place(in, r, 8));
		for (int i = 1; i < 8; i++)
			ck_assert_uint_eq(r[i].addr, r[i].exact);
		inject_end(in);
		munmap(r[0].local, r[0].size);
	}
	victim_kill(&v);
}
END_TEST

START_TEST(ranges_of_all_kinds)
{
	struct victim v = victim_start("sleep", 3);
	struct injection *in = probe_begin(v.pid, NULL);
	addr_t site = v.shared->site;
	struct inject_range r[] = {
		{ .kind = RANGE_CODE, .size = 8 * PAGE, .near = site, .near_end = site + 1 },
		{ .kind = RANGE_SHARED, .size = 4 * PAGE },
		{ .kind = RANGE_PRIVATE, .size = PAGE },
		{ .kind = RANGE_MEMFD, .size = 2 * PAGE },
		{ .kind = RANGE_MEMFD, .size = PAGE },
	};
	int fds = victim_count_fds(v.pid), a = memfd_create("a", MFD_CLOEXEC), b = memfd_create("b", MFD_CLOEXEC);
	char perms[5], text[16] = "", path[32];
	struct inject_stats stats;
	struct stat st;
	int mem;

	ok(inject_place(in, r, ARRAY_SIZE(r)));
	ck_assert_uint_lt(llabs((s64)(r[0].addr - site)), 1ull << 31);
	ck_assert_int_eq(ftruncate(a, 2 * PAGE), 0);
	ck_assert_int_eq(ftruncate(b, PAGE), 0);
	ck_assert_int_eq(pwrite(a, "shared", 7, 0), 7);
	ck_assert_int_eq(pwrite(b, "frozen", 7, 0), 7);
	ok(inject_share(in, r[3].addr, r[3].size, a, false));
	ok(inject_share(in, r[4].addr, r[4].size, b, true));
	refused(inject_share(in, 0x1000, PAGE, a, false), UERR_USAGE, "no range");
	ok(inject_poke(in, r[2].addr + 8, "private", 8));
	refused(inject_poke(in, r[2].addr + PAGE - 2, "private", 8), UERR_USAGE, "no private range");
	ok(inject_commit(in, &stats));
	inject_end(in);
	ck_assert_int_eq(victim_count_fds(v.pid), fds);

	perms_at(v.pid, r[0].addr, perms);
	ck_assert_str_eq(perms, "r-xs");
	perms_at(v.pid, r[1].addr, perms);
	ck_assert_str_eq(perms, "rw-s");
	perms_at(v.pid, r[2].addr, perms);
	ck_assert_str_eq(perms, "rw-p");
	perms_at(v.pid, r[3].addr, perms);
	ck_assert_str_eq(perms, "rw-s");
	perms_at(v.pid, r[4].addr, perms);
	ck_assert_str_eq(perms, "r--s");
	snprintf(path, sizeof(path), "/proc/%d/mem", v.pid);
	mem = open(path, O_RDONLY);
	ck_assert_int_eq(pread(mem, text, 7, (off_t)r[3].addr), 7);
	ck_assert_str_eq(text, "shared");
	ck_assert_int_eq(pread(mem, text, 7, (off_t)r[4].addr), 7);
	ck_assert_str_eq(text, "frozen");
	ck_assert_int_eq(pread(mem, text, 8, (off_t)r[2].addr + 8), 8);
	ck_assert_str_eq(text, "private");
	strcpy(r[0].local, "code");
	ck_assert_int_eq(pread(mem, text, 5, (off_t)r[0].addr), 5);
	ck_assert_str_eq(text, "code");
	ck_assert_uint_ne(r[0].inode, 0);
	ck_assert_uint_ne(r[0].inode, r[1].inode);
	close(mem);
	ck_assert_int_eq(fstat(a, &st), 0);
	munmap(r[0].local, r[0].size);
	munmap(r[1].local, r[1].size);
	close(a);
	close(b);
	victim_kill(&v);
}
END_TEST

START_TEST(private_ranges_are_counted)
{
	struct victim v = victim_start("sleep", 1);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_range r[5] = {};

	for (size_t i = 0; i < ARRAY_SIZE(r); i++)
		r[i] = (struct inject_range){ .kind = RANGE_PRIVATE, .size = PAGE };
	refused(inject_place(in, r, 5), UERR_USAGE, "5 private ranges in one injection, 4 can be");
	ok(inject_place(in, r, 3));
	refused(inject_place(in, r, 2), UERR_USAGE, "5 private ranges");
	ok(inject_place(in, r + 4, 1));
	ok(inject_commit(in, NULL));
	inject_end(in);
	for (size_t i = 0; i < ARRAY_SIZE(r); i++)
		if (r[i].addr) {
			char perms[5];

			perms_at(v.pid, r[i].addr, perms);
			ck_assert_str_eq(perms, "rw-p");
		}
	victim_kill(&v);
}
END_TEST

/* By single calls, and by the routine in the target, to which the third time only
 * three descriptors are left. */
START_TEST(many_shares)
{
	struct victim v = victim_start("sleep", 1);
	struct injection *in = probe_begin(v.pid, NULL);
	int fds = victim_count_fds(v.pid), memfds[80];
	struct inject_range r[80], code = { .kind = RANGE_CODE, .size = PAGE };
	struct inject_stats stats;
	char path[32];
	int mem;

	for (size_t i = 0; i < ARRAY_SIZE(r); i++)
		r[i] = (struct inject_range){ .kind = RANGE_MEMFD, .size = PAGE };
	ok(inject_place(in, r, ARRAY_SIZE(r)));
	if (_i) {
		size_t size;
		const u8 *routine = inject_batch_code(&size);

		ok(inject_place(in, &code, 1));
		memcpy(code.local, routine, size);
		inject_use_batch(in, code.addr);
	}
	if (_i == 2) {
		struct rlimit few = { (rlim_t)fds + 3, (rlim_t)fds + 3 };

		ck_assert_int_eq(prlimit(v.pid, RLIMIT_NOFILE, &few, NULL), 0);
	}
	for (int i = 0; i < (int)ARRAY_SIZE(r); i++) {
		memfds[i] = memfd_create("m", MFD_CLOEXEC);
		ck_assert_int_eq(ftruncate(memfds[i], PAGE), 0);
		ck_assert_int_eq(pwrite(memfds[i], &i, sizeof(i), 0), sizeof(i));
		ok(inject_share(in, r[i].addr, PAGE, memfds[i], false));
	}
	ok(inject_commit(in, &stats));
	inject_end(in);
	ck_assert_int_eq(victim_count_fds(v.pid), fds);
	snprintf(path, sizeof(path), "/proc/%d/mem", v.pid);
	mem = open(path, O_RDONLY);
	for (int i = 0; i < (int)ARRAY_SIZE(r); i++) {
		int got = -1;

		ck_assert_int_eq(pread(mem, &got, sizeof(got), (off_t)r[i].addr), sizeof(got));
		ck_assert_int_eq(got, i);
		close(memfds[i]);
	}
	close(mem);
	victim_kill(&v);
}
END_TEST

START_TEST(facts)
{
	struct victim v = victim_start("sleep", 5);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_thread *threads;
	struct inject_facts f;
	char perms[5];
	size_t n;

	ok(inject_facts(in, &f));
	ck_assert_uint_eq(f.nthreads, 5);
	ck_assert_int_eq(f.tid_off, 0x2d0); /* glibc 2.36 and its neighbours */
	ck_assert_int_ne(f.rseq_off, 0);
	ck_assert_uint_ne(f.vdso, 0);
	ck_assert_int_eq(f.ns_tgid, v.pid);
	ck_assert(!f.seccomp);
	perms_at(v.pid, f.main_stack_hi - 8, perms);
	ck_assert_str_eq(perms, "rw-p");
	ck_assert_uint_lt(f.main_stack_lo, f.main_stack_hi - (1 << 20));
	ok(inject_threads(in, &threads, &n));
	ck_assert_uint_eq(n, 5);
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_lt(threads[i].stack_lo, threads[i].stack_hi);
		perms_at(v.pid, threads[i].stack_hi - 8, perms);
		ck_assert_str_eq(perms, "rw-p");
	}
	free(threads);
	inject_end(in);
	victim_kill(&v);
}
END_TEST

START_TEST(fork_child_is_found_and_undone)
{
	struct victim v = victim_start("fork", 1);
	char *journal = journal_path();
	struct probe p = probe_install(&v, journal, NULL);
	struct inject_opts opts = { .journal = journal, .uid = (uid_t)-1 };
	struct inject_stats stats = {};
	struct text during, after;
	const u64 addrs[] = { p.code.addr, p.data.addr };
	struct journal j;
	pid_t *found;
	u64 count;
	size_t n;

	VICTIM_WRITE(v.shared->go, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	victim_await(VICTIM_READ(v.shared->calls[1]) > 10);
	ok(inject_descendants(v.pid, p.code.inode, &found, &n));
	ck_assert_uint_eq(n, 1);
	opts.pid = found[0];
	free(found);
	during = text_read(opts.pid, v.shared->site);
	ok(journal_read(journal, &j));
	ok(inject_undo(&opts, &j, NULL, NULL, &stats));
	ck_assert_uint_eq(stats.retired, 0);
	after = text_read(opts.pid, v.shared->site);
	ck_assert(!text_equal(&during, &after));
	ck_assert_int_eq(victim_count_ours(opts.pid, addrs, 2), 0);
	ok(inject_descendants(v.pid, p.code.inode, &found, &n));
	ck_assert_uint_eq(n, 0);
	free(found);
	/* the parent is as it was, and so is its journal */
	ck_assert_int_eq(victim_count_ours(v.pid, addrs, 2), 2);
	count = *p.counter;
	victim_await(*p.counter > count);
	journal_deinit(&j);
	ok(journal_read(journal, &j));
	ck_assert_uint_eq(j.nsites, 1);
	opts.pid = v.pid;
	ok(inject_undo(&opts, &j, NULL, NULL, &stats));
	ck_assert_int_eq(victim_count_ours(v.pid, addrs, 2), 0);
	journal_deinit(&j);
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	text_free(&during);
	text_free(&after);
	probe_unmap_here(&p);
	journal_drop(journal);
	victim_kill(&v);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("inject_basic");
	TCase *tc = tcase_create("basic");

	if (not_root("inject_basic"))
		return EXIT_SUCCESS;
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, counts_and_leaves_no_trace);
	tcase_add_test(tc, what_is_not_committed_is_undone);
	tcase_add_test(tc, changed_text_is_refused);
	tcase_add_test(tc, exact_ranges_keep_their_places);
	tcase_add_test(tc, ranges_of_all_kinds);
	tcase_add_test(tc, private_ranges_are_counted);
	tcase_add_loop_test(tc, many_shares, 0, 3);
	tcase_add_test(tc, facts);
	tcase_add_test(tc, fork_child_is_found_and_undone);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
