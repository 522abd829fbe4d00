/* SPDX-License-Identifier: MIT */
/*
 * bpf_conformance_plugin: runs one program for the public conformance runner.
 *
 *	bpf_conformance_plugin [MEM-HEX] [--interpret|--jit]
 *
 * The program's bytes come as one line of hex on standard input (blanks between
 * them are fine, as in MEM-HEX). r1 is the address of a writable copy of the
 * memory, 0 if there is none, r2 its length. On success r0 in hex on standard
 * output and exit 0; a program that must not load, or that traps, gives a
 * message on standard error and a non-zero exit. --interpret is the default.
 *
 * No verifier in between: programs are judged by their structure alone, so they
 * may do anything. What they do wrong shall not pass for a result:
 *  - memory ends at an area without access and begins after one
 *  - the program runs on a stack of its own between such areas, with handlers
 *    on another; SIGSEGV and the like become messages
 *  - a stack access by constant offset is judged before it runs
 *  - whoever runs for ten seconds has a loop without end
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tests/vm/jit_run.h"
#include "vm/opcodes.h"
#include "vm/program.h"

#define MAX_INSNS 65536
#define MAX_MEM (1 << 20)
#define BOUND 1000000000ull
#define SECONDS 10
#define STACK_SIZE (1 << 20)
#define GUARD (16ul << 20)

enum { EXIT_REFUSED = 1, EXIT_ARGS = 2, EXIT_TRAP = 3 };

static int hex_digit(int c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The bytes that TEXT stands for: their number, or -1. */
static long hex_bytes(const char *text, u8 *ret, size_t max)
{
	size_t n = 0;

	for (; *text; text++) {
		int high, low;

		if (strchr(" \t\r\n", *text))
			continue;
		high = hex_digit(text[0]);
		low = text[1] ? hex_digit(text[1]) : -1;
		if (high < 0 || low < 0 || n == max)
			return -1;
		ret[n++] = (u8)(high << 4 | low);
		text++;
	}
	return (long)n;
}

/* SIZE bytes between areas without access; they end at one, but for what
 * alignment to 8 leaves. */
static u8 *guarded(size_t size)
{
	size_t room = ALIGN_UP(size + 1, PAGE);
	u8 *p = mmap(NULL, room + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + GUARD, room, PROT_READ | PROT_WRITE))
		return NULL;
	return p + GUARD + room - ALIGN_UP(size, 8);
}

/* --- judging --- */

/* What the kernel's verifier refuses and the instruction set defines, written
 * in a way that it does not refuse. */
static void tame(struct bpf_insn *insn)
{
	u8 class = BPF_CLASS(insn->code), op = BPF_OP(insn->code);
	s32 bits = class == BPF_ALU64 ? 64 : 32;

	if ((class != BPF_ALU && class != BPF_ALU64) || BPF_SRC(insn->code) != BPF_K)
		return;
	if (op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH)
		insn->imm &= bits - 1;
	if ((op == BPF_DIV || op == BPF_MOD) && !insn->imm)
		insn->imm = 1;
}

/* Index of an instruction that accesses the stack outside of the frame, or -1. */
static long stack_overrun(const struct vm_prog *p)
{
	for (u32 at = 0; at < p->ninsns; at++) {
		const struct bpf_insn *insn = &p->insns[at];
		u8 class = BPF_CLASS(insn->code);
		bool load = class == BPF_LDX && insn->src_reg == BPF_REG_10;
		bool store = (class == BPF_ST || class == BPF_STX) && insn->dst_reg == BPF_REG_10;

		if (insn->code == (BPF_LD | BPF_IMM | BPF_DW))
			at++;
		else if ((load || store) &&
			 (insn->off < -INSN_STACK_SIZE || insn->off + (s32)insn_access_size(insn) > 0))
			return insn - p->insns;
	}
	return -1;
}

/* Marks what can be reached from AT. */
static void reach(const struct vm_prog *p, u8 *reached, s64 at)
{
	while (at >= 0 && at < p->ninsns && !reached[at]) {
		const struct bpf_insn *insn = &p->insns[at];
		bool jump = BPF_CLASS(insn->code) == BPF_JMP || BPF_CLASS(insn->code) == BPF_JMP32;
		u8 op = jump ? BPF_OP(insn->code) : 0xff;

		reached[at] = 1;
		if (op == BPF_EXIT)
			return;
		if (op == BPF_CALL) {
			if (insn->src_reg == BPF_PSEUDO_CALL)
				reach(p, reached, at + 1 + insn->imm);
			at++;
		} else if (op == BPF_JA && jump) {
			at = insn_jump_target(insn, (u32)at);
		} else {
			if (jump)
				reach(p, reached, insn_jump_target(insn, (u32)at));
			if (insn->code == (BPF_LD | BPF_IMM | BPF_DW) && at + 1 < p->ninsns)
				reached[++at] = 1;
			at++;
		}
	}
}

/* The program as it is judged: tamed, with a jump in front to each stretch that
 * nothing leads to, which the kernel refuses and the instruction set allows. */
static bool judged_make(const struct vm_prog *p, struct vm_prog *ret)
{
	cleanup_free u8 *reached = calloc(p->ninsns, 1);
	cleanup_free u32 *dead = calloc(p->ninsns, sizeof(*dead));
	u32 ndead = 0;

	if (!reached || !dead)
		return false;
	reach(p, reached, 0);
	for (u32 at = 0; at < p->ninsns; at++) {
		if (reached[at])
			continue;
		dead[ndead++] = at;
		reach(p, reached, at);
	}
	*ret = *p;
	ret->ninsns = p->ninsns + ndead;
	ret->insns = calloc(ret->ninsns, sizeof(*ret->insns));
	if (!ret->insns)
		return false;
	for (u32 i = 0; i < ndead; i++)
		ret->insns[i] = (struct bpf_insn){ .code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = BPF_REG_1,
						   .off = (s16)(ndead - i - 1 + dead[i]) };
	for (u32 i = 0; i < p->ninsns; i++) {
		ret->insns[ndead + i] = p->insns[i];
		tame(&ret->insns[ndead + i]);
	}
	return true;
}

static bool judge(struct vm_prog *p)
{
	struct vm_prog judged = { .insns = NULL };
	cleanup_uerr struct uerr *err = NULL;
	long overrun;

	err = judged_make(p, &judged) ? check_program(&judged, NULL, 0) : uerr_nomem();
	p->info = judged.info;
	p->checked = judged.checked;
	free(judged.insns);
	if (err) {
		fprintf(stderr, "refused: %s\n", err->message);
		return false;
	}
	overrun = stack_overrun(p);
	if (overrun >= 0)
		fprintf(stderr, "refused: stack access outside of the frame at instruction %ld\n", overrun);
	return overrun < 0;
}

/* --- running --- */

struct job {
	struct vm_prog *prog;
	bool jit;
	u64 r1, r2, r0;
	long failed;
	struct jit_code code;
};

static void trapped(int sig, siginfo_t *si, void *uc)
{
	char text[128];
	int n;

	if (sig == SIGALRM)
		n = snprintf(text, sizeof(text), "trap: still running after %u s\n", SECONDS);
	else
		n = snprintf(text, sizeof(text), "trap: %s at address 0x%lx\n",
			     sig == SIGSEGV || sig == SIGBUS ? "memory access" : "exception", (unsigned long)si->si_addr);
	if (write(STDERR_FILENO, text, (size_t)n) < 0)
		_exit(EXIT_TRAP + 1);
	_exit(EXIT_TRAP);
}

static void *run(void *arg)
{
	struct job *j = arg;
	struct hook_frame frame;
	static u8 handler_stack[1 << 16];
	stack_t alt = { .ss_sp = handler_stack, .ss_size = sizeof(handler_stack) };

	sigaltstack(&alt, NULL);
	runtime_self_frame(&frame);
	if (j->jit)
		j->r0 = j->code.fn(j->r1, j->r2, &frame);
	else
		j->failed = interp_run(j->prog, NULL, 0, j->r1, j->r2, &frame, BOUND, &j->r0);
	return NULL;
}

/* A thread, for its stack. */
static bool run_apart(struct job *j)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGALRM };
	struct sigaction sa = { .sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	u8 *stack = guarded(STACK_SIZE - 1);
	pthread_attr_t attr;
	pthread_t thread;

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
	alarm(SECONDS);
	if (!stack || pthread_attr_init(&attr) ||
	    pthread_attr_setstack(&attr, (void *)ALIGN_DOWN((u64)stack, PAGE), STACK_SIZE) ||
	    pthread_create(&thread, &attr, run, j)) {
		fprintf(stderr, "cannot make a stack: %s\n", strerror(errno));
		return false;
	}
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attr);
	return true;
}

static int execute(struct job *j)
{
	cleanup_uerr struct uerr *err = NULL;

	if (j->jit)
		err = jit_code_create(j->prog, NULL, 0, 0, &j->code);
	if (err) {
		fprintf(stderr, "refused: %s\n", err->message);
		return EXIT_REFUSED;
	}
	if (!run_apart(j))
		return EXIT_ARGS;
	if (j->failed) {
		fprintf(stderr, "trap: %s\n", j->failed == -ELOOP ? "it runs without end" : strerror((int)-j->failed));
		return EXIT_TRAP;
	}
	printf("%llx\n", (unsigned long long)j->r0);
	return fflush(stdout) ? EXIT_ARGS : EXIT_SUCCESS;
}

/* --- arguments --- */

static bool read_program(struct vm_prog *p)
{
	cleanup_free char *line = NULL;
	size_t cap = 0;
	long n;

	if (getline(&line, &cap, stdin) < 0)
		return false;
	p->insns = calloc(MAX_INSNS, sizeof(*p->insns));
	n = p->insns ? hex_bytes(line, (u8 *)p->insns, MAX_INSNS * sizeof(*p->insns)) : -1;
	if (n <= 0 || n % (long)sizeof(*p->insns))
		return false;
	p->ninsns = (u32)(n / (long)sizeof(*p->insns));
	return true;
}

static bool read_memory(const char *text, struct job *j)
{
	cleanup_free u8 *bytes = malloc(MAX_MEM);
	long n = bytes ? hex_bytes(text, bytes, MAX_MEM) : -1;
	u8 *mem;

	if (n <= 0)
		return !n;
	mem = guarded((size_t)n);
	if (!mem)
		return false;
	memcpy(mem, bytes, (size_t)n);
	j->r1 = (u64)mem;
	j->r2 = (u64)n;
	return true;
}

static int usage(const char *what)
{
	fprintf(stderr, "%s\nusage: bpf_conformance_plugin [MEM-HEX] [--interpret|--jit] <PROGRAM-HEX\n", what);
	return EXIT_ARGS;
}

int main(int argc, char **argv)
{
	static struct vm_prog prog = { .name = "stdin" };
	struct job job = { .prog = &prog };

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--jit"))
			job.jit = true;
		else if (!strcmp(argv[i], "--interpret"))
			job.jit = false;
		else if (!strncmp(argv[i], "--", 2))
			return usage("unknown option");
		else if (!read_memory(argv[i], &job))
			return usage("the memory is not hex");
	}
	if (!read_program(&prog))
		return usage("the program is not a line of whole instructions in hex");
	return judge(&prog) ? execute(&job) : EXIT_REFUSED;
}
