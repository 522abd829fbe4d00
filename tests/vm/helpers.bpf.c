// SPDX-License-Identifier: MIT
/*
 * One program for each helper that test_helpers_kernel.c compares: it takes its
 * arguments from the one element of `io`, and leaves there what came out. The same
 * object is run by the kernel and by libbpfvm.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "helpers_io.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct io);
} io SEC(".maps");

#define PROGRAM(name)                                              \
	static __always_inline void name##_body(struct io *io);    \
	SEC("raw_tp")                                              \
	int name(void *ctx)                                        \
	{                                                          \
		__u32 zero = 0;                                    \
		struct io *p = bpf_map_lookup_elem(&io, &zero);    \
                                                                   \
		if (p)                                             \
			name##_body(p);                            \
		return 0;                                          \
	}                                                          \
	static __always_inline void name##_body(struct io *io)

PROGRAM(do_strtol)
{
	long number = 7;

	if (io->len && io->len <= sizeof(io->text))
		io->ret = bpf_strtol(io->text, io->len, io->args[0], &number);
	io->number = number;
}

PROGRAM(do_strtoul)
{
	unsigned long number = 7;

	if (io->len && io->len <= sizeof(io->text))
		io->ret = bpf_strtoul(io->text, io->len, io->args[0], &number);
	io->number = number;
}

#define STRNCMP(n, with)                                            \
	case n:                                                     \
		io->ret = bpf_strncmp(io->text, len, with);         \
		break;

PROGRAM(do_strncmp)
{
	__u32 len = io->len;

	if (!len)
		return;
	asm volatile("" : "+r"(len)); /* or both become one comparison, from which nothing is learned */
	if (len > sizeof(io->text))
		return;
	switch (io->args[0]) {
		STRNCMP(0, "")
		STRNCMP(1, "a")
		STRNCMP(2, "seven77")
		STRNCMP(3, "eighteight")
		STRNCMP(4, "sixteen characters and some more")
		STRNCMP(5, "\xff\x80 above 127")
	}
}

#define FORMAT(n, fmt) \
	case n:        \
		io->ret = bpf_snprintf(io->out, size, fmt, io->args, sizeof(io->args)); \
		break;

PROGRAM(do_snprintf)
{
	__u32 size = io->len;

	if (size > sizeof(io->out))
		return;
	switch (io->format) {
		FORMATS(FORMAT)
	}
}

/* with addresses, which differ from where to where */
PROGRAM(do_snprintf_memory)
{
	__u64 args[] = { (long)io->text, (long)io->args, (long)io->args, (long)io->args, (long)io->args, 0 };
	__u64 padded[] = { (long)io->text, (long)io->text };

	if (io->format == 0)
		io->ret = bpf_snprintf(io->out, sizeof(io->out), "%s %pI4 %pi4 %pI6 %pi6 [%s]", args, sizeof(args));
	else
		io->ret = bpf_snprintf(io->out, sizeof(io->out), "[%40s][%-40s]", padded, sizeof(padded));
}

PROGRAM(do_ns_pid)
{
	struct bpf_pidns_info info = { 1, 2 };

	io->ret = bpf_get_ns_current_pid_tgid(io->args[0], io->args[1], &info, sizeof(info));
	io->number = (__u64)info.tgid << 32 | info.pid;
}

PROGRAM(do_clocks)
{
	io->ret = bpf_jiffies64();
	io->number = bpf_ktime_get_tai_ns();
	io->args[0] = bpf_ktime_get_boot_ns();
}

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} per_cpu_hash SEC(".maps");

PROGRAM(do_percpu)
{
	__u32 key = io->args[0];
	__u64 *v;

	if (io->len)
		v = bpf_map_lookup_percpu_elem(&per_cpu_hash, &key, io->args[1]);
	else
		v = bpf_map_lookup_percpu_elem(&per_cpu, &key, io->args[1]);
	io->ret = v ? (long)*v : -1;
}

struct memory {
	char bytes[128];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct memory);
} memory SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

/* What a record of the ring becomes is seen by its length alone. */
static long available(void)
{
	return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);
}

/* A dynptr over args[0] bytes of memory, read from at args[1]; flags, and how much */
PROGRAM(do_dynptr_read)
{
	__u32 zero = 0, size = io->args[0], len = io->len;
	struct memory *m = bpf_map_lookup_elem(&memory, &zero);
	struct bpf_dynptr d;
	__u8 *p;

	if (!m || size > sizeof(*m) || len > sizeof(io->out))
		return;
	io->ret = bpf_dynptr_from_mem(m, size, io->args[3] & 1, &d) * 1000000;
	io->ret += bpf_dynptr_read(io->out, len, &d, io->args[1], io->args[2]);
	p = bpf_dynptr_data(&d, 8, 4);
	io->number = p ? 1 + p[3] : 0;
}

/* … written to; the memory itself is what is written, if args[3] says so */
PROGRAM(do_dynptr_write)
{
	__u32 zero = 0, size = io->args[0], len = io->len;
	struct memory *m = bpf_map_lookup_elem(&memory, &zero);
	struct bpf_dynptr d;
	__u8 *p;

	if (!m || size > sizeof(*m) || len > sizeof(io->text))
		return;
	io->ret = bpf_dynptr_from_mem(m, size, 0, &d);
	if (io->args[3])
		io->ret += bpf_dynptr_write(&d, io->args[1], m->bytes + 8, len, io->args[2]);
	else
		io->ret += bpf_dynptr_write(&d, io->args[1], io->text, len, io->args[2]);
	p = bpf_dynptr_data(&d, 0, 32);
	if (p)
		p[31] ^= 0x55;
	__builtin_memcpy(io->out, m->bytes, sizeof(m->bytes));
}

/* A record of args[0] bytes that is written at args[1], read back, and submitted or not */
PROGRAM(do_dynptr_ring)
{
	long before = available();
	struct bpf_dynptr d;

	io->ret = bpf_ringbuf_reserve_dynptr(&ring, io->args[0], io->args[2], &d) * 1000000;
	io->ret += bpf_dynptr_write(&d, io->args[1], io->text, 8, 0) * 1000;
	io->ret += bpf_dynptr_read(io->out, 8, &d, io->args[1], 0);
	if (io->args[3])
		bpf_ringbuf_submit_dynptr(&d, BPF_RB_NO_WAKEUP);
	else
		bpf_ringbuf_discard_dynptr(&d, BPF_RB_NO_WAKEUP);
	io->number = available() - before;
}

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

SEC("raw_tp")
int do_perf(void *ctx)
{
	__u32 zero = 0;
	struct io *p = bpf_map_lookup_elem(&io, &zero);
	__u32 len;

	if (!p)
		return 0;
	len = p->len;
	if (len <= sizeof(p->text))
		p->ret = bpf_perf_event_output(ctx, &events, p->args[0], p->text, len);
	return 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} commands SEC(".maps");

struct drained {
	__u64 sum, n, stop_at, bytes;
};

static long drain_one(struct bpf_dynptr *d, void *arg)
{
	struct drained *to = arg;
	__u64 v = 0, *first = bpf_dynptr_data(d, 0, 8);

	to->n++;
	if (!bpf_dynptr_read(&v, sizeof(v), d, 8, 0))
		to->bytes += v;
	if (!first)
		return 0;
	to->sum = to->sum * 31 + *first;
	return *first == to->stop_at;
}

PROGRAM(do_drain)
{
	struct drained to = { .stop_at = io->args[0] };

	io->ret = bpf_user_ringbuf_drain(&commands, drain_one, &to, io->args[1]);
	io->number = to.sum;
	io->args[2] = to.n;
	io->args[3] = to.bytes;
}

PROGRAM(do_signal)
{
	io->ret = io->args[1] ? bpf_send_signal_thread(io->args[0]) : bpf_send_signal(io->args[0]);
	io->number = 1;
}

/* while it holds a copy of a per-CPU map */
SEC("raw_tp")
int do_signal_busy(void *ctx)
{
	__u32 zero = 0;
	struct io *p = bpf_map_lookup_elem(&io, &zero);
	__u64 *v = bpf_map_lookup_elem(&per_cpu, &zero);

	if (!p || !v)
		return 0;
	*v = 5;
	p->ret = bpf_send_signal(p->args[0]) + bpf_send_signal_thread(p->args[1]);
	p->number = *v;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
