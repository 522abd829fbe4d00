/* SPDX-License-Identifier: MIT */
/*
 * What can be patched, and how, decided from the file alone before anything is
 * touched. A scan of the whole text finds every address that something may
 * jump to; a plan turns a function (or an instruction) into windows: runs of
 * whole instructions that a jump can replace because nothing arrives inside.
 *
 * Where something arrives within the first five bytes, the jump is punned: only
 * the instructions in front of the arrival are replaced, and the upper bytes of
 * the jump's distance are the bytes that stand there (see pun.h).
 *
 * Where that does not work either, and only if the caller says so, a breakpoint:
 * the first byte of one instruction is replaced, which no jump can get in the way
 * of (base/trap.h).
 */
#pragma once
#include "base/code_image.h"
#include "base/types.h"
#include "base/uerr.h"

struct textscan;

/* Scans CODE. With CACHE_DIR and a build-id the result is kept there
 * ("BUILDID.scan") and read back when valid; NULL: no cache. CODE must outlive
 * the scan. */
struct uerr *textscan_create(const struct code_image *code, const char *cache_dir,
			     struct textscan **ret) UERR_MUST_CHECK;
void textscan_destroy(struct textscan *scan); /* NULL is fine */

/* May anything arrive at link address ADDR other than by falling into it? */
bool textscan_is_target(const struct textscan *scan, addr_t addr);
/* The first possible arrival in [lo, hi), or 0. */
addr_t textscan_target_in(const struct textscan *scan, addr_t lo, addr_t hi);

#define WINDOW_MAX 64 /* bytes */
#define WINDOW_INSNS 24

/* What a hook may take for granted where it runs (trampoline.c has the table). */
enum hook_kind {
	HOOK_ENTRY, /* a function's first instruction: flags are dead, nothing lives below rsp */
	HOOK_INSN,  /* any other: flags and red zone live, the stack may be aligned in any way */
	HOOK_RET,   /* a ret: rsp points at the return address, nothing lives below it */
	HOOK_TAIL,  /* a jump out of the function: the return of where it leads is taken over */
	HOOK_TAKEOVER, /* a function's first instruction: its own return is */
	HOOK_KINDS,
};

/* Hooks at entries and inside of functions are one side, those at ways out the
 * other: the calls of a point are found by its address and side. */
static inline bool hook_is_exit(enum hook_kind kind)
{
	return kind == HOOK_RET || kind == HOOK_TAIL || kind == HOOK_TAKEOVER;
}

/* Do the hook's calls run when a return comes back that was taken over here? */
static inline bool hook_takes_over(enum hook_kind kind)
{
	return kind == HOOK_TAIL || kind == HOOK_TAKEOVER;
}

/* Where a hook runs in a window: before the instruction at `off`. */
struct hook_point {
	u8 off;
	u8 kind; /* enum hook_kind */
};

/* A run of instructions to be replaced by one 5-byte jump at its start, or one
 * instruction by a breakpoint. */
struct window {
	addr_t addr;            /* link address */
	u8 len;                 /* bytes displaced: 5 … WINDOW_MAX, or 5 - keep; of a trap: any */
	u8 keep;                /* punned: bytes behind them that are part of the jump and stay; else 0 */
	u8 bytes[WINDOW_MAX];   /* what the file has there, kept bytes too */
	u8 ninsns;
	u8 insn_off[WINDOW_INSNS];
	u8 npoints;
	bool trap;              /* an int3 in the place of the first byte; the others stay, and may be arrived at */
	struct hook_point points[8];
};

enum site_tactic { SITE_NONE, SITE_JUMP, SITE_PUN, SITE_TRAP, SITE_RET, SITE_TAIL, SITE_ENTRY_TAKEOVER };
const char *site_tactic_name(enum site_tactic t); /* "-", "jump", "punned", "trap", "ret", "tail", "takeover" */
static inline bool tactic_takes_over(enum site_tactic t)
{
	return t == SITE_TAIL || t == SITE_ENTRY_TAKEOVER;
}

enum plan_want {
	PLAN_ENTRY = 1,
	PLAN_EXIT = 2,
	PLAN_ROOM = 4, /* the exit, too, where its windows may meet the entry's, so that it can be probed later */
	PLAN_TRAP = 8, /* with breakpoints where nothing else does */
	PLAN_NO_TAKEOVER = 16, /* of the exit, without taking returns over */
};
#define PLAN_SIDES (PLAN_ENTRY | PLAN_EXIT)

struct func_plan {
	addr_t addr;                  /* of the function, or of the instruction */
	u64 size;
	enum site_tactic entry, exit; /* SITE_NONE: refused, with the reason */
	char *entry_reason;           /* "a jump lands inside its first 5 bytes", or NULL */
	bool entry_may_trap, exit_may_trap; /* refused, and PLAN_TRAP would do */
	char *exit_reason;            /* "returns twice: entry only", or NULL */
	char *exit_note;              /* of a return that is taken over: why ("ends by jumping to f"), else NULL */
	u32 nrets;
	struct window *windows;       /* entry and exit windows, merged where they overlap */
	size_t nwindows;
};

/* Plans the function at link address ADDR of SIZE bytes (0: up to the next
 * function). WANT is plan_want bits; each wanted side is planned or refused on
 * its own. NAME may be NULL; setjmp and its kind are known by name. The error
 * is for what makes both impossible (address in no text, bad size). */
struct uerr *plan_function(const struct textscan *scan, addr_t addr, u64 size, const char *name, u32 want,
			   struct func_plan *ret) UERR_MUST_CHECK;

/* Plans a hook at the instruction at ADDR inside the function at FUNC_ADDR
 * (SYMBOL+OFF); a FUNC_ADDR of ADDR itself says that no function is known there,
 * so that nothing is taken for granted. Entry side alone; of WANT, PLAN_TRAP counts. */
struct uerr *plan_insn(const struct textscan *scan, addr_t func_addr, u64 func_size, addr_t addr, u32 want,
		       struct func_plan *ret) UERR_MUST_CHECK;
/* Plans hooks at all places where the file makes one of the system calls NRS[n], by
 * what stands in front of them, into RET[nret] (malloc'd; their `addr` is that of the
 * system call). UERR_CANNOT_PROBE names one that cannot have a hook. */
struct uerr *plan_syscalls(const struct textscan *scan, const u32 *nrs, size_t n, struct func_plan **ret,
			   size_t *nret) UERR_MUST_CHECK;

/* Where there is no place for the stub of the punned window W of P: a breakpoint
 * instead. False when that cannot be. */
bool plan_trap_instead(const struct textscan *scan, struct func_plan *p, struct window *w);
void func_plan_deinit(struct func_plan *p);

/* Merges the windows of several plans of one file (two links on one function,
 * functions whose windows touch): same address → one window with all points;
 * overlap → one longer window. UERR_CANNOT_PROBE when they cannot be merged, or
 * one would change bytes that another keeps.
 * ret[*nret] is malloc'd, by address. */
struct uerr *windows_merge(const struct textscan *scan, const struct window *const *windows, size_t n,
			   struct window **ret, size_t *nret) UERR_MUST_CHECK;
