// SPDX-License-Identifier: MIT
/*
 * Memory that was got and not given back, by where it was got: twelve functions of
 * the C library. One that gets memory through another counts once, as the outer.
 */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define PAGE 4096ul
#define DEPTH 32

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 4096);
	__uint(key_size, 4);
	__uint(value_size, DEPTH * 8);
} stacks SEC(".maps");

struct block {
	__u64 size;
	__s64 stack;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 100000);
	__type(key, __u64); /* address */
	__type(value, struct block);
} blocks SEC(".maps");

/* The outermost call that a thread is in. */
struct call {
	__u32 depth;
	__u64 size;
	__u64 old;    /* what it gives back if it succeeds */
	__u64 result; /* where its result will stand, 0: it returns it */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* thread */
	__type(value, struct call);
} calls SEC(".maps");

__u64 lost; /* for which there was no room */

static int begin(__u64 size, __u64 old, __u64 result)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct call fresh = { .depth = 1, .size = size, .old = old, .result = result };
	struct call *c = bpf_map_lookup_elem(&calls, &tid);

	if (c)
		c->depth++;
	else
		bpf_map_update_elem(&calls, &tid, &fresh, BPF_ANY);
	return 0;
}

static int end(struct pt_regs *ctx, __u64 address, int failed)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct call *c = bpf_map_lookup_elem(&calls, &tid);
	struct block b;

	if (!c)
		return 0; /* it was in there before us */
	if (--c->depth)
		return 0;
	if (!failed && c->result && bpf_probe_read_user(&address, sizeof(address), (void *)c->result))
		failed = 1;
	if (!failed && address) {
		if (c->old)
			bpf_map_delete_elem(&blocks, &c->old);
		b.size = c->size;
		b.stack = bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK);
		if (bpf_map_update_elem(&blocks, &address, &b, BPF_ANY))
			__sync_fetch_and_add(&lost, 1);
	}
	bpf_map_delete_elem(&calls, &tid);
	return 0;
}

static int given_back(__u64 address)
{
	bpf_map_delete_elem(&blocks, &address);
	return 0;
}

#define GETS(function, size, old, result)                                                                              \
	SEC("uprobe/libc.so.6:" #function)                                                                             \
	int BPF_KPROBE(function##_begins, __u64 a, __u64 b, __u64 c)                                                   \
	{                                                                                                              \
		return begin(size, old, result);                                                                       \
	}

#define RETURNS(function, failed)                                                                                      \
	SEC("uretprobe/libc.so.6:" #function)                                                                          \
	int BPF_KRETPROBE(function##_ends, __u64 r)                                                                    \
	{                                                                                                              \
		return end(ctx, r, failed);                                                                            \
	}

#define GIVES_BACK(function)                                                                                           \
	SEC("uprobe/libc.so.6:" #function)                                                                             \
	int BPF_KPROBE(function##_begins, __u64 a)                                                                     \
	{                                                                                                              \
		return given_back(a);                                                                                  \
	}

GETS(malloc, a, 0, 0)
RETURNS(malloc, 0)
GETS(calloc, a *b, 0, 0)
RETURNS(calloc, 0)
GETS(realloc, b, a, 0)
RETURNS(realloc, 0)
GETS(aligned_alloc, b, 0, 0)
RETURNS(aligned_alloc, 0)
GETS(posix_memalign, c, 0, a)
RETURNS(posix_memalign, (int)r != 0)
GETS(memalign, b, 0, 0)
RETURNS(memalign, 0)
GETS(valloc, a, 0, 0)
RETURNS(valloc, 0)
GETS(pvalloc, (a + PAGE - 1) & -PAGE, 0, 0)
RETURNS(pvalloc, 0)
GETS(mmap, b, 0, 0)
RETURNS(mmap, (__s64)r < 0)
GETS(mremap, c, a, 0)
RETURNS(mremap, (__s64)r < 0)
GIVES_BACK(free)
GIVES_BACK(munmap)

char LICENSE[] SEC("license") = "MIT";
