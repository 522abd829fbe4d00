// SPDX-License-Identifier: MIT
/* Records into ring buffers, by all ways in which programs write them. */
#define __TARGET_ARCH_x86
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct event {
	__u32 pid, tid;
	__u64 seq;
	long arg;
	char comm[16];
};

const struct event *unused_event __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} small SEC(".maps");

__u64 seq, lost, avail;

/* Every third is thrown away. */
SEC("uprobe")
int BPF_KPROBE(on_call, long arg)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	__u64 id = bpf_get_current_pid_tgid();

	if (!e) {
		__sync_fetch_and_add(&lost, 1);
		return 0;
	}
	e->pid = id >> 32;
	e->tid = (__u32)id;
	e->seq = __sync_fetch_and_add(&seq, 1);
	e->arg = arg;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	if (e->seq % 3 == 2)
		bpf_ringbuf_discard(e, 0);
	else
		bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Into a ring that is soon full. */
SEC("uprobe")
int BPF_KPROBE(on_small, long arg)
{
	if (bpf_ringbuf_output(&small, &arg, sizeof(arg), 0))
		__sync_fetch_and_add(&lost, 1);
	avail = bpf_ringbuf_query(&small, BPF_RB_AVAIL_DATA);
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} per_cpu_events SEC(".maps");

/* To the ring of the CPU. */
SEC("uprobe")
int BPF_KPROBE(on_perf, long arg)
{
	__u64 id = bpf_get_current_pid_tgid();
	struct event e = { .pid = id >> 32, .tid = (__u32)id, .arg = arg, .seq = __sync_fetch_and_add(&seq, 1) };

	bpf_get_current_comm(e.comm, sizeof(e.comm));
	if (bpf_perf_event_output(ctx, &per_cpu_events, BPF_F_CURRENT_CPU, &e, sizeof(e)))
		__sync_fetch_and_add(&lost, 1);
	return 0;
}

/* By a dynptr: as many bytes as the argument says. */
SEC("uprobe")
int BPF_KPROBE(on_dynptr, unsigned long arg)
{
	struct bpf_dynptr d;
	__u64 *first;

	bpf_ringbuf_reserve_dynptr(&events, arg * 8, 0, &d);
	first = bpf_dynptr_data(&d, 0, 8);
	if (first)
		*first = arg;
	bpf_dynptr_write(&d, 8, &arg, sizeof(arg), 0);
	bpf_ringbuf_submit_dynptr(&d, 0);
	return 0;
}

struct command {
	__u32 op;
	long arg;
};

const struct command *unused_command __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} commands SEC(".maps");

__u64 sum, longest, drained;

static long obey(struct bpf_dynptr *d, void *arg)
{
	struct command c = {};
	__u64 n = 0;

	if (bpf_dynptr_data(d, 0, 64))
		longest++;
	if (!bpf_dynptr_read(&c, sizeof(c), d, 0, 0))
		sum += c.op * c.arg;
	else if (!bpf_dynptr_read(&n, sizeof(n), d, 0, 0))
		sum += n;
	return 0;
}

/* Does what it has been told from outside. */
SEC("uprobe")
int on_commands(void *ctx)
{
	drained = bpf_user_ringbuf_drain(&commands, obey, NULL, 0);
	return 0;
}

static int pass(__u32 i, void *arg)
{
	return 0;
}

/* Most of its time goes by while its record is unfinished. */
SEC("uprobe")
int on_slow(void *ctx)
{
	__u64 *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return 0;
	bpf_loop(100000, pass, NULL, 0);
	*e = 1;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
