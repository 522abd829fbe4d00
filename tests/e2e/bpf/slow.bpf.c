// SPDX-License-Identifier: MIT
/* Runs for milliseconds, so that a signal finds it running. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

__u64 sum;

SEC("uprobe")
int slow(void *ctx)
{
	__u64 x = 1;

	for (int i = 0; i < 2000000; i++) {
		x = x * 6364136223846793005ull + i;
		if (x == 42)
			sum++;
	}
	sum += x;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
