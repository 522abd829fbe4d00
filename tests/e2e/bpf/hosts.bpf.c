// SPDX-License-Identifier: MIT
/* How long look-ups of host names take, by name. */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct name {
	char text[64];
};

struct begun {
	__u64 ns;
	struct name name;
};

struct lookups {
	__u64 count, failed, total_ns, longest_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* thread */
	__type(value, struct begun);
} begun SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct name);
	__type(value, struct lookups);
} lookups SEC(".maps");

SEC("uprobe/libc.so.6:getaddrinfo")
int BPF_KPROBE(on_begin, const char *node)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct begun b = {};

	if (!node)
		return 0;
	b.ns = bpf_ktime_get_ns();
	bpf_probe_read_user_str(b.name.text, sizeof(b.name.text), node);
	bpf_map_update_elem(&begun, &tid, &b, BPF_ANY);
	return 0;
}

SEC("uretprobe/libc.so.6:getaddrinfo")
int BPF_KRETPROBE(on_end, int result)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct begun *b = bpf_map_lookup_elem(&begun, &tid);
	struct lookups none = {}, *l;
	__u64 ns;

	if (!b)
		return 0;
	ns = bpf_ktime_get_ns() - b->ns;
	bpf_map_update_elem(&lookups, &b->name, &none, BPF_NOEXIST);
	l = bpf_map_lookup_elem(&lookups, &b->name);
	if (l) {
		__sync_fetch_and_add(&l->count, 1);
		__sync_fetch_and_add(&l->failed, result != 0);
		__sync_fetch_and_add(&l->total_ns, ns);
		if (ns > l->longest_ns)
			l->longest_ns = ns;
	}
	bpf_map_delete_elem(&begun, &tid);
	return 0;
}

char LICENSE[] SEC("license") = "MIT";
