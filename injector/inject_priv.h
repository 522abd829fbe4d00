/* SPDX-License-Identifier: MIT */
/* What the files behind inject.h share: the state of one injection. */
#pragma once
#include "base/vec.h"
#include "injector/inject.h"
#include "injector/journal.h"
#include "injector/near_alloc.h"
#include "injector/remote_batch.h"
#include "injector/target_maps.h"
#include "injector/tracee.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/* A range that this injection has placed. */
struct placed {
	enum range_kind kind;
	addr_t addr;
	u64 size;
	u64 inode;
	bool mapped;    /* it is there (as far as we know) */
	bool committed; /* and stays */
};

struct share {
	addr_t addr;
	u64 size;
	int fd;
	bool readonly;
	u64 inode;
};

struct poke {
	addr_t addr;
	u8 *bytes;
	size_t len;
};

struct stub_write {
	addr_t addr;
	u8 len;
	u8 bytes[16];
};

/* A page of stubs, as it is and as it shall be. */
struct stub_page_write {
	addr_t addr;
	u8 old[PAGE], new[PAGE];
	bool written;
};

struct gate {
	addr_t lo, hi;
};

struct sema_change {
	struct inject_sema s;
	u16 before;
	bool gone; /* unmapped with its file */
	bool done;
};

struct unmap_req {
	addr_t addr;
	u64 size;
	bool is_code;
	bool is_stubs; /* code that leads to other code */
	addr_t lo, hi; /* what a stack word must point to, to matter */
	bool is_counted; /* and elsewhere ENTERED says enough */
	bool (*entered)(void *arg);
	void *arg;
	bool done;
};

/* A page of text: as it is, as it shall be, as its file has it. */
struct text_page {
	addr_t addr;
	bool restore;   /* some patch on it brings the file's bytes back */
	bool file_known;
};

struct patch_set {
	VEC(struct patch) patches;    /* by address once prepared */
	VEC(struct text_page) pages;  /* by address */
	VEC(addr_t) interior;         /* instruction boundaries inside windows, sorted */
	VEC(struct patch_move) outside; /* moves from elsewhere, by `from` */
	u8 *old, *new, *file;         /* pages.n pages each */
	bool copied;                  /* pages were made private before the change */
};

struct injection {
	struct tracee t;
	struct target_maps maps;
	struct gadgets gadgets;
	bool have_gadgets;
	addr_t batch_code;   /* remote_batch_code in the target, or 0 */
	bool stray;          /* a thread may be in that still: it got away from us */
	u64 alone_ns;        /* how long its only thread stood still for inject_place() */
	bool map_files;      /* /proc/PID/map_files can be opened: no descriptor in the target is needed */
	struct journal_writer journal;
	struct inject_facts facts;
	bool have_facts;
	struct inject_thread *threads;
	size_t nthreads;
	VEC(struct placed) placed;
	VEC(struct near_zone) exact; /* what ranges that are being placed must have */
	VEC(struct share) shares;
	VEC(struct poke) pokes;
	VEC(struct stub_write) stubs;
	VEC(struct stub_page_write) stub_pages; /* made of these before the window */
	VEC(struct gate) gates;
	VEC(struct unmap_req) unmaps;
	addr_t cells;        /* as inject_cells() says */
	bool cells_leave;
	bool cells_ready;    /* as the stop now going on has found: code may go */
	bool cells_counted;  /* what has been lost: once, in the first stop */
	u32 cells_lost;
	struct {
		addr_t area;     /* as inject_traps() says; 0: none */
		enum inject_traps_change change;
		u32 enter, leave;
		bool installed;  /* by this commit */
		bool lost;
		bool quiet;      /* nobody stands in the handler, as the stop now going on has found … */
		bool due;        /* … nor will: the application can have its own */
		bool gone;       /* it has */
		u8 looks;        /* how often somebody was found inside of our code */
	} traps;
	bool torn;           /* a write of text failed, and so did its undoing */
	VEC(struct sema_change) semas;
	struct patch_set set;
	struct goroutines go;
};

/* inject.c */
struct uerr *inject_refresh_maps(struct injection *in) UERR_MUST_CHECK;
struct uerr *inject_need_gadgets(struct injection *in) UERR_MUST_CHECK;
void inject_clear_work(struct injection *in);

/* Finds, seizes and stops all threads; the caller releases, after an error too. */
struct uerr *inject_stop_all(struct injection *in) UERR_MUST_CHECK;

/* Among the threads that stand still, one that can make calls; after an error
 * *ret is NULL: none can now. */
struct uerr *inject_pick_stopped(struct injection *in, struct thread **ret) UERR_MUST_CHECK;

/* Stops one thread that can make calls, and only that; the caller releases. */
struct uerr *inject_stop_worker(struct injection *in, struct thread **ret) UERR_MUST_CHECK;

#define PRIVATE_RANGES 4 /* RANGE_PRIVATE in one injection: their calls go with the last of a batch */

/* place.c: unmaps what was placed and not committed. */
void place_undo(struct injection *in);

/* What an mmap of SIZE there that ended with CODE means. */
struct uerr *cannot_map(const struct injection *in, s64 code, u64 size);

/* facts.c */
struct uerr *facts_collect(struct injection *in) UERR_MUST_CHECK;

/* seccomp.c: TH is stopped. What the target's filters forbid the runtime (enum
 * target_call); everything when they cannot be seen. */
u32 seccomp_denied(struct injection *in, const struct thread *th);
struct uerr *seccomp_check(struct injection *in, struct thread *th) UERR_MUST_CHECK;

/* share.c: all threads stopped. Reads back memfds made in the target. */
struct uerr *share_map_all(struct injection *in, struct remote *r) UERR_MUST_CHECK;
struct uerr *share_make_memfd(struct injection *in, struct remote *r, u64 size, s64 *remote_fd, int *ret) UERR_MUST_CHECK;

/* sema.c: while it runs, with fresh maps; all threads stopped (raised ones can be
 * lowered again, after an error too); then what is true; after a crash. */
struct uerr *semas_prepare(struct injection *in) UERR_MUST_CHECK;
struct uerr *semas_raise(struct injection *in) UERR_MUST_CHECK;
void semas_unraise(struct injection *in);
void semas_lower(struct injection *in);
void semas_journal(struct injection *in, bool done);
struct uerr *semas_undo(struct injection *in, const struct journal *j) UERR_MUST_CHECK;

/* patch.c */
struct uerr *patch_prepare(struct injection *in) UERR_MUST_CHECK; /* while it runs */
/* All threads stopped: is every thread off the windows? Plans moves; false:
 * try again later, with WHY. */
bool patch_threads_clear(struct injection *in, struct user_regs_struct *moved, bool *is_moved, const char **why);
struct uerr *patch_verify(struct injection *in) UERR_MUST_CHECK;
struct uerr *patch_write(struct injection *in, const struct thread *th) UERR_MUST_CHECK;
/* While the target runs: takes the cost of private pages out of the window. Where no
 * change follows, the second and third make patch_give_back() take them away again. */
void patch_copy_pages(struct injection *in);
void patch_uncopy_prepare(struct injection *in);
struct uerr *patch_uncopy_verify(struct injection *in) UERR_MUST_CHECK;
bool patch_wants_give_back(const struct injection *in);
/* Into OPS, which has room for one a page: what drops our copies; how many. */
size_t patch_give_back(struct injection *in, struct remote_op *ops);
void patch_set_deinit(struct patch_set *set);

/* Is ADDR a boundary between instructions of one window? */
bool patch_is_inside(const struct patch_set *set, addr_t addr);

/* goroutines.c: all threads stopped. Does what was preempted with its stack at SP, now at IP,
 * go on inside of a window? And does any goroutine that waits? What cannot be read is not clear. */
bool goroutines_preempted_inside(struct injection *in, addr_t sp, addr_t ip);
bool goroutines_are_clear(struct injection *in, const char **why);

/* cells.c: all threads stopped, maps fresh; false: somebody is about to use what
 * would be unmapped. */
bool cells_settle(struct injection *in);

/* trap.c: all threads stopped. Before text is changed, *AGAIN: it may work after a
 * while; what the former does is undone by the latter. */
struct uerr *traps_prepare(struct injection *in) UERR_MUST_CHECK;
struct uerr *traps_install(struct injection *in, struct remote *r) UERR_MUST_CHECK;
struct uerr *traps_uninstall(struct injection *in, struct remote *r) UERR_MUST_CHECK;
void traps_look(struct injection *in); /* sets `quiet` and `due` */
bool traps_is_area(const struct injection *in, const struct unmap_req *u);

/* quiesce.c: all threads stopped, maps fresh. Is anyone in [addr, addr+size)? */
bool quiesce_is_empty(struct injection *in, const struct unmap_req *u);
bool quiesce_cell_stubs_empty(struct injection *in, const struct unmap_req *u);
bool quiesce_gate_empty(struct injection *in, const struct gate *g);
/* Does a signal frame lead to [lo, hi), at a multiple of STEP from LO? Or is anybody there? */
bool quiesce_stubs_entered(struct injection *in, addr_t lo, addr_t hi, u32 step);
bool quiesce_routine_empty(struct injection *in); /* of a stray */
