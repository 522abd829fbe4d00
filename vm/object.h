/* SPDX-License-Identifier: MIT */
/*
 * BPF object files, loaded through libbpf without one bpf(2) call: open,
 * gen_loader, load make libbpf do all relocation in user space (docs in
 * object.c). The result is plain data, owns all its memory, and can be packed
 * to bytes, so that the parsing happens in a worker that a hostile file may
 * kill (object_open_isolated).
 */
#pragma once
#include "vm/program.h"

struct object_map {
	char name[64];       /* as in the object; .bss and such as libbpf names them (".bss") */
	u32 type, key_size, value_size, max_entries, map_flags;
	u32 btf_key_type_id, btf_value_type_id; /* 0 none */
	u32 lock;            /* 1 + where a value has its struct bpf_spin_lock, 0 none */
	bool global_data;    /* .data, .bss, .rodata: an ARRAY with one entry */
	bool readonly;       /* .rodata: frozen after loading */
	u8 *initial;         /* object_map_initial_size() bytes, or NULL (zeros): global data; of a PROG_ARRAY all
	                      * elements, as maps/umap.h has them */
};

static inline u64 object_map_initial_size(const struct object_map *m)
{
	return m->type == UMAP_PROG_ARRAY ? (u64)m->max_entries * sizeof(u32) : m->value_size;
}

struct object {
	char name[64];
	struct object_map *maps; /* in the order that instructions index */
	size_t nmaps;
	struct vm_prog *progs;   /* entry programs only; subprograms are appended to each */
	size_t nprogs;
	u8 *btf;                 /* raw BTF, or NULL */
	size_t btf_size;
	struct btf_index *types; /* over btf (vm/btf_index.h), or NULL */
	char license[32];
};

/* Sizes that the caller wants changed before loading (--map-size, and built-in
 * tools that need one slot a site). */
struct object_map_size {
	const char *name;
	u32 max_entries;
};

struct object_opts {
	const char *name;      /* for messages, and the object's name */
	const struct object_map_size *sizes;
	size_t nsizes;
	bool any_section;      /* programs in sections of any name: the caller says what ctx is */
};

/* Loads the object in BYTES. Errors are UERR_FAILED with libbpf's own words
 * (never printed), UERR_REJECTED for what we do not serve (map type, program
 * type by section), naming it and what to use instead. */
struct uerr *object_open(const void *bytes, size_t size, const struct object_opts *opts,
			 struct object **ret) UERR_MUST_CHECK;

/* The same in a forked child with limits on time and memory; what kills the
 * child becomes an error. */
struct uerr *object_open_isolated(const void *bytes, size_t size, const struct object_opts *opts,
				  struct object **ret) UERR_MUST_CHECK;

void object_free(struct object *obj); /* NULL is fine */

/* Values by BTF: raw bytes ↔ JSON text with exact integers. TYPE_ID 0: an
 * unsigned integer of 1, 2, 4, 8 bytes, else an array of bytes ["0x01",…].
 * The text is malloc'd. */
struct uerr *btf_value_to_json(const struct object *obj, u32 type_id, const void *value, size_t size,
			       char **ret) UERR_MUST_CHECK;
/* TEXT is a number (decimal, 0x…, negative), JSON for a struct or array, or
 * "hex 01 02 …". */
struct uerr *btf_value_from_text(const struct object *obj, u32 type_id, const char *text, void *value,
				 size_t size) UERR_MUST_CHECK;
/* The type of that name ("event", "struct event", "event_t"), 0 when there is none. */
u32 btf_type_find(const struct object *obj, const char *name);
/* "u32", "struct event", for tables; malloc'd. */
char *btf_type_name(const struct object *obj, u32 type_id);
