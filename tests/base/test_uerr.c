/* SPDX-License-Identifier: MIT */
/* Errors: codes, context, near names, exhaustion. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "base/uerr.h"
#include "tests/support/suite.h"

START_TEST(code_follows_errno)
{
	struct uerr *err = uerr_errno(EPERM, "process %d", 7);

	ck_assert_int_eq(err->code, UERR_NOT_PERMITTED);
	ck_assert_str_eq(err->message, "process 7: Operation not permitted");
	uerr_free(err);
	err = uerr_errno(ENOENT, "file");
	ck_assert_int_eq(err->code, UERR_FAILED);
	ck_assert_int_eq(err->errnum, ENOENT);
	uerr_free(err);
}
END_TEST

START_TEST(context_goes_in_front)
{
	struct uerr *err = uerr_new(UERR_NO_SYMBOL, "no '%s'", "x");

	err = uerr_prefix(err, "%s", "libc");
	ck_assert_str_eq(err->message, "libc: no 'x'");
	ck_assert_int_eq(err->code, UERR_NO_SYMBOL);
	uerr_add_near(err, "a");
	uerr_add_near(err, "b");
	ck_assert_uint_eq(err->nnear, 2);
	ck_assert_str_eq(err->near[1], "b");
	uerr_free(err);
}
END_TEST

START_TEST(no_memory_is_static)
{
	struct uerr *err = uerr_nomem();

	err = uerr_prefix(err, "x");
	uerr_add_near(err, "y");
	ck_assert_ptr_eq(err, uerr_nomem());
	ck_assert_str_eq(err->message, "out of memory");
	uerr_free(err);
	ck_assert_str_eq(uerr_nomem()->message, "out of memory");
}
END_TEST

START_TEST(names_and_back)
{
	for (int code = UERR_FAILED; code <= UERR_CANNOT_PROBE; code++)
		ck_assert_int_eq(uerr_code_from_name(uerr_code_name(code)), code);
	ck_assert_int_eq(uerr_code_from_name("what"), UERR_FAILED);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("uerr");
	TCase *tc = tcase_create("uerr");

	tcase_add_test(tc, code_follows_errno);
	tcase_add_test(tc, context_goes_in_front);
	tcase_add_test(tc, no_memory_is_static);
	tcase_add_test(tc, names_and_back);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
