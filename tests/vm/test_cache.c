/* SPDX-License-Identifier: MIT */
/*
 * The cache of readable pages (base/read_cache.h), in a process that is its own
 * target: nothing is patched; what hooks would call around a system call is
 * called by hand. READ_CACHE_SECONDS in the environment makes the stress longer.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/read_cache.h"
#include "base/target_abi.h"
#include "tests/support/suite.h"
#include "vm/helpers.h"
#include "vm/runtime.h"

enum { NATIVE, BLOB, WAYS };
#define NRECS 64u
#define GUARD_INSTALL 102

static int way;
static u8 *blob;
static struct target_env env;
static struct site_data site = { .env = (addr_t)&env, .cookie = TAKING_ANY_CALL };
static struct read_cache *cache;
static __thread struct hook_frame frame;

static void *map_pages(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	return p;
}

/* Every thread has a frame and finds its record as in a target. */
static struct hook_frame *own_frame(void)
{
	struct thread_rec *(*slow)(const struct target_env *);

	if (!frame.site) {
		slow = (struct thread_rec * (*)(const struct target_env *))(blob + runtime_thread_rec_off());
		frame = (struct hook_frame){ .site = (addr_t)&site, .rec = (addr_t)slow(&env), .slot = HOOK_NO_SLOT };
	}
	return &frame;
}

static struct thread_rec *own_rec(void)
{
	return (struct thread_rec *)own_frame()->rec;
}

static s64 helper(u32 id, u64 r1, u64 r2, u64 r3)
{
	helper_fn fn = way == NATIVE ? runtime_helper(id) : (helper_fn)(blob + runtime_helper_off(id));

	return (s64)fn(r1, r2, r3, 0, 0, own_frame());
}

#define READ(dst, size, addr) helper(BPF_FUNC_probe_read_user, (u64)(dst), size, (u64)(addr))
#define READ_STR(dst, size, addr) helper(BPF_FUNC_probe_read_user_str, (u64)(dst), size, (u64)(addr))
#define WRITE(addr, src, size) helper(BPF_FUNC_probe_write_user, (u64)(addr), (u64)(src), size)

static void taking(bool end, u64 nr, u64 a, u64 b, u64 c, u64 d, u64 e)
{
	taking_fn fn = way == NATIVE ? runtime_taking(end) : (taking_fn)(blob + runtime_taking_off(end));
	struct hook_frame *f = own_frame();

	f->regs = (struct target_regs){ .ax = nr, .di = a, .si = b, .dx = c, .r10 = d, .r8 = e };
	fn(&f->regs, 0, f);
}

/* A system call between its hooks. */
static long hooked(u64 nr, u64 a, u64 b, u64 c, u64 d, u64 e)
{
	long ret;

	taking(false, nr, a, b, c, d, e);
	ret = syscall((long)nr, a, b, c, d, e, 0);
	taking(true, (u64)ret, a, b, c, d, e);
	return ret;
}

/* As the daemon would: one range of private anonymous memory. */
static void tell(void *lo, size_t size, u64 prot)
{
	ck_assert_uint_eq(__atomic_load_n(&cache->taking, __ATOMIC_SEQ_CST), 0);
	cache->seq++;
	cache->ranges[0] = (struct read_cache_range){ (u64)lo, (u64)lo + size, prot };
	cache->nranges = 1;
	cache->stamp = cache->ops;
	cache->seq++;
}

static void setup(void)
{
	const struct runtime_blob *b = runtime_blob();
	int fd = memfd_create("blob", MFD_CLOEXEC);

	ck_assert_int_eq(write(fd, b->bytes, b->size), b->size);
	blob = mmap(NULL, b->size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	ck_assert_ptr_ne(blob, MAP_FAILED);
	close(fd);
	env = (struct target_env){ .version = TARGET_ABI_VERSION, .target_no = 7, .ncpus = 2, .nrecs = NRECS };
	env.threads = (addr_t)map_pages(ALIGN_UP(THREAD_TABLE_SIZE(NRECS), PAGE));
	env.private_ = (addr_t)map_pages(PAGE);
	madvise((void *)env.private_, PAGE, MADV_WIPEONFORK);
	if (__rseq_size) {
		env.rseq_off = __rseq_offset;
		env.rseq_size = 32; /* what glibc registers, whatever of it is in use */
	}
	cache = map_pages(ALIGN_UP(sizeof(*cache), PAGE));
	madvise(cache, ALIGN_UP(sizeof(*cache), PAGE), MADV_WIPEONFORK);
	cache->state = READ_CACHE_ASKED;
	env.cache = (addr_t)cache;
	frame = (struct hook_frame){ 0 };
}

/* A tgid of nobody's: what is answered then came out of the cache. */
static bool kernel_is_off;

static void use_kernel(bool use)
{
	((struct target_private *)env.private_)->tgid = use ? (u32)getpid() : 0x7fffffff;
	kernel_is_off = !use;
}

static bool is_cached(const void *p)
{
	u64 v = 1;
	s64 err;

	use_kernel(false);
	err = READ(&v, 8, p);
	use_kernel(true);
	ck_assert(err == 0 || (err == -EFAULT && !v));
	return !err;
}

static bool is_cached_for_writing(void *p)
{
	u8 v = 0x77;
	s64 err;

	use_kernel(false);
	err = WRITE(p, &v, 1);
	use_kernel(true);
	return !err;
}

START_TEST(hits)
{
	u8 *p = map_pages(3 * PAGE), dst[64];

	way = _i;
	tell(p, 2 * PAGE, PROT_READ | PROT_WRITE);
	for (u32 i = 0; i < 2 * PAGE; i++)
		p[i] = (u8)(i * 7 + 3);
	ck_assert(!is_cached(p));
	for (u32 page = 0; page < 3; page++)
		ck_assert_int_eq(READ(dst, 1, p + page * PAGE), 0);
	ck_assert_uint_eq(cache->state, READ_CACHE_ON);
	ck_assert_uint_eq(own_rec()->rseq, 1);
	ck_assert(is_cached(p) && is_cached(p + PAGE - 8) && is_cached(p + PAGE));
	ck_assert(!is_cached(p + 2 * PAGE)); /* in no known range */
	use_kernel(false);
	for (u32 size = 1; size <= 32; size++)
		for (u32 at = PAGE - 40; at < PAGE + 8; at++) {
			memset(dst, 0xee, sizeof(dst));
			ck_assert_int_eq(READ(dst, size, p + at), 0);
			ck_assert_int_eq(memcmp(dst, p + at, size), 0);
			ck_assert_uint_eq(dst[size], 0xee);
		}
	strcpy((char *)p + PAGE - 4, "across");
	memset(dst, 0xee, sizeof(dst));
	ck_assert_int_eq(READ_STR(dst, sizeof(dst), p + PAGE - 4), 7);
	ck_assert_str_eq((char *)dst, "across");
	ck_assert_uint_eq(dst[7], 0xee); /* nothing behind the NUL */
	ck_assert_int_eq(READ(dst, 8, 8), -EFAULT);
	ck_assert_int_eq(READ(dst, 8, ~0ull - 7), -EFAULT);
	ck_assert_int_eq(READ(dst, 8, (u64)p | 1ull << 63), -EFAULT);
	ck_assert_uint_eq(*(u64 *)((char *)__builtin_thread_pointer() + __rseq_offset + 8), 0);
}
END_TEST

START_TEST(written_pages)
{
	u8 *p = map_pages(2 * PAGE), src[32], before;

	way = _i;
	for (u32 i = 0; i < sizeof(src); i++)
		src[i] = (u8)(0x80 + i);
	tell(p, 2 * PAGE, PROT_READ | PROT_WRITE);
	ck_assert(!is_cached_for_writing(p));
	ck_assert_int_eq(WRITE(p, src, 1), 0);
	ck_assert_int_eq(WRITE(p + PAGE, src, 1), 0);
	ck_assert(is_cached_for_writing(p) && is_cached_for_writing(p + PAGE));
	ck_assert(!is_cached(p)); /* one says nothing about the other */
	use_kernel(false);
	for (u32 size = 1; size <= 32; size++) {
		memset(p + PAGE - 40, 0xee, 80);
		ck_assert_int_eq(WRITE(p + PAGE - 5, src, size), 0);
		ck_assert_int_eq(memcmp(p + PAGE - 5, src, size), 0);
		ck_assert(p[PAGE - 6] == 0xee && p[PAGE - 5 + size] == 0xee);
	}
	use_kernel(true);
	before = p[0];
	ck_assert_int_eq(hooked(SYS_mprotect, (u64)p, PAGE, PROT_READ, 0, 0), 0);
	ck_assert_int_eq(WRITE(p, "x", 1), -EFAULT);
	ck_assert_uint_eq(p[0], before);
	tell(p, 2 * PAGE, PROT_READ);
	ck_assert_int_eq(WRITE(p + PAGE, src, 1), 0); /* known for reading only */
	ck_assert(!is_cached_for_writing(p + PAGE));
}
END_TEST

/* Every call that takes a page away: what it leaves is never found in the cache. */
static const struct {
	const char *name;
	u64 nr;
	u64 size, c, d;
	bool optional, keeps; /* not in every kernel; the page stays readable */
} takers[] = {
	{ "munmap", SYS_munmap, PAGE, 0, 0, false, false },
	{ "mprotect none", SYS_mprotect, PAGE, PROT_NONE, 0, false, false },
	{ "pkey_mprotect none", SYS_pkey_mprotect, PAGE, PROT_NONE, ~0ull, true, false },
	{ "mremap away", SYS_mremap, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, false, false },
	{ "mmap fixed", SYS_mmap, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, false, false },
	{ "madvise guard", SYS_madvise, PAGE, GUARD_INSTALL, 0, true, false },
	{ "munmap of much", SYS_munmap, 1ull << 33, 0, 0, false, false },
	{ "madvise dontneed", SYS_madvise, PAGE, MADV_DONTNEED, 0, false, true },
	{ "mprotect read write", SYS_mprotect, PAGE, PROT_READ | PROT_WRITE, 0, false, true },
	{ "mmap elsewhere", SYS_mmap, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, false, true },
	{ "getpid", SYS_getpid, 0, 0, 0, false, true },
};

START_TEST(taken_pages)
{
	for (size_t i = 0; i < ARRAY_SIZE(takers); i++) {
		u8 *room = map_pages(1ull << 33);
		u8 *p = room + (1ull << 32);
		void *to = map_pages(PAGE);
		u64 first = takers[i].size > PAGE ? (u64)room : (u64)p;
		u64 v;
		long ret;

		way = _i;
		if (takers[i].nr == SYS_mmap && takers[i].keeps)
			first = 0;
		tell(p, PAGE, PROT_READ | PROT_WRITE);
		ck_assert_int_eq(READ(&v, 8, p), 0);
		ck_assert_msg(is_cached(p), "%s", takers[i].name);
		taking(false, takers[i].nr, first, takers[i].size, takers[i].c, takers[i].d, (u64)to);
		ck_assert_msg(is_cached(p) == takers[i].keeps, "before %s", takers[i].name);
		/* now it is being taken away: what is seen is not believed */
		ck_assert_int_eq(READ(&v, 8, p), 0);
		ck_assert_msg(is_cached(p) == takers[i].keeps, "during %s", takers[i].name);
		ret = syscall((long)takers[i].nr, first, takers[i].size, takers[i].c, takers[i].d,
			      takers[i].nr == SYS_mmap ? ~0ull : (u64)to, 0);
		taking(true, (u64)ret, first, takers[i].size, takers[i].c, takers[i].d, (u64)to);
		ck_assert_msg(takers[i].optional || (ret != -1), "%s: %s", takers[i].name, strerror(errno));
		if (ret != -1)
			ck_assert_msg((READ(&v, 8, p) == 0) == takers[i].keeps, "after %s", takers[i].name);
		ck_assert_uint_eq(cache->taking, 0);
		munmap(room, 1ull << 33);
		munmap(to, PAGE);
	}
}
END_TEST

/* What is in the regions that were touched is not believed until the daemon has
 * looked again. */
START_TEST(known_ranges_get_old)
{
	u8 *p = map_pages(2 * PAGE);
	u64 v;

	way = _i;
	tell(p, 2 * PAGE, PROT_READ);
	ck_assert_int_eq(hooked(SYS_munmap, (u64)p + PAGE, PAGE, 0, 0, 0), 0);
	ck_assert_int_eq(READ(&v, 8, p), 0);
	ck_assert(!is_cached(p));
	ck_assert_uint_gt(cache->unknown, 0);
	tell(p, PAGE, PROT_READ);
	ck_assert_int_eq(READ(&v, 8, p), 0);
	ck_assert(is_cached(p));
	cache->seq++; /* being written */
	p = map_pages(PAGE);
	cache->ranges[0] = (struct read_cache_range){ (u64)p, (u64)p + PAGE, PROT_READ };
	ck_assert_int_eq(READ(&v, 8, p), 0);
	ck_assert(!is_cached(p));
}
END_TEST

/* Calls after which there is no cache any more, for now or for good. */
static const struct {
	const char *name;
	u64 nr, args[4];
	u32 state, reason;
} enders[] = {
	{ "mmap code", SYS_mmap, { 0, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE }, READ_CACHE_OFF, READ_CACHE_NEW_CODE },
	{ "mprotect code", SYS_mprotect, { 0x10000, PAGE, PROT_READ | PROT_EXEC }, READ_CACHE_OFF, READ_CACHE_NEW_CODE },
	{ "pkey_alloc", SYS_pkey_alloc, {}, READ_CACHE_REFUSED, READ_CACHE_PROTECTION_KEY },
	{ "pkey_mprotect", SYS_pkey_mprotect, { 0x10000, PAGE, 3, 1 }, READ_CACHE_REFUSED, READ_CACHE_PROTECTION_KEY },
	{ "io_uring", SYS_io_uring_setup, {}, READ_CACHE_REFUSED, READ_CACHE_IO_URING },
	{ "userfaultfd", SYS_userfaultfd, {}, READ_CACHE_REFUSED, READ_CACHE_USERFAULTFD },
	{ "clone", SYS_clone, { CLONE_VM | SIGCHLD }, READ_CACHE_REFUSED, READ_CACHE_SHARED_MEMORY },
	{ "clone of a thread", SYS_clone, { CLONE_VM | CLONE_THREAD | CLONE_SIGHAND }, READ_CACHE_ON, 0 },
	{ "fork", SYS_clone, { SIGCHLD }, READ_CACHE_ON, 0 },
	{ "personality", SYS_personality, {}, READ_CACHE_REFUSED, READ_CACHE_PERSONALITY },
};

START_TEST(calls_that_end_it)
{
	for (size_t i = 0; i < ARRAY_SIZE(enders); i++) {
		u8 *p = map_pages(PAGE);
		u64 v;

		way = _i;
		cache->state = READ_CACHE_ASKED;
		cache->reason = 0;
		tell(p, PAGE, PROT_READ);
		ck_assert_int_eq(READ(&v, 8, p), 0);
		ck_assert(is_cached(p));
		taking(false, enders[i].nr, enders[i].args[0], enders[i].args[1], enders[i].args[2], enders[i].args[3], 0);
		taking(true, 0, 0, 0, 0, 0, 0);
		ck_assert_msg(cache->state == enders[i].state && cache->reason == enders[i].reason, "%s: %u, %u",
			      enders[i].name, cache->state, cache->reason);
		ck_assert_uint_eq(cache->taking, 0);
		ck_assert_msg(is_cached(p) == (enders[i].state == READ_CACHE_ON), "%s", enders[i].name);
		ck_assert_int_eq(READ(&v, 8, p), 0);
		ck_assert_msg(is_cached(p) == (enders[i].state == READ_CACHE_ON), "%s", enders[i].name);
	}
}
END_TEST

/* Calls inside of calls, and the end of one that nobody saw begin. */
START_TEST(nested_calls)
{
	u8 *p = map_pages(PAGE);

	way = _i;
	taking(true, 0, 0, 0, 0, 0, 0);
	ck_assert_uint_eq(cache->taking, 0);
	taking(false, SYS_munmap, (u64)p, PAGE, 0, 0, 0);
	taking(false, SYS_getpid, 0, 0, 0, 0, 0); /* in a signal handler */
	taking(false, SYS_munmap, (u64)p, PAGE, 0, 0, 0);
	ck_assert_uint_eq(cache->taking, 2);
	taking(true, 0, 0, 0, 0, 0, 0);
	ck_assert_uint_eq(cache->taking, 1);
	taking(true, 0, 0, 0, 0, 0, 0);
	ck_assert_uint_eq(cache->taking, 1);
	taking(true, 0, 0, 0, 0, 0, 0);
	ck_assert_uint_eq(cache->taking, 0);
	for (int i = 0; i < 70; i++)
		taking(false, SYS_munmap, (u64)p, PAGE, 0, 0, 0);
	ck_assert_uint_eq(cache->state, READ_CACHE_REFUSED);
	ck_assert_uint_eq(cache->reason, READ_CACHE_THREADS);
}
END_TEST

/* A vfork child runs on its parent's rseq area, which is not the child's. */
START_TEST(vfork_children_do_without)
{
	u8 *p = map_pages(PAGE);
	struct thread_rec *rec = own_rec();
	static volatile u32 in_child = 7;
	static volatile s64 err = 1;
	int status;
	pid_t pid;
	u64 v;

	way = _i;
	tell(p, PAGE, PROT_READ);
	ck_assert_int_eq(READ(&v, 8, p), 0);
	ck_assert_uint_eq(rec->rseq, 1);
	taking(false, SYS_vfork, 0, 0, 0, 0, 0);
	pid = vfork();
	if (!pid) {
		u64 w;

		err = READ(&w, 8, p);
		in_child = rec->rseq;
		_exit(0);
	}
	taking(true, 0, 0, 0, 0, 0, 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(err, 0);
	ck_assert_uint_eq(in_child, 0);
	ck_assert_uint_eq(rec->rseq, 0);
	ck_assert_int_eq(READ(&v, 8, p), 0);
	ck_assert_uint_eq(rec->rseq, 1);
	ck_assert_uint_eq(cache->state, READ_CACHE_ON);
}
END_TEST

/* Sequences that are under way must be broken off before memory goes. That takes
 * longer than they do, so no stress shows whether it is done: here it is death. */
static void kill_for_membarrier(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(f), f };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		_exit(99);
}

START_TEST(sequences_are_broken_off)
{
	static const u64 calls[][4] = {
		{ SYS_munmap, 0x10000, PAGE, 0 },
		{ SYS_mprotect, 0x10000, PAGE, PROT_READ | PROT_EXEC },
		{ SYS_io_uring_setup, 0, 0, 0 },
		{ SYS_process_madvise, 0, 0, 0 }, /* and one that takes nothing */
	};
	u8 *p = map_pages(PAGE);
	int status;
	u64 v;

	way = _i;
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		pid_t pid = fork();

		if (!pid) {
			cache->state = READ_CACHE_ASKED;
			tell(p, PAGE, PROT_READ);
			if (READ(&v, 8, p) || cache->state != READ_CACHE_ON)
				_exit(98);
			kill_for_membarrier();
			taking(false, calls[i][0], calls[i][1], calls[i][2], calls[i][3], 0, 0);
			_exit(0);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		if (i < ARRAY_SIZE(calls) - 1)
			ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
		else
			ck_assert_int_eq(status, 0);
	}
}
END_TEST

/* A fork child begins with a cache that is off. */
START_TEST(fork_children_begin_anew)
{
	u8 *p = map_pages(PAGE);
	int status;
	pid_t pid;
	u64 v;

	way = _i;
	tell(p, PAGE, PROT_READ);
	ck_assert_int_eq(READ(&v, 8, p), 0);
	ck_assert(is_cached(p));
	pid = fork();
	if (!pid)
		_exit(READ(&v, 8, p) || cache->state || READ(&v, 8, p) || cache->epoch[5] || is_cached(p));
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

/*
 * Stress: readers and writers with every signal blocked, unmappers beside them,
 * and a thread whose signal handler unmaps what it is just reading.
 */

#define NPAGES 32
#define READERS 3
#define UNMAPPERS 2

static u8 *pages[NPAGES];
static pthread_mutex_t one_unmaps = PTHREAD_MUTEX_INITIALIZER;
static volatile bool stop;
static u64 reads, faults, taken, handled, wrong;

static void block_all(void)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
}

static u64 next_random(u64 *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return *state >> 33;
}

/* One access of any kind; a page holds zeros or its own number. */
static void access_any(u64 *random)
{
	u64 i = next_random(random) % NPAGES, off = next_random(random) & 0xfc0, kind = next_random(random) % 8;
	u64 words[8] = { 1 }, mine = i + 1;
	s64 err;

	if (kind == 0)
		err = WRITE(pages[i] + off, &mine, 8);
	else
		err = READ(words, kind == 1 ? 64 : 8, pages[i] + off);
	if (err)
		__atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
	else
		__atomic_fetch_add(&reads, 1, __ATOMIC_RELAXED);
	if (kind && words[0] != 0 && words[0] != mine)
		__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
}

static void *reader(void *arg)
{
	u64 random = (u64)arg;

	block_all();
	own_frame();
	while (!stop)
		access_any(&random);
	return NULL;
}

static void put_back(u8 *p)
{
	if (mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		abort();
}

static void take_away(u8 *p, u64 how)
{
	u8 *to;

	switch (how % 4) {
	case 0:
		hooked(SYS_munmap, (u64)p, PAGE, 0, 0, 0);
		break;
	case 1:
		hooked(SYS_mprotect, (u64)p, PAGE, PROT_NONE, 0, 0);
		break;
	case 2:
		hooked(SYS_mprotect, (u64)p, PAGE, PROT_READ, 0, 0);
		break;
	case 3:
		to = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		hooked(SYS_mremap, (u64)p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (u64)to);
		munmap(to, PAGE);
		break;
	}
}

static void *unmapper(void *arg)
{
	u64 random = (u64)arg + 100;

	block_all();
	own_frame();
	while (!stop) {
		u8 *p = pages[next_random(&random) % (NPAGES - 1)];

		pthread_mutex_lock(&one_unmaps);
		take_away(p, next_random(&random));
		for (u64 i = next_random(&random) % 2000; i; i--)
			__asm__ volatile("");
		put_back(p);
		__atomic_fetch_add(&taken, 1, __ATOMIC_RELAXED);
		pthread_mutex_unlock(&one_unmaps);
		if (!(next_random(&random) & 3))
			usleep(next_random(&random) % 200);
	}
	return NULL;
}

/* The last page is the handler's alone. */
static void on_alarm(int sig)
{
	struct hook_frame saved = frame;

	take_away(pages[NPAGES - 1], 0);
	put_back(pages[NPAGES - 1]);
	frame = saved;
	handled++;
}

static volatile sig_atomic_t faults_seen;

static void on_fault(int sig)
{
	faults_seen++;
	_exit(98);
}

static int seconds(void)
{
	const char *s = getenv("READ_CACHE_SECONDS");

	return s && atoi(s) > 0 ? atoi(s) : 4;
}

static u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000 + (u64)t.tv_nsec;
}

/* In a child: a fault kills it where SIGSEGV is blocked, or is counted. */
static void run_stress(void)
{
	struct itimerval often = { { 0, 97 }, { 0, 97 } }, never = { 0 };
	u64 end = now_ns() + (u64)seconds() * 1000000000, v;
	u8 *room = mmap(NULL, (2 * NPAGES + 1) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t th[READERS + UNMAPPERS];

	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
	for (u32 i = 0; i < NPAGES; i++) {
		pages[i] = room + (2 * i + 1) * PAGE;
		put_back(pages[i]);
	}
	cache->state = READ_CACHE_ASKED;
	tell(room, (2 * NPAGES + 1) * PAGE, PROT_READ | PROT_WRITE);
	cache->stamp = ~0ull; /* nothing else ever lies there */
	own_frame();
	for (u64 i = 0; i < READERS + UNMAPPERS; i++)
		if (pthread_create(&th[i], NULL, i < READERS ? reader : unmapper, (void *)(i + 1)))
			_exit(97);
	signal(SIGALRM, on_alarm);
	setitimer(ITIMER_REAL, &often, NULL);
	while (now_ns() < end)
		for (int i = 0; i < 1000; i++)
			READ(&v, 8, pages[NPAGES - 1] + 8 * (i % 512));
	setitimer(ITIMER_REAL, &never, NULL);
	stop = true;
	for (u32 i = 0; i < READERS + UNMAPPERS; i++)
		pthread_join(th[i], NULL);
	fprintf(stderr, "# %lu accesses, %lu refused, %lu pages taken, %lu by a handler, cache %u\n",
		(unsigned long)reads, (unsigned long)faults, (unsigned long)taken, (unsigned long)handled, cache->state);
	_exit(wrong ? 1 : !reads || !taken || !handled ? 2 : cache->state != READ_CACHE_ON ? 3 : cache->taking ? 4 : 0);
}

START_TEST(unmapping_beside_reading)
{
	int status;
	pid_t pid;

	way = BLOB;
	pid = fork();
	if (!pid)
		run_stress();
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status), "killed by signal %d", WTERMSIG(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cache");
	TCase *tc = tcase_create("cache");

	if (!__rseq_size) {
		printf("1..0 # SKIP this libc registers no rseq\n");
		return 0;
	}
	tcase_set_timeout(tc, seconds() + 120);
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_loop_test(tc, hits, NATIVE, WAYS);
	tcase_add_loop_test(tc, written_pages, NATIVE, WAYS);
	tcase_add_loop_test(tc, taken_pages, NATIVE, WAYS);
	tcase_add_loop_test(tc, known_ranges_get_old, NATIVE, WAYS);
	tcase_add_loop_test(tc, calls_that_end_it, NATIVE, WAYS);
	tcase_add_loop_test(tc, nested_calls, NATIVE, WAYS);
	tcase_add_loop_test(tc, vfork_children_do_without, NATIVE, WAYS);
	tcase_add_loop_test(tc, fork_children_begin_anew, NATIVE, WAYS);
	tcase_add_loop_test(tc, sequences_are_broken_off, NATIVE, WAYS);
	tcase_add_test(tc, unmapping_beside_reading);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
