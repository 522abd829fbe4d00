/* SPDX-License-Identifier: MIT */
/* Lines and inlined functions against addr2line, at addresses all over a program. */
#include "elfsym/lines.h"

#include "support.h"

#define EVERY 7 /* bytes */

/* What addr2line says of ADDR: functions and "file:line"s, innermost first. */
static size_t ask(FILE *in, FILE *out, addr_t addr, char (*names)[256], char (*places)[256], size_t max)
{
	char line[1024], *at;
	size_t n = 0;

	/* an address of no unit marks the end */
	fprintf(in, "%#lx\n0xffffffffffff0000\n", (unsigned long)addr);
	fflush(in);
	while (fgets(line, sizeof(line), out) && strncmp(line, "0xffffffffffff0000", 18)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "0x", 2) || n == max)
			continue;
		snprintf(names[n], 256, "%.255s", line);
		if (!fgets(line, sizeof(line), out))
			break;
		line[strcspn(line, " \n")] = 0;
		at = strrchr(line, '/');
		snprintf(places[n++], 256, "%.255s", at ? at + 1 : line);
	}
	/* the end's own "??" and "??:0" */
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), out));
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), out));
	return n;
}

static pid_t start_addr2line(const char *path, FILE **in, FILE **out)
{
	int to[2], from[2];
	pid_t pid;

	ck_assert_int_eq(pipe(to), 0);
	ck_assert_int_eq(pipe(from), 0);
	pid = fork();
	if (!pid) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		close(to[1]);
		execlp("addr2line", "addr2line", "-a", "-f", "-i", "-e", path, (char *)NULL);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	*in = fdopen(to[1], "w");
	*out = fdopen(from[0], "r");
	return pid;
}

START_TEST(same_as_addr2line)
{
	char names[32][256], places[32][256];
	const struct elf_sym *syms;
	struct image *im = NULL;
	struct lines *l = NULL;
	unsigned compared = 0, inlined = 0;
	FILE *in, *out;
	pid_t pid;
	size_t nsyms;

	ck_ok(image_open(VICTIM_LINES, &im));
	ck_ok(lines_open(im, &l));
	ck_assert_ptr_nonnull(l);
	pid = start_addr2line(VICTIM_LINES, &in, &out);
	nsyms = image_syms(im, &syms);
	for (size_t s = 0; s < nsyms; s++) {
		for (addr_t addr = syms[s].addr; addr < syms[s].addr + syms[s].size; addr += EVERY) {
			struct line_frame ours[32];
			size_t n = lines_find(l, addr, ours, 32);
			size_t want = n ? ask(in, out, addr, names, places, 32) : 0;

			ck_assert_msg(n == want, "%#lx in %s: %zu functions, addr2line has %zu", (long)addr, syms[s].name,
				      n, want);
			for (size_t i = 0; i < n; i++) {
				char place[256];

				snprintf(place, sizeof(place), "%s:%d", ours[i].file, ours[i].line);
				ck_assert_str_eq(ours[i].function, names[i]);
				/* ("?" is a line that nobody knows) */
				if (!strstr(places[i], ":?") && ours[i].line)
					ck_assert_msg(!strcmp(place, places[i]), "%#lx: %s, addr2line has %s", (long)addr,
						      place, places[i]);
				inlined += ours[i].inlined;
				compared++;
				free(ours[i].function);
			}
		}
	}
	ck_assert_uint_gt(compared, 200);
	ck_assert_uint_gt(inlined, 20);
	fclose(in);
	fclose(out);
	waitpid(pid, NULL, 0);
	lines_close(l);
	image_unref(im);
}
END_TEST

/* No DWARF is no failure, nor is an address in nothing. */
START_TEST(without)
{
	struct line_frame ours[4];
	struct image *im = NULL;
	struct lines *l = NULL;

	ck_ok(image_open("/bin/true", &im));
	ck_ok(lines_open(im, &l));
	if (l)
		ck_assert_uint_eq(lines_find(l, 1, ours, 4), 0);
	lines_close(l);
	image_unref(im);
	ck_ok(image_open(VICTIM_LINES, &im));
	ck_ok(lines_open(im, &l));
	ck_assert_uint_eq(lines_find(l, 0xffffffff0000ull, ours, 4), 0);
	lines_close(l);
	image_unref(im);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("lines");

	tcase_add_test(tc, same_as_addr2line);
	tcase_add_test(tc, without);
	return run_case("lines", tc);
}
