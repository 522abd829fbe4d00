// SPDX-License-Identifier: MIT
/* Slow queries: a text whose length is another argument, kept until the end. */
#include "tool.h"

#define QUERY_MAX 256

struct query {
	__u64 start;
	__u32 len;
	char text[QUERY_MAX];
};

struct slow {
	__u64 duration;
	__u32 pid;
	__u32 len;
	char text[QUERY_MAX];
};

const volatile __u64 threshold_ns = 1000000;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct query);
} running SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct slow);
} slow_queries SEC(".maps");

__u64 seen, slower;

SEC("uprobe")
int BPF_KPROBE(query_start, void *thd, const char *text, unsigned long len)
{
	struct query q = {};
	__u32 tid = bpf_get_current_pid_tgid();

	if (len > sizeof(q.text) - 1)
		len = sizeof(q.text) - 1;
	q.start = bpf_ktime_get_ns();
	q.len = len;
	if (bpf_probe_read_user(q.text, len, text))
		return 0;
	__sync_fetch_and_add(&seen, 1);
	bpf_map_update_elem(&running, &tid, &q, BPF_ANY);
	return 0;
}

SEC("uretprobe")
int BPF_KRETPROBE(query_done)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct query *q = bpf_map_lookup_elem(&running, &tid);
	struct slow s;
	__u64 id;

	if (!q)
		return 0;
	s.duration = bpf_ktime_get_ns() - q->start;
	if (s.duration >= threshold_ns) {
		s.pid = bpf_get_current_pid_tgid() >> 32;
		s.len = q->len;
		__builtin_memcpy(s.text, q->text, sizeof(s.text));
		id = __sync_fetch_and_add(&slower, 1);
		bpf_map_update_elem(&slow_queries, &id, &s, BPF_ANY);
	}
	bpf_map_delete_elem(&running, &tid);
	return 0;
}
