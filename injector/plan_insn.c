/* SPDX-License-Identifier: MIT */
/*
 * A hook at an instruction inside a function. The window is made as at an entry,
 * but first the instruction must be one: where a function holds data, or where a
 * number was mistyped, any byte could be overwritten. What cannot be shown to be
 * reached is refused, with the nearest places that can.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "injector/plan_priv.h"
#include "injector/reach.h"
#include "injector/window.h"

static struct uerr *refuse(struct func_plan *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static struct uerr *refuse(struct func_plan *p, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&p->entry_reason, fmt, ap);
	va_end(ap);
	if (n >= 0)
		return NULL;
	p->entry_reason = NULL;
	return uerr_nomem();
}

/* ": the nearest instructions begin at +0x4 and +0x8" */
static void describe_near(const struct reach *r, addr_t func, addr_t addr, char *ret, size_t size)
{
	addr_t below, above;

	reach_near(r, addr, &below, &above);
	if (below && above)
		snprintf(ret, size, ": the nearest instructions begin at +0x%lx and +0x%lx", (unsigned long)(below - func),
			 (unsigned long)(above - func));
	else if (below || above)
		snprintf(ret, size, ": the nearest instruction begins at +0x%lx",
			 (unsigned long)((below ? below : above) - func));
	else
		*ret = '\0';
}

static struct uerr *refuse_address(const struct reach *r, addr_t func, struct func_plan *p)
{
	unsigned long off = p->addr - func;
	char near[96];

	describe_near(r, func, p->addr, near, sizeof(near));
	switch (reach_state(r, p->addr)) {
	case REACH_INSIDE:
		return refuse(p, "no instruction begins at +0x%lx%s", off, near);
	case REACH_SHARED:
		return refuse(p, "two instructions share the byte at +0x%lx, a jump skips the prefix of one%s", off, near);
	case REACH_PADDING:
		return refuse(p, "+0x%lx lies in the padding between instructions%s", off, near);
	case REACH_UNKNOWN:
		return refuse(p, "nothing is known to lead to +0x%lx, which may be data%s", off, near);
	case REACH_INSN:
		break;
	}
	return NULL;
}

/* Why there can be no window at the instruction. */
static struct uerr *refuse_window(enum window_fault fault, const char *detail, addr_t func, struct func_plan *p)
{
	unsigned long off = p->addr - func;

	switch (fault) {
	case WINDOW_ARRIVAL:
		return refuse(p, "a jump lands inside the %d bytes at +0x%lx", JUMP_LEN, off);
	case WINDOW_SHORT:
		return refuse(p, "the function ends too soon behind +0x%lx: no room for a jump", off);
	case WINDOW_UNDECODED:
		return refuse(p, "the bytes behind +0x%lx are no instructions", off);
	case WINDOW_IMMOVABLE:
		return refuse(p, "the %d bytes at +0x%lx hold %s", JUMP_LEN, off, detail);
	case WINDOW_RSEQ:
		return refuse(p, "+0x%lx lies in a restartable sequence (rseq), or just before one", off);
	case WINDOW_LIMIT:
		return refuse(p, "too many instructions in the %d bytes at +0x%lx", JUMP_LEN, off);
	case WINDOW_TAKEN:
	case WINDOW_OK:
		break;
	}
	return NULL;
}

static struct uerr *add_window(const struct textscan *scan, addr_t func, addr_t end, u32 want, struct func_plan *p)
{
	const char *detail = NULL, *punned_detail;
	enum window_fault fault;
	struct window w;

	fault = window_make(scan, p->addr, JUMP_LEN, end, &w, &detail);
	if (fault != WINDOW_OK && window_make_punned(scan, p->addr, end, &w, &punned_detail) != WINDOW_OK) {
		p->entry_may_trap = plan_trap(scan, p->addr, end, &w) == WINDOW_OK;
		if (!p->entry_may_trap || !(want & PLAN_TRAP))
			return refuse_window(fault, detail, func, p);
	}
	window_add_point(&w, p->addr, HOOK_INSN);
	p->windows = malloc(sizeof(w));
	if (!p->windows)
		return uerr_nomem();
	p->windows[p->nwindows++] = w;
	p->entry = w.trap ? SITE_TRAP : w.keep ? SITE_PUN : SITE_JUMP;
	return NULL;
}

static struct uerr *plan_in_function(const struct textscan *scan, addr_t func, addr_t end, u32 want,
				     struct func_plan *p)
{
	struct reach *r;
	struct uerr *err = reach_create(scan, func, end, &r);

	if (err)
		return err;
	if (plan_is_sigreturn(scan, func))
		err = refuse(p, "it is the return from signal handlers, which unwinders know by its bytes");
	else if (reach_state(r, p->addr) != REACH_INSN)
		err = refuse_address(r, func, p);
	else
		err = add_window(scan, func, reach_end(r, p->addr), want, p);
	reach_destroy(r);
	return err;
}

/* Nobody knows of a function there: at least something has to lead there. */
static struct uerr *plan_anywhere(const struct textscan *scan, u32 want, struct func_plan *p)
{
	if (!textscan_is_target(scan, p->addr))
		return refuse(p, "0x%lx belongs to no function that is known, and nothing is known to lead there",
			      (unsigned long)p->addr);
	return add_window(scan, p->addr, textscan_next(scan, p->addr), want, p);
}

static struct uerr *plan(const struct textscan *scan, addr_t func, addr_t end, u32 want, struct func_plan *p)
{
	p->exit_reason = strdup("a return probe belongs to a whole function, not to an instruction in it");
	if (!p->exit_reason)
		return uerr_nomem();
	if (p->addr == func)
		return plan_anywhere(scan, want, p);
	if (p->addr < func || p->addr >= end)
		return refuse(p, "0x%lx lies outside of the function at 0x%lx", (unsigned long)p->addr,
			      (unsigned long)func);
	return plan_in_function(scan, func, end, want, p);
}

struct uerr *plan_insn(const struct textscan *scan, addr_t func_addr, u64 func_size, addr_t addr, u32 want,
		       struct func_plan *ret)
{
	struct func_plan p = { .addr = addr, .size = func_size };
	struct uerr *err = plan_check_place(scan, func_addr, func_size);

	if (err)
		return err;
	if (addr == func_addr && textscan_func_at(scan, addr))
		return plan_function(scan, func_addr, func_size, NULL, PLAN_ENTRY | (want & PLAN_TRAP), ret);
	if (!func_size)
		p.size = textscan_next(scan, func_addr) - func_addr;
	err = plan(scan, func_addr, func_addr + p.size, want, &p);
	if (err) {
		func_plan_deinit(&p);
		return err;
	}
	*ret = p;
	return NULL;
}
