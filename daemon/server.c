/* SPDX-License-Identifier: MIT */
/* The Varlink socket; see server.h. Nothing here blocks. */
#include "daemon/server.h"

#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/cleanup.h"
#include "base/log.h"

#include "daemon/dispatch.h"
#include "daemon/housekeep.h"
#include "daemon/job.h"

#define CLIENTS_MAX 256u
#define CLIENTS_PER_UID 64u        /* of users other than root */
#define MESSAGE_ITEMS 200000u
#define READ_AHEAD (1u << 20)      /* buffered while a request is under way */
#define READ_CHUNK 65536u

struct client {
	struct source src;
	struct daemon *d;
	u64 id;
	struct peer peer;
	struct protocol_buf in;
	char *out;
	size_t out_n, out_off, out_cap;
	struct request *req;
	bool eof;      /* it will send no more */
	bool closing;  /* close once everything is written */
	bool dead;     /* close as soon as nobody is inside its functions */
};

bool client_follows(const struct client *c)
{
	return c->req && c->req->poll;
}

bool peer_is_master(const struct peer *p)
{
	return p->uid == 0 || p->uid == geteuid();
}

bool peer_may(const struct peer *p, uid_t uid)
{
	return peer_is_master(p) || p->uid == uid;
}

/*
 * Listening.
 */

static bool socket_is_live(const struct sockaddr_un *addr)
{
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN);
}

/* What a dead daemon left is replaced; a live one keeps its place, and a file
 * that is no socket is somebody else's. */
static struct uerr *clear_path(const struct sockaddr_un *addr)
{
	struct stat st;

	if (lstat(addr->sun_path, &st) < 0)
		return NULL;
	if (!S_ISSOCK(st.st_mode))
		return uerr_new(UERR_FAILED, "%s is there and is no socket", addr->sun_path);
	if (socket_is_live(addr))
		return uerr_new(UERR_FAILED, "a daemon is listening on %s already", addr->sun_path);
	if (unlink(addr->sun_path) < 0)
		return uerr_errno(errno, "removing the old %s", addr->sun_path);
	return NULL;
}

/* As uprobed.socket has it; without the group, it stays root's. */
static void give_to_group(const char *path)
{
	const struct group *g = getgrnam("uprobed");

	if (g && chown(path, 0, g->gr_gid) < 0)
		log_warning("%s is for root alone: %s", path, strerror(errno));
}

static struct uerr *bind_socket(struct daemon *d)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	bool system = geteuid() == 0 && !d->cfg.private_ && !strcmp(d->cfg.socket, UPROBED_SYSTEM_SOCKET);
	struct uerr *err;
	mode_t mask;
	int r;

	if (strlen(d->cfg.socket) >= sizeof(addr.sun_path))
		return uerr_new(UERR_USAGE, "the socket's path is too long (at most %zu bytes): %s",
				sizeof(addr.sun_path) - 1, d->cfg.socket);
	strcpy(addr.sun_path, d->cfg.socket);
	err = clear_path(&addr);
	if (err)
		return err;
	d->listener.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (d->listener.fd < 0)
		return uerr_errno(errno, "making a socket");
	mask = umask(system ? 0117 : 0177);
	r = bind(d->listener.fd, (struct sockaddr *)&addr, sizeof(addr));
	umask(mask);
	if (r < 0)
		return uerr_errno(errno, "listening on %s", addr.sun_path);
	d->made_socket = true;
	if (system)
		give_to_group(addr.sun_path);
	if (listen(d->listener.fd, 128) < 0)
		return uerr_errno(errno, "listening on %s", addr.sun_path);
	return NULL;
}

static bool take_activated(struct daemon *d)
{
#ifdef HAVE_SYSTEMD
	if (sd_listen_fds(1) == 1 && sd_is_socket_unix(SD_LISTEN_FDS_START, SOCK_STREAM, 1, NULL, 0) > 0) {
		d->listener.fd = SD_LISTEN_FDS_START;
		d->activated = true;
	}
#endif
	return d->activated;
}

struct uerr *server_listen(struct daemon *d)
{
	d->listener = (struct source){ .kind = SOURCE_LISTEN, .fd = -1 };
	if (!take_activated(d)) {
		struct uerr *err = bind_socket(d);

		if (err)
			return err;
	}
	return source_add(d, &d->listener, EPOLLIN);
}

/*
 * Clients.
 */

static void request_end(struct request *req)
{
	if (req->client)
		req->client->req = NULL;
	if (req->job)
		job_forget_request(req->job);
	if (req->end)
		req->end(req);
	cJSON_Delete(req->message);
	free(req);
}

static void client_destroy(struct client *c)
{
	struct daemon *d = c->d;
	u64 id = c->id;

	for (size_t i = 0; i < d->clients.n; i++)
		if (d->clients.data[i] == c) {
			d->clients.data[i] = d->clients.data[--d->clients.n];
			break;
		}
	if (c->req && c->req->job) {
		c->req->client = NULL;
		job_cancel(c->req->job);
	} else if (c->req) {
		request_end(c->req);
	}
	source_remove(d, &c->src);
	close(c->src.fd);
	protocol_buf_deinit(&c->in);
	free(c->out);
	free(c);
	if (!d->stopped)
		cleanup_after_client(d, id);
}

static void client_set_events(struct client *c)
{
	u32 events = 0;

	if (!c->eof && !c->closing && !(c->req && c->in.n > READ_AHEAD))
		events |= EPOLLIN;
	if (c->out_off < c->out_n)
		events |= EPOLLOUT;
	source_set_events(c->d, &c->src, events);
}

/* From outside the client's own event: a dead one is not destroyed under its
 * user's feet; epoll will report the hang-up. */
static void client_settle(struct client *c)
{
	if (c->dead)
		shutdown(c->src.fd, SHUT_RDWR);
	client_set_events(c);
}

static void client_flush(struct client *c)
{
	while (c->out_off < c->out_n) {
		ssize_t k = send(c->src.fd, c->out + c->out_off, c->out_n - c->out_off, MSG_NOSIGNAL);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0) {
			if (errno != EAGAIN)
				c->dead = true;
			return;
		}
		c->out_off += k;
	}
	c->out_n = c->out_off = 0;
	if (c->out_cap > READ_AHEAD) {
		free(c->out);
		c->out = NULL;
		c->out_cap = 0;
	}
	if (c->closing || (c->eof && !c->req && !c->in.n))
		c->dead = true;
}

/* Queues TEXT with its NUL. What the client does not read stays here: at most
 * one reply, and what request_backlog() let a follower add. */
static void client_send(struct client *c, const char *text)
{
	size_t n = strlen(text) + 1;

	if (c->out_off) { /* or a client that is always a little behind makes it grow for ever */
		memmove(c->out, c->out + c->out_off, c->out_n - c->out_off);
		c->out_n -= c->out_off;
		c->out_off = 0;
	}
	if (c->out_n + n > c->out_cap) {
		size_t cap = c->out_n + n;
		char *out = realloc(c->out, cap);

		if (!out) {
			c->dead = true;
			return;
		}
		c->out = out;
		c->out_cap = cap;
	}
	memcpy(c->out + c->out_n, text, n);
	c->out_n += n;
	client_flush(c);
}

static void send_json(struct client *c, cJSON *obj)
{
	cleanup_free char *text = cJSON_PrintUnformatted(obj);

	if (!text || strlen(text) >= PROTOCOL_MAX_MESSAGE) {
		struct uerr *err = uerr_new(UERR_FAILED, "the answer is longer than %u bytes", PROTOCOL_MAX_MESSAGE);
		cJSON *reply = protocol_error_reply(err);

		free(text);
		text = cJSON_PrintUnformatted(reply);
		cJSON_Delete(reply);
		uerr_free(err);
	}
	if (text)
		client_send(c, text);
	else
		c->dead = true;
	cJSON_Delete(obj);
}

/* Answers every message that is complete, as long as each is answered at once. */
static void client_take_messages(struct client *c)
{
	while (!c->req && !c->closing && !c->dead) {
		struct request *req;
		cJSON *msg;
		struct uerr *err = protocol_take(&c->in, &msg);

		if (err) {
			log_info("client %d (uid %u): %s: connection closed", c->peer.pid, (unsigned)c->peer.uid,
				 err->message);
			send_json(c, protocol_error_reply(err));
			uerr_free(err);
			c->closing = true;
			client_flush(c);
			return;
		}
		if (!msg)
			break;
		req = calloc(1, sizeof(*req));
		if (!req) {
			cJSON_Delete(msg);
			c->dead = true;
			return;
		}
		*req = (struct request){ .d = c->d, .client = c, .client_id = c->id, .peer = c->peer, .message = msg };
		c->req = req;
		dispatch(req);
	}
	if (c->eof && !c->req) {
		c->closing = true;
		client_flush(c);
	}
}

static void client_read(struct client *c)
{
	struct uerr *err = protocol_buf_room(&c->in, READ_CHUNK);
	ssize_t k;

	if (err) {
		uerr_free(err);
		c->dead = true;
		return;
	}
	k = recv(c->src.fd, c->in.data + c->in.n, c->in.cap - c->in.n, 0);
	if (k < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (k < 0)
		c->dead = true;
	else if (k == 0)
		c->eof = true;
	else
		c->in.n += k;
	client_take_messages(c);
}

void server_client_event(struct client *c, u32 events)
{
	if (events & (EPOLLHUP | EPOLLERR))
		c->dead = true;
	if (!c->dead && (events & EPOLLIN))
		client_read(c);
	if (!c->dead && (events & EPOLLOUT)) {
		client_flush(c);
		client_take_messages(c);
		if (!c->dead && c->out_off == c->out_n && c->req && c->req->poll)
			c->req->poll(c->req); /* it has room for news again */
	}
	if (c->dead)
		client_destroy(c);
	else
		client_set_events(c);
}

static bool may_come_in(struct daemon *d, const struct peer *p)
{
	u32 n = 0;

	if (d->clients.n >= CLIENTS_MAX)
		return false;
	if (peer_is_master(p))
		return true;
	vec_foreach(c, &d->clients)
		n += (*c)->peer.uid == p->uid;
	return n < CLIENTS_PER_UID;
}

void server_accept(struct daemon *d)
{
	cleanup_close int fd = accept4(d->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct ucred cred;
	socklen_t len = sizeof(cred);
	struct uerr *err;
	struct client *c;
	struct peer p;

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return;
	p = (struct peer){ cred.pid, cred.uid, cred.gid };
	if (!may_come_in(d, &p)) {
		log_warning("too many clients: uid %u (pid %d) is turned away", (unsigned)p.uid, p.pid);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c || !vec_push(&d->clients, c)) {
		free(c);
		return;
	}
	c->src = (struct source){ .kind = SOURCE_CLIENT, .fd = steal_fd(&fd), .owner = c };
	c->d = d;
	c->id = ++d->last_client;
	c->peer = p;
	c->in.max_items = MESSAGE_ITEMS;
	err = source_add(d, &c->src, EPOLLIN);
	if (err) {
		uerr_free(err);
		client_destroy(c);
	}
}

void server_close_clients(struct daemon *d)
{
	vec_foreach(c, &d->clients)
		close((*c)->src.fd);
}

void server_close(struct daemon *d)
{
	while (d->clients.n)
		client_destroy(d->clients.data[0]);
	vec_free(&d->clients);
	if (d->listener.fd >= 0)
		close(d->listener.fd);
	if (d->made_socket)
		unlink(d->cfg.socket);
}

void server_poll_requests(struct daemon *d)
{
	for (size_t i = d->clients.n; i-- > 0;) {
		struct client *c = d->clients.data[i];

		if (c->req && c->req->poll)
			c->req->poll(c->req);
		if (c->dead)
			client_destroy(c);
		else
			client_set_events(c);
	}
}

/*
 * Requests.
 */

/* A reply that comes later, from a job: whatever the client sent meanwhile is
 * next. When the reply comes within dispatch(), client_take_messages() is
 * already looking. */
static void after_reply(struct client *c, bool later)
{
	if (!later)
		return;
	client_take_messages(c);
	client_settle(c);
}

static void request_finish(struct request *req, cJSON *reply)
{
	struct client *c = req->client;
	bool later = req->later || req->poll;

	if (c && !req->oneway)
		send_json(c, reply);
	else
		cJSON_Delete(reply);
	req->d->heap_used = true;
	request_end(req);
	if (c)
		after_reply(c, later);
}

void request_reply(struct request *req, cJSON *params)
{
	cJSON *reply = cJSON_CreateObject();

	cJSON_AddItemToObject(reply, "parameters", params ? params : cJSON_CreateObject());
	request_finish(req, reply);
}

void request_continue(struct request *req, cJSON *params)
{
	cJSON *reply = cJSON_CreateObject();

	cJSON_AddItemToObject(reply, "parameters", params);
	cJSON_AddBoolToObject(reply, "continues", true);
	if (req->client && !req->oneway) {
		send_json(req->client, reply);
		client_settle(req->client);
	} else {
		cJSON_Delete(reply);
	}
}

void request_fail(struct request *req, struct uerr *err)
{
	cJSON *reply = protocol_error_reply(err);

	uerr_free(err);
	request_finish(req, reply);
}

void request_standard_error(struct request *req, const char *error, const char *key, const char *value)
{
	cJSON *reply = cJSON_CreateObject();

	cJSON_AddStringToObject(reply, "error", error);
	cJSON_AddStringToObject(cJSON_AddObjectToObject(reply, "parameters"), key, value);
	request_finish(req, reply);
}

size_t request_backlog(const struct request *req)
{
	return req->client ? req->client->out_n - req->client->out_off : 0;
}

const cJSON *param_item(const struct request *req, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(req->params, name);

	return cJSON_IsNull(item) ? NULL : item;
}

const char *param_str(const struct request *req, const char *name)
{
	return cJSON_GetStringValue(param_item(req, name));
}

bool param_bool(const struct request *req, const char *name)
{
	return cJSON_IsTrue(param_item(req, name));
}
