/* SPDX-License-Identifier: MIT */
/* State as JSON; see view.h. */
#include "daemon/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "daemon/procinfo.h"

static void add_id(cJSON *array, u32 id)
{
	cJSON_AddItemToArray(array, cJSON_CreateNumber(id));
}

static void add_u64(cJSON *obj, const char *name, u64 v)
{
	cJSON_AddItemToObject(obj, name, protocol_u64(v));
}

#define TEXT_MAX 512

/* How long the UTF-8 sequence is that begins at S; 0: it is none, or not whole. */
static size_t sequence_length(const char *s)
{
	static const struct {
		u8 lo, hi, second_lo, second_hi, n; /* neither overlong nor surrogates, up to U+10FFFF */
	} rows[] = {
		{ 0x00, 0x7f, 0, 0, 1 },	{ 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
		{ 0xe1, 0xec, 0x80, 0xbf, 3 },	{ 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 },
		{ 0xf0, 0xf0, 0x90, 0xbf, 4 },	{ 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};
	const u8 *p = (const u8 *)s;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		size_t k = 2;

		if (p[0] < rows[i].lo || p[0] > rows[i].hi)
			continue;
		if (rows[i].n == 1)
			return 1;
		if (p[1] < rows[i].second_lo || p[1] > rows[i].second_hi)
			return 0;
		while (k < rows[i].n && (p[k] & 0xc0) == 0x80)
			k++;
		return k == rows[i].n ? k : 0;
	}
	return 0;
}

/* A C string that a target chose: JSON must be UTF-8. */
static void clean_text(const char *s, char ret[TEXT_MAX])
{
	size_t n = 0;

	while (*s) {
		size_t len = sequence_length(s);
		bool bad = !len || (unsigned char)*s < 0x20 || *s == 0x7f;

		len = len ? len : 1;
		if (n + len > TEXT_MAX - 1)
			break;
		if (bad)
			ret[n] = '?';
		else
			memcpy(ret + n, s, len);
		n += len;
		s += len;
	}
	ret[n] = 0;
}

void view_text(cJSON *obj, const char *name, const char *s)
{
	char clean[TEXT_MAX];

	clean_text(s, clean);
	cJSON_AddStringToObject(obj, name, clean);
}

cJSON *view_strings(char *const *s, size_t n)
{
	cJSON *array = cJSON_CreateArray();

	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(array, cJSON_CreateString(s[i]));
	return array;
}

cJSON *view_object(const struct daemon *d, const struct loaded *o)
{
	cJSON *r = cJSON_CreateObject(), *ids;

	cJSON_AddNumberToObject(r, "id", o->id);
	view_text(r, "name", o->name);
	ids = cJSON_AddArrayToObject(r, "programs");
	for (size_t i = 0; i < o->obj->nprogs; i++)
		add_id(ids, o->progs[i].id);
	ids = cJSON_AddArrayToObject(r, "maps");
	for (size_t i = 0; i < o->obj->nmaps; i++)
		add_id(ids, o->maps[i].id);
	ids = cJSON_AddArrayToObject(r, "links");
	vec_foreach(l, &d->state->links)
		if ((*l)->object == o->id)
			add_id(ids, (*l)->id);
	cJSON_AddStringToObject(r, "loaded", o->since);
	cJSON_AddBoolToObject(r, "ephemeral", o->client != 0);
	return r;
}

/* The maps that a program's instructions name. */
static void add_map_ids(cJSON *ids, const struct program *p)
{
	for (size_t m = 0; m < p->owner->obj->nmaps; m++) {
		for (u32 i = 0; i < p->prog->ninsns; i++) {
			const struct bpf_insn *in = &p->prog->insns[i];

			if (in->code == (BPF_LD | BPF_IMM | BPF_DW) && (in->src_reg == 5 || in->src_reg == 6) &&
			    (u32)in->imm == m) {
				add_id(ids, p->owner->maps[m].id);
				break;
			}
		}
	}
}

cJSON *view_program(const struct daemon *d, const struct program *p)
{
	cJSON *r = cJSON_CreateObject(), *ids;

	cJSON_AddNumberToObject(r, "id", p->id);
	view_text(r, "name", p->prog->name);
	view_text(r, "section", p->prog->section);
	cJSON_AddNumberToObject(r, "object", p->owner->id);
	cJSON_AddNumberToObject(r, "insns", p->prog->ninsns);
	cJSON_AddNumberToObject(r, "jited_bytes", p->jited_bytes);
	cJSON_AddNumberToObject(r, "stack_depth", p->prog->info.stack_depth);
	add_map_ids(cJSON_AddArrayToObject(r, "maps"), p);
	ids = cJSON_AddArrayToObject(r, "links");
	vec_foreach(l, &d->state->links)
		if ((*l)->program == p->id)
			add_id(ids, (*l)->id);
	return r;
}

const char *view_map_type(u32 type)
{
	switch (type) {
	case UMAP_HASH:
		return "hash";
	case UMAP_ARRAY:
		return "array";
	case UMAP_PROG_ARRAY:
		return "prog_array";
	case UMAP_PERCPU_HASH:
		return "percpu_hash";
	case UMAP_PERCPU_ARRAY:
		return "percpu_array";
	case UMAP_STACK_TRACE:
		return "stack_trace";
	case UMAP_LRU_HASH:
		return "lru_hash";
	case UMAP_LRU_PERCPU_HASH:
		return "lru_percpu_hash";
	case UMAP_LPM_TRIE:
		return "lpm_trie";
	case UMAP_TASK_STORAGE:
		return "task_storage";
	case UMAP_QUEUE:
		return "queue";
	case UMAP_STACK:
		return "stack";
	case UMAP_RINGBUF:
		return "ringbuf";
	case UMAP_USER_RINGBUF:
		return "user_ringbuf";
	case UMAP_PERF_EVENT_ARRAY:
		return "perf_event_array";
	case UMAP_BLOOM_FILTER:
		return "bloom_filter";
	}
	return "unknown";
}

static void add_type(cJSON *r, const char *name, const struct map *m, u32 type_id)
{
	cleanup_free char *text = type_id ? btf_type_name(m->owner->obj, type_id) : NULL;

	view_text(r, name, text ? text : "");
}

cJSON *view_map(const struct map *m)
{
	const struct object_map *om = &m->owner->obj->maps[m->index];
	cJSON *r = cJSON_CreateObject();

	cJSON_AddNumberToObject(r, "id", m->id);
	view_text(r, "name", m->name);
	cJSON_AddStringToObject(r, "type", view_map_type(m->umap.type));
	cJSON_AddNumberToObject(r, "key_size", m->umap.key_size);
	cJSON_AddNumberToObject(r, "value_size", m->umap.value_size);
	cJSON_AddNumberToObject(r, "max_entries", m->umap.max_entries);
	cJSON_AddNumberToObject(r, "flags", m->umap.map_flags);
	add_type(r, "key_type", m, om->btf_key_type_id);
	add_type(r, "value_type", m, om->btf_value_type_id);
	cJSON_AddNumberToObject(r, "object", m->owner->id);
	cJSON_AddBoolToObject(r, "frozen", m->readonly || m->umap.sealed);
	add_u64(r, "bytes", m->umap.size);
	return r;
}

cJSON *view_programs(const struct daemon *d, const struct loaded *o)
{
	cJSON *a = cJSON_CreateArray();

	for (size_t i = 0; i < o->obj->nprogs; i++)
		cJSON_AddItemToArray(a, view_program(d, &o->progs[i]));
	return a;
}

cJSON *view_maps(const struct loaded *o)
{
	cJSON *a = cJSON_CreateArray();

	for (size_t i = 0; i < o->obj->nmaps; i++)
		cJSON_AddItemToArray(a, view_map(&o->maps[i]));
	return a;
}

cJSON *view_link(const struct daemon *d, const struct link *l)
{
	cJSON *r = cJSON_CreateObject(), *ids;
	u32 nsites = 0;

	cJSON_AddNumberToObject(r, "id", l->id);
	cJSON_AddNumberToObject(r, "program", l->program);
	cJSON_AddNumberToObject(r, "object", l->object);
	cJSON_AddStringToObject(r, "probe", l->exit ? "uretprobe" : "uprobe");
	cJSON_AddItemToObject(r, "specs", view_strings(l->specs, l->nspecs));
	ids = cJSON_AddArrayToObject(r, "pids");
	vec_foreach(t, &l->targets)
		add_id(ids, t->pid);
	vec_foreach(t, &d->state->targets)
		nsites += target_count_sites(*t, l->id);
	cJSON_AddNumberToObject(r, "nsites", nsites);
	cJSON_AddBoolToObject(r, "ephemeral", l->client != 0);
	cJSON_AddStringToObject(r, "created", l->since);
	return r;
}

/* S as a JSON string, with its quotes, within RET. */
static const char *quoted(const char *s, char ret[2 * TEXT_MAX + 3])
{
	char clean[TEXT_MAX];
	char *to = ret;

	clean_text(s, clean);
	*to++ = '"';
	for (const char *p = clean; *p; p++) {
		if (*p == '"' || *p == '\\')
			*to++ = '\\';
		*to++ = *p;
	}
	*to++ = '"';
	*to = 0;
	return ret;
}

/* As text at once: an attach to a whole program has a hundred thousand of them,
 * each a dozen values. */
cJSON *view_site(const struct target *t, const struct site *s)
{
	const struct target_module *m = &t->modules.data[s->module];
	char comm[2 * TEXT_MAX + 3], module[2 * TEXT_MAX + 3], path[2 * TEXT_MAX + 3], symbol[2 * TEXT_MAX + 3];
	char text[9 * TEXT_MAX];

	snprintf(text, sizeof(text),
		 "{\"pid\":%d,\"comm\":%s,\"module\":%s,\"path\":%s,\"symbol\":%s,"
		 "\"address\":\"0x%lx\",\"offset\":\"0x%lx\",\"probe\":\"%s\",\"tactic\":\"%s\",\"bytes\":%u,"
		 "\"cookie\":\"%lu\"}",
		 t->pid, quoted(t->comm, comm), quoted(m->name, module), quoted(m->path, path),
		 quoted(s->symbol, symbol), (unsigned long)(m->bias + s->at),
		 (unsigned long)(s->exit ? 0 : s->at - s->func), s->exit ? "uretprobe" : "uprobe",
		 site_tactic_name(s->tactic), s->bytes, (unsigned long)s->cookie);
	return cJSON_CreateRaw(text);
}

/* Do the mappings of PID hold our inode? Then it is a fork child with the same
 * probes, and no other program by now. */
static bool maps_inode(pid_t pid, u64 inode)
{
	cleanup_fclose FILE *f = NULL;
	cleanup_free char *line = NULL;
	size_t cap = 0;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", process_live_tid(pid));
	f = fopen(path, "re");
	while (f && getline(&line, &cap, f) > 0) {
		unsigned long long ino;

		if (sscanf(line, "%*x-%*x %*s %*x %*s %llu", &ino) == 1 && ino == inode)
			return true;
	}
	return false;
}

static cJSON *view_children(const struct daemon *d, const struct target *t)
{
	cJSON *array = cJSON_CreateArray();
	pid_vec children = {};

	if (t->arenas.n)
		procinfo_children(t->pid, &children);
	vec_foreach(pid, &children)
		if (!state_target(d->state, *pid) && maps_inode(*pid, t->arenas.data[0].inode))
			add_id(array, *pid);
	vec_free(&children);
	return array;
}

/* How its programs read memory beyond the stack and what cannot be unloaded. */
static const char *target_reads(const struct target *t)
{
	if (t->denied & TARGET_CALL_VM_READ)
		return "not at all: its seccomp filter forbids process_vm_readv";
	return "process_vm_readv";
}

cJSON *view_target(const struct daemon *d, const struct target *t)
{
	cJSON *r = cJSON_CreateObject(), *ids;
	struct procinfo pi;
	struct uerr *err = procinfo_read(t->pid, &pi);

	cJSON_AddNumberToObject(r, "pid", t->pid);
	view_text(r, "comm", err ? t->comm : pi.comm);
	view_text(r, "path", t->path);
	ids = cJSON_AddArrayToObject(r, "links");
	vec_foreach(l, &d->state->links)
		if (link_has_pid(*l, t->pid))
			add_id(ids, (*l)->id);
	cJSON_AddNumberToObject(r, "nsites", t->sites.n - target_count_sites(t, 0)); /* but guards */
	cJSON_AddNumberToObject(r, "threads", err ? 0 : pi.nthreads);
	cJSON_AddNumberToObject(r, "mapped_bytes", target_mapped_bytes(t));
	add_u64(r, "map_bytes", target_map_bytes(t));
	cJSON_AddNumberToObject(r, "retired", target_retired(t));
	cJSON_AddItemToObject(r, "children", view_children(d, t));
	cJSON_AddNumberToObject(r, "stops", t->stops);
	add_u64(r, "stopped_ns", t->stopped_ns);
	cJSON_AddStringToObject(r, "reads", target_reads(t));
	cJSON_AddStringToObject(r, "since", t->since);
	uerr_free(err);
	return r;
}

cJSON *view_stop(const struct stop *s)
{
	cJSON *r = cJSON_CreateObject();

	cJSON_AddNumberToObject(r, "pid", s->pid);
	view_text(r, "comm", s->comm);
	cJSON_AddNumberToObject(r, "threads", s->threads);
	add_u64(r, "stopped_ns", s->stopped_ns);
	cJSON_AddNumberToObject(r, "moved", s->moved);
	cJSON_AddNumberToObject(r, "retired", s->retired);
	return r;
}

/* "01 ff 00"; malloc'd */
static char *hex_text(const u8 *p, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	char *text = malloc(n * 3 + 1);
	char *at = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		if (i)
			*at++ = ' ';
		*at++ = digits[p[i] >> 4];
		*at++ = digits[p[i] & 15];
	}
	*at = 0;
	return text;
}

struct uerr *view_add_typed(cJSON *obj, const char *name, const struct map *m, u32 type_id, const u8 *p, size_t size)
{
	cleanup_free char *hex = hex_text(p, size), *json = NULL;
	struct uerr *err = btf_value_to_json(m->owner->obj, type_id, p, size, &json);
	char json_name[32];

	if (err)
		return err;
	if (!hex)
		return uerr_nomem();
	snprintf(json_name, sizeof(json_name), "%s_json", name);
	cJSON_AddStringToObject(obj, name, hex);
	cJSON_AddStringToObject(obj, json_name, json);
	return NULL;
}
