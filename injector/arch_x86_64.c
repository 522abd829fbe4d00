/* SPDX-License-Identifier: MIT */
/* Restarting system calls; see arch_x86_64.h. */
#include "arch_x86_64.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/* System calls that return -EINTR when a stop interrupts them although no
 * signal handler runs (signal(7), "Interruption of system calls and library
 * functions by stop signals"; sock_intr_errno() for sockets with a time-out,
 * which read and write reach as well as recv and send). Each of them has done
 * nothing yet when it says so, or as connect(2) goes on where it was. Others must
 * not be added lightly: close(2) may return -EINTR with the descriptor freed. */
enum cure {
	ALWAYS,
	OF_SOCKET, /* its first argument is one: a file system may say EINTR for reasons of its own */
	OF_WAIT,   /* its second argument, what it has to submit, is 0 */
};

static const struct {
	short nr;
	enum cure cure;
} eintr_calls[] = {
	{ SYS_epoll_wait, ALWAYS },   { SYS_epoll_pwait, ALWAYS },    { SYS_epoll_pwait2, ALWAYS },
	{ SYS_accept, ALWAYS },       { SYS_accept4, ALWAYS },	      { SYS_connect, ALWAYS },
	{ SYS_recvfrom, ALWAYS },     { SYS_recvmsg, ALWAYS },	      { SYS_recvmmsg, ALWAYS },
	{ SYS_sendto, ALWAYS },	      { SYS_sendmsg, ALWAYS },	      { SYS_sendmmsg, ALWAYS },
	{ SYS_read, ALWAYS },	      { SYS_readv, ALWAYS },	      { SYS_write, OF_SOCKET },
	{ SYS_writev, OF_SOCKET },    { SYS_semop, ALWAYS },	      { SYS_semtimedop, ALWAYS },
	{ SYS_io_getevents, ALWAYS }, { SYS_io_pgetevents, ALWAYS },  { SYS_rt_sigtimedwait, ALWAYS },
	{ SYS_io_uring_enter, OF_WAIT },
};

static bool is_socket(pid_t tid, int fd)
{
	char path[48], link[16] = "";

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", tid, fd);
	return readlink(path, link, sizeof(link) - 1) > 0 && !strncmp(link, "socket:", 7);
}

static bool is_curable(const struct thread *th, enum cure cure)
{
	switch (cure) {
	case ALWAYS: return true;
	case OF_SOCKET: return is_socket(th->tid, (int)th->regs.rdi);
	case OF_WAIT: return !(u32)th->regs.rsi;
	}
	return false;
}

void arch_cure_eintr(struct thread *th)
{
	struct user_regs_struct regs = th->regs;

	if ((s64)regs.orig_rax < 0 || (s64)regs.rax != -EINTR)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(eintr_calls); i++) {
		if ((s64)regs.orig_rax != eintr_calls[i].nr || !is_curable(th, eintr_calls[i].cure))
			continue;
		/* "Restart unless a handler runs": if a signal is pending that
		 * has one, the kernel turns this into -EINTR as it should. */
		regs.rax = (u64)-ERESTARTNOHAND;
		thread_set_regs(th, &regs);
		return;
	}
}

bool arch_will_restart(const struct user_regs_struct *regs)
{
	s64 rax = (s64)regs->rax;

	return (s64)regs->orig_rax >= 0 && (rax == -ERESTARTSYS || rax == -ERESTARTNOINTR ||
					    rax == -ERESTARTNOHAND || rax == -ERESTART_RESTARTBLOCK);
}

void arch_apply_restart(struct user_regs_struct *regs)
{
	if (!arch_will_restart(regs))
		return;
	/* -516 would be continued by restart_syscall(2), but rt_sigreturn(2)
	 * makes that return -EINTR; so the call itself is made again: a
	 * relative time-out starts over. */
	regs->rax = regs->orig_rax;
	regs->rip -= 2;
	regs->orig_rax = (u64)-1;
}
