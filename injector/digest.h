/* SPDX-License-Identifier: MIT */
/*
 * BLAKE2b-256 (RFC 7693): ties a cached scan to the exact bytes that were
 * scanned, so that a file which merely claims another one's build-id cannot
 * spoil what is cached for it.
 */
#pragma once
#include "base/types.h"

#define DIGEST_SIZE 32

struct digest {
	u64 h[8];
	u64 total;
	size_t fill;
	u8 block[128];
};

void digest_init(struct digest *d);
void digest_add(struct digest *d, const void *data, size_t n);
void digest_final(struct digest *d, u8 ret[DIGEST_SIZE]);
