/* SPDX-License-Identifier: MIT */
/*
 * The probed program of the benchmark. Reads "ROW CALLS [THREADS]" lines on stdin,
 * calls that row's function so often, and answers with the nanoseconds that it
 * took. With THREADS each of so many makes the calls, all at the same time, and the
 * answer is the mean of the CPU time that one took. `plain` is a function that
 * nobody probes; `pad` one that jumps through a hand-written pad: the lower bound
 * of what a probe can cost; `bare` one that jumps away and back and does nothing
 * beside. `victim N` keeps N more threads busy in __bench_thread, for measuring
 * how long an attach stops them.
 *
 * Built three times: for uprobed, without PIE for gdbserver (whose fast tracepoints
 * reach no other), and with a tracepoint of LTTng-UST in it.
 */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "rows.h"

typedef uint64_t (*bench_fn)(char *a, int b, uint64_t c);

/* Nothing about the function may be known to its callers: gcc's noipa; clang has
 * no such word, but knows nothing of a weak one. */
#ifdef __clang__
#define OPAQUE noinline, weak
#else
#define OPAQUE noipa
#endif

#define BENCH_FN(name)                                                                      \
	__attribute__((OPAQUE, aligned(64))) uint64_t name(char *a, int b, uint64_t c);      \
	__attribute__((OPAQUE, aligned(64))) uint64_t name(char *a, int b, uint64_t c)       \
	{                                                                                   \
		return a[b] + c;                                                            \
	}

#define X(name, ...) BENCH_FN(name)
BENCH_ROWS(X)
BENCH_MORE_ROWS(X)
#undef X
BENCH_FN(__bench_plain)
BENCH_FN(__bench_jumped_to)
BENCH_FN(__bench_thread)
BENCH_FN(__bench_count)

/* Ends by a jump. */
__attribute__((OPAQUE, aligned(64))) uint64_t __bench_uretprobe_tail(char *a, int b, uint64_t c);
__attribute__((OPAQUE, aligned(64))) uint64_t __bench_uretprobe_tail(char *a, int b, uint64_t c)
{
	return __bench_jumped_to(a, b, c);
}

/* May end by a jump to where nobody knows: it never does. */
static volatile bench_fn nowhere = __bench_jumped_to;
__attribute__((OPAQUE, aligned(64))) uint64_t __bench_uretprobe_taken(char *a, int b, uint64_t c);
__attribute__((OPAQUE, aligned(64))) uint64_t __bench_uretprobe_taken(char *a, int b, uint64_t c)
{
	if (b < 0) {
		bench_fn f = nowhere;

		__asm__("add $0, %0" : "+r"(f));
		return f(a, b, c);
	}
	return a[b] + c;
}

#ifdef HAVE_LTTNG
#define LTTNG_UST_TRACEPOINT_DEFINE
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#include "lttng_tp.h"

__attribute__((OPAQUE, aligned(64))) uint64_t __bench_lttng(char *a, int b, uint64_t c);
__attribute__((OPAQUE, aligned(64))) uint64_t __bench_lttng(char *a, int b, uint64_t c)
{
	lttng_ust_tracepoint(uprobed_bench, call);
	return a[b] + c;
}
#endif

/* The same function for gdbserver, whose fast tracepoints displace one instruction
 * of five bytes or more: the one at __bench_gdb_here. */
uint64_t __bench_gdb(char *a, int b, uint64_t c);
__asm__(".text\n"
	".p2align 6\n"
	".globl __bench_gdb, __bench_gdb_here\n"
	".type __bench_gdb, @function\n"
	"__bench_gdb:\n"
	"	movslq %esi, %rsi\n"
	"__bench_gdb_here:\n"
	"	movsbq (%rdi,%rsi), %rax\n"
	"	add %rdx, %rax\n"
	"	ret\n"
	".size __bench_gdb, . - __bench_gdb\n");

/* The same function with its first two instructions replaced by a jump to a copy
 * of them, and a jump back. */
uint64_t __bench_bare(char *a, int b, uint64_t c);
__asm__(".text\n"
	".p2align 6\n"
	".globl __bench_bare\n"
	".type __bench_bare, @function\n"
	"__bench_bare:\n"
	"	.byte 0xe9\n"
	"	.long bare - . - 4\n"
	"	.byte 0xcc, 0xcc, 0xcc\n"
	"bare_back:\n"
	"	add %rdx, %rax\n"
	"	ret\n"
	".size __bench_bare, . - __bench_bare\n"
	".p2align 6\n"
	"bare:\n"
	"	movslq %esi, %rsi\n"
	"	movsbq (%rdi,%rsi), %rax\n"
	"	jmp bare_back\n");

/* The same function with its first two instructions replaced by a jump, and
 * what it jumps to: nine registers saved, an empty function called, registers
 * restored, the displaced instructions, and back. */
uint64_t __bench_pad(char *a, int b, uint64_t c);
__asm__(".text\n"
	".p2align 6\n"
	".globl __bench_pad\n"
	".type __bench_pad, @function\n"
	"__bench_pad:\n"
	"	.byte 0xe9\n"
	"	.long pad - . - 4\n"
	"	.byte 0xcc, 0xcc, 0xcc\n"
	"pad_back:\n"
	"	add %rdx, %rax\n"
	"	ret\n"
	".size __bench_pad, . - __bench_pad\n"
	".p2align 6\n"
	"pad:\n"
	"	push %rax\n"
	"	push %rcx\n"
	"	push %rdx\n"
	"	push %rsi\n"
	"	push %rdi\n"
	"	push %r8\n"
	"	push %r9\n"
	"	push %r10\n"
	"	push %r11\n"
	"	call pad_empty\n"
	"	pop %r11\n"
	"	pop %r10\n"
	"	pop %r9\n"
	"	pop %r8\n"
	"	pop %rdi\n"
	"	pop %rsi\n"
	"	pop %rdx\n"
	"	pop %rcx\n"
	"	pop %rax\n"
	"	movslq %esi, %rsi\n"
	"	movsbq (%rdi,%rsi), %rax\n"
	"	jmp pad_back\n"
	".p2align 6\n"
	"pad_empty:\n"
	"	xor %eax, %eax\n"
	"	ret\n");

static const struct {
	const char *name;
	bench_fn fn;
} rows[] = {
#define X(name, ...) { #name, name },
	BENCH_ROWS(X)
	BENCH_TAKEN_ROWS(X)
	BENCH_MORE_ROWS(X)
#undef X
	{ "plain", __bench_plain },
	{ "pad", __bench_pad },
	{ "bare", __bench_bare },
	{ "count", __bench_count },
	{ "gdbserver", __bench_gdb },
#ifdef HAVE_LTTNG
	{ "lttng", __bench_lttng },
#endif
};

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* With a frame pointer, for who walks by these. */
#ifdef __clang__
#define FRAME __attribute__((noinline))
#else
#define FRAME __attribute__((noipa, optimize("no-omit-frame-pointer")))
#endif

FRAME static uint64_t run(bench_fn fn, uint64_t calls, clockid_t clock)
{
	char buf[64] __attribute__((aligned(64))) = { 0 };
	uint64_t start, sum = 0;

	start = now_ns(clock);
	for (uint64_t i = 0; i < calls; i++)
		sum += fn(buf, (int)(i & 7), i);
	start = now_ns(clock) - start;
	if (sum != calls * (calls - 1) / 2) {
		fprintf(stderr, "bench victim: a probed call gave a wrong result\n");
		exit(1);
	}
	return start;
}

FRAME static uint64_t run_deep(bench_fn fn, uint64_t calls, clockid_t clock, volatile unsigned depth)
{
	uint64_t ns = depth ? run_deep(fn, calls, clock, depth - 1) : run(fn, calls, clock);

	return ns + (depth & 0);
}

#define MAX_THREADS 64

struct crowd {
	bench_fn fn;
	uint64_t calls;
	pthread_barrier_t ready;
	uint64_t ns; /* of all threads */
};

struct member {
	struct crowd *crowd;
	pthread_t thread;
	int cpu;
};

static void *member_run(void *arg)
{
	struct member *m = arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(m->cpu, &set);
	sched_setaffinity(0, sizeof(set), &set); /* one each, where they are ours */
	pthread_barrier_wait(&m->crowd->ready);
	__atomic_fetch_add(&m->crowd->ns, run(m->crowd->fn, m->crowd->calls, CLOCK_THREAD_CPUTIME_ID),
			   __ATOMIC_RELAXED);
	return NULL;
}

/* N threads at once, each on a CPU of its own as long as there are some. */
static uint64_t run_threads(bench_fn fn, uint64_t calls, unsigned n)
{
	struct crowd crowd = { .fn = fn, .calls = calls };
	struct member members[MAX_THREADS];
	int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);

	pthread_barrier_init(&crowd.ready, NULL, n);
	for (unsigned i = 0; i < n; i++) {
		members[i] = (struct member){ .crowd = &crowd, .cpu = (int)i % cpus };
		if (pthread_create(&members[i].thread, NULL, member_run, &members[i]))
			exit(1);
	}
	for (unsigned i = 0; i < n; i++)
		pthread_join(members[i].thread, NULL);
	pthread_barrier_destroy(&crowd.ready);
	return crowd.ns / n;
}

static void *spin(void *arg)
{
	char buf[8] = { 0 };

	for (uint64_t i = 0;; i++) {
		__bench_thread(buf, 0, i);
		if (i % 1024 == 0)
			usleep(1000);
	}
	return arg;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 0;
	unsigned long long calls, ns;
	unsigned crowd;
	char line[128], name[64];
	pthread_t t;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < threads; i++)
		if (pthread_create(&t, NULL, spin, NULL))
			return 1;
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		bench_fn fn = NULL;

		crowd = 0;
		if (sscanf(line, "%63s %llu %u", name, &calls, &crowd) < 2 || crowd > MAX_THREADS)
			return 1;
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
			if (!strcmp(rows[i].name, name))
				fn = rows[i].fn;
		if (!fn)
			return 1;
		if (!strncmp(name, DEEP_ROW, strlen(DEEP_ROW)))
			ns = run_deep(fn, calls, CLOCK_MONOTONIC, DEPTH);
		else
			ns = crowd ? run_threads(fn, calls, crowd) : run(fn, calls, CLOCK_MONOTONIC);
		printf("%llu\n", ns);
		fflush(stdout);
	}
	return 0;
}
