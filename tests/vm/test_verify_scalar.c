/* SPDX-License-Identifier: MIT */
/*
 * What the verifier believes of numbers holds for the numbers: every operation,
 * branch and refinement on small domains completely (all tristate numbers of
 * four bits, all ranges of sixteen numbers, at the places where halves, signs and
 * wraps meet) and on random 64-bit ones by members, and it is not vaguer than it
 * ought to be (rows with the exact result).
 */
#include <check.h>
#include <inttypes.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"
#include "tests/vm/concrete.h"
#include "vm/verify_scalar.h"

static const struct {
	u8 op;
	bool is_signed;
	const char *name;
} alus[] = {
	{ BPF_ADD, false, "+" },   { BPF_SUB, false, "-" },   { BPF_MUL, false, "*" },  { BPF_AND, false, "&" },
	{ BPF_OR, false, "|" },    { BPF_XOR, false, "^" },   { BPF_LSH, false, "<<" }, { BPF_RSH, false, ">>" },
	{ BPF_ARSH, false, "s>>" }, { BPF_DIV, false, "/" },  { BPF_MOD, false, "%" },  { BPF_DIV, true, "s/" },
	{ BPF_MOD, true, "s%" },
};
#define NALUS (sizeof(alus) / sizeof(alus[0]))

static const struct {
	u8 op;
	const char *name;
} jumps[] = {
	{ BPF_JEQ, "==" }, { BPF_JNE, "!=" }, { BPF_JGT, ">" },    { BPF_JGE, ">=" },  { BPF_JLT, "<" },    { BPF_JLE, "<=" },
	{ BPF_JSGT, "s>" }, { BPF_JSGE, "s>=" }, { BPF_JSLT, "s<" }, { BPF_JSLE, "s<=" }, { BPF_JSET, "&" },
};
#define NJUMPS (sizeof(jumps) / sizeof(jumps[0]))

/* --- the numbers themselves --- */

static u64 really(u8 op, bool is_signed, bool w64, u64 a, u64 b)
{
	u64 r;

	if (!concrete_alu(op, is_signed, w64, a, b, &r))
		ck_abort_msg("no such operation: %#x", op);
	return r;
}

static bool holds(u8 op, bool w64, u64 a, u64 b)
{
	int taken = concrete_jump(op, w64, a, b);

	if (taken < 0)
		ck_abort_msg("no such comparison: %#x", op);
	return taken;
}

static bool member(const struct scalar *s, u64 v)
{
	return (v & ~s->bits.mask) == s->bits.value && v >= s->umin && v <= s->umax && (s64)v >= s->smin &&
	       (s64)v <= s->smax && (u32)v >= s->umin32 && (u32)v <= s->umax32 && (s32)v >= s->smin32 &&
	       (s32)v <= s->smax32;
}

static const char *shown(const struct scalar *s)
{
	static char text[4][400];
	static unsigned next;
	char *ret = text[next++ % 4];

	scalar_format(s, ret, sizeof(text[0]));
	return ret;
}

/* --- one operation on two sets, given with some or all of their members --- */

#define MAX_MEMBERS 16

struct set {
	struct scalar s;
	u64 v[MAX_MEMBERS];
	u32 n;
};

/* ck_assert() is too slow for the inner loops, one that holds too is a write(2):
 * these say no, once. */
#define INNER(cond) INNER_MSG(cond, "%s", #cond)
#define INNER_MSG(cond, ...)                        \
	do {                                        \
		if (!(cond))                        \
			ck_abort_msg(__VA_ARGS__);  \
	} while (0)

static void wrong(const char *what, const char *op, bool w64, const struct set *a, const struct set *b, u64 va, u64 vb,
		  const struct scalar *ret)
{
	ck_abort_msg("%s: (%s) %s%s (%s), members %#" PRIx64 ", %#" PRIx64 ", gives (%s)", what, shown(&a->s), op,
		     w64 ? "" : " in 32 bits", shown(&b->s), va, vb, shown(ret));
}

static void try_alu(const struct set *a, const struct set *b)
{
	for (u32 i = 0; i < 2 * NALUS; i++) {
		bool w64 = i & 1;
		struct scalar r = a->s;

		scalar_alu(&r, alus[i / 2].op, alus[i / 2].is_signed, w64, &b->s);
		if (r.bits.mask == UINT64_MAX && r.umin == 0 && r.umax == UINT64_MAX)
			continue;
		for (u32 j = 0; j < a->n; j++)
			for (u32 k = 0; k < b->n; k++)
				if (!member(&r, really(alus[i / 2].op, alus[i / 2].is_signed, w64, a->v[j], b->v[k])))
					wrong("lost", alus[i / 2].name, w64, a, b, a->v[j], b->v[k], &r);
	}
}

static void try_way(u8 op, const char *name, bool w64, bool taken, const struct set *a, const struct set *b)
{
	struct scalar ra = a->s, rb = b->s;
	bool possible = scalar_refine(op, w64, taken, &ra, &rb);

	for (u32 j = 0; j < a->n; j++) {
		for (u32 k = 0; k < b->n; k++) {
			if (holds(op, w64, a->v[j], b->v[k]) != taken)
				continue;
			if (!possible)
				wrong("thought impossible", name, w64, a, b, a->v[j], b->v[k], &ra);
			if (!member(&ra, a->v[j]))
				wrong(taken ? "lost on the left, taken" : "lost on the left, not taken", name, w64, a,
				      b, a->v[j], b->v[k], &ra);
			if (!member(&rb, b->v[k]))
				wrong(taken ? "lost on the right, taken" : "lost on the right, not taken", name, w64,
				      a, b, a->v[j], b->v[k], &rb);
		}
	}
	if (possible && (!scalar_contains(&a->s, &ra) || !scalar_contains(&b->s, &rb)))
		wrong("grew", name, w64, a, b, 0, 0, &ra);
}

static void try_jump(const struct set *a, const struct set *b)
{
	for (u32 i = 0; i < 2 * NJUMPS; i++) {
		u8 op = jumps[i / 2].op;
		bool w64 = i & 1;
		int sure = scalar_branch(op, w64, &a->s, &b->s);

		for (u32 j = 0; sure >= 0 && j < a->n; j++)
			for (u32 k = 0; k < b->n; k++)
				if (holds(op, w64, a->v[j], b->v[k]) != sure)
					wrong(sure ? "said taken" : "said not taken", jumps[i / 2].name, w64, a, b,
					      a->v[j], b->v[k], &a->s);
		try_way(op, jumps[i / 2].name, w64, true, a, b);
		try_way(op, jumps[i / 2].name, w64, false, a, b);
	}
}

static u64 really_extended(u64 v, unsigned bits, bool is_signed, bool w64)
{
	u64 r = is_signed ? (u64)((s64)(v << (64 - bits)) >> (64 - bits)) : v << (64 - bits) >> (64 - bits);

	return w64 ? r : (u32)r;
}

static void try_unary(const struct set *a)
{
	for (u32 i = 0; i < 12; i++) {
		unsigned bits = 8u << i % 3;
		struct scalar r = a->s;

		scalar_extend(&r, bits, i & 4, i >= 6);
		for (u32 j = 0; j < a->n; j++)
			if (!member(&r, really_extended(a->v[j], bits, i & 4, i >= 6)))
				wrong("lost", i & 4 ? "sign extension" : "zero extension", i >= 6, a, a, a->v[j], bits,
				      &r);
	}
	for (u32 w64 = 0; w64 < 2; w64++) {
		struct scalar r = a->s;

		scalar_neg(&r, w64);
		for (u32 j = 0; j < a->n; j++)
			if (!member(&r, really(BPF_SUB, false, w64, 0, a->v[j])))
				wrong("lost", "neg", w64, a, a, a->v[j], 0, &r);
	}
	for (u32 bits = 16; bits <= 64; bits *= 2) {
		struct scalar r = a->s, cut = a->s;

		scalar_bswap(&r, bits, true);
		scalar_bswap(&cut, bits, false);
		for (u32 j = 0; j < a->n; j++) {
			if (!member(&r, __builtin_bswap64(a->v[j]) >> (64 - bits)))
				wrong("lost", "bswap", true, a, a, a->v[j], bits, &r);
			if (!member(&cut, really_extended(a->v[j], bits, false, true)))
				wrong("lost", "cut", true, a, a, a->v[j], bits, &cut);
		}
	}
	for (u32 align = 1; align <= 16; align *= 2)
		for (s64 off = -9; off <= 9; off++)
			for (u32 j = 0; scalar_aligned(&a->s, off, align) && j < a->n; j++)
				if ((a->v[j] + off) % align)
					wrong("not aligned", "alignment", true, a, a, a->v[j], off, &a->s);
}

static void try_pair(const struct set *a, const struct set *b)
{
	try_alu(a, b);
	try_jump(a, b);
}

/* --- small domains, completely --- */

#define BITS 4
#define NTNUMS 81 /* 3^4 */

/* The T-th tristate number of four bits at bit POS, the bits around all FILL. */
static struct set tnum_set(u32 t, unsigned pos, bool fill)
{
	u64 around = fill ? ~(0xfull << pos) : 0;
	struct set ret = { .s = scalar_unknown };
	u64 value = 0, mask = 0;

	for (u32 i = 0; i < BITS; i++, t /= 3) {
		value |= (t % 3 == 1 ? 1ull : 0) << i;
		mask |= (t % 3 == 2 ? 1ull : 0) << i;
	}
	ret.s.bits.value = value << pos | around;
	ret.s.bits.mask = mask << pos;
	scalar_sync(&ret.s);
	for (u64 v = 0; v < 1 << BITS; v++)
		if ((v & ~mask) == value)
			ret.v[ret.n++] = v << pos | around;
	for (u32 i = 0; i < ret.n; i++)
		INNER(member(&ret.s, ret.v[i]));
	return ret;
}

static const struct place {
	unsigned pos;
	bool fill;
} places[] = { { 0, false }, { 0, true }, { 30, false }, { 30, true }, { 60, false }, { 60, true } };
#define NPLACES (sizeof(places) / sizeof(places[0]))

START_TEST(all_tnums)
{
	const struct place *p = &places[_i / NPLACES], *q = &places[_i % NPLACES];
	static struct set b[NTNUMS];

	for (u32 t = 0; t < NTNUMS; t++)
		b[t] = tnum_set(t, q->pos, q->fill);
	for (u32 t = 0; t < NTNUMS; t++) {
		struct set a = tnum_set(t, p->pos, p->fill);

		try_unary(&a);
		for (u32 u = 0; u < NTNUMS; u++)
			try_pair(&a, &b[u]);
	}
}
END_TEST

/* Sixteen numbers from each of these on: around 0, the signs and the wraps. */
static const u64 bases[] = {
	0, -8, INT32_MAX - 7ull, UINT32_MAX - 7ull, INT64_MAX - 7ull, (u64)(s64)INT32_MIN - 8, 0x7ffffffff8ull,
};
#define NBASES (sizeof(bases) / sizeof(bases[0]))
#define NRANGES 136 /* of 16 numbers */

static u32 ranges_from(u64 base, struct set *ret)
{
	u32 n = 0;

	for (u64 lo = 0; lo < 16; lo++) {
		for (u64 hi = lo; hi < 16; hi++) {
			u64 min = base + lo, max = base + hi;
			struct set *s = &ret[n++];

			/* as signed where the unsigned wraps, and the other way */
			s->s = min <= max ? scalar_urange(min, max) : scalar_srange(min, max);
			s->n = hi - lo + 1;
			for (u64 i = 0; i < s->n; i++) {
				s->v[i] = min + i;
				INNER_MSG(member(&s->s, s->v[i]), "%s", shown(&s->s));
			}
		}
	}
	return n;
}

START_TEST(all_ranges)
{
	static struct set a[NRANGES], b[NRANGES];
	u32 stride = _i / NBASES == _i % NBASES ? 1 : 17;

	ck_assert_uint_eq(ranges_from(bases[_i / NBASES], a), NRANGES);
	ranges_from(bases[_i % NBASES], b);
	for (u32 i = 0; i < NRANGES; i++) {
		try_unary(&a[i]);
		/* in one place all pairs of ranges, in two of them a part */
		for (u32 j = (i + _i) % stride; j < NRANGES; j += stride)
			try_pair(&a[i], &b[j]);
	}
}
END_TEST

/* --- 64-bit numbers at random --- */

static u64 rng = 88172645463325252ull;

static u64 rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng * 0x2545f4914f6cdd1dull;
}

/* Numbers near where something happens are likelier. */
static u64 rnd_number(void)
{
	static const u64 edges[] = { 0, 1, 8, 31, 32, 63, 64, 255, 4096, INT32_MAX, 1ull << 31, UINT32_MAX, 1ull << 32,
				     INT64_MAX, 1ull << 63, UINT64_MAX };

	switch (rnd() % 4) {
	case 0:
		return rnd();
	case 1:
		return rnd() >> rnd() % 64;
	case 2:
		return (s64)rnd() >> rnd() % 64;
	default:
		return edges[rnd() % (sizeof(edges) / sizeof(edges[0]))] + rnd() % 5 - 2;
	}
}

/* The tightest description of V[0…N). */
static struct scalar hull(const u64 *v, u32 n)
{
	struct scalar s = scalar_const(v[0]);

	for (u32 i = 1; i < n; i++) {
		s.bits.mask |= s.bits.value ^ v[i];
		s.bits.value &= ~s.bits.mask;
		s.umin = v[i] < s.umin ? v[i] : s.umin;
		s.umax = v[i] > s.umax ? v[i] : s.umax;
		s.smin = (s64)v[i] < s.smin ? (s64)v[i] : s.smin;
		s.smax = (s64)v[i] > s.smax ? (s64)v[i] : s.smax;
		s.umin32 = (u32)v[i] < s.umin32 ? (u32)v[i] : s.umin32;
		s.umax32 = (u32)v[i] > s.umax32 ? (u32)v[i] : s.umax32;
		s.smin32 = (s32)v[i] < s.smin32 ? (s32)v[i] : s.smin32;
		s.smax32 = (s32)v[i] > s.smax32 ? (s32)v[i] : s.smax32;
	}
	return s;
}

/* Forgets some of what is known. */
static void widen(struct scalar *s)
{
	u64 what = rnd() & rnd(), more = rnd() & rnd();

	if (what & 1) {
		s->bits.mask |= more;
		s->bits.value &= ~s->bits.mask;
	}
	if (what & 2)
		s->umin = 0;
	if (what & 4)
		s->umax = UINT64_MAX;
	if (what & 8)
		s->smin = INT64_MIN;
	if (what & 16)
		s->smax = INT64_MAX;
	if (what & 32)
		s->umin32 = 0;
	if (what & 64)
		s->umax32 = UINT32_MAX;
	if (what & 128)
		s->smin32 = INT32_MIN;
	if (what & 256)
		s->smax32 = INT32_MAX;
}

static struct set random_set(void)
{
	u64 near = rnd_number(), spread = rnd() % 3 ? rnd() >> rnd() % 64 : 0;
	struct set ret = { .n = 1 + rnd() % 6 };
	struct scalar before;

	for (u32 i = 0; i < ret.n; i++)
		ret.v[i] = !spread ? rnd_number() : near + rnd() % spread;
	if (rnd() % 4 == 0) /* constants are what most operands are */
		ret.n = 1;
	ret.s = hull(ret.v, ret.n);
	if (ret.n > 1 || rnd() % 8 == 0)
		widen(&ret.s);
	before = ret.s;
	scalar_sync(&ret.s);
	for (u32 i = 0; i < ret.n; i++)
		INNER_MSG(member(&ret.s, ret.v[i]), "sync lost %#" PRIx64 ": (%s) to (%s)", ret.v[i],
			      shown(&before), shown(&ret.s));
	INNER_MSG(scalar_contains(&before, &ret.s), "sync grew: (%s) to (%s)", shown(&before), shown(&ret.s));
	return ret;
}

START_TEST(random_numbers)
{
	rng += _i;
	for (u32 i = 0; i < 20000; i++) {
		struct set a = random_set(), b = random_set();
		struct scalar old = a.s;

		try_unary(&a);
		try_pair(&a, &b);
		if (rnd() % 2) /* one that may well contain the other */
			widen(&old);
		else
			old = b.s;
		if (scalar_contains(&old, &a.s))
			for (u32 j = 0; j < a.n; j++)
				INNER(member(&old, a.v[j]));
		INNER(scalar_contains(&a.s, &a.s));
		INNER(scalar_contains(&scalar_unknown, &a.s));
		for (u32 j = 0; j < b.n; j++)
			INNER(member(&a.s, b.v[j]) || !scalar_contains(&a.s, &b.s));
		if (a.n == 1 && scalar_is_const(&a.s))
			INNER(a.s.bits.value == a.v[0]);
	}
}
END_TEST

/* Chains of operations: what one leaves, the next takes. */
START_TEST(random_chains)
{
	rng += 1000 + _i;
	for (u32 i = 0; i < 10000; i++) {
		struct set a = random_set();

		for (u32 step = 0; step < 8; step++) {
			u32 op = rnd() % (NALUS - 4);
			struct set b = random_set();
			bool w64 = rnd() % 2;

			scalar_alu(&a.s, alus[op].op, false, w64, &b.s);
			for (u32 j = 0; j < a.n; j++)
				a.v[j] = really(alus[op].op, false, w64, a.v[j], b.v[j % b.n]);
			for (u32 j = 0; j < a.n; j++)
				INNER_MSG(member(&a.s, a.v[j]), "step %u: %s of (%s) lost %#" PRIx64 " in (%s)",
					      step, alus[op].name, shown(&b.s), a.v[j], shown(&a.s));
			try_jump(&a, &b);
		}
	}
}
END_TEST

/* --- and it knows as much as it should --- */

START_TEST(exact)
{
	struct scalar byte = scalar_urange(0, 255), four = scalar_const(4), s, t;

	ck_assert_str_eq(shown(&scalar_unknown), "");
	ck_assert_str_eq(shown(&byte), "smin=smin32=0,smax=umax=smax32=umax32=255,var_off=(0x0; 0xff)");
	s = byte;
	scalar_alu(&s, BPF_MUL, false, true, &four);
	ck_assert_str_eq(shown(&s), "smin=smin32=0,smax=umax=smax32=umax32=1020,var_off=(0x0; 0x3fc)");
	s = scalar_unknown;
	scalar_extend(&s, 16, true, true);
	ck_assert_str_eq(shown(&s), "smin=smin32=-32768,smax=smax32=32767");
	s = scalar_unknown;
	scalar_extend(&s, 32, false, true);
	ck_assert_str_eq(shown(&s), "smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff)");
	/* x in 32 bits, x s>= 0 && x s< 10 */
	t = scalar_const(0);
	ck_assert(scalar_refine(BPF_JSGE, false, true, &s, &t));
	t = scalar_const(10);
	ck_assert(scalar_refine(BPF_JSLT, false, true, &s, &t));
	ck_assert_str_eq(shown(&s), "smin=smin32=0,smax=umax=smax32=umax32=9,var_off=(0x0; 0xf)");
	/* sign extension by two shifts */
	t = scalar_const(32);
	s = scalar_srange(-5, 5);
	scalar_alu(&s, BPF_LSH, false, true, &t);
	scalar_alu(&s, BPF_ARSH, false, true, &t);
	ck_assert_int_eq(s.smin, -5);
	ck_assert_int_eq(s.smax, 5);
	ck_assert_int_eq(s.smin32, -5);
	/* all wrap: still a range */
	s = scalar_urange(UINT64_MAX - 9, UINT64_MAX);
	t = scalar_const(100);
	scalar_alu(&s, BPF_ADD, false, true, &t);
	ck_assert_uint_eq(s.umin, 90);
	ck_assert_uint_eq(s.umax, 99);
	/* unsigned and signed meet at one end only */
	s = scalar_srange(-100, 5);
	t = scalar_const(200);
	ck_assert(scalar_refine(BPF_JLT, true, true, &s, &t));
	ck_assert_uint_eq(s.umax, 5);
	/* no such number */
	s = scalar_urange(3, 7);
	t = scalar_const(8);
	ck_assert(!scalar_refine(BPF_JEQ, true, true, &s, &t));
	s = scalar_const(8);
	ck_assert(!scalar_refine(BPF_JNE, true, true, &s, &t));
	/* two unknowns, one below the other */
	s = scalar_unknown;
	t = byte;
	ck_assert(scalar_refine(BPF_JLT, true, true, &s, &t));
	ck_assert_uint_eq(s.umax, 254);
	ck_assert_uint_eq(t.umin, 1);
	/* a bit that is known */
	s = scalar_unknown;
	t = scalar_const(8);
	ck_assert(scalar_refine(BPF_JSET, true, true, &s, &t));
	ck_assert_uint_eq(s.bits.value, 8);
	ck_assert_int_eq(scalar_branch(BPF_JSET, true, &s, &t), 1);
	ck_assert(scalar_refine(BPF_JNE, true, true, &byte, &four));
	ck_assert_int_eq(scalar_branch(BPF_JGT, true, &byte, &scalar_unknown), -1);
	t = scalar_const(255);
	ck_assert_int_eq(scalar_branch(BPF_JLE, false, &byte, &t), 1);
	ck_assert(!scalar_contains(&byte, &scalar_unknown));
	s = scalar_const(5);
	ck_assert(scalar_contains(&byte, &s) && !scalar_contains(&s, &byte));
	s = byte;
	t = scalar_const(8);
	scalar_alu(&s, BPF_MUL, false, true, &t);
	ck_assert(scalar_aligned(&s, 16, 8) && !scalar_aligned(&s, 4, 8) && scalar_aligned(&s, 4, 4));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("verify_scalar");
	TCase *tc = tcase_create("verify_scalar");

	suite_add_tcase(suite, tc);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, exact);
	tcase_add_loop_test(tc, all_tnums, 0, NPLACES * NPLACES);
	tcase_add_loop_test(tc, all_ranges, 0, NBASES * NBASES);
	tcase_add_loop_test(tc, random_numbers, 0, 4);
	tcase_add_loop_test(tc, random_chains, 0, 2);
	return suite_run(suite);
}
