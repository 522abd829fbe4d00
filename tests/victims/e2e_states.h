/* SPDX-License-Identifier: MIT */
/* States that e2e_hammer.c can be in, for the kinds of processes that a compiler
 * alone does not make. Included there, at its end. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* A filter that kills for CALL, in all threads. */
static int filter(unsigned call)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(f) / sizeof(f[0]), f };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog);
}

static int filter_mmap(void)
{
	return filter(SYS_mmap);
}

static int filter_sigreturn(void)
{
	return filter(SYS_rt_sigreturn);
}

static int lock_all(void)
{
	return mlockall(MCL_CURRENT | MCL_FUTURE);
}

/* Nothing more can be. */
static int lock_to_the_limit(void)
{
	struct rlimit none = { 4096, 4096 };

	return lock_all() || setrlimit(RLIMIT_MEMLOCK, &none);
}

static int churn(void)
{
	churning = 1;
	return 0;
}

/* A process that is none of our threads runs in this memory. */
static int sibling(void *arg)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		__atomic_add_fetch((uint64_t *)arg, 1, __ATOMIC_RELAXED);
		sched_yield();
	}
	return 0;
}

static int start_sibling(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	static uint64_t rounds;

	if (clone(sibling, stack + sizeof(stack), CLONE_VM | SIGCHLD, &rounds) < 0)
		return 1;
	while (!__atomic_load_n(&rounds, __ATOMIC_RELAXED))
		usleep(100);
	return 0;
}

/* A thread waits in vfork until "release". */
static void *wait_in_vfork(void *arg)
{
	char byte;
	pid_t child = vfork();

	if (!child) {
		close(release[1]);
		if (read(release[0], &byte, 1) == 1)
			execl("/bin/true", "true", NULL);
		_exit(1);
	}
	return (void *)(intptr_t)(waitpid(child, NULL, 0) != child);
}

static int in_vfork(void)
{
	pthread_t t;

	return pipe(release) || pthread_create(&t, NULL, wait_in_vfork, NULL);
}

/* The thread that began all has ended, the others go on. */
static int end_leader(void)
{
	pthread_t t;

	if (pthread_create(&t, NULL, serve, NULL))
		return 1;
	pthread_exit(NULL);
}

/* At "release" a thread calls, forks a child that calls once, and ends. */
static void *call_and_fork(void *arg)
{
	char byte;

	if (read(release[0], &byte, 1) != 1)
		abort();
	hammered(1);
	if (!fork()) {
		hammered(2);
		close(release[1]);
		_exit((int)read(release[0], &byte, 1)); /* when the parent dies */
	}
	return NULL;
}

static int forks_later(void)
{
	pthread_t t;

	return pipe(release) || pthread_create(&t, NULL, call_and_fork, NULL);
}

static const struct state {
	const char *name;
	int (*begin)(void);
	int late; /* once all threads run */
} states[] = {
	{ "locked", lock_all, 0 },
	{ "locked_full", lock_to_the_limit, 1 },
	{ "churn", churn, 0 },
	{ "filter_mmap", filter_mmap, 1 },
	{ "filter_sigreturn", filter_sigreturn, 1 },
	{ "sibling", start_sibling, 1 },
	{ "vfork", in_vfork, 1 },
	{ "forks", forks_later, 1 },
	{ "no_leader", end_leader, 1 },
};

static void begin_state(const char *name, int late)
{
	for (size_t i = 0; name && i < sizeof(states) / sizeof(states[0]); i++)
		if (!strcmp(states[i].name, name) && states[i].late == late && states[i].begin())
			exit(1);
}
