/* SPDX-License-Identifier: MIT */
/* Finding a thread's record; see find_rec.h. A tid of 0 is too young a thread, or a strange one. */
#include "injector/find_rec.h"

void emit_find_rec(struct emit *e, struct find_rec *f, const struct tramp_env *env)
{
	*f = (struct find_rec){};
	if (!env->tid_off) {
		put_lit(e, 0xe9, 0, 0, 0, 0);
		f->slow[f->nslow++] = e->n;
		f->go = e->n;
		return;
	}
	put_lit(e, 0x64, 0x8b, 0x34, 0x25); /* mov %fs:tid_off, %esi */
	put_u32(e, (u32)env->tid_off);
	put_lit(e, 0x89, 0xf7);             /* mov %esi, %edi */
	put_lit(e, 0x81, 0xe7);             /* and $nrecs-1, %edi */
	put_u32(e, env->nrecs - 1);
	put_lit(e, 0xc1, 0xe7, 0x07);       /* shl $7, %edi */
	_Static_assert(sizeof(struct thread_rec) == 1 << 7, "index by shift");
	put_addr(e, DX, env->threads + THREAD_RECS_OFF);
	put_lit(e, 0x48, 0x01, 0xd7);       /* add %rdx, %rdi */
	put_lit(e, 0x85, 0xf6);             /* test %esi, %esi */
	f->slow[f->nslow++] = put_jcc_fwd(e, 4);
	put_lit(e, 0x39, 0x37);             /* cmp %esi, (%rdi) */
	f->slow[f->nslow++] = put_jcc_fwd(e, 5);
	f->go = e->n;
}

void emit_find_rec_slow(struct emit *e, const struct find_rec *f)
{
	for (unsigned i = 0; i < f->nslow; i++)
		emit_fix_here(e, f->slow[i]);
}
