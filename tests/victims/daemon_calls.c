/* SPDX-License-Identifier: MIT */
/* Calls calls_work() as often as each line on stdin says, then answers "done". */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>

int calls_work(int x);

__attribute__((noinline)) int calls_work(int x)
{
	__asm__ volatile("" ::: "memory");
	return x * 3 + 1;
}

int main(void)
{
	char line[32];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (fgets(line, sizeof(line), stdin)) {
		int n = atoi(line);

		for (int i = 0; i < n; i++)
			calls_work(i); /* stays: it has an asm volatile */
		puts("done");
		fflush(stdout);
	}
	return 0;
}
