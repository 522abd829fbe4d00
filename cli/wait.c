// SPDX-License-Identifier: MIT
/* Waiting with poll(2); see wait.h. */
#include "cli/wait.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>

u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void wait_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
}

struct uerr *wait_init(struct wait *w, int daemon_fd, struct child *child, u64 for_ns, u64 interval_ns)
{
	u64 now = now_ns();
	sigset_t set;

	*w = (struct wait){ .daemon_fd = daemon_fd, .child = child && child->pid ? child : NULL };
	wait_signals(&set);
	sigprocmask(SIG_BLOCK, &set, &w->saved_signals);
	w->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	w->limit = for_ns ? now + for_ns : 0;
	w->tick = interval_ns ? now + interval_ns : 0;
	w->interval = interval_ns;
	return w->signal_fd < 0 ? uerr_errno(errno, "signalfd") : NULL;
}

void wait_deinit(struct wait *w)
{
	if (w->signal_fd < 0)
		return;
	vec_foreach(p, &w->pids)
		if (p->fd >= 0)
			close(p->fd);
	vec_free(&w->pids);
	close(steal_fd(&w->signal_fd));
	sigprocmask(SIG_SETMASK, &w->saved_signals, NULL);
}

bool wait_add(struct wait *w, pid_t pid)
{
	int fd;

	vec_foreach(p, &w->pids)
		if (p->pid == pid)
			return false;
	fd = syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return false;
	if (!vec_push(&w->pids, (struct watched){ pid, fd })) {
		close(fd);
		return false;
	}
	return true;
}

/* Milliseconds until T, rounded up; -1 for never. */
static int until(u64 t)
{
	u64 now = now_ns();

	if (!t)
		return -1;
	if (t <= now)
		return 0;
	return (t - now) / 1000000 > 1000000 ? 1000000 : (t - now + 999999) / 1000000;
}

/* Ctrl-C reaches CMD by itself: the terminal signals the whole group. */
static bool take_signal(struct wait *w)
{
	struct signalfd_siginfo si;

	if (read(w->signal_fd, &si, sizeof(si)) != sizeof(si))
		return false;
	if (!w->child)
		return true;
	if (si.ssi_code != SI_KERNEL)
		child_signal(w->child, si.ssi_signo);
	return false;
}

/* Forgets the watched that exited; true if none is left. */
static bool all_exited(struct wait *w, const struct pollfd *fds)
{
	size_t alive = 0;

	for (size_t i = 0; i < w->pids.n; i++) {
		struct watched *p = &w->pids.data[i];

		if (p->fd >= 0 && fds[i].revents) {
			close(p->fd);
			p->fd = -1;
		}
		alive += p->fd >= 0;
	}
	return !alive;
}

struct uerr *wait_next(struct wait *w, enum wait_event *ret)
{
	VEC(struct pollfd) fds = {};
	struct uerr *err = NULL;

	for (;;) {
		u64 next = w->limit && (!w->tick || w->limit <= w->tick) ? w->limit : w->tick;
		int n;

		fds.n = 0;
		if (!vec_push(&fds, (struct pollfd){ w->signal_fd, POLLIN, 0 }) ||
		    !vec_push(&fds, (struct pollfd){ w->daemon_fd, POLLIN, 0 }) ||
		    !vec_push(&fds, (struct pollfd){ w->child ? w->child->pidfd : -1, POLLIN, 0 })) {
			err = uerr_nomem();
			break;
		}
		vec_foreach(p, &w->pids)
			if (!vec_push(&fds, (struct pollfd){ p->fd, POLLIN, 0 }))
				err = uerr_nomem();
		if (err)
			break;
		n = poll(fds.data, fds.n, until(next));
		if (n < 0 && errno != EINTR) {
			err = uerr_errno(errno, "poll");
			break;
		}
		if (n <= 0) {
			if (!next || now_ns() < next)
				continue;
			*ret = next == w->limit ? WAIT_LIMIT : WAIT_INTERVAL;
			if (*ret == WAIT_INTERVAL)
				w->tick += w->interval;
			break;
		}
		if (fds.data[0].revents && take_signal(w)) {
			*ret = WAIT_SIGNAL;
			break;
		}
		if (fds.data[2].revents || (!w->child && fds.n > 3 && all_exited(w, fds.data + 3))) {
			*ret = WAIT_EXITED;
			break;
		}
		if (fds.data[1].revents) {
			*ret = WAIT_LOST;
			break;
		}
	}
	vec_free(&fds);
	return err;
}

int wait_child(struct wait *w)
{
	enum wait_event event = WAIT_INTERVAL;

	w->limit = w->tick = 0;
	w->daemon_fd = -1;
	while (event != WAIT_EXITED) {
		cleanup_uerr struct uerr *err = wait_next(w, &event);

		if (err)
			break;
	}
	return child_wait(w->child);
}
