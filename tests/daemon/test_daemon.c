/* SPDX-License-Identifier: MIT */
/*
 * A real daemon on a private socket and a raw client: what it answers to
 * nonsense, to many and to slow clients; and one attach from end to end, with
 * exact counts, text that is byte for byte the same afterwards, and no mapping
 * left. argv: the daemon, the victim, the BPF object.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/protocol.h"
#include "tests/support/suite.h"

static const char *daemon_path, *victim_path, *object_path;
static char dir[] = "/tmp/uprobed-test-XXXXXX";
static char socket_path[64];
static pid_t daemon_pid;

static int try_connect(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, socket_path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	close(fd);
	return -1;
}

static int connect_daemon(void)
{
	int fd = try_connect();

	for (int i = 0; fd < 0 && i < 500; i++) {
		poll(NULL, 0, 10);
		fd = try_connect();
	}
	ck_assert_int_ge(fd, 0);
	return fd;
}

static void start_daemon(void)
{
	strcpy(dir, "/tmp/uprobed-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(socket_path, sizeof(socket_path), "%s/socket", dir);
	daemon_pid = fork();
	if (!daemon_pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl(daemon_path, "uprobed", "--socket", socket_path, NULL);
		_exit(127);
	}
	close(connect_daemon());
}

static void stop_daemon(void)
{
	char command[128];
	int status;

	kill(daemon_pid, SIGTERM);
	ck_assert_int_eq(waitpid(daemon_pid, &status, 0), daemon_pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	ck_assert_int_ne(access(socket_path, F_OK), 0);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

/* PARAMS are taken over. */
static cJSON *call_on(int fd, const char *method, cJSON *params)
{
	struct protocol_buf b = {};
	cJSON *msg = cJSON_CreateObject(), *reply;

	cJSON_AddStringToObject(msg, "method", method);
	cJSON_AddItemToObject(msg, "parameters", params ? params : cJSON_CreateObject());
	ck_assert_ptr_null(protocol_write(fd, msg));
	cJSON_Delete(msg);
	ck_assert_ptr_null(protocol_read(fd, &b, &reply));
	ck_assert_ptr_nonnull(reply);
	protocol_buf_deinit(&b);
	return reply;
}

static const char *error_of(const cJSON *reply)
{
	const char *e = cJSON_GetStringValue(cJSON_GetObjectItem(reply, "error"));

	return e ? e : "";
}

static cJSON *good(cJSON *reply)
{
	char *text = cJSON_PrintUnformatted(reply);

	ck_assert_msg(!error_of(reply)[0], "%s", text);
	free(text);
	return cJSON_GetObjectItem(reply, "parameters");
}

static void call_good(int fd, const char *method, cJSON *params)
{
	cJSON *reply = call_on(fd, method, params);

	good(reply);
	cJSON_Delete(reply);
}

static void expect_alive(int fd)
{
	cJSON *reply = call_on(fd, "io.uprobed.GetStatus", NULL);

	ck_assert_int_eq(cJSON_GetObjectItem(good(reply), "pid")->valueint, daemon_pid);
	cJSON_Delete(reply);
}

START_TEST(introspection)
{
	int fd = connect_daemon();
	cJSON *reply = call_on(fd, "org.varlink.service.GetInfo", NULL);

	ck_assert_str_eq(cJSON_GetObjectItem(good(reply), "product")->valuestring, "uprobed");
	cJSON_Delete(reply);
	reply = call_on(fd, "org.varlink.service.GetInterfaceDescription",
			cJSON_Parse("{\"interface\":\"io.uprobed\"}"));
	ck_assert_str_eq(cJSON_GetObjectItem(good(reply), "description")->valuestring, protocol_interface);
	cJSON_Delete(reply);
	close(fd);
}
END_TEST

static const struct {
	const char *method, *params, *error;
} wrong_calls[] = {
	{ "io.uprobed.Nope", "{}", "org.varlink.service.MethodNotFound" },
	{ "io.uprobed.", "{}", "org.varlink.service.MethodNotFound" },
	{ "x", "{}", "org.varlink.service.MethodNotFound" },
	{ "org.example.X", "{}", "org.varlink.service.InterfaceNotFound" },
	{ "io.uprobed.GetStatus", "{\"x\":1}", "org.varlink.service.InvalidParameter" },
	{ "io.uprobed.GetStatus", "[]", "org.varlink.service.InvalidParameter" },
	{ "io.uprobed.MapDump", "{}", "org.varlink.service.InvalidParameter" },
	{ "io.uprobed.MapDump", "{\"map\":1}", "org.varlink.service.InvalidParameter" },
	{ "io.uprobed.Attach", "{\"programs\":[1],\"specs\":[]}", "org.varlink.service.InvalidParameter" },
	{ "io.uprobed.Hold", "{\"pid\":-1}", "org.varlink.service.InvalidParameter" },
	{ "io.uprobed.Hold", "{\"pid\":1.5}", "org.varlink.service.InvalidParameter" },
	{ "io.uprobed.MapDump", "{\"map\":\"none\"}", "io.uprobed.Failed" },
	{ "io.uprobed.Load", "{\"object\":\"AAAA\",\"name\":\"x\"}", "io.uprobed.Failed" },
	{ "io.uprobed.Load", "{\"object\":\"A\",\"name\":\"x\"}", "io.uprobed.Failed" },
	{ "io.uprobed.Detach", "{}", "io.uprobed.Failed" },
	{ "io.uprobed.FindTargets", "{\"target\":{}}", "io.uprobed.Failed" },
	{ "io.uprobed.FindTargets", "{\"target\":{\"pids\":[\"a\"]}}", "io.uprobed.Failed" },
	{ "io.uprobed.FindTargets", "{\"target\":{\"names\":[\"no such process\"]}}", "io.uprobed.Failed" },
};

START_TEST(wrong_calls_get_errors)
{
	int fd = connect_daemon();
	cJSON *reply = call_on(fd, wrong_calls[_i].method, cJSON_Parse(wrong_calls[_i].params));

	ck_assert_str_eq(error_of(reply), wrong_calls[_i].error);
	cJSON_Delete(reply);
	expect_alive(fd);
	close(fd);
}
END_TEST

START_TEST(garbage_ends_the_connection_and_nothing_else)
{
	static const char *const garbage[] = { "garbage", "[]", "{\"method\":", "" };
	int other = connect_daemon();

	for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
		int fd = connect_daemon();
		char buf[4096];
		ssize_t n;

		ck_assert_int_gt(send(fd, garbage[i], strlen(garbage[i]) + 1, MSG_NOSIGNAL), 0);
		do
			n = recv(fd, buf, sizeof(buf), 0);
		while (n > 0);
		ck_assert_int_eq(n, 0);
		close(fd);
	}
	expect_alive(other);
	close(other);
}
END_TEST

START_TEST(many_clients)
{
	int fds[100];

	for (int i = 0; i < 100; i++)
		fds[i] = connect_daemon();
	for (int i = 0; i < 100; i++)
		expect_alive(fds[i]);
	for (int i = 0; i < 100; i++)
		close(fds[i]);
}
END_TEST

/* Asks and asks and never reads: the daemon must not wait for it. */
START_TEST(a_client_that_does_not_read_holds_up_nobody)
{
	static const char ask[] = "{\"method\":\"org.varlink.service.GetInterfaceDescription\","
				  "\"parameters\":{\"interface\":\"io.uprobed\"}}";
	int slow = connect_daemon(), other = connect_daemon();

	fcntl(slow, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 100000; i++)
		if (send(slow, ask, sizeof(ask), MSG_NOSIGNAL) < 0 && errno == EAGAIN)
			break;
	expect_alive(other);
	close(slow);
	expect_alive(other);
	close(other);
}
END_TEST

START_TEST(a_live_socket_is_not_taken_over)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		freopen("/dev/null", "w", stderr);
		execl(daemon_path, "uprobed", "--socket", socket_path, NULL);
		_exit(127);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	close(connect_daemon());
}
END_TEST

/*
 * One attach from end to end.
 */

struct victim {
	pid_t pid;
	FILE *in, *out;
};

static struct victim start_victim(void)
{
	struct victim v;
	int to[2], from[2];

	ck_assert_int_eq(pipe2(to, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(from, O_CLOEXEC), 0);
	v.pid = fork();
	if (!v.pid) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		execl(victim_path, "daemon_calls", NULL);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	v.in = fdopen(to[1], "w");
	v.out = fdopen(from[0], "r");
	return v;
}

static void make_calls(struct victim *v, int n)
{
	char line[32];

	fprintf(v->in, "%d\n", n);
	fflush(v->in);
	ck_assert_ptr_nonnull(fgets(line, sizeof(line), v->out));
	ck_assert_str_eq(line, "done\n");
}

static void stop_victim(struct victim *v)
{
	int status;

	fclose(v->in);
	ck_assert_int_eq(waitpid(v->pid, &status, 0), v->pid);
	ck_assert_int_eq(status, 0);
	fclose(v->out);
}

/* The file's text and memory, as one string of bytes; the caller frees. */
static char *read_text(pid_t pid, size_t *n)
{
	char path[64], line[512];
	cleanup_fclose FILE *maps = NULL;
	cleanup_close int mem = -1;
	char *bytes = NULL;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	mem = open(path, O_RDONLY);
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	*n = 0;
	while (fgets(line, sizeof(line), maps)) {
		unsigned long lo, hi;

		if (!strstr(line, " r-xp ") || !strstr(line, "daemon_calls") ||
		    sscanf(line, "%lx-%lx", &lo, &hi) != 2)
			continue;
		bytes = realloc(bytes, *n + (hi - lo));
		ck_assert_int_eq(pread(mem, bytes + *n, hi - lo, lo), hi - lo);
		*n += hi - lo;
	}
	ck_assert_uint_gt(*n, 0);
	return bytes;
}

/* Anything of ours in its mappings? */
static bool has_our_mappings(pid_t pid)
{
	char path[64], line[512];
	cleanup_fclose FILE *maps = NULL;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "memfd:") || strstr(line, "/dev/zero"))
			return true;
	return false;
}

static cJSON *load_params(void)
{
	cleanup_fclose FILE *f = fopen(object_path, "re");
	cJSON *p = cJSON_CreateObject();
	char *bytes = malloc(1 << 20), *text;
	size_t n = fread(bytes, 1, 1 << 20, f);

	text = protocol_base64(bytes, n);
	cJSON_AddStringToObject(p, "object", text);
	cJSON_AddStringToObject(p, "name", "count");
	free(text);
	free(bytes);
	return p;
}

static void expect_count(int fd, const char *key, const char *want)
{
	cJSON *p = cJSON_CreateObject(), *reply;

	cJSON_AddStringToObject(p, "map", "counts");
	cJSON_AddStringToObject(p, "key", key);
	reply = call_on(fd, "io.uprobed.MapLookup", p);
	ck_assert_str_eq(
		cJSON_GetObjectItem(cJSON_GetObjectItem(good(reply), "element"), "value_json")->valuestring, want);
	cJSON_Delete(reply);
}

static cJSON *attach_params(pid_t pid, const char *programs, bool ephemeral)
{
	char text[512];

	snprintf(text, sizeof(text),
		 "{\"programs\":%s,\"specs\":[\":calls_work\"],\"target\":{\"pids\":[%d]},\"ephemeral\":%s}", programs,
		 pid, ephemeral ? "true" : "false");
	return cJSON_Parse(text);
}

#define BOTH "[{\"program\":\"on_entry\"},{\"program\":\"on_exit\"}]"

static void wait_until_clean(pid_t pid)
{
	for (int i = 0; has_our_mappings(pid); i++) {
		ck_assert_int_lt(i, 800);
		poll(NULL, 0, 10);
	}
}

START_TEST(attach_counts_exactly_and_detach_leaves_nothing)
{
	struct victim v = start_victim();
	int fd = connect_daemon();
	size_t nbefore, nafter;
	char *before, *after;

	make_calls(&v, 1);
	before = read_text(v.pid, &nbefore);
	call_good(fd, "io.uprobed.Load", load_params());
	for (int round = 1; round <= 3; round++) {
		char want[32];
		cJSON *reply = call_on(fd, "io.uprobed.Attach", attach_params(v.pid, BOTH, false));

		ck_assert_int_eq(cJSON_GetArraySize(cJSON_GetObjectItem(good(reply), "sites")), 2);
		cJSON_Delete(reply);
		make_calls(&v, 1000);
		reply = call_on(fd, "io.uprobed.Detach", cJSON_Parse("{\"all\":true}"));
		ck_assert_int_eq(cJSON_GetArraySize(cJSON_GetObjectItem(good(reply), "detached")), 2);
		cJSON_Delete(reply);
		make_calls(&v, 77);
		snprintf(want, sizeof(want), "%d", round * 1000);
		expect_count(fd, "0", want);
		expect_count(fd, "1", want);
		wait_until_clean(v.pid);
	}
	after = read_text(v.pid, &nafter);
	ck_assert_uint_eq(nbefore, nafter);
	ck_assert_int_eq(memcmp(before, after, nbefore), 0);
	free(before);
	free(after);
	stop_victim(&v);
	close(fd);
}
END_TEST

START_TEST(ephemeral_links_die_with_their_connection)
{
	struct victim v = start_victim();
	int keeper = connect_daemon(), fd = connect_daemon();

	make_calls(&v, 1);
	call_good(keeper, "io.uprobed.Load", load_params());
	call_good(fd, "io.uprobed.Attach", attach_params(v.pid, BOTH, true));
	make_calls(&v, 10);
	close(fd);
	wait_until_clean(v.pid);
	make_calls(&v, 10);
	expect_count(keeper, "0", "10");
	stop_victim(&v);
	close(keeper);
}
END_TEST

START_TEST(two_links_on_one_function)
{
	struct victim v = start_victim();
	int fd = connect_daemon();

	make_calls(&v, 1);
	call_good(fd, "io.uprobed.Load", load_params());
	call_good(fd, "io.uprobed.Attach",
				   attach_params(v.pid, "[{\"program\":\"on_entry\"}]", false));
	make_calls(&v, 5);
	call_good(fd, "io.uprobed.Attach",
				   attach_params(v.pid, "[{\"program\":\"on_exit\"}]", false));
	make_calls(&v, 5);
	call_good(fd, "io.uprobed.Detach", cJSON_Parse("{\"link\":\"1\"}"));
	make_calls(&v, 5);
	expect_count(fd, "0", "10");
	expect_count(fd, "1", "10");
	close(fd);
	stop_victim(&v);
}
END_TEST

START_TEST(a_stopping_daemon_detaches)
{
	struct victim v = start_victim();
	int fd = connect_daemon();

	make_calls(&v, 1);
	call_good(fd, "io.uprobed.Load", load_params());
	call_good(fd, "io.uprobed.Attach", attach_params(v.pid, BOTH, false));
	make_calls(&v, 3);
	close(fd);
	stop_daemon();
	ck_assert(!has_our_mappings(v.pid));
	make_calls(&v, 3);
	stop_victim(&v);
	start_daemon(); /* for the fixture */
}
END_TEST

START_TEST(what_a_killed_daemon_left_is_undone_by_the_next)
{
	struct victim v = start_victim();
	int fd = connect_daemon();
	size_t n, nafter;
	char *before, *after;

	make_calls(&v, 1);
	before = read_text(v.pid, &n);
	call_good(fd, "io.uprobed.Load", load_params());
	call_good(fd, "io.uprobed.Attach", attach_params(v.pid, BOTH, false));
	/* the same windows again: their jumps are led to new trampolines */
	call_good(fd, "io.uprobed.Attach", attach_params(v.pid, BOTH, false));
	close(fd);
	kill(daemon_pid, SIGKILL);
	waitpid(daemon_pid, NULL, 0);
	make_calls(&v, 3);
	ck_assert(has_our_mappings(v.pid));
	daemon_pid = fork();
	if (!daemon_pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl(daemon_path, "uprobed", "--socket", socket_path, NULL);
		_exit(127);
	}
	close(connect_daemon());
	wait_until_clean(v.pid);
	make_calls(&v, 3);
	after = read_text(v.pid, &nafter);
	ck_assert_uint_eq(n, nafter);
	ck_assert_int_eq(memcmp(before, after, n), 0);
	free(before);
	free(after);
	stop_victim(&v);
}
END_TEST

static bool may_trace(void)
{
	return geteuid() == 0;
}

int main(int argc, char **argv)
{
	Suite *s = suite_create("daemon");
	TCase *t = tcase_create("protocol"), *e = tcase_create("attach");

	if (argc != 4)
		return 2;
	daemon_path = argv[1];
	victim_path = argv[2];
	object_path = argv[3];
	tcase_add_checked_fixture(t, start_daemon, stop_daemon);
	tcase_add_test(t, introspection);
	tcase_add_loop_test(t, wrong_calls_get_errors, 0, sizeof(wrong_calls) / sizeof(wrong_calls[0]));
	tcase_add_test(t, garbage_ends_the_connection_and_nothing_else);
	tcase_add_test(t, many_clients);
	tcase_add_test(t, a_client_that_does_not_read_holds_up_nobody);
	tcase_add_test(t, a_live_socket_is_not_taken_over);
	tcase_set_timeout(t, 20);
	suite_add_tcase(s, t);
	tcase_add_checked_fixture(e, start_daemon, stop_daemon);
	tcase_add_test(e, attach_counts_exactly_and_detach_leaves_nothing);
	tcase_add_test(e, ephemeral_links_die_with_their_connection);
	tcase_add_test(e, two_links_on_one_function);
	tcase_add_test(e, a_stopping_daemon_detaches);
	tcase_add_test(e, what_a_killed_daemon_left_is_undone_by_the_next);
	tcase_set_timeout(e, 30);
	if (may_trace())
		suite_add_tcase(s, e);
	else
		fprintf(stderr, "# the attach tests need root: skipped\n");
	return suite_run(s);
}
