/* SPDX-License-Identifier: MIT */
/*
 * Functions of two numbers, compiled by the host's compiler into
 * test_compilers.c and by each clang for each -mcpu into BPF objects
 * (instructions.bpf.c): whatever instructions it picks, the results must be the
 * same. CPU is the BPF CPU's version, 4 for the host.
 */
#include <linux/types.h>

#define FUNCTION static inline __attribute__((always_inline)) __u64

FUNCTION arithmetic(__u64 a, __u64 b)
{
	__u64 x = a * 31 + b;

	x ^= x >> 17;
	x -= a & 0xffff0000ffff;
	x |= b << 7;
	return x * 0x9e3779b97f4a7c15ull + (a / (b | 1)) + (b % (a | 3));
}

FUNCTION arithmetic32(__u64 a, __u64 b)
{
	__u32 x = (__u32)a * 31 + (__u32)b, y = b;

	x ^= x >> 9;
	y -= x << (a & 15);
	return x / (y | 1) + (__u64)(y % (x | 1)) * 3;
}

/* movsx, or a pair of shifts */
FUNCTION extend(__u64 a, __u64 b)
{
	__s64 r = (__s8)a;

	r += (__s64)(__s16)b * 3;
	r ^= (__s64)(__s32)(a + b) * 2;
	return r + (__s32)(__s8)(a >> 8) + (__s32)(__s16)(b >> 16);
}

FUNCTION shifts(__u64 a, __u64 b)
{
	__s64 s = a;
	__s32 t = b;

	return (a << (b & 63)) ^ (a >> (b & 31)) ^ (s >> (b & 63)) ^ (__u32)(t >> (a & 31));
}

/* be/le, or bswap */
FUNCTION swap(__u64 a, __u64 b)
{
	return __builtin_bswap64(a) ^ __builtin_bswap32(b) ^ __builtin_bswap16(a >> 16);
}

FUNCTION compare(__u64 a, __u64 b)
{
	__u64 r = 0;

	r |= a < b ? 1 : 0;
	r |= (__s64)a < (__s64)b ? 2 : 0;
	r |= (__u32)a <= (__u32)b ? 4 : 0;
	r |= (__s32)a >= (__s32)b ? 8 : 0;
	r |= a & b & 0x80000000 ? 16 : 0;
	r |= (__s32)a > -5 ? 32 : 0;
	r |= a == 0xffffffff ? 64 : 0;
	return r;
}

FUNCTION choose(__u64 a, __u64 b)
{
	switch (a % 9) {
	case 0:
		return b + 1;
	case 1:
		return b * 7;
	case 2:
		return b ^ 0x1234567890abcdefull;
	case 3:
		return b >> 3;
	case 5:
		return ~b;
	case 7:
		return -b;
	case 8:
		return b & 0xff00;
	}
	return a;
}

FUNCTION loops(__u64 a, __u64 b)
{
	__u64 sum = a;

#ifdef __clang__
#pragma clang loop unroll(disable)
#endif
	for (unsigned i = 0; i < 50; i++) {
		if (sum & 1)
			sum = sum * 3 + 1;
		else
			sum >>= 1;
		sum += b & i;
	}
	return sum;
}

/* Bytes, halves and words of one object on the stack, some of them signed. */
FUNCTION memory(__u64 a, __u64 b)
{
	union {
		__u64 words[4];
		__s32 s32[8];
		__s16 s16[16];
		__s8 s8[32];
		__u8 u8[32];
	} u = { .words = { a, b, a ^ b, a + b } };
	__s64 r = 0;

	/* the compiler must believe that it is memory */
	asm volatile("" : : "r"(&u) : "memory");
	r += u.s8[3] + u.s16[5] * 2 + (__s64)u.s32[5] * 3;
	r -= u.u8[9];
	u.s16[2] = (__s16)r;
	u.u8[17] = 5;
	asm volatile("" : : "r"(&u) : "memory");
	return r ^ u.words[0] ^ u.words[2] ^ u.s32[1];
}

/* With padding, which a copy reads though it was never written. */
FUNCTION copies(__u64 a, __u64 b)
{
	struct {
		__u64 x[6];
		__u32 y;
	} from = { { a, b, 3, a ^ 1, b ^ 2, 6 }, 7 }, to;

	asm volatile("" : : "r"(&from) : "memory");
	to = from;
	asm volatile("" : : "r"(&to) : "memory");
	return to.x[0] * 3 + to.x[1] + to.x[3] * 5 + to.x[4] + to.x[5] + to.y;
}

FUNCTION wide(__u64 a, __u64 b)
{
	unsigned __int128 x = (unsigned __int128)a << 32 | b;

	x += a;
	return (__u64)x ^ (__u64)(x >> 64);
}

FUNCTION atomic_add(__u64 a, __u64 b)
{
	__u64 cell = 10, *p = &cell;

	asm volatile("" : "+r"(p));
	__sync_fetch_and_add(p, a);
	__sync_fetch_and_add(p, b);
	return cell;
}

#if CPU >= 3
FUNCTION atomic_fetch(__u64 a, __u64 b)
{
	__u64 cell = 10, *p = &cell, r = 0;
	__u32 half = a, *q = &half;

	asm volatile("" : "+r"(p), "+r"(q));
	r += __sync_fetch_and_add(p, b);
	r ^= __sync_fetch_and_or(p, 0x100);
	r += __sync_lock_test_and_set(p, a);
	r ^= __sync_val_compare_and_swap(p, a, b);
	r += __sync_val_compare_and_swap(p, b + 1, a);
	r ^= __sync_fetch_and_and(p, 0xffff);
	r += __sync_fetch_and_xor(p, 0xff);
	r ^= __sync_fetch_and_add(q, 3);
	r += __sync_val_compare_and_swap(q, (__u32)a + 3, 9);
	return r ^ cell ^ half;
}
#endif

#if CPU >= 4
FUNCTION signed_division(__u64 a, __u64 b)
{
	__s64 x = a, y = (__s64)b | 1;
	__s32 u = a, v = (__s32)b | 1;

	/* the one quotient that does not fit is not C's business */
	if (y == -1)
		y = 3;
	if (v == -1)
		v = 5;
	return (__u64)(x / y) + (__u64)(x % y) * 7 + (__u64)(u / v) + (__u64)(u % v) + (__u64)(x / -13) + (__u64)(u % 11);
}
#endif

/* name, lowest CPU */
#define FUNCTIONS(X)       \
	X(arithmetic, 1)   \
	X(arithmetic32, 1) \
	X(extend, 1)       \
	X(shifts, 1)       \
	X(swap, 1)         \
	X(compare, 1)      \
	X(choose, 1)       \
	X(loops, 1)        \
	X(memory, 1)       \
	X(copies, 1)       \
	X(wide, 1)         \
	X(atomic_add, 1)   \
	X(atomic_fetch, 3) \
	X(signed_division, 4)
