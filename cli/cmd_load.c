// SPDX-License-Identifier: MIT
/* bpfctl load, unload, attach, detach: what stays in the daemon. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/lists.h"
#include "cli/output.h"
#include "cli/run.h"
#include "cli/target.h"
#include "cli/wait.h"

#define OBJECT_MAX (32u << 20)

static struct uerr *read_object(const char *path, char **ret_base64)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	cleanup_free char *bytes = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st))
		return uerr_errno(errno, "%s", path);
	if (!S_ISREG(st.st_mode) || st.st_size > OBJECT_MAX)
		return uerr_new(UERR_USAGE, "%s is no BPF object", path);
	bytes = malloc(st.st_size + 1);
	if (!bytes)
		return uerr_nomem();
	n = read(fd, bytes, st.st_size);
	if (n < 0)
		return uerr_errno(errno, "%s", path);
	*ret_base64 = protocol_base64(bytes, n);
	return *ret_base64 ? NULL : uerr_nomem();
}

/* "leak" of "dir/leak.bpf.o" */
static char *object_name(const char *path)
{
	cleanup_free char *copy = strdup(path);
	char *name, *dot;

	if (!copy)
		return NULL;
	name = basename(copy);
	dot = strstr(name, ".bpf.o");
	if (!dot)
		dot = strrchr(name, '.');
	if (dot && dot != name)
		*dot = '\0';
	return strdup(name);
}

static void print_names(FILE *out, const char *title, const cJSON *list)
{
	const cJSON *item;

	if (!cJSON_GetArraySize(list))
		return;
	out_printf(out, "  %s ", title);
	cJSON_ArrayForEach(item, list)
		out_printf(out, "%s%s", item != list->child ? ", " : "", json_str(item, "name"));
	fputc('\n', out);
}

static void print_refused(const cJSON *reply)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, json_list(reply, "refused"))
		progress(false, "  %s refused: %s", json_str(item, "symbol"), json_str(item, "reason"));
}

/* "link 3  on_malloc uprobe:libc:malloc  1 place". PROGRAM_NAME is for links of
 * programs that are not in PROGRAMS. */
static void print_links(struct cli *cli, const cJSON *reply, const cJSON *programs, const char *program_name)
{
	const cJSON *link, *stop, *spec, *program;
	number_buf buf;

	cJSON_ArrayForEach(link, json_list(reply, "links")) {
		const char *name = program_name;

		cJSON_ArrayForEach(program, programs)
			if (json_u64(program, "id") == json_u64(link, "program"))
				name = json_str(program, "name");
		out_printf(cli->out, "  link %d  %s", (int)json_u64(link, "id"), name);
		cJSON_ArrayForEach(spec, json_list(link, "specs"))
			if (cJSON_IsString(spec))
				out_printf(cli->out, " %s", spec->valuestring);
		out_printf(cli->out, "  %s\n", count_format(json_u64(link, "nsites"), "place", "places", buf));
	}
	if (opt_given(cli->o, OPT_QUIET))
		return;
	cJSON_ArrayForEach(stop, json_list(reply, "stops"))
		progress(false, "%s %d stood still %s.", json_str(stop, "comm"), (int)json_u64(stop, "pid"),
			 stop_format(json_u64(stop, "stopped_ns"), buf));
	if (opt_given(cli->o, OPT_VERBOSE))
		print_refused(reply);
	else if (cJSON_GetArraySize(json_list(reply, "refused")))
		progress(false, "%s refused (-v says why)",
			 count_format(cJSON_GetArraySize(json_list(reply, "refused")), "place", "places", buf));
}

static void print_loaded(struct cli *cli, const cJSON *reply, bool dry_run)
{
	const cJSON *object = cJSON_GetObjectItemCaseSensitive(reply, "object"), *warning;

	if (dry_run)
		out_printf(cli->out, "%s would be loaded\n", json_str(object, "name"));
	else
		out_printf(cli->out, "%s loaded as object %d\n", json_str(object, "name"), (int)json_u64(object, "id"));
	print_names(cli->out, "programs", json_list(reply, "programs"));
	print_names(cli->out, "maps", json_list(reply, "maps"));
	print_links(cli, reply, json_list(reply, "programs"), "");
	cJSON_ArrayForEach(warning, json_list(reply, "warnings"))
		if (cJSON_IsString(warning))
			progress(opt_given(cli->o, OPT_QUIET), "warning: %s", warning->valuestring);
}

static struct uerr *load_params(struct cli *cli, pid_t child, bool attach, cJSON **ret)
{
	const char *path = cli->o->args.data[1];
	bool dry_run = opt_given(cli->o, OPT_DRY_RUN);
	cleanup_free char *object = NULL, *name = object_name(path);
	cleanup_json cJSON *params = cJSON_CreateObject();
	cJSON *target;
	struct uerr *err;

	err = target_json(cli->o, NULL, 0, child, false, &target);
	if (err)
		return err;
	if (target)
		cJSON_AddItemToObject(params, "target", target);
	err = read_object(path, &object);
	if (err)
		return err;
	if (!name)
		return uerr_nomem();
	cJSON_AddStringToObject(params, "object", object);
	cJSON_AddStringToObject(params, "name", name);
	cJSON_AddBoolToObject(params, "attach", attach && !dry_run);
	cJSON_AddBoolToObject(params, "ephemeral", dry_run);
	if (opt_given(cli->o, OPT_ALLOW_OVERRIDE))
		cJSON_AddBoolToObject(params, "allow_override", true);
	cJSON_AddNumberToObject(params, "log_level", opt_given(cli->o, OPT_VERBOSE) ? 2 : 1);
	if (opt_given(cli->o, OPT_TRAP))
		cJSON_AddBoolToObject(params, "trap", true);
	*ret = steal_ptr(params);
	return NULL;
}

static struct uerr *load_and_attach(struct cli *cli, pid_t child, cJSON **ret)
{
	return load_params(cli, child, true, ret);
}

/* Without a TARGET a section like "uprobe/libc:malloc" leaves open in which
 * process: then the object is loaded, and attach can follow. WHY is the error
 * of the first try, taken. */
static struct uerr *load_only(struct cli *cli, struct uerr *why, cJSON **ret)
{
	cJSON *params, *warnings;
	struct uerr *err = load_params(cli, 0, false, &params);

	if (!err)
		err = call_once(cli, "Load", params, ret);
	if (err) {
		uerr_free(why);
		return err;
	}
	cJSON_DeleteItemFromObjectCaseSensitive(*ret, "warnings");
	warnings = cJSON_AddArrayToObject(*ret, "warnings");
	cJSON_AddItemToArray(warnings, cJSON_CreateString("not attached: no TARGET says in which process ('bpfctl attach')"));
	uerr_free(why);
	return NULL;
}

/* Lets CMD run, if there is one, to its end. */
static struct uerr *run_child(struct cli *cli, struct child *child)
{
	struct wait wait;
	struct uerr *err;

	if (opt_given(cli->o, OPT_DRY_RUN))
		child_abandon(child);
	if (!child->pid)
		return NULL;
	err = wait_init(&wait, -1, child, 0, 0);
	if (err) {
		child_abandon(child);
		return err;
	}
	child_continue(child);
	cli->status = wait_child(&wait);
	wait_deinit(&wait);
	return NULL;
}

/* The daemon knows the object's name, the user its file. */
static struct uerr *rejected(struct cli *cli, struct uerr *err)
{
	const char *path = cli->o->args.data[1], *slash = strrchr(path, '/');

	if (err->code != UERR_REJECTED)
		return err;
	if (!cli->aftermath)
		cli->aftermath = "Nothing was loaded.";
	return uerr_prefix(err, "%s", slash ? slash + 1 : path);
}

struct uerr *cmd_load(struct cli *cli)
{
	cleanup_json cJSON *reply = NULL;
	struct child child;
	struct uerr *err = call_with_child(cli, "Load", load_and_attach, &child, &reply);

	if (err && err->code == UERR_USAGE && !(cli->o->given & (OPTS_TARGET | OPT_CMD)))
		err = load_only(cli, err, &reply);
	if (err)
		return rejected(cli, err);
	if (opt_given(cli->o, OPT_JSON))
		reply_print(cli, reply, "io.uprobed.load/1");
	else
		print_loaded(cli, reply, opt_given(cli->o, OPT_DRY_RUN));
	return run_child(cli, &child);
}

/* "detached link 3, 4; redis-server 4125 stood still 0.3 ms." */
static void print_detached(struct cli *cli, cJSON *reply, const char *what)
{
	const cJSON *stop, *id;
	number_buf buf;

	if (opt_given(cli->o, OPT_JSON)) {
		reply_print(cli, reply, "io.uprobed.detach/1");
		return;
	}
	if (opt_given(cli->o, OPT_QUIET))
		return;
	progress(false, "%s", what);
	cJSON_ArrayForEach(id, json_list(reply, "detached"))
		progress(false, "  link %d", id->valueint);
	cJSON_ArrayForEach(stop, json_list(reply, "stops")) {
		u64 retired = json_u64(stop, "retired");

		progress(false, "%s %d stood still %s.%s", json_str(stop, "comm"), (int)json_u64(stop, "pid"),
			 stop_format(json_u64(stop, "stopped_ns"), buf),
			 retired ? " Some code stays mapped until nobody is inside." : "");
	}
}

struct uerr *cmd_unload(struct cli *cli)
{
	const char *object = cli->o->args.data[1];
	cleanup_json cJSON *reply = NULL;
	cleanup_free char *text = NULL;
	struct uerr *err = call_once(cli, "Unload", params_of("object", object), &reply);

	if (err)
		return err;
	if (asprintf(&text, "%s unloaded", object) < 0)
		return uerr_nomem();
	print_detached(cli, reply, text);
	return NULL;
}

struct uerr *cmd_detach(struct cli *cli)
{
	bool all = opt_given(cli->o, OPT_ALL);
	cleanup_json cJSON *params = NULL, *reply = NULL;
	struct uerr *err;

	if (all == (cli->o->args.n > 1))
		return uerr_new(UERR_USAGE, "detach LINK, or detach --all; 'bpfctl link list' shows them");
	params = all ? cJSON_CreateObject() : params_of("link", cli->o->args.data[1]);
	if (all)
		cJSON_AddBoolToObject(params, "all", true);
	err = call_once(cli, "Detach", steal_ptr(params), &reply);
	if (!err)
		print_detached(cli, reply, cJSON_GetArraySize(json_list(reply, "detached")) ? "detached" : "no links");
	return err;
}

static struct uerr *attach_params(struct cli *cli, pid_t child, cJSON **ret)
{
	const char *const *specs = cli->o->args.data + 2;
	size_t nspecs = cli->o->args.n - 2;
	cleanup_json cJSON *params = cJSON_CreateObject();
	cJSON *programs = cJSON_AddArrayToObject(params, "programs"), *list, *target, *nots = nots_json(cli->o);
	struct uerr *err;

	cJSON_AddItemToArray(programs, params_of("program", cli->o->args.data[1]));
	if (nots)
		cJSON_AddItemToObject(params, "not", nots);
	err = specs_json(specs, nspecs, &list);
	if (err)
		return err;
	cJSON_AddItemToObject(params, "specs", list);
	err = target_json(cli->o, specs, nspecs, child, true, &target);
	if (err)
		return err;
	cJSON_AddItemToObject(params, "target", target);
	if (opt_given(cli->o, OPT_DRY_RUN))
		cJSON_AddBoolToObject(params, "dry_run", true);
	if (opt_given(cli->o, OPT_TRAP))
		cJSON_AddBoolToObject(params, "trap", true);
	*ret = steal_ptr(params);
	return NULL;
}

static void print_attached(struct cli *cli, cJSON *reply)
{
	number_buf buf;

	if (opt_given(cli->o, OPT_JSON)) {
		reply_print(cli, reply, "io.uprobed.attach/1");
		return;
	}
	if (opt_given(cli->o, OPT_DRY_RUN))
		out_printf(cli->out, "%s would be probed. Nothing was touched.\n",
			   count_format(cJSON_GetArraySize(json_list(reply, "sites")), "place", "places", buf));
	else
		print_links(cli, reply, NULL, cli->o->args.data[1]);
	if (!opt_given(cli->o, OPT_QUIET))
		warn_private_text(json_list(reply, "sites"), opt_given(cli->o, OPT_DRY_RUN) ? "would take" : "take");
}

struct uerr *cmd_attach(struct cli *cli)
{
	cleanup_json cJSON *reply = NULL;
	struct child child;
	struct uerr *err = call_with_child(cli, "Attach", attach_params, &child, &reply);

	if (err)
		return err;
	print_attached(cli, reply);
	return run_child(cli, &child);
}
