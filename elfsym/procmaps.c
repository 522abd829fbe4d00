/* SPDX-License-Identifier: MIT */
/*
 * /proc/PID/maps as data. procmaps_parse() does no I/O and trusts nothing: the
 * text may come from a target, a file or a fuzzer. procmaps_read() is the thin
 * reader above it.
 */
#include "elfsym/procmaps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "base/vec.h"

#define MAPS_TEXT_MAX (256u << 20) /* 2.5 million mappings: more is no maps file */
#define READ_TRIES 8

typedef VEC(struct procmap) procmap_vec;

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 16;
}

/* Reads digits of BASE at *P, at least one, up to END; steps over END. (Not
 * strtoull(): it takes blanks, signs and prefixes.) */
static bool take_number(char **p, unsigned base, char end, u64 *ret)
{
	const char *s = *p;
	u64 v = 0;

	for (; (unsigned)digit(*s) < base; s++)
		if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, digit(*s), &v))
			return false;
	if (s == *p || *s != end)
		return false;
	*ret = v;
	*p += s - *p + (end != '\0');
	return true;
}

static bool take_perms(char **p, struct procmap *map)
{
	const char *s = *p;

	if (strnlen(s, 5) < 5 || s[4] != ' ')
		return false;
	map->prot = (s[0] == 'r' ? PROT_READ : 0) | (s[1] == 'w' ? PROT_WRITE : 0) |
		    (s[2] == 'x' ? PROT_EXEC : 0);
	map->shared = s[3] == 's';
	*p += 5;
	return true;
}

/* The kernel writes a newline in a path as \012 (and nothing else that way). */
static void unescape(char *path)
{
	char *to = path;

	while (*path) {
		if (!strncmp(path, "\\012", 4)) {
			*to++ = '\n';
			path += 4;
		} else {
			*to++ = *path++;
		}
	}
	*to = '\0';
}

static void take_path(char *p, struct procmap *map)
{
	static const char suffix[] = " (deleted)";
	size_t len;

	p += strspn(p, " ");
	unescape(p);
	len = strlen(p);
	if (len >= sizeof(suffix) - 1 && !strcmp(p + len - (sizeof(suffix) - 1), suffix)) {
		p[len - (sizeof(suffix) - 1)] = '\0';
		map->deleted = true;
	}
	map->path = p;
}

/* LINE is cut up in place; paths point into it. */
static bool parse_line(char *line, struct procmap *ret)
{
	struct procmap map = {};
	u64 major, minor, ino;
	char *p = line;

	if (!take_number(&p, 16, '-', &map.start) || !take_number(&p, 16, ' ', &map.end) ||
	    !take_perms(&p, &map) || !take_number(&p, 16, ' ', &map.file_off) ||
	    !take_number(&p, 16, ':', &major) || !take_number(&p, 16, ' ', &minor))
		return false;
	/* An anonymous mapping's line may end behind the inode. */
	if (!take_number(&p, 10, ' ', &ino) && !take_number(&p, 10, '\0', &ino))
		return false;
	if (map.start >= map.end || major > UINT32_MAX || minor > UINT32_MAX)
		return false;
	map.dev = makedev(major, minor);
	map.ino = ino;
	take_path(p, &map);
	*ret = map;
	return true;
}

static struct uerr *parse_lines(char *text, procmap_vec *maps)
{
	size_t line_no = 0;
	addr_t end = 0;
	char *next;

	for (char *line = text; line && *line; line = next) {
		struct procmap map;

		line_no++;
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (!parse_line(line, &map))
			return uerr_new(UERR_FAILED, "maps: line %zu is not a mapping", line_no);
		if (map.start < end)
			return uerr_new(UERR_FAILED, "maps: line %zu is out of order", line_no);
		end = map.end;
		if (!vec_push(maps, map))
			return uerr_nomem();
	}
	return NULL;
}

struct uerr *procmaps_parse(const char *text, struct procmaps *ret)
{
	cleanup_free char *copy = strdup(text);
	procmap_vec maps = {};
	struct uerr *err;

	if (!copy)
		return uerr_nomem();
	err = parse_lines(copy, &maps);
	if (err) {
		vec_free(&maps);
		return err;
	}
	ret->maps = maps.data;
	ret->n = maps.n;
	ret->text = steal_ptr(copy);
	return NULL;
}

/* Reads all of FD; the kernel gives at most a page a read. */
static struct uerr *read_text(int fd, char **ret)
{
	cleanup_free char *text = NULL;
	size_t len = 0, cap = 0;

	for (;;) {
		ssize_t n;

		if (cap - len < 4096 + 1) {
			size_t want = cap ? cap * 2 : 16384;
			char *bigger = want > MAPS_TEXT_MAX ? NULL : realloc(text, want);

			if (!bigger)
				return uerr_nomem();
			text = bigger;
			cap = want;
		}
		n = read(fd, text + len, cap - len - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return uerr_errno(errno, "maps");
		if (!n)
			break;
		len += n;
	}
	text[len] = '\0';
	*ret = steal_ptr(text);
	return NULL;
}

static struct uerr *open_error(pid_t pid, int errnum)
{
	if (errnum == ENOENT || errnum == ESRCH)
		return uerr_new(UERR_NO_TARGET, "there is no process %d", pid);
	return uerr_errno(errnum, "process %d: cannot read its memory map", pid);
}

static struct uerr *read_once(pid_t pid, struct procmaps *ret)
{
	cleanup_close int fd = -1;
	cleanup_free char *text = NULL;
	struct uerr *err;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", process_live_tid(pid));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return open_error(pid, errno);
	err = read_text(fd, &text);
	if (err && err->errnum == ESRCH) {
		uerr_free(err);
		return open_error(pid, ESRCH);
	}
	if (err)
		return uerr_prefix(err, "process %d", pid);
	if (!*text)
		return uerr_new(UERR_NO_TARGET, "process %d has no memory: a kernel thread, or it has exited",
				pid);
	err = procmaps_parse(text, ret);
	return uerr_prefix(err, "process %d", pid);
}

/*
 * The listing is not atomic: each read(2) walks on from the last address, so
 * that a mapping which grows in between can show up twice. Such a listing is
 * out of order; a fresh one is soon right.
 */
struct uerr *procmaps_read(pid_t pid, struct procmaps *ret)
{
	struct uerr *err = NULL;

	for (int i = 0; i < READ_TRIES; i++) {
		uerr_free(err);
		err = read_once(pid, ret);
		if (!err || err->code != UERR_FAILED || err->errnum)
			return err;
	}
	return err;
}

void procmaps_deinit(struct procmaps *pm)
{
	free(pm->maps);
	free(pm->text);
	*pm = (struct procmaps){};
}

const struct procmap *procmaps_find(const struct procmaps *pm, addr_t addr)
{
	size_t lo = 0, hi = pm->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (pm->maps[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < pm->n && pm->maps[lo].start <= addr ? &pm->maps[lo] : NULL;
}
