// SPDX-License-Identifier: MIT
/* Three programs for one place, that see for each thread whether they run in the
 * order first, second, third, all in the same call (told by its argument). */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

struct regs {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

struct thread {
	__u64 call, seen;
	__u64 runs[3], wrong;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

static struct thread *mine(void)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct thread fresh = {};
	struct thread *t = bpf_map_lookup_elem(&threads, &tid);

	if (t)
		return t;
	bpf_map_update_elem(&threads, &tid, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&threads, &tid);
}

SEC("uprobe")
int first(struct regs *ctx)
{
	struct thread *t = mine();

	if (!t)
		return 0;
	t->call = ctx->di;
	t->seen = 1;
	t->runs[0]++;
	return 0;
}

SEC("uprobe")
int second(struct regs *ctx)
{
	struct thread *t = mine();

	if (!t)
		return 0;
	t->wrong += t->seen != 1 || t->call != ctx->di;
	t->seen = 2;
	t->runs[1]++;
	return 0;
}

SEC("uprobe")
int third(struct regs *ctx)
{
	struct thread *t = mine();

	if (!t)
		return 0;
	t->wrong += t->seen != 2 || t->call != ctx->di;
	t->seen = 3;
	t->runs[2]++;
	return 0;
}

char _license[] SEC("license") = "MIT";
