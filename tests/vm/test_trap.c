/* SPDX-License-Identifier: MIT */
/*
 * The handler of breakpoints in this process: its area is laid out here as the
 * daemon lays it out in a target. What an application sees of its own SIGTRAPs is
 * compared with what it sees without us, in children that die of it if the kernel
 * says so.
 */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/trap.h"
#include "tests/support/suite.h"
#include "vm/runtime.h"

/* A breakpoint of ours, with flags, red zone, vector registers and rax … r15 in use;
 * one that is gone again; one of the application's. */
u64 ours(u64 n);
u64 gone(u64 pid, u64 tid, u64 sig, const siginfo_t *info);
void theirs(void);
void stepped(void);
extern const u8 ours_site[], ours_target[], gone_site[], theirs_site[];
__asm__(".text\n"
	"ours:\n"
	"	movq %rdi, %xmm7\n"
	"	mov %rdi, -64(%rsp)\n"
	"	mov $0x1234, %r11d\n"
	"	std\n"
	"	stc\n"
	"ours_site:\n"
	"	.byte 0xcc\n"
	"	ud2\n"
	"ours_target:\n"
	"	jnc 1f\n"
	"	pushf\n"
	"	pop %rax\n"
	"	cld\n"
	"	test $0x400, %eax\n"
	"	jz 1f\n"
	"	cmp $0x1234, %r11d\n"
	"	jne 1f\n"
	"	movq %xmm7, %rax\n"
	"	mov -64(%rsp), %rdx\n"
	"	add %rdx, %rax\n"
	"	ret\n"
	"1:	cld\n"
	"	xor %eax, %eax\n"
	"	ret\n"
	/* The kernel's word that the byte before `rip` was a breakpoint, though it is none (any
	 * more): so that byte is run again, as add $0x90909090, %eax. */
	"gone:\n"
	"	mov $297, %eax\n" /* rt_tgsigqueueinfo */
	"	mov %rcx, %r10\n"
	"	.byte 0x0f\n"
	"gone_site:\n"
	"	.byte 0x05, 0x90, 0x90, 0x90, 0x90\n"
	"	ret\n"
	"theirs:\n"
	"theirs_site:\n"
	"	int3\n"
	"	ret\n"
	"stepped:\n"
	"	pushf\n"
	"	orl $0x100, (%rsp)\n"
	"	popf\n"
	"	nop\n"
	"	nop\n"
	"	pushf\n"
	"	andl $~0x100, (%rsp)\n"
	"	popf\n"
	"	ret\n");

static u8 *area;

static bool breakpoints_work(void)
{
	siginfo_t info = { .si_signo = SIGTRAP, .si_code = SI_KERNEL };

	return ours(5) == 10 && gone(getpid(), gettid(), SIGTRAP, &info) == 0x90909090;
}

static struct trap_data *data(void)
{
	return (struct trap_data *)(area + TRAP_AREA_SIZE);
}

static long raw_sigaction(const struct trap_action *act, struct trap_action *old)
{
	return syscall(SYS_rt_sigaction, SIGTRAP, act, old, 8);
}

static void add_entry(const void *site, const void *target)
{
	struct trap_entry *e = (struct trap_entry *)(area + TRAP_CODE_SIZE);
	u32 i = trap_slot((u64)site);

	while (e[i].site)
		i = (i + 1) % TRAP_SLOTS;
	e[i] = (struct trap_entry){ (u64)site, (u64)target };
}

/* As injector/trap.c does it: the application has ACT. */
static void install(const struct trap_action *act)
{
	const struct runtime_trap *trap = runtime_trap();
	struct trap_action own = { .flags = trap_flags(act), .mask = ~0ull };

	area = mmap(NULL, TRAP_AREA_SIZE + TRAP_DATA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(area, MAP_FAILED);
	ck_assert_uint_le(trap->blob.size, TRAP_CODE_SIZE);
	memcpy(area, trap->blob.bytes, trap->blob.size);
	add_entry(ours_site, ours_target);
	add_entry(gone_site, ours_target);
	ck_assert_int_eq(mprotect(area, TRAP_AREA_SIZE, PROT_READ | PROT_EXEC), 0);
	data()->actions[0] = *act;
	data()->next = 1;
	own.handler = (u64)area + trap->enter;
	own.restorer = (u64)area + trap->leave;
	ck_assert_int_eq(raw_sigaction(&own, NULL), 0);
}

/* What an application's handler has seen; shared with the child that has seen it. */
struct seen {
	u32 calls;
	u32 done;    /* the child came to its end */
	s32 sig[4], code[4];
	s64 rip[4];  /* from the function */
	u64 mask[4]; /* without SIGTRAP, which is never blocked while breakpoints are in */
	u32 on_stack[4], aligned[4], restorer[4];
	u32 fp[4];   /* the FPU is as the kernel starts a handler */
	u64 pid[4];
	u64 mask_after;
};

static struct seen *seen;
static u8 alt[65536];
static addr_t function;
static addr_t restorer;
static bool has_info;

static void note(int sig, siginfo_t *info, ucontext_t *uc, u64 *frame)
{
	u32 i = seen->calls++ % ARRAY_SIZE(seen->sig);
	u32 mxcsr;

	__asm__("stmxcsr %0" : "=m"(mxcsr));
	seen->sig[i] = sig;
	seen->code[i] = has_info ? info->si_code : 0; /* else the kernel writes none */
	seen->rip[i] = function ? (s64)((u64)uc->uc_mcontext.gregs[REG_RIP] - function) : 0;
	seen->pid[i] = has_info && info->si_code <= 0 && info->si_pid == getpid();
	seen->on_stack[i] = (u8 *)frame >= alt && (u8 *)frame < alt + sizeof(alt);
	seen->aligned[i] = ((u64)frame & 15) == 8;
	seen->restorer[i] = *frame == restorer;
	seen->fp[i] = mxcsr == 0x1f80;
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &seen->mask[i], 8);
	seen->mask[i] &= ~TRAP_SIG_BIT;
}

/* The handler itself: where its stack pointer is, is part of what is seen. */
void app_handler(int sig, siginfo_t *info, void *uc);
void app_note(int sig, siginfo_t *info, ucontext_t *uc, u64 *frame);
void app_note(int sig, siginfo_t *info, ucontext_t *uc, u64 *frame)
{
	note(sig, info, uc, frame);
}
__asm__("app_handler:\n"
	"	mov %rsp, %rcx\n"
	"	sub $8, %rsp\n"
	"	call app_note\n"
	"	add $8, %rsp\n"
	"	ret\n");

enum source { BY_RAISE, BY_KILL, BY_QUEUE, BY_INT3, BY_STEP, SOURCES };

static void cause(enum source s)
{
	switch (s) {
	case BY_RAISE:
		raise(SIGTRAP);
		break;
	case BY_KILL:
		kill(getpid(), SIGTRAP);
		break;
	case BY_QUEUE:
		sigqueue(getpid(), SIGTRAP, (union sigval){ .sival_int = 7 });
		break;
	case BY_INT3:
		function = (addr_t)theirs;
		theirs();
		break;
	case BY_STEP:
		function = (addr_t)stepped;
		stepped();
		break;
	case SOURCES:
		break;
	}
}

/* A child with action ACT gets SIGTRAPs by S, and perhaps meets breakpoints of ours
 * between them; returns how it ended. */
static int run_child(const struct trap_action *act, enum source s, bool with_us)
{
	int status;
	pid_t pid;

	memset(seen, 0, sizeof(*seen));
	pid = fork();
	if (!pid) {
		stack_t ss = { .ss_sp = alt, .ss_size = sizeof(alt) };
		u32 odd = 0x1fbf; /* as an application may have it */

		prctl(PR_SET_DUMPABLE, 0);
		sigaltstack(&ss, NULL);
		ck_assert_int_eq(raw_sigaction(act, NULL), 0);
		restorer = act->restorer;
		has_info = act->flags & SA_SIGINFO;
		if (with_us)
			install(act);
		__asm__ volatile("ldmxcsr %0" : : "m"(odd));
		for (int i = 0; i < 2; i++) {
			if (with_us && !breakpoints_work())
				_exit(1);
			cause(s);
		}
		if (with_us && !breakpoints_work())
			_exit(1);
		syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &seen->mask_after, 8);
		seen->done = 1;
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return status & 0x7f ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static const u64 flag_sets[] = { 0, SA_SIGINFO, SA_SIGINFO | SA_ONSTACK, SA_RESETHAND, SA_NODEFER,
				 SA_SIGINFO | SA_ONSTACK | SA_RESETHAND | SA_NODEFER | SA_RESTART };

static void compare(const struct trap_action *act, enum source s)
{
	struct seen without;
	int end, with;

	end = run_child(act, s, false);
	without = *seen;
	with = run_child(act, s, true);
	ck_assert_msg(end == with, "action %#lx, flags %#lx, source %d: ends with %d, without us %d", act->handler, act->flags,
		      s, with, end);
	if (memcmp(&without, seen, sizeof(without)))
		ck_abort_msg("action %#lx, flags %#lx, source %d: calls %u/%u code %d/%d rip %ld/%ld mask %#lx/%#lx stack %u/%u "
			     "restorer %u/%u fp %u/%u", act->handler, act->flags, s, seen->calls, without.calls, seen->code[0],
			     without.code[0], seen->rip[0], without.rip[0], seen->mask[0], without.mask[0], seen->on_stack[0],
			     without.on_stack[0], seen->restorer[0], without.restorer[0], seen->fp[0], without.fp[0]);
}

START_TEST(test_what_is_not_ours)
{
	struct trap_action old;

	/* glibc's restorer, as it is in any action that glibc has made */
	ck_assert_int_eq(sigaction(SIGTRAP, &(struct sigaction){ .sa_sigaction = app_handler }, NULL), 0);
	ck_assert_int_eq(raw_sigaction(NULL, &old), 0);
	for (enum source s = 0; s < SOURCES; s++) {
		for (u64 special = 0; special < 2; special++)
			compare(&(struct trap_action){ special, old.flags, old.restorer, 0 }, s);
		for (size_t f = 0; f < ARRAY_SIZE(flag_sets); f++)
			for (u64 mask = 0; mask < 2; mask++)
				compare(&(struct trap_action){ (u64)app_handler, old.flags | flag_sets[f], old.restorer,
							       mask ? 1ull << (SIGUSR1 - 1) : 0 }, s);
	}
	signal(SIGTRAP, SIG_DFL);
}
END_TEST

/* Of the process that is the first of its namespace, nothing that is sent to it is
 * taken by default. It cannot be tried here; what can: a handler that is to be called once
 * is gone for the next. */
START_TEST(test_of_once)
{
	struct trap_action old, act;

	ck_assert_int_eq(sigaction(SIGTRAP, &(struct sigaction){ .sa_sigaction = app_handler }, NULL), 0);
	ck_assert_int_eq(raw_sigaction(NULL, &old), 0);
	act = (struct trap_action){ (u64)app_handler, old.flags | SA_RESETHAND, old.restorer, 0 };
	install(&act);
	memset(seen, 0, sizeof(*seen));
	restorer = old.restorer;
	raise(SIGTRAP);
	ck_assert_uint_eq(seen->calls, 1);
	ck_assert_uint_eq(data()->actions[data()->now].handler, 0);
	ck_assert_uint_eq(data()->actions[0].handler, (u64)app_handler);
	ck_assert_uint_eq(ours(3), 6);
	signal(SIGTRAP, SIG_DFL);
}
END_TEST

static void setup(void)
{
	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(seen, MAP_FAILED);
	setrlimit(RLIMIT_CORE, &(struct rlimit){});
}

int main(void)
{
	TCase *tc = tcase_create("handler");

	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_what_is_not_ours);
	tcase_add_test(tc, test_of_once);
	return run_case("trap", tc);
}
