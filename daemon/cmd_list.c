/* SPDX-License-Identifier: MIT */
/* The List methods, GetLink and GetMissed: what is there, as far as the peer
 * may know. */
#include "daemon/dispatch.h"
#include "daemon/find.h"
#include "daemon/view.h"

/* {NAME: []}; the array into *ARRAY. */
static cJSON *reply_array(const char *name, cJSON **array)
{
	cJSON *r = cJSON_CreateObject();

	*array = cJSON_AddArrayToObject(r, name);
	return r;
}

void cmd_list_objects(struct request *req)
{
	cJSON *array, *r = reply_array("objects", &array);

	vec_foreach(o, &req->d->state->objects)
		if (peer_may(&req->peer, (*o)->uid))
			cJSON_AddItemToArray(array, view_object(req->d, *o));
	request_reply(req, r);
}

void cmd_list_programs(struct request *req)
{
	cJSON *array, *r = reply_array("programs", &array);

	vec_foreach(o, &req->d->state->objects)
		for (size_t i = 0; peer_may(&req->peer, (*o)->uid) && i < (*o)->obj->nprogs; i++)
			cJSON_AddItemToArray(array, view_program(req->d, &(*o)->progs[i]));
	request_reply(req, r);
}

void cmd_list_maps(struct request *req)
{
	cJSON *array, *r = reply_array("maps", &array);

	vec_foreach(o, &req->d->state->objects)
		for (size_t i = 0; peer_may(&req->peer, (*o)->uid) && i < (*o)->obj->nmaps; i++)
			cJSON_AddItemToArray(array, view_map(&(*o)->maps[i]));
	request_reply(req, r);
}

void cmd_list_links(struct request *req)
{
	cJSON *array, *r = reply_array("links", &array);

	vec_foreach(l, &req->d->state->links)
		if (peer_may(&req->peer, (*l)->uid))
			cJSON_AddItemToArray(array, view_link(req->d, *l));
	request_reply(req, r);
}

void cmd_list_targets(struct request *req)
{
	cJSON *array, *r = reply_array("targets", &array);

	vec_foreach(t, &req->d->state->targets)
		if (peer_may(&req->peer, (*t)->uid) && (*t)->installed)
			cJSON_AddItemToArray(array, view_target(req->d, *t));
	request_reply(req, r);
}

void cmd_get_link(struct request *req)
{
	struct link *l;
	struct uerr *err = find_link(req, param_str(req, "link"), &l);
	cJSON *r, *sites;

	if (err) {
		request_fail(req, err);
		return;
	}
	r = cJSON_CreateObject();
	cJSON_AddItemToObject(r, "link", view_link(req->d, l));
	sites = cJSON_AddArrayToObject(r, "sites");
	vec_foreach(t, &req->d->state->targets)
		vec_foreach(s, &(*t)->sites)
			if (s->link == l->id)
				cJSON_AddItemToArray(sites, view_site(*t, s));
	request_reply(req, r);
}

void cmd_get_missed(struct request *req)
{
	const cJSON *id;
	cJSON *r;
	u64 sum = 0;

	cJSON_ArrayForEach(id, param_item(req, "links")) {
		const struct link *l = state_link(req->d->state, id->valueint);

		if (l && peer_may(&req->peer, l->uid))
			sum += link_missed(req->d->state, l);
	}
	r = cJSON_CreateObject();
	cJSON_AddItemToObject(r, "missed", protocol_u64(sum));
	request_reply(req, r);
}
