/* SPDX-License-Identifier: MIT */
/*
 * Cells (base/cells.h) where the trampolines' quick way does not do: the first
 * use by a thread, a place that is taken, cells left by longjmp; and the guards,
 * which run at the entry of functions that look at return addresses, and put the
 * real ones back before those look:
 *
 *	unwinders           all slots of this stack; an unwinder asks the dynamic
 *	                    linker about its own code before it reads the first
 *	                    return address, so whoever it is it passes a guard
 *	what saves contexts the one slot that it is going to copy
 *
 * Restored slots are armed again where the unwinding has ended. Memory of
 * stacks is touched directly where it is known to be there, else by the kernel's
 * leave (memory.c).
 */
#include <asm/unistd.h>

#include "base/cells.h"
#include "vm/runtime/rt.h"

#define FAR_STACK (8ull << 20) /* how far from rsp the frames of an unknown stack are looked for */
#define LEARN_MAX 64u /* pages between rsp and the thread pointer that are looked at */
#define LEARN_MORE 2048u /* pages that a stack which is known can have grown by */
#define LEARN_STEP 16u
#define HEIR_ASKS 2u /* records with blocks that are asked whether their thread has ended, in one search */

static inline u64 back_of(const struct cell *c)
{
	return cell_back((addr_t)c);
}

static inline struct cell *cell_of(u64 back)
{
	return (struct cell *)cell_of_back(back);
}

/* From 0 to RA, in one instruction: no handler comes between. No other thread
 * takes this cell. */
static inline bool claim(struct cell *c, u64 ra)
{
	u64 was = 0;

	__asm__ volatile("cmpxchgq %2, %1" : "+a"(was), "+m"(c->ra) : "r"(ra) : "cc", "memory");
	return !was;
}

static inline bool is_free(const struct cell *c)
{
	return !__atomic_load_n(&c->ra, __ATOMIC_RELAXED);
}

/* Does WORD, found in a slot, lead back through C, perhaps through others first? */
static bool leads_through(const struct cell_area *a, u64 word, const struct cell *c)
{
	for (u32 i = 0; i < CELLS && cell_is_back((addr_t)a, word); i++) {
		if (word == back_of(c))
			return true;
		word = cell_of(word)->ra;
	}
	return false;
}

/* Where WORD leads in the end. */
static u64 real_address(const struct cell_area *a, u64 word)
{
	for (u32 i = 0; i < CELLS && cell_is_back((addr_t)a, word); i++)
		word = cell_of(word)->ra;
	return word;
}

/* C and what it leads to are lost: nobody comes back through them. */
static void give_up(const struct cell_area *a, struct cell *c, struct thread_rec *rec)
{
	for (u32 i = 0; i < CELLS; i++) {
		u64 ra = c->ra;

		c->slot = 0;
		__atomic_store_n(&c->ra, 0, __ATOMIC_RELEASE);
		rec->missed++;
		if (!cell_is_back((addr_t)a, ra))
			return;
		c = cell_of(ra);
	}
}

struct iovec {
	u64 base, len;
};

/* Can each page of [LO, HI) be read? From above: what ends a stack is below it. */
static bool all_readable(const struct target_env *env, u64 lo, u64 hi)
{
	struct iovec there[LEARN_STEP], here;
	u8 bytes[LEARN_STEP];

	while (lo < hi) {
		u64 n = 0;

		for (; n < LEARN_STEP && lo < hi; n++) {
			hi = (hi - 1) & ~(u64)(PAGE - 1);
			there[n] = (struct iovec){ hi, 1 };
		}
		here = (struct iovec){ (u64)bytes, n };
		if (rt_call(env, TARGET_CALL_VM_READ, __NR_process_vm_readv, rt_tgid(env), (u64)&here, 1, (u64)there, n,
			    0) != (long)n)
			return false;
	}
	return true;
}

/* A thread that was not there at the attach has no recorded stack. Its libc keeps
 * its descriptor at the upper end of it, so what is readable from SP up to there
 * without a hole, which a guard page would be, is this thread's own stack; and so
 * is what is readable down from what is known of it. */
void rt_learn_stack(const struct target_env *env, struct thread_rec *rec, u64 sp)
{
	u64 page = sp & ~(u64)(PAGE - 1), hi = rec->stack_hi;
	u64 above = hi ? rec->stack_lo : rt_thread_pointer();

	if (sp >= above || above - page > (hi ? LEARN_MORE : LEARN_MAX) * PAGE || !all_readable(env, page, above))
		return;
	__atomic_store_n(&rec->stack_lo, page, __ATOMIC_RELEASE);
	if (!hi)
		__atomic_store_n(&rec->stack_hi, above & ~(u64)7, __ATOMIC_RELEASE);
}

/*
 * Taking a cell.
 */

static struct cell *block_at(const struct cell_area *a, u32 i)
{
	return (struct cell *)&a->cell[i % CELL_BLOCKS * CELL_BLOCK];
}

static u32 block_no(const struct cell_area *a, const struct cell *block)
{
	return (u32)(block - a->cell) / CELL_BLOCK % CELL_BLOCKS;
}

static struct cell *next_block(const struct cell_area *a, const struct cell *block)
{
	u16 next = a->next[block_no(a, block)];

	return next ? block_at(a, next) : NULL;
}

/* The blocks from FIRST on in front of the others of HEAD. */
static struct cell *prepend(struct cell_area *a, u64 *head, struct cell *first)
{
	struct cell *last = first, *next;
	u64 others = __atomic_load_n(head, __ATOMIC_RELAXED);

	for (u32 i = 0; i < CELL_BLOCKS && (next = next_block(a, last)); i++)
		last = next;
	do
		a->next[block_no(a, last)] = others ? (u16)block_no(a, (struct cell *)others) : 0;
	while (!__atomic_compare_exchange_n(head, &others, (u64)first, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return first;
}

/* A block that nobody has. */
static struct cell *add_block(struct cell_area *a, u64 *head)
{
	u32 no = __atomic_load_n(&a->used, __ATOMIC_RELAXED);

	do {
		if (!no || no >= a->limit || no >= CELL_BLOCKS)
			return NULL;
	} while (!__atomic_compare_exchange_n(&a->used, &no, no + 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return prepend(a, head, block_at(a, no));
}

/* Those of a thread that has ended. Its record is nobody's while they are taken: its
 * next owner would take cells of them as if they were his alone. */
static struct cell *inherit_blocks(const struct target_env *env, struct cell_area *a, u64 *head)
{
	u32 asked = 0;

	for (u32 n = 0; n < THREAD_RECS_DEFAULT && asked < HEIR_ASKS; n++) {
		u32 i = __atomic_fetch_add(&a->seek, 1, __ATOMIC_RELAXED) % THREAD_RECS_DEFAULT;
		struct thread_rec *rec = (struct thread_rec *)(env->threads + THREAD_RECS_OFF) + i;
		u64 first;

		if (i >= env->nrecs || &a->head[i] == head || !__atomic_load_n(&a->head[i], __ATOMIC_RELAXED))
			continue;
		asked++;
		if (!rt_rec_seal(env, rec))
			continue;
		first = __atomic_exchange_n(&a->head[i], 0, __ATOMIC_RELAXED);
		rt_rec_unseal(rec, 0);
		if (first)
			return prepend(a, head, (struct cell *)first);
	}
	return NULL;
}

static struct cell *take_any(struct cell *block, u64 ra)
{
	for (u32 i = 0; i < CELL_BLOCK; i++)
		if (is_free(&block[i]) && claim(&block[i], ra))
			return &block[i];
	return NULL;
}

/* Cells below SLOT on the thread's own stack to which their slot does not lead:
 * a longjmp or an exception went over them. */
static bool reclaim(const struct cell_area *a, struct cell *block, u64 slot, struct thread_rec *rec)
{
	u64 lo = rec->stack_lo, hi = rec->stack_hi;
	bool any = false;

	for (u32 i = 0; i < CELL_BLOCK && slot >= lo && slot < hi; i++) {
		struct cell *c = &block[i];
		u64 at = c->slot & ~CELL_RESTORED;

		if (is_free(c) || at < lo || at >= slot || at % 8 || leads_through(a, *(const u64 *)at, c))
			continue;
		c->slot = 0;
		__atomic_store_n(&c->ra, 0, __ATOMIC_RELEASE);
		rec->missed++;
		any = true;
	}
	return any;
}

static struct cell *take(const struct target_env *env, struct cell_area *a, u64 *head, u64 slot, u64 ra,
			 struct thread_rec *rec)
{
	u32 at = (u32)(slot >> 4) % CELL_BLOCK, blocks = 0;
	struct cell *c;

	for (struct cell *b = (struct cell *)*head; b && blocks < CELL_BLOCKS; b = next_block(a, b), blocks++) {
		c = &b[at];
		if (is_free(c) && claim(c, ra))
			return c;
		if ((c->slot & ~CELL_RESTORED) == slot && !leads_through(a, ra, c)) {
			rec->missed++; /* its frame is gone: ours stands in its place */
			c->ra = ra;
			return c;
		}
		c = blocks < 2 ? take_any(b, ra) : NULL;
		if (c)
			return c;
	}
	c = add_block(a, head);
	if (!c)
		c = inherit_blocks(env, a, head);
	if (c && claim(&c[at], ra))
		return &c[at];
	blocks = 0;
	for (struct cell *b = (struct cell *)*head; b && blocks < CELL_BLOCKS; b = next_block(a, b), blocks++) {
		reclaim(a, b, slot, rec);
		c = take_any(b, ra);
		if (c)
			return c;
	}
	return NULL;
}

static u64 rec_index(const struct target_env *env, const struct thread_rec *rec)
{
	return ((u64)rec - env->threads - THREAD_RECS_OFF) / sizeof(*rec);
}

u64 rt_cell_take(const struct target_env *env, u64 slot, u64 ra)
{
	struct cell_area *a = (struct cell_area *)env->cells;
	struct thread_rec *rec = thread_rec_slow(env);
	u64 i = rec_index(env, rec);
	struct cell *c;

	/* The overflow record may be that of several threads at once. */
	if (i >= env->nrecs || i >= THREAD_RECS_DEFAULT) {
		__atomic_fetch_add(&((struct thread_table *)env->threads)->missed, 1, __ATOMIC_RELAXED);
		return 0;
	}
	rt_learn_stack(env, rec, slot);
	c = take(env, a, &a->head[i], slot, ra, rec);
	if (!c)
		rec->missed++;
	return (u64)c;
}

/*
 * The guards.
 */

/* The stack that a guard runs on, from its stack pointer up. */
struct stack {
	const struct cell_area *area;
	struct hook_frame *frame;
	struct thread_rec *rec;
	u64 sp, hi;
	bool known;    /* [sp, hi) is this stack, and there */
	const struct cell *own; /* the thread's first block */
};

static void find_stack(u64 *ctx, struct hook_frame *frame, struct stack *ret)
{
	const struct target_regs *regs = (const struct target_regs *)ctx;
	const struct target_env *env = rt_env(frame);
	struct thread_rec *rec = (struct thread_rec *)frame->rec;
	u64 i = rec_index(env, rec);

	*ret = (struct stack){ .area = (const struct cell_area *)env->cells, .frame = frame, .rec = rec,
			       .sp = regs->sp, .hi = regs->sp + FAR_STACK };
	rt_learn_stack(env, rec, ret->sp);
	if (ret->sp >= rec->stack_lo && ret->sp < rec->stack_hi)
		ret->hi = rec->stack_hi;
	else if (ret->sp >= env->main_stack_lo && ret->sp < env->main_stack_hi)
		ret->hi = env->main_stack_hi;
	else if (i < THREAD_RECS_DEFAULT)
		ret->own = (const struct cell *)ret->area->head[i];
	ret->known = ret->hi != ret->sp + FAR_STACK;
}

static bool read_slot(const struct stack *s, u64 slot, u64 *ret)
{
	if (s->known && slot >= s->sp && slot < s->hi) {
		*ret = __atomic_load_n((const u64 *)slot, __ATOMIC_RELAXED);
		return true;
	}
	return !rt_read(ret, slot, sizeof(*ret), s->frame);
}

/* Only if the slot holds WAS still: on a stack that is not ours somebody may run
 * meanwhile. He who has read WAS already finds the cell as it is. */
static void write_slot(const struct stack *s, u64 slot, u64 was, u64 now)
{
	if (s->known && slot >= s->sp && slot < s->hi)
		__atomic_compare_exchange_n((u64 *)slot, &was, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	else
		rt_write(slot, &now, sizeof(now), s->frame);
}

/* May SLOT be one of a frame that an unwinder on S will walk over? On a stack of
 * unknown extent (a coroutine's, a signal's, one of a thread that is new) all that
 * this thread took over may, and whatever lies above and near enough. */
static bool concerns(const struct stack *s, const struct cell *c, u64 slot)
{
	if (slot % 8)
		return false;
	if (slot >= s->sp && slot < s->hi)
		return true;
	if (s->known)
		return false;
	for (const struct cell *b = s->own; b; b = next_block(s->area, b))
		if (c >= b && c < b + CELL_BLOCK)
			return true;
	return false;
}

static void restore(const struct stack *s, struct cell *c)
{
	u64 slot = c->slot, word;

	if (is_free(c) || slot & CELL_RESTORED || !concerns(s, c, slot) || !read_slot(s, slot, &word) ||
	    word != back_of(c))
		return;
	write_slot(s, slot, word, real_address(s->area, word));
	/* The target has served: the cell keeps who restored it. */
	__atomic_store_n(&c->target, s->sp, __ATOMIC_RELEASE);
	__atomic_store_n(&c->slot, slot | CELL_RESTORED, __ATOMIC_RELEASE);
}

typedef void cell_fn(const struct stack *s, struct cell *c);

static void for_all(const struct stack *s, cell_fn *fn)
{
	u32 used = s->area->used;

	for (u32 b = 1; b < used && b < CELL_BLOCKS; b++)
		for (u32 i = 0; i < CELL_BLOCK; i++)
			fn(s, &block_at(s->area, b)[i]);
}

u64 rt_guard_unwind(u64 *ctx, u64 zero, struct hook_frame *frame)
{
	struct stack s;

	find_stack(ctx, frame, &s);
	for_all(&s, restore);
	return 0;
}

/* The unwinding went over what lies below the stack pointer; what lies above goes
 * on. An unwinder runs below the frame that it leads to, so what was restored from
 * above is the business of another one, which a signal handler interrupted that has
 * now caught something itself. */
static void rearm(const struct stack *s, struct cell *c)
{
	u64 slot = c->slot & ~CELL_RESTORED, word;

	if (is_free(c) || !(c->slot & CELL_RESTORED) || !s->known || c->target > s->sp)
		return;
	if (slot > s->sp && slot < s->hi) {
		if (!read_slot(s, slot, &word))
			return;
		if (word == back_of(c)) {
			c->slot = slot; /* it could not be taken out */
		} else if (word == real_address(s->area, c->ra)) {
			c->slot = slot;
			write_slot(s, slot, word, back_of(c));
		} else {
			give_up(s->area, c, s->rec);
		}
	} else if (slot <= s->sp && slot >= s->rec->stack_lo && s->sp < s->rec->stack_hi) {
		give_up(s->area, c, s->rec);
	}
}

u64 rt_guard_rearm(u64 *ctx, u64 zero, struct hook_frame *frame)
{
	struct stack s;

	find_stack(ctx, frame, &s);
	for_all(&s, rearm);
	return 0;
}

/* What returns twice, or copies its return address, gets the real one. */
u64 rt_guard_top(u64 *ctx, u64 zero, struct hook_frame *frame)
{
	struct stack s;
	u64 *slot, word;

	find_stack(ctx, frame, &s);
	slot = (u64 *)s.sp;
	word = *slot;
	if (!cell_is_back((addr_t)s.area, word))
		return 0;
	*slot = real_address(s.area, word);
	give_up(s.area, cell_of(word), s.rec);
	return 0;
}
