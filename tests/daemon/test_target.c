/* SPDX-License-Identifier: MIT */
/* What is known of a process goes to a worker and comes back as bytes that the
 * daemon does not trust; and the lookups that attach and detach rest on. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/section.h"
#include "daemon/target.h"
#include "tests/support/suite.h"

static void add_module(struct target *t, const char *name, addr_t lo)
{
	struct target_module m = { .name = (char *)name, .path = (char *)"/bin/x", .bias = lo, .lo = lo,
				   .hi = lo + 0x10000, .dev = 7, .ino = lo >> 12 };

	ck_assert_uint_ne(target_module_index(t, &m), UINT32_MAX);
}

static void add_call(struct target *t, u32 site, addr_t point, bool exit)
{
	struct call c = { .point = point, .module = 1, .exit = exit, .link = 3, .program = 9, .site = site };

	ck_assert(vec_push(&t->calls, c));
}

static void add_site(struct target *t, u32 key, u32 link, const char *symbol)
{
	struct site s = { .key = key, .link = link, .module = 1, .tactic = 1, .bytes = 6, .func = 0x1000,
			  .at = 0x1004, .cookie = ~0ull, .symbol = strdup(symbol) };

	ck_assert(s.symbol && vec_push(&t->sites, s));
	t->last_site = key;
}

/* One of everything. */
static struct target *make_target(void)
{
	struct arena a = { .addr = 0x10000, .size = 0x10000, .used = 0x800, .code = 0x700, .top = 0xff00,
			   .inode = 12, .live = 1, .env = 0x10400, .batch = 0x10300 };
	struct mapping m = { .map = 5, .addr = 0x50000, .size = 0x3000 }, claims = m;
	struct patched w = { .module = 1, .file_off = 0x1000, .tramp = 0x10700, .arena = 0x10000 };
	struct target *t;

	ck_assert_ptr_null(target_create(4, getpid(), &t));
	free(t->path);
	t->path = strdup("/bin/x");
	strcpy(t->comm, "fifteen bytes!!");
	strcpy(t->since, "2026-01-01T00:00:00Z");
	t->installed = true;
	t->tid_off = -0x48;
	t->rseq_off = 0x9a0;
	t->starttime = 1234567890123ull;
	add_module(t, "", 0x400000);
	add_module(t, "libc", 0x7f0000000000);
	ck_assert(vec_push(&a.maps, (struct arena_map){ 5, 0x10500 }));
	ck_assert(vec_push(&a.progs, (struct arena_prog){ 9, 0x10600, 64, 3 }));
	ck_assert(vec_push(&t->arenas, a));
	claims.claims = claims.retired = true;
	claims.map = 6;
	claims.addr = 0x60000;
	ck_assert(vec_push(&t->mappings, m) && vec_push(&t->mappings, claims));
	ck_assert(vec_push(&t->stub_pages, (struct stub_page){ .addr = 0x90000 }));
	ck_assert(vec_push(&t->stubs, (struct stub){ .addr = 0x90010, .site = 0x7f0000001000, .live = true }));
	w.win = (struct window){ .addr = 0x1000, .len = 6, .ninsns = 2 };
	ck_assert(vec_push(&t->windows, w));
	w.win.addr = 0x900;
	ck_assert(vec_push(&t->windows, w));
	add_call(t, 2, 0x1000, false);
	add_call(t, 1, 0x1000, false);
	add_call(t, 1, 0x1000, true);
	add_call(t, 1, 0x900, false);
	add_site(t, 1, 3, "libc:malloc");
	add_site(t, 2, 3, "libc:malloc+0x4");
	target_sort(t);
	return t;
}

static struct packer packed(const struct target *t)
{
	struct packer p = {};

	target_pack(t, &p);
	ck_assert(!p.failed);
	return p;
}

START_TEST(comes_back_as_it_went)
{
	struct target *t = make_target(), *u;
	struct packer p = packed(t), q;
	struct unpacker in = { p.data, p.data + p.n, false };

	ck_assert_ptr_null(target_unpack(&in, &u));
	ck_assert_ptr_eq(in.p, in.end);
	q = packed(u);
	ck_assert_uint_eq(q.n, p.n);
	ck_assert_mem_eq(q.data, p.data, p.n);
	ck_assert_int_eq(u->tid_off, -0x48);
	ck_assert_str_eq(u->sites.data[1].symbol, "libc:malloc+0x4");
	ck_assert_uint_eq(u->arenas.data[0].batch, 0x10300);
	ck_assert_uint_eq(u->arenas.data[0].progs.data[0].entry, 0x10600);
	ck_assert_uint_eq(target_stub(u, 0x7f0000001000)->addr, 0x90010);
	ck_assert(stub_page_live(u, &u->stub_pages.data[0]));
	u->stubs.data[0].live = false;
	ck_assert(!stub_page_live(u, &u->stub_pages.data[0]));
	packer_deinit(&p);
	packer_deinit(&q);
	target_destroy(t);
	target_destroy(u);
}
END_TEST

/* The bytes in a block of their own, so that a sanitizer sees what lies behind. */
static struct uerr *unpack_copy(const u8 *bytes, size_t n, struct target **ret)
{
	u8 *copy = malloc(n ? n : 1);
	struct unpacker in = { copy, copy + n, false };
	struct uerr *err;

	memcpy(copy, bytes, n);
	err = target_unpack(&in, ret);
	free(copy);
	return err;
}

START_TEST(cut_short_anywhere_is_refused)
{
	struct target *t = make_target(), *u;
	struct packer p = packed(t);

	for (size_t n = 0; n < p.n; n++) {
		struct uerr *err = unpack_copy(p.data, n, &u);

		ck_assert_msg(err, "taken after %zu of %zu bytes", n, p.n);
		uerr_free(err);
	}
	packer_deinit(&p);
	target_destroy(t);
}
END_TEST

/* Whatever is taken can be used: no index leads outside. */
static void use(struct target *t)
{
	size_t n;

	target_sort(t);
	vec_foreach(s, &t->sites) {
		ck_assert_uint_lt(s->module, t->modules.n);
		target_site(t, s->key);
	}
	vec_foreach(c, &t->calls)
		target_calls(t, c->module, c->point, c->exit, &n);
	vec_foreach(w, &t->windows)
		target_window(t, w->module, w->win.addr, w->win.len);
	target_mapped_bytes(t);
	target_retired(t);
}

START_TEST(any_byte_may_be_wrong)
{
	struct target *t = make_target(), *u;
	struct packer p = packed(t);
	unsigned taken = 0;

	for (size_t i = 0; i < p.n; i++) {
		u8 was = p.data[i];
		static const u8 wrong[] = { 0xff, 0x80, 1, 0 };

		for (size_t k = 0; k < ARRAY_SIZE(wrong); k++) {
			struct uerr *err;

			p.data[i] = was ^ (wrong[k] ? wrong[k] : was);
			err = unpack_copy(p.data, p.n, &u);
			if (!err) {
				struct target *real = make_target();

				target_replace(real, u);
				use(real);
				target_destroy(real);
				taken++;
			}
			uerr_free(err);
		}
		p.data[i] = was;
	}
	ck_assert_uint_gt(taken, 0);
	packer_deinit(&p);
	target_destroy(t);
}
END_TEST

START_TEST(lookups)
{
	struct target *t = make_target();
	const struct call *c;
	size_t n;

	c = target_calls(t, 1, 0x1000, false, &n);
	ck_assert_uint_eq(n, 2);
	ck_assert_uint_eq(c[0].site, 1); /* by site, not as they were added */
	ck_assert_uint_eq(c[1].site, 2);
	target_calls(t, 1, 0x1000, true, &n);
	ck_assert_uint_eq(n, 1);
	target_calls(t, 0, 0x1000, false, &n);
	ck_assert_uint_eq(n, 0);
	ck_assert_ptr_nonnull(target_window(t, 1, 0x1005, 1));
	ck_assert_ptr_null(target_window(t, 1, 0x1006, 4));
	ck_assert_ptr_null(target_window(t, 1, 0xffe, 2));
	ck_assert_ptr_nonnull(target_window(t, 1, 0xffe, 3));
	ck_assert_ptr_null(target_window(t, 0, 0x1000, 1));
	ck_assert_str_eq(target_site(t, 2)->symbol, "libc:malloc+0x4");
	ck_assert_ptr_null(target_site(t, 3));
	ck_assert_ptr_nonnull(target_mapping(t, 5, false));
	ck_assert_ptr_null(target_mapping(t, 5, true));
	ck_assert_ptr_nonnull(target_mapping(t, 6, true));
	ck_assert_uint_eq(target_count_sites(t, 3), 2);
	ck_assert(target_has_link(t, 3) && !target_has_link(t, 4));
	ck_assert_uint_eq(target_retired(t), 1);
	ck_assert(!target_is_clean(t));
	target_destroy(t);
}
END_TEST

static const struct {
	const char *name;
	enum probe_side side;
	const char *spec;
} sections[] = {
	{ "uprobe", SIDE_ENTRY, "" },
	{ "uprobe/", SIDE_ENTRY, "" },
	{ "uprobe/libc:malloc", SIDE_ENTRY, "uprobe:libc:malloc" },
	{ "uprobe//usr/bin/x:main+8", SIDE_ENTRY, "uprobe:/usr/bin/x:main+8" },
	{ "uretprobe/libc:malloc", SIDE_EXIT, "uretprobe:libc:malloc" },
	{ "uretprobe.s", SIDE_EXIT, "" },
	{ "uprobe.multi.s/a:b*", SIDE_ENTRY, "uprobe:a:b*" },
	{ "uprobes", SIDE_UNKNOWN, "" },
	{ "uprobe.", SIDE_UNKNOWN, "" },
	{ "kprobe/do_sys_open", SIDE_UNKNOWN, "" },
	{ "", SIDE_UNKNOWN, "" },
};

START_TEST(sections_as_libbpf_reads_them)
{
	struct section got;

	section_parse(sections[_i].name, &got);
	ck_assert_int_eq(got.side, sections[_i].side);
	ck_assert_str_eq(got.spec, sections[_i].spec);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("target");
	TCase *tc = tcase_create("target");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, comes_back_as_it_went);
	tcase_add_test(tc, cut_short_anywhere_is_refused);
	tcase_add_test(tc, any_byte_may_be_wrong);
	tcase_add_test(tc, lookups);
	tcase_add_loop_test(tc, sections_as_libbpf_reads_them, 0, ARRAY_SIZE(sections));
	suite_add_tcase(s, tc);
	return suite_run(s);
}
