/* SPDX-License-Identifier: MIT */
/* Starting and watching victims; see victim.h. */
#include "victim.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static struct victim spawn(const char *mode, int n, int *ready)
{
	struct victim v = {};
	char num[16], shm_name[16], out_name[16];
	int shm = memfd_create("victim", 0), pipefd[2];

	ck_assert_int_ge(shm, 0);
	ck_assert_int_eq(ftruncate(shm, sizeof(*v.shared)), 0);
	ck_assert_int_eq(pipe(pipefd), 0);
	v.shared = mmap(NULL, sizeof(*v.shared), PROT_READ | PROT_WRITE, MAP_SHARED, shm, 0);
	ck_assert_ptr_ne(v.shared, MAP_FAILED);
	snprintf(num, sizeof(num), "%d", n);
	snprintf(shm_name, sizeof(shm_name), "%d", shm);
	snprintf(out_name, sizeof(out_name), "%d", pipefd[1]);
	v.pid = fork();
	ck_assert_int_ge(v.pid, 0);
	if (!v.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pipefd[0]);
		execl(VICTIM_PATH, "vic_inject", mode, num, shm_name, out_name, (char *)NULL);
		_exit(127);
	}
	close(shm);
	close(pipefd[1]);
	*ready = pipefd[0];
	return v;
}

struct victim victim_spawn(const char *mode, int n)
{
	int ready;
	struct victim v = spawn(mode, n, &ready);

	close(ready);
	return v;
}

struct victim victim_start(const char *mode, int n)
{
	int ready;
	struct victim v = spawn(mode, n, &ready);
	struct pollfd p = { .fd = ready, .events = POLLIN };
	char c = 0;

	ck_assert_int_eq(poll(&p, 1, 20000), 1);
	ck_assert_msg(read(ready, &c, 1) == 1 && c == 'r', "victim %s did not get ready", mode);
	/* It closes its end: its descriptors can be counted from then on. */
	ck_assert_int_eq(read(ready, &c, 1), 0);
	close(ready);
	return v;
}

void victim_kill(struct victim *v)
{
	if (v->pid > 0) {
		kill(v->pid, SIGKILL);
		kill(v->pid, SIGCONT);
		waitpid(v->pid, NULL, 0);
	}
	if (v->shared)
		munmap(v->shared, sizeof(*v->shared));
	*v = (struct victim){};
}

bool victim_alive(const struct victim *v)
{
	siginfo_t info = {};

	return !waitid(P_PID, v->pid, &info, WEXITED | WNOHANG | WNOWAIT) && !info.si_pid;
}

u64 victim_calls(const struct victim *v)
{
	u64 sum = 0;

	for (int i = 0; i < VICTIM_THREADS; i++)
		sum += VICTIM_READ(v->shared->calls[i]);
	return sum;
}

int victim_count_fds(pid_t pid)
{
	char path[32];
	DIR *dir;
	int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

int victim_count_ours(pid_t pid, const u64 *addrs, size_t n)
{
	char path[32], line[512];
	unsigned long lo, hi;
	int found = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx", &lo, &hi) != 2)
			continue;
		for (size_t i = 0; i < n; i++)
			found += addrs[i] >= lo && addrs[i] < hi;
	}
	fclose(f);
	return found;
}

int victim_private_text_kib(pid_t pid)
{
	char path[32], line[512], perms[5];
	unsigned long lo, hi, ino;
	bool text = false;
	int kib, sum = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = fopen(path, "re");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %4s %*x %*s %lu", &lo, &hi, perms, &ino) == 4)
			text = perms[2] == 'x' && ino;
		else if (text && sscanf(line, "Anonymous: %d", &kib) == 1)
			sum += kib;
	}
	fclose(f);
	return sum;
}

char victim_state(pid_t pid)
{
	char path[32], buf[512], *p;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	buf[fread(buf, 1, sizeof(buf) - 1, f)] = 0;
	fclose(f);
	p = strrchr(buf, ')');
	return p ? p[2] : 0;
}

u64 victim_status_mask(pid_t pid, const char *field)
{
	char path[32], line[256];
	u64 mask = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, field, strlen(field)))
			mask = strtoull(line + strlen(field) + 1, NULL, 16);
	fclose(f);
	return mask;
}
