/* SPDX-License-Identifier: MIT */
/* Functions: static ones are verified in each call, global ones once and for
 * any arguments of their types; frames, and the stack of a chain of calls. */

#define CALLS(n, ...) CALL_LOCAL(n), __VA_ARGS__
/* main: calls the function behind with r1 as it is; gives back what it gives */
#define MAIN CALL_LOCAL(1), EXIT

static const struct row subprogs[] = {
	PAIR("call", "call to invalid destination", CALL_LOCAL(1), CALL_LOCAL(9), X, EXIT, MOV_IMM(R0, 1), EXIT),
	PAIR("call of the middle", "last insn is not an exit or jmp", CALL_LOCAL(2), CALL_LOCAL(3), X, MOV_IMM(R0, 0), EXIT, LD_IMM64(R0, 1), EXIT),
	PAIR("r0 of a function", "R0 !read_ok", MOV_IMM(R0, 0), MOV_IMM(R2, 0), MAIN, X, EXIT),
	PAIR("arguments are passed", "R2 !read_ok", MOV_REG(R0, R1), MOV_REG(R0, R2), MOV_IMM(R1, 1), MAIN, X, EXIT),
	PAIR("r6 is not passed", "R6 !read_ok", MOV_REG(R0, R1), MOV_REG(R0, R6), MOV_IMM(R6, 1), MAIN, X, EXIT),
	PAIR("r6 is kept", "R7 !read_ok", MOV_REG(R0, R6), MOV_REG(R0, R7), MOV_IMM(R6, 1), CALL_LOCAL(2), X, EXIT, MOV_IMM(R6, 5),
	     RETURN),
	PAIR("r1 is lost", "R1 !read_ok", MOV_IMM(R0, 0), MOV_REG(R0, R1), MOV_IMM(R1, 1), CALL_LOCAL(2), X, EXIT, RETURN),
	PAIR("range of an argument", "R2 max value is outside", ALU64_IMM(BPF_AND, R1, 63), ALU64_IMM(BPF_AND, R1, 127), UNKNOWN(R1), X, MAIN,
	     LD_VALUE(R2, M_BSS, 192), ALU64_REG(BPF_ADD, R2, R1), LOAD(B, R0, R2, 0), EXIT),
	PAIR("range of a result", "R2 max value is outside", ALU64_IMM(BPF_AND, R0, 63), ALU64_IMM(BPF_AND, R0, 64), CALL_LOCAL(5),
	     LD_VALUE(R2, M_BSS, 192), ALU64_REG(BPF_ADD, R2, R0), LOAD(B, R0, R2, 0), EXIT, CALL(BPF_FUNC_ktime_get_ns), X,
	     EXIT),
	PAIR("an address as a result", "cannot return stack pointer to the caller", MOV_REG(R0, R1), MOV_REG(R0, FP), CALL_LOCAL(2), LOAD(DW, R0, R0, 0), EXIT,
	     X, EXIT),
	PAIR("stack of the caller", "invalid write to stack R1 off=0 size=8", STORE_IMM(DW, R1, 0, 1), STORE_IMM(DW, R1, 8, 1), ADDR(R1, -8), CALL_LOCAL(2),
	     LOAD(DW, R0, FP, -8), EXIT, X, RETURN),
	PAIR("stack of the caller, below", "invalid write to stack R1 off=-520 size=8", STORE_IMM(DW, R1, -504, 1), STORE_IMM(DW, R1, -512, 1), ADDR(R1, -8),
	     CALL_LOCAL(1), EXIT, X, RETURN),
	PAIR("stack of the caller, a pointer spilled", "R1 invalid mem access 'scalar'", STORE(DW, R1, 0, R2), STORE_IMM(DW, R1, 0, 0), MOV_REG(R2, R1),
	     ADDR(R1, -8), CALL_LOCAL(3), LOAD(DW, R1, FP, -8), LOAD(DW, R0, R1, 0), EXIT, X, RETURN),
	PAIR("a pointer to a stack that is gone", "cannot spill pointers to stack into stack frame of the caller", MOV_IMM(R2, 0), STORE(DW, R1, 0, FP), ADDR(R1, -8), CALL_LOCAL(2), MOV_IMM(R0, 0),
	     EXIT, X, RETURN),
	PAIR("own stack is not the caller's", "R1 invalid mem access 'scalar'", LOAD(DW, R1, R1, 0), LOAD(DW, R1, FP, -8), MOV_REG(R2, R1),
	     STORE(DW, FP, -8, R2), ADDR(R1, -8), MAIN, X, LOAD(DW, R0, R1, 0), EXIT),
	PAIR("context through a function", "invalid bpf_context access off=168 size=8", LOAD(DW, R0, R1, 112), LOAD(DW, R0, R1, 168), MAIN, X, EXIT),
	PAIR("null check in the caller", "R1 invalid mem access 'map_value_or_null'", JUMP_IMM(BPF_JEQ, R0, 0, 2), MOV_IMM(R7, 0), KEY8, LD_MAP(R1, M_HASH),
	     CALL(BPF_FUNC_map_lookup_elem), X, MOV_REG(R1, R0), CALL_LOCAL(2), RETURN, LOAD(DW, R0, R1, 0), EXIT),
	PAIR("null check in the function", "R1 invalid mem access 'map_value_or_null'", JUMP_IMM(BPF_JEQ, R1, 0, 1), MOV_IMM(R7, 0), KEY8, LD_MAP(R1, M_HASH),
	     CALL(BPF_FUNC_map_lookup_elem), MOV_REG(R1, R0), CALL_LOCAL(2), RETURN, MOV_IMM(R0, 0), X,
	     LOAD(DW, R0, R1, 0), EXIT),
	PAIR("null check by a function for the caller's copy", "R6 invalid mem access 'scalar'", JUMP_IMM(BPF_JEQ, R0, 0, 1), JUMP_IMM(BPF_JEQ, R0, 1, 1),
	     KEY8, LD_MAP(R1, M_HASH), CALL(BPF_FUNC_map_lookup_elem), MOV_REG(R6, R0), MOV_REG(R1, R0), CALL_LOCAL(4), X,
	     LOAD(DW, R0, R6, 0), RETURN, MOV_IMM(R0, 1), JUMP_IMM(BPF_JNE, R1, 0, 1), MOV_IMM(R0, 0), EXIT),
	PAIR("jump between functions", "jump out of range from insn 2 to 4", JUMP(0), JUMP(1), MOV_IMM(R1, 0), CALL_LOCAL(2), X, EXIT, MOV_IMM(R0, 0), EXIT),
	PAIR("fall into a function", "last insn is not an exit or jmp", EXIT, MOV_IMM(R0, 0), MOV_IMM(R1, 0), CALL_LOCAL(1), X, MOV_IMM(R0, 0), EXIT),
	PAIR("a function never called", "unreachable insn 2", CALL_LOCAL(1), MOV_IMM(R0, 0), X, EXIT, MOV_IMM(R0, 0), EXIT),
	PAIR("calls itself", "the call stack of 9 frames is too deep", MOV_IMM(R0, 0), CALL_LOCAL(-1), MAIN, X, EXIT),
	PAIR("calls each other", "the call stack of 9 frames is too deep", MOV_IMM(R0, 0), CALL_LOCAL(-3), MAIN, CALL_LOCAL(1), EXIT, X, EXIT),
	PAIR("different arguments each time", "R2 min value is outside", MOV_IMM(R1, 63), MOV_IMM(R1, 64), MOV_IMM(R1, 0), CALL_LOCAL(3), X,
	     CALL_LOCAL(1), EXIT, LD_VALUE(R2, M_BSS, 192), ALU64_REG(BPF_ADD, R2, R1), LOAD(B, R0, R2, 0), EXIT),
	PAIR("called in a loop", "old state: frame1: R10=fp0", ADD(R6, 1), ADD(R6, 0), MOV_IMM(R6, 0), CALL_LOCAL(4), X, JUMP_IMM(BPF_JLT, R6, 5, -3),
	     RETURN, MOV_IMM(R0, 0), EXIT),
	PAIR("a function that does not end", "old state: frame1: R0=P0 R1=ctx() R10=fp0", JUMP_IMM(BPF_JEQ, R0, 1, -1), JUMP_IMM(BPF_JEQ, R0, 0, -1), MAIN,
	     MOV_IMM(R0, 0), X, EXIT),
	PAIR("unset argument is passed, but not used", "R5 !read_ok", MOV_IMM(R0, 0), MOV_REG(R0, R5), MAIN, X, EXIT),
	PAIR("tail call in a function", "R3 !read_ok", MOV_IMM(R3, 0), MOV_IMM(R4, 0), MAIN, LD_MAP(R2, M_PROGS), X,
	     CALL(BPF_FUNC_tail_call), RETURN),
	PAIR("r0 unset after a call of a function that sets it", "R3 !read_ok", MOV_REG(R0, R0), MOV_REG(R0, R3), CALL_LOCAL(2), X, EXIT,
	     RETURN),
};

/* Stack of a chain of calls, and how deep it may go. */
static const struct row depth[] = {
#define DEEP(o) STORE_IMM(DW, FP, o, 0)
/* main: as MAIN, and a tail call, with which the kernel gives no function a stack of its own */
#define TAILED \
	MOV_REG(R6, R1), CALL_LOCAL(7), MOV_REG(R1, R6), LD_MAP(R2, M_PROGS), MOV_IMM(R3, 0), CALL(BPF_FUNC_tail_call), RETURN
#define CHAIN "a chain of calls has 512 bytes of stack: no function has a private one"
	PAIR("two frames", "combined stack size of 2 calls is 528. Too large", DEEP(-256), DEEP(-264), DEEP(-256), TAILED, X, RETURN),
	PAIR("rounded to 16", "combined stack size of 2 calls is 528. Too large", DEEP(-240), DEEP(-248), DEEP(-264), TAILED, X, RETURN),
	PAIR("a small frame counts", "combined stack size of 2 calls is 528. Too large", DEEP(-8), DEEP(-24), DEEP(-496), TAILED, X, RETURN),
	STRICT("private stacks", CHAIN, DEEP(-256), MAIN, DEEP(-264), RETURN),
	STRICT("private stacks, three", CHAIN, DEEP(-160), MAIN, DEEP(-176), CALL_LOCAL(1), EXIT, DEEP(-192), RETURN),
	PAIR("two that are not in one chain", "last insn is not an exit or jmp", CALL_LOCAL(4), CALL_LOCAL(2), DEEP(-128), CALL_LOCAL(2), X, EXIT, DEEP(-320), RETURN,
	     DEEP(-320), RETURN),
	PAIR("three frames", "combined stack size of 3 calls is 528. Too large", DEEP(-160), DEEP(-192), DEEP(-160), TAILED, DEEP(-176), CALL_LOCAL(1), EXIT, X, RETURN),
	PAIR("by a helper's memory", "combined stack size of 2 calls is 528. Too large", ADD(R1, -256), ADD(R1, -264), DEEP(-256), TAILED, MOV_REG(R1, FP), X,
	     MOV_IMM(R2, 8), MOV_IMM(R3, 0), CALL(BPF_FUNC_probe_read_user), RETURN),
	PAIR("tail call above too much stack", "tail_calls are not allowed when call stack of previous frames is 256 bytes. Too large", DEEP(-240), DEEP(-248), X, MAIN, LD_MAP(R2, M_PROGS), MOV_IMM(R3, 0),
	     CALL(BPF_FUNC_tail_call), RETURN),
#define NEXT CALL_LOCAL(1), EXIT
	PAIR("eight frames", "the call stack of 9 frames is too deep", MOV_IMM(R0, 0), CALL_LOCAL(1), CALL_LOCAL(16), CALL_LOCAL(1), EXIT, NEXT, NEXT, NEXT, NEXT,
	     NEXT, NEXT, X, EXIT, MOV_IMM(R0, 0), EXIT),
};

#define FPAIR(funcs_, name_, words_, good_, bad_, ...) \
	{ .name = name_, .words = words_, .good = { good_ }, .bad = { bad_ }, .insns = { __VA_ARGS__ }, .funcs = funcs_ }

static const struct row globals[] = {
	FPAIR(FUNC_GLOBAL_INT, "any number may come", "R2 max value is outside", JUMP_IMM(BPF_JLE, R1, 63, 1), JUMP_IMM(BPF_JLE, R1, 64, 1), MOV_IMM(R1, 1), MAIN,
	      MOV_IMM(R0, 0), X, EXIT, LD_VALUE(R2, M_BSS, 192), ALU64_REG(BPF_ADD, R2, R1), LOAD(B, R0, R2, 0), EXIT),
	FPAIR(FUNC_GLOBAL_INT, "what is passed does not count", "R1 invalid mem access 'scalar'", MOV_IMM(R0, 0), LOAD(DW, R0, R1, 0), MOV_IMM(R1, 0), MAIN,
	      X, EXIT),
	FPAIR(FUNC_GLOBAL_INT, "an address for a number", "Caller passes invalid args into func#1 ('global_int')", MOV_IMM(R1, 0), MOV_REG(R1, FP), X, MAIN, RETURN),
	FPAIR(FUNC_GLOBAL_INT, "an argument that is not set", "Caller passes invalid args into func#1 ('global_int')", MOV_IMM(R1, 0), MOV_IMM(R2, 0), MOV_REG(R6, R1),
	      CALL(BPF_FUNC_ktime_get_ns), X, MAIN, RETURN),
	FPAIR(FUNC_GLOBAL_INT, "a result is any number", "math between map_value pointer and register with unbounded min value is not allowed", ALU64_IMM(BPF_AND, R0, 63), ADD(R0, 0), MOV_IMM(R1, 0), CALL_LOCAL(6), X,
	      LD_VALUE(R2, M_BSS, 192), ALU64_REG(BPF_ADD, R2, R0), LOAD(B, R0, R2, 0), EXIT, RETURN),
	FPAIR(FUNC_GLOBAL_INT, "a result is set", "R0 !read_ok", MOV_IMM(R0, 1), MOV_IMM(R2, 1), MOV_IMM(R1, 0), MAIN, X, EXIT),
	FPAIR(FUNC_GLOBAL_INT, "a result is no address", "At subprogram exit the register R0 is not a scalar value (fp)", MOV_IMM(R0, 0), MOV_REG(R0, FP), MOV_IMM(R1, 0), MAIN, X, EXIT),
	FPAIR(FUNC_GLOBAL_INT, "another argument than it has", "R2 !read_ok", MOV_REG(R0, R1), MOV_REG(R0, R2), MOV_IMM(R1, 0), MOV_IMM(R2, 0), MAIN, X,
	      EXIT),
	FPAIR(FUNC_GLOBAL_MEM, "memory is checked for null", "R1 invalid mem access 'mem_or_null'", JUMP_IMM(BPF_JEQ, R1, 0, 1), JUMP_IMM(BPF_JEQ, R1, 1, 1),
	      STORE_IMM(DW, FP, -8, 0), ADDR(R1, -8), MAIN, MOV_IMM(R0, 0), X, LOAD(W, R0, R1, 0), EXIT),
	FPAIR(FUNC_GLOBAL_MEM, "size of the memory", "R1 min value is outside", LOAD(W, R0, R1, 0), LOAD(W, R0, R1, 4), STORE_IMM(DW, FP, -8, 0), ADDR(R1, -8),
	      MAIN, JUMP_IMM(BPF_JEQ, R1, 0, 1), X, RETURN),
	FPAIR(FUNC_GLOBAL_MEM, "memory that is large enough", "Caller passes invalid args into func#1 ('global_mem')", ADD(R1, -4), ADD(R1, -2), STORE_IMM(DW, FP, -8, 0), MOV_REG(R1, FP), X,
	      MAIN, RETURN),
	FPAIR(FUNC_GLOBAL_MEM, "null for memory", "Caller passes invalid args into func#1 ('global_mem')", MOV_IMM(R1, 0), MOV_IMM(R1, 1), X, MAIN, RETURN),
	FPAIR(FUNC_GLOBAL_MEM, "a value for memory", "Caller passes invalid args into func#1 ('global_mem')", ADD(R1, 60), ADD(R1, 61), VALUE4(M_ARRAY), MOV_REG(R1, R0), X, MAIN, RETURN),
	FPAIR(FUNC_GLOBAL_MEM, "the context for memory", "Caller passes invalid args into func#1 ('global_mem')", MOV_IMM(R1, 0), ADD(R1, 0), X, MAIN, RETURN),
	FPAIR(FUNC_GLOBAL_MEM, "a number was written", "R6 invalid mem access 'scalar'", LOAD(W, R0, FP, -4), LOAD(DW, R0, R6, 0), STORE_IMM(W, FP, -4, 0), MOV_REG(R6, R1),
	      ADDR(R1, -4), CALL_LOCAL(4), LOAD(W, R6, FP, -4), X, RETURN, JUMP_IMM(BPF_JEQ, R1, 0, 1), STORE_IMM(W, R1, 0, 77), RETURN),
	FPAIR(FUNC_GLOBAL_CTX, "context", "invalid bpf_context access off=168 size=8", LOAD(DW, R0, R1, 112), LOAD(DW, R0, R1, 168), MAIN, X, EXIT),
	FPAIR(FUNC_GLOBAL_CTX, "a number for the context", "Caller passes invalid args into func#1 ('global_ctx')", MOV_REG(R1, R6), MOV_IMM(R1, 0), MOV_REG(R6, R1), X, MAIN, RETURN),
	FPAIR(FUNC_GLOBAL_CTX, "a moved context", "Caller passes invalid args into func#1 ('global_ctx')", ADD(R1, 0), ADD(R1, 8), X, MAIN, RETURN),
	{ .name = "no result", .words = "Caller passes invalid args into func#1 ('global_void')", .verdict = VERDICT_POLICY, .funcs = FUNC_GLOBAL_VOID,
	  .insns = { CALL_LOCAL(2), RETURN, RETURN } },
	FPAIR(FUNC_GLOBAL_TWO, "two arguments", "Caller passes invalid args into func#1 ('global_two')", MOV_IMM(R2, 0), MOV_REG(R2, FP), MOV_IMM(R1, 0), X, MAIN, MOV_REG(R0, R1),
	      ALU64_REG(BPF_ADD, R0, R2), EXIT),
	FPAIR(FUNC_GLOBAL_INT, "recursion", "the call stack of 8 frames is too deep !", MOV_IMM(R0, 0), CALL_LOCAL(-1), MOV_IMM(R1, 0), MAIN, X, EXIT),
	FPAIR(FUNC_GLOBAL_INT, "wrong, though never called with it", "R2 invalid mem access 'scalar'", MOV_IMM(R2, 0), LOAD(DW, R2, R2, 0), MOV_IMM(R1, 7),
	      MAIN, MOV_IMM(R2, 0), JUMP_IMM(BPF_JNE, R1, 5, 1), X, RETURN),
};
