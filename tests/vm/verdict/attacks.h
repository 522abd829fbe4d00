/* SPDX-License-Identifier: MIT */
/* Programs written to get past the verifier; each did once. */

static const struct row attacks[] = {
	/* On one way r8 is a copy of r9, on the other it is not; then there are
	 * more copies than one history entry can name. */
	REJECT("more copies than can be named", "unbounded min value",
	       CALL(BPF_FUNC_get_prandom_u32), MOV_REG(R6, R0), CALL(BPF_FUNC_get_prandom_u32), MOV_REG(R9, R0),
	       MOV_REG(R8, R0), JUMP_IMM(BPF_JGT, R6, 100, 2), MOV_REG(R8, R9), JUMP(2), CALL(BPF_FUNC_get_prandom_u32),
	       MOV_REG(R8, R0), JUMP(0), JUMP(0), MOV_IMM(R0, 0), JUMP(0), JUMP(0), JUMP(0), JUMP(0), JUMP(0), JUMP(0),
	       JUMP(0), MOV_REG(R0, R8), MOV_REG(R1, R8), MOV_REG(R2, R8), MOV_REG(R3, R8), MOV_REG(R4, R8),
	       MOV_REG(R5, R8), JUMP_IMM(BPF_JGT, R9, 100, 4), LD_VALUE(R1, M_BSS, 0), ALU64_REG(BPF_ADD, R1, R0),
	       STORE_IMM(B, R1, 0, 1), RETURN),
};
