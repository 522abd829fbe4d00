// SPDX-License-Identifier: MIT
/* bpfctl symbols: what can be probed, by which tactic, or why not. */
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/run.h"
#include "cli/target.h"

/* Whether entry or exit of SYM can be probed: a tactic, and no reason against. */
static bool can(const cJSON *sym, const char *tactic, const char *reason)
{
	return strcmp(json_str(sym, tactic), "-") && *json_str(sym, tactic) && !*json_str(sym, reason);
}

static const char *word_or_dash(const char *word)
{
	return *word ? word : "-";
}

/* The note, or why not: the exit's reason matters where the entry is fine. */
static const char *note_of(const cJSON *sym)
{
	static const char *const fields[] = { "entry_reason", "exit_reason", "note" };

	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (*json_str(sym, fields[i]))
			return json_str(sym, fields[i]);
	return "";
}

static bool is_usdt(const cJSON *sym)
{
	return cJSON_GetObjectItemCaseSensitive(sym, "args");
}

static bool several_processes(const cJSON *symbols)
{
	const cJSON *sym;

	cJSON_ArrayForEach(sym, symbols)
		if (json_u64(sym, "pid") != json_u64(symbols->child, "pid"))
			return true;
	return false;
}

static void print_table(FILE *out, const cJSON *symbols)
{
	bool pids = several_processes(symbols);
	struct table t = { .align = pids ? "rlrlll" : "lrlll" };
	const cJSON *sym;

	if (pids)
		table_cell(&t, "PID");
	table_cell(&t, "FUNCTION");
	table_cell(&t, "BYTES");
	table_cell(&t, "ENTRY");
	table_cell(&t, "EXIT");
	table_cell(&t, "NOTE");
	cJSON_ArrayForEach(sym, symbols) {
		if (pids)
			table_cell(&t, "%d", (int)json_u64(sym, "pid"));
		table_cell(&t, "%s", json_str(sym, "symbol"));
		table_cell(&t, "%" PRIu64, json_u64(sym, "bytes"));
		table_cell(&t, "%s", word_or_dash(json_str(sym, "entry")));
		table_cell(&t, "%s", word_or_dash(json_str(sym, "exit")));
		table_cell(&t, "%s", note_of(sym));
	}
	table_print(&t, out);
}

static void print_long(FILE *out, const cJSON *sym)
{
	number_buf insns, bytes;

	out_printf(out, "%s   %" PRIu64 " bytes at %s, ", json_str(sym, "symbol"), json_u64(sym, "bytes"),
		   json_str(sym, "address"));
	if (can(sym, "entry", "entry_reason"))
		out_printf(out, "entry %s (%s, %s), ", json_str(sym, "entry"),
			   count_format(json_u64(sym, "insns"), "instruction", "instructions", insns),
			   count_format(json_u64(sym, "displaced"), "byte", "bytes", bytes));
	else
		out_printf(out, "no entry, ");
	if (can(sym, "exit", "exit_reason"))
		out_printf(out, "exit %s (%d)\n", json_str(sym, "exit"), (int)json_u64(sym, "rets"));
	else
		out_printf(out, "no exit\n");
	if (*json_str(sym, "entry_reason"))
		out_printf(out, "  entry: %s\n", json_str(sym, "entry_reason"));
	if (*json_str(sym, "exit_reason"))
		out_printf(out, "  exit: %s\n", json_str(sym, "exit_reason"));
	if (*json_str(sym, "note"))
		out_printf(out, "  %s\n", json_str(sym, "note"));
	if (*json_str(sym, "path"))
		out_printf(out, "  in %s\n", json_str(sym, "path"));
}

static void print_summary(FILE *out, const cJSON *symbols)
{
	size_t n = 0, entries = 0, exits = 0, usdts = 0;
	number_buf a, b, c;
	const cJSON *sym;

	cJSON_ArrayForEach(sym, symbols) {
		bool entry = can(sym, "entry", "entry_reason");

		n++;
		usdts += is_usdt(sym);
		entries += entry;
		exits += entry && can(sym, "exit", "exit_reason");
	}
	if (n && n == usdts)
		out_printf(out, "%s: %s can be counted and traced.\n",
			   count_format(n, "place of USDT probes", "places of USDT probes", a), number_format(entries, b));
	else
		out_printf(out, "%s: %s can be counted and traced, %s timed.\n", count_format(n, "function", "functions", a),
		   number_format(entries, b), number_format(exits, c));
}

/* "symbol" becomes the bare name, as in all our JSON; "probe" is the SPEC. */
static void symbols_to_json(cJSON *symbols)
{
	cJSON *sym;

	cJSON_ArrayForEach(sym, symbols) {
		cleanup_free char *spec = strdup(json_str(sym, "symbol"));

		if (!spec)
			return;
		cJSON_ReplaceItemInObjectCaseSensitive(sym, "symbol", cJSON_CreateString(spec_symbol(spec)));
		cJSON_AddStringToObject(sym, "probe", spec);
	}
}

static struct uerr *symbols_params(struct cli *cli, pid_t child, cJSON **ret)
{
	const char *const *specs = cli->o->args.data + 1;
	size_t n = cli->o->args.n - 1;
	cleanup_json cJSON *params = cJSON_CreateObject();
	cJSON *list, *target, *nots = nots_json(cli->o);
	struct uerr *err;

	if (nots)
		cJSON_AddItemToObject(params, "not", nots);
	err = specs_json(specs, n, &list);
	if (err)
		return err;
	cJSON_AddItemToObject(params, "specs", list);
	err = target_json(cli->o, specs, n, child, true, &target);
	if (err)
		return err;
	cJSON_AddItemToObject(params, "target", target);
	if (opt_given(cli->o, OPT_TRAP))
		cJSON_AddBoolToObject(params, "trap", true);
	*ret = steal_ptr(params);
	return NULL;
}

struct uerr *cmd_symbols(struct cli *cli)
{
	cleanup_json cJSON *reply = NULL;
	const cJSON *symbols, *sym;
	struct child child;
	struct uerr *err = call_with_child(cli, "Symbols", symbols_params, &child, &reply);

	if (err)
		return err;
	child_abandon(&child); /* its image was all that was wanted */
	symbols = json_list(reply, "symbols");
	if (opt_given(cli->o, OPT_JSON)) {
		symbols_to_json(cJSON_GetObjectItemCaseSensitive(reply, "symbols"));
		reply_print(cli, reply, "io.uprobed.symbols/1");
		return NULL;
	}
	if (opt_given(cli->o, OPT_VERBOSE))
		cJSON_ArrayForEach(sym, symbols)
			print_long(cli->out, sym);
	else
		print_table(cli->out, symbols);
	print_summary(cli->out, symbols);
	return NULL;
}
