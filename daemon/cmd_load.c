/* SPDX-License-Identifier: MIT */
/* Load and Unload. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/attach_job.h"
#include "daemon/dispatch.h"
#include "daemon/find.h"
#include "daemon/loaded.h"
#include "daemon/section.h"
#include "daemon/select.h"
#include "elfsym/resolve.h"
#include "vm/object_internal.h"

#define MAP_SIZES_MAX 64u

static struct uerr *parse_sizes(const struct request *req, struct object_map_size *sizes, size_t *n)
{
	const cJSON *item;

	*n = 0;
	cJSON_ArrayForEach(item, param_item(req, "map_sizes")) {
		const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(item, "name"));
		u64 max;

		if (*n == MAP_SIZES_MAX)
			return uerr_new(UERR_USAGE, "more than %u map sizes", MAP_SIZES_MAX);
		if (!name || !protocol_get_u64(item, "max_entries", &max) || !max || max > UINT32_MAX)
			return uerr_new(UERR_USAGE, "map_sizes: each is {name, max_entries}");
		sizes[(*n)++] = (struct object_map_size){ name, max };
	}
	return NULL;
}

/* What a program's section says becomes a group of its own. */
static struct uerr *add_section(const struct request *req, const struct program *p, struct wanted *w)
{
	cleanup(spec_deinit) struct spec spec = {};
	struct wanted_group g = {};
	struct section section;
	char *text, *paths[1];
	struct uerr *err;

	section_parse(p->prog->section, &section);
	if (!section.spec[0])
		return NULL;
	err = spec_parse(section.spec, &spec);
	if (err)
		return uerr_prefix(err, "SEC(\"%s\")", p->prog->section);
	paths[0] = spec.binary;
	err = select_targets(req, param_item(req, "target"), paths, spec.binary && spec.binary[0] == '/', &g.pids);
	if (err) {
		vec_free(&g.pids);
		return err;
	}
	text = strdup(section.spec);
	if (!text || !vec_push(&g.specs, text) ||
	    !vec_push(&g.programs, (struct wanted_program){ .program = p->id, .section = section.side }) ||
	    !vec_push(&w->groups, g))
		return uerr_nomem();
	vec_foreach(pid, &g.pids)
		if (!pid_vec_has(&w->pids, *pid) && !vec_push(&w->pids, *pid))
			return uerr_nomem();
	return NULL;
}

static struct uerr *sections_wanted(const struct request *req, const struct loaded *l, struct wanted *w)
{
	struct uerr *err = NULL;

	for (size_t i = 0; !err && i < l->obj->nprogs; i++)
		err = add_section(req, &l->progs[i], w);
	return err;
}

static void reply_load(struct request *req, const struct loaded *l, const char *warning)
{
	cJSON *r = cJSON_CreateObject(), *warnings;

	cJSON_AddItemToObject(r, "object", view_object(req->d, l));
	cJSON_AddItemToObject(r, "programs", view_programs(req->d, l));
	cJSON_AddItemToObject(r, "maps", view_maps(l));
	cJSON_AddArrayToObject(r, "links");
	cJSON_AddArrayToObject(r, "sites");
	cJSON_AddArrayToObject(r, "refused");
	cJSON_AddArrayToObject(r, "stops");
	warnings = cJSON_AddArrayToObject(r, "warnings");
	if (warning)
		cJSON_AddItemToArray(warnings, cJSON_CreateString(warning));
	request_reply(req, r);
}

static void attach_loaded(struct request *req, struct loaded *l)
{
	struct wanted *w = wanted_create();
	struct uerr *err = w ? sections_wanted(req, l, w) : uerr_nomem();

	if (w)
		w->trap = param_bool(req, "trap");
	if (!err && w->groups.n) {
		attach_job_start(req, w, l, l->client);
		return;
	}
	wanted_destroy(w);
	if (err) {
		state_remove_object(req->d->state, l);
		request_fail(req, uerr_prefix(err, "nothing was loaded"));
		return;
	}
	reply_load(req, l, "loaded, not attached: no section says where ('bpfctl attach')");
}

/* Parsing a hostile object may take long: not in the daemon. */
static struct uerr *load_work(struct job *job, struct packer *result)
{
	const struct request *req = job->req;
	struct object_map_size sizes[MAP_SIZES_MAX];
	struct object_opts opts = { .name = param_str(req, "name"), .sizes = sizes };
	cleanup_free void *bytes = NULL;
	cleanup_free u8 *packed = NULL;
	struct object *obj;
	size_t size = 0, n;
	struct uerr *err = parse_sizes(req, sizes, &opts.nsizes);

	if (!err)
		err = protocol_base64_decode(param_str(req, "object"), &bytes, &size);
	if (!err)
		err = object_open_isolated(bytes, size, &opts, &obj);
	if (err)
		return err;
	packed = object_pack(obj, NULL, &n);
	object_free(obj);
	if (!packed)
		return uerr_nomem();
	pack_bytes(result, packed, n);
	return NULL;
}

static struct uerr *take_object(struct request *req, const struct unpacker *u, struct loaded **ret)
{
	struct load_opts opts = {
		.name = param_str(req, "name"),
		.uid = req->peer.uid,
		.client = param_bool(req, "ephemeral") ? req->client_id : 0,
		.allow_override = param_bool(req, "allow_override"),
	};
	struct object *obj;
	struct uerr *err = object_unpack(u->p, u->end - u->p, &obj);

	return err ? err : loaded_create(req->d->state, obj, &opts, ret);
}

static void load_done(struct job *job, struct uerr *err, struct unpacker *result)
{
	struct request *req = job->req;
	struct loaded *l;

	if (!err && req->client)
		err = take_object(req, result, &l);
	else if (!err)
		err = uerr_new(UERR_FAILED, "the client is gone");
	/* the request goes on without this job */
	req->job = NULL;
	job->req = NULL;
	if (err)
		request_fail(req, err);
	else if (param_bool(req, "attach"))
		attach_loaded(req, l);
	else
		reply_load(req, l, NULL);
}

void cmd_load(struct request *req)
{
	struct job *job;

	if (req->d->stopping) {
		request_fail(req, uerr_new(UERR_FAILED, "the daemon is stopping"));
		return;
	}
	job = job_create(req->d, req, "loading", load_work, load_done, NULL, NULL);
	if (!job) {
		request_fail(req, uerr_nomem());
		return;
	}
	job_submit(job);
}

/* ARG: the object's id. */
static void unload_detached(struct daemon *d, struct request *req, const struct outcome *o, void *arg)
{
	struct loaded *l = state_object(d->state, (u32)(uintptr_t)arg);
	cJSON *r, *stops;

	if (o->err) {
		if (req)
			request_fail(req, uerr_new(o->err->code, "it stays loaded: %s", o->err->message));
		return;
	}
	if (l)
		state_remove_object(d->state, l);
	if (!req)
		return;
	r = cJSON_CreateObject();
	stops = cJSON_AddArrayToObject(r, "stops");
	vec_foreach(s, &o->stops)
		cJSON_AddItemToArray(stops, view_stop(s));
	request_reply(req, r);
}

void cmd_unload(struct request *req)
{
	struct outcome nothing = {};
	VEC(u32) links = {};
	struct loaded *l;
	struct uerr *err = find_object(req, param_str(req, "object"), &l);

	if (err) {
		request_fail(req, err);
		return;
	}
	vec_foreach(it, &req->d->state->links)
		if ((*it)->object == l->id && !vec_push(&links, (*it)->id))
			break;
	if (links.n)
		detach_job_start(req->d, req, links.data, links.n, unload_detached, (void *)(uintptr_t)l->id);
	else
		unload_detached(req->d, req, &nothing, (void *)(uintptr_t)l->id);
	vec_free(&links);
}
