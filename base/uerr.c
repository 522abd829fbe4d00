/* SPDX-License-Identifier: MIT */
/* Errors as objects; see uerr.h. */
#include "uerr.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct uerr nomem = {
	.code = UERR_FAILED,
	.errnum = ENOMEM,
	.message = (char *)"out of memory",
};

static const struct {
	enum uerr_code code;
	const char *name;
} code_names[] = {
	{ UERR_FAILED, "failed" },
	{ UERR_USAGE, "usage" },
	{ UERR_NO_DAEMON, "no_daemon" },
	{ UERR_NO_TARGET, "target_not_found" },
	{ UERR_NO_SYMBOL, "symbol_not_found" },
	{ UERR_REJECTED, "rejected" },
	{ UERR_NOT_PERMITTED, "not_permitted" },
	{ UERR_CANNOT_PROBE, "cannot_probe" },
};
#define N_CODES (sizeof(code_names) / sizeof(code_names[0]))

static struct uerr *uerr_vnew(enum uerr_code code, int errnum, const char *fmt, va_list ap)
{
	struct uerr *err = calloc(1, sizeof(*err));

	if (!err)
		return &nomem;
	err->code = code;
	err->errnum = errnum;
	if (vasprintf(&err->message, fmt, ap) < 0) {
		free(err);
		return &nomem;
	}
	return err;
}

struct uerr *uerr_new(enum uerr_code code, const char *fmt, ...)
{
	struct uerr *err;
	va_list ap;

	va_start(ap, fmt);
	err = uerr_vnew(code, 0, fmt, ap);
	va_end(ap);
	return err;
}

struct uerr *uerr_errno(int errnum, const char *fmt, ...)
{
	bool denied = errnum == EPERM || errnum == EACCES;
	struct uerr *err;
	char *message;
	va_list ap;

	va_start(ap, fmt);
	err = uerr_vnew(denied ? UERR_NOT_PERMITTED : UERR_FAILED, errnum, fmt, ap);
	va_end(ap);
	if (err == &nomem)
		return err;
	if (asprintf(&message, "%s: %s", err->message, strerror(errnum)) >= 0) {
		free(err->message);
		err->message = message;
	}
	return err;
}

struct uerr *uerr_nomem(void)
{
	return &nomem;
}

struct uerr *uerr_prefix(struct uerr *err, const char *fmt, ...)
{
	char *context, *message;
	va_list ap;
	int n;

	if (!err || err == &nomem)
		return err;
	va_start(ap, fmt);
	n = vasprintf(&context, fmt, ap);
	va_end(ap);
	if (n < 0)
		return err;
	if (asprintf(&message, "%s: %s", context, err->message) >= 0) {
		free(err->message);
		err->message = message;
	}
	free(context);
	return err;
}

void uerr_add_near(struct uerr *err, const char *name)
{
	char **near;

	if (!err || err == &nomem)
		return;
	near = realloc(err->near, (err->nnear + 1) * sizeof(*near));
	if (!near)
		return;
	err->near = near;
	near[err->nnear] = strdup(name);
	if (near[err->nnear])
		err->nnear++;
}

void uerr_set_log(struct uerr *err, const char *log)
{
	if (!err || err == &nomem)
		return;
	free(err->log);
	err->log = log ? strdup(log) : NULL;
}

void uerr_free(struct uerr *err)
{
	if (!err || err == &nomem)
		return;
	for (size_t i = 0; i < err->nnear; i++)
		free(err->near[i]);
	free(err->near);
	free(err->log);
	free(err->message);
	free(err);
}

const char *uerr_code_name(enum uerr_code code)
{
	for (size_t i = 0; i < N_CODES; i++)
		if (code_names[i].code == code)
			return code_names[i].name;
	return "failed";
}

enum uerr_code uerr_code_from_name(const char *name)
{
	for (size_t i = 0; i < N_CODES; i++)
		if (!strcmp(code_names[i].name, name))
			return code_names[i].code;
	return UERR_FAILED;
}
