/* SPDX-License-Identifier: MIT */
/*
 * Reading and writing pages that were there a moment ago (base/read_cache.h).
 *
 * A look into the cache and the access that it allows are one restartable
 * sequence: {the page's entry equals its region's epoch and the page: access}.
 * Whoever takes memory away first gives its regions a new epoch and then lets
 * membarrier(2) break off every sequence that is under way on any CPU; one that
 * begins later sees the new epoch, one that was preempted is broken off by the
 * kernel anyway. So no sequence that has seen the old epoch is still to make
 * its access when the memory goes. Nobody waits for anybody, whatever is
 * stopped, interrupted or of higher priority.
 *
 * An entry is made after the kernel has said that the page is there. What the
 * kernel said may be out of date when the entry is made, hence:
 *
 *	epoch of the region, then `taking`: zero?, then the kernel, then the entry
 *
 * A call that takes the page away before the epoch was read has left `taking`
 * (and the kernel says no) or not (no entry). One that comes later changes the
 * epoch, so that the entry is stale when it is made.
 *
 * rseq_cs belongs to the application; see maps/percpu.c for how it is used. A
 * thread uses the cache only once the kernel has said that its rseq area is the
 * registered one: a vfork child has its parent's, which is not.
 */
#include <asm/unistd.h>

#include "base/read_cache.h"
#include "vm/runtime/rt.h"

#define RSEQ_SIGNATURE 0x53053053 /* what glibc registers on x86 */
#define RSEQ_UNREGISTER 1
#define RESTARTS 8

#define CMD_RSEQ 128 /* MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ */
#define CMD_REGISTER_RSEQ 256

/* struct rseq_cs of linux/rseq.h */
struct section {
	u32 version, flags;
	u64 start_ip, post_commit_offset, abort_ip;
} __attribute__((aligned(32)));

/* Where the cache keeps what it knows about a page. */
struct spot {
	u64 tag; /* never 0 */
	const u64 *epoch;
	u64 *entry;
};

static inline struct read_cache *cache_of(const struct hook_frame *frame)
{
	return (struct read_cache *)rt_env(frame)->cache;
}

static inline u64 *epoch_of(struct read_cache *c, u64 addr)
{
	return &c->epoch[addr >> READ_CACHE_REGION_BITS & (READ_CACHE_REGIONS - 1)];
}

/* False for an address that is never in the cache. */
static inline bool spot_find(struct read_cache *c, u64 addr, bool write, struct spot *ret)
{
	u64 tag = addr >> READ_CACHE_REGION_BITS;
	u64 slot = (addr >> 12 ^ tag ^ tag >> 9) & (READ_CACHE_PAGES - 1);

	if (!tag || tag >> 26)
		return false;
	*ret = (struct spot){ tag, epoch_of(c, addr), write ? &c->writable[slot] : &c->readable[slot] };
	return true;
}

/*
 * The sequence. KEY ends as 0 when the access was not made. The bytes in front
 * of the abort handler decode as ud1 with the signature as displacement.
 */
#define SEQUENCE(access)                           \
	"	lea 1f(%%rip), %[key]\n"           \
	"	mov %[key], 8(%[section])\n"       \
	"	movq $(2f - 1f), 16(%[section])\n" \
	"	lea 3f(%%rip), %[key]\n"           \
	"	mov %[key], 24(%[section])\n"      \
	"0:	mov %[section], %%fs:8(%[rseq])\n" \
	"1:	mov (%[epoch]), %[key]\n"          \
	"	shl $26, %[key]\n"                 \
	"	or %[tag], %[key]\n"               \
	"	cmp %[key], (%[entry])\n"          \
	"	jne 4f\n" access                   \
	"2:	jmp 5f\n"                          \
	"	.byte 0x0f, 0xb9, 0x3d\n"          \
	"	.long %c[signature]\n"             \
	"3:	dec %k[restarts]\n"                \
	"	jnz 0b\n"                          \
	"4:	xor %k[key], %k[key]\n"            \
	"5:	movq $0, %%fs:8(%[rseq])\n"
#define SEQUENCE_OUT [key] "=&r"(key), [restarts] "+&r"(restarts)
#define SEQUENCE_IN                                                                                              \
	[section] "r"(&section), [rseq] "r"(rseq), [epoch] "r"(spot->epoch), [tag] "r"(spot->tag),               \
		[entry] "r"(spot->entry), [signature] "i"(RSEQ_SIGNATURE)

#define LOAD(insn, operand)                                                                             \
	__asm__ volatile(SEQUENCE("	" insn " (%[addr]), %" operand "[value]\n")                     \
			 : SEQUENCE_OUT, [value] "=&r"(value)                                           \
			 : SEQUENCE_IN, [addr] "r"(addr)                                                \
			 : "memory", "cc")
#define STORE(insn, operand)                                                                            \
	__asm__ volatile(SEQUENCE("	" insn " %" operand "[value], (%[addr])\n")                     \
			 : SEQUENCE_OUT                                                                 \
			 : SEQUENCE_IN, [addr] "r"(addr), [value] "r"(value)                            \
			 : "memory", "cc")

/* Loads of 1, 2, 4 or 8 bytes; 0 when it was not made. */
static inline u64 load_scalar(const struct spot *spot, s64 rseq, void *dst, u64 addr, u64 size)
{
	typedef u64 __attribute__((aligned(1), may_alias)) u64u;
	typedef u32 __attribute__((aligned(1), may_alias)) u32u;
	typedef u16 __attribute__((aligned(1), may_alias)) u16u;
	struct section section = { 0 };
	u64 key, value;
	u32 restarts = RESTARTS;

	switch (size) {
	case 8:
		LOAD("mov", "");
		if (key)
			*(u64u *)dst = value;
		return key;
	case 4:
		LOAD("mov", "k");
		if (key)
			*(u32u *)dst = (u32)value;
		return key;
	case 2:
		LOAD("movzwl", "k");
		if (key)
			*(u16u *)dst = (u16)value;
		return key;
	}
	LOAD("movzbl", "k");
	if (key)
		*(u8 *)dst = (u8)value;
	return key;
}

static inline u64 store_scalar(const struct spot *spot, s64 rseq, u64 addr, const void *src, u64 size)
{
	typedef u64 __attribute__((aligned(1), may_alias)) u64u;
	typedef u32 __attribute__((aligned(1), may_alias)) u32u;
	typedef u16 __attribute__((aligned(1), may_alias)) u16u;
	struct section section = { 0 };
	u64 key, value;
	u32 restarts = RESTARTS;

	switch (size) {
	case 8:
		value = *(const u64u *)src;
		STORE("mov", "");
		return key;
	case 4:
		value = *(const u32u *)src;
		STORE("movl", "k");
		return key;
	case 2:
		value = *(const u16u *)src;
		STORE("movw", "w");
		return key;
	}
	value = *(const u8 *)src;
	STORE("movb", "b");
	return key;
}

/* Any number of bytes. A copy that is broken off begins again, and is whole when
 * it ends. */
static __attribute__((noinline)) u64 copy_bytes(const struct spot *spot, s64 rseq, u64 dst, u64 src, u64 size)
{
	struct section section = { 0 };
	u32 restarts = RESTARTS;
	u64 key;

	__asm__ volatile(SEQUENCE("	mov %[to], %%rdi\n"
				  "	mov %[from], %%rsi\n"
				  "	mov %[size], %%rcx\n"
				  "	rep movsb\n")
			 : SEQUENCE_OUT
			 : SEQUENCE_IN, [to] "m"(dst), [from] "m"(src), [size] "m"(size)
			 : "memory", "cc", "rdi", "rsi", "rcx");
	return key;
}

static inline bool is_scalar(u64 size)
{
	return size <= 8 && !(size & (size - 1));
}

/* Whether this thread may use the cache: its rseq is known to be registered, and
 * is not in use by whoever we interrupted. */
static inline bool may_use(const struct target_env *env, const struct hook_frame *frame)
{
	const struct thread_rec *rec = (const struct thread_rec *)frame->rec;
	u64 in_use;

	if (!rec || !rec->rseq)
		return false;
	__asm__ volatile("mov %%fs:8(%1), %0" : "=r"(in_use) : "r"(env->rseq_off));
	return !in_use;
}

bool rt_cache_read(void *dst, u64 addr, u64 size, const struct hook_frame *frame)
{
	const struct target_env *env = rt_env(frame);
	struct read_cache *c = (struct read_cache *)env->cache;
	struct spot spot;

	if (!c || !may_use(env, frame) || !spot_find(c, addr, false, &spot))
		return false;
	if (is_scalar(size))
		return load_scalar(&spot, env->rseq_off, dst, addr, size);
	return copy_bytes(&spot, env->rseq_off, (u64)dst, addr, size);
}

bool rt_cache_write(u64 addr, const void *src, u64 size, const struct hook_frame *frame)
{
	const struct target_env *env = rt_env(frame);
	struct read_cache *c = (struct read_cache *)env->cache;
	struct spot spot;

	if (!c || !may_use(env, frame) || !spot_find(c, addr, true, &spot))
		return false;
	if (is_scalar(size))
		return store_scalar(&spot, env->rseq_off, addr, src, size);
	return copy_bytes(&spot, env->rseq_off, addr, (u64)src, size);
}

/*
 * Misses.
 */

/* Asks the kernel whether our rseq area is registered for this thread, by
 * unregistering it with a signature that cannot be right: EPERM if it is,
 * EINVAL if it is not. Nothing changes. */
static bool rseq_is_ours(const struct target_env *env)
{
	u64 area = rt_thread_pointer() + (u64)env->rseq_off;

	if (!env->rseq_off || (s32)rt_fs_u32(env->rseq_off + 4) < 0)
		return false;
	return rt_call(env, TARGET_CALL_RSEQ, __NR_rseq, area, env->rseq_size, RSEQ_UNREGISTER, ~RSEQ_SIGNATURE, 0,
		       0) == -EPERM;
}

static bool is_overflow(const struct target_env *env, const struct thread_rec *rec)
{
	return rec == (const struct thread_rec *)(env->threads + THREAD_RECS_OFF) + env->nrecs;
}

static void know_thread(const struct target_env *env, struct thread_rec *rec)
{
	if (!rec->rseq && !is_overflow(env, rec) && rseq_is_ours(env))
		rec->rseq = 1;
}

static void refuse(struct read_cache *c, u32 reason)
{
	c->reason = reason;
	__atomic_store_n(&c->state, READ_CACHE_REFUSED, __ATOMIC_SEQ_CST);
}

/* The first that comes here registers the process: from then on membarrier
 * reaches its sequences. */
static bool is_on(struct read_cache *c, const struct target_env *env)
{
	u32 state = __atomic_load_n(&c->state, __ATOMIC_ACQUIRE), asked = READ_CACHE_ASKED;

	if (state != READ_CACHE_ASKED)
		return state == READ_CACHE_ON;
	if (rt_call(env, TARGET_CALL_MEMBARRIER, __NR_membarrier, CMD_REGISTER_RSEQ, 0, 0, 0, 0, 0) ||
	    rt_call(env, TARGET_CALL_MEMBARRIER, __NR_membarrier, CMD_RSEQ, 0, 0, 0, 0, 0)) {
		refuse(c, READ_CACHE_MEMBARRIER);
		return false;
	}
	__atomic_store_n(&c->registered, 1, __ATOMIC_SEQ_CST);
	return __atomic_compare_exchange_n(&c->state, &asked, READ_CACHE_ON, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED) ||
	       asked == READ_CACHE_ON;
}

/* Whether the page at ADDR is in a known range that has PROT. EPOCH is that of
 * its region. */
static bool is_known(const struct read_cache *c, u64 addr, u64 prot, u64 epoch)
{
	u32 seq = __atomic_load_n(&c->seq, __ATOMIC_ACQUIRE), n = c->nranges;
	bool found = false;

	if (seq & 1 || epoch > c->stamp)
		return false;
	for (u32 i = 0; i < n && i < READ_CACHE_RANGES && !found; i++)
		found = addr >= c->ranges[i].lo && addr < c->ranges[i].hi && (c->ranges[i].prot & prot) == prot;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return found && __atomic_load_n(&c->seq, __ATOMIC_RELAXED) == seq;
}

void rt_cache_ask(struct rt_cache_miss *miss, u64 addr, const struct hook_frame *frame)
{
	struct read_cache *c = cache_of(frame);

	*miss = (struct rt_cache_miss){ .addr = ALIGN_DOWN(addr, PAGE) };
	if (!c || !is_on(c, rt_env(frame)))
		return;
	know_thread(rt_env(frame), rt_rec(frame));
	miss->epoch = __atomic_load_n(epoch_of(c, addr), __ATOMIC_ACQUIRE);
	/* in this order: who turns the cache off does so before it makes an epoch */
	miss->quiet = !__atomic_load_n(&c->taking, __ATOMIC_ACQUIRE) &&
		      __atomic_load_n(&c->state, __ATOMIC_ACQUIRE) == READ_CACHE_ON;
}

void rt_cache_store(const struct rt_cache_miss *miss, bool write, const struct hook_frame *frame)
{
	struct read_cache *c = cache_of(frame);
	struct spot spot;

	if (!miss->quiet || !spot_find(c, miss->addr, write, &spot))
		return;
	if (is_known(c, miss->addr, write ? PROT_WRITE_BIT : PROT_READ_BIT, miss->epoch))
		__atomic_store_n(spot.entry, miss->epoch << 26 | spot.tag, __ATOMIC_RELEASE);
	else
		__atomic_fetch_add(&c->unknown, 1, __ATOMIC_RELAXED);
}
