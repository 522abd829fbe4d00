/* SPDX-License-Identifier: MIT */
/*
 * The second environment: a uprobed of our own on a private socket, asked over
 * its socket as any client asks, attaching to the running victim.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bench.h"
#include "daemon/protocol.h"
#include "rows.h"

static pid_t daemon_pid;
static int sock = -1;
static struct protocol_buf buf;
static char state_dir[] = "/tmp/uprobed-bench-XXXXXX";
static bool have_dir;
static cJSON *links; /* of the row attached now */

static void cjson_deletep(cJSON **j)
{
	cJSON_Delete(*j);
}
#define cleanup_json cleanup(cjson_deletep)

/* Calls METHOD (PARAMS are consumed); *ret is its "parameters". */
static struct uerr *call(const char *method, cJSON *params, cJSON **ret)
{
	cleanup_json cJSON *msg = cJSON_CreateObject();
	cleanup_json cJSON *reply = NULL;
	struct uerr *err;
	char full[128];

	snprintf(full, sizeof(full), "%s.%s", UPROBED_INTERFACE, method);
	cJSON_AddStringToObject(msg, "method", full);
	cJSON_AddItemToObject(msg, "parameters", params);
	err = protocol_write(sock, msg);
	if (!err)
		err = protocol_read(sock, &buf, &reply);
	if (err)
		return err;
	if (!reply)
		return uerr_new(UERR_FAILED, "uprobed closed the connection");
	err = protocol_error_from_reply(reply);
	if (err)
		return err;
	*ret = cJSON_DetachItemFromObject(reply, "parameters");
	return NULL;
}

static struct uerr *load_object(const char *dir, const char *name)
{
	char path[PATH_MAX];
	cleanup_json cJSON *reply = NULL;
	cleanup_free void *bytes = NULL;
	cleanup_free char *text = NULL;
	cJSON *params;
	size_t size;
	struct uerr *err;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	err = bench_read_file(path, &bytes, &size);
	if (err)
		return err;
	text = protocol_base64(bytes, size);
	params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "object", text);
	cJSON_AddStringToObject(params, "name", name);
	return call("Load", params, &reply);
}

/* Connects as soon as the daemon listens. */
static struct uerr *connect_daemon(const struct sockaddr_un *addr)
{
	for (int i = 0; i < 2000; i++) {
		sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (sock < 0)
			return uerr_errno(errno, "socket");
		if (!connect(sock, (const struct sockaddr *)addr, sizeof(*addr)))
			return NULL;
		close(sock);
		sock = -1;
		if (waitpid(daemon_pid, NULL, WNOHANG) == daemon_pid)
			break;
		usleep(5000);
	}
	return uerr_new(UERR_FAILED, "uprobed did not start");
}

struct uerr *env_userspace_start(const char *uprobed, const char *dir)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct uerr *err;

	if (!mkdtemp(state_dir))
		return uerr_errno(errno, "%s", state_dir);
	have_dir = true;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/socket", state_dir);
	daemon_pid = fork();
	if (daemon_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		execl(uprobed, uprobed, "--socket", addr.sun_path, (char *)NULL);
		_exit(127);
	}
	err = connect_daemon(&addr);
	if (err)
		return uerr_prefix(err, "%s", uprobed);
	for (int i = 0; !err && i < N_OBJECTS; i++)
		err = load_object(dir, bench_objects[i]);
	return err;
}

void env_userspace_stop(void)
{
	char command[128];

	if (sock >= 0)
		close(sock);
	sock = -1;
	if (daemon_pid > 0) {
		kill(daemon_pid, SIGTERM);
		waitpid(daemon_pid, NULL, 0);
		daemon_pid = 0;
	}
	protocol_buf_deinit(&buf);
	if (have_dir) {
		snprintf(command, sizeof(command), "rm -rf '%s'", state_dir);
		if (system(command))
			fprintf(stderr, "uprobed-bench: %s is left\n", state_dir);
		have_dir = false;
	}
}

static void add_program(cJSON *programs, const char *program, const char *probe)
{
	cJSON *p;

	if (!program[0])
		return;
	p = cJSON_CreateObject();
	cJSON_AddStringToObject(p, "program", program);
	cJSON_AddStringToObject(p, "probe", probe);
	cJSON_AddItemToArray(programs, p);
}

/* Attaches ENTRY and EXIT at FUNCTION; *ret is Attach's reply. */
static struct uerr *attach(const char *entry, const char *exit, const char *function, pid_t pid, cJSON **ret)
{
	cJSON *params = cJSON_CreateObject();
	cJSON *programs = cJSON_AddArrayToObject(params, "programs");
	cJSON *specs = cJSON_AddArrayToObject(params, "specs");
	cJSON *target = cJSON_AddObjectToObject(params, "target");
	char spec[128];

	add_program(programs, entry, "uprobe");
	add_program(programs, exit, "uretprobe");
	snprintf(spec, sizeof(spec), ":%s", function);
	cJSON_AddItemToArray(specs, cJSON_CreateString(spec));
	cJSON_AddItemToArray(cJSON_AddArrayToObject(target, "pids"), cJSON_CreateNumber(pid));
	return call("Attach", params, ret);
}

static struct uerr *detach_links(const cJSON *reply)
{
	struct uerr *err = NULL;
	const cJSON *link;
	char id[32];

	cJSON_ArrayForEach(link, cJSON_GetObjectItem(reply, "links")) {
		cleanup_json cJSON *detached = NULL;
		cJSON *params = cJSON_CreateObject();

		snprintf(id, sizeof(id), "%d", cJSON_GetObjectItem(link, "id")->valueint);
		cJSON_AddStringToObject(params, "link", id);
		if (err)
			cJSON_Delete(params);
		else
			err = call("Detach", params, &detached);
	}
	return err;
}

static struct uerr *userspace_attach(const struct bench_row *row, struct victim *v)
{
	return attach(row->entry, row->exit, row->name, v->pid, &links);
}

static void userspace_detach(void)
{
	struct uerr *err = detach_links(links);

	if (err)
		fprintf(stderr, "uprobed-bench: %s\n", err->message);
	uerr_free(err);
	cJSON_Delete(links);
	links = NULL;
}

static struct uerr *userspace_read_ring(void)
{
	return ring_read_userspace(daemon_pid, "bench_records", RING_BYTES);
}

const struct bench_env_ops env_userspace = { userspace_attach, userspace_detach, userspace_read_ring };

struct uerr *env_userspace_count(const char *map, uint64_t *ret)
{
	cleanup_json cJSON *reply = NULL;
	cJSON *params = cJSON_CreateObject();
	const cJSON *v, *values;
	struct uerr *err;

	cJSON_AddStringToObject(params, "map", map);
	cJSON_AddStringToObject(params, "key", "0");
	err = call("MapLookup", params, &reply);
	if (err)
		return err;
	values = cJSON_GetObjectItem(cJSON_GetObjectItem(reply, "element"), "values");
	if (!cJSON_GetArraySize(values))
		return uerr_new(UERR_FAILED, "map %s has no element 0", map);
	*ret = 0;
	cJSON_ArrayForEach(v, values) {
		uint64_t n = 0;

		protocol_get_u64(v, "value_json", &n);
		*ret += n;
	}
	return NULL;
}

/* Microseconds that the process stood still in an attach of one probe. */
static struct uerr *attach_stop_us(const char *path, unsigned threads, double *ret)
{
	cleanup_json cJSON *reply = NULL;
	struct victim v = { 0 };
	struct uerr *err;
	uint64_t ns = 0;

	err = victim_start(path, threads, &v);
	if (!err)
		err = attach("on_entry", "", "__bench_thread", v.pid, &reply);
	if (!err) {
		const cJSON *stop = cJSON_GetArrayItem(cJSON_GetObjectItem(reply, "stops"), 0);

		if (!protocol_get_u64(stop, "stopped_ns", &ns))
			err = uerr_new(UERR_FAILED, "the reply does not say how long the process stood still");
	}
	if (!err)
		err = detach_links(reply);
	victim_stop(&v);
	*ret = (double)ns / 1000;
	return err;
}

/* Attaches ten probes and asks what that costs. */
static struct uerr *ten_probes(const char *path, struct bench_attach *ret)
{
	cleanup_json cJSON *status = NULL;
	cleanup_json cJSON *targets = NULL;
	struct victim v = { 0 };
	cJSON *replies[10] = { 0 };
	struct uerr *err = victim_start(path, 0, &v);
	const cJSON *t;

	for (size_t i = 0; i < 10 && !err; i++)
		err = attach("on_entry", "", bench_rows[i].name, v.pid, &replies[i]);
	if (!err)
		err = call("GetStatus", cJSON_CreateObject(), &status);
	if (!err)
		err = call("ListTargets", cJSON_CreateObject(), &targets);
	if (!err) {
		protocol_get_u64(status, "rss_bytes", &ret->daemon_rss_bytes);
		cJSON_ArrayForEach(t, cJSON_GetObjectItem(targets, "targets"))
			if (cJSON_GetObjectItem(t, "pid")->valueint == v.pid)
				protocol_get_u64(t, "mapped_bytes", &ret->mapped_bytes);
	}
	for (size_t i = 0; i < 10; i++) {
		if (!err && replies[i])
			err = detach_links(replies[i]);
		cJSON_Delete(replies[i]);
	}
	victim_stop(&v);
	return err;
}

void env_userspace_measure_attach(const char *victim_path, unsigned runs, struct bench_attach *ret)
{
	struct uerr *err = NULL;

	for (ret->runs = 0; ret->runs < runs && !err; ret->runs++) {
		err = attach_stop_us(victim_path, 0, &ret->stop_us_1[ret->runs]);
		if (!err)
			err = attach_stop_us(victim_path, 99, &ret->stop_us_100[ret->runs]);
	}
	if (!err)
		err = ten_probes(victim_path, ret);
	if (err)
		snprintf(ret->reason, sizeof(ret->reason), "%s", err->message);
	uerr_free(err);
}
