/* SPDX-License-Identifier: MIT */
/*
 * How many functions of ELF files can be probed, by which tactic, and why the
 * others cannot: shares FILE... One line a file; -v lists the refused ones.
 * What depends on a process (is the address free that a punned jump needs?) is
 * not in here.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elfsym/image.h"
#include "injector/plan.h"

struct counts {
	size_t functions, jump, punned, exits;
	size_t by_len[5];
};

static void count_one(const struct textscan *scan, const struct code_func *f, bool verbose, struct counts *c)
{
	struct func_plan p;
	struct uerr *err = plan_function(scan, f->addr, f->size, f->name, PLAN_ENTRY | PLAN_EXIT, &p);

	c->functions++;
	if (err) {
		if (verbose)
			printf("  %s: %s\n", f->name ? f->name : "?", err->message);
		uerr_free(err);
		return;
	}
	c->jump += p.entry == SITE_JUMP;
	c->punned += p.entry == SITE_PUN;
	c->exits += p.exit == SITE_RET;
	for (size_t i = 0; i < p.nwindows; i++)
		if (p.windows[i].addr == f->addr && p.windows[i].keep)
			c->by_len[p.windows[i].len]++;
	if (verbose && p.entry_reason)
		printf("  %s (%lu bytes at %#lx): %s\n", f->name ? f->name : "?", (long)p.size, (long)f->addr,
		       p.entry_reason);
	func_plan_deinit(&p);
}

static bool count_file(const char *path, bool verbose)
{
	const struct code_image *code;
	struct textscan *scan = NULL;
	struct image *image = NULL;
	struct counts c = {};
	cleanup_uerr struct uerr *err = image_open(path, &image);

	if (!err)
		err = image_code(image, &code);
	if (!err)
		err = textscan_create(code, NULL, &scan);
	if (err) {
		fprintf(stderr, "%s: %s\n", path, err->message);
		return false;
	}
	for (size_t i = 0; i < code->nfuncs; i++)
		if (!(code->funcs[i].flags & CODE_FUNC_FRAGMENT))
			count_one(scan, &code->funcs[i], verbose, &c);
	printf("%s: %zu functions; entry: %zu jump, %zu punned (%zu+%zu+%zu+%zu of 1 to 4 bytes), %zu refused, %.3f %% "
	       "-> %.3f %%; exit: %zu\n",
	       path, c.functions, c.jump, c.punned, c.by_len[1], c.by_len[2], c.by_len[3], c.by_len[4],
	       c.functions - c.jump - c.punned, 100.0 * (double)c.jump / (double)c.functions,
	       100.0 * (double)(c.jump + c.punned) / (double)c.functions, c.exits);
	textscan_destroy(scan);
	image_unref(image);
	return true;
}

int main(int argc, char **argv)
{
	bool verbose = argc > 1 && !strcmp(argv[1], "-v"), ok = argc > 1 + verbose;

	for (int i = 1 + verbose; i < argc; i++)
		ok = count_file(argv[i], verbose) && ok;
	return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
