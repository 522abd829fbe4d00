/* SPDX-License-Identifier: MIT */
/*
 * StackNames: the stacks of a STACK_TRACE map with names. The worker reads the map and
 * the files; the answer is text.
 */
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/dispatch.h"
#include "daemon/find.h"
#include "daemon/job.h"
#include "daemon/names.h"
#include "daemon/spaces.h"
#include "daemon/view.h"

#define STACKS_MAX 100000u
#define NOBODY 65534
#define MEMORY_MAX (1ul << 30) /* of a worker, beyond what it has of the daemon */

struct names_job {
	u32 map;
	bool plain; /* symbols alone */
};

/* Whose stack it is: the process in which most of it is code. Where libraries lie
 * differs from process to process by more than chance. */
static struct space *space_of(const struct loaded *o, const u64 *ips, u32 n)
{
	static struct space nowhere = { .perf_fd = -1 };
	struct space *best = &nowhere;
	u32 most = 0;

	if (o->spaces.n == 1)
		return o->spaces.data[0];
	vec_foreach(sp, &o->spaces) {
		u32 found = 0;

		for (u32 i = 0; i < n; i++)
			found += space_find(*sp, ips[i]) != NULL;
		if (best == &nowhere || found > most) {
			best = *sp;
			most = found;
		}
	}
	return best;
}

static struct uerr *add_stack(struct namer *namer, const struct map *m, u32 id, const u64 *ips, cJSON *stacks)
{
	cJSON *o = cJSON_CreateObject(), *frames;
	u32 depth = m->umap.value_size / 8, n = 0;
	struct space *sp;

	while (n < depth && ips[n])
		n++;
	sp = space_of(m->owner, ips, n);
	cJSON_AddNumberToObject(o, "id", id);
	cJSON_AddNumberToObject(o, "pid", sp->pid);
	view_text(o, "comm", sp->comm);
	frames = cJSON_AddArrayToObject(o, "frames");
	cJSON_AddItemToArray(stacks, o);
	for (u32 i = 0; i < n; i++) {
		u32 no = namer_frame(namer, sp, ips[i], !i);

		if (no == UINT32_MAX)
			return uerr_nomem();
		cJSON_AddItemToArray(frames, cJSON_CreateNumber(no));
	}
	return NULL;
}

static struct uerr *add_stacks(struct job *job, struct namer *namer, const struct map *m, cJSON *stacks)
{
	struct umap_ctx cx = { .rec = &job->d->state->rec };
	cleanup_free u64 *ips = calloc(1, m->umap.value_size + 8);
	u32 key, n = 0;
	struct uerr *err = ips ? NULL : uerr_nomem();

	for (long r = umap_next_key(&m->umap, NULL, &key); !r && !err; r = umap_next_key(&m->umap, &key, &key)) {
		if (umap_read(&m->umap, &key, ips, &cx)) /* deleted meanwhile */
			continue;
		if (++n > STACKS_MAX)
			return uerr_new(UERR_FAILED, "map %s has more than %u stacks", m->name, STACKS_MAX);
		err = add_stack(namer, m, key, ips, stacks);
	}
	return err;
}

/* What a file says must not take the memory of the machine: libdw ends the process then,
 * and so do we, for cJSON would leave things out. */
static void *alloc_or_end(size_t n)
{
	void *p = malloc(n);

	if (!p)
		_exit(1);
	return p;
}

static void limit_memory(void)
{
	cJSON_Hooks hooks = { .malloc_fn = alloc_or_end, .free_fn = free };
	cleanup_fclose FILE *f = fopen("/proc/self/statm", "re");
	unsigned long pages;
	struct rlimit r;

	cJSON_InitHooks(&hooks);
	if (!f || fscanf(f, "%*u %*u %*u %*u %*u %lu", &pages) != 1 || getrlimit(RLIMIT_DATA, &r))
		return;
	if (r.rlim_max > pages * PAGE + MEMORY_MAX)
		r.rlim_max = pages * PAGE + MEMORY_MAX;
	r.rlim_cur = r.rlim_max;
	if (setrlimit(RLIMIT_DATA, &r))
		log_debug("names are looked for without a limit of memory");
}

/* libdw was not made for files of strangers. As far as the system lets us, nothing is
 * left that it could do with root's rights. */
static void drop_rights(void)
{
	if (geteuid())
		return;
	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY))
		log_debug("names are looked for with root's rights");
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* which the change of ids has undone */
}

static struct uerr *names_work(struct job *job, struct packer *result)
{
	const struct names_job *nj = job->arg;
	const struct map *m = state_map(job->d->state, nj->map);
	struct uerr *err = NULL;
	struct namer *namer;
	char *text = NULL;
	cJSON *doc;

	limit_memory();
	namer = namer_create(nj->plain);
	doc = cJSON_CreateObject();
	if (!m)
		err = uerr_new(UERR_FAILED, "the map has gone meanwhile");
	else if (!namer)
		err = uerr_nomem();
	/* what it has loaded since it was looked at last */
	for (size_t i = 0; !err && i < m->owner->spaces.n; i++)
		space_refresh(m->owner->spaces.data[i]);
	if (!err) {
		spaces_open(m->owner);
		drop_rights();
	}
	if (!err)
		err = add_stacks(job, namer, m, cJSON_AddArrayToObject(doc, "stacks"));
	if (!err) {
		cJSON_AddItemToObject(doc, "frames", namer_frames(namer));
		text = cJSON_PrintUnformatted(doc);
		if (!text)
			err = uerr_nomem();
	}
	if (!err)
		pack_str(result, text);
	free(text);
	namer_destroy(namer);
	cJSON_Delete(doc);
	if ((err == uerr_nomem() || result->failed) && !nj->plain) /* as where libdw has none: lines may be what took it */
		_exit(1);
	return err;
}

static struct uerr *names_start(struct request *req, u32 map, bool plain);

/* A file's DWARF can make libdw crash or take for ever: once more without it. */
static void names_again(struct job *job, struct uerr *why)
{
	const struct names_job *nj = job->arg;
	struct request *req = job->req;
	struct uerr *err;

	log_warning("%s; once more, without lines", why->message);
	uerr_free(why);
	req->job = NULL;
	job->req = NULL;
	err = names_start(req, nj->map, true);
	if (err)
		request_fail(req, err);
}

static void names_done(struct job *job, struct uerr *err, struct unpacker *result)
{
	const struct names_job *nj = job->arg;
	cleanup_free char *text = err ? NULL : unpack_str(result);

	if (!job->req) {
		uerr_free(err);
		return;
	}
	if (job->died && !nj->plain)
		names_again(job, err);
	else if (err || !text)
		request_fail(job->req, err ? err : uerr_new(UERR_FAILED, "too many names"));
	else
		request_reply(job->req, cJSON_CreateRaw(text));
}

static struct uerr *names_start(struct request *req, u32 map, bool plain)
{
	struct names_job *nj = calloc(1, sizeof(*nj));
	struct job *job = nj ? job_create(req->d, req, "naming stacks", names_work, names_done, nj, free) : NULL;

	if (!job) {
		free(nj);
		return uerr_nomem();
	}
	nj->map = map;
	nj->plain = plain;
	job_submit(job);
	return NULL;
}

void cmd_stack_names(struct request *req)
{
	struct map *m;
	struct uerr *err = find_map(req, param_str(req, "map"), &m);

	if (!err && m->umap.type != UMAP_STACK_TRACE)
		err = uerr_new(UERR_USAGE, "map %s (type %s) has no stacks", m->name, view_map_type(m->umap.type));
	if (!err)
		err = names_start(req, m->id, false);
	if (err)
		request_fail(req, err);
}
