/* SPDX-License-Identifier: MIT */
/* Storage of threads. */

#define TASK CALL(BPF_FUNC_get_current_task_btf)
/* r0 = the value or NULL */
#define STORAGE TASK, LD_MAP(R1, M_TASKS), MOV_REG(R2, R0), MOV_IMM(R3, 0), MOV_IMM(R4, 1), CALL(BPF_FUNC_task_storage_get)

static const struct row tasks[] = {
	PAIR("it may not be there", "R0 invalid mem access", JUMP_IMM(BPF_JNE, R0, 0, 1),
	     JUMP_IMM(BPF_JEQ, R0, 0, 1), STORAGE, X, EXIT, STORE_IMM(DW, R0, 8, 1), RETURN),
	PAIR("how large it is", "R0 min value is outside", STORE_IMM(DW, R0, 8, 1), STORE_IMM(DW, R0, 16, 1), STORAGE,
	     JUMP_IMM(BPF_JNE, R0, 0, 1), EXIT, X, RETURN),
	PAIR("what it begins with", "R3 type=scalar expected=", ADD(R3, -16), MOV_IMM(R3, 16), STORE_IMM(DW, FP, -8, 1),
	     STORE_IMM(DW, FP, -16, 1), TASK, LD_MAP(R1, M_TASKS), MOV_REG(R2, R0), MOV_REG(R3, FP), X, MOV_IMM(R4, 1),
	     CALL(BPF_FUNC_task_storage_get), RETURN),
	PAIR("what it begins with is all there", "invalid read from stack", ADD(R3, -16), ADD(R3, -8),
	     STORE_IMM(DW, FP, -8, 1), STORE_IMM(DW, FP, -16, 1), TASK, LD_MAP(R1, M_TASKS), MOV_REG(R2, R0), MOV_REG(R3, FP), X, MOV_IMM(R4, 1),
	     CALL(BPF_FUNC_task_storage_get), RETURN),
	PAIR("whose it is", "R2 type=scalar expected=", MOV_REG(R2, R0), MOV_IMM(R2, 5), TASK, LD_MAP(R1, M_TASKS), X,
	     MOV_IMM(R3, 0), MOV_IMM(R4, 1), CALL(BPF_FUNC_task_storage_get), RETURN),
	PAIR("which map", "cannot pass map_type 1 into func bpf_task_storage_get#156", LD_MAP(R1, M_TASKS), LD_MAP(R1, M_HASH),
	     TASK, X, MOV_REG(R2, R0), MOV_IMM(R3, 0), MOV_IMM(R4, 1), CALL(BPF_FUNC_task_storage_get), RETURN),
	PAIR("deleting", "cannot pass map_type 1 into func bpf_task_storage_delete#157", LD_MAP(R1, M_TASKS),
	     LD_MAP(R1, M_HASH), TASK, X, MOV_REG(R2, R0), CALL(BPF_FUNC_task_storage_delete), RETURN),
	PAIR("no lookup", "cannot pass map_type 29 into func bpf_map_lookup_elem#1", LD_MAP(R1, M_COUNT), LD_MAP(R1, M_TASKS),
	     KEY4, X, CALL(BPF_FUNC_map_lookup_elem), RETURN),
	PAIR("a task is not written", "only read is supported", MOV_REG(R1, R0), STORE_IMM(DW, R0, 8, 1), TASK, X, RETURN),
};

#undef TASK
#undef STORAGE
