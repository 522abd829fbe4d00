/* SPDX-License-Identifier: MIT */
/* The daemon's containers and ids; see state.h. */
#include "daemon/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "daemon/loaded.h"
#include "daemon/target.h"
#include "daemon/usdt_specs.h"

#define TARGET_NO_MAX 16383u

void time_text(char ret[32])
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(ret, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* "0-3" or "0,2-5": the highest number counts, since slots are indexed by it. */
u32 possible_cpus(void)
{
	cleanup_fclose FILE *f = fopen("/sys/devices/system/cpu/possible", "re");
	unsigned last = 0, v;
	int c;

	while (f && fscanf(f, "%u", &v) == 1) {
		last = v;
		c = fgetc(f);
		if (c != '-' && c != ',')
			break;
	}
	return last + 1;
}

struct state *state_create(void)
{
	struct state *s = calloc(1, sizeof(*s));

	if (s)
		s->ncpus = possible_cpus();
	return s;
}

void state_destroy(struct state *s)
{
	if (!s)
		return;
	vec_foreach(t, &s->targets)
		target_destroy(*t);
	vec_foreach(l, &s->links)
		link_destroy(*l);
	vec_foreach(o, &s->objects)
		loaded_destroy(*o);
	vec_free(&s->targets);
	vec_free(&s->links);
	vec_free(&s->objects);
	free(s);
}

struct loaded *state_object(const struct state *s, u32 id)
{
	vec_foreach(o, &s->objects)
		if ((*o)->id == id)
			return *o;
	return NULL;
}

struct program *state_program(const struct state *s, u32 id)
{
	vec_foreach(o, &s->objects)
		for (size_t i = 0; i < (*o)->obj->nprogs; i++)
			if ((*o)->progs[i].id == id)
				return &(*o)->progs[i];
	return NULL;
}

struct map *state_map(const struct state *s, u32 id)
{
	vec_foreach(o, &s->objects)
		for (size_t i = 0; i < (*o)->obj->nmaps; i++)
			if ((*o)->maps[i].id == id)
				return &(*o)->maps[i];
	return NULL;
}

struct link *state_link(const struct state *s, u32 id)
{
	vec_foreach(l, &s->links)
		if ((*l)->id == id)
			return *l;
	return NULL;
}

struct target *state_target(const struct state *s, pid_t pid)
{
	vec_foreach(t, &s->targets)
		if ((*t)->pid == pid)
			return *t;
	return NULL;
}

struct target *state_target_no(const struct state *s, u32 no)
{
	vec_foreach(t, &s->targets)
		if ((*t)->no == no)
			return *t;
	return NULL;
}

u32 state_new_target_no(struct state *s)
{
	for (u32 i = 0; i < TARGET_NO_MAX; i++) {
		s->last_target = s->last_target % TARGET_NO_MAX + 1;
		if (!state_target_no(s, s->last_target))
			return s->last_target;
	}
	return 0;
}

#define vec_remove(v, value)                                                                              \
	do {                                                                                              \
		for (size_t _i = 0; _i < (v)->n; _i++)                                                    \
			if ((v)->data[_i] == (value)) {                                                   \
				memmove((v)->data + _i, (v)->data + _i + 1,                               \
					((v)->n - _i - 1) * sizeof(*(v)->data));                          \
				(v)->n--;                                                                 \
				break;                                                                    \
			}                                                                                 \
	} while (0)

void state_remove_object(struct state *s, struct loaded *l)
{
	vec_remove(&s->objects, l);
	loaded_destroy(l);
}

void state_remove_link(struct state *s, struct link *l)
{
	const struct loaded *o = state_object(s, l->object);

	if (o)
		usdt_specs_free(o, l->id);
	vec_remove(&s->links, l);
	link_destroy(l);
}

void state_remove_target(struct state *s, struct target *t)
{
	vec_remove(&s->targets, t);
	target_destroy(t);
}
