/* SPDX-License-Identifier: MIT */
/*
 * trace_printk: the kernel's subset of printf into the target's ring
 * (tracering.h), never to the target's stdout.
 */
#include "vm/runtime/rt.h"

#define CLOCK_MONOTONIC_NR 1
#define PRINTK_ARGS 3 /* registers r3, r4, r5 */

struct text {
	char *buf;
	u32 len, cap; /* cap without the final NUL */
};

/* One conversion: %[flag][width][length]type */
struct spec {
	char flag; /* one of "0-+ " or 0 */
	u32 width;
	u8 longs;  /* 0, 1, 2 */
	char type;
};

static void put(struct text *t, char c)
{
	if (t->len < t->cap)
		t->buf[t->len++] = c;
}

static void put_padded(struct text *t, const char *sign, const char *digits, u32 n, const struct spec *s)
{
	u32 used = n + (*sign ? 1 : 0);
	u32 pad = s->width > used ? s->width - used : 0;

	if (s->flag != '0' && s->flag != '-')
		for (u32 i = 0; i < pad; i++)
			put(t, ' ');
	if (*sign)
		put(t, *sign);
	if (s->flag == '0')
		for (u32 i = 0; i < pad; i++)
			put(t, '0');
	for (u32 i = 0; i < n; i++)
		put(t, digits[i]);
	if (s->flag == '-')
		for (u32 i = 0; i < pad; i++)
			put(t, ' ');
}

static void put_number(struct text *t, u64 v, u32 base, const char *sign, const struct spec *s)
{
	char digits[24];
	u32 at = sizeof(digits);
	char ten = s->type == 'X' ? 'A' : 'a';

	do {
		u32 d = (u32)(v % base);

		digits[--at] = (char)(d < 10 ? '0' + d : ten + (d - 10));
		v /= base;
	} while (v);
	put_padded(t, sign, digits + at, (u32)sizeof(digits) - at, s);
}

static void put_signed(struct text *t, u64 arg, const struct spec *s)
{
	s64 v = s->longs ? (s64)arg : (s32)arg;
	const char *sign = v < 0 ? "-" : s->flag == '+' ? "+" : s->flag == ' ' ? " " : "";

	put_number(t, v < 0 ? -(u64)v : (u64)v, 10, sign, s);
}

/* An unreadable string prints as nothing, as in the kernel. */
static void put_string(struct text *t, u64 addr, const struct spec *s, const struct hook_frame *frame)
{
	char str[128];
	long n = rt_read_str(str, addr, sizeof(str), frame);

	put_padded(t, "", str, n > 0 ? (u32)n - 1 : 0, s);
}

/* Takes a conversion after its '%'; bytes taken, or -EINVAL. */
static long parse_spec(const char *fmt, struct spec *s)
{
	const char *p = fmt;

	*s = (struct spec){ 0 };
	if (*p == '0' || *p == '-' || *p == '+' || *p == ' ')
		s->flag = *p++;
	while (*p >= '0' && *p <= '9' && s->width < 1000)
		s->width = s->width * 10 + (u32)(*p++ - '0');
	while (*p == 'l' && s->longs < 2) {
		s->longs++;
		p++;
	}
	s->type = *p++;
	switch (s->type) {
	case 'd':
	case 'i':
	case 'u':
	case 'x':
	case 'X':
		return p - fmt;
	case 'c':
	case 's':
		return s->longs ? -EINVAL : p - fmt;
	case 'p':
		/* %px and %pK print like %p, %ps.. are the kernel's symbols; %pks and %pus are strings */
		if ((p[0] == 'k' || p[0] == 'u') && p[1] == 's') {
			s->type = 's';
			p += 2;
		} else if (*p == 'x' || *p == 'K') {
			p++;
		} else if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z')) {
			return -EINVAL;
		}
		return s->longs ? -EINVAL : p - fmt;
	}
	return -EINVAL;
}

static void put_spec(struct text *t, struct spec *s, u64 arg, const struct hook_frame *frame)
{
	char c = (char)arg;

	switch (s->type) {
	case 'd':
	case 'i':
		put_signed(t, arg, s);
		break;
	case 'u':
		put_number(t, s->longs ? arg : (u32)arg, 10, "", s);
		break;
	case 'x':
	case 'X':
		put_number(t, s->longs ? arg : (u32)arg, 16, "", s);
		break;
	case 'p':
		if (!s->width) {
			s->flag = '0';
			s->width = 16;
		}
		put_number(t, arg, 16, "", s);
		break;
	case 'c':
		put_padded(t, "", &c, 1, s);
		break;
	case 's':
		put_string(t, arg, s, frame);
		break;
	}
}

static bool plain(char c)
{
	return (c >= ' ' && c <= '~') || (c >= '\t' && c <= '\r');
}

/* Length, or -EINVAL for what the kernel refuses. */
static long format(struct text *t, const char *fmt, const u64 *args, const struct hook_frame *frame)
{
	u32 nargs = 0;

	while (*fmt) {
		struct spec s;
		long n;

		if (!plain(*fmt))
			return -EINVAL;
		if (*fmt != '%') {
			put(t, *fmt++);
			continue;
		}
		fmt++;
		if (*fmt == '%') {
			put(t, *fmt++);
			continue;
		}
		n = parse_spec(fmt, &s);
		if (n < 0 || nargs == PRINTK_ARGS)
			return -EINVAL;
		put_spec(t, &s, args[nargs++], frame);
		fmt += n;
	}
	return t->len;
}

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

RT_HELPER(trace_printk)
{
	const struct target_env *env = rt_env(frame);
	const char *fmt = (const char *)r1;
	const u64 args[PRINTK_ARGS] = { r3, r4, r5 };
	u32 size = (u32)r2;
	struct trace_slot line;
	struct text t = { line.text, 0, sizeof(line.text) - 1 };
	long n;

	rt_zero(&line, sizeof(line));
	if (!size || fmt[size - 1])
		return (u64)-EINVAL;
	n = format(&t, fmt, args, frame);
	if (n < 0 || !env->trace_ring)
		return (u64)n;
	line.ts_ns = rt_clock_ns(env, CLOCK_MONOTONIC_NR);
	line.pid = rt_tgid(env);
	line.tid = rt_tid(env);
	line.cpu = rt_cpu(env);
	line.len = t.len;
	rt_comm(rt_env(frame), line.comm);
	publish((struct trace_ring *)env->trace_ring, &line);
	return (u64)n;
}
