/* SPDX-License-Identifier: MIT */
/*
 * Changing a running process, as a transaction: everything slow first, while
 * it runs; then all its threads stand still for a moment; then it runs on as
 * if nothing had been. Called in a worker process (one a request), because
 * ptrace belongs to a thread and a target may hang.
 *
 *	inject_begin      find the process, seize it (it runs on)
 *	inject_place      reserve address ranges near a module; one thread stops
 *	                  for each batch of remote mmaps, the others run
 *	… the caller fills the ranges through its own mapping …
 *	inject_share      memfds to be mapped in the window
 *	inject_patch      bytes to be changed in the window
 *	inject_commit     all threads stop: check, map, move, write; detach
 *	inject_end        undoes whatever was done; also after a failed commit
 *
 * Every step that changes the target is in the journal before it is done, so
 * that whoever comes after a dead worker can undo it (inject_undo).
 */
#pragma once
#include <sys/types.h>

#include "base/types.h"
#include "base/uerr.h"

struct injection;

struct inject_opts {
	pid_t pid;
	const char *journal;   /* path of the target's journal file; created when missing */
	u32 timeout_ms;        /* for any wait on the target; 0: 2000 */
	/* Ids and capabilities to take before seizing, so that the kernel
	 * decides who may trace whom; (uid_t)-1: stay as we are. */
	uid_t uid;
	gid_t gid;
};

/* UERR_NO_TARGET; UERR_NOT_PERMITTED with who owns it, yama, or who traces it
 * already ("is being traced by gdb (pid 640): detach that first");
 * UERR_CANNOT_PROBE for 32-bit and foreign ABI, a zombie, a filter that would
 * kill the injected calls. Leaves the process running. */
struct uerr *inject_begin(const struct inject_opts *opts, struct injection **ret) UERR_MUST_CHECK;

/* What was found about the process while one thread stood still. */
struct inject_facts {
	s64 tid_off;           /* %fs offset of the tid over all threads, 0 none */
	s64 rseq_off;          /* %fs offset of struct rseq, 0 none */
	addr_t vdso;           /* its vDSO's base, 0 none */
	addr_t main_stack_lo, main_stack_hi;
	u32 nthreads;
	u64 starttime;         /* field 22 of /proc/PID/stat */
	pid_t ns_tgid;         /* its pid in its own namespace */
	bool seccomp;          /* a filter is installed */
	u32 denied;            /* enum target_call: what a filter of some thread would kill for, or more */
};
struct uerr *inject_facts(struct injection *in, struct inject_facts *ret) UERR_MUST_CHECK;

/* Stack mapping of each thread, for the thread table. */
struct inject_thread {
	pid_t tid;             /* in the target's namespace */
	addr_t stack_lo, stack_hi;
};
struct uerr *inject_threads(struct injection *in, struct inject_thread **ret, size_t *nret) UERR_MUST_CHECK;

enum range_kind {
	RANGE_CODE = 1,    /* anonymous shared; R-X there, RW here */
	RANGE_SHARED = 2,  /* anonymous shared; RW on both sides */
	RANGE_PRIVATE = 3, /* reserved (PROT_NONE); from the window on anonymous private, MADV_WIPEONFORK, RW
			    * there; not mapped here */
	RANGE_MEMFD = 4,   /* reserved (PROT_NONE); inject_share() maps a memfd over it in the window */
	RANGE_STUBS = 5,   /* anonymous private, R-X there, not mapped here: written by inject_stub() in the window;
			    * each process has its own, a fork child too */
	RANGE_CELLS = 6,   /* anonymous private, RW there, not mapped here; a fork child has a copy */
	RANGE_TRAP = 7,    /* as STUBS: the area of breakpoints (base/trap.h), whose data is a CELLS range behind it */
};

struct inject_range {
	/* in */
	enum range_kind kind;
	u64 size;              /* multiple of the page size */
	addr_t near;           /* must be within ±2 GiB of [near, near_end), or 0: anywhere */
	addr_t near_end;
	addr_t exact;          /* exactly here, or not at all; 0: where there is room */
	bool behind;           /* directly behind the range before it */
	/* out */
	addr_t addr;           /* in the target */
	void *local;           /* CODE, SHARED: here; owned by the caller (munmap) */
	u64 inode;             /* of the mapping: how descendants are found */
};

/* Places RANGES[n] (in one stop of one thread). UERR_CANNOT_PROBE when the place
 * of an exact one is taken. */
struct uerr *inject_place(struct injection *in, struct inject_range *ranges, size_t n) UERR_MUST_CHECK;

/* In a stop ahead of the change of text: maps FD (borrowed) over the RANGE_MEMFD range at ADDR. */
struct uerr *inject_share(struct injection *in, addr_t addr, u64 size, int fd, bool readonly) UERR_MUST_CHECK;

/* Before any text is changed: LEN bytes of LOCAL buffer to a RANGE_PRIVATE or
 * RANGE_CELLS address of this injection. */
struct uerr *inject_poke(struct injection *in, addr_t addr, const void *bytes, size_t len) UERR_MUST_CHECK;

/* In the window, before any text is changed: LEN bytes (up to 16, within a page)
 * of code to ADDR, in a RANGE_STUBS range of this injection or of an earlier
 * one. Nobody may be inside the bytes that stand there but at the first. */
struct uerr *inject_stub(struct injection *in, addr_t addr, const void *bytes, size_t len) UERR_MUST_CHECK;

/* A stub that no text leads to any more: as long as somebody stands on it, no
 * code is unmapped. */
struct uerr *inject_gate(struct injection *in, addr_t addr, u64 size) UERR_MUST_CHECK;

struct patch_move {
	addr_t from, to; /* a thread whose next instruction is at `from` goes on at `to` */
};

/* One change of text. Memory must hold `old` when the window opens, or the
 * commit is refused (UERR_CANNOT_PROBE: a breakpoint or kernel uprobe stands
 * there, or the file was changed) and nothing was touched. */
struct patch {
	addr_t addr;
	u8 len;            /* up to 64 */
	u8 keep;           /* bytes behind these that must be as `old_bytes` goes on, and are not changed */
	u8 old_bytes[64];
	u8 new_bytes[64];
	struct patch_move moves[24]; /* also from places outside: code that the window no longer leads to */
	u8 nmoves;
	/* for the journal: how to find the original bytes in the file */
	u64 file_dev, file_ino, file_off;
	u32 link;          /* caller's mark, kept in the journal */
	bool restore;      /* new_bytes are the file's: the page is given back
	                    * (MADV_DONTNEED) when the whole of it equals the file again */
};
struct uerr *inject_patch(struct injection *in, const struct patch *p) UERR_MUST_CHECK;

/* Raises by one, or lowers by one, the u16 at ADDR in the private data of a file:
 * in the window, raised before text is changed, lowered after. One that is to be
 * lowered and has gone with its file, or is zero, is left. */
struct inject_sema {
	addr_t addr;
	u64 file_dev, file_ino;
	bool raise;
};
struct uerr *inject_sema(struct injection *in, const struct inject_sema *s) UERR_MUST_CHECK;

/* In the window, after the patches: unmaps [addr, addr+size) if no thread is
 * or will be inside (rip, rseq_cs, stack words, and the caller's own ENTERED
 * test, called while all threads stand still: true = somebody is inside). The
 * target is let go and stopped again a few times; what stays is left mapped
 * R-X and reported as retired. */
struct uerr *inject_unmap(struct injection *in, addr_t addr, u64 size, bool is_code,
			  bool (*entered)(void *arg), void *arg) UERR_MUST_CHECK;

/* The same for code of which only [lo, hi) can be run while ENTERED says no
 * (trampolines before and behind their counters): a word on a stack that points
 * elsewhere into the range is then a stale one, and so is one that neither a signal
 * nor a call in there has left. Neither keeps it mapped. */
struct uerr *inject_unmap_counted(struct injection *in, addr_t addr, u64 size, addr_t lo, addr_t hi,
				  bool (*entered)(void *arg), void *arg) UERR_MUST_CHECK;

/* The same for a page of stubs: code is unmapped only when these are empty, since
 * who stands on one is about to enter it. */
struct uerr *inject_unmap_stubs(struct injection *in, addr_t addr, u64 size) UERR_MUST_CHECK;

/* The process has cells at AREA (base/cells.h). Whenever code is unmapped, those
 * whose code that is run nothing any more; when they LEAVE, because no text takes
 * returns over from now on, the return addresses that they hold go back to where
 * they stood. The caller unmaps them, and their stubs, as ranges like others. */
void inject_cells(struct injection *in, addr_t area, bool leave);

/* The process has breakpoints whose area is at AREA: a RANGE_TRAP range and its data,
 * to which the caller writes by inject_stub(). Before text is changed, the handler is
 * installed (ENTER and LEAVE are offsets in the area; UERR_CANNOT_PROBE where a thread
 * blocks SIGTRAP), or where there are more it is made sure that it is still what is
 * installed. When the last have gone the application gets back what it believes to
 * have, as soon as no SIGTRAP is under way; until then the area stays, and with it all
 * code. */
enum inject_traps_change { TRAPS_INSTALL, TRAPS_CHECK, TRAPS_STAY, TRAPS_GO };
void inject_traps(struct injection *in, addr_t area, enum inject_traps_change change, u32 enter, u32 leave);

/* After a commit that failed: the application has installed another handler behind
 * our back, so that the next breakpoint that is met may be its end. */
bool inject_traps_lost(const struct injection *in);

/* In the window, system calls that have to be made there are made in one go by
 * the routine that inject_batch_code() gives, of which the caller has put a copy
 * at ADDR in a CODE range. Without, each costs two more stops of one thread. */
void inject_use_batch(struct injection *in, addr_t addr);
const u8 *inject_batch_code(size_t *size);

struct inject_stats {
	u64 stopped_ns;      /* all threads stood still */
	u32 nthreads;
	u32 moved;           /* threads taken out of patched bytes */
	u32 stops;
	u32 retired;         /* ranges that could not be unmapped yet */
	u32 lost;            /* returns that were taken over, and went another way */
};

/* Does it, and lets the process go. On an error nothing remains but what was
 * there before inject_begin (say so in the message when something does). */
struct uerr *inject_commit(struct injection *in, struct inject_stats *ret) UERR_MUST_CHECK;

/* Ends an injection: whatever is not committed is undone; the process runs
 * on. NULL is fine. Always to be called. */
void inject_end(struct injection *in);

/*
 * The journal: one file for each target, rewritten in place by append; the
 * truth about what is in a target, whoever wrote it and died.
 */
struct journal_range {
	enum range_kind kind;
	addr_t addr;
	u64 size;
	u64 inode;
	bool retired;
};
struct journal_site {
	addr_t addr;
	u8 len;
	u8 old_bytes[64], new_bytes[64];
	u8 prev_bytes[64]; /* what stood there before new_bytes: an earlier jump, or old_bytes */
	u64 file_dev, file_ino, file_off;
	u32 link;
	bool active;   /* false: was about to be written */
};
enum sema_state { SEMA_RAISING = 1, SEMA_RAISED, SEMA_LOWERING };
struct journal_sema {
	addr_t addr;
	u64 file_dev, file_ino;
	enum sema_state state;
	u16 before; /* its value before it was to be changed */
};
struct journal {
	pid_t pid;
	u64 starttime;
	char boot_id[40];
	struct journal_range *ranges;
	size_t nranges;
	struct journal_site *sites;
	size_t nsites;
	struct journal_sema *semas;
	size_t nsemas;
	u64 sockets[2]; /* inodes of a pair of sockets that a commit had made in the target, 0 none */
};
/* A file that is cut short anywhere is fine; one that ends before its first
 * record gives an empty journal. */
struct uerr *journal_read(const char *path, struct journal *ret) UERR_MUST_CHECK;
void journal_deinit(struct journal *j);

/* Of a Go program: its list of goroutines, and the functions that one which was preempted
 * waits in. Addresses in the target. */
struct goroutines {
	addr_t list;                   /* runtime.allgs; 0: none are looked at */
	addr_t preempt_lo, preempt_hi; /* runtime.asyncPreempt */
	addr_t park_lo, park_hi;       /* runtime.asyncPreempt2 */
};

/* At the next commit no goroutine may wait inside of a window. */
void inject_goroutines(struct injection *in, const struct goroutines *g);

/* Undoes everything that JOURNAL says about process PID (its own, or a fork
 * child with the same mappings): original bytes back, ranges unmapped unless
 * someone is inside (then retired). For detach-all, for dead workers and for
 * adoption. ENTERED as in inject_unmap. */
struct uerr *inject_undo(const struct inject_opts *opts, const struct journal *j, bool (*entered)(void *),
			 void *arg, struct inject_stats *ret) UERR_MUST_CHECK;

/* Processes other than PID that map INODE of ours (fork children; not those that
 * share PID's memory), into ret[*nret], malloc'd. */
struct uerr *inject_descendants(pid_t pid, u64 inode, pid_t **ret, size_t *nret) UERR_MUST_CHECK;

/* Brings a child that is about to exec to the point where its libraries are
 * mapped but nothing of them has run (the dynamic linker's debug hook; a static
 * program: its entry), and leaves it stopped (SIGSTOP) there. PID must be
 * waiting before execve(2); READY is called once it is seized and may exec.
 * UERR_FAILED when it exits or fails to exec first. */
struct uerr *launch_hold(pid_t pid, void (*ready)(void *arg), void *arg, u32 timeout_ms) UERR_MUST_CHECK;
