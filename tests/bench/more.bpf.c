// SPDX-License-Identifier: MIT
/*
 * Programs of the rows that nobody has published figures for: other uses of hashes,
 * and helpers. Loaded in the same three ways as those of bench.bpf.c.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include "rows.h"

#define OPS 1000
#define MILLION (1u << 20)

#define MAP(kind, map_name, entries, key_type)       \
	struct {                                     \
		__uint(type, kind);                  \
		__uint(max_entries, entries);        \
		__type(key, key_type);               \
		__type(value, __u64);                \
	} map_name SEC(".maps")

struct text16 {
	char text[16];
};

struct text64 {
	char text[64];
};

MAP(BPF_MAP_TYPE_HASH, few, 1024, __u32);
MAP(BPF_MAP_TYPE_HASH, strings16, 1024, struct text16);
MAP(BPF_MAP_TYPE_HASH, strings64, 1024, struct text64);
MAP(BPF_MAP_TYPE_LRU_HASH, recent, 1024, __u32);

/* no memory is touched before it is used, so that loading costs little everywhere */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MILLION);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u64);
} many SEC(".maps");

__u32 next_many, next_recent;

/* of keys that were not there, then of keys that are */
SEC("uprobe")
int insert_delete(void *ctx)
{
	for (int i = 0; i < OPS; i++) {
		__u32 key = i;
		__u64 value = i;

		bpf_map_update_elem(&few, &key, &value, BPF_ANY);
		bpf_map_delete_elem(&few, &key);
	}
	return 0;
}

/* look-ups; what is not there is put there, the first time */
#define LOOKUPS(program, map, key_type, make_key)                                      \
	SEC("uprobe")                                                                  \
	int program(void *ctx)                                                         \
	{                                                                              \
		__u64 *value, sum = 0, none = 0;                                       \
		key_type key;                                                          \
                                                                                       \
		__builtin_memset(&key, 0, sizeof(key));                                \
		for (int i = 0; i < OPS; i++) {                                        \
			make_key;                                                      \
			value = bpf_map_lookup_elem(&map, &key);                       \
			if (value)                                                     \
				sum += *value;                                         \
			else                                                           \
				bpf_map_update_elem(&map, &key, &none, BPF_ANY);       \
		}                                                                      \
		return sum;                                                            \
	}

LOOKUPS(string16, strings16, struct text16, *(__u32 *)&key.text[8] = i)
LOOKUPS(string64, strings64, struct text64, *(__u32 *)&key.text[40] = i)
/* neighbours in time lie far from each other, and all come before one comes again */
LOOKUPS(million, many, __u32, key = next_many++ * 0x9e3779b1u & (MILLION - 1))

SEC("uprobe")
int lru_eviction(void *ctx)
{
	for (int i = 0; i < OPS; i++) {
		__u32 key = next_recent++;
		__u64 value = i;

		bpf_map_update_elem(&recent, &key, &value, BPF_ANY);
	}
	return 0;
}

/* by several threads at once, each from a place of its own on */
SEC("uprobe")
int shared_update(void *ctx)
{
	__u32 start = bpf_get_prandom_u32();

	for (int i = 0; i < OPS; i++) {
		__u32 key = (start + i) & 1023;
		__u64 value = i;

		bpf_map_update_elem(&few, &key, &value, BPF_ANY);
	}
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} bench_records SEC(".maps");

/* of 16 bytes, for a reader that does not sleep */
SEC("uprobe")
int ring_output(void *ctx)
{
	__u64 record[2] = { 0, 1 };

	for (int i = 0; i < OPS; i++) {
		record[0] = i;
		bpf_ringbuf_output(&bench_records, record, sizeof(record), BPF_RB_NO_WAKEUP);
	}
	return 0;
}

#define HELPER(program, declare, call)               \
	SEC("uprobe")                                \
	int program(void *ctx)                       \
	{                                            \
		__u64 sum = 0;                       \
		declare;                             \
                                                     \
		for (int i = 0; i < OPS; i++)        \
			sum += call;                 \
		return sum;                          \
	}

static const char word[] = "uprobed, as ever";

HELPER(ktime, , bpf_ktime_get_ns())
HELPER(pid_tgid, , bpf_get_current_pid_tgid())
HELPER(comm, char name[16], bpf_get_current_comm(name, sizeof(name)))
HELPER(compare, char text[16] = "uprobed, as eve", bpf_strncmp(text, sizeof(text), word))

/* of stacks that are deeper: so many frames are walked, here and there */
#define STACKS(program, map_name, depth)                                          \
	struct {                                                                  \
		__uint(type, BPF_MAP_TYPE_STACK_TRACE);                           \
		__uint(max_entries, 64);                                          \
		__uint(key_size, 4);                                              \
		__uint(value_size, depth * 8);                                    \
	} map_name SEC(".maps");                                                  \
                                                                                  \
	SEC("uprobe")                                                             \
	int program(void *ctx)                                                    \
	{                                                                         \
		__u64 sum = 0;                                                    \
                                                                                  \
		for (int i = 0; i < OPS; i++)                                     \
			sum += bpf_get_stackid(ctx, &map_name, BPF_F_USER_STACK); \
		return sum;                                                       \
	}

STACKS(stackid_10, stacks_10, 10)
STACKS(stackid_30, stacks_30, 30)

char LICENSE[] SEC("license") = "GPL";
