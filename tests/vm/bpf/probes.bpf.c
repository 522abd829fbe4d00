// SPDX-License-Identifier: MIT
/* Most of what an object can have: maps, global data, functions of its own,
 * several programs. */
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

enum color { RED, GREEN = 7, BLUE };

struct event {
	__u32 pid;
	__s32 level;
	__u64 when;
	char comm[16];
	enum color color;
	_Bool seen;
	union {
		__u32 word;
		__u8 bytes[4];
	};
	__u32 low : 3, high : 13;
	void *where;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 100);
	__type(key, __u32);
	__type(value, struct event);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} percpu SEC(".maps");

const volatile __u64 limit = 5000000000000001;
__u64 total;
__u32 start = 42;

/* stays a function: two callers, and told so */
static __attribute__((noinline)) __u64 scale(__u64 x, __u64 by)
{
	return x * by + limit % 3;
}

__attribute__((noinline)) int note(__u32 key)
{
	__u64 *n = bpf_map_lookup_elem(&counts, &key);

	if (!n)
		return 1;
	__sync_fetch_and_add(n, scale(key + 1, 10));
	return 0;
}

SEC("uprobe/libc:malloc")
int on_malloc(struct pt_regs *ctx)
{
	__u64 size = PT_REGS_PARM1(ctx);

	if (size > limit)
		return 1;
	total += scale(size, 2);
	return note(start & 7);
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx)
{
	struct event e = { .pid = bpf_get_current_pid_tgid() >> 32, .level = -1, .when = PT_REGS_RC(ctx) };
	__u32 key = 0;
	__u64 *n;

	bpf_get_current_comm(e.comm, sizeof(e.comm));
	bpf_map_update_elem(&events, &e.pid, &e, BPF_ANY);
	n = bpf_map_lookup_elem(&percpu, &key);
	if (n)
		*n += 1;
	return 0;
}

SEC("?uprobe/off")
int not_loaded(struct pt_regs *ctx)
{
	return 0;
}

SEC("embed")
int plain(__u64 *ctx)
{
	return ctx[0] + ctx[1];
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
