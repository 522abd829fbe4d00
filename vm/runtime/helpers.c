/* SPDX-License-Identifier: MIT */
/*
 * The helpers, as programs call them: thin shells over maps, thread.c and
 * memory.c with the kernel's results (bpf-helpers(7)). Every function here is in
 * vm/helpers.def.
 */
#include <asm/unistd.h>
#include <linux/bpf.h>

#include "vm/runtime/rt.h"

#define CLOCK_MONOTONIC_COARSE_NR 6
#define CLOCK_BOOTTIME_NR 7
#define CLOCK_TAI_NR 11

static inline struct umap_ctx map_ctx(const struct hook_frame *frame)
{
	struct thread_rec *rec = rt_rec(frame);

	return (struct umap_ctx){ .rec = rec, .owner = rt_owner(rt_env(frame), rec), .slot = (u32)frame->slot };
}

/* A per-CPU map needs a claimed copy; the slot comes from the target's stack. */
static inline bool slot_ok(const struct umap *m, const struct umap_ctx *cx)
{
	return m->nslots <= 1 || cx->slot < m->nslots;
}

RT_HELPER(map_lookup_elem)
{
	const struct umap *m = (const struct umap *)r1;
	struct umap_ctx cx = map_ctx(frame);

	return slot_ok(m, &cx) ? (u64)umap_lookup(m, (const void *)r2, &cx) : 0;
}

static void *lookup_slowly(const struct umap *m, const void *key, void *frame)
{
	struct umap_ctx cx = map_ctx(frame);

	return umap_lookup(m, key, &cx);
}

RT_HELPER(hash_lookup_4)
{
	return (u64)umap_hash_lookup_4((const struct umap *)r1, (const void *)r2, frame, lookup_slowly);
}

RT_HELPER(hash_lookup_8)
{
	return (u64)umap_hash_lookup_8((const struct umap *)r1, (const void *)r2, frame, lookup_slowly);
}

/* (The slot is as far as slot_ok() asks.) */
RT_HELPER(percpu_lookup_4)
{
	const struct umap *m = (const struct umap *)r1;
	u32 slot = (u32)frame->slot;

	return slot < m->nslots ? (u64)umap_percpu_lookup_4(m, (const void *)r2, slot, frame, lookup_slowly) : 0;
}

RT_HELPER(percpu_lookup_8)
{
	const struct umap *m = (const struct umap *)r1;
	u32 slot = (u32)frame->slot;

	return slot < m->nslots ? (u64)umap_percpu_lookup_8(m, (const void *)r2, slot, frame, lookup_slowly) : 0;
}

RT_HELPER(map_update_elem)
{
	const struct umap *m = (const struct umap *)r1;
	struct umap_ctx cx = map_ctx(frame);

	if (!slot_ok(m, &cx))
		return (u64)-EBUSY;
	return (u64)umap_update(m, (const void *)r2, (const void *)r3, r4, &cx);
}

RT_HELPER(map_delete_elem)
{
	const struct umap *m = (const struct umap *)r1;
	struct umap_ctx cx = map_ctx(frame);

	return (u64)umap_delete(m, (const void *)r2, &cx);
}

/* What runs in spare slots is not seen: only who adds all copies up, from outside,
 * has the whole. */
RT_HELPER(map_lookup_percpu_elem)
{
	const struct umap *m = (const struct umap *)r1;
	struct umap_ctx cx = map_ctx(frame);

	cx.slot = (u32)r3;
	return (u32)r3 < m->ncpus ? (u64)umap_lookup(m, (const void *)r2, &cx) : 0;
}

RT_HELPER(map_push_elem)
{
	struct umap_ctx cx = map_ctx(frame);

	return (u64)umap_push((const struct umap *)r1, (const void *)r2, r3, &cx);
}

RT_HELPER(map_pop_elem)
{
	struct umap_ctx cx = map_ctx(frame);

	return (u64)umap_pop((const struct umap *)r1, (void *)r2, &cx);
}

RT_HELPER(map_peek_elem)
{
	struct umap_ctx cx = map_ctx(frame);

	return (u64)umap_peek((const struct umap *)r1, (void *)r2, &cx);
}

/* Other than 0: whoever runs the program ends it here. */
RT_HELPER(spin_lock)
{
	struct umap_ctx cx = map_ctx(frame);

	if (__builtin_expect(umap_spin_lock((void *)r1, &cx), 1))
		return 0;
	cx.rec->missed++;
	return 1;
}

RT_HELPER(spin_unlock)
{
	struct umap_ctx cx = map_ctx(frame);

	umap_spin_unlock((void *)r1, &cx);
	return 0;
}

/* A thread's record stands for its task_struct: a program can only hand it on. */
RT_HELPER(get_current_task_btf)
{
	return (u64)rt_rec(frame);
}

RT_HELPER(task_storage_get)
{
	const struct umap *m = (const struct umap *)r1;
	struct umap_ctx cx = map_ctx(frame);

	if (!r2 || r4 & ~(u64)BPF_LOCAL_STORAGE_GET_F_CREATE)
		return 0;
	return (u64)umap_task_get(m, __atomic_load_n(&cx.rec->tid, __ATOMIC_RELAXED), (const void *)r3, r4, &cx);
}

RT_HELPER(task_storage_delete)
{
	struct umap_ctx cx = map_ctx(frame);

	return r2 ? (u64)umap_task_delete((const struct umap *)r1, __atomic_load_n(&cx.rec->tid, __ATOMIC_RELAXED), &cx) : (u64)-EINVAL;
}

/* Says where to go on, or 0. Whoever runs the program goes there; it also set the
 * count to 0 when the run began. */
RT_HELPER(tail_call)
{
	u64 next = frame->tail_calls < RT_TAIL_CALLS ? umap_prog((const struct umap *)r2, (u32)r3) : 0;

	if (next)
		frame->tail_calls++;
	return next;
}

RT_HELPER(prog_claim)
{
	const struct site_data *site = rt_site(frame);
	const struct target_env *env = rt_env(frame);
	struct thread_rec *rec = rt_rec(frame);
	void *rseq = env->rseq_off ? (void *)(rt_thread_pointer() + (u64)env->rseq_off) : NULL;
	u64 slot = HOOK_NO_SLOT;

	if (site->claims)
		slot = umap_claim((struct umap_claims *)site->claims, env->ncpus, rt_owner(env, rec), rseq);
	frame->slot = slot;
	if (slot == HOOK_NO_SLOT)
		rec->missed++;
	return slot;
}

RT_HELPER(prog_release)
{
	const struct site_data *site = rt_site(frame);

	if (frame->slot < site->nclaims)
		umap_release((struct umap_claims *)site->claims, frame->slot);
	frame->slot = HOOK_NO_SLOT;
	return 0;
}

/*
 * Signals are sent when the program has ended, so that a handler, or a stop, does not
 * come while it holds anything. One that is pending when another is wanted goes out at
 * once. The kernel is asked who we are: what is cached is wrong in a vfork child.
 */

#define SIGNALS 64u

RT_HELPER(prog_signal)
{
	const struct target_env *env = rt_env(frame);
	u32 what = frame->signal, sig = what & (HOOK_SIGNAL_THREAD - 1);
	long pid, tid;

	frame->signal = 0;
	if (!sig)
		return 0;
	pid = rt_call(env, TARGET_CALL_PID, __NR_getpid, 0, 0, 0, 0, 0, 0);
	tid = rt_call(env, TARGET_CALL_TID, __NR_gettid, 0, 0, 0, 0, 0, 0);
	if (pid <= 0 || tid <= 0)
		return 0;
	if (what & HOOK_SIGNAL_THREAD)
		rt_call(env, TARGET_CALL_SIGNAL, __NR_tgkill, (u64)pid, (u64)tid, sig, 0, 0, 0);
	else
		rt_call(env, TARGET_CALL_SIGNAL, __NR_kill, (u64)pid, sig, 0, 0, 0, 0);
	return 0;
}

static long send_later(struct hook_frame *frame, u32 sig, u32 how)
{
	if (sig > SIGNALS)
		return -EINVAL;
	if (rt_env(frame)->denied & (TARGET_CALL_SIGNAL | TARGET_CALL_PID | TARGET_CALL_TID))
		return -EPERM;
	if (!sig)
		return 0;
	rt_prog_signal(0, 0, 0, 0, 0, frame);
	frame->signal = (u16)(sig | how);
	return 0;
}

RT_HELPER(send_signal)
{
	return (u64)send_later(frame, (u32)r1, 0);
}

RT_HELPER(send_signal_thread)
{
	return (u64)send_later(frame, (u32)r1, HOOK_SIGNAL_THREAD);
}

/* Whoever made the hit looks at it when its programs have ended. */
RT_HELPER(override_return)
{
	frame->regs.ax = r2;
	frame->override = 1;
	return 0;
}

#define LOOPS_MAX (1u << 23)

RT_HELPER(loop)
{
	rt_callback *fn = (rt_callback *)r2;
	u32 n = (u32)r1;

	if (r4)
		return (u64)-EINVAL;
	if (n > LOOPS_MAX)
		return (u64)-E2BIG;
	for (u32 i = 0; i < n; i++)
		if (fn(i, r3, 0, 0, 0, frame))
			return i + 1;
	return n;
}

struct each {
	const struct umap *map;
	rt_callback *fn;
	u64 arg;
	struct hook_frame *frame;
};

static long each_visit(void *arg, const void *key, void *value)
{
	const struct each *each = arg;

	return (long)each->fn((u64)each->map, (u64)key, (u64)value, each->arg, 0, each->frame);
}

RT_HELPER(for_each_map_elem)
{
	struct each each = { .map = (const struct umap *)r1, .fn = (rt_callback *)r2, .arg = r3, .frame = frame };
	struct umap_ctx cx = map_ctx(frame);

	if (r4)
		return (u64)-EINVAL;
	if (!slot_ok(each.map, &cx))
		return (u64)-EBUSY;
	return (u64)umap_for_each(each.map, each_visit, &each, &cx);
}

/* The kernel has one helper for each kind of memory. A target has one kind. */
RT_HELPER(probe_read)
{
	return (u64)rt_read((void *)r1, r3, (u32)r2, frame);
}

RT_HELPER(probe_read_user)
{
	return (u64)rt_read((void *)r1, r3, (u32)r2, frame);
}

RT_HELPER(probe_read_kernel)
{
	return (u64)rt_read((void *)r1, r3, (u32)r2, frame);
}

RT_HELPER(probe_read_str)
{
	return (u64)rt_read_str((char *)r1, r3, (u32)r2, frame);
}

RT_HELPER(probe_read_user_str)
{
	return (u64)rt_read_str((char *)r1, r3, (u32)r2, frame);
}

RT_HELPER(probe_read_kernel_str)
{
	return (u64)rt_read_str((char *)r1, r3, (u32)r2, frame);
}

/* It may wait for a page to be brought in, as the others do here, too. */
RT_HELPER(copy_from_user)
{
	return (u64)rt_read((void *)r1, r3, (u32)r2, frame);
}

RT_HELPER(probe_write_user)
{
	return (u64)rt_write(r1, (const void *)r2, (u32)r3, frame);
}

#define LOW_BITS 0x0101010101010101ull
#define HIGH_BITS 0x8080808080808080ull

static inline bool has_zero_byte(u64 v)
{
	return (v - LOW_BITS) & ~v & HIGH_BITS;
}

/* Eight bytes from ADDR are in its page. */
static inline bool in_one_page(u64 addr)
{
	return (addr & (PAGE - 1)) <= PAGE - 8;
}

/* By words as long as nothing differs or ends. The second string ends where the
 * verifier saw it end; what lies behind in the same page is looked at, but decides
 * nothing. */
RT_NO_SANITIZE RT_HELPER(strncmp)
{
	typedef u64 __attribute__((aligned(1), may_alias)) u64u;
	u64 a = r1, b = r3, n = (u32)r2;

	while (n >= 8 && in_one_page(b)) {
		u64 word = *(const u64u *)a;

		if (word != *(const u64u *)b || has_zero_byte(word))
			break;
		a += 8;
		b += 8;
		n -= 8;
	}
	for (; n; n--, a++, b++) {
		u8 x = *(const u8 *)a, y = *(const u8 *)b;

		if (x != y)
			return x < y ? (u64)-1 : 1;
		if (!x)
			return 0;
	}
	return 0;
}

RT_HELPER(ktime_get_ns)
{
	return rt_monotonic_ns(rt_env(frame));
}

RT_HELPER(ktime_get_boot_ns)
{
	return rt_clock_ns(rt_env(frame), CLOCK_BOOTTIME_NR);
}

RT_HELPER(ktime_get_coarse_ns)
{
	return rt_clock_ns(rt_env(frame), CLOCK_MONOTONIC_COARSE_NR);
}

RT_HELPER(ktime_get_tai_ns)
{
	return rt_clock_ns(rt_env(frame), CLOCK_TAI_NR);
}

RT_HELPER(jiffies64)
{
	const struct target_env *env = rt_env(frame);

	return env->tick_ns ? env->jiffies + rt_clock_ns(env, CLOCK_MONOTONIC_COARSE_NR) / env->tick_ns : 0;
}

static u64 random_seed(const struct thread_rec *rec)
{
	u32 lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return ((u64)hi << 32 | lo) ^ (u64)rec ^ (u64)rec->tid << 32;
}

/* splitmix64, a state for each thread */
RT_HELPER(get_prandom_u32)
{
	struct thread_rec *rec = rt_rec(frame);
	u64 z = rec->random ? rec->random : random_seed(rec);

	z += 0x9e3779b97f4a7c15ull;
	rec->random = z ? z : 1;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (u32)((z ^ z >> 31) >> 32);
}

RT_HELPER(get_smp_processor_id)
{
	return rt_cpu(rt_env(frame));
}

RT_HELPER(get_current_pid_tgid)
{
	const struct target_env *env = rt_env(frame);

	return (u64)rt_tgid(env) << 32 | rt_tid(env);
}

/* As the kernel: it answers only if (dev, inode) is the namespace that the process
 * itself is in. */
RT_HELPER(get_ns_current_pid_tgid)
{
	const struct target_env *env = rt_env(frame);
	struct {
		u32 pid, tgid; /* struct bpf_pidns_info */
	} *to = (void *)r3;

	if ((u32)r4 == sizeof(*to) && env->pidns_ino && r1 == env->pidns_dev && r2 == env->pidns_ino) {
		to->pid = rt_tid(env);
		to->tgid = rt_tgid(env);
		return 0;
	}
	rt_zero((void *)r3, (u32)r4);
	return (u64)-EINVAL;
}

RT_HELPER(get_current_uid_gid)
{
	return rt_uid_gid(frame);
}

RT_HELPER(get_current_comm)
{
	u32 size = (u32)r2;
	u64 comm[2];

	if (!r1 || !size)
		return (u64)-EINVAL;
	rt_comm(frame, (char *)comm);
	if (size >= sizeof(comm)) {
		typedef u64 __attribute__((aligned(1), may_alias)) u64u;

		((u64u *)r1)[0] = comm[0];
		((u64u *)r1)[1] = comm[1];
		if (size > sizeof(comm))
			rt_zero((char *)r1 + sizeof(comm), size - sizeof(comm));
		return 0;
	}
	rt_copy((void *)r1, comm, size);
	((char *)r1)[size - 1] = 0;
	return 0;
}

RT_HELPER(get_func_ip)
{
	return rt_site(frame)->func_ip;
}

RT_HELPER(get_attach_cookie)
{
	return rt_site(frame)->cookie;
}
