/* SPDX-License-Identifier: MIT */
/*
 * MapDump, MapLookup, MapUpdate, MapDelete. The daemon reads and writes the
 * very memory that programs in targets use; nothing here waits for them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/dispatch.h"
#include "daemon/find.h"
#include "daemon/view.h"

#define DUMP_MAX 200000u /* elements in one reply */

static bool is_percpu(const struct map *m)
{
	return umap_is_percpu(m->umap.type);
}

static bool is_queue(const struct map *m)
{
	return umap_is_queue(m->umap.type);
}

static bool is_bloom(const struct map *m)
{
	return m->umap.type == UMAP_BLOOM_FILTER;
}

static bool is_progs(const struct map *m)
{
	return m->umap.type == UMAP_PROG_ARRAY;
}

static const struct object_map *meta(const struct map *m)
{
	return &m->owner->obj->maps[m->index];
}

static struct uerr *find_with_elements(struct request *req, struct map **ret)
{
	struct uerr *err = find_map(req, param_str(req, "map"), ret);

	if (!err && (*ret)->umap.type == UMAP_RINGBUF)
		return uerr_new(UERR_FAILED, "map %s is a ring buffer, which has no elements: bpfctl map tail %s shows its "
				"records", (*ret)->name, (*ret)->name);
	return err;
}

static struct umap_ctx context(const struct request *req)
{
	return (struct umap_ctx){ .rec = &req->d->state->rec, .owner = OWNER_ID(0, 0) };
}

static struct uerr *add_values(cJSON *obj, const struct map *m, const u8 *value)
{
	size_t stride = ALIGN_UP(m->umap.value_size, 8u);
	cJSON *values = cJSON_AddArrayToObject(obj, "values");

	for (u32 cpu = 0; cpu < m->umap.ncpus; cpu++) {
		cJSON *v = cJSON_CreateObject();
		struct uerr *err;

		cJSON_AddItemToArray(values, v);
		cJSON_AddNumberToObject(v, "cpu", cpu);
		err = view_add_typed(v, "value", m, meta(m)->btf_value_type_id, value + cpu * stride,
			       m->umap.value_size);
		if (err)
			return err;
	}
	return NULL;
}

/* A PROG_ARRAY's element by its program's id and name; nothing when somebody
 * scribbled. */
static void add_program(cJSON *obj, const struct map *m, u32 value)
{
	const struct program *p = value && value <= m->owner->obj->nprogs ? &m->owner->progs[value - 1] : NULL;
	char text[80] = "", hex[16] = "";

	if (p) {
		snprintf(text, sizeof(text), "\"%s\"", p->prog->name);
		snprintf(hex, sizeof(hex), "%02x %02x %02x %02x", p->id & 0xff, p->id >> 8 & 0xff, p->id >> 16 & 0xff,
			 p->id >> 24);
	}
	cJSON_AddStringToObject(obj, "value", hex);
	cJSON_AddStringToObject(obj, "value_json", text);
}

static struct uerr *element(const struct map *m, const u8 *key, const u8 *value, cJSON **ret)
{
	cJSON *e = cJSON_CreateObject();
	struct uerr *err;

	err = m->umap.key_size ? view_add_typed(e, "key", m, meta(m)->btf_key_type_id, key, m->umap.key_size)
			       : NULL;
	if (!err && is_percpu(m))
		err = add_values(e, m, value);
	else if (!err && is_progs(m))
		add_program(e, m, *(const u32 *)(const void *)value);
	else if (!err)
		err = view_add_typed(e, "value", m, meta(m)->btf_value_type_id, value, m->umap.value_size);
	if (err) {
		cJSON_Delete(e);
		return err;
	}
	*ret = e;
	return NULL;
}

/* Room for one key, the next key, and one value as readers see it. */
struct buffers {
	u8 *key, *next, *value;
};

static struct uerr *buffers_init(struct buffers *b, const struct map *m)
{
	b->key = calloc(1, m->umap.key_size + 8);
	b->next = calloc(1, m->umap.key_size + 8);
	b->value = calloc(1, umap_user_value_size(&m->umap) + 8);
	return b->key && b->next && b->value ? NULL : uerr_nomem();
}

static void buffers_deinit(struct buffers *b)
{
	free(b->key);
	free(b->next);
	free(b->value);
}

/* In the order in which pops would give them. All of them stay. */
static struct uerr *dump_queue(const struct map *m, cJSON *elements)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct uerr *err = buffers_init(&b, m);

	for (u32 n = 0; !err && !umap_peek_at(&m->umap, n, b.value); n++) {
		cJSON *e;

		if (n == DUMP_MAX)
			return uerr_new(UERR_FAILED, "map %s has more than %u elements: take some out (map delete)", m->name,
					DUMP_MAX);
		err = element(m, NULL, b.value, &e);
		if (!err)
			cJSON_AddItemToArray(elements, e);
	}
	return err;
}

static struct uerr *dump_keys(struct request *req, const struct map *m, cJSON *elements)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct umap_ctx cx = context(req);
	struct uerr *err = buffers_init(&b, m);
	u32 n = 0;

	for (long r = err ? -1 : umap_next_key(&m->umap, NULL, b.next); !r && !err;
	     r = umap_next_key(&m->umap, b.key, b.next)) {
		cJSON *e;

		memcpy(b.key, b.next, m->umap.key_size);
		if (umap_read(&m->umap, b.key, b.value, &cx)) /* deleted meanwhile */
			continue;
		if (++n > DUMP_MAX)
			return uerr_new(UERR_FAILED, "map %s has more than %u elements: look up single keys", m->name,
					DUMP_MAX);
		err = element(m, b.key, b.value, &e);
		if (!err)
			cJSON_AddItemToArray(elements, e);
	}
	return err;
}

static struct uerr *dump(struct request *req, const struct map *m, cJSON *elements)
{
	if (is_queue(m))
		return dump_queue(m, elements);
	if (is_bloom(m))
		return uerr_new(UERR_FAILED, "map %s is a bloom filter, which cannot be listed: ask for a value "
				"(bpfctl map lookup %s VALUE)", m->name, m->name);
	return dump_keys(req, m, elements);
}

void cmd_map_dump(struct request *req)
{
	struct map *m;
	struct uerr *err = find_with_elements(req, &m);
	cJSON *r = cJSON_CreateObject();

	if (!err) {
		cJSON_AddItemToObject(r, "map", view_map(m));
		err = dump(req, m, cJSON_AddArrayToObject(r, "elements"));
	}
	if (err) {
		cJSON_Delete(r);
		request_fail(req, err);
		return;
	}
	request_reply(req, r);
}

/* A value, from TEXT. */
static struct uerr *parse_text(const struct map *m, const char *text, u8 *value)
{
	return uerr_prefix(btf_value_from_text(m->owner->obj, meta(m)->btf_value_type_id, text, value, m->umap.value_size),
			   "value of map %s", m->name);
}

static struct uerr *parse_key(struct request *req, const struct map *m, u8 *key)
{
	const char *text = param_str(req, "key");

	if (!m->umap.key_size)
		return text ? uerr_new(UERR_USAGE, "map %s (type %s) has no keys", m->name, view_map_type(m->umap.type)) : NULL;
	if (!text)
		return uerr_new(UERR_USAGE, "map %s wants a key", m->name);
	return uerr_prefix(btf_value_from_text(m->owner->obj, meta(m)->btf_key_type_id, text, key, m->umap.key_size),
			   "key of map %s", m->name);
}

/* A PROG_ARRAY's value: a program of the same object, by id or name. */
static struct uerr *parse_program(struct request *req, const struct map *m, u8 *value)
{
	struct program *p;
	struct uerr *err = find_program(req, param_str(req, "value"), &p);

	if (err)
		return err;
	if (p->owner != m->owner)
		return uerr_new(UERR_USAGE, "map %s and program %s are of different objects: only programs of %s can be called "
				"through it", m->name, p->prog->name, m->owner->name);
	*(u32 *)(void *)value = p->index + 1;
	return NULL;
}

/* Every copy of a per-CPU value becomes the one that was given, as bpftool does. */
static struct uerr *parse_value(struct request *req, const struct map *m, u8 *value)
{
	size_t stride = ALIGN_UP(m->umap.value_size, 8u);
	struct uerr *err;

	if (is_progs(m))
		return parse_program(req, m, value);
	err = parse_text(m, param_str(req, "value"), value);

	for (u32 cpu = 1; !err && is_percpu(m) && cpu < m->umap.ncpus; cpu++)
		memcpy(value + cpu * stride, value, m->umap.value_size);
	return err;
}

static struct uerr *map_error(const struct request *req, const struct map *m, long r)
{
	switch (-r) {
	case ENOENT:
		if (is_queue(m))
			return uerr_new(UERR_FAILED, "map %s is empty", m->name);
		if (is_bloom(m))
			return uerr_new(UERR_FAILED, "map %s has never been given %s", m->name, param_str(req, "key"));
		return uerr_new(UERR_FAILED, "map %s has no key %s", m->name, param_str(req, "key"));
	case EEXIST:
		return uerr_new(UERR_FAILED, "map %s has key %s already", m->name, param_str(req, "key"));
	case E2BIG:
		if (is_queue(m))
			return uerr_new(UERR_FAILED, "map %s is full (%u elements); with 'exist' the oldest makes room",
					m->name, m->umap.max_entries);
		return uerr_new(UERR_FAILED, "map %s is full (%u elements), or the key is beyond its end", m->name,
				m->umap.max_entries);
	case EINVAL:
	case EOPNOTSUPP:
		return uerr_new(UERR_FAILED, "map %s (type %s) does not allow that", m->name, view_map_type(m->umap.type));
	}
	return uerr_errno(-r, "map %s", m->name);
}

static struct uerr *refuse_frozen(const struct map *m)
{
	return m->readonly ? uerr_new(UERR_NOT_PERMITTED, "map %s is read-only (frozen)", m->name) : NULL;
}

void cmd_map_lookup(struct request *req)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct umap_ctx cx = context(req);
	struct map *m;
	struct uerr *err = find_with_elements(req, &m);
	cJSON *r, *e = NULL;

	if (!err)
		err = buffers_init(&b, m);
	if (!err && is_bloom(m))
		err = param_str(req, "key") ? parse_text(m, param_str(req, "key"), b.value) :
					      uerr_new(UERR_USAGE, "map %s wants a value to ask about", m->name);
	else if (!err)
		err = parse_key(req, m, b.key);
	if (!err) {
		long rc = umap_read(&m->umap, b.key, b.value, &cx);

		err = rc ? map_error(req, m, rc) : element(m, b.key, b.value, &e);
	}
	if (err) {
		request_fail(req, err);
		return;
	}
	r = cJSON_CreateObject();
	cJSON_AddItemToObject(r, "map", view_map(m));
	cJSON_AddItemToObject(r, "element", e);
	request_reply(req, r);
}

static struct uerr *parse_flags(const char *text, u64 *ret)
{
	*ret = UMAP_ANY;
	if (!text || !strcmp(text, "any"))
		return NULL;
	if (!strcmp(text, "noexist"))
		*ret = UMAP_NOEXIST;
	else if (!strcmp(text, "exist"))
		*ret = UMAP_EXIST;
	else
		return uerr_new(UERR_USAGE, "flags are any, noexist or exist, not '%s'", text);
	return NULL;
}

void cmd_map_update(struct request *req)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct umap_ctx cx = context(req);
	struct map *m;
	struct uerr *err = find_with_elements(req, &m);
	u64 flags = 0;

	if (!err)
		err = refuse_frozen(m);
	if (!err)
		err = parse_flags(param_str(req, "flags"), &flags);
	if (!err)
		err = buffers_init(&b, m);
	if (!err)
		err = parse_key(req, m, b.key);
	if (!err)
		err = parse_value(req, m, b.value);
	if (!err) {
		long rc = umap_write(&m->umap, b.key, b.value, flags, &cx);

		err = rc ? map_error(req, m, rc) : NULL;
	}
	if (err)
		request_fail(req, err);
	else
		request_reply(req, NULL);
}

void cmd_map_delete(struct request *req)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct umap_ctx cx = context(req);
	struct map *m;
	struct uerr *err = find_with_elements(req, &m);
	cJSON *e = NULL, *r = NULL;

	if (!err)
		err = refuse_frozen(m);
	if (!err)
		err = buffers_init(&b, m);
	if (!err)
		err = parse_key(req, m, b.key);
	if (!err) {
		long rc = is_queue(m) ? umap_take(&m->umap, NULL, b.value, &cx) : umap_delete(&m->umap, b.key, &cx);

		err = rc ? map_error(req, m, rc) : NULL;
	}
	if (!err && is_queue(m))
		err = element(m, NULL, b.value, &e);
	if (err) {
		request_fail(req, err);
		return;
	}
	if (e) {
		r = cJSON_CreateObject();
		cJSON_AddItemToObject(r, "element", e);
	}
	request_reply(req, r);
}
