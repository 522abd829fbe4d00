/* SPDX-License-Identifier: MIT */
/*
 * MapDump, MapLookup, MapUpdate, MapDelete, MapPop, MapFreeze, and the batches. The
 * daemon reads and writes the very memory that programs in targets use; nothing here
 * waits for them.
 */
#include <ctype.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/dispatch.h"
#include "daemon/find.h"
#include "daemon/target.h"
#include "daemon/view.h"
#include "vm/btf_index.h"

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

static bool is_user_ring(const struct map *m)
{
	return m->umap.type == UMAP_USER_RINGBUF;
}

static bool is_tasks(const struct map *m)
{
	return m->umap.type == UMAP_TASK_STORAGE;
}

static bool is_hash(const struct map *m)
{
	return m->umap.nelems && m->umap.type != UMAP_LPM_TRIE && !is_tasks(m);
}

static const struct object_map *meta(const struct map *m)
{
	return &m->owner->obj->maps[m->index];
}

static struct uerr *find_with_elements(struct request *req, struct map **ret)
{
	struct uerr *err = find_map(req, param_str(req, "map"), ret);

	if (!err && is_user_ring(*ret))
		return uerr_new(UERR_FAILED, "map %s is a ring buffer that programs read, which has no elements: bpfctl map "
				"update %s VALUE adds a record", (*ret)->name, (*ret)->name);
	if (!err && umap_is_ring((*ret)->umap.type))
		return uerr_new(UERR_FAILED, "map %s is a ring buffer, which has no elements: bpfctl map tail %s shows its "
				"records", (*ret)->name, (*ret)->name);
	return err;
}

/* A value with a lock is read under it; where somebody who has stopped holds that, as it is. */
static long read_value(const struct map *m, const void *key, void *value, const struct umap_ctx *cx)
{
	long err = m->umap.lock ? umap_read_flags(&m->umap, key, value, UMAP_LOCK, cx) : -EBUSY;

	return err == -EBUSY ? umap_read(&m->umap, key, value, cx) : err;
}

/* As bpf(2) says by EPERM. */
static struct uerr *refuse_access(const struct map *m, bool read, bool write)
{
	if (write && m->umap.sealed)
		return uerr_new(UERR_NOT_PERMITTED, "map %s is frozen: only programs change it", m->name);
	if (write && m->readonly)
		return uerr_new(UERR_NOT_PERMITTED, "map %s is read-only (frozen)", m->name);
	if (write && m->umap.map_flags & BPF_F_RDONLY)
		return uerr_new(UERR_NOT_PERMITTED, "map %s has BPF_F_RDONLY: only programs change it", m->name);
	if (read && m->umap.map_flags & BPF_F_WRONLY)
		return uerr_new(UERR_NOT_PERMITTED, "map %s has BPF_F_WRONLY: only programs read it", m->name);
	return NULL;
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

/* Addresses as hex strings, up to the last. */
static struct uerr *add_stack(cJSON *obj, const struct map *m, const u8 *value)
{
	cleanup_free char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return uerr_nomem();
	fputc('[', f);
	for (u32 i = 0; i < m->umap.value_size / 8; i++) {
		u64 ip;

		memcpy(&ip, value + i * 8, 8);
		if (!ip)
			break;
		fprintf(f, "%s\"0x%lx\"", i ? "," : "", (unsigned long)ip);
	}
	fputc(']', f);
	fclose(f);
	cJSON_AddStringToObject(obj, "value", "");
	cJSON_AddStringToObject(obj, "value_json", text);
	return NULL;
}

static struct uerr *element(const struct map *m, const u8 *key, const u8 *value, cJSON **ret)
{
	cJSON *e = cJSON_CreateObject();
	struct uerr *err;

	err = m->umap.key_size ? view_add_typed(e, "key", m, is_tasks(m) ? 0 : meta(m)->btf_key_type_id, key, m->umap.key_size)
			       : NULL;
	if (!err && is_percpu(m))
		err = add_values(e, m, value);
	else if (!err && m->umap.type == UMAP_STACK_TRACE)
		err = add_stack(e, m, value);
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

/* Which elements a dump is to give. */
struct part {
	u32 count;         /* at most, then the rest is asked for by `next`; 0: all, but a refusal above DUMP_MAX */
	const char *after; /* where the part before ended, or NULL */
	bool take;         /* they go */
	char *next;        /* to be `after`, malloc'd; NULL when that was all */
};

static void part_deinit(struct part *p)
{
	free(p->next);
}

/* Whether the N-th element of this part belongs to the next one. */
static struct uerr *part_is_full(const struct part *p, const struct map *m, u32 n, bool *ret)
{
	*ret = p->count && n == p->count;
	if (p->count || n < DUMP_MAX)
		return NULL;
	return uerr_new(UERR_FAILED, "map %s has more than %u elements: ask for a 'count' of them at a time", m->name, DUMP_MAX);
}

static char *hex_cursor(const u8 *key, u32 size)
{
	char *text = malloc(5 + 3ul * size), *at = text;

	if (text)
		at += sprintf(at, "hex");
	for (u32 i = 0; text && i < size; i++)
		at += sprintf(at, " %02x", key[i]);
	return text;
}

static struct uerr *parse_part(struct request *req, struct part *ret)
{
	const cJSON *count = param_item(req, "count");

	*ret = (struct part){ .after = param_str(req, "after"), .take = param_bool(req, "take") };
	if (count && (count->valuedouble < 1 || count->valuedouble > DUMP_MAX))
		return uerr_new(UERR_USAGE, "count is from 1 to %u", DUMP_MAX);
	ret->count = count ? (u32)count->valuedouble : 0;
	return NULL;
}

/* In the order in which pops would give them. The cursor is a number. */
static struct uerr *dump_queue(struct request *req, const struct map *m, struct part *p, cJSON *elements)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct umap_ctx cx = context(req);
	struct uerr *err = buffers_init(&b, m);
	u32 first = p->after ? (u32)strtoul(p->after, NULL, 10) : 0;

	for (u32 n = 0; !err; n++) {
		bool full = false;
		cJSON *e;

		err = part_is_full(p, m, n, &full);
		if (full && asprintf(&p->next, "%u", p->take ? 0 : first + n) < 0)
			err = uerr_nomem();
		if (err || full || (p->take ? umap_take(&m->umap, NULL, b.value, &cx) : umap_peek_at(&m->umap, first + n, b.value)))
			break;
		err = element(m, NULL, b.value, &e);
		if (!err)
			cJSON_AddItemToArray(elements, e);
	}
	return err;
}

/* The key of a TASK_STORAGE's element is a thread; PID is 0 when its process has gone. */
static void name_thread(const struct request *req, const struct map *m, const u8 *key, cJSON *e)
{
	u32 owner = 0, tid = 0;
	const struct target *t;
	char text[64];

	if (!is_tasks(m) || umap_task_of(&m->umap, key, &owner, &tid))
		return;
	t = state_target_no(req->d->state, owner >> OWNER_REC_BITS);
	snprintf(text, sizeof(text), "{\"pid\":%d,\"tid\":%u}", t ? t->pid : 0, tid);
	cJSON_ReplaceItemInObjectCaseSensitive(e, "key_json", cJSON_CreateString(text));
}

/* The element of a thread that is named by its id, as its own pid namespace has it. */
static struct uerr *parse_thread(const struct map *m, const char *text, u8 *key)
{
	char *end;
	unsigned long tid = strtoul(text, &end, 10);
	u64 at = 0, next;
	u32 owner = 0, its = 0, found = 0;

	if (*end || end == text)
		return uerr_new(UERR_USAGE, "map %s wants a thread's id for a key, not '%s'", m->name, text);
	for (long r = umap_next_key(&m->umap, NULL, &next); !r; r = umap_next_key(&m->umap, &at, &next)) {
		at = next;
		if (umap_task_of(&m->umap, &at, &owner, &its) || its != tid)
			continue;
		memcpy(key, &at, sizeof(at));
		found++;
	}
	if (found > 1)
		return uerr_new(UERR_FAILED, "map %s: %u threads of different pid namespaces have the id %s", m->name, found, text);
	return found ? NULL : uerr_new(UERR_FAILED, "map %s: no thread %s has anything in it", m->name, text);
}

#define KEYS_BYTES (1u << 20) /* of keys that are had at once */

/* One element of a dump, unless it has gone meanwhile. */
static struct uerr *dump_key(struct request *req, const struct map *m, const struct part *p, const u8 *key, u8 *value,
			     cJSON *elements, u32 *n)
{
	struct umap_ctx cx = context(req);
	struct uerr *err;
	cJSON *e;

	if (p->take ? umap_take(&m->umap, key, value, &cx) : read_value(m, key, value, &cx))
		return NULL;
	err = element(m, key, value, &e);
	if (!err) {
		name_thread(req, m, key, e);
		cJSON_AddItemToArray(elements, e);
	}
	*n += !err;
	return err;
}

/* And no more than are asked for: what a pass over a trie costs in memory is what it is to give.
 * One beyond, which says that there is a next part. */
static u32 keys_at_once(const struct part *p, u32 size)
{
	u32 room = KEYS_BYTES / size ? KEYS_BYTES / size : 1;

	return p->count && p->count < room ? p->count + 1 : room;
}

/* The cursor is the last key. */
static struct uerr *dump_keys(struct request *req, const struct map *m, struct part *p, cJSON *elements)
{
	u32 size = m->umap.key_size, room = keys_at_once(p, size), got = 0, n = 0;
	cleanup(buffers_deinit) struct buffers b = {};
	cleanup_free u8 *keys = malloc((size_t)room * size);
	struct uerr *err = buffers_init(&b, m);
	bool any = p->after, full = false;
	long r = 0;

	if (!err && !keys)
		err = uerr_nomem();
	if (!err && any)
		err = btf_value_from_text(m->owner->obj, 0, p->after, b.key, size);
	while (!err && !r && !full) {
		r = umap_next_keys(&m->umap, any ? b.key : NULL, keys, room, &got);
		for (u32 i = 0; i < got && !err && !full; i++) {
			err = part_is_full(p, m, n, &full);
			if (err || full)
				break;
			memcpy(b.key, keys + (size_t)i * size, size);
			any = true;
			err = dump_key(req, m, p, b.key, b.value, elements, &n);
		}
	}
	if (!err && full) {
		p->next = hex_cursor(b.key, size);
		err = p->next ? NULL : uerr_nomem();
	}
	return err;
}

static struct uerr *dump(struct request *req, const struct map *m, struct part *p, cJSON *elements)
{
	if (p->take && !is_queue(m) && !is_hash(m))
		return uerr_new(UERR_FAILED, "nothing can be taken out of map %s (type %s)", m->name,
				view_map_type(m->umap.type));
	if (is_queue(m))
		return dump_queue(req, m, p, elements);
	if (is_bloom(m))
		return uerr_new(UERR_FAILED, "map %s is a bloom filter, which cannot be listed: ask for a value "
				"(bpfctl map lookup %s VALUE)", m->name, m->name);
	return dump_keys(req, m, p, elements);
}

void cmd_map_dump(struct request *req)
{
	cleanup(part_deinit) struct part part = {};
	struct map *m;
	struct uerr *err = find_with_elements(req, &m);
	cJSON *r = cJSON_CreateObject();

	if (!err)
		err = parse_part(req, &part);
	if (!err)
		err = refuse_access(m, true, part.take);
	if (!err) {
		cJSON_AddItemToObject(r, "map", view_map(m));
		err = dump(req, m, &part, cJSON_AddArrayToObject(r, "elements"));
	}
	if (!err && part.next)
		cJSON_AddStringToObject(r, "next", part.next);
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
	if (is_tasks(m))
		return parse_thread(m, text, key);
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
static void spread_value(const struct map *m, u8 *value)
{
	size_t stride = ALIGN_UP(m->umap.value_size, 8u);

	for (u32 cpu = 1; is_percpu(m) && cpu < m->umap.ncpus; cpu++)
		memcpy(value + cpu * stride, value, m->umap.value_size);
}

static struct uerr *parse_value(struct request *req, const struct map *m, u8 *value)
{
	struct uerr *err;

	if (is_progs(m))
		return parse_program(req, m, value);
	err = parse_text(m, param_str(req, "value"), value);
	if (!err)
		spread_value(m, value);
	return err;
}

/* KEY as it was given. */
static struct uerr *map_error(const struct map *m, const char *key, long r)
{
	switch (-r) {
	case ENOENT:
		if (is_queue(m))
			return uerr_new(UERR_FAILED, "map %s is empty", m->name);
		if (is_bloom(m))
			return uerr_new(UERR_FAILED, "map %s has never been given %s", m->name, key);
		return uerr_new(UERR_FAILED, "map %s has no key %s", m->name, key);
	case EEXIST:
		return uerr_new(UERR_FAILED, "map %s has key %s already", m->name, key);
	case E2BIG:
		if (is_queue(m))
			return uerr_new(UERR_FAILED, "map %s is full (%u elements); with 'exist' the oldest makes room",
					m->name, m->umap.max_entries);
		return uerr_new(UERR_FAILED, "map %s is full (%u elements), or the key is beyond its end", m->name,
				m->umap.max_entries);
	case EBUSY:
		if (m->umap.lock)
			return uerr_new(UERR_FAILED, "map %s: somebody holds the lock of key %s, and does not go on", m->name, key);
		break;
	case EINVAL:
	case EOPNOTSUPP:
		return uerr_new(UERR_FAILED, "map %s (type %s) does not allow that", m->name, view_map_type(m->umap.type));
	}
	return uerr_errno(-r, "map %s", m->name);
}

void cmd_map_lookup(struct request *req)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct umap_ctx cx = context(req);
	struct map *m;
	struct uerr *err = find_with_elements(req, &m);
	cJSON *r, *e = NULL;

	if (!err)
		err = refuse_access(m, true, false);
	if (!err)
		err = buffers_init(&b, m);
	if (!err && is_bloom(m))
		err = param_str(req, "key") ? parse_text(m, param_str(req, "key"), b.value) :
					      uerr_new(UERR_USAGE, "map %s wants a value to ask about", m->name);
	else if (!err)
		err = parse_key(req, m, b.key);
	if (!err) {
		long rc = read_value(m, b.key, b.value, &cx);

		err = rc ? map_error(m, param_str(req, "key"), rc) : element(m, b.key, b.value, &e);
		if (!err)
			name_thread(req, m, b.key, e);
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

#define POST_MAX (64u << 10) /* bytes of a record */

/* Bytes behind "hex": every two digits, spaces aside. */
static size_t hex_bytes(const char *text)
{
	size_t digits = 0;

	for (text += 3; *text; text++)
		digits += isxdigit((u8)*text) != 0;
	return (digits + 1) / 2;
}

/* A record for programs: bytes ("hex …"), a struct of the object's BTF, which stands
 * where other maps have a key, or a number of 64 bits. */
static struct uerr *post(struct request *req, const struct map *m)
{
	const char *text = param_str(req, "value"), *type = param_str(req, "key");
	const struct object *obj = m->owner->obj;
	cleanup_free u8 *bytes = calloc(1, POST_MAX);
	u32 type_id = type ? btf_type_find(obj, type) : 0;
	size_t size = sizeof(u64);
	struct uerr *err;
	long rc;

	if (!bytes)
		return uerr_nomem();
	if (type && !type_id)
		return uerr_new(UERR_USAGE, "the object of map %s knows no type '%s': have the source mention it (const struct "
				"%s *unused __attribute__((unused));)", m->name, type, type);
	if (type_id)
		size = btf_index_size(obj->types, type_id);
	else if (!strncmp(text, "hex", 3))
		size = hex_bytes(text);
	if (!size || size > POST_MAX)
		return uerr_new(UERR_USAGE, "a record has 1 to %u bytes, this one would have %zu", POST_MAX, size);
	err = btf_value_from_text(obj, type_id, text, bytes, size);
	if (err)
		return err;
	rc = umap_user_post(&m->umap, bytes, size);
	if (rc == -ENOSPC)
		return uerr_new(UERR_FAILED, "map %s is full: no program has read what is in it", m->name);
	if (rc == -E2BIG)
		return uerr_new(UERR_FAILED, "a record of %zu bytes does not fit into map %s", size, m->name);
	return rc ? uerr_new(UERR_FAILED, "map %s holds nonsense: something writes over it", m->name) : NULL;
}

/* Whether that is all to be done: the map is posted to, or not there. */
static bool update_posts(struct request *req, struct uerr **err)
{
	struct map *m;

	*err = find_map(req, param_str(req, "map"), &m);
	if (*err)
		return true;
	if (!is_user_ring(m))
		return false;
	*err = refuse_access(m, false, true);
	if (!*err)
		*err = post(req, m);
	return true;
}

static struct uerr *update_element(struct request *req)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct umap_ctx cx = context(req);
	struct map *m;
	struct uerr *err = find_with_elements(req, &m);
	u64 flags = 0;

	if (!err)
		err = refuse_access(m, false, true);
	if (!err)
		err = parse_flags(param_str(req, "flags"), &flags);
	if (!err)
		err = buffers_init(&b, m);
	if (!err)
		err = parse_key(req, m, b.key);
	if (!err)
		err = parse_value(req, m, b.value);
	if (!err) {
		long rc = umap_write(&m->umap, b.key, b.value, flags | (m->umap.lock ? UMAP_LOCK : 0), &cx);

		err = rc ? map_error(m, param_str(req, "key"), rc) : NULL;
	}
	return err;
}

void cmd_map_update(struct request *req)
{
	struct uerr *err;

	if (!update_posts(req, &err))
		err = update_element(req);
	if (err)
		request_fail(req, err);
	else
		request_reply(req, NULL);
}

static void reply_element(struct request *req, cJSON *e)
{
	cJSON *r = e ? cJSON_CreateObject() : NULL;

	if (e)
		cJSON_AddItemToObject(r, "element", e);
	request_reply(req, r);
}

/* Takes an element out: *RET, when it is to be SHOWN. */
static struct uerr *take_out(struct request *req, bool shown, cJSON **ret)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct umap_ctx cx = context(req);
	struct map *m;
	struct uerr *err = find_with_elements(req, &m);
	long rc;

	*ret = NULL;
	if (!err)
		err = refuse_access(m, shown, true);
	if (!err)
		err = buffers_init(&b, m);
	if (!err)
		err = parse_key(req, m, b.key);
	if (err)
		return err;
	shown = shown || is_queue(m);
	rc = shown ? umap_take(&m->umap, b.key, b.value, &cx) : umap_erase(&m->umap, b.key, &cx);
	if (rc == -UMAP_ENOTSUPP)
		return uerr_new(UERR_FAILED, "nothing can be taken out of map %s (type %s)", m->name,
				view_map_type(m->umap.type));
	if (rc)
		return map_error(m, param_str(req, "key"), rc);
	return shown ? element(m, b.key, b.value, ret) : NULL;
}

void cmd_map_delete(struct request *req)
{
	cJSON *e;
	struct uerr *err = take_out(req, false, &e);

	if (err)
		request_fail(req, err);
	else
		reply_element(req, e);
}

void cmd_map_pop(struct request *req)
{
	cJSON *e;
	struct uerr *err = take_out(req, true, &e);

	if (err)
		request_fail(req, err);
	else
		reply_element(req, e);
}

void cmd_map_freeze(struct request *req)
{
	struct map *m;
	struct uerr *err = find_map(req, param_str(req, "map"), &m);

	if (!err && (m->umap.sealed || m->readonly))
		err = uerr_new(UERR_FAILED, "map %s is frozen already", m->name);
	if (!err)
		err = refuse_access(m, false, true);
	if (!err && umap_freeze(&m->umap))
		err = uerr_new(UERR_FAILED, "map %s cannot be frozen", m->name);
	if (err)
		request_fail(req, err);
	else
		request_reply(req, NULL);
}

/*
 * Batches: as many single updates or deletes, ended by the first that fails. How many
 * were done is in the reply, or in what is said of the failure.
 */

static struct uerr *text_at(const cJSON *item, const struct map *m, u32 type, void *ret, u32 size)
{
	return uerr_prefix(btf_value_from_text(m->owner->obj, type, item->valuestring, ret, size), "map %s", m->name);
}

static struct uerr *write_one(const struct map *m, const cJSON *key, const cJSON *value, u64 flags, struct buffers *b,
			      const struct umap_ctx *cx)
{
	struct uerr *err;
	long rc;

	if (!value) {
		rc = umap_erase(&m->umap, b->key, cx);
		return rc ? map_error(m, key->valuestring, rc) : NULL;
	}
	err = text_at(value, m, meta(m)->btf_value_type_id, b->value, m->umap.value_size);
	if (err)
		return err;
	spread_value(m, b->value);
	rc = umap_write(&m->umap, b->key, b->value, flags | (m->umap.lock ? UMAP_LOCK : 0), cx);
	return rc ? map_error(m, key->valuestring, rc) : NULL;
}

static void write_batch(struct request *req, const cJSON *values)
{
	cleanup(buffers_deinit) struct buffers b = {};
	struct umap_ctx cx = context(req);
	const cJSON *keys = param_item(req, "keys"), *key;
	const cJSON *value = values ? values->child : NULL;
	int n = 0;
	u64 flags = 0;
	struct map *m;
	struct uerr *err = find_with_elements(req, &m);

	if (!err)
		err = refuse_access(m, false, true);
	if (!err)
		err = parse_flags(param_str(req, "flags"), &flags);
	if (!err && (!m->umap.key_size || is_progs(m) || is_tasks(m) || (!values && !m->umap.nelems)))
		err = uerr_new(UERR_FAILED, "map %s (type %s) has no batches", m->name, view_map_type(m->umap.type));
	if (!err && values && cJSON_GetArraySize(keys) != cJSON_GetArraySize(values))
		err = uerr_new(UERR_USAGE, "there are %d keys, but %d values", cJSON_GetArraySize(keys),
			       cJSON_GetArraySize(values));
	if (!err)
		err = buffers_init(&b, m);
	if (err) {
		request_fail(req, err);
		return;
	}
	cJSON_ArrayForEach(key, keys) {
		err = text_at(key, m, meta(m)->btf_key_type_id, b.key, m->umap.key_size);
		if (!err)
			err = write_one(m, key, value, flags, &b, &cx);
		if (err)
			break;
		n++;
		value = value ? value->next : NULL;
	}
	if (err) {
		request_fail(req, uerr_prefix(err, "after %d of %d", n, cJSON_GetArraySize(keys)));
		return;
	}
	cJSON *r = cJSON_CreateObject();

	cJSON_AddNumberToObject(r, "count", n);
	request_reply(req, r);
}

void cmd_map_update_batch(struct request *req)
{
	write_batch(req, param_item(req, "values"));
}

void cmd_map_delete_batch(struct request *req)
{
	write_batch(req, NULL);
}
