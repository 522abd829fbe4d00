/* SPDX-License-Identifier: MIT */
/*
 * Threads that call one function without a pause, check its result, and count
 * their calls. "count" prints the sum; "pause" makes them stand still (reply
 * when all do), "go" lets them run. argv[1]: how many threads; argv[2]: after so
 * many calls each rests (0: never) for argv[3] microseconds (500), so that more threads
 * than CPUs do not keep the daemon from running; argv[4], with STATES: a state to be
 * in, of those in e2e_states.h.
 */
#include <pthread.h>
#include <sched.h>

#include "e2e_victim.h"

struct counter {
	uint64_t calls;
	char pad[56];
};
static struct counter *counters;
static int nthreads;
static uint64_t burst;
static useconds_t rest = 500;
static int paused, standing;
static int churning;   /* calls are made in threads that live no longer */
static int release[2]; /* whom a state holds reads here */

PROBED uint64_t hammered(uint64_t x);
PROBED uint64_t hammered(uint64_t x)
{
	return x * 2654435761u + 12345;
}

static void call_once(struct counter *c)
{
	uint64_t i = c->calls;

	if (hammered(i) != i * 2654435761u + 12345)
		abort();
	__atomic_store_n(&c->calls, i + 1, __ATOMIC_RELAXED);
}

/* Some calls in a thread that lives no longer. */
static void *call_and_end(void *arg)
{
	for (int i = 0; i < 50; i++)
		call_once(arg);
	return NULL;
}

static void call_in_a_thread(struct counter *c)
{
	pthread_t t;

	if (pthread_create(&t, NULL, call_and_end, c) || pthread_join(t, NULL))
		abort();
}

static void *hammer(void *arg)
{
	for (uint64_t i = 0;; i++) {
		if (churning)
			call_in_a_thread(arg);
		else
			call_once(arg);
		if (burst && i % burst == 0)
			usleep(rest);
		if (__atomic_load_n(&paused, __ATOMIC_ACQUIRE)) {
			__atomic_add_fetch(&standing, 1, __ATOMIC_ACQ_REL);
			while (__atomic_load_n(&paused, __ATOMIC_ACQUIRE))
				usleep(500);
			__atomic_sub_fetch(&standing, 1, __ATOMIC_ACQ_REL);
		}
	}
	return NULL;
}

static uint64_t sum(void)
{
	uint64_t n = 0;

	for (int i = 0; i < nthreads; i++)
		n += __atomic_load_n(&counters[i].calls, __ATOMIC_RELAXED);
	return n;
}

static void *serve(void *arg)
{
	victim_ready();
	for (;;) {
		char *command = victim_command();

		if (!strcmp(command, "pause")) {
			__atomic_store_n(&paused, 1, __ATOMIC_RELEASE);
			while (__atomic_load_n(&standing, __ATOMIC_ACQUIRE) != nthreads)
				usleep(100);
			say("paused");
		} else if (!strcmp(command, "go")) {
			__atomic_store_n(&paused, 0, __ATOMIC_RELEASE);
			while (__atomic_load_n(&standing, __ATOMIC_ACQUIRE) != 0)
				usleep(100);
			say("going");
		} else if (!strcmp(command, "release")) {
			say(write(release[1], "x", 1) == 1 ? "released" : "failed");
		} else {
			printf("%llu\n", (unsigned long long)sum());
			fflush(stdout);
		}
	}
	return NULL;
}

#ifdef STATES
#include "e2e_states.h"
#else
static void begin_state(const char *name, int late)
{
}
#endif

int main(int argc, char **argv)
{
	const char *state = argc > 4 ? argv[4] : NULL;
	pthread_t t;

	nthreads = argc > 1 ? atoi(argv[1]) : 4;
	burst = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
	if (argc > 3)
		rest = (useconds_t)atoi(argv[3]);
	counters = calloc((size_t)nthreads, sizeof(*counters));
	begin_state(state, 0);
	for (int i = 0; i < nthreads; i++)
		if (pthread_create(&t, NULL, hammer, &counters[i]))
			return 1;
	begin_state(state, 1);
	serve(NULL);
}
