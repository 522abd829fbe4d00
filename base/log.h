/* SPDX-License-Identifier: MIT */
/*
 * Log lines on stderr, with the priority prefix that the journal understands
 * when stderr is not a terminal ("<3>", sd-daemon(3)). The daemon logs; the
 * libraries log nothing above LOG_DEBUG; code in a target never logs.
 */
#pragma once
#include <syslog.h>

/* Lines of a priority above MAX (numerically) are dropped; LOG_INFO at start. */
void log_set_max(int max);

/* PRIORITY is one of syslog(3)'s LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG. */
void log_line(int priority, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_err(...) log_line(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
