/* SPDX-License-Identifier: MIT */
/*
 * Remote system calls that restore themselves.
 *
 * If the tracer saved the registers and put them back afterwards, its death in
 * between would leave the target running on with registers of ours. So before
 * any register is changed, the way back is written below the thread's red zone,
 * as the frame of a signal handler that is about to return:
 *
 *	 rsp at the stop ─▶ ┌───────────────────────────┐
 *	                    │ red zone, 128 bytes       │
 *	                    ├───────────────────────────┤
 *	                    │ scratch for arguments     │
 *	                    ├───────────────────────────┤
 *	                    │ xsave area (FPU, vectors) │
 *	                    ├───────────────────────────┤
 *	                    │ ucontext: registers, mask │
 *	                    │ address of rt_sigreturn ──┼─▶ mov $15,%eax; syscall
 *	 rsp in the call ─▶ └───────────────────────────┘
 *	 rbp (for a leave): 8 below
 *	 rip in the call ─▶ vdso: syscall; xor …; ret
 *
 * Then SETREGS, which is atomic, and only then the signal mask (all blocked but
 * SIGTRAP, so that no handler runs in the middle). Whenever the tracer dies,
 * the thread makes the call or not, returns into rt_sigreturn, and that puts
 * back registers, vector state and mask. On the way out the order is reversed:
 * first the mask, then the registers; were it the other way round, a death in
 * between would leave the thread at its own instruction with all signals
 * blocked for good. (A death between the two on the way in leaves a call that
 * signals interrupt; their frames grow downwards from rsp, and what the call
 * needs lies above. A mask that is still seen blocked some milliseconds after
 * a kill is that of a thread which has not run since: it waits for a CPU.)
 *
 * rt_sigreturn also sets the alternate signal stack, which a tracer cannot
 * read. The frame names a mode that does not exist: sigaltstack's EINVAL is
 * ignored there (kernel/signal.c, restore_altstack) and the stack stays.
 *
 * The rt_sigreturn stub must be there beforehand: a page of ours with one in it
 * would have to be mapped by a remote call. libc has it as __restore_rt (every
 * sigaction() needs it), Go has its own; all executable mappings are searched,
 * those of libc first. A static program that handles no signals may be without;
 * then a `pop %rax; ret` does, with the number and the address of a system call
 * instruction on the stack.
 */
#include "remote_call.h"

#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <linux/audit.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "injector/arch_x86_64.h"
#include "injector/remote_mem.h"

#define RED_ZONE 128
#define XSTATE_MAX 16384
#define UC_FLAGS 7 /* UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */
#define XFEATURE_AMX (3ull << 17)
#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#define GET_SYSCALL_USER_DISPATCH 0x4211

/* Where a call returns to; the second and third word are for a stub that pops. */
struct way_back {
	u64 stub, nr, syscall;
};

/* What the kernel reads in rt_sigreturn(2). */
struct sigframe {
	u64 uc_flags;
	u64 uc_link;
	u64 ss_sp;
	u32 ss_flags, pad;
	u64 ss_size;
	u64 r8, r9, r10, r11, r12, r13, r14, r15;
	u64 di, si, bp, bx, dx, ax, cx, sp, ip, flags;
	u16 cs, gs, fs, ss;
	u64 err, trapno, oldmask, cr2;
	u64 fpstate;
	u64 reserved[8];
	u64 sigmask;
	u64 pad2[16];
};
_Static_assert(offsetof(struct sigframe, r8) == 40, "struct sigcontext");
_Static_assert(offsetof(struct sigframe, sigmask) == 40 + 256, "ucontext");

/* --------------------------------------------------------------- gadgets */

/* Bytes after a syscall instruction: register clearing, perhaps a leave, then
 * ret. Length through the ret, or 0. */
static size_t tail_is_harmless(const u8 *p, size_t n, bool *leave)
{
	size_t i = 0;

	*leave = false;
	while (i < n) {
		/* xor r32,r32 with another destination than eax, esp */
		size_t rex = p[i] == 0x45 ? 1 : 0;

		if (p[i] == 0xc3)
			return i + 1;
		if (p[i] == 0xc9 && !*leave) {
			*leave = true;
			i++;
			continue;
		}
		if (i + rex + 1 >= n || p[i + rex] != 0x31 || p[i + rex + 1] < 0xc0)
			return 0;
		if (!rex && ((p[i + 1] & 7) == 0 || (p[i + 1] & 7) == 4))
			return 0;
		i += rex + 2;
	}
	return 0;
}

static bool find_syscall(const u8 *p, size_t n, addr_t base, struct gadgets *g)
{
	const u8 *at = p;

	while ((at = memmem(at, p + n - at, "\x0f\x05", 2))) {
		size_t room = p + n - at;
		bool leave;

		if (room >= sizeof(g->bytes) && tail_is_harmless(at + 2, sizeof(g->bytes) - 2, &leave)) {
			g->syscall = base + (at - p);
			g->leave = leave;
			memcpy(g->bytes, at, sizeof(g->bytes));
			return true;
		}
		at++;
	}
	return false;
}

static bool find_sigreturn(const u8 *p, size_t n, addr_t base, struct gadgets *g)
{
	static const u8 long_form[] = { 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05 };
	static const u8 short_form[] = { 0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05 };
	const u8 *at = memmem(p, n, long_form, sizeof(long_form));

	if (!at)
		at = memmem(p, n, short_form, sizeof(short_form));
	if (!at || p + n - at < (ptrdiff_t)sizeof(g->ret_bytes))
		return false;
	g->sigreturn = base + (at - p);
	g->pops = false;
	g->nret_bytes = sizeof(g->ret_bytes);
	memcpy(g->ret_bytes, at, g->nret_bytes);
	return true;
}

static bool find_pop(const u8 *p, size_t n, addr_t base, struct gadgets *g)
{
	static const u8 pop_ret[] = { 0x58, 0xc3 };
	const u8 *at = memmem(p, n, pop_ret, sizeof(pop_ret));

	if (!at)
		return false;
	g->sigreturn = base + (at - p);
	g->pops = true;
	g->nret_bytes = sizeof(pop_ret);
	memcpy(g->ret_bytes, at, g->nret_bytes);
	return true;
}

/* Searches mapping M piece by piece (programs of 100 MiB exist). */
static void search_map(struct tracee *t, const struct target_map *m, u8 *buf, size_t cap, struct gadgets *g)
{
	const size_t overlap = 32;

	for (addr_t at = m->lo; at < m->hi && !(g->syscall && g->sigreturn && !g->pops); at += cap - overlap) {
		size_t want = m->hi - at < cap ? m->hi - at : cap;
		size_t n = remote_read_some(t, at, buf, want);

		if (!g->syscall)
			find_syscall(buf, n, at, g);
		if ((!g->sigreturn || g->pops) && !find_sigreturn(buf, n, at, g) && !g->sigreturn)
			find_pop(buf, n, at, g);
		if (n < want)
			break;
	}
}

struct uerr *gadgets_find(struct tracee *t, const struct target_maps *maps, struct gadgets *ret)
{
	const size_t cap = 1 << 20;
	cleanup_free u8 *buf = malloc(cap);
	struct gadgets g = {};

	if (!buf)
		return uerr_nomem();
	/* The vdso can be neither patched by us nor unmapped by its owner. */
	for (int pass = 0; pass < 3; pass++)
		for (size_t i = 0; i < maps->v.n; i++) {
			const struct target_map *m = &maps->v.data[i];
			int rank = m->vdso ? 0 : m->libc ? 1 : 2;

			if (m->x && m->r && !m->special && !m->dead && !m->ours && rank == pass)
				search_map(t, m, buf, cap, &g);
		}
	if (!g.syscall)
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) has no usable system call instruction", t->pid,
				t->comm);
	if (!g.sigreturn)
		return uerr_new(UERR_CANNOT_PROBE,
				"process %d (%s) has no way to rt_sigreturn (no libc's stub, no pop %%rax; ret)", t->pid,
				t->comm);
	*ret = g;
	return NULL;
}

static bool gadgets_intact(struct tracee *t, const struct gadgets *g)
{
	u8 now[sizeof(g->bytes)];

	return !remote_read(t, g->syscall, now, sizeof(g->bytes)) && !memcmp(now, g->bytes, sizeof(g->bytes)) &&
	       !remote_read(t, g->sigreturn, now, g->nret_bytes) && !memcmp(now, g->ret_bytes, g->nret_bytes);
}

/* -------------------------------------------------------------- fitness */

/* In a restartable sequence? Leaving it and coming back would resume it in the
 * middle, while the kernel believes that it was left. */
static bool in_rseq(struct tracee *t, const struct thread *th)
{
	struct {
		u64 ptr;
		u32 size, sig, flags, pad;
	} conf = {};
	u64 cs, desc[4];

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, th->tid, sizeof(conf), &conf) <= 0 || !conf.ptr)
		return false;
	if (remote_read(t, conf.ptr + 8, &cs, sizeof(cs)) || !cs)
		return false;
	if (remote_read(t, cs, desc, sizeof(desc)))
		return true;
	return th->regs.rip - desc[1] < desc[2]; /* start_ip, post_commit_offset */
}

static bool dispatches_syscalls(const struct thread *th)
{
	struct {
		u64 mode, selector, offset, len;
	} conf = {};

	return !ptrace(GET_SYSCALL_USER_DISPATCH, th->tid, sizeof(conf), &conf) && conf.mode;
}

#define FRAME_ROOM (RED_ZONE + XSTATE_MAX + sizeof(struct sigframe) + sizeof(struct way_back) + 256 + REMOTE_SCRATCH)

/* The word below fs_base, or r14 in Go's own code, points to its g, which begins
 * with the bounds of its stack. */
bool remote_go_stack(struct tracee *t, const struct thread *th, u64 bounds[2])
{
	u64 g[2] = { 0, th->regs.r14 };

	if (remote_read(t, th->regs.fs_base - 8, &g[0], sizeof(g[0])))
		g[0] = 0;
	for (size_t i = 0; i < ARRAY_SIZE(g); i++)
		if (g[i] && !remote_read(t, g[i], bounds, 2 * sizeof(*bounds)) && bounds[0] < bounds[1] &&
		    bounds[1] - bounds[0] <= (1ull << 30) && th->regs.rsp > bounds[0] && th->regs.rsp <= bounds[1])
			return true;
	return false;
}

/* A libc's descriptor of a thread begins with its own address. */
static bool has_libc(struct tracee *t, const struct thread *th)
{
	u64 self;

	return !remote_read(t, th->regs.fs_base, &self, sizeof(self)) && self == th->regs.fs_base;
}

static bool on_thread_stack(struct tracee *t, const struct target_map *m, const struct thread *th)
{
	return th->regs.fs_base >= th->regs.rsp && th->regs.fs_base < m->hi && has_libc(t, th);
}

#define GO_MAIN_STACK (64u << 10)
#define STAT_STARTSTACK 28

/* Go has its threads on stacks of a few KiB, with others' below them. But of the
 * stack that the kernel gave to the program, it takes 64 KiB and never more
 * (rt0_go), of at least 128: what lies below is nobody's. */
static bool find_spare(struct tracee *t, const struct target_maps *maps)
{
	u64 start;

	if (!proc_stat_field(t->pid, STAT_STARTSTACK, &start))
		return false;
	vec_foreach(m, &maps->v)
		if (m->stack && start > m->lo && start < m->hi && start - m->lo >= GO_MAIN_STACK + FRAME_ROOM)
			t->spare_top = start - GO_MAIN_STACK;
	return t->spare_top;
}

const char *remote_unfit(struct tracee *t, const struct target_maps *maps, const struct thread *th, bool strict)
{
	const struct target_map *m = target_maps_find(maps, th->regs.rsp);

	if (!th->stopped)
		return "does not stop";
	if (th->regs.cs != 0x33)
		return "runs 32-bit code";
	t->spare_top = 0;
	if (t->is_go && !has_libc(t, th))
		return find_spare(t, maps) ? NULL : "has a small stack, and there is no room beside it";
	if (!m || !m->w || th->regs.rsp - m->lo < FRAME_ROOM)
		return "has no room on its stack";
	if (t->is_go)
		strict = true;
	/* Below the stack pointer of a coroutine, a goroutine or a handler on an
	 * alternate stack may lie somebody's data: what we write there is put
	 * back, but not if we are killed. So threads on their own stack first:
	 * the main stack, or the one that has the thread's descriptor on top. */
	if (strict && !m->stack && !on_thread_stack(t, m, th))
		return "is not on its own stack";
	if (in_rseq(t, th))
		return "is in a restartable sequence";
	if (dispatches_syscalls(th))
		return "has its system calls dispatched to itself";
	/* Its handler would find other registers than those of the breakpoint. */
	if (thread_has_trap(th))
		return "has met a breakpoint";
	return NULL;
}

/* ------------------------------------------------------------ the frame */

static void fill_frame(struct sigframe *f, const struct user_regs_struct *r, u64 mask, addr_t fpstate)
{
	*f = (struct sigframe){
		.uc_flags = UC_FLAGS,
		.ss_flags = 3, /* no such mode, see above */
		.r8 = r->r8, .r9 = r->r9, .r10 = r->r10, .r11 = r->r11, .r12 = r->r12, .r13 = r->r13,
		.r14 = r->r14, .r15 = r->r15, .di = r->rdi, .si = r->rsi, .bp = r->rbp, .bx = r->rbx,
		.dx = r->rdx, .ax = r->rax, .cx = r->rcx, .sp = r->rsp, .ip = r->rip, .flags = r->eflags,
		.cs = (u16)r->cs, .ss = (u16)r->ss, .oldmask = mask, .fpstate = fpstate, .sigmask = mask,
	};
}

/* Turns the xsave image XS of *LEN bytes into what a signal frame holds. AMX
 * tiles are in ptrace's image but in no frame of a thread that never asked for
 * them, and a frame that is too large would be restored without its AVX part. */
static void finish_xstate(u8 *xs, size_t *len)
{
	u64 features, in_use;
	u32 words[12] = {}, a, b, c, d, magic2 = FP_XSTATE_MAGIC2;

	memcpy(&features, xs + 464, sizeof(features));
	memcpy(&in_use, xs + 512, sizeof(in_use));
	if ((features & XFEATURE_AMX) && !(in_use & XFEATURE_AMX)) {
		__cpuid_count(0xd, 17, a, b, c, d);
		if (b >= 576 && b < *len)
			*len = b;
		features &= ~XFEATURE_AMX;
	}
	words[0] = FP_XSTATE_MAGIC1;
	words[1] = (u32)*len + 4;
	memcpy(&words[2], &features, sizeof(features));
	words[4] = (u32)*len;
	memcpy(xs + 464, words, sizeof(words));
	memcpy(xs + *len, &magic2, sizeof(magic2));
}

static struct uerr *write_frame(struct remote *r)
{
	_Alignas(64) u8 xs[XSTATE_MAX + 4];
	struct iovec iov = { xs, XSTATE_MAX };
	struct user_regs_struct back = r->saved;
	struct tracee *t = r->t;
	struct way_back back_words = { r->g.sigreturn, SYS_rt_sigreturn, r->g.syscall };
	size_t nback = r->g.pops ? sizeof(back_words) : sizeof(back_words.stub);
	struct sigframe f;
	size_t xlen;
	addr_t fpstate, context, top;

	if (ptrace(PTRACE_GETSIGMASK, r->th->tid, sizeof(r->saved_mask), &r->saved_mask) ||
	    ptrace(PTRACE_GETREGSET, r->th->tid, NT_X86_XSTATE, &iov) || iov.iov_len < 576)
		return uerr_new(UERR_FAILED, "process %d (%s): thread %d is gone, or has no vector state", t->pid,
				t->comm, r->th->tid);
	xlen = iov.iov_len;
	finish_xstate(xs, &xlen);
	top = t->spare_top ? t->spare_top : back.rsp - RED_ZONE;
	r->scratch = (top - REMOTE_SCRATCH) & ~63ull;
	fpstate = (r->scratch - xlen - 4) & ~63ull;
	/* As at a handler's entry: rsp + 8 is a multiple of 16. */
	context = (fpstate - sizeof(f)) & ~15ull;
	r->frame = context - nback;
	r->saved_len = top - r->frame;
	arch_apply_restart(&back);
	fill_frame(&f, &back, r->saved_mask, fpstate);
	r->saved_stack = malloc(r->saved_len);
	if (!r->saved_stack)
		return uerr_nomem();
	if (remote_read(t, r->frame, r->saved_stack, r->saved_len) || remote_write(t, fpstate, xs, xlen + 4) ||
	    remote_write(t, context, &f, sizeof(f)) || remote_write(t, r->frame, &back_words, nback))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot write to the stack of thread %d", t->pid,
				t->comm, r->th->tid);
	return NULL;
}

static void drop_stack(struct remote *r)
{
	free(r->saved_stack);
	r->saved_stack = NULL;
}

/* Registers first, then the mask: see above. */
struct uerr *remote_go(struct remote *r, addr_t code, struct user_regs_struct *regs)
{
	u64 blocked = ~0ull & ~(1ull << (SIGTRAP - 1));

	regs->rip = code;
	regs->rsp = r->frame;
	regs->orig_rax = (u64)-1;
	regs->eflags &= ~0x100ull; /* no single step */
	if (ptrace(PTRACE_SETREGS, r->th->tid, 0, regs))
		return uerr_new(UERR_NO_TARGET, "process %d (%s): thread %d is gone", r->t->pid, r->t->comm,
				r->th->tid);
	ptrace(PTRACE_SETSIGMASK, r->th->tid, sizeof(blocked), &blocked);
	r->halted = false;
	return NULL;
}

static struct uerr *set_call(struct remote *r, long nr, const u64 args[6])
{
	struct user_regs_struct regs = r->saved;

	if (r->g.leave)
		regs.rbp = r->frame - 8;
	regs.rax = nr;
	regs.rdi = args[0];
	regs.rsi = args[1];
	regs.rdx = args[2];
	regs.r10 = args[3];
	regs.r8 = args[4];
	regs.r9 = args[5];
	return remote_go(r, r->g.syscall, &regs);
}

struct uerr *remote_begin(struct remote *r, struct tracee *t, struct thread *th, const struct gadgets *g)
{
	struct uerr *err;

	*r = (struct remote){ .t = t, .th = th, .g = *g, .saved = th->regs };
	if (!gadgets_intact(t, g))
		return uerr_new(UERR_FAILED, "process %d (%s): its system call instruction has changed", t->pid,
				t->comm);
	err = write_frame(r);
	if (err) {
		drop_stack(r);
		return err;
	}
	r->active = true;
	return NULL;
}

/* Runs the thread to the next stop at our syscall instruction (its entry, then
 * its exit). Signals that cannot be blocked, job control and whatever a handler
 * of SIGTRAP calls are passed by. */
static bool run_to_syscall(struct remote *r, struct user_regs_struct *regs)
{
	int sig = 0, status;

	for (int i = 0; i < 1000; i++) {
		if (ptrace(PTRACE_SYSCALL, r->th->tid, 0, sig) || !tracee_wait(r->t, r->th, &status))
			return false;
		sig = 0;
		if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
			if (ptrace(PTRACE_GETREGS, r->th->tid, 0, regs))
				return false;
			if (regs->rip == r->g.syscall + 2)
				return true;
		} else if (!(status >> 16)) {
			sig = WSTOPSIG(status);
		}
	}
	errno = ETIMEDOUT;
	return false;
}

struct uerr *remote_call(struct remote *r, long nr, const u64 args[6], s64 *ret)
{
	struct user_regs_struct regs;
	struct uerr *err;

	err = set_call(r, nr, args);
	if (err)
		return err;
	tracee_set_deadline(r->t, r->t->timeout_ms);
	if (!run_to_syscall(r, &regs) || !run_to_syscall(r, &regs)) {
		if (errno == ETIMEDOUT) {
			/* It is on its way and comes back by itself. */
			r->th->stopped = false;
			r->active = false;
			return uerr_new(UERR_FAILED, "process %d (%s): system call %ld in thread %d hangs",
					r->t->pid, r->t->comm, nr, r->th->tid);
		}
		r->active = false;
		r->th->gone = true;
		r->th->stopped = false;
		return uerr_new(UERR_NO_TARGET, "process %d (%s): thread %d is gone", r->t->pid, r->t->comm,
				r->th->tid);
	}
	*ret = (s64)regs.rax;
	return NULL;
}

/* Lets a stopped thread go (GO), or takes a running one, to a stop in which the
 * kernel still has to look at signals. */
static bool run_to_event_stop(struct remote *r, bool go)
{
	int status, sig = 0;

	for (;; go = true) {
		ptrace(PTRACE_INTERRUPT, r->th->tid, 0, 0);
		if ((go && ptrace(PTRACE_CONT, r->th->tid, 0, sig)) || !tracee_wait(r->t, r->th, &status))
			return false;
		if (status >> 16 == PTRACE_EVENT_STOP)
			return true;
		sig = status >> 16 || WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status);
	}
}

bool remote_halt(struct remote *r)
{
	tracee_set_deadline(r->t, r->t->timeout_ms);
	r->halted = run_to_event_stop(r, false);
	return r->halted;
}

/* From the exit of the last call to a stop in which the kernel still has to
 * look at signals: only there does it restart the interrupted system call that
 * the old registers may be in. No user instruction runs on the way. */
static bool back_to_event_stop(struct remote *r)
{
	if (r->halted)
		return true;
	tracee_set_deadline(r->t, r->t->timeout_ms);
	return run_to_event_stop(r, true);
}

void remote_end(struct remote *r)
{
	struct thread *th = r->th;

	if (!r->active) {
		drop_stack(r);
		return;
	}
	r->active = false;
	if (back_to_event_stop(r)) {
		ptrace(PTRACE_SETSIGMASK, th->tid, sizeof(r->saved_mask), &r->saved_mask);
		thread_set_regs(th, &r->saved);
		remote_write(r->t, r->frame, r->saved_stack, r->saved_len);
	} else {
		th->stopped = false; /* gone, or returns by itself */
	}
	drop_stack(r);
}
