/* SPDX-License-Identifier: MIT */
/* What check.c (shape of a program) does for the verifier, which begins with it. */
#pragma once
#include <stdarg.h>

#include "vm/opcodes.h"
#include "vm/program.h"

enum insn_mark {
	MARK_SECOND = 1,  /* second half of an ld_imm64 */
	MARK_SUBPROG = 2, /* a subprogram begins here */
	MARK_TARGET = 4,  /* somebody jumps here */
	MARK_REACHED = 8,
	MARK_ENDS = 16,   /* an exit can be reached from here */
};

struct subprog {
	u32 start, end;
	u32 stack;  /* bytes of its own frame */
	u32 height; /* frames of the deepest chain that begins here; 0 not yet known */
	u32 chain;  /* stack bytes of that chain */
	bool open;  /* being measured: meeting it again is recursion */
};

struct checker {
	struct vm_prog *p;
	const struct vm_map *maps;
	size_t nmaps;
	u8 *marks;    /* enum insn_mark, per instruction */
	u16 *op;      /* enum opcode_id, per instruction */
	u32 *sub_of;  /* subprogram, per instruction */
	struct subprog *subs;
	u32 nsubs;
	bool absent_helpers; /* helpers whose prototype is known count as present */
};

/* Takes P apart and judges its shape. The caller deinits in any case. */
struct uerr *checker_init(struct checker *c, struct vm_prog *p, const struct vm_map *maps, size_t nmaps,
			  bool absent_helpers) UERR_MUST_CHECK;
void checker_deinit(struct checker *c);

/* From what each subprogram uses (subs[].stack): that all call chains fit. */
struct uerr *checker_measure(struct checker *c) UERR_MUST_CHECK;

/* The instructions that can follow AT in its own function; how many. */
u32 checker_successors(const struct checker *c, u32 at, u32 ret[static 2]);

/* The refusal of instruction AT. WHAT completes "program x is not safe: … at
 * file.c:12"; DETAIL is what the log adds in the words of the kernel (NULL:
 * it has none, and WHAT stands there, too); TRY is what to do instead. */
struct uerr *check_refuse(const struct checker *c, u32 at, const char *detail, const char *try, const char *what,
			  ...) UERR_MUST_CHECK __attribute__((format(printf, 5, 6)));

/* The same with REST, may be NULL, as the last part of the log. */
struct uerr *check_refuse_with(const struct checker *c, u32 at, const char *detail, const char *try, const char *rest,
			       const char *what, va_list ap) UERR_MUST_CHECK __attribute__((format(printf, 6, 0)));
