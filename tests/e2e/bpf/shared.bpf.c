// SPDX-License-Identifier: MIT
/* Maps that threads share, and what each has for itself: counts of calls, by thread,
 * under a lock, and by the longest prefix of an address. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct task_struct;

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} tasks SEC(".maps");

struct guarded {
	struct bpf_spin_lock lock;
	__u32 pad;
	__u64 once, twice;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct guarded);
} guarded SEC(".maps");

struct route {
	__u32 prefixlen;
	__u8 data[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 100);
	__type(key, struct route);
	__type(value, __u64);
} routes SEC(".maps");

SEC("uprobe")
int on_call(void *ctx)
{
	struct route route = { .prefixlen = 32, .data = { 10, 1, 2, 3 } };
	__u32 zero = 0;
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	__u64 *calls = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	__u64 *hits = bpf_map_lookup_elem(&routes, &route);
	struct guarded *g = bpf_map_lookup_elem(&guarded, &zero);

	if (calls)
		*calls += 1;
	if (hits)
		__sync_fetch_and_add(hits, 1);
	if (g) {
		bpf_spin_lock(&g->lock);
		g->once += 1;
		g->twice += 2;
		bpf_spin_unlock(&g->lock);
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
