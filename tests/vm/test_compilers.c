/* SPDX-License-Identifier: MIT */
/*
 * Objects of one source by each compiler for each -mcpu: they open, verify, and
 * give the results that the host's compiler gives, interpreted and compiled.
 * Usage: test_compilers OBJECT…, each named …-vN.bpf.o by its -mcpu; NAME=WHY
 * stands for one that could not be made, and is skipped.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/types.h"
#include "tests/support/complaint.h"
#include "vm/bpfvm.h"

#define CPU 4
#include "tests/vm/compilers/functions.h"

struct args {
	u64 a, b;
};

static const struct args pairs[] = {
	{ 0, 0 }, { 1, 2 }, { 7, 0xffffffffffffffff }, { 0x8000000000000000, 0xffffffffffffffff }, { 3, 64 },
	{ 0x80, 0x8000 }, { 0xfffffffffffffff0, 5 }, { 0x123456789abcdef0, 0xfedcba9876543210 },
	{ 0xffffffff, 0x100000000 }, { 0x80000000, 0x7fffffff }, { 90, 1000003 }, { 17, 0x8000000080000000 },
};

/* --- what programs must return --- */

#define HOST(f, cpu)                           \
	static u64 host_##f(u64 a, u64 b)      \
	{                                      \
		return f(a, b);                \
	}
FUNCTIONS(HOST)

static u64 inner(u64 a, u64 b)
{
	return arithmetic(a, b) + 1;
}

static u64 host_calls(u64 a, u64 b)
{
	return (inner(a, b) ^ inner(b, a)) + (u32)(arithmetic32(a, b) + b);
}

static u64 host_data(u64 a, u64 b)
{
	static const s8 small[] = { -1, 2, -3, 4, -5, 6, -7, 8 };

	return 0x1122334455667788ull + 0x8877665544332211ull - 7 + (u64)(s64)small[a & 7];
}

static u64 host_literal(u64 a, u64 b)
{
	return 'y';
}

static u64 host_core(u64 a, u64 b)
{
	return a - b;
}

static u64 host_far(u64 a, u64 b)
{
	return a & 1 ? 0 : 40000;
}

static u64 host_types(u64 a, u64 b)
{
	return 3 + 9 + (a & 1 ? 5 : 4);
}

/* Called twice for each pair, by the interpreter and compiled: b, then 2b. */
static u64 host_maps(u64 a, u64 b)
{
	static unsigned calls;

	return calls++ & 1 ? 2 * b : b;
}

static const struct expectation {
	const char *name;
	int cpu;
	u64 (*host)(u64, u64);
	bool stateful; /* asked for each run */
} expectations[] = {
#define ROW(f, cpu) { "run_" #f, cpu, host_##f, false },
	FUNCTIONS(ROW)
	{ "calls", 1, host_calls, false },
	{ "data", 1, host_data, false },
	{ "literal", 1, host_literal, false },
	{ "core", 1, host_core, false },
	{ "types", 1, host_types, false },
	{ "maps", 1, host_maps, true },
	{ "far", 4, host_far, false },
};

/* --- one object --- */

static char *error_text(struct bpfvm_error *error)
{
	char *text = complaint("%s", bpfvm_error_message(error)), *c;

	fprintf(stderr, "%s\n%s", text, bpfvm_error_log(error));
	bpfvm_error_free(error);
	for (c = text; *c; c++) /* one line of TAP */
		if (*c == '\n' || *c == '#')
			*c = ' ';
	return text;
}

static char *wrong(const struct expectation *e, const char *how, const struct args *x, u64 is, u64 should)
{
	return complaint("%s(0x%llx, 0x%llx) %s: 0x%llx, should be 0x%llx", e->name, (unsigned long long)x->a,
			 (unsigned long long)x->b, how, (unsigned long long)is, (unsigned long long)should);
}

static char *try_program(struct bpfvm *vm, const struct expectation *e)
{
	struct bpfvm_prog *p = bpfvm_prog_find(vm, e->name);

	if (!p)
		return complaint("no program %s", e->name);
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		struct args x = pairs[i];
		u64 should = e->host(x.a, x.b), is = ~should;

		if (bpfvm_interpret(p, &x, sizeof(x), 0, &is) || is != should)
			return wrong(e, "interpreted", &x, is, should);
		if (e->stateful)
			should = e->host(x.a, x.b);
		is = ~should;
		if (bpfvm_run(p, &x, sizeof(x), &is) || is != should)
			return wrong(e, "compiled", &x, is, should);
	}
	return NULL;
}

static char *try_object(const char *path, int cpu)
{
	struct bpfvm_error *error = NULL;
	struct bpfvm *vm = bpfvm_open_file(path, &error);
	char *text = NULL;
	u64 runs = 0;

	if (!vm || bpfvm_load(vm, 0, &error)) {
		bpfvm_close(vm);
		return error_text(error);
	}
	for (size_t i = 0; !text && i < ARRAY_SIZE(expectations); i++)
		if (expectations[i].cpu <= cpu)
			text = try_program(vm, &expectations[i]);
	if (!text && (bpfvm_map_lookup(bpfvm_map_find(vm, ".bss"), &(u32){ 0 }, (u64[8]){ 0 }) ||
		      !bpfvm_map_find(vm, ".data.mine")))
		text = complaint("global data is missing");
	for (const u64 *v = bpfvm_map_memory(bpfvm_map_find(vm, ".bss"), NULL); !text && v && !runs; v++)
		runs = *v;
	if (!text && runs != 2 * ARRAY_SIZE(pairs))
		text = complaint("%llu runs counted", (unsigned long long)runs);
	bpfvm_close(vm);
	return text;
}

int main(int argc, char **argv)
{
	int failed = 0;

	printf("1..%d\n", argc - 1);
	for (int i = 1; i < argc; i++) {
		char *why = strchr(argv[i], '='), *text, *v = strstr(argv[i], "-v");
		const char *base = strrchr(argv[i], '/');

		base = base ? base + 1 : argv[i];
		for (char *next = v; next; next = strstr(next + 1, "-v"))
			v = next;
		if (why) {
			printf("ok %d - %.*s # SKIP %s\n", i, (int)(why - argv[i]), argv[i], why + 1);
			continue;
		}
		text = v ? try_object(argv[i], atoi(v + 2)) : complaint("no -mcpu in its name");
		printf("%sok %d - %s%s%s\n", text ? "not " : "", i, base, text ? ": " : "", text ? text : "");
		failed += !!text;
		free(text);
	}
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
