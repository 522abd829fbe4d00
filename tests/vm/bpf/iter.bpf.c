// SPDX-License-Identifier: MIT
/* A loop by bpf_for() of newer headers than Debian 12's: what it expands to are
 * calls of functions of the kernel. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct bpf_iter_num {
	__u64 opaque[1];
} __attribute__((aligned(8)));

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __attribute__((weak)) __ksym;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __attribute__((weak)) __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __attribute__((weak)) __ksym;

__u64 sum;

SEC("uprobe")
int counts(void *ctx)
{
	struct bpf_iter_num it;
	int *v;

	bpf_iter_num_new(&it, 0, 10);
	while ((v = bpf_iter_num_next(&it)))
		sum += *v;
	bpf_iter_num_destroy(&it);
	return 0;
}

char LICENSE[] SEC("license") = "MIT";
