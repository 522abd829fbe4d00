/* SPDX-License-Identifier: MIT */
/*
 * From a function to its windows: where a jump can stand at its entry, and at
 * each of its returns. Decides from the file alone and says why when it cannot.
 *
 * Entry: whole instructions from its first byte that cover the jump. An endbr64
 * in front is displaced like any other: Linux does not enforce indirect-branch
 * tracking in user space, and a hook at the first byte sees every way in. Where
 * there is no room for that, a punned jump: fewer bytes, and those behind them
 * stay. They may not be the beginning of another function or a return's window,
 * so that probes do not depend on which came first.
 *
 * Exit: every `ret` of the function and of its cold parts is replaced, together
 * with the padding behind it or with instructions before it in the same block.
 * The stack is never touched. That needs every way out to be a ret. Where the
 * function also jumps elsewhere, the return of where it jumps to is taken over at
 * each such jump (takeover.h); where that cannot be told or placed, the function's
 * own return at its entry, unless it looks at its return address. Whether returns
 * may be taken over depends on the process; the caller knows.
 */
#include "injector/plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "injector/plan_priv.h"
#include "injector/reach.h"
#include "injector/frame.h"
#include "injector/window.h"

const char *site_tactic_name(enum site_tactic t)
{
	static const char *const names[] = {
		[SITE_NONE] = "-",   [SITE_JUMP] = "jump", [SITE_PUN] = "punned", [SITE_TRAP] = "trap",
		[SITE_RET] = "ret", [SITE_TAIL] = "tail", [SITE_ENTRY_TAKEOVER] = "takeover",
	};

	return (unsigned)t < ARRAY_SIZE(names) ? names[t] : "-";
}

/* Functions whose exit must be left alone, whatever their code looks like; by name. */
static const struct special {
	const char *name, *reason;
} special_functions[] = {
	{ "_Unwind_Backtrace", "unwinds the stack: entry only" },
	{ "_Unwind_ForcedUnwind", "unwinds the stack: entry only" },
	{ "_Unwind_RaiseException", "unwinds the stack: entry only" },
	{ "_Unwind_Resume", "unwinds the stack: entry only" },
	{ "_Unwind_Resume_or_Rethrow", "unwinds the stack: entry only" },
	{ "____longjmp_chk", "changes the stack: entry only" },
	{ "__clone", "returns twice: entry only" },
	{ "__clone2", "returns twice: entry only" },
	{ "__clone3", "returns twice: entry only" },
	{ "__getcontext", "returns twice: entry only" },
	{ "__libc_longjmp", "changes the stack: entry only" },
	{ "__libc_siglongjmp", "changes the stack: entry only" },
	{ "__libc_vfork", "returns twice: entry only" },
	{ "__longjmp", "changes the stack: entry only" },
	{ "__longjmp_chk", "changes the stack: entry only" },
	{ "__setcontext", "changes the stack: entry only" },
	{ "__setjmp", "returns twice: entry only" },
	{ "__sigsetjmp", "returns twice: entry only" },
	{ "__swapcontext", "returns twice: entry only" },
	{ "__vfork", "returns twice: entry only" },
	{ "_dl_tlsdesc_dynamic", "has a calling convention of its own: entry only" },
	{ "_dl_tlsdesc_return", "has a calling convention of its own: entry only" },
	{ "_dl_tlsdesc_undefweak", "has a calling convention of its own: entry only" },
	{ "_longjmp", "changes the stack: entry only" },
	{ "_setjmp", "returns twice: entry only" },
	{ "clone", "returns twice: entry only" },
	{ "clone3", "returns twice: entry only" },
	{ "getcontext", "returns twice: entry only" },
	{ "longjmp", "changes the stack: entry only" },
	{ "setcontext", "changes the stack: entry only" },
	{ "setjmp", "returns twice: entry only" },
	{ "siglongjmp", "changes the stack: entry only" },
	{ "sigsetjmp", "returns twice: entry only" },
	{ "swapcontext", "returns twice: entry only" },
	{ "vfork", "returns twice: entry only" },
};

static int by_special_name(const void *name, const void *special)
{
	return strcmp(name, ((const struct special *)special)->name);
}

static const char *special_reason(const char *name)
{
	const struct special *s = !name ? NULL : bsearch(name, special_functions, ARRAY_SIZE(special_functions),
							 sizeof(special_functions[0]), by_special_name);

	return s ? s->reason : NULL;
}

/* ---- the body of a function ---- */

#define BODY_MAX (4u << 20) /* bytes searched for returns */
#define SEGMENTS_MAX 64

struct segment {
	addr_t lo, hi;
	size_t first, n; /* its instructions in body.insns */
};

/* A function's own range and the cold parts that it jumps to. */
struct body {
	const struct textscan *scan;
	struct segment segs[SEGMENTS_MAX];
	size_t nsegs;
	VEC(struct insn) insns;
	VEC(bool) reached; /* by falling through or by an arrival */
};

/* Why an exit is refused; empty: it is not. */
struct refusal {
	bool final;      /* no tactic will do; else this one does not */
	char text[200];
};

static void body_deinit(struct body *b)
{
	vec_free(&b->insns);
	vec_free(&b->reached);
}

/* The first reason stays, unless a final one comes. */
__attribute__((format(printf, 3, 4))) static void refuse(struct refusal *r, bool final, const char *fmt, ...)
{
	va_list ap;

	if (r->text[0] && (r->final || !final))
		return;
	r->final = final;
	va_start(ap, fmt);
	vsnprintf(r->text, sizeof(r->text), fmt, ap);
	va_end(ap);
}

static bool body_contains(const struct body *b, addr_t addr)
{
	for (size_t i = 0; i < b->nsegs; i++)
		if (addr >= b->segs[i].lo && addr < b->segs[i].hi)
			return true;
	return false;
}

/* Decodes segment S. Data between the instructions of a function would be taken
 * for code: only what is fallen into or arrived at counts as reached. */
static struct uerr *segment_decode(struct body *b, struct segment *s, struct refusal *refusal)
{
	bool flows = true;
	struct insn in;

	s->first = b->insns.n;
	for (addr_t a = s->lo; a < s->hi; a += in.len) {
		if (!textscan_insn(b->scan, a, &in) || a + in.len > s->hi) {
			refuse(refusal, true, "holds bytes at +0x%lx that are no instruction",
			       (unsigned long)(a - s->lo));
			break;
		}
		flows |= textscan_is_target(b->scan, a);
		if (!vec_push(&b->insns, in) || !vec_push(&b->reached, flows))
			return uerr_nomem();
		if (insn_ends_block(&in))
			flows = false;
	}
	s->n = b->insns.n - s->first;
	return NULL;
}

/* Does somebody arrive inside of IN, at something else than IN without a prefix? */
static bool hides_code(const struct body *b, const struct insn *in)
{
	addr_t at = textscan_target_in(b->scan, in->addr + 1, in->addr + in->len);
	struct insn inner;

	return at && (!textscan_insn(b->scan, at, &inner) || at + inner.len != in->addr + in->len);
}

/* Does the function seem to hold data: something that it refers to, that a call
 * jumps over, or that looks like an instruction which goes on into real ones? */
static bool holds_data(const struct body *b)
{
	vec_foreach(in, &b->insns) {
		if (hides_code(b, in))
			return true;
		if (in->rip && body_contains(b, in->ref))
			return true;
		if (in->kind == INSN_CALL && in->target != b->segs[0].lo && body_contains(b, in->target))
			return true;
	}
	return false;
}

/* Decodes segment S anew, nothing but what is known to be reached. */
static struct uerr *segment_follow(struct body *b, struct segment *s)
{
	cleanup(reach_destroyp) struct reach *r = NULL;
	struct uerr *err = reach_create(b->scan, s->lo, s->hi, &r);
	struct insn in;

	b->insns.n = b->reached.n = s->first;
	for (addr_t a = s->lo; !err && a < s->hi; a++)
		if (reach_state(r, a) == REACH_INSN && textscan_insn(b->scan, a, &in) &&
		    (!vec_push(&b->insns, in) || !vec_push(&b->reached, true)))
			err = uerr_nomem();
	s->n = b->insns.n - s->first;
	return err;
}

/* The cold part that contains ADDR becomes a segment of its own. */
static void add_fragment(struct body *b, addr_t addr)
{
	const struct code_func *f = textscan_func(b->scan, addr);

	if (!f || !(f->flags & CODE_FUNC_FRAGMENT) || b->nsegs == SEGMENTS_MAX)
		return;
	b->segs[b->nsegs++] = (struct segment){ .lo = f->addr, .hi = textscan_func_end(b->scan, f) };
}

static struct uerr *body_init(struct body *b, const struct textscan *scan, addr_t lo, addr_t hi,
			      struct refusal *refusal)
{
	u64 total = 0;

	*b = (struct body){ .scan = scan };
	b->segs[b->nsegs++] = (struct segment){ .lo = lo, .hi = hi };
	for (size_t i = 0; i < b->nsegs; i++) {
		struct segment *s = &b->segs[i];
		struct uerr *err;

		total += s->hi - s->lo;
		if (total > BODY_MAX) {
			refuse(refusal, true, "is too large to be searched for its returns");
			break;
		}
		err = segment_decode(b, s, refusal);
		if (!err && !i && holds_data(b))
			err = segment_follow(b, s);
		if (err) {
			body_deinit(b);
			return err;
		}
		for (size_t k = s->first; k < s->first + s->n; k++) {
			const struct insn *in = &b->insns.data[k];

			if (b->reached.data[k] && (in->kind == INSN_JMP || in->kind == INSN_JCC) &&
			    !body_contains(b, in->target))
				add_fragment(b, in->target);
		}
	}
	return NULL;
}

/* ---- ways out ---- */

/* How a function is left. */
struct ways_out {
	u32 nrets;
	u32 njumps;   /* away, at places where a return can be taken over */
	bool unknown; /* and in some other way */
	VEC(bool) jump; /* by instruction: it is one of njumps */
};

/* A jump to elsewhere, K, of which the caller has said why it is no return. */
static void add_jump(struct ways_out *w, const struct body *b, size_t k)
{
	const struct insn *in = &b->insns.data[k];

	if (in->kind == INSN_LOOP || !frame_at_return(b->scan, in->addr)) {
		w->unknown = true;
		return;
	}
	w->jump.data[k] = true;
	w->njumps++;
}

/* [endbr64] [bnd] jmp *slot(%rip) outside of any function: an entry of the PLT. */
static bool is_plt(const struct textscan *scan, addr_t addr)
{
	struct insn in;

	if (!textscan_insn(scan, addr, &in))
		return false;
	if (in.kind == INSN_NOP && !textscan_insn(scan, addr + in.len, &in))
		return false;
	return in.kind == INSN_JMP_IND && in.rip;
}

static void refuse_tail(const struct body *b, addr_t target, struct refusal *r)
{
	const struct code_func *f = textscan_func(b->scan, target);

	if (!f && is_plt(b->scan, target))
		refuse(r, false, "ends by jumping to a function of another module");
	else if (f && f->name && f->addr == target)
		refuse(r, false, "ends by jumping to %s", f->name);
	else if (f && f->name)
		refuse(r, false, "ends by jumping into %s", f->name);
	else
		refuse(r, false, "ends by jumping to %#lx", (unsigned long)target);
}

/* A table that this function reads, with its first entry for itself. */
static bool has_table(const struct body *b, unsigned width)
{
	const struct segment *s = &b->segs[0];

	for (size_t k = 0; k < b->insns.n; k++) {
		const struct insn *in = &b->insns.data[k];

		if ((in->lea || in->table) && textscan_is_table(b->scan, in->ref, width, s->lo, s->hi))
			return true;
	}
	return false;
}

/* A jump that nobody can tell from a switch might be a call in tail position,
 * and then the function would be left without our seeing it. */
static void check_indirect(const struct body *b, const struct segment *s, size_t k, struct ways_out *w,
			   struct refusal *r)
{
	const struct insn *in = &b->insns.data[k];
	size_t avail;
	const u8 *text = textscan_bytes(b->scan, s->lo, &avail);
	bool known = false;

	switch (insn_jump_kind(text, s->lo, avail, &b->insns.data[s->first], k - s->first + 1)) {
	case JUMP_AWAY:
		refuse(r, false, "ends by jumping through a pointer");
		add_jump(w, b, k);
		return;
	case JUMP_TABLE32:
		known = has_table(b, 4);
		break;
	case JUMP_TABLE64:
		known = in->table ? textscan_is_table(b->scan, in->ref, 8, b->segs[0].lo, b->segs[0].hi) :
				    has_table(b, 8);
		break;
	case JUMP_UNKNOWN:
		break;
	}
	if (known)
		return;
	refuse(r, false, "may end by jumping to an address that it computes");
	w->unknown = true;
}

/* Does execution run past the end of S? A call that is last does not return. */
static void check_end(const struct body *b, const struct segment *s, struct ways_out *w, struct refusal *r)
{
	const struct code_func *next;

	for (size_t k = s->first + s->n; k-- > s->first;) {
		const struct insn *in = &b->insns.data[k];

		if (insn_is_padding(in) && k > s->first)
			continue;
		if (!b->reached.data[k] || insn_ends_block(in) || in->kind == INSN_CALL ||
		    in->kind == INSN_CALL_IND || in->kind == INSN_INT3)
			return;
		next = textscan_func(b->scan, s->hi);
		refuse(r, false, "runs on into %s", next && next->name ? next->name : "what follows it");
		w->unknown = true;
		return;
	}
}

static void check_ways_out(const struct body *b, struct ways_out *w, struct refusal *r)
{
	bool tail;

	for (size_t i = 0; i < b->nsegs; i++) {
		const struct segment *s = &b->segs[i];

		for (size_t k = s->first; k < s->first + s->n; k++) {
			const struct insn *in = &b->insns.data[k];

			if (!b->reached.data[k])
				continue;
			tail = in->kind == INSN_JMP || in->kind == INSN_JCC || in->kind == INSN_LOOP;
			if (tail && !body_contains(b, in->target)) {
				refuse_tail(b, in->target, r);
				add_jump(w, b, k);
			} else if (in->kind == INSN_JMP_IND) {
				check_indirect(b, s, k, w, r);
			}
			if (in->kind == INSN_FAR)
				refuse(r, true, "ends by a far transfer");
			else if (in->kind == INSN_RET)
				w->nrets++;
		}
		check_end(b, s, w, r);
	}
	if (!w->nrets && !w->njumps && !w->unknown)
		refuse(r, true, "never returns");
}

/* ---- punned entries ---- */

/* The kernel's return from a signal handler, `mov $15, %rax; syscall`: unwinders
 * and debuggers recognise a signal's frame by these very bytes. */
bool plan_is_sigreturn(const struct textscan *scan, addr_t addr)
{
	static const u8 code[] = { 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05 };
	size_t avail;
	const u8 *p = textscan_bytes(scan, addr, &avail);

	return p && avail >= sizeof(code) && !memcmp(p, code, sizeof(code));
}

/* Go's runtime leads a goroutine there from any instruction, behind which everything is
 * alive, flags too. */
static bool is_entered_anywhere(const struct code_func *f)
{
	static const char *const names[] = { "runtime.asyncPreempt", "runtime.asyncPreempt.abi0", "runtime.debugCallV1",
					     "runtime.debugCallV2", "runtime.debugCallV2.abi0" };

	for (size_t i = 0; f->name && i < ARRAY_SIZE(names); i++)
		if (!strcmp(f->name, names[i]))
			return true;
	return false;
}

/* Why the function must not be touched at all, or NULL. */
static const char *untouchable(const struct textscan *scan, addr_t addr)
{
	const struct code_func *f = textscan_func(scan, addr);

	if (f && f->addr == addr && f->flags & CODE_FUNC_FRAGMENT)
		return "is a cold part of another function";
	if (f && f->addr == addr && is_entered_anywhere(f))
		return "is entered from any instruction, by Go's scheduler";
	if (plan_is_sigreturn(scan, addr))
		return "is the return from signal handlers, which unwinders know by its bytes";
	return NULL;
}

/* Does another function begin in the bytes that W keeps? Its own window would
 * change them. */
static bool keeps_an_entry(const struct textscan *scan, const struct window *w)
{
	for (unsigned i = w->len; i < JUMP_LEN; i++) {
		const struct code_func *f = textscan_func_at(scan, w->addr + i);

		if (f && !(f->flags & CODE_FUNC_FRAGMENT))
			return true;
	}
	return false;
}

/* The punned window of the function at ADDR, where it has to have one; false:
 * it needs none, or there is none. */
static bool plan_punned(const struct textscan *scan, addr_t addr, addr_t end, struct window *ret)
{
	const char *detail;
	struct window w;

	return !untouchable(scan, addr) && window_make(scan, addr, JUMP_LEN, end, &w, &detail) != WINDOW_OK &&
	       window_make_punned(scan, addr, end, ret, &detail) == WINDOW_OK && !keeps_an_entry(scan, ret);
}

/* ---- returns ---- */

/* Does a window at ADDR change bytes that a punned jump at the entry of a function
 * just before it needs? Whoever may be probed first: both plans must go together. */
static bool needed_by_pun(const struct textscan *scan, addr_t addr)
{
	for (addr_t a = addr - (JUMP_LEN - 1); a < addr; a++) {
		const struct code_func *f = textscan_func_at(scan, a);
		struct window w;

		if (f && plan_punned(scan, f->addr, textscan_func_end(scan, f), &w) && w.len <= addr - a)
			return true;
	}
	return false;
}

/* A breakpoint changes one byte: nobody else may need it. */
enum window_fault plan_trap(const struct textscan *scan, addr_t addr, addr_t end, struct window *ret)
{
	const char *detail;

	return needed_by_pun(scan, addr) ? WINDOW_TAKEN : window_make_trap(scan, addr, end, ret, &detail);
}

/* The window of the way out that is instruction K: itself and the padding behind
 * it, else with as many instructions before it as are needed. */
static bool exit_window(const struct body *b, const struct segment *s, size_t k, struct window *ret)
{
	const struct insn *r = &b->insns.data[k];
	const char *detail;

	for (size_t first = k;; first--) {
		const struct insn *in = &b->insns.data[first];
		unsigned need = r->addr + r->len - in->addr;
		const struct insn *prev;

		if (need > WINDOW_MAX)
			return false;
		if (window_make(b->scan, in->addr, need > JUMP_LEN ? need : JUMP_LEN, s->hi, ret, &detail) == WINDOW_OK &&
		    !needed_by_pun(b->scan, in->addr))
			return window_add_point(ret, r->addr, r->kind == INSN_RET ? HOOK_RET : HOOK_TAIL);
		if (first == s->first || need >= JUMP_LEN || textscan_is_target(b->scan, in->addr))
			return false;
		prev = &b->insns.data[first - 1];
		if (insn_ends_block(prev))
			return false;
	}
}

typedef VEC(struct window) window_vec;

static void refuse_exit(const struct insn *in, addr_t func, struct refusal *r)
{
	const char *what = in->kind == INSN_RET ? "return" : "jump elsewhere";

	if (in->addr >= func)
		refuse(r, false, "its %s at +0x%lx is too near to a jump target", what, (unsigned long)(in->addr - func));
	else
		refuse(r, false, "the %s in its cold part, at %#lx, is too near to a jump target", what,
		       (unsigned long)in->addr);
}

/* With TRAP, a breakpoint where a return can have no window. */
static bool way_out(const struct body *b, const struct segment *s, size_t k, bool trap, struct window *ret)
{
	const struct insn *in = &b->insns.data[k];

	if (exit_window(b, s, k, ret))
		return true;
	return trap && in->kind == INSN_RET && plan_trap(b->scan, in->addr, s->hi, ret) == WINDOW_OK &&
	       window_add_point(ret, in->addr, HOOK_RET);
}

/* Windows of all ways out; R says which of them can have none. */
static struct uerr *collect_exits(const struct body *b, const struct ways_out *ways, addr_t func, bool trap,
				  window_vec *windows, struct refusal *r)
{
	for (size_t i = 0; i < b->nsegs; i++) {
		const struct segment *s = &b->segs[i];

		for (size_t k = s->first; k < s->first + s->n; k++) {
			const struct insn *in = &b->insns.data[k];
			struct window w;

			if (!b->reached.data[k] || (in->kind != INSN_RET && !ways->jump.data[k]))
				continue;
			if (!way_out(b, s, k, trap, &w)) {
				refuse_exit(in, func, r);
				return NULL;
			}
			if (!vec_push(windows, w))
				return uerr_nomem();
		}
	}
	return NULL;
}

/* Why the return may not be taken over at the entry, or NULL. */
static const char *takeover_refusal(const struct body *b)
{
	struct code_cfa cache = {};

	if (!frame_at_return(b->scan, b->segs[0].lo))
		return "has no unwind information";
	for (size_t k = 0; k < b->insns.n; k++) {
		const struct insn *in = &b->insns.data[k];
		size_t avail;
		const u8 *bytes = textscan_bytes(b->scan, in->addr, &avail);

		if (b->reached.data[k] && bytes && frame_reads_return(b->scan, bytes, in, &cache))
			return "looks at its return address";
	}
	return NULL;
}

/* ---- plans ---- */

static char *entry_reason(enum window_fault fault, u64 size, const char *detail)
{
	char *s = NULL;
	int n = -1;

	switch (fault) {
	case WINDOW_ARRIVAL:
		n = asprintf(&s, "a jump lands inside its first %d bytes", JUMP_LEN);
		break;
	case WINDOW_SHORT:
		n = asprintf(&s, "too short (%lu bytes): no room for a jump", (unsigned long)size);
		break;
	case WINDOW_UNDECODED:
		n = asprintf(&s, "does not begin with instructions");
		break;
	case WINDOW_IMMOVABLE:
		n = asprintf(&s, "begins with %s", detail);
		break;
	case WINDOW_RSEQ:
		n = asprintf(&s, "begins with a restartable sequence (rseq)");
		break;
	case WINDOW_LIMIT:
		n = asprintf(&s, "begins with too many instructions");
		break;
	case WINDOW_TAKEN:
	case WINDOW_OK:
		break;
	}
	return n < 0 ? NULL : s;
}

static struct uerr *plan_entry(const struct textscan *scan, addr_t end, u32 want, window_vec *windows,
			       struct func_plan *p)
{
	const char *refused = untouchable(scan, p->addr), *detail = NULL;
	enum window_fault fault;
	struct window w, trap;

	if (refused) {
		p->entry_reason = strdup(refused);
		return p->entry_reason ? NULL : uerr_nomem();
	}
	fault = window_make(scan, p->addr, JUMP_LEN, end, &w, &detail);
	if (fault != WINDOW_OK && !plan_punned(scan, p->addr, end, &w)) {
		p->entry_may_trap = plan_trap(scan, p->addr, end, &trap) == WINDOW_OK;
		if (!p->entry_may_trap || !(want & PLAN_TRAP)) {
			p->entry_reason = entry_reason(fault, p->size, detail);
			return p->entry_reason ? NULL : uerr_nomem();
		}
		w = trap;
	}
	window_add_point(&w, p->addr, HOOK_ENTRY);
	if (!vec_push(windows, w))
		return uerr_nomem();
	p->entry = w.trap ? SITE_TRAP : w.keep ? SITE_PUN : SITE_JUMP;
	return NULL;
}

bool plan_trap_instead(const struct textscan *scan, struct func_plan *p, struct window *w)
{
	struct window trap;

	for (u8 i = 0; i < w->npoints; i++)
		if (w->points[i].off)
			return false;
	if (plan_trap(scan, w->addr, w->addr + w->len + w->keep, &trap) != WINDOW_OK)
		return false;
	memcpy(trap.points, w->points, sizeof(trap.points));
	trap.npoints = w->npoints;
	*w = trap;
	if (p->entry == SITE_PUN)
		p->entry = SITE_TRAP;
	return true;
}

/* The windows of tactic T beside those that are in WINDOWS. */
static struct uerr *exit_windows(const struct body *b, const struct ways_out *ways, enum site_tactic t,
				 window_vec *windows, struct func_plan *p, struct refusal *r)
{
	const char *why = NULL, *detail;
	struct window w;

	if ((t == SITE_RET || t == SITE_TRAP) && (ways->njumps || ways->unknown))
		return NULL; /* said already */
	if (t == SITE_TAIL && (!ways->njumps || ways->unknown)) {
		refuse(r, false, "is left in a way that cannot be told");
		return NULL;
	}
	if (t != SITE_ENTRY_TAKEOVER)
		return collect_exits(b, ways, p->addr, t == SITE_TRAP, windows, r);
	why = takeover_refusal(b);
	if (!why && window_make(b->scan, p->addr, JUMP_LEN, p->addr + p->size, &w, &detail) != WINDOW_OK &&
	    !plan_punned(b->scan, p->addr, p->addr + p->size, &w))
		why = "cannot be probed at its entry";
	if (why) {
		refuse(r, false, "%s", why);
		return NULL;
	}
	window_add_point(&w, p->addr, HOOK_TAKEOVER);
	return vec_push(windows, w) ? NULL : uerr_nomem();
}

static struct uerr *merge_windows(const struct textscan *scan, const window_vec *v, size_t n, struct func_plan *p)
{
	cleanup_free const struct window **ptrs = calloc(n ? n : 1, sizeof(*ptrs));

	if (!ptrs)
		return uerr_nomem();
	for (size_t i = 0; i < n; i++)
		ptrs[i] = &v->data[i];
	return windows_merge(scan, ptrs, n, &p->windows, &p->nwindows);
}

/* Tries tactic T: *done when all its windows are there and fit together. */
static struct uerr *try_exit(const struct body *b, const struct ways_out *ways, enum site_tactic t,
			     window_vec *windows, struct func_plan *p, struct refusal *why, bool *done)
{
	size_t before = windows->n;
	struct refusal here = { .text = "" };
	struct uerr *err;

	if (t == SITE_RET || (t == SITE_TRAP && (ways->njumps || ways->unknown)))
		here = *why;
	err = exit_windows(b, ways, t, windows, p, &here);
	if (!err && !here.text[0]) {
		err = merge_windows(b->scan, windows, windows->n, p);
		*done = !err;
		if (err && err->code == UERR_CANNOT_PROBE) {
			refuse(&here, false, "%s", err->message);
			uerr_free(err);
			err = NULL;
		}
	}
	if (!*done)
		windows->n = before;
	if (!why->text[0])
		*why = here;
	/* What a function cannot be taken over for is said beside what it needs it for. */
	else if (t == SITE_ENTRY_TAKEOVER && here.text[0] && strlen(why->text) + strlen(here.text) + 8 < sizeof(why->text))
		sprintf(why->text + strlen(why->text), ", and %s", here.text);
	return err;
}

static struct uerr *try_exits(const struct body *b, const struct ways_out *ways, u32 want, window_vec *windows,
			      struct func_plan *p, struct refusal *why)
{
	static const enum site_tactic tactics[] = { SITE_RET, SITE_TAIL, SITE_ENTRY_TAKEOVER, SITE_TRAP };
	struct uerr *err = NULL;
	bool done = false;

	for (size_t i = 0; !err && !done && i < ARRAY_SIZE(tactics); i++) {
		if ((tactics[i] == SITE_TRAP && !(want & PLAN_TRAP)) ||
		    (tactic_takes_over(tactics[i]) && want & PLAN_NO_TAKEOVER))
			continue;
		err = try_exit(b, ways, tactics[i], windows, p, why, &done);
		if (done)
			p->exit = tactics[i];
	}
	return err;
}

/* Refused: would a breakpoint do? */
static struct uerr *find_exit_may_trap(const struct body *b, const struct ways_out *ways, struct func_plan *p)
{
	window_vec windows = {};
	struct refusal r = { .text = "" };
	struct uerr *err = NULL;

	if (ways->nrets && !ways->njumps && !ways->unknown) {
		err = collect_exits(b, ways, p->addr, true, &windows, &r);
		p->exit_may_trap = !err && !r.text[0];
	}
	vec_free(&windows);
	return err;
}

/* P->windows are set when that could be done; WINDOWS has those of the entry. */
static struct uerr *plan_exit(const struct textscan *scan, addr_t end, const char *name, u32 want,
			      window_vec *windows, struct func_plan *p)
{
	const struct code_func *f = textscan_func(scan, p->addr);
	const char *special = untouchable(scan, p->addr);
	cleanup(body_deinit) struct body b = {};
	struct refusal why = { .text = "" };
	struct ways_out ways = {};
	struct uerr *err;

	if (!special)
		special = special_reason(name);
	if (!special && f && f->addr == p->addr)
		special = special_reason(f->name);
	if (special)
		refuse(&why, true, "%s", special);
	err = body_init(&b, scan, p->addr, end, &why);
	if (err)
		return err;
	for (size_t k = 0; !err && k < b.insns.n; k++)
		err = vec_push(&ways.jump, false) ? NULL : uerr_nomem();
	if (!err)
		check_ways_out(&b, &ways, &why);
	p->nrets = ways.nrets;
	if (!err && !why.final)
		err = try_exits(&b, &ways, want, windows, p, &why);
	if (!err && !why.final && p->exit == SITE_NONE)
		err = find_exit_may_trap(&b, &ways, p);
	vec_free(&ways.jump);
	if (err || !why.text[0])
		return err;
	if (p->exit == SITE_NONE)
		p->exit_reason = strdup(why.text);
	else
		p->exit_note = strdup(why.text);
	return p->exit_reason || p->exit_note ? NULL : uerr_nomem();
}

struct uerr *plan_check_place(const struct textscan *scan, addr_t addr, u64 size)
{
	size_t avail;

	if (!textscan_bytes(scan, addr, &avail))
		return uerr_new(UERR_CANNOT_PROBE, "%#lx lies in no code of the file", (unsigned long)addr);
	if (size > avail)
		return uerr_new(UERR_CANNOT_PROBE, "the function at %#lx claims to be longer than its section",
				(unsigned long)addr);
	return NULL;
}

/* May the window of a way out begin before FROM, where the entry's ends? It covers
 * at most an instruction more than a jump needs. What is not understood may. */
static bool exit_may_meet(const struct textscan *scan, addr_t from, const struct func_plan *p)
{
	addr_t end = p->addr + p->size, stop = from + JUMP_LEN + INSN_MAX;
	struct insn in;

	for (addr_t at = from; at < stop; at += in.len) {
		if (at >= end || !textscan_insn(scan, at, &in) || in.kind == INSN_RET || in.kind == INSN_JMP_IND)
			return true;
		if ((in.kind == INSN_JMP || in.kind == INSN_JCC || in.kind == INSN_LOOP) &&
		    (in.target < p->addr || in.target >= end))
			return true;
	}
	return false;
}

static struct uerr *plan_sides(const struct textscan *scan, const char *name, u32 want, window_vec *windows,
			       struct func_plan *p)
{
	addr_t end = p->addr + p->size;
	struct uerr *err = NULL;

	if (want & PLAN_ENTRY)
		err = plan_entry(scan, end, want, windows, p);
	if (!err && want & PLAN_ROOM && windows->n && exit_may_meet(scan, p->addr + windows->data[0].len, p))
		want |= PLAN_EXIT;
	if (!err && want & PLAN_EXIT)
		err = plan_exit(scan, end, name, want, windows, p);
	return err || p->exit != SITE_NONE ? err : merge_windows(scan, windows, windows->n, p);
}

struct uerr *plan_function(const struct textscan *scan, addr_t addr, u64 size, const char *name, u32 want,
			   struct func_plan *ret)
{
	struct func_plan p = { .addr = addr, .size = size };
	window_vec windows = {};
	struct uerr *err = plan_check_place(scan, addr, size);

	if (err)
		return err;
	if (!size)
		p.size = textscan_next(scan, addr) - addr;
	err = plan_sides(scan, name, want, &windows, &p);
	vec_free(&windows);
	if (err) {
		func_plan_deinit(&p);
		return err;
	}
	*ret = p;
	return NULL;
}

void func_plan_deinit(struct func_plan *p)
{
	free(p->entry_reason);
	free(p->exit_reason);
	free(p->exit_note);
	free(p->windows);
	*p = (struct func_plan){};
}
