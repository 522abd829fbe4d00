/* SPDX-License-Identifier: MIT */
/*
 * The function-like symbols of an image: read at first use from .symtab (of the
 * file, or of its separate debug file) and .dynsym, merged, with the versions of
 * .gnu.version; then found by name (a hash table), by address (sorted), or by
 * likeness.
 *
 * Strings stay in the string tables as read; "name@@VERSION" in a .symtab is cut
 * there in place.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/vec.h"
#include "elfsym/image_int.h"

struct symtab {
	bool loaded;
	struct image *debug;  /* separate debug file, or NULL */
	char *strings[2];     /* of .symtab, of .dynsym */
	char *verdef;         /* the table, for its auxiliary offsets */
	void *go_table;       /* Go's own, where there is no .symtab */
	VEC(struct elf_sym) syms; /* by (addr, name, version) */
	VEC(addr_t) values;   /* see symtab_text_values() */
	addr_t *max_end;      /* max_end[i]: the furthest end of syms[0…i] */
	u32 *heads, *next;    /* hash of names; index + 1 */
	size_t nheads;        /* a power of two */
};

/* One symbol table while it is read. */
struct source {
	const Elf64_Sym *syms;
	size_t n;
	char *str;
	u64 str_size;
	const u16 *versym; /* n entries, or NULL */
	const char **verdefs; /* names by version index */
	size_t nverdefs;
	bool dynamic;
};

struct symtab *symtab_create(void)
{
	return calloc(1, sizeof(struct symtab));
}

void symtab_destroy(struct symtab *st)
{
	if (!st)
		return;
	image_unref(st->debug);
	free(st->strings[0]);
	free(st->strings[1]);
	free(st->verdef);
	free(st->go_table);
	vec_free(&st->syms);
	vec_free(&st->values);
	free(st->max_end);
	free(st->heads);
	free(st->next);
	free(st);
}

/* ---- how many symbols a file without section headers has ---- */

static bool read_u32s(const struct image *im, addr_t addr, u32 *buf, size_t n)
{
	struct span span;
	cleanup_free void *bytes = NULL;
	cleanup_uerr struct uerr *err = NULL;

	if (!image_addr_span(im, addr, n * sizeof(*buf), &span))
		return false;
	err = image_load(im, span, &bytes);
	if (err)
		return false;
	memcpy(buf, bytes, n * sizeof(*buf));
	return true;
}

/* DT_GNU_HASH does not say: the last symbol ends the chain of the highest
 * bucket. */
static u64 count_gnu_hash(const struct image *im, addr_t hash)
{
	u32 head[4], chain; /* buckets, first symbol, bloom words, shift */
	cleanup_free u32 *buckets = NULL;
	addr_t pos;
	u64 last = 0;

	if (!read_u32s(im, hash, head, 4) || head[0] > im->file_size / 4)
		return 0;
	buckets = calloc(head[0] + 1, sizeof(u32));
	pos = hash + 16 + head[2] * 8ull;
	if (!buckets || !read_u32s(im, pos, buckets, head[0]))
		return 0;
	for (u32 i = 0; i < head[0]; i++)
		if (buckets[i] > last)
			last = buckets[i];
	if (last < head[1])
		return head[1];
	pos += head[0] * 4ull - head[1] * 4ull;
	for (; last < im->file_size / sizeof(Elf64_Sym); last++)
		if (!read_u32s(im, pos + last * 4, &chain, 1) || chain & 1)
			break;
	return last + 1;
}

u64 symtab_count_dynamic(const struct image *im)
{
	addr_t hash;
	u32 head[2];

	if (image_dyn(im, DT_HASH, &hash) && read_u32s(im, hash, head, 2))
		return head[1];
	return image_dyn(im, DT_GNU_HASH, &hash) ? count_gnu_hash(im, hash) : 0;
}

/* ---- versions ---- */

/* Fills names[index] from .gnu.version_d; names point into STR. */
static void read_verdefs(const char *table, u64 size, struct source *src)
{
	u64 pos = 0;

	for (size_t steps = 0; steps < src->nverdefs; steps++) {
		Elf64_Verdef vd;
		Elf64_Verdaux aux;
		u64 at;

		if (pos > size || size - pos < sizeof(vd))
			return;
		memcpy(&vd, table + pos, sizeof(vd));
		at = pos + vd.vd_aux;
		if (at <= size && size - at >= sizeof(aux)) {
			memcpy(&aux, table + at, sizeof(aux));
			/* The base definition names the file, no version. */
			if (!(vd.vd_flags & VER_FLG_BASE) && (vd.vd_ndx & 0x7fff) < src->nverdefs &&
			    aux.vda_name < src->str_size)
				src->verdefs[vd.vd_ndx & 0x7fff] = src->str + aux.vda_name;
		}
		if (!vd.vd_next)
			return;
		pos += vd.vd_next;
	}
}

static void set_version(const struct source *src, size_t i, struct elf_sym *sym)
{
	u16 v;

	sym->default_version = true;
	if (!src->versym)
		return;
	v = src->versym[i];
	if ((v & 0x7fff) >= src->nverdefs || !src->verdefs[v & 0x7fff])
		return;
	sym->version = src->verdefs[v & 0x7fff];
	sym->default_version = !(v & 0x8000);
}

/* "memcpy@@GLIBC_2.14", "memcpy@GLIBC_2.2.5" in a .symtab. NAME is in a buffer
 * of ours. */
static void cut_version(char *name, struct elf_sym *sym)
{
	char *at = strchr(name, '@');

	if (!at || at == name)
		return;
	sym->default_version = at[1] == '@';
	*at++ = '\0';
	if (*at == '@')
		at++;
	sym->version = *at ? at : NULL;
}

/* ---- reading ---- */

static bool sym_type(const Elf64_Sym *s, enum elf_sym_type *ret)
{
	switch (ELF64_ST_TYPE(s->st_info)) {
	case STT_FUNC:
		*ret = ELF_SYM_FUNC;
		return true;
	case STT_GNU_IFUNC:
		*ret = ELF_SYM_IFUNC;
		return true;
	case STT_NOTYPE:
		*ret = ELF_SYM_NOTYPE;
		return true;
	default:
		return false;
	}
}

static struct uerr *add_symbol(const struct image *im, struct symtab *st, struct source *src, size_t i)
{
	const Elf64_Sym *s = &src->syms[i];
	unsigned type = ELF64_ST_TYPE(s->st_info);
	struct elf_sym sym = { .addr = s->st_value, .size = s->st_size, .dynamic = src->dynamic };

	if (s->st_shndx == SHN_UNDEF || s->st_shndx == SHN_ABS || type == STT_TLS || type == STT_FILE ||
	    !image_in_text(im, s->st_value))
		return NULL;
	if (!vec_push(&st->values, s->st_value))
		return uerr_nomem();
	if (!sym_type(s, &sym.type) || !s->st_name || s->st_name >= src->str_size || !src->str[s->st_name])
		return NULL;
	sym.name = src->str + s->st_name;
	sym.global = ELF64_ST_BIND(s->st_info) != STB_LOCAL;
	set_version(src, i, &sym);
	if (!src->dynamic)
		cut_version(src->str + s->st_name, &sym);
	return vec_push(&st->syms, sym) ? NULL : uerr_nomem();
}

/* Reads the tables SYMS and STRS of FILE (the image or its debug file). */
static struct uerr *read_source(const struct image *im, const struct image *file, enum table syms,
				enum table strs, struct symtab *st)
{
	struct source src = {
		.n = file->tables[syms].size / sizeof(Elf64_Sym),
		.str_size = file->tables[strs].size,
		.dynamic = syms == TABLE_DYNSYM,
	};
	cleanup_free void *entries = NULL;
	cleanup_free void *versym = NULL;
	cleanup_free const char **verdefs = NULL;
	void *str = NULL;
	struct uerr *err;

	err = image_load(file, file->tables[syms], &entries);
	if (!err)
		err = image_load(file, file->tables[strs], &str);
	if (err)
		return err;
	st->strings[src.dynamic] = str;
	src.syms = entries;
	src.str = str;
	if (src.dynamic && file->tables[TABLE_VERSYM].size / sizeof(u16) >= src.n) {
		void *table = NULL;

		err = image_load(file, file->tables[TABLE_VERSYM], &versym);
		if (!err)
			err = image_load(file, file->tables[TABLE_VERDEF], &table);
		if (err)
			return err;
		st->verdef = table;
		src.nverdefs = 0x8000;
		verdefs = calloc(src.nverdefs, sizeof(*verdefs));
		if (!verdefs)
			return uerr_nomem();
		src.verdefs = verdefs;
		src.versym = versym;
		read_verdefs(table, file->tables[TABLE_VERDEF].size, &src);
	}
	for (size_t i = 0; i < src.n && !err; i++)
		err = add_symbol(im, st, &src, i);
	return err;
}

/* One of Go's own table. Its functions have no names for the dynamic linker. */
static struct uerr *add_go_function(void *arg, const struct pclntab_func *f)
{
	struct symtab *st = arg;
	struct elf_sym sym = { .name = f->name, .addr = f->addr, .size = f->end - f->addr, .type = ELF_SYM_FUNC,
			       .default_version = true };

	return vec_push(&st->values, f->addr) && vec_push(&st->syms, sym) ? NULL : uerr_nomem();
}

/* ---- order ---- */

static int cmp_version(const char *a, const char *b)
{
	if (a && b)
		return strcmp(a, b);
	return !a - !b; /* none comes last */
}

static int cmp_sym(const void *a, const void *b)
{
	const struct elf_sym *x = a, *y = b;
	int c;

	if (x->addr != y->addr)
		return x->addr < y->addr ? -1 : 1;
	c = strcmp(x->name, y->name);
	if (!c)
		c = cmp_version(x->version, y->version);
	if (!c)
		c = x->type - y->type;
	if (!c)
		c = x->dynamic - y->dynamic;
	return c;
}

/* The same symbol seen twice (in .symtab and .dynsym, or a version that one of
 * the tables does not tell) becomes one. */
static void merge_twins(struct symtab *st)
{
	size_t n = 0;

	for (size_t i = 0; i < st->syms.n; i++) {
		const struct elf_sym *s = &st->syms.data[i];
		struct elf_sym *last = n ? &st->syms.data[n - 1] : NULL;

		if (last && last->addr == s->addr && !strcmp(last->name, s->name) &&
		    (!s->version || (last->version && !strcmp(last->version, s->version)))) {
			last->global |= s->global;
			last->dynamic |= s->dynamic;
			if (!last->size)
				last->size = s->size;
			if (last->type == ELF_SYM_NOTYPE)
				last->type = s->type;
			continue;
		}
		st->syms.data[n++] = *s;
	}
	st->syms.n = n;
}

static u32 hash_name(const char *s)
{
	u32 h = 2166136261u;

	while (*s)
		h = (h ^ (u8)*s++) * 16777619u;
	return h ^ h >> 15;
}

static struct uerr *build_index(struct symtab *st)
{
	size_t n = st->syms.n;

	st->nheads = 64;
	while (st->nheads < n)
		st->nheads *= 2;
	st->heads = calloc(st->nheads, sizeof(u32));
	st->next = calloc(n + 1, sizeof(u32));
	st->max_end = calloc(n + 1, sizeof(addr_t));
	if (!st->heads || !st->next || !st->max_end)
		return uerr_nomem();
	/* Backwards, so that a chain is in address order. */
	for (size_t i = n; i-- > 0;) {
		u32 *head = &st->heads[hash_name(st->syms.data[i].name) & (st->nheads - 1)];

		st->next[i] = *head;
		*head = i + 1;
	}
	for (size_t i = 0; i < n; i++) {
		const struct elf_sym *s = &st->syms.data[i];
		addr_t end;

		if (__builtin_add_overflow(s->addr, s->size ? s->size : 1, &end))
			end = ~0ull;
		st->max_end[i] = i && st->max_end[i - 1] > end ? st->max_end[i - 1] : end;
	}
	return NULL;
}

static int cmp_addr(const void *a, const void *b)
{
	const addr_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static struct uerr *read_all(const struct image *im, struct symtab *st)
{
	const struct image *file = im;
	struct uerr *err = NULL;

	if (!im->tables[TABLE_SYMTAB].size)
		st->debug = debuginfo_find(im);
	if (st->debug)
		file = st->debug;
	if (file->tables[TABLE_SYMTAB].size)
		err = read_source(im, file, TABLE_SYMTAB, TABLE_STRTAB, st);
	else
		err = go_functions(im, &st->go_table, add_go_function, st);
	if (!err && im->tables[TABLE_DYNSYM].size)
		err = read_source(im, im, TABLE_DYNSYM, TABLE_DYNSTR, st);
	if (err)
		return err;
	if (st->syms.n)
		qsort(st->syms.data, st->syms.n, sizeof(*st->syms.data), cmp_sym);
	merge_twins(st);
	if (st->values.n)
		qsort(st->values.data, st->values.n, sizeof(addr_t), cmp_addr);
	return build_index(st);
}

/* Where the tables lie was checked when the image was opened. What can still
 * fail is memory, or the file itself: then there are no names. */
static const struct symtab *get(const struct image *im)
{
	struct symtab *st = im->syms;
	cleanup_uerr struct uerr *err = NULL;

	if (st->loaded)
		return st;
	st->loaded = true;
	err = read_all(im, st);
	if (err) {
		vec_free(&st->syms);
		vec_free(&st->values);
	}
	return st;
}

bool image_has_symtab(const struct image *im)
{
	return im->tables[TABLE_SYMTAB].size || get(im)->debug;
}

const char *image_debug_path(const struct image *im)
{
	const struct symtab *st = get(im);

	return st->debug ? st->debug->name : NULL;
}

size_t image_syms(const struct image *im, const struct elf_sym **ret)
{
	const struct symtab *st = get(im);

	*ret = st->syms.data;
	return st->syms.n;
}

size_t symtab_text_values(const struct image *im, const addr_t **ret)
{
	const struct symtab *st = get(im);

	*ret = st->values.data;
	return st->values.n;
}

/* ---- by address ---- */

static size_t underscores(const char *name)
{
	return strspn(name, "_");
}

bool elf_sym_better(const struct elf_sym *a, const struct elf_sym *b)
{
	size_t x, y;

	if (a->global != b->global)
		return a->global;
	if ((a->type == ELF_SYM_NOTYPE) != (b->type == ELF_SYM_NOTYPE))
		return b->type == ELF_SYM_NOTYPE;
	x = underscores(a->name);
	y = underscores(b->name);
	if (!x != !y)
		return !x;
	if (a->default_version != b->default_version)
		return a->default_version;
	x = strlen(a->name);
	y = strlen(b->name);
	return x != y ? x < y : strcmp(a->name, b->name) < 0;
}

/* "foo.cold", "foo.cold.3", "foo.part.0", "foo.part.0.constprop.1" */
bool elf_sym_is_fragment(const char *name)
{
	static const char *const marks[] = { ".cold", ".part" };

	for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
		const char *p = name;

		while ((p = strstr(p, marks[i]))) {
			p += strlen(marks[i]);
			if (!*p || *p == '.')
				return true;
		}
	}
	return false;
}

static size_t first_above(const struct symtab *st, addr_t addr)
{
	size_t lo = 0, hi = st->syms.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (st->syms.data[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool contains(const struct elf_sym *s, addr_t addr)
{
	return addr == s->addr || (addr > s->addr && addr - s->addr < s->size);
}

/* Walks back from the last symbol that begins at or below ADDR; the innermost
 * start wins, and among its names the best one. */
const struct elf_sym *image_find_addr(const struct image *im, addr_t addr)
{
	const struct symtab *st = get(im);
	const struct elf_sym *best = NULL;

	for (size_t i = first_above(st, addr); i-- > 0 && st->max_end[i] > addr;) {
		const struct elf_sym *s = &st->syms.data[i];

		if (best && s->addr != best->addr)
			break;
		if (contains(s, addr) && (!best || elf_sym_better(s, best)))
			best = s;
	}
	return best;
}

/* ---- by name ---- */

/* Collects symbols, one an address; a better name replaces the one that is
 * there. */
struct hits {
	const struct elf_sym **ret;
	size_t n, max;
	addr_t last; /* addresses come in order */
	bool any;
};

static void hit(struct hits *h, const struct elf_sym *s)
{
	if (h->any && h->last == s->addr) {
		if (h->n <= h->max && elf_sym_better(s, h->ret[h->n - 1]))
			h->ret[h->n - 1] = s;
		return;
	}
	if (h->n < h->max)
		h->ret[h->n] = s;
	h->n++;
	h->any = true;
	h->last = s->addr;
}

/* WANT_VERSION: NULL any; DEFAULT_ONLY: "name@@V". */
static void find_exact(const struct symtab *st, const char *name, const char *want_version, bool default_only,
		       struct hits *h)
{
	u32 i;

	if (!st->nheads)
		return;
	for (i = st->heads[hash_name(name) & (st->nheads - 1)]; i; i = st->next[i - 1]) {
		const struct elf_sym *s = &st->syms.data[i - 1];

		if (strcmp(s->name, name) || (default_only && !s->default_version))
			continue;
		if (want_version && (!s->version || strcmp(s->version, want_version)))
			continue;
		hit(h, s);
	}
}

const struct elf_sym *symtab_find_exact(const struct image *im, const char *name, const char *version)
{
	const struct elf_sym *sym = NULL;
	struct hits h = { .ret = &sym, .max = 1 };

	find_exact(get(im), name, version, !version, &h);
	return sym;
}

static void find_version(const struct symtab *st, const char *name, struct hits *h)
{
	const char *at = strchr(name, '@');
	bool is_default = at[1] == '@';
	cleanup_free char *base = strndup(name, at - name);

	if (base)
		find_exact(st, base, at + 1 + is_default, is_default, h);
}

static void find_demangled(const struct symtab *st, const char *name, struct hits *h)
{
	if (!strncmp(name, "::", 2))
		name += 2;
	for (size_t i = 0; i < st->syms.n; i++) {
		const struct elf_sym *s = &st->syms.data[i];
		cleanup_free char *path = NULL;

		if (s->name[0] != '_' || s->name[1] != 'Z')
			continue;
		path = demangle_path(s->name);
		if (path && !strcmp(path, name))
			hit(h, s);
	}
}

size_t image_find(const struct image *im, const char *name, const struct elf_sym **ret, size_t max)
{
	const struct symtab *st = get(im);
	struct hits h = { .ret = ret, .max = max };

	if (!*name)
		return 0;
	if (strchr(name + 1, '@'))
		find_version(st, name, &h);
	if (!h.n)
		find_exact(st, name, NULL, true, &h);
	if (!h.n)
		find_exact(st, name, NULL, false, &h);
	if (!h.n)
		find_demangled(st, name, &h);
	return h.n;
}

/* ---- by likeness ---- */

#define NEAR_NAME_MAX 64
#define NEAR_MAX 16

struct candidate {
	const char *name;
	unsigned score;
};

static u8 lower(char c)
{
	return tolower((u8)c);
}

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	a = a < b ? a : b;
	return a < c ? a : c;
}

/*
 * Edits (insert, delete, replace, swap of neighbours) between A and B, letters
 * of either case alike; anything above LIMIT is LIMIT + 1. Only the band of
 * LIMIT cells around the diagonal is looked at.
 */
static unsigned edits(const char *a, size_t alen, const char *b, size_t blen, unsigned limit)
{
	unsigned rows[3][NEAR_NAME_MAX + 2];
	unsigned *before = rows[0], *prev = rows[1], *cur = rows[2];

	if ((alen > blen ? alen - blen : blen - alen) > limit)
		return limit + 1;
	for (size_t j = 0; j <= blen; j++)
		prev[j] = j;
	for (size_t i = 1; i <= alen; i++) {
		size_t lo = i > limit ? i - limit : 1, hi = i + limit < blen ? i + limit : blen;
		unsigned least = lo == 1 ? (unsigned)i : limit + 1;
		unsigned *spare = before;

		cur[lo - 1] = least;
		for (size_t j = lo; j <= hi; j++) {
			bool same = lower(a[i - 1]) == lower(b[j - 1]);
			/* The band's upper edge has no neighbour above it. */
			unsigned above = j < i + limit ? prev[j] : limit + 1;
			unsigned d = min3(prev[j - 1] + !same, above + 1, cur[j - 1] + 1);

			if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
			    lower(a[i - 2]) == lower(b[j - 1]) && before[j - 2] + 1 < d)
				d = before[j - 2] + 1;
			cur[j] = d;
			if (d < least)
				least = d;
		}
		if (least > limit)
			return limit + 1;
		before = prev;
		prev = cur;
		cur = spare;
	}
	return prev[blen] > limit ? limit + 1 : prev[blen];
}

/* Lower is nearer; UINT_MAX is not near at all. */
static unsigned nearness(const char *want, size_t want_len, unsigned limit, const char *name)
{
	size_t len = strlen(name);
	unsigned d;

	if (len > NEAR_NAME_MAX)
		return ~0u;
	d = edits(want, want_len, name, len, limit);
	if (d <= limit)
		return 2 * d;
	/* "lookup" for lookupKey, "malloc" for __libc_malloc. */
	if (want_len >= 4 && !strncasecmp(name + underscores(name), want, want_len))
		return 2 * limit + 1;
	return ~0u;
}

/* One edit for short names, up to four for long ones. */
static unsigned edit_limit(size_t len)
{
	return len < 6 ? 1 : len > 11 ? 4 : (len - 3) / 2;
}

unsigned name_distance(const char *want, const char *name)
{
	size_t len = strlen(want);

	return len && len <= NEAR_NAME_MAX ? nearness(want, len, edit_limit(len), name) : ~0u;
}

static int cmp_candidate(const struct candidate *a, const struct candidate *b)
{
	size_t x, y;

	if (a->score != b->score)
		return a->score < b->score ? -1 : 1;
	x = strlen(a->name);
	y = strlen(b->name);
	if (x != y)
		return x < y ? -1 : 1;
	return strcmp(a->name, b->name);
}

/* Keeps best[*n] sorted and free of doubles, at most MAX long. */
static void keep(struct candidate *best, size_t *n, size_t max, struct candidate c)
{
	size_t i = *n;

	while (i && cmp_candidate(&c, &best[i - 1]) < 0)
		i--;
	if (i == max || (i && !strcmp(best[i - 1].name, c.name)))
		return;
	if (*n == max)
		--*n;
	memmove(&best[i + 1], &best[i], (*n - i) * sizeof(*best));
	best[i] = c;
	++*n;
}

size_t image_near(const struct image *im, const char *name, const char **ret, size_t max)
{
	const struct symtab *st = get(im);
	struct candidate best[NEAR_MAX];
	size_t len = strcspn(name, "@"), n = 0;
	unsigned limit = edit_limit(len);

	if (!len || len > NEAR_NAME_MAX)
		return 0;
	if (max > NEAR_MAX)
		max = NEAR_MAX;
	for (size_t i = 0; i < st->syms.n && max; i++) {
		struct candidate c = { .name = st->syms.data[i].name };

		if (i && !strcmp(c.name, st->syms.data[i - 1].name))
			continue;
		c.score = nearness(name, len, limit, c.name);
		if (c.score != ~0u && !elf_sym_is_fragment(c.name))
			keep(best, &n, max, c);
	}
	for (size_t i = 0; i < n; i++)
		ret[i] = best[i].name;
	return n;
}
