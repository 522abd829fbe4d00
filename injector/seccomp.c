/* SPDX-License-Identifier: MIT */
/*
 * Would the target's seccomp filters let our calls through? While
 * PTRACE_O_SUSPEND_SECCOMP is in force they are not asked at all; only the
 * rt_sigreturn(2) that brings a thread back after our death runs under them.
 * Where suspending is not permitted, every call that we make does. The filters
 * are classic BPF; they are run here on the calls as we would make them.
 */
#include "inject_priv.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/target_abi.h"

#ifndef PTRACE_SECCOMP_GET_FILTER
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif
#define MAX_FILTERS 512

struct vm {
	u32 a, x, mem[BPF_MEMWORDS];
};

static u32 alu(u32 op, u32 a, u32 b)
{
	switch (op) {
	case BPF_ADD: return a + b;
	case BPF_SUB: return a - b;
	case BPF_MUL: return a * b;
	case BPF_DIV: return b ? a / b : 0;
	case BPF_OR: return a | b;
	case BPF_AND: return a & b;
	case BPF_XOR: return a ^ b;
	case BPF_LSH: return b < 32 ? a << b : 0;
	case BPF_RSH: return b < 32 ? a >> b : 0;
	case BPF_NEG: return -a;
	}
	return 0;
}

static bool jump_taken(u32 op, u32 a, u32 b)
{
	switch (op) {
	case BPF_JEQ: return a == b;
	case BPF_JGT: return a > b;
	case BPF_JGE: return a >= b;
	case BPF_JSET: return a & b;
	}
	return false;
}

/* Loads of all kinds; false on one that seccomp does not allow. */
static bool load(struct vm *vm, const struct sock_filter *f, const struct seccomp_data *d)
{
	u32 v;

	switch (BPF_MODE(f->code)) {
	case BPF_ABS:
		if (f->k > sizeof(*d) - 4)
			return false;
		memcpy(&v, (const char *)d + f->k, 4);
		break;
	case BPF_IMM:
		v = f->k;
		break;
	case BPF_MEM:
		if (f->k >= BPF_MEMWORDS)
			return false;
		v = vm->mem[f->k];
		break;
	case BPF_LEN:
		v = sizeof(*d);
		break;
	default:
		return false;
	}
	if (BPF_CLASS(f->code) == BPF_LD)
		vm->a = v;
	else
		vm->x = v;
	return true;
}

/* The filter's verdict; what it cannot have (the kernel checked it) kills. */
static u32 run_filter(const struct sock_filter *prog, u32 n, const struct seccomp_data *d)
{
	struct vm vm = {};

	for (u32 pc = 0; pc < n; pc++) {
		const struct sock_filter *f = &prog[pc];
		u32 b = BPF_SRC(f->code) == BPF_X ? vm.x : f->k;

		switch (BPF_CLASS(f->code)) {
		case BPF_LD:
		case BPF_LDX:
			if (!load(&vm, f, d))
				return SECCOMP_RET_KILL_PROCESS;
			break;
		case BPF_ST:
		case BPF_STX:
			if (f->k >= BPF_MEMWORDS)
				return SECCOMP_RET_KILL_PROCESS;
			vm.mem[f->k] = BPF_CLASS(f->code) == BPF_ST ? vm.a : vm.x;
			break;
		case BPF_ALU:
			vm.a = alu(BPF_OP(f->code), vm.a, b);
			break;
		case BPF_JMP:
			if (BPF_OP(f->code) == BPF_JA)
				pc += f->k;
			else
				pc += jump_taken(BPF_OP(f->code), vm.a, b) ? f->jt : f->jf;
			break;
		case BPF_RET:
			return BPF_RVAL(f->code) == BPF_A ? vm.a : f->k;
		case BPF_MISC:
			if (BPF_MISCOP(f->code) == BPF_TAX)
				vm.x = vm.a;
			else
				vm.a = vm.x;
			break;
		}
	}
	return SECCOMP_RET_KILL_PROCESS;
}

/* A call as we make it, and whether it is made when the filter is suspended. */
struct our_call {
	const char *name;
	u32 nr;
	bool always;
	u64 args[6];
};

static const struct our_call calls[] = {
	{ "rt_sigreturn", SYS_rt_sigreturn, true, {} },
	{ "mmap", SYS_mmap, false,
	  { 0x10000000, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~0ull, 0 } },
	{ "mmap", SYS_mmap, false,
	  { 0x10000000, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~0ull, 0 } },
	{ "munmap", SYS_munmap, false, { 0x10000000, PAGE } },
	{ "madvise", SYS_madvise, false, { 0x10000000, PAGE, MADV_DONTNEED } },
	{ "socketpair", SYS_socketpair, false, { AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0x10000000 } },
	{ "recvmsg", SYS_recvmsg, false, { 3, 0x10000000, MSG_CMSG_CLOEXEC | MSG_DONTWAIT } },
	{ "close", SYS_close, false, { 3 } },
	{ "memfd_create", SYS_memfd_create, false, { 0x10000000, 1 } },
};

static bool passes(u32 verdict)
{
	u32 action = verdict & SECCOMP_RET_ACTION_FULL;

	return action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_LOG;
}

static struct uerr *check_filter(struct injection *in, const struct sock_filter *prog, u32 n)
{
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		const struct our_call *c = &calls[i];
		struct seccomp_data d = { .nr = (int)c->nr, .arch = AUDIT_ARCH_X86_64,
					  .instruction_pointer = in->gadgets.syscall + 2 };

		if (in->t.can_suspend && !c->always)
			continue;
		memcpy(d.args, c->args, sizeof(d.args));
		if (!passes(run_filter(prog, n, &d)))
			return uerr_new(UERR_CANNOT_PROBE,
					"process %d (%s) has a seccomp filter that forbids %s, which we need there",
					in->t.pid, in->t.comm, c->name);
	}
	return NULL;
}

struct uerr *seccomp_check(struct injection *in, struct thread *th)
{
	static struct sock_filter prog[BPF_MAXINSNS];
	struct uerr *err = NULL;
	struct task_status st;

	/* Strict mode allows rt_sigreturn, and nothing else of ours. */
	if (task_status_read(in->t.pid, th->tid, &st) && st.seccomp == 1) {
		if (in->t.can_suspend)
			return NULL;
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) is in seccomp strict mode", in->t.pid,
				in->t.comm);
	}
	for (unsigned long i = 0; i < MAX_FILTERS && !err; i++) {
		long n = ptrace(PTRACE_SECCOMP_GET_FILTER, th->tid, i, prog);

		if (n < 0 && errno == ENOENT)
			return NULL;
		if (n < 0 && in->t.can_suspend)
			return NULL; /* a kernel that does not tell; few filters forbid rt_sigreturn */
		if (n <= 0 || n > BPF_MAXINSNS)
			return uerr_new(UERR_NOT_PERMITTED,
					"process %d (%s) has a seccomp filter, which only root can look at and suspend",
					in->t.pid, in->t.comm);
		err = check_filter(in, prog, (u32)n);
	}
	return err;
}

/* What the runtime may call later, when nobody suspends the filters. */
static const struct {
	enum target_call call;
	u32 nr;
	u64 args[6];
} runtime_calls[] = {
	{ TARGET_CALL_VM_READ, SYS_process_vm_readv, { 0, 0x10000000, 1, 0x10000000, 1, 0 } },
	{ TARGET_CALL_VM_WRITE, SYS_process_vm_writev, { 0, 0x10000000, 1, 0x10000000, 1, 0 } },
	{ TARGET_CALL_TID, SYS_gettid, {} },
	{ TARGET_CALL_PID, SYS_getpid, {} },
	{ TARGET_CALL_CPU, SYS_getcpu, { 0x10000000, 0, 0 } },
	{ TARGET_CALL_CLOCK, SYS_clock_gettime, { 1, 0x10000000 } },
	{ TARGET_CALL_NAME, SYS_prctl, { PR_GET_NAME, 0x10000000 } },
	{ TARGET_CALL_IDS, SYS_getuid, {} },
	{ TARGET_CALL_IDS, SYS_getgid, {} },
	{ TARGET_CALL_ALIVE, SYS_tkill, { 1, 0 } },
	{ TARGET_CALL_WAKE, SYS_futex, { 0x10000000, FUTEX_WAKE, 1, 0 } },
	{ TARGET_CALL_SIGNAL, SYS_kill, { 0x10000000, 1 } },
	{ TARGET_CALL_SIGNAL, SYS_tgkill, { 0x10000000, 0x10000000, 1 } },
};

/* An error is an answer like any other. */
static bool harmless(u32 verdict)
{
	return passes(verdict) || (verdict & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO;
}

static u32 denied_by(struct injection *in, const struct sock_filter *prog, u32 n)
{
	u32 denied = 0;

	for (size_t i = 0; i < ARRAY_SIZE(runtime_calls); i++) {
		struct seccomp_data d = { .nr = (int)runtime_calls[i].nr, .arch = AUDIT_ARCH_X86_64,
					  .instruction_pointer = in->gadgets.syscall + 2 };

		memcpy(d.args, runtime_calls[i].args, sizeof(d.args));
		if (d.nr == SYS_process_vm_readv || d.nr == SYS_process_vm_writev)
			d.args[0] = (u64)in->facts.ns_tgid;
		if (!harmless(run_filter(prog, n, &d)))
			denied |= runtime_calls[i].call;
	}
	return denied;
}

u32 seccomp_denied(struct injection *in, const struct thread *th)
{
	static struct sock_filter prog[BPF_MAXINSNS];
	u32 denied = 0;

	for (unsigned long i = 0; i < MAX_FILTERS; i++) {
		long n = ptrace(PTRACE_SECCOMP_GET_FILTER, th->tid, i, prog);

		if (n < 0 && errno == ENOENT)
			return denied;
		if (n <= 0 || n > BPF_MAXINSNS)
			break;
		denied |= denied_by(in, prog, (u32)n);
	}
	return TARGET_CALLS_ALL;
}
