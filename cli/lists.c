// SPDX-License-Identifier: MIT
/* Tables of what the daemon has; see lists.h. */
#include "cli/lists.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/output.h"

static char *joined(const cJSON *list)
{
	char *text = NULL;
	const cJSON *item;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	cJSON_ArrayForEach(item, list) {
		if (item != list->child)
			fputs(", ", f);
		if (cJSON_IsString(item))
			fputs(item->valuestring, f);
		else
			fprintf(f, "%d", item->valueint);
	}
	fclose(f);
	return text;
}

/* The text of a cell; malloc'd, NULL when out of memory. */
static char *column_text(const cJSON *item, const struct column *col)
{
	number_buf buf;

	switch (col->kind) {
	case COLUMN_TEXT:
		return strdup(json_str(item, col->field));
	case COLUMN_NUMBER: /* an id is no quantity: no separators */
		snprintf(buf, sizeof(buf), "%" PRIu64, json_u64(item, col->field));
		return strdup(buf);
	case COLUMN_BYTES:
		return strdup(bytes_format(json_u64(item, col->field), buf));
	case COLUMN_TIME:
		return strdup(duration_format(json_u64(item, col->field), buf));
	case COLUMN_BOOLEAN:
		return strdup(json_bool(item, col->field) ? "yes" : "");
	case COLUMN_LIST:
		return joined(json_list(item, col->field));
	}
	return NULL;
}

static bool right_aligned(enum column_kind kind)
{
	return kind == COLUMN_NUMBER || kind == COLUMN_BYTES || kind == COLUMN_TIME;
}

static void print_table(struct cli *cli, const struct listing *l, const cJSON *list)
{
	char align[16] = "";
	struct table t = { .align = align };
	const cJSON *item;
	size_t n = 0;

	for (const struct column *c = l->columns; c->title; c++) {
		align[n++] = right_aligned(c->kind) ? 'r' : 'l';
		table_cell(&t, "%s", c->title);
	}
	cJSON_ArrayForEach(item, list) {
		for (const struct column *c = l->columns; c->title; c++) {
			cleanup_free char *text = column_text(item, c);

			table_cell(&t, "%s", text ? text : "");
		}
	}
	table_print(&t, cli->out);
}

struct uerr *listing_print(struct cli *cli, const struct listing *l)
{
	cleanup_json cJSON *reply = NULL;
	const cJSON *list;
	struct uerr *err = call_once(cli, l->method, NULL, &reply);

	if (err)
		return err;
	list = json_list(reply, l->field);
	if (opt_given(cli->o, OPT_JSON))
		reply_print(cli, reply, l->schema);
	else if (cJSON_GetArraySize(list))
		print_table(cli, l, list);
	else
		progress(opt_given(cli->o, OPT_QUIET), "no %ss", l->singular);
	return NULL;
}

static bool item_is(const cJSON *item, const char *word)
{
	char *end;
	unsigned long id = strtoul(word, &end, 10);
	const char *key = cJSON_HasObjectItem(item, "id") ? "id" : "pid";

	if (*word && !*end)
		return json_u64(item, key) == id;
	return !strcmp(json_str(item, "name"), word) || !strcmp(json_str(item, "comm"), word);
}

void listing_print_item(struct cli *cli, const struct listing *l, const cJSON *item)
{
	for (const struct column *c = l->columns; c->title; c++) {
		cleanup_free char *text = column_text(item, c), *title = strdup(c->title);

		for (char *p = title; p && *p; p++)
			*p = *p >= 'A' && *p <= 'Z' ? *p + 32 : *p;
		if (text && *text)
			out_printf(cli->out, "%-10s  %s\n", title ? title : "", text);
	}
}

struct uerr *listing_show(struct cli *cli, const struct listing *l)
{
	const char *word = cli->o->args.n > 2 ? cli->o->args.data[2] : NULL;
	cleanup_json cJSON *reply = NULL, *found = cJSON_CreateArray();
	const cJSON *item;
	struct uerr *err = call_once(cli, l->method, NULL, &reply);

	if (err)
		return err;
	cJSON_ArrayForEach(item, json_list(reply, l->field))
		if (!word || item_is(item, word))
			cJSON_AddItemToArray(found, cJSON_Duplicate(item, true));
	if (word && !cJSON_GetArraySize(found))
		return uerr_new(UERR_FAILED, "no %s '%s'; 'bpfctl %s list' shows what there is", l->singular, word,
				cli->o->args.data[0]);
	if (opt_given(cli->o, OPT_JSON)) {
		cleanup_json cJSON *doc = cJSON_CreateObject();

		cJSON_AddItemToObject(doc, l->field, steal_ptr(found));
		reply_print(cli, doc, l->schema);
		return NULL;
	}
	cJSON_ArrayForEach(item, found) {
		if (item != found->child)
			fputc('\n', cli->out);
		listing_print_item(cli, l, item);
	}
	return NULL;
}

/* ---- what probing everything costs ---- */

#define PAGE_BYTES 4096u
#define WORTH_A_LINE (1u << 20)

struct text_page {
	u64 pid, page;
};

static int by_page(const void *a, const void *b)
{
	const struct text_page *x = a, *y = b;

	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	return x->page < y->page ? -1 : x->page > y->page;
}

void warn_private_text(const cJSON *sites, const char *tense)
{
	size_t n = cJSON_GetArraySize(sites), k = 0, distinct = 0;
	cleanup_free struct text_page *pages = calloc(n ? n : 1, sizeof(*pages));
	const cJSON *site;
	number_buf buf;

	if (!pages)
		return;
	cJSON_ArrayForEach(site, sites)
		pages[k++] = (struct text_page){ json_u64(site, "pid"),
						 strtoull(json_str(site, "address"), NULL, 16) / PAGE_BYTES };
	qsort(pages, n, sizeof(*pages), by_page);
	for (size_t i = 0; i < n; i++)
		distinct += !i || by_page(&pages[i - 1], &pages[i]);
	if (distinct * PAGE_BYTES >= WORTH_A_LINE)
		progress(false, "Copies of the probed text %s %s.", tense, bytes_format(distinct * PAGE_BYTES, buf));
}
