/* SPDX-License-Identifier: MIT */
/*
 * Which implementation an IFUNC has in a process. The symbol is its resolver's;
 * what the resolver chose stands in the pointers that the dynamic linker filled:
 *
 *   IRELATIVE  in the defining module: the addend is the resolver
 *   JUMP_SLOT, GLOB_DAT, 64  in any module: they name the symbol
 *
 * A slot that is not bound yet points into a PLT; the process may have written
 * anything into it. So a pointer counts only if it leads to the text of the
 * defining module, not to its PLT and not to the resolver.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "base/vec.h"
#include "elfsym/image_int.h"
#include "elfsym/resolve_int.h"

struct slot {
	addr_t resolver;    /* link address in the defining module */
	addr_t remote_addr; /* of the pointer */
};

struct ifuncs {
	const struct module *def;
	int mem; /* /proc/PID/mem, or -1 */
	VEC(struct slot) slots; /* in order of discovery: the defining module's first */
};

/* Symbol references of one module, while its relocations are read. */
struct imports {
	Elf64_Sym *syms;
	size_t n;
	char *str;
	u64 str_size;
	u16 *versym;        /* n entries, or NULL */
	const char **names; /* versions needed, by index */
};

#define VERSIONS 0x8000

static void imports_deinit(struct imports *in)
{
	free(in->syms);
	free(in->str);
	free(in->versym);
	free(in->names);
}

/* One file's requirements: a chain of Vernaux. *BUDGET bounds all chains, which
 * may run through each other. */
static void read_vernaux(const u8 *table, u64 size, u64 pos, u64 *budget, struct imports *in)
{
	Elf64_Vernaux aux;

	for (; *budget && pos <= size && size - pos >= sizeof(aux); --*budget, pos += aux.vna_next) {
		memcpy(&aux, table + pos, sizeof(aux));
		if (aux.vna_other < VERSIONS && aux.vna_name < in->str_size)
			in->names[aux.vna_other] = in->str + aux.vna_name;
		if (!aux.vna_next)
			return;
	}
}

static void read_verneed(const u8 *table, u64 size, struct imports *in)
{
	Elf64_Verneed need;
	u64 pos = 0, budget = size / sizeof(Elf64_Vernaux);

	while (pos <= size && size - pos >= sizeof(need)) {
		memcpy(&need, table + pos, sizeof(need));
		read_vernaux(table, size, pos + need.vn_aux, &budget, in);
		if (!need.vn_next)
			return;
		pos += need.vn_next;
	}
}

static struct uerr *read_imports(const struct image *im, struct imports *in)
{
	const struct span *t = im->tables;
	cleanup_free void *need = NULL;
	void *buf = NULL;
	struct uerr *err;

	in->n = t[TABLE_DYNSYM].size / sizeof(Elf64_Sym);
	in->str_size = t[TABLE_DYNSTR].size;
	err = image_load(im, t[TABLE_DYNSYM], &buf);
	if (err)
		return err;
	in->syms = buf;
	err = image_load(im, t[TABLE_DYNSTR], &buf);
	if (err)
		return err;
	in->str = buf;
	if (t[TABLE_VERSYM].size / sizeof(u16) < in->n || !t[TABLE_VERNEED].size)
		return NULL;
	err = image_load(im, t[TABLE_VERSYM], &buf);
	if (err)
		return err;
	in->versym = buf;
	in->names = calloc(VERSIONS, sizeof(*in->names));
	if (!in->names)
		return uerr_nomem();
	err = image_load(im, t[TABLE_VERNEED], &need);
	if (!err)
		read_verneed(need, t[TABLE_VERNEED].size, in);
	return err;
}

/* The IFUNC of the defining module that reference SYM means, or NULL. */
static const struct elf_sym *referenced(const struct image *def, const struct imports *in, u64 sym)
{
	const struct elf_sym *found;
	const char *version = NULL;

	if (!sym || sym >= in->n || !in->syms[sym].st_name || in->syms[sym].st_name >= in->str_size)
		return NULL;
	if (in->names)
		version = in->names[in->versym[sym] & (VERSIONS - 1)];
	found = symtab_find_exact(def, in->str + in->syms[sym].st_name, version);
	return found && found->type == ELF_SYM_IFUNC ? found : NULL;
}

static struct uerr *add_rela(struct ifuncs *fs, const struct module *mod, const struct imports *in,
			     const Elf64_Rela *r)
{
	struct slot slot = { .remote_addr = mod->bias + r->r_offset };
	const struct elf_sym *sym;

	switch (ELF64_R_TYPE(r->r_info)) {
	case R_X86_64_IRELATIVE:
		if (mod != fs->def)
			return NULL;
		slot.resolver = r->r_addend;
		break;
	case R_X86_64_64:
		if (r->r_addend)
			return NULL;
		__attribute__((fallthrough));
	case R_X86_64_GLOB_DAT:
	case R_X86_64_JUMP_SLOT:
		sym = referenced(fs->def->image, in, ELF64_R_SYM(r->r_info));
		if (!sym)
			return NULL;
		slot.resolver = sym->addr;
		break;
	default:
		return NULL;
	}
	return vec_push(&fs->slots, slot) ? NULL : uerr_nomem();
}

static struct uerr *add_module(struct ifuncs *fs, const struct module *mod)
{
	const struct image *im = mod->image;
	struct imports in = {};
	struct uerr *err = read_imports(im, &in);
	u64 total = 0;

	for (size_t t = 0; t < im->nrela && !err; t++) {
		size_t n = im->rela[t].size / sizeof(Elf64_Rela);
		cleanup_free void *relas = NULL;

		total += im->rela[t].size;
		if (total > im->file_size)
			break; /* tables that overlap: image_code() refuses the file */
		err = image_load(im, im->rela[t], &relas);
		for (size_t i = 0; i < n && !err; i++)
			err = add_rela(fs, mod, &in, (Elf64_Rela *)relas + i);
	}
	imports_deinit(&in);
	return err;
}

struct uerr *ifuncs_create(const struct modules *m, const struct module *def, struct ifuncs **ret)
{
	struct ifuncs *fs = calloc(1, sizeof(*fs));
	struct uerr *err;
	char path[64];

	if (!fs)
		return uerr_nomem();
	fs->def = def;
	snprintf(path, sizeof(path), "/proc/%d/mem", process_live_tid(m->pid));
	fs->mem = open(path, O_RDONLY | O_CLOEXEC);
	err = add_module(fs, def);
	for (size_t i = 0; i < m->n && !err; i++)
		if (&m->mods[i] != def)
			err = add_module(fs, &m->mods[i]);
	if (err) {
		ifuncs_destroy(fs);
		return err;
	}
	*ret = fs;
	return NULL;
}

void ifuncs_destroy(struct ifuncs *fs)
{
	if (!fs)
		return;
	if (fs->mem >= 0)
		close(fs->mem);
	vec_free(&fs->slots);
	free(fs);
}

const struct module *ifuncs_module(const struct ifuncs *fs)
{
	return fs->def;
}

static bool plausible(const struct ifuncs *fs, addr_t link_addr, addr_t resolver)
{
	struct image *im = fs->def->image;
	const struct area *area = image_area(im, link_addr);
	const struct code_func *f;

	if (!area || !area->exec || area->plt || link_addr == resolver)
		return false;
	if (im->has_sections)
		return true;
	/* Without sections a PLT looks like text, but no function begins there. */
	f = code_func_at(im, link_addr);
	return f && f->addr == link_addr;
}

bool ifuncs_selected(const struct ifuncs *fs, addr_t resolver, addr_t *ret)
{
	vec_foreach(slot, &fs->slots) {
		addr_t value;

		if (slot->resolver != resolver)
			continue;
		if (pread(fs->mem, &value, sizeof(value), slot->remote_addr) != sizeof(value))
			continue;
		value -= fs->def->bias;
		if (!plausible(fs, value, resolver))
			continue;
		*ret = value;
		return true;
	}
	return false;
}
