/* SPDX-License-Identifier: MIT */
/* What the files of the object loader share: object.c (libbpf), object_elf.c
 * (what libbpf keeps to itself), object_pack.c (bytes, and the worker). */
#pragma once
#include "vm/object.h"

#define OBJECT_KERNEL_BTF "/sys/kernel/btf/vmlinux"

/* object_open() with another path to the BTF that CO-RE resolves against; when
 * that cannot be read, our own description of struct pt_regs serves. */
struct uerr *object_load(const void *bytes, size_t size, const struct object_opts *opts, const char *kernel_btf,
			 struct object **ret) UERR_MUST_CHECK;

/* In a fork child, which has one thread: what another thread of the parent
 * held is free. */
void object_forked(void);


/*
 * The ELF file behind an object, for what libbpf has no function for: the
 * licence, and source lines of relocated programs.
 */
struct object_elf;
struct object_elf *object_elf_open(const void *bytes, size_t size); /* NULL: nothing to be had */
void object_elf_close(struct object_elf *elf);
void object_elf_license(struct object_elf *elf, char *ret, size_t size);

/* The N-th place in the definitions of maps (".maps") that a function's address
 * belongs into, and the function's name; false after the last. */
bool object_elf_map_function(struct object_elf *elf, size_t n, u64 *off, const char **name);

/* Makes BYTES, a copy of the file, one without such places: libbpf refuses them
 * unless it is to load into the kernel. */
void object_elf_hide_map_functions(struct object_elf *elf, u8 *bytes, size_t size);

/* Fills P's lines, file and texts (strings in OBJ's BTF), its functions and the
 * BTF that they are described in, as far as the file tells. False when out of memory. */
bool object_elf_lines(struct object_elf *elf, const struct object *obj, struct vm_prog *p);

/* CO-RE, which libbpf leaves undone (core_relo.c). TARGET is the BTF that tells
 * how things really are. */
bool object_elf_has_relos(const struct object_elf *elf);
struct uerr *object_elf_relocate(struct object_elf *elf, const struct object *obj, const struct btf_index *target,
				 struct vm_prog *p) UERR_MUST_CHECK;

/* OBJ as bytes, or ERR when OBJ is NULL; malloc'd, NULL when out of memory. */
u8 *object_pack(const struct object *obj, const struct uerr *err, size_t *ret_size);
/* The reverse. BYTES are hostile. */
struct uerr *object_unpack(const void *bytes, size_t size, struct object **ret) UERR_MUST_CHECK;

/* Names are shown on terminals: no control characters. */
void object_clean_name(char *name);

/* Sets OBJ->btf to a copy of the bytes, and OBJ->types when it is well formed. */
bool object_set_btf(struct object *obj, const void *raw, size_t size);
