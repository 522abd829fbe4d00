/* SPDX-License-Identifier: MIT */
/*
 * What the verifier knows of a number: known bits (tnum) and signed and
 * unsigned bounds of all 64 and of the low 32 bits. Pure functions without
 * state; whatever they answer holds for every pair of concrete numbers that
 * the operands describe (tests/vm/test_verify_scalar.c tries them).
 *
 * A value is well formed when every bound agrees with the others at least so
 * far that the described set is not empty; scalar_sync() makes each as tight as
 * the others allow. Every function here takes and leaves synchronised values.
 */
#pragma once
#include "base/types.h"

/* A bit of mask is unknown; of value, known to be set. Never both. */
struct tnum {
	u64 value, mask;
};

struct scalar {
	struct tnum bits;
	u64 umin, umax;
	s64 smin, smax;
	u32 umin32, umax32;
	s32 smin32, smax32;
};

extern const struct scalar scalar_unknown;
struct scalar scalar_const(u64 v);
struct scalar scalar_urange(u64 min, u64 max);
struct scalar scalar_srange(s64 min, s64 max);
void scalar_sync(struct scalar *s);

static inline bool scalar_is_const(const struct scalar *s)
{
	return !s->bits.mask;
}

/* dst = dst OP src, OP being BPF_ADD … BPF_ARSH, BPF_DIV and BPF_MOD with
 * IS_SIGNED; 32-bit operations zero the upper half. Quotients, remainders and
 * shifts by what is no constant are unknown, as in the kernel. DST may be SRC. */
void scalar_alu(struct scalar *dst, u8 op, bool is_signed, bool w64, const struct scalar *src);
void scalar_neg(struct scalar *dst, bool w64);

/* The low BITS (8, 16, 32), sign- or zero-extended to 64, or to 32 when !W64. */
void scalar_extend(struct scalar *s, unsigned bits, bool is_signed, bool w64);
/* BPF_TO_BE, BPF_TO_LE and bswap of BITS (16, 32, 64); SWAP false: only cut off.
 * The result is unknown, as in the kernel. */
void scalar_bswap(struct scalar *s, unsigned bits, bool swap);

/* Whether `if a OP b` is certainly taken (1), certainly not (0), unknown (-1).
 * OP is BPF_JEQ … BPF_JSLE, BPF_JSET. */
int scalar_branch(u8 op, bool w64, const struct scalar *a, const struct scalar *b);
/* Narrows A and B to what holds once `if a OP b` was (TAKEN) or was not taken.
 * False: that way is impossible, A and B are then spoilt. B may be A's copy. */
bool scalar_refine(u8 op, bool w64, bool taken, struct scalar *a, struct scalar *b);

/* Every number that CUR describes, OLD describes too. */
bool scalar_contains(const struct scalar *old, const struct scalar *cur);
/* S plus constant OFF is certainly a multiple of ALIGN (a power of two). */
bool scalar_aligned(const struct scalar *s, s64 off, u32 align);

/* What the kernel's log has between the parentheses of "scalar(…)":
 * "smin=0,smax=umax=255,var_off=(0x0; 0xff)"; "" for an unknown. Returns the
 * length that it would have with room enough, as snprintf does. */
size_t scalar_format(const struct scalar *s, char *ret, size_t size);
