/* SPDX-License-Identifier: MIT */
/* What processes have mapped; see spaces.h. */
#include "daemon/spaces.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "daemon/loaded.h"
#include "daemon/procinfo.h"
#include "elfsym/image.h"
#include "elfsym/procmaps.h"

#define FILES_MAX 4096u /* of all processes */

static VEC(struct space_file *) files;

/* ---- files ---- */

static void file_unref(struct space_file *f)
{
	size_t n = 0;

	if (!f || --f->refs)
		return;
	vec_foreach(it, &files)
		if (*it != f)
			files.data[n++] = *it;
	files.n = n;
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
	free(f);
}

static struct space_file *file_get(pid_t pid, const struct procmap *map)
{
	struct space_file *f;

	/* (one that is held keeps its inode: no other file can have the number) */
	vec_foreach(it, &files) {
		if ((*it)->fd >= 0 && (*it)->dev == map->dev && (*it)->ino == map->ino &&
		    !strcmp((*it)->path, map->path)) {
			(*it)->refs++;
			return *it;
		}
	}
	if (files.n == FILES_MAX)
		return NULL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	*f = (struct space_file){ .dev = map->dev, .ino = map->ino, .path = strdup(map->path), .refs = 1 };
	f->fd = image_open_mapped(pid, map, O_PATH); /* neither read nor waited for */
	if (!f->path || !vec_push(&files, f)) {
		if (f->fd >= 0)
			close(f->fd);
		free(f->path);
		free(f);
		return NULL;
	}
	return f;
}

/* What O_PATH descriptor *FD refers to, to be read; one that can be already stays. */
static void reopen(int *fd)
{
	char path[64];
	struct stat st;
	int readable = -1;

	if (*fd < 0 || !(fcntl(*fd, F_GETFL) & O_PATH))
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
	if (!fstat(*fd, &st) && S_ISREG(st.st_mode))
		readable = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	close(*fd);
	*fd = readable;
}

void spaces_open(struct loaded *o)
{
	vec_foreach(sp, &o->spaces) {
		reopen(&(*sp)->perf_fd);
		vec_foreach(m, &(*sp)->maps)
			reopen(&m->file->fd);
	}
}

/* ---- one process ---- */

static void space_destroy(struct space *sp)
{
	vec_foreach(m, &sp->maps)
		file_unref(m->file);
	vec_free(&sp->maps);
	if (sp->perf_fd >= 0)
		close(sp->perf_fd);
	free(sp);
}

const struct space_map *space_find(const struct space *sp, addr_t addr)
{
	vec_foreach(m, &sp->maps)
		if (addr >= m->lo && addr < m->hi)
			return m;
	return NULL;
}

/* What was there and is not any more stays, until something else takes its place. */
static void take_map(struct space *sp, const struct procmap *map)
{
	struct space_map m = { map->start, map->end, map->file_off, NULL };
	size_t n = 0;

	vec_foreach(old, &sp->maps)
		if (old->lo == m.lo && old->hi == m.hi && old->file_off == m.file_off && old->file->ino == map->ino &&
		    old->file->dev == map->dev)
			return;
	m.file = file_get(sp->pid, map);
	if (!m.file)
		return;
	vec_foreach(old, &sp->maps) {
		if (old->lo < m.hi && m.lo < old->hi)
			file_unref(old->file);
		else
			sp->maps.data[n++] = *old;
	}
	sp->maps.n = n;
	if (!vec_push(&sp->maps, m))
		file_unref(m.file);
}

/* Its own number there: the last one of NSpid. */
static pid_t own_pid(pid_t pid)
{
	cleanup_fclose FILE *f = NULL;
	char path[64], line[512];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		char *last;

		if (strncmp(line, "NSpid:", 6))
			continue;
		last = strrchr(line, '\t');
		return last ? atoi(last + 1) : pid;
	}
	return pid;
}

void space_refresh(struct space *sp)
{
	cleanup(procmaps_deinit) struct procmaps pm = {};
	cleanup_uerr struct uerr *err = NULL;
	struct procinfo pi;
	char path[96];
	int fd;

	err = procinfo_read(sp->pid, &pi);
	if (err || pi.starttime != sp->starttime)
		return;
	sp->uid = pi.uid;
	snprintf(sp->exe, sizeof(sp->exe), "%s", pi.exe);
	err = procmaps_read(sp->pid, &pm);
	for (size_t i = 0; !err && i < pm.n; i++) {
		const struct procmap *map = &pm.maps[i];

		if (map->prot & PROT_EXEC && map->ino && map->path[0] == '/')
			take_map(sp, map);
		if (!strcmp(map->path, "[vdso]")) {
			sp->vdso_lo = map->start;
			sp->vdso_hi = map->end;
		}
	}
	snprintf(path, sizeof(path), "/proc/%d/root/tmp/perf-%d.map", process_live_tid(sp->pid), own_pid(sp->pid));
	fd = open(path, O_PATH | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (sp->perf_fd >= 0)
		close(sp->perf_fd);
	sp->perf_fd = fd;
}

/* ---- of objects ---- */

static struct space *space_of(const struct loaded *o, const struct target *t)
{
	vec_foreach(sp, &o->spaces)
		if ((*sp)->pid == t->pid && (*sp)->starttime == t->starttime)
			return *sp;
	return NULL;
}

static bool object_is_in(const struct state *s, const struct loaded *o, const struct target *t)
{
	vec_foreach(l, &s->links)
		if ((*l)->object == o->id && target_has_link(t, (*l)->id) &&
		    program_walks_stacks(state_program(s, (*l)->program)))
			return true;
	return false;
}

void spaces_note(struct state *s, const struct target *t)
{
	vec_foreach(o, &s->objects) {
		struct space *sp = space_of(*o, t);

		if (!sp && object_is_in(s, *o, t)) {
			sp = calloc(1, sizeof(*sp));
			if (!sp)
				return;
			sp->pid = t->pid;
			sp->starttime = t->starttime;
			sp->perf_fd = -1;
			memcpy(sp->comm, t->comm, sizeof(sp->comm));
			if (!vec_push(&(*o)->spaces, sp)) {
				space_destroy(sp);
				return;
			}
		}
		if (sp)
			space_refresh(sp);
	}
}

void spaces_free(struct loaded *o)
{
	vec_foreach(sp, &o->spaces)
		space_destroy(*sp);
	vec_free(&o->spaces);
}
