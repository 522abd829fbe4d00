/* SPDX-License-Identifier: MIT */
/*
 * Following a ring buffer; see tail.h.
 *
 *	main loop                          thread
 *	reads all there is
 *	says so (umap_events_sleep)
 *	armed = 1  ──────────────────────▶ sleeps at the ring's futex
 *	           ◀── eventfd ─────────── a writer woke it
 *
 * The thread does nothing else: no memory, no locks, so that a fork of the daemon
 * may happen at any moment.
 */
#include "daemon/tail.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/dispatch.h"
#include "daemon/find.h"
#include "daemon/view.h"

#define RECORDS_AT_ONCE 1000u
#define BACKLOG_MAX (1u << 20) /* bytes that a client has not read: then the ring may fill */
#define THREAD_STACK (64u << 10)
#define BUSY_NS 500000000ull   /* a record that takes longer has a writer that stands still */

struct tail {
	struct source src; /* the eventfd */
	struct request *req;
	struct map *map;
	u32 type_id;
	struct umap_events events;
	pthread_t thread;
	u32 armed; /* the thread shall sleep at the ring: a futex */
	bool stop;
	u64 told[3]; /* dropped, retired, spoilt as the client knows them */
	u64 busy_pos, busy_since; /* where the next record is not finished, and since when */
	bool told_busy; /* that it has not been for long */
};

static long futex(u32 *word, int op, u32 value)
{
	return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

static void *sleeper(void *arg)
{
	struct tail *t = arg;
	u32 *waiters = umap_ring_waiters(t->events.m);
	const u64 one = 1;

	for (;;) {
		while (!__atomic_load_n(&t->armed, __ATOMIC_ACQUIRE))
			futex(&t->armed, FUTEX_WAIT_PRIVATE, 0);
		if (__atomic_load_n(&t->stop, __ATOMIC_ACQUIRE))
			return NULL;
		futex(waiters, FUTEX_WAIT, 1);
		__atomic_store_n(&t->armed, 0, __ATOMIC_RELEASE);
		if (write(t->src.fd, &one, sizeof(one)) < 0)
			return NULL;
	}
}

static void arm(struct tail *t)
{
	__atomic_store_n(&t->armed, 1, __ATOMIC_RELEASE);
	futex(&t->armed, FUTEX_WAKE_PRIVATE, 1);
}

static void stop_thread(struct tail *t)
{
	u32 *waiters = umap_ring_waiters(t->events.m);

	__atomic_store_n(&t->stop, true, __ATOMIC_RELEASE);
	/* It may be anywhere, and a target writes what it likes there: once is not
	 * enough. */
	do {
		arm(t);
		__atomic_store_n(waiters, 0, __ATOMIC_SEQ_CST);
		futex(waiters, FUTEX_WAKE, 1);
	} while (pthread_tryjoin_np(t->thread, NULL) == EBUSY);
}

static struct uerr *start_thread(struct tail *t)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	err = pthread_create(&t->thread, &attr, sleeper, t);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err ? uerr_errno(err, "a thread for map %s", t->map->name) : NULL;
}

/* ---- what the client gets ---- */

/* Whose record is next, and has not been finished for long; false: there is none such. */
static bool add_busy(cJSON *r, struct tail *t)
{
	u64 now = monotonic_ns(), where = 0;
	u32 owner, size, rec;
	const struct target *target;
	bool unfinished = umap_events_busy(&t->events, &owner, &size, &where);
	cJSON *busy;

	if (!unfinished || t->busy_pos != where) {
		t->busy_pos = where;
		t->busy_since = now;
	}
	if (!unfinished || now - t->busy_since < BUSY_NS)
		return false;
	target = state_target_no(t->req->d->state, owner >> OWNER_REC_BITS);
	rec = owner & ((1u << OWNER_REC_BITS) - 1);
	if (!target || !target->threads)
		return false;
	busy = cJSON_AddObjectToObject(r, "busy");
	cJSON_AddNumberToObject(busy, "pid", target->pid);
	cJSON_AddNumberToObject(busy, "tid", __atomic_load_n(&threads_rec(target->threads, rec)->tid, __ATOMIC_RELAXED));
	cJSON_AddNumberToObject(busy, "size", size);
	return true;
}

static struct uerr *add_record(cJSON *records, const struct tail *t, const struct umap_event *ev)
{
	cJSON *e = cJSON_CreateObject();

	cJSON_AddItemToArray(records, e);
	if (t->map->umap.type == UMAP_PERF_EVENT_ARRAY)
		cJSON_AddNumberToObject(e, "cpu", ev->cpu);
	if (!ev->data) {
		cJSON_AddItemToObject(e, "lost", protocol_u64(ev->lost));
		return NULL;
	}
	cJSON_AddNumberToObject(e, "size", ev->size);
	return view_add_typed(e, "value", t->map, t->type_id, ev->data, ev->size);
}

static bool counters_changed(struct tail *t, u64 now[3])
{
	bool changed = false;

	now[0] = umap_events_dropped(&t->events);
	now[1] = umap_events_retired(&t->events);
	now[2] = umap_events_spoilt(&t->events);
	for (int i = 0; i < 3; i++) {
		changed |= now[i] != t->told[i];
		t->told[i] = now[i];
	}
	return changed;
}

/* What is there, up to some; *any: it is worth saying. */
static struct uerr *news(struct tail *t, cJSON **ret, bool *any)
{
	static const char *const names[] = { "dropped", "retired", "spoilt" };
	cJSON *r = cJSON_CreateObject(), *records = cJSON_AddArrayToObject(r, "records");
	struct uerr *err = NULL;
	struct umap_event ev;
	u32 n = 0;
	bool busy;
	u64 now[3];

	while (!err && n < RECORDS_AT_ONCE && umap_events_next(&t->events, &ev)) {
		err = add_record(records, t, &ev);
		n++;
	}
	if (err) {
		cJSON_Delete(r);
		return err;
	}
	busy = !n && add_busy(r, t);
	*any = counters_changed(t, now) || n || busy != t->told_busy;
	t->told_busy = busy;
	for (int i = 0; i < 3; i++)
		cJSON_AddItemToObject(r, names[i], protocol_u64(now[i]));
	*ret = r;
	return NULL;
}

/* Sends some of what there is; the rest in the next turn of the main loop, where others
 * have theirs. When there is nothing the thread may sleep. */
static void follow(struct request *req)
{
	struct tail *t = (struct tail *)(uintptr_t)req->data;
	const u64 one = 1;
	bool any = false;
	cJSON *r = NULL;
	struct uerr *err;

	if (request_backlog(req) > BACKLOG_MAX)
		return; /* called again when the client has read */
	err = news(t, &r, &any);
	if (err) {
		request_fail(req, err);
		return;
	}
	if (any)
		request_continue(req, r);
	else
		cJSON_Delete(r);
	if (!any && !umap_events_sleep(&t->events))
		arm(t);
	else
		(void)!write(t->src.fd, &one, sizeof(one));
}

void tail_event(struct tail *t)
{
	u64 n;

	if (read(t->src.fd, &n, sizeof(n)) == sizeof(n))
		follow(t->req);
}

/* ---- life ---- */

static void tail_end(struct request *req)
{
	struct tail *t = (struct tail *)(uintptr_t)req->data;

	stop_thread(t);
	source_remove(req->d, &t->src);
	close(t->src.fd);
	t->map->tail = NULL;
	t->map->gone = NULL;
	umap_events_deinit(&t->events);
	free(t);
}

static void map_gone(struct map *m)
{
	request_fail(m->tail->req, uerr_new(UERR_FAILED, "map %s is gone: its object was unloaded", m->name));
}

static struct uerr *open_ring(struct request *req, struct tail *t)
{
	const char *type = param_str(req, "type");
	struct uerr *err = find_map(req, param_str(req, "map"), &t->map);

	if (err)
		return err;
	if (!umap_is_ring(t->map->umap.type) || t->map->umap.type == UMAP_USER_RINGBUF)
		return uerr_new(UERR_USAGE, "map %s is no ring buffer or perf event array (%s): bpfctl map dump %s shows what is in it", t->map->name,
				view_map_type(t->map->umap.type), t->map->name);
	if (t->map->tail)
		return uerr_new(UERR_FAILED, "map %s is being read by somebody else: a record goes to one reader",
				t->map->name);
	t->type_id = type ? btf_type_find(t->map->owner->obj, type) : 0;
	if (type && !t->type_id)
		return uerr_new(UERR_USAGE, "the object of map %s knows no type '%s': have the source mention it (const struct "
				"%s *unused __attribute__((unused));)", t->map->name, type, type);
	return umap_events_init(&t->events, &t->map->umap);
}

static void reply_once(struct request *req, struct tail *t)
{
	cJSON *r = NULL;
	bool any;
	struct uerr *err;

	t->req = req;
	err = news(t, &r, &any);
	umap_events_deinit(&t->events);
	free(t);
	if (err)
		request_fail(req, err);
	else
		request_reply(req, r);
}

static struct uerr *start_following(struct request *req, struct tail *t)
{
	struct uerr *err;

	t->req = req;
	t->src = (struct source){ .kind = SOURCE_TAIL, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .owner = t };
	if (t->src.fd < 0)
		return uerr_errno(errno, "eventfd");
	err = source_add(req->d, &t->src, EPOLLIN);
	if (!err)
		err = start_thread(t);
	if (err) {
		source_remove(req->d, &t->src);
		close(t->src.fd);
	}
	return err;
}

void cmd_map_tail(struct request *req)
{
	struct tail *t = calloc(1, sizeof(*t));
	struct uerr *err = t ? open_ring(req, t) : uerr_nomem();
	u64 now[3];

	if (!err && !req->more) {
		reply_once(req, t);
		return;
	}
	if (!err)
		err = start_following(req, t);
	if (err) {
		if (t)
			umap_events_deinit(&t->events);
		free(t);
		request_fail(req, err);
		return;
	}
	t->busy_since = monotonic_ns();
	t->map->tail = t;
	t->map->gone = map_gone;
	counters_changed(t, now);
	req->data = (u64)(uintptr_t)t;
	req->poll = follow; /* for when the client reads slowly, and what only the clock shows */
	req->end = tail_end;
	follow(req);
}
