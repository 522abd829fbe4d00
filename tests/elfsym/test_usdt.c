/* SPDX-License-Identifier: MIT */
/* USDT notes that a small file is made to have, argument strings, and files that
 * are damaged in their notes. */
#include "base/target_abi.h"
#include "elfsym/usdt.h"
#include "tests/elfsym/support.h"
#include "tests/elfsym/tiny_elf.h"

/* tiny_elf with notes behind it; what its .relr and .rela were become the notes
 * and .stapsdt.base. */
struct noted {
	struct tiny_elf t;
	u8 notes[512];
	size_t used;
};

#define NO_SEMA 0
#define BASE_MOVED 0x40 /* since the notes were written */

static void noted_make(struct noted *n)
{
	struct tiny_elf *t = &n->t;

	memset(n, 0, sizeof(*n));
	tiny_make(t);
	t->sh[TINY_RELR] = (Elf64_Shdr){ .sh_name = tiny_string(t->shstrtab, ".note.stapsdt"), .sh_type = SHT_NOTE,
					 .sh_offset = offsetof(struct noted, notes) };
	t->sh[TINY_RELA].sh_name = tiny_string(t->shstrtab, ".stapsdt.base");
	t->sh[TINY_RELA].sh_type = SHT_PROGBITS;
}

static void put(struct noted *n, const void *bytes, size_t size)
{
	memcpy(n->notes + n->used, bytes, size);
	n->used += size;
	n->t.sh[TINY_RELR].sh_size = n->used;
}

/* STRINGS: provider, name and arguments, each with its NUL, SIZE bytes. */
static void add_note(struct noted *n, u64 addr, u64 base, u64 sema, const char *strings, size_t size)
{
	Elf64_Nhdr head = { 8, 24 + size, 3 };
	u64 addrs[3] = { addr, base, sema };

	put(n, &head, sizeof(head));
	put(n, "stapsdt", 8);
	put(n, addrs, sizeof(addrs));
	put(n, strings, size);
	put(n, "\0\0\0", -size & 3);
}

#define NOTE(n, addr, base, sema, strings) add_note(n, addr, base, sema, strings, sizeof(strings))

static struct image *noted_open(const struct noted *n, const struct usdt_probe **probes, size_t *count)
{
	int fd = memfd_of(n, sizeof(*n));
	struct image *im;

	ck_ok(image_open_fd(fd, "noted", &im));
	close(fd);
	ck_ok(image_usdts(im, probes, count));
	return im;
}

START_TEST(notes_are_read)
{
	addr_t text = TINY_OFF(text), data = TINY_OFF(data), base = TINY_OFF(rela);
	const struct usdt_probe *p;
	struct noted n;
	struct image *im;
	size_t count;

	noted_make(&n);
	NOTE(&n, text + 8, base, data + 16, "b\0two\0-4@%eax 8@$5");
	NOTE(&n, text + 4, base, NO_SEMA, "b\0two\0");
	NOTE(&n, text + 1 - BASE_MOVED, base - BASE_MOVED, data - BASE_MOVED, "a\0moved\0:");
	NOTE(&n, data, base, NO_SEMA, "b\0not_in_text\0");
	NOTE(&n, text, base, text, "b\0sema_in_text\0");
	NOTE(&n, text, base, data + 1, "b\0sema_odd\0");
	NOTE(&n, text, 0, NO_SEMA, "c\0no_base\0");
	im = noted_open(&n, &p, &count);
	ck_assert_uint_eq(count, 7);
	ck_assert_str_eq(p[0].provider, "a");
	ck_assert_str_eq(p[0].name, "moved");
	ck_assert_str_eq(p[0].args, "");
	ck_assert_uint_eq(p[0].addr, text + 1);
	ck_assert_uint_eq(p[0].sema, data);
	ck_assert_ptr_null(p[0].refusal);
	ck_assert_ptr_nonnull(strstr(p[1].refusal, "outside of the code"));
	ck_assert_ptr_nonnull(strstr(p[2].refusal, "semaphore"));
	ck_assert_ptr_nonnull(strstr(p[3].refusal, "semaphore"));
	ck_assert_uint_eq(p[4].addr, text + 4);
	ck_assert_uint_eq(p[4].sema, 0);
	ck_assert_uint_eq(p[5].addr, text + 8);
	ck_assert_uint_eq(p[5].sema, data + 16);
	ck_assert_str_eq(p[5].args, "-4@%eax 8@$5");
	ck_assert_str_eq(p[6].name, "no_base");
	ck_assert_ptr_null(p[6].refusal);
	image_unref(im);
	image_cache_drop();
}
END_TEST

/* A note that is cut off anywhere, or whose strings do not end. */
START_TEST(damaged_notes)
{
	const struct usdt_probe *p;
	struct image *im;
	struct noted n;
	size_t count, whole;

	noted_make(&n);
	NOTE(&n, TINY_OFF(text), 0, NO_SEMA, "p\0one\0x"); /* ends without padding */
	whole = n.used;
	NOTE(&n, TINY_OFF(text) + 8, 0, NO_SEMA, "p\0two\0x");
	for (size_t cut = 0; cut < n.used; cut++) {
		n.t.sh[TINY_RELR].sh_size = cut;
		im = noted_open(&n, &p, &count);
		ck_assert_uint_eq(count, cut >= whole ? 1 : 0);
		image_unref(im);
		image_cache_drop();
	}
	for (size_t at = 0; at < n.used; at++) {
		struct noted broken = n;

		broken.t.sh[TINY_RELR].sh_size = n.used;
		broken.notes[at] = 0xff;
		im = noted_open(&broken, &p, &count);
		ck_assert_uint_le(count, 2);
		for (size_t i = 0; i < count; i++) {
			struct usdt_args args;

			ck_assert(*p[i].provider && *p[i].name);
			uerr_free(usdt_args_parse(p[i].args, &args));
		}
		image_unref(im);
		image_cache_drop();
	}
}
END_TEST

START_TEST(a_section_outside_the_file)
{
	const struct usdt_probe *p;
	struct image *im;
	struct noted n;
	size_t count;
	int fd;

	noted_make(&n);
	n.t.sh[TINY_RELR].sh_size = 1 << 20;
	fd = memfd_of(&n, sizeof(n));
	ck_ok(image_open_fd(fd, "noted", &im));
	close(fd);
	ck_fails(image_usdts(im, &p, &count), UERR_FAILED, "outside the file");
	image_unref(im);
	image_cache_drop();
}
END_TEST

#define R(field) offsetof(struct target_regs, field)

static const struct {
	const char *text;
	struct usdt_arg want;
} good[] = {
	{ "8@%rax", { USDT_REG, 8, false, 0, R(ax), 0, 0 } },
	{ "-8@%rdi", { USDT_REG, 8, true, 0, R(di), 0, 0 } },
	{ "4@%eax", { USDT_REG, 4, false, 0, R(ax), 0, 0 } },
	{ "-4@%r8d", { USDT_REG, 4, true, 0, R(r8), 0, 0 } },
	{ "2@%r15w", { USDT_REG, 2, false, 0, R(r15), 0, 0 } },
	{ "-2@%bp", { USDT_REG, 2, true, 0, R(bp), 0, 0 } },
	{ "1@%sil", { USDT_REG, 1, false, 0, R(si), 0, 0 } },
	{ "-1@%r10b", { USDT_REG, 1, true, 0, R(r10), 0, 0 } },
	{ "8@%rip", { USDT_REG, 8, false, 0, R(ip), 0, 0 } },
	{ "4@$0", { USDT_CONST, 4, false, 0, 0, 0, 0 } },
	{ "-4@$-9", { USDT_CONST, 4, true, 0, 0, 0, -9 } },
	{ "8@$18446744073709551615", { USDT_CONST, 8, false, 0, 0, 0, -1 } },
	{ "-8@$-9223372036854775808", { USDT_CONST, 8, true, 0, 0, 0, INT64_MIN } },
	{ "8@(%rsp)", { USDT_REG_DEREF, 8, false, 0, R(sp), 0, 0 } },
	{ "-4@-1204(%rbp)", { USDT_REG_DEREF, 4, true, 0, R(bp), 0, -1204 } },
	{ "2@16(%r12)", { USDT_REG_DEREF, 2, false, 0, R(r12), 0, 16 } },
	{ "1@-96(%rbp,%rax,8)", { USDT_SIB, 1, false, 3, R(bp), R(ax), -96 } },
	{ "8@(%rdi,%rdx,4)", { USDT_SIB, 8, false, 2, R(di), R(dx), 0 } },
	{ "-2@(%rsi,%r9,2)", { USDT_SIB, 2, true, 1, R(si), R(r9), 0 } },
	{ "8@7(%rbx,%r11)", { USDT_SIB, 8, false, 0, R(bx), R(r11), 7 } },
	{ " 8 @ %rax ", { 0 } }, /* refused: no blank before the @ */
};

START_TEST(arguments_are_decoded)
{
	const struct usdt_arg *want = &good[_i].want;
	struct usdt_args args;

	if (!want->size) {
		ck_fails(usdt_args_parse(good[_i].text, &args), UERR_CANNOT_PROBE, "argument 1");
		return;
	}
	ck_ok(usdt_args_parse(good[_i].text, &args));
	ck_assert_uint_eq(args.n, 1);
	ck_assert_int_eq(args.arg[0].kind, want->kind);
	ck_assert_uint_eq(args.arg[0].size, want->size);
	ck_assert_int_eq(args.arg[0].is_signed, want->is_signed);
	ck_assert_uint_eq(args.arg[0].scale_shift, want->scale_shift);
	ck_assert_uint_eq(args.arg[0].reg, want->reg);
	ck_assert_uint_eq(args.arg[0].index, want->index);
	ck_assert_int_eq(args.arg[0].value, want->value);
}
END_TEST

static const struct {
	const char *text, *message;
} bad[] = {
	{ "8@%xmm0", "its argument 1, '8@%xmm0', is a register that programs cannot see" },
	{ "1@%ah", "a register that programs cannot see" },
	{ "8@%fs:16", "a register that programs cannot see" },
	{ "8@global(%rip)", "a variable by its name" },
	{ "4@global", "a variable by its name" },
	{ "8f@%xmm1", "a floating-point number" },
	{ "3@%eax", "a size that is not 1, 2, 4 or 8" },
	{ "16@%rax", "a size that is not" },
	{ "0@%rax", "a size that is not" },
	{ "%rax", "not a number" },
	{ "8%rax", "no size" },
	{ "8@", "a variable by its name" },
	{ "8@$", "not a number" },
	{ "8@$x", "not a number" },
	{ "8@$99999999999999999999", "more than 64 bits" },
	{ "8@$1x", "something behind its end" },
	{ "8@(%rax", "no closing parenthesis" },
	{ "8@(%rax,)", "no register where one must be" },
	{ "8@(,%rax,8)", "an address without a base register" },
	{ "8@(%rax,%rbx,3)", "a scale that is not" },
	{ "8@(%rax,%rbx,)", "not a number" },
	{ "8@()", "no register" },
	{ "8@8@%rax", "a variable by its name" },
	{ "4@%eax 8@%mm0", "its argument 2, '8@%mm0', is" },
	{ "1@$1 1@$1 1@$1 1@$1 1@$1 1@$1 1@$1 1@$1 1@$1 1@$1 1@$1 1@$1 1@$1", "more than 12 arguments" },
};

START_TEST(arguments_are_refused)
{
	struct usdt_args args;

	ck_fails(usdt_args_parse(bad[_i].text, &args), UERR_CANNOT_PROBE, bad[_i].message);
}
END_TEST

START_TEST(several_arguments)
{
	struct usdt_args args;

	ck_ok(usdt_args_parse("", &args));
	ck_assert_uint_eq(args.n, 0);
	ck_ok(usdt_args_parse("1@$1 1@$2 1@$3 1@$4 1@$5 1@$6 1@$7 1@$8 1@$9 1@$10 1@$11 1@$12", &args));
	ck_assert_uint_eq(args.n, 12);
	for (u32 i = 0; i < args.n; i++)
		ck_assert_int_eq(args.arg[i].value, i + 1);
	ck_ok(usdt_args_parse("  -4@%edi\t8@-16(%rbp)  ", &args));
	ck_assert_uint_eq(args.n, 2);
	ck_assert(args.arg[1].len == 9 && !memcmp(args.arg[1].text, "-16(%rbp)", 9));
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("usdt");

	tcase_add_test(tc, notes_are_read);
	tcase_add_test(tc, damaged_notes);
	tcase_add_test(tc, a_section_outside_the_file);
	tcase_add_loop_test(tc, arguments_are_decoded, 0, ARRAY_SIZE(good));
	tcase_add_loop_test(tc, arguments_are_refused, 0, ARRAY_SIZE(bad));
	tcase_add_test(tc, several_arguments);
	return run_case("usdt", tc);
}
