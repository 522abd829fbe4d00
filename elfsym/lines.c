/* SPDX-License-Identifier: MIT */
/* Lines and inlined functions by libdw; see lines.h. */
#include "elfsym/lines.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "elfsym/image_int.h"

#define UNITS_MAX 1000000u

/* Where a unit's code is, for compilers that make no .debug_aranges. */
struct unit_range {
	Dwarf_Addr lo, hi;
	Dwarf_Off die;
};

struct lines {
	int fd;
	Dwarf *dw;
	VEC(struct unit_range) ranges; /* by address, if there are no aranges */
};

static int range_cmp(const void *a, const void *b)
{
	const struct unit_range *x = a, *y = b;

	return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static bool has_aranges(Dwarf *dw)
{
	Dwarf_Aranges *aranges = NULL;
	size_t n = 0;

	return !dwarf_getaranges(dw, &aranges, &n) && n;
}

static bool find_ranges(struct lines *l)
{
	Dwarf_CU *cu = NULL;
	Dwarf_Die die;
	size_t units = 0;

	while (units++ < UNITS_MAX && !dwarf_get_units(l->dw, cu, &cu, NULL, NULL, &die, NULL)) {
		Dwarf_Addr base, lo, hi;
		ptrdiff_t off = 0;

		while ((off = dwarf_ranges(&die, off, &base, &lo, &hi)) > 0)
			if (lo < hi && !vec_push(&l->ranges, (struct unit_range){ lo, hi, dwarf_dieoffset(&die) }))
				return false;
	}
	if (l->ranges.n)
		qsort(l->ranges.data, l->ranges.n, sizeof(*l->ranges.data), range_cmp);
	return true;
}

struct uerr *lines_open(struct image *im, struct lines **ret)
{
	const char *path = image_debug_path(im);
	struct lines *l = calloc(1, sizeof(*l));

	*ret = NULL;
	if (!l)
		return uerr_nomem();
	l->fd = path ? image_open_regular(path) : fcntl(im->fd, F_DUPFD_CLOEXEC, 0);
	l->dw = l->fd >= 0 ? dwarf_begin(l->fd, DWARF_C_READ) : NULL;
	if (!l->dw) { /* no DWARF, or none that libdw understands */
		lines_close(l);
		return NULL;
	}
	if (!has_aranges(l->dw) && !find_ranges(l)) {
		lines_close(l);
		return uerr_nomem();
	}
	*ret = l;
	return NULL;
}

void lines_close(struct lines *l)
{
	if (!l)
		return;
	if (l->dw)
		dwarf_end(l->dw);
	if (l->fd >= 0)
		close(l->fd);
	vec_free(&l->ranges);
	free(l);
}

static bool find_unit(struct lines *l, addr_t addr, Dwarf_Die *ret)
{
	size_t lo = 0, hi = l->ranges.n;

	if (!l->ranges.n)
		return dwarf_addrdie(l->dw, addr, ret);
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (l->ranges.data[mid].lo <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && addr < l->ranges.data[lo - 1].hi && dwarf_offdie(l->dw, l->ranges.data[lo - 1].die, ret);
}

static const char *base_name(const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	return slash ? slash + 1 : path;
}

/* As SPECs have it: the qualified name without parameters. */
static char *function_name(Dwarf_Die *die)
{
	Dwarf_Attribute attr;
	const char *linkage = dwarf_formstring(dwarf_attr_integrate(die, DW_AT_linkage_name, &attr));
	const char *name = dwarf_diename(die);
	char *path = linkage ? demangle_path(linkage) : NULL;

	return path ? path : name ? strdup(name) : NULL;
}

/* Where an inlined function was called. */
static void call_place(Dwarf_Die *unit, Dwarf_Die *scope, struct line_frame *f)
{
	Dwarf_Attribute attr;
	Dwarf_Files *files;
	Dwarf_Word v;
	size_t n;

	f->file = NULL;
	f->line = 0;
	if (!dwarf_formudata(dwarf_attr(scope, DW_AT_call_file, &attr), &v) &&
	    !dwarf_getsrcfiles(unit, &files, &n) && v < n)
		f->file = base_name(dwarf_filesrc(files, v, NULL, NULL));
	if (!dwarf_formudata(dwarf_attr(scope, DW_AT_call_line, &attr), &v))
		f->line = (int)v;
}

static size_t take_scopes(Dwarf_Die *unit, addr_t addr, struct line_frame at, struct line_frame *ret, size_t max)
{
	Dwarf_Die *innermost = NULL, *scopes = NULL;
	/* the first goes on where an inlined function was written, the second where it is */
	int nscopes = dwarf_getscopes(unit, addr, &innermost) > 0 ? dwarf_getscopes_die(&innermost[0], &scopes) : 0;
	size_t n = 0;

	for (int i = 0; i < nscopes && n < max; i++) {
		int tag = dwarf_tag(&scopes[i]);

		if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_subprogram)
			continue;
		at.inlined = tag == DW_TAG_inlined_subroutine;
		at.function = function_name(&scopes[i]);
		ret[n++] = at;
		if (!at.inlined)
			break;
		call_place(unit, &scopes[i], &at);
	}
	free(innermost);
	free(scopes);
	/* inlined into what has no description: its line is that of the last call */
	if (n && n < max && ret[n - 1].inlined) {
		at.inlined = false;
		at.function = NULL;
		ret[n++] = at;
	}
	return n;
}

size_t lines_find(struct lines *l, addr_t addr, struct line_frame *ret, size_t max)
{
	struct line_frame at = {};
	Dwarf_Line *line;
	Dwarf_Die unit;
	size_t n;

	if (!max || !find_unit(l, addr, &unit))
		return 0;
	line = dwarf_getsrc_die(&unit, addr);
	if (line) {
		at.file = base_name(dwarf_linesrc(line, NULL, NULL));
		dwarf_lineno(line, &at.line);
	}
	n = take_scopes(&unit, addr, at, ret, max);
	if (!n && at.file)
		ret[n++] = at;
	return n;
}
