/* SPDX-License-Identifier: MIT */
/*
 * The journal's file format: records {length, checksum, type, payload}. Reading
 * stops at the first record that is cut short or does not add up. A HEAD record
 * starts the life of one process; a file has one, unless it was reused.
 */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/write_all.h"

enum rec_type { J_HEAD = 1, J_RANGE, J_RANGE_GONE, J_RANGE_RETIRED, J_SITE, J_SITE_ACTIVE, J_SITE_GONE,
		J_SITE_REVERTED, J_SOCKETS, J_SEMA, J_SEMA_GONE };

struct rec {
	u32 len; /* of the payload */
	u32 sum;
	u32 type;
	u32 pad;
};

struct rec_head {
	s64 pid;
	u64 starttime;
	char boot_id[40];
};

struct rec_range {
	u32 kind;
	u32 retired;
	u64 addr, size, inode;
};

struct rec_site {
	u64 addr;
	u64 file_dev, file_ino, file_off;
	u32 link;
	u32 len;
	u8 bytes[128]; /* old[len], new[len]; the record ends there */
};

struct rec_sema {
	u64 addr;
	u64 file_dev, file_ino;
	u32 state;
	u32 before;
};

#define MAX_PAYLOAD sizeof(struct rec_site)
#define MAX_JOURNAL (256u << 20)
#define COMPACT_MIN (256u << 10)

void boot_id_read(char ret[40])
{
	cleanup_fclose FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");

	if (!f || fscanf(f, "%39s", ret) != 1)
		ret[0] = 0;
}

static u32 checksum(u32 type, const void *payload, size_t len)
{
	const u8 *p = payload;
	u32 h = 2166136261u ^ type; /* FNV-1a: finds torn writes, not forgery */

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 16777619u;
	return h;
}

/* ---------------------------------------------------------------- writing */

static bool buf_add(struct journal_writer *w, const void *p, size_t n)
{
	const u8 *bytes = p;

	if (w->buf.cap - w->buf.n < n) {
		size_t cap = (w->buf.cap + n) * 2;
		u8 *data = realloc(w->buf.data, cap);

		if (!data)
			return false;
		w->buf.data = data;
		w->buf.cap = cap;
	}
	memcpy(w->buf.data + w->buf.n, bytes, n);
	w->buf.n += n;
	return true;
}

static void append(struct journal_writer *w, enum rec_type type, const void *payload, size_t len)
{
	struct rec r = { .len = (u32)len, .type = type, .sum = checksum(type, payload, len) };

	if (w->fd < 0)
		return;
	if (!buf_add(w, &r, sizeof(r)) || !buf_add(w, payload, len))
		w->failed = true;
}

static void append_addr(struct journal_writer *w, enum rec_type type, addr_t addr)
{
	append(w, type, &addr, sizeof(addr));
}

void journal_range(struct journal_writer *w, const struct journal_range *r)
{
	struct rec_range p = { .kind = r->kind, .retired = r->retired, .addr = r->addr, .size = r->size,
			       .inode = r->inode };

	append(w, J_RANGE, &p, sizeof(p));
}

void journal_range_gone(struct journal_writer *w, addr_t addr)
{
	append_addr(w, J_RANGE_GONE, addr);
}

void journal_range_retired(struct journal_writer *w, addr_t addr)
{
	append_addr(w, J_RANGE_RETIRED, addr);
}

void journal_site(struct journal_writer *w, const struct journal_site *s)
{
	struct rec_site p = { .addr = s->addr, .file_dev = s->file_dev, .file_ino = s->file_ino,
			      .file_off = s->file_off, .link = s->link, .len = s->len };

	memcpy(p.bytes, s->old_bytes, s->len);
	memcpy(p.bytes + s->len, s->new_bytes, s->len);
	append(w, J_SITE, &p, offsetof(struct rec_site, bytes) + 2 * s->len);
}

void journal_site_active(struct journal_writer *w, addr_t addr)
{
	append_addr(w, J_SITE_ACTIVE, addr);
}

void journal_site_gone(struct journal_writer *w, addr_t addr)
{
	append_addr(w, J_SITE_GONE, addr);
}

void journal_site_reverted(struct journal_writer *w, addr_t addr)
{
	append_addr(w, J_SITE_REVERTED, addr);
}

void journal_sema(struct journal_writer *w, const struct journal_sema *s)
{
	struct rec_sema p = { .addr = s->addr, .file_dev = s->file_dev, .file_ino = s->file_ino, .state = s->state,
			      .before = s->before };

	append(w, J_SEMA, &p, sizeof(p));
}

void journal_sema_gone(struct journal_writer *w, addr_t addr)
{
	append_addr(w, J_SEMA_GONE, addr);
}

void journal_sockets(struct journal_writer *w, const u64 inodes[2])
{
	append(w, J_SOCKETS, inodes, 2 * sizeof(*inodes));
}

struct uerr *journal_flush(struct journal_writer *w)
{
	bool ok;

	if (w->fd < 0 || (!w->buf.n && !w->failed))
		return NULL;
	if (w->failed) {
		w->failed = false;
		w->buf.n = 0;
		return uerr_nomem();
	}
	ok = write_all(w->fd, w->buf.data, w->buf.n);
	w->buf.n = 0;
	return ok ? NULL : uerr_errno(errno, "cannot write the journal");
}

/* ---------------------------------------------------------------- reading */

/* A record about one address, in the order of the file. */
struct event {
	u64 addr;
	size_t seq;
	u32 type;
	u32 len;
	const u8 *payload;
};

struct parsed {
	VEC(struct event) ranges;
	VEC(struct event) sites;
	VEC(struct event) semas;
	struct rec_head head;
	bool has_head;
	u64 sockets[2];
	size_t valid; /* bytes that hold whole records */
};

static void parsed_deinit(struct parsed *p)
{
	vec_free(&p->ranges);
	vec_free(&p->sites);
	vec_free(&p->semas);
}

/* Sizes that a payload of TYPE can have. */
static bool payload_ok(u32 type, const u8 *p, u32 len)
{
	u32 n;

	switch ((enum rec_type)type) {
	case J_HEAD:
		return len == sizeof(struct rec_head);
	case J_RANGE:
		return len == sizeof(struct rec_range);
	case J_SITE:
		if (len < offsetof(struct rec_site, bytes))
			return false;
		memcpy(&n, p + offsetof(struct rec_site, len), sizeof(n));
		return n <= 64 && len == offsetof(struct rec_site, bytes) + 2 * n;
	case J_SEMA:
		if (len != sizeof(struct rec_sema))
			return false;
		memcpy(&n, p + offsetof(struct rec_sema, state), sizeof(n));
		return n >= SEMA_RAISING && n <= SEMA_LOWERING;
	case J_SEMA_GONE:
	case J_RANGE_GONE:
	case J_RANGE_RETIRED:
	case J_SITE_ACTIVE:
	case J_SITE_GONE:
	case J_SITE_REVERTED:
		return len == sizeof(u64);
	case J_SOCKETS:
		return len == 2 * sizeof(u64);
	}
	return false;
}

static bool parsed_add(struct parsed *out, const struct event *e)
{
	bool site = e->type == J_SITE || e->type == J_SITE_ACTIVE || e->type == J_SITE_GONE ||
		    e->type == J_SITE_REVERTED;

	if (e->type == J_HEAD) {
		memcpy(&out->head, e->payload, sizeof(out->head));
		out->head.boot_id[sizeof(out->head.boot_id) - 1] = 0;
		out->has_head = true;
		out->ranges.n = out->sites.n = out->semas.n = 0;
		out->sockets[0] = out->sockets[1] = 0;
		return true;
	}
	if (e->type == J_SOCKETS) {
		memcpy(out->sockets, e->payload, sizeof(out->sockets));
		return true;
	}
	if (e->type == J_SEMA || e->type == J_SEMA_GONE)
		return vec_push(&out->semas, *e);
	return site ? vec_push(&out->sites, *e) : vec_push(&out->ranges, *e);
}

static bool parse(const u8 *data, size_t len, struct parsed *out)
{
	*out = (struct parsed){};
	while (len - out->valid >= sizeof(struct rec)) {
		struct event e = { .seq = out->valid };
		struct rec r;

		memcpy(&r, data + out->valid, sizeof(r));
		e.payload = data + out->valid + sizeof(r);
		e.type = r.type;
		e.len = r.len;
		if (r.len > MAX_PAYLOAD || len - out->valid - sizeof(r) < r.len ||
		    r.sum != checksum(r.type, e.payload, r.len) || !payload_ok(r.type, e.payload, r.len))
			break;
		memcpy(&e.addr, e.payload + (r.type == J_RANGE ? offsetof(struct rec_range, addr) : 0),
		       sizeof(e.addr));
		if (!parsed_add(out, &e)) {
			parsed_deinit(out);
			return false;
		}
		out->valid += sizeof(r) + r.len;
	}
	return true;
}

static int by_addr(const void *a, const void *b)
{
	const struct event *x = a, *y = b;

	if (x->addr != y->addr)
		return x->addr < y->addr ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static void range_from(const struct event *e, struct journal_range *ret)
{
	struct rec_range p;

	memcpy(&p, e->payload, sizeof(p));
	*ret = (struct journal_range){ .kind = (enum range_kind)p.kind, .addr = p.addr, .size = p.size,
				       .inode = p.inode, .retired = p.retired };
}

static void site_from(const struct event *e, struct journal_site *ret)
{
	struct rec_site p = {};

	memcpy(&p, e->payload, e->len);
	*ret = (struct journal_site){ .addr = p.addr, .len = (u8)p.len, .file_dev = p.file_dev,
				      .file_ino = p.file_ino, .file_off = p.file_off, .link = p.link };
	memcpy(ret->old_bytes, p.bytes, p.len);
	memcpy(ret->new_bytes, p.bytes + p.len, p.len);
}

/* A jump that was led elsewhere: what undoing has to bring back is still what
 * stood there before the first. */
static void site_again(const struct event *e, bool there, struct journal_site *s)
{
	struct journal_site first = *s;

	site_from(e, s);
	memcpy(s->prev_bytes, s->old_bytes, s->len);
	if (there && first.len == s->len)
		memcpy(s->old_bytes, first.old_bytes, s->len);
}

struct site_state {
	struct journal_site s;
	bool there;
};

static void site_event(const struct event *e, struct site_state *now, struct site_state *before)
{
	if (e->type == J_SITE) {
		*before = *now;
		site_again(e, now->there, &now->s);
		now->there = true;
	} else if (e->type == J_SITE_ACTIVE) {
		now->s.active = true;
	} else if (e->type == J_SITE_REVERTED) {
		*now = *before;
	} else {
		now->there = false;
	}
}

static bool fold_ranges(struct parsed *p, struct journal *j)
{
	j->ranges = calloc(p->ranges.n + 1, sizeof(*j->ranges));
	if (!j->ranges)
		return false;
	if (p->ranges.n)
		qsort(p->ranges.data, p->ranges.n, sizeof(*p->ranges.data), by_addr);
	for (size_t i = 0; i < p->ranges.n;) {
		struct journal_range r = {};
		addr_t addr = p->ranges.data[i].addr;
		bool there = false;

		for (; i < p->ranges.n && p->ranges.data[i].addr == addr; i++) {
			const struct event *e = &p->ranges.data[i];

			if (e->type == J_RANGE)
				range_from(e, &r);
			if (e->type == J_RANGE_RETIRED)
				r.retired = true;
			there = e->type == J_RANGE || (there && e->type != J_RANGE_GONE);
		}
		if (there)
			j->ranges[j->nranges++] = r;
	}
	return true;
}

static bool fold_sites(struct parsed *p, struct journal *j)
{
	j->sites = calloc(p->sites.n + 1, sizeof(*j->sites));
	if (!j->sites)
		return false;
	if (p->sites.n)
		qsort(p->sites.data, p->sites.n, sizeof(*p->sites.data), by_addr);
	for (size_t i = 0; i < p->sites.n;) {
		struct site_state now = {}, before = {};
		addr_t addr = p->sites.data[i].addr;

		for (; i < p->sites.n && p->sites.data[i].addr == addr; i++)
			site_event(&p->sites.data[i], &now, &before);
		if (now.there)
			j->sites[j->nsites++] = now.s;
	}
	return true;
}

static void sema_from(const struct event *e, struct journal_sema *ret)
{
	struct rec_sema p;

	memcpy(&p, e->payload, sizeof(p));
	*ret = (struct journal_sema){ .addr = p.addr, .file_dev = p.file_dev, .file_ino = p.file_ino,
				      .state = (enum sema_state)p.state, .before = (u16)p.before };
}

/* The last record of each counts. */
static bool fold_semas(struct parsed *p, struct journal *j)
{
	j->semas = calloc(p->semas.n + 1, sizeof(*j->semas));
	if (!j->semas)
		return false;
	if (p->semas.n)
		qsort(p->semas.data, p->semas.n, sizeof(*p->semas.data), by_addr);
	for (size_t i = 0; i < p->semas.n; i++) {
		const struct event *e = &p->semas.data[i];
		bool last = i + 1 == p->semas.n || e[1].addr != e->addr;

		if (last && e->type == J_SEMA)
			sema_from(e, &j->semas[j->nsemas++]);
	}
	return true;
}

static struct uerr *slurp(int fd, u8 **data, size_t *len)
{
	cleanup_free u8 *buf = NULL;
	struct stat st;
	size_t n = 0;

	if (fstat(fd, &st))
		return uerr_errno(errno, "cannot read the journal");
	if (!S_ISREG(st.st_mode) || st.st_size > MAX_JOURNAL)
		return uerr_new(UERR_FAILED, "the journal is no file, or too large");
	buf = malloc(st.st_size + 1);
	if (!buf)
		return uerr_nomem();
	while (n < (size_t)st.st_size) {
		ssize_t got = pread(fd, buf + n, st.st_size - n, (off_t)n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return uerr_errno(errno, "cannot read the journal");
		if (!got)
			break;
		n += got;
	}
	*data = steal_ptr(buf);
	*len = n;
	return NULL;
}

static struct uerr *fold(struct parsed *p, struct journal *ret)
{
	struct journal j = { .pid = (pid_t)p->head.pid, .starttime = p->head.starttime,
			     .sockets = { p->sockets[0], p->sockets[1] } };

	memcpy(j.boot_id, p->head.boot_id, sizeof(j.boot_id));
	if (!fold_ranges(p, &j) || !fold_sites(p, &j) || !fold_semas(p, &j)) {
		journal_deinit(&j);
		return uerr_nomem();
	}
	*ret = j;
	return NULL;
}

struct uerr *journal_read(const char *path, struct journal *ret)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	cleanup_free u8 *data = NULL;
	struct parsed p;
	struct uerr *err;
	size_t len;

	if (fd < 0)
		return uerr_errno(errno, "%s", path);
	err = slurp(fd, &data, &len);
	if (err)
		return uerr_prefix(err, "%s", path);
	if (!parse(data, len, &p))
		return uerr_nomem();
	/* Cut short in its first record: nothing has happened yet. */
	if (p.has_head || len < sizeof(struct rec) + sizeof(struct rec_head))
		err = fold(&p, ret);
	else
		err = uerr_new(UERR_FAILED, "%s is no journal", path);
	parsed_deinit(&p);
	return err;
}

void journal_deinit(struct journal *j)
{
	free(j->ranges);
	free(j->sites);
	free(j->semas);
	j->ranges = NULL;
	j->sites = NULL;
	j->semas = NULL;
	j->nranges = j->nsites = j->nsemas = 0;
}

/* ---------------------------------------------------------------- opening */

static void append_head(struct journal_writer *w, pid_t pid, u64 starttime)
{
	struct rec_head head = { .pid = pid, .starttime = starttime };

	boot_id_read(head.boot_id);
	append(w, J_HEAD, &head, sizeof(head));
}

static void append_journal(struct journal_writer *w, const struct journal *j)
{
	append_head(w, j->pid, j->starttime);
	if (j->sockets[0])
		journal_sockets(w, j->sockets);
	for (size_t i = 0; i < j->nranges; i++)
		journal_range(w, &j->ranges[i]);
	for (size_t i = 0; i < j->nsites; i++) {
		const struct journal_site *s = &j->sites[i];
		struct journal_site first = *s, last = *s;

		/* A jump that is being led elsewhere is two records. */
		if (memcmp(s->prev_bytes, s->old_bytes, s->len)) {
			memcpy(first.new_bytes, s->prev_bytes, s->len);
			memcpy(last.old_bytes, s->prev_bytes, s->len);
			journal_site(w, &first);
		}
		journal_site(w, &last);
		if (j->sites[i].active)
			journal_site_active(w, j->sites[i].addr);
	}
	for (size_t i = 0; i < j->nsemas; i++)
		journal_sema(w, &j->semas[i]);
}

/* Writes what is left of a long history into a new file and puts it in the
 * old one's place. */
static struct uerr *compact(struct journal_writer *w, const char *path, const struct journal *j)
{
	cleanup_free char *tmp = NULL;
	struct journal_writer nw = { .fd = -1 };
	struct uerr *err;

	if (asprintf(&tmp, "%s.new", path) < 0)
		return uerr_nomem();
	nw.fd = open(tmp, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (nw.fd < 0)
		return uerr_errno(errno, "%s", tmp);
	append_journal(&nw, j);
	err = journal_flush(&nw);
	if (!err && rename(tmp, path))
		err = uerr_errno(errno, "%s", path);
	if (err) {
		unlink(tmp);
		journal_close(&nw);
		return err;
	}
	close(w->fd);
	w->fd = steal_fd(&nw.fd);
	journal_close(&nw);
	return NULL;
}

static struct uerr *reopen(struct journal_writer *w, const char *path, struct parsed *p, size_t len)
{
	struct journal j = {};
	struct uerr *err = NULL;

	if (p->valid < len && ftruncate(w->fd, (off_t)p->valid))
		return uerr_errno(errno, "%s", path);
	if (p->valid < COMPACT_MIN)
		return NULL;
	err = fold(p, &j);
	if (!err && (j.nranges * 64 + j.nsites * 200 + j.nsemas * 48) * 2 < p->valid)
		err = compact(w, path, &j);
	journal_deinit(&j);
	return err;
}

struct uerr *journal_open(struct journal_writer *w, const char *path, pid_t pid, u64 starttime)
{
	cleanup_free u8 *data = NULL;
	struct parsed p = {};
	struct uerr *err;
	char boot[40];
	size_t len;

	*w = (struct journal_writer){ .fd = -1 };
	if (!path)
		return NULL;
	w->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (w->fd < 0)
		return uerr_errno(errno, "%s", path);
	err = slurp(w->fd, &data, &len);
	if (err)
		return uerr_prefix(err, "%s", path);
	if (!parse(data, len, &p))
		return uerr_nomem();
	boot_id_read(boot);
	if (p.has_head && p.head.pid == pid && p.head.starttime == starttime && !strcmp(p.head.boot_id, boot)) {
		err = reopen(w, path, &p, len);
	} else {
		if (ftruncate(w->fd, 0))
			err = uerr_errno(errno, "%s", path);
		append_head(w, pid, starttime);
		if (!err)
			err = journal_flush(w);
	}
	parsed_deinit(&p);
	return err;
}

void journal_close(struct journal_writer *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	vec_free(&w->buf);
}
