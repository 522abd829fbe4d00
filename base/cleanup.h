/* SPDX-License-Identifier: MIT */
/*
 * Scope attributes: what a function opened is released on every way out, and a
 * "steal" hands it over. Declare as `cleanup_free char *s = NULL;`, always with
 * an initial value.
 */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "uerr.h"

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_fclosep(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void cleanup_uerrp(struct uerr **err)
{
	uerr_free(*err);
}

#define cleanup(fn) __attribute__((cleanup(fn)))
#define cleanup_free cleanup(cleanup_freep)
#define cleanup_close cleanup(cleanup_closep)
#define cleanup_fclose cleanup(cleanup_fclosep)
#define cleanup_uerr cleanup(cleanup_uerrp)

/* Takes the pointer out of VAR, so that its scope no longer frees it. */
#define steal_ptr(var)                     \
	({                                 \
		__typeof__(var) _p = (var); \
		(var) = NULL;              \
		_p;                        \
	})

static inline int steal_fd(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}
