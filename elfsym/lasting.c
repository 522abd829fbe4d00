/* SPDX-License-Identifier: MIT */
/*
 * Which modules cannot be unloaded. The dynamic linker never unloads the program,
 * nor what it loaded with it because of DT_NEEDED entries, nor a library with
 * DF_1_NODELETE. All others may go with the next dlclose().
 */
#include <string.h>

#include "base/cleanup.h"
#include "elfsym/image_int.h"
#include "elfsym/resolve_int.h"

#define NAME_MAX_LEN 128

/* The string at OFF of IM's dynamic string table; false when it cannot be read
 * or is too long to be a file's name here. */
static bool dyn_string(const struct image *im, u64 off, char ret[NAME_MAX_LEN])
{
	cleanup_uerr struct uerr *err = NULL;
	u64 table, size, len;

	if (!image_dyn(im, DT_STRTAB, &table) || !image_dyn(im, DT_STRSZ, &size) || off >= size)
		return false;
	len = size - off < NAME_MAX_LEN ? size - off : NAME_MAX_LEN;
	err = image_read(im, table + off, ret, len);
	return !err && memchr(ret, 0, len) && *ret;
}

static bool has_name(const struct module *mod, const char *soname)
{
	const char *slash = strrchr(mod->path, '/');
	char own[NAME_MAX_LEN];
	u64 off;

	if (!strcmp(slash ? slash + 1 : mod->path, soname))
		return true;
	return image_dyn(mod->image, DT_SONAME, &off) && dyn_string(mod->image, off, own) && !strcmp(own, soname);
}

/* The only module called SONAME, or NULL. */
static struct module *find_needed(struct modules *m, const char *soname)
{
	struct module *found = NULL;

	for (size_t i = 0; i < m->n; i++) {
		if (!has_name(&m->mods[i], soname))
			continue;
		if (found)
			return NULL;
		found = &m->mods[i];
	}
	return found;
}

static void mark(struct modules *m, struct module *mod)
{
	const struct image *im = mod->image;
	char name[NAME_MAX_LEN];

	if (mod->lasting)
		return;
	mod->lasting = true;
	for (size_t i = 0; i < im->ndyns; i++) {
		struct module *needed;

		if (im->dyns[i].d_tag != DT_NEEDED || !dyn_string(im, im->dyns[i].d_un.d_val, name))
			continue;
		needed = find_needed(m, name);
		if (needed)
			mark(m, needed);
	}
}

static bool is_nodelete(const struct image *im)
{
	u64 flags;

	return image_dyn(im, DT_FLAGS_1, &flags) && flags & DF_1_NODELETE;
}

void modules_mark_lasting(struct modules *m)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->mods[i].main || is_nodelete(m->mods[i].image))
			mark(m, &m->mods[i]);
}
