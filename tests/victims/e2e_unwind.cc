/* SPDX-License-Identifier: MIT */
/*
 * Everything that leaves a function in another way than by its return. The
 * functions named p_* end by a jump that nobody can follow, so that their returns
 * have to be taken over. A command is a case and how often; the answer is "ok", or
 * what went wrong.
 */
#include <csetjmp>
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdexcept>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <vector>

#include "e2e_victim.h"

extern "C" {

static long nowhere(long n) { return n; }
typedef long (*long_fn)(long);
long_fn volatile escape = nowhere;

/* In each of them: a jump to what a register holds. Where it is computed nobody can
 * tell it from a switch, so that returns are taken over at the entry. */
#ifdef AT_ENTRY
#define ESCAPE_INSN "add $0, %0"
#else
#define ESCAPE_INSN "lea (%0), %0"
#endif
#define ESCAPE(n)                                                                                                     \
	if (n < -1000) {                                                                                              \
		long_fn f = escape;                                                                                   \
		__asm__(ESCAPE_INSN : "+r"(f));                                                                           \
		return f(n);                                                                                          \
	}                                                                                                             \
	__asm__ volatile("" ::: "memory")

PROBED long p_leaf(long n) { ESCAPE(n); return n + 1; }
PROBED long p_fib(long n) { ESCAPE(n); return n < 2 ? n : p_fib(n - 1) + p_fib(n - 2); }
PROBED long p_deep(long n)
{
	volatile long v = n;

	ESCAPE(n);
	return n ? p_deep(n - 1) + (v == n) : 0;
}

static jmp_buf back;
PROBED long p_jump(long n)
{
	ESCAPE(n);
	volatile long v = n;

	if (!n)
		longjmp(back, 1);
	return p_jump(n - 1) + v;
}

struct calls_probed {
	long *sum;
	~calls_probed() { *sum += p_leaf(1); }
};
static long destroyed;
PROBED long p_throw(long n)
{
	calls_probed d = { &destroyed };

	ESCAPE(n);
	volatile long v = n;
	if (!n)
		throw std::runtime_error("thrown");
	return p_throw(n - 1) + v;
}
PROBED long p_catch(long n)
{
	ESCAPE(n);
	try {
		return p_throw(n);
	} catch (std::exception &) {
		return 77;
	}
}
PROBED long p_rethrow(long n)
{
	ESCAPE(n);
	try {
		return p_throw(n);
	} catch (std::exception &) {
		throw;
	}
}
PROBED long p_nested(long n)
{
	long r = 0;

	ESCAPE(n);
	try {
		p_rethrow(n);
	} catch (std::exception &) {
		r = p_catch(n);
	}
	return r + 1;
}
PROBED long p_outer(long n) { ESCAPE(n); return p_nested(n) + 1; }

PROBED long p_trace(long n, void **frames)
{
	ESCAPE(n);
	volatile long v = 0;
	return (n ? p_trace(n - 1, frames) : backtrace(frames, 64)) + v;
}

static ucontext_t ctx_a, ctx_b, ctx_main;
static volatile long traced;
PROBED long p_yield_a(long n) { ESCAPE(n); swapcontext(&ctx_a, &ctx_b); return n + 1; }
PROBED long p_yield_b(long n) { ESCAPE(n); swapcontext(&ctx_b, &ctx_a); return n + 2; }
PROBED int p_switch(ucontext_t *from, ucontext_t *to) { return swapcontext(from, to); } /* jumps there */
PROBED long p_park(long n)
{
	ESCAPE(n);
	p_switch(&ctx_a, &ctx_main);
	return n + 5;
}
static void coroutine_a(void)
{
	for (int i = 0; i < 3; i++)
		traced += p_yield_a(i);
	swapcontext(&ctx_a, &ctx_main);
}
static void coroutine_b(void)
{
	for (int i = 0; i < 3; i++)
		traced += p_yield_b(i);
	swapcontext(&ctx_b, &ctx_main);
}
static void coroutine_parks(void)
{
	traced = p_park(10);
	swapcontext(&ctx_a, &ctx_main);
}
static void coroutine_throws(void)
{
	traced = p_park(10);
	traced += p_catch(3);
	swapcontext(&ctx_a, &ctx_main);
}

PROBED long p_fork(long n, pid_t *child) { ESCAPE(n); *child = fork(); return n + 1; }
PROBED long p_around_fork(long n, pid_t *child) { ESCAPE(n); return p_fork(n, child) + 1; }

PROBED long p_exits(long n)
{
	ESCAPE(n);
	if (!n)
		pthread_exit((void *)5);
	volatile long v = n;
	return p_exits(n - 1) + v;
}
PROBED long p_waits(long n, int fd)
{
	char c;

	ESCAPE(n);
	if (!n)
		return read(fd, &c, 1);
	volatile long v = n;
	return p_waits(n - 1, fd) + v;
}

PROBED long p_spin(long n)
{
	volatile long y = n;

	ESCAPE(n);
	for (int i = 0; i < 50; i++)
		y += i;
	return y;
}

PROBED long p_tail3(long n) { return p_leaf(n + 1); }
PROBED long p_tail2(long n) { return p_tail3(n + 1); }
PROBED long p_tail1(long n) { if (n & 1) return p_tail2(n); return p_tail3(n); }

struct big {
	long v[5];
};
PROBED big p_struct(long n) { big b = { { n, n + 1, n + 2, n + 3, n + 4 } }; if (n < -1000) escape(n); return b; }
PROBED double p_double(long n, double x) { return n < -1000 ? (double)escape(n) : x * 2; }
PROBED long double p_x87(long n, long double x) { return n < -1000 ? (long double)escape(n) : x + n; }
PROBED __int128 p_pair(long n) { return n < -1000 ? (__int128)escape(n) : (__int128)n << 64 | 7; }
PROBED long p_many(long a, long b, long c, long d, long e, long f, long g, long h, double x)
{
	ESCAPE(a);
	return a + b + c + d + e + f + g * 100 + h * 1000 + (long)x;
}

} /* extern "C" */

/* ---- cases: 0 is right ---- */

static int c_values(long n)
{
	big b = p_struct(n);
	__int128 pair = p_pair(n);

	return b.v[4] != n + 4 || p_double(n, 1.5) != 3.0 || p_x87(n, 1.25L) != n + 1.25L || (long)(pair >> 64) != n ||
	       (long)pair != 7 || p_many(1, 2, 3, 4, 5, 6, 7, 8, 9.0) != 8730 || p_fib(10) != 55;
}
static int c_tails(long n) { return p_tail1(n) != (n & 1 ? n + 3 : n + 2); }
static int c_deep(long) { return p_deep(10000) != 10000; }
static int c_longjmp(long)
{
	if (!_setjmp(back))
		p_jump(20);
	return p_fib(5) != 5;
}
static int c_throw(long)
{
	destroyed = 0;
	try {
		p_throw(5);
		return 1;
	} catch (std::exception &) {
	}
	return destroyed != 12;
}
static int c_nested(long) { return p_outer(4) != 79; }

static int c_backtrace(long)
{
	static void *first[64], *frames[64];
	static long nfirst;
	long n = p_trace(7, frames);

	if (!nfirst) { /* before the probes came */
		memcpy(first, frames, sizeof(frames));
		nfirst = n;
	}
	return n != nfirst || memcmp(first + 1, frames + 1, (n - 1) * sizeof(void *)) ? 1 : 0;
}

static void on_stack(ucontext_t *u, void (*fn)(void))
{
	static std::vector<char> stacks[2];
	std::vector<char> &s = stacks[u == &ctx_b];

	s.resize(262144);
	getcontext(u);
	u->uc_stack.ss_sp = s.data();
	u->uc_stack.ss_size = s.size();
	u->uc_link = nullptr;
	makecontext(u, fn, 0);
}
static int c_coroutines(long)
{
	traced = 0;
	on_stack(&ctx_a, coroutine_a);
	on_stack(&ctx_b, coroutine_b);
	swapcontext(&ctx_main, &ctx_a);
	return traced != 1 + 2 + 3 + 2 + 3;
}
static void *resume(void *)
{
	p_switch(&ctx_main, &ctx_a);
	return nullptr;
}
static int migrate(void (*fn)(void), long want)
{
	pthread_t t;

	traced = 0;
	on_stack(&ctx_a, fn);
	p_switch(&ctx_main, &ctx_a);
	pthread_create(&t, nullptr, resume, nullptr);
	pthread_join(t, nullptr);
	return traced != want;
}
static int c_migrate(long) { return migrate(coroutine_parks, 15); }
static int c_migrate_throw(long) { return migrate(coroutine_throws, 92); }

static int c_fork(long)
{
	pid_t child;
	long r = p_around_fork(1, &child);
	int st;

	if (!child) {
		for (int i = 0; i < 100; i++)
			r += p_fib(8) - 21;
		r += p_catch(3) - 77;
		_exit(r == 3 ? 0 : 1);
	}
	for (int i = 0; i < 100; i++)
		r += p_fib(8) - 21;
	waitpid(child, &st, 0);
	return r != 3 || st;
}

static void *exiting(void *)
{
	p_exits(5);
	return nullptr;
}
static int c_exit(long)
{
	pthread_t t;
	void *r;

	pthread_create(&t, nullptr, exiting, nullptr);
	pthread_join(t, &r);
	return r != (void *)5;
}
/* Deep down in a thread that was not there at the attach: what is caught there does
 * not end the frames above. */
extern "C" PROBED long p_sink(long n)
{
	volatile char room[3000];

	ESCAPE(n);
	if (!n)
		return p_catch(3);
	room[n] = (char)n;
	long r = p_sink(n - 1);
	return r + room[n] - (char)n;
}
static void *sinking(void *)
{
	long first = p_leaf(1); /* a page of its stack is seen now, most of it later */

	return (void *)(first != 2 || p_sink(100) != 77);
}
static int c_late(long)
{
	pthread_t t;
	void *bad;

	pthread_create(&t, nullptr, sinking, nullptr);
	pthread_join(t, &bad);
	return bad != nullptr;
}

static void *calling(void *)
{
	return (void *)(p_fib(5) != 5);
}
static int c_churn(long)
{
	pthread_t t;
	void *bad;

	pthread_create(&t, nullptr, calling, nullptr);
	pthread_join(t, &bad);
	return bad != nullptr;
}

static int pipe_fds[2];
static void *waiting(void *)
{
	p_waits(5, pipe_fds[0]);
	return nullptr;
}
static int c_cancel(long)
{
	pthread_t t;
	void *r;

	if (!pipe_fds[1] && pipe(pipe_fds))
		return 2;
	pthread_create(&t, nullptr, waiting, nullptr);
	for (int i = 0; i < 200; i++)
		sched_yield();
	pthread_cancel(t);
	pthread_join(t, &r);
	return r != PTHREAD_CANCELED;
}

static volatile long handled, wrong;
static void on_alarm(int)
{
	handled++;
	wrong += p_fib(3) != 2 || p_catch(2) != 77;
}
static int c_signals(long)
{
	struct itimerval on = { { 0, 200 }, { 0, 200 } }, off = {};
	long until = handled + 50;

	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &on, nullptr);
	while (handled < until && !wrong)
		for (int i = 0; i < 100; i++)
			wrong += p_spin(i) != i + 1225 || p_fib(6) != 8 || p_catch(2) != 77 || p_tail1(i) != (i & 1 ? i + 3 : i + 2);
	setitimer(ITIMER_REAL, &off, nullptr);
	return wrong;
}

static int c_dlsym(long) { return !dlsym(RTLD_DEFAULT, "malloc") || !dlsym(RTLD_NEXT, "free"); }

static const struct {
	const char *name;
	int (*fn)(long n);
} cases[] = {
	{ "values", c_values }, { "tails", c_tails }, { "deep", c_deep }, { "longjmp", c_longjmp }, { "throw", c_throw },
	{ "nested", c_nested }, { "backtrace", c_backtrace }, { "coroutines", c_coroutines }, { "migrate", c_migrate },
	{ "migrate_throw", c_migrate_throw }, { "fork", c_fork }, { "exit", c_exit }, { "cancel", c_cancel },
	{ "signals", c_signals }, { "dlsym", c_dlsym }, { "late", c_late }, { "churn", c_churn },
};

static const char *run_case(const char *name, long n)
{
	for (const auto &c : cases)
		if (!strcmp(c.name, name)) {
			for (long i = 0; i < n; i++)
				if (c.fn(i))
					return "wrong";
			return "ok";
		}
	return "no such case";
}

/* Threads, and a child, that stay inside until they are let go. */
static std::vector<pthread_t> held;
static pid_t held_child;
static int child_fds[2];
static void *hold(void *)
{
	return (void *)(p_waits(5, pipe_fds[0]) != 16);
}
static const char *hold_all(long n)
{
	if (pipe(pipe_fds) || pipe(child_fds))
		return "wrong";
	p_around_fork(1, &held_child);
	if (!held_child) {
		signal(SIGTERM, SIG_DFL);
		_exit(p_waits(7, child_fds[0]) != 29);
	}
	held.resize(n);
	for (auto &t : held)
		pthread_create(&t, nullptr, hold, nullptr);
	return "ok";
}
static const char *let_go(void)
{
	const char *answer = "ok";
	void *bad;
	int st;

	for (size_t i = 0; i < held.size(); i++)
		if (write(pipe_fds[1], "x", 1) != 1)
			answer = "wrong";
	for (auto &t : held) {
		pthread_join(t, &bad);
		answer = bad ? "wrong" : answer;
	}
	held.clear();
	if (write(child_fds[1], "x", 1) != 1 || waitpid(held_child, &st, 0) != held_child || st)
		answer = "wrong in the child";
	for (int fd : { pipe_fds[0], pipe_fds[1], child_fds[0], child_fds[1] })
		close(fd);
	return answer;
}

static volatile bool hammering;
static void *hammer(void *)
{
	long bad = 0;

	while (hammering && !bad)
		for (long i = 0; i < 100; i++)
			bad += c_tails(i) || c_values(i) || p_catch(3) != 77;
	return (void *)bad;
}

int main()
{
	std::vector<pthread_t> threads;
	char name[64];
	long n;

	victim_ready();
	for (;;) {
		const char *line = victim_command();

		if (sscanf(line, "%63s %ld", name, &n) != 2) {
			say("?");
		} else if (!strcmp(name, "hammer")) {
			hammering = true;
			threads.resize(n);
			for (auto &t : threads)
				pthread_create(&t, nullptr, hammer, nullptr);
			say("ok");
		} else if (!strcmp(name, "rest")) {
			void *bad, *any = nullptr;

			hammering = false;
			for (auto &t : threads) {
				pthread_join(t, &bad);
				any = bad ? bad : any;
			}
			threads.clear();
			say(any ? "wrong" : "ok");
		} else if (!strcmp(name, "hold")) {
			say(hold_all(n));
		} else if (!strcmp(name, "let_go")) {
			say(let_go());
		} else {
			say(run_case(name, n));
		}
	}
}
