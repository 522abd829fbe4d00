/* SPDX-License-Identifier: MIT */
/*
 * Making a process be what its target says; see rewrite.h.
 *
 * Order matters only at the commit: there the injector maps the shared memory,
 * writes the jumps, and unmaps what nobody is in, while all threads stand
 * still. Everything before fills memory that nothing points to yet.
 */
#include "daemon/rewrite.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "base/trap.h"
#include "daemon/arena.h"
#include "daemon/env.h"
#include "daemon/loaded.h"
#include "daemon/stubs.h"
#include "daemon/traps.h"
#include "daemon/unwind.h"
#include "injector/takeover.h"
#include "vm/runtime.h"

#define REACH (1ull << 31)
#define REACH_SLACK (16ull << 20)

/* Windows that one arena can serve: all within reach of each other. */
struct group {
	addr_t lo, hi;        /* of their modules */
	u64 need;             /* bytes, beside what an arena has at its start */
	VEC(u32) programs;
	bool cells;           /* some hook takes a return over, or is a guard */
	bool stacks;          /* some program walks stacks */
	addr_t arena;         /* chosen */
	size_t range;         /* or the range that will be it */
};

/* Memory of an arena as this worker sees it. */
struct view_of {
	addr_t arena;
	void *local;
	u64 size;
};

struct rewrite {
	const struct rewrite_opts *opts;
	const struct state *s;
	struct target *t;
	change_vec *changes;
	struct injection *in;
	VEC(struct group) groups;
	VEC(struct inject_range) ranges;
	VEC(struct mapping) new_maps; /* ranges[map_range + i] will hold it */
	size_t map_range;
	size_t stub_range;            /* pages of stubs, from here to the end */
	size_t trap_range;            /* 1 + the area of breakpoints, whose data follows; 0 none */
	size_t cells_range;           /* 1 + the stubs of cells, which follow them; 0 none */
	bool cells_leave;             /* in this transaction */
	size_t base_range;            /* threads, then the private page */
	size_t side_range;            /* side stacks, if they are to be made */
	bool new_side;
	bool first;                   /* nothing of ours is in the process yet */
	struct unwind_plan unwind;    /* if anybody walks stacks … */
	addr_t unwind_addr;           /* … where the tables are; 0: they come in this transaction … */
	int unwind_fd;                /* … in this memfd, else -1 … */
	u64 unwind_size;
	size_t unwind_range;          /* … and this range */
	VEC(struct view_of) views;
	VEC(struct patched) fresh;    /* new windows, not in the target yet */
	VEC(int) fds;                 /* opened for sharing */
	char *journal;
};

/*
 * Which windows.
 */

static u32 count_calls(const struct target *t, u32 module, const struct window *w)
{
	size_t sum = 0, n;

	for (u8 i = 0; i < w->npoints; i++) {
		target_calls(t, module, w->addr + w->points[i].off, hook_is_exit(w->points[i].kind), &n);
		sum += n;
	}
	return sum;
}

static bool window_has_link(const struct target *t, const struct patched *w, const u32 *links, size_t nlinks)
{
	for (u8 i = 0; i < w->win.npoints; i++) {
		const struct hook_point *pt = &w->win.points[i];
		size_t n;
		const struct call *c = target_calls(t, w->module, w->win.addr + pt->off, hook_is_exit(pt->kind), &n);

		for (size_t k = 0; k < n * nlinks; k++)
			if (c[k / nlinks].link == links[k % nlinks])
				return true;
	}
	return false;
}

bool rewrite_windows_of(const struct target *t, const u32 *links, size_t nlinks, change_vec *changes)
{
	vec_foreach(w, &t->windows) {
		struct change c = { .win = w->win, .module = w->module, .file_off = w->file_off, .installed = true };

		if (window_has_link(t, w, links, nlinks) && !vec_push(changes, c))
			return false;
	}
	return true;
}

/*
 * Groups: which arena each window's trampoline goes to.
 */

static bool reaches(addr_t lo, addr_t hi, addr_t addr, u64 size)
{
	addr_t end = addr + size;

	return (end > lo ? end - lo : 0) < REACH - REACH_SLACK && (hi > addr ? hi - addr : 0) < REACH - REACH_SLACK;
}

static bool group_add_program(struct group *g, u32 program)
{
	vec_foreach(p, &g->programs)
		if (*p == program)
			return true;
	return vec_push(&g->programs, program);
}

static bool group_add_window(struct rewrite *rw, struct group *g, const struct change *c)
{
	const struct window *w = &c->win;

	g->need += arena_window_size(w, c->ncalls);
	for (u8 i = 0; i < w->npoints; i++) {
		size_t n;
		const struct call *call = target_calls(rw->t, c->module, w->addr + w->points[i].off,
						       hook_is_exit(w->points[i].kind), &n);

		g->cells = g->cells || (n && hook_takes_over(w->points[i].kind));
		for (size_t k = 0; k < n; k++) {
			g->need += ARENA_SITE_SIZE;
			g->cells = g->cells || is_takeover_guard(&call[k]);
			if (is_guard(&call[k]))
				continue;
			g->stacks = g->stacks || program_walks_stacks(state_program(rw->s, call[k].program));
			if (!group_add_program(g, call[k].program))
				return false;
		}
	}
	return true;
}

static struct group *group_for(struct rewrite *rw, const struct target_module *m, u32 *index)
{
	struct group fresh = { .lo = m->lo, .hi = m->hi };

	for (size_t i = 0; i < rw->groups.n; i++) {
		struct group *g = &rw->groups.data[i];
		addr_t lo = g->lo < m->lo ? g->lo : m->lo;
		addr_t hi = g->hi > m->hi ? g->hi : m->hi;

		if (hi - lo >= REACH / 2)
			continue;
		g->lo = lo;
		g->hi = hi;
		*index = i;
		return g;
	}
	if (!vec_push(&rw->groups, fresh))
		return NULL;
	*index = rw->groups.n - 1;
	return &rw->groups.data[*index];
}

static struct uerr *make_groups(struct rewrite *rw)
{
	vec_foreach(c, rw->changes) {
		struct group *g;

		c->ncalls = count_calls(rw->t, c->module, &c->win);
		c->restore = !c->ncalls;
		if (c->restore)
			continue;
		g = group_for(rw, &rw->t->modules.data[c->module], &c->group);
		if (!g || !group_add_window(rw, g, c))
			return uerr_nomem();
	}
	return NULL;
}

/* The memory of an arena that is in the process already, through its own
 * mapping; NULL when we may not, or it is not what we left. */
static void *map_arena(const struct target *t, const struct arena *a)
{
	cleanup_close int fd = -1;
	char path[80];
	void *local;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", process_live_tid(t->pid), (unsigned long)a->addr,
		 (unsigned long)(a->addr + a->size));
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	local = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return local == MAP_FAILED ? NULL : local;
}

static bool arena_serves(const struct rewrite *rw, const struct arena *a, const struct group *g)
{
	const struct target *t = rw->t;

	if (g->stacks && (!rw->unwind_addr || a->unwind != rw->unwind_addr))
		return false;
	if (g->cells && (!t->cells_addr || a->cells != t->cells_addr))
		return false;
	if (a->retired || a->full || !reaches(g->lo, g->hi, a->addr, a->size) || a->used + g->need + 64 > a->top)
		return false;
	vec_foreach(p, &g->programs)
		if (!arena_has_program(a, *p))
			return false;
	return true;
}

/* An arena is used again only by programs that it has: so the maps and programs
 * of an object that comes and goes go with an arena of their own. */
static struct uerr *choose_arena(struct rewrite *rw, struct group *g)
{
	struct inject_range r = { .kind = RANGE_CODE, .near = g->lo, .near_end = g->hi };
	cleanup_free const struct program **progs = NULL;

	vec_foreach(a, &rw->t->arenas) {
		void *local = arena_serves(rw, a, g) ? map_arena(rw->t, a) : NULL;

		if (!local)
			continue;
		g->arena = a->addr;
		return vec_push(&rw->views, (struct view_of){ a->addr, local, a->size }) ? NULL : uerr_nomem();
	}
	progs = calloc(g->programs.n + 1, sizeof(const struct program *));
	if (!progs)
		return uerr_nomem();
	for (size_t i = 0; i < g->programs.n; i++)
		progs[i] = state_program(rw->s, g->programs.data[i]);
	r.size = arena_base_size() + g->need + 4096 + arena_programs_size(progs, g->programs.n);
	r.size = ALIGN_UP(r.size > ARENA_MIN ? r.size : ARENA_MIN, PAGE);
	g->range = rw->ranges.n;
	return vec_push(&rw->ranges, r) ? NULL : uerr_nomem();
}

/*
 * Ranges: what has to be mapped there.
 */

static bool wants_mapping(struct rewrite *rw, u32 map, bool claims, u64 size)
{
	struct mapping m = { .map = map, .claims = claims, .size = ALIGN_UP(size, PAGE) };
	struct mapping *there = target_mapping(rw->t, map, claims);

	if (there) {
		there->retired = false;
		return true;
	}
	vec_foreach(n, &rw->new_maps)
		if (n->map == map && n->claims == claims)
			return true;
	return vec_push(&rw->new_maps, m);
}

static struct uerr *want_mappings(struct rewrite *rw)
{
	vec_foreach(g, &rw->groups) {
		vec_foreach(id, &g->programs) {
			const struct loaded *o = state_program(rw->s, *id)->owner;

			for (size_t i = 0; i < o->obj->nmaps; i++)
				if (!wants_mapping(rw, o->maps[i].id, false, o->maps[i].umap.size))
					return uerr_nomem();
			if (o->claims && !wants_mapping(rw, o->id, true, UMAP_CLAIMS_SIZE(rw->s->ncpus)))
				return uerr_nomem();
		}
	}
	rw->map_range = rw->ranges.n;
	vec_foreach(m, &rw->new_maps)
		if (!vec_push(&rw->ranges, (struct inject_range){ .kind = RANGE_MEMFD, .size = m->size }))
			return uerr_nomem();
	return NULL;
}

/* The tables of what the process has mapped by now: those that it has, or new ones. */
static struct uerr *want_unwind(struct rewrite *rw)
{
	bool any = false;
	struct mapping *there;
	struct uerr *err;

	vec_foreach(g, &rw->groups)
		any = any || g->stacks;
	if (!any)
		return NULL;
	err = unwind_plan(rw->t->pid, &rw->unwind);
	if (err)
		return err;
	there = target_unwind(rw->t, rw->unwind.key);
	if (!there)
		return unwind_make(&rw->unwind, rw->opts->d->cfg.cache_dir, &rw->unwind_fd, &rw->unwind_size);
	there->retired = false;
	rw->unwind_addr = there->addr;
	return NULL;
}

static struct uerr *want_unwind_range(struct rewrite *rw)
{
	if (rw->unwind_fd < 0)
		return NULL;
	rw->unwind_range = rw->ranges.n;
	return vec_push(&rw->ranges, (struct inject_range){ .kind = RANGE_MEMFD, .size = rw->unwind_size }) ? NULL : uerr_nomem();
}

static struct uerr *want_base(struct rewrite *rw)
{
	struct inject_range threads = { .kind = RANGE_MEMFD, .size = rw->t->threads->size };
	struct inject_range private_page = { .kind = RANGE_PRIVATE, .size = TARGET_PRIVATE_SIZE(THREAD_RECS_DEFAULT) };

	rw->first = !rw->t->installed && rw->groups.n;
	if (!rw->first)
		return NULL;
	rw->base_range = rw->ranges.n;
	return vec_push(&rw->ranges, threads) && vec_push(&rw->ranges, private_page) ? NULL : uerr_nomem();
}

/* Is the window in code of Go, where hooks need a stack of their own? */
static bool is_go(const struct target *t, const struct change *c)
{
	const struct target_module *m = &t->modules.data[c->module];

	return c->win.addr >= m->go_lo && c->win.addr < m->go_hi;
}

static struct uerr *want_side(struct rewrite *rw)
{
	struct inject_range r = { .kind = RANGE_PRIVATE, .size = side_stacks_size(THREAD_RECS_DEFAULT) };
	bool any = false;

	vec_foreach(c, rw->changes)
		any = any || (!c->restore && is_go(rw->t, c));
	rw->new_side = any && !rw->t->side_addr;
	rw->side_range = rw->ranges.n;
	return !rw->new_side || vec_push(&rw->ranges, r) ? NULL : uerr_nomem();
}

/*
 * Cells, which stay as long as any return is taken over.
 */

static struct uerr *want_cells(struct rewrite *rw)
{
	struct inject_range stubs = { .kind = RANGE_CODE, .size = CELL_STUBS_SIZE };
	struct inject_range cells = { .kind = RANGE_CELLS, .size = CELL_AREA_SIZE, .behind = true };

	vec_foreach(g, &rw->groups) {
		if (!g->cells)
			continue;
		rw->t->cells_retired = false;
		if (rw->t->cells_addr || rw->cells_range)
			continue;
		stubs.near = g->lo;
		stubs.near_end = g->hi;
		rw->cells_range = rw->ranges.n + 1;
		if (!vec_push(&rw->ranges, stubs) || !vec_push(&rw->ranges, cells))
			return uerr_nomem();
	}
	return NULL;
}

/* Blocks for as many threads as there are, and for more to come. */
static u32 blocks_for(u32 nthreads)
{
	u32 n = nthreads < CELL_BLOCKS / 4 ? 4 * nthreads : CELL_BLOCKS;

	return n < CELL_BLOCKS_LEAST ? CELL_BLOCKS_LEAST : n;
}

/* Programs that walk stacks see through cells that came after them. Where that cannot
 * be told, their stacks end at the first of these. */
static void tell_arenas(const struct rewrite *rw)
{
	vec_foreach(a, &rw->t->arenas) {
		void *local = a->unwind && !a->retired ? map_arena(rw->t, a) : NULL;
		struct target_env *env;

		if (!local)
			continue;
		env = arena_local(a, local, a->env);
		__atomic_store_n(&env->all_cells, rw->t->cells_addr, __ATOMIC_RELAXED);
		munmap(local, a->size);
	}
}

static struct uerr *install_cells(struct rewrite *rw)
{
	struct {
		u32 used, limit;
	} blocks = { .used = 1 };
	struct inject_facts facts;
	struct inject_range *r;
	struct uerr *err;

	_Static_assert(offsetof(struct cell_area, limit) == offsetof(struct cell_area, used) + 4, "both at once");
	if (!rw->cells_range)
		return NULL;
	err = inject_facts(rw->in, &facts);
	if (err)
		return err;
	r = &rw->ranges.data[rw->cells_range - 1];
	if (!vec_push(&rw->views, (struct view_of){ r->addr, r->local, r->size }))
		return uerr_nomem();
	blocks.limit = blocks_for(facts.nthreads);
	takeover_stubs(r->local, blocks.limit);
	rw->t->cells_addr = r[1].addr;
	tell_arenas(rw);
	return inject_poke(rw->in, r[1].addr + offsetof(struct cell_area, used), &blocks, sizeof(blocks));
}

/* Each time: what goes may be code that cells lead to. */
static struct uerr *unmap_cells(struct rewrite *rw)
{
	struct target *t = rw->t;
	bool leave = !target_takes_over(t, NULL, 0);
	struct uerr *err;

	if (!t->cells_addr)
		return NULL;
	inject_cells(rw->in, t->cells_addr, leave);
	if (!leave)
		return NULL;
	rw->cells_leave = !t->cells_retired;
	t->cells_retired = true;
	err = inject_unmap(rw->in, t->cells_addr - CELL_STUBS_SIZE, CELL_STUBS_SIZE, true, NULL, NULL);
	return err ? err : inject_unmap(rw->in, t->cells_addr, CELL_AREA_SIZE, false, NULL, NULL);
}

/*
 * Breakpoints.
 */

static bool adds_traps(const struct rewrite *rw)
{
	vec_foreach(c, rw->changes)
		if (c->win.trap && !c->restore)
			return true;
	return false;
}

static struct uerr *want_traps(struct rewrite *rw)
{
	struct inject_range area = { .kind = RANGE_TRAP, .size = TRAP_AREA_SIZE };
	struct inject_range data = { .kind = RANGE_CELLS, .size = TRAP_DATA_SIZE, .behind = true };

	if (!adds_traps(rw) || rw->t->trap_addr)
		return NULL;
	rw->trap_range = rw->ranges.n + 1;
	return vec_push(&rw->ranges, area) && vec_push(&rw->ranges, data) ? NULL : uerr_nomem();
}

static struct uerr *install_traps(struct rewrite *rw)
{
	if (!rw->trap_range)
		return NULL;
	rw->t->trap_addr = rw->ranges.data[rw->trap_range - 1].addr;
	return traps_fill(rw->in, rw->t);
}

/*
 * Stubs of punned windows.
 */

static addr_t site_addr(const struct target *t, u32 module, const struct window *w)
{
	return t->modules.data[module].bias + w->addr;
}

/* What was chosen becomes part of the target. A page that was about to go is in
 * use again. */
static struct uerr *use_stub(struct rewrite *rw, struct change *c, addr_t stub)
{
	struct target *t = rw->t;
	struct stub fresh = { .addr = stub, .site = site_addr(t, c->module, &c->win), .live = true };
	struct stub *known = target_stub(t, fresh.site);

	if (!stub)
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s): 0x%lx: %s", t->pid, t->comm,
				(unsigned long)fresh.site, stubs_refusal);
	c->stub = stub;
	if (known)
		known->live = true;
	else if (!vec_push(&t->stubs, fresh))
		return uerr_nomem();
	vec_foreach(p, &t->stub_pages)
		if (p->addr == ALIGN_DOWN(stub, PAGE))
			p->retired = false;
	return NULL;
}

static struct uerr *use_stubs(struct rewrite *rw, const struct pun_space *space, const struct stub_want *want)
{
	struct uerr *err = NULL;

	vec_foreach(c, rw->changes)
		if (!err && c->win.keep && !c->restore)
			err = use_stub(rw, c, want++->stub);
	for (size_t i = rw->t->stub_pages.n; !err && i < space->pages.n; i++)
		if (!vec_push(&rw->ranges, (struct inject_range){ .kind = RANGE_STUBS, .size = PAGE,
								  .exact = space->pages.data[i] }))
			err = uerr_nomem();
	return err;
}

static struct uerr *choose_stubs(struct rewrite *rw)
{
	VEC(struct stub_want) wants = {};
	cleanup(pun_space_deinit) struct pun_space space = {};
	struct uerr *err = NULL;

	rw->stub_range = rw->ranges.n;
	vec_foreach(c, rw->changes)
		if (c->win.keep && !c->restore &&
		    !vec_push(&wants, (struct stub_want){ &c->win, rw->t->modules.data[c->module].bias, 0 }))
			err = uerr_nomem();
	if (!err && wants.n)
		err = stubs_space(rw->t, rw->t->pid, &space);
	if (!err && wants.n && !stubs_choose(rw->t, &space, wants.data, wants.n))
		err = uerr_nomem();
	if (!err && wants.n)
		err = use_stubs(rw, &space, wants.data);
	vec_free(&wants);
	return err;
}

static struct uerr *install_stub_pages(struct rewrite *rw)
{
	for (size_t i = rw->stub_range; i < rw->ranges.n; i++)
		if (!vec_push(&rw->t->stub_pages, (struct stub_page){ .addr = rw->ranges.data[i].addr }))
			return uerr_nomem();
	return NULL;
}

static struct uerr *put_stub(struct rewrite *rw, const struct change *c, addr_t tramp)
{
	u8 bytes[STUB_MAX];

	return inject_stub(rw->in, c->stub, bytes, stub_bytes(c->stub, tramp, bytes));
}

static struct uerr *share(struct rewrite *rw, addr_t addr, u64 size, int fd, bool readonly)
{
	char path[32];
	int ro;

	if (!readonly)
		return inject_share(rw->in, addr, size, fd, false);
	/* opened for reading only, so that no mprotect there makes it writable */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	if (ro < 0 || !vec_push(&rw->fds, ro))
		return uerr_new(UERR_FAILED, "a read-only map cannot be shared");
	return inject_share(rw->in, addr, size, ro, true);
}

static struct uerr *share_map(struct rewrite *rw, const struct mapping *m)
{
	const struct map *map;
	const struct loaded *o;

	if (m->claims) {
		o = state_object(rw->s, m->map);
		return share(rw, m->addr, m->size, o->claims_fd, false);
	}
	map = state_map(rw->s, m->map);
	return share(rw, m->addr, m->size, map->fd, map->readonly);
}

static struct uerr *install_unwind(struct rewrite *rw)
{
	struct mapping m = { .unwind = rw->unwind.key, .size = rw->unwind_size };
	struct uerr *err;

	if (rw->unwind_fd < 0)
		return NULL;
	rw->unwind_addr = m.addr = rw->ranges.data[rw->unwind_range].addr;
	err = share(rw, m.addr, m.size, rw->unwind_fd, true);
	return err || vec_push(&rw->t->mappings, m) ? err : uerr_nomem();
}

static struct uerr *install_base(struct rewrite *rw)
{
	struct target *t = rw->t;
	struct target_private page = {};
	struct inject_facts facts;
	struct uerr *err = inject_facts(rw->in, &facts);

	if (err)
		return err;
	env_take_facts(t, &facts);
	t->threads_addr = rw->ranges.data[rw->base_range].addr;
	t->private_addr = rw->ranges.data[rw->base_range + 1].addr;
	t->installed = true;
	page.tgid = facts.ns_tgid;
	err = share(rw, t->threads_addr, t->threads->size, t->threads->fd, false);
	if (!err)
		err = inject_poke(rw->in, t->private_addr, &page, sizeof(page));
	return err;
}

static struct uerr *install_threads(struct rewrite *rw)
{
	struct inject_thread *threads = NULL;
	struct inject_facts facts;
	size_t n = 0;
	struct uerr *err;

	if (!rw->groups.n)
		return NULL;
	err = inject_threads(rw->in, &threads, &n);
	if (!err)
		err = inject_facts(rw->in, &facts);
	if (err)
		return err;
	rw->t->denied = facts.denied; /* filters come, and never go */
	env_fill_threads(rw->t, threads, n);
	free(threads);
	return NULL;
}

/* It is run in front of the counters, as trampolines are in part. */
static struct uerr *put_side_find(struct arena *a, void *local)
{
	size_t size;
	const u8 *code = side_find_code(&size);

	a->side_find = arena_alloc(a, size);
	if (!a->side_find)
		return uerr_new(UERR_FAILED, "the code arena is full");
	memcpy(arena_local(a, local, a->side_find), code, size);
	return NULL;
}

static struct uerr *install_arena(struct rewrite *rw, struct group *g, struct target_env *env)
{
	struct inject_range *r = &rw->ranges.data[g->range];
	struct arena a = { .addr = r->addr, .size = r->size, .inode = r->inode, .cells = env->cells,
			   .unwind = g->stacks ? rw->unwind_addr : 0 };
	struct arena_prog ap;
	struct uerr *err = NULL;

	if (!vec_push(&rw->views, (struct view_of){ r->addr, r->local, r->size }))
		return uerr_nomem();
	env->unwind = a.unwind;
	arena_start(&a, r->local, env);
	vec_foreach(p, &g->programs)
		if (!err)
			err = arena_program(&a, r->local, rw->t, state_program(rw->s, *p), &ap);
	a.code = a.used;
	if (!err)
		err = put_side_find(&a, r->local);
	g->arena = a.addr;
	if (!vec_push(&rw->t->arenas, a) && !err)
		err = uerr_nomem();
	return err;
}

static struct uerr *place_all(struct rewrite *rw)
{
	struct target_env env;
	bool fresh = false;
	struct uerr *err = NULL;

	if (rw->ranges.n)
		err = inject_place(rw->in, rw->ranges.data, rw->ranges.n);
	if (!err && rw->first)
		err = install_base(rw);
	if (!err && rw->new_side)
		rw->t->side_addr = rw->ranges.data[rw->side_range].addr;
	if (!err)
		err = install_stub_pages(rw);
	if (!err)
		err = install_cells(rw);
	if (!err)
		err = install_unwind(rw);
	if (!err)
		err = install_traps(rw);
	if (!err)
		err = install_threads(rw);
	for (size_t i = 0; !err && i < rw->new_maps.n; i++) {
		struct mapping *m = &rw->new_maps.data[i];

		m->addr = rw->ranges.data[rw->map_range + i].addr;
		err = share_map(rw, m);
		if (!err && !vec_push(&rw->t->mappings, *m))
			err = uerr_nomem();
	}
	vec_foreach(g, &rw->groups)
		fresh = fresh || !g->arena;
	if (!err && fresh)
		err = env_fill(rw->t, rw->s->ncpus, &env);
	for (size_t i = 0; !err && i < rw->groups.n; i++)
		if (!rw->groups.data[i].arena)
			err = install_arena(rw, &rw->groups.data[i], &env);
	return err;
}

/*
 * Trampolines.
 */

static void *view_local(struct rewrite *rw, addr_t arena)
{
	vec_foreach(v, &rw->views)
		if (v->arena == arena)
			return v->local;
	return NULL;
}

/* A trampoline's constants lie in its own arena, so that arenas can go in any
 * order. */
static struct uerr *put_site_data(struct rewrite *rw, struct arena *a, void *local, const struct program *p,
				  const struct call *c)
{
	struct target *t = rw->t;
	struct site *site = target_site(t, c->site);
	const struct mapping *claims = p ? target_mapping(t, p->owner->id, true) : NULL;
	struct site_data sd = {
		.env = a->env,
		.claims = claims ? claims->addr : 0,
		.cookie = c->link == TRAP_LINK ? t->trap_addr : site->cookie,
		.func_ip = t->modules.data[site->module].bias + site->func,
		.nclaims = claims ? rw->s->ncpus + UMAP_SPARE_SLOTS : 0,
		.link = c->link,
		.rings = p ? arena_rings(a, p->owner) : 0,
		.exit = site->exit,
	};

	if (site->arena == a->addr)
		return NULL;
	site->site_data = arena_alloc_constants(a, sizeof(sd));
	if (!site->site_data)
		return uerr_new(UERR_FAILED, "the code arena is full");
	site->arena = a->addr;
	memcpy(arena_local(a, local, site->site_data), &sd, sizeof(sd));
	return NULL;
}

static struct uerr *make_call(struct rewrite *rw, struct arena *a, void *local, const struct call *c,
			      struct hook_call *ret)
{
	const struct program *p = is_guard(c) ? NULL : state_program(rw->s, c->program);
	struct arena_prog ap;
	struct uerr *err = p ? arena_program(a, local, rw->t, p, &ap) : NULL;

	if (!err)
		err = put_site_data(rw, a, local, p, c);
	if (err)
		return err;
	if (c->link == TRAP_LINK) {
		*ret = (struct hook_call){
			.fn = rw->t->trap_addr + runtime_trap()->signals,
			.site = target_site(rw->t, c->site)->site_data,
			.reads = TARGET_REG_BIT(ax) | TARGET_REG_BIT(di) | TARGET_REG_BIT(si) | TARGET_REG_BIT(dx) |
				 TARGET_REG_BIT(r10),
			.clobbers = TARGET_REGS_ALL,
			.answers = true,
		};
		return NULL;
	}
	if (!p) {
		*ret = (struct hook_call){
			.fn = a->addr + runtime_guard_off((enum runtime_guard)GUARD_PROGRAM(c->program)),
			.site = target_site(rw->t, c->site)->site_data,
			.reads = TARGET_REG_BIT(sp),
			.clobbers = TARGET_REGS_ALL,
		};
		return NULL;
	}
	*ret = (struct hook_call){
		.fn = ap.entry,
		.site = target_site(rw->t, c->site)->site_data,
		.reads = p->prog->info.ctx_fields,
		.clobbers = ap.clobbers,
		.overrides = program_overrides(p),
	};
	return NULL;
}

/* The hooks of a window: its points that call anything, in order. */
struct hooks {
	struct hook hook[8];
	size_t n;
	struct hook_call *calls;
};

static struct uerr *make_hooks(struct rewrite *rw, struct arena *a, void *local, const struct change *c,
			       struct hooks *ret)
{
	size_t used = 0;

	ret->calls = calloc(c->ncalls + 1, sizeof(*ret->calls));
	if (!ret->calls)
		return uerr_nomem();
	for (u8 i = 0; i < c->win.npoints; i++) {
		const struct hook_point *pt = &c->win.points[i];
		size_t n;
		const struct call *call = target_calls(rw->t, c->module, c->win.addr + pt->off, hook_is_exit(pt->kind), &n);

		for (size_t k = 0; k < n; k++) {
			struct uerr *err = make_call(rw, a, local, &call[k], &ret->calls[used + k]);

			if (err)
				return err;
		}
		if (n)
			ret->hook[ret->n++] = (struct hook){ *pt, ret->calls + used, n };
		used += n;
	}
	return NULL;
}

/* Threads in the displaced instructions go on in the copy. One that stands at
 * the first takes the jump. */
static void add_moves(const struct change *c, addr_t bias, addr_t tramp, const struct trampoline *code, struct patch *p)
{
	for (u8 i = 0; i < code->nmoves && p->nmoves < ARRAY_SIZE(p->moves); i++) {
		const struct tramp_move *m = &code->moves[i];

		if (m->off)
			p->moves[p->nmoves++] =
				(struct patch_move){ bias + c->win.addr + m->off, tramp + m->tramp_off };
	}
}

/* Where a thread stands that waits in the window's system call. */
static void find_wait(const struct window *w, const struct trampoline *code, addr_t tramp, struct patched *ret)
{
	for (u8 i = 0; i < code->nmoves; i++) {
		const struct tramp_move *m = &code->moves[i];

		if (m->off < 2 || memcmp(w->bytes + m->off - 2, "\x0f\x05", 2) != 0 ||
		    memcmp(code->code + m->tramp_off - 2, "\x0f\x05", 2) != 0)
			continue;
		ret->waits = tramp + m->tramp_off;
		ret->waits_off = m->off;
		return;
	}
}

/* Threads that wait in the trampoline which the window leads to until now. */
static void add_waiting(const struct patched *there, addr_t to, struct patch *p)
{
	if (there->waits && p->nmoves < ARRAY_SIZE(p->moves))
		p->moves[p->nmoves++] = (struct patch_move){ there->waits, to };
}

static void patch_start(const struct rewrite *rw, const struct change *c, const struct patched *there, struct patch *p)
{
	const struct target_module *m = &rw->t->modules.data[c->module];

	*p = (struct patch){
		.addr = m->bias + c->win.addr,
		.len = c->win.len,
		.file_dev = m->dev,
		.file_ino = m->ino,
		.file_off = c->file_off,
	};
	if (there)
		window_patch_bytes(&c->win, m->bias, there->stub ? there->stub : there->tramp, p->old_bytes);
	else
		memcpy(p->old_bytes, c->win.bytes, c->win.len + c->win.keep);
	if (!there)
		p->keep = c->win.keep;
}

static struct uerr *keep_window(struct rewrite *rw, const struct change *c, struct patched *there, addr_t tramp,
				const struct trampoline *code, struct arena *a)
{
	struct patched w = { c->win, c->module, c->file_off, tramp, a->addr, c->stub };

	find_wait(&c->win, code, tramp, &w);
	a->live++;
	if (!there)
		return vec_push(&rw->fresh, w) ? NULL : uerr_nomem();
	target_arena(rw->t, there->arena)->live--;
	*there = w;
	return NULL;
}

/* The window's jump, to the trampoline at TRAMP. A punned one that is there stays
 * as it is: its stub leads elsewhere; so does a breakpoint. */
static struct uerr *put_jump(struct rewrite *rw, const struct change *c, const struct patched *there, addr_t tramp,
			     const struct trampoline *code)
{
	addr_t bias = rw->t->modules.data[c->module].bias;
	struct patched now = {};
	struct patch p;
	struct uerr *err = c->stub     ? put_stub(rw, c, tramp) :
			   c->win.trap ? traps_lead(rw->in, rw->t, bias + c->win.addr, tramp) :
					 NULL;

	if (err || ((c->stub || c->win.trap) && there))
		return err;
	patch_start(rw, c, there, &p);
	window_patch_bytes(&c->win, bias, c->stub ? c->stub : tramp, p.new_bytes);
	find_wait(&c->win, code, tramp, &now);
	if (there && now.waits && now.waits_off == there->waits_off)
		add_waiting(there, now.waits, &p);
	if (!there)
		add_moves(c, bias, tramp, code, &p);
	return inject_patch(rw->in, &p);
}

/* A window gets a new trampoline, whether one is there or not. */
static struct uerr *emit(struct rewrite *rw, const struct change *c, struct patched *there)
{
	struct arena *a = target_arena(rw->t, rw->groups.data[c->group].arena);
	const struct target_module *m = &rw->t->modules.data[c->module];
	void *local = view_local(rw, a->addr);
	struct tramp_env te = {
		.env = a->env,
		.tid_off = rw->t->tid_off,
		.threads = rw->t->threads_addr,
		.nrecs = THREAD_RECS_DEFAULT,
		.rec_slow = a->addr + runtime_thread_rec_off(),
		.cells = a->cells,
		.cell_take = a->addr + runtime_cell_take_off(),
		.side = is_go(rw->t, c) ? rw->t->side_addr : 0,
		.side_find = a->side_find,
	};
	struct hooks hooks = {};
	struct trampoline code = {};
	addr_t at = 0;
	struct uerr *err = make_hooks(rw, a, local, c, &hooks);

	if (!err)
		err = trampoline_emit(&c->win, m->bias, hooks.hook, hooks.n, &te, ALIGN_UP(a->addr + a->used, 16ul),
				      &code);
	if (!err) {
		at = arena_alloc(a, code.size);
		if (!at)
			err = uerr_new(UERR_FAILED, "the code arena is full");
	}
	if (!err) {
		memcpy(arena_local(a, local, at), code.code, code.size);
		err = put_jump(rw, c, there, at, &code);
	}
	if (!err)
		err = keep_window(rw, c, there, at, &code, a);
	trampoline_deinit(&code);
	free(hooks.calls);
	return err;
}

static struct uerr *restore(struct rewrite *rw, const struct change *c, struct patched *there)
{
	struct arena *a = target_arena(rw->t, there->arena);
	struct patch p;

	patch_start(rw, c, there, &p);
	memcpy(p.new_bytes, c->win.bytes, c->win.len);
	p.restore = true;
	add_waiting(there, p.addr + there->waits_off, &p);
	if (a)
		a->live--;
	if (there->stub)
		target_stub(rw->t, site_addr(rw->t, c->module, &c->win))->live = false;
	there->tramp = 0; /* swept after the last */
	return inject_patch(rw->in, &p);
}

static struct uerr *change_windows(struct rewrite *rw)
{
	struct target *t = rw->t;
	size_t n = 0;

	vec_foreach(c, rw->changes) {
		struct patched *there = c->installed ? target_window(t, c->module, c->win.addr, c->win.len) : NULL;
		struct uerr *err = c->restore ? restore(rw, c, there) : emit(rw, c, there);

		if (err)
			return err;
	}
	vec_foreach(w, &t->windows)
		if (w->tramp)
			t->windows.data[n++] = *w;
	t->windows.n = n;
	vec_foreach(w, &rw->fresh)
		if (!vec_push(&t->windows, *w))
			return uerr_nomem();
	target_sort(t);
	return NULL;
}

/*
 * Semaphores of USDT probes: one step up while any site of ours has it.
 */

static addr_t sema_addr(const struct target *t, const struct site *s)
{
	return s->sema ? t->modules.data[s->module].bias + s->sema : 0;
}

static bool has_sema(const struct target *t, addr_t addr)
{
	vec_foreach(s, &t->semas)
		if (s->addr == addr)
			return true;
	return false;
}

static bool wants_sema(const struct target *t, addr_t addr)
{
	vec_foreach(s, &t->sites)
		if (sema_addr(t, s) == addr)
			return true;
	return false;
}

static struct uerr *change_sema(struct rewrite *rw, const struct sema *s, bool raise)
{
	const struct target_module *m = &rw->t->modules.data[s->module];
	struct inject_sema change = { .addr = s->addr, .file_dev = m->dev, .file_ino = m->ino, .raise = raise };

	return inject_sema(rw->in, &change);
}

static struct uerr *change_semas(struct rewrite *rw)
{
	struct target *t = rw->t;
	struct uerr *err = NULL;
	size_t n = 0;

	vec_foreach(s, &t->semas) {
		if (wants_sema(t, s->addr))
			t->semas.data[n++] = *s;
		else if (!err)
			err = change_sema(rw, s, false);
	}
	t->semas.n = n;
	vec_foreach(site, &t->sites) {
		struct sema s = { sema_addr(t, site), site->module };

		if (err || !s.addr || has_sema(t, s.addr))
			continue;
		err = change_sema(rw, &s, true);
		if (!err && !vec_push(&t->semas, s))
			err = uerr_nomem();
	}
	return err;
}

/*
 * Taking away what is empty.
 */

static bool entered(void *arg)
{
	return threads_entered(arg);
}

static struct uerr *unmap_mappings(struct rewrite *rw, bool base)
{
	struct target *t = rw->t;
	struct uerr *err = NULL;

	vec_foreach(m, &t->mappings)
		if (!err && m->retired)
			err = inject_unmap(rw->in, m->addr, m->size, false, NULL, NULL);
	if (!err && base)
		err = inject_unmap(rw->in, t->threads_addr, t->threads->size, false, NULL, NULL);
	if (!err && base)
		err = inject_unmap(rw->in, t->private_addr, TARGET_PRIVATE_SIZE(THREAD_RECS_DEFAULT), false, NULL, NULL);
	if (!err && base && t->side_addr)
		err = inject_unmap(rw->in, t->side_addr, side_stacks_size(THREAD_RECS_DEFAULT), false, NULL, NULL);
	return err;
}

/* Any arena will do, an empty one too: code is unmapped last. */
static void use_batch(struct rewrite *rw)
{
	vec_foreach(a, &rw->t->arenas)
		if (a->batch)
			inject_use_batch(rw->in, a->batch);
}

static bool all_arenas_empty(const struct target *t)
{
	vec_foreach(a, &t->arenas)
		if (a->live)
			return false;
	return true;
}

/* Stubs that no window leads to any more: their page goes when it has no other,
 * and until then whoever stands on one keeps the code there. */
static struct uerr *unmap_empty_stubs(struct rewrite *rw)
{
	struct target *t = rw->t;
	struct uerr *err = NULL;

	vec_foreach(p, &t->stub_pages) {
		if (stub_page_live(t, p))
			continue;
		p->retired = true;
		err = inject_unmap_stubs(rw->in, p->addr, PAGE);
		if (err)
			return err;
	}
	vec_foreach(s, &t->stubs)
		if (!err && !s->live)
			err = inject_gate(rw->in, s->addr, STUB_MAX);
	return err;
}

/* When the last code goes, data goes with it; the injector takes code first,
 * and data only if no code stays. */
static struct uerr *unmap_empty_arenas(struct rewrite *rw)
{
	struct uerr *err;

	vec_foreach(a, &rw->t->arenas) {
		if (a->live)
			continue;
		a->retired = true;
		err = inject_unmap_counted(rw->in, a->addr, a->size, a->addr + a->code, a->addr + a->used, entered,
					   rw->t->threads);
		if (err)
			return err;
	}
	err = unmap_empty_stubs(rw);
	if (!err)
		err = unmap_cells(rw);
	if (!err)
		err = traps_settle(rw->in, rw->t, adds_traps(rw), rw->trap_range);
	if (err || !all_arenas_empty(rw->t))
		return err;
	vec_foreach(m, &rw->t->mappings)
		m->retired = true;
	return unmap_mappings(rw, rw->t->installed);
}

static bool journal_has(const struct journal *j, addr_t addr)
{
	for (size_t i = 0; i < j->nranges; i++)
		if (j->ranges[i].addr == addr)
			return true;
	return false;
}

static void forget_stubs(struct target *t, const struct journal *j)
{
	size_t n = 0;

	vec_foreach(p, &t->stub_pages)
		if (!p->retired || journal_has(j, p->addr))
			t->stub_pages.data[n++] = *p;
	t->stub_pages.n = n;
	n = 0;
	vec_foreach(s, &t->stubs)
		vec_foreach(p, &t->stub_pages)
			if (ALIGN_DOWN(s->addr, PAGE) == p->addr)
				t->stubs.data[n++] = *s;
	t->stubs.n = n;
}

/* The journal says which ranges are really gone. */
static void forget_unmapped(struct target *t, const char *journal)
{
	cleanup(journal_deinit) struct journal j = {};
	cleanup_uerr struct uerr *err = journal_read(journal, &j);
	size_t n = 0;

	if (err) /* what is retired stays so, and is tried again */
		return;
	vec_foreach(a, &t->arenas) {
		if (a->retired && !journal_has(&j, a->addr)) {
			vec_foreach(s, &t->sites)
				if (s->arena == a->addr)
					s->arena = 0;
			vec_free(&a->maps);
			vec_free(&a->progs);
			continue;
		}
		t->arenas.data[n++] = *a;
	}
	t->arenas.n = n;
	n = 0;
	forget_stubs(t, &j);
	vec_foreach(m, &t->mappings)
		if (!m->retired || journal_has(&j, m->addr))
			t->mappings.data[n++] = *m;
	t->mappings.n = n;
	if (t->cells_retired && !journal_has(&j, t->cells_addr) && !journal_has(&j, t->cells_addr - CELL_STUBS_SIZE)) {
		t->cells_addr = 0;
		t->cells_retired = false;
	}
	if (t->trap_retired && !journal_has(&j, t->trap_addr) && !journal_has(&j, t->trap_addr + TRAP_AREA_SIZE)) {
		t->trap_addr = 0;
		t->trap_retired = false;
		t->traps.n = 0;
	}
	if (t->side_addr && !journal_has(&j, t->side_addr))
		t->side_addr = 0;
	if (t->installed && !journal_has(&j, t->threads_addr) && !journal_has(&j, t->private_addr) && !t->side_addr)
		t->installed = false;
}

static bool arenas_use(const struct target *t, const struct mapping *m, const struct state *s)
{
	const struct loaded *o = m->claims ? state_object(s, m->map) : NULL;

	if (m->unwind) {
		vec_foreach(a, &t->arenas)
			if (a->unwind == m->addr)
				return true;
		return false;
	}
	if (m->claims && !o) /* unloaded: whose programs were its is not known any more */
		return t->arenas.n;
	vec_foreach(a, &t->arenas) {
		if (o && a->progs.n)
			for (size_t i = 0; i < o->obj->nprogs; i++)
				if (arena_has_program(a, o->progs[i].id))
					return true;
		vec_foreach(am, &a->maps)
			if (!m->claims && am->map == m->map)
				return true;
	}
	return false;
}

static struct uerr *begin(struct rewrite *rw)
{
	struct inject_opts io = {
		.pid = rw->t->pid,
		.journal = rw->journal,
		.uid = rw->opts->uid,
		.gid = rw->opts->gid,
	};
	struct uerr *err = inject_begin(&io, &rw->in);

	if (!err)
		inject_goroutines(rw->in, &rw->opts->go);
	return err;
}

static struct uerr *commit(struct rewrite *rw, struct stop *stop)
{
	struct inject_stats stats = {};
	struct uerr *err;

	vec_foreach(a, &rw->t->arenas)
		if (view_local(rw, a->addr))
			arena_seal(a, view_local(rw, a->addr), rw->t->threads_addr);
	err = inject_commit(rw->in, &stats);
	if (err)
		return err;
	stop->pid = rw->t->pid;
	memcpy(stop->comm, rw->t->comm, sizeof(stop->comm));
	stop->threads = stats.nthreads;
	stop->stopped_ns += stats.stopped_ns;
	stop->moved += stats.moved;
	rw->t->nthreads = stats.nthreads;
	rw->t->stops += stats.stops;
	rw->t->stopped_ns += stats.stopped_ns;
	if (rw->cells_leave)
		__atomic_fetch_add(&rw->t->threads->table->missed, stats.lost, __ATOMIC_RELAXED);
	return NULL;
}

/* Maps of objects that no arena serves any more, while others stay: in a
 * transaction of its own, when the arenas that used them have really gone. A
 * thread that is about to enter a trampoline is seen by nobody but the check of
 * the code that it stands in. */
static bool find_unused_data(struct target *t, const struct state *s)
{
	bool any = !t->arenas.n && t->installed;

	vec_foreach(m, &t->mappings) {
		m->retired = !arenas_use(t, m, s);
		any = any || m->retired;
	}
	return any;
}

static struct uerr *unmap_data(struct rewrite *rw, struct stop *stop)
{
	struct uerr *err = begin(rw);

	if (!err)
		err = unmap_mappings(rw, !rw->t->arenas.n && rw->t->installed);
	if (!err)
		err = commit(rw, stop);
	inject_end(rw->in);
	rw->in = NULL;
	return err;
}

static struct uerr *check_traps(struct rewrite *rw, struct stop *stop)
{
	struct uerr *err = begin(rw);

	if (!err) {
		inject_traps(rw->in, rw->t->trap_addr, TRAPS_CHECK, 0, 0);
		err = commit(rw, stop);
		stop->traps_lost = inject_traps_lost(rw->in);
	}
	inject_end(rw->in);
	rw->in = NULL;
	return err;
}

static struct uerr *change_code(struct rewrite *rw, struct stop *stop)
{
	struct uerr *err = make_groups(rw);

	if (!err)
		err = want_unwind(rw);
	for (size_t i = 0; !err && i < rw->groups.n; i++)
		err = choose_arena(rw, &rw->groups.data[i]);
	if (!err)
		err = want_unwind_range(rw);
	if (!err)
		err = want_mappings(rw);
	if (!err)
		err = want_base(rw);
	if (!err)
		err = want_cells(rw);
	if (!err)
		err = want_side(rw);
	if (!err)
		err = want_traps(rw);
	if (!err)
		err = choose_stubs(rw);
	if (!err)
		err = begin(rw);
	if (!err)
		err = place_all(rw);
	if (!err)
		err = change_windows(rw);
	if (!err)
		err = change_semas(rw);
	if (!err)
		err = unmap_empty_arenas(rw);
	if (!err) {
		use_batch(rw);
		err = commit(rw, stop);
	}
	inject_end(rw->in);
	rw->in = NULL;
	return err;
}

static void rewrite_deinit(struct rewrite *rw)
{
	vec_foreach(g, &rw->groups)
		vec_free(&g->programs);
	vec_foreach(v, &rw->views)
		munmap(v->local, v->size);
	vec_foreach(fd, &rw->fds)
		close(*fd);
	vec_free(&rw->groups);
	vec_free(&rw->ranges);
	vec_free(&rw->new_maps);
	vec_free(&rw->views);
	vec_free(&rw->fresh);
	vec_free(&rw->fds);
	unwind_plan_deinit(&rw->unwind);
	if (rw->unwind_fd >= 0)
		close(rw->unwind_fd);
	free(rw->journal);
}

static bool has_empty_code(const struct target *t)
{
	if (t->cells_retired || t->trap_retired)
		return true;
	vec_foreach(p, &t->stub_pages)
		if (!stub_page_live(t, p))
			return true;
	vec_foreach(a, &t->arenas)
		if (!a->live)
			return true;
	return false;
}

/* A journal that says nothing is no use to anybody. */
static void tidy_journal(const char *path)
{
	cleanup(journal_deinit) struct journal j = {};
	cleanup_uerr struct uerr *err = journal_read(path, &j);

	if (!err && !j.nranges && !j.nsites && !j.nsemas)
		unlink(path);
}

/* One transaction. */
typedef struct uerr *step_fn(struct rewrite *rw, struct stop *stop);

static struct uerr *run(const struct rewrite_opts *opts, struct target *t, change_vec *changes, step_fn *step,
			struct stop *stop)
{
	cleanup(rewrite_deinit) struct rewrite rw = {
		.opts = opts,
		.s = opts->d->state,
		.t = t,
		.changes = changes,
		.journal = target_journal(opts->d->cfg.state_dir, t->pid),
		.unwind_fd = -1,
	};

	return rw.journal ? step(&rw, stop) : uerr_nomem();
}

/*
 * Under another user's rights. Taking them is for good, and the journals are
 * ours, so each transaction has a process of its own.
 */

static void run_and_send(const struct rewrite_opts *opts, struct target *t, change_vec *changes, step_fn *step,
			 struct stop *so_far, int fd)
{
	struct stop stop = *so_far;
	struct uerr *err = run(opts, t, changes, step, &stop);
	struct packer p = {};
	size_t done = 0;

	pack_bytes(&p, &stop, sizeof(stop));
	pack_u8(&p, err != NULL);
	if (err)
		pack_err(&p, err);
	else
		target_pack(t, &p);
	while (!p.failed && done < p.n) {
		ssize_t k = write(fd, p.data + done, p.n - done);

		if (k < 0 && errno != EINTR)
			_exit(1);
		done += k > 0 ? k : 0;
	}
	_exit(p.failed);
}

static struct uerr *take_answer(struct packer *bytes, struct target *t, struct stop *stop)
{
	struct unpacker u = { bytes->data, bytes->data + bytes->n, bytes->failed || !bytes->n };
	struct target *changed;
	struct uerr *err;

	if (u.failed)
		return uerr_new(UERR_FAILED, "process %d: the helper that took its owner's rights died", t->pid);
	unpack_bytes(&u, stop, sizeof(*stop));
	if (unpack_u8(&u))
		return unpack_err(&u);
	err = target_unpack(&u, &changed);
	if (err)
		return err;
	target_replace(t, changed);
	return NULL;
}

static struct uerr *run_apart(const struct rewrite_opts *opts, struct target *t, change_vec *changes, step_fn *step,
			      struct stop *stop)
{
	struct packer bytes = {};
	char buf[65536];
	struct uerr *err;
	int fds[2];
	ssize_t k;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return uerr_errno(errno, "making a pipe");
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fds[0]);
		run_and_send(opts, t, changes, step, stop, fds[1]);
	}
	close(fds[1]);
	while (pid > 0 && ((k = read(fds[0], buf, sizeof(buf))) > 0 || (k < 0 && errno == EINTR)))
		if (k > 0)
			pack_bytes(&bytes, buf, k);
	close(fds[0]);
	if (pid < 0)
		return uerr_errno(errno, "starting a helper");
	waitpid(pid, NULL, 0);
	err = take_answer(&bytes, t, stop);
	packer_deinit(&bytes);
	return err;
}

static struct uerr *run_step(const struct rewrite_opts *opts, struct target *t, change_vec *changes, step_fn *step,
			     const char *journal, struct stop *stop)
{
	bool apart = geteuid() == 0 && opts->uid != (uid_t)-1 && opts->uid != 0;
	struct uerr *err = apart ? run_apart(opts, t, changes, step, stop) : run(opts, t, changes, step, stop);

	if (!err)
		forget_unmapped(t, journal);
	return err;
}

struct uerr *rewrite_check_traps(const struct rewrite_opts *opts, struct target *t, struct stop *stop)
{
	cleanup_free char *journal = target_journal(opts->d->cfg.state_dir, t->pid);
	change_vec none = {}, changes = {};
	struct uerr *err;

	if (!t->trap_addr || t->trap_retired)
		return NULL;
	if (!journal)
		return uerr_nomem();
	err = run_step(opts, t, &none, check_traps, journal, stop);
	if (!err || !stop->traps_lost)
		return err;
	uerr_free(err);
	stop->pid = t->pid;
	memcpy(stop->comm, t->comm, sizeof(stop->comm));
	stop->traps_lost = traps_drop(t, &changes);
	err = stop->traps_lost ? rewrite_run(opts, t, &changes, stop) : uerr_nomem();
	vec_free(&changes);
	return err;
}

struct uerr *rewrite_run(const struct rewrite_opts *opts, struct target *t, change_vec *changes, struct stop *stop)
{
	cleanup_free char *journal = target_journal(opts->d->cfg.state_dir, t->pid);
	cleanup_uerr struct uerr *data_err = NULL;
	struct uerr *err = NULL;

	if (!journal)
		return uerr_nomem();
	if (changes->n || has_empty_code(t))
		err = run_step(opts, t, changes, change_code, journal, stop);
	/* what cannot be unmapped now is tried again later: no reason to fail */
	if (!err && find_unused_data(t, opts->d->state))
		data_err = run_step(opts, t, changes, unmap_data, journal, stop);
	tidy_journal(journal);
	stop->retired = target_retired(t);
	return err;
}
