/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as code: the scan and the plans must survive them, and whatever is
 * planned must be copied faithfully: the copy is decoded again and must name the
 * addresses that the original names.
 */
#include <stdlib.h>
#include <string.h>

#include "injector/relocate.h"
#include "injector/textscan.h"
#include "injector/trampoline.h"

#define TEXT_MAX 4096

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

static void require(bool ok)
{
	if (!ok)
		abort();
}

/* Does one of the instructions in E name TARGET? */
static bool names(const struct emit *e, addr_t target)
{
	struct insn in;

	for (size_t off = 0; off < e->n; off += in.len) {
		require(insn_decode(e->buf + off, e->n - off, e->addr + off, &in));
		if ((insn_is_relative(&in) && in.target == target) || (in.rip && in.ref == target))
			return true;
	}
	return false;
}

static void check_copy(const u8 *bytes, size_t avail, addr_t from, addr_t to)
{
	struct emit e = { .addr = to };
	struct insn in;

	if (!insn_decode(bytes, avail, from, &in))
		return;
	require(in.len >= 1 && in.len <= INSN_MAX && in.len <= avail);
	if (relocate_refusal(bytes, &in))
		return;
	relocate_insn(&e, bytes, &in);
	if (!e.failed) {
		require(e.n && e.n <= RELOCATE_MAX);
		if (insn_is_relative(&in))
			require(names(&e, in.target));
		else if (in.rip)
			require(names(&e, in.ref));
		else if (in.kind != INSN_CALL_IND)
			require(e.n == in.len && !memcmp(e.buf, bytes, in.len));
	}
	emit_deinit(&e);
}

static void check_window(const struct textscan *scan, const struct window *w, addr_t bias, addr_t tramp_addr)
{
	struct tramp_env env = { .env = 0x1000, .tid_off = 0x2d0, .threads = 0x2000, .nrecs = 1024, .rec_slow = 0x3000 };
	struct hook_call call = { .fn = 0x4000, .site = 0x5000, .reads = TARGET_REGS_ALL, .clobbers = TARGET_REGS_ALL };
	struct hook hooks[ARRAY_SIZE(w->points)];
	struct trampoline t;
	struct uerr *err;

	require(w->len >= 5 && w->len <= WINDOW_MAX && w->ninsns && w->npoints);
	for (addr_t a = w->addr + 1; a < w->addr + w->len; a++)
		require(!textscan_is_target(scan, a));
	for (unsigned i = 0; i < w->npoints; i++)
		hooks[i] = (struct hook){ .point = w->points[i], .calls = &call, .ncalls = 1 };
	err = trampoline_emit(w, bias, hooks, w->npoints, &env, tramp_addr, &t);
	if (err) {
		uerr_free(err);
		return;
	}
	require(t.size <= trampoline_size_bound(w, w->npoints));
	for (unsigned i = 0; i < t.nmoves; i++)
		require(t.moves[i].off && t.moves[i].off < w->len && t.moves[i].tramp_off < t.size);
	trampoline_deinit(&t);
}

static void check_plans(const u8 *bytes, size_t size, u8 split, addr_t bias, addr_t tramp_addr)
{
	struct code_range text = { .addr = 0x401000, .size = size, .bytes = bytes };
	struct code_func funcs[2] = { { .addr = text.addr, .size = split, .name = "f" },
				      { .addr = text.addr + split, .name = "g", .flags = split & 7 } };
	struct code_image code = { .text = &text, .ntext = 1, .rodata = &text, .nrodata = 1,
				   .funcs = funcs, .nfuncs = split ? 2 : 1 };
	struct textscan *scan;
	struct uerr *err = textscan_create(&code, NULL, &scan);

	if (err) {
		uerr_free(err);
		return;
	}
	for (size_t i = 0; i < code.nfuncs; i++) {
		struct func_plan p;

		err = plan_function(scan, funcs[i].addr, funcs[i].size, funcs[i].name, PLAN_ENTRY | PLAN_EXIT, &p);
		if (err) {
			uerr_free(err);
			continue;
		}
		for (size_t k = 0; k < p.nwindows; k++)
			check_window(scan, &p.windows[k], bias, tramp_addr);
		func_plan_deinit(&p);
	}
	textscan_destroy(scan);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	addr_t from, to;
	s32 distance;
	u8 split;

	if (size < 14 || size > TEXT_MAX)
		return 0;
	memcpy(&from, data, 8);
	memcpy(&distance, data + 8, 4);
	split = data[12];
	to = from + (s64)distance;
	data += 13;
	size -= 13;
	check_copy(data, size, from, to);
	check_plans(data, size, split, from, to);
	return 0;
}
