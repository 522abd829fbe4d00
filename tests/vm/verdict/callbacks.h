/* SPDX-License-Identifier: MIT */
/* Functions that helpers call: bpf_loop and bpf_for_each_map_elem. */

/* The callback follows; r1 is the pass, r2 points to 8 bytes of main's stack. */
#define LOOP(...) \
	STORE_IMM(DW, FP, -8, 0), MOV_IMM(R1, 10), LD_FUNC(R2, 7), ADDR(R3, -8), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN, \
	__VA_ARGS__
/* The callback follows; r1 map, r2 key, r3 value, r4 as r2 above. */
#define EACH(map, ...) \
	STORE_IMM(DW, FP, -8, 0), LD_MAP(R1, map), LD_FUNC(R2, 7), ADDR(R3, -8), MOV_IMM(R4, 0), \
	CALL(BPF_FUNC_for_each_map_elem), RETURN, __VA_ARGS__

static const struct row callbacks[] = {
	PAIR("returns 0 or 1", "At callback return the register R0 has smin=2 smax=2 should have been in [0, 1]", MOV_IMM(R0, 1), MOV_IMM(R0, 2), LOOP(X, EXIT)),
	PAIR("returns a range", "At callback return the register R0 has smin=0 smax=3 should have been in [0, 1]", ALU64_IMM(BPF_AND, R0, 1), ALU64_IMM(BPF_AND, R0, 3),
	     LOOP(CALL(BPF_FUNC_get_prandom_u32), X, EXIT)),
	PAIR("returns no address", "cannot return stack pointer to the caller", MOV_IMM(R0, 0), MOV_REG(R0, R2), LOOP(X, EXIT)),
	PAIR("returns something", "R0 not a scalar value", MOV_IMM(R0, 0), MOV_IMM(R3, 0), LOOP(X, EXIT)),
	PAIR("the pass is a number", "R3 max value is outside", ALU64_IMM(BPF_AND, R1, 63), ALU64_IMM(BPF_AND, R1, 64),
	     LOOP(X, LD_VALUE(R3, M_BSS, 192), ALU64_REG(BPF_ADD, R3, R1), STORE_IMM(B, R3, 0, 1), RETURN)),
	PAIR("the pass is no address", "R3 invalid mem access 'scalar'", MOV_REG(R3, R2), MOV_REG(R3, R1), LOOP(X, LOAD(DW, R0, R3, 0), RETURN)),
	PAIR("its context", "invalid write to stack R2 off=0 size=8", STORE_IMM(DW, R2, 0, 1), STORE_IMM(DW, R2, 8, 1), LOOP(X, RETURN)),
	PAIR("what it changes in main is not known", "R7 min value is outside", MOV_IMM(R3, 0), STORE_IMM(DW, R2, 0, 64),
	     STORE_IMM(DW, FP, -8, 0), MOV_IMM(R1, 10), LD_FUNC(R2, 11), ADDR(R3, -8), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop),
	     LOAD(DW, R6, FP, -8), LD_VALUE(R7, M_BSS, 192), ALU64_REG(BPF_ADD, R7, R6), LOAD(B, R0, R7, 0), EXIT,
	     X, RETURN),
	PAIR("r6 of main", "R6 !read_ok", MOV_IMM(R0, 0), MOV_REG(R0, R6), LOOP(X, EXIT)),
	PAIR("r6 is kept", "R2 !read_ok", MOV_REG(R0, R6), MOV_REG(R0, R2), MOV_IMM(R6, 0), MOV_IMM(R1, 10), LD_FUNC(R2, 6),
	     MOV_IMM(R3, 0), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), X, EXIT, MOV_IMM(R6, 1), RETURN),
	PAIR("no context", "R2 invalid mem access 'scalar'", MOV_IMM(R0, 0), LOAD(DW, R0, R2, 0), MOV_IMM(R1, 10), LD_FUNC(R2, 6), MOV_IMM(R3, 0),
	     MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN, X, RETURN),
	PAIR("the context is on the stack", "R3 type=ctx expected=fp", MOV_IMM(R3, 0), MOV_REG(R3, R6), MOV_REG(R6, R1), MOV_IMM(R1, 10),
	     LD_FUNC(R2, 6), X, MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN, RETURN),
	ACCEPT("flags are looked at later", "when it runs", MOV_IMM(R1, 10), LD_FUNC(R2, 6), MOV_IMM(R3, 0), MOV_IMM(R4, 1),
	     CALL(BPF_FUNC_loop), RETURN, RETURN),
	PAIR("a function is no number", "R2 type=scalar expected=func", LD_FUNC(R2, 6), LD_IMM64(R2, 6), CALL_LOCAL(8), MOV_IMM(R1, 10), X, MOV_IMM(R3, 0),
	     MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN, RETURN),
	PAIR("a function's start", "call to invalid destination", LD_FUNC(R2, 6), LD_FUNC(R2, 99), MOV_IMM(R1, 10), X, MOV_IMM(R3, 0),
	     MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN, RETURN),
	PAIR("a function is no memory", "R2 invalid mem access 'func'", MOV_IMM(R0, 0), LOAD(DW, R0, R2, 0), MOV_IMM(R1, 10), LD_FUNC(R2, 7),
	     MOV_IMM(R3, 0), MOV_IMM(R4, 0), X, CALL(BPF_FUNC_loop), RETURN, RETURN),
	PAIR("a counter that another pass moved", "R4 min value is outside", ALU64_IMM(BPF_AND, R3, 63), ADD(R3, 0),
	     LOOP(LOAD(DW, R3, R2, 0), X, LD_VALUE(R4, M_BSS, 192), ALU64_REG(BPF_ADD, R4, R3), STORE_IMM(B, R4, 0, 1), ADD(R3, 8),
		  STORE(DW, R2, 0, R3), RETURN)),
	ACCEPT("a known number of passes bounds a counter", "passes are verified one by one when they are few",
	       LOOP(LOAD(DW, R3, R2, 0), LD_VALUE(R4, M_BSS, 192), ALU64_REG(BPF_ADD, R4, R3), STORE_IMM(B, R4, 0, 1), ADD(R3, 1),
		    STORE(DW, R2, 0, R3), RETURN)),
	PAIR("a callback that does not end", "old state: frame1: R0=P0 R1=scalar() R2=fp[0]-8 R10=fp0 cb", JUMP_IMM(BPF_JEQ, R0, 1, -1), JUMP_IMM(BPF_JEQ, R0, 0, -1),
	     LOOP(MOV_IMM(R0, 0), X, EXIT)),
	PAIR("a callback that loads", "invalid read from stack R10 off=8 size=8", LOAD(DW, R0, FP, -8), LOAD(DW, R0, FP, 8), LOOP(STORE_IMM(DW, FP, -8, 0), X, RETURN)),
	STRICT("private stacks", CHAIN, LOOP(STORE_IMM(DW, FP, -504, 0), RETURN)),
	ACCEPT("stack of a chain", "16 and 496", LOOP(STORE_IMM(DW, FP, -496, 0), RETURN)),
	ACCEPT("passes are not counted", "a callback is verified once",
	       STORE_IMM(DW, FP, -8, 0), MOV_IMM(R1, 1 << 23), LD_FUNC(R2, 7), ADDR(R3, -8), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN,
	       MOV_IMM(R0, 0), EXIT),
	POLICY("the number of passes is an address", "backtracking misuse", MOV_REG(R1, FP), LD_FUNC(R2, 6), MOV_IMM(R3, 0),
	       MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN, RETURN),
	PAIR("nested", "At callback return the register R0 has smin=2 smax=2 should have been in [0, 1]", MOV_IMM(R0, 0), MOV_IMM(R0, 2), MOV_IMM(R1, 3), LD_FUNC(R2, 6), MOV_IMM(R3, 0), MOV_IMM(R4, 0),
	     CALL(BPF_FUNC_loop), RETURN, MOV_IMM(R1, 3), LD_FUNC(R2, 6), MOV_IMM(R3, 0), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop),
	     RETURN, X, EXIT),

	PAIR("value", "R3 min value is outside", LOAD(DW, R0, R3, 8), LOAD(DW, R0, R3, 16), EACH(M_HASH, X, RETURN)),
	PAIR("value is written", "R3 min value is outside", STORE_IMM(DW, R3, 8, 1), STORE_IMM(DW, R3, 16, 1), EACH(M_HASH, X, RETURN)),
	PAIR("value is not null", "R3 min value is outside", LOAD(DW, R0, R3, 0), LOAD(DW, R0, R3, -8), EACH(M_ARRAY, X, RETURN)),
	PAIR("key", "R2 min value is outside", LOAD(DW, R0, R2, 0), LOAD(DW, R0, R2, 8), EACH(M_HASH, X, RETURN)),
	PAIR("key of an array", "R2 min value is outside", LOAD(W, R0, R2, 0), LOAD(DW, R0, R2, 0), EACH(M_ARRAY, X, RETURN)),
	PAIR("key is not written", "write to change key R2 not allowed", LOAD(DW, R0, R2, 0), STORE_IMM(DW, R2, 0, 1), EACH(M_HASH, X, RETURN)),
	PAIR("map is a map", "access beyond struct qspinlock at off 0 size 8", MOV_IMM(R0, 0), LOAD(DW, R0, R1, 512), EACH(M_HASH, X, RETURN)),
	PAIR("delete while walking", "R2 min value is outside", CALL(BPF_FUNC_map_delete_elem), CALL(BPF_FUNC_map_push_elem),
	     EACH(M_HASH, X, RETURN)),
	PAIR("context of each", "invalid write to stack R4 off=0 size=8", STORE_IMM(DW, R4, 0, 1), STORE_IMM(DW, R4, 8, 1), EACH(M_HASH, X, RETURN)),
	PAIR("returns", "At callback return the register R0 has smin=-1 smax=-1 should have been in [0, 1]", MOV_IMM(R0, 1), MOV_IMM(R0, -1), EACH(M_HASH, X, EXIT)),
	PAIR("which maps", "callback function not allowed for map", LD_MAP(R1, M_LRU), LD_MAP(R1, M_QUEUE), STORE_IMM(DW, FP, -8, 0), X, LD_FUNC(R2, 7), ADDR(R3, -8),
	     MOV_IMM(R4, 0), CALL(BPF_FUNC_for_each_map_elem), RETURN, RETURN),
	PAIR("per-CPU array", "R3 min value is outside", LOAD(DW, R0, R3, 8), LOAD(DW, R0, R3, 16), EACH(M_PERCPU, X, RETURN)),
	PAIR("a value kept for later", "R6 invalid mem access 'scalar'", MOV_REG(R0, R6), LOAD(DW, R0, R6, 0), STORE_IMM(DW, FP, -8, 0), LD_MAP(R1, M_HASH),
	     LD_FUNC(R2, 9), ADDR(R3, -8), MOV_IMM(R4, 0), CALL(BPF_FUNC_for_each_map_elem), LOAD(DW, R6, FP, -8), X, RETURN,
	     STORE(DW, R4, 0, R3), RETURN),
};
