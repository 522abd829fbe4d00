/* SPDX-License-Identifier: MIT */
/*
 * The peer: the same programs as real kernel uprobes, loaded and attached
 * through libbpf. Each row is an object of its own, so that one which this
 * kernel refuses says why and harms no other.
 */
#include <bpf/libbpf.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static const char *objects;
static struct bpf_object *obj;
static struct bpf_link *links[2];
static char words[16384]; /* libbpf's complaints, with the verifier's log */

static int keep_words(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	size_t n = strlen(words);

	if (level == LIBBPF_WARN)
		vsnprintf(words + n, sizeof(words) - n, fmt, ap);
	return 0;
}

/* The line that names the cause: the verifier's last before its statistics,
 * else libbpf's first. */
static const char *cause(void)
{
	char *begin = strstr(words, "BEGIN PROG LOAD LOG --\n");
	char *line, *last = NULL, *save;

	if (!begin)
		return strtok_r(words, "\n", &save);
	for (line = strtok_r(strchr(begin, '\n'), "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(line, "processed ", 10) || !strncmp(line, "-- END", 6))
			break;
		last = line;
	}
	return last;
}

void env_kernel_init(const char *dir)
{
	objects = dir;
	libbpf_set_print(keep_words);
}

static void kernel_detach(void)
{
	for (int i = 0; i < 2; i++) {
		bpf_link__destroy(links[i]);
		links[i] = NULL;
	}
	bpf_object__close(obj);
	obj = NULL;
}

static struct uerr *attach_one(const char *program, bool retprobe, const struct bench_row *row, struct victim *v,
			       struct bpf_link **ret)
{
	LIBBPF_OPTS(bpf_uprobe_opts, opts, .func_name = row->name, .retprobe = retprobe);
	struct bpf_program *p = bpf_object__find_program_by_name(obj, program);

	*ret = bpf_program__attach_uprobe_opts(p, v->pid, v->path, 0, &opts);
	if (!*ret)
		return uerr_errno(errno, "the kernel does not attach %s", program);
	return NULL;
}

static struct uerr *kernel_attach(const struct bench_row *row, struct victim *v)
{
	char path[PATH_MAX];
	const char *why;
	struct bpf_program *p;
	struct uerr *err = NULL;

	words[0] = 0;
	snprintf(path, sizeof(path), "%s/%s", objects, bench_objects[row->object]);
	obj = bpf_object__open(path);
	if (!obj)
		return uerr_errno(errno, "%s", path);
	bpf_object__for_each_program(p, obj) {
		const char *name = bpf_program__name(p);

		bpf_program__set_autoload(p, !strcmp(name, row->entry) || !strcmp(name, row->exit));
	}
	if (bpf_object__load(obj)) {
		why = cause();
		err = uerr_new(UERR_FAILED, "the kernel refuses it: %s", why ? why : "no reason given");
		goto fail;
	}
	if (row->entry[0])
		err = attach_one(row->entry, false, row, v, &links[0]);
	if (!err && row->exit[0])
		err = attach_one(row->exit, true, row, v, &links[1]);
fail:
	if (err)
		kernel_detach();
	return err;
}

static struct uerr *kernel_read_ring(void)
{
	return ring_read_kernel(bpf_object__find_map_fd_by_name(obj, "bench_records"));
}

const struct bench_env_ops env_kernel = { kernel_attach, kernel_detach, kernel_read_ring };
