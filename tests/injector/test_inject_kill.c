/* SPDX-License-Identifier: MIT */
/* The worker is killed at any moment: the target lives, computes right, takes
 * signals, and the journal brings it back to what it was. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"
#include "tests/support/suite.h"

#define KILLS 500

static void worker(const struct victim *v, const char *journal)
{
	int fd = memfd_create("m", MFD_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (ftruncate(fd, PAGE))
		_exit(1);
	for (unsigned round = (unsigned)getpid();; round++) {
		struct injection *in = probe_begin(v->pid, journal);
		struct inject_range r = { .kind = RANGE_MEMFD, .size = PAGE };
		struct inject_stats stats;
		struct patch back;
		struct probe p;

		ok(probe_place(in, v, &p));
		ok(inject_place(in, &r, 1));
		ok(inject_share(in, r.addr, PAGE, fd, false));
		if (round & 1) /* half of them by single calls */
			inject_use_batch(in, 0);
		ok(inject_commit(in, &stats));
		back = (struct patch){ .addr = p.patch.addr, .len = p.patch.len, .restore = true };
		memcpy(back.old_bytes, p.patch.new_bytes, p.patch.len);
		memcpy(back.new_bytes, p.patch.old_bytes, p.patch.len);
		ok(inject_patch(in, &back));
		ok(inject_unmap(in, p.code.addr, p.code.size, true, NULL, NULL));
		ok(inject_unmap(in, p.data.addr, p.data.size, false, NULL, NULL));
		ok(inject_unmap(in, r.addr, r.size, false, NULL, NULL));
		ok(inject_commit(in, &stats));
		inject_end(in);
		probe_unmap_here(&p);
	}
}

static void kill_a_worker(const struct victim *v, const char *journal)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (!pid) {
		worker(v, journal);
		_exit(0);
	}
	usleep(300 + rand() % 5000);
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

/* Undoes until nothing is left: a range may be busy at the first try. */
static void undo_all(const struct victim *v, const char *journal)
{
	struct inject_opts opts = { .pid = v->pid, .journal = journal, .uid = (uid_t)-1 };
	struct inject_stats stats;
	struct journal j;
	u64 addrs[64];
	size_t n;

	for (int i = 0; i < 50; i++) {
		if (access(journal, F_OK))
			return; /* killed before it began */
		ok(journal_read(journal, &j));
		n = 0;
		for (size_t k = 0; k < j.nranges && n < ARRAY_SIZE(addrs); k++)
			addrs[n++] = j.ranges[k].addr;
		ok(inject_undo(&opts, &j, NULL, NULL, &stats));
		journal_deinit(&j);
		if (!stats.retired) {
			ck_assert_int_eq(victim_count_ours(v->pid, addrs, n), 0);
			return;
		}
	}
	ck_abort_msg("ranges stay in use");
}

/* Runs, with its signals open, and right. */
static void check_well(const struct victim *v)
{
	u64 calls = VICTIM_READ(v->shared->calls[0]), signals = VICTIM_READ(v->shared->signals);

	victim_await(VICTIM_READ(v->shared->calls[0]) > calls || !victim_alive(v));
	ck_assert(victim_alive(v));
	kill(v->pid, SIGUSR1);
	victim_await(VICTIM_READ(v->shared->signals) > signals);
	ck_assert_uint_eq(victim_status_mask(v->pid, "SigBlk:"), 0);
	ck_assert_uint_eq(VICTIM_READ(v->shared->wrong), 0);
}

START_TEST(worker_killed_at_random)
{
	struct victim v = victim_start("compute", 0);
	struct text before = text_read(v.pid, v.shared->site), after;
	int fds = victim_count_fds(v.pid), text_kib = victim_private_text_kib(v.pid);
	char *journal = journal_path();

	srand(5);
	for (int i = 0; i < KILLS; i++) {
		kill_a_worker(&v, journal);
		check_well(&v);
		undo_all(&v, journal);
	}
	check_well(&v);
	after = text_read(v.pid, v.shared->site);
	ck_assert(text_equal(&before, &after));
	ck_assert_int_eq(victim_private_text_kib(v.pid), text_kib);
	ck_assert_int_eq(victim_count_fds(v.pid), fds);
	VICTIM_WRITE(v.shared->stop, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	text_free(&before);
	text_free(&after);
	journal_drop(journal);
	victim_kill(&v);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("inject_kill");
	TCase *tc = tcase_create("kill");

	if (not_root("inject_kill"))
		return EXIT_SUCCESS;
	tcase_set_timeout(tc, 100);
	tcase_add_test(tc, worker_killed_at_random);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
