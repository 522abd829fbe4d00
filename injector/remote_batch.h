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

#define REMOTE_OP(nr, ...) ((struct remote_op){ (nr), { __VA_ARGS__ }, 0 })

/* For the routine alone, or'ed into nr: the first or the fifth argument is the
 * int at this offset of the scratch area, where an earlier call has put it; the
 * call is made again as long as it returns -EAGAIN, for a tenth of a second; when
 * it fails, none of the others is made. */
#define REMOTE_INT_1ST(offset) ((u64)(offset) << 32)
#define REMOTE_INT_5TH(offset) ((u64)(offset) << 48)
#define REMOTE_RETRY           (1ull << 47)
#define REMOTE_OR_END          (1ull << 63)

#define REMOTE_BATCH_MAX 88u /* operations that fit behind REMOTE_BATCH_KEEP; more go in turns */
#define REMOTE_BATCH_KEEP 2048u /* bytes of the scratch area that stay the caller's */

/* Makes the calls OPS[n] in order and stores what each returned, failed or not.
 * CODE is where the routine lies in the target, or 0: then one by one. EOF_FD, or
 * -1, is a socket of ours that the last of them brings to its end: its word that
 * it is done. An error means that the thread is gone or got away. */
struct uerr *remote_batch(struct remote *r, addr_t code, struct remote_op *ops, size_t n, int eof_fd) UERR_MUST_CHECK;

/* The same in parts, of up to REMOTE_BATCH_MAX, for a caller who has something to
 * do meanwhile: is the routine there, begin, wait for what call I returns (false:
 * it does not come to it), the end. If we die, the thread makes all calls. */
bool remote_batch_possible(struct remote *r, addr_t code);
struct uerr *remote_batch_start(struct remote *r, addr_t code, struct remote_op *ops, size_t n) UERR_MUST_CHECK;
bool remote_batch_await(struct remote *r, size_t i, s64 *ret);
/* Call I, which is made again and again, is given up: what it waits for will not
 * come. */
void remote_batch_give_up(struct remote *r, size_t i);
struct uerr *remote_batch_finish(struct remote *r, addr_t code, struct remote_op *ops, size_t n,
				 int eof_fd) UERR_MUST_CHECK;

static inline bool remote_failed(s64 ret)
{
	return ret < 0 && ret > -4096;
}
