/* SPDX-License-Identifier: MIT */
/*
 * Values as JSON text, by BTF. Integers are printed with all their digits (64
 * bits do not fit into the doubles of a JSON library), pointers as "0x…", char
 * arrays as strings where they are text, enums by name, members of anonymous
 * structs and unions as members of what they are in. The types may come from a
 * hostile file: depth and the number of printed things are bounded.
 */
#include "vm/btf_value.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THINGS (1u << 20) /* printed for one value */

struct printer {
	FILE *out;
	const struct btf_index *ix;
	u32 things;
	bool failed; /* the first failure stays */
};

struct btf_field btf_field_get(const struct btf_index *ix, const struct btf_type *t, u32 i)
{
	struct btf_field f = { 0 };

	if (type_kind(t) == BTF_KIND_DATASEC) {
		const struct btf_var_secinfo *v = (const struct btf_var_secinfo *)(t + 1) + i;
		const struct btf_type *var = btf_index_type(ix, v->type);

		f.name = var ? btf_index_str(ix, var->name_off) : "";
		f.type = v->type;
		f.bit_off = v->offset * 8ull;
	} else {
		const struct btf_member *m = (const struct btf_member *)(t + 1) + i;
		bool packed = BTF_INFO_KFLAG(t->info);

		f.name = btf_index_str(ix, m->name_off);
		f.type = m->type;
		f.bit_off = packed ? BTF_MEMBER_BIT_OFFSET(m->offset) : m->offset;
		f.bits = packed ? BTF_MEMBER_BITFIELD_SIZE(m->offset) : 0;
		/* before kind_flag, an integer type told its own bits */
		t = btf_index_resolve(ix, f.type);
		if (!packed && t && type_kind(t) == BTF_KIND_INT && BTF_INT_BITS(((const u32 *)(t + 1))[0]) != t->size * 8u) {
			f.bits = BTF_INT_BITS(((const u32 *)(t + 1))[0]);
			f.bit_off += BTF_INT_OFFSET(((const u32 *)(t + 1))[0]);
		}
	}
	return f;
}

bool btf_is_text(const struct btf_index *ix, const struct btf_array *array)
{
	const struct btf_type *t = btf_index_resolve(ix, array->type);

	return t && type_kind(t) == BTF_KIND_INT && t->size == 1 &&
	       (!strcmp(btf_index_str(ix, t->name_off), "char") ||
		BTF_INT_ENCODING(((const u32 *)(t + 1))[0]) & BTF_INT_CHAR);
}

const struct btf_index *btf_types_for(const struct object *obj, u32 type_id, size_t size)
{
	return obj && obj->types && type_id && btf_index_size(obj->types, type_id) == size ? obj->types : NULL;
}

/* --- scalars --- */

static void print_text(struct printer *p, const u8 *data, size_t len)
{
	fputc('"', p->out);
	for (size_t i = 0; i < len; i++) {
		if (data[i] == '\n')
			fputs("\\n", p->out);
		else if (data[i] == '\t')
			fputs("\\t", p->out);
		else if (data[i] < 0x20 || data[i] >= 0x7f) /* in names of a hostile file */
			fprintf(p->out, "\\u%04x", data[i]);
		else
			fprintf(p->out, data[i] == '"' || data[i] == '\\' ? "\\%c" : "%c", data[i]);
	}
	fputc('"', p->out);
}

static void print_number(struct printer *p, u64 v, bool is_signed, u32 bits)
{
	if (is_signed && bits && bits < 64)
		v = (u64)((s64)(v << (64 - bits)) >> (64 - bits));
	if (is_signed)
		fprintf(p->out, "%" PRId64, (s64)v);
	else
		fprintf(p->out, "%" PRIu64, v);
}

static void print_int(struct printer *p, const struct btf_type *t, u64 v, u32 bits)
{
	u32 encoding = BTF_INT_ENCODING(((const u32 *)(t + 1))[0]);

	if (encoding & BTF_INT_BOOL && v <= 1)
		fputs(v ? "true" : "false", p->out);
	else
		print_number(p, v, encoding & BTF_INT_SIGNED, bits);
}

static void print_enum(struct printer *p, const struct btf_type *t, u64 v, u32 bits)
{
	bool is_signed = BTF_INFO_KFLAG(t->info), wide = type_kind(t) == BTF_KIND_ENUM64;
	u64 mask = bits < 64 ? (1ull << bits) - 1 : ~0ull;

	for (u32 i = 0; i < type_count(t); i++) {
		const struct btf_enum *e = (const struct btf_enum *)(t + 1) + i;
		const struct btf_enum64 *e64 = (const struct btf_enum64 *)(t + 1) + i;
		u64 ev = wide ? (u64)e64->val_hi32 << 32 | e64->val_lo32 : (u64)(s64)e->val;

		if (((ev ^ v) & mask) == 0) {
			const char *name = btf_index_str(p->ix, wide ? e64->name_off : e->name_off);

			print_text(p, (const u8 *)name, strlen(name));
			return;
		}
	}
	print_number(p, v, is_signed, bits);
}

static void print_scalar(struct printer *p, const struct btf_type *t, u64 v, u32 bits)
{
	switch (type_kind(t)) {
	case BTF_KIND_INT:
		print_int(p, t, v, bits);
		break;
	case BTF_KIND_ENUM:
	case BTF_KIND_ENUM64:
		print_enum(p, t, v, bits);
		break;
	case BTF_KIND_PTR:
		fprintf(p->out, "\"0x%" PRIx64 "\"", v);
		break;
	default:
		p->failed = true;
	}
}

static void print_float(struct printer *p, const u8 *data, u32 size)
{
	char text[64];
	double d = 0;
	float f;

	if (size == 4) {
		memcpy(&f, data, 4);
		d = f;
		snprintf(text, sizeof(text), "%.9g", d);
	} else if (size == 8) {
		memcpy(&d, data, 8);
		snprintf(text, sizeof(text), "%.17g", d);
	} else if (size == sizeof(long double)) {
		long double ld;

		memcpy(&ld, data, sizeof(ld));
		d = ld;
		snprintf(text, sizeof(text), "%.21Lg", ld);
	} else {
		p->failed = true;
		return;
	}
	fprintf(p->out, isfinite(d) ? "%s" : "\"%s\"", text);
}

/* An integer wider than a register. */
static void print_wide(struct printer *p, const u8 *data, u32 size)
{
	fputs("\"0x", p->out);
	for (u32 i = size; i-- > 0;)
		fprintf(p->out, "%02x", data[i]);
	fputs("\"", p->out);
}

/* --- what is made of parts --- */

static void print_type(struct printer *p, u32 id, const u8 *data, u64 size, int depth);

static void print_bytes(struct printer *p, const u8 *data, size_t size)
{
	fputc('[', p->out);
	for (size_t i = 0; i < size; i++)
		fprintf(p->out, "%s\"0x%02x\"", i ? "," : "", data[i]);
	fputc(']', p->out);
}

static bool is_text(const u8 *data, u64 size, size_t *ret_len)
{
	size_t len = strnlen((const char *)data, size);

	if (len == size)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((data[i] < 0x20 && data[i] != '\n' && data[i] != '\t') || data[i] >= 0x7f)
			return false;
	*ret_len = len;
	return true;
}

static void print_array(struct printer *p, const struct btf_type *t, const u8 *data, u64 size, int depth)
{
	const struct btf_array *a = (const struct btf_array *)(t + 1);
	u64 each = btf_index_size(p->ix, a->type);
	size_t len;

	if (btf_is_text(p->ix, a) && a->nelems <= size && is_text(data, a->nelems, &len)) {
		print_text(p, data, len);
		return;
	}
	fputc('[', p->out);
	for (u64 i = 0; each && i < a->nelems && !p->failed; i++) {
		if ((i + 1) * each > size) {
			p->failed = true;
			return;
		}
		if (i)
			fputc(',', p->out);
		print_type(p, a->type, data + i * each, each, depth + 1);
	}
	fputc(']', p->out);
}

static void print_bits(struct printer *p, const struct btf_field *f, const u8 *data, u64 size)
{
	const struct btf_type *t = btf_index_resolve(p->ix, f->type);
	u64 v = 0;

	if (!t || f->bits > 64 || (f->bit_off + f->bits + 7) / 8 > size) {
		p->failed = true;
		return;
	}
	for (u32 i = 0; i < f->bits; i++)
		v |= (u64)(data[(f->bit_off + i) / 8] >> ((f->bit_off + i) % 8) & 1) << i;
	print_scalar(p, t, v, f->bits);
}

static bool is_anonymous(const struct printer *p, const struct btf_field *f)
{
	const struct btf_type *t = btf_index_resolve(p->ix, f->type);

	return !*f->name && t && (type_kind(t) == BTF_KIND_STRUCT || type_kind(t) == BTF_KIND_UNION);
}

static void print_members(struct printer *p, const struct btf_type *t, const u8 *data, u64 size, int depth,
			  bool *first)
{
	if (depth > BTF_MAX_DEPTH)
		p->failed = true;
	for (u32 i = 0; i < type_count(t) && !p->failed; i++) {
		struct btf_field f = btf_field_get(p->ix, t, i);
		u64 off = f.bit_off / 8, field_size = btf_index_size(p->ix, f.type);

		if (!f.bits && (off > size || field_size > size - off)) {
			p->failed = true;
			return;
		}
		if (is_anonymous(p, &f)) {
			print_members(p, btf_index_resolve(p->ix, f.type), data + off, field_size, depth + 1, first);
			continue;
		}
		if (!*f.name)
			continue; /* padding */
		fputs(*first ? "" : ",", p->out);
		*first = false;
		print_text(p, (const u8 *)f.name, strlen(f.name));
		fputc(':', p->out);
		if (f.bits)
			print_bits(p, &f, data, size);
		else
			print_type(p, f.type, data + off, field_size, depth + 1);
		if (++p->things > MAX_THINGS)
			p->failed = true;
	}
}

static void print_type(struct printer *p, u32 id, const u8 *data, u64 size, int depth)
{
	const struct btf_type *t = btf_index_resolve(p->ix, id);
	bool first = true;
	u64 v = 0;

	if (!t || depth > BTF_MAX_DEPTH || ++p->things > MAX_THINGS) {
		p->failed = true;
		return;
	}
	switch (type_kind(t)) {
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
	case BTF_KIND_DATASEC:
		fputc('{', p->out);
		print_members(p, t, data, size, depth, &first);
		fputc('}', p->out);
		break;
	case BTF_KIND_ARRAY:
		print_array(p, t, data, size, depth);
		break;
	case BTF_KIND_FLOAT:
		print_float(p, data, size);
		break;
	default:
		if (size > 8) {
			print_wide(p, data, size);
			break;
		}
		memcpy(&v, data, size);
		print_scalar(p, t, v, size * 8);
	}
}

static void print_untyped(struct printer *p, const u8 *data, size_t size)
{
	u64 v = 0;

	if (size != 1 && size != 2 && size != 4 && size != 8) {
		print_bytes(p, data, size);
		return;
	}
	memcpy(&v, data, size);
	print_number(p, v, false, 64);
}

/* Prints by IX or, when that is NULL, as untyped. NULL: out of memory, or the
 * types are broken (*broken). */
static char *print_value(const struct btf_index *ix, u32 type_id, const void *value, size_t size, bool *broken)
{
	char *text = NULL;
	size_t text_size;
	struct printer p = { open_memstream(&text, &text_size), ix, 0, false };
	bool failed;

	if (!p.out)
		return NULL;
	if (ix)
		print_type(&p, type_id, value, size, 0);
	else
		print_untyped(&p, value, size);
	failed = ferror(p.out);
	if (fclose(p.out) || failed || p.failed) {
		free(text);
		text = NULL;
	}
	*broken = p.failed;
	return text;
}

struct uerr *btf_value_to_json(const struct object *obj, u32 type_id, const void *value, size_t size, char **ret)
{
	const struct btf_index *ix = btf_types_for(obj, type_id, size);
	bool broken = false;
	char *text = print_value(ix, type_id, value, size, &broken);

	if (!text && broken && ix)
		text = print_value(NULL, 0, value, size, &broken);
	if (!text)
		return uerr_nomem();
	*ret = text;
	return NULL;
}

/* --- names --- */

static void name_type(FILE *out, const struct btf_index *ix, u32 id, int depth)
{
	const struct btf_type *t = btf_index_type(ix, id);
	const char *name = t ? btf_index_str(ix, t->name_off) : "void";
	const struct btf_array *a;

	if (!t || depth > BTF_MAX_DEPTH) {
		fputs(t ? "?" : "void", out);
		return;
	}
	if (!*name)
		name = "{…}";
	switch (type_kind(t)) {
	case BTF_KIND_PTR:
		name_type(out, ix, t->type, depth + 1);
		fputs(" *", out);
		break;
	case BTF_KIND_ARRAY:
		a = (const struct btf_array *)(t + 1);
		name_type(out, ix, a->type, depth + 1);
		fprintf(out, "[%u]", a->nelems);
		break;
	case BTF_KIND_CONST:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_TYPE_TAG:
	case BTF_KIND_VAR:
		name_type(out, ix, t->type, depth + 1);
		break;
	case BTF_KIND_STRUCT:
		fprintf(out, "struct %s", name);
		break;
	case BTF_KIND_UNION:
		fprintf(out, "union %s", name);
		break;
	case BTF_KIND_ENUM:
	case BTF_KIND_ENUM64:
		fprintf(out, "enum %s", name);
		break;
	case BTF_KIND_FUNC_PROTO:
		fputs("function", out);
		break;
	default:
		fputs(name, out);
	}
}

char *btf_type_name(const struct object *obj, u32 type_id)
{
	char *text = NULL;
	size_t size;
	FILE *out;

	if (!obj || !obj->types || !btf_index_type(obj->types, type_id))
		return strdup("bytes");
	out = open_memstream(&text, &size);
	if (!out)
		return NULL;
	name_type(out, obj->types, type_id, 0);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

u32 btf_type_find(const struct object *obj, const char *name)
{
	static const char *const words[] = { "struct ", "union ", "enum " };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strncmp(name, words[i], strlen(words[i])))
			name += strlen(words[i]);
	for (u32 id = 1; obj->types && *name && id <= obj->types->ntypes; id++) {
		const struct btf_type *t = btf_index_type(obj->types, id);

		if (t && !strcmp(btf_index_str(obj->types, t->name_off), name) && btf_index_size(obj->types, id))
			return id;
	}
	return 0;
}
