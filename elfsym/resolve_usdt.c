/* SPDX-License-Identifier: MIT */
/*
 * usdt:BINARY:PROVIDER:NAME in a process. A name is every place that has it: the
 * programs are to see all of them, as with an inlined function.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elfsym/image_int.h"
#include "elfsym/resolve_int.h"

#define NEAR_SHOWN 5
#define NAME_MAX_SHOWN 200

/* "hotspot:gc__begin" */
static void probe_label(const struct usdt_probe *p, char ret[NAME_MAX_SHOWN])
{
	snprintf(ret, NAME_MAX_SHOWN, "%s:%s", p->provider, p->name);
}

static bool is_meant(const struct spec *spec, const struct usdt_probe *p, bool glob)
{
	if (!glob)
		return !strcmp(spec->provider, p->provider) && !strcmp(spec->symbol, p->name);
	return glob_match(spec->provider, p->provider) && glob_match(spec->symbol, p->name);
}

static bool is_left_out(const struct resolver *r, const struct usdt_probe *p)
{
	char label[NAME_MAX_SHOWN];

	probe_label(p, label);
	return resolve_excludes(r, p->name) || resolve_excludes(r, label);
}

/* The function around the nop, where one is known. */
static void find_function(const struct module *mod, struct resolved *p)
{
	const struct elf_sym *sym = image_find_addr(mod->image, p->link_addr);
	const struct code_func *f = code_func_at(mod->image, p->link_addr);

	p->func_addr = p->link_addr;
	p->func_known = sym || f;
	if (f) {
		p->func_addr = f->addr;
		p->func_size = f->size;
	}
	if (sym && (!f || !f->size)) {
		p->func_addr = sym->addr;
		p->func_size = sym->size;
	}
	if (sym)
		snprintf(p->note, sizeof(p->note), "in %.80s+0x%" PRIx64, sym->name, p->link_addr - sym->addr);
	else
		snprintf(p->note, sizeof(p->note), "at 0x%" PRIx64, p->link_addr);
}

static struct uerr *add_probe(struct resolver *r, const struct module *mod, const struct usdt_probe *probe)
{
	struct resolved p = { .mod = mod, .symbol = probe->name, .link_addr = probe->addr, .usdt = probe };
	int n = snprintf(p.name, sizeof(p.name), "usdt:%s:%s:%s", module_prefix(mod), probe->provider, probe->name);

	if (n >= (int)sizeof(p.name)) /* cut off it would be another name */
		return uerr_new(UERR_CANNOT_PROBE, "%s: the name of USDT probe %.60s:%.60s… is too long", mod->path,
				probe->provider, probe->name);
	find_function(mod, &p);
	return vec_push(&r->places, p) ? NULL : uerr_nomem();
}

static struct uerr *add_probes(struct resolver *r, const struct module *mod, bool glob, size_t *nprobes)
{
	const struct usdt_probe *probes;
	size_t n;
	struct uerr *err = image_usdts(mod->image, &probes, &n);

	*nprobes += err ? 0 : n;
	for (size_t i = 0; !err && i < n; i++)
		if (is_meant(r->spec, &probes[i], glob) && !is_left_out(r, &probes[i]))
			err = add_probe(r, mod, &probes[i]);
	return err;
}

/* ---- nothing found ---- */

static bool has_probe(const struct module *mod, const struct spec *spec)
{
	const struct usdt_probe *probes;
	size_t n = 0;
	cleanup_uerr struct uerr *err = image_usdts(mod->image, &probes, &n);

	for (size_t i = 0; !err && i < n; i++)
		if (is_meant(spec, &probes[i], true))
			return true;
	return false;
}

static struct uerr *other_has_it(const struct resolver *r, const struct module *mod)
{
	for (size_t i = 0; i < r->m->n; i++) {
		const struct module *other = &r->m->mods[i];

		if (other != mod && has_probe(other, r->spec))
			return uerr_new(UERR_NO_SYMBOL, "%s%s has no USDT probe '%s:%s', but %s has: use usdt:%s:%s:%s",
					module_label(r->m, mod), mod->main ? " itself" : "", r->spec->provider,
					r->spec->symbol, module_label(r->m, other), module_prefix(other),
					r->spec->provider, r->spec->symbol);
	}
	return NULL;
}

struct candidate {
	char label[NAME_MAX_SHOWN];
	unsigned distance;
};

static int candidate_cmp(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	return x->distance != y->distance ? (x->distance > y->distance ? 1 : -1) : strcmp(x->label, y->label);
}

static void add_near(struct uerr *err, const struct spec *spec, const struct usdt_probe *probes, size_t n)
{
	cleanup_free struct candidate *near = calloc(n + 1, sizeof(*near));
	cleanup_free char *want = NULL;
	size_t k = 0;

	if (!near || asprintf(&want, "%s:%s", spec->provider, spec->symbol) < 0) {
		want = NULL;
		return;
	}
	for (size_t i = 0; i < n; i++) {
		if (i && !strcmp(probes[i].name, probes[i - 1].name) && !strcmp(probes[i].provider, probes[i - 1].provider))
			continue;
		probe_label(&probes[i], near[k].label);
		near[k].distance = name_distance(want, near[k].label);
		k += near[k].distance != ~0u;
	}
	qsort(near, k, sizeof(*near), candidate_cmp);
	for (size_t i = 0; i < k && i < NEAR_SHOWN; i++)
		uerr_add_near(err, near[i].label);
}

static struct uerr *not_found(const struct resolver *r, const struct module *mod, bool glob, size_t nprobes)
{
	const struct usdt_probe *probes;
	size_t n = 0;
	struct uerr *err = other_has_it(r, mod);

	if (err)
		return err;
	if (!nprobes)
		return uerr_new(UERR_NO_SYMBOL, "%s has no USDT probes (it was built without <sys/sdt.h>)",
				module_label(r->m, mod));
	err = uerr_new(UERR_NO_SYMBOL, "%s has no USDT probe %s'%s:%s'", module_label(r->m, mod), glob ? "like " : "",
		       r->spec->provider, r->spec->symbol);
	if (!glob) {
		cleanup_uerr struct uerr *unread = image_usdts(mod->image, &probes, &n);

		add_near(err, r->spec, probes, unread ? 0 : n);
	}
	return err;
}

struct uerr *resolve_usdt(struct resolver *r, const struct module *const *mods, size_t n, bool *glob)
{
	struct uerr *err = NULL;
	size_t nprobes = 0;

	for (size_t i = 0; !err && i < n; i++)
		err = add_probes(r, mods[i], false, &nprobes);
	if (!err && !r->places.n && (glob_is_pattern(r->spec->provider) || glob_is_pattern(r->spec->symbol))) {
		*glob = true;
		nprobes = 0;
		for (size_t i = 0; !err && i < n; i++)
			err = add_probes(r, mods[i], true, &nprobes);
	}
	if (!err && !r->places.n)
		err = not_found(r, mods[0], *glob, nprobes);
	return err;
}
