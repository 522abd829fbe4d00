/* SPDX-License-Identifier: MIT */
/*
 * The cache of pages that a target's programs may read and write without asking
 * the kernel: private anonymous memory that was there a moment ago and that
 * nobody has taken away since (vm/runtime/cache.c has the protocol). It lies in
 * the target, in private memory that a fork child sees as zeros: a cache that is
 * off. Everything fixed width; freestanding.
 *
 *	an access  {the page's entry names it and the epoch of its region}: go ahead
 *	a miss     region's epoch; nobody is taking memory away; the kernel's answer;
 *	           the page is in a known range: the entry
 *	an unmap   taking++, a new epoch for the regions, membarrier; the call; taking--
 *
 * The target can write all of it. Nothing here is trusted by anyone but the
 * target's own programs: what it spoils is its own memory.
 */
#pragma once
#include "types.h"

enum read_cache_state {
	READ_CACHE_OFF,     /* nothing is stored; may be asked for */
	READ_CACHE_ASKED,   /* on as soon as a thread has registered with membarrier(2) */
	READ_CACHE_ON,
	READ_CACHE_REFUSED, /* never in this process: `reason` */
};

/* Why it went off by itself. */
enum read_cache_reason {
	READ_CACHE_NO_REASON,
	READ_CACHE_NEW_CODE,      /* memory that can be executed came in: to be looked through first */
	READ_CACHE_PROTECTION_KEY,
	READ_CACHE_IO_URING,
	READ_CACHE_USERFAULTFD,
	READ_CACHE_SHARED_MEMORY, /* a process that shares the memory was made */
	READ_CACHE_PERSONALITY,
	READ_CACHE_MEMBARRIER,    /* the kernel refused it */
	READ_CACHE_THREADS,       /* more threads than have records, or calls nested too deeply */
};

#define READ_CACHE_REGION_BITS 21 /* 2 MiB have an epoch */
#define READ_CACHE_REGIONS 1024u  /* which others share, 2 GiB apart */
#define READ_CACHE_PAGES 512u
#define READ_CACHE_RANGES 240u

struct read_cache_range {
	u64 lo, hi;
	u64 prot; /* PROT_READ, PROT_WRITE */
};

struct read_cache {
	u32 state; /* enum read_cache_state */
	u32 reason;
	u32 registered; /* membarrier(2) works, from now on for good */
	/* Ranges of private anonymous memory without a protection key, as found
	 * when `ops` was `stamp` and nothing was being taken away: what is said of
	 * a region holds while its epoch is not above that. Odd `seq`: being
	 * written. */
	u32 seq;
	u64 stamp;
	u32 nranges;
	u32 pad;
	u64 unknown; /* misses in no range: there is something to be found */
	u64 spare[3];
	/* its own cache line: written by whoever takes memory away */
	u64 ops;     /* the last epoch given out */
	u64 taking;  /* calls under way that take memory away */
	u64 spare2[6];
	u64 epoch[READ_CACHE_REGIONS];
	/* epoch << 26 | number of the page without its lowest nine bits: 0 none.
	 * (38 bits of the epoch are enough: a number comes again after 2.7e11 calls.) */
	u64 readable[READ_CACHE_PAGES];
	u64 writable[READ_CACHE_PAGES];
	/* For each record of a thread, which calls it is inside of (cache.c). */
	u64 nested[1024];
	struct read_cache_range ranges[READ_CACHE_RANGES];
};

/* The cookie of a site of rt_taking_begin: the number of its system call, or this
 * where any may be made. */
#define TAKING_ANY_CALL (~0ull)

_Static_assert(offsetof(struct read_cache, ops) == 64, "a cache line of its own");
