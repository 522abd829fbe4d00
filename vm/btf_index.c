/* SPDX-License-Identifier: MIT */
/* Bounded reading of BTF; see btf_index.h. The format is the kernel's
 * Documentation/bpf/btf.rst. */
#include "vm/btf_index.h"

#include <stdlib.h>
#include <string.h>

#define KIND_MAX BTF_KIND_ENUM64

static u64 type_bytes(const struct btf_type *t)
{
	u64 n = BTF_INFO_VLEN(t->info);

	switch (BTF_INFO_KIND(t->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return sizeof(*t) + 4;
	case BTF_KIND_ARRAY:
		return sizeof(*t) + sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return sizeof(*t) + n * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return sizeof(*t) + n * sizeof(struct btf_enum);
	case BTF_KIND_ENUM64:
		return sizeof(*t) + n * sizeof(struct btf_enum64);
	case BTF_KIND_FUNC_PROTO:
		return sizeof(*t) + n * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return sizeof(*t) + n * sizeof(struct btf_var_secinfo);
	}
	return sizeof(*t);
}

/* Where each type begins; false when one does not fit into SIZE bytes. */
static bool index_types(struct btf_index *ix, const u8 *types, size_t size, size_t *cap)
{
	for (size_t off = 0; off < size;) {
		const struct btf_type *t = (const struct btf_type *)(types + off);

		if (size - off < sizeof(*t) || BTF_INFO_KIND(t->info) > KIND_MAX ||
		    BTF_INFO_KIND(t->info) == BTF_KIND_UNKN || type_bytes(t) > size - off)
			return false;
		if (ix->ntypes == *cap) {
			u32 *offs = reallocarray(ix->offs, *cap ? *cap * 2 : 64, sizeof(*offs));

			if (!offs)
				return false;
			*cap = *cap ? *cap * 2 : 64;
			ix->offs = offs;
		}
		ix->offs[ix->ntypes++] = types + off - ix->raw;
		off += type_bytes(t);
	}
	return true;
}

struct uerr *btf_index_create(const void *raw, size_t size, struct btf_index **ret)
{
	const struct btf_header *h = raw;
	struct btf_index *ix;
	size_t cap = 0, room;

	if (size < sizeof(*h) || (uintptr_t)raw % 4 || h->magic != BTF_MAGIC || h->version != BTF_VERSION ||
	    h->hdr_len < sizeof(*h) || h->hdr_len > size)
		return uerr_new(UERR_FAILED, "not BTF");
	room = size - h->hdr_len;
	if (h->type_off > room || h->type_len > room - h->type_off || h->str_off > room ||
	    h->str_len > room - h->str_off || (h->hdr_len + h->type_off) % 4 || !h->str_len ||
	    ((const char *)raw)[h->hdr_len + h->str_off + h->str_len - 1])
		return uerr_new(UERR_FAILED, "BTF with sections outside of its %zu bytes", size);
	ix = calloc(1, sizeof(*ix));
	if (!ix)
		return uerr_nomem();
	ix->raw = raw;
	ix->strs = (const char *)raw + h->hdr_len + h->str_off;
	ix->strs_size = h->str_len;
	if (!index_types(ix, ix->raw + h->hdr_len + h->type_off, h->type_len, &cap)) {
		u32 at = ix->ntypes + 1;

		btf_index_destroy(ix);
		return uerr_new(UERR_FAILED, "BTF with a broken type %u", at);
	}
	*ret = ix;
	return NULL;
}

void btf_index_destroy(struct btf_index *ix)
{
	if (!ix)
		return;
	free(ix->offs);
	free(ix);
}

const struct btf_type *btf_index_type(const struct btf_index *ix, u32 id)
{
	return id && id <= ix->ntypes ? (const struct btf_type *)(ix->raw + ix->offs[id - 1]) : NULL;
}

const char *btf_index_str(const struct btf_index *ix, u32 off)
{
	return off < ix->strs_size ? ix->strs + off : "";
}

const struct btf_type *btf_index_resolve(const struct btf_index *ix, u32 id)
{
	for (int depth = 0; depth < BTF_MAX_DEPTH; depth++) {
		const struct btf_type *t = btf_index_type(ix, id);

		if (!t)
			return NULL;
		switch (BTF_INFO_KIND(t->info)) {
		case BTF_KIND_TYPEDEF:
		case BTF_KIND_CONST:
		case BTF_KIND_VOLATILE:
		case BTF_KIND_RESTRICT:
		case BTF_KIND_TYPE_TAG:
		case BTF_KIND_VAR:
			id = t->type;
			continue;
		}
		return t;
	}
	return NULL;
}

u64 btf_index_size(const struct btf_index *ix, u32 id)
{
	u64 n = 1;

	for (int depth = 0; depth < BTF_MAX_DEPTH; depth++) {
		const struct btf_type *t = btf_index_resolve(ix, id);
		const struct btf_array *a;

		if (!t)
			return 0;
		switch (BTF_INFO_KIND(t->info)) {
		case BTF_KIND_PTR:
			return n * 8;
		case BTF_KIND_INT:
		case BTF_KIND_FLOAT:
		case BTF_KIND_ENUM:
		case BTF_KIND_ENUM64:
		case BTF_KIND_STRUCT:
		case BTF_KIND_UNION:
		case BTF_KIND_DATASEC:
			return __builtin_mul_overflow(n, (u64)t->size, &n) ? 0 : n;
		case BTF_KIND_ARRAY:
			a = (const struct btf_array *)(t + 1);
			if (__builtin_mul_overflow(n, (u64)a->nelems, &n) || n > UINT32_MAX)
				return 0;
			id = a->type;
			continue;
		}
		return 0;
	}
	return 0;
}

static bool is_lock(const struct btf_index *ix, u32 type_id)
{
	const struct btf_type *t = btf_index_resolve(ix, type_id);

	return t && BTF_INFO_KIND(t->info) == BTF_KIND_STRUCT && !strcmp(btf_index_str(ix, t->name_off), "bpf_spin_lock");
}

s32 btf_index_lock(const struct btf_index *ix, u32 type_id, u32 size)
{
	const struct btf_type *t = ix && type_id ? btf_index_resolve(ix, type_id) : NULL;
	u32 kind = t ? BTF_INFO_KIND(t->info) : BTF_KIND_UNKN;
	const struct btf_member *members = (const struct btf_member *)(t + 1);
	const struct btf_var_secinfo *vars = (const struct btf_var_secinfo *)(t + 1);

	for (u32 i = 0; (kind == BTF_KIND_STRUCT || kind == BTF_KIND_DATASEC) && i < BTF_INFO_VLEN(t->info); i++) {
		u32 off = kind == BTF_KIND_DATASEC	? vars[i].offset :
			  BTF_INFO_KFLAG(t->info) ? BTF_MEMBER_BIT_OFFSET(members[i].offset) / 8 : members[i].offset / 8;

		if (is_lock(ix, kind == BTF_KIND_DATASEC ? vars[i].type : members[i].type))
			return off % 4 || (u64)off + 4 > size ? -1 : (s32)off;
	}
	return -1;
}
