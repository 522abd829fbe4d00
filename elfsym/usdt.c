/* SPDX-License-Identifier: MIT */
/* .note.stapsdt; see usdt.h. Argument strings are usdt_args.c's. */
#include "elfsym/usdt.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "elfsym/image_int.h"
#include "elfsym/reader.h"

#define NOTE_SECTION ".note.stapsdt"
#define BASE_SECTION ".stapsdt.base"
#define NOTE_OWNER "stapsdt"
#define NOTE_TYPE 3
#define NOTES_MAX (16u << 20) /* bytes that are read of what a file says it has */

struct usdts {
	char *notes; /* what the strings point into */
	struct usdt_probe *probes;
	size_t n;
};

typedef VEC(struct usdt_probe) probe_vec;

void usdts_destroy(struct usdts *us)
{
	if (!us)
		return;
	free(us->notes);
	free(us->probes);
	free(us);
}

/* ---- one note ---- */

/* The string at the cursor; NULL when it does not end. */
static const char *take_string(struct reader *r)
{
	const char *s = (const char *)r->p;
	size_t len = strnlen(s, reader_left(r));

	if (len == reader_left(r)) {
		r->bad = true;
		return NULL;
	}
	reader_skip(r, len + 1);
	return s;
}

static bool is_data(const struct image *im, addr_t addr, u64 size)
{
	for (size_t i = 0; i < im->nphdrs; i++) {
		const Elf64_Phdr *ph = &im->phdrs[i];

		if (ph->p_type == PT_LOAD && ph->p_flags & PF_W && !(ph->p_flags & PF_X) && addr >= ph->p_vaddr &&
		    addr - ph->p_vaddr < ph->p_memsz && size <= ph->p_memsz - (addr - ph->p_vaddr))
			return true;
	}
	return false;
}

static const char *refusal_of(const struct image *im, const struct usdt_probe *p)
{
	if (!image_in_text(im, p->addr))
		return "its note names a place outside of the code";
	if (p->sema && (p->sema % sizeof(u16) || !is_data(im, p->sema, sizeof(u16))))
		return "its note names a semaphore outside of the writable data";
	return NULL;
}

/* A note's description; what makes no sense is left out. MOVED is how far the
 * sections moved after the note was written (prelink). */
static struct uerr *add_probe(const struct image *im, struct reader desc, bool has_base, addr_t base, probe_vec *probes)
{
	struct usdt_probe p = { .addr = reader_u64(&desc) };
	addr_t noted_base = reader_u64(&desc), moved = has_base && noted_base ? base - noted_base : 0;

	p.sema = reader_u64(&desc);
	p.provider = take_string(&desc);
	p.name = p.provider ? take_string(&desc) : NULL;
	p.args = p.name ? take_string(&desc) : NULL;
	if (!p.args || desc.bad || !*p.provider || !*p.name)
		return NULL;
	if (*p.args == ':') /* an older form's mark for none */
		p.args = "";
	p.addr += moved;
	if (p.sema)
		p.sema += moved;
	p.refusal = refusal_of(im, &p);
	return vec_push(probes, p) ? NULL : uerr_nomem();
}

/* ---- all notes ---- */

static struct uerr *walk_notes(const struct image *im, const u8 *buf, u64 size, probe_vec *probes)
{
	struct reader r = reader_at(buf, size, 0);
	const struct area *base = NULL;
	struct uerr *err = NULL;

	for (size_t i = 0; i < im->nareas; i++)
		if (!strcmp(im->areas[i].name, BASE_SECTION))
			base = &im->areas[i];
	while (!err && reader_left(&r) >= sizeof(Elf64_Nhdr)) {
		const u8 *owner, *desc;
		Elf64_Nhdr nh;

		reader_take(&r, &nh, sizeof(nh));
		owner = r.p;
		reader_skip(&r, ALIGN_UP((u64)nh.n_namesz, 4));
		desc = r.p;
		if (r.bad || nh.n_descsz > reader_left(&r))
			break;
		if (nh.n_type == NOTE_TYPE && nh.n_namesz == sizeof(NOTE_OWNER) &&
		    !memcmp(owner, NOTE_OWNER, sizeof(NOTE_OWNER)))
			err = add_probe(im, reader_at(desc, nh.n_descsz, 0), base, base ? base->addr : 0, probes);
		reader_skip(&r, ALIGN_UP((u64)nh.n_descsz, 4));
	}
	return err;
}

static bool find_notes(const struct image *im, struct span *ret)
{
	Elf_Scn *scn = NULL;
	size_t names;

	if (!im->has_sections || elf_getshdrstrndx(im->elf, &names) < 0)
		return false;
	while ((scn = elf_nextscn(im->elf, scn))) {
		const Elf64_Shdr *sh = elf64_getshdr(scn);
		const char *name = sh ? elf_strptr(im->elf, names, sh->sh_name) : NULL;

		if (!name || sh->sh_type != SHT_NOTE || strcmp(name, NOTE_SECTION))
			continue;
		*ret = (struct span){ sh->sh_offset, sh->sh_size };
		return sh->sh_size;
	}
	return false;
}

static int probe_cmp(const void *a, const void *b)
{
	const struct usdt_probe *x = a, *y = b;
	int c = strcmp(x->provider, y->provider);

	if (!c)
		c = strcmp(x->name, y->name);
	return c ? c : (x->addr > y->addr) - (x->addr < y->addr);
}

static struct uerr *fill(const struct image *im, struct usdts *us)
{
	probe_vec probes = {};
	struct uerr *err;
	struct span span;
	void *notes;

	if (!find_notes(im, &span))
		return NULL;
	if (span.size > NOTES_MAX)
		return uerr_new(UERR_FAILED, "%s: more than %u bytes of USDT notes", im->name, NOTES_MAX);
	err = image_load(im, span, &notes);
	if (err)
		return err;
	us->notes = notes;
	err = walk_notes(im, notes, span.size, &probes);
	if (probes.n)
		qsort(probes.data, probes.n, sizeof(*probes.data), probe_cmp);
	us->probes = probes.data;
	us->n = probes.n;
	return err;
}

struct uerr *image_usdts(struct image *im, const struct usdt_probe **ret, size_t *nret)
{
	struct uerr *err;

	if (!im->usdts) {
		struct usdts *us = calloc(1, sizeof(*us));

		if (!us)
			return uerr_nomem();
		err = fill(im, us);
		if (err) {
			usdts_destroy(us);
			return err;
		}
		im->usdts = us;
	}
	*ret = im->usdts->probes;
	*nret = im->usdts->n;
	return NULL;
}
