/* SPDX-License-Identifier: MIT */
/*
 * What the files of elfsym know of an image, and nobody else. libelf reads the
 * headers; everything behind them (tables, code, data) is read with pread from
 * spans that were checked against the file's size when the image was opened.
 *
 * What a file claims may be anything, so three things are settled at the door:
 * a span lies inside the file, the areas do not overlap (their sum is bounded
 * by the file), and there are at most MAX_RELA relocation tables. Whatever is
 * derived later is bounded by the bytes that it is derived from.
 */
#pragma once
#include <elf.h>
#include <libelf.h>
#include <time.h>

#include "base/uerr.h"
#include "elfsym/image.h"
#include "elfsym/pclntab.h"

/* A checked run of bytes in the file; size 0: not there. */
struct span {
	u64 off, size;
};

/* A stretch of the loaded image that has bytes in the file: an allocated
 * section, or a PT_LOAD when there are no section headers. */
struct area {
	addr_t addr;
	struct span span;
	bool exec, write;
	const char *name; /* of the section; "" for a segment */
	bool plt;         /* stubs, not functions */
};

enum table {
	TABLE_SYMTAB, TABLE_STRTAB,
	TABLE_DYNSYM, TABLE_DYNSTR,
	TABLE_VERSYM, TABLE_VERDEF, TABLE_VERNEED,
	TABLE_RELR, TABLE_DEBUGLINK,
	N_TABLES,
};

#define MAX_RELA 64

struct symtab;
struct code;
struct usdts;

struct image {
	unsigned refs;
	int fd;
	Elf *elf;
	dev_t dev;
	ino_t ino;
	struct timespec mtime;
	u64 file_size;
	char *name;
	char *build_id;
	u16 type; /* e_type */
	addr_t entry;
	bool is_debug; /* a separate debug file: only its tables count */
	bool has_sections;
	Elf64_Phdr *phdrs;
	size_t nphdrs;
	struct area *areas; /* by address */
	size_t nareas;
	struct span tables[N_TABLES];
	struct span rela[MAX_RELA];
	size_t nrela;
	Elf64_Dyn *dyns;
	size_t ndyns;
	struct symtab *syms; /* filled at first use (symtab.c) */
	struct code *code;   /* made at first use (code.c) */
	struct usdts *usdts; /* made at first use (usdt.c) */
};

/* Opens FD (borrowed) as a separate debug file, uncached. */
struct uerr *image_open_debug(int fd, const char *name, struct image **ret) UERR_MUST_CHECK;

/* Opens PATH if it is a regular file, without waiting for a FIFO's writer;
 * negative errno. */
int image_open_regular(const char *path);

/* Reads SPAN into a new buffer with a NUL behind it. */
struct uerr *image_load(const struct image *im, struct span span, void **ret) UERR_MUST_CHECK;

/* The span of SIZE bytes at link address ADDR: false unless wholly in the file. */
bool image_addr_span(const struct image *im, addr_t addr, u64 size, struct span *ret);

/* The first dynamic entry with TAG. */
bool image_dyn(const struct image *im, s64 tag, u64 *ret);

/* The area that contains ADDR, or NULL. */
const struct area *image_area(const struct image *im, addr_t addr);
bool image_in_text(const struct image *im, addr_t addr);

/* image.c fills im->dyns, im->tables and im->rela through this (tables.c). */
struct uerr *image_find_tables(struct image *im) UERR_MUST_CHECK;

/* symtab.c */
struct symtab *symtab_create(void);
void symtab_destroy(struct symtab *st);
/* Values of all symbols, named or not, of any type, that lie in text. */
size_t symtab_text_values(const struct image *im, const addr_t **ret);
/* Which of two symbols of one address is the better name. */
bool elf_sym_better(const struct elf_sym *a, const struct elf_sym *b);
/* foo.cold, foo.part.0: a piece that the compiler cut out of foo. */
bool elf_sym_is_fragment(const char *name);

/* The number of entries of the hash table's .dynsym (for files without
 * sections); 0 when it cannot be told. */
u64 symtab_count_dynamic(const struct image *im);

/* go.c: ADD for each function that Go's own table tells of; names lie in *BLOB, which the
 * caller frees. NULL and no blob: there is none. */
struct uerr *go_functions(const struct image *im, void **blob,
			  struct uerr *(*add)(void *arg, const struct pclntab_func *f), void *arg) UERR_MUST_CHECK;

/* debuginfo.c: the separate debug file of IM, verified; NULL when there is none. */
struct image *debuginfo_find(const struct image *im);

/* demangle.c: the qualified name without parameters and template arguments
 * (malloc'd), or NULL. */
char *demangle_path(const char *mangled);

/* code.c */
void code_destroy(struct code *code);
/* The function of image_code() that contains ADDR, or NULL (also when there is
 * no code). */
const struct code_func *code_func_at(struct image *im, addr_t addr);

/* usdt.c */
void usdts_destroy(struct usdts *us);

/* symtab.c: the symbol called exactly NAME, of VERSION (NULL: the default one). */
const struct elf_sym *symtab_find_exact(const struct image *im, const char *name, const char *version);
/* How far NAME is from WANT; ~0u: not near. */
unsigned name_distance(const char *want, const char *name);
