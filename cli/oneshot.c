// SPDX-License-Identifier: MIT
/* Attach, wait, detach, read; see oneshot.h. */
#include "cli/oneshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/lists.h"
#include "cli/output.h"
#include "cli/target.h"

#define PLACES_MAX 200000u /* what one MapDump returns */
#define SIZING_TRIES 4
#define PROCESSES_SHOWN 4

static const char *const *specs(const struct oneshot *os)
{
	return os->cli->o->args.data + 1;
}

static size_t nspecs(const struct oneshot *os)
{
	return os->cli->o->args.n - 1;
}

/* The id, as text, of the item called NAME in LIST; "" if there is none. */
static const char *id_of(const cJSON *list, const char *name, char buf[24])
{
	const cJSON *item;

	*buf = '\0';
	cJSON_ArrayForEach(item, list)
		if (!strcmp(json_str(item, "name"), name))
			snprintf(buf, 24, "%" PRIu64, json_u64(item, "id"));
	return buf;
}

static struct uerr *tool_load(struct oneshot *os, u32 places)
{
	const struct tool *tool = os->tool;
	cleanup_json cJSON *params = cJSON_CreateObject();
	cleanup_free char *object = protocol_base64(tool->object, tool->object_end - tool->object);
	cJSON *sizes = cJSON_AddArrayToObject(params, "map_sizes");
	char name[64];

	if (!object || !sizes)
		return uerr_nomem();
	snprintf(name, sizeof(name), "bpfctl-%s-%d", tool->name, (int)getpid());
	cJSON_AddStringToObject(params, "object", object);
	cJSON_AddStringToObject(params, "name", name);
	cJSON_AddBoolToObject(params, "ephemeral", true);
	for (size_t i = 0; tool->maps[i]; i++) {
		cJSON *size = cJSON_CreateObject();

		cJSON_AddStringToObject(size, "name", tool->maps[i]);
		cJSON_AddNumberToObject(size, "max_entries", places);
		cJSON_AddItemToArray(sizes, size);
	}
	return client_call(&os->client, "Load", steal_ptr(params), &os->loaded);
}

static struct uerr *tool_unload(struct oneshot *os)
{
	cleanup_json cJSON *params = cJSON_CreateObject(), *reply = NULL;
	char id[24];

	snprintf(id, sizeof(id), "%" PRIu64, json_u64(cJSON_GetObjectItemCaseSensitive(os->loaded, "object"), "id"));
	cJSON_AddStringToObject(params, "object", id);
	cJSON_Delete(os->loaded);
	os->loaded = NULL;
	return client_call(&os->client, "Unload", steal_ptr(params), &reply);
}

static struct uerr *tool_attach(struct oneshot *os, bool dry_run, cJSON **ret)
{
	cleanup_json cJSON *params = cJSON_CreateObject();
	cJSON *programs = cJSON_AddArrayToObject(params, "programs"), *target, *list, *nots;
	struct uerr *err;

	for (size_t i = 0; i < ARRAY_SIZE(os->tool->programs) && os->tool->programs[i].program; i++) {
		cJSON *at = cJSON_CreateObject();
		char id[24];

		id_of(json_list(os->loaded, "programs"), os->tool->programs[i].program, id);
		cJSON_AddStringToObject(at, "program", id);
		if (os->tool->programs[i].probe)
			cJSON_AddStringToObject(at, "probe", os->tool->programs[i].probe);
		cJSON_AddItemToArray(programs, at);
	}
	err = specs_json(specs(os), nspecs(os), &list);
	if (err)
		return err;
	cJSON_AddItemToObject(params, "specs", list);
	nots = nots_json(os->cli->o);
	if (nots)
		cJSON_AddItemToObject(params, "not", nots);
	err = target_json(os->cli->o, specs(os), nspecs(os), os->child.pid, true, &target);
	if (err)
		return err;
	cJSON_AddItemToObject(params, "target", target);
	cJSON_AddStringToObject(params, "cookie_base", "0");
	cJSON_AddBoolToObject(params, "ephemeral", true);
	if (dry_run)
		cJSON_AddBoolToObject(params, "dry_run", true);
	if (opt_given(os->cli->o, OPT_TRAP))
		cJSON_AddBoolToObject(params, "trap", true);
	return client_call(&os->client, "Attach", steal_ptr(params), ret);
}

/* One more than the highest cookie of the sites in REPLY. */
static u64 places_in(const cJSON *reply)
{
	const cJSON *site;
	u64 n = 0;

	cJSON_ArrayForEach(site, json_list(reply, "sites")) {
		u64 cookie = json_u64(site, "cookie");

		if (cookie >= n)
			n = cookie + 1;
	}
	return n;
}

/* Loads with room for every place and attaches. Processes come and go between
 * the look and the attach: then once more, with more room. */
static struct uerr *load_and_attach(struct oneshot *os)
{
	bool dry_run = opt_given(os->cli->o, OPT_DRY_RUN);
	u64 room = os->tool->places, want;
	cleanup_json cJSON *planned = NULL;
	struct uerr *err = tool_load(os, room);

	if (!err)
		err = tool_attach(os, true, &planned);
	if (err)
		return err;
	want = places_in(planned);
	if (dry_run && want <= PLACES_MAX) {
		os->attached = steal_ptr(planned);
		return NULL;
	}
	for (int try = 0; try < SIZING_TRIES; try++) {
		if (want > PLACES_MAX)
			return uerr_new(UERR_USAGE, "%" PRIu64 " places are too many, at most %u: use --not or a narrower SPEC",
					want, PLACES_MAX);
		if (want > room || os->attached) {
			room = want > room ? want + (try ? want / 4 : 0) : room;
			cJSON_Delete(os->attached);
			os->attached = NULL;
			err = tool_unload(os);
			if (!err)
				err = tool_load(os, room);
			if (err)
				return err;
		}
		err = tool_attach(os, false, &os->attached);
		if (err)
			return err;
		want = places_in(os->attached);
		if (want <= room)
			return NULL;
	}
	return uerr_new(UERR_FAILED, "processes come faster than they can be probed: name one with -p");
}

/* The cookie numbers places; entry and exit of a function are one. */
static struct uerr *collect_places(struct oneshot *os)
{
	u64 n = places_in(os->attached);
	const cJSON *site;

	for (u64 i = 0; i < n; i++)
		if (!vec_push(&os->places, (struct place){}))
			return uerr_nomem();
	cJSON_ArrayForEach(site, json_list(os->attached, "sites")) {
		struct place *p = &os->places.data[json_u64(site, "cookie")];
		const char *spec = json_str(site, "symbol");
		bool ret = !strcmp(json_str(site, "probe"), "uretprobe") && !os->tool->programs[1].program;

		if (p->used)
			continue;
		p->used = true;
		p->pid = json_u64(site, "pid");
		p->comm = json_str(site, "comm");
		p->module = json_str(site, "module");
		p->symbol = spec_symbol(spec);
		p->tactic = json_str(site, "tactic");
		if (asprintf(&p->spec, "%s%s", ret ? "uretprobe:" : "", spec) < 0) {
			p->spec = NULL;
			return uerr_nomem();
		}
		os->nplaces++;
	}
	return NULL;
}

struct process {
	pid_t pid;
	const char *comm;
	u64 places, refused, stopped_ns;
};

struct processes {
	struct process *data;
	size_t n, cap;
};

static struct process *process_of(struct processes *list, pid_t pid, const char *comm)
{
	vec_foreach(p, list)
		if (p->pid == pid)
			return p;
	if (!vec_push(list, (struct process){ .pid = pid, .comm = comm }))
		return NULL;
	return &list->data[list->n - 1];
}

static void collect_processes(const struct oneshot *os, struct processes *ret)
{
	struct process *p = NULL;
	const cJSON *item;

	vec_foreach(place, &os->places) {
		if (!place->used)
			continue;
		if (!p || p->pid != place->pid)
			p = process_of(ret, place->pid, place->comm);
		if (p)
			p->places++;
	}
	cJSON_ArrayForEach(item, json_list(os->attached, "refused")) {
		p = process_of(ret, json_u64(item, "pid"), "");
		if (p)
			p->refused++;
	}
	cJSON_ArrayForEach(item, json_list(os->attached, "stops")) {
		p = process_of(ret, json_u64(item, "pid"), json_str(item, "comm"));
		if (p && json_u64(item, "stopped_ns") > p->stopped_ns)
			p->stopped_ns = json_u64(item, "stopped_ns");
	}
}

static void print_process(const struct process *p, const char *tail)
{
	number_buf places, stop, num;
	char refused[NUMBER_MAX + 16] = "";

	if (p->refused)
		snprintf(refused, sizeof(refused), ", %s refused", number_format(p->refused, num));
	progress(false, "%s %d: %s%s, stood still %s.%s", p->comm, (int)p->pid,
		 count_format(p->places, "function", "functions", places), refused, stop_format(p->stopped_ns, stop), tail);
}

/* "redis-server 4125: 3,251 functions, 2 refused, stood still 4.1 ms. Ctrl-C ends it." */
static void print_header(struct oneshot *os, const struct processes *list)
{
	const char *tail = os->child.pid ? "" : " Ctrl-C ends it.";
	struct process all = {};
	number_buf places, stop, num;

	if (list->n <= PROCESSES_SHOWN) {
		for (size_t i = 0; i < list->n; i++)
			print_process(&list->data[i], i + 1 < list->n ? "" : tail);
		return;
	}
	vec_foreach(p, list) {
		all.places += p->places;
		if (p->stopped_ns > all.stopped_ns)
			all.stopped_ns = p->stopped_ns;
	}
	progress(false, "%s processes: %s, each stood still %s at most.%s", number_format(list->n, num),
		 count_format(all.places, "place", "places", places), stop_format(all.stopped_ns, stop), tail);
}

static void print_refused(const struct oneshot *os)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, json_list(os->attached, "refused"))
		progress(false, "  %s refused: %s", json_str(item, "symbol"), json_str(item, "reason"));
}

static struct uerr *print_dry_run(struct oneshot *os)
{
	FILE *out = os->cli->out;
	number_buf num;

	if (opt_given(os->cli->o, OPT_JSON)) {
		cleanup_json cJSON *doc = cJSON_Duplicate(os->attached, true);

		cJSON_AddStringToObject(doc, "schema", "io.uprobed.dry-run/1");
		json_print(out, doc);
	} else {
		struct table t = { .align = "rlll" };

		table_cell(&t, "PID");
		table_cell(&t, "COMM");
		table_cell(&t, "TACTIC");
		table_cell(&t, "FUNCTION");
		vec_foreach(p, &os->places) {
			if (!p->used)
				continue;
			table_cell(&t, "%d", (int)p->pid);
			table_cell(&t, "%s", p->comm);
			table_cell(&t, "%s", p->tactic);
			table_cell(&t, "%s", p->spec);
		}
		table_print(&t, out);
		out_printf(out, "%s would be probed. Nothing was touched.\n",
			   count_format(os->nplaces, "place", "places", num));
	}
	if (!opt_given(os->cli->o, OPT_QUIET))
		warn_private_text(json_list(os->attached, "sites"), "would take");
	print_refused(os);
	child_abandon(&os->child);
	cJSON_Delete(os->attached);
	os->attached = NULL;
	return NULL;
}

static struct uerr *nothing_attached(const struct oneshot *os)
{
	const cJSON *refused = json_list(os->attached, "refused");
	struct uerr *err;

	if (!cJSON_GetArraySize(refused))
		return uerr_new(UERR_NO_SYMBOL, "no function matches %s", specs(os)[0]);
	err = uerr_new(UERR_CANNOT_PROBE, "none of the functions can be probed; %s: %s",
		       json_str(cJSON_GetArrayItem(refused, 0), "symbol"),
		       json_str(cJSON_GetArrayItem(refused, 0), "reason"));
	return err;
}

static struct uerr *begin(struct oneshot *os)
{
	struct opts *o = os->cli->o;
	struct processes list = {};
	struct uerr *err;

	err = client_open(o, &os->client);
	if (!err && o->cmd)
		err = child_start(o->cmd, os->client.daemon_pid, &os->child);
	if (!err && o->cmd)
		err = child_hold(os->cli, &os->client, &os->child);
	if (!err)
		err = load_and_attach(os);
	if (!err)
		err = collect_places(os);
	if (err)
		return err;
	if (!os->nplaces)
		return nothing_attached(os);
	if (opt_given(o, OPT_DRY_RUN))
		return print_dry_run(os);
	collect_processes(os, &list);
	os->single = list.n == 1;
	os->start_ns = now_ns();
	clock_gettime(CLOCK_REALTIME, &os->start_wall);
	err = wait_init(&os->wait, os->client.fd, &os->child, o->for_ns, o->interval_ns);
	os->waiting = !err;
	if (!err && !opt_given(o, OPT_QUIET)) {
		print_header(os, &list);
		warn_private_text(json_list(os->attached, "sites"), "take");
		if (opt_given(o, OPT_VERBOSE))
			print_refused(os);
	}
	vec_foreach(p, &list)
		if (!err)
			wait_add(&os->wait, p->pid);
	vec_free(&list);
	if (!err && os->child.pid)
		child_continue(&os->child);
	return err;
}

struct uerr *oneshot_begin(struct oneshot *os, struct cli *cli, const struct tool *tool)
{
	cJSON *target = NULL;
	struct uerr *err;

	*os = (struct oneshot){ .cli = cli, .tool = tool, .client.fd = -1, .child.pidfd = -1 };
	/* what is wrong with the command line shows before anything is started */
	err = target_json(cli->o, specs(os), nspecs(os), cli->o->cmd ? getpid() : 0, true, &target);
	cJSON_Delete(target);
	if (err)
		return err;
	err = begin(os);
	if (!err)
		return NULL;
	if (os->child.pid && !cli->exec_failed)
		cli->aftermath = "The command was not started.";
	child_abandon(&os->child);
	return err;
}

/* Children of the targets live on under the same link: they are watched too. */
static bool more_processes(struct oneshot *os)
{
	const cJSON *link = cJSON_GetArrayItem(json_list(os->attached, "links"), 0), *pid;
	cleanup_json cJSON *params = cJSON_CreateObject(), *reply = NULL;
	char id[24];
	bool any = false;

	snprintf(id, sizeof(id), "%" PRIu64, json_u64(link, "id"));
	cJSON_AddStringToObject(params, "link", id);
	cleanup_uerr struct uerr *err = client_call(&os->client, "GetLink", steal_ptr(params), &reply);
	if (err)
		return false;
	cJSON_ArrayForEach(pid, json_list(cJSON_GetObjectItemCaseSensitive(reply, "link"), "pids"))
		any |= wait_add(&os->wait, pid->valueint);
	return any;
}

/* Links of exited targets may be gone already: that is no failure. */
static struct uerr *detach(struct oneshot *os, bool exited)
{
	const cJSON *link;
	struct uerr *err = NULL;

	os->end_ns = now_ns();
	cJSON_ArrayForEach(link, json_list(os->attached, "links")) {
		cleanup_json cJSON *params = cJSON_CreateObject(), *reply = NULL;
		char id[24];

		snprintf(id, sizeof(id), "%" PRIu64, json_u64(link, "id"));
		cJSON_AddStringToObject(params, "link", id);
		err = client_call(&os->client, "Detach", steal_ptr(params), &reply);
		if (err && exited && !os->client.lost) {
			uerr_free(err);
			err = NULL;
		}
		if (err)
			return err;
	}
	return NULL;
}

struct uerr *oneshot_read_missed(struct oneshot *os)
{
	cleanup_json cJSON *params = cJSON_CreateObject(), *reply = NULL;
	cJSON *links = cJSON_AddArrayToObject(params, "links");
	const cJSON *link;
	struct uerr *err;

	cJSON_ArrayForEach(link, json_list(os->attached, "links"))
		cJSON_AddItemToArray(links, cJSON_CreateNumber(json_u64(link, "id")));
	err = client_call(&os->client, "GetMissed", steal_ptr(params), &reply);
	if (!err)
		os->missed = json_u64(reply, "missed");
	return err;
}

struct uerr *oneshot_run(struct oneshot *os, const struct oneshot_hooks *hooks, void *arg)
{
	enum wait_event event = WAIT_EXITED;
	struct uerr *err = NULL;

	do {
		if (os->wait.pids.n || os->child.pid)
			err = wait_next(&os->wait, &event);
		if (!err && event == WAIT_INTERVAL)
			err = hooks->interval(os, arg);
	} while (!err && (event == WAIT_INTERVAL || (event == WAIT_EXITED && !os->child.pid && more_processes(os))));
	if (!err && event == WAIT_LOST)
		err = uerr_new(UERR_FAILED, "the daemon ended; what was counted went with it");
	if (err)
		return err;
	os->timed_out = event == WAIT_LIMIT;
	/* from here on Ctrl-C ends us at once, and the daemon cleans up */
	if (!os->child.pid)
		wait_deinit(&os->wait);
	err = oneshot_read_missed(os);
	if (!err && hooks->before_detach)
		err = hooks->before_detach(os, arg);
	if (!err)
		err = detach(os, event == WAIT_EXITED);
	return err;
}

void oneshot_end(struct oneshot *os)
{
	if (!os->child.pid)
		return;
	/* --for may be over before CMD is */
	os->cli->status = wait_child(&os->wait);
}

void oneshot_deinit(struct oneshot *os)
{
	child_abandon(&os->child);
	if (os->waiting)
		wait_deinit(&os->wait);
	client_close(&os->client);
	vec_foreach(p, &os->places)
		free(p->spec);
	vec_free(&os->places);
	cJSON_Delete(os->loaded);
	cJSON_Delete(os->attached);
}

/* "01 02 0a", "01020a", "0x01 0x02": bytes into BUF; their number. */
static size_t hex_bytes(const char *text, u8 *buf, size_t max)
{
	size_t n = 0;

	while (*text && n < max) {
		unsigned byte;

		if (*text == ' ') {
			text++;
			continue;
		}
		if (text[0] == '0' && text[1] == 'x')
			text += 2;
		if (sscanf(text, "%2x", &byte) != 1 || !text[1])
			break;
		buf[n++] = byte;
		text += 2;
	}
	return n;
}

/* Adds the value in hex TEXT to SUM. */
static struct uerr *add_value(const char *text, size_t size, u64 *sum, u64 *scratch)
{
	if (hex_bytes(text, (u8 *)scratch, size) != size)
		return uerr_new(UERR_FAILED, "the daemon sent a value that is not %zu bytes", size);
	for (size_t i = 0; i < size / 8; i++)
		sum[i] += scratch[i];
	return NULL;
}

static struct uerr *element_value(const cJSON *element, size_t size, u64 *sum, u64 *scratch)
{
	const cJSON *values = cJSON_GetObjectItemCaseSensitive(element, "values"), *value;
	struct uerr *err = NULL;

	memset(sum, 0, size);
	if (!cJSON_IsArray(values))
		return add_value(json_str(element, "value"), size, sum, scratch);
	cJSON_ArrayForEach(value, values)
		if (!err)
			err = add_value(json_str(value, "value"), size, sum, scratch);
	return err;
}

const char *oneshot_map_id(const struct oneshot *os, const char *name, char buf[24])
{
	return id_of(json_list(os->loaded, "maps"), name, buf);
}

#define KEY_MAX 16

struct uerr *oneshot_map_each(struct oneshot *os, const char *name, size_t key_size, size_t size,
			      struct uerr *(*fn)(const void *key, const u64 *value, void *arg), void *arg)
{
	cleanup_json cJSON *params = cJSON_CreateObject(), *reply = NULL;
	cleanup_free u64 *sum = malloc(2 * size);
	const cJSON *element;
	struct uerr *err;
	char id[24];

	if (!sum)
		return uerr_nomem();
	cJSON_AddStringToObject(params, "map", oneshot_map_id(os, name, id));
	err = client_call(&os->client, "MapDump", steal_ptr(params), &reply);
	if (err)
		return err;
	cJSON_ArrayForEach(element, json_list(reply, "elements")) {
		u64 key[KEY_MAX / 8] = {};

		if (key_size > KEY_MAX || hex_bytes(json_str(element, "key"), (u8 *)key, key_size) != key_size)
			return uerr_new(UERR_FAILED, "the daemon sent a key that is not %zu bytes", key_size);
		err = element_value(element, size, sum, sum + size / 8);
		if (!err)
			err = fn(key, sum, arg);
		if (err)
			return err;
	}
	return NULL;
}

struct indexed {
	void (*fn)(u32 index, const u64 *value, void *arg);
	void *arg;
};

static struct uerr *take_indexed(const void *key, const u64 *value, void *arg)
{
	const struct indexed *in = arg;
	u32 index;

	memcpy(&index, key, sizeof(index));
	in->fn(index, value, in->arg);
	return NULL;
}

struct uerr *oneshot_map_read(struct oneshot *os, const char *name, size_t size,
			      void (*fn)(u32 index, const u64 *value, void *arg), void *arg)
{
	struct indexed in = { fn, arg };

	return oneshot_map_each(os, name, 4, size, take_indexed, &in);
}

struct uerr *oneshot_map_read_one(struct oneshot *os, const char *name, u32 index, size_t size, u64 *ret)
{
	cleanup_json cJSON *params = cJSON_CreateObject(), *reply = NULL;
	cleanup_free u64 *scratch = malloc(size);
	struct uerr *err;
	char id[24], key[24];

	if (!scratch)
		return uerr_nomem();
	snprintf(key, sizeof(key), "%u", index);
	cJSON_AddStringToObject(params, "map", id_of(json_list(os->loaded, "maps"), name, id));
	cJSON_AddStringToObject(params, "key", key);
	err = client_call(&os->client, "MapLookup", steal_ptr(params), &reply);
	if (err)
		return err;
	return element_value(cJSON_GetObjectItemCaseSensitive(reply, "element"), size, ret, scratch);
}

cJSON *oneshot_document(const struct oneshot *os, const char *schema, u64 start_ns, u64 end_ns, u64 missed)
{
	cJSON *doc = cJSON_CreateObject(), *warnings;
	u64 wall = os->start_wall.tv_sec * 1000000000ull + os->start_wall.tv_nsec + (start_ns - os->start_ns);
	struct timespec start = { .tv_sec = wall / 1000000000, .tv_nsec = wall % 1000000000 };
	const cJSON *refused;
	number_buf buf;

	cJSON_AddStringToObject(doc, "schema", schema);
	cJSON_AddStringToObject(doc, "start", time_format(&start, buf));
	json_add_u64(doc, "duration_ns", end_ns - start_ns);
	json_add_u64(doc, "missed", missed);
	warnings = cJSON_AddArrayToObject(doc, "warnings");
	cJSON_ArrayForEach(refused, json_list(os->attached, "refused")) {
		cleanup_free char *text = NULL;

		if (asprintf(&text, "%s: %s", json_str(refused, "symbol"), json_str(refused, "reason")) < 0)
			text = NULL;
		cJSON_AddItemToArray(warnings, cJSON_CreateString(text ? text : ""));
	}
	return doc;
}

void oneshot_print_time(const struct oneshot *os)
{
	time_t now = time(NULL);
	char text[16];
	struct tm tm;

	if (!opt_given(os->cli->o, OPT_INTERVAL))
		return;
	localtime_r(&now, &tm);
	strftime(text, sizeof(text), "%H:%M:%S", &tm);
	out_printf(os->cli->out, "%s\n", text);
}

void oneshot_print_silence(const struct oneshot *os)
{
	const char *hint = json_str(os->attached, "never_called_hint");
	u64 ns = os->timed_out ? os->cli->o->for_ns : os->end_ns - os->start_ns;
	FILE *out = os->cli->out;
	number_buf num, time;

	duration_format(ns, time);
	if (os->nplaces == 1) {
		vec_foreach(p, &os->places)
			if (p->used)
				out_printf(out, "%s was not called in %s.", p->spec, time);
	} else {
		out_printf(out, "None of %s functions was called in %s.", number_format(os->nplaces, num), time);
	}
	out_printf(out, "%s%s\n", *hint ? " " : "", hint);
}

size_t oneshot_top(const struct oneshot *os, size_t n)
{
	const struct opts *o = os->cli->o;
	size_t top = opt_given(o, OPT_TOP) ? o->top : isatty(fileno(os->cli->out)) ? TOP_DEFAULT : 0;

	return top && top < n ? top : n;
}
