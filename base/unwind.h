/* SPDX-License-Identifier: MIT */
/*
 * Unwind tables as they lie in a target, read-only: made of .eh_frame by
 * elfsym/unwind.c, put together by the daemon (daemon/unwind.c), and followed at a
 * hit by vm/runtime/unwind.c. How to get from one frame to the one that called
 * it, for each address of code, in what a kernel's ORC tables say: only rsp and
 * rbp are known, which is all that compilers address frames by.
 *
 *	image  │ unwind_image │ unwind_module[n] by address │ table │ table │ …
 *
 *	table  │ unwind_table │ blocks │ pcs │ refs │ rules │
 *
 * A row begins at pcs[i] and goes on to the next; refs[i] is the number of its
 * rule, of which a library has few hundred. For each 256 bytes of code, blocks[b]
 * counts the rows that begin before them, so that a search looks at few.
 *
 * A table belongs to a file and says nothing of where that is mapped. Whoever reads
 * one follows no offset and no count further than `size` allows.
 */
#pragma once
#include "types.h"

enum unwind_cfa {
	UNWIND_UNKNOWN, /* nothing is said: frame pointers, if there are any */
	UNWIND_END,     /* nobody has called this */
	UNWIND_RSP,     /* CFA = rsp + cfa_off */
	UNWIND_RBP,     /* CFA = rbp + cfa_off */
	UNWIND_AT_RSP,  /* CFA = *(rsp + cfa_off) + cfa_add */
	UNWIND_AT_RBP,  /* CFA = *(rbp + cfa_off) + cfa_add */
	UNWIND_SIGNAL,  /* rsp is at a ucontext: all registers are those of it */
	UNWIND_CFAS,
};

enum unwind_bp {
	UNWIND_BP_SAME,
	UNWIND_BP_AT_CFA, /* *(CFA + bp_off) */
	UNWIND_BP_AT_BP,  /* *(rbp + bp_off) */
	UNWIND_BP_LOST,
	UNWIND_BPS,
};

/* The return address is at CFA - 8. */
struct unwind_rule {
	s32 cfa_off;
	s16 cfa_add, bp_off;
	u8 cfa, bp; /* enum unwind_cfa, unwind_bp */
	u16 pad;
};
_Static_assert(sizeof(struct unwind_rule) == 12, "format of cached tables");

#define UNWIND_BLOCK 256u
#define UNWIND_ROWS_MAX (1u << 26)
#define UNWIND_RULES_MAX 65536u

struct unwind_table {
	u64 magic; /* UNWIND_TABLE_MAGIC */
	u64 base;  /* link address of block 0 */
	u64 size;  /* bytes, with this; a multiple of 8 */
	u32 nblocks, nrows, nrules, pad;
	/* u32 blocks[nblocks + 1], u32 pcs[nrows], u16 refs[nrows], struct unwind_rule rules[nrules],
	 * each at a multiple of 4 behind the one before */
};
#define UNWIND_TABLE_MAGIC 0x31656c6261747775ull

static inline u64 unwind_blocks_off(void)
{
	return sizeof(struct unwind_table);
}

static inline u64 unwind_pcs_off(const struct unwind_table *t)
{
	return unwind_blocks_off() + ((u64)t->nblocks + 1) * 4;
}

static inline u64 unwind_refs_off(const struct unwind_table *t)
{
	return unwind_pcs_off(t) + (u64)t->nrows * 4;
}

static inline u64 unwind_rules_off(const struct unwind_table *t)
{
	return unwind_refs_off(t) + ((u64)t->nrows + 1) / 2 * 4;
}

static inline u64 unwind_table_size(const struct unwind_table *t)
{
	return (unwind_rules_off(t) + (u64)t->nrules * sizeof(struct unwind_rule) + 7) / 8 * 8;
}

/* The rule of link address PC; NULL: none. */
static inline const struct unwind_rule *unwind_find(const struct unwind_table *t, u64 pc)
{
	const u8 *at = (const u8 *)t;
	const u32 *blocks = (const u32 *)(const void *)(at + unwind_blocks_off());
	const u32 *pcs = (const u32 *)(const void *)(at + unwind_pcs_off(t));
	const u16 *refs = (const u16 *)(const void *)(at + unwind_refs_off(t));
	u64 off = pc - t->base;
	u32 lo, hi;
	u16 ref;

	if (off / UNWIND_BLOCK >= t->nblocks)
		return NULL;
	lo = blocks[off / UNWIND_BLOCK];
	hi = blocks[off / UNWIND_BLOCK + 1];
	if (hi > t->nrows || lo > hi)
		return NULL;
	while (lo < hi) { /* the first row behind pc */
		u32 mid = lo + (hi - lo) / 2;

		if (pcs[mid] <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return NULL;
	ref = refs[lo - 1];
	return ref < t->nrules ? (const struct unwind_rule *)(const void *)(at + unwind_rules_off(t)) + ref : NULL;
}

/* Code of one file as a process has it mapped. */
struct unwind_module {
	u64 lo, hi;
	u64 bias;  /* run-time address = link address + bias */
	u64 table; /* offset in the image; 0: none */
};

struct unwind_image {
	u64 magic; /* UNWIND_IMAGE_MAGIC */
	u64 size;  /* bytes in all */
	u32 nmodules, pad;
	struct unwind_module modules[];
};
#define UNWIND_IMAGE_MAGIC 0x31656d616972777ull

/* The module that holds ADDR, or NULL. */
static inline const struct unwind_module *unwind_module_at(const struct unwind_image *im, u64 addr)
{
	u32 lo = 0, hi = im->nmodules;

	while (lo < hi) {
		u32 mid = lo + (hi - lo) / 2;

		if (im->modules[mid].hi <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < im->nmodules && addr >= im->modules[lo].lo ? &im->modules[lo] : NULL;
}

/* At a return from a signal handler rsp is at a struct ucontext, which is the
 * kernel's and has the registers here (asm/sigcontext.h). */
#define UNWIND_UC_BP 120u
#define UNWIND_UC_SP 160u
#define UNWIND_UC_IP 168u
