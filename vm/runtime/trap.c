/* SPDX-License-Identifier: MIT */
/*
 * The handler of SIGTRAP in a target that has breakpoints of ours (base/trap.h), in a
 * blob of its own with what its hooks call, at the start of the area: it outlives the
 * arenas, and knows nothing of programs.
 *
 * It runs with all signals blocked, so no handler of the application's comes in
 * between, and who stands in it is seen by rip alone. It never calls the
 * application's handler: it makes a second signal frame that leads there, and the
 * kernel sets registers, mask and stack in the one system call that it ends with
 * anyway. So the application's handler finds the stack that the kernel would
 * have given it, down to the return address.
 *
 *	ours          rip in the frame becomes the trampoline's
 *	a handler     the second frame
 *	SIG_IGN       nothing, if somebody sent it; a trap of the CPU's kills nevertheless
 *	SIG_DFL       made real, and sent to itself again: it dies of it, at the place
 *	              where it stood
 */
#include <asm/sigcontext.h>
#include <asm/unistd.h>

#include "base/trap.h"
#include "vm/runtime/rt.h"

#define SI_KERNEL 0x80
#define TRAP_BRKPT 1
#define SS_AUTODISARM (1u << 31)
#define SS_DISABLE 2
#define UC_FP_XSTATE 1ul

struct frame_info {
	s32 signo, err, code;
	s32 pad[29];
};
_Static_assert(sizeof(struct frame_info) == 128, "siginfo");

struct frame_context {
	u64 flags, link;
	struct {
		u64 sp;
		s32 flags;
		u64 size;
	} stack;
	struct sigcontext_64 regs;
	u64 mask;
};
_Static_assert(sizeof(struct sigcontext_64) == 256, "sigcontext");

/* What rt_sigreturn takes, from where rsp points behind the restorer. */
struct second_frame {
	u64 restorer;
	struct frame_context context;
	struct frame_info info; /* that the kernel does not look at */
};

long rt_trap_handle(struct frame_info *info, struct frame_context *uc, u64 *sp, struct second_frame *second);

/* rdi, rsi, rdx are the signal, siginfo_t and ucontext_t, rsp points at the return
 * address, which is the restorer below. */
__asm__(".pushsection .text.rt_trap\n"
	".globl rt_trap_enter, rt_trap_return\n"
	"rt_trap_enter:\n"
	"	mov %rsi, %rdi\n"
	"	mov %rdx, %rsi\n"
	"	mov %rsp, %rdx\n"
	"	sub $512, %rsp\n"         /* a second frame */
	"	and $-16, %rsp\n"
	"	mov %rsp, %rcx\n"
	"	mov %rdx, %rbx\n"         /* a handler owes nobody its registers */
	"	call rt_trap_handle\n"
	"	test %eax, %eax\n"
	"	lea 8(%rsp), %rsp\n"      /* as the restorer leaves it, at the second … */
	"	jnz 1f\n"
	"	lea 8(%rbx), %rsp\n"      /* … at the kernel's own */
	"1:\n"
	"rt_trap_return:\n"            /* unwinders know this code by its bytes */
	"	mov $15, %rax\n"
	"	syscall\n"
	"	ud2\n"
	".popsection\n");
_Static_assert(sizeof(struct second_frame) <= 512, "room for it");

/* It begins with this blob. */
extern const char blob_start[] __attribute__((visibility("hidden")));

static u64 area(void)
{
	return (u64)blob_start;
}

static u64 find_target(u64 site)
{
	const struct trap_entry *e = (const struct trap_entry *)(area() + TRAP_CODE_SIZE);

	for (u32 i = 0, at = trap_slot(site); i < TRAP_SLOTS; i++, at = (at + 1) % TRAP_SLOTS) {
		if (e[at].site == site)
			return e[at].target;
		if (!e[at].site)
			break;
	}
	return 0;
}

/* The breakpoint that has just been run is one of ours. It may be gone since: then
 * the instruction is run that stands there now. */
static bool is_ours(const struct frame_info *info, struct frame_context *uc)
{
	u64 site = uc->regs.ip - 1, target;

	if (info->code != SI_KERNEL && info->code != TRAP_BRKPT)
		return false;
	target = find_target(site);
	if (!target)
		return false;
	uc->regs.ip = *(const volatile u8 *)site == 0xcc ? target : site;
	return true;
}

/* A handler that is to be called once: the same action without it. */
static void reset(struct trap_data *data, u32 now)
{
	struct trap_action *a;
	u32 next = __atomic_fetch_add(&data->next, 1, __ATOMIC_RELAXED) % TRAP_ACTIONS;

	if (next == now)
		next = __atomic_fetch_add(&data->next, 1, __ATOMIC_RELAXED) % TRAP_ACTIONS;
	a = &data->actions[next];
	*a = data->actions[now];
	a->handler = 0;
	__atomic_compare_exchange_n(&data->now, &now, next, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

/* The frame of the application's handler: all is as the kernel has it at the start
 * of one, which has no vector state to be restored. */
static void lead_to(const struct trap_action *act, struct frame_info *info, struct frame_context *uc, u64 *sp,
		    struct second_frame *f)
{
	f->restorer = 0;
	rt_copy(&f->context, uc, sizeof(*uc));
	f->context.flags &= ~UC_FP_XSTATE;
	f->context.regs.fpstate = 0;
	f->context.regs.ip = act->handler;
	f->context.regs.sp = (u64)sp;
	f->context.regs.di = TRAP_SIG;
	f->context.regs.si = (u64)info;
	f->context.regs.dx = (u64)uc;
	f->context.regs.ax = 0;
	f->context.regs.flags &= ~0x10500ull; /* no direction, single step or resume */
	f->context.mask = (uc->mask | act->mask) & ~TRAP_SIG_BIT;
	if ((u32)uc->stack.flags & SS_AUTODISARM) /* it is disarmed as long as the handler runs */
		f->context.stack.flags = SS_DISABLE;
	if (act->flags & TRAP_SA_RESTORER)
		*sp = act->restorer;
}

static void die(struct frame_info *info)
{
	struct trap_action dfl = {};
	u64 pid = rt_syscall(__NR_getpid, 0, 0, 0, 0, 0, 0), tid = rt_syscall(__NR_gettid, 0, 0, 0, 0, 0, 0);

	rt_syscall(__NR_rt_sigaction, TRAP_SIG, (u64)&dfl, 0, 8, 0, 0);
	if (rt_syscall(__NR_rt_tgsigqueueinfo, pid, tid, TRAP_SIG, (u64)info, 0, 0))
		rt_syscall(__NR_tgkill, pid, tid, TRAP_SIG, 0, 0, 0);
}

/* Returns whether SECOND is where to go on. */
long rt_trap_handle(struct frame_info *info, struct frame_context *uc, u64 *sp, struct second_frame *second)
{
	struct trap_data *data = (struct trap_data *)(area() + TRAP_AREA_SIZE);
	bool trapped = info->code > 0; /* by the CPU: the kernel asks nobody */
	struct trap_action act;
	u32 now;

	if (is_ours(info, uc))
		return 0;
	now = __atomic_load_n(&data->now, __ATOMIC_ACQUIRE) % TRAP_ACTIONS;
	act = data->actions[now];
	if (act.handler > 1) {
		if (act.flags & TRAP_SA_RESETHAND)
			reset(data, now);
		lead_to(&act, info, uc, sp, second);
		return 1;
	}
	/* What is sent to the first process of a namespace, and it does not handle, is nothing. */
	if (!trapped && (act.handler == 1 || rt_syscall(__NR_getpid, 0, 0, 0, 0, 0, 0) == 1))
		return 0;
	die(info);
	return 0;
}
