// SPDX-License-Identifier: MIT
/* Runs for milliseconds, so that a signal finds it running. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

__u64 sum;

/* Nothing is mapped there: each read has to ask the kernel. */
#define NOWHERE ((const void *)0x10000000)

SEC("uprobe")
int slow(void *ctx)
{
	for (int i = 0; i < 20000; i++) {
		__u64 x = 0;

		sum -= bpf_probe_read_user(&x, sizeof(x), NOWHERE);
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
