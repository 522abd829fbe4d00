/* SPDX-License-Identifier: MIT */
/*
 * One ELF file: its symbols, its segments, its code. Read with pread alone
 * (libelf in read mode: a file that is truncated meanwhile gives an error, not
 * SIGBUS). Images are immutable, reference-counted, and cached by (device,
 * inode, mtime, size). Not thread-safe.
 */
#pragma once
#include <sys/types.h>

#include "base/code_image.h"
#include "base/types.h"
#include "base/uerr.h"

struct image;
struct procmap;

enum elf_sym_type { ELF_SYM_FUNC, ELF_SYM_IFUNC, ELF_SYM_NOTYPE };

struct elf_sym {
	const char *name;    /* without version */
	const char *version; /* "GLIBC_2.14", or NULL */
	addr_t addr;         /* link address */
	u64 size;
	enum elf_sym_type type;
	bool global;         /* global or weak */
	bool default_version;
	bool dynamic;        /* from .dynsym */
};

/* Opens PATH of this process's own file system. An error names file and
 * reason. The caller owns a reference. */
struct uerr *image_open(const char *path, struct image **ret) UERR_MUST_CHECK;

/* Opens what FD (borrowed) refers to; NAME is for messages. */
struct uerr *image_open_fd(int fd, const char *name, struct image **ret) UERR_MUST_CHECK;

/* Opens the file behind MAP in process PID, O_RDONLY or O_PATH (HOW): through
 * /proc/PID/map_files, so that deleted and replaced files and those of other mount
 * namespaces are the ones that run; else through /proc/PID/root, if device and inode
 * agree. Negative errno: -ESTALE where they do not, -EINVAL for what is no regular file. */
int image_open_mapped(pid_t pid, const struct procmap *map, int how);
struct uerr *image_open_target(pid_t pid, const struct procmap *map, struct image **ret) UERR_MUST_CHECK;

/* Forgets the whole cache (images in use stay). */
void image_cache_drop(void);

struct image *image_ref(struct image *im);
void image_unref(struct image *im); /* NULL is fine */

const char *image_name(const struct image *im);     /* path, for messages */
const char *image_build_id(const struct image *im); /* hex, or NULL */
bool image_is_pie(const struct image *im);          /* ET_DYN */
bool image_has_symtab(const struct image *im);      /* .symtab, here or in a debug file */
const char *image_debug_path(const struct image *im); /* separate debug file in use, or NULL */
addr_t image_entry(const struct image *im);         /* e_entry */
dev_t image_dev(const struct image *im);
ino_t image_ino(const struct image *im);

/* All function-like symbols (FUNC, IFUNC, and NOTYPE in text), sorted by
 * (addr, name); several may stand at one address. Owned by IM. */
size_t image_syms(const struct image *im, const struct elf_sym **ret);

/* The symbols called NAME ("name", "name@VERSION", "name@@VERSION"), into
 * ret[max]; returns how many there are. Aliases at one address count once;
 * without a version the default one wins over hidden ones. C++ names without
 * parameters and template arguments ("ns::f") find all their overloads. */
size_t image_find(const struct image *im, const char *name, const struct elf_sym **ret, size_t max);

/* NAME as a SPEC has it: demangled, without parameters; malloc'd. */
char *symbol_path(const char *name);

/* The symbol that contains link address ADDR, preferring global ones; or NULL. */
const struct elf_sym *image_find_addr(const struct image *im, addr_t addr);

/* Names close to NAME (edit distance, prefixes), best first, into
 * ret[max]; owned by IM. Returns how many. */
size_t image_near(const struct image *im, const char *name, const char **ret, size_t max);

/* Link address ↔ file offset, through PT_LOAD; false when in no segment. */
bool image_addr_to_off(const struct image *im, addr_t link_addr, u64 *ret);
bool image_off_to_addr(const struct image *im, u64 file_off, addr_t *ret);

/* What Go has compiled of the text; false: nothing. */
bool image_go_text(const struct image *im, addr_t *lo, addr_t *hi);

/* What Go's runtime calls its list of goroutines, and where one that was preempted waits:
 * link addresses. False where it has no such symbols: it is no Go program, is too old to
 * preempt like that, or is stripped. */
struct go_runtime {
	addr_t allgs;
	addr_t preempt_lo, preempt_hi; /* runtime.asyncPreempt */
	addr_t park_lo, park_hi;       /* runtime.asyncPreempt2 */
};
bool image_go_runtime(const struct image *im, struct go_runtime *ret);

/* Reads LEN bytes at link address ADDR from the file (zeros past filesz). */
struct uerr *image_read(const struct image *im, addr_t addr, void *buf, size_t len) UERR_MUST_CHECK;

/* The file's code for the injector, made at the first call. Owned by IM. */
struct uerr *image_code(struct image *im, const struct code_image **ret) UERR_MUST_CHECK;
