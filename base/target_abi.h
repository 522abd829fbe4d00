/* SPDX-License-Identifier: MIT */
/*
 * What lies in a target, as trampolines, helpers and the daemon see it: the
 * frame that a hit leaves on the target's stack, the records of its threads,
 * and the constants of a site and of a target. The injector emits code that
 * follows this file without knowing what is called; vm and maps are called
 * without knowing who calls. Everything here is fixed width; freestanding.
 *
 * Who may write what (W = the target can write it too, so whoever reads it
 * reads each word once and bounds it):
 *
 *   code arena   R-X in the target, RW in the daemon: runtime blob, programs,
 *                trampolines, struct target_env, struct site_data
 *   thread table W shared: struct thread_table + records; outlives the target
 *   private pages W private, MADV_WIPEONFORK: struct target_private, and a struct
 *                thread_identity for each record
 *   map memory   W shared (see maps/umap.h)
 *
 * A hit, step by step (injector/trampoline.c emits it):
 *
 *   jmp ─▶ tid = %fs:[tid_off]; rec = table slot of tid (slow path: call)
 *          rec->entries++
 *          struct hook_frame on the stack; the needed registers stored into it
 *          for each call of the hook: rdi = &frame->regs, rsi = 0, rdx = frame
 *          registers restored, rec->leaves++
 *          displaced instructions, jmp back
 */
#pragma once
#include "types.h"

#define TARGET_ABI_VERSION 1u

/* pt_regs of x86-64, the layout that BPF programs know (struct pt_regs in
 * Linux' arch/x86/include/uapi/asm/ptrace.h; 21 words, ctx of a kprobe
 * program). At an entry hook `ip` is the address of the probed instruction and
 * `sp` points at the return address; at an exit hook `ax` is the result, `ip`
 * the address of the ret, or where the return was taken over the address that it
 * leads to. `cs`, `ss`, `orig_ax` are filled as the kernel does
 * (0x33, 0x2b, -1) only when the program reads them. */
struct target_regs {
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	u64 ax, cx, dx, si, di;
	u64 orig_ax, ip, cs, flags, sp, ss;
};
_Static_assert(sizeof(struct target_regs) == 168, "pt_regs");

/* Bit numbers in masks of target_regs fields: the word's index (r15 = 0 … ss =
 * 20), so that TARGET_REG_BIT(di) is the mask of `di`. */
#define TARGET_REG_BIT(field) (1u << (offsetof(struct target_regs, field) / 8))
#define TARGET_REGS_ALL ((1u << 21) - 1)

/* An operation on a map that a thread has begun: if the thread dies, the
 * daemon finishes or undoes it (maps/hash.c). Zero: none. */
struct map_intent {
	u64 alloc;        /* map id << 32 | element index + 1 */
	u64 unlink;       /* map id << 32 | element index + 1 */
	u64 unlink_state; /* element state at the unlink */
};

#define MAP_INTENTS 3 /* operations nest: a signal handler can interrupt one */

/* One thread of a target. Written by that thread alone, but for `tid`, which
 * is claimed by compare-and-swap from 0 and given back by the daemon once the
 * thread is gone (counters stay: only their sum over all records means
 * anything). 128 bytes: two cache lines that no other thread touches. */
struct thread_rec {
	u32 tid;      /* as the target's own pid namespace numbers it; 0 free, REC_BUSY */
	u32 depth;    /* map_intents in use */
	u64 entries;  /* hits begun */
	u64 leaves;   /* hits ended; all threads' sums equal: nobody is inside */
	u64 stack_lo; /* the mapping of the thread's stack as found at attach … */
	u64 stack_hi; /* … or 0, 0 */
	struct map_intent intents[MAP_INTENTS];
	u64 missed;     /* hits that could not run or lost something */
	u64 random;     /* state of get_prandom_u32, 0 not seeded */
};
_Static_assert(sizeof(struct thread_rec) == 128, "two cache lines");

/* The table, at the start of its mapping; records follow at THREAD_RECS_OFF.
 * Slot of a tid: tid & (nrecs - 1), then linear probing, THREAD_PROBES at
 * most; when none is free the overflow record rec[nrecs] serves (its counters
 * may be lost, so code used through it is retired, never unmapped). */
struct thread_table {
	u64 magic; /* THREAD_TABLE_MAGIC */
	u32 version;
	u32 nrecs; /* a power of two; a hint: the truth is in target_env */
	u64 missed; /* hits without any record */
};
/* As a tid: between two owners. Who finds a record free, or its thread dead, puts
 * this there by a compare-and-swap, and after that the new number, or 0, in the
 * same way: in between somebody may have died. */
#define REC_BUSY (~0u)
#define THREAD_TABLE_MAGIC 0x31646f7270757464ull
#define THREAD_RECS_OFF 4096u
#define THREAD_PROBES 16u
#define THREAD_TABLE_SIZE(nrecs) (THREAD_RECS_OFF + ((u64)(nrecs) + 1) * sizeof(struct thread_rec))
#define THREAD_RECS_DEFAULT 1024u

/* Owner of a map element: 24 bits, target number << 10 | record index. Target
 * number 0 is the daemon itself (or the process that embeds libbpfvm). */
#define OWNER_REC_BITS 10
#define OWNER_ID(target_no, rec) ((u32)(target_no) << OWNER_REC_BITS | (u32)(rec))

/* CLOCK_MONOTONIC in TSC ticks, for TARGET_CLOCK_NS from a moment on: it was
 * `ns` at `tsc`, and `ticks` from there on are mult / 2^32 ns each. Written by
 * whichever thread finds it out of date (vm/runtime/clock.c). All zero: not
 * known. */
struct target_clock {
	u32 seq;    /* odd: being written */
	u32 doubts; /* how often the clock was not where it was expected */
	u64 tsc, ns, mult, ticks;
	u64 asked_tsc, asked_ns; /* when the kernel was asked last, and what it said */
	u64 began; /* TSC when somebody last set about writing */
};
#define TARGET_CLOCK_NS 200000u
#define TARGET_CLOCK_SPARES 8u

/* What a process must forget in a fork child: private anonymous pages with
 * MADV_WIPEONFORK, so that a child reads zeros. This is the first. */
struct target_private {
	u32 tgid; /* in its own pid namespace; 0: not known, ask the kernel */
	u32 clock_no; /* 0: `clock` is the one in use; n: spares[n - 1]; larger: none */
	struct target_clock clock;
	struct target_clock spares[TARGET_CLOCK_SPARES]; /* each for one whose writer never ended */
	u32 renamed; /* how often somebody has set out to change a name or an id (env.identity) */
};

/* Behind that page, one for each record of the thread table: what the kernel said
 * last of that thread. Written by the thread alone; `seq` is odd meanwhile, for
 * handlers that interrupt it. */
struct thread_identity {
	u32 seq;
	u32 tid;     /* whose */
	u32 renamed; /* target_private.renamed before it was asked */
	u32 have;    /* IDENTITY_… */
	u64 tick;    /* of the coarse clock before it was asked: the answer holds for that long */
	u32 uid, gid;
	u64 comm[2];
	u64 pad[2];
};
_Static_assert(sizeof(struct thread_identity) == 64, "a cache line");
enum { IDENTITY_COMM = 1, IDENTITY_IDS = 2 };
#define TARGET_IDENTITY_OFF 4096u
#define TARGET_PRIVATE_SIZE(nrecs) \
	((TARGET_IDENTITY_OFF + (u64)(nrecs) * sizeof(struct thread_identity) + 4095u) & ~4095ull)
_Static_assert(sizeof(struct target_private) <= TARGET_IDENTITY_OFF, "its page");

#define TARGET_SEGMENTS 32

/* The system calls that the runtime makes where there is no other way. One that
 * a seccomp filter of the target answers with more than an error (it kills, or
 * asks somebody) is never made. */
enum target_call {
	TARGET_CALL_VM_READ = 1,   /* process_vm_readv */
	TARGET_CALL_VM_WRITE = 2,  /* process_vm_writev */
	TARGET_CALL_TID = 4,       /* gettid */
	TARGET_CALL_PID = 8,       /* getpid */
	TARGET_CALL_CPU = 16,      /* getcpu */
	TARGET_CALL_CLOCK = 32,    /* clock_gettime */
	TARGET_CALL_NAME = 64,     /* prctl(PR_GET_NAME) */
	TARGET_CALL_IDS = 128,     /* getuid, getgid */
	TARGET_CALL_WAKE = 256,    /* futex(FUTEX_WAKE) */
	TARGET_CALL_ALIVE = 512,   /* tkill(tid, 0) */
	TARGET_CALL_SIGNAL = 1024, /* kill, tgkill */
	TARGET_CALLS_ALL = 2047,
};

/* Constants of a target, in its code arena: it cannot write them. All
 * addresses are the target's. */
struct target_env {
	u32 version;     /* TARGET_ABI_VERSION */
	u32 target_no;   /* 1…16383, unique in the daemon while it is in use */
	s64 tid_off;     /* %fs:tid_off holds the tid (u32); 0: use gettid(2) */
	s64 rseq_off;    /* %fs:rseq_off is the struct rseq; 0: not registered */
	u32 nrecs;       /* of the thread table */
	u32 ncpus;       /* possible CPUs, as in the daemon's maps */
	addr_t threads;  /* struct thread_table */
	addr_t private_; /* struct target_private */
	addr_t vdso_clock_gettime; /* 0: use the system call */
	addr_t trace_ring; /* struct trace_ring (vm/runtime/tracering.h), 0 none */
	addr_t main_stack_lo, main_stack_hi; /* [stack]; lo is what the limit allows */
	addr_t cells;    /* struct cell_area (base/cells.h), 0: no return is taken over */
	addr_t unwind;   /* struct unwind_image (base/unwind.h), 0: frame pointers alone */
	addr_t code_lo, code_hi; /* the arena that this lies in: a stack ends there */
	addr_t all_cells; /* as `cells`, but of all arenas of the process, for who reads return
			   * addresses by the kernel's leave; may be gone. Written by the daemon */
	/* Ranges that stay mapped as long as the process lives, readable: of the
	 * program and of libraries that cannot be unloaded. prot is PROT_READ|PROT_WRITE. */
	u32 nsegments;
	u32 tsc_clock; /* 1: the kernel itself keeps the time by the TSC */
	u32 denied;    /* enum target_call: never to be made here */
	u32 tick_ns;   /* of the kernel's coarse clock; 0: not known */
	u32 identity;  /* 1: whoever changes a thread's name or ids counts in target_private.renamed first */
	u32 pad;
	u64 jiffies;   /* the kernel's ticks when that clock was 0 */
	u64 pidns_dev, pidns_ino; /* of its pid namespace, as stat(2) has them; 0: not known */
	struct {
		addr_t lo, hi;
		u64 prot;
	} segments[TARGET_SEGMENTS];
};

/* Constants of one program at one site, in the code arena. */
struct site_data {
	addr_t env;     /* struct target_env */
	addr_t claims;  /* struct umap_claims of the program's object, 0 none */
	u64 cookie;     /* bpf_get_attach_cookie */
	u64 func_ip;    /* bpf_get_func_ip: address of the function's entry */
	u32 nclaims;    /* slots behind claims: ncpus + spares */
	u32 link;       /* id of the link, for messages */
	addr_t rings;   /* the first RINGBUF of the program's object (struct umap), 0 none */
	u64 exit;       /* the function returns here: its stack is its caller's */
};

/* The last bytes of a code arena: for whoever takes it away without knowing more
 * than that it is there (injector/undo.c). */
struct arena_trailer {
	u64 magic; /* ARENA_TRAILER_MAGIC */
	u32 version;
	u32 nrecs;      /* of the thread table */
	addr_t threads; /* struct thread_table */
	u64 code, top;  /* offsets: trampolines lie in between */
};
#define ARENA_TRAILER_MAGIC 0x31616e6572617075ull
#define ARENA_NRECS_MAX 65536u

/* A hit, on the target's stack. The program's ctx is &regs. */
struct hook_frame {
	addr_t site;    /* struct site_data: set before each call */
	addr_t rec;     /* struct thread_rec of this thread; never 0 */
	u64 slot;       /* per-CPU slot claimed by the program now running, or
	                 * HOOK_NO_SLOT; owned by vm (claimed and released there) */
	u32 end_stack;  /* owned by vm: how far below this frame the stack is where the program can be ended early */
	u16 signal;     /* owned by vm: to be sent when the program has ended; HOOK_SIGNAL_THREAD: to the thread */
	u8 override;    /* a program wants the function skipped, with the result in regs.ax; the
	                 * trampoline sets it to 0 where it asks */
	u8 tail_calls;  /* owned by vm: made in this run */
	struct target_regs regs;
};
#define HOOK_NO_SLOT (~0ull)
#define HOOK_SIGNAL_THREAD 0x100u
_Static_assert(sizeof(struct hook_frame) == 200, "trampolines depend on it");

/* What a hook calls: u64 fn(void *ctx, u64 zero, struct hook_frame *frame);
 * System V calling convention but for the direction flag and vector registers,
 * which it does not touch; it preserves rbx, rbp, r12–r15. */
