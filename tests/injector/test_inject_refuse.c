/* SPDX-License-Identifier: MIT */
/* What cannot be traced, and what must not be noticed: errors name the reason
 * and leave everything as it was; system calls, stops and filters go on. */
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/target_abi.h"
#include "probe.h"
#include "tests/support/suite.h"

static struct uerr *try_begin(pid_t pid, uid_t uid, u32 timeout_ms)
{
	struct inject_opts opts = { .pid = pid, .uid = uid, .gid = uid, .timeout_ms = timeout_ms };
	struct injection *in = NULL;
	struct uerr *err = inject_begin(&opts, &in);

	if (!err)
		inject_end(in);
	return err;
}

START_TEST(no_such_process)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	refused(try_begin(pid, -1, 0), UERR_NO_TARGET, "no process");
	refused(try_begin(getpid(), -1, 0), UERR_NOT_PERMITTED, "cannot probe itself");
	refused(try_begin(2, -1, 0), UERR_CANNOT_PROBE, "kernel thread");
}
END_TEST

START_TEST(zombie)
{
	pid_t pid = fork();
	siginfo_t info;

	if (!pid)
		_exit(0);
	ck_assert_int_eq(waitid(P_PID, pid, &info, WEXITED | WNOWAIT), 0);
	refused(try_begin(pid, -1, 0), UERR_NO_TARGET, "zombie");
	waitpid(pid, NULL, 0);
}
END_TEST

START_TEST(traced_by_another)
{
	struct victim v = victim_start("sleep", 1);
	int pipefd[2];
	char c, who[32];
	pid_t tracer;

	ck_assert_int_eq(pipe(pipefd), 0);
	tracer = fork();
	if (!tracer) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "other-debugger");
		if (ptrace(PTRACE_SEIZE, v.pid, 0, 0) || write(pipefd[1], "x", 1) != 1)
			_exit(1);
		pause();
	}
	ck_assert_int_eq(read(pipefd[0], &c, 1), 1);
	snprintf(who, sizeof(who), "other-debugger (pid %d)", tracer);
	refused(try_begin(v.pid, -1, 0), UERR_NOT_PERMITTED, who);
	kill(tracer, SIGKILL);
	waitpid(tracer, NULL, 0);
	ok(try_begin(v.pid, -1, 0));
	victim_kill(&v);
}
END_TEST

/* The worker takes the peer's ids first, so the kernel refuses. */
START_TEST(somebody_elses)
{
	struct victim v = victim_start("sleep", 1);
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct uerr *err = try_begin(v.pid, 65534, 0);

		_exit(!(err && err->code == UERR_NOT_PERMITTED && strstr(err->message, "belongs to user root") &&
			strstr(err->message, "you are uid 65534")));
	}
	waitpid(pid, &status, 0);
	ck_assert_int_eq(status, 0);
	victim_kill(&v);
}
END_TEST

/* As the owner, without any capability: memfds instead of map_files. */
START_TEST(own_process_without_root)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct inject_stats s;
		struct victim v;
		struct probe p;
		int fds;

		if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534) || prctl(PR_SET_DUMPABLE, 1))
			_exit(1);
		v = victim_start("hammer", 3);
		fds = victim_count_fds(v.pid);
		p = probe_install(&v, NULL, &s);
		victim_await(*p.counter > 100);
		ok(probe_remove(&v, &p, NULL, &s));
		if (s.retired || victim_count_fds(v.pid) != fds || v.shared->wrong ||
		    victim_private_text_kib(v.pid))
			_exit(2);
		victim_kill(&v);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(filter_is_suspended)
{
	struct victim v = victim_start("seccomp", 0);
	struct inject_facts f;
	struct inject_stats s;
	struct probe p = probe_install(&v, NULL, &s);
	struct injection *in = probe_begin(v.pid, NULL);

	ok(inject_facts(in, &f));
	ck_assert(f.seccomp);
	ck_assert_uint_eq(f.denied, 0);
	inject_end(in);
	victim_await(*p.counter > 10 || !victim_alive(&v));
	ck_assert(victim_alive(&v));
	ok(probe_remove(&v, &p, NULL, &s));
	ck_assert_uint_eq(s.retired, 0);
	probe_unmap_here(&p);
	ck_assert(victim_alive(&v));
	victim_kill(&v);
}
END_TEST

/* What would kill is told; what would fail only is not. */
START_TEST(filter_that_forbids_the_runtime)
{
	struct victim v = victim_start("seccomp", 2);
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_facts f;

	ok(inject_facts(in, &f));
	ck_assert_uint_eq(f.denied, TARGET_CALL_VM_READ | TARGET_CALL_TID);
	inject_end(in);
	victim_kill(&v);
}
END_TEST

START_TEST(filter_that_forbids_the_way_back)
{
	struct victim v = victim_start("seccomp", 1);
	u64 calls;

	refused(try_begin(v.pid, -1, 0), UERR_CANNOT_PROBE, "forbids rt_sigreturn");
	calls = VICTIM_READ(v.shared->calls[0]);
	victim_await(VICTIM_READ(v.shared->calls[0]) > calls || !victim_alive(&v));
	ck_assert(victim_alive(&v));
	victim_kill(&v);
}
END_TEST

START_TEST(no_descriptor_left)
{
	struct victim v = victim_start("nofile", 1);
	int fd = memfd_create("m", MFD_CLOEXEC), fds;
	struct inject_range r = { .kind = RANGE_MEMFD, .size = PAGE };
	struct inject_stats s;
	struct injection *in;
	struct probe p;

	ck_assert_int_eq(ftruncate(fd, PAGE), 0);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	fds = victim_count_fds(v.pid);
	/* without shared memfds none is needed */
	p = probe_install(&v, NULL, &s);
	ok(probe_remove(&v, &p, NULL, &s));
	probe_unmap_here(&p);
	in = probe_begin(v.pid, NULL);
	ok(inject_place(in, &r, 1));
	ok(inject_share(in, r.addr, PAGE, fd, false));
	refused(inject_commit(in, &s), UERR_CANNOT_PROBE, "no free descriptor");
	inject_end(in);
	ck_assert_int_eq(victim_count_fds(v.pid), fds);
	ck_assert_int_eq(victim_count_ours(v.pid, &r.addr, 1), 0);
	close(fd);
	victim_kill(&v);
}
END_TEST

/* A stopped process is attached to and stays stopped. */
START_TEST(stopped_stays_stopped)
{
	struct victim v = victim_start("hammer", 3);
	struct inject_stats s;
	struct probe p;
	u64 calls;

	kill(v.pid, SIGSTOP);
	victim_await(victim_state(v.pid) == 'T');
	calls = victim_calls(&v);
	p = probe_install(&v, NULL, &s);
	victim_await(victim_state(v.pid) == 'T');
	ck_assert_uint_eq(victim_calls(&v), calls);
	ck_assert_uint_eq(*p.counter, 0);
	kill(v.pid, SIGCONT);
	victim_await(*p.counter > 1000);
	ok(probe_remove(&v, &p, NULL, &s));
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	probe_unmap_here(&p);
	victim_kill(&v);
}
END_TEST

/* A vfork parent never stops: a clear error in time, everything as it was. */
START_TEST(vfork_parent_times_out)
{
	struct victim v = victim_start("vfork", 1);
	pid_t pid;
	int status;

	victim_await(VICTIM_READ(v.shared->child) > 0);
	/* In a process of its own, as a worker is: its end lets go of the thread. */
	pid = fork();
	if (!pid) {
		refused(try_begin(v.pid, -1, 100), UERR_FAILED, "started with vfork");
		_exit(0);
	}
	waitpid(pid, &status, 0);
	ck_assert_int_eq(status, 0);
	VICTIM_WRITE(v.shared->go, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	ck_assert(victim_alive(&v));
	victim_kill(&v);
}
END_TEST

START_TEST(no_eintr)
{
	struct victim v = victim_start("eintr", 0);
	struct inject_stats s;

	for (int i = 0; i < 100; i++) {
		struct probe p = probe_install(&v, NULL, &s);

		ok(probe_remove(&v, &p, NULL, &s));
		probe_unmap_here(&p);
	}
	ck_assert_uint_eq(VICTIM_READ(v.shared->eintr), 0);
	ck_assert(victim_alive(&v));
	/* Their time-outs start over at each stop; now they run out. */
	for (int i = 0; i < 9; i++)
		victim_await(VICTIM_READ(v.shared->calls[i]) > 1);
	VICTIM_WRITE(v.shared->stop, 1);
	victim_await(VICTIM_READ(v.shared->state) == 1);
	ck_assert_uint_eq(VICTIM_READ(v.shared->eintr), 0);
	victim_kill(&v);
}
END_TEST

/* Signals that arrive all the time are neither lost nor doubled. */
START_TEST(no_signal_is_lost)
{
	struct victim v = victim_start("compute", 0);
	u64 sent = 0;

	for (int i = 0; i < 50; i++) {
		struct inject_stats s;
		struct probe p;

		kill(v.pid, SIGUSR1);
		p = probe_install(&v, NULL, &s);
		sent++;
		victim_await(VICTIM_READ(v.shared->signals) == sent);
		kill(v.pid, SIGUSR1);
		ok(probe_remove(&v, &p, NULL, &s));
		sent++;
		victim_await(VICTIM_READ(v.shared->signals) == sent);
		probe_unmap_here(&p);
	}
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	victim_kill(&v);
}
END_TEST

/* The limit of its data is reached: shared memory can still be mapped, a private
 * page cannot, and so nothing may be changed. By the routine, and call by call. */
START_TEST(no_private_memory_left)
{
	struct victim v = victim_start("compute", 0);
	struct rlimit none = { PAGE, RLIM_INFINITY }; /* (0 is let pass) */
	struct injection *in = probe_begin(v.pid, NULL);
	struct inject_range r[2] = { { .kind = RANGE_MEMFD, .size = PAGE }, { .kind = RANGE_PRIVATE, .size = PAGE } };
	struct text before = text_read(v.pid, v.shared->site), after;
	u64 calls = VICTIM_READ(v.shared->calls[0]);
	struct inject_stats stats;
	struct probe p;
	int fd = memfd_create("m", MFD_CLOEXEC);

	ck_assert_int_eq(ftruncate(fd, PAGE), 0);
	ck_assert_int_eq(prlimit(v.pid, RLIMIT_DATA, &none, NULL), 0);
	ok(probe_place(in, &v, &p));
	if (_i)
		inject_use_batch(in, 0);
	ok(inject_place(in, r, 2));
	ok(inject_share(in, r[0].addr, PAGE, fd, false));
	ok(inject_poke(in, r[1].addr, "private", 8));
	refused(inject_commit(in, &stats), UERR_CANNOT_PROBE, "its limit of address space or of locked memory is reached");
	inject_end(in);
	after = text_read(v.pid, v.shared->site);
	ck_assert(text_equal(&before, &after));
	victim_await(VICTIM_READ(v.shared->calls[0]) > calls || !victim_alive(&v));
	ck_assert(victim_alive(&v));
	text_free(&before);
	text_free(&after);
	probe_unmap_here(&p);
	close(fd);
	victim_kill(&v);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("inject_refuse");
	TCase *tc = tcase_create("refuse");

	if (not_root("inject_refuse"))
		return EXIT_SUCCESS;
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, no_such_process);
	tcase_add_test(tc, zombie);
	tcase_add_test(tc, traced_by_another);
	tcase_add_test(tc, somebody_elses);
	tcase_add_test(tc, own_process_without_root);
	tcase_add_test(tc, filter_is_suspended);
	tcase_add_test(tc, filter_that_forbids_the_runtime);
	tcase_add_test(tc, filter_that_forbids_the_way_back);
	tcase_add_test(tc, no_descriptor_left);
	tcase_add_loop_test(tc, no_private_memory_left, 0, 2);
	tcase_add_test(tc, stopped_stays_stopped);
	tcase_add_test(tc, vfork_parent_times_out);
	tcase_add_test(tc, no_eintr);
	tcase_add_test(tc, no_signal_is_lost);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
