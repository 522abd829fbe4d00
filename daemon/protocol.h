/* SPDX-License-Identifier: MIT */
/*
 * The wire between bpfctl and uprobed: Varlink, one JSON object a message,
 * NUL-terminated. Shared by daemon and cli, and all that cli may include of
 * the daemon. The interface is daemon/io.uprobed.varlink.
 */
#pragma once
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/uerr.h"

#define UPROBED_INTERFACE "io.uprobed"
#define UPROBED_SYSTEM_SOCKET "/run/uprobed/socket"
#define PROTOCOL_MAX_MESSAGE (64u << 20) /* bytes; longer ones close the connection */

/* The interface description's text (for GetInterfaceDescription). */
extern const char protocol_interface[];

/* Where a client looks for the daemon: SOCKET if given, else $UPROBED_SOCKET,
 * else the system's (if root, or if it is there and may be opened), else
 * $XDG_RUNTIME_DIR/uprobed/socket, else /tmp/uprobed-UID/socket. malloc'd. */
char *protocol_socket_path(const char *given);

/* Writes OBJ and a NUL to the blocking descriptor FD. */
struct uerr *protocol_write(int fd, const cJSON *obj) UERR_MUST_CHECK;

/* Bytes received and not yet taken as messages. Starts as zeros. */
struct protocol_buf {
	char *data;
	size_t n, cap;
	size_t scanned;   /* of these no one is the NUL */
	size_t max_items; /* values in a message, 0: any number */
};
void protocol_buf_deinit(struct protocol_buf *b);

/* Makes room for WANT more bytes at data + n. */
struct uerr *protocol_buf_room(struct protocol_buf *b, size_t want) UERR_MUST_CHECK;

/* Reads one message from blocking FD; *ret is NULL at the end of the stream. */
struct uerr *protocol_read(int fd, struct protocol_buf *b, cJSON **ret) UERR_MUST_CHECK;

/* Takes a complete message out of B, *ret NULL when there is none yet. The
 * error is for what is no JSON object. */
struct uerr *protocol_take(struct protocol_buf *b, cJSON **ret) UERR_MUST_CHECK;

/* Error object ↔ Varlink reply {"error":"io.uprobed.Failed","parameters":{…}}.
 * from_reply gives NULL when the reply is no error. */
cJSON *protocol_error_reply(const struct uerr *err);
struct uerr *protocol_error_from_reply(const cJSON *reply) UERR_MUST_CHECK;

/* base64, RFC 4648; malloc'd. */
char *protocol_base64(const void *data, size_t n);
struct uerr *protocol_base64_decode(const char *text, void **ret, size_t *nret) UERR_MUST_CHECK;

/* Exact 64-bit integers as JSON strings ("123", hex for addresses). */
cJSON *protocol_u64(uint64_t v);
cJSON *protocol_addr(uint64_t v);
bool protocol_get_u64(const cJSON *obj, const char *name, uint64_t *ret); /* string or number */
