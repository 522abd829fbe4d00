/* SPDX-License-Identifier: MIT */
/*
 * What an earlier daemon left: journals whose processes still live are undone;
 * the others say nothing any more and go.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "daemon/housekeep.h"

void adopt_leftovers(struct daemon *d)
{
	cleanup_free char *path = NULL;
	struct dirent *e;
	DIR *dir;

	if (asprintf(&path, "%s/targets", d->cfg.state_dir) < 0)
		return;
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		pid_vec pids = {};
		int pid, n = 0;

		if (sscanf(e->d_name, "%d.journal%n", &pid, &n) != 1 || !n || e->d_name[n])
			continue;
		log_info("process %d: an earlier daemon left a journal", pid);
		if (vec_push(&pids, pid))
			cleanup_after_worker(d, &pids);
		vec_free(&pids);
	}
	if (dir)
		closedir(dir);
}
