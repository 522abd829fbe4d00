// SPDX-License-Identifier: MIT
/* Stacks with names; see stacks.h. */
#include "cli/stacks.h"

#include <stdlib.h>
#include <string.h>

#include "cli/output.h"

static int by_id(const void *a, const void *b)
{
	u64 x = json_u64(*(const cJSON *const *)a, "id"), y = json_u64(*(const cJSON *const *)b, "id");

	return x < y ? -1 : x > y;
}

struct uerr *stacks_init(struct stacks *s, cJSON *reply)
{
	const cJSON *item;

	*s = (struct stacks){ .reply = reply };
	cJSON_ArrayForEach(item, json_list(reply, "stacks"))
		if (!vec_push(&s->by_id, item))
			return uerr_nomem();
	cJSON_ArrayForEach(item, json_list(reply, "frames"))
		if (!vec_push(&s->frames, item))
			return uerr_nomem();
	if (s->by_id.n)
		qsort(s->by_id.data, s->by_id.n, sizeof(*s->by_id.data), by_id);
	return NULL;
}

void stacks_deinit(struct stacks *s)
{
	cJSON_Delete(s->reply);
	vec_free(&s->by_id);
	vec_free(&s->frames);
}

const cJSON *stacks_find(const struct stacks *s, u32 id)
{
	size_t lo = 0, hi = s->by_id.n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (json_u64(s->by_id.data[mid], "id") < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->by_id.n && json_u64(s->by_id.data[lo], "id") == id ? s->by_id.data[lo] : NULL;
}

static const cJSON *frame_at(const struct stacks *s, const cJSON *no)
{
	double n = cJSON_IsNumber(no) ? no->valuedouble : -1;

	return n >= 0 && n < (double)s->frames.n ? s->frames.data[(size_t)n] : NULL;
}

/* "libc:qsort", "main"; what has no name: "libc+0x1234", or the address. */
static const char *line_name(const cJSON *frame, const cJSON *line, char *buf, size_t size)
{
	const char *module = json_str(frame, "module"), *symbol = json_str(line, "symbol");
	const char *off = json_str(frame, "offset");
	const char *path = json_str(frame, "path"), *slash = strrchr(path, '/');

	if (*symbol)
		snprintf(buf, size, "%s%s%s", module, *module ? ":" : "", symbol);
	else if (*off)
		snprintf(buf, size, "%s+%s", *module ? module : slash ? slash + 1 : path, off);
	else
		snprintf(buf, size, "%s", json_str(frame, "address"));
	return text_clean(buf);
}

static void print_line(FILE *out, const cJSON *frame, const cJSON *line, const char *indent, bool addresses)
{
	char name[512], place[300] = "";
	const char *file = json_str(line, "file");
	bool inlined = json_bool(line, "inlined");
	u64 off = json_u64(line, "offset");

	line_name(frame, line, name, sizeof(name));
	if (*file)
		snprintf(place, sizeof(place), " %s:%d", file, (int)json_u64(line, "line"));
	text_clean(place);
	fputs(indent, out);
	if (addresses)
		fprintf(out, "%-18s  ", inlined ? "" : json_str(frame, "address"));
	out_printf(out, "%s%s", addresses ? "" : "← ", name);
	if (addresses && *json_str(line, "symbol") && !inlined)
		fprintf(out, "+0x%lx", (unsigned long)off);
	fprintf(out, "%s%s\n", place, inlined ? " (inlined)" : "");
}

void stack_print(FILE *out, const struct stacks *s, const cJSON *stack, int first, const char *indent, bool addresses)
{
	const cJSON *no, *line;
	int n = 0;

	cJSON_ArrayForEach(no, json_list(stack, "frames")) {
		const cJSON *frame = frame_at(s, no), *lines = json_list(frame, "lines");

		if (!frame || n++ < first)
			continue;
		if (!cJSON_GetArraySize(lines))
			print_line(out, frame, NULL, indent, addresses);
		cJSON_ArrayForEach(line, lines)
			print_line(out, frame, line, indent, addresses);
	}
}

char *stack_folded_name(char *name)
{
	for (char *c = name; *c; c++)
		*c = *c == ';' || *c == ' ' ? '_' : *c;
	return name;
}

void stack_print_folded(FILE *out, const struct stacks *s, const cJSON *stack)
{
	const cJSON *list = json_list(stack, "frames"), *last = list ? list->child : NULL;
	char name[512];
	bool any = false;

	/* the first knows the last, and each the one before it */
	for (const cJSON *no = last ? last->prev : NULL; no; no = no == last ? NULL : no->prev) {
		const cJSON *frame = frame_at(s, no), *lines = frame ? json_list(frame, "lines") : NULL;
		const cJSON *head = lines ? lines->child : NULL;

		if (!frame)
			continue;
		for (const cJSON *line = head ? head->prev : NULL;; line = line->prev) {
			line_name(frame, line, name, sizeof(name));
			out_printf(out, "%s%s", any ? ";" : "", stack_folded_name(name));
			any = true;
			if (!line || line == head)
				break;
		}
	}
}

static void add_frame(cJSON *list, const cJSON *frame, const cJSON *line)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "address", json_str(frame, "address"));
	cJSON_AddStringToObject(o, "module", json_str(frame, "module"));
	cJSON_AddStringToObject(o, "path", json_str(frame, "path"));
	cJSON_AddStringToObject(o, "symbol", json_str(line, "symbol"));
	json_add_u64(o, "offset", json_u64(line, "offset"));
	cJSON_AddStringToObject(o, "file", json_str(line, "file"));
	json_add_u64(o, "line", json_u64(line, "line"));
	cJSON_AddBoolToObject(o, "inlined", json_bool(line, "inlined"));
	cJSON_AddItemToArray(list, o);
}

cJSON *stack_json(const struct stacks *s, const cJSON *stack)
{
	cJSON *list = cJSON_CreateArray();
	const cJSON *no, *line;

	cJSON_ArrayForEach(no, json_list(stack, "frames")) {
		const cJSON *frame = frame_at(s, no), *lines = frame ? json_list(frame, "lines") : NULL;

		if (!frame)
			continue;
		if (!cJSON_GetArraySize(lines))
			add_frame(list, frame, NULL);
		cJSON_ArrayForEach(line, lines)
			add_frame(list, frame, line);
	}
	return list;
}
