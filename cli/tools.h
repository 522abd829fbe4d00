/* SPDX-License-Identifier: MIT */
/* The built-in BPF objects (cli/tools/NAME.bpf.c), linked in by tools.S. */
#pragma once
#include "base/types.h"

extern const u8 tool_count[], tool_count_end[];
extern const u8 tool_latency[], tool_latency_end[];
extern const u8 tool_stacks[], tool_stacks_end[];
