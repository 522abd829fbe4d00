/* SPDX-License-Identifier: MIT */
/*
 * The ELF files of a process: which it has mapped, where, and under which names
 * a SPEC may call them. Only mappings that execute count; a file that is mapped
 * twice at different places (dlmopen) is two modules with one image.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "base/vec.h"
#include "elfsym/image_int.h"
#include "elfsym/resolve_int.h"

typedef VEC(struct module) module_vec;

static void module_deinit(struct module *mod)
{
	free(mod->path);
	free(mod->name);
	image_unref(mod->image);
}

/* ---- the process ---- */

static void read_comm(pid_t pid, char comm[16])
{
	cleanup_close int fd = -1;
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, comm, 16);
	comm[n > 0 ? n - 1 : 0] = '\0'; /* for the newline */
}

/* "process 812 (postgres) belongs to user postgres, you are uid 1000: …" */
static struct uerr *not_permitted(pid_t pid)
{
	char path[64], comm[16], owner[40];
	struct passwd *pw;
	struct stat st;

	read_comm(pid, comm);
	snprintf(path, sizeof(path), "/proc/%d/task", pid); /* /proc/PID is root's when not dumpable */
	if (stat(path, &st) < 0)
		return uerr_new(UERR_NO_TARGET, "there is no process %d", pid);
	if (st.st_uid == geteuid())
		return uerr_new(UERR_NOT_PERMITTED,
				"process %d (%s) is yours, but the kernel lets only root look into it: sudo bpfctl …", pid,
				comm);
	pw = getpwuid(st.st_uid);
	if (pw)
		snprintf(owner, sizeof(owner), "user %s", pw->pw_name);
	else
		snprintf(owner, sizeof(owner), "uid %u", st.st_uid);
	return uerr_new(UERR_NOT_PERMITTED,
			"process %d (%s) belongs to %s, you are uid %u: sudo bpfctl …, or ask root "
			"(uprobed.conf, [allow])",
			pid, comm, owner, geteuid());
}

/* ---- where a file is mapped ---- */

/*
 * MAP starts at a page of the file; the segment that this page belongs to says
 * which link address lies there. Segments that share a page disagree on no bias,
 * as the linker keeps addresses and offsets congruent, but a page may belong to
 * a data segment alone: then MAP is no text.
 */
static bool find_bias(const struct image *im, const struct procmap *map, addr_t *ret)
{
	for (size_t i = 0; i < im->nphdrs; i++) {
		const Elf64_Phdr *ph = &im->phdrs[i];
		u64 first = ALIGN_DOWN(ph->p_offset, PAGE);

		if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
			continue;
		if (map->file_off < first || map->file_off >= ph->p_offset + ph->p_filesz)
			continue;
		*ret = map->start - (ALIGN_DOWN(ph->p_vaddr, PAGE) + (map->file_off - first));
		return true;
	}
	return false;
}

static void set_range(struct module *mod)
{
	addr_t lo = ~0ull, hi = 0;

	for (size_t i = 0; i < mod->image->nphdrs; i++) {
		const Elf64_Phdr *ph = &mod->image->phdrs[i];

		if (ph->p_type != PT_LOAD || !ph->p_memsz)
			continue;
		if (ph->p_vaddr < lo)
			lo = ph->p_vaddr;
		if (ph->p_vaddr + ph->p_memsz > hi)
			hi = ph->p_vaddr + ph->p_memsz;
	}
	mod->lo = ALIGN_DOWN(lo, PAGE) + mod->bias;
	mod->hi = ALIGN_UP(hi, PAGE) + mod->bias;
}

static struct module *find_module(module_vec *mods, const struct procmap *map, addr_t bias)
{
	vec_foreach(mod, mods)
		if (mod->dev == map->dev && mod->ino == map->ino && mod->bias == bias)
			return mod;
	return NULL;
}

/* Which file the process runs, as /proc/PID/exe tells it. */
struct exe {
	struct stat st;
	bool known;
	char path[PATH_MAX];
};

static void read_exe(pid_t pid, struct exe *exe)
{
	char link[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/%d/exe", process_live_tid(pid));
	exe->known = !stat(link, &exe->st);
	n = readlink(link, exe->path, sizeof(exe->path) - 1);
	exe->path[n > 0 ? n : 0] = '\0';
}

/* On some file systems (btrfs, overlay) maps shows another device than stat. */
static bool is_exe(const struct exe *exe, const struct procmap *map, const struct image *im)
{
	size_t len = strlen(map->path);

	if (exe->known && exe->st.st_ino == image_ino(im) && exe->st.st_dev == image_dev(im))
		return true;
	return !strncmp(exe->path, map->path, len) && !strcmp(exe->path + len, map->deleted ? " (deleted)" : "");
}

static struct uerr *add_module(pid_t pid, const struct procmap *map, const struct exe *exe, module_vec *mods)
{
	struct module mod = { .dev = map->dev, .ino = map->ino, .text_shared = map->shared };
	struct module *old;
	struct uerr *err;

	err = image_open_target(pid, map, &mod.image);
	if (err) {
		/* Fonts and locales are mapped too; but without the program
		 * itself nothing can be said. */
		if (err->code == UERR_NOT_PERMITTED && !strcmp(map->path, exe->path))
			return err;
		uerr_free(err);
		return NULL;
	}
	if (!find_bias(mod.image, map, &mod.bias)) {
		module_deinit(&mod);
		return NULL;
	}
	old = find_module(mods, map, mod.bias);
	if (old) {
		old->text_shared |= map->shared;
		module_deinit(&mod);
		return NULL;
	}
	mod.main = is_exe(exe, map, mod.image);
	set_range(&mod);
	mod.path = strdup(map->path);
	if (!mod.path || !vec_push(mods, mod)) {
		module_deinit(&mod);
		return uerr_nomem();
	}
	return NULL;
}

/* ---- names ---- */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The length of "libc" in "libc.so.6" and in "libc-2.31.so", and of "_ssl" in
 * "_ssl.cpython-311-x86_64-linux-gnu.so". */
static size_t short_len(const char *base)
{
	const char *so = strstr(base, ".so"), *dash, *python = strstr(base, ".cpython-");
	size_t len = strlen(base), digits;

	while (so && so[3] && so[3] != '.')
		so = strstr(so + 1, ".so");
	if (python && python != base)
		return python - base;
	if (so)
		len = so - base;
	dash = memrchr(base, '-', len);
	if (!so || !dash || dash == base)
		return len;
	/* "2.31", of which the dot of ".so" would be a part too */
	digits = base + len - (dash + 1);
	if (strspn(dash + 1, "0123456789.") >= digits && memchr(dash + 1, '.', digits))
		len = dash - base;
	return len;
}

char *module_short_name(const char *path)
{
	const char *base = base_name(path);

	return strndup(base, short_len(base));
}

static bool name_taken(const module_vec *mods, const struct module *self, const char *name)
{
	vec_foreach(mod, mods)
		if (mod < self && mod->name && !strcmp(mod->name, name))
			return true;
	return false;
}

/* "" for the program; else the short name, the base name or the path, whichever
 * is the first that no module before has. */
static struct uerr *set_names(module_vec *mods)
{
	vec_foreach(mod, mods) {
		const char *base = base_name(mod->path);

		mod->name = mod->main ? strdup("") : strndup(base, short_len(base));
		if (mod->name && !mod->main && (!*mod->name || name_taken(mods, mod, mod->name))) {
			free(mod->name);
			mod->name = strdup(name_taken(mods, mod, base) ? mod->path : base);
		}
		if (!mod->name)
			return uerr_nomem();
	}
	return NULL;
}

/* A second mapping of the program (a copy made by dlmopen, a script that maps
 * its interpreter) is no second main program. */
static void keep_one_main(module_vec *mods)
{
	bool seen = false;

	vec_foreach(mod, mods) {
		mod->main &= !seen;
		seen |= mod->main;
	}
}

const char *module_label(const struct modules *m, const struct module *mod)
{
	const char *base = base_name(mod->path);

	if (!mod->main)
		return mod->name;
	/* People say "redis-server", though the file is called redis-check-rdb;
	 * the kernel cuts comm off. */
	return *m->comm && strncmp(base, m->comm, strlen(m->comm)) ? m->comm : base;
}

static bool same_path(const struct module *mod, const char *path)
{
	struct stat st;

	if (!strcmp(mod->path, path))
		return true;
	return !stat(path, &st) && st.st_ino == image_ino(mod->image) && st.st_dev == image_dev(mod->image);
}

int module_match(const struct modules *m, const struct module *mod, const char *binary)
{
	const char *base = base_name(mod->path);

	if (!*binary)
		return mod->main ? 9 : 0;
	if (strchr(binary, '/'))
		return same_path(mod, binary) ? 8 : 0;
	if (!mod->main && !strcmp(mod->name, binary))
		return 7;
	if (!strcmp(base, binary))
		return 6;
	if (mod->main && (!strcmp(m->comm, binary) || !strcmp(module_label(m, mod), binary)))
		return 5;
	if (strlen(binary) == short_len(base) && !strncmp(base, binary, short_len(base)))
		return 4;
	return 0;
}

/* ---- all of it ---- */

static struct uerr *read_modules(pid_t pid, struct modules *m, module_vec *mods)
{
	cleanup_free struct exe *exe = calloc(1, sizeof(*exe));
	struct uerr *err = NULL;

	if (!exe)
		return uerr_nomem();
	read_exe(pid, exe);
	for (size_t i = 0; i < m->maps.n && !err; i++) {
		const struct procmap *map = &m->maps.maps[i];

		if (map->ino && map->prot & PROT_EXEC)
			err = add_module(pid, map, exe, mods);
	}
	keep_one_main(mods);
	return err ? err : set_names(mods);
}

/* Why nothing of what it maps can be read. */
static struct uerr *no_modules(const struct modules *m)
{
	unsigned char ident[EI_NIDENT] = {};
	cleanup_close int fd = -1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/exe", process_live_tid(m->pid));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && pread(fd, ident, sizeof(ident), 0) == sizeof(ident) && !memcmp(ident, ELFMAG, SELFMAG) &&
	    ident[EI_CLASS] == ELFCLASS32)
		return uerr_new(UERR_CANNOT_PROBE, "process %d (%s) is a 32-bit program: only x86-64 is served", m->pid,
				m->comm);
	return uerr_new(UERR_NO_TARGET, "process %d (%s) runs no x86-64 ELF file that can be read", m->pid, m->comm);
}

struct uerr *modules_read(pid_t pid, struct modules *ret)
{
	struct modules m = { .pid = pid };
	module_vec mods = {};
	struct uerr *err = procmaps_read(pid, &m.maps);

	if (err && err->code == UERR_NOT_PERMITTED) {
		uerr_free(err);
		return not_permitted(pid);
	}
	if (err)
		return err;
	read_comm(pid, m.comm);
	err = read_modules(pid, &m, &mods);
	m.mods = mods.data;
	m.n = mods.n;
	if (!err && !m.n)
		err = no_modules(&m);
	if (err) {
		modules_deinit(&m);
		return err;
	}
	*ret = m;
	return NULL;
}

void modules_deinit(struct modules *m)
{
	for (size_t i = 0; i < m->n; i++)
		module_deinit(&m->mods[i]);
	free(m->mods);
	procmaps_deinit(&m->maps);
	*m = (struct modules){};
}

const struct module *modules_find_addr(const struct modules *m, addr_t addr)
{
	for (size_t i = 0; i < m->n; i++)
		if (addr >= m->mods[i].lo && addr < m->mods[i].hi)
			return &m->mods[i];
	return NULL;
}
