/* SPDX-License-Identifier: MIT */
/* Doctor: can it work here, and if not, why, and what to do. Every line is
 * tried, not guessed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/dispatch.h"
#include "daemon/env.h"
#include "daemon/procinfo.h"
#include "daemon/select.h"

static void add(cJSON *checks, bool ok, const char *name, const char *text)
{
	cJSON *c = cJSON_CreateObject();

	cJSON_AddStringToObject(c, "status", ok ? "ok" : "no");
	cJSON_AddStringToObject(c, "name", name);
	cJSON_AddStringToObject(c, "text", text);
	cJSON_AddItemToArray(checks, c);
}

static int read_number(const char *path, int none)
{
	cleanup_fclose FILE *f = fopen(path, "re");
	int v;

	return f && fscanf(f, "%d", &v) == 1 ? v : none;
}

static bool has_capability(unsigned bit)
{
	cleanup_fclose FILE *f = fopen("/proc/self/status", "re");
	unsigned long long caps = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "CapEff: %llx", &caps) == 1)
			break;
	return caps >> bit & 1;
}

#define CAP_BIT_SYS_PTRACE 19
#define CAP_BIT_SYS_ADMIN 21
#define CAP_BIT_CHECKPOINT_RESTORE 40

static void check_ptrace(cJSON *checks)
{
	int yama = read_number("/proc/sys/kernel/yama/ptrace_scope", 0);

	if (has_capability(CAP_BIT_SYS_PTRACE))
		add(checks, yama < 3, "ptrace",
		    yama < 3 ? "any process (CAP_SYS_PTRACE)" :
			       "kernel.yama.ptrace_scope=3 forbids all tracing until the next boot");
	else if (yama == 0)
		add(checks, true, "ptrace", "you may probe your own processes (yama is off)");
	else if (yama == 1)
		add(checks, false, "ptrace",
		    "kernel.yama.ptrace_scope=1 allows only what you start: bpfctl … -- COMMAND, or sudo");
	else
		add(checks, false, "ptrace", "kernel.yama.ptrace_scope forbids tracing without root: sudo bpfctl …");
}

static void check_sharing(cJSON *checks)
{
	if (has_capability(CAP_BIT_CHECKPOINT_RESTORE) || has_capability(CAP_BIT_SYS_ADMIN))
		add(checks, true, "memory sharing", "map_files, CAP_CHECKPOINT_RESTORE");
	else
		add(checks, true, "memory sharing", "memfd, passed while the process stands still (no map_files)");
}

static void check_users(cJSON *checks)
{
	char text[128];

	snprintf(text, sizeof(text), "the daemon is uid %u: only that user's processes; 'sudo bpfctl'",
		 (unsigned)geteuid());
	add(checks, geteuid() == 0, "other users", geteuid() == 0 ? "processes of every user" : text);
}

static void check_seccomp(cJSON *checks)
{
	if (has_capability(CAP_BIT_SYS_ADMIN))
		add(checks, true, "seccomp", "filters of targets are suspended while it injects");
	else
		add(checks, false, "seccomp", "needs CAP_SYS_ADMIN: processes with a strict filter are refused");
}

/* glibc registers rseq for every thread and says where. */
static void check_rseq(cJSON *checks)
{
	extern const unsigned int __rseq_size __attribute__((weak));
	bool there = &__rseq_size && __rseq_size;

	add(checks, there, "thread ids",
	    there ? "from memory (rseq, glibc)" : "rseq is not registered: per-CPU maps claim by compare-and-swap");
}

static void check_clock(cJSON *checks)
{
	bool vdso = vdso_clock_off();

	add(checks, vdso, "clock", vdso ? "bpf_ktime_get_ns without a system call (vDSO)" : "by system call: no vDSO");
}

static void check_reads(cJSON *checks)
{
	add(checks, true, "memory reads",
	    "stack and what cannot be unloaded directly, the rest by process_vm_readv(2)");
}

static void check_btf(cJSON *checks)
{
	bool there = access("/sys/kernel/btf/vmlinux", R_OK) == 0;

	add(checks, true, "CO-RE", there ? "against the kernel's BTF" : "against the built-in BTF (the kernel has none)");
}

static void check_daemon(cJSON *checks, const struct daemon *d)
{
	char text[160];

	snprintf(text, sizeof(text), "%s, %s, pid %d, %zu targets", d->cfg.private_ ? "private" : "system",
		 UPROBED_VERSION, getpid(), d->state->targets.n);
	add(checks, true, "daemon", text);
}

static void check_process(cJSON *checks, const struct request *req, pid_t pid)
{
	struct procinfo pi;
	struct uerr *err = procinfo_read(pid, &pi);
	char name[32];

	snprintf(name, sizeof(name), "process %d", pid);
	if (!err)
		err = select_permit(req, &pi);
	add(checks, !err, name, err ? err->message : "may be probed");
	uerr_free(err);
}

void cmd_doctor(struct request *req)
{
	const cJSON *pid = param_item(req, "pid");
	cJSON *r = cJSON_CreateObject();
	cJSON *checks = cJSON_AddArrayToObject(r, "checks");

	check_ptrace(checks);
	check_sharing(checks);
	check_users(checks);
	check_seccomp(checks);
	check_rseq(checks);
	check_clock(checks);
	check_reads(checks);
	check_btf(checks);
	check_daemon(checks, req->d);
	if (pid)
		check_process(checks, req, pid->valueint);
	request_reply(req, r);
}
