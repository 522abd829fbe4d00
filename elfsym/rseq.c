/* SPDX-License-Identifier: MIT */
/*
 * Restartable sequences of a file: librseq, tcmalloc and their kin put a struct
 * rseq_cs for each into the section __rseq_cs, and its address into
 * __rseq_cs_ptr_array, for debuggers and the like of us. Their addresses stand in
 * the file, or in relocations.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "elfsym/image_int.h"
#include "elfsym/rseq.h"

struct reader {
	const struct image *im;
	VEC(Elf64_Rela) relas; /* that say what a word will be */
	VEC(addr_t) seen;
	rseq_vec *ret;
};

static struct uerr *read_relas(struct reader *r)
{
	struct uerr *err = NULL;
	u64 total = 0;

	for (size_t t = 0; t < r->im->nrela && !err; t++) {
		size_t n = r->im->rela[t].size / sizeof(Elf64_Rela);
		cleanup_free void *buf = NULL;

		total += r->im->rela[t].size;
		if (total > r->im->file_size)
			return NULL; /* whoever reads all of them says so */
		err = image_load(r->im, r->im->rela[t], &buf);
		for (size_t i = 0; i < n && !err; i++) {
			const Elf64_Rela *rela = (Elf64_Rela *)buf + i;

			if (ELF64_R_TYPE(rela->r_info) == R_X86_64_RELATIVE && !vec_push(&r->relas, *rela))
				err = uerr_nomem();
		}
	}
	return err;
}

/* The N words at ADDR as the dynamic linker leaves them; false: not in the file. */
static bool read_words(const struct reader *r, addr_t addr, u64 *ret, size_t n)
{
	cleanup_free void *buf = NULL;
	cleanup_uerr struct uerr *err = NULL;
	struct span span;

	if (!image_addr_span(r->im, addr, n * sizeof(*ret), &span))
		return false;
	err = image_load(r->im, span, &buf);
	if (err)
		return false;
	memcpy(ret, buf, n * sizeof(*ret));
	vec_foreach(rela, &r->relas)
		if (rela->r_offset - addr < n * sizeof(*ret) && (rela->r_offset - addr) % sizeof(*ret) == 0)
			ret[(rela->r_offset - addr) / sizeof(*ret)] = rela->r_addend;
	return true;
}

/* struct rseq_cs: version and flags, start, length, abort. */
static bool add_descriptor(struct reader *r, addr_t addr)
{
	struct code_rseq cs;
	u64 words[4];

	vec_foreach(s, &r->seen)
		if (*s == addr)
			return true;
	if (!vec_push(&r->seen, addr))
		return false;
	if (!read_words(r, addr, words, ARRAY_SIZE(words)) || (u32)words[0] || !words[2] ||
	    words[1] + words[2] < words[1] || !image_in_text(r->im, words[1]))
		return true;
	cs = (struct code_rseq){ .lo = words[1], .hi = words[1] + words[2], .abort = words[3] };
	return vec_push(r->ret, cs);
}

#define DESCRIPTORS_MAX 4096

static bool add_section(struct reader *r, const struct area *area, bool pointers)
{
	size_t step = pointers ? sizeof(addr_t) : 32, n = area->span.size / step;
	addr_t at;

	if (n > DESCRIPTORS_MAX)
		n = DESCRIPTORS_MAX;
	for (size_t i = 0; i < n; i++) {
		at = area->addr + i * step;
		if (pointers && !read_words(r, at, &at, 1))
			continue;
		if (!add_descriptor(r, at))
			return false;
	}
	return true;
}

static bool is_descriptors(const struct area *a, bool *pointers)
{
	*pointers = !strcmp(a->name, "__rseq_cs_ptr_array");
	return *pointers || !strcmp(a->name, "__rseq_cs");
}

struct uerr *rseq_read(const struct image *im, rseq_vec *ret)
{
	struct reader r = { .im = im, .ret = ret };
	struct uerr *err = NULL;
	bool pointers, ready = false;

	for (size_t i = 0; i < im->nareas && !err; i++) {
		if (!is_descriptors(&im->areas[i], &pointers))
			continue;
		if (!ready)
			err = read_relas(&r);
		ready = true;
		if (!err && !add_section(&r, &im->areas[i], pointers))
			err = uerr_nomem();
	}
	vec_free(&r.relas);
	vec_free(&r.seen);
	return err;
}
