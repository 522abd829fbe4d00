/* SPDX-License-Identifier: MIT */
/* Elements of __bpf_usdt_specs; see usdt_specs.h. */
#include "daemon/usdt_specs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "elfsym/usdt.h"
#include "vm/btf_index.h"

#define SPECS_MAP "__bpf_usdt_specs"
#define ARG_TYPES "__bpf_usdt_arg_type"
#define ARG_SIB "BPF_USDT_ARG_SIB"

/* struct __bpf_usdt_arg_spec and __bpf_usdt_spec of usdt.bpf.h. */
struct arg_spec {
	u64 val_off;
	u32 type; /* since libbpf 1.7: type:8, idx_reg_off:12, scale_bitshift:4 */
	s16 reg_off;
	u8 is_signed;
	u8 bitshift;
};

struct spec_value {
	struct arg_spec args[USDT_ARGS_MAX];
	u64 cookie;
	s16 n;
	u8 pad[6];
};
_Static_assert(sizeof(struct arg_spec) == 16 && sizeof(struct spec_value) == 208, "as in usdt.bpf.h");

struct usdt_specs {
	const struct map *map;
	bool knows_sib;
	u32 *owner; /* links by element, 0 free; shared memory */
};

static size_t owners_size(const struct map *m)
{
	return ALIGN_UP(m->umap.max_entries * sizeof(u32), PAGE);
}

/* Was the object built with a usdt.bpf.h that has the form base + index * scale? */
static bool has_sib(const struct btf_index *types)
{
	for (u32 id = 1; types && id <= types->ntypes; id++) {
		const struct btf_type *t = btf_index_type(types, id);
		const struct btf_enum *e = (const void *)(t + 1);

		if (BTF_INFO_KIND(t->info) != BTF_KIND_ENUM || strcmp(btf_index_str(types, t->name_off), ARG_TYPES))
			continue;
		for (u32 i = 0; i < BTF_INFO_VLEN(t->info); i++)
			if (!strcmp(btf_index_str(types, e[i].name_off), ARG_SIB))
				return true;
	}
	return false;
}

static const struct map *find_map(const struct loaded *l)
{
	for (size_t i = 0; i < l->obj->nmaps; i++)
		if (!strcmp(l->maps[i].name, SPECS_MAP))
			return &l->maps[i];
	return NULL;
}

struct uerr *usdt_specs_create(struct loaded *l)
{
	const struct map *m = find_map(l);
	struct usdt_specs *us;

	if (!m)
		return NULL;
	if (m->umap.type != UMAP_ARRAY || m->umap.key_size != sizeof(u32) ||
	    m->umap.value_size != sizeof(struct spec_value))
		return uerr_new(UERR_REJECTED, "map '" SPECS_MAP "' is not the one of libbpf's usdt.bpf.h");
	us = calloc(1, sizeof(*us));
	if (!us)
		return uerr_nomem();
	us->owner = mmap(NULL, owners_size(m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (us->owner == MAP_FAILED) {
		free(us);
		return uerr_nomem();
	}
	us->map = m;
	us->knows_sib = has_sib(l->obj->types);
	l->usdt = us;
	return NULL;
}

void usdt_specs_destroy(struct loaded *l)
{
	if (!l->usdt)
		return;
	munmap(l->usdt->owner, owners_size(l->usdt->map));
	free(l->usdt);
	l->usdt = NULL;
}

static struct uerr *fill(const struct usdt_specs *us, const char *text, u64 cookie, struct spec_value *ret)
{
	struct usdt_args args;
	struct uerr *err = usdt_args_parse(text, &args);

	if (err)
		return err;
	*ret = (struct spec_value){ .cookie = cookie, .n = (s16)args.n };
	for (u32 i = 0; i < args.n; i++) {
		const struct usdt_arg *a = &args.arg[i];

		if (a->kind == USDT_SIB && !us->knows_sib)
			return uerr_new(UERR_CANNOT_PROBE,
					"its argument %u is addressed by base and index, which the object's usdt.bpf.h does "
					"not know: build it with that of libbpf 1.7", i + 1);
		ret->args[i] = (struct arg_spec){
			.val_off = (u64)a->value,
			.type = a->kind | (u32)a->index << 8 | (u32)a->scale_shift << 20,
			.reg_off = (s16)a->reg,
			.is_signed = a->is_signed,
			.bitshift = 64 - a->size * 8,
		};
	}
	return NULL;
}

static struct umap_ctx worker_ctx(struct thread_rec *rec)
{
	return (struct umap_ctx){ .rec = rec };
}

static bool holds(const struct usdt_specs *us, u32 i, const struct spec_value *want)
{
	struct thread_rec rec = {};
	struct umap_ctx cx = worker_ctx(&rec);
	struct spec_value have;

	return !umap_read(&us->map->umap, &i, &have, &cx) && !memcmp(&have, want, sizeof(have));
}

static bool claim(const struct usdt_specs *us, u32 link, u32 *ret)
{
	for (u32 i = 0; i < us->map->umap.max_entries; i++) {
		u32 nobody = 0;

		if (__atomic_compare_exchange_n(&us->owner[i], &nobody, link, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
			*ret = i;
			return true;
		}
	}
	return false;
}

struct uerr *usdt_spec_check(const struct loaded *l, const char *args)
{
	struct spec_value value;

	return l->usdt ? fill(l->usdt, args, 0, &value) : NULL;
}

struct uerr *usdt_spec_take(const struct loaded *l, u32 link, const char *args, u64 cookie, u64 *ret)
{
	const struct usdt_specs *us = l->usdt;
	struct thread_rec rec = {};
	struct umap_ctx cx = worker_ctx(&rec);
	struct spec_value value;
	struct uerr *err = fill(us, args, cookie, &value);
	long r;
	u32 i;

	if (err)
		return err;
	for (i = 0; i < us->map->umap.max_entries; i++) {
		if (__atomic_load_n(&us->owner[i], __ATOMIC_ACQUIRE) != link || !holds(us, i, &value))
			continue;
		*ret = i;
		return NULL;
	}
	if (!claim(us, link, &i))
		return uerr_new(UERR_CANNOT_PROBE,
				"all %u elements of map '" SPECS_MAP "' are in use: build the object with a larger "
				"BPF_USDT_MAX_SPEC_CNT", us->map->umap.max_entries);
	r = umap_write(&us->map->umap, &i, &value, UMAP_ANY, &cx);
	if (r)
		return uerr_errno(-r, "map '" SPECS_MAP "'");
	*ret = i;
	return NULL;
}

void usdt_specs_free(const struct loaded *l, u32 link)
{
	for (u32 i = 0; l->usdt && i < l->usdt->map->umap.max_entries; i++) {
		u32 owner = link;

		__atomic_compare_exchange_n(&l->usdt->owner[i], &owner, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	}
}
