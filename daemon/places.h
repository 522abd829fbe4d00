/* SPDX-License-Identifier: MIT */
/*
 * From SPECs to planned places, in the worker: modules and symbols from elfsym,
 * windows from injector/plan. Nothing here touches the process.
 */
#pragma once
#include "daemon/guards.h"
#include "daemon/target.h"
#include "daemon/wanted.h"
#include "elfsym/resolve.h"
#include "injector/plan.h"

/* One function (or instruction) of one process that programs shall see. */
struct place {
	const struct module *mod;
	addr_t func, at;      /* link addresses: of the function, of the SPEC's place */
	char *symbol;         /* a SPEC again */
	struct func_plan plan;
	u32 group;            /* of the wanted groups */
	u32 sides;            /* PLAN_ENTRY | PLAN_EXIT that are wanted */
	enum probe_side spec; /* what the SPEC's prefix said */
	bool glob;            /* of a SPEC that means many */
	u64 cookie;
	const struct usdt_probe *usdt; /* or NULL; owned by the module's image */
};

/* What a glob skipped. */
struct refused {
	pid_t pid;
	char *symbol, *reason;
};
typedef VEC(struct refused) refused_vec;

struct places {
	pid_t pid;
	struct modules mods;
	struct guards guards; /* known when a return is to be taken over */
	struct guards traps;  /* known when there is to be a breakpoint */
	VEC(struct place) list; /* by module, then address, within a group */
};

/* Reads the modules of PID and plans what W wants there. A plain name that
 * cannot be probed is an error; a glob's is added to REFUSED. T is the process as
 * a target, or NULL. */
struct uerr *places_plan(const struct wanted *w, pid_t pid, const struct target *t, const char *cache_dir,
			 refused_vec *refused, struct places *ret) UERR_MUST_CHECK;
/* Is W one that PL's programs are called at? */
bool place_wants(const struct place *pl, const struct window *w);
void place_deinit(struct place *pl);
void places_deinit(struct places *p);
void refused_add(refused_vec *v, pid_t pid, const char *symbol, const char *reason);
void refused_deinit(refused_vec *v);

/* The side on which PROG runs at a place; SIDE_UNKNOWN: nobody said. */
enum probe_side program_side(const struct wanted_group *g, const struct wanted_program *prog, enum probe_side spec);

/* The scan of a module's text, made once for each file in this worker. */
struct uerr *scan_of(const struct module *mod, const char *cache_dir, const struct textscan **ret) UERR_MUST_CHECK;

/* Plans the resolved place R, the sides that WANT says (plan_want bits, PLAN_TRAP too),
 * and of the other one what windows depend on: they do not on which probes came first. */
struct uerr *place_plan(const struct resolved *r, const char *cache_dir, u32 want,
			struct func_plan *ret) UERR_MUST_CHECK;

/* Without a place for the stub of its punned window W, plan P: a breakpoint, if that
 * can be. */
struct uerr *place_trap_instead(const struct module *mod, const char *cache_dir, struct func_plan *p, struct window *w,
				bool *ret) UERR_MUST_CHECK;

/* Where PLAN would take a return over, and that cannot be: breakpoints at the returns, into
 * PLAN; false when these will not do either. */
struct uerr *place_trap_returns(const struct resolved *r, const char *cache_dir, u32 want, struct func_plan *plan,
				bool *ret) UERR_MUST_CHECK;

/* What is said behind a reason where a breakpoint would do. */
#define PLACE_MAY_TRAP "; --trap would put a breakpoint there"
