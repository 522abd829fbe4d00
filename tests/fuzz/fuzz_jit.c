/* SPDX-License-Identifier: MIT */
/*
 * The JIT, from bytes: as raw instructions (what check_program() accepts must
 * compile, and within the promised size), and as the choices of the program
 * generator (what runs must give what the interpreter gives).
 */
#include <stdlib.h>

#include "tests/vm/gen_prog.h"
#include "tests/vm/jit_run.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

/* The fuzzer's bytes, then noise that they seed. */
static u32 gen_bytes(struct gen *g)
{
	u32 v = gen_random(g);

	for (u32 i = 0; i < 2 && g->nbytes; i++, g->nbytes--)
		v = v << 8 | *g->bytes++;
	return v;
}

static void raw(const u8 *data, size_t size)
{
	static struct bpf_insn insns[4096];
	u32 n = (u32)(size / sizeof(*insns));
	struct vm_prog p = { .name = "raw", .insns = insns, .ninsns = n < ARRAY_SIZE(insns) ? n : ARRAY_SIZE(insns) };
	struct uerr *err;
	struct jit_input in = { .prog = &p, .helper_addr = jit_host_helper };
	struct jit_output out;

	memcpy(insns, data, p.ninsns * sizeof(*insns));
	err = check_program(&p, NULL, 0);
	if (err) {
		uerr_free(err);
		return;
	}
	err = jit_compile(&in, &out);
	if (err || out.size > jit_size_bound(&p))
		abort();
	free(disasm_jited(&p, &out, 0x1000));
	jit_output_deinit(&out);
}

static void generated(const u8 *data, size_t size)
{
	static struct gen g;
	struct hook_frame frame;
	struct jit_code code;
	struct vm_prog p;
	struct uerr *err;
	u64 want;

	g.next = gen_bytes;
	g.bytes = data;
	g.nbytes = size;
	g.state = size;
	gen_program(&g);
	if (g.n == GEN_MAX)
		return;
	p = (struct vm_prog){ .name = "generated", .insns = g.insns, .ninsns = g.n };
	runtime_self_frame(&frame);
	if (interp_run(&p, NULL, 0, 0, 0, &frame, 0, &want))
		abort();
	err = jit_code_create(&p, NULL, 0, size & 1 ? JIT_NO_BMI2 : 0, &code);
	if (err || code.fn(0, 0, &frame) != want)
		abort();
	jit_code_destroy(&code);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] & 1)
		raw(data + 1, size - 1);
	else
		generated(data + 1, size - 1);
	return 0;
}
