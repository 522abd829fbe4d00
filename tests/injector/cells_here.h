/* SPDX-License-Identifier: MIT */
/* Cells of this process, and the runtime's code for them as targets have it. */
#pragma once
#include "base/cells.h"

/* An area with its stubs in front of it; fails the test when it cannot be had. */
struct cell_area *cells_here(void);

/* rt_cell_take() of the blob that goes into targets. */
addr_t cell_take_here(void);

/* How many cells are in use. */
unsigned cells_used(const struct cell_area *a);
