/* SPDX-License-Identifier: MIT */
/*
 * Stacks, walked at the hit: what stands behind get_stackid and get_stack. From
 * one frame to the next it goes
 *
 *	by tables      base/unwind.h, where the code is of a file that the process had
 *	               mapped at the attach: complete without frame pointers
 *	by rbp         elsewhere (JIT-compiled code), as long as what that says can be
 *	by the site    at a function's entry and at its return, where rsp is known to
 *	               point at the return address
 *
 * A return address that was taken over (base/cells.h) is shown as what it was.
 *
 * Stacks are anybody's memory, and may be torn or forged. So words are read
 * directly only from the stack's own recorded mapping, above the frame of the hit,
 * which is there; everything else is copied by the kernel, a piece at a time. Each
 * step goes up; only a return from a signal handler may lead to another stack, and
 * there are at most UMAP_STACK_DEPTH steps in all.
 */
#include "base/cells.h"
#include "base/unwind.h"
#include "vm/runtime/rt.h"

#define PIECE 256u              /* bytes that are copied at once where they may not be there */
#define FRAME_MAX (1ull << 20)  /* of one found by its frame pointer */
#define CHAIN_MAX 16u           /* returns that lead through several cells */

/* On the stack, of which the alignment is not ours to vouch for. */
typedef u64 __attribute__((aligned(1), may_alias)) walk_word;

struct walk {
	const struct hook_frame *frame;
	const struct target_env *env;
	const struct unwind_image *image;
	const struct unwind_module *mod; /* that the last address was in */
	u64 ip, sp, bp;
	u64 lo, hi;        /* of the stack, from where we stand; 0, 0: not known to be there */
	u64 piece_at;      /* what `piece` is a copy of; 0 nothing */
	bool exact;        /* `ip` is an instruction, not a return address */
	u64 piece[PIECE / 8];
};

static __attribute__((noinline)) bool load_far(struct walk *w, u64 at, u64 *ret)
{
	u64 base = at & ~(u64)(PIECE - 1);

	if (at % 8)
		return !rt_read(ret, at, 8, w->frame);
	if (base != w->piece_at || !base) {
		w->piece_at = 0;
		if (rt_read(w->piece, base, PIECE, w->frame))
			return false;
		w->piece_at = base;
	}
	*ret = w->piece[(at - base) / 8];
	return true;
}

RT_NO_SANITIZE static inline bool load_word(struct walk *w, u64 at, u64 *ret)
{
	if (__builtin_expect(at < w->lo || at >= w->hi || w->hi - at < 8, 0))
		return load_far(w, at, ret);
	*ret = *(const walk_word *)at;
	return true;
}

/* The stack that SP is on. Where it is not known it may be unmapped at any time. */
static void find_bounds(struct walk *w, u64 sp)
{
	struct thread_rec *rec = (struct thread_rec *)w->frame->rec;

	w->lo = w->hi = 0;
	if (!rec)
		return;
	/* the overflow record may be that of several threads */
	if ((u64)rec - w->env->threads - THREAD_RECS_OFF < w->env->nrecs * sizeof(*rec))
		rt_learn_stack(w->env, rec, sp);
	if (sp >= rec->stack_lo && sp < rec->stack_hi) {
		w->lo = sp;
		w->hi = rec->stack_hi;
	} else if (sp >= w->env->main_stack_lo && sp < w->env->main_stack_hi) {
		w->lo = sp;
		w->hi = w->env->main_stack_hi;
	}
}

static const struct unwind_rule *find_rule(struct walk *w, u64 pc)
{
	const struct unwind_module *mod = w->mod;

	if (!w->image)
		return NULL;
	if (!mod || pc < mod->lo || pc >= mod->hi)
		mod = w->mod = unwind_module_at(w->image, pc);
	if (!mod || !mod->table)
		return NULL;
	return unwind_find((const struct unwind_table *)((u64)w->image + mod->table), pc - mod->bias);
}

/* Where a return address leads that may be a cell's. Cells are taken away without
 * asking who reads them, so the kernel does that. */
static bool real_return(struct walk *w, u64 *word)
{
	u64 area = __atomic_load_n(&w->env->all_cells, __ATOMIC_RELAXED);

	for (u32 i = 0; area && cell_is_back(area, *word); i++)
		if (i == CHAIN_MAX || rt_read_asking(word, cell_of_back(*word) + offsetof(struct cell, ra), 8, w->frame))
			return false;
	return true;
}

/* Does a call stand before ADDR? call rel32, or call through a register or memory. */
static bool is_after_call(const struct walk *w, u64 addr)
{
	u8 b[7];

	if (rt_read(b, addr - sizeof(b), sizeof(b), w->frame))
		return false;
	if (b[2] == 0xe8)
		return true;
	for (u32 i = 0; i < sizeof(b) - 1; i++)
		if (b[i] == 0xff && (b[i + 1] & 0x38) == 0x10)
			return true;
	return false;
}

/* May ADDR be what a call returns to? Of a file that has tables it is in them, as a rule. */
static bool is_code(struct walk *w, u64 addr)
{
	const struct unwind_module *mod = w->mod;
	const struct unwind_rule *rule;
	bool ok;

	if (addr < PAGE || addr >> 47)
		return false;
	rule = find_rule(w, addr - 1);
	ok = rule && rule->cfa != UNWIND_UNKNOWN;
	ok = ok || !w->mod || !w->mod->table || is_after_call(w, addr);
	w->mod = mod;
	return ok;
}

/* The caller is found by rbp: {its rbp, return address} is where that points. */
static bool step_by_bp(struct walk *w)
{
	u64 bp = w->bp, next, ra;

	if (bp % 8 || bp < w->sp || bp - w->sp > FRAME_MAX || !load_word(w, bp, &next) || !load_word(w, bp + 8, &ra) ||
	    !real_return(w, &ra) || !is_code(w, ra))
		return false;
	w->ip = ra;
	w->sp = bp + 16;
	w->bp = next;
	w->exact = false;
	return true;
}

/* The return address is where rsp points. */
static bool step_at_return(struct walk *w)
{
	u64 ra;

	if (!load_word(w, w->sp, &ra) || !real_return(w, &ra))
		return false;
	w->ip = ra;
	w->sp += 8;
	w->exact = false;
	return true;
}

/* What a signal has interrupted, perhaps on another stack. */
static bool step_signal(struct walk *w)
{
	u64 uc = w->sp, ip, sp, bp;

	if (!load_word(w, uc + UNWIND_UC_IP, &ip) || !load_word(w, uc + UNWIND_UC_SP, &sp) ||
	    !load_word(w, uc + UNWIND_UC_BP, &bp))
		return false;
	if (sp < w->lo || sp >= w->hi)
		find_bounds(w, sp);
	w->ip = ip;
	w->sp = sp;
	w->bp = bp;
	w->exact = true;
	return true;
}

static bool find_cfa(struct walk *w, const struct unwind_rule *rule, u64 *ret)
{
	u64 base = rule->cfa == UNWIND_RSP || rule->cfa == UNWIND_AT_RSP ? w->sp : w->bp;

	base += (u64)(s64)rule->cfa_off;
	if (rule->cfa == UNWIND_AT_RSP || rule->cfa == UNWIND_AT_RBP) {
		if (!load_word(w, base, &base))
			return false;
		base += (u64)(s64)rule->cfa_add;
	}
	*ret = base;
	return base > w->sp;
}

static bool find_bp(struct walk *w, const struct unwind_rule *rule, u64 cfa)
{
	switch (rule->bp) {
	case UNWIND_BP_SAME:
		return true;
	case UNWIND_BP_AT_CFA:
		return load_word(w, cfa + (u64)(s64)rule->bp_off, &w->bp);
	case UNWIND_BP_AT_BP:
		return load_word(w, w->bp + (u64)(s64)rule->bp_off, &w->bp);
	default:
		w->bp = 0;
		return true;
	}
}

static bool step(struct walk *w)
{
	u64 pc = w->exact ? w->ip : w->ip - 1, cfa, ra;
	const struct unwind_rule *rule;

	/* a program of ours, which a signal has interrupted: its registers are nobody's frame */
	if (pc - w->env->code_lo < w->env->code_hi - w->env->code_lo)
		return false;
	rule = find_rule(w, pc);
	if (!rule || rule->cfa == UNWIND_UNKNOWN || rule->cfa >= UNWIND_CFAS)
		return step_by_bp(w);
	if (rule->cfa == UNWIND_END)
		return false;
	if (rule->cfa == UNWIND_SIGNAL)
		return step_signal(w);
	if (!find_cfa(w, rule, &cfa) || !load_word(w, cfa - 8, &ra) || !ra || !real_return(w, &ra) ||
	    !find_bp(w, rule, cfa))
		return false;
	w->ip = ra;
	w->sp = cfa;
	w->exact = false;
	return true;
}

/* At the first instruction of a function nothing is on the stack yet, whatever is
 * known about it. */
static bool step_first(struct walk *w)
{
	const struct site_data *site = rt_site(w->frame);
	const struct unwind_rule *rule;

	if (w->ip != site->func_ip)
		return step(w);
	rule = find_rule(w, w->ip);
	return rule && rule->cfa != UNWIND_UNKNOWN ? step(w) : step_at_return(w);
}

static inline u64 hash_add(u64 hash, u64 ip)
{
	hash = (hash ^ ip) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 32;
}

/* The stack of the hit into IPS[max], but for the first SKIP: how many there are in
 * all, those that were skipped with them; 0: none. */
static u32 walk_stack(struct hook_frame *frame, u64 *ips, u32 skip, u32 max, u64 *hash)
{
	struct walk w;
	u32 n = 0;

	w.frame = frame;
	w.env = rt_env(frame);
	w.image = (const struct unwind_image *)w.env->unwind;
	w.mod = NULL;
	w.ip = frame->regs.ip;
	w.sp = frame->regs.sp;
	w.bp = frame->regs.bp;
	w.piece_at = 0;
	w.exact = true;
	*hash = 0;
	if (!w.ip)
		return 0;
	find_bounds(&w, w.sp);
	if (rt_site(frame)->exit && !step_at_return(&w))
		return 0;
	do {
		if (n >= skip) {
			ips[n - skip] = w.ip;
			*hash = hash_add(*hash, w.ip);
		}
		n++;
	} while (n < skip + max && n < UMAP_STACK_DEPTH && (n == 1 ? step_first(&w) : step(&w)));
	return n;
}

/* There is no kernel on the way from a probe to its program: without
 * BPF_F_USER_STACK the stack is empty, which the kernel's helpers answer so. */
RT_HELPER(get_stackid)
{
	const struct umap *m = (const struct umap *)r2;
	struct thread_rec *rec = rt_rec(frame);
	struct umap_ctx cx = { .rec = rec, .owner = rt_owner(rt_env(frame), rec) };
	u32 skip = r3 & UMAP_STACK_SKIP, max = m->value_size / 8, n;
	u64 ips[UMAP_STACK_DEPTH], hash;

	if (r3 & ~(u64)(UMAP_STACK_SKIP | UMAP_STACK_USER | UMAP_STACK_FAST_CMP | UMAP_STACK_REUSE))
		return (u64)-EINVAL;
	if (!(r3 & UMAP_STACK_USER))
		return (u64)-EFAULT;
	n = walk_stack(frame, ips, skip, max < UMAP_STACK_DEPTH ? max : UMAP_STACK_DEPTH, &hash);
	if (n <= skip)
		return (u64)-EFAULT;
	return (u64)umap_stack_id(m, ips, n - skip, (u32)hash, r3, &cx);
}

RT_HELPER(get_stack)
{
	u32 size = (u32)r3, skip = r4 & UMAP_STACK_SKIP, n = 0, have;
	long err = -EINVAL;
	u64 hash;

	if (!(r4 & ~(u64)(UMAP_STACK_SKIP | UMAP_STACK_USER)) && size % 8 == 0) {
		err = -EFAULT;
		if (!size)
			return 0;
		if (r4 & UMAP_STACK_USER)
			n = walk_stack(frame, (u64 *)r2, skip, size / 8, &hash);
	}
	if (err == -EINVAL || !n || n < skip) {
		rt_zero((void *)r2, size);
		return (u64)err;
	}
	have = (n - skip) * 8;
	rt_zero((u8 *)r2 + have, size - have);
	return have;
}
