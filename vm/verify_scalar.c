/* SPDX-License-Identifier: MIT */
/*
 * What the verifier knows of a number.
 *
 * A value is known in five ways at once: bit by bit (a tnum: Vishwanathan et
 * al., "Sound, Precise, and Fast Abstract Interpretation with Tristate Numbers",
 * CGO 2022), and as unsigned and signed ranges of its 64 and of its low 32 bits.
 * Each operation is worked out in each of the five where that is easy, and
 * scalar_sync() then lets each learn from the others.
 *
 * It is exactly as clever as Linux 6.18's verifier, on purpose. Knowing less,
 * programs that pass there would be refused here. Knowing more (quotients, byte
 * swaps, shifts by a range could all be bounded), programs would pass here that
 * the kernel refuses, and people move programs both ways.
 *
 * This is the verifier's inner loop: nothing here allocates, and constants,
 * which most operands are, take short cuts.
 */
#include <inttypes.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>

#include "vm/verify_scalar.h"

#define LOW32 0xffffffffull

const struct scalar scalar_unknown = {
	.bits = { 0, UINT64_MAX },
	.umin = 0,
	.umax = UINT64_MAX,
	.smin = INT64_MIN,
	.smax = INT64_MAX,
	.umin32 = 0,
	.umax32 = UINT32_MAX,
	.smin32 = INT32_MIN,
	.smax32 = INT32_MAX,
};

/* --- known bits --- */

static inline struct tnum tnum(u64 value, u64 mask)
{
	return (struct tnum){ value, mask };
}

/* The bits that all numbers from MIN to MAX share. */
static inline struct tnum tnum_range(u64 min, u64 max)
{
	u64 differ = min ^ max, below;

	if (!differ)
		return tnum(min, 0);
	below = UINT64_MAX >> __builtin_clzll(differ);
	return tnum(min & ~below, below);
}

static inline struct tnum tnum_low(struct tnum a)
{
	return tnum((u32)a.value, (u32)a.mask);
}

static inline struct tnum tnum_with_low(struct tnum a, struct tnum low)
{
	return tnum((a.value & ~LOW32) | low.value, (a.mask & ~LOW32) | low.mask);
}

/* What is known of a number that both describe; only if they do not conflict. */
static inline struct tnum tnum_both(struct tnum a, struct tnum b)
{
	u64 mask = a.mask & b.mask;

	return tnum((a.value | b.value) & ~mask, mask);
}

/* A bit is known by both, and differently: no number is described by both. */
static inline bool tnum_conflict(struct tnum a, struct tnum b)
{
	return (a.value ^ b.value) & ~(a.mask | b.mask);
}

/* Whatever carries into an unknown bit makes the bits above unknown: add once
 * with all unknown bits 0, once with all 1, and see where the results differ. */
static inline struct tnum tnum_add(struct tnum a, struct tnum b)
{
	u64 low = a.value + b.value;
	u64 unknown = ((low + a.mask + b.mask) ^ low) | a.mask | b.mask;

	return tnum(low & ~unknown, unknown);
}

static inline struct tnum tnum_sub(struct tnum a, struct tnum b)
{
	u64 low = a.value - b.value;
	u64 unknown = ((low + a.mask) ^ (low - b.mask)) | a.mask | b.mask;

	return tnum(low & ~unknown, unknown);
}

static inline struct tnum tnum_and(struct tnum a, struct tnum b)
{
	u64 ones = a.value & b.value;

	return tnum(ones, (a.value | a.mask) & (b.value | b.mask) & ~ones);
}

static inline struct tnum tnum_or(struct tnum a, struct tnum b)
{
	u64 ones = a.value | b.value;

	return tnum(ones, (a.mask | b.mask) & ~ones);
}

static inline struct tnum tnum_xor(struct tnum a, struct tnum b)
{
	u64 unknown = a.mask | b.mask;

	return tnum((a.value ^ b.value) & ~unknown, unknown);
}

/* Described by A or by B. */
static inline struct tnum tnum_either(struct tnum a, struct tnum b)
{
	u64 unknown = a.mask | b.mask | (a.value ^ b.value);

	return tnum(a.value & ~unknown, unknown);
}

/* By hand, bit by bit of A: a partial product that may be there or not is the
 * union of both sums. */
static struct tnum tnum_mul(struct tnum a, struct tnum b)
{
	struct tnum sum = { 0, 0 };

	if (!(a.mask | b.mask))
		return tnum(a.value * b.value, 0);
	for (u64 left = a.value | a.mask; left; left &= left - 1) {
		unsigned bit = __builtin_ctzll(left);
		struct tnum part = tnum_add(sum, tnum(b.value << bit, b.mask << bit));

		sum = a.mask >> bit & 1 ? tnum_either(sum, part) : part;
	}
	return sum;
}

/* --- bounds --- */

static inline u64 umin_of(u64 a, u64 b)
{
	return a < b ? a : b;
}

static inline u64 umax_of(u64 a, u64 b)
{
	return a > b ? a : b;
}

static inline s64 smin_of(s64 a, s64 b)
{
	return a < b ? a : b;
}

static inline s64 smax_of(s64 a, s64 b)
{
	return a > b ? a : b;
}

static inline void narrow_u64(struct scalar *s, u64 min, u64 max)
{
	s->umin = umax_of(s->umin, min);
	s->umax = umin_of(s->umax, max);
}

static inline void narrow_s64(struct scalar *s, s64 min, s64 max)
{
	s->smin = smax_of(s->smin, min);
	s->smax = smin_of(s->smax, max);
}

static inline void narrow_u32(struct scalar *s, u32 min, u32 max)
{
	s->umin32 = umax_of(s->umin32, min);
	s->umax32 = umin_of(s->umax32, max);
}

static inline void narrow_s32(struct scalar *s, s32 min, s32 max)
{
	s->smin32 = smax_of(s->smin32, min);
	s->smax32 = smin_of(s->smax32, max);
}

static inline void unbound_u64(struct scalar *s)
{
	s->umin = 0;
	s->umax = UINT64_MAX;
}

static inline void unbound_s64(struct scalar *s)
{
	s->smin = INT64_MIN;
	s->smax = INT64_MAX;
}

static inline void unbound_u32(struct scalar *s)
{
	s->umin32 = 0;
	s->umax32 = UINT32_MAX;
}

static inline void unbound_s32(struct scalar *s)
{
	s->smin32 = INT32_MIN;
	s->smax32 = INT32_MAX;
}

static inline void set_const(struct scalar *s, u64 v)
{
	*s = (struct scalar){ .bits = { v, 0 }, .umin = v, .umax = v, .smin = v, .smax = v,
			      .umin32 = v, .umax32 = v, .smin32 = v, .smax32 = v };
}

/* --- what one way of knowing tells the others --- */

/* The smallest and largest numbers with those bits. */
static inline void bounds_from_bits(struct scalar *s)
{
	u64 value = s->bits.value, mask = s->bits.mask;
	u32 value32 = value, mask32 = mask;

	narrow_u64(s, value, value | mask);
	narrow_s64(s, value | (mask & (1ull << 63)), value | (mask & INT64_MAX));
	narrow_u32(s, value32, value32 | mask32);
	narrow_s32(s, value32 | (mask32 & (1u << 31)), value32 | (mask32 & INT32_MAX));
}

/* The low halves of the numbers from MIN to MAX, as far as they are a range. */
static inline void low_from_range(struct scalar *s, u64 min, u64 max)
{
	u32 min32 = min, max32 = max;

	if (min >> 32 == max >> 32) {
		if (min32 <= max32)
			narrow_u32(s, min32, max32);
		if ((s32)min32 <= (s32)max32)
			narrow_s32(s, min32, max32);
	} else if ((u32)(min >> 32) + 1 == (u32)(max >> 32) && (s32)min32 < 0 && (s32)max32 >= 0) {
		narrow_s32(s, min32, max32); /* from below 2^32·n to above it: -x … y */
	}
}

static inline void low_from_whole(struct scalar *s)
{
	low_from_range(s, s->umin, s->umax);
	low_from_range(s, s->smin, s->smax);
	if ((u32)s->smin32 <= (u32)s->smax32)
		narrow_u32(s, s->smin32, s->smax32);
	if ((s32)s->umin32 <= (s32)s->umax32)
		narrow_s32(s, s->umin32, s->umax32);
}

/*
 * Signed from unsigned and back. A signed range that does not cross from -1 to 0
 * is an unsigned one, and an unsigned one that does not cross from 2^63-1 to 2^63
 * a signed one. Where the signed range crosses, it is two unsigned ranges, one at
 * each end:
 *
 *	0 ──── smax ············ smin ──── 2^64-1
 *
 * and if the unsigned range reaches into one of them only, that one holds.
 */
static inline void whole_from_whole(struct scalar *s)
{
	if ((s64)s->umin <= (s64)s->umax)
		narrow_s64(s, s->umin, s->umax);
	if ((u64)s->smin <= (u64)s->smax) {
		narrow_u64(s, s->smin, s->smax);
	} else if (s->smin > s->smax) {
		return; /* empty, and stays so */
	} else if (s->umax < (u64)s->smin) {
		s->smin = smax_of(s->smin, s->umin);
		s->umax = umin_of(s->umax, s->smax);
	} else if ((u64)s->smax < s->umin) {
		s->smax = smin_of(s->smax, s->umax);
		s->umin = umax_of(s->umin, s->smin);
	}
}

static inline void whole_from_low(struct scalar *s)
{
	narrow_u64(s, (s->umin & ~LOW32) | s->umin32, (s->umax & ~LOW32) | s->umax32);
	narrow_s64(s, (s->smin & ~LOW32) | s->umin32, (s->smax & ~LOW32) | s->umax32);
	/* a number that fits into 32 signed bits is its low half, extended */
	if (s->smin >= INT32_MIN && s->smax <= INT32_MAX)
		narrow_s64(s, s->smin32, s->smax32);
}

static inline bool is_empty(const struct scalar *s)
{
	return s->umin > s->umax || s->smin > s->smax || s->umin32 > s->umax32 || s->smin32 > s->smax32;
}

static bool has(const struct scalar *s, u64 v)
{
	return v >= s->umin && v <= s->umax && (s64)v >= s->smin && (s64)v <= s->smax && (u32)v >= s->umin32 &&
	       (u32)v <= s->umax32 && (s32)v >= s->smin32 && (s32)v <= s->smax32;
}

/* False: there is no such number. */
static bool sync(struct scalar *s)
{
	struct tnum range, low;
	bool good;

	if (!s->bits.mask) {
		good = has(s, s->bits.value);
		set_const(s, s->bits.value);
		return good;
	}
	bounds_from_bits(s);
	for (int i = 0; i < 3; i++) { /* what one finds, the next can use */
		low_from_whole(s);
		whole_from_whole(s);
		whole_from_low(s);
	}
	if (is_empty(s))
		return false;
	range = tnum_range(s->umin, s->umax);
	good = !tnum_conflict(s->bits, range);
	s->bits = tnum_both(s->bits, range);
	low = tnum_range(s->umin32, s->umax32);
	good &= !tnum_conflict(tnum_low(s->bits), low);
	s->bits = tnum_with_low(s->bits, tnum_both(tnum_low(s->bits), low));
	bounds_from_bits(s);
	return good && !is_empty(s);
}

void scalar_sync(struct scalar *s)
{
	(void)sync(s);
}

struct scalar scalar_const(u64 v)
{
	struct scalar s;

	set_const(&s, v);
	return s;
}

struct scalar scalar_urange(u64 min, u64 max)
{
	struct scalar s = scalar_unknown;

	s.umin = min;
	s.umax = max;
	scalar_sync(&s);
	return s;
}

struct scalar scalar_srange(s64 min, s64 max)
{
	struct scalar s = scalar_unknown;

	s.smin = min;
	s.smax = max;
	scalar_sync(&s);
	return s;
}

/* --- arithmetic ---
 * Each sets the bits and the four ranges from the operands', or gives a range up;
 * the caller synchronises. */

static void do_add(struct scalar *d, const struct scalar *s)
{
	bool low, high;

	if (__builtin_add_overflow(d->smin, s->smin, &d->smin) || __builtin_add_overflow(d->smax, s->smax, &d->smax))
		unbound_s64(d);
	if (__builtin_add_overflow(d->smin32, s->smin32, &d->smin32) ||
	    __builtin_add_overflow(d->smax32, s->smax32, &d->smax32))
		unbound_s32(d);
	/* all wrap or none does: still a range */
	low = __builtin_add_overflow(d->umin, s->umin, &d->umin);
	high = __builtin_add_overflow(d->umax, s->umax, &d->umax);
	if (low != high)
		unbound_u64(d);
	low = __builtin_add_overflow(d->umin32, s->umin32, &d->umin32);
	high = __builtin_add_overflow(d->umax32, s->umax32, &d->umax32);
	if (low != high)
		unbound_u32(d);
	d->bits = tnum_add(d->bits, s->bits);
}

static void do_sub(struct scalar *d, const struct scalar *s)
{
	bool low, high;

	if (__builtin_sub_overflow(d->smin, s->smax, &d->smin) || __builtin_sub_overflow(d->smax, s->smin, &d->smax))
		unbound_s64(d);
	if (__builtin_sub_overflow(d->smin32, s->smax32, &d->smin32) ||
	    __builtin_sub_overflow(d->smax32, s->smin32, &d->smax32))
		unbound_s32(d);
	low = __builtin_sub_overflow(d->umin, s->umax, &d->umin);
	high = __builtin_sub_overflow(d->umax, s->umin, &d->umax);
	if (low != high)
		unbound_u64(d);
	low = __builtin_sub_overflow(d->umin32, s->umax32, &d->umin32);
	high = __builtin_sub_overflow(d->umax32, s->umin32, &d->umax32);
	if (low != high)
		unbound_u32(d);
	d->bits = tnum_sub(d->bits, s->bits);
}

static void mul_s64(struct scalar *d, const struct scalar *s)
{
	s64 p[4];

	if (__builtin_mul_overflow(d->smin, s->smin, &p[0]) || __builtin_mul_overflow(d->smin, s->smax, &p[1]) ||
	    __builtin_mul_overflow(d->smax, s->smin, &p[2]) || __builtin_mul_overflow(d->smax, s->smax, &p[3])) {
		unbound_s64(d);
		return;
	}
	d->smin = smin_of(smin_of(p[0], p[1]), smin_of(p[2], p[3]));
	d->smax = smax_of(smax_of(p[0], p[1]), smax_of(p[2], p[3]));
}

static void mul_s32(struct scalar *d, const struct scalar *s)
{
	s32 p[4];

	if (__builtin_mul_overflow(d->smin32, s->smin32, &p[0]) ||
	    __builtin_mul_overflow(d->smin32, s->smax32, &p[1]) ||
	    __builtin_mul_overflow(d->smax32, s->smin32, &p[2]) ||
	    __builtin_mul_overflow(d->smax32, s->smax32, &p[3])) {
		unbound_s32(d);
		return;
	}
	d->smin32 = smin_of(smin_of(p[0], p[1]), smin_of(p[2], p[3]));
	d->smax32 = smax_of(smax_of(p[0], p[1]), smax_of(p[2], p[3]));
}

static void do_mul(struct scalar *d, const struct scalar *s)
{
	mul_s64(d, s);
	mul_s32(d, s);
	if (__builtin_mul_overflow(d->umax, s->umax, &d->umax))
		unbound_u64(d);
	else
		d->umin *= s->umin;
	if (__builtin_mul_overflow(d->umax32, s->umax32, &d->umax32))
		unbound_u32(d);
	else
		d->umin32 *= s->umin32;
	d->bits = tnum_mul(d->bits, s->bits);
}

/* The signed ranges of a result whose unsigned ones are known. */
static inline void signed_from_unsigned(struct scalar *d)
{
	unbound_s64(d);
	unbound_s32(d);
	if ((s64)d->umin <= (s64)d->umax) {
		d->smin = d->umin;
		d->smax = d->umax;
	}
	if ((s32)d->umin32 <= (s32)d->umax32) {
		d->smin32 = d->umin32;
		d->smax32 = d->umax32;
	}
}

static void do_and(struct scalar *d, const struct scalar *s)
{
	d->bits = tnum_and(d->bits, s->bits);
	d->umin = d->bits.value;
	d->umax = umin_of(d->umax, s->umax);
	d->umin32 = d->bits.value;
	d->umax32 = umin_of(d->umax32, s->umax32);
	signed_from_unsigned(d);
}

static void do_or(struct scalar *d, const struct scalar *s)
{
	d->bits = tnum_or(d->bits, s->bits);
	d->umin = umax_of(d->umin, s->umin);
	d->umax = d->bits.value | d->bits.mask;
	d->umin32 = umax_of(d->umin32, s->umin32);
	d->umax32 = d->bits.value | d->bits.mask;
	signed_from_unsigned(d);
}

static void do_xor(struct scalar *d, const struct scalar *s)
{
	d->bits = tnum_xor(d->bits, s->bits);
	d->umin = d->bits.value;
	d->umax = d->bits.value | d->bits.mask;
	d->umin32 = d->bits.value;
	d->umax32 = d->bits.value | d->bits.mask;
	signed_from_unsigned(d);
}

static void lsh_low(struct scalar *d, u32 n)
{
	unbound_s32(d);
	if (n > 31 || d->umax32 > 1ull << (31 - n)) {
		unbound_u32(d);
	} else {
		d->umin32 <<= n;
		d->umax32 <<= n;
	}
}

static void do_lsh(struct scalar *d, u32 n)
{
	if (n == 32) { /* half of the way to extend the sign */
		d->smin = (s64)((u64)(s64)d->smin32 << 32);
		d->smax = (s64)((u64)(s64)d->smax32 << 32);
	} else {
		unbound_s64(d);
	}
	if (d->umax > 1ull << (63 - n)) {
		unbound_u64(d);
	} else {
		d->umin <<= n;
		d->umax <<= n;
	}
	lsh_low(d, n);
	d->bits = tnum(d->bits.value << n, d->bits.mask << n);
}

static void do_rsh(struct scalar *d, u32 n)
{
	unbound_s64(d);
	d->umin >>= n;
	d->umax >>= n;
	unbound_s32(d);
	unbound_u32(d);
	d->bits = tnum(d->bits.value >> n, d->bits.mask >> n);
}

static void do_arsh(struct scalar *d, u32 n)
{
	d->smin >>= n;
	d->smax >>= n;
	unbound_u64(d);
	unbound_s32(d);
	unbound_u32(d);
	d->bits = tnum((s64)d->bits.value >> n, (s64)d->bits.mask >> n);
}

/* In 32 bits only the low half counts; the caller makes the whole from it. */

static void lsh32(struct scalar *d, u32 n)
{
	lsh_low(d, n);
	d->bits = tnum((u32)d->bits.value << n, (u32)d->bits.mask << n);
}

static void rsh32(struct scalar *d, u32 n)
{
	unbound_s32(d);
	d->umin32 >>= n;
	d->umax32 >>= n;
	d->bits = tnum((u32)d->bits.value >> n, (u32)d->bits.mask >> n);
}

static void arsh32(struct scalar *d, u32 n)
{
	d->smin32 >>= n;
	d->smax32 >>= n;
	unbound_u32(d);
	d->bits = tnum((u32)((s32)d->bits.value >> n), (u32)((s32)d->bits.mask >> n));
}

/* The whole of a result whose upper half is 0. */
static void whole_is_low(struct scalar *d)
{
	d->bits = tnum_low(d->bits);
	d->umin = d->umin32;
	d->umax = d->umax32;
	if (d->smin32 >= 0) {
		d->smin = d->smin32;
		d->smax = d->smax32;
	} else {
		d->smin = 0;
		d->smax = UINT32_MAX;
	}
}

/* Both operands are constants; false: not one of those that are followed. */
static bool const_alu(struct scalar *d, u8 op, bool w64, u64 b)
{
	u64 a = d->bits.value, bits = w64 ? 64 : 32;

	if (!w64) {
		a = (u32)a;
		b = (u32)b;
	}
	switch (op) {
	case BPF_ADD:
		a += b;
		break;
	case BPF_SUB:
		a -= b;
		break;
	case BPF_MUL:
		a *= b;
		break;
	case BPF_AND:
		a &= b;
		break;
	case BPF_OR:
		a |= b;
		break;
	case BPF_XOR:
		a ^= b;
		break;
	case BPF_LSH:
		if (b >= bits)
			return false;
		a <<= b;
		break;
	case BPF_RSH:
		if (b >= bits)
			return false;
		a >>= b;
		break;
	case BPF_ARSH:
		if (b >= bits)
			return false;
		a = w64 ? (u64)((s64)a >> b) : (u64)(s64)((s32)a >> b);
		break;
	default:
		return false;
	}
	set_const(d, w64 ? a : (u32)a);
	return true;
}

static bool alu64(struct scalar *d, u8 op, const struct scalar *s)
{
	bool shift = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;
	u64 n = s->bits.value;

	if (shift && (s->bits.mask || n > 63))
		return false;
	switch (op) {
	case BPF_ADD:
		do_add(d, s);
		return true;
	case BPF_SUB:
		do_sub(d, s);
		return true;
	case BPF_MUL:
		do_mul(d, s);
		return true;
	case BPF_AND:
		do_and(d, s);
		return true;
	case BPF_OR:
		do_or(d, s);
		return true;
	case BPF_XOR:
		do_xor(d, s);
		return true;
	case BPF_LSH:
		do_lsh(d, n);
		return true;
	case BPF_RSH:
		do_rsh(d, n);
		return true;
	case BPF_ARSH:
		do_arsh(d, n);
		return true;
	default:
		return false; /* quotients and remainders */
	}
}

static bool alu32(struct scalar *d, u8 op, const struct scalar *s)
{
	bool shift = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;
	u32 n = s->bits.value;

	if (!shift) {
		if (!alu64(d, op, s)) /* the low half of the result is that of the halves */
			return false;
		whole_is_low(d);
		return true;
	}
	if ((u32)s->bits.mask || s->umax > 31) /* all 64 bits: so the kernel has it */
		return false;
	if (op == BPF_LSH)
		lsh32(d, n);
	else if (op == BPF_RSH)
		rsh32(d, n);
	else
		arsh32(d, n);
	whole_is_low(d);
	return true;
}

void scalar_alu(struct scalar *dst, u8 op, bool is_signed, bool w64, const struct scalar *src)
{
	struct scalar copy;

	(void)is_signed; /* it is for quotients only, of which nothing is known */
	if (!(dst->bits.mask | src->bits.mask) && const_alu(dst, op, w64, src->bits.value))
		return;
	if (dst == src) {
		copy = *src;
		src = &copy;
	}
	if (w64 ? alu64(dst, op, src) : alu32(dst, op, src))
		scalar_sync(dst);
	else
		*dst = scalar_unknown;
}

void scalar_neg(struct scalar *dst, bool w64)
{
	struct scalar zero;

	set_const(&zero, 0);
	scalar_alu(&zero, BPF_SUB, false, w64, dst);
	*dst = zero;
}

/* --- sizes --- */

static void zero_extend(struct scalar *s, unsigned bits)
{
	u64 mask = UINT64_MAX >> (64 - bits);

	s->bits = tnum(s->bits.value & mask, s->bits.mask & mask);
	if ((s->umin & ~mask) == (s->umax & ~mask)) {
		s->umin &= mask;
		s->umax &= mask;
	} else {
		s->umin = 0;
		s->umax = mask;
	}
	s->smin = s->umin;
	s->smax = s->umax;
	if (bits < 32) {
		unbound_u32(s);
		unbound_s32(s);
	}
	scalar_sync(s);
}

static inline s64 extended(u64 v, unsigned bits)
{
	return (s64)(v << (64 - bits)) >> (64 - bits);
}

/* Bounds that agree above BITS bits, and whose ends have one sign, stay bounds;
 * else only the size is known. MIN and MAX are of the width extended to. */
static bool extended_range(s64 *min, s64 *max, unsigned bits)
{
	s64 a = extended(*min, bits), b = extended(*max, bits);

	if (*min >> bits != *max >> bits || (a >= 0) != (b >= 0)) {
		*max = (s64)(1ull << (bits - 1)) - 1;
		*min = -*max - 1;
		return false;
	}
	*min = smin_of(a, b);
	*max = smax_of(a, b);
	return true;
}

static void sign_extend(struct scalar *s, unsigned bits, bool w64)
{
	s64 min = w64 ? s->smin : s->smin32, max = w64 ? s->smax : s->smax32;

	if (!s->bits.mask) {
		u64 v = extended(s->bits.value, bits);

		set_const(s, w64 ? v : (u32)v);
		return;
	}
	(void)extended_range(&min, &max, bits);
	*s = scalar_unknown;
	if (w64) {
		s->smin = min;
		s->smax = max;
	} else {
		s->smin32 = min;
		s->smax32 = max;
		scalar_sync(s); /* the low half's other knowledge, from this one */
		whole_is_low(s);
	}
	scalar_sync(s);
}

void scalar_extend(struct scalar *s, unsigned bits, bool is_signed, bool w64)
{
	if (is_signed)
		sign_extend(s, bits, w64);
	else
		zero_extend(s, bits);
}

void scalar_bswap(struct scalar *s, unsigned bits, bool swap)
{
	struct tnum b = s->bits;

	if (!swap) {
		if (bits < 64)
			zero_extend(s, bits);
		return;
	}
	*s = scalar_unknown; /* of the bounds nothing is left; single bits move along */
	s->bits = tnum(__builtin_bswap64(b.value) >> (64 - bits), __builtin_bswap64(b.mask) >> (64 - bits));
	scalar_sync(s);
}

/* --- branches --- */

/* An operand as a comparison of one width sees it. */
struct view {
	u64 umin, umax;
	s64 smin, smax;
	struct tnum bits;
};

static inline struct view view(const struct scalar *s, bool w64)
{
	if (w64)
		return (struct view){ s->umin, s->umax, s->smin, s->smax, s->bits };
	return (struct view){ s->umin32, s->umax32, s->smin32, s->smax32, tnum_low(s->bits) };
}

static bool disjoint(const struct view *a, const struct view *b)
{
	return a->umin > b->umax || a->umax < b->umin || a->smin > b->smax || a->smax < b->smin ||
	       tnum_conflict(a->bits, b->bits);
}

static int branch_equal(bool w64, const struct scalar *a, const struct scalar *b)
{
	struct view va = view(a, w64), vb = view(b, w64);

	if (!va.bits.mask && !vb.bits.mask)
		return va.bits.value == vb.bits.value;
	if (disjoint(&va, &vb))
		return 0;
	if (w64) { /* whole numbers differ if their low halves do */
		va = view(a, false);
		vb = view(b, false);
		if (disjoint(&va, &vb))
			return 0;
	}
	return -1;
}

static int branch_set(const struct view *a, const struct view *b)
{
	if (b->bits.mask) {
		const struct view *t = a;

		a = b;
		b = t;
	}
	if (b->bits.mask)
		return -1;
	if (a->bits.value & b->bits.value)
		return 1;
	return (a->bits.value | a->bits.mask) & b->bits.value ? -1 : 0;
}

static inline int branch_less(u64 min_a, u64 max_a, u64 min_b, u64 max_b)
{
	return max_a < min_b ? 1 : min_a >= max_b ? 0 : -1;
}

static inline int branch_sless(s64 min_a, s64 max_a, s64 min_b, s64 max_b)
{
	return max_a < min_b ? 1 : min_a >= max_b ? 0 : -1;
}

static inline int not(int known)
{
	return known < 0 ? known : !known;
}

int scalar_branch(u8 op, bool w64, const struct scalar *a, const struct scalar *b)
{
	struct view va = view(a, w64), vb = view(b, w64);

	switch (op) {
	case BPF_JEQ:
		return branch_equal(w64, a, b);
	case BPF_JNE:
		return not(branch_equal(w64, a, b));
	case BPF_JSET:
		return branch_set(&va, &vb);
	case BPF_JLT:
		return branch_less(va.umin, va.umax, vb.umin, vb.umax);
	case BPF_JGE:
		return not(branch_less(va.umin, va.umax, vb.umin, vb.umax));
	case BPF_JGT:
		return branch_less(vb.umin, vb.umax, va.umin, va.umax);
	case BPF_JLE:
		return not(branch_less(vb.umin, vb.umax, va.umin, va.umax));
	case BPF_JSLT:
		return branch_sless(va.smin, va.smax, vb.smin, vb.smax);
	case BPF_JSGE:
		return not(branch_sless(va.smin, va.smax, vb.smin, vb.smax));
	case BPF_JSGT:
		return branch_sless(vb.smin, vb.smax, va.smin, va.smax);
	case BPF_JSLE:
		return not(branch_sless(vb.smin, vb.smax, va.smin, va.smax));
	default:
		return -1;
	}
}

/* a == b: each knows what the other does. */
static bool refine_equal(bool w64, struct scalar *a, struct scalar *b)
{
	struct scalar *both[2] = { a, b };
	struct view va = view(a, w64), vb = view(b, w64);
	struct tnum bits = tnum_both(va.bits, vb.bits);

	if (tnum_conflict(va.bits, vb.bits))
		return false;
	for (int i = 0; i < 2; i++) {
		if (w64) {
			narrow_u64(both[i], umax_of(va.umin, vb.umin), umin_of(va.umax, vb.umax));
			narrow_s64(both[i], smax_of(va.smin, vb.smin), smin_of(va.smax, vb.smax));
			both[i]->bits = bits;
		} else {
			narrow_u32(both[i], umax_of(va.umin, vb.umin), umin_of(va.umax, vb.umax));
			narrow_s32(both[i], smax_of(va.smin, vb.smin), smin_of(va.smax, vb.smax));
			both[i]->bits = tnum_with_low(both[i]->bits, bits);
		}
	}
	if (!w64)
		return true;
	narrow_u32(a, b->umin32, b->umax32);
	narrow_s32(a, b->smin32, b->smax32);
	narrow_u32(b, a->umin32, a->umax32);
	narrow_s32(b, a->smin32, a->smax32);
	return true;
}

static inline bool const_in(const struct scalar *s, bool w64)
{
	return !(w64 ? s->bits.mask : (u32)s->bits.mask);
}

/* a != b: tells something only if one is a constant at an end of the other. */
static bool refine_unequal(bool w64, struct scalar *a, struct scalar *b)
{
	u64 v;

	if (!const_in(b, w64)) {
		struct scalar *t = a;

		a = b;
		b = t;
	}
	if (!const_in(b, w64))
		return true;
	v = b->bits.value;
	if (w64) {
		if (const_in(a, true) && a->bits.value == v)
			return false;
		a->umin += a->umin == v;
		a->umax -= a->umax == v;
		a->smin += a->smin == (s64)v;
		a->smax -= a->smax == (s64)v;
	} else {
		if (const_in(a, false) && (u32)a->bits.value == (u32)v)
			return false;
		a->umin32 += a->umin32 == (u32)v;
		a->umax32 -= a->umax32 == (u32)v;
		a->smin32 += a->smin32 == (s32)v;
		a->smax32 -= a->smax32 == (s32)v;
	}
	return true;
}

/* a & b is, or is not, 0; tells something if one is a constant, and for "is not"
 * if that has one bit. */
static bool refine_set(bool w64, bool taken, struct scalar *a, struct scalar *b)
{
	struct tnum bits;
	u64 v;

	if (!const_in(b, w64)) {
		struct scalar *t = a;

		a = b;
		b = t;
	}
	if (!const_in(b, w64))
		return true;
	v = w64 ? b->bits.value : (u32)b->bits.value;
	bits = tnum(taken ? v : 0, ~v); /* those of v are known now */
	if (taken && __builtin_popcountll(v) != 1)
		return v != 0;
	if (tnum_conflict(a->bits, bits))
		return false;
	a->bits = tnum_both(a->bits, bits);
	return true;
}

/* a < b, or a <= b when EQUAL. */
static bool refine_less(bool w64, bool equal, struct scalar *a, struct scalar *b)
{
	u64 min = w64 ? a->umin : a->umin32, max = w64 ? b->umax : b->umax32;

	if (!equal) {
		if (!max || min == (w64 ? UINT64_MAX : UINT32_MAX))
			return false;
		max--;
		min++;
	}
	if (w64) {
		a->umax = umin_of(a->umax, max);
		b->umin = umax_of(b->umin, min);
	} else {
		a->umax32 = umin_of(a->umax32, max);
		b->umin32 = umax_of(b->umin32, min);
	}
	return true;
}

static bool refine_sless(bool w64, bool equal, struct scalar *a, struct scalar *b)
{
	s64 min = w64 ? a->smin : a->smin32, max = w64 ? b->smax : b->smax32;

	if (!equal) {
		if (max == (w64 ? INT64_MIN : INT32_MIN) || min == (w64 ? INT64_MAX : INT32_MAX))
			return false;
		max--;
		min++;
	}
	if (w64) {
		a->smax = smin_of(a->smax, max);
		b->smin = smax_of(b->smin, min);
	} else {
		a->smax32 = smin_of(a->smax32, max);
		b->smin32 = smax_of(b->smin32, min);
	}
	return true;
}

bool scalar_refine(u8 op, bool w64, bool taken, struct scalar *a, struct scalar *b)
{
	bool good = true;

	switch (op) {
	case BPF_JEQ:
		good = taken ? refine_equal(w64, a, b) : refine_unequal(w64, a, b);
		break;
	case BPF_JNE:
		good = taken ? refine_unequal(w64, a, b) : refine_equal(w64, a, b);
		break;
	case BPF_JSET:
		good = refine_set(w64, taken, a, b);
		break;
	case BPF_JLT:
	case BPF_JGE: /* a < b, or b <= a */
		good = taken == (op == BPF_JLT) ? refine_less(w64, false, a, b) : refine_less(w64, true, b, a);
		break;
	case BPF_JGT:
	case BPF_JLE: /* b < a, or a <= b */
		good = taken == (op == BPF_JGT) ? refine_less(w64, false, b, a) : refine_less(w64, true, a, b);
		break;
	case BPF_JSLT:
	case BPF_JSGE:
		good = taken == (op == BPF_JSLT) ? refine_sless(w64, false, a, b) : refine_sless(w64, true, b, a);
		break;
	case BPF_JSGT:
	case BPF_JSLE:
		good = taken == (op == BPF_JSGT) ? refine_sless(w64, false, b, a) : refine_sless(w64, true, a, b);
		break;
	}
	if (good)
		good = sync(a);
	if (good)
		good = sync(b);
	return good;
}

/* --- comparing, printing --- */

bool scalar_contains(const struct scalar *old, const struct scalar *cur)
{
	return old->umin <= cur->umin && old->umax >= cur->umax && old->smin <= cur->smin && old->smax >= cur->smax &&
	       old->umin32 <= cur->umin32 && old->umax32 >= cur->umax32 && old->smin32 <= cur->smin32 &&
	       old->smax32 >= cur->smax32 && !(cur->bits.mask & ~old->bits.mask) &&
	       old->bits.value == (cur->bits.value & ~old->bits.mask);
}

bool scalar_aligned(const struct scalar *s, s64 off, u32 align)
{
	struct tnum sum = tnum_add(s->bits, tnum(off, 0));

	return !((sum.value | sum.mask) & (align - 1));
}

/* Small numbers in decimal, others in hexadecimal, as the kernel does. */
static int print_number(char *ret, size_t size, u64 v, bool is_signed)
{
	if (is_signed && (s64)v >= INT16_MIN && (s64)v <= INT16_MAX)
		return snprintf(ret, size, "%" PRId64, (s64)v);
	return snprintf(ret, size, !is_signed && v <= UINT16_MAX ? "%" PRIu64 : "%#" PRIx64, v);
}

static u64 as_printed32(s32 v)
{
	return v >= INT16_MIN && v <= INT16_MAX ? (u64)(s64)v : (u32)v;
}

size_t scalar_format(const struct scalar *s, char *ret, size_t size)
{
	struct {
		const char *name;
		u64 v;
		bool omit;
	} bound[] = {
		{ "smin", s->smin, s->smin == INT64_MIN },
		{ "smax", s->smax, s->smax == INT64_MAX },
		{ "umin", s->umin, s->umin == 0 },
		{ "umax", s->umax, s->umax == UINT64_MAX },
		{ "smin32", as_printed32(s->smin32), s->smin32 == INT32_MIN },
		{ "smax32", as_printed32(s->smax32), s->smax32 == INT32_MAX },
		{ "umin32", s->umin32, s->umin32 == 0 },
		{ "umax32", s->umax32, s->umax32 == UINT32_MAX },
	};
	size_t n = 0;
#define LEFT (n < size ? size - n : 0)
#define AT (ret + (n < size ? n : size))

	if (size)
		ret[0] = 0;
	for (size_t i = 0; i < sizeof(bound) / sizeof(bound[0]); i++) {
		bool is_signed = bound[i].name[0] == 's';
		bool negative = is_signed && (s64)bound[i].v < 0;

		if (bound[i].omit)
			continue;
		n += snprintf(AT, LEFT, "%s%s=", n ? "," : "", bound[i].name);
		for (size_t j = i + 2; j < sizeof(bound) / sizeof(bound[0]); j += 2) { /* smin=umin=0 */
			if (bound[j].omit || bound[j].v != bound[i].v ||
			    negative != (bound[j].name[0] == 's' && (s64)bound[j].v < 0))
				continue;
			bound[j].omit = true;
			n += snprintf(AT, LEFT, "%s=", bound[j].name);
		}
		n += print_number(AT, LEFT, bound[i].v, is_signed);
	}
	if (s->bits.mask != UINT64_MAX)
		n += snprintf(AT, LEFT, "%svar_off=(0x%" PRIx64 "; 0x%" PRIx64 ")", n ? "," : "", s->bits.value,
			      s->bits.mask);
#undef LEFT
#undef AT
	return n;
}
