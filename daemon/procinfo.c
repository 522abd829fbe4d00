/* SPDX-License-Identifier: MIT */
/* Facts about processes from /proc; see procinfo.h. */
#include "daemon/procinfo.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/process.h"

static void cleanup_closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

bool pid_vec_has(const pid_vec *v, pid_t pid)
{
	for (size_t i = 0; i < v->n; i++)
		if (v->data[i] == pid)
			return true;
	return false;
}

const char *pathname_base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* A small file of /proc as text; false when it is gone. */
static bool read_small(const char *path, char *buf, size_t size)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (n < 0)
		return false;
	buf[n] = 0;
	return true;
}

/* comm stands in parentheses and may itself hold any character. */
static bool parse_stat(const char *text, struct procinfo *ret)
{
	const char *open_paren = strchr(text, '('), *close_paren = strrchr(text, ')');
	unsigned long long starttime;
	char state;
	int ppid;
	long nthreads;
	size_t n;

	if (!open_paren || !close_paren || close_paren < open_paren)
		return false;
	if (sscanf(close_paren + 1,
		   " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d %llu", &state, &ppid,
		   &nthreads, &starttime) != 4)
		return false;
	n = close_paren - open_paren - 1;
	if (n > sizeof(ret->comm) - 1)
		n = sizeof(ret->comm) - 1;
	memcpy(ret->comm, open_paren + 1, n);
	ret->comm[n] = 0;
	ret->ppid = ppid;
	ret->nthreads = nthreads;
	ret->starttime = starttime;
	/* One whose leader alone has ended goes on. */
	ret->zombie = (state == 'Z' || state == 'X') && nthreads <= 1;
	return true;
}

static void read_exe(pid_t pid, struct procinfo *ret)
{
	char path[64], *deleted;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", process_live_tid(pid));
	n = readlink(path, ret->exe, sizeof(ret->exe) - 1);
	ret->exe[n > 0 ? n : 0] = 0;
	deleted = strstr(ret->exe, " (deleted)");
	if (deleted && !deleted[10])
		*deleted = 0;
}

struct uerr *procinfo_read(pid_t pid, struct procinfo *ret)
{
	char path[64], text[4096], *uids;

	*ret = (struct procinfo){ .pid = pid };
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (pid <= 0 || !read_small(path, text, sizeof(text)) || !parse_stat(text, ret))
		return uerr_new(UERR_NO_TARGET, "process %d does not exist", pid);
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	uids = read_small(path, text, sizeof(text)) ? strstr(text, "\nUid:") : NULL;
	if (!uids || sscanf(uids, " Uid: %*u %u", &ret->uid) != 1)
		return uerr_new(UERR_NO_TARGET, "process %d does not exist", pid);
	read_exe(pid, ret);
	return NULL;
}

struct uerr *procinfo_list(pid_vec *ret)
{
	cleanup(cleanup_closedirp) DIR *dir = opendir("/proc");
	struct dirent *e;

	if (!dir)
		return uerr_errno(errno, "/proc");
	while ((e = readdir(dir))) {
		if (isdigit((unsigned char)e->d_name[0]) && !vec_push(ret, atoi(e->d_name)))
			return uerr_nomem();
	}
	return NULL;
}

static void task_children(pid_t pid, const char *tid, pid_vec *ret)
{
	char path[320];
	cleanup_fclose FILE *f = NULL;
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/children", pid, tid);
	f = fopen(path, "re");
	while (f && fscanf(f, "%d", &child) == 1) {
		if (pid_vec_has(ret, child) || !vec_push(ret, child))
			continue;
		procinfo_children(child, ret);
	}
}

void procinfo_children(pid_t pid, pid_vec *ret)
{
	char path[64];
	cleanup(cleanup_closedirp) DIR *dir = NULL;
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir)))
		if (isdigit((unsigned char)e->d_name[0]))
			task_children(pid, e->d_name, ret);
}

bool procinfo_maps_path(pid_t pid, const char *path)
{
	size_t len = strlen(path), cap = 0;
	cleanup_free char *line = NULL;
	cleanup_fclose FILE *f = NULL;
	char name[64];
	ssize_t n;

	snprintf(name, sizeof(name), "/proc/%d/maps", process_live_tid(pid));
	f = fopen(name, "re");
	while (f && (n = getline(&line, &cap, f)) > 0) {
		line[--n] = 0;
		if ((size_t)n > len && line[n - len - 1] == ' ' && !strcmp(line + n - len, path))
			return true;
	}
	return false;
}

/* The last number of NSpid is the thread's number in its own namespace; 0 when it
 * is gone. */
static pid_t ns_tid(pid_t pid, const char *tid)
{
	char path[320], text[4096], *p;
	int v = 0, n;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/status", pid, tid);
	if (!read_small(path, text, sizeof(text)))
		return 0;
	p = strstr(text, "\nNSpid:");
	if (!p)
		return 0;
	for (p += 7; sscanf(p, "%d%n", &v, &n) == 1; p += n)
		if (p[n] == '\n')
			break;
	return v;
}

bool procinfo_has_thread(pid_t pid, pid_t tid)
{
	char name[16];

	snprintf(name, sizeof(name), "%d", tid);
	return ns_tid(pid, name) == tid;
}

static struct uerr *add_ns_tids(pid_t pid, pid_vec *ret)
{
	char path[64];
	cleanup(cleanup_closedirp) DIR *dir = NULL;
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		pid_t tid = isdigit((unsigned char)e->d_name[0]) ? ns_tid(pid, e->d_name) : 0;

		if (tid && !vec_push(ret, tid))
			return uerr_nomem();
	}
	return NULL;
}

/* One whose program cannot be seen may run the same. */
static bool same_program(pid_t pid, const struct stat *exe)
{
	struct stat st;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/exe", process_live_tid(pid));
	if (stat(path, &st))
		return errno == EACCES || errno == EPERM;
	return st.st_ino == exe->st_ino && st.st_dev == exe->st_dev;
}

struct uerr *procinfo_family_tids(pid_t pid, pid_vec *ret)
{
	pid_vec all = {};
	struct stat exe = {};
	struct uerr *err = procinfo_list(&all);
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/exe", process_live_tid(pid));
	if (stat(path, &exe))
		exe.st_ino = 0;
	vec_foreach(other, &all)
		if (!err && (*other == pid || same_program(*other, &exe)))
			err = add_ns_tids(*other, ret);
	vec_free(&all);
	return err;
}
