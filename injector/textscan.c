/* SPDX-License-Identifier: MIT */
/*
 * The scan of a whole text for everything that may be jumped to.
 *
 * A window of five bytes can only be replaced by a jump when control enters it
 * at its first byte alone. Nothing in an ELF file says so; the proof is to look
 * at every instruction of the file. An address counts as a possible arrival
 * when
 *
 *	- a direct branch or call names it (also into an instruction's middle),
 *	- it follows a call (something returns there),
 *	- a jump table has an entry for it,
 *	- an instruction takes its address (lea, or an immediate),
 *	- the file says so: symbol, relocation, FDE, landing pad (code->marks).
 *
 * The sweep is linear and starts anew at every function, so data between
 * functions cannot derail it. Data inside of one may look like the beginning of an
 * instruction and hide the code behind it; but somebody arrives at that code, so
 * that it is swept again from wherever an arrival does not fall on an instruction,
 * until no new ones turn up. Bytes that belong to no function, and functions
 * that hold bytes which are no instructions, are searched for branches at every
 * offset: that finds too many, which costs a few windows, never too few.
 *
 * The result is one bit for a byte of text. Cached results are believed only
 * when the file is ours alone to write and holds a digest of exactly the input.
 */
#include "injector/textscan.h"

#include <string.h>

#include "base/cache_file.h"
#include "base/cleanup.h"
#include "base/vec.h"
#include "injector/digest.h"

struct guess {
	addr_t lo, hi;
};

struct textscan {
	const struct code_image *code;
	u8 **bits;     /* bits[code->ntext], one bit a byte, into bitmap */
	u8 *bitmap;
	size_t bitmap_size;
	u8 **starts;   /* while it is made, in the same way: where instructions begin */
	VEC(struct guess) guesses; /* and what else is to be searched for branches */
	size_t hint;   /* range found last by the sweep */
};

static size_t range_bits(const struct code_range *r)
{
	return r->size / 8 + 1;
}

/* The last of RANGES (by address) that starts at or below ADDR and contains it. */
static const struct code_range *range_find(const struct code_range *ranges, size_t n, addr_t addr)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (ranges[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || addr - ranges[lo - 1].addr >= ranges[lo - 1].size)
		return NULL;
	return &ranges[lo - 1];
}

static const struct code_range *text_find(const struct textscan *scan, addr_t addr)
{
	return range_find(scan->code->text, scan->code->ntext, addr);
}

static bool mark(struct textscan *scan, addr_t addr)
{
	const struct code_range *r = &scan->code->text[scan->hint];

	if (addr - r->addr >= r->size) {
		r = text_find(scan, addr);
		if (!r)
			return false;
		scan->hint = r - scan->code->text;
	}
	scan->bits[scan->hint][(addr - r->addr) / 8] |= 1u << ((addr - r->addr) % 8);
	return true;
}

bool textscan_is_target(const struct textscan *scan, addr_t addr)
{
	const struct code_range *r = text_find(scan, addr);

	if (!r)
		return false;
	return scan->bits[r - scan->code->text][(addr - r->addr) / 8] >> ((addr - r->addr) % 8) & 1;
}

addr_t textscan_target_in(const struct textscan *scan, addr_t lo, addr_t hi)
{
	const struct code_range *r = text_find(scan, lo);
	const u8 *bits;

	if (!r)
		return 0;
	bits = scan->bits[r - scan->code->text];
	for (addr_t off = lo - r->addr; off < hi - r->addr && off < r->size; off++)
		if (bits[off / 8] >> (off % 8) & 1)
			return r->addr + off;
	return 0;
}

const struct code_image *textscan_code(const struct textscan *scan)
{
	return scan->code;
}

bool textscan_in_rseq(const struct textscan *scan, addr_t lo, addr_t hi)
{
	for (size_t i = 0; i < scan->code->nrseqs; i++)
		if (lo < scan->code->rseqs[i].hi && hi > scan->code->rseqs[i].lo)
			return true;
	return false;
}

const u8 *textscan_bytes(const struct textscan *scan, addr_t addr, size_t *avail)
{
	const struct code_range *r = text_find(scan, addr);

	if (!r)
		return NULL;
	*avail = r->size - (addr - r->addr);
	return r->bytes + (addr - r->addr);
}

bool textscan_insn(const struct textscan *scan, addr_t addr, struct insn *ret)
{
	size_t avail;
	const u8 *p = textscan_bytes(scan, addr, &avail);

	return p && insn_decode(p, avail, addr, ret);
}

/* Index of the first function that starts above ADDR. */
static size_t func_above(const struct code_image *code, addr_t addr)
{
	size_t lo = 0, hi = code->nfuncs;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (code->funcs[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

addr_t textscan_next(const struct textscan *scan, addr_t addr)
{
	const struct code_range *r = text_find(scan, addr);
	size_t i = func_above(scan->code, addr);
	addr_t end = r ? r->addr + r->size : addr;

	if (i < scan->code->nfuncs && scan->code->funcs[i].addr < end)
		return scan->code->funcs[i].addr;
	return end;
}

addr_t textscan_func_end(const struct textscan *scan, const struct code_func *func)
{
	const struct code_range *r = text_find(scan, func->addr);
	u64 room = r ? r->size - (func->addr - r->addr) : 0;

	if (!func->size)
		return textscan_next(scan, func->addr);
	return func->addr + (func->size < room ? func->size : room);
}

const struct code_func *textscan_func_at(const struct textscan *scan, addr_t addr)
{
	size_t i = func_above(scan->code, addr);

	return i && scan->code->funcs[i - 1].addr == addr ? &scan->code->funcs[i - 1] : NULL;
}

const struct code_func *textscan_func(const struct textscan *scan, addr_t addr)
{
	size_t i = func_above(scan->code, addr);

	/* An outer function may go on after one that lies inside it: a few
	 * steps back find it. */
	for (size_t steps = 0; i > 0 && steps < 4; steps++) {
		const struct code_func *f = &scan->code->funcs[--i];

		if (addr < textscan_func_end(scan, f))
			return f;
	}
	return NULL;
}

/* ---- jump tables ---- */

#define TABLE_MAX 65536

/* Who may be named by a table: the function that uses it, and cold parts. A
 * table used by a cold part, or by code that belongs to no function, may name
 * anything. */
struct table_scope {
	addr_t lo, hi;
	bool any;
};

static bool in_scope(const struct textscan *scan, const struct table_scope *scope, addr_t t)
{
	const struct code_func *f;

	if (t >= scope->lo && t < scope->hi)
		return true;
	if (!text_find(scan, t))
		return false;
	if (scope->any)
		return true;
	f = textscan_func(scan, t);
	return f && f->flags & CODE_FUNC_FRAGMENT;
}

static const u8 *table_bytes(const struct textscan *scan, addr_t addr, size_t *avail)
{
	const struct code_range *r = range_find(scan->code->rodata, scan->code->nrodata, addr);

	if (!r)
		return textscan_bytes(scan, addr, avail);
	*avail = r->size - (addr - r->addr);
	return r->bytes + (addr - r->addr);
}

static addr_t table_entry(const u8 *p, addr_t table, size_t width)
{
	s32 rel;
	addr_t abs;

	if (width == 8) {
		memcpy(&abs, p, sizeof(abs));
		return abs;
	}
	memcpy(&rel, p, sizeof(rel));
	return table + (s64)rel;
}

/* A case that cannot happen has an entry for wherever the compiler's label for
 * it fell, often behind the function: a few of those do not end a table. */
#define TABLE_STRAYS 8

static bool mark_table(struct textscan *scan, addr_t table, size_t width, const struct table_scope *scope)
{
	size_t avail = 0, strays = 0;
	const u8 *p = table_bytes(scan, table, &avail);
	bool any = false;

	for (size_t n = 0; p && n < TABLE_MAX && (n + 1) * width <= avail; n++) {
		addr_t t = table_entry(p + n * width, table, width);

		if (in_scope(scan, scope, t) && (width == 8 || t != table)) {
			mark(scan, t);
			any = true;
			strays = 0;
		} else if (!any || ++strays > TABLE_STRAYS || !text_find(scan, t)) {
			break;
		}
	}
	return any;
}

bool textscan_table_entry(const struct textscan *scan, addr_t table, unsigned width, size_t n, addr_t *ret)
{
	size_t avail = 0;
	const u8 *p = table_bytes(scan, table, &avail);

	if (!p || avail / width <= n)
		return false;
	*ret = table_entry(p + n * width, table, width);
	return true;
}

bool textscan_is_table(const struct textscan *scan, addr_t table, unsigned width, addr_t lo, addr_t hi)
{
	size_t avail = 0;
	const u8 *p = table_bytes(scan, table, &avail);
	addr_t t;

	if (!p || avail < width)
		return false;
	t = table_entry(p, table, width);
	return t >= lo && t < hi && t != table;
}

/* ---- the sweep ---- */

static void mark_insn(struct textscan *scan, const struct insn *in, const struct table_scope *scope)
{
	if (insn_is_relative(in))
		mark(scan, in->target);
	if (in->kind == INSN_CALL || in->kind == INSN_CALL_IND)
		mark(scan, in->addr + in->len);
	if (in->imm_pointer)
		mark(scan, in->imm);
	if (in->lea) {
		mark(scan, in->ref);
		if (!mark_table(scan, in->ref, 4, scope))
			mark_table(scan, in->ref, 8, scope);
	} else if (in->table) {
		mark_table(scan, in->ref, 8, scope);
	}
}

/* A branch that may or may not start at P. */
static void mark_guess(struct textscan *scan, const u8 *p, size_t avail, addr_t addr)
{
	s32 rel;

	if (avail >= 2 && ((p[0] & 0xf0) == 0x70 || p[0] == 0xeb || (p[0] & 0xfc) == 0xe0)) {
		mark(scan, addr + 2 + (s64)(s8)p[1]);
	} else if (avail >= 5 && (p[0] & 0xfe) == 0xe8) {
		memcpy(&rel, p + 1, sizeof(rel));
		mark(scan, addr + 5 + (s64)rel);
	} else if (avail >= 6 && p[0] == 0x0f && (p[1] & 0xf0) == 0x80) {
		memcpy(&rel, p + 2, sizeof(rel));
		mark(scan, addr + 6 + (s64)rel);
	}
}

static void guess_all(struct textscan *scan, addr_t lo, addr_t hi)
{
	size_t avail;
	const u8 *p = textscan_bytes(scan, lo, &avail);

	for (size_t i = 0; p && i < avail && lo + i < hi; i++)
		mark_guess(scan, p + i, avail - i, lo + i);
}

/* What is found by guessing is nothing to go on from, so it comes last; without
 * memory, at once. */
static void guess_later(struct textscan *scan, addr_t lo, addr_t hi)
{
	struct guess g = { lo, hi };

	if (!vec_push(&scan->guesses, g))
		guess_all(scan, lo, hi);
}

/* Notes that an instruction begins at OFF of text range R; false when it is known. */
static bool note_start(struct textscan *scan, const struct code_range *r, size_t off)
{
	u8 *byte = &scan->starts[r - scan->code->text][off / 8], bit = (u8)(1u << (off % 8));
	bool known = *byte & bit;

	*byte |= bit;
	return !known;
}

/* [lo, hi) from instruction to instruction; the last one may reach beyond hi.
 * False when there were bytes that are no instructions. */
static bool sweep(struct textscan *scan, const struct code_range *r, addr_t lo, addr_t hi,
		  const struct table_scope *scope)
{
	bool clean = true;
	struct insn in;

	while (lo < hi) {
		size_t off = lo - r->addr;

		note_start(scan, r, off);
		if (!insn_decode(r->bytes + off, r->size - off, lo, &in)) {
			clean = false;
			lo++;
			continue;
		}
		mark_insn(scan, &in, scope);
		lo += in.len;
	}
	return clean;
}

/* From an arrival that is no known instruction up to one that is. */
static void sweep_arrival(struct textscan *scan, const struct code_range *r, size_t off)
{
	const struct code_func *f = textscan_func(scan, r->addr + off);
	struct table_scope scope = { .any = !f || f->flags & CODE_FUNC_FRAGMENT };
	struct insn in;

	if (f) {
		scope.lo = f->addr;
		scope.hi = textscan_func_end(scan, f);
	}
	for (; off < r->size && note_start(scan, r, off); off += in.len) {
		if (!insn_decode(r->bytes + off, r->size - off, r->addr + off, &in))
			return;
		mark_insn(scan, &in, &scope);
		if (insn_ends_block(&in))
			return;
	}
}

/* All of them; what they lead to may be before or behind. */
static void sweep_arrivals(struct textscan *scan)
{
	bool again = true;

	while (again) {
		again = false;
		for (size_t i = 0; i < scan->code->ntext; i++) {
			const struct code_range *r = &scan->code->text[i];

			for (size_t k = 0; k < range_bits(r); k++)
				for (u8 left; (left = scan->bits[i][k] & ~scan->starts[i][k]);) {
					size_t off = k * 8 + (size_t)__builtin_ctz(left);

					if (off >= r->size)
						break;
					sweep_arrival(scan, r, off);
					again = true;
				}
		}
	}
}

static bool only_padding(const struct code_range *r, addr_t lo, addr_t hi)
{
	struct insn in;

	while (lo < hi) {
		size_t off = lo - r->addr;

		if (r->bytes[off] == 0) {
			lo++;
			continue;
		}
		if (!insn_decode(r->bytes + off, r->size - off, lo, &in) || !insn_is_padding(&in))
			return false;
		lo += in.len;
	}
	return true;
}

/* Is [lo, hi) a procedure linkage table, which has neither symbols nor, often,
 * an FDE: nothing but pushes of numbers, jumps, and padding? */
static bool only_linkage(const struct code_range *r, addr_t lo, addr_t hi)
{
	static const u8 endbr64[] = { 0xf3, 0x0f, 0x1e, 0xfa };
	struct insn in;

	while (lo < hi) {
		size_t off = lo - r->addr;
		const u8 *p = r->bytes + off;
		bool push;

		if (!insn_decode(p, r->size - off, lo, &in) || lo + in.len > hi)
			return false;
		push = p[0] == 0x68 || (p[0] == 0xff && p[1] == 0x35);
		if (!push && in.kind != INSN_JMP && in.kind != INSN_JMP_IND && !insn_is_padding(&in) &&
		    (in.len != sizeof(endbr64) || memcmp(p, endbr64, sizeof(endbr64)) != 0))
			return false;
		lo += in.len;
	}
	return true;
}

static void sweep_gap(struct textscan *scan, const struct code_range *r, addr_t lo, addr_t hi)
{
	const struct table_scope any = { .any = true };

	if (lo >= hi || only_padding(r, lo, hi))
		return;
	sweep(scan, r, lo, hi, &any);
	if (!only_linkage(r, lo, hi))
		guess_later(scan, lo, hi);
}

/* Sweeps FUNC within R, starting anew at every symbol inside it, and returns
 * where it ends. */
static addr_t sweep_func(struct textscan *scan, const struct code_range *r, const struct code_func *f)
{
	addr_t end = textscan_func_end(scan, f), lo = f->addr;
	struct table_scope scope = { .lo = lo, .hi = end, .any = f->flags & CODE_FUNC_FRAGMENT };
	size_t i = func_above(scan->code, lo);
	bool clean = true;

	for (; lo < end; i++) {
		addr_t next = i < scan->code->nfuncs ? scan->code->funcs[i].addr : end;

		if (next > end)
			next = end;
		clean &= sweep(scan, r, lo, next, &scope);
		lo = next;
	}
	if (!clean)
		guess_later(scan, f->addr, end);
	return end;
}

static void sweep_range(struct textscan *scan, const struct code_range *r)
{
	const struct code_image *code = scan->code;
	addr_t done = r->addr, end = r->addr + r->size;
	size_t i = r->addr ? func_above(code, r->addr - 1) : 0;

	for (; i < code->nfuncs && code->funcs[i].addr < end; i++) {
		const struct code_func *f = &code->funcs[i];
		addr_t fend = textscan_func_end(scan, f);

		if (f->addr > done)
			sweep_gap(scan, r, done, f->addr);
		/* A function inside one that was swept already needs it only
		 * when it goes on longer. */
		if (f->addr < done && fend <= done)
			continue;
		fend = sweep_func(scan, r, f);
		if (fend > done)
			done = fend;
	}
	sweep_gap(scan, r, done, end);
}

static void scan_all(struct textscan *scan)
{
	const struct code_image *code = scan->code;

	for (size_t i = 0; i < code->nfuncs; i++)
		mark(scan, code->funcs[i].addr);
	for (size_t i = 0; i < code->nmarks; i++)
		mark(scan, code->marks[i].addr);
	for (size_t i = 0; i < code->ntext; i++)
		sweep_range(scan, &code->text[i]);
	sweep_arrivals(scan);
	vec_foreach(g, &scan->guesses)
		guess_all(scan, g->lo, g->hi);
	vec_free(&scan->guesses);
}

/* Its own map of where instructions begin, for as long as that takes. */
static bool scan_with_starts(struct textscan *scan)
{
	const struct code_image *code = scan->code;
	cleanup_free u8 *map = calloc(1, scan->bitmap_size);
	cleanup_free u8 **starts = calloc(code->ntext, sizeof(*starts));

	if (!map || !starts)
		return false;
	for (size_t i = 0; i < code->ntext; i++)
		starts[i] = map + (scan->bits[i] - scan->bitmap);
	scan->starts = starts;
	scan_all(scan);
	scan->starts = NULL;
	return true;
}

/* ---- the cache ---- */

#define SCAN_MAGIC "uprbscan"
#define SCAN_VERSION 3u

struct scan_file {
	char magic[8];
	u32 version;
	u32 pad;
	u64 bitmap_size;
	u8 input[DIGEST_SIZE];  /* of all that the scan depends on */
	u8 result[DIGEST_SIZE]; /* of the bitmap */
};
_Static_assert(sizeof(struct scan_file) == 88, "format of cached scans");

static void digest_ranges(struct digest *d, const struct code_range *ranges, size_t n)
{
	digest_add(d, &n, sizeof(n));
	for (size_t i = 0; i < n; i++) {
		digest_add(d, &ranges[i].addr, sizeof(ranges[i].addr));
		digest_add(d, &ranges[i].size, sizeof(ranges[i].size));
		digest_add(d, ranges[i].bytes, ranges[i].size);
	}
}

static void digest_input(const struct code_image *code, u8 ret[DIGEST_SIZE])
{
	struct digest d;

	digest_init(&d);
	digest_ranges(&d, code->text, code->ntext);
	digest_ranges(&d, code->rodata, code->nrodata);
	digest_add(&d, &code->nfuncs, sizeof(code->nfuncs));
	for (size_t i = 0; i < code->nfuncs; i++) {
		u64 f[3] = { code->funcs[i].addr, code->funcs[i].size, code->funcs[i].flags };

		digest_add(&d, f, sizeof(f));
	}
	for (size_t i = 0; i < code->nmarks; i++)
		digest_add(&d, &code->marks[i].addr, sizeof(code->marks[i].addr));
	digest_final(&d, ret);
}

static void digest_result(const struct textscan *scan, u8 ret[DIGEST_SIZE])
{
	struct digest d;

	digest_init(&d);
	digest_add(&d, scan->bitmap, scan->bitmap_size);
	digest_final(&d, ret);
}

static bool cache_read(struct textscan *scan, const char *path, const u8 input[DIGEST_SIZE])
{
	u64 size = 0;
	cleanup_close int fd = cache_file_open(path, &size);
	u8 result[DIGEST_SIZE];
	struct scan_file head;

	if (fd < 0 || size != sizeof(head) + scan->bitmap_size || !cache_file_read(fd, &head, sizeof(head)))
		return false;
	if (memcmp(head.magic, SCAN_MAGIC, sizeof(head.magic)) != 0 || head.version != SCAN_VERSION ||
	    head.bitmap_size != scan->bitmap_size || memcmp(head.input, input, DIGEST_SIZE) != 0)
		return false;
	if (cache_file_read(fd, scan->bitmap, scan->bitmap_size)) {
		digest_result(scan, result);
		if (memcmp(result, head.result, DIGEST_SIZE) == 0)
			return true;
	}
	memset(scan->bitmap, 0, scan->bitmap_size);
	return false;
}

static void cache_write(const struct textscan *scan, const char *path, const u8 input[DIGEST_SIZE])
{
	struct scan_file head = { .version = SCAN_VERSION, .bitmap_size = scan->bitmap_size };

	memcpy(head.magic, SCAN_MAGIC, sizeof(head.magic));
	memcpy(head.input, input, DIGEST_SIZE);
	digest_result(scan, head.result);
	cache_file_write(path, &head, sizeof(head), scan->bitmap, scan->bitmap_size);
}

/* ---- life ---- */

static struct uerr *check_code(const struct code_image *code, size_t *bitmap_size)
{
	size_t total = 0;

	for (size_t i = 0; i < code->ntext; i++) {
		const struct code_range *r = &code->text[i];

		if (!r->size || r->addr + r->size < r->addr || (i && r->addr < r[-1].addr + r[-1].size))
			return uerr_new(UERR_FAILED, "its executable sections make no sense");
		total += range_bits(r);
	}
	if (!code->ntext)
		return uerr_new(UERR_CANNOT_PROBE, "it has no code");
	*bitmap_size = total;
	return NULL;
}

struct uerr *textscan_create(const struct code_image *code, const char *cache_dir, struct textscan **ret)
{
	cleanup_free char *path = cache_file_path(cache_dir, code->build_id, "scan");
	struct textscan *scan;
	u8 input[DIGEST_SIZE];
	size_t size = 0, off = 0;
	struct uerr *err = check_code(code, &size);

	if (err)
		return err;
	scan = calloc(1, sizeof(*scan));
	if (!scan)
		return uerr_nomem();
	scan->code = code;
	scan->bitmap_size = size;
	scan->bitmap = calloc(1, size);
	scan->bits = calloc(code->ntext, sizeof(*scan->bits));
	if (!scan->bitmap || !scan->bits) {
		textscan_destroy(scan);
		return uerr_nomem();
	}
	for (size_t i = 0; i < code->ntext; i++) {
		scan->bits[i] = scan->bitmap + off;
		off += range_bits(&code->text[i]);
	}
	if (path)
		digest_input(code, input);
	if (!path || !cache_read(scan, path, input)) {
		if (!scan_with_starts(scan)) {
			textscan_destroy(scan);
			return uerr_nomem();
		}
		if (path)
			cache_write(scan, path, input);
	}
	*ret = scan;
	return NULL;
}

void textscan_destroy(struct textscan *scan)
{
	if (!scan)
		return;
	free(scan->bits);
	free(scan->bitmap);
	free(scan);
}
