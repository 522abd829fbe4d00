// SPDX-License-Identifier: MIT
/*
 * How a micro-program is run in each engine. Ours are called directly. The
 * kernel runs it by BPF_PROG_TEST_RUN with `repeat`: the time of the whole
 * system call less what such a call takes without repetition, since what the
 * kernel reports itself is cut to whole nanoseconds.
 */
#include "engines.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/cleanup.h"
#include "tests/vm/jit_run.h"
#include "vm/interp.h"
#include "vm/object.h"

struct engines {
	struct object *object;
	struct umap map; /* .bss, the only one */
	int map_fd;
	struct vm_map vm_map;
	struct jit_map jit_map;
	struct jit_code *code; /* [nprogs] */
	struct interp_code **interp; /* [nprogs] */
	size_t ncode;
	struct hook_frame frame;
	struct bench_input fresh;
	struct bpf_object *kernel;
	int *kernel_fds; /* [nprogs] */
	int kernel_map_fd;
	u64 kernel_call_ns; /* of a test run without repetition, at best */
	char reason[512];
};

static u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

static u64 noise(u64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void fill_input(struct bench_input *in)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz", digits[] = "0123456789";
	u64 state = 88172645463325252ull;
	u32 at = 0, key = 0;

	memset(in, 0, sizeof(*in));
	in->seed = 0x2545f4914f6cdd1dull;
	for (size_t i = 0; i < INPUT_SIZE / 8; i++)
		in->d[i] = noise(&state);
	for (size_t i = 0; i < ARRAY_SIZE(in->sorted); i++)
		in->sorted[i] = key += (u32)(noise(&state) >> 40); /* 24 bits: up to 2^32 in all */
	while (at + 16 < sizeof(in->text)) { /* words of 1 to 8 letters or digits */
		bool number = noise(&state) & 1;
		u32 length = 1 + (noise(&state) >> 20) % 8;

		while (length--)
			in->text[at++] = number ? digits[(noise(&state) >> 20) % 10] : letters[(noise(&state) >> 20) % 26];
		in->text[at++] = ' ';
	}
	for (size_t i = 0; i < sizeof(in->twin[0]); i++)
		in->twin[0][i] = in->twin[1][i] = (u8)(noise(&state) >> 32);
}

/* --- ours --- */

static void *our_input(const struct engines *e)
{
	return (void *)(e->map.base + e->map.data_off);
}

static struct uerr *compile(struct engines *e, size_t i)
{
	struct vm_prog *p = &e->object->progs[i];
	struct uerr *err = check_program(p, &e->vm_map, 1);

	if (!err) {
		e->interp[i] = interp_code_create(p, &e->vm_map, 1);
		if (!e->interp[i])
			err = uerr_nomem();
	}
	if (!err)
		err = jit_code_create(p, &e->jit_map, 1, 0, &e->code[i]);
	return uerr_prefix(err, "program '%s'", p->name);
}

static struct uerr *open_ours(struct engines *e, const void *bytes, size_t size)
{
	const struct object_map *om;
	struct uerr *err = object_open(bytes, size, &(struct object_opts){ .name = "programs" }, &e->object);

	if (err)
		return err;
	om = e->object->maps;
	if (e->object->nmaps != 1 || om->value_size != sizeof(struct bench_input))
		return uerr_new(UERR_FAILED, "the object's only map must be the input");
	err = umap_create(om->name, om->type, om->key_size, om->value_size, om->max_entries, om->map_flags, 1, 1, &e->map,
			  &e->map_fd);
	if (err)
		return err;
	e->vm_map = (struct vm_map){ .map = &e->map };
	e->jit_map = (struct jit_map){ &e->map, (addr_t)&e->map };
	e->code = calloc(e->object->nprogs, sizeof(*e->code));
	e->interp = calloc(e->object->nprogs, sizeof(*e->interp));
	if (!e->code || !e->interp)
		return uerr_nomem();
	for (; !err && e->ncode < e->object->nprogs; e->ncode += !err)
		err = compile(e, e->ncode);
	runtime_self_frame(&e->frame);
	if (!err)
		memcpy(our_input(e), &e->fresh, sizeof(e->fresh));
	return err;
}

static struct uerr *run_interp(struct engines *e, size_t prog, u32 times, u64 *r0)
{
	for (u32 i = 0; i < times; i++)
		if (interp_code_run(e->interp[prog], 0, 0, &e->frame, 0, r0))
			return uerr_new(UERR_FAILED, "the interpreter cannot run '%s'", engines_prog_name(e, prog));
	return NULL;
}

static void run_jit(struct engines *e, size_t prog, u32 times, u64 *r0)
{
	u64 (*volatile fn)(u64, u64, struct hook_frame *) = e->code[prog].fn;

	for (u32 i = 0; i < times; i++)
		*r0 = fn(0, 0, &e->frame);
}

/* --- the kernel's --- */

static int say_nothing(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	return 0;
}

/* These programs look at no context, so they may be of any type: socket filters
 * are what the kernel runs repeatedly with the least beside (for XDP it sets up
 * a queue and patches its dispatcher, which takes longer than the runs). */
static int open_kernel(struct engines *e, const void *bytes, size_t size)
{
	libbpf_print_fn_t print = libbpf_set_print(say_nothing);
	struct bpf_program *p;
	struct bpf_map *map;
	u32 key = 0;
	int ret;

	e->kernel = bpf_object__open_mem(bytes, size, NULL);
	if (!e->kernel)
		return -errno;
	bpf_object__for_each_program(p, e->kernel)
		bpf_program__set_type(p, BPF_PROG_TYPE_SOCKET_FILTER);
	ret = bpf_object__load(e->kernel);
	libbpf_set_print(print);
	if (ret)
		return ret;
	map = bpf_object__next_map(e->kernel, NULL);
	e->kernel_map_fd = bpf_map__fd(map);
	e->kernel_fds = calloc(e->object->nprogs, sizeof(int));
	if (!e->kernel_fds)
		return -ENOMEM;
	ret = bpf_map_update_elem(e->kernel_map_fd, &key, &e->fresh, 0);
	if (ret)
		return ret;
	for (size_t i = 0; i < e->object->nprogs; i++) {
		p = bpf_object__find_program_by_name(e->kernel, e->object->progs[i].name);
		if (!p)
			return -ENOENT;
		e->kernel_fds[i] = bpf_program__fd(p);
	}
	return 0;
}

static int test_run(const struct engines *e, size_t prog, u32 times, u32 *result)
{
	static u8 packet[64];
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet), .repeat = (int)times);
	int ret = bpf_prog_test_run_opts(e->kernel_fds[prog], &opts);

	*result = opts.retval;
	return ret;
}

static void measure_kernel_call(struct engines *e)
{
	e->kernel_call_ns = ~0ull;
	for (u32 i = 0; i < 200; i++) {
		u64 start = now_ns(), took;
		u32 result;

		if (test_run(e, 0, 1, &result))
			continue;
		took = now_ns() - start;
		if (took < e->kernel_call_ns)
			e->kernel_call_ns = took;
	}
}

static bool kernel_jits(void)
{
	cleanup_fclose FILE *f = fopen("/proc/sys/net/core/bpf_jit_enable", "re");
	int on = 0;

	return f && fscanf(f, "%d", &on) == 1 && on;
}

/* --- all --- */

struct uerr *engines_open(const char *object_path, struct engines **ret)
{
	cleanup_fclose FILE *f = fopen(object_path, "rbe");
	cleanup_free u8 *bytes = malloc(1 << 20);
	struct engines *e = calloc(1, sizeof(*e));
	struct uerr *err;
	size_t size;
	int r;

	if (!f || !bytes || !e) {
		free(e);
		return f ? uerr_nomem() : uerr_errno(errno, "%s", object_path);
	}
	e->map_fd = -1;
	size = fread(bytes, 1, 1 << 20, f);
	fill_input(&e->fresh);
	err = open_ours(e, bytes, size);
	if (err) {
		engines_close(e);
		return err;
	}
	r = open_kernel(e, bytes, size);
	if (r)
		snprintf(e->reason, sizeof(e->reason), "the kernel does not load the programs: %s", strerror(-r));
	else if (!kernel_jits())
		snprintf(e->reason, sizeof(e->reason), "the kernel's JIT is off (net.core.bpf_jit_enable)");
	else
		measure_kernel_call(e);
	*ret = e;
	return NULL;
}

void engines_close(struct engines *e)
{
	if (!e)
		return;
	for (size_t i = 0; i < e->ncode; i++)
		jit_code_destroy(&e->code[i]);
	for (size_t i = 0; e->interp && i < e->object->nprogs; i++)
		interp_code_destroy(e->interp[i]);
	free(e->interp);
	free(e->code);
	if (e->map_fd >= 0)
		umap_destroy(&e->map, e->map_fd);
	object_free(e->object);
	bpf_object__close(e->kernel);
	free(e->kernel_fds);
	free(e);
}

size_t engines_nprogs(const struct engines *e)
{
	return e->object->nprogs;
}

const char *engines_prog_name(const struct engines *e, size_t prog)
{
	return e->object->progs[prog].name;
}

u32 engines_prog_insns(const struct engines *e, size_t prog)
{
	return e->object->progs[prog].ninsns;
}

u32 engines_code_size(const struct engines *e, size_t prog)
{
	return (u32)e->code[prog].out.size;
}

u32 engines_kernel_code_size(const struct engines *e, size_t prog)
{
	struct bpf_prog_info info = { 0 };
	u32 size = sizeof(info);

	if (*e->reason || bpf_obj_get_info_by_fd(e->kernel_fds[prog], &info, &size))
		return 0;
	return info.jited_prog_len;
}

const char *engines_kernel_reason(const struct engines *e)
{
	return *e->reason ? e->reason : NULL;
}

static struct uerr *kernel_error(const struct engines *e, size_t prog)
{
	return uerr_errno(errno, "the kernel's test run of '%s'", engines_prog_name(e, prog));
}

struct uerr *engines_run_once(struct engines *e, size_t prog, enum engine engine, u32 *result, struct bench_input *after)
{
	struct uerr *err = NULL;
	u64 r0 = 0;
	u32 key = 0;

	if (engine == ENGINE_KERNEL) {
		if (bpf_map_update_elem(e->kernel_map_fd, &key, &e->fresh, 0) || test_run(e, prog, 1, result) ||
		    bpf_map_lookup_elem(e->kernel_map_fd, &key, after))
			return kernel_error(e, prog);
		return NULL;
	}
	memcpy(our_input(e), &e->fresh, sizeof(e->fresh));
	if (engine == ENGINE_INTERP)
		err = run_interp(e, prog, 1, &r0);
	else
		run_jit(e, prog, 1, &r0);
	*result = (u32)r0;
	memcpy(after, our_input(e), sizeof(*after));
	return err;
}

struct uerr *engines_run(struct engines *e, size_t prog, enum engine engine, u32 times, u64 *ns)
{
	u64 start = now_ns(), r0;
	struct uerr *err = NULL;
	u32 result;

	if (engine == ENGINE_INTERP)
		err = run_interp(e, prog, times, &r0);
	else if (engine == ENGINE_JIT)
		run_jit(e, prog, times, &r0);
	else if (test_run(e, prog, times, &result))
		err = kernel_error(e, prog);
	*ns = now_ns() - start;
	if (engine == ENGINE_KERNEL)
		*ns -= e->kernel_call_ns < *ns ? e->kernel_call_ns : *ns;
	return err;
}

struct uerr *engines_compile(struct engines *e, size_t prog, u32 times, u64 *ns)
{
	struct jit_input in = {
		.prog = &e->object->progs[prog], .maps = &e->jit_map, .nmaps = 1, .helper_addr = jit_host_helper,
	};
	u64 best = ~0ull;

	for (u32 i = 0; i < times; i++) {
		struct jit_output out;
		u64 start = now_ns(), took;
		struct uerr *err = jit_compile(&in, &out);

		if (err)
			return err;
		took = now_ns() - start;
		jit_output_deinit(&out);
		if (took < best)
			best = took;
	}
	*ns = best;
	return NULL;
}

char *engines_listing(struct engines *e, size_t prog)
{
	return disasm_jited(&e->object->progs[prog], &e->code[prog].out, e->code[prog].out.entry);
}
