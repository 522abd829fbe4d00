/* SPDX-License-Identifier: MIT */
/* Symbols: the same as nm sees, by name, by version, by address, by likeness. */
#include "tests/elfsym/support.h"

#include "elfsym/image_int.h"
#include "elfsym/resolve_int.h"

static struct image *open_image(const char *path)
{
	struct image *im;

	ck_ok(image_open(path, &im));
	return im;
}

static void done(struct image *im)
{
	image_unref(im);
	image_cache_drop();
}

static bool has(const struct elf_sym *syms, size_t n, addr_t addr, const char *name, u64 size)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (syms[mid].addr < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < n && syms[lo].addr == addr; lo++)
		if (!strcmp(syms[lo].name, name) && (!size || syms[lo].size == size))
			return true;
	return false;
}

static const struct {
	const char *path, *flags;
} nm_rows[] = {
	{ LIBC, "-D" },       { "/usr/bin/redis-server", "-D" }, { VICTIM_PIE, "" }, { VICTIM_NOPIE, "" },
	{ VICTIM_STATIC, "" }, { VICTIM_LIB, "" },		 { VICTIM_LIB, "-D" },
};

/* Every text symbol that nm prints is there, with its address and size. */
START_TEST(all_that_nm_sees)
{
	char command[PATH_MAX + 128], line[1024];
	struct image *im = open_image(nm_rows[_i].path);
	const struct elf_sym *syms;
	size_t n = image_syms(im, &syms), seen = 0;
	FILE *f;

	snprintf(command, sizeof(command), "nm -S --defined-only %s %s", nm_rows[_i].flags, nm_rows[_i].path);
	f = popen(command, "r");
	while (fgets(line, sizeof(line), f)) {
		unsigned long addr, size;
		char type, name[1000];

		if (sscanf(line, "%lx %lx %c %999s", &addr, &size, &type, name) != 4)
			continue;
		if (!strchr("tTwWi", type) || !size)
			continue;
		name[strcspn(name, "@")] = '\0';
		ck_assert_msg(has(syms, n, addr, name, size), "%s lacks %s at %lx, size %lx", nm_rows[_i].path, name,
			      addr, size);
		seen++;
	}
	ck_assert_int_eq(pclose(f), 0);
	ck_assert_uint_gt(seen, 4);
	done(im);
}
END_TEST

/* And nothing else is: each of ours stands in nm's list. */
START_TEST(nothing_that_nm_does_not_see)
{
	char command[PATH_MAX + 128], line[1024];
	struct image *im = open_image(VICTIM_STATIC);
	const struct elf_sym *syms;
	size_t n = image_syms(im, &syms), functions = 0, seen = 0;
	FILE *f;

	for (size_t i = 0; i < n; i++)
		functions += syms[i].type != ELF_SYM_NOTYPE;
	snprintf(command, sizeof(command), "readelf -sW %s | awk '$4==\"FUNC\"||$4==\"IFUNC\"{print $2,$7,$8}' | sort -u",
		 VICTIM_STATIC);
	f = popen(command, "r");
	while (fgets(line, sizeof(line), f))
		seen += !strstr(line, " UND ");
	pclose(f);
	ck_assert_uint_eq(functions, seen);
	done(im);
}
END_TEST

START_TEST(sorted_and_unique)
{
	struct image *im = open_image(LIBC);
	const struct elf_sym *s;
	size_t n = image_syms(im, &s);

	for (size_t i = 1; i < n; i++) {
		ck_assert(s[i - 1].addr < s[i].addr ||
			  (s[i - 1].addr == s[i].addr && strcmp(s[i - 1].name, s[i].name) <= 0));
		ck_assert(!strchr(s[i].name, '@'));
	}
	done(im);
}
END_TEST

START_TEST(versions)
{
	struct image *im = open_image(LIBC);
	const struct elf_sym *old[4], *new[4], *any[4];

	ck_assert_uint_eq(image_find(im, "memcpy@GLIBC_2.2.5", old, 4), 1);
	ck_assert_uint_eq(image_find(im, "memcpy@@GLIBC_2.14", new, 4), 1);
	ck_assert_uint_eq(image_find(im, "memcpy@GLIBC_2.14", new, 4), 1);
	ck_assert_uint_eq(image_find(im, "memcpy", any, 4), 1);
	ck_assert_ptr_eq(any[0], new[0]);
	ck_assert_uint_ne(old[0]->addr, new[0]->addr);
	ck_assert(!old[0]->default_version && new[0]->default_version);
	ck_assert_int_eq(new[0]->type, ELF_SYM_IFUNC);
	ck_assert_uint_eq(image_find(im, "memcpy@@GLIBC_2.2.5", any, 4), 0);
	ck_assert_uint_eq(image_find(im, "memcpy@GLIBC_9", any, 4), 0);
	done(im);
}
END_TEST

START_TEST(versions_of_our_own)
{
	struct image *im = open_image(VICTIM_LIB);
	const struct elf_sym *s[4];

	ck_assert_uint_eq(image_find(im, "victim_add", s, 4), 1);
	ck_assert_str_eq(s[0]->version, "V1");
	ck_assert_uint_eq(image_find(im, "victim_alias@@V2", s, 4), 1);
	ck_assert_str_eq(s[0]->name, "victim_alias");
	ck_assert_uint_eq(image_find(im, "victim_alias@V1", s, 4), 0);
	done(im);
}
END_TEST

START_TEST(kinds)
{
	struct image *im = open_image(VICTIM_PIE);
	const struct elf_sym *s[4];

	ck_assert_uint_eq(image_find(im, "victim_pick", s, 4), 1);
	ck_assert_int_eq(s[0]->type, ELF_SYM_IFUNC);
	ck_assert_uint_eq(image_find(im, "victim_static", s, 4), 1);
	ck_assert_int_eq(s[0]->type, ELF_SYM_FUNC);
	ck_assert(!s[0]->global);
	ck_assert_uint_eq(image_find(im, "table", s, 4), 0); /* data */
	ck_assert_uint_eq(image_find(im, "malloc", s, 4), 0);
	ck_assert_uint_eq(image_find(im, "", s, 4), 0);
	done(im);
}
END_TEST

START_TEST(by_address)
{
	struct image *im = open_image(VICTIM_PIE);
	const struct elf_sym *add, *guarded, *s;

	ck_assert_uint_eq(image_find(im, "victim_add", &add, 1), 1);
	ck_assert_uint_eq(image_find(im, "victim_guarded", &guarded, 1), 1);
	s = image_find_addr(im, add->addr);
	ck_assert_str_eq(s->name, "victim_add"); /* not __victim_alias, not victim_alias */
	s = image_find_addr(im, guarded->addr + guarded->size - 1);
	ck_assert_str_eq(s->name, "victim_guarded");
	ck_assert_ptr_null(image_find_addr(im, 0));
	ck_assert_ptr_null(image_find_addr(im, ~0ull));
	done(im);
}
END_TEST

START_TEST(overloads)
{
	struct image *im = open_image(VICTIM_PIE);
	const struct elf_sym *s[4];

	ck_assert_uint_eq(image_find(im, "ns::f", s, 4), 2);
	ck_assert_uint_lt(s[0]->addr, s[1]->addr);
	ck_assert_uint_eq(image_find(im, "::ns::f", s, 4), 2);
	ck_assert_uint_eq(image_find(im, "ns::A::run", s, 4), 1);
	/* Two names of one constructor are one place. */
	ck_assert_uint_eq(image_find(im, "_ZN2ns1AC2Ev", s, 4), 1);
	ck_assert_uint_eq(image_find(im, "ns::A::A", s, 4), 1);
	ck_assert_uint_eq(image_find(im, "f", s, 4), 0);
	ck_assert_uint_eq(image_find(im, "ns::g", s, 4), 0);
	/* More than fit are counted, not written. */
	s[1] = NULL;
	ck_assert_uint_eq(image_find(im, "ns::f", s, 1), 2);
	ck_assert_ptr_null(s[1]);
	done(im);
}
END_TEST

static const struct {
	const char *mangled, *path;
} demangle_rows[] = {
	{ "_ZN2ns1fEi", "ns::f" },
	{ "_Z1fv", "f" },
	{ "_ZL1fv", "f" },
	{ "_ZN2nsL1fEv", "ns::f" },
	{ "_ZSt9terminatev", "std::terminate" },
	{ "_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector::push_back" },
	{ "_ZNSsC1Ev", "std::basic_string::basic_string" },
	{ "_ZN2ns1AC1Ev", "ns::A::A" },
	{ "_ZN2ns1AIiEC2Ev", "ns::A::A" },
	{ "_ZN2ns1AD0Ev", "ns::A::~A" },
	{ "_ZN2ns1AclEi", "ns::A::operator()" },
	{ "_ZN2ns1AplERKS0_", "ns::A::operator+" },
	{ "_ZN2ns1AltERKS0_", "ns::A::operator<" },
	{ "_ZnwmRKSt9nothrow_t", "operator new" },
	{ "_ZN12_GLOBAL__N_11fEv", "(anonymous namespace)::f" },
	{ "_ZN2ns1fIiEEvT_", "ns::f" },
	{ "_ZN2ns1fIiEENSt6vectorIT_SaIS2_EEEv", "ns::f" },
	{ "_ZN2ns1AILi5ELb1EN1b1cEE3getEv", "ns::A::get" },
	{ "_ZN2ns1AIPFviEJA3_cDnEE3getEv", "ns::A::get" },
	{ "_ZNK2ns1A3getEv", "ns::A::get" },
	{ "_ZNK2ns1A3getB5cxx11Ev", "ns::A::get" },
	{ "_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write" },
	{ "_ZN60_$LT$alloc..string..String$u20$as$u20$core..fmt..Display$GT$3fmt17h0123456789abcdefE",
	  "<alloc::string::String as core::fmt::Display>::fmt" },
	/* Written out, these arguments would fill the memory. */
	{ "_Z1f1PIiiES_IS0_S0_ES_IS1_S1_ES_IS2_S2_ES_IS3_S3_ES_IS4_S4_ES_IS5_S5_ES_IS6_S6_ES_IS7_S7_ES_IS8_S8_ES_IS9_S9_ES_"
	  "ISA_SA_ES_ISB_SB_ES_ISC_SC_ES_ISD_SD_ES_ISE_SE_ES_ISF_SF_ES_ISG_SG_ES_ISH_SH_ES_ISI_SI_ES_ISJ_SJ_ES_ISK_SK_ES_"
	  "ISL_SL_ES_ISM_SM_ES_ISN_SN_ES_ISO_SO_ES_ISP_SP_ES_ISQ_SQ_ES_ISR_SR_ES_ISS_SS_ES_IST_ST_E", "f" },
	{ "main", NULL }, { "_Z", NULL }, { "_ZN", NULL }, { "_ZNE", NULL }, { "_ZN1", NULL }, { "_ZN2a", NULL },
	{ "_ZN1aI", NULL }, { "_ZN1aIXEE1fEv", NULL }, { "_ZNC1E", NULL }, { "_Z99999999999999999999a", NULL },
	{ "_ZZ4mainENKUlvE_clEv", NULL }, { "_ZTV1A", NULL }, { "_ZN1AIEEEEE", "A" }, { "_ZS", NULL }, { "_Z0", NULL },
};

START_TEST(demangling)
{
	char *path = demangle_path(demangle_rows[_i].mangled);

	if (demangle_rows[_i].path) {
		ck_assert_msg(path && !strcmp(path, demangle_rows[_i].path), "%s: %s", demangle_rows[_i].mangled,
			      path ? path : "no path");
	} else {
		ck_assert_msg(!path, "%s: %s", demangle_rows[_i].mangled, path);
	}
	free(path);
}
END_TEST

/* Against the tool that everybody uses, on names whose path can be read off its
 * output: those without templates. */
START_TEST(demangling_as_cxxfilt_does)
{
	char mangled[1024], pretty[1024], folder[] = "/tmp/elfsym-XXXXXX";
	unsigned n = 0;
	FILE *f;

	ck_assert_ptr_nonnull(mkdtemp(folder));
	setenv("TMPDIR_ELFSYM", folder, 1);
	f = popen("nm -D --defined-only /lib/x86_64-linux-gnu/libstdc++.so.6 | "
			"sed -n 's/.* [TW] \\(_Z[A-Za-z0-9_]*\\).*/\\1/p' | sort -u "
			"> $TMPDIR_ELFSYM/m && "
			"c++filt -p < $TMPDIR_ELFSYM/m | paste -d'\t' $TMPDIR_ELFSYM/m - | grep -v '[<{ ]' | "
			"grep -v 'operator\\|(\\|\\[abi'", "r");

	while (fscanf(f, "%1023s %1023s", mangled, pretty) == 2) {
		char *path = demangle_path(mangled);

		/* Special objects (vtables and the like) have blanks and are not here. */
		ck_assert_msg(path && !strcmp(path, pretty), "%s: %s, not %s", mangled, path ? path : "none", pretty);
		free(path);
		n++;
	}
	ck_assert_int_eq(pclose(f), 0);
	run("rm -rf '%s'", folder);
	ck_assert_uint_gt(n, 200);
}
END_TEST

START_TEST(near_names)
{
	struct image *im = open_image("/usr/bin/redis-server");
	const char *near[5];

	ck_assert_uint_eq(image_near(im, "setComand", near, 5), 5);
	ck_assert_str_eq(near[0], "setCommand");
	ck_assert_str_eq(near[1], "getCommand");
	ck_assert_uint_ge(image_near(im, "SETCOMMAND", near, 5), 1);
	ck_assert_str_eq(near[0], "setCommand");
	ck_assert_uint_ge(image_near(im, "processComm", near, 5), 1);
	ck_assert_str_eq(near[0], "processCommand");
	ck_assert_uint_eq(image_near(im, "qqqqqqqqqqqq", near, 5), 0);
	done(im);
	im = open_image(LIBC);
	ck_assert_uint_eq(image_near(im, "mallok", near, 5), 1);
	ck_assert_str_eq(near[0], "malloc");
	ck_assert_uint_ge(image_near(im, "fsnyc", near, 5), 1);
	ck_assert_str_eq(near[0], "fsync");
	done(im);
}
END_TEST

START_TEST(distances)
{
	ck_assert_uint_eq(name_distance("getCommand", "getCommand"), 0);
	ck_assert_uint_lt(name_distance("getCommand", "getComand"), name_distance("getCommand", "getComnd"));
	ck_assert_uint_ne(name_distance("getCommand", "egtCommand"), ~0u);
	ck_assert_uint_eq(name_distance("getCommand", "x"), ~0u);
	ck_assert_uint_eq(name_distance("abc", "xyz"), ~0u);
}
END_TEST

static const struct {
	const char *name;
	bool fragment;
} fragment_rows[] = {
	{ "foo.cold", true },   { "foo.cold.3", true },	{ "foo.part.0", true }, { "foo.part.0.isra.0", true },
	{ "foo.isra.0", false }, { "foo.constprop.0", false }, { "foo.colder", false }, { "foo", false },
	{ "foo.parts", false }, { "foo.colder.cold", true },
};

START_TEST(fragments)
{
	ck_assert_int_eq(elf_sym_is_fragment(fragment_rows[_i].name), fragment_rows[_i].fragment);
}
END_TEST

static const struct {
	const char *pattern, *name;
	bool match;
} glob_rows[] = {
	{ "*", "", true },	  { "*", "abc", true },	     { "a*c", "abbc", true },	{ "a*c", "abbd", false },
	{ "?", "", false },	  { "?b", "ab", true },	     { "[gs]etX", "setX", true }, { "[gs]etX", "letX", false },
	{ "[!g]et", "set", true }, { "[!g]et", "get", false }, { "[a-c]", "b", true },	{ "[a-c]", "d", false },
	{ "a[", "a[", true },	  { "[]]", "]", true },	     { "\\*", "*", true },	{ "\\*", "x", false },
	{ "*a*b*", "xxaxxbxx", true }, { "abc", "abcd", false }, { "abcd", "abc", false }, { "*.cold", "f.cold", true },
	{ "*a*a*a*a*a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false },
};

START_TEST(globs)
{
	ck_assert_int_eq(glob_match(glob_rows[_i].pattern, glob_rows[_i].name), glob_rows[_i].match);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("symtab");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, all_that_nm_sees, 0, ARRAY_SIZE(nm_rows));
	tcase_add_test(tc, nothing_that_nm_does_not_see);
	tcase_add_test(tc, sorted_and_unique);
	tcase_add_test(tc, versions);
	tcase_add_test(tc, versions_of_our_own);
	tcase_add_test(tc, kinds);
	tcase_add_test(tc, by_address);
	tcase_add_test(tc, overloads);
	tcase_add_loop_test(tc, demangling, 0, ARRAY_SIZE(demangle_rows));
	tcase_add_test(tc, demangling_as_cxxfilt_does);
	tcase_add_test(tc, near_names);
	tcase_add_test(tc, distances);
	tcase_add_loop_test(tc, fragments, 0, ARRAY_SIZE(fragment_rows));
	tcase_add_loop_test(tc, globs, 0, ARRAY_SIZE(glob_rows));
	return run_case("symtab", tc);
}
