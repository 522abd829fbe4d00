/* SPDX-License-Identifier: MIT */
/*
 * Where a file keeps its symbols, versions and relocations: by its section
 * headers, or by its dynamic section when it has none. Only where; what stands
 * there is symtab.c's, code.c's and ifunc.c's business.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "elfsym/image_int.h"

#ifndef SHT_RELR
#define SHT_RELR 19
#define DT_RELRSZ 35
#define DT_RELR 36
#endif

#define DYNAMIC_MAX (1u << 20)

bool image_dyn(const struct image *im, s64 tag, u64 *ret)
{
	for (size_t i = 0; i < im->ndyns; i++) {
		if (im->dyns[i].d_tag == tag) {
			*ret = im->dyns[i].d_un.d_val;
			return true;
		}
	}
	return false;
}

static struct uerr *read_dynamic(struct image *im)
{
	struct span span = {};
	void *buf = NULL;
	struct uerr *err;

	for (size_t i = 0; i < im->nphdrs; i++)
		if (im->phdrs[i].p_type == PT_DYNAMIC)
			span = (struct span){ im->phdrs[i].p_offset, im->phdrs[i].p_filesz };
	if (!span.size || im->is_debug)
		return NULL;
	if (span.size > DYNAMIC_MAX)
		return uerr_new(UERR_FAILED, "%s: damaged: its dynamic section is too large", im->name);
	err = image_load(im, span, &buf);
	if (err)
		return err;
	im->dyns = buf;
	while (im->ndyns < span.size / sizeof(Elf64_Dyn) && im->dyns[im->ndyns].d_tag != DT_NULL)
		im->ndyns++;
	return NULL;
}

static bool set_table(struct image *im, enum table t, u64 off, u64 size)
{
	if (im->tables[t].size)
		return true;
	if (off > im->file_size || size > im->file_size - off)
		return false;
	im->tables[t] = (struct span){ off, size };
	return true;
}

/* A symbol table and the strings that its section links to. */
static bool take_symbols(struct image *im, const Elf64_Shdr *sh, enum table syms, enum table strs)
{
	Elf_Scn *scn = elf_getscn(im->elf, sh->sh_link);
	const Elf64_Shdr *strings = scn ? elf64_getshdr(scn) : NULL;

	if (!strings || strings->sh_type != SHT_STRTAB || sh->sh_entsize != sizeof(Elf64_Sym))
		return false;
	return set_table(im, syms, sh->sh_offset, sh->sh_size) &&
	       set_table(im, strs, strings->sh_offset, strings->sh_size);
}

static bool take_rela(struct image *im, u64 off, u64 size)
{
	if (off > im->file_size || size > im->file_size - off)
		return false;
	if (im->nrela < MAX_RELA && size)
		im->rela[im->nrela++] = (struct span){ off, size };
	return true;
}

static bool take_section(struct image *im, const Elf64_Shdr *sh, const char *name)
{
	switch (sh->sh_type) {
	case SHT_SYMTAB:
		return take_symbols(im, sh, TABLE_SYMTAB, TABLE_STRTAB);
	case SHT_DYNSYM:
		return take_symbols(im, sh, TABLE_DYNSYM, TABLE_DYNSTR);
	case SHT_GNU_versym:
		return set_table(im, TABLE_VERSYM, sh->sh_offset, sh->sh_size);
	case SHT_GNU_verdef:
		return set_table(im, TABLE_VERDEF, sh->sh_offset, sh->sh_size);
	case SHT_GNU_verneed:
		return set_table(im, TABLE_VERNEED, sh->sh_offset, sh->sh_size);
	case SHT_RELR:
		return set_table(im, TABLE_RELR, sh->sh_offset, sh->sh_size);
	case SHT_RELA:
		/* Others are for the linker (--emit-relocs). */
		return !(sh->sh_flags & SHF_ALLOC) || take_rela(im, sh->sh_offset, sh->sh_size);
	case SHT_PROGBITS:
		return strcmp(name, ".gnu_debuglink") || set_table(im, TABLE_DEBUGLINK, sh->sh_offset, sh->sh_size);
	default:
		return true;
	}
}

static struct uerr *tables_from_sections(struct image *im)
{
	Elf_Scn *scn = NULL;
	size_t names;

	if (elf_getshdrstrndx(im->elf, &names) < 0)
		return uerr_new(UERR_FAILED, "%s: damaged: no section names", im->name);
	while ((scn = elf_nextscn(im->elf, scn))) {
		const Elf64_Shdr *sh = elf64_getshdr(scn);
		const char *name = sh ? elf_strptr(im->elf, names, sh->sh_name) : NULL;

		if (!name)
			name = "";
		/* A debug file's other sections have no bytes. */
		if (!sh || (im->is_debug && sh->sh_type != SHT_SYMTAB))
			continue;
		if (!take_section(im, sh, name))
			return uerr_new(UERR_FAILED, "%s: truncated or damaged: section %s lies outside the file",
					im->name, name);
	}
	return NULL;
}

/* The table of ENTSIZE × N bytes at the address in dynamic entry TAG. */
static bool dyn_span(const struct image *im, s64 tag, u64 size, struct span *ret)
{
	u64 addr;

	return size && image_dyn(im, tag, &addr) && image_addr_span(im, addr, size, ret);
}

static bool dyn_sized(const struct image *im, s64 tag, s64 size_tag, struct span *ret)
{
	u64 size;

	return image_dyn(im, size_tag, &size) && dyn_span(im, tag, size, ret);
}

static u64 bytes_behind(const struct image *im, s64 tag)
{
	struct span one;
	u64 addr;

	if (!image_dyn(im, tag, &addr) || !image_addr_span(im, addr, 1, &one))
		return 0;
	for (size_t i = 0; i < im->nphdrs; i++) {
		const Elf64_Phdr *ph = &im->phdrs[i];

		if (ph->p_type == PT_LOAD && addr >= ph->p_vaddr && addr - ph->p_vaddr < ph->p_filesz)
			return ph->p_filesz - (addr - ph->p_vaddr);
	}
	return 0;
}

/* What cannot be found is left out: such a file has fewer names, no error. */
static void tables_from_dynamic(struct image *im)
{
	struct span *t = im->tables;
	struct span rela;
	u64 n = symtab_count_dynamic(im);

	if (n && dyn_span(im, DT_SYMTAB, n * sizeof(Elf64_Sym), &t[TABLE_DYNSYM]) &&
	    dyn_sized(im, DT_STRTAB, DT_STRSZ, &t[TABLE_DYNSTR])) {
		dyn_span(im, DT_VERSYM, n * sizeof(u16), &t[TABLE_VERSYM]);
		/* Their length is nowhere: walkers stop at the last entry. */
		dyn_span(im, DT_VERDEF, bytes_behind(im, DT_VERDEF), &t[TABLE_VERDEF]);
		dyn_span(im, DT_VERNEED, bytes_behind(im, DT_VERNEED), &t[TABLE_VERNEED]);
	} else {
		t[TABLE_DYNSYM] = t[TABLE_DYNSTR] = (struct span){};
	}
	dyn_sized(im, DT_RELR, DT_RELRSZ, &t[TABLE_RELR]);
	if (dyn_sized(im, DT_RELA, DT_RELASZ, &rela))
		take_rela(im, rela.off, rela.size);
	if (dyn_sized(im, DT_JMPREL, DT_PLTRELSZ, &rela))
		take_rela(im, rela.off, rela.size);
}

struct uerr *image_find_tables(struct image *im)
{
	struct uerr *err = read_dynamic(im);

	if (err)
		return err;
	if (im->has_sections)
		return tables_from_sections(im);
	tables_from_dynamic(im);
	return NULL;
}
