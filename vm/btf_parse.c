/* SPDX-License-Identifier: MIT */
/*
 * Values from text, by BTF: what btf_value.c prints, and what people type (a
 * bare number, a bare enum name, bytes after "hex"). JSON is parsed here, driven
 * by the type, because 64-bit integers must stay exact.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/btf_value.h"

struct parser {
	const struct btf_index *ix;
	const char *at;
};

static void skip_space(struct parser *p)
{
	p->at += strspn(p->at, " \t\r\n");
}

/* Takes C if it is next. */
static bool accept(struct parser *p, char c)
{
	skip_space(p);
	if (*p->at != c)
		return false;
	p->at++;
	return true;
}

static struct uerr *expect(struct parser *p, char c)
{
	if (accept(p, c))
		return NULL;
	return uerr_new(UERR_USAGE, "'%c' expected at '%.20s'", c, p->at);
}

/* --- tokens --- */

static struct uerr *unescape(struct parser *p, char *ret)
{
	static const char names[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
	char c = *p->at++, hex[5] = { 0 };
	char *end;
	long v;

	if (c == 'u') {
		for (int i = 0; i < 4 && isxdigit((u8)*p->at); i++)
			hex[i] = *p->at++;
		v = strtol(hex, &end, 16);
		if (end != hex + 4 || v > 0xff)
			return uerr_new(UERR_USAGE, "\\u%s is not a byte", hex);
		*ret = v;
		return NULL;
	}
	for (size_t i = 0; c && i + 1 < sizeof(names); i += 2) {
		if (names[i] == c) {
			*ret = names[i + 1];
			return NULL;
		}
	}
	return uerr_new(UERR_USAGE, "'\\%c' means nothing", c);
}

/* A quoted string, NUL-terminated (\u0000 inside counts: *ret_len). */
static struct uerr *take_string(struct parser *p, char **ret, size_t *ret_len)
{
	cleanup_free char *s = malloc(strlen(p->at) + 1);
	struct uerr *err;
	size_t n = 0;

	if (!s)
		return uerr_nomem();
	err = expect(p, '"');
	if (err)
		return err;
	while (*p->at != '"') {
		if (!*p->at)
			return uerr_new(UERR_USAGE, "a string without its end");
		if (*p->at != '\\') {
			s[n++] = *p->at++;
			continue;
		}
		p->at++;
		err = unescape(p, &s[n++]);
		if (err)
			return err;
	}
	p->at++;
	s[n] = 0;
	*ret = steal_ptr(s);
	*ret_len = n;
	return NULL;
}

/* A word, quoted or bare: a number, a name. */
static struct uerr *take_word(struct parser *p, char **ret)
{
	size_t n;

	skip_space(p);
	if (*p->at == '"')
		return take_string(p, ret, &n);
	n = strcspn(p->at, ",]}: \t\r\n");
	*ret = strndup(p->at, n);
	p->at += n;
	return *ret ? NULL : uerr_nomem();
}

/* --- scalars --- */

/* WORD as a number of BITS; signed ones also where LOOSE (untyped values). */
static struct uerr *number(const char *word, u32 bits, bool is_signed, bool loose, const char *type, u64 *ret)
{
	bool negative = *word == '-', hex;
	const char *digits = word + (negative || *word == '+');
	u64 v, max = bits < 64 ? (1ull << bits) - 1 : ~0ull;
	char *end;

	hex = digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X');
	errno = 0;
	v = strtoull(digits, &end, hex ? 16 : 10);
	if (!isdigit((u8)*digits) || *end || end == digits + 2 * hex)
		return uerr_new(UERR_USAGE, "'%s' is not a number", word);
	if (negative ? (!is_signed && !loose && v) || v > max / 2 + 1 : is_signed && !hex ? v > max / 2 : v > max)
		errno = ERANGE;
	if (errno)
		return uerr_new(UERR_USAGE, "%s does not fit into %s", word, type);
	*ret = (negative ? 0 - v : v) & max;
	return NULL;
}

static struct uerr *enum_value(struct parser *p, const struct btf_type *t, const char *word, u32 bits, u64 *ret)
{
	bool wide = type_kind(t) == BTF_KIND_ENUM64;
	struct uerr *err;

	for (u32 i = 0; i < type_count(t); i++) {
		const struct btf_enum *e = (const struct btf_enum *)(t + 1) + i;
		const struct btf_enum64 *e64 = (const struct btf_enum64 *)(t + 1) + i;

		if (strcmp(btf_index_str(p->ix, wide ? e64->name_off : e->name_off), word))
			continue;
		*ret = wide ? (u64)e64->val_hi32 << 32 | e64->val_lo32 : (u64)(s64)e->val;
		return NULL;
	}
	if (isdigit((u8)*word) || *word == '-')
		return number(word, bits, BTF_INFO_KFLAG(t->info), true, "the enum", ret);
	err = uerr_new(UERR_USAGE, "'%s' is no value of enum %s", word, btf_index_str(p->ix, t->name_off));
	for (u32 i = 0; i < type_count(t) && i < 8 && !wide; i++)
		uerr_add_near(err, btf_index_str(p->ix, ((const struct btf_enum *)(t + 1) + i)->name_off));
	return err;
}

static struct uerr *scalar(struct parser *p, const struct btf_type *t, u32 bits, u64 *ret)
{
	const char *type = btf_index_str(p->ix, t->name_off);
	cleanup_free char *word = NULL;
	struct uerr *err = take_word(p, &word);
	u32 encoding;

	if (err)
		return err;
	switch (type_kind(t)) {
	case BTF_KIND_INT:
		encoding = BTF_INT_ENCODING(((const u32 *)(t + 1))[0]);
		if (!strcmp(word, "true") || !strcmp(word, "false")) {
			*ret = *word == 't';
			return NULL;
		}
		return number(word, bits, encoding & BTF_INT_SIGNED, false, type, ret);
	case BTF_KIND_ENUM:
	case BTF_KIND_ENUM64:
		return enum_value(p, t, word, bits, ret);
	case BTF_KIND_PTR:
		return number(word, bits, false, false, "a pointer", ret);
	}
	return uerr_new(UERR_USAGE, "a value of this type cannot be given as text");
}

static struct uerr *floating(struct parser *p, u8 *data, u64 size)
{
	cleanup_free char *word = NULL;
	struct uerr *err = take_word(p, &word);
	long double v;
	double d;
	float f;
	char *end;

	if (err)
		return err;
	v = strtold(word, &end);
	if (!*word || *end)
		return uerr_new(UERR_USAGE, "'%s' is not a number", word);
	f = d = v;
	if (size == 4)
		memcpy(data, &f, 4);
	else if (size == 8)
		memcpy(data, &d, 8);
	else if (size == sizeof(v))
		memcpy(data, &v, 10); /* the rest is padding */
	else
		return uerr_new(UERR_USAGE, "a floating point number of %llu bytes", (unsigned long long)size);
	return NULL;
}

static u8 nibble(char c)
{
	return isdigit((u8)c) ? c - '0' : tolower((u8)c) - 'a' + 10;
}

/* An integer wider than a register: "0x…", at most SIZE bytes. */
static struct uerr *wide(struct parser *p, u8 *data, u64 size)
{
	cleanup_free char *word = NULL;
	struct uerr *err = take_word(p, &word);
	size_t n;

	if (err)
		return err;
	n = strlen(word);
	if (n < 3 || strncmp(word, "0x", 2) || n - 2 > size * 2 || strspn(word + 2, "0123456789abcdefABCDEF") != n - 2)
		return uerr_new(UERR_USAGE, "'%s' is not 0x and up to %llu digits", word, (unsigned long long)size * 2);
	for (size_t i = 0; i < n - 2; i++)
		data[i / 2] |= nibble(word[n - 1 - i]) << (i % 2 * 4);
	return NULL;
}

/* --- what is made of parts --- */

static struct uerr *parse_type(struct parser *p, u32 id, u8 *data, u64 size, int depth);

static struct uerr *text_array(struct parser *p, u8 *data, u64 size)
{
	cleanup_free char *s = NULL;
	struct uerr *err;
	size_t n;

	err = take_string(p, &s, &n);
	if (err)
		return err;
	if (n > size)
		return uerr_new(UERR_USAGE, "a text of %zu bytes does not fit into %llu", n, (unsigned long long)size);
	memcpy(data, s, n);
	return NULL;
}

static struct uerr *array(struct parser *p, const struct btf_type *t, u8 *data, u64 size, int depth)
{
	const struct btf_array *a = (const struct btf_array *)(t + 1);
	u64 each = btf_index_size(p->ix, a->type);
	struct uerr *err;

	skip_space(p);
	if (*p->at == '"' && btf_is_text(p->ix, a))
		return text_array(p, data, size);
	err = expect(p, '[');
	if (err || accept(p, ']'))
		return err;
	for (u64 i = 0;; i++) {
		if (!each || i >= a->nelems || (i + 1) * each > size)
			return uerr_new(UERR_USAGE, "more than the %u elements of the array", a->nelems);
		err = parse_type(p, a->type, data + i * each, each, depth + 1);
		if (err || accept(p, ']'))
			return err;
		err = expect(p, ',');
		if (err)
			return err;
	}
}

static struct uerr *bit_field(struct parser *p, const struct btf_field *f, u8 *data, u64 size)
{
	const struct btf_type *t = btf_index_resolve(p->ix, f->type);
	struct uerr *err;
	u64 v = 0;

	if (!t || f->bits > 64 || (f->bit_off + f->bits + 7) / 8 > size)
		return uerr_new(UERR_USAGE, "the types are broken");
	err = scalar(p, t, f->bits, &v);
	if (err)
		return err;
	for (u32 i = 0; i < f->bits; i++) {
		u8 *byte = &data[(f->bit_off + i) / 8], bit = 1u << ((f->bit_off + i) % 8);

		*byte = v >> i & 1 ? *byte | bit : *byte & ~bit;
	}
	return NULL;
}

/* The member NAME, which may be inside of anonymous members; its offset counts
 * from T's beginning. *BUDGET bounds the search over hostile types. */
static bool member_find(const struct btf_index *ix, const struct btf_type *t, const char *name, int depth,
			u32 *budget, struct btf_field *ret)
{
	for (u32 i = 0; depth < BTF_MAX_DEPTH && i < type_count(t) && *budget; i++) {
		struct btf_field f = btf_field_get(ix, t, i);
		const struct btf_type *ft;

		(*budget)--;
		if (*f.name && !strcmp(f.name, name)) {
			*ret = f;
			return true;
		}
		ft = btf_index_resolve(ix, f.type);
		if (*f.name || !ft || (type_kind(ft) != BTF_KIND_STRUCT && type_kind(ft) != BTF_KIND_UNION))
			continue;
		if (member_find(ix, ft, name, depth + 1, budget, ret)) {
			ret->bit_off += f.bit_off;
			return true;
		}
	}
	return false;
}

static struct uerr *no_member(const struct btf_index *ix, const struct btf_type *t, const char *name)
{
	struct uerr *err = uerr_new(UERR_USAGE, "no member '%s' in %s", name, btf_index_str(ix, t->name_off));

	for (u32 i = 0; i < type_count(t) && i < 8; i++)
		uerr_add_near(err, btf_field_get(ix, t, i).name);
	return err;
}

static struct uerr *member(struct parser *p, const struct btf_type *t, u8 *data, u64 size, int depth)
{
	cleanup_free char *name = NULL;
	struct uerr *err = take_word(p, &name);
	struct btf_field f;
	u32 budget = 1u << 20;
	u64 off, field_size;

	if (!err)
		err = expect(p, ':');
	if (err)
		return err;
	if (!member_find(p->ix, t, name, 0, &budget, &f))
		return no_member(p->ix, t, name);
	if (f.bits)
		return uerr_prefix(bit_field(p, &f, data, size), "%s", name);
	off = f.bit_off / 8;
	field_size = btf_index_size(p->ix, f.type);
	if (off > size || field_size > size - off)
		return uerr_new(UERR_USAGE, "the types are broken");
	return uerr_prefix(parse_type(p, f.type, data + off, field_size, depth + 1), "%s", name);
}

static struct uerr *members(struct parser *p, const struct btf_type *t, u8 *data, u64 size, int depth)
{
	struct uerr *err = expect(p, '{');

	if (err || accept(p, '}'))
		return err;
	for (;;) {
		err = member(p, t, data, size, depth);
		if (err || accept(p, '}'))
			return err;
		err = expect(p, ',');
		if (err)
			return err;
	}
}

static struct uerr *parse_type(struct parser *p, u32 id, u8 *data, u64 size, int depth)
{
	const struct btf_type *t = btf_index_resolve(p->ix, id);
	struct uerr *err;
	u64 v = 0;

	if (!t || depth > BTF_MAX_DEPTH)
		return uerr_new(UERR_USAGE, "the types are broken");
	switch (type_kind(t)) {
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
	case BTF_KIND_DATASEC:
		return members(p, t, data, size, depth);
	case BTF_KIND_ARRAY:
		return array(p, t, data, size, depth);
	case BTF_KIND_FLOAT:
		return floating(p, data, size);
	}
	if (size > 8)
		return wide(p, data, size);
	err = scalar(p, t, size * 8, &v);
	if (!err)
		memcpy(data, &v, size);
	return err;
}

/* --- without types --- */

static struct uerr *hex_bytes(const char *text, u8 *data, size_t size)
{
	size_t n = 0;

	while (*(text += strspn(text, " \t\r\n,"))) {
		char *end;
		long v = strtol(text, &end, 16);

		if (end == text || v < 0 || v > 0xff || !strchr(" \t\r\n,", *end))
			return uerr_new(UERR_USAGE, "'%.8s' is not a byte in hex", text);
		if (n == size)
			return uerr_new(UERR_USAGE, "more than %zu bytes", size);
		data[n++] = v;
		text = end;
	}
	if (n != size)
		return uerr_new(UERR_USAGE, "%zu bytes given, %zu needed", n, size);
	return NULL;
}

static struct uerr *byte_list(struct parser *p, u8 *data, size_t size)
{
	struct uerr *err = expect(p, '[');
	size_t n = 0;

	while (!err) {
		cleanup_free char *word = NULL;
		u64 v = 0;

		err = take_word(p, &word);
		if (!err)
			err = number(word, 8, false, true, "a byte", &v);
		if (err)
			return err;
		if (n == size)
			return uerr_new(UERR_USAGE, "more than %zu bytes", size);
		data[n++] = v;
		if (accept(p, ']'))
			break;
		err = expect(p, ',');
	}
	if (!err && n != size)
		return uerr_new(UERR_USAGE, "%zu bytes given, %zu needed", n, size);
	return err;
}

static struct uerr *untyped(struct parser *p, u8 *data, size_t size)
{
	cleanup_free char *word = NULL;
	struct uerr *err;
	u64 v = 0;

	skip_space(p);
	if (*p->at == '[')
		return byte_list(p, data, size);
	if (size != 1 && size != 2 && size != 4 && size != 8)
		return uerr_new(UERR_USAGE, "%zu bytes without a type: give them as \"hex 01 02 …\"", size);
	err = take_word(p, &word);
	if (!err)
		err = number(word, size * 8, false, true, "the value", &v);
	if (!err)
		memcpy(data, &v, size);
	return err;
}

/* A text for an array of char may stand without quotes. */
static bool bare_text(const struct btf_index *ix, u32 type_id, const char *text)
{
	const struct btf_type *t = ix ? btf_index_resolve(ix, type_id) : NULL;

	return t && type_kind(t) == BTF_KIND_ARRAY && btf_is_text(ix, (const struct btf_array *)(t + 1)) &&
	       *text != '"' && *text != '[';
}

struct uerr *btf_value_from_text(const struct object *obj, u32 type_id, const char *text, void *value, size_t size)
{
	struct parser p = { btf_types_for(obj, type_id, size), text };
	struct uerr *err;

	memset(value, 0, size);
	skip_space(&p);
	if (!strncmp(p.at, "hex ", 4))
		return hex_bytes(p.at + 4, value, size);
	if (bare_text(p.ix, type_id, p.at)) {
		if (strlen(p.at) > size)
			return uerr_new(UERR_USAGE, "'%s' does not fit into %zu bytes", p.at, size);
		memcpy(value, p.at, strlen(p.at));
		return NULL;
	}
	err = p.ix ? parse_type(&p, type_id, value, size, 0) : untyped(&p, value, size);
	if (err)
		return err;
	skip_space(&p);
	if (*p.at)
		return uerr_new(UERR_USAGE, "'%.20s' after the value", p.at);
	return NULL;
}
