/* SPDX-License-Identifier: MIT */
/*
 * libbpfvm: the same loader, maps, verifier and compiler as the daemon's, with
 * this process as the only target.
 *
 * A VM is first a description: programs as the object (or the caller) gave them,
 * maps as definitions, settings. bpfvm_load() makes all that runs from it, and
 * takes it apart again when something fails, so that the description stays good
 * for another try. For that the verifier, which changes programs, gets copies.
 *
 * All programs of a VM are compiled into one mapping. It is reserved first (that
 * fixes the addresses), the code is written into a memfd, and the memfd is mapped
 * read-execute over the reservation: no page is ever writable and executable.
 *
 * A run is a call of the compiled code, without anything in between where the
 * program needs no frame, else with one on the caller's stack.
 *
 * The memory of a map, and the table of per-CPU claims that goes with it, are
 * counted by the VMs that use them: that is what sharing is.
 */
#include "vm/bpfvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "vm/disasm.h"
#include "vm/env.h"
#include "vm/interp.h"
#include "vm/jit.h"
#include "vm/object.h"
#include "vm/opcodes.h"
#include "vm/runtime.h"
#include "vm/runtime/rt.h"
#include "vm/verify.h"

/* Per-CPU slots: one table for all maps that one program may use. */
struct claims {
	u32 refs;
	struct umap_claims *table;
	int fd;
};

/* The memory of a map. */
struct store {
	u32 refs;
	struct umap map;
	int fd;
	struct claims *claims; /* per-CPU maps */
};

struct bpfvm_map {
	struct umap map; /* first: its address is what programs hold */
	struct bpfvm *vm;
	struct object_map *def;   /* the object's, or own */
	struct object_map own;
	struct store *shared;     /* with another VM; or NULL */
	struct store *store;      /* once loaded */
};

struct bpfvm_prog {
	struct bpfvm_entry entry; /* first: bpfvm_call() */
	struct bpfvm *vm;
	struct vm_prog *origin;   /* as it was given: the object's, or own */
	struct vm_prog own;
	struct vm_env env;
	u8 *ctx;                  /* env.ctx */
	bool autoload;
	/* once loaded */
	bool loaded;
	struct vm_prog prog;
	struct interp_code *decoded;
	u64 (*fn)(u64 r1, u64 r2, struct hook_frame *frame); /* NULL: not compiled */
	size_t fn_size;
	u32 *insn_off;
	char *log;
	struct verify_stats stats;
};

struct bpfvm {
	char name[64];
	struct object *object;  /* or NULL */
	struct bpfvm_map **maps;
	struct bpfvm_prog **progs;
	size_t nmaps, nprogs;
	struct env_helper *helpers;
	char **helper_names;
	size_t nhelpers;
	unsigned log_level;
	void *data;
	/* once loaded */
	bool loaded;
	struct vm_map *vm_maps;   /* the maps, as verifier and interpreter want them */
	struct jit_map *jit_maps; /* … and as the JIT does */
	struct claims *claims;
	struct site_data site;
	void *code;
	size_t code_size;
};

static u32 ncpus(void)
{
	return ((const struct target_env *)runtime_self_site()->env)->ncpus;
}

static void *copy_of(const void *p, size_t size)
{
	void *copy = malloc(size ? size : 1);

	return copy && size ? memcpy(copy, p, size) : copy;
}

/* --- errors --- */

/* Gives ERR to the caller, or frees it; returns the errno that stands for it. */
static int give(struct uerr *err, struct bpfvm_error **error)
{
	int ret;

	if (!err)
		return 0;
	ret = err->errnum ? -err->errnum : err->code == UERR_REJECTED ? -EACCES : -EINVAL;
	if (error)
		*error = (struct bpfvm_error *)err;
	else
		uerr_free(err);
	return ret;
}

static void *give_null(struct uerr *err, struct bpfvm_error **error)
{
	give(err, error);
	return NULL;
}

int bpfvm_error_code(const struct bpfvm_error *error)
{
	return ((const struct uerr *)error)->code;
}

const char *bpfvm_error_message(const struct bpfvm_error *error)
{
	return ((const struct uerr *)error)->message;
}

const char *bpfvm_error_log(const struct bpfvm_error *error)
{
	const char *log = ((const struct uerr *)error)->log;

	return log ? log : "";
}

void bpfvm_error_free(struct bpfvm_error *error)
{
	uerr_free((struct uerr *)error);
}

/* --- what is shared --- */

static struct uerr *claims_create(struct claims **ret)
{
	struct claims *c = calloc(1, sizeof(*c));
	struct uerr *err;

	if (!c)
		return uerr_nomem();
	c->refs = 1;
	err = umap_claims_create(ncpus(), &c->table, &c->fd);
	if (err) {
		free(c);
		return err;
	}
	*ret = c;
	return NULL;
}

static struct claims *claims_get(struct claims *c)
{
	__atomic_add_fetch(&c->refs, 1, __ATOMIC_RELAXED);
	return c;
}

static void claims_put(struct claims *c)
{
	if (!c || __atomic_sub_fetch(&c->refs, 1, __ATOMIC_ACQ_REL))
		return;
	munmap(c->table, ALIGN_UP(UMAP_CLAIMS_SIZE(ncpus()), PAGE));
	close(c->fd);
	free(c);
}

static struct store *store_get(struct store *s)
{
	__atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
	return s;
}

static void store_put(struct store *s)
{
	if (!s || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL))
		return;
	umap_destroy(&s->map, s->fd);
	claims_put(s->claims);
	free(s);
}

/* Global data as it begins; what programs only read, nobody can write. */
static struct uerr *store_fill(struct store *s, const struct object_map *def)
{
	if (def->initial)
		memcpy((void *)(s->map.base + s->map.data_off), def->initial, def->value_size);
	if (!def->readonly)
		return NULL;
	s->map.frozen = true;
	if (mprotect((void *)s->map.base, s->map.size, PROT_READ))
		return uerr_errno(errno, "map '%s' cannot be made read-only", def->name);
	return NULL;
}

static struct uerr *store_create(const struct object_map *def, u32 id, struct claims *claims, struct store **ret)
{
	struct store *s = calloc(1, sizeof(*s));
	struct uerr *err;

	if (!s)
		return uerr_nomem();
	s->refs = 1;
	s->fd = -1;
	if (def->type == UMAP_PROG_ARRAY)
		err = uerr_new(UERR_REJECTED, "map '%s' is a prog_array: a program here goes on in no other", def->name);
	else
		err = umap_create_locked(def->name, def->type, def->key_size, def->value_size, def->max_entries,
					 def->map_flags, ncpus(), id, def->lock, &s->map, &s->fd);
	if (!err)
		err = store_fill(s, def);
	if (err) {
		store_put(s);
		return err;
	}
	if (umap_is_percpu(def->type))
		s->claims = claims_get(claims);
	*ret = s;
	return NULL;
}

/* --- opening --- */

static u64 call_unloaded(void *ctx, u64 ctx_size, const void *self)
{
	return 0;
}

static struct uerr *map_append(struct bpfvm *vm, struct object_map *def, struct bpfvm_map **ret)
{
	struct bpfvm_map **maps = realloc(vm->maps, (vm->nmaps + 1) * sizeof(*maps));
	struct bpfvm_map *m = calloc(1, sizeof(*m));

	if (maps)
		vm->maps = maps;
	if (!maps || !m) {
		free(m);
		return uerr_nomem();
	}
	m->vm = vm;
	m->def = def ? def : &m->own;
	vm->maps[vm->nmaps++] = m;
	if (ret)
		*ret = m;
	return NULL;
}

static struct uerr *prog_append(struct bpfvm *vm, struct vm_prog *origin, struct bpfvm_prog **ret)
{
	struct bpfvm_prog **progs = realloc(vm->progs, (vm->nprogs + 1) * sizeof(*progs));
	struct bpfvm_prog *p = calloc(1, sizeof(*p));

	if (progs)
		vm->progs = progs;
	if (!progs || !p) {
		free(p);
		return uerr_nomem();
	}
	p->vm = vm;
	p->origin = origin ? origin : &p->own;
	p->autoload = true;
	p->entry.call = call_unloaded;
	vm->progs[vm->nprogs++] = p;
	if (ret)
		*ret = p;
	return NULL;
}

static struct uerr *take_object(struct bpfvm *vm, const void *bytes, size_t size)
{
	struct object_opts opts = { .name = vm->name, .any_section = true };
	struct uerr *err = object_open(bytes, size, &opts, &vm->object);

	if (err)
		return err;
	for (size_t i = 0; !err && i < vm->object->nmaps; i++)
		err = map_append(vm, &vm->object->maps[i], NULL);
	for (size_t i = 0; !err && i < vm->object->nprogs; i++)
		err = prog_append(vm, &vm->object->progs[i], NULL);
	return err;
}

struct bpfvm *bpfvm_new(const char *name, struct bpfvm_error **error)
{
	struct bpfvm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return give_null(uerr_nomem(), error);
	snprintf(vm->name, sizeof(vm->name), "%s", name && *name ? name : "object");
	vm->log_level = 1;
	return vm;
}

struct bpfvm *bpfvm_open(const void *object, size_t size, const char *name, struct bpfvm_error **error)
{
	struct bpfvm *vm = bpfvm_new(name, error);
	struct uerr *err;

	if (!vm)
		return NULL;
	err = take_object(vm, object, size);
	if (!err)
		return vm;
	bpfvm_close(vm);
	return give_null(err, error);
}

static struct uerr *read_file(const char *path, void **ret, size_t *ret_size)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	cleanup_free u8 *bytes = NULL;
	size_t n = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return uerr_errno(errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return uerr_new(UERR_FAILED, "%s: not a regular file", path);
	bytes = malloc((size_t)st.st_size + 1);
	if (!bytes)
		return uerr_nomem();
	while (n < (size_t)st.st_size) {
		ssize_t got = read(fd, bytes + n, (size_t)st.st_size - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return uerr_errno(errno, "%s", path);
		if (!got)
			break;
		n += (size_t)got;
	}
	*ret = steal_ptr(bytes);
	*ret_size = n;
	return NULL;
}

struct bpfvm *bpfvm_open_file(const char *path, struct bpfvm_error **error)
{
	const char *slash = strrchr(path, '/');
	cleanup_free void *bytes = NULL;
	size_t size = 0;
	struct uerr *err = read_file(path, &bytes, &size);

	if (err)
		return give_null(err, error);
	return bpfvm_open(bytes, size, slash ? slash + 1 : path, error);
}

static void unload(struct bpfvm *vm);

static void map_free(struct bpfvm_map *m)
{
	store_put(m->shared);
	free(m->own.initial);
	free(m);
}

static void prog_free(struct bpfvm_prog *p)
{
	free(p->own.insns);
	free(p->ctx);
	free(p);
}

void bpfvm_close(struct bpfvm *vm)
{
	if (!vm)
		return;
	unload(vm);
	for (size_t i = 0; i < vm->nmaps; i++)
		map_free(vm->maps[i]);
	for (size_t i = 0; i < vm->nprogs; i++)
		prog_free(vm->progs[i]);
	for (size_t i = 0; i < vm->nhelpers; i++)
		free(vm->helper_names[i]);
	object_free(vm->object);
	free(vm->maps);
	free(vm->progs);
	free(vm->helpers);
	free(vm->helper_names);
	free(vm);
}

static struct uerr *loaded_already(const struct bpfvm *vm)
{
	return vm->loaded ? uerr_new(UERR_USAGE, "%s is loaded already", vm->name) : NULL;
}

struct bpfvm_map *bpfvm_add_map(struct bpfvm *vm, const char *name, uint32_t type, uint32_t key_size,
				uint32_t value_size, uint32_t max_entries, uint32_t flags, struct bpfvm_error **error)
{
	struct uerr *err = loaded_already(vm);
	struct bpfvm_map *m = NULL;

	if (!err)
		err = map_append(vm, NULL, &m);
	if (err)
		return give_null(err, error);
	snprintf(m->own.name, sizeof(m->own.name), "%s", name);
	m->own.type = type;
	m->own.key_size = key_size;
	m->own.value_size = value_size;
	m->own.max_entries = max_entries;
	m->own.map_flags = flags;
	return m;
}

struct bpfvm_prog *bpfvm_add_prog(struct bpfvm *vm, const char *name, const void *insns, size_t n,
				  struct bpfvm_error **error)
{
	struct uerr *err = loaded_already(vm);
	struct bpfvm_prog *p = NULL;
	struct bpf_insn *copy;

	if (!err && (!n || n > INSN_MAX))
		err = uerr_new(UERR_REJECTED, "program %s has %zu instructions, the limit is %u", name, n, INSN_MAX);
	if (err)
		return give_null(err, error);
	copy = copy_of(insns, n * sizeof(*copy));
	err = copy ? prog_append(vm, NULL, &p) : uerr_nomem();
	if (err) {
		free(copy);
		return give_null(err, error);
	}
	snprintf(p->own.name, sizeof(p->own.name), "%s", name);
	p->own.insns = copy;
	p->own.ninsns = (u32)n;
	return p;
}

/* --- settings --- */

int bpfvm_prog_set_ctx(struct bpfvm_prog *p, uint32_t size, const struct bpfvm_ctx_field *fields, size_t nfields)
{
	cleanup_free u8 *ctx = NULL;

	if (p->vm->loaded)
		return -EBUSY;
	if (size > ENV_CTX_MAX)
		return -EINVAL;
	ctx = calloc(size + 1, 1);
	if (!ctx)
		return -ENOMEM;
	for (size_t i = 0; i < nfields; i++) {
		const struct bpfvm_ctx_field *f = &fields[i];

		if (f->off > size || f->size > size - f->off || f->access & ~(BPFVM_READ | BPFVM_WRITE))
			return -EINVAL;
		memset(ctx + f->off, (f->access & BPFVM_READ ? ENV_CTX_READ : 0) |
			(f->access & BPFVM_WRITE ? ENV_CTX_WRITE : 0), f->size);
	}
	free(p->ctx);
	p->ctx = steal_ptr(ctx);
	p->env.ctx = p->ctx;
	p->env.ctx_size = size;
	return 0;
}

int bpfvm_set_ctx(struct bpfvm *vm, uint32_t size, const struct bpfvm_ctx_field *fields, size_t nfields)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < vm->nprogs; i++)
		ret = bpfvm_prog_set_ctx(vm->progs[i], size, fields, nfields);
	return ret;
}

/* Indexed by enum bpfvm_arg, enum bpfvm_ret. */
static const u8 arg_kinds[] = {
	[BPFVM_ARG_NONE] = ARG_NONE, [BPFVM_ARG_ANY] = ARG_ANY, [BPFVM_ARG_CTX] = ARG_CTX, [BPFVM_ARG_MAP] = ARG_MAP,
	[BPFVM_ARG_MAP_KEY] = ARG_MAP_KEY, [BPFVM_ARG_MAP_VALUE] = ARG_MAP_VALUE, [BPFVM_ARG_MEM] = ARG_MEM,
	[BPFVM_ARG_MEM_OR_NULL] = ARG_MEM_OR_NULL, [BPFVM_ARG_MEM_UNINIT] = ARG_MEM_UNINIT,
	[BPFVM_ARG_SIZE] = ARG_SIZE, [BPFVM_ARG_SIZE0] = ARG_SIZE0, [BPFVM_ARG_CONST_STR] = ARG_CONST_STR,
	[BPFVM_ARG_LONG] = ARG_LONG_PTR,
};
static const u8 ret_kinds[] = {
	[BPFVM_RET_NUMBER] = RET_SCALAR, [BPFVM_RET_NOTHING] = RET_VOID,
	[BPFVM_RET_MAP_VALUE_OR_NULL] = RET_MAP_VALUE_OR_NULL,
};

static bool is_sized(unsigned arg)
{
	return arg == BPFVM_ARG_MEM || arg == BPFVM_ARG_MEM_OR_NULL || arg == BPFVM_ARG_MEM_UNINIT;
}

/* What is wrong with a prototype, or NULL. */
static const char *prototype_fault(const struct bpfvm_helper *h)
{
	bool map = false, ended = false;

	for (u32 i = 0; i < HELPER_NARGS; i++) {
		unsigned arg = h->args[i], next = i + 1 < HELPER_NARGS ? h->args[i + 1] : BPFVM_ARG_NONE;
		bool size = arg == BPFVM_ARG_SIZE || arg == BPFVM_ARG_SIZE0;

		if (arg >= ARRAY_SIZE(arg_kinds))
			return "an argument is of no kind that there is";
		if (ended && arg != BPFVM_ARG_NONE)
			return "an argument follows one that is not there";
		if (is_sized(arg) && next != BPFVM_ARG_SIZE && next != BPFVM_ARG_SIZE0)
			return "memory is not followed by its size";
		if (size && (!i || !is_sized(h->args[i - 1])))
			return "a size does not follow memory";
		if ((arg == BPFVM_ARG_MAP_KEY || arg == BPFVM_ARG_MAP_VALUE) && !map)
			return "a key or value comes before its map";
		if (arg == BPFVM_ARG_MAP && map)
			return "there are two maps";
		map |= arg == BPFVM_ARG_MAP;
		ended |= arg == BPFVM_ARG_NONE;
	}
	if ((unsigned)h->ret >= ARRAY_SIZE(ret_kinds))
		return "the result is of no kind that there is";
	if (h->ret == BPFVM_RET_MAP_VALUE_OR_NULL && h->args[0] != BPFVM_ARG_MAP)
		return "a map's value is returned, and the first argument is no map";
	return NULL;
}

static struct uerr *helper_check(const struct bpfvm *vm, const struct bpfvm_helper *h)
{
	const char *fault;

	if (vm->loaded)
		return loaded_already(vm);
	if (!h->name || !h->fn)
		return uerr_new(UERR_USAGE, "helper 0x%x has no name or no function", h->id);
	if (h->id < BPFVM_HELPER_FIRST || h->id > BPFVM_HELPER_LAST)
		return uerr_new(UERR_USAGE, "helper %s: number 0x%x is not within 0x%x … 0x%x", h->name, h->id,
				BPFVM_HELPER_FIRST, BPFVM_HELPER_LAST);
	for (size_t i = 0; i < vm->nhelpers; i++)
		if (vm->helpers[i].id == h->id)
			return uerr_new(UERR_USAGE, "helper %s: number 0x%x is %s already", h->name, h->id,
					vm->helper_names[i]);
	fault = prototype_fault(h);
	return fault ? uerr_new(UERR_USAGE, "helper %s: %s", h->name, fault) : NULL;
}

static struct uerr *helper_append(struct bpfvm *vm, const struct bpfvm_helper *h)
{
	size_t n = vm->nhelpers;
	struct env_helper *helpers = realloc(vm->helpers, (n + 1) * sizeof(*helpers));
	char **names, *name;

	if (helpers)
		vm->helpers = helpers;
	names = realloc(vm->helper_names, (n + 1) * sizeof(*names));
	if (names)
		vm->helper_names = names;
	name = strdup(h->name);
	if (!helpers || !names || !name) {
		free(name);
		return uerr_nomem();
	}
	vm->helper_names[n] = name;
	vm->helpers[n] = (struct env_helper){
		.id = h->id,
		.fn = (helper_fn)(void (*)(void))h->fn,
		.info = { .ret = ret_kinds[h->ret], .known = true, .present = true, .name = name },
	};
	for (u32 i = 0; i < HELPER_NARGS; i++)
		vm->helpers[n].info.args[i] = arg_kinds[h->args[i]];
	vm->nhelpers++;
	return NULL;
}

int bpfvm_add_helper(struct bpfvm *vm, const struct bpfvm_helper *helper, struct bpfvm_error **error)
{
	struct uerr *err = helper_check(vm, helper);

	return give(err ? err : helper_append(vm, helper), error);
}

static struct hook_frame *frame_of(const struct bpfvm_call *call)
{
	return (struct hook_frame *)call;
}

struct bpfvm *bpfvm_call_vm(const struct bpfvm_call *call)
{
	return (struct bpfvm *)(frame_of(call)->site - offsetof(struct bpfvm, site));
}

struct bpfvm_map *bpfvm_call_map(const struct bpfvm_call *call, uint64_t arg)
{
	return (struct bpfvm_map *)arg;
}

void bpfvm_set_data(struct bpfvm *vm, void *data)
{
	vm->data = data;
}

void *bpfvm_data(const struct bpfvm *vm)
{
	return vm->data;
}

int bpfvm_prog_set_autoload(struct bpfvm_prog *p, int autoload)
{
	if (p->vm->loaded)
		return -EBUSY;
	p->autoload = autoload;
	return 0;
}

int bpfvm_map_set_max_entries(struct bpfvm_map *m, uint32_t n)
{
	if (m->vm->loaded)
		return -EBUSY;
	if (!n || m->def->global_data || m->shared)
		return -EINVAL;
	m->def->max_entries = n;
	return 0;
}

/* The claims that VM must use because of the maps that it shares, or NULL. */
static struct claims *claims_required(const struct bpfvm *vm, const struct bpfvm_map *but)
{
	for (size_t i = 0; i < vm->nmaps; i++)
		if (vm->maps[i] != but && vm->maps[i]->shared && vm->maps[i]->shared->claims)
			return vm->maps[i]->shared->claims;
	return NULL;
}

int bpfvm_map_share(struct bpfvm_map *m, struct bpfvm_map *other)
{
	struct claims *claims = claims_required(m->vm, m);
	const struct umap *o = &other->map;

	if (m->vm->loaded)
		return -EBUSY;
	if (!other->store || m->def->type != o->type || m->def->key_size != o->key_size ||
	    m->def->value_size != o->value_size || m->def->map_flags != o->map_flags ||
	    m->def->readonly != !!o->frozen)
		return -EINVAL;
	/* a run claims one slot, which must hold for every map that it touches */
	if (other->store->claims && claims && claims != other->store->claims)
		return -EBUSY;
	store_put(m->shared);
	m->shared = store_get(other->store);
	return 0;
}

void *bpfvm_map_initial(struct bpfvm_map *m, size_t *size)
{
	if (m->vm->loaded || !m->def->global_data)
		return NULL;
	if (!m->def->initial)
		m->def->initial = calloc(1, m->def->value_size);
	if (m->def->initial && size)
		*size = m->def->value_size;
	return m->def->initial;
}

void bpfvm_set_log_level(struct bpfvm *vm, unsigned level)
{
	vm->log_level = level;
}

/* --- loading: maps --- */

static struct uerr *load_map(struct bpfvm *vm, u32 i)
{
	struct bpfvm_map *m = vm->maps[i];
	struct object *obj = m->def == &m->own ? NULL : vm->object;
	struct uerr *err = NULL;

	if (m->shared)
		m->store = store_get(m->shared);
	else
		err = store_create(m->def, i + 1, vm->claims, &m->store);
	if (err)
		return uerr_prefix(err, "%s: map '%s'", vm->name, m->def->name);
	m->map = m->store->map;
	vm->vm_maps[i] = (struct vm_map){
		.map = &m->map,
		.btf = obj ? obj->types : NULL,
		.key_type = m->def->btf_key_type_id,
		.value_type = m->def->btf_value_type_id,
		.frozen = m->map.frozen && m->def->global_data ? (void *)(m->map.base + m->map.data_off) : NULL,
	};
	vm->jit_maps[i] = (struct jit_map){ &m->map, (addr_t)&m->map };
	if (m->map.type == UMAP_RINGBUF) {
		m->map.next_ring = vm->site.rings;
		vm->site.rings = (addr_t)&m->map;
	}
	return NULL;
}

static struct uerr *load_claims(struct bpfvm *vm)
{
	struct claims *required = claims_required(vm, NULL);
	bool percpu = false;
	struct uerr *err = NULL;

	for (size_t i = 0; i < vm->nmaps; i++)
		percpu |= umap_is_percpu(vm->maps[i]->def->type);
	if (required)
		vm->claims = claims_get(required);
	else if (percpu)
		err = claims_create(&vm->claims);
	if (err || !vm->claims)
		return err;
	vm->site.claims = (addr_t)vm->claims->table;
	vm->site.nclaims = ncpus() + UMAP_SPARE_SLOTS;
	return NULL;
}

static struct uerr *load_maps(struct bpfvm *vm)
{
	struct uerr *err;

	vm->site = *runtime_self_site();
	vm->vm_maps = calloc(vm->nmaps + 1, sizeof(*vm->vm_maps));
	vm->jit_maps = calloc(vm->nmaps + 1, sizeof(*vm->jit_maps));
	if (!vm->vm_maps || !vm->jit_maps)
		return uerr_nomem();
	err = load_claims(vm);
	for (u32 i = 0; !err && i < vm->nmaps; i++)
		err = load_map(vm, i);
	return err;
}

/* --- loading: programs --- */

static struct uerr *judge(struct bpfvm_prog *p, unsigned flags)
{
	struct bpfvm *vm = p->vm;
	struct verify_opts opts = { .log_level = vm->log_level };
	struct uerr *err;
	size_t size;

	if (flags & BPFVM_UNVERIFIED) {
		err = check_program(&p->prog, vm->vm_maps, vm->nmaps);
		p->prog.info.ctx_end = p->ctx ? p->env.ctx_size : 0;
		return err;
	}
	opts.log = vm->log_level ? open_memstream(&p->log, &size) : NULL;
	if (vm->log_level && !opts.log)
		return uerr_nomem();
	err = verify_program(&p->prog, vm->vm_maps, vm->nmaps, &opts, &p->stats);
	if (opts.log)
		fclose(opts.log);
	return err;
}

/* A copy of what verifying changes or frees; the rest stays the origin's. */
static bool prog_copy(struct bpfvm_prog *p)
{
	p->prog = *p->origin;
	p->prog.facts = NULL;
	p->prog.subprogs = NULL;
	p->prog.insns = copy_of(p->origin->insns, p->origin->ninsns * sizeof(*p->prog.insns));
	if (p->origin->subprogs)
		p->prog.subprogs = copy_of(p->origin->subprogs, p->origin->nsubprogs * sizeof(*p->prog.subprogs));
	return p->prog.insns && !p->prog.subprogs == !p->origin->subprogs;
}

static struct uerr *load_prog(struct bpfvm_prog *p, unsigned flags)
{
	struct uerr *err;

	if (!prog_copy(p))
		return uerr_nomem();
	p->env.helpers = p->vm->helpers;
	p->env.nhelpers = p->vm->nhelpers;
	p->prog.env = &p->env;
	err = judge(p, flags);
	if (err)
		return uerr_prefix(err, "%s", p->vm->name);
	p->decoded = interp_code_create(&p->prog, p->vm->vm_maps, p->vm->nmaps);
	return p->decoded ? NULL : uerr_nomem();
}

/* Where code calls the helpers of this library directly: at most this far from
 * them, searched downwards in steps. */
#define NEAR_STEP (64ul << 20)
#define NEAR_TRIES 24

static void *reserve_near(size_t size)
{
	u64 at = ALIGN_DOWN((u64)runtime_helper(BPF_FUNC_map_lookup_elem), PAGE);
	void *p;

	for (u32 i = 1; i <= NEAR_TRIES && at > i * NEAR_STEP; i++) {
		p = mmap((void *)(at - i * NEAR_STEP), size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			 -1, 0);
		if (p != MAP_FAILED)
			return p;
	}
	return mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static addr_t helper_here(u32 id, void *arg)
{
	return (addr_t)vm_prog_helper_fn(arg, id);
}

static struct uerr *write_code(int fd, const struct jit_output *out, size_t off)
{
	size_t done = 0;

	while (done < out->size) {
		ssize_t n = pwrite(fd, out->code + done, out->size - done, (off_t)(off + done));

		if (n < 0)
			return uerr_errno(errno, "cannot write compiled code");
		done += (size_t)n;
	}
	return NULL;
}

/* A program that needs a frame gets it here. */
static u64 call_framed(void *ctx, u64 ctx_size, const void *self)
{
	const struct bpfvm_prog *p = self;
	struct hook_frame frame;

	runtime_self_frame(&frame);
	frame.site = (addr_t)&p->vm->site;
	return p->fn((u64)ctx, ctx_size, &frame);
}

static u64 call_interpreted(void *ctx, u64 ctx_size, const void *self)
{
	u64 r0 = 0;

	bpfvm_interpret(self, ctx, ctx_size, 0, &r0);
	return r0;
}

/* Compiles P for OFF in the reservation. */
static struct uerr *compile_prog(struct bpfvm_prog *p, int fd, size_t off)
{
	struct bpfvm *vm = p->vm;
	struct jit_input in = {
		.prog = &p->prog,
		.maps = vm->jit_maps,
		.nmaps = vm->nmaps,
		.code_addr = (addr_t)vm->code + off,
		.helper_addr = helper_here,
		.arg = &p->prog,
	};
	struct jit_output out cleanup(jit_output_deinit) = { 0 };
	struct uerr *err = jit_compile(&in, &out);

	if (!err)
		err = write_code(fd, &out, off);
	if (err)
		return uerr_prefix(err, "%s: program '%s'", vm->name, p->prog.name);
	p->fn = (u64(*)(u64, u64, struct hook_frame *))out.entry;
	p->fn_size = out.size;
	p->insn_off = steal_ptr(out.insn_off);
	p->entry.call = out.uses_frame ? call_framed : (u64(*)(void *, u64, const void *))(void (*)(void))p->fn;
	return NULL;
}

static struct uerr *compile_progs(struct bpfvm *vm)
{
	cleanup_close int fd = memfd_create("bpfvm-code", MFD_CLOEXEC);
	struct uerr *err = NULL;
	size_t off = 0;

	vm->code_size = 1;
	for (size_t i = 0; i < vm->nprogs; i++)
		if (vm->progs[i]->autoload)
			vm->code_size += ALIGN_UP(jit_size_bound(&vm->progs[i]->prog), 64);
	vm->code_size = ALIGN_UP(vm->code_size, PAGE);
	if (fd < 0 || ftruncate(fd, (off_t)vm->code_size))
		return uerr_errno(errno, "cannot make room for compiled code");
	vm->code = reserve_near(vm->code_size);
	if (vm->code == MAP_FAILED) {
		vm->code = NULL;
		return uerr_nomem();
	}
	for (size_t i = 0; !err && i < vm->nprogs; i++) {
		if (!vm->progs[i]->autoload)
			continue;
		err = compile_prog(vm->progs[i], fd, off);
		off += ALIGN_UP(vm->progs[i]->fn_size, 64);
	}
	if (!err && mmap(vm->code, vm->code_size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
		err = uerr_errno(errno, "cannot map compiled code");
	return err;
}

static struct uerr *load(struct bpfvm *vm, unsigned flags)
{
	struct uerr *err = load_maps(vm);

	for (size_t i = 0; !err && i < vm->nprogs; i++) {
		struct bpfvm_prog *p = vm->progs[i];

		if (!p->autoload)
			continue;
		err = load_prog(p, flags);
		p->entry.call = call_interpreted;
	}
	if (!err && !(flags & BPFVM_NO_JIT))
		err = compile_progs(vm);
	return err;
}

static void prog_unload(struct bpfvm_prog *p)
{
	p->entry.call = call_unloaded;
	p->loaded = false;
	interp_code_destroy(p->decoded);
	verify_forget(&p->prog); /* facts and subprograms */
	free(p->prog.insns);
	free(p->insn_off);
	free(p->log);
	p->prog = (struct vm_prog){ .insns = NULL };
	p->decoded = NULL;
	p->fn = NULL;
	p->fn_size = 0;
	p->insn_off = NULL;
	p->log = NULL;
	p->stats = (struct verify_stats){ 0 };
}

static void unload(struct bpfvm *vm)
{
	vm->loaded = false;
	for (size_t i = 0; i < vm->nprogs; i++)
		prog_unload(vm->progs[i]);
	if (vm->code)
		munmap(vm->code, vm->code_size);
	vm->code = NULL;
	for (size_t i = 0; i < vm->nmaps; i++) {
		store_put(vm->maps[i]->store);
		vm->maps[i]->store = NULL;
	}
	claims_put(vm->claims);
	vm->claims = NULL;
	free(vm->vm_maps);
	free(vm->jit_maps);
	vm->vm_maps = NULL;
	vm->jit_maps = NULL;
}

int bpfvm_load(struct bpfvm *vm, unsigned flags, struct bpfvm_error **error)
{
	struct uerr *err = loaded_already(vm);

	if (!err && flags & ~(BPFVM_NO_JIT | BPFVM_UNVERIFIED))
		err = uerr_new(UERR_USAGE, "unknown flags 0x%x", flags);
	if (err)
		return give(err, error);
	err = load(vm, flags);
	if (err) {
		unload(vm);
		return give(err, error);
	}
	for (size_t i = 0; i < vm->nprogs; i++)
		vm->progs[i]->loaded = vm->progs[i]->autoload;
	vm->loaded = true;
	return 0;
}

/* --- programs --- */

struct bpfvm_prog *bpfvm_prog_find(struct bpfvm *vm, const char *name)
{
	for (size_t i = 0; i < vm->nprogs; i++)
		if (!strcmp(vm->progs[i]->origin->name, name))
			return vm->progs[i];
	return NULL;
}

struct bpfvm_prog *bpfvm_prog_next(struct bpfvm *vm, const struct bpfvm_prog *p)
{
	size_t i = 0;

	while (p && i < vm->nprogs && vm->progs[i++] != p)
		;
	return i < vm->nprogs ? vm->progs[i] : NULL;
}

const char *bpfvm_prog_name(const struct bpfvm_prog *p)
{
	return p->origin->name;
}

const char *bpfvm_prog_section(const struct bpfvm_prog *p)
{
	return p->origin->section;
}

const char *bpfvm_prog_log(const struct bpfvm_prog *p)
{
	return p->log ? p->log : "";
}

void bpfvm_prog_get_info(const struct bpfvm_prog *p, struct bpfvm_prog_info *ret)
{
	*ret = (struct bpfvm_prog_info){
		.insns = p->origin->ninsns,
		.stack_depth = p->prog.info.stack_depth,
		.ctx_end = p->prog.info.ctx_end,
		.insns_processed = p->stats.insns_processed,
		.verify_ns = p->stats.ns,
		.jited_size = p->fn_size,
		.jited = (const void *)p->fn,
	};
}

char *bpfvm_prog_listing(const struct bpfvm_prog *p, int jited)
{
	struct jit_output out = { .code = (u8 *)p->fn, .size = p->fn_size, .entry = (addr_t)p->fn };

	if (!p->loaded || (jited && !p->fn))
		return NULL;
	if (!jited)
		return disasm_xlated(&p->prog, p->vm->vm_maps, p->vm->nmaps);
	out.insn_off = p->insn_off;
	return disasm_jited(&p->prog, &out, out.entry);
}

int bpfvm_run(const struct bpfvm_prog *p, void *ctx, size_t ctx_size, uint64_t *ret)
{
	u64 r0;

	if (__builtin_expect(!p->loaded || ctx_size < p->prog.info.ctx_end, 0))
		return -EINVAL;
	r0 = p->entry.call(ctx, ctx_size, p);
	if (ret)
		*ret = r0;
	return 0;
}

int bpfvm_interpret(const struct bpfvm_prog *p, void *ctx, size_t ctx_size, uint64_t max_insns, uint64_t *ret)
{
	struct hook_frame frame;
	u64 r0 = 0;
	long status;

	if (!p->loaded || ctx_size < p->prog.info.ctx_end)
		return -EINVAL;
	runtime_self_frame(&frame);
	frame.site = (addr_t)&p->vm->site;
	status = interp_code_run(p->decoded, (u64)ctx, ctx_size, &frame, max_insns, &r0);
	if (!status && ret)
		*ret = r0;
	return (int)status;
}

/* --- maps --- */

struct bpfvm_map *bpfvm_map_find(struct bpfvm *vm, const char *name)
{
	for (size_t i = 0; i < vm->nmaps; i++)
		if (!strcmp(vm->maps[i]->def->name, name))
			return vm->maps[i];
	return NULL;
}

struct bpfvm_map *bpfvm_map_next(struct bpfvm *vm, const struct bpfvm_map *m)
{
	size_t i = 0;

	while (m && i < vm->nmaps && vm->maps[i++] != m)
		;
	return i < vm->nmaps ? vm->maps[i] : NULL;
}

const char *bpfvm_map_name(const struct bpfvm_map *m)
{
	return m->def->name;
}

uint32_t bpfvm_map_type(const struct bpfvm_map *m)
{
	return m->def->type;
}

uint32_t bpfvm_map_key_size(const struct bpfvm_map *m)
{
	return m->def->key_size;
}

uint32_t bpfvm_map_max_entries(const struct bpfvm_map *m)
{
	return m->store ? m->map.max_entries : m->shared ? m->shared->map.max_entries : m->def->max_entries;
}

uint32_t bpfvm_map_value_size(const struct bpfvm_map *m)
{
	u32 size = m->def->value_size;

	return umap_is_percpu(m->def->type) ? ALIGN_UP(size, 8u) * ncpus() : size;
}

static struct umap_ctx map_ctx(void)
{
	struct hook_frame frame;
	struct thread_rec *rec;

	runtime_self_frame(&frame);
	rec = (struct thread_rec *)frame.rec;
	return (struct umap_ctx){ .rec = rec, .owner = rt_owner(rt_env(&frame), rec) };
}

int bpfvm_map_lookup(struct bpfvm_map *m, const void *key, void *value)
{
	struct umap_ctx cx = map_ctx();

	return m->store ? (int)umap_read(&m->map, key, value, &cx) : -EINVAL;
}

int bpfvm_map_update(struct bpfvm_map *m, const void *key, const void *value, uint64_t flags)
{
	struct umap_ctx cx = map_ctx();

	if (!m->store)
		return -EINVAL;
	return (int)umap_write(&m->map, key, value, flags, &cx);
}

int bpfvm_map_post(struct bpfvm_map *m, const void *record, size_t size)
{
	if (!m->store || m->map.type != UMAP_USER_RINGBUF)
		return -EINVAL;
	return (int)umap_user_post(&m->map, record, size);
}

int bpfvm_map_delete(struct bpfvm_map *m, const void *key)
{
	struct umap_ctx cx = map_ctx();

	if (!m->store)
		return -EINVAL;
	return (int)umap_erase(&m->map, key, &cx);
}

int bpfvm_map_lookup_and_delete(struct bpfvm_map *m, const void *key, void *value)
{
	struct umap_ctx cx = map_ctx();

	return m->store ? (int)umap_take(&m->map, key, value, &cx) : -EINVAL;
}

int bpfvm_map_freeze(struct bpfvm_map *m)
{
	return m->store ? (int)umap_freeze(&m->map) : -EINVAL;
}

typedef long read_batch(const struct umap *m, const void *from, void *next, struct umap_batch *b, const struct umap_ctx *cx);

static int map_read_batch(read_batch *read, struct bpfvm_map *m, const void *from, void *next, void *keys, void *values,
			  uint32_t *count)
{
	struct umap_batch b = { .keys = keys, .values = values, .count = *count };
	struct umap_ctx cx = map_ctx();
	int status = m->store ? (int)read(&m->map, from, next, &b, &cx) : -EINVAL;

	*count = b.count;
	return status;
}

int bpfvm_map_lookup_batch(struct bpfvm_map *m, const void *from, void *next, void *keys, void *values, uint32_t *count)
{
	return map_read_batch(umap_read_batch, m, from, next, keys, values, count);
}

int bpfvm_map_lookup_and_delete_batch(struct bpfvm_map *m, const void *from, void *next, void *keys, void *values,
				      uint32_t *count)
{
	return map_read_batch(umap_take_batch, m, from, next, keys, values, count);
}

int bpfvm_map_update_batch(struct bpfvm_map *m, const void *keys, const void *values, uint32_t *count, uint64_t flags)
{
	struct umap_batch b = { .keys = (void *)keys, .values = (void *)values, .count = *count, .flags = flags };
	struct umap_ctx cx = map_ctx();
	int status = m->store ? (int)umap_write_batch(&m->map, &b, &cx) : -EINVAL;

	*count = b.count;
	return status;
}

int bpfvm_map_delete_batch(struct bpfvm_map *m, const void *keys, uint32_t *count)
{
	struct umap_batch b = { .keys = (void *)keys, .count = *count };
	struct umap_ctx cx = map_ctx();
	int status = m->store ? (int)umap_delete_batch(&m->map, &b, &cx) : -EINVAL;

	*count = b.count;
	return status;
}

int bpfvm_map_next_key(struct bpfvm_map *m, const void *key, void *next_key)
{
	return m->store ? (int)umap_next_key(&m->map, key, next_key) : -EINVAL;
}

void *bpfvm_map_element(struct bpfvm_map *m, const void *key)
{
	struct umap_ctx cx = map_ctx();

	return m->store && !umap_is_percpu(m->map.type) ? umap_lookup(&m->map, key, &cx) : NULL;
}

void *bpfvm_map_memory(struct bpfvm_map *m, size_t *size)
{
	if (!m->store || m->map.type != UMAP_ARRAY || m->map.frozen)
		return NULL;
	if (size)
		*size = (size_t)m->map.max_entries * m->map.elem_stride;
	return (void *)(m->map.base + m->map.data_off);
}
