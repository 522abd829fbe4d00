/* SPDX-License-Identifier: MIT */
/* Loading objects that clang made, and objects that nobody should have made. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/support/suite.h"
#include "tests/vm/bpf_file.h"
#include "vm/btf_index.h"
#include "vm/object_internal.h"
#include "vm/opcodes.h"
#include "vm/runtime.h"
#include "vm/verify.h"

static struct object *load(const char *name)
{
	struct bpf_file f = bpf_file_read(name);
	struct object_opts opts = { .name = name };
	struct object *obj;
	struct uerr *err = object_open(f.data, f.size, &opts, &obj);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	free(f.data);
	return obj;
}

static struct uerr *refusal(const char *name, const struct object_opts *opts)
{
	struct bpf_file f = bpf_file_read(name);
	struct object *obj;
	struct uerr *err = object_open(f.data, f.size, opts, &obj);

	free(f.data);
	ck_assert_msg(err, "%s: accepted", name);
	return err;
}

static const struct object_map *map_of(const struct object *obj, const char *name)
{
	for (size_t i = 0; i < obj->nmaps; i++)
		if (!strcmp(obj->maps[i].name, name))
			return &obj->maps[i];
	ck_abort_msg("no map %s", name);
	return NULL;
}

static struct vm_prog *prog_of(const struct object *obj, const char *name)
{
	for (size_t i = 0; i < obj->nprogs; i++)
		if (!strcmp(obj->progs[i].name, name))
			return &obj->progs[i];
	ck_abort_msg("no program %s", name);
	return NULL;
}

/* The object's maps in memory of this process, as a host makes them. */
struct live {
	struct umap umaps[16];
	struct vm_map maps[16];
	int fds[16];
	size_t n;
};

static void live_init(struct live *l, const struct object *obj)
{
	struct hook_frame frame;
	struct umap_ctx cx = { .rec = NULL };

	runtime_self_frame(&frame);
	cx.rec = (struct thread_rec *)(uintptr_t)frame.rec;
	l->n = obj->nmaps;
	for (size_t i = 0; i < obj->nmaps; i++) {
		const struct object_map *m = &obj->maps[i];
		struct uerr *err = umap_create(m->name, m->type, m->key_size, m->value_size, m->max_entries, m->map_flags, 1,
					       i + 1, &l->umaps[i], &l->fds[i]);
		u32 zero = 0;

		ck_assert_msg(!err, "%s: %s", m->name, err ? err->message : "");
		if (m->initial)
			ck_assert_int_eq(umap_write(&l->umaps[i], &zero, m->initial, 0, &cx), 0);
		l->umaps[i].frozen = m->readonly;
		l->maps[i] = (struct vm_map){ .map = &l->umaps[i] };
	}
}

static void live_deinit(struct live *l)
{
	for (size_t i = 0; i < l->n; i++)
		umap_destroy(&l->umaps[i], l->fds[i]);
}

static u64 run(const struct live *l, struct vm_prog *p, const struct target_regs *regs)
{
	struct uerr *err = verify_program(p, l->maps, l->n, NULL, NULL);
	u64 r0;

	ck_assert_msg(!err, "%s", err ? err->message : "");
	ck_assert_int_eq(interp_run(p, l->maps, l->n, (uintptr_t)regs, 0, NULL, 1 << 20, &r0), 0);
	return r0;
}

START_TEST(maps_are_read)
{
	struct object *obj = load("probes");
	const struct object_map *m = map_of(obj, "events");
	char *name;

	ck_assert_str_eq(obj->name, "probes");
	ck_assert_str_eq(obj->license, "Dual MIT/GPL");
	ck_assert_uint_eq(obj->nmaps, 6);
	ck_assert_uint_eq(m->type, UMAP_HASH);
	ck_assert_uint_eq(m->max_entries, 100);
	ck_assert(!m->global_data && !m->initial);
	name = btf_type_name(obj, m->btf_value_type_id);
	ck_assert_str_eq(name, "struct event");
	free(name);

	m = map_of(obj, ".rodata");
	ck_assert(m->global_data && m->readonly && m->initial);
	ck_assert_uint_eq(*(u64 *)m->initial, 5000000000000001);
	m = map_of(obj, ".data");
	ck_assert(m->global_data && !m->readonly);
	ck_assert_uint_eq(*(u32 *)m->initial, 42);
	ck_assert(map_of(obj, ".bss")->global_data);
	object_free(obj);
}
END_TEST

START_TEST(programs_are_read)
{
	struct object *obj = load("probes");
	struct vm_prog *p = prog_of(obj, "on_malloc");

	ck_assert_uint_eq(obj->nprogs, 3); /* without the one of SEC("?…") */
	ck_assert_str_eq(p->section, "uprobe/libc:malloc");
	ck_assert_str_eq(p->file, "probes.bpf.c");
	ck_assert_str_eq(prog_of(obj, "plain")->section, "embed");
	object_free(obj);
}
END_TEST

/* Every instruction of every function knows its line: that of a subprogram is
 * not the caller's. */
START_TEST(lines_reach_into_subprograms)
{
	struct object *obj = load("probes");
	struct vm_prog *p = prog_of(obj, "on_malloc");
	bool scale = false, note = false;

	ck_assert_ptr_nonnull(p->lines);
	for (u32 i = 0; i < p->ninsns; i++) {
		ck_assert_uint_ne(p->lines[i], 0);
		if (!p->texts[i])
			continue;
		if (strstr(p->texts[i], "return x * by + limit")) {
			scale = true;
			ck_assert_uint_lt(p->lines[i], p->lines[0]);
		}
		note |= !strncmp(p->texts[i], "__u64 *n = bpf_map_lookup_elem(&counts", 38);
	}
	ck_assert(!strncmp(p->texts[0], "int on_malloc", 13));
	ck_assert(scale && note);
	object_free(obj);
}
END_TEST

START_TEST(program_runs_with_its_maps)
{
	struct object *obj = load("probes");
	struct target_regs regs = { .di = 21 };
	struct live l;
	u32 key = 42 & 7;

	live_init(&l, obj);
	ck_assert_uint_eq(run(&l, prog_of(obj, "on_malloc"), &regs), 0);
	for (size_t i = 0; i < obj->nmaps; i++) {
		u64 v = 0;

		if (!strcmp(obj->maps[i].name, "counts")) {
			ck_assert_int_eq(umap_read(&l.umaps[i], &key, &v, NULL), 0);
			ck_assert_uint_eq(v, 3 * 10 + 5000000000000001 % 3);
		} else if (!strcmp(obj->maps[i].name, ".bss")) {
			ck_assert_int_eq(umap_read(&l.umaps[i], &(u32){ 0 }, &v, NULL), 0);
			ck_assert_uint_eq(v, 42 + 5000000000000001 % 3);
		}
	}
	regs.di = 5000000000000002;
	ck_assert_uint_eq(run(&l, prog_of(obj, "on_malloc"), &regs), 1);
	ck_assert_uint_eq(prog_of(obj, "on_malloc")->info.ctx_fields, TARGET_REG_BIT(di));
	ck_assert_uint_eq(prog_of(obj, "on_malloc")->info.nsubprogs, 3);
	live_deinit(&l);
	object_free(obj);
}
END_TEST

static const struct vm_subprog *subprog_of(const struct vm_prog *p, const char *name)
{
	for (u32 i = 0; i < p->nsubprogs; i++)
		if (!strcmp(p->subprogs[i].name, name))
			return &p->subprogs[i];
	ck_abort_msg("%s: no function %s", p->name, name);
}

START_TEST(functions_are_known)
{
	struct bpf_file f = bpf_file_read("probes");
	struct object_opts opts = { .name = "probes" };
	struct object *obj;
	struct uerr *err;

	for (int isolated = 0; isolated < 2; isolated++) {
		const struct vm_prog *p;

		err = isolated ? object_open_isolated(f.data, f.size, &opts, &obj) : object_open(f.data, f.size, &opts, &obj);
		ck_assert_msg(!err, "%s", err ? err->message : "");
		p = prog_of(obj, "on_malloc");
		ck_assert_ptr_eq(p->btf, obj->types);
		ck_assert_uint_eq(p->nsubprogs, 3);
		ck_assert_uint_eq(subprog_of(p, "on_malloc")->start, 0);
		ck_assert(!subprog_of(p, "scale")->global);
		ck_assert(subprog_of(p, "note")->global);
		ck_assert_uint_eq(BTF_INFO_KIND(btf_index_type(obj->types, subprog_of(p, "note")->type_id)->info), BTF_KIND_FUNC);
		object_free(obj);
	}
	free(f.data);
}
END_TEST

/* core.bpf.c believes that di is the first word and ax the third. */
static void core_by(const char *kernel_btf)
{
	struct bpf_file f = bpf_file_read("core");
	struct object_opts opts = { .name = "core" };
	struct target_regs regs = { .r15 = 100, .r13 = 1000, .di = 7, .ax = 30 };
	struct live l = { .n = 0 };
	struct object *obj;
	struct uerr *err = object_load(f.data, f.size, &opts, kernel_btf, &obj);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	ck_assert_uint_eq(run(&l, prog_of(obj, "direct"), &regs), 37);
	ck_assert_uint_eq(prog_of(obj, "direct")->info.ctx_fields, TARGET_REG_BIT(di) | TARGET_REG_BIT(ax));
	ck_assert_uint_eq(run(&l, prog_of(obj, "exists"), &regs), 1);
	ck_assert_uint_eq(run(&l, prog_of(obj, "without"), &regs), 7);
	err = verify_program(prog_of(obj, "by_helper"), NULL, 0, NULL, NULL);
	ck_assert(!err);
	ck_assert_uint_eq(prog_of(obj, "by_helper")->info.ctx_fields, TARGET_REG_BIT(ip));
	err = verify_program(prog_of(obj, "missing"), NULL, 0, NULL, NULL);
	ck_assert(err && strstr(err->message, "not there is used at core.bpf.c:"));
	uerr_free(err);
	object_free(obj);
	free(f.data);
}

START_TEST(core_by_the_kernel)
{
	core_by(OBJECT_KERNEL_BTF);
}
END_TEST

START_TEST(core_without_the_kernel)
{
	core_by("/nonexistent");
}
END_TEST

START_TEST(maps_are_resized)
{
	static const struct object_map_size sizes[] = { { "events", 7 }, { "counts", 123456 } };
	struct object_opts opts = { .name = "probes", .sizes = sizes, .nsizes = 2 };
	struct bpf_file f = bpf_file_read("probes");
	struct object *obj;
	struct uerr *err = object_open(f.data, f.size, &opts, &obj);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	ck_assert_uint_eq(map_of(obj, "events")->max_entries, 7);
	ck_assert_uint_eq(map_of(obj, "counts")->max_entries, 123456);
	object_free(obj);
	free(f.data);
}
END_TEST

START_TEST(resizing_what_is_not_there)
{
	static const struct object_map_size size = { "evnts", 7 }, data = { ".bss", 7 };
	struct object_opts opts = { .name = "probes", .sizes = &size, .nsizes = 1 };
	struct uerr *err = refusal("probes", &opts);

	ck_assert_int_eq(err->code, UERR_USAGE);
	ck_assert_str_eq(err->message, "probes: no map 'evnts' to resize");
	ck_assert_uint_gt(err->nnear, 0);
	uerr_free(err);
	opts.sizes = &data;
	err = refusal("probes", &opts);
	ck_assert_int_eq(err->code, UERR_USAGE);
	uerr_free(err);
}
END_TEST

START_TEST(what_is_not_served)
{
	struct object_opts opts = { .name = "o" };
	struct uerr *err = refusal("sockets", &opts);

	ck_assert_int_eq(err->code, UERR_REJECTED);
	ck_assert_str_eq(err->message, "o: map 'sockets' is a sockmap, which is not there yet: use a hash or an array map");
	uerr_free(err);
	err = refusal("xdp", &opts);
	ck_assert_int_eq(err->code, UERR_REJECTED);
	ck_assert(strstr(err->message, "program pass is in SEC(\"xdp\")") && strstr(err->message, "use SEC(\"uprobe\")"));
	uerr_free(err);
}
END_TEST

START_TEST(functions_of_the_kernel_are_named)
{
	struct object *obj = load("iter");
	struct live l;
	struct uerr *err;

	live_init(&l, obj);
	err = verify_program(&obj->progs[0], l.maps, l.n, NULL, NULL);
	ck_assert(err);
	ck_assert_str_eq(err->message,
	     "program counts is not safe: a function of the kernel is called (bpf_iter_num_new() of "
				       "bpf_for() or bpf_repeat(), or another kfunc), which is not there in a process, at "
				       "iter.bpf.c:25");
	ck_assert(strstr(err->log, "  >   25   bpf_iter_num_new(&it, 0, 10);\n"));
	ck_assert(strstr(err->log, "  try:    write a loop with a constant bound\n"));
	uerr_free(err);
	live_deinit(&l);
	object_free(obj);
}
END_TEST

START_TEST(unsafe_program_is_told_by_line)
{
	struct object *obj = load("leak");
	struct live l;
	struct uerr *err;

	live_init(&l, obj);
	err = verify_program(&obj->progs[0], l.maps, l.n, NULL, NULL);
	ck_assert(err);
	ck_assert(strstr(err->message, "program on_malloc is not safe: R0 may be NULL at leak.bpf.c:"));
	ck_assert(strstr(err->log, "*n += 1;"));
	uerr_free(err);
	live_deinit(&l);
	object_free(obj);
}
END_TEST

/* --- bytes, and the worker --- */

static void same_object(const struct object *a, const struct object *b)
{
	ck_assert_str_eq(a->name, b->name);
	ck_assert_str_eq(a->license, b->license);
	ck_assert_uint_eq(a->nmaps, b->nmaps);
	ck_assert_uint_eq(a->nprogs, b->nprogs);
	ck_assert_mem_eq(a->btf, b->btf, a->btf_size);
	for (size_t i = 0; i < a->nmaps; i++) {
		const struct object_map *m = &a->maps[i], *n = &b->maps[i];

		ck_assert_mem_eq(m, n, offsetof(struct object_map, initial));
		ck_assert(!m->initial == !n->initial);
		if (m->initial)
			ck_assert_mem_eq(m->initial, n->initial, m->value_size);
	}
	for (size_t i = 0; i < a->nprogs; i++) {
		const struct vm_prog *p = &a->progs[i], *q = &b->progs[i];

		ck_assert_str_eq(p->name, q->name);
		ck_assert_str_eq(p->file, q->file);
		ck_assert_uint_eq(p->ninsns, q->ninsns);
		ck_assert_mem_eq(p->insns, q->insns, p->ninsns * sizeof(*p->insns));
		ck_assert_mem_eq(p->lines, q->lines, p->ninsns * sizeof(*p->lines));
		for (u32 k = 0; k < p->ninsns; k++)
			ck_assert(!p->texts[k] == !q->texts[k] && (!p->texts[k] || !strcmp(p->texts[k], q->texts[k])));
	}
}

START_TEST(isolated_gives_the_same)
{
	struct bpf_file f = bpf_file_read("probes");
	struct object_opts opts = { .name = "probes" };
	struct object *here = load("probes"), *there;
	struct uerr *err = object_open_isolated(f.data, f.size, &opts, &there);

	ck_assert_msg(!err, "%s", err ? err->message : "");
	same_object(here, there);
	object_free(here);
	object_free(there);
	free(f.data);
}
END_TEST

START_TEST(isolated_errors_arrive_whole)
{
	static const struct object_map_size size = { "evnts", 7 };
	struct object_opts opts = { .name = "probes", .sizes = &size, .nsizes = 1 };
	struct bpf_file f = bpf_file_read("probes");
	struct uerr *here = refusal("probes", &opts);
	struct object *obj;
	struct uerr *there = object_open_isolated(f.data, f.size, &opts, &obj);

	ck_assert_ptr_nonnull(there);
	ck_assert_int_eq(here->code, there->code);
	ck_assert_str_eq(here->message, there->message);
	ck_assert_uint_eq(here->nnear, there->nnear);
	uerr_free(here);
	uerr_free(there);
	free(f.data);
}
END_TEST

/* Whatever is done to the file, there is an answer. */
START_TEST(damaged_files)
{
	struct bpf_file f = bpf_file_read("probes");
	struct object_opts opts = { .name = "damaged" };
	u64 random = 12345;

	for (u32 round = 0; round < 60; round++) {
		size_t size = round < 20 ? f.size * round / 20 : f.size;
		cleanup_free u8 *copy = malloc(size + 1);
		struct object *obj = NULL;
		struct uerr *err;

		memcpy(copy, f.data, size);
		for (u32 i = 0; round >= 20 && i < 1u << (round % 12); i++) {
			random = random * 6364136223846793005ull + 1442695040888963407ull;
			copy[(random >> 20) % size] = random >> 56;
		}
		err = object_open_isolated(copy, size, &opts, &obj);
		ck_assert(err || obj);
		if (round < 19)
			ck_assert_msg(err && *err->message, "round %u", round);
		uerr_free(err);
		if (!err)
			object_free(obj);
	}
	free(f.data);
}
END_TEST

START_TEST(not_an_object)
{
	static const char text[] = "#!/bin/sh\nexit 0\n";
	struct object_opts opts = { .name = "script" };
	struct object *obj;
	struct uerr *err = object_open_isolated(text, sizeof(text), &opts, &obj);

	ck_assert(err && !strncmp(err->message, "script: not a BPF object", 24));
	uerr_free(err);
	err = object_open_isolated("", 0, &opts, &obj);
	ck_assert(err && !strncmp(err->message, "script: not a BPF object", 24));
	uerr_free(err);
}
END_TEST

/* What kills the worker is an error here. Its memory ends where the file is said
 * to begin. */
START_TEST(worker_dies)
{
	struct object_opts opts = { .name = "fatal" };
	struct object *obj;
	struct uerr *err = object_open_isolated((void *)PAGE, 1000, &opts, &obj);

	ck_assert(err && !strncmp(err->message, "fatal: reading it ", 18));
	uerr_free(err);
}
END_TEST

/* Packed bytes come from a process that a hostile file may have taken over. */
START_TEST(hostile_answers)
{
	struct object *obj = load("probes"), *got;
	u64 random = 99;
	size_t size;
	u8 *packed = object_pack(obj, NULL, &size);

	ck_assert_ptr_nonnull(packed);
	for (size_t cut = 0; cut < size; cut += cut < 4096 ? 1 : 61) {
		cleanup_free u8 *copy = malloc(cut + 1); /* so that ASan sees the end */
		struct uerr *err;

		memcpy(copy, packed, cut);
		err = object_unpack(copy, cut, &got);
		ck_assert_msg(err, "cut at %zu", cut);
		uerr_free(err);
	}
	for (u32 round = 0; round < 3000; round++) {
		cleanup_free u8 *copy = malloc(size);
		struct uerr *err;

		memcpy(copy, packed, size);
		for (u32 i = 0; i <= round % 5; i++) {
			random = random * 6364136223846793005ull + 1442695040888963407ull;
			copy[(random >> 20) % (round & 1 ? size : 4096)] = random >> 56;
		}
		err = object_unpack(copy, size, &got);
		uerr_free(err);
		if (!err)
			object_free(got);
	}
	free(packed);
	object_free(obj);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("object");
	TCase *tc = tcase_create("object");

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, maps_are_read);
	tcase_add_test(tc, programs_are_read);
	tcase_add_test(tc, lines_reach_into_subprograms);
	tcase_add_test(tc, program_runs_with_its_maps);
	tcase_add_test(tc, functions_are_known);
	tcase_add_test(tc, core_by_the_kernel);
	tcase_add_test(tc, core_without_the_kernel);
	tcase_add_test(tc, maps_are_resized);
	tcase_add_test(tc, resizing_what_is_not_there);
	tcase_add_test(tc, what_is_not_served);
	tcase_add_test(tc, functions_of_the_kernel_are_named);
	tcase_add_test(tc, unsafe_program_is_told_by_line);
	tcase_add_test(tc, isolated_gives_the_same);
	tcase_add_test(tc, isolated_errors_arrive_whole);
	tcase_add_test(tc, damaged_files);
	tcase_add_test(tc, not_an_object);
	tcase_add_test(tc, worker_dies);
	tcase_add_test(tc, hostile_answers);
	suite_add_tcase(s, tc);
	return suite_run(s);
}
