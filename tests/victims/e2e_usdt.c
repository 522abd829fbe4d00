// SPDX-License-Identifier: MIT
/*
 * USDT probes with arguments of every size, built in several ways, so that each
 * way of addressing them comes up: at -O0 relative to rbp, at -O2 in registers and
 * as constants, and, with IN_MEMORY, in memory, also by base and index.
 * With LIBRARY, the part that goes into a shared library.
 *
 *	run N       hits each probe N times; answers with the sums of what was passed
 *	watched     the semaphores' values: ours, the library's
 *	raise, lower  as another tracer would
 *	fork        a child; then "child" asks it for its semaphores
 */
#define _SDT_HAS_SEMAPHORES 1
#ifdef IN_MEMORY
#define STAP_SDT_ARG_CONSTRAINT m
#endif
#include <sys/sdt.h>

#include "e2e_victim.h"

/* PROBED for what is of this file alone: nothing weak can be. */
#ifdef __clang__
#define PROBED_HERE static __attribute__((noinline, aligned(16)))
#else
#define PROBED_HERE static PROBED
#endif

#define SEMAPHORE(name) unsigned short name##_semaphore __attribute__((section(".probes"), used))

#ifdef LIBRARY

SEMAPHORE(shared_seen);

unsigned short library_watched(void);
uint64_t library_work(uint64_t i);

__attribute__((visibility("default"), noinline)) uint64_t library_work(uint64_t i)
{
	uint64_t squared = i * i;

	DTRACE_PROBE2(shared, seen, i, squared);
	return squared;
}

__attribute__((visibility("default"))) unsigned short library_watched(void)
{
	return *(volatile unsigned short *)&shared_seen_semaphore;
}

#else

extern unsigned short library_watched(void);
extern uint64_t library_work(uint64_t i);

SEMAPHORE(kinds_watched);
/* of the probes that nobody asks about */
#define kinds_unsigned_args_semaphore kinds_watched_semaphore
#define kinds_signed_args_semaphore   kinds_watched_semaphore
#define kinds_constants_semaphore     kinds_watched_semaphore
#define kinds_many_semaphore          kinds_watched_semaphore
#define kinds_indexed_semaphore       kinds_watched_semaphore
#define kinds_places_semaphore        kinds_watched_semaphore

/* What is no variable has no place in memory. */
#ifdef IN_MEMORY
#define VALUES_PROBE(...) ((void)0)
#else
#define VALUES_PROBE(...) __VA_ARGS__
#endif

#define NARGS 12
enum { UNSIGNED, SIGNED, CONSTANTS, MANY, INDEXED, PLACES, WATCHED, SHARED, NPROBES };
static uint64_t sums[NPROBES][NARGS];
static uint64_t hits[NPROBES];

/* What the arguments were, summed up as 64 bits. */
#define ADD(probe, n, v) (sums[probe][n] += (uint64_t)(int64_t)(v))

static volatile uint64_t salt = 0x9e3779b97f4a7c15;

PROBED_HERE uint64_t mix(uint64_t i)
{
	i = (i + 1) * salt;
	return i ^ i >> 29;
}

PROBED_HERE void unsigned_args(uint64_t x)
{
	uint8_t a = x;
	uint16_t b = x >> 8;
	uint32_t c = x >> 16;

	DTRACE_PROBE4(kinds, unsigned_args, a, b, c, x);
	ADD(UNSIGNED, 0, a);
	ADD(UNSIGNED, 1, b);
	ADD(UNSIGNED, 2, c);
	ADD(UNSIGNED, 3, x);
	hits[UNSIGNED]++;
}

PROBED_HERE void signed_args(uint64_t x)
{
	int8_t a = x;
	int16_t b = x >> 8;
	int32_t c = x >> 16;
	int64_t d = x;

	DTRACE_PROBE4(kinds, signed_args, a, b, c, d);
	ADD(SIGNED, 0, a);
	ADD(SIGNED, 1, b);
	ADD(SIGNED, 2, c);
	ADD(SIGNED, 3, d);
	hits[SIGNED]++;
}

PROBED_HERE void constants(void)
{
	VALUES_PROBE(DTRACE_PROBE4(kinds, constants, -9, 4000000000u, (char)-1, -123456789012345L));
	ADD(CONSTANTS, 0, -9);
	ADD(CONSTANTS, 1, 4000000000u);
	ADD(CONSTANTS, 2, (char)-1);
	ADD(CONSTANTS, 3, -123456789012345L);
	hits[CONSTANTS]++;
}

PROBED_HERE void many(uint64_t x)
{
	uint64_t v[NARGS];

	for (int i = 0; i < NARGS; i++)
		v[i] = mix(x + i);
	VALUES_PROBE(DTRACE_PROBE12(kinds, many, v[0], (uint8_t)v[1], (int16_t)v[2], v[3], (int)v[4], v[5], v[6],
				    (char)v[7], v[8], v[9], (uint16_t)v[10], v[11]));
	for (int i = 0; i < NARGS; i++)
		sums[MANY][i] += i == 1 ? (uint8_t)v[i] : i == 2 ? (uint64_t)(int16_t)v[i] : i == 4 ? (uint64_t)(int)v[i] :
				 i == 7 ? (uint64_t)(char)v[i] : i == 10 ? (uint16_t)v[i] : v[i];
	hits[MANY]++;
}

/* Where the probe alone looks at them, the operands are addressed by base, index
 * and scale. */
PROBED_HERE void look_at(const uint64_t *wide, const int16_t *narrow, uint64_t i)
{
	DTRACE_PROBE3(kinds, indexed, wide[i], narrow[i], wide[i + 1]);
}

PROBED_HERE void indexed(const uint64_t *wide, const int16_t *narrow, uint64_t i)
{
	look_at(wide, narrow, i);
	ADD(INDEXED, 0, wide[i]);
	ADD(INDEXED, 1, narrow[i]);
	ADD(INDEXED, 2, wide[i + 1]);
	hits[INDEXED]++;
}

/* One probe at several places, with arguments that differ. */
static inline __attribute__((always_inline)) void place(uint64_t x)
{
	DTRACE_PROBE1(kinds, places, x);
	ADD(PLACES, 0, x);
	hits[PLACES]++;
}

PROBED_HERE void first(uint64_t x)
{
	place(x);
	place(7);
}

PROBED_HERE void second(uint64_t x)
{
	place(x ^ 0xff);
}

PROBED_HERE void watched(uint64_t x)
{
	if (!*(volatile unsigned short *)&kinds_watched_semaphore)
		return;
	DTRACE_PROBE1(kinds, watched, x);
	ADD(WATCHED, 0, x);
	hits[WATCHED]++;
}

static void run(uint64_t n)
{
	static uint64_t wide[65];
	static int16_t narrow[65];

	for (uint64_t i = 0; i < n; i++) {
		uint64_t x = mix(i);

		for (int k = 0; k < 65; k++)
			wide[k] = narrow[k] = (int16_t)mix(x + k);
		unsigned_args(x);
		signed_args(x);
		constants();
		many(x);
		indexed(wide, narrow, x % 64);
		first(x);
		second(x);
		watched(x);
		ADD(SHARED, 0, i);
		ADD(SHARED, 1, library_work(i));
		hits[SHARED]++;
	}
}

static void answer_sums(void)
{
	printf("{\"hits\":[");
	for (int i = 0; i < NPROBES; i++)
		printf("%s%llu", i ? "," : "", (unsigned long long)hits[i]);
	printf("],\"sums\":[");
	for (int i = 0; i < NPROBES; i++)
		for (int k = 0; k < NARGS; k++)
			printf("%s%llu", i || k ? "," : "", (unsigned long long)sums[i][k]);
	say("]}");
	memset(sums, 0, sizeof(sums));
	memset(hits, 0, sizeof(hits));
}

static void print_watched(FILE *to)
{
	fprintf(to, "%u %u\n", *(volatile unsigned short *)&kinds_watched_semaphore,
		library_watched());
	fflush(to);
}

static int to_child[2], from_child[2];

static void start_child(void)
{
	FILE *answers;
	char c;

	if (fork())
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	answers = fdopen(from_child[1], "w");
	while (read(to_child[0], &c, 1) == 1)
		print_watched(answers);
	_exit(0);
}

static void ask_child(void)
{
	char line[64];
	ssize_t n = write(to_child[1], "?", 1) == 1 ? read(from_child[0], line, sizeof(line)) : -1;

	if (n <= 0)
		exit(1);
	fwrite(line, 1, n, stdout);
	fflush(stdout);
}

int main(void)
{
	if (pipe(to_child) || pipe(from_child))
		return 1;
	victim_ready();
	for (;;) {
		const char *c = victim_command();

		if (!strncmp(c, "run ", 4)) {
			run(strtoull(c + 4, NULL, 10));
			answer_sums();
		} else if (!strcmp(c, "raise") || !strcmp(c, "lower")) {
			kinds_watched_semaphore += *c == 'r' ? 1 : -1;
			print_watched(stdout);
		} else if (!strcmp(c, "fork")) {
			start_child();
			ask_child();
		} else if (!strcmp(c, "child")) {
			ask_child();
		} else {
			print_watched(stdout);
		}
	}
}

#endif
