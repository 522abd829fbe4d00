/* SPDX-License-Identifier: MIT */
/*
 * uprobed: set-up, and the event loop. One thread waits for clients, workers,
 * targets' exits, signals, and the housekeeping timer, and handles one event
 * after the other; nothing that it calls may block on a client or a target.
 */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/housekeep.h"
#include "daemon/job.h"
#include "daemon/server.h"
#include "daemon/tail.h"
#include "daemon/target.h"

#define TICK_NS 1000000000ull
#define STOP_NS 20000000000ull
#define FAST_TICK_NS 50000000ull
#define LARGE_BYTES (256 << 10)

static void notify(const char *text)
{
#ifdef HAVE_SYSTEMD
	sd_notify(0, text);
#else
	(void)text;
#endif
}

u64 monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

struct uerr *source_add(struct daemon *d, struct source *src, u32 events)
{
	struct epoll_event ev = { .events = events, .data.ptr = src };

	if (epoll_ctl(d->epoll, EPOLL_CTL_ADD, src->fd, &ev) < 0)
		return uerr_errno(errno, "epoll");
	return NULL;
}

void source_set_events(struct daemon *d, struct source *src, u32 events)
{
	struct epoll_event ev = { .events = events, .data.ptr = src };

	epoll_ctl(d->epoll, EPOLL_CTL_MOD, src->fd, &ev);
}

void source_remove(struct daemon *d, struct source *src)
{
	epoll_ctl(d->epoll, EPOLL_CTL_DEL, src->fd, NULL);
}

void daemon_warn(struct daemon *d, const char *fmt, ...)
{
	char *text;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	log_warning("%s", text);
	if (!vec_push(&d->warnings, text))
		free(text);
}

void daemon_set_timer(struct daemon *d, bool fast)
{
	u64 ns = fast ? FAST_TICK_NS : TICK_NS;
	struct timespec ts = { ns / 1000000000ull, ns % 1000000000ull };
	struct itimerspec it = { ts, ts };

	if (d->fast_timer == fast)
		return;
	d->fast_timer = fast;
	timerfd_settime(d->timer.fd, 0, &it, NULL);
}

void daemon_stop(struct daemon *d)
{
	if (d->stopping)
		return;
	log_info("stopping%s", d->cfg.keep ? ", probes stay" : "");
	notify("STOPPING=1\nSTATUS=Detaching");
	d->stopping = true;
	d->stop_deadline_ns = monotonic_ns() + STOP_NS;
	housekeep(d);
}

static struct uerr *make_signals(struct daemon *d)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	d->signals = (struct source){ .kind = SOURCE_SIGNAL, .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK) };
	if (d->signals.fd < 0)
		return uerr_errno(errno, "signalfd");
	return source_add(d, &d->signals, EPOLLIN);
}

static struct uerr *make_timer(struct daemon *d)
{
	d->timer = (struct source){ .kind = SOURCE_TIMER,
				    .fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK) };
	if (d->timer.fd < 0)
		return uerr_errno(errno, "timerfd");
	d->fast_timer = true; /* so that the next line sets it */
	daemon_set_timer(d, false);
	return source_add(d, &d->timer, EPOLLIN);
}

/* A descriptor for each map, client and target. */
static void raise_limits(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

static struct uerr *setup(struct daemon *d)
{
	struct uerr *err;

	time_text(d->started);
	raise_limits();
	d->state = state_create();
	if (!d->state)
		return uerr_nomem();
	d->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (d->epoll < 0)
		return uerr_errno(errno, "epoll");
	err = make_signals(d);
	if (!err)
		err = make_timer(d);
	if (!err)
		err = config_make_dirs(&d->cfg);
	if (!err)
		err = server_listen(d);
	return err;
}

static void handle_signal(struct daemon *d)
{
	struct signalfd_siginfo si;

	if (read(d->signals.fd, &si, sizeof(si)) != sizeof(si))
		return;
	if (si.ssi_signo == SIGHUP && !d->cfg.private_)
		return;
	daemon_stop(d);
}

static void handle_timer(struct daemon *d)
{
	u64 ticks;

	if (read(d->timer.fd, &ticks, sizeof(ticks)) != sizeof(ticks))
		return;
	server_poll_requests(d);
	housekeep(d);
}

static void handle(struct daemon *d, struct source *src, u32 events)
{
	switch (src->kind) {
	case SOURCE_SIGNAL:
		handle_signal(d);
		break;
	case SOURCE_LISTEN:
		server_accept(d);
		break;
	case SOURCE_TIMER:
		handle_timer(d);
		break;
	case SOURCE_CLIENT:
		server_client_event(src->owner, events);
		break;
	case SOURCE_WORKER:
		job_event(src->owner);
		break;
	case SOURCE_TARGET:
		cleanup_after_target(d, src->owner);
		break;
	case SOURCE_TAIL:
		tail_event(src->owner);
		break;
	}
}

/* One event at a time, so that handling one can free what another in the same
 * batch would have pointed to. */
static struct uerr *loop(struct daemon *d)
{
	while (!d->stopped) {
		struct epoll_event ev;
		int n = epoll_wait(d->epoll, &ev, 1, jobs_wait_ms(d));

		if (n < 0 && errno != EINTR)
			return uerr_errno(errno, "epoll");
		if (n > 0)
			handle(d, ev.data.ptr, ev.events);
		else
			jobs_housekeep(d);
		if (d->stopping && all_detached(d))
			d->stopped = true;
	}
	return NULL;
}

static void teardown(struct daemon *d)
{
	d->stopped = true;
	jobs_kill(d);
	if (d->listener.kind == SOURCE_LISTEN)
		server_close(d);
	vec_free(&d->jobs);
	state_destroy(d->state);
	vec_foreach(w, &d->warnings)
		free(*w);
	vec_free(&d->warnings);
	vec_free(&d->leftovers);
	vec_free(&d->paces);
	if (d->signals.fd > 0)
		close(d->signals.fd);
	if (d->timer.fd > 0)
		close(d->timer.fd);
	if (d->epoll > 0)
		close(d->epoll);
	config_deinit(&d->cfg);
}

static struct uerr *serve(struct daemon *d)
{
	struct uerr *err = setup(d);

	if (err)
		return err;
	adopt_leftovers(d);
	/* A vector of forty thousand places grows by moving pages, and is given back when it is freed: so it is
	 * without the threshold's own growth. */
	mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
	log_info("uprobed %s listens on %s", UPROBED_VERSION, d->cfg.socket);
	notify("READY=1\nSTATUS=Waiting for bpfctl");
	d->idle_since_ns = monotonic_ns();
	return loop(d);
}

int main(int argc, char **argv)
{
	struct daemon d = {};
	struct uerr *err = config_parse(&d.cfg, argc, argv);
	int status = 0;

	if (!err && d.cfg.show_help)
		fputs(config_help, stdout);
	else if (!err && d.cfg.show_version)
		printf("uprobed %s\n", UPROBED_VERSION);
	else if (!err) {
		log_set_max(d.cfg.verbose ? LOG_DEBUG : LOG_INFO);
		err = serve(&d);
	}
	if (err) {
		log_err("%s", err->message);
		status = err->code == UERR_USAGE ? 2 : 1;
		uerr_free(err);
	}
	teardown(&d);
	return status;
}
