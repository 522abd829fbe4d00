/* SPDX-License-Identifier: MIT */
/* Opening: what is refused and why, segments, build-ids, the cache, and files
 * that are damaged in every way we can think of. */
#include <errno.h>

#include "elfsym/procmaps.h"
#include "elfsym/usdt.h"
#include "tests/elfsym/support.h"
#include "tests/elfsym/tiny_elf.h"

/* Everything that reads a file; only crashes count. */
static void use_all(struct image *im)
{
	const char *near[8];
	const struct elf_sym *syms, *found[4];
	const struct code_image *code;
	const struct usdt_probe *probes;
	size_t n = image_syms(im, &syms);
	u8 buf[64];
	u64 off;

	for (size_t i = 0; i < n; i++)
		image_find_addr(im, syms[i].addr + 1);
	image_find(im, "victim_add", found, 4);
	image_find(im, "victim_add@V1", found, 4);
	image_find(im, "ns::f", found, 4);
	image_near(im, "victim_ad", near, 8);
	image_addr_to_off(im, image_entry(im), &off);
	uerr_free(image_read(im, image_entry(im), buf, sizeof(buf)));
	uerr_free(image_code(im, &code));
	uerr_free(image_usdts(im, &probes, &n));
}

static void open_and_use(const void *bytes, size_t size)
{
	int fd = memfd_of(bytes, size);
	struct image *im;
	struct uerr *err = image_open_fd(fd, "damaged", &im);

	close(fd);
	if (err) {
		ck_assert_msg(strstr(err->message, "damaged") == err->message, "%s", err->message);
		uerr_free(err);
		return;
	}
	use_all(im);
	image_unref(im);
	image_cache_drop();
}

START_TEST(tiny_is_understood)
{
	struct tiny_elf t;
	struct image *im;
	const struct elf_sym *syms;
	addr_t addr;
	u64 off;
	int fd;

	tiny_make(&t);
	fd = memfd_of(&t, sizeof(t));
	ck_ok(image_open_fd(fd, "tiny", &im));
	ck_assert_str_eq(image_name(im), "tiny");
	ck_assert_str_eq(image_build_id(im), "abcd0102");
	ck_assert(image_is_pie(im));
	ck_assert(image_has_symtab(im));
	ck_assert_uint_eq(image_entry(im), TINY_OFF(text));
	ck_assert_uint_eq(image_syms(im, &syms), 4);
	ck_assert_str_eq(syms[0].name, "f");
	ck_assert(syms[0].dynamic && syms[0].global);
	ck_assert_str_eq(syms[1].name, "g");
	ck_assert_str_eq(syms[1].version, "V2");
	ck_assert(syms[1].default_version);
	ck_assert_int_eq(syms[1].type, ELF_SYM_IFUNC);
	ck_assert_int_eq(syms[2].type, ELF_SYM_NOTYPE);
	ck_assert(image_addr_to_off(im, TINY_OFF(data) + 3, &off) && off == TINY_OFF(data) + 3);
	ck_assert(!image_addr_to_off(im, TINY_OFF(data) + sizeof(t.data), &off)); /* .bss has no offset */
	ck_assert(image_off_to_addr(im, TINY_OFF(text), &addr) && addr == TINY_OFF(text));
	ck_assert(!image_off_to_addr(im, sizeof(t) - 1, &addr));
	image_unref(im);
	image_cache_drop();
	close(fd);
}
END_TEST

START_TEST(bss_reads_as_zeros)
{
	struct tiny_elf t;
	struct image *im;
	u8 buf[16];
	int fd;

	tiny_make(&t);
	memset(&t.data[71], 0x11, 8);
	fd = memfd_of(&t, sizeof(t));
	ck_ok(image_open_fd(fd, "tiny", &im));
	memset(buf, 0xff, sizeof(buf));
	ck_ok(image_read(im, TINY_OFF(data) + sizeof(t.data) - 8, buf, 16));
	ck_assert_int_eq(memcmp(buf, "\x11\x11\x11\x11\x11\x11\x11\x11\0\0\0\0\0\0\0\0", 16), 0);
	ck_fails(image_read(im, TINY_OFF(data) + sizeof(t.data), buf, 65), UERR_FAILED, "nothing is loaded");
	ck_fails(image_read(im, ~0ull - 3, buf, 16), UERR_FAILED, "nothing is loaded");
	image_unref(im);
	image_cache_drop();
	close(fd);
}
END_TEST

#define FIELD(member) TINY_OFF(member), sizeof(((struct tiny_elf *)0)->member)

static const struct {
	size_t off, size;
	u64 value;
	const char *message;
} damages[] = {
	{ FIELD(eh.e_ident[0]), 'x', "not an ELF file" },
	{ FIELD(eh.e_ident[EI_CLASS]), ELFCLASS32, "32-bit" },
	{ FIELD(eh.e_ident[EI_DATA]), ELFDATA2MSB, "only x86-64" },
	{ FIELD(eh.e_machine), EM_AARCH64, "for aarch64 (e_machine 183)" },
	{ FIELD(eh.e_type), ET_REL, "neither a program nor a shared library" },
	{ FIELD(eh.e_type), ET_CORE, "neither a program nor a shared library" },
	{ FIELD(eh.e_phnum), 1000, "program headers" },
	{ FIELD(eh.e_phoff), 1ull << 60, "program headers" },
	{ FIELD(eh.e_phentsize), 8, "program headers" },
	{ FIELD(eh.e_phnum), 0, "no loadable segment" },
	{ FIELD(eh.e_shnum), 1000, "section headers" },
	{ FIELD(eh.e_shoff), ~0ull, "section headers" },
	{ FIELD(eh.e_shentsize), 1, "section headers" },
	{ FIELD(ph[0].p_filesz), 1 << 20, "truncated: segment 0" },
	{ FIELD(ph[0].p_offset), ~0ull << 12, "truncated: segment 0" },
	{ FIELD(ph[0].p_memsz), 1, "segment 0 cannot be loaded" },
	{ FIELD(ph[0].p_memsz), ~0ull, "segment 0 cannot be loaded" },
	{ FIELD(ph[0].p_memsz), PAGE, "segment 1 overlaps" },
	{ FIELD(ph[0].p_vaddr), 8, "segment 0 cannot be loaded" },
	{ FIELD(sh[TINY_TEXT].sh_size), 1ull << 40, "section .text lies outside" },
	{ FIELD(sh[TINY_TEXT].sh_offset), ~0ull, "section .text lies outside" },
	{ FIELD(sh[TINY_TEXT].sh_size), 100, "sections .text and .data overlap" },
	{ FIELD(sh[TINY_SYMTAB].sh_size), ~0ull, "section .symtab lies outside" },
	{ FIELD(sh[TINY_SYMTAB].sh_entsize), 0, "section .symtab" },
	{ FIELD(sh[TINY_SYMTAB].sh_link), 77, "section .symtab" },
	{ FIELD(sh[TINY_SYMTAB].sh_link), TINY_TEXT, "section .symtab" },
	{ FIELD(sh[TINY_RELA].sh_offset), 1 << 30, "outside" },
};

START_TEST(damage_is_named)
{
	struct tiny_elf t;
	struct image *im;
	int fd;

	tiny_make(&t);
	memcpy((u8 *)&t + damages[_i].off, &damages[_i].value, damages[_i].size);
	fd = memfd_of(&t, sizeof(t));
	ck_fails(image_open_fd(fd, "some/file", &im), UERR_FAILED, damages[_i].message);
	ck_fails(image_open_fd(fd, "some/file", &im), UERR_FAILED, "some/file: ");
	close(fd);
}
END_TEST

/* Sections that do not overlap in memory can still be the same bytes many times. */
START_TEST(sections_share_no_bytes)
{
	struct tiny_elf t;
	struct image *im;
	int fd;

	tiny_make(&t);
	t.sh[TINY_DATA].sh_offset = 0;
	t.sh[TINY_DATA].sh_size = sizeof(t);
	fd = memfd_of(&t, sizeof(t));
	ck_fails(image_open_fd(fd, "tiny", &im), UERR_FAILED, "share bytes");
	close(fd);
}
END_TEST

/* A page of the file can be mapped as code and as data: an offset means the code. */
START_TEST(code_wins_an_offset)
{
	struct tiny_elf t;
	struct image *im;
	addr_t addr;
	int fd;

	tiny_make(&t);
	t.ph[1].p_offset = TINY_OFF(text);
	t.ph[1].p_vaddr = 4 * PAGE + TINY_OFF(text);
	fd = memfd_of(&t, sizeof(t));
	ck_ok(image_open_fd(fd, "tiny", &im));
	ck_assert(image_off_to_addr(im, TINY_OFF(text) + 1, &addr) && addr == TINY_OFF(text) + 1);
	ck_assert(image_off_to_addr(im, TINY_OFF(data) + 1, &addr) && addr == 4 * PAGE + TINY_OFF(data) + 1);
	image_unref(im);
	image_cache_drop();
	close(fd);
}
END_TEST

START_TEST(symbols_that_lie_are_dropped)
{
	struct tiny_elf t;
	struct image *im;
	const struct elf_sym *syms;
	const struct code_image *code;
	int fd;

	tiny_make(&t);
	t.symtab[1].st_name = 0x7fffffff;
	t.dynsym[1].st_value = ~0ull;
	t.symtab[2].st_size = ~0ull;
	t.symtab[3].st_shndx = 0x7fff;
	fd = memfd_of(&t, sizeof(t));
	ck_ok(image_open_fd(fd, "tiny", &im));
	ck_assert_uint_eq(image_syms(im, &syms), 3);
	ck_assert_str_eq(syms[0].name, "g");
	ck_assert_ptr_eq(image_find_addr(im, syms[0].addr + 4), &syms[0]);
	ck_ok(image_code(im, &code));
	for (size_t i = 0; i < code->nfuncs; i++)
		ck_assert_uint_le(code->funcs[i].size, 64);
	image_unref(im);
	image_cache_drop();
	close(fd);
}
END_TEST

START_TEST(strings_need_no_end)
{
	struct tiny_elf t;

	tiny_make(&t);
	memset(t.strtab, 'a', sizeof(t.strtab));
	memset(t.shstrtab, 'b', sizeof(t.shstrtab));
	open_and_use(&t, sizeof(t));
}
END_TEST

START_TEST(tiny_of_every_length)
{
	struct tiny_elf t;

	tiny_make(&t);
	for (size_t size = 0; size < sizeof(t); size++)
		open_and_use(&t, size);
}
END_TEST

/* A real file cut off at every header and around every section. */
START_TEST(real_of_every_interesting_length)
{
	size_t size, step;
	u8 *bytes = read_file(VICTIM_LIB, &size);

	for (size_t cut = 0; cut < size; cut += step) {
		step = cut < 1024 || cut > size - 3000 ? 16 : 509;
		open_and_use(bytes, cut);
	}
	free(bytes);
}
END_TEST

static void flip_rounds(const u8 *bytes, size_t size, unsigned rounds, unsigned seed)
{
	u8 *copy = malloc(size);
	unsigned short state[3] = { seed, 0x1234, 0x330e };

	for (unsigned i = 0; i < rounds; i++) {
		unsigned flips = 1 + nrand48(state) % 8;

		memcpy(copy, bytes, size);
		while (flips--) {
			size_t at = nrand48(state) % size;

			/* Headers at either end are where it hurts. */
			if (nrand48(state) % 2)
				at = nrand48(state) % 2 ? at % 1024 : size - 1 - at % 2500;
			if (at >= size)
				at = size - 1;
			copy[at] = nrand48(state) % 3 ? nrand48(state) : (nrand48(state) % 2 ? 0xff : 0);
		}
		open_and_use(copy, size);
	}
	free(copy);
}

START_TEST(random_bytes_in_tiny)
{
	struct tiny_elf t;

	tiny_make(&t);
	flip_rounds((u8 *)&t, sizeof(t), 4000, 1);
}
END_TEST

START_TEST(random_bytes_in_real)
{
	size_t size;
	u8 *bytes = read_file(VICTIM_LIB, &size);

	flip_rounds(bytes, size, 1500, 2);
	free(bytes);
}
END_TEST

/* Without section headers, everything is found through the dynamic section. */
START_TEST(no_section_headers)
{
	size_t size;
	u8 *bytes = read_file(VICTIM_LIB, &size);
	const struct elf_sym *found[4];
	const struct code_image *code;
	struct image *im, *whole;
	Elf64_Ehdr *eh = (Elf64_Ehdr *)bytes;
	unsigned fdes = 0;
	int fd;

	eh->e_shoff = 0;
	eh->e_shnum = eh->e_shstrndx = 0;
	fd = memfd_of(bytes, size);
	ck_ok(image_open_fd(fd, "bare", &im));
	ck_ok(image_open(VICTIM_LIB, &whole));
	ck_assert(!image_has_symtab(im));
	ck_assert_uint_eq(image_find(im, "victim_add", found, 4), 1);
	ck_assert(found[0]->dynamic);
	ck_assert_str_eq(image_build_id(im), image_build_id(whole));
	ck_ok(image_code(im, &code));
	for (size_t i = 0; i < code->nmarks; i++)
		fdes += !!(code->marks[i].kinds & CODE_MARK_FDE);
	ck_assert_uint_gt(fdes, 5);
	image_unref(im);
	image_unref(whole);
	image_cache_drop();
	close(fd);
	free(bytes);
}
END_TEST

START_TEST(no_file_no_image)
{
	struct image *im;

	ck_fails(image_open("/nonexistent/x", &im), UERR_FAILED, "/nonexistent/x: No such file");
	ck_fails(image_open("/etc", &im), UERR_FAILED, "/etc: Is a directory");
	ck_fails(image_open("/dev/null", &im), UERR_FAILED, "/dev/null: not a regular file");
	ck_fails(image_open("/etc/passwd", &im), UERR_FAILED, "/etc/passwd: not an ELF file");
}
END_TEST

START_TEST(cache_gives_the_same_image)
{
	struct image *a, *b, *c;
	const char *link = "/proc/self/exe";

	ck_ok(image_open(link, &a));
	ck_ok(image_open(link, &b));
	ck_assert_ptr_eq(a, b);
	image_cache_drop();
	ck_ok(image_open(link, &c));
	ck_assert_ptr_ne(a, c);
	ck_assert_uint_eq(image_ino(a), image_ino(c));
	image_unref(a);
	image_unref(b);
	image_unref(c);
	image_unref(NULL);
	image_cache_drop();
}
END_TEST

/* A file that is written to is another image, even within the same second. */
START_TEST(cache_sees_a_new_version)
{
	struct image *a, *b;
	struct tiny_elf t;
	int fd;

	tiny_make(&t);
	fd = memfd_of(&t, sizeof(t));
	ck_assert_int_eq(futimens(fd, (struct timespec[]){ { 1, 0 }, { 1, 0 } }), 0);
	ck_ok(image_open_fd(fd, "tiny", &a));
	ck_assert_int_eq(futimens(fd, (struct timespec[]){ { 1, 0 }, { 1, 1 } }), 0);
	ck_ok(image_open_fd(fd, "tiny", &b));
	ck_assert_ptr_ne(a, b);
	image_unref(a);
	image_unref(b);
	image_cache_drop();
	close(fd);
}
END_TEST

START_TEST(shrinking_file_is_an_error)
{
	struct tiny_elf t;
	struct image *im;
	u8 buf[8];
	int fd;

	tiny_make(&t);
	fd = memfd_of(&t, sizeof(t));
	ck_ok(image_open_fd(fd, "tiny", &im));
	ck_assert_int_eq(ftruncate(fd, 64), 0);
	ck_fails(image_read(im, TINY_OFF(text), buf, 8), UERR_FAILED, "has become shorter");
	use_all(im);
	image_unref(im);
	image_cache_drop();
	close(fd);
}
END_TEST

static const char *const real_files[] = { LIBC, VICTIM_PIE, VICTIM_NOPIE, VICTIM_STATIC, VICTIM_LIB };

START_TEST(build_id_as_readelf_prints_it)
{
	char command[PATH_MAX + 64], line[128] = "";
	struct image *im;
	FILE *f;

	snprintf(command, sizeof(command), "readelf -n %s | sed -n 's/ *Build ID: //p'", real_files[_i]);
	f = popen(command, "r");
	ck_assert_ptr_nonnull(f);
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), f));
	pclose(f);
	line[strcspn(line, "\n")] = '\0';
	ck_ok(image_open(real_files[_i], &im));
	ck_assert_str_eq(image_build_id(im), line);
	image_unref(im);
	image_cache_drop();
}
END_TEST

START_TEST(addresses_and_offsets_round_trip)
{
	const struct elf_sym *syms;
	struct image *im;
	size_t n;

	ck_ok(image_open(real_files[_i], &im));
	n = image_syms(im, &syms);
	ck_assert_uint_gt(n, 10);
	for (size_t i = 0; i < n; i++) {
		addr_t back;
		u64 off;

		ck_assert(image_addr_to_off(im, syms[i].addr, &off));
		ck_assert(image_off_to_addr(im, off, &back));
		ck_assert_uint_eq(back, syms[i].addr);
	}
	image_unref(im);
	image_cache_drop();
}
END_TEST

/* Where there is no map_files, a path is believed only if it is the file that is mapped. */
START_TEST(another_file_is_not_what_was_mapped)
{
	static const int ways[] = { O_RDONLY, O_PATH };
	struct procmap map = { .start = PAGE, .end = 2 * PAGE, .path = VICTIM_LIB };
	int how = ways[_i], fd;
	struct stat st, got;

	ck_assert_int_eq(stat(VICTIM_LIB, &st), 0);
	map.dev = st.st_dev;
	map.ino = st.st_ino;
	fd = image_open_mapped(getpid(), &map, how);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFL) & (O_PATH | O_ACCMODE), how);
	ck_assert(!fstat(fd, &got) && got.st_ino == st.st_ino);
	close(fd);
	map.ino++;
	ck_assert_int_eq(image_open_mapped(getpid(), &map, how), -ESTALE);
	map.deleted = true;
	ck_assert_int_lt(image_open_mapped(getpid(), &map, how), 0);
	map = (struct procmap){ .start = PAGE, .end = 2 * PAGE, .path = "/dev/null" };
	ck_assert_int_eq(image_open_mapped(getpid(), &map, how), -EINVAL);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("image");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, tiny_is_understood);
	tcase_add_test(tc, bss_reads_as_zeros);
	tcase_add_loop_test(tc, damage_is_named, 0, ARRAY_SIZE(damages));
	tcase_add_test(tc, sections_share_no_bytes);
	tcase_add_test(tc, code_wins_an_offset);
	tcase_add_test(tc, symbols_that_lie_are_dropped);
	tcase_add_test(tc, strings_need_no_end);
	tcase_add_test(tc, tiny_of_every_length);
	tcase_add_test(tc, real_of_every_interesting_length);
	tcase_add_test(tc, random_bytes_in_tiny);
	tcase_add_test(tc, random_bytes_in_real);
	tcase_add_test(tc, no_section_headers);
	tcase_add_test(tc, no_file_no_image);
	tcase_add_test(tc, cache_gives_the_same_image);
	tcase_add_test(tc, cache_sees_a_new_version);
	tcase_add_test(tc, shrinking_file_is_an_error);
	tcase_add_loop_test(tc, build_id_as_readelf_prints_it, 0, ARRAY_SIZE(real_files));
	tcase_add_loop_test(tc, addresses_and_offsets_round_trip, 0, ARRAY_SIZE(real_files));
	tcase_add_loop_test(tc, another_file_is_not_what_was_mapped, 0, 2);
	return run_case("image", tc);
}
