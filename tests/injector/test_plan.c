/* SPDX-License-Identifier: MIT */
/*
 * Plans: what each shape of function gets and why not; the cache of scans; the
 * merging of windows; and a whole libc, rechecked without the scan.
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "asm_victims.h"
#include "base/cleanup.h"
#include "tests/support/suite.h"

static struct textscan *scan_of(const struct code_image *code, const char *cache)
{
	struct textscan *scan = NULL;
	struct uerr *err = textscan_create(code, cache, &scan);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	return scan;
}

static void assert_reason(const char *name, const char *got, const char *expected)
{
	ck_assert_msg(!got == !expected && (!got || !strcmp(got, expected)), "%s: reason '%s', expected '%s'", name,
		      got ? got : "none", expected ? expected : "none");
}

START_TEST(shapes)
{
	const struct asm_victim *v = &asm_victims[_i];
	struct textscan *scan = scan_of(asm_victims_image(), NULL);
	struct func_plan p;
	struct uerr *err;

	err = plan_function(scan, (addr_t)v->code, v->end - v->code, v->name, PLAN_ENTRY | PLAN_EXIT, &p);
	ck_assert_msg(!err, "%s: %s", v->name, err ? err->message : "");
	assert_reason(v->name, p.entry_reason, v->entry_reason);
	assert_reason(v->name, p.exit_reason, v->exit_reason);
	assert_reason(v->name, p.exit_note, v->exit_note);
	ck_assert_msg(p.entry == v->entry && p.exit == v->exit, "%s: %s %s", v->name, site_tactic_name(p.entry),
		      site_tactic_name(p.exit));
	ck_assert_uint_eq(p.nrets, v->nrets);
	for (size_t i = 0; i < p.nwindows; i++) {
		const struct window *w = &p.windows[i];

		ck_assert_uint_eq(w->keep, w->len < 5 ? 5 - w->len : 0);
		if (w->addr == (addr_t)v->code)
			ck_assert_uint_eq(w->keep ? w->len : 0, v->punned);
		ck_assert_uint_ge(w->npoints, 1);
		ck_assert(!memcmp(w->bytes, (const void *)w->addr, w->len + w->keep));
		ck_assert_msg(memcmp(w->bytes + w->len - 2, "\x0f\x05", 2) != 0, "%s: ends with a system call", v->name);
		for (addr_t a = w->addr + 1; a < w->addr + w->len; a++)
			ck_assert(!textscan_is_target(scan, a));
		if (i)
			ck_assert(p.windows[i - 1].addr + p.windows[i - 1].len + p.windows[i - 1].keep <= w->addr);
	}
	func_plan_deinit(&p);
	textscan_destroy(scan);
}
END_TEST

/* One side asked for is one side planned; an unknown size reaches to the next function. */
START_TEST(one_side)
{
	const struct asm_victim *v = asm_victim_find("v_jcc");
	struct textscan *scan = scan_of(asm_victims_image(), NULL);
	struct func_plan p;

	ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, 0, NULL, PLAN_ENTRY, &p));
	ck_assert_uint_eq(p.nwindows, 1);
	ck_assert_uint_eq(p.windows[0].addr, (addr_t)v->code);
	ck_assert(p.windows[0].points[0].kind == HOOK_ENTRY);
	ck_assert_int_eq(p.exit, SITE_NONE);
	ck_assert_ptr_null(p.exit_reason);
	func_plan_deinit(&p);
	ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, 0, NULL, PLAN_EXIT, &p));
	ck_assert_int_eq(p.exit, SITE_RET);
	for (size_t i = 0; i < p.nwindows; i++)
		ck_assert(p.windows[i].points[0].kind == HOOK_RET);
	func_plan_deinit(&p);
	textscan_destroy(scan);
}
END_TEST

START_TEST(nowhere)
{
	struct textscan *scan = scan_of(asm_victims_image(), NULL);
	const struct asm_victim *v = asm_victim_find("v_plain");
	struct func_plan p;
	struct uerr *err = plan_function(scan, 0x1000, 16, "x", PLAN_ENTRY, &p);

	ck_assert_ptr_nonnull(err);
	ck_assert_int_eq(err->code, UERR_CANNOT_PROBE);
	uerr_free(err);
	err = plan_function(scan, (addr_t)v->code, ~0ull, "x", PLAN_ENTRY, &p);
	ck_assert_ptr_nonnull(err);
	uerr_free(err);
	ck_assert_ptr_null(plan_insn(scan, (addr_t)v->code, v->end - v->code, (addr_t)v->code, 0, &p));
	ck_assert_int_eq(p.entry, SITE_JUMP);
	func_plan_deinit(&p);
	textscan_destroy(scan);
}
END_TEST

START_TEST(marks_count)
{
	const struct asm_victim *v = asm_victim_find("v_plain");
	struct code_mark mark = { .addr = (addr_t)v->code + 1, .kinds = CODE_MARK_LANDING_PAD };
	struct code_image code = *asm_victims_image();
	struct textscan *scan;
	struct func_plan p;

	code.marks = &mark;
	code.nmarks = 1;
	scan = scan_of(&code, NULL);
	ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, 0, NULL, PLAN_ENTRY, &p));
	ck_assert_int_eq(p.entry, SITE_PUN);
	ck_assert_uint_eq(p.windows[0].len, 1);
	func_plan_deinit(&p);
	textscan_destroy(scan);
}
END_TEST

/* ---- breakpoints ---- */

/* Only when asked for, only where nothing else does, and nothing else becomes of that. */
START_TEST(breakpoints)
{
	const struct asm_victim *v = &asm_victims[_i];
	struct textscan *scan = scan_of(asm_victims_image(), NULL);
	bool never = !strcmp(v->name, "v_trap") || !strcmp(v->name, "v_sigreturn") || !strcmp(v->name, "v_split_cold");
	struct func_plan p, t;

	ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, v->end - v->code, v->name, PLAN_SIDES, &p));
	ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, v->end - v->code, v->name, PLAN_SIDES | PLAN_TRAP, &t));
	for (size_t i = 0; i < p.nwindows; i++)
		ck_assert(!p.windows[i].trap);
	ck_assert(!p.entry_may_trap || p.entry_reason);
	ck_assert_msg(p.entry != SITE_NONE || p.entry_may_trap == !never, "%s: %d", v->name, p.entry_may_trap);
	ck_assert_int_eq(t.entry, p.entry_may_trap ? SITE_TRAP : p.entry);
	ck_assert_int_eq(t.exit, p.exit_may_trap ? SITE_TRAP : p.exit);
	ck_assert(!t.entry_reason == (t.entry != SITE_NONE));
	for (size_t i = 0, k = 0; i < t.nwindows; i++) {
		const struct window *w = &t.windows[i];

		if (!w->trap) { /* as without */
			while (k < p.nwindows && p.windows[k].addr != w->addr)
				k++;
			ck_assert(k < p.nwindows && !memcmp(&p.windows[k], w, sizeof(*w)));
			continue;
		}
		ck_assert_uint_eq(w->keep, 0);
		ck_assert(!memcmp(w->bytes, (const void *)w->addr, w->len));
		for (unsigned n = 0; n < w->npoints; n++)
			ck_assert_uint_eq(w->points[n].off, 0);
		ck_assert(w->addr == (addr_t)v->code ? t.entry == SITE_TRAP || t.exit == SITE_TRAP : t.exit == SITE_TRAP);
		ck_assert(w->addr == (addr_t)v->code || w->bytes[0] == 0xc3);
	}
	func_plan_deinit(&p);
	func_plan_deinit(&t);
	textscan_destroy(scan);
}
END_TEST

/* A punned jump whose stub has no place becomes one; a way out behind its first
 * instruction does not go with it. */
START_TEST(breakpoint_instead)
{
	const struct asm_victim *v = asm_victim_find("v_pun3");
	struct textscan *scan = scan_of(asm_victims_image(), NULL);
	struct func_plan p;

	ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, v->end - v->code, v->name, PLAN_ENTRY, &p));
	ck_assert_int_eq(p.entry, SITE_PUN);
	ck_assert(plan_trap_instead(scan, &p, &p.windows[0]));
	ck_assert_int_eq(p.entry, SITE_TRAP);
	ck_assert(p.windows[0].trap && p.windows[0].len == 3 && !p.windows[0].keep && p.windows[0].npoints == 1);
	p.windows[0].points[p.windows[0].npoints++] = (struct hook_point){ .off = 3, .kind = HOOK_RET };
	ck_assert(!plan_trap_instead(scan, &p, &p.windows[0]));
	func_plan_deinit(&p);
	textscan_destroy(scan);
}
END_TEST

/* ---- system calls ---- */

static const u8 calls_code[] = {
	/*  0: plain */
	0xb8, 14, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0xc3,
	/* 16: something arrives behind it */
	0xb8, 14, 0, 0, 0, 0x0f, 0x05, 0xff, 0xcf, 0x75, 0xfc, 0xc3, 0x90, 0x90, 0x90, 0x90,
	/* 32: mov $13, %rax */
	0x48, 0xc7, 0xc0, 13, 0, 0, 0, 0x0f, 0x05, 0x48, 0x89, 0xc7, 0xc3, 0x90, 0x90, 0x90,
	/* 48: a call in between: another number by then */
	0xb8, 14, 0, 0, 0, 0xe8, 0xc6, 0xff, 0xff, 0xff, 0x0f, 0x05, 0xc3, 0x90, 0x90, 0x90,
	/* 64: a number that looks like it */
	0x48, 0xb8, 0xb8, 14, 0, 0, 0, 0x0f, 0x05, 0x90, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90,
	/* 80: another system call, then one in no function */
	0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3, 0xb8, 13, 0, 0, 0, 0x0f, 0x05, 0xc3,
};

START_TEST(system_calls)
{
	const struct code_range text = { 0x1000, sizeof(calls_code), calls_code };
	struct code_func funcs[6];
	const struct code_image code = { .text = &text, .ntext = 1, .funcs = funcs, .nfuncs = ARRAY_SIZE(funcs) };
	static const addr_t at[] = { 0x1007, 0x1015, 0x105d, 0x1027 };
	static const u32 nrs[] = { 14, 13 };
	struct textscan *scan;
	struct func_plan *plans;
	size_t n;

	for (size_t i = 0; i < ARRAY_SIZE(funcs); i++)
		funcs[i] = (struct code_func){ .addr = 0x1000 + 16 * i, .size = i == 5 ? 8 : 16 };
	scan = scan_of(&code, NULL);
	ck_assert_ptr_null(plan_syscalls(scan, nrs, ARRAY_SIZE(nrs), &plans, &n));
	ck_assert_uint_eq(n, ARRAY_SIZE(at));
	for (size_t i = 0; i < n; i++) {
		const struct window *w = plans[i].windows;

		ck_assert_uint_eq(plans[i].addr, at[i]);
		ck_assert_uint_eq(plans[i].nwindows, 1);
		ck_assert_uint_eq(w->npoints, 1);
		ck_assert_uint_eq(w->addr + w->points[0].off, at[i]);
		ck_assert_int_eq(w->points[0].kind, HOOK_INSN);
		ck_assert_uint_ge(w->len, 5);
		ck_assert(i != 1 || (w->addr == 0x1010 && w->len == 7));
		func_plan_deinit(&plans[i]);
	}
	free(plans);
	textscan_destroy(scan);
}
END_TEST

/* ---- inside of functions ---- */

/* Tactic and reason at an offset of a victim. */
static const struct {
	const char *victim;
	unsigned off;
	enum site_tactic entry;
	const char *reason;
} inside_rows[] = {
	{ "v_plain", 1, SITE_JUMP, NULL },
	{ "v_plain", 2, SITE_NONE, "no instruction begins at +0x2: the nearest instructions begin at +0x1 and +0x4" },
	{ "v_plain", 9, SITE_JUMP, NULL }, /* the ret: padding follows */
	{ "v_jcc", 9, SITE_PUN, NULL }, /* a ret with a jump's target behind it */
	{ "v_data", 0xd, SITE_PUN, NULL },
	{ "v_data", 0xf, SITE_NONE,
	  "nothing is known to lead to +0xf, which may be data: the nearest instructions begin at +0xd and +0x17" },
	{ "v_data", 0x16, SITE_NONE,
	  "nothing is known to lead to +0x16, which may be data: the nearest instructions begin at +0xd and +0x17" },
	{ "v_data", 0x17, SITE_JUMP, NULL },
	{ "v_prefix", 0xd, SITE_NONE, "a jump lands inside the 5 bytes at +0xd" },
	{ "v_prefix", 0xe, SITE_NONE,
	  "two instructions share the byte at +0xe, a jump skips the prefix of one: the nearest instructions begin at +0xd "
	  "and +0x11" },
	{ "v_pushed", 5, SITE_NONE,
	  "nothing is known to lead to +0x5, which may be data: the nearest instructions begin at +0x0 and +0xd" },
	{ "v_pushed", 0xd, SITE_JUMP, NULL },
	{ "v_never", 10, SITE_NONE, "the 5 bytes at +0xa hold a trap, whose handler looks at its address" },
	{ "v_data", 0x23, SITE_NONE, "+0x23 lies in the padding between instructions: the nearest instruction begins at +0x22" },
	{ "v_split_cold", 4, SITE_JUMP, NULL },
	{ "v_sigreturn", 7, SITE_NONE, "it is the return from signal handlers, which unwinders know by its bytes" },
};

START_TEST(inside)
{
	const struct asm_victim *v = asm_victim_find(inside_rows[_i].victim);
	struct textscan *scan = scan_of(asm_victims_image(), NULL);
	addr_t at = (addr_t)v->code + inside_rows[_i].off;
	struct func_plan p;

	ck_assert_ptr_null(plan_insn(scan, (addr_t)v->code, v->end - v->code, at, 0, &p));
	assert_reason(v->name, p.entry_reason, inside_rows[_i].reason);
	ck_assert_msg(p.entry == inside_rows[_i].entry, "%s+%#x: %s", v->name, inside_rows[_i].off,
		      site_tactic_name(p.entry));
	ck_assert_ptr_nonnull(p.exit_reason);
	ck_assert_uint_eq(p.nwindows, p.entry != SITE_NONE);
	if (p.nwindows) {
		ck_assert_uint_eq(p.windows[0].addr, at);
		ck_assert_int_eq(p.windows[0].points[0].kind, HOOK_INSN);
	}
	func_plan_deinit(&p);
	textscan_destroy(scan);
}
END_TEST

/* Where no function is known, something must lead to the place, and nothing is
 * taken for granted there. */
START_TEST(unknown_function)
{
	const struct asm_victim *v = asm_victim_find("v_jcc");
	struct code_image code = *asm_victims_image();
	struct textscan *scan;
	struct func_plan p;

	code.nfuncs = 0;
	scan = scan_of(&code, NULL);
	ck_assert_ptr_null(plan_insn(scan, (addr_t)v->code + 10, 0, (addr_t)v->code + 10, 0, &p));
	ck_assert_int_eq(p.entry, SITE_JUMP);
	ck_assert_int_eq(p.windows[0].points[0].kind, HOOK_INSN);
	func_plan_deinit(&p);
	ck_assert_ptr_null(plan_insn(scan, (addr_t)v->code + 5, 0, (addr_t)v->code + 5, 0, &p));
	ck_assert_int_eq(p.entry, SITE_NONE);
	ck_assert_ptr_nonnull(strstr(p.entry_reason, "belongs to no function that is known"));
	func_plan_deinit(&p);
	textscan_destroy(scan);
}
END_TEST

/* No byte of a restartable sequence is displaced: neither at an entry nor in a
 * function, nor by a return's window. */
START_TEST(restartable_sequence)
{
	const struct asm_victim *v = asm_victim_find("v_plain");
	struct code_rseq cs = { .lo = (addr_t)v->code + 4, .hi = (addr_t)v->code + 8, .abort = (addr_t)v->code };
	struct code_image code = *asm_victims_image();
	struct textscan *scan;
	struct func_plan p;

	code.rseqs = &cs;
	code.nrseqs = 1;
	scan = scan_of(&code, NULL);
	ck_assert_ptr_null(plan_insn(scan, (addr_t)v->code, 10, (addr_t)v->code + 4, 0, &p));
	assert_reason("in it", p.entry_reason, "+0x4 lies in a restartable sequence (rseq), or just before one");
	func_plan_deinit(&p);
	ck_assert_ptr_null(plan_insn(scan, (addr_t)v->code, 10, (addr_t)v->code + 8, 0, &p));
	ck_assert_int_eq(p.entry, SITE_JUMP); /* behind it */
	func_plan_deinit(&p);
	ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, 10, v->name, PLAN_ENTRY | PLAN_EXIT, &p));
	ck_assert_int_eq(p.entry, SITE_PUN); /* of the four bytes before it */
	ck_assert_uint_eq(p.windows[0].len, 4);
	func_plan_deinit(&p);
	cs.lo = (addr_t)v->code;
	ck_assert_ptr_null(plan_function(scan, (addr_t)v->code, 10, v->name, PLAN_ENTRY, &p));
	assert_reason("at the entry", p.entry_reason, "begins with a restartable sequence (rseq)");
	func_plan_deinit(&p);
	textscan_destroy(scan);
}
END_TEST

/* ---- merging ---- */

static struct window window_at(addr_t addr, unsigned ninsns, unsigned insn_len, unsigned point, enum hook_kind kind)
{
	struct window w = { .addr = addr, .len = ninsns * insn_len, .ninsns = ninsns, .npoints = 1 };

	memset(w.bytes, 0x90, w.len);
	for (unsigned i = 0; i < ninsns; i++)
		w.insn_off[i] = i * insn_len;
	w.points[0] = (struct hook_point){ .off = point, .kind = kind };
	return w;
}

static u8 nops[256];

static struct textscan *nop_scan(struct code_range *text, struct code_image *code)
{
	memset(nops, 0x90, sizeof(nops));
	*text = (struct code_range){ .addr = 0x1000, .size = sizeof(nops), .bytes = nops };
	*code = (struct code_image){ .text = text, .ntext = 1 };
	return scan_of(code, NULL);
}

START_TEST(merges)
{
	struct code_range text;
	struct code_image code;
	struct textscan *scan = nop_scan(&text, &code);
	struct window a = window_at(0x1010, 6, 1, 0, HOOK_ENTRY), b = window_at(0x1014, 6, 1, 3, HOOK_RET);
	struct window same = window_at(0x1010, 5, 1, 4, HOOK_RET), apart = window_at(0x101a, 5, 1, 0, HOOK_RET);
	const struct window *in[] = { &apart, &b, &a, &same, &a };
	struct window *out;
	size_t n;

	ck_assert_ptr_null(windows_merge(scan, in, ARRAY_SIZE(in), &out, &n));
	ck_assert_uint_eq(n, 2);
	ck_assert_uint_eq(out[0].addr, 0x1010);
	ck_assert_uint_eq(out[0].len, 10);
	ck_assert_uint_eq(out[0].ninsns, 10);
	ck_assert_uint_eq(out[0].npoints, 3);
	ck_assert_uint_eq(out[0].points[0].off, 0);
	ck_assert_uint_eq(out[0].points[1].off, 4);
	ck_assert_uint_eq(out[0].points[2].off, 7);
	ck_assert_uint_eq(out[1].addr, 0x101a);
	free(out);
	ck_assert_ptr_null(windows_merge(scan, NULL, 0, &out, &n));
	ck_assert_uint_eq(n, 0);
	free(out);
	textscan_destroy(scan);
}
END_TEST

START_TEST(merge_refuses)
{
	struct code_range text;
	struct code_image code;
	struct textscan *scan = nop_scan(&text, &code);
	struct window a = window_at(0x1010, 2, 3, 0, HOOK_ENTRY), askew = window_at(0x1014, 5, 1, 0, HOOK_RET);
	struct window long_a = window_at(0x1010, 24, 1, 0, HOOK_ENTRY), long_b = window_at(0x1020, 24, 1, 23, HOOK_RET);
	const struct window *skewed[] = { &a, &askew }, *longer[] = { &long_a, &long_b };
	struct window *out;
	struct uerr *err;
	size_t n;

	err = windows_merge(scan, skewed, 2, &out, &n);
	ck_assert_ptr_nonnull(err);
	ck_assert_int_eq(err->code, UERR_CANNOT_PROBE);
	uerr_free(err);
	err = windows_merge(scan, longer, 2, &out, &n);
	ck_assert_ptr_nonnull(err);
	ck_assert_int_eq(err->code, UERR_CANNOT_PROBE);
	uerr_free(err);
	textscan_destroy(scan);
}
END_TEST

/* ---- the cache ---- */

static char cache_dir[] = "/tmp/uprobed-scan-XXXXXX";
static char cache_file[100];

static void cache_setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(cache_dir));
	snprintf(cache_file, sizeof(cache_file), "%s/0123456789abcdef.scan", cache_dir);
}

static void cache_teardown(void)
{
	unlink(cache_file);
	ck_assert_int_eq(rmdir(cache_dir), 0);
}

static struct code_image cached_image(void)
{
	struct code_image code = *asm_victims_image();

	code.build_id = "0123456789abcdef";
	return code;
}

static void assert_same_scan(const struct code_image *code, const struct textscan *a, const struct textscan *b)
{
	for (size_t i = 0; i < code->text[0].size; i++)
		ck_assert(textscan_is_target(a, code->text[0].addr + i) == textscan_is_target(b, code->text[0].addr + i));
}

START_TEST(cache_serves)
{
	struct code_image code = cached_image();
	struct textscan *fresh = scan_of(&code, NULL), *first = scan_of(&code, cache_dir), *second;
	struct stat before, after;

	ck_assert_int_eq(stat(cache_file, &before), 0);
	second = scan_of(&code, cache_dir);
	ck_assert_int_eq(stat(cache_file, &after), 0);
	ck_assert_uint_eq(before.st_ino, after.st_ino); /* read, not written again */
	assert_same_scan(&code, fresh, first);
	assert_same_scan(&code, fresh, second);
	textscan_destroy(fresh);
	textscan_destroy(first);
	textscan_destroy(second);
}
END_TEST

static void spoil_byte(off_t off)
{
	int fd = open(cache_file, O_RDWR);
	u8 b;

	ck_assert_int_eq(pread(fd, &b, 1, off), 1);
	b ^= 0x10;
	ck_assert_int_eq(pwrite(fd, &b, 1, off), 1);
	close(fd);
}

static void spoil_length(off_t arg)
{
	ck_assert_int_eq(truncate(cache_file, 100), 0);
}

static void spoil_mode(off_t arg)
{
	ck_assert_int_eq(chmod(cache_file, 0666), 0);
}

static const struct {
	void (*spoil)(off_t arg);
	off_t arg;
} spoilers[] = {
	{ spoil_byte, 0 }, { spoil_byte, 8 }, { spoil_byte, 16 }, { spoil_byte, 30 }, { spoil_byte, 60 },
	{ spoil_byte, 90 }, { spoil_length, 0 }, { spoil_mode, 0 },
};

/* Whatever is wrong with it, a cached scan is made anew and replaced. */
START_TEST(cache_distrusts)
{
	struct code_image code = cached_image();
	struct textscan *fresh = scan_of(&code, cache_dir), *again;
	struct stat before, after;

	spoilers[_i].spoil(spoilers[_i].arg);
	ck_assert_int_eq(stat(cache_file, &before), 0);
	again = scan_of(&code, cache_dir);
	ck_assert_int_eq(stat(cache_file, &after), 0);
	ck_assert(before.st_ino != after.st_ino || before.st_mode != after.st_mode);
	assert_same_scan(&code, fresh, again);
	textscan_destroy(fresh);
	textscan_destroy(again);
}
END_TEST

/* The same build-id on other code must not be answered from the cache. */
START_TEST(cache_knows_its_input)
{
	struct code_image code = cached_image();
	struct textscan *first = scan_of(&code, cache_dir), *other;
	struct code_mark mark = { .addr = code.text[0].addr + 1, .kinds = CODE_MARK_SYMBOL };

	ck_assert(!textscan_is_target(first, mark.addr));
	code.marks = &mark;
	code.nmarks = 1;
	other = scan_of(&code, cache_dir);
	ck_assert(textscan_is_target(other, mark.addr));
	textscan_destroy(first);
	textscan_destroy(other);
}
END_TEST

START_TEST(cache_needs_a_clean_build_id)
{
	struct code_image code = cached_image();
	static const char *const bad[] = { "../../../etc/passwd", "", "0123456789ABCDEF", "0123456789abcdef/x" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct textscan *scan;

		code.build_id = bad[i];
		scan = scan_of(&code, cache_dir);
		textscan_destroy(scan);
	}
	ck_assert_int_eq(access(cache_file, F_OK), -1); /* rmdir in teardown finds any other */
}
END_TEST

START_TEST(bad_images)
{
	struct code_range overlap[] = { { 0x1000, 64, nops }, { 0x1020, 64, nops } };
	struct code_range wrap[] = { { ~0ull - 8, 64, nops } };
	struct code_image images[] = {
		{ .ntext = 0 }, { .text = overlap, .ntext = 2 }, { .text = wrap, .ntext = 1 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(images); i++) {
		struct textscan *scan;
		struct uerr *err = textscan_create(&images[i], NULL, &scan);

		ck_assert_ptr_nonnull(err);
		uerr_free(err);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("plan");
	TCase *tc = tcase_create("plan"), *cache = tcase_create("cache");

	tcase_add_loop_test(tc, shapes, 0, nasm_victims);
	tcase_add_test(tc, one_side);
	tcase_add_test(tc, nowhere);
	tcase_add_test(tc, marks_count);
	tcase_add_loop_test(tc, breakpoints, 0, nasm_victims);
	tcase_add_test(tc, breakpoint_instead);
	tcase_add_test(tc, system_calls);
	tcase_add_loop_test(tc, inside, 0, ARRAY_SIZE(inside_rows));
	tcase_add_test(tc, unknown_function);
	tcase_add_test(tc, restartable_sequence);
	tcase_add_test(tc, merges);
	tcase_add_test(tc, merge_refuses);
	tcase_add_test(tc, bad_images);
	suite_add_tcase(s, tc);
	tcase_add_checked_fixture(cache, cache_setup, cache_teardown);
	tcase_add_test(cache, cache_serves);
	tcase_add_loop_test(cache, cache_distrusts, 0, ARRAY_SIZE(spoilers));
	tcase_add_test(cache, cache_knows_its_input);
	tcase_add_test(cache, cache_needs_a_clean_build_id);
	suite_add_tcase(s, cache);
	return suite_run(s);
}
