// SPDX-License-Identifier: MIT
/*
 * bpfctl: probes in live processes, from the command line. Finds the command in
 * the table, checks its options, runs it, and turns its error into an exit
 * status. What each command does is in cmd_*.c; what all options mean in opts.c.
 */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/run.h"

#define FAILED_BEFORE_CMD 125

const struct cmd commands[] = {
	{ NULL, "status", "", "is the daemon running, and what does it hold", 0, 0, 0, cmd_status },
	{ NULL, "doctor", "[-p PID]", "can it work here, and if not, why and what to do", OPT_PID, 0, 0, cmd_doctor },
	{ NULL, "symbols", "SPEC... [TARGET]", "what can be probed, by which tactic, or why not",
	  OPTS_TARGET | OPT_CMD | OPT_NOT | OPT_TRAP, 1, 1000, cmd_symbols },
	{ NULL, "count", "SPEC... TARGET", "how often functions run", OPTS_ONE_SHOT, 1, 1000, cmd_count },
	{ NULL, "latency", "SPEC... TARGET", "how long functions take", OPTS_ONE_SHOT, 1, 1000, cmd_latency },
	{ NULL, "stacks", "SPEC... TARGET", "from where functions are called", OPTS_ONE_SHOT | OPT_FOLDED, 1, 1000, cmd_stacks },
	{ NULL, "load", "OBJ.bpf.o [TARGET]", "load a BPF object, attach it by its section names; it stays",
	  OPTS_TARGET | OPT_CMD | OPT_DRY_RUN | OPT_ALLOW_OVERRIDE | OPT_TRAP, 1, 1, cmd_load },
	{ NULL, "unload", "OBJECT", "detach and forget an object (id or name)", 0, 1, 1, cmd_unload },
	{ NULL, "attach", "PROG SPEC... TARGET", "attach a loaded program; it stays",
	  OPTS_TARGET | OPT_CMD | OPT_NOT | OPT_DRY_RUN | OPT_TRAP, 2, 1000, cmd_attach },
	{ NULL, "detach", "LINK | --all", "detach a link (id), or all", OPT_ALL, 0, 1, cmd_detach },
	{ "prog", "list", "", "the loaded programs", 0, 0, 0, cmd_prog_list },
	{ "prog", "show", "[PROG]", "a program, line by line", 0, 0, 1, cmd_prog_show },
	{ "prog", "dump", "xlated|jited PROG", "its BPF instructions, or its machine code", OPT_PID, 2, 2, cmd_prog_dump },
	{ "prog", "tracelog", "", "follow what programs print with bpf_printk", OPT_PID | OPT_FOR, 0, 0, cmd_prog_tracelog },
	{ "map", "list", "", "the maps", 0, 0, 0, cmd_map_list },
	{ "map", "show", "[MAP]", "a map, line by line", 0, 0, 1, cmd_map_show },
	{ "map", "dump", "MAP", "all its elements, by their types", 0, 1, 2, cmd_map_dump },
	{ "map", "lookup", "MAP [KEY]", "one element; of a queue or stack the next", 0, 1, 1000, cmd_map_lookup },
	{ "map", "update", "MAP [KEY] VALUE [any|noexist|exist]", "set or push an element", 0, 2, 1000, cmd_map_update },
	{ "map", "delete", "MAP [KEY]", "delete an element; of a queue or stack the next, which is shown", 0, 1, 1000, cmd_map_delete },
	{ "map", "pop", "MAP [KEY]", "take an element out and show it, in one step", 0, 1, 1000, cmd_map_pop },
	{ "map", "freeze", "MAP", "from now on only programs change it", 0, 1, 2, cmd_map_freeze },
	{ "map", "tail", "MAP [TYPE]", "follow the records of a ring buffer or perf event array", OPT_FOR, 1, 4, cmd_map_tail },
	{ "link", "list", "", "what is attached", 0, 0, 0, cmd_link_list },
	{ "link", "show", "[LINK]", "a link and its places", 0, 0, 1, cmd_link_show },
	{ "target", "list", "", "the processes that are probed", 0, 0, 0, cmd_target_list },
	{ "target", "show", "[PID]", "a process, line by line", 0, 0, 1, cmd_target_show },
	{ NULL, "call", "METHOD [JSON]", "call a method of the daemon's socket", OPT_MORE, 1, 2, cmd_call },
	{ NULL, "help", "[COMMAND]", "help", 0, 0, 2, cmd_help },
};
const size_t ncommands = ARRAY_SIZE(commands);

static const char intro[] =
	"bpfctl: run eBPF programs inside live processes\n"
	"\n"
	"  bpfctl count ':*' -n redis-server --for 5s     which functions run, how often\n"
	"  bpfctl latency libc:malloc -p PID              how long they take\n"
	"  bpfctl count :main -- ./yourprogram            start a program under probes\n"
	"\n"
	"SPEC    [uprobe:|uretprobe:][BINARY:]SYMBOL[+OFFSET]   BINARY:0xADDR   globs\n"
	"        usdt:[BINARY]:PROVIDER:NAME\n"
	"TARGET  -p PID, -n NAME, -x FILE, or -- COMMAND ARG...\n"
	"\n";

static void print_usage_line(FILE *out, const struct cmd *c)
{
	fprintf(out, "bpfctl %s%s%s%s%s", c->noun ? c->noun : "", c->noun ? " " : "", c->name, *c->args ? " " : "", c->args);
}

static void print_cmd_help(FILE *out, const struct cmd *c)
{
	fputs("usage: ", out);
	print_usage_line(out, c);
	fprintf(out, "\n%s\n\n", c->help);
	opts_help(out, (c->opts | OPTS_EVERYWHERE) & ~(u32)OPT_VERSION);
	fputs("\nMore: man bpfctl\n", out);
}

/* All commands, or those of a NOUN. */
static void print_help(FILE *out, const char *noun)
{
	if (!noun)
		fputs(intro, out);
	for (size_t i = 0; i < ncommands; i++) {
		const struct cmd *c = &commands[i];
		char left[80];

		if (noun && (!c->noun || strcmp(c->noun, noun)))
			continue;
		snprintf(left, sizeof(left), "%s%s%s %s", c->noun ? c->noun : "", c->noun ? " " : "", c->name, c->args);
		fprintf(out, "  %-34s  %s\n", left, c->help);
	}
	fputs("\n'bpfctl help COMMAND' shows its options; 'man bpfctl' has it all.\n", out);
}

static bool is_noun(const char *word)
{
	for (size_t i = 0; i < ncommands; i++)
		if (commands[i].noun && !strcmp(commands[i].noun, word))
			return true;
	return false;
}

static const struct cmd *find_cmd(const char *noun, const char *name)
{
	for (size_t i = 0; i < ncommands; i++) {
		const struct cmd *c = &commands[i];

		if (!strcmp(c->name, name) && (noun ? c->noun && !strcmp(c->noun, noun) : !c->noun))
			return c;
	}
	return NULL;
}

/* The verb is missing or unknown: says so, with what is near. */
static struct uerr *unknown_cmd(const char *noun, const char *word)
{
	const char *names[ARRAY_SIZE(commands)], *near;
	struct uerr *err;
	size_t n = 0;

	if (verb_is_planned(word))
		return uerr_new(UERR_USAGE, "the command '%s%s%s' is not there yet", noun ? noun : "", noun ? " " : "", word);
	err = uerr_new(UERR_USAGE, "no command '%s%s%s'; see 'bpfctl help'", noun ? noun : "", noun ? " " : "", word);
	for (size_t i = 0; i < ncommands; i++)
		if (noun ? commands[i].noun && !strcmp(commands[i].noun, noun) : !commands[i].noun)
			names[n++] = commands[i].name;
	near = nearest_word(word, names, n);
	if (near)
		uerr_add_near(err, near);
	return err;
}

/* The command of WORDS (n > 0); *USED of them name it. A noun alone: its list. */
static struct uerr *lookup_cmd(const char *const *words, size_t n, const struct cmd **ret, size_t *used)
{
	const char *noun = is_noun(words[0]) ? words[0] : NULL;
	const char *name = noun ? (n > 1 ? words[1] : "list") : words[0];

	*used = noun && n > 1 ? 2 : 1;
	*ret = find_cmd(noun, name);
	return *ret ? NULL : unknown_cmd(noun, name);
}

struct uerr *cmd_help(struct cli *cli)
{
	const char *const *words = cli->o->args.data + 1;
	size_t n = cli->o->args.n - 1, used;
	const struct cmd *c;
	struct uerr *err;

	if (!n || (n == 1 && is_noun(words[0]))) {
		print_help(cli->out, n ? words[0] : NULL);
		return NULL;
	}
	err = lookup_cmd(words, n, &c, &used);
	if (!err)
		print_cmd_help(cli->out, c);
	return err;
}

void reply_print(struct cli *cli, cJSON *reply, const char *schema)
{
	cJSON_AddStringToObject(reply, "schema", schema);
	json_print(cli->out, reply);
}

cJSON *params_of(const char *name, const char *value)
{
	cJSON *params = cJSON_CreateObject();

	cJSON_AddStringToObject(params, name, value);
	return params;
}

struct uerr *call_once(struct cli *cli, const char *method, cJSON *params, cJSON **ret)
{
	cleanup_client struct client c = CLIENT_CLOSED;
	struct uerr *err = client_open(cli->o, &c);

	if (err) {
		cJSON_Delete(params);
		return err;
	}
	return client_call(&c, method, params, ret);
}

static struct uerr *check_args(const struct cmd *c, const struct opts *o, size_t used)
{
	size_t n = o->args.n - used;
	char name[64];

	snprintf(name, sizeof(name), "%s%s%s", c->noun ? c->noun : "", c->noun ? " " : "", c->name);
	if (n < c->min_args)
		return uerr_new(UERR_USAGE, "too few words: bpfctl %s %s", name, c->args);
	if (n > c->max_args)
		return uerr_new(UERR_USAGE, "'%s' is one word too many: bpfctl %s %s", o->args.data[used + c->max_args], name,
				c->args);
	return opts_check(o, c->opts, name);
}

/* Where results go: never to the stdout of CMD. */
static struct uerr *open_output(struct cli *cli)
{
	const struct opts *o = cli->o;

	cli->out = stdout;
	if (o->cmd && opt_given(o, OPT_JSON) && !o->out)
		return uerr_new(UERR_USAGE, "--json with -- COMMAND needs -o FILE: stdout is the command's");
	if (o->out && strcmp(o->out, "-")) {
		cli->out = fopen(o->out, "we");
		if (!cli->out) {
			cli->out = stdout;
			return uerr_errno(errno, "%s", o->out);
		}
	} else if (o->cmd) {
		cli->out = stderr;
	}
	return NULL;
}

/* A full disk must not look like success; a reader that left is no failure. */
static struct uerr *close_output(struct cli *cli)
{
	bool failed = fflush(cli->out) || ferror(cli->out);
	int e = errno;

	if (cli->out != stdout && cli->out != stderr && fclose(cli->out) && !failed) {
		failed = true;
		e = errno;
	}
	if (!failed || e == EPIPE)
		return NULL;
	return uerr_errno(e, "writing %s", cli->o->out ? cli->o->out : "the results");
}

static struct uerr *run(struct cli *cli)
{
	const struct opts *o = cli->o;
	struct uerr *err, *out_err;
	const struct cmd *c;
	size_t used;

	if (opt_given(o, OPT_VERSION)) {
		printf("bpfctl %s\n", UPROBED_VERSION);
		return NULL;
	}
	if (!o->args.n) {
		print_help(opt_given(o, OPT_HELP) ? stdout : stderr, NULL);
		cli->status = opt_given(o, OPT_HELP) ? 0 : UERR_USAGE;
		return NULL;
	}
	if (opt_given(o, OPT_HELP) && o->args.n == 1 && is_noun(o->args.data[0])) {
		print_help(stdout, o->args.data[0]);
		return NULL;
	}
	err = lookup_cmd(o->args.data, o->args.n, &c, &used);
	if (err)
		return err;
	if (opt_given(o, OPT_HELP)) {
		print_cmd_help(stdout, c);
		return NULL;
	}
	err = check_args(c, o, used);
	if (!err)
		err = open_output(cli);
	if (err)
		return err;
	if (o->cmd)
		cli->fail_status = FAILED_BEFORE_CMD;
	err = c->run(cli);
	out_err = close_output(cli);
	if (err)
		uerr_free(out_err);
	return err ? err : out_err;
}

int main(int argc, char **argv)
{
	struct opts o = {};
	struct cli cli = { .o = &o, .out = stdout };
	struct uerr *err;
	int status;

	output_init();
	run_init();
	err = opts_parse(argc, argv, &o);
	if (!err)
		err = run(&cli);
	status = cli.status;
	if (err) {
		status = cli.fail_status ? cli.fail_status : (int)err->code;
		error_print(err, status, cli.aftermath, opt_given(&o, OPT_JSON), opt_given(&o, OPT_VERBOSE));
		uerr_free(err);
	}
	opts_deinit(&o);
	return status;
}
