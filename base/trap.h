/* SPDX-License-Identifier: MIT */
/*
 * Breakpoints without a debugger: where not even a short jump fits, the first byte
 * of an instruction becomes int3, and the SIGTRAP that follows is handled in the
 * target itself. What is there for it is one area:
 *
 *	area  ┌ the handler (vm/runtime/trap.c), and  R-X, private, never written by the
 *	      │ what the hooks call                     target
 *	      ├ struct trap_entry[TRAP_SLOTS]
 *	 data └ struct trap_data                    RW, private
 *
 * so that a fork child has its own of all of it. The handler finds the instruction
 * in the table and goes on in its trampoline; where the byte is no int3 any more, it
 * goes back to the instruction. A SIGTRAP that is none of ours belongs to the
 * application: the action that it believes to have is in the data, where
 * hooks at its own rt_sigaction system calls keep it (vm/runtime/trap_calls.c).
 *
 * A SIGTRAP that comes while it is blocked kills. So the same hooks take it out of
 * every mask that these set, and so does the injector where it installs the handler; who believes to
 * block it is remembered, and does so again in the end.
 */
#pragma once
#include "target_abi.h"

/* struct sigaction of the kernel */
struct trap_action {
	u64 handler; /* 0 SIG_DFL, 1 SIG_IGN */
	u64 flags;
	u64 restorer;
	u64 mask;
};

/* Written by the daemon while all threads stand still. Open hashing by trap_slot();
 * entries stay when their site goes. */
struct trap_entry {
	u64 site;   /* address of the int3, 0 free */
	u64 target; /* where it leads */
};
_Static_assert(sizeof(struct trap_entry) == 16, "written as one piece");

#define TRAP_CODE_SIZE 8192u
#define TRAP_SLOTS_LOG2 12
#define TRAP_SLOTS (1u << TRAP_SLOTS_LOG2)
#define TRAP_SITES_MAX (TRAP_SLOTS / 2)
#define TRAP_AREA_SIZE (TRAP_CODE_SIZE + TRAP_SLOTS * sizeof(struct trap_entry))
#define TRAP_DATA_SIZE 8192u

static inline u32 trap_slot(u64 site)
{
	return (u32)((site * 0x9e3779b97f4a7c15ull) >> (64 - TRAP_SLOTS_LOG2));
}

#define TRAP_ACTIONS 96u
#define TRAP_SIGNALS 64u
#define TRAP_BLOCKERS 512u

/* An action is written before its number is, and not again before all others were:
 * whoever reads `now` finds a whole one. */
struct trap_data {
	u32 now;    /* which action the application believes to have */
	u32 next;   /* the next to be written */
	u64 masked; /* bit n - 1: the handler of signal n believes that it blocks SIGTRAP */
	u32 nblockers; /* of these may be in use */
	u32 pad[11];
	struct trap_action actions[TRAP_ACTIONS];
	struct trap_action scratch[TRAP_SIGNALS]; /* of the injector's system calls */
	u32 blockers[TRAP_BLOCKERS]; /* tids (of their own namespace) that believe to block SIGTRAP; 0 free */
};
_Static_assert(sizeof(struct trap_data) <= TRAP_DATA_SIZE, "two pages");

#define TRAP_SIG 5
#define TRAP_SIG_BIT (1ull << (TRAP_SIG - 1))
#define TRAP_SA_SIGINFO 4ull
#define TRAP_SA_RESTORER 0x04000000ull
#define TRAP_SA_ONSTACK 0x08000000ull
#define TRAP_SA_RESTART 0x10000000ull
#define TRAP_SA_NODEFER 0x40000000ull
#define TRAP_SA_RESETHAND 0x80000000ull

/* The flags that our handler has where the application believes in ACTION: whether
 * system calls go on, and on which stack its own is going to run. */
static inline u64 trap_flags(const struct trap_action *action)
{
	u64 own = action->handler > 1 ? action->flags : TRAP_SA_RESTART | TRAP_SA_ONSTACK;

	return TRAP_SA_SIGINFO | TRAP_SA_RESTORER | (own & (TRAP_SA_RESTART | TRAP_SA_ONSTACK));
}
