/* SPDX-License-Identifier: MIT */
/*
 * Cells: how a return that cannot be patched is taken over. Where a function is
 * entered, or left by a jump, rsp points at its return address. A cell takes
 * that address, and a call from the cell's stub puts its own in the place:
 *
 *	stub:  call *target     what was about to run goes on there
 *	back:  push ra          the return comes here; the stack is as it was
 *	       push hook
 *	       mov  $0, ra      the cell is free
 *	       jmp  *(%rsp)     code of the hook (injector/takeover.c), then ret
 *
 * So every call has its return and is predicted, and the return address in the
 * slot names the cell: whoever returns, in whatever thread, in whatever order,
 * and in whichever process after a fork, finds the right one. Cells are private
 * memory; their stubs are R-X and lie in front of them, each as far from its
 * cell as all are.
 *
 * A thread takes cells of blocks of its own, the one whose number its slot
 * gives. A cell is taken by a compare-and-swap of `ra` from 0, which needs no
 * lock: only signal handlers of that thread get in between. It is given up by
 * whoever comes back, by a plain store. A slot belongs to who runs at it, so a
 * cell of the same slot that the slot does not lead to is a stale one, left by a
 * longjmp or an exception. When all blocks are given out, those of a thread that
 * has ended go to who needs one, with whatever is in use in them: a coroutine may
 * have moved on to another thread.
 *
 * Chains: a function that was taken over may jump to another that is taken over
 * too. Then the second cell has the same slot, and its `ra` is the first one's
 * way back.
 */
#pragma once
#include "target_abi.h"

struct cell {
	u64 ra;     /* 0: free; else where the call came from */
	u64 slot;   /* where its way back stands; CELL_RESTORED: where it stood */
	u64 target; /* where the stub's call leads; with CELL_RESTORED: rsp where that was done */
	u64 hook;   /* code that runs at the return */
};
_Static_assert(sizeof(struct cell) == 32, "a stub has the size of its cell");

#define CELL_RESTORED 1ull /* in `slot`: an unwinder was given the real address */

#define CELLS 65536u   /* a block for each thread record; how many have stubs, `limit` tells */
#define CELL_BLOCK 64u /* cells of a block; a block covers a kibibyte of stack */
#define CELL_BLOCKS (CELLS / CELL_BLOCK)
#define CELL_BLOCKS_LEAST 256u /* for a process of however few threads */
#define CELL_STUBS_SIZE (CELLS * sizeof(struct cell))

struct cell_area {
	struct cell cell[CELLS]; /* block 0 is nobody's: its first stub is CELL_PLAIN_EXIT */
	u64 head[THREAD_RECS_DEFAULT]; /* address of the first block of a thread record, 0 none */
	u32 used;                /* blocks given out, with the 0th */
	u32 limit;               /* blocks that there are */
	u32 seek;                /* whose record is looked at next for blocks that nobody needs */
	u32 pad;
	u16 next[CELL_BLOCKS];   /* of a block: the thread's next, 0 none */
};
#define CELL_AREA_SIZE ((sizeof(struct cell_area) + 4095) / 4096 * 4096)

#define CELL_BACK_OFF 6u /* of a stub: where the return arrives */

/* The hook of cells whose own is gone: lea 8(%rsp), %rsp; ret. */
#define CELL_PLAIN_EXIT(area) ((addr_t)(area) - CELL_STUBS_SIZE)

static inline addr_t cell_back(addr_t cell)
{
	return cell - CELL_STUBS_SIZE + CELL_BACK_OFF;
}

/* Is WORD the way back into a cell of the area at AREA? */
static inline bool cell_is_back(addr_t area, u64 word)
{
	return word - (area - CELL_STUBS_SIZE) < CELL_STUBS_SIZE && (word - (area - CELL_STUBS_SIZE)) % 32 == CELL_BACK_OFF;
}

/* Its cell. */
static inline addr_t cell_of_back(u64 word)
{
	return word - CELL_BACK_OFF + CELL_STUBS_SIZE;
}
