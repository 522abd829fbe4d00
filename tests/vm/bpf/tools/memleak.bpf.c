// SPDX-License-Identifier: MIT
/* What was allocated and not freed: three maps that follow an allocation, many
 * entry points that share static functions. */
#include "tool.h"

struct alloc_info {
	__u64 size;
	__u64 timestamp_ns;
	int stack_id;
};

union combined_alloc_info {
	struct {
		__u64 total_size : 40;
		__u64 number_of_allocs : 24;
	};
	__u64 bits;
};

const volatile __u64 min_size = 0;
const volatile __u64 max_size = -1;
const volatile __u64 sample_rate = 1;
const volatile _Bool trace_all = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 10240);
} sizes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct alloc_info);
	__uint(max_entries, 100000);
} allocs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, union combined_alloc_info);
	__uint(max_entries, 10240);
} combined_allocs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, __u64);
	__uint(max_entries, 10240);
} memptrs SEC(".maps");

static union combined_alloc_info initial_cinfo;

static __always_inline void *lookup_or_try_init(void *map, const void *key, const void *init)
{
	void *val = bpf_map_lookup_elem(map, key);
	long err;

	if (val)
		return val;
	err = bpf_map_update_elem(map, key, init, BPF_NOEXIST);
	if (err && err != -17)
		return 0;
	return bpf_map_lookup_elem(map, key);
}

static void update_statistics_add(__u64 stack_id, __u64 sz)
{
	union combined_alloc_info *existing = lookup_or_try_init(&combined_allocs, &stack_id, &initial_cinfo);
	const union combined_alloc_info incremental = { .total_size = sz, .number_of_allocs = 1 };

	if (!existing)
		return;
	__sync_fetch_and_add(&existing->bits, incremental.bits);
}

static void update_statistics_del(__u64 stack_id, __u64 sz)
{
	union combined_alloc_info *existing = bpf_map_lookup_elem(&combined_allocs, &stack_id);
	const union combined_alloc_info decremental = { .total_size = sz, .number_of_allocs = 1 };

	if (!existing)
		return;
	__sync_fetch_and_sub(&existing->bits, decremental.bits);
}

static int gen_alloc_enter(__u64 size)
{
	__u32 tid = bpf_get_current_pid_tgid();

	if (size < min_size || size > max_size)
		return 0;
	if (sample_rate > 1 && bpf_ktime_get_ns() % sample_rate != 0)
		return 0;
	bpf_map_update_elem(&sizes, &tid, &size, BPF_ANY);
	return 0;
}

static int gen_alloc_exit2(struct pt_regs *ctx, __u64 address)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct alloc_info info;
	const __u64 *size = bpf_map_lookup_elem(&sizes, &tid);

	if (!size)
		return 0;
	__builtin_memset(&info, 0, sizeof(info));
	info.size = *size;
	bpf_map_delete_elem(&sizes, &tid);
	if (address != 0) {
		info.timestamp_ns = bpf_ktime_get_ns();
		info.stack_id = PT_REGS_IP(ctx);
		bpf_map_update_elem(&allocs, &address, &info, BPF_ANY);
		update_statistics_add(info.stack_id, info.size);
	}
	return 0;
}

static int gen_free_enter(const void *address)
{
	const __u64 addr = (__u64)address;
	const struct alloc_info *info = bpf_map_lookup_elem(&allocs, &addr);

	if (!info)
		return 0;
	bpf_map_delete_elem(&allocs, &addr);
	update_statistics_del(info->stack_id, info->size);
	return 0;
}

SEC("uprobe")
int BPF_KPROBE(malloc_enter, __u64 size)
{
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(malloc_exit)
{
	return gen_alloc_exit2(ctx, PT_REGS_RC(ctx));
}

SEC("uprobe")
int BPF_KPROBE(free_enter, void *address)
{
	return gen_free_enter(address);
}

SEC("uprobe")
int BPF_KPROBE(calloc_enter, __u64 nmemb, __u64 size)
{
	return gen_alloc_enter(nmemb * size);
}

SEC("uprobe")
int BPF_KPROBE(realloc_enter, void *ptr, __u64 size)
{
	gen_free_enter(ptr);
	return gen_alloc_enter(size);
}

SEC("uprobe")
int BPF_KPROBE(posix_memalign_enter, void **memptr, __u64 alignment, __u64 size)
{
	const __u64 memptr64 = (__u64)memptr;
	const __u64 tid = (__u32)bpf_get_current_pid_tgid();

	bpf_map_update_elem(&memptrs, &tid, &memptr64, BPF_ANY);
	return gen_alloc_enter(size);
}

SEC("uretprobe")
int BPF_KRETPROBE(posix_memalign_exit)
{
	const __u64 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 *memptr64 = bpf_map_lookup_elem(&memptrs, &tid);
	void *addr;

	if (!memptr64)
		return 0;
	bpf_map_delete_elem(&memptrs, &tid);
	if (bpf_probe_read_user(&addr, sizeof(void *), (void *)*memptr64))
		return 0;
	return gen_alloc_exit2(ctx, (__u64)addr);
}
