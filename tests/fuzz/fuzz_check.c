/* SPDX-License-Identifier: MIT */
/* Instructions from anywhere: the check and the listing must survive them, and
 * what the check accepts must compile. Input: 8 bytes an instruction. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm/jit.h"
#include "vm/program.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct umap umaps[] = {
	{ .type = UMAP_HASH, .key_size = 8, .value_size = 16, .max_entries = 10, .nslots = 1, .nbuckets = 16 },
	{ .type = UMAP_ARRAY, .key_size = 4, .value_size = 64, .max_entries = 4, .nslots = 1, .elem_stride = 64 },
	{ .type = UMAP_PERCPU_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 4, .nslots = 66, .elem_stride = 8,
	  .slot_stride = 64 },
	{ .type = UMAP_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1, .frozen = 1, .nslots = 1,
	  .elem_stride = 8 },
};
#define NMAPS ARRAY_SIZE(umaps)

static addr_t helper_addr(u32 id, void *arg)
{
	return vm_helper_known(id) || id == VM_RT_CLAIM ? 0x500000000000 + id * 16 : 0;
}

static void compile(const struct vm_prog *p)
{
	struct jit_map maps[NMAPS];
	struct jit_input in = { .prog = p, .maps = maps, .nmaps = NMAPS, .code_addr = 0x500000001000,
				.helper_addr = helper_addr };
	struct jit_output out;
	struct uerr *err;

	for (size_t i = 0; i < NMAPS; i++)
		maps[i] = (struct jit_map){ &umaps[i], 0x600000000000 + i * 4096 };
	err = jit_compile(&in, &out);
	if (err) {
		fprintf(stderr, "accepted, yet it cannot be compiled: %s\n", err->message);
		abort();
	}
	if (out.size > jit_size_bound(p))
		abort();
	jit_output_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vm_prog p = { .name = "fuzz", .ninsns = size / sizeof(struct bpf_insn) };
	struct vm_map maps[NMAPS] = {};
	struct uerr *err;

	for (size_t i = 0; i < NMAPS; i++)
		maps[i].map = &umaps[i];
	p.insns = malloc(p.ninsns * sizeof(*p.insns) + 1); /* so that ASan sees the end */
	memcpy(p.insns, data, p.ninsns * sizeof(*p.insns));
	err = check_program(&p, maps, NMAPS);
	if (!err)
		compile(&p);
	uerr_free(err);
	free(disasm_xlated(&p, maps, NMAPS));
	free(p.insns);
	return 0;
}
