/* SPDX-License-Identifier: MIT */
/* What unwind tables say about where return addresses stand; inside the injector only. */
#pragma once
#include "injector/textscan.h"

/* Does rsp point at the return address where ADDR is about to run? False also when
 * nobody says. */
bool frame_at_return(const struct textscan *scan, addr_t addr);

/* Does IN, which IN's bytes at BYTES are of, read or name its function's return
 * address as data? *CACHE is for the next one, zeros for the first. */
bool frame_reads_return(const struct textscan *scan, const u8 *bytes, const struct insn *in, struct code_cfa *cache);
