/* SPDX-License-Identifier: MIT */
/*
 * What BPF's arithmetic and comparisons give for numbers, straight from the
 * standard (RFC 9669), for tests to hold interpreter, JIT and verifier against.
 * It must share nothing with vm/.
 */
#pragma once
#include <linux/bpf.h>

#include "base/types.h"

static inline u64 concrete_quotient(u64 a, u64 b, bool is_signed)
{
	if (!b)
		return 0;
	if (!is_signed)
		return a / b;
	if ((s64)b == -1)
		return 0 - a;
	return (u64)((s64)a / (s64)b);
}

/* A OP B; OP is BPF_ADD … BPF_ARSH. False: there is no such operation. */
static inline bool concrete_alu(u8 op, bool is_signed, bool w64, u64 a, u64 b, u64 *ret)
{
	u32 count = (u32)b & (w64 ? 63 : 31);
	u64 r;

	if (!w64) {
		a = is_signed || op == BPF_ARSH ? (u64)(s64)(s32)a : (u32)a;
		b = is_signed ? (u64)(s64)(s32)b : (u32)b;
	}
	switch (op) {
	case BPF_ADD:
		r = a + b;
		break;
	case BPF_SUB:
		r = a - b;
		break;
	case BPF_MUL:
		r = a * b;
		break;
	case BPF_DIV:
		r = concrete_quotient(a, b, is_signed);
		break;
	case BPF_MOD:
		r = b ? a - concrete_quotient(a, b, is_signed) * b : a;
		break;
	case BPF_OR:
		r = a | b;
		break;
	case BPF_AND:
		r = a & b;
		break;
	case BPF_XOR:
		r = a ^ b;
		break;
	case BPF_LSH:
		r = a << count;
		break;
	case BPF_RSH:
		r = a >> count;
		break;
	case BPF_ARSH:
		r = (u64)((s64)a >> count);
		break;
	default:
		return false;
	}
	*ret = w64 ? r : (u32)r;
	return true;
}

/* Whether `if A OP B` is taken; OP is BPF_JEQ … BPF_JSLE, BPF_JSET. Negative:
 * there is no such comparison. */
static inline int concrete_jump(u8 op, bool w64, u64 a, u64 b)
{
	s64 sa = w64 ? (s64)a : (s32)a, sb = w64 ? (s64)b : (s32)b;

	if (!w64) {
		a = (u32)a;
		b = (u32)b;
	}
	switch (op) {
	case BPF_JEQ:
		return a == b;
	case BPF_JNE:
		return a != b;
	case BPF_JGT:
		return a > b;
	case BPF_JGE:
		return a >= b;
	case BPF_JLT:
		return a < b;
	case BPF_JLE:
		return a <= b;
	case BPF_JSGT:
		return sa > sb;
	case BPF_JSGE:
		return sa >= sb;
	case BPF_JSLT:
		return sa < sb;
	case BPF_JSLE:
		return sa <= sb;
	case BPF_JSET:
		return (a & b) != 0;
	}
	return -1;
}
