/* SPDX-License-Identifier: MIT */
/* Cached files; see cache_file.h. */
#include "base/cache_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/write_all.h"

char *cache_file_path(const char *dir, const char *build_id, const char *suffix)
{
	char *path;
	size_t n;

	if (!dir || !build_id)
		return NULL;
	n = strspn(build_id, "0123456789abcdef");
	if (n < 8 || n > 128 || build_id[n])
		return NULL;
	return asprintf(&path, "%s/%s.%s", dir, build_id, suffix) < 0 ? NULL : path;
}

int cache_file_open(const char *path, u64 *size)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) ||
	    st.st_mode & 022)
		return -1;
	*size = (u64)st.st_size;
	return steal_fd(&fd);
}

bool cache_file_read(int fd, void *buf, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t r = read(fd, (char *)buf + done, n - done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		done += r;
	}
	return true;
}

void cache_file_write(const char *path, const void *head, size_t nhead, const void *body, size_t nbody)
{
	cleanup_free char *tmp = NULL;
	cleanup_close int fd = -1;

	if (asprintf(&tmp, "%s.XXXXXX", path) < 0) {
		tmp = NULL;
		return;
	}
	fd = mkostemp(tmp, O_CLOEXEC);
	if (fd < 0)
		return;
	if (!write_all(fd, head, nhead) || !write_all(fd, body, nbody) || rename(tmp, path) < 0)
		unlink(tmp);
}
