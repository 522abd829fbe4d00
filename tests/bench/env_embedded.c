/* SPDX-License-Identifier: MIT */
/* The third environment: the programs called in this process through libbpfvm. */
#include <stdint.h>

#include "base/target_abi.h"
#include "bench.h"
#include "vm/bpfvm.h"

static struct bpfvm *vm;

struct uerr *env_embedded_open(const char *object_path)
{
	struct bpfvm_error *error = NULL;
	struct uerr *err;

	vm = bpfvm_open_file(object_path, &error);
	if (vm && !bpfvm_load(vm, 0, &error))
		return NULL;
	err = uerr_new(UERR_FAILED, "libbpfvm: %s", bpfvm_error_message(error));
	bpfvm_error_free(error);
	return err;
}

void env_embedded_close(void)
{
	bpfvm_close(vm);
	vm = NULL;
}

struct uerr *env_embedded_run(const struct bench_row *row, uint64_t calls, uint64_t *ret)
{
	bool embed = !row->entry && !row->exit;
	const char *names[2] = { embed ? "embed" : row->entry, embed ? "" : row->exit };
	uint64_t buf[8] = { 0 }, start, sum = 0;
	struct target_regs regs = { .r15 = 3, .r14 = 5, .di = (uintptr_t)buf };
	struct bpfvm_prog *progs[2];
	unsigned n = 0;

	for (int i = 0; i < 2; i++) {
		if (!names[i][0])
			continue;
		progs[n] = bpfvm_prog_find(vm, names[i]);
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
