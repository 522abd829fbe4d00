// SPDX-License-Identifier: MIT
/* Distributions of arguments: per-CPU histograms by key, linear and by powers of
 * two, signed and unsigned. */
#include "tool.h"

struct key {
	__u32 tgid;
	__u32 which;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 256);
	__type(key, struct key);
	__type(value, struct hist);
} hists SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} linear SEC(".maps");

const volatile __s64 low = -16;
const volatile __u32 step = 4;
static struct hist empty;

static __noinline struct hist *find(struct key *key)
{
	struct hist *h = bpf_map_lookup_elem(&hists, key);

	if (h)
		return h;
	bpf_map_update_elem(&hists, key, &empty, BPF_NOEXIST);
	return bpf_map_lookup_elem(&hists, key);
}

static __noinline int account(__u32 tgid, __u32 which, __u64 value)
{
	struct key key = { tgid, which };
	struct hist *h = find(&key);
	__u64 slot = log2l(value);

	if (!h)
		return 1;
	if (slot >= MAX_SLOTS)
		slot = MAX_SLOTS - 1;
	h->slots[slot]++;
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(arguments, unsigned long a, unsigned long b, long c)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32, slot;
	__u64 *count;
	__s64 i;

	account(tgid, 0, a);
	account(tgid, 1, b);
	i = c - low;
	if (i < 0)
		i = 0;
	slot = (__u64)i / (step ? step : 1);
	if (slot > 63)
		slot = 63;
	count = bpf_map_lookup_elem(&linear, &slot);
	if (count)
		*count += 1;
	return 0;
}
