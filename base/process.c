/* SPDX-License-Identifier: MIT */
/* See process.h. */
#include "base/process.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Also when nothing can be read: whoever asks for more is told why. */
static bool lives(pid_t pid, pid_t tid)
{
	cleanup_fclose FILE *f = NULL;
	char path[64], text[512], *end;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	f = fopen(path, "re");
	if (!f)
		return true;
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	end = strrchr(text, ')');
	return !end || (end[1] && end[2] != 'Z' && end[2] != 'X');
}

pid_t process_live_tid(pid_t pid)
{
	pid_t found = pid;
	char path[64];
	DIR *dir;

	if (lives(pid, pid))
		return pid;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		return pid;
	for (struct dirent *d = readdir(dir); d && found == pid; d = readdir(dir)) {
		pid_t tid = atoi(d->d_name);

		if (tid > 0 && tid != pid && lives(pid, tid))
			found = tid;
	}
	closedir(dir);
	return found;
}

bool process_same_memory(pid_t a, pid_t b)
{
	return !syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0);
}
