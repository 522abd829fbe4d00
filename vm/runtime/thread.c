/* SPDX-License-Identifier: MIT */
/*
 * Who and where the calling thread is: its record in the thread table, tid,
 * tgid, CPU, clock and name, each by the cheapest way that the target offers.
 */
#include <asm/unistd.h>

#include "vm/runtime/rt.h"

#define PR_GET_NAME_NR 16
#define CLOCK_MONOTONIC_COARSE_NR 6

u32 rt_tid(const struct target_env *env)
{
	u32 tid = env->tid_off ? rt_fs_u32(env->tid_off) : 0;
	long asked;

	if (tid)
		return tid;
	/* a thread that its libc has not yet (or no longer) numbered */
	asked = rt_call(env, TARGET_CALL_TID, __NR_gettid, 0, 0, 0, 0, 0, 0);
	return asked > 0 ? (u32)asked : 0;
}

u32 rt_tgid(const struct target_env *env)
{
	struct target_private *p = (struct target_private *)env->private_;
	u32 tgid = p ? __atomic_load_n(&p->tgid, __ATOMIC_RELAXED) : 0;
	long asked;

	if (__builtin_expect(tgid != 0, 1))
		return tgid;
	asked = rt_call(env, TARGET_CALL_PID, __NR_getpid, 0, 0, 0, 0, 0, 0);
	tgid = asked > 0 ? (u32)asked : 0;
	if (p)
		__atomic_store_n(&p->tgid, tgid, __ATOMIC_RELAXED);
	return tgid;
}

u32 rt_cpu(const struct target_env *env)
{
	u32 cpu = ~0u;

	if (env->rseq_off) {
		cpu = rt_fs_u32(env->rseq_off + 4); /* struct rseq: cpu_id, negative when unregistered */
		if ((s32)cpu >= 0)
			return cpu;
	}
	if (rt_call(env, TARGET_CALL_CPU, __NR_getcpu, (u64)&cpu, 0, 0, 0, 0, 0))
		return 0;
	return cpu;
}

u64 rt_clock_ns(const struct target_env *env, int clock)
{
	int (*vdso)(int, s64 *) = (int (*)(int, s64 *))env->vdso_clock_gettime;
	s64 ts[2] = { 0, 0 };

	if (!vdso || vdso(clock, ts))
		rt_call(env, TARGET_CALL_CLOCK, __NR_clock_gettime, (u64)clock, (u64)ts, 0, 0, 0, 0);
	return (u64)ts[0] * 1000000000ull + (u64)ts[1];
}

/*
 * A thread's name and ids are the kernel's, and are asked for once in a tick of its
 * coarse clock, which the vDSO shows. The process's own calls that change them are
 * counted before they are made (rt_guard_identity(), a hook at prctl and setuid and
 * their kind; without these hooks nothing is kept). So what a thread changes itself
 * is seen at once, and what others change within a tick.
 */

struct moment {
	struct thread_identity *at; /* NULL: nothing is kept */
	u64 tick;
	u32 tid, renamed;
};

static struct moment moment_now(const struct hook_frame *frame)
{
	const struct target_env *env = rt_env(frame);
	struct target_private *p = (struct target_private *)env->private_;
	const struct thread_rec *rec;
	struct moment now = { .at = NULL };
	u64 no;

	if (!env->identity || !p || !env->vdso_clock_gettime)
		return now;
	rec = rt_rec(frame);
	no = ((u64)rec - env->threads - THREAD_RECS_OFF) / sizeof(*rec);
	if (no >= env->nrecs)
		return now; /* a record that many share */
	now.tid = rec->tid;
	now.renamed = __atomic_load_n(&p->renamed, __ATOMIC_RELAXED);
	now.tick = rt_clock_ns(env, CLOCK_MONOTONIC_COARSE_NR);
	now.at = (struct thread_identity *)(env->private_ + TARGET_IDENTITY_OFF) + no;
	return now;
}

/* Whether what is kept holds now; *seq is to be the same once it is read. */
static bool identity_holds(const struct moment *now, u32 what, u32 *seq)
{
	const struct thread_identity *id = now->at;

	*seq = __atomic_load_n(&id->seq, __ATOMIC_ACQUIRE);
	return !(*seq & 1) && id->have & what && id->tid == now->tid && id->renamed == now->renamed &&
	       id->tick == now->tick;
}

static bool identity_same(const struct moment *now, u32 seq)
{
	__atomic_signal_fence(__ATOMIC_ACQ_REL);
	return __atomic_load_n(&now->at->seq, __ATOMIC_RELAXED) == seq;
}

/* false: we have interrupted somebody who is writing. */
static bool identity_begin(const struct moment *now)
{
	struct thread_identity *id = now->at;

	if (!id || id->seq & 1)
		return false;
	__atomic_store_n(&id->seq, id->seq + 1, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_ACQ_REL);
	if (id->tid != now->tid || id->renamed != now->renamed || id->tick != now->tick)
		id->have = 0;
	id->tid = now->tid;
	id->renamed = now->renamed;
	id->tick = now->tick;
	return true;
}

static void identity_end(const struct moment *now, u32 what)
{
	now->at->have |= what;
	__atomic_signal_fence(__ATOMIC_ACQ_REL);
	__atomic_store_n(&now->at->seq, now->at->seq + 1, __ATOMIC_RELAXED);
}

void rt_comm(const struct hook_frame *frame, char comm[16])
{
	const struct target_env *env = rt_env(frame);
	struct moment now = moment_now(frame);
	u64 *words = (u64 *)comm;
	u32 seq;

	if (now.at && identity_holds(&now, IDENTITY_COMM, &seq)) {
		words[0] = now.at->comm[0];
		words[1] = now.at->comm[1];
		if (identity_same(&now, seq))
			return;
	}
	words[0] = words[1] = 0;
	rt_call(env, TARGET_CALL_NAME, __NR_prctl, PR_GET_NAME_NR, (u64)comm, 0, 0, 0, 0);
	comm[15] = 0;
	if (!identity_begin(&now))
		return;
	now.at->comm[0] = words[0];
	now.at->comm[1] = words[1];
	identity_end(&now, IDENTITY_COMM);
}

u64 rt_uid_gid(const struct hook_frame *frame)
{
	const struct target_env *env = rt_env(frame);
	struct moment now = moment_now(frame);
	u32 uid, gid, seq;

	if (now.at && identity_holds(&now, IDENTITY_IDS, &seq)) {
		uid = now.at->uid;
		gid = now.at->gid;
		if (identity_same(&now, seq))
			return (u64)gid << 32 | uid;
	}
	uid = (u32)rt_call(env, TARGET_CALL_IDS, __NR_getuid, 0, 0, 0, 0, 0, 0);
	gid = (u32)rt_call(env, TARGET_CALL_IDS, __NR_getgid, 0, 0, 0, 0, 0, 0);
	if (identity_begin(&now)) {
		now.at->uid = uid;
		now.at->gid = gid;
		identity_end(&now, IDENTITY_IDS);
	}
	return (u64)gid << 32 | uid;
}

u64 rt_guard_identity(u64 *ctx, u64 zero, struct hook_frame *frame)
{
	struct target_private *p = (struct target_private *)rt_env(frame)->private_;

	if (p)
		__atomic_fetch_add(&p->renamed, 1, __ATOMIC_RELAXED);
	return 0;
}

static struct thread_rec *rec_at(const struct target_env *env, u32 i)
{
	return (struct thread_rec *)(env->threads + THREAD_RECS_OFF) + i;
}

/* Number nrecs - 1 of a table as large as an owner id can number is the number
 * that the overflow record answers to, so nobody gets that record. */
static bool rec_usable(const struct target_env *env, u32 i)
{
	return i < (1u << OWNER_REC_BITS) - 1;
}

static struct thread_rec *rec_find(const struct target_env *env, u32 tid)
{
	for (u32 i = 0; i < THREAD_PROBES; i++) {
		struct thread_rec *rec = rec_at(env, (tid + i) & (env->nrecs - 1));

		if (__atomic_load_n(&rec->tid, __ATOMIC_RELAXED) == tid)
			return rec;
	}
	return NULL;
}

/* A signal handler that arrives between finding nothing and claiming may claim
 * a second record for this thread. Only sums over all records mean anything,
 * so that is harmless. */
static struct thread_rec *rec_claim(const struct target_env *env, u32 tid)
{
	for (u32 i = 0; i < THREAD_PROBES; i++) {
		u32 at = (tid + i) & (env->nrecs - 1);
		struct thread_rec *rec = rec_at(env, at);
		u32 expected = 0;

		if (rec_usable(env, at) && __atomic_compare_exchange_n(&rec->tid, &expected, tid, false,
								       __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return rec;
	}
	return NULL;
}

/* Asks for every process: a fork child shares the table. */
static bool is_dead(const struct target_env *env, u32 tid)
{
	return rt_call(env, TARGET_CALL_ALIVE, __NR_tkill, tid, 0, 0, 0, 0, 0) == -ESRCH;
}

bool rt_rec_seal(const struct target_env *env, struct thread_rec *rec)
{
	u32 tid = __atomic_load_n(&rec->tid, __ATOMIC_ACQUIRE);

	/* What a dead thread left half done is the daemon's business. */
	if (tid && (tid == REC_BUSY || rec->depth || rec->entries != rec->leaves || !is_dead(env, tid)))
		return false;
	return __atomic_compare_exchange_n(&rec->tid, &tid, REC_BUSY, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

bool rt_rec_unseal(struct thread_rec *rec, u32 tid)
{
	u32 busy = REC_BUSY;

	return __atomic_compare_exchange_n(&rec->tid, &busy, tid, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

/* One of a thread that has ended: the daemon comes by once a second, which is not
 * enough where threads live for milliseconds. */
static struct thread_rec *rec_inherit(const struct target_env *env, u32 tid)
{
	for (u32 i = 0; i < THREAD_PROBES; i++) {
		u32 at = (tid + i) & (env->nrecs - 1);
		struct thread_rec *rec = rec_at(env, at);

		if (!rec_usable(env, at) || !rt_rec_seal(env, rec))
			continue;
		rec->stack_lo = 0;
		rec->stack_hi = 0;
		if (rt_rec_unseal(rec, tid))
			return rec;
	}
	return NULL;
}

struct thread_rec *thread_rec_slow(const struct target_env *env)
{
	u32 tid = rt_tid(env);
	struct thread_rec *rec = tid ? rec_find(env, tid) : NULL;

	if (!rec && tid)
		rec = rec_claim(env, tid);
	if (!rec && tid)
		rec = rec_inherit(env, tid);
	if (rec)
		return rec;
	__atomic_fetch_add(&((struct thread_table *)env->threads)->missed, 1, __ATOMIC_RELAXED);
	return rec_at(env, env->nrecs);
}
