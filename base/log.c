/* SPDX-License-Identifier: MIT */
/* Log lines on stderr; see log.h. */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static int max_priority = LOG_INFO;

void log_set_max(int max)
{
	max_priority = max;
}

void log_line(int priority, const char *fmt, ...)
{
	char line[1024];
	va_list ap;

	if (priority > max_priority)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "uprobed: %s\n", line);
	else
		fprintf(stderr, "<%d>%s\n", priority, line);
}
