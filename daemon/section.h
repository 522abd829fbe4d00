/* SPDX-License-Identifier: MIT */
/* What a program's section name says, as libbpf understands it:
 * "uprobe", "uretprobe/PATH:SYMBOL[+OFFSET]", "uprobe.s/…", "uprobe.multi/…",
 * "usdt/PATH:PROVIDER:NAME". */
#pragma once
#include "daemon/wanted.h"

struct section {
	enum probe_side side; /* SIDE_UNKNOWN: nothing that can be attached */
	char spec[256];       /* "" when it does not say where */
};

void section_parse(const char *name, struct section *ret);
