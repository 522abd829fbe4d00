/* SPDX-License-Identifier: MIT */
/*
 * libbpfvm: the same loader, maps and compiler as the daemon's, with this
 * process as the only target.
 *
 * All programs of an object are compiled into one mapping. It is reserved
 * first (that fixes the addresses), the code is written into a memfd, and the
 * memfd is mapped read-execute over the reservation: no page is ever writable
 * and executable.
 *
 * A run is a call of the compiled code with a frame on the caller's stack, or
 * without one where the program needs none.
 */
#include "vm/bpfvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "vm/jit.h"
#include "vm/object.h"
#include "vm/runtime.h"
#include "vm/runtime/rt.h"

struct bpfvm_map {
	struct bpfvm *vm;
	struct umap map;
	int fd;
};

struct bpfvm_prog {
	u64 (*fn)(u64 r1, u64 r2, struct hook_frame *frame);
	bool uses_frame;
	struct bpfvm *vm;
	struct vm_prog *prog; /* the object's */
};

struct bpfvm {
	struct object *object;
	struct bpfvm_map *maps;
	struct vm_map *vm_maps;   /* the same, as check and interpreter want them */
	struct jit_map *jit_maps; /* … and as the JIT does */
	struct bpfvm_prog *progs;
	size_t nmaps, nprogs;     /* that are set up */
	struct umap_claims *claims;
	int claims_fd;
	struct site_data site;
	void *code;
	size_t code_size;
};

static bool is_percpu(const struct umap *m)
{
	return m->type == UMAP_PERCPU_ARRAY || m->type == UMAP_PERCPU_HASH;
}

static u32 ncpus(void)
{
	return ((const struct target_env *)runtime_self_site()->env)->ncpus;
}

static struct uerr *create_map(struct bpfvm *vm, const struct object_map *om)
{
	struct bpfvm_map *m = &vm->maps[vm->nmaps];
	struct uerr *err;

	m->vm = vm;
	err = umap_create(om->name, om->type, om->key_size, om->value_size, om->max_entries, om->map_flags, ncpus(),
			  (u32)vm->nmaps + 1, &m->map, &m->fd);
	if (err)
		return uerr_prefix(err, "map '%s'", om->name);
	if (om->initial)
		memcpy((void *)(m->map.base + m->map.data_off), om->initial, om->value_size);
	m->map.frozen = om->readonly;
	vm->vm_maps[vm->nmaps] = (struct vm_map){ &m->map };
	vm->jit_maps[vm->nmaps] = (struct jit_map){ &m->map, (addr_t)&m->map };
	vm->nmaps++;
	return NULL;
}

static struct uerr *create_maps(struct bpfvm *vm)
{
	size_t n = vm->object->nmaps;
	struct uerr *err = NULL;
	bool percpu = false;

	vm->maps = calloc(n + 1, sizeof(*vm->maps));
	vm->vm_maps = calloc(n + 1, sizeof(*vm->vm_maps));
	vm->jit_maps = calloc(n + 1, sizeof(*vm->jit_maps));
	if (!vm->maps || !vm->vm_maps || !vm->jit_maps)
		return uerr_nomem();
	for (size_t i = 0; !err && i < n; i++) {
		err = create_map(vm, &vm->object->maps[i]);
		percpu |= !err && is_percpu(&vm->maps[i].map);
	}
	if (!err && percpu) {
		err = umap_claims_create(ncpus(), &vm->claims, &vm->claims_fd);
		vm->site.claims = (addr_t)vm->claims;
		vm->site.nclaims = ncpus() + UMAP_SPARE_SLOTS;
	}
	return err;
}

static struct uerr *check_progs(struct bpfvm *vm)
{
	struct uerr *err = NULL;

	for (size_t i = 0; !err && i < vm->object->nprogs; i++)
		err = check_program(&vm->object->progs[i], vm->vm_maps, vm->nmaps);
	return err;
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
	return (addr_t)runtime_helper(id);
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

/* Compiles program I for OFF in the reservation. */
static struct uerr *compile_prog(struct bpfvm *vm, size_t i, int fd, size_t off, size_t *size)
{
	struct vm_prog *p = &vm->object->progs[i];
	struct jit_input in = {
		.prog = p,
		.maps = vm->jit_maps,
		.nmaps = vm->nmaps,
		.code_addr = (addr_t)vm->code + off,
		.helper_addr = helper_here,
	};
	struct jit_output out cleanup(jit_output_deinit) = { 0 };
	struct uerr *err = jit_compile(&in, &out);

	if (!err)
		err = write_code(fd, &out, off);
	if (err)
		return uerr_prefix(err, "program '%s'", p->name);
	vm->progs[i] = (struct bpfvm_prog){
		.fn = (u64(*)(u64, u64, struct hook_frame *))out.entry,
		.uses_frame = out.uses_frame,
		.vm = vm,
		.prog = p,
	};
	vm->nprogs++;
	*size = out.size;
	return NULL;
}

static struct uerr *compile_progs(struct bpfvm *vm)
{
	cleanup_close int fd = memfd_create("bpfvm-code", MFD_CLOEXEC);
	struct uerr *err = NULL;
	size_t off = 0, size = 0;

	vm->progs = calloc(vm->object->nprogs + 1, sizeof(*vm->progs));
	if (!vm->progs)
		return uerr_nomem();
	for (size_t i = 0; i < vm->object->nprogs; i++)
		vm->code_size += ALIGN_UP(jit_size_bound(&vm->object->progs[i]), 64);
	vm->code_size = ALIGN_UP(vm->code_size + 1, PAGE);
	if (fd < 0 || ftruncate(fd, (off_t)vm->code_size))
		return uerr_errno(errno, "cannot make room for compiled code");
	vm->code = reserve_near(vm->code_size);
	if (vm->code == MAP_FAILED) {
		vm->code = NULL;
		return uerr_nomem();
	}
	for (size_t i = 0; !err && i < vm->object->nprogs; i++, off += ALIGN_UP(size, 64))
		err = compile_prog(vm, i, fd, off, &size);
	if (err)
		return err;
	if (mmap(vm->code, vm->code_size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED)
		return uerr_errno(errno, "cannot map compiled code");
	return NULL;
}

/* The message for the caller; ERR is freed. */
static void give_error(struct uerr *err, char **error)
{
	int n = -1;

	if (error) {
		*error = NULL;
		n = err->log ? asprintf(error, "%s\n%s", err->message, err->log) : asprintf(error, "%s", err->message);
		if (n < 0)
			*error = NULL;
	}
	uerr_free(err);
}

struct bpfvm *bpfvm_open(const void *object, size_t size, const char *name, char **error)
{
	struct object_opts opts = { .name = name };
	struct bpfvm *vm = calloc(1, sizeof(*vm));
	struct uerr *err;

	if (!vm) {
		give_error(uerr_nomem(), error);
		return NULL;
	}
	vm->claims_fd = -1;
	vm->site = *runtime_self_site();
	err = object_open(object, size, &opts, &vm->object);
	if (!err)
		err = create_maps(vm);
	if (!err)
		err = check_progs(vm);
	if (!err)
		err = compile_progs(vm);
	if (!err)
		return vm;
	give_error(err, error);
	bpfvm_close(vm);
	return NULL;
}

void bpfvm_close(struct bpfvm *vm)
{
	if (!vm)
		return;
	if (vm->code)
		munmap(vm->code, vm->code_size);
	for (size_t i = 0; i < vm->nmaps; i++)
		umap_destroy(&vm->maps[i].map, vm->maps[i].fd);
	if (vm->claims) {
		munmap(vm->claims, UMAP_CLAIMS_SIZE(ncpus()));
		close(vm->claims_fd);
	}
	object_free(vm->object);
	free(vm->maps);
	free(vm->vm_maps);
	free(vm->jit_maps);
	free(vm->progs);
	free(vm);
}

struct bpfvm_prog *bpfvm_prog_find(struct bpfvm *vm, const char *name)
{
	for (size_t i = 0; i < vm->nprogs; i++)
		if (!strcmp(vm->progs[i].prog->name, name))
			return &vm->progs[i];
	return NULL;
}

static __attribute__((noinline)) u64 run_with_frame(struct bpfvm_prog *p, void *ctx, size_t ctx_size)
{
	struct hook_frame frame;

	runtime_self_frame(&frame);
	frame.site = (addr_t)&p->vm->site;
	return p->fn((u64)ctx, ctx_size, &frame);
}

uint64_t bpfvm_run(struct bpfvm_prog *p, void *ctx, size_t ctx_size)
{
	if (p->uses_frame)
		return run_with_frame(p, ctx, ctx_size);
	return p->fn((u64)ctx, ctx_size, NULL);
}

uint64_t bpfvm_interpret(struct bpfvm_prog *p, void *ctx, size_t ctx_size)
{
	struct hook_frame frame;
	u64 r0 = 0;

	runtime_self_frame(&frame);
	frame.site = (addr_t)&p->vm->site;
	interp_run(p->prog, p->vm->vm_maps, p->vm->nmaps, (u64)ctx, ctx_size, &frame, 0, &r0);
	return r0;
}

struct bpfvm_map *bpfvm_map_find(struct bpfvm *vm, const char *name)
{
	for (size_t i = 0; i < vm->nmaps; i++)
		if (!strcmp(vm->object->maps[i].name, name))
			return &vm->maps[i];
	return NULL;
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

	return (int)umap_read(&m->map, key, value, &cx);
}

int bpfvm_map_update(struct bpfvm_map *m, const void *key, const void *value, uint64_t flags)
{
	struct umap_ctx cx = map_ctx();

	return m->map.frozen ? -EPERM : (int)umap_write(&m->map, key, value, flags, &cx);
}

int bpfvm_map_delete(struct bpfvm_map *m, const void *key)
{
	struct umap_ctx cx = map_ctx();

	return m->map.frozen ? -EPERM : (int)umap_delete(&m->map, key, &cx);
}

int bpfvm_map_next_key(struct bpfvm_map *m, const void *key, void *next_key)
{
	return (int)umap_next_key(&m->map, key, next_key);
}

uint32_t bpfvm_map_value_size(struct bpfvm_map *m)
{
	return (uint32_t)umap_user_value_size(&m->map);
}
