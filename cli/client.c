// SPDX-License-Identifier: MIT
/* Connecting, the private daemon, calls; see client.h. */
#include "cli/client.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/output.h"

#define CONNECT_TRIES 5

/* A connected descriptor, or a negative errno. */
static int connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	cleanup_close int fd = -1;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		if (errno != EINTR)
			return -errno;
	return steal_fd(&fd);
}

/* Where `uprobed` may be, seen from bpfctl's own executable. */
static struct uerr *find_daemon(char **ret)
{
	static const char *const places[] = {
		"%s/uprobed", "%s/../daemon/uprobed", "%s/../sbin/uprobed", "%s/../libexec/uprobed",
		"%s/../libexec/uprobed/uprobed", "/usr/sbin/uprobed", "/usr/local/sbin/uprobed",
	};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	const char *dir;

	if (n < 0)
		return uerr_errno(errno, "/proc/self/exe");
	self[n] = '\0';
	dir = dirname(self);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		struct stat st;
		char *path;

		if (asprintf(&path, places[i], dir) < 0)
			return uerr_nomem();
		if (!stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK)) {
			*ret = path;
			return NULL;
		}
		free(path);
	}
	return uerr_new(UERR_NO_DAEMON, "no daemon is running, and no 'uprobed' to start is beside %s or in /usr/sbin", dir);
}

/* The folder of socket PATH, private to its user. */
static struct uerr *make_socket_folder(const char *path)
{
	cleanup_free char *copy = strdup(path);
	struct stat st;
	char *dir;

	if (!copy)
		return uerr_nomem();
	dir = dirname(copy);
	if (mkdir(dir, geteuid() ? 0700 : 0755) && errno != EEXIST)
		return uerr_errno(errno, "making %s", dir);
	if (lstat(dir, &st))
		return uerr_errno(errno, "%s", dir);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 022)
		return uerr_new(UERR_NOT_PERMITTED, "%s is not yours alone: no private daemon is put there; name a place with --socket",
				dir);
	return NULL;
}

/* In the child: a session of its own, so that Ctrl-C is ours to deal with. */
static void __attribute__((noreturn)) exec_daemon(const char *exe, const char *path, int log_fd)
{
	int null = open("/dev/null", O_RDWR);
	sigset_t none;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(log_fd, STDERR_FILENO);
	execl(exe, exe, "--private", "--socket", path, (char *)NULL);
	dprintf(STDERR_FILENO, "%s: %s\n", exe, strerror(errno));
	_exit(127);
}

/* The last line that the daemon wrote before it gave up; malloc'd, or NULL. */
static char *last_log_line(int log_fd)
{
	char text[4096], *line;
	off_t size = lseek(log_fd, 0, SEEK_END);
	ssize_t n = pread(log_fd, text, sizeof(text) - 1, size > 4095 ? size - 4095 : 0);

	if (n <= 0)
		return NULL;
	text[n] = '\0';
	while (n && text[n - 1] == '\n')
		text[--n] = '\0';
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	if (line[0] == '<' && line[1] && line[2] == '>') /* the journal's prefix */
		line += 3;
	return *line ? strdup(line) : NULL;
}

/* Waits until somebody answers at PATH, whose folder INOTIFY_FD watches; false
 * when the daemon behind PIDFD ended instead. */
static bool wait_listening(const char *path, int inotify_fd, int pidfd)
{
	/* after bind(2) the file is there, a moment before listen(2) */
	bool bound = false;

	for (;;) {
		struct pollfd fds[] = { { inotify_fd, POLLIN, 0 }, { pidfd, POLLIN, 0 } };
		char events[4096];
		cleanup_close int fd = -1;

		if (poll(fds, 2, bound ? 1 : -1) < 0 && errno != EINTR)
			return false;
		if (fds[0].revents & POLLIN && read(inotify_fd, events, sizeof(events)) > 0)
			bound = true;
		fd = connect_to(path);
		if (fd >= 0)
			return true;
		if (fds[1].revents)
			return false;
	}
}

/* The daemon did not come up: in its own words. */
static struct uerr *start_failed(pid_t pid, int log_fd)
{
	cleanup_free char *line = last_log_line(log_fd);

	waitpid(pid, NULL, 0);
	return uerr_new(UERR_NO_DAEMON, "no daemon is running, and a private one does not start: %s",
			line ? line : "it ended (-v shows its log)");
}

/* Starts `uprobed --private` at PATH and returns when it listens. */
static struct uerr *start_private(const struct opts *o, const char *path)
{
	cleanup_free char *exe = NULL, *copy = strdup(path);
	cleanup_close int log_fd = -1, inotify_fd = -1, pidfd = -1;
	struct uerr *err;
	pid_t pid;

	if (!copy)
		return uerr_nomem();
	err = find_daemon(&exe);
	if (!err)
		err = make_socket_folder(path);
	if (err)
		return err;
	log_fd = opt_given(o, OPT_VERBOSE) ? dup(STDERR_FILENO) : memfd_create("uprobed-log", MFD_CLOEXEC);
	inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (log_fd < 0 || inotify_fd < 0 || inotify_add_watch(inotify_fd, dirname(copy), IN_CREATE | IN_MOVED_TO) < 0)
		return uerr_errno(errno, "starting a private daemon");
	pid = fork();
	if (pid < 0)
		return uerr_errno(errno, "starting a private daemon");
	if (!pid)
		exec_daemon(exe, path, log_fd);
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return uerr_errno(errno, "starting a private daemon");
	if (!wait_listening(path, inotify_fd, pidfd))
		return start_failed(pid, opt_given(o, OPT_VERBOSE) ? -1 : log_fd);
	progress(opt_given(o, OPT_QUIET), "no daemon is running: started a private one");
	return NULL;
}

static struct uerr *no_daemon(const char *path, int errnum)
{
	if (errnum == EACCES || errnum == EPERM)
		return uerr_new(UERR_NOT_PERMITTED, "%s: you may not talk to this daemon: use sudo", path);
	return uerr_new(UERR_NO_DAEMON, "no daemon answers at %s (%s): start uprobed --socket %s", path, strerror(errnum),
			path);
}

/* The first call proves that somebody listens: a private daemon may be about
 * to end just when we connect. */
static struct uerr *greet(struct client *c)
{
	cleanup_json cJSON *status = NULL;
	struct uerr *err = client_call(c, "GetStatus", NULL, &status);

	if (!err)
		c->daemon_pid = json_u64(status, "pid");
	return err;
}

struct uerr *client_open(const struct opts *o, struct client *ret)
{
	cleanup_free char *path = protocol_socket_path(o->socket);
	const char *env = getenv("UPROBED_SOCKET");
	bool named = o->socket || (env && *env);
	bool failed = false; /* to start one */
	struct uerr *err = NULL;

	if (!path)
		return uerr_nomem();
	for (int try = 0; try < CONNECT_TRIES; try++) {
		int fd = connect_to(path);

		*ret = (struct client){ .fd = fd };
		if (fd < 0 && failed)
			break;
		uerr_free(err);
		err = NULL;
		if (fd >= 0) {
			err = greet(ret);
			if (!err || !ret->lost)
				return err;
			client_close(ret);
			continue;
		}
		ret->fd = -1;
		if (named || (fd != -ENOENT && fd != -ECONNREFUSED))
			return no_daemon(path, -fd);
		err = start_private(o, path);
		/* it may have lost a race against another bpfctl's daemon, which then serves */
		failed = err;
	}
	ret->fd = -1;
	return err ? err : uerr_new(UERR_NO_DAEMON, "no daemon stays at %s", path);
}

void client_close(struct client *c)
{
	if (c->fd >= 0)
		close(steal_fd(&c->fd));
	protocol_buf_deinit(&c->buf);
}

static struct uerr *client_lost(struct client *c)
{
	c->lost = true;
	return uerr_new(UERR_FAILED, "the daemon closed the connection; its log says why (journalctl -u uprobed)");
}

static struct uerr *client_send(struct client *c, const char *method, cJSON *params, bool more)
{
	cleanup_json cJSON *call = cJSON_CreateObject();
	char name[256];
	struct uerr *err;

	snprintf(name, sizeof(name), "%s%s", strchr(method, '.') ? "" : UPROBED_INTERFACE ".", method);
	if (!params)
		params = cJSON_CreateObject();
	cJSON_AddStringToObject(call, "method", name);
	cJSON_AddItemToObject(call, "parameters", params);
	if (more)
		cJSON_AddBoolToObject(call, "more", true);
	err = protocol_write(c->fd, call);
	if (err && (err->errnum == EPIPE || err->errnum == ECONNRESET)) {
		uerr_free(err);
		return client_lost(c);
	}
	return err;
}

/* Varlink's own errors, of which a person should hear the meaning. */
static struct uerr *varlink_error(const cJSON *reply)
{
	const char *name = json_str(reply, "error");
	const cJSON *params = cJSON_GetObjectItemCaseSensitive(reply, "parameters");
	const char *what = json_str(params, "parameter");

	if (!strcmp(name, "org.varlink.service.MethodNotFound"))
		return uerr_new(UERR_USAGE, "the daemon has no method '%s': is it older than bpfctl?",
				json_str(params, "method"));
	if (!strcmp(name, "org.varlink.service.InterfaceNotFound"))
		return uerr_new(UERR_USAGE, "the daemon has no interface '%s'", json_str(params, "interface"));
	if (!strcmp(name, "org.varlink.service.InvalidParameter"))
		return uerr_new(UERR_USAGE, "the daemon does not take the parameter '%s'", what);
	return protocol_error_from_reply(reply);
}

static struct uerr *client_receive(struct client *c, cJSON **ret, bool *continues)
{
	cleanup_json cJSON *reply = NULL;
	cJSON *params;
	struct uerr *err = protocol_read(c->fd, &c->buf, &reply);

	if (err && err->errnum == ECONNRESET) {
		uerr_free(err);
		return client_lost(c);
	}
	if (err)
		return err;
	if (!reply)
		return client_lost(c);
	if (cJSON_HasObjectItem(reply, "error"))
		return varlink_error(reply);
	*continues = json_bool(reply, "continues");
	params = cJSON_DetachItemFromObjectCaseSensitive(reply, "parameters");
	*ret = params ? params : cJSON_CreateObject();
	return NULL;
}

struct uerr *client_call(struct client *c, const char *method, cJSON *params, cJSON **ret)
{
	struct uerr *err = client_send(c, method, params, false);
	bool continues;

	return err ? err : client_receive(c, ret, &continues);
}

struct uerr *client_stream(struct client *c, const char *method, cJSON *params)
{
	struct uerr *err = client_send(c, method, params, true);

	c->streaming = !err;
	return err;
}

struct uerr *client_next(struct client *c, cJSON **ret)
{
	struct uerr *err;

	*ret = NULL;
	if (!c->streaming)
		return NULL;
	err = client_receive(c, ret, &c->streaming);
	if (err)
		c->streaming = false;
	return err;
}
