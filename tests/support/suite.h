/* SPDX-License-Identifier: MIT */
/* The end of every test program's main(). */
#pragma once
#include <check.h>
#include <stdlib.h>

/* Runs S as the environment says (CK_FORK, CK_VERBOSITY, …), frees it, and
 * returns the program's exit status. */
static inline int suite_run(Suite *s)
{
	SRunner *sr = srunner_create(s);
	int failed;

	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* The same for a suite of one case. */
static inline int run_case(const char *name, TCase *tc)
{
	Suite *s = suite_create(name);

	suite_add_tcase(s, tc);
	return suite_run(s);
}
