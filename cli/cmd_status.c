// SPDX-License-Identifier: MIT
/* bpfctl status, doctor, call. */
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/output.h"

static void print_status(FILE *out, const cJSON *s)
{
	number_buf rss, objects, programs, maps, links, targets;
	const cJSON *warning;

	out_printf(out, "uprobed %s, pid %d, uid %d%s, since %s\n", json_str(s, "version"), (int)json_u64(s, "pid"),
		   (int)json_u64(s, "uid"), json_bool(s, "private") ? ", private" : "", json_str(s, "started"));
	out_printf(out, "socket %s, %s of memory\n", json_str(s, "socket"),
		   bytes_format(json_u64(s, "rss_bytes"), rss));
	out_printf(out, "%s, %s, %s, %s, %s\n",
		   count_format(json_u64(s, "objects"), "object", "objects", objects),
		   count_format(json_u64(s, "programs"), "program", "programs", programs),
		   count_format(json_u64(s, "maps"), "map", "maps", maps),
		   count_format(json_u64(s, "links"), "link", "links", links),
		   count_format(json_u64(s, "targets"), "target", "targets", targets));
	cJSON_ArrayForEach(warning, json_list(s, "warnings"))
		if (cJSON_IsString(warning))
			out_printf(out, "warning: %s\n", warning->valuestring);
}

struct uerr *cmd_status(struct cli *cli)
{
	cleanup_client struct client c = CLIENT_CLOSED;
	cleanup_json cJSON *reply = NULL;
	struct uerr *err = client_open(cli->o, &c);

	if (!err)
		err = client_call(&c, "GetStatus", NULL, &reply);
	if (err)
		return err;
	if (opt_given(cli->o, OPT_JSON))
		reply_print(cli, reply, "io.uprobed.status/1");
	else
		print_status(cli->out, reply);
	return NULL;
}

static void add_check(cJSON *reply, const char *status, const char *name, const char *text)
{
	cJSON *list = cJSON_GetObjectItemCaseSensitive(reply, "checks"), *check = cJSON_CreateObject();

	if (!list)
		list = cJSON_AddArrayToObject(reply, "checks");
	cJSON_AddStringToObject(check, "status", status);
	cJSON_AddStringToObject(check, "name", name);
	cJSON_AddStringToObject(check, "text", text);
	cJSON_AddItemToArray(list, check);
}

static bool has_check(const cJSON *reply, const char *name)
{
	const cJSON *check;

	cJSON_ArrayForEach(check, json_list(reply, "checks"))
		if (!strcmp(json_str(check, "name"), name))
			return true;
	return false;
}

static void print_checks(FILE *out, const cJSON *reply)
{
	size_t ok = 0, n = 0;
	const cJSON *check;
	number_buf buf;

	cJSON_ArrayForEach(check, json_list(reply, "checks")) {
		const char *status = json_str(check, "status");

		out_printf(out, "%-4s  %-16s  %s\n", status, json_str(check, "name"), json_str(check, "text"));
		ok += !strcmp(status, "ok");
		n++;
	}
	out_printf(out, "%zu ok, %s.\n", ok, count_format(n - ok, "limit", "limits", buf));
}

struct uerr *cmd_doctor(struct cli *cli)
{
	cleanup_client struct client c = CLIENT_CLOSED;
	cleanup_json cJSON *reply = NULL, *params = cJSON_CreateObject(), *status = NULL;
	cleanup_uerr struct uerr *no_daemon = client_open(cli->o, &c);
	struct uerr *err = NULL;

	if (no_daemon && cli->o->socket)
		return steal_ptr(no_daemon);
	if (cli->o->pids.n)
		cJSON_AddNumberToObject(params, "pid", cli->o->pids.data[0]);
	if (no_daemon)
		reply = cJSON_CreateObject();
	else
		err = client_call(&c, "Doctor", steal_ptr(params), &reply);
	if (!err && !no_daemon)
		err = client_call(&c, "GetStatus", NULL, &status);
	if (err)
		return err;
	if (no_daemon) {
		add_check(reply, "no", "daemon", no_daemon->message);
		cli->status = UERR_FAILED;
	} else if (!has_check(reply, "daemon")) {
		cleanup_free char *text = NULL;
		number_buf targets;

		if (asprintf(&text, "%s, %s, %s", json_bool(status, "private") ? "private" : "system",
			     json_str(status, "version"),
			     count_format(json_u64(status, "targets"), "target", "targets", targets)) < 0)
			return uerr_nomem();
		add_check(reply, "ok", "daemon", text);
	}
	if (opt_given(cli->o, OPT_JSON))
		reply_print(cli, reply, "io.uprobed.doctor/1");
	else
		print_checks(cli->out, reply);
	return NULL;
}

static void print_call_reply(struct cli *cli, const cJSON *reply, bool line)
{
	cleanup_free char *text = line ? cJSON_PrintUnformatted(reply) : cJSON_Print(reply);

	if (text)
		fprintf(cli->out, "%s\n", text);
	fflush(cli->out);
}

struct uerr *cmd_call(struct cli *cli)
{
	cleanup_client struct client c = CLIENT_CLOSED;
	cleanup_json cJSON *params = NULL;
	bool more = opt_given(cli->o, OPT_MORE);
	struct uerr *err;

	if (cli->o->args.n > 2) {
		params = cJSON_ParseWithOpts(cli->o->args.data[2], NULL, true);
		if (!cJSON_IsObject(params))
			return uerr_new(UERR_USAGE, "the parameters are no JSON object: %s", cli->o->args.data[2]);
	}
	err = client_open(cli->o, &c);
	if (!err && more)
		err = client_stream(&c, cli->o->args.data[1], steal_ptr(params));
	while (!err) {
		cleanup_json cJSON *reply = NULL;

		err = more ? client_next(&c, &reply) :
			     client_call(&c, cli->o->args.data[1], steal_ptr(params), &reply);
		if (err || !reply)
			break;
		print_call_reply(cli, reply, more || opt_given(cli->o, OPT_JSON));
		if (!more || ferror(cli->out))
			break;
	}
	return err;
}
