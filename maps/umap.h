/* SPDX-License-Identifier: MIT */
/*
 * Maps in shared memory, and the operations on them. Compiled twice: for the
 * daemon (and libbpfvm), and freestanding into the runtime that goes into
 * targets. So: no libc, no allocation, no waiting, no system call in any
 * umap_* operation below that is not marked "host only".
 *
 * One memfd a map. It holds offsets, never pointers, and no geometry that
 * anyone trusts: geometry is in struct umap, which the target cannot write (it
 * lies in the code arena) and the daemon keeps privately. Every index read from
 * shared memory is bounded by the descriptor before use.
 */
#pragma once
#include "base/target_abi.h"
#include "base/types.h"

/* Numbers of enum bpf_map_type (linux/bpf.h). */
enum umap_type {
	UMAP_HASH = 1,
	UMAP_ARRAY = 2,
	UMAP_PROG_ARRAY = 3,
	UMAP_PERF_EVENT_ARRAY = 4,
	UMAP_PERCPU_HASH = 5,
	UMAP_PERCPU_ARRAY = 6,
	UMAP_STACK_TRACE = 7,
	UMAP_LRU_HASH = 9,
	UMAP_LRU_PERCPU_HASH = 10,
	UMAP_LPM_TRIE = 11,
	UMAP_QUEUE = 22,
	UMAP_STACK = 23,
	UMAP_RINGBUF = 27,
	UMAP_TASK_STORAGE = 29,
	UMAP_BLOOM_FILTER = 30,
	UMAP_USER_RINGBUF = 31,
};

static inline bool umap_is_percpu(u32 type)
{
	return type == UMAP_PERCPU_HASH || type == UMAP_PERCPU_ARRAY || type == UMAP_LRU_PERCPU_HASH;
}

/* What has records, but no elements. */
static inline bool umap_is_ring(u32 type)
{
	return type == UMAP_RINGBUF || type == UMAP_PERF_EVENT_ARRAY || type == UMAP_USER_RINGBUF;
}

static inline bool umap_is_queue(u32 type)
{
	return type == UMAP_QUEUE || type == UMAP_STACK;
}

/* BPF_ANY, BPF_NOEXIST, BPF_EXIST of linux/bpf.h */
#define UMAP_ANY 0
#define UMAP_NOEXIST 1
#define UMAP_EXIST 2
#define UMAP_LOCK 4 /* BPF_F_LOCK: the value is written, or read, under its lock */

#define UMAP_ENOTSUPP 524 /* the kernel's; errno.h has no name for it */

#define UMAP_SPARE_SLOTS 64 /* per-CPU copies beside one for each CPU */

/* The private descriptor. `base` is where the memory is mapped in the address
 * space that uses the descriptor; all else is the same everywhere. */
struct umap {
	u64 base;
	u64 size;        /* bytes of memory */
	u32 type, key_size, value_size, max_entries;
	u32 map_flags;   /* BPF_F_* */
	u32 id;          /* unique in the daemon */
	u32 ncpus;       /* what readers see of a per-CPU map */
	u32 nslots;      /* copies that programs use: ncpus + UMAP_SPARE_SLOTS, else 1 */
	u32 elem_stride; /* bytes from one value to the next: ARRAY types, the value rounded up to 8 */
	u32 frozen;      /* nobody may write (rodata) */
	u64 data_off;    /* ARRAY: values; PERCPU_ARRAY: copy of slot 0 */
	u64 slot_stride; /* PERCPU_*: bytes from one slot's copy to the next */
	/* hash */
	u32 nbuckets;    /* power of two */
	u32 nelems;      /* max_entries */
	u64 buckets_off, elems_off, bitmap_off, values_off;
	u32 hash_shift;  /* the bucket is hash >> hash_shift */
	u32 node_stride; /* bytes from one element (links, key, state) to the next */
	u32 nblocks;     /* value blocks: elements and spares; 0: the value is in the element, or per CPU */
	u32 sealed;      /* the host may not write (umap_freeze) */
	u64 blocks_off, block_bitmap_off, ctl_off;
	u64 refs_off;    /* LRU types: a byte for each element, whether it was used of late; else 0 */
	/* QUEUE and STACK: as hash, with nodes for elements and cells_off; nnodes of them
	 * BLOOM_FILTER: the bits at data_off */
	u64 cells_off;
	u32 nnodes;
	u32 nhashes;   /* BLOOM_FILTER: bits that a value sets */
	u32 bits_mask; /* BLOOM_FILTER: number of bits - 1 */
	/* STACK_TRACE: buckets at buckets_off, claims at bitmap_off, stacks at data_off */
	/* PROG_ARRAY: elements are u32, 1 + the number of a program in the object, 0 none.
	 * What that means in the address space at hand stands in a table of its own, which
	 * targets cannot write: u64 progs[nprogs] of whatever runs programs there. */
	u32 nprogs;
	u64 progs;
	/* RINGBUF: data at data_off, ring_mask + 1 bytes (PERF_EVENT_ARRAY: so one for each CPU,
	 * slot_stride bytes from one to the next); the next ring (struct umap) of the same
	 * object in the address space at hand, 0 none: how a record's ring is found */
	u64 ring_mask;
	u64 next_ring;
	u32 lock; /* 1 + where in a value its struct bpf_spin_lock is; 0: none */
	u32 pad;
};

/* Geometry for a map, refusing what is wrong. 0, or -EINVAL, -E2BIG,
 * -UMAP_ENOTSUPP, as bpf(BPF_MAP_CREATE) does. ret->base is 0. */
long umap_geometry(u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 map_flags, u32 ncpus, u32 id,
		   struct umap *ret);

/* The same for values with a struct bpf_spin_lock at LOCK - 1 (0: without); -EOPNOTSUPP
 * where the type cannot have one. */
long umap_geometry_locked(u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 map_flags, u32 ncpus, u32 id,
			  u32 lock, struct umap *ret);

/* Makes fresh memory (zeros, m->size bytes at m->base) into an empty map. */
void umap_format(const struct umap *m);

/* Who operates, and on which per-CPU copy. */
struct umap_ctx {
	struct thread_rec *rec; /* where intents are logged; may not be NULL */
	u32 owner;              /* OWNER_ID */
	u32 slot;               /* claimed slot; per-CPU maps only */
};

/* What a program's helpers do, with the kernel's results (address or NULL; 0
 * or -ENOENT, -EEXIST, -E2BIG, -EINVAL, -EBUSY, -ENOMEM (LRU types), and -EPERM on
 * a frozen map).
 * Key and value belong to the caller and may not lie in the map's own memory
 * when they can change. For per-CPU types the value is that of cx->slot. */
void *umap_lookup(const struct umap *m, const void *key, const struct umap_ctx *cx);
long umap_update(const struct umap *m, const void *key, const void *value, u64 flags, const struct umap_ctx *cx);
long umap_delete(const struct umap *m, const void *key, const struct umap_ctx *cx);

/* Calls VISIT for each element with its key and value (that of cx->slot, as
 * umap_lookup() gives it) until it returns other than 0: how often it was called.
 * VISIT may do with the map what a program may; an element that comes while the
 * walk goes on may be seen or not, one that is taken out and put in again perhaps
 * twice. A key of up to 8 bytes is a copy; a longer one lies in the map and stays
 * what it is as long as the element does. */
typedef long umap_visit(void *arg, const void *key, void *value);
long umap_for_each(const struct umap *m, umap_visit *visit, void *arg, const struct umap_ctx *cx);

/* TASK_STORAGE: the value of the thread TID, whose record CX names; it is made of VALUE (NULL:
 * zeros) if there is none and CREATE. NULL: none, or no room, or the thread has no record. */
void *umap_task_get(const struct umap *m, u32 tid, const void *value, bool create, const struct umap_ctx *cx);
long umap_task_delete(const struct umap *m, u32 tid, const struct umap_ctx *cx);

/* The lock at LOCK, in a value. False: it was not to be had in good time, or CX has
 * too many things begun. No waiting beyond about 50 µs. */
bool umap_spin_lock(void *lock, const struct umap_ctx *cx);
void umap_spin_unlock(void *lock, const struct umap_ctx *cx);

/* PROG_ARRAY: what m->progs has for element INDEX; 0 when there is none. */
u64 umap_prog(const struct umap *m, u32 index);

/* umap_lookup() for compiled programs, which know what they look into: a HASH or
 * PERCPU_HASH (with SLOT below nslots) with keys of 4 or 8 bytes. No umap_ctx is made for the common case; the rest is
 * left to SLOW, which gets ARG. */
typedef void *umap_slow_lookup(const struct umap *m, const void *key, void *arg);
void *umap_hash_lookup_4(const struct umap *m, const void *key, void *arg, umap_slow_lookup *slow);
void *umap_hash_lookup_8(const struct umap *m, const void *key, void *arg, umap_slow_lookup *slow);
void *umap_percpu_lookup_4(const struct umap *m, const void *key, u32 slot, void *arg, umap_slow_lookup *slow);
void *umap_percpu_lookup_8(const struct umap *m, const void *key, u32 slot, void *arg, umap_slow_lookup *slow);

/* QUEUE, STACK, BLOOM_FILTER: bpf_map_push_elem() and its siblings. Push takes
 * UMAP_ANY, or UMAP_EXIST to drop the oldest when full; pop and peek zero VALUE
 * when they give -ENOENT. Peek at a bloom filter: 0 when VALUE may be in it. */
long umap_push(const struct umap *m, const void *value, u64 flags, const struct umap_ctx *cx);
long umap_pop(const struct umap *m, void *value, const struct umap_ctx *cx);
long umap_peek(const struct umap *m, void *value, const struct umap_ctx *cx);

/* STACK_TRACE: the id of the stack IPS[n] (n at most value_size / 8), of which HASH is
 * a hash, as bpf_get_stackid() gives it: -EEXIST where another one has the bucket;
 * and -EBUSY where two are being written there by others. FLAGS are the helper's. */
#define UMAP_STACK_DEPTH 127u /* what the kernel's sysctl perf_event_max_stack is at first */
#define UMAP_STACK_PLACES 4u  /* of a bucket */
#define UMAP_STACK_SKIP 0xffu /* BPF_F_* of linux/bpf.h */
#define UMAP_STACK_USER (1u << 8)
#define UMAP_STACK_FAST_CMP (1u << 9)
#define UMAP_STACK_REUSE (1u << 10)
long umap_stack_id(const struct umap *m, const u64 *ips, u32 n, u32 hash, u64 flags, const struct umap_ctx *cx);

/* RINGBUF: bpf_ringbuf_reserve() and its siblings (reserve: NULL when there is no
 * room, which is counted, or can never be; output: 0, -EINVAL, or -EAGAIN). A record
 * belongs to OWNER from its reservation on. Commit, and output by *WAKE, say whether
 * somebody sleeps who wants to know: wake him by futex at umap_ring_waiters(). So does
 * must_wake() where there was no room: that comes by the reader alone. */
#define UMAP_RB_NO_WAKEUP 1u    /* BPF_RB_* of linux/bpf.h */
#define UMAP_RB_FORCE_WAKEUP 2u
void *umap_ring_reserve(const struct umap *m, u64 size, u64 flags, u32 owner);
bool umap_ring_must_wake(const struct umap *m, u64 flags);
bool umap_ring_commit(const struct umap *m, void *record, u64 flags, bool discard);
long umap_ring_output(const struct umap *m, const void *data, u64 size, u64 flags, u32 owner, bool *wake);
u64 umap_ring_query(const struct umap *m, u64 what);
u32 *umap_ring_waiters(const struct umap *m);
/* PERF_EVENT_ARRAY: bpf_perf_event_output() into the ring of CPU, which is where the
 * caller thinks that it runs: 0, -ENOSPC when there is no room, which is counted, or
 * -E2BIG when there never can be. Everybody waits at one futex. */
long umap_perf_output(const struct umap *m, u32 cpu, const void *data, u64 size, u32 owner, bool *wake);
/* USER_RINGBUF, for what a program drains: one reader at a time (false: another one
 * reads), the record that is next (-ENODATA: none; -EAGAIN: look again; -EINVAL:
 * nonsense), which goes when it is released. */
struct umap_user_record {
	void *data;
	u32 size;
	u64 next;
};
bool umap_user_begin(const struct umap *m, u32 owner);
long umap_user_peek(const struct umap *m, struct umap_user_record *ret);
void umap_user_release(const struct umap *m, const struct umap_user_record *r);
void umap_user_end(const struct umap *m);
/* Whether RECORD lies in M's data. */
static inline bool umap_ring_holds(const struct umap *m, u64 record)
{
	return record - (m->base + m->data_off) <= m->ring_mask;
}

/*
 * Per-CPU claims. One table (a memfd of its own) for each object, shared by all
 * its targets: a program that uses per-CPU maps claims a slot for its whole
 * run, so that nobody else touches that copy: its plain `(*v)++` loses nothing.
 * home[cpu] by one restartable (rseq) store if free, else a spare slot by
 * compare-and-swap, else none: the run is skipped and counted as missed.
 */
struct umap_claims {
	struct {
		u64 owner; /* 0 free, else OWNER_ID + 1 */
		u64 pad[7];
	} slot[1]; /* ncpus + UMAP_SPARE_SLOTS of them */
};
#define UMAP_CLAIMS_SIZE(ncpus) (((u64)(ncpus) + UMAP_SPARE_SLOTS) * 64)

/* Claims a slot for OWNER; HOOK_NO_SLOT when all are taken. RSEQ is the
 * thread's struct rseq (NULL: claim by compare-and-swap alone). */
u64 umap_claim(struct umap_claims *c, u32 ncpus, u32 owner, void *rseq);
static inline void umap_release(struct umap_claims *c, u64 slot)
{
	__atomic_store_n(&c->slot[slot].owner, 0, __ATOMIC_RELEASE);
}

/*
 * Host only from here: the daemon's side, which sees a map as user space sees a
 * kernel map. Values of per-CPU maps are ncpus consecutive values, each rounded
 * up to 8 bytes; spare slots are folded into cpu = i mod ncpus by adding them
 * up as u64 words (the sum of all copies is exact for counters).
 */
#ifndef UMAP_FREESTANDING
#include "base/uerr.h"

/* Bytes of a value as umap_read()/umap_write() pass it. */
u64 umap_user_value_size(const struct umap *m);

/* Makes a sealed memfd (SHRINK|GROW|SEAL) with an empty map in it, mapped here
 * (m->base set). The caller owns both (umap_destroy). UERR_FAILED with the
 * figure when it would not fit into memory. */
struct uerr *umap_create(const char *name, u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 map_flags,
			 u32 ncpus, u32 id, struct umap *ret, int *ret_fd) UERR_MUST_CHECK;
struct uerr *umap_create_locked(const char *name, u32 type, u32 key_size, u32 value_size, u32 max_entries, u32 map_flags,
				u32 ncpus, u32 id, u32 lock, struct umap *ret, int *ret_fd) UERR_MUST_CHECK;
void umap_destroy(struct umap *m, int fd);

/* Same for a claims table. */
struct uerr *umap_claims_create(u32 ncpus, struct umap_claims **ret, int *ret_fd) UERR_MUST_CHECK;

/* 0 or a negative errno, as the bpf(2) commands give it; -EPERM also where
 * BPF_F_RDONLY or BPF_F_WRONLY forbids it, or the map is frozen. Maps without keys
 * (key NULL): read peeks, write pushes, take (lookup-and-delete) pops; a bloom filter
 * is asked about what is in VALUE. PROG_ARRAY: the value is 1 + the number of a
 * program; absent elements give -ENOENT. What take gives is what the element was
 * when it went: no update in between is lost. */
long umap_read(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx);
/* FLAGS: 0 or UMAP_LOCK; -EBUSY when the lock is not to be had. */
long umap_read_flags(const struct umap *m, const void *key, void *value, u64 flags, const struct umap_ctx *cx);
long umap_write(const struct umap *m, const void *key, const void *value, u64 flags, const struct umap_ctx *cx);
long umap_erase(const struct umap *m, const void *key, const struct umap_ctx *cx);
long umap_take(const struct umap *m, const void *key, void *value, const struct umap_ctx *cx);

/* BPF_MAP_FREEZE: the host writes no more; programs do as before. -EPERM when it is
 * frozen already. */
long umap_freeze(struct umap *m);

/* Many elements at once. KEYS and VALUES hold `count` of them, which becomes how
 * many there were; `flags` are those of each element. read and take begin at FROM,
 * what the call before put into NEXT (umap_cursor_size() bytes; NULL: the
 * beginning), and give 0, -ENOENT after the last element (with those up to there),
 * or -ENOSPC when `count` is too small for one step. */
struct umap_batch {
	void *keys, *values;
	u32 count;
	u64 flags;
};
u32 umap_cursor_size(const struct umap *m);
long umap_read_batch(const struct umap *m, const void *from, void *next, struct umap_batch *b, const struct umap_ctx *cx);
long umap_take_batch(const struct umap *m, const void *from, void *next, struct umap_batch *b, const struct umap_ctx *cx);
long umap_write_batch(const struct umap *m, struct umap_batch *b, const struct umap_ctx *cx);
long umap_delete_batch(const struct umap *m, struct umap_batch *b, const struct umap_ctx *cx);
/* QUEUE, STACK: the N-th element from the one that a pop would give, which stays.
 * -ENOENT after the last. Exact while nobody pushes or pops. */
long umap_peek_at(const struct umap *m, u32 n, void *value);
/* RINGBUF, for its one consumer: where it is (umap_ring_reader_init(): where the last
 * one was), how many records were retired because their owner had died, and how
 * often it found what cannot be, so that everything up to there is lost. */
struct umap_ring_reader {
	const struct umap *m;
	u64 pos;
	u64 spoilt;
	u8 *copy; /* of one record */
};
struct uerr *umap_ring_reader_init(struct umap_ring_reader *r, const struct umap *m) UERR_MUST_CHECK;
void umap_ring_reader_deinit(struct umap_ring_reader *r);
/* The next record: a copy, until the next call, and its size; false when there is
 * none (yet). */
bool umap_ring_next(struct umap_ring_reader *r, const void **record, u32 *size);
/* Whether there is a record. */
bool umap_ring_ready(struct umap_ring_reader *r);
/* Says that the reader is about to sleep; true: better not, there is a record. */
bool umap_ring_sleep(struct umap_ring_reader *r);
/* A record is being written, or its writer is stopped: its owner and its size. */
bool umap_ring_busy(const struct umap_ring_reader *r, u32 *owner, u32 *size);
/* Reservations that found no room, and records that died with their owner. */
u64 umap_ring_dropped(const struct umap *m);
u64 umap_ring_retired(const struct umap *m);

/* USER_RINGBUF: adds a record, for its one writer. 0, -ENOSPC, -E2BIG when it can never
 * fit, -EBUSY when somebody scribbled. */
long umap_user_post(const struct umap *m, const void *data, u64 size);

/* RINGBUF and PERF_EVENT_ARRAY as one stream, for their one consumer: what comes next
 * of which CPU (0 of a RINGBUF). Of a PERF_EVENT_ARRAY, where records found no room, an
 * event without data says how many, in its place among its CPU's. Records of one CPU
 * come in order, those of different ones CPU by CPU. */
struct umap_event {
	const void *data; /* a copy, until the next call; NULL: lost */
	u32 size;
	u32 cpu;
	u64 lost;
};
struct umap_events {
	const struct umap *m;
	struct umap_event_ring *rings; /* maps/events_host.c */
	u32 n, next;
	u32 turn; /* records in a row of the ring at hand */
};
struct uerr *umap_events_init(struct umap_events *e, const struct umap *m) UERR_MUST_CHECK;
void umap_events_deinit(struct umap_events *e);
bool umap_events_next(struct umap_events *e, struct umap_event *ret);
bool umap_events_sleep(struct umap_events *e);
/* As umap_ring_busy(); *where tells one record from another. */
bool umap_events_busy(const struct umap_events *e, u32 *owner, u32 *size, u64 *where);
u64 umap_events_dropped(const struct umap_events *e);
u64 umap_events_retired(const struct umap_events *e);
u64 umap_events_spoilt(const struct umap_events *e);

/* Up to ROOM keys behind KEY (NULL: from the first on), of which there are *RET: what as
 * many calls of umap_next_key() give, and -ENOENT when that ends before ROOM. */
long umap_next_keys(const struct umap *m, const void *key, void *keys, u32 room, u32 *ret);

/* TASK_STORAGE, whose keys (8 bytes) are made up: whose value that of KEY is. -ENOENT: nobody's. */
long umap_task_of(const struct umap *m, const void *key, u32 *owner, u32 *tid);

/* KEY NULL: the first. -ENOENT after the last. Survives concurrent deletes. Of an
 * LPM_TRIE a step costs a pass over everything: umap_next_keys() is for many. */
long umap_next_key(const struct umap *m, const void *key, void *next_key);

/* Finishes or undoes what the dead owner of REC left in M, and frees its claims.
 * Only the daemon declares death. */
void umap_recover(const struct umap *m, const struct thread_rec *rec, u32 owner);
/* The locks that it held in M, which is mapped at THERE in its process. */
void umap_recover_locks(const struct umap *m, u64 there, const struct thread_rec *rec, u32 owner);
void umap_claims_recover(struct umap_claims *c, u32 ncpus, u32 owner);
#endif
