/* SPDX-License-Identifier: MIT */
/*
 * Types by number over raw BTF, without libbpf: every type is checked once to
 * lie inside the bytes, so that later readers only have to bound what one type
 * says about another (ids, depth). The bytes may come from a hostile file.
 */
#pragma once
#include <linux/btf.h>

#include "base/types.h"
#include "base/uerr.h"

#define BTF_MAX_DEPTH 32 /* of types within types; what nests deeper is not shown */

struct btf_index {
	const u8 *raw;
	u32 *offs;   /* of type 1, 2, …, in raw */
	u32 ntypes;  /* ids 1 … ntypes */
	const char *strs;
	u32 strs_size;
};

/* RAW must stay as long as the index. */
struct uerr *btf_index_create(const void *raw, size_t size, struct btf_index **ret) UERR_MUST_CHECK;
void btf_index_destroy(struct btf_index *ix); /* NULL is fine */

/* NULL for 0 (void) and for an id that is not there. */
const struct btf_type *btf_index_type(const struct btf_index *ix, u32 id);
/* "" for an offset outside. */
const char *btf_index_str(const struct btf_index *ix, u32 off);

/* The type behind typedefs and qualifiers, or NULL (void, or a broken chain). */
const struct btf_type *btf_index_resolve(const struct btf_index *ix, u32 id);

/* Where a value of TYPE_ID and SIZE bytes, a struct or the variables of a section, has its
 * struct bpf_spin_lock, or -1. IX may be NULL. */
s32 btf_index_lock(const struct btf_index *ix, u32 type_id, u32 size);

/* Bytes of a value, 0 when it has no size or the type is broken. */
u64 btf_index_size(const struct btf_index *ix, u32 id);
