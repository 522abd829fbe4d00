/* SPDX-License-Identifier: MIT */
/*
 * The host's side of the runtime: the blob and where its functions are, the
 * same functions for programs that run in this process (interpreter,
 * libbpfvm) with the env that they need, and the reader of trace rings.
 */
#include "vm/runtime.h"

#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "vm/helpers.h"
#include "vm/jit.h"
#include "vm/runtime/rt.h"
#include "vm/runtime/runtime_blob.h" /* generated */
#include "vm/runtime/trap_blob.h"    /* too */

const struct runtime_blob *runtime_blob(void)
{
	static const struct runtime_blob blob = { blob_bytes, sizeof(blob_bytes) };

	return &blob;
}

u32 runtime_thread_rec_off(void)
{
	return BLOB_OFF_thread_rec_slow;
}

u32 runtime_cell_take_off(void)
{
	return BLOB_OFF_rt_cell_take;
}

u32 runtime_guard_off(enum runtime_guard guard)
{
	static const u32 offs[GUARDS] = {
		[GUARD_UNWIND] = BLOB_OFF_rt_guard_unwind,
		[GUARD_REARM] = BLOB_OFF_rt_guard_rearm,
		[GUARD_TOP] = BLOB_OFF_rt_guard_top,
		[GUARD_IDENTITY] = BLOB_OFF_rt_guard_identity,
	};

	return offs[guard];
}

const struct runtime_trap *runtime_trap(void)
{
	static const struct runtime_trap trap = { { trap_bytes, sizeof(trap_bytes) }, TRAP_OFF_rt_trap_enter,
						  TRAP_OFF_rt_trap_return, TRAP_OFF_rt_guard_signals };

	return &trap;
}

/* A function of the runtime, in the blob and here. */
struct function {
	u32 off;
	helper_fn fn;
};
#define FUNCTION(name) { BLOB_OFF_rt_##name, rt_##name }

static struct function function(u32 id)
{
	static const struct function helpers[HELPER_MAX_ID + 1] = {
#define X(nr, name, ...) [nr] = FUNCTION(name),
#include "vm/helpers.def"
#undef X
	};
	static const struct function own[] = {
		[VM_RT_CLAIM - VM_RT_FIRST] = FUNCTION(prog_claim),
		[VM_RT_RELEASE - VM_RT_FIRST] = FUNCTION(prog_release),
		[VM_RT_HASH_LOOKUP_4 - VM_RT_FIRST] = FUNCTION(hash_lookup_4),
		[VM_RT_HASH_LOOKUP_8 - VM_RT_FIRST] = FUNCTION(hash_lookup_8),
		[VM_RT_PERCPU_LOOKUP_4 - VM_RT_FIRST] = FUNCTION(percpu_lookup_4),
		[VM_RT_PERCPU_LOOKUP_8 - VM_RT_FIRST] = FUNCTION(percpu_lookup_8),
		[VM_RT_SIGNAL - VM_RT_FIRST] = FUNCTION(prog_signal),
	};

	if (id - VM_RT_FIRST < ARRAY_SIZE(own))
		return own[id - VM_RT_FIRST];
	return id <= HELPER_MAX_ID ? helpers[id] : (struct function){ 0, NULL };
}

u32 runtime_helper_off(u32 id)
{
	return function(id).off;
}

helper_fn runtime_helper(u32 id)
{
	return function(id).fn;
}

/*
 * This process as a target of itself.
 */

#define CPUID_INVARIANT_TSC (1u << 8) /* leaf 0x80000007, edx */

#define SELF_NRECS THREAD_RECS_DEFAULT

/* Not allocated, so that no program can be without a record. */
static u8 self_table[THREAD_TABLE_SIZE(SELF_NRECS)] __attribute__((aligned(4096)));
static struct target_env self_env;
static struct site_data self_site = { .env = (addr_t)&self_env };
static pthread_once_t self_once = PTHREAD_ONCE_INIT;
static pthread_key_t self_key;
/* initial-exec: one load instead of a call, also in a shared library. */
static __thread struct thread_rec *self_rec __attribute__((tls_model("initial-exec")));

/* glibc's registration of rseq (sys/rseq.h, since 2.35), where there is one. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

static void *pages(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* Images that cannot be unloaded. */
static bool stays_loaded(const struct dl_phdr_info *info)
{
	const char *base = strrchr(info->dlpi_name, '/');

	base = base ? base + 1 : info->dlpi_name;
	return !*base || !strcmp(base, "libc.so.6") || !strncmp(base, "ld-linux", 8) || !strncmp(base, "ld-musl", 7);
}

static int add_segments(struct dl_phdr_info *info, size_t size, void *arg)
{
	if (!stays_loaded(info) || info->dlpi_addr == getauxval(AT_SYSINFO_EHDR))
		return 0;
	for (u32 i = 0; i < info->dlpi_phnum && self_env.nsegments < TARGET_SEGMENTS; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		u64 lo = ALIGN_DOWN(info->dlpi_addr + ph->p_vaddr, PAGE);
		u64 hi = ALIGN_UP(info->dlpi_addr + ph->p_vaddr + ph->p_memsz, PAGE);
		u64 prot = (ph->p_flags & PF_R ? PROT_READ : 0);

		if (ph->p_type != PT_LOAD || !prot)
			continue;
		/* Never PROT_WRITE: parts may be read-only after relocation. */
		self_env.segments[self_env.nsegments].lo = lo;
		self_env.segments[self_env.nsegments].hi = hi;
		self_env.segments[self_env.nsegments++].prot = prot;
	}
	return 0;
}

/* The offset from the thread pointer at which libc keeps the tid: tried where
 * glibc and musl have it, believed when it is there. */
static s64 find_tid_off(void)
{
	static const s64 candidates[] = { 0x2d0, 0x30 };
	u32 tid = (u32)syscall(SYS_gettid);

	for (size_t i = 0; i < ARRAY_SIZE(candidates); i++)
		if (rt_fs_u32(candidates[i]) == tid)
			return candidates[i];
	return 0;
}

static void release_rec(void *p)
{
	struct thread_rec *rec = p;

	rec->stack_lo = rec->stack_hi = 0;
	self_rec = NULL;
	__atomic_store_n(&rec->tid, 0, __ATOMIC_RELEASE);
}

/* A child's only thread has the record of the one that forked, under a number
 * that is not its own. */
static void after_fork(void)
{
	if (self_rec)
		self_rec->tid = (u32)syscall(SYS_gettid);
}

/* The kernel checks the TSC all its life and turns to another clock when it does
 * not trust it; that it is invariant the CPU says. */
bool runtime_tsc_is_clock(void)
{
	static const char *const by_tsc[] = { "tsc", "kvm-clock", "hyperv_clocksource_tsc_page" };
	cleanup_close int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
				    O_RDONLY | O_CLOEXEC);
	u32 a, b, c, d;
	char name[64];
	ssize_t n;

	if (fd < 0 || !__get_cpuid(0x80000007, &a, &b, &c, &d) || !(d & CPUID_INVARIANT_TSC))
		return false;
	n = read(fd, name, sizeof(name) - 1);
	if (n <= 0)
		return false;
	name[n] = 0;
	name[strcspn(name, "\n")] = 0;
	for (size_t i = 0; i < ARRAY_SIZE(by_tsc); i++)
		if (!strcmp(name, by_tsc[i]))
			return true;
	return false;
}

/* The kernel's ticks now: what it shows to root. Others take it that none was lost
 * since it started, five minutes before they would wrap in 32 bits. */
static u64 ticks_now(u32 tick_ns, u64 coarse_ns)
{
	cleanup_fclose FILE *f = fopen("/proc/timer_list", "re");
	unsigned long long ticks;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "jiffies: %llu", &ticks) == 1)
			return ticks;
	return (1ull << 32) - 300 * (1000000000ull / tick_ns) + coarse_ns / tick_ns;
}

static u64 clock_now(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (u64)ts.tv_sec * 1000000000ull + (u64)ts.tv_nsec;
}

void runtime_tick(struct target_env *env)
{
	u64 now = clock_now(CLOCK_MONOTONIC_COARSE);
	struct timespec t;

	if (clock_getres(CLOCK_MONOTONIC_COARSE, &t) || t.tv_sec || !t.tv_nsec)
		return;
	env->tick_ns = (u32)t.tv_nsec;
	env->jiffies = ticks_now(env->tick_ns, now) - now / env->tick_ns;
}

void runtime_pidns(pid_t pid, struct target_env *env)
{
	char path[48] = "/proc/self/ns/pid";
	struct stat st;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	if (stat(path, &st))
		return;
	env->pidns_dev = st.st_dev;
	env->pidns_ino = st.st_ino;
}

static void self_init(void)
{
	struct target_private *priv = pages(PAGE);
	struct thread_table *table = (struct thread_table *)self_table;
	void *vdso = NULL;

	if (priv)
		madvise(priv, PAGE, MADV_WIPEONFORK);
	table->magic = THREAD_TABLE_MAGIC;
	table->version = TARGET_ABI_VERSION;
	table->nrecs = SELF_NRECS;
	vdso = dlsym(RTLD_DEFAULT, "clock_gettime");
	self_env.version = TARGET_ABI_VERSION;
	self_env.tid_off = find_tid_off();
	if (&__rseq_size && __rseq_size)
		self_env.rseq_off = __rseq_offset;
	self_env.nrecs = SELF_NRECS;
	self_env.ncpus = (u32)sysconf(_SC_NPROCESSORS_CONF);
	self_env.threads = (addr_t)table;
	self_env.private_ = (addr_t)priv;
	self_env.vdso_clock_gettime = (addr_t)vdso;
	self_env.tsc_clock = runtime_tsc_is_clock();
	runtime_tick(&self_env);
	runtime_pidns(0, &self_env);
	dl_iterate_phdr(add_segments, NULL);
	pthread_key_create(&self_key, release_rec);
	pthread_atfork(NULL, NULL, after_fork);
}

const struct site_data *runtime_self_site(void)
{
	pthread_once(&self_once, self_init);
	return &self_site;
}

static bool is_overflow(const struct thread_rec *rec)
{
	return rec == (struct thread_rec *)(self_env.threads + THREAD_RECS_OFF) + SELF_NRECS;
}

/* The whole stack of this thread stays mapped while it runs. */
static void note_stack(struct thread_rec *rec)
{
	pthread_attr_t attr;
	size_t size, guard;
	void *lo;

	if (pthread_getattr_np(pthread_self(), &attr))
		return;
	if (!pthread_attr_getstack(&attr, &lo, &size) && !pthread_attr_getguardsize(&attr, &guard)) {
		rec->stack_lo = (u64)lo;
		rec->stack_hi = (u64)lo + size;
	}
	pthread_attr_destroy(&attr);
}

static struct thread_rec *claim_self_rec(void)
{
	struct thread_rec *rec;

	runtime_self_site();
	rec = thread_rec_slow(&self_env);
	if (is_overflow(rec))
		return rec;
	note_stack(rec);
	self_rec = rec;
	pthread_setspecific(self_key, rec);
	return rec;
}

void runtime_self_frame(struct hook_frame *frame)
{
	struct thread_rec *rec = self_rec;

	if (__builtin_expect(!rec, 0))
		rec = claim_self_rec();
	frame->site = (addr_t)&self_site;
	frame->rec = (addr_t)rec;
	frame->slot = HOOK_NO_SLOT;
	frame->tail_calls = 0;
	frame->signal = 0;
	frame->override = 0;
}

/*
 * Reading a trace ring, which its writers may scribble over.
 */

size_t trace_ring_size(void)
{
	return sizeof(struct trace_ring);
}

void trace_ring_format(struct trace_ring *ring)
{
	memset(ring, 0, sizeof(*ring));
	ring->magic = TRACE_RING_MAGIC;
}

/* What may go to a terminal: control characters become '?', but for the tab and
 * a final newline. */
static void clean_text(char *dst, size_t cap, const char *src, size_t len)
{
	size_t n = 0;

	if (len > cap - 1)
		len = cap - 1;
	for (; n < len && src[n]; n++) {
		unsigned char c = (unsigned char)src[n];

		dst[n] = c < ' ' && c != '\t' && c != '\n' ? '?' : c == 0x7f ? '?' : (char)c;
	}
	memset(dst + n, 0, cap - n);
}

enum slot_state { SLOT_TAKEN, SLOT_UNFINISHED, SLOT_LOST };

/* Copies the slot of TICKET if it holds that line, whole. */
static enum slot_state read_slot(const struct trace_ring *ring, u64 ticket, struct trace_slot *ret)
{
	const struct trace_slot *s = &ring->slot[ticket % TRACE_SLOTS];
	u64 want = 2 * ticket + 2;
	u64 seq = __atomic_load_n(&s->seq, __ATOMIC_ACQUIRE);

	if (seq != want)
		return seq > want ? SLOT_LOST : SLOT_UNFINISHED;
	for (size_t i = 0; i < sizeof(*s) / 8; i++)
		((u64 *)ret)[i] = __atomic_load_n((const u64 *)s + i, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&s->seq, __ATOMIC_RELAXED) != want || ret->sum != trace_slot_sum(ret, ticket))
		return SLOT_LOST;
	return SLOT_TAKEN;
}

/* Whether to give up waiting for TICKET: half a lap has gone by, or a later line
 * has been complete for a while. */
static bool given_up(const struct trace_ring *ring, u64 ticket, u64 head)
{
	u64 now = clock_now(CLOCK_MONOTONIC);
	struct trace_slot later;

	if (head - ticket > TRACE_SLOTS / 2)
		return true;
	for (u64 t = ticket + 1; t < head; t++)
		if (read_slot(ring, t, &later) == SLOT_TAKEN && later.ts_ns + TRACE_GRACE_NS < now)
			return true;
	return false;
}

static void line_from_slot(const struct trace_slot *s, struct trace_line *ret)
{
	*ret = (struct trace_line){ .ts_ns = s->ts_ns, .pid = s->pid, .tid = s->tid, .cpu = s->cpu };
	clean_text(ret->comm, sizeof(ret->comm), s->comm, sizeof(s->comm));
	clean_text(ret->text, sizeof(ret->text), s->text, s->len);
}

int trace_ring_next(const struct trace_ring *ring, u64 *cursor, struct trace_line *ret, u64 *missed)
{
	u64 head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
	struct trace_slot slot;

	/* A head that went back, or that no counting could have reached, is the
	 * target's doing: start again there. */
	if (head < *cursor || head > UINT64_MAX / 4) {
		*cursor = head > UINT64_MAX / 4 ? *cursor : head;
		return 0;
	}
	if (head - *cursor > TRACE_SLOTS) {
		*missed += head - TRACE_SLOTS - *cursor;
		*cursor = head - TRACE_SLOTS;
	}
	for (; *cursor < head; ++*cursor, ++*missed) {
		enum slot_state state = read_slot(ring, *cursor, &slot);

		if (state == SLOT_TAKEN) {
			++*cursor;
			line_from_slot(&slot, ret);
			return 1;
		}
		if (state == SLOT_UNFINISHED && !given_up(ring, *cursor, head))
			return 0;
	}
	return 0;
}
