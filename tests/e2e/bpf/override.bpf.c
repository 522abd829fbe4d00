// SPDX-License-Identifier: MIT
/* Functions that are skipped: odd arguments are answered here. */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

__u64 skipped, answer = 77;

SEC("uprobe")
int BPF_KPROBE(skip_odd, unsigned long n)
{
	if (n % 2) {
		bpf_override_return(ctx, answer);
		__sync_fetch_and_add(&skipped, 1);
	}
	return 0;
}

/* behind it at the same place: does not take it back */
SEC("uprobe")
int BPF_KPROBE(looks_only, unsigned long n)
{
	return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(at_exit)
{
	bpf_override_return(ctx, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
