/* SPDX-License-Identifier: MIT */
/*
 * The error object that crosses every header of the project.
 *
 * NULL means success. Otherwise the object carries a code (which decides the
 * exit status and the "code" of the JSON reply), one sentence for a person, the
 * errno behind it where there is one, names that were near the one not found,
 * and an optional log. Context is put in front on the way up. Running out of
 * memory is a static object, so that reporting it never allocates.
 */
#pragma once
#include <stddef.h>

/* The numbers are exit statuses of bpfctl (docs/bpfctl.1). */
enum uerr_code {
	UERR_FAILED = 1,        /* "failed": anything that has no code of its own */
	UERR_USAGE = 2,         /* "usage": the request itself is wrong */
	UERR_NO_DAEMON = 3,     /* "no_daemon" */
	UERR_NO_TARGET = 4,     /* "target_not_found" */
	UERR_NO_SYMBOL = 5,     /* "symbol_not_found" */
	UERR_REJECTED = 6,      /* "rejected": the program is not safe */
	UERR_NOT_PERMITTED = 7, /* "not_permitted" */
	UERR_CANNOT_PROBE = 8,  /* "cannot_probe": found, but no tactic works */
};

struct uerr {
	enum uerr_code code;
	int errnum;      /* errno value, or 0 */
	char *message;   /* one sentence without a final newline */
	char **near;     /* near[nnear], may be NULL */
	size_t nnear;
	char *log;       /* several lines (verifier log), or NULL */
};

#define UERR_MUST_CHECK __attribute__((warn_unused_result))

/* New error; the caller owns it. Never NULL. */
struct uerr *uerr_new(enum uerr_code code, const char *fmt, ...)
	UERR_MUST_CHECK __attribute__((format(printf, 2, 3)));

/* New error for errno value ERRNUM (positive); ": strerror" is appended. The
 * code is UERR_NOT_PERMITTED for EPERM/EACCES, else UERR_FAILED. */
struct uerr *uerr_errno(int errnum, const char *fmt, ...)
	UERR_MUST_CHECK __attribute__((format(printf, 2, 3)));

/* The static out-of-memory object; uerr_free() on it does nothing. */
struct uerr *uerr_nomem(void) UERR_MUST_CHECK;

/* Puts "context: " in front of ERR's message; takes and returns ERR. */
struct uerr *uerr_prefix(struct uerr *err, const char *fmt, ...)
	UERR_MUST_CHECK __attribute__((format(printf, 2, 3)));

/* Adds NAME (copied) to the names that are near the one not found. */
void uerr_add_near(struct uerr *err, const char *name);

/* Sets the log (copied). */
void uerr_set_log(struct uerr *err, const char *log);

/* Frees ERR; NULL is fine. */
void uerr_free(struct uerr *err);

/* "symbol_not_found" and so on; the words are part of the JSON contract. */
const char *uerr_code_name(enum uerr_code code);

/* The code of NAME; UERR_FAILED for an unknown one. */
enum uerr_code uerr_code_from_name(const char *name);
