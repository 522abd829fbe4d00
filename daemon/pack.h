/* SPDX-License-Identifier: MIT */
/*
 * Plain bytes between a worker and the daemon: what a worker found out or
 * changed, written field after field and read back in the same order. Both
 * sides are the same binary, so there is no version; but the reader trusts
 * nothing, since the worker has read hostile files. Both remember the first
 * failure and then do nothing, so that code reads straight through and checks
 * once at the end.
 */
#pragma once
#include "base/types.h"
#include "base/uerr.h"

struct packer {
	u8 *data;
	size_t n, cap;
	bool failed; /* out of memory */
};

struct unpacker {
	const u8 *p, *end;
	bool failed; /* ran off the end, or out of memory */
};

void packer_deinit(struct packer *p);
void pack_bytes(struct packer *p, const void *bytes, size_t n);
void pack_u8(struct packer *p, u8 v);
void pack_u32(struct packer *p, u32 v);
void pack_u64(struct packer *p, u64 v);
void pack_str(struct packer *p, const char *s); /* NULL is kept */
void pack_err(struct packer *p, const struct uerr *err);

void unpack_bytes(struct unpacker *u, void *ret, size_t n);
u8 unpack_u8(struct unpacker *u);
u32 unpack_u32(struct unpacker *u);
u64 unpack_u64(struct unpacker *u);
char *unpack_str(struct unpacker *u); /* malloc'd, or NULL */
struct uerr *unpack_err(struct unpacker *u) UERR_MUST_CHECK;

/* A count of things that take at least SIZE bytes each: 0 and a failure when
 * so many cannot follow. */
size_t unpack_count(struct unpacker *u, size_t size);
