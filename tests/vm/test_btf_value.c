/* SPDX-License-Identifier: MIT */
/* Values to JSON and back, by the types of tests/vm/bpf/types.bpf.c. */
#include <bpf/btf.h>
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/support/suite.h"
#include "tests/vm/bpf_file.h"
#include "vm/btf_value.h"

static struct object *obj;

static void setup(void)
{
	struct bpf_file f = bpf_file_read("types");
	struct object_opts opts = { .name = "types" };
	struct uerr *err = object_open(f.data, f.size, &opts, &obj);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	free(f.data);
}

static void teardown(void)
{
	object_free(obj);
}

static u32 type_id(const char *name)
{
	for (u32 id = 1; id <= obj->types->ntypes; id++)
		if (!strcmp(btf_index_str(obj->types, btf_index_type(obj->types, id)->name_off), name))
			return id;
	ck_abort_msg("no type %s", name);
	return 0;
}

static char *json(u32 id, const void *value, size_t size)
{
	char *text;
	struct uerr *err = btf_value_to_json(obj, id, value, size, &text);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	return text;
}

static void parses(u32 id, const char *text, const void *want, size_t size)
{
	u8 got[512];
	struct uerr *err = btf_value_from_text(obj, id, text, got, size);

	ck_assert_msg(!err, "%s: %s", text, err ? err->message : "");
	ck_assert_msg(!memcmp(got, want, size), "%s: other bytes", text);
}

static void refused(u32 id, const char *text, size_t size, const char *word)
{
	u8 got[512];
	struct uerr *err = btf_value_from_text(obj, id, text, got, size);

	ck_assert_msg(err, "%s: accepted", text);
	ck_assert_int_eq(err->code, UERR_USAGE);
	ck_assert_msg(strstr(err->message, word), "%s: %s", text, err->message);
	uerr_free(err);
}

START_TEST(everything)
{
	const struct object_map *m = &obj->maps[0];
	cleanup_free char *text = NULL;

	ck_assert_str_eq(m->name, ".rodata");
	text = json(m->btf_value_type_id, m->initial, m->value_size);
	ck_assert_ptr_nonnull(strstr(text, "\"exact\":5000000000000001"));
	ck_assert_ptr_nonnull(
		strstr(text, "\"all\":{\"c\":65,\"sc\":-1,\"u8\":255,\"s16\":-32768,\"u16\":65535,\"s32\":-2147483648,"
			     "\"u32\":4294967295,\"s64\":-9223372036854775808,\"u64\":18446744073709551615,\"flag\":true,"
			     "\"color\":\"GREEN\",\"name\":\"a \\\"b\\\"\\n\",\"raw\":[1,2,3,4],\"points\":[{\"x\":1,\"y\":-2},"
			     "{\"x\":3,\"y\":-4}],\"word\":67305985,\"bytes\":[1,2,3,4],\"low\":5,\"high\":4097,"
			     "\"negative\":-3,\"where\":\"0xffffffffff600000\","
			     "\"wide\":\"0x00000000000000000000000000000001\"}"));
	parses(m->btf_value_type_id, text, m->initial, m->value_size);
}
END_TEST

START_TEST(numbers)
{
	u64 max = UINT64_MAX, exact = 5000000000000001, minus = -5ll;
	u32 u = type_id("counter_t"), s = type_id("__s64");
	cleanup_free char *text = json(u, &max, 8), *text2 = json(u, &exact, 8);

	ck_assert_str_eq(text, "18446744073709551615");
	ck_assert_str_eq(text2, "5000000000000001");
	parses(u, "18446744073709551615", &max, 8);
	parses(u, "0xffffffffffffffff", &max, 8);
	parses(u, "\"18446744073709551615\"", &max, 8);
	parses(u, " 5000000000000001 ", &exact, 8);
	parses(s, "-5", &minus, 8);
	refused(u, "18446744073709551616", 8, "does not fit");
	refused(u, "-1", 8, "does not fit");
	refused(s, "9223372036854775808", 8, "does not fit");
	refused(u, "5e3", 8, "not a number");
	refused(u, "", 8, "not a number");
	refused(u, "5 6", 8, "after the value");
	refused(type_id("__u8"), "256", 1, "does not fit into");
}
END_TEST

START_TEST(untyped)
{
	u8 bytes[3] = { 1, 0xab, 255 };
	u64 max = UINT64_MAX;
	u32 v = 258;
	cleanup_free char *a = json(0, bytes, 3), *b = json(0, &max, 8), *c = json(0, &v, 4);

	ck_assert_str_eq(a, "[\"0x01\",\"0xab\",\"0xff\"]");
	ck_assert_str_eq(b, "18446744073709551615");
	ck_assert_str_eq(c, "258");
	parses(0, a, bytes, 3);
	parses(0, "hex 01 ab ff", bytes, 3);
	parses(0, "hex 0x1,AB,0xFF", bytes, 3);
	parses(0, "-1", &max, 8);
	parses(0, "258", &v, 4);
	parses(type_id("counter_t"), "hex ff ff ff ff ff ff ff ff", &max, 8);
	refused(0, "hex 01 ab", 3, "2 bytes given, 3 needed");
	refused(0, "hex 01 ab ff 00", 3, "more than 3 bytes");
	refused(0, "hex 01 xy ff", 3, "not a byte");
	refused(0, "7", 3, "without a type");
	refused(0, "[1,2,256]", 3, "does not fit into a byte");
}
END_TEST

START_TEST(parts)
{
	s32 point[2] = { 7, -8 }, half[2] = { 0, 3 }, green = 7, minus = -1;
	u32 p = type_id("point"), color = type_id("color");

	parses(p, "{\"x\":7,\"y\":-8}", point, 8);
	parses(p, "{ y : 3 }", half, 8);
	parses(color, "GREEN", &green, 4);
	parses(color, "\"RED\"", &minus, 4);
	parses(color, "-1", &minus, 4);
	refused(p, "{\"z\":1}", 8, "no member 'z' in point");
	refused(p, "{\"x\":1", 8, "',' expected");
	refused(p, "{\"x\":99999999999}", 8, "x: 99999999999 does not fit");
	refused(p, "7", 8, "'{' expected");
	refused(color, "BLUE", 4, "no value of enum color");
}
END_TEST

START_TEST(char_arrays)
{
	u32 id = 0;
	cleanup_free char *a = NULL, *b = NULL;

	for (u32 i = 1; i <= obj->types->ntypes && !id; i++) {
		const struct btf_type *t = btf_index_type(obj->types, i);

		if (type_kind(t) == BTF_KIND_ARRAY && btf_index_size(obj->types, i) == 16 &&
		    btf_is_text(obj->types, (const struct btf_array *)(t + 1)))
			id = i;
	}
	ck_assert_uint_ne(id, 0);
	parses(id, "redis-server", "redis-server\0\0\0\0", 16);
	parses(id, "\"tab\\tquote\\\"\"", "tab\tquote\"\0\0\0\0\0\0", 16);
	refused(id, "longer than sixteen", 16, "does not fit");
	refused(id, "\"no end", 16, "without its end");
	a = json(id, "not text\xff\0\0\0\0\0\0", 16);
	ck_assert_int_eq(a[0], '[');
	parses(id, a, "not text\xff\0\0\0\0\0\0", 16);
	b = btf_type_name(obj, id);
	ck_assert_str_eq(b, "char[16]");
}
END_TEST

START_TEST(names)
{
	cleanup_free char *a = btf_type_name(obj, type_id("counter_t")), *b = btf_type_name(obj, type_id("all")),
			  *c = btf_type_name(obj, 0), *d = btf_type_name(obj, 12345), *e = btf_type_name(obj, type_id("color"));

	ck_assert_str_eq(a, "counter_t");
	ck_assert_str_eq(b, "struct all");
	ck_assert_str_eq(c, "bytes");
	ck_assert_str_eq(d, "bytes");
	ck_assert_str_eq(e, "enum color");
}
END_TEST

/* Types that contain themselves, and types that are nothing but types. */
START_TEST(hostile_types)
{
	struct btf *btf = btf__new_empty();
	struct object o = { .name = "x" };
	u8 value[8] = { 0 };
	cleanup_free char *shown = NULL, *name = NULL;
	struct uerr *err;
	const void *raw;
	u32 size;

	ck_assert_int_eq(btf__add_typedef(btf, "loop", 1), 1);
	ck_assert_int_eq(btf__add_struct(btf, "inside", 8), 2);
	ck_assert_int_eq(btf__add_field(btf, "a", 2, 0, 0), 0);
	ck_assert_int_eq(btf__add_field(btf, "b", 2, 0, 0), 0);
	ck_assert_int_eq(btf__add_array(btf, 3, 3, 0xffffffff), 3);
	ck_assert_int_eq(btf__add_ptr(btf, 4), 4);
	ck_assert_int_eq(btf__add_struct(btf, "far", 8), 5);
	ck_assert_int_eq(btf__add_field(btf, "c", 99, 4000, 0), 0);
	ck_assert_int_eq(btf__add_int(btf, "int\x1b[31m", 8, 0), 6);
	ck_assert_int_eq(btf__add_struct(btf, "escape", 8), 7);
	ck_assert_int_eq(btf__add_field(btf, "\x1b[31m", 6, 0, 0), 0);
	raw = btf__raw_data(btf, &size);
	ck_assert_ptr_nonnull(raw);
	o.btf = malloc(size);
	memcpy(o.btf, raw, size);
	err = btf_index_create(o.btf, size, &o.types);
	ck_assert(!err);
	for (u32 id = 0; id < 9; id++) {
		free(shown);
		free(name);
		err = btf_value_to_json(&o, id, value, 8, &shown);
		ck_assert(!err);
		ck_assert_ptr_null(strchr(shown, 0x1b));
		err = btf_value_from_text(&o, id, "{\"a\":{\"a\":{}}}", value, 8);
		uerr_free(err);
		name = btf_type_name(&o, id);
		ck_assert_ptr_nonnull(name);
	}
	btf_index_destroy(o.types);
	free(o.btf);
	btf__free(btf);
}
END_TEST

START_TEST(broken_btf)
{
	const u8 *raw = obj->btf;

	for (size_t size = 0; size < obj->btf_size; size++) {
		cleanup_free u8 *copy = malloc(size + 1);
		struct btf_index *ix;
		struct uerr *err;

		memcpy(copy, raw, size);
		err = btf_index_create(copy, size, &ix);
		ck_assert_msg(err, "cut at %zu", size);
		uerr_free(err);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("btf_value");
	TCase *tc = tcase_create("btf_value");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, everything);
	tcase_add_test(tc, numbers);
	tcase_add_test(tc, untyped);
	tcase_add_test(tc, parts);
	tcase_add_test(tc, char_arrays);
	tcase_add_test(tc, names);
	tcase_add_test(tc, hostile_types);
	tcase_add_test(tc, broken_btf);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
