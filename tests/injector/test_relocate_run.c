/* SPDX-License-Identifier: MIT */
/*
 * Copies of instructions, run: every form that can be relocated is executed where
 * it was linked and, with the same registers, flags, vector registers and memory,
 * as the copy that a trampoline would hold. Both must end at the same place with
 * the same of everything.
 *
 * A form is one instruction; behind it stands a jump to form_fall. Branches lead
 * to form_taken, calls and returns to form_callee, which note where they are and
 * do not go back: what a call pushed is then compared as memory.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "injector/relocate.h"
#include "tests/support/suite.h"

enum feature { ANY, AVX, AVX2, FMA, BMI, BMI2, SSE42, AES, MOVBE, AVX512VL, RTM };

struct form {
	const u8 *code, *end;
	const char *name;
	u64 feature;
};
extern const struct form forms_start[] asm("__start_forms") __attribute__((visibility("hidden")));
extern const struct form forms_stop[] asm("__stop_forms") __attribute__((visibility("hidden")));

#define STR1(x) #x
#define STR(x) STR1(x)
/* ANY … as the assembler has to write them */
#define N_ANY "0"
#define N_AVX "1"
#define N_AVX2 "2"
#define N_FMA "3"
#define N_BMI "4"
#define N_BMI2 "5"
#define N_SSE42 "6"
#define N_AES "7"
#define N_MOVBE "8"
#define N_AVX512VL "9"
#define N_RTM "10"
#define F(feature, insn)                                                                         \
	".p2align 4\n771: " insn "\n772: jmp form_fall\n774: jmp form_taken\n"                   \
	".pushsection forms, \"aw\"\n.quad 771b, 772b, 773f, " N_##feature "\n.popsection\n"    \
	".pushsection forms_names, \"a\"\n773: .asciz \"" insn "\"\n.popsection\n"

/* Operand D is relative to rip; r14 points there as well, r12 at three words that
 * hold form_callee, r13 is 1, rbx and r10 are form_callee, r9 is form_taken. */
#define D "form_data(%rip)"
asm(".section forms_text, \"ax\", @progbits\n"
    /* arithmetic, in all sizes and directions */
    ".irp op, add, or, adc, sbb, and, sub, xor, cmp\n"
    F(ANY, "\\op\\()b " D ", %al") F(ANY, "\\op\\()w " D ", %dx") F(ANY, "\\op\\()l " D ", %esi")
    F(ANY, "\\op\\()q " D ", %r15") F(ANY, "\\op\\()b %r8b, " D) F(ANY, "\\op\\()w %ax, " D)
    F(ANY, "\\op\\()l %edi, " D) F(ANY, "\\op\\()q %rdx, " D) F(ANY, "\\op\\()b $0x7f, " D)
    F(ANY, "\\op\\()w $-2, " D) F(ANY, "\\op\\()w $0x1234, " D) F(ANY, "\\op\\()l $5, " D)
    F(ANY, "\\op\\()l $0x12345678, " D) F(ANY, "\\op\\()q $-3, " D) F(ANY, "\\op\\()q $0x12345678, " D)
    F(ANY, "\\op\\()q %rsi, %rdi") F(ANY, "\\op\\()l $0x12345678, %edi")
    ".endr\n"
    ".irp op, rol, ror, rcl, rcr, shl, shr, sar\n"
    F(ANY, "\\op\\()b $3, " D) F(ANY, "\\op\\()l $9, " D) F(ANY, "\\op\\()q %cl, " D) F(ANY, "\\op\\()w $1, " D)
    ".endr\n"
    ".irp op, inc, dec, neg, not, mul, imul\n"
    F(ANY, "\\op\\()b " D) F(ANY, "\\op\\()w " D) F(ANY, "\\op\\()l " D) F(ANY, "\\op\\()q " D)
    ".endr\n"
    ".irp cc, o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g\n"
    F(ANY, "set\\cc " D) F(ANY, "cmov\\cc " D ", %rax") F(ANY, "cmov\\cc " D ", %r11w")
    F(ANY, "j\\cc 774f") F(ANY, "j\\cc form_taken")
    ".endr\n"
    ".irp op, bt, bts, btr, btc\n"
    F(ANY, "\\op\\()l $7, " D) F(ANY, "\\op\\()q $33, " D)
    ".endr\n"
    F(ANY, "testb $0x55, " D) F(ANY, "testw $0x5555, " D) F(ANY, "testl $0x55555555, " D) F(ANY, "testq %rax, " D)
    F(ANY, "imulw $0x1234, " D ", %ax") F(ANY, "imull $0x12345678, " D ", %eax") F(ANY, "imulq $5, " D ", %rsi")
    F(ANY, "shldl $4, %eax, " D) F(ANY, "shrdq %cl, %rdx, " D) F(ANY, "bsfq " D ", %rax") F(ANY, "bsrl " D ", %eax")
    F(ANY, "movb $1, " D) F(ANY, "movw $0x1234, " D) F(ANY, "movl $0x12345678, " D) F(ANY, "movq $-5, " D)
    F(ANY, "movb " D ", %ah") F(ANY, "mov " D ", %r8") F(ANY, "movl %r15d, " D) F(ANY, "movzbl " D ", %eax")
    F(ANY, "movswq " D ", %rdx") F(ANY, "movslq " D ", %rdi") F(ANY, "movabsq $0x1122334455667788, %rax")
    F(ANY, "lea " D ", %rax") F(ANY, "leal " D ", %edx") F(ANY, "lea -8(%rsp), %rsi") F(ANY, "xchg %rax, " D)
    F(ANY, "xaddl %edx, " D) F(ANY, "lock xaddq %rsi, " D) F(ANY, "lock cmpxchgl %edx, " D) F(ANY, "cmpxchg8b " D)
    F(ANY, "cmpxchg16b " D) F(ANY, "lock incl " D) F(ANY, "lock addl $0x11223344, " D) F(ANY, "prefetcht0 " D)
    F(ANY, "nopl " D) F(ANY, "nopw 0(%rax,%rax,1)") F(ANY, "endbr64") F(ANY, "cld") F(ANY, "stc") F(ANY, "cmc")
    F(ANY, "cqto") F(ANY, "cwtl") F(ANY, "bswap %rdx") F(ANY, "sahf") F(ANY, "lahf") F(ANY, "xlatb")
    F(ANY, "mov %fs:0, %rax") F(ANY, "mov 8(%r14), %rax") F(ANY, "mov (%r14,%r13,8), %rdx") F(ANY, "popcnt " D ", %rax")
    /* the stack */
    F(ANY, "push %rax") F(ANY, "push %r13") F(ANY, "push $5") F(ANY, "push $0x12345678") F(ANY, "pushw $0x1234")
    F(ANY, "pushw %dx") F(ANY, "push " D) F(ANY, "push 8(%rsp)") F(ANY, "push (%rsp)") F(ANY, "pop %rdx") F(ANY, "popw %dx")
    F(ANY, "pop %r12") F(ANY, "pop " D) F(ANY, "pop 8(%rsp)") F(ANY, "pop (%r14)") F(ANY, "pushf") F(ANY, "leave")
    F(ANY, "enter $16, $0") F(ANY, "sub $24, %rsp") F(ANY, "ret") F(ANY, "ret $16") F(ANY, "rep ret") F(ANY, "repne ret")
    F(ANY, "mov %rsp, %rbp") F(ANY, "xchg %rsp, %rbp")
    /* ways to elsewhere */
    F(ANY, "jmp 774f") F(ANY, "jmp form_taken") F(ANY, ".byte 0xf2\n jmp form_taken") F(ANY, "jmp *%r9") F(ANY, "notrack jmp *%r9")
    F(ANY, "jmp *form_taken_ptr(%rip)") F(ANY, "jmp *8(%r12,%r13,8)") F(ANY, "jmp *(%rsp)") F(ANY, ".byte 0xf2\n jmp *%r9")
    F(ANY, "call form_callee") F(ANY, "call 774f") F(ANY, ".byte 0x48\n call form_callee") F(ANY, ".byte 0xf2\n call form_callee")
    F(ANY, "call *%rbx") F(ANY, "call *%r10") F(ANY, "notrack call *%rbx") F(ANY, "call *form_callee_ptr(%rip)")
    F(ANY, "call *(%r12)") F(ANY, "call *8(%r12,%r13,8)") F(ANY, "call *0x7fffff00(%r11)") F(ANY, "call *(%rsp)")
    F(ANY, "call *16(%rsp)") F(ANY, "call *-16(%rsp)") F(ANY, "call *127(%rsp,%r13)") F(ANY, "call *0x100(%rsp)")
    F(ANY, "call *(%rsp,%r13,8)") F(ANY, "call *8(%rbp)") F(ANY, "call *-8(%rsp,%r13,8)")
    F(ANY, "loop 774f") F(ANY, "loope 774f") F(ANY, "loopne 774f") F(ANY, "jrcxz 774f") F(ANY, "jecxz 774f")
    F(ANY, "addr32 loop 774f")
    /* x87, SSE and their kin: prefixes, escapes, immediates behind the displacement */
    F(ANY, "fldl " D) F(ANY, "fldt " D) F(ANY, "fildll " D) F(ANY, "fadds " D) F(ANY, "fnstcw " D)
    F(ANY, "movups " D ", %xmm1") F(ANY, "movups %xmm9, " D) F(ANY, "movdqa " D ", %xmm15") F(ANY, "movss " D ", %xmm2")
    F(ANY, "movsd %xmm2, " D) F(ANY, "movq " D ", %xmm3") F(ANY, "movd %xmm3, " D) F(ANY, "addps " D ", %xmm4")
    F(ANY, "paddq " D ", %xmm5") F(ANY, "pshufd $0x1b, " D ", %xmm6") F(ANY, "cmpps $2, " D ", %xmm7")
    F(ANY, "shufps $0x44, " D ", %xmm8") F(ANY, "pinsrw $3, " D ", %xmm1") F(ANY, "cvtsi2sdq " D ", %xmm1")
    F(ANY, "cvttss2si " D ", %rax") F(ANY, "ucomisd " D ", %xmm0") F(ANY, "pmovmskb %xmm3, %eax")
    F(SSE42, "pshufb " D ", %xmm1") F(SSE42, "palignr $5, " D ", %xmm2") F(SSE42, "pextrd $2, %xmm3, " D)
    F(SSE42, "pextrb $9, %xmm3, " D) F(SSE42, "pinsrq $1, " D ", %xmm4") F(SSE42, "roundsd $1, " D ", %xmm5")
    F(SSE42, "pcmpistri $0x0c, " D ", %xmm6") F(SSE42, "crc32l " D ", %eax") F(SSE42, "blendps $5, " D ", %xmm7")
    F(AES, "aesenc " D ", %xmm1") F(AES, "aeskeygenassist $1, " D ", %xmm2") F(AES, "pclmulqdq $0x11, " D ", %xmm3")
    F(MOVBE, "movbe " D ", %rax") F(MOVBE, "movbe %edx, " D)
    F(AVX, "vmovups " D ", %ymm1") F(AVX, "vmovups %ymm9, " D) F(AVX, "vaddps " D ", %ymm2, %ymm11")
    F(AVX, "vmovss " D ", %xmm3") F(AVX, "vshufps $0x1b, " D ", %ymm4, %ymm5") F(AVX, "vpextrb $7, %xmm6, " D)
    F(AVX, "vinsertf128 $1, " D ", %ymm7, %ymm8") F(AVX, "vextractf128 $1, %ymm7, " D)
    F(AVX, "vblendvps %ymm1, " D ", %ymm2, %ymm3") F(AVX, "vbroadcastss " D ", %ymm4") F(AVX, "vtestps " D ", %ymm5")
    F(AVX, "vcmppd $0x1e, " D ", %ymm6, %ymm7") F(AVX, "vroundps $3, " D ", %ymm8") F(AVX, "vzeroupper")
    F(AVX2, "vpaddd " D ", %ymm9, %ymm10") F(AVX2, "vpermq $0x4e, " D ", %ymm11") F(AVX2, "vpshufb " D ", %ymm1, %ymm2")
    F(AVX2, "vpblendd $0x55, " D ", %ymm3, %ymm4") F(AVX2, "vperm2i128 $0x31, " D ", %ymm5, %ymm6")
    F(FMA, "vfmadd213pd " D ", %ymm1, %ymm2") F(FMA, "vfnmsub231ss " D ", %xmm3, %xmm4")
    F(BMI, "andn " D ", %rax, %rdx") F(BMI, "bextr %rax, " D ", %rdx") F(BMI, "blsr " D ", %r8") F(BMI, "tzcnt " D ", %r15")
    F(BMI2, "rorx $7, " D ", %rsi") F(BMI2, "mulx " D ", %rax, %rdi") F(BMI2, "shlx %rax, " D ", %rdx")
    F(BMI2, "pdep " D ", %rax, %r8")
    F(AVX512VL, "vaddps " D ", %xmm17, %xmm1") F(AVX512VL, "vpaddq " D "{1to4}, %ymm18, %ymm2")
    F(AVX512VL, "vpternlogd $0x96, " D ", %ymm3, %ymm4") F(AVX512VL, "vpcmpud $2, " D ", %ymm5, %k1")
    F(AVX512VL, "vmovdqu64 " D ", %ymm6{%k1}")
    F(RTM, "xbegin 774f")
    ".text\n");

/* ---- the machine around a form ---- */

struct machine {
	u64 r[16]; /* by x86 number */
	u64 flags;
	u64 place; /* where it ended */
	u8 fx[512] __attribute__((aligned(16)));
	u8 ymm[16][32];
};

#define STACK_SIZE 4096
#define DATA_SIZE 64

__attribute__((visibility("hidden"), used)) struct machine mach_in, mach_out;
__attribute__((visibility("hidden"), used)) u64 mach_code, mach_sp, mach_avx;
__attribute__((visibility("hidden"), used)) u8 mach_flag_stack[64];
__attribute__((visibility("hidden"), used, aligned(64))) u8 form_data[DATA_SIZE];
void mach_run(void);
extern const u8 form_fall[], form_taken[], form_callee[];
__attribute__((visibility("hidden"), used)) const void *form_taken_ptr = form_taken, *form_callee_ptr = form_callee;

_Static_assert(offsetof(struct machine, flags) == 128 && offsetof(struct machine, place) == 136 &&
		       offsetof(struct machine, fx) == 144 && offsetof(struct machine, ymm) == 656,
	       "as the code below has it");

#define EXIT(name, number) \
	".globl " #name "\n.hidden " #name "\n" #name ": movq $" #number ", 136+mach_out(%rip)\n jmp mach_done\n"
#define YMM(op, n) op "(" #n "*32)"
asm(".text\n.globl mach_run\n.type mach_run, @function\nmach_run:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n mov %rsp, mach_sp(%rip)\n"
    "fxrstor 144+mach_in(%rip)\n cmpq $0, mach_avx(%rip)\n je 1f\n lea 656+mach_in(%rip), %rax\n"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n vmovups 32*\\n(%rax), %ymm\\n\n.endr\n1:\n"
    "mov 0+mach_in(%rip), %rax\n mov 8+mach_in(%rip), %rcx\n mov 16+mach_in(%rip), %rdx\n"
    "mov 24+mach_in(%rip), %rbx\n mov 40+mach_in(%rip), %rbp\n mov 48+mach_in(%rip), %rsi\n"
    "mov 56+mach_in(%rip), %rdi\n mov 64+mach_in(%rip), %r8\n mov 72+mach_in(%rip), %r9\n"
    "mov 80+mach_in(%rip), %r10\n mov 88+mach_in(%rip), %r11\n mov 96+mach_in(%rip), %r12\n"
    "mov 104+mach_in(%rip), %r13\n mov 112+mach_in(%rip), %r14\n mov 120+mach_in(%rip), %r15\n"
    "pushq 128+mach_in(%rip)\n popfq\n mov 32+mach_in(%rip), %rsp\n jmp *mach_code(%rip)\n"
    EXIT(form_fall, 1) EXIT(form_taken, 2) EXIT(form_callee, 3)
    "mach_done: mov %rsp, 32+mach_out(%rip)\n lea 64+mach_flag_stack(%rip), %rsp\n pushfq\n popq 128+mach_out(%rip)\n"
    "cld\n"
    "mov %rax, 0+mach_out(%rip)\n mov %rcx, 8+mach_out(%rip)\n mov %rdx, 16+mach_out(%rip)\n"
    "mov %rbx, 24+mach_out(%rip)\n mov %rbp, 40+mach_out(%rip)\n mov %rsi, 48+mach_out(%rip)\n"
    "mov %rdi, 56+mach_out(%rip)\n mov %r8, 64+mach_out(%rip)\n mov %r9, 72+mach_out(%rip)\n"
    "mov %r10, 80+mach_out(%rip)\n mov %r11, 88+mach_out(%rip)\n mov %r12, 96+mach_out(%rip)\n"
    "mov %r13, 104+mach_out(%rip)\n mov %r14, 112+mach_out(%rip)\n mov %r15, 120+mach_out(%rip)\n"
    "fxsave 144+mach_out(%rip)\n cmpq $0, mach_avx(%rip)\n je 1f\n lea 656+mach_out(%rip), %rax\n"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n vmovups %ymm\\n, 32*\\n(%rax)\n.endr\n"
    "vzeroupper\n1: fninit\n mov mach_sp(%rip), %rsp\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

static bool has(u64 feature)
{
	switch (feature) {
	case ANY:
		return true;
	case AVX:
		return __builtin_cpu_supports("avx");
	case AVX2:
		return __builtin_cpu_supports("avx2");
	case FMA:
		return __builtin_cpu_supports("fma");
	case BMI:
		return __builtin_cpu_supports("bmi");
	case BMI2:
		return __builtin_cpu_supports("bmi2");
	case SSE42:
		return __builtin_cpu_supports("sse4.2");
	case AES:
		return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
	case MOVBE:
		return __builtin_cpu_supports("avx2"); /* came with it */
	case AVX512VL:
		return __builtin_cpu_supports("avx512vl");
	default:
		return false; /* rtm: which CPUs abort is another matter than support */
	}
}

/* ---- one form ---- */

static u8 stack[STACK_SIZE] __attribute__((aligned(64)));
static u8 *copies; /* page for the copies */

static u64 rand64(void)
{
	return (u64)random() << 42 ^ (u64)random() << 21 ^ (u64)random();
}

static void fill_random(void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((u8 *)p)[i] = (u8)random();
}

/* Callees' addresses stand wherever an operand may look. */
static u64 callees[8];

static void random_machine(struct machine *m, unsigned round)
{
	static const u64 counts[] = { 0, 1, 2, 1ull << 32, ~0ull };

	fill_random(m, sizeof(*m));
	memset(m->fx, 0, sizeof(m->fx));
	memcpy(m->fx, (const u8[]){ 0x7f, 0x03 }, 2);           /* x87 control word, empty stack */
	memcpy(m->fx + 24, (const u8[]){ 0x80, 0x1f, 0, 0 }, 4); /* mxcsr, everything masked */
	fill_random(m->fx + 160, 256);                          /* xmm */
	for (int i = 0; i < 16; i++)
		memcpy(m->ymm[i], m->fx + 160 + 16 * i, 16);
	m->r[1] = counts[round % ARRAY_SIZE(counts)];
	m->r[3] = m->r[10] = (u64)form_callee;
	m->r[4] = (u64)stack + STACK_SIZE / 2;
	m->r[5] = (u64)stack + STACK_SIZE / 2 + 512;
	m->r[9] = (u64)form_taken;
	m->r[11] = (u64)callees - 0x7fffff00;
	m->r[12] = (u64)callees;
	m->r[13] = 1;
	m->r[14] = (u64)form_data;
	m->flags = 0x202 | (rand64() & 0x8d5);
}

struct outcome {
	struct machine m;
	u8 stack[STACK_SIZE], data[DATA_SIZE];
};

static void run_at(addr_t code, const struct machine *in, const u8 *data, struct outcome *ret)
{
	for (size_t i = 0; i + 8 <= STACK_SIZE; i += 8)
		memcpy(stack + i, &callees[0], 8);
	for (size_t i = 0; i < 8; i++) /* call *127(%rsp,%r13), which is aligned to nothing else */
		stack[STACK_SIZE / 2 + 128 + i] = ((const u8 *)callees)[i];
	memcpy(form_data, data, DATA_SIZE);
	mach_in = *in;
	memset(&mach_out, 0, sizeof(mach_out));
	mach_code = code;
	mach_run();
	ret->m = mach_out;
	memset(ret->m.fx + 6, 0, 18); /* opcode and addresses of the last x87 instruction */
	memcpy(ret->stack, stack, STACK_SIZE);
	memcpy(ret->data, form_data, DATA_SIZE);
}

/* The copy as a trampoline has it: with a jump back behind. */
static addr_t make_copy(const struct form *f)
{
	struct emit e = { .addr = (addr_t)copies };
	struct insn in;

	ck_assert_msg(insn_decode(f->code, f->end - f->code, (addr_t)f->code, &in), "%s: not decoded", f->name);
	ck_assert_msg(in.len == f->end - f->code, "%s: %u bytes of %ld", f->name, in.len, (long)(f->end - f->code));
	if (relocate_refusal(f->code, &in))
		return 0;
	relocate_insn(&e, f->code, &in);
	put_jmp(&e, (addr_t)f->end);
	ck_assert_msg(e.failed == EMIT_OK && e.n <= RELOCATE_MAX + 5, "%s", f->name);
	ck_assert_int_eq(mprotect(copies, PAGE, PROT_READ | PROT_WRITE), 0);
	memset(copies, 0xcc, PAGE);
	memcpy(copies, e.buf, e.n);
	ck_assert_int_eq(mprotect(copies, PAGE, PROT_READ | PROT_EXEC), 0);
	emit_deinit(&e);
	return (addr_t)copies;
}

static void compare(const struct form *f, const struct outcome *a, const struct outcome *b)
{
	ck_assert_msg(a->m.place == b->m.place, "%s: ends at %lu, the copy at %lu", f->name, (long)a->m.place,
		      (long)b->m.place);
	for (int i = 0; memcmp(a->m.r, b->m.r, sizeof(a->m.r)) && i < 16; i++)
		ck_assert_msg(a->m.r[i] == b->m.r[i], "%s: register %d is %#lx, the copy's %#lx", f->name, i,
			      (long)a->m.r[i], (long)b->m.r[i]);
	ck_assert_msg(a->m.flags == b->m.flags, "%s: flags %#lx, the copy's %#lx", f->name, (long)a->m.flags,
		      (long)b->m.flags);
	ck_assert_msg(!memcmp(a->m.fx, b->m.fx, sizeof(a->m.fx)), "%s: x87 or xmm differ", f->name);
	ck_assert_msg(!memcmp(a->m.ymm, b->m.ymm, sizeof(a->m.ymm)), "%s: ymm differ", f->name);
	ck_assert_msg(!memcmp(a->data, b->data, DATA_SIZE), "%s: memory differs", f->name);
	for (size_t i = 0; memcmp(a->stack, b->stack, STACK_SIZE) && i < STACK_SIZE; i += 8)
		ck_assert_msg(!memcmp(a->stack + i, b->stack + i, 8), "%s: stack differs at rsp%+ld", f->name,
			      (long)i - STACK_SIZE / 2);
}

/* A page within reach of the forms, but far. */
static void setup(void)
{
	for (addr_t at = ALIGN_DOWN((addr_t)forms_start, PAGE) - (256ul << 20);; at -= 1ul << 20) {
		copies = mmap((void *)at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			      -1, 0);
		if (copies == (u8 *)at)
			break;
	}
	for (size_t i = 0; i < ARRAY_SIZE(callees); i++)
		callees[i] = (u64)form_callee;
	mach_avx = __builtin_cpu_supports("avx");
}

#define ROUNDS 24

START_TEST(all_forms)
{
	unsigned ran = 0, skipped = 0, places[4] = {};
	static struct outcome original, copy;

	setup();
	srandom(1);
	for (const struct form *f = forms_start; f < forms_stop; f++) {
		addr_t at = make_copy(f);

		ck_assert_msg(at, "%s: refused", f->name);
		if (!has(f->feature)) {
			skipped++;
			continue;
		}
		for (unsigned round = 0; round < ROUNDS; round++) {
			struct machine in;
			u8 data[DATA_SIZE];

			random_machine(&in, round);
			fill_random(data, sizeof(data));
			run_at((addr_t)f->code, &in, data, &original);
			run_at(at, &in, data, &copy);
			compare(f, &original, &copy);
			ck_assert_msg(original.m.place >= 1 && original.m.place <= 3, "%s: lost", f->name);
			places[original.m.place]++;
		}
		ran++;
	}
	printf("# %u forms run %d times beside their copies (%u not known to this CPU); %u fell through, %u branched, "
	       "%u called or returned\n", ran, ROUNDS, skipped, places[1], places[2], places[3]);
	ck_assert_uint_gt(ran, 350);
	ck_assert_uint_gt(places[2], 500);
	ck_assert_uint_gt(places[3], 300);
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("relocate_run");

	tcase_add_test(tc, all_forms);
	return run_case("relocate_run", tc);
}
