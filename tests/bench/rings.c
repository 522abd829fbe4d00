/* SPDX-License-Identifier: MIT */
/*
 * The reader of the row that writes records: a thread that takes out what is there as
 * long as the row runs, so that the ring has room. The kernel's ring is read by libbpf,
 * the daemon's in its memory, by the reader that the daemon has (maps/umap.h).
 */
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bench.h"
#include "maps/umap.h"

/* A reader that has caught up sleeps, as readers do; one that goes on looking takes the
 * line that is about to be written away from the writer, every time. */
#define NAP_US 20

static struct {
	pthread_t thread;
	bool running, stop;
	uint64_t got;
	struct ring_buffer *kernel;
	struct umap map;
	struct umap_ring_reader reader;
} ring;

static int count_record(void *ctx, void *data, size_t size)
{
	(void)ctx;
	(void)data;
	ring.got += size == 16;
	return 0;
}

/* What is there now; false: nothing was. */
static bool take_all(void)
{
	uint64_t before = ring.got;
	const void *data;
	u32 size;

	if (ring.kernel)
		return ring_buffer__consume(ring.kernel) > 0;
	while (umap_ring_next(&ring.reader, &data, &size))
		ring.got += size == 16;
	return ring.got != before;
}

static void *read_all(void *arg)
{
	(void)arg;
	while (!__atomic_load_n(&ring.stop, __ATOMIC_ACQUIRE))
		if (!take_all())
			usleep(NAP_US);
	while (take_all())
		;
	return NULL;
}

static struct uerr *start(void)
{
	int err;

	ring.stop = false;
	ring.got = 0;
	take_all(); /* of an earlier run */
	ring.got = 0;
	err = pthread_create(&ring.thread, NULL, read_all, NULL);
	ring.running = !err;
	return err ? uerr_errno(err, "a thread that reads") : NULL;
}

struct uerr *ring_read_kernel(int map_fd)
{
	ring.kernel = ring_buffer__new(map_fd, count_record, NULL, NULL);
	return ring.kernel ? start() : uerr_errno(errno, "the kernel's ring");
}

/* PID's descriptor of the map NAME. */
static int open_map(pid_t pid, const char *name)
{
	char folder[64], path[384], link[64], want[64];
	DIR *dir;
	int fd = -1;

	snprintf(folder, sizeof(folder), "/proc/%d/fd", pid);
	snprintf(want, sizeof(want), "/memfd:%s (deleted)", name);
	dir = opendir(folder);
	for (struct dirent *d; dir && fd < 0 && (d = readdir(dir));) {
		ssize_t n;

		snprintf(path, sizeof(path), "%s/%s", folder, d->d_name);
		n = readlink(path, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = 0;
		if (!strcmp(link, want))
			fd = open(path, O_RDWR | O_CLOEXEC);
	}
	if (dir)
		closedir(dir);
	return fd;
}

struct uerr *ring_read_userspace(pid_t daemon, const char *map, uint32_t bytes)
{
	cleanup_close int fd = open_map(daemon, map);
	struct uerr *err;
	void *mem;

	if (fd < 0 || umap_geometry(UMAP_RINGBUF, 0, 0, bytes, 0, 1, 1, &ring.map))
		return uerr_new(UERR_FAILED, "there is no map %s in the daemon", map);
	mem = mmap(NULL, ring.map.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		return uerr_errno(errno, "map %s", map);
	ring.map.base = (u64)mem;
	err = umap_ring_reader_init(&ring.reader, &ring.map);
	return err ? err : start();
}

uint64_t ring_stop(void)
{
	if (ring.running) {
		__atomic_store_n(&ring.stop, true, __ATOMIC_RELEASE);
		pthread_join(ring.thread, NULL);
	}
	ring.running = false;
	ring_buffer__free(ring.kernel);
	ring.kernel = NULL;
	umap_ring_reader_deinit(&ring.reader);
	if (ring.map.base)
		munmap((void *)ring.map.base, ring.map.size);
	ring.map.base = 0;
	return ring.got;
}
