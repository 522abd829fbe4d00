// SPDX-License-Identifier: MIT
/* TARGET and SPEC; see target.h. */
#include "cli/target.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/cli.h"

static const char *const kinds[] = { "uprobe:", "uretprobe:", "usdt:" };

/* Behind the kind, if there is one. */
static const char *spec_body(const char *spec)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strncmp(spec, kinds[i], strlen(kinds[i])))
			return spec + strlen(kinds[i]);
	return spec;
}

/* Length of BINARY: up to the first colon that is no part of "::"; 0: none. */
static size_t spec_binary_length(const char *body)
{
	for (const char *p = body; *p; p++) {
		if (*p != ':')
			continue;
		if (p[1] != ':')
			return p - body;
		p++;
	}
	return 0;
}

const char *spec_symbol(const char *spec)
{
	const char *body = spec_body(spec);
	size_t n = spec_binary_length(body);

	return body[n] == ':' ? body + n + 1 : body;
}

bool spec_is_entry(const char *spec)
{
	const char *symbol = spec_symbol(spec), *plus = strrchr(symbol, '+');

	return strncmp(spec, "uretprobe:", strlen("uretprobe:")) != 0 && strncmp(spec, "usdt:", strlen("usdt:")) != 0 &&
	       strncmp(symbol, "0x", 2) != 0 && !(plus && isdigit((unsigned char)plus[1]));
}

bool spec_is_glob(const char *spec)
{
	const char *body = spec_body(spec);
	size_t n = spec_binary_length(body);

	return strpbrk(body + n, "*?[");
}

/* BINARY of SPEC if it is a path: malloc'd, absolute. *RET NULL: it is none. */
static struct uerr *spec_path(const char *spec, char **ret)
{
	const char *body = spec_body(spec);
	size_t n = spec_binary_length(body);
	cleanup_free char *binary = strndup(body, n);

	*ret = NULL;
	if (!binary)
		return uerr_nomem();
	if (!strchr(binary, '/'))
		return NULL;
	/* an absolute path may be meant in the target's own root: left as it is */
	*ret = *binary == '/' ? strdup(binary) : realpath(binary, NULL);
	return *ret ? NULL : uerr_errno(errno, "%s: %s", spec, binary);
}

static struct uerr *spec_absolute(const char *spec, char **ret)
{
	const char *body = spec_body(spec);
	cleanup_free char *path = NULL;
	struct uerr *err;

	err = spec_path(spec, &path);
	if (err)
		return err;
	if (!path)
		*ret = strdup(spec);
	else if (asprintf(ret, "%.*s%s%s", (int)(body - spec), spec, path, body + spec_binary_length(body)) < 0)
		*ret = NULL;
	return *ret ? NULL : uerr_nomem();
}

struct uerr *specs_json(const char *const *specs, size_t n, cJSON **ret)
{
	cleanup_json cJSON *list = cJSON_CreateArray();

	for (size_t i = 0; i < n; i++) {
		cleanup_free char *spec = NULL;
		struct uerr *err = spec_absolute(specs[i], &spec);

		if (err)
			return err;
		cJSON_AddItemToArray(list, cJSON_CreateString(spec));
	}
	*ret = steal_ptr(list);
	return NULL;
}

cJSON *nots_json(const struct opts *o)
{
	return o->nots.n ? cJSON_CreateStringArray(o->nots.data, o->nots.n) : NULL;
}

/* -x FILE: as the kernel would name it, if it is there on our side. */
static void add_path(cJSON *paths, const char *path)
{
	cleanup_free char *real = realpath(path, NULL);

	cJSON_AddItemToArray(paths, cJSON_CreateString(real ? real : path));
}

static struct uerr *add_spec_paths(cJSON *target, const char *const *specs, size_t n)
{
	cJSON *paths = NULL;

	for (size_t i = 0; i < n; i++) {
		cleanup_free char *path = NULL;
		struct uerr *err = spec_path(specs[i], &path);

		if (err)
			return err;
		if (!path)
			continue;
		if (!paths)
			paths = cJSON_AddArrayToObject(target, "paths");
		add_path(paths, path);
	}
	return NULL;
}

struct uerr *target_json(const struct opts *o, const char *const *specs, size_t n, pid_t child, bool needed,
			 cJSON **ret)
{
	cleanup_json cJSON *target = cJSON_CreateObject();
	bool any = o->pids.n || o->names.n || o->paths.n;
	struct uerr *err;

	if (child && any)
		return uerr_new(UERR_USAGE, "either -- COMMAND, or -p, -n, -x: not both");
	if (child || o->pids.n) {
		cJSON *pids = cJSON_AddArrayToObject(target, "pids");

		if (child)
			cJSON_AddItemToArray(pids, cJSON_CreateNumber(child));
		vec_foreach(pid, &o->pids)
			cJSON_AddItemToArray(pids, cJSON_CreateNumber(*pid));
	}
	if (o->names.n)
		cJSON_AddItemToObject(target, "names", cJSON_CreateStringArray(o->names.data, o->names.n));
	if (o->paths.n) {
		cJSON *paths = cJSON_AddArrayToObject(target, "paths");

		vec_foreach(path, &o->paths)
			add_path(paths, *path);
	}
	if (!child && !any) {
		err = add_spec_paths(target, specs, n);
		if (err)
			return err;
		any = cJSON_GetArraySize(target) > 0;
	}
	if (!child && !any) {
		*ret = NULL;
		return needed ? uerr_new(UERR_USAGE, "which process? -p PID, -n NAME, -x FILE, or -- COMMAND") : NULL;
	}
	cJSON_AddBoolToObject(target, "follow", !opt_given(o, OPT_NO_FOLLOW));
	if (opt_given(o, OPT_FORCE))
		cJSON_AddBoolToObject(target, "force", true);
	*ret = steal_ptr(target);
	return NULL;
}
