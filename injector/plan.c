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
 * The stack is never touched. That needs every way out to be a ret: a function
 * that ends by jumping elsewhere is refused.
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
#include "injector/window.h"

const char *site_tactic_name(enum site_tactic t)
{
	static const char *const names[] = {
		[SITE_NONE] = "-",   [SITE_JUMP] = "jump", [SITE_PUN] = "punned", [SITE_TRAP] = "trap",
		[SITE_RET] = "ret", [SITE_TAIL] = "tail", [SITE_ENTRY_TAKEOVER] = "takeover",
	};

	return (unsigned)t < ARRAY_SIZE(names) ? names[t] : "-";
}

/* Functions whose exit must be left alone, whatever their code looks like. */
static const struct {
	const char *name, *reason;
} special_functions[] = {
	{ "setjmp", "returns twice: entry only" },
	{ "_setjmp", "returns twice: entry only" },
	{ "__setjmp", "returns twice: entry only" },
	{ "sigsetjmp", "returns twice: entry only" },
	{ "__sigsetjmp", "returns twice: entry only" },
	{ "vfork", "returns twice: entry only" },
	{ "__vfork", "returns twice: entry only" },
	{ "__libc_vfork", "returns twice: entry only" },
	{ "clone", "returns twice: entry only" },
	{ "__clone", "returns twice: entry only" },
	{ "__clone2", "returns twice: entry only" },
	{ "clone3", "returns twice: entry only" },
	{ "__clone3", "returns twice: entry only" },
	{ "getcontext", "returns twice: entry only" },
	{ "__getcontext", "returns twice: entry only" },
	{ "swapcontext", "returns twice: entry only" },
	{ "__swapcontext", "returns twice: entry only" },
	{ "setcontext", "changes the stack: entry only" },
	{ "__setcontext", "changes the stack: entry only" },
	{ "longjmp", "changes the stack: entry only" },
	{ "_longjmp", "changes the stack: entry only" },
	{ "__longjmp", "changes the stack: entry only" },
	{ "____longjmp_chk", "changes the stack: entry only" },
	{ "__longjmp_chk", "changes the stack: entry only" },
	{ "__libc_longjmp", "changes the stack: entry only" },
	{ "__libc_siglongjmp", "changes the stack: entry only" },
	{ "siglongjmp", "changes the stack: entry only" },
	{ "_Unwind_RaiseException", "unwinds the stack: entry only" },
	{ "_Unwind_Resume", "unwinds the stack: entry only" },
	{ "_Unwind_Resume_or_Rethrow", "unwinds the stack: entry only" },
	{ "_Unwind_ForcedUnwind", "unwinds the stack: entry only" },
	{ "_Unwind_Backtrace", "unwinds the stack: entry only" },
	{ "_dl_tlsdesc_return", "has a calling convention of its own: entry only" },
	{ "_dl_tlsdesc_undefweak", "has a calling convention of its own: entry only" },
	{ "_dl_tlsdesc_dynamic", "has a calling convention of its own: entry only" },
};

static const char *special_reason(const char *name)
{
	for (size_t i = 0; name && i < ARRAY_SIZE(special_functions); i++)
		if (!strcmp(name, special_functions[i].name))
			return special_functions[i].reason;
	return NULL;
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
	enum site_tactic tactic;
	char text[200];
};

static void body_deinit(struct body *b)
{
	vec_free(&b->insns);
	vec_free(&b->reached);
}

__attribute__((format(printf, 3, 4))) static void refuse(struct refusal *r, enum site_tactic tactic,
							 const char *fmt, ...)
{
	va_list ap;

	if (r->text[0])
		return;
	r->tactic = tactic;
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
			refuse(refusal, SITE_NONE, "holds bytes at +0x%lx that are no instruction",
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

/* Does the function seem to hold data: something that it refers to, or that a call
 * jumps over? */
static bool holds_data(const struct body *b)
{
	vec_foreach(in, &b->insns) {
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
			refuse(refusal, SITE_NONE, "is too large to be searched for its returns");
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
		refuse(r, SITE_TAIL, "ends by jumping to a function of another module");
	else if (f && f->name && f->addr == target)
		refuse(r, SITE_TAIL, "ends by jumping to %s", f->name);
	else if (f && f->name)
		refuse(r, SITE_TAIL, "ends by jumping into %s", f->name);
	else
		refuse(r, SITE_TAIL, "ends by jumping to %#lx", (unsigned long)target);
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
static void check_indirect(const struct body *b, const struct segment *s, size_t k, struct refusal *r)
{
	const struct insn *in = &b->insns.data[k];
	size_t avail;
	const u8 *text = textscan_bytes(b->scan, s->lo, &avail);
	bool known = false;

	switch (insn_jump_kind(text, s->lo, avail, &b->insns.data[s->first], k - s->first + 1)) {
	case JUMP_AWAY:
		refuse(r, SITE_TAIL, "ends by jumping through a pointer");
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
	if (!known)
		refuse(r, SITE_TAIL, "may end by jumping to an address that it computes");
}

/* Does execution run past the end of S? A call that is last does not return. */
static void check_end(const struct body *b, const struct segment *s, struct refusal *r)
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
		refuse(r, SITE_TAIL, "runs on into %s", next && next->name ? next->name : "what follows it");
		return;
	}
}

static void check_ways_out(const struct body *b, u32 *nrets, struct refusal *r)
{
	bool tail;

	for (size_t i = 0; i < b->nsegs; i++) {
		const struct segment *s = &b->segs[i];

		for (size_t k = s->first; k < s->first + s->n; k++) {
			const struct insn *in = &b->insns.data[k];

			if (!b->reached.data[k])
				continue;
			tail = in->kind == INSN_JMP || in->kind == INSN_JCC || in->kind == INSN_LOOP;
			if (tail && !body_contains(b, in->target))
				refuse_tail(b, in->target, r);
			else if (in->kind == INSN_JMP_IND)
				check_indirect(b, s, k, r);
			else if (in->kind == INSN_FAR)
				refuse(r, SITE_NONE, "ends by a far transfer");
			else if (in->kind == INSN_RET)
				++*nrets;
		}
		check_end(b, s, r);
	}
	if (!*nrets)
		refuse(r, SITE_NONE, "never returns");
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

/* Why the function must not be touched at all, or NULL. */
static const char *untouchable(const struct textscan *scan, addr_t addr)
{
	const struct code_func *f = textscan_func(scan, addr);

	if (f && f->addr == addr && f->flags & CODE_FUNC_FRAGMENT)
		return "is a cold part of another function";
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

/* The window of the ret that is instruction K: itself and the padding behind
 * it, else with as many instructions before it as are needed. */
static bool ret_window(const struct body *b, const struct segment *s, size_t k, struct window *ret)
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
			return window_add_point(ret, r->addr, HOOK_RET);
		if (first == s->first || need >= JUMP_LEN || textscan_is_target(b->scan, in->addr))
			return false;
		prev = &b->insns.data[first - 1];
		if (insn_ends_block(prev))
			return false;
	}
}

typedef VEC(struct window) window_vec;

static struct uerr *collect_exits(const struct body *b, addr_t func, window_vec *windows, struct refusal *r)
{
	for (size_t i = 0; i < b->nsegs && !r->text[0]; i++) {
		const struct segment *s = &b->segs[i];

		for (size_t k = s->first; k < s->first + s->n; k++) {
			struct window w;
			addr_t at = b->insns.data[k].addr;

			if (!b->reached.data[k] || b->insns.data[k].kind != INSN_RET)
				continue;
			if (!ret_window(b, s, k, &w)) {
				if (at >= func)
					refuse(r, SITE_NONE, "its return at +0x%lx is too near to a jump target",
					       (unsigned long)(at - func));
				else
					refuse(r, SITE_NONE, "the return in its cold part, at %#lx, is too near to a jump target",
					       (unsigned long)at);
				break;
			}
			if (!vec_push(windows, w))
				return uerr_nomem();
		}
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
	case WINDOW_OK:
		break;
	}
	return n < 0 ? NULL : s;
}

static struct uerr *plan_entry(const struct textscan *scan, addr_t end, window_vec *windows, struct func_plan *p)
{
	const char *refused = untouchable(scan, p->addr), *detail = NULL;
	enum window_fault fault;
	struct window w;

	if (refused) {
		p->entry_reason = strdup(refused);
		return p->entry_reason ? NULL : uerr_nomem();
	}
	fault = window_make(scan, p->addr, JUMP_LEN, end, &w, &detail);
	if (fault != WINDOW_OK && !plan_punned(scan, p->addr, end, &w)) {
		p->entry_reason = entry_reason(fault, p->size, detail);
		return p->entry_reason ? NULL : uerr_nomem();
	}
	window_add_point(&w, p->addr, HOOK_ENTRY);
	if (!vec_push(windows, w))
		return uerr_nomem();
	p->entry = w.keep ? SITE_PUN : SITE_JUMP;
	return NULL;
}

static struct uerr *plan_exit(const struct textscan *scan, addr_t end, const char *name, window_vec *windows,
			      struct func_plan *p)
{
	const struct code_func *f = textscan_func(scan, p->addr);
	const char *special = untouchable(scan, p->addr);
	cleanup(body_deinit) struct body b = {};
	struct refusal refusal = {};
	size_t before = windows->n;
	struct uerr *err;

	if (!special)
		special = special_reason(name);
	if (!special && f && f->addr == p->addr)
		special = special_reason(f->name);
	if (special)
		refuse(&refusal, SITE_NONE, "%s", special);
	err = body_init(&b, scan, p->addr, end, &refusal);
	if (err)
		return err;
	check_ways_out(&b, &p->nrets, &refusal);
	err = collect_exits(&b, p->addr, windows, &refusal);
	if (err)
		return err;
	if (!refusal.text[0]) {
		p->exit = SITE_RET;
		return NULL;
	}
	windows->n = before;
	p->exit = refusal.tactic;
	p->exit_reason = strdup(refusal.text);
	return p->exit_reason ? NULL : uerr_nomem();
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

/* Joins the windows; when they do not fit together the entry is kept. */
static struct uerr *finish(const struct textscan *scan, const window_vec *windows, struct func_plan *p)
{
	struct uerr *err = merge_windows(scan, windows, windows->n, p);

	if (!err || err->code != UERR_CANNOT_PROBE || p->exit != SITE_RET)
		return err;
	p->exit = SITE_NONE;
	p->exit_reason = strdup(err->message);
	uerr_free(err);
	if (!p->exit_reason)
		return uerr_nomem();
	return merge_windows(scan, windows, p->entry != SITE_NONE, p);
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

static struct uerr *plan_sides(const struct textscan *scan, const char *name, u32 want, window_vec *windows,
			       struct func_plan *p)
{
	addr_t end = p->addr + p->size;
	struct uerr *err = NULL;

	if (want & PLAN_ENTRY)
		err = plan_entry(scan, end, windows, p);
	if (!err && want & PLAN_EXIT)
		err = plan_exit(scan, end, name, windows, p);
	return err ? err : finish(scan, windows, p);
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
	free(p->windows);
	*p = (struct func_plan){};
}
