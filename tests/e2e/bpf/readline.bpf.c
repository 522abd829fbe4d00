// SPDX-License-Identifier: MIT
/* Lines that are typed at a bash prompt, as they come back from readline(). */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct line {
	__u32 pid;
	__s32 length; /* with the NUL, or an error */
	char comm[16];
	char text[80];
};

const struct line *unused_line __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} lines SEC(".maps");

SEC("uretprobe//bin/bash:readline")
int BPF_KRETPROBE(on_line, const char *text)
{
	struct line *l;

	if (!text)
		return 0; /* end of input */
	l = bpf_ringbuf_reserve(&lines, sizeof(*l), 0);
	if (!l)
		return 0;
	l->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(l->comm, sizeof(l->comm));
	l->length = bpf_probe_read_user_str(l->text, sizeof(l->text), text);
	bpf_ringbuf_submit(l, 0);
	return 0;
}

char LICENSE[] SEC("license") = "MIT";
