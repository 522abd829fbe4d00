/* SPDX-License-Identifier: MIT */
/* Semaphores of USDT probes in a child of this test: its data is ours, copied. */
#include <check.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "injector/journal.h"
#include "probe.h"
#include "tests/support/suite.h"

static u16 sema[4] __attribute__((section(".probes"), used, aligned(8))) = { 1, 1, 1, 1 };

struct child {
	pid_t pid;
	struct inject_sema sema; /* of sema[1] */
};

static struct child child_start(void)
{
	struct child c = { .pid = fork() };
	struct stat st;

	if (!c.pid)
		for (;;)
			pause();
	ck_assert_int_eq(stat("/proc/self/exe", &st), 0);
	c.sema = (struct inject_sema){ .addr = (addr_t)(uintptr_t)&sema[1], .file_dev = st.st_dev, .file_ino = st.st_ino };
	return c;
}

static void child_end(const struct child *c)
{
	kill(c->pid, SIGKILL);
	ck_assert_int_eq(waitpid(c->pid, NULL, 0), c->pid);
}

static u16 value(const struct child *c)
{
	u16 v = 0xdead;
	struct iovec here = { &v, sizeof(v) }, there = { &sema[1], sizeof(v) };

	ck_assert_int_eq(process_vm_readv(c->pid, &here, 1, &there, 1, 0), sizeof(v));
	return v;
}

static void set(const struct child *c, u16 v)
{
	struct iovec here = { &v, sizeof(v) }, there = { &sema[1], sizeof(v) };

	ck_assert_int_eq(process_vm_writev(c->pid, &here, 1, &there, 1, 0), sizeof(v));
}

static void neighbours_untouched(const struct child *c)
{
	u16 v[4];
	struct iovec here = { v, sizeof(v) }, there = { sema, sizeof(v) };

	ck_assert_int_eq(process_vm_readv(c->pid, &here, 1, &there, 1, 0), sizeof(v));
	ck_assert(v[0] == 1 && v[2] == 1 && v[3] == 1);
}

static struct uerr *step(const struct child *c, const char *journal, bool raise)
{
	struct injection *in = probe_begin(c->pid, journal);
	struct inject_sema s = c->sema;
	struct uerr *err;

	s.raise = raise;
	ok(inject_sema(in, &s));
	err = inject_commit(in, NULL);
	inject_end(in);
	return err;
}

static size_t journalled(const char *journal)
{
	struct journal j;
	size_t n;

	ok(journal_read(journal, &j));
	n = j.nsemas;
	ck_assert(!n || j.semas[0].state == SEMA_RAISED);
	journal_deinit(&j);
	return n;
}

START_TEST(up_and_down)
{
	char *journal = journal_path();
	struct child c = child_start();

	ok(step(&c, journal, true));
	ck_assert_uint_eq(value(&c), 2);
	ck_assert_uint_eq(journalled(journal), 1);
	set(&c, 7); /* others look on as well */
	ok(step(&c, journal, false));
	ck_assert_uint_eq(value(&c), 6);
	ck_assert_uint_eq(journalled(journal), 0);
	ok(step(&c, journal, true));
	set(&c, 0); /* somebody has taken ours */
	ok(step(&c, journal, false));
	ck_assert_uint_eq(value(&c), 0);
	ck_assert_uint_eq(journalled(journal), 0);
	set(&c, UINT16_MAX);
	refused(step(&c, journal, true), UERR_CANNOT_PROBE, "at its end");
	ck_assert_uint_eq(value(&c), UINT16_MAX);
	neighbours_untouched(&c);
	child_end(&c);
	journal_drop(journal);
}
END_TEST

START_TEST(only_in_the_data_of_the_file)
{
	char *journal = journal_path();
	struct child c = child_start();
	u16 on_stack;

	c.sema.addr = (addr_t)(uintptr_t)&on_stack;
	refused(step(&c, journal, true), UERR_CANNOT_PROBE, "not in its data");
	c.sema.addr = (addr_t)(uintptr_t)value & ~1ull; /* text */
	refused(step(&c, journal, true), UERR_CANNOT_PROBE, "not in its data");
	c.sema.addr = 0x1000;
	refused(step(&c, journal, true), UERR_CANNOT_PROBE, "not in its data");
	c.sema.addr = (addr_t)(uintptr_t)&sema[1];
	c.sema.file_ino++;
	refused(step(&c, journal, true), UERR_CANNOT_PROBE, "not in its data");
	ck_assert_uint_eq(journalled(journal), 0);
	ck_assert_uint_eq(value(&c), 1);
	child_end(&c);
	journal_drop(journal);
}
END_TEST

/* Text that cannot be changed: the semaphore is as it was. */
START_TEST(goes_with_the_text)
{
	struct inject_sema s;
	char *journal = journal_path();
	struct child c = child_start();
	struct injection *in = probe_begin(c.pid, journal);
	struct patch p = { .addr = (addr_t)(uintptr_t)value, .len = 5 };

	s = c.sema;
	s.raise = true;
	memset(p.old_bytes, 0x06, sizeof(p.old_bytes)); /* no instruction: is not there */
	ok(inject_sema(in, &s));
	ok(inject_patch(in, &p));
	refused(inject_commit(in, NULL), UERR_CANNOT_PROBE, "");
	inject_end(in);
	ck_assert_uint_eq(value(&c), 1);
	ck_assert_uint_eq(journalled(journal), 0);
	child_end(&c);
	journal_drop(journal);
}
END_TEST

/* What the next one does who finds this in the journal, and that in memory. */
static const struct {
	enum sema_state state;
	u16 before, now, then;
} crashes[] = {
	{ SEMA_RAISED, 0, 1, 0 },
	{ SEMA_RAISED, 0, 9, 8 },
	{ SEMA_RAISED, 0, 0, 0 },   /* somebody has taken it */
	{ SEMA_RAISING, 0, 0, 0 },  /* died before */
	{ SEMA_RAISING, 0, 1, 0 },  /* died after */
	{ SEMA_RAISING, 3, 4, 3 },
	{ SEMA_RAISING, 3, 3, 3 },
	{ SEMA_RAISING, 3, 7, 7 },  /* cannot be told: never too low */
	{ SEMA_LOWERING, 1, 1, 0 }, /* died before */
	{ SEMA_LOWERING, 1, 0, 0 }, /* died after */
	{ SEMA_LOWERING, 4, 3, 3 },
	{ SEMA_LOWERING, 4, 4, 3 },
};

START_TEST(after_a_crash)
{
	char *path = journal_path();
	struct child c = child_start();
	struct injection *in = probe_begin(c.pid, path); /* writes the journal's head */
	struct journal_sema s = { .addr = c.sema.addr, .file_dev = c.sema.file_dev, .file_ino = c.sema.file_ino,
				  .state = crashes[_i].state, .before = crashes[_i].before };
	struct inject_opts opts = { .pid = c.pid, .journal = path, .uid = (uid_t)-1, .gid = (gid_t)-1 };
	struct journal_writer w;
	struct journal j;

	inject_end(in);
	ok(journal_read(path, &j));
	ok(journal_open(&w, path, j.pid, j.starttime));
	journal_sema(&w, &s);
	ok(journal_flush(&w));
	journal_close(&w);
	journal_deinit(&j);
	set(&c, crashes[_i].now);
	ok(journal_read(path, &j));
	ck_assert_uint_eq(j.nsemas, 1);
	ok(inject_undo(&opts, &j, NULL, NULL, NULL));
	journal_deinit(&j);
	ck_assert_uint_eq(value(&c), crashes[_i].then);
	ck_assert_uint_eq(journalled(path), 0);
	neighbours_untouched(&c);
	child_end(&c);
	journal_drop(path);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("sema");

	if (not_root("inject_sema"))
		return EXIT_SUCCESS;
	tcase_add_test(tc, up_and_down);
	tcase_add_test(tc, only_in_the_data_of_the_file);
	tcase_add_test(tc, goes_with_the_text);
	tcase_add_loop_test(tc, after_a_crash, 0, ARRAY_SIZE(crashes));
	return run_case("inject_sema", tc);
}
