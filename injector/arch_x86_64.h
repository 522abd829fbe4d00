/* SPDX-License-Identifier: MIT */
/* What the injector knows about x86-64 registers at a stop. */
#pragma once
#include "injector/tracee.h"

/* The kernel's internal codes for "to be restarted", as a stop shows them. */
#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516

/* Can word I of WORDS[n], which lie on a stack, be the rip of a signal frame? The
 * kernel's struct sigcontext goes on with the flags, and then cs in the low 16 bits. */
static inline bool arch_is_saved_rip(const u64 *words, size_t n, size_t i)
{
	return i + 2 >= n || (words[i + 2] & 0xffff) == 0x33;
}

/* Is the thread in a system call that will be restarted? Then its next
 * instruction is the syscall instruction at rip - 2, if no handler runs. */
bool arch_will_restart(const struct user_regs_struct *regs);

/* A stop makes some system calls return -EINTR where the kernel restarts all
 * others: for those, and no others, asks for the restart. */
void arch_cure_eintr(struct thread *th);

/* Registers with the restart carried out by us. */
void arch_apply_restart(struct user_regs_struct *regs);
