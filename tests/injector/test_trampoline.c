/* SPDX-License-Identifier: MIT */
/*
 * Trampolines, run: the victims are patched in this process, called with random
 * registers, and must do exactly what they did before, while the hooks see every
 * register as the kernel would show it. The hook itself destroys all that it
 * declares as clobbered.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <signal.h>
#include <ucontext.h>

#include "asm_victims.h"
#include "cells_here.h"
#include "injector/pun.h"
#include "injector/relocate.h"
#include "injector/trampoline.h"
#include "tests/support/suite.h"

/* ---- calling a victim with given registers ---- */

struct cpu {
	u64 r[16]; /* by x86 number: ax cx dx bx sp bp si di r8 … r15 */
	u64 flags;
};

__attribute__((visibility("hidden"), used)) struct cpu drive_in, drive_out;
__attribute__((visibility("hidden"), used)) u64 drive_fn, drive_sp;
void drive(void);
extern const u8 drive_return[] __attribute__((visibility("hidden")));

/* Two words are left above the victim's return address, for `ret 16`. The stack
 * below is filled, so that what a victim reads there by mistake is the same in
 * each run. */
asm(".text\n.globl drive\n.type drive, @function\ndrive:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, drive_sp(%rip)\n sub $24, %rsp\n"
    "pushq drive_in+128(%rip)\n popfq\n"
    "mov drive_in(%rip), %rax\n mov drive_in+8(%rip), %rcx\n mov drive_in+16(%rip), %rdx\n"
    "mov drive_in+24(%rip), %rbx\n mov drive_in+40(%rip), %rbp\n mov drive_in+48(%rip), %rsi\n"
    "mov drive_in+56(%rip), %rdi\n mov drive_in+64(%rip), %r8\n mov drive_in+72(%rip), %r9\n"
    "mov drive_in+80(%rip), %r10\n mov drive_in+88(%rip), %r11\n mov drive_in+96(%rip), %r12\n"
    "mov drive_in+104(%rip), %r13\n mov drive_in+112(%rip), %r14\n mov drive_in+120(%rip), %r15\n"
    "call *drive_fn(%rip)\n"
    ".globl drive_return\ndrive_return:\n"
    "mov %rax, drive_out(%rip)\n mov %rcx, drive_out+8(%rip)\n mov %rdx, drive_out+16(%rip)\n"
    "mov %rbx, drive_out+24(%rip)\n mov %rsp, drive_out+32(%rip)\n mov %rbp, drive_out+40(%rip)\n"
    "mov %rsi, drive_out+48(%rip)\n mov %rdi, drive_out+56(%rip)\n mov %r8, drive_out+64(%rip)\n"
    "mov %r9, drive_out+72(%rip)\n mov %r10, drive_out+80(%rip)\n mov %r11, drive_out+88(%rip)\n"
    "mov %r12, drive_out+96(%rip)\n mov %r13, drive_out+104(%rip)\n mov %r14, drive_out+112(%rip)\n"
    "mov %r15, drive_out+120(%rip)\n"
    "mov drive_sp(%rip), %rsp\n lea -128(%rsp), %rsp\n pushfq\n popq drive_out+128(%rip)\n lea 128(%rsp), %rsp\n cld\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

/* ---- hooks ---- */

#define DIRECTION 0x400u

struct hit {
	struct target_regs regs;
	u64 site, rec, top; /* top: the word at regs.sp */
};

#define HITS_MAX 64
static struct hit hits[HITS_MAX];
static unsigned nhits;
static u64 bad_args;
static bool on_side; /* hooks have a stack of their own */
__attribute__((visibility("hidden"), used)) u64 trash;

__attribute__((visibility("hidden"), used, no_sanitize_address)) void record(void *ctx, u64 zero,
									     struct hook_frame *frame);
void record(void *ctx, u64 zero, struct hook_frame *frame)
{
	struct hit *h = &hits[nhits++ % HITS_MAX];

	bad_args += ctx != &frame->regs || zero || (u64)frame % 16 || __builtin_ia32_readeflags_u64() & DIRECTION;
	h->regs = frame->regs;
	h->site = frame->site;
	h->rec = frame->rec;
	h->top = 0;
	if (on_side || (frame->regs.sp > (u64)frame && frame->regs.sp < (u64)frame + 4096))
		h->top = *(const u64 *)frame->regs.sp;
}

/* Calls record() and then destroys the flags and the registers of `trash`
 * (TARGET_REG_BIT). */
#define TRASH(bit, reg) "testl $1 << " #bit ", trash(%rip)\n jz 1f\n mov $0x5a5a5a5a5a5a5a5a, %" #reg "\n1:\n"
void hook_stub(void);
void slow_stub(void);
asm(".text\n.globl hook_stub\n.type hook_stub, @function\nhook_stub:\n"
    "push %rax\n push %rcx\n push %rdx\n push %rsi\n push %rdi\n push %r8\n push %r9\n push %r10\n push %r11\n"
    "mov %rdx, %rax\n call record\n"
    "pop %r11\n pop %r10\n pop %r9\n pop %r8\n pop %rdi\n pop %rsi\n pop %rdx\n pop %rcx\n pop %rax\n"
    TRASH(6, r11) TRASH(7, r10) TRASH(8, r9) TRASH(9, r8) TRASH(10, rax) TRASH(11, rcx) TRASH(12, rdx)
    TRASH(13, rsi) TRASH(14, rdi)
    "pushq $0xad5\n xorq $0x8d5, (%rsp)\n popfq\n ret\n"
    ".globl slow_stub\n.type slow_stub, @function\nslow_stub:\n"
    "sub $8, %rsp\n call find_rec\n add $8, %rsp\n"
    "mov $0x6b6b6b6b6b6b6b6b, %rcx\n mov %rcx, %rdx\n mov %rcx, %rsi\n mov %rcx, %rdi\n mov %rcx, %r8\n"
    "mov %rcx, %r9\n mov %rcx, %r10\n mov %rcx, %r11\n ret\n");

/* ---- a target in this process ---- */

#define NRECS 8u

static struct {
	struct thread_table head;
	u8 pad[THREAD_RECS_OFF - sizeof(struct thread_table)];
	struct thread_rec recs[NRECS + 1];
} table __attribute__((aligned(4096)));
static struct target_env target_env;
static unsigned slow_calls;
static bool slow_overflows; /* the slow path gives the overflow record */
static addr_t slow_env;

__attribute__((visibility("hidden"), used)) struct thread_rec *find_rec(const struct target_env *env);
struct thread_rec *find_rec(const struct target_env *env)
{
	u32 tid = (u32)syscall(SYS_gettid);
	struct thread_rec *rec = &table.recs[slow_overflows ? NRECS : tid & (NRECS - 1)];

	slow_calls++;
	slow_env = (addr_t)env;
	rec->tid = tid;
	return rec;
}

static s64 tid_off; /* 0: look for it */

/* Where glibc keeps the tid of a thread, by looking for it behind %fs:0. */
static s64 tid_offset(void)
{
	u32 tid = (u32)syscall(SYS_gettid);
	const u8 *tcb;

	if (tid_off)
		return tid_off;
	asm("mov %%fs:0, %0" : "=r"(tcb));
	if (*(const volatile u32 *)(tcb + 0x2d0) == tid)
		return 0x2d0;
	for (s64 off = 8; off < 2048; off += 4)
		if (*(const volatile u32 *)(tcb + off) == tid)
			return off;
	return 0;
}

/* N bytes of RWX-free memory near the victims: written first, executed later. */
static u8 *code_page;
#define CODE_SIZE (64 * PAGE)

static u8 *map_near(addr_t near)
{
	for (u64 step = 1; step < 1024; step++) {
		u8 *want = (u8 *)ALIGN_DOWN(near - step * (1ul << 20), PAGE);
		u8 *p = mmap(want, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			     -1, 0);

		if (p == want)
			return p;
		if (p != MAP_FAILED)
			munmap(p, CODE_SIZE);
	}
	ck_abort_msg("no room near the victims");
}

static void make_writable(bool writable)
{
	const struct code_range *text = &asm_victims_image()->text[0];
	addr_t lo = ALIGN_DOWN(text->addr, PAGE), hi = ALIGN_UP(text->addr + text->size, PAGE);

	/* The driver and the hooks share these pages with the victims, so they
	 * stay executable here. */
	ck_assert_int_eq(mprotect((void *)lo, hi - lo, PROT_READ | PROT_EXEC | (writable ? PROT_WRITE : 0)), 0);
	ck_assert_int_eq(mprotect(code_page, CODE_SIZE, PROT_READ | (writable ? PROT_WRITE : PROT_EXEC)), 0);
}

struct config {
	const char *name;
	u32 want;
	u32 reads, clobbers;
	bool slow, far;
	bool side; /* on a stack of the thread's own */
	unsigned ncalls;
	bool trap;       /* breakpoints */
};

#define CALLER_SAVED                                                                                          \
	(TARGET_REG_BIT(ax) | TARGET_REG_BIT(cx) | TARGET_REG_BIT(dx) | TARGET_REG_BIT(si) | TARGET_REG_BIT(di) | \
	 TARGET_REG_BIT(r8) | TARGET_REG_BIT(r9) | TARGET_REG_BIT(r10) | TARGET_REG_BIT(r11))

static const struct config configs[] = {
	{ "entry", PLAN_ENTRY, TARGET_REGS_ALL, CALLER_SAVED, .ncalls = 1 },
	{ "exit", PLAN_EXIT, TARGET_REGS_ALL, CALLER_SAVED, .ncalls = 1 },
	{ "both", PLAN_ENTRY | PLAN_EXIT, TARGET_REGS_ALL, CALLER_SAVED, .ncalls = 1 },
	{ "nothing read, little clobbered", PLAN_ENTRY | PLAN_EXIT, 0, TARGET_REG_BIT(ax), .ncalls = 1 },
	{ "nothing clobbered", PLAN_ENTRY | PLAN_EXIT, TARGET_REG_BIT(ip), 0, .ncalls = 1 },
	{ "some clobbered", PLAN_ENTRY | PLAN_EXIT, TARGET_REG_BIT(sp) | TARGET_REG_BIT(r10),
	  TARGET_REG_BIT(r9) | TARGET_REG_BIT(di) | TARGET_REG_BIT(cx), .ncalls = 1 },
	{ "slow path", PLAN_ENTRY | PLAN_EXIT, TARGET_REGS_ALL, CALLER_SAVED, .slow = true, .ncalls = 1 },
	{ "slow path, little clobbered", PLAN_ENTRY | PLAN_EXIT, TARGET_REG_BIT(cx), 0, .slow = true, .ncalls = 1 },
	{ "far functions", PLAN_ENTRY | PLAN_EXIT, TARGET_REGS_ALL, TARGET_REG_BIT(cx), .far = true, .ncalls = 1 },
	{ "far slow path", PLAN_ENTRY | PLAN_EXIT, 0, 0, .far = true, .slow = true, .ncalls = 1 },
	{ "three calls", PLAN_ENTRY | PLAN_EXIT, TARGET_REGS_ALL, CALLER_SAVED, .ncalls = 3 },
	{ "side stack", PLAN_ENTRY | PLAN_EXIT, TARGET_REGS_ALL, CALLER_SAVED, .side = true, .ncalls = 2 },
	{ "side stack, slow path", PLAN_ENTRY | PLAN_EXIT, TARGET_REGS_ALL, TARGET_REG_BIT(cx), .side = true, .slow = true,
	  .ncalls = 1 },
	{ "no calls", PLAN_ENTRY | PLAN_EXIT, TARGET_REGS_ALL, CALLER_SAVED, .ncalls = 0 },
};

/* A function that cannot be reached by rel32 and jumps to FN. */
static addr_t far_stub(void *fn)
{
	static u8 *page;
	u8 *p;

	if (!page) {
		page = mmap((void *)0x10000000000, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ck_assert(page != MAP_FAILED);
	}
	mprotect(page, PAGE, PROT_READ | PROT_WRITE);
	p = page + (fn == (void *)hook_stub ? 0 : 32);
	memcpy(p, (const u8[]){ 0xff, 0x25, 0, 0, 0, 0 }, 6); /* jmp *0(%rip) */
	memcpy(p + 6, &fn, 8);
	mprotect(page, PAGE, PROT_READ | PROT_EXEC);
	return (addr_t)p;
}

static addr_t cell_take;

static void install_cells(void)
{
	target_env = (struct target_env){ .tid_off = tid_offset(), .threads = (addr_t)&table, .nrecs = NRECS,
					  .cells = (addr_t)cells_here() };
	cell_take = cell_take_here();
}

static const struct config *config;
static const struct asm_victim *victim; /* the one that is run */
static struct func_plan plan;
static struct trampoline tramps[16];
static u8 *tramp_at[16];

/* Behind the trampolines, so that they reach it. */
#define SIDE_FIND_OFF (CODE_SIZE - 2 * PAGE)

static void give_side_stacks(struct tramp_env *env)
{
	static void *stacks;
	size_t size;
	const u8 *code = side_find_code(&size);

	if (!stacks)
		stacks = mmap(NULL, side_stacks_size(NRECS), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert(stacks != MAP_FAILED && size <= 512);
	memcpy(code_page + SIDE_FIND_OFF, code, size);
	target_env.tid_off = env->tid_off;
	target_env.nrecs = NRECS;
	target_env.threads = env->threads;
	env->side = (addr_t)stacks;
	env->side_find = (addr_t)code_page + SIDE_FIND_OFF;
}

static void emit_window(size_t i, struct textscan *scan, size_t *used)
{
	const struct window *w = &plan.windows[i];
	struct hook_call calls[3];
	struct hook hooks[8];
	struct tramp_env env = {
		.env = (addr_t)&target_env, .tid_off = config->slow ? 0 : tid_offset(), .threads = (addr_t)&table,
		.nrecs = NRECS, .rec_slow = config->far ? far_stub(slow_stub) : (addr_t)slow_stub,
		.cells = target_env.cells, .cell_take = cell_take,
	};
	struct uerr *err;

	if (config->side)
		give_side_stacks(&env);
	for (unsigned k = 0; k < config->ncalls; k++)
		calls[k] = (struct hook_call){ .fn = config->far ? far_stub(hook_stub) : (addr_t)hook_stub,
					       .site = 0x1000 + k, .reads = config->reads,
					       .clobbers = config->clobbers };
	for (unsigned k = 0; k < w->npoints; k++)
		hooks[k] = (struct hook){ .point = w->points[k], .calls = calls, .ncalls = config->ncalls };
	tramp_at[i] = code_page + *used;
	trampoline_deinit(&tramps[i]);
	err = trampoline_emit(w, 0, hooks, w->npoints, &env, (addr_t)tramp_at[i], &tramps[i]);
	ck_assert_msg(!err, "%s", err ? err->message : "");
	ck_assert_uint_le(tramps[i].size, trampoline_size_bound(w, w->npoints * config->ncalls));
	memcpy(tramp_at[i], tramps[i].code, tramps[i].size);
	*used += ALIGN_UP(tramps[i].size, 16);
}

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/* Where the window's jump shall lead: a punned one to a stub on a page that is
 * mapped where there is room for it; 0: nowhere. */
static addr_t jump_target(const struct window *w, addr_t tramp)
{
	struct pun_space space;
	struct pun_site site;
	u8 bytes[STUB_MAX], *page;
	unsigned n;

	if (!w->keep)
		return tramp;
	ck_assert_ptr_null(pun_space_read(getpid(), &space));
	pun_reach(w, 0, &site.lo, &site.hi);
	ck_assert(pun_place(&space, &site, 1));
	if (!site.stub) {
		pun_space_deinit(&space);
		return 0;
	}
	page = (u8 *)space.pages.data[0];
	ck_assert_ptr_eq(mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
			 page);
	n = stub_bytes(site.stub, tramp, bytes);
	memcpy((void *)site.stub, bytes, n);
	ck_assert_int_eq(mprotect(page, PAGE, PROT_READ | PROT_EXEC), 0);
	pun_space_deinit(&space);
	return site.stub;
}

/* Patches what was planned for V; false when there was no place for a stub. */
static bool install_plan(const struct asm_victim *v, struct textscan *scan)
{
	size_t used = 0;
	bool placed = true;

	install_cells();
	code_page = map_near((addr_t)v->code);
	make_writable(true);
	for (size_t i = 0; i < plan.nwindows; i++) {
		u8 patch[WINDOW_MAX];
		addr_t to;

		emit_window(i, scan, &used);
		to = jump_target(&plan.windows[i], (addr_t)tramp_at[i]);
		placed &= to != 0;
		window_patch_bytes(&plan.windows[i], 0, to, patch);
		if (to)
			memcpy((void *)plan.windows[i].addr, patch, plan.windows[i].len);
	}
	make_writable(false);
	trash = config->clobbers;
	return placed;
}

/* Plans V and patches it. False when it has nothing that CONFIG asks for. */
static bool install(const struct asm_victim *v)
{
	struct textscan *scan;

	ck_assert_ptr_null(textscan_create(asm_victims_image(), NULL, &scan));
	ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, v->end - v->code, v->name, config->want, &plan));
	if (config->side && (plan.exit == SITE_TAIL || plan.exit == SITE_ENTRY_TAKEOVER)) { /* not with those */
		func_plan_deinit(&plan);
		ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, v->end - v->code, v->name,
						 config->want & ~PLAN_EXIT, &plan));
	}
	ck_assert(install_plan(v, scan));
	textscan_destroy(scan);
	return plan.nwindows > 0;
}

static u64 rand64(void)
{
	return (u64)random() << 42 ^ (u64)random() << 21 ^ (u64)random();
}

static void random_cpu(struct cpu *c)
{
	for (int i = 0; i < 16; i++)
		c->r[i] = rand64();
	c->r[7] = 4;                                         /* rdi: loops and recursion are short */
	c->r[1] = (u64)asm_victim_find("v_leaf")->code;      /* rcx */
	c->flags = 0x202 | (rand64() & 0x8d5);
}

static struct cpu run(addr_t fn, const struct cpu *in)
{
	drive_in = *in;
	drive_fn = fn;
	drive();
	if (victim->syscalls)
		drive_out.r[11] = 0; /* rcx is where the original goes on */
	return drive_out;
}

#define ARITHMETIC 0x8d5u /* CF PF AF ZF SF OF */

static void assert_same(const char *name, const struct cpu *a, const struct cpu *b, bool flags)
{
	static const char *const names[] = { "ax", "cx", "dx", "bx", "sp", "bp", "si", "di",
					     "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };

	for (int i = 0; i < 16; i++)
		ck_assert_msg(a->r[i] == b->r[i], "%s: %s is %#lx, was %#lx", name, names[i], (long)b->r[i], (long)a->r[i]);
	if (flags)
		ck_assert_msg(((a->flags ^ b->flags) & ARITHMETIC) == 0, "%s: flags %#lx, were %#lx", name,
			      (long)b->flags, (long)a->flags);
}

/* ---- what the hooks must have seen ---- */

static void assert_regs(const struct hit *h, const struct cpu *in, addr_t ip)
{
	const struct target_regs *r = &h->regs;
	const u64 got[16] = { r->ax, r->cx, r->dx, r->bx, 0, r->bp, r->si, r->di,
			      r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

	for (int i = 0; i < 16; i++)
		if (i != 4)
			ck_assert_msg(got[i] == in->r[i], "register %d is %#lx, not %#lx", i, (long)got[i], (long)in->r[i]);
	ck_assert_uint_eq(r->ip, ip);
	ck_assert_uint_eq(r->orig_ax, ~0ull);
	ck_assert_uint_eq(r->cs, 0x33);
	ck_assert_uint_eq(r->ss, 0x2b);
	ck_assert_uint_eq(r->flags & ARITHMETIC, in->flags & ARITHMETIC);
}

static bool is_ret(addr_t ip)
{
	const struct code_range *text = &asm_victims_image()->text[0];
	struct insn in;

	return insn_decode(text->bytes + (ip - text->addr), text->size - (ip - text->addr), ip, &in) &&
	       in.kind == INSN_RET;
}

static void assert_hits(const struct asm_victim *v, const struct cpu *in, const struct cpu *out)
{
	unsigned entries = plan.entry == SITE_JUMP || plan.entry == SITE_PUN ? v->entries : 0;
	unsigned exits = plan.exit != SITE_NONE ? v->exits : 0;

	ck_assert_msg(nhits == (entries + exits) * config->ncalls, "%s: %u hits", v->name, nhits);
	ck_assert_uint_eq(bad_args, 0);
	for (unsigned i = 0; i < nhits; i++)
		ck_assert_uint_eq(hits[i].site, 0x1000 + i % config->ncalls);
	if (config->reads != TARGET_REGS_ALL || !nhits)
		return;
	if (entries)
		assert_regs(&hits[0], in, (addr_t)v->code);
	if (exits) {
		const struct hit *last = &hits[nhits - 1];

		if (!v->syscalls)
			assert_regs(last, out, last->regs.ip);
		if (plan.exit == SITE_RET)
			ck_assert_msg(is_ret(last->regs.ip), "%s: ip %#lx is no ret", v->name, (long)last->regs.ip);
		else
			ck_assert_uint_eq(last->regs.ip, last->top);
		ck_assert_uint_lt(last->regs.sp, out->r[4]);
		ck_assert_uint_ne(last->top, 0);
	}
	/* What stands at sp is the return address, at entry and at the ret. */
	if (entries && exits)
		ck_assert_uint_eq(hits[0].top, hits[nhits - 1].top);
}

static void assert_counters(const struct asm_victim *v)
{
	u64 entries = 0, leaves = 0, expected = 0;

	for (unsigned i = 0; i <= NRECS; i++) {
		entries += table.recs[i].entries;
		leaves += table.recs[i].leaves;
	}
	if (config->ncalls)
		expected = nhits / config->ncalls;
	ck_assert_uint_eq(entries, leaves);
	ck_assert_msg(entries == expected, "%s: %lu entries counted of %lu", v->name, (long)entries, (long)expected);
	for (unsigned i = 0; i < nhits; i++)
		ck_assert_uint_eq(hits[i].rec, (addr_t)&table.recs[(u32)syscall(SYS_gettid) & (NRECS - 1)]);
	if (config->slow && expected)
		ck_assert_uint_eq(slow_calls, expected);
	if (slow_calls)
		ck_assert_uint_eq(slow_env, (addr_t)&target_env);
}

/* A thread that was parked behind instruction K of window I and moved: runs the
 * instructions before it natively, then goes on in the trampoline. */
static void assert_move(const struct asm_victim *v, size_t i, unsigned m, const struct cpu *in, const struct cpu *out)
{
	const struct window *w = &plan.windows[i];
	struct emit e = { .addr = (addr_t)code_page + CODE_SIZE - PAGE };
	struct cpu got;

	for (unsigned k = 0; k < w->ninsns && w->insn_off[k] < tramps[i].moves[m].off; k++) {
		struct insn insn;

		ck_assert(insn_decode(w->bytes + w->insn_off[k], w->len - w->insn_off[k], w->addr + w->insn_off[k], &insn));
		relocate_insn(&e, w->bytes + w->insn_off[k], &insn);
	}
	put_jmp(&e, (addr_t)tramp_at[i] + tramps[i].moves[m].tramp_off);
	ck_assert_int_eq(e.failed, EMIT_OK);
	make_writable(true);
	memcpy((void *)e.addr, e.buf, e.n);
	make_writable(false);
	emit_deinit(&e);
	got = run((addr_t)code_page + CODE_SIZE - PAGE, in);
	assert_same(v->name, out, &got, false);
}

static void check_moves(const struct asm_victim *v)
{
	struct cpu in, out;

	random_cpu(&in);
	out = run((addr_t)v->code, &in);
	for (size_t i = 0; i < plan.nwindows; i++) {
		if (plan.windows[i].addr != (addr_t)v->code)
			continue;
		for (unsigned m = 0; m < tramps[i].nmoves; m++)
			assert_move(v, i, m, &in, &out);
	}
}

static void check_victim(const struct asm_victim *v)
{
	struct cpu in[8], before[8], out;
	bool installed;

	if (!v->entries)
		return;
	victim = v;
	srandom(1 + v->code[0]);
	for (size_t i = 0; i < ARRAY_SIZE(in); i++) {
		random_cpu(&in[i]);
		before[i] = run((addr_t)v->code, &in[i]);
	}
	table.recs[(u32)syscall(SYS_gettid) & (NRECS - 1)].tid = (u32)syscall(SYS_gettid);
	installed = install(v);
	for (size_t i = 0; i < ARRAY_SIZE(in); i++) {
		memset(hits, 0, sizeof(hits));
		nhits = 0;
		slow_calls = 0;
		for (unsigned k = 0; k <= NRECS; k++)
			table.recs[k].entries = table.recs[k].leaves = 0;
		out = run((addr_t)v->code, &in[i]);
		/* Flags are dead at an entry: a victim that never sets any
		 * returns other ones. */
		assert_same(v->name, &before[i], &out, !(config->want & PLAN_ENTRY) || !config->ncalls);
		if (installed)
			assert_hits(v, &in[i], &out);
		assert_counters(v);
		ck_assert(!installed || !cells_used((const struct cell_area *)target_env.cells));
	}
	check_moves(v);
}

/* A process for each case takes its time where that has a sanitizer in it: then some
 * victims of each configuration have to do. */
#ifdef __SANITIZE_ADDRESS__
#define EACH 7
#else
#define EACH 1
#endif

START_TEST(runs)
{
	unsigned nvictims = (unsigned)nasm_victims;

	_i *= EACH;
	config = &configs[(unsigned)_i / nvictims];
	on_side = config->side && (config->reads & TARGET_REG_BIT(sp));
	check_victim(&asm_victims[(unsigned)_i % nvictims]);
}
END_TEST

/* ---- inside of functions ---- */

#define TRAP_FLAG 0x100u
#define STEPS_MAX 512

/* What a run of the victim did, instruction by instruction. */
static struct target_regs steps[STEPS_MAX];
static unsigned nsteps;

static void on_step(int sig, siginfo_t *info, void *context)
{
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
	const struct code_range *text = &asm_victims_image()->text[0];
	u64 ip = g[REG_RIP];

	(void)sig;
	(void)info;
	if (ip == (u64)drive_return)
		g[REG_EFL] &= ~TRAP_FLAG;
	if (ip - text->addr >= text->size || nsteps == STEPS_MAX)
		return;
	steps[nsteps++] = (struct target_regs){
		.r15 = g[REG_R15], .r14 = g[REG_R14], .r13 = g[REG_R13], .r12 = g[REG_R12], .bp = g[REG_RBP],
		.bx = g[REG_RBX], .r11 = g[REG_R11], .r10 = g[REG_R10], .r9 = g[REG_R9], .r8 = g[REG_R8],
		.ax = g[REG_RAX], .cx = g[REG_RCX], .dx = g[REG_RDX], .si = g[REG_RSI], .di = g[REG_RDI],
		.orig_ax = ~0ull, .ip = ip, .cs = 0x33, .flags = g[REG_EFL] & ~TRAP_FLAG, .sp = g[REG_RSP], .ss = 0x2b,
	};
}

static struct cpu run_stepped(const struct asm_victim *v, const struct cpu *in)
{
	struct sigaction act = { .sa_sigaction = on_step, .sa_flags = SA_SIGINFO };
	struct cpu stepped = *in, out;

	stepped.flags |= TRAP_FLAG;
	nsteps = 0;
	sigaction(SIGTRAP, &act, NULL);
	out = run((addr_t)v->code, &stepped);
	out.flags &= ~TRAP_FLAG;
	return out;
}

static const struct config inside_configs[] = {
	{ "all read", 0, TARGET_REGS_ALL, CALLER_SAVED, .ncalls = 1 },
	{ "nothing read, nothing clobbered", 0, 0, 0, .ncalls = 1 },
	{ "some read", 0, TARGET_REG_BIT(sp) | TARGET_REG_BIT(r10), TARGET_REG_BIT(r9) | TARGET_REG_BIT(ax), .ncalls = 1 },
	{ "slow path", 0, TARGET_REGS_ALL, TARGET_REG_BIT(cx), .slow = true, .ncalls = 1 },
	{ "far slow path", 0, TARGET_REG_BIT(flags), CALLER_SAVED, .far = true, .slow = true, .ncalls = 1 },
	{ "three calls", 0, TARGET_REGS_ALL, CALLER_SAVED, .ncalls = 3 },
	{ "breakpoints", 0, TARGET_REGS_ALL, CALLER_SAVED, .ncalls = 1, .trap = true },
};

/* What can be compared: a system call leaves rip and flags in rcx and r11. */
static u32 looked_at(const struct asm_victim *v)
{
	return v->syscalls ? config->reads & ~(TARGET_REG_BIT(cx) | TARGET_REG_BIT(r11)) : config->reads;
}

/* The hits are the steps at the probed instruction, each as the CPU had it. */
static void assert_steps(const struct asm_victim *v, addr_t at)
{
	unsigned n = 0;

	for (unsigned i = 0; i < nsteps; i++) {
		if (steps[i].ip != at)
			continue;
		for (unsigned k = 0; k < config->ncalls; k++, n++) {
			const u64 *want = (const u64 *)&steps[i], *got = (const u64 *)&hits[n % HITS_MAX].regs;

			for (unsigned w = 0; w < sizeof(steps[i]) / sizeof(u64); w++)
				ck_assert_msg(!(looked_at(v) >> w & 1) || got[w] == want[w],
					      "%s+%#lx: word %u of pt_regs is %#lx, not %#lx", v->name,
					      (long)(at - (addr_t)v->code), w, (long)got[w], (long)want[w]);
		}
	}
	/* With the trap flag set, the kernel skips the step behind a system call. */
	if (!memcmp((const void *)(at - 2), "\x0f\x05", 2))
		n = v->entries * config->ncalls;
	ck_assert_msg(nhits == n, "%s+%#lx: %u hits, not %u", v->name, (long)(at - (addr_t)v->code), nhits, n);
	ck_assert_uint_eq(bad_args, 0);
}

static void uninstall(void)
{
	make_writable(true);
	for (size_t i = 0; i < plan.nwindows; i++)
		memcpy((void *)plan.windows[i].addr, plan.windows[i].bytes, plan.windows[i].len);
	make_writable(false);
	munmap(code_page, CODE_SIZE);
	func_plan_deinit(&plan);
}

/* Leads from a breakpoint into its trampoline, as the handler in a target does. */
static void on_breakpoint(int sig, siginfo_t *info, void *context)
{
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)sig;
	(void)info;
	for (size_t i = 0; i < plan.nwindows; i++)
		if (plan.windows[i].trap && (u64)g[REG_RIP] - 1 == plan.windows[i].addr)
			g[REG_RIP] = (greg_t)tramp_at[i];
}

/* Probes the instruction at AT of V and nothing else. */
static bool check_inside(const struct asm_victim *v, struct textscan *scan, addr_t at)
{
	struct cpu in, before, out;

	ck_assert_ptr_null(plan_insn(scan, (addr_t)v->code, v->end - v->code, at, 0, &plan));
	ck_assert((plan.entry == SITE_NONE) == !plan.nwindows && !plan.entry_reason == (plan.nwindows == 1));
	if (!plan.nwindows || (config->trap && !plan_trap_instead(scan, &plan, &plan.windows[0]))) {
		func_plan_deinit(&plan);
		return false;
	}
	random_cpu(&in);
	before = run_stepped(v, &in);
	if (config->trap)
		sigaction(SIGTRAP, &(struct sigaction){ .sa_sigaction = on_breakpoint, .sa_flags = SA_SIGINFO }, NULL);
	memset(hits, 0, sizeof(hits));
	nhits = 0;
	if (install_plan(v, scan)) {
		out = run((addr_t)v->code, &in);
		assert_same(v->name, &before, &out, true);
		assert_steps(v, at);
	}
	uninstall();
	return true;
}

START_TEST(inside)
{
	unsigned nvictims = (unsigned)nasm_victims, n = 0;

	_i *= EACH;
	const struct asm_victim *v = &asm_victims[(unsigned)_i % nvictims];
	struct textscan *scan;

	config = &inside_configs[(unsigned)_i / nvictims];
	victim = v;
	if (!v->entries)
		return;
	table.recs[(u32)syscall(SYS_gettid) & (NRECS - 1)].tid = (u32)syscall(SYS_gettid);
	ck_assert_ptr_null(textscan_create(asm_victims_image(), NULL, &scan));
	for (addr_t at = (addr_t)v->code + 1; at < (addr_t)v->end; at++)
		n += check_inside(v, scan, at);
	ck_assert_msg(n >= v->inside || config->trap, "%s: %u instructions could be probed", v->name, n);
	textscan_destroy(scan);
}
END_TEST

/* Another thread's record, a free one, and a tid of 0 all take the slow path. */
START_TEST(slow_path_taken)
{
	const struct asm_victim *v = asm_victim_find("v_leaf");
	u32 tid = (u32)syscall(SYS_gettid);
	struct thread_rec *rec = &table.recs[tid & (NRECS - 1)];
	struct cpu in;

	config = &configs[2];
	victim = v;
	ck_assert(install(v));
	random_cpu(&in);
	rec->tid = tid + NRECS;
	run((addr_t)v->code, &in);
	ck_assert_uint_eq(slow_calls, 1);  /* the slow path claims it */
	run((addr_t)v->code, &in);
	ck_assert_uint_eq(slow_calls, 1);
	rec->tid = 0;
	run((addr_t)v->code, &in);
	ck_assert_uint_eq(slow_calls, 2);
}
END_TEST

static __thread volatile u32 fake_tid;

/* A free record has tid 0 as well: a thread that reads 0 must not take it. */
START_TEST(no_tid)
{
	const struct asm_victim *v = asm_victim_find("v_leaf");
	const u8 *tcb;
	struct cpu in;

	asm("mov %%fs:0, %0" : "=r"(tcb));
	tid_off = (const volatile u8 *)&fake_tid - tcb;
	config = &configs[2];
	victim = v;
	ck_assert(install(v));
	random_cpu(&in);
	slow_overflows = true; /* its own record may be the one of tid 0 */
	run((addr_t)v->code, &in);
	ck_assert_uint_eq(slow_calls, 2);
	ck_assert_uint_eq(table.recs[0].entries, 0);
	ck_assert_uint_eq(table.recs[NRECS].entries, 2);
	fake_tid = NRECS + 3;
	table.recs[3].tid = fake_tid;
	run((addr_t)v->code, &in);
	ck_assert_uint_eq(slow_calls, 2);
	ck_assert_uint_eq(table.recs[3].entries, 2);
	ck_assert_uint_eq(table.recs[3].leaves, 2);
}
END_TEST

START_TEST(patch_bytes)
{
	struct window w = { .addr = 0x1000, .len = 8 };
	u8 got[8];

	window_patch_bytes(&w, 0x7f0000000000, 0x7f0000002000, got);
	ck_assert(!memcmp(got, (const u8[]){ 0xe9, 0xfb, 0x0f, 0, 0, 0xcc, 0xcc, 0xcc }, 8));
	w = (struct window){ .addr = 0x1000, .len = 3, .bytes = { 0x8d, 0x47, 0x01 }, .trap = true };
	window_patch_bytes(&w, 0x7f0000000000, 0x7f0000002000, got);
	ck_assert(!memcmp(got, (const u8[]){ 0xcc, 0x47, 0x01 }, 3));
}
END_TEST

/* A system call's copy stands directly before where a thread behind it is moved
 * to, so that the kernel's step back restarts the copy. */
START_TEST(syscall_restart)
{
	const struct asm_victim *v = asm_victim_find("v_syscall");
	unsigned found = 0;

	config = &configs[2];
	ck_assert(install(v));
	for (size_t i = 0; i < plan.nwindows; i++)
		for (unsigned m = 0; m < tramps[i].nmoves; m++) {
			const struct window *w = &plan.windows[i];
			unsigned off = tramps[i].moves[m].off;

			if (memcmp(w->bytes + off - 2, "\x0f\x05", 2) != 0)
				continue;
			found++;
			ck_assert(!memcmp(tramps[i].code + tramps[i].moves[m].tramp_off - 2, "\x0f\x05", 2));
		}
	ck_assert_uint_eq(found, 1);
}
END_TEST

/* A program that answers a system call itself, or does not. */
static u64 answer_cx, answer_ax;

static u64 answering(struct target_regs *regs, u64 zero, struct hook_frame *frame)
{
	(void)zero;
	(void)frame;
	regs->cx = answer_cx;
	if (!answer_cx)
		regs->ax = answer_ax;
	return 0;
}

START_TEST(answers)
{
	const struct asm_victim *v = asm_victim_find("v_syscall_first");
	addr_t at = (addr_t)v->code + 4;
	struct textscan *scan;
	struct cpu in, out;
	struct hook_call call = { .fn = (addr_t)answering, .reads = TARGET_REG_BIT(ax) | TARGET_REG_BIT(di),
				  .clobbers = TARGET_REGS_ALL, .answers = true };
	struct hook hook = { .calls = &call, .ncalls = 1 };
	struct tramp_env env = { .env = (addr_t)&target_env, .tid_off = tid_offset(), .threads = (addr_t)&table,
				 .nrecs = NRECS, .rec_slow = (addr_t)slow_stub };
	struct trampoline t;
	u8 patch[WINDOW_MAX];

	ck_assert(!memcmp((void *)at, "\x0f\x05", 2));
	victim = v;
	table.recs[(u32)syscall(SYS_gettid) & (NRECS - 1)].tid = (u32)syscall(SYS_gettid);
	ck_assert_ptr_null(textscan_create(asm_victims_image(), NULL, &scan));
	ck_assert_ptr_null(plan_insn(scan, (addr_t)v->code, v->end - v->code, at, 0, &plan));
	ck_assert(plan.nwindows == 1 && !plan.windows[0].keep);
	hook.point = plan.windows[0].points[0];
	code_page = map_near((addr_t)v->code);
	ck_assert_ptr_null(trampoline_emit(plan.windows, 0, &hook, 1, &env, (addr_t)code_page, &t));
	ck_assert_uint_le(t.size, trampoline_size_bound(plan.windows, 1));
	make_writable(true);
	memcpy(code_page, t.code, t.size);
	window_patch_bytes(plan.windows, 0, (addr_t)code_page, patch);
	memcpy((void *)plan.windows[0].addr, patch, plan.windows[0].len);
	make_writable(false);
	random_cpu(&in);
	answer_cx = 1;
	out = run((addr_t)v->code, &in);
	ck_assert_uint_eq(out.r[0], (u64)getpid());
	answer_cx = 0;
	answer_ax = 0x123456789abcdef0;
	out = run((addr_t)v->code, &in);
	ck_assert_uint_eq(out.r[0], answer_ax);
	ck_assert_uint_eq(out.r[2], in.r[2]);
	ck_assert_uint_eq(out.r[6], in.r[6]);
	ck_assert_uint_eq(out.r[7], in.r[7]);
	trampoline_deinit(&t);
	uninstall();
	/* and only a system call can be answered */
	ck_assert_ptr_null(plan_insn(scan, (addr_t)v->code, v->end - v->code, (addr_t)v->code + 2, 0, &plan));
	hook.point = plan.windows[0].points[0];
	struct uerr *err = trampoline_emit(plan.windows, 0, &hook, 1, &env, (addr_t)code_page, &t);
	ck_assert_ptr_nonnull(err);
	uerr_free(err);
	func_plan_deinit(&plan);
	textscan_destroy(scan);
}
END_TEST

START_TEST(refuses)
{
	struct window w = { .addr = 0x1000, .len = 5, .bytes = { 0x90, 0x90, 0x90, 0x90, 0xcc }, .ninsns = 5,
			    .insn_off = { 0, 1, 2, 3, 4 } };
	struct tramp_env env = { .tid_off = 0x2d0, .nrecs = 1024 };
	struct hook hook = { .point = { .off = 7 } };
	struct trampoline t;
	struct uerr *err = trampoline_emit(&w, 0, NULL, 0, &env, 0x2000, &t);

	ck_assert_ptr_nonnull(err);
	ck_assert_int_eq(err->code, UERR_CANNOT_PROBE);
	ck_assert_str_eq(err->message, "the instruction at 0x1004 is a breakpoint instruction");
	uerr_free(err);
	w.bytes[4] = 0x90;
	err = trampoline_emit(&w, 0, &hook, 1, &env, 0x2000, &t);
	ck_assert_ptr_nonnull(err);
	uerr_free(err);
	err = trampoline_emit(&w, 0, NULL, 0, &env, 0x200000000, &t); /* cannot jump back */
	ck_assert_ptr_nonnull(err);
	ck_assert_int_eq(err->code, UERR_CANNOT_PROBE);
	uerr_free(err);
	for (u8 kind = HOOK_INSN; kind <= HOOK_RET; kind++) { /* only at an entry can a function be skipped */
		struct hook_call skips = { .fn = 0x3000, .site = 0x4000, .overrides = true };
		struct hook within = { .point = { .off = 1, .kind = kind }, .calls = &skips, .ncalls = 1 };

		err = trampoline_emit(&w, 0, &within, 1, &env, 0x2000, &t);
		ck_assert_ptr_nonnull(err);
		ck_assert_str_eq(err->message, "what is at 0x1000 cannot be skipped");
		uerr_free(err);
	}
	env.nrecs = 1000;
	err = trampoline_emit(&w, 0, NULL, 0, &env, 0x2000, &t);
	ck_assert_ptr_nonnull(err);
	uerr_free(err);
}
END_TEST

/* Whether each of the punned victims finds one of its few addresses free. */
static bool layout_serves(void)
{
	struct textscan *scan;
	bool all = true;

	if (textscan_create(asm_victims_image(), NULL, &scan))
		abort();
	for (size_t i = 0; i < nasm_victims; i++) {
		const struct asm_victim *v = &asm_victims[i];
		struct pun_space space;
		struct func_plan p;

		if (plan_function(scan, (addr_t)v->code, v->end - v->code, v->name, PLAN_ENTRY, &p) ||
		    pun_space_read(getpid(), &space))
			abort();
		for (size_t k = 0; k < p.nwindows; k++) {
			struct pun_site site;

			if (!p.windows[k].keep)
				continue;
			pun_reach(&p.windows[k], 0, &site.lo, &site.hi);
			all &= pun_place(&space, &site, 1) && site.stub;
		}
		pun_space_deinit(&space);
		func_plan_deinit(&p);
	}
	textscan_destroy(scan);
	return all;
}

/* Where the kernel puts a program is a lot that is drawn: until one serves. */
static void draw_layout(char **argv)
{
	const char *drawn = getenv("TRAMPOLINE_DRAWN");
	int n = drawn ? atoi(drawn) : 0;
	char text[16];

	if (layout_serves() || n == 1000)
		return;
	snprintf(text, sizeof(text), "%d", n + 1);
	setenv("TRAMPOLINE_DRAWN", text, 1);
	execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
	Suite *s;
	TCase *tc;

	(void)argc;
	draw_layout(argv);
	s = suite_create("trampoline");
	tc = tcase_create("trampoline");
	tcase_add_loop_test(tc, runs, 0, (int)(ARRAY_SIZE(configs) * nasm_victims) / EACH);
	tcase_add_loop_test(tc, inside, 0, (int)(ARRAY_SIZE(inside_configs) * nasm_victims) / EACH);
	tcase_add_test(tc, slow_path_taken);
	tcase_add_test(tc, no_tid);
	tcase_add_test(tc, patch_bytes);
	tcase_add_test(tc, syscall_restart);
	tcase_add_test(tc, answers);
	tcase_add_test(tc, refuses);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
