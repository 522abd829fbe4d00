/* SPDX-License-Identifier: MIT */
/*
 * Functions of awkward shapes, called as often as a line on stdin says: "NAME
 * N" answers with the result. Recursion, a tail call, two returns, a jump back
 * to the first instruction, a fork while probed, eight arguments, a result in
 * two registers, floating point, variable arguments.
 */
#include <stdarg.h>
#include <sys/wait.h>

#include "e2e_victim.h"

PROBED uint64_t fib(uint64_t n);
PROBED uint64_t fib(uint64_t n)
{
	uint64_t a, b;

	if (n < 2)
		return n;
	a = fib(n - 1);
	b = fib(n - 2);
	__asm__("" : "+r"(a), "+r"(b)); /* or the compiler makes a loop of one of them */
	return a + b;
}

PROBED uint64_t tail_target(uint64_t n);
PROBED uint64_t tail_target(uint64_t n)
{
	return n ^ 0x55;
}

/* ends by jumping to tail_target */
uint64_t tail_caller(uint64_t n);
__asm__(".text\n.p2align 4\n.globl tail_caller\n.type tail_caller, @function\n"
	"tail_caller:\n"
	"	.cfi_startproc\n"
	"	lea 1(%rdi), %rdi\n"
	"	nopl 0(%rax)\n"
	"	jmp tail_target\n"
	"	.cfi_endproc\n"
	".size tail_caller, . - tail_caller\n");

PROBED uint64_t two_returns(uint64_t n);
PROBED uint64_t two_returns(uint64_t n)
{
	if (n & 1)
		return n * 3 + 1;
	return n / 2;
}

/* its loop jumps back to its very first instruction */
uint64_t loop_to_start(uint64_t n, uint64_t sum);
__asm__(".text\n.p2align 4\n.globl loop_to_start\n.type loop_to_start, @function\n"
	"loop_to_start:\n"
	"	lea (%rsi,%rdi), %rsi\n"
	"	sub $1, %rdi\n"
	"	jnz loop_to_start\n"
	"	mov %rsi, %rax\n"
	"	ret\n"
	"	.byte 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc\n"
	".size loop_to_start, . - loop_to_start\n");

/* something jumps into its first five bytes: nothing may be patched there */
uint64_t jumped_into(uint64_t n);
__asm__(".text\n.p2align 4\n.globl jumped_into\n.type jumped_into, @function\n"
	"jumped_into:\n"
	"	mov %edi, %eax\n"
	"1:	dec %eax\n"
	"	test %eax, %eax\n"
	"	jg 1b\n"
	"	ret\n"
	".size jumped_into, . - jumped_into\n");

/* What a hook inside must not touch: flags across instructions that leave them
 * alone, the red zone, the direction flag, a stack aligned in no way. With the
 * carry of n - 3 in each round, n rounds. */
uint64_t sensitive(uint64_t n);
__asm__(".text\n.p2align 4\n.globl sensitive\n.type sensitive, @function\n"
	"sensitive:\n"
	"	xor %eax, %eax\n"
	"	mov %rdi, -16(%rsp)\n"
	"	movq $5, -128(%rsp)\n"
	"	lea -16(%rsp), %rsi\n"
	"1:	cmpq $3, -16(%rsp)\n"
	"	mov -128(%rsp), %rdx\n"
	"	lea (%rdx,%rdx), %rdx\n"
	"	adc %rdx, %rax\n"
	"	std\n"
	"	mov %rax, %r8\n"
	"	lodsq\n"
	"	cld\n"
	"	add $8, %rsi\n"
	"	sub $1, %rax\n"
	"	mov %rax, -16(%rsp)\n"
	"	mov %r8, %rax\n"
	"	push %rcx\n"
	"	lea -3(%rsp), %rsp\n"
	"	jrcxz 2f\n"
	"	nop\n"
	"2:	lea 3(%rsp), %rsp\n"
	"	pop %rcx\n"
	"	mov %rdx, -128(%rsp)\n"
	"	movq $5, -128(%rsp)\n"
	"	mov %r8, %rax\n"
	"	cmpq $0, (%rsi)\n"
	"	jne 1b\n"
	"	ret\n"
	"	.byte 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc\n"
	".size sensitive, . - sensitive\n");

struct pair {
	uint64_t a, b;
};
PROBED struct pair in_two_registers(uint64_t n);
PROBED struct pair in_two_registers(uint64_t n)
{
	return (struct pair){ n + 1, n + 2 };
}

PROBED double floating(double a, float b, int n);
PROBED double floating(double a, float b, int n)
{
	return a * b + n;
}

PROBED uint64_t eight(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h);
PROBED uint64_t eight(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h;
}

PROBED double variadic(int n, ...);
PROBED double variadic(int n, ...)
{
	double sum = 0;
	va_list ap;

	va_start(ap, n);
	for (int i = 0; i < n; i++)
		sum += va_arg(ap, double);
	va_end(ap);
	return sum;
}

PROBED uint64_t in_child(uint64_t n);
PROBED uint64_t in_child(uint64_t n)
{
	return n + 7;
}

static uint64_t with_children(uint64_t n)
{
	uint64_t ok = 0;
	int status;

	for (uint64_t i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid == 0) {
			for (uint64_t k = 0; k < 100; k++)
				if (in_child(k) != k + 7)
					_exit(1);
			_exit(0);
		}
		ok += waitpid(pid, &status, 0) == pid && status == 0;
	}
	return ok;
}

/* A child that goes on for as long as the test wants. */
static uint64_t lasting_child(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (uint64_t k = 0;; k++) {
			if (in_child(k) != k + 7)
				_exit(1);
			if (k % 64 == 0)
				usleep(500);
		}
	}
	return (uint64_t)pid;
}

static uint64_t run(const char *name, uint64_t n)
{
	uint64_t sum = 0;

	if (!strcmp(name, "fib"))
		return fib(n);
	if (!strcmp(name, "with_children"))
		return with_children(n);
	if (!strcmp(name, "lasting_child"))
		return lasting_child();
	for (uint64_t i = 1; i <= n; i++) {
		if (!strcmp(name, "tail_caller")) {
			sum += tail_caller(i) == ((i + 1) ^ 0x55);
		} else if (!strcmp(name, "two_returns")) {
			sum += two_returns(i) == (i & 1 ? i * 3 + 1 : i / 2);
		} else if (!strcmp(name, "loop_to_start")) {
			sum += loop_to_start(i, 0) == i * (i + 1) / 2;
		} else if (!strcmp(name, "jumped_into")) {
			sum += jumped_into(i) == 0;
		} else if (!strcmp(name, "sensitive")) {
			uint64_t k = 1 + i % 8;

			sum += sensitive(k) == 10 * k + (k < 3 ? k : 2);
		} else if (!strcmp(name, "in_two_registers")) {
			struct pair p = in_two_registers(i);

			sum += p.a == i + 1 && p.b == i + 2;
		} else if (!strcmp(name, "floating")) {
			sum += floating(0.5, 4.0f, (int)i) == 2.0 + (int)i;
		} else if (!strcmp(name, "eight")) {
			sum += eight(1, 2, 3, 4, 5, 6, 7, i) == 140 + 8 * i;
		} else if (!strcmp(name, "variadic")) {
			sum += variadic(3, 1.5, 2.5, (double)i) == 4.0 + (double)i;
		}
	}
	return sum;
}

int main(void)
{
	char name[64];
	unsigned long long n;

	victim_ready();
	for (;;) {
		if (sscanf(victim_command(), "%63s %llu", name, &n) != 2)
			return 1;
		printf("%llu\n", (unsigned long long)run(name, n));
		fflush(stdout);
	}
}
