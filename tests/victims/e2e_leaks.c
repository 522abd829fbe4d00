// SPDX-License-Identifier: MIT
/* Loses memory that it got from each of the C library's allocators, and gives as
 * much back. For each line of input, a number, that many rounds. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096

/* Where lost addresses go, so that nothing is left out as unused. */
static void *volatile sink;

#define LEAK(name, get)                                                                                                \
	static __attribute__((noinline)) void leak_##name(void)                                                        \
	{                                                                                                              \
		void *p = get;                                                                                         \
		sink = p;                                                                                              \
	}                                                                                                              \
	static __attribute__((noinline)) void clean_##name(void)                                                       \
	{                                                                                                              \
		void *p = get;                                                                                         \
		sink = p;                                                                                              \
		give_back(p);                                                                                          \
	}

static void *by_posix_memalign(void)
{
	void *p = NULL;

	return posix_memalign(&p, 64, 105) ? NULL : p;
}

static void *mapped(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

#define give_back(p) free(p)
LEAK(malloc, malloc(101))
LEAK(calloc, calloc(2, 51))
LEAK(realloc, realloc(malloc(7), 103))
LEAK(aligned_alloc, aligned_alloc(32, 96))
LEAK(posix_memalign, by_posix_memalign())
LEAK(memalign, memalign(128, 106))
LEAK(valloc, valloc(107))
LEAK(pvalloc, pvalloc(108))
LEAK(large, malloc(1 << 20)) /* malloc maps that for itself */
#undef give_back
#define give_back(p) munmap(p, 2 * PAGE)
LEAK(mmap, mapped(2 * PAGE))
LEAK(mremap, mremap(mapped(PAGE), PAGE, 2 * PAGE, MREMAP_MAYMOVE))

static void (*const all[])(void) = {
	leak_malloc, leak_calloc, leak_realloc, leak_aligned_alloc, leak_posix_memalign, leak_memalign,
	leak_valloc, leak_pvalloc, leak_large, leak_mmap, leak_mremap,
	clean_malloc, clean_calloc, clean_realloc, clean_aligned_alloc, clean_posix_memalign, clean_memalign,
	clean_valloc, clean_pvalloc, clean_large, clean_mmap, clean_mremap,
};

int main(void)
{
	char line[32];

	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		for (int round = atoi(line); round > 0; round--)
			for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
				all[i]();
		puts("done");
	}
	return 0;
}
