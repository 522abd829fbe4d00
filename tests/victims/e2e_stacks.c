/* SPDX-License-Identifier: MIT */
/*
 * Stacks of all shapes, without frame pointers. A command is a way to get to
 * spot() and how deep; spot() stops the process, so that a debugger can say how it
 * got there, too.
 */
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

#include "e2e_victim.h"

volatile long sink;
static volatile int stop_there = 1;

PROBED long spot(long n)
{
	if (stop_there)
		raise(SIGSTOP); /* of this very thread: it does not run on */
	return sink += n;
}

/* Ends by a jump that nobody can follow: its return is taken over. */
typedef long (*long_fn)(long);
static long nowhere(long n) { return n; }
static long_fn volatile escape = nowhere;

PROBED long taken(long n)
{
	if (n < -1000) {
		long_fn f = escape;

		__asm__("lea (%0), %0" : "+r"(f));
		return f(n);
	}
	return spot(n) + 1;
}

PROBED long in_alloca(long n, long_fn f)
{
	char *p = __builtin_alloca(n * 24 + 100);

	memset(p, (int)n, n * 24 + 100);
	__asm__ volatile("" : : "r"(p) : "memory");
	return f(n) + p[n];
}

/* A frame that is aligned to more than the ABI says is found through rbp. */
PROBED long in_aligned(long n, long_fn f)
{
	char buf[256] __attribute__((aligned(64)));

	memset(buf, (int)n, sizeof(buf));
	__asm__ volatile("" : : "r"(buf) : "memory");
	return f(n) + buf[n & 63];
}

static long_fn deep_end = spot;

PROBED long deep_a(long n);
PROBED long deep_b(long n)
{
	char pad[40];

	memset(pad, (int)n, sizeof(pad));
	__asm__ volatile("" : : "r"(pad) : "memory");
	return n > 0 ? deep_a(n - 1) + pad[3] : deep_end(n);
}

PROBED long deep_a(long n)
{
	volatile long a = n, b = n * 3, c = a ^ b;

	return n > 0 ? deep_b(n - 1) + a + b + c : deep_end(n);
}

PROBED long deep_mixed(long n)
{
	if (n <= 0)
		return spot(n);
	if (n % 3 == 0)
		return in_alloca(n - 1, deep_mixed) + 1;
	if (n % 3 == 1)
		return in_aligned(n - 1, deep_mixed) + 1;
	return deep_mixed(n - 1) + sink;
}

static int compare(const void *a, const void *b)
{
	static int once;

	if (!once++)
		spot(1);
	return *(const int *)a - *(const int *)b;
}

PROBED long by_qsort(long n)
{
	int v[4] = { 3, 1, 2, 0 };

	qsort(v, 4, sizeof(v[0]), compare);
	return v[0] + n;
}

static long signal_n;

static void on_signal(int sig)
{
	deep_a(signal_n + sig * 0);
}

PROBED long by_signal(long n)
{
	signal_n = n;
	raise(SIGUSR1);
	return sink + 1;
}

PROBED long by_alt_signal(long n)
{
	signal_n = n;
	raise(SIGUSR2);
	return sink + 1;
}

static void *in_thread(void *arg)
{
	return (void *)deep_a((long)arg);
}

PROBED long by_thread(long n)
{
	pthread_t t;
	void *ret;

	pthread_create(&t, NULL, in_thread, (void *)n);
	pthread_join(t, &ret);
	return (long)ret;
}

static ucontext_t outside, inside;
static long coroutine_n;

static void coroutine(void)
{
	deep_mixed(coroutine_n);
}

PROBED long by_coroutine(long n)
{
	static char stack[1 << 18];

	coroutine_n = n;
	getcontext(&inside);
	inside.uc_stack.ss_sp = stack;
	inside.uc_stack.ss_size = sizeof(stack);
	inside.uc_link = &outside;
	makecontext(&inside, coroutine, 0);
	swapcontext(&outside, &inside);
	return sink;
}

/* Assembly that says nothing about its frame: with rbp as frame pointer, and
 * without. */
long asm_frame(long n, long_fn f);
long asm_bare(long n, long_fn f);
__asm__(".text\n.globl asm_frame, asm_bare\n.type asm_frame, @function\n.type asm_bare, @function\n"
	"asm_frame: push %rbp; mov %rsp, %rbp; sub $32, %rsp; call *%rsi; leave; ret\n.size asm_frame, . - asm_frame\n"
	"asm_bare: sub $24, %rsp; call *%rsi; add $24, %rsp; ret\n.size asm_bare, . - asm_bare\n");

PROBED long by_asm_frame(long n)
{
	return asm_frame(n, spot) + 1;
}

PROBED long by_asm_bare(long n)
{
	return asm_bare(n, spot) + 1;
}

PROBED long by_tail(long n)
{
	return spot(n); /* a jump: nobody sees this frame */
}

static inline __attribute__((always_inline)) long inlined(long n)
{
	return spot(n + 1) * 3;
}

static inline __attribute__((always_inline)) long inlined_twice(long n)
{
	return inlined(n) + 1;
}

PROBED long by_inlined(long n)
{
	return inlined_twice(n) + 1;
}

PROBED long by_taken(long n)
{
	return taken(n) + deep_b(0) * 0 + 1;
}

PROBED long deep_taken(long n)
{
	deep_end = taken;
	n = deep_a(n);
	deep_end = spot;
	return n + 1;
}

/* Busy on two threads until told otherwise. */
static volatile int busy;
static void *be_busy(void *arg)
{
	for (long i = 0; busy; i++)
		deep_a(i % 30);
	return arg;
}

static const struct {
	const char *name;
	long_fn fn;
} ways[] = {
	{ "deep", deep_a }, { "mixed", deep_mixed }, { "qsort", by_qsort }, { "signal", by_signal },
	{ "alt_signal", by_alt_signal }, { "thread", by_thread }, { "coroutine", by_coroutine },
	{ "asm_frame", by_asm_frame }, { "asm_bare", by_asm_bare }, { "tail", by_tail }, { "taken", by_taken },
	{ "deep_taken", deep_taken }, { "inlined", by_inlined },
};

static const char *run(const char *name, long n)
{
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		if (strcmp(ways[i].name, name))
			continue;
		ways[i].fn(n);
		return "ok";
	}
	return "what?";
}

int main(void)
{
	static char alt[1 << 16];
	stack_t st = { .ss_sp = alt, .ss_size = sizeof(alt) };
	struct sigaction on = { .sa_handler = on_signal }, on_alt = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };
	pthread_t threads[2];

	sigaltstack(&st, NULL);
	sigaction(SIGUSR1, &on, NULL);
	sigaction(SIGUSR2, &on_alt, NULL);
	victim_ready();
	for (;;) {
		char name[64] = "";
		long n = 0;

		sscanf(victim_command(), "%63s %ld", name, &n);
		if (!strcmp(name, "quiet")) {
			stop_there = 0;
			say("ok");
		} else if (!strcmp(name, "busy")) {
			stop_there = 0;
			busy = 1;
			for (int i = 0; i < 2; i++)
				pthread_create(&threads[i], NULL, be_busy, NULL);
			say("ok");
		} else if (!strcmp(name, "rest")) {
			busy = 0;
			for (int i = 0; i < 2; i++)
				pthread_join(threads[i], NULL);
			say("ok");
		} else {
			say(run(name, n));
		}
	}
}
