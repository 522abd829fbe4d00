/* SPDX-License-Identifier: MIT */
/* System calls that are waited in while the process is stopped, changed and let
 * go: none notices (tests/victims/vic_blocked.c has the table). */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "probe.h"
#include "tests/support/suite.h"
#include "tests/victims/vic_blocked.h"

#define ROUNDS 10

/* Where the thread waits in the kernel; -1: it does not. */
static long waits_in(const struct victim *v, size_t i)
{
	char path[64];
	long nr = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%lu/syscall", v->pid,
		 VICTIM_READ(v->shared->calls[BLOCKED_TIDS + i]));
	f = fopen(path, "re");
	if (!f)
		return -1;
	if (fscanf(f, "%ld", &nr) != 1)
		nr = -1;
	fclose(f);
	return nr;
}

static bool is_blocked(const struct victim *v, size_t i)
{
	long nr = waits_in(v, i), want = (long)VICTIM_READ(v->shared->calls[BLOCKED_NRS + i]);

	/* After a stop the kernel goes on with a call by another one's name. */
	return VICTIM_READ(v->shared->calls[i]) || nr == want || nr == SYS_restart_syscall;
}

static void await_blocked(const struct victim *v)
{
	for (size_t i = 0; i < VICTIM_READ(v->shared->state); i++)
		victim_await(is_blocked(v, i) || !victim_alive(v));
	ck_assert(victim_alive(v));
}

START_TEST(none_notices)
{
	struct victim v = victim_start("blocked", 0);
	struct inject_stats s;

	await_blocked(&v);
	for (int i = 0; i < ROUNDS; i++) {
		struct probe p = probe_install(&v, NULL, &s);

		await_blocked(&v);
		ok(probe_remove(&v, &p, NULL, &s));
		probe_unmap_here(&p);
		await_blocked(&v);
		ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	}
	VICTIM_WRITE(v.shared->go, 1);
	victim_await(VICTIM_READ(v.shared->stop) || !victim_alive(&v));
	ck_assert_uint_eq(VICTIM_READ(v.shared->wrong), 0);
	ck_assert(victim_alive(&v));
	victim_kill(&v);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("blocked");

	if (not_root("inject_blocked"))
		return EXIT_SUCCESS;
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, none_notices);
	return run_case("inject_blocked", tc);
}
