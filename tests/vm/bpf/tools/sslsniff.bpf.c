// SPDX-License-Identifier: MIT
/* What goes through a TLS library: a buffer of a length that is not known, cut
 * to what the event holds. */
#include "tool.h"

#define MAX_BUF 8192

struct probe_SSL_data_t {
	__u64 timestamp_ns;
	__u64 delta_ns;
	__u32 pid, tid, uid;
	__u32 len;
	int buf_filled;
	int rw;
	char comm[TASK_COMM_LEN];
	__u8 buf[MAX_BUF];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct probe_SSL_data_t);
} ssl_data SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, __u32);
	__type(value, __u64);
} start_ns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, __u32);
	__type(value, __u64);
} bufs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct probe_SSL_data_t);
} last SEC(".maps");

const volatile int targ_pid = 0;
const volatile int targ_uid = -1;

static __always_inline _Bool trace_allowed(__u32 uid, __u32 pid)
{
	if (targ_pid && targ_pid != pid)
		return 0;
	if (targ_uid != -1 && targ_uid != uid)
		return 0;
	return 1;
}

SEC("uprobe")
int BPF_KPROBE(probe_SSL_rw_enter, void *ssl, void *buf, int num)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid(), ts;
	__u32 pid = pid_tgid >> 32, tid = pid_tgid, uid = bpf_get_current_uid_gid();

	if (!trace_allowed(uid, pid))
		return 0;
	ts = bpf_ktime_get_ns();
	bpf_map_update_elem(&bufs, &tid, &buf, BPF_ANY);
	bpf_map_update_elem(&start_ns, &tid, &ts, BPF_ANY);
	return 0;
}

static int SSL_exit(struct pt_regs *ctx, int rw)
{
	int ret = 0, len = PT_REGS_RC(ctx);
	__u32 zero = 0, buf_copy_size;
	__u64 pid_tgid = bpf_get_current_pid_tgid(), ts = bpf_ktime_get_ns(), *bufp, *tsp;
	__u32 pid = pid_tgid >> 32, tid = (__u32)pid_tgid, uid = bpf_get_current_uid_gid();
	struct probe_SSL_data_t *data;

	if (!trace_allowed(uid, pid))
		return 0;
	bufp = bpf_map_lookup_elem(&bufs, &tid);
	if (!bufp)
		return 0;
	tsp = bpf_map_lookup_elem(&start_ns, &tid);
	if (!tsp)
		return 0;
	if (len <= 0)
		return 0;
	data = bpf_map_lookup_elem(&ssl_data, &zero);
	if (!data)
		return 0;
	data->timestamp_ns = ts;
	data->delta_ns = ts - *tsp;
	data->pid = pid;
	data->tid = tid;
	data->uid = uid;
	data->len = (__u32)len;
	data->buf_filled = 0;
	data->rw = rw;
	buf_copy_size = MAX_BUF < (__u64)len ? MAX_BUF : (__u32)len;
	bpf_get_current_comm(&data->comm, sizeof(data->comm));
	if (bufp != 0)
		ret = bpf_probe_read_user(&data->buf, buf_copy_size, (char *)*bufp);
	bpf_map_delete_elem(&bufs, &tid);
	bpf_map_delete_elem(&start_ns, &tid);
	if (!ret)
		data->buf_filled = 1;
	bpf_map_update_elem(&last, &zero, data, BPF_ANY);
	return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(probe_SSL_read_exit)
{
	return SSL_exit(ctx, 0);
}

SEC("uretprobe")
int BPF_KRETPROBE(probe_SSL_write_exit)
{
	return SSL_exit(ctx, 1);
}
