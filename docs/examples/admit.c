// SPDX-License-Identifier: MIT
/*
 * A server that leaves a decision to an eBPF program: ./admit admit.bpf.o
 *
 *	cc admit.c -o admit $(pkg-config --cflags --libs libbpfvm)
 */
#include <bpfvm.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

struct request {
	uint32_t user, bytes;
	uint64_t left;
};

/* What the program may do with a request, and no more. */
static const struct bpfvm_ctx_field request_fields[] = {
	{ offsetof(struct request, user), 4, BPFVM_READ },
	{ offsetof(struct request, bytes), 4, BPFVM_READ },
	{ offsetof(struct request, left), 8, BPFVM_READ | BPFVM_WRITE },
};

static uint64_t quota_of(uint64_t user, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, struct bpfvm_call *call)
{
	const uint64_t *quota = (const uint64_t *)bpfvm_data(bpfvm_call_vm(call));

	(void)a2, (void)a3, (void)a4, (void)a5;
	return (uint32_t)user == 0 ? UINT64_MAX : *quota;
}

static const struct bpfvm_helper quota_helper = {
	0x1000, "quota_of", quota_of, BPFVM_RET_NUMBER,
	{ BPFVM_ARG_ANY, BPFVM_ARG_NONE, BPFVM_ARG_NONE, BPFVM_ARG_NONE, BPFVM_ARG_NONE },
};

static int failed(struct bpfvm_error *error)
{
	fprintf(stderr, "%s\n%s", bpfvm_error_message(error), bpfvm_error_log(error));
	bpfvm_error_free(error);
	return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	static const struct request requests[] = {
		{ 7, 600, 0 }, { 8, 100, 0 }, { 7, 600, 0 }, { 7, 400, 0 }, { 0, 5000, 0 },
	};
	struct bpfvm_error *error = NULL;
	uint64_t quota = 1000, sum;
	const void *before = NULL;
	struct bpfvm_prog *admit;
	struct bpfvm_map *used;
	struct bpfvm *vm;
	uint32_t user;

	vm = bpfvm_open_file(argc > 1 ? argv[1] : "admit.bpf.o", &error);
	if (!vm)
		return failed(error);
	bpfvm_set_data(vm, &quota);
	if (bpfvm_set_ctx(vm, sizeof(struct request), request_fields, 3))
		return EXIT_FAILURE;
	if (bpfvm_add_helper(vm, &quota_helper, &error) || bpfvm_load(vm, 0, &error))
		return failed(error);

	admit = bpfvm_prog_find(vm, "admit");
	used = bpfvm_map_find(vm, "used");
	if (!admit || !used)
		return EXIT_FAILURE;
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		struct request r = requests[i];
		uint64_t yes = 0;

		if (bpfvm_run(admit, &r, sizeof(r), &yes))
			return EXIT_FAILURE;
		if (yes)
			printf("user %" PRIu32 ": %" PRIu32 " bytes, admitted\n", r.user, r.bytes);
		else
			printf("user %" PRIu32 ": %" PRIu32 " bytes, over the quota\n", r.user, r.bytes);
	}
	while (!bpfvm_map_next_key(used, before, &user)) {
		if (!bpfvm_map_lookup(used, &user, &sum) && user == 7)
			printf("user 7 has used %" PRIu64 "\n", sum);
		before = &user;
	}
	bpfvm_close(vm);
	return EXIT_SUCCESS;
}
