/* SPDX-License-Identifier: MIT */
/*
 * Switching to a stack of one's own where neither a register nor a byte of stack
 * is free. The registers that finding it takes are kept in the MMX registers: Go
 * uses neither them nor the x87 registers that they share, no System V function
 * has anything in them at its entry, and a signal keeps them like all others.
 * (emms, afterwards, says that the x87 registers are empty.)
 *
 *	slot of a thread, SIDE_SLOT bytes, by the index of its record
 *	  0              used: bytes taken from the top
 *	  …              not used
 *	  top - 24       rsp of the goroutine ◀─ rsp in the hook
 *	  top - 16       the slot
 *	  top - 8        `used` as it was before
 *	  top            SIDE_SLOT - used, at entry
 *
 * A signal handler of Go runs on the thread's signal stack, and may hit a probe
 * while a hook runs: it takes the next level. Whatever it interrupts, `used` is
 * as before when it is done. A level is free again when nothing of it is needed
 * any more, not even to load a register.
 *
 * Go's runtime looks at pc when a signal comes: what is not in its tables is no
 * place to preempt, and no stack to walk. No return address of ours is ever on a
 * goroutine's stack, so that one which moves or is walked holds its own alone.
 */
#include "injector/side_stack.h"

#include <stddef.h>

#define SIDE_SLOT 16384u
#define SIDE_LEVEL 4096u
#define SIDE_LEVELS 3u /* and the lowest 4 KiB in front of `used` stay free */
#define SAVED_SP 0
#define SAVED_SLOT 8
#define SAVED_USED 16
#define SAVED_SIZE 24

u64 side_stacks_size(u32 nrecs)
{
	return (u64)nrecs * SIDE_SLOT;
}

/* The record of the calling thread, whose env is in rdi and whose way back in
 * rax: as thread_rec_slow() of the runtime finds or claims it, but without a
 * stack. Changes rcx, rdx, rsi, r11, mm7; the record comes in rdi. */
extern const u8 side_find[], side_find_end[];
_Static_assert(offsetof(struct target_env, tid_off) == 8 && offsetof(struct target_env, nrecs) == 24 &&
	       offsetof(struct target_env, threads) == 32 && THREAD_RECS_OFF == 4096 && THREAD_PROBES == 16 &&
	       sizeof(struct thread_rec) == 128 && OWNER_REC_BITS == 10, "the routine knows");
asm(".pushsection .rodata\n"
    ".globl side_find, side_find_end\n"
    ".hidden side_find, side_find_end\n"
    "side_find:\n"
    "	movq	%rax, %mm7\n"
    "	mov	8(%rdi), %rcx\n"
    "	test	%rcx, %rcx\n"
    "	jz	1f\n"
    "	mov	%fs:(%rcx), %esi\n"
    "	test	%esi, %esi\n"
    "	jnz	2f\n"
    "1:	mov	$186, %eax\n" /* gettid */
    "	syscall\n"
    "	mov	%eax, %esi\n"
    "2:	mov	24(%rdi), %ecx\n"
    "	dec	%ecx\n"
    "	mov	32(%rdi), %rdx\n"
    "	add	$4096, %rdx\n"
    "	xor	%r11d, %r11d\n"
    "3:	lea	(%rsi, %r11), %edi\n"
    "	and	%ecx, %edi\n"
    "	shl	$7, %edi\n"
    "	add	%rdx, %rdi\n"
    "	cmp	%esi, (%rdi)\n"
    "	je	9f\n"
    "	inc	%r11d\n"
    "	cmp	$16, %r11d\n"
    "	jb	3b\n"
    "	xor	%r11d, %r11d\n"
    "4:	lea	(%rsi, %r11), %edi\n"
    "	and	%ecx, %edi\n"
    "	cmp	$1023, %edi\n"
    "	jae	5f\n"
    "	shl	$7, %edi\n"
    "	add	%rdx, %rdi\n"
    "	xor	%eax, %eax\n"
    "	lock cmpxchg %esi, (%rdi)\n"
    "	je	9f\n"
    "5:	inc	%r11d\n"
    "	cmp	$16, %r11d\n"
    "	jb	4b\n"
    "	lea	1(%rcx), %edi\n" /* that of all who have none */
    "	shl	$7, %edi\n"
    "	add	%rdx, %rdi\n"
    "9:	movq	%mm7, %rax\n"
    "	jmp	*%rax\n"
    "side_find_end:\n"
    ".popsection\n");

const u8 *side_find_code(size_t *size)
{
	*size = side_find_end - side_find;
	return side_find;
}

/* movq %reg, %mm and back */
static void keep(struct emit *e, unsigned mm, enum reg reg)
{
	put_lit(e, reg >= R8 ? 0x49 : 0x48, 0x0f, 0x6e, (u8)(0xc0 | mm << 3 | (reg & 7)));
}

static void take(struct emit *e, unsigned mm, enum reg reg)
{
	put_lit(e, reg >= R8 ? 0x49 : 0x48, 0x0f, 0x7e, (u8)(0xc0 | mm << 3 | (reg & 7)));
}

#define EMMS 0x0f, 0x77
static const enum reg kept[] = { CX, DX, SI, DI, R11 }; /* in mm2 …; rax is in mm0, the flags in mm1 */

static void keep_all(struct emit *e)
{
	keep(e, 0, AX);
	put_lit(e, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto %al */
	keep(e, 1, AX);
	for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
		keep(e, 2 + i, kept[i]);
}

static void take_all(struct emit *e)
{
	take(e, 1, AX);
	put_lit(e, 0x04, 0x7f, 0x9e); /* add $127, %al; sahf */
	take(e, 0, AX);
	for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
		take(e, 2 + i, kept[i]);
	put_lit(e, EMMS);
}

void side_enter(struct emit *e, struct side_switch *s, const struct tramp_env *env)
{
	*s = (struct side_switch){};
	keep_all(e);
	emit_find_rec(e, &s->rec, env);
	put_addr(e, DX, env->threads + THREAD_RECS_OFF);
	put_mov(e, SI, DI);
	put_lit(e, 0x48, 0x29, 0xd6);       /* sub %rdx, %rsi */
	put_lit(e, 0x48, 0xc1, 0xe6, 0x07); /* shl $7, %rsi */
	_Static_assert(sizeof(struct thread_rec) << 7 == SIDE_SLOT, "index by shift");
	put_lit(e, 0x48, 0x81, 0xfe);       /* cmp $size, %rsi */
	put_u32(e, (u32)side_stacks_size(env->nrecs));
	s->skip[0] = put_jcc_fwd(e, 3);     /* jae: the record of all who have none */
	put_addr(e, DX, env->side);
	put_lit(e, 0x48, 0x01, 0xd6);       /* add %rdx, %rsi */
	put_lit(e, 0x8b, 0x16);             /* mov (%rsi), %edx */
	put_lit(e, 0x81, 0xfa);             /* cmp $…, %edx */
	put_u32(e, (SIDE_LEVELS - 1) * SIDE_LEVEL);
	s->skip[1] = put_jcc_fwd(e, 7);     /* ja */
	put_lit(e, 0x8d, 0x8a);             /* lea LEVEL(%rdx), %ecx */
	put_u32(e, SIDE_LEVEL);
	put_lit(e, 0x89, 0x0e);             /* mov %ecx, (%rsi) */
	put_lea(e, CX, SI, SIDE_SLOT - SAVED_SIZE);
	put_lit(e, 0x48, 0x29, 0xd1);       /* sub %rdx, %rcx */
	put_store(e, CX, SAVED_SP, SP);
	put_store(e, CX, SAVED_SLOT, SI);
	put_store(e, CX, SAVED_USED, DX);
	put_mov(e, SP, CX);
	take_all(e);
}

void side_leave(struct emit *e, struct side_switch *s)
{
	keep(e, 0, DI);
	keep(e, 1, SI);
	put_load(e, DI, SP, SAVED_SLOT);
	put_load(e, SI, SP, SAVED_USED);
	put_load(e, SP, SP, SAVED_SP);
	put_lit(e, 0x89, 0x37); /* mov %esi, (%rdi) */
	take(e, 0, DI);
	take(e, 1, SI);
	put_lit(e, EMMS);
	s->end = e->n;
}

void side_out_of_line(struct emit *e, const struct side_switch *s, const struct tramp_env *env)
{
	for (unsigned i = 0; i < ARRAY_SIZE(s->skip); i++)
		emit_fix_here(e, s->skip[i]);
	put_inc_mem(e, DI, offsetof(struct thread_rec, missed));
	take_all(e);
	put_jmp(e, e->addr + s->end);
	emit_find_rec_slow(e, &s->rec);
	put_addr(e, DI, env->env);
	put_addr(e, AX, e->addr + s->rec.go);
	put_jmp(e, env->side_find);
}
