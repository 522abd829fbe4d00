/* SPDX-License-Identifier: MIT */
/*
 * What libbpf 1.1 keeps to itself about an object, or leaves to the kernel: its
 * licence, which source line each instruction of a *relocated* program came
 * from, and CO-RE relocation (core_relo.c).
 *
 * .BTF.ext holds records of lines and of CO-RE by section and offset. A relocated program is the
 * program's own function followed by the functions that it calls, whole, each
 * once. Where each of those begins is what the local calls in the relocated
 * code say; which function it is, is what the same call says in the file, by its
 * relocation, or by its offset within the section where it has none. So walking
 * both side by side from the program's first instruction finds them all.
 */
#include <gelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "vm/btf_index.h"
#include "vm/core_relo.h"
#include "vm/object_internal.h"
#include "vm/opcodes.h"

/* Records of .BTF.ext: u32 record size, then for each section its name, the
 * number of its records, and those. */
struct records {
	const u8 *data;
	u32 size;
};

struct object_elf {
	u8 *copy; /* libelf may write into its input */
	Elf *elf;
	size_t nsections, strings, sections_strings;
	Elf_Data *symbols;
	size_t nsymbols;
	struct records funcs, lines, relos; /* of .BTF.ext */
};

/* A function of the file: where its instructions are. */
struct function {
	size_t section;
	u64 insn, ninsns;
};

/* .BTF.ext (Documentation/bpf/btf.rst) */
struct ext_header {
	u16 magic;
	u8 version, flags;
	u32 hdr_len, func_info_off, func_info_len, line_info_off, line_info_len;
	u32 core_relo_off, core_relo_len; /* from hdr_len 32 on */
};

struct ext_section {
	u32 sec_name_off, num_info;
};

struct ext_func {
	u32 insn_off, type_id;
};

struct ext_line {
	u32 insn_off, file_name_off, line_off, line_col;
};

static Elf_Data *section_data(const struct object_elf *e, size_t i, GElf_Shdr *sh)
{
	Elf_Scn *scn = elf_getscn(e->elf, i);

	if (!scn || !gelf_getshdr(scn, sh))
		return NULL;
	return elf_getdata(scn, NULL);
}

static const char *section_name(const struct object_elf *e, const GElf_Shdr *sh)
{
	const char *name = elf_strptr(e->elf, e->sections_strings, sh->sh_name);

	return name ? name : "";
}

static void records_set(struct records *r, const Elf_Data *d, u32 hdr_len, u32 off, u32 len)
{
	if (off > d->d_size - hdr_len || len > d->d_size - hdr_len - off)
		return;
	r->data = (const u8 *)d->d_buf + hdr_len + off;
	r->size = len;
}

static void records_find(struct object_elf *e, const Elf_Data *d)
{
	const struct ext_header *h = d->d_buf;

	if (!h || d->d_size < offsetof(struct ext_header, core_relo_off) || h->magic != BTF_MAGIC ||
	    h->hdr_len > d->d_size)
		return;
	records_set(&e->funcs, d, h->hdr_len, h->func_info_off, h->func_info_len);
	records_set(&e->lines, d, h->hdr_len, h->line_info_off, h->line_info_len);
	if (h->hdr_len >= sizeof(*h))
		records_set(&e->relos, d, h->hdr_len, h->core_relo_off, h->core_relo_len);
}

static void sections_find(struct object_elf *e)
{
	for (size_t i = 1; i < e->nsections; i++) {
		GElf_Shdr sh;
		Elf_Data *d = section_data(e, i, &sh);

		if (!d)
			continue;
		if (sh.sh_type == SHT_SYMTAB && !e->symbols) {
			e->symbols = d;
			e->nsymbols = d->d_size / sizeof(Elf64_Sym);
			e->strings = sh.sh_link;
		} else if (!strcmp(section_name(e, &sh), ".BTF.ext")) {
			records_find(e, d);
		}
	}
}

struct object_elf *object_elf_open(const void *bytes, size_t size)
{
	struct object_elf *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	elf_version(EV_CURRENT);
	e->copy = malloc(size ? size : 1);
	if (e->copy) {
		memcpy(e->copy, bytes, size);
		e->elf = elf_memory((char *)e->copy, size);
	}
	if (!e->elf || elf_kind(e->elf) != ELF_K_ELF || gelf_getclass(e->elf) != ELFCLASS64 ||
	    elf_getshdrnum(e->elf, &e->nsections) || elf_getshdrstrndx(e->elf, &e->sections_strings)) {
		object_elf_close(e);
		return NULL;
	}
	sections_find(e);
	return e;
}

void object_elf_close(struct object_elf *e)
{
	if (!e)
		return;
	elf_end(e->elf);
	free(e->copy);
	free(e);
}

void object_elf_license(struct object_elf *e, char *ret, size_t size)
{
	for (size_t i = 1; i < e->nsections; i++) {
		GElf_Shdr sh;
		Elf_Data *d = section_data(e, i, &sh);
		size_t n;

		if (!d || !d->d_buf || strcmp(section_name(e, &sh), "license"))
			continue;
		n = strnlen(d->d_buf, d->d_size);
		if (n >= size)
			n = size - 1;
		memcpy(ret, d->d_buf, n);
		ret[n] = 0;
		return;
	}
}

/* --- which function is where --- */

static bool symbol_function(const struct object_elf *e, const GElf_Sym *sym, struct function *ret)
{
	if (GELF_ST_TYPE(sym->st_info) != STT_FUNC || sym->st_shndx == SHN_UNDEF || sym->st_shndx >= e->nsections)
		return false;
	ret->section = sym->st_shndx;
	ret->insn = sym->st_value / sizeof(struct bpf_insn);
	ret->ninsns = sym->st_size / sizeof(struct bpf_insn);
	return true;
}

static bool function_by_name(const struct object_elf *e, const char *name, const char *section, struct function *ret)
{
	for (size_t i = 0; e->symbols && i < e->nsymbols; i++) {
		const char *s;
		GElf_Shdr sh;
		GElf_Sym sym;

		if (!gelf_getsym(e->symbols, i, &sym) || !symbol_function(e, &sym, ret))
			continue;
		s = elf_strptr(e->elf, e->strings, sym.st_name);
		/* libbpf drops the ? of a section's name */
		if (s && !strcmp(s, name) && section_data(e, ret->section, &sh) &&
		    !strcmp(section_name(e, &sh) + (section_name(e, &sh)[0] == '?'), section + (section[0] == '?')))
			return true;
	}
	return false;
}

static bool function_at(const struct object_elf *e, size_t section, u64 insn, struct function *ret)
{
	for (size_t i = 0; e->symbols && i < e->nsymbols; i++) {
		GElf_Sym sym;

		if (gelf_getsym(e->symbols, i, &sym) && symbol_function(e, &sym, ret) && ret->section == section &&
		    ret->insn == insn)
			return true;
	}
	return false;
}

/* The symbol that a relocation of SECTION at OFF names. */
static bool reloc_symbol(const struct object_elf *e, size_t section, u64 off, GElf_Sym *ret)
{
	for (size_t i = 1; i < e->nsections; i++) {
		GElf_Shdr sh;
		Elf_Data *d = section_data(e, i, &sh);

		if (!d || sh.sh_type != SHT_REL || sh.sh_info != section)
			continue;
		for (size_t k = 0; k < d->d_size / sizeof(Elf64_Rel); k++) {
			GElf_Rel rel;

			if (gelf_getrel(d, k, &rel) && rel.r_offset == off && e->symbols)
				return gelf_getsym(e->symbols, GELF_R_SYM(rel.r_info), ret);
		}
	}
	return false;
}

/* The relocations of section I, when that is what they are: of definitions of maps. */
static Elf_Data *map_relocs(const struct object_elf *e, size_t i)
{
	GElf_Shdr sh, target;
	Elf_Data *d = section_data(e, i, &sh);

	if (!d || sh.sh_type != SHT_REL || !section_data(e, sh.sh_info, &target))
		return NULL;
	return strcmp(section_name(e, &target), ".maps") ? NULL : d;
}

void object_elf_hide_map_functions(struct object_elf *e, u8 *bytes, size_t size)
{
	Elf64_Ehdr header;

	if (size < sizeof(header))
		return;
	memcpy(&header, bytes, sizeof(header));
	for (size_t i = 1; i < e->nsections; i++) {
		u64 at = header.e_shoff + i * sizeof(Elf64_Shdr) + offsetof(Elf64_Shdr, sh_type);
		const u32 plain = SHT_PROGBITS;

		if (map_relocs(e, i) && header.e_shoff < size && at + sizeof(plain) <= size)
			memcpy(bytes + at, &plain, sizeof(plain));
	}
}

bool object_elf_map_function(struct object_elf *e, size_t n, u64 *off, const char **name)
{
	for (size_t i = 1; i < e->nsections; i++) {
		Elf_Data *d = map_relocs(e, i);

		if (!d)
			continue;
		for (size_t k = 0; k < d->d_size / sizeof(Elf64_Rel); k++) {
			struct function f;
			GElf_Rel rel;
			GElf_Sym sym;

			if (!gelf_getrel(d, k, &rel) || !e->symbols || !gelf_getsym(e->symbols, GELF_R_SYM(rel.r_info), &sym) ||
			    !symbol_function(e, &sym, &f) || n--)
				continue;
			*off = rel.r_offset;
			*name = elf_strptr(e->elf, e->strings, sym.st_name);
			return *name;
		}
	}
	return false;
}

/* The function that instruction AT of SECTION, a local call, calls. */
static bool callee(const struct object_elf *e, size_t section, u64 at, struct function *ret)
{
	GElf_Shdr sh;
	Elf_Data *d = section_data(e, section, &sh);
	const struct bpf_insn *insn;
	GElf_Sym sym;

	if (!d || !d->d_buf || at >= d->d_size / sizeof(*insn))
		return false;
	insn = (const struct bpf_insn *)d->d_buf + at;
	if (!reloc_symbol(e, section, at * sizeof(*insn), &sym))
		return function_at(e, section, at + insn->imm + 1, ret);
	if (insn->code == (BPF_LD | BPF_IMM | BPF_DW)) /* imm counts bytes, from the symbol */
		return function_at(e, sym.st_shndx, (sym.st_value + (u32)insn->imm) / sizeof(*insn), ret);
	return function_at(e, sym.st_shndx, sym.st_value / sizeof(*insn) + insn->imm + 1, ret);
}

/* --- lines --- */

struct filler {
	const struct btf_index *types;
	struct vm_prog *p;
	u32 file_off; /* name of P->file, 0 not yet known */
};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Gives instruction AT the line of RECORD. Lines of another file than the
 * program's are left out: they are of inlined functions, and the caller's line
 * stands. */
static struct uerr *fill_one(void *arg, const void *record, u32 at)
{
	struct filler *f = arg;
	struct ext_line l;
	const char *text;
	char *file;

	memcpy(&l, record, sizeof(l));
	text = btf_index_str(f->types, l.line_off);
	if (!f->file_off) {
		f->file_off = l.file_name_off;
		f->p->file = file = strdup(base_name(btf_index_str(f->types, l.file_name_off)));
		if (file)
			object_clean_name(file);
	}
	if (l.file_name_off != f->file_off)
		return NULL;
	while (*text == ' ' || *text == '\t')
		text++;
	f->p->lines[at] = l.line_col >> 10;
	f->p->texts[at] = *text ? text : NULL;
	return NULL;
}

/* Calls FN for each record of R, of at least SIZE bytes each, that is about the
 * function at BASE of the program; AT is the instruction of the program. */
static struct uerr *records_walk(const struct object_elf *e, const struct btf_index *types, const struct records *r,
				 u32 size, const struct function *fun, u64 base,
				 struct uerr *(*fn)(void *arg, const void *record, u32 at), void *arg)
{
	const u8 *at = r->data, *end = r->data + r->size;
	GElf_Shdr sh;
	u32 rec_size;

	if (!at || !section_data(e, fun->section, &sh) || end - at < 4)
		return NULL;
	memcpy(&rec_size, at, 4);
	at += 4;
	if (rec_size < size)
		return NULL;
	while (end - at >= (ptrdiff_t)sizeof(struct ext_section)) {
		struct ext_section s;
		bool ours;

		memcpy(&s, at, sizeof(s));
		at += sizeof(s);
		if (s.num_info > (u64)(end - at) / rec_size)
			return NULL;
		ours = !strcmp(btf_index_str(types, s.sec_name_off), section_name(e, &sh));
		for (u32 i = 0; i < s.num_info; i++, at += rec_size) {
			struct uerr *err;
			u32 insn;

			memcpy(&insn, at, sizeof(insn)); /* the first word of all records */
			insn /= sizeof(struct bpf_insn);
			if (!ours || insn < fun->insn || insn >= fun->insn + fun->ninsns)
				continue;
			err = fn(arg, at, base + insn - fun->insn);
			if (err)
				return err;
		}
	}
	return NULL;
}

/* A record holds until the next one of its function. */
static void fill_gaps(struct vm_prog *p, const struct function *fn, u64 base)
{
	for (u64 at = base + 1; at < base + fn->ninsns; at++) {
		if (p->lines[at])
			continue;
		p->lines[at] = p->lines[at - 1];
		p->texts[at] = p->texts[at - 1];
	}
}

/* Records which function each subprogram of P is: FNS and BASES begin with the
 * program's own and grow as calls are met. */
static bool functions_find(const struct object_elf *e, const struct vm_prog *p, struct function *fns, u32 *bases,
			   size_t max, size_t *ret_n)
{
	size_t n = 1;

	for (size_t done = 0; done < n; done++) {
		if (fns[done].ninsns > p->ninsns - bases[done])
			return false;
		for (u64 i = 0; i < fns[done].ninsns; i++) {
			const struct bpf_insn *insn = &p->insns[bases[done] + i];
			u64 target = bases[done] + i + 1 + insn->imm;
			bool known = false;

			if ((insn->code != (BPF_JMP | BPF_CALL) || insn->src_reg != BPF_PSEUDO_CALL) &&
			    (insn->code != (BPF_LD | BPF_IMM | BPF_DW) || insn->src_reg != BPF_PSEUDO_FUNC))
				continue;
			for (size_t k = 0; k < n; k++)
				known |= bases[k] == target;
			if (known)
				continue;
			if (target >= p->ninsns || n == max || !callee(e, fns[done].section, fns[done].insn + i, &fns[n]))
				return false;
			bases[n++] = target;
		}
	}
	*ret_n = n;
	return true;
}

/* The functions that P was put together from. */
struct parts {
	struct function fns[256];
	u32 bases[256];
	size_t n;
};

static bool parts_find(const struct object_elf *e, const struct vm_prog *p, struct parts *ret)
{
	ret->n = 0;
	ret->bases[0] = 0;
	return function_by_name(e, p->name, p->section, &ret->fns[0]) &&
	       functions_find(e, p, ret->fns, ret->bases, ARRAY_SIZE(ret->fns), &ret->n);
}

/* --- functions --- */

/* Describes the function that begins at AT. */
static struct uerr *fill_func(void *arg, const void *record, u32 at)
{
	struct filler *f = arg;
	struct vm_subprog *s = NULL;
	const struct btf_type *t;
	struct ext_func r;

	memcpy(&r, record, sizeof(r));
	for (u32 i = 0; i < f->p->nsubprogs; i++)
		if (f->p->subprogs[i].start == at)
			s = &f->p->subprogs[i];
	t = btf_index_type(f->types, r.type_id);
	if (!s || !t || BTF_INFO_KIND(t->info) != BTF_KIND_FUNC)
		return NULL;
	s->type_id = r.type_id;
	s->global = BTF_INFO_VLEN(t->info) == BTF_FUNC_GLOBAL;
	snprintf(s->name, sizeof(s->name), "%s", btf_index_str(f->types, t->name_off));
	object_clean_name(s->name);
	return NULL;
}

static int by_start(const void *a, const void *b)
{
	const struct vm_subprog *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

static bool fill_funcs(const struct object_elf *e, struct filler *f, const struct parts *parts)
{
	struct vm_prog *p = f->p;

	p->btf = f->types;
	p->subprogs = calloc(parts->n, sizeof(*p->subprogs));
	if (!p->subprogs)
		return false;
	p->nsubprogs = parts->n;
	for (size_t i = 0; i < parts->n; i++)
		p->subprogs[i].start = parts->bases[i];
	for (size_t i = 0; i < parts->n; i++)
		uerr_free(records_walk(e, f->types, &e->funcs, sizeof(struct ext_func), &parts->fns[i], parts->bases[i],
				       fill_func, f));
	qsort(p->subprogs, p->nsubprogs, sizeof(*p->subprogs), by_start);
	return true;
}

bool object_elf_lines(struct object_elf *e, const struct object *obj, struct vm_prog *p)
{
	struct filler f = { obj->types, p, 0 };
	struct parts parts;

	if (!obj->types || !parts_find(e, p, &parts))
		return true;
	if (!fill_funcs(e, &f, &parts))
		return false;
	if (!e->lines.data)
		return true;
	p->lines = calloc(p->ninsns, sizeof(*p->lines));
	p->texts = calloc(p->ninsns, sizeof(*p->texts));
	if (!p->lines || !p->texts)
		return false;
	for (size_t i = 0; i < parts.n; i++) {
		uerr_free(records_walk(e, obj->types, &e->lines, sizeof(struct ext_line), &parts.fns[i], parts.bases[i],
				       fill_one, &f));
		fill_gaps(p, &parts.fns[i], parts.bases[i]);
	}
	return true;
}

/* --- CO-RE --- */

struct relocator {
	const struct btf_index *types, *target;
	struct vm_prog *p;
};

static struct uerr *relocate_one(void *arg, const void *record, u32 at)
{
	struct relocator *r = arg;
	struct core_relo relo;

	memcpy(&relo, record, sizeof(relo));
	return core_relocate(r->types, r->target, &relo, r->p, at);
}

bool object_elf_has_relos(const struct object_elf *e)
{
	return e->relos.size > 4;
}

struct uerr *object_elf_relocate(struct object_elf *e, const struct object *obj, const struct btf_index *target,
				 struct vm_prog *p)
{
	struct relocator r = { obj->types, target, p };
	struct parts parts;

	if (!obj->types)
		return uerr_new(UERR_FAILED, "CO-RE relocations without types");
	if (!parts_find(e, p, &parts))
		return uerr_new(UERR_FAILED, "CO-RE relocations, but the functions of program %s are not to be found", p->name);
	for (size_t i = 0; i < parts.n; i++) {
		struct uerr *err = records_walk(e, obj->types, &e->relos, sizeof(struct core_relo), &parts.fns[i],
						parts.bases[i], relocate_one, &r);

		if (err)
			return uerr_prefix(err, "program %s", p->name);
	}
	return NULL;
}
