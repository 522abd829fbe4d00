/* SPDX-License-Identifier: MIT */
/*
 * Starting a victim (tests/victims/vic_inject.c): a small program that does one
 * thing to be disturbed at, tells when it is ready, and counts in memory that
 * the test sees. It dies with the test.
 */
#pragma once
#include <sys/types.h>

#include "base/types.h"

#define VICTIM_THREADS 512

/* Between victim and test, in a shared mapping. Plain words, written by one
 * side only (who, is said), read with VICTIM_READ. */
struct victim_shared {
	/* by the victim */
	u64 site;                    /* code to be patched: 7 bytes, see VICTIM_SITE_BYTES */
	u64 parked;                  /* address of the loop inside the window of mode "park" */
	u64 calls[VICTIM_THREADS];   /* per thread: calls of site, or rounds */
	u64 wrong;                   /* results that were not what they must be */
	u64 eintr;                   /* system calls that returned EINTR */
	u64 signals;                 /* handled */
	u64 state;                   /* mode's own */
	pid_t child;
	/* by the test */
	u64 stop;                    /* threads shall end */
	u64 go;                      /* mode's own */
};
#define VICTIM_READ(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define VICTIM_WRITE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

/* mov %rdi, %rax; add $1, %rax */
#define VICTIM_SITE_BYTES { 0x48, 0x89, 0xf8, 0x48, 0x83, 0xc0, 0x01 }
#define VICTIM_SITE_LEN 7
#define VICTIM_SITE_BOUNDARY 3

struct victim {
	pid_t pid;
	struct victim_shared *shared;
};

/* Starts the victim in MODE with number N; fails the test if it does not get
 * ready. */
struct victim victim_start(const char *mode, int n);

/* Starts it without waiting until it is ready. */
struct victim victim_spawn(const char *mode, int n);
void victim_kill(struct victim *v);
bool victim_alive(const struct victim *v);

/* Waits (bounded) until COND holds; fails the test otherwise. */
#define victim_await(cond)                                                                \
	do {                                                                              \
		int _tries = 0;                                                           \
		while (!(cond)) {                                                         \
			ck_assert_msg(_tries++ < 20000, "waited too long for " #cond);    \
			usleep(500);                                                      \
		}                                                                         \
	} while (0)

/* Sum of calls. */
u64 victim_calls(const struct victim *v);

/* Open descriptors, mappings that only an injection makes, KiB of private copies in
 * executable file mappings, and a letter of /proc/PID/stat. */
int victim_count_fds(pid_t pid);
int victim_count_ours(pid_t pid, const u64 *addrs, size_t n);
int victim_private_text_kib(pid_t pid);
char victim_state(pid_t pid);
u64 victim_status_mask(pid_t pid, const char *field);
