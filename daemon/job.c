/* SPDX-License-Identifier: MIT */
/* Work on targets in processes of their own; see job.h. */
#include "daemon/job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/write_all.h"
#include "daemon/housekeep.h"

#define WORKERS_MAX 16u
#define OUTCOME_MAX (512u << 20)
#define READ_CHUNK 65536u

enum frame_kind { FRAME_TOUCHING = 1, FRAME_PROGRESS, FRAME_RESULT, FRAME_ERROR };

struct frame {
	u32 kind, len;
};

struct job *job_create(struct daemon *d, struct request *req, const char *what, job_work *work, job_done *done,
		       void *arg, void (*free_arg)(void *arg))
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->src = (struct source){ .kind = SOURCE_WORKER, .fd = -1, .owner = job };
	job->d = d;
	job->req = req;
	job->what = what;
	job->work = work;
	job->done = done;
	job->arg = arg;
	job->free_arg = free_arg;
	job->timeout_ms = JOB_TIMEOUT_MS;
	job->out = -1;
	return job;
}

static void job_destroy(struct job *job)
{
	if (job->req)
		job->req->job = NULL;
	if (job->free_arg)
		job->free_arg(job->arg);
	uerr_free(job->err);
	vec_free(&job->pids);
	free(job->buf);
	free(job);
}

bool job_lock(struct job *job, pid_t pid)
{
	return pid_vec_has(&job->pids, pid) || vec_push(&job->pids, pid);
}

static bool overlap(const struct job *a, const struct job *b)
{
	vec_foreach(pid, &a->pids)
		if (pid_vec_has(&b->pids, *pid))
			return true;
	return false;
}

bool job_busy(const struct daemon *d, pid_t pid)
{
	vec_foreach(j, &d->jobs)
		if (pid_vec_has(&(*j)->pids, pid))
			return true;
	return false;
}

/*
 * In the worker.
 */

/* If the daemon is gone, so is our purpose. */
static void send_frame(const struct job *job, enum frame_kind kind, const void *p, size_t n)
{
	struct frame f = { kind, n };

	if (!write_all(job->out, &f, sizeof(f)) || !write_all(job->out, p, n))
		_exit(1);
}

void job_touching(struct job *job)
{
	if (!job->touching)
		send_frame(job, FRAME_TOUCHING, NULL, 0);
	job->touching = true;
}

void job_progress(struct job *job, const struct packer *p)
{
	send_frame(job, FRAME_PROGRESS, p->data, p->n);
}

/* SIGTERM and SIGINT stay blocked: a Ctrl-C at the terminal must not end a
 * worker in the middle of a window. Other clients' sockets are closed, so that
 * they end when the daemon closes them. */
static void become_worker(struct job *job)
{
	struct daemon *d = job->d;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "uprobed-worker");
	signal(SIGPIPE, SIG_IGN);
	close(d->epoll);
	close(d->listener.fd);
	close(d->signals.fd);
	close(d->timer.fd);
	vec_foreach(j, &d->jobs)
		if (*j != job && (*j)->src.fd >= 0)
			close((*j)->src.fd);
	server_close_clients(d);
}

static _Noreturn void worker_main(struct job *job)
{
	struct packer result = {};
	struct uerr *err;

	become_worker(job);
	err = job->work(job, &result);
	if (!err && result.failed)
		err = uerr_nomem();
	if (err) {
		packer_deinit(&result);
		result = (struct packer){};
		pack_err(&result, err);
		send_frame(job, FRAME_ERROR, result.data, result.n);
	} else {
		send_frame(job, FRAME_RESULT, result.data, result.n);
	}
	_exit(0);
}

/*
 * In the daemon.
 */

static void job_finish(struct job *job, struct uerr *err, struct unpacker *result)
{
	struct daemon *d = job->d;

	for (size_t i = 0; i < d->jobs.n; i++)
		if (d->jobs.data[i] == job) {
			memmove(d->jobs.data + i, d->jobs.data + i + 1, (d->jobs.n - i - 1) * sizeof(*d->jobs.data));
			d->jobs.n--;
			break;
		}
	job->done(job, err, result);
	job_destroy(job);
	jobs_housekeep(d);
}

static struct uerr *job_fork(struct job *job)
{
	struct uerr *err;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return uerr_errno(errno, "making a pipe for a worker");
	job->worker = fork();
	if (job->worker < 0) {
		err = uerr_errno(errno, "starting a worker");
		job->worker = 0;
		close(fds[0]);
		close(fds[1]);
		return err;
	}
	if (!job->worker) {
		job->out = fds[1];
		close(fds[0]);
		worker_main(job);
	}
	close(fds[1]);
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	vec_foreach(pid, &job->pids)
		if (job->stops)
			pace_begin(&job->d->paces, *pid, monotonic_ns());
	job->src.fd = fds[0];
	job->deadline_ns = monotonic_ns() + job->timeout_ms * 1000000ull;
	return source_add(job->d, &job->src, EPOLLIN);
}

static bool may_start(const struct daemon *d, const struct job *job, u32 running)
{
	if (job->worker || running >= WORKERS_MAX)
		return false;
	for (size_t i = 0; i < d->jobs.n && d->jobs.data[i] != job; i++)
		if (overlap(d->jobs.data[i], job))
			return false;
	return true;
}

/* When its processes may be made to stand still. A daemon that ends cannot wait. */
static u64 job_earliest(const struct daemon *d, const struct job *job, u64 now)
{
	u64 ret = now;

	if (!job->stops || job->urgent || job->canceled || d->stopping)
		return now;
	vec_foreach(pid, &job->pids) {
		u64 t = pace_earliest(&d->paces, *pid, now);

		ret = t > ret ? t : ret;
	}
	return ret;
}

static struct uerr *job_start(struct job *job)
{
	struct uerr *err = job->canceled ? uerr_new(UERR_FAILED, "canceled") : NULL;

	if (!err && job->before)
		err = job->before(job);
	return err ? err : job_fork(job);
}

static void start_waiting(struct daemon *d)
{
	u64 now = monotonic_ns(), at;
	u32 running = 0;

	d->wake_ns = 0;
	vec_foreach(j, &d->jobs)
		running += (*j)->worker != 0;
	for (size_t i = 0; i < d->jobs.n; i++) {
		struct job *job = d->jobs.data[i];
		struct uerr *err;

		if (!may_start(d, job, running))
			continue;
		at = job_earliest(d, job, now);
		if (at > now) {
			d->wake_ns = d->wake_ns && d->wake_ns < at ? d->wake_ns : at;
			continue;
		}
		err = job_start(job);
		if (err) {
			job_finish(job, err, NULL); /* starts the others itself */
			return;
		}
		running++;
	}
}

void job_submit(struct job *job)
{
	struct daemon *d = job->d;

	if (job->req) {
		job->req->job = job;
		job->req->later = true;
	}
	if (!vec_push(&d->jobs, job)) {
		job->done(job, uerr_nomem(), NULL);
		job_destroy(job);
		return;
	}
	start_waiting(d);
}

void job_submit_first(struct job *job)
{
	struct daemon *d = job->d;
	size_t i = 0;

	if (!vec_push(&d->jobs, job)) {
		job->done(job, uerr_nomem(), NULL);
		job_destroy(job);
		return;
	}
	while (d->jobs.data[i] != job && (d->jobs.data[i]->worker || !overlap(d->jobs.data[i], job)))
		i++;
	memmove(d->jobs.data + i + 1, d->jobs.data + i, (d->jobs.n - 1 - i) * sizeof(*d->jobs.data));
	d->jobs.data[i] = job;
	start_waiting(d);
}

void job_forget_request(struct job *job)
{
	job->req = NULL;
}

/* Nothing touched yet: the worker may die. Else it is let finish, and what it
 * did is undone by whoever looks at `canceled` in done(). */
void job_cancel(struct job *job)
{
	job->canceled = true;
	if (!job->worker)
		start_waiting(job->d);
	else if (!job->touching)
		kill(job->worker, SIGKILL);
}

static void take_frame(struct job *job, const struct frame *f, size_t off)
{
	struct unpacker u = { job->buf + off, job->buf + off + f->len, false };

	switch (f->kind) {
	case FRAME_TOUCHING:
		job->touching = true;
		break;
	case FRAME_PROGRESS:
		if (job->progress)
			job->progress(job, &u);
		break;
	case FRAME_RESULT:
		job->have_result = true;
		job->result_off = off;
		job->result_len = f->len;
		break;
	case FRAME_ERROR:
		uerr_free(job->err);
		job->err = unpack_err(&u);
		break;
	default:
		log_err("worker %d sent a frame of kind %u", job->worker, f->kind);
	}
}

/* Complete frames are taken out of the buffer; a result stays where it is,
 * since it is the last. */
static void take_frames(struct job *job)
{
	size_t off = 0;
	struct frame f;

	while (!job->have_result && job->n - off >= sizeof(f)) {
		memcpy(&f, job->buf + off, sizeof(f));
		if (job->n - off - sizeof(f) < f.len)
			break;
		take_frame(job, &f, off + sizeof(f));
		off += sizeof(f) + f.len;
	}
	if (job->have_result)
		return;
	memmove(job->buf, job->buf + off, job->n - off);
	job->n -= off;
}

static struct uerr *died(struct job *job, int status)
{
	const char *how = job->touching ? "what it had changed is being undone" : "nothing was touched";

	if (job->deadline_ns == 0)
		return uerr_new(UERR_FAILED, "%s took longer than %u s and was given up; %s", job->what,
				job->timeout_ms / 1000, how);
	if (WIFSIGNALED(status))
		return uerr_new(UERR_FAILED, "%s: the worker died of signal %d; %s", job->what, WTERMSIG(status), how);
	return uerr_new(UERR_FAILED, "%s: the worker ended without a word; %s", job->what, how);
}

static void worker_ended(struct job *job)
{
	struct unpacker u = { job->buf + job->result_off, job->buf + job->result_off + job->result_len, false };
	struct uerr *err = job->err;
	int status = 0;

	job->err = NULL;
	vec_foreach(pid, &job->pids)
		if (job->stops)
			pace_end(&job->d->paces, *pid, monotonic_ns());
	source_remove(job->d, &job->src);
	close(job->src.fd);
	kill(job->worker, SIGKILL);
	while (waitpid(job->worker, &status, 0) < 0 && errno == EINTR)
		;
	job->died = !err && !job->have_result;
	if (job->died)
		err = died(job, status);
	if (job->died && job->touching)
		cleanup_after_worker(job->d, &job->pids);
	job_finish(job, err, err ? NULL : &u);
}

static bool make_room(struct job *job)
{
	size_t cap = job->cap ? job->cap * 2 : READ_CHUNK;
	u8 *buf;

	if (job->cap - job->n >= READ_CHUNK / 2)
		return true;
	if (cap > OUTCOME_MAX)
		return false;
	buf = realloc(job->buf, cap);
	if (!buf)
		return false;
	job->buf = buf;
	job->cap = cap;
	return true;
}

void job_event(struct job *job)
{
	ssize_t k;

	if (!make_room(job)) {
		kill(job->worker, SIGKILL);
		worker_ended(job);
		return;
	}
	k = read(job->src.fd, job->buf + job->n, job->cap - job->n);
	if (k < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (k <= 0) {
		worker_ended(job);
		return;
	}
	job->n += k;
	take_frames(job);
}

void jobs_housekeep(struct daemon *d)
{
	u64 now = monotonic_ns();

	vec_foreach(j, &d->jobs) {
		if ((*j)->worker && (*j)->deadline_ns && now > (*j)->deadline_ns) {
			(*j)->deadline_ns = 0;
			kill((*j)->worker, SIGKILL);
		}
	}
	start_waiting(d);
}

int jobs_wait_ms(const struct daemon *d)
{
	u64 now = monotonic_ns();

	if (!d->wake_ns)
		return -1;
	return d->wake_ns > now ? (int)((d->wake_ns - now) / 1000000) + 1 : 0;
}

void jobs_kill(struct daemon *d)
{
	vec_foreach(j, &d->jobs)
		if ((*j)->worker) {
			kill((*j)->worker, SIGKILL);
			waitpid((*j)->worker, NULL, 0);
		}
}
