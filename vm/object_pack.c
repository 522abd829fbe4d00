/* SPDX-License-Identifier: MIT */
/*
 * An object as bytes, and the worker that makes them.
 *
 * An object file is parsed by libelf and libbpf, which were not written for
 * hostile input. So the daemon has it parsed in a forked child with bounded
 * memory, time and rights, whose only way out is a pipe. The child writes the
 * packed object or the packed error; the parent believes nothing of it: every
 * length is bounded by what arrived, every count by a limit.
 *
 * Format, native byte order (both ends are this process's code):
 *
 *	u32 magic, u32 is_error
 *	error:   u32 code, u32 errno, string message, string log, u32 n, string near[n]
 *	object:  string name, license; blob btf
 *	         u32 n, maps: string name, u32 × 7, u32 flags, blob initial
 *	         u32 n, progs: string name, section, file; blob insns, lines, texts, subprogs
 *	string, blob: u32 size, bytes
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/write_all.h"
#include "vm/btf_index.h"
#include "vm/object_internal.h"
#include "vm/opcodes.h"

#define PACK_MAGIC 0x6a626f75u
#define PACK_MAX (256u << 20)
#define MAX_MAPS 1024u
#define MAX_PROGS 4096u
#define MAX_NEAR 64u
#define NO_TEXT UINT32_MAX

/* --- writing --- */

struct writer {
	u8 *data;
	size_t n, cap;
	bool failed; /* the first failure stays; all that follows does nothing */
};

static void put(struct writer *w, const void *data, size_t size)
{
	if (w->failed || size > PACK_MAX - w->n) {
		w->failed = true;
		return;
	}
	if (w->cap - w->n < size) {
		size_t cap = (w->n + size) * 2;
		u8 *p = realloc(w->data, cap);

		if (!p) {
			w->failed = true;
			return;
		}
		w->data = p;
		w->cap = cap;
	}
	if (size)
		memcpy(w->data + w->n, data, size);
	w->n += size;
}

static void put_u32(struct writer *w, u32 v)
{
	put(w, &v, sizeof(v));
}

static void put_blob(struct writer *w, const void *data, size_t size)
{
	put_u32(w, size);
	put(w, data, size);
}

static void put_string(struct writer *w, const char *s)
{
	put_blob(w, s ? s : "", s ? strlen(s) : 0);
}

static void put_error(struct writer *w, const struct uerr *err)
{
	put_u32(w, err->code);
	put_u32(w, err->errnum);
	put_string(w, err->message);
	put_string(w, err->log);
	put_u32(w, err->nnear < MAX_NEAR ? err->nnear : MAX_NEAR);
	for (size_t i = 0; i < err->nnear && i < MAX_NEAR; i++)
		put_string(w, err->near[i]);
}

static void put_map(struct writer *w, const struct object_map *m)
{
	const u32 numbers[] = { m->type, m->key_size, m->value_size, m->max_entries, m->map_flags,
				m->btf_key_type_id, m->btf_value_type_id, m->global_data | m->readonly << 1, m->lock };

	put_string(w, m->name);
	put(w, numbers, sizeof(numbers));
	put_blob(w, m->initial, m->initial ? object_map_initial_size(m) : 0);
}

static void put_texts(struct writer *w, const struct object *obj, const struct vm_prog *p)
{
	put_u32(w, p->texts ? p->ninsns * sizeof(u32) : 0);
	for (u32 i = 0; p->texts && i < p->ninsns; i++)
		put_u32(w, p->texts[i] ? p->texts[i] - obj->types->strs : NO_TEXT);
}

static void put_prog(struct writer *w, const struct object *obj, const struct vm_prog *p)
{
	put_string(w, p->name);
	put_string(w, p->section);
	put_string(w, p->file);
	put_blob(w, p->insns, p->ninsns * sizeof(*p->insns));
	put_blob(w, p->lines, p->lines ? p->ninsns * sizeof(*p->lines) : 0);
	put_texts(w, obj, p);
	put_blob(w, p->subprogs, p->nsubprogs * sizeof(*p->subprogs));
}

u8 *object_pack(const struct object *obj, const struct uerr *err, size_t *ret_size)
{
	struct writer w = { 0 };

	put_u32(&w, PACK_MAGIC);
	put_u32(&w, !obj);
	if (!obj) {
		put_error(&w, err);
	} else {
		put_string(&w, obj->name);
		put_string(&w, obj->license);
		put_blob(&w, obj->btf, obj->btf_size);
		put_u32(&w, obj->nmaps);
		for (size_t i = 0; i < obj->nmaps; i++)
			put_map(&w, &obj->maps[i]);
		put_u32(&w, obj->nprogs);
		for (size_t i = 0; i < obj->nprogs; i++)
			put_prog(&w, obj, &obj->progs[i]);
	}
	if (w.failed) {
		free(w.data);
		return NULL;
	}
	*ret_size = w.n;
	return w.data;
}

/* --- reading --- */

struct reader {
	const u8 *at, *end;
	bool failed;
};

/* The next SIZE bytes, or NULL when there are not as many. */
static const void *get(struct reader *r, size_t size)
{
	const u8 *at = r->at;

	if (r->failed || size > r->end - r->at) {
		r->failed = true;
		return NULL;
	}
	r->at += size;
	return at;
}

static u32 get_u32(struct reader *r)
{
	const void *p = get(r, sizeof(u32));
	u32 v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return v;
}

static u32 get_count(struct reader *r, u32 max)
{
	u32 n = get_u32(r);

	if (n > max)
		r->failed = true;
	return r->failed ? 0 : n;
}

static const void *get_blob(struct reader *r, u32 *ret_size)
{
	*ret_size = get_u32(r);
	return get(r, *ret_size);
}

/* A copy, malloc'd; NULL when the bytes are wrong (or there is no memory). */
static void *get_blob_dup(struct reader *r, u32 *ret_size)
{
	const void *data = get_blob(r, ret_size);
	void *copy;

	if (!data)
		return NULL;
	copy = calloc(1, (size_t)*ret_size + 1);
	if (!copy) {
		r->failed = true;
		return NULL;
	}
	memcpy(copy, data, *ret_size);
	return copy;
}

static char *get_string_dup(struct reader *r)
{
	u32 size;

	return get_blob_dup(r, &size);
}

static void get_name(struct reader *r, char *ret, size_t size)
{
	u32 n;
	const void *data = get_blob(r, &n);

	if (!data || n >= size) {
		r->failed = true;
		return;
	}
	memcpy(ret, data, n);
	ret[n] = 0;
	object_clean_name(ret);
}

static struct uerr *get_error(struct reader *r)
{
	u32 code = get_u32(r), errnum = get_u32(r), n;
	cleanup_free char *message = get_string_dup(r);
	cleanup_free char *log = get_string_dup(r);
	struct uerr *err;

	if (r->failed || code < UERR_FAILED || code > UERR_CANNOT_PROBE)
		return uerr_new(UERR_FAILED, "the loader's answer is damaged");
	err = uerr_new(code, "%s", message);
	err->errnum = errnum;
	if (*log)
		uerr_set_log(err, log);
	n = get_count(r, MAX_NEAR);
	for (u32 i = 0; i < n; i++) {
		cleanup_free char *near = get_string_dup(r);

		if (near)
			uerr_add_near(err, near);
	}
	return err;
}

static void get_map(struct reader *r, struct object_map *m)
{
	u32 numbers[9] = { 0 }, size;
	const void *p;

	get_name(r, m->name, sizeof(m->name));
	p = get(r, sizeof(numbers));
	if (p)
		memcpy(numbers, p, sizeof(numbers));
	m->type = numbers[0];
	m->key_size = numbers[1];
	m->value_size = numbers[2];
	m->max_entries = numbers[3];
	m->map_flags = numbers[4];
	m->btf_key_type_id = numbers[5];
	m->btf_value_type_id = numbers[6];
	m->global_data = numbers[7] & 1;
	m->readonly = numbers[7] & 2;
	m->lock = numbers[8];
	m->initial = get_blob_dup(r, &size);
	if (size && size != object_map_initial_size(m))
		r->failed = true;
	if (!size) {
		free(m->initial);
		m->initial = NULL;
	}
}

/* Takes a per-instruction table of u32, or none. */
static u32 *get_table(struct reader *r, u32 ninsns)
{
	u32 size;
	u32 *table = get_blob_dup(r, &size);

	if (size && size != ninsns * sizeof(u32))
		r->failed = true;
	if (r->failed || !size) {
		free(table);
		return NULL;
	}
	return table;
}

static void get_texts(struct reader *r, const struct object *obj, struct vm_prog *p)
{
	cleanup_free u32 *offs = get_table(r, p->ninsns);

	if (!offs)
		return;
	if (!obj->types) {
		r->failed = true;
		return;
	}
	p->texts = calloc(p->ninsns, sizeof(*p->texts));
	if (!p->texts) {
		r->failed = true;
		return;
	}
	for (u32 i = 0; i < p->ninsns; i++)
		if (offs[i] != NO_TEXT)
			p->texts[i] = btf_index_str(obj->types, offs[i]);
}

static void get_subprogs(struct reader *r, const struct object *obj, struct vm_prog *p)
{
	u32 size = 0;

	p->btf = obj->types;
	p->subprogs = get_blob_dup(r, &size);
	if (size % sizeof(*p->subprogs))
		r->failed = true;
	p->nsubprogs = r->failed ? 0 : size / sizeof(*p->subprogs);
	for (u32 i = 0; i < p->nsubprogs; i++) {
		struct vm_subprog *s = &p->subprogs[i];

		if (s->start >= p->ninsns || *(const u8 *)&s->global > 1 || !memchr(s->name, 0, sizeof(s->name))) {
			p->nsubprogs = 0;
			r->failed = true;
			return;
		}
		object_clean_name(s->name);
	}
	if (!p->nsubprogs) {
		free(p->subprogs);
		p->subprogs = NULL;
	}
}

static void get_prog(struct reader *r, const struct object *obj, struct vm_prog *p)
{
	char *file;
	u32 size;

	get_name(r, p->name, sizeof(p->name));
	get_name(r, p->section, sizeof(p->section));
	file = get_string_dup(r);
	p->file = file;
	if (file && !*file) {
		free(file);
		p->file = NULL;
	}
	p->insns = get_blob_dup(r, &size);
	if (!size || size % sizeof(*p->insns) || size / sizeof(*p->insns) > INSN_MAX)
		r->failed = true;
	if (r->failed)
		return;
	p->ninsns = size / sizeof(*p->insns);
	p->lines = get_table(r, p->ninsns);
	get_texts(r, obj, p);
	get_subprogs(r, obj, p);
}

static void get_maps(struct reader *r, struct object *obj)
{
	u32 n = get_count(r, MAX_MAPS);

	obj->maps = calloc(n + 1, sizeof(*obj->maps));
	if (!obj->maps)
		r->failed = true;
	while (!r->failed && obj->nmaps < n)
		get_map(r, &obj->maps[obj->nmaps++]);
}

static void get_progs(struct reader *r, struct object *obj)
{
	u32 n = get_count(r, MAX_PROGS);

	obj->progs = calloc(n + 1, sizeof(*obj->progs));
	if (!obj->progs)
		r->failed = true;
	while (!r->failed && obj->nprogs < n)
		get_prog(r, obj, &obj->progs[obj->nprogs++]);
}

struct uerr *object_unpack(const void *bytes, size_t size, struct object **ret)
{
	struct reader r = { bytes, (const u8 *)bytes + size, false };
	struct object *obj;
	const void *btf;
	u32 btf_size;

	if (get_u32(&r) != PACK_MAGIC)
		return uerr_new(UERR_FAILED, "the loader's answer is damaged");
	if (get_u32(&r))
		return get_error(&r);
	obj = calloc(1, sizeof(*obj));
	if (!obj)
		return uerr_nomem();
	get_name(&r, obj->name, sizeof(obj->name));
	get_name(&r, obj->license, sizeof(obj->license));
	btf = get_blob(&r, &btf_size);
	if (btf && btf_size && !object_set_btf(obj, btf, btf_size))
		r.failed = true;
	get_maps(&r, obj);
	get_progs(&r, obj);
	if (r.failed || r.at != r.end) {
		object_free(obj);
		return uerr_new(UERR_FAILED, "the loader's answer is damaged");
	}
	*ret = obj;
	return NULL;
}

/* --- the worker --- */

#define WORKER_SECONDS 10
#define WORKER_MEMORY (1ul << 30)
#define NOBODY 65534

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

static void limit(int resource, rlim_t value)
{
	struct rlimit l = { value, value };

	setrlimit(resource, &l);
}

/* Gives up what the worker does not need. None of it is needed for the result
 * to be right, so a refusal (a sandbox, another user) is no error. */
static void worker_confine(int pipe_fd)
{
	int null;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pipe_fd != 3) {
		dup2(pipe_fd, 3);
		pipe_fd = 3;
	}
	syscall(SYS_close_range, 4, ~0u, 0);
	null = open("/dev/null", O_RDWR);
	for (int fd = 0; fd < 3; fd++)
		if (null >= 0)
			dup2(null, fd);
	if (null > 3)
		close(null);
	limit(RLIMIT_CPU, WORKER_SECONDS);
	limit(RLIMIT_CORE, 0);
#ifndef SANITIZED /* whose shadow needs terabytes */
	limit(RLIMIT_AS, WORKER_MEMORY);
#endif
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (!geteuid()) {
		/* raw: the wrappers would signal threads that this child has not */
		syscall(SYS_setgroups, 0, NULL);
		syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY);
		syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY);
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* changing ids has cleared it */
	}
	prctl(PR_SET_DUMPABLE, 0);
}

static _Noreturn void worker(int pipe_fd, const void *bytes, size_t size, const struct object_opts *opts)
{
	struct object *obj = NULL;
	struct uerr *err;
	size_t packed_size = 0;
	u8 *packed;

	worker_confine(pipe_fd);
	object_forked();
	err = object_open(bytes, size, opts, &obj);
	packed = object_pack(obj, err, &packed_size);
	_exit(packed && write_all(3, packed, packed_size) ? 0 : 1);
}

static s64 now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

/* Reads to the end or the deadline. False: time is up, or too much came. */
static bool read_until(int fd, struct writer *w, s64 deadline)
{
	u8 buf[65536];

	while (!w->failed) {
		struct pollfd p = { fd, POLLIN, 0 };
		s64 left = deadline - now_ms();
		ssize_t n;

		if (left <= 0)
			return false;
		if (poll(&p, 1, left) <= 0)
			continue;
		n = read(fd, buf, sizeof(buf));
		if (n < 0 && errno != EINTR)
			return false;
		if (!n)
			return true;
		if (n > 0)
			put(w, buf, n);
	}
	return false;
}

static struct uerr *worker_failed(const char *name, int status, bool in_time)
{
	if (!in_time)
		return uerr_new(UERR_FAILED, "%s: reading it took more than %d s or too much memory: not a sane BPF object",
				name, WORKER_SECONDS);
	if (WIFSIGNALED(status))
		return uerr_new(UERR_FAILED, "%s: reading it ended in a crash (%s): not a sane BPF object", name,
				strsignal(WTERMSIG(status)));
	return uerr_new(UERR_FAILED, "%s: reading it failed for want of memory", name);
}

struct uerr *object_open_isolated(const void *bytes, size_t size, const struct object_opts *opts,
				  struct object **ret)
{
	cleanup_close int from = -1, to = -1;
	struct writer w = { 0 };
	int fds[2], status = 0;
	struct uerr *err;
	bool in_time;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return uerr_errno(errno, "%s", opts->name);
	from = fds[0];
	to = fds[1];
	pid = fork();
	if (pid < 0)
		return uerr_errno(errno, "%s: a worker to read it", opts->name);
	if (!pid)
		worker(to, bytes, size, opts);
	close(steal_fd(&to));
	in_time = read_until(from, &w, now_ms() + WORKER_SECONDS * 1000);
	if (!in_time)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!in_time || !WIFEXITED(status) || WEXITSTATUS(status))
		err = worker_failed(opts->name, status, in_time);
	else
		err = object_unpack(w.data, w.n, ret);
	free(w.data);
	return err;
}
