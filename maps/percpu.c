/* SPDX-License-Identifier: MIT */
/*
 * Claims on per-CPU slots. Called by the runtime before and after a program
 * that uses per-CPU maps. Freestanding.
 *
 * A slot is a copy of every per-CPU value. Whoever has claimed one is alone with
 * it until it releases it, even when the kernel moves or preempts it meanwhile,
 * or a signal handler runs on top (that one gets another slot). So a program's
 * plain increments lose nothing.
 *
 * The slot of the CPU is claimed without an atomic instruction: "is it free,
 * then it is mine" is a restartable sequence. If the thread is preempted, moved
 * or interrupted by a signal between the first instruction and the store, the
 * kernel sends it to the abort handler and it starts again; so no two threads
 * can be between test and store of the same CPU's slot. That holds only because
 * *nobody* claims a CPU's slot by other means: without rseq, or when the slot is
 * busy, a spare slot is claimed by compare-and-swap.
 *
 * rseq_cs belongs to the application. Three rules:
 *  - It is zero again whenever we return. A pointer left behind to what is no
 *    longer there kills the thread at its next preemption.
 *  - If it is not zero when we come, we leave it alone and take a spare slot.
 *    It is then an application's that clears lazily, or, for whatever reason,
 *    one that we run inside of. Our own interrupted sequence cannot be the cause:
 *    the kernel clears rseq_cs when it delivers a signal.
 *  - The descriptor is made on the stack at run time: it holds absolute
 *    addresses, which position-independent code without relocations cannot.
 * A signal handler may run between the test for zero and our store, and leave
 * its own finished section behind (lazily); overwriting that is harmless, as it
 * would be for any two libraries.
 *
 * An rseq area that the kernel does not know has cpu_id ≥ 2^32 - 2, so it is
 * refused by the bound on ncpus, before anything is stored.
 */
#include "hash_layout.h"

#define RSEQ_SIGNATURE 0x53053053 /* what glibc registers on x86 */
#define RSEQ_RESTARTS 16

/* The start of struct rseq (linux/rseq.h). */
struct rseq_area {
	u32 cpu_id_start, cpu_id;
	u64 rseq_cs;
};

/* struct rseq_cs of linux/rseq.h */
struct rseq_section {
	u32 version, flags;
	u64 start_ip, post_commit_offset, abort_ip;
} __attribute__((aligned(32)));

/* Stores MARK into slot[cpu].owner if that is zero. The slot, or HOOK_NO_SLOT.
 * The store to rseq_cs is the last instruction before the section: were there
 * another between them, a preemption there would disarm it unseen. The bytes in
 * front of the abort handler decode as ud1 with the signature as displacement. */
static u64 claim_home(struct umap_claims *c, u32 ncpus, u64 mark, struct rseq_area *rseq)
{
	struct rseq_section section = {0};
	u64 slot, restarts = RSEQ_RESTARTS;

	__asm__ volatile("	lea 1f(%%rip), %[slot]\n"
			 "	mov %[slot], 8(%[section])\n"
			 "	movq $(2f - 1f), 16(%[section])\n"
			 "	lea 3f(%%rip), %[slot]\n"
			 "	mov %[slot], 24(%[section])\n"
			 "0:	mov %[section], 8(%[rseq])\n"
			 "1:	mov 4(%[rseq]), %k[slot]\n"
			 "	cmp %[ncpus], %k[slot]\n"
			 "	jae 4f\n"
			 "	shl $6, %[slot]\n"
			 "	cmpq $0, (%[claims], %[slot])\n"
			 "	jne 4f\n"
			 "	mov %[mark], (%[claims], %[slot])\n"
			 "2:	shr $6, %[slot]\n"
			 "	jmp 5f\n"
			 "	.byte 0x0f, 0xb9, 0x3d\n"
			 "	.long %c[signature]\n"
			 "3:	dec %[restarts]\n"
			 "	jnz 0b\n"
			 "4:	mov $-1, %[slot]\n"
			 "5:	movq $0, 8(%[rseq])\n"
			 : [slot] "=&r"(slot), [restarts] "+&r"(restarts)
			 : [section] "r"(&section), [rseq] "r"(rseq), [claims] "r"(c), [mark] "r"(mark),
			   [ncpus] "r"(ncpus), [signature] "i"(RSEQ_SIGNATURE)
			 : "memory", "cc");
	return slot;
}

u64 umap_claim(struct umap_claims *c, u32 ncpus, u32 owner, void *rseq)
{
	struct rseq_area *area = rseq;
	u64 mark = (u64)owner + 1, slot;

	if (likely(area && !load(&area->rseq_cs))) {
		slot = claim_home(c, ncpus, mark, area);
		if (likely(slot != HOOK_NO_SLOT))
			return slot;
	}
	for (u32 i = 0; i < UMAP_SPARE_SLOTS; i++) {
		slot = ncpus + (owner + i) % UMAP_SPARE_SLOTS;
		if (!load(&c->slot[slot].owner) && swap(&c->slot[slot].owner, 0, mark))
			return slot;
	}
	return HOOK_NO_SLOT;
}
