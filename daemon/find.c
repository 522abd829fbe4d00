/* SPDX-License-Identifier: MIT */
/* Ids and names; see find.h. */
#include "daemon/find.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NEAR_MAX 5u

static bool is_id(const char *text, u32 *ret)
{
	unsigned long v;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno || *end || v > UINT32_MAX)
		return false;
	*ret = v;
	return true;
}

/* The candidates seen so far, when a name is looked for. */
struct search {
	const char *text;
	void *found;
	u32 n;
	u32 first_id, second_id;
	const char *near[NEAR_MAX];
	u32 nnear;
};

static void consider(struct search *s, const char *name, bool match, u32 id, void *what)
{
	if (match) {
		if (!s->n)
			s->first_id = id;
		else if (s->n == 1)
			s->second_id = id;
		s->n++;
		s->found = what;
	} else if (s->nnear < NEAR_MAX) {
		s->near[s->nnear++] = name;
	}
}

static struct uerr *search_end(const struct search *s, const char *kind, void **ret)
{
	struct uerr *err;

	if (s->n == 1) {
		*ret = s->found;
		return NULL;
	}
	if (s->n > 1)
		return uerr_new(UERR_USAGE, "%u %ss are called '%s': name one by its id (%u, %u%s)", s->n, kind, s->text,
				s->first_id, s->second_id, s->n > 2 ? ", …" : "");
	err = uerr_new(UERR_FAILED, "there is no %s '%s'", kind, s->text);
	for (u32 i = 0; i < s->nnear; i++)
		uerr_add_near(err, s->near[i]);
	return err;
}

struct uerr *find_object(const struct request *req, const char *text, struct loaded **ret)
{
	struct search s = { .text = text };
	bool by_id;
	u32 id = 0;

	by_id = is_id(text, &id);
	vec_foreach(o, &req->d->state->objects) {
		if (!peer_may(&req->peer, (*o)->uid))
			continue;
		consider(&s, (*o)->name, by_id ? (*o)->id == id : !strcmp((*o)->name, text), (*o)->id, *o);
	}
	return search_end(&s, "object", (void **)ret);
}

/* "object.name" or "name" */
static bool qualified(const struct loaded *o, const char *name, const char *text)
{
	size_t n = strlen(o->name);

	if (!strcmp(name, text))
		return true;
	return !strncmp(o->name, text, n) && text[n] == '.' && !strcmp(name, text + n + 1);
}

struct uerr *find_program(const struct request *req, const char *text, struct program **ret)
{
	struct search s = { .text = text };
	bool by_id;
	u32 id = 0;

	by_id = is_id(text, &id);
	vec_foreach(o, &req->d->state->objects) {
		if (!peer_may(&req->peer, (*o)->uid))
			continue;
		for (size_t i = 0; i < (*o)->obj->nprogs; i++) {
			struct program *p = &(*o)->progs[i];

			consider(&s, p->prog->name, by_id ? p->id == id : qualified(*o, p->prog->name, text), p->id, p);
		}
	}
	return search_end(&s, "program", (void **)ret);
}

struct uerr *find_map(const struct request *req, const char *text, struct map **ret)
{
	struct search s = { .text = text };
	bool by_id;
	u32 id = 0;

	by_id = is_id(text, &id);
	vec_foreach(o, &req->d->state->objects) {
		if (!peer_may(&req->peer, (*o)->uid))
			continue;
		for (size_t i = 0; i < (*o)->obj->nmaps; i++) {
			struct map *m = &(*o)->maps[i];

			consider(&s, m->name, by_id ? m->id == id : qualified(*o, m->name, text), m->id, m);
		}
	}
	return search_end(&s, "map", (void **)ret);
}

struct uerr *find_link(const struct request *req, const char *text, struct link **ret)
{
	struct link *l = NULL;
	u32 id;

	if (is_id(text, &id))
		l = state_link(req->d->state, id);
	if (!l || !peer_may(&req->peer, l->uid))
		return uerr_new(UERR_FAILED, "there is no link '%s' (bpfctl link list)", text);
	*ret = l;
	return NULL;
}
