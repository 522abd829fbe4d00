/* SPDX-License-Identifier: MIT */
/*
 * Threads that stand in the very bytes that a probe replaces: parked() is four
 * `pause` instructions (some 40 cycles each on recent processors) and little
 * else, so that a stop finds most threads between them, inside the window.
 */
#include <pthread.h>

#include "e2e_victim.h"

uint64_t parked(volatile uint64_t *go);
__asm__(".text\n.p2align 4\n.globl parked\n.type parked, @function\n"
	"parked:\n"
	"	pause\n"
	"	pause\n"
	"	pause\n"
	"	pause\n"
	"	mov (%rdi), %rax\n"
	"	ret\n"
	"	.byte 0xcc, 0xcc, 0xcc, 0xcc, 0xcc\n"
	".size parked, . - parked\n");

static volatile uint64_t word = 42;
static uint64_t calls;

static void *park(void *arg)
{
	for (;;) {
		if (parked(&word) != 42)
			abort();
		__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
	}
	return arg;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 8;
	pthread_t t;

	for (int i = 0; i < n; i++)
		if (pthread_create(&t, NULL, park, NULL))
			return 1;
	victim_ready();
	for (;;) {
		victim_command();
		printf("%llu\n", (unsigned long long)__atomic_load_n(&calls, __ATOMIC_RELAXED));
		fflush(stdout);
	}
}
