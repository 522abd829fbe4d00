/* SPDX-License-Identifier: MIT */
/*
 * The real kernel as judge: makes the maps, loads programs as
 * BPF_PROG_TYPE_KPROBE (the type of uprobe programs) and drops them again.
 * Programs name maps by BPF_PSEUDO_MAP_IDX, which the kernel resolves by
 * fd_array, so what it judges is to the byte what we judge. Programs with
 * functions get a func_info, without which it takes no callbacks.
 */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tests/vm/verdict/verdict.h"

#define LOG_SIZE (16u << 20)
#define LOG_STATS 4 /* BPF_LOG_STATS */

static int map_fds[100], btf_fd = -1; /* to the one that is not there */
static char *log_buf;

static int load_btf(void)
{
	struct btf *b = funcs_btf();
	int err = btf__load_into_kernel(b);

	if (!err)
		btf_fd = dup(btf__fd(b));
	btf__free(b);
	return err ? err : btf_fd < 0 ? -errno : 0;
}

static int make_map(u32 i)
{
	const struct geometry *g = &map_geometry[i];
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = g->flags);
	u32 zero = 0;
	int fd;

	funcs_map_types(i, &opts.btf_key_type_id, &opts.btf_value_type_id);
	if (opts.btf_value_type_id)
		opts.btf_fd = (u32)btf_fd;
	if (i == M_OUTER)
		opts.inner_map_fd = (u32)map_fds[M_COUNT];
	fd = bpf_map_create(g->type, g->name, g->key_size, g->value_size, g->max_entries, &opts);
	if (fd < 0)
		return -errno;
	if (map_contents(i) && (bpf_map_update_elem(fd, &zero, map_contents(i), 0) || bpf_map_freeze(fd))) {
		int err = -errno;

		close(fd);
		return err;
	}
	map_fds[i] = fd;
	return 0;
}

bool kernel_init(char *why, size_t size)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	int err;

	libbpf_set_print(NULL);
	setrlimit(RLIMIT_MEMLOCK, &unlimited);
	for (u32 i = 0; i < NMAPS; i++)
		map_fds[i] = -1;
	log_buf = malloc(LOG_SIZE);
	err = load_btf();
	if (err) {
		snprintf(why, size, "BTF: %s", strerror(-err));
		kernel_deinit();
		return false;
	}
	for (u32 i = 0; i < NMAPS; i++) {
		err = make_map(i);
		if (err) {
			snprintf(why, size, "map %s: %s", map_geometry[i].name, strerror(-err));
			kernel_deinit();
			return false;
		}
	}
	return true;
}

void kernel_deinit(void)
{
	for (u32 i = 0; i < NMAPS; i++)
		if (map_fds[i] >= 0)
			close(map_fds[i]);
	if (btf_fd >= 0)
		close(btf_fd);
	free(log_buf);
	log_buf = NULL;
}

/* The last line of the log that is about an instruction or a register, not the
 * statistics behind it. */
static const char *find_reason(char *log)
{
	char *end = strstr(log, "verification time "), *line;

	if (end)
		*end = 0;
	for (end = log + strlen(log); end > log && end[-1] == '\n';)
		*--end = 0;
	line = strrchr(log, '\n');
	return line ? line + 1 : log;
}

static bool load(const struct program *p, u32 log_level)
{
	struct bpf_func_info funcs[MAX_FUNCS];
	u32 nfuncs = funcs_find(p, funcs);
	int fd;
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .fd_array = map_fds, .log_level = log_level, .log_buf = log_buf,
		    .log_size = LOG_SIZE);

	if (nfuncs > 1) {
		opts.prog_btf_fd = (u32)btf_fd;
		opts.func_info = funcs;
		opts.func_info_cnt = nfuncs;
		opts.func_info_rec_size = sizeof(funcs[0]);
	}
	*log_buf = 0;
	/* tracing programs get no locks from the kernel */
	fd = bpf_prog_load(!strcmp(p->theme, "locks") ? BPF_PROG_TYPE_SCHED_CLS : BPF_PROG_TYPE_KPROBE, "verdict", "GPL", p->insns, p->n, &opts);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* The verdict comes from a load without a log: one that does not fit makes an
 * accepted program fail with ENOSPC. */
void kernel_judge(const struct program *p, u32 level, struct judgement *ret)
{
	const char *at;

	*ret = (struct judgement){ .reason = "" };
	ret->accepted = load(p, LOG_STATS);
	ret->error = ret->accepted ? 0 : errno;
	at = strstr(log_buf, "verification time ");
	if (at)
		ret->ns = strtoull(at + 18, NULL, 10) * 1000;
	at = strstr(log_buf, "processed ");
	if (at)
		ret->insns = (u32)strtoul(at + 10, NULL, 10);
	if (level > 1 || (level && !ret->accepted)) {
		(void)load(p, level | LOG_STATS);
		ret->log = strdup(log_buf);
		ret->reason = ret->log ? find_reason(ret->log) : "";
	}
}
