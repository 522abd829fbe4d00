/* SPDX-License-Identifier: MIT */
/* What helpers.bpf.c and test_helpers_kernel.c tell each other. */
#pragma once
#include <linux/types.h>

#define IO_ARGS 4

struct io {
	__u64 args[IO_ARGS];
	__u32 len, format;
	__s64 ret;
	__u64 number;
	char text[64];
	char out[256];
};

/* The formats of do_snprintf: X(number, format). Only what prints numbers: addresses
 * are not the same everywhere. */
#define FORMATS(X)                                          \
	X(0, "plain")                                       \
	X(1, "%d %u %x %X")                                 \
	X(2, "%ld|%lu|%lx|%lX")                             \
	X(3, "%lld %llu %llx %llX")                         \
	X(4, "%i%%%i")                                      \
	X(5, "[%5d][%-5d][%05d][%+d]")                      \
	X(6, "[% d][%+5d][%-+5d][%+05d]")                   \
	X(7, "[%016llx][%-16llx][%16llx][%1lx]")            \
	X(8, "%c%c[%3c][%-3c]")                             \
	X(9, "[%-05d][%0-5d][%+-5d][% 05d]")                \
	X(10, "%dabc%uabc%xabc")                            \
	X(11, "[%100d]")                                    \
	X(12, "%px %px")                                    \
	X(13, "[%20px][%-20px]")                            \
	X(14, "[%+x][% x][%+u][% u]")                       \
	X(15, "[%300d]")
#define NFORMATS 16
