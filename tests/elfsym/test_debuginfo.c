/* SPDX-License-Identifier: MIT */
/* Separate debug files: found, verified, and used for names. */
#include "tests/elfsym/support.h"

static char folder[PATH_MAX];

static void setup(void)
{
	strcpy(folder, "/tmp/elfsym-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void teardown(void)
{
	image_cache_drop();
	run("rm -rf '%s'", folder);
}

static const char *in(const char *name)
{
	static char path[4][PATH_MAX + 64];
	static int i;

	i = (i + 1) % 4;
	snprintf(path[i], sizeof(path[i]), "%s/%s", folder, name);
	return path[i];
}

/* A stripped copy of the victim whose link leads to DEBUG. */
static void split(const char *debug, const char *flags)
{
	run("objcopy --only-keep-debug %s '%s'", VICTIM_PIE, in("prog.debug"));
	run("objcopy --strip-all %s --add-gnu-debuglink='%s' %s '%s'", flags, in("prog.debug"), VICTIM_PIE,
	    in("prog"));
	if (strcmp(debug, "prog.debug")) {
		run("mkdir -p '%s/.debug'", folder);
		run("mv '%s' '%s'", in("prog.debug"), in(debug));
	}
}

static void expect_names(bool there)
{
	const struct elf_sym *s, *want;
	struct image *im, *whole;

	ck_ok(image_open(in("prog"), &im));
	ck_ok(image_open(VICTIM_PIE, &whole));
	ck_assert_int_eq(image_has_symtab(im), there);
	ck_assert_uint_eq(image_find(im, "victim_static", &s, 1), there);
	if (there) {
		ck_assert_uint_eq(image_find(whole, "victim_static", &want, 1), 1);
		ck_assert_uint_eq(s->addr, want->addr);
		ck_assert_uint_eq(s->size, want->size);
	} else {
		ck_assert_ptr_null(image_debug_path(im));
	}
	image_unref(im);
	image_unref(whole);
	image_cache_drop();
}

START_TEST(link_in_the_same_folder)
{
	struct image *im;

	split("prog.debug", "");
	expect_names(true);
	ck_ok(image_open(in("prog"), &im));
	ck_assert_str_eq(image_debug_path(im), in("prog.debug"));
	image_unref(im);
}
END_TEST

START_TEST(link_in_dot_debug)
{
	split(".debug/prog.debug", "");
	expect_names(true);
}
END_TEST

START_TEST(crc_vouches_without_a_build_id)
{
	split("prog.debug", "--remove-section=.note.gnu.build-id");
	expect_names(true);
	/* One byte more, and it is another file. */
	run("echo >> '%s'", in("prog.debug"));
	expect_names(false);
}
END_TEST

START_TEST(another_build_id_is_another_file)
{
	split("prog.debug", "");
	run("objcopy --only-keep-debug %s '%s'", VICTIM_LIB, in("prog.debug"));
	expect_names(false);
}
END_TEST

START_TEST(junk_is_no_debug_file)
{
	split("prog.debug", "");
	run("head -c 3000 '%s' > '%s'; mv '%s' '%s'", in("prog.debug"), in("x"), in("x"), in("prog.debug"));
	expect_names(false);
	run("rm '%s'; mkfifo '%s'", in("prog.debug"), in("prog.debug"));
	expect_names(false);
	run("rm '%s'; ln -s prog '%s'", in("prog.debug"), in("prog.debug"));
	expect_names(false);
}
END_TEST

START_TEST(no_debug_file_at_all)
{
	split("prog.debug", "");
	run("rm '%s'", in("prog.debug"));
	expect_names(false);
}
END_TEST

/* The installed one of libc, where there is one. */
START_TEST(by_build_id)
{
	const struct elf_sym *s[2];
	char path[256];
	struct image *im;
	const char *id;

	ck_ok(image_open(LIBC, &im));
	id = image_build_id(im);
	snprintf(path, sizeof(path), "/usr/lib/debug/.build-id/%.2s/%s.debug", id, id + 2);
	ck_assert_int_eq(image_has_symtab(im), !access(path, R_OK));
	if (image_has_symtab(im)) {
		ck_assert_str_eq(image_debug_path(im), path);
		/* A name that .dynsym does not have. */
		ck_assert_uint_eq(image_find(im, "_int_malloc", s, 2), 1);
	}
	image_unref(im);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("debuginfo");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, link_in_the_same_folder);
	tcase_add_test(tc, link_in_dot_debug);
	tcase_add_test(tc, crc_vouches_without_a_build_id);
	tcase_add_test(tc, another_build_id_is_another_file);
	tcase_add_test(tc, junk_is_no_debug_file);
	tcase_add_test(tc, no_debug_file_at_all);
	tcase_add_test(tc, by_build_id);
	return run_case("debuginfo", tc);
}
