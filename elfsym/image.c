/* SPDX-License-Identifier: MIT */
/*
 * Opening ELF files: the checks at the door, segments and areas, addresses and
 * offsets, and the cache. See image_int.h for what is promised to the other
 * files of this folder.
 *
 * A file can be truncated or rewritten while we look. Reads are preads, so the
 * worst that happens is an error that says so; what was read stays as it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "base/vec.h"
#include "elfsym/image_int.h"
#include "elfsym/procmaps.h"

#define NOTES_MAX (1u << 20)
#define CACHE_MAX 256

static VEC(struct image *) cache;

/* HOW: O_RDONLY or O_PATH. */
static int open_regular(const char *path, int how)
{
	struct stat st;
	int fd = open(path, how | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	int err = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		err = -errno;
	else if (S_ISDIR(st.st_mode))
		err = -EISDIR;
	else if (!S_ISREG(st.st_mode))
		err = -EINVAL;
	if (!err)
		return fd;
	close(fd);
	return err;
}

int image_open_regular(const char *path)
{
	return open_regular(path, O_RDONLY);
}

/* ---- reading ---- */

/* Reads exactly LEN bytes; what the file no longer has is an error. */
static struct uerr *read_full(const struct image *im, void *buf, u64 len, u64 off)
{
	u8 *p = buf;

	while (len) {
		ssize_t n = pread(im->fd, p, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return uerr_errno(errno, "%s", im->name);
		if (!n)
			return uerr_new(UERR_FAILED, "%s: has become shorter while it was read", im->name);
		p += n;
		off += n;
		len -= n;
	}
	return NULL;
}

static bool span_ok(const struct image *im, u64 off, u64 size)
{
	return off <= im->file_size && size <= im->file_size - off;
}

struct uerr *image_load(const struct image *im, struct span span, void **ret)
{
	cleanup_free u8 *buf = NULL;
	struct uerr *err;

	if (!span_ok(im, span.off, span.size))
		return uerr_new(UERR_FAILED, "%s: a table lies outside the file", im->name);
	buf = malloc(span.size + 1);
	if (!buf)
		return uerr_nomem();
	err = read_full(im, buf, span.size, span.off);
	if (err)
		return err;
	buf[span.size] = '\0';
	*ret = steal_ptr(buf);
	return NULL;
}

/* ---- the checks at the door ---- */

static const char *machine_name(u16 machine)
{
	switch (machine) {
	case EM_386:
		return "i386";
	case EM_ARM:
		return "arm";
	case EM_AARCH64:
		return "aarch64";
	case EM_RISCV:
		return "riscv";
	case EM_PPC64:
		return "ppc64";
	case EM_S390:
		return "s390";
	case EM_BPF:
		return "bpf";
	default:
		return "another machine";
	}
}

static struct uerr *check_header(struct image *im)
{
	Elf64_Ehdr eh;
	struct uerr *err;

	if (im->file_size < SELFMAG)
		return uerr_new(UERR_FAILED, "%s: not an ELF file", im->name);
	err = read_full(im, &eh, im->file_size < sizeof(eh) ? SELFMAG : sizeof(eh), 0);
	if (err)
		return err;
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG))
		return uerr_new(UERR_FAILED, "%s: not an ELF file", im->name);
	if (im->file_size < sizeof(eh))
		return uerr_new(UERR_FAILED, "%s: truncated: no whole ELF header", im->name);
	if (eh.e_ident[EI_CLASS] != ELFCLASS64)
		return uerr_new(UERR_FAILED, "%s: a 32-bit ELF file; only x86-64 is served", im->name);
	if (eh.e_ident[EI_DATA] != ELFDATA2LSB || eh.e_machine != EM_X86_64)
		return uerr_new(UERR_FAILED, "%s: an ELF file for %s (e_machine %u); only x86-64 is served",
				im->name, machine_name(eh.e_machine), eh.e_machine);
	if (eh.e_type != ET_EXEC && eh.e_type != ET_DYN)
		return uerr_new(UERR_FAILED, "%s: neither a program nor a shared library (e_type %u)", im->name,
				eh.e_type);
	if (eh.e_phnum && (eh.e_phentsize != sizeof(Elf64_Phdr) ||
			   !span_ok(im, eh.e_phoff, (u64)eh.e_phnum * sizeof(Elf64_Phdr))))
		return uerr_new(UERR_FAILED, "%s: truncated or damaged: program headers lie outside the file",
				im->name);
	if (eh.e_shoff && (eh.e_shentsize != sizeof(Elf64_Shdr) || eh.e_shoff % 8 ||
			   !span_ok(im, eh.e_shoff, (eh.e_shnum ? eh.e_shnum : 1) * sizeof(Elf64_Shdr))))
		return uerr_new(UERR_FAILED, "%s: truncated or damaged: section headers lie outside the file",
				im->name);
	im->type = eh.e_type;
	im->entry = eh.e_entry;
	im->has_sections = eh.e_shoff != 0;
	return NULL;
}

static struct uerr *libelf_error(const struct image *im)
{
	return uerr_new(UERR_FAILED, "%s: damaged ELF file: %s", im->name, elf_errmsg(-1));
}

static struct uerr *check_segment(const struct image *im, size_t i, addr_t *end)
{
	const Elf64_Phdr *ph = &im->phdrs[i];
	addr_t stop;

	if (ph->p_type != PT_LOAD || im->is_debug)
		return NULL;
	if (!span_ok(im, ph->p_offset, ph->p_filesz))
		return uerr_new(UERR_FAILED, "%s: truncated: segment %zu ends behind the file's %" PRIu64 " bytes",
				im->name, i, im->file_size);
	if (ph->p_filesz > ph->p_memsz || __builtin_add_overflow(ph->p_vaddr, ph->p_memsz, &stop) ||
	    stop > 1ull << 47 || (ph->p_vaddr - ph->p_offset) % PAGE)
		return uerr_new(UERR_FAILED, "%s: damaged: segment %zu cannot be loaded", im->name, i);
	if (ph->p_vaddr < *end)
		return uerr_new(UERR_FAILED, "%s: damaged: segment %zu overlaps the one before", im->name, i);
	*end = stop;
	return NULL;
}

static struct uerr *read_segments(struct image *im)
{
	struct uerr *err = NULL;
	addr_t end = 0;

	if (elf_getphdrnum(im->elf, &im->nphdrs) < 0)
		return libelf_error(im);
	if (im->nphdrs) {
		const Elf64_Phdr *phdrs = elf64_getphdr(im->elf);

		if (!phdrs)
			return libelf_error(im);
		im->phdrs = calloc(im->nphdrs, sizeof(*phdrs));
		if (!im->phdrs)
			return uerr_nomem();
		memcpy(im->phdrs, phdrs, im->nphdrs * sizeof(*phdrs));
	}
	for (size_t i = 0; i < im->nphdrs && !err; i++)
		err = check_segment(im, i, &end);
	if (!err && !end && !im->is_debug)
		err = uerr_new(UERR_FAILED, "%s: has no loadable segment", im->name);
	return err;
}

/* ---- areas ---- */

typedef VEC(struct area) area_vec;

static int area_cmp(const void *a, const void *b)
{
	const struct area *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static struct uerr *add_section(struct image *im, area_vec *areas, const Elf64_Shdr *sh, const char *name)
{
	struct area area = {
		.addr = sh->sh_addr,
		.span = { sh->sh_offset, sh->sh_size },
		.exec = sh->sh_flags & SHF_EXECINSTR,
		.write = sh->sh_flags & SHF_WRITE,
		.name = name,
		.plt = !strncmp(name, ".plt", 4) && (!name[4] || name[4] == '.'),
	};

	if (!(sh->sh_flags & SHF_ALLOC) || sh->sh_type == SHT_NOBITS || !sh->sh_size)
		return NULL;
	if (!span_ok(im, sh->sh_offset, sh->sh_size) || sh->sh_addr + sh->sh_size < sh->sh_addr)
		return uerr_new(UERR_FAILED, "%s: truncated or damaged: section %s lies outside the file", im->name,
				name);
	return vec_push(areas, area) ? NULL : uerr_nomem();
}

static struct uerr *areas_from_sections(struct image *im, area_vec *areas)
{
	size_t names;
	Elf_Scn *scn = NULL;
	struct uerr *err;

	if (elf_getshdrstrndx(im->elf, &names) < 0)
		return libelf_error(im);
	while ((scn = elf_nextscn(im->elf, scn))) {
		const Elf64_Shdr *sh = elf64_getshdr(scn);
		const char *name = sh ? elf_strptr(im->elf, names, sh->sh_name) : NULL;

		if (!sh)
			return libelf_error(im);
		err = add_section(im, areas, sh, name ? name : "");
		if (err)
			return err;
	}
	return NULL;
}

static struct uerr *areas_from_segments(struct image *im, area_vec *areas)
{
	for (size_t i = 0; i < im->nphdrs; i++) {
		const Elf64_Phdr *ph = &im->phdrs[i];
		struct area area = {
			.addr = ph->p_vaddr,
			.span = { ph->p_offset, ph->p_filesz },
			.exec = ph->p_flags & PF_X,
			.write = ph->p_flags & PF_W,
			.name = "",
		};

		if (ph->p_type == PT_LOAD && ph->p_filesz && !vec_push(areas, area))
			return uerr_nomem();
	}
	return NULL;
}

/* Areas that overlap would let a small file claim to be a huge one. */
static struct uerr *check_areas(const struct image *im)
{
	u64 sum = 0;

	for (size_t i = 0; i < im->nareas; i++) {
		const struct area *a = &im->areas[i];

		if (i && a[-1].addr + a[-1].span.size > a->addr)
			return uerr_new(UERR_FAILED, "%s: damaged: sections %s and %s overlap", im->name, a[-1].name,
					a->name);
		if (sum > im->file_size || a->span.size > im->file_size - sum)
			return uerr_new(UERR_FAILED, "%s: damaged: its sections share bytes of the file", im->name);
		sum += a->span.size;
	}
	return NULL;
}

static struct uerr *find_areas(struct image *im)
{
	area_vec areas = {};
	struct uerr *err = NULL;

	if (im->is_debug)
		return NULL;
	if (im->has_sections)
		err = areas_from_sections(im, &areas);
	if (!err && !areas.n)
		err = areas_from_segments(im, &areas);
	im->areas = areas.data;
	im->nareas = areas.n;
	if (err)
		return err;
	if (im->nareas)
		qsort(im->areas, im->nareas, sizeof(*im->areas), area_cmp);
	return check_areas(im);
}

const struct area *image_area(const struct image *im, addr_t addr)
{
	size_t lo = 0, hi = im->nareas;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (im->areas[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo && addr - im->areas[lo - 1].addr < im->areas[lo - 1].span.size ? &im->areas[lo - 1] : NULL;
}

bool image_in_text(const struct image *im, addr_t addr)
{
	const struct area *a = image_area(im, addr);

	return a && a->exec;
}

/* ---- build-id ---- */

static char *hex(const u8 *bytes, size_t n)
{
	char *s = malloc(2 * n + 1);

	if (!s)
		return NULL;
	for (size_t i = 0; i < n; i++)
		sprintf(s + 2 * i, "%02x", bytes[i]);
	s[2 * n] = '\0';
	return s;
}

/* Walks the notes in BUF for NT_GNU_BUILD_ID. */
static char *build_id_in_notes(const u8 *buf, size_t size)
{
	size_t pos = 0;

	while (size - pos >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr nh;
		u64 name, desc, next;

		memcpy(&nh, buf + pos, sizeof(nh));
		name = pos + sizeof(nh);
		desc = name + ALIGN_UP((u64)nh.n_namesz, 4);
		next = desc + ALIGN_UP((u64)nh.n_descsz, 4);
		if (desc > size || desc + nh.n_descsz > size)
			return NULL;
		if (nh.n_type == NT_GNU_BUILD_ID && nh.n_namesz == 4 && !memcmp(buf + name, "GNU", 4) &&
		    nh.n_descsz && nh.n_descsz <= 64)
			return hex(buf + desc, nh.n_descsz);
		if (next > size)
			return NULL;
		pos = next;
	}
	return NULL;
}

/* *BUDGET bounds what is read of all the notes that a file says it has. */
static struct uerr *build_id_in_span(struct image *im, struct span span, u64 *budget)
{
	cleanup_free void *buf = NULL;
	struct uerr *err;

	if (im->build_id || !span.size || span.size > *budget || !span_ok(im, span.off, span.size))
		return NULL;
	*budget -= span.size;
	err = image_load(im, span, &buf);
	if (err)
		return err;
	im->build_id = build_id_in_notes(buf, span.size);
	return NULL;
}

/* Sections first: in a separate debug file the segments have no bytes. */
static struct uerr *find_build_id(struct image *im)
{
	u64 budget = NOTES_MAX;
	struct uerr *err = NULL;
	Elf_Scn *scn = NULL;

	while (im->has_sections && !err && (scn = elf_nextscn(im->elf, scn))) {
		const Elf64_Shdr *sh = elf64_getshdr(scn);

		if (sh && sh->sh_type == SHT_NOTE)
			err = build_id_in_span(im, (struct span){ sh->sh_offset, sh->sh_size }, &budget);
	}
	for (size_t i = 0; i < im->nphdrs && !err && !im->is_debug; i++)
		if (im->phdrs[i].p_type == PT_NOTE)
			err = build_id_in_span(im, (struct span){ im->phdrs[i].p_offset, im->phdrs[i].p_filesz },
					       &budget);
	return err;
}

/* ---- open and close ---- */

static void image_free(struct image *im)
{
	if (!im)
		return;
	symtab_destroy(im->syms);
	code_destroy(im->code);
	usdts_destroy(im->usdts);
	elf_end(im->elf);
	if (im->fd >= 0)
		close(im->fd);
	free(im->areas);
	free(im->phdrs);
	free(im->dyns);
	free(im->build_id);
	free(im->name);
	free(im);
}

static struct uerr *fill(struct image *im)
{
	struct uerr *err = check_header(im);

	if (err)
		return err;
	elf_version(EV_CURRENT);
	im->elf = elf_begin(im->fd, ELF_C_READ, NULL);
	if (!im->elf || elf_kind(im->elf) != ELF_K_ELF)
		return libelf_error(im);
	err = read_segments(im);
	if (!err)
		err = find_areas(im);
	if (!err)
		err = image_find_tables(im);
	if (!err)
		err = find_build_id(im);
	return err;
}

/* An image of FD, not cached. ST is its fstat. */
static struct uerr *open_fresh(int fd, const struct stat *st, const char *name, bool is_debug, struct image **ret)
{
	struct image *im = calloc(1, sizeof(*im));
	struct uerr *err;

	if (!im)
		return uerr_nomem();
	im->refs = 1;
	im->is_debug = is_debug;
	im->dev = st->st_dev;
	im->ino = st->st_ino;
	im->mtime = st->st_mtim;
	im->file_size = st->st_size;
	im->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	im->name = strdup(name);
	im->syms = symtab_create();
	if (im->fd < 0)
		err = uerr_errno(errno, "%s", name);
	else if (!im->name || !im->syms)
		err = uerr_nomem();
	else
		err = fill(im);
	if (err) {
		image_free(im);
		return err;
	}
	*ret = im;
	return NULL;
}

static bool same_file(const struct image *im, const struct stat *st)
{
	return im->dev == st->st_dev && im->ino == st->st_ino && im->file_size == (u64)st->st_size &&
	       im->mtime.tv_sec == st->st_mtim.tv_sec && im->mtime.tv_nsec == st->st_mtim.tv_nsec;
}

static struct image *cache_find(const struct stat *st)
{
	for (size_t i = 0; i < cache.n; i++)
		if (same_file(cache.data[i], st))
			return cache.data[i];
	return NULL;
}

/* Lets go of the oldest image that nobody else holds. */
static void cache_trim(void)
{
	for (size_t i = 0; i < cache.n && cache.n >= CACHE_MAX; i++) {
		if (cache.data[i]->refs > 1)
			continue;
		image_unref(cache.data[i]);
		memmove(&cache.data[i], &cache.data[i + 1], (cache.n - i - 1) * sizeof(*cache.data));
		cache.n--;
		return;
	}
}

/* A cache that is full of images in use or cannot grow only costs time. */
static void cache_add(struct image *im)
{
	cache_trim();
	if (cache.n < CACHE_MAX && vec_push(&cache, im))
		image_ref(im);
}

void image_cache_drop(void)
{
	for (size_t i = 0; i < cache.n; i++)
		image_unref(cache.data[i]);
	vec_free(&cache);
}

struct uerr *image_open_fd(int fd, const char *name, struct image **ret)
{
	struct image *im;
	struct uerr *err;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return uerr_errno(errno, "%s", name);
	if (!S_ISREG(st.st_mode))
		return uerr_new(UERR_FAILED, "%s: not a regular file", name);
	im = cache_find(&st);
	if (im) {
		*ret = image_ref(im);
		return NULL;
	}
	err = open_fresh(fd, &st, name, false, &im);
	if (err)
		return err;
	cache_add(im);
	*ret = im;
	return NULL;
}

struct uerr *image_open_debug(int fd, const char *name, struct image **ret)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return uerr_errno(errno, "%s", name);
	return open_fresh(fd, &st, name, true, ret);
}

struct uerr *image_open(const char *path, struct image **ret)
{
	cleanup_close int fd = image_open_regular(path);

	if (fd == -EINVAL)
		return uerr_new(UERR_FAILED, "%s: not a regular file", path);
	if (fd < 0)
		return uerr_errno(-fd, "%s", path);
	return image_open_fd(fd, path, ret);
}

/* Opens PATH (in /proc) if it is MAP's file. */
static int open_same(const char *path, const struct procmap *map, int how)
{
	struct stat st;
	int fd = open_regular(path, how);

	if (fd < 0)
		return fd;
	if (!fstat(fd, &st) && st.st_dev == map->dev && st.st_ino == map->ino)
		return fd;
	close(fd);
	return -ESTALE;
}

/*
 * map_files is the file that is mapped, whatever became of its name; it needs
 * CAP_CHECKPOINT_RESTORE. /proc/PID/exe serves for the main program under the
 * same rules as reading its memory. The name in the process's own root comes
 * last, and only if it still is the same file.
 */
int image_open_mapped(pid_t pid, const struct procmap *map, int how)
{
	cleanup_free char *root = NULL;
	char path[96];
	int fd, first;

	pid = process_live_tid(pid);
	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, pid, map->start, map->end);
	first = open_regular(path, how);
	if (first >= 0)
		return first;
	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	fd = open_same(path, map, how);
	if (fd >= 0)
		return fd;
	if (map->deleted || map->path[0] != '/')
		return first;
	if (asprintf(&root, "/proc/%d/root%s", pid, map->path) < 0) {
		root = NULL;
		return -ENOMEM;
	}
	fd = open_same(root, map, how);
	/* "stale" tells more than map_files' "not permitted". */
	return fd;
}

struct uerr *image_open_target(pid_t pid, const struct procmap *map, struct image **ret)
{
	cleanup_close int fd = image_open_mapped(pid, map, O_RDONLY);

	if (fd == -ESTALE)
		return uerr_new(UERR_FAILED, "%s: is no longer the file that process %d runs", map->path, pid);
	if (fd == -EINVAL)
		return uerr_new(UERR_FAILED, "%s: not a regular file", map->path);
	if (fd < 0)
		return uerr_errno(-fd, "%s (mapped by process %d)", map->path, pid);
	return image_open_fd(fd, map->path, ret);
}

struct image *image_ref(struct image *im)
{
	im->refs++;
	return im;
}

void image_unref(struct image *im)
{
	if (im && !--im->refs)
		image_free(im);
}

/* ---- what it is ---- */

const char *image_name(const struct image *im)
{
	return im->name;
}

const char *image_build_id(const struct image *im)
{
	return im->build_id;
}

bool image_is_pie(const struct image *im)
{
	return im->type == ET_DYN;
}

addr_t image_entry(const struct image *im)
{
	return im->entry;
}

dev_t image_dev(const struct image *im)
{
	return im->dev;
}

ino_t image_ino(const struct image *im)
{
	return im->ino;
}

/* ---- addresses and offsets ---- */

/* The PT_LOAD whose memory contains ADDR, or NULL. */
static const Elf64_Phdr *segment_at(const struct image *im, addr_t addr)
{
	for (size_t i = 0; i < im->nphdrs; i++) {
		const Elf64_Phdr *ph = &im->phdrs[i];

		if (ph->p_type == PT_LOAD && addr >= ph->p_vaddr && addr - ph->p_vaddr < ph->p_memsz)
			return ph;
	}
	return NULL;
}

bool image_addr_span(const struct image *im, addr_t addr, u64 size, struct span *ret)
{
	const Elf64_Phdr *ph = segment_at(im, addr);
	u64 in = ph ? addr - ph->p_vaddr : 0;

	if (!ph || in > ph->p_filesz || size > ph->p_filesz - in)
		return false;
	*ret = (struct span){ ph->p_offset + in, size };
	return span_ok(im, ret->off, ret->size);
}

bool image_addr_to_off(const struct image *im, addr_t link_addr, u64 *ret)
{
	struct span span;

	if (!image_addr_span(im, link_addr, 1, &span))
		return false;
	*ret = span.off;
	return true;
}

/* A page of the file can belong to two segments: code wins. */
bool image_off_to_addr(const struct image *im, u64 file_off, addr_t *ret)
{
	bool found = false;

	for (size_t i = 0; i < im->nphdrs; i++) {
		const Elf64_Phdr *ph = &im->phdrs[i];

		if (ph->p_type != PT_LOAD || file_off < ph->p_offset || file_off - ph->p_offset >= ph->p_filesz)
			continue;
		if (found && !(ph->p_flags & PF_X))
			continue;
		*ret = ph->p_vaddr + (file_off - ph->p_offset);
		found = true;
	}
	return found;
}

struct uerr *image_read(const struct image *im, addr_t addr, void *buf, size_t len)
{
	const Elf64_Phdr *ph = segment_at(im, addr);
	u64 in = ph ? addr - ph->p_vaddr : 0, have;

	if (!ph || len > ph->p_memsz - in)
		return uerr_new(UERR_FAILED, "%s: nothing is loaded at 0x%" PRIx64, im->name, addr);
	have = in < ph->p_filesz ? ph->p_filesz - in : 0;
	if (have > len)
		have = len;
	memset((u8 *)buf + have, 0, len - have);
	return have ? read_full(im, buf, have, ph->p_offset + in) : NULL;
}
