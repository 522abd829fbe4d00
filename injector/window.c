/* SPDX-License-Identifier: MIT */
/*
 * Windows: runs of whole instructions that a 5-byte jump replaces. This file
 * builds one, and joins those that overlap.
 *
 *	 addr             addr+5
 *	  │ insn │ insn │ insn … │ padding │
 *	  ▲      ╰── nothing may arrive at any byte in here ──╯
 *	  control enters here alone
 */
#include "injector/window.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "injector/relocate.h"

static bool arrival_between(const struct textscan *scan, addr_t lo, addr_t hi)
{
	for (addr_t a = lo; a < hi; a++)
		if (textscan_is_target(scan, a))
			return true;
	return false;
}

static bool window_push(struct window *w, const u8 *bytes, unsigned len)
{
	if (w->ninsns == WINDOW_INSNS || w->len + len > WINDOW_MAX)
		return false;
	memcpy(w->bytes + w->len, bytes, len);
	w->insn_off[w->ninsns++] = w->len;
	w->len += len;
	return true;
}

/*
 * A window never ends with a system call: a thread that waits inside it has its
 * rip behind it, which would not be in the window, and the kernel steps back by
 * two bytes to restart it. With one more instruction displaced that thread is
 * moved behind the copy of the system call, and the step back finds the copy.
 */
static enum window_fault make(const struct textscan *scan, addr_t addr, unsigned min_len, bool never_waits,
			      addr_t func_end, struct window *ret, const char **detail)
{
	struct window w = { .addr = addr };
	bool ended = false, syscall = false;

	while (w.len < min_len || (syscall && !never_waits)) {
		addr_t at = addr + w.len;
		bool outside = ended || at >= func_end;
		struct insn in;
		size_t avail;
		const u8 *bytes = textscan_bytes(scan, at, &avail);

		if (w.len && textscan_is_target(scan, at))
			return outside ? WINDOW_SHORT : WINDOW_ARRIVAL;
		if (!bytes || !insn_decode(bytes, avail, at, &in))
			return outside ? WINDOW_SHORT : WINDOW_UNDECODED;
		/* An int3 that is run into cannot be copied. */
		if (outside && (!insn_is_padding(&in) || (!ended && in.kind == INSN_INT3)))
			return WINDOW_SHORT;
		if (!outside) {
			*detail = relocate_refusal(bytes, &in);
			if (*detail)
				return WINDOW_IMMOVABLE;
		}
		if (arrival_between(scan, at + 1, at + in.len))
			return WINDOW_ARRIVAL;
		if (textscan_in_rseq(scan, at, at + in.len))
			return WINDOW_RSEQ;
		if (!window_push(&w, bytes, in.len))
			return WINDOW_LIMIT;
		ended |= insn_ends_block(&in);
		syscall = in.kind == INSN_SYSCALL;
	}
	*ret = w;
	return WINDOW_OK;
}

enum window_fault window_make(const struct textscan *scan, addr_t addr, unsigned min_len, addr_t func_end,
			      struct window *ret, const char **detail)
{
	return make(scan, addr, min_len, false, func_end, ret, detail);
}

enum window_fault window_make_syscall(const struct textscan *scan, addr_t addr, addr_t end, struct window *ret)
{
	const char *detail;

	return make(scan, addr, (unsigned)(end - addr), true, end, ret, &detail);
}

/* Can the instruction IN (BYTES) behind window W be displaced? Which ends before
 * the first arrival. */
static enum window_fault punned_insn(const struct textscan *scan, const struct window *w, const u8 *bytes,
				     const struct insn *in, bool outside, const char **detail)
{
	if (outside && !insn_is_padding(in))
		return WINDOW_SHORT;
	*detail = relocate_refusal(bytes, in);
	if (*detail)
		return outside ? WINDOW_SHORT : WINDOW_IMMOVABLE;
	if (textscan_in_rseq(scan, in->addr, in->addr + in->len))
		return WINDOW_RSEQ;
	if ((w->len && textscan_is_target(scan, in->addr)) || arrival_between(scan, in->addr + 1, in->addr + in->len))
		return WINDOW_ARRIVAL;
	return WINDOW_OK;
}

/* Never a system call last, for the reason above. */
enum window_fault window_make_punned(const struct textscan *scan, addr_t addr, addr_t func_end, struct window *ret,
				     const char **detail)
{
	struct window w = { .addr = addr }, best = {};
	enum window_fault fault = WINDOW_OK;
	bool ended = false;
	size_t avail;
	const u8 *first = textscan_bytes(scan, addr, &avail);

	if (!first || avail < JUMP_LEN)
		return WINDOW_SHORT;
	while (w.len < JUMP_LEN - 1 && fault == WINDOW_OK) {
		addr_t at = addr + w.len;
		struct insn in;

		if (!insn_decode(first + w.len, avail - w.len, at, &in)) {
			fault = WINDOW_UNDECODED;
			break;
		}
		fault = punned_insn(scan, &w, first + w.len, &in, ended || at >= func_end, detail);
		if (fault == WINDOW_OK && w.len + in.len >= JUMP_LEN)
			fault = WINDOW_LIMIT;
		if (fault != WINDOW_OK)
			break;
		window_push(&w, first + w.len, in.len);
		ended |= insn_ends_block(&in);
		if (in.kind != INSN_SYSCALL)
			best = w;
	}
	if (!best.len)
		return fault == WINDOW_OK ? WINDOW_ARRIVAL : fault;
	best.keep = JUMP_LEN - best.len;
	memcpy(best.bytes + best.len, first + best.len, best.keep);
	*ret = best;
	return WINDOW_OK;
}

/* Who arrives behind the first byte finds everything as it was. With a system call
 * comes what follows it, for the reason above. */
enum window_fault window_make_trap(const struct textscan *scan, addr_t addr, addr_t func_end, struct window *ret,
				   const char **detail)
{
	struct window w = { .addr = addr, .trap = true };
	struct insn in = {};

	do {
		addr_t at = addr + w.len;
		size_t avail;
		const u8 *bytes = textscan_bytes(scan, at, &avail);

		if (at >= func_end)
			return WINDOW_SHORT;
		if (!bytes || !insn_decode(bytes, avail, at, &in))
			return WINDOW_UNDECODED;
		*detail = relocate_refusal(bytes, &in);
		if (*detail)
			return WINDOW_IMMOVABLE;
		if (textscan_in_rseq(scan, at, at + in.len))
			return WINDOW_RSEQ;
		if (!window_push(&w, bytes, in.len))
			return WINDOW_LIMIT;
	} while (in.kind == INSN_SYSCALL);
	*ret = w;
	return WINDOW_OK;
}

bool window_add_point(struct window *w, addr_t addr, enum hook_kind kind)
{
	struct hook_point p = { .off = (u8)(addr - w->addr), .kind = kind };
	unsigned i;

	for (i = 0; i < w->npoints; i++) {
		struct hook_point *q = &w->points[i];

		if (q->off != p.off || hook_is_exit(q->kind) != hook_is_exit(kind))
			continue;
		if (kind == HOOK_INSN)
			q->kind = kind;
		return true;
	}
	if (w->npoints == ARRAY_SIZE(w->points))
		return false;
	/* By offset, and an entry before an exit at the same instruction. */
	for (i = w->npoints++; i > 0; i--) {
		const struct hook_point *q = &w->points[i - 1];

		if (q->off < p.off || (q->off == p.off && !hook_is_exit(q->kind)))
			break;
		w->points[i] = w->points[i - 1];
	}
	w->points[i] = p;
	return true;
}

static bool is_boundary(const struct window *w, addr_t addr)
{
	for (unsigned i = 0; i < w->ninsns; i++)
		if (w->addr + w->insn_off[i] == addr)
			return true;
	return false;
}

static bool has_point_behind(const struct window *w, addr_t end)
{
	for (unsigned i = 0; i < w->npoints; i++)
		if (w->addr + w->points[i].off >= end)
			return true;
	return false;
}

/* The instructions of TAIL that lie behind the end of W, which overlaps it. */
static bool window_append(struct window *w, const struct window *tail)
{
	addr_t end = w->addr + w->len;

	for (unsigned i = 0; i < tail->ninsns; i++) {
		addr_t at = tail->addr + tail->insn_off[i];
		unsigned next = i + 1u < tail->ninsns ? tail->insn_off[i + 1] : tail->len;

		if (at < end)
			continue;
		if (at != w->addr + w->len || !window_push(w, tail->bytes + tail->insn_off[i], next - tail->insn_off[i]))
			return false;
	}
	return true;
}

/* Joins B, which starts at or behind W and before its end, into W. Nothing
 * arrives at B's start, since that is inside W, or is W's own start. W becomes
 * longer only where B has a point behind its end: else W's jump serves both. */
static struct uerr *window_join(struct window *w, const struct window *b)
{
	struct window joined = *w;
	bool longer = has_point_behind(b, w->addr + w->len);

	/* Bytes that stay cannot be displaced, nor a jump end elsewhere. Who jumps behind a
	 * breakpoint does not pass it. */
	if ((longer && (w->keep || b->keep)) || w->trap != b->trap || (w->trap && w->addr != b->addr))
		return uerr_new(UERR_CANNOT_PROBE, "the probes at %#lx and %#lx lie too close together",
				(unsigned long)w->addr, (unsigned long)b->addr);
	if (!is_boundary(w, b->addr))
		return uerr_new(UERR_CANNOT_PROBE, "probes at %#lx and %#lx read the same bytes as different instructions",
				(unsigned long)w->addr, (unsigned long)b->addr);
	if (longer && !window_append(&joined, b))
		return uerr_new(UERR_CANNOT_PROBE, "the probes at %#lx and %#lx lie too close together",
				(unsigned long)w->addr, (unsigned long)b->addr);
	for (unsigned i = 0; i < b->npoints; i++) {
		if (!is_boundary(&joined, b->addr + b->points[i].off) ||
		    !window_add_point(&joined, b->addr + b->points[i].off, b->points[i].kind))
			return uerr_new(UERR_CANNOT_PROBE, "too many probes in the few bytes at %#lx",
					(unsigned long)w->addr);
	}
	*w = joined;
	return NULL;
}

static int by_address(const void *x, const void *y)
{
	const struct window *a = x, *b = y;

	return a->addr < b->addr ? -1 : a->addr > b->addr;
}

struct uerr *windows_merge(const struct textscan *scan, const struct window *const *windows, size_t n,
			   struct window **ret, size_t *nret)
{
	cleanup_free struct window *all = calloc(n ? n : 1, sizeof(*all));
	size_t out = 0;

	if (!all)
		return uerr_nomem();
	for (size_t i = 0; i < n; i++)
		all[i] = *windows[i];
	qsort(all, n, sizeof(*all), by_address);
	for (size_t i = 0; i < n; i++) {
		struct window *last = out ? &all[out - 1] : NULL;
		struct uerr *err;

		if (!last || all[i].addr >= last->addr + last->len + last->keep) {
			all[out++] = all[i];
			continue;
		}
		err = window_join(last, &all[i]);
		if (err)
			return err;
		if (!last->trap && arrival_between(scan, last->addr + 1, last->addr + last->len))
			return uerr_new(UERR_CANNOT_PROBE, "a jump lands between the probes at %#lx",
					(unsigned long)last->addr);
	}
	*ret = steal_ptr(all);
	*nret = out;
	return NULL;
}
