/* SPDX-License-Identifier: MIT */
/* What is wrong, as text. */
#pragma once
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* malloc'd, never NULL. */
__attribute__((format(printf, 1, 2))) static inline char *complaint(const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	return text;
}
