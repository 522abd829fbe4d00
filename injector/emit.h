/* SPDX-License-Identifier: MIT */
/*
 * A buffer of machine code that will run at a known address. The first failure
 * (no memory, a displacement out of reach) is remembered and later calls do
 * nothing, so that encoders read straight through and check once at the end.
 */
#pragma once
#include "base/types.h"

enum emit_failure { EMIT_OK, EMIT_NOMEM, EMIT_FAR };

struct emit {
	u8 *buf;
	size_t n, cap;
	addr_t addr; /* where buf[0] will run */
	enum emit_failure failed;
};

/* x86 register numbers, as instructions encode them. */
enum reg { AX, CX, DX, BX, SP, BP, SI, DI, R8, R9, R10, R11, R12, R13, R14, R15 };

void emit_deinit(struct emit *e);
void put_bytes(struct emit *e, const void *bytes, size_t n);
#define put_lit(e, ...) put_bytes((e), (const u8[]){ __VA_ARGS__ }, sizeof((const u8[]){ __VA_ARGS__ }))
void put_u32(struct emit *e, u32 v);
void put_u64(struct emit *e, u64 v);

/* The 32-bit displacement to TARGET of an instruction that has TAIL more bytes
 * behind it (an immediate). EMIT_FAR when out of reach. */
void put_rel32(struct emit *e, addr_t target, unsigned tail);

static inline addr_t emit_here(const struct emit *e)
{
	return e->addr + e->n;
}

/* Can an instruction of up to 16 bytes here reach TARGET? */
bool emit_reaches(const struct emit *e, addr_t target);

void put_load(struct emit *e, enum reg dst, enum reg base, s32 off);  /* mov dst, [base+off] */
void put_store(struct emit *e, enum reg base, s32 off, enum reg src); /* mov [base+off], src */
void put_store_imm(struct emit *e, enum reg base, s32 off, s32 imm);  /* mov qword [base+off], imm */
void put_lea(struct emit *e, enum reg dst, enum reg base, s32 off);
void put_mov(struct emit *e, enum reg dst, enum reg src);
void put_inc_mem(struct emit *e, enum reg base, s32 off);             /* inc qword [base+off] */
void put_addr(struct emit *e, enum reg dst, addr_t value);            /* lea or mov, flags kept */
void put_jmp(struct emit *e, addr_t target);
void put_call(struct emit *e, addr_t target);                         /* may use rax when far */

/* Forward jumps: put_jcc_fwd returns a fix-up that emit_fix_here binds. */
size_t put_jcc_fwd(struct emit *e, u8 cc);
void emit_fix_here(struct emit *e, size_t fixup);
