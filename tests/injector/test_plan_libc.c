/* SPDX-License-Identifier: MIT */
/*
 * A whole libc: how much of it can be planned, and that no window is wrong. The
 * windows are rechecked against branch targets that Zydis' full decoder finds
 * on its own, and every window must really move to a trampoline.
 */
#include <Zydis/Zydis.h>
#include <check.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "elfsym/image.h"
#include "injector/trampoline.h"

static struct image *image;
static const struct code_image *code;
static struct textscan *scan;
static u8 *arrivals; /* a byte for each byte of [lo, hi) */
static addr_t lo, hi;

static void assert_ok(struct uerr *err)
{
	ck_assert_msg(!err, "%s", err ? err->message : "");
}

static void arrive(addr_t addr)
{
	if (addr >= lo && addr < hi)
		arrivals[addr - lo] = 1;
}

static const u8 *bytes_at(addr_t addr, size_t *avail)
{
	for (size_t i = 0; i < code->ntext; i++) {
		const struct code_range *r = &code->text[i];

		if (addr >= r->addr && addr < r->addr + r->size) {
			*avail = r->addr + r->size - addr;
			return r->bytes + (addr - r->addr);
		}
	}
	*avail = 0;
	return NULL;
}

static void sweep(addr_t addr, addr_t end, const ZydisDecoder *decoder)
{
	ZydisDecodedInstruction in;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

	while (addr < end) {
		size_t avail;
		const u8 *p = bytes_at(addr, &avail);
		ZyanU64 target;

		if (!p || ZYAN_FAILED(ZydisDecoderDecodeFull(decoder, p, avail, &in, ops))) {
			addr++;
			continue;
		}
		for (unsigned i = 0; i < in.operand_count_visible; i++)
			if (ops[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[i].imm.is_relative &&
			    ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&in, &ops[i], addr, &target)))
				arrive(target);
		addr += in.length;
		if (in.meta.category == ZYDIS_CATEGORY_CALL)
			arrive(addr);
	}
}

static void find_arrivals(void)
{
	const struct elf_sym *syms;
	size_t nsyms = image_syms(image, &syms);
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	lo = code->text[0].addr;
	hi = code->text[code->ntext - 1].addr + code->text[code->ntext - 1].size;
	arrivals = calloc(1, hi - lo);
	ck_assert_ptr_nonnull(arrivals);
	for (size_t i = 0; i < nsyms; i++)
		arrive(syms[i].addr);
	for (size_t i = 0; i < code->nmarks; i++)
		arrive(code->marks[i].addr);
	for (size_t i = 0; i < code->nfuncs; i++) {
		arrive(code->funcs[i].addr);
		sweep(code->funcs[i].addr, code->funcs[i].addr + code->funcs[i].size, &decoder);
	}
}

static void setup(void)
{
	Dl_info info;

	ck_assert_int_ne(dladdr((void *)qsort, &info), 0);
	assert_ok(image_open(info.dli_fname, &image));
	assert_ok(image_code(image, &code));
	assert_ok(textscan_create(code, NULL, &scan));
	find_arrivals();
}

static void teardown(void)
{
	textscan_destroy(scan);
	free(arrivals);
	image_unref(image);
}

static void check_window(const struct window *w, const char *name)
{
	struct tramp_env env = { .env = 0x1000, .tid_off = 0x2d0, .threads = 0x2000, .nrecs = 1024, .rec_slow = 0x3000 };
	struct hook_call call = { .fn = 0x4000, .site = 0x5000, .reads = TARGET_REGS_ALL, .clobbers = TARGET_REGS_ALL };
	const addr_t bias = 0x7f1234560000;
	struct hook hooks[ARRAY_SIZE(w->points)];
	struct trampoline t;
	size_t avail;
	const u8 *p = bytes_at(w->addr, &avail);

	ck_assert(p && avail >= w->len && !memcmp(p, w->bytes, w->len));
	for (addr_t a = w->addr + 1; a < w->addr + w->len; a++)
		ck_assert_msg(!arrivals[a - lo], "%s: something arrives at %#lx", name, (long)a);
	for (unsigned i = 0; i < w->npoints; i++)
		hooks[i] = (struct hook){ .point = w->points[i], .calls = &call, .ncalls = 1 };
	assert_ok(trampoline_emit(w, bias, hooks, w->npoints, &env, bias - 0x10000000, &t));
	ck_assert_uint_le(t.size, trampoline_size_bound(w, w->npoints));
	trampoline_deinit(&t);
}

START_TEST(whole_libc)
{
	size_t n = 0, entries = 0, exits = 0;

	for (size_t i = 0; i < code->nfuncs; i++) {
		const struct code_func *f = &code->funcs[i];
		struct func_plan p;

		if (f->flags & CODE_FUNC_FRAGMENT)
			continue;
		n++;
		assert_ok(plan_function(scan, f->addr, f->size, f->name, PLAN_ENTRY | PLAN_EXIT, &p));
		entries += p.entry == SITE_JUMP;
		exits += p.exit == SITE_RET;
		ck_assert((p.entry == SITE_JUMP) == !p.entry_reason);
		ck_assert((p.exit == SITE_RET) == !p.exit_reason);
		for (size_t k = 0; k < p.nwindows; k++)
			check_window(&p.windows[k], f->name ? f->name : "?");
		func_plan_deinit(&p);
	}
	ck_assert_uint_gt(n, 1000);
	ck_assert_msg(entries * 100 >= n * 99, "%zu of %zu entries", entries, n);
	ck_assert_msg(exits * 100 >= n * 65, "%zu of %zu exits", exits, n);
}
END_TEST

/* All of it at once: functions share padding and lie back to back. */
START_TEST(merges_whole_libc)
{
	struct func_plan *plans = calloc(code->nfuncs, sizeof(*plans));
	const struct window **windows = NULL;
	struct window *merged;
	size_t n = 0, nmerged;

	for (size_t i = 0; i < code->nfuncs; i++) {
		const struct code_func *f = &code->funcs[i];

		assert_ok(plan_function(scan, f->addr, f->size, f->name, PLAN_ENTRY | PLAN_EXIT, &plans[i]));
		windows = realloc(windows, (n + plans[i].nwindows) * sizeof(*windows) + 1);
		for (size_t k = 0; k < plans[i].nwindows; k++)
			windows[n++] = &plans[i].windows[k];
	}
	assert_ok(windows_merge(scan, windows, n, &merged, &nmerged));
	for (size_t i = 1; i < nmerged; i++)
		ck_assert_uint_le(merged[i - 1].addr + merged[i - 1].len, merged[i].addr);
	for (size_t i = 0; i < code->nfuncs; i++)
		func_plan_deinit(&plans[i]);
	free(merged);
	free(windows);
	free(plans);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("plan_libc");
	TCase *tc = tcase_create("plan_libc");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_unchecked_fixture(tc, setup, teardown);
	tcase_add_test(tc, whole_libc);
	tcase_add_test(tc, merges_whole_libc);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
