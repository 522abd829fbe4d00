/* SPDX-License-Identifier: MIT */
/* From SPECs to planned places; see places.h. */
#include "daemon/places.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/stubs.h"
#include "daemon/traps.h"

/* Scans by image: a worker sees few files, and the same ones in every process. */
static struct {
	struct image *image;
	struct textscan *scan;
} *scans;
static size_t nscans;

struct uerr *scan_of(const struct module *mod, const char *cache_dir, const struct textscan **ret)
{
	const struct code_image *code;
	struct textscan *scan;
	struct uerr *err;
	void *grown;

	for (size_t i = 0; i < nscans; i++)
		if (scans[i].image == mod->image) {
			*ret = scans[i].scan;
			return NULL;
		}
	err = image_code(mod->image, &code);
	if (!err)
		err = textscan_create(code, cache_dir, &scan);
	if (err)
		return err;
	grown = reallocarray(scans, nscans + 1, sizeof(*scans));
	if (!grown) {
		textscan_destroy(scan);
		return uerr_nomem();
	}
	scans = grown;
	scans[nscans].image = image_ref(mod->image);
	scans[nscans++].scan = scan;
	*ret = scan;
	return NULL;
}

struct uerr *place_plan(const struct resolved *r, const char *cache_dir, u32 want, struct func_plan *ret)
{
	const struct textscan *scan;
	struct uerr *err;

	if (r->usdt && r->usdt->refusal)
		return uerr_new(UERR_CANNOT_PROBE, "%s", r->usdt->refusal);
	if (r->mod->text_shared)
		return uerr_new(UERR_CANNOT_PROBE, "its text is mapped shared: a change would reach every process");
	err = scan_of(r->mod, cache_dir, &scan);
	if (err)
		return err;
	if (r->usdt || r->func_addr != r->link_addr || !r->func_known)
		return plan_insn(scan, r->func_addr, r->func_size, r->link_addr, want, ret);
	return plan_function(scan, r->link_addr, r->func_size, r->symbol, want | PLAN_ENTRY | PLAN_ROOM, ret);
}

struct uerr *place_trap_instead(const struct module *mod, const char *cache_dir, struct func_plan *p, struct window *w,
				bool *ret)
{
	const struct textscan *scan;
	struct uerr *err = scan_of(mod, cache_dir, &scan);

	*ret = !err && plan_trap_instead(scan, p, w);
	return err;
}

struct uerr *place_trap_returns(const struct resolved *r, const char *cache_dir, u32 want, struct func_plan *plan,
				bool *ret)
{
	struct func_plan traps = {};
	struct uerr *err = place_plan(r, cache_dir, want | PLAN_TRAP | PLAN_NO_TAKEOVER, &traps);

	*ret = !err && traps.exit != SITE_NONE;
	if (*ret) {
		func_plan_deinit(plan);
		*plan = traps;
	} else {
		func_plan_deinit(&traps);
	}
	return err;
}

enum probe_side program_side(const struct wanted_group *g, const struct wanted_program *prog, enum probe_side spec)
{
	if (spec && g->programs.n == 1)
		return spec;
	if (prog->side)
		return prog->side;
	return spec ? spec : prog->section;
}

static struct uerr *wanted_sides(const struct wanted_group *g, const struct spec *spec, enum probe_side side, u32 *ret)
{
	*ret = 0;
	vec_foreach(p, &g->programs) {
		switch (program_side(g, p, side)) {
		case SIDE_ENTRY:
			*ret |= PLAN_ENTRY;
			break;
		case SIDE_EXIT:
			*ret |= PLAN_EXIT;
			break;
		case SIDE_UNKNOWN:
			return uerr_new(UERR_USAGE, "entry or return? write uprobe:%s or uretprobe:%s", spec->text,
					spec->text);
		}
	}
	return NULL;
}

/* Why the plan does not give what is wanted, or NULL; TEXT[size] is for the words. */
static const char *plan_refusal(const struct func_plan *plan, u32 sides, bool trap, char *text, size_t size)
{
	const char *reason = NULL;
	bool may = false;

	if ((sides & PLAN_ENTRY) && plan->entry_reason) {
		reason = plan->entry_reason;
		may = plan->entry_may_trap && (!(sides & PLAN_EXIT) || !plan->exit_reason || plan->exit_may_trap);
	} else if ((sides & PLAN_EXIT) && plan->exit_reason) {
		reason = plan->exit_reason;
		may = plan->exit_may_trap;
	}
	if (!reason || !may || trap)
		return reason;
	snprintf(text, size, "%s" PLACE_MAY_TRAP, reason);
	return text;
}

void refused_add(refused_vec *v, pid_t pid, const char *symbol, const char *reason)
{
	struct refused r = { pid, strdup(symbol), strdup(reason) };

	if (!r.symbol || !r.reason || !vec_push(v, r)) {
		free(r.symbol);
		free(r.reason);
	}
}

void refused_deinit(refused_vec *v)
{
	vec_foreach(r, v) {
		free(r->symbol);
		free(r->reason);
	}
	vec_free(v);
}

/* "libc:setjmp returns twice, so its exit cannot be probed: use …" */
static struct uerr *cannot_probe(const char *name, const char *reason, u32 sides, const struct func_plan *plan)
{
	if (sides == PLAN_EXIT && plan->entry != SITE_NONE)
		return uerr_new(UERR_CANNOT_PROBE,
				"%s: its exit cannot be probed: %s. Use 'count' or 'uprobe:%s'. Nothing was touched.",
				name, reason, name);
	return uerr_new(UERR_CANNOT_PROBE, "%s cannot be probed: %s. Nothing was touched.", name, reason);
}

/*
 * Places of a group that several SPECs may name: a hash table of their indices
 * in the list, open, at most half full, 0 for none.
 */
struct known {
	u32 *slots;
	size_t nslots, n; /* nslots: a power of two, or 0 */
};

static size_t known_hash(const struct module *mod, addr_t at, u32 sides)
{
	u64 h = (at ^ (u64)(uintptr_t)mod << 7 ^ sides) * 0x9e3779b97f4a7c15ull;

	return h >> 32;
}

static void known_insert(struct known *k, const struct places *p, u32 index)
{
	const struct place *pl = &p->list.data[index];
	size_t i = known_hash(pl->mod, pl->at, pl->sides) & (k->nslots - 1);

	while (k->slots[i])
		i = (i + 1) & (k->nslots - 1);
	k->slots[i] = index + 1;
	k->n++;
}

static bool known_add(struct known *k, const struct places *p, u32 index)
{
	struct known grown = { .nslots = k->nslots ? k->nslots * 2 : 1024 };

	if ((k->n + 1) * 2 > k->nslots) {
		grown.slots = calloc(grown.nslots, sizeof(*grown.slots));
		if (!grown.slots)
			return false;
		for (size_t i = 0; i < k->nslots; i++)
			if (k->slots[i])
				known_insert(&grown, p, k->slots[i] - 1);
		free(k->slots);
		*k = grown;
	}
	known_insert(k, p, index);
	return true;
}

static bool is_known(const struct known *k, const struct places *p, const struct resolved *r, u32 sides)
{
	size_t i = known_hash(r->mod, r->link_addr, sides);

	for (; k->nslots && k->slots[i & (k->nslots - 1)]; i++) {
		const struct place *o = &p->list.data[k->slots[i & (k->nslots - 1)] - 1];

		if (o->mod == r->mod && o->at == r->link_addr && o->sides == sides && o->usdt == r->usdt)
			return true;
	}
	return false;
}

static struct uerr *add_place(struct places *p, u32 group, const struct resolved *r, u32 sides, enum probe_side spec,
			      bool glob, struct func_plan *plan)
{
	struct place pl = {
		.mod = r->mod,
		.func = r->func_addr ? r->func_addr : r->link_addr,
		.at = r->link_addr,
		.symbol = strdup(r->name),
		.plan = *plan,
		.group = group,
		.sides = sides,
		.spec = spec,
		.glob = glob,
		.usdt = r->usdt,
	};

	if (!pl.symbol || !vec_push(&p->list, pl)) {
		free(pl.symbol);
		func_plan_deinit(plan);
		return uerr_nomem();
	}
	return NULL;
}

struct planning {
	const struct wanted *w;
	u32 group;
	const char *cache_dir;
	refused_vec *refused;
	struct places *places;
	bool check_known;  /* several SPECs: the same place may come twice */
	struct known known;
};

static struct uerr *plan_one(struct planning *pn, const struct resolved *r, bool glob, u32 sides,
			     enum probe_side spec)
{
	struct places *p = pn->places;
	struct func_plan plan = {};
	struct uerr *err;
	const char *reason;
	bool trapped = false;
	char text[400];

	if (pn->check_known && is_known(&pn->known, p, r, sides))
		return NULL;
	err = place_plan(r, pn->cache_dir, sides | (pn->w->trap ? PLAN_TRAP : 0), &plan);
	if (err && err->code == UERR_CANNOT_PROBE && glob) {
		refused_add(pn->refused, p->pid, r->name, err->message);
		uerr_free(err);
		return NULL;
	}
	if (err && err->code == UERR_CANNOT_PROBE) {
		struct uerr *full = cannot_probe(r->name, err->message, 0, &plan);

		uerr_free(err);
		return full;
	}
	if (err)
		return uerr_prefix(err, "%s", r->name);
	reason = plan_refusal(&plan, sides, pn->w->trap, text, sizeof(text));
	if (!reason && sides & PLAN_EXIT && tactic_takes_over(plan.exit)) {
		err = guards_find(&p->guards, &p->mods, pn->cache_dir);
		if (!err)
			reason = guards_takeover_refusal(&p->guards, r->mod, &plan, text, sizeof(text));
		if (!err && reason && pn->w->trap)
			err = place_trap_returns(r, pn->cache_dir, sides, &plan, &trapped);
		if (trapped)
			reason = NULL;
	}
	if (err) {
		func_plan_deinit(&plan);
		return err;
	}
	if (!reason) {
		err = add_place(p, pn->group, r, sides, spec, glob, &plan);
		if (!err && pn->check_known && !known_add(&pn->known, p, p->list.n - 1))
			err = uerr_nomem();
		return err;
	}
	if (glob)
		refused_add(pn->refused, p->pid, r->name, reason);
	else
		err = cannot_probe(r->name, reason, sides, &plan);
	func_plan_deinit(&plan);
	return err;
}

static struct uerr *plan_spec(struct planning *pn, const char *text)
{
	const struct wanted_group *g = &pn->w->groups.data[pn->group];
	cleanup(spec_deinit) struct spec spec = {};
	cleanup(resolve_result_deinit) struct resolve_result found = {};
	enum probe_side side = SIDE_UNKNOWN;
	struct uerr *err = spec_parse(text, &spec);
	u32 sides = 0;

	if (err)
		return err;
	if (spec.kind_given)
		side = spec.kind == SPEC_URETPROBE ? SIDE_EXIT : SIDE_ENTRY;
	err = wanted_sides(g, &spec, side, &sides);
	if (!err && spec.kind == SPEC_USDT && sides & PLAN_EXIT)
		return uerr_new(UERR_CANNOT_PROBE,
				"%s is a point in the code, which nothing returns from: use 'count', or a program for entries. "
				"Nothing was touched.", text);
	if (!err)
		err = spec_resolve(&spec, &pn->places->mods, (const char *const *)pn->w->nots.data, pn->w->nots.n,
				   &found);
	for (size_t i = 0; !err && i < found.n; i++)
		err = plan_one(pn, &found.places[i], found.glob, sides, side);
	return err;
}

static struct uerr *plan_group(struct planning *pn)
{
	const struct wanted_group *g = &pn->w->groups.data[pn->group];
	struct uerr *err = NULL;

	pn->check_known = g->specs.n > 1;
	for (size_t i = 0; !err && i < g->specs.n; i++)
		err = plan_spec(pn, g->specs.data[i]);
	free(pn->known.slots);
	pn->known = (struct known){};
	return err;
}

/*
 * Punned jumps: whether there is an address for their stubs depends on the process.
 */

static struct window *punned_window(const struct place *pl)
{
	bool wanted = pl->sides & PLAN_ENTRY || (pl->sides & PLAN_EXIT && pl->plan.exit == SITE_ENTRY_TAKEOVER);

	for (size_t i = 0; wanted && i < pl->plan.nwindows; i++)
		if (pl->plan.windows[i].addr == pl->at && pl->plan.windows[i].keep)
			return &pl->plan.windows[i];
	return NULL;
}

/* Could a breakpoint stand in the place of W? If it is asked for, it does. */
static struct uerr *place_may_trap(struct planning *pn, struct place *pl, struct window *w, bool *ret)
{
	struct window copy = *w;
	struct func_plan plan = pl->plan;
	bool trap = pn->w->trap;

	return place_trap_instead(pl->mod, pn->cache_dir, trap ? &pl->plan : &plan, trap ? w : &copy, ret);
}

/* Takes out the places whose stub in WANTS, which follow one another as the
 * punned places do, could not be placed, nor a breakpoint instead. */
static struct uerr *drop_unplaced(struct planning *pn, const struct target *t, const struct stub_want *want)
{
	struct places *p = pn->places;
	struct uerr *err = NULL;
	size_t n = 0;

	vec_foreach(pl, &p->list) {
		struct window *w = punned_window(pl);
		bool stub = w && want++->stub, may = false;
		const char *reason;

		/* One that had to be a breakpoint stays one. */
		if (!w || (stub && !(t && traps_has(t, pl->mod->bias + pl->at)))) {
			p->list.data[n++] = *pl;
			continue;
		}
		if (!err)
			err = place_may_trap(pn, pl, w, &may);
		if (may && pn->w->trap) {
			p->list.data[n++] = *pl;
			continue;
		}
		reason = may ? stubs_refusal_trap : stubs_refusal;
		if (pl->glob)
			refused_add(pn->refused, p->pid, pl->symbol, reason);
		else if (!err)
			err = cannot_probe(pl->symbol, reason, pl->sides, &pl->plan);
		place_deinit(pl);
	}
	p->list.n = n;
	return err;
}

static struct uerr *check_punned(struct planning *pn, const struct target *t)
{
	struct places *p = pn->places;
	VEC(struct stub_want) wants = {};
	cleanup(pun_space_deinit) struct pun_space space = {};
	struct uerr *err = NULL;

	vec_foreach(pl, &p->list) {
		struct stub_want w = { .win = punned_window(pl), .bias = pl->mod->bias };

		if (w.win && !vec_push(&wants, w))
			err = uerr_nomem();
	}
	if (!err && wants.n)
		err = stubs_space(t, p->pid, &space);
	if (!err && wants.n && !stubs_choose(t, &space, wants.data, wants.n))
		err = uerr_nomem();
	if (!err && wants.n)
		err = drop_unplaced(pn, t, wants.data);
	vec_free(&wants);
	return err;
}

/*
 * Breakpoints: whether there can be any depends on the process.
 */

bool place_wants(const struct place *pl, const struct window *w)
{
	for (u8 k = 0; k < w->npoints; k++) {
		bool exit = hook_is_exit(w->points[k].kind);

		if (pl->sides & (exit ? PLAN_EXIT : PLAN_ENTRY) && (exit || w->addr + w->points[k].off == pl->at))
			return true;
	}
	return false;
}

static bool has_trap(const struct place *pl)
{
	for (size_t i = 0; i < pl->plan.nwindows; i++)
		if (pl->plan.windows[i].trap && place_wants(pl, &pl->plan.windows[i]))
			return true;
	return false;
}

static struct uerr *check_traps(struct planning *pn)
{
	struct places *p = pn->places;
	struct uerr *err = NULL;
	char reason[280];
	size_t n = 0;

	vec_foreach(pl, &p->list) {
		if (!err && has_trap(pl))
			err = traps_find(&p->traps, &p->mods, pn->cache_dir);
		if (err || !p->traps.refusal[0] || !has_trap(pl)) {
			p->list.data[n++] = *pl;
			continue;
		}
		snprintf(reason, sizeof(reason), "only a breakpoint would do, and there can be none: %s", p->traps.refusal);
		if (pl->glob)
			refused_add(pn->refused, p->pid, pl->symbol, reason);
		else
			err = cannot_probe(pl->symbol, reason, pl->sides, &pl->plan);
		place_deinit(pl);
	}
	p->list.n = n;
	return err;
}

struct uerr *places_plan(const struct wanted *w, pid_t pid, const struct target *t, const char *cache_dir,
			 refused_vec *refused, struct places *ret)
{
	struct planning pn = { .w = w, .cache_dir = cache_dir, .refused = refused, .places = ret };
	struct uerr *err;

	*ret = (struct places){ .pid = pid };
	err = modules_read(pid, &ret->mods);
	for (pn.group = 0; !err && pn.group < w->groups.n; pn.group++)
		if (pid_vec_has(&w->groups.data[pn.group].pids, pid))
			err = plan_group(&pn);
	if (!err)
		err = check_punned(&pn, t);
	return err ? err : check_traps(&pn);
}

void place_deinit(struct place *pl)
{
	free(pl->symbol);
	func_plan_deinit(&pl->plan);
}

void places_deinit(struct places *p)
{
	vec_foreach(pl, &p->list)
		place_deinit(pl);
	vec_free(&p->list);
	guards_deinit(&p->guards);
	guards_deinit(&p->traps);
	modules_deinit(&p->mods);
}
