/* SPDX-License-Identifier: MIT */
/*
 * The probed program of the benchmark. Reads "ROW CALLS" lines on stdin, calls
 * that row's function so often, and answers with the nanoseconds that it took.
 * `plain` is a function that nobody probes; `pad` one that jumps through a
 * hand-written pad: the lower bound of what a probe can cost. `victim N` keeps
 * N more threads busy in __bench_thread, for measuring how long an attach stops
 * them.
 */
#include <pthread.h>
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
#undef X
BENCH_FN(__bench_plain)
BENCH_FN(__bench_thread)

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
#undef X
	{ "plain", __bench_plain },
	{ "pad", __bench_pad },
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t run(bench_fn fn, uint64_t calls)
{
	char buf[64] __attribute__((aligned(64))) = { 0 };
	uint64_t start, sum = 0;

	start = now_ns();
	for (uint64_t i = 0; i < calls; i++)
		sum += fn(buf, (int)(i & 7), i);
	start = now_ns() - start;
	if (sum != calls * (calls - 1) / 2) {
		fprintf(stderr, "bench victim: a probed call gave a wrong result\n");
		exit(1);
	}
	return start;
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
	unsigned long long calls;
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

		if (sscanf(line, "%63s %llu", name, &calls) != 2)
			return 1;
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
			if (!strcmp(rows[i].name, name))
				fn = rows[i].fn;
		if (!fn)
			return 1;
		printf("%llu\n", (unsigned long long)run(fn, calls));
		fflush(stdout);
	}
	return 0;
}
