// SPDX-License-Identifier: MIT
/* How long name lookups take: a string argument kept from entry to return. */
#include "tool.h"

#define HOST_LEN 80

struct event {
	__u64 time;
	__u32 pid;
	char comm[TASK_COMM_LEN];
	char host[HOST_LEN];
};

const volatile int target_pid = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, __u32);
	__type(value, struct event);
} starts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, char[HOST_LEN]);
	__type(value, __u64);
} slowest SEC(".maps");

static int probe_entry(struct pt_regs *ctx)
{
	struct event event = {};
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 pid = pid_tgid >> 32, tid = pid_tgid;

	if (!PT_REGS_PARM1(ctx))
		return 0;
	if (target_pid && target_pid != pid)
		return 0;
	event.time = bpf_ktime_get_ns();
	event.pid = pid;
	bpf_get_current_comm(&event.comm, sizeof(event.comm));
	bpf_probe_read_user(&event.host, sizeof(event.host), (void *)PT_REGS_PARM1(ctx));
	bpf_map_update_elem(&starts, &tid, &event, BPF_ANY);
	return 0;
}

static int probe_return(struct pt_regs *ctx)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct event *eventp = bpf_map_lookup_elem(&starts, &tid);
	__u64 *old, time;

	if (!eventp)
		return 0;
	time = bpf_ktime_get_ns() - eventp->time;
	old = bpf_map_lookup_elem(&slowest, eventp->host);
	if (!old || *old < time)
		bpf_map_update_elem(&slowest, eventp->host, &time, BPF_ANY);
	bpf_map_delete_elem(&starts, &tid);
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(handle_entry)
{
	return probe_entry(ctx);
}

SEC("uretprobe")
int BPF_KRETPROBE(handle_return)
{
	return probe_return(ctx);
}
