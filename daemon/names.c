/* SPDX-License-Identifier: MIT */
/* Names for addresses; see names.h. */
#include "daemon/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/perf_map.h"
#include "daemon/protocol.h"
#include "daemon/unwind.h"
#include "daemon/view.h"
#include "elfsym/lines.h"
#include "elfsym/resolve.h"

#define PERF_MAP_MAX (64u << 20)
#define INLINED_MAX 32

/* A file with all that is known of it; made at the first use. */
struct named_file {
	const struct space_file *file; /* NULL: the vDSO */
	struct image *image;           /* NULL: cannot be read */
	struct lines *lines;           /* or NULL */
};

/* What JIT compilers have told of a process. */
struct jit_names {
	const struct space *sp;
	struct perf_map *map; /* NULL: nothing */
};

struct frame_key {
	const struct space *sp;
	addr_t addr;
	bool exact;
	u32 no; /* 1 + its number; 0: this slot is free */
};

struct namer {
	VEC(struct named_file) files;
	VEC(struct jit_names) jits;
	struct frame_key *slots;
	u32 nslots, nframes;
	cJSON *frames;
	bool plain;
};

struct namer *namer_create(bool plain)
{
	struct namer *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->plain = plain;
	n->nslots = 1024;
	n->slots = calloc(n->nslots, sizeof(*n->slots));
	n->frames = cJSON_CreateArray();
	if (n->slots && n->frames)
		return n;
	namer_destroy(n);
	return NULL;
}

void namer_destroy(struct namer *n)
{
	if (!n)
		return;
	vec_foreach(f, &n->files) {
		lines_close(f->lines);
		image_unref(f->image);
	}
	vec_foreach(p, &n->jits)
		perf_map_destroy(p->map);
	vec_free(&n->files);
	vec_free(&n->jits);
	free(n->slots);
	cJSON_Delete(n->frames);
	free(n);
}

/* ---- files ---- */

static struct uerr *open_file(const struct namer *n, const struct space_file *file, struct named_file *ret)
{
	struct uerr *err = NULL;

	if (!file)
		err = unwind_vdso(&ret->image);
	else if (file->fd >= 0)
		err = image_open_fd(file->fd, file->path, &ret->image);
	if (!err && ret->image && !n->plain)
		err = lines_open(ret->image, &ret->lines);
	return err;
}

/* What cannot be opened has no names; that is no failure. */
static const struct named_file *file_of(struct namer *n, const struct space_file *file)
{
	struct named_file fresh = { .file = file };
	cleanup_uerr struct uerr *err = NULL;

	vec_foreach(f, &n->files)
		if (f->file == file)
			return f;
	err = open_file(n, file, &fresh);
	if (!vec_push(&n->files, fresh)) {
		lines_close(fresh.lines);
		image_unref(fresh.image);
		return NULL;
	}
	return &n->files.data[n->files.n - 1];
}

/* ---- JIT compilers ---- */

/* The text of SP's map, malloc'd, or NULL. */
static char *read_perf_map(const struct space *sp)
{
	struct stat st;
	int fd = sp->perf_fd;
	size_t done = 0;
	char *text;

	/* by the process itself, or by root for it */
	if (fd < 0 || fstat(fd, &st) || (st.st_uid != sp->uid && st.st_uid != 0) || (u64)st.st_size > PERF_MAP_MAX)
		return NULL;
	text = malloc((size_t)st.st_size + 1);
	while (text && done < (size_t)st.st_size) {
		ssize_t k = pread(fd, text + done, (size_t)st.st_size - done, (off_t)done);

		if (k <= 0)
			break;
		done += (size_t)k;
	}
	if (text)
		text[done] = 0;
	return text;
}

static const struct jitted *find_jitted(struct namer *n, const struct space *sp, addr_t addr)
{
	struct jit_names fresh = { .sp = sp };
	char *text;

	vec_foreach(p, &n->jits)
		if (p->sp == sp)
			return p->map ? perf_map_find(p->map, addr) : NULL;
	text = read_perf_map(sp);
	fresh.map = text ? perf_map_create(text) : NULL;
	if (!vec_push(&n->jits, fresh)) {
		perf_map_destroy(fresh.map);
		return NULL;
	}
	return fresh.map ? perf_map_find(fresh.map, addr) : NULL;
}

/* ---- one frame ---- */

static void add_line(cJSON *lines, const char *symbol, u64 offset, const char *file, int line, bool inlined)
{
	cJSON *o = cJSON_CreateObject();

	view_text(o, "symbol", symbol ? symbol : "");
	cJSON_AddNumberToObject(o, "offset", (double)offset);
	view_text(o, "file", file ? file : "");
	cJSON_AddNumberToObject(o, "line", line);
	cJSON_AddBoolToObject(o, "inlined", inlined);
	cJSON_AddItemToArray(lines, o);
}

/* PLACE is the address that is looked for, one before ADDR unless that is exact. */
static void name_in_file(const struct named_file *f, addr_t place, addr_t addr, cJSON *lines)
{
	const struct elf_sym *sym = image_find_addr(f->image, place);
	struct line_frame found[INLINED_MAX];
	cleanup_free char *path = NULL;
	size_t n;

	if (!sym) { /* what signal handlers return to begins there, and nothing has called it */
		place = addr;
		sym = image_find_addr(f->image, addr);
	}
	path = sym ? symbol_path(sym->name) : NULL;
	n = f->lines ? lines_find(f->lines, place, found, INLINED_MAX) : 0;

	for (size_t i = 0; i < n; i++) {
		const struct line_frame *lf = &found[i];
		bool outer = i + 1 == n && !lf->inlined && sym;

		add_line(lines, outer ? path : lf->function, outer ? addr - sym->addr : 0, lf->file, lf->line,
			 lf->inlined);
		free(lf->function);
	}
	if (!n && sym)
		add_line(lines, path, addr - sym->addr, NULL, 0, false);
}

static cJSON *make_frame(struct namer *n, const struct space *sp, addr_t addr, bool exact)
{
	const struct space_map *map = space_find(sp, exact ? addr : addr - 1);
	bool vdso = !map && addr >= sp->vdso_lo && addr < sp->vdso_hi;
	const struct named_file *f = map || vdso ? file_of(n, map ? map->file : NULL) : NULL;
	const struct jitted *jit = f ? NULL : find_jitted(n, sp, exact ? addr : addr - 1);
	cleanup_free char *module = map ? module_short_name(map->file->path) : NULL;
	cJSON *o = cJSON_CreateObject(), *lines;
	addr_t link = 0;
	bool known = vdso;

	cJSON_AddNumberToObject(o, "pid", sp->pid);
	cJSON_AddItemToObject(o, "address", protocol_addr(addr));
	view_text(o, "module", vdso ? "[vdso]" : map && !strcmp(map->file->path, sp->exe) ? "" : module ? module : "");
	view_text(o, "path", map ? map->file->path : vdso ? "[vdso]" : "");
	lines = cJSON_AddArrayToObject(o, "lines");
	if (vdso)
		link = addr - sp->vdso_lo;
	else if (f && f->image)
		known = image_off_to_addr(f->image, map->file_off + (addr - (exact ? 0 : 1) - map->lo), &link);
	if (known && map)
		link += !exact; /* the address itself again */
	if (f && f->image && known)
		name_in_file(f, link - !exact, link, lines);
	if (jit)
		add_line(lines, jit->name, addr - jit->lo, NULL, 0, false);
	if (known)
		cJSON_AddItemToObject(o, "offset", protocol_addr(link));
	return o;
}

/* ---- all of them ---- */

static u64 key_hash(const struct space *sp, addr_t addr, bool exact)
{
	u64 h = ((u64)(uintptr_t)sp ^ addr << 1 ^ exact) * 0x9e3779b97f4a7c15ull;

	return h ^ h >> 32;
}

static struct frame_key *slot_of(struct frame_key *slots, u32 n, const struct space *sp, addr_t addr, bool exact)
{
	for (u64 i = key_hash(sp, addr, exact);; i++) {
		struct frame_key *k = &slots[i & (n - 1)];

		if (!k->no || (k->sp == sp && k->addr == addr && k->exact == exact))
			return k;
	}
}

static bool grow(struct namer *n)
{
	struct frame_key *bigger;

	if (n->nframes < n->nslots / 2)
		return true;
	bigger = calloc(2 * n->nslots, sizeof(*bigger));
	if (!bigger)
		return false;
	for (u32 i = 0; i < n->nslots; i++)
		if (n->slots[i].no)
			*slot_of(bigger, 2 * n->nslots, n->slots[i].sp, n->slots[i].addr, n->slots[i].exact) =
				n->slots[i];
	free(n->slots);
	n->slots = bigger;
	n->nslots *= 2;
	return true;
}

u32 namer_frame(struct namer *n, struct space *sp, addr_t addr, bool exact)
{
	struct frame_key *k;

	if (!grow(n))
		return UINT32_MAX;
	k = slot_of(n->slots, n->nslots, sp, addr, exact);
	if (!k->no) {
		*k = (struct frame_key){ sp, addr, exact, ++n->nframes };
		cJSON_AddItemToArray(n->frames, make_frame(n, sp, addr, exact));
	}
	return k->no - 1;
}

cJSON *namer_frames(struct namer *n)
{
	cJSON *frames = n->frames;

	n->frames = NULL;
	return frames;
}
