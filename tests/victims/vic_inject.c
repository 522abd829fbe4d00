/* SPDX-License-Identifier: MIT */
/*
 * Something to be stopped, patched and let go: one mode for each thing that an
 * injection must not harm. vic_inject MODE N SHM_FD READY_FD.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/victim.h"
#include "vic_blocked.h"

static struct victim_shared *shared;
static int number, ready_fd;

/* The code that tests patch: 7 bytes of two instructions, then ret. A second
 * one holds a thread inside such a window: it spins at the boundary. */
__asm__(".text\n"
	".p2align 6\n"
	".globl vic_site\n"
	"vic_site:\n"
	"	mov %rdi, %rax\n"
	"	add $1, %rax\n"
	"	ret\n"
	".p2align 6\n"
	".globl vic_park\n"
	"vic_park:\n"
	"	mov %rdi, %rax\n"    /* +0 */
	"vic_park_loop:\n"
	"	pause\n"             /* +3 */
	"	cmpq $0, (%rax)\n"   /* +5 */
	"	je vic_park_loop\n"  /* +9 */
	"	mov $42, %eax\n"     /* +11 */
	"	ret\n"
	".globl vic_park_loop\n"
	".p2align 6\n"
	/* A loop in which a signal arrives, whose code the test overwrites. */
	".globl vic_syscall\n"
	"vic_syscall:\n"
	"	mov %rdi, %rdi\n"     /* +0 */
	"	xor %esi, %esi\n"     /* +3 */
	"	mov %edx, %eax\n"     /* +5 */
	"	syscall\n"            /* +7 */
	"	nop\n"                /* +9 */
	"	ret\n");
extern u64 vic_site(u64 x);
extern u64 vic_park(volatile u64 *flag);
extern char vic_park_loop[];
extern long vic_syscall(const struct timespec *ts, const void *zero, long nr);

static void get_ready(void)
{
	if (write(ready_fd, "r", 1) != 1)
		_exit(3);
	close(ready_fd);
}

static void wait_for_end(void)
{
	while (!VICTIM_READ(shared->stop))
		usleep(1000);
}

/* ---------------------------------------------------------------- modes */

static pthread_barrier_t barrier;

static void *hammer(void *arg)
{
	u64 *calls = arg;

	pthread_barrier_wait(&barrier);
	for (u64 i = 0; !VICTIM_READ(shared->stop); i++) {
		if (vic_site(i) != i + 1)
			__atomic_fetch_add(&shared->wrong, 1, __ATOMIC_RELAXED);
		__atomic_store_n(calls, i + 1, __ATOMIC_RELEASE);
		if (number > 4 && (i & 63) == 0)
			usleep(500);
	}
	return NULL;
}

/* N threads call the site. */
static int mode_hammer(void)
{
	pthread_t threads[VICTIM_THREADS];

	shared->site = (u64)vic_site;
	pthread_barrier_init(&barrier, NULL, number + 1);
	for (int i = 0; i < number; i++)
		if (pthread_create(&threads[i], NULL, hammer, (void *)&shared->calls[i]))
			return 4;
	pthread_barrier_wait(&barrier);
	get_ready();
	for (int i = 0; i < number; i++)
		pthread_join(threads[i], NULL);
	VICTIM_WRITE(shared->state, 1);
	pause();
	return 0;
}

/* Short-lived threads all the time. */
static void *short_life(void *arg)
{
	if (vic_site(7) != 8)
		__atomic_fetch_add(&shared->wrong, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&shared->calls[0], 1, __ATOMIC_RELAXED);
	return NULL;
}

static int mode_churn(void)
{
	pthread_t threads[8];

	shared->site = (u64)vic_site;
	get_ready();
	while (!VICTIM_READ(shared->stop)) {
		for (int i = 0; i < 8; i++)
			if (pthread_create(&threads[i], NULL, short_life, NULL))
				return 4;
		for (int i = 0; i < 8; i++)
			pthread_join(threads[i], NULL);
	}
	VICTIM_WRITE(shared->state, 1);
	pause();
	return 0;
}

static void *sleeper(void *arg)
{
	if (arg)
		pthread_barrier_wait(arg);
	wait_for_end();
	return NULL;
}

/* N threads that sleep: all have begun, and so registered what libc registers for each. */
static int mode_sleep(void)
{
	pthread_barrier_t begun;
	pthread_t thread;

	shared->site = (u64)vic_site;
	pthread_barrier_init(&begun, NULL, (unsigned)number);
	for (int i = 1; i < number; i++)
		if (pthread_create(&thread, NULL, sleeper, &begun))
			return 4;
	pthread_barrier_wait(&begun);
	get_ready();
	wait_for_end();
	return 0;
}

/* The same, but they are not born before the test says `go`. */
static int mode_grow(void)
{
	pthread_t thread;

	shared->site = (u64)vic_site;
	get_ready();
	while (!VICTIM_READ(shared->go))
		usleep(1000);
	for (int i = 1; i < number; i++)
		if (pthread_create(&thread, NULL, sleeper, NULL))
			return 4;
	VICTIM_WRITE(shared->state, 1);
	wait_for_end();
	return 0;
}

/* A thread that stands inside the window. */
static int mode_park(void)
{
	u64 got;

	shared->site = (u64)vic_park;
	shared->parked = (u64)vic_park_loop;
	get_ready();
	got = vic_park(&shared->go);
	if (got != 42)
		shared->wrong++;
	VICTIM_WRITE(shared->state, 1);
	wait_for_end();
	return 0;
}

/* A signal handler on top of code: it runs where the test's code called it, or
 * in the middle of the window, until told to return. */
static void long_handler(int sig)
{
	VICTIM_WRITE(shared->state, 1);
	while (!VICTIM_READ(shared->go))
		;
	shared->signals++;
}

static int mode_handler(void)
{
	struct sigaction sa = { .sa_handler = long_handler };

	shared->site = (u64)vic_site;
	shared->parked = (u64)vic_park_loop;
	sigaction(SIGUSR1, &sa, NULL);
	get_ready();
	for (u64 i = 0; !VICTIM_READ(shared->stop); i++) {
		if (vic_site(i) != i + 1)
			shared->wrong++;
		VICTIM_WRITE(shared->calls[0], i + 1);
	}
	pause();
	return 0;
}

/* As park, but the thread is interrupted there by a handler. */
static int mode_park_handler(void)
{
	struct sigaction sa = { .sa_handler = long_handler };
	static u64 leave;

	shared->site = (u64)vic_park;
	shared->parked = (u64)vic_park_loop;
	sigaction(SIGUSR1, &sa, NULL);
	get_ready();
	vic_park(&leave);
	return 0;
}

/* A restartable system call as the window's last instruction. */
static int mode_restart(void)
{
	struct timespec ts = { 1000, 0 };

	shared->site = (u64)vic_syscall;
	get_ready();
	VICTIM_WRITE(shared->state, 1);
	vic_syscall(&ts, NULL, SYS_nanosleep);
	shared->wrong++;
	return 0;
}

/* Floating point, vector registers, signals, an alternate stack, system calls:
 * whatever a remote call might leave disturbed. */
static void count_signal(int sig)
{
	__atomic_fetch_add(&shared->signals, 1, __ATOMIC_RELEASE);
}

typedef double v4 __attribute__((vector_size(32)));

static int mode_compute(void)
{
	struct sigaction sa = { .sa_handler = count_signal, .sa_flags = SA_RESTART };
	static char alt[65536];
	stack_t ss = { .ss_sp = alt, .ss_size = sizeof(alt) }, now;
	volatile v4 seed = { 1.0, 1.0, 1.0, 1.0 };
	pid_t parent = getppid();

	shared->site = (u64)vic_site;
	sigaction(SIGUSR1, &sa, NULL);
	sigaltstack(&ss, NULL);
	get_ready();
	for (u64 i = 0; !VICTIM_READ(shared->stop); i++) {
		v4 y = seed;

		for (int k = 0; k < 50; k++)
			y = y * 1.5 - 0.5;
		for (int k = 0; k < 4; k++)
			if (y[k] != 1.0)
				shared->wrong++;
		if ((i & 63) == 0 && (getppid() != parent || sigaltstack(NULL, &now) || now.ss_sp != alt ||
				      now.ss_size != sizeof(alt)))
			shared->wrong++;
		if (vic_site(i) != i + 1)
			shared->wrong++;
		VICTIM_WRITE(shared->calls[0], i + 1);
	}
	VICTIM_WRITE(shared->state, 1);
	pause();
	return 0;
}

/* Blocking calls that a stop must not end. */
struct eintr_case {
	const char *name;
	int (*call)(void);
};

static int epfd, sockfd, listenfd, semid;

static int call_epoll_wait(void)
{
	struct epoll_event ev;

	return epoll_wait(epfd, &ev, 1, 20);
}

static int call_epoll_pwait(void)
{
	struct epoll_event ev;
	sigset_t set;

	sigemptyset(&set);
	return epoll_pwait(epfd, &ev, 1, 20, &set);
}

static int call_recv(void)
{
	char c;

	return recv(sockfd, &c, 1, 0) < 0 && errno == EINTR ? -1 : 0;
}

static int call_read(void)
{
	char c;

	return read(sockfd, &c, 1) < 0 && errno == EINTR ? -1 : 0;
}

static int call_accept(void)
{
	return accept(listenfd, NULL, NULL) < 0 && errno == EINTR ? -1 : 0;
}

static int call_sigtimedwait(void)
{
	struct timespec ts = { 0, 20000000 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return sigtimedwait(&set, NULL, &ts) < 0 && errno == EINTR ? -1 : 0;
}

static int call_nanosleep(void)
{
	struct timespec ts = { 0, 20000000 };

	return nanosleep(&ts, NULL);
}

static int call_poll(void)
{
	return poll(NULL, 0, 20);
}

static int call_semop(void)
{
	struct timespec ts = { 0, 20000000 };
	struct sembuf op = { .sem_op = -1 };

	return semtimedop(semid, &op, 1, &ts) < 0 && errno == EINTR ? -1 : 0;
}

static const struct eintr_case eintr_cases[] = {
	{ "epoll_wait", call_epoll_wait },	 { "epoll_pwait", call_epoll_pwait }, { "recv", call_recv },
	{ "read", call_read },			 { "accept", call_accept },	      { "sigtimedwait", call_sigtimedwait },
	{ "nanosleep", call_nanosleep },	 { "poll", call_poll },		      { "semtimedop", call_semop },
};

static void *eintr_loop(void *arg)
{
	size_t i = (size_t)arg;

	while (!VICTIM_READ(shared->stop)) {
		errno = 0;
		if (eintr_cases[i].call() < 0 && errno == EINTR) {
			fprintf(stderr, "EINTR from %s\n", eintr_cases[i].name);
			__atomic_fetch_add(&shared->eintr, 1, __ATOMIC_RELAXED);
		}
		__atomic_fetch_add(&shared->calls[i], 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static int mode_eintr(void)
{
	struct timeval tv = { 0, 20000 };
	int pair[2];
	pthread_t thread;

	epfd = epoll_create1(0);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		return 4;
	sockfd = pair[0];
	listenfd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(listenfd, &(struct sockaddr){ .sa_family = AF_UNIX }, sizeof(sa_family_t)) || listen(listenfd, 1))
		return 4;
	setsockopt(sockfd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(listenfd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	semid = semget(IPC_PRIVATE, 1, 0600);
	shared->site = (u64)vic_site;
	for (size_t i = 0; i < ARRAY_SIZE(eintr_cases); i++)
		if (pthread_create(&thread, NULL, eintr_loop, (void *)i))
			return 4;
	get_ready();
	wait_for_end();
	semctl(semid, 0, IPC_RMID);
	VICTIM_WRITE(shared->state, 1);
	pause();
	return 0;
}

static int mode_blocked(void)
{
	shared->site = (u64)vic_site;
	return blocked_run(shared, get_ready);
}

/* A filter that kills whoever calls mmap, memfd_create or recvmsg; with N = 1
 * rt_sigreturn as well, with N = 2 process_vm_readv and gettid, and getuid fails. */
static int mode_seccomp(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 8, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 7, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_recvmsg, 6, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number == 1 ? SYS_rt_sigreturn : 0xffffffff, 5, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number == 2 ? SYS_process_vm_readv : 0xffffffff, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number == 2 ? SYS_gettid : 0xffffffff, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number == 2 ? SYS_getuid : 0xffffffff, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog prog = { ARRAY_SIZE(f), f };

	shared->site = (u64)vic_site;
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		return 4;
	get_ready();
	for (u64 i = 0; !VICTIM_READ(shared->stop); i++) {
		VICTIM_WRITE(shared->calls[0], vic_site(i));
		usleep(100);
	}
	return 0;
}

/* No descriptor left. */
static int mode_nofile(void)
{
	struct rlimit lim = { 32, 32 };

	shared->site = (u64)vic_site;
	get_ready();
	setrlimit(RLIMIT_NOFILE, &lim);
	while (dup(0) >= 0)
		;
	VICTIM_WRITE(shared->state, 1);
	wait_for_end();
	return 0;
}

/* Forks a child when told to; both call the site. */
static int mode_fork(void)
{
	shared->site = (u64)vic_site;
	get_ready();
	while (!VICTIM_READ(shared->go))
		usleep(500);
	shared->child = fork();
	if (!shared->child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!VICTIM_READ(shared->stop)) {
			if (vic_site(3) != 4)
				shared->wrong++;
			shared->calls[1]++;
			usleep(100);
		}
		_exit(0);
	}
	VICTIM_WRITE(shared->state, 1);
	while (!VICTIM_READ(shared->stop)) {
		if (vic_site(3) != 4)
			shared->wrong++;
		shared->calls[0]++;
		usleep(100);
	}
	waitpid(shared->child, NULL, 0);
	return 0;
}

/* Waits in the kernel for a vfork child that takes its time. */
static int mode_vfork(void)
{
	shared->site = (u64)vic_site;
	get_ready();
	if (!vfork()) {
		shared->child = getpid();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!VICTIM_READ(shared->go))
			usleep(500);
		_exit(0);
	}
	VICTIM_WRITE(shared->state, 1);
	wait_for_end();
	return 0;
}

/* The leader ends, a thread lives on. */
static void *survivor(void *arg)
{
	char stat[512] = "";
	int fd = open("/proc/self/stat", O_RDONLY);

	/* Until the leader is a zombie. */
	while (pread(fd, stat, sizeof(stat) - 1, 0) > 0 && !strstr(stat, ") Z "))
		usleep(500);
	close(fd);
	get_ready();
	wait_for_end();
	_exit(0);
}

static int mode_leaderless(void)
{
	pthread_t thread;

	shared->site = (u64)vic_site;
	if (pthread_create(&thread, NULL, survivor, NULL))
		return 4;
	pthread_exit(NULL);
}

static const struct {
	const char *name;
	int (*run)(void);
} modes[] = {
	{ "hammer", mode_hammer },	 { "churn", mode_churn },     { "sleep", mode_sleep },
	{ "grow", mode_grow },
	{ "park", mode_park },		 { "handler", mode_handler }, { "park_handler", mode_park_handler },
	{ "restart", mode_restart },	 { "compute", mode_compute }, { "eintr", mode_eintr },
	{ "seccomp", mode_seccomp },	 { "nofile", mode_nofile },   { "fork", mode_fork },
	{ "vfork", mode_vfork },	 { "leaderless", mode_leaderless }, { "blocked", mode_blocked },
};

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	number = atoi(argv[2]);
	ready_fd = atoi(argv[4]);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[3]), 0);
	if (shared == MAP_FAILED)
		return 2;
	close(atoi(argv[3]));
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		if (!strcmp(argv[1], modes[i].name))
			return modes[i].run();
	return 2;
}
