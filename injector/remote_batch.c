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

#include "injector/arch_x86_64.h"
#include "injector/remote_mem.h"

/* Cycles that the routine waits for its tracer: a tenth of a second or so. */
#define WAIT_CYCLES 300000000ull
#define NAP_NS 20000
#define NOT_MADE INT64_MIN

/* In the scratch area, behind REMOTE_BATCH_KEEP. */
struct control {
	u64 done;
	u64 pad[7];
	struct remote_op ops[REMOTE_BATCH_MAX];
};
_Static_assert(REMOTE_BATCH_KEEP + sizeof(struct control) <= REMOTE_SCRATCH, "room for a batch");

extern const u8 remote_batch_after_syscall[], remote_batch_store[];
#define AFTER_SYSCALL ((addr_t)(remote_batch_after_syscall - remote_batch_code))
#define STORE         ((addr_t)(remote_batch_store - remote_batch_code))

/* rbp scratch area, rbx control, r12 operation, r13d how many, r15 cycles to wait.
 * r14: until when. */
asm(".pushsection .rodata.remote_batch, \"a\", @progbits\n"
    ".globl remote_batch_code, remote_batch_code_end, remote_batch_after_syscall, remote_batch_store\n"
    ".hidden remote_batch_code, remote_batch_code_end, remote_batch_after_syscall, remote_batch_store\n"
    ".macro now_in_rax\n"
    "	rdtsc\n"
    "	shl	$32, %rdx\n"
    "	or	%rdx, %rax\n"
    ".endm\n"
    "remote_batch_code:\n"
    "	now_in_rax\n"
    "	lea	(%rax, %r15), %r14\n"
    "1:	mov	8(%r12), %rdi\n"
    "	mov	16(%r12), %rsi\n"
    "	mov	24(%r12), %rdx\n"
    "	mov	32(%r12), %r10\n"
    "	mov	40(%r12), %r8\n"
    "	mov	48(%r12), %r9\n"
    "	movzwl	4(%r12), %ecx\n"
    "	and	$0x7fff, %ecx\n"
    "	jz	2f\n"
    "	movslq	(%rbp, %rcx), %rdi\n"
    "2:	movzwl	6(%r12), %ecx\n"
    "	and	$0x7fff, %ecx\n"
    "	jz	3f\n"
    "	movslq	(%rbp, %rcx), %r8\n"
    "3:	mov	(%r12), %eax\n"
    "	syscall\n"
    "remote_batch_after_syscall:\n"
    "	cmp	$-11, %rax\n" /* EAGAIN */
    "	jne	remote_batch_store\n"
    "	testb	$0x80, 5(%r12)\n" /* REMOTE_RETRY */
    "	jz	remote_batch_store\n"
    "	pause\n"
    "	now_in_rax\n"
    "	cmp	%r14, %rax\n"
    "	jb	1b\n"
    "	mov	$-11, %rax\n"
    "remote_batch_store:\n"
    "	mov	%rax, 56(%r12)\n"
    "	test	%rax, %rax\n"
    "	jns	4f\n"
    "	testb	$0x80, 7(%r12)\n" /* REMOTE_OR_END */
    "	jnz	5f\n"
    "4:	add	$64, %r12\n"
    "	dec	%r13d\n"
    "	jnz	1b\n"
    "5:	movq	$1, (%rbx)\n"
    "	now_in_rax\n"
    "	lea	(%rax, %r15), %r14\n"
    "6:	pause\n"
    "	now_in_rax\n"
    "	cmp	%r14, %rax\n"
    "	jb	6b\n"
    "	ret\n" /* into rt_sigreturn */
    "remote_batch_code_end:\n"
    ".popsection\n");

bool remote_batch_possible(struct remote *r, addr_t code)
{
	u8 now[256];
	size_t n = remote_batch_code_size();

	return code && n <= sizeof(now) && !remote_read(r->t, code, now, n) && !memcmp(now, remote_batch_code, n);
}

/* A while, or until the end of EOF_FD: true. */
static bool await_eof(struct tracee *t, int eof_fd)
{
	u64 until = t->polls ? now_ns() + TRACEE_POLL_NS : 0;
	struct timespec ts = { 0, NAP_NS };
	struct pollfd p = { eof_fd, POLLIN, 0 };

	if (eof_fd < 0) {
		nanosleep(&ts, NULL);
		return false;
	}
	while (t->polls) { /* as tracee_wait() does */
		if (poll(&p, 1, 0) > 0)
			return true;
		t->polls = now_ns() < until;
	}
	return poll(&p, 1, 1) > 0;
}

/* Stops on the way (signals that cannot be blocked, job control) are passed by;
 * false with errno when the thread is gone, or the time is over. */
static bool goes_on(struct remote *r)
{
	int status;
	pid_t got = waitpid(r->th->tid, &status, __WALL | WNOHANG);

	if (got == r->th->tid && WIFSTOPPED(status)) {
		if (ptrace(PTRACE_CONT, r->th->tid, 0, status >> 16 ? 0 : WSTOPSIG(status)))
			return false;
	} else if (got) {
		errno = ESRCH;
		return false;
	}
	if (now_ns() > r->t->deadline_ns) {
		errno = ETIMEDOUT;
		return false;
	}
	return true;
}

/* Until the routine has said that it is done, or has closed what only its last
 * call closes. */
static bool await_done(struct remote *r, addr_t flag, int eof_fd)
{
	u64 done = 0;

	do {
		if (await_eof(r->t, eof_fd))
			return true;
		if (remote_read(r->t, flag, &done, sizeof(done)))
			done = 0;
		if (done)
			return true;
	} while (goes_on(r));
	return false;
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

/* ------------------------------------------------------------ in parts */

static addr_t control(const struct remote *r)
{
	return r->scratch + REMOTE_BATCH_KEEP;
}

static addr_t op_addr(const struct remote *r, size_t i)
{
	return control(r) + offsetof(struct control, ops) + i * sizeof(struct remote_op);
}

struct uerr *remote_batch_start(struct remote *r, addr_t code, struct remote_op *ops, size_t n)
{
	struct user_regs_struct regs = r->saved;
	struct uerr *err;
	u64 zero = 0;

	for (size_t i = 0; i < n; i++)
		ops[i].ret = NOT_MADE;
	if (remote_write(r->t, control(r), &zero, sizeof(zero)) ||
	    remote_write(r->t, op_addr(r, 0), ops, n * sizeof(*ops)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot write to its stack", r->t->pid, r->t->comm);
	regs.rbp = r->scratch;
	regs.rbx = control(r);
	regs.r12 = op_addr(r, 0);
	regs.r13 = n;
	regs.r15 = WAIT_CYCLES;
	err = remote_go(r, code, &regs);
	if (err)
		return err;
	tracee_set_deadline(r->t, r->t->timeout_ms);
	return ptrace(PTRACE_CONT, r->th->tid, 0, 0) ? lost(r) : NULL;
}

bool remote_batch_await(struct remote *r, size_t i, s64 *ret)
{
	addr_t at = op_addr(r, i) + offsetof(struct remote_op, ret);
	u64 until = now_ns() + TRACEE_POLL_NS;
	struct timespec ts = { 0, NAP_NS };

	do {
		if (!remote_read(r->t, at, ret, sizeof(*ret)) && *ret != NOT_MADE)
			return true;
		if (!r->t->polls)
			nanosleep(&ts, NULL);
		r->t->polls = r->t->polls && now_ns() < until;
	} while (goes_on(r));
	return false;
}

/* One byte, which the routine looks at in each turn. */
void remote_batch_give_up(struct remote *r, size_t i)
{
	addr_t at = op_addr(r, i) + 5;
	u8 byte;

	if (!remote_read(r->t, at, &byte, 1)) {
		byte &= 0x7f; /* REMOTE_RETRY */
		(void)!remote_write(r->t, at, &byte, 1);
	}
}

struct uerr *remote_batch_finish(struct remote *r, addr_t code, struct remote_op *ops, size_t n, int eof_fd)
{
	struct user_regs_struct regs;

	if (!await_done(r, control(r), eof_fd) || !remote_halt(r) || ptrace(PTRACE_GETREGS, r->th->tid, 0, &regs))
		return lost(r);
	if (regs.rip - code >= remote_batch_code_size()) {
		/* We slept too long; it has returned, and its stack is its own. */
		r->active = false;
		r->th->regs = regs;
		arch_cure_eintr(r->th);
		return uerr_new(UERR_FAILED, "process %d (%s): thread %d did not wait for us", r->t->pid, r->t->comm,
				r->th->tid);
	}
	if (remote_read(r->t, op_addr(r, 0), ops, n * sizeof(*ops)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot read its stack", r->t->pid, r->t->comm);
	/* Halted between the close that we saw the end of and the store. */
	if (eof_fd >= 0 && regs.r13 == 1 && regs.rip >= code + AFTER_SYSCALL && regs.rip <= code + STORE)
		ops[n - 1].ret = (s64)regs.rax;
	return NULL;
}

/* ------------------------------------------------------------ together */

static struct uerr *one_by_one(struct remote *r, struct remote_op *ops, size_t n)
{
	struct uerr *err = NULL;

	for (size_t i = 0; i < n && !err; i++)
		err = remote_call(r, (long)ops[i].nr, ops[i].args, &ops[i].ret);
	return err;
}

struct uerr *remote_batch(struct remote *r, addr_t code, struct remote_op *ops, size_t n, int eof_fd)
{
	struct uerr *err = NULL;
	size_t k;

	if (n < 2 || !remote_batch_possible(r, code))
		return one_by_one(r, ops, n);
	for (size_t i = 0; i < n && !err; i += k) {
		k = n - i < REMOTE_BATCH_MAX ? n - i : REMOTE_BATCH_MAX;
		err = remote_batch_start(r, code, ops + i, k);
		if (!err)
			err = remote_batch_finish(r, code, ops + i, k, i + k == n ? eof_fd : -1);
	}
	return err;
}
