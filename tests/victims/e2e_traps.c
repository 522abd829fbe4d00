/* SPDX-License-Identifier: MIT */
/*
 * Functions that no jump fits into, called in every state that a program can be in
 * with its signals, and a program's own dealings with SIGTRAP. "CASE N" answers
 * "ok", or says what was not as it should be.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

#include "e2e_victim.h"

/* Four bytes, one, and four into which something jumps, in a row. */
uint64_t t_add(uint64_t n);
void t_nothing(void);
uint64_t t_loop(uint64_t n);
uint64_t t_middle(uint64_t n);
uint64_t t_near(uint64_t n);
void t_end(void);
__asm__(".text\n.p2align 4\n"
	".globl t_add, t_nothing, t_loop, t_end\n"
	".type t_add, @function\n.type t_nothing, @function\n.type t_loop, @function\n.type t_end, @function\n"
	"t_add:\n"
	"	lea 1(%rdi), %eax\n"
	"	ret\n"
	".size t_add, . - t_add\n"
	"t_nothing:\n"
	"	ret\n"
	".size t_nothing, . - t_nothing\n"
	"t_loop:\n"
	"	mov %edi, %eax\n"
	"1:	dec %eax\n"
	"	jg 1b\n"
	"	ret\n"
	".size t_loop, . - t_loop\n"
	/* Its ret is too near to what is jumped to; its return could be taken over. */
	".globl t_near\n.type t_near, @function\n"
	"t_near:\n"
	"	.cfi_startproc\n"
	"	lea 7(%rdi), %rax\n"
	"	nopl 0(%rax)\n"
	"	test %edi, %edi\n"
	"	jns 1f\n"
	"	neg %rax\n"
	"1:	ret\n"
	"	.cfi_endproc\n"
	".size t_near, . - t_near\n"
	/* Behind its push (+2) something jumps, and a short jump would lead into our own data. */
	".globl t_middle\n.type t_middle, @function\n"
	"t_middle:\n"
	"	mov %edi, %ecx\n"
	"	push %rdi\n"
	"1:	nopl (%rax)\n"
	"	add %al, %al\n"
	"	dec %ecx\n"
	"	jnz 1b\n"
	"	pop %rax\n"
	"	ret\n"
	".size t_middle, . - t_middle\n"
	"t_end:\n"
	"	ret\n"
	".size t_end, . - t_end\n");

static const char *calls(void)
{
	if (t_add(41) != 42)
		return "t_add";
	t_nothing();
	if (t_loop(3) != 0)
		return "t_loop";
	if (t_middle(4) != 4)
		return "t_middle";
	if (t_near(4) != 11)
		return "t_near";
	return NULL;
}

static volatile const char *wrong; /* of handlers and threads */

static void check_calls(void)
{
	const char *w = calls();

	if (w)
		wrong = w;
}

static const char *plain(void)
{
	return calls();
}

static void on_usr1(int sig)
{
	check_calls();
}

static const char *usr1(int flags, bool fill, bool by_thread)
{
	struct sigaction sa = { .sa_handler = on_usr1, .sa_flags = flags }, got;

	if (fill)
		sigfillset(&sa.sa_mask);
	if (sigaction(SIGUSR1, &sa, NULL) || sigaction(SIGUSR1, NULL, &got))
		return "sigaction";
	if (got.sa_handler != on_usr1 || sigismember(&got.sa_mask, SIGTRAP) != fill ||
	    sigismember(&got.sa_mask, SIGUSR2) != fill)
		return "the handler of SIGUSR1 is not what was installed";
	if (by_thread)
		pthread_kill(pthread_self(), SIGUSR1);
	else
		kill(getpid(), SIGUSR1);
	return NULL;
}

static const char *in_handler(void)
{
	return usr1(0, false, false);
}

/* Handlers that are to block everything, one that was installed before the probes too. */
static const char *in_masked_handler(void)
{
	return usr1(SA_RESTART, true, true);
}

static void on_usr2(int sig)
{
	check_calls();
	raise(SIGUSR1);
}

static const char *in_old_handler(void)
{
	struct sigaction got;

	sigaction(SIGUSR2, NULL, &got);
	if (got.sa_handler != on_usr2 || !sigismember(&got.sa_mask, SIGTRAP) || !sigismember(&got.sa_mask, SIGHUP))
		return "the handler of SIGUSR2 is not what was installed";
	raise(SIGUSR2);
	return NULL;
}

static const char *on_alternate_stack(void)
{
	static char stack[16384];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) }, off = { .ss_flags = SS_DISABLE };
	const char *w;

	sigaltstack(&ss, NULL);
	w = usr1(SA_ONSTACK, false, false);
	w = w ? w : calls();
	sigaltstack(&off, NULL);
	return w;
}

static const char *all_blocked(void)
{
	sigset_t all, old, now;
	const char *w;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	w = calls();
	pthread_sigmask(SIG_SETMASK, &old, &now);
	if (!w && (!sigismember(&now, SIGUSR1) || !sigismember(&now, SIGTRAP)))
		return "what was blocked was not";
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	if (!w && (sigismember(&now, SIGUSR1) || sigismember(&now, SIGTRAP)))
		return "what is not blocked is";
	sigemptyset(&all);
	sigaddset(&all, SIGTRAP);
	if (!w && (sigprocmask(SIG_BLOCK, &all, NULL) || (w = calls()) || sigprocmask(SIG_UNBLOCK, &all, &now)))
		return w ? w : "sigprocmask";
	return w ? w : sigismember(&now, SIGTRAP) ? NULL : "SIGTRAP was not blocked";
}

static const char *errors(void)
{
	if (syscall(SYS_rt_sigprocmask, SIG_BLOCK, (void *)8, NULL, 8) != -1 || errno != EFAULT)
		return "a bad mask is no EFAULT";
	if (sigaction(65, NULL, &(struct sigaction){}) != -1 || errno != EINVAL)
		return "signal 65 is no EINVAL";
	if (sigprocmask(17, &(sigset_t){}, NULL) != -1 || errno != EINVAL)
		return "17 is no EINVAL";
	return calls();
}

static void *one_thread(void *arg)
{
	check_calls();
	return NULL;
}

static void *short_lived(void *arg)
{
	return arg;
}

/* Threads that end block all signals, and do not come back to be taken out of the list. */
static const char *many_end(void)
{
	pthread_t t;

	for (int i = 0; i < 1000; i++)
		if (pthread_create(&t, NULL, short_lived, NULL) || pthread_join(t, NULL))
			return "pthread_create";
	return NULL;
}

/* Their maker blocks all signals for a moment. */
static const char *new_threads(void)
{
	pthread_t t[4];

	for (int i = 0; i < 4; i++)
		if (pthread_create(&t[i], NULL, one_thread, NULL))
			return "pthread_create";
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	return NULL;
}

static const char *child_ended(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return "waitpid";
	return status ? "the child did not end well" : NULL;
}

static const char *fork_child(void)
{
	pid_t pid = fork();

	if (!pid)
		_exit(calls() || calls() || calls());
	return child_ended(pid);
}

static void on_trap(int sig, siginfo_t *info, void *uc);

/* A child changes its own SIGTRAP; ours stays as it is. */
static const char *fork_and_change(void)
{
	struct sigaction got;
	pid_t pid = fork();

	if (!pid) {
		signal(SIGTRAP, SIG_IGN);
		raise(SIGTRAP);
		_exit(calls() || signal(SIGTRAP, SIG_DFL) != SIG_IGN || calls());
	}
	sigaction(SIGTRAP, NULL, &got);
	return child_ended(pid);
}

extern char **environ;

static const char *spawn(void)
{
	char *argv[] = { (char *)"true", NULL };
	struct sigaction before, after;
	posix_spawnattr_t attr;
	sigset_t all;
	pid_t pid;

	sigaction(SIGTRAP, NULL, &before);
	sigfillset(&all);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setsigmask(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	if (posix_spawn(&pid, "/bin/true", NULL, &attr, argv, environ))
		return "posix_spawn";
	posix_spawnattr_destroy(&attr);
	sigaction(SIGTRAP, NULL, &after);
	if (before.sa_handler != after.sa_handler)
		return "a child that was spawned has changed our SIGTRAP";
	return child_ended(pid);
}

static const char *vfork_child(void)
{
	pid_t pid = vfork();

	if (!pid) {
		if (calls())
			_exit(1);
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	return child_ended(pid);
}

/*
 * SIGTRAP as the program's own.
 */

static volatile struct {
	int calls, code;
	uint64_t rip;
	bool alternate, blocked_usr2;
} trap;

static char trap_stack[32768];

static void on_trap(int sig, siginfo_t *info, void *uc)
{
	sigset_t now;

	trap.calls++;
	trap.code = info->si_code;
	trap.rip = (uint64_t)((ucontext_t *)uc)->uc_mcontext.gregs[REG_RIP];
	trap.alternate = (char *)&now >= trap_stack && (char *)&now < trap_stack + sizeof(trap_stack);
	sigprocmask(SIG_BLOCK, NULL, &now);
	trap.blocked_usr2 = sigismember(&now, SIGUSR2);
	check_calls();
}

static void on_trap_plain(int sig)
{
	trap.calls++;
	check_calls();
}

extern const char own_int3[];
void meet_int3(void);
__asm__("meet_int3:\n int3\nown_int3:\n ret\n");

static const char *own_handler(int flags, bool mask)
{
	struct sigaction sa = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | flags }, got, old;
	stack_t ss = { .ss_sp = trap_stack, .ss_size = sizeof(trap_stack) };

	if (mask)
		sigaddset(&sa.sa_mask, SIGUSR2);
	sigaltstack(&ss, NULL);
	if (sigaction(SIGTRAP, &sa, &old))
		return "sigaction";
	if (old.sa_handler != SIG_DFL)
		return "SIGTRAP was not SIG_DFL";
	if (sigaction(SIGTRAP, NULL, &got) || got.sa_sigaction != on_trap || (got.sa_flags & ~0x04000000) != sa.sa_flags ||
	    sigismember(&got.sa_mask, SIGUSR2) != mask)
		return "the handler of SIGTRAP is not what was installed";
	trap.calls = 0;
	meet_int3();
	if (trap.calls != 1 || trap.rip != (uint64_t)own_int3 || trap.code != SI_KERNEL)
		return "an int3 of its own";
	if (trap.alternate != !!(flags & SA_ONSTACK) || trap.blocked_usr2 != mask)
		return "the stack or the mask of its own handler";
	if (flags & SA_RESETHAND)
		sigaction(SIGTRAP, NULL, &got);
	if (flags & SA_RESETHAND && got.sa_handler != SIG_DFL)
		return "SA_RESETHAND";
	if (!(flags & SA_RESETHAND)) {
		raise(SIGTRAP);
		kill(getpid(), SIGTRAP);
		if (trap.calls != 3 || trap.code > 0)
			return "raise and kill";
	}
	if (signal(SIGTRAP, SIG_DFL) != (flags & SA_RESETHAND ? SIG_DFL : (void (*)(int))(void *)on_trap))
		return "signal() did not give its handler back";
	return calls();
}

static const char *own_handlers(void)
{
	const char *w = own_handler(0, false);

	w = w ? w : own_handler(SA_ONSTACK, true);
	w = w ? w : own_handler(SA_RESTART | SA_NODEFER, true);
	return w ? w : own_handler(SA_RESETHAND, false);
}

/* Whatever was installed at the attach. */
static const char *own_as_it_is(void)
{
	struct sigaction got;

	sigaction(SIGTRAP, NULL, &got);
	trap.calls = 0;
	if (got.sa_handler == SIG_DFL)
		return calls();
	raise(SIGTRAP);
	if (got.sa_handler == on_trap_plain && trap.calls != 1)
		return "its handler was not called";
	if (got.sa_handler == on_trap_plain)
		meet_int3();
	return calls();
}

/* The kernel's answer of its own handler must not change what a call that waits gives. */
static const char *restarts(void)
{
	struct sigaction sa = { .sa_handler = on_trap_plain, .sa_flags = SA_RESTART };
	char c = 0;
	pid_t pid;
	int fds[2];

	if (pipe(fds))
		return "pipe";
	sigaction(SIGTRAP, &sa, NULL);
	pid = fork();
	if (!pid) {
		usleep(2000);
		kill(getppid(), SIGTRAP);
		usleep(2000);
		_exit(write(fds[1], "x", 1) != 1);
	}
	if (read(fds[0], &c, 1) != 1 || c != 'x')
		return "a read was not made again";
	close(fds[0]);
	close(fds[1]);
	signal(SIGTRAP, SIG_DFL);
	return child_ended(pid);
}

static volatile long steps;

static void on_step(int sig, siginfo_t *info, void *uc)
{
	steps += info->si_code == TRAP_TRACE;
}

static const char *single_step(void)
{
	struct sigaction sa = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };
	uint64_t r;

	steps = 0;
	sigaction(SIGTRAP, &sa, NULL);
	__asm__ volatile("sub $128, %%rsp; pushf; orl $0x100, (%%rsp); popf\n"
			 "mov $41, %%edi; call t_add; mov %%rax, %0\n"
			 "pushf; andl $~0x100, (%%rsp); popf; add $128, %%rsp"
			 : "=r"(r) : : "rax", "rdi", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
	signal(SIGTRAP, SIG_DFL);
	if (r != 42)
		return "t_add, one step at a time";
	return steps >= 5 ? NULL : "no steps were seen";
}

static sigjmp_buf jump;

static void on_jump(int sig)
{
	check_calls();
	siglongjmp(jump, 1);
}

static const char *long_jump(void)
{
	struct sigaction sa = { .sa_handler = on_jump };

	sigfillset(&sa.sa_mask);
	sigaction(SIGTRAP, &sa, NULL);
	if (!sigsetjmp(jump, 1))
		raise(SIGTRAP);
	signal(SIGTRAP, SIG_DFL);
	return calls();
}

#ifdef __GLIBC__ /* musl has none */
static ucontext_t main_context, other_context;

static void in_context(void)
{
	check_calls();
	swapcontext(&other_context, &main_context);
	check_calls();
}

static const char *contexts(void)
{
	static char stack[32768];

	getcontext(&other_context);
	sigfillset(&other_context.uc_sigmask);
	other_context.uc_stack.ss_sp = stack;
	other_context.uc_stack.ss_size = sizeof(stack);
	other_context.uc_link = &main_context;
	makecontext(&other_context, in_context, 0);
	swapcontext(&main_context, &other_context);
	swapcontext(&main_context, &other_context);
	return calls();
}
#else
static const char *contexts(void)
{
	return calls();
}
#endif

/* How a SIGTRAP ends a process that does not want to know of it. */
static const char *ends(bool ignore, bool own, int expected)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		signal(SIGTRAP, ignore ? SIG_IGN : SIG_DFL);
		if (calls())
			_exit(9);
		if (own)
			meet_int3();
		else
			raise(SIGTRAP);
		_exit(calls() ? 9 : 7);
	}
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status) ? WTERMSIG(status) != expected : expected)
		return "a child did not end as it should";
	return WIFEXITED(status) && WEXITSTATUS(status) != 7 ? "a child went wrong" : NULL;
}

static const char *ends_of_all_kinds(void)
{
	const char *w = ends(false, false, SIGTRAP);

	w = w ? w : ends(false, true, SIGTRAP);
	w = w ? w : ends(true, false, 0);
	return w ? w : ends(true, true, SIGTRAP);
}

/*
 * Threads that hammer.
 */

static volatile bool hammering;
static pthread_t hammers[16];
static uint64_t hammered[16];

static void *hammer(void *arg)
{
	uint64_t *n = arg;

	while (hammering) {
		check_calls();
		if (!(__atomic_fetch_add(n, 1, __ATOMIC_RELAXED) % 64))
			usleep(1000); /* or nobody else gets a CPU */
	}
	return NULL;
}

static const char *start_hammers(void)
{
	hammering = true;
	for (int i = 0; i < 16; i++)
		if (pthread_create(&hammers[i], NULL, hammer, &hammered[i]))
			return "pthread_create";
	return NULL;
}

static const char *stop_hammers(void)
{
	hammering = false;
	for (int i = 0; i < 16; i++) {
		pthread_join(hammers[i], NULL);
		if (!hammered[i])
			return "a thread did nothing";
	}
	return NULL;
}

/* A thread that has blocked all signals for good, before the probes came. */
static void *block_and_hammer(void *arg)
{
	sigset_t all, now;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	for (;;) {
		check_calls();
		pthread_sigmask(SIG_BLOCK, NULL, &now);
		if (!sigismember(&now, SIGTRAP) || !sigismember(&now, SIGUSR1))
			wrong = "the mask of a thread that blocks everything";
		__atomic_fetch_add((uint64_t *)arg, 1, __ATOMIC_RELAXED);
		usleep(1000);
	}
	return NULL;
}

static uint64_t blocker_rounds;

static const char *start_blocker(void)
{
	pthread_t t;

	return pthread_create(&t, NULL, block_and_hammer, &blocker_rounds) ? "pthread_create" : NULL;
}

static const char *blocker_goes_on(void)
{
	uint64_t n = __atomic_load_n(&blocker_rounds, __ATOMIC_RELAXED);

	for (int i = 0; i < 10000; i++) {
		if (__atomic_load_n(&blocker_rounds, __ATOMIC_RELAXED) > n + 2)
			return NULL;
		usleep(1000);
	}
	return "the thread that blocks everything stands still";
}

/*
 * What cannot be watched.
 */

static const char *raw(void)
{
	struct {
		uint64_t handler, flags, restorer, mask;
	} act = { 1 }, old;

	/* through syscall(2), which does not say which call it is */
	return syscall(SYS_rt_sigaction, SIGTRAP, &act, &old, 8) ? "rt_sigaction" : NULL;
}

static const char *raw_default(void)
{
	struct {
		uint64_t handler, flags, restorer, mask;
	} act = {};

	return syscall(SYS_rt_sigaction, SIGTRAP, &act, NULL, 8) ? "rt_sigaction" : NULL;
}

static const char *block(void)
{
	uint64_t trap_bit = 1ull << (SIGTRAP - 1);

	return syscall(SYS_rt_sigprocmask, SIG_BLOCK, &trap_bit, NULL, 8) ? "rt_sigprocmask" : NULL;
}

static const char *unblock(void)
{
	uint64_t trap_bit = 1ull << (SIGTRAP - 1);

	return syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &trap_bit, NULL, 8) ? "rt_sigprocmask" : NULL;
}

static const char *ignore(void)
{
	return signal(SIGTRAP, SIG_IGN) == SIG_ERR ? "signal" : NULL;
}

static const char *install(void)
{
	return signal(SIGTRAP, on_trap_plain) == SIG_ERR ? "signal" : NULL;
}

static const char *uninstall(void)
{
	signal(SIGTRAP, SIG_DFL);
	return NULL;
}

static const char *is_default(void)
{
	struct sigaction got;

	sigaction(SIGTRAP, NULL, &got);
	return got.sa_handler == SIG_DFL ? NULL : "SIGTRAP is not as it was";
}

/* A child that goes on calling, until its parent ends or asks for it. */
static pid_t lasting;

static const char *start_child(void)
{
	lasting = fork();
	if (!lasting) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGUSR1, SIG_DFL);
		for (;;) {
			if (calls())
				_exit(1);
			usleep(100);
		}
	}
	return lasting < 0 ? "fork" : NULL;
}

static const char *end_child(void)
{
	int status;

	kill(lasting, SIGUSR1);
	if (waitpid(lasting, &status, 0) != lasting)
		return "waitpid";
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1 ? NULL : "the child has not lived until now";
}

static const struct {
	const char *name;
	const char *(*run)(void);
} cases[] = {
	{ "plain", plain }, { "handler", in_handler }, { "masked_handler", in_masked_handler },
	{ "old_handler", in_old_handler }, { "alternate_stack", on_alternate_stack }, { "blocked", all_blocked },
	{ "many_end", many_end },
	{ "errors", errors }, { "threads", new_threads }, { "fork", fork_child }, { "fork_change", fork_and_change },
	{ "spawn", spawn }, { "vfork", vfork_child }, { "own", own_handlers }, { "as_it_is", own_as_it_is },
	{ "restarts", restarts }, { "step", single_step }, { "longjmp", long_jump }, { "contexts", contexts },
	{ "ends", ends_of_all_kinds }, { "hammer", start_hammers }, { "still", stop_hammers }, { "raw", raw },
	{ "raw_default", raw_default }, { "block", block }, { "unblock", unblock }, { "ignore", ignore },
	{ "blocker", start_blocker }, { "goes_on", blocker_goes_on }, { "child", start_child }, { "end_child", end_child }, { "install", install }, { "uninstall", uninstall }, { "is_default", is_default },
};

static const char *run(const char *name, long n)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *w = NULL;

		if (strcmp(cases[i].name, name))
			continue;
		for (long k = 0; k < n && !w; k++)
			w = cases[i].run();
		if (!w && wrong)
			w = (const char *)wrong;
		return w ? w : "ok";
	}
	return "no such case";
}

int main(void)
{
	struct sigaction sa = { .sa_handler = on_usr2 };

	sigfillset(&sa.sa_mask);
	sigaction(SIGUSR2, &sa, NULL);
	signal(SIGUSR1, on_usr1);
	victim_ready();
	for (;;) {
		char name[64];
		long n = 1;

		if (sscanf(victim_command(), "%63s %ld", name, &n) < 1)
			continue;
		say(run(name, n));
	}
}
