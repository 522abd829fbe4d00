/* SPDX-License-Identifier: MIT */
/*
 * Taking a return over. rsp points at the return address (S):
 *
 *	lea  -48(%rsp), %rsp           rdi, rsi, rdx, rax, flags; the stub's address
 *	rec of %fs:tid, its first block; the cell of this slot
 *	cmpxchg ra, (cell)             slow: there is none, or it is taken
 *  go:	cell->slot = S, ->target, ->hook
 *	registers restored
 *	lea  56(%rsp), %rsp            S + 8, as if the return had been made
 *	jmp  *-16(%rsp)                the stub, whose call pushes at S
 *  without: …
 *
 * Nothing below the return address is alive here, and what the kernel's signals
 * leave alone below rsp is more than is used.
 */
#include "injector/takeover.h"

#include <string.h>

#include "base/cells.h"

#define SAVED 48

static void put_save(struct emit *e)
{
	put_lea(e, SP, SP, -SAVED);
	put_store(e, SP, 0, DI);
	put_store(e, SP, 8, SI);
	put_store(e, SP, 16, DX);
	put_store(e, SP, 24, AX);
	put_lit(e, 0x9f);             /* lahf */
	put_lit(e, 0x0f, 0x90, 0xc0); /* seto %al */
	put_store(e, SP, 32, AX);
}

static void put_restore(struct emit *e, s32 add)
{
	put_load(e, AX, SP, 32);
	put_lit(e, 0x04, 0x7f); /* add $127, %al */
	put_lit(e, 0x9e);       /* sahf */
	put_load(e, DI, SP, 0);
	put_load(e, SI, SP, 8);
	put_load(e, DX, SP, 16);
	put_load(e, AX, SP, 24);
	put_lea(e, SP, SP, add);
}

static void put_slow_if_zero_rdx(struct emit *e, struct takeover_code *t)
{
	put_lit(e, 0x48, 0x85, 0xd2); /* test %rdx, %rdx */
	t->slow[t->nslow++] = put_jcc_fwd(e, 4);
}

/* The cell of this slot into rdx, S into rsi. */
static void put_find_cell(struct emit *e, const struct tramp_env *env, struct takeover_code *t)
{
	put_lit(e, 0x64, 0x8b, 0x34, 0x25); /* mov %fs:tid_off, %esi */
	put_u32(e, (u32)env->tid_off);
	put_lit(e, 0x89, 0xf0);             /* mov %esi, %eax */
	put_lit(e, 0x25);                   /* and $nrecs-1, %eax */
	put_u32(e, env->nrecs - 1);
	put_lit(e, 0x89, 0xc7);             /* mov %eax, %edi */
	put_lit(e, 0xc1, 0xe7, 0x07);       /* shl $7, %edi */
	_Static_assert(sizeof(struct thread_rec) == 1 << 7, "index by shift");
	put_addr(e, DX, env->threads + THREAD_RECS_OFF);
	put_lit(e, 0x85, 0xf6);             /* test %esi, %esi */
	t->slow[t->nslow++] = put_jcc_fwd(e, 4);
	put_lit(e, 0x39, 0x34, 0x3a);       /* cmp %esi, (%rdx,%rdi) */
	t->slow[t->nslow++] = put_jcc_fwd(e, 5);
	put_addr(e, DX, env->cells + offsetof(struct cell_area, head));
	put_lit(e, 0x48, 0x8b, 0x14, 0xc2); /* mov (%rdx,%rax,8), %rdx */
	put_slow_if_zero_rdx(e, t);
	put_lea(e, SI, SP, SAVED);
	put_lit(e, 0x8d, 0x04, 0x36);       /* lea (%rsi,%rsi), %eax */
	put_lit(e, 0x25);                   /* and $, %eax: (S >> 4) % CELL_BLOCK cells */
	put_u32(e, (CELL_BLOCK - 1) * sizeof(struct cell));
	_Static_assert(sizeof(struct cell) == 16 * 2, "a cell for 16 bytes of stack");
	put_lit(e, 0x48, 0x01, 0xc2);       /* add %rax, %rdx */
	put_load(e, DI, SP, SAVED);
	put_lit(e, 0x31, 0xc0);             /* xor %eax, %eax */
	put_lit(e, 0x48, 0x0f, 0xb1, 0x3a); /* cmpxchg %rdi, (%rdx) */
	t->slow[t->nslow++] = put_jcc_fwd(e, 5);
}

/* lea of an address that is not known yet, into rdi */
static size_t put_lea_fwd(struct emit *e)
{
	put_lit(e, 0x48, 0x8d, 0x3d, 0, 0, 0, 0);
	return e->n;
}

void takeover_emit(struct emit *e, const struct tramp_env *env, addr_t target, struct takeover_code *ret)
{
	struct takeover_code t = {};
	size_t next = 0;

	put_save(e);
	if (env->tid_off) {
		put_find_cell(e, env, &t);
	} else {
		put_lit(e, 0xe9, 0, 0, 0, 0);
		t.slow[t.nslow++] = e->n;
	}
	t.go = e->n;
	put_store(e, DX, offsetof(struct cell, slot), SI);
	if (target)
		put_addr(e, DI, target);
	else
		next = put_lea_fwd(e);
	put_store(e, DX, offsetof(struct cell, target), DI);
	t.hook = put_lea_fwd(e);
	put_store(e, DX, offsetof(struct cell, hook), DI);
	put_lea(e, DX, DX, -(s32)CELL_STUBS_SIZE);
	put_store(e, SP, 40, DX);
	put_restore(e, SAVED + 8);
	put_lit(e, 0xff, 0x64, 0x24, 0xf0); /* jmp *-16(%rsp) */
	t.without = e->n;
	put_restore(e, SAVED);
	if (target)
		put_jmp(e, target);
	else
		emit_fix_here(e, next);
	*ret = t;
}

static const enum reg scratch[] = { CX, R8, R9, R10, R11 };
#define SCRATCH 56 /* and rsp a multiple of 16 for the call */

void takeover_emit_slow(struct emit *e, const struct tramp_env *env, const struct takeover_code *t)
{
	for (unsigned i = 0; i < t->nslow; i++)
		emit_fix_here(e, t->slow[i]);
	put_lea(e, SP, SP, -SCRATCH);
	for (size_t i = 0; i < ARRAY_SIZE(scratch); i++)
		put_store(e, SP, 8 * (s32)i, scratch[i]);
	put_addr(e, DI, env->env);
	put_lea(e, SI, SP, SCRATCH + SAVED);
	put_load(e, DX, SP, SCRATCH + SAVED);
	put_call(e, env->cell_take);
	put_store_imm(e, SP, -8, 0);
	put_mov(e, DX, AX);
	for (size_t i = 0; i < ARRAY_SIZE(scratch); i++)
		put_load(e, scratch[i], SP, 8 * (s32)i);
	put_lea(e, SP, SP, SCRATCH);
	put_lea(e, SI, SP, SAVED);
	put_lit(e, 0x48, 0x85, 0xd2); /* test %rdx, %rdx */
	put_lit(e, 0x0f, 0x85);       /* jne go */
	put_rel32(e, e->addr + t->go, 0);
	put_jmp(e, e->addr + t->without);
}

/* A stub, the same for all cells since each has its own at the same distance. */
static const u8 stub_code[] = {
	0xff, 0x15, 0, 0, 0, 0,                   /* call *target(%rip) */
	0xff, 0x35, 0, 0, 0, 0,                   /* push ra(%rip) */
	0xff, 0x35, 0, 0, 0, 0,                   /* push hook(%rip) */
	0x48, 0xc7, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, /* movq $0, ra(%rip) */
	0xff, 0x24, 0x24,                         /* jmp *(%rsp) */
};
_Static_assert(sizeof(stub_code) == sizeof(struct cell), "as far from its cell as all are");

/* Where in it the operands stand, and where their instructions end. */
static const struct {
	u8 at, end, field;
} stub_operands[] = {
	{ 2, 6, offsetof(struct cell, target) },
	{ 8, 12, offsetof(struct cell, ra) },
	{ 14, 18, offsetof(struct cell, hook) },
	{ 21, 29, offsetof(struct cell, ra) },
};
_Static_assert(CELL_BACK_OFF == 6, "behind the call");

static const u8 plain_exit[] = { 0x48, 0x8d, 0x64, 0x24, 0x08, 0xc3 }; /* lea 8(%rsp), %rsp; ret */

void takeover_stubs(void *ret, u32 blocks)
{
	u8 stub[sizeof(stub_code)], *p = ret;

	memcpy(stub, stub_code, sizeof(stub));
	for (size_t i = 0; i < ARRAY_SIZE(stub_operands); i++) {
		u32 rel = CELL_STUBS_SIZE + stub_operands[i].field - stub_operands[i].end;

		memcpy(stub + stub_operands[i].at, &rel, sizeof(rel));
	}
	for (size_t i = 0; i < (size_t)blocks * CELL_BLOCK; i++)
		memcpy(p + i * sizeof(stub), stub, sizeof(stub));
	memset(p, 0xcc, sizeof(stub));
	memcpy(p, plain_exit, sizeof(plain_exit));
}
