/* SPDX-License-Identifier: MIT */
/* What the tests of elfsym share: memfds, child processes, tools' output. */
#pragma once
#include <check.h>
#include <elf.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/types.h"
#include "base/uerr.h"
#include "elfsym/image.h"
#include "elfsym/resolve.h"
#include "tests/support/suite.h"

#define LIBC "/lib/x86_64-linux-gnu/libc.so.6"

#define ck_ok(expr)                                                          \
	do {                                                                 \
		struct uerr *_err = (expr);                                  \
		ck_assert_msg(!_err, "%s", _err ? _err->message : "");       \
	} while (0)

/* EXPR fails with CODE and a message that contains PART. */
#define ck_fails(expr, want_code, part)                                                        \
	do {                                                                                   \
		struct uerr *_err = (expr);                                                    \
		ck_assert_msg(_err != NULL, "%s: no error", part);                             \
		ck_assert_msg(_err->code == (want_code), "%d: %s", _err->code, _err->message); \
		ck_assert_msg(strstr(_err->message, part), "'%s' lacks '%s'", _err->message, part); \
		uerr_free(_err);                                                               \
	} while (0)

__attribute__((unused)) static int memfd_of(const void *bytes, size_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, bytes, size), size);
	return fd;
}

__attribute__((unused)) static u8 *read_file(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	u8 *buf;

	ck_assert_msg(fd >= 0, "%s", path);
	ck_assert_int_eq(fstat(fd, &st), 0);
	buf = malloc(st.st_size);
	ck_assert_int_eq(read(fd, buf, st.st_size), st.st_size);
	close(fd);
	*size = st.st_size;
	return buf;
}

__attribute__((unused)) static void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *fmt, ...)
{
	char command[8192];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	ck_assert_msg(system(command) == 0, "%s", command);
}

/* A victim that has said "ready", and what it said before. */
struct victim {
	pid_t pid;
	int in;
	char said[4096];
};

__attribute__((unused)) static void victim_start(struct victim *v, const char *path, const char *arg)
{
	int in[2], out[2];
	size_t n = 0;
	ssize_t r;

	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	v->pid = fork();
	if (!v->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(in[0], 0);
		dup2(out[1], 1);
		execl(path, path, arg, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	while (n < sizeof(v->said) - 1 && (r = read(out[0], v->said + n, sizeof(v->said) - 1 - n)) > 0) {
		n += r;
		v->said[n] = '\0';
		if (strstr(v->said, "ready\n"))
			break;
	}
	v->said[n] = '\0';
	ck_assert_msg(strstr(v->said, "ready\n"), "%s said '%s'", path, v->said);
	close(out[0]);
	v->in = in[1];
}

__attribute__((unused)) static void victim_stop(struct victim *v)
{
	close(v->in);
	waitpid(v->pid, NULL, 0);
}

/* The address that the victim printed for NAME. */
__attribute__((unused)) static addr_t victim_addr(const struct victim *v, const char *name)
{
	const char *p = v->said;
	size_t len = strlen(name);

	while (p) {
		if (!strncmp(p, name, len) && p[len] == ' ')
			return strtoull(p + len + 1, NULL, 16);
		p = strchr(p, '\n');
		p = p ? p + 1 : NULL;
	}
	ck_abort_msg("the victim did not print %s", name);
	return 0;
}
