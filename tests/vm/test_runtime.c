/* SPDX-License-Identifier: MIT */
/*
 * The runtime, every test twice: the functions as compiled into this library,
 * and the blob itself, mapped read-execute and called through its table of
 * offsets, with an environment made by hand as the daemon would.
 */
#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "maps/umap.h"
#include "tests/support/suite.h"
#include "vm/helpers.h"
#include "vm/jit.h"
#include "vm/program.h"
#include "vm/runtime.h"
#include "vm/runtime/tracering.h"

#define NATIVE 0
#define BLOB 1
#define WAYS 2
#define NRECS 64u
#define TEXT(s) (u64)(s), sizeof(s)

static u8 *blob;
static struct target_env env;
static struct site_data site;
static struct hook_frame frame;
static struct umap_claims *claims;
static int claims_fd;
static struct trace_ring *ring;
static __thread u32 fake_tid; /* what env.tid_off may point at */

static void *map_pages(size_t size, int prot)
{
	void *p = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	return p;
}

static helper_fn helper(int way, u32 id)
{
	ck_assert_uint_ne(runtime_helper_off(id), 0);
	return way == NATIVE ? runtime_helper(id) : (helper_fn)(blob + runtime_helper_off(id));
}

static u64 call(int way, u32 id, u64 r1, u64 r2, u64 r3, u64 r4, u64 r5)
{
	return helper(way, id)(r1, r2, r3, r4, r5, &frame);
}

static s64 tls_off(const void *p)
{
	return (s64)((const char *)p - (const char *)__builtin_thread_pointer());
}

static void make_table(u32 nrecs)
{
	struct thread_table *t = map_pages(ALIGN_UP(THREAD_TABLE_SIZE(nrecs), PAGE), PROT_READ | PROT_WRITE);

	t->magic = THREAD_TABLE_MAGIC;
	t->nrecs = nrecs;
	env.threads = (addr_t)t;
	env.nrecs = nrecs;
}

static struct thread_rec *rec_at(u32 i)
{
	return (struct thread_rec *)(env.threads + THREAD_RECS_OFF) + i;
}

static struct thread_rec *find_rec(int way)
{
	struct thread_rec *(*slow)(const struct target_env *);

	slow = (struct thread_rec * (*)(const struct target_env *))(blob + runtime_thread_rec_off());
	if (way == BLOB)
		return slow(&env);
	/* The native function is behind the helpers: the random state shows which. */
	for (u32 i = 0; i <= env.nrecs; i++)
		rec_at(i)->random = 0;
	frame.rec = 0;
	runtime_helper(BPF_FUNC_get_prandom_u32)(0, 0, 0, 0, 0, &frame);
	for (u32 i = 0; i <= env.nrecs; i++)
		if (rec_at(i)->random)
			return rec_at(i);
	return NULL;
}

/* One environment as in a target. SIGSEGV is blocked: a fault would kill. */
static void setup(void)
{
	const struct runtime_blob *b = runtime_blob();
	int fd = memfd_create("blob", MFD_CLOEXEC);
	void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGSEGV);
	sigaddset(&set, SIGBUS);
	sigprocmask(SIG_BLOCK, &set, NULL);
	ck_assert_int_eq(write(fd, b->bytes, b->size), b->size);
	blob = mmap(NULL, b->size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	ck_assert_ptr_ne(blob, MAP_FAILED);
	close(fd);
	memset(&env, 0, sizeof(env));
	env.version = TARGET_ABI_VERSION;
	env.target_no = 77;
	env.ncpus = 2;
	if (__rseq_size)
		env.rseq_off = __rseq_offset;
	make_table(NRECS);
	env.private_ = (addr_t)map_pages(TARGET_PRIVATE_SIZE(NRECS), PROT_READ | PROT_WRITE);
	env.vdso_clock_gettime = vdso ? (addr_t)dlsym(vdso, "__vdso_clock_gettime") : 0;
	ring = map_pages(ALIGN_UP(trace_ring_size(), PAGE), PROT_READ | PROT_WRITE);
	trace_ring_format(ring);
	env.trace_ring = (addr_t)ring;
	ck_assert_ptr_null(umap_claims_create(2, &claims, &claims_fd));
	site = (struct site_data){ .env = (addr_t)&env, .claims = (addr_t)claims, .nclaims = 2 + UMAP_SPARE_SLOTS,
				   .cookie = 0xc00c1e, .func_ip = 0xf00f };
	frame = (struct hook_frame){ .site = (addr_t)&site, .slot = HOOK_NO_SLOT };
}

START_TEST(blob_is_complete)
{
	const struct runtime_blob *b = runtime_blob();

	ck_assert_uint_lt(b->size, 64 << 10);
	ck_assert_uint_lt(runtime_thread_rec_off(), b->size);
	ck_assert_uint_ne(runtime_thread_rec_off(), 0);
	for (u32 id = 0; id < 300; id++) {
		ck_assert_int_eq(vm_helper_known(id), runtime_helper_off(id) != 0);
		ck_assert_int_eq(vm_helper_known(id), runtime_helper(id) != NULL);
		ck_assert_uint_lt(runtime_helper_off(id), b->size);
	}
	ck_assert_uint_ne(runtime_helper_off(VM_RT_CLAIM), 0);
	ck_assert_uint_ne(runtime_helper_off(VM_RT_RELEASE), 0);
	ck_assert_uint_ne(runtime_helper_off(VM_RT_SIGNAL), 0);
	ck_assert_str_eq(vm_helper_name(22), "bpf_perf_event_read");
	ck_assert(!vm_helper_known(22));
	ck_assert_str_eq(vm_helper_name(1), "bpf_map_lookup_elem");
	ck_assert_ptr_null(vm_helper_name(0));
	ck_assert_ptr_null(vm_helper_name(100000));
}
END_TEST

/* The table against the kernel's own list of names, and against itself. */
START_TEST(prototypes_are_whole)
{
#define KERNEL_NAME(x) [BPF_FUNC_##x] = "bpf_" #x
	static const char *const kernel_names[] = { __BPF_FUNC_MAPPER(KERNEL_NAME) };
	u32 n = ARRAY_SIZE(kernel_names);

	for (u32 id = 1; id < n; id++)
		ck_assert_msg(vm_helper_name(id) && !strcmp(vm_helper_name(id), kernel_names[id]), "%u: %s", id,
			      kernel_names[id]);
	for (u32 id = 0; id < 300; id++) {
		const struct helper_info *info = vm_helper_info(id);

		ck_assert(!info->present || (info->known && !info->instead));
		ck_assert(!info->known || info->name);
		for (u32 i = 0; i < HELPER_NARGS; i++) { /* a size follows its memory */
			u8 kind = info->args[i], before = i ? info->args[i - 1] : 0;
			bool size = kind == ARG_SIZE || kind == ARG_SIZE0;
			bool memory = before >= ARG_MEM && before <= ARG_MEM_UNINIT;

			ck_assert_msg(size == memory, "%s, argument %u", info->name, i + 1);
		}
	}
	ck_assert_uint_eq(helper_nargs(vm_helper_info(BPF_FUNC_ktime_get_ns)), 0);
	ck_assert_uint_eq(helper_nargs(vm_helper_info(BPF_FUNC_map_update_elem)), 4);
	ck_assert_str_eq(vm_helper_name(211), "bpf_cgrp_storage_delete");
	ck_assert(!vm_helper_info(BPF_FUNC_skb_load_bytes)->known);
	ck_assert(vm_helper_info(BPF_FUNC_ringbuf_reserve)->known);
}
END_TEST

static u64 clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

/* The TSC's way to the monotonic clock, in turn: it is on its way after a few
 * hundred microseconds, never a microsecond off, and does not go back by that. */
START_TEST(clock_by_tsc)
{
	const struct target_clock *c = &((struct target_private *)env.private_)->clock;
	u32 by_tsc = 0, rounds = 0;
	u64 last = 0;

	env.tsc_clock = runtime_tsc_is_clock();
	for (u64 end = clock_ns(CLOCK_MONOTONIC) + 20000000; clock_ns(CLOCK_MONOTONIC) < end; rounds++) {
		u64 before = clock_ns(CLOCK_MONOTONIC), asked = c->seq;
		u64 now = call(_i, BPF_FUNC_ktime_get_ns, 0, 0, 0, 0, 0);

		by_tsc += c->ticks && c->seq == asked;
		ck_assert_uint_le(before, now + 1000);
		ck_assert_uint_le(now, clock_ns(CLOCK_MONOTONIC) + 1000);
		ck_assert_uint_le(last, now + 1000);
		last = now;
	}
	ck_assert(env.tsc_clock ? by_tsc > rounds / 2 : !by_tsc);
	ck_assert_uint_eq(c->doubts, 0);
}
END_TEST

/* A line that leads elsewhere is left at the next answer, and after a few such
 * the kernel is asked each time; a writer that never ends holds nobody up. */
START_TEST(clock_in_doubt)
{
	struct target_clock *c = &((struct target_private *)env.private_)->clock;
	u64 before, now, deadline = clock_ns(CLOCK_MONOTONIC) + 10000000000;

	env.tsc_clock = 1;
	for (u32 doubts = 1; doubts <= 8; doubts++) {
		while (!c->ticks && clock_ns(CLOCK_MONOTONIC) < deadline)
			call(_i, BPF_FUNC_ktime_get_ns, 0, 0, 0, 0, 0);
		ck_assert_uint_ne(c->ticks, 0);
		while (c->doubts < doubts && clock_ns(CLOCK_MONOTONIC) < deadline) {
			c->ns += 5000;
			call(_i, BPF_FUNC_ktime_get_ns, 0, 0, 0, 0, 0);
		}
		ck_assert_uint_eq(c->doubts, doubts);
		ck_assert_uint_eq(c->ticks, 0);
	}
	c->doubts = 0;
	for (u32 odd = 0; odd < 2; odd++) {
		c->seq |= odd;
		c->doubts = odd ? 0 : 8;
		before = clock_ns(CLOCK_MONOTONIC);
		now = call(_i, BPF_FUNC_ktime_get_ns, 0, 0, 0, 0, 0);
		ck_assert(before <= now && now <= clock_ns(CLOCK_MONOTONIC));
	}
}
END_TEST

/* A writer that never ended, longer than a second ago: the next clock is used, as
 * good as the first; after the last of them the kernel is asked each time. */
START_TEST(clock_abandoned)
{
	struct target_private *p = (struct target_private *)env.private_;
	struct target_clock *c = &p->clock;
	u64 before, now, deadline = clock_ns(CLOCK_MONOTONIC) + 20000000000;

	if (!runtime_tsc_is_clock())
		return;
	env.tsc_clock = 1;
	for (u32 no = 0; no <= TARGET_CLOCK_SPARES; no++) {
		ck_assert_uint_eq(p->clock_no, no);
		while (!c->ticks && clock_ns(CLOCK_MONOTONIC) < deadline) {
			before = clock_ns(CLOCK_MONOTONIC);
			now = call(_i, BPF_FUNC_ktime_get_ns, 0, 0, 0, 0, 0);
			ck_assert(before <= now + 1000 && now <= clock_ns(CLOCK_MONOTONIC) + 1000);
		}
		ck_assert_uint_ne(c->ticks, 0);
		c->seq |= 1;
		call(_i, BPF_FUNC_ktime_get_ns, 0, 0, 0, 0, 0);
		ck_assert_uint_eq(p->clock_no, no); /* it may be at work still */
		c->began -= 1ull << 33;
		call(_i, BPF_FUNC_ktime_get_ns, 0, 0, 0, 0, 0);
		c = &p->spares[no];
	}
	ck_assert_uint_eq(p->clock_no, TARGET_CLOCK_SPARES + 1);
	for (u32 no = TARGET_CLOCK_SPARES + 1; no > TARGET_CLOCK_SPARES; no = no * 2) { /* scribbled over, too */
		p->clock_no = no;
		before = clock_ns(CLOCK_MONOTONIC);
		now = call(_i, BPF_FUNC_ktime_get_ns, 0, 0, 0, 0, 0);
		ck_assert(before <= now && now <= clock_ns(CLOCK_MONOTONIC));
	}
}
END_TEST

START_TEST(clocks)
{
	static const struct {
		u32 id;
		clockid_t clock;
	} rows[] = { { BPF_FUNC_ktime_get_ns, CLOCK_MONOTONIC }, { BPF_FUNC_ktime_get_boot_ns, CLOCK_BOOTTIME },
		     { BPF_FUNC_ktime_get_coarse_ns, CLOCK_MONOTONIC_COARSE } };
	addr_t vdso = env.vdso_clock_gettime;

	ck_assert_uint_ne(vdso, 0);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(rows); i++) {
		u64 before, now, after;

		env.vdso_clock_gettime = i & 1 ? vdso : 0;
		before = clock_ns(rows[i / 2].clock);
		now = call(_i, rows[i / 2].id, 0, 0, 0, 0, 0);
		after = clock_ns(rows[i / 2].clock);
		ck_assert(before <= now && now <= after);
	}
}
END_TEST

START_TEST(identity)
{
	u64 want = (u64)getpid() << 32 | (u32)gettid();
	u32 cpu;

	ck_assert_uint_eq(call(_i, BPF_FUNC_get_current_pid_tgid, 0, 0, 0, 0, 0), want);
	ck_assert_uint_eq(((struct target_private *)env.private_)->tgid, getpid());
	fake_tid = 4242;
	env.tid_off = tls_off(&fake_tid);
	ck_assert_uint_eq((u32)call(_i, BPF_FUNC_get_current_pid_tgid, 0, 0, 0, 0, 0), 4242);
	fake_tid = 0; /* not numbered: ask the kernel */
	ck_assert_uint_eq(call(_i, BPF_FUNC_get_current_pid_tgid, 0, 0, 0, 0, 0), want);
	env.private_ = 0;
	ck_assert_uint_eq(call(_i, BPF_FUNC_get_current_pid_tgid, 0, 0, 0, 0, 0), want);
	ck_assert_uint_eq(call(_i, BPF_FUNC_get_current_uid_gid, 0, 0, 0, 0, 0), (u64)getgid() << 32 | getuid());
	for (int i = 0; i < 2; i++) {
		cpu = (u32)call(_i, BPF_FUNC_get_smp_processor_id, 0, 0, 0, 0, 0);
		ck_assert_uint_lt(cpu, sysconf(_SC_NPROCESSORS_CONF));
		env.rseq_off = 0;
	}
	ck_assert_uint_eq(call(_i, BPF_FUNC_get_attach_cookie, 0, 0, 0, 0, 0), 0xc00c1e);
	ck_assert_uint_eq(call(_i, BPF_FUNC_get_func_ip, 0, 0, 0, 0, 0), 0xf00f);
}
END_TEST

START_TEST(name)
{
	char buf[20];

	prctl(PR_SET_NAME, "fifteen-letters");
	for (u32 size = 1; size <= sizeof(buf); size++) {
		u32 n = size <= 16 ? size - 1 : 15;

		memset(buf, 'x', sizeof(buf));
		ck_assert_int_eq((s64)call(_i, BPF_FUNC_get_current_comm, (u64)buf, size, 0, 0, 0), 0);
		ck_assert_int_eq(memcmp(buf, "fifteen-letters", n), 0);
		for (u32 i = n; i < sizeof(buf); i++)
			ck_assert_int_eq(buf[i], i < size ? 0 : 'x');
	}
	ck_assert_int_eq((s64)call(_i, BPF_FUNC_get_current_comm, (u64)buf, 0, 0, 0, 0), -EINVAL);
}
END_TEST

static s64 fake_now = 1000;

static int fake_clock(int clock, s64 *ts)
{
	(void)clock;
	ts[0] = fake_now;
	ts[1] = 0;
	return 0;
}

static void is_called(int way, const char *want)
{
	char comm[20];

	memset(comm, 'x', sizeof(comm));
	ck_assert_int_eq((s64)call(way, BPF_FUNC_get_current_comm, (u64)comm, sizeof(comm), 0, 0, 0), 0);
	ck_assert_str_eq(comm, want);
	ck_assert(!comm[16] && !comm[19]);
	ck_assert_int_eq((s64)call(way, BPF_FUNC_get_current_comm, (u64)comm, 3, 0, 0, 0), 0);
	ck_assert(!strncmp(comm, want, 2) && !comm[2]);
}

/* What is kept holds for a tick, unless somebody has said that it changes; only
 * where such are told of, and in a record of one's own. */
START_TEST(name_is_kept)
{
	struct target_private *p = (struct target_private *)env.private_;
	struct thread_identity *id;
	char old[16];
	u64 ids = (u64)getgid() << 32 | getuid();

	ck_assert_int_eq(prctl(PR_GET_NAME, old), 0);
	env.vdso_clock_gettime = (addr_t)fake_clock;
	env.identity = 1;
	frame.rec = (addr_t)find_rec(_i);
	id = (struct thread_identity *)(env.private_ + TARGET_IDENTITY_OFF) + ((struct thread_rec *)frame.rec - rec_at(0));
	prctl(PR_SET_NAME, "one");
	is_called(_i, "one");
	prctl(PR_SET_NAME, "two");
	is_called(_i, "one");
	p->renamed++;
	is_called(_i, "two");
	prctl(PR_SET_NAME, "three");
	fake_now++;
	is_called(_i, "three");
	prctl(PR_SET_NAME, "four");
	id->tid++; /* another thread had the record */
	is_called(_i, "four");
	prctl(PR_SET_NAME, "five");
	id->seq++; /* a handler, which has interrupted us while we wrote */
	is_called(_i, "five");
	id->seq++;
	is_called(_i, "four");
	ck_assert_uint_eq(call(_i, BPF_FUNC_get_current_uid_gid, 0, 0, 0, 0, 0), ids);
	id->uid = 4242;
	ck_assert_uint_eq(call(_i, BPF_FUNC_get_current_uid_gid, 0, 0, 0, 0, 0), (u64)getgid() << 32 | 4242);
	fake_now++;
	ck_assert_uint_eq(call(_i, BPF_FUNC_get_current_uid_gid, 0, 0, 0, 0, 0), ids);
	is_called(_i, "five");
	prctl(PR_SET_NAME, "six");
	env.identity = 0;
	is_called(_i, "six");
	env.identity = 1;
	frame.rec = (addr_t)rec_at(NRECS); /* which anybody may have */
	prctl(PR_SET_NAME, "seven");
	is_called(_i, "seven");
	prctl(PR_SET_NAME, "eight");
	is_called(_i, "eight");
	prctl(PR_SET_NAME, old);
}
END_TEST

START_TEST(random_numbers)
{
	u64 seen = 0, v = 0;

	for (int i = 0; i < 64; i++) {
		v = call(_i, BPF_FUNC_get_prandom_u32, 0, 0, 0, 0, 0);
		ck_assert_uint_eq(v >> 32, 0);
		seen |= v;
	}
	ck_assert_uint_eq(seen, 0xffffffff);
	ck_assert_uint_ne(v, call(_i, BPF_FUNC_get_prandom_u32, 0, 0, 0, 0, 0));
}
END_TEST

START_TEST(map_operations)
{
	struct umap m;
	int fd;
	u32 key = 7;
	u64 value = 70, *v;

	ck_assert_ptr_null(umap_create("h", UMAP_HASH, 4, 8, 4, 0, 2, 3, &m, &fd));
	ck_assert_uint_eq(call(_i, 1, (u64)&m, (u64)&key, 0, 0, 0), 0);
	ck_assert_int_eq((s64)call(_i, 2, (u64)&m, (u64)&key, (u64)&value, UMAP_EXIST, 0), -ENOENT);
	ck_assert_int_eq((s64)call(_i, 2, (u64)&m, (u64)&key, (u64)&value, UMAP_ANY, 0), 0);
	ck_assert_int_eq((s64)call(_i, 2, (u64)&m, (u64)&key, (u64)&value, UMAP_NOEXIST, 0), -EEXIST);
	v = (u64 *)call(_i, 1, (u64)&m, (u64)&key, 0, 0, 0);
	ck_assert_ptr_nonnull(v);
	ck_assert_uint_eq(*v, 70);
	ck_assert_int_eq((s64)call(_i, 3, (u64)&m, (u64)&key, 0, 0, 0), 0);
	ck_assert_int_eq((s64)call(_i, 3, (u64)&m, (u64)&key, 0, 0, 0), -ENOENT);
	for (key = 0; key < 4; key++)
		ck_assert_int_eq((s64)call(_i, 2, (u64)&m, (u64)&key, (u64)&value, UMAP_ANY, 0), 0);
	ck_assert_int_eq((s64)call(_i, 2, (u64)&m, (u64)&key, (u64)&value, UMAP_ANY, 0), -E2BIG);
	umap_destroy(&m, fd);
}
END_TEST

static void queue_operations_of(int way, u32 type)
{
	struct umap m;
	int fd;
	u64 value = 70;

	ck_assert_ptr_null(umap_create("q", type, 0, 8, 2, 0, 2, 3, &m, &fd));
	ck_assert_int_eq((s64)call(way, BPF_FUNC_map_push_elem, (u64)&m, (u64)&value, UMAP_NOEXIST, 0, 0), -EINVAL);
	for (value = 1; value <= 2; value++)
		ck_assert_int_eq((s64)call(way, BPF_FUNC_map_push_elem, (u64)&m, (u64)&value, UMAP_ANY, 0, 0), 0);
	ck_assert_int_eq((s64)call(way, BPF_FUNC_map_push_elem, (u64)&m, (u64)&value, UMAP_ANY, 0, 0), -E2BIG);
	ck_assert_int_eq((s64)call(way, BPF_FUNC_map_push_elem, (u64)&m, (u64)&value, UMAP_EXIST, 0, 0), 0);
	ck_assert_int_eq((s64)call(way, BPF_FUNC_map_peek_elem, (u64)&m, (u64)&value, 0, 0, 0), 0);
	ck_assert_uint_eq(value, type == UMAP_QUEUE ? 2 : 3);
	for (int n = 0; n < 2; n++)
		ck_assert_int_eq((s64)call(way, BPF_FUNC_map_pop_elem, (u64)&m, (u64)&value, 0, 0, 0), 0);
	ck_assert_uint_eq(value, type == UMAP_QUEUE ? 3 : 2);
	ck_assert_int_eq((s64)call(way, BPF_FUNC_map_pop_elem, (u64)&m, (u64)&value, 0, 0, 0), -ENOENT);
	ck_assert_uint_eq(value, 0);
	umap_destroy(&m, fd);
}

START_TEST(queue_operations)
{
	struct umap m;
	int fd;
	u64 value = 70;

	queue_operations_of(_i, UMAP_QUEUE);
	queue_operations_of(_i, UMAP_STACK);
	ck_assert_ptr_null(umap_create("b", UMAP_BLOOM_FILTER, 0, 8, 100, 0, 2, 3, &m, &fd));
	ck_assert_int_eq((s64)call(_i, BPF_FUNC_map_peek_elem, (u64)&m, (u64)&value, 0, 0, 0), -ENOENT);
	ck_assert_int_eq((s64)call(_i, BPF_FUNC_map_push_elem, (u64)&m, (u64)&value, UMAP_ANY, 0, 0), 0);
	ck_assert_int_eq((s64)call(_i, BPF_FUNC_map_peek_elem, (u64)&m, (u64)&value, 0, 0, 0), 0);
	umap_destroy(&m, fd);
}
END_TEST

START_TEST(per_cpu_claims)
{
	struct umap m;
	int fd;
	u32 key = 0;
	u64 slot, *v;

	ck_assert_ptr_null(umap_create("p", UMAP_PERCPU_ARRAY, 4, 8, 1, 0, 2, 3, &m, &fd));
	ck_assert_uint_eq(call(_i, 1, (u64)&m, (u64)&key, 0, 0, 0), 0); /* no slot, no copy */
	slot = call(_i, VM_RT_CLAIM, 0, 0, 0, 0, 0);
	ck_assert_uint_lt(slot, site.nclaims);
	ck_assert_uint_eq(frame.slot, slot);
	ck_assert_uint_eq(claims->slot[slot].owner >> OWNER_REC_BITS, 77);
	v = (u64 *)call(_i, 1, (u64)&m, (u64)&key, 0, 0, 0);
	ck_assert_uint_eq((addr_t)v, m.base + m.data_off + slot * m.slot_stride);
	call(_i, VM_RT_RELEASE, 0, 0, 0, 0, 0);
	ck_assert_uint_eq(claims->slot[slot].owner, 0);
	ck_assert_uint_eq(frame.slot, HOOK_NO_SLOT);
	call(_i, VM_RT_RELEASE, 0, 0, 0, 0, 0); /* nothing to give back */
	umap_destroy(&m, fd);
}
END_TEST

/*
 * Memory
 */

#define READ(dst, size, addr) ((s64)call(_i, BPF_FUNC_probe_read_user, (u64)(dst), size, (u64)(addr), 0, 0))
#define READ_STR(dst, size, addr) ((s64)call(_i, BPF_FUNC_probe_read_user_str, (u64)(dst), size, (u64)(addr), 0, 0))
#define WRITE(addr, src, size) ((s64)call(_i, BPF_FUNC_probe_write_user, (u64)(addr), (u64)(src), size, 0, 0))

static u8 *three_pages(void) /* the last one is not there */
{
	u8 *p = map_pages(3 * PAGE, PROT_READ | PROT_WRITE);

	munmap(p + 2 * PAGE, PAGE);
	for (u32 i = 0; i < 2 * PAGE; i++)
		p[i] = (u8)(i * 7 + 1);
	return p;
}

static bool all_zero(const void *p, size_t n)
{
	const u8 *b = p;

	while (n && !b[n - 1])
		n--;
	return !n;
}

START_TEST(reads_that_work)
{
	u8 *p = three_pages(), dst[600];

	for (u32 size = 0; size <= 300; size++) {
		memset(dst, 0xee, sizeof(dst));
		ck_assert_int_eq(READ(dst, size, p + 13), 0);
		ck_assert_int_eq(memcmp(dst, p + 13, size), 0);
		ck_assert_int_eq(dst[size], 0xee);
	}
	ck_assert_int_eq(READ(dst, 16, p + PAGE - 8), 0); /* across pages */
	ck_assert_int_eq(memcmp(dst, p + PAGE - 8, 16), 0);
	ck_assert_int_eq(READ(dst, 8, p + 2 * PAGE - 8), 0); /* up to the hole */
	munmap(p, 2 * PAGE);
}
END_TEST

/* Every way to read, and every way to read a string. */
static const u32 read_ids[] = { BPF_FUNC_probe_read, BPF_FUNC_probe_read_user, BPF_FUNC_probe_read_kernel,
				BPF_FUNC_copy_from_user };
static const u32 str_ids[] = { BPF_FUNC_probe_read_str, BPF_FUNC_probe_read_user_str, BPF_FUNC_probe_read_kernel_str };

/* Of no bytes, as the kernel has it: only the address counts, and nothing is stored. */
START_TEST(reads_of_nothing)
{
	u8 dst = 0xee;

	for (size_t k = 0; k < ARRAY_SIZE(read_ids); k++) {
		ck_assert_int_eq((s64)call(_i, read_ids[k], (u64)&dst, 0, 0, 0, 0), 0);
		ck_assert_int_eq((s64)call(_i, read_ids[k], (u64)&dst, 0, 0x1000, 0, 0), 0);
		ck_assert_int_eq((s64)call(_i, read_ids[k], (u64)&dst, 0, 0xffff800000000000, 0, 0), -EFAULT);
	}
	for (size_t k = 0; k < ARRAY_SIZE(str_ids); k++)
		ck_assert_int_eq((s64)call(_i, str_ids[k], (u64)&dst, 0, 0, 0, 0), 0);
	ck_assert_uint_eq(dst, 0xee);
}
END_TEST

START_TEST(reads_that_fail)
{
	u8 *p = three_pages(), *none = map_pages(PAGE, PROT_NONE), *file;
	int fd = memfd_create("short", MFD_CLOEXEC);
	const u64 bad[] = {
		0, 1, 4095, (u64)p + 2 * PAGE, (u64)p + 2 * PAGE - 7, (u64)none, (u64)none + PAGE - 4, 0,
		0x7ffffffff000, 0x7fffffffeffc, 0x800000000000, 0x1234567800000000, 0xffff800000000000,
		0xffffffff81000000, 0xffffffffff600000, ~0ull, ~0ull - 7, ~0ull - 4096,
	};
	u8 dst[8];

	ck_assert_int_eq(ftruncate(fd, 2 * PAGE), 0);
	file = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert_int_eq(ftruncate(fd, PAGE), 0); /* reading its second page would raise SIGBUS */
	for (size_t i = 0; i <= ARRAY_SIZE(bad); i++) {
		u64 addr = i < ARRAY_SIZE(bad) ? bad[i] : (u64)file + PAGE;

		for (size_t k = 0; k < ARRAY_SIZE(read_ids); k++) {
			memset(dst, 0xee, sizeof(dst));
			ck_assert_msg((s64)call(_i, read_ids[k], (u64)dst, 8, addr, 0, 0) == -EFAULT,
				      "helper %u, address %#lx", read_ids[k], (unsigned long)addr);
			ck_assert(all_zero(dst, 8));
		}
		for (size_t k = 0; k < ARRAY_SIZE(str_ids); k++) {
			memset(dst, 0xee, sizeof(dst));
			ck_assert_msg((s64)call(_i, str_ids[k], (u64)dst, 8, addr, 0, 0) == -EFAULT,
				      "helper %u, string at %#lx", str_ids[k], (unsigned long)addr);
			ck_assert(all_zero(dst, 8));
		}
		ck_assert_msg(WRITE(addr, dst, 8) == -EFAULT, "write to %#lx", (unsigned long)addr);
	}
	ck_assert_int_eq(READ(dst, 8, file), 0);
	ck_assert_int_eq(WRITE(file, dst, 8), -EFAULT); /* not writable */
	munmap(p, 2 * PAGE);
	munmap(none, PAGE);
	munmap(file, 2 * PAGE);
	close(fd);
}
END_TEST

/* System calls are what process_vm_readv is not: RLIMIT_NPROC is no help, so a
 * wrong tgid shows which way a read went. */
static void forbid_slow_way(void)
{
	((struct target_private *)env.private_)->tgid = 0x7fffffff;
}

START_TEST(own_stack_is_read_directly)
{
	struct thread_rec rec = { 0 };
	volatile u64 room[4 * PAGE / 8];
	u64 here = 0x1122334455667788, dst = 0;
	volatile u64 *far = &room[3 * PAGE / 8]; /* not in the page of the stack pointer */
	pthread_attr_t attr;
	void *lo;
	size_t size;

	pthread_getattr_np(pthread_self(), &attr);
	pthread_attr_getstack(&attr, &lo, &size);
	*far = 0x77;
	forbid_slow_way();
	ck_assert_int_eq(READ(&dst, 8, far), -EFAULT); /* nothing recorded: only this page */
	frame.rec = (addr_t)&rec;
	rec.stack_lo = (u64)lo;
	rec.stack_hi = (u64)lo + size;
	ck_assert_int_eq(READ(&dst, 8, &here), 0);
	ck_assert_uint_eq(dst, here);
	ck_assert_int_eq(READ(&dst, 8, far), 0);
	ck_assert_uint_eq(dst, *far);
	ck_assert_int_eq(READ(&dst, 8, rec.stack_hi - 8), 0);
	ck_assert_int_eq(READ(&dst, 8, rec.stack_hi - 7), -EFAULT);
	ck_assert_int_eq(READ(&dst, 8, rec.stack_lo), -EFAULT); /* below the stack pointer: may not be there */
	dst = 5;
	ck_assert_int_eq(WRITE(&here, &dst, 8), 0);
	ck_assert_uint_eq(here, 5);
	rec.stack_lo = rec.stack_hi = 0;
	env.main_stack_lo = (u64)lo;
	env.main_stack_hi = (u64)lo + size;
	ck_assert_int_eq(READ(&dst, 8, far), 0);
	rec.stack_lo = 0x1000; /* another stack than the one we are on */
	rec.stack_hi = 0x100000;
	env.main_stack_hi = env.main_stack_lo + 1;
	ck_assert_int_eq(READ(&dst, 8, far), -EFAULT);
	ck_assert_int_eq(READ(&dst, 8, 0x2000), -EFAULT);
	pthread_attr_destroy(&attr);
}
END_TEST

START_TEST(segments_are_read_directly)
{
	u8 *p = map_pages(2 * PAGE, PROT_READ | PROT_WRITE), dst[8] = { 0 };

	forbid_slow_way();
	memcpy(p, "segment", 8);
	ck_assert_int_eq(READ(dst, 8, p), -EFAULT);
	for (u32 i = 0; i < TARGET_SEGMENTS - 1; i++) {
		env.segments[i].lo = 0x10000 * (i + 1);
		env.segments[i].hi = 0x10000 * (i + 1) + 0x1000;
		env.segments[i].prot = PROT_READ;
	}
	env.segments[TARGET_SEGMENTS - 1].lo = (u64)p;
	env.segments[TARGET_SEGMENTS - 1].hi = (u64)p + 2 * PAGE;
	env.segments[TARGET_SEGMENTS - 1].prot = PROT_READ;
	env.nsegments = TARGET_SEGMENTS;
	ck_assert_int_eq(READ(dst, 8, p), 0);
	ck_assert_str_eq((char *)dst, "segment");
	ck_assert_int_eq(READ(dst, 8, p + 2 * PAGE - 8), 0);
	ck_assert_int_eq(READ(dst, 8, p + 2 * PAGE - 7), -EFAULT);
	ck_assert_int_eq(READ(dst, 8, p - 1), -EFAULT);
	ck_assert_int_eq(WRITE(p, "changed", 8), -EFAULT);
	env.segments[TARGET_SEGMENTS - 1].prot = PROT_READ | PROT_WRITE;
	ck_assert_int_eq(WRITE(p, "changed", 8), 0);
	ck_assert_str_eq((char *)p, "changed");
	env.segments[TARGET_SEGMENTS - 1].prot = PROT_WRITE;
	ck_assert_int_eq(READ(dst, 8, p), -EFAULT);
	env.nsegments = ~0u; /* never past the table */
	ck_assert_int_eq(READ(dst, 8, p + 2 * PAGE), -EFAULT);
	munmap(p, 2 * PAGE);
}
END_TEST

START_TEST(strings)
{
	u8 *p = three_pages();
	char dst[64], *end = (char *)p + 2 * PAGE, on_stack[] = "on the stack";

	memset(dst, 'x', sizeof(dst));
	strcpy((char *)p, "hello");
	ck_assert_int_eq(READ_STR(dst, sizeof(dst), p), 6);
	ck_assert_str_eq(dst, "hello");
	ck_assert_int_eq(dst[6], 'x'); /* the rest is left alone */
	ck_assert_int_eq(READ_STR(dst, 4, p), 4); /* cut, with its NUL */
	ck_assert_str_eq(dst, "hel");
	ck_assert_int_eq(READ_STR(dst, 0, p), 0);
	ck_assert_int_eq(READ_STR(dst, 1, p), 1);
	ck_assert_int_eq(dst[0], 0);
	ck_assert_int_eq(READ_STR(dst, sizeof(dst), on_stack), sizeof(on_stack));
	ck_assert_str_eq(dst, on_stack);
	memcpy(end - 6, "final", 6); /* just before the hole */
	ck_assert_int_eq(READ_STR(dst, sizeof(dst), end - 6), 6);
	ck_assert_str_eq(dst, "final");
	memcpy((char *)p + PAGE - 3, "across", 7);
	ck_assert_int_eq(READ_STR(dst, sizeof(dst), p + PAGE - 3), 7);
	ck_assert_str_eq(dst, "across");
	end[-1] = '!'; /* runs into the hole */
	ck_assert_int_eq(READ_STR(dst, sizeof(dst), end - 6), -EFAULT);
	ck_assert(all_zero(dst, sizeof(dst)));
	ck_assert_int_eq(READ_STR(dst, 4, end - 6), 4); /* is cut before it gets there */
	munmap(p, 2 * PAGE);
}
END_TEST

START_TEST(writes)
{
	u8 *p = three_pages();
	u64 v = 0xaabbccdd;

	ck_assert_int_eq(WRITE(p + 100, &v, 8), 0);
	ck_assert_int_eq(memcmp(p + 100, &v, 8), 0);
	ck_assert_int_eq(WRITE(p + 100, &v, 0), 0);
	ck_assert_int_eq(WRITE(p + 2 * PAGE - 4, &v, 8), -EFAULT);
	mprotect(p, PAGE, PROT_READ);
	ck_assert_int_eq(WRITE(p, &v, 8), -EFAULT);
	munmap(p, 2 * PAGE);
}
END_TEST

/* What the target's filters forbid. */

static void kill_for(const u32 *nrs, size_t n)
{
	struct sock_filter f[32];
	struct sock_fprog prog = { (unsigned short)(n + 3), f };

	f[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < n; i++)
		f[i + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nrs[i], (u8)(n - i), 0);
	f[n + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	f[n + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		_exit(99);
}

#define MUST(n, cond)             \
	do {                      \
		if (!(cond))      \
			_exit(n); \
	} while (0)

/* Every helper that has a slow way, where each such way would be death. */
static void run_confined(int way, u8 *elsewhere)
{
	static const u32 nrs[] = { SYS_process_vm_readv, SYS_process_vm_writev, SYS_gettid, SYS_getpid, SYS_getcpu,
				   SYS_clock_gettime, SYS_getuid, SYS_getgid, SYS_tkill };
	static struct thread_rec rec;
	u64 v = 7, missed;

	env.denied = TARGET_CALLS_ALL;
	env.rseq_off = env.tid_off = 0;
	env.vdso_clock_gettime = 0;
	((struct target_private *)env.private_)->tgid = 0;
	frame.rec = (addr_t)&rec;
	kill_for(nrs, ARRAY_SIZE(nrs));
	MUST(1, (s64)call(way, BPF_FUNC_probe_read_user, (u64)&v, 8, (u64)elsewhere, 0, 0) == -EFAULT && !v);
	MUST(2, rec.missed == 1);
	MUST(3, (s64)call(way, BPF_FUNC_probe_read_user_str, (u64)&v, 8, (u64)elsewhere, 0, 0) == -EFAULT);
	MUST(4, (s64)call(way, BPF_FUNC_probe_write_user, (u64)elsewhere, (u64)&v, 8, 0, 0) == -EFAULT);
	missed = rec.missed;
	MUST(5, (s64)call(way, BPF_FUNC_probe_read_user, (u64)&v, 8, ~0ull - 100, 0, 0) == -EFAULT);
	MUST(6, missed == 3 && rec.missed == 3); /* what needs no asking is not missed */
	call(way, BPF_FUNC_get_current_pid_tgid, 0, 0, 0, 0, 0);
	call(way, BPF_FUNC_get_current_uid_gid, 0, 0, 0, 0, 0);
	call(way, BPF_FUNC_get_smp_processor_id, 0, 0, 0, 0, 0);
	call(way, BPF_FUNC_ktime_get_boot_ns, 0, 0, 0, 0, 0);
	frame.rec = 0; /* nobody knows who we are: the overflow record */
	call(way, BPF_FUNC_get_prandom_u32, 0, 0, 0, 0, 0);
	MUST(7, rec_at(env.nrecs)->random);
	for (u32 i = 0; i < env.nrecs; i++)
		MUST(8, !rec_at(i)->random);
	_exit(0);
}

START_TEST(denied_calls_are_not_made)
{
	u8 *elsewhere = map_pages(PAGE, PROT_READ | PROT_WRITE);
	int status;
	pid_t pid = fork();

	elsewhere[0] = 5;
	if (!pid)
		run_confined(_i, elsewhere);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status), "killed by signal %d", WTERMSIG(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	munmap(elsewhere, PAGE);
}
END_TEST

/*
 * Thread records
 */

START_TEST(records_are_found_and_claimed)
{
	struct thread_rec *a, *b;

	env.tid_off = tls_off(&fake_tid);
	fake_tid = 5;
	a = find_rec(_i);
	ck_assert_ptr_eq(a, rec_at(5));
	ck_assert_uint_eq(a->tid, 5);
	fake_tid = 5 + NRECS; /* the same home */
	b = find_rec(_i);
	ck_assert_ptr_eq(b, rec_at(6));
	fake_tid = 5;
	ck_assert_ptr_eq(find_rec(_i), a);
	a->tid = 0; /* given back: who has a record further on keeps it */
	fake_tid = 5 + NRECS;
	ck_assert_ptr_eq(find_rec(_i), b);
	fake_tid = NRECS - 1; /* around the end */
	ck_assert_ptr_eq(find_rec(_i), rec_at(NRECS - 1));
	fake_tid = 2 * NRECS - 1;
	ck_assert_ptr_eq(find_rec(_i), rec_at(0));
}
END_TEST

START_TEST(full_neighbourhood_overflows)
{
	const struct thread_table *t = (const struct thread_table *)env.threads;

	env.tid_off = tls_off(&fake_tid);
	env.denied = TARGET_CALL_ALIVE; /* who is dead cannot be found out */
	for (u32 i = 0; i < THREAD_PROBES; i++) {
		fake_tid = 3 + i * NRECS;
		ck_assert_ptr_eq(find_rec(_i), rec_at(3 + i));
	}
	ck_assert_uint_eq(t->missed, 0);
	fake_tid = 3 + THREAD_PROBES * NRECS;
	ck_assert_ptr_eq(find_rec(_i), rec_at(NRECS));
	ck_assert_uint_eq(t->missed, 1);
	ck_assert_uint_eq(rec_at(NRECS)->tid, 0);
}
END_TEST

/* Numbers of threads that do not exist, but the one that is ours. */
START_TEST(records_of_the_dead_are_inherited)
{
	const u32 home = 3, dead = 1u << 30;
	struct thread_rec *rec;

	env.tid_off = tls_off(&fake_tid);
	for (u32 i = 0; i < THREAD_PROBES; i++) {
		rec = rec_at(home + i);
		rec->tid = dead + i;
		rec->entries = rec->leaves = 10 + i;
		rec->stack_lo = 1;
		rec->stack_hi = 2;
	}
	rec_at(home)->tid = (u32)gettid();
	rec_at(home + 1)->entries++; /* died inside */
	rec_at(home + 2)->depth = 1; /* in the middle of an operation */
	rec_at(home + 3)->tid = REC_BUSY;
	fake_tid = home;
	rec = find_rec(_i);
	ck_assert_ptr_eq(rec, rec_at(home + 4));
	ck_assert_uint_eq(rec->tid, home);
	ck_assert_uint_eq(rec->entries, 14); /* sums go on */
	ck_assert_uint_eq(rec->stack_lo | rec->stack_hi, 0);
	ck_assert_ptr_eq(find_rec(_i), rec);
	ck_assert_uint_eq(rec_at(home)->tid, (u32)gettid());
	rec->tid = (u32)gettid(); /* lives */
	for (u32 i = 5; i < THREAD_PROBES; i++) {
		fake_tid = home + i * NRECS;
		rec_at(home + i - 1)->tid = (u32)gettid();
		ck_assert_ptr_eq(find_rec(_i), rec_at(home + i));
	}
	fake_tid = home + THREAD_PROBES * NRECS; /* nobody else is dead and done */
	for (u32 i = 5; i < THREAD_PROBES; i++)
		rec_at(home + i)->entries++;
	ck_assert_ptr_eq(find_rec(_i), rec_at(NRECS));
}
END_TEST

/* The overflow record's number is no other record's. */
START_TEST(owners_are_distinct)
{
	u64 slot, owner;

	make_table(1u << OWNER_REC_BITS);
	env.tid_off = tls_off(&fake_tid);
	fake_tid = (1u << OWNER_REC_BITS) - 1;
	ck_assert_ptr_eq(find_rec(_i), rec_at(0)); /* the last is never given away */
	frame.rec = (addr_t)rec_at(1u << OWNER_REC_BITS);
	slot = call(_i, VM_RT_CLAIM, 0, 0, 0, 0, 0);
	owner = claims->slot[slot].owner - 1;
	ck_assert_uint_eq(owner, OWNER_ID(77, (1u << OWNER_REC_BITS) - 1));
	call(_i, VM_RT_RELEASE, 0, 0, 0, 0, 0);
}
END_TEST

#define CLAIMERS 32

struct claimer {
	struct thread_rec *first, *second;
	u32 tid;
	pthread_barrier_t *barrier;
};

static void *claim_thread(void *arg)
{
	struct claimer *c = arg;
	struct thread_rec *(*slow)(const struct target_env *);

	slow = (struct thread_rec * (*)(const struct target_env *))(blob + runtime_thread_rec_off());
	fake_tid = c->tid;
	pthread_barrier_wait(c->barrier);
	c->first = slow(&env);
	c->second = slow(&env);
	pthread_barrier_wait(c->barrier);
	return NULL;
}

/* All at once in one neighbourhood: nobody shares but the overflow record. */
START_TEST(threads_claim_at_once)
{
	pthread_t t[CLAIMERS];
	struct claimer c[CLAIMERS];
	pthread_barrier_t barrier;
	u32 overflowed = 0;

	env.tid_off = tls_off(&fake_tid);
	env.denied = TARGET_CALL_ALIVE; /* these numbers are of no threads */
	pthread_barrier_init(&barrier, NULL, CLAIMERS);
	for (u32 i = 0; i < CLAIMERS; i++) {
		c[i] = (struct claimer){ .tid = 1 + i * NRECS, .barrier = &barrier };
		ck_assert_int_eq(pthread_create(&t[i], NULL, claim_thread, &c[i]), 0);
	}
	for (u32 i = 0; i < CLAIMERS; i++)
		pthread_join(t[i], NULL);
	for (u32 i = 0; i < CLAIMERS; i++) {
		ck_assert_ptr_eq(c[i].first, c[i].second);
		if (c[i].first == rec_at(NRECS)) {
			overflowed++;
			continue;
		}
		ck_assert_uint_eq(c[i].first->tid, c[i].tid);
	}
	ck_assert_uint_eq(overflowed, CLAIMERS - THREAD_PROBES);
	pthread_barrier_destroy(&barrier);
}
END_TEST

/*
 * trace_printk
 */

static u64 cursor, missed;

static s64 printk(int way, const char *fmt, u64 a, u64 b, u64 c)
{
	return (s64)call(way, BPF_FUNC_trace_printk, (u64)fmt, strlen(fmt) + 1, a, b, c);
}

START_TEST(formats)
{
	static const char hello[] = "hello";
	static const struct {
		const char *fmt;
		u64 args[3];
		const char *want;
	} rows[] = {
		{ "plain", { 0 }, "plain" },
		{ "%d %u %x", { (u32)-5, (u32)-5, 255 }, "-5 4294967291 ff" },
		{ "%i|%X|%%", { 7, 0xabc }, "7|ABC|%" },
		{ "%d", { 0x100000005 }, "5" },
		{ "%ld %lld", { (u64)-5, INT64_MIN }, "-5 -9223372036854775808" },
		{ "%lu %llu %llx", { ~0ull, ~0ull, ~0ull }, "18446744073709551615 18446744073709551615 ffffffffffffffff" },
		{ "%5d|%05d|%-5d|", { 42, 42, 42 }, "   42|00042|42   |" },
		{ "%05d %+d", { (u32)-42, 42 }, "-0042 +42" },
		{ "%016llx", { 0xdead }, "000000000000dead" },
		{ "%s, %c%c", { (u64)hello, 'a', 'b' }, "hello, ab" },
		{ "[%8s]", { (u64)hello }, "[   hello]" },
		{ "%s.", { 8 }, "." }, /* not there */
		{ "%pus %pks", { (u64)hello, (u64)hello }, "hello hello" },
		{ "%px", { 0x1234 }, "0000000000001234" },
		{ "%d\n", { 1 }, "1\n" },
	};
	struct trace_line line;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		s64 n = printk(_i, rows[i].fmt, rows[i].args[0], rows[i].args[1], rows[i].args[2]);

		ck_assert_int_eq(n, strlen(rows[i].want));
		ck_assert_int_eq(trace_ring_next(ring, &cursor, &line, &missed), 1);
		ck_assert_str_eq(line.text, rows[i].want);
		ck_assert_uint_eq(line.pid, getpid());
		ck_assert_uint_eq(line.tid, gettid());
		ck_assert_str_eq(line.comm, "test_runtime");
		ck_assert(line.ts_ns && line.ts_ns <= clock_ns(CLOCK_MONOTONIC));
	}
	ck_assert_int_eq(trace_ring_next(ring, &cursor, &line, &missed), 0);
	ck_assert_uint_eq(missed, 0);
}
END_TEST

START_TEST(formats_refused)
{
	static const char *const rows[] = { "%", "%y", "%5", "%n", "%f", "%lld %d %d %d", "%ps", "%lls", "%llld", "\x01", "%.3d" };
	struct trace_line line;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		ck_assert_msg(printk(_i, rows[i], 0, 0, 0) == -EINVAL, "%s", rows[i]);
	ck_assert_int_eq((s64)call(_i, BPF_FUNC_trace_printk, (u64) "abc", 3, 0, 0, 0), -EINVAL); /* no NUL */
	ck_assert_int_eq((s64)call(_i, BPF_FUNC_trace_printk, (u64) "abc", 0, 0, 0, 0), -EINVAL);
	ck_assert_int_eq(trace_ring_next(ring, &cursor, &line, &missed), 0);
	env.trace_ring = 0; /* nobody listens */
	ck_assert_int_eq(printk(_i, "x%d", 1, 0, 0), 2);
}
END_TEST

START_TEST(long_lines_are_cut)
{
	char fmt[400];
	struct trace_line line;

	memset(fmt, 'a', sizeof(fmt));
	fmt[399] = 0;
	ck_assert_int_eq(printk(_i, fmt, 0, 0, 0), TRACE_TEXT - 1);
	ck_assert_int_eq(trace_ring_next(ring, &cursor, &line, &missed), 1);
	ck_assert_uint_eq(strlen(line.text), TRACE_TEXT - 1);
	ck_assert_int_eq(printk(_i, "%1000d%s", 1, 0, 0), TRACE_TEXT - 1);
}
END_TEST

START_TEST(overwritten_lines_are_missed)
{
	struct trace_line line;
	u32 n = 0;

	for (u32 i = 0; i < 1000; i++)
		printk(_i, "%d", i, 0, 0);
	while (trace_ring_next(ring, &cursor, &line, &missed)) {
		ck_assert_int_eq(atoi(line.text), 1000 - TRACE_SLOTS + n);
		n++;
	}
	ck_assert_uint_eq(n, TRACE_SLOTS);
	ck_assert_uint_eq(missed, 1000 - TRACE_SLOTS);
}
END_TEST

/* A dead writer's line is waited for, then passed over; a mixed one is lost. */
START_TEST(torn_slots)
{
	struct trace_line line;

	for (u32 i = 0; i < 4; i++)
		printk(_i, "%d", i, 0, 0);
	ring->slot[0].text[0] ^= 1; /* two writers in one slot */
	ring->slot[1].seq = 2 * 1 + 1; /* not finished */
	ck_assert_int_eq(trace_ring_next(ring, &cursor, &line, &missed), 0);
	ck_assert_uint_eq(missed, 1);
	ck_assert_uint_eq(cursor, 1);
	for (u32 i = 2; i < 4; i++) { /* later lines, complete for a long time */
		ring->slot[i].ts_ns = 1;
		ring->slot[i].sum = trace_slot_sum(&ring->slot[i], i);
	}
	ck_assert_int_eq(trace_ring_next(ring, &cursor, &line, &missed), 1);
	ck_assert_str_eq(line.text, "2");
	ck_assert_uint_eq(missed, 2);
	ck_assert_int_eq(trace_ring_next(ring, &cursor, &line, &missed), 1);
	ck_assert_str_eq(line.text, "3");
}
END_TEST

START_TEST(hostile_ring)
{
	struct trace_line line;
	u64 seed = 1;

	for (u32 round = 0; round < 2000; round++) {
		u64 *w = (u64 *)ring;

		for (u32 i = 0; i < 64; i++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			w[seed % (sizeof(*ring) / 8)] = seed >> (seed & 63);
		}
		ring->head = seed >> (seed & 63);
		for (u32 i = 0; i < 4 && trace_ring_next(ring, &cursor, &line, &missed); i++) {
			ck_assert_uint_lt(strnlen(line.text, sizeof(line.text)), sizeof(line.text));
			ck_assert_uint_lt(strnlen(line.comm, sizeof(line.comm)), sizeof(line.comm));
		}
	}
	trace_ring_format(ring);
	for (u32 i = 0; i < 4; i++) {
		struct trace_slot *s = &ring->slot[i];

		memcpy(s->text, "\033[2Jx\x7f", 7);
		s->len = ~0u;
		s->seq = 2 * i + 2;
		s->sum = trace_slot_sum(s, i);
	}
	ring->head = 4;
	cursor = 0;
	ck_assert_int_eq(trace_ring_next(ring, &cursor, &line, &missed), 1);
	ck_assert_str_eq(line.text, "?[2Jx?"); /* nothing that a terminal would obey */
}
END_TEST

#define WRITERS 3
#define LINES 3000

static void *write_lines(void *arg)
{
	struct hook_frame f = frame;

	f.rec = 0;
	for (u64 i = 0; i < LINES; i++)
		((helper_fn)(blob + runtime_helper_off(BPF_FUNC_trace_printk)))((u64) "%d %d %d", 9, (u64)arg, i, i ^ 0x5555, &f);
	return NULL;
}

static void check_line(const struct trace_line *line, s64 *last)
{
	int who, n, x;

	ck_assert_msg(sscanf(line->text, "%d %d %d", &who, &n, &x) == 3, "'%s'", line->text);
	ck_assert_int_eq(x, n ^ 0x5555);
	ck_assert_int_gt(n, last[who]);
	last[who] = n;
}

/* Every line read is whole and in its writer's order; none is unaccounted for. */
START_TEST(many_writers)
{
	pthread_t t[WRITERS];
	struct trace_line line;
	s64 last[WRITERS] = { -1, -1, -1 };
	u64 got = 0;

	for (u64 i = 0; i < WRITERS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, write_lines, (void *)i), 0);
	while (__atomic_load_n(&ring->head, __ATOMIC_RELAXED) < WRITERS * LINES)
		if (trace_ring_next(ring, &cursor, &line, &missed)) {
			check_line(&line, last);
			got++;
		}
	for (u64 i = 0; i < WRITERS; i++)
		pthread_join(t[i], NULL);
	while (trace_ring_next(ring, &cursor, &line, &missed)) {
		check_line(&line, last);
		got++;
	}
	ck_assert_uint_gt(got, 0);
	ck_assert_uint_eq(got + missed, WRITERS * LINES);
}
END_TEST

/* This process as its own target */

static void *self_thread(void *arg)
{
	struct hook_frame f;

	runtime_self_frame(&f);
	*(addr_t *)arg = f.rec;
	ck_assert_uint_eq(((struct thread_rec *)f.rec)->tid, gettid());
	return NULL;
}

START_TEST(self)
{
	struct hook_frame f;
	addr_t other[2];
	pthread_t t;
	u64 v = 0;

	runtime_self_frame(&f);
	ck_assert_uint_eq(((struct thread_rec *)f.rec)->tid, gettid());
	ck_assert_uint_eq(f.site, (addr_t)runtime_self_site());
	ck_assert_uint_eq(runtime_helper(BPF_FUNC_get_current_pid_tgid)(0, 0, 0, 0, 0, &f),
			  (u64)getpid() << 32 | (u32)gettid());
	ck_assert_uint_eq(runtime_helper(BPF_FUNC_probe_read)((u64)&v, 8, (u64)setup, 0, 0, &f), 0);
	ck_assert_int_eq(memcmp(&v, (void *)setup, 8), 0);
	for (int i = 0; i < 2; i++) {
		pthread_create(&t, NULL, self_thread, &other[i]);
		pthread_join(t, NULL);
		ck_assert_uint_ne(other[i], f.rec);
		ck_assert_uint_eq(((struct thread_rec *)other[i])->tid, 0); /* given back */
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("runtime");
	TCase *tc = tcase_create("runtime");

	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, blob_is_complete);
	tcase_add_test(tc, prototypes_are_whole);
	tcase_add_loop_test(tc, clocks, NATIVE, WAYS);
	tcase_add_loop_test(tc, clock_by_tsc, NATIVE, WAYS);
	tcase_add_loop_test(tc, clock_in_doubt, NATIVE, WAYS);
	tcase_add_loop_test(tc, clock_abandoned, NATIVE, WAYS);
	tcase_add_loop_test(tc, identity, NATIVE, WAYS);
	tcase_add_loop_test(tc, name, NATIVE, WAYS);
	tcase_add_loop_test(tc, name_is_kept, NATIVE, WAYS);
	tcase_add_loop_test(tc, random_numbers, NATIVE, WAYS);
	tcase_add_loop_test(tc, map_operations, NATIVE, WAYS);
	tcase_add_loop_test(tc, queue_operations, NATIVE, WAYS);
	tcase_add_loop_test(tc, per_cpu_claims, NATIVE, WAYS);
	tcase_add_loop_test(tc, reads_that_work, NATIVE, WAYS);
	tcase_add_loop_test(tc, reads_that_fail, NATIVE, WAYS);
	tcase_add_loop_test(tc, reads_of_nothing, NATIVE, WAYS);
	tcase_add_loop_test(tc, denied_calls_are_not_made, NATIVE, WAYS);
	tcase_add_loop_test(tc, own_stack_is_read_directly, NATIVE, WAYS);
	tcase_add_loop_test(tc, segments_are_read_directly, NATIVE, WAYS);
	tcase_add_loop_test(tc, strings, NATIVE, WAYS);
	tcase_add_loop_test(tc, writes, NATIVE, WAYS);
	tcase_add_loop_test(tc, records_are_found_and_claimed, NATIVE, WAYS);
	tcase_add_loop_test(tc, full_neighbourhood_overflows, NATIVE, WAYS);
	tcase_add_loop_test(tc, records_of_the_dead_are_inherited, NATIVE, WAYS);
	tcase_add_loop_test(tc, owners_are_distinct, NATIVE, WAYS);
	tcase_add_test(tc, threads_claim_at_once);
	tcase_add_loop_test(tc, formats, NATIVE, WAYS);
	tcase_add_loop_test(tc, formats_refused, NATIVE, WAYS);
	tcase_add_loop_test(tc, long_lines_are_cut, NATIVE, WAYS);
	tcase_add_loop_test(tc, overwritten_lines_are_missed, NATIVE, WAYS);
	tcase_add_loop_test(tc, torn_slots, NATIVE, WAYS);
	tcase_add_test(tc, hostile_ring);
	tcase_add_test(tc, many_writers);
	tcase_add_test(tc, self);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
