/* SPDX-License-Identifier: MIT */
/*
 * A whole libc: how much of it can be planned, and that no window is wrong. The
 * windows are rechecked against branch targets that Zydis' full decoder finds
 * on its own, and every window must really move to a trampoline. In the end this
 * process's own libc is patched, all of it, and has to go on working.
 */
#include <Zydis/Zydis.h>
#include <check.h>
#include <dlfcn.h>
#include <gnu/libc-version.h>
#include <pthread.h>
#include <regex.h>
#include <signal.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "elfsym/image.h"
#include "cells_here.h"
#include "injector/pun.h"
#include "injector/trampoline.h"
#include "tests/support/suite.h"

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

static addr_t bias; /* of libc in this process */

static void setup(void)
{
	Dl_info info;

	/* A name that no sanitizer takes for itself: theirs is another library. */
	ck_assert_int_ne(dladdr((void *)gnu_get_libc_version, &info), 0);
	bias = (addr_t)info.dli_fbase;
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
	struct tramp_env env = { .env = 0x1000, .tid_off = 0x2d0, .threads = 0x2000, .nrecs = 1024, .rec_slow = 0x3000,
				 .cells = 0x100000, .cell_take = 0x6000 };
	struct hook_call call = { .fn = 0x4000, .site = 0x5000, .reads = TARGET_REGS_ALL, .clobbers = TARGET_REGS_ALL };
	const addr_t there = 0x7f1234560000;
	struct hook hooks[ARRAY_SIZE(w->points)];
	struct trampoline t;
	size_t avail;
	const u8 *p = bytes_at(w->addr, &avail);

	ck_assert(p && avail >= w->len + w->keep && !memcmp(p, w->bytes, w->len + w->keep));
	for (addr_t a = w->addr + 1; a < w->addr + w->len; a++)
		ck_assert_msg(!arrivals[a - lo], "%s: something arrives at %#lx", name, (long)a);
	for (unsigned i = 0; i < w->npoints; i++)
		hooks[i] = (struct hook){ .point = w->points[i], .calls = &call, .ncalls = 1 };
	assert_ok(trampoline_emit(w, there, hooks, w->npoints, &env, there - 0x10000000, &t));
	ck_assert_uint_le(t.size, trampoline_size_bound(w, w->npoints));
	trampoline_deinit(&t);
}

START_TEST(whole_libc)
{
	size_t n = 0, entries = 0, punned = 0, exits = 0, taken_over = 0;

	for (size_t i = 0; i < code->nfuncs; i++) {
		const struct code_func *f = &code->funcs[i];
		struct func_plan p;

		if (f->flags & CODE_FUNC_FRAGMENT)
			continue;
		n++;
		assert_ok(plan_function(scan, f->addr, f->size, f->name, PLAN_ENTRY | PLAN_EXIT, &p));
		entries += p.entry == SITE_JUMP;
		punned += p.entry == SITE_PUN;
		exits += p.exit == SITE_RET;
		taken_over += p.exit == SITE_TAIL || p.exit == SITE_ENTRY_TAKEOVER;
		ck_assert((p.entry != SITE_NONE) == !p.entry_reason);
		ck_assert((p.exit != SITE_NONE) == !p.exit_reason);
		ck_assert((p.exit == SITE_TAIL || p.exit == SITE_ENTRY_TAKEOVER) == !!p.exit_note);
		for (size_t k = 0; k < p.nwindows; k++)
			check_window(&p.windows[k], f->name ? f->name : "?");
		func_plan_deinit(&p);
	}
	printf("# libc: %zu functions, entry of %zu by a jump, of %zu more by a punned one, exit of %zu, of %zu more by "
	       "taking it over\n", n, entries, punned, exits, taken_over);
	ck_assert_uint_gt(n, 1000);
	ck_assert_uint_gt(punned, 0);
	ck_assert_msg(n - entries - punned <= 2, "%zu refused", n - entries - punned);
	ck_assert_msg(entries * 100 >= n * 99, "%zu of %zu entries", entries, n);
	ck_assert_msg(exits * 100 >= n * 65, "%zu of %zu exits", exits, n);
	ck_assert_msg((exits + taken_over) * 100 >= n * 93, "%zu of %zu exits", exits + taken_over, n);
}
END_TEST

/* What is planned for an entry alone leaves as much room for the exit as when both are. */
START_TEST(entries_do_not_depend_on_exits)
{
	size_t planned_both = 0, n = 0;

	for (size_t i = 0; i < code->nfuncs; i++) {
		const struct code_func *f = &code->funcs[i];
		struct func_plan both, alone;

		if (f->flags & CODE_FUNC_FRAGMENT)
			continue;
		assert_ok(plan_function(scan, f->addr, f->size, f->name, PLAN_ENTRY | PLAN_EXIT, &both));
		assert_ok(plan_function(scan, f->addr, f->size, f->name, PLAN_ENTRY | PLAN_ROOM, &alone));
		ck_assert_int_eq(both.entry, alone.entry);
		n++;
		planned_both += alone.exit != SITE_NONE;
		for (size_t k = 0; k < alone.nwindows; k++) {
			size_t m = 0;

			while (m < both.nwindows && both.windows[m].addr != alone.windows[k].addr)
				m++;
			ck_assert_msg(m < both.nwindows, "%s: no window at +%ld", f->name ? f->name : "?",
				      (long)(alone.windows[k].addr - f->addr));
			ck_assert_msg(both.windows[m].len == alone.windows[k].len && both.windows[m].keep == alone.windows[k].keep,
				      "%s: %u bytes, with the exit %u", f->name ? f->name : "?", alone.windows[k].len,
				      both.windows[m].len);
		}
		func_plan_deinit(&both);
		func_plan_deinit(&alone);
	}
	printf("# the exit was looked at for the entry's sake in %zu of %zu\n", planned_both, n);
	ck_assert_uint_gt(planned_both, 0);
	ck_assert_uint_lt(planned_both, n / 2);
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
		ck_assert_uint_le(merged[i - 1].addr + merged[i - 1].len + merged[i - 1].keep, merged[i].addr);
	for (size_t i = 0; i < code->nfuncs; i++)
		func_plan_deinit(&plans[i]);
	free(merged);
	free(windows);
	free(plans);
}
END_TEST

/* ---- living with a libc that is patched everywhere ---- */

#define NRECS 1024u

static struct {
	struct thread_table head;
	u8 pad[THREAD_RECS_OFF - sizeof(struct thread_table)];
	struct thread_rec recs[NRECS + 1];
} table __attribute__((aligned(4096)));
static struct target_env target_env;

/* Destroys what a program may destroy. */
void busy_hook(void);
asm(".text\n.globl busy_hook\n.type busy_hook, @function\nbusy_hook:\n"
    "mov $0x5a5a5a5a5a5a5a5a, %rax\n mov %rax, %rcx\n mov %rax, %rdx\n mov %rax, %rsi\n mov %rax, %rdi\n"
    "mov %rax, %r8\n mov %rax, %r9\n mov %rax, %r10\n mov %rax, %r11\n add %rax, %rax\n ret\n");

/* System calls and copying without libc: it is being patched. */
static long raw_syscall3(long nr, long a, long b, long c)
{
	long r;

	asm volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}

static struct thread_rec *claim_rec(const struct target_env *env)
{
	u32 tid = (u32)raw_syscall3(SYS_gettid, 0, 0, 0);
	struct thread_rec *rec = &table.recs[tid & (NRECS - 1)];

	if (!rec->tid)
		rec->tid = tid;
	return rec->tid == tid ? rec : &table.recs[NRECS];
}

struct change {
	u8 *at;
	unsigned len;
	u8 bytes[WINDOW_MAX];
};

static struct change *changes;
static size_t nchanges;

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/* Chooses stubs for all punned windows of MERGED, and maps their pages. STUBS is
 * by window. */
static addr_t *map_stubs(const struct window *merged, size_t n)
{
	struct pun_site *sites = calloc(n, sizeof(*sites));
	addr_t *stubs = calloc(n, sizeof(*stubs));
	struct pun_space space;
	size_t k = 0;

	assert_ok(pun_space_read(getpid(), &space));
	for (size_t i = 0; i < n; i++)
		if (merged[i].keep) {
			pun_reach(&merged[i], bias, &sites[k].lo, &sites[k].hi);
			k++;
		}
	ck_assert(pun_place(&space, sites, k));
	for (size_t i = 0, j = 0; i < n; i++)
		if (merged[i].keep) {
			stubs[i] = sites[j++].stub;
			ck_assert_uint_ne(stubs[i], 0);
		}
	for (size_t i = 0; i < space.pages.n; i++)
		ck_assert_uint_eq((addr_t)mmap((void *)space.pages.data[i], PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
					       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
				  space.pages.data[i]);
	printf("# libc: %zu stubs on %zu pages\n", k, space.pages.n);
	pun_space_deinit(&space);
	free(sites);
	return stubs;
}

static void put_stub(addr_t stub, addr_t tramp)
{
	u8 bytes[STUB_MAX];
	unsigned n = stub_bytes(stub, tramp, bytes);

	memcpy((void *)stub, bytes, n);
}

static void prepare_changes(void)
{
	struct tramp_env env = { .env = (addr_t)&target_env, .tid_off = 0x2d0, .threads = (addr_t)&table, .nrecs = NRECS,
				 .rec_slow = (addr_t)claim_rec, .cells = (addr_t)cells_here(),
				 .cell_take = cell_take_here() };
	struct hook_call call = { .fn = (addr_t)busy_hook, .reads = TARGET_REGS_ALL, .clobbers = TARGET_REGS_ALL };
	struct func_plan *plans = calloc(code->nfuncs, sizeof(*plans));
	const struct window **windows = NULL;
	struct window *merged;
	size_t n = 0, used = 0, size = 16 << 20;
	addr_t *stubs;
	u8 *arena = mmap((void *)(ALIGN_DOWN(bias, PAGE) - (64 << 20)), size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert(arena != MAP_FAILED);
	target_env = (struct target_env){ .tid_off = env.tid_off, .threads = env.threads, .nrecs = NRECS, .cells = env.cells };
	for (size_t i = 0; i < code->nfuncs; i++) {
		const struct code_func *f = &code->funcs[i];

		assert_ok(plan_function(scan, f->addr, f->size, f->name, PLAN_ENTRY | PLAN_EXIT, &plans[i]));
		windows = realloc(windows, (n + plans[i].nwindows) * sizeof(*windows) + 1);
		for (size_t k = 0; k < plans[i].nwindows; k++)
			windows[n++] = &plans[i].windows[k];
	}
	assert_ok(windows_merge(scan, windows, n, &merged, &nchanges));
	changes = calloc(nchanges, sizeof(*changes));
	stubs = map_stubs(merged, nchanges);
	for (size_t i = 0; i < nchanges; i++) {
		struct hook hooks[ARRAY_SIZE(merged->points)];
		struct trampoline t;

		for (unsigned k = 0; k < merged[i].npoints; k++)
			hooks[k] = (struct hook){ .point = merged[i].points[k], .calls = &call, .ncalls = 1 };
		assert_ok(trampoline_emit(&merged[i], bias, hooks, merged[i].npoints, &env, (addr_t)arena + used, &t));
		ck_assert_uint_le(used + t.size, size);
		memcpy(arena + used, t.code, t.size);
		changes[i].at = (u8 *)(merged[i].addr + bias);
		changes[i].len = merged[i].len;
		ck_assert(!memcmp(changes[i].at, merged[i].bytes, merged[i].len));
		window_patch_bytes(&merged[i], bias, stubs[i] ? stubs[i] : (addr_t)arena + used, changes[i].bytes);
		if (stubs[i])
			put_stub(stubs[i], (addr_t)arena + used);
		used += ALIGN_UP(t.size, 16);
		trampoline_deinit(&t);
	}
	for (size_t i = 0; i < code->nfuncs; i++)
		func_plan_deinit(&plans[i]);
	free(plans);
	free(windows);
	free(merged);
	free(stubs);
	ck_assert_int_eq(mprotect(arena, size, PROT_READ | PROT_EXEC), 0);
}

static void swap_changes(addr_t text, size_t size)
{
	raw_syscall3(SYS_mprotect, (long)text, (long)size, PROT_READ | PROT_WRITE | PROT_EXEC);
	for (size_t i = 0; i < nchanges; i++)
		for (unsigned k = 0; k < changes[i].len; k++) {
			volatile u8 *p = changes[i].at + k;
			u8 old = *p;

			*p = changes[i].bytes[k];
			changes[i].bytes[k] = old;
		}
	raw_syscall3(SYS_mprotect, (long)text, (long)size, PROT_READ | PROT_EXEC);
}

static int by_value(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static volatile sig_atomic_t signals;

static void on_signal(int sig)
{
	signals++;
}

static void *thread_main(void *arg)
{
	char *p = malloc(100000);

	free(p);
	return strdup(arg);
}

static void work_memory_and_text(void)
{
	int numbers[500];
	regex_t re;
	char buf[200];

	for (int i = 0; i < 500; i++)
		numbers[i] = (i * 7919) % 503;
	qsort(numbers, 500, sizeof(numbers[0]), by_value);
	for (int i = 1; i < 500; i++)
		ck_assert_int_le(numbers[i - 1], numbers[i]);
	snprintf(buf, sizeof(buf), "%s %d %.6f %#lx %c", "text", -42, 3.141592, 0xabcdefl, 'x');
	ck_assert_str_eq(buf, "text -42 3.141592 0xabcdef x");
	ck_assert(strtod("2.5e3", NULL) == 2500.0);
	ck_assert_int_eq(regcomp(&re, "^te(x|y)t +-([0-9]+)", REG_EXTENDED), 0);
	ck_assert_int_eq(regexec(&re, buf, 0, NULL, 0), 0);
	regfree(&re);
	ck_assert_ptr_eq(strstr(buf, "3.14"), buf + 9);
}

static void work_processes(void)
{
	char line[64] = "";
	FILE *f = popen("echo from the shell", "r");
	pid_t pid;
	int status;

	ck_assert_ptr_nonnull(f);
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), f));
	ck_assert_int_eq(pclose(f), 0);
	ck_assert_str_eq(line, "from the shell\n");
	pid = fork();
	if (!pid)
		_exit(getenv("PATH") ? 7 : 8);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(WEXITSTATUS(status), 7);
}

static void work_threads_and_signals(void)
{
	pthread_t threads[8];
	jmp_buf env;
	char text[] = "thread";
	volatile int jumps = 0;

	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, thread_main, text), 0);
	for (int i = 0; i < 8; i++) {
		void *ret;

		ck_assert_int_eq(pthread_join(threads[i], &ret), 0);
		ck_assert_str_eq(ret, text);
		free(ret);
	}
	signal(SIGUSR1, on_signal);
	raise(SIGUSR1);
	ck_assert_int_eq(signals, 1);
	if (setjmp(env) < 3)
		longjmp(env, ++jumps);
	ck_assert_int_eq(jumps, 3);
	ck_assert_int_ge(time(NULL), 1);
}

/* The counters agree once all is restored: whoever came in went out. Threads
 * that ended and processes that were replaced did so outside of hooks. */
START_TEST(patched_libc_works)
{
	addr_t text = ALIGN_DOWN(code->text[0].addr, PAGE);
	const struct cell_area *cells;
	u64 entries = 0, leaves = 0;
	unsigned taken_over = 0;

	prepare_changes();
	swap_changes(bias + text, ALIGN_UP(hi, PAGE) - text);
	work_memory_and_text();
	work_processes();
	work_threads_and_signals();
	swap_changes(bias + text, ALIGN_UP(hi, PAGE) - text);
	for (unsigned i = 0; i <= NRECS; i++) {
		entries += table.recs[i].entries;
		leaves += table.recs[i].leaves;
	}
	free(changes);
	ck_assert_uint_gt(entries, 10000);
	ck_assert_uint_eq(entries, leaves);
	cells = (const struct cell_area *)target_env.cells;
	for (u32 i = 0; i < CELLS; i++)
		taken_over += cells->cell[i].hook != 0;
	ck_assert_uint_gt(taken_over, 20);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("plan_libc");
	TCase *tc = tcase_create("plan_libc");

	tcase_set_timeout(tc, 60);
	tcase_add_unchecked_fixture(tc, setup, teardown);
	tcase_add_test(tc, whole_libc);
	tcase_add_test(tc, entries_do_not_depend_on_exits);
	tcase_add_test(tc, merges_whole_libc);
	tcase_add_test(tc, patched_libc_works);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
