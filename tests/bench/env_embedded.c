/* SPDX-License-Identifier: MIT */
/* The third environment: the programs called in this process through libbpfvm. */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/target_abi.h"
#include "bench.h"
#include "rows.h"
#include "vm/bpfvm.h"

static struct bpfvm *vms[N_OBJECTS];

struct uerr *env_embedded_open(const char *dir)
{
	struct bpfvm_error *error = NULL;
	struct uerr *err = NULL;
	char path[PATH_MAX];

	for (int i = 0; !err && i < N_OBJECTS; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, bench_objects[i]);
		vms[i] = bpfvm_open_file(path, &error);
		if (!vms[i] || bpfvm_load(vms[i], 0, &error))
			err = uerr_new(UERR_FAILED, "libbpfvm: %s: %s", bench_objects[i], bpfvm_error_message(error));
	}
	bpfvm_error_free(error);
	return err;
}

void env_embedded_close(void)
{
	for (int i = 0; i < N_OBJECTS; i++) {
		bpfvm_close(vms[i]);
		vms[i] = NULL;
	}
}

struct uerr *env_embedded_run(const struct bench_row *row, uint64_t calls, uint64_t *ret)
{
	bool embed = !row->entry && !row->exit;
	const char *names[2] = { embed ? "embed" : row->entry, embed ? "" : row->exit };
	uint64_t buf[8] = { 0 }, start, sum = 0;
	struct target_regs regs = { .r15 = 3, .r14 = 5, .di = (uintptr_t)buf };
	struct bpfvm_prog *progs[2];
	unsigned n = 0;

	if (!embed && !strncmp(row->name, DEEP_ROW, strlen(DEEP_ROW)))
		return uerr_new(UERR_FAILED, "a call of a program in its own process is no hit: there is no stack to walk");
	if (!embed && !strcmp(row->name, RING_ROW))
		return uerr_new(UERR_FAILED, "libbpfvm has no reader of ring buffers");
	for (int i = 0; i < 2; i++) {
		if (!names[i][0])
			continue;
		progs[n] = bpfvm_prog_find(vms[row->object], names[i]);
		if (!progs[n])
			return uerr_new(UERR_FAILED, "libbpfvm has no program %s", names[i]);
		n++;
	}
	start = bench_now_ns();
	if (n == 1)
		for (uint64_t i = 0; i < calls; i++)
			sum += bpfvm_call(progs[0], &regs, sizeof(regs));
	else
		for (uint64_t i = 0; i < calls; i++)
			sum += bpfvm_call(progs[0], &regs, sizeof(regs)) +
			       bpfvm_call(progs[1], &regs, sizeof(regs));
	*ret = bench_now_ns() - start;
	if (embed && sum != calls * 2)
		return uerr_new(UERR_FAILED, "libbpfvm computed a wrong result");
	return NULL;
}
