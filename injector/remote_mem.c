/* SPDX-License-Identifier: MIT */
/* Through /proc/PID/mem; see remote_mem.h. */
#include "remote_mem.h"

#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>

size_t remote_read_some(struct tracee *t, addr_t remote_addr, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(t->mem_fd, (char *)buf + done, len - done, (off_t)(remote_addr + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += n;
	}
	return done;
}

int remote_read(struct tracee *t, addr_t remote_addr, void *buf, size_t len)
{
	return remote_read_some(t, remote_addr, buf, len) == len ? 0 : EIO;
}

int remote_write(struct tracee *t, addr_t remote_addr, const void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(t->mem_fd, (const char *)buf + done, len - done, (off_t)(remote_addr + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno;
		if (!n)
			return ESRCH;
		done += n;
	}
	return 0;
}

static int poke_words(const struct thread *th, addr_t remote_addr, const char *buf, const char *old, size_t len)
{
	for (size_t i = 0; i < len; i += sizeof(long)) {
		long word;

		memcpy(&word, buf + i, sizeof(word));
		if (memcmp(buf + i, old + i, sizeof(word)) &&
		    ptrace(PTRACE_POKETEXT, th->tid, remote_addr + i, word))
			return errno;
	}
	return 0;
}

int remote_write_text(struct tracee *t, const struct thread *th, addr_t remote_addr, const void *buf,
		      const void *old, size_t len)
{
	int err;

	if (t->mem_forced) {
		err = remote_write(t, remote_addr, buf, len);
		if (err != EIO && err != EPERM && err != EACCES)
			return err;
		t->mem_forced = false;
	}
	return poke_words(th, remote_addr, buf, old, len);
}
