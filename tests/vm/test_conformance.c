/* SPDX-License-Identifier: MIT */
/*
 * The instruction set by data files: programs with memory and result, run by
 * the interpreter and as machine code, which must both give the result. Files
 * are as ../shared/conformance/README.md describes; tests/vm/cases has some of
 * our own. Usage: test_conformance DIR; without DIR the test is skipped.
 *
 *	run     both give `result`; where the program has no input, and the
 *	        kernel accepts it, so does the verifier
 *	reject  check.c refuses it by its shape
 *	trap    the verifier refuses what must not be executed (how it is stopped
 *	        without one, conformance_plugin.py tries)
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tests/support/complaint.h"
#include "tests/vm/jit_run.h"
#include "vm/opcodes.h"
#include "vm/program.h"
#include "vm/verify.h"

#define MAX_INSNS 4096
#define MAX_MEM 65536
#define BOUND 100000000ull

struct test_case {
	char name[128], kind[16], kernel[16];
	struct bpf_insn insns[MAX_INSNS];
	u32 ninsns;
	u8 mem[MAX_MEM];
	u32 mem_size;
	u64 result;
};

/* Hex digits of S, which may have blanks between, as bytes. */
static u32 hex(const char *s, void *ret, u32 size)
{
	u32 n = 0;

	for (; *s; s++) {
		unsigned byte;

		if (*s == ' ' || *s == '\n')
			continue;
		if (n == size || sscanf(s, "%2x", &byte) != 1)
			return 0;
		((u8 *)ret)[n++] = byte;
		s++;
	}
	return n;
}

static bool case_read(const char *path, struct test_case *t)
{
	cleanup_fclose FILE *f = fopen(path, "r");
	cleanup_free char *line = NULL;
	size_t cap = 0;

	memset(t, 0, sizeof(*t));
	while (f && getline(&line, &cap, f) > 0) {
		char *value = strstr(line, ": ");

		if (!value)
			continue;
		*value = 0;
		value += 2;
		value[strcspn(value, "\n")] = 0;
		if (!strcmp(line, "name"))
			snprintf(t->name, sizeof(t->name), "%s", value);
		else if (!strcmp(line, "kind"))
			snprintf(t->kind, sizeof(t->kind), "%s", value);
		else if (!strcmp(line, "kernel"))
			snprintf(t->kernel, sizeof(t->kernel), "%.*s", (int)strcspn(value, " "), value);
		else if (!strcmp(line, "insns"))
			t->ninsns = hex(value, t->insns, sizeof(t->insns)) / sizeof(t->insns[0]);
		else if (!strcmp(line, "mem"))
			t->mem_size = hex(value, t->mem, sizeof(t->mem));
		else if (!strcmp(line, "result"))
			t->result = strtoull(value, NULL, 16);
	}
	return t->ninsns && *t->kind;
}

/* --- judging; each returns NULL, or what is wrong (malloc'd) --- */

/* Memory as a run gets it: its own copy, none when the case has none. */
static u8 *fresh_mem(const struct test_case *t)
{
	u8 *mem = t->mem_size ? malloc(t->mem_size) : NULL;

	if (mem)
		memcpy(mem, t->mem, t->mem_size);
	return mem;
}

static char *interpret(const struct test_case *t, const struct vm_prog *p)
{
	cleanup_free u8 *mem = fresh_mem(t);
	u64 r0 = 0;
	long ret = interp_run(p, NULL, 0, (uintptr_t)mem, t->mem_size, NULL, BOUND, &r0);

	if (ret)
		return complaint("interpreter: %s", strerror(-ret));
	if (r0 != t->result)
		return complaint("interpreter: 0x%llx, expected 0x%llx", (unsigned long long)r0,
				 (unsigned long long)t->result);
	return NULL;
}

static char *run_code(const struct test_case *t, const struct vm_prog *p, u32 flags)
{
	cleanup_free u8 *mem = fresh_mem(t);
	struct hook_frame frame;
	struct jit_code code;
	struct uerr *err = jit_code_create(p, NULL, 0, flags, &code);
	u64 r0;

	if (err) {
		char *text = complaint("JIT: %s", err->message);

		uerr_free(err);
		return text;
	}
	runtime_self_frame(&frame);
	r0 = code.fn((uintptr_t)mem, t->mem_size, &frame);
	jit_code_destroy(&code);
	if (r0 != t->result)
		return complaint("JIT: 0x%llx, expected 0x%llx", (unsigned long long)r0, (unsigned long long)t->result);
	return NULL;
}

static char *must_accept(const struct test_case *t, struct vm_prog *p)
{
	struct uerr *err;
	char *text;

	if (t->mem_size || strcmp(t->kernel, "accept"))
		return NULL;
	err = verify_program(p, NULL, 0, NULL, NULL);
	verify_forget(p);
	if (!err)
		return NULL;
	text = complaint("the kernel accepts it, we do not: %s", err->message);
	uerr_free(err);
	return text;
}

static char *must_refuse(struct vm_prog *p, bool trap)
{
	struct uerr *err = trap ? verify_program(p, NULL, 0, NULL, NULL) : check_program(p, NULL, 0);

	verify_forget(p);
	if (!err)
		return complaint("accepted, must be refused");
	if (err->code != UERR_REJECTED || !strstr(err->message, "is not safe: "))
		return complaint("refused in strange words: %s", err->message);
	uerr_free(err);
	return NULL;
}

static char *case_run(struct test_case *t)
{
	struct vm_prog p = { .insns = t->insns, .ninsns = t->ninsns };
	char *wrong = NULL;

	snprintf(p.name, sizeof(p.name), "%.63s", t->name);
	if (strcmp(t->kind, "run"))
		return must_refuse(&p, !strcmp(t->kind, "trap"));
	wrong = interpret(t, &p);
	if (!wrong)
		wrong = run_code(t, &p, 0);
	if (!wrong)
		wrong = run_code(t, &p, JIT_NO_BMI2);
	return wrong ? wrong : must_accept(t, &p);
}

/* --- all of a directory --- */

static int is_case(const struct dirent *d)
{
	const char *dot = strrchr(d->d_name, '.');

	return dot && !strcmp(dot, ".test");
}

static const char *const kinds[] = { "run", "reject", "trap" };

int main(int argc, char **argv)
{
	static struct test_case t;
	u32 passed[3] = { 0 }, all[3] = { 0 };
	struct dirent **files;
	int n = argc > 1 ? scandir(argv[1], &files, is_case, alphasort) : -1;

	if (n <= 0) {
		printf("1..0 # SKIP no cases in %s\n", argc > 1 ? argv[1] : "(no directory given)");
		return 0;
	}
	printf("1..%d\n", n);
	for (int i = 0; i < n; i++) {
		cleanup_free char *path = complaint("%s/%s", argv[1], files[i]->d_name);
		cleanup_free char *wrong = NULL;

		wrong = case_read(path, &t) ? case_run(&t) : complaint("not a case");
		printf("%sok %d - %s%s%s\n", wrong ? "not " : "", i + 1, files[i]->d_name, wrong ? ": " : "",
		       wrong ? wrong : "");
		for (u32 k = 0; k < ARRAY_SIZE(kinds); k++) {
			all[k] += !strcmp(t.kind, kinds[k]);
			passed[k] += !strcmp(t.kind, kinds[k]) && !wrong;
		}
		free(files[i]);
	}
	free(files);
	for (u32 k = 0; k < ARRAY_SIZE(kinds); k++)
		printf("# %s: %u of %u\n", kinds[k], passed[k], all[k]);
	return memcmp(passed, all, sizeof(all)) ? EXIT_FAILURE : EXIT_SUCCESS;
}
