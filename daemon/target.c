/* SPDX-License-Identifier: MIT */
/* One process and what lies in it; see target.h. */
#include "daemon/target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cells.h"
#include "base/trap.h"
#include "base/cleanup.h"
#include "daemon/procinfo.h"
#include "daemon/state.h"
#include "injector/trampoline.h"
#include "vm/runtime.h"

struct thread_rec *threads_rec(const struct threads *t, u32 i)
{
	return (struct thread_rec *)((char *)t->table + THREAD_RECS_OFF) + i;
}

static struct uerr *threads_map(struct threads *t)
{
	t->fd = memfd_create("uprobed-threads", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (t->fd < 0 || ftruncate(t->fd, t->size) < 0)
		return uerr_errno(errno, "memory for thread records");
	if (fcntl(t->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return uerr_errno(errno, "sealing thread records");
	t->table = mmap(NULL, t->size, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
	if (t->table == MAP_FAILED) {
		t->table = NULL;
		return uerr_errno(errno, "mapping thread records");
	}
	t->ring = (char *)t->table + t->ring_off;
	t->table->magic = THREAD_TABLE_MAGIC;
	t->table->version = TARGET_ABI_VERSION;
	t->table->nrecs = THREAD_RECS_DEFAULT;
	trace_ring_format(t->ring);
	return NULL;
}

struct uerr *threads_create(u32 no, struct threads **ret)
{
	struct threads *t = calloc(1, sizeof(*t));
	struct uerr *err;

	if (!t)
		return uerr_nomem();
	t->refs = 1;
	t->no = no;
	t->fd = -1;
	t->ring_off = ALIGN_UP(THREAD_TABLE_SIZE(THREAD_RECS_DEFAULT), PAGE);
	t->size = ALIGN_UP(t->ring_off + trace_ring_size(), PAGE);
	err = threads_map(t);
	if (err) {
		threads_unref(t);
		return err;
	}
	*ret = t;
	return NULL;
}

struct threads *threads_ref(struct threads *t)
{
	t->refs++;
	return t;
}

void threads_unref(struct threads *t)
{
	if (!t || --t->refs)
		return;
	if (t->table)
		munmap(t->table, t->size);
	if (t->fd >= 0)
		close(t->fd);
	free(t);
}

u64 threads_missed(const struct threads *t)
{
	u64 sum = __atomic_load_n(&t->table->missed, __ATOMIC_RELAXED);

	for (u32 i = 0; i <= THREAD_RECS_DEFAULT; i++)
		sum += __atomic_load_n(&threads_rec(t, i)->missed, __ATOMIC_RELAXED);
	return sum;
}

bool threads_entered(const struct threads *t)
{
	u64 entries = 0, leaves = 0;

	for (u32 i = 0; i <= THREAD_RECS_DEFAULT; i++) {
		entries += __atomic_load_n(&threads_rec(t, i)->entries, __ATOMIC_ACQUIRE);
		leaves += __atomic_load_n(&threads_rec(t, i)->leaves, __ATOMIC_ACQUIRE);
	}
	return entries != leaves;
}

char *target_journal(const char *state_dir, pid_t pid)
{
	char *path;

	return asprintf(&path, "%s/targets/%d.journal", state_dir, pid) < 0 ? NULL : path;
}

struct uerr *target_create(u32 no, pid_t pid, struct target **ret)
{
	struct target *t;
	struct procinfo pi;
	struct uerr *err = procinfo_read(pid, &pi);

	if (err)
		return err;
	t = calloc(1, sizeof(*t));
	if (!t)
		return uerr_nomem();
	t->no = no;
	t->pid = pid;
	t->uid = pi.uid;
	t->starttime = pi.starttime;
	t->pidfd = -1;
	memcpy(t->comm, pi.comm, sizeof(t->comm));
	time_text(t->since);
	t->path = strdup(pi.exe);
	err = t->path ? threads_create(no, &t->threads) : uerr_nomem();
	if (err) {
		target_destroy(t);
		return err;
	}
	*ret = t;
	return NULL;
}

void target_destroy(struct target *t)
{
	if (!t)
		return;
	vec_foreach(m, &t->modules) {
		free(m->name);
		free(m->path);
	}
	vec_foreach(a, &t->arenas) {
		vec_free(&a->maps);
		vec_free(&a->progs);
	}
	vec_foreach(s, &t->sites)
		free(s->symbol);
	vec_free(&t->modules);
	vec_free(&t->mappings);
	vec_free(&t->arenas);
	vec_free(&t->stub_pages);
	vec_free(&t->stubs);
	vec_free(&t->traps);
	vec_free(&t->windows);
	vec_free(&t->calls);
	vec_free(&t->sites);
	vec_free(&t->semas);
	threads_unref(t->threads);
	if (t->pidfd >= 0)
		close(t->pidfd);
	free(t->source);
	free(t->path);
	free(t);
}

bool target_is_clean(const struct target *t)
{
	return !t->installed && !t->cells_addr && !t->trap_addr && !t->windows.n && !t->arenas.n && !t->stub_pages.n && !t->mappings.n && !t->leftover;
}

u32 target_count_sites(const struct target *t, u32 link)
{
	u32 n = 0;

	vec_foreach(s, &t->sites)
		n += s->link == link;
	return n;
}

bool target_has_link(const struct target *t, u32 link)
{
	return target_count_sites(t, link) > 0;
}

u32 target_retired(const struct target *t)
{
	u32 n = 0;

	vec_foreach(a, &t->arenas)
		n += a->retired;
	vec_foreach(p, &t->stub_pages)
		n += p->retired;
	vec_foreach(m, &t->mappings)
		n += m->retired;
	return n + t->cells_retired + t->trap_retired;
}

bool target_takes_over(const struct target *t, const u32 *links, size_t nlinks)
{
	vec_foreach(s, &t->sites) {
		bool other = s->link && s->exit && tactic_takes_over(s->tactic);

		for (size_t i = 0; i < nlinks; i++)
			other = other && s->link != links[i];
		if (other)
			return true;
	}
	return false;
}

bool is_takeover_guard(const struct call *c)
{
	return !c->link && c->program != GUARD_PROGRAM(GUARD_IDENTITY);
}

bool target_has_guards(const struct target *t)
{
	vec_foreach(c, &t->calls)
		if (is_takeover_guard(c))
			return true;
	return false;
}

bool target_watches_identity(const struct target *t)
{
	vec_foreach(c, &t->calls)
		if (!c->link && !is_takeover_guard(c))
			return true;
	return false;
}

u64 target_mapped_bytes(const struct target *t)
{
	u64 sum = (t->installed ? t->threads->size + TARGET_PRIVATE_SIZE(THREAD_RECS_DEFAULT) : 0) + t->stub_pages.n * PAGE;

	sum += t->cells_addr ? CELL_STUBS_SIZE + CELL_AREA_SIZE : 0;
	sum += t->trap_addr ? TRAP_AREA_SIZE + TRAP_DATA_SIZE : 0;
	sum += t->side_addr ? side_stacks_size(THREAD_RECS_DEFAULT) : 0;
	vec_foreach(a, &t->arenas)
		sum += a->size;
	return sum;
}

u64 target_map_bytes(const struct target *t)
{
	u64 sum = 0;

	vec_foreach(m, &t->mappings)
		sum += m->size;
	return sum;
}

struct arena *target_arena(const struct target *t, addr_t addr)
{
	vec_foreach(a, &t->arenas)
		if (a->addr == addr)
			return a;
	return NULL;
}

struct stub *target_stub(const struct target *t, addr_t site)
{
	vec_foreach(s, &t->stubs)
		if (s->site == site)
			return s;
	return NULL;
}

bool stub_page_live(const struct target *t, const struct stub_page *page)
{
	vec_foreach(s, &t->stubs)
		if (s->live && ALIGN_DOWN(s->addr, PAGE) == page->addr)
			return true;
	return false;
}

struct mapping *target_mapping(const struct target *t, u32 map, bool claims)
{
	vec_foreach(m, &t->mappings)
		if (!m->unwind && m->map == map && m->claims == claims)
			return m;
	return NULL;
}

struct mapping *target_unwind(const struct target *t, u64 key)
{
	vec_foreach(m, &t->mappings)
		if (m->unwind == key)
			return m;
	return NULL;
}

u32 target_module_index(struct target *t, const struct target_module *m)
{
	struct target_module copy = *m;

	for (size_t i = 0; i < t->modules.n; i++) {
		const struct target_module *o = &t->modules.data[i];

		if (o->bias == m->bias && o->dev == m->dev && o->ino == m->ino)
			return i;
	}
	copy.name = strdup(m->name);
	copy.path = strdup(m->path);
	if (!copy.name || !copy.path || !vec_push(&t->modules, copy)) {
		free(copy.name);
		free(copy.path);
		return UINT32_MAX;
	}
	return t->modules.n - 1;
}

static int compare_calls(const void *a, const void *b)
{
	const struct call *x = a, *y = b;

	if (x->module != y->module)
		return x->module < y->module ? -1 : 1;
	if (x->point != y->point)
		return x->point < y->point ? -1 : 1;
	if (x->exit != y->exit)
		return x->exit - y->exit;
	return x->site < y->site ? -1 : x->site > y->site;
}

static int compare_windows(const void *a, const void *b)
{
	const struct patched *x = a, *y = b;

	if (x->module != y->module)
		return x->module < y->module ? -1 : 1;
	return x->win.addr < y->win.addr ? -1 : x->win.addr > y->win.addr;
}

void target_sort(struct target *t)
{
	if (t->calls.n)
		qsort(t->calls.data, t->calls.n, sizeof(*t->calls.data), compare_calls);
	if (t->windows.n)
		qsort(t->windows.data, t->windows.n, sizeof(*t->windows.data), compare_windows);
}

struct site *target_site(const struct target *t, u32 key)
{
	size_t lo = 0, hi = t->sites.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (t->sites.data[mid].key < key)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < t->sites.n && t->sites.data[lo].key == key ? &t->sites.data[lo] : NULL;
}

const struct call *target_calls(const struct target *t, u32 module, addr_t point, bool exit, size_t *ncalls)
{
	struct call want = { .module = module, .point = point, .exit = exit };
	size_t lo = 0, hi = t->calls.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (compare_calls(&t->calls.data[mid], &want) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (*ncalls = 0; lo + *ncalls < t->calls.n; ++*ncalls) {
		const struct call *c = &t->calls.data[lo + *ncalls];

		if (c->module != module || c->point != point || c->exit != exit)
			break;
	}
	return t->calls.data + lo;
}

struct patched *target_window(const struct target *t, u32 module, addr_t addr, u32 len)
{
	size_t lo = 0, hi = t->windows.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct patched *w = &t->windows.data[mid];

		if (w->module < module || (w->module == module && w->win.addr + w->win.len <= addr))
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == t->windows.n || t->windows.data[lo].module != module || t->windows.data[lo].win.addr >= addr + len)
		return NULL;
	return &t->windows.data[lo];
}

struct uerr *target_clone(const struct target *t, pid_t pid, struct target **ret)
{
	struct packer p = {};
	struct unpacker u;
	struct procinfo pi;
	struct target *c;
	struct uerr *err = procinfo_read(pid, &pi);

	if (err)
		return err;
	target_pack(t, &p);
	u = (struct unpacker){ p.data, p.data + p.n, p.failed };
	err = target_unpack(&u, &c);
	packer_deinit(&p);
	if (err)
		return err;
	c->pid = pid;
	c->uid = pi.uid;
	c->starttime = pi.starttime;
	memcpy(c->comm, pi.comm, sizeof(c->comm));
	time_text(c->since);
	c->stops = 0;
	c->stopped_ns = 0;
	c->threads = threads_ref(t->threads);
	vec_foreach(a, &c->arenas)
		a->full = true;
	*ret = c;
	return NULL;
}

void target_replace(struct target *t, struct target *changed)
{
	struct target old = *t;

	*t = *changed;
	t->threads = steal_ptr(old.threads);
	t->pidfd = old.pidfd;
	t->source = steal_ptr(old.source);
	t->next_retry_ns = old.next_retry_ns;
	t->retries = old.retries;
	t->leftover = old.leftover;
	old.pidfd = -1;
	*changed = old;
	target_destroy(changed);
}

static void pack_arena(const struct arena *a, struct packer *p)
{
	pack_u64(p, a->addr);
	pack_u64(p, a->size);
	pack_u64(p, a->used);
	pack_u64(p, a->code);
	pack_u64(p, a->top);
	pack_u64(p, a->inode);
	pack_u32(p, a->live);
	pack_u8(p, a->retired);
	pack_u8(p, a->full);
	pack_u64(p, a->env);
	pack_u64(p, a->cells);
	pack_u64(p, a->unwind);
	pack_u64(p, a->batch);
	pack_u64(p, a->side_find);
	pack_u32(p, a->maps.n);
	pack_bytes(p, a->maps.data, a->maps.n * sizeof(*a->maps.data));
	pack_u32(p, a->progs.n);
	pack_bytes(p, a->progs.data, a->progs.n * sizeof(*a->progs.data));
}

static void pack_sites(const struct target *t, struct packer *p)
{
	pack_u32(p, t->sites.n);
	vec_foreach(s, &t->sites) {
		struct site flat = *s;

		flat.symbol = NULL;
		pack_bytes(p, &flat, sizeof(flat));
		pack_str(p, s->symbol);
	}
}

static void pack_semas(const struct target *t, struct packer *p)
{
	pack_u32(p, t->semas.n);
	pack_bytes(p, t->semas.data, t->semas.n * sizeof(*t->semas.data));
}

void target_pack(const struct target *t, struct packer *p)
{
	pack_u32(p, t->no);
	pack_u32(p, t->pid);
	pack_u32(p, t->uid);
	pack_u64(p, t->starttime);
	pack_bytes(p, t->comm, sizeof(t->comm));
	pack_str(p, t->path);
	pack_bytes(p, t->since, sizeof(t->since));
	pack_u8(p, t->installed);
	pack_u64(p, t->tid_off);
	pack_u64(p, t->rseq_off);
	pack_u32(p, t->denied);
	pack_u64(p, t->clock);
	pack_u64(p, t->main_stack_lo);
	pack_u64(p, t->main_stack_hi);
	pack_u64(p, t->threads_addr);
	pack_u64(p, t->private_addr);
	pack_u64(p, t->cells_addr);
	pack_u8(p, t->cells_retired);
	pack_u64(p, t->trap_addr);
	pack_u8(p, t->trap_retired);
	pack_u64(p, t->side_addr);
	pack_u32(p, t->last_site);
	pack_u32(p, t->nthreads);
	pack_u32(p, t->stops);
	pack_u64(p, t->stopped_ns);
	pack_u32(p, t->modules.n);
	vec_foreach(m, &t->modules) {
		pack_str(p, m->name);
		pack_str(p, m->path);
		pack_u64(p, m->bias);
		pack_u64(p, m->lo);
		pack_u64(p, m->hi);
		pack_u64(p, m->dev);
		pack_u64(p, m->ino);
		pack_u64(p, m->go_lo);
		pack_u64(p, m->go_hi);
	}
	pack_u32(p, t->arenas.n);
	vec_foreach(a, &t->arenas)
		pack_arena(a, p);
	pack_u32(p, t->stub_pages.n);
	pack_bytes(p, t->stub_pages.data, t->stub_pages.n * sizeof(*t->stub_pages.data));
	pack_u32(p, t->stubs.n);
	pack_bytes(p, t->stubs.data, t->stubs.n * sizeof(*t->stubs.data));
	pack_u32(p, t->traps.n);
	pack_bytes(p, t->traps.data, t->traps.n * sizeof(*t->traps.data));
	pack_u32(p, t->mappings.n);
	pack_bytes(p, t->mappings.data, t->mappings.n * sizeof(*t->mappings.data));
	pack_u32(p, t->windows.n);
	pack_bytes(p, t->windows.data, t->windows.n * sizeof(*t->windows.data));
	pack_u32(p, t->calls.n);
	pack_bytes(p, t->calls.data, t->calls.n * sizeof(*t->calls.data));
	pack_sites(t, p);
	pack_semas(t, p);
}

/* An array of plain structs, as pack_bytes() wrote it after its count. */
#define unpack_vec(u, v)                                                                        \
	do {                                                                                    \
		size_t _n = unpack_count(u, sizeof(*(v)->data));                                \
		(v)->data = _n ? calloc(_n, sizeof(*(v)->data)) : NULL;                         \
		if (_n && !(v)->data)                                                           \
			(u)->failed = true;                                                     \
		else if (_n)                                                                    \
			unpack_bytes(u, (v)->data, _n * sizeof(*(v)->data));                    \
		(v)->n = (v)->cap = (v)->data ? _n : 0;                                         \
	} while (0)

static void unpack_arena(struct unpacker *u, struct target *t)
{
	struct arena a = {};

	a.addr = unpack_u64(u);
	a.size = unpack_u64(u);
	a.used = unpack_u64(u);
	a.code = unpack_u64(u);
	a.top = unpack_u64(u);
	a.inode = unpack_u64(u);
	a.live = unpack_u32(u);
	a.retired = unpack_u8(u);
	a.full = unpack_u8(u);
	a.env = unpack_u64(u);
	a.cells = unpack_u64(u);
	a.unwind = unpack_u64(u);
	a.batch = unpack_u64(u);
	a.side_find = unpack_u64(u);
	unpack_vec(u, &a.maps);
	unpack_vec(u, &a.progs);
	if (!vec_push(&t->arenas, a)) {
		vec_free(&a.maps);
		vec_free(&a.progs);
		u->failed = true;
	}
}

static void unpack_module(struct unpacker *u, struct target *t)
{
	struct target_module m = {};

	m.name = unpack_str(u);
	m.path = unpack_str(u);
	m.bias = unpack_u64(u);
	m.lo = unpack_u64(u);
	m.hi = unpack_u64(u);
	m.dev = unpack_u64(u);
	m.ino = unpack_u64(u);
	m.go_lo = unpack_u64(u);
	m.go_hi = unpack_u64(u);
	if (!m.name || !m.path || !vec_push(&t->modules, m)) {
		free(m.name);
		free(m.path);
		u->failed = true;
	}
}

/* A bool that came as a byte may be none. */
static bool is_bool(const bool *b)
{
	u8 v;

	memcpy(&v, b, sizeof(v));
	return v <= 1;
}

static void unpack_site(struct unpacker *u, struct target *t)
{
	struct site s;

	unpack_bytes(u, &s, sizeof(s));
	s.symbol = unpack_str(u);
	if (!s.symbol || s.module >= t->modules.n || !is_bool(&s.exit) || !vec_push(&t->sites, s)) {
		free(s.symbol);
		u->failed = true;
	}
}

static bool window_holds(const struct patched *w, const struct target *t)
{
	if (w->module >= t->modules.n || w->win.len + w->win.keep > WINDOW_MAX || w->win.npoints > ARRAY_SIZE(w->win.points))
		return false;
	for (unsigned i = 0; i < w->win.npoints; i++)
		if (w->win.points[i].kind >= HOOK_KINDS)
			return false;
	return is_bool(&w->win.trap);
}

/* What the daemon follows later. */
static bool contents_hold(const struct target *t)
{
	vec_foreach(w, &t->windows)
		if (!window_holds(w, t))
			return false;
	vec_foreach(c, &t->calls)
		if (c->module >= t->modules.n || !is_bool(&c->exit))
			return false;
	vec_foreach(s, &t->semas)
		if (s->module >= t->modules.n)
			return false;
	vec_foreach(p, &t->stub_pages)
		if (!is_bool(&p->retired))
			return false;
	vec_foreach(s, &t->stubs)
		if (!is_bool(&s->live))
			return false;
	vec_foreach(m, &t->mappings)
		if (!is_bool(&m->claims) || !is_bool(&m->retired))
			return false;
	return true;
}

static void unpack_target(struct unpacker *u, struct target *t)
{
	t->no = unpack_u32(u);
	t->pid = unpack_u32(u);
	t->uid = unpack_u32(u);
	t->starttime = unpack_u64(u);
	unpack_bytes(u, t->comm, sizeof(t->comm));
	t->comm[sizeof(t->comm) - 1] = 0;
	t->path = unpack_str(u);
	unpack_bytes(u, t->since, sizeof(t->since));
	t->since[sizeof(t->since) - 1] = 0;
	t->installed = unpack_u8(u);
	t->tid_off = unpack_u64(u);
	t->rseq_off = unpack_u64(u);
	t->denied = unpack_u32(u);
	t->clock = unpack_u64(u);
	t->main_stack_lo = unpack_u64(u);
	t->main_stack_hi = unpack_u64(u);
	t->threads_addr = unpack_u64(u);
	t->private_addr = unpack_u64(u);
	t->cells_addr = unpack_u64(u);
	t->cells_retired = unpack_u8(u);
	t->trap_addr = unpack_u64(u);
	t->trap_retired = unpack_u8(u);
	t->side_addr = unpack_u64(u);
	t->last_site = unpack_u32(u);
	t->nthreads = unpack_u32(u);
	t->stops = unpack_u32(u);
	t->stopped_ns = unpack_u64(u);
	for (size_t i = 0, n = unpack_count(u, 32); i < n && !u->failed; i++)
		unpack_module(u, t);
	for (size_t i = 0, n = unpack_count(u, 50); i < n && !u->failed; i++)
		unpack_arena(u, t);
	unpack_vec(u, &t->stub_pages);
	unpack_vec(u, &t->stubs);
	unpack_vec(u, &t->traps);
	unpack_vec(u, &t->mappings);
	unpack_vec(u, &t->windows);
	unpack_vec(u, &t->calls);
	for (size_t i = 0, n = unpack_count(u, sizeof(struct site)); i < n && !u->failed; i++)
		unpack_site(u, t);
	unpack_vec(u, &t->semas);
	if (!t->path || !contents_hold(t))
		u->failed = true;
}

struct uerr *target_unpack(struct unpacker *u, struct target **ret)
{
	struct target *t = calloc(1, sizeof(*t));

	if (!t)
		return uerr_nomem();
	t->pidfd = -1;
	unpack_target(u, t);
	if (u->failed) {
		target_destroy(t);
		return uerr_new(UERR_FAILED, "the worker's answer makes no sense");
	}
	*ret = t;
	return NULL;
}
