/* SPDX-License-Identifier: MIT */
/* Code that finds the calling thread's record (base/target_abi.h); inside the injector only. */
#pragma once
#include "injector/emit.h"
#include "injector/trampoline.h"

/* What it leaves open until the out-of-line part is emitted. */
struct find_rec {
	size_t slow[2]; /* jumps taken where the record is not in its place */
	unsigned nslow;
	size_t go;      /* where the slow path comes back to, with the record in rdi */
};

/* The record into rdi; changes rsi, rdx and the flags. */
void emit_find_rec(struct emit *e, struct find_rec *f, const struct tramp_env *env);
/* Here begins the slow path. */
void emit_find_rec_slow(struct emit *e, const struct find_rec *f);
