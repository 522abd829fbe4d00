/* SPDX-License-Identifier: MIT */
/*
 * Victims in assembly, so that each has exactly the bytes that its case is
 * about. All of them may be called with any register contents but for what the
 * driver sets: rdi is small, rcx is the address of v_leaf.
 */
#include "asm_victims.h"

#include <stdlib.h>
#include <string.h>

#define BEGIN(name) ".p2align 4\n.globl " #name "\n.hidden " #name "\n" #name ":\n"
#define END(name) ".globl " #name "_end\n.hidden " #name "_end\n" #name "_end:\n"

asm(".section victims_ro,\"a\",@progbits\n"
    ".p2align 3\n"
    "v_number: .quad 0x1122334455667788\n"
    "v_pointer: .quad 0\n"
    "v_switch_table: .long v_sw1 - v_switch_table, v_sw2 - v_switch_table, v_sw3 - v_switch_table,"
    " v_strays_end - v_switch_table, v_sw2 - v_switch_table\n"
    ".zero 64\n v_strays_table: .long v_st1 - v_strays_table, v_strays_end - v_strays_table, v_strays_in - v_strays_table\n"
    "v_badtable_table: .long v_badtable_in - v_badtable_table, v_bt4 - v_badtable_table\n"
    ".section victims_text,\"ax\",@progbits\n"
    BEGIN(v_plain)
    "push %rbp\n mov %rsp, %rbp\n lea (%rdi,%rsi), %rax\n pop %rbp\n ret\n" END(v_plain)
    BEGIN(v_leaf) "lea 3(%rdi), %rax\n ret\n" END(v_leaf)
    BEGIN(v_where) "mov (%rsp), %rax\n ret\n" END(v_where)
    BEGIN(v_short) "mov %edi, %eax\n ret\n" END(v_short)
    BEGIN(v_ret) "ret\n" END(v_ret)
    BEGIN(v_repret) "lea 1(%rdi), %rax\n rep ret\n" END(v_repret)
    BEGIN(v_retn) "lea 2(%rsi), %rax\n ret $16\n" END(v_retn)
    BEGIN(v_jcc) "test %r8b, %r8b\n js 1f\n lea 1(%rsi), %rax\n ret\n1: lea 2(%rdx), %rax\n ret\n" END(v_jcc)
    BEGIN(v_call) "call v_where\n add %rdi, %rax\n ret\n" END(v_call)
    BEGIN(v_call_reg) "sub $8, %rsp\n call *%rcx\n add $8, %rsp\n ret\n" END(v_call_reg)
    BEGIN(v_call_mem) "push %rbx\n push %rcx\n call *(%rsp)\n pop %rcx\n pop %rbx\n ret\n" END(v_call_mem)
    BEGIN(v_call_far_mem) "push %rcx\n call *127-127(%rsp)\n pop %rcx\n ret\n" END(v_call_far_mem)
    BEGIN(v_riprel) "mov v_number(%rip), %rax\n add %rdi, %rax\n ret\n" END(v_riprel)
    BEGIN(v_selfloop) "inc %rax\n dec %rdi\n jnz v_selfloop\n add %rsi, %rax\n ret\n" END(v_selfloop)
    BEGIN(v_jrcxz) "jrcxz 1f\n lea 1(%rsi), %rax\n nop\n nop\n nop\n nop\n nop\n ret\n1: xor %eax, %eax\n"
		   " nop\n nop\n nop\n nop\n nop\n ret\n" END(v_jrcxz)
    BEGIN(v_recurse) "cmp $1, %rdi\n jle 1f\n push %rdi\n dec %rdi\n call v_recurse\n pop %rdi\n"
		     " add %rdi, %rax\n ret\n1: mov $1, %eax\n ret\n" END(v_recurse)
    BEGIN(v_tail) "add $5, %rdi\n jmp v_plain\n" END(v_tail)
    BEGIN(v_tail_jcc) "test %rdi, %rdi\n jne v_plain\n mov $7, %eax\n ret\n" END(v_tail_jcc)
    BEGIN(v_tail_ptr) "lea 1(%rdi), %rdi\n jmp *%rcx\n" END(v_tail_ptr)
    BEGIN(v_asks) "mov (%rsp), %rdx\n lea 1(%rdi), %rdi\n jmp *%rcx\n" END(v_asks)
    BEGIN(v_jumped) "xor %eax, %eax\nv_jumped_in: add $1, %rax\n cmp $10, %rax\n jb v_jumped_in\n ret\n"
		    " nop\n nop\n nop\n nop\n" END(v_jumped)
    BEGIN(v_pun3) "mov %rdi, %rax\nv_pun3_in: add $1, %rax\n cmp $16, %rax\n jl v_pun3_in\n ret\n nop\n nop\n nop\n nop\n"
		  END(v_pun3)
    BEGIN(v_pun_two) "push %rbx\n push %rcx\n pop %rcx\nv_pun_two_in: add $1, %edi\n cmp $8, %edi\n jl v_pun_two_in\n"
		     " pop %rbx\n mov %edi, %eax\n ret\n nop\n nop\n nop\n nop\n" END(v_pun_two)
    BEGIN(v_pun_endbr) "endbr64\nv_pun_endbr_in: sub $1, %edi\n jnz v_pun_endbr_in\n mov %rsi, %rax\n ret\n nop\n nop\n"
		       " nop\n nop\n" END(v_pun_endbr)
    /* the data begins an instruction that goes on to the end: the jump back is hidden in it */
    BEGIN(v_swallowed) "test %rdi, %rdi\nv_swallowed_in: lea 1(%rsi), %rax\n jmp 1f\n .byte 0x48, 0xb8\n"
		       "1: dec %rdi\n jg v_swallowed_in\n ret\n nop\n nop\n" END(v_swallowed)
    BEGIN(v_inside) "lea 9(%rdi), %rax\n jmp v_inside+2\n" END(v_inside)
    BEGIN(v_keeps_ret) "inc %esi\nv_keeps_ret_in: dec %esi\n ret\n nop\n jmp v_keeps_ret_in\n" END(v_keeps_ret)
    BEGIN(v_badtable) "push %rbx\nv_badtable_in: pop %rbx\n lea v_badtable_table(%rip), %rdx\n"
		      " movslq (%rdx,%rdi,4), %rax\n add %rdx, %rax\n jmp *%rax\nv_bt4: ret\n" END(v_badtable)
    BEGIN(v_switch) "and $3, %edi\n lea v_switch_table(%rip), %rdx\n movslq (%rdx,%rdi,4), %rax\n"
		    " add %rdx, %rax\n notrack jmp *%rax\nv_sw1: mov $1, %eax\n ret\nv_sw2: mov $2, %eax\n ret\n"
		    "v_sw3: mov $3, %eax\n ret\n" END(v_switch)
    BEGIN(v_strays) "push %rbx\nv_strays_in: pop %rbx\n nop\n lea v_strays_table(%rip), %rdx\n"
		    " movslq (%rdx,%rdi,4), %rax\n add %rdx, %rax\n jmp *%rax\nv_st1: ret\n nopl 0(%rax)\n" END(v_strays)
    BEGIN(v_computed) "lea (%rdi,%rsi), %rax\n test %eax, %eax\n je 1f\n jmp *%rax\n1: ret\n" END(v_computed)
    BEGIN(v_redzone) "mov %rdi, -8(%rsp)\n mov %rsi, -16(%rsp)\n mov -8(%rsp), %rax\n sub -16(%rsp), %rax\n ret\n"
		     END(v_redzone)
    BEGIN(v_syscall) "test %rsi, %rsi\n mov $39, %eax\n syscall\n ret\n" END(v_syscall)
    ".globl v_behind\n.hidden v_behind\nv_behind: mov %esi, %eax\n ret\n" END(v_behind)
    BEGIN(v_syscall_first) "xor %eax, %eax\n mov $39, %al\n syscall\n test %eax, %eax\n ret\n" END(v_syscall_first)
    BEGIN(v_flags) "cmp %rsi, %rdx\n ret\n" END(v_flags)
    BEGIN(v_overflow) "mov $0x7f, %al\n add $1, %al\n ret\n" END(v_overflow)
    BEGIN(v_endbr) "endbr64\n lea 9(%rdi), %rax\n ret\n" END(v_endbr)
    BEGIN(v_rax) "add $1, %rax\n ret\n" END(v_rax)
    BEGIN(v_chained) "lea 1(%r10,%r11), %rax\n ret\n" END(v_chained)
    BEGIN(v_split) "test %r9, %r9\n jle v_split_cold\n lea 4(%rdi), %rax\n1: ret\n nop\n nop\n nop\n nop\n" END(v_split)
    BEGIN(v_split_cold) "lea 6(%rdi), %rax\n cmp $3, %rsi\n ja 1b\n ret\n" END(v_split_cold)
    BEGIN(v_redzone_deep) "mov %rdi, -128(%rsp)\n lea -8(%rsp), %rdx\n mov %rsi, (%rdx)\n push %rax\n pop %rax\n"
			   " mov -128(%rsp), %rax\n xor -8(%rsp), %rax\n ret\n" END(v_redzone_deep)
    BEGIN(v_carry) "add %rsi, %rdx\n mov %r8, %rax\n lea 1(%r9), %rcx\n adc %r10, %rax\n mov %r11, %r9\n"
		   " cmovo %rcx, %rdx\n sbb %rax, %r9\n setp %sil\n rcr $1, %rax\n ret\n" END(v_carry)
    BEGIN(v_backward) "lea -16(%rsp), %rdi\n mov %rsi, -16(%rsp)\n mov %rdx, -24(%rsp)\n std\n xchg %rdi, %rsi\n"
		      " lodsq\n mov %rax, %r8\n mov %rsi, %r9\n lodsq\n cld\n sub %r8, %rax\n ret\n" END(v_backward)
    BEGIN(v_unaligned) "push %rbx\n mov %rsp, %rbx\n sub $3, %rsp\n mov %rsi, 3(%rsp)\n lea 1(%rsp), %rcx\n"
		       " push %rdi\n pop %rax\n add (%rbx), %rax\n mov %rbx, %rsp\n pop %rbx\n ret\n" END(v_unaligned)
    BEGIN(v_data) "lea v_data_table(%rip), %rdx\n and $1, %edi\n mov (%rdx,%rdi,4), %eax\n jmp 1f\n"
		  "v_data_table: .long 0x05c0c748, 0xc310b848\n1: add %rsi, %rax\n test %eax, %eax\n je 2f\n"
		  " lea 1(%rax), %rax\n2: ret\n nop\n nop\n nop\n nop\n" END(v_data)
    BEGIN(v_prefix) "lea -8(%rsp), %rdx\n mov %rdi, (%rdx)\n test %rsi, %rsi\n js 1f\n .byte 0xf0\n1: addq %rsi, (%rdx)\n"
		    " mov (%rdx), %rax\n nop\n nop\n ret\n" END(v_prefix)
    BEGIN(v_pushed) "call 1f\n .quad 0x1122c310\n1: pop %rax\n mov (%rax), %rax\n add %rdi, %rax\n ret\n" END(v_pushed)
    BEGIN(v_never) "push %rax\n sub $24, %rsp\n call v_leaf\n ud2\n" END(v_never)
    BEGIN(v_trap) "int3\n mov $1, %eax\n ret\n" END(v_trap)
    BEGIN(v_tight) "xor %eax, %eax\n test %r8, %r8\n js 1f\n ret\n1: ret\n.globl v_after\n" END(v_tight)
    ".hidden v_after\nv_after: mov %edi, %eax\n ret\n" END(v_after)
    BEGIN(v_crammed) "ret\n" END(v_crammed)
    ".globl v_crammed_next\n.hidden v_crammed_next\nv_crammed_next: mov %esi, %eax\n ret\n" END(v_crammed_next)
    BEGIN(v_fallthrough) "mov %rdi, %rax\n add $1, %rax\n" END(v_fallthrough)
    ".globl v_fallen\n.hidden v_fallen\nv_fallen: add $1, %rax\n ret\n" END(v_fallen)
    BEGIN(v_sigreturn) "mov $15, %rax\n syscall\n" END(v_sigreturn)
    BEGIN(v_plt_user) "add $1, %rdi\n jmp 1f\n" END(v_plt_user) ".p2align 4\n1: .byte 0xf2\n jmp *v_pointer(%rip)\n"
    BEGIN(setjmp) "lea 1(%rdi), %rax\n ret\n" END(setjmp)
    ".p2align 4\n.text\n");

#define DECLARE(name) extern const u8 name[], name##_end[] __attribute__((visibility("hidden")));
#define ALL(X)                                                                                         \
	X(v_plain) X(v_leaf) X(v_where) X(v_short) X(v_ret) X(v_repret) X(v_retn) X(v_jcc) X(v_call)   \
	X(v_call_reg) X(v_call_mem) X(v_call_far_mem) X(v_riprel) X(v_selfloop) X(v_jrcxz)             \
	X(v_recurse) X(v_tail) X(v_tail_jcc) X(v_tail_ptr) X(v_asks) X(v_jumped) X(v_pun3) X(v_pun_two) X(v_pun_endbr) X(v_swallowed) X(v_inside) X(v_keeps_ret) X(v_badtable) X(v_switch) X(v_strays) \
	X(v_computed) X(v_redzone) X(v_syscall) X(v_behind) X(v_syscall_first) X(v_flags) X(v_overflow) X(v_endbr) \
	X(v_rax) X(v_chained) X(v_split) X(v_split_cold) X(v_redzone_deep) X(v_carry) X(v_backward) X(v_unaligned) \
	X(v_data) X(v_prefix) X(v_pushed) X(v_never) X(v_trap) X(v_tight) X(v_after)    \
	X(v_crammed) X(v_crammed_next) X(v_fallthrough) X(v_fallen)            \
	X(v_sigreturn) X(v_plt_user)
ALL(DECLARE)
extern const u8 v_setjmp[] asm("setjmp") __attribute__((visibility("hidden")));
extern const u8 v_setjmp_end[] asm("setjmp_end") __attribute__((visibility("hidden")));
extern const u8 text_start[] asm("__start_victims_text") __attribute__((visibility("hidden")));
extern const u8 text_stop[] asm("__stop_victims_text") __attribute__((visibility("hidden")));
extern const u8 ro_start[] asm("__start_victims_ro") __attribute__((visibility("hidden")));
extern const u8 ro_stop[] asm("__stop_victims_ro") __attribute__((visibility("hidden")));

#define V(n) .name = #n, .code = n, .end = n##_end
#define OK_ENTRY .entry = SITE_JUMP
#define PUNNED(n) .entry = SITE_PUN, .punned = (n)
#define OK_EXIT(n) .exit = SITE_RET, .nrets = (n)
#define TAIL(why) .exit = SITE_TAIL, .exit_note = (why)
#define TAKEOVER(why) .exit = SITE_ENTRY_TAKEOVER, .exit_note = (why)
#define HITS(e, x) .entries = (e), .exits = (x)

/* By address, as they stand above. */
const struct asm_victim asm_victims[] = {
	{ V(v_plain), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_leaf), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_where), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_short), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_ret), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_repret), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_retn), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_jcc), OK_ENTRY, OK_EXIT(2), HITS(1, 1) },
	{ V(v_call), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_call_reg), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_call_mem), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_call_far_mem), PUNNED(4), OK_EXIT(1), HITS(1, 1) },
	{ V(v_riprel), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_selfloop), OK_ENTRY, OK_EXIT(1), HITS(4, 1) },
	{ V(v_jrcxz), OK_ENTRY, OK_EXIT(2), HITS(1, 1) },
	{ V(v_recurse), OK_ENTRY, OK_EXIT(2), HITS(4, 4) },
	{ V(v_tail), OK_ENTRY, TAIL("ends by jumping to v_plain"), HITS(1, 1) },
	{ V(v_tail_jcc), OK_ENTRY, TAIL("ends by jumping to v_plain"), .nrets = 1, HITS(1, 1) },
	{ V(v_tail_ptr), OK_ENTRY, TAKEOVER("may end by jumping to an address that it computes"), HITS(1, 1) },
	{ V(v_asks), OK_ENTRY, HITS(1, 0),
	  .exit_reason = "may end by jumping to an address that it computes, and looks at its return address" },
	{ V(v_jumped), PUNNED(2), OK_EXIT(1), HITS(1, 1) },
	{ V(v_pun3), PUNNED(3), OK_EXIT(1), HITS(1, 1) },
	{ V(v_pun_two), PUNNED(3), OK_EXIT(1), HITS(1, 1) },
	{ V(v_pun_endbr), PUNNED(4), OK_EXIT(1), HITS(1, 1) },
	{ V(v_swallowed), PUNNED(3), OK_EXIT(1), HITS(1, 1) },
	{ V(v_inside), .entry_reason = "a jump lands inside its first 5 bytes", .exit_reason = "runs on into what follows it, and cannot be probed at its entry" },
	{ V(v_keeps_ret), PUNNED(2), TAKEOVER("its return at +0x4 is too near to a jump target"), .nrets = 1, HITS(1, 1) },
	{ V(v_badtable), PUNNED(1), OK_EXIT(1) },
	{ V(v_switch), OK_ENTRY, OK_EXIT(3), HITS(1, 1) },
	{ V(v_strays), PUNNED(1), OK_EXIT(1) },
	{ V(v_computed), OK_ENTRY, TAKEOVER("may end by jumping to an address that it computes"), .nrets = 1 },
	{ V(v_redzone), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_syscall), OK_ENTRY, OK_EXIT(1), HITS(1, 1), .syscalls = true },
	{ V(v_behind), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_syscall_first), OK_ENTRY, OK_EXIT(1), HITS(1, 1), .syscalls = true },
	{ V(v_flags), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_overflow), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_endbr), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_rax), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_chained), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_split), OK_ENTRY, OK_EXIT(2), HITS(1, 1) },
	{ V(v_split_cold), .flags = CODE_FUNC_FRAGMENT, .entry_reason = "is a cold part of another function",
	  .exit_reason = "is a cold part of another function", .nrets = 1 },
	{ V(v_redzone_deep), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_carry), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_backward), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_unaligned), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_data), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_prefix), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_pushed), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_never), OK_ENTRY, .exit_reason = "never returns" },
	{ V(v_trap), .entry_reason = "begins with a breakpoint instruction", OK_EXIT(1) },
	{ V(v_tight), OK_ENTRY, TAKEOVER("its return at +0x8 is too near to a jump target"), .nrets = 2, HITS(1, 1) },
	{ V(v_after), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_crammed), .entry_reason = "too short (1 bytes): no room for a jump",
	  .exit_reason = "its return at +0x0 is too near to a jump target, and cannot be probed at its entry", .nrets = 1 },
	{ V(v_crammed_next), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_fallthrough), OK_ENTRY, TAKEOVER("runs on into v_fallen"), HITS(1, 1) },
	{ V(v_fallen), OK_ENTRY, OK_EXIT(1), HITS(1, 1) },
	{ V(v_sigreturn), .entry_reason = "is the return from signal handlers, which unwinders know by its bytes",
	  .exit_reason = "is the return from signal handlers, which unwinders know by its bytes" },
	{ V(v_plt_user), OK_ENTRY, TAIL("ends by jumping to a function of another module") },
	{ .name = "setjmp", .code = v_setjmp, .end = v_setjmp_end, OK_ENTRY,
	  .exit_reason = "returns twice: entry only", .nrets = 1, HITS(1, 0) },
};
const size_t nasm_victims = ARRAY_SIZE(asm_victims);

const struct asm_victim *asm_victim_find(const char *name)
{
	for (size_t i = 0; i < nasm_victims; i++)
		if (!strcmp(asm_victims[i].name, name))
			return &asm_victims[i];
	return NULL;
}

/* All begin with rsp at the return address, and those that end by a jump have it
 * there all the time. */
static bool victims_cfa(const struct code_image *code, addr_t addr, struct code_cfa *ret)
{
	for (size_t i = 0; i < nasm_victims; i++) {
		const struct asm_victim *v = &asm_victims[i];
		addr_t lo = (addr_t)v->code, hi = (addr_t)v->end;

		if (addr < lo || addr >= hi || (addr > lo && v->exit != SITE_TAIL))
			continue;
		*ret = (struct code_cfa){ .lo = lo, .hi = v->exit == SITE_TAIL ? hi : lo + 1, .reg = CODE_CFA_RSP, .off = 8 };
		return true;
	}
	return false;
}

const struct code_image *asm_victims_image(void)
{
	static struct code_func funcs[ARRAY_SIZE(asm_victims)];
	static struct code_range text, rodata;
	static struct code_image image;
	u8 *copy;

	if (image.ntext)
		return &image;
	text = (struct code_range){ .addr = (addr_t)text_start, .size = text_stop - text_start };
	copy = malloc(text.size);
	memcpy(copy, text_start, text.size);
	text.bytes = copy;
	rodata = (struct code_range){ .addr = (addr_t)ro_start, .size = ro_stop - ro_start, .bytes = ro_start };
	for (size_t i = 0; i < nasm_victims; i++)
		funcs[i] = (struct code_func){ .addr = (addr_t)asm_victims[i].code, .name = asm_victims[i].name,
					       .size = asm_victims[i].end - asm_victims[i].code,
					       .flags = asm_victims[i].flags };
	image = (struct code_image){ .text = &text, .ntext = 1, .rodata = &rodata, .nrodata = 1,
				     .funcs = funcs, .nfuncs = nasm_victims, .cfa = victims_cfa };
	return &image;
}
