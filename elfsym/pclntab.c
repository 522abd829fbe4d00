/* SPDX-License-Identifier: MIT */
/*
 * Go's table of functions; see pclntab.h. All of its versions begin
 *
 *	u32 magic, u16 0, u8 quantum (1 on x86), u8 size of a pointer (8)
 *
 * and go on by words, of which those count that the table below names. A function
 * is a pair {address, offset of its record}, the last is followed by the address
 * where text ends; its record begins with the address again, and then s32, the
 * offset of the name. Since Go 1.18 pairs and the address in the record are u32,
 * relative to a word of the header (src/debug/gosym/pclntab.go).
 */
#include "elfsym/pclntab.h"

#include <string.h>

#include "base/types.h"

#define HEADER 8
#define ABSENT 0xff

static const struct version {
	u32 magic;
	u8 text, names, functab; /* which word of the header */
	bool relative;
} versions[] = {
	{ 0xfffffffb, ABSENT, ABSENT, ABSENT, false }, /* Go 1.2: functions behind the header, all else from its start */
	{ 0xfffffffa, ABSENT, 2, 6, false },           /* Go 1.16 */
	{ 0xfffffff0, 2, 3, 7, true },                 /* Go 1.18 */
	{ 0xfffffff1, 2, 3, 7, true },                 /* Go 1.20 */
};

static bool get(const u8 *bytes, u64 size, u64 off, u32 n, u64 *ret)
{
	*ret = 0;
	if (off > size || size - off < n)
		return false;
	memcpy(ret, bytes + off, n);
	return true;
}

static const struct version *find_version(const u8 *bytes, u64 size)
{
	static const u8 rest[] = { 0, 0, 1, 8 };
	u64 magic;

	if (size < HEADER || memcmp(bytes + 4, rest, sizeof(rest)) || !get(bytes, size, 0, 4, &magic))
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++)
		if (versions[i].magic == magic)
			return &versions[i];
	return NULL;
}

/* Word I of the header; absent ones are as the first version has it. */
static bool header(const u8 *bytes, u64 size, u8 i, u64 absent, u64 *ret)
{
	*ret = absent;
	return i == ABSENT || get(bytes, size, HEADER + 8ul * i, 8, ret);
}

u64 pclntab_text_offset(const void *bytes, u64 size)
{
	const struct version *v = find_version(bytes, size);

	return v && v->text != ABSENT ? HEADER + 8ul * v->text : 0;
}

bool pclntab_parse(const void *bytes, u64 size, addr_t text, struct pclntab *ret)
{
	const struct version *v = find_version(bytes, size);
	struct pclntab t = { .bytes = bytes, .size = size };

	if (!v || !header(bytes, size, 0, 0, &t.n) || !header(bytes, size, v->names, 0, &t.names) ||
	    !header(bytes, size, v->functab, HEADER + 8, &t.functab) || !header(bytes, size, v->text, 0, &t.text))
		return false;
	if (v->relative && !t.text)
		t.text = text;
	t.records = v->functab == ABSENT ? 0 : t.functab;
	t.field = v->relative ? 4 : 8;
	t.entry_size = t.field;
	if (t.functab > size || t.names > size || t.n >= (size - t.functab) / (2 * t.field))
		return false;
	*ret = t;
	return true;
}

bool pclntab_func(const struct pclntab *t, u64 i, struct pclntab_func *ret)
{
	u64 at = t->functab + i * 2 * t->field, addr, off, end, name;

	if (i >= t->n || !get(t->bytes, t->size, at, t->field, &addr) ||
	    !get(t->bytes, t->size, at + t->field, t->field, &off) ||
	    !get(t->bytes, t->size, at + 2ul * t->field, t->field, &end) || end < addr)
		return false;
	if (off > t->size || !get(t->bytes, t->size, t->records + off + t->entry_size, 4, &name))
		return false;
	name += t->names;
	if (name >= t->size || !t->bytes[name])
		return false;
	*ret = (struct pclntab_func){ t->text + addr, t->text + end, (const char *)t->bytes + name };
	return true;
}
