/* SPDX-License-Identifier: MIT */
/*
 * From words to addresses: parses a SPEC, finds the modules of a process, and
 * resolves one in the other.
 *
 *   [uprobe:|uretprobe:][BINARY:]SYMBOL[+OFFSET]   BINARY:0xADDR   globs
 *   usdt:BINARY:PROVIDER:NAME                                      globs
 *
 * The separator is the first colon that is no part of "::". BINARY is a path, a
 * mapped module's name (libc, libssl.so.3), or absent or empty for the main
 * program. An exact name is tried before a glob. See docs/bpfctl.1.
 */
#pragma once
#include "elfsym/image.h"
#include "elfsym/procmaps.h"
#include "elfsym/usdt.h"

enum spec_kind { SPEC_UPROBE, SPEC_URETPROBE, SPEC_USDT };

struct spec {
	enum spec_kind kind;
	bool kind_given;   /* the prefix was there */
	char *binary;      /* "" for the main program */
	char *provider;    /* of a USDT probe, else NULL */
	char *symbol;      /* as written, without offset; NULL with addr_given; a USDT probe's NAME */
	u64 offset;        /* +OFFSET */
	bool addr_given;   /* BINARY:0xADDR */
	addr_t addr;       /* link address, as nm prints it */
	char *text;        /* the whole, as written */
};

/* Parses TEXT; UERR_USAGE with the reason when it is no SPEC (or uses a form
 * that is not there yet, which the message names). */
struct uerr *spec_parse(const char *text, struct spec *ret) UERR_MUST_CHECK;
void spec_deinit(struct spec *s);

/* One ELF file as a process has it mapped. */
struct module {
	char *path;          /* as in maps */
	char *name;          /* short name for SPECs: "" main program, "libc", … */
	struct image *image;
	addr_t bias;         /* runtime address = link address + bias */
	addr_t lo, hi;       /* all its mappings */
	dev_t dev;
	ino_t ino;
	bool main;
	bool text_shared;    /* text is mapped MAP_SHARED: cannot be patched */
	bool lasting;        /* see modules_mark_lasting() */
};

struct modules {
	struct module *mods;
	size_t n;
	pid_t pid;
	char comm[16];
	struct procmaps maps;
};

/* The modules of process PID with their images (files that are no ELF are
 * left out). UERR_NO_TARGET, UERR_NOT_PERMITTED. */
struct uerr *modules_read(pid_t pid, struct modules *ret) UERR_MUST_CHECK;
void modules_deinit(struct modules *m);

/* "libc" of "/lib/libc.so.6": what SPECs call a library. malloc'd. */
char *module_short_name(const char *path);

/* Marks the modules that stay mapped as long as the process lives: the program,
 * what it needs (and what that needs), and what says that it cannot be unloaded.
 * One of which there are two copies (dlmopen) is left out. */
void modules_mark_lasting(struct modules *m);

/* The module that contains runtime address ADDR, or NULL. */
const struct module *modules_find_addr(const struct modules *m, addr_t addr);

/* A place that a SPEC means. */
struct resolved {
	const struct module *mod; /* borrowed from struct modules */
	const char *symbol;       /* the name (owned by the image), or NULL */
	char name[128];           /* "libc:malloc", ":main", ":0x1234": a SPEC again */
	addr_t link_addr;         /* of the instruction */
	addr_t func_addr;         /* link address of the function that holds it … */
	u64 func_size;            /* … and its size, 0 unknown */
	bool func_known;          /* false: nothing says that a function is there; func_addr is link_addr */
	bool ifunc_selected;      /* link_addr is what the IFUNC resolver chose here */
	const struct usdt_probe *usdt; /* or NULL; several places may have one name */
	char note[128];           /* "__memmove_avx_unaligned_erms on this machine", or "" */
};

struct resolve_result {
	struct resolved *places;  /* one per address, by address */
	size_t n;
	bool glob;                /* the SPEC was a glob: what cannot be probed is skipped */
};

/* Resolves SPEC in the modules M; NOT_GLOBS (nnot patterns on symbol names) are
 * left out. UERR_NO_SYMBOL names what is near, and another module that has the
 * name; UERR_CANNOT_PROBE for an IFUNC whose selection is not known.
 * For an IFUNC, the selected implementation is read from the process's own
 * relocated pointers (GOT) where there is one. */
struct uerr *spec_resolve(const struct spec *spec, const struct modules *m, const char *const *not_globs,
			  size_t nnot, struct resolve_result *ret) UERR_MUST_CHECK;
void resolve_result_deinit(struct resolve_result *r);
