/* SPDX-License-Identifier: MIT */
/* image_code(): text, functions, and each kind of mark; and the unwind tables,
 * well-formed and not. */
#include "tests/elfsym/support.h"
#include "tests/elfsym/tiny_elf.h"

#include "elfsym/ehframe.h"
#include "elfsym/reader.h"

static u32 mark_at(const struct code_image *code, addr_t addr)
{
	for (size_t i = 0; i < code->nmarks; i++)
		if (code->marks[i].addr == addr)
			return code->marks[i].kinds;
	return 0;
}

static const struct code_func *func_at(const struct code_image *code, addr_t addr)
{
	for (size_t i = 0; i < code->nfuncs; i++)
		if (code->funcs[i].addr == addr)
			return &code->funcs[i];
	return NULL;
}

static struct image *open_tiny(const struct tiny_elf *t)
{
	int fd = memfd_of(t, sizeof(*t));
	struct image *im;

	ck_ok(image_open_fd(fd, "tiny", &im));
	close(fd);
	return im;
}

static void done(struct image *im)
{
	image_unref(im);
	image_cache_drop();
}

START_TEST(tiny_code)
{
	const addr_t text = TINY_OFF(text);
	const struct code_image *code, *again;
	struct tiny_elf t;
	struct image *im;

	tiny_make(&t);
	im = open_tiny(&t);
	ck_ok(image_code(im, &code));
	ck_ok(image_code(im, &again));
	ck_assert_ptr_eq(code, again);
	ck_assert_str_eq(code->build_id, "abcd0102");
	ck_assert_uint_eq(code->ntext, 1);
	ck_assert_uint_eq(code->text[0].addr, text);
	ck_assert_uint_eq(code->text[0].size, 64);
	ck_assert_int_eq(memcmp(code->text[0].bytes, t.text, 64), 0);
	ck_assert_uint_eq(code->nfuncs, 4);
	ck_assert_str_eq(code->funcs[0].name, "f");
	ck_assert_uint_eq(code->funcs[0].size, 16);
	ck_assert_uint_eq(code->funcs[0].flags, 0);
	ck_assert_uint_eq(func_at(code, text + TINY_G)->flags, CODE_FUNC_IFUNC);
	ck_assert_uint_eq(func_at(code, text + 32)->flags, CODE_FUNC_FRAGMENT);
	ck_assert_uint_eq(mark_at(code, text), CODE_MARK_SYMBOL | CODE_MARK_ENTRY);
	ck_assert_uint_eq(mark_at(code, text + TINY_LABEL), CODE_MARK_SYMBOL);
	ck_assert_uint_eq(mark_at(code, text + TINY_BY_RELA), CODE_MARK_RELOC);
	ck_assert_uint_eq(mark_at(code, text + TINY_BY_RELR), CODE_MARK_RELOC);
	ck_assert_uint_eq(mark_at(code, text + TINY_BY_RELR + 1), CODE_MARK_RELOC);
	ck_assert_uint_eq(mark_at(code, text + TINY_BY_RELR + 2), CODE_MARK_RELOC);
	/* A plain word means nothing where addresses are not yet known … */
	ck_assert_uint_eq(mark_at(code, text + TINY_BY_DATA), 0);
	done(im);
	/* … and everything where they are. */
	t.eh.e_type = ET_EXEC;
	im = open_tiny(&t);
	ck_ok(image_code(im, &code));
	ck_assert_uint_eq(mark_at(code, text + TINY_BY_DATA), CODE_MARK_RELOC);
	done(im);
}
END_TEST

START_TEST(relr_cannot_claim_more_places_than_words)
{
	const struct code_image *code;
	struct tiny_elf t;
	struct image *im;

	tiny_make(&t);
	TINY_SECTION(&t, TINY_RELR, ".relr", SHT_RELR, SHF_ALLOC, symtab, 8);
	t.sh[TINY_RELR].sh_addr = t.sh[TINY_RELR].sh_flags = 0;
	memset(t.symtab, 0xff, sizeof(t.symtab));
	im = open_tiny(&t);
	ck_fails(image_code(im, &code), UERR_FAILED, "RELR");
	/* It stays refused, and the image stays usable. */
	ck_fails(image_code(im, &code), UERR_FAILED, "RELR");
	done(im);
}
END_TEST

static const char *const real_files[] = { VICTIM_PIE, VICTIM_NOPIE, VICTIM_STATIC, VICTIM_LIB, LIBC,
					  "/usr/bin/redis-server" };

/* Marks and functions are sorted and unique, and lie in text. */
START_TEST(order_and_bounds)
{
	const struct code_image *code;
	struct image *im;

	ck_ok(image_open(real_files[_i], &im));
	ck_ok(image_code(im, &code));
	ck_assert_uint_gt(code->ntext, 0);
	ck_assert_uint_gt(code->nrodata, 0);
	for (size_t i = 1; i < code->ntext; i++)
		ck_assert_uint_ge(code->text[i].addr, code->text[i - 1].addr + code->text[i - 1].size);
	for (size_t i = 1; i < code->nfuncs; i++)
		ck_assert_uint_gt(code->funcs[i].addr, code->funcs[i - 1].addr);
	for (size_t i = 1; i < code->nmarks; i++)
		ck_assert_uint_gt(code->marks[i].addr, code->marks[i - 1].addr);
	for (size_t i = 0, r = 0; i < code->nmarks; i++) {
		while (r < code->ntext && code->marks[i].addr >= code->text[r].addr + code->text[r].size)
			r++;
		ck_assert(r < code->ntext && code->marks[i].addr >= code->text[r].addr);
	}
	done(im);
}
END_TEST

START_TEST(bytes_are_the_files)
{
	const struct code_image *code;
	struct image *im;

	ck_ok(image_open(real_files[_i], &im));
	ck_ok(image_code(im, &code));
	for (size_t i = 0; i < code->ntext; i++) {
		u8 *bytes = malloc(code->text[i].size);

		ck_ok(image_read(im, code->text[i].addr, bytes, code->text[i].size));
		ck_assert_int_eq(memcmp(bytes, code->text[i].bytes, code->text[i].size), 0);
		free(bytes);
	}
	done(im);
}
END_TEST

/* Every FDE that readelf prints is a mark. */
START_TEST(fdes_as_readelf_prints_them)
{
	char command[PATH_MAX + 64], line[512];
	const struct code_image *code;
	struct image *im;
	size_t n = 0;
	FILE *f;

	ck_ok(image_open(real_files[_i], &im));
	ck_ok(image_code(im, &code));
	snprintf(command, sizeof(command), "readelf --debug-dump=frames-interp %s 2>/dev/null | grep 'FDE cie=' | "
		 "grep -v '^ *$'", real_files[_i]);
	f = popen(command, "r");
	while (fgets(line, sizeof(line), f)) {
		const char *pc = strstr(line, "pc=");
		unsigned long lo, hi;

		if (!pc || sscanf(pc, "pc=%lx..%lx", &lo, &hi) != 2 || lo == hi)
			continue;
		ck_assert_msg(mark_at(code, lo) & CODE_MARK_FDE, "%s: no FDE mark at %lx", real_files[_i], lo);
		if (++n == 400)
			break;
	}
	pclose(f);
	ck_assert_uint_gt(n, 5);
	done(im);
}
END_TEST

START_TEST(landing_pads)
{
	const struct code_image *code;
	const struct elf_sym *s;
	struct image *im;
	unsigned inside = 0;

	ck_ok(image_open(real_files[_i], &im));
	ck_ok(image_code(im, &code));
	ck_assert_uint_eq(image_find(im, "victim_guarded", &s, 1), 1);
	/* The pad itself may have been moved to the .cold part. */
	for (size_t i = 0; i < code->nmarks; i++) {
		const struct elf_sym *at = image_find_addr(im, code->marks[i].addr);

		if (code->marks[i].kinds & CODE_MARK_LANDING_PAD && at &&
		    !strncmp(at->name, "victim_guarded", strlen("victim_guarded")))
			inside++;
	}
	ck_assert_uint_eq(inside, 1);
	done(im);
}
END_TEST

/* What only data names is marked: a relocation's addend in a PIE, a word in a
 * program with fixed addresses. */
static addr_t address_of(struct image *im, const char *name)
{
	const struct elf_sym *s;

	ck_assert_msg(image_find(im, name, &s, 1) == 1, "%s", name);
	return s->addr;
}

/* Where the file says so, and through relocations where it is position-independent. */
START_TEST(restartable_sequences)
{
	const struct code_image *code;
	struct image *im;
	unsigned found = 0;
	addr_t func;

	ck_ok(image_open(real_files[_i], &im));
	ck_ok(image_code(im, &code));
	func = address_of(im, "victim_rseq");
	for (size_t i = 0; i < code->nrseqs; i++) {
		const struct code_rseq *cs = &code->rseqs[i];

		if (cs->lo != func + 8)
			continue;
		found++;
		ck_assert_uint_eq(cs->hi - cs->lo, 11);
		ck_assert_uint_eq(cs->abort, func + 8 + 11 + 6 + 7);
		ck_assert_uint_ne(mark_at(code, cs->abort) & CODE_MARK_ENTRY, 0);
	}
	ck_assert_uint_eq(found, 1);
	done(im);
}
END_TEST

START_TEST(function_pointers)
{
	const struct code_image *code;
	const struct elf_sym *s;
	struct image *im;

	ck_ok(image_open(real_files[_i], &im));
	ck_ok(image_code(im, &code));
	ck_assert_uint_eq(image_find(im, "pick_one", &s, 1), 1);
	ck_assert(mark_at(code, s->addr) & CODE_MARK_RELOC);
	ck_assert(mark_at(code, s->addr) & CODE_MARK_SYMBOL);
	ck_assert_uint_eq(image_find(im, "victim_pick", &s, 1), 1);
	ck_assert(func_at(code, s->addr)->flags & CODE_FUNC_IFUNC);
	ck_assert(image_entry(im) == 0 || mark_at(code, image_entry(im)) & CODE_MARK_ENTRY);
	done(im);
}
END_TEST

/* A stripped file keeps its functions, as the unwind tables know them. */
START_TEST(stripped_files_have_functions)
{
	char path[] = "/tmp/elfsym-XXXXXX";
	int fd = mkstemp(path);
	const struct code_image *code;
	const struct code_func *f;
	const struct elf_sym *s;
	struct image *im, *whole;

	close(fd);
	run("objcopy --strip-all %s %s", VICTIM_PIE, path);
	ck_ok(image_open(path, &im));
	ck_ok(image_open(VICTIM_PIE, &whole));
	unlink(path);
	ck_assert_uint_eq(image_find(whole, "victim_static", &s, 1), 1);
	ck_ok(image_code(im, &code));
	f = func_at(code, s->addr);
	ck_assert_ptr_nonnull(f);
	ck_assert_ptr_null(f->name);
	ck_assert_uint_eq(f->flags, CODE_FUNC_FROM_FDE);
	ck_assert_uint_eq(f->size, s->size);
	image_unref(whole);
	done(im);
}
END_TEST

/* ---- the tables themselves ---- */

struct seen {
	struct fde fdes[8];
	addr_t pads[8];
	size_t n;
};

static bool see_fde(void *ctx, const struct fde *fde)
{
	struct seen *seen = ctx;

	seen->fdes[seen->n++] = *fde;
	return seen->n < 8;
}

static bool see_pad(void *ctx, addr_t pad)
{
	struct seen *seen = ctx;

	seen->pads[seen->n++] = pad;
	return seen->n < 8;
}

/* A CIE ("zLR", pcrel sdata4 both), an FDE with an LSDA, and a terminator. */
static const u8 frame[] = {
	0x14, 0, 0, 0, 0, 0, 0, 0, 1, 'z', 'L', 'R', 0, 1, 0x78, 16, 2, 0x1b, 0x1b, 0x0c, 7, 8, 0x90, 1,
	0x18, 0, 0, 0, 0x1c, 0, 0, 0, /* the CIE lies 0x1c bytes before this field */
	0xe0, 0x0f, 0, 0, 0x20, 0, 0, 0, 4, 0xd7, 0x1f, 0, 0, 0x0e, 0x10, 0x41, 0, 0, 0, 0,
	0, 0, 0, 0,
};

START_TEST(an_fde_by_hand)
{
	struct seen seen = {};

	ck_assert(ehframe_walk(frame, sizeof(frame), 0x1000, see_fde, &seen));
	ck_assert_uint_eq(seen.n, 1);
	ck_assert_uint_eq(seen.fdes[0].start, 0x1000 + 32 + 0xfe0);
	ck_assert_uint_eq(seen.fdes[0].size, 0x20);
	ck_assert_uint_eq(seen.fdes[0].lsda, 0x1000 + 41 + 0x1fd7);
	ck_assert(seen.fdes[0].fragment); /* its CFA is rsp + 16 from the start */
}
END_TEST

START_TEST(frames_of_every_length_and_with_every_byte)
{
	u8 copy[sizeof(frame)];

	for (size_t n = 0; n <= sizeof(frame); n++) {
		u8 *exact = malloc(n ? n : 1);
		struct seen seen = {};

		memcpy(exact, frame, n);
		ehframe_walk(exact, n, 0x1000, see_fde, &seen);
		free(exact);
	}
	for (size_t at = 0; at < sizeof(frame); at++) {
		for (int byte = 0; byte < 256; byte++) {
			struct seen seen = {};

			memcpy(copy, frame, sizeof(frame));
			copy[at] = byte;
			ehframe_walk(copy, sizeof(copy), 0x1000, see_fde, &seen);
		}
	}
}
END_TEST

/* No base, no types, uleb128 call sites: {0, 4, pad 0x30, 0}, {4, 4, none, 0}. */
static const u8 lsda[] = { 0xff, 0xff, 0x01, 8, 0, 4, 0x30, 0, 4, 4, 0, 0 };

START_TEST(an_lsda_by_hand)
{
	struct seen seen = {};
	u64 budget = 100;

	ck_assert(lsda_walk(lsda, sizeof(lsda), 0x5000, 0x1000, &budget, see_pad, &seen));
	ck_assert_uint_eq(seen.n, 1);
	ck_assert_uint_eq(seen.pads[0], 0x1030);
	ck_assert_uint_eq(budget, 98);
	/* A budget that is used up ends the walk. */
	budget = 0;
	ck_assert(lsda_walk(lsda, sizeof(lsda), 0x5000, 0x1000, &budget, see_pad, &seen));
	ck_assert_uint_eq(seen.n, 1);
	for (size_t n = 0; n <= sizeof(lsda); n++) {
		u8 *exact = malloc(n ? n : 1);

		memcpy(exact, lsda, n);
		budget = 100;
		seen.n = 0;
		lsda_walk(exact, n, 0x5000, 0x1000, &budget, see_pad, &seen);
		free(exact);
	}
}
END_TEST

START_TEST(leb128)
{
	static const u8 bytes[] = { 0xe5, 0x8e, 0x26, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
				    0x80 };
	struct reader r = reader_at(bytes, sizeof(bytes), 0);

	ck_assert_uint_eq(reader_uleb(&r), 624485);
	ck_assert_int_eq(reader_sleb(&r), -1);
	ck_assert_uint_eq(reader_uleb(&r), ~0ull);
	ck_assert(!r.bad);
	reader_uleb(&r); /* never ends */
	ck_assert(r.bad);
	ck_assert_uint_eq(reader_u64(&r), 0);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("code");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, tiny_code);
	tcase_add_test(tc, relr_cannot_claim_more_places_than_words);
	tcase_add_loop_test(tc, order_and_bounds, 0, ARRAY_SIZE(real_files));
	tcase_add_loop_test(tc, bytes_are_the_files, 0, ARRAY_SIZE(real_files));
	tcase_add_loop_test(tc, restartable_sequences, 0, 4); /* the victims */
	tcase_add_loop_test(tc, fdes_as_readelf_prints_them, 0, ARRAY_SIZE(real_files));
	tcase_add_loop_test(tc, landing_pads, 0, 4);
	tcase_add_loop_test(tc, function_pointers, 0, 4);
	tcase_add_test(tc, stripped_files_have_functions);
	tcase_add_test(tc, an_fde_by_hand);
	tcase_add_test(tc, frames_of_every_length_and_with_every_byte);
	tcase_add_test(tc, an_lsda_by_hand);
	tcase_add_test(tc, leb128);
	return run_case("code", tc);
}
