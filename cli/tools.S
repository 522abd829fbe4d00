/* SPDX-License-Identifier: MIT */
/* The built-in BPF objects as bytes; see tools.h. */
	.section .rodata
	.macro tool name, file
	.global tool_\name, tool_\name\()_end
	.balign 8
tool_\name:
	.incbin "\file"
tool_\name\()_end:
	.byte 0
	.endm

	tool count, "count.bpf.o"
	tool latency, "latency.bpf.o"
	tool stacks, "stacks.bpf.o"

	.section .note.GNU-stack, "", @progbits
