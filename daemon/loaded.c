/* SPDX-License-Identifier: MIT */
/* Loading an object; see loaded.h. */
#include "daemon/loaded.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "daemon/spaces.h"
#include "daemon/target.h"
#include "daemon/usdt_specs.h"
#include "vm/jit.h"
#include "vm/verify.h"

/* Global data, and programs in PROG_ARRAYs, are there before the first program can see it. */
static struct uerr *write_initial(struct map *m, const struct object_map *om)
{
	struct thread_rec rec = {};
	struct umap_ctx cx = { .rec = &rec };
	u32 key = 0;
	long r;

	for (; om->initial && key < om->max_entries; key++) {
		if (om->type == UMAP_PROG_ARRAY && !((const u32 *)(const void *)om->initial)[key])
			continue;
		r = umap_write(&m->umap, &key, om->initial + (u64)key * om->value_size, UMAP_ANY, &cx);
		if (r)
			return uerr_errno(-r, "map %s: initial content", om->name);
	}
	m->readonly = om->readonly;
	m->umap.frozen = om->readonly;
	return NULL;
}

static struct uerr *make_map(struct state *s, struct loaded *l, u32 i)
{
	const struct object_map *om = &l->obj->maps[i];
	struct map *m = &l->maps[i];
	struct uerr *err;

	err = umap_create_locked(om->name, om->type, om->key_size, om->value_size, om->max_entries, om->map_flags, s->ncpus,
				 s->last_map + 1, om->lock, &m->umap, &m->fd);
	if (err) {
		m->fd = -1;
		return uerr_prefix(err, "map %s", om->name);
	}
	m->id = ++s->last_map;
	m->index = i;
	m->owner = l;
	memcpy(m->name, om->name, sizeof(m->name));
	m->name[sizeof(m->name) - 1] = 0;
	l->vm_maps[i] = (struct vm_map){
		.map = &m->umap, .btf = l->obj->types, .key_type = om->btf_key_type_id, .value_type = om->btf_value_type_id,
		.frozen = om->readonly ? om->initial : NULL,
	};
	return write_initial(m, om);
}

static struct uerr *make_maps(struct state *s, struct loaded *l)
{
	bool percpu = false;

	l->maps = calloc(l->obj->nmaps + 1, sizeof(*l->maps));
	l->vm_maps = calloc(l->obj->nmaps + 1, sizeof(*l->vm_maps));
	if (!l->maps || !l->vm_maps)
		return uerr_nomem();
	for (size_t i = 0; i < l->obj->nmaps; i++)
		l->maps[i].fd = -1;
	for (size_t i = 0; i < l->obj->nmaps; i++) {
		struct uerr *err = make_map(s, l, i);

		if (err)
			return err;
		percpu = percpu || umap_is_percpu(l->obj->maps[i].type);
	}
	return percpu ? umap_claims_create(s->ncpus, &l->claims, &l->claims_fd) : NULL;
}

/* P, or what it may go on in, calls helper ID. */
static bool may_call(const struct program *p, u32 id)
{
	const struct object *obj = p->owner->obj;
	bool any = false;

	for (size_t i = 0; i < obj->nprogs; i++)
		any |= vm_prog_calls(&obj->progs[i], id);
	return vm_prog_calls(p->prog, id) || (any && vm_prog_calls(p->prog, BPF_FUNC_tail_call));
}

bool program_walks_stacks(const struct program *p)
{
	return may_call(p, BPF_FUNC_get_stackid) || may_call(p, BPF_FUNC_get_stack);
}

bool program_overrides(const struct program *p)
{
	return may_call(p, BPF_FUNC_override_return);
}

bool program_asks_identity(const struct program *p)
{
	return may_call(p, BPF_FUNC_get_current_comm) || may_call(p, BPF_FUNC_get_current_uid_gid);
}

bool target_asks_identity(const struct state *s, const struct target *t, const u32 *links, size_t nlinks)
{
	vec_foreach(c, &t->calls) {
		const struct program *p = is_guard(c) ? NULL : state_program(s, c->program);
		bool leaves = false;

		for (size_t i = 0; i < nlinks; i++)
			leaves |= c->link == links[i];
		if (p && !leaves && program_asks_identity(p))
			return true;
	}
	return false;
}

static struct uerr *make_programs(struct state *s, struct loaded *l, const struct load_opts *opts)
{
	struct verify_opts vo = { .flags = opts->allow_override ? VERIFY_OVERRIDE : 0, .log_level = 1 };
	u32 ctx_fields = 0;

	l->progs = calloc(l->obj->nprogs + 1, sizeof(*l->progs));
	if (!l->progs)
		return uerr_nomem();
	for (size_t i = 0; i < l->obj->nprogs; i++) {
		struct program *p = &l->progs[i];
		struct uerr *err;

		p->prog = &l->obj->progs[i];
		err = verify_program(p->prog, l->vm_maps, l->obj->nmaps, &vo, NULL);
		if (err)
			return err;
		ctx_fields |= p->prog->info.ctx_fields;
	}
	for (size_t i = 0; i < l->obj->nprogs; i++) {
		struct program *p = &l->progs[i];
		struct uerr *err;

		/* what it may go on in finds its ctx filled in */
		if (vm_prog_calls(p->prog, BPF_FUNC_tail_call))
			p->prog->info.ctx_fields = ctx_fields;
		p->index = i;
		p->owner = l;
		err = program_jited_size(p, &p->jited_bytes);
		if (err)
			return uerr_prefix(err, "program %s", p->prog->name);
		p->id = ++s->last_program;
	}
	return NULL;
}

/* A helper that is near: the size is the same wherever that is. */
static addr_t near_helper(u32 id, void *arg)
{
	(void)arg;
	return PAGE + id;
}

struct uerr *program_jited_size(struct program *p, u32 *ret)
{
	struct loaded *l = p->owner;
	cleanup_free struct jit_map *maps = calloc(l->obj->nmaps + 1, sizeof(*maps));
	struct jit_input in = {
		.prog = p->prog, .maps = maps, .nmaps = l->obj->nmaps, .code_addr = PAGE, .helper_addr = near_helper,
	};
	struct jit_output out = {};
	struct uerr *err;

	if (!maps)
		return uerr_nomem();
	for (size_t i = 0; i < l->obj->nmaps; i++)
		maps[i] = (struct jit_map){ .map = &l->maps[i].umap, .desc_addr = (addr_t)(uintptr_t)&l->maps[i].umap };
	err = jit_compile(&in, &out);
	if (err)
		return err;
	*ret = out.size;
	jit_output_deinit(&out);
	return NULL;
}

struct uerr *loaded_create(struct state *s, struct object *obj, const struct load_opts *opts, struct loaded **ret)
{
	struct loaded *l = calloc(1, sizeof(*l));
	struct uerr *err;

	if (!l) {
		object_free(obj);
		return uerr_nomem();
	}
	l->obj = obj;
	l->claims_fd = -1;
	l->uid = opts->uid;
	l->client = opts->client;
	time_text(l->since);
	l->name = strdup(opts->name);
	err = l->name ? make_maps(s, l) : uerr_nomem();
	if (!err)
		err = usdt_specs_create(l);
	if (!err)
		err = make_programs(s, l, opts);
	if (!err && !vec_push(&s->objects, l))
		err = uerr_nomem();
	if (err) {
		loaded_destroy(l);
		return err;
	}
	l->id = ++s->last_object;
	*ret = l;
	return NULL;
}

void loaded_destroy(struct loaded *l)
{
	if (!l)
		return;
	usdt_specs_destroy(l);
	spaces_free(l);
	for (size_t i = 0; l->maps && i < l->obj->nmaps; i++)
		if (l->maps[i].gone)
			l->maps[i].gone(&l->maps[i]);
	for (size_t i = 0; l->maps && i < l->obj->nmaps; i++)
		if (l->maps[i].fd >= 0)
			umap_destroy(&l->maps[i].umap, l->maps[i].fd);
	if (l->claims)
		munmap(l->claims, ALIGN_UP(UMAP_CLAIMS_SIZE(l->maps[0].umap.ncpus), PAGE));
	if (l->claims_fd >= 0)
		close(l->claims_fd);
	object_free(l->obj);
	free(l->maps);
	free(l->vm_maps);
	free(l->progs);
	free(l->name);
	free(l);
}
