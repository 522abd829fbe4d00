/* SPDX-License-Identifier: MIT */
/* Reading /proc/PID/maps; see target_maps.h. */
#include "target_maps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* Whole of a /proc file, NUL-terminated; NULL with errno set. */
static char *read_all(const char *path, size_t *len)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	cleanup_free char *buf = NULL;
	size_t n = 0, cap = 0;

	if (fd < 0)
		return NULL;
	for (;;) {
		ssize_t got;

		if (cap - n < 8192) {
			char *p = realloc(buf, cap = cap ? cap * 2 : 65536);

			if (!p)
				return NULL;
			buf = p;
		}
		got = read(fd, buf + n, cap - n - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return NULL;
		if (!got)
			break;
		n += got;
	}
	buf[n] = 0;
	*len = n;
	return steal_ptr(buf);
}

static void classify(struct target_map *m, const char *name)
{
	const char *base = strrchr(name, '/');

	base = base ? base + 1 : name;
	m->heap = !strcmp(name, "[heap]");
	m->stack = !strcmp(name, "[stack]");
	m->vdso = !strcmp(name, "[vdso]");
	m->special = name[0] == '[' && !m->heap && !m->stack && !m->vdso && strncmp(name, "[anon", 5);
	m->dead = !strcmp(name, "/dev/zero (deleted)") || !strncmp(name, "[anon_shmem", 11);
	m->libc = !strncmp(base, "libc.", 5) || !strncmp(base, "libc-", 5) || !strncmp(base, "ld-", 3);
	m->ours = !strcmp(name, "/memfd:" MEMFD_NAME " (deleted)");
}

static bool parse_line(const char *line, struct target_map *m)
{
	char perms[5];
	int name = 0;

	*m = (struct target_map){};
	if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %n", &m->lo, &m->hi, perms, &m->off, &m->dev_major,
		   &m->dev_minor, &m->ino, &name) < 7 || strlen(perms) < 4)
		return false;
	m->r = perms[0] == 'r';
	m->w = perms[1] == 'w';
	m->x = perms[2] == 'x';
	m->shared = perms[3] == 's';
	classify(m, name ? line + name : "");
	return m->lo < m->hi;
}

struct uerr *target_maps_read(pid_t pid, pid_t tid, struct target_maps *ret)
{
	struct target_maps maps = {};
	cleanup_free char *text = NULL;
	char path[64], *save = NULL;
	size_t len;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/maps", pid, tid);
	text = read_all(path, &len);
	if (!text) {
		if (errno == ENOENT || errno == ESRCH)
			return uerr_new(UERR_NO_TARGET, "process %d is gone", pid);
		return uerr_errno(errno, "cannot read %s", path);
	}
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct target_map m;

		if (parse_line(line, &m) && !vec_push(&maps.v, m)) {
			target_maps_deinit(&maps);
			return uerr_nomem();
		}
	}
	*ret = maps;
	return NULL;
}

void target_maps_deinit(struct target_maps *m)
{
	vec_free(&m->v);
}

const struct target_map *target_maps_find(const struct target_maps *m, addr_t addr)
{
	size_t lo = 0, hi = m->v.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (m->v.data[mid].hi <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < m->v.n && m->v.data[lo].lo <= addr ? &m->v.data[lo] : NULL;
}
