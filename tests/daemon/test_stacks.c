/* SPDX-License-Identifier: MIT */
/*
 * Walks of stacks, in this very process: the image that the daemon makes for it, the
 * helper that targets run, and the C library's own unwinder as the judge. Then stacks
 * of random words, which end in front of a hole.
 */
#include <alloca.h>
#include <check.h>
#include <dlfcn.h>
#include <elf.h>
#include <execinfo.h>
#include <linux/bpf.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cells.h"
#include "base/cleanup.h"
#include "base/unwind.h"
#include "daemon/unwind.h"
#include "tests/support/suite.h"
#include "vm/runtime.h"

#define DEPTH 127
#define USER (1u << 8)
#ifdef __SANITIZE_ADDRESS__
#define WALKS 30000
#else
#define WALKS 300000
#endif

#define ck_ok(expr)                                                          \
	do {                                                                 \
		struct uerr *_err = (expr);                                  \
		ck_assert_msg(!_err, "%s", _err ? _err->message : "");       \
	} while (0)

static struct target_env env;
static struct site_data site = { .env = (addr_t)&env };
static u8 table[THREAD_TABLE_SIZE(1)] __attribute__((aligned(4096)));
static struct thread_rec *rec;

/* The image of this process, mapped. */
static void *make_image(const char *cache_dir, u64 *size)
{
	struct unwind_plan plan;
	void *image;
	int fd;

	ck_ok(unwind_plan(getpid(), &plan));
	ck_ok(unwind_make(&plan, cache_dir, &fd, size));
	unwind_plan_deinit(&plan);
	image = mmap(NULL, *size, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(image, MAP_FAILED);
	/* nobody can change it */
	ck_assert_ptr_eq(mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
	close(fd);
	return image;
}

static void make_env(void)
{
	u64 size;
	void *image = make_image(NULL, &size);

	env.version = TARGET_ABI_VERSION;
	env.nrecs = 1;
	env.threads = (addr_t)table;
	env.unwind = (addr_t)image;
	rec = (struct thread_rec *)(void *)(table + THREAD_RECS_OFF);
}

static long get_stack(const struct target_regs *regs, u64 *ips, u32 n, u64 flags)
{
	struct hook_frame frame = { .site = (addr_t)&site, .rec = (addr_t)rec, .regs = *regs };

	return (long)runtime_helper(BPF_FUNC_get_stack)(0, (u64)ips, n * 8, flags, 0, &frame) / 8;
}

#define HERE(r)                                                                             \
	__asm__ volatile("lea 0(%%rip), %0; mov %%rsp, %1; mov %%rbp, %2"                   \
			 : "=&r"((r)->ip), "=&r"((r)->sp), "=&r"((r)->bp))

static unsigned compared;

static inline __attribute__((always_inline)) void compare_here(void)
{
	struct target_regs regs = { 0 };
	u64 ips[DEPTH];
	void *all[DEPTH + 2], **theirs = all;
	long n, want;

	HERE(&regs);
	n = get_stack(&regs, ips, DEPTH, USER);
	want = backtrace(all, DEPTH + 2);
	ck_assert_int_ge(n, 3);
	if (want > 2 && ips[1] != (u64)all[1] && ips[1] == (u64)all[2]) { /* a sanitizer's own function stands between */
		theirs++;
		want--;
	}
	ck_assert_int_le(n, DEPTH);
	for (long i = 1; i < n && i < want; i++)
		ck_assert_msg(ips[i] == (u64)theirs[i], "frame %ld: %#lx, the C library says %p", i, (long)ips[i],
			      theirs[i]);
	/* it may have cut off what calls main() */
	ck_assert_msg(n == want || n == DEPTH || n + 1 == want, "%ld frames, the C library has %ld", n, want);
	compared++;
}

__attribute__((noinline)) static long leaf(long n)
{
	compare_here();
	return n + 1;
}

__attribute__((noinline)) static long down(long n)
{
	volatile char pad[40] = { (char)n };

	return n ? down(n - 1) + pad[0] : leaf(n);
}

__attribute__((noinline)) static long by_alloca(long n)
{
	char *p = alloca((size_t)n * 17 + 3);

	memset(p, 1, (size_t)n * 17 + 3);
	__asm__ volatile("" : : "r"(p) : "memory");
	return n ? by_alloca(n - 1) + p[n] : leaf(n);
}

__attribute__((noinline)) static long by_alignment(long n)
{
	char buf[128] __attribute__((aligned(64)));

	memset(buf, 1, sizeof(buf));
	__asm__ volatile("" : : "r"(buf) : "memory");
	return n ? by_alignment(n - 1) + buf[n] : leaf(n);
}

static int by_callback(const void *a, const void *b)
{
	static int once;

	if (!once++)
		leaf(1);
	return *(const int *)a - *(const int *)b;
}

static void on_signal(int sig)
{
	down(sig % 5);
}

START_TEST(same_as_the_c_library)
{
	int v[3] = { 3, 1, 2 };

	make_env();
	env.main_stack_lo = 0x1000; /* (this thread's is the main one, or as good) */
	env.main_stack_hi = ((u64)__builtin_frame_address(0) | 0xfff) + 1;
	down(0);
	down(20);
	down(200);
	by_alloca(10);
	by_alignment(10);
	qsort(v, 3, sizeof(v[0]), by_callback);
	signal(SIGUSR1, on_signal);
	raise(SIGUSR1);
	ck_assert_uint_eq(compared, 7);
	/* where nothing is known of the stack */
	env.main_stack_lo = env.main_stack_hi = 0;
	down(20);
	by_alloca(3);
}
END_TEST

/* Code of ours is no caller's. */
START_TEST(ends_in_our_code)
{
	u64 stack[8] = { 0 }, ips[DEPTH];
	struct target_regs regs = { .ip = 0x10000, .sp = (u64)stack, .bp = (u64)&stack[2] };

	make_env();
	env.main_stack_lo = (u64)stack;
	env.main_stack_hi = (u64)&stack[8];
	stack[2] = (u64)&stack[4];
	stack[3] = 0x20000; /* found by rbp */
	stack[5] = 0x30000;
	ck_assert_int_eq(get_stack(&regs, ips, DEPTH, USER), 3);
	env.code_lo = 0x20000 - 16;
	env.code_hi = 0x20000 + 16;
	ck_assert_int_eq(get_stack(&regs, ips, DEPTH, USER), 2);
	ck_assert_uint_eq(ips[1], 0x20000);
	env.code_lo = 0x10000;
	ck_assert_int_eq(get_stack(&regs, ips, DEPTH, USER), 1);
}
END_TEST

/* Registers and words that lead somewhere, or nowhere. */
static u64 random_word(u64 *seed, u64 lo, u64 hi, const struct unwind_image *im)
{
	u64 r = (*seed ^= *seed << 13, *seed ^= *seed >> 7, *seed ^= *seed << 17) >> 3;
	const struct unwind_module *m = &im->modules[r % im->nmodules];

	switch (r >> 12 & 7) {
	case 0:
		return r;
	case 1:
		return lo + (r >> 20) % (hi - lo);
	case 2:
		return (lo + (r >> 20) % (hi - lo)) & ~7ull;
	case 3:
		return cell_back(env.all_cells + (r >> 20) % CELLS * sizeof(struct cell));
	case 4:
		return 0;
	default:
		return m->lo + (r >> 20) % (m->hi - m->lo);
	}
}

START_TEST(random_stacks)
{
	u64 seed = 0x1234567 + (u64)_i, size = 16 * PAGE, frames = 0, lo, hi;
	struct cell *cells;
	u8 *mem;

	make_env();
	mem = mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_int_eq(mprotect(mem + PAGE, size, PROT_READ | PROT_WRITE), 0);
	lo = (u64)mem + PAGE;
	hi = lo + size;
	cells = mmap(NULL, CELL_STUBS_SIZE + CELL_AREA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	env.all_cells = (u64)cells + CELL_STUBS_SIZE;
	/* some of them lead to each other for ever */
	for (u32 i = 0; i < CELLS; i++)
		((struct cell_area *)env.all_cells)->cell[i].ra = random_word(&seed, lo, hi, (void *)env.unwind);
	/* its extent is known, or not, or belongs to another stack */
	rec->stack_lo = _i ? lo : 0;
	rec->stack_hi = _i == 1 ? hi : _i == 2 ? lo + PAGE : 0;
	if (!_i)
		env.main_stack_lo = env.main_stack_hi = lo; /* nothing is learnt */
	for (u32 walk = 0; walk < WALKS / (_i ? 1 : 10); walk++) {
		struct target_regs regs = { 0 };
		u64 ips[DEPTH + 1], at = walk % 64 * 32 % size;
		long n;

		for (u32 i = 0; i < 64; i++)
			*(u64 *)(lo + (at + i * 8) % size) = random_word(&seed, lo, hi, (void *)env.unwind);
		regs.ip = random_word(&seed, lo, hi, (void *)env.unwind);
		regs.sp = walk % 16 ? lo + at : random_word(&seed, lo, hi, (void *)env.unwind);
		regs.bp = random_word(&seed, lo, hi, (void *)env.unwind);
		site.func_ip = walk % 3 ? 0 : regs.ip;
		site.exit = walk % 7 == 0;
		ips[DEPTH] = 42;
		n = get_stack(&regs, ips, walk % 5 ? DEPTH : 3, USER | (walk % 11 ? 0 : walk % 256));
		ck_assert_int_le(n, DEPTH);
		ck_assert_uint_eq(ips[DEPTH], 42);
		frames += n > 0 ? (u64)n : 0;
	}
	ck_assert_uint_gt(frames, WALKS / 10);
}
END_TEST

static char dir[] = "/tmp/uprobed-stacks-XXXXXX";

static void remove_dir(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

/* A copy of the library: where TEXT is false, it says of its code that it is none. */
static void copy_library(const char *path, bool text)
{
	cleanup_fclose FILE *from = fopen(VICTIM_LIB, "re"), *to = fopen(path, "we");
	static u8 bytes[1 << 20];
	size_t n = from ? fread(bytes, 1, sizeof(bytes), from) : 0, changed = 0;
	const Elf64_Ehdr *eh = (const void *)bytes;

	ck_assert(to && n > sizeof(*eh) && n < sizeof(bytes));
	for (u32 i = 0; i < eh->e_shnum && !text; i++) {
		Elf64_Shdr *sh = (Elf64_Shdr *)(void *)(bytes + eh->e_shoff) + i;

		changed += (sh->sh_flags & SHF_EXECINSTR) != 0;
		sh->sh_flags &= ~(u64)SHF_EXECINSTR;
	}
	ck_assert(text || changed);
	ck_assert_uint_eq(fwrite(bytes, 1, n, to), n);
}

/* Is what the process with the copy at PATH gets from the cache what is made afresh? */
static void check_cached(const char *path)
{
	void *library = dlopen(path, RTLD_NOW), *fresh, *cached;
	u64 fresh_size, cached_size;

	ck_assert_msg(library, "%s", dlerror());
	fresh = make_image(NULL, &fresh_size);
	for (int i = 0; i < 2; i++) { /* made, and found */
		cached = make_image(dir, &cached_size);
		ck_assert_uint_eq(cached_size, fresh_size);
		ck_assert(!memcmp(cached, fresh, fresh_size));
		munmap(cached, cached_size);
	}
	munmap(fresh, fresh_size);
	ck_assert_int_eq(dlclose(library), 0);
}

/* A file with the build-id and the .eh_frame of another one leaves nothing to it. */
START_TEST(file_that_poses_as_another)
{
	char genuine[64], posing[64];

	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(genuine, sizeof(genuine), "%s/genuine", dir);
	snprintf(posing, sizeof(posing), "%s/posing", dir);
	copy_library(genuine, true);
	copy_library(posing, false);
	check_cached(posing);
	check_cached(genuine);
	check_cached(posing);
	remove_dir();
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("stacks");

	tcase_add_test(tc, same_as_the_c_library);
	tcase_add_test(tc, ends_in_our_code);
	tcase_add_loop_test(tc, random_stacks, 0, 3);
	tcase_add_test(tc, file_that_poses_as_another);
	return run_case("stacks", tc);
}
