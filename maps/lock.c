/* SPDX-License-Identifier: MIT */
/*
 * struct bpf_spin_lock in values: taken and given back by programs (bpf_spin_lock(),
 * BPF_F_LOCK) and by the host's BPF_F_LOCK. Freestanding.
 *
 * A lock word is
 *
 *	31        30 … 25   24 … 0
 *	LATE      0         1 + owner        0: free
 *
 * A lock means waiting for somebody, who may be stopped or dead. So nobody waits
 * long: who does not get it in LOCK_TRIES goes away without it, and says so in the
 * word (LATE), so that those who come next give up sooner; the owner's unlock clears
 * that, too. Who has it already (a signal handler's program, on top of one that holds
 * it) does not wait at all.
 *
 * Before it takes a lock a thread writes its address into an intent, which stays until
 * the unlock: should it die in between, the daemon finds the word, still with the dead
 * owner's number in it, and frees it. Nothing undoes what was written half.
 *
 * The word is in memory that others scribble over: then a lock is not had, or had by
 * two. Values may be spoilt; that is all.
 */
#include <errno.h>

#include "hash_core.h"

#define LOCK_LATE 0x80000000u
#define LOCK_OWNER 0x01ffffffu
#define LOCK_TRIES 2000u      /* about 50 µs */
#define LOCK_TRIES_LATE 20u

/* In an intent: no element has this number. */
#define INTENT_LOCK 0xffffffffu

static u32 lock_mark(const struct umap_ctx *cx)
{
	return (cx->owner & 0xffffffu) + 1;
}

static bool lock_try(u32 *word, u32 mark)
{
	u32 seen = __atomic_load_n(word, __ATOMIC_RELAXED);
	u32 tries = seen & LOCK_LATE ? LOCK_TRIES_LATE : LOCK_TRIES;

	for (u32 i = 0; i < tries; i++) {
		seen = __atomic_load_n(word, __ATOMIC_RELAXED);
		if (!seen && swap(word, 0, mark))
			return true;
		if ((seen & LOCK_OWNER) == mark)
			return false;
		__asm__ volatile("pause");
	}
	if (seen && !(seen & LOCK_LATE))
		swap(word, seen, seen | LOCK_LATE);
	return false;
}

bool umap_spin_lock(void *lock, const struct umap_ctx *cx)
{
	u32 depth = __atomic_load_n(&cx->rec->depth, __ATOMIC_RELAXED);
	struct map_intent *intent;

	if (depth >= MAP_INTENTS)
		return false;
	__atomic_store_n(&cx->rec->depth, depth + 1, __ATOMIC_RELAXED);
	compiler_barrier();
	intent = &cx->rec->intents[depth];
	__atomic_store_n(&intent->unlink_state, (u64)lock, __ATOMIC_RELAXED);
	compiler_barrier();
	__atomic_store_n(&intent->unlink, INTENT_LOCK, __ATOMIC_RELAXED);
	compiler_barrier();
	if (likely(lock_try(lock, lock_mark(cx))))
		return true;
	intent->unlink = 0;
	compiler_barrier();
	__atomic_store_n(&cx->rec->depth, depth, __ATOMIC_RELAXED);
	return false;
}

void umap_spin_unlock(void *lock, const struct umap_ctx *cx)
{
	u32 mark = lock_mark(cx), *word = lock;

	if (unlikely(!swap(word, mark, 0)))
		swap(word, mark | LOCK_LATE, 0);
	compiler_barrier();
	for (u32 i = MAP_INTENTS; i-- > 0;) {
		struct map_intent *intent = &cx->rec->intents[i];

		if (intent->unlink != INTENT_LOCK || intent->unlink_state != (u64)lock)
			continue;
		intent->unlink = 0;
		compiler_barrier();
		__atomic_store_n(&cx->rec->depth, i, __ATOMIC_RELAXED);
		return;
	}
}

void lock_recover(u64 there, u64 here, u64 size, const struct thread_rec *rec, u32 owner)
{
	u32 mark = (owner & 0xffffffu) + 1;

	for (u32 i = 0; i < MAP_INTENTS; i++) {
		u64 off = load(&rec->intents[i].unlink_state) - there;
		u32 *word = (u32 *)(here + off);

		if (load(&rec->intents[i].unlink) != INTENT_LOCK || off > size - 4 || off % 4)
			continue;
		if (!swap(word, mark, 0))
			swap(word, mark | LOCK_LATE, 0);
	}
}

/* The value's part [from, to), 8 bytes at a time where they are aligned. */
static void part_in(u8 *shared, const u8 *value, u32 from, u32 to)
{
	if (from % 8 == 4 && to - from >= 4) {
		__atomic_store_n((u32 *)(void *)(shared + from), *(const u32_any *)(value + from), __ATOMIC_RELAXED);
		from += 4;
	}
	for (; from < to && from % 8; from++)
		__atomic_store_n(shared + from, value[from], __ATOMIC_RELAXED);
	if (from < to)
		copy_in(shared + from, value + from, to - from);
}

void value_in_place(const struct umap *m, void *shared, const void *value)
{
	if (likely(!m->lock)) {
		copy_in(shared, value, m->value_size);
		return;
	}
	copy_in(shared, value, ALIGN_DOWN(m->lock - 1, 8u));
	if ((m->lock - 1) % 8)
		__atomic_store_n((u32 *)(void *)((u8 *)shared + m->lock - 5),
				 *(const u32_any *)((const u8 *)value + m->lock - 5), __ATOMIC_RELAXED);
	part_in(shared, value, m->lock + 3, m->value_size);
}

void value_in(const struct umap *m, void *shared, const void *value)
{
	value_in_place(m, shared, value);
	if (unlikely(m->lock))
		__atomic_store_n((u32 *)(void *)((u8 *)shared + m->lock - 1), 0, __ATOMIC_RELAXED);
}

long value_in_locked(const struct umap *m, void *shared, const void *value, const struct umap_ctx *cx)
{
	void *lock = (u8 *)shared + m->lock - 1;

	if (!umap_spin_lock(lock, cx))
		return -EBUSY;
	value_in_place(m, shared, value);
	umap_spin_unlock(lock, cx);
	return 0;
}
