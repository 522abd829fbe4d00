/* SPDX-License-Identifier: MIT */
/*
 * Many remote system calls for the price of one. A remote call costs two stops,
 * and each wakes two processes; where code of ours lies in the target already, a
 * routine there makes all of them, and the thread stops once.
 */
#pragma once
#include "injector/remote_call.h"

/* The routine, position independent: its bytes go into an R-X arena. */
extern const u8 remote_batch_code[], remote_batch_code_end[];
static inline size_t remote_batch_code_size(void)
{
	return (size_t)(remote_batch_code_end - remote_batch_code);
}

/* One call, as the routine reads it. */
struct remote_op {
	u64 nr, args[6];
	s64 ret;
};
_Static_assert(sizeof(struct remote_op) == 64, "the routine steps by 64");

#define REMOTE_BATCH_MAX 88u /* operations that fit behind REMOTE_BATCH_KEEP; more go in turns */

/* Makes the calls OPS[n] in order, up to the first that fails, and stores what
 * each returned; *done is how many were made. CODE is where the routine lies in
 * the target, or 0: then one by one. EOF_FD, or -1, is a socket of ours that the
 * last of them brings to its end: its word that it is done. The first
 * REMOTE_BATCH_KEEP bytes of the scratch area stay as they are. An error means
 * that the thread is gone or got away. */
#define REMOTE_BATCH_KEEP 2048u
struct uerr *remote_batch(struct remote *r, addr_t code, struct remote_op *ops, size_t n, int eof_fd,
			  size_t *done) UERR_MUST_CHECK;

/* All of them, whatever each returns. */
struct uerr *remote_batch_all(struct remote *r, addr_t code, struct remote_op *ops, size_t n,
			      int eof_fd) UERR_MUST_CHECK;

static inline bool remote_failed(s64 ret)
{
	return ret < 0 && ret > -4096;
}

#define REMOTE_OP(nr, ...) ((struct remote_op){ (nr), { __VA_ARGS__ }, 0 })
