/* SPDX-License-Identifier: MIT */
/*
 * A small shared object as one C struct, so that a test can break any field by
 * name. Link addresses are file offsets.
 */
#pragma once
#include <elf.h>
#include <stddef.h>
#include <string.h>

#include "base/types.h"

#ifndef SHT_RELR
#define SHT_RELR 19
#endif

enum {
	TINY_NULL, TINY_NOTE, TINY_DYNSYM, TINY_RELA, TINY_RELR, TINY_TEXT, TINY_DATA, TINY_SYMTAB, TINY_STRTAB,
	TINY_SHSTRTAB, TINY_SECTIONS,
};

enum { TINY_F, TINY_G = 16, TINY_LABEL = 24, TINY_BY_RELA = 40, TINY_BY_RELR = 48, TINY_BY_DATA = 56 };

struct tiny_elf {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3];
	struct {
		Elf64_Nhdr head;
		char owner[4];
		u8 id[4];
	} note;
	Elf64_Sym dynsym[2];
	Elf64_Rela rela[1];
	u64 relr[3];
	u8 text[64];
	u64 data[72];
	Elf64_Sym symtab[5];
	char strtab[64];
	char shstrtab[112];
	Elf64_Shdr sh[TINY_SECTIONS];
};

#define TINY_OFF(member) offsetof(struct tiny_elf, member)

static inline u32 tiny_string(char *table, const char *s)
{
	u32 at = 1;

	while (table[at])
		at += strlen(table + at) + 1;
	strcpy(table + at, s);
	return at;
}

static inline void tiny_section(struct tiny_elf *t, int i, const char *name, u32 type, u64 flags, u64 off, u64 size,
				u64 entsize)
{
	t->sh[i] = (Elf64_Shdr){
		.sh_name = tiny_string(t->shstrtab, name),
		.sh_type = type,
		.sh_flags = flags,
		.sh_addr = flags & SHF_ALLOC ? off : 0,
		.sh_offset = off,
		.sh_size = size,
		.sh_entsize = entsize,
	};
}

#define TINY_SECTION(t, i, name, type, flags, member, entsize) \
	tiny_section(t, i, name, type, flags, TINY_OFF(member), sizeof((t)->member), entsize)

static inline Elf64_Sym tiny_sym(struct tiny_elf *t, const char *name, int bind, int type, u64 off, u64 size)
{
	return (Elf64_Sym){
		.st_name = tiny_string(t->strtab, name),
		.st_info = ELF64_ST_INFO(bind, type),
		.st_shndx = TINY_TEXT,
		.st_value = TINY_OFF(text) + off,
		.st_size = size,
	};
}

/* f (16 bytes), g (an IFUNC, 8 bytes), a label without type; words of data that
 * name text by RELA, by RELR, and by nothing but their value. */
static inline void tiny_make(struct tiny_elf *t)
{
	memset(t, 0, sizeof(*t));
	memcpy(t->eh.e_ident, ELFMAG, SELFMAG);
	t->eh.e_ident[EI_CLASS] = ELFCLASS64;
	t->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	t->eh.e_ident[EI_VERSION] = EV_CURRENT;
	t->eh.e_type = ET_DYN;
	t->eh.e_machine = EM_X86_64;
	t->eh.e_version = EV_CURRENT;
	t->eh.e_entry = TINY_OFF(text);
	t->eh.e_phoff = TINY_OFF(ph);
	t->eh.e_shoff = TINY_OFF(sh);
	t->eh.e_ehsize = sizeof(Elf64_Ehdr);
	t->eh.e_phentsize = sizeof(Elf64_Phdr);
	t->eh.e_phnum = 3;
	t->eh.e_shentsize = sizeof(Elf64_Shdr);
	t->eh.e_shnum = TINY_SECTIONS;
	t->eh.e_shstrndx = TINY_SHSTRTAB;
	t->ph[0] = (Elf64_Phdr){ PT_LOAD, PF_R | PF_X, 0, 0, 0, TINY_OFF(data), TINY_OFF(data), PAGE };
	t->ph[1] = (Elf64_Phdr){ PT_LOAD, PF_R | PF_W, TINY_OFF(data), TINY_OFF(data), 0, sizeof(t->data),
				 sizeof(t->data) + 64, 8 };
	t->ph[2] = (Elf64_Phdr){ PT_NOTE, PF_R, TINY_OFF(note), TINY_OFF(note), 0, sizeof(t->note), sizeof(t->note), 4 };
	t->note.head = (Elf64_Nhdr){ 4, 4, NT_GNU_BUILD_ID };
	memcpy(t->note.owner, "GNU", 4);
	memcpy(t->note.id, "\xab\xcd\x01\x02", 4);
	TINY_SECTION(t, TINY_NOTE, ".note", SHT_NOTE, SHF_ALLOC, note, 0);
	TINY_SECTION(t, TINY_DYNSYM, ".dynsym", SHT_DYNSYM, SHF_ALLOC, dynsym, sizeof(Elf64_Sym));
	TINY_SECTION(t, TINY_RELA, ".rela", SHT_RELA, SHF_ALLOC, rela, sizeof(Elf64_Rela));
	TINY_SECTION(t, TINY_RELR, ".relr", SHT_RELR, SHF_ALLOC, relr, 8);
	TINY_SECTION(t, TINY_TEXT, ".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, text, 0);
	TINY_SECTION(t, TINY_DATA, ".data", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, data, 0);
	TINY_SECTION(t, TINY_SYMTAB, ".symtab", SHT_SYMTAB, 0, symtab, sizeof(Elf64_Sym));
	TINY_SECTION(t, TINY_STRTAB, ".strtab", SHT_STRTAB, 0, strtab, 0);
	TINY_SECTION(t, TINY_SHSTRTAB, ".shstrtab", SHT_STRTAB, 0, shstrtab, 0);
	t->sh[TINY_SYMTAB].sh_link = t->sh[TINY_DYNSYM].sh_link = TINY_STRTAB;
	t->symtab[1] = tiny_sym(t, "f", STB_GLOBAL, STT_FUNC, TINY_F, 16);
	t->symtab[2] = tiny_sym(t, "g@@V2", STB_GLOBAL, STT_GNU_IFUNC, TINY_G, 8);
	t->symtab[3] = tiny_sym(t, "label", STB_LOCAL, STT_NOTYPE, TINY_LABEL, 0);
	t->symtab[4] = tiny_sym(t, "f.cold", STB_LOCAL, STT_FUNC, 32, 4);
	t->dynsym[1] = t->symtab[1];
	memset(t->text, 0x90, sizeof(t->text));
	t->rela[0] = (Elf64_Rela){ TINY_OFF(data), ELF64_R_INFO(0, R_X86_64_RELATIVE), TINY_OFF(text) + TINY_BY_RELA };
	t->relr[0] = TINY_OFF(data) + 8;
	t->relr[1] = 1 | 2; /* and the word behind that */
	t->relr[2] = 1 | 2; /* and the 63rd behind that one */
	t->data[1] = TINY_OFF(text) + TINY_BY_RELR;
	t->data[2] = TINY_OFF(text) + TINY_BY_RELR + 1;
	t->data[65] = TINY_OFF(text) + TINY_BY_RELR + 2;
	t->data[3] = TINY_OFF(text) + TINY_BY_DATA;
}
