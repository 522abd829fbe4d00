/* SPDX-License-Identifier: MIT */
/*
 * Handing our memfds to a target: a pair of sockets made there, one end fetched
 * by pidfd_getfd(2), the memfds sent through it, received, mapped and closed.
 * All threads stand still from before the first descriptor exists until after
 * the last is closed, so nobody there ever sees one, and no fork inherits any.
 */
#include "inject_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "injector/remote_mem.h"

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#define BATCH 32
#define PRIVATE_OPS (2 * PRIVATE_RANGES)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* A message header and its parts in the target's scratch area. */
struct message {
	struct msghdr h;
	struct iovec iov;
	char byte[16];
	_Alignas(16) char control[CMSG_SPACE(BATCH * sizeof(int))];
};
_Static_assert(sizeof(struct message) < REMOTE_SCRATCH, "room for a message");

/* Takes a copy of descriptor REMOTE_FD. A leader that has exited has none any
 * more: then through a live thread (Linux 6.9). */
static struct uerr *fetch_fd(struct injection *in, const struct remote *r, s64 remote_fd, int *ret)
{
	pid_t tid = r->th->tid == in->t.pid ? in->t.pid : tracee_live_tid(&in->t);
	cleanup_close int pidfd = (int)syscall(SYS_pidfd_open, tid, tid == in->t.pid ? 0 : PIDFD_THREAD);
	int fd;

	if (pidfd < 0)
		return uerr_errno(errno, "process %d (%s): pidfd", in->t.pid, in->t.comm);
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)remote_fd, 0);
	if (fd < 0)
		return uerr_errno(errno, "process %d (%s): cannot fetch a descriptor", in->t.pid, in->t.comm);
	*ret = fd;
	return NULL;
}

static struct uerr *refused(struct injection *in, s64 got, const char *what)
{
	if (got == -EMFILE || got == -ENFILE)
		return uerr_new(UERR_CANNOT_PROBE,
				"process %d (%s) has no free descriptor to receive shared memory through (its limit "
				"of open files is reached)",
				in->t.pid, in->t.comm);
	return uerr_errno((int)-got, "process %d (%s): %s", in->t.pid, in->t.comm, what);
}

static struct uerr *remote_close(struct remote *r, s64 fd)
{
	s64 got;

	return REMOTE_CALL(r, &got, SYS_close, (u64)fd);
}

/* Errors on the way out do not hide the first one. */
static struct uerr *first_error(struct uerr *err, struct uerr *later)
{
	if (!err)
		return later;
	uerr_free(later);
	return err;
}

/* ------------------------------------------------------------- memfds */

struct uerr *share_make_memfd(struct injection *in, struct remote *r, u64 size, s64 *remote_fd, int *ret)
{
	static const char name[] = MEMFD_NAME;
	cleanup_close int fd = -1;
	struct uerr *err;
	s64 got;

	if (remote_write(&in->t, r->scratch, name, sizeof(name)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot write to its stack", in->t.pid, in->t.comm);
	err = REMOTE_CALL(r, &got, SYS_memfd_create, r->scratch, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
	if (!err && got == -EINVAL) /* before Linux 6.3 */
		err = REMOTE_CALL(r, &got, SYS_memfd_create, r->scratch, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (err)
		return err;
	if (got < 0)
		return refused(in, got, "memfd_create");
	*remote_fd = got;
	err = fetch_fd(in, r, got, &fd);
	if (!err && (ftruncate(fd, (off_t)size) || fcntl(fd, F_ADD_SEALS, SEALS)))
		err = uerr_errno(errno, "memfd of %lu KiB", size / 1024);
	if (err)
		return first_error(err, remote_close(r, got));
	*ret = steal_fd(&fd);
	return NULL;
}

/* ------------------------------------------------------------- sockets */

static struct uerr *send_fds(int sock, const struct share *shares, size_t n)
{
	struct message m = {};
	struct cmsghdr *c;

	m.iov = (struct iovec){ m.byte, 1 };
	m.h = (struct msghdr){ .msg_iov = &m.iov, .msg_iovlen = 1, .msg_control = m.control,
			       .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	c = CMSG_FIRSTHDR(&m.h);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	for (size_t i = 0; i < n; i++)
		memcpy(CMSG_DATA(c) + i * sizeof(int), &shares[i].fd, sizeof(int));
	if (sendmsg(sock, &m.h, MSG_NOSIGNAL | MSG_DONTWAIT) != 1)
		return uerr_errno(errno, "cannot send shared memory");
	return NULL;
}

/* A message to be received at AT in the target. */
static void prepare_receive(struct message *m, addr_t at)
{
	m->iov = (struct iovec){ (void *)(at + offsetof(struct message, byte)), 1 };
	m->h = (struct msghdr){ .msg_iov = (void *)(at + offsetof(struct message, iov)), .msg_iovlen = 1,
				.msg_control = (void *)(at + offsetof(struct message, control)),
				.msg_controllen = sizeof(m->control) };
	memset(m->control, 0xff, sizeof(m->control));
}

/* Receives into FDS[*n], in the target. */
static struct uerr *receive_fds(struct injection *in, struct remote *r, s64 sock, int *fds, size_t *n)
{
	struct message m = {};
	addr_t at = r->scratch;
	struct cmsghdr c;
	struct uerr *err;
	s64 got;

	prepare_receive(&m, at);
	if (remote_write(&in->t, at, &m, sizeof(m)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot write to its stack", in->t.pid, in->t.comm);
	err = REMOTE_CALL(r, &got, SYS_recvmsg, (u64)sock, at, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (err)
		return err;
	if (got < 0)
		return refused(in, got, "recvmsg");
	if (remote_read(&in->t, at, &m, sizeof(m)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot read its stack", in->t.pid, in->t.comm);
	memcpy(&c, m.control, sizeof(c));
	*n = 0;
	if (m.h.msg_controllen >= CMSG_LEN(sizeof(int)) && c.cmsg_level == SOL_SOCKET &&
	    c.cmsg_type == SCM_RIGHTS && c.cmsg_len > CMSG_LEN(0) && c.cmsg_len <= CMSG_LEN(BATCH * sizeof(int)))
		*n = (c.cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, m.control + CMSG_LEN(0), *n * sizeof(int));
	return NULL;
}

static struct remote_op map_op(const struct share *s, int fd)
{
	u64 prot = s->readonly ? PROT_READ : PROT_READ | PROT_WRITE;

	return REMOTE_OP(SYS_mmap, s->addr, s->size, prot, MAP_SHARED | MAP_FIXED, (u64)fd, 0);
}

/* The ends of the pair: OURS here, two in the target, -1 once closed there. */
struct pair {
	int ours;
	int theirs[2];
};

/* Private pages that were only reserved; inject_place lets no more than PRIVATE_RANGES in. */
static size_t private_ops(struct injection *in, struct remote_op *ops)
{
	size_t k = 0;

	vec_foreach(p, &in->placed) {
		if (p->kind != RANGE_PRIVATE || p->committed)
			continue;
		ops[k++] = REMOTE_OP(SYS_mmap, p->addr, p->size, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, (u64)-1, 0);
		ops[k++] = REMOTE_OP(SYS_madvise, p->addr, p->size, MADV_WIPEONFORK);
	}
	return k;
}

static struct uerr *check_mapped(const struct injection *in, const struct remote_op *ops, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (remote_failed(ops[i].ret))
			return cannot_map(in, -ops[i].ret, ops[i].args[1]);
	return NULL;
}

/* Maps SHARES[n] as FDS[got] and closes these, in one go, since all threads
 * stand still meanwhile. THEIRS[1] goes with the first lot, THEIRS[0] with the
 * LAST, as do the private pages. */
static struct uerr *map_and_close(struct injection *in, struct remote *r, const struct share *shares, size_t n,
				  const int *fds, size_t got, struct pair *pair, bool last)
{
	struct remote_op ops[2 * BATCH + 2 + PRIVATE_OPS];
	struct uerr *err;
	size_t k = 0, nmaps;

	for (size_t i = 0; i < n; i++)
		ops[k++] = map_op(&shares[i], fds[i]);
	if (last)
		k += private_ops(in, ops + k);
	nmaps = k;
	for (size_t i = 0; i < got; i++)
		ops[k++] = REMOTE_OP(SYS_close, (u64)fds[i]);
	if (pair->theirs[1] >= 0)
		ops[k++] = REMOTE_OP(SYS_close, (u64)pair->theirs[1]);
	pair->theirs[1] = -1;
	if (last) {
		ops[k++] = REMOTE_OP(SYS_close, (u64)pair->theirs[0]);
		pair->theirs[0] = -1;
	}
	err = remote_batch(r, in->batch_code, ops, k, last ? pair->ours : -1);
	return err ? err : check_mapped(in, ops, nmaps);
}

/* One message with N memfds, of which *done got mapped: fewer when the target
 * has not enough free descriptors for all of them at once, and none when the
 * only free one was THEIRS[1]. */
static struct uerr *pass_batch(struct injection *in, struct remote *r, struct pair *pair, const struct share *shares,
			       size_t n, bool last, size_t *done)
{
	bool had_spare = pair->theirs[1] >= 0;
	int fds[BATCH];
	size_t got = 0;
	struct uerr *err;

	*done = 0;
	err = send_fds(pair->ours, shares, n);
	if (!err)
		err = receive_fds(in, r, pair->theirs[0], fds, &got);
	if (err)
		return err;
	*done = got < n ? got : n;
	if (!got && !had_spare)
		return refused(in, -EMFILE, "recvmsg");
	return map_and_close(in, r, shares, *done, fds, got, pair, last && got == n);
}

static struct uerr *pass_all(struct injection *in, struct remote *r, struct pair *pair, size_t from)
{
	struct uerr *err = NULL;

	for (size_t i = from, done; i < in->shares.n && !err; i += done) {
		size_t left = in->shares.n - i;

		err = pass_batch(in, r, pair, &in->shares.data[i], left < BATCH ? left : BATCH, left <= BATCH, &done);
	}
	return err;
}

static u64 socket_inode(const struct remote *r, int remote_fd)
{
	char path[64], link[64];
	u64 inode = 0;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/fd/%d", r->th->tgid, r->th->tid, remote_fd);
	n = readlink(path, link, sizeof(link) - 1);
	link[n < 0 ? 0 : n] = 0;
	return sscanf(link, "socket:[%lu]", &inode) == 1 ? inode : 0;
}

/* From here on, whoever comes after us can find and close them. */
static struct uerr *journal_pair(struct injection *in, const struct remote *r, const int pair[2])
{
	u64 inodes[2] = { socket_inode(r, pair[0]), socket_inode(r, pair[1]) };

	if (in->journal.fd < 0)
		return NULL;
	journal_sockets(&in->journal, inodes);
	return journal_flush(&in->journal);
}

/* What is still open in the target after an error. */
static struct uerr *close_pair(struct injection *in, struct remote *r, const struct pair *pair)
{
	struct remote_op ops[2];
	size_t n = 0;

	for (int i = 0; i < 2; i++)
		if (pair->theirs[i] >= 0)
			ops[n++] = REMOTE_OP(SYS_close, (u64)pair->theirs[i]);
	return remote_batch(r, in->batch_code, ops, n, -1);
}

static struct uerr *map_private(struct injection *in, struct remote *r)
{
	struct remote_op ops[PRIVATE_OPS];
	size_t n = private_ops(in, ops);
	struct uerr *err = remote_batch(r, in->batch_code, ops, n, -1);

	return err ? err : check_mapped(in, ops, n);
}

/* ------------------------------------------------- all by the routine */

/* The scratch area of a hand-over. Until they are filled there, both ends of the
 * pair and the descriptors in the message are -1, which no call takes. */
struct hand_over {
	struct message m;
	int pair[2];
};
_Static_assert(sizeof(struct hand_over) <= REMOTE_BATCH_KEEP, "room beside a batch");
#define PAIR_AT(i) (offsetof(struct hand_over, pair) + (i) * sizeof(int))
#define FD_AT(i)   (offsetof(struct hand_over, m.control) + CMSG_LEN(0) + (i) * sizeof(int))
#define FIRST_MAP 2

/* Makes a pair, waits for what we send, maps N of it, closes everything. All of
 * it is written down beforehand: if we die, the thread goes through with it. */
static size_t hand_over_ops(struct injection *in, addr_t at, const struct share *shares, size_t n, bool last,
			    struct remote_op *ops, size_t *nmade)
{
	size_t k = 0;

	/* Failing, it may leave numbers behind that are not ours. */
	ops[k++] = REMOTE_OP(SYS_socketpair | REMOTE_OR_END, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, at + PAIR_AT(0));
	ops[k++] = REMOTE_OP(SYS_recvmsg | REMOTE_INT_1ST(PAIR_AT(0)) | REMOTE_RETRY, 0, at,
			     MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	for (size_t i = 0; i < n; i++) {
		ops[k] = map_op(&shares[i], -1);
		ops[k++].nr |= REMOTE_INT_5TH(FD_AT(i));
	}
	if (last)
		k += private_ops(in, ops + k);
	*nmade = k;
	for (size_t i = 0; i < n; i++)
		ops[k++] = REMOTE_OP(SYS_close | REMOTE_INT_1ST(FD_AT(i)));
	ops[k++] = REMOTE_OP(SYS_close | REMOTE_INT_1ST(PAIR_AT(1)));
	ops[k++] = REMOTE_OP(SYS_close | REMOTE_INT_1ST(PAIR_AT(0)));
	return k;
}

/* What we do while the thread waits: take its second end, send. */
static struct uerr *serve(struct injection *in, struct remote *r, const struct share *shares, size_t n, int *ours)
{
	struct uerr *err;
	int theirs;
	s64 got;

	if (!remote_batch_await(r, 0, &got) || got)
		return NULL; /* told when all is over */
	if (remote_read(&in->t, r->scratch + PAIR_AT(1), &theirs, sizeof(theirs)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot read its stack", in->t.pid, in->t.comm);
	err = fetch_fd(in, r, theirs, ours);
	return err ? err : send_fds(*ours, shares, n);
}

/* *done: how many of SHARES[n] are mapped now; fewer when the target has not
 * enough free descriptors for all of them at once. */
static struct uerr *hand_over_batch(struct injection *in, struct remote *r, const struct share *shares, size_t n,
				    bool last, size_t *done)
{
	struct remote_op ops[2 * BATCH + 4 + PRIVATE_OPS];
	size_t nmade, k = hand_over_ops(in, r->scratch, shares, n, last, ops, &nmade);
	struct hand_over h = { .pair = { -1, -1 } };
	cleanup_close int ours = -1;
	struct uerr *err, *err2;

	prepare_receive(&h.m, r->scratch);
	if (remote_write(&in->t, r->scratch, &h, sizeof(h)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot write to its stack", in->t.pid, in->t.comm);
	err = remote_batch_start(r, in->batch_code, ops, k);
	if (err)
		return err;
	err = serve(in, r, shares, n, &ours);
	if (err)
		remote_batch_give_up(r, 1);
	err2 = remote_batch_finish(r, in->batch_code, ops, k, ours);
	if (err || err2)
		return first_error(err, err2);
	if (ops[0].ret < 0)
		return refused(in, ops[0].ret, "socketpair");
	*done = 0;
	if (ops[1].ret == -EAGAIN)
		return NULL; /* we were too late */
	if (ops[1].ret < 0)
		return refused(in, ops[1].ret, "recvmsg");
	while (*done < n && ops[FIRST_MAP + *done].ret != -EBADF)
		++*done;
	for (size_t i = FIRST_MAP; i < nmade; i++)
		if (remote_failed(ops[i].ret) && (i >= FIRST_MAP + n || i < FIRST_MAP + *done))
			return cannot_map(in, -ops[i].ret, ops[i].args[1]);
	return NULL;
}

/* Until a batch does not come through whole: then *done is less than all. */
static struct uerr *hand_over(struct injection *in, struct remote *r, size_t *done)
{
	struct uerr *err = NULL;
	size_t left, want, got;

	for (*done = 0; *done < in->shares.n && !err; *done += got) {
		left = in->shares.n - *done;
		want = left < BATCH ? left : BATCH;
		err = hand_over_batch(in, r, &in->shares.data[*done], want, left <= BATCH, &got);
		if (err || got < want)
			break;
	}
	return err;
}

/* ------------------------------------------------------- a pair to keep */

/* By a single call. Between this and the record a worker may die, and nobody would
 * find the pair: only where the caller has no routine there. */
static struct uerr *pair_by_call(struct injection *in, struct remote *r, struct pair *ret)
{
	struct uerr *err;
	s64 got;

	err = REMOTE_CALL(r, &got, SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, r->scratch);
	if (err)
		return err;
	if (got < 0)
		return refused(in, got, "socketpair");
	if (remote_read(&in->t, r->scratch, ret->theirs, sizeof(ret->theirs)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot read its stack", in->t.pid, in->t.comm);
	err = journal_pair(in, r, ret->theirs);
	return err ? err : fetch_fd(in, r, ret->theirs[1], &ret->ours);
}

/* What we do while the thread waits: record its pair, take an end, and tell it to
 * forget the numbers that it would close: the message is received over them. */
static struct uerr *adopt_pair(struct injection *in, struct remote *r, struct pair *ret)
{
	const int none[2] = { -1, -1 };
	struct uerr *err;
	s64 got;

	if (!remote_batch_await(r, 0, &got) || got)
		return NULL; /* told when all is over */
	if (remote_read(&in->t, r->scratch + PAIR_AT(0), ret->theirs, sizeof(ret->theirs)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot read its stack", in->t.pid, in->t.comm);
	err = journal_pair(in, r, ret->theirs);
	if (!err)
		err = fetch_fd(in, r, ret->theirs[1], &ret->ours);
	if (!err && send(ret->ours, none, sizeof(none), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(none))
		err = uerr_errno(errno, "process %d (%s): a pair of sockets", in->t.pid, in->t.comm);
	return err;
}

/* By the routine: if we die before the pair is recorded, it closes both ends. */
static struct uerr *pair_by_routine(struct injection *in, struct remote *r, struct pair *ret)
{
	struct remote_op ops[] = {
		REMOTE_OP(SYS_socketpair | REMOTE_OR_END, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
			  r->scratch + PAIR_AT(0)),
		REMOTE_OP(SYS_recvmsg | REMOTE_INT_1ST(PAIR_AT(0)) | REMOTE_RETRY, 0, r->scratch, MSG_DONTWAIT),
		REMOTE_OP(SYS_close | REMOTE_INT_1ST(PAIR_AT(1))),
		REMOTE_OP(SYS_close | REMOTE_INT_1ST(PAIR_AT(0))),
	};
	struct hand_over h = { .pair = { -1, -1 } };
	struct uerr *err, *err2;

	h.m.iov = (struct iovec){ (void *)(r->scratch + PAIR_AT(0)), sizeof(h.pair) };
	h.m.h = (struct msghdr){ .msg_iov = (void *)(r->scratch + offsetof(struct message, iov)), .msg_iovlen = 1 };
	if (remote_write(&in->t, r->scratch, &h, sizeof(h)))
		return uerr_new(UERR_FAILED, "process %d (%s): cannot write to its stack", in->t.pid, in->t.comm);
	err = remote_batch_start(r, in->batch_code, ops, ARRAY_SIZE(ops));
	if (err)
		return err;
	err = adopt_pair(in, r, ret);
	if (err)
		remote_batch_give_up(r, 1);
	err2 = remote_batch_finish(r, in->batch_code, ops, ARRAY_SIZE(ops), -1);
	if (!err && !err2 && ops[0].ret < 0)
		err = refused(in, ops[0].ret, "socketpair");
	else if (!err && !err2 && ops[1].ret != sizeof(h.pair))
		err = uerr_new(UERR_FAILED, "process %d (%s): thread %d did not wait for us", in->t.pid, in->t.comm,
			       r->th->tid);
	if (err || err2)
		ret->theirs[0] = ret->theirs[1] = -1; /* the routine has closed them */
	return first_error(err, err2);
}

/* ------------------------------------------------------------ together */

/* SHARES from number FROM on, call by call. */
static struct uerr *pass_from(struct injection *in, struct remote *r, size_t from)
{
	struct pair pair = { -1, { -1, -1 } };
	struct uerr *err;

	err = remote_batch_possible(r, in->batch_code) ? pair_by_routine(in, r, &pair) : pair_by_call(in, r, &pair);
	if (!err)
		err = pass_all(in, r, &pair, from);
	if (r->active)
		err = first_error(err, close_pair(in, r, &pair));
	if (pair.ours >= 0)
		close(pair.ours);
	/* Written with what the commit says afterwards. A thread that got away may have them
	 * open still: whoever undoes what is in the journal closes them. */
	if (r->active)
		journal_sockets(&in->journal, (const u64[2]){});
	return err;
}

struct uerr *share_map_all(struct injection *in, struct remote *r)
{
	struct uerr *err = NULL;
	size_t done = 0;

	if (!in->shares.n)
		return map_private(in, r);
	if (remote_batch_possible(r, in->batch_code))
		err = hand_over(in, r, &done);
	return err || done == in->shares.n ? err : pass_from(in, r, done);
}
