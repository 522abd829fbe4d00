/* SPDX-License-Identifier: MIT */
/*
 * One thread in each blocking system call. None of them may come back before it
 * is woken, and then each gives what it gives when nobody stops it meanwhile.
 * Those of the first table return EINTR from a stop, unless they are cured; those
 * of the second are restarted by the kernel itself.
 */
#include "vic_blocked.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MINUTE 60

struct blocked {
	const char *name;
	long nr;
	int (*make)(struct blocked *b); /* fd[0] is waited for, fd[1] wakes it; non-zero: not on this system */
	long (*call)(struct blocked *b);
	void (*wake)(struct blocked *b);
	long want;
	int want_errno;
	int fd[2];
	char *memory;
	pid_t child;
	pthread_t thread;
	bool early; /* a stop ends it as it would end by itself: the work goes on in the kernel */
	bool left_out;
};

static struct victim_shared *shared;

/* ---------------------------------------------- what is waited for */

static int make_nothing(struct blocked *b)
{
	return 0;
}

static int make_pipe(struct blocked *b)
{
	return pipe(b->fd);
}

static void wake_byte(struct blocked *b)
{
	if (write(b->fd[1], "x", 1) != 1)
		abort();
}

/* The peer's end reads until there is room again. */
static void wake_reader(struct blocked *b)
{
	static char sink[1 << 20];

	if (read(b->fd[1], sink, sizeof(sink)) <= 0)
		abort();
}

static void fill(int fd)
{
	static const char junk[4096];
	int flags = fcntl(fd, F_GETFL);

	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	while (write(fd, junk, sizeof(junk)) > 0)
		;
	while (write(fd, junk, 1) > 0)
		;
	fcntl(fd, F_SETFL, flags);
}

static int make_full_pipe(struct blocked *b)
{
	int p[2];

	if (pipe(p))
		return -1;
	b->fd[0] = p[1];
	b->fd[1] = p[0];
	fill(p[1]);
	return 0;
}

static int make_sockets(struct blocked *b)
{
	return socketpair(AF_UNIX, SOCK_STREAM, 0, b->fd);
}

static int make_timed_sockets(struct blocked *b)
{
	struct timeval tv = { MINUTE, 0 };

	return make_sockets(b) || setsockopt(b->fd[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
	       setsockopt(b->fd[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

static int make_full_timed_sockets(struct blocked *b)
{
	if (make_timed_sockets(b))
		return -1;
	fill(b->fd[0]);
	return 0;
}

static int make_epoll(struct blocked *b)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int p[2];

	if (pipe(p))
		return -1;
	b->fd[0] = epoll_create1(0);
	b->fd[1] = p[1];
	return epoll_ctl(b->fd[0], EPOLL_CTL_ADD, p[0], &ev);
}

static void listen_at(struct blocked *b, struct sockaddr_un *at, socklen_t *len)
{
	*at = (struct sockaddr_un){ .sun_family = AF_UNIX };
	*len = sizeof(*at);
	getsockname(b->fd[0], (struct sockaddr *)at, len);
}

static int make_listener(struct blocked *b)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct timeval tv = { MINUTE, 0 };

	b->fd[0] = socket(AF_UNIX, SOCK_STREAM, 0);
	return bind(b->fd[0], (void *)&un, sizeof(sa_family_t)) || listen(b->fd[0], 0) ||
	       setsockopt(b->fd[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
}

static void wake_connect(struct blocked *b)
{
	struct sockaddr_un at;
	socklen_t len;

	listen_at(b, &at, &len);
	b->fd[1] = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(b->fd[1], (void *)&at, len))
		abort();
}

/* A listener whose queue is full already. */
static int make_full_listener(struct blocked *b)
{
	if (make_listener(b))
		return -1;
	wake_connect(b);
	return 0;
}

static void wake_accept(struct blocked *b)
{
	close(accept(b->fd[0], NULL, NULL));
}

/* A connection whose close waits for the peer to take what was sent. */
static int make_lingering(struct blocked *b)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct linger linger = { 1, MINUTE };
	socklen_t len = sizeof(in);

	b->fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (void *)&in, len) || listen(listener, 1) || getsockname(listener, (void *)&in, &len) ||
	    connect(b->fd[0], (void *)&in, len))
		return -1;
	b->fd[1] = accept(listener, NULL, NULL);
	close(listener);
	fill(b->fd[0]);
	return setsockopt(b->fd[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static void wake_close(struct blocked *b)
{
	close(b->fd[1]);
}

static int make_sem(struct blocked *b)
{
	b->fd[0] = semget(IPC_PRIVATE, 1, 0600);
	return b->fd[0] < 0;
}

static void wake_sem(struct blocked *b)
{
	struct sembuf up = { .sem_op = 1 };

	semop(b->fd[0], &up, 1);
}

static int make_queue(struct blocked *b)
{
	b->fd[0] = msgget(IPC_PRIVATE, 0600);
	return b->fd[0] < 0;
}

struct message {
	long type;
	char text[4096];
};

static void wake_message(struct blocked *b)
{
	struct message m = { .type = 1 };

	msgsnd(b->fd[0], &m, 8, 0);
}

static int make_full_queue(struct blocked *b)
{
	struct message m = { .type = 1 };

	if (make_queue(b))
		return -1;
	while (!msgsnd(b->fd[0], &m, sizeof(m.text), IPC_NOWAIT))
		;
	return 0;
}

static void wake_queue(struct blocked *b)
{
	struct message m;

	msgrcv(b->fd[0], &m, sizeof(m.text), 0, 0);
}

/* fd[0] is a second description of a file that fd[1] has locked. */
static int make_lock(struct blocked *b)
{
	char path[] = "/tmp/uprobed-lock-XXXXXX";

	b->fd[1] = mkstemp(path);
	b->fd[0] = open(path, O_RDWR);
	unlink(path);
	return flock(b->fd[1], LOCK_EX);
}

static void wake_flock(struct blocked *b)
{
	flock(b->fd[1], LOCK_UN);
}

static int make_range_lock(struct blocked *b)
{
	struct flock whole = { .l_type = F_WRLCK };

	return make_lock(b) || fcntl(b->fd[1], F_OFD_SETLK, &whole);
}

static void wake_range_lock(struct blocked *b)
{
	struct flock none = { .l_type = F_UNLCK };

	fcntl(b->fd[1], F_OFD_SETLK, &none);
}

static int make_fifo(struct blocked *b)
{
	char dir[] = "/tmp/uprobed-fifo-XXXXXX";

	return !mkdtemp(dir) || asprintf(&b->memory, "%s/fifo", dir) < 0 || mkfifo(b->memory, 0600);
}

static void wake_fifo(struct blocked *b)
{
	b->fd[1] = open(b->memory, O_WRONLY);
	unlink(b->memory);
	*strrchr(b->memory, '/') = 0;
	rmdir(b->memory);
}

/* Before there is a socket that lingers: the last to close that would wait for it. */
static int make_child(struct blocked *b)
{
	char c;

	if (pipe(b->fd))
		return -1;
	b->child = fork();
	if (!b->child) {
		dup2(b->fd[0], 0);
		close_range(1, ~0u, 0);
		_exit(read(0, &c, 1) == 1 ? 7 : 8);
	}
	return b->child < 0;
}

static void on_signal(int sig)
{
}

static int make_handler(struct blocked *b)
{
	struct sigaction sa = { .sa_handler = on_signal };

	return sigaction(SIGUSR2, &sa, NULL);
}

static void wake_signal(struct blocked *b)
{
	pthread_kill(b->thread, SIGUSR2);
}

static int make_word(struct blocked *b)
{
	b->memory = calloc(1, 64);
	return !b->memory;
}

static void wake_futex(struct blocked *b)
{
	__atomic_store_n((int *)b->memory, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, b->memory, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static int make_aio(struct blocked *b)
{
	struct iocb cb = { .aio_lio_opcode = IOCB_CMD_POLL, .aio_buf = POLLIN }, *list = &cb;
	int p[2];

	b->memory = NULL;
	if (pipe(p) || syscall(SYS_io_setup, 4, &b->memory))
		return -1;
	cb.aio_fildes = (unsigned)p[0];
	b->fd[1] = p[1];
	return syscall(SYS_io_submit, b->memory, 1, &list) != 1;
}

static int make_uring(struct blocked *b)
{
	struct io_uring_params p = {};
	int pipefd[2];
	u32 *tail, *array;
	struct io_uring_sqe *sqes;
	char *ring;

	b->fd[0] = (int)syscall(SYS_io_uring_setup, 4, &p);
	if (b->fd[0] < 0 || pipe(pipefd))
		return -1;
	b->fd[1] = pipefd[1];
	ring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd[0], IORING_OFF_SQ_RING);
	sqes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd[0], IORING_OFF_SQES);
	if (ring == MAP_FAILED || sqes == MAP_FAILED)
		return -1;
	sqes[0] = (struct io_uring_sqe){ .opcode = IORING_OP_POLL_ADD, .fd = pipefd[0], .poll_events = POLLIN };
	tail = (u32 *)(ring + p.sq_off.tail);
	array = (u32 *)(ring + p.sq_off.array);
	array[0] = 0;
	__atomic_store_n(tail, 1, __ATOMIC_RELEASE);
	return syscall(SYS_io_uring_enter, b->fd[0], 1, 0, 0, NULL, 0) != 1;
}

/* ------------------------------------------------------- the calls */

static struct timespec minute = { MINUTE, 0 };

static long call_epoll_wait(struct blocked *b)
{
	struct epoll_event ev;

	return syscall(SYS_epoll_wait, b->fd[0], &ev, 1, MINUTE * 1000);
}

static long call_epoll_pwait(struct blocked *b)
{
	struct epoll_event ev;
	u64 mask = 1ull << (SIGUSR1 - 1);

	return syscall(SYS_epoll_pwait, b->fd[0], &ev, 1, MINUTE * 1000, &mask, 8);
}

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
static long call_epoll_pwait2(struct blocked *b)
{
	struct epoll_event ev;

	return syscall(SYS_epoll_pwait2, b->fd[0], &ev, 1, &minute, NULL, 8);
}

static long call_recv(struct blocked *b)
{
	char c;

	return recv(b->fd[0], &c, 1, 0);
}

static long call_recvmsg(struct blocked *b)
{
	char c;
	struct iovec iov = { &c, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	return recvmsg(b->fd[0], &m, 0);
}

static long call_recvmmsg(struct blocked *b)
{
	char c;
	struct iovec iov = { &c, 1 };
	struct mmsghdr m = { .msg_hdr = { .msg_iov = &iov, .msg_iovlen = 1 } };

	return recvmmsg(b->fd[0], &m, 1, 0, NULL);
}

static long call_read(struct blocked *b)
{
	char c[8];

	return read(b->fd[0], c, sizeof(c));
}

static long call_readv(struct blocked *b)
{
	char c;
	struct iovec iov = { &c, 1 };

	return readv(b->fd[0], &iov, 1);
}

static long call_send(struct blocked *b)
{
	return send(b->fd[0], "x", 1, 0);
}

static long call_sendmsg(struct blocked *b)
{
	char c = 'x';
	struct iovec iov = { &c, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	return sendmsg(b->fd[0], &m, 0);
}

static long call_sendmmsg(struct blocked *b)
{
	char c = 'x';
	struct iovec iov = { &c, 1 };
	struct mmsghdr m = { .msg_hdr = { .msg_iov = &iov, .msg_iovlen = 1 } };

	return sendmmsg(b->fd[0], &m, 1, 0);
}

static long call_write(struct blocked *b)
{
	return write(b->fd[0], "x", 1);
}

static long call_writev(struct blocked *b)
{
	char c = 'x';
	struct iovec iov = { &c, 1 };

	return writev(b->fd[0], &iov, 1);
}

/* The result is a descriptor: whether there is one counts. */
static long call_accept(struct blocked *b)
{
	return syscall(SYS_accept, b->fd[0], NULL, NULL) > 0;
}

static long call_accept4(struct blocked *b)
{
	return accept4(b->fd[0], NULL, NULL, SOCK_CLOEXEC) > 0;
}

static long connect_to(struct blocked *b, time_t limit)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct timeval tv = { limit, 0 };
	struct sockaddr_un at;
	socklen_t len;

	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	listen_at(b, &at, &len);
	return connect(fd, (void *)&at, len);
}

static long call_connect(struct blocked *b)
{
	return connect_to(b, 0);
}

static long call_timed_connect(struct blocked *b)
{
	return connect_to(b, MINUTE);
}

static long call_sigtimedwait(struct blocked *b)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return syscall(SYS_rt_sigtimedwait, &set, NULL, &minute, 8);
}

static long call_semop(struct blocked *b)
{
	struct sembuf down = { .sem_op = -1 };

	return syscall(SYS_semop, b->fd[0], &down, 1);
}

static long call_semtimedop(struct blocked *b)
{
	struct sembuf down = { .sem_op = -1 };

	return syscall(SYS_semtimedop, b->fd[0], &down, 1, &minute);
}

static long call_io_getevents(struct blocked *b)
{
	struct io_event ev;

	return syscall(SYS_io_getevents, b->memory, 1, 1, &ev, &minute);
}

static long call_io_pgetevents(struct blocked *b)
{
	struct io_event ev;

	return syscall(SYS_io_pgetevents, b->memory, 1, 1, &ev, &minute, NULL);
}

static long call_io_uring_enter(struct blocked *b)
{
	return syscall(SYS_io_uring_enter, b->fd[0], 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
}

static long call_nanosleep(struct blocked *b)
{
	return syscall(SYS_nanosleep, &minute, NULL);
}

static long call_clock_nanosleep(struct blocked *b)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += MINUTE;
	return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

static long call_poll(struct blocked *b)
{
	struct pollfd p = { b->fd[0], POLLIN, 0 };

	return syscall(SYS_poll, &p, 1, MINUTE * 1000);
}

static long call_ppoll(struct blocked *b)
{
	struct pollfd p = { b->fd[0], POLLIN, 0 };
	u64 mask = 1ull << (SIGUSR1 - 1);
	struct timespec left = minute;

	return syscall(SYS_ppoll, &p, 1, &left, &mask, 8);
}

static long call_select(struct blocked *b)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(b->fd[0], &set);
	return syscall(SYS_select, b->fd[0] + 1, &set, NULL, NULL, NULL);
}

static long call_pselect(struct blocked *b)
{
	struct timespec left = minute;
	fd_set set;

	FD_ZERO(&set);
	FD_SET(b->fd[0], &set);
	return syscall(SYS_pselect6, b->fd[0] + 1, &set, NULL, NULL, &left, NULL);
}

static long call_futex(struct blocked *b)
{
	return syscall(SYS_futex, b->memory, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static long call_timed_futex(struct blocked *b)
{
	return syscall(SYS_futex, b->memory, FUTEX_WAIT, 0, &minute, NULL, 0);
}

static long call_wait4(struct blocked *b)
{
	int status;

	return wait4(b->child, &status, 0, NULL) == b->child && WEXITSTATUS(status) == 7;
}

static long call_waitid(struct blocked *b)
{
	siginfo_t info = {};

	return waitid(P_PID, (id_t)b->child, &info, WEXITED) ? -1 : info.si_status;
}

static long call_pause(struct blocked *b)
{
	return syscall(SYS_pause);
}

static long call_sigsuspend(struct blocked *b)
{
	u64 mask = 0;

	return syscall(SYS_rt_sigsuspend, &mask, 8);
}

static long call_msgrcv(struct blocked *b)
{
	struct message m;

	return msgrcv(b->fd[0], &m, sizeof(m.text), 0, 0);
}

static long call_msgsnd(struct blocked *b)
{
	struct message m = { .type = 1 };

	return msgsnd(b->fd[0], &m, sizeof(m.text), 0);
}

static long call_flock(struct blocked *b)
{
	return flock(b->fd[0], LOCK_EX);
}

/* Made again it would fail, or close what somebody else has opened meanwhile. */
static long call_close(struct blocked *b)
{
	return syscall(SYS_close, b->fd[0]);
}

static long call_fcntl(struct blocked *b)
{
	struct flock whole = { .l_type = F_WRLCK };

	return syscall(SYS_fcntl, b->fd[0], F_OFD_SETLKW, &whole);
}

static long call_open(struct blocked *b)
{
	return syscall(SYS_openat, AT_FDCWD, b->memory, O_RDONLY) > 0;
}

static int make_eventfd(struct blocked *b)
{
	b->fd[0] = b->fd[1] = eventfd(0, 0);
	return b->fd[0] < 0;
}

static void wake_eventfd(struct blocked *b)
{
	u64 one = 1;

	if (write(b->fd[1], &one, sizeof(one)) != sizeof(one))
		abort();
}

static int make_timer(struct blocked *b)
{
	struct itimerspec its = { .it_value = minute };

	b->fd[0] = timerfd_create(CLOCK_MONOTONIC, 0);
	return timerfd_settime(b->fd[0], 0, &its, NULL);
}

static void wake_timer(struct blocked *b)
{
	struct itimerspec its = { .it_value = { 0, 1 } };

	timerfd_settime(b->fd[0], 0, &its, NULL);
}

#define B(name_, nr_, make_, call_, wake_, ...) \
	{ .name = name_, .nr = SYS_##nr_, .make = make_, .call = call_, .wake = wake_, __VA_ARGS__ }

static struct blocked all[] = {
	/* cured */
	B("epoll_wait", epoll_wait, make_epoll, call_epoll_wait, wake_byte, .want = 1),
	B("epoll_pwait", epoll_pwait, make_epoll, call_epoll_pwait, wake_byte, .want = 1),
	B("epoll_pwait2", epoll_pwait2, make_epoll, call_epoll_pwait2, wake_byte, .want = 1),
	B("recv, time-out", recvfrom, make_timed_sockets, call_recv, wake_byte, .want = 1),
	B("recvmsg, time-out", recvmsg, make_timed_sockets, call_recvmsg, wake_byte, .want = 1),
	B("recvmmsg, time-out", recvmmsg, make_timed_sockets, call_recvmmsg, wake_byte, .want = 1),
	B("read of a socket, time-out", read, make_timed_sockets, call_read, wake_byte, .want = 1),
	B("readv of a socket, time-out", readv, make_timed_sockets, call_readv, wake_byte, .want = 1),
	B("send, time-out", sendto, make_full_timed_sockets, call_send, wake_reader, .want = 1),
	B("sendmsg, time-out", sendmsg, make_full_timed_sockets, call_sendmsg, wake_reader, .want = 1),
	B("sendmmsg, time-out", sendmmsg, make_full_timed_sockets, call_sendmmsg, wake_reader, .want = 1),
	B("write to a socket, time-out", write, make_full_timed_sockets, call_write, wake_reader, .want = 1),
	B("writev to a socket, time-out", writev, make_full_timed_sockets, call_writev, wake_reader, .want = 1),
	B("accept, time-out", accept, make_listener, call_accept, wake_connect, .want = 1),
	B("accept4, time-out", accept4, make_listener, call_accept4, wake_connect, .want = 1),
	B("connect, time-out", connect, make_full_listener, call_timed_connect, wake_accept),
	B("rt_sigtimedwait", rt_sigtimedwait, make_nothing, call_sigtimedwait, wake_signal, .want = SIGUSR2),
	B("semop", semop, make_sem, call_semop, wake_sem),
	B("semtimedop", semtimedop, make_sem, call_semtimedop, wake_sem),
	B("io_getevents", io_getevents, make_aio, call_io_getevents, wake_byte, .want = 1),
	B("io_pgetevents", io_pgetevents, make_aio, call_io_pgetevents, wake_byte, .want = 1),
	B("io_uring_enter", io_uring_enter, make_uring, call_io_uring_enter, wake_byte),
	/* restarted */
	B("nanosleep", nanosleep, make_handler, call_nanosleep, wake_signal, .want = -1, .want_errno = EINTR),
	B("clock_nanosleep", clock_nanosleep, make_handler, call_clock_nanosleep, wake_signal, .want = -1, .want_errno = EINTR),
	B("poll", poll, make_pipe, call_poll, wake_byte, .want = 1),
	B("ppoll", ppoll, make_pipe, call_ppoll, wake_byte, .want = 1),
	B("select", select, make_pipe, call_select, wake_byte, .want = 1),
	B("pselect6", pselect6, make_pipe, call_pselect, wake_byte, .want = 1),
	B("futex", futex, make_word, call_futex, wake_futex),
	B("futex, time-out", futex, make_word, call_timed_futex, wake_futex),
	B("read of a pipe", read, make_pipe, call_read, wake_byte, .want = 1),
	B("read of an eventfd", read, make_eventfd, call_read, wake_eventfd, .want = 8),
	B("read of a timer", read, make_timer, call_read, wake_timer, .want = 8),
	B("write to a pipe", write, make_full_pipe, call_write, wake_reader, .want = 1),
	B("recv", recvfrom, make_sockets, call_recv, wake_byte, .want = 1),
	B("connect", connect, make_full_listener, call_connect, wake_accept),
	B("wait4", wait4, make_child, call_wait4, wake_byte, .want = 1),
	B("waitid", waitid, make_child, call_waitid, wake_byte, .want = 7),
	B("pause", pause, make_handler, call_pause, wake_signal, .want = -1, .want_errno = EINTR),
	B("sigsuspend", rt_sigsuspend, make_handler, call_sigsuspend, wake_signal, .want = -1, .want_errno = EINTR),
	B("msgrcv", msgrcv, make_queue, call_msgrcv, wake_message, .want = 8),
	B("msgsnd", msgsnd, make_full_queue, call_msgsnd, wake_queue),
	B("flock", flock, make_lock, call_flock, wake_flock),
	B("fcntl", fcntl, make_range_lock, call_fcntl, wake_range_lock),
	B("close", close, make_lingering, call_close, wake_close, .early = true),
	B("open of a fifo", openat, make_fifo, call_open, wake_fifo, .want = 1),
};

/* ------------------------------------------------------ the threads */

static void *block(void *arg)
{
	struct blocked *b = arg;
	size_t i = (size_t)(b - all);
	long got;

	VICTIM_WRITE(shared->calls[BLOCKED_TIDS + i], (u64)gettid());
	errno = 0;
	got = b->call(b);
	if (got != b->want || (got < 0 && errno != b->want_errno) || (!b->early && !VICTIM_READ(shared->go))) {
		fprintf(stderr, "# %s: %ld (%s), want %ld%s\n", b->name, got, strerror(errno), b->want,
			VICTIM_READ(shared->go) ? "" : ", and not yet");
		__atomic_fetch_add(&shared->wrong, 1, __ATOMIC_RELAXED);
	}
	VICTIM_WRITE(shared->calls[i], 1);
	return NULL;
}

static void remove_ids(const struct blocked *b)
{
	if (b->make == make_sem)
		semctl(b->fd[0], 0, IPC_RMID);
	if (b->make == make_queue || b->make == make_full_queue)
		msgctl(b->fd[0], IPC_RMID, NULL);
}

int blocked_run(struct victim_shared *s, void (*ready)(void))
{
	size_t n = sizeof(all) / sizeof(*all);

	shared = s;
	for (size_t i = 0; i < n; i++) {
		all[i].left_out = all[i].make(&all[i]);
		VICTIM_WRITE(shared->calls[BLOCKED_NRS + i], (u64)all[i].nr);
		if (all[i].left_out) {
			fprintf(stderr, "# %s is not to be had here\n", all[i].name);
			VICTIM_WRITE(shared->calls[i], 1);
		} else if (pthread_create(&all[i].thread, NULL, block, &all[i])) {
			return 4;
		}
	}
	VICTIM_WRITE(shared->state, n);
	ready();
	while (!VICTIM_READ(shared->go))
		usleep(1000);
	for (size_t i = 0; i < n; i++)
		if (!all[i].left_out)
			all[i].wake(&all[i]);
	for (size_t i = 0; i < n; i++) {
		if (!all[i].left_out)
			pthread_join(all[i].thread, NULL);
		remove_ids(&all[i]);
	}
	VICTIM_WRITE(shared->stop, 1);
	pause();
	return 0;
}
