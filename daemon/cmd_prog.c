/* SPDX-License-Identifier: MIT */
/* DumpProgram and TraceLog. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/arena.h"
#include "daemon/dispatch.h"
#include "daemon/find.h"
#include "daemon/target.h"
#include "vm/jit.h"
#include "vm/runtime.h"

#define LINES_AT_ONCE 1000u
#define BACKLOG_MAX (1u << 20) /* a follower that does not read gets no more */

/*
 * DumpProgram.
 */

static const struct arena_prog *find_in_arena(const struct arena *a, u32 program)
{
	vec_foreach(p, &a->progs)
		if (p->program == program)
			return p;
	return NULL;
}

/* The code as it lies in a process (PID 0: any that has it). */
static struct uerr *jited_in_target(const struct state *s, const struct program *p, pid_t pid, char **ret)
{
	vec_foreach(t, &s->targets) {
		if (pid && (*t)->pid != pid)
			continue;
		vec_foreach(a, &(*t)->arenas) {
			const struct arena_prog *ap = find_in_arena(a, p->id);
			struct jit_output out = {};
			struct uerr *err;

			if (!ap || a->retired)
				continue;
			err = arena_jit(a, *t, p, ap->entry, &out);
			if (err)
				return err;
			*ret = disasm_jited(p->prog, &out, ap->entry);
			jit_output_deinit(&out);
			return *ret ? NULL : uerr_nomem();
		}
	}
	return pid ? uerr_new(UERR_FAILED, "program %s is not attached in process %d", p->prog->name, pid) : NULL;
}

static addr_t some_helper(u32 id, void *arg)
{
	(void)arg;
	return PAGE + id;
}

/* Attached nowhere: as it would be, with made-up addresses. */
static struct uerr *jited_nowhere(const struct program *p, char **ret)
{
	size_t n = p->owner->obj->nmaps;
	cleanup_free struct jit_map *maps = calloc(n + 1, sizeof(*maps));
	struct jit_input in = { .prog = p->prog, .maps = maps, .nmaps = n, .helper_addr = some_helper };
	struct jit_output out = {};
	struct uerr *err;

	if (!maps)
		return uerr_nomem();
	for (size_t i = 0; i < n; i++)
		maps[i].map = &p->owner->maps[i].umap;
	err = jit_compile(&in, &out);
	if (err)
		return err;
	*ret = disasm_jited(p->prog, &out, 0);
	jit_output_deinit(&out);
	return *ret ? NULL : uerr_nomem();
}

static struct uerr *dump(const struct request *req, const struct program *p, char **ret)
{
	const char *kind = param_str(req, "kind");
	const cJSON *pid = param_item(req, "pid");
	struct uerr *err;

	if (!strcmp(kind, "xlated")) {
		*ret = disasm_xlated(p->prog, p->owner->vm_maps, p->owner->obj->nmaps);
		return *ret ? NULL : uerr_nomem();
	}
	if (strcmp(kind, "jited"))
		return uerr_new(UERR_USAGE, "kind is xlated or jited, not '%s'", kind);
	err = jited_in_target(req->d->state, p, pid ? pid->valueint : 0, ret);
	return err || *ret ? err : jited_nowhere(p, ret);
}

void cmd_dump_program(struct request *req)
{
	cleanup_free char *text = NULL;
	struct program *p;
	struct uerr *err = find_program(req, param_str(req, "program"), &p);
	cJSON *r;

	if (!err)
		err = dump(req, p, &text);
	if (err) {
		request_fail(req, err);
		return;
	}
	r = cJSON_CreateObject();
	cJSON_AddStringToObject(r, "text", text);
	request_reply(req, r);
}

/*
 * TraceLog.
 */

/* Text that a target wrote: valid UTF-8 or not, JSON needs it clean. */
static void add_clean(cJSON *obj, const char *name, const char *s, size_t max)
{
	char clean[256];
	size_t n = 0;

	for (; n < max && n < sizeof(clean) - 1 && s[n]; n++)
		clean[n] = (unsigned char)s[n] < 0x20 || (unsigned char)s[n] >= 0x7f ? '?' : s[n];
	clean[n] = 0;
	cJSON_AddStringToObject(obj, name, clean);
}

static cJSON *view_line(const struct trace_line *l)
{
	cJSON *r = cJSON_CreateObject();

	cJSON_AddItemToObject(r, "ts_ns", protocol_u64(l->ts_ns));
	cJSON_AddNumberToObject(r, "pid", l->pid);
	cJSON_AddNumberToObject(r, "tid", l->tid);
	cJSON_AddNumberToObject(r, "cpu", l->cpu);
	add_clean(r, "comm", l->comm, sizeof(l->comm));
	add_clean(r, "text", l->text, sizeof(l->text));
	return r;
}

/* The daemon reads a ring once and keeps no lines: they go to whoever follows.
 * Fork children share a ring. */
static bool take_lines(const struct request *req, const struct target *t, cJSON *lines, u64 *missed)
{
	struct threads *th = t->threads;
	struct trace_line line;
	u32 n = 0;

	while (n < LINES_AT_ONCE && trace_ring_next(th->ring, &th->cursor, &line, &th->lost) == 1) {
		cJSON_AddItemToArray(lines, view_line(&line));
		n++;
	}
	*missed += th->lost;
	th->lost = 0;
	return n;
}

static cJSON *news(const struct request *req, bool *any)
{
	const cJSON *pid = param_item(req, "pid");
	cJSON *r = cJSON_CreateObject();
	cJSON *lines = cJSON_AddArrayToObject(r, "lines");
	u64 missed = 0;

	*any = false;
	vec_foreach(t, &req->d->state->targets) {
		if ((pid && (*t)->pid != pid->valueint) || !peer_may(&req->peer, (*t)->uid) || !(*t)->installed)
			continue;
		if (take_lines(req, *t, lines, &missed))
			*any = true;
	}
	*any = *any || missed;
	cJSON_AddItemToObject(r, "missed", protocol_u64(missed));
	return r;
}

static void follow(struct request *req)
{
	cJSON *r;
	bool any;

	if (request_backlog(req) > BACKLOG_MAX)
		return;
	r = news(req, &any);
	if (any)
		request_continue(req, r);
	else
		cJSON_Delete(r);
}

void cmd_trace_log(struct request *req)
{
	bool any;

	if (!req->more) {
		request_reply(req, news(req, &any));
		return;
	}
	req->poll = follow;
	daemon_set_timer(req->d, true);
	request_continue(req, news(req, &any));
}
