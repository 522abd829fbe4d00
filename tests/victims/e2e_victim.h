/* SPDX-License-Identifier: MIT */
/* What the end-to-end victims share: "ready", and one line at a time from the
 * test on stdin. They die with the test that started them. */
#pragma once
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Nothing about the function may be known to its callers: gcc's noipa; clang has
 * no such word, but knows nothing of a weak one. */
#ifdef __clang__
#define OPAQUE noinline, weak
#else
#define OPAQUE noipa
#endif
#define PROBED __attribute__((OPAQUE, aligned(16)))

static inline void say(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
}

static inline void victim_ready(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	say("ready");
}

/* The next line without its newline; ends the process at end of file. */
static inline char *victim_command(void)
{
	static char line[256];

	if (!fgets(line, sizeof(line), stdin))
		exit(0);
	line[strcspn(line, "\n")] = 0;
	return line;
}
