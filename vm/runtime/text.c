/* SPDX-License-Identifier: MIT */
/*
 * Text: the kernel's subset of printf for trace_printk, trace_vprintk and snprintf
 * (bpf_bprintf_prepare() in its kernel/bpf/helpers.c, vsnprintf() in lib/vsprintf.c),
 * and the helpers that read numbers and compare strings. What is named by an address
 * in the arguments is read like all memory that may not be there. Compiled for size
 * (mkblob.py).
 */
#include "vm/runtime/rt.h"

#define STR_PIECE 128u
#define STR_MAX 512u /* MAX_BPRINTF_BIN_ARGS of the kernel */

/* One conversion: %[flags][width][length]type */
struct spec {
	bool zero, left, plus, space;
	bool has_width;
	u32 width;
	u8 longs;  /* 0, 1, 2 */
	char type; /* d i u x X p c s; 4 and 6: an IP address */
	bool lower; /* %pi4, %pi6 */
};

static void put(struct rt_text *t, char c)
{
	if (t->len < t->cap)
		t->buf[t->len] = c;
	t->len++;
}

static void put_n(struct rt_text *t, char c, u32 n)
{
	while (n--)
		put(t, c);
}

/* N characters that follow by themselves, with SIGN in front, padded. */
static u32 pad_before(struct rt_text *t, char sign, u32 n, const struct spec *s)
{
	u32 used = n + (sign ? 1 : 0);
	u32 pad = s->width > used ? s->width - used : 0;

	if (s->left) {
		if (sign)
			put(t, sign);
		return pad;
	}
	if (!s->zero)
		put_n(t, ' ', pad);
	if (sign)
		put(t, sign);
	if (s->zero)
		put_n(t, '0', pad);
	return 0;
}

static void put_number(struct rt_text *t, u64 v, u32 base, char sign, const struct spec *s)
{
	char digits[24];
	u32 at = sizeof(digits), after;
	char ten = s->type == 'X' ? 'A' : 'a';

	do {
		u32 d = (u32)(v % base);

		digits[--at] = (char)(d < 10 ? '0' + d : ten + (d - 10));
		v /= base;
	} while (v);
	after = pad_before(t, sign, (u32)sizeof(digits) - at, s);
	while (at < sizeof(digits))
		put(t, digits[at++]);
	put_n(t, ' ', after);
}

static void put_signed(struct rt_text *t, u64 arg, const struct spec *s)
{
	s64 v = s->longs ? (s64)arg : (s32)arg;

	put_number(t, v < 0 ? -(u64)v : (u64)v, 10, v < 0 ? '-' : s->plus ? '+' : s->space ? ' ' : 0, s);
}

/* Length of the string at ADDR, STR_MAX - 1 at most; 0 where it cannot be read.
 * PIECE gets its beginning. */
static u32 string_len(char *piece, u64 addr, const struct hook_frame *frame)
{
	u32 len = 0;

	while (len < STR_MAX - 1) {
		long n = rt_read_str(piece, addr + len, STR_PIECE, frame);

		if (n <= 0)
			return 0;
		len += (u32)n - 1;
		if ((u32)n < STR_PIECE)
			return len;
	}
	return STR_MAX - 1;
}

/* An unreadable string prints as nothing, as in the kernel. */
static void put_string(struct rt_text *t, u64 addr, struct spec *s, const struct hook_frame *frame)
{
	char piece[STR_PIECE];
	u32 len = string_len(piece, addr, frame), after;

	s->zero = false;
	after = pad_before(t, 0, len, s);
	for (u32 done = 0; done < len;) {
		u32 n = len - done < STR_PIECE - 1 ? len - done : STR_PIECE - 1;

		if (len >= STR_PIECE && rt_read_str(piece, addr + done, STR_PIECE, frame) <= (long)n)
			break; /* it has become shorter */
		for (u32 i = 0; i < n; i++)
			put(t, piece[i]);
		done += n;
	}
	put_n(t, ' ', after);
}

static void put_char(struct rt_text *t, char c, struct spec *s)
{
	u32 after;

	s->zero = false;
	after = pad_before(t, 0, 1, s);
	put(t, c);
	put_n(t, ' ', after);
}

/* %pI4 127.0.0.1, %pi4 127.000.000.001, %pI6 with colons, %pi6 without */
static void put_ip(struct rt_text *t, u64 addr, const struct spec *s, const struct hook_frame *frame)
{
	u32 n = s->type == '4' ? 4 : 16;
	struct spec part = { .zero = true, .type = 'x', .width = 2 };
	u8 ip[16];

	rt_read(ip, addr, n, frame); /* or zeros */
	for (u32 i = 0; i < n; i++) {
		if (s->type == '4') {
			part.width = s->lower ? 3 : 0;
			put_number(t, ip[i], 10, 0, &part);
			if (i < 3)
				put(t, '.');
			continue;
		}
		put_number(t, ip[i], 16, 0, &part);
		if (!s->lower && i % 2 && i < 15)
			put(t, ':');
	}
}

static bool is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_printable(char c)
{
	return c >= ' ' && c <= '~';
}

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* What may stand behind %p and %s: the kernel takes letters and digits there for
 * parts of the conversion. */
static bool ends_word(char c)
{
	return !c || is_space(c) || (is_printable(c) && !is_alnum(c));
}

static const char *parse_flags(const char *p, struct spec *s)
{
	for (;; p++) {
		if (*p == '0')
			s->zero = true;
		else if (*p == '-')
			s->left = true;
		else if (*p == '+')
			s->plus = true;
		else if (*p == ' ')
			s->space = true;
		else
			return p;
	}
}

/* What follows %p. %px and %pK print like %p; %ps and its kind are the kernel's
 * symbols; %pks and %pus are strings. */
static const char *parse_pointer(const char *p, struct spec *s)
{
	if (ends_word(*p))
		return p;
	if (*p == 'x' || *p == 'K')
		return p + 1;
	if ((p[0] == 'k' || p[0] == 'u') && p[1] == 's') {
		s->type = 's';
		return ends_word(p[2]) ? p + 2 : NULL;
	}
	if ((p[0] == 'i' || p[0] == 'I') && (p[1] == '4' || p[1] == '6')) {
		s->type = p[1];
		s->lower = p[0] == 'i';
		return p + 2;
	}
	return NULL;
}

/* Takes a conversion after its '%'; where it ends, or NULL for what the kernel refuses. */
static const char *parse_spec(const char *p, struct spec *s)
{
	*s = (struct spec){ 0 };
	p = parse_flags(p, s);
	for (; *p >= '0' && *p <= '9'; p++) {
		s->has_width = true;
		if (s->width < 1000)
			s->width = s->width * 10 + (u32)(*p - '0');
	}
	s->type = *p;
	if (*p == 'p')
		return parse_pointer(p + 1, s);
	if (*p == 's')
		return ends_word(p[1]) ? p + 1 : NULL;
	if (*p == 'c')
		return p + 1;
	while (*p == 'l' && s->longs < 2) {
		s->longs++;
		p++;
	}
	s->type = *p;
	return *p == 'd' || *p == 'i' || *p == 'u' || *p == 'x' || *p == 'X' ? p + 1 : NULL;
}

static void put_spec(struct rt_text *t, struct spec *s, u64 arg, const struct hook_frame *frame)
{
	switch (s->type) {
	case 'd':
	case 'i':
		put_signed(t, arg, s);
		break;
	case 'u':
		put_number(t, s->longs ? arg : (u32)arg, 10, 0, s);
		break;
	case 'x':
	case 'X':
		put_number(t, s->longs ? arg : (u32)arg, 16, 0, s);
		break;
	case 'p':
		if (!s->has_width) {
			s->zero = true;
			s->width = 16;
		}
		put_number(t, arg, 16, 0, s);
		break;
	case 'c':
		put_char(t, (char)arg, s);
		break;
	case 's':
		put_string(t, arg, s, frame);
		break;
	case '4':
	case '6':
		put_ip(t, arg, s, frame);
		break;
	}
}

/* The whole format before anything is written, as the kernel does. */
static bool format_ok(const char *fmt, u32 nargs)
{
	struct spec s;

	while (*fmt) {
		if (!is_printable(*fmt) && !is_space(*fmt))
			return false;
		if (*fmt++ != '%')
			continue;
		if (*fmt == '%') {
			fmt++;
			continue;
		}
		if (!nargs--)
			return false;
		fmt = parse_spec(fmt, &s);
		if (!fmt)
			return false;
	}
	return true;
}

long rt_format(struct rt_text *t, const char *fmt, const u64 *args, u32 nargs, const struct hook_frame *frame)
{
	u32 used = 0;

	if (!format_ok(fmt, nargs))
		return -EINVAL;
	while (fmt && *fmt) {
		struct spec s;

		if (*fmt != '%' || fmt[1] == '%') {
			put(t, *fmt);
			fmt += *fmt == '%' ? 2 : 1;
			continue;
		}
		fmt = used < nargs ? parse_spec(fmt + 1, &s) : NULL; /* (the format may have changed) */
		if (fmt)
			put_spec(t, &s, args[used++], frame);
	}
	return t->len;
}

/* Arguments as an array of u64 with its size in bytes. */
bool rt_format_args(u64 data, u32 size, u32 *nargs)
{
	*nargs = size / 8;
	return size % 8 == 0 && size <= RT_FORMAT_ARGS * 8 && (!size || data);
}

RT_HELPER(snprintf)
{
	struct rt_text t = { .buf = (char *)r1, .cap = (u32)r2 ? (u32)r2 - 1 : 0 };
	u32 nargs;
	long n;

	if (!rt_format_args(r4, (u32)r5, &nargs))
		return (u64)-EINVAL;
	n = rt_format(&t, (const char *)r3, (const u64 *)r4, nargs, frame);
	if (n < 0)
		return (u64)n;
	if ((u32)r2)
		t.buf[t.len < t.cap ? t.len : t.cap] = 0;
	return (u64)n + 1;
}

/* --- numbers --- */

#define BASE_MASK 31u
#define DIGITS_MAX 63u /* that the kernel looks at */

static u32 digit_of(char c)
{
	char lower = (char)(c | 0x20);

	if (c >= '0' && c <= '9')
		return (u32)(c - '0');
	return lower >= 'a' && lower <= 'f' ? (u32)(lower - 'a') + 10 : 16;
}

struct number {
	u64 value;
	bool negative;
};

/* As __bpf_strtoull() and the _parse_integer() behind it: bytes that were taken, or
 * an error. */
static long parse_number(const char *buf, u32 size, u64 flags, struct number *ret)
{
	u32 base = flags & BASE_MASK, at = 0, end, digits = 0;
	bool overflow = false;

	if (!size || flags & ~(u64)BASE_MASK || (base != 0 && base != 8 && base != 10 && base != 16))
		return -EINVAL;
	while (at < size && (is_space(buf[at]) || (u8)buf[at] == 0xa0)) /* the kernel's ctype is Latin 1 */
		at++;
	ret->negative = at < size && buf[at] == '-';
	at += ret->negative;
	if (at == size)
		return -EINVAL;
	end = size - at < DIGITS_MAX ? size : at + DIGITS_MAX;
#define AT(i) (at + (i) < end ? buf[at + (i)] : 0)
	if (!base)
		base = AT(0) != '0' ? 10 : (AT(1) | 0x20) == 'x' && digit_of(AT(2)) < 16 ? 16 : 8;
	if (base == 16 && AT(0) == '0' && (AT(1) | 0x20) == 'x')
		at += 2;
#undef AT
	ret->value = 0;
	for (; at < end && digit_of(buf[at]) < base; at++, digits++) {
		u64 more;

		overflow |= __builtin_mul_overflow(ret->value, (u64)base, &more);
		overflow |= __builtin_add_overflow(more, (u64)digit_of(buf[at]), &ret->value);
	}
	return overflow ? -ERANGE : digits ? (long)at : -EINVAL;
}

RT_HELPER(strtol)
{
	struct number n;
	long took = parse_number((const char *)r1, (u32)r2, r3, &n);
	s64 *to = (s64 *)r4;

	*to = 0;
	if (took < 0)
		return (u64)took;
	if (n.value > (u64)INT64_MAX + n.negative)
		return (u64)-ERANGE;
	*to = (s64)(n.negative ? -n.value : n.value);
	return (u64)took;
}

RT_HELPER(strtoul)
{
	struct number n;
	long took = parse_number((const char *)r1, (u32)r2, r3, &n);

	*(u64 *)r4 = 0;
	if (took < 0)
		return (u64)took;
	if (n.negative)
		return (u64)-EINVAL;
	*(u64 *)r4 = n.value;
	return (u64)took;
}
