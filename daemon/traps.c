/* SPDX-License-Identifier: MIT */
/* Breakpoints in a process; see traps.h. */
#include "daemon/traps.h"

#include <asm/unistd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/trap.h"
#include "daemon/places.h"
#include "vm/runtime.h"

static const u32 calls[] = { __NR_rt_sigaction, __NR_rt_sigprocmask };

/*
 * Whether, and with which hooks.
 */

static void check_process(struct guards *g, const struct modules *mods)
{
	addr_t lo, hi;

	if (guards_has_filter(mods->pid))
		snprintf(g->refusal, sizeof(g->refusal), "the process has a seccomp filter");
	for (size_t i = 0; i < mods->n; i++)
		if (image_go_text(mods->mods[i].image, &lo, &hi))
			snprintf(g->refusal, sizeof(g->refusal), "Go's stacks have no room for a signal");
}

static struct uerr *add_hooks(struct guards *g, const struct module *mod, struct func_plan *plans, size_t n)
{
	bool ok = true;

	for (size_t i = 0; i < n; i++) {
		struct guard guard = { .plan = plans[i] };

		guard.at = (struct resolved){ .mod = mod, .link_addr = plans[i].addr, .func_addr = plans[i].addr };
		snprintf(guard.at.name, sizeof(guard.at.name), "%s:0x%lx", mod->name, (unsigned long)plans[i].addr);
		ok = ok && vec_push(&g->list, guard);
		if (!ok)
			func_plan_deinit(&plans[i]);
	}
	free(plans);
	return ok ? NULL : uerr_nomem();
}

static struct uerr *search_module(struct guards *g, const struct module *mod, const char *cache_dir)
{
	const struct textscan *scan;
	struct func_plan *plans;
	size_t n;
	struct uerr *err = scan_of(mod, cache_dir, &scan);

	if (!err)
		err = plan_syscalls(scan, calls, ARRAY_SIZE(calls), &plans, &n);
	if (err && err->code == UERR_CANNOT_PROBE) {
		snprintf(g->refusal, sizeof(g->refusal), "%s deals with signals by itself, and %s",
			 pathname_base(mod->path), err->message);
		uerr_free(err);
		return NULL;
	}
	return err ? err : add_hooks(g, mod, plans, n);
}

struct uerr *traps_find(struct guards *g, const struct modules *mods, const char *cache_dir)
{
	struct uerr *err = NULL;

	if (g->known)
		return NULL;
	g->known = true;
	check_process(g, mods);
	for (size_t i = 0; !err && !g->refusal[0] && i < mods->n; i++)
		err = search_module(g, &mods->mods[i], cache_dir);
	return err;
}

/*
 * Which there are.
 */

static addr_t address_of(const struct target *t, const struct patched *w)
{
	return t->modules.data[w->module].bias + w->win.addr;
}

static bool is_in(const u32 *links, size_t n, u32 link)
{
	for (size_t i = 0; i < n; i++)
		if (links[i] == link)
			return true;
	return false;
}

static bool calls_other(const struct target *t, const struct patched *w, const u32 *links, size_t nlinks)
{
	for (u8 i = 0; i < w->win.npoints; i++) {
		const struct hook_point *pt = &w->win.points[i];
		size_t n;
		const struct call *c = target_calls(t, w->module, w->win.addr + pt->off, hook_is_exit(pt->kind), &n);

		for (size_t k = 0; k < n; k++)
			if (!is_in(links, nlinks, c[k].link))
				return true;
	}
	return false;
}

bool traps_wanted(const struct target *t, const u32 *links, size_t nlinks)
{
	vec_foreach(w, &t->windows)
		if (w->win.trap && calls_other(t, w, links, nlinks))
			return true;
	return false;
}

bool traps_guarded(const struct target *t)
{
	vec_foreach(c, &t->calls)
		if (c->link == TRAP_LINK)
			return true;
	return false;
}

bool traps_has(const struct target *t, addr_t addr)
{
	vec_foreach(w, &t->windows)
		if (w->win.trap && address_of(t, w) == addr)
			return true;
	return false;
}

static bool is_at_trap(const struct target *t, const struct call *c)
{
	const struct patched *w = target_window(t, c->module, c->point, 1);

	return c->link == TRAP_LINK || (w && w->win.trap);
}

static bool has_call(const struct target *t, u32 site)
{
	vec_foreach(c, &t->calls)
		if (c->site == site)
			return true;
	return false;
}

u32 traps_drop(struct target *t, change_vec *changes)
{
	const u32 hooks = TRAP_LINK;
	u32 found = 0;
	size_t n = 0;

	if (!rewrite_windows_of(t, &hooks, 1, changes))
		return 0;
	vec_foreach(w, &t->windows) {
		struct change c = { .win = w->win, .module = w->module, .file_off = w->file_off, .installed = true };

		if (!w->win.trap)
			continue;
		if (!vec_push(changes, c))
			return 0;
		found++;
	}
	vec_foreach(c, &t->calls)
		if (!is_at_trap(t, c))
			t->calls.data[n++] = *c;
	t->calls.n = n;
	n = 0;
	vec_foreach(s, &t->sites) {
		if (has_call(t, s->key))
			t->sites.data[n++] = *s;
		else
			free(s->symbol);
	}
	t->sites.n = n;
	return found;
}

bool traps_uncaught(const struct target *t)
{
	char path[32], line[128];
	cleanup_fclose FILE *f = NULL;
	unsigned long caught = ~0ul;

	if (!t->trap_addr || t->trap_retired)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/status", t->pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "SigCgt: %lx", &caught) == 1)
			break;
	return !(caught & TRAP_SIG_BIT);
}

/*
 * The area.
 */

struct uerr *traps_fill(struct injection *in, const struct target *t)
{
	const struct runtime_blob *blob = &runtime_trap()->blob;
	struct uerr *err = NULL;

	_Static_assert(TRAP_CODE_SIZE % 16 == 0, "in pieces of 16");
	for (size_t off = 0; !err && off < blob->size; off += 16)
		err = inject_stub(in, t->trap_addr + off, blob->bytes + off, blob->size - off < 16 ? blob->size - off : 16);
	return err;
}

/* The slot of SITE, which nobody else has. */
static struct uerr *take_slot(struct target *t, addr_t site, u32 *ret)
{
	u32 at = trap_slot(site);

	vec_foreach(k, &t->traps)
		if (k->site == site) {
			*ret = k->slot;
			return NULL;
		}
	if (t->traps.n >= TRAP_SITES_MAX)
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s): there can be no more than %u breakpoints in it", t->pid,
				t->comm, TRAP_SITES_MAX);
	for (size_t i = 0; i < t->traps.n; i++)
		if (t->traps.data[i].slot == at) {
			at = (at + 1) % TRAP_SLOTS;
			i = (size_t)-1; /* from the beginning */
		}
	*ret = at;
	return vec_push(&t->traps, (struct trap_slot_of){ site, at }) ? NULL : uerr_nomem();
}

struct uerr *traps_lead(struct injection *in, struct target *t, addr_t site, addr_t tramp)
{
	struct trap_entry e = { .site = site, .target = tramp };
	u32 slot = 0;
	struct uerr *err = take_slot(t, site, &slot);

	return err ? err : inject_stub(in, t->trap_addr + TRAP_CODE_SIZE + slot * sizeof(e), &e, sizeof(e));
}

static bool entered(void *arg)
{
	return threads_entered(arg);
}

struct uerr *traps_settle(struct injection *in, struct target *t, bool added, bool fresh)
{
	enum inject_traps_change change = added ? TRAPS_CHECK : TRAPS_STAY;
	const struct runtime_trap *trap = runtime_trap();
	bool any = false;
	struct uerr *err;

	if (!t->trap_addr)
		return NULL;
	vec_foreach(w, &t->windows)
		any = any || w->win.trap;
	if (any) {
		if (fresh || t->trap_retired)
			change = TRAPS_INSTALL;
		inject_traps(in, t->trap_addr, change, trap->enter, trap->leave);
		t->trap_retired = false;
		return NULL;
	}
	t->trap_retired = true;
	inject_traps(in, t->trap_addr, TRAPS_GO, trap->enter, trap->leave);
	err = inject_unmap(in, t->trap_addr, TRAP_AREA_SIZE, true, entered, t->threads);
	return err ? err : inject_unmap(in, t->trap_addr + TRAP_AREA_SIZE, TRAP_DATA_SIZE, false, NULL, NULL);
}
