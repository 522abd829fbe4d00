/* SPDX-License-Identifier: MIT */
/* The way of one attach, in its worker; see attach.h. */
#include "daemon/attach.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/family.h"
#include "daemon/loaded.h"
#include "daemon/rewrite.h"
#include "daemon/traps.h"
#include "daemon/usdt_specs.h"

struct attaching {
	struct daemon *d;
	const struct wanted *w;
	struct outcome *out;
	VEC(struct places) procs; /* by wanted->pids */
};

/*
 * What is wanted there.
 */

static u32 add_module(struct target *t, const struct module *mod)
{
	struct target_module m = {
		.name = mod->name,
		.path = mod->path,
		.bias = mod->bias,
		.lo = mod->lo,
		.hi = mod->hi,
		.dev = mod->dev,
		.ino = mod->ino,
	};

	if (!image_go_text(mod->image, &m.go_lo, &m.go_hi))
		m.go_lo = m.go_hi = 0;
	return target_module_index(t, &m);
}

/* The hook points of one side of a place. */
static bool is_point_of(const struct place *pl, const struct window *w, const struct hook_point *pt, bool exit)
{
	if (exit != hook_is_exit(pt->kind))
		return false;
	return exit || w->addr + pt->off == pl->at;
}

static bool add_calls(struct target *t, const struct place *pl, const struct site *s, u32 program, u16 *bytes)
{
	for (size_t i = 0; i < pl->plan.nwindows; i++) {
		const struct window *w = &pl->plan.windows[i];

		for (u8 k = 0; k < w->npoints; k++) {
			struct call c = {
				.point = w->addr + w->points[k].off,
				.module = s->module,
				.exit = s->exit,
				.link = s->link,
				.program = program,
				.site = s->key,
			};

			if (!is_point_of(pl, w, &w->points[k], s->exit))
				continue;
			if (!*bytes)
				*bytes = w->len;
			if (!vec_push(&t->calls, c))
				return false;
		}
	}
	return true;
}

/* What the program gets as its cookie: libbpf's of a USDT probe is the number of
 * the arguments' description. */
static struct uerr *choose_cookie(const struct state *s, const struct place *pl, const struct wanted_program *prog,
				  u64 *ret)
{
	const struct program *p = state_program(s, prog->program);
	struct uerr *err;

	*ret = pl->cookie;
	if (!pl->usdt || !p->owner->usdt)
		return NULL;
	err = usdt_spec_take(p->owner, prog->link, pl->usdt->args, pl->cookie, ret);
	return err ? uerr_prefix(err, "%s", pl->symbol) : NULL;
}

/* A function can be skipped where it begins. */
static struct uerr *check_override(const struct state *st, const struct target *t, const struct place *pl, u32 module,
				   const struct wanted_program *prog, bool exit)
{
	const struct program *p = state_program(st, prog->program);
	const struct target_module *m = &t->modules.data[module];

	if (!program_overrides(p))
		return NULL;
	if (exit || pl->usdt || pl->at != pl->func)
		return uerr_new(UERR_CANNOT_PROBE, "%s: program %s calls bpf_override_return(), which is for entries of functions",
				pl->symbol, p->prog->name);
	if (m->go_lo < m->go_hi)
		return uerr_new(UERR_CANNOT_PROBE, "%s: program %s calls bpf_override_return(), which is not possible in Go",
				pl->symbol, p->prog->name);
	return NULL;
}

static struct uerr *add_site(const struct state *st, struct target *t, const struct place *pl, u32 module,
			     const struct wanted_program *prog, bool exit)
{
	struct uerr *err;
	struct site s = {
		.key = ++t->last_site,
		.link = prog->link,
		.module = module,
		.exit = exit,
		.tactic = exit ? pl->plan.exit : pl->plan.entry,
		.func = pl->func,
		.at = exit ? pl->func : pl->at,
		.sema = pl->usdt ? pl->usdt->sema : 0,
		.symbol = strdup(pl->symbol),
	};

	err = check_override(st, t, pl, module, prog, exit);
	if (!err)
		err = choose_cookie(st, pl, prog, &s.cookie);
	if (err) {
		free(s.symbol);
		return err;
	}
	if (!s.symbol || !add_calls(t, pl, &s, prog->program, &s.bytes) || !vec_push(&t->sites, s)) {
		free(s.symbol);
		return uerr_nomem();
	}
	return NULL;
}

static struct uerr *add_sites(const struct state *s, const struct wanted *w, struct target *t, const struct places *p)
{
	const struct module *mod = NULL;
	u32 module = 0;

	vec_foreach(pl, &p->list) {
		const struct wanted_group *g = &w->groups.data[pl->group];

		if (pl->mod != mod) { /* they are sorted by module */
			module = add_module(t, pl->mod);
			mod = pl->mod;
		}
		if (module == UINT32_MAX)
			return uerr_nomem();
		vec_foreach(prog, &g->programs) {
			bool exit = program_side(g, prog, pl->spec) == SIDE_EXIT;
			struct uerr *err = add_site(s, t, pl, module, prog, exit);

			if (err)
				return err;
		}
	}
	target_sort(t);
	return NULL;
}

/*
 * Guards, where returns are taken over, and where there are breakpoints.
 */

static struct uerr *add_guard(struct target *t, const struct guard *g, u32 link)
{
	u32 module = add_module(t, g->at.mod);
	struct place pl = { .mod = g->at.mod, .func = g->at.link_addr, .at = g->at.link_addr, .plan = g->plan };
	struct site s = {
		.key = ++t->last_site,
		.link = link,
		.module = module,
		.exit = g->exit,
		.tactic = g->exit ? g->plan.exit : g->plan.entry,
		.func = g->at.link_addr,
		.at = g->at.link_addr,
		.symbol = strdup(g->at.name),
	};

	if (module == UINT32_MAX || !s.symbol || !add_calls(t, &pl, &s, GUARD_PROGRAM(g->guard), &s.bytes) ||
	    !vec_push(&t->sites, s)) {
		free(s.symbol);
		return uerr_nomem();
	}
	return NULL;
}

/* Which of them are to be put in now: their windows are to be changed. */
struct guards_wanted {
	bool takeover, identity, traps;
};

static bool guard_is_wanted(const struct guards_wanted *w, const struct guard *g)
{
	return g->guard == GUARD_IDENTITY ? w->identity : w->takeover;
}

static struct uerr *add_guards(const struct state *s, struct target *t, const struct places *p, struct guards_wanted *ret)
{
	struct uerr *err = NULL;

	ret->takeover = target_takes_over(t, NULL, 0) && !target_has_guards(t);
	ret->identity = target_asks_identity(s, t, NULL, 0) && !target_watches_identity(t);
	ret->traps = p->traps.known && !traps_guarded(t);
	vec_foreach(g, &p->guards.list)
		if (!err && guard_is_wanted(ret, g))
			err = add_guard(t, g, 0);
	vec_foreach(g, &p->traps.list)
		if (!err && ret->traps)
			err = add_guard(t, g, TRAP_LINK);
	target_sort(t);
	return err;
}

static bool guard_wants(const struct guard *g, const struct window *w)
{
	for (u8 k = 0; k < w->npoints; k++)
		if (hook_is_exit(w->points[k].kind) == g->exit &&
		    (g->exit || w->addr + w->points[k].off == g->at.link_addr))
			return true;
	return false;
}

/*
 * Which windows that changes.
 */

/* Would W change bytes that a punned jump needs, or the other way round? Plans of
 * functions never do; a SPEC that is an address may. */
static bool spoils(const struct target *t, u32 module, const struct window *w)
{
	const struct patched *behind = target_window(t, module, w->addr + w->len, w->keep);

	if (w->keep && behind)
		return true;
	for (addr_t a = w->addr - 4; a < w->addr; a++) {
		const struct patched *p = target_window(t, module, a, 1);

		if (p && p->win.addr + p->win.len + p->win.keep > w->addr && p->win.addr < w->addr && p->win.keep)
			return true;
	}
	return false;
}

/* A window that is there already stays where it is; it may get more points. */
static struct uerr *add_change(const struct target *t, const struct module *mod, u32 module, const struct window *w,
			       change_vec *changes)
{
	struct patched *there = target_window(t, module, w->addr, w->len);
	struct change c = { .win = *w, .module = module, .installed = there };

	if ((there && (there->win.addr != w->addr || there->win.len != w->len)) || spoils(t, module, w))
		return uerr_new(UERR_CANNOT_PROBE, "%s:0x%lx overlaps a probe that is there already. Nothing was touched.",
				mod->name, (unsigned long)w->addr);
	if (!image_addr_to_off(mod->image, w->addr, &c.file_off))
		return uerr_new(UERR_FAILED, "%s: 0x%lx is not in the file", mod->path, (unsigned long)w->addr);
	return vec_push(changes, c) ? NULL : uerr_nomem();
}

/* WINDOWS, and those that are there already and overlap one of them: the points
 * of these are kept, and a new one may lie inside. */
static bool with_installed(const struct target *t, u32 module, const struct window *const *windows, size_t n,
			   const struct window ***ret, size_t *nret)
{
	const struct window **all = calloc(2 * n, sizeof(*all));

	*ret = all;
	if (!all)
		return false;
	for (size_t i = 0; i < n; i++) {
		const struct patched *there = target_window(t, module, windows[i]->addr, windows[i]->len);

		all[(*nret)++] = windows[i];
		if (there)
			all[(*nret)++] = &there->win;
	}
	return true;
}

static struct uerr *merge_module(const struct daemon *d, struct target *t, const struct module *mod,
				 const struct window *const *windows, size_t n, change_vec *changes)
{
	cleanup_free struct window *merged = NULL;
	cleanup_free const struct window **all = NULL;
	const struct textscan *scan;
	size_t nmerged = 0, nall = 0;
	struct uerr *err = scan_of(mod, d->cfg.cache_dir, &scan);
	u32 module = add_module(t, mod);

	if (!err && !with_installed(t, module, windows, n, &all, &nall))
		err = uerr_nomem();
	if (!err)
		err = windows_merge(scan, all, nall, &merged, &nmerged);
	for (size_t i = 0; !err && i < nmerged; i++)
		err = add_change(t, mod, module, &merged[i], changes);
	return err;
}

typedef VEC(const struct window *) window_ptrs;

static struct uerr *guard_windows(const struct guard *g, window_ptrs *windows)
{
	for (size_t i = 0; i < g->plan.nwindows; i++)
		if (guard_wants(g, &g->plan.windows[i]) && !vec_push(windows, &g->plan.windows[i]))
			return uerr_nomem();
	return NULL;
}

static struct uerr *find_changes(const struct daemon *d, struct target *t, const struct places *p,
				 const struct guards_wanted *wanted, change_vec *changes)
{
	window_ptrs windows = {};
	struct uerr *err = NULL;

	for (size_t m = 0; !err && m < p->mods.n; m++) {
		const struct module *mod = &p->mods.mods[m];

		windows.n = 0;
		vec_foreach(pl, &p->list)
			for (size_t i = 0; pl->mod == mod && i < pl->plan.nwindows; i++)
				if (place_wants(pl, &pl->plan.windows[i]) &&
				    !vec_push(&windows, &pl->plan.windows[i]))
					err = uerr_nomem();
		vec_foreach(g, &p->guards.list)
			if (!err && g->at.mod == mod && guard_is_wanted(wanted, g))
				err = guard_windows(g, &windows);
		vec_foreach(g, &p->traps.list)
			if (!err && g->at.mod == mod && wanted->traps)
				err = guard_windows(g, &windows);
		if (!err && windows.n)
			err = merge_module(d, t, mod, windows.data, windows.n, changes);
	}
	vec_free(&windows);
	return err;
}

/*
 * One process after the other.
 */

/* The worker's own target: as the daemon knows it, or as a fork child that
 * nobody knew. */
static struct uerr *own_target(struct attaching *at, pid_t pid, struct target **ret)
{
	struct target *t = state_target(at->d->state, pid), *child = NULL;
	struct uerr *err = NULL;
	u32 n;

	if (t && t->installed) {
		err = family_find_children(at->d, t, t, &n);
	} else {
		err = family_find(at->d, pid, &child);
		if (!err && child && t) {
			/* the empty one made for this request gives way */
			struct threads *threads = threads_ref(child->threads);

			threads_unref(t->threads);
			t->threads = NULL;
			target_replace(t, child);
			t->threads = threads;
			at->d->state->targets.n--;
		}
	}
	*ret = t;
	return err;
}

/* Breakpoints of earlier attaches are gone, whatever becomes of this one. */
static struct uerr *note_lost(struct attaching *at, struct target *t, const struct stop *stop, struct target **without)
{
	struct uerr *err = target_clone(t, t->pid, without);

	if (!err && (!outcome_add(at->out, t) || !vec_push(&at->out->stops, *stop)))
		err = uerr_nomem();
	return err;
}

static struct goroutines goroutines_of(const struct modules *mods)
{
	struct goroutines g = {};
	struct go_runtime rt;

	for (size_t i = 0; i < mods->n && !g.list; i++) {
		addr_t bias = mods->mods[i].bias;

		if (image_go_runtime(mods->mods[i].image, &rt))
			g = (struct goroutines){ bias + rt.allgs, bias + rt.preempt_lo, bias + rt.preempt_hi,
						 bias + rt.park_lo, bias + rt.park_hi };
	}
	return g;
}

static struct uerr *attach_process(struct attaching *at, const struct places *p)
{
	struct rewrite_opts opts = { .d = at->d, .uid = at->w->uid, .gid = at->w->gid, .go = goroutines_of(&p->mods) };
	change_vec changes = {};
	struct stop stop = {};
	struct target *t, *without = NULL;
	struct guards_wanted guards = {};
	struct uerr *err = own_target(at, p->pid, &t);

	if (!err && !at->w->dry_run)
		err = rewrite_check_traps(&opts, t, &stop);
	if (!err && stop.traps_lost)
		err = note_lost(at, t, &stop, &without);
	stop = (struct stop){};
	if (!err)
		err = add_sites(at->d->state, at->w, t, p);
	if (!err)
		err = add_guards(at->d->state, t, p, &guards);
	if (!err)
		err = find_changes(at->d, t, p, &guards, &changes);
	if (!err && changes.n && !at->w->dry_run) {
		err = rewrite_run(&opts, t, &changes, &stop);
		if (!err && !vec_push(&at->out->stops, stop))
			err = uerr_nomem();
	}
	if (!err && !outcome_add(at->out, t))
		err = uerr_nomem();
	if (err && without) /* that much has happened */
		target_replace(t, steal_ptr(without));
	target_destroy(without);
	vec_free(&changes);
	return err;
}

/* Can all programs that PL is for read its arguments? */
static struct uerr *check_args(const struct attaching *at, const struct place *pl)
{
	struct uerr *err = NULL;

	vec_foreach(p, &at->w->groups.data[pl->group].programs)
		if (!err && pl->usdt)
			err = usdt_spec_check(state_program(at->d->state, p->program)->owner, pl->usdt->args);
	return err;
}

/* A glob goes without the places of which it cannot. */
static struct uerr *drop_unreadable(const struct attaching *at, struct places *p)
{
	struct uerr *err = NULL;
	size_t n = 0;

	vec_foreach(pl, &p->list) {
		struct uerr *refusal = err ? NULL : check_args(at, pl);

		if (!refusal) {
			p->list.data[n++] = *pl;
			continue;
		}
		if (pl->glob && refusal->code == UERR_CANNOT_PROBE) {
			refused_add(&at->out->refused, p->pid, pl->symbol, refusal->message);
			uerr_free(refusal);
		} else {
			err = uerr_prefix(refusal, "%s cannot be probed", pl->symbol);
		}
		place_deinit(pl);
	}
	p->list.n = n;
	return err;
}

/* Do the windows of A and B, of one module, leave each other room? */
static struct uerr *fit_together(const struct attaching *at, const struct place *a, const struct place *b)
{
	const struct window *x = &a->plan.windows[0], *y = &b->plan.windows[0];
	const struct window *both[] = { x->addr <= y->addr ? x : y, x->addr <= y->addr ? y : x };
	cleanup_free struct window *merged = NULL;
	const struct textscan *scan;
	struct uerr *err;
	size_t n;

	if (both[1]->addr - both[0]->addr > 2 * WINDOW_MAX)
		return NULL;
	err = scan_of(a->mod, at->d->cfg.cache_dir, &scan);
	return err ? err : windows_merge(scan, both, ARRAY_SIZE(both), &merged, &n);
}

static bool is_single(const struct place *pl)
{
	return pl->usdt && pl->plan.nwindows == 1;
}

/* Is PL, of a glob, too close to one that is named, or that comes before it and stays? */
static struct uerr *too_close(const struct attaching *at, const struct places *p, const struct place *pl, size_t nkept)
{
	struct uerr *err = NULL;

	vec_foreach(other, &p->list)
		if (!err && other != pl && is_single(other) && other->mod == pl->mod &&
		    (other < p->list.data + nkept || (other > pl && !other->glob)))
			err = fit_together(at, other, pl);
	return err;
}

/* USDT probes may stand hard behind one another, each with a window of its own; plans
 * of functions never do. A glob goes without those for which no room is left. */
static struct uerr *drop_too_close(const struct attaching *at, struct places *p)
{
	struct uerr *err = NULL;
	size_t n = 0;

	for (size_t i = 0; i < p->list.n; i++) {
		struct place *pl = &p->list.data[i];
		struct uerr *refusal = !err && pl->glob && is_single(pl) ? too_close(at, p, pl, n) : NULL;

		if (!refusal) {
			p->list.data[n++] = *pl;
			continue;
		}
		if (refusal->code == UERR_CANNOT_PROBE) {
			refused_add(&at->out->refused, p->pid, pl->symbol, refusal->message);
			uerr_free(refusal);
		} else {
			err = refusal;
		}
		place_deinit(pl);
	}
	p->list.n = n;
	return err;
}

static bool asks_identity(const struct attaching *at)
{
	vec_foreach(g, &at->w->groups)
		vec_foreach(prog, &g->programs)
			if (program_asks_identity(state_program(at->d->state, prog->program)))
				return true;
	return false;
}

static struct uerr *plan_all(struct attaching *at)
{
	bool identity = asks_identity(at);
	size_t nplaces = 0;

	vec_foreach(pid, &at->w->pids) {
		struct places p;
		struct uerr *err = places_plan(at->w, *pid, state_target(at->d->state, *pid),
					       at->d->cfg.cache_dir, &at->out->refused, &p);

		if (!err)
			err = drop_unreadable(at, &p);
		if (!err)
			err = drop_too_close(at, &p);
		if (!err && identity)
			err = guards_find_identity(&p.guards, &p.mods, at->d->cfg.cache_dir);
		/* one of several may end meanwhile: a server's workers do */
		if (err && err->code == UERR_NO_TARGET && (at->procs.n || pid + 1 < at->w->pids.data + at->w->pids.n)) {
			places_deinit(&p);
			uerr_free(err);
			continue;
		}
		if (err || !vec_push(&at->procs, p)) {
			places_deinit(&p);
			return err ? err : uerr_nomem();
		}
		nplaces += p.list.n;
	}
	if (nplaces)
		return NULL;
	if (at->out->refused.n)
		return uerr_new(UERR_CANNOT_PROBE, "none of the %zu functions can be probed; the first, %s: %s",
				at->out->refused.n, at->out->refused.data[0].symbol, at->out->refused.data[0].reason);
	return uerr_new(UERR_NO_SYMBOL, "nothing matches");
}

static void number_cookies(struct attaching *at)
{
	u64 n = 0;

	vec_foreach(p, &at->procs)
		vec_foreach(pl, &p->list)
			pl->cookie = at->w->cookie + (at->w->count_cookies ? n++ : 0);
}

/* All or nothing: what earlier processes got is taken away again. */
static void roll_back(struct attaching *at)
{
	struct outcome undone = {};
	VEC(u32) links = {};
	pid_vec pids = {};

	vec_foreach(g, &at->w->groups)
		vec_foreach(p, &g->programs)
			if (!vec_push(&links, p->link))
				return;
	vec_foreach(t, &at->out->targets)
		if (!vec_push(&pids, (*t)->pid))
			return;
	if (pids.n)
		detach_run(at->d, &pids, links.data, links.n, at->w->uid, at->w->gid, &undone);
	vec_foreach(t, &undone.targets)
		(void)!outcome_add(at->out, *t);
	if (undone.err)
		at->out->err = uerr_prefix(at->out->err, "(and not all could be undone: %s)", undone.err->message);
	outcome_deinit(&undone, false);
	vec_free(&links);
	vec_free(&pids);
}

void attach_run(struct daemon *d, const struct wanted *w, void (*touch)(void *arg), void *arg, struct outcome *ret)
{
	struct attaching at = { .d = d, .w = w, .out = ret };
	size_t known = d->state->targets.n;

	ret->err = plan_all(&at);
	if (!ret->err)
		number_cookies(&at);
	if (!ret->err && !w->dry_run)
		touch(arg);
	for (size_t i = 0; !ret->err && i < at.procs.n; i++)
		if (at.procs.data[i].list.n)
			ret->err = attach_process(&at, &at.procs.data[i]);
	if (ret->err && !w->dry_run)
		roll_back(&at);
	if (!w->dry_run)
		outcome_add_new(ret, d, known);
	vec_foreach(p, &at.procs)
		places_deinit(p);
	vec_free(&at.procs);
}
