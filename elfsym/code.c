/* SPDX-License-Identifier: MIT */
/*
 * image_code(): an image's code as the injector wants it. Bytes of text and of
 * what may hold jump tables; where functions lie; and every address in text
 * that something other than a direct branch may arrive at. The last is what
 * makes patching safe, so each source is read even where others say the same:
 *
 *   symbols       .symtab, .dynsym, of any type
 *   relocations   RELATIVE, IRELATIVE, 64, GLOB_DAT, JUMP_SLOT; RELR
 *   data          words of data sections, where addresses stand in them at link
 *                 time (programs that are not position-independent; GOTs)
 *   .eh_frame     starts of FDEs, landing pads
 *   __rseq_cs     abort handlers
 *   the header    entry point, DT_INIT and its kin
 *
 * Work and memory are bounded by the file's size, whatever it claims.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "elfsym/cfi.h"
#include "elfsym/ehframe.h"
#include "elfsym/image_int.h"
#include "elfsym/rseq.h"

typedef VEC(struct code_range) range_vec;
typedef VEC(struct code_mark) mark_vec;
typedef VEC(struct fde) fde_vec;
typedef VEC(struct code_func) func_vec;

struct code {
	struct code_image view;
	range_vec text, rodata;
	func_vec funcs;
	mark_vec marks;
	rseq_vec rseqs;
	struct code_range frames; /* .eh_frame, of its own */
	fde_vec fdes;             /* by address */
};

/* What is being built; `bytes[i]` are those of area i once they were needed. */
struct builder {
	const struct image *im;
	struct code *code;
	u8 **bytes;
	u64 call_sites; /* how many may still be looked at */
	u64 relr_words;
	bool nomem;
};

void code_destroy(struct code *code)
{
	if (!code)
		return;
	for (size_t i = 0; i < code->text.n; i++)
		free((void *)code->text.data[i].bytes);
	for (size_t i = 0; i < code->rodata.n; i++)
		free((void *)code->rodata.data[i].bytes);
	vec_free(&code->text);
	vec_free(&code->rodata);
	vec_free(&code->funcs);
	vec_free(&code->marks);
	vec_free(&code->rseqs);
	vec_free(&code->fdes);
	free((void *)code->frames.bytes);
	free(code);
}

static void builder_deinit(struct builder *b)
{
	for (size_t i = 0; b->bytes && i < b->im->nareas; i++)
		free(b->bytes[i]);
	free(b->bytes);
	code_destroy(b->code);
}

/* ---- bytes ---- */

static struct uerr *area_bytes(struct builder *b, const struct area *area, const u8 **ret)
{
	size_t i = area - b->im->areas;
	void *buf = b->bytes[i];
	struct uerr *err;

	if (!buf) {
		err = image_load(b->im, area->span, &buf);
		if (err)
			return err;
		b->bytes[i] = buf;
	}
	*ret = buf;
	return NULL;
}

/* The bytes from ADDR to the end of its area; *ret is NULL when there are none. */
static struct uerr *bytes_at(struct builder *b, addr_t addr, const u8 **ret, u64 *size)
{
	const struct area *area = image_area(b->im, addr);
	struct uerr *err;

	*ret = NULL;
	if (!area)
		return NULL;
	err = area_bytes(b, area, ret);
	if (err)
		return err;
	*ret += addr - area->addr;
	*size = area->span.size - (addr - area->addr);
	return NULL;
}

static bool is_named(const struct area *a, const char *prefix)
{
	return !strncmp(a->name, prefix, strlen(prefix));
}

/* May it hold a jump table? Tables of offsets are read-only; those of
 * addresses lie where relocations are applied. */
static bool is_rodata(const struct area *a)
{
	static const char *const others[] = {
		".eh_frame", ".gcc_except_table", ".interp", ".note", ".gnu", ".dyn", ".rela", ".relr", ".hash",
	};

	if (a->exec)
		return false;
	if (a->write)
		return is_named(a, ".data.rel.ro");
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (is_named(a, others[i]))
			return false;
	return true;
}

static struct uerr *add_range(struct builder *b, const struct area *area, range_vec *to)
{
	struct code_range range = { .addr = area->addr, .size = area->span.size };
	struct uerr *err = area_bytes(b, area, &range.bytes);

	if (err)
		return err;
	return vec_push(to, range) ? NULL : uerr_nomem();
}

static struct uerr *add_ranges(struct builder *b)
{
	struct uerr *err = NULL;

	for (size_t i = 0; i < b->im->nareas && !err; i++) {
		const struct area *area = &b->im->areas[i];

		if (area->exec)
			err = add_range(b, area, &b->code->text);
		else if (is_rodata(area))
			err = add_range(b, area, &b->code->rodata);
	}
	return err;
}

/* The ranges keep their buffers, everything else goes with the builder. */
static void hand_over_bytes(struct builder *b)
{
	for (size_t i = 0; i < b->im->nareas; i++)
		if (b->im->areas[i].exec || is_rodata(&b->im->areas[i]))
			b->bytes[i] = NULL;
}

/* ---- marks ---- */

static bool mark(struct builder *b, addr_t addr, u32 kind)
{
	if (!image_in_text(b->im, addr))
		return true;
	if (!vec_push(&b->code->marks, (struct code_mark){ addr, kind }))
		b->nomem = true;
	return !b->nomem;
}

static int mark_cmp(const void *a, const void *b)
{
	const struct code_mark *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static void sort_marks(mark_vec *marks)
{
	size_t n = 0;

	if (marks->n)
		qsort(marks->data, marks->n, sizeof(*marks->data), mark_cmp);
	for (size_t i = 0; i < marks->n; i++) {
		if (n && marks->data[n - 1].addr == marks->data[i].addr)
			marks->data[n - 1].kinds |= marks->data[i].kinds;
		else
			marks->data[n++] = marks->data[i];
	}
	marks->n = n;
}

static void mark_symbols(struct builder *b)
{
	const addr_t *values;
	size_t n = symtab_text_values(b->im, &values);

	for (size_t i = 0; i < n; i++)
		if (!i || values[i] != values[i - 1])
			mark(b, values[i], CODE_MARK_SYMBOL);
}

/* A goroutine returns to the second byte of goexit, which its creator has put onto the
 * stack: no instruction names that address (newproc1, in src/runtime/proc.go). */
static void mark_go(struct builder *b)
{
	static const char *const names[] = { "runtime.goexit", "runtime.goexit.abi0" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const struct elf_sym *s = symtab_find_exact(b->im, names[i], NULL);

		if (s)
			mark(b, s->addr + 1, CODE_MARK_ENTRY);
	}
}

static struct uerr *mark_word(struct builder *b, addr_t at, u32 kind)
{
	const u8 *bytes;
	u64 left, word;
	struct uerr *err = bytes_at(b, at, &bytes, &left);

	if (err || !bytes || left < sizeof(word))
		return err;
	memcpy(&word, bytes, sizeof(word));
	mark(b, word, kind);
	return NULL;
}

/* R's place will hold this: the symbol's value plus the addend, or the addend. */
static void mark_rela(struct builder *b, const Elf64_Rela *r, const Elf64_Sym *syms, size_t nsyms)
{
	u64 sym = ELF64_R_SYM(r->r_info);

	switch (ELF64_R_TYPE(r->r_info)) {
	case R_X86_64_RELATIVE:
	case R_X86_64_IRELATIVE:
		mark(b, r->r_addend, CODE_MARK_RELOC);
		return;
	case R_X86_64_64:
	case R_X86_64_GLOB_DAT:
	case R_X86_64_JUMP_SLOT:
		if (sym < nsyms && syms[sym].st_shndx != SHN_UNDEF)
			mark(b, syms[sym].st_value + r->r_addend, CODE_MARK_RELOC);
		return;
	default:
		return;
	}
}

static struct uerr *mark_relas(struct builder *b)
{
	const struct image *im = b->im;
	size_t nsyms = im->tables[TABLE_DYNSYM].size / sizeof(Elf64_Sym);
	cleanup_free void *syms = NULL;
	u64 total = 0;
	struct uerr *err = image_load(im, im->tables[TABLE_DYNSYM], &syms);

	for (size_t t = 0; t < im->nrela && !err; t++) {
		size_t n = im->rela[t].size / sizeof(Elf64_Rela);
		cleanup_free void *relas = NULL;

		total += im->rela[t].size;
		if (total > im->file_size)
			return uerr_new(UERR_FAILED, "%s: damaged: its relocation tables overlap", im->name);
		err = image_load(im, im->rela[t], &relas);
		for (size_t i = 0; i < n && !err && !b->nomem; i++)
			mark_rela(b, (Elf64_Rela *)relas + i, syms, nsyms);
	}
	return err;
}

/* RELR: an even word is a place; an odd one a bitmap of the 63 places behind the
 * last. The addends stand in the places. */
static struct uerr *mark_relr(struct builder *b)
{
	const struct image *im = b->im;
	size_t n = im->tables[TABLE_RELR].size / sizeof(u64);
	cleanup_free void *buf = NULL;
	struct uerr *err = image_load(im, im->tables[TABLE_RELR], &buf);
	addr_t at = 0;

	for (size_t i = 0; i < n && !err; i++) {
		u64 word = ((u64 *)buf)[i];

		if (!(word & 1)) {
			err = mark_word(b, word, CODE_MARK_RELOC);
			at = word + 8;
			continue;
		}
		for (int bit = 1; bit < 64 && !err; bit++) {
			if (!(word >> bit & 1))
				continue;
			/* There are no more places than words in the file. */
			if (!b->relr_words--)
				return uerr_new(UERR_FAILED, "%s: damaged: its RELR table has too many places",
						im->name);
			err = mark_word(b, at + 8ull * (bit - 1), CODE_MARK_RELOC);
		}
		at += 63 * 8;
	}
	return err;
}

static struct uerr *mark_words_of(struct builder *b, const struct area *area)
{
	const u8 *bytes;
	struct uerr *err = area_bytes(b, area, &bytes);

	if (err)
		return err;
	for (u64 off = -area->addr & 7; off + 8 <= area->span.size && !b->nomem; off += 8) {
		u64 word;

		memcpy(&word, bytes + off, sizeof(word));
		mark(b, word, CODE_MARK_RELOC);
	}
	return NULL;
}

/* In position-independent files words become addresses by relocations, but for
 * the GOT: lazily bound slots hold the address of their PLT entry. */
static struct uerr *mark_data(struct builder *b)
{
	struct uerr *err = NULL;

	for (size_t i = 0; i < b->im->nareas && !err; i++) {
		const struct area *area = &b->im->areas[i];

		if (area->exec || is_named(area, ".eh_frame") || is_named(area, ".gcc_except_table"))
			continue;
		if (!image_is_pie(b->im) || is_named(area, ".got") || (!*area->name && area->write))
			err = mark_words_of(b, area);
	}
	return err;
}

static struct uerr *mark_entries(struct builder *b)
{
	static const struct {
		s64 array, size;
	} arrays[] = {
		{ DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ },
		{ DT_INIT_ARRAY, DT_INIT_ARRAYSZ },
		{ DT_FINI_ARRAY, DT_FINI_ARRAYSZ },
	};
	struct uerr *err = NULL;
	u64 v, size;

	mark(b, b->im->entry, CODE_MARK_ENTRY);
	if (image_dyn(b->im, DT_INIT, &v))
		mark(b, v, CODE_MARK_ENTRY);
	if (image_dyn(b->im, DT_FINI, &v))
		mark(b, v, CODE_MARK_ENTRY);
	for (size_t i = 0; i < ARRAY_SIZE(arrays); i++) {
		if (!image_dyn(b->im, arrays[i].array, &v) || !image_dyn(b->im, arrays[i].size, &size))
			continue;
		for (u64 off = 0; off + 8 <= size && off < b->im->file_size && !err; off += 8)
			err = mark_word(b, v + off, CODE_MARK_ENTRY);
	}
	return err;
}

/* An interrupted sequence goes on at its abort handler. */
static struct uerr *add_rseqs(struct builder *b)
{
	struct uerr *err = rseq_read(b->im, &b->code->rseqs);

	for (size_t i = 0; i < b->code->rseqs.n && !err; i++)
		mark(b, b->code->rseqs.data[i].abort, CODE_MARK_ENTRY);
	return err;
}

/* ---- unwind tables ---- */

static bool add_fde(void *ctx, const struct fde *fde)
{
	struct builder *b = ctx;

	if (!image_in_text(b->im, fde->start))
		return true;
	if (!vec_push(&b->code->fdes, *fde))
		b->nomem = true;
	return mark(b, fde->start, CODE_MARK_FDE);
}

static bool add_pad(void *ctx, addr_t pad)
{
	return mark(ctx, pad, CODE_MARK_LANDING_PAD);
}

static struct uerr *walk_frames(struct builder *b, addr_t addr)
{
	const u8 *bytes;
	u64 size;
	struct uerr *err = bytes_at(b, addr, &bytes, &size);

	if (!err && bytes && !b->code->frames.bytes) {
		u8 *copy = malloc(size + 1);

		if (!copy)
			return uerr_nomem();
		memcpy(copy, bytes, size);
		b->code->frames = (struct code_range){ .addr = addr, .size = size, .bytes = copy };
		ehframe_walk(copy, size, addr, add_fde, b);
	}
	return err;
}

/* .eh_frame_hdr: version, encodings of {pointer, count, table}, the pointer. */
static struct uerr *walk_frames_by_header(struct builder *b)
{
	for (size_t i = 0; i < b->im->nphdrs; i++) {
		addr_t hdr = b->im->phdrs[i].p_vaddr;
		const u8 *bytes;
		struct uerr *err;
		s32 rel;
		u64 size;

		if (b->im->phdrs[i].p_type != PT_GNU_EH_FRAME)
			continue;
		err = bytes_at(b, hdr, &bytes, &size);
		if (err || !bytes || size < 8 || bytes[0] != 1 || bytes[1] != 0x1b /* pcrel sdata4 */)
			return err;
		memcpy(&rel, bytes + 4, sizeof(rel));
		return walk_frames(b, hdr + 4 + rel);
	}
	return NULL;
}

static int fde_cmp(const void *a, const void *b)
{
	const struct fde *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return x->size > y->size ? -1 : x->size < y->size;
}

static struct uerr *read_frames(struct builder *b)
{
	struct uerr *err = NULL;
	bool found = false;

	for (size_t i = 0; i < b->im->nareas && !err; i++) {
		if (strcmp(b->im->areas[i].name, ".eh_frame"))
			continue;
		found = true;
		err = walk_frames(b, b->im->areas[i].addr);
	}
	if (!found && !err)
		err = walk_frames_by_header(b);
	if (b->code->fdes.n)
		qsort(b->code->fdes.data, b->code->fdes.n, sizeof(*b->code->fdes.data), fde_cmp);
	return err;
}

static struct uerr *mark_landing_pads(struct builder *b)
{
	for (size_t i = 0; i < b->code->fdes.n && !b->nomem; i++) {
		const struct fde *fde = &b->code->fdes.data[i];
		const u8 *bytes;
		u64 size;
		struct uerr *err;

		if (!fde->lsda)
			continue;
		err = bytes_at(b, fde->lsda, &bytes, &size);
		if (err)
			return err;
		if (bytes)
			lsda_walk(bytes, size, fde->lsda, fde->start, &b->call_sites, add_pad, b);
	}
	return NULL;
}

/* ---- functions ---- */

/* The symbols of one address make one function, under the best of its names.
 * A label without a type is one only if no function contains it. */
static struct uerr *add_symbol_funcs(struct builder *b)
{
	const struct elf_sym *syms;
	size_t n = image_syms(b->im, &syms);
	addr_t end = 0;

	for (size_t i = 0, next; i < n; i = next) {
		const struct elf_sym *best = &syms[i];
		struct code_func f = { .addr = best->addr };

		for (next = i; next < n && syms[next].addr == f.addr; next++) {
			if (elf_sym_better(&syms[next], best))
				best = &syms[next];
			if (syms[next].size > f.size)
				f.size = syms[next].size;
			if (syms[next].type == ELF_SYM_IFUNC)
				f.flags |= CODE_FUNC_IFUNC;
		}
		f.name = best->name;
		if (best->type == ELF_SYM_NOTYPE && f.addr < end)
			continue;
		if (elf_sym_is_fragment(f.name))
			f.flags |= CODE_FUNC_FRAGMENT;
		if (!vec_push(&b->code->funcs, f))
			return uerr_nomem();
		if (f.size && f.addr + f.size > end)
			end = f.addr + f.size;
	}
	return NULL;
}

static int func_cmp(const void *a, const void *b)
{
	const struct code_func *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* FDEs give sizes to functions that have none, and functions where no symbol
 * tells of one. Both lists are sorted; new functions are appended and sorted in. */
static struct uerr *add_frame_funcs(struct builder *b)
{
	func_vec *funcs = &b->code->funcs;
	size_t nsyms = funcs->n, s = 0;
	addr_t end = 0; /* of the symbols' functions below the FDE */

	for (size_t i = 0; i < b->code->fdes.n; i++) {
		const struct fde *fde = &b->code->fdes.data[i];
		struct code_func f = {
			.addr = fde->start,
			.size = fde->size,
			.flags = CODE_FUNC_FROM_FDE | (fde->fragment ? CODE_FUNC_FRAGMENT : 0),
		};

		if (i && fde[-1].start == fde->start)
			continue;
		for (; s < nsyms && funcs->data[s].addr < f.addr; s++)
			if (funcs->data[s].addr + funcs->data[s].size > end)
				end = funcs->data[s].addr + funcs->data[s].size;
		if (s < nsyms && funcs->data[s].addr == f.addr) {
			if (!funcs->data[s].size)
				funcs->data[s].size = f.size;
			continue;
		}
		if (f.addr >= end && !image_area(b->im, f.addr)->plt && !vec_push(funcs, f))
			return uerr_nomem();
	}
	if (funcs->n > nsyms)
		qsort(funcs->data, funcs->n, sizeof(*funcs->data), func_cmp);
	return NULL;
}

/* A size that leaves the area is no size. */
static void clip_sizes(const struct builder *b)
{
	for (size_t i = 0; i < b->code->funcs.n; i++) {
		struct code_func *f = &b->code->funcs.data[i];
		const struct area *area = image_area(b->im, f->addr);

		if (f->size > area->span.size - (f->addr - area->addr))
			f->size = 0;
	}
}

static const struct code_func *find_func(const struct code_image *code, addr_t addr)
{
	size_t lo = 0, hi = code->nfuncs;
	const struct code_func *f;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (code->funcs[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo)
		return NULL;
	f = &code->funcs[lo - 1];
	return f->addr == addr || addr - f->addr < f->size ? f : NULL;
}

const struct code_func *code_func_at(struct image *im, addr_t addr)
{
	const struct code_image *code;
	cleanup_uerr struct uerr *err = image_code(im, &code);

	return err ? NULL : find_func(code, addr);
}

/* The last FDE that begins at or before ADDR; the view is the first member. */
static bool find_cfa(const struct code_image *view, addr_t addr, struct code_cfa *ret)
{
	const struct code *code = (const struct code *)view;
	size_t lo = 0, hi = code->fdes.n;
	struct cfi_program p;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (code->fdes.data[mid].start <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && ehframe_program(code->frames.bytes, code->frames.size, code->frames.addr,
				     code->fdes.data[lo - 1].off, &p) &&
	       cfi_cfa(&p, addr, ret);
}

/* ---- putting it together ---- */

static struct uerr *build(struct builder *b)
{
	struct uerr *(*const steps[])(struct builder *) = {
		add_ranges, read_frames, mark_landing_pads, mark_relas, mark_relr,
		mark_data, mark_entries, add_rseqs, add_symbol_funcs, add_frame_funcs,
	};
	struct uerr *err = NULL;

	mark_symbols(b);
	mark_go(b);
	for (size_t i = 0; i < ARRAY_SIZE(steps) && !err; i++)
		err = steps[i](b);
	if (!err && b->nomem)
		err = uerr_nomem();
	if (err)
		return err;
	clip_sizes(b);
	sort_marks(&b->code->marks);
	hand_over_bytes(b);
	return NULL;
}

static void set_view(struct code *code, const struct image *im)
{
	code->view = (struct code_image){
		.text = code->text.data, .ntext = code->text.n,
		.rodata = code->rodata.data, .nrodata = code->rodata.n,
		.funcs = code->funcs.data, .nfuncs = code->funcs.n,
		.marks = code->marks.data, .nmarks = code->marks.n,
		.rseqs = code->rseqs.data, .nrseqs = code->rseqs.n,
		.build_id = im->build_id,
		.cfa = code->fdes.n ? find_cfa : NULL,
	};
}
_Static_assert(offsetof(struct code, view) == 0, "find_cfa() goes back");

struct uerr *image_code(struct image *im, const struct code_image **ret)
{
	struct builder b = {
		.im = im,
		.call_sites = im->file_size,
		.relr_words = im->file_size / sizeof(u64),
	};
	struct uerr *err = NULL;

	if (im->code) {
		*ret = &im->code->view;
		return NULL;
	}
	b.code = calloc(1, sizeof(*b.code));
	b.bytes = calloc(im->nareas + 1, sizeof(*b.bytes));
	err = b.code && b.bytes ? build(&b) : uerr_nomem();
	if (err && b.code) {
		/* The builder owns the bytes until they are handed over. */
		b.code->text.n = 0;
		b.code->rodata.n = 0;
	}
	if (!err) {
		set_view(b.code, im);
		im->code = steal_ptr(b.code);
		*ret = &im->code->view;
	}
	builder_deinit(&b);
	return err;
}
