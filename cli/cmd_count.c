// SPDX-License-Identifier: MIT
/* bpfctl count: how often functions run. */
#include <stdlib.h>
#include <string.h>

#include "cli/oneshot.h"
#include "cli/output.h"
#include "cli/target.h"
#include "cli/tools.h"

static const char *const sized_maps[] = { "counts", NULL };

static const struct tool count_tool = {
	.name = "count",
	.object = tool_count,
	.object_end = tool_count_end,
	.maps = sized_maps,
	.places = 256,
	.programs = { { "count", NULL } },
};

struct counting {
	struct oneshot os;
	u64 *now, *before; /* by place */
	u64 period_start, missed_before;
	bool all_listed;   /* JSON: also places without a call */
};

struct row {
	const struct place *place;
	u64 count;
};

static void take_count(u32 index, const u64 *value, void *arg)
{
	struct counting *c = arg;

	if (index < c->os.places.n)
		c->now[index] = *value;
}

static struct uerr *read_counts(struct counting *c)
{
	return oneshot_map_read(&c->os, "counts", 8, take_count, c);
}

static void print_json(struct counting *c, u64 end, u64 missed)
{
	cleanup_json cJSON *doc = oneshot_document(&c->os, "io.uprobed.count/1", c->period_start, end, missed);
	cJSON *list = cJSON_AddArrayToObject(doc, "counts");
	const struct place *places = c->os.places.data;

	for (size_t i = 0; i < c->os.places.n; i++) {
		u64 count = c->now[i] - c->before[i];
		cJSON *obj;

		if (!places[i].used || (!count && !c->all_listed))
			continue;
		obj = cJSON_CreateObject();
		cJSON_AddNumberToObject(obj, "pid", places[i].pid);
		cJSON_AddStringToObject(obj, "comm", places[i].comm);
		cJSON_AddStringToObject(obj, "module", places[i].module);
		cJSON_AddStringToObject(obj, "symbol", places[i].symbol);
		cJSON_AddStringToObject(obj, "probe", places[i].spec);
		json_add_u64(obj, "count", count);
		cJSON_AddItemToArray(list, obj);
	}
	json_print(c->os.cli->out, doc);
}

static int by_spec(const void *a, const void *b)
{
	return strcmp(((const struct row *)a)->place->spec, ((const struct row *)b)->place->spec);
}

static int by_count(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	return x->count != y->count ? (x->count < y->count ? 1 : -1) : by_spec(a, b);
}

/* One row a function: of several processes the sum. Busiest first. */
static size_t make_rows(const struct counting *c, struct row *rows)
{
	size_t n = 0, out = 0;

	for (size_t i = 0; i < c->os.places.n; i++)
		if (c->os.places.data[i].used)
			rows[n++] = (struct row){ &c->os.places.data[i], c->now[i] - c->before[i] };
	qsort(rows, n, sizeof(*rows), by_spec);
	for (size_t i = 0; i < n; i++) {
		if (out && !strcmp(rows[out - 1].place->spec, rows[i].place->spec))
			rows[out - 1].count += rows[i].count;
		else
			rows[out++] = rows[i];
	}
	qsort(rows, out, sizeof(*rows), by_count);
	return out;
}

static void print_rows(struct counting *c, const struct row *rows, size_t n, u64 ns)
{
	struct table t = { .align = "rrl" };

	table_cell(&t, "    CALLS");
	table_cell(&t, "   RATE/S");
	table_cell(&t, "FUNCTION");
	for (size_t i = 0; i < n; i++) {
		table_number(&t, rows[i].count);
		table_number(&t, ns ? (u64)(rows[i].count * 1e9 / ns + 0.5) : 0);
		table_cell(&t, "%s", rows[i].place->spec);
	}
	table_print(&t, c->os.cli->out);
}

static struct uerr *print_table(struct counting *c, u64 end, u64 missed, bool last)
{
	cleanup_free struct row *rows = calloc(c->os.places.n, sizeof(*rows));
	FILE *out = c->os.cli->out;
	size_t n, called = 0, shown;
	number_buf num;

	if (!rows)
		return uerr_nomem();
	n = make_rows(c, rows);
	while (called < n && rows[called].count)
		called++;
	shown = oneshot_top(&c->os, called);
	oneshot_print_time(&c->os);
	if (called)
		print_rows(c, rows, shown, end - c->period_start);
	else if (last && c->period_start == c->os.start_ns)
		oneshot_print_silence(&c->os);
	else
		out_printf(out, "no calls\n");
	if (shown < called)
		out_printf(out, "… %s more (--top 0). ", number_format(called - shown, num));
	if (called && called < n)
		out_printf(out, "%s never called. ", number_format(n - called, num));
	out_printf(out, "missed %s\n", number_format(missed, num));
	return NULL;
}

/* Prints what happened since the last time. */
static struct uerr *print_period(struct counting *c, u64 end, bool last)
{
	u64 missed = c->os.missed - c->missed_before;
	struct uerr *err = NULL;

	if (opt_given(c->os.cli->o, OPT_JSON))
		print_json(c, end, missed);
	else
		err = print_table(c, end, missed, last);
	fflush(c->os.cli->out);
	memcpy(c->before, c->now, c->os.places.n * sizeof(*c->now));
	c->period_start = end;
	c->missed_before = c->os.missed;
	return err;
}

static struct uerr *interval(struct oneshot *os, void *arg)
{
	struct counting *c = arg;
	u64 end = now_ns();
	struct uerr *err = oneshot_read_missed(os);

	if (!err)
		err = read_counts(c);
	if (!err)
		err = print_period(c, end, false);
	if (!err && !opt_given(os->cli->o, OPT_JSON))
		fputc('\n', os->cli->out);
	return err;
}

static const struct oneshot_hooks hooks = { .interval = interval };

static struct uerr *count_run(struct counting *c)
{
	struct uerr *err;

	c->now = calloc(c->os.places.n, sizeof(*c->now));
	c->before = calloc(c->os.places.n, sizeof(*c->before));
	if (!c->now || !c->before)
		return uerr_nomem();
	c->period_start = c->os.start_ns;
	err = oneshot_run(&c->os, &hooks, c);
	if (!err)
		err = read_counts(c);
	if (!err)
		err = print_period(c, c->os.end_ns, true);
	if (!err)
		oneshot_end(&c->os);
	return err;
}

struct uerr *cmd_count(struct cli *cli)
{
	struct counting c = { .all_listed = true };
	struct uerr *err = oneshot_begin(&c.os, cli, &count_tool);

	for (size_t i = 1; i < cli->o->args.n; i++)
		c.all_listed &= !spec_is_glob(cli->o->args.data[i]);
	if (!err && c.os.attached)
		err = count_run(&c);
	oneshot_deinit(&c.os);
	free(c.now);
	free(c.before);
	return err;
}
