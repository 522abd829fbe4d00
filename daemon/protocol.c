/* SPDX-License-Identifier: MIT */
/*
 * Varlink framing and the few conventions on top of it (protocol.h). Whatever
 * comes in is hostile: sizes are bounded before memory is taken, and a message
 * is a JSON object or an error.
 */
#include "daemon/protocol.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"

#define READ_CHUNK 65536u

/* Generated from daemon/io.uprobed.varlink: one C string for each line. */
const char protocol_interface[] =
#include "io.uprobed.varlink.inc"
	;

static bool may_connect(const char *path)
{
	return access(path, R_OK | W_OK) == 0;
}

char *protocol_socket_path(const char *given)
{
	const char *env = getenv("UPROBED_SOCKET");
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char *path;

	if (given)
		return strdup(given);
	if (env && *env)
		return strdup(env);
	if (geteuid() == 0 || may_connect(UPROBED_SYSTEM_SOCKET))
		return strdup(UPROBED_SYSTEM_SOCKET);
	if (runtime && *runtime)
		return asprintf(&path, "%s/uprobed/socket", runtime) < 0 ? NULL : path;
	return asprintf(&path, "/tmp/uprobed-%u/socket", (unsigned)geteuid()) < 0 ? NULL : path;
}

/* A peer that is gone must be an error, not SIGPIPE; pipes and files (which the
 * tests use) know no send(2). */
static ssize_t write_some(int fd, const char *p, size_t n)
{
	ssize_t done = send(fd, p, n, MSG_NOSIGNAL);

	return done < 0 && errno == ENOTSOCK ? write(fd, p, n) : done;
}

struct uerr *protocol_write(int fd, const cJSON *obj)
{
	cleanup_free char *text = cJSON_PrintUnformatted(obj);
	size_t n, done = 0;

	if (!text)
		return uerr_nomem();
	n = strlen(text) + 1;
	if (n > PROTOCOL_MAX_MESSAGE)
		return uerr_new(UERR_USAGE, "the message is too long: %zu bytes, at most %u", n, PROTOCOL_MAX_MESSAGE);
	while (done < n) {
		ssize_t k = write_some(fd, text + done, n - done);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return uerr_errno(errno, "writing to the socket");
		done += k;
	}
	return NULL;
}

void protocol_buf_deinit(struct protocol_buf *b)
{
	free(b->data);
	*b = (struct protocol_buf){};
}

struct uerr *protocol_buf_room(struct protocol_buf *b, size_t want)
{
	size_t cap = b->cap ? b->cap : READ_CHUNK;
	char *p;

	if (b->n + want > PROTOCOL_MAX_MESSAGE + READ_CHUNK)
		return uerr_new(UERR_USAGE, "a message is longer than %u bytes", PROTOCOL_MAX_MESSAGE);
	while (cap < b->n + want)
		cap *= 2;
	if (cap == b->cap)
		return NULL;
	p = realloc(b->data, cap);
	if (!p)
		return uerr_nomem();
	b->data = p;
	b->cap = cap;
	return NULL;
}

/* Structural characters outside strings: what cJSON makes a 64-byte item of.
 * A message of 64 MiB of "[[[…" would otherwise take gigabytes. */
static size_t count_items(const char *p, size_t n)
{
	bool string = false;
	size_t items = 0;

	for (size_t i = 0; i < n; i++) {
		if (string) {
			if (p[i] == '\\')
				i++;
			else if (p[i] == '"')
				string = false;
		} else if (p[i] == '"') {
			string = true;
		} else if (p[i] == ',' || p[i] == '[' || p[i] == '{') {
			items++;
		}
	}
	return items;
}

static struct uerr *parse_message(const struct protocol_buf *b, size_t len, cJSON **ret)
{
	cJSON *obj;

	if (b->max_items && count_items(b->data, len) > b->max_items)
		return uerr_new(UERR_USAGE, "a message has more than %zu values", b->max_items);
	obj = cJSON_ParseWithLengthOpts(b->data, len + 1, NULL, true);
	if (!obj)
		return uerr_new(UERR_USAGE, "a message is no JSON");
	if (!cJSON_IsObject(obj)) {
		cJSON_Delete(obj);
		return uerr_new(UERR_USAGE, "a message is no JSON object");
	}
	*ret = obj;
	return NULL;
}

struct uerr *protocol_take(struct protocol_buf *b, cJSON **ret)
{
	char *end = b->n > b->scanned ? memchr(b->data + b->scanned, 0, b->n - b->scanned) : NULL;
	struct uerr *err;
	size_t len;

	*ret = NULL;
	if (!end) {
		b->scanned = b->n;
		if (b->n > PROTOCOL_MAX_MESSAGE)
			return uerr_new(UERR_USAGE, "a message is longer than %u bytes", PROTOCOL_MAX_MESSAGE);
		return NULL;
	}
	len = end - b->data;
	err = parse_message(b, len, ret);
	b->n -= len + 1;
	b->scanned = 0;
	memmove(b->data, end + 1, b->n);
	return err;
}

struct uerr *protocol_read(int fd, struct protocol_buf *b, cJSON **ret)
{
	for (;;) {
		struct uerr *err = protocol_take(b, ret);
		ssize_t k;

		if (err || *ret)
			return err;
		err = protocol_buf_room(b, READ_CHUNK);
		if (err)
			return err;
		k = read(fd, b->data + b->n, b->cap - b->n);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return uerr_errno(errno, "reading from the socket");
		if (k == 0 && b->n)
			return uerr_new(UERR_FAILED, "the connection ended in the middle of a message");
		if (k == 0)
			return NULL;
		b->n += k;
	}
}

cJSON *protocol_error_reply(const struct uerr *err)
{
	cJSON *reply = cJSON_CreateObject();
	cJSON *p, *near;

	cJSON_AddStringToObject(reply, "error", UPROBED_INTERFACE ".Failed");
	p = cJSON_AddObjectToObject(reply, "parameters");
	cJSON_AddStringToObject(p, "code", uerr_code_name(err->code));
	cJSON_AddNumberToObject(p, "exit", err->code);
	cJSON_AddStringToObject(p, "message", err->message);
	near = cJSON_AddArrayToObject(p, "near");
	for (size_t i = 0; i < err->nnear; i++)
		cJSON_AddItemToArray(near, cJSON_CreateString(err->near[i]));
	if (err->log)
		cJSON_AddStringToObject(p, "log", err->log);
	return reply;
}

static const char *string_of(const cJSON *obj, const char *name)
{
	return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(obj, name));
}

/* What org.varlink.service says, in words. */
static struct uerr *standard_error(const char *error, const cJSON *p)
{
	const char *what = string_of(p, "parameter");

	if (!what)
		what = string_of(p, "method");
	if (!what)
		what = string_of(p, "interface");
	if (!strcmp(error, "org.varlink.service.MethodNotFound"))
		return uerr_new(UERR_USAGE, "the daemon has no method '%s'", what ? what : "?");
	if (!strcmp(error, "org.varlink.service.InterfaceNotFound"))
		return uerr_new(UERR_USAGE, "the daemon has no interface '%s'", what ? what : "?");
	if (!strcmp(error, "org.varlink.service.InvalidParameter"))
		return uerr_new(UERR_USAGE, "the parameter '%s' is missing or of the wrong type", what ? what : "?");
	return uerr_new(UERR_FAILED, "the daemon answered %s", error);
}

struct uerr *protocol_error_from_reply(const cJSON *reply)
{
	const char *error = string_of(reply, "error");
	const cJSON *p = cJSON_GetObjectItemCaseSensitive(reply, "parameters");
	const cJSON *near;
	const char *code, *message;
	struct uerr *err;

	if (!error)
		return NULL;
	if (strcmp(error, UPROBED_INTERFACE ".Failed"))
		return standard_error(error, p);
	code = string_of(p, "code");
	message = string_of(p, "message");
	err = uerr_new(uerr_code_from_name(code ? code : ""), "%s", message ? message : "no reason given");
	cJSON_ArrayForEach(near, cJSON_GetObjectItemCaseSensitive(p, "near")) {
		if (cJSON_IsString(near))
			uerr_add_near(err, near->valuestring);
	}
	uerr_set_log(err, string_of(p, "log"));
	return err;
}

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *protocol_base64(const void *data, size_t n)
{
	const uint8_t *in = data;
	char *text = malloc((n + 2) / 3 * 4 + 1);
	char *out = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = in[i] << 16 | (i + 1 < n ? in[i + 1] << 8 : 0) | (i + 2 < n ? in[i + 2] : 0);

		*out++ = base64_digits[v >> 18];
		*out++ = base64_digits[v >> 12 & 63];
		*out++ = i + 1 < n ? base64_digits[v >> 6 & 63] : '=';
		*out++ = i + 2 < n ? base64_digits[v & 63] : '=';
	}
	*out = 0;
	return text;
}

static int base64_value(char c)
{
	const char *p = c ? strchr(base64_digits, c) : NULL;

	return p ? p - base64_digits : -1;
}

struct uerr *protocol_base64_decode(const char *text, void **ret, size_t *nret)
{
	size_t len = strlen(text), n, pad = 0;
	cleanup_free uint8_t *out = NULL;
	uint32_t v = 0;

	if (len % 4)
		return uerr_new(UERR_USAGE, "base64 text of %zu characters is cut short", len);
	while (pad < 2 && pad < len && text[len - 1 - pad] == '=')
		pad++;
	n = len / 4 * 3 - pad;
	out = malloc(n + 3);
	if (!out)
		return uerr_nomem();
	for (size_t i = 0; i < len; i++) {
		int d = i >= len - pad ? 0 : base64_value(text[i]);

		if (d < 0)
			return uerr_new(UERR_USAGE, "base64 text has a wrong character at %zu", i);
		v = v << 6 | d;
		if (i % 4 == 3) {
			out[i / 4 * 3] = v >> 16;
			out[i / 4 * 3 + 1] = v >> 8;
			out[i / 4 * 3 + 2] = v;
		}
	}
	*ret = steal_ptr(out);
	*nret = n;
	return NULL;
}

cJSON *protocol_u64(uint64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, v);
	return cJSON_CreateString(text);
}

cJSON *protocol_addr(uint64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%" PRIx64, v);
	return cJSON_CreateString(text);
}

bool protocol_get_u64(const cJSON *obj, const char *name, uint64_t *ret)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(obj, name);
	const char *s;
	char *end;
	uint64_t v;

	if (cJSON_IsNumber(item)) {
		if (!(item->valuedouble >= 0) || item->valuedouble > 9007199254740992.0 ||
		    item->valuedouble != (double)(uint64_t)item->valuedouble)
			return false;
		*ret = (uint64_t)item->valuedouble;
		return true;
	}
	s = cJSON_GetStringValue(item);
	if (!s || *s < '0' || *s > '9')
		return false;
	errno = 0;
	v = strtoull(s, &end, s[0] == '0' && (s[1] == 'x' || s[1] == 'X') ? 16 : 10);
	if (errno || *end)
		return false;
	*ret = v;
	return true;
}
