/* SPDX-License-Identifier: MIT */
/* All of it, in as many pieces as it takes; or why not. */
#include "base/write_all.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/suite.h"

#define SIZE (4u << 20)

static char bytes[SIZE], got[SIZE];

static void on_alarm(int sig) { (void)sig; }

/* Many times more than a pipe holds, while signals cut the writes short. */
START_TEST(through_a_pipe)
{
	struct sigaction on = { .sa_handler = on_alarm };
	struct itimerval often = { { 0, 200 }, { 0, 200 } };
	int fds[2], status;
	pid_t child;

	for (size_t i = 0; i < SIZE; i++)
		bytes[i] = (char)(i * 7 + i / 1000);
	ck_assert_int_eq(pipe(fds), 0);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (!child) {
		size_t n = 0;
		ssize_t k;

		close(fds[1]);
		while (n < SIZE && (k = read(fds[0], got + n, SIZE - n < 1000 ? SIZE - n : 1000)) > 0)
			n += (size_t)k;
		_exit(n == SIZE && !memcmp(got, bytes, SIZE) && !read(fds[0], got, 1) ? 0 : 1);
	}
	close(fds[0]);
	sigaction(SIGALRM, &on, NULL); /* without SA_RESTART */
	setitimer(ITIMER_REAL, &often, NULL);
	ck_assert(write_all(fds[1], bytes, SIZE));
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	close(fds[1]);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(nowhere)
{
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC);

	ck_assert_int_ge(full, 0);
	ck_assert(!write_all(full, bytes, 1));
	ck_assert_int_eq(errno, ENOSPC);
	ck_assert(write_all(full, bytes, 0));
	close(full);
	ck_assert(!write_all(full, bytes, 1));
	ck_assert_int_eq(errno, EBADF);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("write_all");

	tcase_add_test(tc, through_a_pipe);
	tcase_add_test(tc, nowhere);
	return run_case("write_all", tc);
}
