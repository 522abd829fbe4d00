/* SPDX-License-Identifier: MIT */
/* Symbols, FindTargets and Hold: about processes, without changing them. */
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/attach_job.h"
#include "daemon/dispatch.h"
#include "daemon/select.h"
#include "daemon/stubs.h"
#include "daemon/traps.h"
#include "injector/inject.h"

/*
 * FindTargets.
 */

void cmd_find_targets(struct request *req)
{
	pid_vec pids = {};
	struct uerr *err = select_targets(req, param_item(req, "target"), NULL, 0, &pids);
	cJSON *r, *array;

	if (err) {
		vec_free(&pids);
		request_fail(req, err);
		return;
	}
	r = cJSON_CreateObject();
	array = cJSON_AddArrayToObject(r, "processes");
	vec_foreach(pid, &pids) {
		struct procinfo pi;
		struct uerr *gone = procinfo_read(*pid, &pi);
		cJSON *p;

		if (gone) {
			uerr_free(gone);
			continue;
		}
		p = cJSON_CreateObject();
		cJSON_AddNumberToObject(p, "pid", *pid);
		cJSON_AddStringToObject(p, "comm", pi.comm);
		cJSON_AddItemToArray(array, p);
	}
	vec_free(&pids);
	request_reply(req, r);
}

/*
 * Symbols: the worker resolves and plans, and sends the rows as JSON text.
 */

struct symbols_job {
	pid_vec pids;
	VEC(char *) specs, nots;
	bool trap;
	char *file; /* no process: the file at this path, opened with the peer's rights */
	struct peer peer;
};

static void free_symbols_job(void *arg)
{
	struct symbols_job *sj = arg;

	vec_foreach(s, &sj->specs)
		free(*s);
	vec_foreach(s, &sj->nots)
		free(*s);
	vec_free(&sj->specs);
	vec_free(&sj->nots);
	vec_free(&sj->pids);
	free(sj->file);
	free(sj);
}

static struct window *entry_window(const struct func_plan *plan, addr_t at)
{
	for (size_t i = 0; i < plan->nwindows; i++)
		if (plan->windows[i].addr == at)
			return &plan->windows[i];
	return NULL;
}

/* In a process, a punned jump needs an address for its stub. */
static bool has_stub(const struct target *t, struct pun_space *space, const struct resolved *r,
		     const struct func_plan *plan)
{
	struct stub_want want = { .win = entry_window(plan, r->link_addr), .bias = r->mod->bias };

	return plan->entry != SITE_PUN || !want.win || !stubs_choose(t, space, &want, 1) || want.stub;
}

/* Where a return is to be taken over: why that is needed, or why it cannot be. */
static struct uerr *view_takeover(const struct daemon *d, struct guards *g, const struct modules *mods,
				  const struct resolved *r, bool trap, struct func_plan *plan)
{
	const char *why;
	bool trapped = false;
	char text[400];
	struct uerr *err;

	if (!tactic_takes_over(plan->exit) || !mods->pid)
		return NULL;
	err = guards_find(g, mods, d->cfg.cache_dir);
	if (err)
		return err;
	why = guards_takeover_refusal(g, r->mod, plan, text, sizeof(text));
	if (!why)
		return NULL;
	if (trap)
		err = place_trap_returns(r, d->cfg.cache_dir, PLAN_SIDES, plan, &trapped);
	if (err || trapped)
		return err;
	plan->exit_reason = strdup(why);
	return plan->exit_reason ? NULL : uerr_nomem();
}

/* Does a jump of ours stand in [addr, addr + len)? */
static bool is_patched(const struct target *t, addr_t addr, unsigned len)
{
	for (size_t i = 0; t && i < t->windows.n; i++) {
		const struct patched *w = &t->windows.data[i];
		addr_t at = t->modules.data[w->module].bias + w->win.addr;

		if (at < addr + len && addr < at + w->win.len)
			return true;
	}
	return false;
}

/* What an attach would find: bytes that are not the file's. */
static bool is_changed(pid_t pid, const struct target *t, const struct resolved *r, const struct func_plan *plan)
{
	const struct window *w = entry_window(plan, r->link_addr);
	u8 have[WINDOW_MAX];
	struct iovec local = { have, w ? w->len + w->keep : 0 };
	struct iovec remote = { (void *)(r->mod->bias + r->link_addr), local.iov_len };

	if (!w || process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)local.iov_len ||
	    !memcmp(have, w->bytes, local.iov_len))
		return false;
	return !is_patched(t, r->mod->bias + r->link_addr, w->len + w->keep);
}

/* What is known of a process that rows are about. */
struct here {
	const struct daemon *d;
	const struct symbols_job *sj;
	const struct modules *mods;
	const struct target *t;
	struct pun_space space;
	struct guards guards, traps;
};

static void here_deinit(struct here *h)
{
	pun_space_deinit(&h->space);
	guards_deinit(&h->guards);
	guards_deinit(&h->traps);
}

/* Where no stub can be: a breakpoint, if that is asked for and possible. */
static struct uerr *trap_for_stub(struct here *h, const struct resolved *r, struct func_plan *plan, bool *ret)
{
	struct window *w = entry_window(plan, r->link_addr), copy = w ? *w : (struct window){};
	struct func_plan same = *plan;
	struct uerr *err = place_trap_instead(r->mod, h->d->cfg.cache_dir, &same, &copy, &plan->entry_may_trap);

	*ret = !err && plan->entry_may_trap && h->sj->trap;
	if (*ret) {
		*w = copy;
		plan->entry = SITE_TRAP;
	}
	return err;
}

static struct uerr *refuse_entry(struct func_plan *plan, const char *fmt, const char *arg)
{
	plan->entry = SITE_NONE;
	return asprintf(&plan->entry_reason, fmt, arg) < 0 ? uerr_nomem() : NULL;
}

/* Why what the file allows cannot be done in this process, into PLAN. */
static struct uerr *refusal_here(struct here *h, const struct resolved *r, struct func_plan *plan)
{
	struct uerr *err = NULL;
	bool trap = false;

	if (is_changed(h->mods->pid, h->t, r, plan))
		return refuse_entry(plan, "%s", "its bytes are not those of the file: a breakpoint, a kernel uprobe, or "
						"somebody else's change");
	if (!has_stub(h->t, &h->space, r, plan)) {
		err = trap_for_stub(h, r, plan, &trap);
		if (!err && !trap)
			return refuse_entry(plan, "%s", stubs_refusal);
	}
	if (!err && (plan->entry == SITE_TRAP || plan->exit == SITE_TRAP))
		err = traps_find(&h->traps, h->mods, h->d->cfg.cache_dir);
	if (err || !h->traps.refusal[0])
		return err;
	if (plan->entry == SITE_TRAP)
		err = refuse_entry(plan, "only a breakpoint would do, and there can be none: %s", h->traps.refusal);
	if (plan->exit == SITE_TRAP) {
		plan->exit = SITE_NONE;
		plan->exit_reason = strdup(h->traps.refusal);
	}
	return err;
}

/* Into ARRAY, and into TEXT: "s32 %eax, u64 8(%rbp)". */
static void add_usdt_arg(const struct usdt_arg *a, cJSON *array, FILE *text)
{
	cJSON *o = cJSON_CreateObject();
	char word[128];

	fprintf(text, "%s%c%u %.*s", cJSON_GetArraySize(array) ? ", " : "", a->is_signed ? 's' : 'u', a->size * 8u,
		(int)a->len, a->text);
	snprintf(word, sizeof(word), "%c%u", a->is_signed ? 's' : 'u', a->size * 8u);
	cJSON_AddStringToObject(o, "type", word);
	snprintf(word, sizeof(word), "%.*s", (int)a->len, a->text);
	cJSON_AddStringToObject(o, "operand", word);
	cJSON_AddItemToArray(array, o);
}

/* Arguments, where, semaphore; in words too: "(s32 %eax) in main+0x12, has a semaphore". */
static void add_usdt(const struct resolved *r, cJSON *o)
{
	struct usdt_args args = {};
	cleanup_uerr struct uerr *err = usdt_args_parse(r->usdt->args, &args);
	cJSON *array = cJSON_AddArrayToObject(o, "args");
	cleanup_free char *note = NULL;
	size_t size;
	FILE *text = open_memstream(&note, &size);

	if (!text)
		return;
	fputc('(', text);
	for (u32 i = 0; !err && i < args.n; i++)
		add_usdt_arg(&args.arg[i], array, text);
	fprintf(text, "%s) %s%s", err ? r->usdt->args : "", r->note, r->usdt->sema ? ", has a semaphore" : "");
	if (err)
		fprintf(text, "; programs cannot read its arguments: %s", err->message);
	fclose(text);
	cJSON_AddStringToObject(o, "args_reason", err ? err->message : "");
	if (r->usdt->sema)
		cJSON_AddItemToObject(o, "semaphore", protocol_addr(r->usdt->sema + r->mod->bias));
	cJSON_ReplaceItemInObjectCaseSensitive(o, "note", cJSON_CreateString(note));
}

/* The reason REASON, and whether a breakpoint would do. */
static void add_reason(cJSON *o, const char *key, const char *reason, bool may_trap)
{
	char text[400];

	snprintf(text, sizeof(text), "%s%s", reason ? reason : "", reason && may_trap ? PLACE_MAY_TRAP : "");
	cJSON_AddStringToObject(o, key, text);
}

static cJSON *view_symbol(pid_t pid, const struct resolved *r, const struct func_plan *plan, bool trap,
			  const char *refusal)
{
	const struct window *w = entry_window(plan, r->link_addr);
	const char *entry_reason = refusal ? refusal : plan->entry_reason;
	const char *exit_reason = r->usdt ? NULL : refusal ? refusal : plan->exit_reason;
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "pid", pid);
	cJSON_AddStringToObject(o, "module", r->mod->name);
	cJSON_AddStringToObject(o, "path", r->mod->path);
	cJSON_AddStringToObject(o, "symbol", r->name);
	cJSON_AddItemToObject(o, "address", protocol_addr(r->link_addr + r->mod->bias));
	cJSON_AddNumberToObject(o, "bytes", r->func_size ? r->func_size : plan->size);
	cJSON_AddNumberToObject(o, "displaced", !w ? 0 : w->trap ? 1 : w->len);
	cJSON_AddNumberToObject(o, "insns", w ? w->ninsns : 0);
	cJSON_AddNumberToObject(o, "rets", plan->nrets);
	cJSON_AddStringToObject(o, "entry", site_tactic_name(plan->entry));
	cJSON_AddStringToObject(o, "exit", site_tactic_name(plan->exit));
	add_reason(o, "entry_reason", entry_reason, !trap && plan->entry_may_trap);
	add_reason(o, "exit_reason", exit_reason, !trap && plan->exit_may_trap);
	cJSON_AddStringToObject(o, "note", *r->note || !plan->exit_note ? r->note : plan->exit_note);
	if (r->usdt)
		add_usdt(r, o);
	return o;
}

static struct uerr *add_symbols(const struct daemon *d, const struct symbols_job *sj, const struct modules *mods,
				const char *text, cJSON *rows)
{
	cleanup(spec_deinit) struct spec spec = {};
	cleanup(resolve_result_deinit) struct resolve_result found = {};
	cleanup(here_deinit) struct here here = { .d = d, .sj = sj, .mods = mods, .t = state_target(d->state, mods->pid) };
	struct uerr *err = spec_parse(text, &spec);

	if (!err)
		err = spec_resolve(&spec, mods, (const char *const *)sj->nots.data, sj->nots.n, &found);
	if (!err && mods->pid)
		err = stubs_space(here.t, mods->pid, &here.space);
	for (size_t i = 0; !err && i < found.n; i++) {
		struct func_plan plan = {};
		cleanup_uerr struct uerr *refusal = place_plan(&found.places[i], d->cfg.cache_dir,
							       PLAN_SIDES | (sj->trap ? PLAN_TRAP : 0), &plan);

		if (!refusal)
			err = view_takeover(d, &here.guards, mods, &found.places[i], sj->trap, &plan);
		if (!refusal && !err && mods->pid)
			err = refusal_here(&here, &found.places[i], &plan);
		cJSON_AddItemToArray(rows, view_symbol(mods->pid, &found.places[i], &plan, sj->trap,
						       refusal ? refusal->message : NULL));
		if (!refusal)
			func_plan_deinit(&plan);
	}
	return err;
}

static struct uerr *symbols_of(const struct daemon *d, const struct symbols_job *sj, const struct modules *mods,
			       cJSON *rows)
{
	vec_foreach(text, &sj->specs) {
		struct uerr *err = add_symbols(d, sj, mods, *text, rows);

		if (err)
			return err;
	}
	return NULL;
}

static struct uerr *take_peer_ids(const struct peer *p)
{
	if (geteuid() != 0 || p->uid == 0)
		return NULL;
	if (setgroups(0, NULL) || setresgid(p->gid, p->gid, p->gid) || setresuid(p->uid, p->uid, p->uid))
		return uerr_errno(errno, "cannot become uid %u", (unsigned)p->uid);
	return NULL;
}

/* A file that no process has mapped, as a process of one module. */
static struct uerr *symbols_of_file(const struct daemon *d, const struct symbols_job *sj, cJSON *rows)
{
	struct module mod = { .path = sj->file, .name = (char *)"", .main = true, .hi = UINT32_MAX };
	struct modules mods = { .mods = &mod, .n = 1 };
	struct uerr *err = take_peer_ids(&sj->peer);

	if (!err)
		err = image_open(sj->file, &mod.image);
	if (err)
		return err;
	mod.dev = image_dev(mod.image);
	mod.ino = image_ino(mod.image);
	return symbols_of(d, sj, &mods, rows);
}

static struct uerr *symbols_work(struct job *job, struct packer *result)
{
	const struct symbols_job *sj = job->arg;
	cJSON *rows = cJSON_CreateArray();
	char *text;
	struct uerr *err = NULL;

	if (sj->file)
		err = symbols_of_file(job->d, sj, rows);
	vec_foreach(pid, &sj->pids) {
		cleanup(modules_deinit) struct modules mods = {};

		if (!err)
			err = modules_read(*pid, &mods);
		if (!err)
			err = symbols_of(job->d, sj, &mods, rows);
	}
	if (err)
		return err;
	text = cJSON_PrintUnformatted(rows);
	pack_str(result, text);
	free(text);
	return NULL;
}

static void symbols_done(struct job *job, struct uerr *err, struct unpacker *result)
{
	cleanup_free char *text = err ? NULL : unpack_str(result);
	cJSON *r;

	if (!job->req) {
		uerr_free(err);
		return;
	}
	if (err || !text) {
		request_fail(job->req, err ? err : uerr_new(UERR_FAILED, "too many symbols: a narrower SPEC"));
		return;
	}
	r = cJSON_CreateObject();
	cJSON_AddItemToObject(r, "symbols", cJSON_CreateRaw(text));
	request_reply(job->req, r);
}

static struct uerr *copy_texts(const cJSON *array, char ***data, size_t *n, size_t *cap)
{
	VEC(char *) v = { *data, *n, *cap };
	const cJSON *item;
	bool ok = true;

	cJSON_ArrayForEach(item, array) {
		char *copy = strdup(item->valuestring);

		ok = copy && vec_push(&v, copy);
		if (!ok) {
			free(copy);
			break;
		}
	}
	*data = v.data;
	*n = v.n;
	*cap = v.cap;
	return ok ? NULL : uerr_nomem();
}

/* No target: the processes that map the SPEC's path, else the file itself. */
static struct uerr *symbols_targets(struct request *req, struct symbols_job *sj)
{
	cleanup(spec_deinit) struct spec spec = {};
	const cJSON *target = param_item(req, "target");
	struct uerr *err;

	if (!sj->specs.n)
		return uerr_new(UERR_USAGE, "which functions? give at least one SPEC");
	err = spec_parse(sj->specs.data[0], &spec);
	if (err)
		return err;
	if (target || !spec.binary || spec.binary[0] != '/')
		return select_targets(req, target, NULL, 0, &sj->pids);
	sj->file = strdup(spec.binary);
	return sj->file ? NULL : uerr_nomem();
}

static struct uerr *symbols_start(struct request *req, struct symbols_job *sj)
{
	struct uerr *err;
	struct job *job;

	sj->peer = req->peer;
	sj->trap = param_bool(req, "trap");
	err = copy_texts(param_item(req, "specs"), &sj->specs.data, &sj->specs.n, &sj->specs.cap);
	if (!err)
		err = copy_texts(param_item(req, "not"), &sj->nots.data, &sj->nots.n, &sj->nots.cap);
	if (!err)
		err = symbols_targets(req, sj);
	if (err)
		return err;
	job = job_create(req->d, req, "looking for symbols", symbols_work, symbols_done, sj, free_symbols_job);
	if (!job)
		return uerr_nomem();
	job_submit(job);
	return NULL;
}

void cmd_symbols(struct request *req)
{
	struct symbols_job *sj = calloc(1, sizeof(*sj));
	struct uerr *err = sj ? symbols_start(req, sj) : uerr_nomem();

	if (!err)
		return;
	if (sj)
		free_symbols_job(sj);
	request_fail(req, err);
}

/*
 * Hold.
 */

struct hold_job {
	pid_t pid;
	struct peer peer;
};

#define HOLD_TIMEOUT_MS 30000u

static void hold_ready(void *arg)
{
	struct packer nothing = {};

	job_progress(arg, &nothing);
}

static struct uerr *hold_work(struct job *job, struct packer *result)
{
	const struct hold_job *hj = job->arg;
	struct uerr *err = take_peer_ids(&hj->peer);

	return err ? err : launch_hold(hj->pid, hold_ready, job, HOLD_TIMEOUT_MS - 5000);
}

static cJSON *hold_state(const char *state)
{
	cJSON *r = cJSON_CreateObject();

	cJSON_AddStringToObject(r, "state", state);
	return r;
}

static void hold_progress(struct job *job, struct unpacker *u)
{
	if (job->req)
		request_continue(job->req, hold_state("seized"));
}

static void hold_done(struct job *job, struct uerr *err, struct unpacker *result)
{
	if (!job->req)
		uerr_free(err);
	else if (err)
		request_fail(job->req, err);
	else
		request_reply(job->req, hold_state("held"));
}

static struct uerr *hold_start(struct request *req)
{
	struct hold_job *hj;
	struct procinfo pi;
	struct job *job;
	struct uerr *err = procinfo_read(param_item(req, "pid")->valueint, &pi);

	if (!err)
		err = select_permit(req, &pi);
	if (err)
		return err;
	hj = calloc(1, sizeof(*hj));
	job = hj ? job_create(req->d, req, "holding the command", hold_work, hold_done, hj, free) : NULL;
	if (!job || !job_lock(job, pi.pid)) {
		free(hj);
		free(job);
		return uerr_nomem();
	}
	hj->pid = pi.pid;
	hj->peer = req->peer;
	job->progress = hold_progress;
	job->timeout_ms = HOLD_TIMEOUT_MS;
	job_submit(job);
	return NULL;
}

void cmd_hold(struct request *req)
{
	struct uerr *err = hold_start(req);

	if (err)
		request_fail(req, err);
}
