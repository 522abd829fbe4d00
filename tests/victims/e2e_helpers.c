/* SPDX-License-Identifier: MIT */
/*
 * What helpers are asked about: a thread's name, its user, signals that reach it,
 * functions that are skipped. Commands, each with its answer:
 *
 *	call N       target(N), as the caller sees it
 *	chain N      target(N) twice, by a function that jumps to it
 *	thread N     target(N), on another thread; with "signals" of that thread alone
 *	name TEXT    prctl(PR_SET_NAME), and at once target(0)
 *	raw TEXT     the same by the system call itself
 *	other TEXT   the main thread's name, by another
 *	uid N        setuid(N), and at once target(0)
 *	many N       target() so often
 *	signals      SIGUSR1 and SIGUSR2 seen, by the main thread and by others
 */
#include <pthread.h>
#include <sys/syscall.h>

#include "e2e_victim.h"

static volatile sig_atomic_t seen[2][2]; /* SIGUSR1, SIGUSR2; the main thread, others */

static void on_signal(int sig)
{
	seen[sig == SIGUSR2][syscall(SYS_gettid) != getpid()]++;
}

static uint64_t executed;

PROBED uint64_t target(uint64_t n);
PROBED uint64_t target(uint64_t n)
{
	executed++;
	return n * 2 + 1;
}

PROBED uint64_t jumps(uint64_t n);
PROBED uint64_t jumps(uint64_t n)
{
	return target(n + 1);
}

static void *run_thread(void *arg)
{
	return (void *)target((uint64_t)arg);
}

static void answer(uint64_t value)
{
	printf("%llu executed %llu\n", (unsigned long long)value, (unsigned long long)executed);
	fflush(stdout);
}

static uint64_t in_thread(uint64_t n)
{
	pthread_t t;
	void *ret;

	if (pthread_create(&t, NULL, run_thread, (void *)n))
		exit(1);
	pthread_join(t, &ret);
	return (uint64_t)ret;
}

static pthread_t main_thread;

static void *rename_main(void *name)
{
	pthread_setname_np(main_thread, name);
	return NULL;
}

int main(void)
{
	pthread_t t;
	struct sigaction sa = { .sa_handler = on_signal };

	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGUSR2, &sa, NULL);
	main_thread = pthread_self();
	victim_ready();
	for (;;) {
		char *line = victim_command(), *arg = line + strcspn(line, " ");

		if (*arg)
			*arg++ = 0;
		if (!strcmp(line, "call")) {
			answer(target(strtoull(arg, NULL, 0)));
		} else if (!strcmp(line, "chain")) {
			answer(jumps(strtoull(arg, NULL, 0)));
		} else if (!strcmp(line, "thread")) {
			answer(in_thread(strtoull(arg, NULL, 0)));
		} else if (!strcmp(line, "name")) {
			prctl(PR_SET_NAME, arg);
			answer(target(0));
		} else if (!strcmp(line, "other")) {
			pthread_create(&t, NULL, rename_main, arg);
			pthread_join(t, NULL);
			answer(0);
		} else if (!strcmp(line, "raw")) {
			syscall(SYS_prctl, PR_SET_NAME, arg);
			answer(target(0));
		} else if (!strcmp(line, "uid")) {
			if (setuid((uid_t)strtoul(arg, NULL, 0)))
				exit(1);
			answer(target(0));
		} else if (!strcmp(line, "many")) {
			uint64_t n = strtoull(arg, NULL, 0), sum = 0;

			for (uint64_t i = 0; i < n; i++)
				sum += target(i);
			answer(sum);
		} else if (!strcmp(line, "signals")) {
			printf("%d %d, %d %d\n", seen[0][0], seen[1][0], seen[0][1], seen[1][1]);
			fflush(stdout);
		} else {
			say("?");
		}
	}
}
