/* SPDX-License-Identifier: MIT */
/*
 * Where guards go. One pair is enough for all unwinders, whoever brings them and
 * whenever they are loaded: before an unwinder reads the first return address of a
 * frame it looks for the tables of its own code, and for that it asks
 * dl_iterate_phdr() or _dl_find_object(). The others are for what reads its own
 * return address without asking anybody, and so that frames that go on after an
 * unwinding are taken over again.
 */
#include "daemon/guards.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "daemon/places.h"

static const struct {
	const char *name;
	enum runtime_guard guard;
	bool exit;
} guard_names[] = {
	{ "dl_iterate_phdr", GUARD_UNWIND, false },
	{ "_dl_find_object", GUARD_UNWIND, false },
	{ "_Unwind_RaiseException", GUARD_UNWIND, false },
	{ "_Unwind_Resume", GUARD_UNWIND, false },
	{ "_Unwind_Resume_or_Rethrow", GUARD_UNWIND, false },
	{ "_Unwind_ForcedUnwind", GUARD_UNWIND, false },
	{ "_Unwind_Backtrace", GUARD_UNWIND, false },
	{ "_Unwind_Backtrace", GUARD_REARM, true },
	{ "backtrace", GUARD_REARM, true },
	{ "__cxa_begin_catch", GUARD_REARM, false },
	{ "setjmp", GUARD_TOP, false },
	{ "_setjmp", GUARD_TOP, false },
	{ "__sigsetjmp", GUARD_TOP, false },
	{ "getcontext", GUARD_TOP, false },
	{ "swapcontext", GUARD_TOP, false },
	{ "vfork", GUARD_TOP, false },
	{ "dlopen", GUARD_TOP, false },
	{ "dlmopen", GUARD_TOP, false },
	{ "dlsym", GUARD_TOP, false },
	{ "dlvsym", GUARD_TOP, false },
};

/* Modules that have them, by the beginning of their file's name; and the main program. */
static const char *const guarded[] = { "ld-linux", "ld-musl", "libc.so", "libc-2", "libdl", "libpthread", "libgcc_s",
				       "libunwind", "libstdc++", "libc++" };

/* Programs that walk their own stacks by themselves. */
static const char *const walkers[] = { "libjvm.so", "node", "nodejs", "libnode.so", "libv8.so", "libcoreclr.so",
				       "beam.smp", "beam.debug.smp", "libcef.so" };

/* Modules whose own returns are left alone. */
static const char *const untouched[] = { "ld-linux", "ld-2", "libgcc_s", "libunwind" };

static bool begins_with(const struct module *mod, const char *const *names, size_t n, bool whole)
{
	const char *base = pathname_base(mod->path);

	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(names[i]);

		/* libv8.so.11.3 is libv8.so */
		if (!strncmp(base, names[i], len) && (!whole || !base[len] || base[len] == '.'))
			return true;
	}
	return false;
}

static bool is_linker(const struct module *mod)
{
	static const char *const names[] = { "ld-linux", "ld-musl", "ld-2", "ld.so" };

	return begins_with(mod, names, ARRAY_SIZE(names), false);
}

__attribute__((format(printf, 2, 3))) static void refuse(struct guards *g, const char *fmt, ...)
{
	va_list ap;

	if (g->refusal[0])
		return;
	va_start(ap, fmt);
	vsnprintf(g->refusal, sizeof(g->refusal), fmt, ap);
	va_end(ap);
}

/* Guards read stacks by system calls where they do not know them; what a filter would
 * say to that is not asked. */
bool guards_has_filter(pid_t pid)
{
	char path[32], line[128];
	cleanup_fclose FILE *f = NULL;
	int mode = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", process_live_tid(pid));
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Seccomp: %d", &mode) == 1)
			break;
	return mode;
}

static void check_modules(struct guards *g, const struct modules *mods)
{
	addr_t lo, hi;
	bool linker = false;

	if (guards_has_filter(mods->pid))
		refuse(g, "the process has a seccomp filter");

	for (size_t i = 0; i < mods->n; i++) {
		const struct module *m = &mods->mods[i];

		if (begins_with(m, walkers, ARRAY_SIZE(walkers), true))
			refuse(g, "%s walks its stacks by itself", pathname_base(m->path));
		if (m->main && image_go_text(m->image, &lo, &hi))
			refuse(g, "a Go program moves its stacks");
		linker = linker || is_linker(m);
	}
	if (!linker)
		refuse(g, "a static program's unwinder is not known");
}

static struct uerr *add_guard(struct guards *g, const struct module *mod, const struct elf_sym *sym, size_t name,
			      const char *cache_dir)
{
	struct guard guard = { .guard = guard_names[name].guard, .exit = guard_names[name].exit };
	struct uerr *err;
	bool possible;

	guard.at = (struct resolved){ .mod = mod, .symbol = guard_names[name].name, .link_addr = sym->addr,
				      .func_addr = sym->addr, .func_size = sym->size };
	snprintf(guard.at.name, sizeof(guard.at.name), "%s:%s", mod->name, guard_names[name].name);
	vec_foreach(other, &g->list)
		if (other->at.mod == mod && other->at.link_addr == sym->addr && other->exit == guard.exit)
			return NULL;
	err = place_plan(&guard.at, cache_dir, guard.exit ? PLAN_EXIT : PLAN_ENTRY, &guard.plan);
	if (err && err->code == UERR_CANNOT_PROBE) {
		refuse(g, "%s cannot be guarded", guard.at.name);
		uerr_free(err);
		return NULL;
	}
	if (err)
		return err;
	possible = guard.exit ? guard.plan.exit == SITE_RET : guard.plan.entry != SITE_NONE;
	/* Without those at exits, no more than a few returns are missed. */
	if (!possible && !guard.exit)
		refuse(g, "%s cannot be guarded", guard.at.name);
	if (possible && vec_push(&g->list, guard))
		return NULL;
	func_plan_deinit(&guard.plan);
	return possible ? uerr_nomem() : NULL;
}

static struct uerr *search_module(struct guards *g, const struct module *mod, const char *cache_dir)
{
	struct uerr *err = NULL;

	for (size_t i = 0; !err && i < ARRAY_SIZE(guard_names); i++) {
		const struct elf_sym *syms[8];
		size_t n = image_find(mod->image, guard_names[i].name, syms, ARRAY_SIZE(syms));

		for (size_t k = 0; !err && k < n && k < ARRAY_SIZE(syms); k++)
			err = add_guard(g, mod, syms[k], i, cache_dir);
	}
	return err;
}

static bool has_guard(const struct guards *g, const char *name)
{
	vec_foreach(guard, &g->list)
		if (!strcmp(guard->at.symbol, name))
			return true;
	return false;
}

struct uerr *guards_find(struct guards *g, const struct modules *mods, const char *cache_dir)
{
	struct uerr *err = NULL;

	if (g->known)
		return NULL;
	g->known = true;
	check_modules(g, mods);
	for (size_t i = 0; !err && !g->refusal[0] && i < mods->n; i++) {
		const struct module *m = &mods->mods[i];

		if (m->main || begins_with(m, guarded, ARRAY_SIZE(guarded), false))
			err = search_module(g, m, cache_dir);
	}
	if (!err && !has_guard(g, "dl_iterate_phdr"))
		refuse(g, "its unwinders cannot be found");
	return err;
}

/* Where names and ids are changed, in whatever libc there is. */
static const char *const identity_names[] = { "prctl", "pthread_setname_np", "setuid", "setgid", "setreuid", "setregid",
					      "setresuid", "setresgid" };
static const char *const libcs[] = { "libc.so", "libc-2", "ld-musl", "libpthread" };

/* *all: no place was left out. */
static struct uerr *add_identity(struct guards *g, const struct module *mod, const struct elf_sym *sym, const char *name,
				 const char *cache_dir, bool *all)
{
	struct guard guard = { .guard = GUARD_IDENTITY };
	struct uerr *err;

	guard.at = (struct resolved){ .mod = mod, .symbol = name, .link_addr = sym->addr, .func_addr = sym->addr,
				      .func_size = sym->size };
	snprintf(guard.at.name, sizeof(guard.at.name), "%s:%s", mod->name, name);
	vec_foreach(other, &g->list)
		if (other->guard == GUARD_IDENTITY && other->at.mod == mod && other->at.link_addr == sym->addr)
			return NULL;
	err = place_plan(&guard.at, cache_dir, PLAN_ENTRY, &guard.plan);
	if (err && err->code == UERR_CANNOT_PROBE) {
		*all = false;
		uerr_free(err);
		return NULL;
	}
	if (err)
		return err;
	*all = *all && guard.plan.entry != SITE_NONE;
	if (guard.plan.entry != SITE_NONE && vec_push(&g->list, guard))
		return NULL;
	func_plan_deinit(&guard.plan);
	return guard.plan.entry == SITE_NONE ? NULL : uerr_nomem();
}

static void drop_identity(struct guards *g)
{
	size_t n = 0;

	vec_foreach(guard, &g->list) {
		if (guard->guard == GUARD_IDENTITY)
			func_plan_deinit(&guard->plan);
		else
			g->list.data[n++] = *guard;
	}
	g->list.n = n;
}

struct uerr *guards_find_identity(struct guards *g, const struct modules *mods, const char *cache_dir)
{
	struct uerr *err = NULL;
	bool all = true, prctl = false;

	if (g->identity_known)
		return NULL;
	g->identity_known = true;
	for (size_t i = 0; i < mods->n; i++) {
		const struct module *mod = &mods->mods[i];

		if (mod->main || !begins_with(mod, libcs, ARRAY_SIZE(libcs), false))
			continue;
		for (size_t k = 0; !err && k < ARRAY_SIZE(identity_names); k++) {
			const struct elf_sym *syms[4];
			size_t n = image_find(mod->image, identity_names[k], syms, ARRAY_SIZE(syms));

			prctl = prctl || (n && !k);
			for (size_t j = 0; !err && j < n && j < ARRAY_SIZE(syms); j++)
				err = add_identity(g, mod, syms[j], identity_names[k], cache_dir, &all);
		}
	}
	if (err || !all || !prctl)
		drop_identity(g);
	return err;
}

void guards_deinit(struct guards *g)
{
	vec_foreach(guard, &g->list)
		func_plan_deinit(&guard->plan);
	vec_free(&g->list);
}

const char *guards_takeover_refusal(const struct guards *g, const struct module *mod, const struct func_plan *plan,
				    char *text, size_t size)
{
	const char *why = g->refusal[0] ? g->refusal : NULL;

	if (!why && begins_with(mod, untouched, ARRAY_SIZE(untouched), false))
		why = "it belongs to what unwinds stacks";
	if (!why)
		return NULL;
	snprintf(text, size, "%s, and its return cannot be taken over: %s", plan->exit_note ? plan->exit_note : "", why);
	return text;
}
