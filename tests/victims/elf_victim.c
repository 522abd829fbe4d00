/* SPDX-License-Identifier: MIT */
/*
 * A program (and, with -DLIBRARY, a shared library) with one of each kind of
 * symbol that elfsym must tell apart. It prints "name address" lines for what it
 * knows of itself, "ready", and then waits for the end of its input.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEEP __attribute__((noinline, used))

KEEP int victim_add(int a, int b)
{
	return a + b;
}
int victim_alias(int a, int b) __attribute__((alias("victim_add")));
int __victim_alias(int a, int b) __attribute__((alias("victim_add")));

static KEEP int victim_static(int a)
{
	return a * 3;
}

/* Overloads, as a C++ compiler would name them. */
KEEP int overload_int(int a) __asm__("_ZN2ns1fEi");
KEEP int overload_str(const char *s) __asm__("_ZN2ns1fEPKc");
KEEP int other_name(void) __asm__("_ZN2ns1A3runEv");

KEEP void construct(void) __asm__("_ZN2ns1AC1Ev");
void construct(void)
{
	__asm__ volatile("");
}
void construct_base(void) __asm__("_ZN2ns1AC2Ev") __attribute__((alias("_ZN2ns1AC1Ev")));

/* Named like what a compiler cuts out of a function. */
KEEP void piece(void) __asm__("victim_piece.cold");
void piece(void)
{
	__asm__ volatile("");
}

int overload_int(int a)
{
	return a + 1;
}

int overload_str(const char *s)
{
	return s[0];
}

int other_name(void)
{
	return 7;
}

static KEEP int pick_one(int a)
{
	return a - 1;
}

static KEEP int pick_two(int a)
{
	return a - 2;
}

static int (*resolve_pick(void))(int)
{
	return pick_two;
}
int victim_pick(int a) __attribute__((ifunc("resolve_pick")));

/* Named by data alone. */
static int (*const volatile table[])(int) = { pick_one, victim_static };

static void release(int *p)
{
	(void)*(volatile int *)p;
}

extern void may_throw(void);
KEEP void may_throw(void)
{
	__asm__ volatile("");
}

/* Has a landing pad when built with -fexceptions. */
KEEP int victim_guarded(int a)
{
	__attribute__((cleanup(release))) int held = a;
	void (*volatile call)(void) = may_throw;

	call();
	return held + a;
}

int victim_use(int n)
{
	return victim_add(n, n) + victim_static(n) + overload_int(n) + overload_str("x") + other_name() + victim_pick(n) +
	       table[n & 1](n) + victim_guarded(n);
}

/* A restartable sequence as librseq writes them down: its description in a section
 * of its own, its abort handler behind a signature. It never runs. */
asm(".text\n.globl victim_rseq\n.type victim_rseq, @function\nvictim_rseq:\n"
    "nop\nnop\nnop\nnop\nnop\nmov %rdi, %rax\n"
    "victim_rseq_start: mov %rsi, %rdx\n cmp %rdx, %rax\n jne 1f\n mov %rax, (%rdi)\nvictim_rseq_end:\n"
    "1: mov $1, %eax\n ret\n"
    ".byte 0x0f, 0xb9, 0x3d\n.long 0x53053053\nvictim_rseq_abort: xor %eax, %eax\n jmp 1b\n"
    ".size victim_rseq, . - victim_rseq\n"
    ".section __rseq_cs, \"aw\"\n.balign 32\nvictim_rseq_cs: .long 0, 0\n"
    ".quad victim_rseq_start, victim_rseq_end - victim_rseq_start, victim_rseq_abort\n"
    ".section __rseq_cs_ptr_array, \"aw\"\n.quad victim_rseq_cs\n.text\n");

#ifndef LIBRARY
static void say(const char *name, const void *addr)
{
	printf("%s %p\n", name, addr);
}

int main(int argc, char **argv)
{
	char c;

	say("victim_add", victim_add);
	say("victim_static", victim_static);
	say("_ZN2ns1fEi", overload_int);
	say("_ZN2ns1fEPKc", overload_str);
	say("victim_pick", pick_two);
	say("main", main);
#ifndef STATIC
	say("libc:malloc", dlsym(RTLD_DEFAULT, "malloc"));
	say("libc:memcpy", dlsym(RTLD_DEFAULT, "memcpy"));
	say("libc:strlen", dlsym(RTLD_DEFAULT, "strlen"));
	if (argc > 1) {
		void *lib = dlopen(argv[1], (getenv("VICTIM_LAZY") ? RTLD_LAZY : RTLD_NOW) | RTLD_LOCAL);

		if (!lib)
			return 2;
		say("lib:victim_add", dlsym(lib, "victim_add"));
		say("lib:victim_pick", dlsym(lib, "victim_pick"));
	}
#endif
	puts("ready");
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	return victim_use(argc) == 12345;
}
#endif
