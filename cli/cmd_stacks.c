// SPDX-License-Identifier: MIT
/* bpfctl stacks: from where functions are called. */
#include <stdlib.h>
#include <string.h>

#include "cli/oneshot.h"
#include "cli/output.h"
#include "cli/stacks.h"
#include "cli/target.h"
#include "cli/tools.h"
#include "cli/tools/stacks.h"

static const char *const sized_maps[] = { NULL };

static const struct tool stacks_tool = {
	.name = "stacks",
	.object = tool_stacks,
	.object_end = tool_stacks_end,
	.maps = sized_maps,
	.places = 1u << 20,
	.programs = { { "stacks_hit", NULL } },
};

/* A place reached by a stack. */
struct row {
	struct stacks_key key;
	u64 total, before; /* calls until now, and at the end of the last period */
	const cJSON *stack;
	const struct stacks *names; /* to which that belongs */
};

struct collecting {
	struct oneshot os;
	struct stacks names, more;
	VEC(struct row) rows; /* by key */
	u64 lost, lost_before;
	u64 period_start, missed_before;
};

static u64 row_count(const struct row *r)
{
	return r->total - r->before;
}

static int by_key(const void *a, const void *b)
{
	const struct stacks_key *x = &((const struct row *)a)->key, *y = &((const struct row *)b)->key;

	return x->place != y->place ? (x->place < y->place ? -1 : 1) : x->id < y->id ? -1 : x->id > y->id;
}

static int by_count(const void *a, const void *b)
{
	const struct row *x = *(const struct row *const *)a, *y = *(const struct row *const *)b;

	return row_count(x) != row_count(y) ? (row_count(x) < row_count(y) ? 1 : -1) : by_key(x, y);
}

static struct uerr *take_count(const void *key, const u64 *value, void *arg)
{
	struct collecting *c = arg;
	struct row row = { .total = *value };

	memcpy(&row.key, key, sizeof(row.key));
	return vec_push(&c->rows, row) ? NULL : uerr_nomem();
}

static void take_lost(u32 index, const u64 *value, void *arg)
{
	struct collecting *c = arg;

	if (!index)
		c->lost = *value;
}

/* The rows that are new take over what was before. */
static struct uerr *read_counts(struct collecting *c)
{
	__typeof__(c->rows) old = c->rows;
	struct uerr *err;

	memset(&c->rows, 0, sizeof(c->rows));
	err = oneshot_map_each(&c->os, "counts", sizeof(struct stacks_key), 8, take_count, c);
	if (!err)
		err = oneshot_map_read(&c->os, "lost", 8, take_lost, c);
	if (c->rows.n)
		qsort(c->rows.data, c->rows.n, sizeof(*c->rows.data), by_key);
	vec_foreach(r, &c->rows) {
		const struct row *was = old.n ? bsearch(r, old.data, old.n, sizeof(*r), by_key) : NULL;

		r->before = was ? was->total : 0;
	}
	vec_free(&old);
	return err;
}

static struct uerr *read_names_of(struct collecting *c, const char *map, struct stacks *ret)
{
	cJSON *params = cJSON_CreateObject(), *reply = NULL;
	struct uerr *err;
	char id[24];

	cJSON_AddStringToObject(params, "map", oneshot_map_id(&c->os, map, id));
	stacks_deinit(ret);
	*ret = (struct stacks){};
	err = client_call(&c->os.client, "StackNames", params, &reply);
	return err ? err : stacks_init(ret, reply);
}

static struct uerr *read_names(struct collecting *c)
{
	struct uerr *err = read_names_of(c, "stacks", &c->names);
	bool more = false;

	vec_foreach(r, &c->rows)
		more = more || (r->key.id > 0 && r->key.id & STACKS_MORE);
	if (!err && more)
		err = read_names_of(c, "more", &c->more);
	if (err)
		return err;
	vec_foreach(r, &c->rows) {
		r->names = r->key.id >= 0 && r->key.id & STACKS_MORE ? &c->more : &c->names;
		r->stack = r->key.id < 0 ? NULL : stacks_find(r->names, (u32)r->key.id & ~(u32)STACKS_MORE);
	}
	return NULL;
}

static const struct place *place_of(const struct collecting *c, const struct row *r)
{
	const struct place *p = r->key.place < c->os.places.n ? &c->os.places.data[r->key.place] : NULL;

	return p && p->used ? p : NULL;
}

/* Those of this period, busiest first; NULL-terminated, malloc'd. */
static struct row **busy_rows(const struct collecting *c, size_t *ret_n)
{
	struct row **rows = calloc(c->rows.n + 1, sizeof(struct row *));
	size_t n = 0;

	if (!rows)
		return NULL;
	vec_foreach(r, &c->rows)
		if (row_count(r) && place_of(c, r))
			rows[n++] = r;
	if (n)
		qsort(rows, n, sizeof(struct row *), by_count);
	*ret_n = n;
	return rows;
}

static void print_json(struct collecting *c, struct row *const *rows, size_t n, u64 end, u64 missed)
{
	cleanup_json cJSON *doc = oneshot_document(&c->os, "io.uprobed.stacks/1", c->period_start, end, missed);
	cJSON *list = cJSON_AddArrayToObject(doc, "stacks");

	json_add_u64(doc, "lost", c->lost - c->lost_before);
	for (size_t i = 0; i < n; i++) {
		const struct place *p = place_of(c, rows[i]);
		cJSON *obj = cJSON_CreateObject();

		cJSON_AddNumberToObject(obj, "pid", p->pid);
		cJSON_AddStringToObject(obj, "comm", p->comm);
		cJSON_AddStringToObject(obj, "module", p->module);
		cJSON_AddStringToObject(obj, "symbol", p->symbol);
		cJSON_AddStringToObject(obj, "probe", p->spec);
		json_add_u64(obj, "count", row_count(rows[i]));
		cJSON_AddItemToObject(obj, "frames", stack_json(rows[i]->names, rows[i]->stack));
		cJSON_AddItemToArray(list, obj);
	}
	json_print(c->os.cli->out, doc);
}

/* "comm;main;run;compare 12" */
static void print_folded(const struct collecting *c, const struct row *r)
{
	const struct place *p = place_of(c, r);
	FILE *out = c->os.cli->out;
	char name[512];

	snprintf(name, sizeof(name), "%s", p->comm);
	out_printf(out, "%s;", stack_folded_name(name));
	if (r->stack) {
		stack_print_folded(out, r->names, r->stack);
	} else {
		snprintf(name, sizeof(name), "%s", p->spec);
		out_printf(out, "[unknown];%s", stack_folded_name(name));
	}
	fprintf(out, " %lu\n", (unsigned long)row_count(r));
}

/* The stack of a function's entry begins in the function itself, which is the row's name. */
static void print_row(const struct collecting *c, const struct row *r)
{
	const struct place *p = place_of(c, r);
	FILE *out = c->os.cli->out;
	number_buf num;

	out_printf(out, "%9s  %s\n", number_format(row_count(r), num), p->spec);
	if (r->stack)
		stack_print(out, r->names, r->stack, spec_is_entry(p->spec), "             ", false);
	else
		out_printf(out, "             (no room for this stack)\n");
}

static void print_text(struct collecting *c, struct row *const *rows, size_t n, u64 missed, bool last)
{
	FILE *out = c->os.cli->out;
	size_t shown = oneshot_top(&c->os, n);
	u64 lost = c->lost - c->lost_before;
	number_buf num;

	oneshot_print_time(&c->os);
	if (n)
		out_printf(out, "    CALLS  FUNCTION, AND WHO CALLED IT\n");
	else if (last && c->period_start == c->os.start_ns)
		oneshot_print_silence(&c->os);
	else
		out_printf(out, "no calls\n");
	for (size_t i = 0; i < shown; i++)
		print_row(c, rows[i]);
	if (shown < n)
		out_printf(out, "… %s more (--top 0). ", number_format(n - shown, num));
	if (lost)
		out_printf(out, "%s calls from too many places. ", number_format(lost, num));
	out_printf(out, "missed %s\n", number_format(missed, num));
}

/* Prints what happened since the last time. */
static struct uerr *print_period(struct collecting *c, u64 end, bool last)
{
	u64 missed = c->os.missed - c->missed_before;
	cleanup_free struct row **rows = NULL;
	size_t n = 0;
	struct uerr *err = read_counts(c);

	if (!err)
		err = read_names(c);
	if (err)
		return err;
	rows = busy_rows(c, &n);
	if (!rows)
		return uerr_nomem();
	if (opt_given(c->os.cli->o, OPT_JSON))
		print_json(c, rows, n, end, missed);
	else if (opt_given(c->os.cli->o, OPT_FOLDED))
		for (size_t i = 0; i < n; i++)
			print_folded(c, rows[i]);
	else
		print_text(c, rows, n, missed, last);
	fflush(c->os.cli->out);
	c->period_start = end;
	c->missed_before = c->os.missed;
	c->lost_before = c->lost;
	return NULL;
}

static struct uerr *interval(struct oneshot *os, void *arg)
{
	struct collecting *c = arg;
	u64 end = now_ns();
	struct uerr *err = oneshot_read_missed(os);

	if (!err)
		err = print_period(c, end, false);
	if (!err && !opt_given(os->cli->o, OPT_JSON) && !opt_given(os->cli->o, OPT_FOLDED))
		fputc('\n', os->cli->out);
	return err;
}

static const struct oneshot_hooks hooks = { .interval = interval };

static struct uerr *stacks_run(struct collecting *c)
{
	struct uerr *err;

	c->period_start = c->os.start_ns;
	err = oneshot_run(&c->os, &hooks, c);
	if (!err)
		err = print_period(c, c->os.end_ns, true);
	if (!err)
		oneshot_end(&c->os);
	return err;
}

struct uerr *cmd_stacks(struct cli *cli)
{
	struct collecting c = {};
	struct uerr *err;

	if (opt_given(cli->o, OPT_FOLDED) && opt_given(cli->o, OPT_JSON))
		return uerr_new(UERR_USAGE, "--folded and --json are two ways to print: choose one");
	err = oneshot_begin(&c.os, cli, &stacks_tool);
	if (!err && c.os.attached)
		err = stacks_run(&c);
	oneshot_deinit(&c.os);
	stacks_deinit(&c.names);
	stacks_deinit(&c.more);
	vec_free(&c.rows);
	return err;
}
