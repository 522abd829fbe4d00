/* SPDX-License-Identifier: MIT */
/* Restarting system calls; see arch_x86_64.h. */
#include "arch_x86_64.h"

#include <errno.h>
#include <sys/syscall.h>

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/* System calls that return -EINTR when a stop interrupts them although no
 * signal handler runs (signal(7), "Interruption of system calls and library
 * functions by stop signals"; sock_intr_errno() for sockets with a time-out,
 * which read and readv reach as well as recv). Each of them has done nothing
 * yet when it says so. Others must not be added lightly: close(2) may return
 * -EINTR with the descriptor freed. */
static const short eintr_calls[] = {
	SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_accept,	    SYS_accept4,     SYS_recvfrom,
	SYS_recvmsg,	SYS_recvmmsg,	 SYS_read,	   SYS_readv,	    SYS_semop,	     SYS_semtimedop,
	SYS_io_getevents, SYS_io_pgetevents, SYS_rt_sigtimedwait,
};

void arch_cure_eintr(struct thread *th)
{
	struct user_regs_struct regs = th->regs;

	if ((s64)regs.orig_rax < 0 || (s64)regs.rax != -EINTR)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(eintr_calls); i++) {
		if ((s64)regs.orig_rax != eintr_calls[i])
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
