/* SPDX-License-Identifier: MIT */
/* Images of unwind tables; see unwind.h. */
#include "daemon/unwind.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cache_file.h"
#include "base/cleanup.h"
#include "base/vec.h"
#include "elfsym/unwind.h"
#include "injector/digest.h"

#define TABLE_MAX (256u << 20)  /* of one file */
#define IMAGE_MAX (1024u << 20) /* of all */

/* ---- what is mapped ---- */

static u64 mix(u64 key, u64 v)
{
	key = (key ^ v) * 0x9e3779b97f4a7c15ull;
	return key ^ key >> 29;
}

static u64 mix_text(u64 key, const char *s)
{
	for (; s && *s; s++)
		key = mix(key, (u8)*s);
	return key;
}

static bool is_vdso(const struct procmap *map)
{
	return !strcmp(map->path, "[vdso]");
}

/* The module whose code MAP holds, or NULL. */
static const struct module *module_of(const struct modules *mods, const struct procmap *map)
{
	if (!(map->prot & PROT_EXEC) || !map->ino)
		return NULL;
	for (size_t i = 0; i < mods->n; i++) {
		const struct module *m = &mods->mods[i];

		if (m->dev == map->dev && m->ino == map->ino && map->start >= m->lo && map->end <= m->hi)
			return m;
	}
	return NULL;
}

struct uerr *unwind_plan(pid_t pid, struct unwind_plan *ret)
{
	struct unwind_plan p = { .key = 1 };
	struct uerr *err = modules_read(pid, &p.mods);

	if (err)
		return err;
	for (size_t i = 0; i < p.mods.maps.n; i++) {
		const struct procmap *map = &p.mods.maps.maps[i];
		const struct module *m = module_of(&p.mods, map);

		if (m || is_vdso(map))
			p.key = mix(mix(p.key, map->start), map->end);
		if (m)
			p.key = mix_text(mix(mix(mix(p.key, m->bias), m->dev), m->ino), image_build_id(m->image));
	}
	if (!p.key)
		p.key = 1;
	*ret = p;
	return NULL;
}

void unwind_plan_deinit(struct unwind_plan *p)
{
	modules_deinit(&p->mods);
}

/* ---- one table ---- */

#define CACHE_MAGIC "uprbunwd"
#define CACHE_VERSION 2u /* of what elfsym/unwind.c makes */

struct table_file {
	char magic[8];
	u32 version;
	u32 pad;
	u64 size;               /* of the table */
	u8 input[DIGEST_SIZE];  /* of all that it was made of */
	u8 result[DIGEST_SIZE]; /* of the table */
};
_Static_assert(sizeof(struct table_file) == 88, "format of cached tables");

/* Sizes first: no two inputs are one run of bytes. */
static void digest_input(const struct unwind_input *in, u8 ret[DIGEST_SIZE])
{
	const u64 head[] = { in->addr, in->size, in->ntext };
	struct digest d;

	digest_init(&d);
	digest_add(&d, head, sizeof(head));
	digest_add(&d, in->text, in->ntext * sizeof(*in->text));
	digest_add(&d, in->bytes, in->size);
	digest_final(&d, ret);
}

static void digest_table(const struct unwind_table *t, u64 size, u8 ret[DIGEST_SIZE])
{
	struct digest d;

	digest_init(&d);
	digest_add(&d, t, size);
	digest_final(&d, ret);
}

static struct unwind_table *cache_read(const char *path, const u8 input[DIGEST_SIZE])
{
	struct table_file head;
	u64 size = 0;
	cleanup_close int fd = cache_file_open(path, &size);
	cleanup_free struct unwind_table *t = NULL;
	u8 result[DIGEST_SIZE];

	if (fd < 0 || !cache_file_read(fd, &head, sizeof(head)) ||
	    memcmp(head.magic, CACHE_MAGIC, sizeof(head.magic)) != 0 ||
	    head.version != CACHE_VERSION || head.size > TABLE_MAX || size != sizeof(head) + head.size ||
	    memcmp(head.input, input, DIGEST_SIZE) != 0)
		return NULL;
	t = malloc(head.size);
	if (!t || !cache_file_read(fd, t, head.size))
		return NULL;
	digest_table(t, head.size, result);
	if (memcmp(result, head.result, DIGEST_SIZE) != 0 || !unwind_table_valid(t, head.size))
		return NULL;
	return steal_ptr(t);
}

static void cache_write(const char *path, const u8 input[DIGEST_SIZE], const struct unwind_table *t)
{
	struct table_file head = { .version = CACHE_VERSION, .size = t->size };

	memcpy(head.magic, CACHE_MAGIC, sizeof(head.magic));
	memcpy(head.input, input, DIGEST_SIZE);
	digest_table(t, t->size, head.result);
	cache_file_write(path, &head, sizeof(head), t, t->size);
}

/* The table of IM, malloc'd, or NULL: it has none. */
static struct uerr *make_table(struct image *im, const char *cache_dir, struct unwind_table **ret)
{
	cleanup_free char *path = cache_file_path(cache_dir, image_build_id(im), "unwind");
	cleanup(unwind_input_deinit) struct unwind_input in = {};
	u8 input[DIGEST_SIZE];
	struct uerr *err = image_unwind_input(im, &in);

	*ret = NULL;
	if (err || !in.bytes)
		return err;
	if (path) {
		digest_input(&in, input);
		*ret = cache_read(path, input);
	}
	if (!*ret) {
		err = unwind_table_make(&in, ret);
		if (!err && *ret && path)
			cache_write(path, input, *ret);
	}
	return err;
}

/* The same kernel gives every process the same one; ours is in memory. */
struct uerr *unwind_vdso(struct image **ret)
{
	const Elf64_Ehdr *eh = (const void *)getauxval(AT_SYSINFO_EHDR);
	cleanup_close int fd = -1;
	size_t size;

	*ret = NULL;
	if (!eh || !eh->e_shoff)
		return NULL;
	size = eh->e_shoff + (size_t)eh->e_shnum * eh->e_shentsize;
	fd = memfd_create("vdso", MFD_CLOEXEC);
	if (fd < 0 || write(fd, eh, size) != (ssize_t)size)
		return uerr_errno(errno, "a copy of the vDSO");
	return image_open_fd(fd, "[vdso]", ret);
}

/* ---- the image ---- */

struct making {
	const char *cache_dir;
	VEC(struct unwind_module) mods;
	VEC(struct unwind_table *) tables;
	VEC(const struct image *) images; /* of which these are */
	VEC(u64) offs;
	struct image *vdso;
	u64 size;
};

static void making_deinit(struct making *mk)
{
	vec_foreach(t, &mk->tables)
		free(*t);
	vec_free(&mk->mods);
	vec_free(&mk->tables);
	vec_free(&mk->images);
	vec_free(&mk->offs);
	image_unref(mk->vdso);
}

/* 1 + the number of IM's table; 0: it has none. */
static struct uerr *table_of(struct making *mk, struct image *im, u64 *ret)
{
	struct unwind_table *t;
	struct uerr *err;

	for (size_t i = 0; i < mk->images.n; i++) {
		if (mk->images.data[i] == im) {
			*ret = mk->tables.data[i] ? i + 1 : 0;
			return NULL;
		}
	}
	err = make_table(im, mk->cache_dir, &t);
	if (err)
		return err;
	if (!vec_push(&mk->tables, t)) {
		free(t);
		return uerr_nomem();
	}
	*ret = t ? mk->tables.n : 0;
	return vec_push(&mk->images, im) ? NULL : uerr_nomem();
}

/* A file that makes no sense has no table; the others count. */
static struct uerr *add_module(struct making *mk, const struct procmap *map, struct image *im, addr_t bias)
{
	struct unwind_module m = { .lo = map->start, .hi = map->end, .bias = bias };
	struct uerr *err = table_of(mk, im, &m.table);

	if (err && err->code == UERR_FAILED) {
		uerr_free(err);
		err = NULL;
	}
	if (err)
		return err;
	return vec_push(&mk->mods, m) ? NULL : uerr_nomem();
}

static struct uerr *add_modules(struct making *mk, const struct unwind_plan *p)
{
	struct uerr *err = NULL;

	for (size_t i = 0; i < p->mods.maps.n && !err; i++) {
		const struct procmap *map = &p->mods.maps.maps[i];
		const struct module *m = module_of(&p->mods, map);

		if (m)
			err = add_module(mk, map, m->image, m->bias);
		else if (is_vdso(map) && !mk->vdso)
			err = unwind_vdso(&mk->vdso);
		if (!err && is_vdso(map) && mk->vdso)
			err = add_module(mk, map, mk->vdso, map->start);
	}
	return err;
}

/* Where each table will be; modules get offsets for numbers. */
static struct uerr *lay_out(struct making *mk)
{
	mk->size = sizeof(struct unwind_image) + mk->mods.n * sizeof(struct unwind_module);
	vec_foreach(t, &mk->tables) {
		if (!vec_push(&mk->offs, mk->size))
			return uerr_nomem();
		mk->size += *t ? (*t)->size : 0;
	}
	vec_foreach(m, &mk->mods)
		m->table = m->table ? mk->offs.data[m->table - 1] : 0;
	if (mk->size > IMAGE_MAX)
		return uerr_new(UERR_FAILED, "the unwind tables of its libraries take %lu MiB, which is too much",
				(unsigned long)mk->size >> 20);
	return NULL;
}

static bool put(int fd, const void *bytes, u64 size, u64 off)
{
	return pwrite(fd, bytes, size, (off_t)off) == (ssize_t)size;
}

static struct uerr *write_image(const struct making *mk, int fd)
{
	struct unwind_image head = { .magic = UNWIND_IMAGE_MAGIC, .size = mk->size, .nmodules = (u32)mk->mods.n };
	bool ok = !ftruncate(fd, (off_t)ALIGN_UP(mk->size, PAGE)) && put(fd, &head, sizeof(head), 0) &&
		  put(fd, mk->mods.data, mk->mods.n * sizeof(*mk->mods.data), sizeof(head));

	for (size_t i = 0; i < mk->tables.n && ok; i++)
		ok = !mk->tables.data[i] || put(fd, mk->tables.data[i], mk->tables.data[i]->size, mk->offs.data[i]);
	if (!ok || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL))
		return uerr_errno(errno, "memory for unwind tables");
	return NULL;
}

struct uerr *unwind_make(const struct unwind_plan *p, const char *cache_dir, int *ret_fd, u64 *ret_size)
{
	cleanup(making_deinit) struct making mk = { .cache_dir = cache_dir };
	cleanup_close int fd = -1;
	struct uerr *err = add_modules(&mk, p);

	if (!err)
		err = lay_out(&mk);
	if (err)
		return err;
	fd = memfd_create("uprobed-unwind", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return uerr_errno(errno, "memory for unwind tables");
	err = write_image(&mk, fd);
	if (err)
		return err;
	*ret_fd = steal_fd(&fd);
	*ret_size = ALIGN_UP(mk.size, PAGE);
	return NULL;
}
