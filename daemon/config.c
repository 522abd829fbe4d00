/* SPDX-License-Identifier: MIT */
/* The command line and the daemon's places; see config.h. */
#include "daemon/config.h"

#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/protocol.h"

#define SYSTEM_CACHE "/var/cache/uprobed"

const char config_help[] =
	"usage: uprobed [OPTION]…\n"
	"Runs eBPF programs inside other processes; bpfctl(1) talks to it.\n"
	"\n"
	"  --socket PATH   listen here (default: /run/uprobed/socket, or the user's own)\n"
	"  --state DIR     journals of what is in targets (default: beside the socket)\n"
	"  --private       end when no client, object or link needs it any more\n"
	"  --keep          leave probes in place when stopped\n"
	"  --foreground    stay in the foreground (always so; for scripts)\n"
	"  -v, --verbose   log more\n"
	"  --version       print the version\n"
	"  -h, --help      this text\n"
	"\n"
	"SIGTERM and SIGINT detach everything and end it.\n";

enum { OPT_SOCKET = 256, OPT_STATE, OPT_PRIVATE, OPT_KEEP, OPT_FOREGROUND, OPT_VERSION };

static const struct option options[] = {
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "state", required_argument, NULL, OPT_STATE },
	{ "private", no_argument, NULL, OPT_PRIVATE },
	{ "keep", no_argument, NULL, OPT_KEEP },
	{ "foreground", no_argument, NULL, OPT_FOREGROUND },
	{ "verbose", no_argument, NULL, 'v' },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, 'h' },
	{},
};

static struct uerr *parse_options(struct config *c, int argc, char **argv, const char **socket, const char **state)
{
	int o;

	optind = 1;
	opterr = 0;
	while ((o = getopt_long(argc, argv, "vh", options, NULL)) != -1) {
		switch (o) {
		case OPT_SOCKET:
			*socket = optarg;
			break;
		case OPT_STATE:
			*state = optarg;
			break;
		case OPT_PRIVATE:
			c->private_ = true;
			break;
		case OPT_KEEP:
			c->keep = true;
			break;
		case OPT_FOREGROUND:
			break;
		case OPT_VERSION:
			c->show_version = true;
			break;
		case 'v':
			c->verbose = true;
			break;
		case 'h':
			c->show_help = true;
			break;
		default:
			return uerr_new(UERR_USAGE, "unknown option or missing argument: %s (--help)", argv[optind - 1]);
		}
	}
	if (optind < argc)
		return uerr_new(UERR_USAGE, "unexpected argument: %s (--help)", argv[optind]);
	return NULL;
}

static char *dir_of(const char *path)
{
	cleanup_free char *copy = strdup(path);

	return copy ? strdup(dirname(copy)) : NULL;
}

/* A client looks for a system daemon first; a daemon that is not root cannot be
 * one, so its default place is its user's. */
static char *default_socket(void)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	char *path;

	if (geteuid() == 0)
		return protocol_socket_path(NULL);
	if (getenv("UPROBED_SOCKET") && *getenv("UPROBED_SOCKET"))
		return strdup(getenv("UPROBED_SOCKET"));
	if (runtime && *runtime)
		return asprintf(&path, "%s/uprobed/socket", runtime) < 0 ? NULL : path;
	return asprintf(&path, "/tmp/uprobed-%u/socket", (unsigned)geteuid()) < 0 ? NULL : path;
}

struct uerr *config_parse(struct config *c, int argc, char **argv)
{
	const char *socket = NULL, *state = NULL;
	struct uerr *err = parse_options(c, argc, argv, &socket, &state);

	if (err)
		return err;
	c->socket = socket ? strdup(socket) : default_socket();
	if (!c->socket)
		return uerr_nomem();
	c->state_dir = state ? strdup(state) : dir_of(c->socket);
	return c->state_dir ? NULL : uerr_nomem();
}

static struct uerr *make_dir(const char *path, mode_t mode)
{
	cleanup_free char *parent = dir_of(path);
	struct uerr *err;

	if (mkdir(path, mode) == 0 || errno == EEXIST)
		return NULL;
	if (errno != ENOENT || !parent || !strcmp(parent, path))
		return uerr_errno(errno, "making folder %s", path);
	err = make_dir(parent, 0755);
	if (err)
		return err;
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return uerr_errno(errno, "making folder %s", path);
	return NULL;
}

/* In /tmp anybody could have made our folder first and could swap what is in it. */
static struct uerr *check_owner(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return uerr_errno(errno, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return uerr_new(UERR_FAILED, "%s is no folder", path);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return uerr_new(UERR_NOT_PERMITTED, "%s belongs to uid %u: choose another --state", path,
				(unsigned)st.st_uid);
	return NULL;
}

static struct uerr *make_sub_dir(const char *dir, const char *name, char **ret)
{
	cleanup_free char *path = NULL;
	struct uerr *err;

	if (asprintf(&path, "%s/%s", dir, name) < 0)
		return uerr_nomem();
	err = make_dir(path, 0700);
	if (!err)
		err = check_owner(path);
	if (err)
		return err;
	if (ret)
		*ret = steal_ptr(path);
	return NULL;
}

struct uerr *config_make_dirs(struct config *c)
{
	cleanup_free char *socket_dir = dir_of(c->socket);
	bool system = geteuid() == 0 && !c->private_ && !strcmp(c->socket, UPROBED_SYSTEM_SOCKET);
	struct uerr *err;

	if (!socket_dir)
		return uerr_nomem();
	err = make_dir(socket_dir, system ? 0755 : 0700);
	if (!err)
		err = make_dir(c->state_dir, 0700);
	if (!err)
		err = check_owner(c->state_dir);
	if (!err)
		err = make_sub_dir(c->state_dir, "targets", NULL);
	if (err)
		return err;
	if (system && (mkdir(SYSTEM_CACHE, 0700) == 0 || errno == EEXIST) && access(SYSTEM_CACHE, W_OK) == 0) {
		c->cache_dir = strdup(SYSTEM_CACHE);
		return c->cache_dir ? NULL : uerr_nomem();
	}
	return make_sub_dir(c->state_dir, "cache", &c->cache_dir);
}

void config_deinit(struct config *c)
{
	free(c->socket);
	free(c->state_dir);
	free(c->cache_dir);
}
