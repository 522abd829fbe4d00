/* SPDX-License-Identifier: MIT */
/* Plain bytes between a worker and the daemon; see pack.h. */
#include "daemon/pack.h"

#include <stdlib.h>
#include <string.h>

#define STR_MAX (64u << 20)
#define NEAR_MAX 64u

void packer_deinit(struct packer *p)
{
	free(p->data);
	*p = (struct packer){};
}

void pack_bytes(struct packer *p, const void *bytes, size_t n)
{
	if (p->failed || !n)
		return;
	if (p->n + n > p->cap) {
		size_t cap = (p->n + n) * 2;
		u8 *data = realloc(p->data, cap);

		if (!data) {
			p->failed = true;
			return;
		}
		p->data = data;
		p->cap = cap;
	}
	memcpy(p->data + p->n, bytes, n);
	p->n += n;
}

void pack_u8(struct packer *p, u8 v)
{
	pack_bytes(p, &v, sizeof(v));
}

void pack_u32(struct packer *p, u32 v)
{
	pack_bytes(p, &v, sizeof(v));
}

void pack_u64(struct packer *p, u64 v)
{
	pack_bytes(p, &v, sizeof(v));
}

void pack_str(struct packer *p, const char *s)
{
	u32 n = s ? strlen(s) : 0;

	pack_u32(p, s ? n : UINT32_MAX);
	pack_bytes(p, s, n);
}

void pack_err(struct packer *p, const struct uerr *err)
{
	pack_u32(p, err->code);
	pack_u32(p, err->errnum);
	pack_str(p, err->message);
	pack_u32(p, err->nnear);
	for (size_t i = 0; i < err->nnear; i++)
		pack_str(p, err->near[i]);
	pack_str(p, err->log);
}

void unpack_bytes(struct unpacker *u, void *ret, size_t n)
{
	if (u->failed || (size_t)(u->end - u->p) < n) {
		u->failed = true;
		memset(ret, 0, n);
		return;
	}
	if (n)
		memcpy(ret, u->p, n);
	u->p += n;
}

u8 unpack_u8(struct unpacker *u)
{
	u8 v;

	unpack_bytes(u, &v, sizeof(v));
	return v;
}

u32 unpack_u32(struct unpacker *u)
{
	u32 v;

	unpack_bytes(u, &v, sizeof(v));
	return v;
}

u64 unpack_u64(struct unpacker *u)
{
	u64 v;

	unpack_bytes(u, &v, sizeof(v));
	return v;
}

char *unpack_str(struct unpacker *u)
{
	u32 n = unpack_u32(u);
	char *s;

	if (u->failed || n == UINT32_MAX)
		return NULL;
	if (n > STR_MAX || n > (size_t)(u->end - u->p)) {
		u->failed = true;
		return NULL;
	}
	s = strndup((const char *)u->p, n);
	u->p += n;
	if (!s)
		u->failed = true;
	return s;
}

size_t unpack_count(struct unpacker *u, size_t size)
{
	u32 n = unpack_u32(u);

	if (u->failed || n > (size_t)(u->end - u->p) / size) {
		u->failed = true;
		return 0;
	}
	return n;
}

struct uerr *unpack_err(struct unpacker *u)
{
	u32 code = unpack_u32(u);
	u32 errnum = unpack_u32(u);
	char *message = unpack_str(u);
	struct uerr *err = uerr_new(code >= UERR_FAILED && code <= UERR_CANNOT_PROBE ? code : UERR_FAILED, "%s",
				    message ? message : "the worker gave no reason");
	u32 nnear = unpack_u32(u);
	char *log;

	free(message);
	if (err != uerr_nomem())
		err->errnum = errnum;
	for (u32 i = 0; i < nnear && i < NEAR_MAX && !u->failed; i++) {
		char *name = unpack_str(u);

		if (name)
			uerr_add_near(err, name);
		free(name);
	}
	log = unpack_str(u);
	if (log)
		uerr_set_log(err, log);
	free(log);
	return err;
}
