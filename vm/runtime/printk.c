/* SPDX-License-Identifier: MIT */
/*
 * trace_printk and trace_vprintk: a line of text (text.c) into the target's ring
 * (tracering.h), never to the target's stdout.
 */
#include "vm/runtime/rt.h"

#define CLOCK_MONOTONIC_NR 1
#define PRINTK_ARGS 3 /* registers r3, r4, r5 */

static void publish(struct trace_ring *ring, struct trace_slot *line)
{
	u64 ticket = __atomic_fetch_add(&ring->head, 1, __ATOMIC_RELAXED);
	struct trace_slot *s = &ring->slot[ticket % TRACE_SLOTS];
	u64 writing = 2 * ticket + 1;

	line->sum = trace_slot_sum(line, ticket);
	__atomic_store_n(&s->seq, writing, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	rt_copy(&s->sum, &line->sum, sizeof(*s) - offsetof(struct trace_slot, sum));
	/* Unless a writer of the next lap has taken the slot over meanwhile. */
	__atomic_compare_exchange_n(&s->seq, &writing, writing + 1, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

static long print(const char *fmt, u32 size, const u64 *args, u32 nargs, const struct hook_frame *frame)
{
	const struct target_env *env = rt_env(frame);
	struct trace_slot line;
	struct rt_text t = { line.text, 0, sizeof(line.text) - 1 };
	long n;

	rt_zero(&line, sizeof(line));
	if (!size || fmt[size - 1])
		return -EINVAL;
	n = rt_format(&t, fmt, args, nargs, frame);
	if (n < 0)
		return n;
	line.len = t.len < t.cap ? t.len : t.cap;
	if (!env->trace_ring)
		return line.len;
	line.ts_ns = rt_clock_ns(env, CLOCK_MONOTONIC_NR);
	line.pid = rt_tgid(env);
	line.tid = rt_tid(env);
	line.cpu = rt_cpu(env);
	rt_comm(frame, line.comm);
	publish((struct trace_ring *)env->trace_ring, &line);
	return line.len;
}

RT_HELPER(trace_printk)
{
	const u64 args[PRINTK_ARGS] = { r3, r4, r5 };

	return (u64)print((const char *)r1, (u32)r2, args, PRINTK_ARGS, frame);
}

RT_HELPER(trace_vprintk)
{
	u32 nargs;

	if (!rt_format_args(r3, (u32)r4, &nargs))
		return (u64)-EINVAL;
	return (u64)print((const char *)r1, (u32)r2, (const u64 *)r3, nargs, frame);
}
