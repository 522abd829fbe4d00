// SPDX-License-Identifier: MIT
/* Every micro-program once in each engine: same result, same memory. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engines.h"
#include "tests/support/suite.h"

START_TEST(engines_agree)
{
	static struct bench_input after[N_ENGINES];
	struct engines *e;
	struct uerr *err = engines_open(getenv("JIT_PROGRAMS"), &e);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	ck_assert_uint_ge(engines_nprogs(e), 26);
	if (engines_kernel_reason(e))
		fprintf(stderr, "without the kernel: %s\n", engines_kernel_reason(e));
	for (size_t i = 0; i < engines_nprogs(e); i++) {
		u32 result[N_ENGINES];

		for (u32 g = 0; g < N_ENGINES; g++) {
			if (g == ENGINE_KERNEL && engines_kernel_reason(e))
				continue;
			err = engines_run_once(e, i, g, &result[g], &after[g]);
			ck_assert_msg(!err, "%s", err ? err->message : "");
			ck_assert_msg(result[g] == result[0], "%s: interpreter %#x, %s %#x", engines_prog_name(e, i),
				      result[0], g == ENGINE_JIT ? "JIT" : "kernel", result[g]);
			ck_assert_msg(!memcmp(&after[g], &after[0], sizeof(after[0])), "%s: memory differs",
				      engines_prog_name(e, i));
		}
	}
	engines_close(e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("jit_programs");
	TCase *tc = tcase_create("jit_programs");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, engines_agree);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
