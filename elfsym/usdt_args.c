/* SPDX-License-Identifier: MIT */
/*
 * Argument strings of USDT notes: "SIZE@OPERAND" in the assembler's words, apart
 * by blanks. SIZE is 1, 2, 4 or 8 bytes, negative for a signed one. What libbpf
 * does not take is refused here too, with the reason: programs read arguments
 * by its tables.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/target_abi.h"
#include "elfsym/usdt.h"

#define REG(field, ...) { { __VA_ARGS__ }, offsetof(struct target_regs, field) }

static const struct {
	const char *names[4];
	u16 off;
} regs[] = {
	REG(ip, "rip", "eip"),
	REG(ax, "rax", "eax", "ax", "al"),
	REG(bx, "rbx", "ebx", "bx", "bl"),
	REG(cx, "rcx", "ecx", "cx", "cl"),
	REG(dx, "rdx", "edx", "dx", "dl"),
	REG(si, "rsi", "esi", "si", "sil"),
	REG(di, "rdi", "edi", "di", "dil"),
	REG(bp, "rbp", "ebp", "bp", "bpl"),
	REG(sp, "rsp", "esp", "sp", "spl"),
	REG(r8, "r8", "r8d", "r8w", "r8b"),
	REG(r9, "r9", "r9d", "r9w", "r9b"),
	REG(r10, "r10", "r10d", "r10w", "r10b"),
	REG(r11, "r11", "r11d", "r11w", "r11b"),
	REG(r12, "r12", "r12d", "r12w", "r12b"),
	REG(r13, "r13", "r13d", "r13w", "r13b"),
	REG(r14, "r14", "r14d", "r14w", "r14b"),
	REG(r15, "r15", "r15d", "r15w", "r15b"),
};

/* One argument being read; the first failure stays. */
struct cursor {
	const char *p;
	const char *bad; /* what is wrong, or NULL */
};

static void skip_blanks(struct cursor *c)
{
	c->p += strspn(c->p, " \t");
}

static bool take(struct cursor *c, char want)
{
	if (*c->p != want)
		return false;
	c->p++;
	return true;
}

static void expect(struct cursor *c, char want, const char *bad)
{
	if (!c->bad && !take(c, want))
		c->bad = bad;
}

static bool at_number(const struct cursor *c)
{
	const char *p = c->p + (*c->p == '-' || *c->p == '+');

	return *p >= '0' && *p <= '9';
}

/* 64 bits, signed or not: "$-9", "$18446744073709551615". */
static s64 take_number(struct cursor *c)
{
	bool negative = *c->p == '-';
	char *end;
	u64 v;

	if (c->bad || !at_number(c)) {
		c->bad = c->bad ? c->bad : "not a number";
		return 0;
	}
	errno = 0;
	v = negative ? (u64)strtoll(c->p, &end, 10) : strtoull(c->p, &end, 10);
	if (errno)
		c->bad = "a number of more than 64 bits";
	c->p = end;
	return (s64)v;
}

static u16 take_reg(struct cursor *c)
{
	size_t len;

	expect(c, '%', "no register where one must be");
	if (c->bad)
		return 0;
	len = strcspn(c->p, " \t,)");
	for (size_t i = 0; i < ARRAY_SIZE(regs); i++) {
		for (size_t k = 0; k < ARRAY_SIZE(regs[i].names) && regs[i].names[k]; k++) {
			if (strlen(regs[i].names[k]) != len || memcmp(regs[i].names[k], c->p, len))
				continue;
			c->p += len;
			return regs[i].off;
		}
	}
	c->bad = "a register that programs cannot see (vector, segment, or a high byte)";
	return 0;
}

static void take_scale(struct cursor *c, struct usdt_arg *a)
{
	switch (take_number(c)) {
	case 1:
		a->scale_shift = 0;
		break;
	case 2:
		a->scale_shift = 1;
		break;
	case 4:
		a->scale_shift = 2;
		break;
	case 8:
		a->scale_shift = 3;
		break;
	default:
		c->bad = c->bad ? c->bad : "a scale that is not 1, 2, 4 or 8";
	}
}

/* "(%reg)", "(%reg,%index)", "(%reg,%index,SCALE)", behind the offset. */
static void take_memory(struct cursor *c, struct usdt_arg *a)
{
	a->kind = USDT_REG_DEREF;
	expect(c, '(', "a variable by its name, not by a register");
	skip_blanks(c);
	if (!c->bad && *c->p == ',') {
		c->bad = "an address without a base register";
		return;
	}
	a->reg = take_reg(c);
	skip_blanks(c);
	if (!c->bad && take(c, ',')) {
		a->kind = USDT_SIB;
		skip_blanks(c);
		a->index = take_reg(c);
		skip_blanks(c);
		if (!c->bad && take(c, ',')) {
			skip_blanks(c);
			take_scale(c, a);
			skip_blanks(c);
		}
	}
	expect(c, ')', "no closing parenthesis");
}

static void take_operand(struct cursor *c, struct usdt_arg *a)
{
	if (c->bad)
		return;
	if (take(c, '$')) {
		a->kind = USDT_CONST;
		a->value = take_number(c);
	} else if (*c->p == '%') {
		a->kind = USDT_REG;
		a->reg = take_reg(c);
		if (!c->bad && *c->p == ':')
			c->bad = "a segment register";
	} else {
		if (at_number(c))
			a->value = take_number(c);
		take_memory(c, a);
	}
	if (!c->bad && *c->p && *c->p != ' ' && *c->p != '\t')
		c->bad = "something behind its end";
}

static void take_size(struct cursor *c, struct usdt_arg *a)
{
	s64 size = take_number(c);

	a->is_signed = size < 0;
	a->size = (u8)(size < 0 ? -size : size);
	if (!c->bad && size != 1 && size != 2 && size != 4 && size != 8 && size != -1 && size != -2 && size != -4 &&
	    size != -8)
		c->bad = "a size that is not 1, 2, 4 or 8 bytes";
	if (!c->bad && *c->p == 'f')
		c->bad = "a floating-point number";
	expect(c, '@', "no size");
	skip_blanks(c);
}

struct uerr *usdt_args_parse(const char *text, struct usdt_args *ret)
{
	struct cursor c = { .p = text };
	struct usdt_args args = {};

	for (skip_blanks(&c); *c.p; skip_blanks(&c)) {
		const char *start = c.p;
		struct usdt_arg a = {};

		if (args.n == USDT_ARGS_MAX)
			return uerr_new(UERR_CANNOT_PROBE, "it has more than %u arguments", USDT_ARGS_MAX);
		take_size(&c, &a);
		a.text = c.p;
		take_operand(&c, &a);
		a.len = c.p - a.text;
		if (c.bad)
			return uerr_new(UERR_CANNOT_PROBE, "its argument %u, '%.*s', is %s", args.n + 1,
					(int)(strcspn(start, " \t") < 100 ? strcspn(start, " \t") : 100), start, c.bad);
		args.arg[args.n++] = a;
	}
	*ret = args;
	return NULL;
}
