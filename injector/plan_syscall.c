/* SPDX-License-Identifier: MIT */
/*
 * Hooks at a file's own system calls of some kinds: those whose number stands in an
 * instruction in front, `mov $nr, %eax`, as compilers and people write it. What is
 * found too much does no harm, since the hook looks at the number; what makes the call
 * with a number from elsewhere (syscall(2)) is not found.
 *
 * Where something arrives right behind the system call, the window begins at what
 * loads its number. Bytes inside of other instructions that look like such a call are
 * passed over; what nobody is known to reach is not.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "injector/plan_priv.h"
#include "injector/reach.h"

#define FAR 64u /* bytes from the one to the other */

typedef VEC(struct func_plan) plan_vec;

/* The system call that is made with what `mov` at AT has loaded, or 0. */
static addr_t follow(const struct textscan *scan, addr_t at)
{
	struct insn in;

	for (addr_t a = at; a < at + FAR; a += in.len) {
		if (!textscan_insn(scan, a, &in))
			return 0;
		if (in.kind == INSN_SYSCALL)
			return a;
		if (a != at && (insn_ends_block(&in) || in.kind == INSN_CALL || in.kind == INSN_CALL_IND))
			return 0;
	}
	return 0;
}

static bool is_planned(const plan_vec *plans, addr_t addr)
{
	vec_foreach(p, plans)
		if (p->addr == addr)
			return true;
	return false;
}

static struct uerr *plan_from_mov(const struct textscan *scan, addr_t from, struct func_plan *p)
{
	struct window w;

	if (window_make_syscall(scan, from, p->addr + 2, &w) != WINDOW_OK || w.addr + w.len != p->addr + 2 ||
	    !window_add_point(&w, p->addr, HOOK_INSN))
		return uerr_new(UERR_CANNOT_PROBE, "its system call at 0x%lx cannot be watched: %s", (unsigned long)p->addr,
				p->entry_reason);
	p->windows = malloc(sizeof(w));
	if (!p->windows)
		return uerr_nomem();
	p->windows[p->nwindows++] = w;
	p->entry = SITE_JUMP;
	return NULL;
}

/* Does one of them lie in the middle of an instruction? */
static struct uerr *is_inside(const struct textscan *scan, const struct code_func *f, addr_t from, addr_t addr, bool *ret)
{
	struct reach *r;
	struct uerr *err = reach_create(scan, f->addr, textscan_func_end(scan, f), &r);

	if (err)
		return err;
	*ret = reach_state(r, from) == REACH_INSIDE || reach_state(r, addr) == REACH_INSIDE;
	reach_destroy(r);
	return NULL;
}

static struct uerr *plan_unknown(addr_t from, addr_t addr, const struct textscan *scan, plan_vec *plans)
{
	struct func_plan p = { .addr = addr, .entry_reason = strdup("it is in no function that is known") };
	struct uerr *err = p.entry_reason ? plan_from_mov(scan, from, &p) : uerr_nomem();

	if (!err && vec_push(plans, p))
		return NULL;
	func_plan_deinit(&p);
	return err ? err : uerr_nomem();
}

static struct uerr *plan_at(const struct textscan *scan, addr_t from, addr_t addr, plan_vec *plans)
{
	const struct code_func *f = textscan_func(scan, addr);
	struct func_plan p;
	struct uerr *err;
	bool inside = false;

	if (is_planned(plans, addr))
		return NULL;
	if (f) {
		err = is_inside(scan, f, from, addr, &inside);
		if (err || inside)
			return err;
	}
	if (!f) /* of a stripped library: no data looks like this */
		return plan_unknown(from, addr, scan, plans);
	err = plan_insn(scan, f->addr, textscan_func_end(scan, f) - f->addr, addr, 0, &p);
	if (err)
		return err;
	if (p.entry_reason)
		err = plan_from_mov(scan, from, &p);
	if (!err && vec_push(plans, p))
		return NULL;
	func_plan_deinit(&p);
	return err ? err : uerr_nomem();
}

static struct uerr *search(const struct textscan *scan, const struct code_range *r, u32 nr, plan_vec *plans)
{
	u8 mov[5] = { 0xb8 }, mov64[7] = { 0x48, 0xc7, 0xc0 };
	const struct {
		const u8 *bytes;
		size_t n;
	} forms[] = { { mov, sizeof(mov) }, { mov64, sizeof(mov64) } };
	struct uerr *err = NULL;

	memcpy(mov + 1, &nr, sizeof(nr));
	memcpy(mov64 + 3, &nr, sizeof(nr));
	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		const u8 *p = r->bytes, *end = p + r->size;

		while (!err && (p = memmem(p, (size_t)(end - p), forms[i].bytes, forms[i].n))) {
			addr_t from = r->addr + (size_t)(p - r->bytes), at = follow(scan, from);

			if (at)
				err = plan_at(scan, from, at, plans);
			p++;
		}
	}
	return err;
}

struct uerr *plan_syscalls(const struct textscan *scan, const u32 *nrs, size_t n, struct func_plan **ret, size_t *nret)
{
	const struct code_image *code = textscan_code(scan);
	plan_vec plans = {};
	struct uerr *err = NULL;

	for (size_t i = 0; i < code->ntext; i++)
		for (size_t k = 0; !err && k < n; k++)
			err = search(scan, &code->text[i], nrs[k], &plans);
	if (err) {
		vec_foreach(p, &plans)
			func_plan_deinit(p);
		vec_free(&plans);
		return err;
	}
	*ret = plans.data;
	*nret = plans.n;
	return NULL;
}
