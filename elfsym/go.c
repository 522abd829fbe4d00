/* SPDX-License-Identifier: MIT */
/*
 * Which part of an image Go has compiled, and which functions are in it: what its
 * linker says by symbols or, where it is stripped, by its table of functions.
 */
#include <string.h>

#include "base/cleanup.h"
#include "elfsym/image_int.h"

static const struct area *go_area(const struct image *im)
{
	for (size_t i = 0; i < im->nareas; i++)
		if (!strcmp(im->areas[i].name, ".gopclntab") || !strcmp(im->areas[i].name, ".data.rel.ro.gopclntab"))
			return &im->areas[i];
	return NULL;
}

/* Where text begins, for a table that leaves it to a relocation of its word AT; without
 * any it is where the section begins. */
static struct uerr *text_start(const struct image *im, addr_t at, addr_t *ret)
{
	struct uerr *err = NULL;

	for (size_t t = 0; t < im->nrela; t++) {
		cleanup_free void *relas = NULL;
		const Elf64_Rela *r;

		err = image_load(im, im->rela[t], &relas);
		if (err)
			return err;
		r = relas;
		for (size_t i = 0; i < im->rela[t].size / sizeof(*r); i++)
			if (r[i].r_offset == at && ELF64_R_TYPE(r[i].r_info) == R_X86_64_RELATIVE) {
				*ret = (addr_t)r[i].r_addend;
				return NULL;
			}
	}
	for (size_t i = 0; i < im->nareas; i++)
		if (!strcmp(im->areas[i].name, ".text"))
			*ret = im->areas[i].addr;
	return NULL;
}

/* The table in a new buffer; a blob of NULL: there is none that we can read. */
static struct uerr *load_table(const struct image *im, void **blob, struct pclntab *ret)
{
	const struct area *a = go_area(im);
	cleanup_free void *bytes = NULL;
	addr_t text = 0;
	struct uerr *err;
	u64 at;

	*blob = NULL;
	if (!a)
		return NULL;
	err = image_load(im, a->span, &bytes);
	if (err)
		return err;
	at = pclntab_text_offset(bytes, a->span.size);
	if (at)
		err = text_start(im, a->addr + at, &text);
	if (!err && pclntab_parse(bytes, a->span.size, text, ret))
		*blob = steal_ptr(bytes);
	return err;
}

struct uerr *go_functions(const struct image *im, void **blob,
			  struct uerr *(*add)(void *arg, const struct pclntab_func *f), void *arg)
{
	struct pclntab_func f;
	struct pclntab t;
	struct uerr *err = load_table(im, blob, &t);

	for (u64 i = 0; !err && *blob && i < t.n; i++)
		if (pclntab_func(&t, i, &f) && f.end > f.addr && image_in_text(im, f.addr) && image_in_text(im, f.end - 1))
			err = add(arg, &f);
	return err;
}

/* From the table's first function to the end of its last; false when it has none. */
static bool table_text(const struct image *im, addr_t *lo, addr_t *hi)
{
	struct pclntab_func first, last;
	cleanup_free void *blob = NULL;
	cleanup_uerr struct uerr *err = NULL;
	struct pclntab t;

	err = load_table(im, &blob, &t);
	if (err || !blob || !t.n || !pclntab_func(&t, 0, &first) || !pclntab_func(&t, t.n - 1, &last))
		return false;
	*lo = first.addr;
	*hi = last.end;
	return *lo < *hi && image_in_text(im, *lo) && image_in_text(im, *hi - 1);
}

bool image_go_text(const struct image *im, addr_t *lo, addr_t *hi)
{
	const struct elf_sym *first, *end;

	if (!go_area(im))
		return false;
	first = symtab_find_exact(im, "runtime.text", NULL);
	end = symtab_find_exact(im, "runtime.etext", NULL);
	if (first && end && first->addr < end->addr) {
		*lo = first->addr;
		*hi = end->addr;
		return true;
	}
	if (table_text(im, lo, hi))
		return true;
	*lo = ~0ull; /* everything, to be safe */
	*hi = 0;
	for (size_t i = 0; i < im->nareas; i++) {
		const struct area *a = &im->areas[i];

		if (!a->exec)
			continue;
		*lo = a->addr < *lo ? a->addr : *lo;
		*hi = a->addr + a->span.size > *hi ? a->addr + a->span.size : *hi;
	}
	return *lo < *hi;
}

/* Where a variable stands, by the table of all symbols: struct symtab has those of code. 0: unknown. */
static addr_t find_variable(const struct image *im, const char *name)
{
	const struct span *syms = &im->tables[TABLE_SYMTAB], *strs = &im->tables[TABLE_STRTAB];
	size_t n = syms->size / sizeof(Elf64_Sym), len = strlen(name) + 1;
	cleanup_free void *entries = NULL;
	cleanup_free void *text = NULL;
	cleanup_uerr struct uerr *err = image_load(im, *syms, &entries);
	const Elf64_Sym *s = entries;

	if (!err)
		err = image_load(im, *strs, &text);
	for (size_t i = 0; !err && i < n; i++)
		if (ELF64_ST_TYPE(s[i].st_info) == STT_OBJECT && s[i].st_name < strs->size &&
		    strs->size - s[i].st_name >= len && !memcmp((const char *)text + s[i].st_name, name, len))
			return s[i].st_value;
	return 0;
}

bool image_go_runtime(const struct image *im, struct go_runtime *ret)
{
	const struct elf_sym *preempt, *park;
	addr_t list;

	if (!go_area(im))
		return false;
	/* assembly that is called by stack has a name of its own since 1.17, and what it calls a wrapper */
	preempt = symtab_find_exact(im, "runtime.asyncPreempt.abi0", NULL);
	if (!preempt)
		preempt = symtab_find_exact(im, "runtime.asyncPreempt", NULL);
	park = symtab_find_exact(im, "runtime.asyncPreempt2", NULL);
	if (!preempt || !park)
		return false;
	list = find_variable(im, "runtime.allgs");
	if (!list)
		return false;
	*ret = (struct go_runtime){ list, preempt->addr, preempt->addr + preempt->size, park->addr,
				    park->addr + park->size };
	return true;
}
