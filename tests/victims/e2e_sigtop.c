/* SPDX-License-Identifier: MIT */
/*
 * A signal handler that sits on top of whatever it interrupted: the main thread
 * calls probed() all the time; "signal" sends it a signal, and the handler
 * stays until "leave". argv[1] "altstack": the handler has a stack of its own.
 */
#include <pthread.h>

#include "e2e_victim.h"

static int inside, leave;
static pthread_t main_thread;
static uint64_t calls;

PROBED uint64_t probed(uint64_t x);
PROBED uint64_t probed(uint64_t x)
{
	return x + 3;
}

static void handler(int sig)
{
	__atomic_store_n(&inside, 1, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&leave, __ATOMIC_ACQUIRE))
		usleep(1000);
	__atomic_store_n(&inside, 0, __ATOMIC_RELEASE);
}

static void *commands(void *arg)
{
	for (;;) {
		char *command = victim_command();

		if (!strcmp(command, "signal")) {
			__atomic_store_n(&leave, 0, __ATOMIC_RELEASE);
			pthread_kill(main_thread, SIGUSR1);
			while (!__atomic_load_n(&inside, __ATOMIC_ACQUIRE))
				usleep(100);
			say("inside");
		} else if (!strcmp(command, "leave")) {
			__atomic_store_n(&leave, 1, __ATOMIC_RELEASE);
			while (__atomic_load_n(&inside, __ATOMIC_ACQUIRE))
				usleep(100);
			say("left");
		} else {
			printf("%llu\n", (unsigned long long)__atomic_load_n(&calls, __ATOMIC_RELAXED));
			fflush(stdout);
		}
	}
	return arg;
}

int main(int argc, char **argv)
{
	static char stack[65536];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_handler = handler };
	pthread_t t;

	if (argc > 1 && !strcmp(argv[1], "altstack")) {
		sigaltstack(&ss, NULL);
		sa.sa_flags = SA_ONSTACK;
	}
	sigaction(SIGUSR1, &sa, NULL);
	main_thread = pthread_self();
	victim_ready();
	if (pthread_create(&t, NULL, commands, NULL))
		return 1;
	for (uint64_t i = 0;; i++) {
		if (probed(i) != i + 3)
			abort();
		__atomic_store_n(&calls, i + 1, __ATOMIC_RELAXED);
	}
}
