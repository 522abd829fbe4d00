/* SPDX-License-Identifier: MIT */
/*
 * Seizing, stopping and letting go. See tracee.h for the rules.
 *
 * New threads: PTRACE_O_TRACECLONE and TRACEFORK make the kernel attach what a
 * seized thread creates, so that nothing escapes between the listing and the
 * stop; the listing is repeated until it brings nothing new. A fork child with
 * its own memory is let go at once. vfork is not traced: its parent waits in
 * the kernel until the child has its own memory or is gone, and cannot be
 * stopped before that, so once all are stopped no vfork child is left.
 */
#include "tracee.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "injector/arch_x86_64.h"

#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define MAX_THREADS 65536
#define LIST_SIZE   (MAX_THREADS * sizeof(struct thread))
/* A real-time signal that interrupts waitpid(2) when a target takes too long. */
#define WAKE_SIGNAL (SIGRTMAX - 3)

u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ------------------------------------------------------------------ /proc */

static void status_field(struct task_status *st, const char *line)
{
	unsigned uid;
	const char *last;

	if (sscanf(line, "Name:\t%19[^\n]", st->comm) == 1 || sscanf(line, "State:\t%c", &st->state) == 1 ||
	    sscanf(line, "Tgid:\t%d", &st->tgid) == 1 || sscanf(line, "PPid:\t%d", &st->ppid) == 1 ||
	    sscanf(line, "TracerPid:\t%d", &st->tracer) == 1 || sscanf(line, "Seccomp:\t%d", &st->seccomp) == 1)
		return;
	if (sscanf(line, "Uid:\t%u", &uid) == 1)
		st->uid = uid;
	last = strrchr(line, '\t');
	if (!strncmp(line, "NStgid:", 7) && last)
		st->ns_tgid = atoi(last);
	if (!strncmp(line, "NSpid:", 6) && last)
		st->ns_tid = atoi(last);
	if (!strncmp(line, "x86_Thread_features:", 20))
		st->shadow_stack = strstr(line, "shstk");
}

bool task_status_read(pid_t pid, pid_t tid, struct task_status *ret)
{
	struct task_status st = { .state = '?' };
	cleanup_close int fd = -1;
	char path[64], buf[4096], *save = NULL;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || (n = read(fd, buf, sizeof(buf) - 1)) <= 0)
		return false;
	buf[n] = 0;
	for (char *line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		status_field(&st, line);
	if (!st.ns_tid)
		st.ns_tid = tid;
	if (!st.ns_tgid)
		st.ns_tgid = st.tgid;
	*ret = st;
	return true;
}

#define STAT_FLAGS     9
#define STAT_STARTTIME 22

bool proc_stat_field(pid_t pid, int field, u64 *ret)
{
	cleanup_close int fd = -1;
	char path[32], buf[2048], *p;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || (n = read(fd, buf, sizeof(buf) - 1)) <= 0)
		return false;
	buf[n] = 0;
	/* The name, which is field 2, may hold anything. */
	p = strrchr(buf, ')');
	for (int at = 2; p && at < field; at++)
		p = strchr(p + 1, ' ');
	if (!p)
		return false;
	*ret = strtoull(p, NULL, 10);
	return true;
}

bool proc_starttime(pid_t pid, u64 *starttime, bool *kthread)
{
	u64 flags;

	if (!proc_stat_field(pid, STAT_STARTTIME, starttime) || !proc_stat_field(pid, STAT_FLAGS, &flags))
		return false;
	if (kthread)
		*kthread = flags & 0x00200000; /* PF_KTHREAD */
	return true;
}

pid_t tracee_live_tid(struct tracee *t)
{
	struct task_status st;

	if (task_status_read(t->pid, t->pid, &st) && st.state != 'Z' && st.state != 'X')
		return t->pid;
	if (!t->threads.n)
		uerr_free(tracee_list(t));
	vec_foreach(th, &t->threads)
		if (th->tgid == t->pid && task_status_read(t->pid, th->tid, &st) && st.state != 'Z' &&
		    st.state != 'X')
			return th->tid;
	return t->pid;
}

static int read_int_file(const char *path, int missing)
{
	cleanup_fclose FILE *f = fopen(path, "re");
	int v = missing;

	if (f && fscanf(f, "%d", &v) != 1)
		v = missing;
	return v;
}

/* ------------------------------------------------------------------ waits */

static void wake_handler(int sig)
{
}

static void timer_start(struct tracee *t)
{
	struct sigaction sa = { .sa_handler = wake_handler };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = WAKE_SIGNAL };
	sigset_t set;

	sigaction(WAKE_SIGNAL, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, WAKE_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	ev.sigev_notify_thread_id = gettid();
	t->has_timer = !timer_create(CLOCK_MONOTONIC, &ev, &t->timer);
}

void tracee_set_deadline(struct tracee *t, u32 ms)
{
	/* Again and again: the signal may come just before waitpid() is
	 * entered, and shorter waits share this timer. */
	struct itimerspec its = { .it_value = { 0, 5000000 }, .it_interval = { 0, 5000000 } };

	t->deadline_ns = now_ns() + ms * 1000000ull;
	if (t->has_timer)
		timer_settime(t->timer, 0, &its, NULL);
}

static void clear_deadline(struct tracee *t)
{
	struct itimerspec its = {};

	if (t->has_timer)
		timer_settime(t->timer, 0, &its, NULL);
}

/* Waits for TH's next report. In a hurry it is looked for a while first: a CPU
 * that is left goes to sleep, and wakes later than the report comes. Once that
 * was in vain, the thread may be waiting for this very CPU. */
static pid_t wait_report(struct tracee *t, struct thread *th, int *status)
{
	u64 until = t->polls ? now_ns() + TRACEE_POLL_NS : 0;
	pid_t r = 0;

	while (t->polls && !r) {
		r = waitpid(th->tid, status, __WALL | WNOHANG);
		t->polls = r || now_ns() < until;
	}
	return r ? r : waitpid(th->tid, status, __WALL | (t->has_timer ? 0 : WNOHANG));
}

bool tracee_wait(struct tracee *t, struct thread *th, int *status)
{
	for (;;) {
		pid_t r = wait_report(t, th, status);

		if (r == th->tid) {
			if (!WIFEXITED(*status) && !WIFSIGNALED(*status))
				return true;
			th->gone = true;
			th->stopped = th->seized = false;
			errno = ESRCH;
			return false;
		}
		if (r < 0 && errno != EINTR) {
			th->gone = true;
			th->stopped = th->seized = false;
			errno = ESRCH;
			return false;
		}
		if (now_ns() > t->deadline_ns) {
			errno = ETIMEDOUT;
			return false;
		}
		if (!r)
			sched_yield();
	}
}

/* ---------------------------------------------------------------- threads */

static struct thread *thread_find(struct tracee *t, pid_t tid)
{
	vec_foreach(th, &t->threads)
		if (th->tid == tid)
			return th;
	return NULL;
}

static struct thread *thread_add(struct tracee *t, pid_t tgid, pid_t tid)
{
	struct thread *th = &t->threads.data[t->threads.n];

	if (t->threads.n == t->threads.cap)
		return NULL;
	*th = (struct thread){ .tid = tid, .tgid = tgid };
	t->threads.n++;
	return th;
}

static long seize_options(const struct tracee *t)
{
	return PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
	       (t->can_suspend && t->seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0);
}

/* Seizes TH; one that the kernel has attached for us already is fine. */
static int thread_seize(struct tracee *t, struct thread *th)
{
	struct task_status st;
	int err;

	if (th->seized)
		return 0;
	if (!ptrace(PTRACE_SEIZE, th->tid, 0, seize_options(t))) {
		th->seized = true;
		return 0;
	}
	err = errno;
	if (!task_status_read(th->tgid, th->tid, &st) || st.state == 'Z' || st.state == 'X') {
		th->gone = true;
		return 0;
	}
	if (err == EPERM && st.tracer == gettid()) {
		th->seized = true;
		return 0;
	}
	if (err == ESRCH) {
		th->gone = true;
		return 0;
	}
	return err;
}

bool thread_has_trap(const struct thread *th)
{
	struct {
		u64 off; /* linux/ptrace.h: struct ptrace_peeksiginfo_args */
		u32 flags;
		s32 nr;
	} args = { .nr = 16 };
	siginfo_t found[16];
	long n;

	do {
		n = ptrace(PTRACE_PEEKSIGINFO, th->tid, &args, found);
		for (long i = 0; i < n; i++)
			if (found[i].si_signo == SIGTRAP)
				return true;
		args.off += n;
	} while (n == args.nr);
	return false;
}

bool thread_set_regs(struct thread *th, const struct user_regs_struct *regs)
{
	if (ptrace(PTRACE_SETREGS, th->tid, 0, regs))
		return false;
	th->regs = *regs;
	return true;
}

/* Adds the threads of P that are not known; number of new ones, or -1. */
static int proc_list(struct tracee *t, const struct proc *p)
{
	char buf[16384];
	size_t hint = 0; /* the listing keeps its order */
	int added = 0;
	ssize_t n;

	lseek(p->task_fd, 0, SEEK_SET);
	while ((n = syscall(SYS_getdents64, p->task_fd, buf, sizeof(buf))) > 0) {
		for (ssize_t off = 0; off < n;) {
			struct dirent64 *d = (void *)(buf + off);
			pid_t tid = atoi(d->d_name);

			off += d->d_reclen;
			if (hint < t->threads.n && t->threads.data[hint].tid == tid) {
				hint++;
				continue;
			}
			if (tid <= 0 || thread_find(t, tid))
				continue;
			if (!thread_add(t, p->pid, tid))
				return -1;
			added++;
		}
	}
	return added;
}

static bool proc_add(struct tracee *t, pid_t pid)
{
	struct proc p = { .pid = pid };
	char path[32];

	vec_foreach(have, &t->procs)
		if (have->pid == pid)
			return true;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	p.task_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (p.task_fd < 0)
		return false;
	if (vec_push(&t->procs, p))
		return true;
	close(p.task_fd);
	return false;
}

/* Children of one thread that share the target's memory. */
static void find_children(struct tracee *t, pid_t pid, pid_t tid)
{
	cleanup_fclose FILE *f = NULL;
	char path[64];
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, tid);
	f = fopen(path, "re");
	if (!f)
		return;
	while (fscanf(f, "%d", &child) == 1)
		if (process_same_memory(t->pid, child))
			proc_add(t, child);
}

static void find_siblings(struct tracee *t)
{
	struct task_status st;

	if (task_status_read(t->pid, t->pid, &st) && st.ppid > 1 && st.ppid != getpid() &&
	    process_same_memory(t->pid, st.ppid))
		proc_add(t, st.ppid);
	for (size_t i = 0; i < t->threads.n; i++)
		find_children(t, t->threads.data[i].tgid, t->threads.data[i].tid);
}

static struct uerr *list_procs(struct tracee *t, bool *news)
{
	*news = false;
	for (size_t i = 0; i < t->procs.n; i++) {
		int n = proc_list(t, &t->procs.data[i]);

		if (n < 0)
			return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) has too many threads", t->pid, t->comm);
		*news |= n > 0;
	}
	return NULL;
}

struct uerr *tracee_list(struct tracee *t)
{
	bool news;

	t->threads.n = 0;
	return list_procs(t, &news);
}

static struct uerr *who_traces(struct tracee *t, pid_t tracer)
{
	struct task_status st;

	if (!task_status_read(tracer, tracer, &st))
		return uerr_new(UERR_NOT_PERMITTED, "process %d (%s) is being traced: detach that first", t->pid,
				t->comm);
	return uerr_new(UERR_NOT_PERMITTED, "process %d (%s) is being traced by %s (pid %d): detach that first",
			t->pid, t->comm, st.comm, tracer);
}

static struct uerr *not_yours(struct tracee *t, uid_t uid)
{
	struct passwd *pw = getpwuid(uid);
	char num[32];

	snprintf(num, sizeof(num), "uid %u", uid);
	return uerr_new(UERR_NOT_PERMITTED,
			"process %d (%s) belongs to %s%s, you are uid %u: sudo bpfctl …, or ask root "
			"(uprobed.conf, [allow])",
			t->pid, t->comm, pw ? "user " : "", pw ? pw->pw_name : num, geteuid());
}

/* Why the kernel did not let us. */
static struct uerr *seize_error(struct tracee *t, struct thread *th, int err)
{
	int scope = read_int_file("/proc/sys/kernel/yama/ptrace_scope", 0);
	struct task_status st;

	if (!task_status_read(th->tgid, th->tid, &st))
		return uerr_new(UERR_NO_TARGET, "process %d (%s) is gone", t->pid, t->comm);
	if (st.tracer && st.tracer != gettid())
		return who_traces(t, st.tracer);
	if (err != EPERM)
		return uerr_errno(err, "process %d (%s) cannot be traced", t->pid, t->comm);
	if (t->pid == getpid())
		return uerr_new(UERR_NOT_PERMITTED, "process %d (%s) cannot probe itself", t->pid, t->comm);
	if (geteuid() && st.uid != geteuid())
		return not_yours(t, st.uid);
	if (scope == 3)
		return uerr_new(UERR_NOT_PERMITTED,
				"process %d (%s): kernel.yama.ptrace_scope=3 forbids tracing until the next boot",
				t->pid, t->comm);
	if (scope && geteuid())
		return uerr_new(UERR_NOT_PERMITTED,
				"process %d (%s) is yours, but kernel.yama.ptrace_scope=%d allows only %s", t->pid,
				t->comm, scope,
				scope == 1 ? "what you start: bpfctl … -- COMMAND" : "root: sudo bpfctl …");
	return uerr_new(UERR_NOT_PERMITTED,
			"process %d (%s) cannot be traced: it runs with more rights than this daemon, or in "
			"another user namespace",
			t->pid, t->comm);
}

static struct uerr *seize_listed(struct tracee *t)
{
	for (size_t i = 0; i < t->threads.n; i++) {
		struct thread *th = &t->threads.data[i];
		int err = th->gone ? 0 : thread_seize(t, th);

		if (err)
			return seize_error(t, th, err);
	}
	return NULL;
}

struct uerr *tracee_seize_all(struct tracee *t)
{
	struct uerr *err;
	bool news;

	err = list_procs(t, &news);
	if (err)
		return err;
	find_siblings(t);
	do {
		err = seize_listed(t);
		if (!err)
			err = list_procs(t, &news);
	} while (!err && news);
	return err;
}

/* --------------------------------------------------------------- stopping */

/* A child that the kernel attached because its parent is traced: a thread or a
 * sibling joins the list, another process is let go. */
static void new_child(struct tracee *t, struct thread *parent)
{
	unsigned long msg = 0;
	struct task_status st;
	struct thread child = {}, *th;
	int status;
	pid_t tid;

	ptrace(PTRACE_GETEVENTMSG, parent->tid, 0, &msg);
	tid = (pid_t)msg;
	if (!tid || thread_find(t, tid) || !task_status_read(tid, tid, &st))
		return;
	if (st.tgid == parent->tgid || process_same_memory(t->pid, tid)) {
		if (st.tgid == tid)
			proc_add(t, tid);
		th = thread_add(t, st.tgid, tid);
		if (th)
			th->seized = true;
		return;
	}
	child = (struct thread){ .tid = tid, .tgid = st.tgid, .seized = true };
	if (tracee_wait(t, &child, &status))
		ptrace(PTRACE_DETACH, tid, 0, 0);
}

/* Takes one report of threads[i]; true when it has come to its stop. */
static bool take_report(struct tracee *t, size_t i, int status)
{
	struct thread *th = &t->threads.data[i];
	int event = status >> 16, sig = WSTOPSIG(status);

	if (event == PTRACE_EVENT_STOP) {
		th->stopped = !ptrace(PTRACE_GETREGS, th->tid, 0, &th->regs);
		th->gone = !th->stopped;
		return true;
	}
	if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK)
		new_child(t, th);
	/* A signal is passed on; the interrupt stops the thread again before the
	 * first instruction of its handler. It has to be asked for anew, since
	 * any trap clears a pending one (kernel/signal.c, ptrace_stop). */
	ptrace(PTRACE_INTERRUPT, t->threads.data[i].tid, 0, 0);
	ptrace(PTRACE_CONT, t->threads.data[i].tid, 0, event || sig == (SIGTRAP | 0x80) ? 0 : sig);
	return false;
}

static struct uerr *slow_thread(struct tracee *t, struct thread *th)
{
	struct task_status st;
	cleanup_fclose FILE *f = NULL;
	char path[64];
	long nr = -1;

	if (!task_status_read(th->tgid, th->tid, &st))
		return uerr_new(UERR_NO_TARGET, "process %d (%s) is gone", t->pid, t->comm);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", th->tgid, th->tid);
	f = fopen(path, "re");
	if (f && fscanf(f, "%ld", &nr) != 1)
		nr = -1;
	if (nr == SYS_vfork || nr == SYS_clone || nr == SYS_clone3)
		return uerr_new(UERR_FAILED,
				"process %d (%s) did not stop within %u ms: its thread %d waits for a child that "
				"it started with vfork",
				t->pid, t->comm, t->timeout_ms, th->tid);
	if (st.state == 'R')
		return uerr_new(UERR_FAILED,
				"process %d (%s) did not stop within %u ms: its thread %d wants to run but gets no CPU "
				"(the machine is overloaded); try again",
				t->pid, t->comm, t->timeout_ms, th->tid);
	return uerr_new(UERR_FAILED,
			"process %d (%s) did not stop within %u ms: its thread %d hangs in the kernel (state %c, "
			"system call %ld)",
			t->pid, t->comm, t->timeout_ms, th->tid, st.state, nr);
}

static bool is_zombie(struct thread *th)
{
	struct task_status st;

	return !task_status_read(th->tgid, th->tid, &st) || st.state == 'Z' || st.state == 'X';
}

/* Waits for the stop of threads[i], which was interrupted. A leader that has
 * exited while its threads live never reports: it is asked about after a
 * short time, and counts as gone. */
static struct uerr *wait_stop(struct tracee *t, size_t i)
{
	u64 give_up = t->deadline_ns;
	int status;

	if (t->deadline_ns > now_ns() + 20000000ull)
		t->deadline_ns = now_ns() + 20000000ull;
	while (!t->threads.data[i].gone) {
		if (tracee_wait(t, &t->threads.data[i], &status)) {
			if (take_report(t, i, status))
				break;
			continue;
		}
		if (errno != ETIMEDOUT)
			break;
		if (is_zombie(&t->threads.data[i])) {
			t->threads.data[i].gone = true;
			break;
		}
		if (now_ns() > give_up)
			return slow_thread(t, &t->threads.data[i]);
		t->deadline_ns = give_up;
	}
	t->deadline_ns = give_up;
	if (t->threads.data[i].stopped)
		arch_cure_eintr(&t->threads.data[i]);
	return NULL;
}

/* Interrupts and awaits threads [from, n). */
static struct uerr *stop_range(struct tracee *t, size_t from, size_t n)
{
	struct uerr *err = NULL;

	if (!from)
		t->stop_ns = now_ns();
	for (size_t i = from; i < n; i++)
		if (t->threads.data[i].seized && !t->threads.data[i].stopped)
			ptrace(PTRACE_INTERRUPT, t->threads.data[i].tid, 0, 0);
	for (size_t i = from; i < n && !err; i++)
		if (t->threads.data[i].seized && !t->threads.data[i].stopped)
			err = wait_stop(t, i);
	return err;
}

struct uerr *tracee_stop_all(struct tracee *t)
{
	struct uerr *err;
	size_t done = 0;
	bool news;

	tracee_set_deadline(t, t->timeout_ms);
	do {
		size_t n = t->threads.n;

		err = seize_listed(t);
		if (!err)
			err = stop_range(t, done, n);
		done = n;
		if (!err)
			err = list_procs(t, &news);
	} while (!err && (news || done < t->threads.n));
	clear_deadline(t);
	if (err)
		return err;
	vec_foreach(th, &t->threads)
		if (th->stopped)
			return NULL;
	return uerr_new(UERR_NO_TARGET, "process %d (%s) is gone", t->pid, t->comm);
}

struct uerr *tracee_stop_one(struct tracee *t, struct thread *th)
{
	size_t i = th - t->threads.data;
	struct uerr *uerr;
	int err = thread_seize(t, th);

	if (err)
		return seize_error(t, th, err);
	if (th->gone || th->stopped)
		return NULL;
	tracee_set_deadline(t, t->timeout_ms);
	t->stop_ns = now_ns();
	ptrace(PTRACE_INTERRUPT, th->tid, 0, 0);
	uerr = wait_stop(t, i);
	clear_deadline(t);
	return uerr;
}

void tracee_detach(struct tracee *t, struct thread *th)
{
	int status;

	if (!th->seized)
		return;
	if (!th->stopped && !th->gone && !ptrace(PTRACE_INTERRUPT, th->tid, 0, 0)) {
		/* Detaching needs a stop. What does not come to one keeps us as
		 * its tracer until this process ends, which lets it go. */
		tracee_set_deadline(t, 50);
		while (tracee_wait(t, th, &status)) {
			th->stopped = true;
			if (status >> 16 == PTRACE_EVENT_STOP)
				break;
			ptrace(PTRACE_INTERRUPT, th->tid, 0, 0);
			ptrace(PTRACE_CONT, th->tid, 0,
			       status >> 16 || WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status));
			th->stopped = false;
		}
		clear_deadline(t);
		if (th->stopped && !ptrace(PTRACE_GETREGS, th->tid, 0, &th->regs))
			arch_cure_eintr(th);
	}
	if (th->stopped && !ptrace(PTRACE_DETACH, th->tid, 0, 0))
		th->seized = false;
	th->stopped = false;
}

void tracee_release(struct tracee *t)
{
	size_t kept = 0;

	/* First whatever stands still, at once; then the stragglers. */
	vec_foreach(th, &t->threads)
		if (th->seized && th->stopped)
			tracee_detach(t, th);
	vec_foreach(th, &t->threads)
		if (th->seized && !th->gone)
			tracee_detach(t, th);
	for (size_t i = 0; i < t->threads.n; i++)
		if (t->threads.data[i].seized && !t->threads.data[i].gone)
			t->threads.data[kept++] = t->threads.data[i];
	t->threads.n = kept;
}

void tracee_hurry(struct tracee *t)
{
	struct sched_param p = {}, fifo = { .sched_priority = 1 };

	t->sched_policy = sched_getscheduler(0);
	if (t->sched_policy < 0 || sched_getparam(0, &p) || t->sched_policy == SCHED_FIFO ||
	    sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &fifo))
		t->sched_policy = -1;
	t->sched_prio = p.sched_priority;
	t->polls = true;
}

void tracee_hurry_end(struct tracee *t)
{
	struct sched_param p = { .sched_priority = t->sched_prio };

	if (t->sched_policy >= 0)
		sched_setscheduler(0, t->sched_policy, &p);
	t->sched_policy = -1;
	t->polls = false;
}

/* ---------------------------------------------------------------- opening */

static struct uerr *check_kind(struct tracee *t)
{
	struct task_status st;
	bool kthread;

	if (!proc_starttime(t->pid, &t->starttime, &kthread) || !task_status_read(t->pid, t->pid, &st))
		return uerr_new(UERR_NO_TARGET, "no process %d", t->pid);
	memcpy(t->comm, st.comm, sizeof(t->comm));
	if (kthread)
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) is a kernel thread", t->pid, t->comm);
	if (st.tgid != t->pid)
		return uerr_new(UERR_NO_TARGET, "%d is a thread of process %d, not a process", t->pid, st.tgid);
	if (st.shadow_stack)
		return uerr_new(UERR_CANNOT_PROBE,
				"process %d (%s) runs with a shadow stack, which is not supported", t->pid, t->comm);
	t->seccomp = st.seccomp != 0;
	return NULL;
}

/* Go's linker leaves a note of its own. */
static bool has_go_note(int fd, const Elf64_Phdr *ph)
{
	char note[4096];
	ssize_t n = pread(fd, note, ph->p_filesz < sizeof(note) ? ph->p_filesz : sizeof(note), (off_t)ph->p_offset);

	for (size_t at = 0; n > 0 && at + sizeof(Elf64_Nhdr) + 4 <= (size_t)n;) {
		Elf64_Nhdr nh;

		memcpy(&nh, note + at, sizeof(nh));
		at += sizeof(nh);
		if (nh.n_namesz == 4 && !memcmp(note + at, "Go\0", 4))
			return true;
		at += ALIGN_UP((size_t)nh.n_namesz, 4ul) + ALIGN_UP((size_t)nh.n_descsz, 4ul);
	}
	return false;
}

#define PHDRS_MAX 64

static bool is_go_program(int fd)
{
	Elf64_Phdr ph[PHDRS_MAX];
	Elf64_Ehdr eh;
	ssize_t n;

	if (pread(fd, &eh, sizeof(eh), 0) != sizeof(eh) || eh.e_phentsize != sizeof(*ph))
		return false;
	n = pread(fd, ph, sizeof(ph), (off_t)eh.e_phoff);
	for (size_t i = 0; n > 0 && i < eh.e_phnum && (i + 1) * sizeof(*ph) <= (size_t)n; i++)
		if (ph[i].p_type == PT_NOTE && has_go_note(fd, &ph[i]))
			return true;
	return false;
}

static struct uerr *check_elf(struct tracee *t)
{
	cleanup_close int fd = -1;
	unsigned char ident[EI_NIDENT + 4];
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/exe", process_live_tid(t->pid));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL; /* the code segment of a stopped thread decides */
	if (pread(fd, ident, sizeof(ident), 0) != sizeof(ident) || memcmp(ident, ELFMAG, SELFMAG))
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) is not an ELF program", t->pid, t->comm);
	if (ident[EI_CLASS] != ELFCLASS64)
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) is a 32-bit program", t->pid, t->comm);
	if (ident[EI_NIDENT + 2] != EM_X86_64)
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) is not an x86-64 program", t->pid, t->comm);
	t->is_go = is_go_program(fd);
	return NULL;
}

static struct uerr *open_mem(struct tracee *t, struct thread *th)
{
	char path[64];

	/* Through the thread: the leader may be dead. */
	snprintf(path, sizeof(path), "/proc/%d/task/%d/mem", t->pid, th->tid);
	t->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	if (t->mem_fd < 0)
		return uerr_errno(errno, "process %d (%s): cannot open its memory", t->pid, t->comm);
	return NULL;
}

/* A probe seize of one live thread: is it permitted, is suspending seccomp. */
static struct uerr *open_seized(struct tracee *t)
{
	struct uerr *err = NULL;
	bool all_dead = true;

	for (size_t i = 0; i < t->threads.n && t->mem_fd < 0; i++) {
		struct thread *th = &t->threads.data[i];
		int code = thread_seize(t, th);

		if (code && t->seccomp && t->can_suspend) {
			t->can_suspend = false;
			code = thread_seize(t, th);
		}
		if (code)
			return seize_error(t, th, code);
		if (th->gone)
			continue;
		all_dead = false;
		err = open_mem(t, th);
		if (!err)
			err = tracee_stop_one(t, th);
		if (!err && th->stopped && th->regs.cs != 0x33)
			err = uerr_new(UERR_CANNOT_PROBE, "process %d (%s) runs 32-bit code", t->pid, t->comm);
		tracee_detach(t, th);
		if (err)
			return err;
	}
	if (t->mem_fd < 0)
		return uerr_new(UERR_NO_TARGET, all_dead ? "process %d (%s) has exited (a zombie)" :
							   "process %d (%s) is gone",
				t->pid, t->comm);
	return NULL;
}

void tracee_init(struct tracee *t, pid_t pid, u32 timeout_ms)
{
	void *list;

	*t = (struct tracee){ .pid = pid, .mem_fd = -1, .mem_forced = true, .timeout_ms = timeout_ms,
			      .can_suspend = true, .sched_policy = -1 };
	/* All of it at once: a thread that is born while one is waited for joins
	 * the list, and whoever waits holds a pointer. Mapped, not allocated, so
	 * that what no thread needs is never touched (16 MiB; an allocator that
	 * fills what it hands out would, at every attach). */
	list = mmap(NULL, LIST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (list != MAP_FAILED) {
		t->threads.data = list;
		t->threads.cap = MAX_THREADS;
	}
	timer_start(t);
}

struct uerr *tracee_open(struct tracee *t, pid_t pid, u32 timeout_ms)
{
	struct uerr *err;

	tracee_init(t, pid, timeout_ms);
	err = check_kind(t);
	if (err)
		return err;
	if (!proc_add(t, pid))
		return uerr_new(UERR_NO_TARGET, "no process %d", pid);
	err = tracee_list(t);
	if (!err)
		err = open_seized(t);
	if (!err)
		err = check_elf(t);
	return err;
}

void tracee_close(struct tracee *t)
{
	tracee_release(t);
	vec_foreach(p, &t->procs)
		close(p->task_fd);
	vec_free(&t->procs);
	if (t->threads.cap)
		munmap(t->threads.data, LIST_SIZE);
	t->threads.data = NULL;
	t->threads.n = t->threads.cap = 0;
	if (t->mem_fd >= 0)
		close(t->mem_fd);
	if (t->has_timer)
		timer_delete(t->timer);
}

struct uerr *tracee_check_alive(struct tracee *t)
{
	struct task_status st;
	u64 start;
	char c;

	if (!proc_starttime(t->pid, &start, NULL) || start != t->starttime ||
	    !task_status_read(t->pid, t->pid, &st))
		return uerr_new(UERR_NO_TARGET, "process %d (%s) is gone", t->pid, t->comm);
	/* Memory without users reads as nothing at all: exec has replaced it. An
	 * address that is merely not mapped gives EIO. */
	if (pread(t->mem_fd, &c, 1, (off_t)PAGE) == 0)
		return uerr_new(UERR_NO_TARGET, "process %d (%s) has started another program, or is gone", t->pid,
				t->comm);
	return NULL;
}
