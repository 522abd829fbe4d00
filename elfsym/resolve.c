/* SPDX-License-Identifier: MIT */
/*
 * A SPEC in a process: which modules it names, which symbols in them, at which
 * addresses. And if there is nothing, the sentence that helps: what is near, who
 * else has it, why there are no names.
 */
#include "elfsym/resolve.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "elfsym/image_int.h"
#include "elfsym/resolve_int.h"

#define NEAR_SHOWN 5

/* ---- names of places ---- */

const char *module_prefix(const struct module *mod)
{
	return mod->main ? "" : mod->name;
}

static void name_address(struct resolved *p, addr_t link_addr)
{
	int n = snprintf(p->name, sizeof(p->name), "%s:0x%" PRIx64, module_prefix(p->mod), link_addr);

	if (n >= (int)sizeof(p->name))
		snprintf(p->name, sizeof(p->name), ":0x%" PRIx64, link_addr);
}

/* A name that is cut off would be no SPEC: then the address serves. */
static void name_symbol(struct resolved *p, const struct elf_sym *sym, u64 offset)
{
	const char *version = sym->default_version ? NULL : sym->version;
	char plus[24] = "";
	int n;

	if (offset)
		snprintf(plus, sizeof(plus), "+0x%" PRIx64, offset);
	n = snprintf(p->name, sizeof(p->name), "%s:%s%s%s%s", module_prefix(p->mod), sym->name, version ? "@" : "",
		     version ? version : "", plus);
	if (n >= (int)sizeof(p->name))
		name_address(p, p->link_addr);
}

/* ---- IFUNCs ---- */

static struct uerr *ifuncs_of(struct resolver *r, const struct module *mod)
{
	if (r->ifuncs && ifuncs_module(r->ifuncs) == mod)
		return NULL;
	ifuncs_destroy(r->ifuncs);
	r->ifuncs = NULL;
	return ifuncs_create(r->m, mod, &r->ifuncs);
}

/* Moves P, which stands at a resolver, to the implementation it chose. */
static struct uerr *follow_ifunc(struct resolver *r, struct resolved *p, bool *found)
{
	const struct elf_sym *sym;
	const struct code_func *f;
	addr_t chosen;
	struct uerr *err = ifuncs_of(r, p->mod);

	*found = !err && ifuncs_selected(r->ifuncs, p->func_addr, &chosen);
	if (!*found)
		return err;
	p->func_addr = p->link_addr = chosen;
	p->func_size = 0;
	p->ifunc_selected = true;
	sym = image_find_addr(p->mod->image, chosen);
	f = code_func_at(p->mod->image, chosen);
	if (sym && sym->addr == chosen) {
		p->func_size = sym->size;
		snprintf(p->note, sizeof(p->note), "%.100s on this machine", sym->name);
	} else {
		snprintf(p->note, sizeof(p->note), "the function at 0x%" PRIx64 " on this machine", chosen);
	}
	if (!p->func_size && f && f->addr == chosen)
		p->func_size = f->size;
	return NULL;
}

/* ---- one place ---- */

static struct uerr *push(struct resolver *r, const struct resolved *p)
{
	return vec_push(&r->places, *p) ? NULL : uerr_nomem();
}

static u64 known_size(const struct module *mod, const struct elf_sym *sym)
{
	const struct code_func *f;

	if (sym->size)
		return sym->size;
	f = code_func_at(mod->image, sym->addr);
	return f && f->addr == sym->addr ? f->size : 0;
}

static struct uerr *add_offset(const struct spec *spec, struct resolved *p)
{
	if (p->func_size && spec->offset >= p->func_size)
		return uerr_new(UERR_USAGE, "'%s': the function is %" PRIu64 " bytes long, offset %" PRIu64
				" lies behind it", spec->text, p->func_size, spec->offset);
	p->link_addr += spec->offset;
	if (!image_in_text(p->mod->image, p->link_addr))
		return uerr_new(UERR_USAGE, "'%s': 0x%" PRIx64 " is not in the text of %s", spec->text, p->link_addr,
				p->mod->path);
	return NULL;
}

/* A symbol that was named outright: what stands in the way is an error. */
static struct uerr *add_named(struct resolver *r, const struct module *mod, const struct elf_sym *sym)
{
	struct resolved p = {
		.mod = mod,
		.symbol = sym->name,
		.link_addr = sym->addr,
		.func_addr = sym->addr,
		.func_known = true,
	};
	struct uerr *err;
	bool found;

	if (elf_sym_is_fragment(sym->name))
		return uerr_new(UERR_CANNOT_PROBE,
				"%s:%s is a piece that the compiler cut out of a function: nobody calls it", module_prefix(mod),
				sym->name);
	if (sym->type == ELF_SYM_IFUNC) {
		err = follow_ifunc(r, &p, &found);
		if (err)
			return err;
		if (!found)
			return uerr_new(UERR_CANNOT_PROBE,
					"%s:%s stands for one of several implementations (IFUNC), and no pointer in "
					"process %d tells which: name the implementation",
					module_prefix(mod), sym->name, r->m->pid);
	} else {
		p.func_size = known_size(mod, sym);
	}
	err = add_offset(r->spec, &p);
	if (err)
		return err;
	name_symbol(&p, sym, r->spec->offset);
	return push(r, &p);
}

static struct uerr *add_address(struct resolver *r, const struct module *mod)
{
	struct resolved p = { .mod = mod, .link_addr = r->spec->addr, .func_addr = r->spec->addr };
	const struct elf_sym *sym;
	const struct code_func *f;

	if (!image_in_text(mod->image, r->spec->addr))
		return uerr_new(UERR_NO_SYMBOL, "%s has no code at 0x%" PRIx64, module_label(r->m, mod),
				r->spec->addr);
	sym = image_find_addr(mod->image, r->spec->addr);
	f = code_func_at(mod->image, r->spec->addr);
	if (sym) {
		p.symbol = sym->name;
		p.func_addr = sym->addr;
		p.func_size = known_size(mod, sym);
	} else if (f) {
		p.func_addr = f->addr;
		p.func_size = f->size;
	}
	p.func_known = sym || f;
	name_address(&p, r->spec->addr);
	return push(r, &p);
}

/* ---- globs ---- */

bool resolve_excludes(const struct resolver *r, const char *name)
{
	for (size_t i = 0; i < r->nnot; i++)
		if (glob_match(r->not_globs[i], name))
			return true;
	return false;
}

/* Patterns with "::" are meant for C++ and Rust names. */
static bool matches(const char *pattern, const char *name)
{
	cleanup_free char *path = NULL;

	if (glob_match(pattern, name))
		return true;
	if (name[0] != '_' || name[1] != 'Z' || !strstr(pattern, "::"))
		return false;
	path = demangle_path(name);
	return path && glob_match(pattern, path);
}

/* The place of the symbols syms[0…n-1], which share an address; a place that
 * cannot be an entry point is skipped. */
static struct uerr *add_group(struct resolver *r, const struct module *mod, const struct elf_sym *syms, size_t n)
{
	const struct elf_sym *best = NULL;
	struct resolved p = { .mod = mod, .link_addr = syms->addr, .func_addr = syms->addr,
			      .func_known = true };
	bool ifunc = false, found;
	struct uerr *err;

	for (size_t i = 0; i < n; i++) {
		if (resolve_excludes(r, syms[i].name))
			return NULL;
		ifunc |= syms[i].type == ELF_SYM_IFUNC;
		if (syms[i].size > p.func_size)
			p.func_size = syms[i].size;
		if (!matches(r->spec->symbol, syms[i].name) || elf_sym_is_fragment(syms[i].name))
			continue;
		if (!best || elf_sym_better(&syms[i], best))
			best = &syms[i];
	}
	if (!best || (best->type == ELF_SYM_NOTYPE && !best->global))
		return NULL;
	p.symbol = best->name;
	if (ifunc) {
		err = follow_ifunc(r, &p, &found);
		if (err || !found)
			return err;
	}
	name_symbol(&p, best, 0);
	return push(r, &p);
}

static struct uerr *add_glob(struct resolver *r, const struct module *mod)
{
	const struct elf_sym *syms;
	size_t n = image_syms(mod->image, &syms);
	struct uerr *err = NULL;

	for (size_t i = 0, next; i < n && !err; i = next) {
		for (next = i + 1; next < n && syms[next].addr == syms[i].addr; next++)
			;
		err = add_group(r, mod, &syms[i], next - i);
	}
	return err;
}

/* ---- exact names ---- */

static struct uerr *add_exact(struct resolver *r, const struct module *mod)
{
	size_t n = image_find(mod->image, r->spec->symbol, NULL, 0);
	cleanup_free const struct elf_sym **found = NULL;
	struct uerr *err = NULL;

	if (!n)
		return NULL;
	found = calloc(n, sizeof(*found));
	if (!found)
		return uerr_nomem();
	image_find(mod->image, r->spec->symbol, found, n);
	for (size_t i = 0; i < n && !err; i++)
		if (!resolve_excludes(r, found[i]->name))
			err = add_named(r, mod, found[i]);
	return err;
}

/* ---- the modules that a SPEC names ---- */

typedef VEC(const struct module *) modptr_vec;

/* All modules that BINARY names equally well, and best. */
static struct uerr *find_modules(const struct modules *m, const char *binary, modptr_vec *ret)
{
	int best = 1;

	for (size_t i = 0; i < m->n; i++) {
		int rank = module_match(m, &m->mods[i], binary);

		if (rank < best)
			continue;
		if (rank > best)
			ret->n = 0;
		best = rank;
		if (!vec_push(ret, &m->mods[i]))
			return uerr_nomem();
	}
	return NULL;
}

static struct uerr *no_such_module(const struct resolver *r)
{
	const struct modules *m = r->m;
	const char *binary = r->spec->binary;
	struct uerr *err;

	if (!*binary)
		return uerr_new(UERR_NO_SYMBOL, "process %d (%s) runs no x86-64 ELF program", m->pid, m->comm);
	err = uerr_new(UERR_NO_SYMBOL, "process %d (%s) has not mapped '%s'", m->pid, m->comm, binary);
	for (size_t i = 0; i < m->n; i++)
		if (!m->mods[i].main && name_distance(binary, m->mods[i].name) != ~0u)
			uerr_add_near(err, m->mods[i].name);
	return err;
}

/* ---- nothing found ---- */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static struct uerr *other_has_it(const struct resolver *r, const struct module *mod)
{
	for (size_t i = 0; i < r->m->n; i++) {
		const struct module *other = &r->m->mods[i];

		if (other == mod || !image_find(other->image, r->spec->symbol, NULL, 0))
			continue;
		return uerr_new(UERR_NO_SYMBOL, "%s%s has no function '%s', but %s has: use %s:%s",
				module_label(r->m, mod), mod->main ? " itself" : "", r->spec->symbol,
				other->main ? module_label(r->m, other) : base_name(other->path), module_prefix(other),
				r->spec->symbol);
	}
	return NULL;
}

/* A program without .symtab may still export a few names; they help nobody. */
#define FEW_NAMES 16

static bool is_stripped(const struct module *mod)
{
	const struct elf_sym *syms;

	return !image_has_symtab(mod->image) && image_syms(mod->image, &syms) <= (mod->main ? FEW_NAMES : 0);
}

static struct uerr *stripped(const struct resolver *r, const struct module *mod)
{
	const char *label = module_label(r->m, mod);

	return uerr_new(UERR_NO_SYMBOL,
			"%s is stripped: no function names. Install %s-dbgsym, or set DEBUGINFOD_URLS, "
			"or name an address (%s:0x%" PRIx64 ")",
			label, label, label, image_entry(mod->image));
}

static struct uerr *not_found(const struct resolver *r, const struct module *mod, bool glob)
{
	const char *near[NEAR_SHOWN];
	size_t n = glob ? 0 : image_near(mod->image, r->spec->symbol, near, NEAR_SHOWN);
	struct uerr *err = glob ? NULL : other_has_it(r, mod);

	if (err)
		return err;
	if (!n && is_stripped(mod))
		return stripped(r, mod);
	err = uerr_new(UERR_NO_SYMBOL, "%s has no function %s'%s'%s", module_label(r->m, mod), glob ? "like " : "",
		       r->spec->symbol,
		       n || image_has_symtab(mod->image) ? "" : " among those it exports (it is stripped of the others)");
	for (size_t i = 0; i < n; i++)
		uerr_add_near(err, near[i]);
	return err;
}

/* ---- all of it ---- */

static int place_cmp(const void *a, const void *b)
{
	const struct resolved *x = a, *y = b;
	addr_t p = x->mod->bias + x->link_addr, q = y->mod->bias + y->link_addr;

	if (p != q)
		return p < q ? -1 : 1;
	/* The public name of an IFUNC before that of its implementation. */
	if (x->ifunc_selected != y->ifunc_selected)
		return y->ifunc_selected - x->ifunc_selected;
	return strcmp(x->name, y->name);
}

static void sort_places(place_vec *places)
{
	size_t n = 0;

	if (places->n)
		qsort(places->data, places->n, sizeof(*places->data), place_cmp);
	for (size_t i = 0; i < places->n; i++) {
		const struct resolved *p = &places->data[i];

		if (n && places->data[n - 1].mod == p->mod && places->data[n - 1].link_addr == p->link_addr &&
		    places->data[n - 1].usdt == p->usdt)
			continue;
		places->data[n++] = *p;
	}
	places->n = n;
}

static struct uerr *each(struct resolver *r, const modptr_vec *mods,
			 struct uerr *(*add)(struct resolver *, const struct module *))
{
	struct uerr *err = NULL;

	for (size_t i = 0; i < mods->n && !err; i++)
		err = add(r, mods->data[i]);
	return err;
}

static struct uerr *resolve(struct resolver *r, modptr_vec *mods, bool *glob)
{
	struct uerr *err = find_modules(r->m, r->spec->binary, mods);

	if (err)
		return err;
	if (!mods->n)
		return no_such_module(r);
	if (r->spec->kind == SPEC_USDT)
		return resolve_usdt(r, mods->data, mods->n, glob);
	if (r->spec->addr_given)
		return each(r, mods, add_address);
	err = each(r, mods, add_exact);
	if (!err && !r->places.n && glob_is_pattern(r->spec->symbol)) {
		*glob = true;
		if (r->spec->offset)
			return uerr_new(UERR_USAGE, "'%s': a pattern takes no offset", r->spec->text);
		err = each(r, mods, add_glob);
	}
	if (!err && !r->places.n)
		err = not_found(r, mods->data[0], *glob);
	return err;
}

struct uerr *spec_resolve(const struct spec *spec, const struct modules *m, const char *const *not_globs, size_t nnot,
			  struct resolve_result *ret)
{
	struct resolver r = { .spec = spec, .m = m, .not_globs = not_globs, .nnot = nnot };
	modptr_vec mods = {};
	bool glob = false;
	struct uerr *err;

	err = resolve(&r, &mods, &glob);
	vec_free(&mods);
	ifuncs_destroy(r.ifuncs);
	if (err) {
		vec_free(&r.places);
		return err;
	}
	sort_places(&r.places);
	*ret = (struct resolve_result){ .places = r.places.data, .n = r.places.n, .glob = glob };
	return NULL;
}

void resolve_result_deinit(struct resolve_result *r)
{
	free(r->places);
	*r = (struct resolve_result){};
}
