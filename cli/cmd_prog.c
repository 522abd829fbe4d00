// SPDX-License-Identifier: MIT
/* bpfctl prog: programs, their listings, and what they print. */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/lists.h"
#include "cli/output.h"

static const struct column prog_columns[] = {
	{ "ID", "id", COLUMN_NUMBER },         { "NAME", "name", COLUMN_TEXT },
	{ "SECTION", "section", COLUMN_TEXT }, { "INSNS", "insns", COLUMN_NUMBER },
	{ "CODE", "jited_bytes", COLUMN_BYTES }, { "STACK", "stack_depth", COLUMN_NUMBER },
	{ "OBJECT", "object", COLUMN_NUMBER }, { "MAPS", "maps", COLUMN_LIST },
	{ "LINKS", "links", COLUMN_LIST },     {},
};

static const struct listing progs = {
	.method = "ListPrograms",
	.field = "programs",
	.singular = "program",
	.schema = "io.uprobed.programs/1",
	.columns = prog_columns,
};

struct uerr *cmd_prog_list(struct cli *cli)
{
	return listing_print(cli, &progs);
}

struct uerr *cmd_prog_show(struct cli *cli)
{
	return listing_show(cli, &progs);
}

struct uerr *cmd_prog_dump(struct cli *cli)
{
	const char *kind = cli->o->args.data[2];
	cleanup_json cJSON *params = params_of("program", cli->o->args.data[3]), *reply = NULL;
	const char *text;
	struct uerr *err;

	if (strcmp(kind, "xlated") && strcmp(kind, "jited"))
		return uerr_new(UERR_USAGE, "prog dump xlated PROG, or prog dump jited PROG: not '%s'", kind);
	cJSON_AddStringToObject(params, "kind", kind);
	if (cli->o->pids.n)
		cJSON_AddNumberToObject(params, "pid", cli->o->pids.data[0]);
	err = call_once(cli, "DumpProgram", steal_ptr(params), &reply);
	if (err)
		return err;
	if (opt_given(cli->o, OPT_JSON)) {
		reply_print(cli, reply, "io.uprobed.listing/1");
		return NULL;
	}
	text = json_str(reply, "text");
	out_printf(cli->out, "%s%s", text, *text && text[strlen(text) - 1] != '\n' ? "\n" : "");
	return NULL;
}

/* As the kernel's trace_pipe has it. */
static void print_trace_line(struct cli *cli, const cJSON *line)
{
	u64 ns = json_u64(line, "ts_ns");

	if (opt_given(cli->o, OPT_JSON)) {
		json_print(cli->out, line);
		return;
	}
	out_printf(cli->out, "%16s-%-7d [%03d] %6" PRIu64 ".%06" PRIu64 ": bpf_trace_printk: %s\n", json_str(line, "comm"),
		   (int)json_u64(line, "tid"), (int)json_u64(line, "cpu"), ns / 1000000000, ns / 1000 % 1000000,
		   json_str(line, "text"));
}

static struct uerr *print_trace_lines(struct cli *cli, const cJSON *reply)
{
	const cJSON *line;

	cJSON_ArrayForEach(line, json_list(reply, "lines"))
		print_trace_line(cli, line);
	return NULL;
}

struct uerr *cmd_prog_tracelog(struct cli *cli)
{
	cleanup_json cJSON *last = NULL;
	cJSON *params = cJSON_CreateObject();
	number_buf buf;
	struct uerr *err;
	u64 missed;

	if (cli->o->pids.n)
		cJSON_AddNumberToObject(params, "pid", cli->o->pids.data[0]);
	err = follow(cli, "TraceLog", params, print_trace_lines, &last);
	missed = last ? json_u64(last, "missed") : 0;
	if (!err && missed)
		progress(opt_given(cli->o, OPT_QUIET), "missed %s", number_format(missed, buf));
	return err;
}
