/* SPDX-License-Identifier: MIT */
/*
 * Memory that may not be there: what stands behind probe_read and friends.
 *
 * A fault in a target cannot be survived (SIGSEGV may be blocked or the
 * application's own), so memory is touched directly only where it is known to
 * stay mapped:
 *
 *	stack     from our own stack pointer up: to the end of that page in any
 *	          case, to the end of the stack mapping where the daemon has
 *	          recorded one that the stack pointer lies in
 *	segments  of the program and of the libraries that cannot be unloaded
 *
 * All else goes through process_vm_readv(2) on the process itself, which
 * answers EFAULT instead of faulting. Where a seccomp filter refuses that, the
 * answer is -EFAULT too, and the thread's record counts it as missed.
 */
#include <asm/unistd.h>

#include "vm/runtime/rt.h"

#define PROT_READ_BIT 1u
#define PROT_WRITE_BIT 2u
#define USER_END 0x7ffffffff000ull /* TASK_SIZE_MAX with four levels of page tables */

#define STR_PIECE 256u

struct rt_iovec {
	u64 base, len;
};

static inline u64 stack_pointer(void)
{
	u64 sp;

	__asm__ volatile("movq %%rsp, %0" : "=r"(sp));
	return sp;
}

static inline bool in_user(u64 addr, u64 size)
{
	return addr < USER_END && size <= USER_END - addr;
}

static inline bool inside(u64 addr, u64 size, u64 lo, u64 hi)
{
	return addr >= lo && addr < hi && size <= hi - addr;
}

/* Whether the range is part of the live stack above SP. */
static bool on_stack(u64 addr, u64 size, u64 sp, const struct hook_frame *frame)
{
	const struct thread_rec *rec = (const struct thread_rec *)frame->rec;
	const struct target_env *env;
	u64 hi;

	if (addr < sp)
		return false;
	if (rec) {
		hi = rec->stack_hi;
		if (sp >= rec->stack_lo && sp < hi)
			return inside(addr, size, sp, hi);
	}
	env = rt_env(frame);
	return sp >= env->main_stack_lo && inside(addr, size, sp, env->main_stack_hi);
}

static bool in_segment(u64 addr, u64 size, u64 prot, const struct hook_frame *frame)
{
	const struct target_env *env = rt_env(frame);
	u32 n = env->nsegments < TARGET_SEGMENTS ? env->nsegments : TARGET_SEGMENTS;

	for (u32 i = 0; i < n; i++)
		if (inside(addr, size, env->segments[i].lo, env->segments[i].hi))
			return env->segments[i].prot & prot;
	return false;
}

/* In the page of the stack pointer: the case that costs next to nothing. */
static inline bool in_stack_page(u64 addr, u64 size)
{
	u64 sp = stack_pointer();

	return inside(addr, size, sp, (sp | (PAGE - 1)) + 1);
}

/* Whether the range may be touched without asking the kernel. */
static inline bool touchable(u64 addr, u64 size, u64 prot, const struct hook_frame *frame)
{
	return in_stack_page(addr, size) || on_stack(addr, size, stack_pointer(), frame) ||
	       in_segment(addr, size, prot, frame);
}

/* Single moves for the sizes of scalars, so that they are neither torn nor slow. */
RT_NO_SANITIZE static inline void copy_fast(void *dst, const void *src, u64 size)
{
	typedef u64 __attribute__((aligned(1), may_alias)) u64u;
	typedef u32 __attribute__((aligned(1), may_alias)) u32u;
	typedef u16 __attribute__((aligned(1), may_alias)) u16u;
	u64 i = 0;

	if (size == 8) {
		*(u64u *)dst = *(const u64u *)src;
		return;
	}
	if (size == 4) {
		*(u32u *)dst = *(const u32u *)src;
		return;
	}
	if (size > 256) {
		rt_copy(dst, src, size);
		return;
	}
	for (; i + 8 <= size; i += 8)
		*(u64u *)((u8 *)dst + i) = *(const u64u *)((const u8 *)src + i);
	if (size & 4) {
		*(u32u *)((u8 *)dst + i) = *(const u32u *)((const u8 *)src + i);
		i += 4;
	}
	if (size & 2) {
		*(u16u *)((u8 *)dst + i) = *(const u16u *)((const u8 *)src + i);
		i += 2;
	}
	if (size & 1)
		((u8 *)dst)[i] = ((const u8 *)src)[i];
}

/* Whole or not at all, as far as the answer goes. An answer that says nothing
 * about the memory (the call is forbidden here) is something missed. */
static bool by_kernel(enum target_call call, long nr, u64 local, u64 remote, u64 size, const struct hook_frame *frame)
{
	const struct target_env *env = rt_env(frame);
	struct rt_iovec l = { local, size }, r = { remote, size };
	long done;

	if (!in_user(remote, size))
		return false;
	done = rt_call(env, call, nr, rt_tgid(env), (u64)&l, 1, (u64)&r, 1, 0);
	if (done < 0 && done != -EFAULT)
		rt_rec(frame)->missed++;
	return done == (long)size;
}

static __attribute__((noinline)) long read_slow(void *dst, u64 addr, u64 size, const struct hook_frame *frame)
{
	if (by_kernel(TARGET_CALL_VM_READ, __NR_process_vm_readv, (u64)dst, addr, size, frame))
		return 0;
	rt_zero(dst, size);
	return -EFAULT;
}

long rt_read_asking(void *dst, u64 addr, u64 size, const struct hook_frame *frame)
{
	return read_slow(dst, addr, size, frame);
}

static __attribute__((noinline)) long read_elsewhere(void *dst, u64 addr, u64 size, const struct hook_frame *frame)
{
	if (!touchable(addr, size, PROT_READ_BIT, frame))
		return read_slow(dst, addr, size, frame);
	copy_fast(dst, (const void *)addr, size);
	return 0;
}

long rt_read(void *dst, u64 addr, u64 size, const struct hook_frame *frame)
{
	if (!size) /* as access_ok() in the kernel */
		return in_user(addr, 0) ? 0 : -EFAULT;
	if (!in_stack_page(addr, size))
		return read_elsewhere(dst, addr, size, frame);
	copy_fast(dst, (const void *)addr, size);
	return 0;
}

long rt_write(u64 addr, const void *src, u64 size, const struct hook_frame *frame)
{
	if (!size)
		return 0;
	if (touchable(addr, size, PROT_WRITE_BIT, frame)) {
		copy_fast((void *)addr, src, size);
		return 0;
	}
	if (by_kernel(TARGET_CALL_VM_WRITE, __NR_process_vm_writev, (u64)src, addr, size, frame))
		return 0;
	return -EFAULT;
}

/* Up to and with the first NUL, at most N bytes: bytes copied, and whether the
 * NUL was among them. */
RT_NO_SANITIZE static u64 copy_str(char *dst, const char *src, u64 n, bool *done)
{
	for (u64 i = 0; i < n; i++) {
		dst[i] = src[i];
		if (!src[i]) {
			*done = true;
			return i + 1;
		}
	}
	return n;
}

/* A piece of a string by the slow way. What lies behind the NUL may not get
 * into DST, which may be the key of a map: hence the detour. */
static long read_str_slow(char *dst, u64 addr, u64 n, const struct hook_frame *frame, bool *done)
{
	char piece[STR_PIECE];
	long err = read_slow(piece, addr, n, frame);

	return err ? err : (long)copy_str(dst, piece, n, done);
}

/* Page by page: the string may end just before a hole. */
long rt_read_str(char *dst, u64 addr, u64 size, const struct hook_frame *frame)
{
	u64 got = 0;
	bool done = false;

	if (!size)
		return 0;
	while (got < size && !done) {
		u64 at = addr + got;
		u64 n = PAGE - (at & (PAGE - 1));
		long more;

		if (n > size - got)
			n = size - got;
		if (touchable(at, n, PROT_READ_BIT, frame))
			more = (long)copy_str(dst + got, (const char *)at, n, &done);
		else
			more = read_str_slow(dst + got, at, n < STR_PIECE ? n : STR_PIECE, frame, &done);
		if (more < 0) {
			rt_zero(dst, size);
			return more;
		}
		got += (u64)more;
	}
	if (!done)
		dst[got - 1] = 0;
	return (long)got;
}
