/* SPDX-License-Identifier: MIT */
/*
 * Programs of object files, judged by both: by the kernel through libbpf, one
 * program at a time, as anybody loads them; by us as the daemon loads them.
 */
#include <bpf/libbpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/vm/verdict/verdict.h"
#include "vm/object.h"
#include "vm/verify.h"

#define LOG_SIZE (4u << 20)

static void *read_whole_file(const char *path, size_t *ret_size)
{
	cleanup_fclose FILE *in = fopen(path, "r");
	cleanup_free char *bytes = NULL;
	size_t n = 0, cap = 1 << 20;

	if (!in)
		return NULL;
	bytes = malloc(cap);
	while (bytes && (n += fread(bytes + n, 1, cap - n, in)) == cap)
		bytes = realloc(bytes, cap *= 2);
	*ret_size = n;
	return steal_ptr(bytes);
}

/* Loads PATH with the one program NAME. */
static bool kernel_takes(const char *path, const char *name, char *log, u64 *ret_ns)
{
	struct bpf_object *obj = bpf_object__open_file(path, NULL);
	struct bpf_program *prog;
	struct bpf_map *map;
	const char *at;
	int err;

	if (!obj)
		return false;
	bpf_object__for_each_program(prog, obj) {
		bpf_program__set_autoload(prog, !strcmp(bpf_program__name(prog), name));
		bpf_program__set_type(prog, BPF_PROG_TYPE_KPROBE);
		bpf_program__set_log_buf(prog, log, LOG_SIZE);
		bpf_program__set_log_level(prog, 4);
	}
	bpf_object__for_each_map(map, obj)
		bpf_map__set_pin_path(map, NULL);
	*log = 0;
	err = bpf_object__load(obj);
	at = strstr(log, "verification time ");
	*ret_ns = at ? strtoull(at + 18, NULL, 10) * 1000 : 0;
	bpf_object__close(obj);
	return !err;
}

static struct vm_map *bind_maps(const struct object *obj, struct umap *umaps)
{
	struct vm_map *maps = calloc(obj->nmaps + 1, sizeof(*maps));

	for (size_t i = 0; i < obj->nmaps; i++) {
		const struct object_map *m = &obj->maps[i];

		umaps[i] = (struct umap){ .type = m->type, .key_size = m->key_size, .value_size = m->value_size,
					  .max_entries = m->max_entries, .map_flags = m->map_flags, .id = (u32)i + 1,
					  .frozen = m->readonly };
		maps[i] = (struct vm_map){ .map = &umaps[i], .btf = obj->types, .key_type = m->btf_key_type_id,
					   .value_type = m->btf_value_type_id,
					   .frozen = m->readonly ? m->initial : NULL };
	}
	return maps;
}

static void compare_prog(struct object *obj, struct vm_prog *p, const struct vm_map *maps, const char *path,
			 bool kernel, char *log, struct tally *t)
{
	struct verify_opts opts = { .flags = VERIFY_ABSENT_HELPERS, .log_level = 1 };
	struct verify_stats stats = {};
	cleanup_uerr struct uerr *err = verify_program(p, maps, obj->nmaps, &opts, &stats);
	u64 kernel_ns = 0;
	bool taken = kernel ? kernel_takes(path, p->name, log, &kernel_ns) : true;
	bool policy = !taken && is_policy(log);

	t->our_ns += stats.ns;
	t->kernel_ns += kernel_ns;
	t->kernel_accepts += taken;
	t->kernel_rejects += !taken;
	t->both_accept += taken && !err;
	t->unsound += !taken && !err && !policy;
	printf("#   %s: %u instructions, %u followed; ours %.3f ms%s, kernel %.3f ms%s\n", p->name, p->ninsns,
	       stats.insns_processed, (double)stats.ns / 1e6, err ? " (refused)" : "", (double)kernel_ns / 1e6,
	       taken ? "" : policy ? " (refused by policy)" : " (refused)");
	if (taken && err)
		print_log("ours", err->log ? err->log : err->message);
	if (!taken && !err)
		print_log("kernel", log);
}

enum object_result object_compare(const char *path, bool kernel, u32 level, struct tally *t, char *why, size_t size)
{
	struct object_opts opts = { .name = path };
	cleanup_free char *log = malloc(LOG_SIZE);
	cleanup_free struct umap *umaps = NULL;
	cleanup_free struct vm_map *maps = NULL;
	cleanup_free void *bytes = NULL;
	cleanup_uerr struct uerr *err = NULL;
	struct object *obj;
	size_t nbytes;

	snprintf(why, size, "cannot be read");
	bytes = read_whole_file(path, &nbytes);
	if (!bytes)
		return OBJECT_BROKEN;
	err = object_open(bytes, nbytes, &opts, &obj);
	if (err) {
		snprintf(why, size, "%s", err->message);
		return err->code == UERR_REJECTED ? OBJECT_REFUSED : OBJECT_BROKEN;
	}
	umaps = calloc(obj->nmaps + 1, sizeof(*umaps));
	maps = bind_maps(obj, umaps);
	for (size_t i = 0; i < obj->nprogs; i++)
		compare_prog(obj, &obj->progs[i], maps, path, kernel, log, t);
	object_free(obj);
	return OBJECT_COMPARED;
}
