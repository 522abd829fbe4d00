// SPDX-License-Identifier: MIT
/*
 * Starting CMD under the probes; see run.h. Steps:
 *
 *	we: fork                       child: waits for a byte
 *	we: Hold(pid)                  daemon seizes it, replies "seized"
 *	we: write the byte             child: exec
 *	                               daemon stops it with its libraries mapped,
 *	                               replies "held"
 *	we: attach by pid, SIGCONT     child: runs
 *
 * Until it runs, a signal that ends us ends the child too.
 */
#include "cli/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "cli/output.h"

static const int fatal_signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
static struct sigaction original_fatal[ARRAY_SIZE(fatal_signals)], original_pipe;
static volatile pid_t waiting_child;

void run_init(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };

	sigaction(SIGPIPE, &ignore, &original_pipe);
}

static void end_child_and_us(int sig)
{
	if (waiting_child > 0)
		kill(waiting_child, SIGKILL);
	signal(sig, SIG_DFL);
	raise(sig);
}

static void guard_child(pid_t pid)
{
	struct sigaction end = { .sa_handler = end_child_and_us };

	waiting_child = pid;
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		sigaction(fatal_signals[i], NULL, &original_fatal[i]);
		if (original_fatal[i].sa_handler != SIG_IGN) /* nohup(1) means it */
			sigaction(fatal_signals[i], &end, NULL);
	}
}

static void unguard_child(void)
{
	waiting_child = 0;
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaction(fatal_signals[i], &original_fatal[i], NULL);
}

static void __attribute__((noreturn)) child_main(char **cmd, pid_t daemon, int go_fd, int exec_fd)
{
	sigset_t none;
	char byte;
	int e;

	sigaction(SIGPIPE, &original_pipe, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PTRACER, daemon);
	if (read(go_fd, &byte, 1) != 1)
		_exit(125); /* we are gone, or were told not to start */
	execvp(cmd[0], cmd);
	e = errno;
	if (write(exec_fd, &e, sizeof(e)) != sizeof(e))
		_exit(125);
	_exit(e == ENOENT ? 127 : 126);
}

struct uerr *child_start(char **cmd, pid_t daemon, struct child *ret)
{
	int go[2], exec[2];

	*ret = (struct child){ .pidfd = -1, .go_fd = -1, .exec_fd = -1, .name = cmd[0] };
	if (pipe2(go, O_CLOEXEC))
		return uerr_errno(errno, "starting %s", cmd[0]);
	if (pipe2(exec, O_CLOEXEC)) {
		close(go[0]);
		close(go[1]);
		return uerr_errno(errno, "starting %s", cmd[0]);
	}
	ret->go_fd = go[1];
	ret->exec_fd = exec[0];
	ret->pid = fork();
	if (!ret->pid) {
		close(go[1]);
		close(exec[0]);
		child_main(cmd, daemon, go[0], exec[1]);
	}
	close(go[0]);
	close(exec[1]);
	if (ret->pid < 0) {
		ret->pid = 0;
		return uerr_errno(errno, "starting %s", cmd[0]);
	}
	guard_child(ret->pid);
	ret->pidfd = syscall(SYS_pidfd_open, ret->pid, 0);
	return ret->pidfd < 0 ? uerr_errno(errno, "starting %s", cmd[0]) : NULL;
}

/* Why exec failed, if it did. Blocks until exec is decided. */
static struct uerr *exec_result(struct cli *cli, const struct child *child)
{
	int e;

	if (read(child->exec_fd, &e, sizeof(e)) != sizeof(e))
		return NULL;
	cli->fail_status = e == ENOENT ? 127 : 126;
	cli->exec_failed = true;
	if (e == ENOENT && !strchr(child->name, '/'))
		return uerr_new(UERR_FAILED, "%s: command not found", child->name);
	return uerr_new(UERR_FAILED, "%s: %s", child->name, strerror(e));
}

struct uerr *child_hold(struct cli *cli, struct client *c, struct child *child)
{
	cleanup_json cJSON *params = cJSON_CreateObject(), *seized = NULL, *held = NULL;
	struct uerr *err, *exec_err;

	cJSON_AddNumberToObject(params, "pid", child->pid);
	err = client_stream(c, "Hold", steal_ptr(params));
	if (!err)
		err = client_next(c, &seized);
	if (err)
		return err;
	if (strcmp(json_str(seized, "state"), "seized"))
		return uerr_new(UERR_FAILED, "the daemon does not hold %s", child->name);
	if (write(child->go_fd, "", 1) != 1)
		return uerr_errno(errno, "starting %s", child->name);
	err = client_next(c, &held);
	exec_err = exec_result(cli, child);
	if (exec_err) {
		uerr_free(err);
		return exec_err;
	}
	if (err)
		return err;
	if (!held || strcmp(json_str(held, "state"), "held"))
		return uerr_new(UERR_FAILED, "%s ended before it could be probed", child->name);
	child->held = true;
	return NULL;
}

void child_continue(struct child *child)
{
	unguard_child();
	kill(child->pid, SIGCONT);
}

void child_signal(const struct child *child, int sig)
{
	syscall(SYS_pidfd_send_signal, child->pidfd, sig, NULL, 0);
}

static void child_close(struct child *child)
{
	if (child->pidfd >= 0)
		close(child->pidfd);
	if (child->go_fd >= 0)
		close(child->go_fd);
	if (child->exec_fd >= 0)
		close(child->exec_fd);
	child->pidfd = child->go_fd = child->exec_fd = -1;
	child->pid = 0;
}

void child_abandon(struct child *child)
{
	if (!child->pid)
		return;
	kill(child->pid, SIGKILL);
	while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
		;
	unguard_child();
	child_close(child);
}

int child_wait(struct child *child)
{
	int status;

	while (waitpid(child->pid, &status, 0) < 0)
		if (errno != EINTR)
			return 125;
	child_close(child);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static struct uerr *call_held(struct cli *cli, struct client *c, const char *method,
			      struct uerr *(*make)(struct cli *cli, pid_t child, cJSON **ret), struct child *child,
			      cJSON **ret)
{
	struct uerr *err = NULL;
	cJSON *params;

	if (cli->o->cmd)
		err = child_start(cli->o->cmd, c->daemon_pid, child);
	if (!err && cli->o->cmd)
		err = child_hold(cli, c, child);
	if (!err)
		err = make(cli, child->pid, &params);
	return err ? err : client_call(c, method, params, ret);
}

struct uerr *call_with_child(struct cli *cli, const char *method,
			     struct uerr *(*make)(struct cli *cli, pid_t child, cJSON **ret), struct child *child,
			     cJSON **ret)
{
	cleanup_client struct client c = CLIENT_CLOSED;
	struct uerr *err;
	cJSON *params;

	*child = (struct child){ .pidfd = -1, .go_fd = -1, .exec_fd = -1 };
	/* what is wrong with the command line shows before anything is started */
	err = make(cli, cli->o->cmd ? getpid() : 0, &params);
	if (err)
		return err;
	cJSON_Delete(params);
	err = client_open(cli->o, &c);
	if (!err)
		err = call_held(cli, &c, method, make, child, ret);
	if (err && child->pid && !cli->exec_failed)
		cli->aftermath = "The command was not started.";
	if (err)
		child_abandon(child);
	return err;
}
