/* SPDX-License-Identifier: MIT */
/*
 * One process and what lies in it: arenas with code, shared maps, patched
 * windows, and the calls that each hook point makes. The daemon holds the
 * truth; a worker changes its own forked copy while it works and hands the
 * whole target back as bytes. What is here mirrors the journal, which is for
 * whoever comes after a crash.
 *
 *	link ──▶ site (a function in this process) ──▶ call (a hook point of a window)
 *	                 │ site_data                          │ program code
 *	                 └──────────────▶ arena ◀─────────────┘ trampoline
 */
#pragma once
#include <sys/types.h>

#include "base/target_abi.h"
#include "base/vec.h"
#include "daemon/pack.h"
#include "injector/plan.h"

/* The records of a target's threads, and its trace ring: a memfd that the
 * daemon makes, so that both outlive the target. Fork children share it with
 * their parent, hence the count. */
struct threads {
	u32 refs;
	u32 no;      /* the target number in owner ids */
	int fd;
	u64 size;
	struct thread_table *table;
	void *ring;  /* struct trace_ring, after the table */
	u64 ring_off;
	u64 cursor;  /* of trace_ring_next() */
	u64 lost;    /* lines overwritten before anybody took them */
};

struct uerr *threads_create(u32 no, struct threads **ret) UERR_MUST_CHECK;
struct threads *threads_ref(struct threads *t);
void threads_unref(struct threads *t); /* NULL is fine */
/* Hits that could not run, over all records. */
u64 threads_missed(const struct threads *t);
/* True while any hit has begun and not ended. */
bool threads_entered(const struct threads *t);
struct thread_rec *threads_rec(const struct threads *t, u32 i);

/* Where a map (or an object's claims) is mapped in the target. */
struct mapping {
	u32 map;       /* map id, or object id of claims */
	bool claims;
	u64 unwind;    /* none of these, but unwind tables (daemon/unwind.h): their key; else 0 */
	bool retired;  /* somebody may still be inside a program that uses it */
	addr_t addr;
	u64 size;
};

struct arena_map {
	u32 map;
	addr_t desc;
};

struct arena_prog {
	u32 program;
	addr_t entry;
	u32 size;
	u32 clobbers;
};

/* A code arena is complete in itself: runtime, constants, programs, and then
 * trampolines and site constants until it is full. It goes when the last of
 * these has gone. */
struct arena {
	addr_t addr;
	u64 size, used;
	u64 code;      /* offset of the first trampoline; programs lie before it */
	u64 top;       /* offset of the site constants, which grow downwards */
	u64 inode;
	u32 live;      /* trampolines that windows jump to */
	bool retired;  /* nothing in it is used; unmapped as soon as nobody is inside */
	bool full;     /* nothing may be added: shared with a fork parent */
	addr_t env;
	addr_t cells;  /* as its env says */
	addr_t unwind; /* as its env says: where the unwind tables are, 0 none */
	addr_t batch;  /* the injector's routine (inject_use_batch) */
	addr_t side_find; /* and another one (side_find_code) */
	VEC(struct arena_map) maps;
	VEC(struct arena_prog) progs;
};

/* A module as it is named in places. */
struct target_module {
	char *name, *path;
	addr_t bias;
	addr_t lo, hi; /* all its mappings */
	u64 dev, ino;
	addr_t go_lo, go_hi; /* link addresses: compiled by Go; empty: nothing */
};

/* A page of stubs, through which punned jumps lead to trampolines. Private to
 * each process, so that it can be changed while its relatives have theirs. */
struct stub_page {
	addr_t addr;
	bool retired;      /* no window leads to it; unmapped as soon as nobody is on it */
};

/* Belongs to one window for as long as its page is there. */
struct stub {
	addr_t addr;
	addr_t site;       /* the window's address at run time */
	bool live;         /* the window is patched */
};

/* Where a breakpoint stands in the table of the trap area, from its first time on. */
struct trap_slot_of {
	addr_t site;
	u32 slot;
};

/* A window that holds a jump to a trampoline. */
struct patched {
	struct window win; /* link addresses; bytes of the file */
	u32 module;        /* index in modules */
	u64 file_off;
	addr_t tramp;
	addr_t arena;      /* of the trampoline */
	addr_t stub;       /* of a punned window, else 0 */
	addr_t waits;      /* behind the trampoline's copy of a system call, where threads may wait; 0 none … */
	u8 waits_off;      /* … and where that is in the window */
};

/* What a hook point calls. Sorted (target_sort); the calls of one point
 * run in the order of their sites. */
struct call {
	addr_t point;      /* link address of the instruction */
	u32 module;
	bool exit;
	u32 link, program; /* of a guard: 0 or TRAP_LINK, GUARD_PROGRAM */
	u32 site;          /* its key */
};

/* What guards (daemon/guards.h) have in the place of a program's id. */
#define GUARD_PROGRAM(guard) (UINT32_MAX - (u32)(guard))
static inline bool is_guard(const struct call *c)
{
	return !c->link || c->link == UINT32_MAX;
}
bool is_takeover_guard(const struct call *c); /* not one of those that watch names and ids */

/* A semaphore that we have raised by one. */
struct sema {
	addr_t addr;
	u32 module;
};

/* A place of a link: one function in this process. */
struct site {
	u32 key;           /* grows; sites are sorted by it */
	u32 link;
	u32 module;
	bool exit;
	u8 tactic;         /* enum site_tactic */
	u16 bytes;         /* displaced */
	addr_t func;       /* link address of the function */
	addr_t at;         /* link address of the first hook point */
	u64 cookie;
	addr_t sema;       /* link address of its semaphore, 0 none */
	addr_t site_data;  /* 0: not yet */
	addr_t arena;      /* that holds the latest site_data; 0 none */
	char *symbol;      /* a SPEC: ":main", "libc:malloc+0x4" */
};

struct target {
	u32 no;
	pid_t pid;
	uid_t uid;
	u64 starttime;
	char comm[16];
	char *path;
	char since[32];
	struct threads *threads;
	bool installed;    /* threads, private page and environment are there */
	s64 tid_off, rseq_off;
	addr_t clock;      /* __vdso_clock_gettime */
	u32 denied;        /* enum target_call: what its filters forbid the runtime */
	addr_t main_stack_lo, main_stack_hi;
	addr_t threads_addr, private_addr;
	addr_t cells_addr; /* of struct cell_area, behind its stubs; 0: no return is taken over */
	bool cells_retired; /* nor is any from now on; they go with the code that leads there */
	addr_t trap_addr;  /* of the area of breakpoints (base/trap.h), 0: there are none … */
	bool trap_retired; /* … any more; it goes when no SIGTRAP is under way */
	addr_t side_addr; /* side stacks, 0: none needed so far */
	u32 last_site;
	u32 nthreads;      /* at the last stop */
	u32 stops;
	u64 stopped_ns;
	VEC(struct target_module) modules;
	VEC(struct mapping) mappings;
	VEC(struct arena) arenas;
	VEC(struct stub_page) stub_pages;
	VEC(struct stub) stubs;
	VEC(struct trap_slot_of) traps;
	VEC(struct patched) windows;
	VEC(struct call) calls;
	VEC(struct site) sites;
	VEC(struct sema) semas;

	/* the daemon's alone */
	int pidfd;
	void *source;      /* of the event loop */
	bool leftover;     /* something was left there by a worker that died */
	u64 next_retry_ns; /* of retired ranges … */
	u32 retries;       /* … and how often that was in vain */
};

struct uerr *target_create(u32 no, pid_t pid, struct target **ret) UERR_MUST_CHECK;
void target_destroy(struct target *t); /* NULL is fine */

/* "STATE/targets/PID.journal"; malloc'd */
char *target_journal(const char *state_dir, pid_t pid);

/* Nothing of ours is in it. */
bool target_is_clean(const struct target *t);
u32 target_count_sites(const struct target *t, u32 link);
bool target_has_link(const struct target *t, u32 link);
u32 target_retired(const struct target *t);
/* Does a site take returns over, other than those of LINKS? */
bool target_takes_over(const struct target *t, const u32 *links, size_t nlinks);
bool target_has_guards(const struct target *t); /* for returns that are taken over */
/* Hooks at what changes a thread's name or ids are in it. */
bool target_watches_identity(const struct target *t);
u64 target_mapped_bytes(const struct target *t);
u64 target_map_bytes(const struct target *t);
struct arena *target_arena(const struct target *t, addr_t addr);
struct stub *target_stub(const struct target *t, addr_t site); /* or NULL */
bool stub_page_live(const struct target *t, const struct stub_page *page);
struct mapping *target_mapping(const struct target *t, u32 map, bool claims);
struct mapping *target_unwind(const struct target *t, u64 key); /* or NULL */

/* The index of a module, added when it is new; UINT32_MAX when out of memory. */
u32 target_module_index(struct target *t, const struct target_module *m);

/* Puts calls and windows in order, after some were added. */
void target_sort(struct target *t);
struct site *target_site(const struct target *t, u32 key);
/* The calls of a hook point, NCALLS of them. */
const struct call *target_calls(const struct target *t, u32 module, addr_t point, bool exit, size_t *ncalls);
/* The first window that overlaps [addr, addr + len) of a module, or NULL. */
struct patched *target_window(const struct target *t, u32 module, addr_t addr, u32 len);

/* A copy for the fork child PID, which has the same mappings and patches. */
struct uerr *target_clone(const struct target *t, pid_t pid, struct target **ret) UERR_MUST_CHECK;

/* T becomes what CHANGED is, and keeps what is the daemon's alone. CHANGED is
 * destroyed. */
void target_replace(struct target *t, struct target *changed);

/* Everything but what is the daemon's alone. unpack sets a target up from
 * zeros; its `threads` stays NULL. */
void target_pack(const struct target *t, struct packer *p);
struct uerr *target_unpack(struct unpacker *u, struct target **ret) UERR_MUST_CHECK;
