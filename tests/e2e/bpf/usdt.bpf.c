// SPDX-License-Identifier: MIT
/* Sums up the arguments of the probes of e2e_usdt.c, with libbpf's own usdt.bpf.h. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/usdt.bpf.h>

#define NARGS 12
enum { UNSIGNED, SIGNED, CONSTANTS, MANY, INDEXED, PLACES, WATCHED, SHARED, NPROBES };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NPROBES * NARGS);
	__type(key, __u32);
	__type(value, __u64);
} sums SEC(".maps");

struct seen {
	__u64 hits, nargs, errors, cookies, past_end;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NPROBES);
	__type(key, __u32);
	__type(value, struct seen);
} hits SEC(".maps");

static __always_inline int collect(struct pt_regs *ctx, __u32 probe)
{
	struct seen *s = bpf_map_lookup_elem(&hits, &probe);
	int n = bpf_usdt_arg_cnt(ctx);
	long v;

	if (!s)
		return 0;
	s->hits++;
	s->nargs = n;
	s->cookies += bpf_usdt_cookie(ctx);
	for (int i = 0; i < NARGS; i++) {
		__u32 key = probe * NARGS + i;
		__u64 *sum = bpf_map_lookup_elem(&sums, &key);

		if (i >= n || !sum)
			break;
		s->errors += bpf_usdt_arg(ctx, i, &v) != 0;
		*sum += v;
	}
	s->past_end += bpf_usdt_arg(ctx, n, &v) == -ENOENT && !v;
	return 0;
}

#define PROBE(name, number)                                                                                           \
	SEC("usdt") int name(struct pt_regs *ctx)                                                                      \
	{                                                                                                              \
		return collect(ctx, number);                                                                           \
	}

PROBE(unsigned_args, UNSIGNED)
PROBE(signed_args, SIGNED)
PROBE(constants, CONSTANTS)
PROBE(many, MANY)
PROBE(indexed, INDEXED)
PROBE(places, PLACES)
PROBE(watched, WATCHED)

/* The macro, and arguments by name. */
SEC("usdt") int BPF_USDT(seen, __u64 i, __u64 squared)
{
	__u32 key = SHARED, first = SHARED * NARGS, second = SHARED * NARGS + 1;
	struct seen *s = bpf_map_lookup_elem(&hits, &key);
	__u64 *a = bpf_map_lookup_elem(&sums, &first), *b = bpf_map_lookup_elem(&sums, &second);

	if (!s || !a || !b)
		return 0;
	s->hits++;
	s->nargs = bpf_usdt_arg_cnt(ctx);
	*a += i;
	*b += squared;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
