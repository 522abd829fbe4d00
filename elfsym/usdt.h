/* SPDX-License-Identifier: MIT */
/*
 * USDT probes: what <sys/sdt.h> leaves in a file. Each place is a nop in the text
 * and a note in .note.stapsdt (systemtap's UserSpaceProbeImplementation):
 *
 *	u64 address of the nop, of .stapsdt.base when it was linked, of a semaphore
 *	provider\0 name\0 arguments\0        "-4@%edi 8@-16(%rbp) 4@$42"
 *
 * Several notes may have one name: where it was inlined, or used twice. The
 * semaphore is a u16 that counts who looks on; the program tests it before it
 * prepares arguments. Everything here is checked: notes are hostile input.
 */
#pragma once
#include "base/types.h"
#include "base/uerr.h"
#include "elfsym/image.h"

struct usdt_probe {
	const char *provider, *name;
	const char *args;    /* as in the note; "" for none */
	addr_t addr;         /* link address of the nop */
	addr_t sema;         /* link address of the semaphore, 0 none */
	const char *refusal; /* why it cannot be used, or NULL */
};

/* The probes of IM by provider, name and address. Owned by IM; an error is one of
 * reading. */
struct uerr *image_usdts(struct image *im, const struct usdt_probe **ret, size_t *nret) UERR_MUST_CHECK;

/* As in libbpf's usdt.bpf.h, which reads them. */
enum usdt_arg_kind {
	USDT_CONST,     /* $VALUE */
	USDT_REG,       /* %reg */
	USDT_REG_DEREF, /* VALUE(%reg) */
	USDT_SIB,       /* VALUE(%reg,%index,SCALE): libbpf 1.7 */
};

struct usdt_arg {
	enum usdt_arg_kind kind;
	u8 size;         /* 1, 2, 4, 8 */
	bool is_signed;
	u8 scale_shift;
	u16 reg, index;  /* offsets in struct target_regs */
	s64 value;
	const char *text; /* the operand, within what was parsed */
	u32 len;
};

#define USDT_ARGS_MAX 12 /* BPF_USDT_MAX_ARG_CNT */

struct usdt_args {
	struct usdt_arg arg[USDT_ARGS_MAX];
	u32 n;
};

/* Decodes TEXT. UERR_CANNOT_PROBE says which argument has a form that libbpf
 * does not know, and which. */
struct uerr *usdt_args_parse(const char *text, struct usdt_args *ret) UERR_MUST_CHECK;
