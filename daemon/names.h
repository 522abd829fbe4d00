/* SPDX-License-Identifier: MIT */
/*
 * Names for addresses of processes, in the worker: by symbols, DWARF and the perf maps
 * of JIT compilers. What files say may be anything; nothing here is told to the daemon
 * but text. Files are those that spaces_open() has opened.
 */
#pragma once
#include <cjson/cJSON.h>

#include "daemon/spaces.h"

struct namer;
/* PLAIN: symbols alone, without libdw. NULL: out of memory. */
struct namer *namer_create(bool plain);
void namer_destroy(struct namer *n);

/* The number of ADDR's frame in namer_frames(); EXACT: an instruction, not a return
 * address, which belongs to the call before it. UINT32_MAX when out of memory. */
u32 namer_frame(struct namer *n, struct space *sp, addr_t addr, bool exact);

/* Every frame so far, by number, as io.uprobed.varlink's type Frame has them. The
 * caller's from then on. */
cJSON *namer_frames(struct namer *n);
