/* SPDX-License-Identifier: MIT */
/* What printing (btf_value.c) and parsing (btf_parse.c) of values must agree
 * about. */
#pragma once
#include "vm/btf_index.h"
#include "vm/object.h"

/* A member of a struct or union, or a variable of a data section. */
struct btf_field {
	const char *name;
	u32 type;
	u64 bit_off;
	u32 bits; /* of a bit-field, else 0 */
};

/* Bits of an integer that does not fill its bytes count as a bit-field. */
struct btf_field btf_field_get(const struct btf_index *ix, const struct btf_type *t, u32 i);

/* Whether ARRAY's elements are char: then it is text. */
bool btf_is_text(const struct btf_index *ix, const struct btf_array *array);

/* OBJ's types when TYPE_ID describes exactly SIZE bytes, else NULL: the value
 * is then treated as untyped. */
const struct btf_index *btf_types_for(const struct object *obj, u32 type_id, size_t size);

static inline u32 type_kind(const struct btf_type *t)
{
	return BTF_INFO_KIND(t->info);
}

static inline u32 type_count(const struct btf_type *t)
{
	return BTF_INFO_VLEN(t->info);
}
