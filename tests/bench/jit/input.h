/* SPDX-License-Identifier: MIT */
/* What the micro-programs read and write: their only global variable, which the
 * bench fills alike for every engine (the whole of .bss). */
#pragma once
#include <linux/types.h>

#define INPUT_SIZE 4096

struct bench_input {
	union {
		__u8 b[INPUT_SIZE];
		__u16 h[INPUT_SIZE / 2];
		__u32 w[INPUT_SIZE / 4];
		__u64 d[INPUT_SIZE / 8];
	};                 /* noise */
	__u32 sorted[256]; /* ascending */
	char text[1024];   /* words and numbers, NUL at the end */
	__u8 twin[2][256]; /* twice the same */
	__u32 count[256];  /* written */
	__u8 out[2048];    /* written */
	__u64 zero;        /* zero, which the kernel's verifier does not know */
	__u64 seed;        /* advanced by programs whose branches nobody shall learn by heart */
};
