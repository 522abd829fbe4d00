/* SPDX-License-Identifier: MIT */
/*
 * Small programs with the verdict that the Linux kernel gives on them, and the
 * two judges to compare: the kernel itself (kernel.c) and our verifier
 * (ours.c). Used by verdict.c alone; the tables are one file per theme.
 */
#pragma once
#include <stddef.h>

#include "base/types.h"
#include "tests/vm/insns.h"
#include "vm/program.h"

#define ROW_MAX 100

enum verdict {
	VERDICT_PAIR,   /* (of a row) accepted with `good` in place of X, rejected with `bad` */
	VERDICT_ACCEPT,
	VERDICT_REJECT, /* for a memory, type or termination reason: we must, too */
	VERDICT_POLICY, /* the kernel refuses what would be safe here: we may differ */
};

/* How functions behind the main one are described to the verifier. */
enum func_kind {
	FUNC_STATIC,
	FUNC_STATIC_VOID, /* static void f(void) */
	FUNC_GLOBAL_INT,  /* int f(int a) */
	FUNC_GLOBAL_MEM,  /* int f(int *a) */
	FUNC_GLOBAL_CTX,  /* int f(struct pt_regs *a) */
	FUNC_GLOBAL_VOID, /* void f(void) */
	FUNC_GLOBAL_TWO,  /* long f(long a, long b) */
	FUNC_KINDS,
};

/* A program, or a pair of programs that differ in what stands at X. */
struct row {
	const char *name;
	const char *words;          /* accepted: the rule; else a part of the kernel's log that says why not */
	struct bpf_insn good[2], bad[2];
	struct bpf_insn insns[ROW_MAX];
	u8 verdict;                 /* enum verdict */
	u8 funcs;                   /* enum func_kind */
	const char *strict;         /* why we reject what the kernel accepts, or NULL */
};

/* The place of the instruction in which a pair differs. */
#define X { .code = 0xf7 }

/* The maps of all programs, by index. */
enum {
	M_HASH,       /* key 8, value 16 */
	M_ARRAY,      /* 4 entries of 64 bytes */
	M_COUNT,      /* 1 entry of 8 bytes */
	M_BSS,        /* 1 entry of 256 bytes: global data */
	M_RODATA,     /* 1 entry of 16 bytes { 5, 0 (u32 each), 100 (u64) }, frozen, read-only for programs */
	M_WRONLY,     /* 1 entry of 8 bytes, write-only for programs */
	M_PERCPU,     /* per-CPU array, 4 entries of 16 bytes */
	M_PERCPU_HASH, /* key 4, value 8 */
	M_LRU,        /* key 4, value 8 */
	M_RINGBUF,
	M_PROGS,      /* program array, 4 */
	M_PERF,       /* perf event array */
	M_STACKS,     /* stack traces, 127 deep */
	M_QUEUE,      /* value 8 */
	M_OUTER,      /* array of maps like M_COUNT */
	M_ODD,        /* 1 entry of 13 bytes */
	M_RDONLY,     /* 1 entry of 8 bytes, not frozen, read-only for programs */
	M_FORMAT,     /* 1 entry of 8 bytes "n %d", frozen, read-only for programs */
	M_TASKS,      /* task storage, value 16 */
	M_LOCKED,     /* array, 1 entry of { struct bpf_spin_lock lock; u32; u64 n; } */
	M_LOCKED_HASH, /* hash of the same, key 4 */
	M_USER,       /* user ring buffer */
	NMAPS,
};

struct geometry {
	const char *name;
	u32 type, key_size, value_size, max_entries, flags;
};
extern const struct geometry map_geometry[NMAPS];
/* What a frozen map holds, or NULL. */
const u8 *map_contents(u32 map);

/* A theme's table. */
struct theme {
	const char *name;
	const struct row *rows;
	size_t nrows;
};
extern const struct theme themes[];
extern const size_t nthemes;

/* One program to judge; a row makes one or two. */
struct program {
	const char *theme, *name, *words, *strict;
	bool bad;               /* the rejected one of a pair */
	u8 verdict;             /* ACCEPT, REJECT, POLICY */
	u8 funcs;
	u32 n;
	struct bpf_insn *insns;
};

/* Writes the program of R (the BAD one) to RET's insns, which have room for
 * ROW_MAX + 2. */
void program_expand(const struct row *r, bool bad, struct program *ret);

/* The functions of a program, the main one first, with their types in
 * funcs_btf(). How many. */
#define MAX_FUNCS 64
u32 funcs_find(const struct program *p, struct bpf_func_info *ret);
bool funcs_are_global(const struct program *p);
/* Types of all functions; always the same. */
struct btf;
struct btf *funcs_btf(void);
/* The types of a map's keys and values there, 0: none. */
void funcs_map_types(u32 map, u32 *key, u32 *value);

/* What a judge says. LOG is as long as was asked for by the level. */
struct judgement {
	bool accepted;
	int error;     /* the kernel's errno */
	u32 insns;     /* processed */
	u64 ns;        /* of the verification alone; the kernel counts in us */
	char *log;     /* malloc'd or NULL */
	const char *reason; /* in LOG: the line that says why, or "" */
};
void judgement_deinit(struct judgement *j);

/* Makes the maps and the BTF. False: bpf(2) is not permitted or not there. */
bool kernel_init(char *why, size_t size);
void kernel_deinit(void);
/* LEVEL 0: no log. */
void kernel_judge(const struct program *p, u32 level, struct judgement *ret);

void ours_init(void);
void ours_deinit(void);
const struct umap *ours_maps(void); /* NMAPS of them */
void ours_judge(const struct program *p, u32 level, struct judgement *ret);

/* Whether the kernel rejects for a reason that says nothing about safety: who may
 * call what, the licence, its own ctx, its own mistakes. */
bool is_policy(const char *log);
/* LOG as comments of the TAP output. */
void print_log(const char *who, const char *log);

/* Both verdicts on one program, for programs that nobody has judged before. */
struct tally {
	u32 kernel_accepts, both_accept, kernel_rejects, unsound;
	u64 kernel_ns, our_ns;
};
/* Compares the verdicts on P and counts; prints a disagreement. A rejection by
 * the kernel for reasons of policy is not held against us. */
void compare(const struct program *p, u32 level, struct tally *t);

/* N random programs, of seeds from SEED on. */
enum random_kind { RANDOM_GENERATED, RANDOM_CHANGED };
void random_compare(enum random_kind kind, u32 n, u64 seed, u32 level, struct tally *t);
/* The programs of an object file. REFUSED: it asks for what is not there (a kind
 * of map, another type of program); WHY says what. */
enum object_result { OBJECT_COMPARED, OBJECT_REFUSED, OBJECT_BROKEN };
enum object_result object_compare(const char *path, bool kernel, u32 level, struct tally *t, char *why, size_t size);
/* --- words.c --- */
void words_init(void);
void words_deinit(void);
/* Takes note of how P was refused. False: LOG does not say where and why. */
bool words_add(const struct program *p, const char *log);
bool words_write(const char *path);
/* How many lines differ from those of the file; they are printed. */
u32 words_compare(const char *path);
/* Programs that take long to verify; prints both times. False: a verdict was not
 * the expected one. */
bool bench(bool kernel);
