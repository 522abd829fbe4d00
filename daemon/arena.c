/* SPDX-License-Identifier: MIT */
/* Filling code arenas; see arena.h. */
#include "daemon/arena.h"

#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "injector/inject.h"
#include "injector/trampoline.h"
#include "vm/runtime.h"

#define TRAILER_SIZE ALIGN_UP(sizeof(struct arena_trailer), 64ul)
#define PROG_ALIGN 64ul /* jit.c aligns loop heads from the start of the code */

u64 arena_base_size(void)
{
	size_t batch, side;

	inject_batch_code(&batch);
	side_find_code(&side);
	return ALIGN_UP(runtime_blob()->size, 64ul) + ALIGN_UP(batch, 64ul) + ALIGN_UP(side, 64ul) + ALIGN_UP(sizeof(struct target_env), 64ul) +
	       TRAILER_SIZE;
}

/* Of one PROG_ARRAY map: where a tail call of each program of the object leads. */
static u64 table_size(const struct loaded *o)
{
	return o->obj->nprogs * sizeof(u64);
}

/* Whether Q must be there for P to run: P itself, and if it makes tail calls all
 * programs of its object. */
static bool wants_program(const struct program *p, const struct program *q)
{
	return p == q || vm_prog_calls(p->prog, BPF_FUNC_tail_call);
}

static bool any_wants_program(const struct program *const *progs, size_t n, const struct program *q)
{
	for (size_t i = 0; i < n; i++)
		if (progs[i]->owner == q->owner && wants_program(progs[i], q))
			return true;
	return false;
}

static u64 object_size(const struct loaded *o, const struct program *const *progs, size_t n)
{
	u64 size = o->obj->nmaps * (ALIGN_UP(sizeof(struct umap), 16ul) + ALIGN_UP(table_size(o), 16ul)) + 64;

	for (size_t i = 0; i < o->obj->nprogs; i++)
		if (any_wants_program(progs, n, &o->progs[i]))
			size += ALIGN_UP(jit_size_bound(o->progs[i].prog), 16ul) + PROG_ALIGN;
	return size;
}

u64 arena_programs_size(const struct program *const *progs, size_t n)
{
	u64 size = 0;

	for (size_t i = 0; i < n; i++) {
		bool seen = false;

		for (size_t k = 0; k < i; k++)
			seen = seen || progs[k]->owner == progs[i]->owner;
		if (!seen)
			size += object_size(progs[i]->owner, progs, n);
	}
	return size;
}

u64 arena_window_size(const struct window *w, size_t ncalls)
{
	return ALIGN_UP(trampoline_size_bound(w, ncalls), 16ul);
}

void arena_start(struct arena *a, void *local, const struct target_env *env)
{
	const struct runtime_blob *blob = runtime_blob();
	struct target_env here = *env;
	const u8 *batch;
	size_t size;

	here.code_lo = a->addr;
	here.code_hi = a->addr + a->size;
	memcpy(local, blob->bytes, blob->size);
	a->used = blob->size;
	a->top = a->size - TRAILER_SIZE;
	batch = inject_batch_code(&size);
	a->batch = arena_alloc(a, size);
	memcpy(arena_local(a, local, a->batch), batch, size);
	a->env = arena_alloc(a, sizeof(*env));
	memcpy(arena_local(a, local, a->env), &here, sizeof(here));
}

void arena_seal(const struct arena *a, void *local, addr_t threads)
{
	struct arena_trailer t = { .magic = ARENA_TRAILER_MAGIC, .version = TARGET_ABI_VERSION,
				   .nrecs = THREAD_RECS_DEFAULT, .threads = threads, .code = a->code, .top = a->top };

	memcpy((u8 *)local + a->size - sizeof(t), &t, sizeof(t));
}

static addr_t alloc_aligned(struct arena *a, u64 size, u64 align)
{
	u64 off = ALIGN_UP(a->used, align);

	if (off + size > a->top)
		return 0;
	a->used = off + size;
	return a->addr + off;
}

addr_t arena_alloc(struct arena *a, u64 size)
{
	return alloc_aligned(a, size, 16);
}

addr_t arena_alloc_constants(struct arena *a, u64 size)
{
	size = ALIGN_UP(size, 16ul);
	if (a->used + size > a->top)
		return 0;
	a->top -= size;
	return a->addr + a->top;
}

static const struct arena_prog *find_program(const struct arena *a, u32 program)
{
	vec_foreach(p, &a->progs)
		if (p->program == program)
			return p;
	return NULL;
}

bool arena_has_program(const struct arena *a, u32 program)
{
	return find_program(a, program);
}

static addr_t find_desc(const struct arena *a, u32 map)
{
	vec_foreach(m, &a->maps)
		if (m->map == map)
			return m->desc;
	return 0;
}

addr_t arena_rings(const struct arena *a, const struct loaded *o)
{
	for (size_t i = 0; i < o->obj->nmaps; i++)
		if (o->maps[i].umap.type == UMAP_RINGBUF)
			return find_desc(a, o->maps[i].id);
	return 0;
}

static addr_t helper_addr(u32 id, void *arg)
{
	const struct arena *a = arg;
	u32 off = runtime_helper_off(id);

	return off ? a->addr + off : 0;
}

/* The descriptor as the target sees it: base is where it has the map. */
static struct uerr *target_desc(const struct target *t, const struct map *m, struct umap *ret)
{
	const struct mapping *where = target_mapping(t, m->id, false);

	if (!where)
		return uerr_new(UERR_FAILED, "map %s is not in process %d", m->name, t->pid);
	*ret = m->umap;
	ret->base = where->addr;
	return NULL;
}

/* RINGS: those of the maps behind M, which have been added. */
static struct uerr *add_desc(struct arena *a, void *local, const struct target *t, const struct map *m, addr_t rings)
{
	struct arena_map am = { .map = m->id };
	struct umap desc;
	struct uerr *err;

	if (find_desc(a, m->id))
		return NULL;
	err = target_desc(t, m, &desc);
	if (err)
		return err;
	if (desc.type == UMAP_PROG_ARRAY) {
		desc.nprogs = m->owner->obj->nprogs;
		desc.progs = arena_alloc(a, table_size(m->owner));
		if (!desc.progs)
			return uerr_new(UERR_FAILED, "the code arena is full");
	}
	desc.next_ring = rings;
	am.desc = arena_alloc(a, sizeof(desc));
	if (!am.desc)
		return uerr_new(UERR_FAILED, "the code arena is full");
	memcpy(arena_local(a, local, am.desc), &desc, sizeof(desc));
	return vec_push(&a->maps, am) ? NULL : uerr_nomem();
}

struct uerr *arena_jit(const struct arena *a, const struct target *t, const struct program *p, addr_t entry,
		       struct jit_output *ret)
{
	size_t n = p->owner->obj->nmaps;
	cleanup_free struct umap *descs = calloc(n + 1, sizeof(*descs));
	cleanup_free struct jit_map *maps = calloc(n + 1, sizeof(*maps));
	struct jit_input in = {
		.prog = p->prog,
		.maps = maps,
		.nmaps = n,
		.code_addr = entry,
		.helper_addr = helper_addr,
		.arg = (void *)a,
	};

	if (!descs || !maps)
		return uerr_nomem();
	for (size_t i = 0; i < n; i++) {
		struct uerr *err = target_desc(t, &p->owner->maps[i], &descs[i]);

		if (err)
			return err;
		maps[i].map = &descs[i];
		maps[i].desc_addr = find_desc(a, p->owner->maps[i].id);
	}
	return jit_compile(&in, ret);
}

/* P can be tail-called from now on. Nobody runs in this arena yet, or P was there
 * before and the tables say so. */
static void fill_tables(struct arena *a, void *local, const struct program *p, addr_t tail_entry)
{
	for (size_t i = 0; i < p->owner->obj->nmaps; i++) {
		const struct map *m = &p->owner->maps[i];
		const struct umap *desc;

		if (m->umap.type != UMAP_PROG_ARRAY)
			continue;
		desc = arena_local(a, local, find_desc(a, m->id));
		((u64 *)arena_local(a, local, desc->progs))[p->index] = tail_entry;
	}
}

static struct uerr *add_program(struct arena *a, void *local, const struct target *t, const struct program *p)
{
	struct arena_prog ap = { .program = p->id };
	struct jit_output out = {};
	struct uerr *err = NULL;
	addr_t rings = 0;

	for (size_t i = p->owner->obj->nmaps; !err && i-- > 0;) {
		const struct map *m = &p->owner->maps[i];

		err = add_desc(a, local, t, m, rings);
		if (m->umap.type == UMAP_RINGBUF)
			rings = find_desc(a, m->id);
	}
	if (!err)
		err = arena_jit(a, t, p, ALIGN_UP(a->addr + a->used, PROG_ALIGN), &out);
	if (err)
		return err;
	ap.entry = alloc_aligned(a, out.size, PROG_ALIGN);
	ap.size = out.size;
	ap.clobbers = out.clobbers;
	if (ap.entry) {
		memcpy(arena_local(a, local, ap.entry), out.code, out.size);
		fill_tables(a, local, p, out.tail_entry);
	}
	jit_output_deinit(&out);
	if (!ap.entry)
		return uerr_new(UERR_FAILED, "the code arena is full");
	return vec_push(&a->progs, ap) ? NULL : uerr_nomem();
}

struct uerr *arena_program(struct arena *a, void *local, const struct target *t, const struct program *p,
			   struct arena_prog *ret)
{
	struct uerr *err = NULL;

	for (size_t i = 0; !err && i < p->owner->obj->nprogs; i++) {
		const struct program *q = &p->owner->progs[i];

		if (wants_program(p, q) && !find_program(a, q->id))
			err = add_program(a, local, t, q);
	}
	if (!err)
		*ret = *find_program(a, p->id);
	return err;
}
