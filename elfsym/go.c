/* SPDX-License-Identifier: MIT */
/*
 * Which part of an image Go has compiled: where its table of functions is there,
 * what its linker says, or, where it is stripped, everything.
 */
#include <string.h>

#include "elfsym/image_int.h"

static bool has_go_table(const struct image *im)
{
	for (size_t i = 0; i < im->nareas; i++)
		if (!strcmp(im->areas[i].name, ".gopclntab") || !strcmp(im->areas[i].name, ".data.rel.ro.gopclntab"))
			return true;
	return false;
}

bool image_go_text(const struct image *im, addr_t *lo, addr_t *hi)
{
	const struct elf_sym *first, *end;

	if (!has_go_table(im))
		return false;
	first = symtab_find_exact(im, "runtime.text", NULL);
	end = symtab_find_exact(im, "runtime.etext", NULL);
	*lo = first ? first->addr : ~0ull;
	*hi = end ? end->addr : 0;
	if (first && end && *lo < *hi)
		return true;
	for (size_t i = 0; i < im->nareas; i++) {
		const struct area *a = &im->areas[i];

		if (!a->exec)
			continue;
		*lo = a->addr < *lo ? a->addr : *lo;
		*hi = a->addr + a->span.size > *hi ? a->addr + a->span.size : *hi;
	}
	return *lo < *hi;
}
