// SPDX-License-Identifier: MIT
/*
 * The micro-programs by which the JIT is measured beside the interpreter and
 * the kernel's JIT: each does one kind of work, long enough that the call
 * around it does not matter. They take nothing from their context and call no
 * helper but bpf_loop: the input is global data that the bench fills with the
 * same noise for every engine, so that the very same instructions run in all
 * three (the kernel is told that they are socket filters, whose test run can
 * repeat).
 *
 * Only the low half of a result can be compared (a test run returns 32 bits),
 * so a result that has more is folded.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "input.h"

struct bench_input input;

#define PROG(name) SEC("uprobe") __u64 name(void *ctx __attribute__((unused)))
#define ROLLED _Pragma("clang loop unroll(disable)")
#define UNROLLED _Pragma("clang loop unroll(full)")
#define FOLD(x) ((__u32)((x) ^ (x) >> 32))
/* The compiler may not look through it. */
#define OPAQUE(x) __asm__ volatile("" : "+r"(x))

static __always_inline __u32 rol32(__u32 x, int n)
{
	return x << n | x >> (32 - n);
}

static __always_inline __u64 rol64(__u64 x, int n)
{
	return x << n | x >> (64 - n);
}

/* Noise that differs from run to run, for programs about data that cannot be
 * foreseen: a CPU learns the branches of a repeated input by heart. */
static __always_inline __u64 fresh_noise(void)
{
	__u64 x = input.seed;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	input.seed = x;
	return x;
}

/* What a call costs without work; taken from all the others. Several copies:
 * where one of them happens to be placed badly, another is not. */
#define EMPTY(name) \
	PROG(name)  \
	{           \
		return 0; \
	}
EMPTY(empty)
EMPTY(empty_2)
EMPTY(empty_3)
EMPTY(empty_4)
EMPTY(empty_5)

/* --- bits --- */

PROG(bitcount_clear_lowest)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 16; i++) {
		__u32 x = input.w[i];

		ROLLED for (int k = 0; k < 32 && x; k++) {
			x &= x - 1;
			n++;
		}
	}
	return n;
}

PROG(bitcount_swar)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 64; i++) {
		__u64 x = input.d[i];

		x -= x >> 1 & 0x5555555555555555ull;
		x = (x & 0x3333333333333333ull) + (x >> 2 & 0x3333333333333333ull);
		x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0full;
		n += x * 0x0101010101010101ull >> 56;
	}
	return n;
}

/* as the histograms of latency tools do it */
static __always_inline __u32 log2_fold32(__u32 v)
{
	__u32 shift, r;

	r = (v > 0xffff) << 4;
	v >>= r;
	shift = (v > 0xff) << 3;
	v >>= shift;
	r |= shift;
	shift = (v > 0xf) << 2;
	v >>= shift;
	r |= shift;
	shift = (v > 0x3) << 1;
	v >>= shift;
	r |= shift;
	r |= v >> 1;
	return r;
}

PROG(log2_fold)
{
	__u64 n = 0, noise = fresh_noise();

	ROLLED for (int i = 0; i < 64; i++) {
		__u64 v = (input.d[i] ^ noise) >> ((input.b[i] ^ noise) & 63);
		__u32 hi = v >> 32;

		n += hi ? log2_fold32(hi) + 32 : log2_fold32(v);
	}
	return n;
}

PROG(bitfields)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 64; i++) {
		__u64 x = input.d[i];

		n += (x & 0xf) + (x >> 4 & 0x3f) + (x >> 10 & 0xff) + (x >> 18 & 0x1fff) + (x >> 31 & 1) +
		     (x >> 32 & 0xffff) + (x >> 48 & 0x7fff) + (x >> 63);
	}
	return n;
}

PROG(byte_swaps)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 64; i++) {
		n += __builtin_bswap64(input.d[i]);
		n ^= __builtin_bswap32(input.w[i + 200]);
		n += __builtin_bswap16(input.h[i + 600]);
	}
	return FOLD(n);
}

/* --- dependencies --- */

PROG(chain_short)
{
	__u64 x = input.d[0];

	ROLLED for (int i = 0; i < 64; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	return FOLD(x);
}

PROG(chain_long)
{
	__u64 x = input.d[1], y = input.d[2];

	ROLLED for (int i = 0; i < 16; i++) {
		x = x * 5 + 1;
		x ^= x >> 31;
		x = (x + y) * 9;
		x = (x << 3) - x;
		x += 0x1234567;
		x ^= y;
		x = x * 3 + 7;
		x ^= x >> 17;
		x = x + (x << 5);
		x = -x;
		x |= 0x100;
		x += x >> 3;
	}
	return FOLD(x);
}

PROG(chains_four)
{
	__u64 a = input.d[0], b = input.d[1], c = input.d[2], d = input.d[3];

	ROLLED for (int i = 0; i < 64; i++) {
		a = a * 31 + i;
		b = (b ^ b >> 7) + 3;
		c = (c << 2) + a;
		d = (d + b) ^ c;
	}
	return FOLD(a ^ b ^ c ^ d);
}

PROG(fibonacci)
{
	__u64 a = 0, b = 1;

	ROLLED for (int i = 0; i < 90; i++) {
		__u64 t = a + b;

		OPAQUE(t);
		a = b;
		b = t;
	}
	return FOLD(a);
}

/* --- branches --- */

PROG(binary_search)
{
	__u32 n = 0, noise = fresh_noise();

	ROLLED for (int i = 0; i < 16; i++) {
		__u32 key = input.w[i] ^ noise, at = input.zero;

		UNROLLED for (int step = 128; step; step >>= 1)
			if (input.sorted[(at + step) & 255] <= key)
				at += step;
		n += at;
	}
	return n;
}

/* a small machine: dispatch by a tree of comparisons, as there are no tables */
PROG(switch_dispatch)
{
	__u64 acc = 1, other = input.d[0];

	ROLLED for (int i = 0; i < 64; i++) {
		switch (input.b[i] & 15) {
		case 0: acc += other; break;
		case 1: acc -= 77; break;
		case 2: acc ^= other; break;
		case 3: acc <<= 1; break;
		case 4: acc >>= 3; break;
		case 5: other = acc; break;
		case 6: acc *= 13; break;
		case 7: acc |= 0x55; break;
		case 8: other += 9; break;
		case 9: acc = ~acc; break;
		case 10: other ^= acc; break;
		case 11: acc = -acc; break;
		case 12: other >>= 1; break;
		case 13: acc += i; break;
		}
	}
	return FOLD(acc ^ other);
}

PROG(dense_branches)
{
	__u32 n = 0;

	ROLLED for (int i = 0; i < 64; i++) {
		__u32 x = input.b[i & 7]; /* a pattern that predictors learn */

		if (x & 1)
			n += 3;
		if (x & 2)
			n ^= 5;
		if (x > 100)
			n += x;
		if (x & 8)
			n <<= 1;
		if (x == 77)
			n = 0;
		if ((__s32)n < 0)
			n -= 9;
		if (x & 64)
			n |= 1;
	}
	return n;
}

PROG(compare_select)
{
	__s32 lo = input.w[1000], hi = input.w[1001];
	__u64 clamped = input.d[0];
	__u32 noise = fresh_noise();

	ROLLED for (int i = 0; i < 128; i++) {
		__s32 v = input.w[i] ^ noise;

		lo = v < lo ? v : lo;
		hi = v > hi ? v : hi;
		clamped += v < -100000 ? -100000 : v > 100000000 ? 100000000 : v;
	}
	return FOLD((__u64)lo ^ (__u64)hi << 7 ^ clamped);
}

struct pass {
	__u64 sum;
	__u32 last;
};

static long add_word(__u32 i, void *arg)
{
	struct pass *pass = arg;

	pass->sum += input.w[i & 255] ^ i;
	pass->last = i;
	return 0;
}

/* bpf_loop with a callback of a few instructions */
PROG(callback_loop)
{
	struct pass pass = { 0 };

	bpf_loop(64, add_word, &pass, 0);
	return FOLD(pass.sum + pass.last);
}

static long add_words(__u32 i, void *arg)
{
	struct pass *pass = arg;
	long n = bpf_loop(i & 7, add_word, pass, 0);

	pass->sum ^= pass->sum << 7;
	return n == 6; /* the seventh is the last */
}

PROG(callback_nested)
{
	struct pass pass = { 0 };

	return FOLD(bpf_loop(100, add_words, &pass, 0) + pass.sum);
}

/* a maximum that is hardly ever new: jumps would be foreseen */
PROG(select_foreseen)
{
	__u32 hi = input.sorted[255];
	__u64 n = 0;

	ROLLED for (int i = 0; i < 128; i++) {
		__u32 v = input.w[i];

		hi = v > hi ? v : hi;
		n += hi ^ v;
	}
	return FOLD(n);
}

PROG(crc32_bitwise)
{
	__u32 crc = ~0u;

	ROLLED for (int i = 0; i < 32; i++) {
		crc ^= input.b[i];
		UNROLLED for (int k = 0; k < 8; k++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
	}
	return ~crc;
}

/* --- memory --- */

PROG(internet_checksum)
{
	__u64 sum = 0;

	ROLLED for (int i = 0; i < 256; i++)
		sum += input.h[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

PROG(byte_loads)
{
	__u64 a = 0, b = 0;

	ROLLED for (int i = 0; i < 64; i++) {
		a += input.b[4 * i] + input.b[4 * i + 1] - input.b[4 * i + 2];
		b ^= input.b[4 * i + 3] + a;
	}
	return FOLD(a ^ b);
}

PROG(word_loads)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 64; i++) {
		n += input.w[4 * i];
		n ^= input.w[4 * i + 1];
		n += input.d[2 * i + 1];
		n -= input.w[4 * i + 3];
	}
	return FOLD(n);
}

/* big-endian words put together from bytes, as parsers do */
PROG(unaligned_loads)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 64; i++) {
		const __u8 *p = &input.b[i * 7 & 1023];

		n += (__u32)p[0] << 24 | (__u32)p[1] << 16 | (__u32)p[2] << 8 | p[3];
		n ^= p[4] | (__u32)p[5] << 8;
	}
	return FOLD(n);
}

PROG(memory_compare)
{
	__u32 same = 0;

	ROLLED for (int i = 0; i < 256; i++) {
		if (input.twin[0][i] != input.twin[1][i])
			break;
		same++;
	}
	return same;
}

PROG(string_scan)
{
	__u32 words = 0, length = 0, start = fresh_noise() & 511;
	__u8 before = ' ';

	ROLLED for (int i = 0; i < 512; i++) {
		__u8 c = input.text[start + i];

		if (!c)
			break;
		if (c != ' ' && before == ' ')
			words++;
		before = c;
		length++;
	}
	return words << 16 | length;
}

PROG(parse_numbers)
{
	__u64 sum = 0, number = 0;
	__u32 start = fresh_noise() & 511;

	ROLLED for (int i = 0; i < 256; i++) {
		__u32 digit = (__u8)input.text[start + i] - '0';

		if (digit <= 9) {
			number = number * 10 + digit;
		} else {
			sum += number;
			number = 0;
		}
	}
	return FOLD(sum + number);
}

PROG(hex_encode)
{
	__u8 noise = fresh_noise();

	ROLLED for (int i = 0; i < 128; i++) {
		__u8 hi = (input.b[i] ^ noise) >> 4, lo = (input.b[i] ^ noise) & 15;

		input.out[2 * i] = hi + (hi > 9 ? 'a' - 10 : '0');
		input.out[2 * i + 1] = lo + (lo > 9 ? 'a' - 10 : '0');
	}
	return input.out[17] << 8 | input.out[100];
}

PROG(histogram)
{
	ROLLED for (int i = 0; i < 256; i++)
		input.count[input.b[i]] += i;
	input.count[7] &= 0xffff;
	return 0;
}

PROG(stack_sort)
{
	__u32 v[16], noise = fresh_noise();
	__u64 n = 0;

	UNROLLED for (int i = 0; i < 16; i++)
		v[i] = input.w[i] ^ noise;
	UNROLLED for (int i = 0; i < 15; i++)
		UNROLLED for (int k = 0; k < 15 - i; k++) {
			__u32 a = v[k], b = v[k + 1];

			v[k] = a < b ? a : b;
			v[k + 1] = a < b ? b : a;
			__asm__ volatile("" ::: "memory");
		}
	UNROLLED for (int i = 0; i < 16; i++)
		n = n * 31 + v[i];
	return FOLD(n);
}

/* --- loops --- */

PROG(loop_two_deep)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 16; i++) {
		__u32 row = input.w[i];

		ROLLED for (int k = 0; k < 16; k++)
			n += row ^ input.w[k + 64];
	}
	return FOLD(n);
}

PROG(loop_three_deep)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 8; i++)
		ROLLED for (int k = 0; k < 8; k++) {
			__u32 cell = 0;

			ROLLED for (int l = 0; l < 8; l++)
				cell += input.w[(i * 8 + l) & 63] * input.w[(64 + l * 8 + k) & 127];
			n = n * 3 + cell;
		}
	return FOLD(n);
}

/* --- calls --- */

static __noinline __u64 leaf(__u64 a, __u64 b)
{
	OPAQUE(a);
	return (a ^ b) * 17 + 1;
}

PROG(local_calls)
{
	__u64 n = input.d[0];

	ROLLED for (int i = 0; i < 64; i++)
		n = leaf(n, i);
	return FOLD(n);
}

static __noinline __u64 middle(__u64 a, __u64 b)
{
	__u64 first = leaf(a, b);

	OPAQUE(first);
	return first + leaf(b, a);
}

static __noinline __u64 outer(__u64 a, __u64 b, __u64 c)
{
	__u64 first = middle(a, c);

	OPAQUE(first);
	return first ^ middle(b, first);
}

PROG(local_calls_deep)
{
	__u64 n = input.d[0];

	ROLLED for (int i = 0; i < 24; i++)
		n += outer(n, input.d[i], i);
	return FOLD(n);
}

/* --- long bodies --- */

#define STEP4(i)                                        \
	a += input.w[(i)] ^ b;                             \
	b = (b << 1) + c;                               \
	c ^= a >> 3;                                    \
	d = d * 7 + input.w[(i) + 1];                      \
	a = a > d ? a - d : a + 1;                      \
	OPAQUE(a);

PROG(body_500)
{
	__u64 a = fresh_noise(), b = input.d[1], c = input.d[2], d = input.d[3];

	UNROLLED for (int i = 0; i < 28; i++) {
		STEP4(2 * i)
	}
	return FOLD(a ^ b ^ c ^ d);
}

PROG(body_1000)
{
	__u64 a = fresh_noise(), b = input.d[1], c = input.d[2], d = input.d[3];

	UNROLLED for (int i = 0; i < 57; i++) {
		STEP4(2 * i)
	}
	return FOLD(a ^ b ^ c ^ d);
}

/* --- constants, hashes, arithmetic --- */

PROG(imm64)
{
	__u64 x = input.d[0];

	ROLLED for (int i = 0; i < 32; i++) {
		x ^= 0x9e3779b97f4a7c15ull;
		x += 0xbf58476d1ce4e5b9ull;
		x ^= 0x94d049bb133111ebull;
		x += 0xc2b2ae3d27d4eb4full;
		x &= 0xfffffffffffeffffull;
		x ^= 0x85ebca77c2b2ae63ull;
		x += 0xffffffff80000001ull;
		x ^= 0x00000000fffffff1ull;
	}
	return FOLD(x);
}

PROG(rotate_hash)
{
	__u64 h = 0x9e3779b97f4a7c15ull;

	ROLLED for (int i = 0; i < 32; i++) {
		__u64 k = input.d[i] * 0x87c37b91114253d5ull;

		k = rol64(k, 31) * 0x4cf5ad432745937full;
		h = rol64(h ^ k, 27) * 5 + 0x52dce729;
	}
	return FOLD(h);
}

/* Bob Jenkins' mix, as the kernel's jhash has it */
PROG(jhash)
{
	__u32 a = 0xdeadbeef, b = a, c = a;

	ROLLED for (int i = 0; i < 24; i++) {
		a += input.w[3 * i];
		b += input.w[3 * i + 1];
		c += input.w[3 * i + 2];
		a -= c; a ^= rol32(c, 4); c += b;
		b -= a; b ^= rol32(a, 6); a += c;
		c -= b; c ^= rol32(b, 8); b += a;
		a -= c; a ^= rol32(c, 16); c += b;
		b -= a; b ^= rol32(a, 19); a += c;
		c -= b; c ^= rol32(b, 4); b += a;
	}
	return c;
}

PROG(siphash)
{
	__u64 a = 0x736f6d6570736575ull, b = 0x646f72616e646f6dull, c = 0x6c7967656e657261ull, d = 0x7465646279746573ull;

	ROLLED for (int i = 0; i < 24; i++) {
		__u64 m = input.d[i];

		d ^= m;
		a += b; b = rol64(b, 13) ^ a; a = rol64(a, 32);
		c += d; d = rol64(d, 16) ^ c;
		a += d; d = rol64(d, 21) ^ a;
		c += b; b = rol64(b, 17) ^ c; c = rol64(c, 32);
		a ^= m;
	}
	return FOLD(a ^ b ^ c ^ d);
}

PROG(fnv_hash)
{
	__u32 h = 2166136261u;

	ROLLED for (int i = 0; i < 256; i++)
		h = (h ^ input.b[i]) * 16777619u;
	return h;
}

PROG(divide_constant)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 16; i++) {
		__u32 v = input.w[i];

		ROLLED for (int k = 0; k < 10 && v; k++) {
			n = n * 3 + v % 10;
			v /= 10;
		}
	}
	return FOLD(n);
}

PROG(divide_gcd)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 8; i++) {
		__u32 a = input.w[2 * i] | 1, b = input.w[2 * i + 1];

		ROLLED for (int k = 0; k < 48 && b; k++) {
			__u32 t = a % b;

			a = b;
			b = t;
		}
		n += a;
	}
	return FOLD(n);
}

/* the upper half of a product, in pieces */
PROG(multiply_high)
{
	__u64 n = 0;

	ROLLED for (int i = 0; i < 32; i++) {
		__u64 x = input.d[i], y = input.d[i + 64];
		__u64 lo = (x & 0xffffffff) * (y & 0xffffffff), m1 = (x >> 32) * (y & 0xffffffff),
		      m2 = (x & 0xffffffff) * (y >> 32), hi = (x >> 32) * (y >> 32);

		n += hi + (m1 >> 32) + (m2 >> 32) + (((lo >> 32) + (m1 & 0xffffffff) + (m2 & 0xffffffff)) >> 32);
	}
	return FOLD(n);
}

char LICENSE[] SEC("license") = "GPL";
