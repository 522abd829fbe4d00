/* SPDX-License-Identifier: MIT */
#include "cells_here.h"

#include <check.h>
#include <string.h>
#include <sys/mman.h>

#include "injector/takeover.h"
#include "vm/runtime.h"

struct cell_area *cells_here(void)
{
	u8 *p = mmap(NULL, CELL_STUBS_SIZE + CELL_AREA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct cell_area *a = (struct cell_area *)(p + CELL_STUBS_SIZE);

	ck_assert(p != MAP_FAILED);
	takeover_stubs(p, CELL_BLOCKS);
	ck_assert_int_eq(mprotect(p, CELL_STUBS_SIZE, PROT_READ | PROT_EXEC), 0);
	a->used = 1;
	a->limit = CELL_BLOCKS;
	return a;
}

addr_t cell_take_here(void)
{
	const struct runtime_blob *blob = runtime_blob();
	u8 *p = mmap(NULL, blob->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert(p != MAP_FAILED);
	memcpy(p, blob->bytes, blob->size);
	ck_assert_int_eq(mprotect(p, blob->size, PROT_READ | PROT_EXEC), 0);
	return (addr_t)p + runtime_cell_take_off();
}

unsigned cells_used(const struct cell_area *a)
{
	unsigned n = 0;

	for (u32 i = 0; i < CELLS; i++)
		n += a->cell[i].ra != 0;
	return n;
}
