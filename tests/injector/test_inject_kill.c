/* SPDX-License-Identifier: MIT */
/* The worker is killed at any moment: the target lives, computes right, takes
 * signals, and the journal brings it back to what it was. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "injector/tracee.h"
#include "probe.h"
#include "tests/support/suite.h"

#define KILLS 500

/* Each assertion tells its place to the runner through a file that we have
 * inherited. Killed in the middle of that, we would leave half a message. */
static void mute(void)
{
	int null = open("/dev/null", O_RDWR);
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *e;

	while ((e = readdir(dir)))
		if (atoi(e->d_name) > STDERR_FILENO && atoi(e->d_name) != dirfd(dir))
			dup2(null, atoi(e->d_name));
	closedir(dir);
}

/* What a worker is at, shared with it. Kills are spread over all of it. */
enum { BEGIN, PLACE, COMMIT, TAKE_BACK, END, STEPS };
static struct progress {
	u32 step;
	u64 since_ns, took_ns[STEPS];
} *progress;

static void enter(u32 step)
{
	u64 now = now_ns();

	progress->took_ns[progress->step] = now - progress->since_ns;
	progress->since_ns = now;
	__atomic_store_n(&progress->step, step, __ATOMIC_RELEASE);
}

static void one_round(const struct victim *v, const char *journal, int fd, bool batch)
{
	struct inject_range r = { .kind = RANGE_MEMFD, .size = PAGE };
	struct inject_stats stats;
	struct injection *in;
	struct patch back;
	struct probe p;

	enter(BEGIN);
	in = probe_begin(v->pid, journal);
	enter(PLACE);
	ok(probe_place(in, v, &p));
	if (!batch)
		inject_use_batch(in, 0);
	ok(inject_place(in, &r, 1));
	ok(inject_share(in, r.addr, PAGE, fd, false));
	enter(COMMIT);
	ok(inject_commit(in, &stats));
	enter(TAKE_BACK);
	back = (struct patch){ .addr = p.patch.addr, .len = p.patch.len, .restore = true };
	memcpy(back.old_bytes, p.patch.new_bytes, p.patch.len);
	memcpy(back.new_bytes, p.patch.old_bytes, p.patch.len);
	ok(inject_patch(in, &back));
	ok(inject_unmap(in, p.code.addr, p.code.size, true, NULL, NULL));
	ok(inject_unmap(in, p.data.addr, p.data.size, false, NULL, NULL));
	ok(inject_unmap(in, r.addr, r.size, false, NULL, NULL));
	ok(inject_commit(in, &stats));
	enter(END);
	inject_end(in);
	probe_unmap_here(&p);
	enter(BEGIN);
}

static pid_t start_worker(const struct victim *v, const char *journal, bool batch, bool once)
{
	pid_t pid;
	int fd;

	progress->step = BEGIN;
	progress->since_ns = now_ns();
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	mute();
	fd = memfd_create("m", MFD_CLOEXEC);
	if (ftruncate(fd, PAGE))
		_exit(1);
	do
		one_round(v, journal, fd, batch);
	while (!once);
	_exit(0);
}

/* How long each step takes here and now. */
static void measure(const struct victim *v, const char *journal, u64 *took_ns)
{
	int status;

	ck_assert_int_ge(waitpid(start_worker(v, journal, true, true), &status, 0), 0);
	ck_assert_msg(WIFEXITED(status) && !WEXITSTATUS(status), "a worker left alone fails (status %#x)", status);
	memcpy(took_ns, progress->took_ns, sizeof(progress->took_ns));
}

/* Kills a worker somewhere in STEP, or soon after. */
static void kill_a_worker(const struct victim *v, const char *journal, u32 step, bool batch, u64 took_ns)
{
	pid_t pid = start_worker(v, journal, batch, false);
	int status;

	while (__atomic_load_n(&progress->step, __ATOMIC_ACQUIRE) != step && !waitpid(pid, &status, WNOHANG))
		usleep(20);
	usleep((useconds_t)((u64)rand() % (took_ns + 100000) / 1000));
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the worker ended by itself (status %#x)",
		      status);
}

/* The routine closes what it opened, within its bound. By single calls, nobody
 * finds the two sockets of a worker that was killed between their making and
 * their record. */
static void check_fds(const struct victim *v, bool batch, bool recorded, int *fds)
{
	if (!batch && !recorded && victim_count_fds(v->pid) == *fds + 2)
		*fds += 2;
	victim_await(victim_count_fds(v->pid) == *fds);
}

/* Undoes until nothing is left: a range may be busy at the first try. */
static void undo_all(const struct victim *v, const char *journal, bool batch, int *fds)
{
	struct inject_opts opts = { .pid = v->pid, .journal = journal, .uid = (uid_t)-1 };
	bool recorded = false;
	struct inject_stats stats;
	struct journal j;
	u64 addrs[64];
	size_t n;

	for (int i = 0; i < 50; i++) {
		if (access(journal, F_OK))
			return; /* killed before it began */
		ok(journal_read(journal, &j));
		recorded |= j.sockets[0] != 0;
		n = 0;
		for (size_t k = 0; k < j.nranges && n < ARRAY_SIZE(addrs); k++)
			addrs[n++] = j.ranges[k].addr;
		ok(inject_undo(&opts, &j, NULL, NULL, &stats));
		journal_deinit(&j);
		if (!stats.retired) {
			ck_assert_int_eq(victim_count_ours(v->pid, addrs, n), 0);
			check_fds(v, batch, recorded, fds);
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

static bool text_is(const struct victim *v, const struct text *before)
{
	struct text now = text_read(v->pid, v->shared->site);
	bool same = text_equal(before, &now);

	text_free(&now);
	return same;
}

START_TEST(worker_killed_at_random)
{
	struct victim v = victim_start("compute", 0);
	struct text before = text_read(v.pid, v.shared->site);
	int fds = victim_count_fds(v.pid), text_kib = victim_private_text_kib(v.pid);
	char *journal = journal_path();
	u64 took_ns[STEPS];
	int patched = 0;

	progress = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(progress, MAP_FAILED);
	measure(&v, journal, took_ns);
	srand(5);
	for (u32 i = 0; i < KILLS; i++) {
		bool batch = i / STEPS % 4 == 0; /* after which the routine waits a while for its end */

		kill_a_worker(&v, journal, i % STEPS, batch, took_ns[i % STEPS]);
		check_well(&v);
		patched += !text_is(&v, &before);
		undo_all(&v, journal, batch, &fds);
		ck_assert(text_is(&v, &before));
	}
	ck_assert_int_gt(patched, 0); /* or it was never killed while something stood */
	check_well(&v);
	ck_assert_int_eq(victim_private_text_kib(v.pid), text_kib);
	VICTIM_WRITE(v.shared->stop, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	text_free(&before);
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
	tcase_set_timeout(tc, 280);
	tcase_add_test(tc, worker_killed_at_random);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
