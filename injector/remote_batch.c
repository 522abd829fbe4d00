/* SPDX-License-Identifier: MIT */
/*
 * The thread is sent into the routine with all signals blocked, the way back
 * into its own life already on its stack (remote_call.c). The routine makes the
 * calls, says so, and turns round in a bounded loop until it is interrupted:
 *
 *	tracer    SETREGS, CONT ········ reads `done` ··· INTERRUPT, event stop
 *	thread    call, call, call, done = 1, waits …
 *
 * The tracer sleeps between two looks at `done`: awake, it might keep the thread
 * from the CPU that they share, and every look holds the lock that mmap needs.
 *
 * If the tracer dies, the thread makes the remaining calls, waits to the end of
 * its bound and returns into rt_sigreturn: as with single calls, every prefix
 * heals itself, and descriptors that the calls opened are closed by them.
 */
#include "injector/remote_batch.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "injector/remote_mem.h"

/* Cycles that the routine waits for its tracer: a tenth of a second or so. */
#define WAIT_CYCLES 300000000ull
#define NAP_NS 20000

/* In the scratch area, behind REMOTE_BATCH_KEEP. */
struct control {
	u64 done;
	u64 pad[7];
	struct remote_op ops[REMOTE_BATCH_MAX];
};
_Static_assert(REMOTE_BATCH_KEEP + sizeof(struct control) <= REMOTE_SCRATCH, "room for a batch");

extern const u8 remote_batch_after_syscall[];
#define AFTER_SYSCALL ((addr_t)(remote_batch_after_syscall - remote_batch_code))

/* rbx control, r12 operation, r13d how many, r14 cycles to wait. */
asm(".pushsection .rodata.remote_batch, \"a\", @progbits\n"
    ".globl remote_batch_code, remote_batch_code_end, remote_batch_after_syscall\n"
    ".hidden remote_batch_code, remote_batch_code_end, remote_batch_after_syscall\n"
    "remote_batch_code:\n"
    "	mov	(%r12), %rax\n"
    "	mov	8(%r12), %rdi\n"
    "	mov	16(%r12), %rsi\n"
    "	mov	24(%r12), %rdx\n"
    "	mov	32(%r12), %r10\n"
    "	mov	40(%r12), %r8\n"
    "	mov	48(%r12), %r9\n"
    "	syscall\n"
    "remote_batch_after_syscall:\n"
    "	mov	%rax, 56(%r12)\n"
    "	cmp	$-4095, %rax\n"
    "	jae	2f\n"
    "	add	$64, %r12\n"
    "	dec	%r13d\n"
    "	jnz	remote_batch_code\n"
    "2:	movq	$1, (%rbx)\n"
    "	rdtsc\n"
    "	shl	$32, %rdx\n"
    "	or	%rdx, %rax\n"
    "	add	%rax, %r14\n"
    "1:	pause\n"
    "	rdtsc\n"
    "	shl	$32, %rdx\n"
    "	or	%rdx, %rax\n"
    "	cmp	%r14, %rax\n"
    "	jb	1b\n"
    "	ret\n" /* into rt_sigreturn */
    "remote_batch_code_end:\n"
    ".popsection\n");

#define NOT_MADE INT64_MIN

static struct uerr *one_by_one(struct remote *r, struct remote_op *ops, size_t n, size_t *done)
{
	struct uerr *err = NULL;

	*done = 0;
	while (*done < n && !err) {
		struct remote_op *op = &ops[*done];

		err = remote_call(r, (long)op->nr, op->args, &op->ret);
		if (!err)
			++*done;
		if (!err && remote_failed(op->ret))
			break;
	}
	return err;
}

static bool is_intact(struct remote *r, addr_t code)
{
	u8 now[256];
	size_t n = remote_batch_code_size();

	return code && n <= sizeof(now) && !remote_read(r->t, code, now, n) && !memcmp(now, remote_batch_code, n);
}

/* A while, or until the end of EOF_FD: true. */
static bool await_eof(int eof_fd)
{
	struct timespec ts = { 0, NAP_NS };
	struct pollfd p = { eof_fd, POLLIN, 0 };

	if (eof_fd >= 0)
		return poll(&p, 1, 1) > 0;
	nanosleep(&ts, NULL);
	return false;
}

/* Until the routine has said that it is done, or has closed what only its last
 * call closes. Stops on the way (signals that
 * cannot be blocked, job control) are passed by. */
static bool await_done(struct remote *r, addr_t flag, int eof_fd)
{
	u64 done = 0;
	int status;

	for (;;) {
		pid_t got;

		if (await_eof(eof_fd))
			return true;
		if (remote_read(r->t, flag, &done, sizeof(done)))
			done = 0;
		if (done)
			return true;
		got = waitpid(r->th->tid, &status, __WALL | WNOHANG);
		if (got == r->th->tid && WIFSTOPPED(status)) {
			int sig = status >> 16 ? 0 : WSTOPSIG(status);

			if (ptrace(PTRACE_CONT, r->th->tid, 0, sig))
				return false;
		} else if (got) {
			errno = ESRCH;
			return false;
		}
		if (now_ns() > r->t->deadline_ns) {
			errno = ETIMEDOUT;
			return false;
		}
	}
}

static struct uerr *lost(struct remote *r)
{
	bool late = errno == ETIMEDOUT;

	r->active = false;
	r->th->stopped = false;
	if (late) /* it is on its way and comes back by itself */
		return uerr_new(UERR_FAILED, "process %d (%s): system calls in thread %d hang", r->t->pid, r->t->comm,
				r->th->tid);
	r->th->gone = true;
	return uerr_new(UERR_NO_TARGET, "process %d (%s): thread %d is gone", r->t->pid, r->t->comm, r->th->tid);
}

static struct uerr *run_batch(struct remote *r, addr_t code, struct remote_op *ops, size_t n, int eof_fd)
{
	addr_t at = r->scratch + REMOTE_BATCH_KEEP;
	addr_t ops_at = at + offsetof(struct control, ops);
	struct user_regs_struct regs = r->saved;
	struct uerr *err;
	u64 zero = 0;

	for (size_t i = 0; i < n; i++)
		ops[i].ret = NOT_MADE;
	if (remote_write(r->t, at, &zero, sizeof(zero)) || remote_write(r->t, ops_at, ops, n * sizeof(*ops)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot write to its stack", r->t->pid, r->t->comm);
	regs.rbx = at;
	regs.r12 = ops_at;
	regs.r13 = n;
	regs.r14 = WAIT_CYCLES;
	err = remote_go(r, code, &regs);
	if (err)
		return err;
	tracee_set_deadline(r->t, r->t->timeout_ms);
	if (ptrace(PTRACE_CONT, r->th->tid, 0, 0) || !await_done(r, at, eof_fd) || !remote_halt(r))
		return lost(r);
	if (ptrace(PTRACE_GETREGS, r->th->tid, 0, &regs))
		return lost(r);
	if (regs.rip - code >= remote_batch_code_size()) {
		/* We slept too long; it has returned, and its stack is its own. */
		r->active = false;
		r->th->regs = regs;
		return uerr_new(UERR_FAILED, "process %d (%s): thread %d did not wait for us", r->t->pid, r->t->comm,
				r->th->tid);
	}
	if (remote_read(r->t, ops_at, ops, n * sizeof(*ops)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot read its stack", r->t->pid, r->t->comm);
	/* Halted between the close that we saw the end of and the store. */
	if (eof_fd >= 0 && regs.rip == code + AFTER_SYSCALL)
		ops[n - 1].ret = 0;
	return NULL;
}

static size_t count_made(const struct remote_op *ops, size_t n)
{
	size_t i = 0;

	while (i < n && ops[i].ret != NOT_MADE)
		i++;
	return i;
}

struct uerr *remote_batch(struct remote *r, addr_t code, struct remote_op *ops, size_t n, int eof_fd, size_t *done)
{
	struct uerr *err = NULL;
	size_t k, made;

	*done = 0;
	if (n < 2 || !is_intact(r, code))
		return one_by_one(r, ops, n, done);
	while (*done < n && !err) {
		k = n - *done < REMOTE_BATCH_MAX ? n - *done : REMOTE_BATCH_MAX;
		err = run_batch(r, code, ops + *done, k, *done + k == n ? eof_fd : -1);
		if (err)
			break;
		made = count_made(ops + *done, k);
		*done += made;
		if (!made || remote_failed(ops[*done - 1].ret))
			break;
	}
	return err;
}

struct uerr *remote_batch_all(struct remote *r, addr_t code, struct remote_op *ops, size_t n, int eof_fd)
{
	struct uerr *err = NULL;

	for (size_t i = 0, done; i < n && !err; i += done) {
		err = remote_batch(r, code, ops + i, n - i, eof_fd, &done);
		if (!done)
			break;
	}
	return err;
}
