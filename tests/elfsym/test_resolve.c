/* SPDX-License-Identifier: MIT */
/* SPECs in live processes: addresses are those that the process itself reports. */
#include <dlfcn.h>

#include "tests/elfsym/support.h"

#include "elfsym/resolve_int.h"

static struct victim victim;
static struct modules mods;

static void begin(const char *path, const char *arg)
{
	victim_start(&victim, path, arg);
	ck_ok(modules_read(victim.pid, &mods));
}

static void end(void)
{
	modules_deinit(&mods);
	victim_stop(&victim);
	image_cache_drop();
}

static struct uerr *resolve_not(const char *text, const char *not_glob, struct resolve_result *ret)
{
	struct uerr *err;
	struct spec spec;

	ck_ok(spec_parse(text, &spec));
	err = spec_resolve(&spec, &mods, &not_glob, not_glob ? 1 : 0, ret);
	spec_deinit(&spec);
	return err;
}

static struct uerr *resolve(const char *text, struct resolve_result *ret)
{
	return resolve_not(text, NULL, ret);
}

static void expect_at(const char *text, addr_t remote, const char *name)
{
	struct resolve_result r;

	ck_ok(resolve(text, &r));
	ck_assert_uint_eq(r.n, 1);
	ck_assert_msg(r.places[0].mod->bias + r.places[0].link_addr == remote, "%s: %lx, not %lx", text,
		      r.places[0].mod->bias + r.places[0].link_addr, remote);
	ck_assert_str_eq(r.places[0].name, name);
	resolve_result_deinit(&r);
}

static const char *const programs[] = { VICTIM_PIE, VICTIM_NOPIE, VICTIM_STATIC };

START_TEST(the_program_itself)
{
	static const char *const names[] = { "victim_add", "victim_static", "main", "_ZN2ns1fEi" };
	char text[PATH_MAX], name[64];

	begin(programs[_i], NULL);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(name, sizeof(name), ":%s", names[i]);
		expect_at(names[i], victim_addr(&victim, names[i]), name);
		expect_at(name, victim_addr(&victim, names[i]), name);
	}
	snprintf(text, sizeof(text), "%s:victim_add", programs[_i]);
	expect_at(text, victim_addr(&victim, "victim_add"), ":victim_add");
	snprintf(text, sizeof(text), "%s:victim_add", strrchr(programs[_i], '/') + 1);
	expect_at(text, victim_addr(&victim, "victim_add"), ":victim_add");
	expect_at(":victim_add+1", victim_addr(&victim, "victim_add") + 1, ":victim_add+0x1");
	ck_assert_str_eq(mods.mods[0].name, "");
	ck_assert(mods.mods[0].main);
	end();
}
END_TEST

START_TEST(an_ifunc_of_the_program)
{
	struct resolve_result r;

	begin(programs[_i], NULL);
	expect_at(":victim_pick", victim_addr(&victim, "victim_pick"), ":victim_pick");
	ck_ok(resolve(":victim_pick", &r));
	ck_assert(r.places[0].ifunc_selected);
	ck_assert_str_eq(r.places[0].note, "pick_two on this machine");
	ck_assert_uint_gt(r.places[0].func_size, 0);
	resolve_result_deinit(&r);
	end();
}
END_TEST

START_TEST(libc_functions)
{
	struct resolve_result r;
	char text[64];

	begin(programs[_i], NULL);
	expect_at("libc:malloc", victim_addr(&victim, "libc:malloc"), "libc:malloc");
	expect_at("libc.so.6:malloc", victim_addr(&victim, "libc:malloc"), "libc:malloc");
	expect_at("uretprobe:" LIBC ":malloc", victim_addr(&victim, "libc:malloc"), "libc:malloc");
	ck_ok(resolve("libc:malloc", &r));
	ck_assert_uint_eq(r.places[0].func_addr, r.places[0].link_addr);
	snprintf(text, sizeof(text), "libc:0x%" PRIx64, r.places[0].link_addr + 4);
	ck_assert(!r.places[0].ifunc_selected);
	resolve_result_deinit(&r);
	ck_ok(resolve(text, &r));
	ck_assert_str_eq(r.places[0].name, text);
	ck_assert_str_eq(r.places[0].symbol, "malloc");
	ck_assert_uint_eq(r.places[0].func_addr + 4, r.places[0].link_addr);
	resolve_result_deinit(&r);
	end();
}
END_TEST

START_TEST(libc_ifuncs)
{
	struct resolve_result r;

	begin(programs[_i], NULL);
	expect_at("libc:memcpy", victim_addr(&victim, "libc:memcpy"), "libc:memcpy");
	expect_at("libc:strlen", victim_addr(&victim, "libc:strlen"), "libc:strlen");
	ck_ok(resolve("libc:memcpy", &r));
	ck_assert(r.places[0].ifunc_selected);
	ck_assert(strstr(r.places[0].note, "on this machine"));
	resolve_result_deinit(&r);
	end();
}
END_TEST

START_TEST(a_library_opened_later)
{
	struct resolve_result r;

	begin(VICTIM_PIE, VICTIM_LIB);
	expect_at("elf_victim_lib:victim_add", victim_addr(&victim, "lib:victim_add"), "elf_victim_lib:victim_add");
	expect_at("elf_victim_lib:victim_alias@@V2", victim_addr(&victim, "lib:victim_add"),
		  "elf_victim_lib:victim_alias");
	/* Its own pointer tells what it chose. */
	expect_at("elf_victim_lib:victim_pick", victim_addr(&victim, "lib:victim_pick"),
		  "elf_victim_lib:victim_pick");
	/* The same name in the program is another place. */
	expect_at(":victim_add", victim_addr(&victim, "victim_add"), ":victim_add");
	ck_ok(resolve("elf_victim_lib:ns::f", &r));
	ck_assert_uint_eq(r.n, 2);
	ck_assert(!r.glob);
	resolve_result_deinit(&r);
	end();
}
END_TEST

/* Before the first call the slot leads to the PLT, which is not what was chosen. */
START_TEST(a_slot_that_is_not_bound)
{
	struct resolve_result r;

	setenv("VICTIM_LAZY", "1", 1);
	begin(VICTIM_PIE, VICTIM_LIB);
	ck_fails(resolve("elf_victim_lib:victim_pick", &r), UERR_CANNOT_PROBE, "no pointer in process");
	/* A pattern passes over it. */
	ck_ok(resolve("elf_victim_lib:victim_*", &r));
	for (size_t i = 0; i < r.n; i++)
		ck_assert_str_ne(r.places[i].name, "elf_victim_lib:victim_pick");
	resolve_result_deinit(&r);
	end();
}
END_TEST

START_TEST(globs)
{
	struct resolve_result r;
	bool add = false;

	begin(VICTIM_PIE, NULL);
	ck_ok(resolve(":victim_*", &r));
	ck_assert(r.glob);
	for (size_t i = 0; i < r.n; i++) {
		add |= !strcmp(r.places[i].name, ":victim_add");
		/* Aliases are one place, under the better name. */
		ck_assert(!strstr(r.places[i].name, "alias"));
		ck_assert(!strstr(r.places[i].name, ".cold"));
		ck_assert(!i || r.places[i].link_addr > r.places[i - 1].link_addr);
	}
	ck_assert(add);
	resolve_result_deinit(&r);
	ck_ok(resolve_not(":victim_*", "*_add", &r));
	for (size_t i = 0; i < r.n; i++)
		ck_assert_str_ne(r.places[i].name, ":victim_add");
	resolve_result_deinit(&r);
	ck_ok(resolve(":ns::*", &r));
	ck_assert_uint_eq(r.n, 4);
	resolve_result_deinit(&r);
	ck_ok(resolve("libc:mem*", &r));
	ck_assert_uint_gt(r.n, 10);
	resolve_result_deinit(&r);
	ck_fails(resolve(":victim_piece.cold", &r), UERR_CANNOT_PROBE, "a piece that the compiler cut out");
	ck_fails(resolve(":nothing_*", &r), UERR_NO_SYMBOL, "elf_victim_pie has no function like 'nothing_*'");
	ck_fails(resolve(":victim_*+1", &r), UERR_USAGE, "takes no offset");
	end();
}
END_TEST

/* Every place of a glob is, by its name, a SPEC for the same place. */
START_TEST(names_are_specs_again)
{
	struct resolve_result r;

	begin(VICTIM_PIE, NULL);
	ck_ok(resolve("libc:str[a-m]*", &r));
	ck_assert_uint_gt(r.n, 10);
	for (size_t i = 0; i < r.n; i++) {
		struct resolve_result again;

		ck_ok(resolve(r.places[i].name, &again));
		ck_assert_uint_eq(again.n, 1);
		ck_assert_uint_eq(again.places[0].link_addr, r.places[i].link_addr);
		resolve_result_deinit(&again);
	}
	resolve_result_deinit(&r);
	end();
}
END_TEST

START_TEST(what_helps_when_it_fails)
{
	struct resolve_result r;
	struct uerr *err;

	begin(VICTIM_PIE, VICTIM_LIB);
	err = resolve(":victim_ad", &r);
	ck_assert_ptr_nonnull(err);
	ck_assert_int_eq(err->code, UERR_NO_SYMBOL);
	ck_assert_str_eq(err->message, "elf_victim_pie has no function 'victim_ad'");
	ck_assert_uint_ge(err->nnear, 1);
	ck_assert_str_eq(err->near[0], "victim_add");
	uerr_free(err);
	err = resolve("libc:mallok", &r);
	ck_assert_str_eq(err->message, "libc has no function 'mallok'");
	ck_assert_uint_eq(err->nnear, 1);
	ck_assert_str_eq(err->near[0], "malloc");
	uerr_free(err);
	ck_fails(resolve(":calloc", &r), UERR_NO_SYMBOL,
		 "elf_victim_pie itself has no function 'calloc', but libc.so.6 has: use libc:calloc");
	ck_fails(resolve("libc:victim_static", &r), UERR_NO_SYMBOL,
		 "libc has no function 'victim_static', but elf_victim_pie has: use :victim_static");
	ck_fails(resolve("libnope:f", &r), UERR_NO_SYMBOL, "has not mapped 'libnope'");
	ck_fails(resolve("/bin/nope:f", &r), UERR_NO_SYMBOL, "has not mapped '/bin/nope'");
	ck_fails(resolve(":0x1", &r), UERR_NO_SYMBOL, "has no code at 0x1");
	ck_fails(resolve(":victim_add+99999", &r), UERR_USAGE, "lies behind it");
	err = resolve("libcc:f", &r);
	ck_assert_uint_eq(err->nnear, 1);
	ck_assert_str_eq(err->near[0], "libc");
	uerr_free(err);
	end();
}
END_TEST

static char folder[] = "/tmp/elfsym-XXXXXX";

START_TEST(a_stripped_program)
{
	struct resolve_result r;
	char path[64], text[160];
	struct uerr *err;

	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/curly", folder);
	run("objcopy --strip-all %s %s", VICTIM_PIE, path);
	begin(path, NULL);
	snprintf(text, sizeof(text),
		 "curly is stripped: no function names. Install curly-dbgsym, or set DEBUGINFOD_URLS, or name an "
		 "address (curly:0x");
	ck_fails(resolve(":frobnicate", &r), UERR_NO_SYMBOL, text);
	ck_fails(resolve(":frob*", &r), UERR_NO_SYMBOL, text);
	err = resolve(":frobnicate", &r);
	/* The advice works. */
	snprintf(text, sizeof(text), "%.*s", (int)strcspn(strstr(err->message, "curly:0x"), ")"),
		 strstr(err->message, "curly:0x"));
	uerr_free(err);
	ck_ok(resolve(text, &r));
	ck_assert_uint_eq(r.n, 1);
	ck_assert_uint_gt(r.places[0].func_size, 0);
	resolve_result_deinit(&r);
	end();
	run("rm -rf %s", folder);
}
END_TEST

/* The file is gone or replaced: what runs is what counts. */
START_TEST(a_deleted_program)
{
	char path[64];

	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/gone", folder);
	run("cp %s %s", VICTIM_PIE, path);
	victim_start(&victim, path, NULL);
	unlink(path);
	if (_i)
		run("cp %s %s", VICTIM_LIB, path);
	ck_ok(modules_read(victim.pid, &mods));
	expect_at(":victim_static", victim_addr(&victim, "victim_static"), ":victim_static");
	expect_at("gone:victim_static", victim_addr(&victim, "victim_static"), ":victim_static");
	end();
	run("rm -rf %s", folder);
}
END_TEST

START_TEST(modules_as_the_maps_show_them)
{
	begin(VICTIM_PIE, VICTIM_LIB);
	ck_assert_uint_eq(mods.pid, victim.pid);
	ck_assert(!strncmp(mods.comm, "elf_victim_pie", 14));
	for (size_t i = 0; i < mods.n; i++) {
		const struct module *mod = &mods.mods[i];

		ck_assert(!mod->text_shared);
		ck_assert_int_eq(mod->main, i == 0);
		for (size_t k = 0; k < mods.maps.n; k++) {
			const struct procmap *map = &mods.maps.maps[k];

			if (map->ino == mod->ino && map->dev == mod->dev)
				ck_assert(map->start >= mod->lo && map->end <= mod->hi);
		}
		ck_assert_ptr_eq(modules_find_addr(&mods, mod->lo), mod);
		ck_assert_ptr_eq(modules_find_addr(&mods, mod->hi - 1), mod);
	}
	ck_assert_ptr_null(modules_find_addr(&mods, 0));
	end();
}
END_TEST

/* Text that is mapped shared, and a second copy of a file. */
START_TEST(a_file_mapped_twice)
{
	struct modules own;
	struct stat st;
	unsigned n = 0, shared = 0;
	int fd = open(VICTIM_LIB, O_RDONLY | O_CLOEXEC);
	struct image *im;
	const struct elf_sym *s;
	u64 off;

	ck_ok(image_open(VICTIM_LIB, &im));
	ck_assert_uint_eq(image_find(im, "victim_add", &s, 1), 1);
	ck_assert(image_addr_to_off(im, s->addr, &off));
	fstat(fd, &st);
	for (int i = 0; i < 2; i++)
		ck_assert_ptr_ne(mmap(NULL, PAGE, PROT_READ | PROT_EXEC, i ? MAP_SHARED : MAP_PRIVATE, fd,
				      ALIGN_DOWN(off, PAGE)), MAP_FAILED);
	close(fd);
	ck_ok(modules_read(getpid(), &own));
	for (size_t i = 0; i < own.n; i++) {
		if (own.mods[i].ino != st.st_ino || own.mods[i].dev != st.st_dev)
			continue;
		n++;
		shared += own.mods[i].text_shared;
		ck_assert_ptr_eq(own.mods[i].image, im);
	}
	ck_assert_uint_eq(n, 2);
	ck_assert_uint_eq(shared, 1);
	modules_deinit(&own);
	image_unref(im);
	image_cache_drop();
}
END_TEST

static bool lasts(const struct modules *m, const char *binary)
{
	const struct module *found = NULL;

	for (size_t i = 0; i < m->n; i++)
		if (module_match(m, &m->mods[i], binary))
			found = &m->mods[i];
	ck_assert_msg(found, "%s is not mapped", binary);
	return found->lasting;
}

/* What the program needs stays; what was loaded later goes. */
START_TEST(lasting_modules)
{
	void *later = dlopen("libBrokenLocale.so.1", RTLD_NOW);
	void *copy = dlmopen(LM_ID_NEWLM, "libBrokenLocale.so.1", RTLD_NOW);
	struct modules own;

	ck_assert_msg(later && copy, "%s", dlerror());
	ck_ok(modules_read(getpid(), &own));
	modules_mark_lasting(&own);
	ck_assert(lasts(&own, ""));
	ck_assert(lasts(&own, "libelf"));
	ck_assert(lasts(&own, "ld-linux-x86-64"));
	ck_assert(!lasts(&own, "libBrokenLocale"));
	/* two copies of libc, of which one goes with the namespace */
	ck_assert(!lasts(&own, "libc"));
	modules_deinit(&own);
	dlclose(copy);
	ck_ok(modules_read(getpid(), &own));
	modules_mark_lasting(&own);
	ck_assert(lasts(&own, "libc"));
	modules_deinit(&own);
	dlclose(later);
	image_cache_drop();
}
END_TEST

static const struct {
	const char *path, *binary;
	bool match;
} name_rows[] = {
	{ "/lib/libc.so.6", "libc", true },
	{ "/lib/libc.so.6", "libc.so.6", true },
	{ "/lib/libc.so.6", "libc.so", false },
	{ "/lib/libc.so.6", "lib", false },
	{ "/lib/libc.so.6", "/lib/libc.so.6", true },
	{ "/lib/libc-2.31.so", "libc", true },
	{ "/lib/libc-2.31.so", "libc-2.31", false },
	{ "/lib/ld-linux-x86-64.so.2", "ld-linux-x86-64", true },
	{ "/lib/ld-linux-x86-64.so.2", "ld-linux-x86", false },
	{ "/lib/libpython3.11.so.1.0", "libpython3.11", true },
	{ "/lib/_ssl.cpython-311-x86_64-linux-gnu.so", "_ssl", true },
	{ "/lib/libcrypto.so.3", "", false },
	{ "/opt/plug.in", "plug.in", true },
	{ "/opt/x.sort", "x.sort", true },
	{ "/opt/x.sort.so", "x.sort", true },
};

START_TEST(names_of_libraries)
{
	struct module mod = { .path = (char *)name_rows[_i].path, .name = (char *)"?" };
	struct modules m = { .mods = &mod, .n = 1, .comm = "libcomm" };

	ck_assert_int_eq(module_match(&m, &mod, name_rows[_i].binary) > 0, name_rows[_i].match);
}
END_TEST

/* Text whose first page is not mapped (or not with the rest). */
START_TEST(a_mapping_from_the_middle)
{
	const struct elf_sym *s[2];
	struct modules own;
	struct image *im;
	bool found = false;
	addr_t at;
	u64 off;
	int fd = open(LIBC, O_RDONLY | O_CLOEXEC);

	ck_ok(image_open(LIBC, &im));
	ck_assert_uint_ge(image_find(im, "qsort", s, 2), 1);
	ck_assert(image_addr_to_off(im, s[0]->addr, &off));
	at = (addr_t)mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, ALIGN_DOWN(off, PAGE));
	close(fd);
	ck_ok(modules_read(getpid(), &own));
	for (size_t i = 0; i < own.n; i++)
		found |= own.mods[i].image == im && own.mods[i].bias + s[0]->addr == at + off % PAGE;
	ck_assert(found);
	modules_deinit(&own);
	image_unref(im);
	image_cache_drop();
}
END_TEST

START_TEST(nobody_there)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	waitpid(pid, NULL, 0);
	ck_fails(modules_read(pid, &mods), UERR_NO_TARGET, "there is no process");
}
END_TEST

/* As another user: who owns it, who are we, what to do. */
START_TEST(not_permitted)
{
	char want[128];
	int status;
	pid_t pid;

	if (geteuid())
		return; /* only root can become somebody else */
	begin(VICTIM_PIE, NULL);
	snprintf(want, sizeof(want),
		 "process %d (elf_victim_pie) belongs to user root, you are uid 65534: sudo bpfctl", victim.pid);
	pid = fork();
	if (!pid) {
		struct modules m;
		struct uerr *err;

		image_cache_drop();
		if (setgid(65534) || setuid(65534))
			_exit(2);
		err = modules_read(victim.pid, &m);
		_exit(!(err && err->code == UERR_NOT_PERMITTED && !strncmp(err->message, want, strlen(want))));
	}
	waitpid(pid, &status, 0);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	end();
}
END_TEST

/* Without privileges the files of our own processes are still found: the program
 * through exe (though it is deleted), libraries by their names. */
START_TEST(own_process_without_root)
{
	char path[64];
	int status;
	pid_t pid;

	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/own", folder);
	run("cp %s %s; chmod 755 %s %s", VICTIM_PIE, path, folder, path);
	pid = fork();
	if (!pid) {
		if (!geteuid() && (setgid(65534) || setuid(65534)))
			_exit(2);
		prctl(PR_SET_DUMPABLE, 1);
		victim_start(&victim, path, NULL);
		unlink(path);
		ck_ok(modules_read(victim.pid, &mods));
		expect_at(":victim_static", victim_addr(&victim, "victim_static"), ":victim_static");
		expect_at("libc:malloc", victim_addr(&victim, "libc:malloc"), "libc:malloc");
		end();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	run("rm -rf %s", folder);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("resolve");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, the_program_itself, 0, 3);
	tcase_add_loop_test(tc, an_ifunc_of_the_program, 0, 3);
	tcase_add_loop_test(tc, libc_functions, 0, 2);
	tcase_add_loop_test(tc, libc_ifuncs, 0, 2);
	tcase_add_test(tc, a_library_opened_later);
	tcase_add_test(tc, a_slot_that_is_not_bound);
	tcase_add_test(tc, globs);
	tcase_add_test(tc, names_are_specs_again);
	tcase_add_test(tc, what_helps_when_it_fails);
	tcase_add_test(tc, a_stripped_program);
	tcase_add_loop_test(tc, a_deleted_program, 0, 2);
	tcase_add_test(tc, modules_as_the_maps_show_them);
	tcase_add_test(tc, a_file_mapped_twice);
	tcase_add_test(tc, a_mapping_from_the_middle);
	tcase_add_loop_test(tc, names_of_libraries, 0, ARRAY_SIZE(name_rows));
	tcase_add_test(tc, nobody_there);
	tcase_add_test(tc, not_permitted);
	tcase_add_test(tc, lasting_modules);
	tcase_add_test(tc, own_process_without_root);
	return run_case("resolve", tc);
}
