/* SPDX-License-Identifier: MIT */
/* Programs held before their first instruction that matters. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"
#include "tests/support/suite.h"

struct child {
	pid_t pid;
	int go; /* a byte here lets it exec */
};

static struct child child_start(char *const argv[])
{
	struct child c;
	int pipefd[2];
	char byte;

	ck_assert_int_eq(pipe(pipefd), 0);
	c.pid = fork();
	ck_assert_int_ge(c.pid, 0);
	if (!c.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pipefd[1]);
		if (read(pipefd[0], &byte, 1) != 1)
			_exit(126);
		execvp(argv[0], argv);
		_exit(127);
	}
	close(pipefd[0]);
	c.go = pipefd[1];
	return c;
}

static void ready(void *arg)
{
	struct child *c = arg;

	ck_assert_int_eq(write(c->go, "x", 1), 1);
	close(c->go);
}

/* Is a file whose name holds NAME mapped in PID? */
static bool maps_file(pid_t pid, const char *name)
{
	char path[32], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		found |= strstr(line, name) != NULL;
	fclose(f);
	return found;
}

static int finish(struct child *c)
{
	int status;

	kill(c->pid, SIGCONT);
	ck_assert_int_eq(waitpid(c->pid, &status, 0), c->pid);
	return status;
}

START_TEST(dynamic_program)
{
	char *argv[] = { (char *)"true", NULL };
	struct child c = child_start(argv);

	ok(launch_hold(c.pid, ready, &c, 5000));
	ck_assert_int_eq(victim_state(c.pid), 'T');
	ck_assert(maps_file(c.pid, "libc.so"));
	ck_assert_int_eq(victim_private_text_kib(c.pid), 0); /* no breakpoint was written */
	ck_assert_int_eq(finish(&c), 0);
}
END_TEST

/* The shell is held, not what it starts; and it can be injected into. */
START_TEST(shell_with_an_injection)
{
	char *argv[] = { (char *)"sh", (char *)"-c", (char *)"/bin/true; exit 7", NULL };
	struct child c = child_start(argv);
	struct inject_range r = { .kind = RANGE_SHARED, .size = PAGE };
	struct injection *in;
	struct inject_facts f;
	struct inject_stats s;

	ok(launch_hold(c.pid, ready, &c, 5000));
	in = probe_begin(c.pid, NULL);
	ok(inject_facts(in, &f));
	ck_assert_int_eq(f.tid_off, 0x2d0);
	ok(inject_place(in, &r, 1));
	ok(inject_commit(in, &s));
	inject_end(in);
	victim_await(victim_state(c.pid) == 'T');
	ck_assert_int_eq(WEXITSTATUS(finish(&c)), 7);
}
END_TEST

START_TEST(static_program)
{
	char *argv[] = { (char *)STATIC_PATH, NULL };
	struct child c = child_start(argv);

	ok(launch_hold(c.pid, ready, &c, 5000));
	ck_assert_int_eq(victim_state(c.pid), 'T');
	ck_assert(!maps_file(c.pid, "libc.so"));
	ck_assert_int_eq(victim_private_text_kib(c.pid), 0);
	ck_assert_int_eq(WEXITSTATUS(finish(&c)), 3);
}
END_TEST

START_TEST(no_such_program)
{
	char *argv[] = { (char *)"/nonexistent/program", NULL };
	struct child c = child_start(argv);
	int status;

	refused(launch_hold(c.pid, ready, &c, 5000), UERR_FAILED, "could not be started (exit status 127)");
	/* its tracer was its parent, so it is reaped */
	ck_assert_int_eq(waitpid(c.pid, &status, 0), -1);
}
END_TEST

static void send_first(void *arg)
{
	struct child *c = arg;

	kill(c->pid, SIGUSR2);
	ready(arg);
}

START_TEST(killed_before_exec)
{
	char *argv[] = { (char *)"true", NULL };
	struct child c = child_start(argv);

	refused(launch_hold(c.pid, send_first, &c, 5000), UERR_FAILED, "killed by signal 12");
}
END_TEST

START_TEST(never_execs)
{
	char *argv[] = { (char *)"true", NULL };
	struct child c = child_start(argv);
	int status;

	refused(launch_hold(c.pid, (void (*)(void *))free, NULL, 50), UERR_FAILED, "did not call exec in time");
	close(c.go);
	ck_assert_int_eq(waitpid(c.pid, &status, 0), c.pid);
	ck_assert_int_eq(WEXITSTATUS(status), 126);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("inject_launch");
	TCase *tc = tcase_create("launch");

	if (not_root("inject_launch"))
		return EXIT_SUCCESS;
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, dynamic_program);
	tcase_add_test(tc, shell_with_an_injection);
	tcase_add_test(tc, static_program);
	tcase_add_test(tc, no_such_program);
	tcase_add_test(tc, killed_before_exec);
	tcase_add_test(tc, never_execs);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
