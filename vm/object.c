/* SPDX-License-Identifier: MIT */
/*
 * BPF objects through libbpf, without the kernel.
 *
 * libbpf has a mode in which it does not load an object but writes a program
 * that would ("light skeleton", bpf_object__gen_loader). In that mode it takes
 * the newest kernel for granted (no feature probes) and does all that we want:
 *
 *	open_mem ─▶ maps resized, programs typed ─▶ gen_loader ─▶ load
 *
 * after which bpf_program__insns() is code with subprograms appended and maps as
 * BPF_PSEUDO_MAP_IDX / _IDX_VALUE, the index counting maps in the order of
 * bpf_object__for_each_map. What would still lead to bpf(2) is taken away before
 * loading: pins of maps. The generated loader is thrown away.
 *
 * CO-RE is left to the kernel in that mode, so it is done here afterwards
 * (core_relo.c), against the kernel's BTF, or, where there is none, against one
 * made here that describes struct pt_regs, which is what programs of user probes
 * ask about.
 *
 * libbpf prints; its words are caught and become the error.
 */
#include "vm/object.h"

#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "vm/btf_index.h"
#include "vm/object_internal.h"
#include "vm/opcodes.h"

static void cleanup_objectp(struct object **obj)
{
	object_free(*obj);
}

static void cleanup_bpf_objectp(struct bpf_object **obj)
{
	bpf_object__close(*obj);
}

static void cleanup_btfp(struct btf **btf)
{
	btf__free(*btf);
}

static void cleanup_elfp(struct object_elf **elf)
{
	object_elf_close(*elf);
}

/* --- libbpf's words --- */

/* libbpf has one print function for the whole process. While it is ours, this
 * lock is held; what libbpf says on other threads, on behalf of a host that uses
 * it as well, still goes where it went before. */
static pthread_mutex_t print_lock = PTHREAD_MUTEX_INITIALIZER;
static libbpf_print_fn_t print_before;
static __thread FILE *print_to; /* set on the thread that holds the lock */
static __thread bool print_ours;

void object_forked(void)
{
	pthread_mutex_init(&print_lock, NULL);
	print_ours = false;
}

static int print_catch(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	libbpf_print_fn_t before = __atomic_load_n(&print_before, __ATOMIC_RELAXED);

	if (!print_ours)
		return before ? before(level, fmt, ap) : 0;
	if (level != LIBBPF_WARN || !print_to)
		return 0;
	return vfprintf(print_to, fmt, ap);
}

struct words {
	FILE *file;
	char *text;
	size_t size;
};

static void words_begin(struct words *w)
{
	pthread_mutex_lock(&print_lock);
	w->text = NULL;
	w->file = open_memstream(&w->text, &w->size);
	print_to = w->file;
	print_ours = true;
	__atomic_store_n(&print_before, libbpf_set_print(print_catch), __ATOMIC_RELAXED);
}

static void words_end(struct words *w)
{
	libbpf_print_fn_t now = libbpf_set_print(print_before);

	if (now != print_catch) /* the host has changed it meanwhile */
		libbpf_set_print(now);
	print_ours = false;
	print_to = NULL;
	if (w->file)
		fclose(w->file);
	w->file = NULL;
	free(w->text);
	pthread_mutex_unlock(&print_lock);
}

/* The first thing that libbpf complained about, as an error with all of it in
 * the log. */
static struct uerr *words_error(struct words *w, int errnum, const char *name, const char *doing)
{
	const char *text = "", *at;
	struct uerr *err;
	int len;

	if (w->file && !fflush(w->file) && w->text)
		text = w->text;
	at = !strncmp(text, "libbpf: ", 8) ? text + 8 : text;
	len = strcspn(at, "\n");
	if (len)
		err = uerr_new(UERR_FAILED, "%s: %s: %.*s", name, doing, len, at);
	else
		err = uerr_errno(errnum, "%s: %s", name, doing);
	if (*text)
		uerr_set_log(err, text);
	return err;
}

/* --- struct pt_regs for CO-RE --- */

static struct btf *own_btf(void)
{
	static const char *const regs[] = { "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax",
					    "cx", "dx", "si", "di", "orig_ax", "ip", "cs", "flags", "sp", "ss" };
	struct btf *btf = btf__new_empty();
	int word;
	bool ok;

	if (!btf)
		return NULL;
	word = btf__add_int(btf, "long unsigned int", 8, 0);
	ok = word > 0 && btf__add_struct(btf, "pt_regs", sizeof(struct target_regs)) > 0;
	for (u32 i = 0; ok && i < ARRAY_SIZE(regs); i++)
		ok = !btf__add_field(btf, regs[i], word, i * 64, 0);
	if (!ok) {
		btf__free(btf);
		return NULL;
	}
	return btf;
}

/* What CO-RE resolves against. */
struct target_types {
	u8 *raw;
	struct btf_index *index;
};

static void target_types_deinit(struct target_types *t)
{
	btf_index_destroy(t->index);
	free(t->raw);
}

static u8 *own_btf_bytes(size_t *ret_size)
{
	cleanup(cleanup_btfp) struct btf *btf = own_btf();
	const void *raw;
	u32 size = 0;
	u8 *copy;

	raw = btf ? btf__raw_data(btf, &size) : NULL;
	copy = raw ? malloc(size) : NULL;
	if (copy)
		memcpy(copy, raw, size);
	*ret_size = size;
	return copy;
}

/* The bytes of the file at PATH, or NULL. */
static u8 *file_bytes(const char *path, size_t *ret_size)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	cleanup_free u8 *data = NULL;
	struct stat st;
	size_t n = 0;

	if (fd < 0 || fstat(fd, &st) || st.st_size <= 0)
		return NULL;
	data = malloc(st.st_size);
	while (data && n < (size_t)st.st_size) {
		ssize_t got = read(fd, data + n, st.st_size - n);

		if (got <= 0)
			return NULL;
		n += got;
	}
	*ret_size = n;
	return steal_ptr(data);
}

static struct uerr *target_types_init(struct target_types *t, const char *kernel_btf)
{
	size_t size;
	struct uerr *err;

	t->raw = file_bytes(kernel_btf, &size);
	if (t->raw) {
		err = btf_index_create(t->raw, size, &t->index);
		if (!err)
			return NULL;
		uerr_free(err);
		free(t->raw);
	}
	t->raw = own_btf_bytes(&size);
	if (!t->raw)
		return uerr_nomem();
	return btf_index_create(t->raw, size, &t->index);
}

/* --- what we serve --- */

#define PROG_ARRAY_MAX (1u << 20) /* bytes of elements that may have a value from the start */

static const char *map_type_advice(u32 type)
{
	switch (type) {
	case BPF_MAP_TYPE_ARRAY_OF_MAPS:
	case BPF_MAP_TYPE_HASH_OF_MAPS:
		return "use one hash map whose keys begin with the outer map's key";
	}
	return "use a hash or an array map";
}

static bool map_type_served(u32 type)
{
	static const u8 served[] = {
		UMAP_HASH, UMAP_ARRAY, UMAP_PERCPU_HASH, UMAP_PERCPU_ARRAY, UMAP_LRU_HASH, UMAP_LRU_PERCPU_HASH,
		UMAP_QUEUE, UMAP_STACK, UMAP_BLOOM_FILTER, UMAP_PROG_ARRAY, UMAP_RINGBUF,
		UMAP_STACK_TRACE, UMAP_PERF_EVENT_ARRAY, UMAP_LPM_TRIE, UMAP_TASK_STORAGE, UMAP_USER_RINGBUF,
	};

	for (size_t i = 0; i < ARRAY_SIZE(served); i++)
		if (type == served[i])
			return true;
	return false;
}

/* libbpf's own maps carry the object's name in front of the section's. */
static const char *map_name(const struct bpf_map *map)
{
	static const char *const sections[] = { ".data", ".bss", ".rodata", ".kconfig" };
	const char *name = bpf_map__name(map);
	size_t len = strlen(name);

	if (!bpf_map__is_internal(map) || name[0] == '.')
		return name;
	for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
		size_t n = strlen(sections[i]);

		if (len > n && !strcmp(name + len - n, sections[i]))
			return name + len - n;
	}
	return name;
}

static bool is_readonly(const char *name)
{
	return !strncmp(name, ".rodata", 7) || !strcmp(name, ".kconfig");
}

static struct uerr *map_refuse(const struct bpf_map *map, const char *object)
{
	u32 type = bpf_map__type(map);
	const char *type_name = libbpf_bpf_map_type_str(type);

	if (bpf_map__is_internal(map))
		return NULL;
	if (type == BPF_MAP_TYPE_STRUCT_OPS)
		return uerr_new(UERR_REJECTED, "%s: map '%s' is struct_ops, which is for the kernel's own hooks: use "
				"SEC(\"uprobe\") programs", object, bpf_map__name(map));
	if (bpf_map__map_extra(map))
		return uerr_new(UERR_REJECTED, "%s: map '%s' asks for another number of hashes (map_extra), which is not "
				"there yet: leave it out, five are used", object, bpf_map__name(map));
	if (map_type_served(type))
		return NULL;
	return uerr_new(UERR_REJECTED, "%s: map '%s' is a %s, which is not there yet: %s", object, bpf_map__name(map),
			type_name ? type_name : "map of unknown type", map_type_advice(type));
}

/* A program without a type is taken for one of a user probe. */
static struct uerr *prog_accept(struct bpf_program *prog, const char *object, bool any)
{
	enum bpf_prog_type type = bpf_program__type(prog);
	const char *type_name = libbpf_bpf_prog_type_str(type);

	if (type == BPF_PROG_TYPE_UNSPEC || any) {
		bpf_program__set_type(prog, BPF_PROG_TYPE_KPROBE);
		return NULL;
	}
	if (type == BPF_PROG_TYPE_KPROBE)
		return NULL;
	return uerr_new(UERR_REJECTED,
			"%s: program %s is in SEC(\"%s\"), a %s program for the kernel: use SEC(\"uprobe\"), "
			"SEC(\"uretprobe\") or SEC(\"usdt\")",
			object, bpf_program__name(prog), bpf_program__section_name(prog), type_name ? type_name : "?");
}

static struct uerr *sizes_apply(struct bpf_object *b, const struct object_opts *opts)
{
	for (size_t i = 0; i < opts->nsizes; i++) {
		const struct object_map_size *s = &opts->sizes[i];
		struct bpf_map *map = bpf_object__find_map_by_name(b, s->name);
		struct uerr *err;

		if (!map) {
			err = uerr_new(UERR_USAGE, "%s: no map '%s' to resize", opts->name, s->name);
			bpf_object__for_each_map(map, b)
				uerr_add_near(err, map_name(map));
			return err;
		}
		if (bpf_map__is_internal(map) || !s->max_entries || bpf_map__set_max_entries(map, s->max_entries))
			return uerr_new(UERR_USAGE, "%s: map '%s' cannot have %u entries", opts->name, s->name,
					s->max_entries);
	}
	return NULL;
}

/* Whatever of the object we cannot run is refused here, before any work. */
static struct uerr *object_prepare(struct bpf_object *b, const struct object_opts *opts)
{
	struct bpf_program *prog;
	struct bpf_map *map;
	size_t nprogs = 0;
	struct uerr *err;

	bpf_object__for_each_map(map, b) {
		err = map_refuse(map, opts->name);
		if (err)
			return err;
		bpf_map__set_pin_path(map, NULL);
	}
	bpf_object__for_each_program(prog, b) {
		if (!bpf_program__autoload(prog))
			continue;
		err = prog_accept(prog, opts->name, opts->any_section);
		if (err)
			return err;
		nprogs++;
	}
	if (!nprogs)
		return uerr_new(UERR_FAILED, "%s: no program in it", opts->name);
	return sizes_apply(b, opts);
}

/* --- taking the result out --- */

void object_clean_name(char *name)
{
	for (; *name; name++)
		if ((u8)*name < 0x20 || *name == 0x7f)
			*name = '?';
}

static void copy_name(char *dst, size_t size, const char *src)
{
	snprintf(dst, size, "%s", src ? src : "");
	object_clean_name(dst);
}

static u32 data_type_id(const struct bpf_object *b, const struct bpf_map *map, const char *name)
{
	u32 id = bpf_map__btf_value_type_id(map);
	s32 found;

	if (id || !bpf_map__is_internal(map) || !bpf_object__btf(b))
		return id;
	found = btf__find_by_name_kind(bpf_object__btf(b), name, BTF_KIND_DATASEC);
	return found > 0 ? found : 0;
}

static struct uerr *map_extract(const struct bpf_object *b, struct bpf_map *map, struct object_map *ret)
{
	const char *name = map_name(map);
	const void *initial;
	size_t size = 0;

	copy_name(ret->name, sizeof(ret->name), name);
	ret->type = bpf_map__type(map);
	ret->key_size = bpf_map__key_size(map);
	ret->value_size = bpf_map__value_size(map);
	ret->max_entries = bpf_map__max_entries(map);
	ret->map_flags = bpf_map__map_flags(map);
	ret->btf_key_type_id = bpf_map__btf_key_type_id(map);
	ret->btf_value_type_id = data_type_id(b, map, name);
	ret->global_data = bpf_map__is_internal(map);
	ret->readonly = ret->global_data && is_readonly(name);
	if (!ret->global_data)
		return NULL;
	initial = bpf_map__initial_value(map, &size);
	if (!initial || size > ret->value_size)
		return NULL;
	ret->initial = calloc(1, ret->value_size);
	if (!ret->initial)
		return uerr_nomem();
	memcpy(ret->initial, initial, size);
	return NULL;
}

/* What libbpf answers of __kconfig variables is known once it has loaded. As it
 * takes the newest kernel for granted, LINUX_HAS_BPF_COOKIE is 1. */
static void kconfig_extract(struct bpf_object *b, struct object *obj)
{
	struct bpf_map *map;
	size_t i = 0;

	bpf_object__for_each_map(map, b) {
		struct object_map *m = &obj->maps[i++];
		size_t size = 0;
		const void *values = strcmp(m->name, ".kconfig") ? NULL : bpf_map__initial_value(map, &size);

		if (values && m->initial && size <= m->value_size)
			memcpy(m->initial, values, size);
	}
}

static struct uerr *maps_extract(struct bpf_object *b, struct object *obj)
{
	struct bpf_map *map;
	size_t n = 0;

	bpf_object__for_each_map(map, b)
		n++;
	obj->maps = calloc(n + 1, sizeof(*obj->maps));
	if (!obj->maps)
		return uerr_nomem();
	bpf_object__for_each_map(map, b) {
		struct uerr *err = map_extract(b, map, &obj->maps[obj->nmaps++]);

		if (err)
			return err;
	}
	return NULL;
}

static struct uerr *prog_extract(const struct bpf_program *prog, const char *object, struct vm_prog *ret)
{
	size_t n = bpf_program__insn_cnt(prog);
	const struct bpf_insn *insns = bpf_program__insns(prog);

	copy_name(ret->name, sizeof(ret->name), bpf_program__name(prog));
	copy_name(ret->section, sizeof(ret->section), bpf_program__section_name(prog));
	if (!n || n > INSN_MAX)
		return uerr_new(UERR_REJECTED, "%s: program %s has %zu instructions, the limit is %u", object, ret->name, n,
				INSN_MAX);
	ret->insns = calloc(n, sizeof(*insns));
	if (!ret->insns)
		return uerr_nomem();
	memcpy(ret->insns, insns, n * sizeof(*insns));
	ret->ninsns = n;
	return NULL;
}

static struct uerr *progs_extract(struct bpf_object *b, struct object_elf *elf, struct object *obj)
{
	struct bpf_program *prog;
	size_t n = 0;

	bpf_object__for_each_program(prog, b)
		n++;
	obj->progs = calloc(n + 1, sizeof(*obj->progs));
	if (!obj->progs)
		return uerr_nomem();
	bpf_object__for_each_program(prog, b) {
		struct vm_prog *p = &obj->progs[obj->nprogs];
		struct uerr *err;

		if (!bpf_program__autoload(prog))
			continue;
		obj->nprogs++;
		err = prog_extract(prog, obj->name, p);
		if (err)
			return err;
		if (elf && !object_elf_lines(elf, obj, p))
			return uerr_nomem();
	}
	return NULL;
}

/* Where in a map's definition, which is a struct of type ID, its `values` begin; -1
 * when it has none. */
static s64 values_off(const struct btf *btf, u32 id)
{
	const struct btf_type *t = btf__type_by_id(btf, id);

	while (t && (btf_is_mod(t) || btf_is_typedef(t)))
		t = btf__type_by_id(btf, t->type);
	for (u32 i = 0; t && btf_is_struct(t) && i < btf_vlen(t); i++) {
		const char *name = btf__name_by_offset(btf, btf_members(t)[i].name_off);

		if (name && !strcmp(name, "values"))
			return btf_member_bit_offset(t, i) / 8;
	}
	return -1;
}

/* The map whose definition OFF of the section of maps is in, and which of its values. */
static struct object_map *map_at(const struct btf *btf, const struct object *obj, u64 off, u64 *ret_index)
{
	s32 id = btf__find_by_name_kind(btf, ".maps", BTF_KIND_DATASEC);
	const struct btf_type *sec = id > 0 ? btf__type_by_id(btf, id) : NULL;

	for (u32 i = 0; sec && i < btf_vlen(sec); i++) {
		const struct btf_var_secinfo *v = btf_var_secinfos(sec) + i;
		const struct btf_type *var = btf__type_by_id(btf, v->type);
		const char *name = var ? btf__name_by_offset(btf, var->name_off) : NULL;
		s64 values = var ? values_off(btf, var->type) : -1;

		if (values < 0 || off < v->offset + (u64)values || off >= (u64)v->offset + v->size)
			continue;
		*ret_index = (off - v->offset - (u64)values) / 8;
		for (size_t m = 0; name && m < obj->nmaps; m++)
			if (!strcmp(obj->maps[m].name, name))
				return &obj->maps[m];
	}
	return NULL;
}

/* What a PROG_ARRAY is defined with (.values = { … }), which libbpf would give the
 * kernel. */
static struct uerr *prog_arrays_fill(struct bpf_object *b, struct object_elf *elf, struct object *obj)
{
	const struct btf *btf = bpf_object__btf(b);
	const char *name;
	u64 off, index = 0;

	for (size_t n = 0; btf && elf && object_elf_map_function(elf, n, &off, &name); n++) {
		struct object_map *m = map_at(btf, obj, off, &index);
		u32 prog = 0;

		for (size_t p = 0; p < obj->nprogs; p++)
			if (!strcmp(obj->progs[p].name, name))
				prog = p + 1;
		if (!m || m->type != UMAP_PROG_ARRAY || index >= m->max_entries || !prog ||
		    object_map_initial_size(m) > PROG_ARRAY_MAX)
			return uerr_new(UERR_REJECTED, "%s: %s cannot be put into map '%s' from the start: set it with "
					"'bpfctl map update'", obj->name, name, m ? m->name : "?");
		if (!m->initial)
			m->initial = calloc(1, object_map_initial_size(m));
		if (!m->initial)
			return uerr_nomem();
		((u32 *)(void *)m->initial)[index] = prog;
	}
	return NULL;
}

bool object_set_btf(struct object *obj, const void *raw, size_t size)
{
	struct uerr *err;

	obj->btf = malloc(size ? size : 1);
	if (!obj->btf)
		return false;
	memcpy(obj->btf, raw, size);
	obj->btf_size = size;
	err = btf_index_create(obj->btf, size, &obj->types);
	if (err) { /* values are then shown without types */
		uerr_free(err);
		free(obj->btf);
		obj->btf = NULL;
		obj->btf_size = 0;
	}
	return true;
}

static struct uerr *relocate(struct object_elf *elf, struct object *obj, const char *kernel_btf)
{
	cleanup(target_types_deinit) struct target_types target = { NULL, NULL };
	struct uerr *err = NULL;

	if (!elf || !object_elf_has_relos(elf))
		return NULL;
	err = target_types_init(&target, kernel_btf);
	for (size_t i = 0; !err && i < obj->nprogs; i++)
		err = object_elf_relocate(elf, obj, target.index, &obj->progs[i]);
	return uerr_prefix(err, "%s", obj->name);
}

static struct uerr *object_extract(struct bpf_object *b, struct object_elf *elf, const char *kernel_btf,
				   struct object *obj)
{
	const struct btf *btf = bpf_object__btf(b);
	const void *raw;
	struct uerr *err;
	u32 size;

	raw = btf ? btf__raw_data(btf, &size) : NULL;
	if (raw && !object_set_btf(obj, raw, size))
		return uerr_nomem();
	for (size_t i = 0; i < obj->nmaps; i++)
		obj->maps[i].lock = (u32)(btf_index_lock(obj->types, obj->maps[i].btf_value_type_id, obj->maps[i].value_size) + 1);
	if (elf)
		object_elf_license(elf, obj->license, sizeof(obj->license));
	err = progs_extract(b, elf, obj);
	if (!err)
		err = prog_arrays_fill(b, elf, obj);
	return err ? err : relocate(elf, obj, kernel_btf);
}

/* --- loading --- */

/* libbpf wants a name that can stand in front of ".bss". */
static void plain_name(const char *name, char ret[16])
{
	size_t n = 0;

	for (const char *c = name; *c && *c != '.' && n < 15; c++)
		ret[n++] = (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ? *c : '_';
	ret[n] = 0;
	if (!n)
		strcpy(ret, "object");
}

static struct uerr *load(struct words *w, const void *bytes, size_t size, const struct object_opts *opts,
			 const char *kernel_btf, struct object *obj)
{
	LIBBPF_OPTS(bpf_object_open_opts, open_opts);
	LIBBPF_OPTS(gen_loader_opts, gen_opts);
	cleanup_free u8 *copy = NULL; /* freed last */
	cleanup(cleanup_bpf_objectp) struct bpf_object *b = NULL;
	cleanup(cleanup_elfp) struct object_elf *elf = NULL;
	const char *name;
	char plain[16];
	u64 off;
	struct uerr *err;

	plain_name(opts->name, plain);
	open_opts.object_name = plain;
	elf = object_elf_open(bytes, size);
	if (elf && object_elf_map_function(elf, 0, &off, &name)) {
		copy = malloc(size);
		if (!copy)
			return uerr_nomem();
		memcpy(copy, bytes, size);
		object_elf_hide_map_functions(elf, copy, size);
		bytes = copy;
	}
	b = bpf_object__open_mem(bytes, size, &open_opts);
	if (!b)
		return words_error(w, errno, opts->name, "not a BPF object");
	err = object_prepare(b, opts);
	if (err)
		return err;
	/* before loading, which may drop the initial values */
	err = maps_extract(b, obj);
	if (err)
		return err;
	if (bpf_object__gen_loader(b, &gen_opts))
		return words_error(w, errno, opts->name, "cannot be prepared");
	if (bpf_object__load(b))
		return words_error(w, errno, opts->name, "cannot be relocated");
	kconfig_extract(b, obj);
	return object_extract(b, elf, kernel_btf, obj);
}

struct uerr *object_load(const void *bytes, size_t size, const struct object_opts *opts, const char *kernel_btf,
			 struct object **ret)
{
	cleanup(cleanup_objectp) struct object *obj = calloc(1, sizeof(*obj));
	struct words w;
	struct uerr *err;

	if (!obj)
		return uerr_nomem();
	copy_name(obj->name, sizeof(obj->name), opts->name);
	words_begin(&w);
	err = load(&w, bytes, size, opts, kernel_btf, obj);
	words_end(&w);
	if (err)
		return err;
	*ret = steal_ptr(obj);
	return NULL;
}

struct uerr *object_open(const void *bytes, size_t size, const struct object_opts *opts, struct object **ret)
{
	return object_load(bytes, size, opts, OBJECT_KERNEL_BTF, ret);
}

void object_free(struct object *obj)
{
	if (!obj)
		return;
	for (size_t i = 0; i < obj->nmaps; i++)
		free(obj->maps[i].initial);
	for (size_t i = 0; i < obj->nprogs; i++) {
		free(obj->progs[i].insns);
		free(obj->progs[i].lines);
		free(obj->progs[i].texts);
		free(obj->progs[i].subprogs);
		free(obj->progs[i].facts);
		free((char *)obj->progs[i].file);
	}
	free(obj->maps);
	free(obj->progs);
	btf_index_destroy(obj->types);
	free(obj->btf);
	free(obj);
}
