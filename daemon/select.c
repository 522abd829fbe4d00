/* SPDX-License-Identifier: MIT */
/* Which processes a client means; see select.h. */
#include "daemon/select.h"

#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/process.h"
#include "daemon/job.h"

#define MANY 64u

struct uerr *select_no_target(void)
{
	return uerr_new(UERR_USAGE, "which process? -p PID, -n NAME, -x FILE, --unit UNIT, --cgroup DIR, or -- COMMAND");
}

static const char *user_name(uid_t uid, char buf[64])
{
	const struct passwd *pw = getpwuid(uid);

	if (pw)
		snprintf(buf, 64, "user %s", pw->pw_name);
	else
		snprintf(buf, 64, "uid %u", (unsigned)uid);
	return buf;
}

struct uerr *select_permit(const struct request *req, const struct procinfo *pi)
{
	char owner[64];

	if (!peer_may(&req->peer, pi->uid))
		return uerr_new(UERR_NOT_PERMITTED,
				"process %d (%s) belongs to %s, you are uid %u: sudo bpfctl …, or ask root", pi->pid,
				pi->comm, user_name(pi->uid, owner), (unsigned)req->peer.uid);
	if (geteuid() != 0 && pi->uid != geteuid())
		return uerr_new(UERR_NOT_PERMITTED,
				"process %d (%s) belongs to %s, this daemon is uid %u: sudo bpfctl …", pi->pid, pi->comm,
				user_name(pi->uid, owner), (unsigned)geteuid());
	return NULL;
}

/* Ourselves and those who ask on our behalf. */
static bool is_ours(const struct request *req, const struct procinfo *pi)
{
	if (pi->pid == getpid() || pi->ppid == getpid() || pi->pid == req->peer.pid)
		return true;
	vec_foreach(j, &req->d->jobs)
		if ((*j)->worker && (*j)->worker == pi->pid)
			return true;
	return false;
}

/* What shares its memory with one that is there (CLONE_VM) is one with it: a
 * probe hits both, and an attach stops both. */
static bool is_there(const pid_vec *v, pid_t pid)
{
	vec_foreach(have, v)
		if (*have == pid || process_same_memory(*have, pid))
			return true;
	return false;
}

static bool add(pid_vec *v, pid_t pid)
{
	return is_there(v, pid) || vec_push(v, pid);
}

static struct uerr *add_children(const struct request *req, pid_t pid, pid_vec *ret)
{
	pid_vec children = {};
	struct uerr *err = NULL;

	procinfo_children(pid, &children);
	vec_foreach(child, &children) {
		cleanup_uerr struct uerr *denied = NULL;
		struct procinfo pi;

		denied = procinfo_read(*child, &pi);
		if (!denied && !pi.zombie && !is_ours(req, &pi))
			denied = select_permit(req, &pi);
		else
			continue;
		if (!denied && !add(ret, *child))
			err = uerr_nomem();
	}
	vec_free(&children);
	return err;
}

static struct uerr *add_pid(const struct request *req, pid_t pid, bool follow, pid_vec *ret)
{
	struct procinfo pi;
	struct uerr *err = procinfo_read(pid, &pi);

	if (err)
		return err;
	if (pi.zombie)
		return uerr_new(UERR_NO_TARGET, "process %d (%s) has ended: only its parent has not noticed (zombie)",
				pid, pi.comm);
	if (pid == getpid())
		return uerr_new(UERR_CANNOT_PROBE, "process %d is this daemon itself", pid);
	err = select_permit(req, &pi);
	if (err)
		return err;
	if (!add(ret, pid))
		return uerr_nomem();
	return follow ? add_children(req, pid, ret) : NULL;
}

static struct uerr *add_pids(const struct request *req, const cJSON *pids, bool follow, pid_vec *ret)
{
	const cJSON *pid;

	cJSON_ArrayForEach(pid, pids) {
		struct uerr *err;

		if (!cJSON_IsNumber(pid))
			return uerr_new(UERR_USAGE, "target.pids holds numbers");
		err = add_pid(req, pid->valueint, follow, ret);
		if (err)
			return err;
	}
	return NULL;
}

static bool has_name(const struct procinfo *pi, const char *name)
{
	return pi->exe[0] && (!strcmp(pi->comm, name) || !strcmp(pathname_base(pi->exe), name));
}

static bool has_path(const struct procinfo *pi, const char *path)
{
	return pi->exe[0] && (!strcmp(pi->exe, path) || procinfo_maps_path(pi->pid, path));
}

/* All processes that match; those that the peer may not have are an error only
 * when there are no others. */
static struct uerr *add_matching(const struct request *req, const char *what, const char *none,
				 bool (*matches)(const struct procinfo *, const char *), bool follow, pid_vec *ret)
{
	cleanup_uerr struct uerr *denied = NULL;
	pid_vec all = {};
	size_t before = ret->n;
	struct uerr *err = procinfo_list(&all);

	vec_foreach(pid, &all) {
		struct uerr *gone, *no;
		struct procinfo pi;

		if (err)
			break;
		gone = procinfo_read(*pid, &pi);
		if (gone || pi.zombie || is_ours(req, &pi) || !matches(&pi, what)) {
			uerr_free(gone);
			continue;
		}
		no = select_permit(req, &pi);
		if (no && denied)
			uerr_free(no);
		else if (no)
			denied = no;
		else if (!add(ret, *pid))
			err = uerr_nomem();
		else if (follow)
			err = add_children(req, *pid, ret);
	}
	vec_free(&all);
	if (err || ret->n > before)
		return err;
	if (denied)
		return steal_ptr(denied);
	return uerr_new(UERR_NO_TARGET, none, what);
}

static struct uerr *add_texts(const struct request *req, const cJSON *texts, const char *none,
			      bool (*matches)(const struct procinfo *, const char *), bool follow, pid_vec *ret)
{
	const cJSON *text;

	cJSON_ArrayForEach(text, texts) {
		struct uerr *err;

		if (!cJSON_IsString(text))
			return uerr_new(UERR_USAGE, "target.names and target.paths hold strings");
		err = add_matching(req, text->valuestring, none, matches, follow, ret);
		if (err)
			return err;
	}
	return NULL;
}

#define NO_NAME "no process is called '%s'"
#define NO_PATH "no process runs or maps %s"

struct uerr *select_targets(const struct request *req, const cJSON *target, char *const *paths, size_t npaths,
			    pid_vec *ret)
{
	const cJSON *follow_item = cJSON_GetObjectItemCaseSensitive(target, "follow");
	bool follow = !cJSON_IsFalse(follow_item);
	bool force = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(target, "force"));
	struct uerr *err;

	err = add_pids(req, cJSON_GetObjectItemCaseSensitive(target, "pids"), follow, ret);
	if (!err)
		err = add_texts(req, cJSON_GetObjectItemCaseSensitive(target, "names"), NO_NAME, has_name, follow, ret);
	if (!err)
		err = add_texts(req, cJSON_GetObjectItemCaseSensitive(target, "paths"), NO_PATH, has_path, follow, ret);
	for (size_t i = 0; !err && !ret->n && i < npaths; i++)
		err = add_matching(req, paths[i], NO_PATH, has_path, false, ret);
	if (err)
		return err;
	if (!ret->n)
		return select_no_target();
	if (ret->n > MANY && !force)
		return uerr_new(UERR_USAGE, "that is %zu processes: --force if you mean it", ret->n);
	return NULL;
}
