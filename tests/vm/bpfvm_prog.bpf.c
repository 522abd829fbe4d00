// SPDX-License-Identifier: MIT
/* What test_bpfvm.c loads: maps of every kind, global data, a subprogram. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} percpu_hash SEC(".maps");

const volatile __u64 factor = 3;
__u64 runs = 100;
__u64 total;

struct input {
	__u32 key;
	__u32 pad;
	__u64 value;
};

static __noinline __u64 weigh(__u64 v)
{
	return v * factor + 1;
}

SEC("uprobe")
int empty(void *ctx)
{
	return 0;
}

SEC("uprobe")
int sum(struct input *in)
{
	return in->key + weigh(in->value);
}

SEC("uprobe")
int count(struct input *in)
{
	__u32 key = in->key;
	__u64 one = 1, *v = bpf_map_lookup_elem(&counts, &key);

	if (v)
		__sync_fetch_and_add(v, 1);
	else
		bpf_map_update_elem(&counts, &key, &one, BPF_NOEXIST);
	__sync_fetch_and_add(&total, in->value);
	runs++;
	return 7;
}

SEC("uprobe")
int add_at(struct input *in)
{
	__u32 key = in->key;
	__u64 *v = bpf_map_lookup_elem(&table, &key);

	if (!v)
		return -1;
	*v += in->value;
	return *v;
}

SEC("uprobe")
int each_cpu(struct input *in)
{
	__u32 key = in->key;
	__u64 one = 1, *v = bpf_map_lookup_elem(&percpu, &key);

	if (v)
		*v += 1;
	v = bpf_map_lookup_elem(&percpu_hash, &key);
	if (v)
		*v += 1;
	else
		bpf_map_update_elem(&percpu_hash, &key, &one, BPF_ANY);
	return 0;
}

SEC("uprobe")
int who(void *ctx)
{
	return bpf_get_current_pid_tgid() >> 32;
}

SEC("uprobe")
int read_arg(struct input *in)
{
	__u64 v = 0;

	if (bpf_probe_read_user(&v, sizeof(v), (void *)in->value))
		return -1;
	return v;
}

char LICENSE[] SEC("license") = "MIT";
