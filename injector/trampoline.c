/* SPDX-License-Identifier: MIT */
/*
 * Trampolines. A window's jump leads to
 *
 *	[hook at offset 0]  copy of insn 0  [hook]  copy of insn 1 …  jmp back
 *	out of line: the slow path of each hook
 *
 * A hook in full, at an entry (rdi, rsi and rdx are free once they are saved,
 * since every call takes them as arguments):
 *
 *	lea  -200(%rsp), %rsp          struct hook_frame
 *	mov  %reg, regs.reg(%rsp)      what is read or will be clobbered
 *	mov  %fs:tid_off, %esi
 *	mov  %esi, %edi; and $nrecs-1, %edi; shl $7, %edi
 *	lea  records, %rdx; add %rdx, %rdi
 *	test %esi, %esi; jz slow       tid 0: the thread is too young, or strange
 *	cmp  %esi, (%rdi); jne slow    another thread's record
 *  go:	mov  %rdi, rec(%rsp)
 *	incq entries(%rdi)
 *	lea  site, %rsi; mov %rsi, site(%rsp)
 *	lea  regs(%rsp), %rdi; xor %esi, %esi; mov %rsp, %rdx
 *	call fn; movq $0, -8(%rsp)     … for each program
 *	mov  rec(%rsp), %rdi
 *	incq leaves(%rdi)
 *	mov  regs.reg(%rsp), %reg      what was clobbered
 *	lea  200(%rsp), %rsp
 *
 * At a function's entry the flags are dead, and neither there nor at a ret does
 * anything live below rsp. At a ret the flags are kept all the same, in a word
 * above the frame: some assembly returns a result in them, and lahf/seto cost a
 * tenth of a nanosecond. The stack is aligned for the call in both places: rsp
 * is 8 below a multiple of 16, and so are 200 and 216. Inside a function nothing
 * of this can be said (emit_save_all).
 *
 * The return address of a call is wiped off the stack: it would lie there, below
 * what lives, until something else is written, and look as if somebody were to
 * come back here.
 *
 * A hook that takes a return over (takeover.h) leaves its calls for the moment when
 * that comes back: its code is out of line, begins at "lea" with the address of
 * itself below the return address, where the stub has pushed it, and ends by a ret.
 * In code of Go all of this happens on a stack of the thread's own (side_stack.c).
 *
 * Between `leaves` and the jump back a thread is still in this code with the
 * counters equal; whoever unmaps it looks at instruction pointers too.
 */
#include "injector/trampoline.h"

#include <string.h>

#include "base/cleanup.h"
#include "injector/find_rec.h"
#include "injector/relocate.h"
#include "injector/takeover.h"
#include "injector/side_stack.h"
#include "injector/window.h"

#define FRAME_SIZE ((s32)sizeof(struct hook_frame))
#define FLAGS_OFF FRAME_SIZE /* where they are kept */

/* What lies behind the red zone when the frame's distance to it is not known. */
#define RED_ZONE 128
struct kept {
	u64 eflags; /* as pushf has it */
	u64 flags;  /* as lahf and seto have it */
	u64 ax;
};
#define KEPT(field) ((s32)offsetof(struct kept, field))
#define KEPT_OFF FRAME_SIZE /* its address */
#define KEPT_UP (RED_ZONE + (s32)sizeof(struct kept)) /* from it up to the program's own rsp */

/* What the hooks of each kind put on the stack, and keep. */
static const struct layout {
	s32 size;     /* of the frame: up to the program's own rsp, if that is `fixed` */
	bool fixed;   /* rsp is 8 below a multiple of 16, and there is no red zone; else struct kept */
	bool flags;   /* are kept; where `fixed`, at FLAGS_OFF */
	s32 above;    /* bytes there that are ours, too: from a stub (base/cells.h) */
} layouts[] = {
	[HOOK_ENTRY] = { .size = FRAME_SIZE, .fixed = true },
	[HOOK_INSN] = { .size = FRAME_SIZE + 8, .flags = true },
	[HOOK_RET] = { .size = FRAME_SIZE + 16, .fixed = true, .flags = true },
	[HOOK_TAIL] = { .size = FRAME_SIZE + 8, .fixed = true, .flags = true, .above = 8 },
	[HOOK_TAKEOVER] = { .size = FRAME_SIZE + 8, .fixed = true, .flags = true, .above = 8 },
};

#define REGS_OFF ((s32)offsetof(struct hook_frame, regs))
#define SLOT(field) ((s32)(REGS_OFF + offsetof(struct target_regs, field)))

/* General registers by bit number in a mask of target_regs fields; rsp is
 * computed, and the other fields are no registers. */
static const struct {
	u8 bit;
	enum reg reg;
} gprs[] = {
	{ 0, R15 }, { 1, R14 }, { 2, R13 }, { 3, R12 }, { 4, BP },  { 5, BX },  { 6, R11 }, { 7, R10 },
	{ 8, R9 },  { 9, R8 },  { 10, AX }, { 11, CX }, { 12, DX }, { 13, SI }, { 14, DI },
};

static const u32 call_args = TARGET_REG_BIT(di) | TARGET_REG_BIT(si) | TARGET_REG_BIT(dx);
static const u32 caller_saved = TARGET_REG_BIT(ax) | TARGET_REG_BIT(cx) | TARGET_REG_BIT(dx) | TARGET_REG_BIT(si) |
				TARGET_REG_BIT(di) | TARGET_REG_BIT(r8) | TARGET_REG_BIT(r9) |
				TARGET_REG_BIT(r10) | TARGET_REG_BIT(r11);

/* A hook being emitted, and what its out-of-line part needs. */
struct hook_code {
	const struct hook *hook;
	addr_t ip;       /* of the probed instruction, at run time */
	u32 reads;       /* fields that programs look at */
	u32 clobbered;   /* registers to restore */
	bool answers;    /* for the system call that follows */
	const struct layout *layout;
	struct find_rec rec;
	size_t down[2];  /* jumps taken where the direction flag is set: before and behind the calls */
	size_t down_go[2];
	struct takeover_code takeover; /* of a hook that does */
	struct side_switch side;
	bool overrides; /* a program may want the function skipped */
	size_t skip;    /* the jump that is taken then */
};

static void store_regs(struct emit *e, u32 mask)
{
	for (size_t i = 0; i < ARRAY_SIZE(gprs); i++)
		if (mask >> gprs[i].bit & 1)
			put_store(e, SP, REGS_OFF + 8 * gprs[i].bit, gprs[i].reg);
}

static void load_regs(struct emit *e, u32 mask)
{
	for (size_t i = 0; i < ARRAY_SIZE(gprs); i++)
		if (mask >> gprs[i].bit & 1)
			put_load(e, gprs[i].reg, SP, REGS_OFF + 8 * gprs[i].bit);
}

/* Jumps out of line where the direction flag was set: only there is it worth the
 * time to change it. rax points at struct kept. */
static void emit_direction(struct emit *e, struct hook_code *h, unsigned i)
{
	_Static_assert(offsetof(struct kept, eflags) == 0, "no offset in the operand");
	put_lit(e, 0xf7, 0x00, 0, 0x04, 0, 0); /* testl $DF, (%rax) */
	h->down[i] = put_jcc_fwd(e, 5);
	h->down_go[i] = e->n;
}

static void emit_directions(struct emit *e, const struct hook_code *h)
{
	for (unsigned i = 0; i < 2; i++) {
		emit_fix_here(e, h->down[i]);
		put_lit(e, i ? 0xfd : 0xfc); /* std, cld */
		put_jmp(e, e->addr + h->down_go[i]);
	}
}

/* Inside a function, where nothing may be taken for granted:
 *
 *	lea  -136(%rsp), %rsp          over the red zone; room for ax and the flags
 *	pushf
 *	mov  %rax, 16(%rsp); lahf; seto %al; mov %rax, 8(%rsp)
 *	mov  %rsp, %rax
 *	lea  -208(%rsp), %rsp; and $-16, %rsp
 *	mov  %rax, 200(%rsp)
 */
static void emit_save_all(struct emit *e, struct hook_code *h)
{
	put_lea(e, SP, SP, 8 - KEPT_UP);
	put_lit(e, 0x9c);                     /* pushf */
	put_store(e, SP, KEPT(ax), AX);
	put_lit(e, 0x9f, 0x0f, 0x90, 0xc0);   /* lahf; seto %al */
	put_store(e, SP, KEPT(flags), AX);
	put_mov(e, AX, SP);
	put_lea(e, SP, SP, -h->layout->size);
	put_lit(e, 0x48, 0x83, 0xe4, 0xf0);   /* and $-16, %rsp */
	put_store(e, SP, KEPT_OFF, AX);
	store_regs(e, (h->reads | h->clobbered) & ~TARGET_REG_BIT(ax));
	emit_direction(e, h, 0);
	if (h->reads & TARGET_REG_BIT(ax)) {
		put_load(e, AX, AX, KEPT(ax));
		put_store(e, SP, SLOT(ax), AX);
	}
}

static void emit_restore_all(struct emit *e, struct hook_code *h)
{
	put_load(e, AX, SP, KEPT_OFF);
	if (h->answers) {
		put_load(e, DI, SP, SLOT(ax));
		put_store(e, AX, KEPT(ax), DI);
	}
	emit_direction(e, h, 1);
	load_regs(e, h->clobbered & ~TARGET_REG_BIT(ax));
	put_mov(e, SP, AX);
	put_load(e, AX, SP, KEPT(flags));
	put_lit(e, 0x04, 0x7f, 0x9e); /* add $127, %al; sahf */
	put_load(e, AX, SP, KEPT(ax));
	put_lea(e, SP, SP, KEPT_UP);
}

/* Stack, registers, flags. Nothing before the flags are kept changes them. */
static void emit_save(struct emit *e, struct hook_code *h)
{
	if (!h->layout->fixed) {
		emit_save_all(e, h);
		return;
	}
	put_lea(e, SP, SP, -h->layout->size);
	if (h->reads & TARGET_REG_BIT(flags)) {
		put_lit(e, 0x9c);             /* pushf */
		put_lit(e, 0x8f, 0x84, 0x24); /* pop flags(%rsp) */
		put_u32(e, SLOT(flags));
	}
	store_regs(e, h->reads | h->clobbered);
	if (h->layout->flags) {
		put_lit(e, 0x9f);             /* lahf */
		put_lit(e, 0x0f, 0x90, 0xc0); /* seto %al */
		put_store(e, SP, FLAGS_OFF, AX);
	}
}

static void emit_restore(struct emit *e, struct hook_code *h)
{
	if (!h->layout->fixed) {
		emit_restore_all(e, h);
		return;
	}
	if (h->layout->flags) {
		put_load(e, AX, SP, FLAGS_OFF);
		put_lit(e, 0x04, 0x7f); /* add $127, %al: overflows when it was 1 */
		put_lit(e, 0x9e);       /* sahf */
	}
	load_regs(e, h->clobbered);
	put_lea(e, SP, SP, h->layout->size);
}

/* Fields of pt_regs that are no registers here; rsi is free. */
static void emit_fields(struct emit *e, const struct hook_code *h, const struct tramp_env *env)
{
	if (h->reads & TARGET_REG_BIT(sp)) {
		if (h->layout->fixed) {
			put_lea(e, SI, SP, h->layout->size + h->layout->above);
		} else {
			put_load(e, SI, SP, KEPT_OFF);
			put_lea(e, SI, SI, KEPT_UP);
		}
		if (env->side)
			put_load(e, SI, SI, 0); /* side_enter() has put it there */
		put_store(e, SP, SLOT(sp), SI);
	}
	if (h->reads & TARGET_REG_BIT(flags) && !h->layout->fixed) {
		put_load(e, SI, SP, KEPT_OFF);
		put_load(e, SI, SI, KEPT(eflags));
		put_store(e, SP, SLOT(flags), SI);
	}
	if (h->reads & TARGET_REG_BIT(ip)) {
		if (h->layout->above)
			put_load(e, SI, SP, h->layout->size + h->layout->above);
		else
			put_addr(e, SI, h->ip);
		put_store(e, SP, SLOT(ip), SI);
	}
	if (h->reads & TARGET_REG_BIT(orig_ax))
		put_store_imm(e, SP, SLOT(orig_ax), -1);
	if (h->reads & TARGET_REG_BIT(cs))
		put_store_imm(e, SP, SLOT(cs), 0x33);
	if (h->reads & TARGET_REG_BIT(ss))
		put_store_imm(e, SP, SLOT(ss), 0x2b);
}

static void emit_program(struct emit *e, const struct hook_call *call)
{
	put_addr(e, SI, call->site);
	put_store(e, SP, offsetof(struct hook_frame, site), SI);
	put_lea(e, DI, SP, REGS_OFF);
	put_lit(e, 0x31, 0xf6); /* xor %esi, %esi */
	put_mov(e, DX, SP);
	put_call(e, call->fn);
	put_store_imm(e, SP, -8, 0);
}

/* Whether the function is to be skipped; asked with the flags dead. */
static void emit_override(struct emit *e, struct hook_code *h)
{
	put_lit(e, 0x80, 0xbc, 0x24); /* cmpb $0, override(%rsp) */
	put_u32(e, offsetof(struct hook_frame, override));
	put_lit(e, 0x00);
	h->skip = put_jcc_fwd(e, 5);
}

/* Back to the caller: at an entry rsp points at its address. */
static void emit_skip(struct emit *e, struct hook_code *h)
{
	emit_fix_here(e, h->skip);
	emit_restore(e, h);
	put_lit(e, 0xc3);
}

static void emit_hook(struct emit *e, struct hook_code *h, const struct tramp_env *env)
{
	if (env->side)
		side_enter(e, &h->side, env);
	emit_save(e, h);
	emit_find_rec(e, &h->rec, env);
	put_store(e, SP, offsetof(struct hook_frame, rec), DI);
	put_inc_mem(e, DI, offsetof(struct thread_rec, entries));
	emit_fields(e, h, env);
	if (h->overrides) {
		put_lit(e, 0xc6, 0x84, 0x24); /* movb $0, override(%rsp) */
		put_u32(e, offsetof(struct hook_frame, override));
		put_lit(e, 0x00);
	}
	for (size_t i = 0; i < h->hook->ncalls; i++)
		emit_program(e, &h->hook->calls[i]);
	put_load(e, DI, SP, offsetof(struct hook_frame, rec));
	put_inc_mem(e, DI, offsetof(struct thread_rec, leaves));
	if (h->overrides)
		emit_override(e, h);
	emit_restore(e, h);
	if (env->side)
		side_leave(e, &h->side);
}

/* Asks the runtime for the record, with every register but rdi, rsi and rdx as
 * it was. Their places in the frame are free for that: whatever is read has
 * been stored already with the same value. */
static void emit_slow(struct emit *e, const struct hook_code *h, const struct tramp_env *env)
{
	u32 extra = caller_saved & ~h->clobbered;

	if (!h->layout->fixed)
		emit_directions(e, h);
	emit_find_rec_slow(e, &h->rec);
	store_regs(e, extra);
	put_addr(e, DI, env->env);
	put_call(e, env->rec_slow);
	put_store_imm(e, SP, -8, 0);
	put_mov(e, DI, AX);
	load_regs(e, extra);
	put_jmp(e, e->addr + h->rec.go);
	if (env->side)
		side_out_of_line(e, &h->side, env);
}

/* ---- the whole ---- */

#define HOOKS_MAX ARRAY_SIZE(((struct window *)0)->points)

struct tramp_build {
	struct emit e;
	const struct window *w;
	addr_t window_addr; /* at run time */
	const struct tramp_env *env;
	struct hook_code hooks[HOOKS_MAX];
	size_t nhooks;
};

static struct uerr *emit_error(const struct emit *e, addr_t at)
{
	if (e->failed == EMIT_NOMEM)
		return uerr_nomem();
	return uerr_new(UERR_CANNOT_PROBE, "what the instruction at %#lx refers to is out of reach of our code",
			(unsigned long)at);
}

static void hook_code_init(struct hook_code *h, const struct hook *hook, addr_t ip)
{
	*h = (struct hook_code){ .hook = hook, .ip = ip, .layout = &layouts[hook->point.kind] };
	for (size_t i = 0; i < hook->ncalls; i++) {
		h->reads |= hook->calls[i].reads;
		h->clobbered |= hook->calls[i].clobbers & caller_saved;
		h->overrides |= hook->calls[i].overrides;
		h->answers = h->answers || hook->calls[i].answers;
	}
	h->clobbered |= call_args;
	if (h->layout->flags || h->overrides)
		h->clobbered |= TARGET_REG_BIT(ax);
}

/* Far calls go through rax. */
static void hook_code_reach(struct hook_code *h, const struct emit *e, size_t room)
{
	for (size_t i = 0; i < h->hook->ncalls; i++) {
		s64 lo = (s64)(h->hook->calls[i].fn - e->addr);
		s64 hi = (s64)(h->hook->calls[i].fn - (e->addr + room));

		if (lo != (s32)lo || hi != (s32)hi)
			h->clobbered |= TARGET_REG_BIT(ax);
	}
}

/* The hooks that stand before the instruction at window offset OFF and run there;
 * returns the one that takes over, or NULL. *ANSWERS: one may have made the system call. */
static struct hook_code *emit_hooks_at(struct tramp_build *b, const struct hook *hooks, size_t nhooks, unsigned off,
				       bool *answers)
{
	struct hook_code *takes_over = NULL;

	for (size_t i = 0; i < nhooks; i++) {
		struct hook_code *h;

		if (hooks[i].point.off != off || !hooks[i].ncalls)
			continue;
		h = &b->hooks[b->nhooks++];
		hook_code_init(h, &hooks[i], b->window_addr + off);
		hook_code_reach(h, &b->e, 1 << 20);
		*answers = *answers || h->answers;
		if (hook_takes_over(hooks[i].point.kind))
			takes_over = h;
		else
			emit_hook(&b->e, h, b->env);
	}
	return takes_over;
}

/* The instruction IN, before which H takes the return over; a branch out of the
 * function only where it is taken. */
static void emit_takeover(struct tramp_build *b, struct hook_code *h, const u8 *bytes, const struct insn *in)
{
	struct takeover_code *t = &h->takeover;
	size_t stays;

	if (h->hook->point.kind == HOOK_TAIL && in->kind == INSN_JMP) {
		takeover_emit(&b->e, b->env, in->target, t);
	} else if (h->hook->point.kind == HOOK_TAIL && in->kind == INSN_JCC) {
		stays = put_jcc_fwd(&b->e, (bytes[in->at.imm - 1] & 15) ^ 1);
		takeover_emit(&b->e, b->env, in->target, t);
		emit_fix_here(&b->e, stays);
	} else {
		takeover_emit(&b->e, b->env, 0, t);
		relocate_insn(&b->e, bytes, in);
	}
}

/* What runs when the return comes back that H took over. */
static void emit_return(struct tramp_build *b, struct hook_code *h)
{
	takeover_bind_hook(&b->e, &h->takeover);
	emit_hook(&b->e, h, b->env);
	put_store_imm(&b->e, SP, 0, 0); /* the address of this code is on no stack any more */
	put_lea(&b->e, SP, SP, 8);
	put_lit(&b->e, 0xc3);
	takeover_emit_slow(&b->e, b->env, &h->takeover);
}

/* A system call leaves the address behind it in rcx: not that of the copy, which
 * would wander about on stacks, and look as if somebody were to come back there. A
 * thread that waits in the call goes on here. */
static void emit_behind_syscall(struct tramp_build *b, const struct insn *before)
{
	if (before->kind == INSN_SYSCALL)
		put_addr(&b->e, CX, before->addr + before->len);
}

/* Copies of the instructions, each behind its hooks; what stands behind an
 * instruction that ends its block is padding. */
static struct uerr *emit_insns(struct tramp_build *b, const struct hook *hooks, size_t nhooks,
			       struct trampoline *ret)
{
	const struct window *w = b->w;
	struct insn in = { .kind = INSN_PLAIN };

	for (unsigned i = 0; i < w->ninsns; i++) {
		unsigned off = w->insn_off[i];
		addr_t at = b->window_addr + off;
		struct hook_code *takes_over;
		bool answers = false;
		const char *refusal;

		if (off)
			ret->moves[ret->nmoves++] = (struct tramp_move){ .off = off, .tramp_off = b->e.n };
		emit_behind_syscall(b, &in);
		if (!insn_decode(w->bytes + off, w->len - off, at, &in))
			return uerr_new(UERR_CANNOT_PROBE, "no instruction at %#lx", (unsigned long)at);
		refusal = relocate_refusal(w->bytes + off, &in);
		if (refusal)
			return uerr_new(UERR_CANNOT_PROBE, "the instruction at %#lx is %s", (unsigned long)at, refusal);
		takes_over = emit_hooks_at(b, hooks, nhooks, off, &answers);
		if (answers && in.kind != INSN_SYSCALL)
			return uerr_new(UERR_FAILED, "no system call at %#lx", (unsigned long)at);
		if (answers)
			put_lit(&b->e, 0xe3, in.len); /* jrcxz over it: the flags stay */
		if (takes_over)
			emit_takeover(b, takes_over, w->bytes + off, &in);
		else
			relocate_insn(&b->e, w->bytes + off, &in);
		if (b->e.failed)
			return emit_error(&b->e, at);
		if (insn_ends_block(&in))
			return NULL;
	}
	emit_behind_syscall(b, &in);
	put_jmp(&b->e, b->window_addr + w->len);
	return b->e.failed ? emit_error(&b->e, b->window_addr) : NULL;
}

static struct uerr *check_window(const struct window *w, const struct hook *hooks, size_t nhooks,
				 const struct tramp_env *env)
{
	if ((w->len + w->keep < JUMP_LEN && !w->trap) || w->len + w->keep > WINDOW_MAX || !w->len || !w->ninsns || w->ninsns > WINDOW_INSNS || w->insn_off[0] ||
	    nhooks > HOOKS_MAX)
		return uerr_new(UERR_FAILED, "the window at %#lx makes no sense", (unsigned long)w->addr);
	for (unsigned i = 1; i < w->ninsns; i++)
		if (w->insn_off[i] <= w->insn_off[i - 1] || w->insn_off[i] >= w->len)
			return uerr_new(UERR_FAILED, "the window at %#lx makes no sense", (unsigned long)w->addr);
	if (!env->nrecs || env->nrecs & (env->nrecs - 1) || env->tid_off != (s32)env->tid_off)
		return uerr_new(UERR_FAILED, "bad geometry of the thread table");
	for (size_t i = 0; i < nhooks; i++) {
		bool found = false;

		for (size_t k = 0; k < hooks[i].ncalls; k++)
			if (hooks[i].calls[k].overrides && (hooks[i].point.kind != HOOK_ENTRY || env->side))
				return uerr_new(UERR_FAILED, "what is at %#lx cannot be skipped", (unsigned long)w->addr);
		if (hooks[i].point.kind >= ARRAY_SIZE(layouts) || !layouts[hooks[i].point.kind].size ||
		    (hook_takes_over(hooks[i].point.kind) && hooks[i].ncalls && (!env->cells || env->side)))
			return uerr_new(UERR_FAILED, "a hook of no known kind at %#lx", (unsigned long)w->addr);
		for (unsigned k = 0; k < w->ninsns; k++)
			found |= w->insn_off[k] == hooks[i].point.off;
		if (!found)
			return uerr_new(UERR_FAILED, "no instruction begins at %#lx+%u", (unsigned long)w->addr,
					hooks[i].point.off);
	}
	return NULL;
}

struct uerr *trampoline_emit(const struct window *w, addr_t bias, const struct hook *hooks, size_t nhooks,
			     const struct tramp_env *env, addr_t tramp_addr, struct trampoline *ret)
{
	struct tramp_build b = { .w = w, .window_addr = w->addr + bias, .env = env, .e = { .addr = tramp_addr } };
	struct trampoline t = {};
	struct uerr *err = check_window(w, hooks, nhooks, env);

	if (!err)
		err = emit_insns(&b, hooks, nhooks, &t);
	for (size_t i = 0; !err && i < b.nhooks; i++) {
		if (hook_takes_over(b.hooks[i].hook->point.kind))
			emit_return(&b, &b.hooks[i]);
		emit_slow(&b.e, &b.hooks[i], env);
		if (b.hooks[i].overrides)
			emit_skip(&b.e, &b.hooks[i]);
	}
	if (!err && b.e.failed)
		err = emit_error(&b.e, b.window_addr);
	if (err) {
		emit_deinit(&b.e);
		return err;
	}
	t.code = b.e.buf;
	t.size = b.e.n;
	*ret = t;
	return NULL;
}

void trampoline_deinit(struct trampoline *t)
{
	free(t->code);
	*t = (struct trampoline){};
}

/* The longest forms: every register stored and loaded with 32-bit offsets
 * (8 bytes each), all fields, far addresses. */
#define HOOK_MAX (3 * (15 * 8 + 9 * 8) + 416 + SIDE_SWITCH_MAX)
#define CALL_MAX 80

size_t trampoline_size_bound(const struct window *w, size_t ncalls)
{
	size_t nhooks = w->npoints > ncalls ? w->npoints : ncalls;

	return w->ninsns * RELOCATE_MAX + nhooks * (HOOK_MAX + TAKEOVER_MAX) + ncalls * CALL_MAX + 16;
}

void window_patch_bytes(const struct window *w, addr_t bias, addr_t to, u8 *ret)
{
	s32 rel = (s32)(to - (w->addr + bias + JUMP_LEN));

	if (w->trap) {
		memcpy(ret, w->bytes, w->len);
		ret[0] = 0xcc;
		return;
	}
	memset(ret, 0xcc, w->len);
	ret[0] = 0xe9;
	memcpy(ret + 1, &rel, w->keep ? w->len - 1 : sizeof(rel));
}
