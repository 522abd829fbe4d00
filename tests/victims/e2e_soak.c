/* SPDX-License-Identifier: MIT */
/*
 * A server that trusts nobody: half of its threads send requests to the other
 * half over socket pairs, and everybody checks what a tracer could spoil, in every
 * round: results, callee-saved and argument registers across the probed call, that
 * each request has its answer and no call fails, the signal mask, the descriptors
 * that it opened itself. "check" prints "ROUNDS WRONG WHAT": how many requests were
 * answered, how often something was not as it must be, and what the first time;
 * "fds" prints the number of open descriptors. argv[1]: how many threads.
 *
 * One more thread waits in epoll_wait with a time-out of 5 ms, which must never
 * fail; "timeouts" prints how many it has seen, "eintr" how often it failed with
 * EINTR all the same, which the test may allow.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "e2e_victim.h"

#define REST_EVERY 32 /* requests, a millisecond: the daemon needs a CPU, too */

static uint64_t wrong, timeouts, interrupted;
static char first[256];
static int npairs;

static struct pair {
	int ends[2];
	ino_t inodes[2];
	uint64_t rounds;
	char pad[40];
} pairs[64];

static __attribute__((format(printf, 1, 2))) void complain(const char *fmt, ...)
{
	va_list ap;

	if (__atomic_fetch_add(&wrong, 1, __ATOMIC_ACQ_REL))
		return;
	va_start(ap, fmt);
	vsnprintf(first, sizeof(first), fmt, ap);
	va_end(ap);
}

PROBED uint64_t request_key(uint64_t x);
PROBED uint64_t request_key(uint64_t x)
{
	return x * 2654435761u + 12345;
}

PROBED uint64_t request_work(uint64_t x);
PROBED uint64_t request_work(uint64_t x)
{
	uint64_t h = x;

	for (int i = 0; i < 8; i++)
		h = (h ^ h >> 7) * 0x9e3779b97f4a7c15ull;
	return h ^ request_key(x);
}

/* hand-written: with patterns in all callee-saved registers; 0 when they came back.
 * rdi: x, rsi: where the result goes */
uint64_t call_guarded(uint64_t x, uint64_t *ret);
__asm__(".text\n.p2align 4\n.globl call_guarded\n.type call_guarded, @function\n"
	"call_guarded:\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	push %rsi\n"
	"	lea 1(%rdi), %rbx\n"
	"	lea 2(%rdi), %rbp\n"
	"	lea 3(%rdi), %r12\n"
	"	lea 4(%rdi), %r13\n"
	"	lea 5(%rdi), %r14\n"
	"	lea 6(%rdi), %r15\n"
	"	call request_work\n"
	"	pop %rsi\n"
	"	mov %rax, (%rsi)\n"
	"	mov %rbx, %rax\n"
	"	sub %rbp, %rax\n"
	"	inc %rax\n"          /* 0 */
	"	lea 1(%rbp), %rcx\n"
	"	sub %r12, %rcx\n"
	"	or %rcx, %rax\n"
	"	lea 1(%r12), %rcx\n"
	"	sub %r13, %rcx\n"
	"	or %rcx, %rax\n"
	"	lea 1(%r13), %rcx\n"
	"	sub %r14, %rcx\n"
	"	or %rcx, %rax\n"
	"	lea 1(%r14), %rcx\n"
	"	sub %r15, %rcx\n"
	"	or %rcx, %rax\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbp\n"
	"	pop %rbx\n"
	"	ret\n"
	".size call_guarded, . - call_guarded\n");

/* The same sums without a function that anybody probes. */
static inline __attribute__((always_inline)) uint64_t expected(uint64_t x)
{
	uint64_t h = x;

	for (int i = 0; i < 8; i++)
		h = (h ^ h >> 7) * 0x9e3779b97f4a7c15ull;
	return h ^ (x * 2654435761u + 12345);
}

static void check_mask(const char *who)
{
	sigset_t now;

	if (pthread_sigmask(SIG_BLOCK, NULL, &now))
		complain("%s: no signal mask", who);
	for (int i = 1; i < SIGRTMAX; i++)
		if (sigismember(&now, i) == 1)
			complain("%s: signal %d is blocked", who, i);
}

static void check_fd(int fd, ino_t inode)
{
	struct stat st;

	if (fstat(fd, &st))
		complain("descriptor %d: %s", fd, strerror(errno));
	else if (st.st_ino != inode)
		complain("descriptor %d is another file", fd);
}

static void *serve(void *arg)
{
	struct pair *p = arg;
	uint64_t x, answer;

	for (;;) {
		ssize_t n = read(p->ends[1], &x, sizeof(x));

		if (n != sizeof(x)) {
			complain("server: read gives %zd (%s)", n, strerror(errno));
			continue;
		}
		if (call_guarded(x, &answer))
			complain("server: a callee-saved register has changed");
		if (answer != expected(x))
			complain("server: request_work(%lu) = %lu", (unsigned long)x, (unsigned long)answer);
		check_mask("server");
		n = write(p->ends[1], &answer, sizeof(answer));
		if (n != sizeof(answer))
			complain("server: write gives %zd (%s)", n, strerror(errno));
	}
	return NULL;
}

static void *ask(void *arg)
{
	struct pair *p = arg;
	uint64_t answer;

	for (uint64_t x = 0;; x++) {
		ssize_t n = write(p->ends[0], &x, sizeof(x));

		if (n != sizeof(x))
			complain("client: write gives %zd (%s)", n, strerror(errno));
		n = read(p->ends[0], &answer, sizeof(answer));
		if (n != sizeof(answer))
			complain("client: read gives %zd (%s)", n, strerror(errno));
		else if (answer != expected(x))
			complain("request %lu has the wrong answer", (unsigned long)x);
		check_mask("client");
		check_fd(p->ends[0], p->inodes[0]);
		check_fd(p->ends[1], p->inodes[1]);
		__atomic_store_n(&p->rounds, x + 1, __ATOMIC_RELAXED);
		if (x % REST_EVERY == 0)
			usleep(1000);
	}
	return NULL;
}

static void *wait_in_vain(void *arg)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev;

	for (;;) {
		int n = epoll_wait(epoll, &ev, 1, 5);

		if (n < 0 && errno == EINTR)
			__atomic_add_fetch(&interrupted, 1, __ATOMIC_RELAXED);
		else if (n)
			complain("epoll_wait gives %d (%s)", n, strerror(errno));
		__atomic_add_fetch(&timeouts, 1, __ATOMIC_RELAXED);
	}
	return arg;
}

static int start_pair(struct pair *p)
{
	struct stat st;
	pthread_t t;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p->ends))
		return -1;
	for (int i = 0; i < 2; i++) {
		if (fstat(p->ends[i], &st))
			return -1;
		p->inodes[i] = st.st_ino;
	}
	return pthread_create(&t, NULL, serve, p) || pthread_create(&t, NULL, ask, p) ? -1 : 0;
}

static int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 3; /* itself, and the two dots */
}

static uint64_t rounds(void)
{
	uint64_t n = 0;

	for (int i = 0; i < npairs; i++)
		n += __atomic_load_n(&pairs[i].rounds, __ATOMIC_RELAXED);
	return n;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 16;
	pthread_t t;

	for (npairs = 0; npairs < threads / 2 && npairs < 64; npairs++)
		if (start_pair(&pairs[npairs]))
			return 1;
	if (pthread_create(&t, NULL, wait_in_vain, NULL))
		return 1;
	victim_ready();
	for (;;) {
		char *command = victim_command();

		if (!strcmp(command, "fds"))
			printf("%d\n", count_fds());
		else if (!strcmp(command, "timeouts"))
			printf("%llu\n", (unsigned long long)__atomic_load_n(&timeouts, __ATOMIC_RELAXED));
		else if (!strcmp(command, "eintr"))
			printf("%llu\n", (unsigned long long)__atomic_load_n(&interrupted, __ATOMIC_RELAXED));
		else
			printf("%llu %llu %s\n", (unsigned long long)rounds(),
			       (unsigned long long)__atomic_load_n(&wrong, __ATOMIC_ACQUIRE), first);
		fflush(stdout);
	}
}
