/* SPDX-License-Identifier: MIT */
/* The SPEC grammar, a row for each rule. */
#include "tests/elfsym/support.h"

static const struct {
	const char *text;
	enum spec_kind kind;
	bool kind_given;
	const char *binary, *symbol;
	u64 offset;
	addr_t addr; /* with symbol NULL */
} good[] = {
	{ "main", SPEC_UPROBE, false, "", "main", 0, 0 },
	{ ":main", SPEC_UPROBE, false, "", "main", 0, 0 },
	{ "libc:malloc", SPEC_UPROBE, false, "libc", "malloc", 0, 0 },
	{ "libssl.so.3:SSL_read", SPEC_UPROBE, false, "libssl.so.3", "SSL_read", 0, 0 },
	{ "/usr/bin/x:f", SPEC_UPROBE, false, "/usr/bin/x", "f", 0, 0 },
	{ "./server:parse_header", SPEC_UPROBE, false, "./server", "parse_header", 0, 0 },
	{ "uprobe:libc:malloc", SPEC_UPROBE, true, "libc", "malloc", 0, 0 },
	{ "uprobe:malloc", SPEC_UPROBE, true, "", "malloc", 0, 0 },
	{ "uprobe::malloc", SPEC_UPROBE, true, "", "malloc", 0, 0 },
	{ "uretprobe:libc:malloc", SPEC_URETPROBE, true, "libc", "malloc", 0, 0 },
	{ "uretprobe:f", SPEC_URETPROBE, true, "", "f", 0, 0 },
	{ "ns::f", SPEC_UPROBE, false, "", "ns::f", 0, 0 },
	{ ":ns::A::f", SPEC_UPROBE, false, "", "ns::A::f", 0, 0 },
	{ "libx:ns::f", SPEC_UPROBE, false, "libx", "ns::f", 0, 0 },
	{ "libx:ns::f(int, a::b)", SPEC_UPROBE, false, "libx", "ns::f(int, a::b)", 0, 0 },
	{ "f+4", SPEC_UPROBE, false, "", "f", 4, 0 },
	{ "libc:f+0x1f", SPEC_UPROBE, false, "libc", "f", 0x1f, 0 },
	{ "libc:f+0", SPEC_UPROBE, false, "libc", "f", 0, 0 },
	{ "ns::A::operator+", SPEC_UPROBE, false, "", "ns::A::operator+", 0, 0 },
	{ "ns::A::operator++", SPEC_UPROBE, false, "", "ns::A::operator++", 0, 0 },
	{ "ns::A::operator+=", SPEC_UPROBE, false, "", "ns::A::operator+=", 0, 0 },
	{ "ns::A::operator++8", SPEC_UPROBE, false, "", "ns::A::operator+", 8, 0 },
	{ "a:operator/", SPEC_UPROBE, false, "a", "operator/", 0, 0 },
	{ "libc:0x1f00", SPEC_UPROBE, false, "libc", NULL, 0, 0x1f00 },
	{ ":0xABC", SPEC_UPROBE, false, "", NULL, 0, 0xabc },
	{ "0x10", SPEC_UPROBE, false, "", NULL, 0, 0x10 },
	{ "libc:0x10+2", SPEC_UPROBE, false, "libc", NULL, 0, 0x12 },
	{ "libc:memcpy@GLIBC_2.2.5", SPEC_UPROBE, false, "libc", "memcpy@GLIBC_2.2.5", 0, 0 },
	{ "memcpy@@GLIBC_2.14", SPEC_UPROBE, false, "", "memcpy@@GLIBC_2.14", 0, 0 },
	{ ":*", SPEC_UPROBE, false, "", "*", 0, 0 },
	{ ":[gs]etCommand", SPEC_UPROBE, false, "", "[gs]etCommand", 0, 0 },
	{ "main.(*T).Get", SPEC_UPROBE, false, "", "main.(*T).Get", 0, 0 },
	{ "foo.part.0", SPEC_UPROBE, false, "", "foo.part.0", 0, 0 },
};

START_TEST(parses)
{
	struct spec s;

	ck_ok(spec_parse(good[_i].text, &s));
	ck_assert_str_eq(s.text, good[_i].text);
	ck_assert_int_eq(s.kind, good[_i].kind);
	ck_assert_int_eq(s.kind_given, good[_i].kind_given);
	ck_assert_str_eq(s.binary, good[_i].binary);
	ck_assert_int_eq(s.addr_given, !good[_i].symbol);
	if (good[_i].symbol)
		ck_assert_str_eq(s.symbol, good[_i].symbol);
	else
		ck_assert_ptr_null(s.symbol);
	ck_assert_uint_eq(s.offset, good[_i].offset);
	ck_assert_uint_eq(s.addr, good[_i].addr);
	spec_deinit(&s);
}
END_TEST

static const struct {
	const char *text, *message;
} bad[] = {
	{ "", "'' names nothing" },
	{ ":", "':' names nothing" },
	{ "uprobe:", "'uprobe:' names nothing" },
	{ "libc:", "'libc:' names no function: libc:FUNCTION" },
	{ "./server", "'./server' names no function: ./server:FUNCTION" },
	{ "libc:f+x", "'x' is not an offset" },
	{ "libc:f+0x", "'0x' is not an offset" },
	{ "libc:f+99999999999999999999", "is not an offset" },
	{ "libc:0xzz", "'0xzz' is not an address" },
	{ "libc:0x", "'0x' is not an address" },
	{ "libc:0x11112222333344445", "is not an address" },
	{ "libc:0xffffffffffffffff+1", "is not an address" },
	{ "uretprobe:libc:f+4", "takes no offset" },
	{ "usdt:libc:setjmp", "a USDT probe is usdt:BINARY:PROVIDER:NAME" },
	{ "usdt:libc::setjmp", "a USDT probe is" },
	{ "usdt:libc:p:", "a USDT probe is" },
	{ "usdt:libc:p:n:x", "a USDT probe is" },
	{ "usdt:", "a USDT probe is" },
	{ "./server@server.c:88", "not there yet" },
	{ "@server.c:88", "not there yet" },
	{ "uprobe:nginx@ngx_http.c:1", "not there yet" },
};

START_TEST(refuses)
{
	struct spec s;

	ck_fails(spec_parse(bad[_i].text, &s), UERR_USAGE, bad[_i].message);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("spec");

	tcase_add_loop_test(tc, parses, 0, ARRAY_SIZE(good));
	tcase_add_loop_test(tc, refuses, 0, ARRAY_SIZE(bad));
	return run_case("spec", tc);
}
