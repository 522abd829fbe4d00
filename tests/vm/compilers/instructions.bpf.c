// SPDX-License-Identifier: MIT
/*
 * What compilers make of C, and what they write around it into an object: the
 * functions of functions.h as programs, subprograms in .text, global data of all
 * sections, maps, BTF of each kind that the compiler knows. CPU is what
 * -mcpu says. Each program returns what test_compilers.c expects by its name.
 */
#include <linux/bpf.h>
#include <linux/ptrace.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "functions.h"

/* r15 and r14 of struct pt_regs */
struct args {
	__u64 a, b;
};

#define PROGRAM(name) SEC("uprobe") __u64 name(struct args *args)
#define BODY(f)                            \
	PROGRAM(run_##f)                   \
	{                                  \
		return f(args->a, args->b);\
	}

BODY(arithmetic)
BODY(arithmetic32)
BODY(extend)
BODY(shifts)
BODY(swap)
BODY(compare)
BODY(choose)
BODY(loops)
BODY(memory)
BODY(copies)
BODY(wide)
BODY(atomic_add)
#if CPU >= 3
BODY(atomic_fetch)
#endif
#if CPU >= 4
BODY(signed_division)
#endif

/* --- functions --- */

static __attribute__((noinline)) __u64 inner(__u64 a, __u64 b)
{
	return arithmetic(a, b) + 1;
}

static __attribute__((noinline)) __u64 outer(__u64 a, __u64 b)
{
	return inner(a, b) ^ inner(b, a);
}

__attribute__((noinline)) int global_function(__u64 a, __u64 b)
{
	return (__u32)(arithmetic32(a, b) + b);
}

/* outer(a, b) + (u32)global_function(a, b) */
PROGRAM(calls)
{
	__u64 a = args->a, b = args->b;

	return outer(a, b) + (__u32)global_function(a, b);
}

/* --- data --- */

__u64 in_bss;
__u64 in_data = 0x1122334455667788ull;
const volatile __u64 in_rodata = 0x8877665544332211ull;
__s32 in_section SEC(".data.mine") = -7;
static volatile const __s8 small[8] = { -1, 2, -3, 4, -5, 6, -7, 8 };
static __u64 counter;

/* the sum of what they hold; how often it ran is in .bss */
PROGRAM(data)
{
	counter++;
	in_bss = counter;
	return in_data + in_rodata + (__s64)in_section + (__s64)small[args->a & 7];
}

struct entry {
	__u32 n;
	__u8 tag; /* and padding behind it */
	__u64 sum;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct entry);
} entries SEC(".maps");

/* the sum of what came for key a: b, then 2b */
PROGRAM(maps)
{
	struct entry fresh = { .n = 1, .tag = 'x', .sum = args->b }, *e;
	__u64 key = args->a;

	e = bpf_map_lookup_elem(&entries, &key);
	if (!e) {
		bpf_map_update_elem(&entries, &key, &fresh, BPF_ANY);
		return fresh.sum;
	}
	e->n++;
	e->sum += args->b;
	bpf_map_delete_elem(&entries, &key);
	return e->sum;
}

/* a string literal, in a section of its own: 'y' */
PROGRAM(literal)
{
	char text[8] = { 0 };

	bpf_probe_read_kernel(text, sizeof(text), "my text");
	return text[1];
}

/* --- CO-RE: ctx as the kernel's headers have it, of another layout --- */

struct pt_regs___other {
	unsigned long di, r14, r15;
} __attribute__((preserve_access_index));

/* a - b */
PROGRAM(core)
{
	struct pt_regs___other *regs = (void *)args;

	return regs->r15 - regs->r14;
}

/* --- far jumps: 40,000 instructions between, more than an offset can say --- */

#if CPU >= 4
/* 40000 * (a & 1 ? 0 : 1) */
PROGRAM(far)
{
	__u64 n = 0;

	if (args->a & 1)
		asm volatile goto("gotol %l0" : : : : skipped);
	asm volatile(".rept 40000\n %0 += 1\n .endr" : "+r"(n));
skipped:
	return n;
}
#endif

/* --- BTF: whatever kinds there are --- */

#if __clang_major__ >= 14
#define TAGGED __attribute__((btf_decl_tag("tagged")))
#else
#define TAGGED
#endif
#if __clang_major__ >= 15
#define TYPE_TAGGED __attribute__((btf_type_tag("type")))
enum large { SMALL = 1, LARGE = 0x123456789abcull };
#else
#define TYPE_TAGGED
enum large { SMALL = 1, LARGE = 0x12345678 };
#endif

struct TAGGED many {
	float f;
	double d;
	enum large e TAGGED;
	const volatile char *restrict text;
	int TYPE_TAGGED *tagged;
	struct forward *forward;
	int (*function)(int, ...);
	__u32 low : 5, high : 20;
	union {
		__s64 s;
		_Bool flag;
	};
	int matrix[2][3];
};
typedef struct many many_t TAGGED;

many_t many = { .d = 1.5, .e = LARGE, .low = 3, .high = 9, .s = -1, .matrix = { { 1, 2, 3 }, { 4, 5, 6 } } };

static __attribute__((noinline)) TAGGED __u64 tagged_function(many_t *m, __u64 i TAGGED)
{
	return m->low + m->high + m->matrix[1][i & 1];
}

/* 3 + 9 + (a & 1 ? 5 : 4) */
PROGRAM(types)
{
	return tagged_function(&many, args->a);
}

char LICENSE[] SEC("license") = "MIT";
