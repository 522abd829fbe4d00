/* SPDX-License-Identifier: MIT */
/* USDT probes hard behind one another, to some of which something jumps: no jump fits
 * all of them at once. A command is how often. */
#include <sys/sdt.h>

#include "e2e_victim.h"

PROBED void close_by(volatile long *n);
PROBED void close_by(volatile long *n)
{
	volatile long again = 2;

	DTRACE_PROBE(close, first);
	DTRACE_PROBE(close, second);
back:
	DTRACE_PROBE(close, third);
	DTRACE_PROBE(close, fourth);
	*n += again;
	if (--again)
		goto back;
	DTRACE_PROBE(close, last);
}

int main(void)
{
	volatile long n = 0;

	victim_ready();
	for (;;) {
		for (long i = atol(victim_command()); i > 0; i--)
			close_by(&n);
		printf("%ld\n", n);
		fflush(stdout);
	}
}
