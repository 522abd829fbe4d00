// SPDX-License-Identifier: MIT
/*
 * bpfctl map: what is in a map, by its types. Keys and values arrive as JSON
 * texts with exact integers and go out as they are.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/follow.h"
#include "cli/lists.h"
#include "cli/output.h"
#include "cli/stacks.h"

static const struct column map_columns[] = {
	{ "ID", "id", COLUMN_NUMBER },           { "NAME", "name", COLUMN_TEXT },
	{ "TYPE", "type", COLUMN_TEXT },         { "KEY", "key_type", COLUMN_TEXT },
	{ "BYTES", "key_size", COLUMN_NUMBER },  { "VALUE", "value_type", COLUMN_TEXT },
	{ "BYTES", "value_size", COLUMN_NUMBER }, { "MAX", "max_entries", COLUMN_NUMBER },
	{ "MEMORY", "bytes", COLUMN_BYTES },     { "FROZEN", "frozen", COLUMN_BOOLEAN },
	{ "OBJECT", "object", COLUMN_NUMBER },   {},
};

static const struct listing maps = {
	.method = "ListMaps",
	.field = "maps",
	.singular = "map",
	.schema = "io.uprobed.maps/1",
	.columns = map_columns,
};

struct uerr *cmd_map_list(struct cli *cli)
{
	return listing_print(cli, &maps);
}

struct uerr *cmd_map_show(struct cli *cli)
{
	return listing_show(cli, &maps);
}

/* The words behind the verb, with bpftool's "id" or "name" left out. */
struct words {
	const char *const *w;
	size_t n;
};

static struct words map_words(const struct cli *cli)
{
	struct words r = { cli->o->args.data + 2, cli->o->args.n - 2 };

	if (r.n >= 2 && (!strcmp(r.w[0], "id") || !strcmp(r.w[0], "name"))) {
		r.w++;
		r.n--;
	}
	return r;
}

static char *join(struct words w)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	for (size_t i = 0; i < w.n; i++)
		fprintf(f, "%s%s", i ? " " : "", w.w[i]);
	fclose(f);
	return text;
}

/* bpftool's list of decimal or 0x bytes ("1 0 0 0"), as "hex 01 00 00 00". */
static struct uerr *bytes_to_hex(struct words w, char **ret)
{
	size_t size;
	FILE *f = open_memstream(ret, &size);

	if (!f)
		return uerr_nomem();
	fputs("hex", f);
	for (size_t i = 0; i < w.n; i++) {
		char *end;
		unsigned long byte = strtoul(w.w[i], &end, 0);

		if (*end || end == w.w[i] || byte > 255) {
			fclose(f);
			free(*ret);
			*ret = NULL;
			return uerr_new(UERR_USAGE, "'%s' is no byte; write one value, or bytes, or 'hex' and bytes",
					w.w[i]);
		}
		fprintf(f, " %02lx", byte);
	}
	fclose(f);
	return NULL;
}

/* A key or value from its words: one word, "hex 01 02", or bytes. */
static struct uerr *value_text(struct words w, const char *what, char **ret)
{
	if (!w.n)
		return uerr_new(UERR_USAGE, "the %s is missing", what);
	if (w.n > 1 && strcmp(w.w[0], "hex"))
		return bytes_to_hex(w, ret);
	*ret = join(w);
	return *ret ? NULL : uerr_nomem();
}

static size_t find_word(struct words w, const char *word)
{
	for (size_t i = 0; i < w.n; i++)
		if (!strcmp(w.w[i], word))
			return i;
	return w.n;
}

static void print_text(FILE *out, const char *word, const cJSON *obj)
{
	const char *json = json_str(obj, word[0] == 'k' ? "key_json" : "value_json");

	out_printf(out, "%s %s", word, *json ? json : json_str(obj, word));
}

/* Queues, stacks and bloom filters have values only. */
static bool has_key(const cJSON *element)
{
	return cJSON_HasObjectItem(element, "key");
}

/* The sum of per-CPU numbers, if they are plain ones. */
static bool sum_values(const cJSON *values, u64 *ret)
{
	const cJSON *value;

	*ret = 0;
	cJSON_ArrayForEach(value, values) {
		const char *text = json_str(value, "value_json");
		char *end;
		u64 v = strtoull(text, &end, 10);

		if (*end || end == text || __builtin_add_overflow(*ret, v, ret))
			return false;
	}
	return true;
}

static void print_element(FILE *out, const cJSON *element)
{
	const cJSON *values = cJSON_GetObjectItemCaseSensitive(element, "values"), *value;
	u64 sum;

	if (has_key(element)) {
		print_text(out, "key", element);
		fputs("  ", out);
	}
	if (!cJSON_IsArray(values)) {
		print_text(out, "value", element);
		fputc('\n', out);
		return;
	}
	cJSON_ArrayForEach(value, values) {
		if (value != values->child)
			fputs("  ", out);
		out_printf(out, "cpu %d ", (int)json_u64(value, "cpu"));
		print_text(out, "value", value);
	}
	if (sum_values(values, &sum))
		out_printf(out, "  sum %" PRIu64, sum);
	fputc('\n', out);
}

/* Raw JSON text TEXT (or, if it is empty, HEX as a string) as field NAME. */
static void add_raw(cJSON *obj, const char *name, const char *text, const char *hex)
{
	if (*text)
		cJSON_AddRawToObject(obj, name, text);
	else
		cJSON_AddStringToObject(obj, name, hex);
}

static cJSON *element_json(const cJSON *element)
{
	cJSON *obj = cJSON_CreateObject(), *list;
	const cJSON *values = cJSON_GetObjectItemCaseSensitive(element, "values"), *value;

	if (has_key(element))
		add_raw(obj, "key", json_str(element, "key_json"), json_str(element, "key"));
	if (!cJSON_IsArray(values)) {
		add_raw(obj, "value", json_str(element, "value_json"), json_str(element, "value"));
		return obj;
	}
	list = cJSON_AddArrayToObject(obj, "values");
	cJSON_ArrayForEach(value, values) {
		cJSON *one = cJSON_CreateObject();

		cJSON_AddNumberToObject(one, "cpu", json_u64(value, "cpu"));
		add_raw(one, "value", json_str(value, "value_json"), json_str(value, "value"));
		cJSON_AddItemToArray(list, one);
	}
	return obj;
}

/* Text that came from the daemon goes raw into our JSON: it must be JSON. */
static bool raw_is_json(const cJSON *element)
{
	static const char *const fields[] = { "key_json", "value_json" };
	const cJSON *values = json_list(element, "values"), *value;

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		const char *text = json_str(element, fields[i]);
		cleanup_json cJSON *parsed = *text ? cJSON_ParseWithOpts(text, NULL, true) : NULL;

		if (*text && !parsed)
			return false;
	}
	cJSON_ArrayForEach(value, values)
		if (!raw_is_json(value))
			return false;
	return true;
}

static struct uerr *print_elements(struct cli *cli, const cJSON *reply, const cJSON *elements)
{
	const cJSON *element;

	if (!opt_given(cli->o, OPT_JSON)) {
		cJSON_ArrayForEach(element, elements)
			print_element(cli->out, element);
		return NULL;
	}
	cleanup_json cJSON *doc = cJSON_CreateObject();
	cJSON *list, *map = cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(reply, "map"), true);

	cJSON_AddStringToObject(doc, "schema", "io.uprobed.map/1");
	if (map)
		cJSON_AddItemToObject(doc, "map", map);
	list = cJSON_AddArrayToObject(doc, "elements");
	cJSON_ArrayForEach(element, elements) {
		if (!raw_is_json(element))
			return uerr_new(UERR_FAILED, "the daemon sent an element that is no JSON");
		cJSON_AddItemToArray(list, element_json(element));
	}
	json_print(cli->out, doc);
	return NULL;
}

/* LIST's items behind those of ALL. (The first item knows the last.) */
static void append_list(cJSON *all, cJSON *list)
{
	cJSON *first = list ? list->child : NULL, *last;

	if (all && first && !all->child) {
		all->child = first;
		list->child = NULL;
	} else if (all && first) {
		last = all->child->prev;
		all->child->prev = first->prev;
		last->next = first;
		first->prev = last;
		list->child = NULL;
	}
	cJSON_Delete(list);
}

#define DUMP_PART 10000 /* elements in one reply */

/* All elements of MAP, in as many replies as it takes. The first of these gets them. */
static struct uerr *dump_parts(struct cli *cli, const char *map, cJSON **ret)
{
	cleanup_free char *after = NULL;
	cJSON *all = NULL;

	for (;;) {
		cJSON *params = params_of("map", map), *reply = NULL, *list;
		struct uerr *err;

		cJSON_AddNumberToObject(params, "count", DUMP_PART);
		if (after)
			cJSON_AddStringToObject(params, "after", after);
		err = call_once(cli, "MapDump", params, &reply);
		if (err) {
			cJSON_Delete(*ret);
			*ret = NULL;
			return err;
		}
		free(after);
		after = *json_str(reply, "next") ? strdup(json_str(reply, "next")) : NULL;
		if (!*ret) {
			*ret = reply;
			all = cJSON_GetObjectItemCaseSensitive(reply, "elements");
		} else {
			list = cJSON_DetachItemFromObjectCaseSensitive(reply, "elements");
			append_list(all, list);
			cJSON_Delete(reply);
		}
		if (!after)
			return NULL;
	}
}

/* A stack's element: its addresses as they are, and what they are called. */
static struct uerr *print_stacks(struct cli *cli, const cJSON *reply)
{
	cleanup(stacks_deinit) struct stacks stacks = {};
	cleanup_json cJSON *names = NULL, *doc = NULL;
	const cJSON *map = cJSON_GetObjectItemCaseSensitive(reply, "map"), *element;
	cJSON *list = NULL;
	struct uerr *err;
	char id[24];

	snprintf(id, sizeof(id), "%" PRIu64, json_u64(map, "id"));
	err = call_once(cli, "StackNames", params_of("map", id), &names);
	if (!err)
		err = stacks_init(&stacks, steal_ptr(names));
	if (err)
		return err;
	if (opt_given(cli->o, OPT_JSON)) {
		doc = cJSON_CreateObject();
		cJSON_AddStringToObject(doc, "schema", "io.uprobed.map/1");
		cJSON_AddItemToObject(doc, "map", cJSON_Duplicate(map, true));
		list = cJSON_AddArrayToObject(doc, "elements");
	}
	cJSON_ArrayForEach(element, json_list(reply, "elements")) {
		const cJSON *stack = stacks_find(&stacks, (u32)strtoul(json_str(element, "key_json"), NULL, 10));
		cJSON *obj;

		if (!raw_is_json(element))
			return uerr_new(UERR_FAILED, "the daemon sent an element that is no JSON");
		if (!list) {
			out_printf(cli->out, "key %s  %s %d\n", json_str(element, "key_json"), json_str(stack, "comm"),
				   (int)json_u64(stack, "pid"));
			stack_print(cli->out, &stacks, stack, 0, "  ", true);
			continue;
		}
		obj = element_json(element);
		json_add_u64(obj, "pid", json_u64(stack, "pid"));
		cJSON_AddStringToObject(obj, "comm", json_str(stack, "comm"));
		cJSON_AddItemToObject(obj, "frames", stack_json(&stacks, stack));
		cJSON_AddItemToArray(list, obj);
	}
	if (doc)
		json_print(cli->out, doc);
	return NULL;
}

static bool has_stacks(const cJSON *reply)
{
	return !strcmp(json_str(cJSON_GetObjectItemCaseSensitive(reply, "map"), "type"), "stack_trace");
}

struct uerr *cmd_map_dump(struct cli *cli)
{
	struct words w = map_words(cli);
	cleanup_json cJSON *reply = NULL;
	number_buf buf;
	struct uerr *err;

	if (w.n != 1)
		return uerr_new(UERR_USAGE, "map dump MAP: one map, by id or name");
	err = dump_parts(cli, w.w[0], &reply);
	if (!err)
		err = has_stacks(reply) ? print_stacks(cli, reply) : print_elements(cli, reply, json_list(reply, "elements"));
	if (!err && !opt_given(cli->o, OPT_JSON))
		progress(opt_given(cli->o, OPT_QUIET), "%s",
			 count_format(cJSON_GetArraySize(json_list(reply, "elements")), "element", "elements", buf));
	return err;
}

/* {map, key} from "MAP KEY" or "MAP key …", whose words end at END; {map} when
 * there is none of them, which is how maps without keys are named. */
static struct uerr *map_and_key(struct words w, size_t end, cJSON **ret)
{
	bool named = w.n > 1 && !strcmp(w.w[1], "key");
	size_t from = named ? 2 : 1;
	cleanup_free char *key = NULL;
	struct uerr *err;

	if (!w.n)
		return uerr_new(UERR_USAGE, "which map? MAP [KEY]");
	if (!named && end <= from) {
		*ret = params_of("map", w.w[0]);
		return NULL;
	}
	err = value_text((struct words){ w.w + from, end > from ? end - from : 0 }, "key", &key);
	if (err)
		return err;
	*ret = params_of("map", w.w[0]);
	cJSON_AddStringToObject(*ret, "key", key);
	return NULL;
}

struct uerr *cmd_map_lookup(struct cli *cli)
{
	struct words w = map_words(cli);
	cleanup_json cJSON *params = NULL, *reply = NULL, *list = cJSON_CreateArray();
	struct uerr *err = map_and_key(w, w.n, &params);

	if (!err)
		err = call_once(cli, "MapLookup", steal_ptr(params), &reply);
	if (err)
		return err;
	cJSON_AddItemToArray(list, cJSON_DetachItemFromObjectCaseSensitive(reply, "element"));
	return print_elements(cli, reply, list);
}

static struct uerr *take_out(struct cli *cli, const char *method)
{
	struct words w = map_words(cli);
	cleanup_json cJSON *params = NULL, *reply = NULL, *list = cJSON_CreateArray();
	struct uerr *err = map_and_key(w, w.n, &params);

	if (!err)
		err = call_once(cli, method, steal_ptr(params), &reply);
	if (err || !cJSON_HasObjectItem(reply, "element"))
		return err;
	cJSON_AddItemToArray(list, cJSON_DetachItemFromObjectCaseSensitive(reply, "element"));
	return print_elements(cli, reply, list);
}

struct uerr *cmd_map_delete(struct cli *cli)
{
	return take_out(cli, "MapDelete");
}

struct uerr *cmd_map_pop(struct cli *cli)
{
	return take_out(cli, "MapPop");
}

struct uerr *cmd_map_freeze(struct cli *cli)
{
	struct words w = map_words(cli);
	cleanup_json cJSON *reply = NULL;

	if (w.n != 1)
		return uerr_new(UERR_USAGE, "map freeze MAP: one map, by id or name");
	return call_once(cli, "MapFreeze", params_of("map", w.w[0]), &reply);
}

static bool is_flag(const char *word)
{
	return !strcmp(word, "any") || !strcmp(word, "noexist") || !strcmp(word, "exist");
}

/* MAP [KEY] VALUE [any|noexist|exist], or MAP [key …] value … [any|noexist|exist] */
struct uerr *cmd_map_update(struct cli *cli)
{
	struct words w = map_words(cli);
	bool named = w.n > 1 && (!strcmp(w.w[1], "key") || !strcmp(w.w[1], "value"));
	const char *flags = w.n > 2 && is_flag(w.w[w.n - 1]) ? w.w[--w.n] : NULL;
	size_t key_end = named ? find_word(w, "value") : w.n - 1, from = named ? key_end + 1 : key_end;
	cleanup_json cJSON *params = NULL, *reply = NULL;
	cleanup_free char *value = NULL;
	struct uerr *err;

	if (named && key_end == w.n)
		return uerr_new(UERR_USAGE, "the value is missing: MAP key … value …");
	if (!named && w.n != 2 && w.n != 3)
		return uerr_new(UERR_USAGE, "map update MAP [KEY] VALUE [any|noexist|exist]: quote values of several words");
	err = map_and_key(w, key_end, &params);
	if (!err)
		err = value_text((struct words){ w.w + from, w.n > from ? w.n - from : 0 }, "value", &value);
	if (err)
		return err;
	cJSON_AddStringToObject(params, "value", value);
	if (flags)
		cJSON_AddStringToObject(params, "flags", flags);
	return call_once(cli, "MapUpdate", steal_ptr(params), &reply);
}

/*
 * map tail.
 */

/* Of a perf event array: how many records of a CPU found no room here. */
static void print_lost(struct cli *cli, const cJSON *record)
{
	cleanup_json cJSON *obj = NULL;
	char number[24];
	number_buf buf;

	if (!opt_given(cli->o, OPT_JSON)) {
		out_printf(cli->out, "lost %s on CPU %d\n", count_format(json_u64(record, "lost"), "record", "records", buf),
			   (int)json_u64(record, "cpu"));
		return;
	}
	obj = cJSON_CreateObject();
	cJSON_AddNumberToObject(obj, "cpu", json_u64(record, "cpu"));
	snprintf(number, sizeof(number), "%" PRIu64, json_u64(record, "lost"));
	cJSON_AddRawToObject(obj, "lost", number);
	json_print(cli->out, obj);
}

static struct uerr *print_record(struct cli *cli, const cJSON *record)
{
	cleanup_json cJSON *obj = NULL;
	const char *json = json_str(record, "value_json");

	if (cJSON_HasObjectItem(record, "lost")) {
		print_lost(cli, record);
		return NULL;
	}
	if (!raw_is_json(record))
		return uerr_new(UERR_FAILED, "the daemon sent a record that is no JSON");
	if (!opt_given(cli->o, OPT_JSON)) {
		out_printf(cli->out, "%s\n", *json ? json : json_str(record, "value"));
		return NULL;
	}
	obj = cJSON_CreateObject();
	if (cJSON_HasObjectItem(record, "cpu"))
		cJSON_AddNumberToObject(obj, "cpu", json_u64(record, "cpu"));
	cJSON_AddNumberToObject(obj, "size", json_u64(record, "size"));
	add_raw(obj, "value", json, json_str(record, "value"));
	json_print(cli->out, obj);
	return NULL;
}

static struct uerr *print_records(struct cli *cli, const cJSON *reply)
{
	struct uerr *err = NULL;
	const cJSON *record;

	cJSON_ArrayForEach(record, json_list(reply, "records"))
		if (!err)
			err = print_record(cli, record);
	return err;
}

/* What did not arrive, and why. */
static void print_losses(struct cli *cli, const cJSON *reply)
{
	static const struct {
		const char *field, *one, *many, *why;
	} losses[] = {
		{ "dropped", "record", "records", "found no room: make the ring bigger, or write less" },
		{ "retired", "record", "records", "died with their writers" },
		{ "spoilt", "time", "times", "the ring held nonsense: something writes over it" },
	};
	const cJSON *busy = cJSON_GetObjectItemCaseSensitive(reply, "busy");
	number_buf buf;

	for (size_t i = 0; i < ARRAY_SIZE(losses); i++) {
		u64 n = json_u64(reply, losses[i].field);

		if (n)
			progress(opt_given(cli->o, OPT_QUIET), "%s %s", count_format(n, losses[i].one, losses[i].many, buf),
				 losses[i].why);
	}
	if (busy)
		progress(opt_given(cli->o, OPT_QUIET), "thread %d of process %d has not finished its record: what comes after "
			 "it waits", (int)json_u64(busy, "tid"), (int)json_u64(busy, "pid"));
}

struct uerr *cmd_map_tail(struct cli *cli)
{
	struct words w = map_words(cli);
	cleanup_json cJSON *last = NULL;
	cleanup_free char *type = NULL;
	struct uerr *err;
	cJSON *params;

	if (!w.n)
		return uerr_new(UERR_USAGE, "map tail MAP [TYPE]: which map?");
	params = params_of("map", w.w[0]);
	if (w.n > 1) {
		type = join((struct words){ w.w + 1, w.n - 1 });
		cJSON_AddStringToObject(params, "type", type ? type : "");
	}
	err = follow(cli, "MapTail", params, print_records, &last);
	if (!err && last)
		print_losses(cli, last);
	return err;
}
