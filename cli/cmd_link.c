// SPDX-License-Identifier: MIT
/* bpfctl link and target: what is attached, and where. */
#include <string.h>

#include "cli/cli.h"
#include "cli/lists.h"
#include "cli/output.h"

static const struct column link_columns[] = {
	{ "ID", "id", COLUMN_NUMBER },       { "PROG", "program", COLUMN_NUMBER },
	{ "PROBE", "probe", COLUMN_TEXT },   { "SPECS", "specs", COLUMN_LIST },
	{ "PLACES", "nsites", COLUMN_NUMBER }, { "PIDS", "pids", COLUMN_LIST },
	{ "OBJECT", "object", COLUMN_NUMBER }, { "EPHEMERAL", "ephemeral", COLUMN_BOOLEAN },
	{},
};

static const struct listing links = {
	.method = "ListLinks",
	.field = "links",
	.singular = "link",
	.schema = "io.uprobed.links/1",
	.columns = link_columns,
};

static const struct column target_columns[] = {
	{ "PID", "pid", COLUMN_NUMBER },        { "COMM", "comm", COLUMN_TEXT },
	{ "PLACES", "nsites", COLUMN_NUMBER },  { "LINKS", "links", COLUMN_LIST },
	{ "THREADS", "threads", COLUMN_NUMBER }, { "STOPS", "stops", COLUMN_NUMBER },
	{ "STOOD STILL", "stopped_ns", COLUMN_TIME }, { "MAPPED", "mapped_bytes", COLUMN_BYTES },
	{ "MAPS", "map_bytes", COLUMN_BYTES },  { "RETIRED", "retired", COLUMN_NUMBER },
	{ "CHILDREN", "children", COLUMN_LIST }, { "PATH", "path", COLUMN_TEXT },
	{ "OTHER MEMORY", "reads", COLUMN_TEXT },
	{},
};

static const struct listing targets = {
	.method = "ListTargets",
	.field = "targets",
	.singular = "target",
	.schema = "io.uprobed.targets/1",
	.columns = target_columns,
};

struct uerr *cmd_link_list(struct cli *cli)
{
	return listing_print(cli, &links);
}

static void print_sites(struct cli *cli, const cJSON *sites)
{
	struct table t = { .align = "rllllrl" };
	static const char *const titles[] = { "PID", "COMM", "PROBE", "TACTIC", "ADDRESS", "BYTES", "FUNCTION" };
	const cJSON *site;

	for (size_t i = 0; i < ARRAY_SIZE(titles); i++)
		table_cell(&t, "%s", titles[i]);
	cJSON_ArrayForEach(site, sites) {
		table_cell(&t, "%d", (int)json_u64(site, "pid"));
		table_cell(&t, "%s", json_str(site, "comm"));
		table_cell(&t, "%s", json_str(site, "probe"));
		table_cell(&t, "%s", json_str(site, "tactic"));
		table_cell(&t, "%s", json_str(site, "address"));
		table_cell(&t, "%d", (int)json_u64(site, "bytes"));
		table_cell(&t, "%s", json_str(site, "symbol"));
	}
	table_print(&t, cli->out);
}

struct uerr *cmd_link_show(struct cli *cli)
{
	cleanup_json cJSON *reply = NULL;
	struct uerr *err;

	if (cli->o->args.n < 3)
		return listing_show(cli, &links);
	err = call_once(cli, "GetLink", params_of("link", cli->o->args.data[2]), &reply);
	if (err)
		return err;
	if (opt_given(cli->o, OPT_JSON)) {
		reply_print(cli, reply, "io.uprobed.link/1");
		return NULL;
	}
	listing_print_item(cli, &links, cJSON_GetObjectItemCaseSensitive(reply, "link"));
	print_sites(cli, json_list(reply, "sites"));
	return NULL;
}

struct uerr *cmd_target_list(struct cli *cli)
{
	return listing_print(cli, &targets);
}

struct uerr *cmd_target_show(struct cli *cli)
{
	return listing_show(cli, &targets);
}
