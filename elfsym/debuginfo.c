/* SPDX-License-Identifier: MIT */
/*
 * The separate debug file of a stripped image, whose .symtab has the same link
 * addresses: by build-id, then by .gnu_debuglink in the places that gdb looks.
 * A file counts only if its build-id is the image's or, without one, its CRC is
 * the link's. Names come from the image, so what is opened must be a regular
 * file and is parsed with the same distrust.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "elfsym/image_int.h"

#define DEBUG_ROOT "/usr/lib/debug"

/* The CRC-32 of .gnu_debuglink (that of Ethernet and zlib). */
static void crc_table(u32 table[256])
{
	for (u32 i = 0; i < 256; i++) {
		u32 c = i;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
		table[i] = c;
	}
}

static bool file_crc(int fd, u32 *ret)
{
	u32 table[256], crc = ~0u;
	cleanup_free u8 *buf = malloc(1 << 16);
	off_t off = 0;
	ssize_t n;

	if (!buf)
		return false;
	crc_table(table);
	while ((n = pread(fd, buf, 1 << 16, off)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			crc = table[(crc ^ buf[i]) & 0xff] ^ crc >> 8;
		off += n;
	}
	*ret = ~crc;
	return !n;
}

/* Opens PATH as IM's debug file; CRC is NULL when only a build-id may vouch. */
static struct image *try_path(const struct image *im, const char *path, const u32 *crc)
{
	cleanup_close int fd = image_open_regular(path);
	cleanup_uerr struct uerr *err = NULL;
	struct image *debug = NULL;
	bool good;
	u32 have;

	if (fd < 0)
		return NULL;
	err = image_open_debug(fd, path, &debug);
	if (err)
		return NULL;
	if (im->build_id && debug->build_id)
		good = !strcmp(im->build_id, debug->build_id);
	else
		good = crc && file_crc(fd, &have) && have == *crc;
	/* The link may lead back to the stripped file itself. */
	if (good && debug->tables[TABLE_SYMTAB].size)
		return debug;
	image_unref(debug);
	return NULL;
}

static struct image *by_build_id(const struct image *im)
{
	char path[PATH_MAX];

	if (!im->build_id || strlen(im->build_id) < 3)
		return NULL;
	snprintf(path, sizeof(path), DEBUG_ROOT "/.build-id/%.2s/%s.debug", im->build_id, im->build_id + 2);
	return try_path(im, path, NULL);
}

/* .gnu_debuglink: a base name, padding to four bytes, the CRC. */
static bool read_link(const struct image *im, char **name, u32 *crc)
{
	struct span span = im->tables[TABLE_DEBUGLINK];
	cleanup_free void *buf = NULL;
	cleanup_uerr struct uerr *err = NULL;
	size_t len;

	if (!span.size || span.size > PATH_MAX)
		return false;
	err = image_load(im, span, &buf);
	if (err)
		return false;
	len = strlen(buf);
	if (!len || memchr(buf, '/', len) || ALIGN_UP(len + 1, 4) + sizeof(*crc) > span.size)
		return false;
	memcpy(crc, (char *)buf + ALIGN_UP(len + 1, 4), sizeof(*crc));
	*name = (char *)steal_ptr(buf);
	return true;
}

static struct image *by_link(const struct image *im)
{
	static const struct {
		const char *root, *folder;
	} places[] = { { "", "" }, { "", ".debug/" }, { DEBUG_ROOT, "" } };
	cleanup_free char *name = NULL;
	cleanup_free char *real = NULL;
	const char *slash;
	u32 crc;

	if (!read_link(im, &name, &crc))
		return NULL;
	real = realpath(im->name, NULL);
	slash = real ? strrchr(real, '/') : NULL;
	for (size_t i = 0; slash && i < ARRAY_SIZE(places); i++) {
		char path[PATH_MAX];
		struct image *debug;
		int n;

		n = snprintf(path, sizeof(path), "%s%.*s/%s%s", places[i].root, (int)(slash - real), real,
			     places[i].folder, name);
		debug = n < (int)sizeof(path) ? try_path(im, path, &crc) : NULL;
		if (debug)
			return debug;
	}
	return NULL;
}

struct image *debuginfo_find(const struct image *im)
{
	struct image *debug;

	if (im->is_debug)
		return NULL;
	debug = by_build_id(im);
	return debug ? debug : by_link(im);
}
