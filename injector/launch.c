/* SPDX-License-Identifier: MIT */
/*
 * Holding a program before its first instruction that matters.
 *
 * Right after execve the kernel has mapped the program and its dynamic linker
 * only. The linker calls _dl_debug_state() when it has mapped all libraries
 * (r_state RT_ADD) and again when they are relocated (RT_CONSISTENT), before
 * any of their constructors run: that call is awaited. It is found in the
 * linker's own symbol table, in the target's memory, since its r_debug
 * structure is still empty. A static program, or one whose linker has no such
 * function, is held at its entry point.
 *
 * The breakpoint is an int3 (debug registers would touch no text, but there are
 * virtual machines in which they are accepted and do nothing); its page is
 * given back afterwards, so that the text is file-backed again.
 */
#include "inject_priv.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "injector/remote_mem.h"

#define MAX_SYMS 8192
#define R_STATE_OFF 24 /* in struct r_debug, 64-bit */

struct hold {
	struct tracee t;
	struct thread th;
	addr_t brk;      /* the breakpoint */
	addr_t r_debug;  /* 0: the first hit is the one */
	bool pristine;   /* nothing but us has written to its page */
	u8 saved;
};

/* ------------------------------------------------- the linker's symbols */

struct linker {
	addr_t base, symtab, strtab;
	u64 strsz;
};

static bool read_dynamic(struct hold *h, struct linker *l, addr_t at, u64 size)
{
	Elf64_Dyn dyn[128] = {};
	size_t n = size / sizeof(*dyn) < ARRAY_SIZE(dyn) ? size / sizeof(*dyn) : ARRAY_SIZE(dyn);

	if (remote_read(&h->t, at, dyn, n * sizeof(*dyn)))
		return false;
	for (size_t i = 0; i < n && dyn[i].d_tag != DT_NULL; i++) {
		if (dyn[i].d_tag == DT_SYMTAB)
			l->symtab = l->base + dyn[i].d_un.d_ptr;
		if (dyn[i].d_tag == DT_STRTAB)
			l->strtab = l->base + dyn[i].d_un.d_ptr;
		if (dyn[i].d_tag == DT_STRSZ)
			l->strsz = dyn[i].d_un.d_val;
	}
	return l->symtab && l->strtab && l->strsz && l->strsz < (1 << 20);
}

static bool open_linker(struct hold *h, struct linker *l, addr_t base)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph[32];

	*l = (struct linker){ .base = base };
	if (remote_read(&h->t, base, &eh, sizeof(eh)) || memcmp(eh.e_ident, ELFMAG, SELFMAG) ||
	    eh.e_phentsize != sizeof(*ph) || eh.e_phnum > ARRAY_SIZE(ph) ||
	    remote_read(&h->t, base + eh.e_phoff, ph, eh.e_phnum * sizeof(*ph)))
		return false;
	for (int i = 0; i < eh.e_phnum; i++)
		if (ph[i].p_type == PT_DYNAMIC)
			return read_dynamic(h, l, base + ph[i].p_vaddr, ph[i].p_memsz);
	return false;
}

/* Both addresses; how many symbols there are is bounded by where the strings
 * begin, or by what is mapped. */
static void find_hook(struct hold *h, addr_t base)
{
	cleanup_free Elf64_Sym *syms = NULL;
	cleanup_free char *strs = NULL;
	struct linker l;
	size_t n = MAX_SYMS;

	if (!base || !open_linker(h, &l, base))
		return;
	if (l.strtab > l.symtab && (l.strtab - l.symtab) / sizeof(*syms) < n)
		n = (l.strtab - l.symtab) / sizeof(*syms);
	syms = calloc(n + 1, sizeof(*syms));
	strs = calloc(1, l.strsz + 1);
	if (!syms || !strs || remote_read(&h->t, l.strtab, strs, l.strsz))
		return;
	n = remote_read_some(&h->t, l.symtab, syms, n * sizeof(*syms)) / sizeof(*syms);
	for (size_t i = 0; i < n; i++) {
		const char *name = syms[i].st_name < l.strsz ? strs + syms[i].st_name : "";

		if (!strcmp(name, "_dl_debug_state") && syms[i].st_shndx != SHN_UNDEF)
			h->brk = base + syms[i].st_value;
		if (!strcmp(name, "_r_debug") && syms[i].st_shndx != SHN_UNDEF)
			h->r_debug = base + syms[i].st_value;
	}
}

/* Chooses the place from the auxiliary vector; false: a 32-bit program, or
 * nothing to go by. */
static bool choose_place(struct hold *h)
{
	cleanup_close int fd = -1, exe = -1;
	u8 ident[EI_NIDENT];
	Elf64_auxv_t aux[64];
	addr_t base = 0, entry = 0;
	char path[40];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", h->t.pid);
	exe = open(path, O_RDONLY | O_CLOEXEC);
	if (exe >= 0 && pread(exe, ident, sizeof(ident), 0) == sizeof(ident) && ident[EI_CLASS] != ELFCLASS64)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/auxv", h->t.pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, aux, sizeof(aux));
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(*aux); i++) {
		if (aux[i].a_type == AT_BASE)
			base = aux[i].a_un.a_val;
		if (aux[i].a_type == AT_ENTRY)
			entry = aux[i].a_un.a_val;
	}
	find_hook(h, base);
	/* A linker without the hook may have relocated the program's text. */
	h->pristine = h->brk || !base;
	if (!h->brk) {
		h->brk = entry;
		h->r_debug = 0;
	}
	return h->brk;
}

/* ------------------------------------------------------- the breakpoint */

static bool set_break(struct hold *h)
{
	u8 int3 = 0xcc;

	return !remote_read(&h->t, h->brk, &h->saved, 1) && !remote_write(&h->t, h->brk, &int3, 1);
}

static void clear_break(struct hold *h)
{
	remote_write(&h->t, h->brk, &h->saved, 1);
}

static struct uerr *ended(struct hold *h, int status)
{
	if (WIFSIGNALED(status))
		return uerr_new(UERR_FAILED, "the command was killed by signal %d before it began",
				WTERMSIG(status));
	return uerr_new(UERR_FAILED, "the command could not be started (exit status %d)", WEXITSTATUS(status));
}

/* Runs on until the next stop, forwarding whatever REQUEST's stop left in *SIG. */
static struct uerr *run(struct hold *h, long request, int sig, int *status)
{
	if (ptrace(request, h->t.pid, 0, sig) && errno != ESRCH)
		return uerr_errno(errno, "process %d", h->t.pid);
	if (tracee_wait(&h->t, &h->th, status))
		return NULL;
	if (errno == ETIMEDOUT)
		return uerr_new(UERR_FAILED, "process %d did not come to its first instruction in time", h->t.pid);
	return ended(h, *status);
}

/* The request that continues after a stop, and the signal to pass on. A group
 * stop is kept: the thread goes on when SIGCONT comes. */
static long resume(int status, int *sig)
{
	int event = status >> 16, stop = WSTOPSIG(status);

	*sig = 0;
	if (event == PTRACE_EVENT_STOP && stop != SIGTRAP)
		return PTRACE_LISTEN;
	if (!event)
		*sig = stop;
	return PTRACE_CONT;
}

static struct uerr *await_exec(struct hold *h)
{
	long request = 0;
	int status, sig = 0;
	struct uerr *err = NULL;

	while (!err) {
		if (!request) {
			if (!tracee_wait(&h->t, &h->th, &status))
				return errno == ETIMEDOUT ?
					       uerr_new(UERR_FAILED, "process %d did not call exec in time", h->t.pid) :
					       ended(h, status);
		} else {
			err = run(h, request, sig, &status);
			if (err)
				return err;
		}
		if (status >> 16 == PTRACE_EVENT_EXEC)
			return NULL;
		request = resume(status, &sig);
	}
	return err;
}

static bool at_break(struct hold *h, int status, struct user_regs_struct *regs)
{
	if (status >> 16 || WSTOPSIG(status) != SIGTRAP || ptrace(PTRACE_GETREGS, h->t.pid, 0, regs))
		return false;
	return regs->rip == h->brk + 1;
}

static bool is_consistent(struct hold *h)
{
	s32 state = 0;

	return !h->r_debug || remote_read(&h->t, h->r_debug + R_STATE_OFF, &state, sizeof(state)) || !state;
}

/* From the breakpoint over its instruction. */
static struct uerr *step_over(struct hold *h, struct user_regs_struct *regs)
{
	struct uerr *err;
	int status = 0, sig = 0;
	u8 int3 = 0xcc;

	clear_break(h);
	regs->rip = h->brk;
	ptrace(PTRACE_SETREGS, h->t.pid, 0, regs);
	do {
		err = run(h, PTRACE_SINGLESTEP, sig, &status);
		if (err)
			return err;
		sig = status >> 16 || WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
	} while (status >> 16 || WSTOPSIG(status) != SIGTRAP);
	remote_write(&h->t, h->brk, &int3, 1);
	return NULL;
}

/* Has the program itself drop our copy of the page. Where it cannot, the page
 * stays private: 4 KiB. */
static struct uerr *drop_page(struct hold *h)
{
	struct target_maps maps = {};
	struct gadgets g;
	struct remote r;
	struct uerr *err;
	s64 got;

	err = target_maps_read(h->t.pid, h->t.pid, &maps);
	if (!err)
		err = gadgets_find(&h->t, &maps, &g);
	if (!err && !remote_unfit(&h->t, &maps, &h->th, true)) {
		err = remote_begin(&r, &h->t, &h->th, &g);
		if (!err)
			err = REMOTE_CALL(&r, &got, SYS_madvise, ALIGN_DOWN(h->brk, PAGE), PAGE, MADV_DONTNEED);
		remote_end(&r);
	}
	target_maps_deinit(&maps);
	return err;
}

static struct uerr *give_page_back(struct hold *h)
{
	struct uerr *err;
	int status, sig = 0;

	/* From the breakpoint's signal to a stop without one: see tracee.h. */
	do {
		ptrace(PTRACE_INTERRUPT, h->t.pid, 0, 0);
		err = run(h, PTRACE_CONT, sig, &status);
		if (err)
			return err;
		sig = status >> 16 ? 0 : WSTOPSIG(status);
	} while (status >> 16 != PTRACE_EVENT_STOP);
	h->th.stopped = !ptrace(PTRACE_GETREGS, h->t.pid, 0, &h->th.regs);
	uerr_free(drop_page(h));
	return NULL;
}

static struct uerr *await_break(struct hold *h)
{
	struct user_regs_struct regs;
	long request = PTRACE_CONT;
	int status, sig = 0;
	struct uerr *err;

	for (;;) {
		err = run(h, request, sig, &status);
		if (err)
			return err;
		if (!at_break(h, status, &regs)) {
			request = resume(status, &sig);
			continue;
		}
		if (is_consistent(h))
			break;
		err = step_over(h, &regs);
		if (err)
			return err;
		request = PTRACE_CONT;
		sig = 0;
	}
	clear_break(h);
	regs.rip = h->brk;
	ptrace(PTRACE_SETREGS, h->t.pid, 0, &regs);
	return h->pristine ? give_page_back(h) : NULL;
}

static struct uerr *hold(struct hold *h, void (*ready)(void *arg), void *arg)
{
	char path[32];
	struct uerr *err;

	if (ptrace(PTRACE_SEIZE, h->t.pid, 0, PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD))
		return uerr_errno(errno, "process %d cannot be traced", h->t.pid);
	h->th.seized = true;
	ready(arg);
	err = await_exec(h);
	if (err)
		return err;
	snprintf(path, sizeof(path), "/proc/%d/mem", h->t.pid);
	h->t.mem_fd = open(path, O_RDWR | O_CLOEXEC);
	if (h->t.mem_fd < 0)
		return uerr_errno(errno, "process %d: cannot open its memory", h->t.pid);
	if (choose_place(h) && set_break(h))
		err = await_break(h);
	return err;
}

/* Is it in the state "stopped" for everyone else as well? */
static void await_stopped(struct hold *h)
{
	struct task_status st;

	while (task_status_read(h->t.pid, h->t.pid, &st) && st.state != 'T' && st.state != 'Z' &&
	       now_ns() < h->t.deadline_ns) {
		struct timespec ts = { 0, 50000 };

		nanosleep(&ts, NULL);
	}
}

struct uerr *launch_hold(pid_t pid, void (*ready)(void *arg), void *arg, u32 timeout_ms)
{
	struct hold h = { .th = { .tid = pid, .tgid = pid } };
	struct uerr *err;

	tracee_init(&h.t, pid, timeout_ms ? timeout_ms : 2000);
	tracee_set_deadline(&h.t, h.t.timeout_ms);
	err = hold(&h, ready, arg);
	/* A signal given to PTRACE_DETACH would be lost at an exec stop. */
	if (!err && (kill(pid, SIGSTOP) || ptrace(PTRACE_DETACH, pid, 0, 0)))
		err = uerr_new(UERR_FAILED, "process %d is gone", pid);
	if (!err)
		await_stopped(&h);
	if (err && !h.th.gone && h.t.threads.cap) {
		/* Stopped or not, it shall not stay ours. */
		h.th.stopped = false;
		h.t.threads.data[h.t.threads.n++] = h.th;
	}
	tracee_close(&h.t);
	return err;
}
