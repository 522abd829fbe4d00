/* SPDX-License-Identifier: MIT */
/*
 * A process whose threads are to stand still for a moment: all of them, or one.
 * Between two such moments nothing is attached (a seized thread that gets a
 * signal waits for its tracer, and the tracer has slow things to do), so each
 * moment begins with PTRACE_SEIZE, which does not disturb, and ends with
 * PTRACE_DETACH. All of it must happen in one thread: ptrace belongs to one.
 *
 * A thread counts as stopped only in PTRACE_EVENT_STOP: signals that arrive on
 * the way there are passed on, and with an interrupt pending the thread traps
 * again before it executes anything. So what is seen at a stop is one of
 * {between two user instructions, in a system call that was interrupted}.
 */
#pragma once
#include <sys/types.h>
#include <sys/user.h>
#include <time.h>

#include "base/types.h"
#include "base/uerr.h"
#include "base/vec.h"

struct thread {
	pid_t tid;
	pid_t tgid;   /* of its process: a sibling that shares the memory has another */
	bool seized;
	bool stopped; /* regs are valid */
	bool gone;
	struct user_regs_struct regs;
};

/* A process that shares the target's memory: the target itself comes first,
 * then whoever was made with CLONE_VM but without CLONE_THREAD. */
struct proc {
	pid_t pid;
	int task_fd; /* /proc/PID/task */
};

#define TRACEE_POLL_NS 200000

struct tracee {
	pid_t pid;
	char comm[20];
	u64 starttime;
	int mem_fd;          /* /proc/PID/mem, opened while seized; bound to this memory */
	bool mem_forced;     /* writes to read-only pages through it work */
	u32 timeout_ms;
	bool can_suspend;    /* PTRACE_O_SUSPEND_SECCOMP is permitted */
	bool seccomp;        /* a filter or strict mode is on */
	bool is_go;          /* its program is Go's: stacks lie in a heap of its own */
	addr_t spare_top;    /* where such a thread has room for a frame: below this; 0: on its stack */
	VEC(struct thread) threads; /* never grown: elements do not move until a release or a new listing */
	VEC(struct proc) procs;
	u64 deadline_ns;     /* of the wait now going on */
	timer_t timer;       /* interrupts a wait that takes too long */
	bool has_timer;
	u64 stop_ns;         /* when the first thread was told to stop, of the stop now going on or the last */
	bool polls;          /* waits look for TRACEE_POLL_NS before they sleep */
	int sched_policy;    /* to be restored after a window; -1 not changed */
	int sched_prio;
};

/* Looks at process PID, seizes its leader (or any live thread) to see whether
 * that is permitted and to open its memory, and lets go of it. */
struct uerr *tracee_open(struct tracee *t, pid_t pid, u32 timeout_ms) UERR_MUST_CHECK;
void tracee_init(struct tracee *t, pid_t pid, u32 timeout_ms); /* only that: nothing is looked at */
void tracee_close(struct tracee *t);

/* Finds threads and memory siblings, seizes them; they run on. */
struct uerr *tracee_seize_all(struct tracee *t) UERR_MUST_CHECK;

/* Stops everything that is seized and whatever it creates meanwhile. On an
 * error the caller releases. At each stop the EINTR cure is applied. */
struct uerr *tracee_stop_all(struct tracee *t) UERR_MUST_CHECK;

/* Seizes (if need be) and stops thread TH alone. */
struct uerr *tracee_stop_one(struct tracee *t, struct thread *th) UERR_MUST_CHECK;

/* Lists the threads without attaching to them. */
struct uerr *tracee_list(struct tracee *t) UERR_MUST_CHECK;

/* Lets go of one thread, of all. */
void tracee_detach(struct tracee *t, struct thread *th);
void tracee_release(struct tracee *t);

/* Waits until TH reports; false when it is gone or the deadline has passed
 * (errno ESRCH or ETIMEDOUT). */
bool tracee_wait(struct tracee *t, struct thread *th, int *status);
void tracee_set_deadline(struct tracee *t, u32 ms);

/* Writes TH's registers and remembers them. */
bool thread_set_regs(struct thread *th, const struct user_regs_struct *regs);

/* Has TH, stopped, a SIGTRAP of its own that is not delivered yet: it has run a
 * breakpoint, and its rip is behind that? */
bool thread_has_trap(const struct thread *th);

/* Real-time priority for the time of a window. */
void tracee_hurry(struct tracee *t);
void tracee_hurry_end(struct tracee *t);

/* Is it the same process still, with the memory that mem_fd is bound to? */
struct uerr *tracee_check_alive(struct tracee *t) UERR_MUST_CHECK;

/* A thread whose /proc/PID/task/TID still shows memory and descriptors: the
 * leader, unless it has exited before the others. */
pid_t tracee_live_tid(struct tracee *t);

u64 now_ns(void);

/* Fields of /proc/PID/task/TID/status and stat; false when it is gone. */
struct task_status {
	char comm[20];
	char state;
	uid_t uid;
	pid_t tgid, ppid, tracer, ns_tid, ns_tgid;
	int seccomp;
	bool shadow_stack;
};
bool task_status_read(pid_t pid, pid_t tid, struct task_status *ret);
bool proc_starttime(pid_t pid, u64 *starttime, bool *kthread);
bool proc_stat_field(pid_t pid, int field, u64 *ret); /* numbered as in proc(5), from 4 on; a number */
