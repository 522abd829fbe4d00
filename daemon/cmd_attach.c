/* SPDX-License-Identifier: MIT */
/* Attach and Detach: from parameters to jobs. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/attach_job.h"
#include "daemon/dispatch.h"
#include "daemon/find.h"
#include "daemon/section.h"
#include "daemon/select.h"
#include "elfsym/resolve.h"

static struct uerr *parse_side(const char *probe, enum probe_side *ret)
{
	*ret = SIDE_UNKNOWN;
	if (!probe)
		return NULL;
	if (!strcmp(probe, "uprobe"))
		*ret = SIDE_ENTRY;
	else if (!strcmp(probe, "uretprobe"))
		*ret = SIDE_EXIT;
	else
		return uerr_new(UERR_USAGE, "probe is uprobe or uretprobe, not '%s'", probe);
	return NULL;
}

static struct uerr *add_program(const struct request *req, const cJSON *item, struct wanted_group *g)
{
	const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "program"));
	const char *probe = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "probe"));
	struct wanted_program wp = {};
	struct section section;
	struct program *p;
	struct uerr *err;

	if (!name)
		return uerr_new(UERR_USAGE, "programs: each has a 'program'");
	err = find_program(req, name, &p);
	if (!err)
		err = parse_side(probe, &wp.side);
	if (err)
		return err;
	section_parse(p->prog->section, &section);
	wp.section = section.side;
	wp.program = p->id;
	return vec_push(&g->programs, wp) ? NULL : uerr_nomem();
}

static struct uerr *add_programs(const struct request *req, struct wanted_group *g)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, param_item(req, "programs")) {
		struct uerr *err = add_program(req, item, g);

		if (err)
			return err;
	}
	return g->programs.n ? NULL : uerr_new(UERR_USAGE, "which program?");
}

/* SPECs are parsed before anything else happens, so that a misspelt one costs
 * nothing; a path in one implies the processes that map it. */
static struct uerr *add_spec(const char *text, struct wanted_group *g, char ***paths, size_t *npaths)
{
	cleanup(spec_deinit) struct spec spec = {};
	struct uerr *err = spec_parse(text, &spec);
	char *copy, **grown;

	if (err)
		return err;
	copy = strdup(text);
	if (!copy || !vec_push(&g->specs, copy)) {
		free(copy);
		return uerr_nomem();
	}
	if (!spec.binary || spec.binary[0] != '/')
		return NULL;
	grown = reallocarray(*paths, *npaths + 1, sizeof(*grown));
	if (!grown)
		return uerr_nomem();
	*paths = grown;
	grown[*npaths] = strdup(spec.binary);
	return grown[*npaths] ? (++*npaths, NULL) : uerr_nomem();
}

static struct uerr *add_specs(const struct request *req, struct wanted_group *g, char ***paths, size_t *npaths)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, param_item(req, "specs")) {
		struct uerr *err = add_spec(item->valuestring, g, paths, npaths);

		if (err)
			return err;
	}
	return g->specs.n ? NULL : uerr_new(UERR_USAGE, "which function? give at least one SPEC");
}

static struct uerr *add_nots(const struct request *req, struct wanted *w)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, param_item(req, "not")) {
		char *copy = strdup(item->valuestring);

		if (!copy || !vec_push(&w->nots, copy)) {
			free(copy);
			return uerr_nomem();
		}
	}
	return NULL;
}

static struct uerr *parse_attach(const struct request *req, struct wanted *w, char ***paths, size_t *npaths)
{
	struct wanted_group *g;
	struct uerr *err;
	u64 v;

	if (!vec_push(&w->groups, (struct wanted_group){}))
		return uerr_nomem();
	g = &w->groups.data[0];
	w->dry_run = param_bool(req, "dry_run");
	w->trap = param_bool(req, "trap");
	if (protocol_get_u64(req->params, "cookie", &v))
		w->cookie = v;
	if (protocol_get_u64(req->params, "cookie_base", &v)) {
		w->cookie = v;
		w->count_cookies = true;
	}
	err = add_programs(req, g);
	if (!err)
		err = add_specs(req, g, paths, npaths);
	if (!err)
		err = add_nots(req, w);
	if (!err)
		err = select_targets(req, param_item(req, "target"), *paths, *npaths, &w->pids);
	vec_foreach(pid, &w->pids)
		if (!err && !vec_push(&g->pids, *pid))
			err = uerr_nomem();
	return err;
}

void cmd_attach(struct request *req)
{
	struct wanted *w = wanted_create();
	char **paths = NULL;
	size_t npaths = 0;
	struct uerr *err = w ? parse_attach(req, w, &paths, &npaths) : uerr_nomem();

	for (size_t i = 0; i < npaths; i++)
		free(paths[i]);
	free(paths);
	if (err) {
		wanted_destroy(w);
		request_fail(req, err);
		return;
	}
	attach_job_start(req, w, NULL, param_bool(req, "ephemeral") ? req->client_id : 0);
}

/* ARG: the links that were to go. */
static void reply_detach(struct daemon *d, struct request *req, const struct outcome *o, void *arg)
{
	u32 *links = arg;
	cJSON *r, *ids, *stops;

	if (!req || o->err) {
		if (req)
			request_fail(req, uerr_new(o->err->code, "%s", o->err->message));
		free(links);
		return;
	}
	r = cJSON_CreateObject();
	ids = cJSON_AddArrayToObject(r, "detached");
	for (u32 i = 1; i <= links[0]; i++)
		if (!state_link(d->state, links[i]))
			cJSON_AddItemToArray(ids, cJSON_CreateNumber(links[i]));
	stops = cJSON_AddArrayToObject(r, "stops");
	vec_foreach(s, &o->stops)
		cJSON_AddItemToArray(stops, view_stop(s));
	request_reply(req, r);
	free(links);
}

static struct uerr *choose_links(struct request *req, u32 **ret)
{
	const struct state *s = req->d->state;
	const char *text = param_str(req, "link");
	u32 *ids = calloc(s->links.n + 2, sizeof(*ids));
	struct link *l;
	struct uerr *err = NULL;

	if (!ids)
		return uerr_nomem();
	*ret = ids;
	if (param_bool(req, "all")) {
		vec_foreach(it, &s->links)
			if (peer_may(&req->peer, (*it)->uid))
				ids[++ids[0]] = (*it)->id;
		return NULL;
	}
	if (!text)
		return uerr_new(UERR_USAGE, "which link? an id (bpfctl link list), or --all");
	err = find_link(req, text, &l);
	if (!err)
		ids[++ids[0]] = l->id;
	return err;
}

/* [0] holds how many follow. */
void cmd_detach(struct request *req)
{
	u32 *links = NULL;
	struct uerr *err = choose_links(req, &links);

	if (err) {
		free(links);
		request_fail(req, err);
		return;
	}
	detach_job_start(req->d, req, links + 1, links[0], reply_detach, links);
}
