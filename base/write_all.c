/* SPDX-License-Identifier: MIT */
/* See write_all.h. */
#include "base/write_all.h"

#include <errno.h>
#include <unistd.h>

bool write_all(int fd, const void *buf, size_t n)
{
	for (size_t done = 0; done < n;) {
		ssize_t r = write(fd, (const char *)buf + done, n - done);

		if (r < 0 && errno == EINTR)
			continue;
		if (!r)
			errno = EIO;
		if (r <= 0)
			return false;
		done += r;
	}
	return true;
}
