// SPDX-License-Identifier: MIT
/* Values of every kind that BTF can describe, as global data. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

typedef __u64 counter_t;

enum color { RED = -1, GREEN = 7 };

struct point {
	__s32 x, y;
};

struct all {
	char c;
	signed char sc;
	__u8 u8;
	__s16 s16;
	__u16 u16;
	__s32 s32;
	__u32 u32;
	__s64 s64;
	counter_t u64;
	_Bool flag;
	enum color color;
	char name[16];
	__u8 raw[4];
	struct point points[2];
	union {
		__u32 word;
		__u8 bytes[4];
	};
	__u32 low : 3, high : 13;
	__s32 negative : 5;
	void *where;
	__int128 wide;
};

const volatile struct all all = {
	.c = 'A', .sc = -1, .u8 = 255, .s16 = -32768, .u16 = 65535, .s32 = -2147483647 - 1, .u32 = 4294967295u,
	.s64 = -9223372036854775807ll - 1, .u64 = 18446744073709551615ull, .flag = 1, .color = GREEN, .name = "a \"b\"\n",
	.raw = { 1, 2, 3, 4 }, .points = { { 1, -2 }, { 3, -4 } }, .word = 0x04030201, .low = 5, .high = 4097,
	.negative = -3, .where = (void *)0xffffffffff600000ull, .wide = 1,
};
const volatile __u64 exact = 5000000000000001;

SEC("uprobe")
int use(void *ctx)
{
	return all.u32 + exact;
}

char LICENSE[] SEC("license") = "MIT";
