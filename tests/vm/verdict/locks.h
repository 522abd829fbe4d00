/* SPDX-License-Identifier: MIT */
/* struct bpf_spin_lock in values. The kernel has none for tracing programs, so
 * these are of another type (kernel.c). */

#define LOCK CALL(BPF_FUNC_spin_lock)
#define UNLOCK MOV_REG(R1, R6), CALL(BPF_FUNC_spin_unlock)
/* r6 = a value, r1 too */
#define LOCKED(m) VALUE4(m), MOV_REG(R6, R0), MOV_REG(R1, R6)

static const struct row locks[] = {
	ACCEPT("lock, add, unlock", "the normal case", LOCKED(M_LOCKED), LOCK, LOAD(DW, R2, R6, 8), ADD(R2, 1),
	       STORE(DW, R6, 8, R2), UNLOCK, RETURN),
	ACCEPT("in a hash", "the normal case", LOCKED(M_LOCKED_HASH), LOCK, STORE_IMM(DW, R6, 8, 1), UNLOCK, RETURN),
	ACCEPT("one after the other", "two sections", LOCKED(M_LOCKED), LOCK, UNLOCK, MOV_REG(R1, R6), LOCK, UNLOCK, RETURN),
	PAIR("the one value", "bpf_spin_unlock of different lock", LD_VALUE(R1, M_LOCKED, 0), MOV_REG(R1, R7), VALUE4(M_LOCKED),
	     MOV_REG(R7, R0), LD_VALUE(R1, M_LOCKED, 0), LOCK, X, CALL(BPF_FUNC_spin_unlock), RETURN),
	PAIR("which value", "bpf_spin_unlock of different lock", MOV_REG(R1, R6), MOV_REG(R1, R7), VALUE4(M_LOCKED),
	     MOV_REG(R7, R0), LOCKED(M_LOCKED), LOCK, X, CALL(BPF_FUNC_spin_unlock), RETURN),
	PAIR("what is locked", "doesn't point to 'struct bpf_spin_lock'", ADD(R1, 0), ADD(R1, 8), LOCKED(M_LOCKED), X, LOCK,
	     UNLOCK, RETURN),
	PAIR("a map that has one", "has to have BTF in order to use bpf_spin_lock", LD_MAP(R1, M_LOCKED_HASH), LD_MAP(R1, M_COUNT), KEY4, X,
	     CALL(BPF_FUNC_map_lookup_elem), JUMP_IMM(BPF_JNE, R0, 0, 1), EXIT, MOV_REG(R6, R0), MOV_REG(R1, R0), LOCK, UNLOCK,
	     RETURN),
	PAIR("a value that may not be there", "expected=", JUMP_IMM(BPF_JNE, R0, 0, 1), JUMP_IMM(BPF_JEQ, R0, 0, 1),
	     LOOKUP4(M_LOCKED_HASH), X, EXIT, MOV_REG(R6, R0), MOV_REG(R1, R0), LOCK, UNLOCK, RETURN),
	PAIR("one at a time", "function calls are not allowed while holding a lock", CALL(BPF_FUNC_spin_unlock),
	     CALL(BPF_FUNC_spin_lock), LOCKED(M_LOCKED), LOCK, MOV_REG(R1, R6), X, RETURN),
	PAIR("held on every path", "BPF_EXIT instruction", JUMP_IMM(BPF_JEQ, R7, 0, 0), JUMP_IMM(BPF_JEQ, R7, 0, 2), UNKNOWN(R7),
	     LOCKED(M_LOCKED), LOCK, X, UNLOCK, RETURN),
	PAIR("held at the end", "BPF_EXIT instruction", CALL(BPF_FUNC_spin_unlock), MOV_IMM(R0, 0), LOCKED(M_LOCKED), LOCK,
	     MOV_REG(R1, R6), X, RETURN),
	PAIR("given back without", "bpf_spin_unlock without taking a lock", CALL(BPF_FUNC_spin_lock), MOV_IMM(R2, 0),
	     LOCKED(M_LOCKED), X, UNLOCK, RETURN),
	PAIR("no helper meanwhile", "function calls are not allowed while holding a lock", MOV_IMM(R0, 0),
	     CALL(BPF_FUNC_ktime_get_ns), LOCKED(M_LOCKED), LOCK, X, UNLOCK, RETURN),
	PAIR("no lookup meanwhile", "function calls are not allowed while holding a lock", MOV_IMM(R0, 0),
	     CALL(BPF_FUNC_map_lookup_elem), LOCKED(M_LOCKED), LOCK, KEY4, LD_MAP(R1, M_COUNT), X, UNLOCK, RETURN),
	PAIR("it is no memory", "bpf_spin_lock cannot be accessed directly", LOAD(W, R0, R6, 8), LOAD(W, R0, R6, 0),
	     LOCKED(M_LOCKED), X, RETURN),
	PAIR("nor to be written", "bpf_spin_lock cannot be accessed directly", STORE_IMM(DW, R6, 8, 0),
	     STORE_IMM(DW, R6, 0, 0), LOCKED(M_LOCKED), X, RETURN),
	PAIR("nor by a helper", "bpf_spin_lock cannot be accessed directly", ADD(R1, 8), ADD(R1, 0), LOCKED(M_LOCKED), X,
	     MOV_IMM(R2, 8), CALL(BPF_FUNC_get_current_comm), RETURN),
	PAIR("a branch with another value", "bpf_spin_unlock of different lock", MOV_IMM(R8, 0), MOV_REG(R6, R7),
	     VALUE4(M_LOCKED_HASH), MOV_REG(R7, R0), LOCKED(M_LOCKED_HASH), LOCK, X, UNLOCK, RETURN),
	{ .name = "with a record in hand", .words = "", .verdict = VERDICT_ACCEPT, .strict = ENDS_HERE,
	  .insns = { LOCKED(M_LOCKED), LD_MAP(R1, M_RINGBUF), MOV_IMM(R2, 8), MOV_IMM(R3, 0), CALL(BPF_FUNC_ringbuf_reserve),
		     JUMP_IMM(BPF_JNE, R0, 0, 1), EXIT, MOV_REG(R7, R0), MOV_REG(R1, R6), LOCK, UNLOCK, MOV_REG(R1, R7),
		     MOV_IMM(R2, 0), CALL(BPF_FUNC_ringbuf_submit), RETURN } },
	ACCEPT("in bpf_loop", "a callback takes and gives back", LOCKED(M_LOCKED), STORE(DW, FP, -8, R6), MOV_IMM(R1, 10),
	       LD_FUNC(R2, 7), ADDR(R3, -8), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN, LOAD(DW, R6, R2, 0),
	       MOV_REG(R1, R6), LOCK, UNLOCK, RETURN),
	PAIR("held over a callback's end", "function calls are not allowed while holding a lock", CALL(BPF_FUNC_spin_unlock), MOV_IMM(R0, 0), LOCKED(M_LOCKED),
	     STORE(DW, FP, -8, R6), MOV_IMM(R1, 10), LD_FUNC(R2, 7), ADDR(R3, -8), MOV_IMM(R4, 0), CALL(BPF_FUNC_loop), RETURN,
	     LOAD(DW, R6, R2, 0), MOV_REG(R1, R6), LOCK, MOV_REG(R1, R6), X, RETURN),
	ACCEPT("a static function meanwhile", "the kernel goes into it", LOCKED(M_LOCKED), LOCK, MOV_REG(R1, R6),
	       CALL_LOCAL(4), UNLOCK, RETURN, STORE_IMM(DW, R1, 8, 1), RETURN),
	ACCEPT("a static function gives it back", "the kernel goes into it", LOCKED(M_LOCKED), LOCK, MOV_REG(R1, R6),
	       CALL_LOCAL(2), RETURN, CALL(BPF_FUNC_spin_unlock), RETURN),
};

#undef LOCK
#undef UNLOCK
#undef LOCKED
