/* SPDX-License-Identifier: MIT */
/* What vm/helpers.def says, as constants and lookups. */
#pragma once
#include "base/types.h"

enum helper_flags {
	HELPER_MAP = 1,
	HELPER_PURE = 2,
};

struct helper_info {
	u8 nargs;
	u8 flags; /* enum helper_flags */
	bool known;
};

#define HELPER_MAX_ID 255u

/* Never NULL; an unknown helper has known = false. */
const struct helper_info *vm_helper_info(u32 id);
