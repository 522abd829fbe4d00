// SPDX-License-Identifier: MIT
/* Following a stream of replies; see follow.h. */
#include "cli/follow.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "cli/client.h"
#include "cli/output.h"
#include "cli/wait.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	interrupted = sig;
}

/* From here on SIGINT and SIGTERM come only while ppoll(2) waits with OPEN. */
static void catch_interrupts(sigset_t *open)
{
	struct sigaction sa = { .sa_handler = on_interrupt };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, open);
	sigdelset(open, SIGINT);
	sigdelset(open, SIGTERM);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
}

/* Waits for the next reply; false when interrupted, or LIMIT (0: none) is over. */
static bool reply_comes(const struct client *c, const sigset_t *open, u64 limit)
{
	struct pollfd fd = { c->fd, POLLIN, 0 };

	/* a whole reply may be in the buffer already */
	if (c->buf.n && memchr(c->buf.data, 0, c->buf.n))
		return !interrupted;
	while (!interrupted) {
		u64 now = now_ns(), left = limit > now ? limit - now : 0;
		struct timespec ts = { (time_t)(left / 1000000000), (long)(left % 1000000000) };

		if (limit && !left)
			return false;
		if (ppoll(&fd, 1, limit ? &ts : NULL, open) > 0)
			return true;
	}
	return false;
}

struct uerr *follow(struct cli *cli, const char *method, cJSON *params,
		    struct uerr *(*print)(struct cli *cli, const cJSON *reply), cJSON **last)
{
	u64 limit = cli->o->for_ns ? now_ns() + cli->o->for_ns : 0;
	cleanup_client struct client c = CLIENT_CLOSED;
	struct uerr *err = client_open(cli->o, &c);
	sigset_t open;

	*last = NULL;
	if (err) {
		cJSON_Delete(params);
		return err;
	}
	catch_interrupts(&open);
	err = client_stream(&c, method, params);
	while (!err && c.streaming && !ferror(cli->out) && reply_comes(&c, &open, limit)) {
		cJSON *reply = NULL;

		err = client_next(&c, &reply);
		if (err || !reply)
			break;
		cJSON_Delete(*last);
		*last = reply;
		err = print(cli, reply);
		fflush(cli->out);
	}
	return err;
}
