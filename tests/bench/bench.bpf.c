// SPDX-License-Identifier: MIT
/*
 * The programs of the benchmark: the same object is loaded by the kernel, by
 * uprobed and by libbpfvm. A map or memory program makes 1000 operations a call.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define OPS 1000
#define ENTRIES 1024

/* what a program sees of pt_regs: the first argument */
struct regs {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
};

#define MAP(kind, map_name)                          \
	struct {                                     \
		__uint(type, kind);                  \
		__uint(max_entries, ENTRIES);        \
		__type(key, __u32);                  \
		__type(value, __u64);                \
	} map_name SEC(".maps")

MAP(BPF_MAP_TYPE_HASH, hash);
MAP(BPF_MAP_TYPE_ARRAY, array);
MAP(BPF_MAP_TYPE_PERCPU_HASH, pc_hash);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, pc_array);

SEC("uprobe")
int on_entry(void *ctx)
{
	return 0;
}

SEC("uretprobe")
int on_exit(void *ctx)
{
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} pc_count SEC(".maps");

/* on several threads at once: nothing may be lost, and nobody wait */
SEC("uprobe")
int count(void *ctx)
{
	__u32 key = 0;
	__u64 *n = bpf_map_lookup_elem(&pc_count, &key);

	if (n)
		(*n)++;
	return 0;
}

SEC("uprobe")
int read(struct regs *ctx)
{
	void *from = (void *)ctx->di;
	__u64 x;

	for (int i = 0; i < OPS; i++)
		bpf_probe_read_user(&x, sizeof(x), from);
	return 0;
}

SEC("uprobe")
int write(struct regs *ctx)
{
	void *to = (void *)ctx->di;
	__u64 x = 0;

	for (int i = 0; i < OPS; i++)
		bpf_probe_write_user(to, &x, sizeof(x));
	return 0;
}

#define MAP_PROGRAMS(map_name)                                                \
	SEC("uprobe")                                                         \
	int map_name##_update(void *ctx)                                      \
	{                                                                     \
		for (int i = 0; i < OPS; i++) {                               \
			__u32 key = i;                                        \
			__u64 value = i;                                      \
                                                                              \
			bpf_map_update_elem(&map_name, &key, &value, BPF_ANY); \
		}                                                             \
		return 0;                                                     \
	}                                                                     \
                                                                              \
	SEC("uprobe")                                                         \
	int map_name##_lookup(void *ctx)                                      \
	{                                                                     \
		__u64 *value, sum = 0;                                        \
                                                                              \
		for (int i = 0; i < OPS; i++) {                               \
			__u32 key = i;                                        \
                                                                              \
			value = bpf_map_lookup_elem(&map_name, &key);         \
			if (value)                                            \
				sum += *value;                                \
		}                                                             \
		return sum;                                                   \
	}                                                                     \
                                                                              \
	SEC("uprobe")                                                         \
	int map_name##_delete(void *ctx)                                      \
	{                                                                     \
		for (int i = 0; i < OPS; i++) {                               \
			__u32 key = i;                                        \
                                                                              \
			bpf_map_delete_elem(&map_name, &key);                 \
		}                                                             \
		return 0;                                                     \
	}

MAP_PROGRAMS(hash)
MAP_PROGRAMS(array)
MAP_PROGRAMS(pc_hash)
MAP_PROGRAMS(pc_array)

/* the program of the row `embed`: ctx is eight numbers */
SEC("uprobe")
int embed(struct regs *ctx)
{
	__u64 a = ctx->r15, b = ctx->r14;

	return a > b ? a - b : b - a;
}

char LICENSE[] SEC("license") = "GPL";
