/* SPDX-License-Identifier: MIT */
/* GetStatus and Shutdown. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/dispatch.h"
#include "daemon/target.h"

static u64 resident_bytes(void)
{
	cleanup_fclose FILE *f = fopen("/proc/self/statm", "re");
	unsigned long long pages;

	return f && fscanf(f, "%*u %llu", &pages) == 1 ? pages * sysconf(_SC_PAGESIZE) : 0;
}

static void add_warnings(const struct daemon *d, cJSON *warnings)
{
	vec_foreach(w, &d->warnings)
		cJSON_AddItemToArray(warnings, cJSON_CreateString(*w));
	vec_foreach(t, &d->state->targets) {
		u32 retired = target_retired(*t);
		char text[128];

		if (!retired)
			continue;
		snprintf(text, sizeof(text), "process %d: %u mapping%s stay until nobody is inside (retired)", (*t)->pid,
			 retired, retired == 1 ? "" : "s");
		cJSON_AddItemToArray(warnings, cJSON_CreateString(text));
	}
}

void cmd_get_status(struct request *req)
{
	const struct daemon *d = req->d;
	cJSON *r = cJSON_CreateObject();
	u32 programs = 0, maps = 0;

	vec_foreach(o, &d->state->objects) {
		programs += (*o)->obj->nprogs;
		maps += (*o)->obj->nmaps;
	}
	cJSON_AddStringToObject(r, "version", UPROBED_VERSION);
	cJSON_AddNumberToObject(r, "pid", getpid());
	cJSON_AddNumberToObject(r, "uid", geteuid());
	cJSON_AddStringToObject(r, "started", d->started);
	cJSON_AddStringToObject(r, "socket", d->cfg.socket);
	cJSON_AddBoolToObject(r, "private", d->cfg.private_);
	cJSON_AddNumberToObject(r, "rss_bytes", resident_bytes());
	cJSON_AddNumberToObject(r, "objects", d->state->objects.n);
	cJSON_AddNumberToObject(r, "programs", programs);
	cJSON_AddNumberToObject(r, "maps", maps);
	cJSON_AddNumberToObject(r, "links", d->state->links.n);
	cJSON_AddNumberToObject(r, "targets", d->state->targets.n);
	add_warnings(d, cJSON_AddArrayToObject(r, "warnings"));
	request_reply(req, r);
}

void cmd_shutdown(struct request *req)
{
	struct daemon *d = req->d;

	if (!peer_is_master(&req->peer)) {
		request_fail(req, uerr_new(UERR_NOT_PERMITTED, "only root and uid %u may stop this daemon",
					   (unsigned)geteuid()));
		return;
	}
	request_reply(req, NULL);
	daemon_stop(d);
}
